"""One thread that writes one SQLite database, and commits for everybody at once.

Theory of operation. A durable commit costs one flush of the disk, whether it carries one change or two hundred. So the
changes wait for each other: coroutines put *jobs* (functions of a connection) in a queue, one thread takes whatever is
there, and runs it as a *round*::

    BEGIN IMMEDIATE                  the write lock, also against other processes
      SAVEPOINT job;  job(db);  RELEASE job            for each job, in the order of the queue; one alone needs none
    COMMIT                           the flush (WAL, synchronous=FULL)

Only then does any coroutine hear of its result, so a result that was seen is on the disk. While the disk flushes, the
next round gathers by itself: an idle database answers one job at once, a busy one answers hundreds per flush, and
nothing has to be tuned.

Who pays for a failure:

- A job that raises rolls back its own savepoint and nothing else; its caller gets its exception.
- A round that cannot begin or commit (disk full, input/output error, locked too long) fails every job in it with the
  exception type the owner of the database chose. Nothing of the round is in the database.
- A round that finds another file at the path, or something in the database that is not ours, fails in the same way:
  whoever moves, deletes or replaces the file, or plants a trigger in it, stops what depends on it.
- A job that nobody awaits (`submit_soon`) has no caller to tell. Its error is kept under its *lane* (a run, say) and
  given, in place of a result, to the next awaited job of that lane: what follows a lost write does not happen.

A job that was submitted runs, even if the coroutine that awaits it is cancelled. A caller that cancels must not
conclude that nothing was written.

Path and contents are checked under the write lock, before the commit, so that nothing is written where it does not
belong; and the path once more after it, since a later reader finds only what is at the path. A round that fails this
last check may be in a file that is somewhere else by now.

Several processes may open the same file: SQLite's lock makes rounds take turns, and jobs read what they depend on
inside the transaction. Within one process, two writers on one file work as two processes do.

The thread is a daemon: a program that forgets `aclose` still ends, and loses only what nobody awaited.

A forked child has no such thread, and SQLite must not be used across a fork: it would take the parent's locks for its
own. So a fork waits for the round to end, and in the child all writers are closed; it may open new ones.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import os
import queue
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from belljar.errors import BelljarError

__all__ = ["Job", "Schema", "Writer", "is_blank"]

_T = TypeVar("_T")
Job = Callable[[sqlite3.Connection], _T]

_QUEUE_MAX = 4096  # jobs that may wait unawaited: some 4 MB of records of 1 KB
_ROUND_MAX = 256  # jobs in one transaction: by then the flush is a small part of the cost
_LINGER_S = 0.003  # how long jobs that nobody awaits wait for one that somebody awaits
_BUSY_TIMEOUT_S = 10.0  # how long another process may hold the write lock
_CLOSE_TIMEOUT_S = 30.0  # one round that waits for the lock, and the flushes after it


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

    def foreign(self, db: sqlite3.Connection) -> str | None:
        """How the database differs from this schema, in a few words; None if it does not.

        Reads SQLite's own table each time: a trigger that another process plants works from its next statement on.
        """
        for pragma, ours in (("application_id", self.application_id), ("user_version", self.version)):
            if (found := db.execute(f"PRAGMA {pragma}").fetchone()[0]) != ours:
                return f"its {pragma} is {found}, not {ours}"
        entries = _entries(db)
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


def _entries(db: sqlite3.Connection) -> list[tuple[object, ...]]:
    return db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name LIMIT 100").fetchall()


def is_blank(db: sqlite3.Connection) -> bool:
    """Whether nothing was ever written to it: an empty file, such as a start on a full disk leaves."""
    marks = [db.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in ("application_id", "user_version")]
    return marks == [0, 0] and not _entries(db)


@dataclass(slots=True)
class _Entry:
    job: Job[Any]
    lane: str
    future: asyncio.Future[Any] | None
    lazy: bool = False


@dataclass(slots=True)
class _Outcome:
    result: Any = None
    error: Exception | None = None


class Writer:
    """The only writer of one database in this process.

    Args:
        path: the database file, created with mode 0600 if missing; None keeps it in memory.
        what: what to call it in messages ("audit log").
        schema: what must be in it.
        unavailable: makes the exception for everything that is the storage's fault.
        queue_max: unawaited jobs that may wait before `room` waits.
        round_max: jobs in one transaction.
        busy_timeout_s: seconds to wait for the lock of another process.

    Raises:
        whatever `unavailable` makes, if the file cannot be opened or is not such a database.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        what: str,
        schema: Schema,
        unavailable: Callable[[str], BelljarError],
        queue_max: int = _QUEUE_MAX,
        round_max: int = _ROUND_MAX,
        busy_timeout_s: float = _BUSY_TIMEOUT_S,
    ) -> None:
        self._name = f"the {what} {path}" if path is not None else f"the {what} in memory"
        self._unavailable = unavailable
        self._queue_max = queue_max
        self._round_max = round_max
        self._busy_timeout_s = busy_timeout_s
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._gate = threading.Lock()  # makes "closed?" and "put" one step, so that nothing lands behind the end mark
        self._closed = False
        self._steady = threading.Lock()  # held while the database is in use, and by a fork
        self._hurry = threading.Event()  # somebody waits for what is in the queue
        self._lost: dict[str, Exception] = {}  # lane -> error; belongs to the thread
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._schema = schema
        self._paths: list[Path] = []
        self._files: list[tuple[int, int]] = []
        with self._steady:
            if path is not None:
                _WRITERS.add(self)
            self._db = self._open(path, schema)
        # In memory there is no disk to wait for, so a thread would only cost time: each job runs where it is submitted.
        self._inline = path is None
        if not self._inline:
            threading.Thread(target=self._work, name=f"belljar {what}", daemon=True).start()

    # -- for coroutines ----------------------------------------------------------------------------------------------

    def submit(self, job: Job[_T], *, lane: str = "", lazy: bool = False) -> asyncio.Future[_T]:
        """Queue `job` now; the future holds its result once it is durable.

        A `lazy` job lets the commit wait a moment for other jobs, as an unawaited one does.

        Raises, from the future: the job's own error; what `unavailable` makes; or the error of an earlier `submit_soon`
        of the same lane, and then this job did not run.
        """
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._put(_Entry(job, lane, future, lazy))
        return future

    def submit_soon(self, job: Job[object], *, lane: str = "") -> None:
        """Queue `job` now, before everything submitted later, without waiting. Await `room` after it."""
        self._put(_Entry(job, lane, None, True))

    async def room(self) -> None:
        """Return at once while the queue is short; otherwise when what is queued now is durable."""
        if self._queue.qsize() >= self._queue_max:
            await self.submit(_nothing)

    async def flush(self) -> None:
        """Return when all that is queued is durable; raise if an unawaited job was lost and nobody was told."""
        await self.submit(self._refuse_if_lost)

    async def aclose(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> None:
        """Refuse new jobs, write what is queued, close. Raise if that takes too long or an unawaited job was lost."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
                self._hurry.set()
                if self._inline:
                    self._db.close()
                    self._ended.set_result(None)
        try:
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._ended)), timeout_s)
        except TimeoutError:
            raise self._unavailable(f"{self._name} did not finish writing in {timeout_s:g} s; check the disk") from None
        self._refuse_if_lost()

    # -- the thread --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        batch: list[_Entry] = []
        try:
            more = True
            while more:
                batch, more = self._take()
                if batch:
                    with self._steady:
                        outcomes = self._round(batch)
                    self._deliver(batch, outcomes)
                batch = []
        finally:  # usually nothing is left; after a bug of ours nobody may be left waiting
            self._abandon(batch)
            with self._steady:
                self._db.close()
            self._ended.set_result(None)

    def _take(self) -> tuple[list[_Entry], bool]:
        """Wait for one job, then take what else is queued. False once the end mark came.

        While nobody awaits any of them, wait a little longer: the next job that somebody awaits is then durable in one
        commit with them, not behind theirs. Until then this thread sleeps: waking up for each job would cost more time,
        the event loop's too, than the jobs themselves.
        """
        batch: list[_Entry] = []
        entry = self._queue.get()
        if entry is not None and entry.lazy:
            self._hurry.wait(_LINGER_S)
        self._hurry.clear()  # before the queue is emptied: what comes from here on sets it again
        while entry is not None:
            batch.append(entry)
            if len(batch) >= self._round_max:
                self._hurry.set()  # somebody may wait for what is left
                return batch, True
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _round(self, batch: Sequence[_Entry]) -> list[_Outcome]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._refuse_foreign()
            alone = len(batch) == 1
            outcomes = [self._attempt(entry, alone=alone) for entry in batch]
            if alone and outcomes[0].error is not None:
                self._undo()
            else:
                self._db.execute("COMMIT")
                self._refuse_moved()
        except (sqlite3.Error, _ForeignError) as error:
            self._undo()
            outcomes = [_Outcome(error=self._fault(error)) for _ in batch]
            for entry, outcome in zip(batch, outcomes, strict=True):
                self._remember(entry, outcome)
        return outcomes

    def _attempt(self, entry: _Entry, *, alone: bool) -> _Outcome:
        if entry.future is not None and entry.lane in self._lost:
            return _Outcome(error=self._lost.pop(entry.lane))
        if not alone:
            self._db.execute("SAVEPOINT job")
        try:
            outcome = _Outcome(entry.job(self._db))
        except Exception as error:  # not handled here: carried to whoever awaits the job
            if isinstance(error, sqlite3.Error) and not self._db.in_transaction:
                raise  # SQLite rolled back the whole transaction, so the round is lost
            if not alone:
                self._db.execute("ROLLBACK TO job")
            outcome = _Outcome(error=self._fault(error) if isinstance(error, sqlite3.Error) else error)
            self._remember(entry, outcome)
        if not alone:
            self._db.execute("RELEASE job")
        return outcome

    def _remember(self, entry: _Entry, outcome: _Outcome) -> None:
        if entry.future is None and outcome.error is not None:
            self._lost.setdefault(entry.lane, outcome.error)

    def _refuse_foreign(self) -> None:
        """Raise unless the open file is the one at the path, and contains what we put there."""
        self._refuse_moved()
        if self._paths and (odd := self._schema.foreign(self._db)) is not None:
            unknown = self._schema.unknown(self._db)  # a newer process migrated it meanwhile
            raise _ForeignError(unknown or f"{odd}: set the file aside for inspection and restart")

    def _refuse_moved(self) -> None:
        try:
            if _identities(self._paths) == self._files:
                return
            why = "it or its -wal file was replaced by another file"
        except OSError as error:
            why = f"it or its -wal file is no longer at its path ({error.strerror})"
        raise _ForeignError(f"{why}: put it back, or restart")

    def _undo(self) -> None:
        """After a failed round. If the rollback fails too, so does the next BEGIN: still nothing is written."""
        if self._db.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")

    def _deliver(self, batch: Sequence[_Entry], outcomes: Sequence[_Outcome]) -> None:
        """Wake each event loop once per round, however many of its coroutines wait."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], _Outcome]]] = {}
        for entry, outcome in zip(batch, outcomes, strict=True):
            if entry.future is not None:
                by_loop.setdefault(entry.future.get_loop(), []).append((entry.future, outcome))
        for loop, answers in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_resolve, answers)

    def _abandon(self, batch: list[_Entry]) -> None:
        with self._gate:
            self._closed = True
        while not self._queue.empty():
            entry = self._queue.get_nowait()
            if entry is not None:
                batch = [*batch, entry]
        gone = f"{self._name} can no longer be written: its thread has ended; restart the process"
        self._deliver(batch, [_Outcome(error=self._unavailable(gone)) for _ in batch])

    # -- shared ------------------------------------------------------------------------------------------------------

    def _put(self, entry: _Entry) -> None:
        with self._gate:
            if self._closed:
                raise self._unavailable(f"{self._name} is closed; open a new one")
            if not self._inline:
                self._queue.put(entry)
                if not entry.lazy:
                    self._hurry.set()
                return
            outcomes = self._round([entry])
        if entry.future is not None:
            _resolve([(entry.future, outcomes[0])])

    def _refuse_if_lost(self, _db: sqlite3.Connection | None = None) -> None:
        for error in self._lost.values():
            raise self._unavailable(f"an earlier write was lost: {error}")

    def _fault(self, error: sqlite3.Error | _ForeignError) -> BelljarError:
        why = _advice(error, self._busy_timeout_s) if isinstance(error, sqlite3.Error) else str(error)
        return self._unavailable(f"{self._name} cannot be written: {why}")

    # -- opening -----------------------------------------------------------------------------------------------------

    def _open(self, path: Path | None, schema: Schema) -> sqlite3.Connection:
        db: sqlite3.Connection | None = None
        try:
            if path is not None:
                _create_private(path)
            db = sqlite3.connect(
                path or ":memory:", timeout=self._busy_timeout_s, isolation_level=None, check_same_thread=False
            )
            before = _identities([path] if path is not None else [])
            self._configure(db, in_memory=path is None)
            self._prepare(db, schema)
            self._paths = _files(path)  # the first transaction has created the side files
            self._files = _identities(self._paths)
            if self._files[:1] != before:
                raise self._unavailable(f"cannot open {self._name}: the file was replaced meanwhile; try again")
        except (OSError, sqlite3.Error) as error:
            if db is not None:
                db.close()
            reason = _advice(error, self._busy_timeout_s) if isinstance(error, sqlite3.Error) else _os_advice(error)
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
        db.execute("PRAGMA trusted_schema=OFF")  # a view or trigger planted in the file can call no function

    def _enter_wal(self, db: sqlite3.Connection) -> str:
        """SQLite does not wait for the lock for this statement, so we do, in case several processes start at once."""
        deadline = time.monotonic() + self._busy_timeout_s
        while True:
            try:
                return str(db.execute("PRAGMA journal_mode=WAL").fetchone()[0])
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.005)

    def _prepare(self, db: sqlite3.Connection, schema: Schema) -> None:
        with contextlib.closing(db.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            if is_blank(db):
                for statement in schema.statements:
                    cursor.execute(statement)
                cursor.execute(f"PRAGMA application_id={schema.application_id:d}")
                cursor.execute(f"PRAGMA user_version={schema.version:d}")
            mark = cursor.execute("PRAGMA application_id").fetchone()[0]
            unknown = schema.unknown(db)
            ours = mark == schema.application_id and unknown is None
            # An older one is migrated here, wholly or not at all.
            odd = schema.upgrade(db) if ours else None
            cursor.execute("COMMIT" if odd is None else "ROLLBACK")
        if mark != schema.application_id:
            raise self._unavailable(f"cannot open {self._name}: the file is something else; choose another path")
        if unknown is not None:
            raise self._unavailable(f"cannot open {self._name}: {unknown}")
        if odd is not None:
            raise self._unavailable(f"cannot open {self._name}: {odd}; set the file aside for inspection")

    # -- forks ----------------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        """In a forked child. The parent holds its lock on the file, so closing writes nothing."""
        self._gate = threading.Lock()
        self._closed = True
        if hasattr(self, "_db"):  # it could be opened
            self._db.close()


class _ForeignError(Exception):
    """The file, or what it contains, is not what this process opened."""


def _files(path: Path | None) -> list[Path]:
    """The database and its two side files, which are part of it; none for a database in memory."""
    if path is None:
        return []
    real = path.resolve()  # SQLite puts its side files beside what a symbolic link points to
    return [path, *(real.with_name(real.name + suffix) for suffix in ("-wal", "-shm"))]


def _identities(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Device and inode of each.

    While SQLite has a file open, no other file gets its inode, so we need not hold it open too. Nor may we: closing a
    descriptor of our own would drop this process's locks.
    """
    return [(stat.st_dev, stat.st_ino) for stat in map(os.stat, paths)]


_WRITERS: weakref.WeakSet[Writer] = weakref.WeakSet()
_steadied: list[Writer] = []


def _before_fork() -> None:
    _steadied.extend(_WRITERS)
    for writer in _steadied:
        writer._steady.acquire()


def _after_fork_in_parent() -> None:
    while _steadied:
        _steadied.pop()._steady.release()


def _after_fork_in_child() -> None:
    for writer in _steadied:
        writer._forget()
    _after_fork_in_parent()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def _nothing(_db: sqlite3.Connection) -> None:
    """A job that only marks a place in the queue."""


def _resolve(answers: Sequence[tuple[asyncio.Future[Any], _Outcome]]) -> None:
    for future, outcome in answers:
        if future.done():  # cancelled while the round ran
            continue
        if outcome.error is not None:
            future.set_exception(outcome.error)
        else:
            future.set_result(outcome.result)


def _create_private(path: Path) -> None:
    """Create the file readable by its owner only; SQLite gives its side files the same mode.

    Only ever a new file: closing a descriptor on an open database would drop this process's locks on it.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _os_advice(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "its folder does not exist; create it or choose another"
    return f"{error.strerror or error}; check the path and its permissions"


def _advice(error: sqlite3.Error, busy_timeout_s: float) -> str:
    """One line: what SQLite says, and what to do."""
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_FULL:
            return "the disk is full; free some space"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"another process has held its lock for more than {busy_timeout_s:g} s; find and end that process"
        case sqlite3.SQLITE_CONSTRAINT:
            return f"{error}; its contents contradict each other, so verify it before anything else"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN:
            return f"{error}; check the path and its permissions"
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return f"{error}; set the file aside for inspection and choose another path"
        case _:
            return f"{error}; check the disk"
