"""The RLM loop: a root model writes code, the box runs it, what it printed goes back, until the code gives an answer.

    question, description of `context`  ->  root model  ->  ```repl blocks  ->  box  ->  output  ->  root model ...

The run ends by `FINAL` and its like *in code*, on the box's own wire; prose is never searched for an answer. Output is
text from a hostile document, so it goes back between markers that carry a random word of this run, in a user turn.

The blocks of a reply are run up to the first that prints or fails. Later ones were written by somebody who had not seen
that: an answer given there would be made up. Whatever part of a reply is not run, the model is told why.

A reply can be useless: cut off, refused, blank. After a cut or blank one the model is told so, and it may go on with a
block that was cut off; a refusal ends the run, and so does the third reply in a row that brings nothing to run. A
conversation that the model has no room for is shortened once.

If the run ends before the answer is given (turns, budget, the model), and the box is alive, one more cell, of our own,
asks it for what there is. That becomes the result's `partial`; the status stays what it was.

In a session an answer ends its question and not the box. Another question goes on with the same conversation, after
`follow_up`; it has as many turns as the first. A cell of our own then empties the draft, so that what the question
before left there is neither its answer nor its `partial`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final as Const

import msgspec

from belljar.broker import Calls, RunScope
from belljar.context import Document, FirstItem
from belljar.engine.blocks import Block, Found, find_blocks
from belljar.engine.box import Box, Verdict, verdict_of
from belljar.engine.history import History
from belljar.engine.prompt import (
    AGAIN,
    STOPPED,
    Ran,
    accepted,
    is_no_python,
    next_question,
    opening,
    report,
    standing,
    summary,
    system_prompt,
)
from belljar.engine.result import CellResult, Turn, TurnBlock
from belljar.engine.typed import AnswerType
from belljar.errors import ModelFailed, PolicyDenied, QuotaExceeded
from belljar.heavy import off_loop, whole
from belljar.identity import Language
from belljar.models import Model, ModelReply, ModelRequest, Usage

__all__ = ["Progress", "Root"]

# The providers' words for a request that is longer than their window, where that is an error.
_TOO_LONG: Const = re.compile(r"prompt is too long|context window|context length|request_too_large", re.IGNORECASE)
# This many replies in a row that are blank or cut off, with nothing to run, are enough.
_FRUITLESS_MAX: Const = 3

_ANSWER_SHARE: Const = 4
_NEW_DRAFT: Const = 'answer = {"content": "", "ready": False}'
# The program may have set any of these, and to anything: what is no answer is passed over.
_DRAFT: Const = """\
try:
    if not isinstance(answer, dict):
        FINAL(answer)
    elif answer.get("content") not in (None, ""):
        FINAL(answer["content"])
except Exception:
    pass
"""
_VARIABLE: Const = """\
try:
    FINAL({name})
except Exception:
    pass
