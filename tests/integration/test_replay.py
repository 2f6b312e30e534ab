"""Runs replayed from the log: equal where nothing changed, without a model, a tool or a tenant's quota."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from belljar import Host, Policy, Result
from belljar.audit import records, runs, verify
from belljar.audit.events import RunFinished, RunStarted
from belljar.audit.replay import Action, Divergence
from belljar.cli.replay import lines
from belljar.engine import CellResult
from belljar.errors import BelljarError, BoxFault, InvalidInput, ModelFailed
from belljar.identity import Language
from belljar.models import ModelReply, ModelRequest, NullModel, ScriptedModel, Usage
from belljar.policy import load
from belljar.replay import Refused, Replay, Replays
from belljar.sandbox.jail.backend import Jail
from belljar.sessions import Session
from belljar.state import State
from belljar.testing import FakeModel
from tests.integration.support import Jar
from tests.waiting import PATIENCE_S, until

CONTEXT = "".join(f"line {number}: the grass is green\n" for number in range(3000))
TURNS = [
    "Let me look.\n```repl\nprint(len(context), context[:20])\n```",
    'And ask.\n```repl\nfound = llm_query_batched(["one", "two", "three"])\nprint(found, context.splitlines()[7])\n```',
    '```repl\nprint(rlm_query("What colour?", context=context[:500]))\nFINAL("green")\n```',
]
CHILD = ['```repl\nprint(context[:9])\nFINAL("as grass")\n```']


class Rig:
    """One state folder: runs in it, and replays of them."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.state = State(folder)
        self.environ = environ

    def host(self) -> Host:
        return Host(state=self.state.root, environ=self.environ)

    def did(self, work: Callable[[Host], Awaitable[Any]]) -> Any:
        async def once() -> Any:
            async with self.host() as host:
                return await work(host)

        return asyncio.run(once())

    def run(self, **options: Any) -> Result:
        """The run of a root model, which asks and recurses."""
        model = ScriptedModel(options.pop("turns", TURNS + CHILD), default="yes", name="scripted:root")

        async def work(host: Host) -> Result:
            whose = options.get("tenant", "default")
            context = await host.add_context(CONTEXT, name="grass", tenant=whose)
            return await host.run("Which colour?", context=context, model=model, policy=recursing(), **options)

        result: Result = self.did(work)
        return result

    def replay(self, run: str, **options: Any) -> Replay:
        async def once() -> Replay:
            async with Replays(self.state, self.environ) as replays:
                return await replays.replay(run, **options)

        return asyncio.run(once())

    def fork(self, run: str, turn: int, model: str) -> Result:
        async def once() -> Result:
            async with Replays(self.state, self.environ) as replays:
                return await replays.fork(run, turn, model=model)

        return asyncio.run(once())


def recursing() -> Policy:
    policy = load("standard")
    models = msgspec.structs.replace(policy.models, depth_max=3)
    return msgspec.structs.replace(policy, models=models)


@pytest.fixture
def rig(jar: Jar) -> Rig:
    return Rig(jar.at, {**os.environ, "BELLJAR_KEYS": str(jar.work / "keys")})


def test_a_run_with_a_root_model_and_a_child_is_the_same_again_turn_by_turn(rig: Rig) -> None:
    result = rig.run()
    assert (result.status, result.answer) == ("ok", "green")
    found = rig.replay(str(result.run))
    assert (found.outcome, found.by, found.first, found.missing) == ("equal", "turns", None, [])
    assert found.actions == found.equal_actions > 10
    assert found.status == "ok"


def test_a_child_is_compared_as_its_parent_is(rig: Rig) -> None:
    result = rig.run()
    assert len(runs(rig.state.journal)) == 2
    found = rig.replay(str(result.run))
    kinds = sum(one.event == "cell.started" for one in records(rig.state.journal, f"{result.run}.00001"))
    assert (found.outcome, kinds) == ("equal", 1)
    # A child alone has lost what its parent gave it.
    with pytest.raises(InvalidInput) as caught:
        rig.replay(f"{result.run}.00001")
    assert caught.value.code == "replay.child"


