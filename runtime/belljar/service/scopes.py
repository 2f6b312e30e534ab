"""What several routes share: whose a run is, how one ended, which tenants are below one, and pages of a list."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, TypeVar

from msgspec import Meta

from belljar.errors import InvalidInput
from belljar.identity import RunId, Tenant
from belljar.jobs import NoSuchRun, OrderState
from belljar.service.listening import Proof
from belljar.service.problems import Unfit
from belljar.service.routes import Asking, no_such, who_asks

__all__ = ["LIMIT_MAX", "Cursor", "TenantName", "ended", "named_tenant", "of_run", "page_of", "proof_of"]

_T = TypeVar("_T")

LIMIT_MAX: Final = 1000
# How often somebody who waits is looked for.
_LOOK_S: Final = 2.0
TenantName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,62}(/[a-z0-9][a-z0-9._-]{0,62}){0,7}\Z",
        max_length=512,
        description="1 to 8 names of a-z 0-9 . _ - joined by '/', such as acme/research",
    ),
]
Cursor = Annotated[str, Meta(min_length=1, max_length=700)]


async def named_tenant(asking: Asking[Any, Any]) -> Tenant | None:
    """The tenant that the query names, or else all that the principal has."""
    named: str | None = asking.query.tenant
    return asking.who.tenant if named is None else Tenant(named)


async def ended(asking: Asking[Any, Any], run: str, within_s: float = math.inf) -> OrderState:
    """A run once it has ended, or as it is after so many seconds, or when its client has gone away.

    Raises:
        AccessDenied: the key was revoked meanwhile, or the token has expired.
        NoSuchRun, HostFault: as `Desk.get`.
    """
    clock = asyncio.get_running_loop().time
    until, proof = clock() + within_s, proof_of(asking)
    while True:
        state = await asking.desk.wait(run, max(0.0, min(_LOOK_S, until - clock())))
        if not state.is_open or clock() >= until or await asking.request.is_disconnected():
            return state
        await proof.renew()


def proof_of(asking: Asking[Any, Any]) -> Proof:
    """That who asks may still hear of a run, which is looked at as often as there is a sign of life."""
    return Proof(lambda: who_asks(asking), asking.service.settings.heartbeat_s)


async def of_run(asking: Asking[Any, Any]) -> Tenant | None:
    """The tenant of the run that the path names: as if there were none where it is somebody else's."""
    run = asking.params["run"]
    asking.about = run
    try:
        RunId(run)
    except InvalidInput:
        raise NoSuchRun(run) from None
    return no_such(asking, await asking.desk.tenant_of(run), NoSuchRun(run))


def page_of(
    found: Sequence[_T], key: Callable[[_T], str], after: str | None, limit: int, *, name: str = "after"
) -> tuple[list[_T], str | None]:
    """Of a list that is in order, at most `limit` that come behind the cursor, and the cursor of the rest.

    Args:
        name: what the parameter with the cursor is called.

    Raises:
        InvalidInput: `page.cursor`: there is no such place in it.
    """
    begin = 0
    if after is not None:
        begin = next((place + 1 for place, one in enumerate(found) if key(one) == after), -1)
        if begin < 0:
            raise Unfit(
                f"`{name}` is not a cursor of this list: begin without one, or use that of the last answer",
                at=f"?{name}",
                code="page.cursor",
            )
    page = list(found[begin : begin + limit])
    more = begin + limit < len(found)
    return page, key(page[-1]) if more and page else None
