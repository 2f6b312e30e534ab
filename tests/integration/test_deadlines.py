"""Deadlines that a cell's own end does not show: between two cells, and for an answer that comes too late."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import msgspec
import pytest

from belljar import PolicyDenied, Runtime
from belljar.heavy import LOOP_BYTES_MAX, off_loop
from belljar.policy import Policy, load
from tests.integration.support import Jar, processes_below, until


def with_limits(**values: Any) -> Policy:
    policy = load("standard")
    return msgspec.structs.replace(policy, limits=msgspec.structs.replace(policy.limits, **values))


def test_the_run_ends_between_two_cells_when_its_time_is_up(jar: Jar) -> None:
    async def main() -> None:
        policy = with_limits(run_wall_s=8.0, cell_wall_s=8.0)
        async with Runtime(policy, state=jar.at) as runtime:
            async with runtime.session() as session:
                assert (await session.execute("x = 1")).status == "ok"
                around = len(processes_below())
                await asyncio.to_thread(until, lambda: len(processes_below()) < around, what="the box is gone")
                with pytest.raises(PolicyDenied, match="ended"):
                    await session.execute("print(x)")
            result = session.result
            assert result is not None
            assert result.status == "timeout"
            assert result.limit is not None
            assert result.limit.code == "limits.run_wall"

    asyncio.run(main())


def test_an_answer_after_the_deadline_is_void_and_logged_as_such(jar: Jar) -> None:
    async def main() -> None:
        policy = with_limits(cell_wall_s=3.0, grace_s=30.0)
        late = "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    FINAL('too late')"
        async with Runtime(policy, state=jar.at, language="python") as runtime:
            result = await runtime.execute(late)
        assert (result.status, result.answer) == ("timeout", None)

    asyncio.run(main())
    assert len(jar.records("answer.void")) == 1
    assert jar.records("answer.given") == []


def test_an_answer_in_time_counts_however_long_others_keep_it_from_being_checked(jar: Jar) -> None:
    """The one thread for heavy work is somebody else's until the deadline and the grace are over."""
    gate = threading.Event()

    async def main() -> None:
        policy = with_limits(cell_wall_s=3.0, grace_s=0.1)
        async with Runtime(policy, state=jar.at, language="python") as runtime, runtime.session() as session:
            await session.execute("1")
            others = asyncio.create_task(off_loop(LOOP_BYTES_MAX + 1, gate.wait))
            asyncio.get_running_loop().call_later(4.0, gate.set)
            cell = await session.execute("FINAL('x' * 200_000)")
            await others
        assert (cell.status, len(cell.answer or "")) == ("ok", 200_000)
        assert session.result is not None
        assert session.result.status == "ok"

    try:
        asyncio.run(main())
    finally:
        gate.set()
