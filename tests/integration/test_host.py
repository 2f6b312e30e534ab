"""One host for many policies, backends, languages and tenants; its runs are listed, watched and cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import PosixPath
from typing import Any, TypeVar

import pytest

import belljar.host
from belljar import Host, InvalidInput, LiveRun, ModelReply, ModelRequest, PolicyDenied, Progress, Result, Usage
from belljar.models import FREE, ScriptedModel
from belljar.sandbox import open_backend
from tests.integration.support import PATIENCE_S, Jar, processes_below, until

T = TypeVar("T")
READS = "print(len(context[:{chars}])); FINAL(len(context))"


def hosted(jar: Jar, **options: Any) -> Host:
    return Host(state=jar.at, **{"environ": {}, **options})


def drive(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, PATIENCE_S))


class Thinker:
    """A root model that thinks until it is given up."""

    name, scripted, rates = "scripted:thinker", True, FREE

    def __init__(self) -> None:
        self.thinks = asyncio.Event()
        self.given_up = False

    async def complete(self, request: ModelRequest) -> ModelReply:
        self.thinks.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.given_up = True
            raise
        return ModelReply("", Usage(0, 0), self.name, "end_turn")

    async def aclose(self) -> None:
        pass


async def live_one(host: Host) -> LiveRun:
    """The one run under way, once its program has printed or asked for something, or its model thinks."""
    while not host.live():  # noqa: ASYNC110 - nobody is told of it
        await asyncio.sleep(0.01)
    (one,) = host.live()
    return one


def test_one_host_serves_policies_tenants_and_languages_side_by_side(jar: Jar) -> None:
    small = jar.policy("[quota.run]\ncalls = 3\n")
    wishes: list[dict[str, Any]] = [
        {"policy": "standard", "language": "python", "tenant": "acme/one"},
        {"policy": "strict", "language": "restricted", "tenant": "acme/two"},
        {"policy": small, "language": "restricted", "tenant": "other"},
        {"policy": small, "language": "python", "tenant": "acme/one"},
    ]

    async def go() -> tuple[list[Result], int]:
        async with hosted(jar) as host:
            runs = (
                host.execute(READS.format(chars=100 * n), context="x" * 1000, **wish)
                for n, wish in enumerate(wishes, 1)
            )
            results = await asyncio.gather(*runs)
            assert host.live() == []
            spent = await host._shared.ledger.spent("acme", "total")
            return results, spent.read_bytes

    results, read_bytes = drive(go())
    assert [result.answer for result in results] == [1000] * 4
    theirs = [result.read_bytes for result in results if result.tenant.startswith("acme/")]
    assert len(theirs) == 3
    assert sum(theirs) <= read_bytes < sum(theirs) + 1000  # in whole portions, and none of the other tenant's
    started = {record.run: record.data for record in jar.records("run.started")}
    for result, wish in zip(results, wishes, strict=True):
        said = started[result.run]
        assert (said["tenant"], said["language"], said["backend"]) == (wish["tenant"], wish["language"], "jail")
        assert said["policy"] == ("small" if wish["policy"] is small else wish["policy"])
    assert len({data["policy_digest"] for data in started.values()}) == 3


def test_one_host_opens_each_backend_that_a_run_asks_for(jar: Jar, docker_host: str) -> None:
    async def go() -> list[str]:
        async with hosted(jar, environ={"DOCKER_HOST": docker_host}) as host:
            runs = (host.execute("FINAL(1)", backend=name) for name in ("jail", "docker", "jail"))
            results = await asyncio.gather(*runs)
            assert [result.status for result in results] == ["ok"] * 3
            return sorted(host._backends)

    assert drive(go()) == ["docker", "jail"]
    assert sorted(str(record.data["backend"]) for record in jar.records("run.started")) == ["docker", "jail", "jail"]


def test_a_run_of_a_second_policy_gets_a_box_made_ahead_of_its_own_limits(jar: Jar) -> None:
    text = 'schema = 1\nname = "files"\ndescription = "Few."\nextends = "standard"\n[limits]\nopen_files = {}\n'
    policies = {files: jar.file(f"files{files}.toml", text.format(files)) for files in (40, 50)}
    code = "import os; FINAL(os.sysconf('SC_OPEN_MAX'))"

    async def go() -> None:
        async with hosted(jar, pool=1) as host:

            def ahead() -> set[object]:
                jail: Any = host._backends["jail"]
                return {box for pool in jail._pools._pools.values() for box in pool._boxes}

            for files, policy in policies.items():
                assert (await host.execute(code, policy=policy, language="python")).answer == files
            for files, policy in [*policies.items()] * 2:
                await asyncio.to_thread(until, lambda: len(ahead()) == 2, what="one of each is ready")
                ready = ahead()
                assert (await host.execute(code, policy=policy, language="python")).answer == files
                assert len(ready - ahead()) == 1

    before = len(processes_below())
    drive(go())
    until(lambda: len(processes_below()) <= before, what="the boxes are gone")


def test_a_policy_at_a_path_is_read_beside_the_event_loop(jar: Jar) -> None:
    readers: set[int] = set()

    class Watched(PosixPath):
        """Tells in which thread it is looked at."""

        def is_absolute(self) -> bool:
            readers.add(threading.get_ident())
            return super().is_absolute()

    policy = Watched(jar.policy("[quota.run]\ncalls = 3\n"))

    async def go() -> Result:
        async with hosted(jar) as host:
            await host.prepare(policy)
            return await host.execute("FINAL(1)", policy=policy)

    assert drive(go()).answer == 1
    assert readers
    assert threading.get_ident() not in readers


def test_what_a_runs_own_policy_refuses_is_refused_and_in_the_log(jar: Jar) -> None:
    async def go() -> None:
        async with hosted(jar) as host:
            with pytest.raises(PolicyDenied, match="does not allow the language python"):
                await host.execute("1", policy="strict", language="python")
            with pytest.raises(belljar.InvalidPolicy):
                await host.execute("1", policy="nonsense")
            assert (await host.execute("FINAL(1)", language="python")).answer == 1

    drive(go())
    assert [record.data["status"] for record in jar.records("run.finished")] == ["denied", "denied", "ok"]


def test_a_run_under_way_is_listed_watched_and_cancelled(jar: Jar) -> None:
    async def go() -> tuple[LiveRun, list[Progress], Result]:
        async with hosted(jar) as host:
            code = "print(context[:10])\nwhile True: pass"
            running = asyncio.create_task(host.execute(code, context="x" * 100, tenant="acme/one"))
            one = await live_one(host)
            seen: list[Progress] = []
            async for progress in host.watch(one.run):
                seen.append(progress)
                if progress.reads and host.live():
                    await host.cancel(one.run)
                    break
            seen += [progress async for progress in host.watch(one.run)]
            result = await running
            assert host.live() == []
            with pytest.raises(InvalidInput, match="is not a live run of this host"):
                await host.cancel(one.run)
            return one, seen, result

    one, seen, result = drive(go())
    assert (one.run, one.tenant, one.policy, one.backend) == (result.run, "acme/one", "standard", "jail")
    assert (result.status, result.answer) == ("killed", None)
    assert result.error is not None
    assert result.error.message == "the run was cancelled through its host"
    assert (seen[-1].cells, seen[-1].reads) == (1, 1)
    assert jar.records("run.finished")[0].data["status"] == "killed"


def test_a_run_whose_model_thinks_is_cancelled(jar: Jar) -> None:
    async def go() -> tuple[Thinker, Result]:
        async with hosted(jar) as host:
            thinker = Thinker()
            running = asyncio.create_task(host.run("?", model=thinker))
            await thinker.thinks.wait()
            await host.cancel((await live_one(host)).run)
            done, _ = await asyncio.wait([running], timeout=PATIENCE_S / 2)
            running.cancel()  # one that goes on would keep the host from closing
            assert done, "it goes on thinking"
            return thinker, await running

    thinker, result = drive(go())
    assert thinker.given_up
    assert (result.status, result.turns, result.usage.calls) == ("killed", 1, 1)


@pytest.mark.parametrize("how", ["run", "program", "question", "session"])
def test_a_host_that_is_closed_ends_its_runs_and_their_callers_get_results(jar: Jar, how: str) -> None:
    async def go() -> Any:
        model, opened = Thinker(), asyncio.Event()

        async def asking(host: Host) -> Any:
            if how == "run":
                return await host.run("How many?", model=model)
            if how == "program":
                return await host.execute("llm_query('x')", sub_model=model)
            async with host.session(root_model=model) as session:
                if how == "question":
                    return await session.ask("How many?")
                opened.set()
                await asyncio.Event().wait()

        host = hosted(jar)
        async with host:
            work = asyncio.create_task(asking(host))
            await (opened if how == "session" else model.thinks).wait()
        assert host.live() == []
        if how == "session":
            work.cancel()
            await asyncio.wait([work])
            return None
        return await work

    ended = drive(go())
    assert ended is None or ended.status == "killed"
    assert len(jar.records("run.finished")) == 1
    assert jar.open_reservations() == 0


def test_a_host_that_is_closed_while_a_backend_opens_keeps_nothing_of_it(
    jar: Jar, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        opens, go_on = asyncio.Event(), asyncio.Event()

        async def slowly(*given: Any) -> Any:
            opens.set()
            await go_on.wait()
            return await open_backend(*given)

        monkeypatch.setattr(belljar.host, "open_backend", slowly)
        async with hosted(jar) as host:
            work = asyncio.create_task(host.execute("FINAL(1)"))
            await opens.wait()
        go_on.set()
        with pytest.raises(InvalidInput) as refused:
            await work
        assert refused.value.code == "runtime.closed"

    drive(go())
    assert processes_below() == []


def test_a_session_is_cancelled_and_its_neighbour_goes_on(jar: Jar) -> None:
    async def go() -> tuple[str, str]:
        async with hosted(jar) as host, host.session(tenant="one") as one, host.session(tenant="two") as two:
            await one.execute("x = 1")
            looping = asyncio.create_task(one.execute("while True: pass"))
            (ours,) = (run for run in host.live() if run.tenant == "one")
            while ours.progress.cells < 2:
                await asyncio.sleep(0.01)
                (ours,) = (run for run in host.live() if run.tenant == "one")
            await host.cancel(ours.run)
            assert (await looping).status == "killed"
            with pytest.raises(PolicyDenied, match="the session has ended"):
                await one.execute("x")
            assert (await two.execute("print(2)")).stdout == "2\n"
        assert one.result is not None
        assert two.result is not None
        return one.result.status, two.result.status

    assert drive(go()) == ("killed", "ok")


def test_a_caller_that_is_cancelled_is_told_so_and_not_given_a_result(jar: Jar) -> None:
    async def go() -> None:
        async with hosted(jar) as host:
            running = asyncio.create_task(host.run("?", model=ScriptedModel(["```repl\nwhile True: pass\n```"])))
            await live_one(host)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

    drive(go())
    assert jar.records("run.finished")[0].data["status"] == "killed"
