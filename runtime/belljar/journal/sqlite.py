"""The embedded store: one SQLite file, shared by every process of the machine that has it open.

SQLite's own lock lets one write at a time (`BEGIN IMMEDIATE`), `turns` sees to it that each gets there, and SQLite's
`data_version` says whether another process has committed since: only then what was remembered is void, and the file is
looked through for what is not ours.

A transaction fails if it finds another file at the path, or something in the database that we did not put there:
whoever moves, deletes or replaces the file, or plants a trigger in it, stops what depends on it. Path and contents are
checked under the write lock, before anything is written; and the path once more after the commit, since a later reader
finds only what is at the path. A transaction that fails this last check may be in a file that is somewhere else by now.

A commit puts its pages into the -wal file, and from time to time they have to be moved into the database. SQLite does
that by itself at every `_WAL_PAGES`, and goes over the file from its beginning: a commit that does not make the file
longer is flushed in two thirds of the time. But SQLite says nothing if the disk does not take the pages: the -wal file
would grow on and on. So once that has twice its size they are moved here, between two transactions; while that cannot
be done, nothing more is written.

A commit that the disk did not confirm is in doubt. This process, and whoever reads beside it, see nothing of it, and
the next commit goes over it; but if the process dies before that, it may be there. So a caller that was told of the
failure has done nothing, and the log may have a request that was not sent: the next start closes it as interrupted, and
it is charged in full.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from belljar.errors import BelljarError
from belljar.journal.draft import StoreError
from belljar.journal.schema import (
    LEDGER_SINCE,
    OLD_LEDGER,
    SCHEMA,
    Schema,
    SqliteError,
    copy_ledger,
    is_blank,
    is_damage,
)
from belljar.journal.tables import APPEND_ONLY, Key, Table
from belljar.journal.turns import SUFFIX, Turns

__all__ = ["SqliteStore"]

_Row = TypeVar("_Row", bound="tuple[Any, ...]")

_BUSY_TIMEOUT_S: Final = 10.0  # how long another process may hold the write lock
# Of the -wal file, before SQLite moves them into the database; 4 MB.
_WAL_PAGES: Final = 1000
# Of the -wal file, before its pages are moved by us.
_WAL_BYTES_MAX: Final = 8 << 20
# Values in one statement; SQLite itself takes 32,766.
_VALUES_MAX: Final = 500


class _Told:
    """Inside it an error of SQLite's is a `StoreError` that says what to do.

    Not a generator: each transaction enters it five times, and these took a twentieth of a transaction's time.
    """

    def __init__(self, busy_timeout_s: float) -> None:
        self.busy_timeout_s = busy_timeout_s

    def __enter__(self) -> None:
        """Nothing to begin."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, SqliteError):
            raise StoreError(_advice(error, self.busy_timeout_s)) from error


