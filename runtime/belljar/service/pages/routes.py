"""The pages as routes: who asks, what they may, what they read or order, and which template shows it.

A page is made in a thread. A form is taken only as a form (`application/x-www-form-urlencoded`), of a bounded size, and
from one of our own pages: with the word of its visitor's session, which no other site can know, and not where the
browser says that another site's page sent it (`Sec-Fetch-Site`, `Origin`). It is answered with a redirection, so that
nothing is ordered twice by looking again. An error says its code, and its words only where they are about what the
visitor asked for.
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import time
from collections.abc import Awaitable, Callable, Sequence
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import Any, Final, get_args
from urllib.parse import parse_qsl, quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from belljar.arguments import tenant_of
from belljar.audit.export.html import OPEN_MAX, rows_of
from belljar.engine import Status
from belljar.errors import (
    BelljarError,
    HostFault,
    InvalidInput,
    LayerMissing,
    QuotaExceeded,
    Refusal,
)
from belljar.heavy import off_loop
from belljar.identity import DEFAULT_TENANT, LANGUAGES, Tenant
from belljar.jobs import Busy
from belljar.jobs.words import told_words
from belljar.ledger import AT_ONCE, LIMITED, PERIODS
from belljar.policy import presets
from belljar.service.pages import rendering, views
from belljar.service.pages.reading import NOT_THERE, USES_RUNS_MAX
from belljar.service.pages.rendering import HEADERS, STATIC
from belljar.service.pages.seams import (
    ORDER_STATES,
    Actions,
    Again,
    Asked,
    ContextRow,
    Reader,
    RunFilter,
    RunsPage,
    Visitor,
)
from belljar.service.problems import retry_after
from belljar.service.records import address_of
from belljar.service.routes import COOKIE, cookie_name
from belljar.service.settings import DEMO

__all__ = ["FORM_BYTES_MAX", "SESSION", "Who", "pages"]

# The name of the session's cookie, but over TLS (`cookie_name`).
SESSION: Final = COOKIE

# Who sends a request: None if that is nobody known. Raises a `Refusal` for a credential that is not good, and `Busy`
# where too much of theirs is under way.
Who = Callable[[Request], Awaitable[Visitor | None]]
_Page = Callable[["_Pages", Request, Visitor], Awaitable[Response]]

# A text that is pasted; a longer one is uploaded.
FORM_BYTES_MAX: Final = 4 << 20
# Anybody may send a login: a key, or a token of 16 KiB at most.
_LOGIN_BYTES_MAX: Final = 64 << 10
# Exports and live events are links to it.
_API: Final = "/v1"
_FORM_S: Final = 30.0
_FIELDS_MAX: Final = 200
_BOUND_CHARS_MAX: Final = 40
_EXACT: Final = Context(prec=2 * _BOUND_CHARS_MAX, traps=[Inexact, InvalidOperation, Overflow])
_RUNS: Final = 50
_TOP: Final = 10
_TOP_OF: Final = 100
_RECORDS: Final = 50
_CHECKPOINTS: Final = 10
_VIEW_CHARS: Final = 20_000
_CHOICES: Final = 200
# As a run may be filtered by: under way, how it ended, what came of a replay, and what the log says of a dead host's.
_STATUSES: Final = (*ORDER_STATES, "running", *get_args(Status), "diverged", "incomplete", "unfinished", "abandoned")
# Models that are a file of this host, or somebody's run.
_OF_FILES: Final = ("scripted:", "replay:")
_FORM: Final = "application/x-www-form-urlencoded"
# Of refusals; of others it is 400.
_STATUSES_OF: Final = {
    NOT_THERE: 404,
    "access.expired": 401,
    "access.forbidden": 403,
    "access.revoked": 401,
    "access.session": 401,
    "access.throttled": 429,
    "context.unknown": 404,
    "run.unknown": 404,
    "session.busy": 409,
    "session.ended": 409,
    "session.unknown": 404,
}
_NOT_SECRET: Final = ("audit.missing", "quota.missing", "audit.file")


def _no_profiles(_: Tenant) -> Sequence[str]:
    return ()


def pages(
    reader: Reader,
    actions: Actions,
    *,
    who: Who,
    models: Sequence[str] = (DEMO,),
    profiles: Callable[[Tenant], Sequence[str]] = _no_profiles,
    form_s: float = _FORM_S,
) -> list[Route]:
    """The routes of all pages, for the root of a service.

    Args:
        who: tells who sends a request, by the cookie named `SESSION`.
        models: what the playground offers; the first is the one that is chosen at first.
        profiles: what it offers to a tenant besides, each with a policy of its own.
        form_s: how long a client may take to send a form, in seconds.
    """
    made = _Pages(reader, actions, who, models, profiles, form_s)

    def get(path: str, page: _Page) -> Route:
        return Route(path, functools.partial(made.visited, page), methods=["GET"])

    def post(path: str, page: _Page) -> Route:
        return Route(path, functools.partial(made.visited, page), methods=["POST"])

    return [
        Route("/", _home, methods=["GET"]),
        Route("/favicon.ico", _icon, methods=["GET"]),
        *(Route(f"{STATIC}/{name}", functools.partial(_static, name), methods=["GET"]) for name in rendering.NAMES),
        Route("/login", made.login, methods=["GET", "POST"]),
        post("/logout", _Pages.logout),
        get("/runs", _Pages.runs),
        get("/runs/{run}", _Pages.run),
        get("/runs/{run}/proof", _Pages.proof),
        post("/runs/{run}/cancel", _Pages.cancel),
        post("/runs/{run}/cells", _Pages.cell),
        post("/runs/{run}/fork", _Pages.fork),
        post("/runs/{run}/replay", _Pages.replay),
        get("/tenants", _Pages.tenants),
        post("/tenants/limits", _Pages.limits),
        get("/contexts", _Pages.contexts),
        get("/contexts/view", _Pages.context),
        get("/playground", _Pages.playground),
        post("/playground", _Pages.ask),
        get("/health", _Pages.health),
        post("/health/examine", _Pages.examine),
        get("/audit", _Pages.audit),
        post("/audit/verify", _Pages.verify),
    ]


async def _home(_: Request) -> Response:
    return RedirectResponse("/runs", 303, HEADERS)


async def _icon(_: Request) -> Response:
    return RedirectResponse(f"{STATIC}/icon.svg", 308, HEADERS)


async def _static(name: str, request: Request) -> Response:
    found = rendering.static(name)
    tag = f'"{found.mark}"'
    headers = {**HEADERS, "cache-control": "public, max-age=31536000, immutable", "etag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(found.data, headers={**headers, "content-type": found.kind})


class _Wrong(Refusal):
    """The request is not one that a page of ours sends. `status` is HTTP's."""

    def __init__(self, message: str, code: str, status: int) -> None:
        super().__init__(message, code=code)
        self.status = status


