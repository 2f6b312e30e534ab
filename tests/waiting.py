"""A test's own word that something did not come, as it is told from a test that hangs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

__all__ = ["in_time"]


@contextlib.asynccontextmanager
async def in_time(seconds: float) -> AsyncIterator[None]:
    """What is awaited inside comes within so many seconds, or the test has failed."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise AssertionError(f"waited {seconds:g} s in vain") from None