def test_a_replay_costs_nobody_anything_and_is_in_the_log_as_what_it_is(rig: Rig) -> None:
    result = rig.run(tenant="acme")
    before = rig.did(lambda host: host.quotas.show("acme"))
    found = rig.replay(str(result.run))
    assert rig.did(lambda host: host.quotas.show("acme")) == before
    *_, last = runs(rig.state.journal)
    assert (last.run, last.tenant, last.status, last.replays) == (found.replay, "acme", "ok", str(result.run))
    first, end = records(rig.state.journal, found.replay)
    assert isinstance(first.typed, RunStarted)
    assert first.typed.replays == result.run
    assert (end.data["calls"], end.data["cost_nanousd"]) == (0, 0)
    log = verify(rig.state.journal)
    assert log.ok
    assert log.signed == end.seq
    with pytest.raises(InvalidInput) as caught:
        rig.replay(found.replay)
    assert caught.value.code == "replay.replay"


def test_the_cells_of_a_session_are_run_again_one_by_one(rig: Rig) -> None:
    async def work(host: Host) -> Any:
        context = await host.add_context(CONTEXT)
        async with host.session(context=context, sub_model=NullModel("yes"), policy="dev") as session:
            await session.execute("kept = context[100:120]")
            await session.execute("print(kept, llm_query(kept))")
            await session.execute("1 / 0")
        return session.result

    result = rig.did(work)
    found = rig.replay(str(result.run))
    assert (found.outcome, found.by, found.first) == ("equal", "cells", None)
    assert found.actions == found.equal_actions == 9


def test_answers_in_a_session_are_compared_whatever_type_somebody_asked_for(rig: Rig) -> None:
    turns = ['```repl\nFINAL("many")\n```', "```repl\nFINAL(7)\n```"]

    async def work(host: Host) -> Any:
        model = ScriptedModel(turns, name="scripted:root")
        async with host.session(root_model=model, policy="dev") as session:
            assert (await session.ask("How many?", answer_type=int)).answer == 7
        return session.result

    result = rig.did(work)
    found = rig.replay(str(result.run))
    assert (found.outcome, found.by, found.first) == ("equal", "cells", None)
    with pytest.raises(InvalidInput, match="it is a session") as caught:
        rig.fork(str(result.run), 1, "scripted:none.toml")
    assert caught.value.code == "replay.turn"


def test_of_equal_queries_only_the_one_that_was_tried_again_is_so_again(rig: Rig) -> None:
    code = """
for _ in range(3):
    try:
        print(llm_query("Hello?"))
    except Exception as error:
        print(error)
"""
    said: Iterator[str | ModelFailed] = iter(
        [ModelFailed("busy", retryable=True, retry_after_s=0.0), "yes", ModelFailed("gone", charged=False), "yes"]
    )

    def answer(_: ModelRequest) -> str:
        if isinstance(one := next(said), ModelFailed):
            raise one
        return one

    model = FakeModel(answer, name="scripted:telephone")
    result = rig.did(lambda host: host.execute(code, sub_model=model, policy="dev"))
    assert result.stdout == "yes\ngone\nyes\n"
    found = rig.replay(str(result.run))
    assert (found.outcome, found.first) == ("equal", None)


def test_an_answer_for_which_there_was_less_room_is_as_short_again(rig: Rig, jar: Jar) -> None:
    policy = jar.policy("[quota.run]\noutput_tokens = 20000")
    code = """
for _ in range(3):
    try:
        print(llm_query("How long is it?"))
    except Exception as error:
        print(type(error).__name__)
"""
    model = FakeModel(
        lambda _: ModelReply("long", Usage(output_tokens=10_000), "scripted:talker", "end_turn"), name="scripted:talker"
    )
    result = rig.did(lambda host: host.execute(code, sub_model=model, policy=policy))
    assert result.stdout == "long\nlong\nQuotaExceeded\n"
    assert "query.shortened" in {one.data["code"] for one in jar.records("query.denied")}
    found = rig.replay(str(result.run))
    assert (found.outcome, found.first, found.refused) == ("equal", None, [])


@pytest.mark.parametrize("ends", ["cell", "run"])
def test_what_somebody_stopped_is_compared_up_to_there_and_not_waited_for(rig: Rig, ends: str) -> None:
    async def work(host: Host) -> Any:
        waits = asyncio.Event()

        async def answer(_: ModelRequest) -> str:
            waits.set()
            return str(await asyncio.Event().wait())

        model = FakeModel(answer, name="scripted:telephone")
        async with host.session(sub_model=model, policy="dev") as session:
            await session.execute("print('before')")
            cell = asyncio.create_task(session.execute("llm_query('wait')"))
            await asyncio.wait_for(waits.wait(), PATIENCE_S)
            if ends == "cell":
                cell.cancel()
                await asyncio.wait([cell])
                await session.execute("print('behind')")
        if ends == "run":
            with contextlib.suppress(asyncio.CancelledError, BelljarError):
                await cell
        return session.result

    result = rig.did(work)
    found = rig.replay(str(result.run))
    assert (found.outcome, found.by, found.first, found.actions) == ("incomplete", "cells", None, 2)
    assert found.missing[0].startswith("what would have come of cell 2: it was stopped from outside")


