"""Quotas: nobody spends what is not there, a reservation ends once, and the books balance after anything."""

from __future__ import annotations

import asyncio
import math
import os
import random
import sqlite3
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from belljar.errors import HostFault, InvalidInput, LedgerUnavailable, QuotaExceeded
from belljar.identity import RunId, Tenant
from belljar.journal import Job
from belljar.journal.tables import CALLS, LIMITED, LIMITS, LimitsRow
from belljar.ledger import (
    DIMENSIONS,
    GAUGES,
    PERIODS,
    Abandoned,
    Amounts,
    Limits,
    Period,
    Remaining,
    period_key,
    run_account,
)
from belljar.ledger.accounts import new_id
from tests.examples import examples
from tests.journals import OwnLedger, meddle, set_limits

T = TypeVar("T")

on_each_store = pytest.mark.usefixtures("store")

NOON = 1795435200.0  # 2026-11-23 12:00 UTC
DAY = 86400.0
R1 = RunId("r1")
ACME, RESEARCH = Tenant("acme"), Tenant("acme/research")
FREE = Limits("total", calls=None, input_tokens=None, output_tokens=None, cost_nanousd=None, read_bytes=None)


def only(period: Period = "total", /, **bounds: int) -> Limits:
    return Limits(period, **{dimension: bounds.get(dimension) for dimension in DIMENSIONS})


def open_ledger(path: Path | None = None, owner: str = "1:1") -> OwnLedger:
    return OwnLedger(path, owner=owner)


def with_run(body: Any, *, tenant: Tenant = RESEARCH, run_limits: Limits = FREE, tenant_limits: Limits = FREE) -> None:
    """Run `body(ledger)` with run r1 open, then check the books."""

    async def main() -> None:
        ledger = open_ledger()
        await ledger.open_run(R1, tenant, run_limits=run_limits, tenant_limits=tenant_limits)
        await body(ledger)
        assert await ledger.check_books() == []
        await ledger.aclose()

    asyncio.run(main())


# -- names and numbers -----------------------------------------------------------------------------------------------


def test_periods_are_utc() -> None:
    assert [period_key(period, NOON) for period in ("day", "month", "total")] == ["2026-11-23", "2026-11", "total"]
    assert period_key("day", NOON + DAY / 2 - 1) == "2026-11-23"
    assert period_key("day", NOON + DAY / 2) == "2026-11-24"
    assert period_key("month", NOON + 8 * DAY) == "2026-12"


@pytest.mark.parametrize("value", [-1, 10**15 + 1, True, 1.0, "1"])
def test_odd_amounts_are_refused(value: Any) -> None:
    async def body(ledger: OwnLedger) -> None:
        with pytest.raises(InvalidInput) as caught:
            await ledger.reserve(R1, Amounts(calls=value), now=NOON)
        assert caught.value.code == "amount.invalid"
        reservation = await ledger.reserve(R1, Amounts(calls=1), now=NOON)
        with pytest.raises(InvalidInput):
            await ledger.settle(reservation, Amounts(cost_nanousd=value))
        assert (await ledger.balance("acme", "total")).held == Amounts(calls=1)

    with_run(body)


@pytest.mark.parametrize("value", [-1, 1.5, True])
def test_odd_limits_are_refused(value: Any) -> None:
    async def main() -> None:
        ledger = open_ledger()
        for attempt in (
            ledger.open_run(R1, ACME, run_limits=only(calls=value), tenant_limits=FREE),
            ledger.open_run(R1, ACME, run_limits=FREE, tenant_limits=only(calls=value)),
            set_limits(ledger, ACME, only(calls=value)),
        ):
            with pytest.raises(InvalidInput) as caught:
                await attempt
            assert caught.value.code == "limit.invalid"
        await ledger.aclose()

    asyncio.run(main())


@on_each_store
def test_a_run_is_opened_once() -> None:
    async def body(ledger: OwnLedger) -> None:
        with pytest.raises(InvalidInput) as caught:
            await ledger.open_run(R1, Tenant("other"), run_limits=FREE, tenant_limits=FREE)
        assert caught.value.code == "run.exists"
        with pytest.raises(LedgerUnavailable, match="has no run"):
            await ledger.reserve(RunId("r2"), Amounts(), now=NOON)

    with_run(body)


# -- the life of a reservation ---------------------------------------------------------------------------------------


@on_each_store
def test_a_reservation_is_held_then_the_truth_is_charged_on_every_level() -> None:
    asked, actual = Amounts(1, 100, 1000, 5_000), Amounts(1, 90, 20, 300)

    async def body(ledger: OwnLedger) -> None:
        reservation = await ledger.reserve(R1, asked, now=NOON)
        pages = [(t, key) for t in ("acme", "acme/research") for key in ("2026-11-23", "2026-11", "total")]
        pages.append((run_account(R1), "total"))
        for page in pages:
            balance = await ledger.balance(*page)
            assert (balance.used, balance.held) == (Amounts(), asked)
        await ledger.dispatch(reservation)
        await ledger.settle(reservation, actual)
        for page in pages:
            balance = await ledger.balance(*page)
            assert (balance.used, balance.held) == (actual, Amounts())
        assert await ledger.spent("acme/other", "total") == Amounts()

    with_run(body)


@on_each_store
def test_a_released_reservation_leaves_nothing() -> None:
    async def body(ledger: OwnLedger) -> None:
        for dispatched in (False, True):
            reservation = await ledger.reserve(R1, Amounts(1, 2, 3, 4), now=NOON)
            if dispatched:
                await ledger.dispatch(reservation)
            await ledger.release(reservation)
            balance = await ledger.balance("acme", "total")
            assert (balance.used, balance.held) == (Amounts(), Amounts())

    with_run(body)


