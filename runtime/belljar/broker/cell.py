"""What one cell did, as the host saw it, and until when it counts.

Whether something came in time is judged by the clock, never by what the event loop happened to look at first: the host
may stall for longer than a cell lasts, and then both the cell's end and the end of its time are waiting to be handled.

Of its output as much is kept as the policy says (`limits.output`), of both streams together. Of more than that the
beginning is kept and the end, which is where a program says how it came out: the last `_TAIL_SHARE` of that limit,
half of it for each stream, with a line between the two that says how much is gone. What a program prints in tiny
pieces costs no more than the same in one: the end is trimmed only when it is twice as long as it may be.
"""

from __future__ import annotations

import struct
from typing import Final as Const

from belljar.policy import Limits
from belljar.protocol import CellError, Done, Final, Output, Stream

__all__ = ["READING_BYTES", "Cell"]

_TAIL_SHARE: Const = 1 / 4
# A reading of a clock, as `protocol.Clock` has it; and how many of a cell are kept: as many as the agent sends.
_READING: Const = struct.Struct("<Bq")
READING_BYTES: Const = _READING.size
_READINGS_MAX: Const = 1024


class _Printed:
    """One stream: its first bytes, as many as there was room for, its last ones, and how many there were."""

    def __init__(self, tail_max: int) -> None:
        self._tail_max = tail_max
        self._tail = bytearray()
        self.head = bytearray()
        self.count = 0

    def write(self, data: bytes, room: int) -> None:
        self.count += len(data)
        self.head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * self._tail_max:
            del self._tail[: len(self._tail) - self._tail_max]

    @property
    def tail(self) -> bytearray:
        """The last bytes of those that came when there was no room."""
        return self._tail[max(len(self._tail) - self._tail_max, 0) :]

    def kept(self, less: int) -> bytes:
        """What is kept, its first part by `less` bytes shorter."""
        head, tail = bytes(self.head[: len(self.head) - less]), bytes(self.tail)
        lost = self.count - len(head) - len(tail)
        between = f"\n[... bytes not kept: {lost:,} ...]\n".encode() if lost else b""
        return head + between + tail


class Cell:
    """The transcript of one cell. Output beyond the policy's limit is counted, and its beginning and end are kept.

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
        # Why its answer is not what was asked for.
        self.misfit = ""
        self.answer: Final | None = None
        self.answer_body = b""
        self.done: Done | None = None
        self.traceback = ""
        # What it has read of clocks.
        self.noted = bytearray()
        self._output_max = limits.output_bytes
        tail_max = int(limits.output_bytes * _TAIL_SHARE / 2)
        self._printed: dict[Stream, _Printed] = {"stdout": _Printed(tail_max), "stderr": _Printed(tail_max)}

    @property
    def output_bytes(self) -> int:
        """How much it printed, kept or not."""
        return sum(printed.count for printed in self._printed.values())

    @property
    def truncated(self) -> bool:
        return self.output_bytes > self._output_max

    @property
    def output(self) -> tuple[bytes, bytes]:
        """What is kept of stdout and stderr, with a line where something is not."""
        streams = self._printed.values()
        over = sum(len(printed.head) + len(printed.tail) for printed in streams) - self._output_max
        longer = max(streams, key=lambda printed: len(printed.head))
        stdout, stderr = (printed.kept(max(over, 0) if printed is longer else 0) for printed in streams)
        return stdout, stderr

    @property
    def late(self) -> bool:
        """Whether it has ended, but not in time."""
        return self.ended is not None and self.ended >= self.deadline

    @property
    def error(self) -> CellError | None:
        return self.done.error if self.done else None

    def write(self, output: Output, data: bytes) -> bytes:
        """Keep what fits. Returns what of it belongs to the first bytes that fit, for who watches it come."""
        room = max(self._output_max - sum(len(printed.head) for printed in self._printed.values()), 0)
        self._printed[output.stream].write(data, room)
        return data[:room]

    def note(self, readings: bytes) -> int | None:
        """Keep as many readings of clocks as an agent sends. Returns how many bytes; None if they cannot be ones."""
        kept = readings[: _READINGS_MAX * READING_BYTES - len(self.noted)]
        if len(kept) % READING_BYTES or not all(0 <= value < 2**62 for _, value in _READING.iter_unpack(kept)):
            return None
        self.noted += kept
        return len(kept)

    def end(self, done: Done, traceback: str, *, now: float) -> None:
        self.done = done
        self.ended = now
        self.traceback = traceback