class Listed:
    """A model that costs what the list says, and whose provider has a cache."""

    name = "claude-haiku-4-5"
    scripted = False

    def __init__(self, turns: list[str]) -> None:
        self.turns = turns

    async def complete(self, request: ModelRequest) -> ModelReply:
        if request.purpose == "root":
            seen = 1000 * len(self.turns)
            usage = Usage(
                input_tokens=100 + seen // 7, output_tokens=50, cache_read_tokens=seen, cache_write_tokens=500
            )
            return ModelReply(self.turns.pop(0), usage, self.name, "end_turn")
        return ModelReply("yes", Usage(input_tokens=31, output_tokens=7), self.name, "end_turn")

    async def aclose(self) -> None:
        pass


def test_a_replay_costs_what_the_run_did_also_where_the_provider_had_a_cache(rig: Rig) -> None:
    async def work(host: Host) -> Result:
        model = Listed([*TURNS[:2], '```repl\nFINAL("green")\n```'])
        context = await host.add_context(CONTEXT)
        return await host.run("Which colour?", context=context, model=model, policy="dev")

    result = rig.did(work)
    found = rig.replay(str(result.run))
    assert (found.outcome, found.cost_nanousd) == ("equal", found.recorded_cost_nanousd)
    assert found.cost_nanousd == result.cost_nanousd > 0


def test_what_was_refused_and_what_failed_is_so_again(rig: Rig) -> None:
    code = """
for ask in (lambda: context[0:10**9], lambda: llm_query(" "), lambda: llm_query("no rule")):
    try:
        print(len(ask()))
    except Exception as error:
        print(type(error).__name__, error)
"""

    async def work(host: Host) -> Result:
        context = await host.add_context(CONTEXT)
        model = ScriptedModel([], name="scripted:sub")
        return await host.execute(code, context=context, sub_model=model, policy="dev")

    result = rig.did(work)
    assert "ModelError" in result.stdout
    found = rig.replay(str(result.run))
    assert (found.outcome, found.first, found.refused) == ("equal", None, [])


def test_a_tool_is_not_called_again(rig: Rig) -> None:
    calls: list[str] = []

    def look(place: str) -> list[str]:
        calls.append(place)
        return [place, "found"]

    async def work(host: Host) -> Result:
        return await host.execute('print(look("here"), look(place="there"))', tools=[look], policy="dev")

    result = rig.did(work)
    assert (result.status, calls) == ("ok", ["here", "there"])
    found = rig.replay(str(result.run))
    assert (found.outcome, found.first) == ("equal", None)
    assert calls == ["here", "there"]


def test_an_answer_of_a_type_is_held_to_it_again(rig: Rig) -> None:
    turns = ['```repl\nFINAL("many")\n```', "```repl\nFINAL(7)\n```"]
    result = rig.run(turns=turns, answer_type=int)
    assert result.value == 7
    found = rig.replay(str(result.run))
    assert (found.outcome, found.first) == ("equal", None)


def test_a_policy_of_ones_own_is_known_from_the_record(rig: Rig) -> None:
    result = rig.run()
    found = rig.replay(str(result.run))
    assert (found.policy_changed, found.outcome) == (False, "equal")
    other = rig.replay(str(result.run), policy="dev")
    assert (other.policy, other.policy_changed) == ("dev", True)


def test_a_policy_whose_canaries_nobody_kept_has_to_be_named(rig: Rig) -> None:
    """Without them nothing is watched for: a replay would differ, and a fork go unguarded."""
    policy = recursing()
    watchful = msgspec.structs.replace(
        policy, name="watchful", models=msgspec.structs.replace(policy.models, canaries=("as green as grass",))
    )
    result = rig.did(lambda host: host.execute("print('as ' + 'green as grass')", policy=watchful))
    with pytest.raises(InvalidInput) as caught:
        rig.replay(str(result.run))
    assert caught.value.code == "replay.policy"
    found = rig.replay(str(result.run), policy=watchful)
    assert (found.outcome, found.policy_changed) == ("equal", False)


