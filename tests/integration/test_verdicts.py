"""The first cause is the verdict, judged by the clock; and who is at fault can be told by status and exit code."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from belljar import HostFault, InvalidInput, ModelReply, ModelRequest, Runtime, Usage
from belljar.cli.output import exit_code
from belljar.engine import Progress, Result
from belljar.models import FREE
from belljar.policy import Policy, load
from tests.integration.support import Jar, processes_below

# The program asks, so that the host stands still from then on, and has its end ready before the host looks again.
CELL_WALL_S = 2.0
LATE = f"""
import threading, time
threading.Thread(target=llm_query, args=("stand still",), daemon=True).start()
time.sleep({CELL_WALL_S + 0.5})
"""
SPIN = """
import threading
def spin():
    while True:
        pass
threading.Thread(target=spin, daemon=True).start()
"""


def with_limits(**values: Any) -> Policy:
    policy = load("standard")
    return msgspec.structs.replace(policy, limits=msgspec.structs.replace(policy.limits, **values))


def block(code: str) -> str:
    return f"```repl\n{code}\n```"


class Root:
    """A root model that says these things in turn; before each but the first it awaits what it was given."""

    name = "scripted:root"
    scripted = True
    rates = FREE

    def __init__(self, *turns: str, think: Callable[[], Awaitable[object]] | None = None) -> None:
        self._turns = list(turns)
        self._think = think
        self.requests: list[ModelRequest] = []

    async def complete(self, request: ModelRequest) -> ModelReply:
        self.requests.append(request)
        if self._think is not None and len(self.requests) > 1:
            await self._think()
        return ModelReply(self._turns.pop(0), Usage(1, 1), self.name, "end_turn")

    async def aclose(self) -> None:
        pass


class StandsStill(Root):
    """Whoever asks it stops the host's event loop for longer than a cell may last."""

    async def complete(self, request: ModelRequest) -> ModelReply:
        time.sleep(CELL_WALL_S + 3)  # noqa: ASYNC251 - the point of it
        return ModelReply("awake", Usage(1, 1), self.name, "end_turn")


class Defective(Root):
    async def complete(self, request: ModelRequest) -> ModelReply:
        raise KeyError("a defect")


def finished(jar: Jar) -> dict[str, Any]:
    (record,) = jar.records("run.finished")
    return record.data


def run(jar: Jar, root: Root, policy: Policy, *, on_progress: Callable[[Progress], None] | None = None) -> Result:
    async def main() -> Result:
        async with Runtime(policy, state=jar.at, language="python") as runtime:
            return await runtime.run("?", context="abc", model=root, on_progress=on_progress)

    return asyncio.run(main())


# ----------------------------------------------------------------------------------------------------------- the clock


@pytest.mark.parametrize(
    "end", ["FINAL('late')", "print('late')", "answer['content'] = 'late'; answer['ready'] = True"]
)
def test_what_lay_waiting_while_the_host_stood_still_across_the_deadline_is_late(jar: Jar, end: str) -> None:
    async def main() -> Result:
        policy = with_limits(cell_wall_s=CELL_WALL_S, grace_s=5.0)
        async with Runtime(policy, state=jar.at, language="python") as runtime:
            return await runtime.execute(LATE + end, model=StandsStill())

    result = asyncio.run(main())
    assert (result.status, result.answer) == ("timeout", None)
    assert result.limit is not None
    assert (result.limit.code, result.limit.limit) == ("limits.cell_wall", round(CELL_WALL_S * 1000))
    assert result.limit.observed is not None
    assert result.limit.observed > CELL_WALL_S * 1000
    assert jar.records("answer.given") == []
    assert finished(jar)["status"] == "timeout"


def test_a_cell_that_was_over_late_keeps_its_variables_for_the_next(jar: Jar) -> None:
    async def main() -> None:
        policy = with_limits(cell_wall_s=CELL_WALL_S, grace_s=20.0)
        async with (
            Runtime(policy, state=jar.at, language="python") as runtime,
            runtime.session(model=StandsStill()) as session,
        ):
            assert (await session.execute(LATE + "x = 1")).status == "timeout"
            assert (await session.execute("print(x)")).stdout == "1\n"

    asyncio.run(main())


