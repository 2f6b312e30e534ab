"""`Quotas`: what people see of the ledger, who changed a limit, and whether ledger and log say the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from belljar.audit import AuditLog, records, runs, verify
from belljar.cli.quota import _refused
from belljar.errors import AuditUnavailable, InvalidInput, LedgerUnavailable, VerificationFailed
from belljar.identity import RunId, Tenant
from belljar.journal import Draft, Job, Journal, open_journal
from belljar.journal.tables import (
    BALANCES,
    CALLS,
    LIMITED,
    LIMITS,
    RESERVATIONS,
    RUNS,
    BalanceRow,
    LimitsRow,
    ReservationRow,
    RunRow,
)
from belljar.ledger import GAUGES, PERIODS, Amounts, Ledger, Limits, Period, period_key, reading
from belljar.quotas import Quotas, apply_limits, context_bounds, explain, open_quotas
from belljar.service.api.quotas import ROUTES, QuotaQuery
from belljar.service.problems import Unfit
from tests import journals
from tests.journals import meddle
from tests.unit.audit_events import made

R1, R2 = RunId("r1"), RunId("r2")
FREE = Limits("total", calls=None, input_tokens=None, output_tokens=None, cost_nanousd=None, read_bytes=None)
# As `audit_events` has it in an outcome of a query.
SPENT = Amounts(calls=1, input_tokens=12, output_tokens=3, cost_nanousd=4500)


class Shop:
    """Log, ledger and quotas over one file."""

    def __init__(self, path: Path | str) -> None:
        self.path = path
        self.journal: Journal = open_journal(path, unavailable=LedgerUnavailable)
        self.ledger, self.audit = Ledger(self.journal, owner="1:1"), AuditLog(self.journal)
        self.quotas = Quotas(path, lambda: (self.ledger, self.audit))

    async def begin(self, run: RunId, tenant: str) -> None:
        started = self.audit.entry(run, made("run.started", {"tenant": tenant}))
        await self.ledger.open_run(run, Tenant(tenant), run_limits=FREE, tenant_limits=FREE, beside=started)

    async def query(self, run: RunId = R1, charged: Amounts = SPENT, *, number: int = 1, ends: bool = True) -> str:
        """One call: requested and held, then answered and settled. The log has `SPENT`, whatever is charged."""
        action = f"{run}.{number}"
        asked = self.audit.entry(run, made("query.requested", {"action": action, "cell": 0}))
        held = Amounts(calls=1, input_tokens=100, output_tokens=100, cost_nanousd=10**6)
        reservation = await self.ledger.reserve(run, held, now=time.time(), dispatched=True, beside=asked)
        if ends:
            answered = self.audit.entry(run, made("query.completed", {"action": action}))
            await self.ledger.settle(reservation, charged, beside=answered)
        return reservation

    async def finish(self, run: RunId = R1) -> None:
        await self.ledger.close_run(run, beside=self.audit.entry(run, made("run.finished", {"calls": 1})))


@asynccontextmanager
async def shop(path: Path | str) -> AsyncIterator[Shop]:
    one = Shop(path)
    try:
        yield one
    finally:
        await one.ledger.aclose()
        await one.journal.aclose()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


def changes(path: Path) -> list[tuple[str, dict[str, Any]]]:
    return [(record.event, record.data) for record in records(path, "host.quotas")]


# -- setting -----------------------------------------------------------------------------------------------------------


def test_a_change_keeps_what_it_does_not_name_and_stands_in_the_log(path: Path) -> None:
    async def main() -> None:
        async with open_quotas(path) as quotas:
            await quotas.change("acme", {"day": {"calls": 5}, "month": {"cost_nanousd": 7}}, by="user:alice")
            assert await quotas.set("acme", "day", read_bytes=9) == Limits("day", 5, None, None, None, 9)
            assert (await quotas.set("acme", "day", calls=None)).calls is None
            assert len(await quotas.clear("acme", by="user:bob")) == 2
            assert await quotas.clear("acme") == []
            assert await quotas.show("acme") == []

    asyncio.run(main())
    assert changes(path) == [
        ("quota.changed", {"tenant": "acme", "period": "day", "by": "user:alice", "calls": 5}),
        ("quota.changed", {"tenant": "acme", "period": "month", "by": "user:alice", "cost_nanousd": 7}),
        ("quota.changed", {"tenant": "acme", "period": "day", "by": "api", "calls": 5, "read_bytes": 9}),
        ("quota.changed", {"tenant": "acme", "period": "day", "by": "api", "read_bytes": 9}),
        ("quota.changed", {"tenant": "acme", "period": "day", "by": "user:bob", "cleared": True}),
        ("quota.changed", {"tenant": "acme", "period": "month", "by": "user:bob", "cleared": True}),
    ]
    report = verify(path)
    assert (report.problems, report.records, report.runs, runs(path)) == ([], 6, 0, [])


def test_a_limit_that_the_log_does_not_take_is_not_set(path: Path) -> None:
    async def main() -> None:
        async with open_quotas(path) as quotas:
            with pytest.raises(InvalidInput, match="too long for the audit log"):
                await quotas.set("acme", "day", calls=1, by="x" * 5000)
            await quotas.set("other", "day", calls=1)
            assert await quotas.show("acme") == []

    asyncio.run(main())


@pytest.mark.parametrize(
    ("tenant", "period", "limits", "code"),
    [
        ("Acme!", "day", {"calls": 1}, "tenant.invalid"),
        (5, "day", {"calls": 1}, "argument.type"),
        ("acme", "week", {"calls": 1}, "limit.invalid"),
        ("acme", "day", {"calls": -1}, "limit.invalid"),
        ("acme", "day", {"calls": 1.5}, "limit.invalid"),
        ("acme", "day", {}, "limit.invalid"),
        ("acme", "day", {"calls": 1, "by": ""}, "argument.type"),
    ],
)
def test_what_is_no_limit_is_refused(path: Path, tenant: Any, period: Any, limits: Any, code: str) -> None:
    async def main() -> None:
        async with open_quotas(path) as quotas:
            with pytest.raises(InvalidInput) as caught:
                await quotas.set(tenant, period, **limits)
            assert caught.value.code == code
            assert await quotas.show() == []

    asyncio.run(main())
    assert changes(path) == []


class Odd:
    """A value that steers the terminal it is printed to, and that no mapping takes for a key."""

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "\x1b[31m" * 1000


ODD: dict[str, Any] = {
    "list": ["day"],
    "set": {"day"},
    "tuple": ("day",),
    "nothing": None,
    "number": 5,
    "long number": 10**5000,
    "bytes": b"day",
    "object": Odd(),
    "long text": "x" * 10**6,
    "line end": "day\n",
    "surrogate": "\ud800",
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_whatever_is_given_for_a_period_or_a_bound_is_refused_in_a_line_of_ours(path: Path, odd: Any) -> None:
    async def main() -> None:
        async with open_quotas(path) as quotas:
            given = [
                quotas.set("acme", odd, calls=1),
                quotas.change("acme", odd),
                quotas.change("acme", {"day": odd}),
                quotas.history("acme", per=odd),
            ]
            if odd not in (None, 5):
                given.append(quotas.set("acme", "day", calls=odd))
            for error in await asyncio.gather(*given, return_exceptions=True):
                assert isinstance(error, InvalidInput), error
                assert error.code in ("limit.invalid", "argument.type")
                assert len(str(error)) < 250
                assert str(error).isprintable()
            assert await quotas.show() == []

    asyncio.run(main())
    assert changes(path) == []


@pytest.mark.parametrize("name", ["cals", 5])
def test_a_change_of_what_no_limit_is_called_names_those_that_there_are(path: Path, name: Any) -> None:
    async def main() -> None:
        async with open_quotas(path) as quotas:
            with pytest.raises(TypeError, match="is not a limit: use calls, input_tokens"):
                await quotas.change("acme", {"month": {"calls": 1}, "day": {name: 5}})

    asyncio.run(main())
    assert changes(path) == []


@pytest.mark.parametrize("nothing", [{}, {"day": {}}, {"month": {"calls": 1}, "day": {}}])
def test_a_change_of_nothing_is_refused_and_does_not_lift_the_policys_limits(path: Path, nothing: Any) -> None:
    """Where anything is set for a level, its policy says nothing any more: a row without a bound would free it."""

    async def main() -> None:
        async with open_quotas(path) as quotas:
            with pytest.raises(InvalidInput, match="no limit is named") as caught:
                await quotas.change("acme", nothing)
            assert caught.value.code == "limit.invalid"

    asyncio.run(main())
    assert changes(path) == []


@pytest.mark.parametrize("tenant", ["", "../../etc", "a//b", "/a", "A", "a b", "a" * 64, "\ud800", 7, b"acme"])
def test_every_question_refuses_what_is_no_tenant(path: Path, tenant: Any) -> None:
    async def main() -> None:
        async with open_quotas(path) as quotas:
            for question in (
                quotas.show(tenant),
                quotas.history(tenant),
                quotas.clear(tenant),
                quotas.change(tenant, {"day": {"calls": 1}}),
            ):
                with pytest.raises(InvalidInput) as caught:
                    await question
                assert caught.value.code in ("tenant.invalid", "argument.type")

    asyncio.run(main())
    assert changes(path) == []


@pytest.mark.parametrize(
    ("event", "run", "words"),
    [
        ("quota.changed", "r1", "record 1: quota.changed under run 'r1', to which none belongs"),
        ("run.started", "host.quotas", "record 1: run.started under host.quotas, which is no run for it"),
    ],
)
def test_runs_and_the_hosts_own_records_are_kept_apart(path: Path, event: str, run: str, words: str) -> None:
    async def main() -> None:
        async with shop(path) as here:
            await here.audit.append(str.__new__(RunId, run), made(event, {}))  # also an id that there cannot be

    asyncio.run(main())
    assert words in verify(path).problems


# -- showing -----------------------------------------------------------------------------------------------------------


def test_every_level_is_shown_with_what_is_used_held_and_left(path: Path) -> None:
    async def main() -> None:
        async with shop(path) as here:
            await here.quotas.set("acme", "month", calls=1)
            await here.quotas.set("acme/research", "hour", calls=9, cost_nanousd=10**7)
            await here.begin(R1, "acme/research")
            await here.query(charged=Amounts(calls=1, cost_nanousd=4500))
            await here.quotas.set("acme", "month", calls=4)
            await here.query(number=2, ends=False)
            now = time.time()
            found = {(one.tenant, one.period): one for one in await here.quotas.show("acme/research")}
            assert [place for place in found if place[0] == "acme"] == [("acme", p) for p in ("day", "month", "total")]
            assert [place[1] for place in found if place[0] == "acme/research"] == ["hour", "day", "month", "total"]
            hour, month = found["acme/research", "hour"], found["acme", "month"]
            assert hour.used == Amounts(calls=1, cost_nanousd=4500)
            assert hour.held == Amounts(1, 100, 100, 10**6)
            assert (hour.left.calls, hour.left.cost_nanousd, hour.left.output_tokens) == (7, 10**7 - 10**6 - 4500, None)
            assert (month.left.calls, month.key) == (2, period_key("month", now))
            assert hour.resets_at is not None
            assert 0 < hour.resets_at.timestamp() - now <= 3600
            assert found["acme", "day"].limits is None
            assert found["acme", "total"].resets_at is None

    asyncio.run(main())


def test_levels_stand_as_the_clock_of_their_store_says(path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose own clock is forty days ahead shows what counts on the server, and when that begins anew."""

    async def main() -> None:
        log = journals.place(path)
        assert log is not None
        async with shop(log) as here:
            await here.quotas.set("acme", "month", calls=9)
            await here.begin(R1, "acme")
            await here.query()
            right = time.time
            monkeypatch.setattr(time, "time", lambda: right() + 40 * 86400)
            (month,) = [one for one in await here.quotas.show("acme") if one.period == "month"]
            (told,) = [one for one in explain(log, R1).quotas if one.period == "month"]
            monkeypatch.undo()
            on_server = store == "postgresql"
            assert month.key == period_key("month", right() if on_server else right() + 40 * 86400)
            assert (month.used.calls, month.left.calls) == ((1, 8) if on_server else (0, 9))
            assert month.resets_at is not None
            assert (month.resets_at.timestamp() - right() < 31 * 86400 + 60) == on_server
            assert told == month

    asyncio.run(main())


