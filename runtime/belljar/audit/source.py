"""Where a log is read from, a SQLite file or a PostgreSQL database, without touching it: all rows from one snapshot.

A file is opened read-only and never created. In WAL mode SQLite would still create its two side files beside a closed
log; so if there is no `-wal` file, which means that no process has the log open, it is opened as immutable. So it is if
that file is empty and was left by a start for which the disk was too full: there would be no room for ours. A writer
that starts at that very moment only makes the answer older, or the read fail: `verify` then looks again.

A database is read in one read-only transaction, a batch of rows at a time, also on a standby. That holds nobody up, but
keeps the server from cleaning away what was changed meanwhile.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from belljar.audit.checkpoint import NOTE_BYTES_MAX
from belljar.audit.events import HOST_RUNS
from belljar.errors import AuditUnavailable, InvalidInput
from belljar.identity import runs_below
from belljar.journal import StoreError, shown
from belljar.journal.packs import Bounds, Packs, Row
from belljar.journal.schema import CONTENTS_SINCE, PACKS_SINCE, SCHEMA, SqliteError, is_blank
from belljar.journal.tables import RECORD_BYTES_MAX

__all__ = ["UNREADABLE", "Log", "Source", "connected", "looked_at", "newer", "open_source", "reading"]

_T = TypeVar("_T")

# The file of a log, or the URL of its database.
Log = Path | str
# What the methods of a source raise when it cannot be read.
UNREADABLE: Final = (*SqliteError, StoreError)

# Of a log whose records do not have their runs in a column.
_WITHOUT_RUNS: Final = f"""SELECT seq, NULL, CASE WHEN length(body) <= {RECORD_BYTES_MAX} THEN body END, hash
    FROM records WHERE seq BETWEEN ? AND ? ORDER BY seq"""  # noqa: S608 (constants)
_NO_RUNS: Final = ", ".join(f"'{name}'" for name in sorted(HOST_RUNS))
_BOUNDS: Final = f"""SELECT run, min(low), max(high), CAST(sum(many) AS bigint) FROM {{}}
    WHERE run NOT IN ({_NO_RUNS}) GROUP BY run ORDER BY min(low)"""  # noqa: S608 (constants)
# So many that one for each run of a few years fits.
_CHECKPOINTS: Final = f"""SELECT size, CASE WHEN length(note) <= {NOTE_BYTES_MAX} THEN note END FROM checkpoints
    ORDER BY size LIMIT 500000"""  # noqa: S608 (constants)
_TREE: Final = "(run = ? OR (run > ? AND run < ?))"
_BELOW: Final = f"SELECT DISTINCT run FROM {{}} WHERE {_TREE} ORDER BY run"  # noqa: S608 (constants)
_BEFORE: Final = "SELECT max(run) FROM {} WHERE run < ?"
_HEAD: Final = "SELECT coalesce(max(seq), 0) FROM records"  # where the last record always is
_SEQ_MAX: Final = 2**62
_PATIENCE_S: Final = 10.0
# Of the -shm file of whoever has a log open. Who did not get so far, because the disk was full, leaves a shorter one.
_INDEX_BYTES_MIN: Final = 2**15


class Source(Protocol):
    """A log that is open for reading. Its methods raise what is in `UNREADABLE`."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str:
        """What it is: a file or a database."""
        ...

    def rows(self, run: str | None = None, *, seq: int | None = None, after: int | None = None) -> Iterator[Row]:
        """In order, from one snapshot; none from an empty file.

        Args:
            run: only this run's. In a log of an older version the run is None, and all records come.
            seq: only this record.
            after: only those with a higher number.
        """
        ...

    @property
    def packs(self) -> Packs:
        """The records, to be asked for in other ways. Not of a log of format 1, nor is what asks for runs below."""
        ...

    def tree(self, run: str, *, after: int = 0) -> Iterator[Row]:
        """The records of a run and of those below it with a higher number, in order."""
        ...

    def bounds(self) -> list[tuple[str, int, int, int]] | None:
        """The first and the last record of each run, and how many there are; None if only the records say that."""
        ...

    def bounds_of(self, run: str) -> Bounds | None:
        """The same of one run; None if it has no records."""
        ...

    def before(self, run: str) -> str | None:
        """The largest id before this one that has records, of a run or of what belongs to none."""
        ...

    def below(self, run: str) -> list[str] | None:
        """This run, if it has records, and those below it, each after its parent; None if only the records say that."""
        ...

    def head(self) -> int:
        """The number of the last record; 0 if there is none."""
        ...

    def format(self) -> tuple[int, int]:
        """The number of its format, 0 for an empty file, and the latest that is known here."""
        ...

    def checkpoints(self) -> list[tuple[int, object]]:
        """The size and the note of each checkpoint, in order; none in a log of an older version."""
        ...

    def has_ledger(self) -> bool:
        """Whether the ledger is in it, too, and in the latest format."""
        ...

    def has_contents(self) -> bool:
        """Whether there may be contents in it, and checkpoints: since format 4 of a file."""
        ...

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """What a SELECT gives, of the same snapshot, with `?` for each value."""
        ...

    def now(self) -> float:
        """The time by the clock that all its writers share, in seconds since the epoch."""
        ...

    def foreign(self) -> str | None:
        """What in it is not ours, or is missing, in a few words."""
        ...

    def damage(self) -> str | None:
        """What is damaged in it, also where no question here comes by; None where nothing is, or only a server knows.

        Takes about as long as reading all of it.
        """
        ...

    def close(self) -> None: ...


