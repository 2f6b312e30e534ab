"""What one pass over a text finds: its digest, its lengths, and the marks by which characters and lines are found.

Blocks come in any size. Only two things cross the border of a block: a "\\r" at its end, as a "\\n" in the next block
may belong to it; and the count to the next mark.

Checking that bytes are UTF-8, counting their characters and marking every n-th is one step: they are decoded from mark
to mark, a few characters further than guessed, and what went beyond the mark is encoded again to see how far that was.
ASCII needs none of it.

The state between two blocks is five numbers (`State`): with the files of marks it is all that a later process needs to
continue, except for the digest, whose inner state hashlib does not expose. So `resume` hashes the part already done
once more, which is the fast part of the work.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import struct
from collections.abc import Callable
from typing import BinaryIO

import msgspec

from belljar.context.document import MARK_CHARS, MARK_LINES
from belljar.context.lines import WIDE_ENDS, flattened, nth_end

__all__ = ["BLOCK_BYTES", "Measure", "State", "Tally"]

# Small enough to stay in a core's cache between reading, hashing and decoding; large enough to hide Python's overhead.
BLOCK_BYTES = 128 * 1024
# Line ends are counted in pieces of this length; one in which a mark falls is counted about twice.
_STRETCH_BYTES = 8192
# A text's density changes little from mark to mark: with this much more, a mark is mostly reached in one step.
_BEYOND_BYTES = 64


class Measure(msgspec.Struct, frozen=True):
    """What the whole pass has found."""

    sha256: bytes
    chars: int
    bytes: int
    lines: int


class State(msgspec.Struct):
    """How far a pass has come.

    Attributes:
        bytes: of whole characters.
        chars: characters.
        ends: line ends.
        carriage: the last character is a "\\r", not yet counted in `ends`.
        open: characters came after the last line end.
    """

    bytes: int = 0
    chars: int = 0
    ends: int = 0
    carriage: bool = False
    open: bool = False

    @property
    def index_bytes(self) -> int:
        return -(-self.chars // MARK_CHARS) * 8

    @property
    def lines_bytes(self) -> int:
        """Every line end begins a line, and one begins before the first."""
        return (self.ends // MARK_LINES + 1) * 8


class Tally:
    """One pass. `feed` every block, then `finish`.

    Args:
        index: takes the marks of characters.
        lines: takes the marks of lines; None if nobody will ask for lines.
    """

    def __init__(self, index: BinaryIO, lines: BinaryIO | None) -> None:
        self.state = State()
        self._index = index
        self._lines = lines
        self._hash = hashlib.sha256()
        self._density = 1.0  # bytes per character, lately
        if lines is not None:
            lines.write(_packed([0]))

    def resume(self, state: State, text: int, on_bytes: Callable[[int], None]) -> None:
        """Continue where another process was interrupted; call it before the first `feed`.

        Args:
            text: descriptor of the file in which `state.bytes` bytes are already.
            on_bytes: is told how many of them have been hashed again.
        """
        assert self._lines is not None
        while (done := self.state.bytes) < state.bytes:
            block = os.pread(text, min(BLOCK_BYTES, state.bytes - done), done)
            if not block:
                raise OSError("the kept part is shorter than its checkpoint says")
            self._hash.update(block)
            self.state.bytes += len(block)
            on_bytes(self.state.bytes)
        self.state = state
        for file, length in ((self._index, state.index_bytes), (self._lines, state.lines_bytes)):
            file.truncate(length)
            file.seek(length)

    def feed(self, data: bytes) -> int:
        """Count the whole characters at the beginning of `data`, and return how many bytes they have.

        The rest is the beginning of a character: at most three bytes, to be given again with what follows.

        Raises:
            UnicodeDecodeError: this is not UTF-8, whatever follows.
        """
        used, wide = self._mark_chars(data)
        if used < len(data):
            data = data[:used]
        self._hash.update(data)
        if self._lines is not None and data:
            self._mark_lines(data, self._lines, wide)
        self.state.bytes += used
        return used

    def finish(self) -> Measure:
        """The result, after the last block."""
        state = self.state
        lines = 0
        self._index.truncate(state.index_bytes)
        if self._lines is not None:
            lines = state.ends + (1 if state.carriage or state.open else 0)
            # After a text's last line end no line begins, but there may be a mark for one.
            self._lines.truncate(-(-lines // MARK_LINES) * 8)
        return Measure(sha256=self._hash.digest(), chars=state.chars, bytes=state.bytes, lines=lines)

    def _mark_chars(self, data: bytes) -> tuple[int, bool]:
        """Write the byte offset of every character whose number is a multiple of MARK_CHARS.

        Returns how many bytes are whole characters, and whether there may be a line end of several bytes among them.
        """
        state = self.state
        if data.isascii():
            self._index.write(
                _packed(range(state.bytes + -state.chars % MARK_CHARS, state.bytes + len(data), MARK_CHARS))
            )
            state.chars += len(data)
            return len(data), False
        offsets = []
        at, wide = 0, False
        while at < len(data):
            due = MARK_CHARS - state.chars % MARK_CHARS
            text, used = self._decoded(data, at, due)
            if used == 0:
                break
            if due == MARK_CHARS:
                offsets.append(state.bytes + at)
            wide = wide or any(end in text for end in WIDE_ENDS)
            if len(text) > due:
                used -= len(text[due:].encode())
            state.chars += min(len(text), due)
            self._density = used / min(len(text), due)
            at += used
        self._index.write(_packed(offsets))
        return at, wide

    def _decoded(self, data: bytes, at: int, due: int) -> tuple[str, int]:
        """Decode about as many characters as are due to the next mark, and a few more to end beyond it."""
        piece = data[at : at + int(due * self._density) + _BEYOND_BYTES]
        try:
            return codecs.utf_8_decode(piece, "strict", False)
        except UnicodeDecodeError as error:
            raise UnicodeDecodeError("utf-8", data, at + error.start, at + error.end, error.reason) from None

    def _mark_lines(self, data: bytes, lines: BinaryIO, wide: bool) -> None:
        state = self.state
        if state.carriage and not data.startswith(b"\n"):
            state.ends += 1
            if state.ends % MARK_LINES == 0:
                lines.write(_packed([state.bytes]))
        flat = flattened(data, wide=wide)
        state.carriage = data.endswith(b"\r")
        state.open = not flat.endswith(b"\n")
        lines.write(_packed(self._line_marks(flat, len(flat) - state.carriage)))

    def _line_marks(self, flat: bytes, end: int) -> list[int]:
        """Count the line ends in flat[:end], and return the offsets after every MARK_LINES-th."""
        state = self.state
        offsets = []
        for start in range(0, end, _STRETCH_BYTES):
            stop = min(start + _STRETCH_BYTES, end)
            found = flat.count(b"\n", start, stop)
            due = range(MARK_LINES - state.ends % MARK_LINES, found + 1, MARK_LINES)
            offsets += [state.bytes + nth_end(flat, start, stop, number) + 1 for number in due]
            state.ends += found
        return offsets


def _packed(offsets: list[int] | range) -> bytes:
    return struct.pack(f"<{len(offsets)}Q", *offsets)
