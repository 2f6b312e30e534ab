"""Splits the attached stream of a container: standard output is the wire, standard error is kept for a message.

Docker sends both over one connection. Eight bytes precede each piece: which of the two it is (1 or 2), three zeros, and
the length, big-endian. What the container reads is sent as it is.
"""

from __future__ import annotations

import struct
from typing import Final

from belljar.errors import BoxFault

__all__ = ["Outputs"]

_HEAD: Final = struct.Struct("!B3xI")
_OUTPUT: Final = 1
_ERRORS: Final = 2
# Enough for the reason why an interpreter does not start; later nothing in a box can write there.
_ERRORS_BYTES_MAX: Final = 4096


class Outputs:
    """Takes the connection's bytes in any pieces; returns those of standard output. No I/O."""

    def __init__(self) -> None:
        self._head = b""
        self._kind = 0
        self._left = 0
        self._errors = b""

    @property
    def errors(self) -> str:
        """The beginning of standard error, on one line."""
        return " ".join(self._errors.decode("utf-8", "replace").split())

    def take(self, data: bytes) -> bytes:
        """The bytes of standard output in `data`.

        Raises:
            BoxFault: it is not a Docker stream.
        """
        parts = []
        at = 0
        while at < len(data):
            if not self._left:
                at = self._take_head(data, at)
                continue
            piece = data[at : at + self._left]
            at += len(piece)
            self._left -= len(piece)
            if self._kind == _OUTPUT:
                parts.append(piece)
            else:
                self._errors = (self._errors + piece)[:_ERRORS_BYTES_MAX]
        return b"".join(parts)

    def _take_head(self, data: bytes, at: int) -> int:
        missing = _HEAD.size - len(self._head)
        self._head += data[at : at + missing]
        if len(self._head) == _HEAD.size:
            self._kind, self._left = _HEAD.unpack(self._head)
            self._head = b""
            if self._kind not in (_OUTPUT, _ERRORS):
                raise BoxFault("the Docker daemon's stream is out of step: is something between it and us?")
        return at + missing