def open_source(log: Log) -> Source:
    """Open a log for reading.

    Raises:
        InvalidInput: `audit.missing`: there is no log.
        AuditUnavailable: it cannot be opened.
    """
    return _File(log) if isinstance(log, Path) else _Database(log)


@contextlib.contextmanager
def reading(source: Source) -> Iterator[Source]:
    """A log that is open, for the length of a block, and closed then.

    Raises:
        AuditUnavailable: it cannot be read.
    """
    with contextlib.closing(source):
        try:
            yield source
        except UNREADABLE as error:
            raise AuditUnavailable(f"the audit log {source.name} cannot be read: {error}; verify it") from error


def _is_in_use(log: Log) -> bool:
    """Whether a process has the log's file open, or had it open when it was killed. A database counts as in use."""
    if not isinstance(log, Path):
        return True
    real = os.path.realpath(log)  # SQLite puts its side files beside what a symbolic link points to
    wal, index = (_size(f"{real}{suffix}") for suffix in ("-wal", "-shm"))
    return wal is not None and (wal > 0 or (index or 0) >= _INDEX_BYTES_MIN)


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def looked_at(log: Log, look: Callable[[Log], _T], is_sound: Callable[[_T], bool]) -> _T:
    """What `look` finds in a log. Where that is not sound, it looks again if a writer has started meanwhile.

    A file that was read as immutable while somebody wrote to it shows what was never there.
    """
    was_in_use = _is_in_use(log)
    found = look(log)
    return found if is_sound(found) or was_in_use or not _is_in_use(log) else look(log)


class _Indexed:
    """What is the same of every log whose records are found by their runs."""

    @functools.cached_property
    def packs(self) -> Packs:
        return Packs(self.ask, there_are=self._has_packs())

    def rows(self, run: str | None = None, *, seq: int | None = None, after: int | None = None) -> Iterator[Row]:
        if run is None:
            return self.packs.rows(*_range(seq, after))
        return self.packs.rows(*_range(seq, after), where="run = ?", values=(run,))

    def tree(self, run: str, *, after: int = 0) -> Iterator[Row]:
        begun = self.bounds_of(run)
        first = after + 1 if begun is None else max(after + 1, begun[0])
        return self.packs.rows(first, where=_TREE, values=(run, *runs_below(run)))

    def bounds(self) -> list[tuple[str, int, int, int]] | None:
        return [(row[0], row[1], row[2], row[3]) for row in self.ask(_BOUNDS.format(self.packs.spans))]

    def bounds_of(self, run: str) -> Bounds | None:
        return self.packs.bounds_of(run)

    def below(self, run: str) -> list[str] | None:
        found = self.ask(_BELOW.format(self.packs.spans), run, *runs_below(run))
        # A name of what belongs to no run may begin as a run's id does.
        return [row[0] for row in found if row[0] == run or row[0] not in HOST_RUNS]

    def before(self, run: str) -> str | None:
        # Each by itself: the largest of both together is not looked up in an index.
        tables = ("records", "pack_runs") if self._has_packs() else ("records",)
        found = [self.ask(_BEFORE.format(table), run)[0][0] for table in tables]
        return max((name for name in found if name is not None), default=None)

    def head(self) -> int:
        found: int = self.ask(_HEAD)[0][0]
        return found

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        raise NotImplementedError

    def _has_packs(self) -> bool:
        return True