def test_a_limit_below_what_is_taken_leaves_nothing(path: Path) -> None:
    async def main() -> None:
        async with shop(path) as here:
            await here.begin(R1, "acme")
            await here.query(ends=False)
            await here.quotas.set("acme", "total", calls=0, input_tokens=30)
            (total,) = [one for one in await here.quotas.show("acme") if one.period == "total"]
            assert (total.left.calls, total.left.input_tokens, total.held.calls) == (0, 0, 1)

    asyncio.run(main())


def test_a_tenant_named_like_the_beginning_of_another_is_another(path: Path) -> None:
    names = ["acme", "acme-2", "acme.x", "acme/research", "acme2", "run", "run-1", "runs"]

    async def main() -> None:
        async with shop(path) as here:
            for number, name in enumerate(names):
                run = RunId(f"r{number}")
                await here.begin(run, name)
                await here.query(run)
            await here.quotas.set("acme-2", "day", calls=1)
            found = await here.quotas.show()
            assert sorted({one.tenant for one in found}) == names
            assert {one.tenant for one in await here.quotas.show("acme")} == {"acme"}
            used = {one.tenant: one.used.calls for one in found if one.period == "total"}
            assert used == dict.fromkeys(names, 1) | {"acme": 2}
            assert {one.tenant for one in await here.quotas.history()} == set(names)
            assert [one.used.calls for one in await here.quotas.history("acme", per="month")] == [2]
            assert [one.tenant for one in await here.quotas.history("acme-2")] == ["acme-2"]

    asyncio.run(main())


