"""Bytes to messages and back. No I/O: the owner of the stream feeds bytes in and sends bytes out.

A frame is ``u32 header length, u32 body length, header, body``, lengths big-endian. The header is JSON in its one
canonical spelling (the fields in declared order, no spaces, nothing omitted); the body is raw bytes, so bulk text never
passes through JSON.

What comes from a box is hostile. The decoder checks in the order in which bytes arrive, so that nothing is buffered
before it is bounded: first the two lengths, then the header as soon as it is whole (its spelling, its types, whether
this message may have a body), only then does it wait for the body. A header must equal its own re-encoding byte for
byte: duplicate keys, other orders, odd numbers and escapes all fail this one comparison.

The invariant, checked by a property test: any bytes, fed whole or one at a time, give the same messages and then
perhaps one `ProtocolViolation`, nothing else, and the decoder never holds more than one frame and the chunk it was fed.
"""

from __future__ import annotations

import contextlib
import struct
from typing import Final as Const
from typing import Generic, TypeVar

import msgspec

from belljar.errors import HostFault, ProtocolViolation
from belljar.protocol import GuestMessage, HostMessage, carries_body

__all__ = ["Decoder", "Frame", "encode", "guest_decoder", "host_decoder"]

_PREFIX: Const = struct.Struct("!II")
_ENCODER: Const = msgspec.json.Encoder()
_FROM_GUEST: Const = msgspec.json.Decoder(GuestMessage)
_FROM_HOST: Const = msgspec.json.Decoder(HostMessage)

M = TypeVar("M", bound=GuestMessage | HostMessage)


class Frame(Generic[M]):
    """One decoded message: `message` is a struct of `protocol`, `body` its raw bytes.

    `header_bytes` is how long its header was; two frames that differ in nothing else are equal.
    """

    __slots__ = ("body", "header_bytes", "message")

    def __init__(self, message: M, body: bytes, header_bytes: int = 0) -> None:
        self.message = message
        self.body = body
        self.header_bytes = header_bytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frame) and (self.message, self.body) == (other.message, other.body)

    def __repr__(self) -> str:
        return f"Frame({self.message!r}, body={len(self.body)} bytes)"


def encode(
    message: GuestMessage | HostMessage,
    body: bytes | memoryview = b"",
    *,
    header_bytes_max: int,
    body_bytes_max: int,
) -> tuple[bytes, bytes | memoryview]:
    """Return `(prefix and header, body)`, to be sent one after the other without joining them.

    Raises:
        HostFault: the message is over a limit; the caller should have split or cut it.
    """
    header = _ENCODER.encode(message)
    if len(header) > header_bytes_max or len(body) > body_bytes_max:
        raise HostFault(f"a {type(message).__name__} of {len(header)}+{len(body)} bytes is over the wire's limits")
    if len(body) and not carries_body(message):
        raise HostFault(f"a {type(message).__name__} carries no body")
    return _PREFIX.pack(len(header), len(body)) + header, body


class Decoder(Generic[M]):
    """Feed with `receive`, take with `next` until it gives None. After a violation it only raises."""

    def __init__(self, headers: msgspec.json.Decoder[M], *, header_bytes_max: int, body_bytes_max: int) -> None:
        self._headers = headers
        self._header_bytes_max = header_bytes_max
        self._body_bytes_max = body_bytes_max
        self._buffer = bytearray()
        self._message: M | None = None
        self._header_bytes = 0
        self._body_bytes = 0
        self._broken: str | None = None

    @property
    def buffered(self) -> int:
        """Bytes held now: 0 exactly between two frames."""
        return len(self._buffer) + (self._message is not None)

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Append what the stream gave. Raises nothing: the verdict comes from `next`."""
        if self._broken is None:
            self._buffer += data

    def next(self) -> Frame[M] | None:
        """The next whole message, or None if more bytes are needed.

        Raises:
            ProtocolViolation: the bytes are not a message. Final: every later call raises the same.
        """
        if self._broken is not None:
            raise ProtocolViolation(self._broken)
        try:
            return self._next()
        except ProtocolViolation as violation:
            self._broken = str(violation)
            self._buffer = bytearray()
            raise

    def _next(self) -> Frame[M] | None:
        if self._message is None:
            self._message = self._next_header()
        if self._message is None or len(self._buffer) < self._body_bytes:
            return None
        with memoryview(self._buffer) as view:
            body = bytes(view[: self._body_bytes])
        del self._buffer[: self._body_bytes]
        frame = Frame(self._message, body, self._header_bytes)
        self._message = None
        return frame

    def _next_header(self) -> M | None:
        if len(self._buffer) < _PREFIX.size:
            return None
        header_bytes, body_bytes = _PREFIX.unpack_from(self._buffer)
        if not 0 < header_bytes <= self._header_bytes_max:
            raise ProtocolViolation(f"a header of {header_bytes} bytes; the limit is {self._header_bytes_max}")
        if body_bytes > self._body_bytes_max:
            raise ProtocolViolation(f"a body of {body_bytes} bytes; the limit is {self._body_bytes_max}")
        end = _PREFIX.size + header_bytes
        if len(self._buffer) < end:
            return None
        message = self._decode(bytes(self._buffer[_PREFIX.size : end]))
        if body_bytes and not carries_body(message):
            raise ProtocolViolation(f"a {type(message).__name__} with a body")
        del self._buffer[:end]
        self._header_bytes, self._body_bytes = header_bytes, body_bytes
        return message

    def _decode(self, header: bytes) -> M:
        # msgspec's messages may quote the guest, so they are dropped, from the exception's context too.
        message: M | None = None
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            message = self._headers.decode(header)
        if message is None:
            raise ProtocolViolation("a header that is not a message of the protocol")
        if _ENCODER.encode(message) != header:
            raise ProtocolViolation(f"a {type(message).__name__} header that is not in canonical form")
        return message


def guest_decoder(*, header_bytes_max: int, body_bytes_max: int) -> Decoder[GuestMessage]:
    """What the host uses: bytes from a box to guest messages."""
    return Decoder(_FROM_GUEST, header_bytes_max=header_bytes_max, body_bytes_max=body_bytes_max)


def host_decoder(*, header_bytes_max: int, body_bytes_max: int) -> Decoder[HostMessage]:
    """The other direction, for tests and tools that speak the guest's side from the host."""
    return Decoder(_FROM_HOST, header_bytes_max=header_bytes_max, body_bytes_max=body_bytes_max)
