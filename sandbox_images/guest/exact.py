"""Turns what a program gives into values whose methods are Python's own.

A program's class may derive from `str` and bring its own `encode`, `__len__` or `__getitem__`. Code that takes such a
value for text and calls one of its methods runs the program's code in the middle of its own, and gets back whatever
that code likes. So wherever the agent, or a library function on its behalf, takes a value from a program, the value
passes through here first: the content is read with the built-in type's own functions, which no subclass can replace.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

__all__ = ["exact", "exact_json", "exact_text"]

_Reader = tuple[type, Callable[[Any], Any]]

_TEXTS: tuple[_Reader, ...] = ((str, str.__str__), (bytes, lambda value: bytes.__getitem__(value, slice(None))))
_VALUES: tuple[_Reader, ...] = (
    *_TEXTS,
    (int, int.__int__),
    (float, float.__float__),
    (complex, complex.__pos__),
    (bytearray, lambda value: bytearray.__getitem__(value, slice(None))),
    (list, lambda value: [*list.__iter__(value)]),
    (tuple, lambda value: (*tuple.__iter__(value),)),
    (OrderedDict, lambda value: dict(OrderedDict.items(value))),
    (dict, lambda value: dict(dict.items(value))),
    (set, lambda value: {*set.__iter__(value)}),
    (frozenset, lambda value: frozenset({*frozenset.__iter__(value)})),
)
_EXACT = frozenset({str, bytes, int, bool, float, complex, bytearray, list, tuple, dict, set, frozenset, type(None)})
_JSON_KEYS = frozenset({str, int, float, bool, type(None)})


def exact(value: Any) -> Any:
    """A value of a subclass of a built-in type, as that type itself; anything else unchanged. Items are not touched."""
    return value if type(value) in _EXACT else _read(value, _VALUES)


def exact_text(value: Any) -> Any:
    """The same, only for `str` and `bytes`."""
    return value if type(value) in _EXACT else _read(value, _TEXTS)


def exact_json(value: Any) -> Any:
    """The same all the way down, for what has a form in JSON. Raises TypeError for keys that have no such form."""
    value = exact(value)
    if type(value) is dict:
        return {_json_key(key): exact_json(item) for key, item in value.items()}
    return [exact_json(item) for item in value] if type(value) in (list, tuple) else value


def _json_key(key: Any) -> Any:
    key = exact(key)
    if type(key) not in _JSON_KEYS:
        raise TypeError(f"keys must be str, int, float, bool or None, not {type(key).__name__}")
    return key


def _read(value: Any, readers: tuple[_Reader, ...]) -> Any:
    return next((read(value) for cls, read in readers if issubclass(type(value), cls)), value)
