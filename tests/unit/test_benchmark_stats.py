"""The numbers of the benchmarks: what median and 90th percentile are, how they are shown, and when a goal is met."""

from __future__ import annotations

import pytest

from benchmarks.rows import CONTAINER_GOALS, GOALS, LABELS, Goal, memory_row, rate_row, ratio_row, speed_row, timed_rows
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


def test_a_goal_is_met_at_its_bound_and_on_one_side_of_it() -> None:
    assert [Goal(3).met(value) for value in (2.9, 3.0, 3.1)] == [True, True, False]
    assert [Goal(500, at_least=True).met(value) for value in (499.0, 500.0, 501.0)] == [False, True, True]
    assert (str(Goal(1.6)), str(Goal(500, at_least=True))) == ("≤ 1.6", "≥ 500")


def test_only_our_own_rows_have_goals_and_they_are_judged_on_the_median() -> None:
    samples = {"ours": {"cold": [0.002, 0.003, 0.030]}, "peer": {"cold": [0.001], "cell": []}}
    ours, peer = timed_rows(samples, {"ours": GOALS})
    assert (ours.who, ours.value, ours.p90, ours.met) == ("ours", 3.0, 30.0, True)
    assert (peer.who, peer.goal, peer.met) == ("peer", None, None)


def test_a_ratio_is_of_two_medians() -> None:
    ours, floor = timed_rows({"ours": {"cold": [0.004]}, "floor": {"cold": [0.002]}}, {"ours": GOALS})
    row = ratio_row("ratio", ours, floor, GOALS["ratio"])
    assert (row.who, row.unit, row.value, row.p90, row.met) == ("ours", "x", 2.0, None, False)


def test_memory_is_judged_on_the_mean_and_a_rate_from_below() -> None:
    row = memory_row("memory", "ours", [2**20, 3 * 2**20])
    assert (row.value, row.p90, row.met) == (2.0, 3.0, True)
    assert rate_row("rate_2", "ours", 499.9).met is False


def test_a_speed_is_judged_on_the_median_from_below() -> None:
    row = speed_row("read", "ours", 50_000_000, [0.2, 0.25, 1.0], Goal(200, at_least=True))
    assert (row.value, row.unit, row.p90, row.met) == (200.0, "MB/s", None, True)
    assert list(row.samples) == [250.0, 200.0, 50.0]


def test_every_goal_has_a_row() -> None:
    assert set(GOALS).union(*CONTAINER_GOALS.values()) <= set(LABELS)
