"""The service: what `Host` and `Desk` do, for whoever speaks HTTP.

`routes` has what a route is, and what is done with each request; `api` the routes, one module for each subject; `app`
puts them together; `server` listens. Nothing here decides anything: a handler asks `Host`, `Desk` or `ApiKeys`, and
answers what they say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from belljar.service.app import application
    from belljar.service.routes import Service
    from belljar.service.settings import ServiceSettings

__all__ = ["Service", "ServiceSettings", "application"]

_PLACES = {"application": "app", "Service": "routes", "ServiceSettings": "settings"}


def __getattr__(name: str) -> Any:
    """Loaded when it is first asked for: whoever only reads the settings needs no web framework."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"belljar.service.{_PLACES[name]}"), name)
