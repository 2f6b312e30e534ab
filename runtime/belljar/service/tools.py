"""What a model may do with Belljar by tool calls: each tool's arguments, its result, and the host's method behind it.

    answer_over_context   a run under a root model            Desk.submit
    run_python            a run of given code                 Desk.submit
    search_context        a run of one line, which searches   Desk.submit
    register_context      a text, to stay                     Host.add_context
    list_runs, show_run   runs that wait, run or have ended   Desk.ls, the log

Whoever calls is a stranger: a model that another program runs. So arguments are closed, typed and bounded, and name
nothing of this host: a context is a text or one that the tenant has registered, a model is one of those that the
operator offers under a name, and policy, backend and language are the operator's. A search is a run like any other, so
that what it reads is charged, logged, and counted as read.

A run is ordered at the desk, as over HTTP: it waits for its tenant's turn, and the desk's bounds, its drain and its
list hold for it. A call lasts as long as its run, and a run no longer than its call: whoever gives up the call cancels
the order, also one that is just being written (`Call.run`).

`Offer` is the operator's side, `Caller` who calls. Nothing here knows of the protocol: that is `mcp`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeAlias, cast

import msgspec
from msgspec import Meta

from belljar.audit import Record, records
from belljar.audit.events import (
    AnswerGiven,
    CellFinished,
    QueryCompleted,
    QueryDenied,
    QueryFailed,
    QueryReused,
    RequestRefused,
    RunAbandoned,
    RunFinished,
    RunStarted,
)
from belljar.context import Document, FileSource
from belljar.engine import Limit, Progress, Result
from belljar.errors import InvalidInput, PolicyDenied, Refusal
from belljar.host import Host
from belljar.identity import DEFAULT_TENANT, Language, RunId, Tenant, TraceParent
from belljar.jobs import Asked, Context, Desk, NoSuchRun, Order, OrderState, RegisteredContext, TextContext
from belljar.jobs.orders import INTERRUPTED, QUEUED, RUNNING
from belljar.service.listening import Proof, heard
from belljar.service.outcomes import unanswered
from belljar.service.records import Known
from belljar.streaming import ResultEvent
from belljar.tasks import to_the_end

__all__ = [
    "TEXT_CHARS_MAX",
    "TOOLS",
    "Call",
    "Caller",
    "Demand",
    "Failure",
    "Found",
    "Hit",
    "Listed",
    "Offer",
    "Registered",
    "RunDone",
    "Runs",
    "Shown",
    "Tool",
    "own_subtree",
]

# The longest text that comes in a call; longer ones are registered by other ways. In characters.
TEXT_CHARS_MAX: Final = 1_000_000
CODE_CHARS_MAX: Final = 262_144
QUESTION_CHARS_MAX: Final = 100_000
PATTERN_CHARS_MAX: Final = 1000
CONTEXTS_MAX: Final = 16
RUNS_MAX: Final = 100
HITS_MAX: Final = 100
# Of what a program printed; its answer is bounded by the policy.
OUTPUT_CHARS_MAX: Final = 50_000
CELLS_MAX: Final = 200
# Of the list of runs, each of which the desk fills from a thousand runs at most.
_PAGES_MAX: Final = 20
_CODES_MAX: Final = 50

_Name = Annotated[str, Meta(min_length=1, max_length=128)]
_Tenant = Annotated[str, Meta(max_length=512, description="A tenant at or below the caller's own, who is charged.")]
_Reference = Annotated[
    str, Meta(min_length=1, max_length=256, description="A registered context: its name, or sha256:DIGEST.")
]
_Text = Annotated[str, Meta(min_length=1, max_length=TEXT_CHARS_MAX, description="The context itself, as a text.")]
_Contexts = Annotated[
    dict[Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")], _Reference],
    Meta(max_length=CONTEXTS_MAX, description='More registered contexts, by their names in `contexts["NAME"]`.'),
]
_Model = Annotated[str, Meta(max_length=128)]


# Who calls, as they have proved: `access.Principal` is one.
Caller: TypeAlias = Known
# Refuses what a caller may not do to a tenant: `access.demand` does.
Demand = Callable[[Any, Any, Tenant | None], None]
# Hears what a run has done so far; before its turn has come, how many of its tenant's orders are before it.
Tell = Callable[[Progress | int], None]
Prove = Callable[[], Awaitable[object]]


def own_subtree(caller: Caller, _action: str, tenant: Tenant | None) -> None:
    """The rule where everybody may do everything to their own tenant and those below it.

    Raises:
        PolicyDenied: `access.forbidden`.
    """
    if caller.tenant is not None and (tenant is None or caller.tenant not in tenant.levels):
        raise PolicyDenied(
            f"the tenant {tenant} is not below {caller.tenant}: leave the tenant out", code="access.forbidden"
        )


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What the operator lets callers use.

    Attributes:
        models: names of root models and sub-models by the names under which callers know them; the first is the
            default. None may be called if there are none. The desk has to take them.
        policy, backend, language: as of `jobs.Asked`, of every run.
    """

    models: Mapping[str, str] = field(default_factory=dict)
    policy: str = "standard"
    backend: str | None = None
    language: Language | None = None

    @property
    def terms(self) -> dict[str, Any]:
        return {"policy": self.policy, "backend": self.backend, "language": self.language}

    def model(self, name: str | None) -> str:
        """The model that a caller names, or the default.

        Raises:
            PolicyDenied: `offer.model`.
        """
        if name is None and self.models:
            name = next(iter(self.models))
        if name is None or name not in self.models:
            names = ", ".join(self.models) or "none"
            raise PolicyDenied(
                f"the model {name or 'wanted'!a} is not offered here: use one of {names}", code="offer.model"
            )
        return self.models[name]


