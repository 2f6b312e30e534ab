"""What a ledger promises, and the values that it speaks in.

A *reservation* is taken before money can be spent and ends exactly once::

    reserve ──> held ──dispatch──> dispatched ──settle──> settled      the actual use is charged
                  │                     │
                  └──────release────────┴───release──> released     nothing is charged

    the owner dies:   held -> released (nothing left the host)   dispatched -> settled in full (it may have been billed)

Each level of a tenant's path has an *account*, and so has the run itself: a reservation for a run of
`acme/research/alice` counts on `acme`, `acme/research`, `acme/research/alice` and `run:<run>`. On each, in every
dimension and period that has a limit, `used + held + asked <= limit` is checked and `held` raised in one transaction,
so no interleaving can overspend. Only `settle` can exceed a limit, if a call cost more than was held for it: then
nothing more is admitted.

Money is whole nano-dollars, and the ledger has no floats. Time comes in as `now`, seconds since the epoch; it chooses
the day and month (UTC) that a reservation belongs to until it ends, whatever the clock says by then.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec

from belljar.errors import InvalidInput, LedgerUnavailable
from belljar.identity import RunId
from belljar.journal.tables import DIMENSIONS

__all__ = [
    "AMOUNT_MAX",
    "NOTHING",
    "USED_UP",
    "Abandoned",
    "Amounts",
    "Balance",
    "Limits",
    "Period",
    "Remaining",
    "Room",
    "check_amounts",
    "check_limits",
    "period_key",
    "run_account",
]

Period = Literal["day", "month", "total"]

AMOUNT_MAX = 10**15  # a million dollars, a petabyte in one reservation; sums of them stay far inside 64 bits
_LIMIT_MAX = 10**18
# All that a program is told about the levels above its run's tenant.
USED_UP = "the quota of the run's tenant is used up: keep what you have, and ask whoever started the run for more"


class Amounts(msgspec.Struct, frozen=True):
    """What is asked for or was spent: counts, tokens, nano-dollars, bytes. Whole numbers, never negative."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nanousd: int = 0
    read_bytes: int = 0


NOTHING = Amounts()


class Limits(msgspec.Struct, frozen=True):
    """The most that may be used and held in one `period`. None means unlimited, and must be given."""

    period: Period
    calls: int | None
    input_tokens: int | None
    output_tokens: int | None
    cost_nanousd: int | None
    read_bytes: int | None


class Remaining(msgspec.Struct, frozen=True):
    """What the tightest level leaves in each dimension; None where no level sets a limit."""

    calls: int | None
    input_tokens: int | None
    output_tokens: int | None
    cost_nanousd: int | None
    read_bytes: int | None


class Room(msgspec.Struct, frozen=True):
    """What a run has left if its own calls under way cost nothing (`alone`), and if nobody's cost anything (`empty`).

    Usage only grows: what does not fit into `empty` never will, and what fits is worth waiting for.
    """

    alone: Remaining
    empty: Remaining


class Balance(msgspec.Struct, frozen=True):
    """One account in one period: what was charged, and what open reservations hold."""

    used: Amounts
    held: Amounts


class Abandoned(msgspec.Struct, frozen=True):
    """A run whose owner is dead. `charged` is what closing it charges for what was dispatched, `used` the total."""

    run: RunId
    charged: Amounts
    used: Amounts


def run_account(run: RunId) -> str:
    """The account of a run. The colon keeps it apart from every tenant."""
    return f"run:{run}"


def check_amounts(amounts: Amounts) -> None:
    """Refuse what is negative, beyond `AMOUNT_MAX`, or not a whole number."""
    for dimension in DIMENSIONS:
        value = getattr(amounts, dimension)
        if type(value) is not int or not 0 <= value <= AMOUNT_MAX:
            raise InvalidInput(
                f"{dimension} {value!a} is not a valid amount: use a whole number from 0 to {AMOUNT_MAX}",
                code="amount.invalid",
            )


def check_limits(limits: Limits) -> None:
    for dimension in DIMENSIONS:
        value = getattr(limits, dimension)
        if value is not None and (type(value) is not int or not 0 <= value <= _LIMIT_MAX):
            raise InvalidInput(
                f"{dimension} {value!a} is not a valid limit: use a whole number from 0 to {_LIMIT_MAX}, or None for "
                "unlimited",
                code="limit.invalid",
            )
    if limits.period not in ("day", "month", "total"):
        raise InvalidInput(f"{limits.period!a} is not a valid period: use day, month or total", code="limit.invalid")


def period_key(period: Period, now: float) -> str:
    """`2026-11-23`, `2026-11` or `total`: where `now` (seconds since the epoch) falls, in UTC."""
    match period:
        case "day":
            return _day(now)
        case "month":
            return _day(now)[:7]
        case "total":
            return "total"


def _day(now: float) -> str:
    try:
        return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        raise LedgerUnavailable(f"the clock says {now!r}, which is not a valid date: set the clock") from None
