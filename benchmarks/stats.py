"""Median and 90th percentile, and how they are shown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Summary", "milliseconds", "percentile", "summarise"]


@dataclass(frozen=True)
class Summary:
    """`n` repetitions; `median` and `p90` in the samples' own unit."""

    n: int
    median: float
    p90: float


def summarise(samples: Sequence[float]) -> Summary:
    """`p90` is the nearest rank: the smallest sample that at least 90 % do not exceed. Always one that was measured.

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("there is nothing to summarise")
    return Summary(len(samples), statistics.median(samples), percentile(samples, 90))


def percentile(samples: Sequence[float], percent: int) -> float:
    """The smallest sample that at least so many per cent of all do not exceed.

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("there is nothing to summarise")
    return sorted(samples)[math.ceil(len(samples) * percent / 100) - 1]


def milliseconds(seconds: float) -> str:
    """Three significant digits, never an exponent; whole milliseconds stay whole: `0.0123`, `4.50`, `1234`."""
    value = seconds * 1000
    if value <= 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:.{decimals}f}"
