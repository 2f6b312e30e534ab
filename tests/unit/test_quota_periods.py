"""Limits for a minute and an hour, and what a refusal says of the quota that it met."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from belljar.errors import QuotaExceeded
from belljar.identity import RunId, Tenant
from belljar.ledger import DIMENSIONS, PERIODS, Amounts, Limits, Period, period_end, period_key, run_account
from tests.journals import OwnLedger, meddle, set_limits

NOON = 1795435200.0  # 2026-11-23 12:00 UTC
MINUTE, HOUR = "2026-11-23T12:00", "2026-11-23T12"
R1 = RunId("r1")
ACME, RESEARCH = Tenant("acme"), Tenant("acme/research")
FREE = Limits("total", calls=None, input_tokens=None, output_tokens=None, cost_nanousd=None, read_bytes=None)
ONE = Amounts(calls=1)


def only(period: Period, /, **bounds: int) -> Limits:
    return Limits(period, **{dimension: bounds.get(dimension) for dimension in DIMENSIONS})


def with_run(
    body: Callable[[OwnLedger], Awaitable[None]], *, run_limits: Limits = FREE, tenant_limits: Limits = FREE
) -> None:
    """Run `body(ledger)` with run r1 of acme/research open, then check the books, open and closed."""

    async def main() -> None:
        ledger = OwnLedger(None, owner="1:1")
        await ledger.open_run(R1, RESEARCH, run_limits=run_limits, tenant_limits=tenant_limits)
        await body(ledger)
        assert await ledger.check_books() == []
        await ledger.close_run(R1)
        assert await ledger.check_books() == []
        await ledger.aclose()

    asyncio.run(main())


async def refused(ledger: OwnLedger, amounts: Amounts = ONE, now: float = NOON) -> QuotaExceeded:
    with pytest.raises(QuotaExceeded) as caught:
        await ledger.reserve(R1, amounts, now=now)
    return caught.value


@pytest.mark.parametrize(
    ("period", "key", "end"),
    [
        ("minute", MINUTE, "2026-11-23T12:01"),
        ("hour", HOUR, "2026-11-23T13:00"),
        ("day", "2026-11-23", "2026-11-24"),
        ("month", "2026-11", "2026-12-01"),
    ],
)
def test_a_period_ends_where_the_next_begins(period: Period, key: str, end: str) -> None:
    assert period_key(period, NOON) == key
    over = period_end(period, key)
    assert over == datetime.fromisoformat(end).replace(tzinfo=UTC)
    assert period_key(period, over.timestamp() - 1) == key != period_key(period, over.timestamp())


def test_a_year_ends_with_december_and_in_total_nothing_ends() -> None:
    assert period_end("month", "2026-12") == datetime(2027, 1, 1, tzinfo=UTC)
    assert period_end("total", "total") is None


@pytest.mark.parametrize(("period", "seconds"), [("minute", 60), ("hour", 3600)])
def test_a_rate_refuses_until_its_period_is_over(period: Period, seconds: int) -> None:
    async def body(ledger: OwnLedger) -> None:
        await set_limits(ledger, ACME, only(period, calls=2))
        held = await ledger.reserve(R1, ONE, now=NOON)
        await ledger.settle(await ledger.reserve(R1, ONE, now=NOON + seconds - 1), ONE)
        await refused(ledger, now=NOON + seconds - 1)
        assert (await ledger.remaining(R1, now=NOON)).calls == 0
        await ledger.reserve(R1, ONE, now=NOON + seconds)
        await ledger.release(held)
        await ledger.reserve(R1, ONE, now=NOON)

    with_run(body)


@pytest.mark.parametrize("period", ["minute", "hour"])
def test_a_rate_of_a_policy_and_of_a_run_counts_likewise(period: Period) -> None:
    async def body(ledger: OwnLedger) -> None:
        await ledger.reserve(R1, ONE, now=NOON)
        await ledger.reserve(R1, ONE, now=NOON)
        assert (await refused(ledger)).scope == "run:r1"
        assert (await ledger.balance(run_account(R1), period_key(period, NOON))).held == Amounts(calls=2)
        assert (await ledger.balance(ACME, period_key(period, NOON))).held == Amounts(calls=2)

    with_run(body, run_limits=only(period, calls=2), tenant_limits=only(period, calls=3))


def test_what_was_there_before_a_rate_was_set_does_not_count_for_it() -> None:
    async def body(ledger: OwnLedger) -> None:
        before = await ledger.reserve(R1, ONE, now=NOON)
        await set_limits(ledger, ACME, only("hour", calls=1))
        await ledger.settle(before, ONE)
        after = await ledger.reserve(R1, ONE, now=NOON)
        await refused(ledger)
        assert (await ledger.room(R1, now=NOON)).alone.calls == 1
        await ledger.clear_limits(ACME)
        await ledger.settle(after, ONE)
        assert (await ledger.balance("acme", HOUR)).used == ONE
        assert (await ledger.balance("acme", "2026-11-23")).used == Amounts(calls=2)

    with_run(body)


def test_without_such_a_limit_there_is_no_page_of_a_minute_or_an_hour() -> None:
    async def body(ledger: OwnLedger) -> None:
        await ledger.reserve(R1, ONE, now=NOON)
        keys = await meddle(ledger.journal, "SELECT DISTINCT key FROM balances ORDER BY key")
        assert keys == [("2026-11",), ("2026-11-23",), ("total",)]

    with_run(body)


def test_a_refusal_tells_level_dimension_and_when_there_is_more() -> None:
    async def body(ledger: OwnLedger) -> None:
        await set_limits(ledger, ACME, only("day", cost_nanousd=10**9))
        await ledger.settle(await ledger.reserve(R1, Amounts(cost_nanousd=5 * 10**8), now=NOON), Amounts(1, 2, 3, 5))
        await ledger.reserve(R1, Amounts(cost_nanousd=9 * 10**8), now=NOON)
        error = await refused(ledger, Amounts(cost_nanousd=2 * 10**8))
        assert (error.scope, error.dimension, error.period) == ("acme", "cost_nanousd", "day")
        assert (error.limit, error.used, error.held) == (10**9, 5, 9 * 10**8)
        assert error.resets_at == datetime(2026, 11, 24, tzinfo=UTC)
        assert str(error) == (
            "tenant acme has 0.099999995 USD of 1.00 USD left for the day 2026-11-23 (UTC), but this needs 0.20 USD "
            "(0.000000005 USD used, 0.90 USD held by work under way); ask for less or wait for the next day, "
            "which begins at 2026-11-24 00:00 (UTC)"
        )

    with_run(body)


def test_a_limit_lowered_below_what_is_held_lets_that_end_and_nothing_begin() -> None:
    async def body(ledger: OwnLedger) -> None:
        await set_limits(ledger, ACME, only("day", calls=9))
        held = await ledger.reserve(R1, Amounts(calls=6), now=NOON, dispatched=True)
        await set_limits(ledger, ACME, only("day", calls=3))
        assert (await refused(ledger)).held == 6
        await ledger.settle(held, Amounts(calls=5))
        error = await refused(ledger)
        assert (error.limit, error.used, error.held) == (3, 5, 0)
        await set_limits(ledger, ACME, only("day", calls=6))
        await ledger.reserve(R1, ONE, now=NOON)

    with_run(body)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_set_and_cleared_the_books_balance_and_no_rate_is_passed(seed: int) -> None:
    chance = random.Random(seed)

    async def step(ledger: OwnLedger, now: float, open_: list[str]) -> None:
        tenant = chance.choice([ACME, RESEARCH])
        match chance.randrange(5):
            case 0:
                await set_limits(ledger, tenant, only(chance.choice(PERIODS), calls=chance.randrange(1, 9)))
            case 1:
                await ledger.clear_limits(tenant)
            case 2 if open_:
                asked = await meddle(ledger.journal, "SELECT calls FROM reservations WHERE id = ?", open_[0])
                await ledger.settle(open_.pop(0), Amounts(calls=chance.randint(0, asked[0][0])))
            case _:
                left = (await ledger.remaining(R1, now=now)).calls
                asked_now = chance.randint(1, 4)
                if left is not None and asked_now > left:
                    await refused(ledger, Amounts(calls=asked_now), now)
                else:
                    open_.append(await ledger.reserve(R1, Amounts(calls=asked_now), now=now))

    async def body(ledger: OwnLedger) -> None:
        now, open_ = NOON, list[str]()
        for _ in range(120):
            await step(ledger, now, open_)
            now += chance.choice([0, 0, 1, 20, 60, 1800])
            assert await ledger.check_books() == []

    with_run(body)


def test_an_odd_period_is_refused() -> None:
    async def body(ledger: OwnLedger) -> None:
        odd: Any = "week"
        with pytest.raises(Exception, match="'week' is not a valid period: use minute, hour, day, month or total"):
            await set_limits(ledger, ACME, only(odd, calls=1))

    with_run(body)
