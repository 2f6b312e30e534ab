"""What one cell did, as far as the host saw it, and until when it counts.

Whether something came in time is judged by the clock, never by what the event loop happened to look at first: the host
may stand still for longer than a cell lasts, and both the end of the cell and the end of its time lie waiting then.
"""

from __future__ import annotations

from belljar.policy import Limits
from belljar.protocol import CellError, Done, Output

__all__ = ["Cell"]


class Cell:
    """The transcript of one cell. Output beyond the policy's bound is counted, not kept.

    `began`, `deadline` and `ended` are on the run's monotonic clock, in seconds; `ended` is None until it is over.
    `wall_s` is what it may take itself; the run may leave it less.
    """

    def __init__(self, number: int, limits: Limits, *, began: float, deadline: float, wall_s: float) -> None:
        self.number = number
        self.began = began
        self.deadline = deadline
        self.wall_s = wall_s
        self.ended: float | None = None
        # The status that it was cut short for: it may go on for its grace, but can neither answer nor ask a model.
        self.cut: str | None = None
        # It was sent an interrupt.
        self.interrupted = False
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.output_bytes = 0
        self.done: Done | None = None
        self.traceback = ""
        self._limits = limits

    @property
    def truncated(self) -> bool:
        return self.output_bytes > len(self.stdout) + len(self.stderr)

    @property
    def late(self) -> bool:
        """Whether it was over, but not in time."""
        return self.ended is not None and self.ended >= self.deadline

    @property
    def error(self) -> CellError | None:
        return self.done.error if self.done else None

    def write(self, output: Output, data: bytes) -> None:
        """Keep what fits, until it is over: from then on its output is as it is."""
        if self.done is not None:
            return
        self.output_bytes += len(data)
        room = self._limits.output_bytes - len(self.stdout) - len(self.stderr)
        (self.stdout if output.stream == "stdout" else self.stderr).extend(data[: max(room, 0)])

    def end(self, done: Done, traceback: str, *, now: float) -> None:
        self.done = done
        self.ended = now
        self.traceback = traceback
