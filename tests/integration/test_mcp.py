"""Belljar's tools over the Model Context Protocol, driven by the SDK's own client: over stdio, and over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import httpx2
import msgspec
import pytest
import uvicorn
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from belljar.audit.events import HttpRequest
from belljar.errors import AccessDenied, AuditUnavailable
from belljar.host import Host
from belljar.identity import Tenant, TraceParent
from belljar.jobs import Asked, Desk, DeskLimits, Order
from belljar.service.mcp import CALLS_MAX, CALLS_PER_TENANT_MAX, McpService
from belljar.service.tools import TEXT_CHARS_MAX, TOOLS, Caller, Offer
from belljar.testing import FakeModel
from tests.integration.support import BELLJAR, PATIENCE_S, Jar, until
from tests.waiting import in_time

T = TypeVar("T")
ANSWERS = "```repl\nFINAL(len(context))\n```"


class Known(msgspec.Struct, frozen=True):
    """A caller whom the test's own service knows by a token."""

    name: str
    tenant: Tenant | None
    role: str = "runner"


CALLERS = {"one": Known("key:one", Tenant("acme/one")), "two": Known("key:two", Tenant("acme/two"))}


async def caller_of(scope: Any) -> Caller:
    given = dict(scope["headers"]).get(b"authorization", b"").decode().removeprefix("Bearer ")
    if given not in CALLERS:
        raise AccessDenied("this is no key of ours: make one", code="access.unknown")
    return CALLERS[given]


def drive(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 3 * PATIENCE_S))


@contextlib.asynccontextmanager
async def serving(desk: Desk, offer: Offer) -> AsyncIterator[tuple[str, McpService]]:
    """The tools on a port of loopback: the address, and what is behind it."""
    service = McpService(desk, offer)
    application = service.http(caller_of)
    server = uvicorn.Server(uvicorn.Config(application, port=0, log_level="error", lifespan="off", access_log=False))
    async with application.run():
        task = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}/mcp", service
        finally:
            server.should_exit = server.force_exit = True
            await task
            await service.aclose()


@contextlib.asynccontextmanager
async def client(address: str, key: str, **more: str) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}", **more}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=PATIENCE_S, trust_env=False) as sending,
        Client(streamable_http_client(address, http_client=sending)) as opened,
    ):
        yield opened


def over_http(
    jar: Jar,
    work: Callable[[str, Desk, McpService], Coroutine[Any, Any, T]],
    *,
    limits: DeskLimits | None = None,
    kind: type[Desk] = Desk,
    **offer: Any,
) -> T:
    """Do something while the tools are served from the jar's state folder."""

    async def go() -> T:
        model = FakeModel(lambda _: ANSWERS, "scripted:fake")
        offered = Offer(**{"models": {"small": "scripted:fake"}, **offer})
        async with (
            Host(state=jar.at, environ={}, models=[model]) as host,
            kind(host, limits, models=offered.models.values()) as desk,
            serving(desk, offered) as (address, service),
        ):
            return await work(address, desk, service)

    return drive(go())


def error_of(result: Any) -> dict[str, Any]:
    assert result.is_error
    found = result.meta["belljar.error"]
    assert isinstance(found, dict)
    return found


def requests(jar: Jar) -> list[HttpRequest]:
    return [record.typed for record in jar.records() if isinstance(record.typed, HttpRequest)]


def calls(jar: Jar) -> list[HttpRequest]:
    """Without what a client asks before and after it calls a tool."""
    return [one for one in requests(jar) if one.route not in ("MCP server/discover", "MCP tools/list")]


def test_a_question_is_answered_and_its_progress_is_told(jar: Jar) -> None:
    told: list[tuple[float, str | None]] = []

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        assert total is None
        told.append((progress, message))

    async def work(address: str, _desk: Desk, _service: McpService) -> Any:
        async with client(address, "one") as opened:
            arguments = {"question": "How long?", "text": "x" * 500}
            return await opened.call_tool("answer_over_context", arguments, progress_callback=heard)

    result = over_http(jar, work)
    assert not result.is_error
    done = result.structured_content
    assert (done["answer"], done["status"], done["tenant"], done["turns"]) == (500, "ok", "acme/one", 1)
    assert json.loads(result.content[0].text) == done
    assert [number for number, _ in told] == sorted({number for number, _ in told}) != []
    assert told[-1][1] is not None
    assert "model calls" in told[-1][1]
    assert len(calls(jar)) == 1
    call = calls(jar)[0]
    assert (call.by, call.route, call.status) == ("key:one", "MCP answer_over_context", 200)
    assert (call.tenant, call.role, call.of) == ("acme/one", "runner", done["run"])
    assert [record.data["by"] for record in jar.records("run.started")] == ["key:one"]


