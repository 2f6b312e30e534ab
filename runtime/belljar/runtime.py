"""The public facade: wires policy, ledger, log, contexts, models and boxes together for one process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Literal, Self, TypeVar

import msgspec

from belljar.arguments import check, check_callback, warn_of_a_path
from belljar.audit import AuditLog, Record, Report, records, verify
from belljar.context import ContextStore, ContextStores, Document, FileSource, LeftOut, Loan
from belljar.engine import CellResult, Result, solve
from belljar.errors import HostFault, InvalidInput, PolicyDenied, Refusal
from belljar.ledger import SqliteLedger, tenant_accounts
from belljar.lifecycle import OnProgress, OnTurn, Run, Services, begin, box_spec, log_refused_start
from belljar.models import Model, Prices, Registry
from belljar.owners import Owner
from belljar.policy import Policy, check_pin, load, named_apart
from belljar.recovery import recover
from belljar.sandbox import Backend, BackendSite, open_backend
from belljar.search import Searcher
from belljar.state import State
from belljar.tasks import to_the_end

__all__ = ["DEFAULT_TENANT", "BackendName", "ContextSource", "Language", "Runtime", "Session"]

Language = Literal["restricted", "python"]
BackendName = Literal["jail", "docker", "gvisor"]
# A file or folder of this host, an open binary file, a text, a list or dict of JSON values, or what was registered.
ContextSource = Path | FileSource | BinaryIO | str | Sequence[Any] | Mapping[str, Any] | Document

DEFAULT_TENANT = "default"
# What the first context is called where it has no other name.
_CONTEXT: Final = "context"
# Their names and places have to fit one header of the wire.
_CONTEXTS_MAX: Final = 64
_CONTEXT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_Name = TypeVar("_Name", bound=str)
_log = logging.getLogger("belljar")


class _Home:
    """The process and the event loop in which a runtime was opened: what it does is tied to both."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self.loop: asyncio.AbstractEventLoop | None = None

    def settle(self) -> None:
        self._pid, self.loop = os.getpid(), asyncio.get_running_loop()

    @property
    def is_here(self) -> bool:
        return self.loop is asyncio.get_running_loop()

    @property
    def is_forked(self) -> bool:
        return os.getpid() != self._pid

    def check(self) -> None:
        """Refuse to work elsewhere.

        Raises:
            InvalidInput: `runtime.process`, `runtime.loop`.
        """
        if self.is_forked:
            raise InvalidInput(
                "this runtime belongs to the process that opened it, and this is a fork of that: open one here",
                code="runtime.process",
            )
        if self.loop is not None and not self.is_here:
            raise InvalidInput(
                "this runtime belongs to the event loop in which it was opened, and this is another: open one in each "
                "asyncio.run, with `async with belljar.Runtime(...)`, or keep one loop",
                code="runtime.loop",
            )


class Session:
    """An open box without a root model: you send the code. Made by `Runtime.session`.

    `result` is None until the session is closed.
    """

    def __init__(self, run: Run, home: _Home) -> None:
        self._run = run
        self._home = home
        self._turn = asyncio.Lock()
        self.result: Result | None = None

    async def execute(
        self,
        code: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - it ends the cell, and not the wait for it
    ) -> CellResult:
        """Run one cell; variables live on to the next. Calls at the same time wait for each other, first come first.

        Cancelled, it stops the cell as its deadline would before the cancellation gets out: the program is interrupted,
        and if it goes on after the policy's grace, the box is killed and the session has ended. Otherwise the session
        goes on, with all variables.

        Args:
            timeout: seconds that the cell may take, if the policy does not allow it less anyway; then its status is
                `timeout`, and variables are kept.

        Raises:
            PolicyDenied: `session.ended`: the answer was given, a limit ended the box, or the session is closed;
                `code.too_long`.
            InvalidInput: `code` is no text; `cell.timeout`: it is no number of seconds; `runtime.loop`,
                `runtime.process`: it was opened elsewhere.
            HostFault: the log, the ledger or the box failed on our side.
        """
        _check_code(code)
        if timeout is not None and not timeout > 0:
            raise InvalidInput(
                f"a timeout of {timeout} is not possible: give a number of seconds above 0", code="cell.timeout"
            )
        self._home.check()
        if self.result is not None:
            raise PolicyDenied("the session has ended: open a new one", code="session.ended")
        async with self._turn:
            try:
                cell = await self._run.execute(code, wall_s=timeout)
            except (Exception, asyncio.CancelledError):
                await to_the_end(self._run.abandon())
                raise
        if self._run.box.fault is not None:
            raise self._run.box.fault
        return cell