def test_another_policy_says_what_it_would_have_refused_and_what_the_run_would_cost(rig: Rig) -> None:
    result = rig.run()
    policy = recursing()
    small = msgspec.structs.replace(
        policy, context=msgspec.structs.replace(policy.context, read_total_bytes_max=20_000)
    )
    found = rig.replay(str(result.run), policy=small)
    assert found.outcome == "diverged"
    assert {one.code for one in found.refused} == {"context.read_total"}
    assert found.first is not None


def test_of_many_refusals_all_count_that_the_other_policy_makes(rig: Rig) -> None:
    code = """
for at in range(150):
    try:
        context[at * 100_000]
    except Exception:
        pass
"""

    async def work(host: Host) -> Result:
        context = await host.add_context("x" * 15_000_001)
        return await host.execute(code, context=context, policy="dev")

    result = rig.did(work)
    policy = load("dev")
    small = msgspec.structs.replace(policy, context=msgspec.structs.replace(policy.context, read_total_bytes_max=4096))
    found = rig.replay(str(result.run), policy=small)
    assert [(one.code, one.count) for one in found.refused] == [("context.read_total", 150)]


def test_a_model_that_the_policy_does_not_allow_would_not_have_been_asked_at_all(rig: Rig) -> None:
    result = rig.run()
    policy = recursing()
    strict = msgspec.structs.replace(policy, models=msgspec.structs.replace(policy.models, allow=("claude-*",)))
    found = rig.replay(str(result.run), policy=strict)
    assert (found.outcome, [one.code for one in found.refused]) == ("diverged", ["model.denied"])


def test_a_context_that_is_gone_is_named_and_nothing_is_made_up(rig: Rig) -> None:
    result = rig.run()
    rig.did(lambda host: _removed(host))
    found = rig.replay(str(result.run))
    assert (found.outcome, found.by, found.actions) == ("incomplete", None, 0)
    assert "the context 'context'" in found.missing[0]


def test_a_context_that_the_run_did_not_have_or_that_cannot_be_read_is_refused(rig: Rig) -> None:
    result = rig.run()
    for name, code in (("contract", "replay.context"), ("context", "context.missing")):
        with pytest.raises(InvalidInput) as caught:
            rig.replay(str(result.run), contexts={name: rig.state.root / "none.txt"})
        assert caught.value.code == code
    assert runs(rig.state.journal)[-1].status == "denied"


async def _removed(host: Host) -> None:
    host.remove_context("grass")


@pytest.mark.parametrize(
    ("kept", "by", "actions"), [(("code", "output"), "cells", 4), (("replies",), None, 0), ((), None, 0)]
)
def test_what_was_not_kept_is_said_and_the_rest_is_compared(
    rig: Rig, kept: tuple[str, ...], by: str | None, actions: int
) -> None:
    policy = recursing()
    audit = msgspec.structs.replace(policy.audit, contents=kept)

    async def work(host: Host) -> Result:
        context = await host.add_context(CONTEXT)
        model = ScriptedModel(TURNS + CHILD, default="yes", name="scripted:root")
        chosen = msgspec.structs.replace(policy, audit=audit)
        return await host.run("Which colour?", context=context, model=model, policy=chosen)

    result = rig.did(work)
    found = rig.replay(str(result.run), policy=msgspec.structs.replace(policy, audit=audit))
    assert (found.outcome, found.by, found.first) == ("incomplete", by, None)
    assert found.missing
    # Up to the cell in which the program got the first answer that was not kept.
    assert found.actions == found.equal_actions == actions


def test_a_recorded_run_is_a_model_that_needs_no_key(rig: Rig) -> None:
    result = rig.run()

    async def work(host: Host) -> Result:
        context = host.registered("grass")
        return await host.run("Which colour?", context=context, model=f"replay:{result.run}", policy=recursing())

    again = rig.did(work)
    assert (again.status, again.answer, again.scripted) == ("ok", "green", True)
    assert again.queries == result.queries
    assert [turn.reply for turn in again.turns_log] == [turn.reply for turn in result.turns_log]


def test_with_a_recorded_run_as_the_model_chance_and_time_are_its_own(rig: Rig) -> None:
    """What is asked may have a date in it, or a number that was thrown."""
    code = "import random, time\nprint(llm_query(f'{random.random()} {time.time()} {budget()}'))"
    result = rig.did(lambda host: host.execute(code, sub_model=FakeModel(name="scripted:fake")))
    assert result.stdout.startswith("to 0.")
    again = rig.did(lambda host: host.execute(code, sub_model=f"replay:{result.run}"))
    assert (again.status, again.stdout) == ("ok", result.stdout)


