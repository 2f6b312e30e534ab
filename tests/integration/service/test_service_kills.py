"""A service that is killed, and one beside it on the same database: what clients find there, over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import httpx2
import pytest

from belljar import Host
from belljar.audit import verify
from belljar.service.server import Ready, serve
from belljar.service.settings import ServiceSettings
from belljar.state import State
from belljar.upkeep import examine
from benchmarks.provider import MODEL, Provider
from benchmarks.served import Served
from tests.integration.support import PATIENCE_S, Jar
from tests.postgres import Postgres, sql
from tests.unit.collectors import Collector
from tests.waiting import in_time

pytestmark = pytest.mark.slow
NAMES = "SELECT name FROM belljar.hosts"
AGED = "UPDATE belljar.hosts SET seen = now() - interval '1 hour' WHERE name = $1"


def asking(mark: str) -> dict[str, Any]:
    """Two queries: the second has no answer until the provider lets it go."""
    return {"code": f"FINAL([llm_query('[[{mark} one]]'), llm_query('[[{mark} hold]]')])", "sub_model": MODEL}


def environ(jar: Jar, provider: Provider, **more: str) -> dict[str, str]:
    known = {"ANTHROPIC_API_KEY": "sk-ant-test", "ANTHROPIC_BASE_URL": provider.url}
    return jar.environ({"PATH": os.environ["PATH"], **known, **more})


def client(service: Served | Ready, key: str | None) -> httpx2.AsyncClient:
    headers = {"authorization": f"Bearer {key}"}
    return httpx2.AsyncClient(base_url=service.url, headers=headers, timeout=PATIENCE_S, trust_env=False)


async def ordered(http: httpx2.AsyncClient, body: dict[str, Any], key: str) -> httpx2.Response:
    return await http.post("/v1/runs", json=body, headers={"idempotency-key": key})


async def until(condition: Callable[[], object]) -> None:
    async with in_time(PATIENCE_S, "it holds"):
        while not condition():  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.02)


async def ended(http: httpx2.AsyncClient, run: str, *wanted: str) -> dict[str, Any]:
    async with in_time(PATIENCE_S, f"it is {wanted}"):
        while (state := (await http.get(f"/v1/runs/{run}")).json())["state"] not in wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    found: dict[str, Any] = state
    return found


def drive(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 3 * PATIENCE_S))


@contextlib.asynccontextmanager
async def command(jar: Jar, provider: Provider, **more: str) -> AsyncIterator[Served]:
    """`belljar serve`, which is stopped by SIGTERM in the end if it still runs."""
    service = Served("service", environ(jar, provider, **more), jar.work)
    try:
        await service.start()
        yield service
    finally:
        await service.close()


def test_after_a_crash_a_key_is_for_the_same_body_and_pays_for_no_answer_twice(jar: Jar) -> None:
    async def go() -> None:
        async with Provider(0, busy=0) as provider, command(jar, provider) as service:
            async with client(service, service.key) as http:
                first = (await ordered(http, asking("k"), "key")).json()
                await until(lambda: provider.asked["k hold"])
            await service.kill()
            await service.start()
            async with client(service, service.key) as http:
                broken = (await http.get(f"/v1/runs/{first['run']}")).json()
                assert (broken["state"], broken["result"], broken["absent"]) == ("interrupted", None, ["result"])
                events = (await http.get(f"/v1/runs/{first['run']}/events")).text
                assert ("event: query" in events, events.count("event: end"), events.count('"interrupted"')) == (
                    True,
                    1,
                    1,
                )
                changed = await ordered(http, asking("other"), "key")
                assert (changed.status_code, changed.json()["code"]) == (409, "order.idem_conflict")
                again = (await ordered(http, asking("k"), "key")).json()
                assert (again["made"], again["retries"]) == ("forked", first["run"])
                await until(lambda: provider.asked["k hold"] == 2)
                known = (await ordered(http, asking("k"), "key")).json()
                assert (known["made"], known["run"]) == ("known", again["run"])
                provider.let_go.set()
                state = await ended(http, again["run"], "ok")
                assert (await ordered(http, asking("other"), "key")).status_code == 409
                assert (await http.get(f"/v1/runs/{first['run']}")).json()["retried_as"] == again["run"]
            assert len(state["result"]["answer"]) == 2
            assert (provider.asked["k one"], provider.asked["k hold"]) == (1, 2)
            await service.stop()

    drive(go())


def test_a_hook_hears_of_a_run_whose_service_was_killed_and_once(jar: Jar) -> None:
    """Nobody heard it end. A hook that is set up later hears nothing of it."""
    allowed = {"BELLJAR_SERVICE_HOOKS_PRIVATE": "true"}

    async def go() -> None:
        async with Provider(0, busy=0) as provider, command(jar, provider, **allowed) as service:
            with Collector() as collector:
                async with client(service, service.key) as http:
                    made = await http.post("/v1/hooks", json={"url": f"{collector.url}/x", "told": ["run.ended"]})
                    assert made.status_code == 201, made.text
                    run = (await ordered(http, asking("k"), "key")).json()["run"]
                    await until(lambda: provider.asked["k hold"])
                await service.kill()
                await service.start()
                await until(lambda: collector.got)
                seen = int(time.time())
                await until(lambda: time.time() >= seen + 1)  # what happened when is known to the second
                async with client(service, service.key) as http:
                    await http.post("/v1/hooks", json={"url": f"{collector.url}/later", "told": ["run.ended"]})
                    body = {"code": "FINAL(1)"}
                    answer = await http.post("/v1/runs", json=body, headers={"prefer": "wait=60"})
                    assert answer.json()["state"]["state"] == "ok"
                    last = answer.json()["run"]
                    wanted = [("/later", last, "ok"), ("/x", last, "ok"), ("/x", run, "interrupted")]

                    def told() -> list[tuple[str, str, str]]:
                        found = [(path, json.loads(body)["data"]) for path, body in tuple(collector.got)]
                        return sorted((path, data["run"], data["state"]) for path, data in found)

                    await until(lambda: len(told()) >= len(wanted))
                    assert told() == sorted(wanted)
            provider.let_go.set()
            await service.stop()

    drive(go())


def test_of_two_services_on_one_database_the_other_goes_on_for_the_one_that_is_killed(
    jar: Jar, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("belljar.recovery.LOOK_S", 0.1)
    monkeypatch.setattr("belljar.jobs.following.LOOK_S", 0.1)
    url = postgres.database()

    async def go() -> None:
        async with Provider(0, busy=0) as provider, command(jar, provider, BELLJAR_JOURNAL=url) as first:
            ((name,),) = sql(url, NAMES)
            known = environ(jar, provider)
            async with (
                beside(Host(state=url, environ=known)) as second,
                client(first, first.key) as there,
                client(second, first.key) as here,
            ):
                lost, cancelled = [
                    (await ordered(there, asking(mark), f"key-{mark}")).json()["run"] for mark in ("lost", "cancelled")
                ]
                await until(lambda: provider.asked["lost hold"] and provider.asked["cancelled hold"])
                assert (await here.get(f"/v1/runs/{lost}")).json()["state"] == "running"
                assert (await ordered(here, asking("lost"), "key-lost")).json()["made"] == "known"
                assert (await ordered(here, asking("other"), "key-lost")).status_code == 409

                # Through the other process: to cancel, and to listen.
                assert (await here.delete(f"/v1/runs/{cancelled}")).status_code == 200
                assert (await ended(here, cancelled, "killed"))["result"]["status"] == "killed"
                heard: list[str] = []
                listening = asyncio.create_task(_listened(here, lost, heard))
                await until(lambda: "event: query" in heard)

                await first.kill()
                assert (await here.get(f"/v1/runs/{lost}")).json()["state"] == "running", "its lease is not over"
                await asyncio.to_thread(sql, url, AGED, name)
                await ended(here, lost, "interrupted")
                async with in_time(PATIENCE_S, "the listener hears the end"):
                    await listening
                assert "event: result" not in heard
                again = (await ordered(here, asking("lost"), "key-lost")).json()
                assert (again["made"], again["retries"]) == ("forked", lost)
                provider.let_go.set()
                await ended(here, again["run"], "ok")
                assert (provider.asked["lost one"], provider.asked["lost hold"]) == (1, 2)
        report = await asyncio.to_thread(verify, url)
        assert (report.problems, report.unfinished) == ([], [])
        journal = (await asyncio.to_thread(examine, State(jar.at, url))).journal
        assert (journal.problems, journal.open_runs) == ([], 0)

    drive(go())
    postgres.drop()


async def _listened(http: httpx2.AsyncClient, run: str, heard: list[str]) -> None:
    async with http.stream("GET", f"/v1/runs/{run}/events") as stream:
        async for line in stream.aiter_lines():
            heard.append(line)  # noqa: PERF401 - who waits looks at it meanwhile


@contextlib.asynccontextmanager
async def beside(host: Host) -> AsyncIterator[Ready]:
    """A service in this process."""
    told: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    serving = asyncio.create_task(
        serve(host, ServiceSettings(port=0, drain_s=5.0), by="test", ready=told.set_result, stop=stop)
    )
    try:
        both: set[asyncio.Future[Any]] = {told, serving}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        yield told.result()
    finally:
        stop.set()
        await serving
