"""What a SQLite file of a journal must be, and how one of an older format becomes one of this.

A format is a list of statements, of which SQLite keeps the text. So "as we make it" can be compared word by word: a
trigger, a view or an index that somebody planted is found before anything is written or believed.

    format 1   the log alone, its records without their runs
    format 2   the log alone; the ledger was a file beside it, `ledger.db`
    format 3   one file for both, so that they are written in one transaction
    format 4   contents and checkpoints, too
    format 5   what a service has to remember: its keys, its orders, whom it tells; and parts of the log's tree
    format 6   contents are compressed in another way
    format 7   older records are in packs
"""

from __future__ import annotations

import contextlib
import functools
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from belljar.journal.tables import BALANCES, BOXES, CALLS, LIMITED, LIMITS, PACK_RECORDS, RESERVATIONS, RUNS, columns

__all__ = [
    "CONTENTS_SINCE",
    "LEDGER_SINCE",
    "OLD_LEDGER",
    "PACKS_SINCE",
    "SCHEMA",
    "TAIL_BYTES_MAX",
    "Schema",
    "SqliteError",
    "copy_ledger",
    "is_blank",
    "is_damage",
    "tail_of",
]

# The second comes of a damaged file: SQLite quotes it in its message, which then is no text.
SqliteError: Final = (sqlite3.Error, UnicodeDecodeError)
_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_damage(error: Exception) -> bool:
    """Whether an error of SQLite's says that the file is damaged, or none of its own."""
    return isinstance(error, UnicodeDecodeError) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


@dataclass(frozen=True)
class Schema:
    """What a database must be: `application_id` marks the file as ours, `statements` create it when it is empty.

    A schema that replaced another names it as `older`, and `migrate` turns such a database into one of this schema.
    """

    application_id: int
    version: int
    statements: tuple[str, ...]
    older: Schema | None = None
    migrate: Callable[[sqlite3.Connection], None] | None = None

    @functools.cached_property
    def entries(self) -> list[tuple[object, ...]]:
        """What `sqlite_master` holds after `statements` and nothing else."""
        with contextlib.closing(sqlite3.connect(":memory:")) as db:
            for statement in self.statements:
                db.execute(statement)
            return _entries(db)

    def foreign(self, db: sqlite3.Connection, where: str = "main") -> str | None:
        """How the database differs from this schema, in a few words; None if it does not.

        `where` is the name under which it is attached.

        Reads SQLite's own table each time: a trigger that another process plants works from its next statement on.
        """
        for pragma, ours in (("application_id", self.application_id), ("user_version", self.version)):
            if (found := db.execute(f"PRAGMA {where}.{pragma}").fetchone()[0]) != ours:
                return f"its {pragma} is {found}, not {ours}"
        entries = _entries(db, where)
        if entries == self.entries:
            return None
        odd = [entry for entry in entries if entry not in self.entries]
        kind, name = (odd or [entry for entry in self.entries if entry not in entries])[0][:2]
        return f"the {kind} {str(name)[:80]!a} in it is {'not ours' if odd else 'gone'}"

    def of(self, db: sqlite3.Connection) -> Schema | None:
        """This schema, or the older one that the database says it has; None if it is unknown, such as a newer one."""
        version = db.execute("PRAGMA user_version").fetchone()[0]
        found: Schema | None = self
        while found is not None and found.version != version:
            found = found.older
        return found

    def unknown(self, db: sqlite3.Connection) -> str | None:
        """Why this code cannot use the database's format, and what to do; None if it can."""
        if self.of(db) is not None:
            return None
        version = db.execute("PRAGMA user_version").fetchone()[0]
        whose, remedy = ("a newer", "update Belljar") if version > self.version else ("an older", "use that one")
        return (
            f"its format is {version}, but the latest known here is {self.version}; {whose} Belljar made it: "
            f"{remedy}, or choose another state folder"
        )

    def upgrade(self, db: sqlite3.Connection) -> str | None:
        """Migrate an older database, in the caller's transaction. Returns how it still differs; then roll back.

        Raises:
            sqlite3.Error: it cannot be migrated; roll back.
        """
        if self.of(db) is self:
            return self.foreign(db)
        if self.older is None or self.migrate is None or (odd := self.older.upgrade(db)) is not None:
            return odd if self.older is not None else "its version is not known"
        self.migrate(db)
        db.execute(f"PRAGMA user_version={self.version:d}")
        return self.foreign(db)

    def has_table(self, db: sqlite3.Connection, name: str) -> bool:
        """Whether the table is exactly as we create it: something else of that name may be a view that never ends."""
        ours = [entry for entry in self.entries if entry[:2] == ("table", name)]
        return [entry for entry in _entries(db) if entry[1] == name] == ours


