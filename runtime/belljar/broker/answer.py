"""Checks that an answer is what it claims to be, without building it.

A JSON value costs many times its text: 8 MiB of `[],` are some hundred MiB of lists, which a garbage collector walks.
So the host keeps the bytes and decodes them when somebody asks for the value (`engine.result`). Before that it makes
sure that decoding will work, and that it will be cheap:

    UTF-8                       decoded in slices, and dropped
    depth, number of values     from the brackets, commas and colons outside strings
    digits of a number          Python's own limit: a longer one can be written but not read
    size of a number            some readers refuse all of a text with one that no float holds, and others take infinity
    syntax                      msgspec skips a raw value, 3 ms per MiB, piece by piece

Strings are cut out window by window. Backslashes occur only in strings, and a window never ends after an odd number of
them, so blanking the escapes and splitting at the quotes leaves what is outside strings in every other part. If the
text is not JSON these numbers mean nothing; the syntax has the last word.

A piece ends with a comma outside strings. Brackets that are open there are closed after it, and opened again before the
next piece; one value stands for all that follows, or came before: `[1,{"a":2,"b":3}]` is JSON exactly if
`[1,{"a":2,"":0}]` and `[{"":0,"b":3}]` are.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterator
from itertools import accumulate
from typing import Final as Const

import msgspec

from belljar.errors import ProtocolViolation, Refusal
from belljar.heavy import give_way, is_utf8
from belljar.protocol import Final

__all__ = ["check_answer"]

# Real data is a dozen levels deep at most. Readers recurse, and each has its own limit: Python's is near 1000.
_DEPTH_MAX: Const = 64
# Nothing that an honest program uses writes deeper JSON than this.
_WRITABLE_DEPTH_MAX: Const = 1000
# What `int` reads by default; its time grows with their square. To msgspec a sign is one of them.
_DIGITS_MAX: Const = 4300
# A window takes half a millisecond.
_WINDOW_BYTES: Const = 16 * 1024
# What msgspec goes through in one call.
_PIECE_BYTES: Const = 1 << 20

_SYNTAX: Const = msgspec.json.Decoder(msgspec.Raw)
_DIGITS: Const = b"-0123456789"
_TO_ZEROS: Const = bytes(ord("0") if byte in _DIGITS else ord(" ") for byte in range(256))
_OF_NUMBERS: Const = _DIGITS + b"+.eE"
_TO_NUMBERS: Const = bytes(byte if byte in _OF_NUMBERS else ord(" ") for byte in range(256))
# Whole digits and an exponent, of which one at least has a number that no float holds.
_LONG: Const = b"0" * 200
_EXPONENT: Const = re.compile(rb"[eE]\+?[0-9]{3}")
# The longest number has so many digits before its point, after it, and in its exponent.
_NUMBER_MAX: Const = 3 * (_DIGITS_MAX + 3)
_TO_STEPS: Const = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_TO_CLOSING: Const = bytes.maketrans(b"[{", b"]}")
_NO_BRACKETS: Const = bytes(byte for byte in range(256) if byte not in b"[]{}")


def check_answer(final: Final, body: bytes, *, values_max: int) -> None:
    """Refuse an answer that is not what it claims to be, without repeating any of it.

    Raises:
        ProtocolViolation: it is not UTF-8, or not JSON.
        Refusal: `answer.too_deep`, `limits.answer_values`, `answer.too_many_digits`.
    """
    if not is_utf8(body) or (final.form == "json" and not _is_json(body, values_max)):
        raise ProtocolViolation(f"a Final that is not {final.form}")


def _is_json(body: bytes, values_max: int) -> bool:
    values, start, head = 0, 0, b""
    opened, begun = b"", b""
    for stop, outside in _windows(body):
        values += sum(map(outside.count, (b",", b":", b"[", b"{")))
        if values > values_max:
            raise _refused("limits.answer_values", f"more than {values_max} values and keys", values_max, values)
        still = _still_open(opened, outside.translate(None, _NO_BRACKETS))
        if still is None:
            return False
        opened, text = still, begun + outside
        _permit_digits(text)
        begun = text[len(text.rstrip(_OF_NUMBERS)) :]  # it may go on in the next window
        if len(begun) > _NUMBER_MAX or not _has_floats(text[: len(text) - len(begun)]):
            return False
        if stop - start >= _PIECE_BYTES and outside.endswith(b","):
            if not opened or not _is_value(head + body[start:stop] + _closing(opened)):
                return False
            start, head = stop, _opening(opened)
    return _has_floats(begun) and _is_value(head + body[start:])


def _is_value(text: bytes) -> bool:
    try:
        _SYNTAX.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


def _still_open(opened: bytes, brackets: bytes) -> bytes | None:
    """The brackets that are open after these, `opened` included; None if this cannot be JSON."""
    if not brackets:
        return opened
    depths = list(accumulate(array("b", brackets.translate(_TO_STEPS)), initial=len(opened)))
    lowest, deepest = min(depths), max(depths)
    if lowest < 0 or deepest > _WRITABLE_DEPTH_MAX:
        return None
    if deepest > _DEPTH_MAX:
        raise _refused("answer.too_deep", f"lists and dicts nested {deepest} deep or more", _DEPTH_MAX, deepest)
    # The bracket after the last place of each depth is still open.
    passed = bytes(depths)
    last = (passed.rfind(depth) for depth in range(lowest, depths[-1]))
    return opened[:lowest] + b"".join(brackets[at : at + 1] for at in last)


def _closing(opened: bytes) -> bytes:
    """JSON that continues after a comma and closes what is open."""
    return (b"0" if opened.endswith(b"[") else b'"":0') + opened[::-1].translate(_TO_CLOSING)


def _opening(opened: bytes) -> bytes:
    """JSON that has the same brackets open, and ends with a comma."""
    return opened[:-1].replace(b"{", b'{"":') + (b"[0," if opened.endswith(b"[") else b'{"":0,')


def _permit_digits(outside: bytes) -> None:
    if b"0" * (_DIGITS_MAX + 1) in outside.translate(_TO_ZEROS):
        raise _refused(
            "answer.too_many_digits", f"a number of more than {_DIGITS_MAX} digits", _DIGITS_MAX, _DIGITS_MAX + 1
        )


def _has_floats(outside: bytes) -> bool:
    """Whether all numbers with a point or an exponent are what a float holds."""
    if _LONG not in outside.translate(_TO_ZEROS) and _EXPONENT.search(outside) is None:
        return True
    numbers = outside.translate(_TO_NUMBERS).split()
    try:
        return not any(math.isinf(float(number)) for number in numbers if len(number) > 4 and not _is_whole(number))
    except ValueError:  # no number, so this is no JSON
        return False


def _is_whole(number: bytes) -> bool:
    return number.removeprefix(b"-").isdigit()


def _windows(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Where each window of JSON stops (at its last comma, if it has one), and what of it is not in strings."""
    inside = False
    start = 0
    while start < len(body):
        window = body[start : start + _WINDOW_BYTES]
        if (len(window) - len(window.rstrip(b"\\"))) % 2:
            window += body[start + len(window) : start + len(window) + 1]
        start += len(window)
        parts = window.replace(b"\\\\", b"__").replace(b'\\"', b"__").split(b'"')
        ends_inside = inside ^ (len(parts) % 2 == 0)
        commas = (at for at in range(len(parts) - 1 - ends_inside, -1, -2) if b"," in parts[at])
        if start < len(body) and (last := next(commas, None)) is not None:
            before, comma, after = parts[last].rpartition(b",")
            start -= len(b'"'.join([after, *parts[last + 1 :]]))
            parts, ends_inside = [*parts[:last], before + comma], False
        yield start, b"".join(parts[inside::2])
        inside = ends_inside
        if start < len(body):
            give_way()


def _refused(code: str, what: str, limit: int, observed: int) -> Refusal:
    return Refusal(
        f"the answer has {what}; {limit} are allowed: give a smaller answer, or give it as text",
        code=code,
        limit=limit,
        observed=observed,
    )