def _range(seq: int | None, after: int | None) -> tuple[int, int]:
    if seq is not None:
        return seq, seq
    return -_SEQ_MAX if after is None else after + 1, _SEQ_MAX


class _File(_Indexed):
    kind = "file"

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._db = connected(path)
        self._db.execute("BEGIN")  # one snapshot for all that is read
        if (newer := _newer(self._db)) is not None:
            self.close()
            raise AuditUnavailable(f"{path} {newer}")

    def rows(self, run: str | None = None, *, seq: int | None = None, after: int | None = None) -> Iterator[Row]:
        if not self._has_records:
            return
        if self._has_runs():
            yield from super().rows(run, seq=seq, after=after)
        else:
            yield from self._db.execute(_WITHOUT_RUNS, _range(seq, after))

    @functools.cached_property
    def _has_records(self) -> bool:
        """Whether there can be any, where we have them. Looked at once: all is read from one snapshot."""
        db = self._db
        if is_blank(db):
            return False
        if db.execute("PRAGMA application_id").fetchone()[0] != SCHEMA.application_id:
            raise sqlite3.DatabaseError("file is not an audit log")
        schema = SCHEMA.of(db)
        if schema is None:
            raise sqlite3.DatabaseError("its format is none of ours")
        for table in ("records", *(("packs", "pack_runs") if self._has_packs() else ())):
            if not schema.has_table(db, table):
                raise sqlite3.DatabaseError(f"its {table} are not a table as we make it")
        return True

    def bounds(self) -> list[tuple[str, int, int, int]] | None:
        if is_blank(self._db):
            return []
        return super().bounds() if self._has_runs() else None

    def below(self, run: str) -> list[str] | None:
        if is_blank(self._db):
            return []
        return super().below(run) if self._has_runs() else None

    def head(self) -> int:
        return 0 if is_blank(self._db) else super().head()

    def format(self) -> tuple[int, int]:
        return self._db.execute("PRAGMA user_version").fetchone()[0], SCHEMA.version

    def checkpoints(self) -> list[tuple[int, object]]:
        if is_blank(self._db) or SCHEMA.of(self._db) is not SCHEMA or not SCHEMA.has_table(self._db, "checkpoints"):
            return []
        return self._db.execute(_CHECKPOINTS).fetchall()

    def has_ledger(self) -> bool:
        return not is_blank(self._db) and SCHEMA.of(self._db) is SCHEMA

    def has_contents(self) -> bool:
        schema = None if is_blank(self._db) else SCHEMA.of(self._db)
        return schema is not None and schema.version >= CONTENTS_SINCE

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return self._db.execute(statement, values).fetchall()

    def now(self) -> float:
        return time.time()

    def foreign(self) -> str | None:
        return None if is_blank(self._db) else (SCHEMA.of(self._db) or SCHEMA).foreign(self._db)

    def damage(self) -> str | None:
        said = str(self._db.execute("PRAGMA integrity_check(1)").fetchone()[0])
        return None if said == "ok" else " ".join(said.split())

    def close(self) -> None:
        self._db.close()

    def _has_runs(self) -> bool:
        """Whether the records have their runs in a column: since format 2."""
        schema = SCHEMA.of(self._db)
        return schema is not None and schema.version > 1

    def _has_packs(self) -> bool:
        schema = SCHEMA.of(self._db)
        return schema is not None and schema.version >= PACKS_SINCE


