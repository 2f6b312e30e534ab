"""The record of a request, whichever way it came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from belljar.access import NOBODY
from belljar.audit.events import HttpRequest
from belljar.identity import Tenant

__all__ = ["Known", "address_of", "request_record"]

_OF_CHARS_MAX: Final = 200


class Known(Protocol):
    """Somebody who proved who they are. The tenant None is the whole host."""

    @property
    def name(self) -> str: ...
    @property
    def tenant(self) -> Tenant | None: ...
    @property
    def role(self) -> str: ...


def address_of(scope: Mapping[str, Any]) -> str:
    """Where a request comes from; behind a trusted proxy, what that tells."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def request_record(
    who: Known | None,
    route: str,
    status: int,
    *,
    of: str | None = None,
    code: str | None = None,
    tenant: Tenant | None = None,
) -> HttpRequest:
    """What the log has of it.

    Args:
        who: None where that is nobody known.
        of: what it was about.
        tenant: for whom they acted, where that need not be their own.
    """
    if tenant is None and who is not None:
        tenant = who.tenant
    return HttpRequest(
        by=NOBODY if who is None else who.name,
        route=route,
        status=status,
        tenant=None if tenant is None else str(tenant),
        role=None if who is None else who.role,
        of=None if of is None else of[:_OF_CHARS_MAX],
        code=code,
    )
