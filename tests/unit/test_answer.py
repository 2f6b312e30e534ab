"""An answer is what it says it is, found out without building it; and becomes a value only where somebody asks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import example, settings
from hypothesis import given as given_any
from hypothesis import strategies as st

from belljar.broker import answer as module
from belljar.broker.answer import check_answer
from belljar.engine import CellResult
from belljar.errors import ProtocolViolation, Refusal
from belljar.heavy import plain_of, reader_of
from belljar.protocol import Final
from tests.examples import examples

JSON, TEXT = Final(1, "json"), Final(1, "text")
MIB = 2**20

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


def check(body: bytes, *, values_max: int = 1_000_000) -> None:
    check_answer(JSON, body, values_max=values_max)


def code_of(body: bytes, *, values_max: int = 1_000_000) -> tuple[str, int | None, int | None]:
    with pytest.raises(Refusal) as caught:
        check(body, values_max=values_max)
    return caught.value.code, caught.value.limit, caught.value.observed


def cell(body: bytes) -> CellResult:
    return CellResult(
        status="ok", stdout="", stderr="", truncated=False, error=None, limit=None, wall_s=0.0, given=msgspec.Raw(body)
    )


def size_of(value: Any) -> tuple[int, int]:
    """Values and keys in this value, an empty list or dict as if it had one, and how deep it is."""
    if isinstance(value, dict):
        inner, below = list(value.values()), 2 * len(value) or 1
    elif isinstance(value, list):
        inner, below = value, len(value) or 1
    else:
        return 0, 0
    sizes = [size_of(one) for one in inner]
    return below + sum(values for values, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)


@pytest.mark.slow
@pytest.mark.parametrize("window", [1, 2, 7, 16 * 1024])
@settings(deadline=None, max_examples=examples(50))
@given_any(value=VALUES)
def test_every_json_value_is_taken_and_comes_out_again(window: int, value: Any) -> None:
    body = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_WINDOW_BYTES", window)
        patch.setattr(module, "_PIECE_BYTES", window)
        check(body)
    assert cell(body).answer == json.loads(body)


@pytest.mark.slow
@pytest.mark.parametrize("window", [1, 2, 7, 16 * 1024])
@settings(deadline=None, max_examples=examples(50))
@given_any(value=VALUES)
def test_values_and_depth_are_counted_whatever_is_in_the_strings(window: int, value: Any) -> None:
    body = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
    values, depth = size_of(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_WINDOW_BYTES", window)
        patch.setattr(module, "_PIECE_BYTES", window)
        patch.setattr(module, "_DEPTH_MAX", depth)
        check(body, values_max=values)
        if depth:
            assert code_of(body, values_max=values - 1)[0] == "limits.answer_values"
            patch.setattr(module, "_DEPTH_MAX", depth - 1)
            assert code_of(body)[0] == "answer.too_deep"


@st.composite
def nearly_json(draw: st.DrawFn) -> str:
    """JSON of brackets, commas and awkward strings, with a character too many, too few, or another."""
    strings = st.sampled_from(["", '"', "\\", ",", "[", '\\"{', "a"])
    values = st.recursive(
        strings | st.integers(0, 12), lambda one: st.lists(one, max_size=3) | st.dictionaries(strings, one, max_size=2)
    )
    text = json.dumps(draw(values))
    at = draw(st.integers(0, len(text)))
    other: str = draw(st.sampled_from(["", *'[]{},:"0']))
    return text[:at] + other + text[at + draw(st.integers(0, 1)) :]


@pytest.mark.slow
@settings(deadline=None, max_examples=examples(300))
@given_any(text=nearly_json())
@example(text='[[,["[", "\\\\"]]]')
@example(text="[1,]")
@example(text='{"a":1,}')
@example(text="1,2")
def test_in_pieces_nothing_else_is_json_than_as_a_whole(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_WINDOW_BYTES", 1)
        patch.setattr(module, "_PIECE_BYTES", 1)
        assert _taken(lambda: check(text.encode())) == _taken(lambda: msgspec.json.decode(text))


def _taken(read: Callable[[], object]) -> bool:
    try:
        read()
    except (ProtocolViolation, msgspec.DecodeError):
        return False
    return True


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"NaN",
        b"[1] [2]",
        b"'a'",
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b"[1,]",
        b'"\\x"',
        b"[01]",
        b'"a',
        b"]",
        b"[}",
        b"[" * 5000 + b"]" * 5000,
        b"1e400",
        b"[0,-1E+999]",
        b"[1.5e309]",
        b"9" * 250 + b"e99",
        b"[" + b"9" * 309 + b".0]",
        b"[1e" + b"0" * 100 + b"309]",
        b"1" + b".1" * 20_000,
        b"[1" + b"e500" * 2 + b"]",
    ],
)
def test_what_is_no_json_is_a_violation(body: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="a Final that is not json"):
        check(body)


def test_a_text_is_only_utf8() -> None:
    check_answer(TEXT, b"[" * 1000, values_max=1)
    for body in (b"\xff", b"a" * 70_000 + b"\xc3"):
        with pytest.raises(ProtocolViolation, match="a Final that is not text"):
            check_answer(TEXT, body, values_max=1)


def test_the_bounds_are_met_exactly() -> None:
    check(b"[" * 64 + b"]" * 64)
    assert code_of(b"[" * 65 + b"]" * 65) == ("answer.too_deep", 64, 65)
    check(b'{"a":' * 64 + b"1" + b"}" * 64)
    check(b"[0" + b",0" * 999 + b"]", values_max=1000)
    assert code_of(b"[0" + b",0" * 1000 + b"]", values_max=1000) == ("limits.answer_values", 1000, 1001)
    for longest in (b"9" * 4300, b"-" + b"9" * 4299, b"[-1,-" + b"9" * 4299 + b",2e-5]"):
        check(longest)
        plain_of(longest)
    assert code_of(b"-" + b"9" * 4300) == ("answer.too_many_digits", 4300, 4301)
    assert code_of(b"[1," + b"9" * 4301 + b"]") == ("answer.too_many_digits", 4300, 4301)
    check(b'"' + b"9" * 5000 + b'"')


@pytest.mark.parametrize(
    "number",
    [
        b"1.7976931348623157e+308",
        b"1e308",
        b"0.1e309",
        b"0e999",
        b"1e-400",
        b"1e" + b"0" * 100 + b"308",
        b"1" * 309,
        b"-" + b"1" * 4000,
        b"9" * 309 + b".5e-9",
        b"0." + b"3" * 4000,
    ],
)
@pytest.mark.parametrize("window", [1, 7, 16 * 1024])
def test_numbers_that_a_float_holds_are_taken(monkeypatch: pytest.MonkeyPatch, window: int, number: bytes) -> None:
    monkeypatch.setattr(module, "_WINDOW_BYTES", window)
    check(number)
    check(b"[" + number + b',true,{"1e999":false,"a":' + number + b"}]")
    with pytest.raises(ProtocolViolation):
        check(b"[" + number + b",1e4" + b"0" * 20 + b"]")


@pytest.mark.parametrize("before", range(16 * 1024 - 4302, 16 * 1024 + 2, 717))
def test_a_long_number_is_found_across_two_windows(before: int) -> None:
    assert code_of(b'["' + b"x" * before + b'",' + b"9" * 4301 + b"]")[0] == "answer.too_many_digits"
    check(b'["' + b"x" * before + b'",' + b"9" * 4300 + b"]")


def nest(depth: int, body: bytes) -> bytes:
    return b"[" * depth + body + b"]" * depth


WORST: dict[str, Callable[[], bytes]] = {
    "very small floats": lambda: b"[" + b"5e-324," * 999_000 + b"0]",
    "lists": lambda: b"[" + b"[]," * 490_000 + b"0]",
    "keys": lambda: b"{" + b",".join(b'"%x":1' % n for n in range(490_000)) + b"}",
    "long integers": lambda: b"[" + (b"9" * 4000 + b",") * 2000 + b"0]",
    "nested": lambda: b"[" + (nest(63, b"") + b",") * 15_000 + b"0]",
}


@pytest.mark.slow
@pytest.mark.parametrize("case", WORST)
def test_the_worst_answer_costs_little_to_check_and_to_decode(case: str) -> None:
    """Processor time: a check that builds the value, or a decoder that is slow for some of it, takes seconds."""
    body = WORST[case]()
    assert min(_cpu_s(lambda: check(body)) for _ in range(3)) < 0.5
    assert min(_cpu_s(lambda: cell(body).answer) for _ in range(3)) < 2.0


def test_an_answer_is_decoded_once_and_only_when_asked_for() -> None:
    result = cell(b'[1, 2.5, "a"]')
    first = result.answer
    assert first == [1, 2.5, "a"]
    assert result.answer is first
    assert b'"answer":[1, 2.5, "a"]' in msgspec.json.encode(result)


def _cpu_s(work: Callable[[], object]) -> float:
    started = time.thread_time()
    work()
    return time.thread_time() - started


class Priced(msgspec.Struct):
    price: Decimal
    rates: dict[int, float]
    when: datetime | None = None


def test_numbers_that_are_dear_to_read_are_read_as_others_are() -> None:
    dear = b'{"price":1.10,"rates":{%s},"when":"2026-01-02T03:04:05Z"}'
    few = reader_of(Priced)(dear % b'"1":9.7e-310')
    many = reader_of(Priced)(dear % b",".join(b'"%d":9.7e-310' % n for n in range(1000)))
    assert (few.price, str(few.price), few.when) == (many.price, "1.10", many.when)
    assert many.rates == dict.fromkeys(range(1000), 9.7e-310)
    for number in (b"1e999", b"true", b'"1e300"'):
        for times in (1, 1000):
            with pytest.raises(msgspec.ValidationError):
                reader_of(list[float])(b"[" + b"1e300," * times + number + b"]")
