"""`/v1/contexts`: what a tenant has registered for its runs to read, and what is in it, page by page."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from belljar.context import Document, Kind, OpenDocument, first_items
from belljar.errors import InvalidInput
from belljar.identity import Tenant
from belljar.service.problems import Unfit
from belljar.service.routes import Answer, Asking, Route
from belljar.service.scopes import LIMIT_MAX, Cursor, TenantName, page_of

__all__ = [
    "ROUTES",
    "ContextInfo",
    "ContextPage",
    "ContextQuery",
    "Item",
    "ItemsPage",
    "ItemsQuery",
    "NewJson",
    "NewText",
    "OfTenant",
    "TextPage",
    "TextQuery",
    "info_of",
]

_T = TypeVar("_T")

_PAGE_CHARS_MAX = 256 * 1024
_ITEMS_MAX = 1000
_KEY_CHARS_MAX = 200
_PLACE_MAX = 2**48
_DIGEST = re.compile(r"[0-9a-f]{64}")
Name = Annotated[str, Meta(min_length=1, max_length=200)]


class ContextInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A context. `context` is its SHA-256, which names it. `items` are those of a list or object, `lines` of a text."""

    context: str
    tenant: str
    name: str
    kind: Kind
    chars: int
    bytes: int
    items: int
    lines: int
    added_ns: int


class ContextQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one tenant: the principal's own, or `default` for who has all, if none is named; `name` finds one by it."""

    tenant: TenantName | None = None
    name: Name | None = None
    after: Cursor | None = None
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = 100


class ContextPage(msgspec.Struct, frozen=True):
    """Contexts, the oldest first; `after` is the cursor of what follows."""

    contexts: list[ContextInfo]
    after: str | None = None


class OfTenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose the context is: the principal's own, or `default` for who has all, if none is named."""

    tenant: TenantName | None = None


class TextQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which characters: `chars` of them from `start` on, or from the beginning of `line` on."""

    tenant: TenantName | None = None
    start: Annotated[int, Meta(ge=0, le=_PLACE_MAX)] | None = None
    line: Annotated[int, Meta(ge=0, le=_PLACE_MAX)] | None = None
    chars: Annotated[int, Meta(ge=1, le=_PAGE_CHARS_MAX)] = 16 * 1024


class TextPage(msgspec.Struct, frozen=True):
    """Characters [start, stop) of a context of `chars`. Of a list or an object they are those of its strings."""

    start: int
    stop: int
    chars: int
    text: str


class ItemsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which items: `limit` of them from number `start` on."""

    tenant: TenantName | None = None
    start: Annotated[int, Meta(ge=0, le=_PLACE_MAX)] = 0
    limit: Annotated[int, Meta(ge=1, le=_ITEMS_MAX)] = 100


class Item(msgspec.Struct, frozen=True):
    """An item: its key, cut if it is long, and how many characters it has. In a list the key is null."""

    key: str | None
    chars: int


class ItemsPage(msgspec.Struct, frozen=True):
    """Some of the `items` of a list or an object, from number `start` on."""

    start: int
    items: int
    found: list[Item]


class NewText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="text", tag_field="kind"):
    """A text."""

    name: Name
    text: Annotated[str, Meta(min_length=1)]
    tenant: TenantName | None = None


class NewJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="json", tag_field="kind"):
    """A list or an object of JSON."""

    name: Name
    value: list[Any] | dict[str, Any]
    tenant: TenantName | None = None


def info_of(document: Document, tenant: str) -> ContextInfo:
    return ContextInfo(
        context=document.sha256,
        tenant=tenant,
        name=document.name,
        kind=document.kind,
        chars=document.chars,
        bytes=document.bytes,
        items=document.items,
        lines=document.lines,
        added_ns=document.added_ns,
    )


async def _of_query(asking: Asking[Any, Any]) -> Tenant | None:
    return asking.named(asking.query.tenant)


async def _of_body(asking: Asking[Any, Any]) -> Tenant | None:
    return asking.named(asking.body.tenant)


async def _ls(asking: Asking[ContextQuery, None]) -> ContextPage:
    tenant, query = asking.named(asking.query.tenant), asking.query
    if query.name is not None:
        named = await asyncio.to_thread(asking.host.registered, query.name, tenant=tenant)
        return ContextPage([info_of(named, tenant)])

    def work() -> ContextPage:
        found = asking.host.contexts(tenant=tenant)
        page, after = page_of(found, lambda one: one.sha256, query.after, query.limit)
        return ContextPage([info_of(one, tenant) for one in page], after)

    return await asyncio.to_thread(work)