class _Opening(contextlib.AbstractAsyncContextManager[Session]):
    """A session for the length of a block.

    Its run is held by a task, which the event loop ends before itself: so a session that nobody closes is closed then,
    in order. Of asynchronous generators inside each other, which would do without a task, each would be closed by
    itself, all at once.
    """

    def __init__(self, begun: contextlib.AbstractAsyncContextManager[Run], home: _Home) -> None:
        self._begun = begun
        self._home = home

    async def __aenter__(self) -> Session:
        self._home.check()
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[Run] = loop.create_future()
        self._left: asyncio.Future[BaseException | None] = loop.create_future()
        self._holding = loop.create_task(_hold(self._begun, opened, self._left))
        try:
            self._run = await opened
        except BaseException:
            self._holding.cancel()
            await to_the_end(_end_of(self._holding))
            raise
        self._session = Session(self._run, self._home)
        # Whoever forgets a session closes it: nothing else refers to it.
        weakref.finalize(self._session, _let_go, self._left).atexit = False
        return self._session

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._home.is_forked:
            return
        self._home.check()
        if not self._left.done():
            self._left.set_result(error)
        try:
            await to_the_end(_end_of(self._holding))
            if not self._holding.cancelled():
                self._holding.result()
        finally:
            self._session.result = self._run.result()


async def _hold(
    begun: contextlib.AbstractAsyncContextManager[Run],
    opened: asyncio.Future[Run],
    left: asyncio.Future[BaseException | None],
) -> None:
    """Keep a run open until its block is left; what the block raised is its verdict, and goes on in the caller."""
    error: BaseException | None = None
    try:
        async with begun as run:
            run.in_callers_hands = True
            if not opened.done():
                opened.set_result(run)
            error = await left
            if error is not None:
                raise error
    except BaseException as raised:
        if not opened.done():
            opened.set_exception(raised)
        elif raised is not error:
            raise


async def _end_of(task: asyncio.Task[Any]) -> None:
    await asyncio.wait([task])


def _let_go(left: asyncio.Future[BaseException | None]) -> None:
    def leave() -> None:
        if not left.done():
            left.set_result(None)

    with contextlib.suppress(RuntimeError):  # the loop is closed, and with it the session
        left.get_loop().call_soon_threadsafe(leave)


