"""`context` as a list or a dict whose items stay on the other side of the wall.

All strings of the collection are one after the other in one paged text: for a dict first the keys, then the values. A
second paged text, the directory, has a record of 42 ASCII characters for each item::

    key_start 12 | key_chars 6 | start 12 | chars 10 | form 1 | "\\n"        hexadecimal, in characters of the text

`form` is `t` where the item is this text, and `j` where the item is the JSON value in this text. So neighbours are
beside each other, and going through the items reads both texts from front to back.

Like `PagedText`, these are not subclasses of what they look like, because C functions would see the subclass's own,
empty, storage. They pass `isinstance`, and C functions take them for what they are: something with `__iter__`, or with
`keys` and `__getitem__`. A function that insists on a real list or dict raises TypeError, whose message has the type's
name and so says what to write instead. They cannot be changed: every method that would change them says how to get a
copy.

`print(context.keys())` shows the keys as a dict does, if there are not too many; else what to write. `repr` always says
what to write: it may be called when nobody asked to read the context, as by a traceback that shows the variables.

An item too large to be one `str` is a PagedText over its range, any other text an `ItemText`: a real `str` that also
has `search`, `count_matches` and `lines`. The collection has them too: `search` and `count_matches` go through the
items where they are, each as a separate text, and say in which one a hit is. An item that is not a text is searched as
its JSON, as stored.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator, KeysView, Mapping, MappingView, Sequence, ValuesView
from collections.abc import ItemsView as _ItemsView
from itertools import chain
from typing import Any, NamedTuple, NoReturn, SupportsIndex

from guest.context.paged import LookAlike, PagedText, TextTooLarge, plain
from guest.context.placeholder import mark
from guest.context.pushdown import Hits, Pushdown, found_by, refuse_flags, source_of, wanted_of
from guest.exact import exact, exact_text

__all__ = ["RECORD_CHARS", "ItemText", "PagedDict", "PagedList", "reference_to"]

RECORD_CHARS = 42
"""The length of one record of the directory."""

# Records read at once: few at first, because the first may be all that is needed; then as many as fit in a few pages.
_BATCH_MIN = 16
_BATCH_MAX = 1024
# How much of the text is read at once when going through the items.
_STRETCH_CHARS = 1 << 14
# What an item takes besides its characters: the object's header, and its place in the list.
_ITEM_CHARS = 64
# Keys are kept in a dict up to this much memory; beyond it, each look-up goes through the keys.
_KEYS_BYTES_MAX = 16 << 20
_KEY_BYTES = 160
# Up to this size, in characters of the context, the views of a dict print like a dict's. A root model reads it.
_VIEW_CHARS_MAX = 1 << 14
_QUOTES_CHARS = 4


class _Record(NamedTuple):
    key_start: int
    key_chars: int
    start: int
    chars: int
    form: str


def _parsed(line: str) -> _Record:
    return _Record(int(line[:12], 16), int(line[12:18], 16), int(line[18:30], 16), int(line[30:40], 16), line[40])


class ItemText(str):
    """A text from a list or dict: a `str` that can be searched as the context can. Its slices are plain `str`."""

    __slots__ = ()

    # `type(item)` of restricted programs goes by this.
    __class__ = property(lambda self: str)

    def search(self, pattern: Any, start: SupportsIndex = 0, limit: SupportsIndex = 100, stop: Any = None) -> Hits:
        """The first matches of a regular expression, as `search` of the context; with `re`, as the text is here."""
        compiled, low, high = self._sought(pattern, start, stop)
        return found_by(compiled, compiled.finditer(str.__str__(self), low, high), wanted_of(limit), high)

    def count_matches(self, pattern: Any, start: SupportsIndex = 0, stop: SupportsIndex | None = None) -> int:
        """The number of matches of a regular expression that do not overlap."""
        compiled, low, high = self._sought(pattern, start, stop)
        return sum(1 for _ in compiled.finditer(str.__str__(self), low, high))

    def _sought(self, pattern: Any, start: SupportsIndex, stop: Any) -> tuple[re.Pattern[str], int, int]:
        refuse_flags(start)
        low, high, _ = slice(operator.index(start), stop).indices(len(self))
        return re.compile(source_of(plain(pattern))), low, high

    def lines(self, first: int | None = None, last: int | None = None, *, keepends: bool = False) -> Any:
        """One line after the other; with numbers, a list of the lines first, first + 1, ... last - 1, from 0."""
        listed = self.splitlines(bool(keepends))
        return iter(listed) if first is None and last is None else listed[first:last]

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> Any:
        return str, (str.__str__(self),)


# `type(item)` shows it as a `str` everywhere but in this file.
ItemText.__name__ = ItemText.__qualname__ = "str"
ItemText.__module__ = "builtins"


class _Items:
    """The items of a collection by their number: what the list and the dict have in common."""

    __slots__ = ("_count", "_directory", "_first", "_keyed", "_name", "_origin", "_text")

    def __init__(self, text: PagedText, directory: PagedText, count: int, name: str, *, keyed: bool = False) -> None:
        if len(directory) != count * RECORD_CHARS:
            raise ValueError(
                f"a directory of {count} items has {count * RECORD_CHARS} characters, not {len(directory)}"
            )
        self._text = text
        self._directory = directory
        self._count = count
        self._first = 0  # the number that item 0 has in the directory
        self._name = name
        self._origin = (name, 0)
        self._keyed = keyed

    def part(self, start: Any, stop: Any, name: str | None = None) -> _Items:
        """Items [start, stop), as a slice counts them; parts of it are named after `name`, where it has one."""
        low, high, _ = slice(start, stop).indices(self._count)
        made: _Items = object.__new__(_Items)
        made._text, made._directory, made._keyed = self._text, self._directory, self._keyed
        made._count, made._first = max(0, high - low), self._first + low
        whole, base = made._origin = self._origin if name is None else (name, made._first)
        made._name = name or f"{whole}.part({made._first - base}, {made._first - base + made._count})"
        return made

    def __len__(self) -> int:
        return self._count

    def record(self, number: int) -> _Record:
        at = (self._first + number) * RECORD_CHARS
        return _parsed(self._directory._slice(at, at + RECORD_CHARS))

    def lines(self, positions: range) -> Iterator[str]:
        """The records of these items as stored; neighbours are read together."""
        base = self._first
        if abs(positions.step) != 1:
            for at in positions:
                yield self._directory._slice((base + at) * RECORD_CHARS, (base + at + 1) * RECORD_CHARS)
            return
        size = _BATCH_MIN
        while positions:
            batch, positions = positions[:size], positions[size:]
            size = min(2 * size, _BATCH_MAX)
            low, high = min(batch[0], batch[-1]), max(batch[0], batch[-1]) + 1
            lines = self._directory._slice((base + low) * RECORD_CHARS, (base + high) * RECORD_CHARS)
            starts = range(0, len(lines), RECORD_CHARS)
            for start in starts if positions.step > 0 else reversed(starts):
                yield lines[start : start + RECORD_CHARS]

    def keys(self, positions: range) -> Iterator[str]:
        cut = self._cutter(positions)
        for line in self.lines(positions):
            start = int(line[:12], 16)
            yield cut(start, start + int(line[12:18], 16))

    def values(self, positions: range) -> Iterator[Any]:
        cut = self._cutter(positions)
        for number, line in zip(positions, self.lines(positions), strict=True):
            yield self._value(_parsed(line), number, cut)

    def value(self, number: int) -> Any:
        """The item. Raises TextTooLarge for a JSON value that does not fit; a text that does not fit is paged."""
        return self._value(self.record(number), number, self._text._slice)

    def _value(self, record: _Record, number: int, cut: Callable[[int, int], str]) -> Any:
        start, stop = record.start, record.start + record.chars
        if record.form == "j":
            self._text._afford(record.chars)
            return json.loads(cut(start, stop))
        if record.chars > self._text._materialise_chars_max:
            index = repr(self._key(record)) if self._keyed else number
            return self._text._part(start, stop, f"{self._name}[{index}]")
        return ItemText(cut(start, stop))

    def _key(self, record: _Record) -> str:
        return self._text._slice(record.key_start, record.key_start + record.key_chars)

    def _cutter(self, positions: range) -> Callable[[int, int], str]:
        """A function that cuts neighbouring pieces out of the text, from a stretch read at once where possible."""
        text = self._text
        if abs(positions.step) != 1:
            return text._slice
        base, held = 0, ""

        def cut(start: int, stop: int) -> str:
            nonlocal base, held
            if start < base or stop > base + len(held):
                if stop - start >= _STRETCH_CHARS:
                    return text._slice(start, stop)
                base = start if positions.step > 0 else max(0, stop - _STRETCH_CHARS)
                held = text._slice(base, min(base + _STRETCH_CHARS, len(text)) if positions.step > 0 else stop)
            return held[start - base : stop - base]

        return cut

    def key_chars(self) -> int:
        """The characters of all keys, which are together."""
        if not self._count:
            return 0
        first, last = self.record(0), self.record(self._count - 1)
        return last.key_start + last.key_chars - first.key_start

    def value_chars(self) -> int:
        """The characters of all values, as stored."""
        if not self._count:
            return 0
        return self.end() - self.record(0).start

    def end(self) -> int:
        """Where the last value ends in the text."""
        if not self._count:
            return 0
        last = self.record(self._count - 1)
        return last.start + last.chars

    def place(self, start: Any) -> int | None:
        """The position in the text of item `start`, or of the place (item, character)."""
        refuse_flags(start)
        item, char = start if type(start) is tuple and len(start) == 2 else (start, 0)
        item, char = exact(operator.index(item)), exact(operator.index(char))
        item = max(item + self._count, 0) if item < 0 else item
        return min(self.record(item).start + max(0, char), self.end()) if item < self._count else None

    def pushdown(self) -> Pushdown:
        found = self._text._pushdown
        assert found is not None, "a collection is searched where its text is"
        return found

    def texts(self) -> Iterator[Any]:
        """The text of each item: itself, or its JSON."""
        positions = range(self._count)
        cut = self._cutter(positions)
        for number, line in zip(positions, self.lines(positions), strict=True):
            yield self._value(_parsed(line)._replace(form="t"), number, cut)

    def cost(self, positions: range) -> int:
        """What these items take at least, in characters, all at once; of neighbours exactly that."""
        if abs(positions.step) != 1 or not positions:
            return len(positions) * _ITEM_CHARS
        low, high = self.record(min(positions)), self.record(max(positions))
        return len(positions) * _ITEM_CHARS + high.start + high.chars - low.start

    def fits(self, positions: range) -> bool:
        """Whether neighbours can be had at once."""
        limit = self._text._materialise_chars_max
        return len(positions) * _ITEM_CHARS <= limit and self.cost(positions) <= limit

    def afforded(self, positions: range) -> Iterator[Any]:
        """The items. Raises TextTooLarge as soon as it is clear that they are too large to have at once."""
        self.afford(len(positions) * _ITEM_CHARS)
        self.afford(self.cost(positions))
        cost = 0
        cut = self._cutter(positions)
        for number, line in zip(positions, self.lines(positions), strict=True):
            record = _parsed(line)
            cost += _ITEM_CHARS + record.chars
            self.afford(cost)
            yield self._value(record, number, cut)

    def afford(self, chars: int) -> None:
        limit = self._text._materialise_chars_max
        if chars > limit:
            raise TextTooLarge(
                f"this needs {chars:,} characters of the context in memory at once, and at most {limit:,} are allowed: "
                f"take fewer items, or go through them one by one: for item in {self._name}: ..."
            )

    def numbers_of(self, value: Any, positions: range) -> Iterator[int]:
        """The positions of `value`. Only items of its length are read."""
        value = exact_text(value)
        wanted = f"{len(value):010x}t" if isinstance(value, str) else "j"
        for number, line in zip(positions, self.lines(positions), strict=True):
            if line[30:41].endswith(wanted):
                item = self._value(_parsed(line), number, self._text._slice)
                if item is value or item == value:
                    yield number

    def number_of_key(self, key: str, positions: range) -> int | None:
        """The position of the key. Only keys of its length are read."""
        wanted = f"{len(key):06x}"
        for number, line in zip(positions, self.lines(positions), strict=True):
            if line[12:18] == wanted and self._key(_parsed(line)) == key:
                return number
        return None


class _Searched(LookAlike):
    """What the list and the dict have in common: searching all items, and their lines."""

    __slots__ = ()
    _items: _Items
    _name: str

    def _key_of(self, item: int) -> Any:
        """What the program calls this item by."""
        raise NotImplementedError

    def search(self, pattern: Any, start: Any = 0, limit: SupportsIndex = 100) -> Hits:
        """The first matches of a regular expression in all items, each a separate text, as a list of hits.

        They are like those of a text; `hit.key` is the key or number of the item, `hit.start` the place in it. `start`
        is the number of the item to start with, or `hits.next`, which is None when there are no more. Works at any
        size: the items are searched where they are, with RE2.
        """
        source, wanted = source_of(plain(pattern)), wanted_of(limit)
        hits = Hits()
        at, end, base = self._items.place(start), self._items.end(), self._items._first
        while at is not None and len(hits) < wanted:
            found, at = self._items.pushdown().find_items(source, at, end, wanted - len(hits))
            for hit, item, char in found:
                hits.append(hit.moved(-char, self._key_of(item - base)))
                last = item - base, char
        if hits and at is not None:
            hits.next = (last[0], at - last[1])
        return hits

    def count_matches(self, pattern: Any) -> int:
        """The number of matches of a regular expression in all items. Works at any size, as `search`."""
        source = source_of(plain(pattern))
        total, at, end = 0, self._items.place(0), self._items.end()
        while at is not None:
            count, at = self._items.pushdown().count_items(source, at, end)
            total += count
        return total

    def lines(self, *numbers: Any, keepends: bool = False) -> Iterator[str]:
        """The lines of all items, one item after the other: works at any size."""
        if numbers:
            name = self._name
            raise TypeError(f"lines() of many texts takes no numbers: write {name}[key].lines(a, b) for one of them")
        return chain.from_iterable(text.lines(keepends=keepends) for text in self._items.texts())


def _immutable(method: str, copy: str) -> Callable[..., NoReturn]:
    """A method that would change the collection."""

    def refuse(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"the context cannot be changed ({method}): make a copy first, {copy}")

    refuse.__name__ = method
    return refuse


class PagedList(_Searched):
    """A long list that behaves like `list` and loads its items as you touch them. It cannot be changed::

    len(context), context[0], context[-1]
    context[:10]                          # a real list; of more items than fit in memory a part
    context.part(a, b)                    # the items of context[a:b], none of them loaded; used like context
    for item in context: ...              # any size, one item at a time
    "this" in context, context.index("this"), context.count("this")       # any size
    context.search(r"user (\\d+)")        # matches in all items: hit.key says in which; hit.start, hit.text, hit[1]
    context.count_matches(r"user \\d+"), context.lines()                   # over all items as well
    items = list(context)                 # a real list, if it fits into memory
    """

    __slots__ = ("_items", "_name")

    __class__ = property(lambda self: list)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, text: PagedText, directory: PagedText, items: int, *, name: str = "context") -> None:
        """Args:
        text: the strings of all items, one after the other. Its limit for one `str` applies to the list as well.
        directory: the records.
        items: how many there are.
        name: what the program calls it, for messages.
        """
        self._items = _Items(text, directory, items, name)
        self._name = name

    def part(self, start: SupportsIndex | None = None, stop: SupportsIndex | None = None, /) -> PagedList:
        """The items of list[start:stop] as a paged list of their own, numbered from 0: nothing is loaded."""
        return self._part(start, stop)

    def _part(self, start: Any, stop: Any, name: str | None = None) -> PagedList:
        made: PagedList = object.__new__(PagedList)
        made._items = self._items.part(start, stop, name)
        made._name = made._items._name
        return made

    def _key_of(self, item: int) -> int:
        return item

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, key: SupportsIndex | slice) -> Any:
        if isinstance(key, slice):
            positions = range(len(self._items))[key]
            if positions.step == 1 and not self._items.fits(positions):
                return self.part(positions.start, positions.stop)
            return list(self._items.afforded(positions))
        try:
            index = operator.index(key)
        except TypeError:
            raise TypeError(f"list indices must be integers or slices, not {type(key).__name__}") from None
        count = len(self._items)
        if not -count <= index < count:
            raise IndexError("list index out of range")
        return self._items.value(index % count)

    def __iter__(self) -> Iterator[Any]:
        return self._items.values(range(len(self._items)))

    def __reversed__(self) -> Iterator[Any]:
        return self._items.values(range(len(self._items))[::-1])

    def __contains__(self, value: object) -> bool:
        return next(self._items.numbers_of(value, range(len(self._items))), None) is not None

    def index(self, value: Any, start: SupportsIndex = 0, stop: SupportsIndex = 2**63 - 1, /) -> int:
        """As list.index; reads only items that may be it."""
        positions = range(len(self._items))[operator.index(start) : operator.index(stop)]
        for number in self._items.numbers_of(value, positions):
            return number
        raise ValueError(f"{value!r:.200} is not in list")

    def count(self, value: Any, /) -> int:
        """As list.count; reads only items that may be it."""
        return sum(1 for _ in self._items.numbers_of(value, range(len(self._items))))

    def copy(self) -> list[Any]:
        """A real list of all items."""
        return list(self._items.afforded(range(len(self._items))))

    def _real(self) -> list[Any]:
        return self.copy()

    def __copy__(self) -> list[Any]:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        return self.copy()

    def __repr__(self) -> str:
        name = self._name
        about = f"{name} {mark()}: a list of {len(self):,} items"
        return f"<{about}; {name}[:10] gives the first ones, for item in {name} all of them>"

    def __str__(self) -> str:
        return str(self.copy())

    def __eq__(self, other: object) -> bool:
        other = exact(other)
        if type(other) not in (list, PagedList):
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

    def _ordered(self, other: Any, compare: Callable[[Any, Any], Any]) -> Any:
        other = exact(other)
        if type(other) not in (list, PagedList):
            return NotImplemented
        return compare(*self._first_difference(other) or (len(self), len(other)))

    def _first_difference(self, other: Iterable[Any]) -> tuple[Any, Any] | None:
        pairs = zip(self, other, strict=False)
        return next(((mine, theirs) for mine, theirs in pairs if mine is not theirs and mine != theirs), None)

    def __add__(self, other: Any) -> list[Any]:
        return self.copy() + exact(plain(other)) if issubclass(type(other), (list, PagedList)) else NotImplemented

    def __radd__(self, other: Any) -> list[Any]:
        return exact(other) + self.copy() if issubclass(type(other), list) else NotImplemented

    def __mul__(self, times: SupportsIndex) -> list[Any]:
        # Items are not copied: only their places are new.
        self._items.afford(len(self) * max(0, operator.index(times)) * 8)
        return self.copy() * operator.index(times)

    __rmul__ = __mul__

    append = _immutable("append", "items = list(context)")
    clear = _immutable("clear", "items = list(context)")
    extend = _immutable("extend", "items = list(context)")
    insert = _immutable("insert", "items = list(context)")
    pop = _immutable("pop", "items = list(context)")
    remove = _immutable("remove", "items = list(context)")
    reverse = _immutable("reverse", "items = list(context), or write reversed(context)")
    sort = _immutable("sort", "items = list(context), or write sorted(context)")
    __setitem__ = _immutable("assignment", "items = list(context)")
    __delitem__ = _immutable("del", "items = list(context)")


class PagedDict(_Searched):
    """A large dict that behaves like `dict` and loads its values as you touch them. It cannot be changed::

    len(context), context["name"], context.get("name"), "name" in context
    list(context)                         # the keys
    for name, value in context.items(): ...                               # any size, one value at a time
    context.search(r"user (\\d+)")        # matches in all values: hit.key says in which; hit.start, hit.text, hit[1]
    context.count_matches(r"user \\d+"), context.lines()                   # over all values as well
    context.part(a, b)                    # the entries number a to b - 1, none of them loaded; used like context
    entries = dict(context)               # a real dict, if it fits into memory
    """

    __slots__ = ("_items", "_keys_bytes_max", "_last", "_name", "_numbers")

    __class__ = property(lambda self: dict)
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        text: PagedText,
        directory: PagedText,
        items: int,
        *,
        name: str = "context",
        keys_bytes_max: int = _KEYS_BYTES_MAX,
    ) -> None:
        """Args:
        text: all keys, then the texts of all values. Its limit for one `str` applies to the dict as well.
        directory: the records.
        items: how many there are.
        name: what the program calls it, for messages.
        keys_bytes_max: the memory that kept keys may take; beyond it a look-up goes through the keys.
        """
        self._items = _Items(text, directory, items, name, keyed=True)
        self._name = name
        self._keys_bytes_max = keys_bytes_max
        self._numbers: dict[str, int] | None = None
        self._last = -1  # where the last key was found: the next one is likely to be beside it

    def part(self, start: SupportsIndex | None = None, stop: SupportsIndex | None = None, /) -> PagedDict:
        """The entries from number `start` to before `stop`, in the dict's order, as a paged dict of their own."""
        return self._part(start, stop)

    def _part(self, start: Any, stop: Any, name: str | None = None) -> PagedDict:
        made: PagedDict = object.__new__(PagedDict)
        made._items = self._items.part(start, stop, name)
        made._name, made._keys_bytes_max = made._items._name, self._keys_bytes_max
        made._numbers, made._last = None, -1
        return made

    def _key_of(self, item: int) -> str:
        return self._items._key(self._items.record(item))

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[str]:
        return self._items.keys(range(len(self._items)))

    def __reversed__(self) -> Iterator[str]:
        return self._items.keys(range(len(self._items))[::-1])

    def _number(self, key: object) -> int | None:
        """Where the key is, or None. Raises TypeError for what cannot be a key of a dict."""
        key = plain(key)
        hash(key)
        if type(key) is not str:
            return None
        return self._known().get(key) if self._keeps_keys() else self._looked_for(key)

    def _keeps_keys(self) -> bool:
        """Whether they fit. Checked only at a look-up, because nothing may be read before the program runs."""
        if self._numbers is not None or not len(self):
            return True
        # A character takes up to four bytes.
        return len(self) * _KEY_BYTES + 4 * self._items.key_chars() <= self._keys_bytes_max

    def _known(self) -> dict[str, int]:
        if self._numbers is None:
            self._numbers = {key: number for number, key in enumerate(self)}
        return self._numbers

    def _looked_for(self, key: str) -> int | None:
        count = len(self._items)
        begin = (self._last + 1) % max(count, 1)
        for positions in (range(begin, count), range(begin)):
            number = self._items.number_of_key(key, positions)
            if number is not None:
                self._last = number
                return number
        return None

    def __contains__(self, key: object) -> bool:
        return self._number(key) is not None

    def __getitem__(self, key: Any) -> Any:
        number = self._number(key)
        if number is None:
            raise KeyError(key)
        return self._items.value(number)

    def get(self, key: Any, default: Any = None, /) -> Any:
        """As dict.get."""
        number = self._number(key)
        return default if number is None else self._items.value(number)

    def keys(self) -> KeysView[str]:
        """As dict.keys."""
        return _Keys(self)

    def values(self) -> ValuesView[Any]:
        """As dict.values: loads them one by one."""
        return _Values(self)

    def items(self) -> _ItemsView[str, Any]:
        """As dict.items: loads the values one by one."""
        return _Pairs(self)

    def _values(self, *, backwards: bool = False) -> Iterator[Any]:
        positions = range(len(self._items))
        return self._items.values(positions[::-1] if backwards else positions)

    def copy(self) -> dict[str, Any]:
        """A real dict of all entries."""
        values = self._items.afforded(range(len(self._items)))
        return dict(zip(self, list(values), strict=True))

    def _real(self) -> dict[str, Any]:
        return self.copy()

    def __copy__(self) -> dict[str, Any]:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return self.copy()

    def __repr__(self) -> str:
        name = self._name
        about = f"{name} {mark()}: a dict of {len(self):,} entries"
        return f"<{about}; list({name})[:10] gives the first keys, {name}[key] a value>"

    def __str__(self) -> str:
        return str(self.copy())

    def __eq__(self, other: object) -> bool:
        theirs = exact(other)
        if type(theirs) not in (dict, PagedDict):
            return NotImplemented
        nothing = object()
        return len(self) == len(theirs) and all(theirs.get(key, nothing) == value for key, value in self.items())

    def __or__(self, other: Any) -> dict[str, Any]:
        return self.copy() | exact(plain(other)) if issubclass(type(other), (dict, PagedDict)) else NotImplemented

    def __ror__(self, other: Any) -> dict[str, Any]:
        return exact(other) | self.copy() if issubclass(type(other), dict) else NotImplemented

    fromkeys: Any = staticmethod(dict.fromkeys)
    clear = _immutable("clear", "entries = dict(context)")
    pop = _immutable("pop", "entries = dict(context)")
    popitem = _immutable("popitem", "entries = dict(context)")
    setdefault = _immutable("setdefault", "entries = dict(context)")
    update = _immutable("update", "entries = dict(context)")
    __setitem__ = _immutable("assignment", "entries = dict(context)")
    __delitem__ = _immutable("del", "entries = dict(context)")


