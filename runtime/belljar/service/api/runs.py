"""`/v1/runs`: to order one, to follow it, to end it, and all that is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Iterator
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, structs
from starlette.responses import Response

from belljar.audit import Coverage, Receipt, coverage, records_below
from belljar.errors import AccessDenied
from belljar.exporting import Format, exported, open_kept
from belljar.identity import Tenant
from belljar.jobs import Asked, Busy, OrderState, RunState
from belljar.service.encoding import encoded
from belljar.service.listening import heard
from belljar.service.problems import Unfit
from belljar.service.routes import IDEMPOTENCY, TRACEPARENT, Answer, Asking, Nothing, Route
from belljar.service.scopes import Cursor, TenantName, ended, named_tenant, of_run, proof_of
from belljar.service.streams import events, pieces, streamed
from belljar.streaming import ResultEvent, StreamEvent

__all__ = [
    "END_ID",
    "ROUTES",
    "CoverageQuery",
    "EventsQuery",
    "Ordered",
    "RunAsked",
    "RunPage",
    "RunQuery",
    "RunsQuery",
    "TrajectoryQuery",
    "without_turns",
]

_WAIT_S_MAX: Final = 300
_WAIT: Final = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,6})\"?", re.ASCII | re.IGNORECASE)
_ID: Final = re.compile(r"[0-9]{1,15}", re.ASCII)
# Of the event that says that there is no more. It is the largest number that an id may be.
END_ID: Final = 10**15 - 1
_BYE: Final = b"event: bye\ndata: {}\n\n"  # without an id: whoever comes back goes on from the last one
_RANGES_MAX: Final = 10_000
_PREFER: Final = {"Prefer": f"`wait=SECONDS`, at most {_WAIT_S_MAX}: answer when the run has ended, or after that."}
_MEDIA: Final[dict[Format, tuple[str, str]]] = {
    "jsonl": ("application/jsonl", "jsonl"),
    "atif": ("application/json", "atif.json"),
    "rlm": ("application/jsonl", "rlm.jsonl"),
    "otel": ("application/jsonl", "otel.jsonl"),
    "html": ("text/html; charset=utf-8", "html"),
}
# The page of a run is a file that loads nothing; what it needs is in it, and nothing else may run.
_PAGE_POLICY: Final = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
)


class RunAsked(Asked, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A run that is ordered: a `question` for a root `model`, or a program's `code`.

    `tenant` is whose it is: the principal's own, or `default` for who has all, if none is named.
    """

    tenant: TenantName | None = None


