"""Every public coroutine, cancelled at every place where it waits: nothing is left, and the next use works.

`steps` runs one coroutine again and again, and cancels its task at the first place where it waits, at the second, and
so on, until one run gets through; then once more, cancelling at that place and at each one behind it, as somebody does
who has no patience. After each: the log verifies and every cell, action and run in it has its end, the books balance
and hold nothing, no box is left, and the same runtime serves the next run.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import closing
from typing import Any

import msgspec
import pytest

from belljar import ModelReply, ModelRequest, PolicyDenied, Result, Runtime, Session, Usage
from belljar.audit import verify
from belljar.broker import Child, Outcome
from belljar.engine import Root as TurnByTurn
from belljar.lifecycle import Run
from belljar.models import NullModel
from belljar.policy import load
from tests.cancelling import cancelled_at, watched
from tests.integration.support import Jar, processes_below, until
from tests.journals import OwnLedger

Work = Callable[[], Coroutine[Any, Any, object]]
CODE = "print(context[0:1], llm_query('a question'))"


class Root(NullModel):
    """It looks first, and then answers, in every run that it serves."""

    async def complete(self, request: ModelRequest) -> ModelReply:
        code = CODE if len(request.messages) == 1 else "FINAL(context[1:2])"
        return ModelReply(f"```repl\n{code}\n```", Usage(1, 1), self.name, "end_turn")


ROOT = Root("", name="scripted:root")
SUB = NullModel("yes", name="scripted:sub")


async def steps(work: Work) -> AsyncIterator[int]:
    """Number by number, the place at which `work` was cancelled just now."""
    for again in (False, True):
        place = 1
        while await cancelled_at(work(), place, again=again):
            yield place
            place += 1
        assert place > 1, "it never waited"


async def is_clean(jar: Jar, processes: int) -> None:
    """No trace of what was cancelled but its records, of which none is missing."""
    report = verify(jar.journal)
    assert (report.problems, report.unfinished) == ([], [])
    begun, ended = (sorted(one.run for one in jar.records(f"run.{end}")) for end in ("started", "finished"))
    assert begun == ended
    assert held(jar) == []
    ledger = OwnLedger(jar.journal, owner="test")
    try:
        assert await ledger.check_books() == []
    finally:
        await ledger.aclose()
    await asyncio.to_thread(until, lambda: len(processes_below()) <= processes, what="no box is left")


def held(jar: Jar) -> list[Any]:
    with closing(sqlite3.connect(f"file:{jar.journal}?mode=ro", uri=True)) as db:
        return db.execute("SELECT * FROM reservations WHERE state IN ('held', 'dispatched')").fetchall()


def opened(jar: Jar, *, pool: int = 0, **models: Any) -> Runtime:
    standard = load("standard")
    standard = msgspec.structs.replace(standard, models=msgspec.structs.replace(standard.models, **models))
    # Long enough for the busiest machine: what does not stop at an interrupt is killed after it.
    patient = msgspec.structs.replace(standard, limits=msgspec.structs.replace(standard.limits, grace_s=20.0))
    return Runtime(patient, state=jar.at, environ={}, language="python", pool=pool)


async def works(runtime: Runtime) -> None:
    result = await runtime.execute(CODE, context="abc", model=SUB)
    assert (result.status, result.stdout) == ("ok", "a yes\n")


async def of_runtime(jar: Jar, make: Callable[[Runtime], Awaitable[object]]) -> int:
    """Cancel what `make` makes of an open runtime, at every place; how many there are."""
    places = 0
    async with opened(jar) as runtime:
        await works(runtime)
        processes = len(processes_below())

        async def once() -> None:
            await make(runtime)

        async for place in steps(once):
            places = max(place, places)
            await is_clean(jar, processes)
            await works(runtime)
    return places


# ------------------------------------------------------------------------------------------------------------ a runtime


def test_execute(jar: Jar) -> None:
    places = asyncio.run(of_runtime(jar, lambda runtime: runtime.execute(CODE, context="abc", model=SUB)))
    assert places > 5


def test_run(jar: Jar) -> None:
    async def run(runtime: Runtime) -> None:
        result = await runtime.run("?", context="abc", model=ROOT, sub_model=SUB)
        assert (result.status, result.answer) == ("ok", "b")

    assert asyncio.run(of_runtime(jar, run)) > 5


class Recursive(NullModel):
    """The root model of child runs, of which those that are asked `deep` have a child of their own."""

    async def complete(self, request: ModelRequest) -> ModelReply:
        if request.purpose == "sub":
            return ModelReply("yes", Usage(1, 1), self.name, "end_turn")
        deep = "deep" in request.messages[0].text
        code = "rlm_query('leaf', context.part(0, 1))" if deep else "llm_query(context[0:1])"
        return ModelReply(f"```repl\nFINAL({code})\n```", Usage(1, 1), self.name, "end_turn")


def test_a_tree_of_runs_is_given_up_wherever_one_of_its_children_waits(
    jar: Jar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for the root gives up, each time when its children and their models have waited at so many places."""
    code = "FINAL(rlm_query_batched(['deep', 'leaf'], [context, context]))"
    model = Recursive("", name="scripted:recursive")
    run_child, work = Run._run_child, TurnByTurn.work
    left = 0
    trying: asyncio.Task[Result] | None = None

    def waits() -> None:
        nonlocal left
        left -= 1
        if left == 0 and trying is not None:
            trying.cancel()

    async def run_watched(run: Run, child: Child) -> Outcome:
        return await watched(run_child(run, child), waits)

    async def work_watched(root: TurnByTurn) -> None:
        await watched(work(root), waits)

    monkeypatch.setattr(Run, "_run_child", run_watched)
    monkeypatch.setattr(TurnByTurn, "work", work_watched)

    async def main() -> int:
        nonlocal left, trying
        place = 0
        async with opened(jar, depth_max=3) as runtime:
            await works(runtime)
            processes = len(processes_below())
            while True:
                left = place = place + 1
                trying = asyncio.create_task(runtime.execute(code, context="abc", model=model))
                await asyncio.wait([trying])
                if not trying.cancelled():
                    break
                await is_clean(jar, processes)
                assert runtime._host.live() == []
            assert trying.result().answer == ["yes", "yes"]
            await is_clean(jar, processes)
        return place

    assert asyncio.run(main()) > 20
    assert len(jar.records("cell.started")) > 40, "too few got far"


