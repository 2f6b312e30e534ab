"""What the ledger says to people: how each tenant stands now, and what it used on which day or in which month.

All of it are questions to one snapshot, so its numbers fit each other; nothing is written and nobody has to wait. Each
takes as long as there are tenants, however many runs and days the ledger knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from belljar.identity import RunId, Tenant
from belljar.journal import Ask
from belljar.journal.tables import BOOKS, DIMENSIONS, LIMITED, Book, Bounds, Vector, columns
from belljar.ledger.base import (
    PERIODS,
    Amounts,
    Limits,
    Period,
    Remaining,
    check_stored,
    key_at,
    minute_of,
    period_end,
)

__all__ = ["Quota", "Span", "Used", "context_limits", "history", "overage", "quotas"]

Span = Literal["day", "month"]
_ZERO: Final[Vector] = (0,) * len(DIMENSIONS)


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """How one tenant stands in one period.

    Attributes:
        tenant: the level; what tenants below it use counts for it, too.
        key: which period it is, in UTC: `2026-11-23T12:34`, `2026-11-23T12`, `2026-11-23`, `2026-11` or `total`.
        resets_at: when the next one begins; None for `total`.
        used: what was charged.
        held: what is under way may still cost that much.
        limits: what was set for this level and period; None where nothing was, and then the policy of a run may say
            something.
        left: `limits` less `used` and `held`; None where there is no limit.
        context_bytes: what the stored contexts of this tenant, and of all below it, take up on this host. With the
            period `total` alone, and where the stores were asked; else None.
        context_bytes_left: `limits.context_bytes` less that; None where there is no limit.
    """

    tenant: str
    period: Period
    key: str
    resets_at: datetime | None
    used: Amounts
    held: Amounts
    limits: Limits | None
    left: Remaining
    context_bytes: int | None = None
    context_bytes_left: int | None = None


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """What one tenant used on one day (`2026-11-23`) or in one month (`2026-11`), in UTC; `held` is under way."""

    tenant: str
    key: str
    used: Amounts
    held: Amounts


# Every name in these is a constant of `tables`. No tenant's name has a colon, and ';' comes right behind it.
_LIMITS: Final = f"SELECT account, period, {', '.join(columns(names=LIMITED))} FROM limits"  # noqa: S608
_KEYS: Final = ", ".join("?" * len(PERIODS))
# From one tenant to the next, over all the days of each and over all runs at once.
_EVERY: Final = """WITH RECURSIVE every(name) AS (
    SELECT min(account) FROM {1}
    UNION ALL
    SELECT (SELECT min(account) FROM {1}
            WHERE account > CASE WHEN name >= 'run:' AND name < 'run;' THEN 'run;' ELSE name END)
    FROM every WHERE name IS NOT NULL)
    SELECT account, key, {0}
    FROM every JOIN {1} ON account = name
    WHERE key IN ({2}) AND NOT (account >= 'run:' AND account < 'run;')"""
_Page = tuple[str, str]


def _sides(book: Book) -> str:
    return ", ".join((*columns("used_{}", book.dimensions), *columns("held_{}", book.dimensions)))


def _pages(ask: Ask, select: str, *values: object) -> dict[_Page, tuple[Vector, Vector]]:
    """What was used and is held, by account and key; `select` has places for a book's columns and for its table."""
    found: dict[_Page, tuple[list[int], list[int]]] = {}
    for book in BOOKS:
        for account, key, *amounts in ask(select.format(_sides(book), book.balances.name, _KEYS), *values):
            used, held = found.setdefault((account, key), ([*_ZERO], [*_ZERO]))
            used[book.places], held[book.places] = amounts[: len(book.dimensions)], amounts[len(book.dimensions) :]
    return {page: (tuple(used), tuple(held)) for page, (used, held) in found.items() if any(used) or any(held)}


def context_limits(ask: Ask, tenant: Tenant) -> dict[Tenant, int]:
    """How many bytes the stored contexts of `tenant`'s levels may have, of each level that has a limit; root first."""
    levels = tenant.levels
    which = f"period = 'total' AND context_bytes IS NOT NULL AND account IN ({', '.join('?' * len(levels))})"
    place = LIMITED.index("context_bytes")
    found = {row[0]: _bounds(row)[place] for row in ask(f"{_LIMITS} WHERE {which}", *levels)}
    return {level: bound for level in levels if (bound := found.get(level)) is not None}


