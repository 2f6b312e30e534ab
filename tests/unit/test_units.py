"""Quantities as text: one spelling each, and nothing is lost on the way there and back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from belljar import units
from belljar.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("0 B", 0), ("1 B", 1), ("64 KiB", 65536), ("256 MiB", 268435456), ("2 GiB", 2147483648), ("007 B", 7)],
)
def test_sizes_are_whole_numbers_of_binary_units(text: str, size_bytes: int) -> None:
    assert units.parse_size(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "duration_s"), [("0 s", 0.0), ("250 ms", 0.25), ("60 s", 60.0), ("5 min", 300.0), ("1 h", 3600.0)]
)
def test_durations_become_seconds(text: str, duration_s: float) -> None:
    assert units.parse_duration(text) == duration_s


@pytest.mark.parametrize(
    ("text", "amount_nanousd"),
    [
        ("0 USD", 0),
        ("0.50 USD", 500_000_000),
        ("12 USD", 12_000_000_000),
        ("0.000000001 USD", 1),
        ("1.5 USD", 1_500_000_000),
    ],
)
def test_money_becomes_whole_nanodollars(text: str, amount_nanousd: int) -> None:
    assert units.parse_money(text) == amount_nanousd


@pytest.mark.parametrize(
    "text",
    ["", "5", "5 MB", "5 mib", "5MiB", "5  MiB", " 5 MiB", "5 MiB\n", "-5 MiB", "+5 MiB", "1.5 GiB", "1_0 B", "256 s"],
)
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInput, match=r'use a whole number.*B, KiB, MiB, GiB, such as "256 MiB"') as refusal:
        units.parse_size(text)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("text", ["", "5", "5 m", "5 sec", "1.5 s", "-1 s", "5 MiB", "inf s", "5 S", "5 s\n"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInput, match=r'ms, s, min, h, such as "60 s"'):
        units.parse_duration(text)


@pytest.mark.parametrize(
    "text", ["", "0.50", "$0.50", "0.50 EUR", "0,50 USD", ".5 USD", "1. USD", "0.0000000001 USD", "-1 USD", "1e3 USD"]
)
def test_what_is_no_money_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInput, match=r'such as "0.50 USD"'):
        units.parse_money(text)


@pytest.mark.parametrize("text", ["٥ MiB", "9" * 16 + " B", "0x10 B", "five MiB", "nan B"])
def test_only_fifteen_ascii_digits_are_a_number(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a valid size"):
        units.parse_size(text)


def test_long_or_unprintable_text_is_cut_and_escaped_in_the_message() -> None:
    with pytest.raises(InvalidInput) as refusal:
        units.parse_size("\x1b[31m\n" + "x" * 10_000)
    assert len(str(refusal.value)) < 250
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0 B"), (1, "1 B"), (1024, "1 KiB"), (1536, "1536 B"), (1 << 40, "1024 GiB")]
)
def test_sizes_are_written_in_the_largest_exact_unit(size_bytes: int, text: str) -> None:
    assert units.format_size(size_bytes) == text


@pytest.mark.parametrize(
    ("duration_s", "text"), [(0.0, "0 s"), (0.25, "250 ms"), (60.0, "1 min"), (90.0, "90 s"), (7200.0, "2 h")]
)
def test_durations_are_written_in_the_largest_exact_unit(duration_s: float, text: str) -> None:
    assert units.format_duration(duration_s) == text


@pytest.mark.parametrize(
    ("amount_nanousd", "text"),
    [(0, "0.00 USD"), (500_000_000, "0.50 USD"), (1, "0.000000001 USD"), (1_230_000_000, "1.23 USD")],
)
def test_money_has_at_least_two_decimals(amount_nanousd: int, text: str) -> None:
    assert units.format_money(amount_nanousd) == text


@pytest.mark.parametrize("duration_s", [-1.0, 0.0001, float("nan"), float("inf"), 1e300])
def test_a_duration_without_a_text_is_refused(duration_s: float) -> None:
    with pytest.raises(InvalidInput):
        units.format_duration(duration_s)


def test_negative_amounts_have_no_text() -> None:
    with pytest.raises(InvalidInput):
        units.format_size(-1)
    with pytest.raises(InvalidInput):
        units.format_money(-1)


@settings(deadline=None)
@given(st.integers(0, 10**15 - 1))
def test_a_size_survives_being_written(size_bytes: int) -> None:
    assert units.parse_size(units.format_size(size_bytes)) == size_bytes


@settings(deadline=None)
@given(st.integers(0, 10**14))
def test_a_duration_survives_being_written(duration_ms: int) -> None:
    assert units.parse_duration(units.format_duration(duration_ms / 1000)) == duration_ms / 1000


@settings(deadline=None)
@given(st.integers(0, 10**15 - 1))
def test_milliseconds_survive_being_written(duration_ms: int) -> None:
    assert units.parse_milliseconds(units.format_milliseconds(duration_ms)) == duration_ms


@settings(deadline=None)
@given(st.integers(0, 10**18 - 1))
def test_money_survives_being_written(amount_nanousd: int) -> None:
    assert units.parse_money(units.format_money(amount_nanousd)) == amount_nanousd


@settings(deadline=None)
@given(st.text())
def test_any_text_gives_a_number_or_a_refusal(text: str) -> None:
    for parse in (units.parse_size, units.parse_duration, units.parse_money):
        try:
            assert parse(text) >= 0
        except InvalidInput as refusal:
            assert str(refusal).isprintable()  # noqa: PT017
