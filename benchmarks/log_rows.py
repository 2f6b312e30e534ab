"""The table of the log: what is measured, and which goals it has. No clock, no process."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.rows import Goal, Row, Unit
from benchmarks.stats import summarise

__all__ = ["LOG_GOALS", "LogPlan", "LogTable", "cost_row", "log_row", "share_row"]

_RUNS_MAX: Final = 1000
_RUN_RECORDS: Final = 20
# Of the whole demo, and of the large log.
_TOKENS: Final = 2**20
_RECORDS: Final = 1_000_000
_GOALS: Final[Mapping[str, Goal]] = {
    "log_append": Goal(0.4),
    "log_rate": Goal(15_000, at_least=True),
}
_GOALS_OF_THE_DEMO: Final[Mapping[str, Goal]] = {
    "log_demo_cost": Goal(10),
    "log_demo_run_cost": Goal(10),
    "log_size_action": Goal(400),
    "log_size_ratio": Goal(1.2),
    "log_page_size": Goal(3),
    "log_page_open": Goal(1000),
}
_GOALS_OF_MANY_RECORDS: Final[Mapping[str, Goal]] = {
    "log_verify": Goal(12_000),
    "log_verify_memory": Goal(200),
    "log_show": Goal(300),
}
LOG_GOALS: Final[Mapping[str, Goal]] = {**_GOALS, **_GOALS_OF_THE_DEMO, **_GOALS_OF_MANY_RECORDS}


@dataclass(frozen=True)
class LogPlan:
    """In each of `rounds`, writers write for so many `seconds`, the demo goes through so many `tokens`, and a log of so
    many `records` is read.
    """

    rounds: int
    seconds: float
    tokens: int
    records: int

    @property
    def runs(self) -> int:
        """In the log that is read."""
        return max(1, min(_RUNS_MAX, self.records // _RUN_RECORDS))

    @property
    def goals(self) -> dict[str, Goal]:
        """By measure. A smaller demo, or a smaller log, has no goal where its size counts."""
        demo = _GOALS_OF_THE_DEMO if self.tokens >= _TOKENS else {}
        records = _GOALS_OF_MANY_RECORDS if self.records >= _RECORDS else {}
        return {**_GOALS, **demo, **records}


@dataclass(frozen=True)
class LogTable:
    """`absent`: what is not here and why. `notes` are Markdown, a paragraph each."""

    plan: LogPlan
    rows: Sequence[Row]
    absent: Mapping[str, str]
    notes: Sequence[str]


def log_row(measure: str, who: str, unit: Unit, samples: Sequence[float], goal: Goal | None = None) -> Row:
    """A row of samples in its own unit. The high percentile of a size or a rate says nothing."""
    return Row(measure, who, unit, statistics.median(samples), None, list(samples), goal)


def cost_row(measure: str, who: str, dear: Sequence[float], cheap: Sequence[float], goal: Goal | None) -> Row:
    """What the median of the one is above that of the other, in percent."""
    return Row(measure, who, "%", 100 * (summarise(dear).median / summarise(cheap).median - 1), None, [], goal)


def share_row(measure: str, who: str, part: float, whole: float, goal: Goal | None) -> Row:
    return Row(measure, who, "x", part / whole, None, [], goal)