@on_each_store
def test_a_reservation_ends_once() -> None:
    async def body(ledger: OwnLedger) -> None:
        for end in (ledger.release, lambda r: ledger.settle(r, Amounts(calls=1))):
            reservation = await ledger.reserve(R1, Amounts(calls=1), now=NOON)
            await end(reservation)
            before = await ledger.balance("acme", "total")
            for again in (
                ledger.release(reservation),
                ledger.settle(reservation, Amounts(calls=5)),
                ledger.dispatch(reservation),
            ):
                with pytest.raises(LedgerUnavailable, match=r"double end.*nothing was changed"):
                    await again
            assert await ledger.balance("acme", "total") == before
        with pytest.raises(HostFault, match="has no reservation"):
            await ledger.release("nonesuch")

    with_run(body)


@on_each_store
def test_a_reservation_is_dispatched_once() -> None:
    async def body(ledger: OwnLedger) -> None:
        reservation = await ledger.reserve(R1, Amounts(calls=1), now=NOON)
        await ledger.dispatch(reservation)
        with pytest.raises(LedgerUnavailable, match="was already dispatched"):
            await ledger.dispatch(reservation)

    with_run(body)


@on_each_store
def test_a_cancelled_reserve_leaves_nothing_held() -> None:
    async def body(ledger: OwnLedger) -> None:
        for delay in range(40):
            task = asyncio.create_task(ledger.reserve(R1, Amounts(calls=1), now=NOON))
            for _ in range(delay % 4):
                await asyncio.sleep(0)
            await asyncio.sleep(delay * 1e-5)
            if task.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                await ledger.release(await task)
        assert (await ledger.balance("acme", "total")).held == Amounts()

    with_run(body)


# -- limits ----------------------------------------------------------------------------------------------------------


WORDS = {
    "cost_nanousd": ("0.000000005 USD", "0.00000001 USD"),
    "read_bytes": ("5 bytes", "10 bytes"),
    "cpu_ms": ("0.005 s of CPU time", "0.01 s of CPU time"),
    "wall_ms": ("0.005 s of wall time", "0.01 s of wall time"),
    "memory_mib_s": ("5 MiB-seconds of memory", "10 MiB-seconds of memory"),
}
KEYS = {"cost_nanousd": "cost", "read_bytes": "read", "cpu_ms": "cpu", "wall_ms": "wall", "memory_mib_s": "memory_time"}


@pytest.mark.parametrize("dimension", [dimension for dimension in DIMENSIONS if dimension not in GAUGES])
@pytest.mark.parametrize("level", ["acme", "acme/research", "run r1"])
def test_each_level_refuses_each_dimension_and_says_what_is_left(level: str, dimension: str) -> None:
    bound = only(**{dimension: 10})
    level_key = "run" if level.startswith("run") else "tenant"
    key = KEYS.get(dimension, dimension)
    code = f"quota.{level_key}.{key}".replace("quota.run.read", "context.read_total")

    async def body(ledger: OwnLedger) -> None:
        if not level.startswith("run"):
            await set_limits(ledger, Tenant(level), bound)
        used = await ledger.reserve(R1, Amounts(**{dimension: 4}), now=NOON)
        await ledger.settle(used, Amounts(**{dimension: 3}))
        await ledger.reserve(R1, Amounts(**{dimension: 2}), now=NOON)
        with pytest.raises(QuotaExceeded) as caught:
            await ledger.reserve(R1, Amounts(**{dimension: 6}), now=NOON)
        assert (caught.value.code, caught.value.limit, caught.value.observed) == (code, 10, 11)
        word = dimension.replace("_", " ")
        unit = WORDS.get(dimension, (f"5 {word}", f"10 {word}"))
        name = level if level.startswith("run") else f"tenant {level}"
        assert str(caught.value).startswith(f"{name} has {unit[0]} of {unit[1]} left in total, ")
        await ledger.reserve(R1, Amounts(**{dimension: 5}), now=NOON)

    with_run(body, run_limits=bound if level.startswith("run") else FREE)


@on_each_store
def test_a_refused_reservation_changes_no_level() -> None:
    async def body(ledger: OwnLedger) -> None:
        with pytest.raises(QuotaExceeded):
            await ledger.reserve(R1, Amounts(calls=2), now=NOON)
        for account in ("acme", "acme/research", run_account(R1)):
            assert (await ledger.balance(account, "total")).held == Amounts()

    with_run(body, run_limits=only(calls=1))


def test_the_root_is_asked_first() -> None:
    async def body(ledger: OwnLedger) -> None:
        with pytest.raises(QuotaExceeded, match=r"^tenant acme has"):
            await ledger.reserve(R1, Amounts(calls=5), now=NOON)

    with_run(body, run_limits=only(calls=1), tenant_limits=only(calls=1))


@on_each_store
def test_tenant_limits_stand_where_nothing_was_set() -> None:
    async def body(ledger: OwnLedger) -> None:
        await set_limits(ledger, ACME, only(calls=100))
        with pytest.raises(QuotaExceeded, match=r"^tenant acme/research has 2 calls of 2 calls left"):
            await ledger.reserve(R1, Amounts(calls=3), now=NOON)
        await set_limits(ledger, RESEARCH, FREE)
        await ledger.reserve(R1, Amounts(calls=3), now=NOON)
        await ledger.clear_limits(RESEARCH)
        with pytest.raises(QuotaExceeded, match=r"^tenant acme/research has 0 calls of 2 calls left"):
            await ledger.reserve(R1, Amounts(calls=1), now=NOON)

    with_run(body, tenant_limits=only(calls=2))