def test_a_model_of_a_recorded_run_makes_up_nothing(rig: Rig) -> None:
    result = rig.run()

    async def work(host: Host) -> Result:
        return await host.execute('llm_query("four")', sub_model=f"replay:{result.run}", policy="dev")

    other = rig.did(work)
    assert other.error is not None
    assert other.error.type == "ModelError"
    assert "none that is left has this prompt" in other.error.message


def test_what_a_program_does_otherwise_is_the_divergence(rig: Rig) -> None:
    # Its output is another each time: it asks the kernel.
    async def work(host: Host) -> Result:
        async with host.session(policy="dev") as session:
            await session.execute("print('same')")
            await session.execute("print(open('/dev/urandom', 'rb').read(8).hex())")
        assert session.result is not None
        return session.result

    result = rig.did(work)
    found = rig.replay(str(result.run))
    assert found.outcome == "diverged"
    assert found.first is not None
    assert found.first.recorded is not None
    assert found.first.replayed is not None
    assert (found.first.recorded.kind, found.first.cell) == ("output", 2)
    assert found.lines is not None
    assert found.lines[0] != found.lines[1]
    assert [len(bytes.fromhex(line)) for line in found.lines] == [8, 8]
    assert runs(rig.state.journal)[-1].status == "diverged"


def test_the_line_that_is_shown_is_the_one_that_differs(rig: Rig) -> None:
    code = "print(object())\nprint(open('/dev/urandom', 'rb').read(8).hex())"
    result = rig.did(lambda host: host.execute(code, policy="dev"))
    found = rig.replay(str(result.run))
    assert found.lines is not None
    assert [len(bytes.fromhex(line)) for line in found.lines] == [8, 8]


def test_no_text_of_a_run_steers_the_terminal_of_its_replay() -> None:
    """Models and contexts have names of others, and errors are their words."""
    steering = "\x1b]0;owned\x07\u202e\x9b2J"
    action = Action(place="", cell=1, kind="query", about=(("model", steering), ("failed", steering)), seq=1)
    told = Replay(
        run="r1",
        replay="r2",
        outcome="diverged",
        by="cells",
        policy="dev",
        policy_changed=True,
        backend="jail",
        differs={"image": (steering, None)},
        actions=1,
        equal_actions=0,
        first=Divergence(place="", cell=1, recorded=action, replayed=None),
        lines=(steering, ""),
        missing=[steering],
        status="ok",
        refused=[Refused(action.says(), "model.denied", 1)],
        cost_nanousd=0,
        recorded_cost_nanousd=0,
    )
    found = list(lines(told))
    assert all(line.isprintable() for line in found)
    assert sum(r"\x1b]0;owned" in line for line in found) == 5


@pytest.mark.parametrize("language", ["python", "restricted"])
def test_random_numbers_are_the_same_again_also_in_a_child_and_others_in_another_run(
    rig: Rig, language: Language
) -> None:
    dice = "import random, uuid\nprint(random.random(), random.sample(range(99), 9), uuid.uuid4())\n"
    turns = [f'```repl\n{dice}rlm_query("throw", context="dice")\nFINAL("1")\n```', f'```repl\n{dice}FINAL("2")\n```']
    results = [rig.run(turns=turns, language=language) for _ in range(2)]
    assert [result.status for result in results] == ["ok", "ok"]
    assert results[0].stdout != results[1].stdout
    assert [rig.replay(str(result.run)).outcome for result in results] == ["equal", "equal"]


WATCH = "import time, datetime\nprint(time.time(), datetime.datetime.now(), budget()['wall_ms'], budget()['cpu_ms'])\n"


@pytest.mark.parametrize("language", ["python", "restricted"])
def test_the_time_is_that_of_the_record_also_in_a_child_and_in_what_is_left_of_it(rig: Rig, language: Language) -> None:
    turns = [f"```repl\n{WATCH}rlm_query('look', context='clock')\n```", f"```repl\n{WATCH}FINAL('1')\n```"]
    child = [f"```repl\n{WATCH}FINAL(str(time.time_ns()))\n```"]
    result = rig.run(turns=[turns[0], *child, turns[1]], language=language)
    assert result.status == "ok"
    found = rig.replay(str(result.run))
    assert (found.outcome, found.first, found.lines) == ("equal", None, None)


