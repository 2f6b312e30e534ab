"""The ledger: quotas in a journal, shared by every process that has it open.

Each public method is one job of the journal, so it is one step inside a transaction that holds the write lock: what it
reads cannot change before what it writes is committed. That is the whole argument against overspending. `accounts` has
the rules.

Most methods take work of somebody else `beside` their own: the log's record of the same action. Both are written in one
transaction, or neither is, so no reservation stands without a record and no charge without an outcome.

What ends something (a settlement, a release, the closing of a run) has to be written even if the ledger is out of reach
at the time; otherwise its amounts would stay held for as long as this process lives. So an end that fails is *owed*: it
is tried again, in order, before the next request. If it was done after all, it then does nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from belljar.errors import BelljarError, HostFault, InvalidInput, LedgerUnavailable
from belljar.identity import RunId, Tenant
from belljar.journal import Draft, Job, Journal
from belljar.journal.tables import BOXES, LIMITED, LIMITS, RUNS, Key, LimitsRow, RunRow
from belljar.ledger import accounts
from belljar.ledger.base import (
    NOTHING,
    Abandoned,
    Amounts,
    Balance,
    Changes,
    Limits,
    Remaining,
    Room,
    check_amounts,
    check_limits,
    minute_of,
)
from belljar.tasks import to_the_end

__all__ = ["LOOK_S", "BoxIds", "Ledger"]

_T = TypeVar("_T")
# How soon a failed write is tried again if nothing else is asked of the ledger.
_AGAIN_S = 5.0
# How often one looks whether another process has changed a limit, while somebody waits for a period.
LOOK_S: Final = 2.0
_ONE_BOX = Amounts(boxes=1)


class BoxIds(NamedTuple):
    """The reservations of one run's box: for the box itself, and of its first portion."""

    box: str
    portion: str

    @classmethod
    def new(cls) -> BoxIds:
        return cls(accounts.new_id(_ONE_BOX), accounts.new_id(_ONE_BOX))


