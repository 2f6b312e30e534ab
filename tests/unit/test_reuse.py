"""Answers of equal queries: who has them, who pays, what the log says of it, and that no tenant sees another's."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from belljar.audit import AuditLog, records, verify
from belljar.audit.events import RunFinished, RunStarted
from belljar.broker import Calls, Reuse, RunScope, reuse
from belljar.errors import AuditUnavailable, ModelFailed, QuotaExceeded, Refusal
from belljar.identity import RunId, Tenant
from belljar.journal import open_journal
from belljar.ledger import Amounts, Ledger, Limits, run_account
from belljar.models import ModelReply, ModelRequest, Prices, Rates, Usage
from belljar.policy import Policy, load
from belljar.protocol import Answers
from belljar.tasks import Nursery
from belljar.testing import FakeClock, FakeModel
from tests import journals
from tests.journals import OwnLog
from tests.unit import test_quota_crossings
from tests.unit.audit_events import made
from tests.unit.broker_fakes import INPUT_NANOUSD, NOON, OUTPUT_NANOUSD, UNLIMITED, drive, policy_with, reply, world
from tests.unit.test_broker import ask
from tests.unit.test_calls import cost, only, question, worst
from tests.waiting import in_time, pass_time

on_each_store = pytest.mark.usefixtures("store")
ACME, LAB = Tenant("acme"), Tenant("acme/lab")
COALESCE = policy_with(models={"coalesce": "on"})
CACHE = policy_with(models={"cache_s": 60.0})
BOTH = policy_with(models={"coalesce": "on", "cache_s": 60.0})


class Gate(test_quota_crossings.Gate):
    async def under_way(self, count: int) -> None:
        async with in_time(30, f"{count} calls are under way"):  # sooner than `drive` gives up
            await super().under_way(count)


class Arrivals(Reuse):
    """Counts the queries that came; each has then either asked a model, or waits for another."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    async def answer(self, *args: Any) -> tuple[reuse.Known, reuse.Source | None]:
        self._count += 1
        return await super().answer(*args)

    async def until(self, count: int) -> None:
        async with in_time(60, f"{count} queries came"):
            while self._count < count:  # noqa: ASYNC110 - they are tasks of the test
                await asyncio.sleep(0.001)


class Runs:
    """Runs of several tenants on one host. Made by `runs`."""

    def __init__(self, ledger: Ledger, audit: AuditLog, path: Path, tasks: Nursery) -> None:
        self.ledger = ledger
        self.audit = audit
        self.clock = FakeClock()
        self._path = path
        self._tasks = tasks
        self.reuse = Arrivals()
        self.made: dict[RunId, Calls] = {}

    async def begin(self, tenant: Tenant = ACME, policy: Policy = BOTH, limits: Limits = UNLIMITED) -> Calls:
        run = RunId(f"r{len(self.made) + 1}")
        started = self.audit.entry(run, RunStarted(tenant=tenant, contexts=[]))
        await self.ledger.open_run(run, tenant, run_limits=limits, tenant_limits=UNLIMITED, beside=started)
        scope = RunScope(
            run=run,
            tenant=tenant,
            policy=policy,
            deadline=self.clock.now + policy.limits.run_wall_s,
            now=lambda: NOON,
            monotonic=self.clock,
            tasks=self._tasks,
        )
        prices = Prices({"fake": Rates(Decimal(INPUT_NANOUSD), Decimal(OUTPUT_NANOUSD))})
        calls = Calls(scope, audit=self.audit, ledger=self.ledger, prices=prices, reuse=self.reuse)
        self.made[run] = calls
        return calls

    async def used(self, calls: Calls) -> Amounts:
        await calls.settled()
        run = next(run for run, one in self.made.items() if one is calls)
        return (await self.ledger.balance(run_account(run), "total")).used

    def _log(self) -> Path | str:
        place = journals.place(self._path)
        assert place is not None
        return place

    async def data(self, event: str) -> list[dict[str, Any]]:
        await self.audit.flush()
        return [record.data for record in records(self._log()) if record.event == event]

    async def close(self) -> None:
        """Whatever happened, the books balance, nothing is held, and the log agrees with them."""
        for run, calls in self.made.items():
            await calls.settled()
            assert (await self.ledger.balance(run_account(run), "total")).held == Amounts()
            await self.ledger.close_run(run, beside=self.audit.entry(run, RunFinished(status="ok", calls=0)))
        assert await self.ledger.check_books() == []
        report = verify(self._log())
        assert (report.problems, report.unfinished) == ([], [])