def test_what_a_tenant_had_left_is_said_again(rig: Rig) -> None:
    async def work(host: Host) -> Result:
        await host.quotas.set("acme", "day", calls=100, memory_mib_s=10**6)
        return await host.execute("print({**budget()})", tenant="acme")

    result = rig.did(work)
    assert "'calls': 100," in result.stdout
    found = rig.replay(str(result.run))
    assert (found.outcome, found.lines) == ("equal", None)


@pytest.mark.parametrize(
    ("quota", "code"),
    [("calls", "quota.tenant.calls"), ("read_bytes", "quota.tenant.read"), ("wall_ms", "quota.tenant.wall")],
)
def test_what_a_tenants_quota_refused_or_stopped_is_missing_in_a_replay_and_no_divergence(
    rig: Rig, quota: Any, code: str
) -> None:
    limits: dict[str, Any] = {quota: {"calls": 1, "read_bytes": 100, "wall_ms": 2500}[quota]}

    async def work(host: Host) -> Result:
        await host.quotas.set("acme", "day", **limits)
        model, context = FakeModel(name="scripted:fake"), await host.add_context(CONTEXT, tenant="acme/research")
        how: dict[str, Any] = {"context": context, "sub_model": model, "tenant": "acme/research", "language": "python"}
        async with host.session(**how) as session:
            await session.execute("print(llm_query('one'))")
            await session.execute("import time\ntime.sleep(4)\nprint(llm_query('two'), context[:500])")
        assert session.result is not None
        return session.result

    result = rig.did(work)
    found = rig.replay(str(result.run))
    assert (found.outcome, found.first) == ("incomplete", None)
    assert found.actions == found.equal_actions > 0
    assert f"({code})" in found.missing[-1]


def test_what_a_cell_read_of_clocks_before_its_time_was_up_is_so_again(rig: Rig) -> None:
    code = "import time\nprint(time.time_ns(), flush=True)\nprint(llm_query(str(time.time_ns())))\nwhile True: pass"
    policy = load("standard")
    policy = msgspec.structs.replace(policy, limits=msgspec.structs.replace(policy.limits, cell_wall_s=1.0))

    async def work(host: Host) -> Result:
        model = FakeModel(name="scripted:fake")
        return await host.execute(code, sub_model=model, policy=policy, language="python")

    result = rig.did(work)
    assert (result.status, "to " in result.stdout) == ("timeout", True)
    found = rig.replay(str(result.run), policy=policy)
    assert (found.outcome, found.first, found.lines) == ("equal", None, None)


def test_a_cell_whose_caller_gave_it_less_time_than_the_policy_is_stopped_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[float | None] = []
    execute = Session.execute

    async def seen(session: Session, code: str, *, timeout: float | None = None) -> CellResult:  # noqa: ASYNC109
        allowed.append(timeout)
        return await execute(session, code, timeout=timeout)

    async def work(host: Host) -> Any:
        async with host.session(sub_model=NullModel("yes"), policy="dev") as session:
            await session.execute("kept = 1")
            cell = await session.execute("print(llm_query('x'))\nwhile True: pass", timeout=0.5)
            await session.execute("print(kept)")
        return session.result, cell

    result, cell = rig.did(work)
    assert cell.status == "timeout"
    monkeypatch.setattr(Session, "execute", seen)
    found = rig.replay(str(result.run))
    assert (found.outcome, found.by, found.first) == ("equal", "cells", None)
    assert found.actions == found.equal_actions > 0
    before, cut, after = allowed
    assert (before, after) == (None, None)
    assert cut is not None
    assert cut > 0.5


def test_where_output_is_not_kept_the_time_is_that_of_the_replay_and_said_to_differ_by_nobody(rig: Rig) -> None:
    policy = load("standard")
    policy = msgspec.structs.replace(policy, audit=msgspec.structs.replace(policy.audit, contents=("code",)))
    code = "import time\nprint(time.time_ns())"  # as long each time
    result = rig.did(lambda host: host.execute(code, policy=policy))
    found = rig.replay(str(result.run), policy=policy)
    assert (found.outcome, found.first) == ("incomplete", None)
    assert "printed" in found.missing[0]


