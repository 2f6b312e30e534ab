"""The orders of all services on one journal: each method is one transaction.

    who            writes
    submit         the row, `queued`, before the order has an answer
    the run        `running` in the transaction that begins it, and how it ended in the one that ends it
    its desk       `cancelled`, `refused` and `interrupted`, where there was no run, or none any more
    other hosts    `cancelling`, which its desk looks for each second; `interrupted`, once its process is dead

So an order and the log never tell different stories, and none of it costs a run another flush of the disk.

An idempotency key finds the latest order of its tenant that has the key. Of an interrupted one a retry makes another
order with the same key, which the first names (`again`); from then on that one is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, TypeVar

from belljar.errors import AuditUnavailable, PolicyDenied
from belljar.identity import RunId, Tenant
from belljar.jobs.orders import (
    CANCELLED,
    CANCELLING,
    INTERRUPTED,
    OPEN,
    QUEUED,
    REFUSED,
    RUNNING,
    IdempotencyConflict,
)
from belljar.journal import Draft, Job, Journal
from belljar.journal.tables import ORDERS, OrderRow

__all__ = ["OrderBook", "Taken"]

_T = TypeVar("_T")
_OF_KEY: Final = "SELECT run FROM orders WHERE tenant = ? AND idem = ? AND idem <> '' ORDER BY since DESC, run DESC"
_CANCELLING: Final = f"SELECT run FROM orders WHERE owner = ? AND ended_at = 0 AND state = '{CANCELLING}'"  # noqa: S608
_LATELY: Final = "SELECT run, ended_at FROM orders WHERE ended_at >= ? AND state {} ORDER BY ended_at, run LIMIT ?"
_OLD: Final = "SELECT run FROM orders WHERE ended_at <> 0 AND since < ? LIMIT 500"


class Taken(NamedTuple):
    """The order that a request has, and whether it is a new one."""

    row: OrderRow
    is_new: bool


class OrderBook:
    """Args:
    journal: where the orders are.
    owner: what it calls this process.
    kept_s: how long an order, and its key, is remembered.
    """

    def __init__(self, journal: Journal, *, owner: str, kept_s: float) -> None:
        self._journal = journal
        self._owner = owner
        self._kept_s = kept_s

    def new(self, run: RunId, tenant: Tenant, by: str, idem: str, digest: bytes) -> OrderRow:
        """An order that nobody has taken yet."""
        now = int(self._journal.now())
        return OrderRow(str(run), str(tenant), by, idem, digest, QUEUED, self._owner, "", now, 0)

    async def known(self, tenant: Tenant, idem: str, digest: bytes) -> OrderRow | None:
        """The order that a key has made; None if there is none.

        Raises:
            IdempotencyConflict: it was for another request.
        """
        return await self._do(lambda draft: self._known(draft, str(tenant), idem, digest))

    async def take(self, row: OrderRow, admission: Job[None], *, retries: str | None = None) -> Taken:
        """Write a new order, if its quota admits it, and nobody else has made one with its key meanwhile.

        Args:
            retries: the interrupted order, which is to name this one.

        Raises:
            IdempotencyConflict: as `known`.
            QuotaExceeded: as `admission` does.
        """

        def work(draft: Draft) -> Taken:
            known = self._known(draft, row.tenant, row.idem, row.digest) if row.idem else None
            if known is not None and (known.run != retries or known.state != INTERRUPTED):
                return Taken(known, is_new=False)
            admission.work(draft)
            if known is not None:
                draft.put(ORDERS, known._replace(again=row.run))
            draft.put(ORDERS, row)
            return Taken(row, is_new=True)

        return await self._submit(Job(work, admission.needs))

    def _known(self, draft: Draft, tenant: str, idem: str, digest: bytes) -> OrderRow | None:
        for (run,) in draft.query(_OF_KEY, tenant, idem):
            row = draft.get(ORDERS, run)
            if row is None or row.again or (row.ended_at and row.since < self._oldest()):
                continue
            if row.digest != digest:
                raise IdempotencyConflict
            return row
        return None

    async def row(self, run: str) -> OrderRow | None:
        return await self._do(lambda draft: draft.get(ORDERS, run))

    async def line(self, run: str) -> list[str]:
        """An order, and those with its key that were interrupted before it, the latest first."""

        def work(draft: Draft) -> list[str]:
            line, row = [run], draft.get(ORDERS, run)
            if row is not None and row.idem:
                found = (draft.get(ORDERS, name) for (name,) in draft.query(_OF_KEY, row.tenant, row.idem))
                before = {other.again: other.run for other in found if other is not None and other.again}
                while (earlier := before.get(line[-1])) is not None:
                    line.append(earlier)
            return line

        return await self._do(work)

    def begins(self, run: str) -> Job[None]:
        """For the transaction that begins the run: it raises where the order was cancelled meanwhile."""

        def work(draft: Draft) -> None:
            row = draft.get(ORDERS, run)
            if row is None or row.state != QUEUED:
                raise PolicyDenied("the order was cancelled before its turn came: order it again", code="order.gone")
            draft.put(ORDERS, row._replace(state=RUNNING))

        return Job(work, ((ORDERS, (run,)),))

    def ends(self, run: str, state: Callable[[], str]) -> Job[None]:
        """For the transaction that ends the run, or one of its own; nothing where it has ended."""

        def work(draft: Draft) -> None:
            row = draft.get(ORDERS, run)
            if row is not None and not row.ended_at:
                draft.put(ORDERS, row._replace(state=state(), ended_at=max(1, int(self._journal.now()))))

        return Job(work, ((ORDERS, (run,)),))

    async def end(self, runs: Iterable[str], state: str) -> None:
        """End orders that have no run, or none any more; those that have ended stay as they are."""
        jobs = [self.ends(run, lambda: state) for run in runs]

        def work(draft: Draft) -> None:
            for job in jobs:
                job.work(draft)

        await self._submit(Job(work, tuple(need for job in jobs for need in job.needs)))

    async def settle(self, run: str, state: str) -> str:
        """As `end`, of one order. Returns its state from now on."""
        ending = self.ends(run, lambda: state)

        def work(draft: Draft) -> str:
            ending.work(draft)
            row = draft.get(ORDERS, run)
            return state if row is None else row.state

        return await self._submit(Job(work, ending.needs))

    async def ask_to_cancel(self, run: str) -> None:
        """Let the process that has the order hear that it is to end it."""

        def work(draft: Draft) -> None:
            row = draft.get(ORDERS, run)
            if row is not None and row.state in OPEN:
                draft.put(ORDERS, row._replace(state=CANCELLING))

        await self._do(work)

    async def cancelling(self) -> list[str]:
        """The orders of this process that another one asked it to end."""
        return await self._do(lambda draft: [run for (run,) in draft.query(_CANCELLING, self._owner)])

    async def lately(self, since: int, *, interrupted: bool, limit: int) -> list[tuple[str, int]]:
        """Orders that ended since then, the first one first, with when; or only those of processes that died."""
        found = _LATELY.format(f"= '{INTERRUPTED}'" if interrupted else "<> ''")
        return await self._do(lambda draft: [(run, at) for run, at in draft.query(found, since, limit)])

    async def prune(self) -> int:
        """Forget orders that ended and are older than their keys are kept. Their runs stay in the log."""

        def work(draft: Draft) -> int:
            old = draft.query(_OLD, self._oldest())
            for (run,) in old:
                draft.remove(ORDERS, run)
            return len(old)

        return await self._do(work)

    def _oldest(self) -> int:
        return int(self._journal.now() - self._kept_s)

    async def _do(self, work: Callable[[Draft], _T]) -> _T:
        return await self._submit(Job(work))

    async def _submit(self, job: Job[_T]) -> _T:
        return await self._journal.submit(job, unavailable=AuditUnavailable)


assert {QUEUED, RUNNING, CANCELLING} == {*OPEN}, "an order that can still end"
assert {CANCELLED, INTERRUPTED, REFUSED}.isdisjoint(OPEN)
