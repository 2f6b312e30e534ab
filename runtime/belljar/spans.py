"""A set of positions, kept as ranges: which characters were read, whatever the order and however often.

Reads come in order far more often than not, and a million of them may come in none. So a range that touches the one
before it grows it in place; the others wait, unsorted, until somebody asks or until they are as many as the ranges
that are in order: then all are sorted and merged at once. Adding is thus amortised O(log n), and so is a question that
follows many additions.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator

__all__ = ["Spans", "overlaps", "share"]

_WAITING_MAX = 1024


class Spans:
    """Half-open ranges [start, stop) of integers, united. Ranges that touch are one.

    Args:
        ranges_max: when it has come to about so many that do not touch, no more is put in; None is any number.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = (), *, ranges_max: int | None = None) -> None:
        self._merged: list[tuple[int, int]] = []
        self._waiting: list[tuple[int, int]] = []
        self._ranges_max = ranges_max
        self._full = False
        for start, stop in ranges:
            self.add(start, stop)

    def add(self, start: int, stop: int) -> None:
        """Put [start, stop) in; a range with nothing in it changes nothing."""
        if start >= stop or self._full:
            return
        waiting = self._waiting
        if waiting and waiting[-1][0] <= start <= waiting[-1][1]:
            waiting[-1] = (waiting[-1][0], max(waiting[-1][1], stop))
            return
        waiting.append((start, stop))
        if len(waiting) > max(_WAITING_MAX, len(self._merged)):
            self._settle()
            # Half of what may be waiting, so that it is not put in order for every few that come.
            self._full = self._ranges_max is not None and len(self._merged) > self._ranges_max // 2

    @property
    def covered(self) -> int:
        """How many positions are in it."""
        return sum(stop - start for start, stop in self)

    def missing(self, length: int) -> list[tuple[int, int]]:
        """What of [0, length) is not in it, in order."""
        gaps, at = [], 0
        for start, stop in self:
            if start >= length:
                break
            if at < start:
                gaps.append((at, start))
            at = max(at, stop)
        if at < length:
            gaps.append((at, length))
        return gaps

    def around(self, position: int) -> tuple[int, int] | None:
        """The range that `position` is in."""
        self._settle()
        number = bisect_right(self._merged, position, key=_start) - 1
        if number < 0 or self._merged[number][1] <= position:
            return None
        return self._merged[number]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The ranges in order, none touching the next. What is added meanwhile is not seen."""
        self._settle()
        return iter(self._merged)

    def __len__(self) -> int:
        """How many ranges it is made of."""
        self._settle()
        return len(self._merged)

    def _settle(self) -> None:
        if not self._waiting:
            return
        merged: list[tuple[int, int]] = []
        # What is merged is in order already, which makes sorting it again a comparison for each range.
        for start, stop in sorted(self._merged + self._waiting):
            if merged and start <= merged[-1][1]:
                if stop > merged[-1][1]:
                    merged[-1] = (merged[-1][0], stop)
            else:
                merged.append((start, stop))
        self._merged, self._waiting = merged, []


def share(part: int, whole: int) -> float:
    """From 0 to 1, to six decimals, rounded down: 1.0 is all of it, and of nothing there is nothing."""
    return part * 10**6 // whole / 10**6 if whole else 0.0


def _start(span: tuple[int, int]) -> int:
    return span[0]


def overlaps(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(start, stop, times): what is in several of the ranges, in order, and in how many beside the first."""
    steps: Counter[int] = Counter()
    for start, stop in ranges:
        if start < stop:
            steps[start] += 1
            steps[stop] -= 1
    found, depth, before = [], 0, 0
    for at in sorted(steps):
        if depth > 1:
            found.append((before, at, depth - 1))
        depth, before = depth + steps[at], at
    return found
