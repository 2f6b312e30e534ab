"""The benchmark of quotas: what it makes everybody do, who lets itself be overspent, and which rows have goals."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest

from belljar.audit import records, verify
from benchmarks.measure import Samples
from benchmarks.quota_rows import APART, MANY, ONE, Growth, Overshoot, QuotaRow, quota_goals, quota_row
from benchmarks.quota_table import _EVERYBODY, rows_of
from benchmarks.quotas import KINDS, Journaled, act, exhaust
from benchmarks.report import QuotaPlan, QuotaTable, _quotas

FILES = [kind for kind in KINDS if kind not in ("naive on a server", "round trip")]


@pytest.mark.parametrize("kind", FILES)
def test_each_acts_and_is_timed(tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        keeper = KINDS[kind](str(tmp_path / "a.db"), "r1")
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(keeper.aclose)
            await keeper.open(None)
            done = await act(keeper, 2, 0.02)
        assert len(done["taken_us"]) >= 2
        assert done["wall_s"] >= 0.02
        assert done["cpu_s"] > 0

    asyncio.run(main())


@pytest.mark.parametrize(("kind", "over"), [("ours", 0), ("lazy", 0), ("two files", 0), ("naive", 4)])
def test_only_who_checks_and_then_acts_is_overspent(tmp_path: Path, kind: str, over: int) -> None:
    async def main() -> int:
        keeper = KINDS[kind](str(tmp_path / "a.db"), "r1")
        await keeper.open(6)
        spent = await exhaust(keeper, 5, 0.02)
        await keeper.aclose()
        return spent

    # All five look before the first of them writes.
    assert asyncio.run(main()) == 6 + over


def test_a_store_is_filled_with_ten_records_to_a_reservation_and_a_log_that_verifies(tmp_path: Path) -> None:
    path = tmp_path / "a.db"

    async def main() -> None:
        keeper = Journaled(str(path), "r1")
        await keeper.open(None)
        await keeper.fill(200)
        await keeper.aclose()

    asyncio.run(main())
    assert len(list(records(path))) == 201
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT state, count(*) FROM reservations GROUP BY state").fetchall() == [("settled", 20)]
    assert [problem for problem in verify(path).problems if "hash" in problem or "chain" in problem] == []


def row(p50_us: float, p99_us: float, rate: float) -> QuotaRow:
    samples: Samples = {
        MANY.title: [p50_us] * 90 + [p99_us] * 10,
        f"{MANY.title} rate": [rate],
        f"{MANY.title} cpu": [100.0],
    }
    return quota_row("one journal, SQLite", MANY, samples, quota_goals("SQLite", MANY))


def test_goals_are_judged_on_their_own_column() -> None:
    assert row(5_000, 90_000, 2500).verdicts == {"p99 ≤ 100": True, "a second ≥ 2000": True}
    assert row(5_000, 110_000, 1999).verdicts == {"p99 ≤ 100": False, "a second ≥ 2000": False}
    assert quota_goals("memory", ONE) == quota_goals("SQLite", APART) == {}


def test_a_store_may_grow_slower_by_a_fifth() -> None:
    new = row(1000, 1000, 1)
    assert Growth(10, row(1190, 1000, 1), new).met
    assert not Growth(10, row(1210, 1000, 1), new).met


def test_only_whole_actions_in_one_journal_have_goals_and_all_is_printed() -> None:
    samples: dict[str, Samples] = {
        who.title: {
            key: [50.0] for shape in who.shapes for key in (shape.title, f"{shape.title} rate", f"{shape.title} cpu")
        }
        for who in _EVERYBODY
    }
    rows = rows_of(_EVERYBODY, samples)
    assert {one.who for one in rows if one.goals} == {"one journal, SQLite", "one journal, PostgreSQL"}
    table = QuotaTable(
        QuotaPlan(1, 1.0), rows, [Overshoot("check", MANY, 6, 10)], [Growth(10, rows[0], rows[0])], {}, ("A note.",)
    )
    lines = _quotas(table)
    assert sum(line.startswith("| 1 caller |") for line in lines) == len(_EVERYBODY)
    assert "| 16 callers in a process | check | 6 | 10 | 4 |" in lines
    assert any(line.startswith("| 10 |") and line.endswith("| 1.00 | met |") for line in lines)
