"""What a policy value may be: one class per kind of value, each with the same five methods.

- `read`: from what TOML gave to what the program keeps, or `Wrong` with what to write instead;
- `write`: back to a TOML literal, so that reading it gives the same value again;
- `looser`: does a value allow something that the base value does not? This method makes `extends` safe: a kind that
  cannot answer it cannot be a field of a policy;
- `bound`: the most that a base allows, in words, for the message of a refusal;
- `schema`: the same rule as JSON Schema.

A kind never sees the file: it raises `Wrong`, and the reader adds file, line and key.
"""

from __future__ import annotations

import json
import keyword
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Final, Generic, Literal, TypeAlias, TypeVar

from belljar import units
from belljar.errors import InvalidInput
from belljar.glyphs import glyphs
from belljar.policy.expressions import InvalidExpression, any_of

__all__ = [
    "Amount",
    "Choice",
    "Contents",
    "Cost",
    "Count",
    "Days",
    "Duration",
    "Expressions",
    "Kind",
    "Label",
    "MemoryTime",
    "Patterns",
    "PatternsByDepth",
    "Period",
    "Pin",
    "Prose",
    "Required",
    "Room",
    "Sharing",
    "Size",
    "Subset",
    "Texts",
    "Time",
    "Unit",
    "Variables",
    "Version",
    "Volume",
    "Wait",
    "Wrong",
    "at_depth",
    "shown",
]

T = TypeVar("T")
# The unit of a limit's numbers: milliseconds, bytes, nano-dollars, MiB-seconds, or "" for a count.
Unit: TypeAlias = Literal["ms", "bytes", "nanousd", "mib_s", ""]

UNLIMITED: Final = "unlimited"
ANY: Final = "any"
_SHOWN_CHARS_MAX: Final = 60
# A model name as providers write them, and `*`. No other glob sign: with `*` alone, one match answers "does that
# pattern match every name that this one matches?" (see `Patterns`); with `?` and `[...]` it would not.
_PATTERN: Final = re.compile(r"[A-Za-z0-9*][A-Za-z0-9*._:/@+-]{0,127}", re.ASCII)
_LIST_ITEMS_MAX: Final = 64
_SHA256: Final = "sha256:[0-9a-f]{64}"
_LABEL: Final = r"[a-z][a-z0-9-]{0,63}"
_PROSE_CHARS_MAX: Final = 500
# A shorter text turns up by chance; many longer ones, escaped, are too much for one search.
_TEXT_CHARS_MIN: Final = 8
_TEXT_CHARS_MAX: Final = 64
# A longer list is written with a line for each item; a line of a policy has a limit.
_LITERAL_CHARS_MAX: Final = 500
_VARIABLE: Final = "(?!.*__)[A-Za-z][A-Za-z0-9_]{0,63}"
# The restricted language has no variables of these names.
_NO_VARIABLES: Final = frozenset({"breakpoint", "builtins", "print", "printed"})


class Wrong(InvalidInput):
    """A value that a kind refuses. `index` is the offending item of a list, where there is one."""

    def __init__(self, message: str, *, index: int | None = None) -> None:
        super().__init__(message, code="policy.value")
        self.index = index


def shown(value: object) -> str:
    """The value on one line, as the file has it or close to it, cut to a readable length."""
    match value:
        case dict():
            return "a table"
        case list():
            return "a list"
        case bool():
            return str(value).lower()
        case str():
            text = json.dumps(_cut(value), ensure_ascii=False)
        case int():
            # Never str(): Python refuses to write out integers of more than 4300 digits.
            text = str(value) if abs(value) < 1 << 128 else "a number of over 128 bits"
        case _:
            text = _cut(repr(value))
    return glyphs(text)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS_MAX else text[:_SHOWN_CHARS_MAX] + "..."


