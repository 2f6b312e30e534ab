"""The cells of one box: how each begins, what it prints, and its end by `Done`, by an answer, or with its box.

Kept here: the last cell with its transcript and its answer, and how many there were. The table in `belljar.states` says
what may happen when; `Final` and `Done` name the running cell, and one of another cell is a violation. What a thread
that a cell left behind prints later is charged, but is in no result.

The first `Final` before the deadline is the answer; whether it came in time is judged when it comes, however long
checking it then takes. An answer that is not what was asked for (`misfit`) does not count, and its cell goes on; where
the box `stays`, the cell goes on to its own end after one that counts, too. Of one cell only one answer is looked at,
however many it sends.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Final as Const

from belljar.audit import AuditLog
from belljar.audit.events import AnswerGiven, AnswerVoid, CellFinished, CellStarted
from belljar.broker.answer import check_answer
from belljar.broker.canaries import Canaries
from belljar.broker.cell import READING_BYTES, Cell
from belljar.broker.flood import Flood
from belljar.broker.keeping import NOTHING_KEPT, Kept, together
from belljar.broker.run import RunScope
from belljar.errors import PolicyDenied, ProtocolViolation, Refusal
from belljar.heavy import off_loop, sha256
from belljar.protocol import Clock, Done, Execute, Final, Output, Stream
from belljar.states import CellState, Event, States

__all__ = ["Cells"]

# The agent cuts a traceback to 16,000 characters; a program that writes its own has no more room than that.
_TRACEBACK_BYTES_MAX: Const = 64_000
# Looking at a value through a schema takes this many times as long as any other check of as many bytes.
_BYTES_A_STEP: Const = 64


class Cells:
    """`last` is the cell that began last, `count` how many began. `stays`: an answer does not end the box."""

    def __init__(
        self,
        scope: RunScope,
        *,
        audit: AuditLog,
        states: States,
        flood: Flood,
        canaries: Canaries,
        stays: bool = False,
    ) -> None:
        self._scope = scope
        self._policy = scope.policy
        self._audit = audit
        self._states = states
        self._flood = flood
        self._canaries = canaries
        self._stays = stays
        self.last: Cell | None = None
        self.count = 0
        # Says why an answer is not what was asked for; empty if it is.
        self.misfit: Callable[[Final, bytes], str] | None = None
        # Hears what is kept of each cell's output: cell, stream, bytes.
        self.printed: Callable[[int, Stream, bytes], None] | None = None

    async def begin(self, code: str, *, wall_s: float | None = None) -> tuple[Execute, bytes]:
        """Log the next cell, start its clock, and return the order to run it. If cancelled, it has not begun.

        Args:
            wall_s: how long it may take, if that is less than the policy allows.

        Raises:
            PolicyDenied: `limits.code`; `cell.running`: the one before is not over; `session.ended`: no further cell
                can run.
        """
        limit = min(self._policy.limits.code_bytes, self._policy.wire.body_bytes_max)
        # A root model may write any amount; what is surely too long need not be encoded to be refused.
        source = code[: limit + 1].encode("utf-8", "surrogatepass")
        if len(source) > limit:
            raise PolicyDenied(
                f"a cell of {max(len(source), len(code))} bytes is over the policy's limit of {limit}: split it",
                code="limits.code",
                limit=limit,
                observed=max(len(source), len(code)),
            )
        digest = hashlib.sha256(source).hexdigest()
        kept = await off_loop(len(source), self._scope.keeper.keep, "code", source)
        await self._audit.room()
        # Nothing is awaited from here on: a cell begins wholly or not at all.
        self._permit_begin()
        started = CellStarted(cell=self.count + 1, code_sha256=digest, code_bytes=len(source), content=kept.name)
        self._audit.put(self._scope.run, started, beside=kept.job)
        self.count += 1
        noted = self._scope.clocks.get(self.count, b"")[: self._policy.wire.body_bytes_max - len(source)]
        noted = noted[: len(noted) - len(noted) % READING_BYTES]
        was_interrupted = self.last is not None and self.last.interrupted
        order = Execute(self.count, interrupted=was_interrupted, noted_bytes=len(noted))
        wall_s = min(math.inf if wall_s is None else wall_s, self._policy.limits.cell_wall_s)
        began = self._scope.monotonic()
        deadline = min(began + wall_s, self._scope.deadline)
        self.last = Cell(self.count, self._policy.limits, began=began, deadline=deadline, wall_s=wall_s)
        self._states.on(Event.BEGIN)
        return order, source + noted

    def _permit_begin(self) -> None:
        if self._states.allows(Event.BEGIN):
            return
        if self._states.cell in (CellState.IDLE, CellState.LOST, CellState.ANSWERED):
            raise PolicyDenied("the session has ended: open a new one", code="session.ended")
        raise PolicyDenied("a cell is running: wait for its end", code="cell.running")

    def cut_short(self, why: str) -> None:
        """Stop the running cell now: an answer that it still gives is logged and does not count.

        `why` becomes its status.
        """
        assert self.last is not None
        self._states.on(Event.CUT)
        self.last.cut = self.last.cut or why

    async def lost(self, status: str) -> None:
        """The box has ended with this `status`: so has the running cell, if there is one."""
        if self._states.cell is CellState.LOST and self.last is not None:
            self._states.on(Event.BURY)
            await self._log_end(self.last, status)

    async def output(self, output: Output, body: bytes) -> None:
        """Keep what was printed, if it counts, look at it, and charge it."""
        if output.cell > self.count:
            raise ProtocolViolation(f"output of cell {output.cell}, which has not begun")
        # A thread left behind may have printed while the next order was on its way; its own cell is over by then.
        # Once a cell is over, its output no longer changes.
        if (cell := self._counting(output.cell)) is not None:
            first = cell.write(output, body)
            await self._canaries.look_at_output(output.stream, body, output.cell)
            if first and self.printed is not None:
                self.printed(output.cell, output.stream, first)
        self._flood.charge(len(body))

    def _counting(self, number: int) -> Cell | None:
        """The cell of this number, if what is said for it still counts: it began last, and is not over."""
        last = self.last
        return last if last is not None and number == last.number and last.done is None else None

    def clock(self, clock: Clock, body: bytes) -> None:
        """Keep what was read of clocks, as `output` does what was printed. What is not kept is charged like that.

        What is kept is little, and an agent may send each reading in a frame of its own: that is no flood.
        """
        if clock.cell > self.count:
            raise ProtocolViolation(f"a Clock of cell {clock.cell}, which has not begun")
        cell = self._counting(clock.cell)
        kept = cell.note(body) if cell is not None else 0
        if kept is None:
            raise ProtocolViolation(f"a Clock of {len(body)} bytes, which are no readings")
        if not kept:
            self._flood.charge(len(body))

    async def done(self, done: Done, body: bytes) -> None:
        """The cell is over. `body` is the traceback."""
        cell, now = self._of_running(done), self._scope.monotonic()
        kept = body[: min(self._policy.limits.output_bytes, _TRACEBACK_BYTES_MAX)]
        said = [done.error.message] if done.error else []
        await self._canaries.look("output", [kept, *said, *done.variables], cell.number)
        self._states.on(Event.DONE)
        cell.end(done, kept.decode("utf-8", "replace"), now=now)
        await self._log_end(cell, cell.cut or done.status)
        self._flood.charge(len(body))

    async def _log_end(self, cell: Cell, status: str) -> None:
        kept = await self._output(cell)
        finished = CellFinished(cell=cell.number, status=status, output_bytes=cell.output_bytes, content=kept.name)
        await self._note(finished, kept)

    async def _output(self, cell: Cell) -> Kept:
        texts = (*cell.output, cell.traceback)
        return await off_loop(sum(map(len, texts)), self._scope.keeper.output, *texts, bytes(cell.noted))

    async def _log_answer(self, final: Final, body: bytes, cell: Cell) -> None:
        digest = await _checked_sha256(final, body, self._policy.limits.answer_values)
        await self._canaries.look("answer", [body], cell.number)
        kept = await off_loop(len(body), self._scope.keeper.answer, body, final.form)
        # Where the answer is the end of its cell, no other record has its output.
        output = NOTHING_KEPT if self._stays else await self._output(cell)
        given = AnswerGiven(
            cell=self.count,
            answer_sha256=digest,
            answer_bytes=len(body),
            stays=self._stays,
            content=kept.name,
            output=output.name,
        )
        await self._note(given, kept, output)

    async def _note(self, event: CellFinished | AnswerGiven | AnswerVoid, *kept: Kept) -> None:
        """Log it. With a content it is waited for, so that there is never more than one of them in memory."""
        if (job := together(*kept)) is None:
            await self._audit.note(self._scope.run, event)
        else:
            await self._audit.append(self._scope.run, event, beside=job)

    def _of_running(self, message: Done | Final) -> Cell:
        """The running cell, which the message must name."""
        assert self.last is not None, "the table lets no cell end before one has begun"
        if message.cell != self.last.number:
            name = type(message).__name__
            raise ProtocolViolation(f"{name} of cell {message.cell} while cell {self.last.number} ran")
        return self.last

    async def final(self, final: Final, body: bytes) -> None:
        """Take an answer, which counts if it came in time.

        Raises:
            Refusal: `limits.answer`, and what `check_answer` raises.
            ProtocolViolation: it is not what it claims to be.
            whatever `misfit` raises.
        """
        cell = self._of_running(final)
        came, limit = self._scope.monotonic(), self._policy.limits.answer_bytes
        if len(body) > limit:
            raise Refusal(
                f"the answer has {len(body)} bytes, but the policy allows {limit}: give a shorter answer",
                code="limits.answer",
                limit=limit,
                observed=len(body),
            )
        counts = came < cell.deadline and not cell.misfit and cell.answer is None
        self._states.on(Event.FINAL if counts else Event.LATE_FINAL)
        if self._states.cell is not CellState.CHECKING:
            await self._void(final, body)
            return
        try:
            if self.misfit is not None:
                await self._check_fit(self.misfit, cell, final, body)
            if cell.misfit:
                await self._void(final, body)
            else:
                await self._log_answer(final, body, cell)
        except BaseException:
            self._states.on(Event.REJECT)
            raise
        if not cell.misfit:
            cell.answer, cell.answer_body = final, body
        if cell.misfit or self._stays:
            self._resume(cell)
        else:
            self._states.on(Event.ACCEPT)

    def _resume(self, cell: Cell) -> None:
        self._states.on(Event.RESUME)
        if cell.cut is not None:
            self._states.on(Event.CUT)

    async def _check_fit(self, misfit: Callable[[Final, bytes], str], cell: Cell, final: Final, body: bytes) -> None:
        await off_loop(len(body), check_answer, final, body, values_max=self._policy.limits.answer_values)
        cell.misfit = await off_loop(len(body) * _BYTES_A_STEP, misfit, final, body)

    async def _void(self, final: Final, body: bytes) -> None:
        """Log an answer that does not count."""
        digest = await _checked_sha256(final, body, self._policy.limits.answer_values)
        self._flood.charge(len(body))
        kept = await off_loop(len(body), self._scope.keeper.answer, body, final.form)
        void = AnswerVoid(cell=self.count, answer_sha256=digest, answer_bytes=len(body), content=kept.name)
        await self._note(void, kept)


async def _checked_sha256(final: Final, body: bytes, values_max: int) -> str:
    """Make sure that it is an answer; return its digest, for the log."""
    await off_loop(len(body), check_answer, final, body, values_max=values_max)
    return await off_loop(len(body), sha256, body)
