"""The benchmark of the service, at a size that a test can bear: everything it orders ends well, and nothing is left."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from benchmarks.services import ServicePlan, measure_services

pytestmark = pytest.mark.slow


def test_a_small_service_is_measured(tmp_path: Path) -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    told: list[str] = []
    table = asyncio.run(
        measure_services(ServicePlan(rounds=1, singles=1, at_once=2, listeners=2), tmp_path, told.append)
    )
    assert told == ["service: round 1 of 1"]
    found = {row.measure: row for row in table.rows if row.who.endswith("HTTP")}
    assert list(found) == [
        *("service_ready", "service_memory", "service_run", "service_overhead", "service_admitted", "service_heard")
    ]
    assert all(row.value > 0 for name, row in found.items() if name != "service_overhead")
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before
