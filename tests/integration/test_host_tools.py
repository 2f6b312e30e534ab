"""Functions of the embedder that programs in real boxes call: who may, with what, at what cost, and how calls fail."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from belljar import InvalidInput, PolicyDenied, Result, Runtime, Tool, ToolError
from belljar.engine.prompt import system_prompt
from belljar.errors import ModelFailed
from belljar.models.tools import GIVEN_NAMES, host_tools
from belljar.policy import Policy, load
from tests.integration.support import PATIENCE_S, Jar
from tests.integration.test_child_runs import Played, policy_of
from tests.waiting import in_time

ASKED = """
try:
    FINAL({})
except {} as error:
    FINAL([error.code, str(error)])
"""


class Place(msgspec.Struct):
    name: str
    at: tuple[float, float] = (0.0, 0.0)


def add(a: int, b: int = 1) -> int:
    """The sum of two numbers."""
    return a + b


async def places(near: list[Place], *, most: int | None = None) -> dict[str, Any]:
    """What is near."""
    await asyncio.sleep(0)
    return {"names": [one.name for one in near][:most], "first": near[0]}


def execute(jar: Jar, code: str, *tools: Any, policy: Policy | None = None, language: Any = "python") -> Result:
    async def go() -> Result:
        async with Runtime(policy or policy_of(), state=jar.at, environ={}, language=language) as runtime:
            return await asyncio.wait_for(runtime.execute(code, tools=tools, model=Played({})), PATIENCE_S)

    return asyncio.run(go())


def failure(jar: Jar, call: str, *tools: Any, kind: str = "ModelError", **how: Any) -> Any:
    result = execute(jar, ASKED.format(call, kind), *tools, **how)
    assert result.status == "ok", result.error
    return result.answer


@pytest.mark.parametrize("language", ["python", "restricted"])
def test_a_tool_is_a_function_in_both_languages(jar: Jar, language: str) -> None:
    code = """
class Near:
    pass
given = [{"name": "a →"}, {"name": "b", "at": (1, 2.5)}]
FINAL([add(1), add(a=2, b=3), add(2**70, b=4) - 2**70, places(given, most=1), places(near=given)["names"]])
"""
    result = execute(jar, code, add, places, language=language)
    assert result.status == "ok", result.error
    first = {"names": ["a →"], "first": {"name": "a →", "at": [0.0, 0.0]}}
    assert result.answer == [2, 5, 4, first, ["a →", "b"]]


def test_it_has_a_docstring_that_begins_with_its_signature(jar: Jar) -> None:
    result = execute(jar, "FINAL([add.__name__, add.__doc__, places.__doc__])", add, places)
    name, doc, other = result.answer
    assert name == "add"
    assert doc == "add(a: int, b: int = 1) -> int\n\nThe sum of two numbers."
    assert other.startswith("places(near: list[Place], most: int | None = None) -> dict[str, Any]\n")
    said, _, forms = other.partition("\n\nIn JSON Schema: ")
    assert said.endswith("What is near.")
    place = json.loads(forms)["Place"]
    assert (list(place["properties"]), place["required"]) == (["name", "at"], ["name"])


def test_a_tool_that_the_policy_does_not_name_is_refused_at_the_start(jar: Jar) -> None:
    for policy in (load("standard"), load("strict"), policy_of(allow=("scripted*", "tool:ad"))):
        with pytest.raises(PolicyDenied, match="does not allow tool:add") as refused:
            execute(jar, "FINAL(1)", add, policy=policy, language=None)
        assert refused.value.code == "tool.denied"
    assert {one.data["code"] for one in jar.records("run.finished")} == {"tool.denied"}
    assert execute(jar, "FINAL(add(1))", add, policy=policy_of(allow=("scripted*", "tool:add"))).answer == 2


def test_wrong_arguments_never_reach_the_function(jar: Jar) -> None:
    called = []

    def note(n: int, words: list[str]) -> None:
        called.append(n)

    for call in ("note('1', [])", "note(True, [])", "note(1)", "note(1, [2])", "note(None, None)"):
        code, said = failure(jar, call, note)
        assert code == "tool.failed"
        assert said.startswith("note got wrong arguments: ")
    for call in ("note(1, [], 2)", "note(1, [], n=2)", "note(1, m=2)", "note(1, [object()])"):
        assert execute(jar, call, note).error.type == "TypeError"  # type: ignore[union-attr]
    # By the wire itself, since the agent would not even ask.
    raw = """
