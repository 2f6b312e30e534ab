"""The host: what all runs of one process share, whatever their policy, language, backend and tenant.

    Host      log, ledger, contexts, search, prices, models, backends, live runs     opened once, closed last
    a run     policy, language, backend, tenant, models, contexts                     resolved when it is ordered

A backend is opened by name when the first run needs it, kept, and closed with the host. With a `pool` it keeps boxes
ready for the policies that were used last (`sandbox.pool`); policies with the same limits and required layers share
them. The first run of another policy gets a box that is built when it starts.

A run is live from the moment its box is open until it is closed; a child run, too. `cancel` ends its box, its calls and
its children: the run then ends as any other does, and its caller gets a result that says `killed`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeGuard, TypeVar

import msgspec

from belljar.arguments import check, check_callback, tenant_of
from belljar.audit import AuditLog, Checkpoints, Record, Report, records, verify
from belljar.audit.content import HOST_KEY
from belljar.audit.erasing import expire
from belljar.audit.events import Event, RunFinished, RunStarted
from belljar.audit.signing import place_of
from belljar.audit.witness import Witness
from belljar.broker.screening import permit_depth
from belljar.config import settings
from belljar.context import ContextStore, ContextStores, Document, OpenDocument
from belljar.engine import AnswerType, Progress, Result, verdict_of
from belljar.errors import AuditUnavailable, BelljarError, InvalidInput, PolicyDenied, Refusal
from belljar.identity import DEFAULT_TENANT, BackendName, Language, RunId, Tenant
from belljar.journal import Job, Journal, open_journal
from belljar.keys import Keys
from belljar.ledger import Amounts, Ledger, Limits
from belljar.lifecycle import (
    Fork,
    OnProgress,
    OnTurn,
    Order,
    Run,
    Shared,
    begin,
    box_spec,
    log_refused_start,
    new_run_id,
    tenant_limits,
)
from belljar.models import HostTool, Model, Prices, Registry, Tool, host_tools
from belljar.models.replay import NO_CLOCKS, Clocks, ForkModel, ReplayModel, Tape
from belljar.owners import Owner
from belljar.policy import Policy, check_pin, load, named_apart, presets
from belljar.quotas import BY_CONFIG, Quotas, apply_limits, context_bounds, differing
from belljar.recording import read_recording
from belljar.recovery import recover, watch
from belljar.sandbox import Backend, BackendSite, open_backend
from belljar.search import Searcher
from belljar.sessions import Home, Opening, Session, check_code
from belljar.sources import ContextSource, Loans, named, register
from belljar.streaming import Feed, ResultEvent, StreamEvent, Telling
from belljar.tasks import stopped, to_the_end

__all__ = ["Host", "LiveRun", "Note", "Terms", "Ticket", "Vetted"]

_Name = TypeVar("_Name", bound=str)
# How often `watch` yields progress.
_WATCH_S: Final = 0.1


class Terms(msgspec.Struct, frozen=True):
    """The policy of a run, and the backend and language that it uses of those the policy allows."""

    policy: Policy
    backend: str
    language: Language

    @classmethod
    def of(cls, policy: str | Path | Policy, backend: BackendName | str | None, language: Language | None) -> Self:
        """What the caller gave, looked up and checked; None means the policy's first.

        Raises:
            InvalidInput: `argument.type`.
            InvalidPolicy: the policy is wrong.
            PolicyDenied: it does not allow the backend or the language.
        """
        check("policy", policy, (str, Path, Policy), "a preset's name, the path of a file, or a Policy")
        found = load(policy) if _is_file(policy) else _known(policy)
        return cls(
            found,
            _permitted("backend", backend, found.box.backends),
            _permitted("language", language, found.box.languages),
        )

    @classmethod
    async def read(
        cls, policy: str | Path | Policy, backend: BackendName | str | None, language: Language | None
    ) -> Self:
        """`of`, where there is an event loop: a file is read and parsed beside it. Raises as `of`."""
        if _is_file(policy):
            return await asyncio.to_thread(cls.of, policy, backend, language)
        return cls.of(policy, backend, language)


class LiveRun(msgspec.Struct, frozen=True):
    """A run under way, as `Host.live` lists it; `wall_s` is how long it has been running, in seconds.

    A child run has a `parent`, and a `depth`: how many runs are above it.
    """

    run: str
    parent: str | None
    depth: int
    tenant: str
    policy: str
    backend: str
    language: str
    root_model: str | None
    wall_s: float
    progress: Progress


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """What a service has settled of a run, or a session, that it was asked for.

    Args:
        run: its id. It is given when the run is ordered, which may be long before it starts.
        by: who ordered it, as the log calls him.
        begun: what is written in one transaction with its start. If it raises, the run does not start.
        ended: makes what is written in one transaction with its end, of its status.
        feed: hears what it and its children do.
        tape: what an earlier run was answered that this one takes over, and is not to pay for again: one of the same
            order, before its process died, or one that it forks. `fork` names that run, and `seed` and `tools` are
            that run's.
    """

    run: RunId
    by: str
    begun: Job[object] | None = None
    ended: Callable[[str], Job[object]] | None = None
    feed: Telling | None = None
    tape: Tape | None = None
    fork: Fork | None = None
    seed: str | None = None
    tools: tuple[HostTool, ...] = ()


class Vetted(NamedTuple):
    """A run that may be ordered, and under what it will run.

    `documents` are the registered contexts that it names; `admission` asks the quotas, for a transaction.
    """

    documents: dict[str, Document]
    admission: Job[None]
    backend: str
    language: Language


class Note:
    """A run in the log that is none of a program: its id, and how it ends."""

    def __init__(self, run: RunId) -> None:
        self.run: Final = run
        self.finished = RunFinished(status="killed", calls=0)


class Host:
    """Runs untrusted programs and root models for many tenants, under any policy, in one process.

    It belongs to the event loop in which it is opened, for as long as it is open.

    Args:
        state: the folder for ledger, log, contexts and images; `$BELLJAR_HOME` or the XDG state folder when None, and
            then `$BELLJAR_JOURNAL` may name a PostgreSQL database for ledger and log. Or the URL of such a database:
            then `$BELLJAR_HOME` has the rest.
        config: the configuration file; `$BELLJAR_CONFIG`, or `belljar.toml` in the state folder if there is one, when
            None. The limits of tenants in it are set when the host is opened.
        pool: how many unused boxes each backend keeps ready, for each of the last four kinds that were asked for; of
            one kind are the boxes of policies with the same limits and required layers.
        models: model objects that can be named in `run`, besides those of providers and `scripted:FILE`.
        prices: what models cost; the public list when None. A model object may carry its own `rates`.
        environ: where keys and folders are looked up; the process's environment when None.

    `quotas` shows and sets what tenants may use.

    Raises:
        InvalidInput: an argument is of another type; `config.missing`, `config.unreadable`, `config.invalid`.
    """

    def __init__(
        self,
        *,
        state: str | Path | None = None,
        config: str | Path | None = None,
        pool: int = 0,
        models: Iterable[Model] = (),
        prices: Prices | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        environ = os.environ if environ is None else environ
        check("state", state, (str, Path, type(None)), "the path of a folder, or a URL of PostgreSQL")
        check("config", config, (str, Path, type(None)), "the path of a configuration file")
        check("pool", pool, int, "a number of boxes")
        check("prices", prices, (Prices, type(None)), "belljar.Prices({name: belljar.Rates(...)})")
        found = settings(state, config, environ)
        self.state, self._config = found.state, found.config
        self._witness, self._contents_bytes_max = found.witness, found.contents_bytes_max
        self._pool = pool
        self._environ = environ
        self._keys = Keys.at(environ)
        self._registry = Registry(environ, models=models, recorded=self._recorded)
        self._prices = prices or Prices()
        self._contexts = ContextStores(self.state.contexts, functools.partial(context_bounds, self.state.journal))
        self._resources: contextlib.AsyncExitStack | None = None
        self._backends: dict[str, Backend] = {}
        self._seed: str | None = None
        self._hash_seed: int | None = None
        self._clocks: Clocks = NO_CLOCKS
        self._live: dict[str, Run] = {}
        self._streams: set[asyncio.Task[Result]] = set()
        self._home = Home()
        self.quotas = Quotas(self.state.journal, self._writers, self._contexts.sizes)

    async def __aenter__(self) -> Self:
        """Open the log and the ledger, and settle what dead processes left behind, from here on twice a minute.

        Raises:
            AuditUnavailable, LedgerUnavailable: the state folder cannot be used.
            InvalidInput: it is already open.
        """
        if self._resources is not None:
            raise InvalidInput("this runtime is already open: open another one", code="runtime.open")
        self.state.create()
        self._home.settle()
        self._building = asyncio.Lock()
        async with contextlib.AsyncExitStack() as stack:
            journal = open_journal(self.state.journal, unavailable=AuditUnavailable)
            stack.push_async_callback(journal.aclose, unavailable=AuditUnavailable)
            owner: Owner | None = None
            if (name := journal.host) is None:
                owner = stack.enter_context(Owner(self.state.owners))
                name = owner.name
            audit, ledger = AuditLog(journal), Ledger(journal, owner=name)
            stack.push_async_callback(ledger.aclose)
            stack.push_async_callback(self._close_models)
            searcher = Searcher()
            stack.push_async_callback(searcher.aclose)
            self._journal, self._name = journal, name
            look = self._recover = self._looking(journal, ledger, audit, owner)
            await look()
            if self._config is not None and self._config.tenants:
                # What is there already takes no transaction: of ten thousand tenants that would hold up all who write.
                wanted = await asyncio.to_thread(differing, self.state.journal, self._config.tenants)
                if wanted:
                    await apply_limits(ledger, audit, wanted, by=BY_CONFIG)
            await asyncio.to_thread(self._contexts.sweep_lent)
            stack.push_async_callback(stopped, asyncio.create_task(watch(look, self._contexts.sweep_lent)))
            expiring = expire(journal, audit, self.state.journal, self._contents_bytes_max)
            stack.push_async_callback(stopped, asyncio.create_task(expiring))
            checkpoints = Checkpoints(
                journal,
                audit,
                place=place_of(self.state.journal),
                keys=self._keys,
                witness=None if self._witness is None else Witness(self._witness, self.state.witness),
            )
            stack.push_async_callback(checkpoints.aclose)
            stack.push_async_callback(stopped, asyncio.create_task(checkpoints.watch()))
            self._checkpoints = checkpoints
            self._shared = Shared(
                audit,
                ledger,
                self._contexts,
                searcher,
                self._live,
                host_key=functools.cache(functools.partial(self._keys.secret, HOST_KEY)),
                secrets=self._registry.secrets,
                checkpoints=checkpoints,
            )
            stack.callback(self._shared.reuse.clear)
            self._resources = stack.pop_all()
        return self

    def _looking(
        self, journal: Journal, ledger: Ledger, audit: AuditLog, owner: Owner | None
    ) -> Callable[[], Coroutine[Any, Any, int]]:
        """Looks for the dead, one look at a time: whoever is found dead is buried by the look that found it."""
        looking = asyncio.Lock()

        async def look() -> int:
            async with looking:
                return await recover(journal, ledger, audit, owner)

        return look

    async def __aexit__(self, *_: object) -> None:
        if self._home.is_forked:
            return
        resources, self._resources = self._resources, None
        if resources is None:
            return
        loop = self._home.loop
        if loop is not None and not self._home.is_here and loop.is_running():
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._close(resources), loop))
        else:  # also where the loop in which it was opened is gone
            await to_the_end(self._close(resources))
        self._backends.clear()

    async def _close(self, resources: contextlib.AsyncExitStack) -> None:
        for work in list(self._streams):  # the generator of a loop that was left may not be closed yet
            await stopped(work)
        if self._home.is_here:  # whoever waits for a run elsewhere gets its result, and the log its end
            await asyncio.gather(*(run.end() for name, run in self._live.items() if RunId(name).parent is None))
        await resources.aclose()

    async def _close_models(self) -> None:
        """Connections of a loop that is gone went with it, and can no longer be closed."""
        if self._home.is_here:
            await self._registry.aclose()

    # ---------------------------------------------------------------------------------------------------------- runs

    async def run(
        self,
        question: str,
        *,
        context: ContextSource | None = None,
        contexts: Mapping[str, ContextSource] | None = None,
        model: str | Model,
        sub_model: str | Model | None = None,
        tenant: str = DEFAULT_TENANT,
        policy: str | Path | Policy = "standard",
        backend: BackendName | str | None = None,
        language: Language | None = None,
        on_progress: OnProgress | None = None,
        on_turn: OnTurn | None = None,
        answer_type: Any = None,
        tools: Iterable[Callable[..., Any] | Tool] = (),
    ) -> Result:
        """Answer `question` over `context` with a root model that writes code.

        Args:
            context: a text file or a folder as a Path, a `FileSource` for other encodings or JSON lines, an open
                binary file, the text itself as a str, a list or dict of JSON values, or a `Document` that was
                registered for this tenant. What was not registered is removed after the run.
            contexts: more of them, by name; the program finds all in its `contexts`.
            model: the root model; `sub_model` answers the program's queries, the same model when None.
            tenant: who owns the run and is charged for it.
            policy: a preset's name, a file's path, or a `Policy`.
            backend: one of the policy's backends; its first when None. `language` likewise.
            on_progress: called with the run's `Progress` while it lasts; a plain function.
            on_turn: called with each `Turn` of the root model when it ends, likewise.
            answer_type: what the answer has to be: a msgspec struct, a dataclass, a pydantic model, another type that
                has a JSON form, or a JSON Schema as a dict. An answer that does not fit goes back to the model with
                the paths of its faults; one that does is in the result's `value`, as a value of the type.
            tools: functions of yours that the program may call, each of which the policy has to allow as `tool:NAME`;
                see `belljar.Tool`. Child runs have none.

        Returns:
            The result, also when a limit, a quota, the model or `cancel` ended the run: see `status`.

        Raises:
            Refusal: it could not start: input, policy, or a missing layer.
            HostFault: the log or the ledger does not work.
        """
        check_callback("on_progress", on_progress)
        check_callback("on_turn", on_turn)
        sub = model if sub_model is None else sub_model
        wish = _Wish(context, contexts, tenant, policy, backend, language, model, sub, answer_type, tools)
        return await self._solve(wish, question, on_progress=on_progress, on_turn=on_turn)

    def seeded(self, seed: str | None, hash_seed: int | None = None, clocks: Clocks = NO_CLOCKS) -> None:
        """From now on runs begin with this seed, and not with a random one each.

        Args:
            hash_seed: what the boxes of backends that are not yet open hash texts with; a random one each when None.
            clocks: what their cells are to read of clocks, as far as that goes.
        """
        self._seed, self._hash_seed, self._clocks = seed, hash_seed, clocks

    async def fork(
        self, question: str, fork: Fork, *, model: Model, sub_model: Model, tools: Iterable[HostTool] = (), **wish: Any
    ) -> Result:
        """As `run`, for a run that takes over the first turns of another one; its models know these."""
        first = (wish["context"], wish["contexts"], wish["tenant"], wish["policy"], wish["backend"], wish["language"])
        whole = _Wish(*first, model, sub_model, wish["answer_type"], tools, fork)
        return await self._solve(whole, question)

    async def ordered(self, ticket: Ticket, question: str | None, code: str | None, **wish: Any) -> Result:
        """As `run` or `execute`, for a run that was ordered of a service. All of `wish` is given, as in `_ordered`."""
        ordered = self._ordered(ticket, **wish)
        if question is not None:
            return await self._solve(ordered, question, on_turn=ticket.feed.turn if ticket.feed else None)
        check_code(code)
        async with self._begin(ordered, alone=True) as run:
            await run.execute(code or "")
        return run.result()

    def ordered_session(self, ticket: Ticket, **wish: Any) -> contextlib.AbstractAsyncContextManager[Session]:
        """As `session`, for one that was ordered of a service."""
        ordered = self._ordered(ticket, **wish)
        return Opening(self._begin(ordered, stays=ordered.root is not None), self._home)

    def _ordered(
        self,
        ticket: Ticket,
        *,
        contexts: Mapping[str, ContextSource],
        model: str | None,
        sub_model: str | None,
        tenant: Tenant,
        policy: str | Policy,
        backend: str | None,
        language: Language | None,
        answer_type: Any = None,
    ) -> _Wish:
        others = dict(contexts)
        context, sub = others.pop("context", None), model if sub_model is None else sub_model
        first = (context, others, tenant, policy, backend, language, model, sub, answer_type)
        return _Wish(*first, tools=ticket.tools, fork=ticket.fork, ticket=ticket)

    async def vet(
        self,
        *,
        by: str,
        tenant: Tenant,
        policy: str | Policy,
        backend: str | None,
        language: Language | None,
        models: Sequence[str | None],
        references: Iterable[str],
        answer_type: Any = None,
    ) -> Vetted:
        """Refuse now, and log, what would be refused for certain when a run's turn comes.

        Args:
            models: the root model and the sub-model, each None where there is none.
            references: of registered contexts.
            answer_type: as in `run`.

        Raises:
            Refusal: as `run`.
        """
        self._check_open()
        async with self._logging_refusals(tenant, by=by):
            tenant = tenant_of(tenant)
            terms = await Terms.read(policy, backend, language)
            found = [None if model is None else await self._model(model, terms.policy) for model in models]
            _permit_depths(terms.policy, found)
            if answer_type is not None:
                AnswerType(answer_type)
            documents = {name: await asyncio.to_thread(self._contexts.of(tenant).find, name) for name in references}
        asked = Amounts(cpu_ms=1, wall_ms=1, memory_mib_s=1, boxes=1)
        if (root := found[0]) is not None:
            cost = self._prices.of(root).bound(root.name, 1, 1)
            one_call = {"calls": 1, "calls_in_flight": 1, "input_tokens": 1, "output_tokens": 1}
            asked = msgspec.structs.replace(asked, **one_call, cost_nanousd=min(1, cost))
        ledger, _ = self._writers()
        of_policy = tenant_limits(terms.policy.quota.tenant)
        admission = ledger.admit_job(tenant, asked, tenant_limits=of_policy, now=ledger.now())
        return Vetted(documents, admission, terms.backend, terms.language)

    async def log_refusal(self, tenant: Tenant, refusal: Refusal, *, by: str, run: RunId | None = None) -> None:
        """Log a start that was refused, of a run that has its id already or not. Raises AuditUnavailable."""
        await log_refused_start(self.audit, tenant_of(tenant), refusal, run=run, by=by)

    async def _solve(
        self,
        wish: _Wish,
        question: str,
        *,
        on_progress: OnProgress | None = None,
        on_turn: OnTurn | None = None,
        feed: Telling | None = None,
    ) -> Result:
        check("question", question, str, "the question as a text")
        begun = self._begin(wish, question=question, feed=feed)
        async with begun as run, run.reporting(on_progress):
            run.on_turn = on_turn
            await run.solve(question)
        return run.result()

    async def stream(
        self,
        question: str,
        *,
        context: ContextSource | None = None,
        contexts: Mapping[str, ContextSource] | None = None,
        model: str | Model,
        sub_model: str | Model | None = None,
        tenant: str = DEFAULT_TENANT,
        policy: str | Path | Policy = "standard",
        backend: BackendName | str | None = None,
        language: Language | None = None,
        answer_type: Any = None,
        tools: Iterable[Callable[..., Any] | Tool] = (),
    ) -> AsyncGenerator[StreamEvent, None]:
        """As `run`, but gives what happens as events, one by one; the last is a `ResultEvent`. See `belljar.streaming`.

        Closing the generator, as leaving its loop early does, cancels the run. Raises as `run`.
        """
        sub = model if sub_model is None else sub_model
        wish = _Wish(context, contexts, tenant, policy, backend, language, model, sub, answer_type, tools)
        feed = Feed()
        work = asyncio.create_task(self._solve(wish, question, on_turn=feed.turn, feed=feed))
        self._streams.add(work)
        work.add_done_callback(self._streams.discard)
        work.add_done_callback(lambda _: feed.close())
        try:
            async for event in feed:
                yield event
            yield ResultEvent(await work)
        finally:
            await stopped(work)

    async def execute(
        self,
        code: str,
        *,
        context: ContextSource | None = None,
        contexts: Mapping[str, ContextSource] | None = None,
        sub_model: str | Model | None = None,
        tenant: str = DEFAULT_TENANT,
        policy: str | Path | Policy = "standard",
        backend: BackendName | str | None = None,
        language: Language | None = None,
        on_progress: OnProgress | None = None,
        tools: Iterable[Callable[..., Any] | Tool] = (),
    ) -> Result:
        """Run one given program, no root model. `sub_model` answers its queries; without one they are refused."""
        check_code(code)
        check_callback("on_progress", on_progress)
        wish = _Wish(context, contexts, tenant, policy, backend, language, None, sub_model, tools=tools)
        async with self._begin(wish, alone=True) as run, run.reporting(on_progress):
            await run.execute(code)
        return run.result()

    def session(
        self,
        *,
        context: ContextSource | None = None,
        contexts: Mapping[str, ContextSource] | None = None,
        sub_model: str | Model | None = None,
        root_model: str | Model | None = None,
        tenant: str = DEFAULT_TENANT,
        policy: str | Path | Policy = "standard",
        backend: BackendName | str | None = None,
        language: Language | None = None,
        tools: Iterable[Callable[..., Any] | Tool] = (),
    ) -> contextlib.AbstractAsyncContextManager[Session]:
        """A box that takes cells until the block ends; then `session.result` has the result, also after an error.

        With a `root_model` it takes questions, too (`Session.ask`), and an answer does not end it; `sub_model` is then
        the same model when None.
        """
        sub = root_model if sub_model is None else sub_model
        wish = _Wish(context, contexts, tenant, policy, backend, language, root_model, sub, tools=tools)
        return Opening(self._begin(wish, stays=root_model is not None), self._home)

    @contextlib.asynccontextmanager
    async def _begin(
        self,
        wish: _Wish,
        *,
        alone: bool = False,
        stays: bool = False,
        question: str | None = None,
        feed: Telling | None = None,
    ) -> AsyncIterator[Run]:
        """A run as requested, live for the length of a block; with a root model where there are questions."""
        check("contexts", wish.contexts, (Mapping, type(None)), "a dict from names to contexts")
        ticket = wish.ticket
        async with Loans() as loans:
            async with self._logging_refusals(wish.tenant, ticket):
                rooted = stays or question is not None
                order = await self._order(wish, loans, alone=alone, stays=stays, rooted=rooted)
            shared = self._shared
            if ticket is not None:
                feed = ticket.feed
            if feed is not None:
                told = shared.audit.telling(feed.record)
                shared = msgspec.structs.replace(shared, audit=told, printed=feed.output)
            async with begin(shared, order, question=question) as run:
                yield run

    async def _order(self, wish: _Wish, loans: Loans, *, alone: bool, stays: bool, rooted: bool) -> Order:
        tenant = tenant_of(wish.tenant)
        terms = await Terms.read(wish.policy, wish.backend, wish.language)
        root = await self._model(wish.root, terms.policy) if rooted else None
        sub = root
        if wish.sub is not wish.root and wish.sub is not None:
            sub = await self._model(wish.sub, terms.policy)
        _permit_depths(terms.policy, (root, sub))
        backend = await self._backend(terms)
        store = self._contexts.of(tenant)
        sources = named(wish.context, wish.contexts)
        ticket = wish.ticket
        played = next((model.tape for model in (root, sub) if isinstance(model, ReplayModel)), Tape("", ()))
        tape = ticket.tape if ticket is not None else None
        if tape is not None:
            root, sub = _taking_over(tape, root, sub)
        return Order(
            run=new_run_id() if ticket is None else ticket.run,
            tenant=tenant,
            policy=terms.policy,
            language=terms.language,
            backend=backend,
            prices=self._prices.of(root, sub),
            documents={name: await loans.take(store, source) for name, source in sources.items()},
            root=root,
            sub=sub,
            alone=alone,
            stays=stays,
            answer_type=None if wish.answer_type is None else AnswerType(wish.answer_type),
            tools=_permitted_tools(wish.tools, terms.policy),
            fork=wish.fork,
            seed=(ticket.seed if ticket is not None else None) or self._seed or played.seed or secrets.token_hex(16),
            clocks=(tape or played).clocks or self._clocks,
            by=ticket.by if ticket is not None else None,
            begun=ticket.begun if ticket is not None else None,
            ended=ticket.ended if ticket is not None else None,
        )

    @contextlib.asynccontextmanager
    async def _logging_refusals(
        self, tenant: object, ticket: Ticket | None = None, *, by: str | None = None
    ) -> AsyncIterator[None]:
        """A refused start is logged, too."""
        run, by = (None, by) if ticket is None else (ticket.run, ticket.by)
        try:
            yield
        except Refusal as refusal:
            if self._resources is not None:
                await log_refused_start(self._shared.audit, tenant, refusal, run=run, by=by)
            raise

    async def _model(self, name: str | Model | None, policy: Policy) -> Model:
        """A model that the policy allows and that has a price. None is refused, like anything that is not a model."""
        await self._registry.load(name)
        model = self._registry.resolve(name)
        if not policy.models.permits(model.name):
            allowed = ", ".join(policy.models.allow)
            raise PolicyDenied(
                f"the policy {policy.name} does not allow the model {model.name}; it allows {allowed}: name it "
                "under [models] allow, in a policy that extends none (`belljar policy show` prints one to start from)",
                code="model.denied",
            )
        prices = self._prices.of(model)
        await prices.load_for(model.name)
        prices.bound(model.name, 1, 1)  # refuses a model without a price before anything is started
        return model

    # ------------------------------------------------------------------------------------------------------ live runs

    def live(self) -> list[LiveRun]:
        """The runs under way here, in the order in which they started; child runs behind the run that started them."""
        return [_shown(run) for _, run in sorted(self._live.items())]

    def live_run(self, run: str) -> LiveRun | None:
        """One run under way here; None if it is not."""
        return _shown(self._live[run]) if run in self._live else None

    async def watch(self, run: str) -> AsyncIterator[Progress]:
        """A run's progress, repeatedly until it has ended; the last one is final.

        Raises:
            InvalidInput: `run.not_live`.
        """
        watched = self._live_run(run)
        while run in self._live:
            yield watched.progress()
            await asyncio.sleep(_WATCH_S)
        yield watched.progress()

    async def cancel(self, run: str) -> None:
        """End a run now, and all below it. On return its program is dead; its status is `killed`.

        Its caller gets that result. Of a child run, the program that started it gets a `ModelError` that says so, and
        goes on.

        Raises:
            InvalidInput: `run.not_live`.
        """
        await self._live_run(run).kill()

    def _live_run(self, run: str) -> Run:
        if run not in self._live:
            raise InvalidInput(f"{run[:80]!a} is not a live run of this host; live() lists them", code="run.not_live")
        return self._live[run]

    # -------------------------------------------------------------------------------------------- contexts and the log

    async def add_context(
        self, source: ContextSource, *, name: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> Document:
        """Register a context for one tenant, to stay, so that runs over it start at once. `source` is as in `run`.

        Raises:
            InvalidInput: it cannot be read, or cannot be a context.
        """
        return await register(self._contexts.of(tenant_of(tenant)), source, name)

    def registered(self, reference: str, *, tenant: str = DEFAULT_TENANT) -> Document:
        """A context that this tenant registered before, by its name or `sha256:DIGEST`.

        Raises:
            InvalidInput: there is none, or there are several.
        """
        return self._contexts.of(tenant_of(tenant)).find(reference)

    def contexts(self, *, tenant: str = DEFAULT_TENANT) -> list[Document]:
        """The contexts that this tenant registered."""
        return self._contexts.of(tenant_of(tenant)).ls()

    def open_context(self, sha256: str, *, tenant: str = DEFAULT_TENANT) -> OpenDocument:
        """Map a context that this tenant registered, for reading; the caller closes it. Touches the disk.

        Raises:
            InvalidInput: `context.unknown`, `context.bad_hash`.
        """
        return self._contexts.of(tenant_of(tenant)).open(sha256)

    def context_store(self, tenant: str = DEFAULT_TENANT) -> ContextStore:
        """The store of this tenant's contexts, each method of which touches the disk."""
        return self._contexts.of(tenant_of(tenant))

    def remove_context(self, reference: str, *, tenant: str = DEFAULT_TENANT) -> Document:
        """Remove one, as `belljar context rm` does, and return it.

        Raises:
            InvalidInput: there is none, or there are several.
            Refusal: `context.in_use`.
        """
        return self._contexts.of(tenant_of(tenant)).rm(reference)

    async def records(self, run: str | None = None) -> list[Record]:
        """The log's records, of one run or of all.

        Raises:
            InvalidInput: there is no log yet.
            AuditUnavailable, VerificationFailed: it cannot be read.
        """
        return await asyncio.to_thread(lambda: list(records(self.state.journal, run)))

    async def verify(self) -> Report:
        """Check the whole log, as `belljar audit verify` does. Raises as `records`."""
        return await asyncio.to_thread(verify, self.state.journal, keys=self._keys)

    async def log(self, event: Event) -> int:
        """Append a record that belongs to no run. It is durable when this returns its number.

        Raises:
            AuditUnavailable: it is not.
        """
        seq, _ = await self.journal.submit(self.audit.host_entry(event), unavailable=AuditUnavailable)
        return seq

    # ----------------------------------------------------------------------------------------- for whoever builds on it

    @property
    def pool(self) -> int:
        """How many unused boxes each backend keeps ready, of each kind."""
        return self._pool

    def backends(self) -> list[str]:
        """The backends that have been opened."""
        return sorted(self._backends)

    def boxes_ready(self) -> dict[str, int]:
        """How many unused boxes each of them has ready now."""
        return {name: self._backends[name].ready() for name in self.backends()}

    @property
    def environ(self) -> Mapping[str, str]:
        """Where keys and folders are looked up."""
        return self._environ

    @property
    def checkpoints(self) -> Checkpoints:
        """What signs the log. Raises `runtime.closed`."""
        self._check_open()
        return self._checkpoints

    async def try_box(self, policy: str | Policy = "standard") -> None:
        """Build a box of the policy's first backend and end it: it works.

        Raises:
            PolicyDenied, LayerMissing: the policy does not allow what this host has.
            BoxFault: no box can be built.
        """
        terms = await Terms.read(policy, None, None)
        backend = await self._backend(terms)
        await to_the_end(_built_and_killed(backend, terms.policy))

    def heard_by(self, hear: Callable[[str, Event], None]) -> None:
        """From now on `hear` is called with whatever is logged here: `AuditLog.heard_by` says when and where.

        Raises:
            InvalidInput: `runtime.closed`.
        """
        _, audit = self._writers()
        audit.heard_by(hear)

    @contextlib.asynccontextmanager
    async def noting(self, tenant: Tenant, started: RunStarted, ticket: Ticket | None = None) -> AsyncIterator[Note]:
        """Log what is done within the block as a run of its own, which has no box and is charged nothing.

        It ends as `Note.finished` says; where the block ends before that is set, as its error says, or as `killed`.

        Args:
            ticket: where it was ordered of a service: its id, who ordered it, and what is written with start and end.

        Raises:
            Refusal, HostFault: it cannot be written, or its order is gone: nothing is done then.
            InvalidInput: `tenant.invalid`.
        """
        tenant = tenant_of(tenant)
        ledger, audit = self._writers()
        ticket = ticket or Ticket(run=new_run_id(), by="")
        note, free = Note(ticket.run), Limits("total", None, None, None, None, None)
        entry = audit.entry(note.run, msgspec.structs.replace(started, by=ticket.by or None)).then(ticket.begun)
        is_open = True  # also if it is cancelled meanwhile: it may have taken effect
        try:
            try:
                await ledger.open_run(note.run, tenant, run_limits=free, tenant_limits=free, beside=entry)
            except BelljarError:
                is_open = False
                raise
            try:
                yield note
            except BelljarError as error:
                note.finished = RunFinished(status=verdict_of(error).status, calls=0)
                raise
        finally:
            if is_open:
                last = audit.entry(note.run, note.finished)
                if ticket.ended is not None:
                    last = last.then(ticket.ended(note.finished.status))
                await to_the_end(_noted(ledger, self._checkpoints, note.run, last))

    @property
    def journal(self) -> Journal:
        """What log and ledger are kept in, for whoever keeps more in it."""
        self._check_open()
        return self._journal

    @property
    def audit(self) -> AuditLog:
        """The log, for records that belong to no run."""
        return self._writers()[1]

    @property
    def keys(self) -> Keys:
        """The keys of this host."""
        return self._keys

    @property
    def name(self) -> str:
        """What the journal calls this host, as the owner of runs and orders."""
        self._check_open()
        return self._name

    def knows_model(self, name: str) -> bool:
        """Whether a model object of this name was given to this host."""
        return self._registry.is_given(name)

    async def recover(self) -> int:
        """Settle what dead processes left, now and not only within half a minute. Returns how many runs that was.

        Raises:
            HostFault: not everything could be settled; the next look does.
        """
        self._check_open()
        return await self._recover()

    def _writers(self) -> tuple[Ledger, AuditLog]:
        self._check_open()
        return self._shared.ledger, self._shared.audit

    async def prepare(
        self, policy: str | Path | Policy = "standard", *, backend: BackendName | str | None = None
    ) -> None:
        """Open a backend, build its box image (a few seconds, once per machine) and fill the pool for the policy now.

        Raises:
            PolicyDenied: the policy does not allow the backend, or the image.
            BoxFault: it cannot be opened.
        """
        terms = await Terms.read(policy, backend, None)
        opened = await self._backend(terms)
        if self._pool:
            await opened.warm(box_spec(terms.policy), self._pool)

    async def _backend(self, terms: Terms) -> Backend:
        self._check_open()
        assert self._resources is not None
        async with self._building:
            backend = self._backends.get(terms.backend)
            if backend is None:
                backend = self._backends[terms.backend] = await self._open_backend(terms)
                self._resources.push_async_callback(backend.aclose)
        check_pin(terms.policy, backend.about().get("image", "none"))
        return backend

    def _recorded(self, run: str) -> Tape:
        """A run as a model (`replay:RUN`)."""
        return read_recording(self.state.journal, self._keys, run).tape

    def _check_open(self) -> None:
        if self._resources is None:
            raise InvalidInput(
                "this runtime is not open: use it in `async with belljar.Runtime(...) as runtime`",
                code="runtime.closed",
            )
        self._home.check()

    async def _open_backend(self, terms: Terms) -> Backend:
        site = BackendSite(self.state.images, self._environ, self._hash_seed)
        backend = await open_backend(terms.backend, site)
        try:
            check_pin(terms.policy, backend.about().get("image", "none"))
            if self._pool:
                await backend.warm(box_spec(terms.policy), self._pool)
            self._check_open()  # it may have been closed meanwhile
        except BaseException:
            await to_the_end(backend.aclose())
            raise
        return backend