class _Pages:
    """All pages of a service."""

    def __init__(
        self,
        reader: Reader,
        actions: Actions,
        who: Who,
        models: Sequence[str],
        profiles: Callable[[Tenant], Sequence[str]],
        form_s: float,
    ) -> None:
        self._reader = reader
        self._actions = actions
        self._who = who
        self._models = models
        self._profiles = profiles
        self._form_s = form_s

    async def visited(self, page: _Page, request: Request) -> Response:
        """A page for somebody known; others are shown the login."""
        try:
            visitor = await self._who(request)
        except (Busy, HostFault) as error:
            return await self._refused(request, None, error)
        except Refusal:
            visitor = None
        if visitor is None:
            there = quote(request.url.path + (f"?{request.url.query}" if request.url.query else ""), safe="")
            return RedirectResponse(f"/login?next={there}" if request.method == "GET" else "/login", 303, HEADERS)
        code = None
        try:
            answer = await page(self, request, visitor)
        except BelljarError as error:
            code = _words(error)["code"]
            answer = await self._refused(request, visitor, error)
        await self._record(request, visitor, answer, code)
        return answer

    async def _refused(self, request: Request, visitor: Visitor | None, error: BelljarError) -> Response:
        answer = await self._shown(request, visitor, "error.html.j2", "", _status(error), **_words(error))
        if (later := retry_after(error)) is not None:
            answer.headers["retry-after"] = str(later)
        return answer

    async def _record(self, request: Request, visitor: Visitor | None, answer: Response, code: str | None) -> None:
        """Who only looks is not recorded for it: pages look again every few seconds. `log.read` has what they read."""
        if request.method == "POST" or code is not None:
            route = f"{request.method} {request.scope['route'].path}"
            await self._actions.record(visitor, route, answer.status_code, code, address_of(request.scope))

    async def _shown(
        self, request: Request, visitor: Visitor | None, template: str, here: str, status: int = 200, /, **shown: Any
    ) -> Response:
        token = "" if visitor is None else visitor.word
        data = await asyncio.to_thread(
            rendering.page, template, visitor=visitor, here=here, token=token, link=views.link, api=_API, **shown
        )
        return Response(data, status, {**HEADERS, "content-type": "text/html; charset=utf-8"})

    async def _form(self, request: Request, visitor: Visitor | None) -> dict[str, str]:
        """The fields of a form that one of our pages sent.

        Raises:
            Refusal: `form.type`, `form.too_long`, `form.slow`, `form.foreign`.
        """
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
            raise _Wrong("send a form, as the pages do", "form.type", 415)
        body = await self._form_body(request, _LOGIN_BYTES_MAX if visitor is None else FORM_BYTES_MAX)
        fields = await off_loop(len(body), _fields, body)
        word = fields.pop("token", "").encode()
        if not _is_same_site(request) or (visitor is not None and not hmac.compare_digest(word, visitor.word.encode())):
            raise _Wrong(
                "this form is old, or not from here: go back, load the page again, and repeat", "form.foreign", 403
            )
        return fields

    async def _form_body(self, request: Request, most: int) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self._form_s):
                async for piece in request.stream():
                    body += piece
                    if len(body) > most:
                        raise _Wrong(
                            f"this form has at most {most >> 10} KiB: upload a longer context by the API, and choose "
                            "it by its name",
                            "form.too_long",
                            413,
                        )
        except (TimeoutError, ClientDisconnect):
            raise _Wrong("the form did not come in time: send it again", "form.slow", 408) from None
        return bytes(body)

    # ---------------------------------------------------------------------------------------------------------- login

    async def login(self, request: Request) -> Response:
        if request.method != "POST":
            return await self._shown(
                request, None, "login.html.j2", "login", there=_local(request.query_params.get("next")), why=""
            )
        there = "/runs"
        try:
            try:
                fields = await self._form(request, None)
            except _Wrong:
                self._actions.stranger(address_of(request.scope))
                raise
            there = _local(fields.get("next"))
            login = await self._actions.login(fields.get("key", "").strip(), address_of(request.scope))
        except BelljarError as error:
            words = _words(error)
            shown = {"there": there, "why": words["why"]}
            answer = await self._shown(request, None, "login.html.j2", "login", _status(error, 401), **shown)
            await self._record(request, None, answer, words["code"])
            return answer
        answer = RedirectResponse(there, 303, HEADERS)
        is_safe = request.url.scheme == "https"
        how: dict[str, Any] = {"path": "/", "secure": is_safe, "httponly": True, "samesite": "lax"}
        answer.set_cookie(cookie_name(request), login.cookie, max_age=login.for_s, **how)
        await self._record(request, None, answer, None)
        return answer

    async def logout(self, request: Request, visitor: Visitor) -> Response:
        await self._form(request, visitor)
        response = RedirectResponse("/login", 303, HEADERS)
        is_safe = request.url.scheme == "https"
        response.delete_cookie(cookie_name(request), path="/", secure=is_safe, httponly=True, samesite="lax")
        return response

    # ----------------------------------------------------------------------------------------------------------- runs

    async def runs(self, request: Request, visitor: Visitor) -> Response:
        _demand(visitor, "run.read", visitor.tenant)
        wanted = RunFilter(
            **{
                # The character 0 is in nothing that can be found, and no database takes it.
                name: request.query_params.get(name, "")[:200].replace("\0", "").strip()
                for name in RunFilter.__struct_fields__
            }
        )
        of_orders = wanted.status in ORDER_STATES
        if of_orders:
            waiting, older = await self._reader.waiting(visitor, wanted)
            found = RunsPage(runs=[], older=older)
        else:
            found = await self._reader.runs(visitor, wanted, limit=_RUNS)
            waiting = []
            if not wanted.before and wanted.status in ("", "host_fault"):
                waiting, _ = await self._reader.waiting(visitor, wanted)
        spent = []
        if visitor.may("quota.read", visitor.tenant):
            spent = views.days(await self._reader.history(visitor, _seen(visitor, wanted.tenant)), time.time())
        return await self._shown(
            request,
            visitor,
            "runs.html.j2",
            "runs",
            found=found,
            waiting=waiting,
            wanted=wanted,
            statuses=_STATUSES,
            spark=views.spark(spent),
        )

    async def run(self, request: Request, visitor: Visitor) -> Response:
        run = request.path_params["run"]
        if (waiting := await self._reader.waits(visitor, run)) is not None:
            tenant = tenant_of(waiting.tenant)
            _demand(visitor, "run.read", tenant)
            may_cancel = waiting.is_open and visitor.may("run.cancel", tenant)
            return await self._shown(request, visitor, "waiting.html.j2", "runs", one=waiting, may_cancel=may_cancel)
        _demand(visitor, "run.read", await self._reader.tenant_of(visitor, run))
        part = _number(request.query_params.get("part"), 1)
        found = await self._reader.run(visitor, run, part=part)
        tenant = tenant_of(found.tenant)
        registered: list[ContextRow] = []
        if found.gone and visitor.may("context.read", tenant):
            registered = (await self._reader.contexts(visitor, tenant)).rows[:_CHOICES]
        levels: list[views.Level] = []
        if visitor.may("quota.read", tenant):
            levels = [one for one in views.levels(await self._reader.quotas(visitor, tenant)) if one.gauges]
        return await self._shown(
            request,
            visitor,
            "run.html.j2",
            "runs",
            found=found,
            page=found.page,
            rows=rows_of(found.page),
            open_max=OPEN_MAX,
            may_cancel=found.is_live and visitor.may("run.cancel", tenant),
            may_run=found.can_again and visitor.may("run", tenant),
            takes_cells=found.takes_cells and visitor.may("run", tenant),
            registered=registered,
            levels=levels,
            model=self._offered(found.model),
            models=self._models,
        )

    async def proof(self, request: Request, visitor: Visitor) -> Response:
        run = request.path_params["run"]
        _demand(visitor, "run.read", await self._reader.tenant_of(visitor, run))
        found = await self._reader.proof(visitor, run)
        shown = {name: getattr(found, name) for name in found.__struct_fields__}
        return JSONResponse(shown, headers=HEADERS)

    async def cancel(self, request: Request, visitor: Visitor) -> Response:
        await self._form(request, visitor)
        run = await self._theirs(request, visitor, "run.cancel")
        await self._actions.cancel(visitor, run)
        return RedirectResponse(f"/runs/{run}", 303, HEADERS)

    async def cell(self, request: Request, visitor: Visitor) -> Response:
        fields = await self._form(request, visitor)
        run = await self._theirs(request, visitor, "run")
        code = fields.get("code", "").replace("\r\n", "\n")
        if not code.strip():
            raise InvalidInput("write some code for the cell", code="playground.asked")
        await self._actions.cell(visitor, run, code)
        return RedirectResponse(f"/runs/{run}", 303, HEADERS)

    async def replay(self, request: Request, visitor: Visitor) -> Response:
        fields = await self._form(request, visitor)
        run = await self._theirs(request, visitor, "run")
        again = Again(run=run, **_given(fields))
        return RedirectResponse(f"/runs/{await self._actions.again(visitor, again)}", 303, HEADERS)

    async def fork(self, request: Request, visitor: Visitor) -> Response:
        fields = await self._form(request, visitor)
        run = await self._theirs(request, visitor, "run")
        model = self._model(fields.get("model", ""))
        again = Again(run=run, from_turn=_number(fields.get("from_turn"), 1), model=model, **_given(fields))
        return RedirectResponse(f"/runs/{await self._actions.again(visitor, again)}", 303, HEADERS)

    async def _theirs(self, request: Request, visitor: Visitor, action: str) -> str:
        run: str = request.path_params["run"]
        waiting = await self._reader.waits(visitor, run)
        tenant = await self._reader.tenant_of(visitor, run) if waiting is None else tenant_of(waiting.tenant)
        _demand(visitor, action, tenant)
        return run

    # -------------------------------------------------------------------------------------------------------- tenants

    async def tenants(self, request: Request, visitor: Visitor) -> Response:
        _demand(visitor, "quota.read", visitor.tenant)
        names = await self._reader.tenants(visitor)
        chosen = request.query_params.get("tenant", "") or (
            names[0] if names else str(visitor.tenant or DEFAULT_TENANT)
        )
        tenant = tenant_of(chosen)
        if not visitor.sees(tenant):
            raise InvalidInput("there is no such tenant: look in the list", code=NOT_THERE)
        quotas = await self._reader.quotas(visitor, tenant)
        history = views.days(await self._reader.history(visitor, tenant), time.time())
        top = await self._reader.runs(visitor, RunFilter(tenant=tenant), limit=_TOP_OF)
        return await self._shown(
            request,
            visitor,
            "tenants.html.j2",
            "tenants",
            names=names,
            tenant=str(tenant),
            levels=views.levels(quotas),
            limits=views.limits_of(quotas, tenant),
            fields=views.FIELDS,
            periods=list(reversed(PERIODS)),
            days=history,
            top=sorted(top.runs, key=lambda run: run.cost_nanousd or 0, reverse=True)[:_TOP],
            may_set=visitor.may("quota.set", tenant),
            saved=request.query_params.get("saved") == "1",
        )

    async def limits(self, request: Request, visitor: Visitor) -> Response:
        fields = await self._form(request, visitor)
        tenant = tenant_of(fields.get("tenant", ""))
        _demand(visitor, "quota.set", tenant)
        period = fields.get("period", "")
        if period not in PERIODS:
            raise InvalidInput(f"choose a period: {', '.join(PERIODS)}", code="limit.invalid")
        bounds = {name: _bound(name, text) for name in LIMITED if (text := fields.get(name, "").strip())}
        if period != "total" and (odd := [name for name in bounds if name in AT_ONCE]):
            raise InvalidInput(f"{odd[0]} has a limit at each moment: choose the period total", code="limit.invalid")
        if not bounds:
            raise InvalidInput("no limit is given: fill in one, or `none` for no limit", code="limit.invalid")
        await self._actions.set_limits(visitor, tenant, period, bounds)
        return RedirectResponse(views.link("/tenants", tenant=tenant, saved=1), 303, HEADERS)

    # ------------------------------------------------------------------------------------------------------- contexts

    async def contexts(self, request: Request, visitor: Visitor) -> Response:
        tenant = await self._tenant(request, visitor, "context.read")
        found = await self._reader.contexts(visitor, tenant, uses=visitor.may("run.read", tenant))
        names = await self._reader.tenants(visitor) if visitor.may("quota.read", visitor.tenant) else []
        return await self._shown(
            request,
            visitor,
            "contexts.html.j2",
            "contexts",
            tenant=str(tenant),
            names=names,
            found=found,
            counted=USES_RUNS_MAX,
        )

    async def context(self, request: Request, visitor: Visitor) -> Response:
        tenant = await self._tenant(request, visitor, "context.read")
        asked = request.query_params
        found = await self._reader.context(
            visitor,
            tenant,
            asked.get("sha256", "")[:64],
            start=_number(asked.get("start"), 0),
            line=_number(asked.get("line"), 0),
            chars=_VIEW_CHARS,
        )
        return await self._shown(
            request, visitor, "context.html.j2", "contexts", tenant=str(tenant), found=found, chars=_VIEW_CHARS
        )

    async def _tenant(self, request: Request, visitor: Visitor, action: str) -> Tenant:
        """The one that is asked for, else the visitor's own."""
        tenant = tenant_of(request.query_params.get("tenant", "") or visitor.tenant or DEFAULT_TENANT)
        _demand(visitor, action, tenant)
        return tenant

    # ----------------------------------------------------------------------------------------------------- playground

    async def playground(self, request: Request, visitor: Visitor) -> Response:
        tenant = await self._tenant(request, visitor, "run")
        contexts = (await self._reader.contexts(visitor, tenant)).rows if visitor.may("context.read", tenant) else []
        return await self._shown(
            request,
            visitor,
            "playground.html.j2",
            "playground",
            tenant=str(tenant),
            contexts=contexts[:_CHOICES],
            models=self._models,
            profiles=self._profiles(tenant),
            policies=sorted(presets()),
            languages=LANGUAGES,
        )

    async def ask(self, request: Request, visitor: Visitor) -> Response:
        fields = await self._form(request, visitor)
        tenant = tenant_of(fields.get("tenant", ""))
        _demand(visitor, "run", tenant)
        question, code = fields.get("question", "").strip(), fields.get("code", "").replace("\r\n", "\n")
        if bool(question) == bool(code.strip()):
            raise InvalidInput("ask a question or write code: one of the two", code="playground.asked")
        if (policy := fields.get("policy", "")) not in presets():
            raise InvalidInput("choose a policy from the list", code="playground.policy")
        run = await self._actions.ask(
            visitor,
            Asked(
                tenant=tenant,
                question=question,
                code="" if question else code,
                stays=not question and fields.get("stays") == "1",
                text=fields.get("text", "").replace("\r\n", "\n"),
                contexts=[fields["context"]] if fields.get("context") else [],
                model=self._model(fields.get("model", "")),
                policy=policy,
                language=fields["language"] if fields.get("language") in LANGUAGES else "",
            ),
        )
        return RedirectResponse(f"/runs/{run}", 303, HEADERS)

    def _offered(self, name: str) -> str:
        """The model that a run had, if it may be asked again here; else the first that is offered."""
        is_ours = name in self._models or not name.startswith(_OF_FILES)
        return name if name and is_ours else self._models[0]

    def _model(self, name: str) -> str:
        """A model that a form may name: not one that is a file of this host, or somebody's run.

        Raises:
            InvalidInput: `playground.model`.
        """
        name = name.strip()
        if name not in self._models and (not name or name.startswith(_OF_FILES)):
            raise InvalidInput("choose a model from the list, or name one of a provider", code="playground.model")
        return name

    # ------------------------------------------------------------------------------------------------ health and audit

    async def health(self, request: Request, visitor: Visitor) -> Response:
        _demand(visitor, "host.read", None)
        found = await self._reader.health(visitor)
        return await self._shown(
            request, visitor, "health.html.j2", "health", found=found, may_examine=visitor.may("audit.verify", None)
        )

    async def examine(self, request: Request, visitor: Visitor) -> Response:
        await self._form(request, visitor)
        _demand(visitor, "host.read", None)
        _demand(visitor, "audit.verify", None)
        await self._reader.examine()
        return RedirectResponse("/health", 303, HEADERS)

    async def audit(self, request: Request, visitor: Visitor) -> Response:
        _demand(visitor, "audit.read", visitor.tenant)
        before = _number(request.query_params.get("before"), 0)
        found = await self._reader.records(visitor, before=before, limit=_RECORDS)
        return await self._shown(
            request,
            visitor,
            "audit.html.j2",
            "audit",
            found=found,
            before=before,
            checkpoints=await self._reader.checkpoints(visitor, limit=_CHECKPOINTS),
            checked=self._reader.checked(),
            may_verify=visitor.may("audit.verify", None),
        )

    async def verify(self, request: Request, visitor: Visitor) -> Response:
        await self._form(request, visitor)
        _demand(visitor, "audit.verify", None)
        await self._reader.verify()
        return RedirectResponse("/audit", 303, HEADERS)


