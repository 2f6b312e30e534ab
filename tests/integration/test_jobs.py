"""What a service's desk does with orders: real boxes, models that are played, both stores."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from belljar import Host, ModelReply, ModelRequest
from belljar.audit import Record, records, verify
from belljar.audit.events import HOST_RUNS
from belljar.engine import ErrorInfo
from belljar.errors import (
    AuditUnavailable,
    BoxFault,
    InvalidInput,
    InvalidPolicy,
    LayerMissing,
    PolicyDenied,
    QuotaExceeded,
    Refusal,
)
from belljar.identity import Tenant
from belljar.jobs import (
    Asked,
    AskedSession,
    Busy,
    Context,
    Desk,
    DeskLimits,
    IdempotencyConflict,
    JsonContext,
    NoSuchRun,
    NoSuchSession,
    OrderState,
    RegisteredContext,
    TextContext,
)
from belljar.jobs.hub import SEQ_BITS
from belljar.policy import load
from belljar.streaming import CellEvent, OutputEvent, ResultEvent, StreamEvent, TurnEvent
from belljar.testing import FakeModel
from tests.integration.support import PATIENCE_S, Jar
from tests.waiting import in_time, pass_time

T = TypeVar("T")
ACME, BELOW, OTHER = Tenant("acme"), Tenant("acme/a"), Tenant("other")
ANSWERS = "```repl\nFINAL(len(context))\n```"
HANGS = "while True: pass"
HELLO: dict[str, Context] = {"context": TextContext("hello")}
FAKE = "scripted:fake"


def drive(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 2 * PATIENCE_S))  # what waits in vain inside says so before


@pytest.fixture
def place(jar: Jar, store: str, request: pytest.FixtureRequest) -> Path | str:
    """Where the log and the ledger are."""
    if store == "sqlite":
        return jar.at
    url: str = request.getfixturevalue("postgres").database()
    return url


@contextlib.asynccontextmanager
async def desk_of(
    jar: Jar, place: Path | str | None = None, limits: DeskLimits | None = None, **options: Any
) -> AsyncIterator[Desk]:
    policies, offered = options.pop("policies", None), options.pop("offered", ())
    host = Host(state=place or jar.at, environ={"BELLJAR_HOME": str(jar.at)}, **options)
    async with host, Desk(host, limits, policies=policies, models=offered) as desk:
        yield desk
    report = verify(host.state.journal)
    assert (report.problems, report.unfinished) == ([], [])
    assert await host.quotas.check() == []


def of(desk: Desk, event: str) -> list[Record]:
    return [record for record in records(desk.host.state.journal) if record.event == event]


async def code(desk: Desk, text: str, tenant: Tenant = ACME, **more: Any) -> str:
    idem = more.pop("idem", "")
    return (await desk.submit(Asked(code=text, **more), tenant=tenant, by="key:k", idem=idem)).run


async def until(condition: Callable[[], object]) -> None:
    async with in_time(PATIENCE_S, "it holds"):
        while not condition():  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.01)


async def state(desk: Desk, run: str, wanted: str) -> OrderState:
    async with in_time(PATIENCE_S, f"{run} is {wanted}"):
        while (found := await desk.get(run)).state != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return found


class Gate:
    """A model that says when it was asked, and answers once it may."""

    def __init__(self, reply: str = ANSWERS, name: str = "scripted:gated") -> None:
        self.open = asyncio.Event()
        self.asked: list[ModelRequest] = []
        self.reply = reply
        self.model = FakeModel(self._answer, name)

    async def _answer(self, request: ModelRequest) -> str | ModelReply:
        self.asked.append(request)
        await self.open.wait()
        return self.reply


def test_an_order_has_its_id_at_once_and_its_result_when_it_has_ended(jar: Jar, place: Path | str) -> None:
    async def go() -> None:
        gate = Gate()
        async with desk_of(jar, place, models=[gate.model]) as desk:
            asked = Asked(question="how long?", model="scripted:gated", contexts=HELLO)
            order = await desk.submit(asked, tenant=ACME, by="key:alice")
            assert (order.made, order.retries) == ("new", None)
            await until(lambda: gate.asked)
            running = await desk.get(order.run)
            assert (running.state, running.tenant, running.by, running.model) == (
                *("running", "acme", "key:alice", "scripted:gated"),
            )
            assert running.progress is not None
            assert not (await desk.wait(order.run, 0.01)).result
            gate.open.set()
            ended = await desk.wait(order.run, PATIENCE_S)
            assert ended.result is not None
            assert (ended.state, ended.result.answer, ended.result.run) == ("ok", 5, order.run)
            assert ended.absent == ()
            started = [record.data for record in of(desk, "run.started")]
            assert [(data.get("by"), data["tenant"]) for data in started] == [("key:alice", "acme")]

    drive(go())


def test_what_cannot_be_run_is_refused_at_once_and_logged(jar: Jar) -> None:
    secret = jar.file("secret.toml", "[[turn]]\ntext = 'x'\n")

    async def go() -> None:
        async with desk_of(jar, models=[FakeModel(name=FAKE)]) as desk:
            wrong: list[tuple[Asked, type[Refusal], str]] = [
                (Asked(), InvalidInput, "order.what"),
                (Asked(code="1", question="?"), InvalidInput, "order.what"),
                (Asked(question="?"), InvalidInput, "order.model"),
                (Asked(code="1", model=FAKE), InvalidInput, "order.model"),
                (Asked(code="1", answer_schema={}), InvalidInput, "order.schema"),
                (Asked(question="?", model="nobody"), InvalidInput, "model.unknown"),
                (Asked(question="?", model=f"scripted:{secret}"), InvalidInput, "model.unknown"),
                (Asked(code="1", sub_model="replay:20261129T120000-5f0c1d9a7b3e"), InvalidInput, "model.unknown"),
                (Asked(question="?", model=FAKE, answer_schema={"type": "x"}), InvalidInput, "answer.schema"),
                (Asked(code="1", policy="nothing"), InvalidPolicy, "policy.unknown"),
                (Asked(code="1", policy=str(jar.policy(""))), InvalidPolicy, "policy.unknown"),
                (Asked(code="1", backend="docker.nobody"), PolicyDenied, "backend.denied"),
                (Asked(code="1", contexts={"context": RegisteredContext("gone")}), InvalidInput, "context.unknown"),
            ]
            for asked, kind, what in wrong:
                with pytest.raises(kind) as caught:
                    await desk.submit(asked, tenant=ACME, by="key:k")
                assert caught.value.code == what, asked
            with pytest.raises(InvalidInput, match="idempotency"):
                await desk.submit(Asked(code="1"), tenant=ACME, by="key:k", idem="a b")
            refused = {record.data.get("code"): record.run for record in of(desk, "run.finished")}
            assert {"model.unknown", "backend.denied", "context.unknown"} <= refused.keys()
            shown = (await desk.ls(ACME)).runs
            assert {one.state for one in shown} == {"refused"}
            assert {one.by for one in shown} == {"key:k"}

    drive(go())


def test_a_model_of_a_file_is_taken_where_the_operator_offers_it(jar: Jar) -> None:
    script = jar.script(ANSWERS)

    async def go() -> None:
        async with desk_of(jar, offered=[script]) as desk:
            order = await desk.submit(Asked(question="?", model=script, contexts=HELLO), tenant=ACME, by="key:k")
            ended = await desk.wait(order.run, PATIENCE_S)
            assert ended.result is not None
            assert ended.result.answer == 5

    drive(go())


def test_contexts_come_inline_or_registered_and_policies_by_name(jar: Jar) -> None:
    small = load(jar.policy("[limits]\ncell_wall = '5 s'\n"))

    async def go() -> None:
        async with desk_of(jar, policies={"ours": small}) as desk:
            await desk.host.add_context("registered text", name="reg", tenant="acme")
            contexts: dict[str, Context] = {
                "context": TextContext("/etc"),  # a text, whatever is there
                "list": JsonContext([1, 2, 3]),
                "reg": RegisteredContext("reg"),
            }
            text = "FINAL([context[:], contexts['list'][1], len(contexts['reg'])])"
            run = await code(desk, text, contexts=contexts, policy="ours")
            ended = await desk.wait(run, PATIENCE_S)
            assert ended.result is not None
            assert (ended.result.answer, ended.policy) == (["/etc", 2, 15], "ours")
            assert [record.data["policy"] for record in of(desk, "run.started")] == ["small"]

    drive(go())


def test_tenants_take_turns_whoever_came_first(jar: Jar) -> None:
    """Measured in the order of starts: one slot, a tenant with many, and one that comes later with two."""

    async def go() -> None:
        gate = Gate()
        async with desk_of(jar, limits=DeskLimits(running=1), models=[gate.model]) as desk:
            await desk.submit(Asked(question="?", model="scripted:gated", contexts=HELLO), tenant=ACME, by="a")
            await until(lambda: gate.asked)
            runs = [await code(desk, "1") for _ in range(6)]
            late = [await code(desk, "1", OTHER) for _ in range(2)]
            assert [(await desk.get(run)).place for run in (*runs[:2], *late)] == [0, 1, 0, 1]
            gate.open.set()
            for run in (*runs, *late):
                assert (await desk.wait(run, PATIENCE_S)).state == "ok"
            tenants = [record.data["tenant"] for record in of(desk, "run.started")]
            assert tenants[0] == "acme"
            assert tenants[1:5].count("other") == 2, tenants

    drive(go())


def test_no_more_run_or_wait_than_may_and_a_full_queue_says_when_to_come_again(jar: Jar) -> None:
    limits = DeskLimits(running=2, queued=4, queued_per_tenant=3)

    async def go() -> None:
        gate = Gate()
        async with desk_of(jar, limits=limits, models=[gate.model]) as desk:
            asked = Asked(question="?", model="scripted:gated", contexts=HELLO)
            for _ in range(2):
                await desk.submit(asked, tenant=ACME, by="a")
            await until(lambda: len(gate.asked) == 2)
            waiting = [await code(desk, "1") for _ in range(3)]
            with pytest.raises(Busy) as of_tenant:
                await code(desk, "1")
            assert (of_tenant.value.code, of_tenant.value.limit) == ("queue.tenant", 3)
            assert 1 <= of_tenant.value.retry_after_s <= 60
            waiting.append(await code(desk, "1", OTHER))
            with pytest.raises(Busy) as of_all:
                await code(desk, "1", OTHER)
            assert of_all.value.code == "queue.full"
            load = desk.load()
            assert (load["running"], load["queued"], load["slots"]) == (2, 4, 2)
            assert len(desk.host.live()) == 2
            gate.open.set()
            for run in waiting:
                assert (await desk.wait(run, PATIENCE_S)).state == "ok"
            assert await code(desk, "1", OTHER)

    drive(go())


def test_a_key_makes_one_run_and_what_it_made_costs_no_place_in_a_full_queue(jar: Jar, place: Path | str) -> None:
    async def go() -> None:
        gate = Gate()
        async with desk_of(jar, place, DeskLimits(running=1, queued=1), models=[gate.model]) as desk:
            asked = Asked(question="?", model="scripted:gated", contexts=HELLO)
            orders = await asyncio.gather(
                *(desk.submit(asked, tenant=ACME, by="a", idem="k") for _ in range(5)), return_exceptions=True
            )
            made = [one for one in orders if not isinstance(one, BaseException)]
            assert {type(one) for one in orders if isinstance(one, BaseException)} <= {Busy}
            assert len({one.run for one in made}) == 1
            assert sorted(one.made for one in made)[-1] == "new"
            await until(lambda: gate.asked)
            run = made[0].run
            filler = await code(desk, "1")
            with pytest.raises(Busy):
                await code(desk, "2")
            again = await desk.submit(asked, tenant=ACME, by="b", idem="k")
            assert (again.run, again.made, again.state) == (run, "known", "running")
            with pytest.raises(IdempotencyConflict):
                await code(desk, "2", idem="k")
            gate.open.set()
            assert (await desk.wait(filler, PATIENCE_S)).state == "ok"
            assert (await desk.submit(asked, tenant=ACME, by="b", idem="k")).state == "ok"
            assert len(of(desk, "run.started")) == 2

    drive(go())


def test_a_quota_refuses_as_it_is_and_names_itself(jar: Jar, place: Path | str) -> None:
    async def go() -> None:
        async with desk_of(jar, place, models=[FakeModel(lambda _: ANSWERS, FAKE)]) as desk:
            await desk.host.quotas.set("acme", "day", calls=1)
            asked = Asked(question="?", model=FAKE, contexts=HELLO)
            first = await desk.submit(asked, tenant=ACME, by="a")
            assert (await desk.wait(first.run, PATIENCE_S)).state == "ok"
            with pytest.raises(QuotaExceeded) as caught:
                await desk.submit(asked, tenant=ACME, by="key:a", idem="k")
            refusal = caught.value
            assert (refusal.code, refusal.scope, refusal.limit, refusal.used) == ("quota.tenant.calls", "acme", 1, 1)
            assert refusal.resets_at is not None
            ended = {record.run: record.data for record in of(desk, "run.finished")}
            assert ended[of(desk, "run.started")[-1].run]["code"] == "quota.tenant.calls"
            await desk.host.quotas.clear("acme")  # the key is still free
            assert (await desk.submit(asked, tenant=ACME, by="key:a", idem="k")).made == "new"

    drive(go())


def test_what_is_held_at_once_refuses_only_what_could_never_be_had(jar: Jar, place: Path | str) -> None:
    async def go() -> None:
        gate = Gate()
        async with desk_of(jar, place, models=[gate.model]) as desk:
            await desk.host.quotas.set("acme", "total", calls_in_flight=1, boxes=2)
            asked = Asked(question="?", model="scripted:gated", contexts=HELLO)
            first = await desk.submit(asked, tenant=ACME, by="a")
            await until(lambda: gate.asked)
            # Its turn may come when the first has ended.
            second = await desk.submit(asked, tenant=ACME, by="a")
            await desk.host.quotas.set("acme", "total", calls_in_flight=0)
            with pytest.raises(QuotaExceeded) as caught:
                await desk.submit(asked, tenant=ACME, by="a")
            assert caught.value.code == "quota.tenant.calls_in_flight"
            gate.open.set()
            for one in (first, second):
                await desk.wait(one.run, PATIENCE_S)

    drive(go())


def test_an_order_that_cannot_start_when_its_turn_comes_is_refused(jar: Jar, place: Path | str) -> None:
    async def go() -> None:
        gate = Gate()
        async with desk_of(jar, place, DeskLimits(running=1), models=[gate.model]) as desk:
            document = await desk.host.add_context("text", name="reg", tenant="acme")
            await desk.submit(Asked(question="?", model="scripted:gated", contexts=HELLO), tenant=ACME, by="a")
            await until(lambda: gate.asked)
            run = await code(desk, "1", contexts={"context": RegisteredContext("reg")})
            desk.host.remove_context(document.sha256, tenant="acme")
            gate.open.set()
            refused = await desk.wait(run, PATIENCE_S)
            assert refused.state == "refused"
            assert refused.error is not None
            assert refused.error.type == "InvalidInput"
            row = await desk._book.row(run)
            assert row is not None
            assert (row.state, row.ended_at > 0) == ("refused", True)
            assert [pair async for pair in desk.events(run)] == []
            assert refused.absent == ()
        async with desk_of(jar, place) as desk:
            again = await desk.get(run)
            assert (again.state, again.error, again.absent) == ("refused", None, ("error",))
            assert again.limit is not None
            assert again.limit.code == "context.unknown"

    drive(go())


def test_waiting_and_running_orders_are_cancelled(jar: Jar, place: Path | str) -> None:
    async def go() -> None:
        gate = Gate()
        async with desk_of(jar, place, DeskLimits(running=1), models=[gate.model]) as desk:
            running = (
                await desk.submit(Asked(question="?", model="scripted:gated", contexts=HELLO), tenant=ACME, by="a")
            ).run
            await until(lambda: gate.asked)
            waiting, last = await code(desk, "1"), await code(desk, "1")
            assert (await desk.cancel(waiting, by="key:b")).state == "cancelled"
            assert (await desk.get(last)).place == 0
            killed = await desk.cancel(running, by="key:b")
            assert killed.state == "killed"
            assert killed.result is not None
            assert (await desk.wait(last, PATIENCE_S)).state == "ok"
            assert (await desk.cancel(running, by="key:b")).state == "killed"  # an end is an end
            assert (await desk.cancel(waiting, by="key:b")).state == "cancelled"
            with pytest.raises(NoSuchRun):
                await desk.cancel("20261129T120000-5f0c1d9a7b3e", by="key:b")
            for strange in ("", "host.quotas", "../etc", "x" * 500):
                with pytest.raises(NoSuchRun):
                    await desk.get(strange)
            assert waiting not in {record.run for record in of(desk, "run.started")}
            found = {one.run: one.state for one in (await desk.ls(None)).runs}
            assert found == {running: "killed", waiting: "cancelled", last: "ok"}

    drive(go())


def test_a_child_run_is_found_listened_to_and_cancelled_by_its_own_id(jar: Jar) -> None:
    async def go() -> None:
        parent = Gate("```repl\nFINAL(rlm_query('below', 'text'))\n```", "parent")
        child = Gate(name="child")

        async def answer(request: ModelRequest) -> str:
            gate = child if "." in request.run else parent
            gate.asked.append(request)
            await gate.open.wait()
            return gate.reply

        policy = load(jar.policy("[models]\ndepth = 2\n"))
        async with desk_of(jar, models=[FakeModel(answer, FAKE)], policies={"deep": policy}) as desk:
            parent.open.set()
            asked = Asked(question="?", model=FAKE, contexts=HELLO, policy="deep")
            run = (await desk.submit(asked, tenant=ACME, by="key:a")).run
            await until(lambda: child.asked)
            below = f"{run}.00001"
            found = await desk.get(below)
            assert (found.parent, found.state, found.by, found.tenant) == (run, "running", None, "acme")
            ended = await desk.cancel(below, by="key:a")
            assert ended.state == "killed"
            child.open.set()  # the program's cell has failed, and the model writes it again
            whole = await desk.wait(run, PATIENCE_S)
            assert whole.result is not None
            assert (whole.state, whole.result.answer) == ("ok", 4)
            assert [one.run for one in (await desk.ls(ACME)).runs] == [run]  # no child runs

    drive(go())


# ------------------------------------------------------------------------------------------------------------- events


async def heard(desk: Desk, run: str, after: int | None = None) -> list[tuple[int, StreamEvent]]:
    return [pair async for pair in desk.events(run, after)]


def test_who_listens_late_or_again_hears_the_same_and_the_result_comes_last(jar: Jar, place: Path | str) -> None:
    async def go() -> None:
        gate = Gate("```repl\nprint('out'); FINAL(len(context))\n```")
        async with desk_of(jar, place, models=[gate.model]) as desk:
            run = (
                await desk.submit(Asked(question="?", model="scripted:gated", contexts=HELLO), tenant=ACME, by="a")
            ).run
            early = asyncio.create_task(heard(desk, run))
            await until(lambda: gate.asked)
            gate.open.set()
            everything = await early
            assert isinstance(everything[-1][1], ResultEvent)
            kinds = {type(event) for _, event in everything}
            assert {CellEvent, OutputEvent, TurnEvent, ResultEvent} <= kinds
            ids = [event_id for event_id, _ in everything]
            assert ids == sorted({*ids})
            assert await heard(desk, run) == everything
            for place_, (event_id, _) in enumerate(everything):
                assert await heard(desk, run, event_id) == everything[place_ + 1 :]
            seqs = {record.seq for record in records(desk.host.state.journal, run)}
            assert {event_id >> SEQ_BITS for event_id in ids} <= seqs

    drive(go())


def test_once_it_is_forgotten_a_run_is_told_from_the_log_with_the_same_ids(jar: Jar, place: Path | str) -> None:
    async def go() -> None:
        gate = Gate("```repl\nprint('out'); x = context[:2]\n```\n")
        replies = iter([gate.reply, "```repl\nFINAL({'a': len(context)})\n```"])
        model = FakeModel(lambda _: next(replies), "scripted:two")
        async with desk_of(jar, place, models=[model]) as desk:
            asked = Asked(question="?", model="scripted:two", contexts=HELLO)
            run = (await desk.submit(asked, tenant=ACME, by="key:a")).run
            whole = await desk.wait(run, PATIENCE_S)
            live = await heard(desk, run)
            desk._works.clear()
            desk._ended.clear()
            logged = await heard(desk, run)
            known = dict(live)
            assert all(known[event_id] == event for event_id, event in logged[:-1])
            assert logged[-1][0] == live[-1][0]
            told = {type(event) for _, event in live} - {TurnEvent, OutputEvent}
            assert {type(event) for _, event in logged} == told
            middle = live[len(live) // 2][0]
            assert await_ids(logged, middle) == [event_id for event_id, _ in await heard(desk, run, middle)]
            again = await desk.get(run)
            assert again.result is not None
            assert whole.result is not None
            absent = {*again.absent}
            assert absent == {"cost_assumed_nanousd", "partial", "read_bytes", "turns_log"}
            for name in ("answer", "stdout", "stderr", "status", "cells", "turns", "usage", "cost_nanousd", "coverage"):
                assert getattr(again.result, name) == getattr(whole.result, name), name
            assert (again.state, again.by, again.policy) == (whole.state, whole.by, whole.policy)

    drive(go())


def await_ids(events: list[tuple[int, StreamEvent]], after: int) -> list[int]:
    return [event_id for event_id, _ in events if event_id > after]


def test_of_a_run_whose_contents_were_not_kept_the_answer_is_absent(jar: Jar) -> None:
    async def go() -> None:
        async with desk_of(jar) as desk:
            run = await code(desk, "print('x'); FINAL(1)", policy="strict")
            failed = await code(desk, "raise ValueError('no')")
            await desk.wait(run, PATIENCE_S)
            whole = await desk.wait(failed, PATIENCE_S)
            desk._works.clear()
            desk._ended.clear()
            ended = await desk.get(run)
            assert ended.result is not None
            assert ended.result.status == "ok"
            assert "answer" in ended.absent
            again = await desk.get(failed)
            assert again.error is not None
            assert whole.error is not None
            assert (again.error.type, again.error.message) == (whole.error.type, whole.error.message)
            assert "error" not in again.absent

    drive(go())


def test_a_resumed_listener_gets_from_the_log_what_the_hub_has_let_go(jar: Jar) -> None:
    text = "for n in range(100):\n    _ = context[n:n + 1]\n    print('x' * 900)\nFINAL(1)"

    async def go() -> None:
        async with desk_of(jar, limits=DeskLimits(events_bytes=1 << 16)) as desk:
            contexts: dict[str, Context] = {"context": TextContext("a" * 1000)}
            run = await code(desk, text, contexts=contexts)
            await desk.wait(run, PATIENCE_S)
            hub = desk._works[run].hub
            assert hub.gone_id
            found = await heard(desk, run, 0)
            ids = [event_id for event_id, _ in found]
            assert ids == sorted({*ids})
            logged = [pair async for pair in desk._following.logged(run, None, None)]
            assert {event_id for event_id, _ in logged} <= {*ids}
            assert found[-1][0] == logged[-1][0]

    drive(go())


# -------------------------------------------------------------------------------------------------------------- lists


def test_runs_are_listed_latest_first_by_tenant_status_and_model_and_page_by_page(jar: Jar, place: Path | str) -> None:
    async def go() -> None:
        fake = FakeModel(lambda _: ANSWERS, FAKE)
        async with desk_of(jar, place, models=[fake]) as desk:
            runs = []
            for tenant in (ACME, Tenant("acme/a"), OTHER):
                asked = Asked(question="?", model=FAKE, contexts=HELLO)
                runs.append((await desk.submit(asked, tenant=tenant, by="a")).run)
                runs.append(await code(desk, "raise ValueError", tenant))
            direct = await desk.host.execute("FINAL(1)", tenant="other")
            for run in runs:
                await desk.wait(run, PATIENCE_S)

            async def ls(tenant: Tenant | None, **wish: Any) -> list[str]:
                return [one.run for one in (await desk.ls(tenant, **wish)).runs]

            everything = await ls(None)
            assert everything == sorted([*runs, direct.run], reverse=True)
            assert {*await ls(ACME)} == {*runs[:4]}
            assert {*await ls(Tenant("acme/a"))} == {*runs[2:4]}
            assert {*await ls(OTHER)} == {*runs[4:], direct.run}
            assert {*await ls(None, status="error")} == {*runs[1::2]}
            assert {*await ls(ACME, model=FAKE)} == {runs[0], runs[2]}
            assert await ls(Tenant("acm")) == []
            found, after = [], None
            while True:
                page = await desk.ls(None, after=after, limit=3)
                found += [one.run for one in page.runs]
                assert all(one.result is None for one in page.runs)
                if (after := page.after) is None:
                    break
            assert found == everything
            for wrong in ({"limit": 0}, {"limit": 10_000}, {"after": "a/b"}):
                with pytest.raises(InvalidInput):
                    await desk.ls(None, **wrong)
            of_other = {one.run: one for one in (await desk.ls(OTHER)).runs}
            assert of_other[direct.run].by is None
            assert of_other[runs[4]].by == "a"

    drive(go())


def test_what_has_ended_is_kept_within_bounds_and_found_in_the_log_afterwards(jar: Jar) -> None:
    async def go() -> None:
        async with desk_of(jar, limits=DeskLimits(ended=2, running=1)) as desk:
            runs = [await code(desk, f"FINAL({number})") for number in range(5)]
            states = [await desk.wait(run, PATIENCE_S) for run in runs]
            assert [one.result and one.result.answer for one in states] == [0, 1, 2, 3, 4]
            assert [*desk._works] == runs[3:]
            assert desk._ended_chars == sum(work.chars for work in desk._works.values())
            again = [(await desk.get(run)).result for run in runs]
            assert [one and one.answer for one in again] == [0, 1, 2, 3, 4]

    drive(go())


# ----------------------------------------------------------------------------------------------------------- sessions


def test_a_session_takes_cells_and_questions_one_at_a_time_and_is_a_run_like_others(jar: Jar) -> None:
    async def go() -> None:
        gate = Gate("```repl\nFINAL(x + 1)\n```")
        async with desk_of(jar, models=[gate.model]) as desk:
            asked = AskedSession(model="scripted:gated", contexts=HELLO)
            opened = await desk.open_session(asked, tenant=ACME, by="key:a")
            name = opened.session
            assert (await desk.get(name)).state == "running"
            assert (await desk.execute(name, "x = len(context)")).status == "ok"
            question = asyncio.create_task(desk.ask(name, "?"))
            await until(lambda: gate.asked)
            assert desk.session(name).busy
            with pytest.raises(Busy) as busy:
                await desk.execute(name, "1")
            assert busy.value.code == "session.busy"
            gate.open.set()
            assert (await question).answer == 6
            assert [one.session for one in desk.sessions(ACME)] == [name]
            assert desk.sessions(OTHER) == []
            result = await desk.close_session(name)
            assert (result.status, result.cells) == ("ok", 3)  # the question clears its draft in one
            with pytest.raises(NoSuchSession):
                await desk.execute(name, "1")
            ended = await desk.get(name)
            assert (ended.state, ended.by) == ("ok", "key:a")
            assert [record.data["by"] for record in of(desk, "run.started")] == ["key:a"]
            assert isinstance((await heard(desk, name))[-1][1], ResultEvent)

    drive(go())


def test_sessions_are_few_for_each_tenant_and_closed_when_nobody_uses_them(
    jar: Jar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("belljar.jobs.desk.TICK_S", 0.05)
    limits = DeskLimits(sessions=3, sessions_per_tenant=2, session_idle_s=45.0)

    async def go() -> None:
        async with desk_of(jar, limits=limits) as desk:
            opened = [await desk.open_session(AskedSession(), tenant=tenant, by="a") for tenant in (ACME, BELOW)]
            used, unused = (one.session for one in opened)
            with pytest.raises(Busy) as of_tenant:
                await desk.open_session(AskedSession(), tenant=ACME, by="a")
            assert of_tenant.value.code == "sessions.tenant"
            cell = asyncio.create_task(desk.execute(used, HANGS))
            await until(lambda: of(desk, "cell.started"))
            pass_time(46.0)
            await state(desk, unused, "ok")
            assert [(one.session, one.busy) for one in desk.sessions(None)] == [(used, True)]
            await desk.close_session(used)
            await cell

    drive(go())


def test_closing_a_busy_session_ends_what_it_does(jar: Jar) -> None:
    async def go() -> None:
        async with desk_of(jar) as desk:
            name = (await desk.open_session(AskedSession(), tenant=ACME, by="a")).session
            cell = asyncio.create_task(desk.execute(name, HANGS))
            await until(lambda: of(desk, "cell.started"))
            results = await asyncio.gather(desk.close_session(name), desk.close_session(name))
            assert [one.status for one in results] == ["killed"] * 2
            assert (await cell).status == "killed"

    drive(go())


# ------------------------------------------------------------------------------------------------------------ draining


def test_draining_lets_runs_end_kills_what_is_left_and_interrupts_what_waits(jar: Jar, place: Path | str) -> None:
    async def go() -> None:
        gate = Gate()
        async with desk_of(jar, place, DeskLimits(running=2), models=[gate.model]) as desk:
            asked = Asked(question="?", model="scripted:gated", contexts=HELLO)
            ends = (await desk.submit(asked, tenant=ACME, by="a")).run
            hangs = await code(desk, HANGS)
            await until(lambda: gate.asked and len(desk.host.live()) == 2 and of(desk, "cell.started"))
            waits = await code(desk, "1", idem="k")
            draining = asyncio.create_task(desk.drain(PATIENCE_S))
            await until(lambda: desk.is_draining)
            with pytest.raises(Busy) as caught:
                await code(desk, "1")
            assert caught.value.code == "service.draining"
            await state(desk, waits, "interrupted")
            gate.open.set()
            await state(desk, ends, "ok")
            pass_time(PATIENCE_S)
            await draining
            assert [(await desk.get(run)).state for run in (ends, hangs, waits)] == ["ok", "interrupted", "interrupted"]
            rows = [await desk._book.row(run) for run in (ends, hangs, waits)]
            assert [row and row.state for row in rows] == ["ok", "interrupted", "interrupted"]
            assert desk.host.live() == []
            statuses = {record.run: record.data["status"] for record in of(desk, "run.finished")}
            assert statuses == {ends: "ok", hangs: "killed"}

    drive(go())


def test_draining_meets_a_tree_of_runs_that_is_being_cancelled(jar: Jar, place: Path | str) -> None:
    async def go() -> None:
        below = asyncio.Event()

        async def answer(request: ModelRequest) -> str:
            if "." not in request.run:
                return "```repl\nFINAL(rlm_query('below', 'text'))\n```"
            below.set()
            await asyncio.Event().wait()
            return ""

        policy = load(jar.policy("[models]\ndepth = 2\n"))
        async with desk_of(jar, place, models=[FakeModel(answer, FAKE)], policies={"deep": policy}) as desk:
            asked = Asked(question="?", model=FAKE, contexts=HELLO, policy="deep")
            runs = [(await desk.submit(asked, tenant=ACME, by="a")).run for _ in range(2)]
            await below.wait()
            await until(lambda: len(desk.host.live()) == 4)
            ways = (desk.cancel(runs[0], by="b"), desk.drain(0.0), desk.cancel(f"{runs[1]}.00001", by="b"))
            await asyncio.gather(*ways)
            assert desk.host.live() == []
            states = [(await desk.get(run)).state for run in runs]
            assert {*states} <= {"killed", "interrupted", "ok", "error", "model_failed"}
            assert states[0] in ("killed", "interrupted")
            ended = {record.run for record in of(desk, "run.finished")}
            assert ended == {record.run for record in records(desk.host.state.journal)} - HOST_RUNS
            rows = [await desk._book.row(run) for run in runs]
            assert all(row is not None and row.ended_at for row in rows)

    drive(go())


def test_whoever_goes_away_while_it_is_written_has_ordered_all_the_same(jar: Jar) -> None:
    async def go() -> None:
        async with desk_of(jar) as desk:
            asked = Asked(code="FINAL(1)")
            submitting = asyncio.create_task(desk.submit(asked, tenant=ACME, by="a", idem="k"))
            while not desk._tasks:  # noqa: ASYNC110 - nobody is told, and it is soon over
                await asyncio.sleep(0)
            submitting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await submitting
            order = await desk.submit(asked, tenant=ACME, by="a", idem="k")
            assert order.made == "known"
            ended = await desk.wait(order.run, PATIENCE_S)
            assert ended.result is not None
            assert ended.result.answer == 1

    drive(go())


def test_an_order_is_ended_at_every_moment_of_its_start(jar: Jar) -> None:
    """As soon as it has its place, and then a moment later each time: it never stays open, whatever it was doing."""

    async def go() -> None:
        async with desk_of(jar) as desk:
            states = []
            for steps in (0, 1, 2, 3, 5, 10, 30, 100):
                run = await code(desk, HANGS)
                for _ in range(steps):
                    await asyncio.sleep(0)
                states.append((await desk.cancel(run, by="b")).state)
                row = await desk._book.row(run)
                assert row is not None
                assert (row.state, row.ended_at > 0) == (states[-1], True)
            assert {*states} <= {"cancelled", "killed"}
            assert desk.load()["running"] == 0

    drive(go())


def test_an_order_that_is_placed_while_it_stops_has_ended_though_nobody_can_write_that(jar: Jar) -> None:
    async def go() -> None:
        async with desk_of(jar) as desk:
            take, taking, may_take = desk._book.take, asyncio.Event(), asyncio.Event()

            async def held(*arguments: Any, **options: Any) -> Any:
                taking.set()
                await may_take.wait()
                return await take(*arguments, **options)

            async def failing(runs: object, state: str) -> None:
                raise AuditUnavailable("the disk is full")

            running = await code(desk, HANGS)
            await state(desk, running, "running")
            desk.limits = msgspec.structs.replace(desk.limits, running=1)
            desk._book.take, end = held, desk._book.end  # type: ignore[method-assign]
            placing = asyncio.create_task(desk.submit(Asked(code="1"), tenant=ACME, by="a"))
            await taking.wait()
            draining = asyncio.create_task(desk.drain(PATIENCE_S))
            await until(lambda: desk.is_draining)
            desk._book.end = failing  # type: ignore[method-assign]
            may_take.set()
            order = await placing
            assert order.state == "interrupted"
            assert (await desk.wait(order.run, PATIENCE_S)).state == "interrupted"
            desk._book.end = end  # type: ignore[method-assign]
            await desk._book.end([order.run], "interrupted")
            await desk.cancel(running, by="b")
            await draining

    drive(go())


def test_a_run_that_ends_while_it_is_being_cancelled_has_ended_with_its_result(
    jar: Jar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is in the log, and its result on its way, when its task is given up."""

    async def go() -> None:
        async with desk_of(jar) as desk:
            ended, ordered = asyncio.Event(), desk.host.ordered

            async def lost(*arguments: Any, **options: Any) -> object:
                await ordered(*arguments, **options)
                ended.set()
                return await asyncio.Event().wait()

            monkeypatch.setattr(desk.host, "ordered", lost)
            run = await code(desk, "FINAL(7)")
            listening = asyncio.create_task(_all(desk, run))
            await until(lambda: desk.load()["listeners"])
            await ended.wait()
            cancelled = await desk.cancel(run, by="b")
            assert cancelled.result is not None
            assert (cancelled.state, cancelled.result.answer, cancelled.error) == ("ok", 7, None)
            events = await listening
            assert isinstance(events[-1], ResultEvent)
            assert events[-1].result.answer == 7
            assert [type(event) for event in events].count(ResultEvent) == 1

    drive(go())


