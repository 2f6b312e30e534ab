"""A call that a used-up minute or hour refuses waits for the next one, as long as the policy says and no longer.

The clock of periods stands still just before a minute's end until a test moves it. So whoever waits for that end wakes
up, sees that it has not come, and waits again: as on a clock that was set back.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from belljar.broker.denials import quota_of
from belljar.errors import PolicyDenied, QuotaExceeded
from belljar.identity import Tenant
from belljar.ledger import DIMENSIONS, NOTHING, Amounts, Ledger, Limits, Period, period_key, run_account
from belljar.testing import FakeModel
from tests.journals import OwnLedger, set_limits
from tests.unit.broker_fakes import NOON, TENANT, UNLIMITED, drive, policy_with, world
from tests.unit.test_admission import SILENT, Door, bound, doors, over
from tests.unit.test_broker import answers, ask, refused
from tests.waiting import in_time, pass_time

on_each_store = pytest.mark.usefixtures("store")
ACME = Tenant("acme")
MINUTE = 60.0
LATE = NOON + 59.95  # by now the next minute is near


def only(period: Period, /, **bounds: int) -> Limits:
    return Limits(period, **{dimension: bounds.get(dimension) for dimension in DIMENSIONS})


async def spend(door: Door, amounts: Amounts) -> None:
    await door.ledger.settle(await door.ledger.reserve(door.run, amounts, now=door.wall), amounts)


async def asleep(door: Door, *line: asyncio.Task[Any]) -> None:
    """Return when these stand in line and the first of them has looked at the next period, and has not begun."""
    await door.waiting(*line)
    await sleeps(door.ledger)
    assert not any(task.done() for task in line)


async def sleeps(ledger: Ledger) -> None:
    """Return when a call has looked at the next period, and waits for it."""
    async with in_time(60, "a call waits for a period"):
        while not ledger._watching_limits:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
    await ledger.limits(ACME)  # behind what it has asked
    await ledger.limits(ACME)


# -- who waits ---------------------------------------------------------------------------------------------------------


@on_each_store
def test_a_call_that_a_rate_refuses_begins_in_the_next_minute_and_holds_nothing_until_then() -> None:
    async def test() -> None:
        async with doors(UNLIMITED, wait_s=MINUTE) as [door]:
            await set_limits(door.ledger, ACME, only("minute", calls=1))
            await spend(door, Amounts(calls=1))
            door.wall = LATE
            second = asyncio.create_task(door.enter())
            await asleep(door, second)
            account = run_account(door.run)
            assert (await door.ledger.balance(account, "total")).held == NOTHING
            door.wall = NOON + MINUTE
            await second
            assert (await door.ledger.balance("acme", period_key("minute", NOON))).held == NOTHING
            assert (await door.ledger.balance("acme", period_key("minute", door.wall))).held.calls == 1

    drive(test())


@on_each_store
def test_a_minute_ends_while_its_calls_are_under_way_and_the_next_one_begins_without_them() -> None:
    """What began before stays on its minute's page, also once it is settled; the next minute is all the waiter's."""

    async def test() -> None:
        async with doors(UNLIMITED, wait_s=MINUTE) as [door]:
            await set_limits(door.ledger, ACME, only("minute", calls=1, input_tokens=100))
            door.wall = LATE
            first = await door.enter(input_tokens=60)
            second = asyncio.create_task(door.enter(input_tokens=60))
            await door.waiting(second)
            door.wall = NOON + MINUTE
            reservation = await second
            pages = [period_key("minute", wall) for wall in (LATE, door.wall)]
            held = [(await door.ledger.balance("acme", page)).held for page in pages]
            assert [(one.calls, one.input_tokens) for one in held] == [(1, 60), (1, 60)]
            await door.ledger.settle(first, Amounts(calls=1, input_tokens=50))
            with pytest.raises(QuotaExceeded):  # what came back is of the minute before
                await spend(door, Amounts(calls=1, input_tokens=50))
            await door.ledger.settle(reservation, Amounts(calls=1, input_tokens=40))
            balances = [await door.ledger.balance("acme", page) for page in pages]
            assert [one.held for one in balances] == [NOTHING, NOTHING]
            assert [(one.used.calls, one.used.input_tokens) for one in balances] == [(1, 50), (1, 40)]

    drive(test())


@on_each_store
@pytest.mark.parametrize(
    ("period", "wait_s", "left_s"),
    [("minute", 0.0, 1000.0), ("minute", 59.0, 1000.0), ("hour", 3599.0, 1000.0), ("minute", 60.0, 59.0)],
    ids=["none", "too-short", "hour", "the-run-ends-first"],
)
def test_what_begins_too_late_is_not_waited_for(period: Period, wait_s: float, left_s: float) -> None:
    async def test() -> None:
        async with doors(UNLIMITED, wait_s=wait_s) as [door]:
            await set_limits(door.ledger, ACME, only(period, calls=1))
            await spend(door, Amounts(calls=1))
            door.clock.now = door.scope.deadline - left_s
            with pytest.raises(QuotaExceeded) as caught:
                await door.enter()
            refusal = caught.value
            assert (refusal.scope, refusal.dimension, refusal.period) == ("acme", "calls", period)
            assert (refusal.limit, refusal.used, refusal.held, refusal.waited_s) == (1, 1, 0, None)
            assert refusal.resets_at is not None
            assert "waited" not in str(refusal)

    drive(test())


@on_each_store
def test_no_call_waits_beyond_the_end_of_its_cell() -> None:
    async def test() -> None:
        async with doors(UNLIMITED, wait_s=MINUTE) as [door]:
            await set_limits(door.ledger, ACME, only("minute", calls=1))
            await spend(door, Amounts(calls=1))
            with pytest.raises(QuotaExceeded):
                await door.admission.hold(
                    bound, 100, kept=NOTHING, records=lambda _: SILENT, deadline=door.clock.now + 59
                )

    drive(test())


@on_each_store
@pytest.mark.parametrize("what", ["total", "too-large"])
def test_a_period_that_will_not_help_is_not_waited_for(what: str) -> None:
    async def test() -> None:
        async with doors(UNLIMITED, wait_s=2 * MINUTE) as [door]:
            minute = only("minute", calls=1) if what == "total" else only("minute", input_tokens=9)
            await set_limits(door.ledger, ACME, minute)
            await spend(door, Amounts(calls=1))
            if what == "total":
                await set_limits(door.ledger, TENANT, only("total", calls=1))
            with pytest.raises(QuotaExceeded) as caught:
                await door.enter()
            assert (caught.value.period, caught.value.waited_s) == ("minute", None)

    drive(test())


@on_each_store
def test_where_a_minute_is_not_enough_the_hour_is_waited_for() -> None:
    async def test() -> None:
        async with doors(UNLIMITED, wait_s=MINUTE) as [door]:
            await set_limits(door.ledger, ACME, only("minute", calls=1))
            await set_limits(door.ledger, TENANT, only("hour", calls=1))
            door.wall = NOON + 3599.95
            await spend(door, Amounts(calls=1))
            second = asyncio.create_task(door.enter())
            await asleep(door, second)
            door.wall = NOON + 3600
            await second

    drive(test())


@on_each_store
def test_a_whole_answer_in_the_next_minute_is_better_than_a_short_one_now() -> None:
    async def test() -> None:
        async with doors(UNLIMITED, wait_s=MINUTE) as [door]:
            await set_limits(door.ledger, ACME, only("minute", output_tokens=120))
            await spend(door, Amounts(output_tokens=70))
            door.wall = LATE
            second = asyncio.create_task(door.admission.hold(bound, 100, kept=NOTHING, records=lambda _: SILENT))
            await asleep(door, second)
            door.wall = NOON + MINUTE
            assert (await second)[1:] == (bound(100), 100)

    drive(test())


# -- how long ----------------------------------------------------------------------------------------------------------


@on_each_store
def test_it_never_waits_longer_than_stated_though_the_clock_stands_still_and_then_says_how_long() -> None:
    async def test() -> None:
        async with doors(UNLIMITED, wait_s=30.0) as [door]:
            await set_limits(door.ledger, ACME, only("minute", calls=1))
            await spend(door, Amounts(calls=1))
            door.wall = LATE
            second = asyncio.create_task(door.enter())
            await asleep(door, second)
            door.clock.now += 30
            await over(second)
            with pytest.raises(QuotaExceeded, match=r"; it had waited 30\.0 s for a period's end$") as caught:
                await second
            refusal = caught.value
            assert (refusal.waited_s, refusal.scope, refusal.limit, refusal.used) == (30.0, "acme", 1, 1)
            assert refusal.told is not None
            assert refusal.told.endswith("; it had waited 30.0 s for a period's end")

    drive(test())


def test_the_log_says_how_long_a_refused_call_had_waited(tmp_path: Path) -> None:
    assert quota_of(QuotaExceeded("no").after(2.5))["waited_ms"] == 2500

    async def test() -> None:
        async with world(tmp_path, policy=policy_with(quota={"wait_s": 5 * MINUTE}), model=FakeModel()) as here:
            msgspec.structs.force_setattr(here.scope, "now", lambda: LATE)
            await set_limits(here.ledger, ACME, only("minute", calls=1))
            await here.in_cell()
            assert await answers(here, "one") == ["to one"]
            second = asyncio.create_task(answers(here, "two"))
            await sleeps(here.ledger)
            await set_limits(here.ledger, ACME, only("minute", calls=0))  # now no minute will help
            assert await second == [None]
            (denied,) = await here.data("query.denied")
            assert (denied["code"], denied["scope"], denied["used"]) == ("quota.tenant.calls", "acme", 1)
            assert denied["waited_ms"] >= 0

    drive(test())


@on_each_store
@pytest.mark.parametrize("jump_s", [-3600.0, -7 * 86400.0])
def test_a_clock_that_is_set_back_does_no_harm(jump_s: float) -> None:
    """In the hour to which it is set back nothing was used yet, so the call begins there."""

    async def test() -> None:
        async with doors(UNLIMITED, wait_s=MINUTE) as [door]:
            await set_limits(door.ledger, ACME, only("minute", calls=1))
            await spend(door, Amounts(calls=1))
            door.wall = LATE
            second = asyncio.create_task(door.enter())
            await asleep(door, second)
            door.wall += jump_s
            await second
            await spend_refused(door)

    async def spend_refused(door: Door) -> None:
        for wall in (LATE, LATE + jump_s):
            door.wall = wall
            with pytest.raises(QuotaExceeded):
                await spend(door, Amounts(calls=1))

    drive(test())


@on_each_store
def test_the_end_of_the_run_ends_the_wait() -> None:
    async def test() -> None:
        async with doors(UNLIMITED, wait_s=MINUTE) as [door]:
            await set_limits(door.ledger, ACME, only("minute", calls=1))
            await spend(door, Amounts(calls=1))
            door.wall = LATE
            second = asyncio.create_task(door.enter())
            await asleep(door, second)
            door.clock.now = door.scope.deadline
            await over(second)
            with pytest.raises((PolicyDenied, QuotaExceeded)):
                await second

    drive(test())


def test_whoever_waits_asks_nothing_until_the_period_is_over() -> None:
    async def test() -> None:
        async with doors(UNLIMITED, wait_s=MINUTE) as [door]:
            await set_limits(door.ledger, ACME, only("minute", calls=1))
            await spend(door, Amounts(calls=1))
            asked = Counter[str]()
            rooms = door.ledger.room

            async def room(*args: Any, **kwargs: Any) -> Any:
                asked["room"] += 1
                return await rooms(*args, **kwargs)

            door.ledger.room = room  # type: ignore[method-assign]
            second = asyncio.create_task(door.enter())
            await asleep(door, second)
            before = asked["room"]
            for _ in range(5):
                pass_time(10)
                for _ in range(20):
                    await asyncio.sleep(0.001)  # what is due by now has its turn
            assert asked["room"] == before
            door.wall = NOON + MINUTE
            pass_time(15)
            await second

    asyncio.run(test())


# -- who is next -------------------------------------------------------------------------------------------------------


@on_each_store
def test_who_waits_for_a_rate_is_not_overtaken() -> None:
    """Beside what is used in this minute there is room for the small call that came later."""

    async def test() -> None:
        async with doors(UNLIMITED, wait_s=MINUTE) as [door]:
            await set_limits(door.ledger, ACME, only("minute", input_tokens=100))
            await spend(door, Amounts(input_tokens=50))
            door.wall = LATE
            order: list[int] = []

            async def enter(tokens: int) -> None:
                await door.enter(input_tokens=tokens)
                order.append(tokens)

            large = asyncio.create_task(enter(90))
            await asleep(door, large)
            small = asyncio.create_task(enter(10))
            await asleep(door, large, small)
            door.wall = NOON + MINUTE
            await asyncio.gather(large, small)
            assert order == [90, 10]

    drive(test())


@on_each_store
def test_who_gives_up_waiting_leaves_nothing_and_lets_the_next_one_in() -> None:
    async def test() -> None:
        async with doors(UNLIMITED, wait_s=MINUTE) as [door]:
            await set_limits(door.ledger, ACME, only("minute", input_tokens=100))
            await spend(door, Amounts(input_tokens=50))
            door.wall = LATE
            large = asyncio.create_task(door.enter(input_tokens=90))
            await asleep(door, large)
            small = asyncio.create_task(door.enter(input_tokens=10))
            await asleep(door, large, small)
            large.cancel()
            await over(large)
            assert large.cancelled()
            await small
            minute = await door.ledger.balance("acme", period_key("minute", NOON))
            assert (minute.used.input_tokens, minute.held.input_tokens) == (50, 10)

    drive(test())


@on_each_store
@pytest.mark.parametrize("how", ["raised", "cleared"])
def test_a_limit_that_is_raised_lets_whoever_waits_begin_at_once(how: str) -> None:
    """The minute's end is far away, and the test does not wait for it."""

    async def test() -> None:
        async with doors(UNLIMITED, wait_s=MINUTE) as [door]:
            await set_limits(door.ledger, ACME, only("minute", calls=1))
            await spend(door, Amounts(calls=1))
            second = asyncio.create_task(door.enter())
            await asleep(door, second)
            if how == "raised":
                await door.ledger.change_limits(ACME, {"minute": {"calls": 2}})
            else:
                await door.ledger.clear_limits(ACME)
            await over(second)
            await second

    drive(test())


