"""What the subjects are made to do: the same guest programs for all, and the text that they read.

The programs check themselves where a peer could fail without saying so, and print what the host then compares.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = [
    "EMPTY",
    "FIRST",
    "LINES",
    "RANDOM",
    "RANDOM_CHARS",
    "RANDOM_COUNT",
    "READS",
    "REPLY",
    "SLICES",
    "SLICE_CHARS",
    "Text",
    "queries",
    "reads",
    "through",
    "write_text",
]

SLICE_CHARS: Final = 1 << 20
REPLY: Final = "ok"

FIRST: Final = "print(6 * 7)"
# A program without a statement: some runtimes take a shortcut for no text at all.
EMPTY: Final = "pass"
SLICES: Final = f"""\
total = 0
for start in range(0, len(context), {SLICE_CHARS}):
    total = total + len(context[start : start + {SLICE_CHARS}])
print(total)
"""
LINES: Final = """\
total = 0
for line in context.splitlines():
    total += len(line)
print(total)
"""

RANDOM_COUNT: Final = 10_000
RANDOM_CHARS: Final = 200
# A generator of one's own, for not everybody lets guest code have one: Knuth's multiplier, of whose bits the high ones
# are good.
_STEP: Final = f"state = (state * 6364136223846793005 + 1442695040888963407) % {2**64}"
RANDOM: Final = f"""\
state = 1
total = 0
places = len(context) - {RANDOM_CHARS}
for _ in range({RANDOM_COUNT}):
    {_STEP}
    start = (state >> 20) % places
    total = total + len(context[start : start + {RANDOM_CHARS}])
print(total)
"""

# Few enough that a cell of them is over in a tenth of a second.
READS: Final = 500

# Large enough that nothing fits in one page or one reply, small enough to be one `str` under every preset but strict.
_TEXT_CHARS_MAX: Final = 30_000_000


def through(lines: str) -> str:
    """A program that goes through `lines`, an expression, and prints how many characters these have.

    One of the peers has no `+=` for guest code.
    """
    return f"""\
total = 0
for line in {lines}:
    total = total + len(line)
print(total)
"""


def reads(seed: int) -> str:
    """A program that takes `READS` random slices, other ones with each seed, and prints what each took in seconds."""
    return f"""\
import time
state = {seed}
taken = []
places = len(context) - {RANDOM_CHARS}
for _ in range({READS}):
    {_STEP}
    start = (state >> 20) % places
    started = time.perf_counter()
    piece = context[start : start + {RANDOM_CHARS}]
    taken.append(time.perf_counter() - started)
for seconds in taken:
    print(seconds)
"""


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
