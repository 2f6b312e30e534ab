"""Who begins, who waits and who is refused: whatever is affordable is admitted, and the limit holds at every moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from belljar.broker.admission import Admission, Logged
from belljar.broker.run import RunScope
from belljar.errors import LedgerUnavailable, PolicyDenied, QuotaExceeded
from belljar.identity import RunId
from belljar.journal import Job
from belljar.ledger import NOTHING, Amounts, Limits, period_key, run_account
from belljar.tasks import Nursery
from belljar.testing import FakeClock
from tests.examples import examples
from tests.journals import OwnLedger
from tests.unit.broker_fakes import NOON, TENANT, UNLIMITED, drive, policy_with

on_each_store = pytest.mark.usefixtures("store")

INPUT, OUTPUT = 10, 100  # tokens of a call; a token costs 1
WORST = Amounts(1, INPUT, OUTPUT, INPUT + OUTPUT)


def bound(output_tokens: int, input_tokens: int = INPUT) -> Amounts:
    return Amounts(1, input_tokens, output_tokens, input_tokens + output_tokens)


def money(nanousd: int | None) -> Limits:
    return Limits("total", None, None, None, nanousd, None)


SILENT = Logged(Job(lambda _: None), lambda: Job(lambda _: None))


class Door:
    """A run's admission, and a short way to use it."""

    def __init__(self, ledger: OwnLedger, run: RunId, clock: FakeClock, wait_s: float = 0.0) -> None:
        self.ledger, self.run, self.clock = ledger, run, clock
        self.fault: Exception | None = None
        self.wall = NOON
        policy = policy_with(quota={"wait_s": wait_s})
        self.scope = RunScope(
            run=run,
            tenant=TENANT,
            policy=policy,
            deadline=clock.now + policy.limits.run_wall_s,
            tasks=Nursery(),
            now=lambda: self.wall,
            monotonic=clock,
        )
        self.admission = Admission(self.scope, ledger, check=self.check)

    def check(self) -> None:
        if self.fault is not None:
            raise self.fault

    async def enter(self, input_tokens: int = INPUT, output_tokens: int = OUTPUT, kept: Amounts = NOTHING) -> str:
        reservation, held, _ = await self.admission.hold(
            lambda tokens: bound(tokens, input_tokens), output_tokens, kept=kept, records=lambda _: SILENT
        )
        assert held.input_tokens == input_tokens
        return reservation

    async def waiting(self, *line: asyncio.Task[Any]) -> None:
        """Return when these stand in line. None of them is through."""
        while self.admission._waiting < len(line):
            assert not any(task.done() for task in line)
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def doors(
    *limits: Limits, tenant: Limits = UNLIMITED, path: Path | None = None, processes: int = 1, wait_s: float = 0.0
) -> AsyncIterator[list[Door]]:
    """One run for each of `limits`; over several `processes`, as far as a ledger can tell."""
    clock = FakeClock()
    async with contextlib.AsyncExitStack() as stack:
        ledgers = [OwnLedger(path, owner=f"{number}:1") for number in range(processes)]
        made = []
        for number, limit in enumerate(limits):
            ledger = ledgers[number % processes]
            run = RunId(f"r{number}")
            await ledger.open_run(run, TENANT, run_limits=limit, tenant_limits=tenant)
            made.append(Door(ledger, run, clock, wait_s))
        for ledger in ledgers:
            stack.push_async_callback(ledger.aclose)
        yield made
        assert await ledgers[0].check_books() == []


async def over(task: asyncio.Task[Any]) -> None:
    """Return when the task is over, which it soon is."""
    await asyncio.wait([task], timeout=20)
    assert task.done()


@on_each_store
def test_what_is_in_the_way_only_while_it_is_held_is_waited_for() -> None:
    async def test() -> None:
        async with doors(money(150)) as [door]:
            first = await door.enter()
            second = asyncio.create_task(door.enter())
            await door.waiting(second)
            await door.ledger.settle(first, bound(1))
            await second  # and it holds the whole answer, not what was left beside the first

    drive(test())


