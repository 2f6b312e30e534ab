"""How many values some JSON has, counted in pieces, and that numbers are decoded in a time that is in proportion."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from belljar.errors import InvalidInput
from belljar.members import check_names
from belljar.service.values import VALUES_MAX, Values, decode

TEXTS = st.text(st.sampled_from(',[{}]:"\\\\n a\u20ac'), max_size=12)
JSON = st.recursive(
    st.none() | st.integers(-9, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=20,
)


def signs(value: Any) -> int:
    """The commas and opening brackets of a value."""
    if not isinstance(value, list | dict):
        return 0
    inner = list(value.values()) if isinstance(value, dict) else value
    return 1 + max(0, len(inner) - 1) + sum(map(signs, inner))


@given(JSON, st.integers(1, 9), st.booleans())
def test_what_stands_in_texts_is_no_value_wherever_a_piece_ends(value: Any, size: int, is_ascii: bool) -> None:
    data = json.dumps(value, ensure_ascii=is_ascii).encode()
    values = Values()
    for start in range(0, len(data), size):
        values.feed(data[start : start + size])
    assert values.count == signs(value)


def test_a_text_has_none_and_a_long_list_too_many() -> None:
    Values().feed(json.dumps('a, "b", [{' * VALUES_MAX).encode())
    Values().feed(b"[%b]" % b",".join([b"[]"] * (VALUES_MAX // 2)))
    for one in (b"0", b"[]", b"{}", b'""'):
        with pytest.raises(InvalidInput) as caught:
            Values().feed(b"[%b]" % b",".join([one] * (VALUES_MAX + 1)))
        assert (caught.value.code, caught.value.limit) == ("request.values", VALUES_MAX)


@pytest.mark.parametrize("text", ["1e300", "1.7976931348623157e308", "-5e-324", "0.1", "9007199254740993.5", "1e0"])
def test_numbers_are_what_they_are_everywhere_and_take_no_longer_for_being_large(text: str) -> None:
    """Seconds, where the decoder reads them itself: twice as many as a body may have would take it four."""
    data = b"[%b]" % b",".join([text.encode()] * VALUES_MAX)
    began = time.thread_time()
    found = decode(data, list[Any])
    assert time.thread_time() - began < 1
    assert {*found} == {float(text)}


@pytest.mark.parametrize("text", ["1e400", "-1e400"])
def test_a_number_that_is_too_large_is_none(text: str) -> None:
    assert math.isinf(float(text))
    with pytest.raises(msgspec.ValidationError, match="out of range"):
        decode(text.encode(), Any)


@given(JSON, st.booleans())
def test_what_has_no_name_twice_is_taken(value: Any, is_ascii: bool) -> None:
    check_names(json.dumps(value, ensure_ascii=is_ascii).encode())


class Asked(msgspec.Struct):
    tenant: str = ""
    more: Any = None


@pytest.mark.parametrize(
    "text",
    [
        '{"tenant":"a","tenant":"b"}',
        '{"tenant":"a","tenant":"a"}',
        '{"tenant":"a","ten\\u0061nt":"b"}',
        '{"tenant" : "a"\n,\t"tenant"\n:"b"}',
        '{"more":[{"x":{"":1e99,"y":":","":2}}]}',
        '{"unknown":{"a":1,"a":2}}',
        '{"unknown":1,"unknown":2}',
    ],
)
def test_a_name_that_an_object_has_twice_is_refused_wherever_it_stands(text: str) -> None:
    with pytest.raises(msgspec.DecodeError, match="two members of one name"):
        decode(text.encode(), Asked)


def test_names_are_looked_at_in_a_time_that_is_in_proportion() -> None:
    data = b"{%b}" % b",".join(b'"k%d":1e300' % number for number in range(VALUES_MAX - 1))
    began = time.thread_time()
    check_names(data)
    assert time.thread_time() - began < 2
