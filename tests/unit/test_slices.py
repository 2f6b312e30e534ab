"""Child runs: each spends from a slice of what its parent has left, and what it does not use comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from belljar.audit import AuditLog, verify
from belljar.audit.events import QueryCompleted, QueryRequested, RunFinished, RunStarted
from belljar.broker.abandoned import abandoned_in
from belljar.errors import BelljarError, InvalidInput, LedgerUnavailable, QuotaExceeded
from belljar.identity import RunId, Tenant
from belljar.journal import Job, open_journal
from belljar.journal.tables import LIMITED, LIMITS, LimitsRow
from belljar.ledger import DIMENSIONS, Abandoned, Amounts, Balance, Ledger, Limits, Period, run_account
from belljar.quotas import differences
from tests.journals import OwnLedger, meddle

on_each_store = pytest.mark.usefixtures("store")

NOON = 1795435200.0  # 2026-11-23 12:00 UTC
ACME, RESEARCH = Tenant("acme"), Tenant("acme/research")
ROOT = RunId("r1")
CHILD, SIBLING = ROOT.child(1), ROOT.child(2)
GRANDCHILD = CHILD.child(1)
NOTHING = Amounts()


def only(period: Period = "total", /, **bounds: int) -> Limits:
    return Limits(period, **{dimension: bounds.get(dimension) for dimension in DIMENSIONS})


FREE = only()


async def opened(ledger: OwnLedger, run: RunId, limits: Limits, tenant: Tenant = RESEARCH) -> None:
    await ledger.open_run(run, tenant, run_limits=limits, tenant_limits=FREE, parent=run.parent)


async def spend(ledger: OwnLedger, run: RunId, amounts: Amounts) -> None:
    await ledger.settle(await ledger.reserve(run, amounts, now=NOON), amounts)


async def stands(ledger: OwnLedger, run: RunId) -> Balance:
    return await ledger.balance(run_account(run), "total")


def with_root(body: Callable[[OwnLedger], Awaitable[None]], limits: Limits) -> None:
    """Run `body(ledger)` with r1 open, then check the books."""

    async def main() -> None:
        ledger = OwnLedger(None, owner="1:1")
        await opened(ledger, ROOT, limits)
        await body(ledger)
        assert await ledger.check_books() == []
        await ledger.aclose()

    asyncio.run(main())


# -- what is held, and what comes back ---------------------------------------------------------------------------------


@on_each_store
def test_a_slice_is_held_on_the_account_of_the_parent_and_on_no_other() -> None:
    async def body(ledger: OwnLedger) -> None:
        await opened(ledger, CHILD, only(calls=4, cpu_ms=300))
        assert await stands(ledger, ROOT) == Balance(NOTHING, Amounts(calls=4, cpu_ms=300))
        left = await ledger.remaining(ROOT, now=NOON)
        assert (left.calls, left.cpu_ms) == (6, 700)
        for account in ("acme", "acme/research"):
            assert await ledger.balance(account, "total") == Balance(NOTHING, NOTHING)
        await ledger.reserve(CHILD, Amounts(calls=3), now=NOON)
        assert await stands(ledger, ROOT) == Balance(NOTHING, Amounts(calls=4, cpu_ms=300))
        for account in ("acme", "acme/research", run_account(CHILD)):
            assert await ledger.balance(account, "total") == Balance(NOTHING, Amounts(calls=3))

    with_root(body, only(calls=10, cpu_ms=1000))


@on_each_store
def test_what_a_child_used_stays_and_the_rest_comes_back() -> None:
    async def body(ledger: OwnLedger) -> None:
        await opened(ledger, CHILD, only(calls=6))
        await opened(ledger, GRANDCHILD, only(calls=3))
        await spend(ledger, ROOT, Amounts(calls=1))
        await spend(ledger, CHILD, Amounts(calls=1))
        await spend(ledger, GRANDCHILD, Amounts(calls=2))
        await ledger.reserve(GRANDCHILD, Amounts(calls=1), now=NOON)  # and is given back
        assert await stands(ledger, CHILD) == Balance(Amounts(calls=1), Amounts(calls=3))
        await ledger.close_run(GRANDCHILD)
        assert await stands(ledger, CHILD) == Balance(Amounts(calls=3), NOTHING)
        assert await stands(ledger, ROOT) == Balance(Amounts(calls=1), Amounts(calls=6))
        assert (await ledger.remaining(CHILD, now=NOON)).calls == 3
        for _ in range(2):  # a second time changes nothing
            await ledger.close_run(CHILD)
            assert await stands(ledger, ROOT) == Balance(Amounts(calls=4), NOTHING)
        assert (await ledger.remaining(ROOT, now=NOON)).calls == 6
        assert await ledger.balance("acme", "total") == Balance(Amounts(calls=4), NOTHING)

    with_root(body, only(calls=10))


@on_each_store
def test_what_boxes_and_gauges_use_is_sliced_too() -> None:
    async def body(ledger: OwnLedger) -> None:
        await opened(ledger, CHILD, only(cpu_ms=400, calls_in_flight=2))
        with pytest.raises(QuotaExceeded, match="run r1 has 0 calls in flight of 2"):
            await ledger.reserve(ROOT, Amounts(calls_in_flight=1), now=NOON)
        await spend(ledger, CHILD, Amounts(cpu_ms=250))
        await ledger.close_run(CHILD)
        assert await stands(ledger, ROOT) == Balance(Amounts(cpu_ms=250), NOTHING)

    with_root(body, only(cpu_ms=1000, calls_in_flight=2))


@on_each_store
def test_a_child_never_spends_more_than_its_slice() -> None:
    async def body(ledger: OwnLedger) -> None:
        await opened(ledger, CHILD, only(calls=2))
        with pytest.raises(QuotaExceeded) as caught:
            await ledger.reserve(CHILD, Amounts(calls=3), now=NOON)
        assert (caught.value.scope, caught.value.limit) == (run_account(CHILD), 2)
        await ledger.reserve(CHILD, Amounts(calls=2), now=NOON)

    with_root(body, only(calls=10))


@on_each_store
def test_a_slice_that_the_parent_has_not_left_is_refused_and_nothing_is_opened() -> None:
    async def body(ledger: OwnLedger) -> None:
        await spend(ledger, ROOT, Amounts(calls=1))
        await ledger.reserve(ROOT, Amounts(calls=2), now=NOON)
        await opened(ledger, CHILD, only(calls=3, cpu_ms=10))
        before = await stands(ledger, ROOT)
        with pytest.raises(QuotaExceeded) as caught:
            await opened(ledger, SIBLING, only(calls=5, cpu_ms=10))
        found = caught.value
        assert (found.scope, found.dimension, found.used, found.held, found.limit) == ("run:r1", "calls", 1, 5, 10)
        assert found.told is None
        # The last book refuses, and the first has changed nothing.
        with pytest.raises(QuotaExceeded, match="CPU time"):
            await opened(ledger, SIBLING, only(calls=4, cpu_ms=91))
        assert await stands(ledger, ROOT) == before
        with pytest.raises(LedgerUnavailable, match="has no run"):
            await ledger.reserve(SIBLING, Amounts(calls=1), now=NOON)
        await opened(ledger, SIBLING, only(calls=4, cpu_ms=90))

    with_root(body, only(calls=10, cpu_ms=100))


@on_each_store
@pytest.mark.parametrize("whose", [ACME, RESEARCH])
def test_a_child_deeper_than_a_level_of_its_tenant_allows_is_not_opened(whose: Tenant) -> None:
    async def body(ledger: OwnLedger) -> None:
        await opened(ledger, CHILD, only(calls=4))
        await ledger.change_limits(Tenant("acm"), {"total": {"depth": 1}})
        await ledger.change_limits(whose, {"total": {"depth": 2}})
        await opened(ledger, SIBLING, only(calls=4))
        with pytest.raises(QuotaExceeded) as caught:
            await opened(ledger, GRANDCHILD, only(calls=1))
        found = caught.value
        assert (found.scope, found.dimension, found.period, found.code) == (whose, "depth", "now", "quota.tenant.depth")
        assert (found.limit, found.observed, found.used, found.held) == (2, 3, None, None)
        assert (found.told is None) == (whose == RESEARCH)  # what is set above is not the program's to know
        assert await stands(ledger, CHILD) == Balance(NOTHING, NOTHING)
        with pytest.raises(LedgerUnavailable, match="has no run"):
            await ledger.reserve(GRANDCHILD, Amounts(calls=1), now=NOON)
        await ledger.change_limits(whose, {"total": {"depth": 1}})
        with pytest.raises(QuotaExceeded, match="with this child run there would be 2"):
            await opened(ledger, ROOT.child(3), only(calls=1))
        await spend(ledger, CHILD, Amounts(calls=1))  # what is open goes on
        await ledger.change_limits(whose, {"total": {"depth": 3}})
        await opened(ledger, GRANDCHILD, only(calls=1))

    with_root(body, only(calls=10))


@on_each_store
def test_a_child_without_a_limit_has_what_its_parent_has_left() -> None:
    async def body(ledger: OwnLedger) -> None:
        await spend(ledger, ROOT, Amounts(calls=3, output_tokens=5))
        await opened(ledger, CHILD, only(output_tokens=7))
        left = await ledger.remaining(CHILD, now=NOON)
        assert (left.calls, left.output_tokens, left.read_bytes) == (7, 7, None)
        # What the parent does not limit takes nothing of it, and a limit of the child's own bounds the child.
        assert await stands(ledger, ROOT) == Balance(Amounts(calls=3, output_tokens=5), Amounts(calls=7))
        await opened(ledger, GRANDCHILD, FREE)
        left = await ledger.remaining(GRANDCHILD, now=NOON)
        assert (left.calls, left.output_tokens) == (7, 7)
        assert (await ledger.remaining(CHILD, now=NOON)).calls == 0

    with_root(body, only(calls=10))


@on_each_store
def test_what_a_child_used_beyond_its_slice_is_charged_to_its_parent_and_blocks_it() -> None:
    async def body(ledger: OwnLedger) -> None:
        await opened(ledger, CHILD, only(output_tokens=10))
        reservation = await ledger.reserve(CHILD, Amounts(output_tokens=10), now=NOON)
        await ledger.settle(reservation, Amounts(output_tokens=25))
        await ledger.close_run(CHILD)
        assert (await stands(ledger, ROOT)).used == Amounts(output_tokens=25)
        with pytest.raises(QuotaExceeded):
            await ledger.reserve(ROOT, Amounts(output_tokens=1), now=NOON)

    with_root(body, only(output_tokens=20))


# -- what is no child --------------------------------------------------------------------------------------------------


@on_each_store
def test_a_parent_that_is_unknown_closed_or_of_another_tenant_is_refused() -> None:
    async def body(ledger: OwnLedger) -> None:
        async def refused(kind: type[BelljarError], match: str, run: RunId, tenant: Tenant = RESEARCH) -> None:
            with pytest.raises(kind, match=match):
                await opened(ledger, run, only(calls=1), tenant)

        await refused(LedgerUnavailable, "has no run", RunId("other").child(1))
        for tenant in (ACME, Tenant("acme/research/alice"), Tenant("other")):
            await refused(InvalidInput, "give a child its parent's tenant", CHILD, tenant)
        await refused(InvalidInput, "a slice is for the whole of a run", RunId("days").child(1))
        assert await stands(ledger, ROOT) == Balance(NOTHING, NOTHING)
        await ledger.close_run(ROOT)
        await refused(LedgerUnavailable, "run r1 is closed", CHILD)

    async def with_days(ledger: OwnLedger) -> None:
        await opened(ledger, RunId("days"), only("day", calls=5))
        with pytest.raises(InvalidInput, match="a slice is for the whole of a run"):
            await opened(ledger, CHILD, only("day", calls=1))
        await body(ledger)

    with_root(with_days, only(calls=10))


@pytest.mark.parametrize(("run", "parent"), [(CHILD, None), (CHILD, SIBLING), (GRANDCHILD, ROOT), (RunId("r2"), ROOT)])
def test_a_child_s_id_names_its_parent(run: RunId, parent: RunId | None) -> None:
    async def body(ledger: OwnLedger) -> None:
        with pytest.raises(InvalidInput) as caught:
            await ledger.open_run(run, RESEARCH, run_limits=FREE, tenant_limits=FREE, parent=parent)
        assert caught.value.code == "run.parent"

    with_root(body, FREE)


# -- ends --------------------------------------------------------------------------------------------------------------


class Told:
    """Notes whose end was written, in which order, and writes something beside."""

    def __init__(self) -> None:
        self.runs: list[Abandoned] = []

    def __call__(self, run: Abandoned) -> Job[object]:
        self.runs.append(run)
        row = LimitsRow(f"beside-{len(self.runs)}", "day", (None,) * len(LIMITED))
        return Job(lambda draft: draft.put(LIMITS, row))

    async def are_written(self, ledger: OwnLedger) -> bool:
        names = [Tenant(f"beside-{number + 1}") for number in range(len(self.runs))]
        return all([len(await ledger.limits(name)) == 1 for name in names])


async def family(ledger: OwnLedger) -> None:
    """A child and a grandchild of r1, each with something settled, held and dispatched; and one that is closed."""
    await opened(ledger, SIBLING, only(calls=10))
    await spend(ledger, SIBLING, Amounts(calls=1))
    await ledger.close_run(SIBLING)
    for run, calls in ((ROOT, 2), (CHILD, 4), (GRANDCHILD, 8)):
        if run is not ROOT:
            await opened(ledger, run, only(calls=60 if run is CHILD else 30))
        await spend(ledger, run, Amounts(calls=calls))
        await ledger.reserve(run, Amounts(calls=1), now=NOON)
        await ledger.reserve(run, Amounts(calls=10), now=NOON, dispatched=True)


# What closing it charges, and what each run has used by itself.
OF_FAMILY = [
    Abandoned(run, Amounts(calls=10), Amounts(calls=calls + 10)) for run, calls in ((GRANDCHILD, 8), (CHILD, 4))
]
ALL_OF_IT = Amounts(calls=1 + 12 + 14 + 18)


@on_each_store
def test_closing_a_parent_closes_all_below_it_first() -> None:
    async def body(ledger: OwnLedger) -> None:
        await family(ledger)
        beside_its_name = RunId("r1-2")  # sorts between r1 and its children
        await opened(ledger, beside_its_name, only(calls=1))
        told = Told()
        await ledger.close_run(ROOT, below=told)
        assert told.runs == OF_FAMILY
        assert await told.are_written(ledger)
        assert await stands(ledger, ROOT) == Balance(ALL_OF_IT, NOTHING)
        assert await stands(ledger, CHILD) == Balance(Amounts(calls=14 + 18), NOTHING)
        assert await ledger.balance("acme", "total") == Balance(ALL_OF_IT, NOTHING)
        for run in (CHILD, GRANDCHILD):
            with pytest.raises(LedgerUnavailable, match="is closed"):
                await ledger.reserve(run, Amounts(calls=1), now=NOON)
        await ledger.reserve(beside_its_name, Amounts(calls=1), now=NOON)

    with_root(body, only(calls=100))


@on_each_store
def test_what_belongs_to_an_end_is_not_written_for_a_run_that_ended_with_its_parent() -> None:
    async def body(ledger: OwnLedger) -> None:
        await family(ledger)
        await ledger.close_run(ROOT)
        finished: Job[object] = Job(lambda draft: draft.put(LIMITS, LimitsRow("late", "day", (None,) * len(LIMITED))))
        with pytest.raises(LedgerUnavailable, match="was already closed"):
            await ledger.close_run(CHILD, beside=finished)
        assert await ledger.limits(Tenant("late")) == []

    with_root(body, only(calls=100))


@on_each_store
@pytest.mark.parametrize("dead", ["parent", "child", "both"])
def test_another_host_settles_what_a_dead_one_left_of_a_tree(tmp_path: Path, dead: str) -> None:
    async def main() -> None:
        hosts = {name: OwnLedger(tmp_path / "a.db", owner=name) for name in ("parent", "child", "other")}
        await opened(hosts["parent"], ROOT, only(calls=10))
        await opened(hosts["child"], CHILD, only(calls=6))
        await hosts["parent"].reserve(ROOT, Amounts(calls=2), now=NOON, dispatched=True)
        call = await hosts["child"].reserve(CHILD, Amounts(calls=3), now=NOON, dispatched=True)
        other, told = hosts["other"], Told()
        dead_ones = {"parent", "child"} if dead == "both" else {dead}
        assert await other.recover(lambda owner: owner not in dead_ones, told) == (1 if dead == "child" else 2)
        own = Abandoned(ROOT, Amounts(calls=2), Amounts(calls=2))
        child = Abandoned(CHILD, Amounts(calls=3), Amounts(calls=3))
        assert told.runs == ([child] if dead == "child" else [child, own])
        used, held = (3, 2) if dead == "child" else (5, 0)
        assert await stands(other, ROOT) == Balance(Amounts(calls=used), Amounts(calls=held))
        assert await other.recover(lambda owner: owner not in dead_ones, told) == 0
        assert await other.check_books() == []
        if dead == "child":  # its slice is free again
            assert (await hosts["parent"].remaining(ROOT, now=NOON)).calls == 5
            await hosts["parent"].close_run(ROOT)
        # An owner that comes back, or that never was away, settles nothing more.
        with pytest.raises(LedgerUnavailable, match="double end"):
            await hosts["child"].settle(call, Amounts(calls=1))
        with pytest.raises(LedgerUnavailable, match="is closed"):
            await hosts["child"].reserve(CHILD, Amounts(calls=1), now=NOON)
        assert await other.balance("acme", "total") == Balance(Amounts(calls=5), NOTHING)
        assert await stands(other, ROOT) == Balance(Amounts(calls=5), NOTHING)
        for ledger in hosts.values():
            await ledger.aclose()

    asyncio.run(main())


@on_each_store
def test_what_a_dead_run_used_is_told_without_what_its_children_used(tmp_path: Path) -> None:
    async def main() -> None:
        dead, other = (OwnLedger(tmp_path / "a.db", owner=name) for name in ("dead", "other"))
        await opened(dead, ROOT, only(calls=100))
        await family(dead)
        told = Told()
        assert await other.recover(lambda _: False, told) == 3
        assert told.runs == [*OF_FAMILY, Abandoned(ROOT, Amounts(calls=10), Amounts(calls=2 + 10))]
        assert await told.are_written(other)
        assert await stands(other, ROOT) == Balance(ALL_OF_IT, NOTHING)
        assert await other.check_books() == []
        for ledger in (dead, other):
            await ledger.aclose()

    asyncio.run(main())


def test_ledger_and_log_agree_on_runs_that_ended_with_their_parent(tmp_path: Path) -> None:
    """Each call is counted with its own run; what nobody could settle is in the record of its run's end."""
    path = tmp_path / "audit.db"

    async def main() -> None:
        journal = open_journal(path, unavailable=LedgerUnavailable)
        audit, ledger = AuditLog(journal), Ledger(journal, owner="1:1")

        async def call(run: RunId, number: int, *, is_answered: bool) -> None:
            action, digest, one = f"{run}-{number}", "0" * 64, Amounts(calls=1)
            asked = QueryRequested(
                action=action,
                cell=0,
                attempt=1,
                model="m",
                purpose="sub",
                prompt_sha256=digest,
                prompt_bytes=1,
                output_tokens_max=1,
            )
            reservation = await ledger.reserve(run, one, now=NOON, dispatched=True, beside=audit.entry(run, asked))
            if is_answered:
                told = QueryCompleted(
                    action=action,
                    calls=1,
                    input_tokens=0,
                    output_tokens=0,
                    cost_nanousd=0,
                    reply_sha256=digest,
                    reply_bytes=1,
                    answered_by="m",
                    stop_reason="end",
                )
                await ledger.settle(reservation, one, beside=audit.entry(run, told))

        for run, calls in ((ROOT, 10), (CHILD, 5), (GRANDCHILD, 2), (SIBLING, 3)):
            await ledger.open_run(
                run,
                RESEARCH,
                run_limits=only(calls=calls),
                tenant_limits=FREE,
                parent=run.parent,
                beside=audit.entry(run, RunStarted(tenant=str(RESEARCH), contexts=[])),
            )
            await call(run, 1, is_answered=True)
        for run in (CHILD, GRANDCHILD):
            await call(run, 2, is_answered=False)
        assert await asyncio.to_thread(differences, path) == []
        await ledger.close_run(SIBLING, beside=audit.entry(SIBLING, finished))
        await ledger.close_run(ROOT, beside=audit.entry(ROOT, finished), below=abandoned_in(audit))
        assert (await ledger.balance("acme", "total")).used == Amounts(calls=6)
        assert await ledger.balance(run_account(ROOT), "total") == Balance(Amounts(calls=6), NOTHING)
        await ledger.aclose()
        await journal.aclose()

    finished = RunFinished(status="ok", calls=1, cost_nanousd=0, wall_ms=1)
    asyncio.run(main())
    report = verify(path)
    assert (report.problems, report.unfinished, differences(path)) == ([], [], [])


