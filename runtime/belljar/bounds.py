"""A limit as people write it: `50 USD/day`, `1000/month`, `1 GiB/total`, `unlimited/day`.

The command line and the configuration file share these words, and this module is all that knows them.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from belljar.errors import InvalidInput
from belljar.ledger import PERIODS, Period
from belljar.units import parse_money, parse_size

__all__ = ["DIMENSION_OF", "PATTERN", "Bound", "parse_bound"]

# What each dimension of the ledger is called where people name it, in the order of the ledger.
DIMENSION_OF: Final = {
    "calls": "calls",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cost": "cost_nanousd",
    "read": "read_bytes",
}

PATTERN: Final = rf"([0-9][0-9.]*|unlimited) ?([A-Za-z]*)/({'|'.join(PERIODS)})"
_BOUND: Final = re.compile(PATTERN, re.ASCII)
_UNITS: Final = {"cost": "USD", "read": "GiB"}
_SHOWN_CHARS_MAX: Final = 60


class Bound(NamedTuple):
    """The most that may be used and held of one dimension of the ledger in one period; None is unlimited."""

    period: Period
    dimension: str
    bound: int | None


def parse_bound(word: str, text: str) -> Bound:
    """`("cost", "50 USD/day")` -> `Bound("day", "cost_nanousd", 50 * 10**9)`; the space may be missing.

    Raises:
        InvalidInput: `limit.invalid`: it is no limit of this dimension.
    """
    match = _BOUND.fullmatch(text)
    if match is not None:
        try:
            return Bound(match[3], DIMENSION_OF[word], _number(word, match[1], match[2]))  # type: ignore[arg-type]
        except (InvalidInput, ValueError):
            pass  # said below, with an example of this dimension
    raise InvalidInput(
        f"{text[:_SHOWN_CHARS_MAX]!a} is not a limit; use one such as 10{_UNITS.get(word, '')}/day, per "
        f"{', '.join(PERIODS[:-1])} or {PERIODS[-1]}, or unlimited/day",
        code="limit.invalid",
    )


def _number(word: str, number: str, unit: str) -> int | None:
    if number == "unlimited" and not unit:
        return None
    if word == "cost":
        return parse_money(f"{number} {unit}")
    if word == "read":
        return parse_size(f"{number} {unit}")
    if unit or not number.isdecimal():
        raise ValueError("a count has neither a unit nor a fraction")
    return int(number)
