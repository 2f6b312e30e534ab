"""How a test waits for a state, says that it did not come, and gets over a time without waiting."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

__all__ = ["PATIENCE_S", "in_time", "pass_time", "until"]

# For what comes at once, on a machine however busy: a test that waits so long waits in vain.
PATIENCE_S = 60.0


def until(condition: Callable[[], object], *, seconds: float = PATIENCE_S, what: str) -> None:
    """Wait for a condition, looking often."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain until {what}"
        time.sleep(0.01)


@contextlib.asynccontextmanager
async def in_time(seconds: float, what: str) -> AsyncIterator[None]:
    """What is awaited inside, until `what`, comes within so many seconds, or the test has failed."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise AssertionError(f"waited {seconds:g} s in vain until {what}") from None


def pass_time(seconds: float) -> None:
    """The clock of the running event loop jumps ahead: whatever was to come within so many seconds comes now."""
    loop = asyncio.get_running_loop()
    before = loop.time
    loop.time = lambda: before() + seconds  # type: ignore[method-assign]