def test_a_run_is_below_the_span_of_whoever_calls(jar: Jar) -> None:
    parent = TraceParent("ab" * 16, "cd" * 8)

    async def work(address: str, desk: Desk, _service: McpService) -> list[TraceParent | None]:
        found = []
        for told in (f"00-{parent.trace}-{parent.span}-01", f"00-{parent.trace}-{parent.span}"):
            async with client(address, "one", traceparent=told) as opened:
                done = await opened.call_tool("run_python", {"code": "FINAL(1)"})
                found.append(desk.caller_of(done.structured_content["run"]))
        return found

    assert over_http(jar, work) == [parent, None]


def test_a_text_is_registered_once_and_then_searched_asked_about_and_read(jar: Jar) -> None:
    async def work(address: str, _desk: Desk, _service: McpService) -> list[Any]:
        async with client(address, "one") as opened:
            text = "a city: Paris\nanother city: Rome\n"
            return [
                await opened.call_tool("register_context", {"name": "cities", "text": text}),
                await opened.call_tool("search_context", {"context": "cities", "pattern": r"city: (\w+)"}),
                await opened.call_tool("search_context", {"context": "cities", "pattern": "'''\\\\[", "limit": 1}),
                await opened.call_tool("run_python", {"context": "cities", "code": "FINAL(context[2:6])"}),
                await opened.call_tool("run_python", {"code": "print('seen'); FINAL(1 // 0)"}),
            ]

    registered, found, nothing, read, failed = over_http(jar, work)
    assert registered.structured_content["chars"] == 33
    assert registered.structured_content["reference"].startswith("sha256:")
    assert [hit["text"] for hit in found.structured_content["hits"]] == ["city: Paris", "city: Rome"]
    assert found.structured_content["complete"] is True
    assert error_of(nothing)["culprit"] == "refused"
    assert read.structured_content["answer"] == "city"
    assert failed.is_error
    assert (failed.structured_content["status"], failed.structured_content["stdout"]) == ("error", "seen\n")
    assert failed.structured_content["error"]["type"] == "ZeroDivisionError"
    routes = [call.route for call in calls(jar)]
    assert routes == [f"MCP {name}" for name in ("register_context", *["search_context"] * 2, *["run_python"] * 2)]
    # A search is a run: what it read is in the log as any other reading.
    assert len(jar.records("context.searched")) == 1


def test_tenants_see_and_use_nothing_of_each_other(jar: Jar) -> None:
    async def work(address: str, _desk: Desk, _service: McpService) -> list[Any]:
        async with client(address, "one") as opened:
            await opened.call_tool("register_context", {"name": "secret", "text": "of one"})
            run = (await opened.call_tool("run_python", {"code": "FINAL(1)"})).structured_content["run"]
            listed = await opened.call_tool("list_runs", {})
            shown = await opened.call_tool("show_run", {"run": run})
        async with client(address, "two") as opened:
            return [
                run,
                listed,
                shown,
                await opened.call_tool("list_runs", {}),
                await opened.call_tool("show_run", {"run": run}),
                await opened.call_tool("show_run", {"run": "20260101T000000-000000000000"}),
                await opened.call_tool("search_context", {"context": "secret", "pattern": "of"}),
                await opened.call_tool("list_runs", {"tenant": "acme/one"}),
                await opened.call_tool("run_python", {"code": "FINAL(1)", "tenant": "acme"}),
            ]

    run, listed, shown, others, foreign, unknown, searched, asked, above = over_http(jar, work)
    assert [one["run"] for one in listed.structured_content["runs"]] == [run]
    assert (shown.structured_content["status"], shown.structured_content["cells"]) == ("ok", ["ok"])
    assert others.structured_content["runs"] == []
    assert error_of(foreign)["code"] == error_of(unknown)["code"] == "run.unknown"
    assert error_of(foreign)["message"].replace(run, "R") == error_of(unknown)["message"].replace(
        "20260101T000000-000000000000", "R"
    )
    assert (error_of(searched)["code"], error_of(searched)["status"]) == ("context.unknown", 404)
    assert error_of(unknown)["status"] == 404
    assert error_of(asked)["code"] == error_of(above)["code"] == "access.forbidden"
    assert {record.data["tenant"] for record in jar.records("run.started")} == {"acme/one"}


