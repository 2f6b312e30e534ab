"""Replays and forks as orders: the same queue, quotas, cancel and drain as runs, and who ordered them in the log."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from belljar.audit import Record, records
from belljar.errors import InvalidInput, InvalidPolicy, QuotaExceeded, Refusal
from belljar.host import Host
from belljar.jobs import (
    Asked,
    AskedAgain,
    Busy,
    Context,
    Desk,
    DeskLimits,
    NoSuchRun,
    OrderState,
    RegisteredContext,
    TextContext,
)
from belljar.jobs.again import Again, read_again
from belljar.policy import Policy, load, parse
from belljar.service.pages import DemoModel
from belljar.testing import FakeModel
from tests.integration.support import PATIENCE_S, Jar
from tests.integration.test_jobs import ACME, HANGS, OTHER, Gate, code, desk_of, of, state, until
from tests.waiting import in_time

T = TypeVar("T")
DEMO = "scripted:demo"
TEXT = "The grass is green.\n" * 100


def drive(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, PATIENCE_S))


@pytest.fixture
def place(jar: Jar, store: str, request: pytest.FixtureRequest) -> Path | str:
    """Where the log and the ledger are."""
    if store == "sqlite":
        return jar.at
    url: str = request.getfixturevalue("postgres").database()
    return url


async def asked_about(desk: Desk, text: str = TEXT, model: str = DEMO) -> str:
    """A run of three turns over a context that stays registered."""
    document = await desk.host.add_context(text, name="grass", tenant=ACME)
    contexts: dict[str, Context] = {"context": RegisteredContext(f"sha256:{document.sha256}")}
    asked = Asked(question="What colour?", model=model, contexts=contexts)
    run = (await desk.submit(asked, tenant=ACME, by="key:k")).run
    assert (await desk.wait(run, PATIENCE_S)).state == "ok"
    return run


async def again(desk: Desk, run: str, **more: Any) -> str:
    return (await desk.submit_again(AskedAgain(run=run, **more), by="key:again")).run


def started(desk: Desk, run: str) -> dict[str, Any]:
    return next(record.data for record in records(desk.host.state.journal, run) if record.event == "run.started")


def test_a_replay_is_an_order_that_says_who_ordered_it_and_what_came_of_it(jar: Jar, place: Path | str) -> None:
    async def go() -> None:
        async with desk_of(jar, place, models=[DemoModel()]) as desk:
            run = await asked_about(desk)
            asked = len(of(desk, "query.requested"))
            replay = await again(desk, run)
            ended = await desk.wait(replay, PATIENCE_S)
            assert (ended.state, ended.by, ended.tenant, ended.result) == ("ok", "key:again", "acme", None)
            report = desk.report(replay)
            assert report is not None
            assert (report.outcome, report.replay, report.run) == ("equal", replay, run)
            data = started(desk, replay)
            assert (data["replays"], data["by"], data["tenant"]) == (run, "key:again", "acme")
            # No model was asked, and nobody is charged.
            assert len(of(desk, "query.requested")) == asked
            row = await desk._book.row(replay)  # written with the run's end
            assert row is not None
            assert (row.state, row.ended_at > 0) == ("ok", True)
            listed = (await desk.ls(ACME)).runs
            assert {one.run: one.state for one in listed} == {run: "ok", replay: "ok"}

    drive(go())


def test_a_fork_takes_the_answers_before_its_turn_and_asks_for_the_rest(jar: Jar, place: Path | str) -> None:
    async def go() -> None:
        told: list[str] = []

        def answer(request: Any) -> str:
            told.append(request.purpose)
            return '```repl\nFINAL("blue")\n```'

        async with desk_of(jar, place, models=[DemoModel(), FakeModel(answer, "scripted:other")]) as desk:
            run = await asked_about(desk)
            fork = await again(desk, run, from_turn=3, model="scripted:other")
            ended = await desk.wait(fork, PATIENCE_S)
            assert ended.result is not None
            assert (ended.state, ended.result.answer, ended.result.cells) == ("ok", "blue", 3)
            assert told == ["root"]
            data = started(desk, fork)
            assert (data["forks"], data["from_turn"], data["by"]) == (run, 3, "key:again")

    drive(go())


def test_a_replay_that_does_something_else_says_where(jar: Jar) -> None:
    async def go() -> None:
        async with desk_of(jar) as desk:
            run = await code(desk, "print(context[0:3])", contexts={"context": TextContext("abcdef")})
            assert (await desk.wait(run, PATIENCE_S)).state == "ok"
            replay = await again(desk, run, contexts={"context": TextContext("xyz")})
            assert (await desk.wait(replay, PATIENCE_S)).state == "diverged"
            report = desk.report(replay)
            assert report is not None
            assert report.first is not None
            assert report.first.recorded is not None
            assert report.first.recorded.kind == "context"

    drive(go())


def test_a_replay_waits_for_its_turn_and_is_cancelled_before_it(jar: Jar) -> None:
    async def go() -> None:
        gate = Gate()
        async with desk_of(jar, limits=DeskLimits(running=1), models=[gate.model]) as desk:
            run = await code(desk, "FINAL(1)")
            await desk.wait(run, PATIENCE_S)
            first = Asked(question="?", model="scripted:gated", contexts={"context": TextContext("hello")})
            other = (await desk.submit(first, tenant=OTHER, by="key:k")).run
            await until(lambda: gate.asked)
            replay = await again(desk, run)
            waiting = desk.known(replay)
            assert waiting is not None
            assert (waiting.state, waiting.place) == ("queued", 0)
            assert [(one.tenant, one.queued, one.running) for one in desk.busiest(9)] == [
                *(("acme", 1, 0), ("other", 0, 1)),
            ]
            assert (await desk.cancel(replay, by="key:k")).state == "cancelled"
            gate.open.set()
            await desk.wait(other, PATIENCE_S)
            assert [one for one in of(desk, "run.started") if one.run == replay] == []

    drive(go())


async def _hanging(desk: Desk) -> str:
    """A replay under way: of another text than the run had, over which its loop is endless."""
    run = await code(desk, "while context[0] == 'x':\n    pass", contexts={"context": TextContext("abc")})
    assert (await desk.wait(run, PATIENCE_S)).state == "ok"
    replay = await again(desk, run, contexts={"context": TextContext("xyz")})
    await until(lambda: [one for one in of(desk, "run.started") if one.run == replay])
    return replay


def ends(desk: Desk, run: str) -> list[Record]:
    return [one for one in of(desk, "run.finished") if one.run == run]


def test_a_replay_under_way_is_cancelled_and_leaves_no_box(jar: Jar, place: Path | str) -> None:
    async def go() -> None:
        async with desk_of(jar, place) as desk:
            replay = await _hanging(desk)
            assert (await desk.cancel(replay, by="key:k")).state == "killed"
            assert [one.data["status"] for one in ends(desk, replay)] == ["killed"]
            assert desk.load()["running"] == 0

    drive(go())  # `jar` sees that no process is left


def test_a_drain_interrupts_a_replay_under_way(jar: Jar) -> None:
    async def go() -> OrderState:
        async with desk_of(jar) as desk:
            replay = await _hanging(desk)
            await desk.drain(0)
            with pytest.raises(Busy):
                await again(desk, replay)
            return await desk.get(replay)

    assert drive(go()).state == "interrupted"


def test_whoever_does_many_runs_again_holds_up_nobody_else(jar: Jar, monkeypatch: pytest.MonkeyPatch) -> None:
    """While records of one tenant are read that take for ever, another's is."""
    reading: list[str] = []
    go_on = threading.Event()

    def slow(host: Host, asked: AskedAgain, policies: Mapping[str, Policy]) -> Again:
        found = read_again(host, asked, policies)
        if found.tenant.levels[0] == ACME.levels[0]:
            reading.append(asked.run)
            go_on.wait(PATIENCE_S)
        return found

    monkeypatch.setattr("belljar.jobs.desk.read_again", slow)

    async def go() -> None:
        async with desk_of(jar) as desk:
            theirs = await code(desk, "FINAL(1)", ACME)
            ours = await code(desk, "FINAL(1)", OTHER)
            for run in (theirs, ours):
                await desk.wait(run, PATIENCE_S)
            many = [asyncio.create_task(again(desk, theirs)) for _ in range(6)]
            try:
                await until(lambda: reading)
                async with in_time(PATIENCE_S / 2, "another tenant's record is read"):
                    replay = await again(desk, ours)
                await state(desk, replay, "ok")
                assert len(reading) == 1
            finally:
                go_on.set()
            for replay in await asyncio.gather(*many):
                await state(desk, replay, "ok")

    drive(go())