def test_add_context(jar: Jar) -> None:
    asyncio.run(of_runtime(jar, lambda runtime: runtime.add_context("a text", name="named")))


def test_a_whole_session(jar: Jar) -> None:
    async def whole(runtime: Runtime) -> None:
        async with runtime.session(context="abc", model=SUB) as session:
            await session.execute(CODE)
        assert session.result is not None
        assert session.result.status == "ok"

    assert asyncio.run(of_runtime(jar, whole)) >= 3


def test_opening_and_closing(jar: Jar) -> None:
    """`__aenter__`, `prepare` and `__aexit__`; what serves afterwards is another runtime on the same state."""

    async def whole() -> None:
        async with opened(jar) as runtime:
            await runtime.prepare()

    async def main() -> None:
        async with opened(jar) as runtime:
            await works(runtime)
        processes = len(processes_below())
        async for _ in steps(whole):
            await is_clean(jar, processes)
        async with opened(jar) as runtime:
            await works(runtime)

    asyncio.run(main())


@pytest.mark.parametrize("pool", [0, 2])
def test_preparing_an_open_runtime_that_goes_on(jar: Jar, pool: int) -> None:
    async def main() -> None:
        place, through = 0, False
        while not through:
            place += 1
            async with opened(jar, pool=pool) as runtime:
                through = not await cancelled_at(runtime.prepare(), place, again=False)
                await works(runtime)
        assert place > 1

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------------------ a session

CELLS = {
    "quick": "y = 2",
    "asks": CODE,
    "prints": "print('of the cancelled cell')",
    "raises": "raise ValueError('of the cancelled cell')",
    "answers": "FINAL('of the cancelled cell')",
    "loops": "while True: pass",
}


@pytest.mark.parametrize("code", CELLS.values(), ids=CELLS)
def test_a_cell_of_a_session(jar: Jar, code: str) -> None:
    """The next cell is its own and finds the variables, or the session says that it has ended."""

    async def main() -> None:
        async with opened(jar) as runtime:
            await works(runtime)
            processes = len(processes_below())
            for again in (False, True):
                place, through = 0, False
                while not through:
                    place += 1
                    async with runtime.session(context="abc", model=SUB) as session:
                        await session.execute("x = 1")
                        cell = session.execute(code, timeout=0.3 if "while" in code else None)
                        through = not await cancelled_at(cell, place, again=again)
                        await _goes_on(session, answered="FINAL" in code)
                    await is_clean(jar, processes)
                assert place > 1

    asyncio.run(main())


async def _goes_on(session: Session, *, answered: bool) -> None:
    try:
        for number in (1, 2):
            cell = await session.execute(f"print('next', x, {number})")
            assert (cell.status, cell.stdout, cell.answer) == ("ok", f"next 1 {number}\n", None)
    except PolicyDenied as refused:
        assert refused.code == "session.ended"  # noqa: PT017 - either is right, and nothing else
        assert answered
