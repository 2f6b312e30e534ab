"""Events of a run for any number of listeners: ids, coming again, and who is too slow."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from belljar.audit.events import CellFinished, CellStarted, RunFinished
from belljar.engine import Turn
from belljar.identity import RunId
from belljar.jobs.hub import Hub, id_of
from belljar.models import Usage
from belljar.streaming import EVENT_CHARS, CellEvent, ChildEvent, MissedEvent, OutputEvent, StreamEvent, TurnEvent
from tests.waiting import PATIENCE_S

T = TypeVar("T")
RUN = RunId("20261129T120000-5f0c1d9a7b3e")
MANY = 1 << 30
DIGEST = "0" * 64


def drive(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, PATIENCE_S))


async def taken(hub: Hub, after: int | None = None) -> list[tuple[int, StreamEvent]]:
    return [pair async for pair in hub.listen(after)]


def tell(hub: Hub, count: int, *, chars: int = 0) -> None:
    for number in range(count):
        hub.put(CellEvent(RUN, number), chars)


def test_ids_grow_and_name_the_record_that_an_event_was_made_of() -> None:
    async def go() -> list[tuple[int, StreamEvent]]:
        hub = Hub(MANY)
        hub.record(RUN, CellStarted(cell=1, code_sha256=DIGEST, code_bytes=1), 7)
        hub.output(RUN, 1, "stdout", b"hel")
        hub.output(RUN, 1, "stdout", b"lo")
        hub.record(RUN, CellFinished(cell=1, status="ok", output_bytes=5), 9)
        hub.turn(Turn(1, "reply", (), "shown", Usage(), "end_turn"))
        hub.record(RUN.child(1), RunFinished(status="ok", calls=0), 10)
        hub.close()
        return await taken(hub)

    found = drive(go())
    assert [event_id for event_id, _ in found] == [
        id_of(7),
        id_of(7) + 1,
        id_of(7) + 2,
        id_of(9),
        id_of(9) + 1,
        id_of(10),
    ]
    kinds = [type(event) for _, event in found]
    assert kinds == [CellEvent, OutputEvent, OutputEvent, CellEvent, TurnEvent, ChildEvent]


def test_a_record_that_was_told_with_a_smaller_number_still_gets_a_larger_id() -> None:
    """Its round was run again behind another host's."""

    async def go() -> list[int]:
        hub = Hub(MANY)
        hub.put(CellEvent(RUN, 1), 0, 9)
        hub.put(CellEvent(RUN, 1, "ok"), 0, 9)
        hub.put(CellEvent(RUN, 2), 0, 8)
        hub.close()
        return [event_id for event_id, _ in await taken(hub)]

    assert drive(go()) == [id_of(9), id_of(9) + 1, id_of(9) + 2]


@pytest.mark.parametrize("seen", [0, 1, 4, 9, 10])
def test_who_comes_again_goes_on_behind_the_last_that_was_seen(seen: int) -> None:
    async def go() -> tuple[list[tuple[int, StreamEvent]], list[tuple[int, StreamEvent]]]:
        hub = Hub(MANY)
        tell(hub, 10)
        hub.close()
        everything = await taken(hub)
        return everything, await taken(hub, everything[seen - 1][0] if seen else None)

    everything, rest = drive(go())
    assert rest == everything[seen:]


def test_several_listen_and_each_gets_all_of_it() -> None:
    async def go() -> list[list[tuple[int, StreamEvent]]]:
        hub = Hub(MANY)
        early = asyncio.create_task(taken(hub))
        tell(hub, 3)
        await asyncio.sleep(0)
        late = asyncio.create_task(taken(hub))
        tell(hub, 3)
        hub.close()
        return [await early, await late]

    early, late = drive(go())
    assert early == late
    assert len(early) == 6


def test_whoever_is_too_slow_is_told_how_many_it_missed_and_holds_up_nobody() -> None:
    async def go() -> tuple[list[tuple[int, StreamEvent]], list[tuple[int, StreamEvent]], int]:
        hub = Hub(10 * EVENT_CHARS)
        slow = hub.listen()
        tell(hub, 1)
        seen = [await anext(slow)]
        quick = asyncio.create_task(taken(hub))
        for _ in range(100):
            tell(hub, 1)
            await asyncio.sleep(0)
        kept = hub.chars
        hub.close()
        seen += [pair async for pair in slow]
        return seen, await quick, kept

    seen, quick, kept = drive(go())
    assert kept <= 10 * EVENT_CHARS
    assert len(quick) == 101
    assert not any(isinstance(event, MissedEvent) for _, event in quick)
    assert [event for _, event in seen if isinstance(event, MissedEvent)] == [MissedEvent(90)]
    assert [type(event) for _, event in seen] == [CellEvent, MissedEvent, *[CellEvent] * 10]
    ids = [event_id for event_id, _ in seen]
    assert ids == sorted({*ids})
    assert seen[-1] == quick[-1]


def test_of_a_long_run_the_hub_keeps_no_more_than_it_may() -> None:
    async def go() -> None:
        hub = Hub(1 << 16)
        for number in range(20_000):
            hub.put(OutputEvent(RUN, 1, "stdout", "x" * 100), 100, number)
        assert hub.chars <= 1 << 16
        assert len(hub._ids) < (1 << 16) // EVENT_CHARS + 300
        assert hub.gone_id < hub._ids[hub._first]

    drive(go())


def test_a_listener_that_is_cancelled_disturbs_no_other() -> None:
    async def go() -> list[tuple[int, StreamEvent]]:
        hub = Hub(MANY)
        leaves, stays = (asyncio.create_task(taken(hub)) for _ in range(2))
        while hub.listeners < 2:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0)
        leaves.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leaves
        assert hub.listeners == 1
        tell(hub, 2)
        hub.close()
        found = await stays
        assert hub.listeners == 0
        return found

    assert len(drive(go())) == 2


def test_a_thousand_listeners_are_woken_once_for_many_events_and_copy_none() -> None:
    async def go() -> None:
        hub = Hub(MANY)
        heard: list[StreamEvent] = []

        async def listen() -> None:
            async for _, event in hub.listen():
                heard.append(event)

        before = len(asyncio.all_tasks())
        tasks = [asyncio.create_task(listen()) for _ in range(1000)]
        while hub.listeners < 1000:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == before + 1000  # theirs, and none of the hub's
        tell(hub, 5)
        hub.close()
        await asyncio.gather(*tasks)
        assert len(heard) == 5000
        assert len({id(event) for event in heard}) == 5

    drive(go())
