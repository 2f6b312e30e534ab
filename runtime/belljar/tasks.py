"""Small things about asyncio tasks and threads that more than one part needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

__all__ = ["Workers", "stopped", "to_the_end"]

P = ParamSpec("P")
T = TypeVar("T")


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end even when this task is cancelled meanwhile; then let the cancellation through.

    For what must not be left half done: settling a reservation, killing a box, closing the books.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    result = task.result()
    if cancelled is not None:
        raise cancelled
    return result


async def stopped(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end. One of another event loop ended with that loop."""
    if task.get_loop() is asyncio.get_running_loop():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Workers(ThreadPoolExecutor):
    """Threads for what would hold up an event loop, which close things also while the interpreter ends.

    From then on no thread takes new work, in any pool: it is done at once instead, by whoever hands it over.
    """

    _over = False

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        try:
            return super().submit(work, *args, **kwargs)
        except RuntimeError:
            if self._over:
                raise
        future: Future[T] = Future()
        try:
            future.set_result(work(*args, **kwargs))
        except BaseException as error:  # not handled here: carried to whoever waits for the work
            future.set_exception(error)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._over = True
        super().shutdown(wait, cancel_futures=cancel_futures)
