"""Whose doing the end of a box was, judged from its account: a limit of ours is never told as somebody else's doing."""

from __future__ import annotations

import asyncio
import signal
import types
from typing import Any, cast

import msgspec
import pytest

from belljar.broker import Broker, Cell, RunScope
from belljar.engine import Box, Verdict
from belljar.identity import RunId, Tenant
from belljar.policy import load
from belljar.protocol import Done
from belljar.sandbox.base import BoxEnd, BoxSpec, Evidence, Sandbox, rlimits
from belljar.states import Event, States
from belljar.tasks import Nursery

MIB = 2**20
POLICY = load("standard")
LIMITS = POLICY.limits


class Ended:
    """A sandbox that has ended, or lives with such an account."""

    layers = ()

    def __init__(self, end: BoxEnd) -> None:
        self._end = end

    async def wait(self, seconds: float) -> bool:
        return True

    async def kill(self) -> BoxEnd:
        return self._end

    async def evidence(self) -> Evidence:
        return self._end.evidence

    def scratch_full(self) -> bool:
        return False


def box(end: BoxEnd, *, started: bool = True) -> Box:
    scope = RunScope(run=RunId("r"), tenant=Tenant("t"), policy=POLICY, deadline=0.0, tasks=Nursery())
    states = States()
    if started:
        states.on(Event.READY)
    broker = cast("Broker", types.SimpleNamespace(states=states, final=None, cell=None))
    return Box(cast("Sandbox", Ended(end)), broker, scope)


def end(**fields: Any) -> BoxEnd:
    return BoxEnd(**{"killed": False, "signal": 0, "code": 0, "cpu_s": 1.0, "max_rss_bytes": MIB, **fields})


KILL = int(signal.SIGKILL)
ENDS = {
    "cpu time, by the host's account": (end(code=1, cpu_s=LIMITS.cpu_s), "cpu"),
    "cpu time, by the process's own limit": (end(signal=KILL, by_other=True, cpu_s=LIMITS.cpu_s * 0.98), "cpu"),
    "the same by its first signal": (end(signal=int(signal.SIGXCPU), cpu_s=LIMITS.cpu_s * 0.98), "cpu"),
    "memory, by the kernel or the watch": (
        end(signal=KILL, evidence=Evidence(memory_kills=1, memory_peak_bytes=LIMITS.memory_bytes)),
        "memory",
    ),
    "memory, and slow to die of it": (
        end(killed=True, signal=KILL, evidence=Evidence(memory_kills=1, memory_peak_bytes=LIMITS.memory_bytes)),
        "memory",
    ),
    "memory, and nothing was left to say so": (end(code=127, max_rss_bytes=LIMITS.memory_bytes * 19 // 20), "memory"),
    "its agent, with little of its memory": (end(code=127, max_rss_bytes=LIMITS.memory_bytes // 2), "error"),
    "itself, with all of its memory": (end(code=1, max_rss_bytes=LIMITS.memory_bytes), "error"),
    "its wire's end": (end(killed=True, signal=KILL), "error"),
    "somebody outside": (end(signal=KILL, by_other=True), "killed"),
    "itself, shortly before its limit": (end(code=1, cpu_s=LIMITS.cpu_s * 0.98), "error"),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_end_of_a_box(name: str) -> None:
    ended, status = ENDS[name]
    verdict = asyncio.run(box(ended)._died())
    assert verdict.status == status
    if status in ("cpu", "memory"):
        assert verdict.limit is not None
        assert verdict.limit.observed is not None
        assert verdict.limit.observed >= 0.9 * (verdict.limit.limit or 0)


def test_a_box_that_does_not_start_is_our_fault_unless_somebody_killed_it() -> None:
    ends = (end(code=1), end(signal=KILL, by_other=True))
    assert [asyncio.run(box(one, started=False)._died()).status for one in ends] == ["host_fault", "killed"]


HALF = LIMITS.memory_bytes // 2
RAISED = {
    "near the limit": ("MemoryError", Evidence(memory_peak_bytes=HALF), "limits.memory"),
    "near the limit of address space": ("MemoryError", Evidence(address_peak_bytes=HALF), "limits.memory"),
    "far from it": ("MemoryError", Evidence(memory_peak_bytes=HALF - 1, address_peak_bytes=HALF - 1), None),
    "a child was killed for it": ("ValueError", Evidence(memory_kills=1, memory_peak_bytes=HALF), "limits.memory"),
    "a task was refused": ("BlockingIOError", Evidence(tasks_refused=1), "limits.processes"),
    "there is room for no task": ("RuntimeError", Evidence(tasks=LIMITS.processes), "limits.processes"),
    "there is room for one": ("RuntimeError", Evidence(tasks=LIMITS.processes - 1), None),
    "none was refused, by who counts that": (
        "RuntimeError",
        Evidence(tasks=LIMITS.processes, tasks_refused=0),
        None,
    ),
}


@pytest.mark.parametrize("name", RAISED)
def test_what_a_program_raised(name: str) -> None:
    said, evidence, code = RAISED[name]
    limit = asyncio.run(box(end(evidence=evidence))._limit_behind(said))
    assert (limit.code if limit else None) == code


def test_what_happened_before_the_cell_is_not_its_limit() -> None:
    one = box(end(evidence=Evidence(memory_kills=1, tasks_refused=1)))

    async def twice() -> list[object]:
        return [await one._limit_behind("OSError") for _ in range(2)]

    first, second = asyncio.run(twice())
    assert (first is None, second is None) == (False, True)


def test_what_ends_a_box_behind_the_end_of_a_cell_is_not_the_cells() -> None:
    ended = box(end())
    cell = Cell(1, LIMITS, began=0.0, deadline=1.0, wall_s=1.0)
    cell.end(Done(1, "ok", None), "", now=0.5)
    ended.verdict = Verdict("protocol")
    assert asyncio.run(ended._outcome(cell)) == ("ok", None, None)


@pytest.mark.parametrize("cpu_s", [1, 300, 3600])
def test_the_limit_of_a_process_is_never_met_before_the_boxs(cpu_s: int) -> None:
    spec = BoxSpec(
        cpu_s=cpu_s,
        memory_bytes=64 * MIB,
        processes=8,
        scratch_bytes=MIB,
        scratch_files=8,
        open_files=16,
        requires=(),
    )
    assert rlimits(spec)["CPU"] >= 1.5 * cpu_s + 2
    # What was there at birth takes nothing from the program's own.
    assert rlimits(spec, 500 * MIB)["AS"] == 500 * MIB + 56 * MIB
    assert rlimits(msgspec.structs.replace(spec, processes=9))["NPROC"] > 9