@on_each_store
def test_children_of_several_hosts_and_the_end_of_their_parent(tmp_path: Path) -> None:
    """Whoever is first: a child is opened before the parent's end and ends with it, or it is refused."""

    async def main() -> None:
        hosts = [OwnLedger(tmp_path / "a.db", owner=str(number)) for number in range(3)]
        await opened(hosts[0], ROOT, only(calls=20))

        async def child(number: int) -> None:
            host, run = hosts[number % 3], ROOT.child(number)
            await opened(host, run, only(calls=3))
            await host.reserve(run, Amounts(calls=2), now=NOON, dispatched=True)

        results: list[Any] = await asyncio.gather(*(child(number) for number in range(1, 19)), return_exceptions=True)
        assert sum(result is None for result in results) == 6
        assert await stands(hosts[1], ROOT) == Balance(NOTHING, Amounts(calls=18))
        await hosts[1].close_run(ROOT.child(1 + results.index(None)))
        assert await stands(hosts[2], ROOT) == Balance(Amounts(calls=2), Amounts(calls=15))
        late: list[Any] = await asyncio.gather(
            *(child(number) for number in (22, 23, 24)), hosts[0].close_run(ROOT), return_exceptions=True
        )
        assert late[-1] is None
        assert all(result is None or isinstance(result, QuotaExceeded | LedgerUnavailable) for result in late)
        open_runs: Job[list[Any]] = Job(lambda draft: draft.query("SELECT run FROM runs WHERE is_open = 1"))
        assert await hosts[2].journal.submit(open_runs) == []
        found = await stands(hosts[2], ROOT)
        assert found.held == NOTHING
        assert found == await hosts[2].balance("acme", "total")
        assert found.used.calls <= 20
        assert await hosts[2].check_books() == []
        for host in hosts:
            await host.aclose()

    asyncio.run(main())


