"""A recorded run, with what was kept of it: the answers that it got, the code that it ran, the question.

Of everything that is not there any more it says what it was (`missing`), and from which cell on that matters (`stops`).
"""

from __future__ import annotations

import contextlib
from base64 import b64decode
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from belljar.audit import Record, records_below
from belljar.audit.content import LEFT_OUT, Contents, open_contents
from belljar.audit.events import RunStarted
from belljar.audit.export.words import end_of
from belljar.audit.printed import digest_of, said_by
from belljar.audit.replay import Setup, actions_of, place_of
from belljar.audit.trajectory import Cell, Query, Run, Text, trajectory
from belljar.errors import ContentUnavailable, InvalidInput
from belljar.keys import Keys
from belljar.models import Rates, Usage
from belljar.models.replay import Asked, Clocks, Tape

__all__ = ["Code", "Recording", "read_recording"]

# All that is kept of a run's answers is in memory while it is replayed.
_KEPT_BYTES_MAX: Final = 512 * 2**20
_NAMED_MAX: Final = 80
_LOST: Final = "the answer to this is not in the record: it was not kept, or is gone"
# As `broker.calls` logs it.
_GIVEN_UP: Final = "interrupted before the model answered"


class Code(NamedTuple):
    """What a cell ran, and how many seconds it may take again, if that is not for the policy alone."""

    text: str
    wall_s: float | None


def read_recording(journal: Path | str, keys: Keys, run: str) -> Recording:
    """Read a run that has ended, with the host's keys for its contents.

    Raises:
        InvalidInput: as `Recording`; `audit.missing`.
        AuditUnavailable, VerificationFailed: the log cannot be read.
    """
    with open_contents(journal, keys) as contents:
        return Recording(run, list(records_below(journal, run)), contents)


