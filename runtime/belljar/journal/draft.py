"""A round: jobs that see the store's rows, change them in memory, and are saved together.

Theory of operation. A *job* is a function of a `Draft`. It reads rows by their keys, decides, and puts rows; it never
speaks SQL that changes anything, so what it decides is the same whatever keeps the rows. A round runs many jobs inside
one transaction of the store::

    store.begin()                  the write lock, also against other processes and hosts
      load what the jobs say that they need, all at once
      job(draft)  job(draft) ...   in order; each sees what those before it changed; one that raises changes nothing
      store.save(what changed)     each row once, however many jobs changed it
    store.commit()                 the flush

What was loaded and saved is remembered for the next round: as long as nobody else has written to the store, and the
store knows, nothing is read twice. That is a memory of the database, never a number of our own: `begin` takes the lock
first, and says whether the memory still holds. If asking means a trip to another machine, the store may assume that it
does: a round that used an outdated memory is then not written, but run again (`Stale`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from belljar.journal.tables import RECORDS, Key, RecordRow, Table

__all__ = ["Ask", "Draft", "Job", "Outcome", "Stale", "Store", "StoreError", "Work", "run_round"]

_Row = TypeVar("_Row", bound="tuple[Any, ...]")
_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)

# Rows that are remembered from round to round; with all their objects, a kilobyte each.
_KNOWN_MAX: Final = 16_384
_HEAD: Final = (RECORDS, ())


class StoreError(Exception):
    """The store cannot be used now. The text goes on where "the journal cannot be written: " ends."""


class Stale(StoreError):
    """Nothing of the round was written, and the same round may succeed: run it again."""


class Store(Protocol):
    """What keeps the rows. Every method raises `StoreError`; after one, nothing of the round was written."""

    def begin(self) -> bool:
        """Begin a transaction that nobody else's can run beside.

        A store may also assume that nobody else has written, and find out in a later call, `commit` at the latest;
        that call then raises `Stale`, and the next `begin` assumes nothing.

        Returns:
            Whether somebody else may have written since this store's last transaction.
        """
        ...

    def load(self, table: Table[_Row], keys: Sequence[tuple[Any, ...]]) -> list[_Row]:
        """The rows that there are of these."""
        ...

    def query(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """What a SELECT gives, in SQL that every store understands, with `?` for each value."""
        ...

    def save(self, changes: Mapping[Key, Any]) -> None:
        """Write rows, each under its table and key; None removes it, after all that is added.

        Records are only ever added, and removed when they are in a pack.
        """
        ...

    def commit(self) -> None:
        """Make the transaction durable."""
        ...

    def living(self, lease_s: float) -> set[str] | None:
        """Remove the hosts that gave no sign of life for `lease_s` seconds; return the names of the others.

        A removed host can write nothing more, so its runs may be closed. None for a store of one machine.
        """
        ...

    def removed(self) -> bool:
        """Whether another host took this one for dead and removed it. In a store of one machine that never happens."""
        ...

    patience_s: float
    """Seconds that a round may wait for a lock, a connection or an answer: each of them, and not all together."""

    @property
    def host(self) -> str | None:
        """What other hosts call this one; None for a store of one machine."""
        ...

    def now(self) -> float:
        """The time by the clock that all writers share, in seconds since the epoch. Called by any thread; asks nobody.

        What shares a file shares its machine's clock. Hosts that share a server go by the server's.
        """
        ...

    @property
    def pulse_s(self) -> float | None:
        """Seconds between two calls of `pulse`; None: never."""
        ...

    def pulse(self) -> None:
        """Give a sign of life; called between transactions. Never raises: a host that gives none is removed later."""
        ...

    def rollback(self) -> None:
        """Undo what was begun, if anything was. Never raises."""
        ...

    def forget(self) -> None:
        """In a forked child: let go of what is the parent's, and write nothing."""
        ...

    def close(self) -> None: ...


class Ask(Protocol):
    """Whatever answers a SELECT, with `?` for each value: a draft, or a snapshot that only reads."""

    def __call__(self, statement: str, /, *values: object) -> list[tuple[Any, ...]]: ...


Work = Callable[["Draft"], _T]


@dataclass(frozen=True, slots=True)
class Job(Generic[_T_co]):
    """Work on a draft, and the keys of the rows that it is sure to want; it may ask for others.

    It may be run more than once before it counts, so it changes nothing but its draft.
    """

    work: Work[_T_co]
    needs: tuple[Key, ...] = ()

    def then(self, other: Job[object] | None) -> Job[_T_co]:
        """Both, in one transaction: if either raises, neither is done. The result is the first one's."""
        if other is None:
            return self

        def both(draft: Draft) -> _T_co:
            result = self.work(draft)
            other.work(draft)
            return result

        return Job(both, self.needs + other.needs)


@dataclass(slots=True)
class Outcome:
    result: Any = None
    error: Exception | None = None