class Ordered(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an order.

    `made` is `new`; `known`: the key was used before for the same request, and this is the run that it made; `forked`
    or `anew`: that run was interrupted, and this one takes over what it was answered, or begins from the start.
    `retries` is the interrupted run.
    """

    run: str
    made: str
    retries: str | None
    state: OrderState


class RunsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a tenant and those below it; of all that the principal has, without one."""

    tenant: TenantName | None = None
    status: RunState | None = None
    model: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    after: Cursor | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 50


class RunPage(msgspec.Struct, frozen=True):
    """Runs, the latest first, without results; `after` is the cursor of those that follow, null at the end."""

    runs: list[OrderState]
    after: str | None


class RunQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """With `turns`, what the root model wrote stands in the result, too."""

    turns: bool = False


class TrajectoryQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The records as they are stored; ATIF; the reference RLM library's lines; OpenTelemetry's spans; or a page."""

    format: Format = "jsonl"


class CoverageQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At most so many ranges of each kind."""

    ranges: Annotated[int, Meta(ge=0, le=_RANGES_MAX)] = 20


class EventsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From which event on, for who cannot send `Last-Event-ID`."""

    after: Annotated[int, Meta(ge=0, le=10**15)] | None = None


async def _in_body(asking: Asking[Any, RunAsked]) -> Tenant | None:
    return asking.named(asking.body.tenant)


async def _order(asking: Asking[Nothing, RunAsked]) -> Answer:
    body, desk = asking.body, asking.desk
    asked = Asked(**{field: getattr(body, field) for field in Asked.__struct_fields__})
    idem = asking.request.headers.get("idempotency-key", "")
    tenant, caller = asking.named(body.tenant), asking.caller
    made = await desk.submit(asked, tenant=tenant, by=asking.by, idem=idem, caller=caller)
    if made.made != "known":  # there is nothing else that counts it
        asking.let_go()  # the queue counts it now
    asking.about = made.run
    state = await _awaited(asking, made.run)
    told = Ordered(run=made.run, made=made.made, retries=made.retries, state=without_turns(state))
    return Answer(told, 202 if state.is_open else 200, {"location": f"/v1/runs/{made.run}"})


async def _awaited(asking: Asking[Any, Any], run: str) -> OrderState:
    """A run's state: now, or when the client prefers to wait, once it has ended."""
    match = _WAIT.search(",".join(asking.request.headers.getlist("prefer")))
    if match is None:
        return await asking.desk.get(run)
    return await ended(asking, run, min(int(match[1]), _WAIT_S_MAX))


def without_turns(state: OrderState) -> OrderState:
    """What the root model wrote repeats what was printed of the contexts: it goes only to who wants it."""
    if state.result is None or not state.result.turns_log:
        return state
    return structs.replace(state, result=structs.replace(state.result, turns_log=()))


async def _ls(asking: Asking[RunsQuery, None]) -> RunPage:
    query = asking.query
    found = await asking.desk.ls(
        asking.tenant, status=query.status, model=query.model, after=query.after, limit=query.limit
    )
    return RunPage(list(found.runs), found.after)


async def _show(asking: Asking[RunQuery, None]) -> OrderState:
    state = await _awaited(asking, asking.params["run"])
    return state if asking.query.turns else without_turns(state)


async def _cancel(asking: Asking[Nothing, None]) -> OrderState:
    return without_turns(await asking.desk.cancel(asking.params["run"], by=asking.by))


async def _receipt(asking: Asking[Nothing, None]) -> Receipt:
    return await asking.host.checkpoints.receipt_of(asking.params["run"])


async def _covered(asking: Asking[CoverageQuery, None]) -> Coverage:
    log, run = asking.host.state.journal, asking.params["run"]
    with asking.reading():
        return await asyncio.to_thread(lambda: coverage(records_below(log, run), ranges_max=asking.query.ranges))


async def _trajectory(asking: Asking[TrajectoryQuery, None]) -> Response:
    form, run = asking.query.format, asking.params["run"]
    log, keys = asking.host.state.journal, asking.host.keys
    caller = asking.desk.caller_of(run)

    @contextlib.contextmanager
    def made() -> Iterator[Iterator[bytes]]:
        with open_kept(log, keys) as contents:
            yield exported(log, records_below(log, run), form, contents, keys, caller=caller)

    media, suffix = _MEDIA[form]
    headers = {"content-disposition": f'attachment; filename="{run}.{suffix}"', "cache-control": "no-store"}
    if form == "html":
        headers["content-security-policy"] = _PAGE_POLICY
    return await streamed(pieces(made, asking.reading()), media, headers, proof_of(asking))


# -- events ------------------------------------------------------------------------------------------------------------


async def _events(asking: Asking[EventsQuery, None]) -> Response:
    told = asking.request.headers.get("last-event-id")
    if told is not None and _ID.fullmatch(told) is None:
        raise Unfit("this is not the id of an event; send the last one that came", at="Last-Event-ID")
    after = asking.query.after if told is None else int(told)
    if after is not None and after >= END_ID:
        return Response(status_code=204)  # by which a browser's EventSource knows that it need not come back
    return events(_told(asking, asking.desk.events(asking.params["run"], after)))


async def _told(
    asking: Asking[Any, Any], found: AsyncGenerator[tuple[int, StreamEvent], None]
) -> AsyncGenerator[bytes, None]:
    """Each event as it comes, a sign of life in between, and a last word.

    That is the run's result; or `end`, where there is none, or it was told before; or `bye` when the service stops.

    A stream may last for hours. So who listens is asked for again as often as there is a sign of life: one whose key
    was revoked meanwhile, or whose token has expired, hears no more.
    """
    listening = heard(found, proof_of(asking), asking.service.stopping)
    try:
        yield b"retry: 1000\n\n"
        async for event in listening:
            if event is None:
                yield b": still here\n\n"
                continue
            yield await _event(*event)
            if isinstance(event[1], ResultEvent):
                return
        yield await _end(asking)
    except AccessDenied:
        return
    except Busy:
        yield _BYE
    finally:
        await listening.aclose()


async def _end(asking: Asking[Any, Any]) -> bytes:
    """How the run ended, of which nothing more is told."""
    state = await asking.desk.get(asking.params["run"])
    if state.is_open:  # it is another process's, and this one stops
        return _BYE
    return b"id: %d\nevent: end\ndata: %b\n\n" % (
        END_ID,
        await encoded(structs.replace(state, result=None), is_line=True),
    )


async def _event(number: int, event: StreamEvent) -> bytes:
    kind = type(event).__name__.removesuffix("Event").lower()
    # JSON has line ends only between its tokens; a program's answer may have some there, and an event's line may not.
    data = await encoded(event, is_line=True)
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (number, kind.encode(), data)


ROUTES = (
    Route(
        method="POST",
        path="/v1/runs",
        summary="Order a run",
        action="run",
        owner=_in_body,
        handler=_order,
        body=RunAsked,
        answer=Ordered,
        status=202,
        others={200: "It has ended while the client waited."},
        refuses=(404, 409, 413),
        headers={**_PREFER, **IDEMPOTENCY, **TRACEPARENT},
        answer_headers={"Location": "The run."},
    ),
    Route(
        method="GET",
        path="/v1/runs",
        summary="List runs, the latest first",
        action="run.read",
        owner=named_tenant,
        handler=_ls,
        query=RunsQuery,
        answer=RunPage,
    ),
    Route(
        method="GET",
        path="/v1/runs/{run}",
        summary="Show a run, and its result once it has ended",
        action="run.read",
        owner=of_run,
        handler=_show,
        query=RunQuery,
        answer=OrderState,
        headers=_PREFER,
    ),
    Route(
        method="DELETE",
        path="/v1/runs/{run}",
        summary="End a run",
        action="run.cancel",
        owner=of_run,
        handler=_cancel,
        answer=OrderState,
    ),
    Route(
        method="GET",
        path="/v1/runs/{run}/events",
        summary="Follow a run, as server-sent events, of which `result`, `end` or `bye` is the last",
        action="run.read",
        owner=of_run,
        handler=_events,
        query=EventsQuery,
        answer=bytes,
        others={204: "`Last-Event-ID` is that of `end`: there is nothing more to come back for."},
        gives=("text/event-stream",),
        headers={"Last-Event-ID": "The last event that came: those behind it follow."},
    ),
    Route(
        method="GET",
        path="/v1/runs/{run}/trajectory",
        summary="Export a run and those below it",
        action="run.read",
        owner=of_run,
        handler=_trajectory,
        query=TrajectoryQuery,
        answer=bytes,
        gives=("application/jsonl", "application/json", "text/html"),
    ),
    Route(
        method="GET",
        path="/v1/runs/{run}/receipt",
        summary="Prove that the log has a run",
        action="run.read",
        owner=of_run,
        handler=_receipt,
        answer=Receipt,
        refuses=(409,),
    ),
    Route(
        method="GET",
        path="/v1/runs/{run}/coverage",
        summary="Show which parts of its contexts a run read, and showed to a model",
        action="run.read",
        owner=of_run,
        handler=_covered,
        query=CoverageQuery,
        answer=Coverage,
    ),
)