@contextlib.asynccontextmanager
async def runs(folder: Path) -> AsyncIterator[Runs]:
    path = folder / "audit.db"
    journal = open_journal(journals.place(path), unavailable=AuditUnavailable)
    try:
        async with Nursery() as tasks:
            made = Runs(Ledger(journal, owner="1:1"), AuditLog(journal), path, tasks)
            yield made
            await made.close()
    finally:
        await journal.aclose()


def nothing() -> None:
    """For whoever does not care whether an answer was used again."""


def asked(
    calls: Calls, model: FakeModel, text: str = "why?", deadline: float | None = None
) -> asyncio.Task[ModelReply]:
    return asyncio.create_task(calls.ask(model, question(text), cell=0, reused=nothing, deadline=deadline))


# -- under way ---------------------------------------------------------------------------------------------------------


@on_each_store
def test_equal_queries_under_way_share_one_call_and_one_of_them_pays(tmp_path: Path) -> None:
    async def test() -> None:
        gate = Gate()
        async with runs(tmp_path) as here:
            one, other = await here.begin(policy=COALESCE), await here.begin(policy=COALESCE)
            first = asked(one, gate.model)
            await gate.under_way(1)
            rest = [asked(one, gate.model), asked(other, gate.model), asked(other, gate.model)]
            different = asked(other, gate.model, "and how?")
            await gate.under_way(2)
            await here.reuse.until(5)
            gate.open.set()
            assert [answer.text for answer in await asyncio.gather(first, *rest, different)] == ["late"] * 5
            assert len(gate.model.requests) == 2
            assert (await here.used(one), await here.used(other)) == (cost(5, 7), cost(5, 7))
            [completed, _] = await here.data("query.completed")
            said = await here.data("query.reused")
            assert [(one["source"], one["origin"]) for one in said] == [("flight", "r1.1")] * 3
            assert {one["reply_sha256"] for one in said} == {completed["reply_sha256"]}
            assert len({one["action"] for one in said}) == 3

    drive(test())


def test_nothing_is_shared_or_kept_unless_the_policy_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        gate = Gate()
        for preset in ("strict", "standard", "dev"):
            assert (load(preset).models.coalesce, load(preset).models.cache_s) == ("off", 0)
        async with runs(tmp_path) as here:
            calls = await here.begin(policy=load("standard"))
            working = [asked(calls, gate.model) for _ in range(3)]
            await gate.under_way(3)
            gate.open.set()
            await asyncio.gather(*working)
            await asked(calls, gate.model)
            assert (await here.used(calls)).calls == 4
            assert await here.data("query.reused") == []

    drive(test())


def test_a_root_model_s_turns_are_never_those_of_another(tmp_path: Path) -> None:
    async def test() -> None:
        model = FakeModel()
        async with runs(tmp_path) as here:
            calls = await here.begin()
            for _ in range(2):
                await calls.ask(model, question(), cell=0)
            assert len(model.requests) == 2

    drive(test())


@on_each_store
@pytest.mark.parametrize("same_run", [True, False])
def test_who_waits_outlives_the_leader_s_cancellation_and_one_of_them_leads_next(
    tmp_path: Path, same_run: bool
) -> None:
    async def test() -> None:
        gate = Gate()
        async with runs(tmp_path) as here:
            first = await here.begin()
            second = first if same_run else await here.begin()
            leader = asked(first, gate.model)
            await gate.under_way(1)
            followers = [asked(second, gate.model) for _ in range(3)]
            await here.reuse.until(4)
            leader.cancel()
            await gate.under_way(2)
            gate.open.set()
            assert [answer.text for answer in await asyncio.gather(*followers)] == ["late"] * 3
            assert leader.cancelled()
            assert len(gate.model.requests) == 2
            given_up, paid = worst(question()), cost(5, 7)
            spent = [await here.used(first), await here.used(second)]
            assert sum(one.cost_nanousd for one in spent[: 1 if same_run else 2]) == (
                given_up.cost_nanousd + paid.cost_nanousd
            )
            assert len(await here.data("query.reused")) == 2

    drive(test())


