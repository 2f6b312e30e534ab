"""Canonical JSON: the one way to write a value, so that a verifier can demand exact bytes.

This is RFC 8785 (keys sorted by UTF-16 code units, no spaces, UTF-8, the shortest escapes) for the values that a record
can hold: objects, arrays, strings, integers, true, false and null. It differs in two things, where RFC 8785 has no
answer that a log could use:

* An integer is written with all its digits up to 64 bits, where the RFC rounds above 2**53: a time in nanoseconds would
  lose its last digits. There are no floats.
* A lone surrogate, which the RFC refuses, is written as its escape (`\\ud800`): what a guest or a model said must not
  keep a record out of the log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from belljar.errors import InvalidInput

__all__ = ["DEPTH_MAX", "INT_MAX", "JSON", "STRING_CHARS_MAX", "canonical"]

JSON: TypeAlias = "bool | int | str | Sequence[JSON] | Mapping[str, JSON] | None"

STRING_CHARS_MAX: Final = 4096  # an error message or a search pattern; anything longer is content, and kept elsewhere
DEPTH_MAX: Final = 16
INT_MAX: Final = 2**63 - 1

# `_mapping` sorts the keys.
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def canonical(value: JSON, *, depth_max: int = DEPTH_MAX) -> bytes:
    """The one way to write `value`.

    Raises:
        TypeError: a float, or something else that has no single form.
        InvalidInput: `audit.too_long`: a string, an integer or the nesting exceeds its limit.
    """
    text = _encode(_plain(value, depth_max))
    # UTF-8 cannot carry lone surrogates; they occur in strings only, where "\\ud800" is their JSON escape.
    return text.encode("utf-8", "backslashreplace")


def _plain(value: object, depth: int) -> object:
    if isinstance(value, str):
        return _string(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return _bounded(int(value), abs(value), INT_MAX, "an integer")
    if depth == 0:
        raise InvalidInput("a value is nested too deeply for the audit log; flatten it", code="audit.too_long")
    if isinstance(value, Mapping):
        return _mapping(value, depth)
    if isinstance(value, list | tuple):
        return [_plain(item, depth - 1) for item in value]
    raise TypeError(f"an audit record cannot hold a {type(value).__name__}; use integers and strings")


def _mapping(value: Mapping[object, object], depth: int) -> dict[str, object]:
    plain: dict[str, object] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise TypeError(f"an audit record cannot have a {type(key).__name__} as a key; use a string")
        plain[_string(key)] = _plain(item, depth - 1)
    if len(plain) != len(value):
        raise TypeError("two keys of an audit record are the same text; rename one")
    return {key: plain[key] for key in sorted(plain, key=_utf_16)}


def _utf_16(key: str) -> bytes:
    return key.encode("utf-16-be", "surrogatepass")


def _string(value: str) -> str:
    """Refuse what is too long; join surrogates that are a pair, since a reader would join them."""
    _bounded(value, len(value), STRING_CHARS_MAX, "a string")
    if value.isascii():
        return value
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return value


def _bounded(value: object, observed: int, limit: int, what: str) -> object:
    if observed > limit:
        raise InvalidInput(
            f"{what} is too long for the audit log; write its SHA-256 and its length",
            code="audit.too_long",
            limit=limit,
            observed=min(observed, INT_MAX + 1),
        )
    return value
