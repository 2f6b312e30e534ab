"""What a run did, as a list of actions that another run can be compared with; and that comparison.

Theory of operation. A replay runs recorded code again, so what it does should be what was done then: the same cells
with the same output, the same reads, searches, queries, calls of tools, child runs, refusals and answers. Ids, times,
costs and what is left of a quota are not the same again, and are no part of an action.

Actions are compared cell by cell, and the cells in their order. Within a cell they have no order: a batch asks several
questions at once, and a program may have threads. Runs below are compared with those of the same number. Of several
differences the one that came first in the record is the divergence; whatever follows may follow from it.

    recorded   cell 1 [code, read, read, query, end]   cell 2 [code, query, answer, end]   end
    replayed   cell 1 [code, read, query, read, end]   cell 2 [code, query, answer, end]   end      equal

Not everything can be compared. Where the record lacks something that the replay needed (an answer that was not kept),
`stops` names the cell from which on nothing of that run counts, nor of the runs above it from the cell on in which they
started it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, assert_never

import msgspec

from belljar.audit.coverage import Document
from belljar.audit.trajectory import Answer, Canary, Cell, Child, Query, Read, Refused, Run, Search, Shown, Step

__all__ = ["Action", "Actions", "Comparison", "Divergence", "Setup", "actions_of", "compare", "place_of"]

Kind: TypeAlias = Literal[
    "cell",
    "read",
    "search",
    "turn",
    "query",
    "tool",
    "refused",
    "answer",
    "void",
    "canary",
    "output",
    "child",
    "end",
    "context",
]
About: TypeAlias = "tuple[tuple[str, Any], ...]"
# What each run of a tree did, by its place: a list for each cell, with one before them for what was in none, and one
# behind them for the run's end.
Actions: TypeAlias = "dict[str, list[list[Action]]]"
_ASKED: Final[Mapping[str, Kind]] = {"root": "turn", "sub": "query", "tool": "tool"}
_OUTPUT: Final = "output_sha256"
_SHOWN_CHARS_MAX: Final = 100


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a run did.

    Attributes:
        place: the run, within the tree: empty for the first, `00002.00001` for one below it.
        cell: the number of its cell; 0 for what was in none.
        about: what of it has to be the same, by name.
        seq: its first record.
    """

    place: str
    cell: int
    kind: Kind
    about: About
    seq: int

    def says(self) -> str:
        """It in words, on one line."""
        of = f"run .{self.place}, " if self.place else ""
        where = f"cell {self.cell}: " if self.cell else ""
        what = " ".join(f"{name}={_shown(value)}" for name, value in self.about if value is not None)
        return f"{of}{where}{self.kind} {what}"