def test_whose_a_run_is_is_found_without_what_came_of_it(jar: Jar) -> None:
    async def go() -> None:
        async with desk_of(jar, limits=DeskLimits(ended=0)) as desk:
            run = await code(desk, "FINAL(1)", BELOW)
            await desk.wait(run, PATIENCE_S)
            assert run not in desk._works

            def never(run: str) -> OrderState:
                raise AssertionError("all its records are read")

            desk._found.whole = never  # type: ignore[method-assign]
            assert await desk.tenant_of(run) == BELOW
            for none in ("x", "20200101T000000-000000000000"):
                with pytest.raises(NoSuchRun):
                    await desk.tenant_of(none)

    drive(go())


async def _all(desk: Desk, run: str) -> list[StreamEvent]:
    return [event async for _, event in desk.events(run)]


def test_leaving_the_desk_leaves_no_order_open(jar: Jar, place: Path | str) -> None:
    async def go() -> None:
        async with desk_of(jar, place, DeskLimits(running=1)) as desk:
            await code(desk, HANGS)
            await code(desk, "1")
            await desk.open_session(AskedSession(), tenant=ACME, by="a")
            submitting = asyncio.create_task(code(desk, "1"))
            await asyncio.sleep(0)
        with contextlib.suppress(Refusal):
            await submitting
        async with desk_of(jar, place) as desk:
            found = (await desk.ls(None)).runs
            assert {one.state for one in found} <= {"interrupted", "ok"}
            assert msgspec.json.encode(found)

    drive(go())


