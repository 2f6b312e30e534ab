"""Boxes made ahead, so that no run has to wait. Each has run nothing yet, serves one run, and is never reused."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Generic, Protocol, TypeVar

from belljar.errors import BelljarError
from belljar.sandbox.base import BoxEnd, BoxSpec
from belljar.tasks import stopped

__all__ = ["Pool", "Pooled"]

# Lets the box that was just handed out go first: its first result comes 0.8 ms sooner, where the goal is 0.5 in all.
_REFILL_S: Final = 0.01


class Pooled(Protocol):
    """What a pool needs of a box: whether it is still as it was made, and a way to end it."""

    @property
    def alive(self) -> bool: ...

    async def kill(self) -> BoxEnd: ...


_B = TypeVar("_B", bound=Pooled)


class Pool(Generic[_B]):
    """Boxes made ahead by `make`, all for the same `spec`, at most `size` of them."""

    def __init__(self, make: Callable[[BoxSpec], Awaitable[_B]], spec: BoxSpec, size: int) -> None:
        self._make = make
        self.spec = spec
        self._size = size
        self._boxes: deque[_B] = deque()
        self._dead: list[_B] = []
        self._filling: asyncio.Task[None] | None = None

    async def fill(self) -> None:
        """Make boxes until the pool is full. Raises as `Backend.start`."""
        while len(self._boxes) < self._size:
            self._boxes.append(await self._make(self.spec))

    def take(self) -> _B | None:
        """A living box, or None; the pool is refilled in the background."""
        box = None
        while self._boxes and box is None:
            first = self._boxes.popleft()
            if first.alive:
                box = first
            else:
                self._dead.append(first)
        if self._filling is None or self._filling.done():
            self._filling = asyncio.create_task(self._fill_quietly())
        return box

    async def aclose(self) -> None:
        if self._filling is not None:
            await stopped(self._filling)
        await asyncio.gather(*(box.kill() for box in (*self._boxes, *self._dead)))
        self._boxes.clear()
        self._dead.clear()

    async def _fill_quietly(self) -> None:
        await asyncio.sleep(_REFILL_S)
        # The next caller gets the same error from `start`, where somebody sees it.
        with contextlib.suppress(BelljarError):
            while self._dead or len(self._boxes) < self._size:  # boxes are taken meanwhile
                await self._kill_dead()
                await self.fill()
        await self._kill_dead()

    async def _kill_dead(self) -> None:
        while self._dead:
            await self._dead.pop().kill()
