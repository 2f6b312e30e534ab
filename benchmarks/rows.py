"""The rows of the tables of boxes: what was measured, who it was, and whether a goal is met. No clock, no process.

A goal is judged on the row's own `value`: the median, for memory the mean. A goal is ours; a peer has none.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from benchmarks.measure import QUIET_S, Samples
from benchmarks.stats import summarise

__all__ = [
    "CONTAINER_GOALS",
    "CONTEXT_GOALS",
    "GOALS",
    "LABELS",
    "Goal",
    "Row",
    "Unit",
    "memory_row",
    "rate_row",
    "ratio_row",
    "speed_row",
    "timed_rows",
]

Unit = Literal["ms", "x", "%", "boxes/s", "records/s", "bytes", "MB", "MiB", "MB/s"]

LABELS: Final[dict[str, str]] = {
    "cold": "request to first result, fresh boxes one after another",
    "answered": "the same, child not yet reaped",
    "ratio": "the same, times the floor",
    "ratio_answered": "the same, times the floor before it reaps",
    "quiet": f"request to first result, fresh box after {QUIET_S:g} s of quiet",
    "ratio_quiet": "the same, times the floor after quiet",
    "whole": "request to the end, container removed",
    "ratio_print": "fresh box, times `docker run` by hand",
    "ratio_imports": "fresh box, times `docker run` by hand that imports what a box does",
    "pooled": "request to first result, box made ahead",
    "cell": "one empty cell",
    "query": "one `llm_query`, nothing on the disk",
    "query_durable": "one `llm_query`, log and ledger on the disk",
    "rate_2": "fresh boxes, two at a time",
    "rate_4": "fresh boxes, four at a time",
    "memory": "memory of an idle box (PSS, mean)",
    "memory_zygote": "memory of the zygote (PSS), once",
    "close": "teardown: `Box.close`",
    "removed": "teardown: until the container is gone",
    "start_small": "context of 1 KB: request to first result",
    "start_large": "context of 50 MB: request to first result",
    "ratio_context": "start with 50 MB, times start with 1 KB",
    "cell_large": "context of 50 MB: one empty cell",
    "read": "context of 50 MB: all of it read inside, 1 MiB slices",
    "service_ready": "from the command to listening",
    "service_memory": "memory of the idle process (RSS)",
    "service_run": "one run, from the order to its result",
    "service_overhead": "one run, above that of the Python API (medians)",
    "service_admitted": "from the order to its answer, 99th percentile",
    "service_heard": "until all have the result",
    "context_start": "request to first result",
    "context_start_ratio": "the same, times that of 1 KB",
    "context_memory": "peak memory above an empty box (largest of all rounds)",
    "context_lines": "all of it by line",
    "context_lines_ratio": "the same, times plain `for line in open(...)`",
    "context_slices": "all of it in slices of 1 MiB",
    "context_random": "one of 10,000 random slices of 200 characters",
    "context_search": "search for a rare literal",
    "context_search_ratio": "the same, times `grep -c`",
    "context_register": "registration",
    "context_stall": "what a count over all of it by another run adds to a read of 200 characters, 99th percentile",
    "log_append": "one durable record, a single writer",
    "log_rate": "durable records, many writers",
    "log_demo": "the demo: the whole command",
    "log_demo_cost": "the whole command, above that with metadata",
    "log_demo_run": "the demo: the run alone",
    "log_demo_run_cost": "the run alone, above that with metadata",
    "log_size_action": "growth of the file, for each model call",
    "log_size_record": "growth of the file, for each record",
    "log_size_file": "growth of the file by one demo, and what was said in it",
    "log_size_ratio": "growth of the file by one demo, times the contents compressed",
    "log_verify": "all of the log verified",
    "log_verify_memory": "all of the log verified, most memory (RSS)",
    "log_show": "one run of many shown",
    "log_page_size": "the page of the demo",
    "log_page_open": "the page of the demo: until it is interactive",
}


@dataclass(frozen=True)
class Goal:
    """A bound in the row's unit: at most, or at least."""

    bound: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


