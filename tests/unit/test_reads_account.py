"""What is read is charged: in portions while the run goes on, exactly at its end, in full after a crash."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from belljar.broker import RunScope
from belljar.broker.reads import Reads
from belljar.errors import LedgerUnavailable, QuotaExceeded
from belljar.identity import RunId
from belljar.ledger import Amounts, Balance, Limits, run_account
from belljar.policy import load
from tests.examples import examples
from tests.journals import OwnLedger
from tests.unit.broker_fakes import NOON, TENANT, Loose, drive

MIB = 1 << 20
R1 = RunId("r1")
FREE = Limits("total", None, None, None, None, None)


def reads_at_most(size: int | None) -> Limits:
    return Limits("total", None, None, None, None, size)


def scope(run: RunId = R1) -> RunScope:
    policy = load("standard")
    return RunScope(run=run, tenant=TENANT, policy=policy, deadline=1e9, tasks=Loose(), now=lambda: NOON)


async def opened(
    ledger: OwnLedger, run: RunId = R1, *, of_run: int | None = None, of_tenant: int | None = None
) -> Reads:
    await ledger.open_run(run, TENANT, run_limits=reads_at_most(of_run), tenant_limits=reads_at_most(of_tenant))
    return Reads(scope(run), ledger)


async def given_back(reads: Reads) -> None:
    for _ in range(3000):
        if not reads.held:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the portion was not given back")


async def books(ledger: OwnLedger, account: str = TENANT) -> Balance:
    assert await ledger.check_books() == []
    return await ledger.balance(account, "total")


def test_a_portion_is_held_and_the_truth_is_charged(tmp_path: Path) -> None:
    async def test() -> None:
        ledger = OwnLedger(None, owner="1:1")
        reads = await opened(ledger)
        for _ in range(10):
            await reads.charge(1000)
        assert await books(ledger) == Balance(Amounts(), Amounts(read_bytes=4 * MIB))
        await reads.settled()
        assert await books(ledger) == Balance(Amounts(read_bytes=10_000), Amounts())
        await reads.settled()
        assert (await books(ledger)).used.read_bytes == 10_000
        await ledger.aclose()

    drive(test())


def test_portions_grow_and_a_read_larger_than_one_has_its_own(tmp_path: Path) -> None:
    async def test() -> None:
        ledger = OwnLedger(None, owner="1:1")
        reads = await opened(ledger)
        held = []
        for size in (3 * MIB, 3 * MIB, 3 * MIB, 50 * MIB, 1):
            await reads.charge(size)
            held.append((await books(ledger)).held.read_bytes // MIB)
        assert held == [4, 8, 8, 50, 32]
        await reads.settled()
        assert await books(ledger) == Balance(Amounts(read_bytes=59 * MIB + 1), Amounts())
        await ledger.aclose()

    drive(test())


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(st.integers(1, 6 * MIB), max_size=30), st.integers(1, 40 * MIB))
def test_what_is_charged_is_the_sum_of_what_was_admitted(sizes: list[int], limit: int) -> None:
    async def test() -> None:
        ledger = OwnLedger(None, owner="1:1")
        reads = await opened(ledger, of_tenant=limit)
        admitted = 0
        for size in sizes:
            try:
                await reads.charge(size)
            except QuotaExceeded:
                assert admitted + size > limit  # refused only what does not fit
            else:
                admitted += size
        assert admitted <= limit
        await reads.settled()
        assert await books(ledger) == Balance(Amounts(read_bytes=admitted), Amounts())
        await ledger.aclose()

    drive(test())


@pytest.mark.parametrize(("of_tenant", "of_run"), [(5000, None), (None, 5000), (5000, 6000)])
def test_a_limit_is_met_to_the_byte_and_the_refusal_says_what_is_left(
    of_tenant: int | None, of_run: int | None
) -> None:
    async def test() -> None:
        ledger = OwnLedger(None, owner="1:1")
        reads = await opened(ledger, of_tenant=of_tenant, of_run=of_run)
        code = "quota.tenant.read" if of_tenant else "context.read_total"
        await reads.charge(4000)
        with pytest.raises(QuotaExceeded) as caught:
            await reads.charge(1001)
        assert (caught.value.code, caught.value.limit, caught.value.observed) == (code, 5000, 5001)
        assert "1000" in str(caught.value)
        await reads.charge(1000)
        with pytest.raises(QuotaExceeded):
            await reads.charge(1)
        await reads.settled()
        assert (await books(ledger)).used.read_bytes == 5000
        await ledger.aclose()

    drive(test())


def test_many_reads_at_once_share_one_portion() -> None:
    async def test() -> None:
        ledger = OwnLedger(None, owner="1:1")
        reads = await opened(ledger)
        await asyncio.gather(*(reads.charge(1 * MIB) for _ in range(64)))
        await reads.settled()
        assert await books(ledger) == Balance(Amounts(read_bytes=64 * MIB), Amounts())
        await ledger.aclose()

    drive(test())


def test_two_runs_of_a_tenant_keep_to_its_limit_together() -> None:
    async def test() -> None:
        ledger = OwnLedger(None, owner="1:1")
        one = await opened(ledger, RunId("r1"), of_tenant=6 * MIB)
        two = await opened(ledger, RunId("r2"), of_tenant=6 * MIB)
        await one.charge(1000)
        await two.charge(1000)
        assert (await books(ledger)).held.read_bytes < 2 * MIB
        await one.settled()
        await two.charge(5 * MIB)
        with pytest.raises(QuotaExceeded):
            await one.charge(1 * MIB)
        await two.settled()
        assert await books(ledger) == Balance(Amounts(read_bytes=5 * MIB + 2000), Amounts())
        assert (await books(ledger, run_account(RunId("r2")))).used.read_bytes == 5 * MIB + 1000
        await ledger.aclose()

    drive(test())


def test_a_crash_is_charged_the_whole_portion(tmp_path: Path) -> None:
    async def test() -> None:
        dead = OwnLedger(tmp_path / "ledger.db", owner="1:1")
        await (await opened(dead)).charge(1000)
        await dead.aclose()
        ledger = OwnLedger(tmp_path / "ledger.db", owner="2:2")
        assert await ledger.recover(lambda owner: owner != "1:1") == 1
        assert await books(ledger) == Balance(Amounts(read_bytes=4 * MIB), Amounts())
        await ledger.aclose()

    drive(test())


def test_a_portion_leaves_others_most_of_what_is_left() -> None:
    async def test() -> None:
        ledger = OwnLedger(None, owner="1:1")
        idle = [await opened(ledger, RunId(f"r{n}"), of_tenant=8 * MIB) for n in range(20)]
        for reads in idle:
            await reads.charge(1000)
        last = await opened(ledger, RunId("last"), of_tenant=8 * MIB)
        await last.charge(400_000)
        for reads in [*idle, last]:
            await reads.settled()
        assert await books(ledger) == Balance(Amounts(read_bytes=420_000), Amounts())
        await ledger.aclose()

    drive(test())


def test_who_reads_nothing_for_a_while_gives_its_portion_back_and_may_go_on() -> None:
    async def test() -> None:
        ledger = OwnLedger(None, owner="1:1")
        await ledger.open_run(R1, TENANT, run_limits=FREE, tenant_limits=reads_at_most(8 * MIB))
        reads = Reads(scope(), ledger, idle_s=0.01)
        for n in (1, 2):
            await reads.charge(1000)
            assert reads.held > 0  # the books may show this already given back
            await given_back(reads)
            assert (await books(ledger)).used.read_bytes == 1000 * n
        await reads.settled()
        assert await books(ledger) == Balance(Amounts(read_bytes=2000), Amounts())
        await ledger.aclose()

    drive(test())


def test_a_portion_that_cannot_be_given_back_is_the_fault_of_its_run() -> None:
    async def test() -> None:
        ledger = OwnLedger(None, owner="1:1")
        await opened(ledger)
        reads = Reads(scope(), ledger, idle_s=0.01)
        await reads.charge(1000)
        await ledger.journal.aclose()
        await given_back(reads)
        for _ in range(2):
            with pytest.raises(LedgerUnavailable):
                await reads.charge(1000)

    drive(test())
