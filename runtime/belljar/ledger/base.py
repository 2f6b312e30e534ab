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

A run that another run starts, its child, has its limits as a *slice* of what its parent has left. They are held on the
account `run:<parent>` from its opening to its closing, when they give way to what it really used. So a run and all runs
below it never use more than the run may, and a child never more than its slice; tenants see each call once. A run ends
after all that are below it: closing it closes them first.

Two dimensions are *gauges*: boxes, and calls under way. They are held like the others, but an end charges nothing of
them, so their limits bound how many there are at once.

What a tenant's stored contexts take up (`context_bytes`) is not counted here, but by the stores that have them: the
ledger keeps its limit, beside the others, and nothing else. How deep a run is (`depth`) needs no counting, since its id
says so: a child that is deeper than any level of its tenant allows is not opened.

Money is whole nano-dollars, and the ledger has no floats. Time comes in as `now`, seconds since the epoch; it chooses
the minute, hour, day and month (UTC) that a reservation belongs to until it ends, whatever the clock says by then.
Nothing has to be reset: a new period is another page.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeAlias, get_args

import msgspec

from belljar.errors import InvalidInput, LedgerUnavailable
from belljar.identity import RunId
from belljar.journal.tables import AT_ONCE, DIMENSIONS, LIMITED

__all__ = [
    "AMOUNT_MAX",
    "NOTHING",
    "PERIODS",
    "USED_UP",
    "Abandoned",
    "Amounts",
    "Balance",
    "Changes",
    "Limits",
    "Period",
    "Remaining",
    "Room",
    "beyond",
    "check_amounts",
    "check_limits",
    "check_period",
    "check_stored",
    "key_at",
    "minute_of",
    "period_end",
    "period_key",
    "plus",
    "run_account",
]

Period = Literal["minute", "hour", "day", "month", "total"]
PERIODS: Final[tuple[Period, ...]] = get_args(Period)

AMOUNT_MAX = 10**15  # a million dollars, a petabyte in one reservation; sums of them stay far inside 64 bits
_LIMIT_MAX = 10**18
_SHOWN_CHARS_MAX: Final = 60
# All that a program is told about the levels above its run's tenant.
USED_UP = "the quota of the run's tenant is used up: keep what you have, and ask whoever started the run for more"


class Amounts(msgspec.Struct, frozen=True):
    """What is asked for or was spent: counts, tokens, nano-dollars, bytes. Whole numbers, never negative.

    `memory_mib_s` is the most memory that a box has had so far, in MiB, times the seconds. `boxes` and
    `calls_in_flight` are gauges: how many there are at this moment.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nanousd: int = 0
    read_bytes: int = 0
    calls_in_flight: int = 0
    cpu_ms: int = 0
    wall_ms: int = 0
    memory_mib_s: int = 0
    boxes: int = 0


NOTHING = Amounts()


def beyond(charged: Amounts, held: Amounts) -> Amounts:
    """The overage: what was charged beyond what was held for it."""
    pairs = zip(msgspec.structs.astuple(charged), msgspec.structs.astuple(held), strict=True)
    return Amounts(*(max(0, one - other) for one, other in pairs))


def plus(amounts: Amounts, more: Amounts) -> Amounts:
    return Amounts(*map(operator.add, msgspec.structs.astuple(amounts), msgspec.structs.astuple(more)))


class Limits(msgspec.Struct, frozen=True):
    """The most that may be used and held in one `period`. None means unlimited; for the first five it must be given.

    The limits of gauges are for every moment, and stand in the period `total`. So do those of `context_bytes`, what the
    stored contexts of a tenant may take up on each host, and of `depth`, how many levels of models there may be below a
    root model: with 1 there are no child runs.
    """

    period: Period
    calls: int | None
    input_tokens: int | None
    output_tokens: int | None
    cost_nanousd: int | None
    read_bytes: int | None
    calls_in_flight: int | None = None
    cpu_ms: int | None = None
    wall_ms: int | None = None
    memory_mib_s: int | None = None
    boxes: int | None = None
    context_bytes: int | None = None
    depth: int | None = None


# New bounds of one level, by period and dimension; what is not named stays.
Changes: TypeAlias = Mapping[Period, Mapping[str, int | None]]


class Remaining(msgspec.Struct, frozen=True):
    """What the tightest level leaves in each dimension; None where no level sets a limit."""

    calls: int | None
    input_tokens: int | None
    output_tokens: int | None
    cost_nanousd: int | None
    read_bytes: int | None
    calls_in_flight: int | None = None
    cpu_ms: int | None = None
    wall_ms: int | None = None
    memory_mib_s: int | None = None
    boxes: int | None = None


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
    """A run whose owner is dead, or whose parent ended first.

    `charged` is what closing it charges for what was dispatched, `used` the total, without what its children used.
    """

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
                f"{dimension} {_shown(value)} is not a valid amount: use a whole number from 0 to {AMOUNT_MAX}",
                code="amount.invalid",
            )


def check_limits(limits: Limits, *, of_policy: bool = False) -> None:
    """Refuse what is no limit. A policy's has one period for all, so its gauges may stand beside any."""
    for dimension in LIMITED:
        value = getattr(limits, dimension)
        least = 1 if dimension == "depth" else 0  # whether there are sub-models at all, the policy says
        if value is not None and (type(value) is not int or not least <= value <= _LIMIT_MAX):
            raise InvalidInput(
                f"{dimension} {_shown(value)} is not a valid limit: use a whole number from {least} to "
                f"{_LIMIT_MAX}, or None for unlimited",
                code="limit.invalid",
            )
    check_period(limits.period)
    for name in AT_ONCE:
        if not of_policy and limits.period != "total" and getattr(limits, name) is not None:
            raise InvalidInput(
                f"{name} is counted at each moment, not for a {limits.period}: set it for the total",
                code="limit.invalid",
            )


