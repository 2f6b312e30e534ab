"""What a program gives as its answer, in JSON: one encoder for `FINAL`, `FINAL_VAR`, `SUBMIT` and `answer`.

Besides what JSON has, these have a form in it:

    the paged context, anywhere inside       its text, items or entries, if the answer may be that long
    tuples, sets, deques, ranges, views      lists; a set sorted, where its items can be
    dicts of every kind, dataclasses         objects; a key that is a number, a bool or None as `json` writes it
    members of an Enum                       their value
    dates, times, Decimal, UUID, paths       text, as `str` or `isoformat` gives it
    bytes                                    text, where they are UTF-8

Anything else is refused with advice: half of an answer, or an object's `repr` in place of its contents, would be taken
for the answer. So are floats that are not numbers (`nan`), and dicts in which two keys would become one.

Whatever the program made is read with the built-in type's own functions (see `exact`), and other modules are looked at
only if the program has loaded them.
"""

from __future__ import annotations

import json
import math
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, MappingView
from typing import Any, Literal

from guest.context.collection import PagedDict, PagedList
from guest.context.paged import LookAlike, PagedText
from guest.exact import exact, exact_text

__all__ = ["encoded"]

_Read = Callable[[Any, str], Any]

# By default Python reads and writes no longer numbers, and neither does the host, which counts a sign as a digit.
_DIGITS_MAX = 4300
_BITS_MAX = 14281
_TOO_LONG = 10**_DIGITS_MAX
_NAME_CHARS_MAX = 80
# The module and name of the class, and the method that writes its values.
_TEXTS: tuple[tuple[str, str, str], ...] = (
    ("datetime", "datetime", "isoformat"),
    ("datetime", "date", "isoformat"),
    ("datetime", "time", "isoformat"),
    ("datetime", "timedelta", "__str__"),
    ("decimal", "Decimal", "__str__"),
    ("fractions", "Fraction", "__str__"),
    ("uuid", "UUID", "__str__"),
    ("pathlib", "PurePath", "__str__"),
)
# Types from which nobody can derive, and sets.
_LISTS: tuple[type, ...] = (set, frozenset, range, type({}.keys()), type({}.values()), type({}.items()))
_LIBRARY = ("collections.abc", "guest.context.collection")
_FUNCTIONS = (
    *(types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.MethodWrapperType),
    *(types.MethodDescriptorType, types.WrapperDescriptorType),
)
_NO_KEY = object()


def encoded(
    value: object, *, afford: Callable[[int], None], chars_max: int, read: _Read = getattr
) -> tuple[Literal["text", "json"], str]:
    """The value in the form in which it is sent: one text as it is, anything else as JSON.

    Args:
        value: made by the program.
        afford: called with a size once the answer is known to have at least so many characters; raises.
        chars_max: the size above which `afford` is called.
        read: reads a field of the program's own objects.

    Raises:
        TypeError: something in it has no form in JSON; the message says what to write instead.
    """
    try:
        made = _Encoder(afford, chars_max, read).value(value)
        return ("text", made) if type(made) is str else ("json", json.dumps(made, ensure_ascii=False, allow_nan=False))
    except RecursionError:
        raise TypeError("an answer cannot be nested this deep: give less of it, or text") from None