def test_a_program_that_dies_of_the_interrupt_met_its_deadline(jar: Jar) -> None:
    async def main() -> Result:
        policy = with_limits(cell_wall_s=0.5, grace_s=20.0)
        die = "import os, signal, time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    os._exit(3)"
        async with Runtime(policy, state=jar.at, language="python") as runtime:
            return await runtime.execute(die)

    result = asyncio.run(main())
    assert result.status == "timeout"
    assert result.limit is not None
    assert result.limit.code == "limits.cell_wall"


# ------------------------------------------------------------------------------------------ while the root model thinks


def test_the_run_s_time_is_up_while_the_root_model_thinks(jar: Jar) -> None:
    policy = with_limits(run_wall_s=6.0, cell_wall_s=6.0)
    result = run(jar, Root(block("print(1)"), block("FINAL(1)"), think=lambda: asyncio.Event().wait()), policy)
    assert (result.status, result.answer, result.turns) == ("timeout", None, 2)
    assert result.limit is not None
    assert (result.limit.code, result.limit.limit) == ("limits.run_wall", 6000)
    assert (result.limit.observed or 0) >= 6000
    assert exit_code(result) == 6
    assert finished(jar)["status"] == "timeout"


def test_what_a_program_left_running_uses_up_its_cpu_time_while_the_root_model_thinks(jar: Jar) -> None:
    async def until_the_box_is_gone() -> None:
        while True:
            if len(processes_below()) == 1:  # the zygote
                return
            await asyncio.sleep(0.05)

    root = Root(block(SPIN + "print(1)"), "Let me think.", think=until_the_box_is_gone)
    result = run(jar, root, with_limits(cpu_s=1.0))
    assert (result.status, result.answer, result.turns) == ("cpu", None, 2)
    assert result.limit is not None
    assert (result.limit.code, result.limit.limit) == ("limits.cpu", 1000)
    assert exit_code(result) == 6


# ------------------------------------------------------------------------------------------------------------- the CPU


def test_an_endless_loop_costs_the_cell_and_the_root_model_is_told(jar: Jar) -> None:
    root = Root(block("x = 7\nwhile True:\n    pass"), block("FINAL(x)"))
    result = run(jar, root, with_limits(cpu_s=4.0))
    assert (result.status, result.answer, result.turns) == ("ok", 7, 2)
    told = root.requests[1].messages[-1].text
    assert "status cpu" in told
    assert "CPU time" in told


def test_endless_loops_one_after_another_end_the_run(jar: Jar) -> None:
    root = Root(*[block("while True:\n    pass")] * 9)
    result = run(jar, root, with_limits(cpu_s=2.0))
    assert result.status == "cpu"
    assert result.limit is not None
    assert (result.limit.code, result.limit.limit) == ("limits.cpu", 2000)
    assert (result.limit.observed or 0) >= 2000
    # Each may use half of what is left, and what it uses before anybody looks.
    assert 1 < result.turns <= 6


def test_an_answer_of_a_cell_that_was_cut_short_is_void(jar: Jar) -> None:
    late = "try:\n    while True:\n        sum(range(1000))\nexcept KeyboardInterrupt:\n    FINAL('late')"
    result = run(jar, Root(block(late), block("FINAL('in time')")), with_limits(cpu_s=4.0))
    assert (result.status, result.answer) == ("ok", "in time")
    assert len(jar.records("answer.void")) == 1


def test_a_program_alone_has_all_of_its_cpu_time(jar: Jar) -> None:
    code = "import time\nwhile time.process_time() < 1.2:\n    pass\nFINAL('done')"
    _, result = jar.exec_json(code, "--policy", jar.policy('[limits]\ncpu = "2 s"'), "--language", "python")
    assert (result["status"], result["answer"]) == ("ok", "done")


# ----------------------------------------------------------------------------------------------------- who is at fault


def test_a_provider_that_fails_is_told_from_us_by_status_and_exit_code(jar: Jar) -> None:
    outcome = jar("run", "?", "--model", jar.script(block("print(1)")), "--json", "--quiet")
    assert (outcome.code, outcome.result["status"]) == (7, "model_failed")
    assert outcome.complaint.startswith("belljar: the model: model_failed: ")
    assert finished(jar)["status"] == "model_failed"


def test_a_defect_of_the_root_model_s_object_is_ours_and_not_somebody_outside(jar: Jar) -> None:
    result = run(jar, Defective(), load("standard"))
    assert result.status == "host_fault"
    assert result.error is not None
    assert "KeyError" in result.error.message
    assert exit_code(result) == 1
    assert finished(jar)["status"] == "host_fault"
    assert len(jar.records("query.failed")) == 1


