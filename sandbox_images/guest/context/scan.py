"""`re` over a text that is not in memory, window by window, where that gives exactly what the whole text would give.

The engine looks at one `str`. A window of the text is as good as the whole for every match that begins early enough in
it, if we know how far a match may look. Two kinds of patterns allow this:

    bounded     no match is longer than `_WIDTH_MAX`:      ERROR \\d{3}, \\bcat\\b, [^"]{1,80}
    one line    nothing in the pattern matches "\\n":       User: (\\d+), ^.*error.*$
                so a match, however long, ends at the line's end

plus what look-arounds and anchors may look at beside it, which must be bounded too. All others (`\\s+`, `(?s).*`) need
the whole text: `reach` returns None for them, and for whatever it does not know.

A window covers the starts [at, limit). It begins earlier by what the pattern may look back at (at least one character,
so that `^` sees that this is not the beginning), and ends later by what it may look ahead. The next window begins where
this one's starts end, or where its last match ended: in both cases a search from there, without what came before,
finds what the engine would have found had it gone on.
"""

from __future__ import annotations

import functools
import importlib
import operator
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

__all__ = ["WINDOW_CHARS", "Match", "Reach", "Source", "finditems", "finditer", "fullmatch", "match", "reach"]

_WIDTH_MAX = 1 << 16
WINDOW_CHARS = 1 << 18
"""How many starts one window covers, unless told otherwise."""
# `$` checks whether a line end is the text's last character.
_BESIDE = (1, 2)


class Source(Protocol):
    """What is searched: a paged text, or something like it."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: slice, /) -> Any: ...

    def find(self, sub: str, start: int, end: int, /) -> int: ...


class Reach(NamedTuple):
    """How far a match looks: `width` is its greatest length, None if it ends at the end of the line at the latest."""

    width: int | None
    back: int
    ahead: int


class Match:
    """A match in a paged text: like `re.Match`, with positions in the whole text."""

    __slots__ = ("_found", "_offset", "endpos", "pos", "string")

    __class__ = property(lambda self: re.Match)

    def __init__(self, found: re.Match[str], offset: int, string: Any, pos: int, endpos: int) -> None:
        self._found = found
        self._offset = offset
        self.string = string
        self.pos = pos
        self.endpos = endpos

    def start(self, group: int | str = 0, /) -> int:
        return self.span(group)[0]

    def end(self, group: int | str = 0, /) -> int:
        return self.span(group)[1]

    def span(self, group: int | str = 0, /) -> tuple[int, int]:
        first, last = self._found.span(group)
        return (first, last) if first < 0 else (first + self._offset, last + self._offset)

    @property
    def regs(self) -> tuple[tuple[int, int], ...]:
        return tuple(self.span(group) for group in range(len(self._found.regs)))

    def group(self, *groups: int | str) -> Any:
        return self._found.group(*groups)

    def __getitem__(self, group: int | str) -> Any:
        return self._found[group]

    def groups(self, default: Any = None) -> tuple[Any, ...]:
        return self._found.groups(default)

    def groupdict(self, default: Any = None) -> dict[str, Any]:
        return self._found.groupdict(default)

    def expand(self, template: str, /) -> str:
        return self._found.expand(template)

    @property
    def re(self) -> Any:
        return self._found.re

    @property
    def lastindex(self) -> int | None:
        return self._found.lastindex

    @property
    def lastgroup(self) -> str | None:
        return self._found.lastgroup

    def __copy__(self) -> Match:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Match:
        return self

    def __repr__(self) -> str:
        return f"<re.Match object; span={self.span()}, match={self.group()!r:.50}>"


# ---------------------------------------------------------------------------------------------------------- searching


def finditer(
    pattern: re.Pattern[str],
    far: Reach,
    text: Source,
    pos: int = 0,
    endpos: int = sys.maxsize,
    *,
    window_chars: int = WINDOW_CHARS,
) -> Iterator[Any]:
    """As pattern.finditer(str(text), pos, endpos), where `far` is the pattern's reach."""
    pos, endpos = _clamped(text, pos, endpos)
    for found, base in _found(pattern, far, text, pos, endpos, window_chars):
        yield Match(found, base, text, pos, endpos)


def finditems(
    pattern: re.Pattern[str], far: Reach, text: Source, pos: int, endpos: int, *, window_chars: int = WINDOW_CHARS
) -> Iterator[Any]:
    """The items of pattern.findall(str(text), pos, endpos): for each match its text, its group or its groups."""
    pos, endpos = _clamped(text, pos, endpos)
    for found, _ in _found(pattern, far, text, pos, endpos, window_chars):
        groups = found.groups("")
        yield groups if len(groups) > 1 else groups[0] if groups else found[0]


def _found(
    pattern: re.Pattern[str], far: Reach, text: Source, pos: int, endpos: int, window_chars: int
) -> Iterator[tuple[re.Match[str], int]]:
    """The engine's own matches, each with the position of its window."""
    at = pos
    while at <= endpos:
        limit = _limit(far, text, at, endpos, window_chars)
        base = max(0, at - far.back)
        window = _window(text, base, min(endpos, limit + (far.width or 0) + far.ahead))
        ended = at
        for found in pattern.finditer(window, at - base):
            if base + found.start() >= limit:
                break
            yield found, base
            ended = base + found.end()
        at = max(limit, ended)


