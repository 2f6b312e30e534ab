"""Spans against a set of integers."""

from __future__ import annotations

import random
import time
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from belljar.spans import Spans, share

ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=30)


def members(spans: Spans) -> set[int]:
    return {position for start, stop in spans for position in range(start, stop)}


@given(ranges, ranges)
def test_it_is_the_set_of_what_was_added(before: list[tuple[int, int]], after: list[tuple[int, int]]) -> None:
    spans, model = Spans(before), {position for start, stop in before for position in range(start, stop)}
    assert members(spans) == model  # asked in the middle, so that both ways of keeping a range take part
    for start, stop in after:
        spans.add(start, stop)
        model |= set(range(start, stop))
    assert members(spans) == model
    assert spans.covered == len(model)


@given(ranges)
def test_ranges_are_in_order_and_do_not_touch(added: list[tuple[int, int]]) -> None:
    spans = Spans(added)
    flat = [position for span in spans for position in span]
    assert flat == sorted(set(flat))
    assert len(spans) == len(list(spans))


@given(ranges, st.integers(0, 70))
def test_what_is_missing_is_the_rest(added: list[tuple[int, int]], length: int) -> None:
    spans = Spans(added)
    missing = Spans(spans.missing(length))
    assert members(missing) == set(range(length)) - members(spans)
    assert list(missing) == spans.missing(length)


@given(ranges, st.integers(0, 70))
def test_around_gives_the_range_of_a_position(added: list[tuple[int, int]], position: int) -> None:
    spans = Spans(added)
    found = spans.around(position)
    assert (found is not None) == (position in members(spans))
    if found is not None:
        assert found in list(spans)
        assert found[0] <= position < found[1]


@given(ranges, st.lists(st.integers(0, 70), min_size=1, max_size=20))
def test_what_is_covered_between_edges(added: list[tuple[int, int]], edges: list[int]) -> None:
    spans, edges = Spans(added), sorted(edges)
    covered = [len(members(spans) & set(range(start, stop))) for start, stop in pairwise(edges)]
    assert spans.covered_between(edges) == covered


def test_many_ranges_in_no_order_take_seconds_at_most() -> None:
    source = random.Random(7)
    added = [(start, start + 200) for start in (source.randrange(10**9) for _ in range(200_000))]
    spans, started = Spans(), time.process_time()
    for start, stop in added:
        spans.add(start, stop)
    assert 0 < spans.covered <= 200 * 200_000
    assert time.process_time() - started < 10


def test_sequential_ranges_stay_one() -> None:
    spans = Spans()
    for start in range(0, 10**6, 10):
        spans.add(start, start + 10)
    assert (list(spans), spans.covered, spans.missing(10**6)) == ([(0, 10**6)], 10**6, [])


def test_no_more_than_so_many_ranges_are_kept() -> None:
    spans = Spans(ranges_max=10_000)
    for number in range(100_000):
        spans.add(2 * number, 2 * number + 1)
    assert 5_000 < len(spans) <= 10_000
    assert spans.covered == len(spans)
    # What grows one that is there, in order, is one range however long it gets.
    spans = Spans(ranges_max=10)
    for number in range(100_000):
        spans.add(number, number + 1)
    assert [*spans] == [(0, 100_000)]


@given(st.integers(0, 10**12), st.integers(1, 10**12))
def test_a_share_is_never_rounded_up(part: int, whole: int) -> None:
    found = share(part, whole)
    assert found * whole <= part * (1 + 1e-15)
    assert (found >= 1.0) == (part >= whole)


def test_nearly_all_is_not_all() -> None:
    assert share(10**12 - 1, 10**12) == 0.999999
    assert share(0, 0) == 0.0
