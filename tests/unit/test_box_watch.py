"""How often the host looks at what a box has used: most boxes wait for a model, and there may be hundreds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, cast

import pytest

from belljar.engine import Box, CellResult, box
from belljar.errors import QuotaExceeded
from belljar.sandbox import Evidence, Sandbox
from tests.unit.box_fakes import Guest
from tests.unit.broker_fakes import drive, policy_with, world
from tests.waiting import PATIENCE_S, in_time

POLICY: Final = policy_with(limits={"cpu_s": 3600, "cell_wall_s": 3600.0, "run_wall_s": 3600.0})


class Using(Guest):
    """It has used so much CPU time, and counts how often somebody looked."""

    def __init__(self, cpu_s: float) -> None:
        super().__init__()
        self.cpu_s, self.looks = cpu_s, 0

    async def evidence(self) -> Evidence:
        self.looks += 1
        return Evidence(cpu_s=self.cpu_s)

    async def looked(self, often: int) -> None:
        async with in_time(PATIENCE_S / 2, f"somebody looks {often} times"):
            while self.looks < often:  # noqa: ASYNC110 - the fake tells nobody
                await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def holding(folder: Path, guest: Using) -> AsyncIterator[tuple[Box, asyncio.Task[CellResult]]]:
    """Its box, and a cell that is held until somebody stops it."""
    async with world(folder, policy=POLICY) as here:
        made = Box(cast("Sandbox", guest), here.broker, here.scope)
        await made.open("python", [], [])
        yield made, asyncio.create_task(made.execute("hold"))
        await made.close()


@pytest.fixture(autouse=True)
def nobody_else_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A box is looked at between its cells, too, and by its meter."""
    monkeypatch.setattr(box, "_WATCH_IDLE_S", 3600.0)


def test_a_box_that_waits_is_looked_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        guest = Using(0.0)
        async with holding(tmp_path, guest) as (made, cell):
            await guest.looked(1)
            await asyncio.sleep(5 * box._WATCH_S)
            assert guest.looks == 1
            await made.close()
            await cell

    drive(test())


def test_a_box_that_may_soon_have_used_up_its_time_is_looked_at_often_and_ends(tmp_path: Path) -> None:
    async def test() -> None:
        guest = Using(3599.999)
        async with holding(tmp_path, guest) as (_, cell):
            await guest.looked(3)
            guest.cpu_s = 3600.0
            result = await cell
            assert result.status == "cpu"

    drive(test())


def test_a_cell_whose_tenant_has_no_more_is_stopped_at_once(tmp_path: Path) -> None:
    async def refused() -> None:
        raise QuotaExceeded("nothing is left", code="quota.tenant.wall")

    async def test() -> None:
        guest = Using(0.0)
        async with holding(tmp_path, guest) as (made, cell):
            await guest.looked(1)
            await made._charged(refused())
            async with in_time(PATIENCE_S / 2, "the cell is stopped"):
                result = await cell
            assert (result.status, guest.interrupts) == ("quota", 1)

    drive(test())
