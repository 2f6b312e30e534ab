"""What becomes of orders whose process is killed, and of those that another process has; on both stores."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from belljar import Host
from belljar.audit import Record, records, verify
from belljar.errors import InvalidInput
from belljar.jobs import Asked, Desk, DeskLimits, IdempotencyConflict, NoSuchRun, OrderState
from belljar.streaming import CellEvent, QueryEvent, ResultEvent
from belljar.testing import FakeModel
from tests.integration.serving import PAID, RATES, TENANT, answer, prompt_of
from tests.integration.support import PATIENCE_S, Jar
from tests.waiting import in_time

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")
# Four queries in one cell: the third has no answer in the first process.
PROGRAM = "a = [llm_query(name) for name in ('one', 'two', '{word} three', 'four')]\nFINAL(a)"


def asking(word: str, **more: Any) -> Asked:
    question = f"Do it.\nPROGRAM {json.dumps(PROGRAM.format(word=word))}"
    return Asked(question=question, model=PAID, policy="standard", **more)


def drive(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 3 * PATIENCE_S))  # what waits in vain inside says so before


class Serving:
    """A process with a desk, on the journal of the test's own."""

    def __init__(self, jar: Jar, place: Path | str, *orders: tuple[str, Asked]) -> None:
        given = [json.dumps({"idem": idem, "asked": msgspec.to_builtins(asked)}) for idem, asked in orders]
        keys = str(jar.work / "keys")
        command = [sys.executable, "-m", "tests.integration.serving", str(place), str(jar.at), keys, *given]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def says(self) -> dict[str, str]:
        """The next that it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it ended with {self.process.wait()}"
        found: dict[str, str] = json.loads(line)
        return found

    def until_it_hangs(self, count: int) -> list[str]:
        """The runs of so many orders, once one of them gets no answer."""
        said = [self.says() for _ in range(count + 1)]
        assert any("hangs" in one for one in said)
        return [one["run"] for one in said if "made" in one]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def place(jar: Jar, store: str, request: pytest.FixtureRequest) -> Path | str:
    """Where the log and the ledger are."""
    if store == "sqlite":
        return jar.at
    url: str = request.getfixturevalue("postgres").database()
    return url


@pytest.fixture
def serving(jar: Jar, place: Path | str) -> Iterator[Any]:
    started: list[Serving] = []

    def start(*orders: tuple[str, Asked]) -> Serving:
        started.append(Serving(jar, place, *orders))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@contextlib.asynccontextmanager
async def desk_of(jar: Jar, place: Path | str, model: FakeModel) -> AsyncIterator[Desk]:
    environ = {"BELLJAR_HOME": str(jar.at), "BELLJAR_KEYS": str(jar.work / "keys")}
    host = Host(state=place, environ=environ, models=[model])
    async with host, Desk(host, DeskLimits(running=1)) as desk:
        yield desk


def of(desk: Desk, run: str, event: str) -> list[Record]:
    return [record for record in records(desk.host.state.journal, run) if record.event == event]


async def sound(desk: Desk) -> None:
    """The log verifies, nothing is open, and the books balance."""
    report = await asyncio.to_thread(verify, desk.host.state.journal)
    assert (report.problems, report.unfinished) == ([], [])
    assert await desk.host.quotas.check() == []


async def becomes(desk: Desk, run: str, state: str) -> OrderState:
    async with in_time(PATIENCE_S, f"{run} is {state}"):
        while (found := await desk.get(run)).state != state:  # noqa: ASYNC110 - another process does not tell
            await asyncio.sleep(0.02)
    return found


def all_answered(word: str) -> FakeModel:
    """Answers what the first process does not."""

    async def answered(request: Any) -> str:
        if request.purpose != "root" and word in prompt_of(request):
            return f"late answer to {prompt_of(request)}"
        return await answer(request)

    return FakeModel(answered, PAID, rates=RATES)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("belljar.jobs.following.LOOK_S", 0.05)


def test_after_a_kill_orders_are_interrupted_and_a_retry_pays_only_for_what_was_not_answered(
    jar: Jar, place: Path | str, serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("belljar.recovery.LEASE_S", 0.0)
    first = serving(("k1", asking("hang")), ("k2", asking("x")))
    running, queued = first.until_it_hangs(2)
    first.kill()
    model = all_answered("hang")

    async def go() -> None:
        async with desk_of(jar, place, model) as desk:
            states = [await desk.get(run) for run in (running, queued)]
            assert [one.state for one in states] == ["interrupted"] * 2
            assert [one.by for one in states] == ["key:first"] * 2
            assert [one.run for one in (await desk.ls(TENANT, status="interrupted")).runs] == sorted(
                [running, queued], reverse=True
            )
            assert [event async for event in desk.events(queued)] == []
            for changed in (asking("hang", sub_model=PAID), asking("other")):
                with pytest.raises(IdempotencyConflict):
                    await desk.submit(changed, tenant=TENANT, by="key:second", idem="k1")
            orders = await asyncio.gather(
                *(desk.submit(asking("hang"), tenant=TENANT, by="key:second", idem="k1") for _ in range(3))
            )
            (run,) = {one.run for one in orders}
            assert sorted(one.made for one in orders) == ["forked", "known", "known"]
            assert next(one for one in orders if one.made == "forked").retries == running
            ended = await desk.wait(run, PATIENCE_S)
            assert ended.result is not None
            assert (ended.state, ended.by) == ("ok", "key:second")
            said = ["answer to one", "answer to two", "late answer to hang three", "answer to four"]
            assert ended.result.answer == said
            assert [prompt_of(request) for request in model.requests] == ["hang three", "four"]
            assert ended.result.cost_nanousd == 2 * 12 * 1000  # five tokens in and seven out, each
            assert (await desk.get(running)).retried_as == run
            (started,) = of(desk, run, "run.started")
            assert (started.data["forks"], started.data["from_turn"], started.data["by"]) == (running, 2, "key:second")
            (before,) = of(desk, running, "run.started")
            assert started.data["seed"] == before.data["seed"]
            again = await desk.submit(asking("x"), tenant=TENANT, by="key:second", idem="k2")
            assert (again.made, again.retries) == ("anew", queued)
            assert (await desk.wait(again.run, PATIENCE_S)).state == "ok"
            await sound(desk)

    drive(go())


def test_a_retry_that_is_interrupted_before_its_turn_takes_nothing_from_the_next_one(
    jar: Jar, place: Path | str, serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("belljar.recovery.LEASE_S", 0.0)
    first = serving(("k1", asking("hang")))
    (running,) = first.until_it_hangs(1)
    first.kill()
    model = all_answered("hang")

    async def settled() -> None:
        async with desk_of(jar, place, model) as desk:
            assert (await desk.get(running)).state == "interrupted"

    drive(settled())
    second = serving(("k0", asking("hang")), ("k1", asking("hang")))
    _, queued = second.until_it_hangs(2)
    second.kill()

    async def go() -> None:
        async with desk_of(jar, place, model) as desk:
            assert [(await desk.get(run)).retried_as for run in (running, queued)] == [queued, None]
            order = await desk.submit(asking("hang"), tenant=TENANT, by="key:third", idem="k1")
            assert (order.made, order.retries) == ("forked", queued)
            ended = await desk.wait(order.run, PATIENCE_S)
            assert ended.result is not None
            assert ended.result.answer == [
                "answer to one",
                "answer to two",
                "late answer to hang three",
                "answer to four",
            ]
            assert [prompt_of(request) for request in model.requests] == ["hang three", "four"]
            (started,) = of(desk, order.run, "run.started")
            assert (started.data["forks"], started.data["from_turn"]) == (running, 2)
            await sound(desk)

    drive(go())


def test_where_nothing_was_kept_a_retry_begins_anew_and_says_so(
    jar: Jar, place: Path | str, serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("belljar.recovery.LEASE_S", 0.0)
    strict = msgspec.structs.replace(asking("hang"), policy="strict")
    first = serving(("k1", strict))
    (running,) = first.until_it_hangs(1)
    first.kill()
    model = all_answered("hang")

    async def go() -> None:
        async with desk_of(jar, place, model) as desk:
            order = await desk.submit(strict, tenant=TENANT, by="key:second", idem="k1")
            assert (order.made, order.retries) == ("anew", running)
            ended = await desk.wait(order.run, PATIENCE_S)
            assert ended.state == "ok"
            assert len(model.requests) == 5
            (started,) = of(desk, order.run, "run.started")
            assert "forks" not in started.data
            await sound(desk)

    drive(go())


def test_another_process_looks_at_an_order_listens_to_it_and_cancels_it(
    jar: Jar, place: Path | str, serving: Any
) -> None:
    first = serving(("k1", asking("hang")), ("k2", asking("x")))
    running, queued = first.until_it_hangs(2)

    async def go() -> None:
        async with desk_of(jar, place, all_answered("hang")) as desk:
            found = await desk.get(running)
            assert (found.state, found.tenant, found.by, found.model) == ("running", "acme", "key:first", PAID)
            assert (await desk.get(queued)).state == "queued"
            assert {one.run: one.state for one in (await desk.ls(TENANT)).runs} == {
                running: "running",
                queued: "queued",
            }
            known = await desk.submit(asking("hang"), tenant=TENANT, by="key:second", idem="k1")
            assert (known.run, known.made, known.state) == (running, "known", "running")

            async def heard() -> list[tuple[int, object]]:
                return [pair async for pair in desk.events(running)]

            listening = [asyncio.create_task(heard()) for _ in range(50)]
            while desk.load()["listeners"] < 50:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.01)
            assert not (await desk.wait(running, 0.1)).result
            assert (await desk.cancel(queued, by="key:second")).state in ("cancelling", "cancelled")
            await becomes(desk, queued, "cancelled")
            await desk.cancel(running, by="key:second")
            ended = await desk.wait(running, PATIENCE_S)
            assert ended.state == "killed"
            events = await asyncio.gather(*listening)
            assert all(one == events[0] for one in events)
            kinds = {type(event) for _, event in events[0]}
            assert {CellEvent, QueryEvent, ResultEvent} <= kinds
            assert isinstance(events[0][-1][1], ResultEvent)
            assert desk.load()["listeners"] == 0
            assert desk._following._tails == {}
            with pytest.raises(NoSuchRun):
                await anext(desk.events("20261129T120000-5f0c1d9a7b3e"))

    drive(go())


def test_of_two_processes_on_one_journal_the_living_one_settles_what_the_killed_one_had(
    jar: Jar, place: Path | str, serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = serving(("k1", asking("hang")), ("k2", asking("x")))
    running, queued = first.until_it_hangs(2)

    async def go() -> None:
        async with desk_of(jar, place, all_answered("hang")) as desk:
            own = await desk.submit(asking("own"), tenant=TENANT, by="key:second", idem="own")
            assert (await desk.wait(own.run, PATIENCE_S)).state == "ok"
            assert await desk.recover() == 0  # everybody lives
            assert [(await desk.get(run)).state for run in (running, queued)] == ["running", "queued"]
            listening = asyncio.create_task(_all(desk, running))
            while not desk.load()["listeners"]:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.01)
            first.kill()
            monkeypatch.setattr("belljar.recovery.LEASE_S", 0.0)
            assert await desk.recover() == 1
            assert [(await desk.get(run)).state for run in (running, queued)] == ["interrupted"] * 2
            events = await listening
            assert events
            assert not isinstance(events[-1], ResultEvent)
            order = await desk.submit(asking("hang"), tenant=TENANT, by="key:second", idem="k1")
            assert order.made == "forked"
            assert (await desk.wait(order.run, PATIENCE_S)).state == "ok"
            await sound(desk)

    drive(go())


async def _all(desk: Desk, run: str) -> list[object]:
    return [event async for _, event in desk.events(run)]


def test_a_run_of_another_process_that_no_service_ordered_cannot_be_cancelled_here(jar: Jar) -> None:
    async def go() -> None:
        environ = {"BELLJAR_KEYS": str(jar.work / "keys")}
        async with (
            Host(state=jar.at, environ=environ) as other,
            desk_of(jar, jar.at, FakeModel(name=PAID)) as desk,
            other.session() as session,
        ):
            (live,) = other.live()
            assert (await desk.get(live.run)).state == "running"
            with pytest.raises(InvalidInput) as caught:
                await desk.cancel(live.run, by="key:second")
            assert caught.value.code == "run.elsewhere"
            assert (await session.execute("1")).status == "ok"

    drive(go())
