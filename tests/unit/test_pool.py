"""Boxes made ahead: each kind has its own, there are never more than so many, and none is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from belljar.sandbox.base import BoxEnd, BoxSpec
from belljar.sandbox.pool import POOLS_MAX, Pools

SPEC = BoxSpec(
    cpu_s=1, memory_bytes=1, processes=1, scratch_bytes=1, scratch_files=1, open_files=1, requires=("userns",)
)
KINDS = [msgspec.structs.replace(SPEC, memory_bytes=2**20 * number) for number in range(1, POOLS_MAX + 3)]


class Box:
    def __init__(self, spec: BoxSpec, boxes: set[Box]) -> None:
        self.spec = spec
        self._boxes = boxes
        boxes.add(self)

    @property
    def alive(self) -> bool:
        return self in self._boxes

    async def kill(self) -> BoxEnd:
        await asyncio.sleep(0)
        self._boxes.discard(self)
        return BoxEnd(killed=True, signal=9, code=0, cpu_s=0, max_rss_bytes=0)


class Maker:
    """Makes boxes when it may, and knows how many are alive and how many ever were at a time."""

    def __init__(self) -> None:
        self.boxes: set[Box] = set()
        self.most = 0
        self.may = asyncio.Event()
        self.may.set()
        self.making = 0
        self.most_making = 0

    async def make(self, spec: BoxSpec) -> Box:
        self.making += 1
        self.most_making = max(self.most_making, self.making)
        try:
            await self.may.wait()
            await asyncio.sleep(0)
        finally:
            self.making -= 1
        box = Box(spec, self.boxes)
        self.most = max(self.most, len(self.boxes))
        return box

    def of(self, spec: BoxSpec) -> int:
        return sum(box.spec == spec for box in self.boxes)


def drive(main: Callable[[Maker, Pools[Box]], Coroutine[Any, Any, None]]) -> None:
    """`main` with pools of its own; when they are closed no box of them is left."""

    async def whole() -> None:
        maker = Maker()
        pools = Pools(maker.make)
        await main(maker, pools)
        await pools.aclose()
        assert not maker.boxes

    asyncio.run(asyncio.wait_for(whole(), 60))


async def until(so: Callable[[], bool]) -> None:
    while not so():  # noqa: ASYNC110 - nobody is told of it
        await asyncio.sleep(0.001)


def test_nothing_is_made_ahead_before_somebody_asks_for_it() -> None:
    async def main(maker: Maker, pools: Pools[Box]) -> None:
        assert pools.take(SPEC) is None
        await asyncio.sleep(0.05)
        assert (maker.boxes, maker.making) == (set(), 0)

    drive(main)


def test_each_kind_gets_boxes_of_its_own_and_the_others_keep_theirs() -> None:
    async def main(maker: Maker, pools: Pools[Box]) -> None:
        one, two = KINDS[:2]
        await pools.warm(one, 2)
        assert pools.take(two) is None
        await until(lambda: (maker.of(one), maker.of(two)) == (2, 2))
        for kind in (two, one):
            box = pools.take(kind)
            assert box is not None
            assert box.spec == kind
            await box.kill()

    drive(main)


def test_what_is_ready_is_what_can_be_taken_now() -> None:
    async def main(maker: Maker, pools: Pools[Box]) -> None:
        assert pools.ready == 0
        await pools.warm(KINDS[0], 2)
        pools.take(KINDS[1])
        await until(lambda: maker.of(KINDS[1]) == 2)
        assert pools.ready == 4
        maker.may.clear()
        await next(iter(maker.boxes)).kill()
        assert pools.ready == 3
        maker.may.set()

    drive(main)


def test_there_are_never_more_than_so_many_kinds_and_the_least_used_goes() -> None:
    async def main(maker: Maker, pools: Pools[Box]) -> None:
        kept, first, *others = KINDS
        await pools.warm(kept, 2)
        for kind in (first, *others):
            pools.take(kind)
            await until(lambda kind=kind: maker.of(kind) == 2)  # type: ignore[misc]
            box = pools.take(kept)
            assert box is not None
            await box.kill()
        await until(lambda: maker.of(kept) == 2)
        assert maker.of(first) == 0
        assert maker.most <= 2 * POOLS_MAX + 1  # one that was taken, until it is killed

    drive(main)


def test_kinds_that_come_faster_than_boxes_are_made_leave_none_behind() -> None:
    async def main(maker: Maker, pools: Pools[Box]) -> None:
        await pools.warm(KINDS[0], 2)
        maker.may.clear()
        box = pools.take(KINDS[0])
        assert box is not None
        await box.kill()
        for kind in KINDS[1:] * 3:
            assert pools.take(kind) is None
        await until(lambda: maker.making == POOLS_MAX)
        assert maker.most_making == POOLS_MAX
        maker.may.set()
        await until(lambda: len(maker.boxes) == 2 * POOLS_MAX)
        assert [maker.of(kind) for kind in KINDS[-POOLS_MAX:]] == [2] * POOLS_MAX

    drive(main)


def test_who_fills_a_pool_that_is_closed_meanwhile_leaves_none_behind() -> None:
    async def main(maker: Maker, pools: Pools[Box]) -> None:
        maker.may.clear()
        warming = asyncio.create_task(pools.warm(SPEC, 2))
        await until(lambda: maker.making == 1)
        await pools.aclose()
        maker.may.set()
        await warming

    drive(main)


def test_a_pool_that_is_filled_twice_at_once_has_its_size() -> None:
    async def main(maker: Maker, pools: Pools[Box]) -> None:
        await asyncio.gather(*(pools.warm(SPEC, 3) for _ in range(4)))
        await until(lambda: not maker.making)
        assert maker.of(SPEC) == maker.most == 3

    drive(main)