def test_what_cannot_be_done_again_is_refused_when_it_is_ordered(jar: Jar) -> None:
    async def go() -> None:
        async with desk_of(jar, models=[DemoModel()]) as desk:
            run = await asked_about(desk)
            pasted = await code(desk, "print(context)", contexts={"context": TextContext("abc")})
            await desk.wait(pasted, PATIENCE_S)
            hanging = await code(desk, HANGS)
            await until(lambda: [one for one in of(desk, "cell.started") if one.run == hanging])
            replay = await again(desk, run)
            await desk.wait(replay, PATIENCE_S)
            fork = {"from_turn": 1, "model": DEMO}
            refused: list[tuple[type[Refusal], str, Callable[[], Any]]] = [
                (NoSuchRun, "run.unknown", lambda: again(desk, "20200101T000000-000000000000")),
                (InvalidInput, "replay.unfinished", lambda: again(desk, hanging)),
                (InvalidInput, "replay.replay", lambda: again(desk, replay)),
                (InvalidInput, "replay.turn", lambda: again(desk, run, from_turn=9, model=DEMO)),
                (InvalidInput, "replay.turn", lambda: again(desk, pasted, **fork)),
                (InvalidInput, "replay.context", lambda: again(desk, pasted)),
                (InvalidInput, "replay.context", lambda: again(desk, run, contexts={"b": TextContext("b")})),
                (InvalidInput, "order.model", lambda: again(desk, run, from_turn=1)),
                (InvalidInput, "model.unknown", lambda: again(desk, run, from_turn=1, model="scripted:/etc/passwd")),
            ]
            for kind, why, order in refused:
                with pytest.raises(kind) as caught:
                    await order()
                assert caught.value.code == why
            await desk.host.quotas.set(ACME, "day", calls=1, cpu_ms=10**6)
            with pytest.raises(QuotaExceeded):
                await again(desk, run, **fork)
            await desk.host.quotas.set(ACME, "day", cpu_ms=1)
            with pytest.raises(QuotaExceeded):  # its boxes take time, too
                await again(desk, run)
            await desk.cancel(hanging, by="key:k")
            await state(desk, hanging, "killed")

    drive(go())