@dataclass(frozen=True)
class Kind(ABC, Generic[T]):
    """One field's rule. `key` is its name in the file; the attribute's name may end in a unit instead.

    `optional`: a file that extends nothing may leave it out, and then it is `absent`. `unit` is that of its numbers in
    a refusal or a result.
    """

    key: str
    optional: ClassVar[bool] = False
    absent: ClassVar[Any] = None
    unit: ClassVar[Unit] = ""

    @abstractmethod
    def read(self, value: object) -> T: ...

    @abstractmethod
    def write(self, value: T) -> str: ...

    @abstractmethod
    def looser(self, mine: T, base: T) -> bool: ...

    def under(self, mine: T, base: T) -> T:
        """The value in force where `mine`, which is not looser, overrides `base`."""
        return mine

    def bound(self, base: T) -> str:
        return f"at most {self.write(base)}"

    @abstractmethod
    def schema(self) -> dict[str, Any]: ...


# --- quantities: less is tighter


@dataclass(frozen=True)
class Size(Kind[int]):
    """Bytes, written `"256 MiB"`, between `least` and `most` (same notation)."""

    unit: ClassVar[Unit] = "bytes"
    least: str
    most: str

    def read(self, value: object) -> int:
        if not isinstance(value, str):
            raise Wrong(f'is {shown(value)}, which is not a valid size; add a unit, as in "256 MiB"')
        size = _units(units.parse_size, value)
        _within(size, units.parse_size(self.least), units.parse_size(self.most), value, self.least, self.most)
        return size

    def write(self, value: int) -> str:
        return f'"{units.format_size(value)}"'

    def looser(self, mine: int, base: int) -> bool:
        return mine > base

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": "^[0-9]{1,15} (B|KiB|MiB|GiB)$", **_range_words(self.least, self.most)}


@dataclass(frozen=True)
class Room(Size):
    """How much is kept of something that need not be kept at all."""

    optional = True
    absent = 64 * 2**20


@dataclass(frozen=True)
class Duration(Kind[float]):
    """Seconds, written `"60 s"`, between `least` and `most` (same notation)."""

    unit: ClassVar[Unit] = "ms"
    least: str
    most: str

    def read(self, value: object) -> float:
        if not isinstance(value, str):
            raise Wrong(f'is {shown(value)}, which is not a valid duration; add a unit, as in "60 s"')
        seconds = _units(units.parse_duration, value)
        _within(
            seconds, units.parse_duration(self.least), units.parse_duration(self.most), value, self.least, self.most
        )
        return seconds

    def write(self, value: float) -> str:
        return f'"{units.format_duration(value)}"'

    def looser(self, mine: float, base: float) -> bool:
        return mine > base

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": "^[0-9]{1,15} (ms|s|min|h)$", **_range_words(self.least, self.most)}


@dataclass(frozen=True)
class Wait(Duration):
    """How long a call may wait before it is refused, or an answer is kept; without a value not at all.

    None is looser than another: it spends nothing that could not be spent otherwise, and is the run's or tenant's own.
    """

    optional = True
    absent = 0.0

    def looser(self, mine: float, base: float) -> bool:
        return False


@dataclass(frozen=True)
class Count(Kind[int]):
    """A plain whole number between `least` and `most`."""

    least: int
    most: int

    def read(self, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise Wrong(
                f"is {shown(value)}, which is not a valid count; use a plain whole number, such as {self.least}"
            )
        _within(value, self.least, self.most, value, str(self.least), str(self.most))
        return value

    def write(self, value: int) -> str:
        return str(value)

    def looser(self, mine: int, base: int) -> bool:
        return mine > base

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True)
class Days(Count):
    """For how long something is kept; shorter is tighter."""

    optional = True
    absent = 30


class _Quota(Kind[int | None]):
    """A quota; `"unlimited"` is `None`, and looser than any number. Silence is never unlimited."""

    def write(self, value: int | None) -> str:
        return f'"{UNLIMITED}"' if value is None else self._written(value)

    def looser(self, mine: int | None, base: int | None) -> bool:
        return base is not None and (mine is None or mine > base)

    @abstractmethod
    def _written(self, value: int) -> str:
        """A number in TOML."""


