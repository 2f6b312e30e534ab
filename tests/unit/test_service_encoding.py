"""Answers as JSON: long texts in them are encoded in slices, and the same comes out."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from belljar.heavy import LOOP_BYTES_MAX, SLICE_BYTES
from belljar.service import encoding
from belljar.service.encoding import encode, encoded


class Inner(msgspec.Struct, frozen=True, rename={"given": "answer"}):
    given: str | msgspec.Raw | None
    turns: tuple[Any, ...] = ()


class Outer(msgspec.Struct, frozen=True):
    name: str
    inner: Inner | None
    others: list[int]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50), st.booleans())
def test_it_is_the_same_as_in_one_call(text: str, is_line: bool) -> None:
    long = text * (2 * SLICE_BYTES // len(text) + 1)
    turns = (Inner(long), text, Inner(text), long)
    for value in (text, long, Inner(long), Outer(text, Inner(msgspec.Raw(b"[1]"), turns), [1]), Outer(long, None, [])):
        assert asyncio.run(encoded(value, is_line=is_line)) == encode(value)


def test_between_tokens_a_line_has_no_line_ends() -> None:
    value = Inner(msgspec.Raw(b'[\r\n1,\n"a\\n"]'))
    assert asyncio.run(encoded(value, is_line=True)) == b'{"answer":[  1, "a\\n"],"turns":[]}'


def test_no_long_text_is_encoded_in_the_loop_or_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    loops: list[bool] = []

    def watched(value: Any, **options: Any) -> bytes:
        sizes.append(max(map(len, _texts(value)), default=0))
        try:
            asyncio.get_running_loop()
            loops.append(True)
        except RuntimeError:
            loops.append(False)
        return msgspec.json.encode(value, **options)

    monkeypatch.setattr(encoding, "_encode", watched)
    asyncio.run(encoded(Outer("name", Inner("x\n" * LOOP_BYTES_MAX), [])))
    assert max(sizes) == SLICE_BYTES
    assert not any(loops)


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    fields = getattr(value, "__struct_fields__", ())
    return [text for field in fields for text in _texts(getattr(value, field))]
