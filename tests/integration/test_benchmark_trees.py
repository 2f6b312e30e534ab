"""The benchmark of trees, at a size that a test can bear: it counts its runs and leaves nothing behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks import trees
from benchmarks.measure import BenchmarkError
from benchmarks.trees import TreePlan, TreeTable, measure_trees


def test_the_full_tree_is_of_585_runs() -> None:
    plan = TreePlan(rounds=1, depth=3, fan_out=8)
    assert plan.runs == 1 + 8 + 64 + 512
    assert TreeTable(plan, [1.0, 5.84, 100.0]).ms_per_child == 10


def test_a_small_tree_is_measured(tmp_path: Path) -> None:
    told: list[str] = []
    table = asyncio.run(measure_trees(TreePlan(rounds=1, depth=2, fan_out=2), tmp_path, told.append))
    assert told == ["tree of 7 runs: round 1 of 1"]
    assert table.ms_per_child > 0


def test_a_tree_that_is_not_whole_is_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "_PROGRAM", "FINAL(2 * {fan_out})")
    with pytest.raises(BenchmarkError, match="a tree of 3 runs ended with ok: 4"):
        asyncio.run(measure_trees(TreePlan(rounds=1, depth=1, fan_out=2), tmp_path, print))