def _given(fields: dict[str, str]) -> dict[str, Any]:
    """What a form gives in the place of contexts that are gone; a text goes before a choice."""
    texts = {
        name.removeprefix("text."): text.replace("\r\n", "\n")
        for name, text in fields.items()
        if name.startswith("text.") and text
    }
    chosen = {
        name.removeprefix("context."): digest
        for name, digest in fields.items()
        if name.startswith("context.") and digest
    }
    return {"texts": texts, "contexts": {name: digest for name, digest in chosen.items() if name not in texts}}


def _seen(visitor: Visitor, name: str) -> str | None:
    """The tenant that a filter names, if there can be one and the visitor sees it."""
    try:
        return tenant_of(name) if visitor.sees(name) else None
    except InvalidInput:
        return None


def _demand(visitor: Visitor, action: str, tenant: Tenant | None) -> None:
    if not visitor.may(action, tenant):
        raise _Wrong(
            f"your role, {visitor.role}, does not allow this here: ask with another key", "access.forbidden", 403
        )


def _status(error: BelljarError, otherwise: int = 400) -> int:
    match error:
        case _Wrong():
            return error.status
        case QuotaExceeded():
            return 429
        case Refusal():
            return _STATUSES_OF.get(error.code, 503 if isinstance(error, Busy | LayerMissing) else otherwise)
        case _:
            return 503


