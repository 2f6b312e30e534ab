"""A stored context, and how a range of its characters, or one of its lines, becomes a range of bytes.

A context is a folder of a few files, written once and never changed:

    text            UTF-8 bytes: the text itself; for a list or dict all its strings, one after the other
    index           little-endian u64s: the byte offset of every `MARK_CHARS`-th character. Absent for ASCII text
    lines           little-endian u64s: the byte offset at which every `MARK_LINES`-th line begins. Texts only
    directory       where in `text` each item is: one record per item (see `items`). Lists and dicts only
    document.json   the `Document`; its modification time is when the context was last used
    names/          the names under which it was added, a file per name

For ASCII a character is a byte, and a read is a view into the memory map. Otherwise the index leads to the mark at or
before the character, and at most `MARK_CHARS` characters are decoded from there. Either way a read costs what it
returns plus a constant, wherever in the document it is. Lines are found in the same way.

The directory has the form of an ASCII text, and is opened as one: reading a list means asking for ranges of characters
of two texts, and needs no message of its own.

What is on the disk may be damaged: cut off, replaced, flipped by a bad disk or a bad copy. That is not the fault of
whoever asks for it, so any sign of it here is a HostFault that names the folder. The length of each file is checked
when it is opened and again before each read, since touching a map beyond the end of its file kills the process. A mark
is believed only if a character (or a line) can begin there. A directory is hashed when it is opened: a wrong digit in
it would lead a program astray. The text is not: hashing all of it takes longer than what most runs do with it. So one
letter exchanged for another is not noticed here.

While a document is open, its folder carries a shared flock. The kernel drops it when the last holder dies. Removing a
context takes the exclusive lock, and so never takes one from under a run.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import mmap
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import msgspec

from belljar.context.lines import flattened, nth_end
from belljar.errors import HostFault

__all__ = [
    "DIRECTORY_FILE",
    "DOCUMENT_FILE",
    "INDEX_FILE",
    "LINES_FILE",
    "MARK_CHARS",
    "MARK_LINES",
    "NAMES_FOLDER",
    "RECORD_BYTES",
    "TEXT_FILE",
    "Document",
    "Kind",
    "OpenDocument",
    "damaged",
]

TEXT_FILE = "text"
INDEX_FILE = "index"
LINES_FILE = "lines"
DIRECTORY_FILE = "directory"
DOCUMENT_FILE = "document.json"
NAMES_FOLDER = "names"

# A read decodes at most two stretches of this length, a few microseconds each. Marks closer together would make
# registration slower, which goes from mark to mark.
MARK_CHARS = 4096
MARK_LINES = 1024

# One item of a list or dict in `directory`: key_start (12 hex digits), key_chars (6), start (12), chars (10), form
# (`t` or `j`), line feed. Offsets and lengths in characters of `text`.
RECORD_BYTES = 42

Kind = Literal["text", "list", "dict"]

_MARK = struct.Struct("<Q")
_STRETCH_BYTES = 64 * 1024
_CHARACTER_BYTES_MAX = 4
_LINE_END_BYTES = 3  # the longest one, U+2028 in UTF-8


class Document(msgspec.Struct, frozen=True):
    """What is known about a stored context without opening it.

    Attributes:
        sha256: lower-case hex digest; names the document. For a text, of its UTF-8 bytes; for a list or dict, of
            `belljar list\0` or `belljar dict\0`, the digest of the text and the digest of the directory.
        name: for people; never used as a path.
        kind: what the guest's `context` looks like.
        chars: length of the text in characters (code points), at least 1.
        bytes: length of the text in UTF-8 bytes.
        ascii: every character is a single byte.
        items: how many items a list or dict has; 0 for a text.
        lines: how many lines a text has, as `str.splitlines` counts; 0 for a list or dict.
        directory: hex digest of the directory's bytes; empty for a text.
        key_chars: how many of the characters are keys of a dict.
        added_ns: when the store first took it in, nanoseconds since the epoch.
    """

    sha256: str
    name: str
    kind: Kind
    chars: int
    bytes: int
    ascii: bool
    items: int
    lines: int
    directory: str
    added_ns: int
    key_chars: int = 0


class OpenDocument:
    """A memory-mapped document. Reads may come from several threads. Close it, or use it as a context manager.

    Args:
        folder: where it is stored.
        hold: a descriptor of that folder with a shared flock; closed with the document.
    """

    def __init__(self, folder: Path, document: Document, *, hold: int | None = None) -> None:
        self.document = document
        self._folder = folder
        self._hold = hold
        self._view: memoryview | None = None
        with contextlib.ExitStack() as opened:
            opened.callback(self._release)
            self._text = self._mapped(_file_of(document), document.bytes)
            opened.callback(self._text.close)
            self._index = None if document.ascii else self._mapped(INDEX_FILE, _marks(document.chars, MARK_CHARS))
            opened.pop_all()
        self._view = memoryview(self._text)

    def read(self, start: int, stop: int) -> memoryview | bytes:
        """The UTF-8 bytes of characters [start, stop), as a read-only view that stays valid after `close`.

        Raises:
            ValueError: unless 0 <= start <= stop <= chars, or when closed.
            HostFault: the document is damaged.
        """
        view = self._whole()
        if not 0 <= start <= stop <= self.document.chars:
            raise ValueError(f"characters [{start}, {stop}) are outside [0, {self.document.chars})")
        first, last = self._byte_of(view, start), self._byte_of(view, stop)
        if not stop - start <= last - first <= _CHARACTER_BYTES_MAX * (stop - start):
            raise self._damaged(INDEX_FILE, "does not fit the text")
        return view[first:last]

    @property
    def folder(self) -> Path:
        """Where it is stored, for another process of ours that opens it too."""
        return self._folder

    @property
    def view(self) -> memoryview:
        """All of the bytes, as a view that stays valid after `close`.

        Raises:
            ValueError: when closed.
            HostFault: the document is damaged.
        """
        return self._whole()[:]

    def byte_of(self, char: int) -> int:
        """Where in the bytes a character begins; `chars` gives the end.

        Raises:
            ValueError: unless 0 <= char <= chars, or when closed.
            HostFault: the document is damaged.
        """
        if not 0 <= char <= self.document.chars:
            raise ValueError(f"character {char} is outside [0, {self.document.chars}]")
        return self._byte_of(self._alive(), char)

    def char_of(self, byte: int) -> int:
        """The number of the character that begins at `byte`; the inverse of `byte_of`.

        Raises:
            ValueError: unless 0 <= byte <= bytes, or when closed.
            HostFault: the document is damaged.
        """
        view = self._alive()
        if not 0 <= byte <= self.document.bytes:
            raise ValueError(f"byte {byte} is outside [0, {self.document.bytes}]")
        if self._index is None:
            return byte
        mark = _mark_before(self._index, byte)
        start = self._index_at(view, mark)
        beyond = len(str(view[start:byte], "utf-8", "replace"))
        if start > byte or beyond > MARK_CHARS:
            raise self._damaged(INDEX_FILE, "does not fit the text")
        return mark * MARK_CHARS + beyond

    def line_start(self, line: int) -> int:
        """Where in the bytes a line begins, the first being line 0; `lines` gives the end.

        Raises:
            ValueError: unless 0 <= line <= lines, or when closed.
            HostFault: the file is damaged.
        """
        view = self._whole()
        if not 0 <= line <= self.document.lines:
            raise ValueError(f"line {line} is outside [0, {self.document.lines}]")
        if line == self.document.lines:
            return self.document.bytes
        mark, beyond = divmod(line, MARK_LINES)
        with self._mapped(LINES_FILE, _marks(self.document.lines, MARK_LINES)) as marks:
            start = _mark(marks, mark)
        if not _begins_a_line(view, start):
            raise self._damaged(LINES_FILE, "does not fit the text")
        found = start if beyond == 0 else _after_lines(view, start, beyond)
        if found is None:
            raise self._damaged(LINES_FILE, "counts more lines than there are")
        return found

    def directory(self) -> OpenDocument:
        """The directory of a list or dict as a document of its own: ASCII, `RECORD_BYTES` characters per item.

        The caller closes it, before this one: it has no hold of its own.

        Raises:
            ValueError: a text has none.
            HostFault: the file is damaged.
        """
        if self.document.kind == "text":
            raise ValueError("a text has no directory")
        directory = OpenDocument(self._folder, _as_text(self.document))
        if hashlib.sha256(directory._alive()).hexdigest() != self.document.directory:
            directory.close()
            raise self._damaged(DIRECTORY_FILE, "is not what was stored")
        return directory

    def close(self) -> None:
        """Release the memory map. Safe to repeat."""
        view, self._view = self._view, None
        if view is None:
            return
        view.release()
        # While a view handed out by `read` is alive the map cannot be closed; it is freed with the last of them.
        with contextlib.suppress(BufferError):
            self._text.close()
        if self._index is not None:
            self._index.close()
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _alive(self) -> memoryview:
        if self._view is None:
            raise ValueError("the document is closed")
        return self._view

    def _whole(self) -> memoryview:
        """The bytes, if the file still has them all: touching a map beyond its file's end would raise SIGBUS."""
        view = self._alive()
        if self._text.size() != len(view):
            raise self._damaged(_file_of(self.document), "was cut off or has grown")
        return view

    def _release(self) -> None:
        hold, self._hold = self._hold, None
        if hold is not None:
            os.close(hold)

    def _byte_of(self, view: memoryview, char: int) -> int:
        if self._index is None:
            return char
        if char == self.document.chars:
            return self.document.bytes
        mark, beyond = divmod(char, MARK_CHARS)
        base = self._index_at(view, mark)
        if beyond == 0:
            return base
        try:
            # A character that is cut off there is beyond what is asked for.
            stretch, _ = codecs.utf_8_decode(view[base : base + _CHARACTER_BYTES_MAX * beyond], "strict", False)
        except UnicodeDecodeError as error:
            raise self._damaged(_file_of(self.document), f"is not UTF-8 at byte {base + error.start}") from None
        return base + len(stretch[:beyond].encode())

    def _index_at(self, view: memoryview, mark: int) -> int:
        """Where the character of this mark begins, if one with as many before and after it can begin there."""
        assert self._index is not None
        if self._index.size() != len(self._index):
            raise self._damaged(INDEX_FILE, "was cut off or has grown")
        start, chars = _mark(self._index, mark), mark * MARK_CHARS
        after = self.document.chars - chars
        fits = (
            chars <= start <= _CHARACTER_BYTES_MAX * chars
            and after <= len(view) - start <= _CHARACTER_BYTES_MAX * after
            and view[start] & 0xC0 != 0x80
        )
        if not fits:
            raise self._damaged(INDEX_FILE, "does not fit the text")
        return start

    def _mapped(self, name: str, bytes_expected: int) -> mmap.mmap:
        try:
            with (self._folder / name).open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise self._damaged(name, "is missing") from None
        except OSError as error:
            raise HostFault(
                f"the stored context in {str(self._folder)!r} cannot be read ({name}: {error.strerror}); fix that, or "
                "remove that folder and add the context again"
            ) from error
        except ValueError:
            raise self._damaged(name, "is empty") from None
        if len(mapped) != bytes_expected:
            mapped.close()
            raise self._damaged(name, "has the wrong length")
        return mapped

    def _damaged(self, name: str, why: str) -> HostFault:
        return damaged(self._folder, f"{name} {why}")


