"""The numbers of the benchmarks: what median and 90th percentile are, and how milliseconds are shown."""

from __future__ import annotations

import pytest
from benchmarks.stats import Summary, milliseconds, summarise


def test_the_90th_percentile_is_the_smallest_sample_that_nine_tenths_do_not_exceed() -> None:
    assert summarise([10, 9, 8, 7, 6, 5, 4, 3, 2, 1]) == Summary(n=10, median=5.5, p90=9)
    assert summarise([3, 1, 2]) == Summary(n=3, median=2, p90=3)
    assert summarise(range(1, 21)).p90 == 18
    assert summarise([0.25]) == Summary(n=1, median=0.25, p90=0.25)


def test_nothing_has_no_median() -> None:
    with pytest.raises(ValueError, match="nothing to summarise"):
        summarise([])


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0, "0"), (1.23456e-5, "0.0123"), (0.0045, "4.50"), (0.0123, "12.3"), (0.1, "100"), (1.2344, "1234")],
)
def test_milliseconds_have_three_significant_digits(seconds: float, shown: str) -> None:
    assert milliseconds(seconds) == shown
