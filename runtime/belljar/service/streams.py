"""What is made by a generator that reads files, as an answer that a client takes as fast as it can, and no faster."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Final, TypeVar

from starlette.responses import StreamingResponse

from belljar.service.listening import Proof

__all__ = ["READINGS_MAX", "events", "pieces", "streamed"]

_T = TypeVar("_T")
_WAITING_MAX: Final = 4
_PIECE_BYTES: Final = 64 * 1024
# Of whole runs and logs, at a time.
READINGS_MAX: Final = 8


def events(told: AsyncGenerator[bytes, None]) -> StreamingResponse:
    """Server-sent events, which nobody on the way may keep or gather."""
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(told, media_type="text/event-stream", headers=headers)


async def pieces(
    make: Callable[[], AbstractContextManager[Iterator[bytes]]], place: AbstractContextManager[None]
) -> AsyncGenerator[bytes, None]:
    """What the iterator gives, in pieces of some size, from one thread, to which a database's connection belongs.

    The thread is at most a few pieces ahead, and ends when nobody takes them any more. It is none of those that
    everybody's short readings share: a client may take as long as it likes.

    Args:
        place: one of `READINGS_MAX`, held from the first piece to the end.

    Raises: what the iterator, or a block around it, raises.
    """
    with place:
        async with contextlib.aclosing(_read(make)) as found:
            async for piece in found:
                yield piece


async def _read(make: Callable[[], AbstractContextManager[Iterator[bytes]]]) -> AsyncGenerator[bytes, None]:
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue(_WAITING_MAX)
    over = threading.Event()

    def put(one: bytes | BaseException | None) -> None:
        asyncio.run_coroutine_threadsafe(queue.put(one), loop).result()

    def work() -> None:
        try:
            with make() as found:
                waiting = bytearray()
                for piece in found:
                    if over.is_set():
                        return
                    waiting += piece
                    if len(waiting) >= _PIECE_BYTES:
                        put(bytes(waiting))
                        waiting.clear()
                put(bytes(waiting))
        except BaseException as error:  # not handled here: carried to whoever takes the pieces
            put(error)
        else:
            put(None)

    threads = ThreadPoolExecutor(1, thread_name_prefix="belljar reading")
    thread = threads.submit(work)
    threads.shutdown(wait=False)  # once it is done
    try:
        while (one := await queue.get()) is not None:
            if isinstance(one, BaseException):
                raise one
            if one:
                yield one
    finally:
        over.set()
        while not thread.cancel() and not thread.done():  # it has begun, and may wait for room
            while not queue.empty():
                queue.get_nowait()
            await asyncio.wait([asyncio.wrap_future(thread)], timeout=0.05)


async def streamed(
    found: AsyncGenerator[bytes, None], media: str, headers: dict[str, str], proof: Proof
) -> StreamingResponse:
    """An answer of these pieces. What goes wrong before the first of them is raised here, while it can be told.

    Args:
        proof: that who asks may still have it: whoever takes little at a time may take days.
    """
    first = await anext(found, b"")

    async def body() -> AsyncGenerator[bytes, None]:
        try:
            yield first
            async for piece in found:
                await proof.renew()  # where that fails the connection ends, so nobody takes it for all there is
                yield piece
        finally:
            await found.aclose()

    return StreamingResponse(body(), media_type=media, headers=headers)