def test_a_quota_refuses_a_call_and_says_so_without_the_numbers_of_others(jar: Jar) -> None:
    async def work(address: str, desk: Desk, _service: McpService) -> list[Any]:
        await desk.host.quotas.set("acme", "total", calls=0)
        async with client(address, "one") as opened:
            return [await opened.call_tool("answer_over_context", {"question": "How long?", "text": "x"})]

    (refused,) = over_http(jar, work)
    found = error_of(refused)
    assert (found["culprit"], found["code"], found["status"]) == ("quota", "quota.tenant.calls", 429)
    assert not {"limit", "observed"} & {*found}


HOSTILE: dict[str, tuple[str, dict[str, Any]]] = {
    "an unknown tool": ("rm", {}),
    "an unknown argument": ("run_python", {"code": "1", "path": "/etc/passwd"}),
    "another type": ("run_python", {"code": ["1"]}),
    "nothing": ("run_python", {}),
    "an empty text": ("run_python", {"code": ""}),
    "a text of half a character": ("run_python", {"code": "FINAL('\ud800')"}),
    "too long a text": ("register_context", {"name": "x", "text": "x" * (TEXT_CHARS_MAX + 1)}),
    "a file as a context": ("run_python", {"code": "1", "context": "/etc/passwd"}),
    "a way out as a context": ("run_python", {"code": "1", "context": "../../../../etc/passwd"}),
    "a file as a model": ("answer_over_context", {"question": "?", "model": "scripted:/etc/passwd"}),
    "another run as a model": ("answer_over_context", {"question": "?", "model": "replay:latest"}),
    "a model that nobody offers": ("run_python", {"code": "1", "sub_model": "claude-opus-4"}),
    "too many hits": ("search_context", {"context": "x", "pattern": "x", "limit": 10**9}),
    "no tenant": ("list_runs", {"tenant": "../.."}),
    "the whole log": ("show_run", {"run": "host.quotas"}),
    "no schema": ("answer_over_context", {"question": "?", "answer_schema": {"type": "nonsense"}}),
    "a schema of the network": ("answer_over_context", {"question": "?", "answer_schema": {"$ref": "http://a/b"}}),
    "both contexts": ("run_python", {"code": "1", "context": "x", "text": "y"}),
}


def test_hostile_arguments_are_refused_with_a_code_and_show_nothing_of_the_host(jar: Jar) -> None:
    async def work(address: str, _desk: Desk, _service: McpService) -> dict[str, Any]:
        async with client(address, "one") as opened:
            return {
                what: await opened.call_tool(name, arguments)
                for what, (name, arguments) in HOSTILE.items()
                if what != "a text of half a character"
            }

    results = over_http(jar, work)
    schemas = [error_of(results[what])["code"] for what in ("no schema", "a schema of the network")]
    assert schemas == ["answer.schema"] * 2
    for what, result in results.items():
        found = error_of(result)
        assert found["status"] in (403, 404, 422), what
        assert found["status"] == {"mcp.arguments": 422, "run.unknown": 404}.get(found["code"], found["status"]), what
        assert found["code"] not in ("internal", "host.fault"), what
        said = result.model_dump_json()
        assert str(jar.at) not in said, what
        assert "root:" not in said, what
        assert "Traceback" not in said, what
    assert jar.records("cell.started") == []
    assert len(calls(jar)) == len(HOSTILE) - 1
    assert all(call.code for call in calls(jar))