def test_a_fork_runs_under_a_policy_that_the_service_knows(jar: Jar) -> None:
    """Not under whatever the host's own programs ran."""

    async def go() -> None:
        file = jar.file("own.toml", 'schema = 1\nextends = "standard"\nname = "own"\n')
        async with desk_of(jar, models=[DemoModel()]) as desk:
            result = await desk.host.run("?", model=DEMO, context=TEXT, tenant=ACME, policy=Path(file))
            document = await desk.host.add_context(TEXT, name="grass", tenant=ACME)
            assert document.sha256
            with pytest.raises(InvalidPolicy) as caught:
                await again(desk, result.run, from_turn=2, model=DEMO)
            assert caught.value.code == "policy.unknown"

    drive(go())


WATCHFUL = """
schema = 1
extends = "standard"
name = "watchful"
[models]
canaries = ["as green as grass"]
"""


def test_a_replay_runs_under_the_service_s_policy_where_the_record_does_not_have_its_canaries(jar: Jar) -> None:
    watchful = parse(WATCHFUL, source="watchful.toml", base=load)
    other = parse(WATCHFUL.replace("grass", "a leaf"), source="watchful.toml", base=load)

    async def replayed(desk: Desk, run: str) -> tuple[str, bool]:
        replay = await again(desk, run)
        await desk.wait(replay, PATIENCE_S)
        report = desk.report(replay)
        assert report is not None
        return report.outcome, report.policy_changed

    async def go() -> None:
        async with desk_of(jar, policies={"watchful": watchful}) as desk:
            run = await code(desk, "print('as ' + 'green as grass')", ACME, policy="watchful")
            await desk.wait(run, PATIENCE_S)
            assert await replayed(desk, run) == ("equal", False)
        async with desk_of(jar, policies={"watchful": other}) as desk:
            assert await replayed(desk, run) == ("diverged", True)
        async with desk_of(jar) as desk:
            with pytest.raises(InvalidInput) as caught:
                await again(desk, run)
            assert caught.value.code == "replay.policy"

    drive(go())
