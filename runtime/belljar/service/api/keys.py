"""`/v1/keys`: who may ask, with what. A key's text is in the answer that makes it, and nowhere else."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from belljar.access import KeyInfo, Role
from belljar.errors import InvalidInput
from belljar.identity import Tenant
from belljar.service.routes import Answer, Asking, Nothing, Route, no_such
from belljar.service.scopes import LIMIT_MAX, TenantName, named_tenant

__all__ = ["ROUTES", "KeyPage", "KeysQuery", "MadeKey", "NewKey", "Rotation"]

_OVERLAP_S_MAX = 30 * 86_400


class KeysQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a tenant and those below it; of all that the principal has, without one."""

    tenant: TenantName | None = None
    after: Annotated[str, Meta(max_length=40)] = ""
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = 100


class KeyPage(msgspec.Struct, frozen=True):
    """Keys, the oldest first, those that have ended, too; `after` is the cursor of what follows."""

    keys: list[KeyInfo]
    after: str | None


class NewKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to be made. Without a tenant it is the principal's own, and that of the whole host for who has it."""

    role: Role
    tenant: TenantName | None = None
    label: Annotated[str, Meta(max_length=200)] = ""
    until: datetime | None = None


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For how many seconds the old key is still taken."""

    overlap_s: Annotated[int, Meta(ge=0, le=_OVERLAP_S_MAX)] = 0


class MadeKey(msgspec.Struct, frozen=True):
    """A key that was made. Nobody can show its `text` again."""

    key: KeyInfo
    text: str


async def _in_body(asking: Asking[Any, NewKey]) -> Tenant | None:
    return _named(asking)


def _named(asking: Asking[Any, NewKey]) -> Tenant | None:
    named = asking.body.tenant
    return asking.who.tenant if named is None else Tenant(named)


async def _of_key(asking: Asking[Any, Any]) -> Tenant | None:
    key = asking.params["key"]
    asking.about = f"key:{key[:40]}"
    error = InvalidInput(f"there is no key {key[:40]!a}: GET /v1/keys lists them", code="key.missing")
    try:
        tenant = (await asking.service.access.keys.get(key)).tenant
    except InvalidInput:
        raise error from None  # the same words as for somebody else's
    return no_such(asking, None if tenant is None else Tenant(tenant), error)


async def _ls(asking: Asking[KeysQuery, None]) -> KeyPage:
    query = asking.query
    found = await asking.service.access.keys.ls(asking.tenant, after=query.after, limit=query.limit)
    return KeyPage(found, found[-1].id if len(found) == query.limit else None)


async def _make(asking: Asking[Nothing, NewKey]) -> Answer:
    body = asking.body
    made = asking.service.access.keys.make(_named(asking), body.role, label=body.label, until=body.until, by=asking.who)
    info, text = await made
    asking.about = f"key:{info.id}"
    return Answer(MadeKey(info, text), 201)


async def _rotate(asking: Asking[Nothing, Rotation]) -> Answer:
    keys = asking.service.access.keys
    info, text = await keys.rotate(asking.params["key"], by=asking.who, overlap_s=asking.body.overlap_s)
    return Answer(MadeKey(info, text), 201)


async def _revoke(asking: Asking[Nothing, None]) -> KeyInfo:
    return await asking.service.access.keys.revoke(asking.params["key"], by=asking.who)


ROUTES = (
    Route(
        method="GET",
        path="/v1/keys",
        summary="List keys",
        action="key.read",
        owner=named_tenant,
        handler=_ls,
        query=KeysQuery,
        answer=KeyPage,
    ),
    Route(
        method="POST",
        path="/v1/keys",
        summary="Make a key",
        action="key.write",
        owner=_in_body,
        handler=_make,
        body=NewKey,
        answer=MadeKey,
        status=201,
        refuses=(409,),
    ),
    Route(
        method="POST",
        path="/v1/keys/{key}/rotate",
        summary="Replace a key",
        action="key.write",
        owner=_of_key,
        handler=_rotate,
        body=Rotation,
        answer=MadeKey,
        status=201,
        refuses=(409,),
    ),
    Route(
        method="DELETE",
        path="/v1/keys/{key}",
        summary="End a key",
        action="key.write",
        owner=_of_key,
        handler=_revoke,
        answer=KeyInfo,
    ),
)
