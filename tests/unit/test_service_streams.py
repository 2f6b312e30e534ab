"""What is read from files for clients that take their time, and what all of them together may take up."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from belljar.errors import AccessDenied
from belljar.identity import Tenant
from belljar.jobs import Busy
from belljar.service.listening import Proof
from belljar.service.room import Room
from belljar.service.streams import READINGS_MAX, pieces, streamed
from tests.waiting import PATIENCE_S, in_time

ACME, BELOW, OTHER = Tenant("acme"), Tenant("acme/a"), Tenant("other")


@contextlib.contextmanager
def endless() -> Iterator[Iterator[bytes]]:
    yield itertools.repeat(b"x" * 10_000)


def test_readings_that_nobody_takes_hold_up_no_other_work_and_end_with_whoever_left() -> None:
    async def go() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        room = Room(READINGS_MAX, READINGS_MAX, "readings")

        def begun() -> AsyncGenerator[bytes, None]:
            return pieces(endless, room.held(ACME))

        slow = [begun() for _ in range(READINGS_MAX)]
        async with in_time(PATIENCE_S, "each has a thread, and another one is free"):
            for one in slow:
                await anext(one)
            assert await asyncio.to_thread(lambda: 1) == 1
        with pytest.raises(Busy) as busy:
            await anext(begun())
        assert busy.value.code == "service.busy"
        for one in slow:
            await one.aclose()
        assert room.taken == 0
        last = begun()
        await anext(last)
        await last.aclose()

    asyncio.run(go())


def test_a_reading_of_which_no_more_may_be_had_breaks_off_and_does_not_look_like_all_of_it() -> None:
    async def go() -> None:
        proofs = iter([True, True, False])

        async def prove() -> None:
            if not next(proofs):
                raise AccessDenied("this key was revoked", code="access.revoked")

        room = Room(READINGS_MAX, READINGS_MAX, "readings")
        answer = await streamed(pieces(endless, room.held(ACME)), "application/jsonl", {}, Proof(prove, 0))
        body = aiter(answer.body_iterator)
        for _ in range(3):  # nobody is asked for the first again, who has just proved who they are
            assert await anext(body)
        with pytest.raises(AccessDenied):
            await anext(body)
        assert room.taken == 0

    asyncio.run(go())


def test_a_tenant_with_those_below_it_has_a_part_of_the_room_and_what_it_leaves_is_forgotten() -> None:
    room = Room(10, 5, "things")
    room.take(ACME, 3)
    room.take(BELOW, 2)
    for tenant in (ACME, BELOW):
        with pytest.raises(Busy, match="too many things"):
            room.take(tenant)
    room.take(None, 4)
    with pytest.raises(Busy):
        room.take(OTHER, 2)
    room.take(OTHER, 1)
    for whose, count in ((ACME, 3), (BELOW, 2), (None, 4), (OTHER, 1)):
        room.leave(whose, count)
    assert (room.taken, room._of) == (0, {})