class Recording:
    """A recorded run and all below it, with the texts that are kept of them.

    Args:
        records: as `records_below` gives them.

    Raises:
        InvalidInput: `audit.no_run`, `replay.child`: it is a child run; `replay.replay`: it is a replay itself;
            `replay.unfinished`; `replay.too_long`.
    """

    def __init__(self, run: str, records: list[Record], contents: Contents) -> None:
        found = trajectory(records)
        started = records[0].typed if records else None
        if found is None or not isinstance(started, RunStarted):
            raise InvalidInput(f"the log has no run {run}: list the runs to find it", code="audit.no_run")
        if "." in run:
            root = run.partition(".")[0]
            raise InvalidInput(f"{run} is a child run: replay {root}, and it with it", code="replay.child")
        if started.replays is not None:
            raise InvalidInput(f"{run} is a replay: replay {started.replays}, as it did", code="replay.replay")
        if found.status is None:
            raise InvalidInput(f"{run} is still under way: replay it when it has ended", code="replay.unfinished")
        self.run, self.started = found, started
        # What is not there: what would have been needed, for each run the cell in which it got such an answer, and
        # whether one was the root model's.
        self.missing: list[str] = []
        self.stops: dict[str, int] = {}
        self._turns_missing = False
        self._contents = contents
        self._bytes = 0
        self._cut = self._stopped_in()
        self._again = self._tried_again()
        asked = [self._asked(whose, query) for whose, query in self._queries()]
        self.setup = self._setup()
        self.question = self._question()
        self.codes: list[Code] = []
        self.by: Literal["turns", "cells"] | None = "turns"
        if self._cut is not None:
            self._cut_off(self._cut)
        if self.question is None or self._turns_missing or self._cut is not None:
            self.codes = self._codes()
            self.by = "cells" if self.codes else None
        # By run and cell: what it read of clocks, and its last record.
        self._clocks: dict[tuple[str, int], tuple[bytes, int]] = {}
        self.actions = actions_of(self.run, self._output_digest)
        self.tape = Tape(run, asked, self._clocks_until(self.run.last_seq), seed=self.started.seed)

    def until(self, turn: int) -> Tape:
        """What was asked before this turn of the root model, counted from 1.

        Raises:
            InvalidInput: `replay.turn`: there is no such turn, or not all before it is there any more.
        """
        first = [query.seq for one in self.run.turns if one.number == turn for query in one.queries]
        if not first:
            raise InvalidInput(
                f"{self.run.run} has no turn {turn} to fork from: name one of its {len(self.run.turns)}",
                code="replay.turn",
            )
        if self.question is None:
            raise InvalidInput(
                f"{self.run.run} cannot be forked: its question is not kept, or it is a session, in which several came",
                code="replay.turn",
            )
        before = {query.action for _, query in self._queries() if query.seq < first[0]}
        asked = [one for one in self.tape.asked if one.action in before and not one.denied]
        if any(one.lost for one in asked):
            raise InvalidInput(
                f"not all answers before turn {turn} of {self.run.run} are kept: fork from an earlier one",
                code="replay.turn",
            )
        return Tape(self.run.run, asked, self._clocks_until(first[0]))

    def answered(self) -> Tape:
        """All that was answered, up to the first answer that is not there any more."""
        at = {query.action: query.seq for _, query in self._queries()}
        first_lost = min((at[one.action] for one in self.tape.asked if one.lost), default=self.run.last_seq + 1)
        kept = [one for one in self.tape.asked if one.reply is not None and at[one.action] < first_lost]
        return Tape(self.run.run, kept, self._clocks_until(first_lost))

    def had(self, contexts: Iterable[str]) -> None:
        """Look whether the run had contexts of these names. Raises InvalidInput: `replay.context`: it had not."""
        if odd := sorted({*contexts} - {one.name for one in self.started.contexts}):
            raise InvalidInput(
                f"{self.run.run} had no context {odd[0][:_NAMED_MAX]!a}: give those that it had", code="replay.context"
            )

    def rates(self, model: str, listed: Callable[[Usage], int] | None = None) -> Rates | None:
        """What this model's tokens cost then; None if the record does not tell.

        Args:
            listed: what a call costs by the list of prices: if that is what each did cost, they are as listed (None).
        """
        paid = [
            (_usage(query), query.spent.cost_nanousd)
            for _, query in self._queries()
            if query.model == model and query.outcome == "completed"
        ]
        if listed is not None and all(listed(usage) == cost for usage, cost in paid):
            return None
        # What comes from a provider's cache has prices of its own.
        plain = [one for one in paid if one[0].input_tokens == one[0].total_input_tokens] or paid
        return _rates_of([(usage.total_input_tokens, usage.output_tokens, cost) for usage, cost in plain])

    def _stopped_in(self) -> int | None:
        """The cell that was stopped from outside, or in which its host died, or the one behind the last; if any."""
        ends = [end_of(cell)[0] for cell in self.run.cells()]
        was_stopped = self.run.status in ("abandoned", "killed")
        for number, end in enumerate(ends, start=1):
            if end == "killed" or (end is None and was_stopped):
                return number
        # Where nobody asked for an answer, a run that was stopped between two cells had just ended.
        asked = self.run.status == "abandoned" or self.run.question is not None
        return len(ends) + 1 if was_stopped and asked else None

    def _cut_off(self, cell: int) -> None:
        """How far it came by then depends on who stopped it: from this cell on nothing can be compared."""
        self.stops[""] = min(self.stops.get("", cell), cell)
        self.missing.append(f"what would have come of cell {cell}: it was stopped from outside, or its host died")

    def _queries(self) -> Iterator[tuple[Run, Query]]:
        for run in self.run.below():
            yield from ((run, query) for turn in run.turns for query in turn.queries)
            yield from ((run, step) for step in run.steps() if isinstance(step, Query))

    def _tried_again(self) -> set[str]:
        """The actions that failed, and were followed by another attempt: of equal ones, the first that has none yet."""
        failed: dict[tuple[str, str, int], deque[str]] = defaultdict(deque)
        found = set()
        for run, query in sorted(self._queries(), key=lambda one: one[1].seq):
            asked = run.run, query.prompt.sha256 or ""
            if query.attempt > 1 and (before := failed[*asked, query.attempt - 1]):
                found.add(before.popleft())
            if query.outcome == "failed":
                failed[*asked, query.attempt].append(query.action)
        return found

    def _asked(self, run: Run, query: Query) -> Asked:
        place = place_of(run.run, self.run.run)
        asked = Asked(
            place=place,
            action=query.action,
            purpose=query.purpose,
            model=query.model,
            prompt_sha256=query.prompt.sha256 or "",
        )
        if query.reply is None:
            error = query.error or "nothing was sent"
            given_up = query.error == _GIVEN_UP or query.outcome is None
            again, denied = query.action in self._again, query.denied is not None
            return msgspec.structs.replace(asked, error=error, again=again, unanswered=given_up, denied=denied)
        reply = self._reply(query)
        if reply is None:
            if query.purpose == "root" and not place:
                self._turns_missing = True
            else:
                self.stops[place] = min(self.stops.get(place, query.cell), query.cell)
            return msgspec.structs.replace(asked, error=_LOST, lost=True)
        return msgspec.structs.replace(
            asked,
            reply=reply,
            usage=_usage(query),
            stop_reason=query.stop_reason or "end_turn",
            answered_by=query.answered_by or "",
        )

    def _reply(self, query: Query) -> str | None:
        assert query.reply is not None
        return self._text(query.reply, f"the answer to {query.purpose} query {query.action}")

    def _setup(self) -> Setup | None:
        """What it was given; None if that was not kept, or by another version that knew other things."""
        try:
            return msgspec.json.decode(self._contents.get(self.run.run, self.started.setup), type=Setup)
        except (ContentUnavailable, msgspec.DecodeError):
            return None

    def _question(self) -> str | None:
        if self.run.root_model is None or self.run.question is None:
            return None
        return self._text(self.run.question, "the question")

    def _codes(self) -> list[Code]:
        """Of the cells, up to the first whose code is not there."""
        codes = []
        for cell in self.run.cells():
            if cell.number == self._cut:
                break
            code = self._text(cell.code, f"the code of cell {cell.number}")
            if code is None:
                self.stops[""] = min(self.stops.get("", cell.number), cell.number)
                break
            codes.append(Code(code, _time_up(cell)))
        return codes

    def _output_digest(self, cell: Cell) -> str | None:
        said = said_by(cell, self._contents)
        if said is None:
            # What printed nothing may have read clocks all the same, of which there was too much to be kept.
            if cell.output is None or cell.output.size_bytes or cell.output.content in LEFT_OUT:
                self.missing.append(f"what cell {cell.number} of {cell.code.run} printed")
            return None
        if isinstance(said.clock, str):
            over = cell.ended_seq or max(step.seq for step in cell.steps)
            with contextlib.suppress(ValueError):  # as another version may write it
                self._clocks[cell.code.run, cell.number] = b64decode(said.clock, validate=True), over
        return digest_of(said, cell.code.run)

    def _clocks_until(self, seq: int) -> Clocks:
        """What was read of clocks by cells that were over before a record, or with it."""
        found: dict[str, dict[int, bytes]] = {}
        for (run, cell), (readings, last_seq) in self._clocks.items():
            if last_seq <= seq:
                found.setdefault(place_of(run, self.run.run), {})[cell] = readings
        return found

    def _text(self, text: Text, what: str) -> str | None:
        try:
            data = self._contents.get(text.run, text.content)
        except ContentUnavailable as missing:
            self.missing.append(f"{what}: {missing}")
            return None
        self._bytes += len(data)
        if self._bytes > _KEPT_BYTES_MAX:
            raise InvalidInput(
                f"what was kept of {self.run.run} is over {_KEPT_BYTES_MAX} bytes, too much to replay",
                code="replay.too_long",
                limit=_KEPT_BYTES_MAX,
            )
        return data.decode("utf-8", "surrogatepass")