@on_each_store
def test_where_no_wait_would_help_none_is_advised() -> None:
    async def body(ledger: OwnLedger) -> None:
        for limits, asked in (
            (only("day", calls=1), Amounts(calls=2)),
            (only("day", calls=0), Amounts(calls=1)),
            (only("total", calls_in_flight=0), Amounts(calls_in_flight=1)),
        ):
            await set_limits(ledger, ACME, limits)
            with pytest.raises(QuotaExceeded, match=r"; ask for less or raise the limit$"):
                await ledger.reserve(R1, asked, now=NOON)

    with_run(body)


@on_each_store
def test_two_periods_of_one_level_hold_together() -> None:
    async def body(ledger: OwnLedger) -> None:
        day, month = only("day", calls=2), only("month", calls=3)
        await set_limits(ledger, ACME, only("day", calls=9))
        await set_limits(ledger, ACME, month)
        await set_limits(ledger, ACME, day)
        assert await ledger.limits(ACME) == [day, month]
        await ledger.reserve(R1, Amounts(calls=2), now=NOON)
        with pytest.raises(QuotaExceeded, match=r"for the day 2026-11-23 \(UTC\).*wait for the next day"):
            await ledger.reserve(R1, Amounts(calls=1), now=NOON)
        await ledger.reserve(R1, Amounts(calls=1), now=NOON + DAY)
        with pytest.raises(QuotaExceeded, match=r"for the month 2026-11 \(UTC\)"):
            await ledger.reserve(R1, Amounts(calls=1), now=NOON + 2 * DAY)
        await ledger.reserve(R1, Amounts(calls=1), now=NOON + 10 * DAY)

    with_run(body)


@on_each_store
def test_a_limit_set_late_knows_what_was_spent_before() -> None:
    async def body(ledger: OwnLedger) -> None:
        await ledger.settle(await ledger.reserve(R1, Amounts(calls=5), now=NOON), Amounts(calls=5))
        await set_limits(ledger, ACME, only("month", calls=5))
        with pytest.raises(QuotaExceeded):
            await ledger.reserve(R1, Amounts(calls=1), now=NOON)

    with_run(body)


@on_each_store
def test_a_reservation_is_settled_on_the_day_it_was_made() -> None:
    async def body(ledger: OwnLedger) -> None:
        reservation = await ledger.reserve(R1, Amounts(calls=2), now=NOON)
        await ledger.reserve(R1, Amounts(calls=2), now=NOON + DAY)
        await ledger.settle(reservation, Amounts(calls=1))
        assert await ledger.spent("acme", "2026-11-23") == Amounts(calls=1)
        assert await ledger.spent("acme", "2026-11-24") == Amounts()
        assert await ledger.spent(run_account(R1), "2026-11-23") == Amounts(calls=1)

    with_run(body, run_limits=only("day", calls=2), tenant_limits=only("day", calls=2))


@on_each_store
def test_an_overrun_is_charged_in_truth_and_then_nothing_more_is_admitted() -> None:
    async def body(ledger: OwnLedger) -> None:
        reservation = await ledger.reserve(R1, Amounts(output_tokens=10), now=NOON)
        await ledger.settle(reservation, Amounts(output_tokens=13))
        assert await ledger.spent("acme", "total") == Amounts(output_tokens=13)
        with pytest.raises(QuotaExceeded, match="has 0 output tokens of 10") as caught:
            await ledger.reserve(R1, Amounts(output_tokens=1), now=NOON)
        assert caught.value.observed == 14
        assert (await ledger.remaining(R1, now=NOON)).output_tokens == 0

    with_run(body, tenant_limits=only(output_tokens=10))


@on_each_store
def test_remaining_is_the_least_of_all_levels_and_periods() -> None:
    async def body(ledger: OwnLedger) -> None:
        await set_limits(ledger, ACME, only("day", calls=10, input_tokens=50))
        await set_limits(ledger, ACME, only("month", calls=7))
        await ledger.reserve(R1, Amounts(calls=1, input_tokens=20), now=NOON)
        assert await ledger.remaining(R1, now=NOON) == Remaining(6, 30, None, 1000, None)
        assert await ledger.remaining(R1, now=NOON + DAY) == Remaining(6, 50, None, 1000, None)

    with_run(body, run_limits=only(calls=100, cost_nanousd=1000))


@on_each_store
def test_many_at_once_get_exactly_what_is_there() -> None:
    async def body(ledger: OwnLedger) -> None:
        results = await asyncio.gather(
            *(ledger.reserve(R1, Amounts(calls=1), now=NOON) for _ in range(300)), return_exceptions=True
        )
        assert sum(isinstance(result, str) for result in results) == 50
        assert sum(isinstance(result, QuotaExceeded) for result in results) == 250

    with_run(body, tenant_limits=only(calls=50))


@on_each_store
def test_random_interleavings_never_pass_the_limit() -> None:
    chance = random.Random(7)

    async def worker(ledger: OwnLedger) -> None:
        for _ in range(20):
            asked = chance.randint(1, 9)
            try:
                reservation = await ledger.reserve(R1, Amounts(output_tokens=asked), now=NOON)
            except QuotaExceeded:
                continue
            await asyncio.sleep(0)
            if chance.random() < 0.5:
                await ledger.dispatch(reservation)
            if chance.random() < 0.4:
                await ledger.release(reservation)
            else:
                await ledger.settle(reservation, Amounts(output_tokens=chance.randint(0, asked)))
            balance = await ledger.balance("acme", "total")
            assert balance.used.output_tokens + balance.held.output_tokens <= 400

    async def body(ledger: OwnLedger) -> None:
        await asyncio.gather(*(worker(ledger) for _ in range(40)))
        assert (await ledger.balance("acme", "total")).held == Amounts()
        assert (await ledger.spent("acme", "total")).output_tokens > 350

    with_run(body, tenant_limits=only(output_tokens=400))