async def _add(asking: Asking[Any, NewText | NewJson]) -> Answer:
    body, tenant = asking.body, asking.named(asking.body.tenant)
    source = body.text if isinstance(body, NewText) else body.value
    if isinstance(source, list | dict) and not source:
        raise Unfit("there is nothing in it; send at least one item", at="$.value", code="context.empty")
    document = await asking.host.add_context(source, name=body.name, tenant=tenant)
    asking.about = document.sha256
    return Answer(info_of(document, tenant), 201, {"location": f"/v1/contexts/{document.sha256}"})


async def _found(asking: Asking[Any, Any]) -> Document:
    asking.about = asking.params["context"]
    if _DIGEST.fullmatch(asking.about) is None:
        raise InvalidInput(
            f"there is no context {asking.about[:80]!a}: a path has the 64 hex digits of its SHA-256, which "
            "GET /v1/contexts?name=NAME tells",
            code="context.unknown",
        )
    reference = f"sha256:{asking.about}"
    return await asyncio.to_thread(asking.host.registered, reference, tenant=asking.named(asking.query.tenant))


async def _show(asking: Asking[OfTenant, None]) -> ContextInfo:
    return info_of(await _found(asking), asking.named(asking.query.tenant))


async def _remove(asking: Asking[OfTenant, None]) -> None:
    document = await _found(asking)
    reference = f"sha256:{document.sha256}"
    await asyncio.to_thread(asking.host.remove_context, reference, tenant=asking.named(asking.query.tenant))


async def _text(asking: Asking[TextQuery, None]) -> TextPage:
    query = asking.query
    if query.start is not None and query.line is not None:
        raise Unfit("give either `start` or `line`", at="?line")
    document = await _found(asking)

    def work(opened: OpenDocument) -> TextPage:
        start = query.start or 0
        if query.line is not None:
            if document.kind != "text" or query.line >= document.lines:
                raise _beyond("line", document.lines)
            start = opened.char_of(opened.line_start(query.line))
        if start > document.chars:
            raise _beyond("start", document.chars)
        stop = min(document.chars, start + query.chars)
        return TextPage(start, stop, document.chars, str(opened.read(start, stop), "utf-8", "replace"))

    return await _opened(asking, document, work)


async def _items(asking: Asking[ItemsQuery, None]) -> ItemsPage:
    query, document = asking.query, await _found(asking)

    def work(opened: OpenDocument) -> ItemsPage:
        if document.kind == "text" or query.start > document.items:
            raise _beyond("start", document.items)
        stop = min(document.items, query.start + query.limit)
        with opened.directory() as directory:
            found = first_items(opened, directory, range(query.start, stop), _KEY_CHARS_MAX)
        return ItemsPage(query.start, document.items, [Item(one.key, one.chars) for one in found])

    return await _opened(asking, document, work)


async def _opened(asking: Asking[Any, Any], document: Document, work: Callable[[OpenDocument], _T]) -> _T:
    tenant = asking.named(asking.query.tenant)

    def go() -> _T:
        with asking.host.open_context(document.sha256, tenant=tenant) as opened:
            return work(opened)

    return await asyncio.to_thread(go)


def _beyond(name: str, there: int) -> InvalidInput:
    return Unfit(f"there are only {there}; ask for less", at=f"?{name}", code="context.range")


ROUTES = (
    Route(
        method="GET",
        path="/v1/contexts",
        summary="List the contexts of a tenant",
        action="context.read",
        owner=_of_query,
        handler=_ls,
        query=ContextQuery,
        answer=ContextPage,
        refuses=(404,),
    ),
    Route(
        method="POST",
        path="/v1/contexts",
        summary="Register a context that fits into a request",
        action="context.write",
        owner=_of_body,
        handler=_add,
        body=NewText | NewJson,
        answer=ContextInfo,
        status=201,
    ),
    Route(
        method="GET",
        path="/v1/contexts/{context}",
        summary="Show a context",
        action="context.read",
        owner=_of_query,
        handler=_show,
        query=OfTenant,
        answer=ContextInfo,
    ),
    Route(
        method="DELETE",
        path="/v1/contexts/{context}",
        summary="Remove a context that no run has open",
        action="context.write",
        owner=_of_query,
        handler=_remove,
        query=OfTenant,
        status=204,
        refuses=(409,),
    ),
    Route(
        method="GET",
        path="/v1/contexts/{context}/text",
        summary="Read a range of a context",
        action="context.read",
        owner=_of_query,
        handler=_text,
        query=TextQuery,
        answer=TextPage,
    ),
    Route(
        method="GET",
        path="/v1/contexts/{context}/items",
        summary="List items of a list or an object",
        action="context.read",
        owner=_of_query,
        handler=_items,
        query=ItemsQuery,
        answer=ItemsPage,
    ),
)
