"""A stored document, and how a range of its characters becomes a range of bytes.

A document is a folder of two or three files, written once and never changed:

    text            the UTF-8 bytes
    index           little-endian u64s: the byte offset of every `MARK_CHARS`-th character. Absent for ASCII text
    document.json   the `Document`

For ASCII a character is a byte, and a read is a view into the memory map. Otherwise the index leads to the mark at or
before the character, and at most `MARK_CHARS` characters are decoded from there. Either way a read costs what it
returns plus a constant, wherever in the document it lies.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from belljar.errors import HostFault

__all__ = ["DOCUMENT_FILE", "INDEX_FILE", "MARK_CHARS", "TEXT_FILE", "Document", "OpenDocument"]

TEXT_FILE = "text"
INDEX_FILE = "index"
DOCUMENT_FILE = "document.json"

# The index is 8 bytes per mark: under 1 % of the text. A read decodes at most two stretches of this length.
MARK_CHARS = 1024

_MARK = struct.Struct("<Q")


class Document(msgspec.Struct, frozen=True):
    """What is known about a stored text without opening it.

    Attributes:
        sha256: lower-case hex digest of the stored UTF-8 bytes; names the document.
        name: for people; never used as a path.
        chars: length in characters (code points), at least 1.
        bytes: length in UTF-8 bytes.
        ascii: every character is a single byte.
        added_ns: when the store first took it in, nanoseconds since the epoch.
    """

    sha256: str
    name: str
    chars: int
    bytes: int
    ascii: bool
    added_ns: int


class OpenDocument:
    """A memory-mapped document. Reads may come from several threads. Close it, or use it as a context manager."""

    def __init__(self, folder: Path, document: Document) -> None:
        self.document = document
        self._text = _mapped(folder / TEXT_FILE, document.bytes)
        self._index: mmap.mmap | None = None
        if not document.ascii:
            marks = (document.chars + MARK_CHARS - 1) // MARK_CHARS
            try:
                self._index = _mapped(folder / INDEX_FILE, marks * _MARK.size)
            except HostFault:
                self._text.close()
                raise
        self._view: memoryview | None = memoryview(self._text)

    def read(self, start: int, stop: int) -> memoryview | bytes:
        """The UTF-8 bytes of characters [start, stop), as a read-only view that stays valid after `close`.

        Raises:
            ValueError: unless 0 <= start <= stop <= chars, or when closed.
        """
        view = self._view
        if view is None:
            raise ValueError("the document is closed")
        if not 0 <= start <= stop <= self.document.chars:
            raise ValueError(f"characters [{start}, {stop}) are outside [0, {self.document.chars})")
        return view[self._byte_offset(view, start) : self._byte_offset(view, stop)]

    def close(self) -> None:
        """Let go of the memory map. Harmless when repeated."""
        view, self._view = self._view, None
        if view is None:
            return
        view.release()
        # While a view handed out by `read` is alive the map cannot be closed; it is freed with the last of them.
        with contextlib.suppress(BufferError):
            self._text.close()
        if self._index is not None:
            self._index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _byte_offset(self, view: memoryview, char: int) -> int:
        if self._index is None:
            return char
        if char == self.document.chars:
            return self.document.bytes
        mark, beyond = divmod(char, MARK_CHARS)
        base: int = _MARK.unpack_from(self._index, mark * _MARK.size)[0]
        if beyond == 0:
            return base
        stretch = self._stretch(view, mark, base)
        return base + len(stretch[:beyond].encode())

    def _stretch(self, view: memoryview, mark: int, base: int) -> str:
        """The characters from a mark to the next one, or to the end."""
        assert self._index is not None
        at = (mark + 1) * _MARK.size
        end: int = _MARK.unpack_from(self._index, at)[0] if at < len(self._index) else self.document.bytes
        return str(view[base:end], "utf-8")


def _mapped(path: Path, bytes_expected: int) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise HostFault(f"a stored context cannot be read ({path.name}: {error}); remove and add it again") from error
    if len(mapped) != bytes_expected:
        mapped.close()
        raise HostFault(f"a stored context is damaged ({path.name} has the wrong length); remove and add it again")
    return mapped
