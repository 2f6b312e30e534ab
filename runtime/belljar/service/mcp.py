"""Belljar for models: its tools over the Model Context Protocol, by streamable HTTP or by any other stream.

Theory of operation. The SDK speaks the protocol, and this module decides what a call may do. Each call is a task of
ours, which the SDK's request waits for::

    client ── tools/call ──▶ the SDK's request ──▶ a task: check, order, follow, log
           ◀── progress ────  what came last  ◀──  the order's place, then the run's progress
           ◀── result ──────                  ◀──  its end

Runs wait at the desk like those of every other way in, and take their turns with them; a full queue refuses one and
says when to come again. Progress has one place: what a slow client did not take yet is replaced by what came after it.
A client that cancels its request, or whose connection ends, ends the task, and that cancels the order; the request does
not wait for it, but its place is taken until it has ended. There are at most `CALLS_MAX` places for requests that wait,
of which one tenant has `CALLS_PER_TENANT_MAX`, and with all below it half, so that none keeps the others out; whoever
comes then is refused.

Over HTTP every request stands alone: no session is kept, so none can be used by somebody else, and any process behind a
proxy may answer. A request proves by its own credential who asks. Every call stands in the log as an `http.request`
with the route `MCP TOOL`, before its answer leaves, and so does every credential that was refused.

An error says who is at fault and has a stable code. Of what is wrong on our side, or in what the operator set up, a
caller hears only that: it names files of this host.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from importlib import metadata
from typing import Any, Final

import msgspec
from mcp import MCPError
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.types import INTERNAL_ERROR, INVALID_PARAMS, CallToolResult, ListToolsResult, TextContent, ToolAnnotations
from mcp.types import Tool as Described

from belljar.audit.events import HttpRequest
from belljar.engine import Progress
from belljar.errors import (
    BelljarError,
    HostFault,
    InvalidInput,
    InvalidPolicy,
    LayerMissing,
    ModelFailed,
    QuotaExceeded,
    Refusal,
)
from belljar.host import Host
from belljar.identity import Tenant, TraceParent
from belljar.jobs import Busy, Desk
from belljar.jobs.words import told_words
from belljar.service.problems import code_of, problem_of, retry_after, status_of, tell
from belljar.service.records import request_record
from belljar.service.schemas import components
from belljar.service.tools import TOOLS, Call, Caller, Demand, Offer, Tool, own_subtree
from belljar.tasks import to_the_end

__all__ = ["BODY_BYTES_MAX", "CALLS_MAX", "CALLS_PER_TENANT_MAX", "McpHttp", "McpService"]

# Of one request over HTTP: the longest text that a tool takes, in JSON, and room for the rest.
BODY_BYTES_MAX: Final = 4 * 2**20
CALLS_MAX: Final = 64
CALLS_PER_TENANT_MAX: Final = 16
# As many web servers call a client that did not wait.
_GONE: Final = 499
_SHOWN_CHARS_MAX: Final = 80
_INSTRUCTIONS: Final = (
    "Work on texts that are longer than any context window. Register a long text once, ask questions about it, search "
    "it, or run your own Python over it in a sealed box. Everything is charged to your tenant and stands in a log."
)
# What a refusal of the operator's own making is about, who offers models by names of their own: files, keys, settings.
_OPERATORS: Final = ("model.", "config.", "runtime.", "audit.", "backend.", "language.")
# What a client asks besides calling a tool, by which it is named in the log.
_REQUESTS: Final = frozenset({"initialize", "ping", "server/discover", "tools/list"})
# In the scope of a request whose record is written where it is answered.
_NOTED: Final = "belljar.noted"
# How often who sent a call is looked at again.
_PROOF_S: Final = 15.0
# When a place may be free again: many calls take no longer.
_AGAIN_S: Final = 1.0
_log = logging.getLogger("belljar.service")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class _Failed(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a call failed, for programs: `_meta["belljar.error"]` of its result.

    `status` is what HTTP would answer, and `retry_after_s` after how many seconds to try again, if that is known.
    """

    culprit: str
    code: str
    message: str
    limit: int | None = None
    observed: int | None = None
    retry_after_s: int | None = None
    status: int = 500


