"""The fourth table: contexts of several sizes, the floor under them, and peers. Who takes part, and what comes of it.

Sizes come one after another, smallest first, and at each of them everybody has all rounds. So a peer that cannot do it
at one size is not asked at a larger one, and there is never more than one large text, beside what is registered.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from belljar.errors import BelljarError
from belljar.identity import BackendName, Language
from belljar.runtime import Runtime
from benchmarks.box_table import Absent
from benchmarks.context_peers import ContextPeer, GrepFloor, floor
from benchmarks.context_texts import SIZES, ContextText, Size, write_context
from benchmarks.contexts import CONTEXT_POLICY, START_SMALL, Contexts, Registration
from benchmarks.measure import BenchmarkError, ContextPlan, ContextSubject, Samples, measure
from benchmarks.peers import Rlms, peer_python
from benchmarks.programs import RANDOM_COUNT
from benchmarks.report import BoxTable
from benchmarks.rows import CONTEXT_GOALS, LABELS, Goal, Row, speed_row, timed_rows
from benchmarks.stats import summarise

__all__ = ["ContextsOfSize", "measure_contexts", "rows_of"]

_HERE = Path(__file__).parent
_OURS: Final[tuple[tuple[BackendName, Language], ...]] = (
    ("jail", "python"),
    ("jail", "restricted"),
    ("docker", "python"),
)
_SMALL: Final = SIZES["1KB"]
# The text, what is registered of it, and what is registered of it to see how long that takes.
_COPIES: Final = 3
# Measures that are a speed over the whole text, and from which size in bytes on they say something.
_SPEEDS: Final = {
    "context_lines": 1_000_000,
    "context_slices": 1_000_000,
    "context_search": 1_000_000,
    "context_register": 1_000_000,
}
# The speed that slices come through a container's pipes at has no bound.
_JAIL_ONLY: Final = {"context_slices"}

# Distribution, what its driver is called with, name in the table, isolation.
_PEERS: Final = (
    ("rlms", ("peer_rlms.py",), "rlms local", Rlms.isolation),
    (
        "recursive-llm",
        ("peer_contexts.py", "recursive-llm"),
        "recursive-llm REPL",
        "RestrictedPython in a process of its own; pickles go both ways; no isolation by the operating system",
    ),
    (
        "dspy",
        ("peer_contexts.py", "dspy"),
        "dspy LocalInterpreter",
        "none: all of Python in a process of its own, as the user who calls",
    ),
)

_NOTES: Final = (
    f"Belljar is the public facade under the policy `{CONTEXT_POLICY}`, which allows a program to go through gigabytes "
    "at all; log and ledger are on the disk, and every read is in the log. A start is from the request for a session "
    "to the result of its first cell, over a file that was registered before and is recognised while it is unchanged. "
    "For the ratio, each has a start with 1 KB beside it. Every other program has a box of its own, which has run one "
    "cell, so that none reads from another's pages. Memory is the most that a box had in any of these programs, as "
    "the kernel counts it for the backend, less that of a box without a context.",
    "Registration is from a file in the page cache into a new store, to the end, with all digests and marks.",
    "Lines are those of `context.lines()`, for peers of `context.splitlines()`, and for the floor of "
    "`for line in open(...)`. The search is `context.search` for a literal that occurs three times; for whoever has a "
    "`str`, `context.count`; `grep` is timed from its start to its end, in the C locale. The file is in the page cache "
    "for all. Speeds are bytes of the file, also where it is not ASCII. What is a ratio is of the medians of this run.",
    "What a count adds: one session takes random slices while another counts the matches of a pattern for which RE2 "
    "has to look at every byte; then it takes as many alone. The row has the difference of the two 99th percentiles.",
    "Each peer, and the floor, has a process of its own in each round, with 6 GiB of address space for each of its "
    "processes and 30 s for all programs over one text; its start begins with the file, and loading its modules is not "
    "counted. recursive-llm and dspy take the text with the first program, so that their start has the transfer. No "
    "peer writes what is read to a log.",
)


@dataclass(frozen=True)
class ContextsOfSize:
    """What came of one size. `samples` are seconds, or bytes of memory, by subject and measure."""

    size: Size
    text: ContextText
    samples: Mapping[str, Samples]


async def measure_contexts(
    plan: ContextPlan,
    sizes: Sequence[Size],
    state: Path,
    scratch: Path,
    *,
    peers: bool,
    progress: Callable[[str], None],
) -> BoxTable:
    """Measure all of it.

    Args:
        state: the state folder; what is registered stays there.
        scratch: where texts are written, one after another, and peers work.
    """
    absent: Absent = {}
    small = await asyncio.to_thread(write_context, scratch / "small.txt", _SMALL)
    done: list[ContextsOfSize] = []
    async with AsyncExitStack() as stack:
        ours = await _ours(stack, state, small, absent)
        plain, grep = floor(scratch), GrepFloor()
        others = [plain, *(await _others(scratch, progress, absent) if peers else [])]
        await plain.prepare()
        fixed: list[ContextSubject] = [*ours, Registration(scratch), grep]
        for size in sorted(sizes, key=lambda size: size.size_bytes):
            if shutil.disk_usage(scratch).free < _COPIES * size.size_bytes:
                absent[f"all, {size.title}"] = "there is no room for it on the disk: name another one with --scratch"
                continue
            asked = [one for one in others if not one.reason]
            done.append(await _measure_size(plan, size, [*fixed, *asked], small, scratch, progress))
            absent |= {f"{one.title}, from {size.title} on": one.reason for one in asked if one.reason}
    everybody: list[ContextSubject] = [*fixed, *others]
    return BoxTable(
        title="Contexts",
        about="One text as the context of a run, at several sizes.",
        plan=plan,
        rows=rows_of(done, {one.title: one.backend for one in ours}, lines=plain.title, search=grep.title),
        isolation={subject.title: subject.isolation for subject in everybody},
        absent=absent,
        notes=_NOTES,
    )


def rows_of(done: Sequence[ContextsOfSize], ours: Mapping[str, str], *, lines: str, search: str) -> list[Row]:
    """All rows: by measure, then by size, then in the order of the subjects.

    Args:
        ours: the backends of those that are ours, by title.
        lines: the title of who is the floor of lines; `search`, of a search.
    """
    rows = [row for one in done for row in _rows_of_size(one, ours, lines, search)]
    order = list(LABELS)
    return sorted(rows, key=lambda row: order.index(row.measure))


def _rows_of_size(one: ContextsOfSize, ours: Mapping[str, str], lines: str, search: str) -> list[Row]:
    rows: list[Row] = []
    for who, samples in one.samples.items():
        of_who = [*_timed(who, samples), *_speeds(one, who, samples)]
        if peaks := samples.get("context_memory"):
            of_who.append(_peak_row(who, peaks))
        if who in ours:
            of_who += _ratios(who, one, lines, search)
        rows += [_placed(row, one.size, ours.get(who)) for row in of_who]
    return rows


def _timed(who: str, samples: Samples) -> list[Row]:
    times = {name: samples[name] for name in ("context_start", "context_stall") if samples.get(name)}
    if samples.get("context_random"):
        times["context_random"] = [seconds / RANDOM_COUNT for seconds in samples["context_random"]]
    return timed_rows({who: times}, {})


def _speeds(one: ContextsOfSize, who: str, samples: Samples) -> list[Row]:
    return [
        speed_row(name, who, one.text.size_bytes, samples[name], None)
        for name, from_bytes in _SPEEDS.items()
        if samples.get(name) and one.size.size_bytes >= from_bytes
    ]


def _peak_row(who: str, peaks: Sequence[float]) -> Row:
    """The largest: the bound is one for every run."""
    sizes = [peak / 2**20 for peak in peaks]
    return Row("context_memory", who, "MiB", max(sizes), None, sizes)


def _ratios(who: str, one: ContextsOfSize, lines: str, search: str) -> list[Row]:
    """Of times where less is better, and of speeds where more is."""
    own, found = one.samples[who], []
    pairs = (
        ("context_start_ratio", own.get("context_start"), own.get(START_SMALL)),
        ("context_lines_ratio", one.samples.get(lines, {}).get("context_lines"), own.get("context_lines")),
        ("context_search_ratio", one.samples.get(search, {}).get("context_search"), own.get("context_search")),
    )
    for name, over, base in pairs:
        if not over or not base or one.size.size_bytes <= _SMALL.size_bytes:
            continue
        # A ratio of speeds over the same text is the inverse of that of the times.
        value = summarise(over).median / summarise(base).median
        found.append(Row(name, who, "x", value, None, []))
    return found


def _placed(row: Row, size: Size, backend: str | None) -> Row:
    """The row with its size, and with its goal if it has one there."""
    goal: Goal | None = None
    if row.measure in CONTEXT_GOALS and (backend is not None or row.measure == "context_register"):
        goal, from_bytes = CONTEXT_GOALS[row.measure]
        if size.size_bytes < from_bytes or (row.measure in _JAIL_ONLY and backend != "jail"):
            goal = None
    return dataclasses.replace(row, scale=size.title, goal=goal)


async def _ours(stack: AsyncExitStack, state: Path, small: ContextText, absent: Absent) -> list[Contexts]:
    found = []
    for backend, language in _OURS:
        if backend == "docker" and not os.environ.get("DOCKER_HOST"):
            absent["Belljar docker"] = "name a Docker daemon in DOCKER_HOST"
            continue
        runtime = Runtime(CONTEXT_POLICY, state=state, backend=backend, language=language)
        contexts = Contexts(await stack.enter_async_context(runtime))
        try:
            await contexts.prepare(small)
        except BelljarError as error:
            absent[contexts.title] = str(error)
            continue
        found.append(contexts)
    if not found:
        raise BenchmarkError(f"no box works here: {'; '.join(absent.values())}")
    return found


async def _others(scratch: Path, progress: Callable[[str], None], absent: Absent) -> list[ContextPeer]:
    found = []
    for distribution, (script, *arguments), name, isolation in _PEERS:
        try:
            python = await asyncio.to_thread(peer_python, distribution, progress)
            command = [str(python), "-I", str(_HERE / script), *arguments]
            peer = ContextPeer(name, command, scratch, isolation=isolation)
            await peer.prepare()
        except BenchmarkError as error:
            absent[name] = str(error)
            continue
        found.append(peer)
    return found


async def _measure_size(
    plan: ContextPlan,
    size: Size,
    subjects: Sequence[ContextSubject],
    small: ContextText,
    scratch: Path,
    progress: Callable[[str], None],
) -> ContextsOfSize:
    progress(f"contexts: writing {size.title}")
    path = scratch / f"{size.key}.txt"
    text = await asyncio.to_thread(write_context, path, size)
    try:
        samples = await measure(
            subjects,
            plan.rounds,
            lambda subject: subject.round_of_context(plan, text, small),
            progress,
            warm_up=lambda subject: subject.warm_up(text),
        )
    finally:
        path.unlink()
    return ContextsOfSize(size, text, samples)
