"""The rows of the table of quotas, and whether they meet their goals. No clock, no process."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.measure import Samples
from benchmarks.rows import Goal
from benchmarks.stats import percentile

__all__ = [
    "APART",
    "GROWTH_GOAL",
    "MANY",
    "ONE",
    "SHAPES",
    "Growth",
    "Overshoot",
    "QuotaRow",
    "Shape",
    "quota_goals",
    "quota_row",
]


@dataclass(frozen=True)
class Shape:
    """Who calls at the same time: so many processes, with so many callers in each."""

    title: str
    processes: int
    callers: int


ONE: Final = Shape("1 caller", 1, 1)
MANY: Final = Shape("16 callers in a process", 1, 16)
APART: Final = Shape("4 processes with 4 callers", 4, 4)
SHAPES: Final = (ONE, MANY, APART)

# Name of a column -> goal. Milliseconds, and actions a second; by store, and by who calls.
_GOALS: Final[dict[tuple[str, Shape], dict[str, Goal]]] = {
    ("SQLite", ONE): {"p50": Goal(0.6)},
    ("SQLite", MANY): {"p99": Goal(100), "a second": Goal(2000, at_least=True)},
    ("PostgreSQL", ONE): {"p50": Goal(2)},
    ("PostgreSQL", MANY): {"p99": Goal(100), "a second": Goal(1500, at_least=True)},
}
GROWTH_GOAL: Final = Goal(1.2)


@dataclass(frozen=True)
class QuotaRow:
    """`taken_us` has an action each, in microseconds. `cpu_us` is what the calling process used for one."""

    who: str
    shape: Shape
    taken_us: Sequence[float] = field(repr=False)
    per_second: float
    cpu_us: float
    goals: Mapping[str, Goal] = field(default_factory=dict)

    @property
    def p50_ms(self) -> float:
        return statistics.median(self.taken_us) / 1000

    @property
    def p99_ms(self) -> float:
        return percentile(self.taken_us, 99) / 1000

    @property
    def verdicts(self) -> dict[str, bool]:
        """Whether each goal is met, by the words of the goal."""
        have = {"p50": self.p50_ms, "p99": self.p99_ms, "a second": self.per_second}
        return {f"{name} {goal}": goal.met(have[name]) for name, goal in self.goals.items()}


@dataclass(frozen=True)
class Overshoot:
    """So many callers spent until each of them was refused."""

    who: str
    shape: Shape
    limit: int
    spent: int

    @property
    def over(self) -> int:
        return self.spent - self.limit


@dataclass(frozen=True)
class Growth:
    """A store with so many records, and a tenth as many reservations, beside one that was new."""

    records: int
    full: QuotaRow
    new: QuotaRow

    @property
    def ratio(self) -> float:
        return self.full.p50_ms / self.new.p50_ms

    @property
    def met(self) -> bool:
        return GROWTH_GOAL.met(self.ratio)


def quota_goals(store: str, shape: Shape) -> Mapping[str, Goal]:
    """What we set ourselves for whole actions in one journal in this store."""
    return _GOALS.get((store, shape), {})


def quota_row(who: str, shape: Shape, samples: Samples, goals: Mapping[str, Goal]) -> QuotaRow:
    """A row of what `quota_table` measured: the median of the rates, the mean of the CPU time."""
    rates, cpu = samples[f"{shape.title} rate"], samples[f"{shape.title} cpu"]
    return QuotaRow(who, shape, samples[shape.title], statistics.median(rates), statistics.fmean(cpu), goals)