async def _proven(_context: Any) -> None:
    """Of whoever started this process there is nothing to look at again."""


class McpService:
    """The tools of one host, for as many clients as come. Close it before the desk.

    Args:
        desk: takes the runs.
        offer: what the operator lets callers use.
        demand: refuses what a caller may not do to a tenant.
    """

    def __init__(self, desk: Desk, offer: Offer, *, demand: Demand = own_subtree) -> None:
        self._desk = desk
        self._host = desk.host
        self._offer = offer
        self._demand = demand
        self._calls: dict[asyncio.Task[CallToolResult], Tenant | None] = {}  # and whose they are

    def http(
        self,
        caller_of: Callable[[Scope], Awaitable[Caller]],
        enter: Callable[[Scope, Any], None] = lambda _scope, _caller: None,
        refused: Callable[[Scope, HttpRequest], Awaitable[object]] | None = None,
        proof_s: float = _PROOF_S,
    ) -> McpHttp:
        """The tools as an ASGI application, for one path.

        Args:
            caller_of: who sent a request. Raises AccessDenied if nobody whom we know, a HostFault if that cannot be
                found out.
            enter: lets a request of this caller's in. Raises Busy where there are too many.
            refused: records that nobody whom we know was refused; if None, each time.
            proof_s: how often it is looked, while a call lasts, who sent it, in seconds.
        """
        server = self.server(
            lambda context: context.request.scope["belljar.caller"],
            _span_of,
            lambda context: caller_of(context.request.scope),
            proof_s,
        )
        return McpHttp(self._host, server, caller_of, self.aclose, enter, refused)

    def server(
        self,
        caller_of: Callable[[Any], Caller],
        span_of: Callable[[Any], TraceParent | None] = lambda _: None,
        prove: Callable[[Any], Awaitable[object]] = _proven,
        proof_s: float = _PROOF_S,
    ) -> Server[Any]:
        """The SDK's server with our tools.

        Args:
            caller_of: who sent a request, from its context.
            span_of: the span of theirs that it is part of.
            prove: raises AccessDenied where who sent a request is not let in any more; asked each `proof_s` seconds.
        """

        async def call_tool(context: Any, params: Any) -> CallToolResult:
            latest = _Latest()
            call = Call(
                self._desk,
                self._offer,
                caller_of(context),
                self._demand,
                latest.put,
                functools.partial(prove, context),
                proof_s,
                span_of(context),
            )
            return await self._answer(call, latest, params.name, params.arguments, context.session)

        async def list_tools(_context: Any, _params: Any) -> ListToolsResult:
            return ListToolsResult(tools=[_described(name, tool, self._offer) for name, tool in TOOLS.items()])

        server: Server[Any] = Server(
            "belljar",
            version=metadata.version("belljar"),
            instructions=_INSTRUCTIONS,
            on_list_tools=list_tools,
            on_call_tool=call_tool,
            get_tool_input_schema=lambda _name: None,  # no argument of ours comes in a header
        )
        # Nothing of the SDK's own: nobody here is told of it by OpenTelemetry but by our own spans.
        server.middleware[:] = [functools.partial(self._noted, caller_of)]
        return server

    async def aclose(self) -> None:
        """End all calls, which their callers are told, and return when their runs have ended."""
        for task in list(self._calls):
            task.cancel()
        if self._calls:
            await to_the_end(_all_ended(list(self._calls)))

    # --------------------------------------------------------------------------------------------------------- a call

    async def _answer(
        self, call: Call, latest: _Latest, name: str, arguments: Mapping[str, Any] | None, session: Any
    ) -> CallToolResult:
        task = asyncio.create_task(self._logged(call, name, arguments or {}, busy=self._is_busy(call.caller)))
        self._calls[task] = call.caller.tenant
        task.add_done_callback(self._calls.pop)
        task.add_done_callback(_looked_at)  # where nobody waits any more, nobody else would
        task.add_done_callback(lambda _: latest.end())
        try:
            async for number, progress in latest:
                await session.report_progress(number, None, _in_words(progress))
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.cancelled():
            return _failure(_Failed("our side", "mcp.stopping", "the service is stopping: ask again later", status=503))
        return task.result()

    async def _noted(self, caller_of: Callable[[Any], Caller], context: Any, go_on: Callable[[Any], Any]) -> Any:
        """Answer a request, and have it in the log before: a call of a tool does that itself. A notification has none.

        Whatever fails is told in our words: the SDK would tell an error's own.
        """
        if context.request_id is None:
            return await go_on(context)
        if context.request is not None:
            context.request.scope[_NOTED] = True
        answer, status, failed = None, 200, None
        try:
            answer = await go_on(context)
        except MCPError as error:
            status, failed = 422, error
        except ValueError:  # the SDK's own, as nothing of ours raises here
            status, failed = 422, MCPError(code=INVALID_PARAMS, message="the parameters do not fit this method")
        except Exception:
            _log.exception("an MCP request failed")
            status, failed = 500, MCPError(code=INTERNAL_ERROR, message=_GENERIC)
        if failed is not None or context.method != "tools/call":
            route = f"MCP {context.method}" if context.method in _REQUESTS else "MCP unknown"
            code = None if failed is None else "mcp.message"
            try:
                await self._host.log(request_record(caller_of(context), route, status, code=code))
            except BelljarError as error:
                _log.error("an MCP request cannot be logged: %s: %s", type(error).__name__, error)
                failed = MCPError(code=INTERNAL_ERROR, message=_GENERIC)
        if failed is not None:
            raise failed
        return answer

    def _is_busy(self, caller: Caller) -> bool:
        """Whether there is no place for one more call of this caller's."""
        whose = list(self._calls.values())
        theirs = sum(tenant == caller.tenant for tenant in whose)
        near = sum(_first(tenant) == _first(caller.tenant) for tenant in whose)
        return len(whose) >= CALLS_MAX or theirs >= CALLS_PER_TENANT_MAX or near >= CALLS_MAX // 2

    async def _logged(self, call: Call, name: str, arguments: Mapping[str, Any], *, busy: bool) -> CallToolResult:
        """A call's result, once the log has that there was such a call."""
        route = f"MCP {name}" if name in TOOLS else "MCP unknown"
        try:
            result, status, code = await self._done(call, name, arguments, busy=busy)
        except asyncio.CancelledError:
            await to_the_end(self._record(call, route, _GONE, "mcp.cancelled"))
            raise
        try:
            await self._record(call, route, status, code)
        except BelljarError as error:
            return _failure(_failed(error))
        return result

    async def _record(self, call: Call, route: str, status: int, code: str | None) -> None:
        record = request_record(call.caller, route, status, of=call.of, code=code, tenant=call.tenant)
        await self._host.log(record)

    async def _done(
        self, call: Call, name: str, arguments: Mapping[str, Any], *, busy: bool
    ) -> tuple[CallToolResult, int, str | None]:
        try:
            if busy:
                raise Busy(
                    "too many calls are under way: try again when one has ended",
                    code="mcp.busy",
                    retry_after_s=_AGAIN_S,
                )
            tool = _tool(name)
            found = await tool.work(call, _read(tool, arguments))
        except BelljarError as error:
            failed = _failed(error)
            if failed.culprit == "our side":
                _log.error("an MCP call of %s failed: %s: %s", name, type(error).__name__, error)
        except Exception:
            _log.exception("an MCP call of %s failed", name)
            failed = _Failed("our side", "internal", _GENERIC)
        else:
            return await asyncio.to_thread(_result, found), 200, None
        return _failure(failed), failed.status, failed.code


