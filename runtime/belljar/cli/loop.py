"""From a command to its coroutine, and back when the user or the system wants it to end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

import click

__all__ = ["run_async"]

T = TypeVar("T")


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end.

    SIGTERM and SIGHUP do what Ctrl-C does, so that a service manager or a closed terminal leaves no run unfinished in
    the log and no call unsettled in the books.

    Raises:
        click.Abort: one of them came; what `work` has to close is closed.
    """
    try:
        return asyncio.run(_with_signals(work))
    except (asyncio.CancelledError, KeyboardInterrupt):
        # Not KeyboardInterrupt: for that click prints an empty line first, also where there is no "^C" to leave behind.
        raise click.Abort from None


async def _with_signals(work: Coroutine[Any, Any, T]) -> T:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        # A process that was told to outlive its terminal (nohup) does.
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, task.cancel)
    return await work
