"""The application: every route of the table in its place, behind the guard."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.routing import Route as StarletteRoute

from belljar.access import Authenticator
from belljar.host import Host
from belljar.jobs import Desk
from belljar.service.api import ROUTES
from belljar.service.front import anthropic, openai
from belljar.service.guard import Guard
from belljar.service.routes import Asking, Faults, Refused, Resource, Route, Service, whole_host
from belljar.service.settings import ServiceSettings

__all__ = ["Extra", "Make", "application"]


class Extra(msgspec.Struct, frozen=True):
    """What stands beside the table's routes: pages, metrics, another protocol. They check who asks themselves.

    `running` is entered while the application is up: a session manager that a mounted one needs, say.
    """

    routes: Sequence[BaseRoute] = ()
    running: Callable[[], AbstractAsyncContextManager[object]] | None = None


# Makes an extra for a service, whose host, desk and access it may use.
Make = Callable[[Service], Extra]


def application(
    host: Host,
    desk: Desk,
    access: Authenticator,
    settings: ServiceSettings,
    *,
    extras: Sequence[Make] = (),
) -> Starlette:
    """The service over an open host and an open desk, both of which outlive it.

    Args:
        access: finds out who asks.

    Returns:
        The application; its `state.service` is what the handlers share.
    """
    service = Service(host, desk, access, settings)
    service.document = functools.cache(_document)
    paths: dict[str, list[Route]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, []).append(route)
    # A path with fewer parts that vary is the more exact one.
    table: list[BaseRoute] = [
        StarletteRoute(path, Resource(service, path, paths[path]))
        for path in sorted(paths, key=lambda path: path.count("{"))
    ]

    made = [make(service) for make in extras]

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(service.refusals.settling())
            for extra in made:
                if extra.running is not None:
                    await stack.enter_async_context(extra.running())
            yield

    app = Starlette(
        routes=[*table, *(route for extra in made for route in extra.routes)],
        lifespan=lifespan,
        middleware=[Middleware(Guard, settings=settings, observers=service.observers, count=service.refusals.count)],
    )
    app.router.redirect_slashes = False
    app.router.default = _Unknown(service)
    app.state.service = service
    return app


def _document() -> bytes:
    from belljar.service.openapi import document  # here: nobody who starts a service waits for it

    return msgspec.json.encode(document(ROUTES))


class _Unknown(Resource):
    """Every path that there is not. Whoever tries many of them is held up like whoever tries many keys."""

    def __init__(self, service: Service) -> None:
        super().__init__(service, "(unknown)", ())

    def _other(self, request: Request) -> Route:
        faults = _faults_for(request)

        async def tell(asking: Asking[Any, Any]) -> None:
            asking.stranger()
            told = "there is no such path; /v1/openapi.json names them all"
            if faults is not None:
                told = "there is no such path: of such an API there are /v1/messages, /v1/chat/completions, /v1/models"
            raise Refused(told, code="route.unknown")

        return Route(
            method="OTHER", path=self.path, summary="", handler=tell, action=None, owner=whole_host, faults=faults
        )


def _faults_for(request: Request) -> Faults | None:
    """How the SDK of a provider, if one asks, expects to be told of an error: else it shows nothing but the status."""
    if "anthropic-version" in request.headers:
        return anthropic.FAULTS
    return openai.FAULTS if "x-stainless-lang" in request.headers else None
