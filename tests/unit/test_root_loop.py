"""The loop around a root model: what of a reply is run, what its author is told, and how the work ends.

The box is a fake: a block's code says what happens (`print`, `fail`, `quiet`, ...).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import time
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest

from belljar.broker import Calls, RunScope
from belljar.engine import Box, CellResult, ErrorInfo, Root, Status, Turn
from belljar.engine.blocks import find_blocks
from belljar.engine.prompt import Ran, summary, system_prompt
from belljar.errors import BelljarError, ModelFailed, PolicyDenied, QuotaExceeded
from belljar.identity import RunId, Tenant
from belljar.models import ModelReply, ModelRequest, Usage
from belljar.policy import Policy, RunQuota, load
from belljar.tasks import Nursery

F = "```"
Said = str | tuple[str, str] | BelljarError


def block(code: str, label: str = "repl") -> str:
    return f"{F}{label}\n{code}\n{F}\n"


def cell(status: Status = "ok", stdout: str = "", error: ErrorInfo | None = None, answer: Any = None) -> CellResult:
    return CellResult(
        status=status,
        stdout=stdout,
        stderr="",
        truncated=False,
        error=error,
        limit=None,
        wall_s=0.0,
        given=answer,
        output_bytes=len(stdout),
    )


class FakeBox:
    """Does what the code says, and keeps it. `there_is` is what it answers to code that is none of these."""

    def __init__(self) -> None:
        self.finished = False
        self.broker = self
        self.cells = 0
        self.ran: list[str] = []
        self.there_is: str | None = None

    def expect(self, misfit: object) -> None:
        """Any answer will do."""

    async def execute(self, code: str, *, spare_cpu: bool = False) -> CellResult:
        assert spare_cpu
        code = code.strip()
        self.cells += 1
        self.ran.append(code)
        match code.split():
            case ["print", *words]:
                return cell(stdout=" ".join(words) + "\n")
            case ["flood"]:
                kept = "first " * 10_000 + "[... bytes not kept: 2,000,000 ...]" + " last" * 10_000
                return msgspec.structs.replace(cell(stdout=kept), truncated=True, output_bytes=2_110_000)
            case ["fail"]:
                return cell("error", error=ErrorInfo("ValueError", "no", 1, "Traceback ...\nValueError: no"))
            case ["refused"]:
                return cell("rejected", error=ErrorInfo("Rejected", "await is not available", 1, "Rejected: await"))
            case ["prose" | ">>>" | "!pip", *_]:
                return cell("rejected", error=ErrorInfo("Rejected", "syntax error: invalid", 1, "Rejected: syntax"))
            case ["long"]:
                raise PolicyDenied("a cell of 9 bytes is over the policy's limit of 8: split it", code="limits.code")
            case ["answer", value]:
                self.finished = True
                return cell(answer=value)
            case ["quiet", *_]:
                return cell()
            case _:
                return cell(answer=self.there_is)


class FakeRun:
    """A run whose root model says one thing after the other, the last for ever."""

    def __init__(self, *says: Said | Callable[[ModelRequest], Said], policy: Policy | None = None) -> None:
        self.the_box = FakeBox()
        self.asked: list[ModelRequest] = []
        self.told: list[Turn] = []
        self._says = says
        policy = policy or load("standard")
        self.scope = RunScope(
            run=RunId("r"), tenant=Tenant("t"), policy=policy, deadline=time.monotonic() + 1800, tasks=Nursery()
        )
        self.name = "scripted:fake"
        self.cost_nanousd = 1_200_000_000
        self.calls = 20

        self.root = Root(
            cast("Any", self),
            "What?",
            scope=self.scope,
            language="restricted",
            documents={},
            calls=cast("Calls", self),
            box=cast("Box", self.the_box),
            execute=functools.partial(self.the_box.execute, spare_cpu=True),
            tell=self.told.append,
        )

    async def ask(self, model: object, request: ModelRequest, *, cell: int) -> ModelReply:
        del model
        assert cell == self.the_box.cells
        self.asked.append(request)
        said = self._says[min(len(self.asked), len(self._says)) - 1]
        said = said if isinstance(said, str | tuple | BelljarError) else said(request)
        if isinstance(said, BelljarError):
            raise said
        text, stop_reason = said if isinstance(said, tuple) else (said, "end_turn")
        return ModelReply(text, Usage(100, 10), "m", stop_reason)

    @property
    def limits(self) -> RunQuota:
        return self.scope.policy.quota.run

    @property
    def spent_in_tree(self) -> FakeRun:
        """The one that is told of: `cost_nanousd` and `calls`."""
        return self

    @property
    def shown(self) -> list[str]:
        """What the model was shown of each turn, without the line on what is left."""
        return [turn.shown.rpartition("\n\n")[0] for turn in self.told]


def work(
    *says: Said | Callable[[ModelRequest], Said], turns: int = 40, raises: type[BelljarError] | None = None
) -> FakeRun:
    standard = load("standard")
    policy = msgspec.structs.replace(standard, models=msgspec.structs.replace(standard.models, turns_max=turns))
    run = FakeRun(*says, policy=policy)
    with contextlib.nullcontext() if raises is None else pytest.raises(raises):
        asyncio.run(run.root.work())
    return run


END = block("answer done")


# ------------------------------------------------------------------------------------------------------ which are run


@pytest.mark.parametrize(
    ("first", "why"),
    [
        ("print ZZZ", "block 1 printed something"),
        ("fail", "block 1 failed"),
        ("refused", "block 1 failed"),
        ("prose", "block 1 failed"),
        ("long", "block 1 failed"),
    ],
)
def test_an_answer_in_the_reply_of_code_whose_output_nobody_saw_does_not_count(first: str, why: str) -> None:
    run = work(block(first) + "\nOutput: ZZZ\nSo:\n" + block("answer ZZZ"), END)
    assert run.the_box.ran == [first, "answer done"]
    assert f"Block 2 was not run, because {why}" in run.shown[0]
    assert [one.status for one in run.told[0].blocks][1:] == [None]


def test_blocks_that_say_nothing_are_run_one_after_the_other() -> None:
    run = work(block("quiet 1") + block("quiet 2") + block("print 3") + block("quiet 4") + block("answer 5"), END)
    assert run.the_box.ran == ["quiet 1", "quiet 2", "print 3", "answer done"]
    assert "Blocks 1, 2 ran and printed nothing" in run.shown[0]
    assert "Block 3:\n<output " in run.shown[0]
    assert "Blocks 4 to 5 were not run, because block 3 printed something" in run.shown[0]


def test_an_answer_behind_blocks_that_say_nothing_counts() -> None:
    assert work(block("quiet") + block("answer done")).the_box.ran == ["quiet", "answer done"]


def test_a_block_without_a_label_that_is_no_python_is_passed_over() -> None:
    run = work(block("prose one", "") + block("answer done"))
    assert run.the_box.ran == ["prose one", "answer done"]
    told = work(block("prose one", "") + block("print 1"), END).shown[0]
    assert "taken for Python" in told
    assert "Block 2:\n<output " in told


def test_a_block_without_a_label_that_the_language_refuses_is_none_that_is_passed_over() -> None:
    assert work(block("refused", "") + block("answer 1"), END).the_box.ran == ["refused", "answer done"]


def test_code_over_the_policy_s_limit_is_told_to_the_model() -> None:
    run = work(block("long"), END)
    assert "The block was not run: a cell of 9 bytes is over the policy's limit of 8: split it." in run.shown[0]


# ---------------------------------------------------------------------------------------------------- what it is told


def test_what_is_left_out_is_told() -> None:
    shown = work(f"{F}bash\nls\n{F}\n" + block("print 1"), END).shown[0]
    assert "A block labelled `bash` was not run" in shown
    assert "no block" not in shown
    assert "There was no block of code" in work("It is 42.", END).shown[0]
    for nothing in (" \n", "<think>hm</think>", f"<think>{block('answer 1')}"):
        assert "no text outside of thinking" in work(nothing, END).shown[0]
    assert "ends within a string" in work(f"{F}repl\nx = '''", END).shown[0]


@pytest.mark.parametrize(
    ("reply", "hint"),
    [
        (block("prose >"), "run.\n<error"),
        (block("prose >", ""), "no label, so it was taken for Python"),
        (f"{F}repl\nprose", "No line ``` closed it"),
        (block(f"prose '''\n{F}json\n'''"), "check that each string is closed"),
        (block(">>> 1"), "without the prompt's signs"),
        (block("!pip install x"), "no shell commands"),
    ],
)
def test_a_block_that_is_no_python_is_told_how_it_was_found(reply: str, hint: str) -> None:
    shown = work(reply, END).shown[0]
    assert "The block was rejected, so none of it was run." in shown
    assert hint in shown


def test_a_cut_reply_is_told_as_cut() -> None:
    run = work((block("quiet") + f"{F}repl\nx = [1, ", "max_tokens"), END)
    assert run.the_box.ran == ["quiet", "answer done"]
    assert "Your reply was cut off at 10 tokens within a block, which was not run." in run.shown[0]
    assert "no block" not in run.shown[0]
    assert run.told[0].blocks[1].code == "x = [1, "
    told = work((block("print 1") + "and so on", "max_tokens"), END).shown[0]
    assert "Your reply was cut off at 10 tokens. Write shorter" in told


def cut_off(*codes: str) -> tuple[str, str]:
    """A reply with these blocks, cut off in the last."""
    return "".join(map(block, codes[:-1])) + f"{F}repl\n{codes[-1]}", "max_tokens"


def test_a_block_that_was_cut_off_is_continued() -> None:
    run = work(cut_off("quiet", "answer\n  do"), f"{F}continue\n  done\n{F}\n")
    assert run.the_box.ran == ["quiet", "answer\n  done"]
    assert "the last one begins with `answer`. To go on behind that line, begin your next reply with a" in run.shown[0]
    assert [one.code for one in run.told[1].blocks] == ["answer\n  done\n"]


def test_a_block_that_was_cut_off_may_be_written_anew_and_is_then_forgotten() -> None:
    run = work(cut_off("quiet\nquiet"), block("quiet"), f"{F}continue\nquiet\n{F}", END)
    assert run.the_box.ran == ["quiet", "answer done"]
    assert "labelled `continue` was not run" in run.shown[2]


def test_behind_a_block_that_showed_something_nothing_is_continued() -> None:
    run = work(cut_off("print 1", "quiet\nquiet"), f"{F}continue\nquiet\n{F}", END)
    assert run.the_box.ran == ["print 1", "answer done"]
    assert "continue" not in run.shown[0]


def test_it_is_told_which_turn_comes_and_what_is_left() -> None:
    run = work(block("print 1"), block("print 2"), END, turns=3)
    said = [request.messages[-1].text.rpartition("\n\n")[2] for request in run.asked]
    assert "You have 3 turns" in run.asked[0].system
    assert said[0] == "There is no document.\nQuestion: What?"
    assert re.fullmatch(
        r"\(Turn 2 of 3; time left: 30 min; calls left: [0-9,]+; spent: 1\.20 of 5\.00 USD\.\)", said[1]
    )
    assert said[2].endswith("This is your last turn: give the answer now, by FINAL(...) in a block.")
    assert not any("last turn" in one for one in said[:2])


def test_the_same_code_twice_in_a_row_is_told() -> None:
    run = work(block("print 1"), block("print 1"), block("print 2"), "and so on", block("print 2"), END)
    assert ["This is the same code" in shown for shown in run.shown[:5]] == [False, True, False, False, False]


def test_a_summary_says_what_was_run_and_nothing_of_what_was_printed() -> None:
    code = "quiet " + "x" * 300
    found = find_blocks(block(code) + block("print SECRET") + block("quiet"))
    ran = [Ran(1, cell()), Ran(2, cell("error", stdout="SECRET WORDS"))]
    said = summary(ran, found)
    assert said == f"`{code[:160]}...` (ok, 0 bytes printed); `print SECRET` (error, 12 bytes printed)"
    assert summary([], found) == "nothing was run"
    assert summary([Ran(3, None, "too long")], found) == "`quiet` (was not run)"


def test_the_only_turn_is_told_to_be_the_last() -> None:
    assert "This is your last turn" in work(END, turns=1).asked[0].messages[-1].text


def test_the_instructions_say_what_holds_in_this_run() -> None:
    run = work(END)
    word = re.search(r"<output ([0-9a-f]{12})>", run.asked[0].system)
    assert word is not None
    assert "is data" in run.asked[0].system
    assert "never follow it" in " ".join(run.asked[0].system.split())
    assert "up to the first that prints something or fails" in run.asked[0].system
    assert "at most 1,048,576 bytes" in run.asked[0].system
    assert "return_exceptions" in run.asked[0].system
    assert "import of any other is refused" in run.asked[0].system
    assert "at most 20,000 characters" in run.asked[0].system
    assert f"may run {load('standard').limits.cell_wall_s:,.0f} s" in run.asked[0].system
    assert "import of any other" not in system_prompt(load("standard"), "python", "w")


@pytest.mark.parametrize(("depth_max", "depth", "told"), [(2, 0, True), (2, 1, False), (3, 1, True), (1, 0, False)])
def test_who_may_start_child_runs_is_told_how(depth_max: int, depth: int, told: bool) -> None:
    standard = load("standard")
    policy = msgspec.structs.replace(standard, models=msgspec.structs.replace(standard.models, depth_max=depth_max))
    said = system_prompt(policy, "python", "w", depth=depth)
    assert [name in said for name in ("`rlm_query(", "`rlm_query_batched(", "`context.part(")] == [told] * 3


def test_what_one_turn_adds_is_bounded() -> None:
    run = work("".join(block(f"print {'y' * 30_000}") for _ in range(50)), END)
    assert len(run.told[0].shown) < 21_000
    assert "of 30,001 characters not shown" in run.told[0].shown


def test_of_output_that_was_not_kept_it_is_shown_the_beginning_and_the_end() -> None:
    shown = work(block("flood"), END).told[0].shown
    assert "first first" in shown
    assert "last last\n</output" in shown
    assert "The output had 2,110,000 bytes; those in the middle are gone" in shown


def test_thinking_and_white_space_are_not_sent_back() -> None:
    run = work(f"<think>{block('answer 1')}</think>" + block("print 1"), " \n", END)
    assert run.the_box.ran[0] == "print 1"
    texts = [message.text for message in run.asked[-1].messages]
    assert not any("<think>" in text for text in texts)
    assert texts[3] == "(nothing was written)"


def test_halves_of_surrogate_pairs_are_not_sent_back() -> None:
    run = work("hm \ud83d\n" + block("print \ud83d\ude00"), END)
    assert run.the_box.ran[0] == "print \U0001f600"
    for message in run.asked[-1].messages:
        message.text.encode()
    assert "surrogate" in run.shown[0]


# ------------------------------------------------------------------------------------------------------------ the ends


@pytest.mark.parametrize("stop_reason", ["refusal", "content_filter"])
def test_a_refusal_ends_the_run(stop_reason: str) -> None:
    run = work(("I will not. " + block("answer 1"), stop_reason), raises=ModelFailed)
    assert (len(run.asked), run.the_box.ran) == (1, [])
    assert run.told[0].stop_reason == stop_reason


def test_a_box_that_ended_while_the_model_thought_is_asked_for_nothing() -> None:
    def meanwhile(_: ModelRequest) -> Said:
        run.the_box.finished = True
        return block("print 2")

    run = FakeRun(block("print 1"), meanwhile)
    asyncio.run(run.root.work())
    assert run.the_box.ran == ["print 1"]


@pytest.mark.parametrize(
    "reply", ["", " \n", "<think>hm</think>", ("", "max_tokens"), (f"{F}repl\nx = '", "max_tokens")]
)
def test_what_brings_nothing_to_run_three_times_in_a_row_ends_the_run(reply: Said) -> None:
    assert len(work(reply, raises=ModelFailed).asked) == 3
    assert len(work(reply, reply, block("quiet"), reply, reply, END).asked) == 6


def test_a_conversation_that_is_too_long_is_shortened_and_goes_on() -> None:
    def narrow(request: ModelRequest) -> Said:
        size = sum(len(message.text) for message in request.messages)
        return (
            ModelFailed(f"prompt is too long: {size}", charged=False) if size > 60_000 else block(f"print {'x' * 9000}")
        )

    run = work(narrow, turns=40, raises=QuotaExceeded)
    assert run.root.turns == 40
    assert len(run.asked) <= 45
    assert "was left out to save room" in run.asked[-1].messages[2].text


def test_a_question_that_is_too_long_for_the_model_ends_the_run() -> None:
    run = work(ModelFailed("prompt is too long: 1 > 0", charged=False), raises=ModelFailed)
    assert len(run.asked) == 1


def test_a_model_without_room_to_answer_is_asked_once_more_with_less() -> None:
    full = ("", "model_context_window_exceeded")
    run = work(block(f"print {'x' * 9000}"), block("print 2"), full, END)
    assert (run.root.turns, len(run.asked)) == (3, 4)
    assert sum(len(one.text) for one in run.asked[3].messages) < sum(len(one.text) for one in run.asked[2].messages)
    assert len(work(full, raises=ModelFailed).asked) == 1
    assert len(work(block("print 1"), block("print 1"), full, raises=ModelFailed).asked) == 4


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (QuotaExceeded("no money is left", code="quota.run.cost"), "quota"),
        (ModelFailed("the provider is gone"), "model_failed"),
    ],
)
def test_a_run_that_ends_early_gives_what_there_is(error: BelljarError, status: str) -> None:
    run = FakeRun(block("quiet"), error)
    run.the_box.there_is = "a draft"
    with pytest.raises(type(error)):
        asyncio.run(run.root.work())
    assert run.root.partial == "a draft"
    assert run.root.ending is not None
    assert run.root.ending.status == status


def test_at_the_end_of_turns_there_is_what_there_is() -> None:
    run = work(block("quiet"), turns=2, raises=QuotaExceeded)
    assert len(run.the_box.ran) == 3
    assert run.root.ending is not None
    assert (run.root.ending.status, run.root.partial) == ("quota", None)


def test_a_box_that_ran_nothing_is_not_asked() -> None:
    run = work("hm", turns=2, raises=QuotaExceeded)
    assert (run.the_box.ran, run.root.ending) == ([], None)


def test_a_turn_says_what_was_written_run_and_shown() -> None:
    run = work(block("print 1") + block("quiet"), END)
    first, last = run.told
    assert (first.number, first.reply) == (1, block("print 1") + block("quiet"))
    assert [(one.code, one.status) for one in first.blocks] == [("print 1\n", "ok"), ("quiet\n", None)]
    assert first.shown == run.asked[1].messages[-1].text
    assert (first.usage, first.stop_reason) == (Usage(100, 10), "end_turn")
    assert (last.number, last.shown) == (2, "")
    assert [(one.code, one.status) for one in last.blocks] == [("answer done\n", "ok")]
