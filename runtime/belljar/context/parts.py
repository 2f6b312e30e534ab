"""A part of a stored document as a context of its own: what of it may be read, and how it is described.

Nothing is copied, and all positions stay those of the document. So what is read of a part counts for the document, and
a part of a part is one of the document. Of a list or dict a part has the text of its items in one range, the keys in
another, and its records in the directory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from belljar.context.document import RECORD_BYTES, Document, Kind, OpenDocument

__all__ = ["Part", "Span", "View", "view_of", "within"]

Span = tuple[int, int]


class Part(msgspec.Struct, frozen=True):
    """Characters [start, stop) of a document, or with `items` its items [start, stop)."""

    start: int
    stop: int
    items: bool = False


class View(msgspec.Struct, frozen=True):
    """A part, looked up in its document.

    Attributes:
        document: described as if the part were all there is; its digest is that of the whole.
        text: the ranges of the document's text that belong to it, in characters.
        directory: the same for the directory.
    """

    document: Document
    text: tuple[Span, ...]
    directory: tuple[Span, ...] = ()


def view_of(opened: OpenDocument, part: Part) -> View:
    """Look a part up. Takes longer the longer lines are; raises ValueError for what is not in the document."""
    whole = opened.document
    if not 0 <= part.start <= part.stop <= (whole.items if part.items else whole.chars):
        raise ValueError(f"{part} is not in a document of {whole.items} items and {whole.chars} characters")
    if part.items:
        return _items(opened, part)
    lines = _lines(opened, part) if whole.kind == "text" else 0
    described = _described(whole, "text", chars=part.stop - part.start, lines=lines, items=0)
    return View(described, ((part.start, part.stop),))


def within(span: Span, spans: Sequence[Span]) -> bool:
    """Whether one of the spans has all of it."""
    return any(start <= span[0] and span[1] <= stop for start, stop in spans)


def _items(opened: OpenDocument, part: Part) -> View:
    keys, values = (0, 0), (0, 0)
    if part.start < part.stop:
        with opened.directory() as directory:
            first, last = (_record(directory, item) for item in (part.start, part.stop - 1))
        keys, values = (first[0], sum(last[:2])), (first[2], sum(last[2:]))
    key_chars = keys[1] - keys[0]
    chars = values[1] - values[0] + key_chars
    described = _described(
        opened.document, opened.document.kind, chars=chars, lines=0, items=part.stop - part.start, key_chars=key_chars
    )
    return View(described, (keys, values), ((part.start * RECORD_BYTES, part.stop * RECORD_BYTES),))


def _record(directory: OpenDocument, item: int) -> tuple[int, int, int, int]:
    """Where an item's key begins, how long it is, and the same of its value."""
    record = str(directory.read(item * RECORD_BYTES, (item + 1) * RECORD_BYTES), "ascii")
    return int(record[:12], 16), int(record[12:18], 16), int(record[18:30], 16), int(record[30:40], 16)


def _described(whole: Document, kind: Kind, *, chars: int, lines: int, items: int, key_chars: int = 0) -> Document:
    return msgspec.structs.replace(whole, kind=kind, chars=chars, lines=lines, items=items, key_chars=key_chars)


def _lines(opened: OpenDocument, part: Part) -> int:
    """How many lines have a character in the part."""
    if part.start == part.stop:
        return 0
    first, last = (opened.byte_of(char) for char in (part.start, part.stop - 1))
    return (
        _line_of(opened.line_start, opened.document.lines, last)
        - _line_of(opened.line_start, opened.document.lines, first)
        + 1
    )


def _line_of(line_start: Callable[[int], int], lines: int, byte: int) -> int:
    """The number of the line that has this byte, found by halving."""
    low, high = 0, lines
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if line_start(middle) <= byte else (low, middle)
    return low