def check_period(period: object) -> None:
    """Refuse what is no period, whatever its type.

    Raises:
        InvalidInput: `limit.invalid`.
    """
    if not isinstance(period, str) or period not in PERIODS:
        raise InvalidInput(
            f"{_shown(period)} is not a valid period: use {', '.join(PERIODS[:-1])} or {PERIODS[-1]}",
            code="limit.invalid",
        )


def _shown(value: object) -> str:
    """A value in a message; only its type, where it could be of any length or say anything about itself."""
    if isinstance(value, str):
        return ascii(value if len(value) <= _SHOWN_CHARS_MAX else f"{value[:_SHOWN_CHARS_MAX]}...")
    if value is None or type(value) in (bool, float):
        return repr(value)
    if type(value) is int:
        return str(value) if abs(value) < 10**_SHOWN_CHARS_MAX else f"(a number of over {_SHOWN_CHARS_MAX} digits)"
    return f"(a value of type {type(value).__name__[:_SHOWN_CHARS_MAX]})"


def check_stored(account: object, period: object, bounds: tuple[object, ...]) -> None:
    """Refuse a row of limits that nobody can have set: a file takes anything in a column.

    Raises:
        LedgerUnavailable: it is such a row.
    """
    try:
        check_limits(Limits(period, *bounds))  # type: ignore[arg-type]
    except InvalidInput as error:
        raise LedgerUnavailable(
            f"limits of {account!a} in the ledger are not ours: {error}; set its file aside"
        ) from None


def period_key(period: Period, now: float) -> str:
    """Where `now` (seconds since the epoch) falls, in UTC: `2026-11-23T12:34`, `2026-11-23T12`, `2026-11-23`, `2026-11`
    or `total`.
    """
    return key_at(period, minute_of(now))


# How much of a minute is the key of a period.
_KEY_CHARS: Final[dict[Period, int]] = {"minute": 16, "hour": 13, "day": 10, "month": 7}


def key_at(period: Period, minute: str) -> str:
    """`period_key` of a moment that is told by its minute; by its day alone for no shorter period than that."""
    return "total" if period == "total" else minute[: _KEY_CHARS[period]]


def period_end(period: Period, key: str) -> datetime | None:
    """When the period with this key is over and the next begins; None for `total`."""
    match period:
        case "total":
            return None
        case "month":
            year, month = int(key[:4]), int(key[5:7])
            return datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
        case "minute" | "hour" | "day":
            return datetime.fromisoformat(key).replace(tzinfo=UTC) + timedelta(**{f"{period}s": 1})


def minute_of(now: float) -> str:
    """`2026-11-23T12:34`, of seconds since the epoch, in UTC."""
    try:
        return _minute(int(now // 60))
    except (ValueError, OverflowError, OSError):
        raise LedgerUnavailable(f"the clock says {now!r}, which is not a valid date: set the clock") from None


@functools.lru_cache(maxsize=4)  # each call asks, and hardly any is in another minute than the one before
def _minute(number: int) -> str:
    return datetime.fromtimestamp(number * 60, UTC).strftime("%Y-%m-%dT%H:%M")