def match(pattern: re.Pattern[str], far: Reach, text: Source, pos: int = 0, endpos: int = sys.maxsize) -> Any:
    """As pattern.match."""
    pos, endpos = _clamped(text, pos, endpos)
    if pos > endpos:
        return None
    end = pos + far.width if far.width is not None else text.find("\n", pos, endpos)
    base = max(0, pos - far.back)
    window = _window(text, base, endpos if end < 0 else min(endpos, end + 1 + far.ahead))
    found = pattern.match(window, pos - base)
    return found and Match(found, base, text, pos, endpos)


def fullmatch(pattern: re.Pattern[str], far: Reach, text: Source, pos: int = 0, endpos: int = sys.maxsize) -> Any:
    """As pattern.fullmatch."""
    pos, endpos = _clamped(text, pos, endpos)
    if pos > endpos or (far.width is not None and endpos - pos > far.width):
        return None
    if far.width is None and text.find("\n", pos, endpos) >= 0:
        return None
    base = max(0, pos - far.back)
    found = pattern.fullmatch(_window(text, base, endpos), pos - base)
    return found and Match(found, base, text, pos, endpos)


def _window(text: Source, start: int, stop: int) -> str:
    """The characters [start, stop). Raises what `str` raises of a part of the text, if they are too many."""
    return str(text[start:stop])


def _clamped(text: Source, pos: int, endpos: int) -> tuple[int, int]:
    # The engine clamps positions out of range to the nearest end; negative ones do not count from the end.
    chars = len(text)
    return min(max(operator.index(pos), 0), chars), min(max(operator.index(endpos), 0), chars)


def _limit(far: Reach, text: Source, at: int, endpos: int, window_chars: int) -> int:
    """Where the starts that this window covers end; beyond `endpos`, where an empty match may begin, for the last."""
    limit = at + window_chars
    if far.width is None and limit < endpos:
        limit = text.find("\n", limit, endpos) + 1 or endpos
    return limit if limit < endpos else endpos + 1


# ----------------------------------------------------------------------------------------------------------- analysis


class _UnknownError(Exception):
    """The pattern needs the whole text, or contains something that this file does not know."""


# Cached, because programs search with the same pattern over and over: it takes 74 µs, half of the goal for one read.
@functools.lru_cache(maxsize=256)
def reach(pattern: re.Pattern[str]) -> Reach | None:
    """How far a match of the pattern looks, or None where the whole text is needed."""
    try:
        # The engine's own parser: no public one shows the parts of a pattern. Without it nothing is streamed.
        tree = importlib.import_module("re._parser").parse(pattern.pattern, pattern.flags)
        surroundings = list(_BESIDE)
        one_line = _one_line(tree, pattern.flags, surroundings)
        width = _width(tree)
        if width is None and not one_line:
            return None
        return Reach(width, *surroundings)
    except (_UnknownError, ImportError, AttributeError, TypeError, ValueError, RecursionError):
        return None


def _width(tree: Any) -> int | None:
    greatest = int(tree.getwidth()[1])
    return greatest if greatest <= _WIDTH_MAX else None


def _one_line(tree: Any, flags: int, beside: list[int]) -> bool:
    """Whether nothing in the tree matches a line end. What look-arounds may see is added to `beside`."""
    # All parts must be visited, for their look-arounds: `all` over a generator would stop at the first False.
    return _all_of([_part_of_a_line(str(op), value, flags, beside) for op, value in tree])


def _all_of(verdicts: list[bool]) -> bool:
    return False not in verdicts


def _part_of_a_line(op: str, value: Any, flags: int, beside: list[int]) -> bool:
    match op:
        case "LITERAL":
            return bool(value != 10)
        case "NOT_LITERAL":
            return bool(value == 10)
        case "ANY":
            return not flags & re.DOTALL
        case "IN":
            return not _holds_newline(value)
        case "AT" | "GROUPREF" | "FAILURE":
            return True  # the pattern itself has matched a group's text
        case "BRANCH":
            return _all_of([_one_line(branch, flags, beside) for branch in value[1]])
        case "SUBPATTERN":
            _, added, removed, inner = value
            return _one_line(inner, (flags | added) & ~removed, beside)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            return _one_line(value[2], flags, beside)
        case "ATOMIC_GROUP":
            return _one_line(value, flags, beside)
        case "GROUPREF_EXISTS":
            return _all_of([_one_line(branch, flags, beside) for branch in value[1:] if branch is not None])
        case "ASSERT" | "ASSERT_NOT":
            return _look_around(value, flags, beside)
        case _:
            raise _UnknownError(op)


def _look_around(value: Any, flags: int, beside: list[int]) -> bool:
    direction, inner = value
    width = _width(inner)
    if width is None:
        raise _UnknownError("a look-ahead without a bound")
    beside[direction > 0] += width
    # What it sees is not part of the match, unless a group captures it and is referred to again.
    return _one_line(inner, flags, beside) or "SUBPATTERN" not in repr(inner)


def _holds_newline(items: Any) -> bool:
    """Whether the set [...] matches a line end."""
    negated = str(items[0][0]) == "NEGATE"
    return any(_item_holds_newline(str(op), value) for op, value in items[negated:]) != negated


def _item_holds_newline(op: str, value: Any) -> bool:
    match op:
        case "LITERAL":
            return bool(value == 10)
        case "RANGE":
            return bool(value[0] <= 10 <= value[1])
        case "CATEGORY":
            return str(value) in ("CATEGORY_SPACE", "CATEGORY_NOT_DIGIT", "CATEGORY_NOT_WORD")
        case _:
            raise _UnknownError(op)
