"""The tasks of a run: none is left behind its block, none that fails takes others along, an error is no bundle."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from belljar.tasks import Nursery
from tests.unit.broker_fakes import drive


def unforeseen(error: BaseException) -> None:
    raise AssertionError(error)


async def forever(ends: list[str], name: str = "task") -> None:
    try:
        await asyncio.Event().wait()
    finally:
        ends.append(name)


async def error_of(block: Coroutine[Any, Any, None]) -> BaseException | None:
    try:
        await block
    except BaseException as error:
        return error
    return None


async def failing() -> None:
    raise ZeroDivisionError


def test_the_end_of_the_block_waits_for_its_tasks() -> None:
    async def test() -> None:
        ends: list[str] = []
        go = asyncio.Event()

        async def work() -> None:
            await go.wait()
            ends.append("task")

        async with Nursery() as tasks:
            tasks.start(unforeseen, work)
            asyncio.get_running_loop().call_soon(go.set)
        assert ends == ["task"]

    drive(test())


@pytest.mark.parametrize("error", [ValueError("own"), KeyboardInterrupt()])
def test_an_error_of_the_block_ends_its_tasks_and_goes_on_as_it_is(error: BaseException) -> None:
    async def test() -> None:
        ends: list[str] = []

        async def block() -> None:
            async with Nursery() as tasks:
                tasks.start(unforeseen, forever, ends)
                await asyncio.sleep(0)
                raise error

        with pytest.raises(type(error)) as caught:
            await block()
        assert (caught.value, ends) == (error, ["task"])

    drive(test())


def test_a_task_that_fails_is_told_and_the_others_go_on_and_may_begin() -> None:
    async def test() -> None:
        told: list[BaseException] = []
        ends: list[str] = []

        async def block() -> None:
            async with Nursery() as tasks:
                going_on = tasks.start(unforeseen, forever, ends)
                await asyncio.wait([tasks.start(told.append, failing)])
                later = tasks.start(unforeseen, forever, ends, "later")
                await asyncio.sleep(0)
                for task in (going_on, later):
                    task.cancel()

        assert await error_of(block()) is None
        assert [type(error) for error in told] == [ZeroDivisionError]
        assert ends == ["task", "later"]

    drive(test())


def test_what_nobody_answers_for_is_raised_by_the_block_as_it_is() -> None:
    def crooked(error: BaseException) -> None:
        raise LookupError from error

    async def test() -> None:
        ends: list[str] = []

        async def block() -> None:
            async with Nursery() as tasks:
                tasks.start(unforeseen, forever, ends)
                tasks.start(crooked, failing)
                await asyncio.Event().wait()

        with pytest.raises(LookupError):
            await block()
        assert ends == ["task"]

    drive(test())


@pytest.mark.parametrize("wish", [KeyboardInterrupt, SystemExit])
def test_a_wish_to_exit_ends_the_block_in_order_and_is_raised_by_it(wish: type[BaseException]) -> None:
    async def wishing() -> None:
        raise wish

    async def test() -> None:
        closed: list[str] = []

        async def block() -> None:
            async with Nursery() as tasks:
                tasks.start(unforeseen, wishing)
                try:
                    await asyncio.Event().wait()
                finally:  # to settle something, a task may begin here as well
                    await asyncio.wait([tasks.start(unforeseen, asyncio.sleep, 0)])
                    closed.append("in order")

        assert type(await error_of(block())) is wish
        task = asyncio.current_task()
        assert task is not None
        assert (closed, task.cancelling()) == (["in order"], 0)

    drive(test())


def test_a_child_s_tasks_end_before_its_parent_s() -> None:
    async def test() -> None:
        ends: list[str] = []

        begun = asyncio.Event()

        async def leaf() -> None:
            begun.set()
            await forever(ends, "leaf")

        async def child() -> None:
            async with Nursery() as inner:
                inner.start(unforeseen, leaf)
                await forever(ends, "child")

        async def parent() -> None:
            async with Nursery() as tasks:
                tasks.start(unforeseen, child)
                await begun.wait()
                raise ValueError("parent")

        with pytest.raises(ValueError, match="parent"):
            await parent()
        assert ends == ["child", "leaf"]

    drive(test())


def test_a_cancellation_from_outside_reaches_all_and_goes_on() -> None:
    async def test() -> None:
        ends: list[str] = []
        begun = asyncio.Event()

        async def block() -> None:
            async with Nursery() as tasks:
                tasks.start(unforeseen, forever, ends)
                await asyncio.sleep(0)
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(block())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ends == ["task"]

    drive(test())
