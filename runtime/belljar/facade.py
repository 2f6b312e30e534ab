"""The synchronous facade: the same runtime for code that has no event loop, or cannot await on the one it runs in.

Theory of operation. Each runtime of this module has its own event loop in a thread (`_Loop`) for as long as it is open,
also between calls, so that limits, deadlines and the end of a box are noticed when they happen and not when the caller
next asks. That thread starts the boxes' launchers, and they die with it. Nothing ever runs on the caller's thread or on
a loop there, so everything works in a notebook.

    caller's thread                    the loop's thread
    call(work)  ── task ─────────────▶ work()
      waits     ◀── result or error ── its end
    close()     ── stop ─────────────▶ cancels calls of other threads, closes session and runtime, then the loop
      waits     ◀── ended ───────────

Besides its normal end, a call or a block can end in four ways:

* Ctrl-C while the caller waits cancels the work, and is raised once the work has ended cleanly.
* A session that nothing refers to any more is closed without waiting: the garbage collector may do this in any thread,
  in the middle of anything.
* The end of the interpreter closes what is open. The thread is a daemon, so nothing forgotten keeps the process alive;
  what is not closed within `_EXIT_S`, the next start of a runtime settles, as it does after a crash.
* A forked child has the objects but not the thread. It closes nothing of its parent's, and using it is an error.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, TypedDict, TypeVar, Unpack

from belljar.arguments import check
from belljar.config import settings
from belljar.context import ContextStores
from belljar.engine import AskResult, CellResult, Result
from belljar.errors import HostFault, InvalidInput, PolicyDenied
from belljar.identity import DEFAULT_TENANT, BackendName, Language
from belljar.ledger import Limits, Period, Quota, Span, Used
from belljar.lifecycle import OnProgress, OnTurn
from belljar.models import Model, Prices, Tool
from belljar.policy import Policy
from belljar.quotas import Bounds, Quotas, open_quotas
from belljar.runtime import Runtime
from belljar.sessions import Session, not_opened
from belljar.sources import ContextSource
from belljar.tasks import Workers

__all__ = ["RuntimeOptions", "SyncQuotas", "SyncSession", "execute", "run", "session"]

T = TypeVar("T")
# How long the end of the process waits for what is still open. Killing a box takes milliseconds.
_EXIT_S: Final = 10.0
_log = logging.getLogger("belljar")


class RuntimeOptions(TypedDict, total=False):
    """How a call opens its runtime: the arguments of `Runtime`, with its defaults."""

    policy: str | Path | Policy
    state: str | Path | None
    config: str | Path | None
    backend: BackendName | str | None
    language: Language | None
    pool: int
    models: Iterable[Model]
    prices: Prices | None


def run(
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
    **opened: Unpack[RuntimeOptions],
) -> Result:
    """`Runtime.run`, synchronous, with its own runtime. See both for arguments, result and errors.

    `on_progress`, `on_turn`, tools and model objects are called in another thread than the caller's.
    """

    async def once() -> Result:
        async with Runtime(**opened) as runtime:
            return await runtime.run(
                question,
                context=context,
                contexts=contexts,
                model=model,
                sub_model=sub_model,
                tenant=tenant,
                on_progress=on_progress,
                on_turn=on_turn,
                answer_type=answer_type,
                tools=tools,
            )

    return _call_once(once)


def execute(
    code: str,
    *,
    context: ContextSource | None = None,
    contexts: Mapping[str, ContextSource] | None = None,
    sub_model: str | Model | None = None,
    model: str | Model | None = None,
    tenant: str = DEFAULT_TENANT,
    on_progress: OnProgress | None = None,
    tools: Iterable[Callable[..., Any] | Tool] = (),
    **opened: Unpack[RuntimeOptions],
) -> Result:
    """`Runtime.execute`, synchronous, with its own runtime: one given program, no root model. Otherwise as `run`."""

    async def once() -> Result:
        async with Runtime(**opened) as runtime:
            return await runtime.execute(
                code,
                context=context,
                contexts=contexts,
                sub_model=sub_model,
                model=model,
                tenant=tenant,
                on_progress=on_progress,
                tools=tools,
            )

    return _call_once(once)


def session(
    *,
    context: ContextSource | None = None,
    contexts: Mapping[str, ContextSource] | None = None,
    sub_model: str | Model | None = None,
    model: str | Model | None = None,
    root_model: str | Model | None = None,
    tenant: str = DEFAULT_TENANT,
    tools: Iterable[Callable[..., Any] | Tool] = (),
    **opened: Unpack[RuntimeOptions],
) -> contextlib.AbstractContextManager[SyncSession]:
    """`Runtime.session`, synchronous, with its own runtime: `with belljar.session(...) as session`."""

    async def enter(stack: contextlib.AsyncExitStack) -> Session:
        runtime = Runtime(**opened)
        await stack.enter_async_context(runtime)
        session = runtime.session(
            context=context,
            contexts=contexts,
            sub_model=sub_model,
            model=model,
            root_model=root_model,
            tenant=tenant,
            tools=tools,
        )
        return await stack.enter_async_context(session)

    return _Opening(enter)


class SyncSession:
    """A session for synchronous code. Made by `session`."""

    def __init__(self, session: Session, loop: _Loop) -> None:
        self._session = session
        self._loop = loop
        # Closes a forgotten session. `_at_exit` closes what is still open when the process ends.
        weakref.finalize(self, loop.close, wait=False).atexit = False

    def execute(self, code: str, *, timeout: float | None = None) -> CellResult:
        """Run one cell, as `Session.execute`. Ctrl-C stops it, and is raised once it has stopped.

        Raises as `Session.execute`, and also:
            InvalidInput: `session.process`: in a forked child; `session.thread`: from the session's own callbacks.
        """
        return self._loop.call(lambda: self._session.execute(code, timeout=timeout))

    def ask(self, question: str, *, answer_type: Any = None, on_turn: OnTurn | None = None) -> AskResult:
        """Have the root model answer a question, as `Session.ask`. Ctrl-C stops it, and is raised once it has stopped.

        `on_turn` is called in another thread than the caller's.

        Raises as `Session.ask`, and also as `execute`.
        """
        return self._loop.call(lambda: self._session.ask(question, answer_type=answer_type, on_turn=on_turn))

    @property
    def result(self) -> Result | None:
        """The whole session's result, once it is closed."""
        return self._session.result


