"""How a subject is timed. A subject opens boxes, and a box runs cells; the rest is the same for all.

All subjects take part in every round, and each round begins with another one, so that a slow minute of the machine
falls on all of them and not always on the same. The first round warms caches and is thrown away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from benchmarks.context_texts import ContextText
from benchmarks.programs import EMPTY, FIRST, LINES, SLICES, Text
from benchmarks.programs import queries as asking

__all__ = [
    "QUIET_S",
    "BenchmarkError",
    "Box",
    "BoxPlan",
    "BoxSubject",
    "Cell",
    "ContextPlan",
    "ContextSubject",
    "Plan",
    "Samples",
    "Subject",
    "after_quiet",
    "check_total",
    "measure",
    "measure_sandbox",
    "measure_small",
    "times_printed",
]

# Measure -> seconds, one for each repetition.
Samples = dict[str, list[float]]


# Some things, joining a control group among them, the kernel does cheaply for the second of two callers in a row and at
# full price for one who comes alone. After a tenth of a second, one is alone.
QUIET_S: Final = 0.1


class BenchmarkError(Exception):
    """A subject did not do what it was asked to, so that its time would mean nothing."""


@dataclass(frozen=True)
class Plan:
    """`rounds` of everything, in each of which a box runs `cells` empty cells and asks `queries` times."""

    rounds: int
    cells: int
    queries: int


@dataclass(frozen=True)
class BoxPlan:
    """For the table of boxes.

    In each of `rounds` a subject starts `starts` boxes of each kind one right after another, and `quiet` ones each
    after a pause; it runs `cells` empty cells and asks `queries` times. After that, boxes are started for `sustained_s`
    seconds, and `idle_boxes` of them are weighed.
    """

    rounds: int
    starts: int
    quiet: int
    cells: int
    queries: int
    sustained_s: float
    idle_boxes: int


@dataclass(frozen=True)
class ContextPlan:
    """For the table of contexts: in each of `rounds` a subject starts `starts` times, and reads all in every way once.

    A subject that is no box of ours starts once.
    """

    rounds: int
    starts: int


@dataclass(frozen=True)
class Cell:
    """One cell that went well: how long the caller waited, in seconds, and what it printed."""

    seconds: float
    stdout: str


class Box(Protocol):
    """`open_s` is how long the caller waited for it, in seconds."""

    @property
    def open_s(self) -> float: ...

    async def execute(self, code: str) -> Cell:
        """Raises:
        BenchmarkError: the cell did not end well.
        """
        ...


class Sandbox(Protocol):
    """Something that runs guest code."""

    def open(self, context: Path | None) -> AbstractAsyncContextManager[Box]: ...


class Titled(Protocol):
    @property
    def title(self) -> str: ...


class Subject(Titled, Protocol):
    """A column of the table of sessions."""

    async def round(self, plan: Plan, text: Text) -> Samples: ...


class BoxSubject(Titled, Protocol):
    """Somebody in the table of boxes. `isolation` says what stands between guest code and the host."""

    @property
    def isolation(self) -> str: ...

    async def round_of_boxes(self, plan: BoxPlan) -> Samples: ...


class ContextSubject(Titled, Protocol):
    """Somebody in the table of contexts. `small` is the smallest text, for what is compared with it."""

    @property
    def isolation(self) -> str: ...

    async def warm_up(self, text: ContextText) -> Samples: ...

    async def round_of_context(self, plan: ContextPlan, text: ContextText, small: ContextText) -> Samples: ...


_Subject = TypeVar("_Subject", bound=Titled)


async def measure(
    subjects: Sequence[_Subject],
    rounds: int,
    one_round: Callable[[_Subject], Awaitable[Samples]],
    progress: Callable[[str], None],
    warm_up: Callable[[_Subject], Awaitable[Samples]] | None = None,
) -> dict[str, Samples]:
    """All rounds of all subjects: samples by the subject's title. `warm_up`: what the first one is instead."""
    samples: dict[str, Samples] = {subject.title: {} for subject in subjects}
    for number in range(rounds + 1):
        progress(f"round {number} of {rounds}" if number else "warming up")
        turn = number % len(subjects)
        for subject in [*subjects[turn:], *subjects[:turn]]:
            one = await (one_round if number or warm_up is None else warm_up)(subject)
            for name, seconds in one.items() if number else ():
                samples[subject.title].setdefault(name, []).extend(seconds)
    return samples


async def after_quiet(count: int, once: Callable[[], Awaitable[float]]) -> list[float]:
    """`once` so many times, each after a pause."""
    seconds = []
    for _ in range(count):
        await asyncio.sleep(QUIET_S)
        seconds.append(await once())
    return seconds


async def measure_sandbox(sandbox: Sandbox, plan: Plan, text: Text) -> Samples:
    """One round of something that runs guest code: three boxes, since nobody shall read from another's cache."""
    samples = await measure_small(sandbox, cells=plan.cells, queries=plan.queries)
    slices = await _read(sandbox, text, SLICES, text.chars)
    lines = await _read(sandbox, text, LINES, text.line_chars)
    return {
        **samples,
        "start_text": [slices[0], lines[0]],
        "slices": [slices[1]],
        "lines": [lines[1]],
    }


def check_total(what: str, said: str, expected: int) -> None:
    """Raises:
    BenchmarkError: not all of the text was read.
    """
    if said.strip() != str(expected):
        raise BenchmarkError(f"{what} counted {said.strip()[:100]!r} characters, not {expected}")


async def measure_small(sandbox: Sandbox, *, cells: int, queries: int) -> Samples:
    """One box: its start, its first result, and then so many empty cells and queries."""
    async with sandbox.open(None) as box:
        first = await box.execute(FIRST)
        check_total("the first cell", first.stdout, 42)
        empty = [(await box.execute(EMPTY)).seconds for _ in range(cells)]
        asked = await box.execute(asking(queries))
    return {
        "start": [box.open_s],
        "first": [box.open_s + first.seconds],
        "cell": empty,
        "query": times_printed(asked.stdout, queries),
    }


def times_printed(said: str, queries: int) -> list[float]:
    """What a program of `programs.queries` printed, in seconds.

    Raises:
        BenchmarkError: it printed something else.
    """
    taken = [float(line) for line in said.split()]
    if len(taken) != queries:
        raise BenchmarkError(f"{queries} queries were asked for and {len(taken)} reported")
    return taken


async def _read(sandbox: Sandbox, text: Text, code: str, expected: int) -> tuple[float, float]:
    async with sandbox.open(text.path) as box:
        cell = await box.execute(code)
    check_total("a read", cell.stdout, expected)
    return box.open_s, cell.seconds