# ----------------------------------------------------------------------------------------------------------- arguments


class _Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    tenant: _Tenant | None = None


class _Ask(_Arguments, frozen=True):
    """Arguments of `answer_over_context`."""

    question: Annotated[str, Meta(min_length=1, max_length=QUESTION_CHARS_MAX)]
    context: _Reference | None = None
    text: _Text | None = None
    contexts: _Contexts = {}
    model: _Model | None = None
    sub_model: _Model | None = None
    answer_schema: Annotated[dict[str, Any], Meta(description="A JSON Schema that the answer has to fit.")] | None = (
        None
    )


class _Code(_Arguments, frozen=True):
    """Arguments of `run_python`."""

    code: Annotated[str, Meta(min_length=1, max_length=CODE_CHARS_MAX)]
    context: _Reference | None = None
    text: _Text | None = None
    contexts: _Contexts = {}
    sub_model: (
        Annotated[str, Meta(max_length=128, description="Answers `llm_query`; without one it is refused.")] | None
    ) = None


class _Register(_Arguments, frozen=True):
    """Arguments of `register_context`."""

    name: _Name
    text: _Text


class _Search(_Arguments, frozen=True):
    """Arguments of `search_context`."""

    context: _Reference
    pattern: Annotated[str, Meta(min_length=1, max_length=PATTERN_CHARS_MAX, description="RE2 syntax.")]
    limit: Annotated[int, Meta(ge=1, le=HITS_MAX)] = 20


class _List(_Arguments, frozen=True):
    """Arguments of `list_runs`."""

    status: Annotated[str, Meta(max_length=32, description="Such as queued, running, ok, error or quota.")] | None = (
        None
    )
    limit: Annotated[int, Meta(ge=1, le=RUNS_MAX)] = 20


class _Show(_Arguments, frozen=True):
    """Arguments of `show_run`."""

    run: Annotated[str, Meta(min_length=1, max_length=128)]


# ------------------------------------------------------------------------------------------------------------- results


class Failure(msgspec.Struct, frozen=True):
    """What ended a run: the program's words for `error` and `rejected`, ours for every other status."""

    type: str
    message: str
    line: int | None = None


