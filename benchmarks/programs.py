"""What the subjects are made to do: the same guest programs for all, and the text that they read.

The programs check themselves where a peer could fail without saying so, and print what the host then compares.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["EMPTY", "FIRST", "LINES", "REPLY", "SLICES", "SLICE_CHARS", "Text", "queries", "write_text"]

SLICE_CHARS: Final = 1 << 20
REPLY: Final = "ok"

FIRST: Final = "print(6 * 7)"
# A program without a statement: some runtimes take a shortcut for no text at all.
EMPTY: Final = "pass"
SLICES: Final = f"""\
total = 0
for start in range(0, len(context), {SLICE_CHARS}):
    total += len(context[start : start + {SLICE_CHARS}])
print(total)
"""
LINES: Final = """\
total = 0
for line in context.splitlines():
    total += len(line)
print(total)
"""

# Large enough that nothing fits in one page or one reply, small enough to be one `str` under every preset but strict.
_TEXT_CHARS_MAX: Final = 30_000_000


def queries(count: int) -> str:
    """A program that asks `count` times, one after another, and prints what each took in seconds, a line each."""
    return f"""\
import time
taken = []
for _ in range({count}):
    started = time.perf_counter()
    reply = llm_query("ping")
    taken.append(time.perf_counter() - started)
    if reply != {REPLY!r}:
        raise ValueError(reply)
for seconds in taken:
    print(seconds)
"""


@dataclass(frozen=True)
class Text:
    """A text file. `chars` counts all its characters, `line_chars` those that are no line end."""

    path: Path
    chars: int
    line_chars: int


def write_text(path: Path, chars_max: int = _TEXT_CHARS_MAX) -> Text:
    """The sources of the running Python's standard library, one after another, up to `chars_max` characters.

    ASCII, so that a character is a byte, and with no line end but the newline, so that all ways to go through lines
    find the same ones. The same on every machine with the same Python.
    """
    chars = lines = 0
    with path.open("w", encoding="ascii", newline="") as file:
        for line in _lines():
            if chars + len(line) + 1 > chars_max:
                break
            file.write(line + "\n")
            chars += len(line) + 1
            lines += 1
    return Text(path, chars, chars - lines)


def _lines() -> Iterator[str]:
    """Without end: a Python without its test suite has less than is wanted, and is then read again."""
    root = Path(sysconfig.get_path("stdlib"))
    sources = [path for path in root.rglob("*.py") if "site-packages" not in path.parts]
    if not any(source.stat().st_size for source in sources):
        raise RuntimeError(f"there are no sources in {root}")
    while True:
        for source in sorted(sources, key=lambda path: path.relative_to(root).as_posix()):
            text = source.read_text(encoding="utf-8", errors="replace")
            yield from text.encode("ascii", "backslashreplace").decode("ascii").splitlines()
