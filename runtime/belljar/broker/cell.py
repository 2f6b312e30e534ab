"""What one cell did, as the host saw it, and until when it counts.

Whether something came in time is judged by the clock, never by what the event loop happened to look at first: the host
may stall for longer than a cell lasts, and then both the cell's end and the end of its time are waiting to be handled.
"""

from __future__ import annotations

from typing import Literal

from belljar.policy import Limits
from belljar.protocol import CellError, Done, Final, Output

__all__ = ["Cell"]


class Cell:
    """The transcript of one cell. Output beyond the policy's limit is counted, not kept.

    `began`, `deadline` and `ended` are on the run's monotonic clock, in seconds; `ended` is None until it is over.
    `wall_s` is the time that it may take; the run may leave it less.
    """

    def __init__(self, number: int, limits: Limits, *, began: float, deadline: float, wall_s: float) -> None:
        self.number = number
        self.began = began
        self.deadline = deadline
        self.wall_s = wall_s
        self.ended: float | None = None
        # The status for which it was cut short: it may go on for its grace period, but neither answer nor ask a model.
        self.cut: str | None = None
        # It was sent an interrupt.
        self.interrupted = False
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.output_bytes = 0
        # Why its answer is not what was asked for.
        self.misfit = ""
        self.answer: Final | None = None
        self.answer_body = b""
        self.done: Done | None = None
        self.traceback = ""
        self._limits = limits

    @property
    def truncated(self) -> bool:
        return self.output_bytes > len(self.stdout) + len(self.stderr)

    @property
    def late(self) -> bool:
        """Whether it has ended, but not in time."""
        return self.ended is not None and self.ended >= self.deadline

    @property
    def error(self) -> CellError | None:
        return self.done.error if self.done else None

    def written(self, stream: Literal["stdout", "stderr"]) -> bytearray:
        """What is kept of one stream so far."""
        return self.stdout if stream == "stdout" else self.stderr

    def write(self, output: Output, data: bytes) -> bytes:
        """Keep what fits, and return it; once the cell is over, its output no longer changes."""
        if self.done is not None:
            return b""
        self.output_bytes += len(data)
        room = self._limits.output_bytes - len(self.stdout) - len(self.stderr)
        kept = data[: max(room, 0)]
        self.written(output.stream).extend(kept)
        return kept

    def end(self, done: Done, traceback: str, *, now: float) -> None:
        self.done = done
        self.ended = now
        self.traceback = traceback
