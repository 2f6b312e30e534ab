"""Quotas where two things meet: a batch that just fits, a failure, a full disk, a period's end, another process."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from belljar.broker import Calls
from belljar.errors import HostFault, ModelFailed, QuotaExceeded
from belljar.identity import RunId, Tenant
from belljar.journal import Job
from belljar.ledger import DIMENSIONS, Amounts, Limits, Period, period_key
from belljar.models import ModelReply, ModelRequest, Prices, Rates
from belljar.protocol import Answers
from belljar.testing import FakeModel
from tests.journals import OwnLedger, fill, meddle, set_limits
from tests.unit.broker_fakes import (
    INPUT_NANOUSD,
    NOON,
    OUTPUT_NANOUSD,
    TENANT,
    UNLIMITED,
    drive,
    policy_with,
    reply,
    world,
)
from tests.unit.test_broker import ask
from tests.unit.test_calls import cost, question, worst
from tests.waiting import in_time

on_each_store = pytest.mark.usefixtures("store")
MINUTE, DAY = 60.0, 86400.0
ONE = Amounts(calls=1)


def only(period: Period = "total", /, **bounds: int) -> Limits:
    return Limits(period, **{dimension: bounds.get(dimension) for dimension in DIMENSIONS})


class Gate:
    """A model whose calls are under way until it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.model = FakeModel(self._answer)

    async def _answer(self, _: ModelRequest) -> ModelReply:
        await self.open.wait()
        return reply("late", input_tokens=5, output_tokens=7)

    async def under_way(self, count: int) -> None:
        async with in_time(60, f"{count} calls are under way"):
            while len(self.model.requests) < count:  # noqa: ASYNC110 - the model is ours
                await asyncio.sleep(0.001)


# -- a batch that just fits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "charged"),
    [
        (ModelFailed("no answer", charged=False), Amounts(calls=1)),
        (ModelFailed("half an answer", input_tokens=5, output_tokens=2), cost(5, 2)),
        (ModelFailed("nobody knows"), None),
    ],
    ids=["free", "told", "unknown"],
)
def test_a_batch_that_just_fits_is_answered_though_one_of_its_prompts_fails(
    tmp_path: Path, failure: ModelFailed, charged: Amounts | None
) -> None:
    """The quota has room for the worst case of one call beside what the others really cost."""
    held: dict[str, Amounts] = {}

    async def answering(request: ModelRequest) -> ModelReply:
        text = request.messages[-1].text
        held[text] = worst(request)
        if text == "bad":
            raise failure
        return reply("fine", input_tokens=5, output_tokens=7)

    async def test(folder: Path, limits: Limits) -> Amounts:
        policy = policy_with(models={"attempts_max": 1, "parallel_max": 4, "output_tokens_max": 20})
        async with world(folder, policy=policy, model=FakeModel(answering), limits=limits) as here:
            await here.in_cell()
            said = await here.say(*ask("a", "b", "bad", "c", "d", "e"))
            assert said is not None
            assert isinstance(said[0], Answers)
            kinds = [None if item.failure is None else said[0].failures[item.failure].kind for item in said[0].items]
            assert kinds == [None, None, "ModelError", None, None, None]
            used = (await here.balance()).used
        expected = [*[cost(5, 7)] * 5, held["bad"] if charged is None else charged]
        assert used == Amounts(**{name: sum(getattr(one, name) for one in expected) for name in DIMENSIONS})
        return used

    (tmp_path / "calls").mkdir()
    (tmp_path / "cost").mkdir()
    used = drive(test(tmp_path / "calls", only(calls=6)))
    dearest = max(one.cost_nanousd for one in held.values())
    assert drive(test(tmp_path / "cost", only(calls=6, cost_nanousd=used.cost_nanousd + dearest))) == used


# -- what changes while calls are under way ----------------------------------------------------------------------------


