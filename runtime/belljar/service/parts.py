"""What stands beside the API: pages for people, tools over MCP, metrics, webhooks, spans. Each is an `Extra`.

Who asks a page shows the cookie of a session, who asks anything else here the same key or token as for the API. What
the API promises of its records holds for all of them: a request stands in the log before its answer leaves. So do its
bounds: a request has a place among its tenant's (`_enter`), and its body room among all bodies (`_counted`).

The SDK of MCP takes seconds to load, and most services are never asked for it. So it is loaded, beside the loop, when
the first request comes; that one waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.types import Message, Receive, Scope, Send

from belljar.access import BELIEVED_S, Principal, Session, demand, permits
from belljar.audit.events import HttpRequest
from belljar.config import TelemetryTable
from belljar.errors import BelljarError
from belljar.heavy import off_loop
from belljar.hooks import Deliveries, watch_quotas
from belljar.hooks.quotas import LOOK_S
from belljar.identity import Tenant
from belljar.jobs import Busy, OrderState
from belljar.service.app import Extra, Make
from belljar.service.front.offered import profiles_for
from belljar.service.metrics import HostSources, Metrics, MetricsPage
from belljar.service.pages import HostReader, Visitor, pages
from belljar.service.pages.acting import DeskActions, DeskQueue
from belljar.service.pages.standing import errors_section, queue_section
from belljar.service.provider_errors import ProviderErrors
from belljar.service.records import address_of, request_record
from belljar.service.routes import (
    Asking,
    Nothing,
    Refused,
    Resource,
    Route,
    Service,
    check_json,
    cookie_of,
    problem_told,
    who_asks,
    whole_host,
)
from belljar.service.settings import DEMO
from belljar.service.traces import Traces
from belljar.service.values import Values
from belljar.tasks import stopped

if TYPE_CHECKING:
    from belljar.service.mcp import McpHttp

__all__ = ["parts"]

_log = logging.getLogger("belljar.service")

# What a run's end tells a hook of it, and no more: nothing that was said.
_TOLD: Final = ("run", "tenant", "state", "by", "model", "policy", "asked_ns", "started_ns", "ended_ns", "cost_nanousd")

# How long a service may be away, and still tells of what ended just before it was killed.
_MISSED_S: Final = 3600
# How long after its end a run of a process that died may be found as one that has.
_LATE_S: Final = 60


def parts(telemetry: TelemetryTable | None = None) -> Sequence[Make]:
    """All of them, for `application`; spans only where `telemetry` names a collector."""
    traces: list[Traces] = []
    makes: list[Make] = [_pages, _hooks, functools.partial(_metrics, traces)]
    if telemetry is not None and telemetry.otlp is not None:
        makes.append(functools.partial(_traces, telemetry, traces))
    if importlib.util.find_spec("mcp") is not None:
        makes.append(_mcp)
    return makes


async def _principal(service: Service, route: str, scope: Scope) -> Principal:
    """Who sends a request, by a key, a token or a cookie; or still does, once it was let in. Raises as `who_asks`."""
    method, _, path = route.partition(" ")
    about = Route(method=method, path=path, summary="", handler=_nothing, action=None, owner=whole_host)
    scope["belljar.route"] = route
    asking: Asking[Any, Any] = Asking(service, Request(scope), about)
    asking.principal = scope.get("belljar.principal")  # of a call under way
    principal = await who_asks(asking)
    scope["belljar.by"] = principal.name
    return principal


async def _nothing(_: Asking[Any, Any]) -> None:
    """Nothing here is handled by a route of the table."""


def _enter(service: Service, scope: Scope, principal: Principal) -> None:
    """Let in a request of somebody known. Raises Busy where their tenant has too many."""
    service.enter(scope, principal.tenant)
    scope["belljar.principal"] = principal


@contextlib.contextmanager
def _counted(
    service: Service,
    scope: Scope,
    receive: Receive,
    prove: Callable[[], Awaitable[object]],
    *,
    within_s: float | None = None,
) -> Iterator[Receive]:
    """The room of a request's body, for the length of a block.

    Of nobody known it is not counted: they are sent away, or read with a bound that is small.

    Args:
        prove: finds out whether somebody known may still ask, once a body that came slowly is there.
        within_s: how long the body may take, where nobody else looks at that.

    Yields:
        What to receive with. It raises Busy: there is no room, or the service ends; Refused: the body takes too long
        (`request.slow`); what `prove` raises.
    """
    clock = asyncio.get_running_loop().time
    began = clock()
    until = None if within_s is None else began + within_s
    held, is_read = 0, False

    async def receiving() -> Message:
        nonlocal held, is_read
        if is_read:
            return await receive()
        try:
            async with service.patience(None if until is None else until - clock()):
                message = await receive()
        except TimeoutError:
            raise Refused(f"the body took longer than {within_s:g} s; send it faster", code="request.slow") from None
        is_read = message["type"] != "http.request" or not message.get("more_body", False)
        principal: Principal | None = scope.get("belljar.principal")
        if principal is not None and (size := len(message.get("body", b""))):
            service.bodies.take(principal.tenant, size)
            held += size
        if principal is not None and is_read and message["type"] == "http.request" and clock() >= began + BELIEVED_S:
            await prove()
        return message

    try:
        yield receiving
    finally:
        if held:
            service.bodies.leave(scope["belljar.principal"].tenant, held)


# -- pages -------------------------------------------------------------------------------------------------------------


def _pages(service: Service) -> Extra:
    models = (*service.settings.models, DEMO)
    errors = ProviderErrors()
    service.host.heard_by(errors.observe)
    reader = HostReader(
        service.host,
        version=version("belljar"),
        more=lambda: [queue_section(service.desk), errors_section(errors)],
        queue=DeskQueue(service.desk),
        environ=service.host.environ,
    )
    made = pages(
        reader,
        DeskActions(service),
        who=functools.partial(_visitor, service),
        models=models,
        profiles=lambda tenant: list(profiles_for(service, tenant)),
        form_s=service.settings.body_s,
    )

    @contextlib.asynccontextmanager
    async def running() -> AsyncIterator[None]:
        async with contextlib.aclosing(reader):
            yield

    paths: dict[str, list[StarletteRoute]] = {}
    for page in made:
        paths.setdefault(page.path, []).append(page)
    return Extra([StarletteRoute(path, _Page(service, path, found)) for path, found in paths.items()], running)


async def _visitor(service: Service, request: Request) -> Visitor | None:
    cookie = cookie_of(request)
    if cookie is None:
        return None
    session = await service.access.sessions.check(cookie)
    request.scope["belljar.session"] = session
    principal = session.principal
    request.scope["belljar.by"] = principal.name
    try:
        _enter(service, request.scope, principal)
    except Busy as busy:
        await service.host.log(request_record(principal, request.scope["belljar.route"], 503, code=busy.code))
        raise

    def may(action: Any, tenant: Tenant | None) -> bool:
        return permits(principal, action, tenant)

    return Visitor(principal.name, principal.tenant, principal.role, session.csrf, may)


async def _still_visits(service: Service, request: Request) -> None:
    """Raises AccessDenied where the session of a visitor has ended."""
    await service.access.sessions.check(cookie_of(request) or "")


class _Page(Resource):
    """All of one path for people, with a record of each time that it is shown; forms and refusals are recorded there.

    Files that never change tell nothing of anybody, nor does the login, which is all that a stranger is shown: as often
    as they like, and so in no log.
    """

    def __init__(self, service: Service, path: str, pages: Sequence[StarletteRoute]) -> None:
        super().__init__(service, path, ())
        self._pages: dict[str, Callable[[Request], Awaitable[Response]]] = {
            method: page.endpoint for page in pages for method in page.methods or ()
        }
        self.allow = ", ".join(sorted({*self._pages, "OPTIONS"}))

    async def answer(self, request: Request) -> Response:
        page = self._pages.get(request.method)
        if page is None:
            return await super().answer(request)
        scope = request.scope
        scope["belljar.route"] = f"{request.method} {self.path}"
        try:
            still = functools.partial(_still_visits, self.service, request)
            with _counted(self.service, scope, request.receive, still) as receiving:
                response = await page(Request(scope, receiving))
            session: Session | None = scope.get("belljar.session")
            if request.method != "POST" and response.status_code < 400 and session is not None:
                of = request.path_params.get("run")
                await self.service.host.log(
                    request_record(session.principal, scope["belljar.route"], response.status_code, of=of)
                )
        except BelljarError as error:  # the log cannot be written: nothing is shown
            response, _ = problem_told(Asking(self.service, request, self._other(request)), error)
        return response


# -- tools over MCP ----------------------------------------------------------------------------------------------------


class _Mcp:
    """The protocol's application, made when it is first asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._wanted = asyncio.Event()
        self._made: asyncio.Future[McpHttp] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._made is not None, "it runs"
        self._wanted.set()
        app = await asyncio.shield(self._made)
        values, pieces = Values(), list[bytes]()
        still = functools.partial(_principal, self._service, "POST /mcp", scope)
        with _counted(self._service, scope, receive, still, within_s=self._service.settings.body_s) as receiving:

            async def counting() -> Message:
                message = await receiving()
                if message["type"] == "http.request" and (piece := message.get("body")):
                    values.feed(piece)
                    pieces.append(piece)
                if pieces and not message.get("more_body", False):
                    body = b"".join(pieces)
                    pieces.clear()
                    await off_loop(len(body), check_json, body)
                return message

            try:
                await app(scope, counting, send)
            finally:
                self._service.leave(scope)

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        self._made = asyncio.get_running_loop().create_future()
        keeping = asyncio.create_task(self._keep(self._made))
        try:
            yield
        finally:
            await stopped(keeping)

    async def _keep(self, made: asyncio.Future[McpHttp]) -> None:
        """In one task from its beginning to its end, as its task group wants it."""
        await self._wanted.wait()
        try:
            app = await asyncio.to_thread(self._make)
        except Exception as error:  # not handled here: whoever asked is told
            made.set_exception(error)
            raise
        async with app.run():
            made.set_result(app)
            await asyncio.Event().wait()

    def _make(self) -> McpHttp:
        from belljar.service.mcp import McpService
        from belljar.service.tools import Offer

        service = self._service
        offer = Offer(models={name: name for name in (*service.settings.models, DEMO)})
        who, enter = functools.partial(_principal, service, "POST /mcp"), functools.partial(_enter, service)

        async def refused(scope: Scope, event: HttpRequest) -> None:
            await service.refusals.tell(address_of(scope), event)

        return McpService(service.desk, offer, demand=demand).http(who, enter, refused, service.settings.heartbeat_s)