@on_each_store
def test_two_processes_that_wait_for_one_rate_pass_it_in_no_minute(tmp_path: Path) -> None:
    """Each has four calls, three a minute go through, and one of the eight is given up while it waits."""

    async def test() -> None:
        async with doors(UNLIMITED, UNLIMITED, path=tmp_path / "a.db", processes=2, wait_s=5 * MINUTE) as made:
            await set_limits(made[0].ledger, ACME, only("minute", calls=3))
            begun: Counter[str] = Counter()

            async def call(door: Door) -> None:
                reservation = await door.enter()
                begun[period_key("minute", door.wall)] += 1
                await door.ledger.settle(reservation, bound(1))

            for door in made:
                door.wall = LATE
            calls = [asyncio.create_task(call(door)) for _ in range(4) for door in made]
            for minute in range(3):
                pages = [period_key("minute", LATE + MINUTE * turn) for turn in range(minute + 1)]
                async with in_time(60, f"minute {minute} is used up"):
                    while begun[pages[-1]] < (3 if minute < 2 else 1):  # noqa: ASYNC110 - nobody tells
                        await asyncio.sleep(0.01)
                if minute == 0:
                    waiting = next(task for task in reversed(calls) if not task.done())
                    waiting.cancel()
                    await over(waiting)
                for door in made:
                    door.wall += MINUTE
            done = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(one) for one in done if one is not None] == [asyncio.CancelledError]
            assert sorted(begun.values()) == [1, 3, 3]
            assert [(await made[0].ledger.balance("acme", page)).used.calls for page in pages] == [3, 3, 1]

    drive(test())


