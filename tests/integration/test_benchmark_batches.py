"""The benchmark of batches, at a size that a test can bear: it counts the answers, and nobody beats the model."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks import batches
from benchmarks.batches import BatchPlan, BatchTable, Taken, measure_batches
from benchmarks.measure import BenchmarkError

PLAN = BatchPlan(rounds=1, queries=12, parallel=5, call_s=0.05)


def test_the_middle_round_counts() -> None:
    table = BatchTable(PLAN, {"one": [Taken(1, 30), Taken(9, 10), Taken(2, 20)]})
    assert (table.wall_s("one"), table.cpu_us("one")) == (2, 20)


def test_a_small_batch_is_measured_beside_its_floor(tmp_path: Path) -> None:
    told: list[str] = []
    table = asyncio.run(measure_batches(PLAN, tmp_path, peers=False, progress=told.append))
    assert told == ["batches: round 1 of 1"]
    ours, floor = table.taken
    assert "Belljar" in ours
    assert min(table.wall_s(ours), table.wall_s(floor)) >= PLAN.ideal_s == pytest.approx(0.15)
    assert table.cpu_us(ours) > 0


def test_a_batch_that_is_not_whole_is_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_PROGRAM", "print({queries} - 1)")
    with pytest.raises(BenchmarkError, match="a batch ended with ok: 11"):
        asyncio.run(measure_batches(PLAN, tmp_path, peers=False, progress=print))
