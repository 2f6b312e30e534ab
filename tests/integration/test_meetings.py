"""What meets only in a whole run: host tools in containers, and in the questions of a session."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from belljar import Result, Runtime, Tool
from belljar.identity import BackendName
from belljar.testing import FakeModel
from tests.integration.support import PATIENCE_S, Jar
from tests.integration.test_child_runs import policy_of
from tests.integration.test_host_tools import add, places
from tests.integration.test_root_replies import block


@pytest.mark.parametrize("backend", ["docker", "gvisor"])
def test_host_tools_are_functions_in_containers_too(jar: Jar, docker_host: str, backend: BackendName) -> None:
    code = """
try:
    add("1")
except ModelError as error:
    FINAL([add(2, b=3), places([{"name": "a →"}])["names"], error.code])
"""

    async def go() -> Result:
        environ = {"DOCKER_HOST": docker_host}
        async with Runtime(policy_of(), state=jar.at, backend=backend, language="python", environ=environ) as runtime:
            return await asyncio.wait_for(runtime.execute(code, tools=[add, places]), PATIENCE_S)

    result = asyncio.run(go())
    assert result.status == "ok", result.error
    assert (result.answer, result.usage.calls) == ([5, ["a →"], "tool.failed"], 3)


# ------------------------------------------------------------------------------------------------ questions and tools


def test_each_question_of_a_session_may_call_its_tools(jar: Jar) -> None:
    replies = iter([block("kept = add(1)\nFINAL(kept)"), block("FINAL(add(kept, b=5))")])
    model = FakeModel(lambda _: next(replies), "scripted:asked")

    async def go() -> list[Any]:
        async with (
            Runtime(policy_of(), state=jar.at, environ={}) as runtime,
            runtime.session(context="abc", root_model=model, tools=[Tool(add, cost_nanousd=7)]) as session,
        ):
            return [await session.ask("One?"), await session.ask("Two?")]

    first, second = asyncio.run(go())
    assert [(one.status, one.answer, one.usage.calls, one.cost_nanousd) for one in (first, second)] == [
        ("ok", 2, 2, 7),
        ("ok", 7, 2, 7),
    ]
    assert "add(a: int, b: int = 1) -> int" in model.requests[0].system
    assert [one.data["purpose"] for one in jar.records("query.requested")] == ["root", "tool"] * 2


def test_a_question_that_is_given_up_within_a_call_leaves_its_session_and_exact_books(jar: Jar) -> None:
    replies = iter([block("kept = 4\nwait()"), block("FINAL(add(kept))")])
    model = FakeModel(lambda _: next(replies), "scripted:asked")
    called = asyncio.Event()

    async def wait() -> None:
        called.set()
        await asyncio.Event().wait()

    async def go() -> Any:
        async with (
            Runtime(policy_of(), state=jar.at, environ={}) as runtime,
            runtime.session(context="abc", root_model=model, tools=[add, wait]) as session,
        ):
            given_up = asyncio.create_task(session.ask("One?"))
            await asyncio.wait_for(called.wait(), PATIENCE_S)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            answered = await session.ask("Two?")
            assert await runtime._host._shared.ledger.check_books() == []
            return answered

    answered = asyncio.run(asyncio.wait_for(go(), PATIENCE_S))
    assert (answered.status, answered.answer) == ("ok", 5)
    assert jar.open_reservations() == 0
    assert len(jar.records("query.requested")) == 4
