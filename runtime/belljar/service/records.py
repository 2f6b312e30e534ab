"""The record of a request, whichever way it came."""

from __future__ import annotations

from typing import Final, Protocol

from belljar.access import NOBODY
from belljar.audit.events import HttpRequest
from belljar.identity import Tenant

__all__ = ["Known", "request_record"]

_OF_CHARS_MAX: Final = 200


class Known(Protocol):
    """Somebody who proved who they are. The tenant None is the whole host."""

    @property
    def name(self) -> str: ...
    @property
    def tenant(self) -> Tenant | None: ...
    @property
    def role(self) -> str: ...


def request_record(
    who: Known | None, route: str, status: int, *, of: str | None = None, code: str | None = None
) -> HttpRequest:
    """What the log has of it. `who` is None where that is nobody known."""
    return HttpRequest(
        by=NOBODY if who is None else who.name,
        route=route,
        status=status,
        tenant=None if who is None or who.tenant is None else str(who.tenant),
        role=None if who is None else who.role,
        of=None if of is None else of[:_OF_CHARS_MAX],
        code=code,
    )