def test_a_batch_beyond_a_rate_is_answered_minute_by_minute(tmp_path: Path) -> None:
    async def test() -> None:
        model = FakeModel()
        async with world(tmp_path, policy=policy_with(quota={"wait_s": 5 * MINUTE}), model=model) as here:
            wall = [LATE]
            msgspec.structs.force_setattr(here.scope, "now", lambda: wall[0])
            await set_limits(here.ledger, ACME, only("minute", calls=2))
            await here.in_cell()
            batch = asyncio.create_task(answers(here, *"abcde"))
            for asked in (2, 4, 5):
                async with in_time(60, f"{asked} calls were sent"):
                    while len(model.requests) < asked:  # noqa: ASYNC110 - the model is ours
                        await asyncio.sleep(0.001)
                assert len(model.requests) == asked
                wall[0] += MINUTE
            assert await batch == [f"to {prompt}" for prompt in "abcde"]

    drive(test())


def test_a_batch_beyond_a_rate_that_nobody_may_wait_for_is_refused_as_a_whole(tmp_path: Path) -> None:
    async def test() -> None:
        model = FakeModel()
        async with world(tmp_path, model=model) as here:
            await set_limits(here.ledger, ACME, only("minute", calls=2))
            await set_limits(here.ledger, TENANT, only("minute", calls=2))
            await here.in_cell()
            failure = (await refused(here, *ask(*"abcde"))).failure
            assert (failure.kind, failure.code, failure.limit) == ("QuotaExceeded", "quota.tenant.calls", 2)
            assert model.requests == []

    drive(test())


# -- whose clock -------------------------------------------------------------------------------------------------------


def test_hosts_that_share_a_server_go_by_its_clock(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        right = time.time
        ledger = OwnLedger(None, owner="1:1")
        monkeypatch.setattr(time, "time", lambda: right() - 86400)
        behind_s = right() - ledger.now()
        monkeypatch.undo()
        await ledger.aclose()
        assert abs(behind_s - (86400 if store == "sqlite" else 0)) < 60

    drive(test())