@on_each_store
def test_it_is_not_waited_for_what_would_not_fit_afterwards_either() -> None:
    async def test() -> None:
        async with doors(money(150)) as [door]:
            await door.enter()
            with pytest.raises(QuotaExceeded) as caught:
                await door.enter(input_tokens=140)
            assert (caught.value.code, caught.value.limit, caught.value.observed) == ("quota.run.cost", 150, 240)
            assert "held by work under way" in str(caught.value)

    drive(test())


@on_each_store
def test_the_answer_is_shortened_by_what_is_used_and_not_by_what_is_held() -> None:
    async def test() -> None:
        async with doors(money(160)) as [door]:
            first = await door.enter()
            second = asyncio.create_task(door.admission.hold(bound, OUTPUT, kept=NOTHING, records=lambda _: SILENT))
            await door.waiting(second)
            await door.ledger.settle(first, bound(80))  # 90 of 160 used: 70 are left, 60 of them for the answer
            assert (await second)[1:] == (bound(60), 60)

    drive(test())


@on_each_store
def test_the_line_is_first_come_first_served() -> None:
    """Beside the first call there is room for the small ones, and none for the large one that came before them."""

    async def test() -> None:
        entered = []
        async with doors(money(300)) as [door]:

            async def come(name: str, inputs: int, outputs: int) -> None:
                reservation = await door.enter(inputs, outputs)
                entered.append(name)
                await door.ledger.settle(reservation, bound(1, 1))

            first = await door.enter(150, 16)
            line = [asyncio.create_task(come("large", 180, 16))]
            await door.waiting(*line)
            line += [asyncio.create_task(come(f"small {number}", 1, 1)) for number in range(3)]
            await door.waiting(*line)
            for _ in range(3):  # several looks of the head
                await asyncio.sleep(0.1)
            assert entered == []
            await door.ledger.settle(first, bound(1, 1))
            await asyncio.gather(*line)
            assert entered == ["large", "small 0", "small 1", "small 2"]

    drive(test())


@on_each_store
def test_who_leaves_the_line_does_not_hold_it_up() -> None:
    async def test() -> None:
        async with doors(money(150)) as [door]:
            first = await door.enter()
            line = []
            for _ in range(3):
                line.append(asyncio.create_task(door.enter()))
                await door.waiting(*line)
            line[0].cancel()
            line[1].cancel()
            await asyncio.wait(line[:2])
            await door.ledger.settle(first, bound(1))
            await line[2]
            assert door.admission._waiting == 0
            held = (await door.ledger.balance(run_account(door.run), "total")).held
            assert held == WORST

    drive(test())


@on_each_store
def test_the_runs_time_ends_the_wait() -> None:
    async def test() -> None:
        async with doors(money(150)) as [door]:
            await door.enter()
            second = asyncio.create_task(door.enter())
            await door.waiting(second)
            door.clock.now = door.scope.deadline
            with pytest.raises(PolicyDenied) as caught:
                await second
            assert caught.value.code == "limits.run_wall"

    drive(test())


@on_each_store
def test_who_waits_for_what_cannot_be_settled_is_told() -> None:
    async def test() -> None:
        async with doors(money(150)) as [door]:
            await door.enter()
            second = asyncio.create_task(door.enter())
            await door.waiting(second)
            door.fault = LedgerUnavailable("gone")
            await over(second)
            with pytest.raises(LedgerUnavailable, match="gone"):
                await second

    drive(test())


@pytest.mark.parametrize("processes", [1, 2])
@on_each_store
def test_another_run_of_the_tenant_is_waited_for(tmp_path: Path, processes: int) -> None:
    async def test() -> None:
        async with doors(UNLIMITED, UNLIMITED, tenant=money(150), path=tmp_path / "ledger.db", processes=processes) as [
            one,
            other,
        ]:
            first = await one.enter()
            second = asyncio.create_task(other.enter())
            await other.waiting(second)
            await one.ledger.settle(first, bound(1))
            await second

    drive(test())