# -- what cannot be written ----------------------------------------------------------------------------------------


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process's transaction, as far as SQLite can tell."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


async def impatient(path: Path, *runs: RunId) -> OwnLedger:
    ledger = open_ledger(path)
    await meddle(ledger.journal, "PRAGMA busy_timeout=20")
    for run in runs:
        await ledger.open_run(run, Tenant(f"tenant-{run}"), run_limits=FREE, tenant_limits=FREE)
    return ledger


def test_what_ends_while_the_books_are_out_of_reach_is_settled_later(tmp_path: Path) -> None:
    async def main() -> None:
        ledger = await impatient(tmp_path / "ledger.db", R1)
        paid, given, lost = [
            await ledger.reserve(R1, Amounts(calls=1, cost_nanousd=100), now=NOON, dispatched=True) for _ in range(3)
        ]
        with locked(tmp_path / "ledger.db"):
            for end in (ledger.settle(paid, Amounts(calls=1, cost_nanousd=7)), ledger.release(given)):
                with pytest.raises(LedgerUnavailable):
                    await end
            with pytest.raises(LedgerUnavailable):
                await ledger.reserve(R1, Amounts(calls=50), now=NOON, dispatched=True)
            with pytest.raises(LedgerUnavailable):
                await ledger.close_run(R1)
        # Whatever comes next settles it: the truth of what was settled, nothing of what never left, the rest in full.
        balance = await ledger.balance("tenant-r1", "total")
        assert (balance.used, balance.held) == (Amounts(calls=2, cost_nanousd=107), Amounts())
        assert await ledger.check_books() == []
        with pytest.raises(LedgerUnavailable, match="already settled"):
            await ledger.release(lost)
        await ledger.aclose()

    asyncio.run(main())


def test_what_is_owed_is_paid_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("belljar.ledger.ledger._AGAIN_S", 0.02)

    async def main() -> None:
        ledger, other = await impatient(tmp_path / "ledger.db", R1), open_ledger(tmp_path / "ledger.db", "2:2")
        await ledger.reserve(R1, Amounts(calls=1), now=NOON)
        with locked(tmp_path / "ledger.db"), pytest.raises(LedgerUnavailable):
            await ledger.close_run(R1)
        for _ in range(3000):
            if not (await other.balance("tenant-r1", "total")).held.calls:
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail("nothing was paid")
        for one in (ledger, other):
            await one.aclose()

    asyncio.run(main())


def test_what_one_run_lost_is_not_told_to_another(tmp_path: Path) -> None:
    async def main() -> None:
        ledger = await impatient(tmp_path / "ledger.db", R1, RunId("r2"))
        kept = await ledger.reserve(RunId("r2"), Amounts(calls=1), now=NOON, dispatched=True)
        with locked(tmp_path / "ledger.db"):
            asking = asyncio.create_task(ledger.reserve(R1, Amounts(calls=1), now=NOON))
            await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await asyncio.sleep(0.2)
        await ledger.settle(kept, Amounts(calls=1))
        assert (await ledger.balance("tenant-r1", "total")).held == Amounts()
        await ledger.aclose()

    asyncio.run(main())


def test_books_that_moved_away_admit_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        ledger = await impatient(tmp_path / "ledger.db", R1)
        (tmp_path / "ledger.db").rename(tmp_path / "backup.db")
        with pytest.raises(LedgerUnavailable, match="put it back, or restart"):
            await ledger.reserve(R1, Amounts(calls=1), now=NOON)
        (tmp_path / "backup.db").rename(tmp_path / "ledger.db")
        assert (await ledger.balance("tenant-r1", "total")).held == Amounts()
        await ledger.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("table", ["reservations", "balances", "runs"])
@pytest.mark.parametrize("act", ["INSERT", "UPDATE"])
def test_books_that_take_nothing_admit_nothing(table: str, act: str) -> None:
    async def main() -> None:
        ledger = open_ledger()  # nothing else is looked at in memory
        trigger = f"CREATE TRIGGER quiet BEFORE {act} ON {table} BEGIN SELECT RAISE(IGNORE); END"
        await meddle(ledger.journal, trigger)

        async def whole_run() -> None:
            await ledger.open_run(R1, ACME, run_limits=FREE, tenant_limits=FREE)
            reservation = await ledger.reserve(R1, Amounts(calls=1), now=NOON)
            await ledger.dispatch(reservation)
            await ledger.settle(reservation, Amounts(calls=1))
            await ledger.close_run(R1)

        with pytest.raises(LedgerUnavailable):
            await whole_run()
        await ledger.journal.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("now", [math.nan, math.inf, -math.inf, 1e18, -1e18])
def test_a_clock_that_is_none_is_the_ledgers_fault(now: float) -> None:
    async def body(ledger: OwnLedger) -> None:
        for ask in (ledger.reserve(R1, Amounts(calls=1), now=now), ledger.remaining(R1, now=now)):
            with pytest.raises(LedgerUnavailable, match="set the clock"):
                await ask

    with_run(body)


def test_a_dimension_over_its_limit_refuses_only_what_asks_for_it() -> None:
    async def body(ledger: OwnLedger) -> None:
        await ledger.settle(await ledger.reserve(R1, Amounts(), now=NOON), Amounts(cost_nanousd=200))
        await ledger.release(await ledger.reserve(R1, Amounts(read_bytes=10), now=NOON))
        with pytest.raises(QuotaExceeded):
            await ledger.reserve(R1, Amounts(cost_nanousd=1), now=NOON)

    with_run(body, run_limits=only(cost_nanousd=100))