def test_a_leader_that_its_quota_refuses_takes_nobody_along(tmp_path: Path) -> None:
    async def test() -> None:
        gate = Gate()
        async with runs(tmp_path) as here:
            poor, rich = await here.begin(limits=only(calls=1)), await here.begin()
            holding = asked(poor, gate.model, "first")
            await gate.under_way(1)
            leader = asked(poor, gate.model)  # waits for what is held, and then is refused
            await here.reuse.until(2)
            follower = asked(rich, gate.model)
            await here.reuse.until(3)
            gate.open.set()
            assert (await follower).text == "late"
            with pytest.raises(QuotaExceeded):
                await leader
            await holding
            assert (await here.used(poor), await here.used(rich)) == (cost(5, 7), cost(5, 7))

    drive(test())


def test_a_failure_is_the_leader_s_own_and_is_not_kept(tmp_path: Path) -> None:
    async def test() -> None:
        opened = asyncio.Event()
        failures = 2

        async def answering(_: ModelRequest) -> ModelReply:
            nonlocal failures
            await opened.wait()
            if failures:
                failures -= 1
                raise ModelFailed("overloaded", charged=False, retryable=False)
            return reply("fine")

        model = FakeModel(answering)
        async with runs(tmp_path) as here:
            calls = await here.begin()
            leader = asked(calls, model)
            async with in_time(60, "it is asked"):
                while not model.requests:  # noqa: ASYNC110 - the model is ours
                    await asyncio.sleep(0.001)
            followers = [asked(calls, model) for _ in range(2)]
            await here.reuse.until(3)
            opened.set()
            results = await asyncio.gather(leader, *followers, return_exceptions=True)
            assert [isinstance(one, ModelFailed) for one in results].count(True) == 2
            assert isinstance(results[0], ModelFailed)
            assert len(model.requests) == 3
            assert (await asked(calls, model)).text == "fine"
            assert len(model.requests) == 3  # the answer is kept, the failures are not
            assert (await here.used(calls)).calls == 3

    drive(test())


@pytest.mark.parametrize(
    ("text", "stop_reason"), [("half", "max_tokens"), ("no", "refusal"), (" \n", "end_turn"), ("odd", "something new")]
)
def test_what_is_no_whole_answer_is_not_used_again(tmp_path: Path, text: str, stop_reason: str) -> None:
    async def test() -> None:
        opened = asyncio.Event()

        async def answering(_: ModelRequest) -> ModelReply:
            await opened.wait()
            return ModelReply(text, Usage(5, 7), "fake-1", stop_reason)

        model = FakeModel(answering)
        async with runs(tmp_path) as here:
            calls = await here.begin()
            working = [asked(calls, model) for _ in range(3)]
            await here.reuse.until(3)
            async with in_time(60, "it is asked"):
                while not model.requests:  # noqa: ASYNC110 - the model is ours
                    await asyncio.sleep(0.001)
            assert len(model.requests) == 1
            opened.set()
            await asyncio.gather(*working)
            await asked(calls, model)
            assert len(model.requests) == 4
            assert await here.data("query.reused") == []

    drive(test())


def test_nobody_waits_for_another_query_longer_than_its_own_cell_lasts(tmp_path: Path) -> None:
    async def test() -> None:
        gate = Gate()
        async with runs(tmp_path) as here:
            calls = await here.begin()
            leader = asked(calls, gate.model)
            await gate.under_way(1)
            follower = asked(calls, gate.model, deadline=here.clock.now + 0.05)
            await gate.under_way(2)  # it asks by itself
            gate.open.set()
            await asyncio.gather(leader, follower)
            assert (await here.used(calls)).calls == 2

    drive(test())


# -- kept --------------------------------------------------------------------------------------------------------------


