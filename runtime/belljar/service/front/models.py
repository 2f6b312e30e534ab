"""`GET /v1/models`: the names that a program may give as its model, for this caller.

Two APIs have this path. A client of the Messages API says which version of that it speaks, and gets its words; any
other one gets those of the Chat Completions API.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from belljar.service.front.offered import MODEL_PREFIX, offered
from belljar.service.routes import Asking, Route, own
from belljar.service.scopes import Cursor, page_of

__all__ = ["ROUTES", "ModelList", "ModelOffered", "ModelsQuery"]

_VERSION: Final = "anthropic-version"
_LIMIT_MAX: Final = 1000
# Nobody knows since when a name is offered; both APIs want a time.
_SINCE: Final = datetime.fromtimestamp(0, UTC)


class ModelsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A page of the list: at most so many, behind the one with the id `after_id`. `beta` has no effect."""

    limit: Annotated[int, Meta(ge=1, le=_LIMIT_MAX)] = _LIMIT_MAX
    after_id: Cursor | None = None
    beta: bool = False


class ModelOffered(msgspec.Struct, frozen=True, kw_only=True):
    """A name that may be given as the model.

    `type`, `display_name` and `created_at` are the Messages API's, `object`, `created` and `owned_by` the other one's.
    """

    id: str
    type: str | UnsetType = UNSET
    display_name: str | UnsetType = UNSET
    created_at: datetime | UnsetType = UNSET
    object: str | UnsetType = UNSET
    created: int | UnsetType = UNSET
    owned_by: str | UnsetType = UNSET


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller may name. `object` is there for the Chat Completions API, the rest for the Messages API."""

    data: list[ModelOffered]
    object: str | UnsetType = UNSET
    has_more: bool | UnsetType = UNSET
    first_id: str | UnsetType | None = UNSET
    last_id: str | UnsetType | None = UNSET


async def _ls(asking: Asking[ModelsQuery, None]) -> ModelList:
    query, names = asking.query, list(offered(asking.service, asking.named(None)))
    page, more = page_of(names, str, query.after_id, query.limit, name="after_id")
    if _VERSION not in asking.request.headers:
        created = int(_SINCE.timestamp())
        return ModelList(
            data=[ModelOffered(id=name, object="model", created=created, owned_by="belljar") for name in page],
            object="list",
        )
    return ModelList(
        data=[_described(name) for name in page],
        has_more=more is not None,
        first_id=page[0] if page else None,
        last_id=page[-1] if page else None,
    )


def _described(name: str) -> ModelOffered:
    shown = name.removeprefix(MODEL_PREFIX)
    return ModelOffered(id=name, type="model", display_name=shown, created_at=_SINCE)


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/v1/models",
        summary="List the models that programs may name, as either API does",
        action="run",
        owner=own,
        handler=_ls,
        query=ModelsQuery,
        answer=ModelList,
        headers={_VERSION: "Of the Messages API: the list is as that has it, else as the Chat Completions API does."},
    ),
)
