"""What a route is, and what is done with every request, whichever route it takes.

A `Route` says all that there is to say of it: method and path, what it does to whom, what it takes and gives. From the
one table of them (`api.ROUTES`) come the routing, the check of who may, the bounds, the decoding, the document
(`openapi`) and the records of the log. So none of these can forget a route, and a handler only asks the host.

A request passes these, and the first that refuses it answers:

    method      405; OPTIONS and HEAD are answered for every path
    who         401, or 429 where too many attempts from there have failed; a cookie only with our own origin
    place       503: the tenant has half of the connections already
    role        403: the role never allows the action
    query       422
    body        411, 413, 415, 400, 422: bounded in length and time, and JSON only where it says so
    whose       404 for what is not below the principal's tenant: there is no telling whether it exists
    tenant      403: the role does not allow it there
    handler     what the host says
    record      503: `http.request` is durable before the answer leaves

What cannot be recorded is not answered: that is how the log has every request, and every refusal with its code.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeAlias, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from belljar.access import BELIEVED_S, NOBODY, Action, Authenticator, Principal, Throttle, demand, permits
from belljar.access.roles import MAY
from belljar.context import Uploads
from belljar.errors import AccessDenied, AccessForbidden, BelljarError, HostFault, InvalidInput, Refusal
from belljar.fitting import misfit
from belljar.heavy import off_loop
from belljar.hooks import Hooks
from belljar.host import Host
from belljar.identity import DEFAULT_TENANT, Tenant, TraceParent
from belljar.jobs import Busy, Desk
from belljar.jobs.again import Readings
from belljar.members import check_names
from belljar.service.encoding import encode, encoded
from belljar.service.problems import MEDIA_TYPE, Problem, Unfit, code_of, headers_of, problem_of
from belljar.service.readiness import Readiness
from belljar.service.records import address_of, request_record
from belljar.service.refusals import Refusals
from belljar.service.room import Places, Room
from belljar.service.settings import ServiceSettings
from belljar.service.streams import READINGS_MAX
from belljar.service.values import Values, decode

__all__ = [
    "COOKIE",
    "IDEMPOTENCY",
    "JSON",
    "TRACEPARENT",
    "Answer",
    "Asking",
    "Faults",
    "Nothing",
    "Refused",
    "Resource",
    "Route",
    "Service",
    "check_json",
    "cookie_name",
    "cookie_of",
    "decoded",
    "no_such",
    "own",
    "problem_told",
    "query_of",
    "respond",
    "who_asks",
    "whole_host",
    "within",
]

_T = TypeVar("_T")
_Q = TypeVar("_Q", bound=msgspec.Struct)
_B = TypeVar("_B")

JSON: Final = "application/json"
COOKIE: Final = "belljar_session"
# Of routes that begin a run.
TRACEPARENT: Final = {"traceparent": "W3C Trace Context: the span of the client's that the spans of the run are below."}
IDEMPOTENCY: Final = {
    "Idempotency-Key": "The same request with the same key makes one run, however often it comes.",
}
_log = logging.getLogger("belljar.service")
_STOPPED_AGAIN_S: Final = 5.0
_FINISHING: Final = 2
# Of a cookie that anybody may send.
_OF_ANYBODY: Final = ("access.session", "route.origin")
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A query without parameters."""


class Refused(InvalidInput):
    """A request that is refused as HTTP before anybody looks at what it asks. `headers` go with the answer."""

    def __init__(self, message: str, *, code: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message, code=code)
        self.headers = dict(headers or {})


