"""A limit as people write it: `50 USD/day`, `1000/month`, `1 GiB/total`, `unlimited/day`; of what is limited at
each moment `4/now`, or of the depth, which never was anything else, just `4`.

The command line and the configuration file share these words, and this module is all that knows them.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from belljar.errors import InvalidInput
from belljar.ledger import AT_ONCE, PERIODS, Period
from belljar.units import parse_memory_time, parse_milliseconds, parse_money, parse_size

__all__ = ["DIMENSION_OF", "PATTERN", "Bound", "parse_bound"]

# What each dimension that can be limited is called where people name it, in the order of the ledger.
DIMENSION_OF: Final = {
    "calls": "calls",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cost": "cost_nanousd",
    "read": "read_bytes",
    "calls_in_flight": "calls_in_flight",
    "cpu": "cpu_ms",
    "wall": "wall_ms",
    "memory_time": "memory_mib_s",
    "boxes": "boxes",
    "contexts": "context_bytes",
    "depth": "depth",
}

PATTERN: Final = rf"([0-9][0-9.]*|unlimited) ?([A-Za-z]*)(?:/({'|'.join(PERIODS)}|now))?"
_BOUND: Final = re.compile(PATTERN, re.ASCII)
_UNITS: Final = {"cost": "USD", "read": "GiB", "cpu": "h", "wall": "h", "memory_time": "GiBh", "contexts": "GiB"}
_SHOWN_CHARS_MAX: Final = 60


class Bound(NamedTuple):
    """The most that may be used and held of one dimension of the ledger in one period; None is unlimited.

    What is limited at each moment is under `total`, where the ledger keeps it.
    """

    period: Period
    dimension: str
    bound: int | None


def parse_bound(word: str, text: str) -> Bound:
    """`("cost", "50 USD/day")` -> `Bound("day", "cost_nanousd", 50 * 10**9)`; the space may be missing.

    Raises:
        InvalidInput: `limit.invalid`: it is no limit of this dimension.
    """
    dimension = DIMENSION_OF[word]
    match = _BOUND.fullmatch(text)
    when = None if match is None else match[3] or ("now" if word == "depth" else None)
    if match is not None and when is not None and (when == "now") == (dimension in AT_ONCE):
        period = "total" if when == "now" else when
        try:
            return Bound(period, dimension, _number(word, match[1], match[2]))  # type: ignore[arg-type]
        except (InvalidInput, ValueError):
            pass  # said below, with an example of this dimension
    example = f"10{_UNITS.get(word, '')}/day, per {', '.join(PERIODS[:-1])} or {PERIODS[-1]}, or unlimited/day"
    if dimension in AT_ONCE:
        example = f"10{_UNITS.get(word, '')}/now, or unlimited/now"
    if word == "depth":
        example = "2, or unlimited"
    raise InvalidInput(
        f"{text[:_SHOWN_CHARS_MAX]!a} is not a limit; use one such as {example}",
        code="limit.invalid",
    )


def _number(word: str, number: str, unit: str) -> int | None:
    if number == "unlimited" and not unit:
        return None
    if word == "cost":
        return parse_money(f"{number} {unit}")
    if word in ("read", "contexts"):
        return parse_size(f"{number} {unit}")
    if word in ("cpu", "wall"):
        return parse_milliseconds(f"{number} {unit}")
    if word == "memory_time":
        return parse_memory_time(f"{number} {unit}")
    if unit or not number.isdecimal():
        raise ValueError("a count has neither a unit nor a fraction")
    return int(number)
