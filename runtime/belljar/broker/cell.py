"""What one cell did, as far as the host saw it."""

from __future__ import annotations

from belljar.policy import Limits
from belljar.protocol import CellError, Done, Output

__all__ = ["Cell"]


class Cell:
    """The transcript of one cell. Output beyond the policy's bound is counted, not kept."""

    def __init__(self, number: int, limits: Limits) -> None:
        self.number = number
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
    def error(self) -> CellError | None:
        return self.done.error if self.done else None

    def write(self, output: Output, data: bytes) -> None:
        """Keep what fits."""
        self.output_bytes += len(data)
        room = self._limits.output_bytes - len(self.stdout) - len(self.stderr)
        (self.stdout if output.stream == "stdout" else self.stderr).extend(data[: max(room, 0)])

    def end(self, done: Done, traceback: str) -> None:
        self.done = done
        self.traceback = traceback
