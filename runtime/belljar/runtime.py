"""The public facade: wires policy, ledger, log, contexts, models and boxes together for one process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar

from belljar.audit import JSON, AuditLog
from belljar.context import ContextStores, Document, LeftOut, Searcher
from belljar.engine import CellResult, Result, solve
from belljar.errors import BelljarError, HostFault, InvalidInput, PolicyDenied, Refusal
from belljar.ledger import SqliteLedger, tenant_accounts
from belljar.models import Model, Prices, Registry
from belljar.owners import Owner
from belljar.policy import Policy, check_pin, load
from belljar.recovery import recover
from belljar.run import OnProgress, Run, Services, begin, box_spec, log_refused_start
from belljar.sandbox import Backend, Image, Jail, ensure_image
from belljar.state import State

if TYPE_CHECKING:
    from belljar.sandbox.docker import Docker

__all__ = ["DEFAULT_TENANT", "BackendName", "ContextSource", "Language", "Runtime", "Session"]

Language = Literal["restricted", "python"]
BackendName = Literal["jail", "docker", "gvisor"]
# A file or folder of this host, a text, a list or dict of JSON values, or what was registered before.
ContextSource = Path | str | Sequence[Any] | Mapping[str, Any] | Document

DEFAULT_TENANT = "default"
# What the first context is called where it has no other name.
_CONTEXT: Final = "context"
# Their names and places have to fit one header of the wire.
_CONTEXTS_MAX: Final = 64
_CONTEXT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_Name = TypeVar("_Name", bound=str)
_log = logging.getLogger("belljar")


class Session:
    """An open box without a root model: you send the code. Made by `Runtime.session`.

    `result` is None until the session is closed.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._turn = asyncio.Lock()
        self.result: Result | None = None

    async def execute(self, code: str) -> CellResult:
        """Run one cell; variables live on to the next. One at a time.

        Raises:
            PolicyDenied: `session.ended`: the answer was given or a limit ended the box; `code.too_long`.
            HostFault: the log, the ledger or the box failed on our side.
        """
        async with self._turn:
            cell = await self._run.execute(code)
        if self._run.box.fault is not None:
            raise self._run.box.fault
        return cell


