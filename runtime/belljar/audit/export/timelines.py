"""When a tree's runs had cells under way, read, and called models: as the shapes of a drawing, few of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate, groupby

from belljar.audit.export.view import Bar, Lane, Timeline, Tone
from belljar.audit.export.words import end_of, took
from belljar.audit.trajectory import Query, Read, Run, Search

__all__ = ["queries_of", "timeline"]

_WIDTH = 1000
_LANES_MAX = 24
_BARS_MAX = 150
# Of the curve of calls: a point each four thousandths.
_POINTS = 250
_TICKS = 5


def timeline(named: list[tuple[Run, str, str]], tones: dict[str | None, Tone]) -> Timeline:
    """Of runs with their names and anchors, the first of which is that of the tree."""
    first = named[0][0].started_ns or 0
    last = max((end for run, _, _ in named for end in _ends(run)), default=first)
    whole = max(last - first, 1)
    lanes = [_lane(run, name, anchor, first, whole, tones) for run, name, anchor in named[:_LANES_MAX]]
    ticks = [(_WIDTH * at // (_TICKS - 1), f"+{took(whole * at // (_TICKS - 1))}") for at in range(_TICKS)]
    return Timeline(lanes=lanes, ticks=ticks, left_out=len(named) - len(lanes))


def queries_of(run: Run) -> Iterator[Query]:
    """All of one run: of its root model, of its cells, and outside of them."""
    for turn in run.turns:
        yield from turn.queries
    yield from (step for step in run.steps() if isinstance(step, Query))


def _ends(run: Run) -> Iterator[int]:
    yield from (end for end in (run.ended_ns, run.started_ns) if end is not None)
    yield from (end for cell in run.cells() for end in (cell.ended_ns, cell.started_ns) if end is not None)


def _lane(run: Run, name: str, anchor: str, first: int, whole: int, tones: dict[str | None, Tone]) -> Lane:
    def at(time_ns: int) -> int:
        return min(max((time_ns - first) * _WIDTH // whole, 0), _WIDTH)

    last = run.ended_ns if run.ended_ns is not None else first + whole
    bars = []
    for cell in run.cells():
        status, known = end_of(cell)
        ended = known if known is not None else last
        title = f"cell {cell.number}: {status or 'unfinished'}, {took(ended - cell.started_ns)}"
        bars.append(Bar(start=at(cell.started_ns), stop=at(ended), tone=tones.get(status, "bad"), title=title))
    calls = [(at(one.at_ns), at(one.ended_ns if one.ended_ns is not None else last)) for one in queries_of(run)]
    counts = _at_once(calls)
    reads = [at(step.at_ns) for step in run.steps() if isinstance(step, Read | Search)]
    return Lane(
        run=name,
        anchor=anchor,
        depth=run.depth,
        bars=_few(bars),
        reads=len(reads),
        marks=_marks(reads),
        path=_curve(counts),
        most=max(counts, default=0),
    )


def _few(bars: list[Bar]) -> list[Bar]:
    """Where there are too many to be told apart, neighbours become one."""
    if len(bars) <= _BARS_MAX:
        return bars
    size = -(-len(bars) // _BARS_MAX)
    found = []
    for _, group in groupby(enumerate(bars), key=lambda one: one[0] // size):
        same = [bar for _, bar in group]
        bad = next((bar for bar in same if bar.tone == "bad"), same[0])
        title = f"{len(same)} cells, the first is {same[0].title}"
        found.append(Bar(start=same[0].start, stop=max(bar.stop for bar in same), tone=bad.tone, title=title))
    return found


def _at_once(calls: Iterable[tuple[int, int]]) -> list[int]:
    """How many were under way in each of the curve's steps."""
    steps = [0] * (_POINTS + 1)
    for start, stop in calls:
        first = min(start * _POINTS // _WIDTH, _POINTS - 1)
        last = min(max(stop * _POINTS // _WIDTH, first), _POINTS - 1)
        steps[first] += 1
        steps[last + 1] -= 1
    return list(accumulate(steps[:_POINTS]))


def _marks(places: Iterable[int]) -> str:
    """A small box for each of the steps in which there is one, between the cells and the curve."""
    step = _WIDTH // _POINTS
    return "".join(f"M{at * step} 30v8h{step}v-8z" for at in sorted({place // step for place in places}))


def _curve(counts: list[int]) -> str:
    """An area below a staircase, in the lower three fifths of a drawing of 1000 by 100."""
    most = max(counts, default=0)
    if most == 0:
        return ""
    path, before = ["M0 100"], 0
    for at, count in enumerate([*counts, 0]):
        if count != before:
            path.append(f"H{at * _WIDTH // _POINTS}V{100 - 60 * count // most}")
            before = count
    return "".join([*path, "Z"])
