"""Runs a command's coroutine, and ends it when the user or the system asks.

SIGTERM and SIGHUP do what Ctrl-C does, so that a service manager or a closed terminal leaves no run unfinished in the
log and no call unsettled in the ledger. What a signal does depends on what has to be closed::

    loading, or a command that only reads   the process ends in the handler (`belljar_command`)
    a command without a loop                `Stopped` is raised where it is
    a coroutine                             it is cancelled, and closes what it has open; then `Stopped`
    ... and later another signal            the process ends in the handler, so a user can always get out
    the output is written                   the process ends with the exit code that it has anyway

One Ctrl-C often arrives as two signals: from the terminal, and from a parent that passes on its own.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import belljar_command

if TYPE_CHECKING:
    import asyncio

__all__ = ["Stopped", "done", "may_be_stopped", "run_async"]

T = TypeVar("T")
_Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None

_RUN_CLOSED: Final = "the box is gone, the ledger has what was spent, and the log is closed"
_AGAIN: Final = "at once, because you asked twice; the next start settles the rest"
_SAME_WISH_S: Final = 0.5
# When the first signal came, on the monotonic clock; empty before.
_came: list[float] = []


class Stopped(BaseException):
    """A signal came, and what had to be closed is closed. `str` says what was closed."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = belljar_command.EXIT_SIGNAL + number


def may_be_stopped() -> None:
    """From here on a signal raises `Stopped`, so that a command can close what it has open."""

    def stop(number: int, _: FrameType | None) -> None:
        if _is_first(number):
            raise Stopped(number, "nothing is left half done")

    _handle(stop)


def done(exit_code: int) -> None:
    """All output is written: a signal that comes now changes nothing."""
    _handle(lambda _number, _frame: os._exit(exit_code))
    # The interpreter gives handlers back to the system while it ends, and then a signal would be the exit code.
    atexit.register(_handle, signal.SIG_IGN)


def run_async(work: Coroutine[Any, Any, T], *, closed: str = _RUN_CLOSED) -> T:
    """Run `work` to its end.

    Raises:
        Stopped: a signal came, and `work` has closed what it had open; `closed` says so to the user.
    """
    import asyncio  # here: a command without a loop does not need it

    cancelled_by: list[int] = []
    tasks: list[asyncio.Task[Any]] = []

    # Not the loop's own handlers: those run only when the loop is not busy, and a second signal must get through.
    def stop(number: int, _: FrameType | None) -> None:
        if _is_first(number):
            cancelled_by.append(number)
            for task in tasks:
                task.get_loop().call_soon_threadsafe(task.cancel)

    with _handled(stop):
        try:
            # A signal that comes when the work is done must not lose its result.
            return asyncio.run(_cancellable(work, tasks, cancelled_by))
        except asyncio.CancelledError:
            if not cancelled_by:
                raise
    raise Stopped(cancelled_by[0], closed)


async def _cancellable(work: Coroutine[Any, Any, T], tasks: list[asyncio.Task[Any]], cancelled_by: list[int]) -> T:
    import asyncio

    task = asyncio.current_task()
    assert task is not None
    tasks.append(task)
    try:
        if cancelled_by:  # while the loop was made
            task.cancel()
        return await work
    finally:
        tasks.clear()


def _is_first(number: int) -> bool:
    """Whether this signal is the first. One that comes well after the first ends the process."""
    if not _came:
        _came.append(time.monotonic())
        return True
    if time.monotonic() - _came[0] > _SAME_WISH_S:
        belljar_command.leave(number, _AGAIN)
    return False


@contextlib.contextmanager
def _handled(handler: _Handler) -> Iterator[None]:
    before = _handle(handler)
    try:
        yield
    finally:
        for number, one in before.items():
            signal.signal(number, one)


def _handle(handler: _Handler) -> dict[int, _Handler]:
    """Set this handler for all signals that are not ignored. Returns the handlers before."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    wanted = [number for number in belljar_command.SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in wanted}