@on_each_store
def test_a_program_hears_no_number_of_the_levels_above_its_tenant() -> None:
    async def body(ledger: OwnLedger) -> None:
        await set_limits(ledger, ACME, only(calls=10))
        await set_limits(ledger, RESEARCH, only(calls=12))
        assert (await ledger.remaining(R1, now=NOON)).calls == 10
        assert (await ledger.remaining(R1, now=NOON, for_program=True)).calls == 12
        with pytest.raises(QuotaExceeded, match="tenant acme has") as parents:
            await ledger.reserve(R1, Amounts(calls=11), now=NOON)
        assert parents.value.told is not None
        assert not any(letter.isdigit() for letter in parents.value.told)
        await ledger.reserve(R1, Amounts(calls=10), now=NOON)
        assert (await ledger.remaining(R1, now=NOON, for_program=True)).calls == 0
        await ledger.clear_limits(ACME)
        with pytest.raises(QuotaExceeded, match="tenant acme/research has") as own:
            await ledger.reserve(R1, Amounts(calls=3), now=NOON)
        assert own.value.told is None

    with_run(body)


@on_each_store
def test_recovery_writes_what_belongs_to_a_run_with_its_end(tmp_path: Path) -> None:
    async def main() -> None:
        dead = open_ledger(tmp_path / "ledger.db", "1:1")
        await dead.open_run(R1, ACME, run_limits=only("day"), tenant_limits=FREE)
        await dead.settle(await dead.reserve(R1, Amounts(calls=1), now=NOON), Amounts(calls=1, cost_nanousd=5))
        await dead.reserve(R1, Amounts(calls=1, cost_nanousd=50), now=NOON)
        await dead.reserve(R1, Amounts(calls=1, cost_nanousd=70), now=NOON, dispatched=True)
        await dead.aclose()
        own = open_ledger(tmp_path / "ledger.db", "2:2")
        told: list[Abandoned] = []

        def tell(run: Abandoned) -> Job[object]:
            told.append(run)
            return Job(lambda draft: draft.put(LIMITS, LimitsRow("beside", "day", (None,) * len(LIMITED))))

        assert await own.recover(lambda _: False, tell) == 1
        assert len(await own.limits(Tenant("beside"))) == 1
        assert told == [Abandoned(R1, Amounts(calls=1, cost_nanousd=70), Amounts(calls=2, cost_nanousd=75))]
        assert await own.spent("acme", "total") == told[0].used
        await own.aclose()

    asyncio.run(main())


# -- ends of runs ----------------------------------------------------------------------------------------------------


@on_each_store
def test_closing_a_run_refunds_what_is_held_and_charges_what_left() -> None:
    async def body(ledger: OwnLedger) -> None:
        held = await ledger.reserve(R1, Amounts(1, 10, 10, 10), now=NOON)
        gone = await ledger.reserve(R1, Amounts(1, 20, 20, 20), now=NOON)
        await ledger.dispatch(gone)
        await ledger.close_run(R1)
        balance = await ledger.balance("acme", "total")
        assert (balance.used, balance.held) == (Amounts(1, 20, 20, 20), Amounts())
        for reservation in (held, gone):
            with pytest.raises(LedgerUnavailable, match="double end"):
                await ledger.settle(reservation, Amounts())
        await ledger.close_run(R1)
        with pytest.raises(LedgerUnavailable, match="run r1 is closed"):
            await ledger.reserve(R1, Amounts(), now=NOON)
        with pytest.raises(LedgerUnavailable, match="has no run"):
            await ledger.close_run(RunId("r9"))

    with_run(body)


@on_each_store
def test_recovery_closes_the_runs_of_the_dead_only(tmp_path: Path) -> None:
    async def start(owner: str) -> OwnLedger:
        ledger = open_ledger(tmp_path / "ledger.db", owner)
        run = RunId(f"run-{owner[0]}")
        await ledger.open_run(run, ACME, run_limits=FREE, tenant_limits=FREE)
        await ledger.reserve(run, Amounts(calls=1), now=NOON)
        await ledger.dispatch(await ledger.reserve(run, Amounts(calls=10), now=NOON))
        return ledger

    async def main() -> None:
        dead, alive, own = await start("1:1"), await start("2:2"), await start("3:3")
        asked: list[str] = []

        def is_alive(owner: str) -> bool:
            asked.append(owner)
            return owner == "2:2"

        assert await own.recover(is_alive) == 1
        assert sorted(asked) == ["1:1", "2:2"]
        balance = await own.balance("acme", "total")
        assert (balance.used, balance.held) == (Amounts(calls=10), Amounts(calls=22))
        assert await own.recover(is_alive) == 0
        assert await own.check_books() == []
        for ledger in (dead, alive, own):
            await ledger.aclose()

    asyncio.run(main())


@on_each_store
def test_the_books_survive_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        first = open_ledger(tmp_path / "ledger.db")
        await first.open_run(R1, ACME, run_limits=FREE, tenant_limits=FREE)
        await first.settle(await first.reserve(R1, Amounts(calls=1), now=NOON), Amounts(calls=1))
        await first.aclose()
        second = open_ledger(tmp_path / "ledger.db")
        assert await second.spent("acme", "2026-11") == Amounts(calls=1)
        await second.aclose()
        with pytest.raises(LedgerUnavailable, match="is closed"):
            await second.spent("acme", "2026-11")

    asyncio.run(main())