def _entries(db: sqlite3.Connection, where: str = "main") -> list[tuple[object, ...]]:
    select = f"SELECT type, name, tbl_name, sql FROM {where}.sqlite_master ORDER BY type, name LIMIT 100"  # noqa: S608
    return db.execute(select).fetchall()


def is_blank(db: sqlite3.Connection) -> bool:
    """Whether nothing was ever written to it: an empty file, such as a start on a full disk leaves."""
    marks = [db.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in ("application_id", "user_version")]
    return marks == [0, 0] and not _entries(db)


# -- the log -----------------------------------------------------------------------------------------------------------

# How every record ends: with its event and its run.
_TAIL: Final = re.compile(
    rb'"event":"([a-z_.]+)","prev":"[0-9a-f]{64}","run":"([^"]{1,128})","seq":\d+,"time_ns":\d+,"v":\d+}\Z'
)
TAIL_BYTES_MAX: Final = 512


def tail_of(body: bytes) -> tuple[str, str] | None:
    """The event and the run that a record says in its end; None of what does not end as a record does."""
    match = _TAIL.search(body[-TAIL_BYTES_MAX:])
    return None if match is None else (match[1].decode(), match[2].decode("utf-8", "replace"))


# Against our own mistakes. Anybody who can write the file can drop them; that is what the chain is for.
_TRIGGERS: Final = (
    """CREATE TRIGGER records_are_not_changed BEFORE UPDATE ON records
            BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END""",
    """CREATE TRIGGER records_are_not_deleted BEFORE DELETE ON records
            BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END""",
)
_LOG_1: Final = Schema(
    application_id=0x424A4155,  # "BJAU"
    version=1,
    statements=(
        """CREATE TABLE records (
            seq INTEGER PRIMARY KEY CHECK (seq >= 1),
            body BLOB NOT NULL CHECK (typeof(body) = 'blob'),
            hash BLOB NOT NULL CHECK (typeof(hash) = 'blob' AND length(hash) = 32))""",
        *_TRIGGERS,
    ),
)


