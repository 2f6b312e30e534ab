"""Turns the bytes of a source into text: which encoding it has, and exactly where it does not decode.

A source has the encoding that is declared for it. If none is, it is UTF-8, unless it begins with the byte order mark of
UTF-16 or UTF-32. A byte order mark at the start is never part of the text. Bytes that do not decode are refused with
their offset in the source, or, on request, each becomes U+FFFD.

Python's incremental decoders hold back the bytes of a character that a block has cut, and put them before the next
block; the error they raise carries what they were decoding, which ends with the last bytes they were given. So the
offset of the error in the source is what was given so far, less the length of that, plus the place in it.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from belljar.errors import InvalidInput

__all__ = ["Encoding", "Errors", "chosen", "decoded", "not_text", "refuse_nul", "utf8"]

Errors = Literal["strict", "replace", "skip"]

# Longest first: the mark of UTF-32-LE begins with that of UTF-16-LE.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Declared without a byte order: the mark gives it, else it is what this kind of machine writes.
_EITHER_END = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}
# Text encodings that cannot be decoded piece by piece in bounded memory, or that are escapes, not encodings.
_NO_STREAMS = {"idna", "punycode", "undefined", "utf-7", "unicode-escape", "raw-unicode-escape"}
_WIDE = ("utf-16", "utf-32")
_SAMPLE = "convert it with iconv, or declare another, for example windows-1252"


class Encoding(msgspec.Struct, frozen=True):
    """How a source is to be read: its codec, and how many bytes of it are a byte order mark."""

    codec: str
    mark_bytes: int

    @property
    def wide(self) -> bool:
        """Whether a NUL byte is an ordinary part of a character."""
        return self.codec.startswith(_WIDE)


def chosen(declared: str | None, head: bytes) -> Encoding:
    """How to read a source that begins with `head` (four bytes suffice).

    Raises:
        InvalidInput: context.encoding: `declared` is not an encoding that we can stream.
    """
    codec = None if declared is None else _codec(declared)
    for mark, marked in _MARKS:
        if head.startswith(mark) and (codec is None or codec == marked or marked.startswith(f"{codec}-")):
            return Encoding(marked, len(mark))
    return Encoding("utf-8" if codec is None else _EITHER_END.get(codec, codec), 0)


def decoded(blocks: Iterable[bytes], encoding: Encoding, label: str, errors: Errors) -> Iterator[str]:
    """The text of a source, given its blocks from the first byte on.

    Raises:
        InvalidInput: context.encoding, context.binary.
    """
    decoder = codecs.getincrementaldecoder(encoding.codec)("replace" if errors == "replace" else "strict")
    given = chars = 0
    for block in blocks:
        if not encoding.wide and errors != "replace":
            refuse_nul(block, given, label)
        data = block[encoding.mark_bytes :] if given == 0 else block
        given += len(block)
        text = _decode(decoder, data, given, label, encoding)
        if errors == "replace":
            text = text.replace("\0", "\ufffd")
        elif encoding.wide:
            _refuse_nul_char(text, chars, label)
        chars += len(text)
        yield text
    yield _decode(decoder, b"", given, label, encoding, final=True)


def utf8(text: str, label: str, errors: Errors = "strict", first: int = 0) -> bytes:
    """`text` as UTF-8; its first character is number `first` of the source.

    Raises:
        InvalidInput: context.encoding: a lone surrogate.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        if errors == "replace":
            return text.encode("utf-8", "replace")
        raise InvalidInput(
            f"{label} has a lone surrogate at character {first + error.start}, which no UTF-8 text can hold; "
            "decode the source with its real encoding, or replace them with .encode(errors='replace').decode()",
            code="context.encoding",
        ) from None


def refuse_nul(block: bytes, offset: int, label: str) -> None:
    """Raises InvalidInput (context.binary) when a block that begins at `offset` of the source has a NUL."""
    at = block.find(0)
    if at >= 0:
        raise InvalidInput(
            f"{label} looks binary, at byte {offset + at} (a NUL); extract its text first, or have such bytes replaced "
            "(--errors replace), or, in a folder, such files left out (--errors skip); if it is UTF-16 without a byte "
            "order mark, declare that (--encoding utf-16)",
            code="context.binary",
        )


def not_text(label: str, codec: str, offset: int, byte: int) -> InvalidInput:
    """The refusal of a source that does not decode."""
    another = "iso-8859-1" if codec in ("windows-1252", "cp1252") else "windows-1252"
    return InvalidInput(
        f"{label} is not {codec.upper()}, at byte {offset} (0x{byte:02x}); give its real encoding (--encoding "
        f"{another}, say), or have such bytes replaced (--errors replace), or, in a folder, such files left out "
        "(--errors skip)",
        code="context.encoding",
    )


def _codec(declared: str) -> str:
    try:
        # The public way to learn whether a codec turns bytes into text: others (base64, zip) are refused here.
        io.TextIOWrapper(io.BytesIO(), encoding=declared).close()
        name = codecs.lookup(declared).name.replace("_", "-")
        codecs.getincrementaldecoder(declared)
    except (LookupError, ValueError):
        name = None
    if name is None or name in _NO_STREAMS:
        raise InvalidInput(
            f"{declared[:40]!a} is not an encoding that Belljar reads; {_SAMPLE}", code="context.encoding"
        )
    return "utf-8" if name == "utf-8-sig" else name  # the mark is not part of the text anyway


def _decode(
    decoder: codecs.IncrementalDecoder, data: bytes, given: int, label: str, encoding: Encoding, *, final: bool = False
) -> str:
    """Decode `data`, after which `given` bytes of the source have been given."""
    try:
        return decoder.decode(data, final)
    except UnicodeDecodeError as error:
        offset = given - len(error.object) + error.start
        raise not_text(label, encoding.codec, offset, error.object[error.start]) from None


def _refuse_nul_char(text: str, first: int, label: str) -> None:
    at = text.find("\0")
    if at >= 0:
        raise InvalidInput(
            f"{label} looks binary, at character {first + at} (a NUL); extract its text first", code="context.binary"
        )