def test_a_limit_lowered_while_calls_are_in_flight_stops_what_follows_and_nothing_else(tmp_path: Path) -> None:
    async def test() -> None:
        gate = Gate()
        async with world(tmp_path) as here:
            await set_limits(here.ledger, TENANT, only(calls=10))
            asking = [asyncio.create_task(here.calls.ask(gate.model, question(), cell=1)) for _ in range(3)]
            await gate.under_way(3)
            await set_limits(here.ledger, TENANT, only(calls=2))
            late = asyncio.create_task(here.calls.ask(gate.model, question(), cell=1))  # waits for what is held
            await asyncio.sleep(0.05)
            assert not late.done()
            gate.open.set()
            assert [answer.text for answer in await asyncio.gather(*asking)] == ["late"] * 3
            used = (await here.balance()).used
            assert used == Amounts(**{name: 3 * getattr(cost(5, 7), name) for name in DIMENSIONS})
            with pytest.raises(QuotaExceeded) as caught:
                await late
            assert (caught.value.scope, caught.value.limit, caught.value.used, caught.value.held) == (TENANT, 2, 3, 0)
            assert len(gate.model.requests) == 3
            await set_limits(here.ledger, TENANT, only(calls=4))
            await here.calls.ask(gate.model, question(), cell=1)

    drive(test())


@pytest.mark.parametrize("period", ["minute", "day"])
def test_a_call_belongs_to_the_period_in_which_it_began(tmp_path: Path, period: Period) -> None:
    """Yesterday's calls fill yesterday's page to the end, and leave all of today to today's; so it is with a minute."""
    length = {"minute": MINUTE, "day": DAY}[period]
    pages = [period_key(period, NOON), period_key(period, NOON + length)]

    async def test() -> None:
        gate, clock = Gate(), [NOON]
        async with world(tmp_path) as here:
            here.scope = msgspec.structs.replace(here.scope, now=lambda: clock[0])
            prices = Prices({"fake": Rates(Decimal(INPUT_NANOUSD), Decimal(OUTPUT_NANOUSD))})
            calls = Calls(here.scope, audit=here.audit, ledger=here.ledger, prices=prices)
            await set_limits(here.ledger, TENANT, only(period, calls=2))
            asking = [asyncio.create_task(calls.ask(gate.model, question(), cell=1)) for _ in range(2)]
            await gate.under_way(2)
            clock[0] += length
            asking += [asyncio.create_task(calls.ask(gate.model, question(), cell=1)) for _ in range(2)]
            await gate.under_way(4)
            held = [(await here.ledger.balance(TENANT, page)).held.calls for page in pages]
            assert held == [2, 2]
            gate.open.set()
            await asyncio.gather(*asking)
            await calls.settled()
            balances = [await here.ledger.balance(TENANT, page) for page in pages]
            assert [(one.used.calls, one.held.calls) for one in balances] == [(2, 0), (2, 0)]
            with pytest.raises(QuotaExceeded):
                await calls.ask(gate.model, question(), cell=1)

    drive(test())


# -- a full disk -------------------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_when_calls_end_delays_their_end_and_loses_nothing(tmp_path: Path) -> None:
    count = 16  # their outcomes are more than a page of the file has room for

    async def test() -> None:
        gate = Gate()
        async with world(tmp_path, policy=policy_with(models={"parallel_max": count})) as here:
            asking = [asyncio.create_task(here.calls.ask(gate.model, question(), cell=1)) for _ in range(count)]
            await gate.under_way(count)
            await fill(here.journal, 0)
            gate.open.set()
            assert [answer.text for answer in await asyncio.gather(*asking)] == ["late"] * count
            with pytest.raises(HostFault, match="the disk is full"):
                await here.calls.settled()
            with closing(sqlite3.connect(here.log)) as db:
                ((held,),) = db.execute("SELECT held_calls FROM balances WHERE account = 'acme' AND key = 'total'")
            assert held > 0
            with pytest.raises(HostFault):  # the run has a fault, and asks nobody any more
                await here.calls.ask(gate.model, question(), cell=1)
            await meddle(here.journal, "PRAGMA max_page_count=1000000")
            await here.ledger.balance(TENANT, "total")  # any request brings what is owed
            balance = await here.ledger.balance(TENANT, "total")
            used = Amounts(**{name: count * getattr(cost(5, 7), name) for name in DIMENSIONS})
            assert (balance.used, balance.held) == (used, Amounts())
            assert Counter(here.events()) == {"query.requested": count, "query.completed": count}
            here.calls._fault = None  # so that `world` looks at what is left

    drive(test())