GOALS: Final[dict[str, Goal]] = {
    "cold": Goal(3),
    "ratio": Goal(1.6),
    "quiet": Goal(3),
    "ratio_quiet": Goal(1.6),
    "pooled": Goal(0.5),
    "cell": Goal(0.1),
    "query": Goal(0.1),
    "query_durable": Goal(0.5),
    "rate_2": Goal(500, at_least=True),
    "rate_4": Goal(500, at_least=True),
    "memory": Goal(2),
    "close": Goal(5),
}


# By backend. There is no bound on what happens behind the caller's back.
CONTAINER_GOALS: Final[dict[str, dict[str, Goal]]] = {
    "docker": {
        "ratio_print": Goal(1.15),
        "pooled": Goal(2),
        "query": Goal(0.3),
        "ratio_context": Goal(1.1),
        "read": Goal(200, at_least=True),
    },
    "gvisor": {
        "ratio_print": Goal(1.15),
        "pooled": Goal(4),
        "query": Goal(0.6),
        "ratio_context": Goal(1.1),
    },
}


# By measure: the goal, and from which size in bytes on it is one. A program over a kilobyte takes as long as an empty
# one, and whoever goes over a megabyte is done before anybody has to wait.
CONTEXT_GOALS: Final[dict[str, tuple[Goal, int]]] = {
    "context_start_ratio": (Goal(1.1), 0),
    "context_memory": (Goal(64), 0),
    "context_lines_ratio": (Goal(0.3, at_least=True), 1_000_000),
    "context_slices": (Goal(800, at_least=True), 1_000_000),
    "context_random": (Goal(0.15), 0),
    "context_search_ratio": (Goal(0.7, at_least=True), 1_000_000_000),
    "context_register": (Goal(300, at_least=True), 50_000_000),
    "context_stall": (Goal(50), 1_000_000_000),
}


@dataclass(frozen=True)
class Row:
    """`value`, `p90` and `samples` are in `unit`. `p90` is None where it would say nothing.

    `scale` says how large the thing was, where one measure is taken at several sizes.
    """

    measure: str
    who: str
    unit: Unit
    value: float
    p90: float | None
    samples: Sequence[float] = field(repr=False)
    goal: Goal | None = None
    scale: str = ""

    @property
    def label(self) -> str:
        return f"{self.scale}: {LABELS[self.measure]}" if self.scale else LABELS[self.measure]

    @property
    def met(self) -> bool | None:
        """None without a goal."""
        return None if self.goal is None else self.goal.met(self.value)


def timed_rows(samples: Mapping[str, Samples], goals: Mapping[str, Mapping[str, Goal]]) -> list[Row]:
    """Samples in seconds, by who and measure, as rows in milliseconds: by measure, then in the order given.

    Args:
        goals: by who, and by measure. A peer has none.
    """
    return [
        _timed(measure, who, of_subject[measure], goals.get(who, {}).get(measure))
        for measure in LABELS
        for who, of_subject in samples.items()
        if of_subject.get(measure)
    ]


def _timed(measure: str, who: str, seconds: Sequence[float], goal: Goal | None) -> Row:
    summary = summarise(seconds)
    return Row(measure, who, "ms", summary.median * 1000, summary.p90 * 1000, [value * 1000 for value in seconds], goal)


def ratio_row(measure: str, row: Row, floor: Row, goal: Goal | None) -> Row:
    """Of two medians of one run."""
    return Row(measure, row.who, "x", row.value / floor.value, None, [], goal)


def speed_row(measure: str, who: str, size_bytes: int, seconds: Sequence[float], goal: Goal | None) -> Row:
    """The speed of the median time. Its high percentile would be a good one, so there is none."""
    speeds = [size_bytes / 1e6 / value for value in seconds]
    return Row(measure, who, "MB/s", statistics.median(speeds), None, speeds, goal)


def rate_row(measure: str, who: str, per_second: float) -> Row:
    return Row(measure, who, "boxes/s", per_second, None, [per_second], GOALS[measure])


def memory_row(measure: str, who: str, sizes_bytes: Sequence[int]) -> Row:
    """The mean, since what counts is the sum."""
    sizes = [size / 2**20 for size in sizes_bytes]
    p90 = summarise(sizes).p90 if len(sizes) > 1 else None
    return Row(measure, who, "MiB", statistics.fmean(sizes), p90, sizes, GOALS.get(measure))
