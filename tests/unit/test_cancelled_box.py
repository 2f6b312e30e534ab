"""A box whose sandbox waits at every step, and a cell that is cancelled at each of them.

A real sandbox seldom waits: its wire has room and its account is at hand. Here each of its methods does, also with
half a message sent, so that a cancellation meets them all.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from belljar.engine import Box
from belljar.errors import PolicyDenied
from belljar.models import ModelReply, ModelRequest
from belljar.protocol import CellError, Done, GuestMessage, Output, Query, Ready
from belljar.sandbox import BoxEnd, Evidence, Sandbox
from belljar.tasks import to_the_end
from belljar.testing import FakeModel
from belljar.wire import encode
from tests.cancelling import cancelled_at
from tests.unit.broker_fakes import World, drive, policy_with, reply, world
from tests.waiting import PATIENCE_S, in_time

PREFIX = struct.Struct("!II")
POLICY = policy_with(limits={"grace_s": 0.05})


async def waits() -> None:
    for _ in range(2):
        await asyncio.sleep(0)


class Guest:
    """A sandbox in which an agent does what the code of a cell says, one word a line."""

    layers = ("fake",)

    def __init__(self) -> None:
        self.interrupts = 0
        self.heard: list[tuple[str, int | None]] = []
        # It was asked to stop a cell of whose order it has only a part.
        self.astray = False
        self._got = bytearray()
        self._held = 0
        self._running = False
        self._out: asyncio.Queue[bytes] = asyncio.Queue()
        self._dead = False

    async def send(self, *parts: bytes | memoryview) -> None:
        for part in parts:
            for half in (part[: len(part) // 2], part[len(part) // 2 :]):
                await waits()
                self._got += half
        for header, body in self._frames():
            self._hear(header, body.decode())

    async def receive(self) -> bytes:
        return await self._out.get()

    def interrupt(self) -> None:
        self.interrupts += 1
        # While a cell runs, what is on its way is a reply to it.
        self.astray = self.astray or (bool(self._got) and not self._running)
        if self._held:
            self._say(Done(self._held, "interrupted", CellError("KeyboardInterrupt", "", None)))
            self._held = 0

    async def evidence(self) -> Evidence:
        await waits()
        return Evidence()

    def scratch_full(self) -> bool:
        return False

    async def wait(self, seconds: float) -> bool:
        return True

    async def kill(self) -> BoxEnd:
        await waits()
        if not self._dead:
            self._dead = True
            self._out.put_nowait(b"")
        return BoxEnd(killed=True, signal=9, code=0, cpu_s=0.0, max_rss_bytes=0)

    def _frames(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        while len(self._got) >= PREFIX.size:
            head, body = PREFIX.unpack_from(self._got)
            if len(self._got) < PREFIX.size + head + body:
                return
            at = PREFIX.size + head
            yield json.loads(self._got[PREFIX.size : at]), bytes(self._got[at : at + body])
            del self._got[: at + body]

    def _hear(self, header: dict[str, Any], code: str) -> None:
        self.heard.append((header["op"], header.get("id")))
        if header["op"] == "start":
            self._say(Ready(1, "3.11"))
        if header["op"] == "execute":
            self._running = True
            for word in code.split():
                self._do(word, header["cell"])

    def _do(self, word: str, cell: int) -> None:
        match word:
            case "print":
                self._say(Output(cell, "stdout"), b"of cell %d" % cell)
            case "ask":
                self._say(Query(7, None, [1]), b"x")
            case "fail":
                self._say(Done(cell, "error", CellError("OSError", "", None)))
            case "hold":
                self._held = cell
            case _:
                self._say(Done(cell, "ok", None))

    def _say(self, message: GuestMessage, body: bytes = b"") -> None:
        self._running = self._running and not isinstance(message, Done)
        head, rest = encode(message, body, header_bytes_max=65536, body_bytes_max=65536)
        self._out.put_nowait(head + bytes(rest))


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