class Draft:
    """The rows as one job sees them: those of the store, with what earlier jobs of the round and itself have put."""

    __slots__ = ("_own", "_round")

    def __init__(self, current: _Round) -> None:
        self._round = current
        self._own: dict[Key, Any] = {}

    def get(self, table: Table[_Row], *key: object) -> _Row | None:
        """The row with this key; None if there is none."""
        mark = (table, key)
        row: _Row | None = self._own[mark] if mark in self._own else self._round.row(mark)
        return row

    def put(self, table: Table[_Row], row: _Row) -> None:
        self._own[table, table.key_of(row)] = row

    def remove(self, table: Table[Any], *key: object) -> None:
        self._own[table, key] = None

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """What a SELECT gives, over all that was put before this job, and not over what this one has put."""
        return self._round.query(statement, values)

    def living(self, lease_s: float) -> set[str] | None:
        """`Store.living`. It takes effect even if the job raises."""
        return self._round.living(lease_s)

    def removed(self) -> bool:
        """`Store.removed`."""
        return self._round.removed()

    def head(self) -> tuple[int, bytes]:
        """The number and the hash of the log's last record; 0 and zeros where there is none."""
        found: tuple[int, bytes] = self._own[_HEAD] if _HEAD in self._own else self._round.head()
        return found

    def append(self, record: RecordRow) -> None:
        """Add a record, which must continue the last one."""
        self._own[RECORDS, (record.seq,)] = record
        self._own[_HEAD] = (record.seq, record.hash)

    @property
    def changes(self) -> dict[Key, Any]:
        return self._own


class _Round:
    """What is known of the store inside one transaction."""

    def __init__(self, store: Store, known: dict[Key, Any]) -> None:
        self._store = store
        self._known = known
        self._unsaved: dict[Key, Any] = {}
        self.changes: dict[Key, Any] = {}

    def prefetch(self, jobs: Iterable[Job[Any]]) -> None:
        wanted: dict[Table[Any], dict[tuple[Any, ...], None]] = {}
        for job in jobs:
            for mark in job.needs:
                if mark not in self._known:
                    wanted.setdefault(mark[0], {})[mark[1]] = None
        for table, keys in wanted.items():
            self._load(table, list(keys))

    def _load(self, table: Table[Any], keys: list[tuple[Any, ...]]) -> None:
        found = {table.key_of(row): row for row in self._store.load(table, keys)}
        for key in keys:
            self._known[table, key] = found.get(key)

    def row(self, mark: Key) -> Any:
        if mark in self.changes:
            return self.changes[mark]
        if mark not in self._known:
            self._load(mark[0], [mark[1]])
        return self._known[mark]

    def head(self) -> tuple[int, bytes]:
        if _HEAD in self.changes:
            return self.changes[_HEAD]  # type: ignore[no-any-return]
        if _HEAD not in self._known:
            last = self._store.query("SELECT seq, hash FROM records ORDER BY seq DESC LIMIT 1", ())
            if not last and self._store.query("SELECT block FROM packs LIMIT 1", ()):
                raise StoreError("the last records of the log are gone: verify it")
            self._known[_HEAD] = (last[0][0], last[0][1]) if last else (0, bytes(32))
        return self._known[_HEAD]  # type: ignore[no-any-return]

    def query(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        self.save()
        return self._store.query(statement, values)

    def living(self, lease_s: float) -> set[str] | None:
        self.save()
        return self._store.living(lease_s)

    def removed(self) -> bool:
        return self._store.removed()

    def attempt(self, job: Job[Any]) -> Outcome:
        draft = Draft(self)
        try:
            outcome = Outcome(job.work(draft))
        except StoreError:
            raise  # the transaction is lost, and with it the round
        except Exception as error:  # not handled here: carried to whoever awaits the job
            return Outcome(error=error)
        self.changes.update(draft.changes)
        self._unsaved.update(draft.changes)
        return outcome

    def save(self) -> None:
        rows = {mark: row for mark, row in self._unsaved.items() if mark != _HEAD}
        if rows:
            self._store.save(rows)
        self._unsaved.clear()


def run_round(store: Store, known: dict[Key, Any], jobs: Sequence[Job[Any]]) -> list[Outcome]:
    """Run jobs in one transaction, and give what became of each. `known` is what is remembered between rounds.

    Raises:
        Stale: nothing of the round was written, and it may be run once more.
        StoreError: nothing of the round was written.
    """
    try:
        if store.begin() or len(known) > _KNOWN_MAX:
            known.clear()
        current = _Round(store, known)
        current.prefetch(jobs)
        outcomes = [current.attempt(job) for job in jobs]
        current.save()
        store.commit()
    except StoreError:
        store.rollback()
        known.clear()
        raise
    known.update((mark, row) for mark, row in current.changes.items() if mark == _HEAD or mark[0].kept)
    return outcomes
