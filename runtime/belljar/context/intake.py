"""Takes a source in: one pass over it writes the files of a document into a folder, and returns what it found.

Nothing here holds more than a block of the text, however long it is. There are two ways in:

    copied    a file of UTF-8: its bytes are copied as they are (see `copying`), and the copy is read, checked, hashed
              and marked. Every `CHECKPOINT_BYTES` the state is written down, so that a second attempt after a kill
              copies and checks only what is left; what was done is hashed once more (see `tally`). The store removes
              the checkpoint.
    written   all else (other encodings, replaced bytes, compressed files, pipes, values in memory, many files in one):
              text comes as str, and is encoded, hashed, marked and written.

What begins like gzip is unpacked as it is read, wherever it comes from: no text begins like that.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import time
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from belljar.context.copying import Copier
from belljar.context.document import INDEX_FILE, LINES_FILE, TEXT_FILE, Kind
from belljar.context.encodings import Encoding, Errors, chosen, decoded, not_text, refuse_nul, utf8
from belljar.context.files import read_at, unreadable
from belljar.context.tally import BLOCK_BYTES, Measure, State, Tally
from belljar.durable import continued, created
from belljar.errors import InvalidInput

__all__ = [
    "CHECKPOINT_FILE",
    "Draft",
    "Meter",
    "OnProgress",
    "Place",
    "Writer",
    "file_texts",
    "stream_texts",
    "take_file",
    "take_text",
    "take_texts",
]

OnProgress = Callable[[int, int], None]

CHECKPOINT_FILE = "checkpoint"
# A tenth of a second of work.
CHECKPOINT_BYTES = 64 * 1024 * 1024
_SHOWN_SECONDS = 0.05
_HEAD_BYTES = 4
_GZIP: Final = b"\x1f\x8b"


class Draft(msgspec.Struct, frozen=True):
    """What has been written into a folder."""

    kind: Kind
    sha256: str
    measure: Measure
    items: int = 0
    directory: str = ""
    key_chars: int = 0


class Place:
    """A folder that a document is written into.

    Args:
        folder: ours; may hold what an interrupted pass over the same state of the same file left.
        check: is told each time how many bytes there are by now, and raises if that is too many.
        lasting: what is written has to outlive a power cut. What a run brought along goes with the run: to flush it
            would take most of the time that a child run takes.
    """

    def __init__(self, folder: Path, check: Callable[[int], None] = lambda _: None, *, lasting: bool = True) -> None:
        self.folder = folder
        self.lasting = lasting
        self.bytes = 0
        self._check = check

    def created(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """A new file in it."""
        return created(self.folder / name, flushed=self.lasting)

    def continued(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """A file in it that an interrupted pass may have begun."""
        return continued(self.folder / name, flushed=self.lasting)

    def grow(self, size: int) -> None:
        """So many bytes more are written, or about to be. Raises what `check` raises."""
        self.bytes += size
        self._check(self.bytes)


class Meter:
    """Tells a callback how far the work is: at the beginning, at the end, and at most 20 times a second in between."""

    def __init__(self, on_progress: OnProgress | None, total: int) -> None:
        self._on_progress = on_progress
        self._total = total
        self._shown = -_SHOWN_SECONDS

    def at(self, done: int) -> None:
        """`done` bytes of the source are done."""
        if self._on_progress is None:
            return
        now = time.monotonic()
        if now - self._shown >= _SHOWN_SECONDS:
            self._shown = now
            self._on_progress(min(done, self._total), self._total)

    def end(self) -> None:
        """All is done, and on disk."""
        if self._on_progress is not None:
            self._on_progress(self._total, self._total)


def take_file(
    place: Place, source: int, label: str, declared: str | None, errors: Errors, on_progress: OnProgress | None
) -> Draft:
    """Take in a file as a text.

    Args:
        source: descriptor of a regular file.
        label: what messages call it.
        declared: its encoding; None means UTF-8, or what its byte order mark says.

    Raises:
        InvalidInput: context.unreadable, context.empty, context.binary, context.encoding.
    """
    meter = Meter(on_progress, os.fstat(source).st_size)
    head = read_at(source, _HEAD_BYTES, 0, label)
    encoding = chosen(declared, head)
    if encoding.codec == "utf-8" and errors == "strict" and not head.startswith(_GZIP):
        taken = _text_draft(_take_copy(place, source, label, encoding, meter), label)
    else:
        taken = take_texts(place, file_texts(source, label, declared, errors, meter.at), label, errors)
    meter.end()
    return taken


def take_texts(place: Place, texts: Iterator[str], label: str, errors: Errors) -> Draft:
    """Take in a text that comes piece by piece.

    Raises:
        InvalidInput: what the pieces raise; context.empty.
    """
    with Writer(place, lines=True) as writer:
        for text in texts:
            writer.write(text, label, errors)
    return _text_draft(writer.measure, label)


def take_text(place: Place, text: str, label: str, on_progress: OnProgress | None) -> Draft:
    """Take in a str.

    Raises:
        InvalidInput: context.empty, context.binary, context.encoding.
    """
    meter = Meter(on_progress, len(text))
    with Writer(place, lines=True) as writer:
        writer.write(text, label, on_chars=meter.at)
    meter.end()
    return _text_draft(writer.measure, label)


def file_texts(
    source: int, label: str, declared: str | None, errors: Errors, on_bytes: Callable[[int], None]
) -> Iterator[str]:
    """The text of a file, piece by piece; `on_bytes` is told how many bytes of it are read.

    Raises:
        InvalidInput: context.unreadable, context.binary, context.encoding.
    """
    with open(source, "rb", closefd=False) as file:
        file.seek(0)
        yield from stream_texts(file, label, declared, errors, on_bytes)


def stream_texts(
    file: BinaryIO, label: str, declared: str | None, errors: Errors, on_bytes: Callable[[int], None]
) -> Iterator[str]:
    """The same for an open file that can only be read forwards, like a pipe."""
    given = 0

    def blocks(reader: BinaryIO) -> Iterator[bytes]:
        nonlocal given
        while block := _read(reader, label):
            yield block
            given += len(block)
            on_bytes(given)

    raw = blocks(file)
    head = next(raw, b"")
    raw = chain([head], raw)
    plain = _unpacked(raw, label) if head.startswith(_GZIP) else raw
    first = next(plain, b"")
    encoding = chosen(declared, first[:_HEAD_BYTES])
    yield from decoded(chain([first], plain), encoding, label, errors)


def _read(file: BinaryIO, label: str) -> bytes:
    """A block of a file, shorter than others only at its end."""
    parts: list[bytes] = []
    size = 0
    while size < BLOCK_BYTES:
        try:
            part = file.read(BLOCK_BYTES - size)
        except OSError as error:
            raise unreadable(label, error) from error
        if not part:
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _unpacked(packed: Iterator[bytes], label: str) -> Iterator[bytes]:
    """Unpack gzip."""
    with gzip.GzipFile(fileobj=io.BufferedReader(_Joined(packed)), mode="rb") as file:
        while True:
            try:
                block = file.read(BLOCK_BYTES)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise InvalidInput(
                    f"{label} is damaged: it begins like gzip, but {_why(error)}; compress it again",
                    code="context.unreadable",
                ) from None
            if not block:
                return
            yield block


def _why(error: Exception) -> str:
    return "ends too early" if isinstance(error, EOFError) else f"is not valid ({error})"


class _Joined(io.RawIOBase):
    """Blocks as a file that can be read forwards."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            self._left = memoryview(next(self._blocks, b""))
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size