class Setup(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a run was given besides models, question and contexts: a content of its `run.started`, as JSON.

    Attributes:
        policy: its canonical TOML.
        alone: it was one cell, and no session.
        answer_schema: what its answer had to be.
        tools: of each function of the host its name, its arguments' names, what the program is told, and what a call
            costs, in nano-dollars.
    """

    policy: str
    alone: bool = False
    answer_schema: dict[str, Any] | None = None
    tools: list[tuple[str, list[str], str, int]] = []


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """The first difference. A side that is None did nothing that would belong there."""

    place: str
    cell: int
    recorded: Action | None
    replayed: Action | None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """How a replay compares with the record.

    Attributes:
        actions: how many the record has, of those that can be compared.
        equal_actions: how many of these the replay has, too.
        first: the first difference; None if there is none.
        cut: whether some of the record could not be compared.
    """

    actions: int
    equal_actions: int
    first: Divergence | None = None
    cut: bool = False


def place_of(run: str, first: str) -> str:
    """Where a run is in the tree of `first`."""
    return run[len(first) + 1 :]


def actions_of(first: Run, output_digest: Callable[[Cell], str | None] = lambda _: None) -> Actions:
    """What the runs of a tree did.

    Args:
        first: the tree's first run.
        output_digest: the SHA-256 of what a cell printed; None if that is not known.
    """
    return {
        (place := place_of(run.run, first.run)): [
            *_actions(run, place, output_digest),
            _end(run, place),
        ]
        for run in first.below()
    }


def compare(
    recorded: Actions,
    replayed: Actions,
    stops: Mapping[str, int] | None = None,
) -> Comparison:
    """Compare a replay with the record; both as `actions_of` gives them.

    Args:
        stops: for a run, the cell from which on it cannot be compared.
    """
    until = _spread(recorded, dict(stops or {}))
    differences: list[tuple[int, Divergence]] = []
    total = equal = 0
    for place, cells in recorded.items():
        if _is_below_a_stop(place, recorded, until):
            continue
        wanted = cells[: until.get(place, len(cells))]
        other = replayed.get(place, ())
        for number, cell in enumerate(wanted):
            found, same = _differences(cell, other[number] if number < len(other) else ())
            total, equal = total + len(cell), equal + same
            differences += (
                (seq, Divergence(place=place, cell=number, recorded=one, replayed=two)) for seq, one, two in found
            )
        if place not in until and (extra := next((one for cell in other[len(cells) :] for one in cell), None)):
            last = max((one.seq for cell in cells for one in cell), default=0)
            differences.append((last, Divergence(place=place, cell=extra.cell, recorded=None, replayed=extra)))
    first = min(differences, key=lambda found: found[0])[1] if differences else None
    return Comparison(actions=total, equal_actions=equal, first=first, cut=bool(until))


def _spread(recorded: Actions, stops: dict[str, int]) -> dict[str, int]:
    """The same, for the runs above, too."""
    for place in sorted(stops, key=len, reverse=True):
        while place:
            above, _, number = place.rpartition(".")
            started = (one.cell for cell in recorded.get(above, ()) for one in cell if _starts(one, number))
            cell = next(started, 0)
            stops[above] = min(stops.get(above, cell), cell)
            place = above
    return stops


def _starts(action: Action, number: str) -> bool:
    return action.kind == "child" and ("number", number) in action.about


def _is_below_a_stop(place: str, recorded: Actions, until: Mapping[str, int]) -> bool:
    """Whether it was started in a cell that is not compared, by its parent or by one above that."""
    while place:
        above, _, number = place.rpartition(".")
        if above in until:
            cells = recorded[above][: until[above]]
            if place not in until and not any(_starts(one, number) for cell in cells for one in cell):
                return True
        place = above
    return False


def _differences(
    recorded: Sequence[Action], replayed: Sequence[Action]
) -> tuple[list[tuple[int, Action | None, Action | None]], int]:
    """Those of one cell, each with where it belongs in the record; and how many actions are equal."""
    recorded, replayed = _as_known(recorded, replayed)
    there = Counter(map(_key, replayed))
    missing = []
    for one in recorded:
        if there[_key(one)] > 0:
            there[_key(one)] -= 1
        else:
            missing.append(one)
    extra = []
    for one in reversed(replayed):
        if there[_key(one)] > 0:
            there[_key(one)] -= 1
            extra.append(one)
    extra.reverse()
    if missing:
        partner = next((one for one in extra if one.kind == missing[0].kind), extra[0] if extra else None)
        return [(missing[0].seq, missing[0], partner)], len(recorded) - len(missing)
    last = recorded[-1].seq if recorded else 0
    return [(last, None, extra[0])] if extra else [], len(recorded)


def _as_known(recorded: Sequence[Action], replayed: Sequence[Action]) -> tuple[list[Action], list[Action]]:
    """Of what a cell printed, the digest counts only where it is known on both sides."""
    sides = [list(recorded), list(replayed)]
    known = all(dict(one.about)[_OUTPUT] for side in sides for one in side if one.kind == "output")
    if known:
        return sides[0], sides[1]

    def without(action: Action) -> Action:
        if action.kind != "output":
            return action
        about = tuple((name, value) for name, value in action.about if name != _OUTPUT)
        return msgspec.structs.replace(action, about=about)

    return [without(one) for one in sides[0]], [without(one) for one in sides[1]]


def _key(action: Action) -> tuple[object, ...]:
    return (action.kind, action.about)


def _actions(run: Run, place: str, output_digest: Callable[[Cell], str | None]) -> list[list[Action]]:
    """A list for each cell; the first is of what happened in none."""
    given = [] if place else [_given(run, document) for document in run.documents]
    found = [[*given, *_steps(place, 0, run.outside)], *(_of_cell(place, cell, output_digest) for cell in run.cells())]
    for query in (query for turn in run.turns for query in turn.queries):
        cell = min(query.cell, len(found) - 1)  # after which the root model was asked
        found[cell].append(_asked(place, cell, query))
    return found


def _given(run: Run, document: Document) -> Action:
    """A context of the first run; what a child was given is what its parent did."""
    about: About = (("name", document.name), ("kind", document.kind), ("sha256", document.sha256))
    return Action(place="", cell=0, kind="context", about=about, seq=run.first_seq)


def _of_cell(place: str, cell: Cell, output_digest: Callable[[Cell], str | None]) -> list[Action]:
    about: About = (("code_sha256", cell.code.sha256), ("code_bytes", cell.code.size_bytes))
    found = [Action(place=place, cell=cell.number, kind="cell", about=about, seq=cell.seq)]
    found += _steps(place, cell.number, cell.steps)
    printed = cell.output.size_bytes if cell.output is not None else None  # where an answer ended it, nobody counted
    about = (("status", cell.status), ("output_bytes", printed), (_OUTPUT, output_digest(cell)))
    seq = cell.ended_seq or max(one.seq for one in found)
    found.append(Action(place=place, cell=cell.number, kind="output", about=about, seq=seq))
    return found


def _end(run: Run, place: str) -> list[Action]:
    if run.status is None:
        return []
    about: About = (("status", run.status), ("code", run.limit.code if run.limit is not None else None))
    return [Action(place=place, cell=0, kind="end", about=about, seq=run.last_seq)]


def _steps(place: str, cell: int, steps: Sequence[Step]) -> Iterator[Action]:
    for step in steps:
        if isinstance(step, Query):
            yield _asked(place, cell, step)
        elif not isinstance(step, Shown):  # that follows from the prompts
            kind, about = _about(step)
            yield Action(place=place, cell=cell, kind=kind, about=about, seq=step.seq)


def _about(step: Read | Search | Refused | Answer | Canary | Child) -> tuple[Kind, About]:
    match step:
        case Read():
            return "read", (("doc", step.doc), ("reads", step.reads), ("ranges", _ranges(step.spans)))
        case Search():
            asked = tuple((name, getattr(step, name)) for name in ("doc", "mode", "start", "stop", "pattern_sha256"))
            return "search", (*asked, ("count", step.count), ("ranges", _ranges(step.spans)))
        case Refused():
            return "refused", (("asked", step.asked), ("code", step.why.code), ("count", step.count))
        case Answer():
            about: About = (("answer_sha256", step.text.sha256), ("answer_bytes", step.text.size_bytes))
            return "void" if step.void else "answer", about
        case Canary():
            return "canary", (("place", step.place), ("number", step.number))
        case Child():
            run = step.run
            size = run.question.size_bytes if run.question is not None else None
            about = (("number", run.run.rpartition(".")[2]), ("question_bytes", size))
            return "child", (*about, ("contexts", tuple(one.sha256 for one in run.documents)))
        case _:
            assert_never(step)


def _asked(place: str, cell: int, query: Query) -> Action:
    about: About = (("model", query.model),)
    if query.purpose != "root":  # a root model's prompt tells how much time is left
        about += (("prompt_sha256", query.prompt.sha256), ("prompt_bytes", query.prompt.size_bytes))
    if query.reply is not None:  # of the model, or of an equal query
        about += (("reply_sha256", query.reply.sha256), ("reply_bytes", query.reply.size_bytes))
    elif query.error is not None:
        about += (("failed", query.error),)
    elif query.denied is not None:
        about += (("denied", query.denied.code),)
    return Action(place=place, cell=cell, kind=_ASKED[query.purpose], about=about, seq=query.seq)


def _ranges(spans: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    return tuple((start, stop) for start, stop in spans)


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}..."