class _Wish(msgspec.Struct, frozen=True):
    """What a caller asked for, not yet checked. `root` is None and never asked where there is no root model."""

    context: ContextSource | None
    contexts: Mapping[str, ContextSource] | None
    tenant: str
    policy: str | Path | Policy
    backend: BackendName | str | None
    language: Language | None
    root: str | Model | None
    sub: str | Model | None
    answer_type: Any = None
    tools: Iterable[Any] = ()
    fork: Fork | None = None
    ticket: Ticket | None = None


def _permit_depths(policy: Policy, models: Iterable[Model | None]) -> None:
    """Raises PolicyDenied for a root model or a sub-model that is not one of its depth."""
    for depth, model in enumerate(models):
        if model is not None:
            permit_depth(policy, model.name, depth)


def _taking_over(tape: Tape, root: Model | None, sub: Model | None) -> tuple[Model | None, Model | None]:
    """A root model and a sub-model that know what an earlier run was answered; one for both stays one."""
    knowing = None if root is None else ForkModel(tape, root)
    return knowing, knowing if sub is root else None if sub is None else ForkModel(tape, sub)


def _permitted_tools(given: Iterable[Any], policy: Policy) -> tuple[HostTool, ...]:
    """Raises InvalidInput for what cannot be a tool, PolicyDenied for one that the policy does not name."""
    wire = policy.wire
    tools = host_tools(given, bytes_max=wire.body_bytes_max, told_bytes_max=wire.header_bytes_max // 2)
    for tool in tools:
        if not policy.models.permits(tool.name):
            allowed = ", ".join(policy.models.allow)
            raise PolicyDenied(
                f"the policy {policy.name} does not allow {tool.name}; it allows {allowed}: name it under [models] "
                "allow, in a policy that extends none (`belljar policy show` prints one to start from)",
                code="tool.denied",
            )
    return tools


def _shown(run: Run) -> LiveRun:
    order = run.order
    return LiveRun(
        run=str(order.run),
        parent=None if order.run.parent is None else str(order.run.parent),
        depth=order.run.depth,
        tenant=str(order.tenant),
        policy=order.policy.name,
        backend=order.backend.name,
        language=order.language,
        root_model=order.root.name if order.root else None,
        wall_s=run.wall_s,
        progress=run.progress(),
    )


async def _built_and_killed(backend: Backend, policy: Policy) -> None:
    box = await backend.start(box_spec(policy))
    await box.kill()


_presets = functools.cache(presets)


def _is_file(policy: object) -> TypeGuard[str | Path]:
    """Whether a file of the caller's has to be read."""
    return isinstance(policy, Path) or (isinstance(policy, str) and policy not in _presets())


@functools.lru_cache(maxsize=64)
def _known(policy: str | Path | Policy) -> Policy:
    """A preset, or a policy as a value; looking up either compares files, 1.8 ms that no run should wait for twice."""
    return named_apart(policy) if isinstance(policy, Policy) else load(policy)


def _permitted(what: str, wish: _Name | None, allowed: tuple[_Name, ...]) -> _Name:
    if wish is None:
        return allowed[0]
    if wish not in allowed:
        raise PolicyDenied(
            f"the policy does not allow the {what} {wish}; it allows {', '.join(allowed)}", code=f"{what}.denied"
        )
    return wish


async def _noted(ledger: Ledger, checkpoints: Checkpoints, run: RunId, last: Job[tuple[int, str]]) -> None:
    """Write how it ended, and sign the log, as at each run's end."""
    sealed = await ledger.close_run(run, beside=last)
    assert sealed is not None, "the entry's result"
    await checkpoints.receipt(str(run), *sealed)
