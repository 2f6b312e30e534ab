"""A session: an open box for the length of a block, on the loop that opened it.

It runs the caller's code, and a root model's, if it was opened with one, that answers the caller's questions. Both work
in the same box, on the same variables, and within the limits of one run.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import weakref
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, NoReturn, TypeVar

from belljar.arguments import check, check_callback
from belljar.engine import AnswerType, AskResult, CellResult, Result
from belljar.errors import InvalidInput, PolicyDenied
from belljar.lifecycle import OnTurn, Run
from belljar.tasks import to_the_end

__all__ = ["Home", "Opening", "Session", "check_code", "not_opened"]

_T = TypeVar("_T")
_NAME_CHARS_MAX: Final = 80


class Home:
    """The process and the event loop in which a host was opened: it works only there."""

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
                "this runtime belongs to the process that opened it, and this process is a fork of it: open one here",
                code="runtime.process",
            )
        if self.loop is not None and not self.is_here:
            raise InvalidInput(
                "this runtime belongs to the event loop in which it was opened, and this is another one: open a "
                "runtime in each asyncio.run, with `async with belljar.Runtime(...)`, or keep one loop",
                code="runtime.loop",
            )


class Session:
    """An open box: you send code, and questions for its root model. Made by `Host.session` and `Runtime.session`.

    `result` is None until the session is closed.
    """

    def __init__(self, run: Run, home: Home) -> None:
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
        """Run one cell; its variables are there in the next. Concurrent calls wait for each other, first come first.

        If it is cancelled, the cell is stopped, as its deadline would stop it, before the cancellation reaches the
        caller: the program is interrupted, and if it goes on after the policy's grace period, the box is killed and the
        session has ended. Otherwise the session goes on, with all variables.

        Args:
            timeout: seconds that the cell may take, unless the policy allows less; then its status is `timeout`, and
                variables are kept.

        Raises:
            PolicyDenied: `session.ended`: the answer was given, a limit ended the box, or the session is closed;
                `limits.code`.
            InvalidInput: `code` is not a text; `cell.timeout`: not a number of seconds above 0; `runtime.loop`,
                `runtime.process`: it was opened elsewhere.
            HostFault: the log, the ledger or the box failed on our side.
        """
        check_code(code)
        if timeout is not None and not timeout > 0:
            raise InvalidInput(
                f"a timeout of {timeout} is not possible: give a number of seconds above 0", code="cell.timeout"
            )
        return await self._do(lambda: self._run.execute(code, wall_s=timeout))

    async def ask(self, question: str, *, answer_type: Any = None, on_turn: OnTurn | None = None) -> AskResult:
        """Have the root model answer a question, over the session's contexts and variables.

        Its conversation goes on from question to question, and each has as many turns as the policy allows a run. What
        is left of budget and time is the session's. An answer ends its question only.

        If it is cancelled, what is under way for it is stopped, as in `execute`, and calls are settled, before the
        cancellation reaches the caller. The session goes on unless its box had to be killed.

        Args:
            answer_type, on_turn: as of `Runtime.run`, for this question.

        Returns:
            The answer, or why there is none: see `status`.

        Raises:
            PolicyDenied: `session.ended`: a limit ended the box, or the session is closed.
            InvalidInput: `session.no_model`: it was opened without `root_model`; the question is not a text;
                `answer.type`, `answer.schema`; `runtime.loop`, `runtime.process`.
            HostFault: the log, the ledger or the box failed on our side.
        """
        check("question", question, str, "the question as a text")
        check_callback("on_turn", on_turn)
        if self._run.order.root is None:
            raise InvalidInput(
                "this session has no root model to ask: open one with a root model", code="session.no_model"
            )
        wanted = None if answer_type is None else AnswerType(answer_type)
        return await self._do(lambda: self._run.ask(question, wanted, on_turn=on_turn))

    async def _do(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """One thing after the other, first come first."""
        self._home.check()
        if self.result is not None:
            raise PolicyDenied("the session has ended: open a new one", code="session.ended")
        async with self._turn:
            try:
                done = await work()
            except (Exception, asyncio.CancelledError):
                await to_the_end(self._run.abandon())
                raise
        if self._run.box.fault is not None:
            raise self._run.box.fault
        return done


class Opening(contextlib.AbstractAsyncContextManager[Session]):
    """A session for the length of a block.

    A task holds its run, and the event loop ends its tasks before itself: so a session that nobody closes is closed
    then, in order. Nested asynchronous generators would need no task, but would each be closed on their own, all at
    once.
    """

    def __init__(self, begun: contextlib.AbstractAsyncContextManager[Run], home: Home) -> None:
        self._begun = begun
        self._home = home

    def __getattr__(self, name: str) -> NoReturn:
        raise not_opened(name, "async with runtime.session(...) as session:")

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
        # A forgotten session is closed: nothing else refers to it.
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


def not_opened(name: str, how: str) -> AttributeError:
    """For an attribute of what only opens a session, which is easily taken for the session."""
    return AttributeError(f"this session is not open yet, so it has no {name[:_NAME_CHARS_MAX]!r}: write `{how}`")


async def _hold(
    begun: contextlib.AbstractAsyncContextManager[Run],
    opened: asyncio.Future[Run],
    left: asyncio.Future[BaseException | None],
) -> None:
    """Keep a run open until its block ends; what the block raised decides its verdict, and goes on to the caller."""
    error: BaseException | None = None
    try:
        async with begun as run:
            run.leave = functools.partial(_let_go, left)
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


def check_code(code: object) -> None:
    if not isinstance(code, str):
        check("code", code, str, "the program as a text")
