"""What the pages besides that of a run show, made ready for their templates: gauges, charts, links."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlencode

import msgspec

from belljar.audit.export.words import money, took
from belljar.ledger import AT_ONCE, LIMITED, PERIODS, Amounts, Limits, Quota, Used

__all__ = ["FIELDS", "Day", "Field", "Gauge", "Level", "Spark", "days", "levels", "limits_of", "link", "spark"]

_WIDTH: Final = 1000
_DAYS: Final = 30
_SPARK: Final = (120, 24)


class Field(msgspec.Struct, frozen=True):
    """What can be limited: its name, what people call it, and how an amount of it is written."""

    name: str
    label: str
    shown: Callable[[int], str]


def _ms(amount: int) -> str:
    return took(amount * 10**6)


def _bytes(amount: int) -> str:
    return f"{amount / 2**20:,.1f} MiB" if amount >= 2**20 else f"{amount:,} B"


def _count(amount: int) -> str:
    return f"{amount:,}"


_LABELS: Final[dict[str, tuple[str, Callable[[int], str]]]] = {
    "cost_nanousd": ("cost", money),
    "calls": ("model calls", _count),
    "input_tokens": ("tokens in", _count),
    "output_tokens": ("tokens out", _count),
    "read_bytes": ("bytes read", _bytes),
    "cpu_ms": ("CPU time", _ms),
    "wall_ms": ("wall time", _ms),
    "memory_mib_s": ("memory × time (MiB s)", _count),
    "calls_in_flight": ("calls at once", _count),
    "boxes": ("boxes at once", _count),
    "context_bytes": ("stored contexts", _bytes),
    "depth": ("depth of runs", _count),
}
FIELDS: Final = tuple(Field(name, *_LABELS[name]) for name in _LABELS)
assert set(_LABELS) == set(LIMITED), "each has its label"


class Gauge(msgspec.Struct, frozen=True, kw_only=True):
    """One dimension: what was used and is held, of the limit. `used_to` and `held_to` are thousandths of the bar."""

    label: str
    used: str
    held: str
    limit: str
    used_to: int
    held_to: int
    is_full: bool


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """One level in one period: a gauge for what has a limit; of the `rest`, what was used, and is held."""

    tenant: str
    period: str
    resets: str
    gauges: list[Gauge]
    rest: list[tuple[str, str]]


def levels(found: Iterable[Quota]) -> list[Level]:
    """Those in which something was used, is held or has a limit; the lowest level first."""
    shown = []
    for quota in found:
        gauges = [gauge for field in FIELDS if (gauge := _gauge(field, quota)) is not None]
        rest = [told for field in FIELDS if (told := _unlimited(field, quota)) is not None]
        if gauges or rest:
            resets = "" if quota.resets_at is None else f"{quota.resets_at:%Y-%m-%d %H:%M} UTC"
            shown.append(Level(tenant=quota.tenant, period=quota.period, resets=resets, gauges=gauges, rest=rest))
    return sorted(shown, key=lambda one: (-one.tenant.count("/"), one.tenant, -PERIODS.index(one.period)))


def _amounts(field: Field, quota: Quota) -> tuple[int, int]:
    """What was used of it, and is held."""
    if field.name == "depth":  # how deep a run is, its id says
        return 0, 0
    if field.name == "context_bytes":
        return quota.context_bytes or 0, 0
    return getattr(quota.used, field.name), getattr(quota.held, field.name)


def _limit(field: Field, quota: Quota) -> int | None:
    found: int | None = None if quota.limits is None else getattr(quota.limits, field.name)
    return found


def _unlimited(field: Field, quota: Quota) -> tuple[str, str] | None:
    used, held = _amounts(field, quota)
    if _limit(field, quota) is not None or not used + held or (field.name in AT_ONCE and quota.period != "total"):
        return None
    return field.label, field.shown(used) + (f" + {field.shown(held)} held" if held else "")


def _gauge(field: Field, quota: Quota) -> Gauge | None:
    if (limit := _limit(field, quota)) is None or (field.name in AT_ONCE and quota.period != "total"):
        return None
    used, held = _amounts(field, quota)
    whole = max(limit, used + held, 1)
    return Gauge(
        label=field.label,
        used=field.shown(used),
        held=field.shown(held) if held else "",
        limit=field.shown(limit),
        used_to=_WIDTH * used // whole,
        held_to=_WIDTH * (used + held) // whole,
        is_full=field.name != "depth" and used + held >= limit,
    )


def limits_of(found: Iterable[Quota], tenant: str) -> dict[str, Limits]:
    """By period, those that were set for this level."""
    return {quota.period: quota.limits for quota in found if quota.tenant == tenant and quota.limits is not None}


class Day(msgspec.Struct, frozen=True):
    """What was used on one day. `time_s` is its beginning, in seconds since the epoch, `usd` the cost in dollars."""

    key: str
    time_s: int
    usd: float
    used: Amounts


def days(found: Iterable[Used], now_s: float) -> list[Day]:
    """The last thirty, the oldest first, also those on which nothing was used; tenants are added up."""
    today = datetime.fromtimestamp(now_s, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    sums: dict[str, dict[str, int]] = {}
    for one in found:
        of_day = sums.setdefault(one.key, {})
        for name, amount in msgspec.structs.asdict(one.used).items():
            of_day[name] = of_day.get(name, 0) + amount
    shown = []
    for back in reversed(range(_DAYS)):
        day = today - timedelta(days=back)
        used = Amounts(**sums.get(f"{day:%Y-%m-%d}", {}))
        shown.append(Day(f"{day:%Y-%m-%d}", int(day.timestamp()), used.cost_nanousd / 10**9, used))
    return shown


class Spark(msgspec.Struct, frozen=True):
    """A line of what was spent each day, as the path of an SVG, and in words."""

    path: str
    area: str
    width: int
    height: int
    total: str
    today: str


def spark(found: list[Day]) -> Spark:
    width, height = _SPARK
    most = max((day.used.cost_nanousd for day in found), default=0)
    points = [
        (at * width / max(len(found) - 1, 1), height - 1 - (height - 3) * day.used.cost_nanousd / max(most, 1))
        for at, day in enumerate(found)
    ]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) if points else ""
    total = sum(day.used.cost_nanousd for day in found)
    today = found[-1].used.cost_nanousd if found else 0
    return Spark(path, f"{path}L{width} {height}L0 {height}Z", width, height, money(total), money(today))


def link(path: str, **query: object) -> str:
    """An address with what is not empty of the query."""
    asked = urlencode({name: value for name, value in query.items() if value not in ("", 0, None)})
    return f"{path}?{asked}" if asked else path