def _time_up(cell: Cell) -> float | None:
    """How long a cell may take again whose time was up: its caller may have allowed it less than the policy did.

    The log does not say how much. What it took is as much, and twice that and a second are enough on a busier machine.
    """
    if cell.status != "timeout" or cell.ended_ns is None:
        return None
    return 1 + 2 * max(0, cell.ended_ns - cell.started_ns) / 1e9


def _usage(query: Query) -> Usage:
    spent = query.spent
    cached = query.cache_read_tokens + query.cache_write_tokens
    return Usage(
        input_tokens=max(0, spent.input_tokens - cached),
        output_tokens=spent.output_tokens,
        cache_read_tokens=query.cache_read_tokens,
        cache_write_tokens=query.cache_write_tokens,
        cache_write_1h_tokens=query.cache_write_1h_tokens,
    )


def _rates_of(costs: list[tuple[int, int, int]]) -> Rates | None:
    """What a token of input and one of output cost, from what calls with so many of each cost.

    Where that leaves open which of the two it was, both cost the same. None if there were no calls.
    """
    known = [one for one in costs if one[0] + one[1]]
    if not known:
        return None
    first = known[0]
    for other in known:
        if determinant := first[0] * other[1] - other[0] * first[1]:
            of_input = Fraction(first[2] * other[1] - other[2] * first[1], determinant)
            of_output = Fraction(first[0] * other[2] - other[0] * first[2], determinant)
            if of_input >= 0 and of_output >= 0:
                return Rates(_decimal(of_input), _decimal(of_output))
    of_each = _decimal(Fraction(first[2], first[0] + first[1]))
    return Rates(of_each, of_each)


def _decimal(value: Fraction) -> Decimal:
    """As a price is written: in nano-dollars with at most six digits behind the point."""
    return Decimal(round(value * 10**6)) / 10**6
