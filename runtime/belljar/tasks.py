"""Small helpers for asyncio tasks and threads that several parts need.

Above all the *nursery*: whatever runs beside the main line of a run belongs to one, and none of it is left when its
block ends, however that ends. It is a `TaskGroup` with another rule for failures. In a bare group a task that fails
cancels all others, and nothing new can start; but some of a run's tasks settle what others have begun, and must reach
their end whatever failed. So whoever starts a task says what its failure means for the run (`failed`), and the group
never sees one: the run ends in its ordinary way, by the first cause, with everything settled, and raises that error
itself, not a group of errors. A child's nursery is inside a task of its parent's, so a tree of runs ends from its
leaves.

And a fork waits for threads that are at their end. Joining one waits for its Python part only; behind that it still
gives back what libraries have for it, under their locks. A child that is born in such a moment has a lock that nobody
will ever open: OpenSSL's, say, which the child's first own thread would wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar, TypeVarTuple

__all__ = ["Nursery", "Workers", "stopped", "to_the_end"]

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# How long a fork waits for threads that Python no longer has; most are gone after 0.1 ms.
_ENDING_S: Final = 0.25
_LOOK_S: Final = 0.0002
# Those that were still there: libraries have threads of their own, for which no fork waits twice.
_known: set[int] = set()


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end even when this task is cancelled meanwhile; then let the cancellation through.

    For what must not be left half done: settling a reservation, killing a box, closing a run in the ledger.
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
    """The tasks of one run. Enter it, `start` tasks, and leave it: leaving waits until they have ended.

    If an error leaves the block, the tasks that still run are cancelled first.
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
                raise errors.exceptions[0] from None  # a `failed` callback itself failed
        except asyncio.CancelledError:
            if self._wish is None:
                raise
        if self._wish is not None and self._parent is not None:
            self._parent.uncancel()
            raise self._wish

    def start(
        self, failed: Callable[[BaseException], None], work: Callable[[*Ts], Coroutine[Any, Any, None]], *args: *Ts
    ) -> asyncio.Task[None]:
        """Let `work(*args)` run beside the block; `failed` is told what it raises, except a cancellation."""
        return self._group.create_task(self._run(failed, work, *args))

    async def _run(
        self, failed: Callable[[BaseException], None], work: Callable[[*Ts], Coroutine[Any, Any, None]], *args: *Ts
    ) -> None:
        try:
            await work(*args)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except (KeyboardInterrupt, SystemExit) as wish:
            # Raised in a task, these two stop the event loop on the spot. So the block is told to end, and raises them.
            self._wish = self._wish or wish
            assert self._parent is not None, "the block was entered"
            self._parent.cancel()
        except BaseException as error:  # not hidden: `failed` decides what it means
            failed(error)


async def stopped(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end. A task of another event loop ended with that loop."""
    if task.get_loop() is asyncio.get_running_loop():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Workers(ThreadPoolExecutor):
    """Threads for work that would block an event loop; they can still close things while the interpreter exits.

    From then on no thread of any pool takes new work: the caller does it at once instead.
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


def _no_thread_is_ending() -> None:
    """Wait until each thread of the process is one of Python's, or of a library's."""
    until = time.monotonic() + _ENDING_S
    with contextlib.suppress(OSError):  # without /proc nobody can tell
        while others := _others():
            if time.monotonic() > until:
                _known.update(others)
                return
            time.sleep(_LOOK_S)


def _others() -> set[int]:
    ours = {thread.native_id for thread in threading.enumerate()}
    return {int(thread) for thread in os.listdir("/proc/self/task")} - ours - _known


def _alone() -> None:
    """In a forked child, whose one thread Python still knows by the number that it had in its parent."""
    _known.clear()
    _known.add(threading.get_native_id())


os.register_at_fork(before=_no_thread_is_ending, after_in_child=_alone)