def connected(path: Path) -> sqlite3.Connection:
    """A connection to the file of a log that only reads, and creates nothing beside a log that nobody has open.

    Raises: as `open_source`.
    """
    try:
        there = path.is_file()
    except OSError as error:
        raise AuditUnavailable(
            f"the audit log {path} cannot be looked for ({error.strerror}); check its folder and permissions"
        ) from error
    if not there:
        raise InvalidInput(f"there is no audit log at {path}; check the state folder", code="audit.missing")
    mode = "mode=ro" if _is_in_use(path) else "mode=ro&immutable=1"
    uri = f"{path.absolute().as_uri()}?{mode}"
    db: sqlite3.Connection | None = None
    try:
        db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10)
        db.execute("PRAGMA trusted_schema=OFF")
        db.execute("SELECT 1 FROM sqlite_master").close()  # the side files are opened only now
    except SqliteError as error:
        if db is not None and not isinstance(error, sqlite3.OperationalError):
            return db  # the file is damaged: `rows` will say so
        if db is not None:
            db.close()
        raise AuditUnavailable(
            f"cannot open the audit log {path}: {error}; check its permissions and the disk, or copy it and its "
            "-wal file elsewhere"
        ) from error
    return db


def _newer(db: sqlite3.Connection) -> str | None:
    """Why a log that a newer version has made cannot be read; None of any other, and of a damaged file."""
    try:
        mark, number = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    except SqliteError:
        return None  # `rows` will say so
    if mark != SCHEMA.application_id or number <= SCHEMA.version:
        return None
    return newer(number, SCHEMA.version)


def newer(number: int, latest: int) -> str:
    """What to say of something with a format that a newer version has made, behind its name."""
    return f"has format {number}, but the latest known here is {latest}: a newer Belljar made it; update Belljar"


class _Database(_Indexed):
    kind = "database"

    def __init__(self, url: str) -> None:
        try:
            from belljar.journal import pgschema, pgserver
        except ImportError as error:
            raise AuditUnavailable(f"cannot open the audit log: {error}; install belljar[postgres]") from error
        self.name = shown(url)
        self._numbered = pgserver.numbered
        # The server's event loop cannot run in a thread that may have one of its own.
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "belljar audit reader")
        self._server = pgserver.Server(url, patience_s=_PATIENCE_S, reading=True)
        self._schema = pgschema
        try:
            wrong = self._do(self._begin)
        except StoreError as error:
            wrong = str(error)
        except BaseException:
            self.close()
            raise
        if wrong is not None:
            self.close()
            raise AuditUnavailable(f"cannot open the audit log {self.name}: {wrong}")

    def _begin(self) -> str | None:
        self._server.connect()
        self._server.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        if not self._schema.is_there(self._server):
            raise InvalidInput(f"there is no audit log in {self.name}; check the URL", code="audit.missing")
        return self._schema.wrong_version(self._server)

    def format(self) -> tuple[int, int]:
        return self._schema.VERSION, self._schema.VERSION  # another one is refused when it is opened

    def checkpoints(self) -> list[tuple[int, object]]:
        return [(row[0], row[1]) for row in self.ask(_CHECKPOINTS)]

    def has_ledger(self) -> bool:
        return True

    def has_contents(self) -> bool:
        return True

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return self._do(lambda: self._server.fetch(self._numbered(statement), *values))

    def now(self) -> float:
        found: float = self._do(lambda: self._server.fetch(self._schema.NOW))[0][0]
        return found

    def foreign(self) -> str | None:
        odd: str | None = self._do(lambda: self._schema.foreign(self._server))
        return odd

    def damage(self) -> str | None:
        return None

    def close(self) -> None:
        self._do(self._server.close)
        self._thread.shutdown()

    def _do(self, work: Callable[[], _T]) -> _T:
        return self._thread.submit(work).result()
