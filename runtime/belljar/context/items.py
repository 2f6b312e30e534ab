"""Lists and dicts: all strings in one text, and a directory that says where each item is.

The text of a dict is all keys, then all values, in order; that of a list is the values. The directory has one record
per item, ASCII of fixed width, so that item n is a slice of it:

    key_start 12 hex digits, key_chars 6, start 12, chars 10, form, line feed

in characters of the text; for a list, key_start and key_chars are 0. The form is `t` if the item is this text, and `j`
if it is the JSON value whose compact text this is: a number, a list, a dict, true, false or null.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from belljar.context.document import DIRECTORY_FILE, RECORD_BYTES, OpenDocument
from belljar.context.intake import Draft, Meter, OnProgress, Place, Writer
from belljar.errors import InvalidInput

__all__ = ["Directory", "FirstItem", "draft", "first_items", "take_dict", "take_json_lines", "take_list"]

Form = Literal["t", "j"]

# The most that the widths of a record can hold.
_KEY_CHARS_MAX = 16**6 - 1
_ITEM_CHARS_MAX = 16**10 - 1
_LABEL_CHARS_MAX = 80
_LINE_CHARS_MAX = 256 * 2**20


def take_list(place: Place, values: Sequence[object], on_progress: OnProgress | None) -> Draft:
    """Take in a list. Progress counts items.

    Raises:
        InvalidInput: context.empty, context.binary, context.encoding, context.not_json.
    """
    named = ((f"item {number}", value) for number, value in enumerate(values))
    return _take(place, "list", (), named, Meter(on_progress, len(values)))


def take_json_lines(place: Place, texts: Iterable[str], label: str) -> Draft:
    """Take in a list: each line of the text is an item, as JSON. Blank lines are skipped.

    Raises:
        InvalidInput: what the text raises; context.empty, context.not_json, context.too_long.
    """
    return _take(place, "list", (), _json_lines(texts, label), Meter(None, 0), label)


def take_dict(place: Place, values: Mapping[Any, object], on_progress: OnProgress | None) -> Draft:
    """Take in a dict with keys of type str. Progress counts items.

    Raises:
        InvalidInput: context.empty, context.binary, context.encoding, context.not_json, context.too_long.
    """
    named = ((f"the value of {_short(key)}", value) for key, value in values.items())
    return _take(place, "dict", values, named, Meter(on_progress, len(values)))


class FirstItem(NamedTuple):
    """An item of a list or dict: its key, cut if it is long, and None in a list; and how many characters it has."""

    key: str | None
    chars: int


def first_items(document: OpenDocument, directory: OpenDocument, items: range, key_chars_max: int) -> list[FirstItem]:
    """These items of a list or dict, by its open directory. An item that is no text counts as its JSON."""
    found = []
    for item in items:
        record = str(directory.read(item * RECORD_BYTES, (item + 1) * RECORD_BYTES), "ascii")
        start, chars = int(record[:12], 16), int(record[12:18], 16)
        key = None
        if document.document.kind == "dict":
            key = str(document.read(start, start + min(chars, key_chars_max)), "utf-8")
            key = key if chars <= key_chars_max else f"{key}..."
        found.append(FirstItem(key, int(record[30:40], 16)))
    return found


class Directory:
    """Writes the records of one document, in order.

    Args:
        writer: what takes the text; `keys` writes the keys to it, `item` is called after each item was written.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._records: list[str] = []
        self._keys: list[int] = []
        self._key_start = 0
        self._start = 0
        self.items = 0
        self._hash = hashlib.sha256()

    def keys(self, keys: Iterable[object]) -> None:
        """Write all keys to the text. Raises InvalidInput."""
        for key in keys:
            label = f"the key {_short(key)}"
            if not isinstance(key, str):
                raise InvalidInput(f"{label} is not a str; convert it, for example with str()", code="context.not_json")
            if len(key) > _KEY_CHARS_MAX:
                raise InvalidInput(
                    f"{label} is too long; make it shorter",
                    code="context.too_long",
                    limit=_KEY_CHARS_MAX,
                    observed=len(key),
                )
            self._writer.write(key, label)
            self._keys.append(len(key))
        self._start = self._writer.chars

    def item(self, form: Form, label: str) -> bytes:
        """The record of the item that ends where the text does now. Raises InvalidInput."""
        key_chars = self._keys[self.items] if self._keys else 0
        chars = self._writer.chars - self._start
        if chars > _ITEM_CHARS_MAX:
            raise InvalidInput(
                f"{label} is too long; split it into several",
                code="context.too_long",
                limit=_ITEM_CHARS_MAX,
                observed=chars,
            )
        record = f"{self._key_start:012x}{key_chars:06x}{self._start:012x}{chars:010x}{form}\n".encode()
        assert len(record) == RECORD_BYTES
        self._writer.place.grow(RECORD_BYTES)
        self._hash.update(record)
        self._key_start += key_chars
        self._start += chars
        self.items += 1
        return record

    @property
    def key_chars(self) -> int:
        """How many characters all keys so far have."""
        return sum(self._keys)

    def digest(self) -> bytes:
        return self._hash.digest()


