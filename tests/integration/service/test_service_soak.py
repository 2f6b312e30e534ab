"""A soak, at a length that a test can bear: services are killed under their clients, and all books agree in the end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks.soak import SoakPlan, soak

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("services", [1, 2])
def test_wherever_a_service_is_killed_no_run_is_lost_or_paid_for_twice(
    tmp_path: Path, images: Path, services: int, request: pytest.FixtureRequest
) -> None:
    """One on SQLite; of two on one PostgreSQL each is killed in turn, and clients go to the other meanwhile."""
    database = request.getfixturevalue("postgres").database if services > 1 else None
    plan = SoakPlan(15, 600, services=services, clients=6, kill_s=(0.0, 1.5), kills_max=4, ages=True)
    told: list[str] = []
    table = asyncio.run(soak(plan, tmp_path, told.append, images=images, database=database))
    rows = dict(table.rows)
    assert list(table.wrong) == []
    assert len([line for line in told if line.startswith("kill")]) == int(rows["kills"]) == plan.kills_max
    assert int(rows["orders interrupted by a kill"]) > 0
    assert int(rows["... paid for, each once"].replace(",", "")) > 0
