"""Tells hooks when a tenant has used much of a quota: 80 % and all of it, once each in a period.

It is looked at from time to time, not with each call: a hook hears of it within `LOOK_S` seconds. Of many processes
that look, one writes it. What is bounded at each moment (boxes, calls at once, stored contexts) is not told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from belljar.errors import BelljarError
from belljar.hooks.hooks import Hooks
from belljar.identity import Tenant
from belljar.ledger import AT_ONCE, DIMENSIONS, Period, Quota
from belljar.quotas import Quotas

__all__ = ["LOOK_S", "PERCENT", "Reached", "reached", "watch_quotas"]

_log = logging.getLogger("belljar")
LOOK_S: Final = 30.0
PERCENT: Final = (80, 100)


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """What a hook is told: `used` of `limit`, in the dimension's unit; `key` is the period's (`2026-11-23`)."""

    tenant: str
    dimension: str
    period: Period
    key: str
    percent: int
    used: int
    limit: int


def reached(found: Iterable[Quota]) -> Iterator[Reached]:
    """Every threshold at which a quota stands now."""
    for quota in found:
        for dimension in DIMENSIONS:
            limit = None if quota.limits is None or dimension in AT_ONCE else getattr(quota.limits, dimension)
            used = getattr(quota.used, dimension)
            for percent in PERCENT:
                if limit and used * 100 >= limit * percent:
                    yield Reached(
                        tenant=quota.tenant,
                        dimension=dimension,
                        period=quota.period,
                        key=quota.key,
                        percent=percent,
                        used=used,
                        limit=limit,
                    )


async def watch_quotas(hooks: Hooks, quotas: Quotas) -> None:
    """Tell hooks of quotas, until it is cancelled."""
    told: set[tuple[object, ...]] = set()
    while True:
        try:
            told = await _look(hooks, quotas, told)
        except BelljarError as error:
            _log.warning("belljar: what quotas have come to cannot be told (%s)", error)
        await asyncio.sleep(LOOK_S)


async def _look(hooks: Hooks, quotas: Quotas, told: set[tuple[object, ...]]) -> set[tuple[object, ...]]:
    """What stands now; of that, what did not before is told."""
    if not any("quota.threshold" in hook.told for hook in await hooks.ls()):
        return set()
    now: set[tuple[object, ...]] = set()
    for one in await quotas.of_all(lambda found: list(reached(found))):
        key = (one.tenant, one.dimension, one.key, one.percent, one.limit)
        now.add(key)
        if key not in told:
            await hooks.tell("quota.threshold", Tenant(one.tenant), one.tenant, one, once="/".join(map(str, key)))
    return now