class Writer:
    """The written way: `write` text, as often as there is some. `measure` is set once the block has ended well.

    Args:
        place: where the files are made.
        lines: whether lines are marked.
    """

    measure: Measure

    def __init__(self, place: Place, *, lines: bool) -> None:
        self.place = place
        self._with_lines = lines
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self.chars = 0  # so far, including those that wait

    def __enter__(self) -> Writer:
        place = self.place
        with contextlib.ExitStack() as files:
            self._text: BinaryIO = files.enter_context(place.created(TEXT_FILE))
            index = files.enter_context(place.created(INDEX_FILE))
            lines = files.enter_context(place.created(LINES_FILE)) if self._with_lines else None
            self._tally = Tally(index, lines)
            self._files = files.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with self._files:
            if kind is None:
                self._flush()
                self.measure = self._tally.finish()

    def write(
        self, text: str, label: str, errors: Errors = "strict", *, on_chars: Callable[[int], None] | None = None
    ) -> None:
        """Add to the text. Raises InvalidInput (context.binary, context.encoding) if it cannot be stored."""
        for start in range(0, len(text), BLOCK_BYTES):
            block = text[start : start + BLOCK_BYTES]
            _refuse_nul_in(block, start, label)
            data = utf8(block, label, errors, start)
            self._waiting.append(data)
            self._waiting_bytes += len(data)
            self.chars += len(block)
            if self._waiting_bytes >= BLOCK_BYTES:
                self._flush()
            if on_chars is not None:
                on_chars(start + len(block))

    def _flush(self) -> None:
        data = b"".join(self._waiting)
        self.place.grow(len(data))
        self._text.write(data)
        self._tally.feed(data)
        self._waiting, self._waiting_bytes = [], 0


