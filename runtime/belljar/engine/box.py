"""One box and its cells: moves bytes between the sandbox and the broker, and decides how a cell and a box end.

One task (the *pump*) reads the wire, feeds the decoder, and hands each message to the broker in order. Requests that
may take long (queries) run in tasks of their own, so that their answers can overtake each other. `execute` gives the
order and waits for the first of: Done, Final, the box's end, a violation, a fault of ours, the deadline.

    pump:     receive -> decode -> broker.handle -> send          ends the box by setting a verdict
    execute:  Execute ->  ... Done            status from the cell
                          ... its time is up  interrupt, grace, then a verdict `timeout` or `cpu` and the box is dead
                          ... verdict         the box is dead
                          ... cancelled       by `abandon`: interrupt, grace, then a verdict `killed`

A caller that gives up waiting for a cell (a cancellation, which may come at any `await`) leaves it running. It must
then call either `close` or `abandon`, which stops the cell as the deadline would, so that the next one finds a box that
does nothing else. Until then there is no next one.

The states of a box, its cell and the host's turn, and what moves them, are in one table (`belljar.states`), which the
broker asks as well; whatever waits here waits for one of its states.

A *verdict* is final for the box: it is set once, from evidence outside the box, and whatever comes over the wire later
is not read. The first cause wins: a cell whose time is up has timed out, whatever it does afterwards, even if it dies
of it; and what the box does after a cell's Done is not the cell's, whether or not it was seen before the result was
made. The clock says what came first, not the order in which the host happens to see things: after a pause of the host
several ends are waiting at once, so the broker stamps the end of a cell and refuses an answer by the cell's own
deadline.

The pump gives way to the event loop every few milliseconds, so that a flood cannot delay deadlines. What comes in
crumbs is charged, since each wakes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Final as Const

import msgspec

from belljar.broker import Broker, Cell, Meter, Reply, RunScope
from belljar.context import OpenDocument
from belljar.engine.result import CellResult, ErrorInfo, Limit, Status, cell_result, given
from belljar.errors import (
    BelljarError,
    BoxFault,
    GuestDied,
    HostFault,
    ModelFailed,
    PolicyDenied,
    ProtocolViolation,
    QuotaExceeded,
    Refusal,
)
from belljar.heavy import off_loop
from belljar.identity import Language
from belljar.protocol import (
    PROTOCOL,
    Answers,
    ContextInfo,
    DocumentInfo,
    Failure,
    GuestMessage,
    HostMessage,
    Query,
    Recurse,
    Refused,
    Search,
    Start,
    ToolInfo,
)
from belljar.sandbox import BoxEnd, Evidence, Sandbox
from belljar.states import DYING, FINISHED, OPEN, BoxState, CellState, Event, TurnState
from belljar.tasks import to_the_end
from belljar.wire import Frame, encode, guest_decoder

__all__ = ["Box", "Verdict", "verdict_of"]

# How long the pump may go on without letting others run.
_SLICE_S: Const = 0.005
# How long a request that finds no room among the open ones waits before it is refused.
_ROOM_S: Const = 0.5
# A reply that the guest does not take for this long ends the box.
_SEND_S: Const = 10.0
# Up to this size the parts of a frame are sent as one: each piece by itself wakes up the box, and a daemon forwards it
# by itself, too. A query whose answer comes in two takes 0.1 ms longer, where the goal is 0.3.
_JOINED_BYTES_MAX: Const = 64 * 1024
# How often the CPU time of a box is checked that may soon have used up what it has; where each of this machine's
# processors would need longer for that, only then. A look reads five files, and most boxes wait for a model.
_WATCH_S: Const = 0.1
_PROCESSORS: Const = os.cpu_count() or 1
# And between cells, when most boxes do nothing.
_WATCH_IDLE_S: Const = 0.5
# A wire that ends by itself ends because its process does; the supervisor learns of it a moment later.
_DEATH_S: Const = 1.0
# If further cells can follow, one of them may use this share of the CPU time that is left, so that an endless loop
# costs the cell and not the run ...
_CELL_CPU_SHARE: Const = 1 / 2
# ... but always at least this share of the whole, so that the last of it is of use too.
_CELL_CPU_SHARE_MIN: Const = 1 / 8
# Doubling asks for as much again as there is: a MemoryError from half of the limit on is put down to the limit.
_MEMORY_SHARE: Const = 0.5
# With what a box of the jail ends whose agent failed. With this much resident it had nothing left to say why: address
# space ends before memory does.
_AGENT_FAILED: Const = 127
_FULL_SHARE: Const = 0.75
# The process's own clock and the box's figures have been seen 2 % apart.
_CPU_SHARE: Const = 0.9
# Of the message of an error that ends a run.
_MESSAGE_CHARS_MAX: Const = 4000
_STATUS_OF: Const[dict[str, Status]] = {
    "limits.processes": "processes",
    "limits.scratch": "disk",
    "limits.memory": "memory",
}
_CELL_OVER: Const = Failure("PolicyDenied", "cell.over", "the cell is over: the request was cancelled", None, None)


class Verdict(msgspec.Struct, frozen=True):
    """Why a box ended."""

    status: Status
    error: ErrorInfo | None = None
    limit: Limit | None = None


_LATE: Const = Verdict("timeout")
_CANCELLED: Const = Verdict("killed", ErrorInfo("Cancelled", "the cell was cancelled from outside"))
_CLOSED: Const = Verdict("killed", ErrorInfo("Closed", "the session was closed before the cell was over"))


class _Share(msgspec.Struct, frozen=True):
    """What one cell may use of the box's CPU time, in seconds; `began_s` was used before it."""

    began_s: float
    share_s: float

    @property
    def until_s(self) -> float:
        return self.began_s + self.share_s