def _first(tenant: Tenant | None) -> Tenant | None:
    return None if tenant is None else tenant.levels[0]


def _span_of(context: Any) -> TraceParent | None:
    """The client's, of a request over HTTP."""
    headers = context.request.scope["headers"]
    return TraceParent.read(*(value.decode("latin-1") for name, value in headers if name == b"traceparent"))


class McpHttp:
    """An ASGI application that speaks the protocol on whatever path it is mounted, within `run`.

    It takes POST alone: a stream to listen on (GET) is a session's, and there is none, so nothing would ever come.
    """

    def __init__(
        self,
        host: Host,
        server: Server[Any],
        caller_of: Callable[[Scope], Awaitable[Caller]],
        end: Callable[[], Awaitable[None]],
        enter: Callable[[Scope, Any], None],
        refused: Callable[[Scope, HttpRequest], Awaitable[object]] | None,
    ) -> None:
        self._host = host
        self._refused = refused or (lambda _scope, event: host.log(event))
        self._end = end
        self._enter = enter
        self._caller_of = caller_of
        self._manager = StreamableHTTPSessionManager(server, stateless=True, max_request_body_size=BODY_BYTES_MAX)

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """It answers while this block lasts, which belongs into the lifespan of the whole application.

        The end of the block ends the calls under way.
        """
        async with self._manager.run():
            try:
                yield
            finally:
                await self._end()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("only HTTP comes here: mount it on a path")
        try:
            await self._call(scope, receive, send)
        except BelljarError as error:
            _log.error("an MCP request cannot be answered: %s: %s", type(error).__name__, error)
            await _reply(scope, send, error)

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises HostFault: who asks cannot be found out, or a refusal is not in the log."""
        try:
            caller = await self._caller_of(scope)
        except BelljarError as error:
            await self._refused(scope, request_record(None, "MCP", status_of(error), code=code_of(error)))
            if isinstance(error, HostFault):
                raise
            await _reply(scope, send, error)
            return
        scope["belljar.caller"] = caller
        try:
            self._enter(scope, caller)
            if scope["method"] != "POST":
                raise InvalidInput("tools are called by POST; there is no stream to listen on", code="route.method")
            await self._manager.handle_request(scope, receive, self._noting(scope, caller, send))
        except Refusal as refusal:  # nothing of an answer has left: it is about how the request comes
            await self._host.log(request_record(caller, "MCP", status_of(refusal), code=refusal.code))
            await _reply(scope, send, refusal)

    def _noting(self, scope: Scope, caller: Caller, send: Send) -> Send:
        """Sends an answer, and before its head what the log has of a message in which nobody found a request."""
        is_over = False

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal is_over
            if message["type"] == "http.response.start" and message["status"] != 200 and _NOTED not in scope:
                code = "mcp.message" if message["status"] >= 400 else None
                try:
                    await self._host.log(request_record(caller, "MCP", message["status"], code=code))
                except BelljarError as error:
                    _log.error("an MCP message cannot be logged: %s: %s", type(error).__name__, error)
                    is_over = True
                    await _reply(scope, send, error)
            if not is_over:
                await send(message)

        return sending


class _Latest:
    """The latest progress of a run: each is given at most once, and none after `end` that came before it.

    Before the run's turn it is a number: how many are before it.
    """

    def __init__(self) -> None:
        self._waiting: Progress | int | None = None
        self._ended = False
        self._more = asyncio.Event()
        self._told = -1.0

    def put(self, progress: Progress | int) -> None:
        self._waiting = progress
        self._more.set()

    def end(self) -> None:
        self._ended = True
        self._more.set()

    async def __aiter__(self) -> AsyncIterator[tuple[float, Progress | int]]:
        """With a number that grows each time, as the protocol wants it."""
        while not self._ended:
            await self._more.wait()
            self._more.clear()
            progress, self._waiting = self._waiting, None
            if progress is not None and not self._ended:
                number = _number(progress)
                if number > self._told:
                    self._told = number
                    yield number, progress


# ------------------------------------------------------------------------------------------------- arguments and errors

_GENERIC: Final = "something failed on our side: ask whoever runs this service, who has it in the log"


def _tool(name: str) -> Tool:
    if (tool := TOOLS.get(name)) is None:
        raise InvalidInput(
            f"there is no tool {name[:_SHOWN_CHARS_MAX]!a}: tools/list lists them", code="mcp.tool_unknown"
        )
    return tool


def _read(tool: Tool, arguments: Mapping[str, Any]) -> msgspec.Struct:
    """
    Raises:
        InvalidInput: `mcp.arguments`: with the path of what is wrong, and never what it was.
    """
    try:
        msgspec.json.encode(arguments)
        return msgspec.convert(arguments, tool.arguments)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the arguments do not fit: {error}; see the tool's schema", code="mcp.arguments") from None
    except (UnicodeEncodeError, RecursionError):
        raise InvalidInput(
            "the arguments have a text that is not Unicode, or are nested too deeply: send plain text",
            code="mcp.arguments",
        ) from None


def _failed(error: BelljarError) -> _Failed:
    match error:
        case LayerMissing() | InvalidPolicy():
            return _Failed("our side", error.code, _GENERIC)
        case Refusal() if error.code.startswith(_OPERATORS):
            return _Failed("our side", error.code, _GENERIC)
        case QuotaExceeded():
            # Numbers of a level above the caller's are somebody else's.
            numbers = (None, None) if error.told else (error.limit, error.observed)
            return _Failed("quota", error.code, told_words(error), *numbers, retry_after(error), status=429)
        case Refusal():
            later = error.code == "run.interrupted"
            status = 503 if later else status_of(error)
            numbers = (error.limit, error.observed)
            return _Failed("refused", error.code, told_words(error), *numbers, retry_after(error), status=status)
        case ModelFailed():
            return _Failed("the model", "model.failed", "the model gave no answer: try again later", status=502)
        case _:
            return _Failed("our side", "host.fault", _GENERIC, status=status_of(error))


def _failure(failed: _Failed) -> CallToolResult:
    return CallToolResult(
        content=[TextContent(text=f"{failed.culprit} ({failed.code}): {failed.message}")],
        is_error=True,
        _meta={"belljar.error": msgspec.to_builtins(failed)},
    )


def _result(found: msgspec.Struct) -> CallToolResult:
    """A tool's result: as what its schema describes, and as a text for whoever reads none."""
    return CallToolResult(
        content=[TextContent(text=msgspec.json.encode(found).decode())],
        structured_content=msgspec.to_builtins(found),
        is_error=getattr(found, "status", "ok") != "ok" and hasattr(found, "answer"),
    )


