"""The second table: boxes, the floor under them, and peers. Who takes part, in what order, and what comes of it.

Whoever cannot be installed or does not work here is named with the reason, and the others go on. To find that out,
everybody is tried once, with one of everything, before the first round.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Final

from benchmarks.commands import bubblewrap, plain_python
from benchmarks.jail import Bench, Boxes
from benchmarks.measure import QUIET_S, BenchmarkError, BoxPlan, BoxSubject, Samples, measure
from benchmarks.peers import Driven, Rlms, peer_python
from benchmarks.report import BoxTable
from benchmarks.rows import GOALS, LABELS, Row, memory_row, rate_row, ratio_row, timed_rows
from benchmarks.wiring import LANGUAGES

__all__ = ["Absent", "admit", "measure_boxes"]

_HERE = Path(__file__).parent
_TRIAL = BoxPlan(rounds=1, starts=1, quiet=0, cells=1, queries=1, sustained_s=0, idle_boxes=0)
_AT_ONCE = (2, 4)

# Distribution, what the driver calls it, name in the table, boxes a round at most, isolation.
_PEERS: Final = (
    (
        "pydantic-monty",
        "pydantic-monty",
        "pydantic-monty",
        5,
        "an interpreter of its own for a subset of Python, in a worker process; no isolation by the operating system",
    ),
    (
        "smolagents",
        "smolagents",
        "smolagents LocalPythonExecutor",
        5,
        "none: syntax trees are interpreted in the host's own process, imports and builtins by list",
    ),
    (
        "recursive-llm",
        "recursive-llm",
        "recursive-llm REPL",
        1,
        "RestrictedPython in a process of its own; pickles go both ways; no isolation by the operating system",
    ),
    (
        "sandlock",
        "sandlock",
        "sandlock (python -I -S -c pass)",
        5,
        "Landlock, a system call denylist and a supervisor, limits on memory and processes; no namespaces",
    ),
    (
        "sandlock",
        "sandlock-fork",
        "sandlock (one clone of the caller)",
        5,
        "the same, but the guest starts with all that the calling process has in memory",
    ),
)

_NOTES: Final = (
    "A fresh box is timed from the order to build it (`Jail.start`) to the result of its first cell, in a process "
    "that has started boxes before. A box made ahead is taken from a pool of four, which is filled up again meanwhile. "
    "The log and the ledger are in memory, but for the row that says otherwise. A query is timed by the guest, with a "
    "model that answers at once. Teardown is what a caller waits who closes a box and wants to know how it ended.",
    "The floor is one clone(2) with the seven namespaces of a box, out of a small warm interpreter with one thread; "
    "the child executes a code object of one expression, writes one byte, and is reaped. It maps no user, mounts "
    "nothing and closes no door. Reaping is in the floor and not in a box's first result, so the ratio to the floor "
    "before it reaps is the stricter one. The ratios are of the medians of this run.",
    "Boxes one after another find the kernel as the one before left it. A box that is asked for after a pause, here of "
    f"{QUIET_S:g} s, does not, and a service with little to do starts all its boxes like that. Joining a control "
    "group, for one, is cheap right after somebody else has done it and dear after a pause.",
    "Memory is the proportional set size of idle boxes of one zygote: what they share counts in parts. What the kernel "
    "keeps for a box (page tables, namespaces, the control group) is not in it.",
    "A peer's fresh box is whatever it has to make to run its first code, its modules loaded before: for "
    "pydantic-monty a pool with one worker, for recursive-llm a REPL process, for smolagents an object, for programs "
    "an interpreter from start to end. recursive-llm's query is timed at the host, from one to the next, with a bare "
    "function behind it; no peer here writes a query to a log or a ledger first.",
)

Absent = dict[str, str]


async def measure_boxes(
    plan: BoxPlan, images: Path, scratch: Path, *, peers: bool, progress: Callable[[str], None]
) -> BoxTable:
    """Measure all of it.

    Args:
        images: the folder of box images.
        scratch: where drivers work and durable books are kept.
    """
    absent: Absent = {}
    async with AsyncExitStack() as stack:
        bench = await stack.enter_async_context(Bench(images, scratch))
        ours = [Boxes(bench, language) for language in LANGUAGES]
        floor = await admit(stack, _floor(scratch), "floor", absent)
        others = await _others(stack, scratch, absent, progress) if peers else []
        subjects: list[BoxSubject] = [*ours, *([floor] if floor else []), plain_python(), *others]
        samples = await measure(subjects, plan.rounds, lambda subject: subject.round_of_boxes(plan), progress)
        alone = await _alone(bench, plan, absent, progress)
    rows = [*_timed(samples, [boxes.title for boxes in ours], floor), *alone]
    order = list(LABELS)
    return BoxTable(
        title="Boxes",
        about="The wall and the wire alone.",
        plan=plan,
        rows=sorted(rows, key=lambda row: order.index(row.measure)),
        isolation={subject.title: subject.isolation for subject in subjects},
        absent=absent,
        notes=_NOTES,
    )


def _timed(samples: dict[str, Samples], ours: Sequence[str], floor: BoxSubject | None) -> list[Row]:
    rows = timed_rows(samples, dict.fromkeys(ours, GOALS))
    if floor is None:
        return rows
    bases = {row.measure: row for row in rows if row.who == floor.title}
    pairs = (("ratio", "cold", "cold"), ("ratio_answered", "cold", "answered"), ("ratio_quiet", "quiet", "quiet"))
    ratios = [
        ratio_row(measure, row, bases[base], GOALS.get(measure))
        for measure, over, base in pairs
        for row in rows
        if row.measure == over and row.who in ours
    ]
    return [*rows, *ratios]


async def _alone(bench: Bench, plan: BoxPlan, absent: Absent, progress: Callable[[str], None]) -> list[Row]:
    """What is measured with nothing else going on."""
    rows = []
    for language in LANGUAGES:
        for at_once in _AT_ONCE:
            progress(f"boxes per second, {language}, {at_once} at a time")
            rate = await bench.sustained(language, at_once, plan.sustained_s)
            rows.append(rate_row(f"rate_{at_once}", Boxes(bench, language).title, rate))
    progress("memory of idle boxes")
    try:
        weights = await bench.weigh(plan.idle_boxes)
    except BenchmarkError as error:
        absent["memory"] = str(error)
        return rows
    rows.append(memory_row("memory", f"Belljar jail, {len(weights.boxes)} boxes", weights.boxes))
    rows.append(memory_row("memory_zygote", "Belljar jail", [weights.zygote]))
    return rows


def _floor(scratch: Path) -> Driven:
    command = [os.path.realpath(sys.executable), "-I", "-S", "-B", str(_HERE / "clone_floor.py")]
    isolation = "seven namespaces, nothing done in them"
    return Driven("floor (clone, exec, answer, reap)", command, scratch, isolation=isolation)


async def _others(
    stack: AsyncExitStack, scratch: Path, absent: Absent, progress: Callable[[str], None]
) -> list[BoxSubject]:
    found: list[BoxSubject | None] = []
    try:
        found.append(bubblewrap(progress))
    except BenchmarkError as error:
        absent["bubblewrap"] = str(error)
    for distribution, driven, name, starts, isolation in _PEERS:
        try:
            python = await asyncio.to_thread(peer_python, distribution, progress)
        except BenchmarkError as error:
            absent[name] = str(error)
            continue
        command = [str(python), "-I", str(_HERE / "peer_boxes.py"), driven]
        peer = Driven(name, command, scratch, isolation=isolation, starts=starts)
        found.append(await admit(stack, peer, name, absent))
    try:
        python = await asyncio.to_thread(peer_python, "rlms", progress)
        found.append(await admit(stack, Rlms(python, scratch), "rlms local", absent))
    except BenchmarkError as error:
        absent["rlms local"] = str(error)
    return [subject for subject in found if subject is not None]


async def admit(
    stack: AsyncExitStack,
    subject: AbstractAsyncContextManager[BoxSubject],
    name: str,
    absent: Absent,
    plan: BoxPlan = _TRIAL,
) -> BoxSubject | None:
    """Enter it and try it with `plan`, or say why it does not take part."""
    async with contextlib.AsyncExitStack() as trial:
        try:
            entered = await trial.enter_async_context(subject)
            await entered.round_of_boxes(plan)
        except (BenchmarkError, OSError) as error:
            absent[name] = str(error)
            return None
        stack.push_async_exit(trial.pop_all())
        return entered
