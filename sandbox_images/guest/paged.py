"""`context`: a text that stays on the other side of the wall and comes in page by page.

Two classes. `_Pages` fetches and keeps pages, and may be used from several threads. `PagedText` is what the program
sees: the methods of `str`, over `_Pages`.

Pages. A page is `page_chars` characters, kept in an LRU of at most `cache_chars_max`. A page that is missed right after
the one before it is taken for a scan: each such miss fetches twice as many pages as the last in one request, up to
`_RUN_PAGES_MAX`. Slices longer than `_DIRECT_PAGES` pages are fetched exactly and kept nowhere. The lock is held for
dictionary work alone, never during a fetch: two threads that miss the same page may both fetch it, which is correct,
only wasteful.

Borders. A needle may lie across two pages. Each search therefore looks at the seam, made of the last m - 1 characters
so far and the first m - 1 of the next block, before it looks at the block itself; so blocks are never copied. What
splits (fields, lines, words) keeps the unfinished piece as a list of fragments, joined once, so that a piece over many
pages stays linear.

Not a subclass of `str`: C functions read a subclass's own, empty, storage and would silently see "". This class makes
them raise TypeError instead. `isinstance(context, str)` is nevertheless true, because programs ask that in order to
tell one text from a list of texts; it comes from `__class__`, which C functions do not consult.
"""

from __future__ import annotations

import operator
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, SupportsIndex

__all__ = ["PagedText", "TextTooLarge", "plain"]

# One request for a scan carries at most this many pages: 1 Mi characters with pages of 64 Ki.
_RUN_PAGES_MAX = 16
# Up to here a slice goes through the cache, because its neighbours are likely to be asked for next.
_DIRECT_PAGES = 4

# What `str.splitlines` takes for the end of a line.
_LINE_ENDS = frozenset("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")

# (position of the text's first character, text, from, to): the characters asked for are text[from:to].
_Block = tuple[int, str, int, int]


class TextTooLarge(ValueError):
    """The whole text, or too much of it, was asked for as one `str`."""


def plain(value: Any) -> Any:
    """The real `str` behind a PagedText; anything else unchanged."""
    return str(value) if issubclass(type(value), PagedText) else value