def test_bodies_are_bounded_and_half_characters_refused_on_the_wire(jar: Jar) -> None:
    def body(code: str) -> str:
        about: dict[str, Any] = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
        about |= {"io.modelcontextprotocol/clientCapabilities": {}}
        called = {"name": "run_python", "arguments": {"code": "CODE"}, "_meta": about}
        return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": called}).replace("CODE", code)

    async def work(address: str, _desk: Desk, _service: McpService) -> list[httpx2.Response]:
        headers = {
            "Authorization": "Bearer one",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/call",
            "Mcp-Name": "run_python",
        }
        async with httpx2.AsyncClient(headers=headers, timeout=PATIENCE_S, trust_env=False) as sending:
            return [await sending.post(address, content=body(code)) for code in (r"\ud800", "x" * 5_000_000)]

    half, large = over_http(jar, work)
    assert half.status_code == 200
    assert "mcp.arguments" in half.text
    assert large.status_code == 413


MESSAGES: dict[str, tuple[Any, int, tuple[str, int, str | None]]] = {
    "a list": ({"id": 1, "method": "tools/list"}, 200, ("MCP tools/list", 200, None)),
    "a sign of life": ({"id": 1, "method": "ping"}, 200, ("MCP ping", 200, None)),
    "no such method": ({"id": 1, "method": "tools/burn"}, 200, ("MCP unknown", 422, "mcp.message")),
    "a call of nothing": ({"id": 1, "method": "tools/call"}, 200, ("MCP unknown", 422, "mcp.message")),
    "a notification": ({"method": "notifications/initialized"}, 202, ("MCP", 202, None)),
    "no message": ({"id": 1}, 400, ("MCP", 400, "mcp.message")),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_whatever_is_no_call_of_a_tool_stands_in_the_log_too(jar: Jar, name: str) -> None:
    message, status, record = MESSAGES[name]

    async def work(address: str, _desk: Desk, _service: McpService) -> httpx2.Response:
        headers = {"Authorization": "Bearer one", "Accept": "application/json, text/event-stream"}
        async with httpx2.AsyncClient(headers=headers, timeout=PATIENCE_S, trust_env=False) as sending:
            return await sending.post(address, json={"jsonrpc": "2.0", **message})

    assert over_http(jar, work).status_code == status
    (one,) = requests(jar)
    assert (one.route, one.status, one.code) == record
    assert (one.by, one.tenant) == ("key:one", "acme/one")


@pytest.mark.parametrize("message", [{"id": 1, "method": "tools/list"}, {"method": "notifications/initialized"}])
def test_what_cannot_be_logged_is_not_answered_and_no_reason_of_the_host_s_is_told(jar: Jar, message: Any) -> None:
    async def work(address: str, desk: Desk, _service: McpService) -> httpx2.Response:
        async def fails(_event: Any) -> None:
            raise AuditUnavailable("no room in /srv/log")

        desk.host.log = fails  # type: ignore[method-assign, assignment]
        headers = {"Authorization": "Bearer one", "Accept": "application/json, text/event-stream"}
        async with httpx2.AsyncClient(headers=headers, timeout=PATIENCE_S, trust_env=False) as sending:
            return await sending.post(address, json={"jsonrpc": "2.0", **message})

    answer = over_http(jar, work)
    assert ("something failed on our side" if "id" in message else "the audit log cannot be used") in answer.text
    assert "/srv/log" not in answer.text
    assert answer.status_code == (200 if "id" in message else 503)


def test_nobody_gets_in_without_a_key(jar: Jar) -> None:
    async def work(address: str, _desk: Desk, _service: McpService) -> httpx2.Response:
        async with httpx2.AsyncClient(timeout=PATIENCE_S, trust_env=False) as sending:
            return await sending.post(address, json={}, headers={"Authorization": "Bearer three"})

    answer = over_http(jar, work)
    assert (answer.status_code, answer.json()["code"]) == (401, "access.unknown")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    (call,) = calls(jar)
    assert (call.by, call.status, call.code) == ("nobody", 401, "access.unknown")


def test_a_client_that_gives_up_ends_its_run(jar: Jar) -> None:
    async def work(address: str, desk: Desk, service: McpService) -> None:
        async with client(address, "one") as opened:
            waiting = asyncio.create_task(opened.call_tool("run_python", {"code": "while True: pass"}))
            await asyncio.to_thread(until, lambda: jar.records("cell.started"), what="the program runs")
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            async with in_time(PATIENCE_S, "the run has ended"):
                while desk.host.live() or service._calls:  # noqa: ASYNC110 - nobody is told of it
                    await asyncio.sleep(0.01)

    over_http(jar, work)
    (finished,) = jar.records("run.finished")
    assert finished.data["status"] == "killed"
    (call,) = calls(jar)
    assert (call.status, call.code) == (499, "mcp.cancelled")


def test_a_service_that_stops_tells_its_callers_and_ends_their_runs(jar: Jar) -> None:
    async def work(address: str, desk: Desk, service: McpService) -> Any:
        async with client(address, "one") as opened:
            waiting = asyncio.create_task(opened.call_tool("run_python", {"code": "while True: pass"}))
            await asyncio.to_thread(until, lambda: jar.records("cell.started"), what="the program runs")
            await service.aclose()
            assert desk.host.live() == []
            return await waiting

    stopped = over_http(jar, work)
    assert (error_of(stopped)["code"], error_of(stopped)["status"]) == ("mcp.stopping", 503)
    assert [record.data["status"] for record in jar.records("run.finished")] == ["killed"]


@pytest.mark.parametrize(
    ("others", "near", "own"), [(CALLS_MAX, 0, 0), (0, CALLS_MAX // 2, 0), (0, 0, CALLS_PER_TENANT_MAX)]
)
def test_whoever_comes_when_their_places_are_taken_is_refused_at_once(
    others: int, near: int, own: int, jar: Jar
) -> None:
    async def work(address: str, _desk: Desk, service: McpService) -> list[Any]:
        loop, never = asyncio.get_running_loop(), asyncio.Event()
        taken = [f"other/{number}" for number in range(others)] + [f"acme/{number}" for number in range(near)]
        taken += ["acme/one"] * own
        held: dict[Any, Tenant | None] = {loop.create_task(never.wait()): Tenant(name) for name in taken}
        service._calls.update(held)
        async with client(address, "one") as opened, client(address, "two") as other:
            refused, theirs = await opened.call_tool("list_runs", {}), await other.call_tool("list_runs", {})
            for one in held:
                del service._calls[one]
                one.cancel()
            return [refused, theirs, await opened.call_tool("list_runs", {})]

    refused, theirs, allowed = over_http(jar, work)
    assert (error_of(refused)["code"], error_of(refused)["status"]) == ("mcp.busy", 503)
    assert theirs.is_error is not bool(own)
    assert not allowed.is_error


# ----------------------------------------------------------------------------------------------------------- the queue


ONE_SLOT = DeskLimits(running=1)
HANGS = Asked(code="while True: pass")


async def state_of(desk: Desk, run: str, wanted: str) -> None:
    async with in_time(PATIENCE_S, f"{run} is {wanted}"):
        while (await desk.get(run)).state != wanted:  # noqa: ASYNC110 - nobody is told of it
            await asyncio.sleep(0.01)


async def slot_taken(desk: Desk) -> str:
    """A run that somebody ordered over HTTP, and that has the one slot."""
    order = await desk.submit(HANGS, tenant=Tenant("other"), by="key:other")
    await state_of(desk, order.run, "running")
    return order.run


async def queued(desk: Desk, count: int) -> None:
    async with in_time(PATIENCE_S, f"{count} wait"):
        while len((await desk.ls(Tenant("acme"), status="queued")).runs) != count:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)


def code(text: str) -> tuple[str, dict[str, Any]]:
    """What a client calls to run this."""
    return "run_python", {"code": text}


def test_a_run_waits_its_turn_behind_one_that_came_over_http_and_is_listed_meanwhile(jar: Jar) -> None:
    told: list[str | None] = []

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)

    async def work(address: str, desk: Desk, _service: McpService) -> list[Any]:
        held = await slot_taken(desk)
        async with client(address, "one") as opened, client(address, "two") as other:
            waiting = asyncio.create_task(opened.call_tool(*code("FINAL(1)"), progress_callback=heard))
            await queued(desk, 1)
            listed = (await opened.call_tool("list_runs", {"status": "queued"})).structured_content["runs"]
            shown = await opened.call_tool("show_run", {"run": listed[0]["run"]})
            foreign = await other.call_tool("show_run", {"run": listed[0]["run"]})
            begun = len(jar.records("run.started"))
            await desk.cancel(held, by="test")
            done = await waiting
            after = (await opened.call_tool("list_runs", {})).structured_content["runs"]
            return [begun, listed, shown, foreign, done, after]

    begun, (listed,), shown, foreign, done, (after,) = over_http(jar, work, limits=ONE_SLOT)
    assert begun == 1
    assert (listed["status"], listed["started"], listed["tenant"]) == ("queued", None, "acme/one")
    assert (shown.structured_content["status"], shown.structured_content["by"]) == ("queued", "key:one")
    assert error_of(foreign)["code"] == "run.unknown"
    assert (done.structured_content["run"], done.structured_content["answer"]) == (listed["run"], 1)
    assert (after["run"], after["status"]) == (listed["run"], "ok")
    assert told[0] == "it waits for its turn, 0 of its tenant's before it"


def test_tenants_take_turns_however_many_calls_one_of_them_makes(jar: Jar) -> None:
    async def work(address: str, desk: Desk, _service: McpService) -> None:
        held = await slot_taken(desk)
        async with client(address, "one") as opened, client(address, "two") as other:
            many = []
            for number in range(4):
                many.append(asyncio.create_task(opened.call_tool(*code(f"FINAL({number})"))))
                await queued(desk, number + 1)
            single = asyncio.create_task(other.call_tool(*code("FINAL(9)")))
            await queued(desk, 5)
            await desk.cancel(held, by="test")
            await asyncio.gather(*many, single)

    over_http(jar, work, limits=ONE_SLOT)
    tenants = [record.data["tenant"] for record in jar.records("run.started")]
    assert tenants == ["other", "acme/one", "acme/two", *["acme/one"] * 3]


def test_a_queue_without_room_refuses_a_call_and_says_when_to_come_again(jar: Jar) -> None:
    async def work(address: str, desk: Desk, _service: McpService) -> Any:
        held = await slot_taken(desk)
        async with client(address, "one") as opened:
            waiting = asyncio.create_task(opened.call_tool(*code("FINAL(1)")))
            await queued(desk, 1)
            refused = await opened.call_tool(*code("FINAL(2)"))
            await desk.cancel(held, by="test")
            assert (await waiting).structured_content["answer"] == 1
            return refused

    limits = DeskLimits(running=1, queued_per_tenant=1)
    found = error_of(over_http(jar, work, limits=limits))
    assert (found["culprit"], found["code"], found["status"]) == ("refused", "queue.tenant", 503)
    assert found["retry_after_s"] >= 1
    assert "queue.tenant" in [call.code for call in calls(jar)]


def test_a_client_that_gives_up_takes_its_order_out_of_the_queue(jar: Jar) -> None:
    async def work(address: str, desk: Desk, service: McpService) -> None:
        held = await slot_taken(desk)
        async with client(address, "one") as opened:
            waiting = asyncio.create_task(opened.call_tool(*code("FINAL(1)")))
            await queued(desk, 1)
            (listed,) = (await desk.ls(Tenant("acme"))).runs
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            await state_of(desk, listed.run, "cancelled")
            assert (await desk.get(listed.run)).error is not None
            async with in_time(PATIENCE_S, "the call has ended"):
                while service._calls:  # noqa: ASYNC110 - nobody is told of it
                    await asyncio.sleep(0.01)
            await desk.cancel(held, by="test")

    over_http(jar, work, limits=ONE_SLOT)
    assert [record.data["tenant"] for record in jar.records("run.started")] == ["other"]
    (call,) = calls(jar)
    assert (call.status, call.code, call.of is not None) == (499, "mcp.cancelled", True)


class SlowDesk(Desk):
    """Takes its time to say that it has an order."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.orders: list[Order] = []
        self.may_tell = asyncio.Event()

    async def submit(self, *arguments: Any, **options: Any) -> Order:
        order = await super().submit(*arguments, **options)
        self.orders.append(order)
        await self.may_tell.wait()
        return order


def test_a_client_that_gives_up_while_its_order_is_written_ends_it(jar: Jar) -> None:
    async def work(address: str, desk: Desk, _service: McpService) -> None:
        assert isinstance(desk, SlowDesk)
        async with client(address, "one") as opened:
            waiting = asyncio.create_task(opened.call_tool(*code("while True: pass")))
            await asyncio.to_thread(until, lambda: jar.records("cell.started"), what="the program runs")
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            desk.may_tell.set()
            await state_of(desk, desk.orders[0].run, "killed")

    over_http(jar, work, kind=SlowDesk)


def test_a_drain_ends_calls_that_wait_and_calls_that_run(jar: Jar) -> None:
    async def work(address: str, desk: Desk, _service: McpService) -> list[Any]:
        async with client(address, "one") as opened, client(address, "two") as other:
            running = asyncio.create_task(opened.call_tool(*code("while True: pass")))
            await asyncio.to_thread(until, lambda: jar.records("cell.started"), what="the program runs")
            waiting = asyncio.create_task(other.call_tool(*code("FINAL(1)")))
            await queued(desk, 1)
            await desk.drain(0)
            late = await other.call_tool(*code("FINAL(2)"))
            return [error_of(one) for one in (await running, await waiting, late)]

    found = over_http(jar, work, limits=ONE_SLOT)
    assert [one["code"] for one in found] == ["run.interrupted", "run.interrupted", "service.draining"]
    assert [one["status"] for one in found] == [503] * 3
    assert found[2]["retry_after_s"] >= 1
    assert [record.data["status"] for record in jar.records("run.finished")] == ["killed"]


@pytest.mark.parametrize("wrong", ["scripted:{work}/missing.toml", "replay:{work}", "openai:{work}"])
def test_what_the_operator_set_up_wrong_is_told_to_the_operator_alone(
    wrong: str, jar: Jar, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(address: str, _desk: Desk, _service: McpService) -> Any:
        async with client(address, "one") as opened:
            return await opened.call_tool("answer_over_context", {"question": "How long?", "text": "x"})

    result = over_http(jar, work, models={"small": wrong.format(work=jar.work)})
    assert error_of(result)["culprit"] == "our side"
    assert str(jar.work) not in result.model_dump_json()
    assert str(jar.work)[:50] in caplog.text  # a long name is cut


def test_each_tool_says_what_it_takes_and_gives(jar: Jar) -> None:
    async def work(address: str, _desk: Desk, _service: McpService) -> Any:
        async with client(address, "one") as opened:
            return (await opened.list_tools()).tools

    tools = over_http(jar, work)
    assert {tool.name for tool in tools} == set(TOOLS)
    for tool in tools:
        assert tool.input_schema["type"] == "object"
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema["type"] == "object"
    (asked,) = [tool for tool in tools if tool.name == "answer_over_context"]
    assert asked.input_schema["properties"]["model"]["enum"] == ["small", None]
    assert asked.input_schema["properties"]["question"]["maxLength"] == 100_000


# --------------------------------------------------------------------------------------------------------------- stdio


def over_stdio(jar: Jar, *arguments: str) -> Client:
    command = ["mcp", "--tenant", "acme/one", *arguments]
    return Client(StdioServerParameters(command=BELLJAR, args=command, env=jar.environ(), cwd=str(jar.work)))


def test_the_command_serves_a_client_over_its_stdin_and_stdout(jar: Jar) -> None:
    async def work() -> list[Any]:
        async with over_stdio(jar, "--model", jar.script(ANSWERS)) as opened:
            return [
                await opened.call_tool("answer_over_context", {"question": "How long?", "text": "x" * 500}),
                await opened.call_tool("run_python", {"code": "print('not the protocol'); FINAL(1)"}),
                await opened.call_tool("run_python", {"code": "FINAL(1)", "tenant": "acme"}),
            ]

    answered, printed, above = drive(work())
    assert answered.structured_content["answer"] == 500
    assert printed.structured_content["stdout"] == "not the protocol\n"
    assert error_of(above)["code"] == "access.forbidden"
    started = [record.data for record in jar.records("run.started")]
    assert {data["tenant"] for data in started} == {"acme/one"}
    assert all(by.startswith("user:") for by in [call.by for call in calls(jar)] + [data["by"] for data in started])
    assert len(calls(jar)) == 3


def test_over_stdio_the_demo_model_answers_and_one_that_there_is_not_is_refused_at_the_start(jar: Jar) -> None:
    async def work() -> Any:
        async with over_stdio(jar, "--model", "scripted:demo") as opened:
            return await opened.call_tool("answer_over_context", {"question": "How long?", "text": "x" * 500})

    answered = drive(work())
    assert (answered.is_error, answered.structured_content["status"]) == (False, "ok")
    for name, said in (("bogus", "there is no model 'bogus'"), ("claude-opus-4-5", "set ANTHROPIC_API_KEY")):
        command = [BELLJAR, "mcp", "--model", name]
        refused = subprocess.run(
            command, env=jar.environ(), cwd=jar.work, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert refused.returncode == 2
        assert said in refused.stderr
        assert refused.stdout == ""


def test_a_cancelled_call_over_stdio_ends_its_run_and_the_session_goes_on(jar: Jar) -> None:
    async def work() -> Any:
        async with over_stdio(jar) as opened:
            waiting = asyncio.create_task(opened.call_tool("run_python", {"code": "while True: pass"}))
            await asyncio.to_thread(
                until, lambda: jar.journal.exists() and jar.records("cell.started"), what="the program runs"
            )
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            await asyncio.to_thread(until, lambda: jar.records("run.finished"), what="it has ended")
            return await opened.call_tool("run_python", {"code": "FINAL(2)"})

    assert drive(work()).structured_content["answer"] == 2
    assert [record.data["status"] for record in jar.records("run.finished")] == ["killed", "ok"]


def test_the_end_of_stdin_and_a_signal_end_the_runs_under_way(jar: Jar) -> None:
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    code = {"name": "run_python", "arguments": {"code": "while True: pass"}}
    messages: list[dict[str, Any]] = [
        {"id": 1, "method": "initialize", "params": hello},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": code},
    ]

    async def ended_by(end: Callable[[asyncio.subprocess.Process], None]) -> tuple[int, bytes]:
        process = await asyncio.create_subprocess_exec(
            BELLJAR, "mcp", stdin=-1, stdout=-1, stderr=-1, env=jar.environ(), cwd=jar.work
        )
        assert process.stdin is not None
        for message in messages:
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        before = len(jar.records("cell.started")) if jar.journal.exists() else 0
        await asyncio.to_thread(
            until, lambda: jar.journal.exists() and len(jar.records("cell.started")) > before, what="the program runs"
        )
        end(process)
        stdout, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, stdout

    async def work() -> list[tuple[int, bytes]]:
        return [
            await ended_by(lambda process: process.stdin.close() if process.stdin else None),
            await ended_by(lambda process: os.kill(process.pid, signal.SIGTERM)),
        ]

    (closed, first), (stopped, second) = drive(work())
    assert (closed, stopped) == (0, 128 + signal.SIGTERM)
    for said in (first, second):
        assert all(json.loads(line)["jsonrpc"] == "2.0" for line in said.splitlines())
    assert [record.data["status"] for record in jar.records("run.finished")] == ["killed", "killed"]


@pytest.mark.parametrize("full", [True, False])
def test_a_client_that_reads_no_more_is_the_end_of_the_session(jar: Jar, full: bool) -> None:
    """And ends its runs. Stdin stays open."""

    async def work() -> tuple[int, bytes]:
        read, gone = os.pipe()
        os.close(read)
        stdout = os.open("/dev/full", os.O_WRONLY) if full else gone
        process = await asyncio.create_subprocess_exec(
            BELLJAR, "mcp", stdin=-1, stdout=stdout, stderr=-1, env=jar.environ(), cwd=jar.work
        )
        os.close(gone)
        if full:
            os.close(stdout)
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n')
        told = await process.stderr.read()
        return await process.wait(), told

    code, told = drive(work())
    assert code == 10
    assert told == (
        b"belljar: output: stdout cannot be written (No space left on device): free some space, or redirect it "
        b"elsewhere\n"
        if full
        else b""
    )


def test_what_somebody_prints_goes_to_stderr_and_not_among_the_messages() -> None:
    code = (
        "import os, subprocess, sys; from belljar.cli.mcp import _streams, _write\n"
        "_, write = _streams(); print('stray', flush=True); subprocess.run(['/bin/echo', 'child'])\n"
        "assert sys.stdin.read() == ''; _write(write._fd, b'message\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], input=b"not yours", capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"message\n", b"stray\nchild\n")


def test_a_message_without_end_ends_the_session(jar: Jar) -> None:
    async def work() -> tuple[int | None, bytes]:
        process = await asyncio.create_subprocess_exec(
            BELLJAR, "mcp", stdin=-1, stdout=-1, stderr=-1, env=jar.environ(), cwd=jar.work
        )
        _, stderr = await process.communicate(b"x" * 5_000_000)
        return process.returncode, stderr

    code, stderr = drive(work())
    assert code == 2
    assert b"belljar: refused: a message of over" in stderr
