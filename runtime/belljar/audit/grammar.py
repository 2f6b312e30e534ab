"""What a run may look like: which record may follow which. `RunGrammar` takes the records of one run in their order.

    run.started  box.started?  { cell.started  ... cell.finished? }  run.finished | run.abandoned

* It begins once, and after its end there is nothing more of it. A start that was refused is a run that ended at once.
* Cells are numbered from 1. One begins when the one before has ended and no answer was given; the last may be cut off.
* What the program reads names the cell that began last; a refusal may be that of one before. An answer comes from a
  cell that runs, and there is one.
* An action is requested once, in a cell that has begun, and has one outcome, also after its cell; at the run's end none
  is open. Of an abandoned run some are: its host died, and the books charged them in full.
* What was shown was shown by a query of that cell, which by the run's end has been answered.

Events of other families may stand anywhere before the end, so that a log of a later version reads as well.

A run under way takes memory for its actions and cells, an ended one none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, Final

import msgspec

from belljar.audit.read import Record

__all__ = ["ENDS", "RunGrammar"]

ENDS: Final = ("run.finished", "run.abandoned")
_OUTCOMES: Final = ("completed", "failed", "denied")
# What only a run has.
_FAMILIES: Final = ("run", "box", "cell", "answer", "context", "query", "request")

Problems = Iterator[str]


class _Action(msgspec.Struct):
    kind: str
    seq: int
    cell: int | None
    is_sub: bool
    ended: bool = False


class RunGrammar:
    """One run so far. `feed` gives what is wrong with the next record, as the end of a sentence about it."""

    def __init__(self) -> None:
        self._begun = False
        self._boxed = False
        self._cells = 0
        self._running = False
        self._answered = False
        self._actions: dict[str, _Action] = {}
        self._asked: set[int | None] = set()  # cells with a query to a sub-model, and with an answer to one
        self._replied: set[int | None] = set()
        self._shown: dict[int | None, int] = {}  # cells of what was shown before an answer: the first such record
        self.ended = False

    def feed(self, record: Record) -> Problems:
        """Nothing may be fed after `ended`."""
        of_run = record.event.partition(".")[0] in _FAMILIES
        if of_run and not self._begun and record.event != "run.started":
            yield f"record {record.seq}: {record.event} of run {record.run[:80]!a}, which has not begun"
        rule = self._RULES.get(record.event) or self._rule_of_action(record.event)
        if rule is not None:
            yield from rule(self, record)
        self._begun = self._begun or of_run
        self.ended = record.event in ENDS

    def open_actions(self) -> Iterator[_Action]:
        return (action for action in self._actions.values() if not action.ended)

    def unfinished(self, run: str) -> Iterator[str]:
        """What is still to come, a line for each; call it when the log ends and the run has not."""
        for name, action in self._actions.items():
            if not action.ended:
                yield f"record {action.seq}: {action.kind} action {name[:80]!a} of run {run[:80]!a} has no outcome"

    def unproved(self) -> Problems:
        """What was shown and can have been shown by no query."""
        waiting = {action.cell for action in self.open_actions() if action.is_sub} if not self.ended else set()
        for cell, seq in self._shown.items():
            if cell not in self._replied and cell not in waiting:
                yield f"record {seq}: something was shown in cell {cell}, in which no query was completed"

    # -- the rules ---------------------------------------------------------------------------------------------------

    def _start(self, record: Record) -> Problems:
        if self._begun:
            yield f"record {record.seq}: a second start of run {record.run[:80]!a}"

    def _end(self, record: Record) -> Problems:
        yield from (f"{line}, and the run is finished" for line in self.unfinished(record.run))
        yield from self._abandon(record)

    def _abandon(self, _: Record) -> Problems:
        self.ended = True
        yield from self.unproved()

    def _box(self, record: Record) -> Problems:
        if self._boxed or self._cells:
            yield f"record {record.seq}: a second box of run {record.run[:80]!a}"
        self._boxed = True

    def _begin_cell(self, record: Record) -> Problems:
        cell = record.data.get("cell")
        if cell != self._cells + 1:
            yield f"record {record.seq}: cell {cell!a:.80} begins where cell {self._cells + 1} is next"
        if self._running:
            yield f"record {record.seq}: a cell begins before cell {self._cells} has ended"
        if self._answered:
            yield f"record {record.seq}: a cell begins after the answer"
        self._cells = max(self._cells + 1, cell) if type(cell) is int else self._cells + 1
        self._running = True

    def _end_cell(self, record: Record) -> Problems:
        yield from self._in_last_cell(record)
        if not self._running:
            yield f"record {record.seq}: {record.event} where no cell runs"
        self._running = False

    def _answer(self, record: Record) -> Problems:
        yield from self._in_last_cell(record)
        if not self._running or self._answered:
            why = "the answer was given before" if self._answered else "no cell runs"
            yield f"record {record.seq}: {record.event} where {why}"
        self._answered = self._answered or record.event == "answer.given"

    def _in_last_cell(self, record: Record) -> Problems:
        cell = record.data.get("cell", self._cells)  # logs of the first versions name none
        if cell != self._cells:
            yield f"record {record.seq}: {record.event} in cell {cell!a:.80}, and the last that began is {self._cells}"

    def _show(self, record: Record) -> Problems:
        cell = record.data.get("cell")
        if not record.data.get("spans"):
            return  # it only says that not all could be looked for
        if not (isinstance(cell, int) and cell in self._asked):
            yield f"record {record.seq}: something was shown in cell {cell!a:.80}, in which no query was requested"
        elif cell not in self._replied:
            self._shown.setdefault(cell, record.seq)

    def _request(self, record: Record) -> Problems:
        kind, cell = record.event.rpartition(".")[0], record.data.get("cell")
        action = _name(record.data)
        if action is None:
            yield f"record {record.seq}: {record.event} names no action"
        elif action in self._actions:
            yield f"record {record.seq}: action {action[:80]!a} was requested before"
        else:
            is_sub = kind == "query" and record.data.get("purpose") != "root"
            self._actions[action] = _Action(kind, record.seq, cell if type(cell) is int else None, is_sub)
            if is_sub:
                self._asked.add(self._actions[action].cell)
        yield from self._in_a_cell(record)

    def _in_a_cell(self, record: Record) -> Problems:
        """0 stands for before the first; logs of the first versions name none."""
        cell = record.data.get("cell", 0)
        if not (type(cell) is int and 0 <= cell <= self._cells):
            yield f"record {record.seq}: {record.event} in cell {cell!a:.80}, which has not begun"

    def _outcome(self, record: Record) -> Problems:
        kind, _, end = record.event.rpartition(".")
        name = _name(record.data)
        if name is None:
            yield f"record {record.seq}: {record.event} names no action"
            return
        action = self._actions.get(name)
        if action is None or action.kind != kind:
            yield f"record {record.seq}: {record.event} of action {name[:80]!a} that was not requested"
        elif action.ended:
            yield f"record {record.seq}: a second outcome of action {name[:80]!a}"
        else:
            action.ended = True
            if end == "completed" and action.is_sub:
                self._replied.add(action.cell)

    def _rule_of_action(self, event: str) -> Callable[[RunGrammar, Record], Problems] | None:
        end = event.rpartition(".")[2]
        if end == "requested":
            return RunGrammar._request
        return RunGrammar._outcome if end in _OUTCOMES else None

    _RULES: ClassVar[Mapping[str, Callable[[RunGrammar, Record], Problems]]] = {
        "run.started": _start,
        "run.finished": _end,
        "run.abandoned": _abandon,
        "box.started": _box,
        "cell.started": _begin_cell,
        "cell.finished": _end_cell,
        "answer.given": _answer,
        "answer.void": _answer,
        "context.read": _in_last_cell,
        "context.searched": _in_last_cell,
        "request.refused": _in_a_cell,
        "query.shown": _show,
    }


def _name(data: Mapping[str, object]) -> str | None:
    action = data.get("action")
    if isinstance(action, str):
        return action
    return str(action) if type(action) is int else None