def quotas(
    ask: Ask, now: float, tenant: Tenant | None = None, stored: Mapping[Tenant, int] | None = None
) -> list[Quota]:
    """Every level of `tenant`, or every tenant, in every period with a limit or use; by level, then by period.

    `stored` is how many bytes of contexts each tenant has, without those below it; None if nobody counted them.
    """
    minute = minute_of(now)
    keys: dict[str, Period] = {key_at(period, minute): period for period in PERIODS}
    if tenant is None:
        limits, pages = ask(_LIMITS), _pages(ask, _EVERY, *keys)
    else:
        levels = tenant.levels
        here = f"WHERE account IN ({', '.join('?' * len(levels))})"
        limits = ask(f"{_LIMITS} {here}", *levels)
        pages = _pages(ask, f"SELECT account, key, {{0}} FROM {{1}} {here} AND key IN ({{2}})", *levels, *keys)  # noqa: S608
    bounds: dict[tuple[str, Period], Bounds] = {(row[0], row[1]): _bounds(row) for row in limits}
    amounts = {(account, keys[key]): sides for (account, key), sides in pages.items()}
    of_contexts = None if stored is None else _of_levels(stored, tenant)
    filled = {(level, PERIODS[-1]) for level in of_contexts or ()}
    found = bounds.keys() | amounts.keys() | filled
    places = sorted(found, key=lambda place: (place[0].split("/"), PERIODS.index(place[1])))
    return [
        _quota(*place, minute, bounds.get(place), *amounts.get(place, (_ZERO, _ZERO)), of_contexts) for place in places
    ]


def _bounds(row: tuple[Any, ...]) -> Bounds:
    account, period, *bounds = row
    check_stored(account, period, tuple(bounds))
    return tuple(bounds)


def _of_levels(stored: Mapping[Tenant, int], tenant: Tenant | None) -> dict[str, int]:
    """What each level of `tenant`, or every tenant, and those below it have together; those that have anything."""
    found: dict[str, int] = {}
    for whose, size in stored.items():
        for level in whose.levels:
            if size and (tenant is None or level in tenant.levels):
                found[str(level)] = found.get(level, 0) + size
    return found


def _quota(
    tenant: str,
    period: Period,
    minute: str,
    bounds: Bounds | None,
    used: Vector,
    held: Vector,
    stored: Mapping[str, int] | None,
) -> Quota:
    key = key_at(period, minute)
    limits = None if bounds is None else Limits(period, *bounds)
    here = stored.get(tenant, 0) if stored is not None and period == "total" else None
    most = None if limits is None or here is None else limits.context_bytes
    return Quota(
        tenant=tenant,
        period=period,
        key=key,
        resets_at=period_end(period, key),
        used=Amounts(*used),
        held=Amounts(*held),
        limits=limits,
        left=Remaining(*_left((bounds or (None,) * len(LIMITED))[: len(DIMENSIONS)], used, held)),
        context_bytes=here,
        context_bytes_left=None if most is None or here is None else max(0, most - here),
    )


def _left(bounds: Bounds, used: Vector, held: Vector) -> Sequence[int | None]:
    return [
        None if bound is None else max(0, bound - spent - open_)
        for bound, spent, open_ in zip(bounds, used, held, strict=True)
    ]


_OVER: Final = "coalesce(sum(CASE WHEN actual_{0} > {0} THEN actual_{0} - {0} ELSE 0 END), 0)"


def overage(ask: Ask, run: RunId) -> Amounts:
    """What a run was charged beyond what was held for it, over all its reservations."""
    found: list[int] = []
    for book in BOOKS:
        sums, table = ", ".join(columns(_OVER, book.dimensions)), book.reservations.name
        rows = ask(f"SELECT {sums} FROM {table} WHERE run = ?", run)  # noqa: S608
        found += map(int, rows[0]) if rows else [0] * len(book.dimensions)
    return Amounts(*found)


def history(ask: Ask, per: Span, tenant: Tenant | None = None) -> list[Used]:
    """What `tenant`, or every tenant, used on each day or in each month; the oldest first."""
    of = "account = ?" if tenant is not None else "NOT (account >= 'run:' AND account < 'run;')"
    length = len("2026-11-23" if per == "day" else "2026-11")
    values = (length,) if tenant is None else (length, tenant)
    pages = _pages(ask, f"SELECT account, key, {{0}} FROM {{1}} WHERE length(key) = ? AND {of}", *values)  # noqa: S608
    return [
        Used(tenant=account, key=key, used=Amounts(*used), held=Amounts(*held))
        for (account, key), (used, held) in sorted(pages.items(), key=lambda page: page[0][::-1])
    ]
