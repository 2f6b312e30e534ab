"""The pages under a paged text: fetched when needed, kept within one memory budget for the whole box.

A page is `page_chars` characters. The pages of all texts are in one `PageCache`, which evicts the least recently used;
its budget is in bytes of memory: a character takes one, two or four of them, as CPython stores it. A miss right after
the previous page counts as a scan: each such miss fetches twice as many pages as the last in one request, up to
`_RUN_PAGES_MAX`. A scan of 64 MB then takes 70 requests instead of 4096, and an eighth of the CPU time; and a scan that
stops early has fetched, and is charged for, at most twice what it asked for. Slices longer than `_DIRECT_PAGES` pages
are fetched exactly and not kept.

Threads. The lock is held only for dictionary work, never during a fetch: two threads that miss the same page may both
fetch it, which is wasteful but correct.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator

__all__ = ["Block", "PageCache", "Pages"]

# Small, because a program that looks at two hundred characters pays for a whole page.
_PAGE_CHARS = 1 << 14
# One request for a scan carries at most this many pages: 1 Mi characters.
_RUN_PAGES_MAX = 64
# Up to this size a slice goes through the cache, because its neighbours are likely to be needed next.
_DIRECT_PAGES = 4
# Besides it there may be one run as it arrived (as bytes and as text, at worst 4 MiB each) and one batch of lines: with
# them a program that only reads stays below 64 MiB.
_CACHE_BYTES_MAX = 24 << 20

# (position of the text's first character, text, from, to): the characters asked for are text[from:to].
Block = tuple[int, str, int, int]


class PageCache:
    """The pages of all texts that are kept in memory. Only `recent` may be read without the `lock`."""

    def __init__(self, bytes_max: int = _CACHE_BYTES_MAX) -> None:
        if bytes_max < 0:
            raise ValueError("a cache cannot have less than nothing")
        self.bytes_max = bytes_max
        self.lock = threading.Lock()
        # The last block used, as (owner, position, text): replaced as a whole, so readers need no lock.
        self.recent = (-1, 0, "")
        self._kept: OrderedDict[tuple[int, int], str] = OrderedDict()
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """The memory that the pages take up now."""
        return self._bytes

    def __contains__(self, key: tuple[int, int]) -> bool:
        return key in self._kept

    def get(self, key: tuple[int, int]) -> str | None:
        text = self._kept.get(key)
        if text is not None:
            self._kept.move_to_end(key)
        return text

    def keep(self, key: tuple[int, int], text: str) -> None:
        self._drop(key)
        self._kept[key] = text
        self._bytes += sys.getsizeof(text)
        while self._bytes > self.bytes_max:
            self._bytes -= sys.getsizeof(self._kept.popitem(last=False)[1])

    def forget(self, owner: int) -> None:
        """Drop all pages of one text."""
        for key in [key for key in self._kept if key[0] == owner]:
            self._drop(key)
        self.recent = (-1, 0, "")

    def _drop(self, key: tuple[int, int]) -> None:
        text = self._kept.pop(key, None)
        if text is not None:
            self._bytes -= sys.getsizeof(text)


class Pages:
    """The pages of one text. Safe to use from several threads."""

    _owners = itertools.count()

    def __init__(
        self,
        chars: int,
        fetch: Callable[[int, int], str],
        cache: PageCache | None = None,
        page_chars: int = _PAGE_CHARS,
    ) -> None:
        """Args:
        chars: length of the text in characters.
        fetch: gives exactly the characters [start, stop); may be called from several threads.
        cache: where pages are kept, beside those of other texts; its own cache when None.
        page_chars: size of a page in characters.
        """
        if chars < 0 or page_chars < 1:
            raise ValueError("a text cannot have fewer than 0 characters, nor a page fewer than 1")
        self.chars = chars
        self._fetch = fetch
        self._page_chars = page_chars
        self._cache = PageCache() if cache is None else cache
        self._lock = self._cache.lock
        self._owner = next(self._owners)
        # A run of the widest characters takes at most a quarter of the cache.
        self._run_max = max(1, min(_RUN_PAGES_MAX, self._cache.bytes_max // (16 * page_chars)))
        self._run = 1  # pages fetched at the last miss
        self._next = -1  # the page at which a scan would miss next, forwards
        self._previous = -1  # and backwards

    def slice(self, start: int, stop: int) -> str:
        """Characters [start, stop), where 0 <= start <= stop <= chars."""
        owner, base, text = self._cache.recent
        if owner == self._owner and base <= start and stop <= base + len(text):
            return text[start - base : stop - base]
        if stop - start > _DIRECT_PAGES * self._page_chars and not self._holds(start, stop):
            return self._direct(start, stop)
        return "".join([text[low:high] for _, text, low, high in self.blocks(start, stop)])

    def blocks(self, start: int, stop: int) -> Iterator[Block]:
        """[start, stop) in order, in blocks that are never empty."""
        while start < stop:
            base, text = self._forwards(start // self._page_chars)
            yield base, text, start - base, min(stop - base, len(text))
            start = base + len(text)

    def blocks_reversed(self, start: int, stop: int) -> Iterator[Block]:
        """The same, the last block first."""
        while start < stop:
            base, text = self._backwards((stop - 1) // self._page_chars)
            yield base, text, max(start - base, 0), stop - base
            stop = base

    def clear(self) -> None:
        with self._lock:
            self._cache.forget(self._owner)

    def _forwards(self, page: int) -> tuple[int, str]:
        with self._lock:
            text = self._hit(page)
            if text is None:
                self._run = min(2 * self._run, self._run_max) if page == self._next else 1
                count = self._missing(page, self._run, 1)
                self._next = page + count
        return (page * self._page_chars, text) if text is not None else self._load(page, count, page)

    def _backwards(self, page: int) -> tuple[int, str]:
        with self._lock:
            text = self._hit(page)
            if text is None:
                self._run = min(2 * self._run, self._run_max) if page == self._previous else 1
                count = self._missing(page, self._run, -1)
                self._previous = page - count
        return (page * self._page_chars, text) if text is not None else self._load(page - count + 1, count, page)

    def _hit(self, page: int) -> str | None:
        text = self._cache.get((self._owner, page))
        if text is not None:
            self._cache.recent = (self._owner, page * self._page_chars, text)
        return text

    def _missing(self, page: int, count_max: int, step: int) -> int:
        """How many pages from `page` on exist and are not kept: at least this one."""
        pages = -(-self.chars // self._page_chars)
        count = 1
        while count < count_max and 0 <= page + step * count < pages and not self._keeps(page + step * count):
            count += 1
        return count

    def _keeps(self, page: int) -> bool:
        return (self._owner, page) in self._cache

    def _load(self, page: int, count: int, wanted: int) -> tuple[int, str]:
        """Fetch `count` pages from `page` on, of which `wanted` is asked for and the others are read ahead."""
        try:
            base, text = self._fetched_pages(page, count)
        except Exception:
            if count == 1:
                raise
            # What is left of an allowance may be too little to read ahead, and enough for what is asked for.
            page, count = wanted, 1
            base, text = self._fetched_pages(page, count)
        with self._lock:
            for number in range(count):
                piece = text[number * self._page_chars : (number + 1) * self._page_chars]
                self._cache.keep((self._owner, page + number), piece)
            self._cache.recent = (self._owner, base, text)
        return base, text

    def _fetched_pages(self, page: int, count: int) -> tuple[int, str]:
        base = page * self._page_chars
        return base, self._fetched(base, min(base + count * self._page_chars, self.chars))

    def _holds(self, start: int, stop: int) -> bool:
        with self._lock:
            return all(map(self._keeps, range(start // self._page_chars, -(-stop // self._page_chars))))

    def _direct(self, start: int, stop: int) -> str:
        step = _RUN_PAGES_MAX * self._page_chars
        return "".join([self._fetched(at, min(at + step, stop)) for at in range(start, stop, step)])

    def _fetched(self, start: int, stop: int) -> str:
        text = self._fetch(start, stop)
        if len(text) != stop - start:
            raise RuntimeError(f"asked for {stop - start} characters of the context and got {len(text)}")
        return text
