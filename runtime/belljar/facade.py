"""The synchronous facade: the same runtime for code that has no event loop.

A loop runs in a thread of its own as long as the facade is open, also between two calls, so that limits, deadlines and
the end of a box are seen when they happen and not when the caller next asks. It is the thread that starts the boxes'
launchers, and they die with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from belljar.engine import CellResult, Result
from belljar.models import Model
from belljar.policy import Policy
from belljar.run import OnProgress, OnTurn
from belljar.runtime import DEFAULT_TENANT, BackendName, ContextSource, Language, Runtime, Session

__all__ = ["SyncSession", "run", "session"]

T = TypeVar("T")


def run(
    question: str,
    *,
    context: ContextSource | None = None,
    contexts: Mapping[str, ContextSource] | None = None,
    model: str | Model,
    sub_model: str | Model | None = None,
    tenant: str = DEFAULT_TENANT,
    policy: str | Policy = "standard",
    state: Path | None = None,
    backend: BackendName | None = None,
    language: Language | None = None,
    on_progress: OnProgress | None = None,
    on_turn: OnTurn | None = None,
) -> Result:
    """`Runtime.run`, synchronous, with a runtime of its own. See there for arguments, result and errors."""

    async def once() -> Result:
        async with Runtime(policy, state=state, backend=backend, language=language) as runtime:
            return await runtime.run(
                question,
                context=context,
                contexts=contexts,
                model=model,
                sub_model=sub_model,
                tenant=tenant,
                on_progress=on_progress,
                on_turn=on_turn,
            )

    return asyncio.run(once())


class SyncSession:
    """A session for synchronous code. Made by `session`."""

    def __init__(self, session: Session, loop: asyncio.AbstractEventLoop) -> None:
        self._session = session
        self._loop = loop

    def execute(self, code: str, *, timeout: float | None = None) -> CellResult:
        """Run one cell, as `Session.execute`. Ctrl-C stops the cell, and is raised when that is done."""
        return _wait(self._session.execute(code, timeout=timeout), self._loop)

    @property
    def result(self) -> Result | None:
        """The whole session's result, once it is closed."""
        return self._session.result


@contextlib.contextmanager
def session(
    *,
    context: ContextSource | None = None,
    contexts: Mapping[str, ContextSource] | None = None,
    model: str | Model | None = None,
    tenant: str = DEFAULT_TENANT,
    policy: str | Policy = "standard",
    state: Path | None = None,
    backend: BackendName | None = None,
    language: Language | None = None,
) -> Iterator[SyncSession]:
    """`Runtime.session`, synchronous, with a runtime of its own."""
    with _loop_thread() as loop:
        stack = contextlib.AsyncExitStack()

        async def enter() -> Session:
            runtime = Runtime(policy, state=state, backend=backend, language=language)
            await stack.enter_async_context(runtime)
            session = runtime.session(context=context, contexts=contexts, model=model, tenant=tenant)
            return await stack.enter_async_context(session)

        try:
            yield SyncSession(_wait(enter(), loop), loop)
        finally:
            _wait(stack.aclose(), loop)


def _wait(work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    ended = threading.Event()

    async def whole() -> T:
        try:
            return await work
        finally:
            ended.set()

    future = asyncio.run_coroutine_threadsafe(whole(), loop)
    try:
        return future.result()
    except BaseException:
        # Ctrl-C: what is under way ends before it gets out. Another one does not wait for that.
        if future.cancel():
            ended.wait()
        raise


@contextlib.contextmanager
def _loop_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="belljar", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