class SyncQuotas:
    """What tenants may use and have used, for synchronous code: `runtime.quotas` without a runtime.

    Each call opens log and ledger for itself. A run that is under way, here or in another process, is held to a new
    limit from its next call on.

    Args:
        state, config: as of `Runtime`. The limits in the configuration file are not set by this.

    Raises:
        InvalidInput: an argument is of another type; `config.missing`, `config.unreadable`, `config.invalid`.
    """

    def __init__(self, *, state: str | Path | None = None, config: str | Path | None = None) -> None:
        check("state", state, (str, Path, type(None)), "the path of a folder, or a URL of PostgreSQL")
        check("config", config, (str, Path, type(None)), "the path of a configuration file")
        self._state = settings(state, config, os.environ).state
        self._stored = ContextStores(self._state.contexts).sizes

    def show(self, tenant: str | None = None) -> list[Quota]:
        """As `Quotas.show`: how every level of `tenant` stands, or every tenant."""
        return self._read(lambda quotas: quotas.show(tenant))

    def history(self, tenant: str | None = None, *, per: Span = "day") -> list[Used]:
        """As `Quotas.history`: what was used on each day or in each month."""
        return self._read(lambda quotas: quotas.history(tenant, per=per))

    def check(self) -> list[str]:
        """As `Quotas.check`: one line for each difference; empty if the books balance and agree with the log."""
        return self._read(lambda quotas: quotas.check())

    def set(self, tenant: str, period: Period, *, by: str = "api", **bounds: Unpack[Bounds]) -> Limits:
        """As `Quotas.set`: set limits of one level for one period. Returns what then stands."""
        return self._write(lambda quotas: quotas.set(tenant, period, by=by, **bounds))

    def clear(self, tenant: str, *, by: str = "api") -> list[Limits]:
        """As `Quotas.clear`: forget all limits of one level. Returns what they were."""
        return self._write(lambda quotas: quotas.clear(tenant, by=by))

    def _read(self, question: Callable[[Quotas], Coroutine[Any, Any, T]]) -> T:
        return _call_once(lambda: question(Quotas(self._state.journal, None, self._stored)))

    def _write(self, change: Callable[[Quotas], Coroutine[Any, Any, T]]) -> T:
        async def once() -> T:
            self._state.create()
            async with open_quotas(self._state.journal, self._stored) as quotas:
                return await change(quotas)

        return _call_once(once)


class _Opening(contextlib.AbstractContextManager[SyncSession]):
    """A session for the length of a block."""

    def __init__(self, enter: Callable[[contextlib.AsyncExitStack], Coroutine[Any, Any, Session]]) -> None:
        self._enter = enter
        self._session: SyncSession | None = None
        self._loop: _Loop | None = None

    def __getattr__(self, name: str) -> NoReturn:
        raise not_opened(name, "with belljar.session(...) as session:")

    def __enter__(self) -> SyncSession:
        if self._loop is not None:
            raise InvalidInput("this session was already opened: call belljar.session() again", code="session.ended")
        loop = self._loop = _Loop()
        try:
            opened = loop.call(lambda: self._enter(loop.stack))
        except BaseException:
            loop.close()
            raise
        self._session = SyncSession(opened, loop)
        return self._session

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        assert self._loop is not None, "__enter__ comes first"
        # An abandoned generator ends its block this way: that is not an error.
        self._loop.close(None if isinstance(error, GeneratorExit) else error)


