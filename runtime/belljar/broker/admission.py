"""Which call may begin now, which waits, and which is refused.

The ledger holds the worst case of each call under way, and most calls cost a small part of it. So a call that finds no
room beside what is held may still be affordable::

    it fits beside all that is held                     it begins
    it would if nothing of this run were under way      it waits for the run's calls to end, as long as the run has
                                                        time: each of them ends by its own deadline
    it would if nobody had anything under way           it waits for other runs of the tenant too, but no longer than
                                                        one call may take: what was under way has ended by then
    not even then                                       it asks for the longest answer that fits; it is refused if that
                                                        is too short to be of use

Within a run it is first come, first served. Calls that have to wait form a line, only its head tries to get in, and no
later call tries before the line is empty. So small calls cannot starve a large one; and the head holds nothing that the
calls under way need to end, so the line moves. A call that leaves the line (a cancellation) leaves nothing held.

The head wakes up when something is given back through this process's ledger. Other processes do not say so; so it
also looks by itself, at least once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, NamedTuple

from belljar.broker.run import RunScope
from belljar.errors import QuotaExceeded
from belljar.journal import Job
from belljar.ledger import DIMENSIONS, Amounts, Ledger, Remaining, Room

__all__ = ["Admission", "Bound", "Logged", "Records"]

# The worst case of a call whose answer has at most this many tokens.
Bound = Callable[[int], Amounts]


class Logged(NamedTuple):
    """What the log says of a call that is admitted, and of one that is given up in the same moment."""

    requested: Job[object]
    cancelled: Job[object]


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
        self, bound: Bound, output_tokens_max: int, *, kept: Amounts, records: Records
    ) -> tuple[str, Amounts, int]:
        """Hold the worst case of a call, dispatched, and write its `records` with it; `kept` is left besides.

        Returns:
            The reservation, what it holds, and how many tokens the answer may have.

        Raises:
            QuotaExceeded: it would not fit even with nothing under way, or other runs were in the way for too long.
            PolicyDenied: `limits.run_wall`: the run's time ran out meanwhile.
        """
        worst = bound(output_tokens_max)
        if not self._waiting:
            with contextlib.suppress(QuotaExceeded):
                return await self._reserve(worst, kept, records(output_tokens_max)), worst, output_tokens_max
        self._waiting += 1
        try:
            async with self._line:
                return await self._in_turn(bound, output_tokens_max, kept, records)
        finally:
            self._waiting -= 1

    async def _in_turn(
        self, bound: Bound, output_tokens_max: int, kept: Amounts, records: Records
    ) -> tuple[str, Amounts, int]:
        others_until: float | None = None
        pause_s = _LOOK_S_MIN
        while True:
            self._check()
            freed = self._ledger.freed()  # before looking, so that nothing that ends meanwhile is missed
            room = await self._ledger.room(self._scope.run, now=self._scope.now())
            tokens = _longest(bound, output_tokens_max, kept, room)
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


def _longest(bound: Bound, output_tokens_max: int, kept: Amounts, room: Room) -> int:
    """The longest answer, in tokens, that fits with nothing under way; the whole one if no useful one does."""
    low, high = min(_OUTPUT_TOKENS_MIN, output_tokens_max), output_tokens_max
    if _fits(bound(high), kept, room.empty) or not _fits(bound(low), kept, room.empty):
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if _fits(bound(middle), kept, room.empty):
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