"""


class Progress(msgspec.Struct, frozen=True):
    """Where a run stands, for whoever watches."""

    turns: int
    cells: int
    reads: int
    read_bytes: int
    queries: int
    calls: int
    cost_nanousd: int


class Root:
    """A root model at work on a question.

    Args:
        model: the root model; it answers through `calls`.
        documents: the run's contexts, by name.
        execute: runs a block as a cell of `box`, after which others may follow.
        answer_type: what the answer has to be; the box's broker checks it.
        firsts: the first items of each document that is a list or dict.
        tools: what is said of each function of the host that programs may call.
        tell: called with each turn when it is over.

    `turns` counts its turns, of all questions. `answer` is the answer to the last one. `ending` is set when that
    ended without an answer, before it asks the box for what there is of one (`partial`).
    """

    def __init__(
        self,
        model: Model,
        question: str,
        *,
        scope: RunScope,
        language: Language,
        documents: Mapping[str, Document],
        calls: Calls,
        box: Box,
        execute: Callable[[str], Awaitable[CellResult]],
        tell: Callable[[Turn], None],
        answer_type: AnswerType | None = None,
        firsts: Mapping[str, Sequence[FirstItem]] | None = None,
        tools: Sequence[str] = (),
    ) -> None:
        self._model = model
        self._scope = scope
        self._calls = calls
        self._box = box
        self._execute = execute
        self._tell_turn = tell
        self._word = secrets.token_hex(6)
        policy = scope.policy
        self._system = system_prompt(policy, language, self._word, depth=scope.run.depth, tools=tools)
        first = opening(whole(question), documents, answer_type, firsts, self._word)
        if policy.models.turns_max == 1:  # the instructions say how many there are
            first += f"\n\n{standing(scope, 1, calls.limits, calls.spent_in_tree)}"
        self._history = History(self._system, first, policy.models.prompt_bytes_max)
        self._fruitless = 0
        self._codes: list[str] = []
        # The lines of a block that the last reply was cut off in.
        self._begun = ""
        # What is run, or was when the work was stopped, and is not in the history yet.
        self._running = ""
        # How many turns earlier questions took.
        self._earlier = 0
        self._is_first = True
        self.turns = 0
        self.answer: str | msgspec.Raw | None = None
        self.ending: Verdict | None = None
        self.partial: str | msgspec.Raw | None = None

    def follow_up(self, question: str, answer_type: AnswerType | None = None) -> None:
        """Go on with another question: `work` answers it.

        Raises:
            PolicyDenied: `models.prompt`: it is too long.
        """
        if self._running:
            self._history.add(self.turns, self._running, STOPPED)
            self._running = ""
        self.ending = self.partial = None  # also if the question is refused
        asked = next_question(whole(question), answer_type, answered=self.answer is not None)
        self._history.ask(f"{asked}\n\n{self._standing(1)}")
        self._fruitless, self._codes, self._earlier, self._is_first = 0, [], self.turns, False
        self._begun = ""
        self.answer = None

    async def clear_draft(self) -> None:
        """What cells before this question left as a draft is none for it."""
        if self._box.broker.cells and not self._box.finished:
            await self._box.execute(_NEW_DRAFT, spare_cpu=True)

    async def work(self) -> None:
        """Run the loop until the answer is given or the box has ended.

        Raises:
            QuotaExceeded: `models.turns`: the root model never finished; or a call was refused.
            PolicyDenied: `limits.run_wall`: the run's time ran out while the root model thought; `models.prompt`: the
                question is too long.
            ModelFailed: the root model gave no answer, refused to, or brought nothing to run three times in a row.
        """
        try:
            await self._take_turns()
        except (QuotaExceeded, ModelFailed) as error:
            if not self._box.finished and self._box.broker.cells and self._scope.left_s() > 0:
                self.ending = verdict_of(error)
                # Not a cell of the program's, whose last one stays the run's last; and a draft may be of any type.
                self._box.broker.expect(None)
                # Of later questions a variable may be what an earlier one left.
                names = self._scope.policy.models.partial if self._is_first else ()
                there = _DRAFT + "".join(_VARIABLE.format(name=name) for name in names)
                self.partial = (await self._box.execute(there, spare_cpu=True)).given
            raise

    async def _take_turns(self) -> None:
        turns_max = self._scope.policy.models.turns_max
        while self._turn_here < turns_max:
            self.turns += 1
            reply = await self._think()
            if reply is None:
                return
            if reply.is_refused:
                self._tell(reply, await off_loop(len(reply.text), find_blocks, reply.text), [], "")
                raise ModelFailed(
                    f"the root model refused to go on ({reply.stop_reason[:40]}): ask differently, or ask another model"
                )
            if not await self._turn(reply):
                return
        raise QuotaExceeded(
            f"the root model did not finish in {turns_max} turns: allow more turns or ask a smaller question",
            code="models.turns",
            limit=turns_max,
            observed=turns_max,
        )

    @property
    def _turn_here(self) -> int:
        """The number of the turn, of those of this question."""
        return self.turns - self._earlier

    async def _think(self) -> ModelReply | None:
        """The root model's answer; None if the box has ended meanwhile.

        What a program left running may meet a limit, or the run's time may run out: that is then how the run ended.
        """
        try:
            reply = await self._ask()
        except ModelFailed as failure:
            if not _TOO_LONG.search(str(failure)) or not self._history.halve():
                raise
            reply = await self._ask()
        if reply.has_no_room and not self._box.finished and self._history.halve():
            reply = await self._ask()
        if self._box.finished:
            return None
        if reply.has_no_room and not reply.text.strip():
            raise ModelFailed(
                f"{self._model.name} has no room left to answer in: ask a shorter question, or use a model with a "
                "larger context window"
            )
        return reply

    async def _ask(self) -> ModelReply:
        models = self._scope.policy.models
        request = ModelRequest(
            system=self._system,
            messages=self._history.messages(),
            output_tokens_max=models.output_tokens_max,
            deadline_s=models.call_wall_s,
            purpose="root",
        )
        return await self._calls.ask(self._model, request, cell=self._box.broker.cells)

    async def _turn(self, reply: ModelReply) -> bool:
        """Run what a reply contains and record what came of it; False if no further turn is wanted."""
        is_cut = reply.is_cut
        size = len(reply.text) + len(self._begun)
        found = await off_loop(size, find_blocks, reply.text, cut=is_cut, begun=self._begun)
        self._running = found.text
        ran = await self._run_blocks(found)
        if self._is_answered(found, ran) or self._box.finished:
            self._tell(reply, found, ran, "")
            return False
        self._begun = _begun(found, ran) if is_cut else ""
        cut_at = reply.usage.output_tokens if is_cut else None
        chars_max = self._history.shown_chars_max
        shown = report(ran, found, word=self._word, chars_max=chars_max, cut_at=cut_at, begun=self._begun)
        if self._is_again(found, ran):
            shown = f"{AGAIN}\n\n{shown}"
        turn = self._turn_here
        if turn < self._scope.policy.models.turns_max:
            shown += f"\n\n{self._standing(turn + 1)}"
        self._tell(reply, found, ran, shown)
        self._keep(found, ran, shown)
        self._count_fruitless(found, ran, is_cut)
        return True

    def _standing(self, turn: int) -> str:
        return standing(self._scope, turn, self._calls.limits, self._calls.spent_in_tree)

    def _is_answered(self, found: Found, ran: list[Ran]) -> bool:
        """Whether the last block gave the answer."""
        self.answer = ran[-1].cell.given if ran and ran[-1].cell is not None else None
        if self.answer is None:
            return False
        shown = accepted(self.answer, word=self._word, chars_max=self._history.shown_chars_max // _ANSWER_SHARE)
        self._keep(found, ran, shown)
        return True

    def _keep(self, found: Found, ran: list[Ran], shown: str) -> None:
        self._history.add(self.turns, found.text, shown, summary(ran, found))
        self._running = ""

    def _is_again(self, found: Found, ran: list[Ran]) -> bool:
        """Whether what was run is what was run in the turn before."""
        codes = [found.blocks[one.number - 1].code for one in ran]
        before, self._codes = self._codes, codes
        return bool(codes) and codes == before

    async def _run_blocks(self, found: Found) -> list[Ran]:
        """Run the blocks up to the first that prints or fails. An unlabelled one that is not Python does not count."""
        ran: list[Ran] = []
        for number, block in enumerate(found.blocks, start=1):
            ran.append(await self._run_block(number, block))
            cell = ran[-1].cell
            passed_over = cell is not None and not block.label and is_no_python(cell)
            if self._box.finished or not (ran[-1].quiet or passed_over):
                break
        return ran

    async def _run_block(self, number: int, block: Block) -> Ran:
        try:
            return Ran(number, await self._execute(block.code))
        except PolicyDenied as refusal:
            if refusal.code != "limits.code":
                raise
            return Ran(number, None, str(refusal))

    def _tell(self, reply: ModelReply, found: Found, ran: list[Ran], shown: str) -> None:
        status = {one.number: one.cell.status for one in ran if one.cell is not None}
        blocks = [TurnBlock(block.code, status.get(number)) for number, block in enumerate(found.blocks, start=1)]
        if found.unfinished is not None:
            blocks.append(TurnBlock(found.unfinished.code))
        used = reply.usage
        usage = Usage(**{name: getattr(used, name) for name in Usage.__struct_fields__})
        turn = Turn(self.turns, found.reply, tuple(blocks), shown, usage, whole(reply.stop_reason[:200]))
        self._tell_turn(turn)

    def _count_fruitless(self, found: Found, ran: list[Ran], is_cut: bool) -> None:
        self._fruitless = self._fruitless + 1 if not ran and (found.blank or is_cut) else 0
        if self._fruitless == _FRUITLESS_MAX:
            what = "cut off before a block was complete" if is_cut else "empty"
            raise ModelFailed(
                f"the root model's reply was {what} {_FRUITLESS_MAX} times in a row: ask differently, allow it more "
                "output_tokens, or use another model"
            )


def _begun(found: Found, ran: list[Ran]) -> str:
    """The whole lines of the block that a reply was cut off in, unless its author has to see something before."""
    if found.unfinished is None or len(ran) < len(found.blocks) or not all(one.quiet for one in ran):
        return ""
    code = found.unfinished.code
    return code[: code.rfind("\n") + 1]