@dataclass(frozen=True)
class Amount(_Quota):
    """A quota on something counted, from 0 to `most`."""

    most: int

    def read(self, value: object) -> int | None:
        if value == UNLIMITED:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise Wrong(f'is {shown(value)}, which is not a valid amount; use a plain whole number or "{UNLIMITED}"')
        _within(value, 0, self.most, value, "0", str(self.most))
        return value

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "integer", "minimum": 0, "maximum": self.most}, {"const": UNLIMITED}]}

    def _written(self, value: int) -> str:
        return str(value)


@dataclass(frozen=True)
class _Measured(_Quota):
    """A quota of what has a unit, from nothing to `most`, which is written as people write it."""

    most: str
    # What a value of another type is told, nothing in its unit, and how it is written.
    wrong: ClassVar[str]
    nothing: ClassVar[str]
    pattern: ClassVar[str]
    # So many of the quota's numbers are one of what `parse` gives.
    scale: ClassVar[int] = 1

    def read(self, value: object) -> int | None:
        if value == UNLIMITED:
            return None
        if not isinstance(value, str):
            raise Wrong(f'is {shown(value)}, which is not {self.wrong}, or "{UNLIMITED}"')
        amount = _units(self.parse, value)
        _within(amount, 0, self.parse(self.most), value, self.nothing, self.most)
        return round(amount * self.scale)

    def schema(self) -> dict[str, Any]:
        amount = {"type": "string", "pattern": self.pattern, **_range_words(self.nothing, self.most)}
        return {"anyOf": [amount, {"const": UNLIMITED}]}

    def _written(self, value: int) -> str:
        return f'"{self.format(value)}"'

    @staticmethod
    @abstractmethod
    def parse(text: str) -> float: ...

    @staticmethod
    @abstractmethod
    def format(value: int, /) -> str: ...


class Volume(_Measured):
    """A quota in bytes, written `"10 GiB"`."""

    unit = "bytes"
    wrong = 'a valid size; add a unit, as in "10 GiB"'
    nothing = "0 B"
    pattern = "^[0-9]{1,15} (B|KiB|MiB|GiB)$"
    parse = staticmethod(units.parse_size)
    format = staticmethod(units.format_size)


class Cost(_Measured):
    """A quota in nano-dollars, written `"0.50 USD"`."""

    unit = "nanousd"
    wrong = 'an amount of money; use one such as "0.50 USD"'
    nothing = "0.00 USD"
    pattern = "^[0-9]{1,9}([.][0-9]{1,9})? USD$"
    parse = staticmethod(units.parse_money)
    format = staticmethod(units.format_money)


class Time(_Measured):
    """A quota of time in milliseconds, written `"2 h"`."""

    unit = "ms"
    wrong = 'a valid time; add a unit, as in "2 h"'
    nothing = "0 s"
    pattern = "^[0-9]{1,15} (ms|s|min|h)$"
    scale = 1000
    parse = staticmethod(units.parse_duration)

    @staticmethod
    def format(value: int, /) -> str:
        return units.format_duration(value / 1000)


class MemoryTime(_Measured):
    """A quota of memory times time in MiB-seconds, written `"500 GiBh"`."""

    unit = "mib_s"
    wrong = 'memory times time; add a unit, as in "500 GiBh"'
    nothing = "0 MiBs"
    pattern = "^[0-9]{1,15} (MiBs|GiBs|GiBh)$"
    parse = staticmethod(units.parse_memory_time)
    format = staticmethod(units.format_memory_time)


# --- lists


