"""One order, or one session, of this process: while it waits and runs, and for a while after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Final, get_args

import msgspec

from belljar.engine import ErrorInfo, Limit, Result, Status
from belljar.errors import QuotaExceeded, Refusal
from belljar.host import Vetted
from belljar.identity import RunId, Tenant, TraceParent
from belljar.jobs.hub import Hub
from belljar.jobs.orders import (
    CANCELLED,
    INTERRUPTED,
    QUEUED,
    Asked,
    AskedAgain,
    AskedSession,
    JsonContext,
    OrderState,
    RegisteredContext,
    TextContext,
)
from belljar.jobs.words import told_words
from belljar.replay import Replay
from belljar.sources import ContextSource, Verbatim
from belljar.streaming import ResultEvent

__all__ = ["Work", "fault_of", "limit_of"]

# States of a run that has a result.
_RESULTS: Final = frozenset(get_args(Status))


class Work:
    """What is known of it here. Its `hub` tells what it does; `done` is set once it has ended."""

    def __init__(
        self,
        run: RunId,
        tenant: Tenant,
        by: str,
        asked: Asked | AskedSession,
        vetted: Vetted,
        hub: Hub,
        *,
        retries: str | None = None,
        caller: TraceParent | None = None,
        again: AskedAgain | None = None,
    ) -> None:
        self.run: Final = run
        self.tenant: Final = tenant
        self.by: Final = by
        self.hub: Final = hub
        self.retries: Final = retries
        self.caller: Final = caller
        self.again: Final = again
        self.asked_ns: Final = time.time_ns()
        self.question = asked.question if isinstance(asked, Asked) else None
        self.code = asked.code if isinstance(asked, Asked) else None
        self.answer_schema = asked.answer_schema if isinstance(asked, Asked) else None
        self.sources = _sources(asked, vetted)
        self.admission: Final = vetted.admission
        self._brief = OrderState(
            run=str(run),
            tenant=str(tenant),
            state=QUEUED,
            by=by,
            policy=asked.policy,
            backend=vetted.backend,
            language=vetted.language,
            model=asked.model,
            sub_model=asked.sub_model,
            asked_ns=self.asked_ns,
        )
        self.state = QUEUED
        self.started_ns: int | None = None
        self.ended_ns: int | None = None
        self.result: Result | None = None
        self.report: Replay | None = None  # of a replay, in place of a result
        self.error: ErrorInfo | None = None
        self.limit: Limit | None = None
        self.done: Final = asyncio.Event()
        # Whether its order is on the disk; False where there is none after all.
        self.placed: Final[asyncio.Future[bool]] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        # The process ends before it does: what is killed is `interrupted`, and may be retried.
        self.is_interrupted = False
        self.is_cancelled = False

    @property
    def is_replay(self) -> bool:
        return self.again is not None and self.again.from_turn is None

    @property
    def is_given_up(self) -> bool:
        return self.is_interrupted or self.is_cancelled

    @property
    def given_up_as(self) -> str:
        """The state of its order where it ends without a result, because it was given up or its process ends."""
        return CANCELLED if self.is_cancelled and not self.is_interrupted else INTERRUPTED

    @property
    def is_lost(self) -> bool:
        """Whether it ended with a result that is not here: the log has it."""
        return self.result is None and self.report is None and self.state in _RESULTS and self.error is None

    @property
    def chars(self) -> int:
        """About how much memory it takes up once it has ended."""
        result = self.result
        if result is None:
            return self.hub.chars
        given = (
            0
            if result.given is None
            else len(bytes(result.given) if isinstance(result.given, msgspec.Raw) else result.given)
        )
        turns = sum(len(turn.reply) + len(turn.shown) for turn in result.turns_log)
        return self.hub.chars + given + len(result.stdout) + len(result.stderr) + turns

    def over(self, state: str) -> None:
        """It has ended: whoever listens hears it, and what it was asked is let go."""
        self.state, self.ended_ns = state, time.time_ns()
        self.question = self.code = self.answer_schema = None
        self.sources = {}
        if self.result is not None:
            seq = self.result.receipt.seq if self.result.receipt is not None else 0
            self.hub.put(ResultEvent(self.result), 0, seq)
        self.hub.close()
        self.done.set()

    def shown(self) -> OrderState:
        """As whoever asks for it sees it."""
        result = self.result
        return msgspec.structs.replace(
            self._brief,
            state=self.state,
            started_ns=self.started_ns,
            ended_ns=self.ended_ns,
            cost_nanousd=None if result is None else result.cost_nanousd,
            error=self.error if result is None else result.error,
            limit=self.limit if result is None else result.limit,
            result=result,
        )


def fault_of(error: Exception, folders: Iterable[str]) -> ErrorInfo:
    """An error as a result has it: in one line, and in the words that are told outside."""
    return ErrorInfo(type(error).__name__, told_words(error, folders))


def limit_of(refusal: Refusal) -> Limit | None:
    if isinstance(refusal, QuotaExceeded) and refusal.told is not None:
        return None  # the numbers are somebody else's
    return None if refusal.limit is None else Limit.of(refusal.code, refusal.limit, refusal.observed)


def _sources(asked: Asked | AskedSession, vetted: Vetted) -> dict[str, ContextSource]:
    """The contexts of a run. A text is never the name of a file here."""
    found: dict[str, ContextSource] = {}
    for name, context in asked.contexts.items():
        match context:
            case RegisteredContext():
                found[name] = vetted.documents[context.ref]
            case TextContext():
                found[name] = Verbatim(context.text)
            case JsonContext():
                found[name] = context.value
    return found