class _View(MappingView):
    """How a view is shown."""

    _mapping: PagedDict
    _look: str
    _advice: str

    def _chars(self) -> int:
        raise NotImplementedError

    def __str__(self) -> str:
        if len(self) * _QUOTES_CHARS + self._chars() > _VIEW_CHARS_MAX:
            return repr(self)
        return f"{self._look}({list(self)!r})"  # type: ignore[call-overload]

    def __repr__(self) -> str:
        name = self._mapping._name
        return f"<{self._look} {mark()} of {len(self):,} in {name}; {self._advice.format(name=name)}>"


class _Keys(_View, KeysView[str]):
    _look = "dict_keys"
    _advice = "list({name})[:10] gives the first ones, for key in {name} all of them"

    def _chars(self) -> int:
        return self._mapping._items.key_chars()

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._mapping)


class _Values(_View, ValuesView[Any]):
    _look = "dict_values"
    _advice = "for value in {name}.values() gives one after the other"

    def _chars(self) -> int:
        return self._mapping._items.value_chars()

    def __iter__(self) -> Iterator[Any]:
        return self._mapping._values()

    def __reversed__(self) -> Iterator[Any]:
        return self._mapping._values(backwards=True)

    def __contains__(self, value: object) -> bool:
        items = self._mapping._items
        return next(items.numbers_of(value, range(len(items))), None) is not None