@on_each_store
def test_a_kept_answer_costs_nothing_and_the_log_says_whose_it_is(tmp_path: Path) -> None:
    async def test() -> None:
        model = FakeModel()
        async with runs(tmp_path) as here:
            one = await here.begin(policy=CACHE)
            other = await here.begin(policy=CACHE, limits=only(calls=0, cost_nanousd=0))
            assert (await asked(one, model)).text == (await asked(other, model)).text == "to why?"
            assert (await here.used(one), await here.used(other)) == (cost(5, 7), Amounts())
            assert other.spent.calls == other.spent.cost_nanousd == 0
            [requested], [completed] = await here.data("query.requested"), await here.data("query.completed")
            found = await here.data("query.reused")
            assert len(found) == 1
            [said] = found
            assert (said["source"], said["origin"], said["action"]) == ("cache", completed["action"], "r2.1")
            for name in ("model", "prompt_sha256", "prompt_bytes", "output_tokens_max"):
                assert said[name] == requested[name]
            for name in ("reply_sha256", "reply_bytes", "answered_by", "stop_reason"):
                assert said[name] == completed[name]

    drive(test())


def test_an_answer_is_kept_for_as_long_as_the_asker_s_policy_says(tmp_path: Path) -> None:
    async def test() -> None:
        model = FakeModel()
        long, short = (policy_with(models={"cache_s": age}) for age in (30.0, 10.0))
        async with runs(tmp_path) as here:
            patient, eager = await here.begin(policy=long), await here.begin(policy=short)
            none = await here.begin(policy=load("standard"))
            await asked(patient, model)
            pass_time(15)
            await asked(patient, model)
            assert len(model.requests) == 1
            await asked(none, model)
            assert len(model.requests) == 2
            await asked(eager, model)  # 15 seconds are too old for it; this answer is new for both
            assert len(model.requests) == 3
            pass_time(30)
            async with in_time(60, "nothing is kept any more"):
                while here.reuse._caches:  # noqa: ASYNC110 - a timer of the loop
                    await asyncio.sleep(0.001)
            await asked(patient, model)
            assert len(model.requests) == 4

    drive(test())


def test_other_settings_and_another_model_of_the_same_name_are_asked_anew(tmp_path: Path) -> None:
    async def test() -> None:
        model, namesake = FakeModel(), FakeModel()
        async with runs(tmp_path) as here:
            calls = await here.begin()
            await asked(calls, model)
            await calls.ask(model, question(output_tokens_max=100), cell=0, reused=nothing)
            await calls.ask(model, ModelRequest("else", question().messages, 200, 60.0, "sub"), cell=0, reused=nothing)
            await asked(calls, model, "why? ")
            assert len(model.requests) == 4
            await asked(calls, namesake)
            assert len(namesake.requests) == 1
            await asked(calls, model)
            assert len(model.requests) == 4

    drive(test())


@pytest.mark.parametrize("bound", ["ENTRIES_MAX", "BYTES_MAX"])
def test_what_a_tenant_keeps_is_bounded_and_what_was_used_last_stays(
    tmp_path: Path, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 2048 + 4 * len("to a")
    monkeypatch.setattr(reuse, bound, 2 if bound == "ENTRIES_MAX" else 2 * size)

    async def test() -> None:
        model = FakeModel()
        async with runs(tmp_path) as here:
            calls = await here.begin()
            for text in ("a", "b", "a", "c", "a", "b"):
                await asked(calls, model, text)
            assert [request.messages[-1].text for request in model.requests] == ["a", "b", "c", "b"]
            if bound == "BYTES_MAX":
                await asked(calls, model, "x" * size)  # too large by itself: it displaces nothing
                await asked(calls, model, "b")
                assert len(model.requests) == 5

    drive(test())


# -- tenants -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["acme", "acme/lab/eve", "acme/lab2", "globex"])
def test_no_tenant_has_or_waits_for_an_answer_of_another(tmp_path: Path, other: str) -> None:
    """Not of one above or below it either; nor can it tell by the time that an answer takes."""

    async def test() -> None:
        gate = Gate()
        async with runs(tmp_path) as here:
            theirs, ours = await here.begin(LAB), await here.begin(Tenant(other))
            leader = asked(theirs, gate.model)
            await gate.under_way(1)
            mine = asked(ours, gate.model)
            await gate.under_way(2)  # it is asked at once, though an equal one is under way
            gate.open.set()
            await asyncio.gather(leader, mine)
            await asked(theirs, gate.model, "kept")
            await asked(ours, gate.model, "kept")
            assert len(gate.model.requests) == 4
            assert (await here.used(theirs)).calls == (await here.used(ours)).calls == 2
            assert await here.data("query.reused") == []

    drive(test())


def test_what_one_tenant_keeps_displaces_nothing_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "ENTRIES_MAX", 2)

    async def test() -> None:
        model = FakeModel()
        async with runs(tmp_path) as here:
            ours, theirs = await here.begin(LAB), await here.begin(ACME)
            await asked(ours, model, "mine")
            for number in range(5):
                await asked(theirs, model, str(number))
            await asked(ours, model, "mine")
            assert len(model.requests) == 6

    drive(test())


