"""How many values the JSON of a request may have, and how it is decoded.

The decoder is one call into C, and meanwhile nobody else has the interpreter, also where it is called in a thread. How
long that is depends less on the length of the JSON than on how many values it has: a text of 8 MiB takes 4 ms, or 17
where all of it is escaped, and as many bytes of empty lists take 700. So values are counted while a body comes, which
takes 0.2 ms for 64 KiB, and more than `VALUES_MAX` are refused: what is left takes a tenth of a second at most.

An object with two members of one name is refused. Decoders take the last one, and whoever reads a body before us, to
let it pass or to log it, may take the first: it would not be what we do. The decoder tells nothing of that, so members
are counted twice, as they were sent and as they were decoded.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Final

import msgspec

from belljar.errors import InvalidInput

__all__ = ["VALUES_MAX", "Values", "check_names", "decode"]

VALUES_MAX: Final = 200_000
_SIGNS: Final = (b",", b"[", b"{")


class Values:
    """Counts the values of some JSON by the signs that stand outside of its texts; it need not be valid.

    `members` is how many members its objects have, if it is valid.
    """

    def __init__(self) -> None:
        self.count = 0
        self.members = 0
        self._in_text = False
        self._half = b""  # of an escape, whose other half is to come

    def feed(self, piece: bytes) -> None:
        """Count those of the next piece.

        Raises:
            InvalidInput: `request.values`: there are too many.
        """
        bare = (self._half + piece).replace(rb"\\", b"").replace(rb"\"", b"")
        self._half = b"\\" if bare.endswith(b"\\") else b""
        parts = bare.split(b'"')
        outside = b" ".join(parts[self._in_text :: 2])
        self._in_text ^= len(parts) % 2 == 0
        self.count += sum(map(outside.count, _SIGNS))
        self.members += outside.count(b":")
        if self.count > VALUES_MAX:
            raise InvalidInput(
                f"the JSON of the body has more than {VALUES_MAX} values: send long lists as JSON lines to /v1/uploads",
                code="request.values",
                limit=VALUES_MAX,
                observed=self.count,
            )


def decode(data: bytes, kind: Any) -> Any:
    """JSON, as a type has it. Raises as `msgspec.json.decode`, and as `check_names`."""
    found = _decoder(kind).decode(data)
    check_names(data)
    return found


def check_names(data: bytes) -> None:
    """Refuse JSON with two members of one name in an object.

    Raises:
        DecodeError, UnicodeDecodeError, RecursionError: there are, or it is no JSON.
    """
    values = Values()
    values.feed(data)
    members, left = 0, [_ANYTHING.decode(data)]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            members += len(one)
            left += one.values()
        elif isinstance(one, list):
            left += one
    if members != values.members:
        raise msgspec.DecodeError("an object has two members of one name")


# What a number is matters to nobody here.
_ANYTHING: Final = msgspec.json.Decoder(float_hook=len)


@functools.cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind, float_hook=_number)


def _number(text: str) -> float:
    """The decoder's own way takes 10 µs for numbers that are very large or small, twenty times as long as this one."""
    number = float(text)
    if math.isinf(number):
        raise ValueError("Number out of range")
    return number
