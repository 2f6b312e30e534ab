"""One pass over a text: hash it, check that it is UTF-8 text, copy it, and mark every 1024th character.

Nothing here holds more than one block of the text. Blocks end anywhere, also inside a character: the bytes are hashed
and written as they come, while the first bytes of a character cut in two (three at most) wait for the rest.
"""

from __future__ import annotations

import codecs
import hashlib
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import msgspec

from belljar.context.document import MARK_CHARS
from belljar.errors import InvalidInput

__all__ = ["Intake", "Measure", "file_blocks", "take_in", "text_blocks"]

# Small enough to stay in a core's cache between reading, hashing, decoding and writing; large enough to hide Python.
BLOCK_BYTES = 128 * 1024

_WIDE_BOMS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


class Measure(msgspec.Struct, frozen=True):
    """What one pass has found: digest of the stored bytes, and the lengths in characters and bytes."""

    sha256: str
    chars: int
    bytes: int


def file_blocks(file: BinaryIO, label: str) -> Iterator[bytes]:
    """The bytes of a file, block by block. Raises InvalidInput where it cannot be read."""
    while True:
        try:
            block = file.read(BLOCK_BYTES)
        except OSError as error:
            raise InvalidInput(
                f"{label} cannot be read ({error.strerror}); copy it to a local disk and add the copy",
                code="context.unreadable",
            ) from error
        if not block:
            return
        yield block


def text_blocks(text: str, label: str) -> Iterator[bytes]:
    """The UTF-8 bytes of a str, block by block. Raises InvalidInput at a lone surrogate."""
    for start in range(0, len(text), BLOCK_BYTES):
        try:
            yield text[start : start + BLOCK_BYTES].encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(
                f"{label} has a lone surrogate at character {start + error.start}, which no UTF-8 text can hold; "
                "decode the source with its real encoding, or drop them with .encode(errors='replace').decode()",
                code="context.encoding",
            ) from None


def take_in(blocks: Iterable[bytes], text: BinaryIO, index: BinaryIO, label: str, *, bom_dropped: bool) -> Measure:
    """Copy `blocks` to `text` and their marks to `index`.

    Args:
        label: how messages call the source.
        bom_dropped: leave out a byte order mark at the start, as files have it.

    Raises:
        InvalidInput: context.empty, context.binary, context.encoding.
    """
    intake = Intake(text, index, label)
    for block in blocks:
        intake.feed(block, bom_dropped=bom_dropped)
    return intake.finish()


class Intake:
    """The state of one pass. `feed` every block, then `finish`."""

    def __init__(self, text: BinaryIO, index: BinaryIO, label: str) -> None:
        self._text = text
        self._index = index
        self._label = label
        self._hash = hashlib.sha256()
        self._source_bytes = 0  # seen in the source, so that messages name its own offsets
        self._bytes = 0  # stored
        self._chars = 0  # decoded so far
        self._cut = b""  # the beginning of a character that the last block cut in two

    def feed(self, block: bytes, *, bom_dropped: bool = False) -> None:
        if self._source_bytes == 0:
            self._refuse_wide(block)
        self._refuse_binary(block)
        offset, self._source_bytes = self._source_bytes, self._source_bytes + len(block)
        if offset == 0 and bom_dropped and block.startswith(codecs.BOM_UTF8):
            offset, block = len(codecs.BOM_UTF8), block[len(codecs.BOM_UTF8) :]
        self._hash.update(block)
        self._text.write(block)
        self._decode(block, offset)

    def finish(self) -> Measure:
        if self._cut:
            raise self._not_utf8(self._source_bytes - len(self._cut), self._cut[0])
        if self._chars == 0:
            raise InvalidInput(f"{self._label} is empty; give a text of at least one character", code="context.empty")
        return Measure(sha256=self._hash.hexdigest(), chars=self._chars, bytes=self._bytes)

    def _decode(self, block: bytes, offset: int) -> None:
        data = self._cut + block if self._cut else block
        try:
            text, used = codecs.utf_8_decode(data, "strict", False)
        except UnicodeDecodeError as error:
            raise self._not_utf8(offset - len(self._cut) + error.start, data[error.start]) from None
        self._mark(text)
        self._chars += len(text)
        self._bytes += used
        self._cut = data[used:]

    def _mark(self, text: str) -> None:
        """Write the byte offset of every character in `text` whose number is a multiple of MARK_CHARS."""
        first = -self._chars % MARK_CHARS
        if text.isascii():
            offsets = list(range(self._bytes + first, self._bytes + len(text), MARK_CHARS))
        else:
            offsets = []
            at = self._bytes + len(text[:first].encode())
            for start in range(first, len(text), MARK_CHARS):
                offsets.append(at)
                at += len(text[start : start + MARK_CHARS].encode())
        self._index.write(struct.pack(f"<{len(offsets)}Q", *offsets))

    def _refuse_wide(self, block: bytes) -> None:
        for bom, encoding in _WIDE_BOMS:
            if block.startswith(bom):
                raise self._not_utf8(0, block[0], encoding)

    def _refuse_binary(self, block: bytes) -> None:
        at = block.find(0)
        if at >= 0:
            raise InvalidInput(
                f"{self._label} looks binary, at byte {self._source_bytes + at} (a NUL); extract its text first",
                code="context.binary",
            )

    def _not_utf8(self, offset: int, byte: int, encoding: str = "WINDOWS-1252") -> InvalidInput:
        return InvalidInput(
            f"{self._label} is not UTF-8, at byte {offset} (0x{byte:02x}); convert it: "
            f"iconv -f {encoding} -t UTF-8 INPUT > OUTPUT, with its real encoding after -f",
            code="context.encoding",
        )
