"""A sandbox that is none: an agent that does as it is told, and waits at every step."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Iterator
from typing import Any

from belljar.protocol import PROTOCOL, CellError, Done, GuestMessage, Output, Query, Ready
from belljar.sandbox import BoxEnd, Evidence
from belljar.wire import encode

__all__ = ["Guest"]

PREFIX = struct.Struct("!II")


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
            self._say(Ready(PROTOCOL, "3.11"))
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
