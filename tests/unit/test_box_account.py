"""What a box uses is charged in portions while it lives, and how many there are at once is bounded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest

from belljar.broker import Meter, RunScope
from belljar.errors import InvalidInput, QuotaExceeded
from belljar.identity import RunId
from belljar.journal import Job
from belljar.ledger import Amounts, Balance, Ledger, Limits, Period, overage
from belljar.testing import FakeClock
from tests.journals import OwnLedger, set_limits
from tests.unit.broker_fakes import NOON, TENANT, Loose, drive, policy_with

pytestmark = pytest.mark.usefixtures("store")

R1, R2 = RunId("r1"), RunId("r2")
FREE = Limits("total", None, None, None, None, None)
MIB = 1 << 20


class Boxed:
    """A run with a box of 100 MiB, and the clock that it is measured with."""

    def __init__(self, ledger: OwnLedger, run: RunId = R1) -> None:
        self.run, self.ledger, self.clock = run, ledger, FakeClock()
        policy = policy_with(limits={"memory_bytes": 100 * MIB})
        self.scope = RunScope(
            run=run,
            tenant=TENANT,
            policy=policy,
            deadline=1e9,
            tasks=Loose(),
            now=lambda: NOON,
            monotonic=self.clock,
        )
        self.meter = Meter(self.scope, ledger)

    async def begin(self, *, tenant: Limits = FREE, own: Limits = FREE) -> Boxed:
        held = await self.ledger.open_run(
            self.run, TENANT, run_limits=own, tenant_limits=tenant, beside=self.meter.begin(own)
        )
        assert held is not None
        self.meter.begun(held)
        return self

    async def after(self, seconds: float, cpu_s: float, peak_bytes: int | None = None) -> None:
        self.clock.now += seconds
        await self.meter.look(cpu_s, peak_bytes)

    async def close(self, cpu_s: float) -> None:
        self.meter.gone(cpu_s, None)
        await self.ledger.close_run(self.run, charged=self.meter.ends())


def with_ledger(body: Callable[[OwnLedger], Awaitable[None]]) -> None:
    async def main() -> None:
        ledger = OwnLedger(None, owner="1:1")
        await body(ledger)
        assert await ledger.check_books() == []
        await ledger.aclose()

    drive(main())


async def books(ledger: OwnLedger) -> Balance:
    assert await ledger.check_books() == []
    return await ledger.balance(TENANT, "total")


async def limit(ledger: OwnLedger, **bounds: int) -> None:
    await set_limits(ledger, TENANT, Limits("total", None, None, None, None, None, **bounds))


def test_a_box_and_its_first_portion_are_held_and_the_truth_is_charged() -> None:
    async def body(ledger: OwnLedger) -> None:
        boxed = await Boxed(ledger).begin()
        first = Amounts(cpu_ms=10_000, wall_ms=10_000, memory_mib_s=1000, boxes=1)
        assert await books(ledger) == Balance(Amounts(), first)
        await boxed.after(1.5, 0.25)
        await boxed.close(0.3001)
        used = Amounts(cpu_ms=301, wall_ms=1500, memory_mib_s=150)
        assert await books(ledger) == Balance(used, Amounts())

    with_ledger(body)


def test_portions_grow_while_it_runs_and_cpu_time_follows_what_was_used() -> None:
    async def body(ledger: OwnLedger) -> None:
        boxed = await Boxed(ledger).begin()
        await boxed.after(9.5, 1.5)
        balance = await books(ledger)
        assert balance.used == Amounts(cpu_ms=1500, wall_ms=9500, memory_mib_s=950)
        assert balance.held == Amounts(cpu_ms=3000, wall_ms=20_000, memory_mib_s=2000, boxes=1)
        await boxed.after(19.5, 1.5)
        assert (await books(ledger)).held == Amounts(cpu_ms=2000, wall_ms=40_000, memory_mib_s=4000, boxes=1)
        await boxed.close(1.5)
        assert (await books(ledger)).used == Amounts(cpu_ms=1500, wall_ms=29_000, memory_mib_s=2900)

    with_ledger(body)


def test_what_an_idle_session_holds_of_cpu_time_another_run_can_use() -> None:
    """It was busy, so it held much; and then it waits for its caller, who may not come for an hour."""

    async def body(ledger: OwnLedger) -> None:
        await limit(ledger, cpu_ms=1_000_000)
        session = await Boxed(ledger).begin()
        for second in range(1, 41):
            await session.after(1, second)
        busy = (await books(ledger)).held.cpu_ms
        assert busy > 30_000
        for _ in range(12):
            await session.after(0.5, 40.005)
        assert (await books(ledger)).held.cpu_ms == 2000
        keys = len(ledger.journal._known)
        for _ in range(20):
            await session.after(0.5, 40.005)
        assert len(ledger.journal._known) == keys, "idle, it writes no more than others"
        # Another run has all that is left, to what the least of a portion is.
        other = await Boxed(ledger, R2).begin()
        await other.close(950.0)
        left = (await ledger.remaining(R1, now=NOON, for_program=False)).cpu_ms
        assert left is not None
        assert left >= 1_000_000 - 40_005 - 950_000 - 2000
        # And when the caller comes, it goes on.
        for step in range(1, 5):
            await session.after(0.5, 40.005 + step / 2)
        await session.close(42.005)
        assert (await books(ledger)).used.cpu_ms == 42_005 + 950_000

    with_ledger(body)


def test_memory_is_charged_by_the_most_that_the_box_has_had_so_far() -> None:
    async def body(ledger: OwnLedger) -> None:
        boxed = await Boxed(ledger).begin()
        await boxed.after(2, 0, 10 * MIB)
        await boxed.after(2, 0, 50 * MIB - 1)
        await boxed.after(2, 0, 50 * MIB - 1)
        await boxed.after(1, 0, 900 * MIB)
        await boxed.close(0)
        assert (await books(ledger)).used.memory_mib_s == 2 * 10 + 4 * 50 + 1 * 100

    with_ledger(body)


def test_a_portion_is_a_share_of_what_is_left_so_that_others_can_begin() -> None:
    async def body(ledger: OwnLedger) -> None:
        await limit(ledger, wall_ms=40_000)
        await Boxed(ledger).begin()
        assert (await books(ledger)).held.wall_ms == 5000
        await Boxed(ledger, R2).begin()
        assert (await books(ledger)).held.wall_ms == 5000 + 35_000 // 8

    with_ledger(body)


@pytest.mark.parametrize("dimension", ["cpu_ms", "wall_ms", "memory_mib_s"])
def test_a_run_begins_with_two_seconds_of_everything_or_not_at_all(dimension: str) -> None:
    least = {"cpu_ms": 2000, "wall_ms": 2000, "memory_mib_s": 200}[dimension]

    async def body(ledger: OwnLedger) -> None:
        await limit(ledger, **{dimension: least - 1})
        with pytest.raises(QuotaExceeded) as caught:
            await Boxed(ledger).begin()
        assert (caught.value.dimension, caught.value.scope, caught.value.limit) == (dimension, TENANT, least - 1)
        assert await books(ledger) == Balance(Amounts(), Amounts())
        await limit(ledger, **{dimension: least})
        await Boxed(ledger).begin()

    with_ledger(body)


def test_a_run_is_told_to_end_before_what_its_tenant_has_is_used_up() -> None:
    async def body(ledger: OwnLedger) -> None:
        await limit(ledger, wall_ms=5000)
        boxed = await Boxed(ledger).begin()
        for _ in range(8):
            await boxed.after(0.5, 0)
        with pytest.raises(QuotaExceeded, match=r"has 0\.5 s of wall time of 5 s of wall time left") as caught:
            await boxed.after(0.5, 0)
        assert caught.value.code == "quota.tenant.wall"
        assert boxed.meter.unused().wall_ms == 500
        await boxed.close(0)
        assert (await books(ledger)).used.wall_ms == 4500

    with_ledger(body)


def test_what_several_cores_used_beyond_what_was_held_is_charged_and_stops_what_follows() -> None:
    async def body(ledger: OwnLedger) -> None:
        await limit(ledger, cpu_ms=4000)
        boxed = await Boxed(ledger).begin()
        await boxed.close(7.0)
        assert (await books(ledger)).used.cpu_ms == 7000
        assert await ledger.journal.submit(Job(lambda draft: overage(draft.query, R1))) == Amounts(cpu_ms=5000)
        with pytest.raises(QuotaExceeded):
            await Boxed(ledger, R2).begin()

    with_ledger(body)


def test_the_overage_of_a_box_is_that_of_all_its_portions() -> None:
    async def body(ledger: OwnLedger) -> None:
        await limit(ledger, cpu_ms=40_000)
        boxed = await Boxed(ledger).begin()
        await boxed.after(1, 3.5)
        assert boxed.meter.overage == Amounts()
        await boxed.after(1, 5.5)  # of five seconds that were held
        assert boxed.meter.overage.cpu_ms == 500
        await boxed.after(1, 5.5)
        assert boxed.meter.overage.cpu_ms == 500
        held = (await books(ledger)).held.cpu_ms
        await boxed.close((5500 + held + 249.5) / 1000)
        assert boxed.meter.overage == Amounts(cpu_ms=750)
        assert await ledger.journal.submit(Job(lambda draft: overage(draft.query, R1))) == Amounts(cpu_ms=750)

    with_ledger(body)


def test_a_box_that_is_gone_before_its_run_is_charged_at_once_and_only_once() -> None:
    async def body(ledger: OwnLedger) -> None:
        boxed = await Boxed(ledger).begin()
        boxed.clock.now += 3
        boxed.meter.gone(0.5, None)
        await boxed.meter.settled()
        used = Amounts(cpu_ms=500, wall_ms=3000, memory_mib_s=300)
        assert await books(ledger) == Balance(used, Amounts())
        boxed.clock.now += 100
        await boxed.close(9)
        assert await books(ledger) == Balance(used, Amounts())

    with_ledger(body)


def test_boxes_at_once_are_bounded_and_come_back() -> None:
    async def body(ledger: OwnLedger) -> None:
        await limit(ledger, boxes=1)
        first = await Boxed(ledger).begin()
        with pytest.raises(QuotaExceeded, match="wait until one ends") as caught:
            await Boxed(ledger, R2).begin()
        assert (caught.value.dimension, caught.value.period, caught.value.resets_at) == ("boxes", "now", None)
        await first.close(0)
        await Boxed(ledger, R2).begin()

    with_ledger(body)


def test_what_no_waiting_helps_is_not_told_to_wait() -> None:
    async def body(ledger: OwnLedger) -> None:
        await limit(ledger, boxes=0)
        with pytest.raises(QuotaExceeded, match=r"has 0 boxes .*; ask for less or raise the limit"):
            await Boxed(ledger).begin()

    with_ledger(body)


def test_a_dead_owners_box_comes_back_and_its_portion_is_charged() -> None:
    async def body(ledger: OwnLedger) -> None:
        await Boxed(ledger).begin()
        other = Ledger(ledger.journal, owner="2:2")  # another process
        assert await other.recover(lambda _: False) == 1
        portion = Amounts(cpu_ms=10_000, wall_ms=10_000, memory_mib_s=1000)
        assert await books(ledger) == Balance(portion, Amounts())

    with_ledger(body)


def test_nothing_is_ever_charged_of_a_gauge() -> None:
    async def body(ledger: OwnLedger) -> None:
        await ledger.open_run(R1, TENANT, run_limits=FREE, tenant_limits=FREE)
        one = Amounts(calls=1, calls_in_flight=1)
        settled = await ledger.reserve(R1, one, now=NOON, dispatched=True)
        await ledger.settle(settled, one)
        await ledger.reserve(R1, one, now=NOON, dispatched=True)
        assert (await books(ledger)).held == one
        await ledger.close_run(R1)
        assert await books(ledger) == Balance(Amounts(calls=2), Amounts())

    with_ledger(body)


@pytest.mark.parametrize("gauge", ["boxes", "calls_in_flight"])
def test_a_gauge_has_no_period(gauge: str) -> None:
    async def body(ledger: OwnLedger) -> None:
        with pytest.raises(InvalidInput, match="counted at each moment"):
            await set_limits(ledger, TENANT, Limits("day", None, None, None, None, None, **{gauge: 1}))

    with_ledger(body)


def test_the_look_that_finds_enough_writes_nothing() -> None:
    async def body(ledger: OwnLedger) -> None:
        boxed = await Boxed(ledger).begin()
        before = ledger.journal._known.copy()
        for _ in range(5):
            await boxed.after(0.5, 0.1)
        assert ledger.journal._known == before

    with_ledger(body)


@pytest.mark.parametrize("period", ["minute", "day", "total"])
def test_a_policy_bounds_boxes_and_calls_at_once_whatever_its_period(period: Period) -> None:
    """Also where the first one began in an earlier period."""

    async def body(ledger: OwnLedger) -> None:
        limits = Limits(period, None, None, None, None, None, calls_in_flight=1, boxes=1)
        earlier = Boxed(ledger)
        msgspec.structs.force_setattr(earlier.scope, "now", lambda: NOON - 86400)
        await earlier.begin(tenant=limits)
        with pytest.raises(QuotaExceeded) as caught:
            await Boxed(ledger, R2).begin(tenant=limits)
        refusal = caught.value
        assert (refusal.code, refusal.period, refusal.limit, refusal.held) == ("quota.tenant.boxes", "now", 1, 1)
        assert (await ledger.remaining(R1, now=NOON)).boxes == 0
        call = await ledger.reserve(R1, Amounts(calls=1, calls_in_flight=1), now=NOON - 86400)
        with pytest.raises(QuotaExceeded) as caught:
            await ledger.reserve(R1, Amounts(calls=1, calls_in_flight=1), now=NOON)
        assert (caught.value.code, caught.value.period) == ("quota.tenant.calls_in_flight", "now")
        await ledger.settle(call, Amounts(calls=1))
        await ledger.release(await ledger.reserve(R1, Amounts(calls=1, calls_in_flight=1), now=NOON))
        await earlier.close(0)
        await Boxed(ledger, R2).begin(tenant=limits)
        await ledger.close_run(R2)

    with_ledger(body)


@pytest.mark.parametrize("whose", ["tenant", "run"])
def test_what_a_policy_says_of_time_and_memory_bounds_a_box(whose: str) -> None:
    async def body(ledger: OwnLedger) -> None:
        limits = Limits("total", None, None, None, None, None, memory_mib_s=500)
        boxed = await Boxed(ledger).begin(
            tenant=limits if whose == "tenant" else FREE, own=limits if whose == "run" else FREE
        )
        await boxed.after(2, 0, 100 * MIB)
        with pytest.raises(QuotaExceeded) as caught:
            await boxed.after(2.5, 0, 100 * MIB)
        assert (caught.value.code, caught.value.limit) == (f"quota.{whose}.memory_time", 500)
        await boxed.close(0)

    with_ledger(body)


def test_gauges_of_a_level_are_set_for_the_total_alone() -> None:
    async def body(ledger: OwnLedger) -> None:
        with pytest.raises(InvalidInput, match="boxes is counted at each moment, not for a day"):
            await set_limits(ledger, TENANT, Limits("day", None, None, None, None, None, boxes=1))

    with_ledger(body)
