"""A set of positions, kept as ranges: which characters were read, in whatever order and however often.

Reads mostly come in order, but a million of them may come in none. So a range that touches the one added before extends
it in place; others wait, unsorted, until somebody asks, or until there are as many of them as of the sorted ranges:
then all are sorted and merged at once. Adding is thus amortised O(log n), and so is a question after many additions.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Spans", "overlaps", "share", "united"]

_WAITING_MAX = 1024


class Spans:
    """Half-open ranges [start, stop) of integers, united. Ranges that touch are one.

    Args:
        ranges_max: once it holds about this many ranges that do not touch, no more are added; None is no limit.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = (), *, ranges_max: int | None = None) -> None:
        self._merged: list[tuple[int, int]] = []
        self._waiting: list[tuple[int, int]] = []
        self._ranges_max = ranges_max
        self._full = False
        for start, stop in ranges:
            self.add(start, stop)

    def add(self, start: int, stop: int) -> None:
        """Add [start, stop); an empty range changes nothing."""
        if start >= stop or self._full:
            return
        waiting = self._waiting
        if waiting and waiting[-1][0] <= start <= waiting[-1][1]:
            waiting[-1] = (waiting[-1][0], max(waiting[-1][1], stop))
            return
        waiting.append((start, stop))
        if len(waiting) > max(_WAITING_MAX, len(self._merged)):
            self._settle()
            # Half, so that it is not sorted again for every few ranges that come.
            self._full = self._ranges_max is not None and len(self._merged) > self._ranges_max // 2

    @property
    def covered(self) -> int:
        """How many positions it covers."""
        return sum(stop - start for start, stop in self)

    @property
    def is_full(self) -> bool:
        """Whether ranges were left out, or will be, because there are `ranges_max`."""
        return self._full

    def unsorted(self) -> list[tuple[int, int]]:
        """What its ranges consist of, some perhaps twice: quick, however many there are (see `united`)."""
        return self._merged + self._waiting

    def missing(self, length: int) -> list[tuple[int, int]]:
        """The ranges of [0, length) that are not in it, in order."""
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

    def covered_between(self, edges: Sequence[int]) -> list[int]:
        """How many positions it covers of each piece between two edges, which ascend."""
        covered = [0] * (len(edges) - 1)
        first = 0
        for start, stop in self:
            while first < len(covered) and edges[first + 1] <= start:
                first += 1
            at = first
            while at < len(covered) and edges[at] < stop:
                covered[at] += min(stop, edges[at + 1]) - max(start, edges[at])
                at += 1
        return covered

    def around(self, position: int) -> tuple[int, int] | None:
        """The range that holds `position`; None if none does."""
        self._settle()
        number = bisect_right(self._merged, position, key=_start) - 1
        if number < 0 or self._merged[number][1] <= position:
            return None
        return self._merged[number]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The ranges in order, none touching the next. Ranges added meanwhile are not seen."""
        self._settle()
        return iter(self._merged)

    def __len__(self) -> int:
        """How many ranges it consists of."""
        self._settle()
        return len(self._merged)

    def _settle(self) -> None:
        if not self._waiting:
            return
        # The merged ranges are sorted already, so sorting them again costs one comparison each.
        self._merged, self._waiting = united(self.unsorted()), []


def united(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges that are not empty, in order, none touching the next."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1]:
            if stop > merged[-1][1]:
                merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return merged


def share(part: int, whole: int) -> float:
    """From 0 to 1, to six decimals, rounded down, so that 1.0 is all of it; 0.0 if the whole is nothing."""
    return part * 10**6 // whole / 10**6 if whole else 0.0


def _start(span: tuple[int, int]) -> int:
    return span[0]


def overlaps(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(start, stop, times): what is in several of the ranges, in order, and in how many besides the first."""
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
