"""Checks that an answer is what it claims to be, without building it.

A JSON value costs many times its text: 8 MiB of `[],` are some hundred MiB of lists, which a garbage collector walks.
So the host keeps the bytes and decodes them when somebody asks for the value (`engine.result`). Before that it makes
sure that decoding will work, and that it will be cheap:

    UTF-8                       decoded in slices, and dropped
    depth, number of values     from the brackets, commas and colons outside strings
    digits of a number          Python's own limit: a longer one can be written but not read
    syntax                      msgspec skips a raw value, 3 ms per MiB, piece by piece
    no name twice in an object  a piece with members is decoded, and dropped (`_Pieces`)

Strings are cut out window by window. Backslashes occur only in strings, and a window never ends after an odd number of
them, so blanking the escapes and splitting at the quotes leaves what is outside strings in every other part. If the
text is not JSON these numbers mean nothing; the syntax has the last word.

A piece ends with a comma outside strings. Brackets that are open there are closed after it, and opened again before the
next piece; one value stands for all that follows, or came before: `[1,{"a":2,"b":3}]` is JSON exactly if
`[1,{"a":2,"last":0}]` and `[{"first":0,"b":3}]` are, with names that nobody else can have.
"""

from __future__ import annotations

import secrets
from array import array
from collections.abc import Iterable, Iterator
from itertools import accumulate, repeat
from typing import Any
from typing import Final as Const

import msgspec

from belljar.errors import ProtocolViolation, Refusal
from belljar.heavy import give_way, is_utf8
from belljar.members import ANYTHING, members
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
# What msgspec goes through in one call, in some 6 ms where it is decoded and has nothing but empty lists.
_PIECE_BYTES: Const = 64 * 1024

_SYNTAX: Const = msgspec.json.Decoder(msgspec.Raw)

# No program can guess them, nor have them in an answer.
_FIRST, _LAST = secrets.token_hex(), secrets.token_hex()
_AT_FIRST, _AT_LAST = (f'"{name}":'.encode() for name in (_FIRST, _LAST))
_OBJECT: Const = ord("{")
_HASHES: Const = 256
_DIGITS: Const = b"-0123456789"
_TO_ZEROS: Const = bytes(ord("0") if byte in _DIGITS else ord(" ") for byte in range(256))
_TO_STEPS: Const = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_TO_CLOSING: Const = bytes.maketrans(b"[{", b"]}")
_NO_BRACKETS: Const = bytes(byte for byte in range(256) if byte not in b"[]{}")


def check_answer(final: Final, body: bytes, *, values_max: int) -> None:
    """Refuse an answer that is not what it claims to be, without repeating any of it.

    Raises:
        ProtocolViolation: it is not UTF-8, or not JSON, or an object in it has two members of one name.
        Refusal: `answer.too_deep`, `limits.answer_values`, `answer.too_many_digits`.
    """
    if not is_utf8(body) or (final.form == "json" and not _is_json(body, values_max)):
        raise ProtocolViolation(f"a Final that is not {final.form}")


def _is_json(body: bytes, values_max: int) -> bool:
    values, colons, start, pieces = 0, 0, 0, _Pieces()
    opened, digits = b"", b""
    for stop, outside in _windows(body):
        colons += (found := outside.count(b":"))
        values += found + sum(map(outside.count, (b",", b"[", b"{")))
        if values > values_max:
            raise _refused("limits.answer_values", f"more than {values_max} values and keys", values_max, values)
        still = _still_open(opened, outside.translate(None, _NO_BRACKETS))
        if still is None:
            return False
        opened, digits = still, _longest_begun(digits + outside)
        if stop - start >= _PIECE_BYTES and outside.endswith(b","):
            if not opened or not pieces.is_next(body[start:stop], opened, colons):
                return False
            start, colons = stop, 0
    if not pieces.is_next(body[start:], b"", colons):
        return False
    pieces.end()
    return True


class _Pieces:
    """The pieces of some JSON so far: what is open after them, and the names of objects that are in several of them.

    Of each name the hash is kept, together with the number of its object: half a million of them take 4 MB. They are
    kept in many small arrays, as a large set would be built, grown and dropped in one call each.
    """

    def __init__(self) -> None:
        self._opened = b""
        self._objects: list[int] = []  # a number for each of them
        self._count = 0
        self._hashes: list[array[int]] = []

    def is_next(self, piece: bytes, opened: bytes, colons: int) -> bool:
        """Whether the next piece is JSON, after which `opened` are open; it has so many colons outside of texts.

        Raises:
            ProtocolViolation: an object has two members of one name in it.
        """
        head = _opening(self._opened) if self._opened else b""
        tail = _closing(opened) if opened else b""
        try:
            found = (ANYTHING if colons else _SYNTAX).decode(head + piece + tail)
        except (msgspec.MsgspecError, RecursionError):
            return False
        if not colons:  # an object that is open has members: it was open before
            kept = [self._objects[depth] if bracket == _OBJECT else 0 for depth, bracket in enumerate(opened)]
            self._opened, self._objects = opened, kept
            return True
        # Decoders keep one of two: then there are fewer than were sent.
        if members(found) != colons + self._opened.count(b"{") + opened.endswith(b"{"):
            raise _twice()
        before = _path(found, len(self._opened), is_first=True)
        after = _path(found, len(opened), is_first=False)
        same = sum(one is other for one, other in zip(before, after, strict=False))
        new = [*range(self._count, self._count + len(after) - same)]
        self._count += len(new)
        for number, one in (*zip(self._objects, before, strict=True), *zip(new, after[same:], strict=True)):
            if isinstance(one, dict):
                self._note(number, one.keys() - {_FIRST, _LAST})
        self._opened, self._objects = opened, [*self._objects[:same], *new]
        return True

    def _note(self, number: int, names: Iterable[str]) -> None:
        if not self._hashes:
            self._hashes += (array("q") for _ in range(_HASHES))
        keep = [some.append for some in self._hashes]
        for one in map(hash, zip(repeat(number), names)):
            keep[one % _HASHES](one)

    def end(self) -> None:
        """Raises ProtocolViolation: an object has two members of one name in different pieces."""
        if any(len(set(some)) < len(some) for some in self._hashes):
            raise _twice()


def _path(value: Any, depth: int, *, is_first: bool) -> list[Any]:
    """So many lists and dicts, each the first or the last value in the one before it."""
    path = []
    for _ in range(depth):
        path.append(value)
        inner = value if isinstance(value, list) else value.values()
        value = next(iter(inner) if is_first else reversed(inner))
    return path


def _twice() -> ProtocolViolation:
    return ProtocolViolation("a Final that has two members of one name in an object")


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
    return (b"0" if opened.endswith(b"[") else _AT_LAST + b"0") + opened[::-1].translate(_TO_CLOSING)


def _opening(opened: bytes) -> bytes:
    """JSON that has the same brackets open, and ends with a comma."""
    inner = b"[0," if opened.endswith(b"[") else b"{%b0," % _AT_FIRST
    return opened[:-1].replace(b"{", b"{" + _AT_FIRST) + inner


def _longest_begun(outside: bytes) -> bytes:
    """The digits that it ends with, which may continue in the next window."""
    if b"0" * (_DIGITS_MAX + 1) in outside.translate(_TO_ZEROS):
        raise _refused(
            "answer.too_many_digits", f"a number of more than {_DIGITS_MAX} digits", _DIGITS_MAX, _DIGITS_MAX + 1
        )
    return outside[len(outside.rstrip(_DIGITS)) :]


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
