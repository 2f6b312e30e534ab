"""What the ledger says to people: how each tenant stands now, and what it used on which day or in which month.

All of it are questions to one snapshot, so its numbers fit each other; nothing is written and nobody has to wait. Each
takes as long as there are tenants that it is about, however many runs and days the ledger knows. With ten thousand of
them nothing here keeps the interpreter for itself for long: what is put in order is compared as plain text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from belljar.errors import LedgerUnavailable
from belljar.identity import RunId, Tenant, is_within, tenants_below
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

__all__ = ["Choice", "Place", "Quota", "Span", "Used", "context_limits", "history", "limits_of", "overage", "quotas"]

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
_LIMITED: Final = "SELECT account, period FROM limits"
_KEYS: Final = ", ".join("?" * len(PERIODS))
_NO_RUN: Final = "NOT (account >= 'run:' AND account < 'run;')"
# From one tenant to the next, over all the days of each and over all runs at once: those where something is not zero.
_EVERY: Final = f"""WITH RECURSIVE every(name) AS (
    SELECT min(account) FROM {{1}} WHERE account > ? AND account < ?
    UNION ALL
    SELECT (SELECT min(account) FROM {{1}}
            WHERE account > CASE WHEN name >= 'run:' AND name < 'run;' THEN 'run;' ELSE name END AND account < ?)
    FROM every WHERE name IS NOT NULL)
    SELECT account, key
    FROM every JOIN {{1}} ON account = name
    WHERE key IN ({{2}}) AND {_NO_RUN} AND {{0}}"""  # noqa: S608
_HERE_AND_BELOW: Final = "(account = ? OR account > ? AND account < ?)"
# Every account is between these two.
_FIRST: Final = ""
_LAST: Final = "{"
# Values in one statement.
_VALUES_MAX: Final = 500
_BEFORE_ALL: Final = "\1"
_Page = tuple[str, str]


class Place(NamedTuple):
    """A level of tenants and a period in which it has a limit (then `is_limited`), use, or stored contexts."""

    level: str
    period: Period
    is_limited: bool


# Of the places that there are, in order, those that somebody wants to know more of.
Choice: TypeAlias = Callable[[Sequence[Place]], Sequence[Place]]


def _sides(book: Book) -> str:
    return ", ".join((*columns("used_{}", book.dimensions), *columns("held_{}", book.dimensions)))


def _pages(ask: Ask, select: str, *values: object) -> dict[_Page, tuple[Vector, Vector]]:
    """What was used and is held, by account and key; `select` has places for what differs from book to book."""
    found: dict[_Page, tuple[list[int], list[int]]] = {}
    for book in BOOKS:
        statement = select.format(_sides(book), book.balances.name, _KEYS, _anything(book))
        for account, key, *amounts in ask(statement, *values):
            if not isinstance(account, str):  # a file takes anything in a column
                raise LedgerUnavailable(f"a balance of {account!a} in the ledger is not ours; set its file aside")
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
    ask: Ask,
    now: float,
    tenant: Tenant | None = None,
    stored: Mapping[Tenant, int] | None = None,
    *,
    below: bool = False,
    choose: Choice | None = None,
) -> Iterator[Quota]:
    """Every level of `tenant`, or every tenant, in every period with a limit or use; by level, then by period.

    They are read some at a time: whoever does not keep them keeps little.

    Args:
        stored: how many bytes of contexts each tenant has, without those below it; None if nobody counted them.
        below: `tenant` and every tenant below it, instead of its levels.
        choose: takes all of these places and gives those that are wanted. Only these are read whole.
    """
    minute = minute_of(now)
    keys: dict[str, Period] = {key_at(period, minute): period for period in PERIODS}
    of_contexts = None if stored is None else _of_levels(stored, tenant, below=below)
    places = _places(ask, keys, tenant, of_contexts or {}, below=below)
    periods: dict[str, list[Period]] = {}
    for place in places if choose is None else choose(places):
        periods.setdefault(place.level, []).append(place.period)
    for some, these in _batches(list(periods)):
        bounds = dict(_bounds_of(ask, some))
        pages = _pages(ask, f"SELECT account, key, {{0}} FROM {{1}} {these} AND key IN ({{2}})", *some, *keys)  # noqa: S608
        amounts = {(account, keys[key]): sides for (account, key), sides in pages.items()}
        for here in ((level, period) for level in some for period in periods[level]):
            yield _quota(*here, minute, bounds.get(here), *amounts.get(here, (_ZERO, _ZERO)), of_contexts)


def limits_of(ask: Ask, levels: Sequence[Tenant]) -> dict[tuple[Tenant, Period], Limits]:
    """What is set for each of these levels and each period."""
    return {(Tenant(level), period): Limits(period, *bounds) for (level, period), bounds in _bounds_of(ask, levels)}


def _bounds_of(ask: Ask, levels: Sequence[str]) -> Iterator[tuple[_Place, Bounds]]:
    for some, these in _batches(levels):
        for row in ask(f"{_LIMITS} {these}", *some):
            yield (row[0], row[1]), _bounds(row)


def _batches(levels: Sequence[str]) -> Iterator[tuple[Sequence[str], str]]:
    """As many as one statement takes, and how it asks for them."""
    for first in range(0, len(levels), _VALUES_MAX):
        some = levels[first : first + _VALUES_MAX]
        yield some, f"WHERE account IN ({', '.join('?' * len(some))})"


_Place = tuple[str, Period]


def _places(
    ask: Ask, keys: Mapping[str, Period], tenant: Tenant | None, stored: Mapping[str, int], *, below: bool
) -> list[Place]:
    """All that there is to say something about, by level, then by period. There may be tens of thousands."""
    here = () if tenant is None else (tenant,) if below else tenant.levels
    ends = (_FIRST, _LAST) if tenant is None else tenants_below(tenant) if below else None
    limited: list[_Place] = []
    used: list[_Page] = []
    these = f"account IN ({', '.join('?' * len(here))})"
    if here:
        limited += ask(f"{_LIMITED} WHERE {these}", *here)
        select = f"SELECT account, key FROM {{1}} WHERE {these} AND key IN ({{2}}) AND {{0}}"  # noqa: S608
        used += _used_of(ask, select, *here, *keys)
    if ends is not None:
        limited += ask(f"{_LIMITED} WHERE account > ? AND account < ?", *ends)
        used += _used_of(ask, _EVERY, *ends, ends[1], *keys)
    for account, period in limited:
        if period not in PERIODS:
            check_stored(account, period, (None,) * len(LIMITED))
    # Not in a set, which would have no order to begin with: what is nearly in order is soon sorted.
    found: dict[_Place, bool] = dict.fromkeys(((level, PERIODS[-1]) for level in sorted(stored)), False)
    found |= dict.fromkeys(((account, keys[key]) for account, key in used), False)
    found |= dict.fromkeys(limited, True)
    return [Place(*place, found[place]) for place in sorted(found, key=_in_order)]


def _used_of(ask: Ask, select: str, *values: object) -> list[_Page]:
    """Which pages have anything on them, in the order of the books."""
    found: list[Any] = []
    for book in BOOKS:
        found += ask(select.format(_anything(book), book.balances.name, _KEYS), *values)
    return found


def _anything(book: Book) -> str:
    return f"({' OR '.join(f'{name} > 0' for name in _sides(book).split(', '))})"


def _in_order(place: _Place) -> str:
    """By level and then by period: '/' comes before whatever else is in a name."""
    level, period = place
    return f"{level.replace('/', _BEFORE_ALL)}{_BEFORE_ALL * 2}{PERIODS.index(period)}"


def _bounds(row: tuple[Any, ...]) -> Bounds:
    account, period, *bounds = row
    check_stored(account, period, tuple(bounds))
    return tuple(bounds)


def _of_levels(stored: Mapping[Tenant, int], tenant: Tenant | None, *, below: bool) -> dict[str, int]:
    """What each level that is asked about and those below it have together; those that have anything."""
    found: dict[str, int] = {}
    for whose, size in stored.items():
        for level in whose.levels:
            if size and (is_within(level, tenant) if below or tenant is None else level in tenant.levels):
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


def history(
    ask: Ask,
    per: Span,
    tenant: Tenant | None = None,
    *,
    below: bool = False,
    since: tuple[str, str] | None = None,
    most: int | None = None,
) -> list[Used]:
    """What `tenant`, or every tenant, used on each day or in each month; the oldest first.

    Args:
        below: `tenant` and every tenant below it.
        since: begins with this one, a key and a tenant, if it is there, or else behind it.
        most: how many there are at most.
    """
    where = [f"length(key) = ? AND {_NO_RUN}"]
    values: list[object] = [len("2026-11-23" if per == "day" else "2026-11")]
    if tenant is not None:
        where.append(_HERE_AND_BELOW if below else "account = ?")
        values += (tenant, *tenants_below(tenant)) if below else (tenant,)
    if since is not None:
        where.append("(key > ? OR key = ? AND account >= ?)")
        values += (since[0], *since)
    order = "" if most is None else f" ORDER BY key, account LIMIT {most:d}"
    select = f"SELECT account, key, {{0}} FROM {{1}} WHERE {' AND '.join(where)} AND {{3}}{order}"  # noqa: S608
    pages = _pages(ask, select, *values)
    # A day at a time: there may be a year of ten thousand tenants.
    by_key: dict[str, list[str]] = {}
    for account, key in pages:
        by_key.setdefault(key, []).append(account)
    places = ((account, key) for key in sorted(by_key) for account in sorted(by_key[key]))
    return [
        Used(tenant=place[0], key=place[1], used=Amounts(*pages[place][0]), held=Amounts(*pages[place][1]))
        for place in islice(places, most)
    ]