class Runtime:
    """Runs untrusted programs and root models under one policy.

    Args:
        policy: a preset's name, a file, or a `Policy`.
        state: the folder for ledger, log, contexts and images; `$BELLJAR_HOME` or the XDG state folder when None.
        backend: one of the policy's backends; its first when None.
        language: one of the policy's languages; its first when None.
        pool: how many unused boxes are kept ready, so that a run need not wait for one.
        models: model objects that can be named in `run`, besides `claude-...` and `scripted:FILE`.
        prices: what models cost; the public list when None.
        environ: where keys and folders are looked up; the process's environment when None.

    Raises:
        InvalidPolicy: the policy is wrong.
        PolicyDenied: it does not allow the backend or the language.
    """

    def __init__(
        self,
        policy: str | Policy = "standard",
        *,
        state: Path | None = None,
        backend: BackendName | None = None,
        language: Language | None = None,
        pool: int = 0,
        models: Iterable[Model] = (),
        prices: Prices | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        environ = os.environ if environ is None else environ
        self.policy = load(policy) if isinstance(policy, str) else policy
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
        self._building = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Open the log and the ledger, and settle what dead processes left behind.

        Raises:
            AuditUnavailable, LedgerUnavailable: the state folder cannot be used.
        """
        self.state.create()
        async with contextlib.AsyncExitStack() as stack:
            self._audit = AuditLog(self.state.audit)
            stack.push_async_callback(self._audit.aclose)
            owner = stack.enter_context(Owner(self.state.owners))
            self._ledger = SqliteLedger(self.state.ledger, owner=owner.name)
            stack.push_async_callback(self._ledger.aclose)
            stack.push_async_callback(self._registry.aclose)
            self._searcher = Searcher()
            stack.push_async_callback(self._searcher.aclose)
            await recover(self._ledger, self._audit, self.state.audit, owner)
            self._resources = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        resources, self._resources, self._services = self._resources, None, None
        if resources is not None:
            await resources.aclose()

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
    ) -> Result:
        """Answer `question` over `context` with a root model that writes code.

        Args:
            context: a text file or a folder as a Path, the text itself as a str, a list or dict of JSON values, or a
                `Document` that was registered for this tenant.
            contexts: more of them, by name; the program finds all in its `contexts`.
            model: the root model; `sub_model` answers the program's queries, the same model when None.

        Returns:
            The result, also when a limit, a quota or the model ended it: see `status`.

        Raises:
            Refusal: it could not begin: input, policy, or a missing layer.
            HostFault: the log or the ledger does not work.
        """
        async with self._logging_refusals(tenant):
            root = self._model(model)
            sub = root if sub_model is None else self._model(sub_model)
        about: dict[str, JSON] = {"question_bytes": len(question.encode("utf-8", "replace"))}
        begun = self._begin(context, contexts, tenant, root, sub, about)
        async with begun as run, run.reporting(on_progress):
            await solve(run, root, question)
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
        async with self._logging_refusals(tenant):
            sub = None if model is None else self._model(model)
        async with self._begin(context, contexts, tenant, None, sub, {}) as run, run.reporting(on_progress):
            await run.execute(code)
        return run.result()

    @contextlib.asynccontextmanager
    async def session(
        self,
        *,
        context: ContextSource | None = None,
        contexts: Mapping[str, ContextSource] | None = None,
        model: str | Model | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> AsyncIterator[Session]:
        """A box that takes cells until the block ends; then `session.result` tells the whole, also after an error."""
        async with self._logging_refusals(tenant):
            sub = None if model is None else self._model(model)
        raised: BelljarError | None = None
        async with self._begin(context, contexts, tenant, None, sub, {}) as run:
            session = Session(run)
            run.in_callers_hands = True
            try:
                yield session
            except BelljarError as error:
                raised = error
                raise
        session.result = run.result()
        if raised is not None:  # it is the run's verdict, and it stays the caller's exception
            raise raised

    async def add_context(
        self, source: ContextSource, *, name: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> Document:
        """Register a context of one tenant, so that runs over it start at once. `source` is as in `run`.

        Raises:
            InvalidInput: it cannot be read, or cannot be a context.
        """
        if isinstance(source, Document):
            return source
        store = self._contexts.of(tenant)
        left_out: list[LeftOut] = []
        document = await asyncio.to_thread(
            store.add, source, name=name, now_ns=time.time_ns(), on_left_out=left_out.append
        )
        for one in left_out:
            _log.warning("belljar: not in the context: %r: %s", one.path, one.why)
        return document

    def registered(self, reference: str, *, tenant: str = DEFAULT_TENANT) -> Document:
        """A context that this tenant registered before, by its name or `sha256:DIGEST`.

        Raises:
            InvalidInput: there is none, or there are several.
        """
        return self._contexts.of(tenant).find(reference)

    async def prepare(self) -> None:
        """Build the box image now (a few seconds, once per machine) rather than with the first run."""
        await self._shared()

    @contextlib.asynccontextmanager
    async def _begin(
        self,
        context: ContextSource | None,
        contexts: Mapping[str, ContextSource] | None,
        tenant: str,
        root: Model | None,
        sub: Model | None,
        about: Mapping[str, JSON],
    ) -> AsyncIterator[Run]:
        async with self._logging_refusals(tenant):
            services, documents = await self._prepared(context, contexts, tenant)
        async with begin(services, tenant=tenant, documents=documents, root=root, sub=sub, about=about) as run:
            yield run

    async def _prepared(
        self, context: ContextSource | None, contexts: Mapping[str, ContextSource] | None, tenant: str
    ) -> tuple[Services, dict[str, Document]]:
        """What a run needs before it can begin."""
        tenant_accounts(tenant)  # refuses what is no tenant before anything is done for it
        services = await self._shared()
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
        documents = {name: await self.add_context(source, tenant=tenant) for name, source in sources.items()}
        return services, documents

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
        image = await asyncio.to_thread(ensure_image, self.state.images)
        check_pin(self.policy, image.digest)
        backend = Jail(image) if self.backend == "jail" else await self._containers(self.backend, image)
        self._resources.push_async_callback(backend.aclose)
        if self._pool:
            await backend.warm(box_spec(self.policy), self._pool)
        return backend

    async def _containers(self, name: Literal["docker", "gvisor"], image: Image) -> Docker:
        # Here, because loading the Docker SDK takes longer than starting a jail.
        from belljar.sandbox.docker import Daemon, Docker

        return await Docker.open(name, Daemon.at(self._environ), image)

    def _model(self, name: str | Model) -> Model:
        """A model that the policy allows and that has a price."""
        model = self._registry.resolve(name)
        if not self.policy.models.permits(model.name):
            allowed = ", ".join(self.policy.models.allow)
            raise PolicyDenied(
                f"the policy {self.policy.name} does not allow the model {model.name}; it allows: {allowed}",
                code="model.denied",
            )
        self._prices.adopt(model)
        self._prices.bound(model.name, 1, 1)  # refuses a model without a price before anything is begun
        return model


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
