"""What the ledger says to people: how each tenant stands now, and what it used on which day or in which month.

All of it are questions to one snapshot, so its numbers fit each other; nothing is written and nobody has to wait. Each
takes as long as there are tenants, however many runs and days the ledger knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

import msgspec

from belljar.identity import Tenant
from belljar.journal import Ask
from belljar.journal.tables import DIMENSIONS, Bounds, Vector, columns
from belljar.ledger.base import PERIODS, Amounts, Limits, Period, Remaining, key_at, minute_of, period_end

__all__ = ["Quota", "Span", "Used", "history", "quotas"]

Span = Literal["day", "month"]


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
    """

    tenant: str
    period: Period
    key: str
    resets_at: datetime | None
    used: Amounts
    held: Amounts
    limits: Limits | None
    left: Remaining


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """What one tenant used on one day (`2026-11-23`) or in one month (`2026-11`), in UTC; `held` is under way."""

    tenant: str
    key: str
    used: Amounts
    held: Amounts


def _columns(template: str) -> str:
    return ", ".join(columns(template))


# Every name in these is a constant of `tables`. No tenant's name has a colon, and ';' comes right behind it.
_LIMITS: Final = f"SELECT account, period, {_columns('{}')} FROM limits"  # noqa: S608
_PAGES: Final = f"SELECT account, key, {_columns('used_{}')}, {_columns('held_{}')} FROM balances"  # noqa: S608
_KEYS: Final = ", ".join("?" * len(PERIODS))
# From one tenant to the next, over all the days of each and over all runs at once.
_EVERY: Final = f"""WITH RECURSIVE every(name) AS (
    SELECT min(account) FROM balances
    UNION ALL
    SELECT (SELECT min(account) FROM balances
            WHERE account > CASE WHEN name >= 'run:' AND name < 'run;' THEN 'run;' ELSE name END)
    FROM every WHERE name IS NOT NULL)
    SELECT account, key, {_columns("used_{}")}, {_columns("held_{}")}
    FROM every JOIN balances ON account = name
    WHERE key IN ({_KEYS}) AND NOT (account >= 'run:' AND account < 'run;')"""  # noqa: S608


def quotas(ask: Ask, now: float, tenant: Tenant | None = None) -> list[Quota]:
    """Every level of `tenant`, or every tenant, in every period with a limit or use; by level, then by period."""
    minute = minute_of(now)
    keys: dict[str, Period] = {key_at(period, minute): period for period in PERIODS}
    if tenant is None:
        limits, pages = ask(_LIMITS), ask(_EVERY, *keys)
    else:
        levels = tenant.levels
        here = f"WHERE account IN ({', '.join('?' * len(levels))})"
        limits = ask(f"{_LIMITS} {here}", *levels)
        pages = ask(f"{_PAGES} {here} AND key IN ({_KEYS})", *levels, *keys)
    bounds: dict[tuple[str, Period], Bounds] = {(row[0], row[1]): row[2:] for row in limits}
    amounts: dict[tuple[str, Period], Vector] = {(row[0], keys[row[1]]): row[2:] for row in pages if any(row[2:])}
    nothing: Vector = (0,) * 2 * len(DIMENSIONS)
    places = sorted(bounds.keys() | amounts.keys(), key=lambda place: (place[0].split("/"), PERIODS.index(place[1])))
    return [_quota(*place, minute, bounds.get(place), amounts.get(place, nothing)) for place in places]


def _quota(tenant: str, period: Period, minute: str, bounds: Bounds | None, amounts: Vector) -> Quota:
    used, held = amounts[: len(DIMENSIONS)], amounts[len(DIMENSIONS) :]
    key = key_at(period, minute)
    return Quota(
        tenant=tenant,
        period=period,
        key=key,
        resets_at=period_end(period, key),
        used=Amounts(*used),
        held=Amounts(*held),
        limits=None if bounds is None else Limits(period, *bounds),
        left=Remaining(*_left(bounds or (None,) * len(DIMENSIONS), used, held)),
    )


def _left(bounds: Bounds, used: Vector, held: Vector) -> Sequence[int | None]:
    return [
        None if bound is None else max(0, bound - spent - open_)
        for bound, spent, open_ in zip(bounds, used, held, strict=True)
    ]


def history(ask: Ask, per: Span, tenant: Tenant | None = None) -> list[Used]:
    """What `tenant`, or every tenant, used on each day or in each month; the oldest first."""
    of = "account = ?" if tenant is not None else "NOT (account >= 'run:' AND account < 'run;')"
    length = len("2026-11-23" if per == "day" else "2026-11")
    values = (length,) if tenant is None else (length, tenant)
    rows = ask(f"{_PAGES} WHERE length(key) = ? AND {of} ORDER BY key, account", *values)
    width = len(DIMENSIONS)
    return [
        Used(tenant=row[0], key=row[1], used=Amounts(*row[2 : 2 + width]), held=Amounts(*row[2 + width :]))
        for row in rows
        if any(row[2:])
    ]
