"""Refusals to strangers: few have a record of their own, and the log has how many there were."""

from __future__ import annotations

import asyncio

import pytest

from belljar.audit.events import HttpRequest
from belljar.errors import AuditUnavailable
from belljar.service.refusals import Refusals
from tests.waiting import in_time, pass_time


class Log:
    """What was written; nothing while it is `broken`."""

    def __init__(self) -> None:
        self.written: list[HttpRequest] = []
        self.broken = False
        self.came = asyncio.Event()

    async def __call__(self, event: HttpRequest) -> None:
        if self.broken:
            raise AuditUnavailable("the disk is full")
        self.written.append(event)
        self.came.set()

    def told(self) -> list[tuple[str, int]]:
        return [(event.route, event.unlogged or 0) for event in self.written]

    def total(self) -> int:
        return sum(1 + (event.unlogged or 0) for event in self.written)


def refused(route: str = "GET /v1/runs", code: str = "access.missing") -> HttpRequest:
    return HttpRequest(by="nobody", route=route, status=401, code=code)


def held_up(route: str = "GET /v1/runs") -> HttpRequest:
    return HttpRequest(by="nobody", route=route, status=429, code="access.throttled")


def test_the_next_record_of_an_address_says_how_many_there_were_before_it() -> None:
    async def go() -> None:
        log = Log()
        refusals = Refusals(log)
        await refusals.tell("10.0.0.1", refused("a"))
        for _ in range(3):
            await refusals.tell("10.0.0.1", held_up())
        await refusals.tell("10.0.0.2", refused("b"))
        await refusals.tell("::ffff:10.0.0.1", refused("c"))
        await refusals.tell("10.0.0.1", refused("d"))
        assert log.told() == [("a", 0), ("b", 0), ("c", 3), ("d", 0)]

    asyncio.run(go())


def test_what_no_other_record_tells_has_one_of_its_own_for_each_address() -> None:
    async def go() -> None:
        log = Log()
        refusals = Refusals(log)
        for address, number in (("10.0.0.1", 3), ("10.0.0.2", 1)):
            for _ in range(number):
                refusals.count(address, refused(address))
        await refusals.settle()
        await refusals.settle()
        assert log.told() == [("10.0.0.1", 2), ("10.0.0.2", 0)]

    asyncio.run(go())


def test_after_a_minute_and_at_the_end_all_of_it_is_written() -> None:
    async def go() -> None:
        log = Log()
        refusals = Refusals(log)
        async with refusals.settling():
            refusals.count("10.0.0.1", refused("a"))
            await asyncio.sleep(0)
            assert log.told() == []
            pass_time(61)
            async with in_time(60, "the minute is over"):
                await log.came.wait()
            refusals.count("10.0.0.1", refused("b"))
        assert log.told() == [("a", 0), ("b", 0)]

    asyncio.run(go())


def test_however_many_addresses_there_are_each_is_counted_in_the_same_room() -> None:
    async def go() -> None:
        log = Log()
        refusals = Refusals(log, addresses_max=10)
        for number in range(1000):
            refusals.count(f"10.0.{number // 256}.{number % 256}", refused())
        assert len(refusals._counted) == 10
        await refusals.settle()
        assert (log.total(), len(log.written)) == (1000, 11)

    asyncio.run(go())


@pytest.mark.parametrize("addresses_max", [1, 100])
def test_what_the_log_did_not_take_is_counted_until_it_does(addresses_max: int) -> None:
    async def go() -> None:
        log = Log()
        refusals = Refusals(log, addresses_max=addresses_max)
        await refusals.tell("10.0.0.1", held_up())
        log.broken = True
        with pytest.raises(AuditUnavailable):
            await refusals.tell("10.0.0.1", refused())
        await refusals.tell("10.0.0.2", held_up())
        for _ in range(2):
            with pytest.raises(AuditUnavailable):
                await refusals.settle()
        log.broken = False
        await refusals.settle()
        assert log.total() == 3

    asyncio.run(go())


def test_a_log_that_cannot_be_written_keeps_no_service_from_ending() -> None:
    async def go() -> None:
        log = Log()
        log.broken = True
        refusals = Refusals(log)
        async with refusals.settling():
            refusals.count("10.0.0.1", refused())

    asyncio.run(go())
