"""The benchmark of the log, at a size that a test can bear: its log verifies, and each number stands beside another."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from belljar.audit import records, runs, verify
from belljar.keys import Keys
from belljar.ledger import Ledger
from belljar.state import State
from benchmarks.log_commands import Machine, Reader
from benchmarks.log_rows import LOG_GOALS, LogPlan, cost_row
from benchmarks.log_store import RUN_RECORDS_MIN, write_store
from benchmarks.measure import BenchmarkError
from benchmarks.rows import LABELS

RLMS = Path(sys.prefix, "rlms", "rlm", "core", "types.py")
ROOT = Path(__file__).resolve().parents[2]
BROWSER = "a browser"
# What is measured, and beside what.
BESIDE = {
    "log_append": 3,
    "log_rate": 2,
    "log_demo": 2,
    "log_demo_cost": 1,
    "log_demo_run": 2,
    "log_demo_run_cost": 1,
    "log_size_action": 1,
    "log_size_record": 1,
    "log_size_file": 5,
    "log_size_ratio": 1,
    "log_verify": 2,
    "log_verify_memory": 2,
    "log_show": 2,
    "log_page_size": 1,
    "log_page_open": 2,
}


def test_goals_that_depend_on_the_size_are_those_of_the_full_size() -> None:
    assert LogPlan(rounds=1, seconds=1, tokens=2**20, records=1_000_000).goals == LOG_GOALS
    assert set(LogPlan(rounds=1, seconds=1, tokens=2**14, records=20_000).goals) == {"log_append", "log_rate"}
    assert set(LOG_GOALS) <= set(BESIDE) <= set(LABELS)


def test_a_cost_is_of_two_medians() -> None:
    row = cost_row("log_demo_cost", "full", [1.0, 2.1, 9.0], [1.0, 2.0, 3.0], LOG_GOALS["log_demo_cost"])
    assert (row.unit, row.met) == ("%", True)
    assert row.value == pytest.approx(5)


@pytest.mark.parametrize(("count", "of"), [(RUN_RECORDS_MIN, 1), (107, 5)])
def test_a_log_made_in_bulk_is_signed_and_verifies_with_its_ledger(tmp_path: Path, count: int, of: int) -> None:
    state, keys = State(tmp_path / "state"), Keys(tmp_path / "keys")
    written = asyncio.run(write_store(state, keys, records=count, runs=of))
    report = verify(state.journal, keys=keys)
    assert (report.problems, report.records, report.signed, report.checkpoints) == ([], count, count, of)
    assert [(run.run, run.status) for run in runs(state.journal)] == [(run, "ok") for run in written]
    assert {"query.requested", "query.completed", "context.read"} < {one.event for one in records(state.journal)}


def test_a_log_made_in_bulk_has_its_charges_in_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def release(ledger: Ledger, reservation: str, _used: object, *, beside: Any) -> None:
        await ledger.release(reservation, beside=beside)

    monkeypatch.setattr(Ledger, "settle", release)
    state, keys = State(tmp_path / "state"), Keys(tmp_path / "keys")
    asyncio.run(write_store(state, keys, records=50, runs=1))
    (problem,) = verify(state.journal, keys=keys).problems
    assert "15 calls in the log and 0 in the ledger" in problem


def test_a_command_that_fails_or_says_something_else_is_no_measurement(tmp_path: Path) -> None:
    machine = Machine(tmp_path)

    def reader(code: str) -> Reader:
        return Reader(machine, "a reader", "log_show", (sys.executable, "-c", code), "done", memory=True)

    # What a benchmark has itself is not counted.
    held = b"x" * 200_000_000
    samples = asyncio.run(reader("held = b'x' * 60_000_000; print('done')").round())
    assert samples["log_show"][0] > 0
    assert 60 < samples["log_show_memory"][0] < 150 < len(held) / 1e6
    with pytest.raises(BenchmarkError, match="did not say b'done'"):
        asyncio.run(reader("print('other')").round())
    with pytest.raises(BenchmarkError, match=r"-c .* ended with 3: so it is"):
        asyncio.run(reader("import sys; print('so it is', file=sys.stderr); sys.exit(3)").round())


@pytest.mark.slow
def test_the_documented_command_measures_all_of_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "log", "--quick", "--records", "400", "--json"]
    done = subprocess.run(
        [*command, "--scratch", tmp_path],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)["log"]
    expected = dict(BESIDE)
    if BROWSER in table["absent"] and os.environ.get("CI") != "true":
        del table["absent"][BROWSER], expected["log_page_open"]
    assert table["absent"] == {}
    measured = [row["measure"] for row in table["rows"]]
    assert {name: measured.count(name) for name in measured} == expected
    assert any(row["who"].startswith("rlms") for row in table["rows"]) == RLMS.is_file()
    assert all(row["value"] > 0 for row in table["rows"] if row["unit"] != "%")
    assert {row["measure"] for row in table["rows"] if row["goal"] is not None} == {"log_append", "log_rate"}
    assert list(tmp_path.glob("belljar-benchmarks-*")) == []