# -- the books ---------------------------------------------------------------------------------------------------------


@on_each_store
@pytest.mark.parametrize(
    ("statement", "problems"),
    [
        (
            "UPDATE balances SET held_calls = 3 WHERE account = 'run:r1'",
            ["run:r1 total: held calls is 3, its reservations say 4"],
        ),
        (
            "UPDATE runs SET is_open = 0 WHERE run = 'r1'",
            ["run r1.00001 is open, but its parent is closed"],
        ),
        (
            "DELETE FROM runs WHERE run = 'r1'",
            [
                "the ledger has run r1.00001, and does not know its parent",
                "the ledger has run r1.00002, and does not know its parent",
                "run:r1 total: used calls is 5, its reservations say 0",
                "run:r1 total: held calls is 4, its reservations say 0",
            ],
        ),
    ],
)
def test_a_slice_that_cannot_be_right_is_found(statement: str, problems: list[str]) -> None:
    async def main() -> None:
        ledger = OwnLedger(None, owner="1:1")
        await opened(ledger, ROOT, only(calls=20))
        await opened(ledger, SIBLING, only(calls=5))
        await spend(ledger, SIBLING, Amounts(calls=5))
        await ledger.close_run(SIBLING)
        await opened(ledger, CHILD, only(calls=4))
        assert await ledger.check_books() == []
        await meddle(ledger.journal, statement)
        assert await ledger.check_books() == problems
        await ledger.aclose()

    asyncio.run(main())


@on_each_store
def test_many_children_at_once_get_exactly_what_is_there() -> None:
    async def body(ledger: OwnLedger) -> None:
        results: list[Any] = await asyncio.gather(
            *(opened(ledger, ROOT.child(number), only(calls=3)) for number in range(1, 41)), return_exceptions=True
        )
        assert sum(result is None for result in results) == 33
        assert all(result is None or isinstance(result, QuotaExceeded) for result in results)
        assert (await stands(ledger, ROOT)).held == Amounts(calls=99)
        await ledger.close_run(ROOT)
        assert await stands(ledger, ROOT) == Balance(NOTHING, NOTHING)

    with_root(body, only(calls=100))