class Ledger:
    """Quotas. Every method raises `LedgerUnavailable` if the ledger cannot be read or written: then the answer is no.

    A method that is cancelled may have taken effect, with one exception: a cancelled `reserve` leaves nothing held.
    A `settle`, `release` or `close_run` that could not be written, and the end of a `reserve` that failed, are tried
    again, in order, with the next request to the ledger and every few seconds.

    Args:
        journal: where it is kept. Close the ledger before it.
        owner: names whoever opens the runs, and nobody else ever; `recover` asks about it.
    """

    def __init__(self, journal: Journal, *, owner: str) -> None:
        self._owner = owner
        self._journal = journal
        # Not one event for all: it belongs to the loop that first waits for it, and a ledger may outlive a loop.
        self._watching = weakref.WeakSet[asyncio.Event]()
        self._watching_limits = weakref.WeakKeyDictionary[asyncio.Event, RunId]()
        # What stood there for the levels of those runs when it was last seen, and when to look again.
        self._limits_seen: dict[RunId, tuple[LimitsRow | None, ...]] = {}
        self._next_look_at = 0.0
        self._owed: list[Job[object]] = []
        self._again: asyncio.TimerHandle | None = None
        # Of the runs that were opened here: what the rows of a reservation depend on, and those of the last day.
        self._opened: dict[RunId, tuple[Tenant, Limits]] = {}
        self._keys: dict[tuple[RunId, str], tuple[Key, ...]] = {}

    async def open_run(
        self,
        run: RunId,
        tenant: Tenant,
        *,
        run_limits: Limits,
        tenant_limits: Limits,
        parent: RunId | None = None,
        beside: Job[_T] | None = None,
    ) -> _T | None:
        """Open the account of a run that this process owns.

        For this run, `tenant_limits` apply to every level of the tenant for which no limit is set. Their
        gauges hold at each moment, whatever the period.

        With `parent`, the run has a slice of it: its limits are held on the account of the parent, and what it used is
        charged there instead once it is closed. Where it has no limit and its parent has one, it gets all that the
        parent has left. Both are limited in total, not for a period.

        Args:
            parent: the run that starts it, which the run's id names, too; None for a root.

        Returns:
            What `beside` gives; None where there is none.

        Raises:
            InvalidInput: `run.exists`, `limit.invalid`; `run.parent`: it is another run, or another tenant's.
            QuotaExceeded: the parent has not that much left; its account is the `scope`. Or a level of the tenant has
                no runs that deep (`quota.tenant.depth`).
            LedgerUnavailable: also where the parent is not known, or closed.
        """
        if parent != run.parent:
            raise InvalidInput(
                f"run {run} cannot be a child of {parent}; make a child's id with `parent.child(number)`",
                code="run.parent",
            )
        check_limits(run_limits)
        check_limits(tenant_limits, of_policy=True)
        encoded = msgspec.json.encode(run_limits), msgspec.json.encode(tenant_limits)
        row = RunRow(run, tenant, self._owner, *encoded, is_open=1)

        def work(draft: Draft) -> _T | None:
            accounts.open_run(draft, row)
            return None if beside is None else beside.work(draft)

        needs = () if parent is None else accounts.slice_keys(parent) + accounts.limit_keys(tenant)
        result = await self._submit(Job(work, needs if beside is None else needs + beside.needs), lane=run)
        self._opened[run] = (tenant, run_limits)
        return result

    async def change_limits(
        self,
        tenant: Tenant,
        changes: Changes,
        *,
        beside: Callable[[Limits], Job[object]] | None = None,
    ) -> list[Limits]:
        """Change some dimensions of one level's limits in some periods; all others stay. None is unlimited.

        Applies from the next `reserve` on.

        Returns what then stands in those periods. Of each, what `beside` makes is written with it.

        Raises:
            InvalidInput: `limit.invalid`.
        """
        _check_changes(changes)
        return await self._limits_job(lambda draft: accounts.change_limits(draft, tenant, changes), beside)

    async def apply_limits(
        self, wanted: Mapping[Tenant, Changes], *, beside: Callable[[Tenant, Limits], Job[object]]
    ) -> int:
        """Change the limits of many levels where they differ, all in one transaction; what is not named stays.

        Returns how many periods of levels were changed. Of each, what `beside` makes is written with it.

        Raises:
            InvalidInput: `limit.invalid`.
        """
        for changes in wanted.values():
            _check_changes(changes)

        def work(draft: Draft) -> int:
            count = 0
            for tenant, changes in wanted.items():
                for limits in accounts.change_limits(draft, tenant, accounts.differing(draft, tenant, changes)):
                    beside(tenant, limits).work(draft)
                    count += 1
            return count

        needs = tuple((LIMITS, (tenant, period)) for tenant, changes in wanted.items() for period in changes)
        changed = await self._submit(Job(work, needs))
        self._tell_of_limits()
        return changed

    async def clear_limits(
        self, tenant: Tenant, *, beside: Callable[[Limits], Job[object]] | None = None
    ) -> list[Limits]:
        """Forget what was set for this level, for all periods. Returns what that was; `beside` as above."""
        return await self._limits_job(lambda draft: accounts.clear_limits(draft, tenant), beside)

    async def _limits_job(
        self, change: Callable[[Draft], list[Limits]], beside: Callable[[Limits], Job[object]] | None
    ) -> list[Limits]:
        def work(draft: Draft) -> list[Limits]:
            changed = change(draft)
            if beside is not None:
                for limits in changed:
                    beside(limits).work(draft)
            return changed

        changed = await self._submit(Job(work))
        self._tell_of_limits()
        return changed

    async def limits(self, tenant: Tenant) -> list[Limits]:
        """What is set for this level, at most one for each period."""
        return await self._submit(Job(lambda draft: accounts.limits_of(draft, tenant)))

    async def reserve(
        self,
        run: RunId,
        amounts: Amounts,
        *,
        now: float,
        dispatched: bool = False,
        kept: Amounts = NOTHING,
        beside: Job[object] | None = None,
        undone: Callable[[], Job[object]] | None = None,
    ) -> str:
        """Hold `amounts` on every level, root first, then the run, or on none. Returns the reservation's id.

        With `dispatched` it begins as if `dispatch` had been called, for a request that is sent at once. `kept` must be
        left as well, but is not held. Only dimensions that are asked for need room.

        If it is cancelled or fails, what it may have held is given back, and what `undone` makes is written with
        that.

        Raises:
            QuotaExceeded: `code` is the policy's key of the limit (`quota.run.calls`), `observed` what the total would
                have been.
            InvalidInput: `amount.invalid`.
        """
        check_amounts(amounts)
        reservation = accounts.new_id(amounts)
        minute = minute_of(now)
        state = "dispatched" if dispatched else "held"

        def work(draft: Draft) -> None:
            accounts.reserve(draft, reservation, run, amounts, kept, minute, state)

        try:
            await self._submit(Job(work, self._keys_of(run, minute)).then(beside), lane=run if beside else "")
        except (asyncio.CancelledError, HostFault):  # nobody will know the id
            told = None if undone is None else undone()
            undoing = self._owe(_end_once(reservation, "released", NOTHING, told))
            if undoing is not None:
                await to_the_end(asyncio.wait([undoing]))
            raise
        return reservation

    def box_job(
        self, run: RunId, ids: BoxIds, least: Amounts, most: Amounts, *, tenant: Tenant, limits: Limits, now: float
    ) -> Job[Amounts]:
        """Work that holds a box for a run, and its first portion; for `open_run`. It gives what the portion holds.

        It raises `QuotaExceeded` where there is no room for one more box or for `least`.
        """
        minute = minute_of(now)

        def work(draft: Draft) -> Amounts:
            accounts.reserve(draft, ids.box, run, _ONE_BOX, NOTHING, minute, "held")
            return accounts.reserve_portion(draft, ids.portion, run, least, most, minute)

        return Job(work, accounts.keys_of(run, tenant, limits, minute, BOXES))

    def admit_job(self, tenant: Tenant, asked: Amounts, *, tenant_limits: Limits, now: float) -> Job[None]:
        """Work that raises `QuotaExceeded` where nothing is left for a run that would ask for this; nothing is held.

        Args:
            tenant_limits: as of `open_run`.
        """
        minute = minute_of(now)
        needs = accounts.limit_keys(tenant)
        return Job(lambda draft: accounts.admit(draft, tenant, tenant_limits, asked, minute), needs)

    async def next_portion(
        self, run: RunId, before: str, charged: Amounts, least: Amounts, most: Amounts, *, now: float
    ) -> tuple[str, Amounts]:
        """Settle the portion `before`, and reserve the next one, dispatched, in one transaction.

        Returns:
            The new reservation and what it holds: `most`, or what is fair to others if that is less, but at least
            `least`.

        Raises:
            QuotaExceeded: there is no room for `least`; `before` is as it was.
        """
        check_amounts(charged)
        reservation, minute = accounts.new_id(least), minute_of(now)
        keys = accounts.keys_of(run, *self._opened[run], minute, BOXES) if run in self._opened else ()

        def work(draft: Draft) -> Amounts:
            accounts.end(draft, before, "settled", charged)
            return accounts.reserve_portion(draft, reservation, run, least, most, minute)

        try:
            held = await self._submit(Job(work, keys))
        except (asyncio.CancelledError, HostFault):  # nobody will know the id
            self._owe(_end_once(reservation, "released", NOTHING, None))
            raise
        self._tell()
        return reservation, held

    async def dispatch(self, reservation: str) -> None:
        """Note that the request is about to leave the host: from now on a crash is charged in full."""
        await self._submit(Job(lambda draft: accounts.dispatch(draft, reservation)))

    async def settle(
        self, reservation: str, actual: Amounts, *, lazy: bool = False, beside: Job[object] | None = None
    ) -> None:
        """End it: charge `actual`, even if that is more than was held, and give back what was held.

        With `lazy` it may take a few milliseconds longer, which spares everybody else's commits.

        Raises:
            LedgerUnavailable: it had already ended; nothing changes.
            InvalidInput: `amount.invalid`.
        """
        check_amounts(actual)
        await self._end(reservation, "settled", actual, lazy=lazy, beside=beside)

    def settle_once(self, reservation: str, actual: Amounts, *, beside: Job[object]) -> None:
        """`settle` it, if it has not ended, and wait for nothing: it is tried until it is done."""
        self._owe(_end_once(reservation, "settled", actual, beside))

    async def release(self, reservation: str, *, beside: Job[object] | None = None) -> None:
        """End it and charge nothing.

        Raises:
            LedgerUnavailable: it had already ended; nothing changes.
        """
        await self._end(reservation, "released", NOTHING, beside=beside)

    async def _end(
        self,
        reservation: str,
        state: str,
        charged: Amounts,
        *,
        lazy: bool = False,
        beside: Job[object] | None = None,
    ) -> None:
        job = Job(lambda draft: accounts.end(draft, reservation, state, charged))
        try:
            await self._submit(job.then(beside), lazy=lazy)
        except HostFault:
            self._owe_later(_end_once(reservation, state, charged, beside))
            raise
        self._tell()

    async def remaining(
        self, run: RunId, *, now: float, for_program: bool = False, until: float | None = None, own: bool = False
    ) -> Remaining:
        """What `reserve` would still admit, in each dimension by itself.

        With `until`, seconds since the epoch, limits of a period that is over by then do not count.
        With `for_program` it is what a run's program may know: levels above its tenant count only once they have
        nothing left. How large they are, and how much others use of them, is not its business. With `own`, only the
        run's own limits count, which for a child are its slice.
        """
        minute = minute_of(now)

        def remaining(draft: Draft) -> Remaining:
            return accounts.remaining(draft, run, minute, for_program, until, own)

        return await self._submit(Job(remaining, self._keys_of(run, minute)))

    async def room(self, run: RunId, *, now: float) -> Room:
        """What `remaining` would be without what is held."""
        minute = minute_of(now)

        def work(draft: Draft) -> tuple[Room, tuple[LimitsRow | None, ...]]:
            return accounts.room(draft, run, minute), accounts.limits_above(draft, run)

        room, limits = await self._submit(Job(work, self._keys_of(run, minute)))
        self._see_limits(run, limits)
        return room

    def now(self) -> float:
        """The journal's clock, by which all that share it tell one period from the next: seconds since the epoch."""
        return self._journal.now()

    def changed(self, run: RunId) -> asyncio.Event:
        """An event, set once a limit is changed through this object after this call.

        If another process changes one of a level of this run's tenant after the next `room`, `look_for_changes` sets
        it.
        """
        watched = set(self._watching_limits.values())
        self._limits_seen = {known: limits for known, limits in self._limits_seen.items() if known in watched}
        event = asyncio.Event()
        self._watching_limits[event] = run
        return event

    async def look_for_changes(self) -> None:
        """Look whether another process has changed a limit, and if so, set what `changed` has given.

        One look every `LOOK_S` seconds serves all who wait, so each of them may ask for it. While the ledger is out of
        reach it finds nothing.
        """
        now = asyncio.get_running_loop().time()
        if now < self._next_look_at:
            return
        self._next_look_at = now + LOOK_S
        runs = set(self._watching_limits.values())
        rows = [((RUNS, (run,)), *accounts.limit_keys(self._opened[run][0])) for run in runs if run in self._opened]

        def work(draft: Draft) -> dict[RunId, tuple[LimitsRow | None, ...]]:
            return {run: accounts.limits_above(draft, run) for run in runs}

        with contextlib.suppress(LedgerUnavailable):
            for run, limits in (await self._submit(Job(work, tuple(itertools.chain(*rows))))).items():
                self._see_limits(run, limits)

    def _see_limits(self, run: RunId, limits: tuple[LimitsRow | None, ...]) -> None:
        if self._limits_seen.get(run, limits) != limits:
            self._tell_of_limits()
        self._limits_seen[run] = limits

    def freed(self) -> asyncio.Event:
        """An event, set once something held is given back through this object after this call.

        A hint to look again early: other processes do not set it, and what was given back may not help the caller.
        """
        event = asyncio.Event()
        self._watching.add(event)
        return event

    def _tell(self) -> None:
        for event in self._watching:
            event.set()

    def _tell_of_limits(self) -> None:
        for event in self._watching_limits:
            event.set()

    async def close_run(
        self,
        run: RunId,
        *,
        charged: Mapping[str, Amounts] | None = None,
        beside: Job[_T] | None = None,
        below: accounts.Beside = None,
    ) -> _T | None:
        """Close the run: release what is held, charge in full what is dispatched. Closing twice is harmless.

        Runs below it that are still open are closed first, in the same way.

        Args:
            charged: reservations that are known to have cost something else, if they are open.
            below: makes what is to be written beside the end of each run below.

        Returns:
            What `beside` gives; None where there is none.

        Raises:
            LedgerUnavailable: also where somebody else has closed it before and there is something `beside`, which then
                is not written.
        """
        known = dict(charged or {})

        def work(draft: Draft) -> _T | None:
            was_open = accounts.close_run(draft, run, known, below)
            if beside is None:
                return None
            if not was_open:
                raise LedgerUnavailable(f"run {run} was already closed, with its parent or by a host that took over")
            return beside.work(draft)

        needs = () if run.parent is None else accounts.slice_keys(run.parent)
        job = Job(work, needs if beside is None else needs + beside.needs)
        try:
            result = await self._submit(job, lane=run if beside else "", last=beside is not None)
        except HostFault:
            self._owe_later(_close_once(run, beside, known, below))
            raise
        self._forget(run)
        self._tell()
        return result

    async def balance(self, account: str, key: str) -> Balance:
        """One account (`acme/research`, or `run_account(run)`) in one period (`period_key`); zeros if never used."""
        return await self._submit(Job(lambda draft: accounts.balance(draft, account, key)))

    async def spent(self, account: str, key: str) -> Amounts:
        """The `used` part of `balance`."""
        return (await self.balance(account, key)).used

    async def owners(self) -> frozenset[str]:
        """Whoever has open runs."""
        return frozenset(await self._submit(Job(accounts.owners)))

    async def recover(
        self, is_alive: Callable[[str], bool], beside: Callable[[Abandoned], Job[object]] | None = None
    ) -> int:
        """Close the runs whose owner is not alive, as `close_run` does, each with what is to be written `beside`.

        Runs below them are closed, too, whoever owns them. Returns how many.
        """
        # `is_alive` does not run under the write lock. A dead owner stays dead, and so do its runs.
        dead = [owner for owner in sorted(await self.owners()) if owner != self._owner and not is_alive(owner)]
        if not dead:
            return 0
        closed = 0
        for run in await self._submit(Job(lambda draft: accounts.owned_by(draft, dead))):
            closed += await self._submit(Job(functools.partial(accounts.abandon, run=run, beside=beside)))
        self._tell()
        return closed

    async def check_books(self) -> list[str]:
        """Recompute every balance from the reservations. One line for each difference; empty if all balance."""
        return await self._submit(Job(lambda draft: accounts.check(draft.query)))

    async def aclose(self) -> None:
        """Try once more what is owed. The journal stays open."""
        self._catch_up()
        await self._submit(Job(lambda _: None))

    def _keys_of(self, run: RunId, minute: str) -> tuple[Key, ...]:
        """The rows that a reservation of a run needs, as far as this process can know."""
        day = minute[:10]
        if (keys := self._keys.get((run, day))) is None:
            if run not in self._opened:
                return ()
            self._keys = {known: keys for known, keys in self._keys.items() if known[1] == day}
            keys = self._keys[run, day] = accounts.keys_of(run, *self._opened[run], day)
        return keys

    def _forget(self, run: RunId) -> None:
        self._opened.pop(run, None)
        self._keys = {known: keys for known, keys in self._keys.items() if known[0] != run}

    # -- what is owed ------------------------------------------------------------------------------------------------

    def _submit(self, job: Job[_T], *, lazy: bool = False, lane: str = "", last: bool = False) -> asyncio.Future[_T]:
        self._catch_up()
        return self._journal.submit(job, lane=lane, lazy=lazy, last=last, unavailable=LedgerUnavailable)

    def _catch_up(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        owed, self._owed = self._owed, []
        for job in owed:
            self._owe(job)

    def _owe(self, job: Job[object]) -> asyncio.Future[object] | None:
        """Have it done now, and if that cannot be, later. None if the journal is closed: then `recover` does it."""
        try:
            done = self._journal.submit(job, unavailable=LedgerUnavailable)
        except LedgerUnavailable:
            return None
        done.add_done_callback(lambda done: self._look_at(done, job))
        return done

    def _look_at(self, done: asyncio.Future[object], job: Job[object]) -> None:
        if not done.cancelled() and isinstance(done.exception(), BelljarError):
            self._owe_later(job)

    def _owe_later(self, job: Job[object]) -> None:
        self._owed.append(job)
        if self._again is None:
            self._again = asyncio.get_running_loop().call_later(_AGAIN_S, self._catch_up)


def _check_changes(changes: Changes) -> None:
    nothing: dict[str, int | None] = dict.fromkeys(LIMITED)
    for period, bounds in changes.items():
        check_limits(Limits(period, **(nothing | dict(bounds))))


def _end_once(reservation: str, state: str, charged: Amounts, beside: Job[object] | None) -> Job[object]:
    """End a reservation and write what goes with it, if that was not done before."""

    def work(draft: Draft) -> None:
        if accounts.end_if_open(draft, reservation, state, charged) and beside is not None:
            beside.work(draft)

    return Job(work)


def _close_once(
    run: RunId, beside: Job[Any] | None, charged: Mapping[str, Amounts], below: accounts.Beside
) -> Job[object]:
    def work(draft: Draft) -> None:
        if accounts.close_run(draft, run, charged, below) and beside is not None:
            beside.work(draft)

    return Job(work)
