"""The fifth table: what quota and log add to a model call. Who takes part, and what comes of it.

Everybody works in processes of `quotas`, with a store that is new at first and is not shared with anybody else, and has
all rounds. How far each lets itself be overspent, and what becomes of it in a store that has grown, is measured after
that, in stores of their own.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.box_table import Absent
from benchmarks.driver import Driver
from benchmarks.measure import Samples, measure
from benchmarks.quota_rows import APART, MANY, ONE, SHAPES, Growth, Overshoot, QuotaRow, Shape, quota_goals, quota_row
from benchmarks.report import QuotaPlan, QuotaTable
from tests.postgres import Postgres, Unavailable

__all__ = ["measure_quotas"]

_ROOT: Final = Path(__file__).parents[1]
_COMMAND: Final = (sys.executable, "-m", "benchmarks.quotas")
# Calls that a tenant may make in all, and how long each takes, where it is seen who lets it make more.
_LIMIT: Final = 200
_CALL_S: Final = 0.005
# A million records are written in a minute or two; ten of them on a slow machine take a quarter of an hour.
_FILL_S: Final = 3600.0
_ROUND_S: Final = 120.0


@dataclass(frozen=True)
class Who:
    """Somebody in the table: the kind of `quotas`, the store, and who calls."""

    title: str
    kind: str
    store: str
    shapes: tuple[Shape, ...] = SHAPES
    spends: bool = True


_EVERYBODY: Final = (
    Who("one journal, SQLite", "ours", "SQLite"),
    Who("one journal, PostgreSQL", "ours", "PostgreSQL"),
    Who("one journal, memory", "ours", "memory", (ONE, MANY)),
    Who("the same as the broker does it, SQLite", "lazy", "SQLite", spends=False),
    Who("the same as the broker does it, PostgreSQL", "lazy", "PostgreSQL", spends=False),
    Who("log and ledger in two files", "two files", "SQLite"),
    Who("check, then act, SQLite", "naive", "SQLite"),
    Who("check, then act, PostgreSQL", "naive on a server", "PostgreSQL"),
    Who("floor: one flush of a record", "flush", "SQLite", (ONE,), spends=False),
    Who("floor: one row in SQLite", "commit", "SQLite", (ONE,), spends=False),
    Who("floor: SELECT 1, PostgreSQL", "round trip", "PostgreSQL", (ONE,), spends=False),
)
_NOTES: Final = (
    "A whole action: the worst case of a call is held at three levels of a tenant and in its run, with a record that "
    "says what is asked; then the truth is charged, with another record. The call itself takes no time. *One journal* "
    "waits for both transactions. The broker does not wait for the second one, which goes with the next request: a "
    "single caller of it has one flush an action. *Two files* are the same log and ledger with a journal each, one "
    "flush after the other. *Check, then act* reads what was spent, compares, calls, and writes what it cost and a "
    "record in one transaction.",
    f"Overspent: a tenant may make {_LIMIT} calls, each of which takes {_CALL_S * 1000:g} ms, and all go on until they "
    "are refused. CPU is that of the calling processes; the server has its own. p50 and p99 are of all rounds.",
)


class Places:
    """Where the next store is."""

    def __init__(self, scratch: Path, server: Postgres | None) -> None:
        self._scratch = scratch
        self._server = server
        self._numbers = itertools.count(1)

    async def new(self, store: str) -> str | None:
        if store == "memory":
            return None
        if store == "SQLite":
            return str(self._scratch / f"store{next(self._numbers)}.db")
        assert self._server is not None, "it is not asked for without one"
        return await asyncio.to_thread(self._server.database)


class Team:
    """The processes of one subject, over one store; a subject of `measure`."""

    def __init__(self, who: Who, drivers: Sequence[Driver]) -> None:
        self.title = who.title
        self._shapes = who.shapes
        self._drivers = drivers

    @classmethod
    async def open(
        cls, stack: AsyncExitStack, who: Who, places: Places, scratch: Path, *, limit: int | None = None
    ) -> Team:
        """Start the processes; they end with `stack`."""
        where = await places.new(who.store)
        drivers = []
        for _ in range(max(shape.processes for shape in who.shapes)):
            driver = Driver(who.title, _COMMAND, scratch, {"PYTHONPATH": str(_ROOT)})
            await stack.enter_async_context(driver)
            run = f"r{secrets.token_hex(6)}"
            await driver.ask({"do": "open", "kind": who.kind, "where": where, "run": run, "limit": limit})
            drivers.append(driver)
        return cls(who, drivers)

    async def act(self, shape: Shape, seconds: float) -> Samples:
        order = {"do": "act", "callers": shape.callers, "seconds": seconds}
        answers = await self._ask(shape, order)
        taken = [value for answer in answers for value in answer["taken_us"]]
        longest = max(answer["wall_s"] for answer in answers)
        cpu_us = 1e6 * sum(answer["cpu_s"] for answer in answers) / max(1, len(taken))
        title = shape.title
        return {title: taken, f"{title} rate": [len(taken) / longest], f"{title} cpu": [cpu_us]}

    async def round(self, seconds: float) -> Samples:
        samples: Samples = {}
        for shape in self._shapes:
            samples |= await self.act(shape, seconds)
        return samples

    async def exhaust(self, shape: Shape) -> int:
        answers = await self._ask(shape, {"do": "exhaust", "callers": shape.callers, "call_s": _CALL_S})
        return sum(answer["spent"] for answer in answers)

    async def fill(self, records: int) -> None:
        await self._drivers[0].ask({"do": "fill", "records": records}, within_s=_FILL_S)

    async def _ask(self, shape: Shape, order: dict[str, Any]) -> list[dict[str, Any]]:
        asked = self._drivers[: shape.processes]
        return await asyncio.gather(*(driver.ask(order, within_s=_ROUND_S) for driver in asked))


async def measure_quotas(
    plan: QuotaPlan, sizes: Sequence[int], scratch: Path, progress: Callable[[str], None]
) -> QuotaTable:
    """Measure all of it. `sizes` are records that a store has for the table of growth; none: no such table."""
    absent: Absent = {}
    async with AsyncExitStack() as stack:
        server = await _server(stack, absent)
        everybody = [who for who in _EVERYBODY if server is not None or who.store != "PostgreSQL"]
        places = Places(scratch, server)
        async with AsyncExitStack() as processes:
            teams = [await Team.open(processes, who, places, scratch) for who in everybody]
            samples = await measure(teams, plan.rounds, lambda team: team.round(plan.seconds), progress)
        progress("quotas: who lets itself be overspent")
        overshoots = [await _overshoot(who, shape, places, scratch) for who in everybody for shape in _spending(who)]
        grown: list[Growth] = []
        for store in ("SQLite", "PostgreSQL") if server is not None else ("SQLite",):
            grown += await _growth(plan, store, sizes, places, scratch, progress)
    return QuotaTable(plan, rows_of(everybody, samples), overshoots, grown, absent, _NOTES)


def rows_of(everybody: Sequence[Who], samples: Mapping[str, Samples]) -> list[QuotaRow]:
    """By who calls, then in the order of the subjects. Only whole actions in one journal have goals."""
    return [
        quota_row(who.title, shape, samples[who.title], quota_goals(who.store, shape) if who.kind == "ours" else {})
        for shape in SHAPES
        for who in everybody
        if shape in who.shapes
    ]


def _spending(who: Who) -> list[Shape]:
    return [shape for shape in who.shapes if shape in (MANY, APART)] if who.spends else []


async def _overshoot(who: Who, shape: Shape, places: Places, scratch: Path) -> Overshoot:
    async with AsyncExitStack() as stack:
        team = await Team.open(stack, who, places, scratch, limit=_LIMIT)
        return Overshoot(who.title, shape, _LIMIT, await team.exhaust(shape))


async def _growth(
    plan: QuotaPlan,
    store: str,
    sizes: Sequence[int],
    places: Places,
    scratch: Path,
    progress: Callable[[str], None],
) -> list[Growth]:
    """At each size, in turn with a store that is new, so that a slow minute falls on both."""
    who = Who(f"one journal, {store}", "ours", store, (ONE, MANY))
    grown = []
    async with AsyncExitStack() as stack:
        full, new = [await Team.open(stack, who, places, scratch) for _ in range(2)]
        full.title, new.title = "full", "new"
        for records in sorted(sizes):
            progress(f"quotas: {store} with {records:,} records")
            await full.fill(records)
            samples = await measure([full, new], plan.rounds, lambda team: team.round(plan.seconds), progress)
            for shape in who.shapes:
                rows = [quota_row(who.title, shape, samples[title], {}) for title in ("full", "new")]
                grown.append(Growth(records, rows[0], rows[1]))
    return grown


async def _server(stack: AsyncExitStack, absent: Absent) -> Postgres | None:
    try:
        return await asyncio.to_thread(stack.enter_context, Postgres())
    except Unavailable as error:
        absent["PostgreSQL"] = str(error)
        return None