def _add_runs(db: sqlite3.Connection) -> None:
    """Copy all records into a table that has their runs. Bodies and hashes stay as they are, whatever they say."""
    db.create_function("run_of", 1, _run_of)
    for kind, name in db.execute("SELECT type, name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        db.execute(f"DROP {kind} {name}")
    db.execute("ALTER TABLE records RENAME TO records_without_runs")
    for statement in _LOG_2.statements:
        db.execute(statement)
    db.execute("INSERT INTO records SELECT seq, run_of(body), body, hash FROM records_without_runs ORDER BY seq")
    db.execute("DROP TABLE records_without_runs")
    db.create_function("run_of", 1, None)


def _run_of(body: bytes) -> str:
    """Empty for a record that was tampered with: `verify` will report it."""
    tail = tail_of(body)
    return "" if tail is None else tail[1]


_LOG_2: Final = Schema(
    application_id=_LOG_1.application_id,
    version=2,
    statements=(
        # `run` repeats what the body says, so that one run is found without reading all; `verify` compares the two.
        """CREATE TABLE records (
            seq INTEGER PRIMARY KEY CHECK (seq >= 1),
            run TEXT NOT NULL CHECK (typeof(run) = 'text'),
            body BLOB NOT NULL CHECK (typeof(body) = 'blob'),
            hash BLOB NOT NULL CHECK (typeof(hash) = 'blob' AND length(hash) = 32))""",
        "CREATE INDEX records_of_run ON records (run)",
        *_TRIGGERS,
    ),
    older=_LOG_1,
    migrate=_add_runs,
)

# -- the ledger --------------------------------------------------------------------------------------------------------


def _list(*names: str) -> str:
    return ", ".join(names)


# typeof: a sum beyond 64 bits would silently become a float
_SUM: Final = "{0} INTEGER NOT NULL DEFAULT 0 CHECK ({0} >= 0 AND typeof({0}) = 'integer')"
_WHEN_2: Final = "day TEXT NOT NULL"
_WHEN: Final = "made_at TEXT NOT NULL, short TEXT NOT NULL"
_DIMENSIONS_2: Final = ("calls", "input_tokens", "output_tokens", "cost_nanousd", "read_bytes")
_NEW: Final = tuple(name for name in LIMITED if name not in _DIMENSIONS_2)


def _ledger(when: str, limited: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """The statements of the ledger, with the dimensions that have limits and those of the first book.

    `when` are the columns that say when a reservation was made.
    """
    return (
        f"""CREATE TABLE limits (
            account TEXT NOT NULL, period TEXT NOT NULL, {_list(*columns("{} INTEGER", limited))},
            PRIMARY KEY (account, period)) WITHOUT ROWID""",
        """CREATE TABLE runs (
            run TEXT PRIMARY KEY, tenant TEXT NOT NULL, owner TEXT NOT NULL,
            run_limits BLOB NOT NULL, tenant_limits BLOB NOT NULL, is_open INTEGER NOT NULL) WITHOUT ROWID""",
        "CREATE INDEX open_runs ON runs (owner) WHERE is_open = 1",
        *_book(when, names),
    )


def _book(when: str, names: tuple[str, ...], prefix: str = "") -> tuple[str, ...]:
    return (
        f"""CREATE TABLE {prefix}reservations (
            id TEXT PRIMARY KEY, run TEXT NOT NULL, {when},
            state TEXT NOT NULL CHECK (state IN ('held', 'dispatched', 'settled', 'released')),
            {_list(*columns("{} INTEGER NOT NULL", names), *columns("actual_{} INTEGER", names))}) WITHOUT ROWID""",
        f"CREATE INDEX open_{prefix}reservations ON {prefix}reservations (run) WHERE state IN ('held', 'dispatched')",
        f"""CREATE TABLE {prefix}balances (
            account TEXT NOT NULL, key TEXT NOT NULL,
            {_list(*columns(_SUM, columns("used_{}", names) + columns("held_{}", names)))},
            PRIMARY KEY (account, key)) WITHOUT ROWID""",
    )


_LIMITED_3: Final = tuple(name for name in LIMITED if name != "depth")
_LEDGER_3: Final = (*_ledger(_WHEN, _LIMITED_3, CALLS.dimensions), *_book(_WHEN, BOXES.dimensions, "box_"))
_LEDGER: Final = (*_ledger(_WHEN, LIMITED, CALLS.dimensions), *_book(_WHEN, BOXES.dimensions, "box_"))
# The format of the log since which the ledger is in its file; before, it was a file of its own.
LEDGER_SINCE: Final = 3
# And the one since which there are contents and checkpoints.
CONTENTS_SINCE: Final = 4
OLD_LEDGER: Final = Schema(
    application_id=0x424A4C47, version=2, statements=_ledger(_WHEN_2, _DIMENSIONS_2, _DIMENSIONS_2)
)  # "BJLG"


def copy_ledger(db: sqlite3.Connection) -> None:
    """Take over all rows of an older ledger, which is attached as `old`, into tables that are empty.

    Of its reservations it knows only the day, and none stands on a page of a minute or an hour. Of the dimensions that
    are new, nothing was limited or used.
    """
    older = {"made_at": "day", "short": "''"}
    older |= dict.fromkeys(columns("used_{}", _NEW) + columns("held_{}", _NEW), "0")
    older |= dict.fromkeys(columns("actual_{}", _NEW), "0 * actual_calls")  # NULL, too, where that is
    for table in (LIMITS, RUNS, RESERVATIONS, BALANCES):
        older |= dict.fromkeys(_NEW, "NULL" if table is LIMITS else "0")
        names = _list(*table.columns)
        values = _list(*(older.get(name, name) for name in table.columns))
        db.execute(f"INSERT INTO main.{table.name} ({names}) SELECT {values} FROM old.{table.name}")  # noqa: S608


def _adding(statements: tuple[str, ...]) -> Callable[[sqlite3.Connection], None]:
    def migrate(db: sqlite3.Connection) -> None:
        for statement in statements:
            db.execute(statement)

    return migrate


_JOURNAL_3: Final = Schema(
    application_id=_LOG_2.application_id,
    version=3,
    statements=(*_LOG_2.statements, *_LEDGER_3),
    older=_LOG_2,
    migrate=_adding(_LEDGER_3),
)

# -- contents and checkpoints ------------------------------------------------------------------------------------------

_PROOFS: Final = (
    """CREATE TABLE content_keys (
            run TEXT PRIMARY KEY, host_key BLOB NOT NULL, wrapped BLOB, until INTEGER NOT NULL, gone TEXT)
            WITHOUT ROWID""",
    # Large bodies fill their pages better by rowid than by a key.
    """CREATE TABLE contents (
            run TEXT NOT NULL, digest BLOB NOT NULL, part INTEGER NOT NULL, body BLOB NOT NULL,
            PRIMARY KEY (run, digest, part))""",
    "CREATE INDEX kept_contents ON content_keys (until) WHERE until > 0",
    "CREATE TABLE checkpoints (size INTEGER PRIMARY KEY CHECK (size >= 1), note BLOB NOT NULL)",
)
_JOURNAL_4: Final = Schema(
    application_id=_LOG_2.application_id,
    version=4,
    statements=(*_LOG_2.statements, *_LEDGER, *_PROOFS),
    older=_JOURNAL_3,
    migrate=_adding(("ALTER TABLE limits ADD COLUMN depth INTEGER", *_PROOFS)),
)

# -- what a service remembers, and parts of the log's tree -------------------------------------------------------------

_SERVICE: Final = (
    """CREATE TABLE api_keys (
            id TEXT PRIMARY KEY, hash BLOB NOT NULL, label TEXT NOT NULL, tenant TEXT NOT NULL, role TEXT NOT NULL,
            since INTEGER NOT NULL, until INTEGER NOT NULL, gone_at INTEGER NOT NULL, used_at INTEGER NOT NULL)
            WITHOUT ROWID""",
    """CREATE TABLE orders (
            run TEXT PRIMARY KEY, tenant TEXT NOT NULL, asked_by TEXT NOT NULL, idem TEXT NOT NULL,
            digest BLOB NOT NULL, state TEXT NOT NULL, owner TEXT NOT NULL, again TEXT NOT NULL,
            since INTEGER NOT NULL, ended_at INTEGER NOT NULL) WITHOUT ROWID""",
    "CREATE INDEX orders_of_key ON orders (tenant, idem) WHERE idem <> ''",
    "CREATE INDEX open_orders ON orders (owner) WHERE ended_at = 0",
    """CREATE TABLE hooks (
            id TEXT PRIMARY KEY, tenant TEXT NOT NULL, url TEXT NOT NULL, told TEXT NOT NULL, secret BLOB NOT NULL,
            since INTEGER NOT NULL, gone_at INTEGER NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE deliveries (
            id TEXT PRIMARY KEY, hook TEXT NOT NULL, told TEXT NOT NULL, subject TEXT NOT NULL, body BLOB NOT NULL,
            attempts INTEGER NOT NULL, since INTEGER NOT NULL, next_at INTEGER NOT NULL, done_at INTEGER NOT NULL,
            status INTEGER NOT NULL) WITHOUT ROWID""",
    "CREATE INDEX due_deliveries ON deliveries (next_at) WHERE done_at = 0",
    "CREATE TABLE subtrees (block INTEGER PRIMARY KEY CHECK (block >= 0), root BLOB NOT NULL)",
)
_JOURNAL_5: Final = Schema(
    application_id=_LOG_2.application_id,
    version=5,
    statements=(*_JOURNAL_4.statements, *_SERVICE),
    older=_JOURNAL_4,
    migrate=_adding(_SERVICE),
)
# Contents may be compressed by Zstandard, which an older Belljar would take for damage; the tables are the same.
_JOURNAL_6: Final = Schema(
    application_id=_LOG_2.application_id,
    version=6,
    statements=_JOURNAL_5.statements,
    older=_JOURNAL_5,
    migrate=_adding(()),
)

# -- packs -------------------------------------------------------------------------------------------------------------

PACKS_SINCE: Final = 7
_IS_DELETED: Final = _TRIGGERS[1]
_PACKS: Final = (
    "CREATE TABLE packs (block INTEGER PRIMARY KEY CHECK (block >= 0), size INTEGER NOT NULL, body BLOB NOT NULL)",
    """CREATE TABLE pack_runs (
            block INTEGER NOT NULL, run TEXT NOT NULL, low INTEGER NOT NULL, high INTEGER NOT NULL,
            many INTEGER NOT NULL, PRIMARY KEY (block, run)) WITHOUT ROWID""",
    "CREATE INDEX packs_of_run ON pack_runs (run)",
    # Only what is in a pack.
    f"""CREATE TRIGGER records_are_not_deleted BEFORE DELETE ON records
            WHEN OLD.seq > (SELECT coalesce(max(block) + 1, 0) * {PACK_RECORDS} FROM packs)
            BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END""",  # noqa: S608 (a constant)
    """CREATE TRIGGER packs_are_not_changed BEFORE UPDATE ON packs
            BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END""",
    """CREATE TRIGGER packs_are_not_deleted BEFORE DELETE ON packs
            BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END""",
)
SCHEMA: Final = Schema(
    application_id=_LOG_2.application_id,
    version=PACKS_SINCE,
    statements=(*(one for one in _JOURNAL_6.statements if one != _IS_DELETED), *_PACKS),
    older=_JOURNAL_6,
    migrate=_adding(("DROP TRIGGER records_are_not_deleted", *_PACKS)),
)