@on_each_store
def test_wrong_books_are_noticed() -> None:
    async def main() -> None:
        ledger = open_ledger()
        await ledger.open_run(R1, ACME, run_limits=FREE, tenant_limits=FREE)
        await ledger.reserve(R1, Amounts(calls=3), now=NOON)
        await meddle(ledger.journal, "UPDATE balances SET held_calls = 2 WHERE key = '2026-11'")
        await meddle(ledger.journal, "DELETE FROM balances WHERE account = 'run:r1'")
        assert await ledger.check_books() == [
            "acme 2026-11: held calls is 2, its reservations say 3",
            "run:r1 total: held calls is 0, its reservations say 3",
        ]
        with pytest.raises(LedgerUnavailable, match="the page 2026-11 of acme cannot be right"):
            await ledger.close_run(R1)
        await ledger.aclose()

    asyncio.run(main())


def test_no_ledger_no_answer(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable, match="cannot open the journal"):
        OwnLedger(tmp_path / "no" / "ledger.db", owner="1:1")


# -- any order of calls ----------------------------------------------------------------------------------------------

small = st.integers(0, 6)
amounts = st.builds(Amounts, calls=small, output_tokens=small, read_bytes=small, calls_in_flight=small)
bounds = st.none() | st.integers(0, 15)


def limits_of(period: Period, calls_in_flight: int | None, **others: int | None) -> Limits:
    return Limits(period, **others, calls_in_flight=calls_in_flight if period == "total" else None)


all_limits = st.builds(
    limits_of,
    period=st.sampled_from(PERIODS),
    calls=bounds,
    input_tokens=st.none(),
    output_tokens=bounds,
    cost_nanousd=st.none(),
    read_bytes=bounds,
    calls_in_flight=bounds,
)
total_limits = all_limits.map(lambda limits: msgspec.structs.replace(limits, period="total"))
slices = st.builds(
    Limits,
    period=st.just("total"),
    calls=st.none() | small,
    input_tokens=st.none(),
    output_tokens=st.none() | small,
    cost_nanousd=st.none(),
    read_bytes=st.none() | small,
    calls_in_flight=st.none() | small,
)
TENANTS = tuple(map(Tenant, ("acme", "acme/research", "acme/research/alice", "other")))
SHORT = ("minute", "hour")
OPEN = ("held", "dispatched")


class Entry(NamedTuple):
    """A reservation as the model has it: what it stands for, and the pages (account, period's key) it counts on."""

    run: RunId
    state: str
    amount: Amounts
    pages: frozenset[tuple[str, str]]


