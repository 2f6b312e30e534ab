"""Decides and answers every request of one box.

The rules it keeps, whoever speaks:

* identity is the stream: nothing here reads a tenant, a run, a depth or a path from a frame;
* a message out of turn is a violation and ends the box; a request beyond the policy is refused, which the guest sees as
  an exception and the log as a record;
* a read or a search is one record, written before its reply leaves; a query is two (`calls` writes them); a child run
  has a beginning and an end of its own in the log;
* the first `Final` before the deadline is the answer of its cell; of a run that ends with it, nothing that the box
  says afterwards counts;
* work per request is bounded by the policy: bytes read, prompts per batch, requests in flight, output kept;
* a frame is charged what it costs the host, even if it is empty; and work that grows with its content is done off the
  event loop (`heavy`).

The table in `belljar.states` says what may come when. What a message then does is done by one of five objects, each
with its own counters: `cells`, `reading`, `querying`, `recursing`, `covering`. Kept here: how many requests
are in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import assert_never

from belljar.audit import AuditLog
from belljar.broker.calls import Calls
from belljar.broker.canaries import ends_run
from belljar.broker.cell import Cell
from belljar.broker.cells import Cells
from belljar.broker.covering import Covering
from belljar.broker.failures import failure_of
from belljar.broker.flood import Flood
from belljar.broker.meter import Meter
from belljar.broker.querying import Querying
from belljar.broker.reading import Reading
from belljar.broker.recursing import Recursing, StartChild
from belljar.broker.run import RunScope
from belljar.broker.shown import Shown, Totals
from belljar.context import OpenDocument, Span
from belljar.errors import ModelFailed, PolicyDenied, ProtocolViolation, Refusal
from belljar.ledger import NOTHING, Ledger, Remaining
from belljar.models import HostTool, Model
from belljar.protocol import (
    PROTOCOL,
    Budget,
    Clock,
    Coverage,
    Done,
    Final,
    GuestMessage,
    HostMessage,
    Left,
    Output,
    Query,
    Read,
    Ready,
    Recurse,
    Refused,
    Search,
    Stream,
)
from belljar.search import Searcher
from belljar.states import EVENT_OF, CellState, Event, States
from belljar.wire import Frame

__all__ = ["Broker", "Reply"]

Reply = tuple[HostMessage, bytes | memoryview]
_Request = Read | Search | Query | Recurse | Budget | Coverage


class Broker:
    """Answers one box. The engine feeds it frames and sends what it returns."""

    def __init__(
        self,
        scope: RunScope,
        *,
        calls: Calls,
        audit: AuditLog,
        ledger: Ledger,
        documents: Sequence[OpenDocument],
        sub_model: Model | None,
        searcher: Searcher,
        texts: Sequence[int],
        start_child: StartChild,
        root_model: Model | None = None,
        meter: Meter | None = None,
        spans: Mapping[int, Sequence[Span]] | None = None,
        stays: bool = False,
        tools: Sequence[HostTool] = (),
    ) -> None:
        self._scope = scope
        self._spans = spans or {}
        self._meter = meter
        self._calls = calls
        self.states = States()
        self._flood = Flood(scope.policy)
        self._shown = Shown(scope, audit=audit, searcher=searcher, documents=documents, texts=texts)
        self._cells = Cells(
            scope, audit=audit, states=self.states, flood=self._flood, canaries=calls.canaries, stays=stays
        )
        self._reading = Reading(
            scope,
            audit=audit,
            ledger=ledger,
            documents=documents,
            texts=texts,
            searcher=searcher,
            shown=self._shown,
            spans=self._spans,
        )
        self._covering = Covering(
            shown=self._shown, flood=self._flood, documents=documents, texts=texts, spans=self._spans
        )
        called = {tool.name: tool for tool in tools}
        self._querying = Querying(
            scope, calls=calls, ledger=ledger, sub_model=sub_model, shown=self._shown, flood=self._flood, tools=called
        )
        self._recursing = Recursing(
            scope,
            documents=documents,
            texts=texts,
            querying=self._querying,
            reading=self._reading,
            flood=self._flood,
            start=start_child,
            root_model=root_model,
        )
        self._in_flight = 0

    @property
    def spans(self) -> dict[int, list[Span]]:
        """What of its documents belongs to the run, where that is not all."""
        return {doc: list(spans) for doc, spans in self._spans.items()}

    @property
    def cell(self) -> Cell | None:
        """The one that began last."""
        return self._cells.last

    @property
    def cells(self) -> int:
        return self._cells.count

    def expect(self, misfit: Callable[[Final, bytes], str] | None) -> None:
        """From now on an answer counts only if `misfit` has nothing to say about it: a line for each fault.

        It is called with an answer that is what it claims to be, in a thread if the answer is long. An answer that does
        not count leaves its cell running.
        """
        self._cells.misfit = misfit

    def hear(self, printed: Callable[[int, Stream, bytes], None]) -> None:
        """From now on `printed` is told what is kept of the cells' output: cell, stream, bytes."""
        self._cells.printed = printed

    @property
    def reads(self) -> int:
        return self._reading.count

    @property
    def read_bytes(self) -> int:
        return self._reading.read_bytes

    @property
    def queries(self) -> int:
        return self._querying.count

    @property
    def denials(self) -> int:
        return self._calls.denials.count

    @property
    def coverage(self) -> Totals:
        """What was read and shown so far; exact after `settled`."""
        return self._shown.coverage

    def left_bytes(self, left: Remaining) -> int:
        """What the run may still read, by its policy or by the ledger, whichever is less."""
        return self._reading.left_bytes(left)

    def include(self, doc: int, child: Broker) -> None:
        """Count what a child run has read and shown of its part of document `doc`, once it is settled."""
        self._shown.include(doc, child._shown)

    @property
    def batch_max(self) -> int:
        """The largest batch whose answers are sure to fit the wire, if the policy allows it."""
        return self._querying.batch_max

    async def begin(self, code: str, *, wall_s: float | None = None) -> Reply:
        """Log the next cell, start its clock, and return the order to run it; see `Cells.begin`."""
        return await self._cells.begin(code, wall_s=wall_s)

    def cut_short(self, why: str) -> None:
        """Stop the running cell now; `why` becomes its status."""
        self._cells.cut_short(why)

    async def lost(self, status: str) -> None:
        """The box has ended with this `status`: so has the running cell, if there is one."""
        await self._cells.lost(status)

    async def handle(self, frame: Frame[GuestMessage]) -> Reply | None:
        """Do what one message asks, if it is allowed.

        Returns:
            The reply, or None if the message has none.

        Raises:
            ProtocolViolation: the message is out of turn or contradicts itself.
            Refusal: `limits.output_flood`, `models.on_canary` or one of `answer.`; other refusals are replies.
            HostFault: the log or the ledger does not work: nothing was done.
        """
        message, body = frame.message, frame.body
        if isinstance(message, Search | Query | Recurse | Done | Final):
            await self._reading.flush()  # these are logged too, and in order
        self.states.check(EVENT_OF[type(message)])
        match message:
            case Ready():
                self._begin_talk(message)
            case Output():
                await self._cells.output(message, body)
            case Clock():
                self._cells.clock(message, body)
            case Done():
                await self._cells.done(message, body)
            case Final():
                await self._cells.final(message, body)
            case Budget():
                self._flood.charge(len(body))
                return await self._request(frame, message)
            case Read() | Search() | Query() | Recurse() | Coverage():
                return await self._request(frame, message)
            case _:
                assert_never(message)
        return None

    async def settled(self) -> None:
        """Return when what was read is charged, exactly, and what was read, shown and refused is in the log.

        Raises:
            LedgerUnavailable, AuditUnavailable: it could not be written.
        """
        try:
            await self._reading.flush()
            await self._shown.settled()
            await self._calls.denials.settled(self.cells)
        finally:
            await self._reading.settled()

    def _begin_talk(self, ready: Ready) -> None:
        if ready.protocol != PROTOCOL:
            raise ProtocolViolation(f"the agent speaks protocol {ready.protocol}, the host {PROTOCOL}")
        self.states.on(Event.READY)

    def came(self, size: int) -> None:
        """Charge a piece of the stream, of `size` bytes, that ended no frame. Raises Refusal: `limits.output_flood`."""
        self._flood.charge_piece(size)

    async def _request(self, frame: Frame[GuestMessage], message: _Request) -> Reply:
        self._in_flight += 1
        try:
            if self._in_flight > self._scope.policy.wire.in_flight_max:
                raise ProtocolViolation(f"more than {self._scope.policy.wire.in_flight_max} requests in flight")
            self._permit_now(message)
            return await self._serve(message, frame.body)
        except ModelFailed as failure:
            return Refused(message.id, failure_of(failure)), b""
        except Refusal as refusal:
            if ends_run(refusal):
                raise
            return await self.refuse(frame, message, refusal)
        finally:
            self._in_flight -= 1

    def _permit_now(self, message: _Request) -> None:
        if not self.states.serves(EVENT_OF[type(message)]):
            if self.states.cell is CellState.STOPPING:
                raise PolicyDenied("the cell is being stopped: it can no longer ask a model", code="cell.over")
            raise PolicyDenied("no cell is running: ask from inside a cell", code="cell.over")

    async def refuse(self, frame: Frame[GuestMessage], message: _Request, refusal: Refusal) -> Reply:
        """The reply to a request that is not served, which is logged and charged. `message` is that of the frame.

        Raises:
            Refusal: `limits.output_flood`.
        """
        asked, denials = type(message).__name__.lower(), self._calls.denials
        if denials.add(asked, refusal):
            await self._reading.flush()
            await denials.note(asked, refusal, self.cells)
        self._flood.charge_refused(len(frame.body), frame.header_bytes)
        return Refused(message.id, failure_of(refusal)), b""

    async def _serve(self, message: _Request, body: bytes) -> Reply:
        cell = self._cells.last
        assert cell is not None, "the table serves no request before a cell has begun"
        match message:
            case Read():
                return await self._reading.read(message, cell.number)
            case Search():
                return await self._reading.search(message, body, cell.number)
            case Query():
                return await self._querying.query(message, body, cell)
            case Budget():
                return await self._budget(message)
            case Coverage():
                return await self._covering.covered(message)
            case Recurse():
                return await self._recursing.recurse(message, body, cell)
            case _:
                assert_never(message)

    async def _budget(self, budget: Budget) -> Reply:
        left = await self._calls.left()
        used, unused = (self._meter.used, self._meter.unused()) if self._meter else (NOTHING, NOTHING)
        of_cpu_ms = max(0, round(self._scope.policy.limits.cpu_s * 1000) - used.cpu_ms)
        of_wall_ms = max(0, int(self._scope.left_s() * 1000))
        memory_mib_s = None if left.memory_mib_s is None else left.memory_mib_s + unused.memory_mib_s
        return (
            Left(
                id=budget.id,
                calls=left.calls,
                input_tokens=left.input_tokens,
                output_tokens=left.output_tokens,
                cost_nanousd=left.cost_nanousd,
                read_bytes=self._reading.left_bytes(left),
                wall_ms=of_wall_ms if left.wall_ms is None else min(of_wall_ms, left.wall_ms + unused.wall_ms),
                cpu_ms=of_cpu_ms if left.cpu_ms is None else min(of_cpu_ms, left.cpu_ms + unused.cpu_ms),
                memory_mib_s=memory_mib_s,
            ),
            b"",
        )
