"""A box whose sandbox waits at every step, and a cell that is cancelled at each of them.

A real sandbox seldom waits: its wire has room and its account is at hand. Here each of its methods does, also with
half a message sent, so that a cancellation meets them all.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from belljar.engine import Box
from belljar.errors import PolicyDenied
from belljar.models import ModelReply, ModelRequest
from belljar.sandbox import Sandbox
from belljar.tasks import to_the_end
from belljar.testing import FakeModel
from tests.cancelling import cancelled_at
from tests.unit.box_fakes import Guest
from tests.unit.broker_fakes import World, drive, policy_with, reply, world
from tests.waiting import PATIENCE_S, in_time

POLICY = policy_with(limits={"grace_s": 0.05})


async def time_passes(here: World) -> None:
    loop = asyncio.get_running_loop()
    ahead_s = here.clock.now - loop.time()
    while True:
        here.clock.now = loop.time() + ahead_s
        await asyncio.sleep(0.002)


async def pairs(here: World) -> list[str]:
    """The ends of the cells; each has one, before the next begins."""
    await here.audit.flush()
    cells = [event for event in here.events() if event in ("cell.started", "cell.finished")]
    assert cells == ["cell.started", "cell.finished"] * (len(cells) // 2)
    return [data["status"] for data in await here.data("cell.finished")]


# In each "print" comes first; what has no end of its own is held until it is interrupted, or goes on for ever.
CELLS = ["print end", "print fail", "print hold", "print ask hold", "print ask", "print"]


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True], ids=["once", "again and again"])
@pytest.mark.parametrize("code", CELLS)
def test_a_cell_that_is_cancelled_anywhere_and_abandoned(tmp_path: Path, code: str, again: bool) -> None:
    async def once(place: int) -> bool:
        model = FakeModel(answers)
        async with world(folder_of(place), policy=POLICY, model=model) as here:
            time = asyncio.create_task(time_passes(here))
            guest = Guest()
            box = Box(cast("Sandbox", guest), here.broker, here.scope)
            await box.open("python", [], [])
            assert (await box.execute("end")).status == "ok"

            async def whole() -> None:
                try:
                    await box.execute(code, spare_cpu=True, wall_s=0.05)
                except asyncio.CancelledError:
                    await to_the_end(box.abandon())
                    raise

            cancelled = await cancelled_at(whole(), place, again=again)
            await goes_on(here, box)
            assert (guest.interrupts <= 1, guest.astray) == (True, False)
            assert len(await pairs(here)) == here.broker.cells
            await box.close()
            time.cancel()
        return cancelled

    def folder_of(place: int) -> Path:
        folder = tmp_path / str(place)
        folder.mkdir()
        return folder

    async def answers(_: ModelRequest) -> ModelReply:
        await asyncio.sleep(0.01)
        return reply("yes")

    async def test() -> None:
        place = 1
        while await once(place):
            place += 1
        assert place > 6  # two for the order, before anything else

    drive(test())


async def goes_on(here: World, box: Box) -> None:
    try:
        for _ in range(2):
            cell = await box.execute("print end")
            assert (cell.status, cell.stdout) == ("ok", f"of cell {here.broker.cells}")
    except PolicyDenied as refused:
        assert refused.code == "session.ended"  # noqa: PT017 - either is right, and nothing else
        assert box.verdict is not None


class Reluctant(Guest):
    """Takes a part of a reply while its cell runs, and the rest when it is allowed to."""

    def __init__(self) -> None:
        super().__init__()
        self.has_a_part, self.may_go_on = asyncio.Event(), asyncio.Event()

    async def send(self, *parts: bytes | memoryview) -> None:
        if not self._running:
            try:
                await super().send(*parts)
            except ValueError:  # what it has is no message: it hangs up
                self._out.put_nowait(b"")
            return
        message = b"".join(parts)
        await super().send(message[:9])
        self.has_a_part.set()
        await self.may_go_on.wait()
        await super().send(message[9:])


def test_a_reply_that_is_sent_in_part_is_sent_to_its_end_though_its_cell_is_over(tmp_path: Path) -> None:
    """Half of it would put the stream out of step for every cell that follows."""

    async def test() -> None:
        async with world(tmp_path, policy=POLICY, model=FakeModel()) as here:
            guest = Reluctant()
            box = Box(cast("Sandbox", guest), here.broker, here.scope)
            await box.open("python", [], [])
            cell = asyncio.create_task(box.execute("ask hold"))
            async with in_time(PATIENCE_S / 2, "the cell is over while its reply is on the way"):
                await guest.has_a_part.wait()
                guest.interrupt()  # not by us: to the host its program raised it
                assert (await cell).status == "error"
            guest.may_go_on.set()
            await goes_on(here, box)
            assert [op for op, request in guest.heard if request == 7] == ["answers"]
            await box.close()

    drive(test())


def test_a_request_that_is_dropped_before_it_was_begun_is_answered(tmp_path: Path) -> None:
    """Its thread would wait for ever, and hold one of the requests that may be under way."""

    async def test() -> None:
        model = FakeModel()
        async with world(tmp_path, policy=POLICY, model=model) as here:
            guest = Guest()
            box = Box(cast("Sandbox", guest), here.broker, here.scope)
            await box.open("python", [], [])
            assert (await box.execute("ask end")).status == "ok"
            assert (await box.execute("end")).status == "ok"
            async with in_time(PATIENCE_S / 2, "the request is answered"):
                while ("refused", 7) not in guest.heard:  # noqa: ASYNC110 - the fake tells nobody
                    await asyncio.sleep(0.001)
            assert model.requests == []
            await box.close()

    drive(test())