class Books(RuleBasedStateMachine):
    """Compares the ledger with a list of what happened."""

    runs = Bundle("runs")
    reservations = Bundle("reservations")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.now = NOON
        self.lives = 0
        self.tenants: dict[RunId, Tenant] = {}
        self.limits: dict[RunId, tuple[Limits, Limits]] = {}
        self.set: dict[str, dict[str, Limits]] = {}
        self.entries: dict[str, Entry] = {}
        self.closed: set[str] = set()
        self.abroad: set[str] = set()  # runs that another host owns
        self.overspent: set[str] = set()  # roots below which something cost more than was held for it

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize()
    def start(self) -> None:
        self.ledger = open_ledger(Path(self.folder.name) / "a.db", f"1:{self.lives}")

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.do(self.ledger.aclose())
        self.runner.close()
        self.folder.cleanup()

    @rule(target=runs, tenant=st.sampled_from(TENANTS), run_limits=all_limits | total_limits, tenant_limits=all_limits)
    def open_run(self, tenant: Tenant, run_limits: Limits, tenant_limits: Limits) -> RunId:
        run = RunId(f"r{len(self.tenants)}")
        self.do(self.ledger.open_run(run, tenant, run_limits=run_limits, tenant_limits=tenant_limits))
        self.tenants[run], self.limits[run] = tenant, (run_limits, tenant_limits)
        return run

    @rule(target=runs, parent=runs, limits=slices, tenant_limits=all_limits, is_abroad=st.booleans())
    def open_child(self, parent: RunId, limits: Limits, tenant_limits: Limits, is_abroad: bool) -> Any:
        """At any depth; the process that opens it may be another host's."""
        ledger = open_ledger(Path(self.folder.name) / "a.db", f"abroad:{self.lives}") if is_abroad else self.ledger
        run, tenant = parent.child(1 + len(self.children(parent))), self.tenants[parent]
        opening = ledger.open_run(run, tenant, run_limits=limits, tenant_limits=tenant_limits, parent=parent)
        refusal, limits = self.slice(parent, limits)
        if refusal is not None:
            with pytest.raises(refusal):
                self.do(opening)
        else:
            self.do(opening)
            self.tenants[run], self.limits[run] = tenant, (limits, tenant_limits)
            self.abroad |= {run} if is_abroad else set()
            self.see_that_nothing_is_overspent(parent, Amounts(*self.held_for(run)))
        if is_abroad:
            self.do(ledger.aclose())
        return run if refusal is None else multiple()

    def slice(self, parent: RunId, limits: Limits) -> tuple[type[Exception] | None, Limits]:
        """Why it is refused, or the limits that the child then has."""
        above = self.limits[parent][0]
        if parent in self.closed:
            return LedgerUnavailable, limits
        if above.period != "total":
            return InvalidInput, limits
        taken = self.sums((run_account(parent), "total"), ("used", *OPEN))
        sides = list(zip(values(limits), values(above), taken, strict=True))
        wanted = [max(0, most - gone) if bound is None and most is not None else bound for bound, most, gone in sides]
        fits = all(
            not want or most is None or gone + want <= most for want, (_, most, gone) in zip(wanted, sides, strict=True)
        )
        return None if fits else QuotaExceeded, Limits("total", *wanted)

    def children(self, run: RunId) -> list[RunId]:
        return [child for child in self.tenants if child.parent == run]

    def held_for(self, child: RunId) -> tuple[int, ...]:
        """What it holds of its parent while it is open."""
        assert child.parent is not None
        sides = zip(values(self.limits[child][0]), values(self.limits[child.parent][0]), strict=True)
        return tuple(0 if bound is None or most is None else bound for bound, most in sides)

    @rule(tenant=st.sampled_from(TENANTS), limits=all_limits)
    def set_limits(self, tenant: Tenant, limits: Limits) -> None:
        self.do(set_limits(self.ledger, tenant, limits))
        self.set.setdefault(tenant, {})[limits.period] = limits

    @rule(tenant=st.sampled_from(TENANTS))
    def clear_limits(self, tenant: Tenant) -> None:
        self.do(self.ledger.clear_limits(tenant))
        self.set.pop(tenant, None)

    @rule(seconds=st.sampled_from([1, 61, 3601, DAY, 40 * DAY]), back=st.booleans())
    def the_clock_goes(self, seconds: float, back: bool) -> None:
        """Also back: a clock that is set."""
        self.now += -seconds if back else seconds

    @rule()
    def connect_again(self) -> None:
        self.do(self.ledger.aclose())
        self.start()

    @rule()
    def die(self) -> None:
        """The next life closes the runs of the last one."""
        self.do(self.ledger.aclose())
        self.lives += 1
        self.start()
        left = self.tenants.keys() - self.closed
        assert self.do(self.ledger.recover(lambda _: False)) == len(left)
        for run in left:
            self.note_closed(run)

    @rule()
    def those_abroad_die(self) -> None:
        """What runs below theirs ends with them, whoever owns it."""
        dead = [run for run in self.abroad - self.closed if run not in self.closed]
        left = {
            run for run in self.tenants.keys() - self.closed if any(f"{run}.".startswith(f"{top}.") for top in dead)
        }
        assert self.do(self.ledger.recover(lambda owner: not owner.startswith("abroad"))) == len(left)
        for run in left:
            self.note_closed(run)

    @rule(target=reservations, run=runs, asked=amounts)
    def reserve(self, run: RunId, asked: Amounts) -> str:
        if run in self.closed:
            with pytest.raises(LedgerUnavailable):
                self.do(self.ledger.reserve(run, asked, now=self.now))
            return "none"
        left = self.do(self.ledger.remaining(run, now=self.now))
        fits = self.fits(run, asked)
        if not fits:
            with pytest.raises(QuotaExceeded):
                self.do(self.ledger.reserve(run, asked, now=self.now))
            return "none"
        assert all(bound is None or want <= bound for want, bound in zip(values(asked), values(left), strict=True))
        reservation = self.do(self.ledger.reserve(run, asked, now=self.now))
        self.entries[reservation] = Entry(run, "held", asked, self.pages(run))
        self.see_that_nothing_is_overspent(run, asked)
        return reservation

    @rule(target=reservations, run=runs, asked=amounts, turns=st.integers(0, 3))
    def change_ones_mind(self, run: RunId, asked: Amounts, turns: int) -> str:
        """A reservation that is cancelled, unless that comes too late, leaves nothing held."""

        async def cancelled() -> str:
            task = asyncio.create_task(self.ledger.reserve(run, asked, now=self.now))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            try:
                return await task
            except (asyncio.CancelledError, QuotaExceeded, LedgerUnavailable):
                return "none"

        reservation = self.do(cancelled())
        if reservation != "none":
            self.entries[reservation] = Entry(run, "held", asked, self.pages(run))
        return reservation

    @rule(reservation=reservations)
    def dispatch(self, reservation: str) -> None:
        entry = self.entry(reservation)
        if entry.state != "held":
            with pytest.raises(LedgerUnavailable):
                self.do(self.ledger.dispatch(reservation))
            return
        self.do(self.ledger.dispatch(reservation))
        self.entries[reservation] = entry._replace(state="dispatched")

    @rule(reservation=reservations, actual=amounts, again=st.booleans(), is_bounded=st.booleans())
    def settle(self, reservation: str, actual: Amounts, again: bool, is_bounded: bool) -> None:
        """Also once more, with something else: an answer that comes twice."""
        entry = self.entry(reservation)
        if entry.state in OPEN:
            if is_bounded:
                actual = Amounts(*map(min, values(actual), values(entry.amount)))
            elif any(cost > asked for cost, asked in zip(values(actual), values(entry.amount), strict=True)):
                self.overspent.add(entry.run.partition(".")[0])
            self.do(self.ledger.settle(reservation, actual))
            self.entries[reservation] = entry._replace(state="used", amount=actual)
        if again or entry.state not in OPEN:
            with pytest.raises(LedgerUnavailable):
                self.do(self.ledger.settle(reservation, Amounts(calls=1)))

    @rule(reservation=reservations)
    def release(self, reservation: str) -> None:
        entry = self.entry(reservation)
        if entry.state not in OPEN:
            with pytest.raises(LedgerUnavailable):
                self.do(self.ledger.release(reservation))
            return
        self.do(self.ledger.release(reservation))
        self.entries[reservation] = entry._replace(state="released")

    @rule(run=consumes(runs))
    def close_run(self, run: RunId) -> None:
        self.do(self.ledger.close_run(run))
        for below in self.tenants:
            if below == run or below.startswith(f"{run}."):
                self.note_closed(below)

    def note_closed(self, run: RunId) -> None:
        self.closed.add(run)
        for reservation, entry in self.entries.items():
            if entry.run == run and entry.state in OPEN:
                end = "used" if entry.state == "dispatched" else "released"
                self.entries[reservation] = entry._replace(state=end)

    @invariant()
    def books_balance(self) -> None:
        if hasattr(self, "ledger"):
            assert self.do(self.ledger.check_books()) == []

    @invariant()
    def balances_are_what_happened(self) -> None:
        if not hasattr(self, "ledger"):
            return
        pages = {page for entry in self.entries.values() for page in entry.pages}
        pages |= {(run_account(run.parent), "total") for run in self.tenants if run.parent is not None}
        places = CALLS.places
        expected = {page: self.sums(page, ("used",))[places] + self.sums(page, OPEN)[places] for page in pages}
        found = {row[:2]: row[2:] for row in self.do(self.balances())}
        # What was reserved and given back in the same moment leaves empty pages.
        assert {page: sums for page, sums in found.items() if any(sums)} == {
            page: sums for page, sums in expected.items() if any(sums)
        }

    @invariant()
    def what_is_told_is_what_is_there(self) -> None:
        for account in TENANTS if hasattr(self, "ledger") else ():
            balance = self.do(self.ledger.balance(account, "total"))
            assert values(balance.used) == self.sums((account, "total"), ("used",))
            assert values(balance.held) == self.sums((account, "total"), OPEN)

    @invariant()
    def no_tree_uses_more_than_its_root_may(self) -> None:
        """Nor any run with all below it: from what the calls cost alone, whatever slices are."""
        for run, (limits, _) in self.limits.items():
            if limits.period == "total" and run.partition(".")[0] not in self.overspent:
                entries = [Entry(run, "released", Amounts(), frozenset())]
                entries += [entry for entry in self.entries.values() if f"{entry.run}.".startswith(f"{run}.")]
                sums = [sum(side) for side in zip(*(self.counted(entry) for entry in entries), strict=True)]
                assert all(most is None or cost <= most for cost, most in zip(sums, values(limits), strict=True))

    def see_that_nothing_is_overspent(self, run: RunId, asked: Amounts) -> None:
        """Wherever something was asked for, `used + held <= limit`, as the ledger has them."""
        for account, limits in self.bounds(run):
            balance = self.do(self.ledger.balance(account, period_key(limits.period, self.now)))
            sides = zip(values(asked), values(balance.used), values(balance.held), values(limits), strict=True)
            assert all(bound is None or not want or used + held <= bound for want, used, held, bound in sides)

    async def balances(self) -> list[tuple[Any, ...]]:
        asking = Job(lambda draft: draft.query("SELECT * FROM balances"))
        return [tuple(row) for row in await self.ledger.journal.submit(asking)]

    def entry(self, reservation: str) -> Entry:
        return self.entries.get(reservation, Entry(RunId("none"), "unknown", Amounts(), frozenset()))

    def sums(self, page: tuple[str, str], states: tuple[str, ...]) -> tuple[int, ...]:
        total = [0] * len(DIMENSIONS)
        for entry in self.entries.values():
            if page in entry.pages and entry.state in states:
                total = [a + b for a, b in zip(total, self.counted(entry), strict=True)]
        for run in self.tenants:
            if run.parent is not None and page == (run_account(run.parent), "total"):
                total = [a + b for a, b in zip(total, self.of_child(run, states), strict=True)]
        return tuple(total)

    def counted(self, entry: Entry) -> tuple[int, ...]:
        if entry.state == "released":
            return values(Amounts())
        return values(
            msgspec.structs.replace(entry.amount, calls_in_flight=0) if entry.state == "used" else entry.amount
        )

    def of_child(self, run: RunId, states: tuple[str, ...]) -> tuple[int, ...]:
        """What a child's slice has on its parent's page: all of it, or once it is closed what was used."""
        if run not in self.closed:
            return self.held_for(run) if "held" in states else values(Amounts())
        return self.sums((run_account(run), "total"), ("used",)) if "used" in states else values(Amounts())

    def bounds(self, run: RunId) -> list[tuple[str, Limits]]:
        """Every account of a run with every limit that holds for it now."""
        run_limits, tenant_limits = self.limits[run]
        found = [(run_account(run), run_limits)]
        for level in self.tenants[run].levels:
            found += [(str(level), limits) for limits in self.set.get(level, {"": tenant_limits}).values()]
        return found

    def pages(self, run: RunId) -> frozenset[tuple[str, str]]:
        """Where a reservation of now counts: always for a day, a month and in total; else where there is a limit."""
        always = {(level, period) for level in self.tenants[run].levels for period in PERIODS if period not in SHORT}
        asked = {(name, limits.period) for name, limits in self.bounds(run) if limits.period in SHORT}
        own = (run_account(run), self.limits[run][0].period)
        return frozenset((str(name), period_key(period, self.now)) for name, period in {*always, *asked, own})

    def fits(self, run: RunId, asked: Amounts) -> bool:
        for account, limits in self.bounds(run):
            taken = self.sums((account, period_key(limits.period, self.now)), ("used", *OPEN))
            for have, want, bound in zip(taken, values(asked), values(limits), strict=True):
                if bound is not None and want and have + want > bound:
                    return False
        return True


def values(amount: Amounts | Limits | Remaining) -> tuple[Any, ...]:
    return tuple(getattr(amount, dimension) for dimension in DIMENSIONS)


Books.TestCase.settings = settings(
    max_examples=examples(40), stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestBooks = pytest.mark.slow(Books.TestCase)


@pytest.mark.slow
@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
@on_each_store
def test_the_books_on_a_server() -> None:
    run_state_machine_as_test(
        Books, settings=settings(Books.TestCase.settings, max_examples=examples(12), stateful_step_count=25)
    )


def test_a_forked_child_names_its_reservations_otherwise() -> None:
    """It may open the ledger anew, and both count on from where they were."""
    new_id(Amounts(calls=1))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, new_id(Amounts(calls=1)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with open(reading) as said:
        of_child = said.read()
    assert len(of_child) == len(of_us := new_id(Amounts(calls=1)))
    assert of_child != of_us
