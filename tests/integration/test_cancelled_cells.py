"""A cell of a session whose caller gives up: it stops, it is logged as over, and nothing of it is anybody else's.

Each program prints, answers or raises a while after its caller has gone. What comes after it must never show any of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

import belljar
from belljar import CellResult, InvalidInput, ModelRequest, PolicyDenied, Runtime, Session
from belljar.models import NullModel
from belljar.policy import Policy, load
from tests.integration.support import Jar, until

# Long enough for the busiest machine: who is not stopped by an interrupt is killed after it.
GRACE_S = 20.0
# In each the caller is gone when the program has read a character of the context.
HELD = {
    "prints": "import time\nprint('early')\ncontext[0:1]\ntime.sleep(300)\nprint('of the cancelled cell')",
    "answers": "import time\ncontext[0:1]\ntime.sleep(300)\nFINAL('of the cancelled cell')",
    "raises": "import time\ncontext[0:1]\ntime.sleep(300)\nraise ValueError('of the cancelled cell')",
    "loops": "context[0:1]\nwhile True: pass",
    "asks": "context[0:1]\nllm_query('a question that is not answered')",
    "asks on and on": (
        "import time\ncontext[0:1]\nwhile True:\n    try: llm_query('again')\n    except Exception: time.sleep(0.01)"
    ),
    "answers when it is interrupted": (
        "import time\ncontext[0:1]\ntry:\n    time.sleep(300)\nexcept KeyboardInterrupt:\n    FINAL('of the cancelled')"
    ),
}
STUBBORN = """\
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
context[0:1]
time.sleep(300)
"""


def with_limits(**values: Any) -> Policy:
    policy = load("standard")
    limits = msgspec.structs.replace(policy.limits, **{"grace_s": GRACE_S, **values})
    return msgspec.structs.replace(policy, limits=limits)


class Unanswered(NullModel):
    """It never answers a question that is not answered, and others at once."""

    def __init__(self) -> None:
        super().__init__("yes", name="scripted:unanswered")
        self.asked = 0

    async def complete(self, request: ModelRequest) -> belljar.ModelReply:
        self.asked += 1
        if "not answered" in request.messages[-1].text:
            await asyncio.sleep(3600)
        return await super().complete(request)


async def held(jar: Jar, session: Session, code: str, **options: Any) -> asyncio.Task[CellResult]:
    """The cell under way, which has come to where it waits."""
    before = len(jar.records("context.read"))
    task = asyncio.create_task(session.execute(code, **options))
    await asyncio.to_thread(until, lambda: len(jar.records("context.read")) > before or task.done(), what="it waits")
    return task


async def cancelled(task: asyncio.Task[CellResult]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def ends(jar: Jar) -> list[tuple[int, str]]:
    """Each cell and the status that it has in the log; each has begun once, and ended before the next began."""
    cells = [record for record in jar.records() if record.event in ("cell.started", "cell.finished")]
    assert [record.event for record in cells] == ["cell.started", "cell.finished"] * (len(cells) // 2)
    assert [record.data["cell"] for record in cells[::2]] == [record.data["cell"] for record in cells[1::2]]
    return [(record.data["cell"], record.data["status"]) for record in cells[1::2]]


@pytest.mark.parametrize("code", HELD.values(), ids=HELD)
def test_the_next_cell_has_its_own_result_and_the_variables(jar: Jar, code: str) -> None:
    model = Unanswered()

    async def main() -> None:
        async with Runtime(with_limits(), state=jar.at, language="python") as runtime:
            async with runtime.session(context="abc", model=model) as session:
                await session.execute("x = 1")
                await cancelled(await held(jar, session, code))
                asked = model.asked
                assert ends(jar) == [(1, "ok"), (2, "killed")]  # before the cancellation got out
                # Of an answered call the end is written later; what is read stays reserved, for some seconds.
                await asyncio.to_thread(until, lambda: jar.open_reservations() <= 1, what="the calls are settled")
                for number in (3, 4):
                    cell = await session.execute(f"print('cell {number}', x)")
                    assert (cell.status, cell.stdout, cell.answer) == ("ok", f"cell {number} 1\n", None)
                cell = await session.execute("1 / 0")
                assert cell.error is not None
                assert "<cell 5>" in cell.error.traceback
                assert model.asked == asked
            assert session.result is not None
            assert (session.result.status, session.result.answer) == ("error", None)

    asyncio.run(main())
    assert ends(jar)[2:] == [(3, "ok"), (4, "ok"), (5, "error")]


@pytest.mark.parametrize("first", [True, False], ids=["the first cell", "a later cell"])
def test_a_cell_that_is_cancelled_before_it_has_begun_in_the_box(jar: Jar, first: bool) -> None:
    """The interrupt meets an agent that still starts, or has not read the order yet: it is not lost."""

    async def main() -> None:
        async with Runtime(with_limits(), state=jar.at, language="python") as runtime:
            for steps in range(1, 13):
                async with runtime.session() as session:
                    if not first:
                        await session.execute("x = 1")
                    task = asyncio.create_task(session.execute("while True: pass"))
                    for _ in range(steps):
                        await asyncio.sleep(0)
                    await cancelled(task)
                    assert (await session.execute("x = 1\nprint(x)")).stdout == "1\n"
                    assert (await session.execute("x += 1\nprint(x)")).stdout == "2\n"

    asyncio.run(main())


def test_a_cell_that_does_not_stop_ends_the_session_and_says_so(jar: Jar) -> None:
    async def main() -> None:
        async with Runtime(with_limits(grace_s=0.2), state=jar.at, language="python") as runtime:
            async with runtime.session(context="abc") as session:
                await cancelled(await held(jar, session, STUBBORN))
                assert ends(jar) == [(1, "killed")]
                with pytest.raises(PolicyDenied) as refused:
                    await session.execute("print(1)")
                assert refused.value.code == "session.ended"
            assert session.result is not None
            assert session.result.status == "killed"

    asyncio.run(main())
    assert ends(jar) == [(1, "killed")]


def test_cancelling_over_and_over_does_not_break_off_the_cleaning_up(jar: Jar) -> None:
    async def main() -> None:
        async with (
            Runtime(with_limits(), state=jar.at, language="python") as runtime,
            runtime.session(context="abc") as session,
        ):
            task = await held(jar, session, HELD["answers"])
            while not task.done():
                task.cancel()
                await asyncio.sleep(0)
            assert task.cancelled()
            assert ends(jar) == [(1, "killed")]
            assert (await session.execute("print(2)")).stdout == "2\n"

    asyncio.run(main())


def test_an_answer_that_was_given_before_stays_the_sessions(jar: Jar) -> None:
    """Cancelled while the result is made: the answer stands in the log, and so in the result."""

    async def main() -> None:
        async with Runtime(state=jar.at, language="python") as runtime, runtime.session() as session:
            task = asyncio.create_task(session.execute("FINAL('given')"))
            while not session._run.box.finished:  # noqa: ASYNC110 - at the very step of the loop
                await asyncio.sleep(0)
            await cancelled(task)
            with pytest.raises(PolicyDenied, match="ended"):
                await session.execute("print(1)")
        assert session.result is not None
        assert (session.result.status, session.result.answer) == ("ok", "given")

    asyncio.run(main())


def test_calls_at_the_same_time_wait_for_each_other(jar: Jar) -> None:
    async def main() -> list[str]:
        async with Runtime(state=jar.at, language="python") as runtime, runtime.session() as session:
            cells = [session.execute(f"import time\ntime.sleep(0.05)\nprint({number})") for number in range(4)]
            return [cell.stdout for cell in await asyncio.gather(*cells)]

    assert asyncio.run(main()) == ["0\n", "1\n", "2\n", "3\n"]
    assert ends(jar) == [(number, "ok") for number in (1, 2, 3, 4)]


def test_who_waits_for_its_turn_and_gives_up_has_begun_nothing(jar: Jar) -> None:
    async def main() -> None:
        async with (
            Runtime(with_limits(), state=jar.at, language="python") as runtime,
            runtime.session(context="abc") as session,
        ):
            first = await held(jar, session, HELD["loops"])
            second = asyncio.create_task(session.execute("print('second')"))
            third = asyncio.create_task(session.execute("print('third')"))
            await asyncio.sleep(0)
            await cancelled(second)
            await cancelled(first)
            assert (await third).stdout == "third\n"

    asyncio.run(main())
    assert ends(jar) == [(1, "killed"), (2, "ok")]


def test_closing_a_session_ends_the_cell_that_somebody_else_waits_for(jar: Jar) -> None:
    async def main() -> None:
        async with Runtime(with_limits(), state=jar.at, language="python") as runtime:
            async with runtime.session(context="abc") as session:
                running = await held(jar, session, HELD["loops"])
            cell = await running
            assert (cell.status, cell.answer) == ("killed", None)
            with pytest.raises(PolicyDenied) as refused:
                await session.execute("print(1)")
            assert refused.value.code == "session.ended"

    asyncio.run(main())
    assert ends(jar) == [(1, "killed")]
    assert [record.event for record in jar.records()][-1] == "run.finished"


def test_a_run_that_is_cancelled_ends_its_cell_in_the_log(jar: Jar) -> None:
    async def main() -> None:
        async with Runtime(state=jar.at, language="python") as runtime:
            task = asyncio.create_task(runtime.execute(STUBBORN, context="abc"))
            await asyncio.to_thread(until, lambda: jar.records("context.read"), what="it waits")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert ends(jar) == [(1, "killed")]
    assert [record.event for record in jar.records()][-1] == "run.finished"


# ------------------------------------------------------------------------------------------------------------ timeouts


@pytest.mark.parametrize("language", ["python", "restricted"])
def test_a_timeout_ends_the_cell_and_keeps_the_variables(jar: Jar, language: belljar.Language) -> None:
    async def main() -> None:
        async with Runtime(with_limits(), state=jar.at, language=language) as runtime, runtime.session() as session:
            await session.execute("x = 1")
            cell = await session.execute("print('early')\nwhile True: pass", timeout=3)
            assert (cell.status, cell.stdout) == ("timeout", "early\n")
            assert cell.limit is not None
            assert (cell.limit.code, cell.limit.limit) == ("limits.cell_wall", 3000)
            assert (await session.execute("print(x)", timeout=600)).stdout == "1\n"

    asyncio.run(main())
    assert ends(jar) == [(1, "ok"), (2, "timeout"), (3, "ok")]


def test_a_timeout_does_not_loosen_the_policy(jar: Jar) -> None:
    async def main() -> CellResult:
        policy = with_limits(cell_wall_s=0.5)
        async with Runtime(policy, state=jar.at, language="python") as runtime, runtime.session() as session:
            return await session.execute("import time\ntime.sleep(5)", timeout=600)

    cell = asyncio.run(main())
    assert cell.limit is not None
    assert (cell.status, cell.limit.code, cell.limit.limit) == ("timeout", "limits.cell_wall", 500)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_that_is_none_is_refused_and_no_cell_begins(jar: Jar, timeout: float) -> None:
    async def main() -> None:
        async with Runtime(state=jar.at) as runtime, runtime.session() as session:
            with pytest.raises(InvalidInput, match="seconds above 0"):
                await session.execute("print(1)", timeout=timeout)
            assert (await session.execute("print(1)", timeout=float("inf"))).stdout == "1\n"

    asyncio.run(main())
    assert ends(jar) == [(1, "ok")]


# ------------------------------------------------------------------------------------------------ without an event loop


@pytest.fixture
def _listens_to_ctrl_c() -> Iterator[None]:
    """Also where this process was started to ignore it, as in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_listens_to_ctrl_c")
