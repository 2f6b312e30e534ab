"""What tokens cost: never less than they do, and never nothing by accident."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest
from genai_prices.data import providers
from hypothesis import given
from hypothesis import strategies as st

from belljar.errors import InvalidInput, PolicyDenied
from belljar.models import FREE, NullModel, Prices, Rates, ScriptedModel, Usage

AT = datetime(2026, 11, 1, tzinfo=UTC)
PRICES = Prices(at=AT)
LISTED = [model.id for provider in providers if provider.id == "anthropic" for model in provider.models]

tokens = st.integers(min_value=0, max_value=2_000_000)
usages = st.builds(Usage, tokens, tokens, tokens, tokens)
# All or a part of what is written to the cache is kept for an hour.
kept = st.builds(
    lambda usage, share: msgspec.structs.replace(usage, cache_write_1h_tokens=usage.cache_write_tokens * share // 100),
    usages,
    st.integers(0, 100),
)


def test_a_listed_model_costs_what_the_list_says() -> None:
    # claude-sonnet-5-5: 2 USD in, 10 out, 0.10 cache read, 2.50 cache write per million tokens
    usage = Usage(input_tokens=1000, output_tokens=100, cache_read_tokens=10, cache_write_tokens=10)
    assert PRICES.cost("claude-sonnet-5-5", usage) == 1000 * 2000 + 100 * 10_000 + 10 * 100 + 10 * 2500
    assert PRICES.bound("claude-sonnet-5-5", 1000, 100) == 1000 * 2500 + 100 * 10_000


def test_past_a_tier_all_tokens_cost_the_tier() -> None:
    # claude-haiku-5-5: 0.10 and 0.50 USD per million tokens, five times that above 100,000 input tokens
    assert PRICES.cost("claude-haiku-5-5", Usage(input_tokens=100_000, output_tokens=1)) == 100_000 * 100 + 500
    assert PRICES.cost("claude-haiku-5-5", Usage(input_tokens=100_001, output_tokens=1)) == 100_001 * 500 + 2500
    cached = Usage(input_tokens=1, cache_read_tokens=100_000)
    assert PRICES.cost("claude-haiku-5-5", cached) == 500 + 100_000 * 50


def test_a_small_request_is_not_bounded_by_a_tier_out_of_its_reach() -> None:
    assert PRICES.bound("claude-haiku-5-5", 100_000, 1) == 100_000 * 125 + 500
    assert PRICES.bound("claude-haiku-5-5", 100_001, 1) == 100_001 * 625 + 2500


@given(st.sampled_from(LISTED), usages, tokens, tokens)
def test_no_usage_within_the_bounds_costs_more_than_the_bound(
    model: str, usage: Usage, more_input: int, more_output: int
) -> None:
    bound = PRICES.bound(model, usage.total_input_tokens + more_input, usage.output_tokens + more_output)
    assert PRICES.cost(model, usage) <= bound


@given(st.sampled_from(LISTED), kept, tokens, tokens)
def test_no_usage_with_an_hour_in_the_cache_costs_more_than_the_bound_for_it(
    model: str, usage: Usage, more_input: int, more_output: int
) -> None:
    inputs, outputs = usage.total_input_tokens + more_input, usage.output_tokens + more_output
    assert PRICES.cost(model, usage) <= PRICES.bound(model, inputs, outputs, hour=True)


def test_what_the_cache_keeps_for_an_hour_is_priced_apart() -> None:
    # claude-sonnet-5-5: 2 USD in, 2.50 written for five minutes, 4 for an hour
    usage = Usage(input_tokens=1, cache_write_tokens=1000, cache_write_1h_tokens=400)
    assert PRICES.cost("claude-sonnet-5-5", usage) == 2000 + 600 * 2500 + 400 * 4000
    assert PRICES.bound("claude-sonnet-5-5", 1000, 0) == 1000 * 2500
    assert PRICES.bound("claude-sonnet-5-5", 1000, 0, hour=True) == 1000 * 4000
    given = {"input_nanousd_per_token": 200, "output_nanousd_per_token": 0}
    for more, hour in (
        ({}, 200),
        ({"cache_write_nanousd_per_token": 250}, 400),
        ({"cache_write_nanousd_per_token": 250, "cache_write_1h_nanousd_per_token": 300}, 300),
    ):
        prices = Prices({"own": {**given, **more}})
        assert prices.cost("own", Usage(cache_write_tokens=1, cache_write_1h_tokens=1)) == hour


@pytest.mark.parametrize("parts", [(0, 0, 0, 5, 6), (0, 5, 0, 0, 0, 6), (0, 0, 0, 0, -1)])
def test_a_usage_whose_part_is_more_than_the_whole_is_none(parts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="token count"):
        Usage(*parts)


def test_every_listed_model_costs_something() -> None:
    assert len(LISTED) > 20
    for model in LISTED:
        assert PRICES.cost(model, Usage(input_tokens=1)) > 0, model
        assert PRICES.cost(model, Usage(output_tokens=1)) > 0, model


def test_a_price_list_with_dates_is_read_as_of_the_given_moment() -> None:
    usage = Usage(input_tokens=300_000)
    before, after = Prices(at=datetime(2026, 3, 12, tzinfo=UTC)), Prices(at=datetime(2026, 3, 13, tzinfo=UTC))
    assert before.cost("claude-opus-4-6", usage) == 2 * after.cost("claude-opus-4-6", usage)


def test_a_model_of_another_provider_costs_what_the_list_says_for_that_one() -> None:
    # openai:gpt-5: 1.25 USD in, 0.125 read from the cache, 10 out per million tokens
    usage = Usage(input_tokens=1000, output_tokens=100, cache_read_tokens=8)
    assert PRICES.cost("openai:gpt-5", usage) == 1000 * 1250 + 100 * 10_000 + 8 * 125
    assert not PRICES.has("openai:claude-sonnet-5-5")


@pytest.mark.parametrize(
    "model",
    [
        "gpt-4o",
        "gpt-5",
        "openai:llama3",
        "openai:",
        "llama3",
        "claude-of-tomorrow",
        "",
        "scripted:x.toml",
        "x" * 10_000,
        "\n",
    ],
)
def test_a_model_without_a_price_is_denied(model: str) -> None:
    assert not PRICES.has(model)
    with pytest.raises(PolicyDenied, match="add an override with input_nanousd_per_token") as caught:
        PRICES.cost(model, Usage())
    assert caught.value.code == "model.unpriced"
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)
    with pytest.raises(PolicyDenied):
        PRICES.bound(model, 0, 0)


def test_an_override_beats_the_list_and_costs_round_up() -> None:
    prices = Prices({"claude-sonnet-5-5": {"input_nanousd_per_token": "0.3", "output_nanousd_per_token": 0.1}})
    assert prices.cost("claude-sonnet-5-5", Usage(input_tokens=1)) == 1
    assert prices.cost("claude-sonnet-5-5", Usage(input_tokens=10, output_tokens=10)) == 4
    assert prices.cost("claude-sonnet-5-5", Usage(input_tokens=10, output_tokens=11)) == 5
    assert prices.cost("claude-sonnet-5-5", Usage(cache_read_tokens=10, cache_write_tokens=10)) == 6


def test_zero_is_a_price_if_somebody_says_so() -> None:
    prices = Prices({"local": {"input_nanousd_per_token": 0, "output_nanousd_per_token": 0}})
    assert prices.has("local")
    assert prices.cost("local", Usage(5, 5)) == 0


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "missing required field"),
        ({"input_nanousd_per_token": 1}, "output_nanousd_per_token"),
        ({"input_nanousd_per_token": -1, "output_nanousd_per_token": 1}, "at least 0"),
        ({"input_nanousd_per_token": "nan", "output_nanousd_per_token": 1}, "at least 0"),
        ({"input_nanousd_per_token": 1, "output_nanousd_per_token": "Infinity"}, "at least 0"),
        ({"input_nanousd_per_token": 1, "output_nanousd_per_token": 1, "discount": 1}, "discount"),
        ({"input_nanousd_per_token": None, "output_nanousd_per_token": 1}, "input_nanousd_per_token"),
    ],
)
def test_a_wrong_override_is_refused(table: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        Prices({"local": table})
    assert caught.value.code == "model.price"


def test_a_model_may_bring_its_own_price() -> None:
    prices = Prices(at=AT)
    rates = Rates(Decimal(7), Decimal(9))
    prices.adopt(ScriptedModel(["x"], name="scripted:a.toml", rates=rates))
    prices.adopt(ScriptedModel(["y"], name="scripted:a.toml", rates=rates))
    prices.adopt(NullModel())
    prices.adopt(object())
    assert prices.cost("scripted:a.toml", Usage(1, 1)) == 16
    assert prices.cost("null", Usage(1, 1)) == 0


def test_two_prices_for_one_name_are_refused() -> None:
    prices = Prices({"scripted:a.toml": Rates(Decimal(7), Decimal(9))})
    with pytest.raises(InvalidInput, match="another price"):
        prices.adopt(ScriptedModel([], name="scripted:a.toml", rates=FREE))
    assert prices.cost("scripted:a.toml", Usage(1, 0)) == 7