class _Pages:
    """The pages of one text, fetched when needed. Safe to use from several threads."""

    def __init__(self, chars: int, fetch: Callable[[int, int], str], page_chars: int, cache_chars_max: int) -> None:
        self._chars = chars
        self._fetch = fetch
        self._page_chars = page_chars
        self._cache_chars_max = cache_chars_max
        self._run_max = max(1, min(_RUN_PAGES_MAX, cache_chars_max // (4 * page_chars)))
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, str] = OrderedDict()
        self._kept_chars = 0
        self._run = 1  # pages fetched at the last miss
        self._next = -1  # the page at which a scan would miss next, forwards
        self._previous = -1  # and backwards
        self._recent = (0, "")  # the block used last, replaced as a whole: readers need no lock

    def slice(self, start: int, stop: int) -> str:
        """Characters [start, stop), where 0 <= start <= stop <= chars."""
        base, text = self._recent
        if base <= start and stop <= base + len(text):
            return text[start - base : stop - base]
        if stop - start > _DIRECT_PAGES * self._page_chars and not self._holds(start, stop):
            return self._direct(start, stop)
        return "".join([text[low:high] for _, text, low, high in self.blocks(start, stop)])

    def blocks(self, start: int, stop: int) -> Iterator[_Block]:
        """[start, stop) in order, as blocks that are never empty."""
        while start < stop:
            base, text = self._forwards(start // self._page_chars)
            yield base, text, start - base, min(stop - base, len(text))
            start = base + len(text)

    def blocks_reversed(self, start: int, stop: int) -> Iterator[_Block]:
        """The same, the last block first."""
        while start < stop:
            base, text = self._backwards((stop - 1) // self._page_chars)
            yield base, text, max(start - base, 0), stop - base
            stop = base

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
            self._kept_chars = 0
            self._recent = (0, "")

    def _forwards(self, page: int) -> tuple[int, str]:
        with self._lock:
            text = self._hit(page)
            if text is None:
                self._run = min(2 * self._run, self._run_max) if page == self._next else 1
                count = self._missing(page, self._run, 1)
                self._next = page + count
        return (page * self._page_chars, text) if text is not None else self._load(page, count)

    def _backwards(self, page: int) -> tuple[int, str]:
        with self._lock:
            text = self._hit(page)
            if text is None:
                self._run = min(2 * self._run, self._run_max) if page == self._previous else 1
                count = self._missing(page, self._run, -1)
                self._previous = page - count
        return (page * self._page_chars, text) if text is not None else self._load(page - count + 1, count)

    def _hit(self, page: int) -> str | None:
        text = self._kept.get(page)
        if text is not None:
            self._kept.move_to_end(page)
            self._recent = (page * self._page_chars, text)
        return text

    def _missing(self, page: int, count_max: int, step: int) -> int:
        """How many pages from `page` on exist and are not kept: at least this one."""
        pages = -(-self._chars // self._page_chars)
        count = 1
        while count < count_max and 0 <= page + step * count < pages and page + step * count not in self._kept:
            count += 1
        return count

    def _load(self, page: int, count: int) -> tuple[int, str]:
        base = page * self._page_chars
        text = self._fetched(base, min(base + count * self._page_chars, self._chars))
        with self._lock:
            for number in range(count):
                self._keep(page + number, text[number * self._page_chars : (number + 1) * self._page_chars])
            self._recent = (base, text)
        return base, text

    def _keep(self, page: int, text: str) -> None:
        self._kept_chars += len(text) - len(self._kept.pop(page, ""))
        self._kept[page] = text
        while self._kept and self._kept_chars > self._cache_chars_max:
            self._kept_chars -= len(self._kept.popitem(last=False)[1])

    def _holds(self, start: int, stop: int) -> bool:
        with self._lock:
            return all(page in self._kept for page in range(start // self._page_chars, -(-stop // self._page_chars)))

    def _direct(self, start: int, stop: int) -> str:
        step = _RUN_PAGES_MAX * self._page_chars
        return "".join([self._fetched(at, min(at + step, stop)) for at in range(start, stop, step)])

    def _fetched(self, start: int, stop: int) -> str:
        text = self._fetch(start, stop)
        if len(text) != stop - start:
            raise RuntimeError(f"asked for {stop - start} characters of the context and got {len(text)}")
        return text


def _whole(name: str) -> Callable[..., Any]:
    """The `str` method of that name, over the whole text as one `str`."""
    method = getattr(str, name)

    def call(self: PagedText, *args: Any, **kwargs: Any) -> Any:
        return method(str(self), *map(plain, args), **kwargs)

    call.__name__ = name
    call.__qualname__ = f"PagedText.{name}"
    call.__doc__ = method.__doc__
    return call


class PagedText:
    """A long text that behaves like `str` and loads its characters as you touch them.

    Use it like any string; whatever you cut out of it is a real `str`::

        len(context)                          # characters; costs nothing
        context[:1000], context[-500:]        # only what you slice is loaded
        context.find("needle"), context.count("\\n"), "needle" in context     # any size, page by page
        for line in context.lines(): ...      # any size, one line at a time
        context.split("\\n"), context.splitlines()                            # lists, for texts that fit in memory
        re.findall(r"user \\d+", context)      # the whole text at once
        str(context)                          # the whole text as one real str

    Everything that needs the whole text at once (str(context), the re functions, upper, strip, replace, hash ...)
    raises ValueError when the text is too large for that: slice it or go through context.lines() instead. Where a
    library insists on a real str (json.loads, "".join, io.StringIO), give it str(context) or a slice.
    """

    __slots__ = ("_chars", "_materialise_chars_max", "_materialise_lock", "_pages", "_whole_text")

    # See the head of the file. A class attribute, as `__class__` of instances only.
    __class__ = property(lambda self: str)

    def __init__(
        self,
        chars: int,
        fetch: Callable[[int, int], str],
        *,
        page_chars: int = 65536,
        cache_chars_max: int = 32 * 2**20,
        materialise_chars_max: int = 64 * 2**20,
    ) -> None:
        """Args:
        chars: length of the text in characters.
        fetch: gives exactly the characters [start, stop); may be called from several threads. What it raises
            reaches the program.
        page_chars: size of a page in characters.
        cache_chars_max: how many characters of pages to keep.
        materialise_chars_max: the longest `str` (or list of them) to build from the text.
        """
        if chars < 0 or page_chars < 1 or cache_chars_max < 0:
            raise ValueError("chars and cache_chars_max cannot be negative, and a page has at least one character")
        self._chars = chars
        self._materialise_chars_max = materialise_chars_max
        self._materialise_lock = threading.Lock()
        self._pages = _Pages(chars, fetch, page_chars, cache_chars_max)
        self._whole_text = "" if chars == 0 else None

    # --- the whole and its parts

    def __len__(self) -> int:
        return self._chars

    def __str__(self) -> str:
        if self._whole_text is None:
            with self._materialise_lock:
                if self._whole_text is None:
                    self._afford(self._chars)
                    self._whole_text = self._pages.slice(0, self._chars)
                    self._pages.clear()
        return self._whole_text

    def __repr__(self) -> str:
        return f"<context: a text of {self._chars:,} characters; print(context[:1000]) shows its beginning>"

    def __format__(self, spec: str) -> str:
        return format(str(self), plain(spec))

    def __hash__(self) -> int:
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
            self._afford(stop - start)
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
                    break  # the next position is not where the next block begins: start anew from there

    def _slice(self, start: int, stop: int) -> str:
        whole = self._whole_text
        return self._pages.slice(start, stop) if whole is None else whole[start:stop]

    def _blocks(self, start: int, stop: int) -> Iterator[_Block]:
        whole = self._whole_text
        if whole is None:
            return self._pages.blocks(start, stop)
        return iter([(0, whole, start, stop)] if start < stop else [])

    def _blocks_reversed(self, start: int, stop: int) -> Iterator[_Block]:
        whole = self._whole_text
        return self._pages.blocks_reversed(start, stop) if whole is None else self._blocks(start, stop)

    def _texts(self, start: int = 0) -> Iterator[str]:
        return (text[low:high] for _, text, low, high in self._blocks(start, self._chars))

    def _afford(self, chars: int) -> None:
        if chars > self._materialise_chars_max:
            raise TextTooLarge(
                f"this needs {chars:,} characters of the context in memory at once, and at most "
                f"{self._materialise_chars_max:,} are allowed: take slices (context[a:b]), go through context.lines(), "
                "or use find, count and `in`, which work at any size"
            )

    # --- looking for something

    def find(self, sub: str, start: SupportsIndex | None = None, end: SupportsIndex | None = None, /) -> int:
        """As str.find, page by page: works at any size."""
        sub = plain(sub)
        "".find(sub)  # raises what str raises for what is no text
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
        if not isinstance(sub, str):
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
        """The range that `str` methods mean: `start` may lie beyond the end, and then not even "" is found."""
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
        """Matches do not overlap, so what a match has used up must not be in the seam: `split` tells what is left."""
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

    # --- taking it apart

    def lines(self, keepends: bool = False) -> Iterator[str]:
        """One line after the other, as splitlines() has them, without holding the text: works at any size."""
        return chain.from_iterable(self._line_batches(bool(keepends)))

    def splitlines(self, keepends: bool = False) -> list[str]:
        """As str.splitlines: a list of all lines. `lines()` gives the same one by one, at any size."""
        self._afford(self._chars)
        return _flat(self._line_batches(bool(keepends)))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        """As str.split."""
        sep = plain(sep)
        maxsplit = operator.index(maxsplit)
        "".split(sep, maxsplit)  # raises what str raises for what is no separator
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
        seam = ""  # the end of the unfinished field: a separator may begin in it
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
        if not issubclass(type(other), (str, PagedText)):
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
        if not issubclass(type(other), (str, PagedText)):
            return NotImplemented
        self._afford(self._chars + len(other))
        return f"{self!s}{plain(other)}"

    def __radd__(self, other: Any) -> str:
        if not issubclass(type(other), str):
            return NotImplemented
        self._afford(self._chars + len(other))
        return f"{other}{self!s}"

    def __mul__(self, times: SupportsIndex) -> str:
        self._afford(self._chars * max(0, operator.index(times)))
        return str(self) * times

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> str:
        return str.__mod__(str(self), values)

    def _ordered(self, other: Any, compare: Callable[[Any, Any], bool]) -> Any:
        if not issubclass(type(other), (str, PagedText)):
            return NotImplemented
        pair = self._first_difference(other)
        return compare(*pair or (len(self), len(other)))

    def _first_difference(self, other: str | PagedText) -> tuple[str, str] | None:
        """The first blocks that differ, up to the shorter text's end."""
        for base, text, a, b in self._blocks(0, min(self._chars, len(other))):
            mine, theirs = text[a:b], other[base + a : base + b]
            if mine != theirs:
                return mine, theirs
        return None

    @property
    def format(self) -> Callable[..., str]:
        """The real `str`'s own method, not one of ours: a restricted language knows `str.format` and tames it."""
        return str(self).format

    @property
    def format_map(self) -> Callable[..., str]:
        """As `format`."""
        return str(self).format_map

    # --- the rest of str, over the whole text

    capitalize = _whole("capitalize")
    casefold = _whole("casefold")
    center = _whole("center")
    encode = _whole("encode")
    expandtabs = _whole("expandtabs")
    isalnum = _whole("isalnum")
    isalpha = _whole("isalpha")
    isascii = _whole("isascii")
    isdecimal = _whole("isdecimal")
    isdigit = _whole("isdigit")
    isidentifier = _whole("isidentifier")
    islower = _whole("islower")
    isnumeric = _whole("isnumeric")
    isprintable = _whole("isprintable")
    isspace = _whole("isspace")
    istitle = _whole("istitle")
    isupper = _whole("isupper")
    join = _whole("join")
    ljust = _whole("ljust")
    lower = _whole("lower")
    lstrip = _whole("lstrip")
    maketrans: Any = staticmethod(str.maketrans)
    removeprefix = _whole("removeprefix")
    removesuffix = _whole("removesuffix")
    replace = _whole("replace")
    rjust = _whole("rjust")
    rsplit = _whole("rsplit")
    rstrip = _whole("rstrip")
    strip = _whole("strip")
    swapcase = _whole("swapcase")
    title = _whole("title")
    translate = _whole("translate")
    upper = _whole("upper")
    zfill = _whole("zfill")


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


def _found(at: int) -> int:
    if at < 0:
        raise ValueError("substring not found")
    return at


def _choices(method: str, parts: Any) -> Iterator[str]:
    """The texts that `startswith` and `endswith` are given. Raises what `str` raises for anything else."""
    parts = plain(parts)
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
