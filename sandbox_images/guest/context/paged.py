"""`context`: a text that stays on the other side of the wall and comes in page by page.

`PagedText` is what the program sees: the methods of `str`, over the pages of `pages.py`, or over a range of them: a
part of the text, or an item of a list too large to be one `str`. A range is a text of its own: a pattern sees nothing
beside it.

Borders. A needle may lie across two pages. So each search looks at the seam, the last m - 1 characters so far and the
first m - 1 of the next block, before it looks at the block itself; blocks are never copied. Methods that split (into
fields, lines or words) keep the unfinished piece as a list of fragments, joined once, so that a piece over many pages
takes linear time.

It is not a subclass of `str`: C functions read a subclass's own, empty, storage and would silently see "". With this
class they raise TypeError. `isinstance(context, str)` is true all the same, because programs use it to tell one text
from a list of texts; it goes by `__class__`, which C functions do not consult. Their messages name the type ("sequence
item 0: expected str instance, ... found"), so the type's name says what to write instead.

Pushdown. `search`, `count_matches` and `lines(a, b)` run on the other side of the wall when there is a `Pushdown`, and
here, window by window, when there is none.
"""

from __future__ import annotations

import operator
import re
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any, NoReturn, SupportsIndex, cast, overload

from guest.context import scan
from guest.context.pages import Block, PageCache, Pages
from guest.context.placeholder import mark
from guest.context.pushdown import Hits, Pushdown, found_by, refuse_flags, source_of, wanted_of
from guest.exact import exact, exact_text

__all__ = ["LookAlike", "PagedText", "TextTooLarge", "plain", "rows"]