import gc
from guest.agent.wire import Channel
(channel,) = [one for one in gc.get_objects() if type(one) is Channel]
def ask(name, *bodies):
    fields = {"model": name, "lengths": [len(one) for one in bodies]}
    header, body = channel.request("query", fields, b"".join(bodies))
    return (header.get("failure") or [*header["failures"], {"code": "ok"}][0])["code"]
bad = [b"[1]", b"{", b"null", b"[" * 10_000, b'{"n":1,"words":[],"more":2}', b'{"n":1e400,"words":[]}']
bad += [b'{"n":1,"words":[],"n":2}', b'{"n":1,"words":[],"\\u006e":1}']
FINAL([ask("tool:note", one) for one in bad] + [ask("tool:open", b"{}"), ask("note", b"{}")])
"""
    assert execute(jar, raw, note).answer == ["tool.failed"] * 8 + ["model.denied"] * 2
    assert called == []


def test_a_child_run_has_no_tools(jar: Jar) -> None:
    played = Played({"x": "FINAL('add' in globals())", "alone": "FINAL(0)"})

    async def go() -> Result:
        async with Runtime(policy_of(), state=jar.at, environ={}, language="python") as runtime:
            code = "FINAL([rlm_query('[[x]]', 'text'), add(1)])"
            return await runtime.execute(code, tools=[add], model=played)

    assert asyncio.run(go()).answer == [False, 2]


def test_a_call_is_reserved_logged_and_charged(jar: Jar) -> None:
    seen: list[Any] = []

    def look(word: str) -> str:
        requested = jar.records("query.requested")[-1]
        seen.append((requested.data["model"], requested.data["purpose"], jar.open_reservations()))
        if word == "fail":
            raise ToolError("no such word")
        return word

    code = "look('a')\ntry:\n    look('fail')\nexcept ModelError as error:\n    FINAL(str(error))"
    result = execute(jar, code, Tool(look, cost_nanousd=7))
    assert result.answer == "look raised ToolError: no such word"
    assert seen == [("tool:look", "tool", 1)] * 2
    assert (result.usage.calls, result.cost_nanousd, result.cost_assumed_nanousd) == (2, 14, 0)
    assert result.queries == len(jar.records("query.requested")) == 2
    assert (result.usage.input_tokens, result.usage.output_tokens) == (0, 0)
    assert [one.data["cost_nanousd"] for one in jar.records("query.completed")] == [7]
    assert [one.data["cost_nanousd"] for one in jar.records("query.failed")] == [7]


def test_calls_end_with_the_quota(jar: Jar) -> None:
    policy = policy_of()
    run = msgspec.structs.replace(policy.quota.run, calls=2, cost_nanousd=25)
    policy = msgspec.structs.replace(policy, quota=msgspec.structs.replace(policy.quota, run=run))
    called = []

    def count() -> int:
        called.append(1)
        return len(called)

    code = "count(); count(); count()"
    assert (
        failure(jar, f"[{code.replace(';', ',')}]", count, kind="QuotaExceeded", policy=policy)[0] == "quota.run.calls"
    )
    costly = Tool(count, cost_nanousd=20)
    assert failure(jar, "[count(), count()]", costly, kind="QuotaExceeded", policy=policy)[0] == "quota.run.cost"
    assert len(called) == 3


def _raises(error: BaseException) -> Callable[[], None]:
    def tool() -> None:
        raise error

    return tool


def _araises(error: BaseException) -> Any:
    async def tool() -> None:
        raise error

    return tool


class Rude(ToolError):
    def __str__(self) -> str:
        raise RuntimeError("/srv/secret")


def _round() -> Any:
    one: list[Any] = []
    one.append(one)
    return one


class Later:
    """To be awaited, and no coroutine."""

    def __await__(self) -> Any:
        return iter(())


def _counted(function: Any) -> Any:
    """A decorator that is not async."""

    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        return function(*given, **named)

    return call


class Own(BaseException):
    """What no `except Exception` catches."""


async def _cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        (_raises(FileNotFoundError(2, "No such file", "/srv/secret")), "tool raised FileNotFoundError"),
        (_araises(KeyError("/srv/secret")), "tool raised KeyError"),
        (_raises(SystemExit("/srv/secret")), "tool raised SystemExit"),
        (_araises(SystemExit(3)), "tool raised SystemExit"),
        (_raises(KeyboardInterrupt()), "tool raised KeyboardInterrupt"),
        (_raises(StopIteration(1)), "tool raised StopIteration"),
        (_araises(asyncio.CancelledError()), "tool raised CancelledError"),
        (_araises(Own("/srv/secret")), "tool raised Own"),
        (_araises(GeneratorExit()), "tool raised GeneratorExit"),
        (_araises(BaseExceptionGroup("/srv/secret", [Own()])), "tool raised BaseExceptionGroup"),
        (_raises(ModelFailed("/srv/secret")), "tool raised ModelFailed"),
        (_cancels_itself, "tool raised CancelledError"),
        (_araises(TimeoutError("/srv/secret")), "tool raised TimeoutError"),
        (_raises(Rude()), "tool raised Rude"),
        (_raises(ToolError("two\nlines\x1b[0m " + "x" * 10**6)), "tool raised ToolError: two lines?[0m xxx"),
        (lambda: object(), "tool returned what JSON has no form for (TypeError)"),
        (lambda: float("nan"), "tool returned what JSON has no form for (ValueError)"),
        (lambda: "\ud800", "tool returned what JSON has no form for (UnicodeEncodeError)"),
        (_round, "tool returned what JSON has no form for (RecursionError)"),
        (lambda: (one for one in "ab"), "tool returned what JSON has no form for (TypeError)"),
        (lambda: Later(), "tool returned something to await that is not its own coroutine"),
        (_counted(_araises(KeyError("/srv/secret"))), "tool raised KeyError"),
        (_counted(_araises(asyncio.CancelledError())), "tool raised CancelledError"),
        (lambda: "x" * 10**8, "tool returned 100,000,002 bytes, and at most "),
    ],
)
def test_a_call_that_fails_is_an_exception_that_tells_nothing_of_the_host(jar: Jar, tool: Any, said: str) -> None:
    code, words = failure(jar, "tool()", Tool(tool, name="tool"))
    assert code == "tool.failed"
    assert words.startswith(said)
    assert "/srv" not in words
    assert len(words) < 400
    (failed,) = jar.records("query.failed")
    assert "/srv" not in failed.data["error"]


def test_an_async_function_under_a_decorator_that_is_not_async_is_awaited(jar: Jar) -> None:
    async def double(value: int) -> int:
        await asyncio.sleep(0)
        return 2 * value

    async def hang() -> None:
        await asyncio.Event().wait()

    code = """