def damaged(folder: Path, why: str) -> HostFault:
    """What to raise if the files of a document are not what was stored."""
    return HostFault(
        f"the stored context in {str(folder)!r} is damaged ({why}); remove that folder and add the context again"
    )


def _file_of(document: Document) -> str:
    return DIRECTORY_FILE if document.kind == "text" and document.directory else TEXT_FILE


def _as_text(collection: Document) -> Document:
    """A collection's directory as a document: a text whose bytes are in another file."""
    length = collection.items * RECORD_BYTES
    return msgspec.structs.replace(
        collection, sha256=collection.directory, kind="text", chars=length, bytes=length, ascii=True, items=0
    )


def _marks(count: int, each: int) -> int:
    """How long a file of marks is, in bytes."""
    return (count + each - 1) // each * _MARK.size


def _mark(marks: mmap.mmap, number: int) -> int:
    offset: int = _MARK.unpack_from(marks, number * _MARK.size)[0]
    return offset


def _mark_before(marks: mmap.mmap, byte: int) -> int:
    """The last mark at or before `byte`."""
    low, high = 0, len(marks) // _MARK.size
    while high - low > 1:
        middle = (low + high) // 2
        if _mark(marks, middle) <= byte:
            low = middle
        else:
            high = middle
    return low


def _begins_a_line(view: memoryview, start: int) -> bool:
    if not 0 <= start < len(view):
        return False
    return start == 0 or flattened(bytes(view[max(0, start - _LINE_END_BYTES) : start])).endswith(b"\n")


def _after_lines(view: memoryview, first: int, lines: int) -> int | None:
    """The byte after `lines` more line ends, from `first`, where a line begins; None if there are not that many."""
    at = first
    while at < len(view):
        # A line end of several bytes may cross the border: it belongs to the stretch that has its last byte, and is
        # seen whole from a few bytes before the stretch to a few bytes after it.
        before = min(_LINE_END_BYTES, at - first)
        stop = min(at + _STRETCH_BYTES, len(view))
        flat = flattened(bytes(view[at - before : stop + _LINE_END_BYTES]))[before : before + stop - at]
        ends = flat.count(b"\n")
        if ends >= lines:
            return at + nth_end(flat, 0, len(flat), lines) + 1
        lines -= ends
        at = stop
    return None