# What `str.splitlines` takes for the end of a line.
_LINE_ENDS = frozenset("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
# A batch of lines, fields or characters covers at most this much text: short lines take ten times their characters.
_PIECE_CHARS = 1 << 16
# Texts up to this size are one request anyway: `re` over the whole is simplest.
_SMALL_CHARS = 1 << 18
# How much of each end is hashed for a text that is too large for a `str` hash.
_HASHED_CHARS = 4096


class TextTooLarge(ValueError):
    """The whole text, or too much of it, was asked for as one `str`."""


class LookAlike:
    """A paged object that passes for a `str`, a `list` or a `dict`."""

    __slots__ = ()

    def _real(self) -> Any:
        """The real `str`, `list` or `dict`. Raises TextTooLarge."""
        raise NotImplementedError

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> NoReturn:
        raise TypeError("the context cannot be pickled: take a slice, or str(), list() or dict() of it")


def plain(value: Any) -> Any:
    """The real `str`, `list` or `dict` behind a look-alike; the exact text of a text; anything else unchanged."""
    return value._real() if issubclass(type(value), LookAlike) else exact_text(value)


def _whole(name: str) -> Callable[..., Any]:
    """The `str` method of that name, over the whole text as one `str`."""
    method = getattr(str, name)

    def call(self: PagedText, *args: Any, **kwargs: Any) -> Any:
        return method(str(self), *map(plain, args), **kwargs)

    call.__name__ = name
    call.__qualname__ = f"PagedText.{name}"
    call.__doc__ = method.__doc__
    return call


def _each(name: str) -> Callable[..., bool]:
    """The `str` predicate of that name that is true of a text if it is true of all its parts."""
    method = getattr(str, name)
    empty = method("")

    def call(self: PagedText) -> bool:
        return empty if self._chars == 0 else all(map(method, self._texts()))

    call.__name__ = name
    call.__qualname__ = f"PagedText.{name}"
    call.__doc__ = f"As str.{name}, page by page: works at any size."
    return call


class PagedText(LookAlike):
    """A long text that behaves like `str` and loads its characters as you touch them.

    Use it like any string; every slice of it that fits in memory is a real `str`, a longer one a part::

        len(context)                          # characters; costs nothing
        context[:1000], context[-500:]        # only what you slice is loaded
        context.find("needle"), context.count("\\n"), "needle" in context     # any size, page by page
        for line in context.lines(): ...      # any size, one line at a time
        context.lines(100, 120)               # these lines, as a list
        context.search(r"user \\d+")           # the first 100 matches, found where the text is
        context.count_matches(r"user \\d+")    # how many there are
        context.split("\\n"), context.splitlines()                            # lists, for texts that fit in memory
        context.part(a, b)                    # the same characters as context[a:b], nothing loaded; used like context
        str(context)                          # the whole text as one real str

    Everything that needs the whole text at once (str(context), upper, replace, split ...) raises ValueError when the
    text is too large for that: slice it or go through context.lines() instead. Where a library insists on a real str,
    give it str(context) or a slice.
    """

    __slots__ = (
        "_base",
        "_chars",
        "_line_count",
        "_materialise_chars_max",
        "_materialise_lock",
        "_name",
        "_origin",
        "_pages",
        "_pushdown",
        "_whole_text",
    )

    # See the head of the file. Only instances report it as their `__class__`.
    __class__ = property(lambda self: str)

    def __init__(
        self,
        chars: int,
        fetch: Callable[[int, int], str],
        *,
        pushdown: Pushdown | None = None,
        line_count: int | None = None,
        name: str = "context",
        cache: PageCache | None = None,
        page_chars: int | None = None,
        materialise_chars_max: int = 64 * 2**20,
    ) -> None:
        """Args:
        chars: length of the text in characters.
        fetch: gives exactly the characters [start, stop); may be called from several threads. What it raises
            reaches the program.
        pushdown: searches on the other side of the wall; None searches here.
        line_count: how many lines `splitlines` would return, where that is known.
        name: what the program calls it, for messages.
        cache: where to keep pages, beside those of other texts; its own cache when None.
        page_chars: size of a page in characters; None for the default.
        materialise_chars_max: the longest `str` (or list of them) to build from the text.
        """
        self._pages = Pages(chars, fetch, cache) if page_chars is None else Pages(chars, fetch, cache, page_chars)
        self._base = 0
        self._chars = chars
        self._line_count = line_count
        self._pushdown = pushdown
        self._name = name
        self._origin = (name, 0)
        self._materialise_chars_max = materialise_chars_max
        self._materialise_lock = threading.Lock()
        self._whole_text = "" if chars == 0 else None

    def part(self, start: SupportsIndex | None = None, stop: SupportsIndex | None = None, /) -> PagedText:
        """The characters of text[start:stop] as a paged text of their own, of any size: nothing is loaded."""
        low, high, _ = slice(start, stop).indices(self._chars)
        if high - low == self._chars:
            return self  # as `str` does: the whole keeps its name in messages
        name, base = self._origin
        at = self._base + low - base
        made = self._part(low, max(low, high), f"{name}.part({at}, {at + max(0, high - low)})")
        made._origin = self._origin
        return made

    def _part(self, start: int, stop: int, name: str) -> PagedText:
        """Characters [start, stop) as a paged text over the same pages, whose parts are named after `name`."""
        part: PagedText = object.__new__(PagedText)
        part._pages = self._pages
        part._base = self._base + start
        part._chars = stop - start
        part._line_count = None
        part._pushdown = self._pushdown
        part._name = name
        part._origin = (name, part._base)
        part._materialise_chars_max = self._materialise_chars_max
        part._materialise_lock = threading.Lock()
        part._whole_text = "" if start == stop else None
        return part

    # --- the whole and its parts

    def __len__(self) -> int:
        return self._chars

    def __str__(self) -> str:
        if self._whole_text is None:
            with self._materialise_lock:
                if self._whole_text is None:
                    self._afford(self._chars)
                    self._whole_text = self._pages.slice(self._base, self._base + self._chars)
                    if self._chars == self._pages.chars:
                        self._pages.clear()
        return self._whole_text

    def _real(self) -> str:
        return str(self)

    def __getnewargs__(self) -> tuple[str]:
        return (str(self),)

    def __repr__(self) -> str:
        name = self._name
        return f"<{name} {mark()}: a text of {self._chars:,} characters; print({name}[:1000]) shows its beginning>"

    def __format__(self, spec: str) -> str:
        spec = plain(spec)
        precision = re.fullmatch(r".*\.(\d+)s?", spec, re.DOTALL) if self._is_large() else None
        return format(str(self[: int(precision[1])] if precision else self), spec)

    def __hash__(self) -> int:
        # Too large for a `str`, it equals no `str`, only other paged texts.
        if self._is_large():
            reach = min(_HASHED_CHARS, self._chars)
            return hash((self._chars, self._slice(0, reach), self._slice(self._chars - reach, self._chars)))
        return hash(str(self))

    def __copy__(self) -> PagedText:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> PagedText:
        return self

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        if isinstance(key, slice):
            return self._cut(*key.indices(self._chars))
        try:
            index = operator.index(key)
        except TypeError:
            raise TypeError(f"string indices must be integers, not {type(key).__name__!r}") from None
        if index < 0:
            index += self._chars
        if not 0 <= index < self._chars:
            raise IndexError("string index out of range")
        return self._slice(index, index + 1)

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self._texts())

    def _cut(self, start: int, stop: int, step: int) -> str:
        if step == 1:
            if stop - start > self._materialise_chars_max:
                return cast("str", self.part(start, stop))
            return self._slice(start, max(start, stop))
        positions = range(start, stop, step)
        self._afford(len(positions))
        if step < 0:
            return "".join(self._strided(positions[::-1]))[::-1]
        return "".join(self._strided(positions))

    def _strided(self, positions: range) -> Iterator[str]:
        """The characters at `positions` (ascending), in pieces; pages between two positions are skipped."""
        while positions:
            for base, text, low, high in self._blocks(positions[0], positions[-1] + 1):
                piece = text[low : high : positions.step]
                yield piece
                positions = positions[len(piece) :]
                if positions and positions[0] != base + high:
                    break  # the next position is not where the next block begins: start again from there

    def __reversed__(self) -> Iterator[str]:
        blocks = self._blocks_reversed(0, self._chars)
        return chain.from_iterable(text[low:high][::-1] for _, text, low, high in blocks)

    def _slice(self, start: int, stop: int) -> str:
        whole = self._whole_text
        return self._pages.slice(self._base + start, self._base + stop) if whole is None else whole[start:stop]

    def _blocks(self, start: int, stop: int) -> Iterator[Block]:
        """[start, stop) in order. A block may begin before this text does: its position is then negative."""
        whole = self._whole_text
        if whole is not None:
            return iter([(0, whole, start, stop)] if start < stop else [])
        return self._own(self._pages.blocks(self._base + start, self._base + stop))

    def _blocks_reversed(self, start: int, stop: int) -> Iterator[Block]:
        if self._whole_text is not None:
            return self._blocks(start, stop)
        return self._own(self._pages.blocks_reversed(self._base + start, self._base + stop))

    def _own(self, blocks: Iterator[Block]) -> Iterator[Block]:
        base = self._base
        return ((at - base, text, low, high) for at, text, low, high in blocks) if base else blocks

    def _texts(self) -> Iterator[str]:
        """The text in pieces, none of them empty."""
        for _, text, low, high in self._blocks(0, self._chars):
            for at in range(low, high, _PIECE_CHARS):
                yield text[at : min(at + _PIECE_CHARS, high)]

    def _is_large(self) -> bool:
        return self._chars > self._materialise_chars_max

    def _afford(self, chars: int) -> None:
        if chars > self._materialise_chars_max:
            name = self._name
            raise TextTooLarge(
                f"this needs {chars:,} characters of the context in memory at once, and at most "
                f"{self._materialise_chars_max:,} are allowed: take slices ({name}[a:b]), go through {name}.lines(), "
                f"or use find, count, `in`, {name}.search(pattern) and {name}.count_matches(pattern), "
                "which work at any size"
            )

    def _listed(self, items: Iterator[Any]) -> list[Any]:
        """All items. Raises TextTooLarge if they take more memory than the longest `str` may at worst."""
        size = 0
        kept = []
        for item in items:
            size += _size_in_list(item)
            if size > 4 * self._materialise_chars_max:
                self._afford(size // 4 + 1)
            kept.append(item)
        return kept

    # --- looking for something

    def find(self, sub: str, start: SupportsIndex | None = None, end: SupportsIndex | None = None, /) -> int:
        """As str.find, page by page: works at any size."""
        sub = plain(sub)
        "".find(sub)  # raises what str raises if it is not a text
        low, high = self._bounds(start, end)
        if high - low < len(sub):
            return -1
        if not sub:
            return low
        return self._find(sub, low, high)

    def rfind(self, sub: str, start: SupportsIndex | None = None, end: SupportsIndex | None = None, /) -> int:
        """As str.rfind, page by page from the end: works at any size."""
        sub = plain(sub)
        "".rfind(sub)
        low, high = self._bounds(start, end)
        if high - low < len(sub):
            return -1
        if not sub:
            return high
        return self._rfind(sub, low, high)

    def index(self, sub: str, start: SupportsIndex | None = None, end: SupportsIndex | None = None, /) -> int:
        """As str.index, page by page: works at any size."""
        return _found(self.find(sub, start, end))

    def rindex(self, sub: str, start: SupportsIndex | None = None, end: SupportsIndex | None = None, /) -> int:
        """As str.rindex, page by page from the end: works at any size."""
        return _found(self.rfind(sub, start, end))

    def count(self, sub: str, start: SupportsIndex | None = None, end: SupportsIndex | None = None, /) -> int:
        """As str.count, page by page: works at any size."""
        sub = plain(sub)
        "".count(sub)
        low, high = self._bounds(start, end)
        if high - low < len(sub):
            return 0
        if not sub:
            return high - low + 1
        if len(sub) == 1:
            return sum(text.count(sub, a, b) for _, text, a, b in self._blocks(low, high))
        return self._count(sub, low, high)

    def __contains__(self, sub: object) -> bool:
        sub = plain(sub)
        if type(sub) is not str:
            raise TypeError(f"'in <string>' requires string as left operand, not {type(sub).__name__}")
        return self.find(sub) >= 0

    def startswith(self, prefix: Any, start: SupportsIndex | None = None, end: SupportsIndex | None = None, /) -> bool:
        """As str.startswith; loads only the beginning."""
        low, high = self._bounds(start, end)
        return any(self._equals_at(low, p, low, high) for p in _choices("startswith", prefix))

    def endswith(self, suffix: Any, start: SupportsIndex | None = None, end: SupportsIndex | None = None, /) -> bool:
        """As str.endswith; loads only the end."""
        low, high = self._bounds(start, end)
        return any(self._equals_at(high - len(s), s, low, high) for s in _choices("endswith", suffix))

    def _bounds(self, start: SupportsIndex | None, end: SupportsIndex | None) -> tuple[int, int]:
        """The range as `str` methods understand it: `start` may be beyond the end, and then not even "" is found."""
        low = 0 if start is None else operator.index(start)
        high = self._chars if end is None else operator.index(end)
        low = max(low + self._chars, 0) if low < 0 else low
        high = max(high + self._chars, 0) if high < 0 else min(high, self._chars)
        return low, high

    def _equals_at(self, at: int, part: str, low: int, high: int) -> bool:
        return high - low >= len(part) and self._slice(at, at + len(part)) == part

    def _find(self, sub: str, low: int, high: int) -> int:
        reach = len(sub) - 1
        seam = ""  # the last `reach` characters before this block
        for base, text, a, b in self._blocks(low, high):
            if seam:
                at = (seam + text[a : min(a + reach, b)]).find(sub)
                if at >= 0:
                    return base + a - len(seam) + at
            at = text.find(sub, a, b)
            if at >= 0:
                return base + at
            seam = _last(seam, text, a, b, reach)
        return -1

    def _rfind(self, sub: str, low: int, high: int) -> int:
        reach = len(sub) - 1
        seam = ""  # the first `reach` characters after this block
        for base, text, a, b in self._blocks_reversed(low, high):
            if seam:
                edge = text[max(a, b - reach) : b]
                at = (edge + seam).rfind(sub)
                if at >= 0:
                    return base + b - len(edge) + at
            at = text.rfind(sub, a, b)
            if at >= 0:
                return base + at
            seam = (text[a : min(a + reach, b)] + seam)[:reach]
        return -1

    def _count(self, sub: str, low: int, high: int) -> int:
        """Matches do not overlap, so the seam must not contain what a match has used up: `split` shows what is left."""
        reach = len(sub) - 1
        total = 0
        seam = ""
        for _, text, a, b in self._blocks(low, high):
            window = seam + text[a:b]
            if sub in window:
                pieces = window.split(sub)
                total += len(pieces) - 1
                window = pieces[-1]
            seam = window[-reach:]
        return total

    # --- looking for patterns

    def search(self, pattern: Any, start: SupportsIndex = 0, limit: SupportsIndex = 100, stop: Any = None) -> Hits:
        """The first matches of a regular expression at or after `start`, as a list of Hit(start, stop, text).

        A hit has groups as a match of `re` has: hit[1], hit["name"], hit.groups(), hit.groupdict(), hit.span(1). There
        are at most `limit` hits; `start=hits.next` gives the following ones (as does the stop of the last, unless that
        match is empty), and `hits.next` is None when there are no more. Works at any size: the text is searched where
        it is, with RE2. Raises re.error, which is a PolicyDenied as well, for a pattern that RE2 does not support
        (back-references, look-around).
        """
        source, low, high = self._sought(pattern, start, stop)
        wanted = wanted_of(limit)
        return (
            self._found_there(source, low, high, wanted)
            if self._pushdown
            else self._found_here(source, low, high, wanted)
        )

    def count_matches(self, pattern: Any, start: SupportsIndex = 0, stop: SupportsIndex | None = None) -> int:
        """The number of matches of a regular expression that do not overlap. Works at any size, as `search`."""
        source, low, high = self._sought(pattern, start, stop)
        if self._pushdown is None:
            return sum(1 for _ in self._matches(re.compile(source), low, high))
        total = 0
        at: int | None = self._base + low
        while at is not None:
            count, at = self._pushdown.count(source, at, self._base + high, first=self._base)
            total += count
        return total

    def _sought(self, pattern: Any, start: SupportsIndex, stop: SupportsIndex | None) -> tuple[str, int, int]:
        refuse_flags(start)
        low, high = self._bounds(start, stop)
        return source_of(plain(pattern)), min(low, high), high

    def _found_there(self, source: str, low: int, high: int, wanted: int) -> Hits:
        assert self._pushdown is not None
        base = self._base
        hits = Hits()
        at: int | None = base + low
        while at is not None and len(hits) < wanted:
            found, at = self._pushdown.find(source, at, base + high, wanted - len(hits), first=base)
            hits += [hit.moved(-base) if base else hit for hit in found]
        hits.next = None if at is None else at - base
        return hits

    def _found_here(self, source: str, low: int, high: int, wanted: int) -> Hits:
        pattern = re.compile(source)
        return found_by(pattern, self._matches(pattern, low, high), wanted, high)

    def _matches(self, pattern: re.Pattern[str], pos: int, endpos: int) -> Iterator[re.Match[str]]:
        """As pattern.finditer over the text, window by window where that gives exactly the same."""
        far = self._reach(pattern)
        if far is None:
            return pattern.finditer(str(self), pos, endpos)
        return scan.finditer(pattern, far, self, pos, endpos, window_chars=self._window_chars())

    def _window_chars(self) -> int:
        # A window must be affordable like any slice, including what matches may reach beyond it.
        return max(1, min(scan.WINDOW_CHARS, self._materialise_chars_max // 4))

    def _reach(self, pattern: re.Pattern[str]) -> scan.Reach | None:
        """How far matches look, if it is better to go through the text in windows than to load all of it."""
        if self._whole_text is not None or self._chars <= min(_SMALL_CHARS, self._materialise_chars_max):
            return None
        return scan.reach(pattern)

    # --- taking it apart

    @overload
    def lines(self, *, keepends: bool = False) -> Iterator[str]: ...
    @overload
    def lines(self, first: int | None, last: int | None = None, *, keepends: bool = False) -> list[str]: ...
    def lines(self, first: int | None = None, last: int | None = None, *, keepends: bool = False) -> Any:
        """One line after the other, as in splitlines(), without loading the whole text: works at any size.

        With numbers, a list of the lines first, first + 1, ... last - 1, counted from 0, as splitlines()[first:last].
        """
        if first is None and last is None:
            return chain.from_iterable(self._line_batches(bool(keepends)))
        return self._some_lines(first, last, bool(keepends))

    def _some_lines(self, first: int | None, last: int | None, keepends: bool) -> list[str]:
        low, high = self._line_range(first, last)
        if self._pushdown is None or high is None or self._chars != self._pages.chars:
            return self._listed(islice(self.lines(keepends=keepends), low, high))
        text = _Piece(self)
        at: int | None = low
        while at is not None and at < high:
            piece, at = self._pushdown.lines(at, high)
            text.grow(piece)
        return text.finished("").splitlines(keepends)

    def _line_range(self, first: int | None, last: int | None) -> tuple[int, int | None]:
        if isinstance(first, bool) or isinstance(last, bool):
            raise TypeError("lines() takes line numbers: write keepends=True by its name")
        if self._line_count is not None:
            return slice(first, last).indices(self._line_count)[:2]
        low = 0 if first is None else operator.index(first)
        high = None if last is None else operator.index(last)
        if low < 0 or (high is not None and high < 0):
            raise ValueError("the lines of this text are not counted: line numbers start from 0, at the beginning")
        return low, high

    def splitlines(self, keepends: bool = False) -> list[str]:
        """As str.splitlines: a list of all lines. `lines()` yields the same one by one, at any size."""
        self._afford(self._chars)
        return _flat(self._line_batches(bool(keepends)))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        """As str.split."""
        sep = plain(sep)
        maxsplit = operator.index(maxsplit)
        "".split(sep, maxsplit)  # raises what str raises if it is not a separator
        if self._whole_text is not None:
            return self._whole_text.split(sep, maxsplit)
        self._afford(self._chars)
        if sep is None:
            return _flat(self._word_batches()) if maxsplit < 0 else str(self).split(None, maxsplit)
        if maxsplit < 0:
            return _flat(self._field_batches(sep))
        return self._split_at_most(sep, maxsplit)

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        """As str.partition."""
        sep = plain(sep)
        "".partition(sep)
        self._afford(self._chars)
        at = self.find(sep)
        return (self[:], "", "") if at < 0 else (self[:at], sep, self[at + len(sep) :])

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        """As str.rpartition."""
        sep = plain(sep)
        "".rpartition(sep)
        self._afford(self._chars)
        at = self.rfind(sep)
        return ("", "", self[:]) if at < 0 else (self[:at], sep, self[at + len(sep) :])

    def _split_at_most(self, sep: str, maxsplit: int) -> list[str]:
        fields: list[str] = []
        at = 0
        batches = chain.from_iterable(self._field_batches(sep))
        while len(fields) < maxsplit and at <= self._chars:
            fields.append(next(batches))
            at += len(fields[-1]) + len(sep)
        if at <= self._chars:  # otherwise the last field was the last of all
            fields.append(self[at:])
        return fields

    def _field_batches(self, sep: str) -> Iterator[list[str]]:
        """The fields between separators, a list per block."""
        reach = len(sep) - 1
        piece = _Piece(self)
        seam = ""  # the end of the unfinished field, in which a separator may begin
        for block in self._texts():
            fields = (seam + block).split(sep)
            last = fields.pop()
            if fields:
                fields[0] = piece.finished(fields[0])
                yield fields
            cut = max(0, len(last) - reach)
            piece.grow(last[:cut])
            seam = last[cut:]
        yield [piece.finished(seam)]

    def _line_batches(self, keepends: bool) -> Iterator[list[str]]:
        """The lines, a list per block. A "\\r" at the end of a block waits: the next one may begin with "\\n"."""
        piece = _Piece(self)
        waiting = ""
        for block in self._texts():
            text = waiting + block
            waiting = "\r" if text[-1] == "\r" else ""
            text = text[: len(text) - len(waiting)]
            if not text:
                continue
            lines = text.splitlines(keepends)
            unfinished = "" if text[-1] in _LINE_ENDS else lines.pop()
            if lines:
                lines[0] = piece.finished(lines[0])
                yield lines
            piece.grow(unfinished)
        yield piece.finished(waiting).splitlines(keepends)

    def _word_batches(self) -> Iterator[list[str]]:
        """The words between white space, a list per block."""
        piece = _Piece(self)
        for block in self._texts():
            words = block.split()
            if piece and block[0].isspace():
                words.insert(0, "")
            unfinished = words.pop() if words and not block[-1].isspace() else ""
            if words:
                words[0] = piece.finished(words[0])
                yield words
            piece.grow(unfinished)
        yield piece.finished("").split()

    # --- comparing and combining

    def __eq__(self, other: object) -> bool:
        if other is self:
            return True
        other = exact_text(other)
        if type(other) not in (str, PagedText):
            return NotImplemented
        return len(self) == len(other) and self._first_difference(other) is None  # type: ignore[arg-type]

    def __lt__(self, other: Any) -> Any:
        return self._ordered(other, operator.lt)

    def __le__(self, other: Any) -> Any:
        return self._ordered(other, operator.le)

    def __gt__(self, other: Any) -> Any:
        return self._ordered(other, operator.gt)

    def __ge__(self, other: Any) -> Any:
        return self._ordered(other, operator.ge)

    def __add__(self, other: Any) -> str:
        other = exact_text(other)
        if type(other) not in (str, PagedText):
            return NotImplemented
        self._afford(self._chars + len(other))
        return f"{self!s}{plain(other)}"

    def __radd__(self, other: Any) -> str:
        other = exact_text(other)
        if type(other) is not str:
            return NotImplemented
        self._afford(self._chars + len(other))
        return f"{other}{self!s}"

    def __mul__(self, times: SupportsIndex) -> str:
        self._afford(self._chars * max(0, operator.index(times)))
        return str(self) * times

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> str:
        return str.__mod__(str(self), values)

    def __rmod__(self, template: Any) -> Any:
        return getattr(str, "__rmod__")(str(self), template)  # noqa: B009 - typing does not know it

    def _ordered(self, other: Any, compare: Callable[[Any, Any], bool]) -> Any:
        other = exact_text(other)
        if type(other) not in (str, PagedText):
            return NotImplemented
        pair = self._first_difference(other)
        return compare(*pair or (len(self), len(other)))

    def _first_difference(self, other: str | PagedText) -> tuple[str, str] | None:
        """The first blocks that differ, up to the shorter text's end."""
        for base, text, a, b in self._blocks(0, min(self._chars, len(other))):
            mine, theirs = text[a:b], _between(other, base + a, base + b)
            if mine != theirs:
                return mine, theirs
        return None

    @property
    def format(self) -> Callable[..., str]:
        """The real `str`'s own method, not one of ours: the restricted language recognises and guards `str.format`."""
        return str(self).format

    @property
    def format_map(self) -> Callable[..., str]:
        """As `format`."""
        return str(self).format_map

    # --- what it is made of, and its ends

    isalnum = _each("isalnum")
    isalpha = _each("isalpha")
    isascii = _each("isascii")
    isdecimal = _each("isdecimal")
    isdigit = _each("isdigit")
    isnumeric = _each("isnumeric")
    isprintable = _each("isprintable")
    isspace = _each("isspace")

    def islower(self) -> bool:
        """As str.islower, page by page: works at any size."""
        return self._is_cased(str.islower, str.istitle)

    def isupper(self) -> bool:
        """As str.isupper, page by page: works at any size."""
        return self._is_cased(str.isupper, lambda char: char.islower() or (char.istitle() and not char.isupper()))

    def istitle(self) -> bool:
        """As str.istitle, character by character: works at any size."""
        cased = before = False
        for char in self:
            large, small = char.istitle(), char.islower()
            if (large and before) or (small and not before):
                return False
            before = large or small
            cased = cased or before
        return cased

    def isidentifier(self) -> bool:
        """As str.isidentifier, page by page: works at any size."""
        texts = self._texts()
        return next(texts, "").isidentifier() and all(f"a{text}".isidentifier() for text in texts)

    def _is_cased(self, wanted: Callable[[str], bool], other: Callable[[str], bool]) -> bool:
        """Whether some characters are of the wanted case and none of another."""
        cased = False
        for text in self._texts():
            if wanted(text):
                cased = True
            elif any(map(other, text)):
                return False
        return cased

    def strip(self, chars: str | None = None, /) -> str:
        """As str.strip; loads only the ends, and what is left."""
        chars = _strippable(chars)
        start = self._after_left(chars)
        return self[start : max(start, self._before_right(chars))]

    def lstrip(self, chars: str | None = None, /) -> str:
        """As str.lstrip."""
        return self[self._after_left(_strippable(chars)) :]

    def rstrip(self, chars: str | None = None, /) -> str:
        """As str.rstrip."""
        return self[: self._before_right(_strippable(chars))]

    def removeprefix(self, prefix: str, /) -> str:
        """As str.removeprefix."""
        prefix = plain(prefix)
        "".removeprefix(prefix)
        return self[len(prefix) :] if self.startswith(prefix) else self[:]

    def removesuffix(self, suffix: str, /) -> str:
        """As str.removesuffix."""
        suffix = plain(suffix)
        "".removesuffix(suffix)
        return self[: self._chars - len(suffix)] if self.endswith(suffix) else self[:]

    def _after_left(self, chars: str | None) -> int:
        for base, text, low, high in self._blocks(0, self._chars):
            kept = len(text[low:high].lstrip(chars))
            if kept:
                return base + high - kept
        return self._chars

    def _before_right(self, chars: str | None) -> int:
        for base, text, low, high in self._blocks_reversed(0, self._chars):
            kept = len(text[low:high].rstrip(chars))
            if kept:
                return base + low + kept
        return 0

    # --- the rest of str, over the whole text

    capitalize = _whole("capitalize")
    casefold = _whole("casefold")
    center = _whole("center")
    encode = _whole("encode")
    expandtabs = _whole("expandtabs")
    join = _whole("join")
    ljust = _whole("ljust")
    lower = _whole("lower")
    maketrans: Any = staticmethod(str.maketrans)
    replace = _whole("replace")
    rjust = _whole("rjust")
    rsplit = _whole("rsplit")
    swapcase = _whole("swapcase")
    title = _whole("title")
    translate = _whole("translate")
    upper = _whole("upper")
    zfill = _whole("zfill")


# What C functions say they found: "expected str instance, PagedText (write ...) found". Its qualified name stays.
PagedText.__name__ = "PagedText (write str(text) or a slice text[a:b])"


def rows(text: PagedText) -> Iterator[str]:
    """The lines as a file yields them: with their ends, which are only "\\n"."""
    pending = None
    for field in chain.from_iterable(text._field_batches("\n")):
        if pending is not None:
            yield pending + "\n"
        pending = field
    if pending:
        yield pending


class _Piece:
    """A field, line or word whose end is not reached yet: fragments, joined once."""

    def __init__(self, owner: PagedText) -> None:
        self._owner = owner
        self._fragments: list[str] = []
        self._chars = 0

    def __bool__(self) -> bool:
        return self._chars > 0

    def grow(self, fragment: str) -> None:
        """Raises TextTooLarge when even this one piece is too much."""
        self._chars += len(fragment)
        self._owner._afford(self._chars)
        if fragment:
            self._fragments.append(fragment)

    def finished(self, end: str) -> str:
        """The piece with its end; afterwards empty."""
        if not self._fragments:
            return end
        self._fragments.append(end)
        whole = "".join(self._fragments)
        self._fragments, self._chars = [], 0
        return whole


def _size_in_list(item: Any) -> int:
    """The memory that one more text, or tuple of texts, takes in a list. A single letter usually exists already."""
    own = sum(map(_size_in_list, item)) if type(item) is tuple else 0
    return own + 8 + (sys.getsizeof(item) if len(item) > 1 else 0)


def _between(text: str | PagedText, start: int, stop: int) -> str:
    """A block's worth of the text: a block is in memory anyway, so this needs no check against the limit."""
    return text._slice(start, stop) if issubclass(type(text), PagedText) else text[start:stop]  # type: ignore[union-attr]


def _strippable(chars: Any) -> str | None:
    """The argument of `strip`. Raises what `str` raises for anything else."""
    chars = plain(chars)
    "".strip(chars)
    return chars  # type: ignore[no-any-return]


def _found(at: int) -> int:
    if at < 0:
        raise ValueError("substring not found")
    return at


def _choices(method: str, parts: Any) -> Iterator[str]:
    """The texts passed to `startswith` and `endswith`. Raises what `str` raises for anything else."""
    parts = exact(plain(parts))
    for part in parts if isinstance(parts, tuple) else (parts,):
        part = plain(part)
        getattr("", method)((part,) if isinstance(parts, tuple) else part)
        yield part


def _last(seam: str, text: str, low: int, high: int, reach: int) -> str:
    """The last `reach` characters of seam + text[low:high]."""
    if high - low >= reach:
        return text[high - reach : high]
    return (seam + text[low:high])[-reach:]


def _flat(batches: Iterator[list[str]]) -> list[str]:
    whole: list[str] = []
    for batch in batches:
        whole.extend(batch)
    return whole