class SqliteStore:
    """`Store` in one SQLite file.

    Args:
        path: the file, created with mode 0600 if missing; None keeps it in memory. An older log is migrated, and a
            ledger beside it, `ledger.db`, taken over and then renamed.
        name: what to call it in messages.
        unavailable: makes the exception for what keeps it from being opened.
        busy_timeout_s: seconds to wait for the lock of another process.

    Raises:
        whatever `unavailable` makes, if the file cannot be opened or is not such a database.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        name: str,
        unavailable: Callable[[str], BelljarError],
        schema: Schema = SCHEMA,
        busy_timeout_s: float = _BUSY_TIMEOUT_S,
    ) -> None:
        self._name = name
        self._unavailable = unavailable
        self.patience_s = busy_timeout_s
        self._schema = schema
        self._version = -1
        self._paths: list[str] = []
        self._files: list[tuple[int, int]] = []
        self._wal_bytes = 0  # of the -wal file, when it was last looked at
        self._move_at = _WAL_BYTES_MAX
        self._loads: dict[tuple[str, int], str] = {}
        self._saves: dict[str, str] = {}
        self._turns: Turns | None = None
        self._told = _Told(busy_timeout_s)
        self._db = self._open(path)

    # -- a transaction -----------------------------------------------------------------------------------------------

    def begin(self) -> bool:
        try:
            ours = self._turns is None or self._turns.take(self.patience_s)
        except OSError as error:
            raise StoreError(f"its file cannot be locked ({error.strerror}); use a local disk of Linux") from error
        if not ours:
            raise StoreError(_busy(self.patience_s))
        with self._told:
            if self._told.busy_timeout_s != self.patience_s:
                self._told.busy_timeout_s = self.patience_s
                self._wait_for_locks()
            if self._wal_bytes >= self._move_at:
                self._move_pages()
            self._db.execute("BEGIN IMMEDIATE")
            self._refuse_moved()
            version = self._db.execute("PRAGMA data_version").fetchone()[0]
            if version == self._version:
                return False
            if self._paths and (odd := self._schema.foreign(self._db)) is not None:
                unknown = self._schema.unknown(self._db)  # a newer process migrated it meanwhile
                raise StoreError(unknown or f"{odd}: set the file aside for inspection and restart")
            self._version = version
            return True

    def load(self, table: Table[_Row], keys: Sequence[tuple[Any, ...]]) -> list[_Row]:
        found: list[_Row] = []
        step = _VALUES_MAX // table.keys
        with self._told:
            for start in range(0, len(keys), step):
                some = keys[start : start + step]
                values = [value for key in some for value in key]
                found += map(table.unpack, self._db.execute(self._load(table, len(some)), values).fetchall())
        return found

    def query(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._told:
            return self._db.execute(statement, values).fetchall()

    def save(self, changes: Mapping[Key, Any]) -> None:
        by_table: dict[Table[Any], list[tuple[Any, ...]]] = {}
        removed: dict[Table[Any], list[tuple[Any, ...]]] = {}
        with self._told:
            for (table, key), row in changes.items():
                if row is None:
                    removed.setdefault(table, []).append(key)
                else:
                    by_table.setdefault(table, []).append(table.pack(row))
            for table, rows in by_table.items():
                # A trigger in the file can also take a row for nothing.
                if self._db.executemany(self._save(table), rows).rowcount != len(rows):
                    raise StoreError("it did not take what was written: set the file aside for inspection")
            for table, keys in removed.items():  # records only when their pack is there
                self._db.executemany(f"DELETE FROM {table.name} WHERE {_where(table)}", keys)  # noqa: S608

    def commit(self) -> None:
        with self._told:
            self._db.execute("COMMIT")
            self._give_turn()
            self._refuse_moved()

    def rollback(self) -> None:
        """If that fails too, the next `begin` fails: still nothing gets written."""
        if self._db.in_transaction:
            with contextlib.suppress(*SqliteError):
                self._db.execute("ROLLBACK")
        self._give_turn()

    def _give_turn(self) -> None:
        if self._turns is not None:
            self._turns.give()

    pulse_s = None
    host = None

    def now(self) -> float:
        return time.time()

    def pulse(self) -> None:
        """Nothing asks whether a process lives but the kernel's locks."""

    def living(self, lease_s: float) -> None:
        return None

    def removed(self) -> bool:
        return False

    def forget(self) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()
        if self._turns is not None:
            self._turns.close()

    def _load(self, table: Table[Any], rows: int) -> str:
        if (known := self._loads.get((table.name, rows))) is None:
            some = ", ".join([f"({', '.join('?' * table.keys)})"] * rows)
            names, keys = ", ".join(table.columns), table.columns[: table.keys]
            found = " AND ".join(f"{key} = column{place}" for place, key in enumerate(keys, 1))
            # Not `IN (VALUES ...)`: for several keys of two columns each SQLite goes through the whole table.
            known = f"SELECT {names} FROM (VALUES {some}) CROSS JOIN {table.name} ON {found}"  # noqa: S608
            self._loads[table.name, rows] = known
        return known

    def _save(self, table: Table[Any]) -> str:
        if (known := self._saves.get(table.name)) is None:
            keys, rest = table.columns[: table.keys], table.columns[table.keys :]
            known = (
                f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES ({', '.join('?' * len(table.columns))})"  # noqa: S608
            )
            if table not in APPEND_ONLY:
                changed = ", ".join(f"{column} = excluded.{column}" for column in rest)
                known += f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changed}"
            self._saves[table.name] = known
        return known

    def _move_pages(self) -> None:
        """From the -wal file into the database; the file is then empty.

        Who still reads an older state keeps a part of it: that is tried again when as much has come again.
        """
        self._db.execute("PRAGMA busy_timeout=0")
        try:
            busy, *_ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            self._wait_for_locks()
        self._move_at = _WAL_BYTES_MAX + (self._wal_bytes if busy else 0)

    def _wait_for_locks(self) -> None:
        self._db.execute(f"PRAGMA busy_timeout={1000 * self.patience_s:.0f}")

    def _refuse_moved(self) -> None:
        try:
            found = [os.stat(path) for path in self._paths]
            if found:
                self._wal_bytes = found[1].st_size
            if _identities(found) == self._files:
                return
            why = "it or its -wal file was replaced by another file"
        except OSError as error:
            why = f"it or its -wal file is no longer at its path ({error.strerror})"
        raise StoreError(f"{why}: put it back, or restart")

    # -- opening -----------------------------------------------------------------------------------------------------

    def _open(self, path: Path | None) -> sqlite3.Connection:
        db: sqlite3.Connection | None = None
        try:
            if path is not None:
                _create_private(path)
                if path.is_file() and os.stat(path).st_nlink > 1:
                    raise self._unavailable(
                        f"cannot open {self._name}: the file has a second name (a hard link), under which another "
                        "process would write over what we write; remove that, or copy the file"
                    )
            db = sqlite3.connect(
                path or ":memory:", timeout=self.patience_s, isolation_level=None, check_same_thread=False
            )
            before = _identities([os.stat(path)] if path is not None else [])
            self._configure(db, in_memory=path is None)
            self._prepare(db, path)
            self._paths = _files(path)  # the first transaction has created the side files
            self._files = _identities(map(os.stat, self._paths))
            if self._files[:1] != before:
                raise self._unavailable(f"cannot open {self._name}: the file was replaced meanwhile; try again")
            if path is not None:
                real = path.resolve()
                self._turns = Turns(real.with_name(real.name + SUFFIX))
        except (OSError, *SqliteError) as error:
            if db is not None:
                db.close()
            reason = _os_advice(error) if isinstance(error, OSError) else _advice(error, self.patience_s)
            raise self._unavailable(f"cannot open {self._name}: {reason}") from error
        except BelljarError:
            if db is not None:
                db.close()
            raise
        return db

    def _configure(self, db: sqlite3.Connection, *, in_memory: bool) -> None:
        mode = self._enter_wal(db)
        if mode != "wal" and not in_memory:
            raise self._unavailable(f"cannot open {self._name}: its file system has no shared memory; use a local disk")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA secure_delete=ON")  # of a key that was destroyed nothing is left in the file
        db.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES:d}")
        db.execute("PRAGMA trusted_schema=OFF")  # a view or trigger planted in the file can call no function

    def _enter_wal(self, db: sqlite3.Connection) -> str:
        """SQLite does not wait for the lock for this statement, so we do, in case several processes start at once."""
        deadline = time.monotonic() + self.patience_s
        while True:
            try:
                return str(db.execute("PRAGMA journal_mode=WAL").fetchone()[0])
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.005)

    def _prepare(self, db: sqlite3.Connection, path: Path | None) -> None:
        """Create what is missing, or migrate what is older, wholly or not at all."""
        ledger = self._attach_ledger(db, path)
        db.execute("BEGIN IMMEDIATE")  # the ledger's lock, too
        odd = self._odd_after_migration(db, ledger)
        db.execute("COMMIT" if odd is None else "ROLLBACK")
        if odd is not None:
            raise self._unavailable(f"cannot open {self._name}: {odd}")
        if ledger is not None:
            # Before it is detached: whoever still has it open finds it gone. What was copied is never copied again.
            _set_aside(db, ledger)
            db.execute("DETACH old")

    def _odd_after_migration(self, db: sqlite3.Connection, ledger: Path | None) -> str | None:
        """Make the file one of our schema. What keeps it from that, in a few words and what to do."""
        schema, blank = self._schema, is_blank(db)
        if blank:
            for statement in schema.statements:
                db.execute(statement)
            db.execute(f"PRAGMA application_id={schema.application_id:d}")
            db.execute(f"PRAGMA user_version={schema.version:d}")
        mark, version = (db.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in ("application_id", "user_version"))
        if mark != schema.application_id:
            return "the file is something else; choose another path"
        if (unknown := schema.unknown(db)) is not None:
            return unknown
        if (odd := schema.upgrade(db)) is not None:
            return f"{odd}; set the file aside for inspection"
        if ledger is not None and (blank or version < LEDGER_SINCE):
            if (odd := OLD_LEDGER.foreign(db, "old")) is not None:
                return f"of the ledger beside it, {ledger.name}, {odd}; set that file aside for inspection"
            copy_ledger(db)
        return None

    def _attach_ledger(self, db: sqlite3.Connection, path: Path | None) -> Path | None:
        """The older ledger beside the log, attached as `old`, if there is one."""
        beside = path.with_name("ledger.db") if path is not None and self._schema is SCHEMA else None
        if beside is None or beside == path or not beside.is_file():
            return None
        db.execute("ATTACH ? AS old", (str(beside),))
        return beside