# -- the program, and the log ------------------------------------------------------------------------------------------


def test_a_batch_of_equal_prompts_is_paid_once_and_each_has_its_answer(tmp_path: Path) -> None:
    async def test() -> None:
        model = FakeModel()
        async with world(tmp_path, policy=COALESCE, model=model) as here:
            await here.in_cell()
            said = await here.say(*ask("a", "b", "a", "a"))
            assert said is not None
            assert isinstance(said[0], Answers)
            assert bytes(said[1]) == b"to ato bto ato a"
            assert (await here.balance()).used.calls == 2
            assert (here.broker.queries, len(model.requests)) == (4, 2)

    drive(test())


def test_answers_that_cost_nothing_are_charged_as_frames_and_cannot_fill_the_log(tmp_path: Path) -> None:
    async def test() -> None:
        policy = policy_with(models={"cache_s": 60.0}, limits={"output_flood_bytes": 64 * 1024})
        async with world(tmp_path, policy=policy, model=FakeModel()) as here:
            await here.in_cell()

            async def flood() -> None:
                for _ in range(100):
                    await here.say(*ask("a"))

            with pytest.raises(Refusal) as caught:
                await flood()
            assert caught.value.code == "limits.output_flood"
            assert Counter(here.events())["query.reused"] == 17

    drive(test())


def reused(**fields: Any) -> Any:
    return made("query.reused", {"cell": 0, "action": "r2.9", **fields})


@pytest.mark.parametrize(
    ("run", "fields", "problem"),
    [
        ("r2", {"origin": "r1.1"}, "'r1.1', which is not of the same tenant"),
        ("r2", {"origin": "r7.1"}, "'r7.1', which is not of the same tenant"),
        ("r1", {"origin": "r1.1", "reply_sha256": "e" * 64}, "'r1.1', which did not give it"),
        ("r1", {"origin": "r1.1", "prompt_sha256": "e" * 64}, "'r1.1', which did not give it"),
        ("r1", {"origin": "r1.7"}, "'r1.7', which did not give it"),
        ("r1", {"origin": "r1.1", "action": "r1.1"}, "action 'r1.1' was already requested"),
        ("r1", {"origin": "r1.1", "cell": 3}, "in cell 3, which has not begun"),
        ("r1", {"origin": "r1.1"}, None),
        ("r3", {"origin": "r1.1"}, None),
    ],
)
def test_an_answer_that_cannot_have_been_given_is_found(
    tmp_path: Path, run: str, fields: dict[str, Any], problem: str | None
) -> None:
    async def write() -> None:
        log = OwnLog(tmp_path / "audit.db")
        for name, tenant in (("r1", "acme"), ("r2", "globex"), ("r3", "acme")):
            await log.append(RunId(name), made("run.started", {"tenant": tenant}))
        await log.append(RunId("r1"), made("query.requested", {"cell": 0}), made("query.completed", {}))
        await log.append(RunId(run), reused(**fields))
        for name in ("r1", "r2", "r3"):
            await log.append(RunId(name), made("run.finished", {}))
        await log.aclose()

    drive(write())
    problems = verify(tmp_path / "audit.db").problems
    assert len(problems) == (problem is not None)
    assert all((problem or "") in one for one in problems)
