"""What a ledger promises, however it stores its data.

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

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Literal, Protocol

import msgspec

from belljar.errors import InvalidInput, LedgerUnavailable
from belljar.identity import RunId, Tenant

__all__ = [
    "AMOUNT_MAX",
    "DIMENSIONS",
    "NOTHING",
    "USED_UP",
    "Abandoned",
    "Amounts",
    "Balance",
    "Ledger",
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

DIMENSIONS = ("calls", "input_tokens", "output_tokens", "cost_nanousd", "read_bytes")
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


class Ledger(Protocol):
    """Quotas. Every method raises `LedgerUnavailable` if the ledger cannot be read or written: then the answer is no.

    A method that is cancelled may have taken effect, with one exception: a cancelled `reserve` leaves nothing held.
    A `settle`, `release` or `close_run` that could not be written, and the end of a `reserve` that failed, are tried
    again, in order, with the next request to the ledger and every few seconds.
    """

    async def open_run(
        self, run: RunId, tenant: Tenant, *, run_limits: Limits, tenant_limits: Limits, now: float
    ) -> None:
        """Open the account of a run that this process owns.

        For this run, `tenant_limits` apply to every level of the tenant for which `set_limits` was never called.

        Raises:
            InvalidInput: `run.exists` or `limit.invalid`.
        """
        ...

    async def set_limits(self, tenant: Tenant, limits: Limits) -> None:
        """Set one level's limits for `limits.period`; other periods keep theirs. Applies from the next `reserve` on.

        Raises:
            InvalidInput: `limit.invalid`.
        """
        ...

    async def clear_limits(self, tenant: Tenant) -> None:
        """Forget what `set_limits` set for this level, in all periods."""
        ...

    async def limits(self, tenant: Tenant) -> list[Limits]:
        """What `set_limits` set for this level, at most one for each period."""
        ...

    async def reserve(
        self, run: RunId, amounts: Amounts, *, now: float, dispatched: bool = False, kept: Amounts = NOTHING
    ) -> str:
        """Hold `amounts` on every level, root first, then the run, or on none. Returns the reservation's id.

        With `dispatched` it begins as if `dispatch` had been called, for a request that is sent at once. `kept` must be
        left as well, but is not held. Only dimensions that are asked for need room.

        Raises:
            QuotaExceeded: `code` is the policy's key of the limit (`quota.run.calls`), `observed` what the total would
                have been.
            InvalidInput: `amount.invalid`.
        """
        ...

    async def dispatch(self, reservation: str) -> None:
        """Note that the request is about to leave the host: from now on a crash is charged in full."""
        ...

    async def settle(self, reservation: str, actual: Amounts, *, lazy: bool = False) -> None:
        """End it: charge `actual`, even if that is more than was held, and give back what was held.

        With `lazy` it may take a few milliseconds longer, which spares everybody else's commits.

        Raises:
            LedgerUnavailable: it had already ended; nothing changes.
            InvalidInput: `amount.invalid`.
        """
        ...

    async def release(self, reservation: str) -> None:
        """End it and charge nothing.

        Raises:
            LedgerUnavailable: it had already ended; nothing changes.
        """
        ...

    async def remaining(self, run: RunId, *, now: float, for_program: bool = False) -> Remaining:
        """What `reserve` would still admit, in each dimension by itself.

        With `for_program` it is what a run's program may know: levels above its tenant count only once they have
        nothing left. How large they are, and how much others use of them, is not its business.
        """
        ...

    async def room(self, run: RunId, *, now: float) -> Room:
        """What `remaining` would be without what is held."""
        ...

    def freed(self) -> asyncio.Event:
        """An event, set once something held is given back through this object after this call.

        A hint to look again early: other processes do not set it, and what was given back may not help the caller.
        """
        ...

    async def close_run(self, run: RunId) -> None:
        """Close the run: release what is held, charge in full what is dispatched. Closing twice is harmless."""
        ...

    async def balance(self, account: str, key: str) -> Balance:
        """One account (`acme/research`, or `run_account(run)`) in one period (`period_key`); zeros if never used."""
        ...

    async def spent(self, account: str, key: str) -> Amounts:
        """The `used` part of `balance`."""
        ...

    async def recover(
        self, is_alive: Callable[[str], bool], before: Callable[[Abandoned], Awaitable[None]] | None = None
    ) -> int:
        """Close the runs whose owner is not alive, as `close_run` does, each after `before` was told of it.

        Returns how many. Call it at the start.
        """
        ...

    async def check_books(self) -> list[str]:
        """Recompute every balance from the reservations. One line for each difference; empty if all balance."""
        ...

    async def aclose(self) -> None:
        """Write what is queued, and close."""
        ...


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
