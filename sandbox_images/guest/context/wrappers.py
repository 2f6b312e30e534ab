"""Modules whose C functions insist on a real `str`, for programs whose argument may be a look-alike.

Each looks like the module itself, except for a few functions and classes. These turn a look-alike into the real thing
first, if it fits in memory; otherwise the program gets TextTooLarge, which says what to write instead.
`csv.reader(context)` goes through the lines, at any size (over a real `str` it would go through the characters).
"""

from __future__ import annotations

import csv
import io
import json
import re
import string
import textwrap
import types
from collections.abc import Callable
from typing import Any

from guest.context import regex
from guest.context.paged import LookAlike, PagedText, plain, rows
from guest.exact import exact

__all__ = [
    "LATER",
    "BytesInto",
    "DictReader",
    "StringIO",
    "Template",
    "as_modules",
    "dump",
    "dumps",
    "later",
    "loads",
    "reader",
    "wrapped_textwrap",
]


class StringIO(io.StringIO):
    """`io.StringIO` that takes a look-alike as well."""

    def __init__(self, initial_value: Any = "", newline: str | None = "\n") -> None:
        super().__init__(plain(initial_value), newline)

    def write(self, text: Any, /) -> int:
        return super().write(plain(text))


class BytesInto:
    """`sys.stdout.buffer`: takes UTF-8, and writes it as text."""

    __slots__ = ("_write",)

    def __init__(self, write: Callable[[str], Any]) -> None:
        self._write = write

    def write(self, data: Any, /) -> int:
        exactly = bytes(memoryview(data))
        self._write(exactly.decode("utf-8", "replace"))
        return len(exactly)

    def flush(self) -> None:
        pass  # what is written is on its way


class Template(string.Template):
    """`string.Template` that takes a look-alike as well."""

    def __init__(self, template: Any) -> None:
        super().__init__(plain(template))


def loads(s: Any, **options: Any) -> Any:
    """`json.loads` that takes a look-alike as well."""
    return json.loads(plain(s), **options)


def dumps(obj: Any, *, default: Callable[[Any], Any] | None = None, **options: Any) -> str:
    """`json.dumps` that writes look-alikes as what they look like, wherever they are in `obj`."""
    # With an indent the encoder is Python code, which asks `isinstance` and takes a look-alike for the real thing.
    real = plain(obj) if options.get("indent") is None else _plain_all(obj, frozenset())
    return json.dumps(real, default=_default(default), **options)


def dump(obj: Any, fp: Any, *, default: Callable[[Any], Any] | None = None, **options: Any) -> None:
    """As `dumps`, into a file."""
    fp.write(dumps(obj, default=default, **options))


def _plain_all(value: Any, within: frozenset[int]) -> Any:
    """The value without look-alikes in its lists and dicts; what is within itself is left for `json` to refuse."""
    value = plain(value)
    if id(value) in within or not issubclass(type(value), (list, tuple, dict)):
        return value
    within |= {id(value)}
    if issubclass(type(value), dict):
        return {plain(key): _plain_all(item, within) for key, item in exact(value).items()}
    return [_plain_all(item, within) for item in exact(value)]


def _default(given: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    def default(value: Any) -> Any:
        if issubclass(type(value), LookAlike):
            return plain(value)
        if given is not None:
            return given(value)
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")

    return default


def reader(csvfile: Any, /, *args: Any, **options: Any) -> Any:
    """`csv.reader`; reads a paged text line by line."""
    return csv.reader(_lines(csvfile), *args, **options)


class DictReader(csv.DictReader):  # type: ignore[type-arg]
    """`csv.DictReader`; reads a paged text line by line."""

    def __init__(self, f: Any, *args: Any, **options: Any) -> None:
        super().__init__(_lines(f), *args, **options)


def _lines(source: Any) -> Any:
    return rows(source) if issubclass(type(source), PagedText) else source


def _wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with real texts as its arguments, the first of them named `text`."""

    def call(text: Any, *args: Any, **options: Any) -> Any:
        text = plain(text)
        if type(text) is not str:  # any other object would be handed the table with which all texts are translated
            raise TypeError(f"{function.__name__}() needs a str, not {type(text).__name__}")
        return function(text, *map(plain, args), **{name: plain(value) for name, value in options.items()})

    call.__name__ = call.__qualname__ = function.__name__
    call.__doc__ = function.__doc__
    return call


def wrapped_textwrap() -> dict[str, Callable[..., Any]]:
    """The functions of `textwrap`, for look-alikes as well."""
    names = ("dedent", "fill", "indent", "shorten", "wrap")
    return {name: _wrapped(getattr(textwrap, name)) for name in names}


def as_modules() -> dict[str, types.ModuleType]:
    """What `import` returns for these names to a program in plain Python."""
    own = vars(regex.as_module())
    return {
        "csv": _module(csv, {"reader": reader, "DictReader": DictReader}),
        "io": _module(io, {"StringIO": StringIO}),
        "json": _module(json, {"dump": dump, "dumps": dumps, "loads": loads}),
        "re": _module(re, {name: own[name] for name in own["__all__"]}),
        "string": _module(string, {"Template": Template}),
        "textwrap": _module(textwrap, wrapped_textwrap()),
    }


# The functions that insist on a real `str`, of modules that are loaded only when imported.
LATER = {
    "html": ("escape", "unescape"),
    "unicodedata": ("is_normalized", "normalize"),
    "uuid": ("uuid3", "uuid5"),
}


def later(real: types.ModuleType) -> types.ModuleType:
    """What `import` returns for one of these, just loaded."""
    return _module(real, {name: _plainly(getattr(real, name)) for name in LATER[real.__name__]})


def _plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        return function(*map(plain, args), **{name: plain(value) for name, value in options.items()})

    call.__name__ = call.__qualname__ = function.__name__
    call.__doc__ = function.__doc__
    return call


def _module(real: types.ModuleType, own: dict[str, Any]) -> types.ModuleType:
    """A module like `real` with some names of our own; what `real` gets later (a submodule) is found as well."""
    module = types.ModuleType(real.__name__, real.__doc__)
    module.__dict__.update(vars(real))
    module.__dict__.update(own)
    module.__dict__["__getattr__"] = lambda name: getattr(real, name)
    return module
