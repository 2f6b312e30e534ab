"""`/v1/sessions`: a box that stays, for cells of code and for questions."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from belljar.engine import AskResult, CellResult, Result
from belljar.identity import Tenant
from belljar.jobs import AskedSession, NoSuchSession, SessionState
from belljar.service.routes import TRACEPARENT, Answer, Asking, Nothing, Route, no_such
from belljar.service.scopes import TenantName, named_tenant

__all__ = ["ROUTES", "Cell", "Question", "SessionAsked", "SessionList", "SessionsQuery"]

_TIMEOUT_S_MAX = 86_400


class SessionAsked(AskedSession, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A session that is opened; with a `model` it takes questions, too. `tenant` is as in a run's order."""

    tenant: TenantName | None = None


class SessionsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a tenant and those below it; of all that the principal has, without one."""

    tenant: TenantName | None = None


class SessionList(msgspec.Struct, frozen=True):
    """Sessions that are open in this process."""

    sessions: list[SessionState]


class Cell(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A cell of code; its variables are there in the next. It may take `timeout_s` seconds, or what the policy says."""

    code: Annotated[str, Meta(min_length=1)]
    timeout_s: Annotated[float, Meta(gt=0, le=_TIMEOUT_S_MAX)] | None = None


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question for the session's model; the answer has to fit `answer_schema`, a JSON Schema."""

    question: Annotated[str, Meta(min_length=1)]
    answer_schema: dict[str, Any] | None = None


async def _in_body(asking: Asking[Any, SessionAsked]) -> Tenant | None:
    return asking.named(asking.body.tenant)


async def _of_session(asking: Asking[Any, Any]) -> Tenant | None:
    session = asking.params["session"]
    asking.about = session
    return no_such(asking, Tenant(asking.desk.session(session).tenant), NoSuchSession(session))


async def _begin(asking: Asking[Nothing, SessionAsked]) -> Answer:
    body = asking.body
    asked = AskedSession(**{field: getattr(body, field) for field in AskedSession.__struct_fields__})
    tenant, caller = asking.named(body.tenant), asking.caller
    state = await asking.desk.open_session(asked, tenant=tenant, by=asking.by, caller=caller)
    asking.about = state.session
    return Answer(state, 201, {"location": f"/v1/sessions/{state.session}"})


async def _ls(asking: Asking[SessionsQuery, None]) -> SessionList:
    return SessionList(asking.desk.sessions(asking.tenant))


async def _show(asking: Asking[Nothing, None]) -> SessionState:
    return asking.desk.session(asking.params["session"])


async def _execute(asking: Asking[Nothing, Cell]) -> CellResult:
    return await asking.desk.execute(asking.params["session"], asking.body.code, timeout_s=asking.body.timeout_s)


async def _ask(asking: Asking[Nothing, Question]) -> AskResult:
    body = asking.body
    found = await asking.desk.ask(asking.params["session"], body.question, answer_schema=body.answer_schema)
    return msgspec.structs.replace(found, turns_log=())


async def _end(asking: Asking[Nothing, None]) -> Result:
    found = await asking.desk.close_session(asking.params["session"])
    return msgspec.structs.replace(found, turns_log=())


ROUTES = (
    Route(
        method="POST",
        path="/v1/sessions",
        summary="Open a session",
        action="run",
        owner=_in_body,
        handler=_begin,
        body=SessionAsked,
        answer=SessionState,
        status=201,
        refuses=(404, 409),
        headers=TRACEPARENT,
        answer_headers={"Location": "The session."},
    ),
    Route(
        method="GET",
        path="/v1/sessions",
        summary="List the open sessions",
        action="run.read",
        owner=named_tenant,
        handler=_ls,
        query=SessionsQuery,
        answer=SessionList,
    ),
    Route(
        method="GET",
        path="/v1/sessions/{session}",
        summary="Show a session",
        action="run.read",
        owner=_of_session,
        handler=_show,
        answer=SessionState,
    ),
    Route(
        method="DELETE",
        path="/v1/sessions/{session}",
        summary="Close a session",
        action="run",
        owner=_of_session,
        handler=_end,
        answer=Result,
    ),
    Route(
        method="POST",
        path="/v1/sessions/{session}/cells",
        summary="Run a cell of code",
        action="run",
        owner=_of_session,
        handler=_execute,
        body=Cell,
        answer=CellResult,
        refuses=(409, 502),
    ),
    Route(
        method="POST",
        path="/v1/sessions/{session}/ask",
        summary="Ask the session's model",
        action="run",
        owner=_of_session,
        handler=_ask,
        body=Question,
        answer=AskResult,
        refuses=(409, 502),
    ),
)
