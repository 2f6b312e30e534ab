"""Cancel a coroutine at the n-th place where it waits, as somebody may who waits for it."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from tests.waiting import PATIENCE_S

__all__ = ["PLACES_MAX", "cancelled_at", "watched"]

T = TypeVar("T")
# More places than anything waits at: whoever gets here waits for something that never comes.
PLACES_MAX = 2000


@types.coroutine
def watched(work: Coroutine[Any, Any, T], waits: Callable[[], object]) -> Generator[Any, Any, T]:
    """Run `work`, and call `waits` at each place where it waits. What it gives is given on."""
    step: Callable[[], Any] = lambda: work.send(None)  # noqa: E731
    while True:
        try:
            waited = step()
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        waits()
        try:
            value = yield waited
        except BaseException as error:
            step = lambda error=error: work.throw(error)  # type: ignore[misc]  # noqa: E731
        else:
            step = lambda value=value: work.send(value)  # type: ignore[misc]  # noqa: E731


async def _cancelling(work: Coroutine[Any, Any, T], place: int, stop: int) -> T:
    """Run `work`; cancel the task that runs it at each place where it waits, from number `place` up to `stop`.

    One that was cancelled and says nothing of it has swallowed that.
    """
    reached = 0
    task = asyncio.current_task()
    assert task is not None

    def waits() -> None:
        nonlocal reached
        reached += 1
        if place <= reached < stop:
            task.cancel()

    given = await watched(work, waits)
    assert reached < place, f"it swallowed its cancellation at place {place}"
    return given


async def cancelled_at(work: Coroutine[Any, Any, object], place: int, *, again: bool) -> bool:
    """Whether `work` was cancelled at this place, the first is 1; False if it got through before.

    With `again` it is cancelled at every later place, too, as by somebody who has no patience.
    """
    assert place < PLACES_MAX

    async def run() -> None:
        await _cancelling(work, place, PLACES_MAX if again else place + 1)

    async with asyncio.timeout(PATIENCE_S):
        task = asyncio.create_task(run())
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    return task.cancelled()