class Box:
    """A started sandbox with its broker. Use `open`, then `execute` any number of times, then `close`."""

    def __init__(self, sandbox: Sandbox, broker: Broker, scope: RunScope, *, meter: Meter | None = None) -> None:
        self._sandbox = sandbox
        self._broker = broker
        self._scope = scope
        # None: nobody is charged for what it uses.
        self._meter = meter
        # Why the run has to end, once its tenant has no more of what a box uses.
        self._out: Verdict | None = None
        self._states = broker.states
        # Some state has changed.
        self._moved = asyncio.Event()
        self._states.told = self._moved.set
        wire = scope.policy.wire
        self._decoder = guest_decoder(header_bytes_max=wire.header_bytes_max, body_bytes_max=wire.body_bytes_max)
        self._sending = asyncio.Lock()
        self._slow: set[asyncio.Task[None]] = set()
        # Those of them whose reply may be on the wire, in part.
        self._replying: set[asyncio.Task[None] | None] = set()
        self._found_bytes_max = min(scope.policy.context.read_bytes_max, wire.body_bytes_max)
        # How much of our memory the requests under way hold, and whether that has just become less.
        self._held_bytes = 0
        self._freed = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None
        self._guard: asyncio.Task[None] | None = None
        # Whether the running cell is the box's last.
        self._last = False
        # Why the running cell was cut short: whatever ends the box from then on, this is the cause.
        self._cut: Verdict | None = None
        # The last refusal in the running cell: ours, whatever the program says it died of.
        self._refused: Failure | None = None
        # The last evidence, and the last before the running cell.
        self._evidence = self._before = Evidence()
        self.verdict: Verdict | None = None
        self.fault: HostFault | None = None

    @property
    def broker(self) -> Broker:
        return self._broker

    @property
    def layers(self) -> tuple[str, ...]:
        return self._sandbox.layers

    @property
    def finished(self) -> bool:
        """Whether no further cell can run: the answer is given, or the box is dead."""
        return self._states.box in FINISHED

    @property
    def _deaf(self) -> bool:
        """Whether nothing that the box says counts any more."""
        return self._states.box not in OPEN

    @property
    def _dying(self) -> bool:
        """Whether the sandbox is releasing what it holds: it is neither asked nor told anything but `kill`."""
        return self._states.box in DYING

    @property
    def _over(self) -> bool:
        """Whether the last cell that was ordered is over, or its box is."""
        return self._states.turn is not TurnState.TAKEN

    async def _until(self, so: Callable[[], bool]) -> None:
        """Wait for a state."""
        while not so():
            self._moved.clear()
            await self._moved.wait()

    async def open(
        self,
        language: Language,
        documents: Sequence[OpenDocument],
        contexts: Sequence[ContextInfo],
        *,
        more: bool = True,
        stays: bool = False,
        tools: Sequence[ToolInfo] = (),
        seed: str = "",
    ) -> None:
        """Configure the agent. The first cell need not wait for it to be ready, and shows whether it is.

        Args:
            more: other cells may follow the first.
            stays: an answer may turn out not to count, and then they may follow it, too.
            tools: the host's functions that the program may call.
            seed: what the program's `random` and `os.urandom` follow.
        """
        policy, spans = self._scope.policy, self._broker.spans
        start = Start(
            protocol=PROTOCOL,
            language=language,
            documents=[
                DocumentInfo(opened.document.name[:64], opened.document.chars, opened.document.bytes, spans.get(doc))
                for doc, opened in enumerate(documents)
            ],
            contexts=list(contexts),
            read_bytes_max=self._found_bytes_max,
            materialise_bytes_max=policy.context.materialise_bytes_max,
            in_flight_max=policy.wire.in_flight_max,
            batch_max=self._broker.batch_max,
            prompt_bytes_max=policy.models.prompt_bytes_max,
            body_bytes_max=policy.wire.body_bytes_max,
            header_bytes_max=policy.wire.header_bytes_max,
            in_flight_bytes_max=policy.wire.in_flight_bytes_max,
            more=more,
            stays=stays,
            tools=list(tools),
            seed=seed,
            clock=bool(self._scope.clocks) or self._scope.keeper.keeps("output"),
        )
        self._pump = self._scope.tasks.start(self._failed, self._run_pump)
        self._guard = self._scope.tasks.start(self._failed, self._watch_always)
        with contextlib.suppress(OSError):  # the pump sees the end and says why
            await self._send((start, b""))

    async def execute(
        self, code: str, *, spare_cpu: bool = False, wall_s: float | None = None, last: bool = False
    ) -> CellResult:
        """Run one cell to its end, whatever that is. If this raises or is cancelled, call `abandon` or `close`.

        Args:
            spare_cpu: other cells will follow, so interrupt this one before it uses up their CPU time.
            wall_s: how long the cell may take, if that is less than the policy allows.
            last: no other cell will follow, so what the box says or does after this one does not count.

        Raises:
            PolicyDenied: the code is too long, the box has ended, or a cell is running.
        """
        self._permit_order()
        order = await self._broker.begin(code, wall_s=wall_s)
        self._states.on(Event.ORDER)
        cell = self._broker.cell
        assert cell is not None
        self._before, self._last, self._refused = self._evidence, last, None
        await self._give(order)
        await self._until_over(cell, await self._spare_cpu() if spare_cpu else None)
        result = await self._result(cell)
        self._turn_over()
        return result

    def _permit_order(self) -> None:
        if self.finished or self._states.turn is TurnState.SPENT:
            raise PolicyDenied("the session has ended: open a new one", code="session.ended")
        if self._states.turn is not TurnState.FREE:
            raise PolicyDenied("a cell is running: wait for its end", code="cell.running")

    def _turn_over(self) -> None:
        self._cut = None
        self._states.on(Event.RESULT)

    async def abandon(self) -> CellResult | None:
        """Stop the cell whose `execute` was cut off, as if its time were up; do nothing if there is none.

        On return it is over, and in the log; none of its requests is under way; the next cell can follow, unless the
        box is `finished`.

        Returns:
            What became of it.
        """
        cell = self._broker.cell
        if cell is None or self._states.turn not in (TurnState.TAKEN, TurnState.DUE):
            return None
        result = None
        try:
            if not self._over:
                self._cut = self._cut or _CANCELLED
                await self._stop(cell, self._cut)
                if not self._over:
                    self._end(self._cut)
            self._drop_requests()
            if self._slow:
                await asyncio.wait(self._slow)
            result = await self._result(cell)
        except BelljarError as error:  # with nobody to tell: it becomes how the box ended
            self._fail(error)
        self._turn_over()
        return result

    async def _give(self, order: Reply) -> None:
        try:
            await self._send(order)
        except OSError:
            pass  # the box is gone; the pump says why
        except ProtocolViolation as violation:
            self._fail(violation)
        except asyncio.CancelledError:
            self._end(_CANCELLED)  # a part of it may be on the wire, and nothing can follow that
            raise

    async def _result(self, cell: Cell) -> CellResult:
        status, error, limit = await self._outcome(cell)
        await self._broker.lost(status)
        wall_s = self._scope.monotonic() - cell.began
        await self._bury()
        final, body = (cell.answer, cell.answer_body) if status == "ok" else (None, b"")

        def result() -> CellResult:
            answer = given(final, body)
            return cell_result(cell, status=status, error=error, limit=limit, wall_s=wall_s, answer=answer)

        return await off_loop(len(body) + cell.output_bytes, result)

    async def close(self) -> BoxEnd:
        """Kill the box, stop the tasks, free everything. Calls under way are settled before it returns.

        An `execute` that still waits elsewhere gets its result, with the status `killed`.
        """
        self._end(_CLOSED)
        try:
            return await self._kill()
        finally:
            tasks = [*self._slow, *(task for task in (self._pump, self._guard) if task)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def end(self, verdict: Verdict) -> None:
        """End it from outside, now, whatever it is doing. An `execute` that waits gets its result.

        Its open requests are given up, too: a session may stay open for long after this, and its child runs must not.
        """
        self._end(verdict)
        self._drop_requests()
        await self._kill()

    async def _bury(self) -> None:
        """Kill a box that has nothing left to run: its session may stay open for long."""
        if self.finished:
            await self._kill()

    async def _kill(self) -> BoxEnd:
        self._states.on(Event.KILL)
        end = await self._sandbox.kill()
        if self._meter is not None:
            self._meter.gone(max(end.cpu_s, end.evidence.cpu_s or 0.0), end.evidence.memory_peak_bytes)
        return end

    # ------------------------------------------------------------------------------------------------- ends of a cell

    async def _until_over(self, cell: Cell, cpu: _Share | None) -> None:
        """Wait for the cell's end; if its time is up first, interrupt it, and after its grace period end the box."""
        of_run = cell.deadline == self._scope.deadline
        cut = await self._wait_over(cell.deadline, cpu)
        if cut is None and not cell.late:
            return
        late = cut is None or cut.status == "timeout"
        self._cut = cut = self._late(cell, of_run) if late or cut is None else cut
        await self._stop(cell, cut)
        if late:
            self._cut = cut = self._late(cell, of_run)  # with the grace period
        if not self._over or self._scope.left_s() <= 0 or cut is self._out:
            self._end(cut)

    async def _stop(self, cell: Cell, cut: Verdict) -> None:
        """Interrupt the cell, and give it its grace period to end. It can no longer ask a model, nor wait for one."""
        grace_s = self._scope.policy.limits.grace_s
        until = self._scope.monotonic() + grace_s
        self._broker.cut_short(cut.status)
        if self._over or self._dying:
            return
        with contextlib.suppress(TimeoutError):  # an agent that is still starting would die of it
            async with asyncio.timeout(grace_s):
                await self._until(lambda: self._states.box is not BoxState.STARTING)
        if not cell.interrupted:
            cell.interrupted = True
            self._sandbox.interrupt()
        self._drop_requests()
        await self._wait_over(until, None)

    def _late(self, cell: Cell, of_run: bool) -> Verdict:
        """The verdict that the cell, or with it the run, took too long, and how long so far."""
        if of_run:
            return verdict_of(self._scope.time_up())
        return _cell_late(cell.wall_s, self._scope.monotonic() - cell.began)

    async def _outcome(self, cell: Cell) -> tuple[Status, ErrorInfo | None, Limit | None]:
        if cell.answer is not None:
            return "ok", None, None
        if (cut := self._cut or (self.verdict if cell.done is None else None)) is not None:
            error = cut.error
            if error is not None and cut is self._cut:
                error = msgspec.structs.replace(error, traceback=cell.traceback)
            return cut.status, error, cut.limit
        assert cell.done is not None
        if cell.misfit:
            return "error", _mismatch(cell.misfit), None
        said = cell.done.error
        error = ErrorInfo(said.type, said.message, said.line, cell.traceback) if said else None
        if cell.done.status == "error":
            limit = await self._limit_behind(said.type if said else "")
            return (_STATUS_OF[limit.code], error, limit) if limit else ("error", error, self._refusal_behind(error))
        # An interrupt that we did not order came from the program itself.
        return ("error" if cell.done.status == "interrupted" else cell.done.status), error, None

    async def _limit_behind(self, said: str) -> Limit | None:
        """The limit that made the program raise, if the outside can prove one.

        What the program says it raised only chooses where to look; the kernel's counters decide.
        """
        if self._dying:
            return None
        limits, evidence = self._scope.policy.limits, await self._sandbox.evidence()
        before, self._before = self._before, evidence
        peak = max(evidence.memory_peak_bytes or 0, evidence.address_peak_bytes or 0)
        # If a child was killed for memory, the program may say what it likes.
        if (evidence.memory_kills or 0) > (before.memory_kills or 0):
            return Limit.of("limits.memory", limits.memory_bytes, peak)
        refused = (evidence.tasks_refused or 0) > (before.tasks_refused or 0)
        full = evidence.tasks_refused is None and (evidence.tasks or 0) >= limits.processes
        if said in ("RuntimeError", "BlockingIOError", "OSError") and (refused or full):
            return Limit.of("limits.processes", limits.processes, limits.processes + 1)
        if said == "OSError" and self._sandbox.scratch_full():
            return Limit.of("limits.scratch", limits.scratch_bytes, limits.scratch_bytes)
        if said == "MemoryError" and peak >= limits.memory_bytes * _MEMORY_SHARE:
            return Limit.of("limits.memory", limits.memory_bytes, peak)
        return None

    def _refusal_behind(self, error: ErrorInfo | None) -> Limit | None:
        """The refusal that the program died of: the one that it names, if that is the last we sent."""
        refused = self._refused
        if refused is None or error is None or error.type != refused.kind:
            return None
        return Limit.of(refused.code, refused.limit, refused.observed)

    def _end(self, verdict: Verdict) -> None:
        if self._states.box in OPEN:
            self.verdict = self._cut or verdict
        self._states.on(Event.END)

    async def _wait_over(self, until: float, cpu: _Share | None) -> Verdict | None:
        """None when the cell is over; why it has to end, if its time or its share of CPU time is up first."""
        pause_s = _WATCH_S
        while not self._over:
            if self._states.cell is CellState.CHECKING:  # the box has said its last word, and in time
                await self._until(lambda: self._over or self._states.cell is not CellState.CHECKING)
                continue
            if self._is_out:
                return self._out
            left = until - self._scope.monotonic()
            if left <= 0:
                return _LATE
            try:
                async with asyncio.timeout(min(left, pause_s)):
                    await self._until(lambda: self._over or self._is_out)
                continue
            except TimeoutError:
                used_s = await self._watch_cpu()
            if cpu is not None and used_s >= cpu.until_s:
                return _cell_spent_cpu(cpu, used_s)
            spare_s = (self._scope.policy.limits.cpu_s if cpu is None else cpu.until_s) - used_s
            pause_s = max(_WATCH_S, spare_s / _PROCESSORS)
        return None

    async def _watch_always(self) -> None:
        """Between cells as well: what a program left running is charged to it like anything else."""
        while not self.finished:
            await asyncio.sleep(_WATCH_IDLE_S)
            await self._watch_cpu()
            self._watch_deadline()
            await to_the_end(self._watch_quota())
        await self._kill()
        if self._meter is not None:
            await to_the_end(self._charged(self._meter.settled()))

    async def _watch_quota(self) -> None:
        """Have what the box uses charged; where the tenant has no more, a running cell is interrupted first."""
        if self._meter is None or self._dying:
            return
        if self._out is None:
            await self._charged(self._meter.look(self._evidence.cpu_s or 0.0, self._evidence.memory_peak_bytes))
        if self._out is not None and self._states.turn is TurnState.FREE:
            self._end(self._out)

    async def _charged(self, work: Awaitable[None]) -> None:
        try:
            await work
        except QuotaExceeded as refusal:
            self._out = verdict_of(refusal)
            self._moved.set()
        except HostFault as fault:
            self._fail(fault)

    def _watch_deadline(self) -> None:
        """The run's time passes between cells too; a running cell has its own, gentler end."""
        if self._scope.left_s() <= 0 and self._states.turn is TurnState.FREE:
            self._end(verdict_of(self._scope.time_up()))

    @property
    def _is_out(self) -> bool:
        """The tenant has no more, and the cell is not being stopped yet."""
        return self._out is not None and self._cut is None

    async def _watch_cpu(self) -> float:
        """The box's CPU time so far, where it ends the box if that is all it has."""
        if self._states.cell is CellState.CHECKING:
            return self._evidence.cpu_s or 0.0
        limit_s = self._scope.policy.limits.cpu_s
        if (used_s := await self._cpu_used_s()) >= limit_s:
            self._end(_spent_cpu(limit_s, used_s))
        return used_s

    async def _cpu_used_s(self) -> float:
        """The box's CPU time so far; 0 if nobody can tell any more."""
        if self._dying:
            return 0.0
        self._evidence = await self._sandbox.evidence()
        return self._evidence.cpu_s or 0.0

    async def _spare_cpu(self) -> _Share:
        """How much CPU time one cell of several may use."""
        used_s, limit_s = await self._cpu_used_s(), self._scope.policy.limits.cpu_s
        share_s = max((limit_s - used_s) * _CELL_CPU_SHARE, limit_s * _CELL_CPU_SHARE_MIN)
        return _Share(began_s=used_s, share_s=share_s)

    # ------------------------------------------------------------------------------------------------------- the pump

    async def _run_pump(self) -> None:
        try:
            await self._read_frames()
            if not self._deaf:
                self._end(await self._died())
        except OSError:  # it closed its reading side alone, or died with a reply on the way
            self._end(await self._died())
        except BelljarError as error:
            self._fail(error)

    async def _read_frames(self) -> None:
        loop = asyncio.get_running_loop()
        slice_end = loop.time() + _SLICE_S
        pieces = 0  # of the frame that has begun
        while data := await self._sandbox.receive():
            self._decoder.receive(data)
            pieces += 1
            while not self._deaf and (frame := self._decoder.next()) is not None:
                pieces = 0
                await self._take(frame)
                if loop.time() > slice_end:
                    await asyncio.sleep(0)
                    slice_end = loop.time() + _SLICE_S
            if self._deaf:
                return
            if pieces > 1:  # the agent sends a large frame in two
                self._broker.came(len(data))

    async def _take(self, frame: Frame[GuestMessage]) -> None:
        if isinstance(frame.message, Query | Recurse | Search):
            weight = self._weight(frame)
            if not await self._room(weight):
                await self._send(await self._broker.refuse(frame, frame.message, self._no_room(weight)))
                return
            task = self._scope.tasks.start(self._failed, self._answer_slowly, frame, frame.message.id)
            self._slow.add(task)
            task.add_done_callback(self._slow.discard)
            task.add_done_callback(functools.partial(self._refuse_unheard, frame.message.id))
            task.add_done_callback(lambda _: self._hold(-weight))
            return
        reply = await self._broker.handle(frame)
        if reply is not None:
            await self._send(reply)
        if self._states.cell in (CellState.IDLE, CellState.ANSWERED):
            self._drop_requests()
            if self._states.turn is TurnState.TAKEN:
                self._states.on(Event.LAST_OVER if self._last else Event.OVER)

    def _drop_requests(self) -> None:
        """Refuse the open requests of a cell that is over or must stop; a call under way is charged.

        What is sent already is sent to its end, or ends the box: half a frame would put the stream out of step for
        every cell that follows.
        """
        for task in self._slow - self._replying:
            task.cancel()

    def _refuse_unheard(self, request: int, task: asyncio.Task[None]) -> None:
        """Answer a request that was dropped before it began; the program's thread would wait for ever."""
        if task.cancelled() and not self._dying:
            refusing = self._scope.tasks.start(self._failed, self._answer_over, request)
            self._slow.add(refusing)
            refusing.add_done_callback(self._slow.discard)

    async def _answer_over(self, request: int) -> None:
        with contextlib.suppress(OSError, ProtocolViolation):  # the pump sees the box's end
            await to_the_end(self._send((Refused(request, _CELL_OVER), b"")))

    def _weight(self, frame: Frame[GuestMessage]) -> int:
        """How much of our memory an open request holds: its body, and what a search may find."""
        return len(frame.body) + (self._found_bytes_max if isinstance(frame.message, Search) else 0)

    async def _room(self, size: int) -> bool:
        """Take room for a request that holds `size` bytes; False if the open ones leave none. A single one always fits.

        The agent keeps within the room by itself, so there is little to wait for: its last reply still has to leave.
        Meanwhile nothing is read from the box.
        """
        room = self._scope.policy.wire.in_flight_bytes_max - size
        if 0 < self._held_bytes > room:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ROOM_S):
                    while 0 < self._held_bytes > room:
                        self._freed.clear()
                        await self._freed.wait()
        if 0 < self._held_bytes > room:
            return False
        self._held_bytes += size
        return True

    def _no_room(self, size: int) -> PolicyDenied:
        limit = self._scope.policy.wire.in_flight_bytes_max
        return PolicyDenied(
            f"the open requests may hold {limit} bytes: wait for their replies",
            code="wire.in_flight_bytes",
            limit=limit,
            observed=self._held_bytes + size,
        )

    def _hold(self, size: int) -> None:
        """`size` more bytes are held, or fewer."""
        self._held_bytes += size
        self._freed.set()

    async def _answer_slowly(self, frame: Frame[GuestMessage], request: int) -> None:
        answers = 0
        try:
            reply = await self._broker.handle(frame)
            if reply is not None:
                if isinstance(frame.message, Query | Recurse):
                    self._hold(answers := len(reply[1]))
                self._replying.add(asyncio.current_task())
                await self._send(reply)
        except asyncio.CancelledError:
            # Either the cell is over and its thread still waits for a reply, or the box is being closed.
            if not self.finished:
                await self._answer_over(request)
        except OSError:  # as in the pump, which may not notice: it only reads
            if not self.finished:
                self._end(await self._died())
        except BelljarError as error:
            self._fail(error)
        finally:
            self._replying.discard(asyncio.current_task())
            self._hold(-answers)

    def _failed(self, error: BaseException) -> None:
        """End the box now: a task failed in a way that nobody expected, by a defect of ours or of a model object.

        Otherwise the program would wait for its reply until the deadline, and be blamed for it.
        """
        fault = BoxFault(f"a request could not be answered because of an unexpected {type(error).__name__}: report it")
        fault.__cause__ = error
        self._fail(fault)

    async def _send(self, reply: Reply) -> None:
        wire = self._scope.policy.wire
        self._refused = _failure_in(reply[0]) or self._refused
        parts: tuple[bytes | memoryview, ...]
        parts = encode(*reply, header_bytes_max=wire.header_bytes_max, body_bytes_max=wire.body_bytes_max)
        if sum(map(len, parts)) <= _JOINED_BYTES_MAX:
            parts = (b"".join(parts),)
        async with self._sending:
            try:
                async with asyncio.timeout(_SEND_S):
                    await self._sandbox.send(*parts)
            except TimeoutError:
                raise ProtocolViolation(f"the box did not take a reply within {_SEND_S:.0f} s") from None

    def _fail(self, error: BelljarError) -> None:
        if isinstance(error, HostFault) and self.fault is None:
            self.fault = error
        self._end(verdict_of(error))

    async def _died(self) -> Verdict:
        """The wire ended by itself: judge by the supervisor's record."""
        await self._sandbox.wait(_DEATH_S)
        has_started = self._states.box is not BoxState.STARTING
        end = await self._kill()
        limits = self._scope.policy.limits
        if end.lost:
            why = "the box's supervisor died, or did not report how the box ended: run it again"
            return Verdict("host_fault", ErrorInfo("BoxFault", why))
        if not has_started and not end.by_other:
            return Verdict("host_fault", ErrorInfo("BoxFault", "the agent in the box did not start: reinstall belljar"))
        # One that is slow to die of it is killed by us as well; what happened before this cell is not the cause.
        kills = (end.evidence.memory_kills or 0) - ((self._before.memory_kills or 0) if end.killed else 0)
        is_full = end.code == _AGENT_FAILED and end.max_rss_bytes >= limits.memory_bytes * _FULL_SHARE
        if (end.signal == signal.SIGKILL and kills > 0) or is_full:
            peak = end.max_rss_bytes if is_full else end.evidence.memory_peak_bytes
            met = Limit.of("limits.memory", limits.memory_bytes, peak)
            return Verdict("memory", ErrorInfo("MemoryLimit", "the program used up its memory: keep less at once"), met)
        slain = end.signal in (signal.SIGKILL, signal.SIGXCPU)
        if not end.killed and end.cpu_s >= limits.cpu_s * (_CPU_SHARE if slain else 1):
            return _spent_cpu(limits.cpu_s, end.cpu_s)
        if end.by_other:
            return Verdict("killed", ErrorInfo("Killed", "somebody outside killed or removed the box: run it again"))
        how = f"ended by signal {end.signal}" if end.signal else f"ended with exit code {end.code}"
        if end.killed:
            how = "closed its wire"
        return Verdict("error", ErrorInfo(GuestDied.__name__, f"the program {how} before the cell was done"))