def _set_aside(db: sqlite3.Connection, ledger: Path) -> None:
    """Another process may have been faster: then it is gone, or has no table, since attaching what was gone made it."""
    is_ours = db.execute("SELECT 1 FROM old.sqlite_master LIMIT 1").fetchall()
    with contextlib.suppress(FileNotFoundError):
        if is_ours:
            ledger.rename(ledger.with_name(f"{ledger.name}.migrated"))
        else:
            ledger.unlink()


def _where(table: Table[Any]) -> str:
    return " AND ".join(f"{column} = ?" for column in table.columns[: table.keys])


def _files(path: Path | None) -> list[str]:
    """The database and its two side files, which are part of it; none for a database in memory."""
    if path is None:
        return []
    real = path.resolve()  # SQLite puts its side files beside what a symbolic link points to
    return [str(path), *(f"{real}{suffix}" for suffix in ("-wal", "-shm"))]


def _identities(files: Iterable[os.stat_result]) -> list[tuple[int, int]]:
    """Device and inode of each.

    While SQLite has a file open, no other file gets its inode, so we need not hold it open too. Nor may we: closing a
    descriptor of our own would drop this process's locks.
    """
    return [(stat.st_dev, stat.st_ino) for stat in files]


def _create_private(path: Path) -> None:
    """Create the file readable by its owner only; SQLite gives its side files the same mode.

    Only ever a new file: closing a descriptor on an open database would drop this process's locks on it. Where there is
    a symbolic link to a file that is not there yet, SQLite would create that one, for everybody to read.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(os.path.realpath(path), os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _os_advice(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "its folder does not exist; create it or choose another"
    return f"{error.strerror or error}; check the path and its permissions"


def _busy(seconds: float) -> str:
    return f"another process has held its lock for more than {seconds:g} s; find and end that process"


def _advice(error: Exception, busy_timeout_s: float) -> str:
    """One line: what SQLite says, and what to do."""
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_FULL:
            return "the disk is full; free some space"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return _busy(busy_timeout_s)
        case sqlite3.SQLITE_CONSTRAINT:
            return f"{error}; its contents contradict each other, so verify it before anything else"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN:
            return f"{error}; check the path and its permissions"
        case _ if is_damage(error):
            said = "it is damaged" if isinstance(error, UnicodeDecodeError) else error
            return f"{said}; set the file aside for inspection and choose another path"
        case _:
            return f"{error}; check the disk"
