"""A copy of the journal, made while others write to it.

    DIR/audit.db             the copy, mode 0600: there whole and on the disk, or not there
    DIR/.audit.db-<random>   while it is made, and what a killed backup leaves

A copy shows the journal as it was when the backup began. A file is copied by SQLite's own backup, a few pages at a
time, inside one read transaction. In write-ahead mode that stops no writer; it only keeps what they write meanwhile in
the `-wal` file. Without the transaction, each write of another process would begin the copy anew, and beside a busy
host it would never end. A database is read in one snapshot, and its rows are written to a file of our format.

The copy is checked as `audit verify` and `quota check` check it, before it gets its name. One that is not sound is kept
nevertheless, and its problems are told: it is as good as what it was copied from.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from belljar.audit import Log
from belljar.audit.source import Source, connected, open_source
from belljar.durable import created, flush
from belljar.errors import AuditUnavailable, HostFault, InvalidInput
from belljar.journal import StoreError, shown
from belljar.journal.schema import SqliteError, is_damage
from belljar.journal.sqlite import SqliteStore
from belljar.journal.tables import TABLES, Table
from belljar.journal.turns import SUFFIX
from belljar.paths import is_nameable
from belljar.upkeep import soundness

__all__ = ["Backup", "back_up"]

_STEP_PAGES: Final = 256  # 1 MiB: between two steps a signal is heard
_BATCH: Final = 500
_PATIENCE_S: Final = 10.0
# In the order in which they are copied. The second is there only beside a log of an older format.
_FILES: Final = ("audit.db", "ledger.db")


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """What was made.

    Attributes:
        folder: where it is; a state folder for every command that reads.
        source: what it is a copy of.
        size_bytes: of all files.
        records, runs, head: as `audit.Report` has them.
        problems: where the copy does not verify, or its ledger does not add up; empty if it is sound.
    """

    folder: str
    source: str
    size_bytes: int
    records: int
    runs: int
    head: str
    problems: list[str]


def back_up(log: Log, folder: Path) -> Backup:
    """Copy the journal into a folder, which is created if missing. Stops nobody who writes.

    Raises:
        InvalidInput: `audit.missing`: there is no journal; `backup.exists`: the folder has one already;
            `backup.path`: its path is not valid UTF-8.
        AuditUnavailable: the journal cannot be read.
        HostFault: the copy cannot be written.
    """
    if not is_nameable(folder):
        raise InvalidInput(
            f"the path {str(folder)[:200]!a} is not valid UTF-8: name another folder", code="backup.path"
        )
    sources = _sources(log)
    with _told(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in _FILES:
            if os.path.lexists(folder / name):
                raise _exists(folder / name)
        with contextlib.ExitStack() as drafts:
            copies = {name: drafts.enter_context(_draft(folder, name)) for name in sources}
            for name, source in sources.items():
                _copy(source, copies[name])
            report, problems = soundness(copies[_FILES[0]])
            for name in reversed(copies):  # the log comes last: once it is there, all is
                _publish(copies[name], folder / name)
        size_bytes = sum((folder / name).stat().st_size for name in sources)
    return Backup(
        folder=str(folder),
        source=shown(log) if isinstance(log, str) else str(log),
        size_bytes=size_bytes,
        records=report.records,
        runs=report.runs,
        head=report.head,
        problems=problems,
    )


def _sources(log: Log) -> dict[str, Log]:
    """What is to be copied, by the names of the copies."""
    open_source(log).close()  # refuses what is not there, or cannot be opened
    found: dict[str, Log] = {_FILES[0]: log}
    if isinstance(log, Path) and (older := log.with_name(_FILES[1])).is_file():
        found[_FILES[1]] = older
    return found


@contextlib.contextmanager
def _draft(folder: Path, name: str) -> Iterator[Path]:
    """An empty file that only we can read, gone at the end with all that SQLite put beside it."""
    path = folder / f".{name}-{secrets.token_hex(8)}"
    with created(path, flushed=False):
        pass
    try:
        yield path
    finally:
        for suffix in ("", "-wal", "-shm", "-journal", SUFFIX):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def _publish(draft: Path, path: Path) -> None:
    """Give a finished copy its name, on the disk; never that of a file that is there."""
    for place in (draft, path.parent):
        flush(place)
    try:
        os.link(draft, path)
    except FileExistsError:
        raise _exists(path) from None
    flush(path.parent)


# -- copying -----------------------------------------------------------------------------------------------------------


def _copy(log: Log, draft: Path) -> None:
    with closing(sqlite3.connect(draft, isolation_level=None)) as target:
        target.execute("PRAGMA synchronous=FULL")
        if isinstance(log, Path):
            _copy_file(log, target)
        else:
            _copy_database(log, draft, target)


def _copy_file(path: Path, target: sqlite3.Connection) -> None:
    with closing(_opened(path)) as source:
        source.execute("PRAGMA query_only=ON")
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master").fetchall()  # the snapshot is of this moment
        source.backup(target, pages=_STEP_PAGES, progress=_between_steps)


def _opened(path: Path) -> sqlite3.Connection:
    if not os.access(path.resolve().parent, os.W_OK):  # a snapshot of a disk, say
        return connected(path)
    # Not read-only: whoever has the file open last removes the side files that SQLite needs to read it.
    place = f"{path.absolute().as_uri()}?mode=rw"
    source = sqlite3.connect(place, uri=True, isolation_level=None, timeout=_PATIENCE_S)
    try:
        source.execute("SELECT 1 FROM sqlite_master").close()  # they are made now
    except sqlite3.OperationalError:  # there is no room for them, so nobody writes
        source.close()
        return connected(path)
    except SqliteError:
        pass  # the file is damaged: copying it says so
    return source


def _between_steps(_status: int, _left: int, _pages: int) -> None:
    """In Python, so that a signal is heard."""


def _copy_database(url: str, draft: Path, target: sqlite3.Connection) -> None:
    SqliteStore(draft, name=f"the copy {draft}", unavailable=HostFault).close()  # makes it one of our format
    with closing(open_source(url)) as source:
        target.execute("BEGIN IMMEDIATE")
        for table in TABLES:
            places = ", ".join("?" * len(table.columns))
            insert = f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES ({places})"  # noqa: S608
            target.executemany(insert, _rows(source, table))
        target.execute("COMMIT")
    (busy, _, _) = target.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise sqlite3.OperationalError("another process has the copy open")


def _rows(source: Source, table: Table[Any]) -> Iterator[tuple[Any, ...]]:
    """All rows of a table, a batch at a time, by its key."""
    names, keys = ", ".join(table.columns), ", ".join(table.columns[: table.keys])
    after: tuple[Any, ...] = ()
    while True:
        where = f" WHERE ({keys}) > ({', '.join('?' * table.keys)})" if after else ""
        some = source.ask(f"SELECT {names} FROM {table.name}{where} ORDER BY {keys} LIMIT {_BATCH}", *after)  # noqa: S608
        yield from some
        if len(some) < _BATCH:
            return
        after = some[-1][: table.keys]


# -- errors ------------------------------------------------------------------------------------------------------------


def _exists(path: Path) -> InvalidInput:
    return InvalidInput(f"{path} exists, and a backup never replaces a file: name another folder", code="backup.exists")


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        raise AuditUnavailable(f"the journal cannot be copied: {error}") from error
    except OSError as error:
        raise HostFault(
            f"cannot make a backup in {folder} ({error.strerror or error}); check its permissions and the disk"
        ) from error
    except SqliteError as error:
        if is_damage(error):  # the copy was empty
            raise AuditUnavailable(f"the journal cannot be copied: {error}; verify it") from error
        raise HostFault(
            f"cannot make a backup in {folder}: {error}; check the disks, and verify the journal"
        ) from error
