"""Whether an answer is what it says it is, found out without building it.

A JSON value costs many times its text: 8 MiB of `[],` are some hundred MiB of lists, and a collector that walks them.
So the host keeps the bytes and decodes them where somebody asks for the value (`engine.result`). Before that it makes
sure that this will work, and that it will be cheap:

    UTF-8                       decoded in slices, and dropped
    depth, number of values     from the brackets, commas and colons outside strings
    digits of a number          Python's own limit: a longer one can be written and not be read
    syntax                      msgspec's skip over a raw value, 3 ms a MiB

Strings are cut out window by window. A backslash occurs in strings alone, and a window never ends after an odd number
of them, so removing the escapes and splitting at the quotes leaves what is outside at every other place. On text that
is no JSON these numbers mean nothing; the syntax has the last word.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import accumulate
from typing import Final as Const

import msgspec

from belljar.errors import ProtocolViolation, Refusal
from belljar.heavy import is_utf8, slices
from belljar.protocol import Final

__all__ = ["check_answer"]

# Data that people make is a dozen deep at most. Readers recurse, and each has its own limit: Python's is near 1000.
_DEPTH_MAX: Const = 64
# Deeper than this nothing that an honest program uses has written it.
_WRITABLE_DEPTH_MAX: Const = 1000
# What `int` reads by default; it takes time that grows with the square of them.
_DIGITS_MAX: Const = 4300
# A window is looked through in half a millisecond.
_WINDOW_BYTES: Const = 16 * 1024

_SYNTAX: Const = msgspec.json.Decoder(msgspec.Raw)
_DIGITS: Const = b"0123456789"
_TO_ZEROS: Const = bytes(ord("0") if byte in _DIGITS else ord(" ") for byte in range(256))
_TO_STEPS: Const = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS: Const = bytes(byte for byte in range(256) if byte not in b"[]{}")


def check_answer(final: Final, body: bytes, *, values_max: int) -> None:
    """Refuse an answer that is not what it says it is, without repeating any of it.

    Raises:
        ProtocolViolation: it is no UTF-8, or no JSON.
        Refusal: `answer.too_deep`, `answer.too_many_values`, `answer.too_many_digits`.
    """
    if is_utf8(body):
        if final.form == "text":
            return
        _check_size(body, values_max)
        if _is_json(body):
            return
    raise ProtocolViolation(f"a Final that is no {final.form}")


def _is_json(body: bytes) -> bool:
    try:
        _SYNTAX.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


def _check_size(body: bytes, values_max: int) -> None:
    """How much it is, beside its bytes."""
    values = depth = 0
    digits = b""
    for outside in _outside_strings(body):
        values += sum(map(outside.count, (b",", b":", b"[", b"{")))
        if values > values_max:
            raise _refused("too_many_values", f"more than {values_max} values and keys", values_max, values)
        steps = array("b", outside.translate(_TO_STEPS, _NO_BRACKETS))
        depth, deepest = _depths(steps, depth)
        if deepest > _WRITABLE_DEPTH_MAX:
            raise ProtocolViolation("a Final that is no json")
        if deepest > _DEPTH_MAX:
            raise _refused("too_deep", f"lists and dicts nested {deepest} deep or more", _DEPTH_MAX, deepest)
        digits = _longest_begun(digits + outside)


def _depths(steps: array[int], depth: int) -> tuple[int, int]:
    """How deep it is behind these brackets, and was at most."""
    if not steps:
        return depth, depth
    return depth + sum(steps), max(accumulate(steps, initial=depth))


def _longest_begun(outside: bytes) -> bytes:
    """The digits that it ends with, which may go on in the next window."""
    if b"0" * (_DIGITS_MAX + 1) in outside.translate(_TO_ZEROS):
        raise _refused("too_many_digits", f"a number of more than {_DIGITS_MAX} digits", _DIGITS_MAX, _DIGITS_MAX + 1)
    return outside[len(outside.rstrip(_DIGITS)) :]


def _outside_strings(body: bytes) -> Iterator[bytes]:
    """What of JSON is not in strings, window by window."""
    inside = False
    start = 0
    for _ in slices(len(body), _WINDOW_BYTES):
        window = body[start : start + _WINDOW_BYTES]
        if (len(window) - len(window.rstrip(b"\\"))) % 2:
            window += body[start + len(window) : start + len(window) + 1]
        start += len(window)
        if b"\\" in window:
            window = window.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = window.split(b'"')
        yield b"".join(parts[inside::2])
        inside ^= len(parts) % 2 == 0


def _refused(code: str, what: str, limit: int, observed: int) -> Refusal:
    return Refusal(
        f"the answer has {what}; {limit} are allowed: give a smaller answer, or give it as text",
        code=f"answer.{code}",
        limit=limit,
        observed=observed,
    )
