"""What a handler gave, as JSON, also where a text in it is long.

The encoder is one call into C, and meanwhile nobody else has the interpreter: an answer of eight megabytes takes it a
tenth of a second. So long texts are encoded in slices, in a thread, and the encoder puts them in as they are.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from belljar.heavy import SLICE_BYTES, off_loop, slices

__all__ = ["encode", "encoded"]

_encode: Final = msgspec.json.encode


async def encoded(value: object, *, is_line: bool = False) -> bytes:
    """As JSON; `is_line`: without line ends, of which there may be some between its tokens."""
    return await off_loop(_long_chars(value), _written, value, is_line)


def encode(value: object) -> bytes:
    """As JSON, in one call: for what is short."""
    return _encode(value, enc_hook=_plain)


def _plain(value: object) -> object:
    """Texts with a type of their own, which msgspec does not write."""
    if isinstance(value, str):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be answered")


def _written(value: object, is_line: bool) -> bytes:
    data = encode(_sliced(value))
    return data.replace(b"\n", b" ").replace(b"\r", b" ") if is_line else data


def _long_chars(value: object) -> int:
    """How many characters its long texts have."""
    if isinstance(value, str):
        return len(value) if len(value) > SLICE_BYTES else 0
    if isinstance(value, msgspec.Struct):
        return sum(_long_chars(getattr(value, field)) for field in value.__struct_fields__)
    return sum(map(_long_chars, value)) if isinstance(value, tuple) else 0


def _sliced(value: Any) -> Any:
    """The same, with each long text encoded already."""
    if isinstance(value, str) and len(value) > SLICE_BYTES:
        parts = (_encode(value[start:stop])[1:-1] for start, stop in slices(len(value)))
        return msgspec.Raw(b'"%b"' % b"".join(parts))
    if isinstance(value, msgspec.Struct):
        fields = {field: getattr(value, field) for field in value.__struct_fields__}
        changed = {field: new for field, old in fields.items() if (new := _sliced(old)) is not old}
        return msgspec.structs.replace(value, **changed) if changed else value
    if isinstance(value, tuple) and _long_chars(value):
        return tuple(map(_sliced, value))
    return value