def test_a_cell_that_printed_nothing_lacks_what_it_read_of_clocks_where_that_was_too_much_to_keep(rig: Rig) -> None:
    policy = load("standard")
    policy = msgspec.structs.replace(policy, audit=msgspec.structs.replace(policy.audit, item_bytes_max=4096))
    result = rig.did(lambda host: host.execute("import time\nfor _ in range(1000): time.time()", policy=policy))
    found = rig.replay(str(result.run), policy=policy)
    assert (found.outcome, found.first, len(found.missing)) == ("incomplete", None, 1)


def test_a_fork_has_the_time_of_the_record_up_to_its_turn_and_goes_on_from_there(rig: Rig, jar: Jar) -> None:
    def told(shown: str) -> list[str]:
        return re.findall(r"\b\d{19}\b", shown)

    look = "```repl\nimport time\nprint(time.time_ns())\n```"
    result = rig.run(turns=[look, look, "```repl\nFINAL('old')\n```"])
    new = jar.work / "new.toml"
    quoted = look.replace("\n", "\\n")
    new.write_text(f'[[turn]]\ntext = "{quoted}"\n[[turn]]\ntext = "```repl\\nFINAL(\'new\')\\n```"\n')
    forked = rig.fork(str(result.run), 2, f"scripted:{new}")
    assert forked.answer == "new"
    (first, second, _), (again, other, _) = ([told(turn.shown) for turn in one.turns_log] for one in (result, forked))
    assert again == first
    assert second != other > first  # it goes on from there at its own pace


def test_addresses_of_objects_are_no_difference(rig: Rig) -> None:
    async def work(host: Host) -> Result:
        async with host.session(policy="dev") as session:
            await session.execute("print(object())")
        assert session.result is not None
        return session.result

    result = rig.did(work)
    assert "0x" in result.stdout
    assert rig.replay(str(result.run)).outcome == "equal"


LATER = """\
default = "new"
[price]
input_usd_per_mtok = 2
output_usd_per_mtok = 10
[[turn]]
text = '''
```repl
FINAL(str(found) + llm_query("four"))
```
'''
"""


def test_a_fork_takes_the_turns_before_it_from_the_record_and_pays_for_the_others_alone(rig: Rig) -> None:
    result = rig.run()
    script = rig.state.root.parent / "later.toml"
    script.write_text(LATER)

    forked = rig.fork(str(result.run), 3, f"scripted:{script}")
    assert forked.answer == "['yes', 'yes', 'yes']new"
    assert [turn.reply for turn in forked.turns_log[:2]] == [turn.reply for turn in result.turns_log[:2]]
    first, *others = records(rig.state.journal, str(forked.run))
    assert isinstance(first.typed, RunStarted)
    assert (first.typed.forks, first.typed.from_turn, first.typed.replays) == (str(result.run), 3, None)
    costs = [one.data["cost_nanousd"] for one in others if one.event == "query.completed"]
    # Two turns and three queries of the record, then the model's turn and its query.
    assert len(costs) == 7
    assert [cost > 0 for cost in costs].count(True) == 2
    assert forked.cost_nanousd == sum(costs)


def test_of_a_replay_and_of_a_fork_everything_says_which_run_it_is_one_of(rig: Rig, jar: Jar) -> None:
    result = rig.run()
    script = rig.state.root.parent / "later.toml"
    script.write_text(LATER)
    at = ("--state", str(rig.state.root))
    replay, fork = rig.replay(str(result.run)).replay, str(rig.fork(str(result.run), 3, f"scripted:{script}").run)
    for run, origin in ((replay, f"replay of {result.run}"), (fork, f"fork of {result.run} from turn 3 on")):
        assert f"\n  {origin}\n" in jar("audit", "show", run, *at).stdout
        for form in ("html", "atif", "rlm", "otel"):
            assert origin in jar("audit", "export", run, "--format", form, *at).stdout, form
    assert f"  replay of {result.run}\n" in jar("audit", "ls", *at).stdout
    refused = jar("audit", "diff", str(result.run), replay, *at)
    assert (refused.code, f"{replay} is a replay" in refused.stderr) == (2, True)
    env = {"BELLJAR_KEYS": rig.environ["BELLJAR_KEYS"]}
    erased = jar("audit", "erase", str(result.run), "--yes", *at, env=env)
    assert f"belljar: {fork} is a fork and keeps its own copy of what it took over: erase it, too\n" in erased.stderr
    again = jar("audit", "erase", str(result.run), "--yes", "--json", *at, env=env).document
    assert (again["erased"], again["forks"]) == ([], [fork])
    assert jar("audit", "erase", fork, "--yes", "--json", *at, env=env).document["forks"] == []