@dataclass(frozen=True)
class Subset(Kind[tuple[str, ...]]):
    """What may be chosen, out of `known`, default first. Fewer is tighter, and an extending policy keeps the base's
    order: otherwise a policy that counts as tighter could make plain Python the default language.

    `others` matches names that third parties may add to `known`.
    """

    known: tuple[str, ...]
    others: re.Pattern[str] | None = None

    def read(self, value: object) -> tuple[str, ...]:
        names = _names(value, self.known, self.others)
        if not names:
            raise Wrong(f"allows nothing; write at least one of {_words(self.known)}")
        return names

    def write(self, value: tuple[str, ...]) -> str:
        return _list_literal(value)

    def looser(self, mine: tuple[str, ...], base: tuple[str, ...]) -> bool:
        return not set(mine) <= set(base)

    def under(self, mine: tuple[str, ...], base: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in base if name in mine)

    def bound(self, base: tuple[str, ...]) -> str:
        return f"only names out of {self.write(base)}"

    def schema(self) -> dict[str, Any]:
        items: dict[str, Any] = {"enum": list(self.known)}
        if self.others is not None:
            items = {"anyOf": [items, {"type": "string", "pattern": f"^{self.others.pattern}$"}]}
        return {"type": "array", "items": items, "uniqueItems": True, "minItems": 1}


@dataclass(frozen=True)
class Required(Kind[tuple[str, ...]]):
    """What is required, out of `known`. More is tighter; kept in the order of `known`, so order means nothing."""

    known: tuple[str, ...]

    def read(self, value: object) -> tuple[str, ...]:
        names = _names(value, self.known)
        return tuple(name for name in self.known if name in names)

    def write(self, value: tuple[str, ...]) -> str:
        return _list_literal(value)

    def looser(self, mine: tuple[str, ...], base: tuple[str, ...]) -> bool:
        return not set(mine) >= set(base)

    def bound(self, base: tuple[str, ...]) -> str:
        return f"at least {self.write(base)}"

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": {"enum": list(self.known)}, "uniqueItems": True}


@dataclass(frozen=True)
class Contents(Kind[tuple[str, ...]]):
    """What is kept, out of `known`: a list, `"full"` for all, `"metadata"` for nothing. Fewer is tighter.

    Kept in the order of `known`, so order means nothing; without a value nothing is kept.
    """

    optional = True
    absent = ()
    known: tuple[str, ...]

    def read(self, value: object) -> tuple[str, ...]:
        if value == "metadata":
            return ()
        if value == "full":
            return self.known
        if isinstance(value, str):
            raise Wrong(f'is {shown(value)}; use "metadata", "full", or a list of {_words(self.known)}')
        names = _names(value, self.known)
        return tuple(name for name in self.known if name in names)

    def write(self, value: tuple[str, ...]) -> str:
        if not value:
            return '"metadata"'
        return '"full"' if value == self.known else _list_literal(value)

    def looser(self, mine: tuple[str, ...], base: tuple[str, ...]) -> bool:
        return not set(mine) <= set(base)

    def bound(self, base: tuple[str, ...]) -> str:
        return f'"metadata", or names out of {_list_literal(base)}' if base else '"metadata"'

    def schema(self) -> dict[str, Any]:
        names = {"type": "array", "items": {"enum": list(self.known)}, "uniqueItems": True}
        return {"anyOf": [{"enum": ["metadata", "full"]}, names]}


@dataclass(frozen=True)
class Patterns(Kind[tuple[str, ...]]):
    """Allowed names; `*` stands for any run of characters. Kept sorted, so order means nothing.

    A pattern is covered by another when that one matches it *as text*: its `*` is then a character that no literal part
    of the other can match, so only a `*` there can have matched it, and so matches whatever it stands for.
    """

    def read(self, value: object) -> tuple[str, ...]:
        patterns = _strings(value)
        for index, pattern in enumerate(patterns):
            if _PATTERN.fullmatch(pattern) is None:
                advice = 'letters, digits, . _ : / @ + - and "*", such as "claude-*"'
                raise Wrong(f"has {shown(pattern)}, which is not a valid name pattern; use {advice}", index=index)
        _no_twin(patterns)
        return tuple(sorted(patterns))

    def write(self, value: tuple[str, ...]) -> str:
        return _list_literal(value)

    def looser(self, mine: tuple[str, ...], base: tuple[str, ...]) -> bool:
        return not all(any(fnmatchcase(pattern, wider) for wider in base) for pattern in mine)

    def bound(self, base: tuple[str, ...]) -> str:
        return f"only patterns within {self.write(base)}"

    def schema(self) -> dict[str, Any]:
        item = {"type": "string", "pattern": f"^{_PATTERN.pattern}$"}
        return {"type": "array", "items": item, "uniqueItems": True, "maxItems": _LIST_ITEMS_MAX}