class Service:
    """What the handlers share.

    Attributes:
        stopping: set by `stop`, when the service is to end; streams end then.
        strangers: counts what is asked from each address by nobody in particular.
        refusals: logs and counts what nobody in particular was refused.
        examining, verifying: held by the one examination of this host, and the one reading of the whole log, that there
            is at a time.
        readings: of whole runs and logs.
        finishing: of uploads that have arrived, each of which may take minutes to take in.
        bodies: bytes of bodies that were sent and are still held.
        document: makes the service's own, in JSON.
        hooks: whom the service tells what happens.
        observers: told of each answer: the route, the status, and the seconds until its head left.
        folders: paths of this host that no answer names.
    """

    def __init__(self, host: Host, desk: Desk, access: Authenticator, settings: ServiceSettings) -> None:
        self.host = host
        self.desk = desk
        self.access = access
        self.settings = settings
        self.stopping = asyncio.Event()
        self.strangers = Throttle()
        self.refusals = Refusals(host.log)
        self.readiness = Readiness(host)
        self.examining = asyncio.Lock()
        self.verifying = asyncio.Lock()
        self.readings = Room(READINGS_MAX, READINGS_MAX // 2, "long readings")
        self.finishing = Readings(_FINISHING)
        most = max(settings.bodies_bytes, 4 * settings.body_bytes)
        self.bodies = Room(most, most // 2, "large requests")
        self.document: Callable[[], bytes] = bytes
        self.hooks = Hooks(host.journal, host.audit, host.keys, private=settings.hooks_private)
        self.uploads = Uploads(host.state.uploads, bytes_max=settings.upload_bytes, keep_s=settings.uploads_s)
        self.observers: list[Callable[[str, int, float], None]] = []
        self.folders = desk.folders
        self._places = Places(settings.connections)
        self._patience: set[asyncio.Timeout] = set()

    def stop(self) -> None:
        """The service ends: nobody who listens hears more, and nobody who still sends is waited for."""
        self.stopping.set()
        for limit in self._patience:
            if not limit.expired():
                limit.reschedule(0)

    @contextlib.asynccontextmanager
    async def patience(self, within_s: float | None) -> AsyncIterator[None]:
        """A block that waits for what a client sends, for so many seconds at most.

        Raises:
            TimeoutError: nothing came.
            Busy: `service.draining`: the service ends.
        """
        try:
            async with asyncio.timeout(0 if self.stopping.is_set() else within_s) as limit:
                self._patience.add(limit)
                try:
                    yield
                finally:
                    self._patience.discard(limit)
        except TimeoutError:
            if self.stopping.is_set():
                raise Busy(
                    "the service is stopping: send it again in a moment",
                    code="service.draining",
                    retry_after_s=_STOPPED_AGAIN_S,
                ) from None
            raise

    def enter(self, scope: Scope, tenant: Tenant | None) -> None:
        """Let a request of a tenant in, until it has left (`leave`). The host's own are not counted.

        Raises:
            Busy: `requests.tenant`.
        """
        if tenant is not None:
            self._places.take(tenant)
            scope["belljar.place"] = tenant

    def leave(self, scope: Scope) -> None:
        """The answer to a request has left, or its client is gone; whether it was let in or not, and left before."""
        if (tenant := scope.pop("belljar.place", None)) is not None:
            self._places.leave(tenant)


class Answer(msgspec.Struct, frozen=True):
    """What a handler gives where it is more than a value for 200: a status, headers, or what the log is to name."""

    value: Any = None
    status: int = 200
    headers: dict[str, str] = {}


Owner: TypeAlias = "Callable[[Asking[Any, Any]], Awaitable[Tenant | None]]"
Handler: TypeAlias = "Callable[[Asking[Any, Any]], Awaitable[Any]]"


class Faults(msgspec.Struct, frozen=True):
    """How a route that speaks somebody else's API tells a problem: as this type, made of ours."""

    kind: type[Any]
    made: Callable[[Problem], Any]


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One route.

    Attributes:
        path: with `{name}` for each part that varies; `parts` has the pattern and words for it.
        action: what it does, as `belljar.access` names it; None where anybody may, which each such route has to say.
        owner: finds whose it is.
        query, body: the types of the parameters and of the body; a body of bytes is read by the handler.
        answer: the type of what comes back; None for nothing, `bytes` for what is not JSON.
        status: of a success; `others` are more of them, each with a few words.
        refuses: statuses besides those that every route may give.
        media: of the body, where it is not JSON; `gives` of the answer.
        logged: whether the log has it.
        body_bytes: how long a body may be; what the settings say when None.
        headers: of the request, by name, with a few words each, and `answer_headers`: for the document.
        options: headers of the answer to OPTIONS.
        faults: how it tells problems, if not as such.
    """

    method: str
    path: str
    summary: str
    handler: Handler
    action: Action | None
    owner: Owner
    query: type[Any] = Nothing
    body: Any = None
    answer: Any = None
    status: int = 200
    others: dict[int, str] = {}
    refuses: tuple[int, ...] = ()
    media: str = JSON
    gives: tuple[str, ...] = (JSON,)
    logged: bool = True
    body_bytes: int | None = None
    headers: dict[str, str] = {}
    answer_headers: dict[str, str] = {}
    options: dict[str, str] = {}
    faults: Faults | None = None

    @property
    def name(self) -> str:
        """What the log and the metrics call it."""
        return f"{self.method} {self.path}"


class Asking(Generic[_Q, _B]):
    """One request under way.

    Attributes:
        tenant: whose the thing is that it is about, once that was allowed.
        about: what the log names as that: a run, a context, a key.
        held_bytes: how long the body is, as long as nobody else has taken it over.
    """

    def __init__(self, service: Service, request: Request, route: Route) -> None:
        self.service = service
        self.request = request
        self.route = route
        self.id: str = request.scope.get("belljar.request") or secrets.token_hex(8)
        self.principal: Principal | None = None
        self.params: dict[str, str] = request.path_params
        self.query: _Q
        self.body: _B
        self.tenant: Tenant | None = None
        self.about: str | None = None
        self.held_bytes = 0

    def hold(self, size: int) -> None:
        """So many more bytes of the body have come. Raises Busy where there are too many of all requests."""
        self.service.bodies.take(self.who.tenant, size)
        self.held_bytes += size

    def let_go(self) -> None:
        """Nobody holds the body any more, or it is counted elsewhere from here on."""
        if self.held_bytes:
            self.service.bodies.leave(self.who.tenant, self.held_bytes)
            self.held_bytes = 0

    def reading(self) -> AbstractContextManager[None]:
        """The place of a reading of a whole run, or of the whole log. Raises Busy where there are too many."""
        return self.service.readings.held(self.who.tenant)

    @property
    def host(self) -> Host:
        return self.service.host

    @property
    def desk(self) -> Desk:
        return self.service.desk

    @property
    def who(self) -> Principal:
        """The principal, on a route that nobody may take without being one."""
        assert self.principal is not None, "the route lets anybody in"
        return self.principal

    @property
    def by(self) -> str:
        return NOBODY if self.principal is None else self.principal.name

    @property
    def client(self) -> str:
        """The address that the request came from; behind a trusted proxy the one that it tells."""
        return address_of(self.request.scope)

    @property
    def caller(self) -> TraceParent | None:
        """The span of the client's that this request is part of, by its `traceparent`; one that is wrong is ignored."""
        return TraceParent.read(*self.request.headers.getlist("traceparent"))

    def stranger(self) -> None:
        """Nobody in particular asks. Raises AccessThrottled where that happens too often."""
        self.service.strangers.check(self.client)
        self.service.strangers.failed(self.client)

    def named(self, tenant: str | None) -> Tenant:
        """The tenant that is named, or else the principal's own, or the one that everything belongs to by default."""
        return Tenant(tenant) if tenant is not None else self.who.tenant or DEFAULT_TENANT


# -- whose it is -------------------------------------------------------------------------------------------------------


async def own(asking: Asking[Any, Any]) -> Tenant | None:
    """Of what everybody has: the principal's own tenant."""
    return None if asking.principal is None else asking.principal.tenant


async def whole_host(_: Asking[Any, Any]) -> Tenant | None:
    """Of what belongs to no tenant."""
    return None


def within(principal: Principal, tenant: Tenant | None) -> bool:
    """Whether a principal may know that something of this tenant exists. Everybody may read runs of their own."""
    return permits(principal, "run.read", tenant)


def no_such(asking: Asking[Any, Any], tenant: Tenant | None, error: Refusal) -> Tenant | None:
    """`tenant`, if the principal may know that something of it exists; else this error, as if it did not."""
    if not within(asking.who, tenant):
        raise error
    return tenant


# -- a path, and what is done with a request to it ---------------------------------------------------------------------


class Resource:
    """All routes of one path, as an ASGI application."""

    def __init__(self, service: Service, path: str, routes: Sequence[Route]) -> None:
        self.service = service
        self.path = path
        self.routes = {route.method: route for route in routes}
        if "GET" in self.routes:
            self.routes.setdefault("HEAD", self.routes["GET"])
        self.allow = ", ".join(sorted({*self.routes, "OPTIONS"}))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive, send)
        try:
            response = await self.answer(request)
            if request.method == "HEAD":
                response = await _bare(response)
            await response(scope, receive, send)
        finally:
            self.service.leave(scope)

    async def answer(self, request: Request) -> Response:
        """What comes back, recorded. Nothing is raised but a cancellation."""
        route = self.routes.get(request.method) or self._other(request)
        asking: Asking[Any, Any] = Asking(self.service, request, route)
        request.scope["belljar.route"] = route.name
        response, code = await self._attempt(asking)
        if not route.logged:
            return response
        try:
            await self._record(asking, response.status_code, code)
        except BelljarError as error:
            await _closed(response)
            response, _ = problem_told(asking, error)
        request.scope["belljar.by"] = asking.by
        return response

    async def _attempt(self, asking: Asking[Any, Any]) -> tuple[Response, str | None]:
        try:
            try:
                return await self._serve(asking), None
            finally:
                asking.let_go()
        except ClientDisconnect:
            return problem_told(asking, Refused("the client went away while it sent", code="request.slow"))
        except BelljarError as error:
            return problem_told(asking, error)
        except Exception as error:
            _log.exception("belljar: request %s to %s failed", asking.id, asking.route.name)
            return problem_told(asking, error)

    async def _serve(self, asking: Asking[Any, Any]) -> Response:
        route = asking.route
        if route.action is not None:
            asking.principal = await who_asks(asking)
            self.service.enter(asking.request.scope, asking.who.tenant)
            if route.action not in MAY[asking.principal.role]:
                raise AccessForbidden(
                    f"the role {asking.principal.role} does not allow {route.action}: ask with a key that allows it",
                    code="access.forbidden",
                )
        asking.query = query_of(asking.request, route.query)
        if route.body is not None and route.body is not bytes:
            clock = asyncio.get_running_loop().time
            began = clock()
            asking.body = await _body(asking)
            # Who sends slowly may have lost their key meanwhile: what they ask for begins only now.
            if route.action is not None and clock() >= began + BELIEVED_S:
                await who_asks(asking)
        asking.tenant = await route.owner(asking)
        if route.action is not None:
            demand(asking.who, route.action, asking.tenant)
        return await respond(route, await route.handler(asking))

    def _other(self, request: Request) -> Route:
        """For a method that the path does not have."""
        method = request.method

        async def tell(asking: Asking[Any, Any]) -> Response:
            if method == "OPTIONS":
                return Response(status_code=204, headers={"allow": self.allow, **self._of_options()})
            asking.stranger()
            raise Refused(
                f"this path takes {self.allow}; use one of these",
                code="route.method",
                headers={"allow": self.allow},
            )

        name = method if method in _METHODS else "OTHER"
        # Anybody may ask what there is, as often as they like: that is in no log.
        return Route(
            method=name,
            path=self.path,
            summary="",
            handler=tell,
            action=None,
            owner=whole_host,
            logged=method != "OPTIONS",
        )

    def _of_options(self) -> dict[str, str]:
        return {name: value for route in self.routes.values() for name, value in route.options.items()}

    async def _record(self, asking: Asking[Any, Any], status: int, code: str | None) -> None:
        about = asking.about
        if about is None and asking.tenant is not None:
            about = str(asking.tenant)
        record = request_record(asking.principal, asking.route.name, status, of=about, code=code)
        if asking.principal is None and code is not None:
            await self.service.refusals.tell(asking.client, record)
        else:
            await self.service.host.log(record)


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


async def who_asks(asking: Asking[Any, Any]) -> Principal:
    """Who sends a request, by a key, a token, or the cookie of a session; or who still does, of one under way.

    Of one under way only what it shows counts: else whoever has others fail from their address would be told to wait,
    and not that their key has ended.

    Raises:
        AccessDenied: nobody whom we know.
        AccessThrottled: likewise, and so it was too often from there; never of a request under way.
        HostFault: it cannot be found out.
    """
    headers, access = asking.request.headers, asking.service.access
    is_new = asking.principal is None
    shown = headers.get("authorization")
    if shown is None and (key := headers.get("x-api-key")) is not None:
        shown = f"Bearer {key}"  # clients of a provider's API know it as that
    if shown is not None:
        scheme, _, token = shown.partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return await access.check(token.strip(), address=asking.client if is_new else None)
    elif (cookie := cookie_of(asking.request)) is not None:
        try:
            if asking.request.method not in _SAFE:
                _check_origin(asking.request)
            return (await access.sessions.check(cookie)).principal
        except Refusal as error:
            if is_new and error.code in _OF_ANYBODY:
                asking.stranger()
            raise
    asking.stranger()
    raise AccessDenied("send a key as `Authorization: Bearer KEY`", code="access.missing")


def cookie_of(request: Request) -> str | None:
    """The value of our cookie, which is never quoted.

    Python's own reader is not asked: of a quoted value full of backslashes, which anybody may send, some versions take
    seconds to make sense, and everybody else would wait as long.
    """
    ours = cookie_name(request)
    for part in request.headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == ours:
            return value
    return None


def cookie_name(request: Request) -> str:
    """What our cookie is called: over TLS so that no other host can set it (RFC 6265bis), in whose name or in ours.

    Else a page on a host below the same domain could have a browser come with a session of its own choice.
    """
    return f"__Host-{COOKIE}" if request.scope.get("scheme") == "https" else COOKIE


def _check_origin(request: Request) -> None:
    """What a browser sends with a cookie has to come from a page of ours."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    ours = f"{request.scope.get('scheme', 'http')}://{request.headers.get('host', '')}"
    if origin != ours or site not in (None, "same-origin"):
        raise Refused(
            "a cookie counts only for what a page of this service sends: use a key instead", code="route.origin"
        )


# -- decoding ----------------------------------------------------------------------------------------------------------

_NO_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def query_of(request: Request, kind: type[_Q]) -> _Q:
    """The parameters, as the type has them; each at most once.

    Raises:
        Unfit: they do not fit.
    """
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in given:
            raise Unfit(f"there are two parameters {name[:40]!a}; send one", at=f"?{name[:40]}")
        if "\0" in value:  # no database takes one in a text, and some take it for a fault of theirs
            raise Unfit(f"the parameter {name[:40]!a} has the character 0; leave it out", at=f"?{name[:40]}")
        given[name] = value
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise _unfit(error, kind, "?") from None


def decoded(data: bytes, kind: Any) -> Any:
    """JSON, as a type has it.

    Raises:
        Unfit: it does not fit.
        Refused: it is not JSON.
    """
    try:
        return decode(data, kind)
    except msgspec.ValidationError as error:
        raise _unfit(error, kind, "$") from None
    except _NO_JSON as error:
        raise _no_json(error) from None


def check_json(data: bytes) -> None:
    """Of what is decoded elsewhere: whether it is JSON. Raises Refused: it is not."""
    try:
        check_names(data)
    except _NO_JSON as error:
        raise _no_json(error) from None


def _no_json(error: Exception) -> Refused:
    words = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
    return Refused(f"the body is not valid JSON ({words}); correct it", code="request.json")


def _unfit(error: msgspec.ValidationError, kind: Any, root: str) -> Unfit:
    wrong = misfit(error, kind)
    where = wrong.place
    if root == "?":
        where = f"?{wrong.missing or where.removeprefix('$').removeprefix('.')}"
    advice = "send it, too" if wrong.missing else f"send {wrong.fits}" if wrong.fits else "correct it"
    return Unfit(f"{wrong.what[:300]}, at {where[:200]}; {advice[:500]}", at=where[:200])


async def _body(asking: Asking[Any, Any]) -> Any:
    route, request = asking.route, asking.request
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != route.media:
        raise Refused(f"send the body as {route.media}", code="route.media", headers={"accept": route.media})
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Refused(
            "send the body as it is, without `Content-Encoding`",
            code="route.media",
            headers={"accept-encoding": "identity"},
        )
    most = asking.service.settings.body_bytes if route.body_bytes is None else route.body_bytes
    data = await _read_body(asking, most, asking.service.settings.body_s)
    if route.media != JSON:
        return data
    return await off_loop(len(data), decoded, data, route.body)


async def _read_body(asking: Asking[Any, Any], most: int, within_s: float) -> bytes:
    """The whole body, of at most so many bytes, in at most so many seconds.

    Raises:
        Refused: it is longer, or takes longer.
        InvalidInput: `request.values`: of JSON, it has too many values.
        Busy: too much is held for others, or the service ends.
    """
    request = asking.request
    too_long = Refused(f"the body is longer than {most} bytes; send less", code="request.too_long")
    told = request.headers.get("content-length", "0")
    if not told.isdecimal() or int(told) > most:
        raise too_long
    parts, size, values = [], 0, Values()
    try:
        async with asking.service.patience(within_s):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_long
                asking.hold(len(part))
                if asking.route.media == JSON:
                    values.feed(part)
                parts.append(part)
    except TimeoutError:
        raise Refused(f"the body took longer than {within_s:g} s; send it faster", code="request.slow") from None
    return b"".join(parts)


# -- answering ---------------------------------------------------------------------------------------------------------


async def respond(route: Route, value: Any) -> Response:
    """The response for what a handler gave."""
    if isinstance(value, Response):
        return value
    answer = value if isinstance(value, Answer) else Answer(value, route.status)
    if answer.value is None:
        return Response(status_code=204 if answer.status == 200 else answer.status, headers=answer.headers)
    data = answer.value if isinstance(answer.value, bytes) else await encoded(answer.value)
    headers = {"cache-control": "no-store", **answer.headers}
    return Response(data, status_code=answer.status, media_type=route.gives[0], headers=headers)


def problem_told(asking: Asking[Any, Any], error: Exception) -> tuple[Response, str]:
    body = getattr(asking, "body", None)
    problem = problem_of(error, asking.id, body=body, now=datetime.now(UTC), folders=asking.service.folders)
    headers = {**headers_of(problem), **(error.headers if isinstance(error, Refused) else {})}
    if isinstance(error, HostFault):
        _log.error("belljar: request %s to %s: %s: %s", asking.id, asking.route.name, type(error).__name__, error)
    if (faults := asking.route.faults) is not None:
        headers["x-should-retry"] = "false" if problem.retry_after_s is None else "true"  # a run costs: not unasked
        data, media = encode(faults.made(problem)), JSON
    else:
        data, media = encode(problem), MEDIA_TYPE
    return Response(data, status_code=problem.status, media_type=media, headers=headers), code_of(error)


async def _bare(response: Response) -> Response:
    """The head of a response alone, for HEAD."""
    await _closed(response)
    bare = Response(status_code=response.status_code)
    bare.raw_headers = list(response.raw_headers)
    return bare


async def _closed(response: Response) -> None:
    """Give up what a streaming response would have sent."""
    if isinstance(response, StreamingResponse):
        close = getattr(response.body_iterator, "aclose", None)
        if close is not None:
            await close()
