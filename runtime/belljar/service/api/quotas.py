"""`/v1/quotas`: what each tenant may use, has used, and used before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from belljar.errors import InvalidInput
from belljar.identity import Tenant
from belljar.ledger import LIMITED, Limits, Period, Place, Quota, Span, Used
from belljar.service.problems import Unfit
from belljar.service.routes import Asking, Route
from belljar.service.scopes import LIMIT_MAX, Cursor, TenantName, named_tenant, page_of

__all__ = [
    "ROUTES",
    "HistoryPage",
    "HistoryQuery",
    "LimitList",
    "LimitsSet",
    "QuotaCleared",
    "QuotaPage",
    "QuotaQuery",
    "QuotaSet",
]

_BOUND_MAX = 2**53 - 1
# What is read besides a page: the one that the cursor names, and one behind the page.
_AROUND = 2
Bound = Annotated[int, Meta(ge=0, le=_BOUND_MAX)] | None


class QuotaQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a tenant and those below it; of all that the principal has, without one."""

    tenant: TenantName | None = None
    after: Cursor | None = None
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = 100


class QuotaPage(msgspec.Struct, frozen=True):
    """How tenants stand, level by level and period by period; `after` is the cursor of what follows."""

    quotas: list[Quota]
    after: str | None = None


class HistoryQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As `QuotaQuery`; `per` is the span that each figure is for."""

    tenant: TenantName | None = None
    per: Span = "day"
    after: Cursor | None = None
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = 100


class HistoryPage(msgspec.Struct, frozen=True):
    """What tenants used, the oldest first for each tenant."""

    used: list[Used]
    after: str | None = None


class LimitsSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Limits for one period: null is unlimited, and what is not named stays. Money in nano-dollars, times in ms."""

    calls: Bound | msgspec.UnsetType = msgspec.UNSET
    input_tokens: Bound | msgspec.UnsetType = msgspec.UNSET
    output_tokens: Bound | msgspec.UnsetType = msgspec.UNSET
    cost_nanousd: Bound | msgspec.UnsetType = msgspec.UNSET
    read_bytes: Bound | msgspec.UnsetType = msgspec.UNSET
    calls_in_flight: Bound | msgspec.UnsetType = msgspec.UNSET
    cpu_ms: Bound | msgspec.UnsetType = msgspec.UNSET
    wall_ms: Bound | msgspec.UnsetType = msgspec.UNSET
    memory_mib_s: Bound | msgspec.UnsetType = msgspec.UNSET
    boxes: Bound | msgspec.UnsetType = msgspec.UNSET
    context_bytes: Bound | msgspec.UnsetType = msgspec.UNSET
    depth: Bound | msgspec.UnsetType = msgspec.UNSET


assert set(LimitsSet.__struct_fields__) == set(LIMITED), "every limit of the ledger can be set"


class QuotaSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of one tenant, by period, all of them or none."""

    tenant: TenantName
    limits: Annotated[dict[Period, LimitsSet], Meta(min_length=1)]


class QuotaCleared(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose limits are forgotten."""

    tenant: TenantName


class LimitList(msgspec.Struct, frozen=True):
    """Limits, period by period: what stands now, or what stood before they were cleared."""

    tenant: str
    limits: list[Limits]


async def _in_body(asking: Asking[Any, QuotaSet]) -> Tenant | None:
    return Tenant(asking.body.tenant)


async def _in_query(asking: Asking[QuotaCleared, Any]) -> Tenant | None:
    return Tenant(asking.query.tenant)


async def _show(asking: Asking[QuotaQuery, None]) -> QuotaPage:
    query = asking.query

    def choose(places: Sequence[Place]) -> Sequence[Place]:
        begin = 0
        if query.after is not None:
            names = (f"{place.level}:{place.period}" for place in places)
            begin = next((at for at, name in enumerate(names) if name == query.after), len(places))
        return places[begin : begin + query.limit + _AROUND]

    found = await _known(asking.host.quotas.show(asking.tenant, below=True, choose=choose))
    return QuotaPage(*page_of(found, lambda one: f"{one.tenant}:{one.period}", query.after, query.limit))


async def _history(asking: Asking[HistoryQuery, None]) -> HistoryPage:
    query = asking.query
    tenant, _, key = (query.after or "").rpartition(":")
    found = await _known(
        asking.host.quotas.history(
            asking.tenant,
            per=query.per,
            below=True,
            since=None if query.after is None else (key, tenant),
            most=query.limit + _AROUND,
        )
    )
    return HistoryPage(*page_of(found, lambda one: f"{one.tenant}:{one.key}", query.after, query.limit))


async def _known(work: Any) -> list[Any]:
    try:
        return list(await work)
    except InvalidInput as error:
        if error.code != "quota.missing":
            raise
        return []


async def _put(asking: Asking[Any, QuotaSet]) -> LimitList:
    changes = {period: _named(bounds) for period, bounds in asking.body.limits.items()}
    if not all(changes.values()):
        raise Unfit("a period names no limit; name one, such as calls", at="$.limits", code="limit.invalid")
    found = await asking.host.quotas.change(asking.body.tenant, changes, by=asking.by)
    return LimitList(asking.body.tenant, found)


def _named(bounds: LimitsSet) -> dict[str, int | None]:
    return {name: bound for name, bound in msgspec.structs.asdict(bounds).items() if bound is not msgspec.UNSET}


async def _clear(asking: Asking[QuotaCleared, None]) -> LimitList:
    tenant = asking.query.tenant
    return LimitList(tenant, await asking.host.quotas.clear(tenant, by=asking.by))


ROUTES = (
    Route(
        method="GET",
        path="/v1/quotas",
        summary="Show what tenants may use and have used",
        action="quota.read",
        owner=named_tenant,
        handler=_show,
        query=QuotaQuery,
        answer=QuotaPage,
    ),
    Route(
        method="PATCH",
        path="/v1/quotas",
        summary="Set limits of a tenant",
        action="quota.set",
        owner=_in_body,
        handler=_put,
        body=QuotaSet,
        answer=LimitList,
    ),
    Route(
        method="DELETE",
        path="/v1/quotas",
        summary="Forget all limits of a tenant",
        action="quota.set",
        owner=_in_query,
        handler=_clear,
        query=QuotaCleared,
        answer=LimitList,
    ),
    Route(
        method="GET",
        path="/v1/quotas/history",
        summary="Show what tenants used on each day or in each month",
        action="quota.read",
        owner=named_tenant,
        handler=_history,
        query=HistoryQuery,
        answer=HistoryPage,
    ),
)