@dataclass(frozen=True)
class PatternsByDepth(Kind[tuple[tuple[str, ...], ...]]):
    """Allowed names for each depth, from 0 on; the last list is for all that is deeper, and no list allows any name."""

    most: int

    def read(self, value: object) -> tuple[tuple[str, ...], ...]:
        if not isinstance(value, list):
            raise Wrong(f'is {shown(value)}; write a list of patterns for each depth, as in [["big-*"], ["small-*"]]')
        if len(value) > self.most:
            raise Wrong(f"has {len(value)} lists; write at most {self.most}")
        return tuple(self._names(names, depth) for depth, names in enumerate(value))

    def _names(self, value: object, depth: int) -> tuple[str, ...]:
        try:
            return Patterns(self.key).read(value)
        except Wrong as wrong:
            raise Wrong(f"at depth {depth} {wrong}", index=depth) from None

    def write(self, value: tuple[tuple[str, ...], ...]) -> str:
        return "[" + ",\n".join(map(_list_literal, value)) + "]"

    def looser(self, mine: tuple[tuple[str, ...], ...], base: tuple[tuple[str, ...], ...]) -> bool:
        depths = range(max(len(mine), len(base)))
        rule = Patterns(self.key)
        return bool(base) and (not mine or any(rule.looser(at_depth(mine, n), at_depth(base, n)) for n in depths))

    def bound(self, base: tuple[tuple[str, ...], ...]) -> str:
        return "at each depth only patterns within its own"

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": Patterns(self.key).schema(), "maxItems": self.most}


def at_depth(lists: tuple[tuple[str, ...], ...], depth: int) -> tuple[str, ...]:
    """The list for this depth; there is at least one."""
    return lists[min(depth, len(lists) - 1)]


@dataclass(frozen=True)
class Expressions(Kind[tuple[str, ...]]):
    """What is denied wherever one of these, in RE2's syntax, matches. More is tighter; order means nothing."""

    def read(self, value: object) -> tuple[str, ...]:
        patterns = _strings(value)
        for index, pattern in enumerate(patterns):
            if not pattern.isprintable() or len(pattern) > _PROSE_CHARS_MAX:
                advice = f"printable text of at most {_PROSE_CHARS_MAX} characters; RE2 has escapes for the others"
                raise Wrong(f"has {shown(pattern)}; write {advice}", index=index)
            if _expression([pattern], index).search(memoryview(b"")):
                what = "which matches the empty text, and so every one"
                raise Wrong(f"has {shown(pattern)}, {what}; write what is to be found", index=index)
        _no_twin(patterns)
        if patterns:
            _expression(patterns, None)
        return tuple(sorted(patterns))

    def write(self, value: tuple[str, ...]) -> str:
        return _list_literal([_escaped(pattern) for pattern in value])

    def looser(self, mine: tuple[str, ...], base: tuple[str, ...]) -> bool:
        return not set(mine) >= set(base)

    def bound(self, base: tuple[str, ...]) -> str:
        return "all of those, and more if you like"

    def schema(self) -> dict[str, Any]:
        item = {"type": "string", "minLength": 1, "maxLength": _PROSE_CHARS_MAX}
        return {"type": "array", "items": item, "uniqueItems": True, "maxItems": _LIST_ITEMS_MAX}


