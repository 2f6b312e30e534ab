"""Where two runs differ, action by action.

Turns are held against those of the same number, and in a turn cell against cell. In a cell, actions are held against
those of their kind: queries against the first that asks the same of the same model, and what is left over against each
other in their order; reads together, as it depends on time how the log gathers them. So one action more on one side
does not make all that follow differ.

Ids, times and what takes time differ always, and so does what a root model is sent, which has random words in it: they
do not count. Of a text counts the digest. Of a question, and of what a cell printed, the log has the size alone: what
they say counts where both runs' are kept, and otherwise that.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any, assert_never

import msgspec

from belljar.audit import printed
from belljar.audit.export import words
from belljar.audit.trajectory import (
    Absent,
    Answer,
    Canary,
    Cell,
    Child,
    Contents,
    Query,
    Read,
    Refused,
    Run,
    Search,
    Step,
    Text,
)
from belljar.spans import Spans

__all__ = ["Difference", "differences", "known_by_length"]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One difference. A side is None where that run has nothing there.

    Attributes:
        at: the place, such as `cell 2, query 3`; of a child run it begins with the child.
        what: the field that differs, or `missing`.
    """

    at: str
    what: str
    left: Any
    right: Any


def differences(left: Run, right: Run, at: str = "", contents: Contents | None = None) -> Iterator[Difference]:
    """All of them, in the order of the runs: the first is the first divergence.

    Args:
        contents: where the texts of both are.

    Raises:
        VerificationFailed, AuditUnavailable: as `Text.read`.
    """
    yield from _fields(at + "start", _start(left), _start(right))
    yield from _known(at + "start", "question", _question(left, contents), _question(right, contents))
    for number, (mine, theirs) in enumerate(zip_longest(left.turns, right.turns), start=1):
        asked = [[_asked_root(query) for query in turn.queries] if turn else [] for turn in (mine, theirs)]
        yield from _each(f"{at}turn {number}, root query", *asked)
        yield from _cells(at, mine.cells if mine else [], theirs.cells if theirs else [], contents)
    yield from _steps(f"{at}no cell, ", left.outside, right.outside, contents)
    yield from _fields(at + "end", _end(left), _end(right))


def known_by_length(run: Run, contents: Contents | None) -> int:
    """How many questions and outputs, of it and of the runs below it, are not there to be compared. Raises as above."""
    texts = [text for one in run.below() for text in (one.question, *map(words.printed, one.cells())) if text]
    return sum(text.size_bytes != 0 and isinstance(text.read(contents), Absent) for text in texts)


def _cells(at: str, left: Sequence[Cell], right: Sequence[Cell], contents: Contents | None) -> Iterator[Difference]:
    """Of one turn."""
    for mine, theirs in zip_longest(left, right):
        place = f"{at}cell {(mine or theirs).number}"
        if mine is None or theirs is None:
            yield _missing(place, mine and _cell(mine), theirs and _cell(theirs))
            continue
        yield from _fields(place, {"code": _text(mine.code)}, {"code": _text(theirs.code)})
        yield from _steps(f"{place}, ", mine.steps, theirs.steps, contents)
        yield from _fields(place, _end_of(mine), _end_of(theirs))
        yield from _known(place, "output", printed.digest(mine, contents), printed.digest(theirs, contents))


def _steps(at: str, left: Sequence[Step], right: Sequence[Step], contents: Contents | None) -> Iterator[Difference]:
    for purpose, name in (("sub", "query"), ("tool", "tool call")):
        asked = [
            [_query(step) for step in side if isinstance(step, Query) and step.purpose == purpose]
            for side in (left, right)
        ]
        yield from _each(at + name, *_aligned(*asked))
    yield from _fields(f"{at}reads", _reads(left), _reads(right))
    for kind in (Search, Refused, Canary, Answer):
        sides = [[_described(step) for step in side if isinstance(step, kind)] for side in (left, right)]
        yield from _each(at + kind.__name__.lower(), *sides)
    children = [[step.run for step in side if isinstance(step, Child)] for side in (left, right)]
    for number, (mine, theirs) in enumerate(zip_longest(*children), start=1):
        place = f"{at}child {number}"
        if mine is None or theirs is None:
            yield _missing(place, mine and mine.run, theirs and theirs.run)
        else:
            yield from differences(mine, theirs, f"{place}, ", contents)


_Side = list[dict[str, Any] | None]