class _Encoder:
    """Turns a program's values into values that `json` writes as they are."""

    def __init__(self, afford: Callable[[int], None], chars_max: int, read: _Read) -> None:
        self._afford = afford
        self._chars_max = chars_max
        self._read = read
        self._chars = 0
        self._around: set[int] = set()  # the containers around the value under way

    def value(self, given: object) -> Any:
        """Encode any value."""
        self._count(1)
        value = exact(given)
        single = self._single(value)
        if single is not _NO_KEY:
            return single
        if id(given) in self._around:
            raise TypeError("an answer cannot hold a list or dict that holds itself")
        self._around.add(id(given))
        try:
            return self._container(value)
        finally:
            self._around.discard(id(given))

    def _count(self, chars: int) -> None:
        self._afford_more(chars)
        self._chars += chars

    def _afford_more(self, chars: int) -> None:
        if self._chars + chars > self._chars_max:
            self._afford(self._chars + chars)

    def _single(self, value: Any) -> Any:
        """The encoded value if it is not a container, else `_NO_KEY`."""
        cls = type(value)
        if value is None or cls is bool:
            return value
        if cls is str:
            self._count(len(value))
            return value
        if cls is int or cls is float:
            return _number(value)
        if issubclass(cls, PagedText):
            self._count(len(value))  # before anything is read
            return str(value)
        if cls is bytes or cls is bytearray or cls is memoryview:
            return self._single(_decoded(bytes(value)))
        text = _text_of(value)
        return _NO_KEY if text is None else self._single(text)

    def _container(self, value: Any) -> Any:
        cls = type(value)
        if issubclass(cls, LookAlike):
            self._afford_more(value._items.key_chars() + value._items.value_chars())
        if cls is dict or cls is PagedDict or cls is types.MappingProxyType:
            return self._object(value.items())
        if cls is list or cls is tuple or cls is PagedList:
            return self._list(value)
        if issubclass(cls, deque):
            return self._list(deque.__iter__(value))
        if cls in _LISTS or _is_view(cls) or _is_a(cls, "array", "array"):
            made = self._list(value)
            return _sorted(made) if cls in (set, frozenset) else made
        if _is_a(cls, "enum", "Enum"):
            return self.value(_state_of(value).get("_value_"))
        fields = _fields_of(cls)
        if fields is not None:
            return self._object((name, self._read(value, name)) for name in fields)
        if issubclass(cls, types.SimpleNamespace):
            return self._object(_state_of(value).items())
        raise TypeError(f"an answer cannot hold {_named(value)}: {_advice(value)}")

    def _list(self, items: Any) -> list[Any]:
        if type(items) is range:
            self._afford_more(len(items))
        return [self.value(item) for item in items]

    def _object(self, pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for given, item in pairs:
            key = self._key(given)
            if key in made:
                raise TypeError(f"two keys of a dict would both be {key[:_NAME_CHARS_MAX]!r} in JSON: rename one")
            made[key] = self.value(item)
        return made

    def _key(self, given: object) -> str:
        """As `json` writes keys."""
        key = exact(given)
        if _is_a(type(key), "enum", "Enum"):
            key = exact(_state_of(key).get("_value_"))
        key = self._single(key)
        if key is _NO_KEY:
            raise TypeError(f"a key in an answer must be a str or a number, not {_named(given)}: write str(key)")
        return key if type(key) is str else json.dumps(key)


def _number(value: Any) -> Any:
    if type(value) is float and not math.isfinite(value):
        raise TypeError(f"an answer cannot hold {value}, which JSON does not have: give None or text in its place")
    if type(value) is int and value.bit_length() >= _BITS_MAX and not -(_TOO_LONG // 10) < value < _TOO_LONG:
        raise TypeError(f"an answer cannot hold a number of more than {_DIGITS_MAX} digits: give it as hex(value)")
    return value


def _decoded(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        advice = "decode them with their encoding, or write base64.b64encode(value).decode()"
        raise TypeError(f"an answer cannot hold bytes that are not UTF-8: {advice}") from None


def _class_of(module: str, name: str) -> Any:
    """The class, if its module is loaded; otherwise there can be no values of it."""
    return getattr(sys.modules.get(module), name, None)


def _is_a(cls: type, module: str, name: str) -> bool:
    base = _class_of(module, name)
    return base is not None and issubclass(cls, base)


def _is_view(cls: type) -> bool:
    """Whether it is one of the library's own views of mappings, or of ours."""
    return cls.__module__ in _LIBRARY and issubclass(cls, MappingView)


def _text_of(value: object) -> str | None:
    for module, name, how in _TEXTS:
        if _is_a(type(value), module, name):
            text: str = exact_text(getattr(_class_of(module, name), how)(value))
            return text
    return None


def _state_of(value: object) -> dict[str, Any]:
    state: dict[str, Any] = object.__getattribute__(value, "__dict__")
    return state


def _fields_of(cls: type) -> list[str] | None:
    """The names of a dataclass's fields, None for any other class."""
    dataclasses: Any = sys.modules.get("dataclasses")
    if dataclasses is None or not dataclasses.is_dataclass(cls):
        return None
    return [field.name for field in dataclasses.fields(cls)]


def _sorted(items: list[Any]) -> list[Any]:
    try:
        return sorted(items)
    except TypeError:
        return items


def _named(value: object) -> str:
    if issubclass(type(value), type):
        return f"the class {_name_of(value)}"
    if issubclass(type(value), _FUNCTIONS):
        return "a function"
    # A class of ours stands in for one of Python's that a program must not get.
    name = "object of this kind" if type(value).__module__.startswith("guest.") else _name_of(type(value))
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _name_of(cls: Any) -> str:
    name: str = exact_text(type.__dict__["__name__"].__get__(cls))
    return name[:_NAME_CHARS_MAX]


def _advice(value: object) -> str:
    cls = type(value)
    if any("__next__" in vars(base) for base in cls.__mro__) and not _is_a(cls, "io", "IOBase"):
        return "write list(value)"
    if issubclass(cls, _FUNCTIONS):
        return "call it, or give its name as text"
    if issubclass(cls, (type, types.ModuleType)):
        return "give its name as text"
    if _is_a(cls, "io", "StringIO"):
        return "write value.getvalue()"
    if _is_a(cls, "io", "IOBase"):
        return "write value.read()"
    if cls.__name__ == "Match":
        return "write value.group()"
    return "write str(value), or a dict of what it holds"
