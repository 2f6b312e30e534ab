"""Every request of one box, decided and answered.

The rules it keeps, whoever speaks:

* identity is the stream: nothing here reads a tenant, a run, a depth or a path from a frame;
* a sentence out of turn is a violation and ends the box; a wish beyond the policy is a refusal, which the guest sees as
  an exception and the log as a record;
* one record for a read or a search, before its reply leaves; a pair for a query (`calls` writes it);
* the first `Final` before the deadline is the answer; from then on the box has nothing more to say;
* work per request is bounded by the policy: bytes read, prompts a batch, requests in flight, output kept;
* a frame is charged what it costs the host, also where nothing is in it; and work that grows with what is in it is done
  off the event loop (`heavy`).

State: idle <-> running -> final. `Ready` comes once and before all else; the first cell's order may be on its way by
then. `Final` and `Done` come while running, and name the cell that runs; one of another cell is a violation. A thread
that the program left behind may still ask between two cells: it is refused, not punished. What it prints then is
charged, but the cell that it names is over, so it stands in no result.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final as Const
from typing import assert_never

import msgspec

from belljar.audit import JSON, AuditLog
from belljar.broker.answer import check_answer
from belljar.broker.calls import Calls
from belljar.broker.cell import Cell
from belljar.broker.readlog import ReadLog
from belljar.broker.reads import Reads
from belljar.broker.run import RunScope
from belljar.broker.shown import SPANS_LOGGED_MAX, Coverage, Shown
from belljar.context import OpenDocument
from belljar.errors import ModelFailed, PolicyDenied, ProtocolViolation, QuotaExceeded, Refusal
from belljar.heavy import bytes_of, is_utf8, off_loop, sha256, text_of
from belljar.ledger import USED_UP, Ledger, Remaining
from belljar.models import Model, ModelReply, ModelRequest
from belljar.protocol import (
    BATCH_MAX,
    PROTOCOL,
    Answer,
    Answers,
    Budget,
    Data,
    Done,
    Execute,
    Failure,
    Final,
    Found,
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
)
from belljar.search import Question, Searcher
from belljar.search.hits import OF_ITEMS
from belljar.wire import Frame

__all__ = ["Broker", "Reply"]


class _Text(msgspec.Struct, frozen=True):
    """What a model answered, in UTF-8; `cut` where it was stopped before its end."""

    data: bytes
    cut: bool


_Outcome = _Text | Failure
Reply = tuple[HostMessage, bytes | memoryview]

_SUB_SYSTEM: Const = (
    "You are given one self-contained piece of a larger task. Answer exactly what is asked, in the format asked for, "
    "from the text given here alone."
)
# A read of one character still costs a record in the log, so it is charged as this many bytes of the run's allowance.
_READ_COST_BYTES_MIN: Const = 1024
# A search has a record of its own, some 500 bytes, whatever it finds.
_SEARCH_COST_BYTES_MIN: Const = 8 * 1024
# A frame is work for the host even with nothing in it, some 16 µs, as much as for a KiB of output. So a flood of empty
# ones, or of requests that are refused, ends like any other.
_FRAME_COST_BYTES_MIN: Const = 1024
# A call that the books refuse costs two records in the log and a transaction.
_REFUSED_CALL_COST_BYTES: Const = 4096
# The agent cuts a traceback to 16,000 characters; who writes its own has no more room than that.
_TRACEBACK_BYTES_MAX: Const = 64_000
# To take a prompt out of a batch is work as for so many of its bytes, however short it is.
_PROMPT_COST_BYTES: Const = 128
# Patterns are written by hand, or are a few hundred names joined by bars.
_PATTERN_BYTES_MAX: Const = 64 * 1024
# What one answer takes of the reply's header, `{"length":4294967295,"cut":true},`, and the header without any.
_ITEM_BYTES: Const = 40
_ITEMS_BYTES: Const = 64
# Room in that header for the words of failures, where the policy's header has as much again.
_FAILURES_BYTES: Const = 4096
# Of a failure that has little room: its kind, its code, and so much of its message.
_BRIEF_CHARS: Const = 80
# A batch of which something is answered ends so long before its cell does, that the program may keep the answers.
_CELL_SPARE_S: Const = 1.0
_CELL_SPARE_SHARE: Const = 1 / 10
# How providers say that an answer is not whole.
_CUT: Const = frozenset({"max_tokens", "model_context_window_exceeded", "length"})
# Nearly every prompt that is not blank shows it in so many bytes.
_HEAD_BYTES: Const = 256
# Providers' messages may be of any length; a guest and its root model need the beginning.
_FAILURE_CHARS_MAX: Const = 1000


class Broker:
    """Answers one box. The engine feeds it frames and sends what it gives back."""

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
    ) -> None:
        self._scope = scope
        self._policy = scope.policy
        self._calls = calls
        self._audit = audit
        self._ledger = ledger
        self._documents = documents
        self._sub_model = sub_model
        self._searcher = searcher
        # One search at a time: what a run wants to look for elsewhere meanwhile, it may not take from the others.
        self._searching = asyncio.Lock()
        self._searched_bytes = 0
        self._texts = frozenset(texts)
        self._account = Reads(scope, ledger)
        self._read_log = ReadLog(scope.run, audit)
        self._shown = Shown(scope, audit=audit, searcher=searcher, documents=documents, texts=texts)
        self._state = "idle"
        self._ready = False
        self._in_flight = 0
        self._emitted_bytes = 0
        self._read_cost_bytes = 0
        self.cell: Cell | None = None
        self.cells = 0
        self.reads = 0
        self.read_bytes = 0
        self.queries = 0
        # An answer came in time and is looked at: however long that takes, no later limit is met before it.
        self.checking = False
        self.final: Final | None = None
        self.final_body = b""

    @property
    def ready(self) -> bool:
        return self._ready

    @property
    def batch_max(self) -> int:
        """The largest batch whose answers are sure to fit the wire, if the policy allows it."""
        header = self._policy.wire.header_bytes_max
        fits = (header - _ITEMS_BYTES - min(_FAILURES_BYTES, header // 2)) // _ITEM_BYTES
        return min(self._policy.models.batch_max, BATCH_MAX, fits)

    @property
    def denials(self) -> int:
        return self._calls.denials.count

    def cut_short(self, why: str) -> None:
        """The running cell is stopped now: what it still gives as an answer is logged and does not count.

        `why` is the status that this gives it.
        """
        assert self.cell is not None
        self.cell.deadline = min(self.cell.deadline, self._scope.monotonic())
        self.cell.cut = self.cell.cut or why

    async def begin(self, code: str, *, wall_s: float | None = None) -> Reply:
        """Log the next cell, let its time begin, and give the order to run it. Cancelled, it has not begun.

        Args:
            wall_s: what it may take, where that is less than the policy allows.

        Raises:
            PolicyDenied: `code.too_long`; `cell.running`: the one before is not over.
        """
        limit = min(self._policy.limits.code_bytes, self._policy.wire.body_bytes_max)
        # A root model may write any length; what is surely too long need not be encoded to be refused.
        source = code[: limit + 1].encode("utf-8", "surrogatepass")
        if len(source) > limit:
            raise PolicyDenied(
                f"a cell of {max(len(source), len(code))} bytes is over the policy's {limit}: send it in parts",
                code="code.too_long",
                limit=limit,
                observed=max(len(source), len(code)),
            )
        about: dict[str, JSON] = {"code_sha256": hashlib.sha256(source).hexdigest(), "code_bytes": len(source)}
        await self._audit.room()
        # Nothing is awaited from here on: a cell has begun wholly or not at all.
        if self._state == "running":
            raise PolicyDenied("a cell is running: wait for its end", code="cell.running")
        self._audit.put("cell.started", self._scope.run, {"cell": self.cells + 1, **about})
        order = Execute(self.cells + 1, interrupted=self.cell is not None and self.cell.interrupted)
        self.cells += 1
        wall_s = min(math.inf if wall_s is None else wall_s, self._policy.limits.cell_wall_s)
        began = self._scope.monotonic()
        deadline = min(began + wall_s, self._scope.deadline)
        self.cell = Cell(self.cells, self._policy.limits, began=began, deadline=deadline, wall_s=wall_s)
        self._state = "running"
        return order, source

    async def lost(self, status: str) -> None:
        """The box has come to its end, of this `status`: so has the running cell, if it has not yet."""
        if self._state == "running" and self.cell is not None:
            self._state = "idle"
            await self._log_end(self.cell, status)

    async def handle(self, frame: Frame[GuestMessage]) -> Reply | None:
        """Do what one sentence asks, if it may be done.

        Returns:
            The reply, or None where the sentence has none.

        Raises:
            ProtocolViolation: the sentence is out of turn or contradicts itself.
            Refusal: `output.flood` or one of `answer.`; other refusals are replies.
            HostFault: the log or the ledger does not work: nothing was done.
        """
        message, body = frame.message, frame.body
        if isinstance(message, Search | Query | Done | Final):
            await self._read_log.flush()  # these are logged, and in their order
        if isinstance(message, Ready) is self._ready:
            raise ProtocolViolation(f"a {type(message).__name__} when the box was {'' if self._ready else 'not '}ready")
        match message:
            case Ready():
                self._begin_talk(message)
            case Output():
                self._output(message, body)
            case Done():
                await self._done(message, body)
            case Final():
                await self._final(message, body)
            case Budget():
                self._emit(len(body))
                return await self._request(message, body)
            case Read() | Search() | Query() | Recurse():
                return await self._request(message, body)
            case _:
                assert_never(message)
        return None

    # ------------------------------------------------------------------------------------- sentences without a reply

    def _begin_talk(self, ready: Ready) -> None:
        if ready.protocol != PROTOCOL:
            raise ProtocolViolation(f"the agent speaks protocol {ready.protocol}, this is {PROTOCOL}")
        self._ready = True

    def _output(self, output: Output, body: bytes) -> None:
        if output.cell > self.cells:
            raise ProtocolViolation(f"output of cell {output.cell}, which has not begun")
        # A left-behind thread may have printed when the next order was on its way; its own cell is over then.
        if self.cell is not None and output.cell == self.cell.number:
            self.cell.write(output, body)
        self._emit(len(body))

    def _emit(self, size: int) -> None:
        """Charge a frame with a body of `size`.

        Raises:
            Refusal: `output.flood`: the run has sent more than the policy lets it.
        """
        self._emitted_bytes += max(size, _FRAME_COST_BYTES_MIN)
        limit = self._policy.limits.output_flood_bytes
        if self._emitted_bytes > limit:
            raise Refusal(
                "the program sent more than the policy lets a run emit: print less, or keep it in variables",
                code="output.flood",
                limit=limit,
                observed=self._emitted_bytes,
            )

    async def _done(self, done: Done, body: bytes) -> None:
        cell = self._of_running(done)
        self._state = "idle"
        kept = body[: min(self._policy.limits.output_bytes, _TRACEBACK_BYTES_MAX)]
        cell.end(done, kept.decode("utf-8", "replace"), now=self._scope.monotonic())
        await self._log_end(cell, cell.cut or done.status)
        self._emit(len(body))

    async def _log_end(self, cell: Cell, status: str) -> None:
        about: dict[str, JSON] = {"cell": cell.number, "status": status, "output_bytes": cell.output_bytes}
        await self._audit.note("cell.finished", self._scope.run, about)

    def _of_running(self, message: Done | Final) -> Cell:
        """The cell that runs, which the message must be of."""
        name = type(message).__name__
        if self._state != "running" or self.cell is None:
            raise ProtocolViolation(f"a {name} while the box was {self._state}")
        if message.cell != self.cell.number:
            raise ProtocolViolation(f"a {name} of cell {message.cell} while cell {self.cell.number} ran")
        return self.cell

    async def _final(self, final: Final, body: bytes) -> None:
        cell = self._of_running(final)
        came, limit = self._scope.monotonic(), self._policy.limits.answer_bytes
        if len(body) > limit:
            raise Refusal(
                f"the answer has {len(body)} bytes, the policy allows {limit}: give a shorter answer",
                code="answer.too_long",
                limit=limit,
                observed=len(body),
            )
        self.checking = came < cell.deadline
        try:
            await off_loop(len(body), check_answer, final, body, values_max=self._policy.limits.answer_values)
            about: dict[str, JSON] = {
                "cell": self.cells,
                "answer_sha256": await off_loop(len(body), sha256, body),
                "answer_bytes": len(body),
            }
            if not self.checking:
                self._emit(len(body))
            await self._audit.note("answer.given" if self.checking else "answer.void", self._scope.run, about)
            if self.checking:
                self._state, self.final, self.final_body = "final", final, body
        finally:
            self.checking = False

    # ---------------------------------------------------------------------------------------------------- requests

    async def _request(self, message: Read | Search | Query | Recurse | Budget, body: bytes) -> Reply:
        self._in_flight += 1
        try:
            if self._in_flight > self._policy.wire.in_flight_max:
                raise ProtocolViolation(f"more than {self._policy.wire.in_flight_max} requests in flight")
            self._permit_now(message)
            return await self._serve(message, body)
        except ModelFailed as failure:
            return Refused(message.id, _failure(failure)), b""
        except Refusal as refusal:
            return await self.refuse(message, refusal)
        finally:
            self._in_flight -= 1

    def _permit_now(self, message: Read | Search | Query | Recurse | Budget) -> None:
        if self._state != "running" or self.cell is None:
            raise PolicyDenied("no cell is running: ask from inside a cell", code="cell.over")
        if self.cell.cut is not None and isinstance(message, Query | Recurse):
            raise PolicyDenied("the cell is being stopped: it can ask no model any more", code="cell.over")

    async def refuse(self, message: Read | Search | Query | Recurse | Budget, refusal: Refusal) -> Reply:
        """The reply to a request that is not served; it stands in the log and is charged as a frame.

        Raises:
            Refusal: `output.flood`.
        """
        asked, denials = type(message).__name__.lower(), self._calls.denials
        if denials.add(asked, refusal):
            await self._read_log.flush()
            await denials.note(asked, refusal, self.cells)
        self._emit(0)
        return Refused(message.id, _failure(refusal)), b""

    async def _serve(self, message: Read | Search | Query | Recurse | Budget, body: bytes) -> Reply:
        match message:
            case Read():
                return await self._read(message)
            case Query():
                return await self._query(message, body)
            case Budget():
                return await self._budget(message)
            case Search():
                async with self._searching:
                    return await self._search(message, body)
            case Recurse():
                raise PolicyDenied(
                    "child runs are not available in this version: use llm_query or llm_query_batched",
                    code="recursion.unavailable",
                )
            case _:
                assert_never(message)

    async def _read(self, read: Read) -> Reply:
        document = self._document(read.doc)
        if not read.start <= read.stop <= document.document.chars:
            raise PolicyDenied(
                f"characters {read.start} to {read.stop} are not in the document; it has {document.document.chars}",
                code="read.out_of_range",
                limit=document.document.chars,
                observed=read.stop,
            )
        # Characters first, so that an absurd range is refused before its bytes are looked up.
        self._permit_read(read.stop - read.start)
        data = document.read(read.start, read.stop)
        self._permit_read(len(data))
        await self._charge(len(data))
        await self._read_log.add(self.cells, read.line, read.doc, read.start, read.stop)
        self._shown.read(read.doc, read.start, read.stop)
        return Data(read.id), data

    def _document(self, doc: int) -> OpenDocument:
        if doc >= len(self._documents):
            raise PolicyDenied(f"there is no document {doc}", code="read.no_document")
        return self._documents[doc]

    def _cause(self, message: Search) -> dict[str, JSON]:
        return {"cell": self.cells, "line": message.line}

    async def _charge(self, size: int, least: int = _READ_COST_BYTES_MIN) -> None:
        cost = max(size, least)
        await self._account.charge(cost)
        self.reads += 1
        self.read_bytes += size
        self._read_cost_bytes += cost

    async def settled(self) -> None:
        """Return when what was read is charged, exactly, and what was read, shown and refused stands in the log.

        Raises:
            LedgerUnavailable, AuditUnavailable: it could not be written.
        """
        try:
            await self._read_log.flush()
            await self._shown.settled()
            await self._calls.denials.settled(self.cells)
        finally:
            await self._account.settled()

    @property
    def coverage(self) -> Coverage:
        """What was read and shown so far; exact after `settled`."""
        return self._shown.coverage

    async def _search(self, search: Search, body: bytes) -> Reply:
        question = self._question(search, body)
        before = self._searched_bytes
        deadline_s = self._permit_search(question, search.doc)
        found = await self._searcher.ask(question, deadline_s=deadline_s)
        if search.mode != "lines" and found.next is not None:  # what lies behind was not gone through
            size = self._bytes_between(search.doc, question.start, found.next)
            self._searched_bytes = before + max(size, _READ_COST_BYTES_MIN)
        self._permit_read(len(found.body))
        await self._charge(len(found.body), _SEARCH_COST_BYTES_MIN)
        about: dict[str, JSON] = {
            **self._cause(search),
            "doc": search.doc,
            "mode": search.mode,
            "start": search.start,
            "stop": search.stop,
            "pattern_sha256": hashlib.sha256(body).hexdigest(),
            "count": found.count,
        }
        # Whoever reads the log sees which characters came out, a record for every so many matches.
        spans = found.spans(search.mode)
        for at in range(0, max(1, len(spans)), SPANS_LOGGED_MAX):
            part = spans[at : at + SPANS_LOGGED_MAX]
            await self._audit.note("context.searched", self._scope.run, {**about, "spans": part})
            about = {"cell": self.cells, "doc": search.doc}
            for start, stop in part:
                self._shown.read(search.doc, start, stop)
            await asyncio.sleep(0)  # others have their turn between two of them
        return Found(search.id, found.count, found.next, found.groups, found.names), found.body

    def _question(self, search: Search, body: bytes) -> Question:
        document = self._document(search.doc)
        of_items = search.mode in OF_ITEMS and document.document.kind == "text"
        if search.doc not in self._texts or of_items:
            raise PolicyDenied(
                "a directory of items is not searched, nor a text item by item: search their text, or read it",
                code="search.no_text",
            )
        if len(body) > _PATTERN_BYTES_MAX:
            raise PolicyDenied(
                f"a pattern of {len(body)} bytes is over the limit of {_PATTERN_BYTES_MAX}: look for less at once",
                code="search.pattern",
                limit=_PATTERN_BYTES_MAX,
                observed=len(body),
            )
        try:
            pattern = body.decode("utf-8")
        except UnicodeDecodeError:
            raise ProtocolViolation("a pattern that is not UTF-8") from None
        longest = min(self._policy.context.read_bytes_max, self._policy.wire.body_bytes_max)
        return Question(
            folder=document.folder,
            mode=search.mode,
            pattern=pattern,
            start=search.start,
            stop=min(search.stop, document.document.lines if search.mode == "lines" else document.document.chars),
            limit=min(search.limit, self._policy.context.search_hits_max),
            bytes_max=longest,
        )

    def _bytes_between(self, doc: int, start: int, stop: int) -> int:
        """Of a range of characters."""
        document = self._documents[doc]
        chars = document.document.chars
        return max(0, document.byte_of(min(stop, chars)) - document.byte_of(min(start, chars)))

    def _permit_search(self, question: Question, doc: int) -> float:
        """How long it may take, in seconds. What it goes through is charged whether anything is found or not.

        Lines are found by the document's marks; of them only what comes out is charged, as a read.
        """
        allowance = self._policy.context
        size = 0 if question.mode == "lines" else self._bytes_between(doc, question.start, question.stop)
        total = self._searched_bytes + max(size, _READ_COST_BYTES_MIN)
        if total > allowance.search_total_bytes_max:
            raise QuotaExceeded(
                f"the run may search {allowance.search_total_bytes_max} bytes in all and has searched "
                f"{self._searched_bytes}: search a smaller range, or keep what was found in variables",
                code="search.total",
                limit=allowance.search_total_bytes_max,
                observed=total,
            )
        self._searched_bytes = total
        return min(allowance.search_wall_s, self._scope.left_s())

    def _permit_read(self, size: int) -> None:
        allowance = self._policy.context
        longest = min(allowance.read_bytes_max, self._policy.wire.body_bytes_max)
        if size > longest:
            raise PolicyDenied(
                f"a read of {size} is over the policy's {longest} bytes: read in smaller slices",
                code="read.too_long",
                limit=longest,
                observed=size,
            )
        total = self._read_cost_bytes + size
        if total > allowance.read_total_bytes_max:
            raise QuotaExceeded(
                f"the run may read {allowance.read_total_bytes_max} bytes in all and has read {self.read_bytes}: "
                "keep what you read in variables",
                code="read.total",
                limit=allowance.read_total_bytes_max,
                observed=total,
            )

    async def _budget(self, budget: Budget) -> Reply:
        left = await self._calls.left()
        return (
            Left(
                id=budget.id,
                calls=left.calls,
                input_tokens=left.input_tokens,
                output_tokens=left.output_tokens,
                cost_nanousd=left.cost_nanousd,
                read_bytes=self._left_to_read(left),
                wall_ms=max(0, int(self._scope.left_s() * 1000)),
            ),
            b"",
        )

    def _left_to_read(self, left: Remaining) -> int:
        """What the policy leaves this run, or the books its tenant, whichever is less."""
        of_run = max(0, self._policy.context.read_total_bytes_max - self._read_cost_bytes)
        return of_run if left.read_bytes is None else min(of_run, left.read_bytes + self._account.held)

    # ------------------------------------------------------------------------------------------------------ queries

    async def _query(self, query: Query, body: bytes) -> Reply:
        self._permit_batch(len(query.lengths))
        prompts = await off_loop(len(body) + _PROMPT_COST_BYTES * len(query.lengths), _split, query.lengths, body)
        model = self._permit_query(query)
        await off_loop(len(body), _permit_prompts, prompts, self._policy.models.prompt_bytes_max)
        if len(prompts) > 1:
            await self._permit_calls(len(prompts))
        self.queries += len(prompts)
        return self._answers(query.id, await self._ask_all(model, prompts))

    async def _ask_all(self, model: Model, prompts: Sequence[memoryview]) -> list[_Outcome]:
        """Each prompt's outcome in its place. As many are under way as the policy lets run side by side.

        What does not fit the reply is let go at once, so that a batch never holds more than one reply. Shortly before
        the cell's time is up, what is not answered is given up, for the sake of what is.
        """
        cell, left = self.cells, iter(enumerate(prompts))
        results: list[_Outcome | None] = [None] * len(prompts)

        room = longest = self._policy.wire.body_bytes_max

        async def work() -> None:
            nonlocal room
            for place, prompt in left:
                result = await self._ask(model, prompt, cell)
                size = len(result.data) if isinstance(result, _Text) else 0
                if size > room:
                    why = "the answers do not fit one reply"
                    result, size = Failure("ModelError", "answer.too_long", why, longest, size), 0
                room -= size
                results[place] = result

        def give_up() -> None:
            if any(isinstance(result, _Text) for result in results):
                for worker in workers:
                    worker.cancel()

        if len(prompts) == 1:
            await work()
        else:
            alarm = asyncio.get_running_loop().call_later(self._batch_s(), give_up)
            try:
                async with asyncio.TaskGroup() as group:
                    workers = [
                        group.create_task(work()) for _ in range(min(len(prompts), self._policy.models.parallel_max))
                    ]
            except BaseExceptionGroup as faults:
                raise _first(faults) from None
            finally:
                alarm.cancel()
        return [_late() if result is None else result for result in results]

    def _batch_s(self) -> float:
        """How long a batch may take, so that the cell is left some time."""
        assert self.cell is not None
        whole_s = self.cell.deadline - self.cell.began
        return self.cell.deadline - self._scope.monotonic() - min(_CELL_SPARE_S, whole_s * _CELL_SPARE_SHARE)

    def _permit_batch(self, prompts: int) -> None:
        """Before it is taken apart: what is refused is to cost us little."""
        if prompts > self.batch_max:
            raise PolicyDenied(
                f"a batch of {prompts} prompts is over the policy's {self.batch_max}: split it",
                code="query.batch",
                limit=self.batch_max,
                observed=prompts,
            )

    def _permit_query(self, query: Query) -> Model:
        if self._sub_model is None:
            raise PolicyDenied(
                "this run has no model to ask: start it with --model, or do without llm_query", code="model.none"
            )
        # The guest's `model` is a wish: the run's own sub-model, or nothing.
        if query.model is not None and query.model != self._sub_model.name:
            raise PolicyDenied(
                f"the model of this run's queries is {self._sub_model.name}: leave `model` out", code="model.denied"
            )
        return self._sub_model

    async def _permit_calls(self, calls: int) -> None:
        """A batch that cannot be finished is refused before its first call, not after its last affordable one."""
        left = (await self._calls.left()).calls
        if left is not None and calls > left:
            known = (await self._ledger.remaining(self._scope.run, now=self._scope.now(), for_program=True)).calls
            raise QuotaExceeded(
                f"{calls} calls are asked for and {left} are left: ask fewer or larger questions",
                code="quota.calls",
                limit=left,
                observed=calls,
                told=None if left == known else USED_UP,
            )

    async def _ask(self, model: Model, prompt: memoryview, cell: int) -> _Outcome:
        request = ModelRequest(
            system=_SUB_SYSTEM,
            messages=(),
            output_tokens_max=self._policy.models.output_tokens_max,
            deadline_s=self._policy.models.call_wall_s,
            purpose="sub",
        )
        try:
            reply = await self._calls.ask(model, request, cell=cell, prompt=prompt)
        except Refusal as refusal:
            self._emit(_REFUSED_CALL_COST_BYTES)
            return _failure(refusal)
        except ModelFailed as failure:
            return _failure(failure)
        # What was answered has been shown; of anything else nobody knows.
        await self._shown.prompt(cell, prompt)
        return await off_loop(len(reply.text), _outcome_of, reply)

    def _answers(self, request: int, results: list[_Outcome]) -> Reply:
        parts = [result.data if isinstance(result, _Text) else b"" for result in results]
        failures = [result for result in results if isinstance(result, Failure)]
        room = self._policy.wire.header_bytes_max - _ITEMS_BYTES - _ITEM_BYTES * len(results)
        listed, place_of = _listing(failures, room)
        items = [
            Answer(len(result.data), cut=result.cut) if isinstance(result, _Text) else Answer(0, place_of[result])
            for result in results
        ]
        return Answers(request, items, listed), b"".join(parts)


def _split(lengths: list[int], body: bytes) -> list[memoryview]:
    """Cut the body at `lengths`, without a copy. A sum that is off, or a cut inside a character, is a violation."""
    if sum(lengths) != len(body):
        raise ProtocolViolation("lengths that do not add up to the body")
    view = memoryview(body)
    prompts = [view[start:stop] for start, stop in pairwise(accumulate(lengths, initial=0))]
    if not all(map(is_utf8, prompts)):
        raise ProtocolViolation("a prompt that is not UTF-8")
    return prompts


def _permit_prompts(prompts: Sequence[memoryview], bytes_max: int) -> None:
    """All of a batch before any of it is sent: what a provider would refuse must not cost the answers of the others."""
    for place, prompt in enumerate(prompts):
        which = f"prompts[{place}]" if len(prompts) > 1 else "the prompt"
        if len(prompt) > bytes_max:
            raise PolicyDenied(
                f"{which} of {len(prompt)} bytes is over the policy's {bytes_max}: send a shorter slice",
                code="query.prompt",
                limit=bytes_max,
                observed=len(prompt),
            )
        if _is_blank(prompt):
            raise PolicyDenied(
                f"{which} has nothing but white space, so nothing was sent: leave it out", code="query.blank"
            )


def _is_blank(prompt: memoryview) -> bool:
    head = str(prompt[:_HEAD_BYTES], "utf-8", "ignore")  # the character that the cut goes through is left out
    return not head.strip() and not text_of(prompt).strip()


def _outcome_of(reply: ModelReply) -> _Outcome:
    """What the program gets. A refusal and an empty reply are no answers, though they were paid for."""
    if reply.stop_reason == "refusal":
        why = "the model refused to answer this prompt: ask in another way, or leave it out"
        return Failure("ModelError", "model.refused", why, None, None)
    if not reply.text.strip():
        words = reply.stop_reason[:_BRIEF_CHARS].encode("utf-8", "replace").decode()
        why = f"the model gave an empty answer (it stopped with {words!a}): ask again or in another way"
        return Failure("ModelError", "model.blank", why, None, None)
    return _Text(bytes_of(reply.text), reply.stop_reason in _CUT)


def _late() -> Failure:
    why = "the cell's time was nearly up before this prompt was answered: ask fewer at once"
    return Failure("PolicyDenied", "cell.time", why, None, None)


def _listing(failures: Sequence[Failure], room: int) -> tuple[list[Failure], dict[Failure, int]]:
    """As many failures as fit, and for each its place, or that of one alike.

    There is no end to what providers say, but to our codes there is. So the first of each code comes first, briefly if
    it must be; and what does not fit shares the words of that one.
    """
    firsts: dict[tuple[str, str], Failure] = {}
    for failure in failures:
        firsts.setdefault((failure.kind, failure.code), failure)
    listed: list[Failure] = []
    places: dict[Failure, int] = {}
    for failure in dict.fromkeys((*firsts.values(), *failures)):
        first = firsts[failure.kind, failure.code]
        words, size = failure, _size(failure)
        if failure is first and size > room // 2:
            words = msgspec.structs.replace(failure, message=failure.message[:_BRIEF_CHARS])
            size = _size(words)
        elif size > room:
            places[failure] = places[first]
            continue
        places[failure] = len(listed)
        listed.append(words)
        room -= size
    return listed, places


def _size(failure: Failure) -> int:
    return len(msgspec.json.encode(failure)) + 1


def _failure(error: Refusal | ModelFailed) -> Failure:
    if isinstance(error, ModelFailed):
        return Failure("ModelError", "model.failed", _words_of(error), None, None)
    if isinstance(error, QuotaExceeded) and error.told is not None:
        return Failure("QuotaExceeded", error.code, error.told, None, None)
    return Failure(
        "QuotaExceeded" if isinstance(error, QuotaExceeded) else "PolicyDenied",
        error.code,
        _words_of(error),
        error.limit,
        error.observed,
    )


def _words_of(error: BaseException) -> str:
    """What a provider or a name says may also be no text, which no sentence of the wire can hold."""
    return str(error)[:_FAILURE_CHARS_MAX].encode("utf-8", "replace").decode()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error in a task group's bundle: what failed first, and ended the others."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