@dataclass(frozen=True)
class Texts(Expressions):
    """Texts that are looked for as they stand. More is tighter; order means nothing."""

    def read(self, value: object) -> tuple[str, ...]:
        texts = _strings(value)
        for index, text in enumerate(texts):
            if not text.isprintable() or not _TEXT_CHARS_MIN <= len(text) <= _TEXT_CHARS_MAX:
                advice = f"{_TEXT_CHARS_MIN} to {_TEXT_CHARS_MAX} printable characters that nothing else has in it"
                raise Wrong(f"has {shown(text)}; write {advice}", index=index)
        _no_twin(texts)
        return tuple(sorted(texts))

    def schema(self) -> dict[str, Any]:
        item = {"type": "string", "minLength": _TEXT_CHARS_MIN, "maxLength": _TEXT_CHARS_MAX}
        return {"type": "array", "items": item, "uniqueItems": True, "maxItems": _LIST_ITEMS_MAX}


def _expression(patterns: Sequence[str], index: int | None) -> Any:
    try:
        return any_of(patterns)
    except InvalidExpression as error:
        what = "these together" if index is None else shown(patterns[0])
        raise Wrong(
            f"has {what}, which RE2 does not accept ({shown(str(error))}); write it "
            "without look-around and back-references",
            index=index,
        ) from None


@dataclass(frozen=True)
class Variables(Kind[tuple[str, ...]]):
    """Names of variables that a program of any language may have, in order. Says nothing about strictness."""

    def read(self, value: object) -> tuple[str, ...]:
        names = _strings(value)
        for index, name in enumerate(names):
            taken = keyword.iskeyword(name) or name in _NO_VARIABLES
            if taken or re.fullmatch(_VARIABLE, name, re.ASCII) is None:
                advice = 'letters, digits and single "_", such as "final_answer"'
                raise Wrong(f"has {shown(name)}, which no program can use as a variable; use {advice}", index=index)
        _no_twin(names)
        return tuple(names)

    def write(self, value: tuple[str, ...]) -> str:
        return _list_literal(value)

    def looser(self, mine: tuple[str, ...], base: tuple[str, ...]) -> bool:
        return False

    def schema(self) -> dict[str, Any]:
        item = {"type": "string", "pattern": f"^{_VARIABLE}$"}
        about = {"description": "names of variables"}
        return {"type": "array", "items": item, "uniqueItems": True, "maxItems": _LIST_ITEMS_MAX, **about}


# --- words


@dataclass(frozen=True)
class Choice(Kind[str]):
    """One of some words, the loosest first."""

    known: tuple[str, ...]

    def read(self, value: object) -> str:
        if not isinstance(value, str) or value not in self.known:
            raise Wrong(f"is {shown(value)}; use {_words(self.known)}")
        return value

    def write(self, value: str) -> str:
        return f'"{value}"'

    def looser(self, mine: str, base: str) -> bool:
        return self.known.index(mine) < self.known.index(base)

    def bound(self, base: str) -> str:
        return _words(self.known[self.known.index(base) :])

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.known)}


@dataclass(frozen=True)
class Sharing(Choice):
    """Whether what is the tenant's own is shared; `off` without a value. Neither is looser, as with `Wait`."""

    optional = True
    absent = "off"

    def looser(self, mine: str, base: str) -> bool:
        return False

    def bound(self, base: str) -> str:
        return _words(self.known)


@dataclass(frozen=True)
class Period(Choice):
    """The period over which an amount is counted. Longer is tighter: a bound on a month bounds each of its days."""

    def read(self, value: object) -> str:
        if not isinstance(value, str) or value not in self.known:
            raise Wrong(f"is {shown(value)}, which is not a valid period here; use {_words(self.known)}")
        return value