def _words(error: BelljarError) -> dict[str, str]:
    """What an error page says. What is wrong with the host, and where, is for its log."""
    if isinstance(error, Refusal) and error.code not in _NOT_SECRET:
        return {"code": error.code, "why": told_words(error)}
    if isinstance(error, Refusal):
        return {"code": error.code, "why": "nothing has happened here yet: start a run first"}
    return {"code": type(error).__name__, "why": "the host cannot do this now: its own log says why; try again later"}


def _fields(body: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_FIELDS_MAX, errors="strict"))
    except ValueError:
        raise _Wrong("send a form, as the pages do", "form.type", 400) from None


def _is_same_site(request: Request) -> bool:
    """What the browser says of the page that sent this."""
    if (site := request.headers.get("sec-fetch-site")) is not None and site not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host")


def _local(there: str | None) -> str:
    """A path of ours to go to; nobody is sent elsewhere."""
    is_ours = (
        there is not None and there.startswith("/") and not there.startswith(("//", "/\\")) and there.isprintable()
    )
    return there if there is not None and is_ours and "\\" not in there else "/runs"


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else otherwise


def _bound(name: str, text: str) -> int | None:
    """A limit as a form has it: a whole number, dollars for the cost, or `none`.

    Raises:
        InvalidInput: `limit.invalid`.
    """
    if text.lower() == "none":
        return None
    try:
        amount = Decimal(text[:_BOUND_CHARS_MAX].replace(",", "").replace("_", "").removeprefix("$"))
        whole = _EXACT.multiply(amount, Decimal(10**9 if name == "cost_nanousd" else 1))
        # The bounds first: the integer that `1e9999999999` is would fill the memory.
        if not amount.is_finite() or not 0 <= whole < 2**63 or whole != int(whole) or len(text) > _BOUND_CHARS_MAX:
            raise ValueError
    except (ArithmeticError, ValueError):
        raise InvalidInput(
            f"{text[:40]!a} is no limit for {name}: write a whole number, or none", code="limit.invalid"
        ) from None
    return int(whole)
