"""A cell that is over behind its deadline, though no timer of ours has told so yet: the clock decides."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

from belljar.engine import Box
from belljar.protocol import Done
from belljar.sandbox import Sandbox
from tests.unit.box_fakes import Guest
from tests.unit.broker_fakes import drive, policy_with, world
from tests.waiting import PATIENCE_S, in_time

POLICY = policy_with(limits={"cell_wall_s": 100.0, "run_wall_s": 3600.0})


class Working(Guest):
    """A cell that is held is over when somebody says so."""

    def over(self) -> None:
        self._say(Done(self._held, "ok", None))
        self._held = 0

    async def began(self) -> None:
        async with in_time(PATIENCE_S / 2, "the cell runs"):
            while not self._held:  # noqa: ASYNC110 - the fake tells nobody
                await asyncio.sleep(0.001)


def test_a_cell_that_is_over_behind_its_deadline_has_timed_out(tmp_path: Path) -> None:
    async def test() -> list[str]:
        found: list[str] = []
        async with world(tmp_path, policy=POLICY) as here:
            guest = Working()
            box = Box(cast("Sandbox", guest), here.broker, here.scope)
            await box.open("python", [], [])
            for passed_s in (99.0, 101.0):
                cell = asyncio.create_task(box.execute("hold"))
                await guest.began()
                here.clock.now += passed_s
                guest.over()
                async with in_time(PATIENCE_S / 2, "the cell is over"):
                    found.append((await cell).status)
            await box.close()
        return found

    assert drive(test()) == ["ok", "timeout"]
