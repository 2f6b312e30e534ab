"""What a run does, as typed events for `async for event in runtime.stream(...)`.

    run, children ── each record ──▶ AuditLog.telling ─┐
    box           ── what it prints ──────────────────▶ Feed (bounded) ──▶ the caller's loop
    root model    ── each turn ───────────────────────┘

Events are made from what the run and its children log, when it is logged, so that the two cannot tell different
stories. What a cell prints is told as it comes, which may be before its beginning is written: then it waits for that.
Nothing waits for who listens: what is not taken yet is kept up to a bound, and from there on only counted. A
`MissedEvent` then says how many there were. The result is always delivered.

The run is a task of the stream. Whoever leaves the loop early cancels it: at once with `contextlib.aclosing`, and
otherwise when Python drops the generator; at the latest its host waits for its end.
"""

from __future__ import annotations

import asyncio
import codecs
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator
from typing import Final, Literal

import msgspec

from belljar.audit.events import (
    AnswerGiven,
    CanarySeen,
    CellFinished,
    CellStarted,
    ContextRead,
    ContextSearched,
    Event,
    QueryCompleted,
    QueryDenied,
    QueryFailed,
    QueryRequested,
    QueryReused,
    RequestRefused,
    RunFinished,
    RunStarted,
)
from belljar.engine import Result, Turn
from belljar.identity import RunId

__all__ = [
    "EARLY_MAX",
    "EVENT_CHARS",
    "CanaryEvent",
    "CellEvent",
    "ChildEvent",
    "Feed",
    "MissedEvent",
    "OutputEvent",
    "QueryEvent",
    "ReadEvent",
    "RefusalEvent",
    "ResultEvent",
    "StreamEvent",
    "Telling",
    "TurnEvent",
    "told",
]

# For all that waits to be taken. An event is counted as so many characters, and the texts in it besides.
_CHARS_MAX: Final = 4 << 20
EVENT_CHARS: Final = 500
# Of a run, so many pieces of output wait at most for the beginning of their cell. It is written within milliseconds.
EARLY_MAX: Final = 1000


class TurnEvent(msgspec.Struct, frozen=True):
    """A turn of the root model is over."""

    turn: Turn


class CellEvent(msgspec.Struct, frozen=True):
    """A cell begins, or ends with a `status`."""

    run: str
    cell: int
    status: str | None = None


class OutputEvent(msgspec.Struct, frozen=True):
    """A cell printed `text`; what the policy's limit cuts off is not told."""

    run: str
    cell: int
    stream: Literal["stdout", "stderr"]
    text: str


class QueryEvent(msgspec.Struct, frozen=True):
    """A model is asked, or the query `action` has its outcome. A denied one has a `code`, an answered one a cost.

    A `reused` one has the answer of an equal one: no model was asked.
    """

    run: str
    action: str
    state: Literal["asked", "answered", "failed", "denied", "reused"]
    purpose: Literal["root", "sub", "tool", ""] = ""
    model: str = ""
    cost_nanousd: int = 0
    code: str = ""


class ReadEvent(msgspec.Struct, frozen=True):
    """The program read these ranges of characters of a document, `[start, stop)`, or found them in it."""

    run: str
    cell: int
    doc: int
    spans: tuple[tuple[int, int], ...]


class ChildEvent(msgspec.Struct, frozen=True):
    """A child run begins, or ends with a `status`. Its id names its parent."""

    run: str
    status: str | None = None


class RefusalEvent(msgspec.Struct, frozen=True):
    """A request of the program was refused."""

    run: str
    cell: int
    asked: str
    code: str


class CanaryEvent(msgspec.Struct, frozen=True):
    """A text that the policy watches for turned up: its number in the policy's list, and where."""

    run: str
    cell: int
    place: Literal["prompt", "reply", "answer", "output"]
    canary: int


class MissedEvent(msgspec.Struct, frozen=True):
    """So many events were left out here, because too many were waiting to be taken."""

    count: int


class ResultEvent(msgspec.Struct, frozen=True):
    """The run has ended: always the last event."""

    result: Result


StreamEvent = (
    TurnEvent
    | CellEvent
    | OutputEvent
    | QueryEvent
    | ReadEvent
    | ChildEvent
    | RefusalEvent
    | CanaryEvent
    | MissedEvent
    | ResultEvent
)