try:
    hang()
except ModelError as error:
    FINAL([double(4), str(error)])
"""
    result = execute(jar, code, Tool(_counted(double)), Tool(_counted(hang), timeout_s=0.2))
    assert result.answer == [8, "hang did not return within 0.2 s: ask it for less"]


def test_a_tool_that_hangs_holds_up_neither_the_cell_nor_the_run(jar: Jar) -> None:
    released = threading.Event()

    def hang() -> str:
        released.wait()
        return "late"

    async def hang_softly() -> None:
        await asyncio.Event().wait()

    tools = [Tool(hang, timeout_s=0.2), Tool(hang_softly, timeout_s=0.2)]
    code = """
said = []
for call in [hang_softly] + [hang] * 5:
    try:
        call()
    except ModelError as error:
        said.append(str(error))
FINAL(said)
"""
    try:
        result = execute(jar, code, *tools)
    finally:
        released.set()
    over = "did not return within 0.2 s: ask it for less"
    left = "hang is not called: 4 calls of it in this run have not returned"
    assert result.answer == [f"hang_softly {over}", *[f"hang {over}"] * 4, left]


def test_an_async_tool_that_goes_on_after_its_deadline_is_left_behind(jar: Jar) -> None:
    """Also one that hears of no cancellation: its caller waits no longer, and there is a bound on those, too."""
    code = """
said = []
for _ in range(5):
    try:
        stubborn()
    except ModelError as error:
        said.append(str(error))