# -- more than one process ---------------------------------------------------------------------------------------------


@on_each_store
@pytest.mark.parametrize("period", ["minute", "hour"])
def test_processes_share_a_rate(tmp_path: Path, period: Period) -> None:
    """Two ledgers over one store are two processes to it."""

    async def spend(ledgers: list[OwnLedger], now: float) -> int:
        asked = [ledger.reserve(RunId(f"r{n % 2}"), ONE, now=now) for n, ledger in enumerate(ledgers * 20)]
        results = await asyncio.gather(*asked, return_exceptions=True)
        refusals = [result for result in results if isinstance(result, QuotaExceeded)]
        assert all((one.period, one.limit) == (period, 11) for one in refusals)
        for number, reservation in enumerate(results):
            if isinstance(reservation, str):
                await ledgers[number % 2].settle(reservation, ONE)
        return len(results) - len(refusals)

    async def main() -> None:
        ledgers = [OwnLedger(tmp_path / "a.db", owner=f"{n}:1") for n in range(2)]
        await set_limits(ledgers[0], Tenant("acme"), only(period, calls=11))
        for n, ledger in enumerate(ledgers):
            await ledger.open_run(RunId(f"r{n}"), TENANT, run_limits=UNLIMITED, tenant_limits=UNLIMITED)
        length = {"minute": 60.0, "hour": 3600.0}[period]
        assert [await spend(ledgers, NOON + length * turn) for turn in (0, 1, 1, 2)] == [11, 11, 0, 11]
        assert await ledgers[0].check_books() == []
        for ledger in ledgers:
            await ledger.aclose()

    drive(main())


# -- very many runs ----------------------------------------------------------------------------------------------------

OPEN_ROWS = """SELECT (SELECT count(*) FROM runs WHERE is_open = 1),
    (SELECT count(*) FROM reservations WHERE state IN ('held', 'dispatched')),
    (SELECT count(*) FROM balances WHERE held_calls > 0 OR held_output_tokens > 0)"""


@on_each_store
@pytest.mark.slow
def test_ten_thousand_runs_that_came_and_went_leave_nothing_held(tmp_path: Path) -> None:
    """They end in each way: settled, given back, while something is held, while something is dispatched."""
    amounts = Amounts(calls=1, output_tokens=10)

    async def hold(ledger: OwnLedger, run: RunId) -> str:
        return await ledger.reserve(run, amounts, now=NOON, dispatched=True)

    async def settled(ledger: OwnLedger, run: RunId) -> None:
        await ledger.settle(await hold(ledger, run), Amounts(calls=1, output_tokens=4))

    async def released(ledger: OwnLedger, run: RunId) -> None:
        await ledger.release(await hold(ledger, run))

    async def held(ledger: OwnLedger, run: RunId) -> None:
        await ledger.reserve(run, amounts, now=NOON)

    async def dispatched(ledger: OwnLedger, run: RunId) -> None:
        await hold(ledger, run)

    ends: list[Callable[[OwnLedger, RunId], Awaitable[Any]]] = [settled, released, held, dispatched]

    async def some(ledger: OwnLedger, numbers: range) -> None:
        for number in numbers:
            run = RunId(f"r{number}")
            await ledger.open_run(run, TENANT, run_limits=only(calls=1), tenant_limits=only(calls=10_000))
            await ends[number % 4](ledger, run)
            await ledger.close_run(run)

    async def main() -> None:
        ledger = OwnLedger(tmp_path / "a.db", owner="1:1")
        await asyncio.gather(*(some(ledger, range(start, 10_000, 50)) for start in range(50)))
        ((*rows,),) = await ledger.journal.submit(Job(lambda draft: draft.query(OPEN_ROWS)))
        assert rows == [0, 0, 0]
        balance = await ledger.balance("acme", "total")
        assert (balance.used, balance.held) == (Amounts(calls=5000, output_tokens=2500 * 4 + 2500 * 10), Amounts())
        assert (ledger._opened, ledger._keys, ledger._owed) == ({}, {}, [])
        assert await ledger.check_books() == []
        await ledger.aclose()

    asyncio.run(main())
