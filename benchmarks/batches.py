"""The seventh table: one batch of queries to a model that takes its time, as many side by side as the policy allows.

Nobody can be faster than the model: `queries / parallel` times as long as one call takes. What comes on top is the
broker's, the log's and the ledger's; beside it are the same batch through peers that keep neither, each with a model
object that sleeps as long, and a floor: the sleeps alone.

The CPU time is that of all that runs: the host with the writer of its journal, and the box; for a peer its process.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from belljar.models import ModelReply, ModelRequest, NullModel
from belljar.policy import Policy, load
from belljar.runtime import Runtime
from benchmarks.driver import Driver
from benchmarks.measure import BenchmarkError
from benchmarks.peers import peer_python
from benchmarks.rows import Goal

__all__ = ["CPU_GOAL", "WALL_GOAL", "BatchPlan", "BatchTable", "Taken", "measure_batches"]

# For 1000 queries of 100 ms, 100 side by side.
WALL_GOAL: Final = Goal(1.10)
CPU_GOAL: Final = Goal(600)
_HERE: Final = Path(__file__).parent
_PROGRAM: Final = """
answers = llm_query_batched([f"question {{number}}" for number in range({queries})])
print(len(answers), len(set(answers)))
"""
_PEERS: Final = ("rlms", "dspy")


@dataclass(frozen=True)
class BatchPlan:
    """In each of `rounds`, a batch of so many queries, of which some are under way at a time, `call_s` seconds each."""

    rounds: int
    queries: int
    parallel: int
    call_s: float

    @property
    def ideal_s(self) -> float:
        return -(-self.queries // self.parallel) * self.call_s


class Taken(NamedTuple):
    """What one batch took: seconds, and microseconds of CPU time for each query."""

    wall_s: float
    cpu_us: float


@dataclass(frozen=True)
class BatchTable:
    """By subject, in the order of the rows, what each round took."""

    plan: BatchPlan
    taken: Mapping[str, Sequence[Taken]]

    def wall_s(self, subject: str) -> float:
        return statistics.median(one.wall_s for one in self.taken[subject])

    def cpu_us(self, subject: str) -> float:
        return statistics.median(one.cpu_us for one in self.taken[subject])


class _Slow(NullModel):
    """A null model that takes its time."""

    def __init__(self, call_s: float) -> None:
        super().__init__("ok", name="scripted:null")
        self._call_s = call_s

    async def complete(self, request: ModelRequest) -> ModelReply:
        await asyncio.sleep(self._call_s)
        return await super().complete(request)


async def measure_batches(plan: BatchPlan, folder: Path, *, peers: bool, progress: Callable[[str], None]) -> BatchTable:
    """Raises BenchmarkError if a batch has not all its answers."""
    subjects: dict[str, Callable[[], Awaitable[Taken]]] = {}
    taken: dict[str, list[Taken]] = {}
    async with contextlib.AsyncExitStack() as stack:
        subjects["Belljar (jail, python; log and ledger on the disk)"] = await stack.enter_async_context(
            _ours(plan, folder / "state")
        )
        for name in _PEERS if peers else ():
            python = await asyncio.to_thread(peer_python, name, progress)
            title, batch = await stack.enter_async_context(_peer(plan, name, python, folder))
            subjects[title] = batch
        subjects["floor: the sleeps alone"] = lambda: _floor(plan)
        for number in range(plan.rounds):
            progress(f"batches: round {number + 1} of {plan.rounds}")
            for subject, batch in subjects.items():
                taken.setdefault(subject, []).append(await batch())
    return BatchTable(plan, taken)


@contextlib.asynccontextmanager
async def _ours(plan: BatchPlan, state: Path) -> AsyncIterator[Callable[[], Awaitable[Taken]]]:
    async with Runtime(_policy(plan), state=state, environ={}, language="python") as runtime:
        await runtime.prepare()

        async def batch() -> Taken:
            async with runtime.session(context="-", model=_Slow(plan.call_s)) as session:
                await session.execute("pass")
                started, cpu_s = time.perf_counter(), time.process_time()
                cell = await session.execute(_PROGRAM.format(queries=plan.queries))
                wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_s
            if (cell.status, cell.stdout) != ("ok", f"{plan.queries} 1\n"):
                raise BenchmarkError(f"a batch ended with {cell.status}: {cell.error or cell.stdout}")
            assert session.result is not None
            # The box's own includes its start: a few microseconds a query.
            return Taken(wall_s, (cpu_s + session.result.cpu_s) / plan.queries * 1e6)

        yield batch


@contextlib.asynccontextmanager
async def _peer(
    plan: BatchPlan, name: str, python: Path, scratch: Path
) -> AsyncIterator[tuple[str, Callable[[], Awaitable[Taken]]]]:
    order = {"queries": plan.queries, "parallel": plan.parallel, "call_s": plan.call_s}
    command = [str(python), "-I", str(_HERE / "peer_batches.py"), name]
    async with Driver(name, command, scratch) as driver:

        async def batch() -> Taken:
            answer = await driver.ask({"do": "batch", **order})
            if answer["answers"] != plan.queries:
                raise BenchmarkError(f"{name}: {answer['answers']} answers of {plan.queries}")
            return Taken(answer["wall_s"], answer["cpu_s"] / plan.queries * 1e6)

        yield f"{name} {driver.hello['version']} {driver.hello['how']}", batch


async def _floor(plan: BatchPlan) -> Taken:
    room = asyncio.Semaphore(plan.parallel)

    async def call() -> None:
        async with room:
            await asyncio.sleep(plan.call_s)

    started, cpu_s = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(plan.queries):
            group.create_task(call())
    return Taken(time.perf_counter() - started, (time.process_time() - cpu_s) / plan.queries * 1e6)


def _policy(plan: BatchPlan) -> Policy:
    policy = load("dev")
    models = msgspec.structs.replace(policy.models, parallel_max=plan.parallel)
    return msgspec.structs.replace(policy, name="batch", models=models)
