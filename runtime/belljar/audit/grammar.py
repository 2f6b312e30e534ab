"""What a run may look like: which record may follow which. `RunGrammar` takes the records of one run in order.

    run.started  box.started?  { cell.started  ... cell.finished? }  run.finished | run.abandoned

* It begins once, and after its end it has no more records. A start that was refused is a run that ended at once.
* Cells are numbered from 1. One begins only when the one before has ended and no answer has ended the run; the last may
  be cut off.
* A read names the cell that began last; a refusal or a canary may name an earlier one. An answer comes from
  a running cell, which gives only one. It is the run's only one, unless it `stays`: that one ends its question.
* An action is requested once, in a cell that has begun, and has one outcome, perhaps after the cell's end; at the run's
  end none is open. An abandoned run has open ones: its host died, and the ledger charged them in full.
* A query that was answered without a model is one record, requested and answered at once. Where the answer is of the
  same run, that action has been requested, and is completed with the same prompt and reply.
* Text is shown by a query of the same cell, which has been answered by the run's end.

A run under way takes memory for its actions and cells; an ended one takes none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

import msgspec

from belljar.audit.events import (
    AccessChanged,
    AnswerGiven,
    AnswerVoid,
    BoxStarted,
    CanarySeen,
    CellFinished,
    CellStarted,
    ContentsErased,
    ContextRead,
    ContextSearched,
    HookChanged,
    HookDelivered,
    HttpRequest,
    KeyChanged,
    LogAccepted,
    LogRead,
    QueryCompleted,
    QueryDenied,
    QueryFailed,
    QueryRequested,
    QueryReused,
    QueryShown,
    QuotaChanged,
    RequestRefused,
    RunAbandoned,
    RunFinished,
    RunStarted,
    ServiceChanged,
)
from belljar.audit.read import Record

__all__ = ["RunGrammar"]

Problems = Iterator[str]


class _Action(msgspec.Struct):
    seq: int
    cell: int
    is_sub: bool
    prompt_sha256: str
    ended: bool = False
    reply_sha256: str | None = None


class RunGrammar:
    """One run so far. `feed` gives what is wrong with the next record, a line for each problem."""

    def __init__(self) -> None:
        self._begun = False
        self._boxed = False
        self._cells = 0
        self._running = False
        self._answered = False
        self._answered_in = 0  # the last cell that gave an answer
        self._actions: dict[str, _Action] = {}
        self._asked: set[int] = set()  # cells with a query to a sub-model, and with an answer to one
        self._replied: set[int] = set()
        self._reused: list[tuple[int, QueryReused]] = []  # whose answer was of this run, with the record's number
        self._shown: dict[int, int] = {}  # cells in which text was shown before an answer: the first such record
        self.ended = False

    def feed(self, record: Record) -> Problems:
        """Nothing may be fed after `ended`."""
        if not self._begun and not isinstance(record.typed, RunStarted):
            yield f"record {record.seq}: {record.event} of run {record.run[:80]!a}, which has not begun"
        yield from self._follow(record)
        self._begun = True

    def _follow(self, record: Record) -> Problems:
        # The most frequent first.
        match record.typed:
            case ContextRead() | ContextSearched() as read:
                yield from self._in_last_cell(record, read.cell)
            case QueryRequested() as asked:
                yield from self._request(record, asked)
            case QueryCompleted() | QueryFailed() | QueryDenied() as outcome:
                yield from self._outcome(record, outcome)
            case RunStarted():
                yield from self._start(record)
            case RunFinished():
                yield from self._end(record)
            case RunAbandoned():
                yield from self._abandon()
            case BoxStarted():
                yield from self._box(record)
            case CellStarted() as started:
                yield from self._begin_cell(record, started.cell)
            case CellFinished() as finished:
                yield from self._end_cell(record, finished.cell)
            case AnswerGiven() | AnswerVoid() as answer:
                yield from self._answer(record, answer)
            case QueryReused() as reused:
                yield from self._reuse(record, reused)
            case QueryShown() as shown:
                yield from self._show(record, shown)
            case RequestRefused() | CanarySeen() as told:
                yield from self._in_a_cell(record, told.cell)
            case (
                QuotaChanged()
                | ContentsErased()
                | LogRead()
                | LogAccepted()
                | KeyChanged()
                | ServiceChanged()
                | HttpRequest()
                | AccessChanged()
                | HookChanged()
                | HookDelivered()
            ):
                yield f"record {record.seq}: {record.event} under run {record.run[:80]!a}, to which none belongs"
            case _:
                assert_never(record.typed)

    def open_actions(self) -> Iterator[_Action]:
        return (action for action in self._actions.values() if not action.ended)

    def unfinished(self, run: str) -> Iterator[str]:
        """Actions that have no outcome yet, a line for each; for a log that ends before the run does."""
        for name, action in self._actions.items():
            if not action.ended:
                yield f"record {action.seq}: query action {name[:80]!a} of run {run[:80]!a} has no outcome"

    def unproved(self) -> Problems:
        """What was shown, although no query can have shown it."""
        waiting = {action.cell for action in self.open_actions() if action.is_sub} if not self.ended else set()
        for cell, seq in self._shown.items():
            if cell not in self._replied and cell not in waiting:
                yield f"record {seq}: text was shown in cell {cell}, in which no query was completed"
        for seq, reused in self._reused:
            origin = self._actions.get(reused.origin)
            if origin is None or (origin.ended and not _is_of(reused, origin)):
                yield f"record {seq}: it has the answer of action {reused.origin[:80]!a}, which did not give it"

    # -- the rules ---------------------------------------------------------------------------------------------------

    def _start(self, record: Record) -> Problems:
        if self._begun:
            yield f"record {record.seq}: a second start of run {record.run[:80]!a}"

    def _end(self, record: Record) -> Problems:
        yield from (f"{line}, but the run is finished" for line in self.unfinished(record.run))
        yield from self._abandon()

    def _abandon(self) -> Problems:
        self.ended = True
        yield from self.unproved()

    def _box(self, record: Record) -> Problems:
        if self._boxed or self._cells:
            yield f"record {record.seq}: a second box of run {record.run[:80]!a}"
        self._boxed = True

    def _begin_cell(self, record: Record, cell: int) -> Problems:
        if cell != self._cells + 1:
            yield f"record {record.seq}: cell {cell} begins, but cell {self._cells + 1} is next"
        if self._running:
            yield f"record {record.seq}: a cell begins before cell {self._cells} has ended"
        if self._answered:
            yield f"record {record.seq}: a cell begins after the answer"
        self._cells = max(self._cells + 1, cell)
        self._running = True

    def _end_cell(self, record: Record, cell: int) -> Problems:
        yield from self._in_last_cell(record, cell)
        if not self._running:
            yield f"record {record.seq}: {record.event} while no cell is running"
        self._running = False

    def _answer(self, record: Record, answer: AnswerGiven | AnswerVoid) -> Problems:
        yield from self._in_last_cell(record, answer.cell)
        again = self._answered_in == answer.cell and isinstance(answer, AnswerGiven)
        if not self._running or self._answered or again:
            why = "after the answer was given" if self._answered or again else "while no cell is running"
            yield f"record {record.seq}: {record.event} {why}"
        if isinstance(answer, AnswerGiven):
            self._answered = self._answered or not answer.stays
            self._answered_in = answer.cell

    def _in_last_cell(self, record: Record, cell: int) -> Problems:
        if cell != self._cells:
            yield f"record {record.seq}: {record.event} in cell {cell}, but the last that began is {self._cells}"

    def _show(self, record: Record, shown: QueryShown) -> Problems:
        if not shown.spans:
            return  # it only says that the search was incomplete
        if shown.cell not in self._asked:
            yield f"record {record.seq}: text was shown in cell {shown.cell}, in which no query was requested"
        elif shown.cell not in self._replied:
            self._shown.setdefault(shown.cell, record.seq)

    def _request(self, record: Record, asked: QueryRequested) -> Problems:
        if asked.action in self._actions:
            yield f"record {record.seq}: action {asked.action[:80]!a} was already requested"
        else:
            action = _Action(record.seq, asked.cell, asked.purpose == "sub", asked.prompt_sha256)
            self._actions[asked.action] = action
            if action.is_sub:
                self._asked.add(action.cell)
        yield from self._in_a_cell(record, asked.cell)

    def _reuse(self, record: Record, reused: QueryReused) -> Problems:
        if reused.action in self._actions:
            yield f"record {record.seq}: action {reused.action[:80]!a} was already requested"
        else:
            action = _Action(record.seq, reused.cell, True, reused.prompt_sha256, True, reused.reply_sha256)
            self._actions[reused.action] = action
            self._asked.add(reused.cell)
            self._replied.add(reused.cell)
        if reused.origin.rpartition(".")[0] == record.run:
            self._reused.append((record.seq, reused))
        yield from self._in_a_cell(record, reused.cell)

    def _in_a_cell(self, record: Record, cell: int) -> Problems:
        """Cell 0 is before the first."""
        if cell > self._cells:
            yield f"record {record.seq}: {record.event} in cell {cell}, which has not begun"

    def _outcome(self, record: Record, outcome: QueryCompleted | QueryFailed | QueryDenied) -> Problems:
        action = self._actions.get(outcome.action)
        if action is None:
            yield f"record {record.seq}: {record.event} of action {outcome.action[:80]!a}, which was not requested"
        elif action.ended:
            yield f"record {record.seq}: a second outcome of action {outcome.action[:80]!a}"
        else:
            action.ended = True
            if isinstance(outcome, QueryCompleted):
                action.reply_sha256 = outcome.reply_sha256
                if action.is_sub:
                    self._replied.add(action.cell)


def _is_of(reused: QueryReused, origin: _Action) -> bool:
    """Whether it has the answer of that action."""
    return (reused.prompt_sha256, reused.reply_sha256) == (origin.prompt_sha256, origin.reply_sha256)