def _mcp(service: Service) -> Extra:
    made = _Mcp(service)
    return Extra([StarletteRoute("/mcp", made)], made.run)


# -- metrics and spans -------------------------------------------------------------------------------------------------


def _metrics(traces: Sequence[Traces], service: Service) -> Extra:
    settings = service.settings
    of_profiles = (model for one in settings.profiles.values() for model in (one.model, one.sub_model) if model)
    metrics = Metrics({*settings.models, *of_profiles, DEMO})
    service.host.heard_by(metrics.observe)

    def queue() -> tuple[int, int]:
        load = service.desk.load()
        return load["queued"], load["running"]

    def sent() -> tuple[int, int]:
        return traces[0].counts() if traces else (0, 0)

    page = MetricsPage(metrics, HostSources(service.host, queue=queue, traces=sent))

    async def show(_: Asking[Nothing, None]) -> bytes:
        return await page.read()

    route = Route(
        method="GET",
        path="/metrics",
        summary="Show metrics",
        action="metrics.read",
        owner=whole_host,
        handler=show,
        answer=bytes,
        gives=(CONTENT_TYPE_LATEST,),
    )
    return Extra([StarletteRoute(route.path, Resource(service, route.path, [route]))])


def _traces(telemetry: TelemetryTable, traces: list[Traces], service: Service) -> Extra:
    assert telemetry.otlp is not None, "it is asked for"
    endpoint = telemetry.otlp

    @contextlib.asynccontextmanager
    async def running() -> AsyncIterator[None]:
        keys = service.host.keys if telemetry.contents else None
        made = Traces(service.host, endpoint, keys=keys, caller_of=service.desk.caller_of)
        traces.append(made)
        try:
            yield
        finally:
            await made.aclose()

    return Extra(running=running)