@dataclass(frozen=True)
class Pin(Kind[str | None]):
    """The one digest allowed; `"any"`, or no value at all, is `None`.

    The only kind for which silence is consent: belljar itself then decides what is used.
    """

    optional = True

    def read(self, value: object) -> str | None:
        if value == ANY:
            return None
        if not isinstance(value, str) or re.fullmatch(_SHA256, value) is None:
            raise Wrong(
                f'is {shown(value)}, which is not a digest; use "sha256:" and 64 lower-case hex digits, or "{ANY}"'
            )
        return value

    def write(self, value: str | None) -> str:
        return f'"{ANY if value is None else value}"'

    def looser(self, mine: str | None, base: str | None) -> bool:
        return base is not None and mine != base

    def bound(self, base: str | None) -> str:
        return f"only {self.write(base)}, or leave it out"

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "pattern": f"^{_SHA256}$"}, {"const": ANY}]}


@dataclass(frozen=True)
class Version(Kind[int]):
    """The format's own version. One is known."""

    known: int

    def read(self, value: object) -> int:
        if type(value) is not int or value != self.known:
            raise Wrong(f"is {shown(value)}, which this version does not read; write {self.known}")
        return self.known

    def write(self, value: int) -> str:
        return str(value)

    def looser(self, mine: int, base: int) -> bool:
        return mine != base

    def schema(self) -> dict[str, Any]:
        return {"const": self.known}


@dataclass(frozen=True)
class Label(Kind[str]):
    """A short name for logs and messages. Says nothing about strictness."""

    def read(self, value: object) -> str:
        if not isinstance(value, str) or re.fullmatch(_LABEL, value) is None:
            raise Wrong(
                f'is {shown(value)}, which is not a name; use lower-case letters, digits and "-", such as "standard"'
            )
        return value

    def write(self, value: str) -> str:
        return f'"{value}"'

    def looser(self, mine: str, base: str) -> bool:
        return False

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{_LABEL}$"}


@dataclass(frozen=True)
class Prose(Kind[str]):
    """One line for people. Says nothing about strictness."""

    def read(self, value: object) -> str:
        if not isinstance(value, str) or not value or not value.isprintable() or len(value) > _PROSE_CHARS_MAX:
            raise Wrong(f"is {shown(value)}; write one printable line of 1 to {_PROSE_CHARS_MAX} characters")
        return value

    def write(self, value: str) -> str:
        return f'"{_escaped(value)}"'

    def looser(self, mine: str, base: str) -> bool:
        return False

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "maxLength": _PROSE_CHARS_MAX}


# --- shared checks


def _units(parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except InvalidInput as error:
        raise Wrong(f"= {error}") from error


def _within(value: float, least: float, most: float, given: object, least_text: str, most_text: str) -> None:
    if not least <= value <= most:
        raise Wrong(f"is {shown(given)}, which is out of range; use {least_text} to {most_text}")


def _range_words(least: str, most: str) -> dict[str, str]:
    """JSON Schema cannot compare quantities with units: it describes the range, and the parser enforces it."""
    return {"description": f"{least} to {most}"}


def _words(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _list_literal(names: Sequence[str]) -> str:
    words = _words(names)
    if len(words) <= _LITERAL_CHARS_MAX:
        return f"[{words}]"
    return "[\n" + "".join(f'    "{name}",\n' for name in names) + "]"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _strings(value: object) -> list[str]:
    if not isinstance(value, list):
        raise Wrong(f'is {shown(value)}; write a list of strings, as in ["..."]')
    if len(value) > _LIST_ITEMS_MAX:
        raise Wrong(f"has {len(value)} items; write at most {_LIST_ITEMS_MAX}")
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise Wrong(f"has {shown(item)} in it; write only strings", index=index)
    return value


def _names(value: object, known: tuple[str, ...], others: re.Pattern[str] | None = None) -> tuple[str, ...]:
    names = _strings(value)
    for index, name in enumerate(names):
        if name not in known and not (others is not None and others.fullmatch(name)):
            raise Wrong(f"has {shown(name)}, which is not known; use only {_words(known)}", index=index)
    _no_twin(names)
    return tuple(names)


def _no_twin(names: list[str]) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            raise Wrong(f"has {shown(name)} twice; write it once", index=index)
