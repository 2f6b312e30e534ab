"""A run's refusals: all are counted, and the first of each kind are logged.

A program that is refused over and over is told so each time; the log has the first `LOGGED_MAX` of a kind (what was
asked for, and the code of the refusal) and, at the run's end, how many there were. There are a few dozen kinds, so a
run's refusals take a bounded part of the log.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, TypedDict

from belljar.audit import AuditLog
from belljar.audit.events import RequestRefused
from belljar.errors import QuotaExceeded, Refusal
from belljar.identity import RunId

__all__ = ["LOGGED_MAX", "Denials", "quota_of"]

LOGGED_MAX: Final = 100


class _Quota(TypedDict):
    scope: str | None
    period: str | None
    used: int | None
    held: int | None
    waited_ms: int | None


_NONE: Final = _Quota(scope=None, period=None, used=None, held=None, waited_ms=None)


def quota_of(refusal: Refusal) -> _Quota:
    """Whose quota it met, as the log's record of it has it."""
    if not isinstance(refusal, QuotaExceeded):
        return _NONE
    waited_ms = None if refusal.waited_s is None else round(refusal.waited_s * 1000)
    return _Quota(scope=refusal.scope, period=refusal.period, used=refusal.used, held=refusal.held, waited_ms=waited_ms)


class Denials:
    """One run's refusals."""

    def __init__(self, run: RunId, audit: AuditLog) -> None:
        self._run = run
        self._audit = audit
        self._kinds: Counter[tuple[str, str]] = Counter()
        self._summed_up = False

    @property
    def count(self) -> int:
        return self._kinds.total()

    def add(self, asked: str, refusal: Refusal) -> bool:
        """Count one. Returns whether it is among the first of its kind."""
        self._kinds[asked, refusal.code] += 1
        return self._kinds[asked, refusal.code] <= LOGGED_MAX

    def has_many(self, asked: str) -> bool:
        """Whether the log has all that it takes of some kind of these."""
        return any(count >= LOGGED_MAX for (what, _), count in self._kinds.items() if what == asked)

    async def log(self, asked: str, refusal: Refusal, cell: int) -> None:
        """Count one, and log it if it is among the first."""
        if self.add(asked, refusal):
            await self.note(asked, refusal, cell)

    async def note(self, asked: str, refusal: Refusal, cell: int) -> None:
        """Log one that is counted already."""
        limit, observed, met = refusal.limit, refusal.observed, quota_of(refusal)
        await self._note(
            RequestRefused(cell=cell, asked=asked, code=refusal.code, limit=limit, observed=observed, **met)
        )

    async def settled(self, cell: int) -> None:
        """At the run's end: log how many there were of each kind that is not logged in full."""
        if not self._summed_up:
            self._summed_up = True
            for (asked, code), count in self._kinds.items():
                if count > LOGGED_MAX:
                    await self._note(RequestRefused(cell=cell, asked=asked, code=code, count=count))

    async def _note(self, refused: RequestRefused) -> None:
        await self._audit.note(self._run, refused)