def _aligned(left: Sequence[dict[str, Any]], right: Sequence[dict[str, Any]]) -> tuple[_Side, _Side]:
    """Each with the first on the other side that asks the same, then the rest in order. As the left side has them."""
    waiting: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place in reversed(range(len(right))):
        waiting[_asks(right[place])].append(place)
    pairs = [waiting[_asks(one)].pop() if waiting[_asks(one)] else None for one in left]
    taken = set(pairs)
    rest = iter([place for place in range(len(right)) if place not in taken])
    pairs = [place if place is not None else next(rest, None) for place in pairs]
    mine: _Side = list(left)
    theirs: _Side = [right[place] if place is not None else None for place in pairs]
    more = [right[place] for place in rest]
    return mine + [None] * len(more), theirs + more


def _asks(query: dict[str, Any]) -> tuple[str, str]:
    return query["model"], query["prompt"]


def _each(
    at: str, left: Sequence[dict[str, Any] | None], right: Sequence[dict[str, Any] | None]
) -> Iterator[Difference]:
    for number, (mine, theirs) in enumerate(zip_longest(left, right), start=1):
        if mine is None or theirs is None:
            yield _missing(f"{at} {number}", mine, theirs)
        else:
            yield from _fields(f"{at} {number}", mine, theirs)


def _fields(at: str, left: dict[str, Any], right: dict[str, Any]) -> Iterator[Difference]:
    for name, value in left.items():
        if value != right[name]:
            yield Difference(at=at, what=name, left=value, right=right[name])


def _known(at: str, what: str, left: str | None, right: str | None) -> Iterator[Difference]:
    """Digests, of which both have to be there."""
    if None not in (left, right) and left != right:
        yield Difference(at=at, what=what, left=left, right=right)


def _missing(at: str, left: object, right: object) -> Difference:
    return Difference(at=at, what="missing", left=left, right=right)


# What of each thing counts.


def _start(run: Run) -> dict[str, Any]:
    names = ("policy", "policy_digest", "backend", "language", "root_model", "sub_model", "refused")
    found = {name: getattr(run, name) for name in names}
    found["question_bytes"] = run.question.size_bytes if run.question is not None else None
    found["contexts"] = [[one.name, one.kind, one.sha256, one.part] for one in run.documents]
    return found


def _question(run: Run, contents: Contents | None) -> str | None:
    said = None if run.question is None else run.question.words(contents)
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest() if isinstance(said, str) else None


def _end(run: Run) -> dict[str, Any]:
    return {"status": run.status, "limit": run.limit.code if run.limit is not None else None}


def _cell(cell: Cell) -> dict[str, Any]:
    return {"code": _text(cell.code), **_end_of(cell)}


def _end_of(cell: Cell) -> dict[str, Any]:
    return {"status": cell.status, "output_bytes": cell.output.size_bytes if cell.output is not None else None}


def _query(query: Query) -> dict[str, Any]:
    return {
        "model": query.model,
        "prompt": _text(query.prompt),
        "output_tokens_max": query.output_tokens_max,
        "outcome": query.outcome,
        "denied": query.denied.code if query.denied is not None else None,
        "reply": _text(query.reply) if query.reply is not None else None,
        "input_tokens": query.spent.input_tokens,
        "output_tokens": query.spent.output_tokens,
        "cost_nanousd": query.spent.cost_nanousd,
    }


def _asked_root(query: Query) -> dict[str, Any]:
    names = ("model", "outcome", "denied", "reply")
    return {name: value for name, value in _query(query).items() if name in names}


def _reads(steps: Sequence[Step]) -> dict[str, Any]:
    spans: dict[int, Spans] = defaultdict(Spans)
    count = 0
    for step in steps:
        if isinstance(step, Read):
            count += step.reads
            for start, stop in step.spans:
                spans[step.doc].add(start, stop)
    return {"reads": count, "ranges": {str(doc): list(read) for doc, read in sorted(spans.items())}}


def _described(step: Search | Refused | Canary | Answer) -> dict[str, Any]:
    match step:
        case Search():
            names = ("doc", "mode", "start", "stop", "pattern_sha256", "count", "spans")
            return {name: getattr(step, name) for name in names}
        case Refused():
            return {"asked": step.asked, "code": step.why.code, "count": step.count}
        case Canary():
            return {"place": step.place, "canary": step.number}
        case Answer():
            return {"answer": _text(step.text), "void": step.void}
        case _:
            assert_never(step)


def _text(text: Text) -> str:
    return text.sha256 or f"{text.size_bytes} bytes"