class _Loop:
    """An event loop in its own thread, and what is open on it (`stack`)."""

    def __init__(self) -> None:
        self.stack = contextlib.AsyncExitStack()
        self._pid = os.getpid()
        self._ready: Future[None] = Future()
        self._ended: Future[None] = Future()
        self._calls: set[asyncio.Task[Any]] = set()
        # Makes one step of asking "is it closing?" and giving the loop work. Reentrant, because the garbage collector
        # may close another loop, or this one, in the middle of it.
        self._gate = threading.RLock()
        self._closing = False
        self._raised: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="belljar", daemon=True)
        self._thread.start()
        try:
            self._ready.result()
        except OSError as error:
            raise HostFault(f"no event loop can be created ({error}): raise the limit on open files") from error
        _OPEN.add(self)

    def call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `work` on the loop and wait for its end.

        Raises:
            PolicyDenied: `session.ended`.
            InvalidInput: this process or thread cannot wait for it.
            whatever it raises; and what is raised in this thread meanwhile (Ctrl-C), once the work has ended.
        """
        self._check_caller()
        done: Future[T] = Future()
        tasks: list[asyncio.Task[T]] = []

        def begin() -> None:
            task = self._loop.create_task(work())
            tasks.append(task)
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
            task.add_done_callback(lambda task: self._settle(task, done))

        with self._gate:
            if self._closing:
                raise _over()
            self._loop.call_soon_threadsafe(begin)
        try:
            concurrent.futures.wait([done])
        except BaseException:
            with contextlib.suppress(RuntimeError):  # the loop, and the work with it, has ended meanwhile
                self._loop.call_soon_threadsafe(lambda: tasks[0].cancel())
            concurrent.futures.wait([done])
            raise
        return done.result()

    def close(self, raised: BaseException | None = None, *, wait: bool = True) -> None:
        """Close what is open, then the loop, and end the thread; only the first time, and only in its own process.

        Args:
            raised: what the block raised; it decides the verdict of what is open.
            wait: wait until everything is closed, and raise what closing raises.
        """
        if os.getpid() != self._pid:
            return
        with self._gate:
            if not self._closing:
                self._closing, self._raised = True, raised
                with contextlib.suppress(RuntimeError):  # an error has already ended it
                    self._loop.call_soon_threadsafe(self._stop.set)
        # After the end of the process nothing moves any more; and a thread cannot wait for itself.
        if wait and not _exiting.is_set() and threading.current_thread() is not self._thread:
            try:
                self._ended.result()
            finally:
                if self._ended.done():
                    self._thread.join()

    def left_open(self, until: float) -> bool:
        """At the end of the process: whether it is still open at `until`, a monotonic time."""
        if os.getpid() != self._pid:
            return False
        self.close(wait=False)
        done, _ = concurrent.futures.wait([self._ended], max(0.0, until - time.monotonic()))
        return not done

    def _check_caller(self) -> None:
        if os.getpid() != self._pid:
            raise InvalidInput(
                "this session belongs to the process that opened it, and this process is a fork of it: open one here",
                code="session.process",
            )
        if threading.current_thread() is self._thread:
            raise InvalidInput(
                "a session cannot be used from its own callbacks or models, for which it waits: open another one",
                code="session.thread",
            )

    def _settle(self, task: asyncio.Task[T], done: Future[T]) -> None:
        if task.cancelled():
            done.set_exception(_over() if self._closing else concurrent.futures.CancelledError())
        elif (error := task.exception()) is not None:
            done.set_exception(error)
        else:
            done.set_result(task.result())

    # ---------------------------------------------------------------------------------------------- the loop's thread

    def _work(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # not handled here: raised where the loop is opened or closed
            (self._ended if self._ready.done() else self._ready).set_exception(error)
        else:
            self._ended.set_result(None)
        finally:
            _OPEN.discard(self)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_default_executor(Workers(thread_name_prefix="belljar"))
        self._ready.set_result(None)
        try:
            await self._stop.wait()
        finally:
            for call in self._calls:
                call.cancel()
            await asyncio.gather(*self._calls, return_exceptions=True)
            raised, self._raised = self._raised, None
            await self.stack.__aexit__(*((type(raised), raised, raised.__traceback__) if raised else (None,) * 3))
        if _exiting.is_set():
            # Ending a loop takes a thread, and none can be started any more: it is left as it is.
            self._ended.set_result(None)
            await asyncio.Event().wait()


_OPEN: Final[set[_Loop]] = set()
_exiting: Final = threading.Event()


def _call_once(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    loop = _Loop()
    try:
        return loop.call(work)
    finally:
        loop.close()


def _over() -> PolicyDenied:
    return PolicyDenied("the session has ended: open a new one", code="session.ended")


@atexit.register
def _at_exit() -> None:
    """Close what is open, all at once, and wait for a while."""
    _exiting.set()
    until = time.monotonic() + _EXIT_S
    opened = list(_OPEN)
    for loop in opened:
        loop.close(wait=False)
    left = sum(loop.left_open(until) for loop in opened)
    if left:
        _log.warning("belljar: %d session(s) did not close within %.0f s: the next start settles them", left, _EXIT_S)
