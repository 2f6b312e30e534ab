"""One box and its cells: moves bytes between the sandbox and the broker, and decides how a cell and a box end.

One task (the *pump*) reads the wire, feeds the decoder, and hands each sentence to the broker in order. What may take
long (queries) runs in tasks of its own, so that their answers can overtake each other. `execute` gives the order and
waits for the first of: Done, Final, the box's end, a violation, a fault of ours, the deadline.

    pump:     receive -> decode -> broker.handle -> send          ends the box by setting a verdict
    execute:  Execute ->  ... Done            status from the cell
                          ... deadline        interrupt, grace, then a verdict `timeout` and the box is dead
                          ... verdict         the box is dead

A *verdict* is final for the box: it is set once, from the outside's evidence, and whatever comes over the wire later
is not read. The pump gives way to the event loop every few milliseconds, so that a flood cannot hold back deadlines.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from typing import Final as Const
from typing import Literal

import msgspec

from belljar.broker import Broker, Reply, RunScope
from belljar.context import OpenDocument
from belljar.engine.result import CellResult, ErrorInfo, Limit, Status, cell_result, decode_answer
from belljar.errors import (
    BelljarError,
    BoxFault,
    GuestDied,
    HostFault,
    PolicyDenied,
    ProtocolViolation,
    QuotaExceeded,
    Refusal,
)
from belljar.protocol import PROTOCOL, ContextInfo, DocumentInfo, GuestMessage, Query, Recurse, Refused, Search, Start
from belljar.protocol import Failure as GuestFailure
from belljar.sandbox import BoxEnd, Evidence, Sandbox
from belljar.tasks import to_the_end
from belljar.wire import Frame, encode, guest_decoder

__all__ = ["Box", "Verdict", "verdict_of"]

# How long the pump may go on without letting others run.
_SLICE_S: Const = 0.005
# A reply that the guest does not take for so long ends the box.
_SEND_S: Const = 10.0
# How often the CPU time of a busy box is looked at.
_WATCH_S: Const = 0.1
# And between cells, where most boxes do nothing.
_WATCH_IDLE_S: Const = 0.5
# A wire that ends by itself ends because its process does; the supervisor learns of it a moment later.
_DEATH_S: Const = 1.0
# What grows by doubling asks for as much again as it has: a MemoryError from half of the limit on is the limit's.
_MEMORY_SHARE: Const = 0.5
# The process's own clock and the box's account have been seen 2 % apart.
_CPU_SHARE: Const = 0.9
_STATUS_OF: Const[dict[str, Status]] = {"processes": "processes", "scratch_bytes": "disk", "memory_bytes": "memory"}
_CELL_OVER: Const = GuestFailure("PolicyDenied", "cell.over", "the cell is over: the request was cancelled", None, None)


class Verdict(msgspec.Struct, frozen=True):
    """Why a box came to its end."""

    status: Status
    error: ErrorInfo | None = None
    limit: Limit | None = None


class Box:
    """A started sandbox with its broker. Use `open`, then `execute` any number of times, then `close`."""

    def __init__(self, sandbox: Sandbox, broker: Broker, scope: RunScope) -> None:
        self._sandbox = sandbox
        self._broker = broker
        self._scope = scope
        wire = scope.policy.wire
        self._decoder = guest_decoder(header_bytes_max=wire.header_bytes_max, body_bytes_max=wire.body_bytes_max)
        self._over = asyncio.Event()
        self._sending = asyncio.Lock()
        self._slow: set[asyncio.Task[None]] = set()
        self._pump: asyncio.Task[None] | None = None
        self._guard: asyncio.Task[None] | None = None
        # From here on the sandbox gives up what it holds: it is neither asked nor told anything but `kill`.
        self._dying = False
        # The last account, and the last before the cell that runs.
        self._account = self._before = Evidence()
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
        return self.verdict is not None or self._broker.final is not None

    async def open(
        self,
        language: Literal["python", "restricted"],
        documents: Sequence[OpenDocument],
        contexts: Sequence[ContextInfo],
    ) -> None:
        """Configure the agent. Whether it gets ready is seen with the first cell, which need not wait for it."""
        policy = self._scope.policy
        start = Start(
            protocol=PROTOCOL,
            language=language,
            documents=[
                DocumentInfo(opened.document.name[:64], opened.document.chars, opened.document.bytes)
                for opened in documents
            ],
            contexts=list(contexts),
            read_bytes_max=min(policy.context.read_bytes_max, policy.wire.body_bytes_max),
            materialise_bytes_max=policy.context.materialise_bytes_max,
            in_flight_max=policy.wire.in_flight_max,
            batch_max=self._broker.batch_max,
            body_bytes_max=policy.wire.body_bytes_max,
            header_bytes_max=policy.wire.header_bytes_max,
        )
        self._pump = asyncio.create_task(self._run_pump())
        self._pump.add_done_callback(self._look_at)
        self._guard = asyncio.create_task(self._watch_always())
        self._guard.add_done_callback(self._look_at)
        with contextlib.suppress(OSError):  # the pump sees the end and says why
            await self._send((start, b""))

    async def execute(self, code: str) -> CellResult:
        """Run one cell to its end, whatever that is.

        Raises:
            PolicyDenied: the code is too long, or the box has ended.
        """
        if self.finished:
            raise PolicyDenied("the session has ended: open a new one", code="session.ended")
        order = await self._broker.begin(code)
        cell = self._broker.cell
        assert cell is not None
        self._over.clear()
        self._before = self._account
        started = self._scope.monotonic()
        try:
            await self._send(order)
        except OSError:
            pass  # the box is gone; the pump says why
        except ProtocolViolation as violation:
            self._fail(violation)
        late = await self._until_over()
        status, error, limit = await self._outcome(late)
        # An answer that came after the deadline is void.
        answer = decode_answer(self._broker.final, self._broker.final_body) if status == "ok" else None
        wall_s = self._scope.monotonic() - started
        await self._bury()
        return cell_result(cell, status=status, error=error, limit=limit, wall_s=wall_s, answer=answer)

    async def close(self) -> BoxEnd:
        """Kill the box, stop the tasks, free everything. Calls under way are settled before it returns."""
        end = await self._kill()
        tasks = [*self._slow, *(task for task in (self._pump, self._guard) if task)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return end

    async def _bury(self) -> None:
        """Kill a box that has nothing left to run: whoever holds its session may keep it open for long."""
        if self.finished:
            await self._kill()

    async def _kill(self) -> BoxEnd:
        self._dying = True
        return await self._sandbox.kill()

    # ------------------------------------------------------------------------------------------------- ends of a cell

    async def _until_over(self) -> Limit | None:
        """Wait for the end of the cell; give the limit that cut it short, if one did."""
        limits = self._scope.policy.limits
        started = self._scope.monotonic()
        allowed = min(limits.cell_wall_s, self._scope.left_s())
        if await self._wait_over(allowed):
            return None
        code = "cell_wall_ms" if allowed == limits.cell_wall_s else "run_wall_ms"
        bound = limits.cell_wall_s if allowed == limits.cell_wall_s else limits.run_wall_s
        self._broker.void_answers()
        if not self._dying:
            self._sandbox.interrupt()
        stopped = await self._wait_over(limits.grace_s)
        used = limits.run_wall_s - self._scope.left_s() if code == "run_wall_ms" else self._scope.monotonic() - started
        late = Limit(code, round(bound * 1000), round(used * 1000))
        if not stopped or self._scope.left_s() <= 0:
            self._end(Verdict("timeout", _timeout(late), late))
        return late

    async def _outcome(self, late: Limit | None) -> tuple[Status, ErrorInfo | None, Limit | None]:
        if self._broker.final is not None and late is None:
            return "ok", None, None
        if self.verdict is not None:
            return self.verdict.status, self.verdict.error, self.verdict.limit
        cell = self._broker.cell
        assert cell is not None
        if late is not None:
            return "timeout", _timeout(late, cell.traceback), late
        assert cell.done is not None
        said = cell.done.error
        error = ErrorInfo(said.type, said.message, said.line, cell.traceback) if said else None
        if cell.done.status == "error":
            limit = await self._limit_behind(cell.done.error.type if cell.done.error else "")
            return (_STATUS_OF[limit.code] if limit else "error"), error, limit
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
        # Of a child that was killed for memory the program says what it likes.
        if (evidence.memory_kills or 0) > (before.memory_kills or 0):
            return Limit("memory_bytes", limits.memory_bytes, peak)
        refused = (evidence.tasks_refused or 0) > (before.tasks_refused or 0)
        full = evidence.tasks_refused is None and (evidence.tasks or 0) >= limits.processes
        if said in ("RuntimeError", "BlockingIOError", "OSError") and (refused or full):
            return Limit("processes", limits.processes, limits.processes + 1)
        if said == "OSError" and await self._sandbox.scratch_full():
            return Limit("scratch_bytes", limits.scratch_bytes, limits.scratch_bytes)
        if said == "MemoryError" and peak >= limits.memory_bytes * _MEMORY_SHARE:
            return Limit("memory_bytes", limits.memory_bytes, peak)
        return None

    def _end(self, verdict: Verdict) -> None:
        if self.verdict is None:
            self.verdict = verdict
        self._over.set()

    async def _wait_over(self, seconds: float) -> bool:
        """Whether the cell is over within `seconds`. Meanwhile the box's CPU time is watched."""
        until = self._scope.monotonic() + seconds
        while not self._over.is_set():
            left = until - self._scope.monotonic()
            if left <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, _WATCH_S)):
                    await self._over.wait()
                break
            await self._watch_cpu()
        return True

    async def _watch_always(self) -> None:
        """Between two cells as well: what a program left running there is charged to it like anything else."""
        while not self.finished:
            await asyncio.sleep(_WATCH_IDLE_S)
            await self._watch_cpu()
            self._watch_deadline()
        await self._kill()

    def _watch_deadline(self) -> None:
        """The run's time passes between cells too; a running cell has its own, gentler end."""
        cell = self._broker.cell
        if self._scope.left_s() <= 0 and (cell is None or cell.done is not None):
            bound = self._scope.policy.limits.run_wall_s
            late = Limit("run_wall_ms", round(bound * 1000), round((bound - self._scope.left_s()) * 1000))
            self._end(Verdict("timeout", _timeout(late), late))

    async def _watch_cpu(self) -> None:
        if self._dying:
            return
        evidence, limit_s = await self._sandbox.evidence(), self._scope.policy.limits.cpu_s
        self._account = evidence
        if evidence.cpu_s is not None and evidence.cpu_s >= limit_s:
            self._end(_spent_cpu(limit_s, evidence.cpu_s))

    # ------------------------------------------------------------------------------------------------------- the pump

    async def _run_pump(self) -> None:
        try:
            await self._read_frames()
            if not self.finished:
                self._end(await self._died())
        except OSError:  # it hung up on its reading side alone, or died with a reply on the way
            self._end(await self._died())
        except BelljarError as error:
            self._fail(error)

    async def _read_frames(self) -> None:
        loop = asyncio.get_running_loop()
        slice_end = loop.time() + _SLICE_S
        while data := await self._sandbox.receive():
            self._decoder.receive(data)
            while (frame := self._decoder.next()) is not None:
                await self._take(frame)
                if self.finished:
                    return
                if loop.time() > slice_end:
                    await asyncio.sleep(0)
                    slice_end = loop.time() + _SLICE_S

    async def _take(self, frame: Frame[GuestMessage]) -> None:
        if isinstance(frame.message, Query | Recurse | Search):
            task = asyncio.create_task(self._answer_slowly(frame, frame.message.id))
            self._slow.add(task)
            task.add_done_callback(self._look_at)
            return
        reply = await self._broker.handle(frame)
        if reply is not None:
            await self._send(reply)
        cell = self._broker.cell
        if self._broker.final is not None or (cell is not None and cell.done is not None):
            for task in self._slow:
                task.cancel()
            self._over.set()

    async def _answer_slowly(self, frame: Frame[GuestMessage], request: int) -> None:
        try:
            reply = await self._broker.handle(frame)
            if reply is not None:
                # Half a frame would put the stream out of step for every cell that follows.
                await to_the_end(self._send(reply))
        except asyncio.CancelledError:
            # Either the cell is over and its thread still waits for a reply, or the box is being closed.
            if not self.finished:
                with contextlib.suppress(OSError):
                    await self._send((Refused(request, _CELL_OVER), b""))
        except OSError:  # as in the pump, which may not notice: it only reads
            if not self.finished:
                self._end(await self._died())
        except BelljarError as error:
            self._fail(error)

    def _look_at(self, task: asyncio.Task[None]) -> None:
        """A task that failed as nobody foresaw, by a defect of ours or of a model object, ends the box now.

        Otherwise the program would wait for its reply until the deadline, and be blamed for it.
        """
        self._slow.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            fault = BoxFault(f"a request could not be answered, by an unforeseen {type(error).__name__}: report it")
            fault.__cause__ = error
            self._fail(fault)

    async def _send(self, reply: Reply) -> None:
        wire = self._scope.policy.wire
        parts = encode(*reply, header_bytes_max=wire.header_bytes_max, body_bytes_max=wire.body_bytes_max)
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
        end = await self._kill()
        limits = self._scope.policy.limits
        if end.lost:
            why = "the box's supervisor died, or gives no account of it: run it again"
            return Verdict("host_fault", ErrorInfo("BoxFault", why))
        if not self._broker.ready:
            return Verdict("host_fault", ErrorInfo("BoxFault", "the agent in the box did not start: reinstall belljar"))
        if end.signal == 9 and not end.killed and end.evidence.memory_kills:
            met = Limit("memory_bytes", limits.memory_bytes, end.evidence.memory_peak_bytes)
            return Verdict("memory", ErrorInfo("MemoryLimit", "the program used up its memory: keep less at once"), met)
        slain = end.signal in (signal.SIGKILL, signal.SIGXCPU)
        if not end.killed and end.cpu_s >= limits.cpu_s * (_CPU_SHARE if slain else 1):
            return _spent_cpu(limits.cpu_s, end.cpu_s)
        if end.by_other:
            return Verdict("killed", ErrorInfo("Killed", "somebody outside killed or removed the box: run it again"))
        how = f"by signal {end.signal}" if end.signal else f"with exit code {end.code}"
        if end.killed:
            how = "its wire"
        return Verdict("error", ErrorInfo(GuestDied.__name__, f"the program ended {how} before the cell was done"))


def verdict_of(error: BelljarError) -> Verdict:
    """The status that an error of ours gives a run."""
    about = ErrorInfo(type(error).__name__, str(error))
    if isinstance(error, ProtocolViolation):
        return Verdict("protocol", about)
    if isinstance(error, Refusal):
        limit = Limit(error.code, error.limit, error.observed)
        if error.code in ("output.flood", "answer.too_long"):
            return Verdict("output", about, limit)
        return Verdict("quota" if isinstance(error, QuotaExceeded) else "denied", about, limit)
    return Verdict("host_fault", about)


def _spent_cpu(limit_s: float, used_s: float) -> Verdict:
    spent = Limit("cpu_ms", round(limit_s * 1000), round(used_s * 1000))
    return Verdict("cpu", ErrorInfo("CpuLimit", "the program used up its CPU time: do less work"), spent)


def _timeout(late: Limit, traceback: str = "") -> ErrorInfo:
    message = f"the cell was stopped after {(late.observed or 0) / 1000:.1f} s: do less work per cell"
    return ErrorInfo("Timeout", message, None, traceback)