class RunDone(msgspec.Struct, frozen=True, kw_only=True):
    """A run that has ended. Costs are nano-dollars (10**-9 USD); the shares of the contexts go from 0 to 1."""

    run: str
    tenant: str
    status: str
    answer: Any
    error: Failure | None
    limit: Limit | None
    stdout: str
    stderr: str
    truncated: bool
    turns: int
    cells: int
    queries: int
    calls: int
    input_tokens: int
    output_tokens: int
    cost_nanousd: int
    wall_s: float
    read_share: float
    shown_share: float
    scripted: bool


class Registered(msgspec.Struct, frozen=True):
    """A registered context."""

    name: str
    reference: str
    chars: int
    lines: int


class Hit(msgspec.Struct, frozen=True):
    """A match: its characters `[start, stop)`, the beginning of its text, and the item of a list or dict it is in."""

    start: int
    stop: int
    text: str
    item: str | None = None


class Found(msgspec.Struct, frozen=True):
    """What a search found, and the run that it was."""

    run: str
    hits: list[Hit]
    complete: bool


class Listed(msgspec.Struct, frozen=True):
    """A run in a list. `status` is how it ended, or that it is queued or running; `started` is None before its turn."""

    run: str
    tenant: str
    started: datetime | None
    status: str
    root_model: str | None
    cost_nanousd: int | None


