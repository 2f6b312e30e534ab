"""Charges what a run's box uses while it lives: CPU time, wall time, and memory times that time.

    the run is opened     one more box, and the first *portion*, are held in the transaction that opens the run:
                          a tenant without room for them starts nothing
    while the box lives   the box's guard brings the kernel's figures twice a second; a portion that will not last until
                          some looks later is settled with what was used, and the next one reserved, in one transaction
    no portion left       `QuotaExceeded`: the guard ends the run with `quota`, before the last second is used
    the box is gone       portion and box are settled with the kernel's last figures, with the run's end or before it

A portion is dispatched, so a crash charges it in full; the box itself is only held, so it comes back. What one portion
holds, the tenant's other runs cannot use. So it is never more than a share of what is left, unless the least is; it
grows only with a run that lasts; and its CPU time follows what the box used of the last one. A box that used next to no
CPU time for a while, as that of a session which waits for its caller, gives back all but the least of it. Wall time and
memory it uses also while it waits.

Of memory the policy's `limits.memory` is held, which the box cannot exceed. Charged, from one look to the next, is the
most that it has had so far; the kernel notes that, so a peak between two looks is not missed. Where the host does not
count it, what is held is charged. A box may use several cores at once and end between two looks, so its CPU time can be
more than was held: what it really used is charged, and nothing more begins if that is too much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from belljar.broker.run import RunScope
from belljar.journal import Job
from belljar.ledger import NOTHING, Amounts, BoxIds, Ledger, Limits, beyond, plus

__all__ = ["Meter"]

_FIRST_S: Final = 10.0
_LONGEST_S: Final = 300.0
# A run begins with at least this much of each, and has at least so much CPU time in each portion if it is to be had.
_LEAST_S: Final = 2.0
# A portion with less left is replaced: some looks of the guard ahead. Without as much for the next one the run ends.
_AHEAD_S: Final = 1.0
# After so long with a smaller share of one core than this, a box is idle.
_QUIET_S: Final = 5.0
_QUIET_SHARE: Final = 0.02
_MIB: Final = 2**20


class Meter:
    """One run's box. `begin` goes with the opening of the run, and `begun` takes its result."""

    def __init__(self, scope: RunScope, ledger: Ledger) -> None:
        self._scope = scope
        self._ledger = ledger
        self._mib = math.ceil(scope.policy.limits.memory_bytes / _MIB)
        self._ids = BoxIds.new()
        self._portion = self._ids.portion
        self._held = NOTHING
        self._next_s = _FIRST_S
        # When it was looked at last; None before it begins.
        self._looked: float | None = None
        self._wall_s = self._memory_s = 0.0
        self._peak_bytes: int | None = None
        # For how long it has used next to no CPU time.
        self._quiet_s = 0.0
        # All that was used, as far as it was looked at, and what is settled of it.
        self._used = self._settled = NOTHING
        # Of the portions that are settled.
        self._beyond = NOTHING
        self._over = False

    def begin(self, limits: Limits) -> Job[Amounts]:
        """Work that holds the box and its first portion; `limits` are the run's. It raises `QuotaExceeded`."""
        scope, least, most = self._scope, self._span(_LEAST_S), self._span(self._next_s)
        return self._ledger.box_job(
            scope.run, self._ids, least, most, tenant=scope.tenant, limits=limits, now=scope.now()
        )

    def begun(self, held: Amounts) -> None:
        self._held = held
        self._looked = self._scope.monotonic()

    async def look(self, cpu_s: float, peak_bytes: int | None) -> None:
        """Note what the box has used up to now, and see to it that more is held.

        Args:
            cpu_s: its CPU time.
            peak_bytes: the most memory that it has had; None where nobody counts it.

        Raises:
            QuotaExceeded: the tenant has no more of something: end the run.
            LedgerUnavailable: it cannot be charged.
        """
        if self._over or self._looked is None:
            return
        self._note(cpu_s, peak_bytes)
        part = _less(self._used, self._settled)
        ahead = self._span(_AHEAD_S)
        short = any(left < spare for left, spare in zip(_of(_less(self._held, part)), _of(ahead), strict=True))
        is_idle = self._quiet_s >= _QUIET_S
        holds_too_much = is_idle and self._held.cpu_ms - part.cpu_ms > _LEAST_S * 1000
        if not short and not holds_too_much:
            return
        if short:
            self._next_s = min(2 * self._next_s, _LONGEST_S)
        cpu_s = _LEAST_S if is_idle else max(_LEAST_S, 2 * part.cpu_ms / 1000)
        most = self._span(self._next_s, cpu_ms=round(1000 * min(self._next_s, cpu_s)))
        used, overage = self._used, self.overage
        self._portion, self._held = await self._ledger.next_portion(
            self._scope.run, self._portion, part, ahead, most, now=self._scope.now()
        )
        self._settled, self._beyond = used, overage

    def gone(self, cpu_s: float, peak_bytes: int | None) -> None:
        """The box is no more, and this is all that it used. Call it as soon as that is known; once counts."""
        if not self._over and self._looked is not None:
            self._note(cpu_s, peak_bytes)
        self._over = True

    @property
    def used(self) -> Amounts:
        """All that was used, as far as it was looked at."""
        return self._used

    @property
    def overage(self) -> Amounts:
        """What was used beyond what was held for it."""
        return plus(self._beyond, beyond(_less(self._used, self._settled), self._held))

    def unused(self) -> Amounts:
        """What is held and not used, as far as it was looked at."""
        left = _of(_less(self._held, _less(self._used, self._settled)))
        cpu_ms, wall_ms, memory_mib_s = (max(0, value) for value in left)
        return Amounts(cpu_ms=cpu_ms, wall_ms=wall_ms, memory_mib_s=memory_mib_s)

    async def settled(self) -> None:
        """Settle it before the run's end, because the run goes on without its box.

        Raises:
            LedgerUnavailable: it could not be written; it is tried again.
        """
        for reservation, charged in self.ends().items():
            await self._ledger.settle(reservation, charged, lazy=True)

    def ends(self) -> Mapping[str, Amounts]:
        """What is open of it, and what each really cost, for the run's end."""
        return {self._ids.box: NOTHING, self._portion: _less(self._used, self._settled)}

    def _note(self, cpu_s: float, peak_bytes: int | None) -> None:
        assert self._looked is not None, "the box has begun"
        passed_s, self._looked = self._scope.monotonic() - self._looked, self._scope.monotonic()
        if peak_bytes is not None:
            self._peak_bytes = max(peak_bytes, self._peak_bytes or 0)
        mib = self._mib if self._peak_bytes is None else min(self._mib, math.ceil(self._peak_bytes / _MIB))
        self._wall_s += passed_s
        self._memory_s += passed_s * mib
        cpu_ms = max(math.ceil(cpu_s * 1000), self._used.cpu_ms)
        is_quiet = cpu_ms - self._used.cpu_ms <= _QUIET_SHARE * passed_s * 1000
        self._quiet_s = self._quiet_s + passed_s if is_quiet else 0.0
        self._used = Amounts(
            cpu_ms=cpu_ms,
            wall_ms=math.ceil(self._wall_s * 1000),
            memory_mib_s=math.ceil(self._memory_s),
        )

    def _span(self, wall_s: float, *, cpu_ms: int | None = None) -> Amounts:
        """What a box may use in this time; on a single core, unless it is said."""
        return Amounts(
            cpu_ms=math.ceil(wall_s * 1000) if cpu_ms is None else cpu_ms,
            wall_ms=math.ceil(wall_s * 1000),
            memory_mib_s=math.ceil(wall_s * self._mib),
        )


def _of(amounts: Amounts) -> tuple[int, int, int]:
    return amounts.cpu_ms, amounts.wall_ms, amounts.memory_mib_s


def _less(amounts: Amounts, others: Amounts) -> Amounts:
    """The difference, which may be below zero where more was used than held."""
    cpu_ms, wall_ms, memory_mib_s = (one - other for one, other in zip(_of(amounts), _of(others), strict=True))
    return Amounts(cpu_ms=cpu_ms, wall_ms=wall_ms, memory_mib_s=memory_mib_s)