def test_ctrl_c_stops_the_cell_of_a_synchronous_session_which_goes_on(jar: Jar) -> None:
    def interrupt() -> None:
        with contextlib.suppress(AssertionError):
            until(lambda: len(jar.records("context.read")) == 1, what="it waits")
        os.kill(os.getpid(), signal.SIGINT)

    with belljar.session(context="abc", state=jar.at, language="python", policy=with_limits()) as session:
        session.execute("x = 1")
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            session.execute(HELD["answers"])
        assert ends(jar) == [(1, "ok"), (2, "killed")]
        assert session.execute("print(x)").stdout == "1\n"
        assert session.execute("import time\ntime.sleep(300)", timeout=0.2).status == "timeout"
        assert session.execute("print(x)").stdout == "1\n"
    assert session.result is not None
    assert (session.result.status, session.result.answer) == ("ok", None)


# --------------------------------------------------------------------------------------- what is said behind the end

BEHIND = """\
import json, os, struct
def frame(header, body=b""):
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("!II", len(text), len(body)) + text + body
done = frame({"op": "done", "cell": 1, "status": "ok", "error": None, "variables": [], "unlisted": 0})
final = frame({"op": "final", "cell": 1, "form": "text"}, b"behind the end")
"""


@pytest.mark.parametrize("pause", ["", "import time; time.sleep(0.1)\n"])
@pytest.mark.parametrize("what", ["final", "done", "b'garbage, and more of it'"])
def test_what_is_said_behind_the_end_of_the_only_cell_does_not_count(jar: Jar, what: str, pause: str) -> None:
    """However soon the host sees it."""

    async def main() -> None:
        async with Runtime(state=jar.at, language="python") as runtime:
            for _ in range(3):
                code = f"{BEHIND}os.write(3, done)\n{pause}os.write(3, {what})\nimport time\ntime.sleep(300)"
                result = await runtime.execute(code)
                assert (result.status, result.answer) == ("ok", None)

    asyncio.run(main())


def test_what_a_cell_says_behind_its_end_is_not_the_cells(jar: Jar) -> None:
    async def main() -> None:
        async with Runtime(state=jar.at, language="python") as runtime, runtime.session() as session:
            cell = await session.execute(f"{BEHIND}os.write(3, done + final)\nimport time\ntime.sleep(300)")
            assert (cell.status, cell.answer, cell.error) == ("ok", None, None)
            with contextlib.suppress(PolicyDenied):
                while True:
                    await session.execute("print(1)", timeout=0.1)
        assert session.result is not None
        assert (session.result.status, session.result.answer) == ("protocol", None)

    asyncio.run(main())
