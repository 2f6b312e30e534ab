"""`runtime.stream`: what a run does as events, for a caller who may be slow, or leave."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from belljar import Runtime, Turn, Usage
from belljar.audit.events import CellStarted
from belljar.identity import RunId
from belljar.models import ModelRequest
from belljar.streaming import (
    EARLY_MAX,
    CellEvent,
    ChildEvent,
    Feed,
    MissedEvent,
    OutputEvent,
    QueryEvent,
    ReadEvent,
    RefusalEvent,
    ResultEvent,
    StreamEvent,
    TurnEvent,
)
from belljar.testing import FakeModel
from tests.integration.support import Jar
from tests.integration.test_child_runs import policy_of
from tests.integration.test_root_replies import block
from tests.waiting import PATIENCE_S, in_time

ROOT = """\
print("héllo")
found = [context[0:2], llm_query("a"), rlm_query("sub?", context.part(0, 2))]
try:
    llm_query("b", model="another")
except PolicyDenied:
    FINAL(found)
"""


def play(request: ModelRequest) -> str:
    if request.purpose == "sub":
        return "s"
    return block("FINAL('c')" if "sub?" in request.messages[0].text else ROOT)


async def taken(jar: Jar, **options: Any) -> list[StreamEvent]:
    async with Runtime(policy_of(), state=jar.at, environ={}, language="python") as runtime:
        return [event async for event in runtime.stream("What?", context="abcd", **options)]


def test_a_line_is_told_while_its_cell_goes_on(jar: Jar) -> None:
    async def main() -> list[str]:
        model = FakeModel(lambda _: block("print('first')\nprint('second')\nwhile True:\n    pass"), "scripted:busy")
        told: list[str] = []
        async with (
            Runtime(policy_of(), state=jar.at, environ={}, language="python") as runtime,
            contextlib.aclosing(runtime.stream("What?", context="a", model=model)) as events,
        ):
            async for event in events:
                if isinstance(event, OutputEvent):
                    told.append(event.text)
                if (isinstance(event, CellEvent) and event.status is not None) or "second" in "".join(told):
                    break
        return told

    assert "".join(asyncio.run(main())) == "first\nsecond\n"


def test_a_stream_tells_what_the_run_and_its_children_do_and_at_last_the_result(jar: Jar) -> None:
    model = FakeModel(play, "scripted:streamed")
    events = asyncio.run(taken(jar, model=model))
    # Only the child is told what it is.
    roots = [request for request in model.requests if request.purpose == "root"]
    told = ["You are a child run, at level 2 of" in request.system for request in roots]
    assert told == [False, True]
    last = events[-1]
    assert isinstance(last, ResultEvent)
    assert (last.result.status, last.result.answer) == ("ok", ["ab", "s", "c"])
    run, child = str(last.result.run), f"{last.result.run}.00001"
    assert [event.text for event in events if isinstance(event, OutputEvent)] == ["héllo\n"]
    (printed,) = (place for place, event in enumerate(events) if isinstance(event, OutputEvent))
    assert events.index(CellEvent(run, 1)) < printed < events.index(CellEvent(run, 1, "ok"))
    assert ReadEvent(run, 1, 0, ((0, 4),)) in events
    assert [event.status for event in events if event in (CellEvent(run, 1), CellEvent(run, 1, "ok"))] == [None, "ok"]
    assert [event for event in events if isinstance(event, ChildEvent)] == [ChildEvent(child), ChildEvent(child, "ok")]
    assert [event.asked for event in events if isinstance(event, RefusalEvent)] == ["query"]
    queries = [event for event in events if isinstance(event, QueryEvent)]
    assert [event.purpose for event in queries if event.state == "asked"] == ["root", "sub", "root"]
    # Each was asked once, and nothing is told of what would have been logged if it had been given up.
    assert sorted((event.action, event.state) for event in queries) == sorted(
        (event.action, state) for event in queries if event.state == "asked" for state in ("asked", "answered")
    )
    assert [event.turn.number for event in events if isinstance(event, TurnEvent)] == [1]


def test_output_is_told_after_the_cell_that_printed_it_has_begun() -> None:
    """It comes at once, and a record when it is written; also where a run prints more than is held back."""

    async def go() -> list[StreamEvent]:
        feed, run, child = Feed(), RunId("20261130T000000-000000000000"), RunId("20261130T000000-000000000000.00001")
        for _ in range(2):
            feed.output(run, 1, "stdout", b"a")
        feed.output(child, 1, "stderr", b"c")
        for cell in (1, 2):
            feed.record(run, CellStarted(cell=cell, code_sha256="", code_bytes=0), cell)
            feed.output(run, cell, "stdout", b"b")
        for _ in range(EARLY_MAX + 1):
            feed.output(run, 3, "stdout", b"d")
        feed.close()
        return [event async for event in feed]

    told = [
        (event.cell, getattr(event, "text", ""))
        for event in asyncio.run(go())
        if isinstance(event, CellEvent | OutputEvent)
    ]
    assert told == [(1, ""), (1, "a"), (1, "a"), (1, "b"), (2, ""), (2, "b"), *[(3, "d")] * (EARLY_MAX + 1)]


def test_who_takes_no_events_holds_up_no_run_and_still_gets_its_result(jar: Jar) -> None:
    async def go() -> list[StreamEvent]:
        async with Runtime(state=jar.at) as runtime:
            events = runtime.stream("What?", model=FakeModel(lambda _: block("FINAL(1)"), "scripted:unheard"))
            first = await anext(events)
            async with in_time(PATIENCE_S, "the run has ended, although nobody took an event"):
                (work,) = runtime._host._streams
                await asyncio.wait([work])
            return [first, *[event async for event in events]]

    last = asyncio.run(go())[-1]
    assert isinstance(last, ResultEvent)
    assert last.result.answer == 1


def test_leaving_the_loop_early_cancels_the_run(jar: Jar) -> None:
    async def never(_: ModelRequest) -> str:
        await asyncio.Event().wait()
        raise AssertionError("nobody ends it")

    async def go(*, closed: bool) -> None:
        async with Runtime(state=jar.at) as runtime:
            stream = runtime.stream("What?", model=FakeModel(never, "scripted:endless"))
            if closed:
                async with contextlib.aclosing(stream) as events:
                    await anext(events)
                assert runtime._host.live() == []
            else:
                await anext(stream)
                del stream

    for closed in (True, False):
        asyncio.run(go(closed=closed))
    assert [record.data["status"] for record in jar.records("run.finished")] == ["killed", "killed"]


def test_what_waits_to_be_taken_is_bounded_and_what_is_left_out_is_counted() -> None:
    async def go() -> list[StreamEvent]:
        feed = Feed()
        for number in range(3000):
            feed.turn(Turn(number, "r" * 3000, (), "", Usage(), "end_turn"))
        feed.close()
        return [event async for event in feed]

    *kept, last = asyncio.run(go())
    assert isinstance(last, MissedEvent)
    assert len(kept) + last.count == 3000
    assert 1000 < len(kept) < (4 << 20) // 3000