def _mismatch(faults: str) -> ErrorInfo:
    message = "the answer is not what was asked for, so it does not count"
    told = f"{message}:\n{faults}\nMend it, and give it again."
    return ErrorInfo("AnswerMismatch", f"{message}: {faults.partition(chr(10))[0]}", None, told)


def _failure_in(reply: HostMessage) -> Failure | None:
    """Why a request was refused, or the first one of a batch that was."""
    if isinstance(reply, Refused):
        return reply.failure
    if isinstance(reply, Answers):
        return next(iter(reply.failures), None)
    return None


def verdict_of(error: BelljarError) -> Verdict:
    """The status that an error of ours gives a run."""
    # A provider's message may have any length, and contain lone surrogates.
    message = str(error)[:_MESSAGE_CHARS_MAX].encode("utf-8", "replace").decode()
    about = ErrorInfo(type(error).__name__, message)
    if isinstance(error, ProtocolViolation):
        return Verdict("protocol", about)
    if isinstance(error, Refusal):
        limit = Limit.of(error.code, error.limit, error.observed)
        if error.code == "limits.output_flood" or error.code.startswith(("limits.answer", "answer.")):
            return Verdict("output", about, limit)
        if error.code == "limits.run_wall":
            return Verdict("timeout", msgspec.structs.replace(about, type="Timeout"), limit)
        return Verdict("quota" if isinstance(error, QuotaExceeded) else "denied", about, limit)
    return Verdict("model_failed" if isinstance(error, ModelFailed) else "host_fault", about)


def _spent_cpu(limit_s: float, used_s: float) -> Verdict:
    spent = Limit.of("limits.cpu", round(limit_s * 1000), round(used_s * 1000))
    return Verdict("cpu", ErrorInfo("CpuLimit", "the program used up its CPU time: do less work"), spent)


def _cell_spent_cpu(share: _Share, used_s: float) -> Verdict:
    used_s -= share.began_s
    spent = Limit.of("limits.cpu", round(share.share_s * 1000), round(used_s * 1000))
    message = f"the cell was stopped after {used_s:.1f} s of CPU time, to leave some for others: do less work per cell"
    return Verdict("cpu", ErrorInfo("CpuLimit", message), spent)


def _cell_late(bound_s: float, used_s: float) -> Verdict:
    late = Limit.of("limits.cell_wall", round(bound_s * 1000), round(used_s * 1000))
    message = f"the cell was stopped after {used_s:.1f} s: do less work per cell"
    return Verdict("timeout", ErrorInfo("Timeout", message), late)
