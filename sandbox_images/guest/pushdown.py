"""Searching where the text is: what the other side of the wall does for a paged text, and what comes back.

Whoever wires the box gives `PagedText` a `Pushdown`; `PagedText.search`, `count_matches` and `lines(a, b)` use it.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, Protocol

from .exact import exact, exact_text

__all__ = ["HIT_CHARS", "Hit", "Hits", "Pushdown", "source_of"]

HIT_CHARS = 1000
"""The text of a hit is a quotation, not a copy: who wants all of it has its place."""
_SHOWN_CHARS = 80


class Hit(NamedTuple):
    """One match: where it is in the text, and what it says, cut to 1000 characters."""

    start: int
    stop: int
    text: str

    def __repr__(self) -> str:
        # A hundred of them are printed at once.
        text = self.text if len(self.text) <= _SHOWN_CHARS else f"{self.text[:_SHOWN_CHARS]}..."
        return f"Hit(start={self.start}, stop={self.stop}, text={text!r})"


class Hits(list[Hit]):
    """The matches of one `search`. `next` is where to go on (`start=hits.next`), None when there is nothing more."""

    next: int | None = None


class Pushdown(Protocol):
    """What the other side of the wall does over the whole document, with RE2: linear time, no back-references.

    Each method may stop early (its time is up, its reply is full) and then says where to go on, which is behind the
    last match, and behind its start by one at least; the caller goes on there.
    Positions are characters of the document; the pattern sees what is beside [start, stop), as with `pos` and `endpos`
    of `re`.
    """

    def find(self, pattern: str, start: int, stop: int, limit: int) -> tuple[list[tuple[int, int, str]], int | None]:
        """At most `limit` matches in order, each (start, stop, text cut to 1000 characters); where to go on."""

    def count(self, pattern: str, start: int, stop: int) -> tuple[int, int | None]:
        """How many matches there are that do not overlap; where to go on or None."""

    def lines(self, first: int, last: int) -> tuple[str, int | None]:
        """The text of lines [first, last), with their ends, counted from 0; the line to go on with or None."""


def source_of(pattern: Any) -> str:
    """A pattern's text; flags of a compiled one are written into it. Raises TypeError or ValueError for any other."""
    source, flags = exact_text(pattern), 0
    if type(source) is not str:
        source, flags = exact_text(getattr(pattern, "pattern", None)), exact(getattr(pattern, "flags", 0))
    if type(source) is not str or type(flags) is not int:
        raise TypeError(f"search() needs a pattern as a str, not {type(pattern).__name__}")
    if flags & re.VERBOSE:
        raise ValueError("search() has no VERBOSE patterns: write it without comments and spaces")
    known = ((re.IGNORECASE, "i"), (re.MULTILINE, "m"), (re.DOTALL, "s"))
    letters = "".join(letter for flag, letter in known if flags & flag)
    return f"(?{letters}){source}" if letters else source
