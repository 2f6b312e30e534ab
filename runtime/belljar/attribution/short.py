"""Short lines in a prompt: a line of a few bytes is everywhere and says nothing, but several in a row do.

A program numbers such lines, quotes them, or joins them with commas. Here a stretch of a prompt is split in each of the
ways in which programs join lines, into pieces without the numbers and quotes around them; and as many neighbours as
have `LINE_BYTES_MIN` bytes together, two at least, make one *run*. The lines of a document make runs in the same way.
If both have the same run, the document's lines are in the prompt, one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from belljar.attribution import limits

__all__ = ["pieces", "runs"]

# What programs join lines with, and what stands for a line end in JSON.
_SEPARATORS: Final = (b", ", b"; ", b" | ", b"\t", b"\\n", b'","', b"','", b" ")
# What programs put before a line, and after it.
_BEFORE: Final = re.compile(rb"\s*(?:[-*>#]+\s+|\[?\d+[\].):|\t]+\s*)?[\"'\[({]*")
_BEHIND: Final = b" \t\r\"',;)]}"

Piece = tuple[int, bytes]
"""Where it begins, and its text."""


def pieces(text: bytes, at: int) -> Iterator[list[Piece]]:
    """The pieces of a stretch of a prompt that begins at `at`, in each way in which it may have been put together."""
    rows = _split(text, at, b"\n")
    if len(rows) > 1:
        yield [_stripped(row) for row in rows]
        yield [_bare(row) for row in rows]
    for start, row in rows:
        for separator in _SEPARATORS if len(row) > limits.LINE_BYTES_MIN else ():
            parts = _split(row, start, separator)
            if len(parts) > 1:
                yield [_bare(part) for part in parts]


def runs(lines: Sequence[Piece]) -> Iterator[tuple[bytes, int, bytes]]:
    """Each run of lines whose first is a short one: its text, where it begins, and its first line."""
    for number, (at, first) in enumerate(lines):
        if not 0 < len(first) < limits.LINE_BYTES_MIN:
            continue
        size, stop = len(first), number + 1
        while (
            stop < len(lines)
            and (size < limits.LINE_BYTES_MIN or stop == number + 1)
            and stop - number < limits.PIECES_MAX
        ):
            size += len(lines[stop][1]) + 1
            stop += 1
        if stop > number + 1 and size >= limits.LINE_BYTES_MIN:
            yield b"\n".join([text for _, text in lines[number:stop]]), at, first


def _split(text: bytes, at: int, separator: bytes) -> list[Piece]:
    found = []
    for part in text.split(separator):
        found.append((at, part))
        at += len(part) + len(separator)
    return found


def _stripped(piece: Piece) -> Piece:
    at, text = piece
    return at + len(text) - len(text.lstrip()), text.strip()


def _bare(piece: Piece) -> Piece:
    at, text = piece
    before = _BEFORE.match(text)
    start = before.end() if before else 0
    return at + start, text[start:].rstrip(_BEHIND)
