"""What meets only in a whole run: host tools in containers and in questions, a tree and its money, keys and boxes."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from belljar import Result, Runtime, Tool
from belljar.audit import verify
from belljar.identity import BackendName
from belljar.models import ModelReply, Rates, Usage
from belljar.testing import FakeModel
from tests.integration.support import PATIENCE_S, Jar
from tests.integration.test_child_runs import Played, policy_of
from tests.integration.test_host_tools import add, places
from tests.integration.test_root_replies import block
from tests.unit.test_models_anthropic import KEY, STOP, delta, sse, start
from tests.unit.test_models_anthropic import block as spoken


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


# --------------------------------------------------------------------------------------------------------- the money


class Costly(Played):
    """A token costs a thousandth of a cent, and each call takes 110 of them."""

    name = "scripted:costly"
    rates = Rates(Decimal(10_000), Decimal(10_000))

    def _reply(self, text: str) -> ModelReply:
        return ModelReply(text, Usage(100, 10), self.name, "end_turn")


def test_a_tree_whose_money_is_used_up_ends_with_exact_books(jar: Jar) -> None:
    """Each run of it goes on until it is refused: children by their slice, the root by what is left of all."""
    spending = "while True:\n    {}llm_query('a')"
    below = (
        "try:\n        rlm_query('[[{}]]', 'text')\n    except QuotaExceeded as error:\n        print(error.code)\n    "
    )
    programs = {"x": spending.format(below.format("y")), "y": spending.format("")}
    run = msgspec.structs.replace(policy_of().quota.run, cost_nanousd=2_000_000_000)
    policy = policy_of(turns_max=1, output_tokens_max=500)
    policy = msgspec.structs.replace(policy, quota=msgspec.structs.replace(policy.quota, run=run))

    async def go() -> Result:
        async with Runtime(policy, state=jar.at, environ={}, language="python") as runtime:
            code = spending.format(below.format("x"))
            result = await asyncio.wait_for(runtime.execute(code, model=Costly(programs)), 3 * PATIENCE_S)
            assert (runtime._host.live(), await runtime._host._shared.ledger.check_books()) == ([], [])
            return result

    result = asyncio.run(go())
    assert result.limit is not None
    assert (result.status, result.limit.code) == ("error", "quota.run.cost")
    assert 1_000_000_000 < result.cost_nanousd <= 2_000_000_000
    ended = [one.data["status"] for one in jar.records("run.finished")]
    assert len(ended) == len(jar.records("run.started")) == len(jar.records("box.started")) > 2
    assert {one.data["code"] for one in jar.records("query.denied")} == {"quota.run.cost", "query.shortened"}
    assert (jar.open_reservations(), verify(jar.journal).problems) == (0, [])


# ----------------------------------------------------------------------------------------------------------- the key


class Says(http.server.BaseHTTPRequestHandler):
    """The Messages API, which says yes."""

    keys: list[str]

    def do_POST(self) -> None:
        size = int(self.headers["content-length"])
        self.rfile.read(size)
        self.keys.append(self.headers["authorization"] or self.headers["x-api-key"])
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(sse(start(size // 3), *spoken(0, "text", "yes"), delta(), STOP))

    def log_message(self, *_: object) -> None:
        """Nothing on the test's stderr."""


@contextlib.contextmanager
def saying_yes() -> Iterator[str]:
    """The address of one. `Says.keys` has the key of each request."""
    Says.keys = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Says) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


LOOK = f"""
import gc, os, sys
said = llm_query("Say yes.")
wanted = {KEY[::-1]!r}[::-1]


def has(one):
    if type(one) is bytes:
        return wanted.encode() in one
    return type(one) is str and one is not wanted and wanted in one


def found():
    gc.unfreeze()  # what was there before the box was made
    every = [two for one in gc.get_objects() for two in gc.get_referents(one)]
    return len(every), sum(has(one) for one in [*every, *sys.argv, *os.environ.values()])


planted = ["x" + wanted]
objects, with_planted = found()
planted.clear()
FINAL([said, objects > 10_000, with_planted > 0, found()[1]])
"""


def test_a_key_of_the_host_is_in_no_box_and_in_nothing_that_it_keeps(jar: Jar) -> None:
    program = jar.file("look.py", LOOK)
    how = ("--model", "claude-haiku-5-5", "--policy", "dev", "--language", "python")
    with saying_yes() as provider:
        environ = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": provider}
        outcome = jar("exec", program, *how, "--json", env=environ)
    assert outcome.code == 0, outcome.stderr
    assert outcome.result["answer"] == ["yes", True, True, 0]
    assert [KEY in key for key in Says.keys] == [True]
    assert KEY not in outcome.stdout + outcome.stderr
    kept = [path for path in jar.at.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(kept) > 1
    assert [path for path in kept if "images" not in path.parts and KEY.encode() in path.read_bytes()] == []
