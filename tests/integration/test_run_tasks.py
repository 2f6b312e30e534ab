"""What goes on beside a run's main line: whichever of it fails, hangs or is stopped, the run ends and leaves no task.

Each kind of task is made to misbehave at the place where it does its work. The verdict says whose fault that was, as an
error of ours and never as a bundle of them, and what was begun is settled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from belljar import HostFault, Progress, Result, Runtime
from belljar.broker.querying import Querying
from belljar.broker.reads import Reads
from belljar.broker.shown import Shown
from belljar.engine import Box
from belljar.ledger import Ledger
from belljar.lifecycle import Run
from belljar.models import NullModel
from belljar.policy import Policy, load
from tests.integration.support import Jar

TEXT = "A text that is long enough to be found again in what a model was asked. "
# It reads, asks, and waits for longer than the guard does.
PROGRAM = "import time\nprint(llm_query(context[:]))\ntime.sleep(0.8)"
KINDS: dict[str, tuple[type, str]] = {
    "pump": (Box, "_read_frames"),
    "guard": (Box, "_watch_always"),
    "request": (Querying, "query"),
    "end of a call": (Ledger, "settle"),
    "tracing": (Shown, "_trace_waiting"),
    "reads": (Reads, "_watch"),
    "progress": (Run, "_tick"),
}


async def fails(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError


async def hangs(*_: Any, **__: Any) -> Any:
    await asyncio.Event().wait()


async def stops(*_: Any, **__: Any) -> Any:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


def of_calls_alone(what: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """The ledger settles reads, too."""
    real = Ledger.settle

    async def settle(self: Ledger, *amounts: Any, **how: Any) -> None:
        await (what() if how else real(self, *amounts))

    return settle


# What becomes of the run: a status, or the error that its caller gets.
ENDS: dict[tuple[str, Callable[..., Coroutine[Any, Any, Any]]], str] = {
    ("pump", fails): "host_fault",
    ("pump", hangs): "timeout",
    ("pump", stops): "timeout",
    ("guard", fails): "host_fault",
    ("guard", hangs): "ok",
    ("guard", stops): "ok",
    ("request", fails): "host_fault",
    ("request", hangs): "timeout",
    ("request", stops): "error",
    ("end of a call", fails): "HostFault",
    ("end of a call", stops): "HostFault",
    ("tracing", fails): "HostFault",
    ("tracing", stops): "ok",
    ("reads", fails): "HostFault",
    ("reads", hangs): "ok",
    ("reads", stops): "ok",
    ("progress", fails): "ok",
    ("progress", hangs): "ok",
    ("progress", stops): "ok",
}


def policy() -> Policy:
    standard = load("standard")
    limits = msgspec.structs.replace(standard.limits, cell_wall_s=6.0, grace_s=0.5)
    return msgspec.structs.replace(standard, limits=limits)


async def ended(work: Coroutine[Any, Any, Result]) -> str:
    """How a run ended, after which there are the tasks that there were before it."""
    before = asyncio.all_tasks()
    try:
        end: str = (await work).status
    except BaseException as error:
        end = "HostFault" if isinstance(error, HostFault) else type(error).__name__
    assert asyncio.all_tasks() <= before
    return end


def run_with(
    jar: Jar, work: Callable[[Runtime], Coroutine[Any, Any, Result]], *, before: Callable[[], None] = lambda: None
) -> str:
    async def main() -> str:
        async with Runtime(policy(), state=jar.at, language="python") as runtime:
            await runtime.execute("1")  # with which the process gets what all runs share
            before()
            return await ended(work(runtime))

    return asyncio.run(main())


@pytest.mark.parametrize(("kind", "what"), ENDS, ids=lambda part: part if isinstance(part, str) else part.__name__)
def test_a_task_that_misbehaves_ends_with_its_run(
    jar: Jar,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    what: Callable[..., Coroutine[Any, Any, Any]],
) -> None:
    told: list[Progress] = []
    end = run_with(
        jar,
        lambda runtime: runtime.execute(
            PROGRAM, context=TEXT, model=NullModel("yes", name="scripted:yes"), on_progress=told.append
        ),
        before=lambda: monkeypatch.setattr(*KINDS[kind], of_calls_alone(what) if kind == "end of a call" else what),
    )
    assert end == ENDS[kind, what]
    assert told or kind == "progress"
    jar.expect_unfinished = end == "HostFault"
    logged = [record.data["status"] for record in jar.records() if record.event == "run.finished"]
    assert logged == ["ok", "host_fault" if end == "HostFault" else end]


@pytest.mark.parametrize("wish", [KeyboardInterrupt, SystemExit])
def test_whoever_wants_to_stop_the_process_from_within_a_task_gets_a_closed_run(
    jar: Jar, wish: type[BaseException]
) -> None:
    def on_progress(_: Progress) -> None:
        raise wish

    end = run_with(jar, lambda runtime: runtime.execute("while True: pass", on_progress=on_progress))
    assert end == wish.__name__
    assert [record.data["status"] for record in jar.records() if record.event == "run.finished"] == ["ok", "killed"]


def test_a_run_that_is_cancelled_with_everything_under_way_leaves_no_task(jar: Jar) -> None:
    class Slow(NullModel):
        async def complete(self, request: Any) -> Any:
            asked.set()
            await asyncio.Event().wait()

    asked = asyncio.Event()

    async def cancelled(runtime: Runtime) -> Result:
        work = runtime.execute(
            "llm_query_batched([context[:]] * 3)",
            context=TEXT,
            model=Slow("no", name="scripted:slow"),
            on_progress=lambda _: None,
        )
        running = asyncio.create_task(work)
        await asked.wait()
        running.cancel()
        return await running

    assert run_with(jar, cancelled) == "CancelledError"
    assert [record.data["status"] for record in jar.records() if record.event == "run.finished"] == ["ok", "killed"]
    assert jar.open_reservations() == 0
