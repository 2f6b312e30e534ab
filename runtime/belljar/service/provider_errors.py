"""Calls of models that failed: by model and code, since the start and within the last hour.

Heard from the log's own writer, as the metrics are, so it does no more than a few additions. A code is the status of
HTTP that the error names, else `no_answer`. Pairs of model and code are bounded; what is beyond is counted as `other`.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from belljar.audit.events import Event, QueryCompleted, QueryDenied, QueryFailed, QueryRequested
from belljar.service.underway import UnderWay

__all__ = ["PAIRS_MAX", "ProviderError", "ProviderErrors", "code_of"]

PAIRS_MAX: Final = 100
_OTHER: Final = "other"
_MINUTE_S: Final = 60.0
_MINUTES: Final = 60
_HTTP_STATUS: Final = re.compile(r"\b([45]\d\d)\b")


class ProviderError(NamedTuple):
    """How many calls of a model failed with a code."""

    model: str
    code: str
    last_hour: int
    since_start: int


def code_of(failed: QueryFailed) -> str:
    """The status of HTTP that an error names; `no_answer` if it names none."""
    found = _HTTP_STATUS.search(failed.error)
    return "no_answer" if found is None else found[1]


class ProviderErrors:
    """Hears what is logged (`Host.heard_by`). `clock` is in seconds, monotonic."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._models: UnderWay[str] = UnderWay()
        self._sums: dict[tuple[str, str], int] = {}
        # By pair, each minute in which one failed, with how many.
        self._minutes: dict[tuple[str, str], deque[tuple[int, int]]] = {}

    def observe(self, _run: str, event: Event) -> None:
        """Count a record. Called by one thread at a time."""
        match event:
            case QueryRequested():
                if event.purpose != "tool":
                    self._models.begin(event.action, event.model)
            case QueryCompleted() | QueryDenied():
                self._models.end(event.action)
            case QueryFailed():
                self._count(self._models.end(event.action), code_of(event))
            case _:
                pass

    def _count(self, model: str | None, code: str) -> None:
        if model is None:  # a tool, or one of too many calls at once
            return
        pair = (model, code)
        if pair not in self._sums and len(self._sums) >= PAIRS_MAX:
            pair = (_OTHER, _OTHER)
        self._sums[pair] = self._sums.get(pair, 0) + 1
        minutes = self._minutes.setdefault(pair, deque(maxlen=_MINUTES))
        now = self._minute()
        if minutes and minutes[-1][0] == now:
            minutes[-1] = (now, minutes[-1][1] + 1)
        else:
            minutes.append((now, 1))

    def _minute(self) -> int:
        return int(self._clock() // _MINUTE_S)

    def ls(self, limit: int) -> list[ProviderError]:
        """Those with most in the last hour first."""
        oldest = self._minute() - _MINUTES
        found = [
            ProviderError(*pair, sum(count for at, count in list(self._minutes[pair]) if at > oldest), total)
            for pair, total in list(self._sums.items())
            if pair in self._minutes
        ]
        return sorted(found, key=lambda one: (-one.last_hour, -one.since_start, one.model, one.code))[:limit]
