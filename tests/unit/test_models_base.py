"""What a request costs at most in tokens, and what usage adds up to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from belljar.models import Message, ModelRequest, Usage, input_tokens_bound


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


def test_a_character_that_grows_when_normalised_counts_as_grown() -> None:
    ligature = "\ufdfa"  # 3 bytes that NFKC makes 33
    assert input_tokens_bound(request(ligature * 100)) >= 3300


def test_half_a_surrogate_pair_has_a_bound_too() -> None:
    assert input_tokens_bound(request("\ud800")) > 3


def test_total_input_holds_all_kinds() -> None:
    assert Usage(input_tokens=1, output_tokens=8, cache_read_tokens=2, cache_write_tokens=4).total_input_tokens == 7


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        Usage(input_tokens=1, cache_read_tokens=-1)
