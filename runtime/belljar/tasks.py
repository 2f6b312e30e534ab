"""Small things about asyncio tasks and threads that more than one part needs.

Above all the *nursery*: what goes on beside the main line of a run belongs to one, and none of it is left when its
block ends, however that ends. It is a `TaskGroup` with another rule for failures. In a bare group a task that fails
cancels all others, and nothing new can begin; but of a run's tasks some settle what others have begun, and those are to
reach their end whatever failed. So whoever starts a task says what its failure means for the run (`failed`), and the
group never sees one: the run ends in its ordinary way, by the first cause, with everything settled, and its error is
what it was and no bundle. A child's nursery stands inside a task of its parent's, so a tree of runs ends from its
leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, TypeVarTuple

__all__ = ["Nursery", "Workers", "stopped", "to_the_end"]

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


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


class Nursery:
    """The tasks of one run. Enter it, `start` tasks, and leave it: that waits for their ends.

    Where the block is left by an error, what still goes on is cancelled first.
    """

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._parent: asyncio.Task[Any] | None = None
        self._wish: KeyboardInterrupt | SystemExit | None = None

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._parent = asyncio.current_task()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._group.__aexit__(kind, error, trace)
        except BaseExceptionGroup as errors:
            if error is None or error not in errors.exceptions:
                raise errors.exceptions[0] from None  # some `failed` has failed
        except asyncio.CancelledError:
            if self._wish is None:
                raise
        if self._wish is not None and self._parent is not None:
            self._parent.uncancel()
            raise self._wish

    def start(
        self, failed: Callable[[BaseException], None], work: Callable[[*Ts], Coroutine[Any, Any, None]], *args: *Ts
    ) -> asyncio.Task[None]:
        """Let `work(*args)` run beside the block; `failed` is told what it raises, but for a cancellation."""
        return self._group.create_task(self._run(failed, work, *args))

    async def _run(
        self, failed: Callable[[BaseException], None], work: Callable[[*Ts], Coroutine[Any, Any, None]], *args: *Ts
    ) -> None:
        try:
            await work(*args)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except (KeyboardInterrupt, SystemExit) as wish:
            # Out of a task these two stop the event loop where it stands. So the block is told to end, and raises them.
            self._wish = self._wish or wish
            assert self._parent is not None, "the block was entered"
            self._parent.cancel()
        except BaseException as error:  # not hidden: told to whoever is to answer for it
            failed(error)


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