@on_each_store
def test_another_run_of_the_tenant_is_waited_for_no_longer_than_a_call_may_take() -> None:
    async def test() -> None:
        async with doors(UNLIMITED, UNLIMITED, tenant=money(150)) as [one, other]:
            await one.enter()
            second = asyncio.create_task(other.enter())
            await other.waiting(second)
            await asyncio.sleep(0.3)
            assert not second.done()
            other.clock.now += other.scope.policy.models.call_wall_s
            await over(second)
            with pytest.raises(QuotaExceeded) as caught:
                await second
            assert (caught.value.limit, caught.value.observed) == (150, 220)

    drive(test())


@on_each_store
def test_a_ledger_is_waited_at_in_one_event_loop_after_the_other() -> None:
    clock = FakeClock()
    ledger = OwnLedger(None, owner="1:1")

    async def test(run: RunId) -> None:
        await ledger.open_run(run, TENANT, run_limits=money(150), tenant_limits=UNLIMITED)
        door = Door(ledger, run, clock)
        await door.enter()
        second = asyncio.create_task(door.enter())
        await door.waiting(second)
        await asyncio.sleep(0.1)
        second.cancel()
        await asyncio.wait([second])
        await ledger.close_run(run)

    for run in ("r1", "r2"):
        drive(test(RunId(run)))
    drive(ledger.aclose())


@on_each_store
def test_what_is_kept_is_left_and_not_held() -> None:
    async def test() -> None:
        kept = Amounts(calls=1, cost_nanousd=100)
        async with doors(Limits("total", 3, None, None, 320, None)) as [door]:
            for _ in range(2):
                await door.ledger.settle(await door.enter(kept=kept), bound(1))
            with pytest.raises(QuotaExceeded, match="1 calls kept for the root model") as caught:
                await door.enter(kept=kept)
            assert caught.value.code == "quota.run.calls"
            await door.enter()

    drive(test())


sizes = st.tuples(st.integers(1, 60), st.integers(1, 120), st.integers(0, 100), st.integers(0, 9))


@settings(max_examples=examples(40), deadline=None)
@given(calls=st.lists(sizes, min_size=1, max_size=12), limit=st.integers(20, 600))
def test_used_and_held_stay_within_the_limit_and_all_that_is_affordable_is_admitted(
    calls: list[tuple[int, int, int, int]], limit: int
) -> None:
    """Each call has input, an answer's limit, what share of it is really used, and a tenth of them is cancelled."""

    async def test() -> None:
        async with doors(money(limit)) as [door]:

            async def total() -> int:
                balance = await door.ledger.balance(run_account(door.run), "total")
                return balance.used.cost_nanousd + balance.held.cost_nanousd

            async def one(inputs: int, outputs: int, share: int) -> None:
                try:
                    held = await door.admission.hold(
                        lambda tokens: bound(tokens, inputs), outputs, kept=NOTHING, records=lambda _: SILENT
                    )
                except QuotaExceeded:
                    used = (await door.ledger.spent(run_account(door.run), period_key("total", NOON))).cost_nanousd
                    assert used + inputs + min(outputs, 16) > limit
                    return
                reservation, _, tokens = held
                try:
                    assert await total() <= limit
                    await asyncio.sleep(0)
                finally:
                    await asyncio.shield(door.ledger.settle(reservation, bound(tokens * share // 100, inputs)))

            tasks = [asyncio.create_task(one(*call[:3])) for call in calls]
            for task, call in zip(tasks, calls, strict=True):
                if call[3] == 0:
                    await asyncio.sleep(0)
                    task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(outcome is None or isinstance(outcome, asyncio.CancelledError) for outcome in outcomes), outcomes
            await door.ledger.close_run(door.run)
            assert (await door.ledger.balance(run_account(door.run), "total")).held == NOTHING
            assert door.admission._waiting == 0

    drive(test())
