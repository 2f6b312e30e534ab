"""The texts of the fourth table: lines as of a log, at several sizes, with a few needles to search for.

A block of some thousand lines is written over and over, so that a gigabyte takes a second. Size is in bytes, and the
text ends within it at the end of a line. One size is not ASCII: its characters take one to four bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.programs import Text

__all__ = ["NEEDLE", "SIZES", "ContextText", "Size", "write_context"]

NEEDLE: Final = "needle-7f3a9c"

_BLOCK_LINES: Final = 10_000
# With 98 characters a line, as many as fit into the smallest text are enough to slice 200 of them.
_NEEDLES: Final = 3


@dataclass(frozen=True)
class Size:
    """`title` is what it is called in the table, `key` on the command line."""

    key: str
    title: str
    size_bytes: int
    ascii: bool = True


SIZES: Final = {
    size.key: size
    for size in (
        Size("1KB", "1 KB", 1_000),
        Size("1MB", "1 MB", 1_000_000),
        Size("50MB", "50 MB", 50_000_000),
        Size("1GB", "1 GB", 1_000_000_000),
        Size("2GB", "2 GB, not ASCII", 2_000_000_000, ascii=False),
    )
}


@dataclass(frozen=True)
class ContextText:
    """A text on the disk: how long it is, and how often it has the needle."""

    text: Text
    lines: int
    size_bytes: int
    needles: int


def write_context(path: Path, size: Size) -> ContextText:
    """Write it: at most `size.size_bytes`, whole lines, the needle at the end of the first, middle and last third."""
    block = [_line(number, size.ascii) for number in range(_BLOCK_LINES)]
    encoded = [line.encode() for line in block]
    whole, whole_chars = b"".join(encoded), sum(map(len, block))
    needle = f"{NEEDLE}\n"
    left, chars, lines, needles = size.size_bytes - _NEEDLES * len(needle), 0, 0, 0
    with path.open("wb") as file:
        while left >= len(encoded[0]):
            if left >= len(whole):
                file.write(whole)
                left, chars, lines = left - len(whole), chars + whole_chars, lines + len(block)
            else:
                fitting = _fitting(encoded, left)
                file.writelines(encoded[:fitting])
                left -= sum(map(len, encoded[:fitting]))
                chars, lines = chars + sum(map(len, block[:fitting])), lines + fitting
                if fitting < len(encoded):
                    break
            if needles < _NEEDLES - 1 and size.size_bytes - left > (needles + 1) * size.size_bytes // _NEEDLES:
                file.write(needle.encode())
                needles += 1
        # What no third had room for stands at the end.
        file.write(needle.encode() * (_NEEDLES - needles))
    chars, lines = chars + _NEEDLES * len(needle), lines + _NEEDLES
    return ContextText(Text(path, chars, chars - lines), lines, path.stat().st_size, _NEEDLES)


def _fitting(encoded: list[bytes], left: int) -> int:
    """How many lines from the first on fit into `left` bytes."""
    for number, line in enumerate(encoded):
        left -= len(line)
        if left < 0:
            return number
    return len(encoded)


def _line(number: int, only_ascii: bool) -> str:
    clock = f"2026-01-01T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}.{number * 7 % 1000:03}Z"
    said = "no faults seen" if only_ascii else "größer · без ошибок · 完了 · 🙂"
    served = f"{number * 7919 % 100_000:05} bytes {number * 13 % 97:02} ms"
    return f"{clock} INFO service-{number % 7} request {number:08} {served}, {said}\n"
