"""The simple interface to a host: one policy, one backend, one language for all runs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from belljar.audit import Record, Report
from belljar.context import Document
from belljar.engine import Result
from belljar.host import Host, Terms
from belljar.identity import DEFAULT_TENANT, BackendName, Language
from belljar.lifecycle import OnProgress, OnTurn
from belljar.models import Model, Prices, Tool
from belljar.policy import Policy
from belljar.sessions import Session
from belljar.sources import ContextSource
from belljar.streaming import StreamEvent

__all__ = ["Runtime"]


class Runtime:
    """Runs untrusted programs and root models under one policy: its own `Host`, for one kind of run.

    It belongs to the event loop in which it is opened, for as long as it is open. `quotas` shows and sets what tenants
    may use.

    Args:
        policy: a preset's name, a file's path, or a `Policy`. One made from a preset by `replace` that differs from it
            is named `PRESET-changed`.
        state: the folder for ledger, log, contexts and images; `$BELLJAR_HOME` or the XDG state folder when None. Or
            the URL of a PostgreSQL database for ledger and log: then `$BELLJAR_HOME` has the rest.
        config: the configuration file; `$BELLJAR_CONFIG`, or `belljar.toml` in the state folder if there is one, when
            None. The limits of tenants in it are set when the runtime is opened.
        backend: one of the policy's backends; its first when None.
        language: one of the policy's languages; its first when None.
        pool: how many unused boxes are kept ready, so that a run need not wait for one.
        models: model objects that can be named in `run`, besides `claude-...` and `scripted:FILE`.
        prices: what models cost; the public list when None. A model object may carry its own `rates`.
        environ: where keys and folders are looked up; the process's environment when None.

    Raises:
        InvalidInput: an argument is of another type; `config.missing`, `config.unreadable`, `config.invalid`.
        InvalidPolicy: the policy is wrong.
        PolicyDenied: it does not allow the backend or the language.
    """

    def __init__(
        self,
        policy: str | Path | Policy = "standard",
        *,
        state: str | Path | None = None,
        config: str | Path | None = None,
        backend: BackendName | str | None = None,
        language: Language | None = None,
        pool: int = 0,
        models: Iterable[Model] = (),
        prices: Prices | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        terms = Terms.of(policy, backend, language)
        self._host = Host(state=state, config=config, pool=pool, models=models, prices=prices, environ=environ)
        self.policy, self.backend, self.language = terms.policy, terms.backend, terms.language
        self.state = self._host.state
        self.quotas = self._host.quotas

    async def __aenter__(self) -> Self:
        """Open the log and the ledger, and settle what dead processes left behind.

        Raises:
            AuditUnavailable, LedgerUnavailable: the state folder cannot be used.
            InvalidInput: it is already open.
        """
        await self._host.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._host.__aexit__()

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
            on_turn: called with each `Turn` of the root model when it ends; a plain function, as `on_progress` is.
            answer_type: what the answer has to be: a msgspec struct, a dataclass, a pydantic model, another type that
                has a JSON form, or a JSON Schema as a dict. An answer that does not fit goes back to the model with
                the paths of its faults; one that does is in the result's `value`, as a value of the type.
            tools: functions of yours that the program may call, each of which the policy has to allow as `tool:NAME`;
                see `belljar.Tool`. Child runs have none.

        Returns:
            The result, also when a limit, a quota or the model ended the run: see `status`.

        Raises:
            Refusal: it could not start: input, policy, or a missing layer.
            HostFault: the log or the ledger does not work.
        """
        return await self._host.run(
            question,
            context=context,
            contexts=contexts,
            model=model,
            sub_model=sub_model,
            tenant=tenant,
            policy=self.policy,
            backend=self.backend,
            language=self.language,
            on_progress=on_progress,
            on_turn=on_turn,
            answer_type=answer_type,
            tools=tools,
        )

    def stream(
        self,
        question: str,
        *,
        context: ContextSource | None = None,
        contexts: Mapping[str, ContextSource] | None = None,
        model: str | Model,
        sub_model: str | Model | None = None,
        tenant: str = DEFAULT_TENANT,
        answer_type: Any = None,
        tools: Iterable[Callable[..., Any] | Tool] = (),
    ) -> AsyncGenerator[StreamEvent, None]:
        """As `run`, but gives what happens as events, one by one; the last is a `ResultEvent`. See `belljar.streaming`.

        Closing the generator, as leaving its loop early does, cancels the run. Raises as `run`.
        """
        return self._host.stream(
            question,
            context=context,
            contexts=contexts,
            model=model,
            sub_model=sub_model,
            tenant=tenant,
            policy=self.policy,
            backend=self.backend,
            language=self.language,
            answer_type=answer_type,
            tools=tools,
        )

    async def execute(
        self,
        code: str,
        *,
        context: ContextSource | None = None,
        contexts: Mapping[str, ContextSource] | None = None,
        sub_model: str | Model | None = None,
        model: str | Model | None = None,
        tenant: str = DEFAULT_TENANT,
        on_progress: OnProgress | None = None,
        tools: Iterable[Callable[..., Any] | Tool] = (),
    ) -> Result:
        """Run one given program, no root model. `sub_model` answers its queries; without one they are refused.

        `model` is the older name of `sub_model`, here and for a session.
        """
        return await self._host.execute(
            code,
            context=context,
            contexts=contexts,
            sub_model=model if sub_model is None else sub_model,
            tenant=tenant,
            policy=self.policy,
            backend=self.backend,
            language=self.language,
            on_progress=on_progress,
            tools=tools,
        )

    def session(
        self,
        *,
        context: ContextSource | None = None,
        contexts: Mapping[str, ContextSource] | None = None,
        sub_model: str | Model | None = None,
        model: str | Model | None = None,
        root_model: str | Model | None = None,
        tenant: str = DEFAULT_TENANT,
        tools: Iterable[Callable[..., Any] | Tool] = (),
    ) -> contextlib.AbstractAsyncContextManager[Session]:
        """A box that takes cells until the block ends; then `session.result` has the result, also after an error.

        With a `root_model` it takes questions, too (`Session.ask`), and an answer does not end it; `sub_model` is then
        the same model when None.
        """
        return self._host.session(
            context=context,
            contexts=contexts,
            sub_model=model if sub_model is None else sub_model,
            root_model=root_model,
            tenant=tenant,
            policy=self.policy,
            backend=self.backend,
            language=self.language,
            tools=tools,
        )

    async def add_context(
        self, source: ContextSource, *, name: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> Document:
        """Register a context for one tenant, to stay, so that runs over it start at once. `source` is as in `run`.

        Raises:
            InvalidInput: it cannot be read, or cannot be a context.
        """
        return await self._host.add_context(source, name=name, tenant=tenant)

    def registered(self, reference: str, *, tenant: str = DEFAULT_TENANT) -> Document:
        """A context that this tenant registered before, by its name or `sha256:DIGEST`.

        Raises:
            InvalidInput: there is none, or there are several.
        """
        return self._host.registered(reference, tenant=tenant)

    def contexts(self, *, tenant: str = DEFAULT_TENANT) -> list[Document]:
        """The contexts that this tenant registered."""
        return self._host.contexts(tenant=tenant)

    def remove_context(self, reference: str, *, tenant: str = DEFAULT_TENANT) -> Document:
        """Remove one, as `belljar context rm` does, and return it.

        Raises:
            InvalidInput: there is none, or there are several.
            Refusal: `context.in_use`.
        """
        return self._host.remove_context(reference, tenant=tenant)

    async def records(self, run: str | None = None) -> list[Record]:
        """The log's records, of one run or of all.

        Raises:
            InvalidInput: there is no log yet.
            AuditUnavailable, VerificationFailed: it cannot be read.
        """
        return await self._host.records(run)

    async def verify(self) -> Report:
        """Check the whole log, as `belljar audit verify` does. Raises as `records`."""
        return await self._host.verify()

    async def prepare(self) -> None:
        """Build the box image now (a few seconds, once per machine), not with the first run."""
        await self._host.prepare(self.policy, backend=self.backend)