class Runs(msgspec.Struct, frozen=True):
    """Runs, the latest last."""

    runs: list[Listed]


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What the log has of one run, without any text. `cells` are the statuses of its first cells.

    `status` is as in `list_runs`. Of a run that waits for its turn the log has nothing.
    """

    run: str
    tenant: str
    started: datetime | None
    status: str
    code: str | None = None
    root_model: str | None
    sub_model: str | None
    policy: str | None
    backend: str | None
    by: str | None
    cells: list[str] = []
    queries: dict[str, int] = {}
    refusals: dict[str, int] = {}
    calls: int = 0
    cost_nanousd: int = 0
    wall_ms: int | None = None
    records: int = 0


# --------------------------------------------------------------------------------------------------------------- tools


@dataclass
class Call:
    """One call: who calls what for, and what became of it.

    Attributes:
        prove: raises AccessDenied where the caller is not let in any more, which is looked at each `proof_s` seconds.
        span: the caller's that it is part of.
        of: the run or context that it is about.
    """

    desk: Desk
    offer: Offer
    caller: Caller
    demand: Demand
    tell: Tell
    prove: Prove
    proof_s: float
    span: TraceParent | None = None
    of: str | None = None
    tenant: Tenant | None = None

    @property
    def host(self) -> Host:
        return self.desk.host

    def act(self, action: str, wanted: str | None) -> Tenant:
        """The tenant for whom the caller acts.

        Raises:
            Refusal: it is no tenant, or not one for whom the caller may do this.
        """
        tenant = Tenant(wanted) if wanted is not None else self.caller.tenant or DEFAULT_TENANT
        self.demand(self.caller, action, tenant)
        self.tenant = tenant
        return tenant

    def contexts(self, wish: _Ask | _Code, tenant: Tenant) -> dict[str, Context]:
        """The `context` and `contexts` of a run.

        Raises:
            InvalidInput: there are two.
        """
        found: dict[str, Context] = {name: RegisteredContext(ref) for name, ref in wish.contexts.items()}
        first = [one for one in (wish.context, wish.text, found.get("context")) if one is not None]
        if len(first) > 1:
            raise InvalidInput("there are several of context and text: give one of them", code="context.two")
        if wish.text is not None:
            found["context"] = TextContext(wish.text)
        if wish.context is not None:
            found["context"] = RegisteredContext(wish.context)
        if wish.context is not None or wish.contexts:
            self.demand(self.caller, "context.read", tenant)
        return found

    def registered(self, reference: str, tenant: Tenant) -> Document:
        self.demand(self.caller, "context.read", tenant)
        return self.host.registered(reference, tenant=tenant)

    async def run(self, asked: Asked, tenant: Tenant) -> RunDone:
        """Order a run, and follow it to its end. Whoever goes away meanwhile ends it.

        Raises:
            Busy, Refusal, HostFault: as `Desk.submit`, or it ended without a result.
            AccessDenied: the caller's key was revoked meanwhile, or the token has expired. The run goes on.
        """
        submitting = self.desk.submit(asked, tenant=tenant, by=self.caller.name, caller=self.span)
        placing = asyncio.create_task(submitting)
        try:
            self.of = (await asyncio.shield(placing)).run
            result = await self._followed(self.of)
        except asyncio.CancelledError:
            await to_the_end(self._given_up(placing))
            raise
        return await _done(result)

    async def _followed(self, run: str) -> Result:
        if (known := self.desk.known(run)) is not None and known.state == QUEUED:
            self.tell(known.place or 0)
        result = None
        async with contextlib.aclosing(heard(self.desk.events(run), Proof(self.prove, self.proof_s))) as events:
            async for event in events:
                if event is not None and isinstance(event[1], ResultEvent):
                    result = event[1].result
                elif (live := self.host.live_run(run)) is not None:
                    self.tell(live.progress)
        state = await self.desk.get(run)
        if result is None or state.state == INTERRUPTED:
            raise unanswered(state)
        return result

    async def _given_up(self, placing: asyncio.Task[Order]) -> None:
        """Nobody waits any more: cancel the order, once it is there."""
        await asyncio.wait([placing])
        if not placing.cancelled() and placing.exception() is None:
            self.of = placing.result().run
            with contextlib.suppress(NoSuchRun):  # it had ended, and is forgotten
                await self.desk.cancel(self.of, by=self.caller.name)


async def _answer_over_context(call: Call, wish: _Ask) -> RunDone:
    tenant = call.act("run", wish.tenant)
    asked = Asked(
        question=wish.question,
        contexts=call.contexts(wish, tenant),
        model=call.offer.model(wish.model),
        sub_model=None if wish.sub_model is None else call.offer.model(wish.sub_model),
        answer_schema=wish.answer_schema,
        **call.offer.terms,
    )
    return await call.run(asked, tenant)


async def _run_python(call: Call, wish: _Code) -> RunDone:
    tenant = call.act("run", wish.tenant)
    asked = Asked(
        code=wish.code,
        contexts=call.contexts(wish, tenant),
        sub_model=None if wish.sub_model is None else call.offer.model(wish.sub_model),
        **call.offer.terms,
    )
    return await call.run(asked, tenant)


async def _register_context(call: Call, wish: _Register) -> Registered:
    tenant = call.act("context.write", wish.tenant)
    document = await call.host.add_context(_source(wish.text), name=wish.name, tenant=tenant)
    call.of = f"sha256:{document.sha256}"
    return Registered(wish.name, call.of, document.chars, document.lines)


# The pattern is a literal of ours, and a `str` has no other way to end one.
_SEARCH: Final = """
hits = context.search({pattern!r}, limit={limit})
FINAL({{
    "hits": [[hit.start, hit.stop, hit.text, str(hit.key) if {items} else None] for hit in hits],
    "complete": hits.next is None,
}})
"""


class _Hits(msgspec.Struct, frozen=True):
    hits: list[tuple[int, int, str, str | None]]
    complete: bool


async def _search_context(call: Call, wish: _Search) -> Found:
    tenant = call.act("run", wish.tenant)
    document = call.registered(wish.context, tenant)
    code = _SEARCH.format(pattern=wish.pattern, limit=wish.limit, items=document.kind != "text")
    contexts: dict[str, Context] = {"context": RegisteredContext(f"sha256:{document.sha256}")}
    done = await call.run(Asked(code=code, contexts=contexts, **call.offer.terms), tenant)
    if done.status != "ok":
        what = done.error.message if done.error is not None else done.status
        code = done.limit.code if done.limit is not None else "search.failed"
        raise PolicyDenied(f"the search ended with {done.status}: {what}", code=code)
    found = msgspec.convert(done.answer, _Hits)
    return Found(done.run, [Hit(*hit) for hit in found.hits], found.complete)


async def _list_runs(call: Call, wish: _List) -> Runs:
    tenant = Tenant(wish.tenant) if wish.tenant is not None else call.caller.tenant
    call.demand(call.caller, "run.read", tenant)
    call.tenant = tenant
    found: list[OrderState] = []
    after = None
    for _ in range(_PAGES_MAX):
        page = await call.desk.ls(tenant, status=wish.status, after=after, limit=wish.limit - len(found))
        found += page.runs
        after = page.after
        if after is None or len(found) == wish.limit:
            break
    return Runs([_listed(state) for state in reversed(found)])


def _listed(state: OrderState) -> Listed:
    started = None if state.started_ns is None else _time(state.started_ns)
    return Listed(state.run, state.tenant, started, state.state, state.model, state.cost_nanousd)


async def _show_run(call: Call, wish: _Show) -> Shown:
    run = RunId(wish.run)
    call.of = str(run)
    if (known := call.desk.known(run)) is not None and known.state == QUEUED:
        _check_known(call, run, known.tenant)
        return _not_begun(known)
    try:
        return await asyncio.to_thread(_shown, call, run)
    except NoSuchRun:
        state = await call.desk.get(run)  # an order of which there never was a run
        _check_known(call, run, state.tenant)
        return _not_begun(state)


def _check_known(call: Call, run: str, tenant: str) -> None:
    """Refuse what the caller may not know of, as if it were not there."""
    try:
        call.demand(call.caller, "run.read", Tenant(tenant))
    except Refusal:
        raise NoSuchRun(run) from None
    call.tenant = Tenant(tenant)


def _not_begun(state: OrderState) -> Shown:
    return Shown(
        run=state.run,
        tenant=state.tenant,
        started=None,
        status=state.state,
        root_model=state.model,
        sub_model=state.sub_model,
        policy=state.policy,
        backend=state.backend,
        by=state.by,
    )


def _shown(call: Call, run: RunId) -> Shown:
    """What the log has of a run of which the caller may know; of another one, what it says where there is none."""
    # Closed here, in the thread that opened it, also where an error keeps it alive.
    with contextlib.closing(cast("Generator[Record, None, None]", records(call.host.state.journal, run))) as found:
        first = next(found, None)
        begun = None if first is None else first.typed
        if first is None or not isinstance(begun, RunStarted):
            raise NoSuchRun(run)
        _check_known(call, run, begun.tenant)
        tally = _Tally()
        for record in found:
            tally.feed(record)
    ended = tally.ended
    finished = ended if isinstance(ended, RunFinished) else None
    return Shown(
        run=str(run),
        tenant=begun.tenant,
        started=_time(first.time_ns),
        status=INTERRUPTED if isinstance(ended, RunAbandoned) else finished.status if finished is not None else RUNNING,
        code=finished.code if finished is not None else None,
        root_model=begun.root_model,
        sub_model=begun.sub_model,
        policy=begun.policy,
        backend=begun.backend,
        by=begun.by,
        cells=tally.cells,
        queries=dict(tally.queries),
        refusals=dict(tally.refusals),
        calls=tally.calls,
        cost_nanousd=tally.cost_nanousd,
        wall_ms=finished.wall_ms if finished is not None else None,
        records=tally.records + 1,
    )


class _Tally:
    """What a run's records come to, in bounded memory, however many there are."""

    def __init__(self) -> None:
        self.cells: list[str] = []
        self.queries: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.calls = self.cost_nanousd = self.records = 0
        self.ended: RunFinished | RunAbandoned | None = None

    def feed(self, record: Record) -> None:
        self.records += 1
        match record.typed:
            case CellFinished() as cell if len(self.cells) < CELLS_MAX:
                self.cells.append(cell.status)
            case AnswerGiven(stays=False) if len(self.cells) < CELLS_MAX:  # its cell ends with the run
                self.cells.append("ok")
            case QueryCompleted() | QueryFailed() as outcome:
                self.queries[outcome.name.partition(".")[2]] += 1
                self.calls += outcome.calls
                self.cost_nanousd += outcome.cost_nanousd
            case QueryReused():
                self.queries["reused"] += 1
            case QueryDenied() as denied:
                self.queries["denied"] += 1
                self._refused(denied.code)
            case RequestRefused() as refused:
                self._refused(refused.code, refused.count or 1)
            case RunFinished() | RunAbandoned() as end:
                self.ended = end
            case _:
                pass

    def _refused(self, code: str, more: int = 1) -> None:
        """A program may be refused for many reasons, but not for any number of them."""
        known = code in self.refusals or len(self.refusals) < _CODES_MAX
        self.refusals[code if known else "other"] += more


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool: what it is for, what it takes and gives. `reads`: it changes nothing and spends nothing."""

    about: str
    arguments: type[msgspec.Struct]
    result: type[msgspec.Struct]
    work: Callable[[Call, Any], Awaitable[msgspec.Struct]]
    reads: bool = False


TOOLS: Final[Mapping[str, Tool]] = {
    "answer_over_context": Tool(
        about="Answer a question about a text of any length. A root model writes Python that reads the text in a "
        "sealed box and asks sub-models about its parts. Give the text itself, or name a registered context.",
        arguments=_Ask,
        result=RunDone,
        work=_answer_over_context,
    ),
    "run_python": Tool(
        about="Run Python in a sealed box without files or network. It finds the text as `context`, may call "
        "`context.search(pattern)` and `llm_query(prompt)`, and gives its answer by `FINAL(value)`.",
        arguments=_Code,
        result=RunDone,
        work=_run_python,
    ),
    "register_context": Tool(
        about="Keep a text under a name, for questions, programs and searches to come.",
        arguments=_Register,
        result=Registered,
        work=_register_context,
    ),
    "search_context": Tool(
        about="Find a regular expression in a registered context of any size.",
        arguments=_Search,
        result=Found,
        work=_search_context,
    ),
    "list_runs": Tool(
        about="List the latest runs of the tenant.", arguments=_List, result=Runs, work=_list_runs, reads=True
    ),
    "show_run": Tool(
        about="Show what the log has of a run: status, cells, queries, refusals and cost, but no texts.",
        arguments=_Show,
        result=Shown,
        work=_show_run,
        reads=True,
    ),
}


# -------------------------------------------------------------------------------------------------------------- helpers


def _source(text: str) -> FileSource:
    """A text as a file: a plain one would be looked for on the disk, in case it is a path."""
    return FileSource(io.BytesIO(text.encode()), "utf-8", "strict", False)


async def _done(result: Result) -> RunDone:
    error = None
    if result.error is not None:
        ours = result.status == "host_fault"
        message = "our side failed: ask whoever runs this service, who has it in the log" if ours else None
        error = Failure(result.error.type, message or result.error.message, result.error.line)
    stdout, stderr = result.stdout[:OUTPUT_CHARS_MAX], result.stderr[:OUTPUT_CHARS_MAX]
    return RunDone(
        run=str(result.run),
        tenant=result.tenant,
        status=result.status,
        answer=await asyncio.to_thread(lambda: result.answer),
        error=error,
        limit=result.limit,
        stdout=stdout,
        stderr=stderr,
        truncated=result.truncated or len(stdout) < len(result.stdout) or len(stderr) < len(result.stderr),
        turns=result.turns,
        cells=result.cells,
        queries=result.queries,
        calls=result.usage.calls,
        input_tokens=result.usage.input_tokens,
        output_tokens=result.usage.output_tokens,
        cost_nanousd=result.cost_nanousd,
        wall_s=result.wall_s,
        read_share=result.coverage.read_share,
        shown_share=result.coverage.shown_share,
        scripted=result.scripted,
    )


def _time(ns: int) -> datetime:
    return datetime.fromtimestamp(ns // 10**9, UTC)