class Runtime:
    """Runs untrusted programs and root models under one policy.

    It belongs to the event loop in which it is opened, for as long as it is open.

    Args:
        policy: a preset's name, a file by its path, or a `Policy`. One that was made of a preset by `replace`, and
            says other things than that, goes by the name `PRESET-changed`.
        state: the folder for ledger, log, contexts and images; `$BELLJAR_HOME` or the XDG state folder when None.
        backend: one of the policy's backends; its first when None.
        language: one of the policy's languages; its first when None.
        pool: how many unused boxes are kept ready, so that a run need not wait for one.
        models: model objects that can be named in `run`, besides `claude-...` and `scripted:FILE`.
        prices: what models cost; the public list when None. A model object may carry its own `rates`.
        environ: where keys and folders are looked up; the process's environment when None.

    Raises:
        InvalidInput: an argument is of another type.
        InvalidPolicy: the policy is wrong.
        PolicyDenied: it does not allow the backend or the language.
    """

    def __init__(
        self,
        policy: str | Path | Policy = "standard",
        *,
        state: str | Path | None = None,
        backend: BackendName | None = None,
        language: Language | None = None,
        pool: int = 0,
        models: Iterable[Model] = (),
        prices: Prices | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        environ = os.environ if environ is None else environ
        check("policy", policy, (str, Path, Policy), "a preset's name, the path of a file, or a Policy")
        check("state", state, (str, Path, type(None)), "the path of a folder")
        check("pool", pool, int, "a number of boxes")
        check("prices", prices, (Prices, type(None)), "belljar.Prices({name: belljar.Rates(...)})")
        self.policy = named_apart(policy) if isinstance(policy, Policy) else load(policy)
        self.state = State.at(state, environ)
        self.backend: BackendName = _permitted("backend", backend, self.policy.box.backends)
        self.language: Language = _permitted("language", language, self.policy.box.languages)
        self._pool = pool
        self._environ = environ
        self._registry = Registry(environ, models=models)
        self._prices = prices or Prices()
        self._contexts = ContextStores(self.state.contexts)
        self._resources: contextlib.AsyncExitStack | None = None
        self._services: Services | None = None
        self._home = _Home()

    async def __aenter__(self) -> Self:
        """Open the log and the ledger, and settle what dead processes left behind.

        Raises:
            AuditUnavailable, LedgerUnavailable: the state folder cannot be used.
            InvalidInput: it is open already.
        """
        if self._resources is not None:
            raise InvalidInput("this runtime is open already: open another one", code="runtime.open")
        self.state.create()
        self._home.settle()
        self._building = asyncio.Lock()
        async with contextlib.AsyncExitStack() as stack:
            self._audit = AuditLog(self.state.audit)
            stack.push_async_callback(self._audit.aclose)
            owner = stack.enter_context(Owner(self.state.owners))
            self._ledger = SqliteLedger(self.state.ledger, owner=owner.name)
            stack.push_async_callback(self._ledger.aclose)
            stack.push_async_callback(self._close_models)
            self._searcher = Searcher()
            stack.push_async_callback(self._searcher.aclose)
            await recover(self._ledger, self._audit, self.state.audit, owner)
            await asyncio.to_thread(self._contexts.sweep_lent)
            self._resources = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._home.is_forked:
            return
        resources, self._resources, self._services = self._resources, None, None
        if resources is None:
            return
        loop = self._home.loop
        if loop is not None and not self._home.is_here and loop.is_running():
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(resources.aclose(), loop))
        else:  # also where the loop in which it was opened is no more
            await to_the_end(resources.aclose())

    async def _close_models(self) -> None:
        """Connections of a loop that is no more went with it, and cannot be closed any more."""
        if self._home.is_here:
            await self._registry.aclose()

    async def run(
        self,
        question: str,
        *,
        context: ContextSource | None = None,
        contexts: Mapping[str, ContextSource] | None = None,
        model: str | Model,
        sub_model: str | Model | None = None,
        tenant: str = DEFAULT_TENANT,
        on_progress: OnProgress | None = None,
        on_turn: OnTurn | None = None,
    ) -> Result:
        """Answer `question` over `context` with a root model that writes code.

        Args:
            context: a text file or a folder as a Path, a `FileSource` where it is no UTF-8 or lines of JSON, an open
                binary file, the text itself as a str, a list or dict of JSON values, or a `Document` that was
                registered for this tenant. What was not registered is removed after the run.
            contexts: more of them, by name; the program finds all in its `contexts`.
            model: the root model; `sub_model` answers the program's queries, the same model when None.
            on_turn: called with each `Turn` of the root model when it is over; a plain function, as `on_progress` is.

        Returns:
            The result, also when a limit, a quota or the model ended it: see `status`.

        Raises:
            Refusal: it could not begin: input, policy, or a missing layer.
            HostFault: the log or the ledger does not work.
        """
        check_callback("on_progress", on_progress)
        check_callback("on_turn", on_turn)
        check("question", question, str, "the question as a text")
        size = len(question.encode("utf-8", "replace"))
        begun = self._begin(
            context, contexts, tenant, model, model if sub_model is None else sub_model, question_bytes=size
        )
        async with begun as run, run.reporting(on_progress):
            run.on_turn = on_turn
            assert run.root is not None, "it was begun with one"
            await solve(run, run.root, question)
        return run.result()

    async def execute(
        self,
        code: str,
        *,
        context: ContextSource | None = None,
        contexts: Mapping[str, ContextSource] | None = None,
        model: str | Model | None = None,
        tenant: str = DEFAULT_TENANT,
        on_progress: OnProgress | None = None,
    ) -> Result:
        """Run one given program, no root model. `model` answers its queries; without one they are refused."""
        _check_code(code)
        check_callback("on_progress", on_progress)
        begun = self._begin(context, contexts, tenant, None, model, alone=True)
        async with begun as run, run.reporting(on_progress):
            await run.execute(code, last=True)
        return run.result()

    def session(
        self,
        *,
        context: ContextSource | None = None,
        contexts: Mapping[str, ContextSource] | None = None,
        model: str | Model | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> contextlib.AbstractAsyncContextManager[Session]:
        """A box that takes cells until the block ends; then `session.result` tells the whole, also after an error."""
        return _Opening(self._begin(context, contexts, tenant, None, model), self._home)

    async def add_context(
        self, source: ContextSource, *, name: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> Document:
        """Register a context of one tenant, which stays, so that runs over it start at once. `source` is as in `run`.

        Raises:
            InvalidInput: it cannot be read, or cannot be a context.
        """
        if isinstance(source, Document):
            return source
        if isinstance(source, str):
            warn_of_a_path(source)
        store = self._contexts.of(tenant)
        how: dict[str, Any] = {}
        if isinstance(source, FileSource):
            how = {"encoding": source.encoding, "errors": source.errors, "json_lines": source.json_lines}
            source = source.source
        return await asyncio.to_thread(
            store.add, source, name=name, now_ns=time.time_ns(), on_left_out=_tell_left_out, **how
        )

    def registered(self, reference: str, *, tenant: str = DEFAULT_TENANT) -> Document:
        """A context that this tenant registered before, by its name or `sha256:DIGEST`.

        Raises:
            InvalidInput: there is none, or there are several.
        """
        return self._contexts.of(tenant).find(reference)

    def contexts(self, *, tenant: str = DEFAULT_TENANT) -> list[Document]:
        """The contexts that this tenant registered."""
        return self._contexts.of(tenant).ls()

    def remove_context(self, reference: str, *, tenant: str = DEFAULT_TENANT) -> Document:
        """Remove one, as `belljar context rm` does, and tell which it was.

        Raises:
            InvalidInput: there is none, or there are several.
            Refusal: `context.in_use`.
        """
        return self._contexts.of(tenant).rm(reference)

    async def records(self, run: str | None = None) -> list[Record]:
        """The log's records, of one run or of all.

        Raises:
            InvalidInput: there is no log yet.
            AuditUnavailable, VerificationFailed: it cannot be read.
        """
        return await asyncio.to_thread(lambda: list(records(self.state.audit, run)))

    async def verify(self) -> Report:
        """Check the whole log, as `belljar audit verify` does. Raises as `records`."""
        return await asyncio.to_thread(verify, self.state.audit)

    async def prepare(self) -> None:
        """Build the box image now (a few seconds, once per machine) rather than with the first run."""
        await self._shared()

    @contextlib.asynccontextmanager
    async def _begin(
        self,
        context: ContextSource | None,
        contexts: Mapping[str, ContextSource] | None,
        tenant: str,
        root: str | Model | None,
        sub: str | Model | None,
        *,
        question_bytes: int | None = None,
        alone: bool = False,
    ) -> AsyncIterator[Run]:
        if tenant != "":  # that is told like any other name that is none
            check("tenant", tenant, str, "a tenant's name")
        check("contexts", contexts, (Mapping, type(None)), "a dict from names to contexts")
        async with _Loans() as loans:
            async with self._logging_refusals(tenant):
                root_model = await self._model(root) if question_bytes is not None else None
                sub_model = root_model if sub is root else await self._model(sub) if sub is not None else None
                tenant_accounts(tenant)  # refuses what is no tenant before anything is done for it
                services = await self._shared()
                services = msgspec.structs.replace(services, prices=self._prices.of(root_model, sub_model))
                documents = await self._documents(context, contexts, tenant, loans)
            async with begin(
                services,
                tenant=tenant,
                documents=documents,
                root=root_model,
                sub=sub_model,
                question_bytes=question_bytes,
                alone=alone,
            ) as run:
                yield run

    async def _documents(
        self,
        context: ContextSource | None,
        contexts: Mapping[str, ContextSource] | None,
        tenant: str,
        loans: _Loans,
    ) -> dict[str, Document]:
        """What a run brings along or was registered, by name, `context` first."""
        sources = {} if context is None else {_CONTEXT: context}
        sources |= {_context_name(name): source for name, source in (contexts or {}).items()}
        if len(sources) > _CONTEXTS_MAX:
            raise InvalidInput(
                f"a run has at most {_CONTEXTS_MAX} contexts, not {len(sources)}: put files into a folder, texts into "
                "a list or dict, which is one context",
                code="context.too_many",
                limit=_CONTEXTS_MAX,
                observed=len(sources),
            )
        return {
            name: source if isinstance(source, Document) else await loans.take(self._contexts.of(tenant), source)
            for name, source in sources.items()
        }

    @contextlib.asynccontextmanager
    async def _logging_refusals(self, tenant: str) -> AsyncIterator[None]:
        """A start that is refused stands in the log, too."""
        try:
            yield
        except Refusal as refusal:
            if self._resources is not None:
                await log_refused_start(self._audit, tenant, refusal)
            raise

    async def _shared(self) -> Services:
        if self._resources is None:
            raise HostFault("the runtime is not open: use `async with belljar.Runtime(...) as runtime`")
        self._home.check()
        async with self._building:
            if self._services is None:
                self._services = Services(
                    policy=self.policy,
                    language=self.language,
                    backend=await self._backend(),
                    audit=self._audit,
                    ledger=self._ledger,
                    prices=self._prices,
                    contexts=self._contexts,
                    searcher=self._searcher,
                )
        return self._services

    async def _backend(self) -> Backend:
        assert self._resources is not None
        backend = await open_backend(self.backend, BackendSite(self.state.images, self._environ))
        try:
            check_pin(self.policy, backend.about().get("image", "none"))
            if self._pool:
                await backend.warm(box_spec(self.policy), self._pool)
        except BaseException:
            await to_the_end(backend.aclose())
            raise
        self._resources.push_async_callback(backend.aclose)
        return backend

    async def _model(self, name: str | Model | None) -> Model:
        """A model that the policy allows and that has a price. None is refused like whatever else is none."""
        await self._registry.load(name)
        model = self._registry.resolve(name)
        if not self.policy.models.permits(model.name):
            allowed = ", ".join(self.policy.models.allow)
            raise PolicyDenied(
                f"the policy {self.policy.name} does not allow the model {model.name}; it allows: {allowed}: name it "
                "under [models] allow, in a policy that extends none (`belljar policy show` prints one to start from)",
                code="model.denied",
            )
        prices = self._prices.of(model)
        await prices.load_for(model.name)
        prices.bound(model.name, 1, 1)  # refuses one without a price before anything is begun
        return model


class _Loans:
    """The contexts that a run brings along, given back when it is over."""

    def __init__(self) -> None:
        self._taken: list[Loan] = []
        self._over = False
        self._lock = threading.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with self._lock:
            self._over = True
        if self._taken:
            await to_the_end(asyncio.to_thread(self._give_back))

    async def take(self, store: ContextStore, source: Any) -> Document:
        if isinstance(source, str):
            warn_of_a_path(source)
        return await asyncio.to_thread(self._take, store, source)

    def _take(self, store: ContextStore, source: Any) -> Document:
        loan = store.lend(source, now_ns=time.time_ns(), on_left_out=_tell_left_out)
        with self._lock:
            self._taken.append(loan)
            over = self._over
        if over:  # the run was cancelled meanwhile
            self._give_back()
        return loan.document

    def _give_back(self) -> None:
        while self._taken:
            try:
                self._taken.pop().close()
            except HostFault as fault:  # the result is there, and must not be lost for it
                _log.warning("belljar: a run's context stays on the disk until the next start: %s", fault)


def _tell_left_out(one: LeftOut) -> None:
    _log.warning("belljar: not in the context: %r: %s", one.path, one.why)


def _check_code(code: object) -> None:
    if not isinstance(code, str):
        check("code", code, str, "the program as a text")


def _context_name(name: str) -> str:
    """A name of a context, as the program writes it in `contexts["..."]`."""
    if not _CONTEXT_NAME.fullmatch(name) or name == _CONTEXT:
        raise InvalidInput(
            f"{name[:80]!a} is no name for one of several contexts: use up to 64 letters, digits, '_', '-', '.', and "
            "not the name 'context'",
            code="context.name",
        )
    return name


def _permitted(what: str, wish: _Name | None, allowed: tuple[_Name, ...]) -> _Name:
    if wish is None:
        return allowed[0]
    if wish not in allowed:
        raise PolicyDenied(
            f"the policy does not allow the {what} {wish}: it allows {', '.join(allowed)}", code=f"{what}.denied"
        )
    return wish