def test_there_is_no_fork_from_a_turn_that_the_run_has_not(rig: Rig) -> None:
    result = rig.run()

    with pytest.raises(InvalidInput) as caught:
        rig.fork(str(result.run), 4, "scripted:none.toml")
    assert caught.value.code == "replay.turn"


def test_the_command_exits_with_0_where_all_is_equal_and_with_9_where_it_is_not(jar: Jar) -> None:
    program = jar.file("p.py", "print('same')\n1 / 0\n")
    jar("exec", program)
    outcome = jar("audit", "replay", "last")
    assert (outcome.code, outcome.complaint) == (0, "")
    assert "actions    " in outcome.stdout
    program = jar.file("p.py", "print(open('/dev/urandom', 'rb').read(8).hex())\n1 / 0\n")
    jar("exec", program, "--language", "python")
    outcome = jar("audit", "replay", "last", "--json")
    assert outcome.code == 9
    document = outcome.document
    assert (document["ok"], document["replay"]["outcome"]) == (False, "diverged")
    assert document["replay"]["first"]["recorded"]["kind"] == "output"


def test_another_image_is_said_and_what_is_done_is_compared_all_the_same(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = Jail.about
    with monkeypatch.context() as patch:
        patch.setattr(Jail, "about", lambda jail: {**about(jail), "image": "0" * 64})
        result = rig.run()
    found = rig.replay(str(result.run))
    assert (found.outcome, list(found.differs)) == ("equal", ["image"])
    then, now = found.differs["image"]
    assert (then, now != then) == ("0" * 64, True)


def test_what_a_host_died_in_is_no_divergence(jar: Jar) -> None:
    """The record ends in its cell, which has an end now."""
    program = jar.file("waits.py", "import time\nx = context[:3]\ntime.sleep(600)")
    running = jar.start("exec", program, "--language", "python", "--context", jar.file("text.txt", "abc"))
    until(lambda: jar.journal.exists() and jar.records("context.read"), what="the program has read")
    running.signal(signal.SIGKILL)
    running.wait()
    assert jar.exec("print(1)").code == 0  # and marks it as abandoned
    run = next(iter(runs(jar.state.journal))).run
    short = jar.policy('[limits]\ngrace = "1 s"\ncell_wall = "2 s"')
    replayed = jar("audit", "replay", run, "--context", jar.work / "text.txt", "--policy", short, "--json")
    assert replayed.code == 9, replayed.stderr
    found = replayed.document["replay"]
    assert (replayed.code, found["outcome"], found["first"]) == (9, "incomplete", None)


def test_a_replay_that_has_no_box_to_run_in_failed_and_was_not_killed(rig: Rig) -> None:
    result = rig.run()
    rig.environ["DOCKER_HOST"] = "unix:///nowhere"
    with pytest.raises(BoxFault):
        rig.replay(str(result.run), backend="docker")
    (status,) = [
        finished.typed.status
        for started in records(rig.state.journal)
        if isinstance(started.typed, RunStarted) and started.typed.replays
        for finished in records(rig.state.journal, started.run)
        if isinstance(finished.typed, RunFinished)
    ]
    assert status == "host_fault"


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jail", "docker"])
def test_the_demo_over_a_million_tokens_is_the_same_again(
    jar: Jar, backend: str, request: pytest.FixtureRequest
) -> None:
    env = {} if backend == "jail" else {"DOCKER_HOST": request.getfixturevalue("docker_host")}
    assert jar("demo", "--quiet").code == 0
    outcome = jar("audit", "replay", "last", "--backend", backend, "--json", env=env)
    found = outcome.document["replay"]
    assert (outcome.code, found["outcome"], found["by"], found["missing"]) == (0, "equal", "turns", [])
    assert found["actions"] == found["equal_actions"] > 140
    assert found["cost_nanousd"] == found["recorded_cost_nanousd"] > 0


def test_contents_that_were_erased_are_said_to_be_and_the_run_above_is_not_compared_where_it_needed_them(
    jar: Jar, rig: Rig
) -> None:
    result = rig.run()
    whole = rig.replay(str(result.run))
    jar("audit", "erase", f"{result.run}.00001", "--yes", env=rig.environ)  # the child alone
    found = rig.replay(str(result.run))
    assert (found.outcome, found.by, found.first) == ("incomplete", "turns", None)
    assert all("erased" in line for line in found.missing if "answer" in line)
    # Without the cell that started the child, and what followed.
    assert 0 < found.actions == found.equal_actions < whole.actions
