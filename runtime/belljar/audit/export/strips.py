"""Which part of a context was read, and which stood in prompts, as the columns of a strip: who, and when.

A document has any number of characters and a run any number of reads; a strip has `COLUMNS` columns, and each knows how
much of it was read, and the first few who did. So it takes time for each read that is about logarithmic in its columns:
a column that knows enough is passed over from then on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise

from belljar.audit.coverage import Document
from belljar.audit.export.view import Segment, Strip
from belljar.audit.export.words import span, took
from belljar.audit.trajectory import Cell, Read, Run, Search, Shown
from belljar.spans import Spans, share

__all__ = ["COLUMNS", "strips"]

COLUMNS = 400
RANGES_MAX = 200
_ACTORS_MAX = 3

# What one step did to one document: the characters, and who and when.
_Deed = tuple[list[tuple[int, int]], str]


def strips(run: Run) -> list[Strip]:
    """One for each context of the run, with what the runs below it did with parts of it."""
    numbers = {document.number: document.number for document in run.documents}
    read: dict[int, list[_Deed]] = {number: [] for number in numbers}
    shown: dict[int, list[_Deed]] = {number: [] for number in numbers}
    _gather(run, numbers, run, read, shown)
    return [_strip(one, read[one.number], shown[one.number]) for one in run.documents]


def _gather(
    run: Run, numbers: dict[int, int], first: Run, read: dict[int, list[_Deed]], shown: dict[int, list[_Deed]]
) -> None:
    """What this run and those below it did. `numbers`: which document of the first run is one of this run's."""
    for cell, step in _steps(run):
        if isinstance(step, Read | Search | Shown) and step.doc in numbers:
            into = shown if isinstance(step, Shown) else read
            into[numbers[step.doc]].append((step.spans, _who(run, first, cell, step)))
    for child in run.children():
        theirs: dict[int, int] = {}
        for one in child.documents:
            above = (it.number for it in run.documents if it.sha256 == one.sha256 and it.number in numbers)
            if one.part is not None and (number := next(above, None)) is not None:
                theirs[one.number] = numbers[number]
        _gather(child, theirs, first, read, shown)


def _steps(run: Run) -> Iterator[tuple[Cell | None, object]]:
    for cell in run.cells():
        yield from ((cell, step) for step in cell.steps)
    yield from ((None, step) for step in run.outside)


def _who(run: Run, first: Run, cell: Cell | None, step: Read | Search | Shown) -> str:
    where = f"cell {cell.number}" if cell is not None else "outside of cells"
    of = "" if run is first else f" of {run.run.removeprefix(first.run)}"
    return f"{where}{of} at +{took(step.at_ns - (first.started_ns or 0))}"


def _strip(document: Document, read: list[_Deed], shown: list[_Deed]) -> Strip:
    chars = document.chars
    columns = min(COLUMNS, max(chars, 1))
    levels = [_levels(spans, chars, columns) for spans in (document.read, document.shown)]
    actors = [_actors(deeds, chars, columns) for deeds in (read, shown)]
    segments = []
    for _, group in groupby(
        range(columns), key=lambda at: tuple((level[at], who[at]) for level, who in zip(levels, actors, strict=True))
    ):
        same = list(group)
        start, stop = same[0], same[-1] + 1
        title = _title(span(start * chars // columns, stop * chars // columns), levels, actors, start)
        segments.append(Segment(start=start, stop=stop, read=levels[0][start], shown=levels[1][start], title=title))
    never = [spans.missing(chars) for spans in (document.read, document.shown)]
    return Strip(
        name=document.name,
        kind=document.kind,
        chars=f"{chars:,}",
        digest=document.sha256,
        columns=columns,
        read_share=_percent(document.read.covered, chars),
        shown_share=_percent(document.shown.covered, chars),
        segments=segments,
        never_read=[span(*one) for one in never[0][:RANGES_MAX]],
        never_read_count=len(never[0]),
        never_shown=[span(*one) for one in never[1][:RANGES_MAX]],
        never_shown_count=len(never[1]),
    )


def _title(where: str, levels: list[list[int]], actors: list[list[tuple[tuple[str, ...], int]]], at: int) -> str:
    told = [f"characters {where}"]
    for verb, level, (who, more) in zip(
        ("read", "shown"), (one[at] for one in levels), (one[at] for one in actors), strict=True
    ):
        if level == 0:
            told.append(f"never {verb}")
        else:
            rest = f" and {more:,} more times" if more else ""
            by = f" by {', '.join(who)}{rest}" if who else ""
            told.append(f"{verb}{' in parts' if level == 1 else ''}{by}")
    return "; ".join(told)


def _percent(part: int, whole: int) -> str:
    """Rounded down: 100 % is all of it."""
    hundredths = int(share(part, whole) * 10**6) // 100
    return f"{hundredths / 100:g} %" if hundredths else ("<0.01 %" if part else "0 %")


def _levels(spans: Spans, chars: int, columns: int) -> list[int]:
    """Of each column: 0 nothing of it is in the ranges, 1 some, 2 all."""
    edges = [chars * column // columns for column in range(columns + 1)]
    sizes = (stop - start for start, stop in pairwise(edges))
    return [
        0 if part == 0 else 2 if part == size else 1
        for part, size in zip(spans.covered_between(edges), sizes, strict=True)
    ]


def _columns(start: int, stop: int, chars: int, columns: int) -> range:
    """Those that the range has a character of."""
    first = ((start + 1) * columns - 1) // chars
    last = (min(stop, chars) * columns - 1) // chars
    return range(first, min(last, columns - 1) + 1)


def _actors(deeds: Iterable[_Deed], chars: int, columns: int) -> list[tuple[tuple[str, ...], int]]:
    """Of each column the first few who did something there, and how many did besides."""
    first: list[list[str]] = [[] for _ in range(columns)]
    steps = [0] * (columns + 1)
    following = list(range(columns + 1))  # of each column, the next one that does not yet know enough

    def open_from(column: int) -> int:
        while following[column] != column:
            following[column] = following[following[column]]
            column = following[column]
        return column

    for spans, who in deeds:
        for start, stop in spans:
            if start >= min(stop, chars):
                continue
            touched = _columns(start, stop, chars, columns)
            steps[touched.start] += 1
            steps[touched.stop] -= 1
            column = open_from(touched.start)
            while column < touched.stop:
                if who not in first[column]:
                    first[column].append(who)
                if len(first[column]) == _ACTORS_MAX:
                    following[column] = column + 1
                column = open_from(column + 1)
    found, times = [], 0
    for column in range(columns):
        times += steps[column]
        found.append((tuple(first[column]), times - len(first[column])))
    return found