class Telling(ABC):
    """Makes events of what a run and its children do. Where they go, a subclass decides: `put`."""

    def __init__(self) -> None:
        self._decoders: dict[tuple[str, str], tuple[int, codecs.IncrementalDecoder]] = {}
        # Of each run, the last cell whose beginning was told, and what the next one has printed.
        self._begun: dict[str, int] = {}
        self._early: dict[str, list[OutputEvent]] = {}

    @abstractmethod
    def put(self, event: StreamEvent, chars: int, seq: int = 0) -> None:
        """Take an event of about so many characters, made of the log's record `seq`; 0 if of none."""

    def turn(self, turn: Turn) -> None:
        """A turn is over."""
        self.put(TurnEvent(turn), len(turn.reply) + len(turn.shown) + sum(len(block.code) for block in turn.blocks))

    def output(self, run: RunId, cell: int, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        """A cell printed this; a character may be cut off at its end."""
        number, decoder = self._decoders.get((run, stream), (0, None))
        if decoder is None or number != cell:
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            self._decoders[run, stream] = (cell, decoder)
        if not (text := decoder.decode(data)):
            return
        early = self._early.setdefault(run, [])
        early.append(OutputEvent(run, cell, stream, text))
        if cell <= self._begun.get(run, 0) or len(early) > EARLY_MAX:
            self._tell_output(run)

    def _tell_output(self, run: str) -> None:
        for event in self._early.pop(run, ()):
            self.put(event, len(event.text))

    def record(self, run: RunId, event: Event, seq: int) -> None:
        """This is logged of a run, or of a child of it."""
        if run.depth and isinstance(event, RunFinished):
            for stream in ("stdout", "stderr"):
                self._decoders.pop((run, stream), None)
            self._begun.pop(run, None)
            self._early.pop(run, None)
        if (found := told(run, event)) is not None:
            self.put(found, 20 * len(found.spans) if isinstance(found, ReadEvent) else 0, seq)
        if isinstance(event, CellStarted):
            self._begun[run] = event.cell
            self._tell_output(run)


class Feed(Telling):
    """What waits to be taken, in bounded memory. Iterate over it in one place; it ends after `close`."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[tuple[StreamEvent, int]] = deque()
        self._chars = 0
        self._missed = 0
        self._closed = False
        self._more = asyncio.Event()

    def close(self) -> None:
        """Nothing more comes."""
        self._closed = True
        self._more.set()

    def put(self, event: StreamEvent, chars: int, seq: int = 0) -> None:
        """Keep an event until it is taken, or count it as missed."""
        chars += EVENT_CHARS
        if self._missed or self._chars + chars > _CHARS_MAX:
            self._missed += 1
            return
        self._waiting.append((event, chars))
        self._chars += chars
        self._more.set()

    async def __aiter__(self) -> AsyncIterator[StreamEvent]:
        while True:
            while self._waiting:
                event, chars = self._waiting.popleft()
                self._chars -= chars
                yield event
            if self._missed:
                missed, self._missed = self._missed, 0
                yield MissedEvent(missed)
            elif self._closed:
                return
            else:
                self._more.clear()
                await self._more.wait()


def told(run: RunId, event: Event) -> StreamEvent | None:
    """What a record tells whoever listens; None if nothing."""
    match event:
        case CellStarted():
            return CellEvent(run, event.cell)
        case CellFinished():
            return CellEvent(run, event.cell, event.status)
        case AnswerGiven() if not event.stays:  # its cell ends with the run, of which the log says no more
            return CellEvent(run, event.cell, "ok")
        case ContextRead() if event.start is not None and event.stop is not None:
            return ReadEvent(run, event.cell, event.doc, ((event.start, event.stop),))
        case ContextRead() | ContextSearched():
            return ReadEvent(run, event.cell, event.doc, tuple(event.spans or ()))
        case QueryRequested():
            return QueryEvent(run, event.action, "asked", event.purpose, event.model)
        case QueryCompleted():
            return QueryEvent(run, event.action, "answered", cost_nanousd=event.cost_nanousd)
        case QueryFailed():
            return QueryEvent(run, event.action, "failed", cost_nanousd=event.cost_nanousd)
        case QueryDenied():
            return QueryEvent(run, event.action, "denied", code=event.code)
        case QueryReused():
            return QueryEvent(run, event.action, "reused", "sub", event.model)
        case RequestRefused():
            return RefusalEvent(run, event.cell, event.asked, event.code)
        case CanarySeen():
            return CanaryEvent(run, event.cell, event.place, event.canary)
        case RunStarted() if run.depth:
            return ChildEvent(run)
        case RunFinished() if run.depth:
            return ChildEvent(run, event.status)
    return None