def test_what_failed_on_our_side_stands_in_our_own_log_and_not_in_the_error(
    jar: Jar, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Before there is a run, and within one; and a refusal says why without naming a path."""
    secret = "unix:///var/run/docker.sock"

    async def go() -> None:
        async with desk_of(jar) as desk:
            ordered = desk.host.ordered
            fault = ErrorInfo("BoxFault", f"no daemon answers at {secret}")

            async def ends(*args: Any, **options: Any) -> Any:
                return msgspec.structs.replace(await ordered(*args, **options), status="host_fault", error=fault)

            ways: list[Any] = [raising(BoxFault(f"no daemon answers at {secret}")), ends]
            ways.append(raising(LayerMissing(f"no daemon answers at {secret}: start it", code="backend.missing")))
            for way, told in zip(ways, ("host_fault", "host_fault", "refused"), strict=True):
                monkeypatch.setattr(desk.host, "ordered", way)
                caplog.clear()
                run = await code(desk, "FINAL(1)")
                found = await desk.wait(run, PATIENCE_S)
                assert found.state == told
                assert found.error is not None
                assert "docker.sock" not in msgspec.json.encode(found).decode()
                assert "docker.sock" in caplog.text
                assert run in caplog.text
                if told == "host_fault":
                    assert found.error.message == "no box can be made on this host; try again later"
                events = [repr(event) async for _, event in desk.events(run)]
                assert "docker.sock" not in "".join(events)

    with caplog.at_level("INFO", logger="belljar"):
        drive(go())


def raising(error: Exception) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def work(*_: object, **__: object) -> Any:
        raise error

    return work