class _Pairs(_View, _ItemsView[str, Any]):
    _look = "dict_items"
    _advice = "for key, value in {name}.items() gives one after the other"

    def _chars(self) -> int:
        return self._mapping._items.key_chars() + self._mapping._items.value_chars()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return zip(self._mapping, self._mapping._values(), strict=True)

    def __contains__(self, pair: object) -> bool:
        pair = exact(pair)
        return type(pair) is tuple and len(pair) == 2 and super().__contains__(pair)

    def __reversed__(self) -> Iterator[tuple[str, Any]]:
        return zip(reversed(self._mapping), self._mapping._values(backwards=True), strict=True)


def reference_to(value: Any) -> dict[str, Any] | None:
    """What a message says of a context or a part of one; None for anything else."""
    if not issubclass(type(value), LookAlike):
        return None
    if issubclass(type(value), PagedText):
        first, count, text, items = value._base, len(value), value, False
    else:
        first, count, text, items = value._items._first, len(value), value._items._text, True
    assert text._pushdown is not None, "a context is where its text is"
    fields = {"doc": text._pushdown.doc, "start": first, "stop": first + count}
    return {key: number for key, number in fields.items() if number or key == "doc"} | (
        {"items": True} if items else {}
    )


# Patterns (`case [first, *rest]`, `case {"a": a}`) go by these registrations, not by `__class__`.
Sequence.register(PagedList)
Mapping.register(PagedDict)
# The name in messages of C functions, as with PagedText. An AttributeError shows the first 50 characters.
PagedList.__name__ = "PagedList (write list(context) or context[a:b])"
PagedDict.__name__ = "PagedDict (write dict(context) or context[key])"
for _class in (_Keys, _Values, _Pairs):
    _class.__name__ = _class._look
