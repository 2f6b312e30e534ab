"""Sizes, durations and money: the text people write, the integers the program keeps.

A number without its unit is the oldest way to be wrong by a factor of a thousand, so every text form here has a unit,
and each has one spelling: `"256 MiB"`, `"250 ms"`, `"0.50 USD"`. Fractions are only for money; the others have a
smaller unit instead. Formatting picks the largest unit that loses nothing, so that parsing gives back the same value.
"""

from __future__ import annotations

import re
from typing import Final

from belljar.errors import InvalidInput
from belljar.glyphs import glyphs

__all__ = [
    "NANOUSD_PER_USD",
    "format_duration",
    "format_memory_time",
    "format_milliseconds",
    "format_money",
    "format_size",
    "parse_duration",
    "parse_memory_time",
    "parse_milliseconds",
    "parse_money",
    "parse_size",
]

NANOUSD_PER_USD: Final = 10**9

# Largest first: formatting takes the first that divides.
_SIZE_UNITS: Final = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
_DURATION_UNITS_MS: Final = {"h": 3_600_000, "min": 60_000, "s": 1000, "ms": 1}
# Memory times time, in MiB-seconds.
_MEMORY_UNITS: Final = {"GiBh": 1024 * 3600, "GiBs": 1024, "MiBs": 1}

# 15 digits: a million gigabytes in bytes, thirty thousand years in milliseconds; both exact as a float too.
_QUANTITY: Final = re.compile(r"([0-9]{1,15}) ([A-Za-z]{1,4})", re.ASCII)
_MONEY: Final = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,9}))? USD", re.ASCII)
_SHOWN_MAX: Final = 40


def parse_size(text: str) -> int:
    """`"256 MiB"` -> 268435456 bytes.

    Raises:
        InvalidInput: anything but a whole number, one space and one of B, KiB, MiB, GiB.
    """
    return _whole(text, _SIZE_UNITS, "size", "256 MiB")


def parse_duration(text: str) -> float:
    """`"250 ms"` -> 0.25 seconds.

    Raises:
        InvalidInput: anything but a whole number, one space and one of ms, s, min, h.
    """
    return parse_milliseconds(text) / 1000


def parse_milliseconds(text: str) -> int:
    """`"2 h"` -> 7200000 milliseconds: as `parse_duration`, which raises the same, but exact however long it is."""
    return _whole(text, _DURATION_UNITS_MS, "duration", "60 s")


def parse_memory_time(text: str) -> int:
    """`"2 GiBh"` -> 7372800 MiB-seconds.

    Raises:
        InvalidInput: anything but a whole number, one space and one of MiBs, GiBs, GiBh.
    """
    return _whole(text, _MEMORY_UNITS, "memory_time", "500 GiBh")


def parse_money(text: str) -> int:
    """`"0.50 USD"` -> 500000000 nano-dollars.

    Raises:
        InvalidInput: anything but an amount in USD with at most nine decimals.
    """
    match = _MONEY.fullmatch(text)
    if match is None:
        raise InvalidInput(
            f'{_shown(text)} is not a valid amount of money; use one such as "0.50 USD"', code="units.money"
        )
    dollars, decimals = match.groups(default="")
    return int(dollars) * NANOUSD_PER_USD + int(decimals.ljust(9, "0"))


def format_size(size_bytes: int) -> str:
    """268435456 bytes -> `"256 MiB"`; the inverse of `parse_size`.

    Raises:
        InvalidInput: negative.
    """
    return _largest_exact(size_bytes, _SIZE_UNITS, "B")


def format_duration(duration_s: float) -> str:
    """0.25 seconds -> `"250 ms"`; the inverse of `parse_duration`.

    Raises:
        InvalidInput: negative, not finite, or finer than a millisecond.
    """
    if not 0 <= duration_s < 10**12 or (duration_ms := round(duration_s * 1000)) / 1000 != duration_s:
        raise InvalidInput(f"{duration_s!r} s is not a whole number of milliseconds; round it", code="units.duration")
    return format_milliseconds(duration_ms)


def format_milliseconds(duration_ms: int) -> str:
    """7200000 milliseconds -> `"2 h"`; the inverse of `parse_milliseconds`, for as much as a ledger can have.

    Raises:
        InvalidInput: negative.
    """
    return _largest_exact(duration_ms, _DURATION_UNITS_MS, "s")


def format_memory_time(amount_mib_s: int) -> str:
    """7372800 MiB-seconds -> `"2 GiBh"`; the inverse of `parse_memory_time`.

    Raises:
        InvalidInput: negative.
    """
    return _largest_exact(amount_mib_s, _MEMORY_UNITS, "MiBs")


def format_money(amount_nanousd: int) -> str:
    """500000000 nano-dollars -> `"0.50 USD"`; the inverse of `parse_money`. At least two decimals, as prices have.

    Raises:
        InvalidInput: negative.
    """
    if amount_nanousd < 0:
        raise InvalidInput(f"{amount_nanousd} nano-dollars is negative; amounts start at 0", code="units.money")
    dollars, rest = divmod(amount_nanousd, NANOUSD_PER_USD)
    decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{dollars}.{decimals} USD"


def _whole(text: str, units: dict[str, int], noun: str, example: str) -> int:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in units:
        names = ", ".join(reversed(units))
        message = (
            f'{_shown(text)} is not a valid {noun}; use a whole number, a space and one of {names}, such as "{example}"'
        )
        raise InvalidInput(message, code=f"units.{noun}")
    return int(match[1]) * units[match[2]]


def _largest_exact(amount: int, units: dict[str, int], zero_unit: str) -> str:
    if amount < 0:
        raise InvalidInput(f"{amount} is negative; amounts start at 0", code="units.negative")
    if amount == 0:
        return f"0 {zero_unit}"
    unit = next(name for name, factor in units.items() if amount % factor == 0)
    return f"{amount // units[unit]} {unit}"


def _shown(text: str) -> str:
    """`text` quoted on one line, whatever it contains."""
    cut = text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "..."
    return f'"{glyphs(cut)}"'