def _take_copy(place: Place, source: int, label: str, encoding: Encoding, meter: Meter) -> Measure:
    """The copied way."""
    checkpoint = place.folder / CHECKPOINT_FILE
    with (
        place.continued(TEXT_FILE) as text,
        place.continued(INDEX_FILE) as index,
        place.continued(LINES_FILE) as lines,
    ):
        skip = encoding.mark_bytes
        copier = Copier(source, text.fileno(), label, skip=skip)
        tally = Tally(index, lines)
        kept = _kept(checkpoint)
        if kept is not None:
            tally.resume(kept, text.fileno(), meter.at)
        due = tally.state.bytes + CHECKPOINT_BYTES
        while block := _next_block(copier, text.fileno(), tally.state.bytes):
            place.grow(tally.state.bytes + len(block) - place.bytes)
            _check_block(block, skip + tally.state.bytes, label, tally)
            if tally.state.bytes >= due:
                index.flush()
                lines.flush()
                _keep(checkpoint, tally.state)
                due += CHECKPOINT_BYTES
            meter.at(tally.state.bytes)
        return tally.finish()


def _next_block(copier: Copier, copy: int, offset: int) -> bytes:
    copier.reach(offset + BLOCK_BYTES)
    return os.pread(copy, BLOCK_BYTES, offset)


def _check_block(block: bytes, offset: int, label: str, tally: Tally) -> None:
    """Count the whole characters of a block; the next one begins with what is left."""
    refuse_nul(block, offset, label)
    try:
        used = tally.feed(block)
    except UnicodeDecodeError as error:
        raise not_text(label, "utf-8", offset + error.start, block[error.start]) from None
    if used == 0:  # the source ends inside a character
        raise not_text(label, "utf-8", offset, block[0])


def _kept(checkpoint: Path) -> State | None:
    try:
        return msgspec.json.decode(checkpoint.read_bytes(), type=State)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _keep(checkpoint: Path, state: State) -> None:
    """Write down how far it is: wholly, or not at all."""
    fresh = checkpoint.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(state))
    os.rename(fresh, checkpoint)


def _text_draft(measure: Measure, label: str) -> Draft:
    if measure.chars == 0:
        raise InvalidInput(f"{label} is empty; give a text of at least one character", code="context.empty")
    return Draft("text", measure.sha256.hex(), measure)


def _refuse_nul_in(text: str, first: int, label: str) -> None:
    at = text.find("\0")
    if at >= 0:
        raise InvalidInput(
            f"{label} looks binary, at character {first + at} (a NUL); extract its text first", code="context.binary"
        )