FINAL(said)
"""

    async def go() -> Result:
        released = asyncio.Event()

        async def stubborn() -> None:
            while not released.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await released.wait()

        async with Runtime(policy_of(), state=jar.at, environ={}, language="python") as runtime:
            try:
                async with in_time(PATIENCE_S, "nobody waits for what does not end"):
                    return await runtime.execute(code, tools=[Tool(stubborn, timeout_s=0.1)])
            finally:
                released.set()

    over = "stubborn did not return within 0.1 s: ask it for less"
    left = "stubborn is not called: 4 calls of it in this run have not returned"
    assert asyncio.run(go()).answer == [over] * 4 + [left]


def test_a_default_may_be_a_list_which_each_call_has_for_itself(jar: Jar) -> None:
    def more(n: int, known: list[int] = [1]) -> list[int]:  # noqa: B006 - what is tried here
        known.append(n)
        return known

    assert execute(jar, "FINAL([more(2), more(3), more(4, [])])", more).answer == [[1, 2], [1, 3], [4]]


@pytest.mark.parametrize("how", ["async", "thread"])
def test_a_run_that_is_cancelled_within_a_call_ends_with_exact_books(jar: Jar, how: str) -> None:
    released = threading.Event()

    async def go() -> None:
        loop, entered = asyncio.get_running_loop(), asyncio.Event()

        def hang() -> None:
            loop.call_soon_threadsafe(entered.set)
            released.wait()

        async def hang_softly() -> None:
            entered.set()
            await asyncio.Event().wait()

        async with Runtime(policy_of(), state=jar.at, environ={}, language="python") as runtime:
            tool = Tool(hang if how == "thread" else hang_softly, name="hang", cost_nanousd=9)
            work = asyncio.create_task(runtime.execute("hang()", tools=[tool]))
            await asyncio.wait_for(entered.wait(), PATIENCE_S)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(work, PATIENCE_S)
            assert await runtime._host._shared.ledger.check_books() == []

    try:
        asyncio.run(go())
    finally:
        released.set()
    (failed,) = jar.records("query.failed")
    assert failed.data["cost_nanousd"] == 9  # it was called, and may have done something
    assert jar.open_reservations() == 0


def test_a_hanging_tool_does_not_keep_the_process(jar: Jar) -> None:
    program = f"""
import asyncio, belljar, threading
def hang() -> None:
    threading.Event().wait()
code = "try:\\n    hang()\\nexcept ModelError as error:\\n    FINAL(str(error))"
tool = belljar.Tool(hang, timeout_s=0.1)
async def main():  # in the main thread: one that is a daemon makes daemons
    async with belljar.Runtime("dev", state={str(jar.at)!r}, language="python") as runtime:
        print((await runtime.execute(code, tools=[tool])).answer)
asyncio.run(main())
"""
    try:
        ended = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env={**os.environ, "BELLJAR_HOME": str(jar.at)},
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.fail("the process waits for a thread that never ends")
    assert (ended.stdout, ended.returncode) == ("hang did not return within 0.1 s: ask it for less\n", 0), ended.stderr


def test_a_root_model_is_told_of_its_tools(jar: Jar) -> None:
    systems: list[str] = []

    class Told(Played):
        async def complete(self, request: Any) -> Any:
            systems.append(request.system)
            return await super().complete(request)

    async def go() -> Result:
        async with Runtime(policy_of(), state=jar.at, environ={}, language="python") as runtime:
            return await runtime.run("[[x]]", tools=[add], model=Told({"x": "FINAL(add(41))"}))

    assert asyncio.run(go()).answer == 42
    assert "add(a: int, b: int = 1) -> int\n\nThe sum of two numbers." in systems[0]
    assert "do not import them" not in system_prompt(load("dev"), "python", "w")


def variadic(*values: int) -> None: ...


def untyped(a) -> None: ...  # type: ignore[no-untyped-def]


def strange(a: int = object()) -> None: ...  # type: ignore[assignment]


def no_json(a: Callable[[], int]) -> None: ...


def _unlike(name: str) -> Tool:
    return Tool(add, name=name)


@pytest.mark.parametrize(
    "tools",
    [
        *([one] for one in (variadic, untyped, strange, no_json, range, 3, None)),
        *([_unlike(name)] for name in ("", "_a", "1", "a b", "class", "print", "llm_query", "context", "ä", "a" * 65)),
        [Tool(3, name="three")],  # type: ignore[arg-type]
        [Tool(add, cost_nanousd=-1)],
        [Tool(add, timeout_s=0)],
        [Tool(add, timeout_s=float("nan"))],
        [add, add],
        [Tool(add, name=f"add{number}") for number in range(33)],
        "add",
        3,
    ],
)
def test_what_cannot_be_a_tool_is_refused(tools: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        host_tools(tools, bytes_max=1000, told_bytes_max=10_000)
    assert refused.value.code == "tool.invalid"


def test_what_does_not_fit_the_box_s_first_message_is_refused() -> None:
    with pytest.raises(InvalidInput, match="fit a message"):
        host_tools([add], bytes_max=1000, told_bytes_max=20)


def test_no_tool_takes_a_name_that_programs_already_have(jar: Jar) -> None:
    code = "FINAL([name for name in globals() if not name.startswith('_') and name != 'add'])"
    assert set(execute(jar, code, add).answer) == set(GIVEN_NAMES)
