"""`/v1/hooks`: whom the service tells of what happens. A hook's secret is in the answer that makes it, nowhere else."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from belljar.errors import InvalidInput
from belljar.hooks import TOLD, HookInfo, Told
from belljar.identity import Tenant
from belljar.service.routes import Answer, Asking, Nothing, Route, no_such
from belljar.service.scopes import TenantName, named_tenant

__all__ = [
    "ROUTES",
    "HookList",
    "HooksQuery",
    "MadeHook",
    "NewHook",
    "ls",
    "make",
    "remove",
]

_URL_CHARS_MAX = 2000


class HooksQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a tenant and those below it; of all that the principal has, without one."""

    tenant: TenantName | None = None


class HookList(msgspec.Struct, frozen=True):
    """Hooks, by tenant."""

    hooks: list[HookInfo]


class NewHook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A hook to be set up. Without a tenant it is the principal's own, and that of the whole host for who has it."""

    url: Annotated[str, Meta(min_length=1, max_length=_URL_CHARS_MAX)]
    tenant: TenantName | None = None
    told: Annotated[tuple[Told, ...], Meta(min_length=1, max_length=len(TOLD))] = TOLD


class MadeHook(msgspec.Struct, frozen=True):
    """A hook that was set up. Nobody can show its `secret` again."""

    hook: HookInfo
    secret: str


async def _in_body(asking: Asking[Any, NewHook]) -> Tenant | None:
    named = asking.body.tenant
    return asking.who.tenant if named is None else Tenant(named)


async def _of_hook(asking: Asking[Any, Any]) -> Tenant | None:
    hook = asking.params["hook"]
    asking.about = f"hook:{hook[:40]}"
    error = InvalidInput(f"there is no hook {hook[:40]!a}: GET /v1/hooks lists them", code="hook.missing")
    found = await asking.service.hooks.get(hook)
    if found is None:
        raise error
    return no_such(asking, None if found.tenant is None else Tenant(found.tenant), error)


async def ls(asking: Asking[HooksQuery, None]) -> HookList:
    return HookList(await asking.service.hooks.ls(asking.tenant))


async def make(asking: Asking[Nothing, NewHook]) -> Answer:
    body = asking.body
    info, secret = await asking.service.hooks.make(asking.tenant, body.url, told=body.told, by=asking.who)
    asking.about = f"hook:{info.id}"
    return Answer(MadeHook(info, secret), 201)


async def remove(asking: Asking[Nothing, None]) -> None:
    await asking.service.hooks.remove(asking.params["hook"], by=asking.who)


ROUTES = (
    Route(
        method="GET",
        path="/v1/hooks",
        summary="List webhooks",
        action="hook.read",
        owner=named_tenant,
        handler=ls,
        query=HooksQuery,
        answer=HookList,
    ),
    Route(
        method="POST",
        path="/v1/hooks",
        summary="Set up a webhook",
        action="hook.write",
        owner=_in_body,
        handler=make,
        body=NewHook,
        answer=MadeHook,
        status=201,
        refuses=(409,),
    ),
    Route(
        method="DELETE",
        path="/v1/hooks/{hook}",
        summary="Remove a webhook",
        action="hook.write",
        owner=_of_hook,
        handler=remove,
        status=204,
    ),
)
