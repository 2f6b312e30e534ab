"""What a request costs at most in tokens, and what usage adds up to."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from belljar.models import Counted, Message, ModelRequest, Usage, input_tokens_bound

NO_TEXT = range(0xD800, 0xE000)
# Marks, and letters with marks on them: what is taken apart and put together again.
JOINING = "".join(chr(code) for code in range(0x0C00) if unicodedata.normalize("NFKD", chr(code)) != chr(code))
MARKS = "".join(chr(code) for code in range(0x3100) if unicodedata.combining(chr(code)))


def request(*texts: str, system: str = "") -> ModelRequest:
    messages = tuple(Message("user", text) for text in texts)
    return ModelRequest(system=system, messages=messages, output_tokens_max=10, deadline_s=1.0, purpose="sub")


@given(st.text(), st.lists(st.text()))
def test_the_bound_is_above_the_bytes_of_everything_sent(system: str, texts: list[str]) -> None:
    sent_bytes = sum(len(text.encode()) for text in (system, *texts))
    assert input_tokens_bound(request(*texts, system=system)) > sent_bytes


def test_each_message_adds_an_overhead() -> None:
    one, two = request("ab"), request("a", "b")
    assert input_tokens_bound(two) - input_tokens_bound(one) == 32
    assert input_tokens_bound(request()) == 64


def test_of_a_request_that_goes_on_only_what_is_new_is_bounded_by_its_bytes() -> None:
    before = request("x" * 4000, system="s" * 100)
    counted = Counted(before, 1000)
    after = request("x" * 4000, "y" * 50, "é", system="s" * 100)
    assert input_tokens_bound(after, counted) == 1000 + 64 + 2 * 32 + 50 + input_tokens_bound(request("é")) - 64 - 32
    assert input_tokens_bound(before, counted) == 1000 + 64


@pytest.mark.parametrize(
    "other", [request("x", "y", system="t"), request("z", "y", system="s"), request(system="s"), request("x")]
)
def test_a_request_that_does_not_go_on_is_bounded_by_all_its_bytes(other: ModelRequest) -> None:
    counted = Counted(request("x", system="s"), 0)
    assert input_tokens_bound(other, counted) == input_tokens_bound(other)


def test_a_character_that_grows_when_normalised_counts_as_grown() -> None:
    ligature = "\ufdfa"  # 3 bytes that NFKC makes 33
    assert input_tokens_bound(request(ligature * 100)) >= 3300


def in_normal_form(text: str) -> int:
    """How many bytes a tokenizer gets that normalises."""
    return len(unicodedata.normalize("NFKC", text).encode())


def bound_of(text: str) -> int:
    return input_tokens_bound(request(text)) - input_tokens_bound(request(""))


def test_no_character_has_more_bytes_in_its_normal_form_than_its_bound() -> None:
    characters = (chr(code) for code in range(0x80, 0x110000) if code not in NO_TEXT)
    low = [char for char in characters if unicodedata.normalize("NFKC", char) != char]
    assert [char for char in low if bound_of(char) < in_normal_form(char)] == []


def test_no_letter_with_a_mark_behind_it_has_more_bytes_than_its_bound() -> None:
    for letter in JOINING[::5]:
        for mark in MARKS[::7]:
            assert in_normal_form(letter + mark) <= bound_of(letter + mark), ascii(letter + mark)


@settings(deadline=None)
@given(st.text(st.sampled_from("aoe" + JOINING + 3 * MARKS) | st.characters(exclude_categories=["Cs"])))
def test_no_text_has_more_bytes_in_its_normal_form_than_its_bound(text: str) -> None:
    assert max(len(text.encode()), in_normal_form(text)) <= bound_of(text)


@pytest.mark.parametrize(
    "text", ["straße, Ärger, čeština", "日本語のテキスト", "한국어 텍스트", "Tiếng Việt", "русский \U0001f600"]
)
def test_ordinary_text_is_bounded_by_its_bytes(text: str) -> None:
    assert bound_of(text) == len(text.encode())


@pytest.mark.parametrize(
    "text", ["a" + "\u0301" * 250_000 + "\u0327" * 250_000, "\ufdfa" * 340_000, "é" * 500_000, "é" + "x" * 1_000_000]
)
def test_the_bound_of_a_large_text_takes_linear_time(text: str) -> None:
    started = time.thread_time()
    input_tokens_bound(request(text))
    assert time.thread_time() - started < 1


def test_half_a_surrogate_pair_has_a_bound_too() -> None:
    assert input_tokens_bound(request("\ud800")) > 3


def test_total_input_holds_all_kinds() -> None:
    assert Usage(input_tokens=1, output_tokens=8, cache_read_tokens=2, cache_write_tokens=4).total_input_tokens == 7


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        Usage(input_tokens=1, cache_read_tokens=-1)
