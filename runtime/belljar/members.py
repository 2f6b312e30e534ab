"""JSON in which an object has two members of one name: whoever reads it takes one of them, and others the other.

Decoders take the last without a word, and others the first: what is logged, let pass or delivered as it was sent would
say another thing than what was done. So it is refused where somebody else's JSON is kept as it came, or was read by
somebody before. The decoder tells nothing of that, so members are counted twice, as they were sent (by the colons that
stand outside of texts) and as they were decoded (by those of what that encodes to).
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["Outside", "check_names"]

# What a number is matters to nobody here.
_ANYTHING: Final = msgspec.json.Decoder(float_hook=len)
_PIECE_BYTES: Final = 64 * 1024


class Outside:
    """What of some JSON stands outside of its texts, found in pieces; it need not be valid."""

    def __init__(self) -> None:
        self._in_text = False
        self._half = b""  # of an escape, whose other half is to come

    def of(self, piece: bytes) -> bytes:
        """That of the next piece; a space stands for each text."""
        bare = (self._half + piece).replace(rb"\\", b"").replace(rb"\"", b"")
        self._half = b"\\" if bare.endswith(b"\\") else b""
        parts = bare.split(b'"')
        outside = b" ".join(parts[self._in_text :: 2])
        self._in_text ^= len(parts) % 2 == 0
        return outside


def check_names(data: bytes) -> None:
    """Refuse JSON with two members of one name in an object.

    It is decoded in one call, as by whoever asks: of what may be long, that is to be bounded elsewhere.

    Raises:
        DecodeError, UnicodeDecodeError, RecursionError: there are, or it is no JSON.
    """
    # To encode what was decoded takes a sixth of the time of a walk through it.
    if _colons(msgspec.json.encode(_ANYTHING.decode(data))) != _colons(data):
        raise msgspec.DecodeError("an object has two members of one name")


def _colons(data: bytes) -> int:
    outside = Outside()
    return sum(outside.of(data[at : at + _PIECE_BYTES]).count(b":") for at in range(0, len(data), _PIECE_BYTES))