# -- webhooks ----------------------------------------------------------------------------------------------------------


def _hooks(service: Service) -> Extra:
    hooks = service.hooks
    telling: set[asyncio.Task[None]] = set()

    async def tell(deliveries: Deliveries, state: OrderState, at: int | None = None) -> None:
        data = {name: getattr(state, name) for name in _TOLD}
        try:
            if await hooks.tell("run.ended", Tenant(state.tenant), state.run, data, at=at):
                deliveries.wake()
        except BelljarError as error:
            _log.warning("belljar: hooks do not hear of the end of %s: %s", state.run, error)

    async def catch_up(deliveries: Deliveries) -> None:
        """Tell of the ends that no process told of before it was killed. What was told of is not told again."""
        since, interrupted = int(hooks.clock() - _MISSED_S), False
        while True:
            try:
                now = int(hooks.clock())
                if any("run.ended" in hook.told for hook in await hooks.ls()):
                    for run, at in await service.desk.lately(since, interrupted=interrupted):
                        await tell(deliveries, await service.desk.brief(run), at)
                since, interrupted = now - _LATE_S, True  # of its own runs this process hears from now on
            except BelljarError as error:
                _log.warning("belljar: hooks do not hear of the ends of runs whose process was killed: %s", error)
            await asyncio.sleep(LOOK_S)

    @contextlib.asynccontextmanager
    async def running() -> AsyncIterator[None]:
        async with Deliveries(hooks) as deliveries:

            def ended(state: OrderState) -> None:
                task = asyncio.create_task(tell(deliveries, state))
                telling.add(task)
                task.add_done_callback(telling.discard)

            service.desk.on_end(ended)
            watching = asyncio.create_task(watch_quotas(hooks, service.host.quotas))
            catching = asyncio.create_task(catch_up(deliveries))
            try:
                yield
            finally:
                await stopped(watching)
                await stopped(catching)
                await asyncio.gather(*telling, return_exceptions=True)

    return Extra(running=running)