def test_a_tenant_and_all_below_it_are_read_apart_from_their_neighbours(path: Path, store: str) -> None:
    names = ["acme", "acme-2", "acme.x", "acme/a-b", "acme/a/b", "acme/research", "acme0", "acme2", "run", "run/x"]
    log = journals.place(path)
    assert log is not None

    async def main() -> None:
        async with shop(log) as here:
            quotas = Quotas(log, lambda: (here.ledger, here.audit), lambda _: dict.fromkeys(map(Tenant, names[3:]), 7))
            for number, name in enumerate(names):
                run = RunId(f"r{number}")
                await here.begin(run, name)
                await here.query(run)
            await quotas.set("acme/limited", "hour", calls=1)
            await quotas.set("acme-2", "hour", calls=1)
            every, days = await quotas.show(), await quotas.history()
            assert [one.tenant for one in every] == [one.tenant for one in sorted(every, key=_by_level)]
            assert await quotas.levels() == list(dict.fromkeys(one.tenant for one in every))
            for tenant in (*names, "acme/a", "acme/limited", "nobody"):
                mine = [one for one in every if one.tenant == tenant or one.tenant.startswith(f"{tenant}/")]
                assert await quotas.show(tenant, below=True) == mine
                assert await quotas.levels(tenant) == list(dict.fromkeys(one.tenant for one in mine))
                used = [one for one in days if one.tenant == tenant or one.tenant.startswith(f"{tenant}/")]
                assert await quotas.history(tenant, below=True) == used
            assert await quotas.show(below=True, choose=lambda places: places[3:5]) == every[3:5]
            for at, one in enumerate(days):
                assert await quotas.history(since=(one.key, one.tenant), most=3) == days[at : at + 3]

    asyncio.run(main())