def test_a_defect_of_the_sub_model_s_object_is_ours_too(jar: Jar) -> None:
    async def main() -> None:
        async with Runtime(state=jar.at) as runtime, runtime.session(model=Defective()) as session:
            await session.execute("llm_query('x')")

    with pytest.raises(HostFault, match="KeyError"):
        asyncio.run(main())
    assert finished(jar)["status"] == "host_fault"


def test_no_run_ends_in_the_log_that_did_not_begin_there(jar: Jar) -> None:
    class LongNamed(Root):
        name = "scripted:" + "x" * 5000

    with pytest.raises(InvalidInput, match="too long for the audit log"):
        run(jar, LongNamed(block("FINAL(1)")), load("standard"))
    assert jar.records() == []


def test_a_model_that_cannot_say_any_more_whether_it_is_scripted_takes_no_result(jar: Jar) -> None:
    class Forgetful(Root):
        @property
        def scripted(self) -> bool:  # type: ignore[override]
            if self.requests:
                raise KeyError("scripted")
            return True

    result = run(jar, Forgetful(block("FINAL('paid')")), load("standard"))
    assert (result.status, result.answer, result.scripted) == ("ok", "paid", True)


@pytest.mark.parametrize("raised", [ValueError, asyncio.CancelledError, GeneratorExit])
def test_an_on_progress_that_raises_loses_no_result(
    jar: Jar, caplog: pytest.LogCaptureFixture, raised: type[BaseException]
) -> None:
    def on_progress(_: Progress) -> None:
        calls.append(1)
        raise raised

    calls: list[int] = []
    result = run(jar, Root(block("print(1)"), block("FINAL('paid')")), load("standard"), on_progress=on_progress)
    assert (result.status, result.answer) == ("ok", "paid")
    assert len(calls) == 1
    assert "on_progress raised" in caplog.text
    assert finished(jar)["status"] == "ok"


def test_what_the_code_around_a_session_raises_is_neither_ours_nor_the_program_s(jar: Jar) -> None:
    async def main() -> None:
        async with Runtime(state=jar.at) as runtime, runtime.session() as session:
            await session.execute("x = 1")
            raise ValueError("the caller's own")

    with pytest.raises(ValueError, match="the caller's own"):
        asyncio.run(main())
    assert finished(jar)["status"] == "killed"


def test_an_answer_stays_the_verdict_when_the_session_is_asked_for_more(jar: Jar) -> None:
    async def main() -> None:
        async with Runtime(state=jar.at) as runtime, runtime.session() as session:
            assert (await session.execute("FINAL('given')")).answer == "given"
            await session.execute("x = 1")

    with pytest.raises(Exception, match="ended"):
        asyncio.run(main())
    assert finished(jar)["status"] == "ok"


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        ("cut", "context.count_matches('line')"),
        ("gone", "context.search('line')"),
        ("gone", "context.lines(0, 5)"),
        ("cut off", "context[800_000:800_009]"),
        # Nobody asks for anything of it: what was shown cannot be told.
        ("gone", "llm_query(shown)"),
    ],
)
def test_a_damaged_context_is_our_fault_and_not_the_program_s(jar: Jar, damage: str, code: str) -> None:
    async def main() -> None:
        async with Runtime(state=jar.at) as runtime:
            document = await runtime.add_context("one line\n" * 100_000)
            async with runtime.session(context=document, model=Root("fine")) as session:
                await session.execute("shown = context[:400]")
                hurt_text(jar, damage)
                await session.execute(code)

    with pytest.raises(HostFault, match=r"stored context in .* is damaged .*; remove that folder"):
        asyncio.run(main())
    assert jar.records("request.refused") == []
    assert finished(jar)["status"] == "host_fault"


def hurt_text(jar: Jar, damage: str) -> None:
    """The stored text is put aside; with `cut` its beginning alone takes its place. Or it is cut off as it lies."""
    (text,) = jar.state.contexts.rglob("text")
    if damage == "cut off":
        os.truncate(text, text.stat().st_size - 1)
        return
    aside = text.rename(jar.work / "aside")
    if damage == "cut":
        text.write_bytes(aside.read_bytes()[:-1])