def _number(progress: Progress | int) -> float:
    if isinstance(progress, int):
        return 0.0
    return float(progress.turns + progress.cells + progress.reads + progress.calls)


def _in_words(progress: Progress | int) -> str:
    if isinstance(progress, int):
        return f"it waits for its turn, {progress} of its tenant's before it"
    return f"turn {progress.turns}, {progress.cells} cells, {progress.reads} reads, {progress.calls} model calls"


async def _reply(scope: Scope, send: Send, error: BelljarError) -> None:
    """What is no answer of the protocol is a problem, as everywhere."""
    headers = {"allow": "POST"} if code_of(error) == "route.method" else {}
    await tell(send, problem_of(error, scope.get("belljar.request", "")), **headers)


def _looked_at(task: asyncio.Task[CallToolResult]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("an MCP call could not be logged: %s: %s", type(error).__name__, error)


async def _all_ended(tasks: list[asyncio.Task[CallToolResult]]) -> None:
    await asyncio.wait(tasks)


# -------------------------------------------------------------------------------------------------------------- schemas


def _described(name: str, tool: Tool, offer: Offer) -> Described:
    taken = _schema(tool.arguments)
    for wish in ("model", "sub_model"):
        if wish in taken["properties"]:
            taken["properties"][wish] |= {"enum": [*offer.models, None]}
    return Described(
        name=name,
        description=tool.about,
        input_schema=taken,
        output_schema=_schema(tool.result),
        annotations=ToolAnnotations(read_only_hint=tool.reads, destructive_hint=False, open_world_hint=False),
    )


def _schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """A type's JSON Schema, an object at its root as the protocol wants it."""
    (found,), parts = components([kind], "#/$defs/{name}")
    name = found["$ref"].rpartition("/")[2]
    whole: dict[str, Any] = parts.pop(name)
    return {**whole, "$defs": parts} if parts else whole
