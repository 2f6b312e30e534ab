"""Bodies of answers that come as no good server's do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx2

from tests.waiting import pass_time

__all__ = ["Endless", "Paced"]


class Endless(httpx2.AsyncByteStream):
    """The same piece, over and over, up to a bound, so that a test that fails ends."""

    def __init__(self, piece: bytes, most: int) -> None:
        self._piece = piece
        self._most = most
        self.sent = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.sent < self._most:
            self.sent += len(self._piece)
            yield self._piece


class Paced(httpx2.AsyncByteStream):
    """Between two pieces of the body, some seconds pass."""

    def __init__(self, seconds: float, *pieces: bytes) -> None:
        self._seconds = seconds
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece
            pass_time(self._seconds)
            await asyncio.sleep(0.01)  # where the pause is too long, it ends here