def _by_level(one: Any) -> tuple[list[str], int]:
    return one.tenant.split("/"), PERIODS.index(one.period)


def test_a_page_of_many_tenants_is_read_as_a_page(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the others only the names: what all have is too much to be made into values beside the event loop."""
    made_of: list[str] = []

    def counted(tenant: str, *rest: Any) -> Any:
        made_of.append(tenant)
        return _quota(tenant, *rest)

    _quota = reading._quota
    monkeypatch.setattr(reading, "_quota", counted)

    async def pages(here: Shop, tenant: str | None) -> list[str]:
        found: list[str] = []
        after: str | None = None
        while True:
            made_of.clear()
            asked = SimpleNamespace(host=here, tenant=tenant, query=QuotaQuery(tenant, after, 4))
            page = await ROUTES[0].handler(cast("Any", asked))
            assert len(made_of) <= 6
            found += [f"{one.tenant}:{one.period}" for one in page.quotas]
            if (after := page.after) is None:
                return found

    async def main() -> None:
        async with shop(path) as here:
            wanted: dict[Tenant, Any] = {
                Tenant(f"t{at % 5}/u{at}"): {"day": {"calls": 1}, "month": {"calls": 1}} for at in range(40)
            }
            await apply_limits(here.ledger, here.audit, wanted, by="config")
            every = [f"{one.tenant}:{one.period}" for one in await here.quotas.show()]
            assert (await pages(here, None), len(every)) == (every, 80)
            assert await pages(here, "t3") == [one for one in every if one.startswith("t3/")]
            asked: Any = SimpleNamespace(host=here, tenant=None, query=QuotaQuery(None, "t9:day"))
            with pytest.raises(Unfit, match="not a cursor"):
                await ROUTES[0].handler(asked)

    asyncio.run(main())


def test_the_history_has_each_day_and_month_once_in_order(path: Path) -> None:
    async def main() -> None:
        async with shop(path) as here:
            await here.quotas.set("acme", "hour", calls=9)
            await here.begin(R1, "acme")
            for day in (40, 1, 0, 0):
                held = await here.ledger.reserve(R1, Amounts(calls=1), now=1795435200.0 + 86400 * day)
                await here.ledger.settle(held, Amounts(calls=1))
            days = [(one.key, one.used.calls) for one in await here.quotas.history("acme")]
            assert days == [("2026-11-23", 2), ("2026-11-24", 1), ("2027-01-02", 1)]
            months = [(one.key, one.used.calls) for one in await here.quotas.history(per="month")]
            assert months == [("2026-11", 3), ("2027-01", 1)]

    asyncio.run(main())


def test_without_a_ledger_there_is_nothing_to_show(path: Path) -> None:
    async def main() -> None:
        quotas = Quotas(path, None)
        for question in (quotas.show(), quotas.history(), quotas.check()):
            with pytest.raises(InvalidInput) as caught:
                await question
            assert caught.value.code == "quota.missing"

    asyncio.run(main())
    assert not path.exists()


@pytest.mark.parametrize("name", ["n" * 256 + "/audit.db", "loop/audit.db"])
def test_a_path_that_the_system_refuses_is_no_ledger_and_no_traceback(tmp_path: Path, name: str) -> None:
    """The first says so of itself; the second is a link that leads to itself, where nothing can be."""
    (tmp_path / "loop").symlink_to("loop")
    place = tmp_path / name
    quotas = Quotas(place, None)
    for question in (lambda: asyncio.run(quotas.show()), lambda: asyncio.run(quotas.check())):
        with pytest.raises((InvalidInput, AuditUnavailable)):
            question()
    for ask in (verify, lambda log: explain(log, "r1"), lambda log: list(records(log))):
        with pytest.raises((InvalidInput, AuditUnavailable)):
            ask(place)


def test_what_is_not_as_we_made_it_is_not_believed(path: Path) -> None:
    async def main() -> None:
        async with shop(path) as here:
            await meddle(here.journal, "CREATE VIEW more AS SELECT 1")
            with pytest.raises(LedgerUnavailable, match="'more' in it is not ours"):
                await here.quotas.show()

    asyncio.run(main())


# -- the ledger and the log --------------------------------------------------------------------------------------------


async def problems(here: Shop) -> list[str]:
    """What both readers say, which must be the same."""
    found = await here.quotas.check()
    assert verify(here.path).problems == found
    return found


def test_a_run_that_the_ledger_charged_something_else_is_found(path: Path) -> None:
    async def main() -> None:
        async with shop(path) as here:
            await here.begin(R1, "acme")
            await here.query()
            assert await problems(here) == []
            await here.query(charged=Amounts(calls=1, input_tokens=12, output_tokens=3, cost_nanousd=1), number=2)
            told = ["run 'r1' was charged 9000 cost_nanousd in the log and 4501 in the ledger"]
            assert await problems(here) == told
            await here.finish()
            assert await problems(here) == told

    asyncio.run(main())


def test_a_charge_without_a_record_and_a_record_without_a_charge_are_found(path: Path) -> None:
    async def main() -> None:
        async with shop(path) as here:
            await here.begin(R1, "acme")
            r2 = RunId("r2")
            await here.begin(r2, "acme")
            reservation = await here.query(ends=False)
            await here.ledger.settle(reservation, Amounts(calls=1))
            await here.query(r2, Amounts())
            assert await problems(here) == [
                "run 'r1' was charged 0 calls in the log and 1 in the ledger",
                "run 'r2' was charged 1 calls in the log and 0 in the ledger, 12 input_tokens in the log and 0 in the "
                "ledger, 3 output_tokens in the log and 0 in the ledger, 4500 cost_nanousd in the log and 0 in the "
                "ledger",
            ]

    asyncio.run(main())


def test_reads_have_no_record_and_an_abandoned_run_is_charged_what_its_end_says(path: Path) -> None:
    async def main() -> None:
        async with shop(path) as here:
            await here.begin(R1, "acme")
            await here.query()
            await here.query(number=2, ends=False)
            read = await here.ledger.reserve(R1, Amounts(read_bytes=70), now=time.time(), dispatched=True)
            await here.ledger.settle(read, Amounts(read_bytes=50))
            another = Ledger(here.journal, owner="2:2")

            def end(one: Any) -> Job[object]:
                names = [name for name in one.used.__struct_fields__ if name not in GAUGES]
                charged = {name: getattr(one.charged, name) for name in names}
                used = {name: getattr(one.used, name) for name in names}
                return here.audit.entry(one.run, made("run.abandoned", {**used, "charged": charged}))

            assert await another.recover(lambda _: False, end) == 1
            assert await problems(here) == []

    asyncio.run(main())


def test_runs_of_an_older_version_are_not_compared(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with shop(path) as here:
            await here.begin(R1, "acme")
            await here.query(charged=Amounts(calls=1))
            assert len(await problems(here)) == 1
            await meddle(here.journal, "UPDATE reservations SET made_at = substr(made_at, 1, 10)")
            assert await problems(here) == []
            monkeypatch.setattr("belljar.audit.log.VERSION", 2)
            await here.audit.append(RunId("r2"), made("run.started", {}), made("query.requested", {"cell": 0}))
            await here.audit.append(RunId("r2"), made("query.failed", {}))
            assert await problems(here) == []  # the ledger does not know the run

    asyncio.run(main())


def test_a_run_that_was_taken_out_of_the_ledger_is_found(path: Path) -> None:
    """With all that is summed up of it: what is left adds up, and its tenant may spend it all again."""

    async def main() -> None:
        async with shop(path) as here:
            await here.begin(R1, "acme")
            await here.query()
            await here.finish()
            assert await problems(here) == []
            for table in ("runs", "reservations", "balances", "box_reservations", "box_balances"):
                await meddle(here.journal, f"DELETE FROM {table}")
            told = "run 'r1' was charged something in the log, and the ledger does not know it"
            assert await here.quotas.check() == [told]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE limits SET calls = 1000 WHERE calls = 5", ["acme day: the limit of calls is 1000, the log says 5"]),
        ("UPDATE limits SET depth = NULL", ["acme total: the limit of depth is none, the log says 2"]),
        (
            "DELETE FROM limits",
            [
                "acme day: the limit of calls is none, the log says 5",
                "acme total: the limit of depth is none, the log says 2",
            ],
        ),
        (
            "UPDATE limits SET account = 'ghost' WHERE calls = 5",
            [
                "acme day: the limit of calls is none, the log says 5",
                "ghost day: the limit of calls is 5, the log says none",
            ],
        ),
    ],
)
def test_a_limit_that_nobody_set_is_found(path: Path, statement: str, told: list[str]) -> None:
    async def main() -> None:
        async with shop(path) as here:
            await here.quotas.change("acme", {"day": {"calls": 4, "boxes": None}, "total": {"depth": 2}})
            await here.quotas.set("acme", "day", calls=5)
            await here.quotas.set("acme/research", "day", calls=1)
            await here.quotas.clear("acme/research")
            await here.quotas.set("zoo", "hour", calls=None)
            assert await here.quotas.check() == []
            await meddle(here.journal, statement)
            assert await here.quotas.check() == told

    asyncio.run(main())


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE limits SET calls = 'many'", "limits of 'acme' in the ledger are not ours: calls 'many'"),
        ("UPDATE limits SET calls = -5", "limits of 'acme' in the ledger are not ours: calls -5"),
        ("UPDATE limits SET period = 'week'", "limits of 'acme' in the ledger are not ours: 'week'"),
        ("UPDATE runs SET run_limits = CAST('{' AS BLOB)", "limits of a run in the ledger are not ours"),
        ("UPDATE reservations SET short = 'hour:99'", "a reservation of run r1 stands on 'hour:99'"),
        ("UPDATE reservations SET short = 'week:0'", "a reservation of run r1 stands on 'week:0'"),
        ("UPDATE runs SET run_limits = 7", "limits of a run in the ledger are not ours"),
        ("UPDATE reservations SET short = x'ff'", "a reservation of run r1 has no time that is ours"),
        ("UPDATE reservations SET made_at = x'ff'", "a reservation of run r1 has no time that is ours"),
    ],
)
def test_rows_that_nobody_can_have_written_are_told_and_no_crash(path: Path, statement: str, words: str) -> None:
    async def main() -> None:
        async with shop(path) as here:
            await here.quotas.set("acme", "day", calls=5)
            await here.begin(R1, "acme")
            await here.query()
            await meddle(here.journal, statement)
            ask = here.quotas.show if "limits SET" in statement else here.quotas.check
            with pytest.raises(LedgerUnavailable, match=words):
                await ask()

    asyncio.run(main())


@pytest.mark.parametrize("column", ["account", "key"])
def test_balances_of_nobody_are_told_and_no_crash(path: Path, column: str) -> None:
    async def main() -> None:
        async with shop(path) as here:
            await here.begin(R1, "acme")
            await here.query()
            await meddle(
                here.journal, f"UPDATE balances SET {column} = x'ff' WHERE account = 'acme' AND length(key) = 10"
            )
            told = await here.quotas.check()
            assert any("b'\\xff'" in line for line in told)
            if column == "account":
                with pytest.raises(LedgerUnavailable, match=r"a balance of b'\\xff' in the ledger is not ours"):
                    await here.quotas.history()

    asyncio.run(main())


@pytest.mark.parametrize("value", ["'many'", "5.5", "-5"])
@pytest.mark.parametrize("dimension", ["calls", "depth", "context_bytes"])
def test_a_limit_that_nobody_can_have_set_admits_nothing_and_is_told_to_whoever_asks(
    path: Path, dimension: str, value: str
) -> None:
    async def main() -> None:
        async with shop(path) as here:
            await here.quotas.change("acme", {"day": {"calls": 5}, "total": {"depth": 3, "context_bytes": 9}})
            await here.begin(R1, "acme")
            await meddle(here.journal, f"UPDATE limits SET {dimension} = {value} WHERE {dimension} IS NOT NULL")
            asked = here.ledger.admit_job(Tenant("acme"), SPENT, tenant_limits=FREE, now=time.time())
            period: Period = "day" if dimension == "calls" else "total"
            for question in (
                lambda: here.ledger.reserve(R1, SPENT, now=time.time()),
                lambda: here.journal.submit(asked),
                lambda: here.quotas.change("acme", {period: {"read_bytes": 7}}),
                lambda: here.quotas.show(),
            ):
                with pytest.raises(
                    LedgerUnavailable, match=f"limits of 'acme' in the ledger are not ours: {dimension} "
                ):
                    await question()
        if dimension == "context_bytes":
            with pytest.raises(LedgerUnavailable, match="are not ours"):
                context_bounds(path, Tenant("acme"))

    asyncio.run(main())


def test_a_settled_reservation_without_an_amount_is_found(path: Path) -> None:
    async def main() -> None:
        async with shop(path) as here:
            await here.begin(R1, "acme")
            await here.query()
            await meddle(here.journal, "UPDATE reservations SET actual_calls = NULL")
            told = "run 'r1' was charged 1 calls in the log and 0 in the ledger"
            assert told in await here.quotas.check()
            assert told in verify(path).problems

    asyncio.run(main())


def test_balances_that_are_wrong_are_found_and_a_damaged_log_is_no_ledgers_fault(path: Path) -> None:
    async def main() -> None:
        async with shop(path) as here:
            await here.begin(R1, "acme")
            await here.query()
            await meddle(here.journal, "UPDATE balances SET used_calls = 7 WHERE account = 'acme' AND key = 'total'")
            assert await here.quotas.check() == ["acme total: used calls is 7, its reservations say 1"]
            await meddle(here.journal, "DELETE FROM runs")
            assert "the ledger has reservations of run 'r1', and does not know the run" in await here.quotas.check()
            find = "SELECT sql FROM sqlite_master WHERE name = 'records_are_not_changed'"
            (trigger,) = await meddle(here.journal, find)
            await meddle(here.journal, "DROP TRIGGER records_are_not_changed")
            damage = "UPDATE records SET body = CAST(replace(body, '4500', '4.5e') AS BLOB) WHERE seq = 3"
            await meddle(here.journal, damage)
            await meddle(here.journal, trigger[0])
            with pytest.raises(VerificationFailed, match="record 3 of the audit log is not canonical JSON"):
                await here.quotas.check()

    asyncio.run(main())


# -- explaining --------------------------------------------------------------------------------------------------------


def test_a_run_is_explained_by_its_refusals(path: Path) -> None:
    met = {"limit": 10, "observed": 12, "scope": "acme", "period": "day", "used": 9, "held": 1, "waited_ms": 2500}

    async def main() -> None:
        async with shop(path) as here:
            await here.quotas.set("acme", "day", calls=10)
            await here.begin(R1, "acme/research")
            await here.audit.append(
                R1,
                made("query.requested", {"action": "r1.1", "cell": 0}),
                made("query.denied", {"action": "r1.1", "code": "quota.tenant.calls", **met}),
                made("request.refused", {"cell": 0, "asked": "query", "code": "limits.run_wall"}),
                made("request.refused", {"cell": 0, "asked": "read", "code": "quota.tenant.read", "count": 700}),
            )
        found = explain(path, "r1")
        assert found.tenant == "acme/research"
        first, second = found.refusals
        assert (first.asked, first.scope, first.period, first.limit, first.observed) == ("query", "acme", "day", 10, 12)
        assert (first.used, first.held, first.waited_ms) == (9, 1, 2500)
        assert _refused(first).endswith(
            "it would have come to 12 of 10 (9 used, 1 held); it had waited 2.5 s for a period's end"
        )
        assert (second.asked, second.code, second.count, second.scope) == ("read", "quota.tenant.read", 700, None)
        assert second.waited_ms is None
        assert "waited" not in _refused(second)
        assert [(one.tenant, one.period) for one in found.quotas] == [("acme", "day")]
        for unknown in ("r2", "host.quotas"):
            with pytest.raises(InvalidInput, match="the log has no run"):
                explain(path, unknown)

    asyncio.run(main())


def test_what_refused_a_runs_start_or_stopped_it_is_explained_once(path: Path) -> None:
    """Only its end tells of that; the end of a run whose program met a limit repeats what was told before."""
    ended = {"calls": 0, "status": "quota", "code": "quota.tenant.boxes", "limit": 0, "observed": 1}

    async def main() -> None:
        async with shop(path) as here:
            await here.begin(R1, "acme")
            await here.audit.append(R1, made("run.finished", ended))
            await here.begin(R2, "acme")
            met = {"cell": 0, "asked": "read", "code": "quota.tenant.boxes", "scope": "acme", "period": "now"}
            await here.audit.append(R2, made("request.refused", met), made("run.finished", ended))
        (stopped,), (refused,) = explain(path, "r1").refusals, explain(path, "r2").refusals
        assert (stopped.asked, stopped.scope, stopped.limit, stopped.observed) == ("run", None, 0, 1)
        assert _refused(stopped) == (
            "a limit (quota.tenant.boxes) on boxes at once refused a run: it would have come to 1 of 0"
        )
        assert _refused(refused) == "the limit of tenant acme on boxes at once refused a read"

    asyncio.run(main())


# -- many --------------------------------------------------------------------------------------------------------------


def _many(first: int, count: int) -> Job[None]:
    """Tenants with a limit, a run and a settled reservation each, as they would stand after long use."""
    minute, nothing = period_key("minute", time.time()), CALLS.nothing
    used = (0, 0, 0, 0, 7, *nothing[5:])
    free = msgspec.json.encode(FREE)

    def work(draft: Draft) -> None:
        for number in range(first, first + count):
            tenant, run = f"t{number}", f"m{number}"
            draft.put(LIMITS, LimitsRow(tenant, "day", (9, *(None,) * (len(LIMITED) - 1))))
            draft.put(RUNS, RunRow(run, tenant, "1:1", free, free, 0))
            draft.put(RESERVATIONS, ReservationRow(f"x{number}", run, minute, "", "settled", used, used))
            draft.put(BALANCES, BalanceRow(f"run:{run}", "total", used, nothing))
            for key in (minute[:10], minute[:7], "total"):
                draft.put(BALANCES, BalanceRow(tenant, key, used, nothing))

    return Job(work)


def test_ten_thousand_tenants_are_shown_and_checked_in_linear_time(path: Path) -> None:
    async def main() -> None:
        async with shop(path) as here:
            took: list[float] = []
            for count in (2_000, 8_000):
                first = 0 if not took else 2_000
                await here.journal.submit(_many(first, count))
                began = time.process_time()
                assert len(await here.quotas.show()) == 3 * (first + count)
                odd = await here.quotas.check()
                assert [line for line in odd if "the limit of calls is 9, the log says none" not in line] == []
                took.append(time.process_time() - began)
            assert took[1] < 5 * took[0] * 3
            assert took[1] < 10

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.usefixtures("store")
def test_limits_are_set_for_ten_thousand_tenants_in_linear_time(path: Path) -> None:
    """One by one, each with its record; and whoever has that many neighbours sets one as soon as the first did."""

    async def main() -> None:
        log = journals.place(path)
        assert log is not None
        async with shop(log) as here:
            took: list[float] = []
            for numbers in (range(2_000), range(2_000, 8_000), range(8_000, 10_000)):
                began = time.process_time()
                await asyncio.gather(*(here.quotas.set(f"t{number}/a", "day", calls=number) for number in numbers))
                took.append(time.process_time() - began)
            assert took[2] < 5 * took[0]  # nine times as long, if each went through all that are there
            found = {one.tenant: one.limits for one in await here.quotas.show()}
            assert {tenant: limits and limits.calls for tenant, limits in found.items()} == {
                f"t{number}/a": number for number in range(10_000)
            }
            one: list[float] = []
            for calls in range(3):  # in one of them no garbage is collected
                began = time.process_time()
                await here.quotas.set("t77/a", "day", calls=calls)
                one.append(time.process_time() - began)
            assert min(one) < took[0] / 10
            assert await here.quotas.check() == []
        report = verify(log)
        assert (report.records, report.problems) == (10_003, [])

    asyncio.run(main())


def test_a_reader_needs_no_writer(path: Path) -> None:
    """What only reads goes on while somebody else holds the write lock."""

    async def main() -> None:
        async with shop(path) as here:
            await here.quotas.set("acme", "day", calls=1)
            release = asyncio.Event()
            loop = asyncio.get_running_loop()

            def hold(_: Draft) -> None:
                asyncio.run_coroutine_threadsafe(release.wait(), loop).result(60)

            holding = here.journal.submit(Job(hold), unavailable=AuditUnavailable)
            try:
                assert len(await here.quotas.show()) == 1
                assert await here.quotas.check() == []
            finally:
                release.set()
                await holding

    asyncio.run(main())
