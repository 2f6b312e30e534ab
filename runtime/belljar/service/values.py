"""How many values the JSON of a request may have, and how it is decoded.

The decoder is one call into C, and meanwhile nobody else has the interpreter, also where it is called in a thread. How
long that is depends less on the length of the JSON than on how many values it has: a text of 8 MiB takes 4 ms, or 17
where all of it is escaped, and as many bytes of empty lists take 700. So values are counted while a body comes, which
takes 0.2 ms for 64 KiB, and more than `VALUES_MAX` are refused: what is left takes a tenth of a second at most.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Final

import msgspec

from belljar.errors import InvalidInput
from belljar.members import Outside, check_names

__all__ = ["VALUES_MAX", "Values", "decode"]

VALUES_MAX: Final = 200_000
_SIGNS: Final = (b",", b"[", b"{")


class Values:
    """Counts the values of some JSON by the signs that stand outside of its texts; it need not be valid."""

    def __init__(self) -> None:
        self.count = 0
        self._outside = Outside()

    def feed(self, piece: bytes) -> None:
        """Count those of the next piece.

        Raises:
            InvalidInput: `request.values`: there are too many.
        """
        outside = self._outside.of(piece)
        self.count += sum(map(outside.count, _SIGNS))
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


@functools.cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind, float_hook=_number)


def _number(text: str) -> float:
    """The decoder's own way takes 10 µs for numbers that are very large or small, twenty times as long as this one."""
    number = float(text)
    if math.isinf(number):
        raise ValueError("Number out of range")
    return number
