"""The sixth table: a tree of child runs, in which every run but the leaves starts as many again.

All run the same program, with the null model as the root model of each: what is measured is the box, the broker, the
log and the ledger of a run, and nothing of what a model does. A tree counts itself: its answer is the number of runs.
A round whose books are not exact, whose log does not verify, or which leaves a box behind is no measurement.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import psutil

from belljar.audit import runs, verify
from belljar.models import NullModel
from belljar.policy import Policy, load
from belljar.runtime import Runtime
from belljar.state import State
from benchmarks.measure import BenchmarkError
from benchmarks.rows import Goal

__all__ = ["GOAL", "TreePlan", "TreeTable", "measure_trees"]

GOAL: Final = Goal(8.0)
# Far above what a slow machine takes for the full tree.
_PATIENCE_S: Final = 3600.0
_PROGRAM: Final = """
level = int(str(context))
FINAL(1 + sum(rlm_query_batched(["Count the runs."] * {fan_out}, [str(level - 1)] * {fan_out})) if level else 1)
"""


@dataclass(frozen=True)
class TreePlan:
    """So many levels below the root, and so many children of each run, of which some run side by side."""

    rounds: int
    depth: int
    fan_out: int
    side_by_side: int = 2

    @property
    def runs(self) -> int:
        return sum(self.fan_out**level for level in range(self.depth + 1))


@dataclass(frozen=True)
class TreeTable:
    """How long each round took, in seconds."""

    plan: TreePlan
    taken_s: Sequence[float]

    @property
    def ms_per_child(self) -> float:
        return statistics.median(self.taken_s) * 1000 / (self.plan.runs - 1)


async def measure_trees(plan: TreePlan, folder: Path, progress: Callable[[str], None]) -> TreeTable:
    """Raises BenchmarkError if a round left anything behind."""
    before = _processes()
    taken: list[float] = []
    state = State(folder)
    async with Runtime(_policy(plan), state=folder, environ={}, language="python") as runtime:
        await runtime.prepare()
        for number in range(plan.rounds):
            progress(f"tree of {plan.runs} runs: round {number + 1} of {plan.rounds}")
            taken.append(await _round(plan, runtime))
    report = await asyncio.to_thread(verify, state.journal)  # the log and the ledger, in one snapshot
    statuses = [run.status for run in await asyncio.to_thread(runs, state.journal)]
    if not report.ok or statuses != ["ok"] * (plan.runs * plan.rounds):
        raise BenchmarkError(
            f"the log is not that of the trees: {report.problems[:1] or sorted(set(map(str, statuses)))}"
        )
    if left := _processes() - before:
        raise BenchmarkError(f"processes are left: {sorted(left)}")
    return TreeTable(plan, taken)


async def _round(plan: TreePlan, runtime: Runtime) -> float:
    program = _PROGRAM.format(fan_out=plan.fan_out)
    model = NullModel(f"```repl\n{program}\n```", name="scripted:null")
    started = time.perf_counter()
    result = await runtime.execute(program, context=str(plan.depth), model=model)
    taken_s = time.perf_counter() - started
    if (result.status, result.answer) != ("ok", plan.runs):
        raise BenchmarkError(f"a tree of {plan.runs} runs ended with {result.status}: {result.error or result.answer}")
    return taken_s


def _policy(plan: TreePlan) -> Policy:
    policy = load("dev")
    models = {"depth_max": plan.depth + 1, "children_max": plan.side_by_side}
    limits = {"cell_wall_s": _PATIENCE_S, "run_wall_s": _PATIENCE_S}
    return msgspec.structs.replace(
        policy,
        name="tree",
        models=msgspec.structs.replace(policy.models, **models),
        limits=msgspec.structs.replace(policy.limits, **limits),
    )


def _processes() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}