def draft(kind: Literal["list", "dict"], writer: Writer, directory: Directory, label: str) -> Draft:
    """What has been written, when both files are complete. Raises InvalidInput (context.empty)."""
    measure = writer.measure
    if measure.chars == 0:
        raise InvalidInput(
            f"{label} has no text in it; give at least one item of at least one character", code="context.empty"
        )
    whole = hashlib.sha256(f"belljar {kind}\0".encode() + measure.sha256 + directory.digest())
    key_chars = directory.key_chars
    return Draft(kind, whole.hexdigest(), measure, directory.items, directory.digest().hex(), key_chars)


def _take(
    place: Place,
    kind: Literal["list", "dict"],
    keys: Iterable[object],
    values: Iterator[tuple[str, object]],
    meter: Meter,
    label: str = "",
) -> Draft:
    with place.created(DIRECTORY_FILE) as records:
        with Writer(place, lines=False) as writer:
            directory = Directory(writer)
            directory.keys(keys)
            for which, value in values:
                text = value if isinstance(value, str) else _compact(value, which)
                writer.write(text, which)
                records.write(directory.item("t" if isinstance(value, str) else "j", which))
                meter.at(directory.items)
        taken = draft(kind, writer, directory, label or f"the {kind}")
    meter.end()
    return taken


def _json_lines(texts: Iterable[str], label: str) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(_lines(texts, label), 1):
        if line.strip():
            which = f"line {number} of {label}"
            try:
                yield which, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InvalidInput(
                    f"{which} {_wrong_with(error)}; correct it, or take it as a text and not as lines of JSON",
                    code="context.not_json",
                ) from None


def _wrong_with(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON ({error.msg})"
    return "is nested too deeply" if isinstance(error, RecursionError) else "has a number of too many digits"


def _lines(texts: Iterable[str], label: str) -> Iterator[str]:
    """Split by line feeds alone: in JSON no other character ends a line."""
    begun: list[str] = []
    chars = 0
    for text in texts:
        *whole, rest = text.split("\n")
        for line in whole:
            yield "".join([*begun, line])
            begun, chars = [], 0
        begun.append(rest)
        chars += len(rest)
        if chars > _LINE_CHARS_MAX:
            raise InvalidInput(
                f"{label} has a line of over {_LINE_CHARS_MAX} characters; take it as a text and not as lines of JSON",
                code="context.too_long",
                limit=_LINE_CHARS_MAX,
                observed=chars,
            )
    yield "".join(begun)


def _compact(value: object, label: str) -> str:
    """The compact JSON text of a value. Raises InvalidInput (context.not_json) for what JSON cannot express."""
    try:
        _refuse_unless_json(value, label)
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise InvalidInput(f"{label} is nested too deeply; flatten it", code="context.not_json") from None
    except ValueError:
        raise InvalidInput(
            f"{label} has a number that JSON does not have (NaN or an infinity), or contains itself; use None or a str "
            "instead",
            code="context.not_json",
        ) from None


def _refuse_unless_json(value: object, label: str) -> None:
    """json.dumps silently turns keys into strings: the guest would get another value."""
    match value:
        case None | str() | bool() | int() | float():
            return
        case list() | tuple():
            for item in value:
                _refuse_unless_json(item, label)
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise InvalidInput(
                        f"{label} has the key {_short(key)}, which is not a str; convert it", code="context.not_json"
                    )
                _refuse_unless_json(item, label)
        case _:
            raise InvalidInput(
                f"{label} has a {type(value).__name__}, which JSON cannot express; use str, int, float, bool, None, "
                "list or dict",
                code="context.not_json",
            )


def _short(key: object) -> str:
    shown = ascii(key) if isinstance(key, str | int | float) else f"of type {type(key).__name__}"
    return shown if len(shown) <= _LABEL_CHARS_MAX else f"{shown[:_LABEL_CHARS_MAX]}..."
