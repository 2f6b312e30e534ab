"""Which call may begin now, which waits, and which is refused.

The ledger holds the worst case of each call under way, and most calls cost a small part of it. So a call that finds no
room beside what is held may still be affordable::

    it fits beside all that is held                     it begins
    it would if nothing of this run were under way      it waits for the run's calls to end, as long as the run has
                                                        time: each of them ends by its own deadline
    it would if nobody had anything under way           it waits for other runs of the tenant too, but no longer than
                                                        one call may take: what was under way has ended by then
    not even then, but in a period that begins soon     it waits for that, if it begins within the time that the policy
                                                        allows (`quota.wait`) and that the run or cell has
    no, or only a shorter answer fits                   it asks for the longest answer that fits; it is refused if that
                                                        is too short to be of use

A period's end comes by itself. So who waits for one sleeps until then, without asking for room, and holds nothing. Only
a limit that is changed wakes it up earlier: at once if that is done through this process's ledger, and within seconds
if by another process, since one look at the limits every few seconds serves all who wait in this one. The clock of
periods may jump meanwhile: how long it waits in all is measured by the other, monotonic one.

Within a run it is first come, first served. Calls that have to wait form a line, only its head tries to get in, and no
later call tries before the line is empty. So small calls cannot starve a large one; and the head holds nothing that the
calls under way need to end, so the line moves. A call that leaves the line (a cancellation) leaves nothing held.

The head wakes up when something is given back through this process's ledger. Other processes do not say so; so it
also looks by itself, at least once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from typing import Final, NamedTuple

from belljar.broker.run import RunScope
from belljar.errors import QuotaExceeded
from belljar.journal import Job
from belljar.ledger import DIMENSIONS, LOOK_S, NOTHING, PERIODS, Amounts, Ledger, Remaining, period_end, period_key

__all__ = ["Admission", "Bound", "Logged", "Records", "longest_input"]

# The worst case of a call whose answer has at most this many tokens.
Bound = Callable[[int], Amounts]


class Logged(NamedTuple):
    """What the log says of a call that is admitted, and of one that is given up in the same moment."""

    requested: Job[object]
    cancelled: Callable[[], Job[object]]


# The records of such a call.
Records = Callable[[int], Logged]

# A shorter answer is of no use: a clear refusal is better than a word cut in half.
_OUTPUT_TOKENS_MIN: Final = 16
_LOOK_S_MIN: Final = 0.05
_LOOK_S_MAX: Final = 1.0


class Admission:
    """Admits one run's calls. `check` raises when there is no point in waiting any longer."""

    def __init__(self, scope: RunScope, ledger: Ledger, *, check: Callable[[], None]) -> None:
        self._scope = scope
        self._ledger = ledger
        self._check = check
        self._line = asyncio.Lock()
        self._waiting = 0

    async def hold(
        self,
        bound: Bound,
        output_tokens_max: int,
        *,
        kept: Amounts,
        records: Records,
        deadline: float = math.inf,
        waits: Callable[[], None] = lambda: None,
    ) -> tuple[str, Amounts, int]:
        """Hold the worst case of a call, dispatched, and write its `records` with it; `kept` is left besides.

        After `deadline`, on the run's monotonic clock, an answer is of no use any more. `waits` is called if it has to
        wait for room.

        Returns:
            The reservation, what it holds, and how many tokens the answer may have.

        Raises:
            QuotaExceeded: it would not fit even with nothing under way, nor in a period that begins soon enough; or
                other runs were in the way for too long.
            PolicyDenied: `limits.run_wall`: the run's time ran out meanwhile.
        """
        worst = bound(output_tokens_max)
        if not self._waiting:
            with contextlib.suppress(QuotaExceeded):
                return await self._reserve(worst, kept, records(output_tokens_max)), worst, output_tokens_max
        waits()
        periods = _Periods(self._scope, deadline)
        self._waiting += 1
        try:
            async with self._line:
                return await self._in_turn(bound, output_tokens_max, kept, records, periods)
        except QuotaExceeded as refusal:
            raise refusal if periods.waited_s is None else refusal.after(periods.waited_s) from None
        finally:
            self._waiting -= 1

    async def _in_turn(
        self, bound: Bound, output_tokens_max: int, kept: Amounts, records: Records, periods: _Periods
    ) -> tuple[str, Amounts, int]:
        others_until: float | None = None
        pause_s = _LOOK_S_MIN
        while True:
            self._check()
            # Before looking, so that nothing that happens meanwhile is missed.
            changed = self._ledger.changed(self._scope.run)
            freed = self._ledger.freed()
            room = await self._ledger.room(self._scope.run, now=self._scope.now())
            longest = _longest(bound, output_tokens_max, kept, room.empty)
            if longest < output_tokens_max and (
                await self._waited_for_more(bound, output_tokens_max, kept, longest, periods, changed)
            ):
                continue
            tokens = longest or output_tokens_max
            worst = bound(tokens)
            try:
                return await self._reserve(worst, kept, records(tokens)), worst, tokens
            except QuotaExceeded:
                if not _fits(worst, kept, room.empty):
                    raise
                if not _fits(worst, kept, room.alone):
                    others_until = others_until or self._scope.monotonic() + self._scope.policy.models.call_wall_s
                    if self._scope.monotonic() >= others_until:
                        raise
            await self._wait(freed, pause_s)
            pause_s = min(2 * pause_s, _LOOK_S_MAX)

    async def _waited_for_more(
        self,
        bound: Bound,
        output_tokens_max: int,
        kept: Amounts,
        longest: int,
        periods: _Periods,
        changed: asyncio.Event,
    ) -> bool:
        """Wait for the first period in which a longer answer than this fits; False if none begins soon enough."""
        for begins, wait_s in periods.ahead():
            room = await self._ledger.room(self._scope.run, now=begins)
            if _longest(bound, output_tokens_max, kept, room.empty) > longest:
                await self._wait_for_period(changed, wait_s)
                periods.waited()
                return True
        return False

    async def _wait_for_period(self, changed: asyncio.Event, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while True:
            await self._wait(changed, min(until - loop.time(), LOOK_S))
            if changed.is_set() or loop.time() >= until:
                return
            await self._ledger.look_for_changes()

    async def _wait(self, freed: asyncio.Event, seconds: float) -> None:
        if self._scope.left_s() <= 0:
            raise self._scope.time_up()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await freed.wait()

    async def _reserve(self, worst: Amounts, kept: Amounts, records: Logged) -> str:
        return await self._ledger.reserve(
            self._scope.run,
            worst,
            now=self._scope.now(),
            dispatched=True,
            kept=kept,
            beside=records.requested,
            undone=records.cancelled,
        )


class _Periods:
    """How long one call may still wait for a period's end, from when it came."""

    def __init__(self, scope: RunScope, deadline: float) -> None:
        self._scope = scope
        self._began = scope.monotonic()
        self._until = min(self._began + scope.policy.quota.wait_s, deadline, scope.deadline)
        # None if it did not wait for one.
        self.waited_s: float | None = None

    def ahead(self) -> list[tuple[float, float]]:
        """When each of the periods that begin soon enough does, the earliest first, and the seconds until then."""
        now, left_s = self._scope.now(), self._until - self._scope.monotonic()
        if left_s <= 0:
            return []
        ends = [period_end(period, period_key(period, now)) for period in PERIODS]
        begins = sorted({end.timestamp() for end in ends if end is not None})
        return [(moment, moment - now) for moment in begins if moment - now <= left_s]

    def waited(self) -> None:
        self.waited_s = self._scope.monotonic() - self._began


def _longest(bound: Bound, output_tokens_max: int, kept: Amounts, left: Remaining) -> int:
    """The longest answer, in tokens, that fits into what is left; 0 if no useful one does."""
    shortest = min(_OUTPUT_TOKENS_MIN, output_tokens_max)
    return _largest(shortest, output_tokens_max, lambda tokens: _fits(bound(tokens), kept, left))


def longest_input(bound: Callable[[int, int], Amounts], tokens_max: int, left: Remaining) -> int:
    """The most input tokens that fit into what is left beside the shortest useful answer; 0 if none do.

    `bound` is the worst case of a call with so many input and output tokens.
    """
    return _largest(1, tokens_max, lambda tokens: _fits(bound(tokens, _OUTPUT_TOKENS_MIN), NOTHING, left))


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The largest of `low` to `high` that fits, where all that are smaller fit as well; 0 if none does."""
    if fits(high):
        return high
    if not fits(low):
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _fits(worst: Amounts, kept: Amounts, left: Remaining) -> bool:
    """Whether the ledger would admit it. Only dimensions that are asked for need room."""
    for dimension in DIMENSIONS:
        wanted, room = getattr(worst, dimension), getattr(left, dimension)
        if wanted and room is not None and wanted + getattr(kept, dimension) > room:
            return False
    return True
