"""What stands beside the API of a service: pages, tools, metrics, webhooks, spans; all with its keys and its log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client as McpClient
from mcp.client.streamable_http import streamable_http_client

from belljar import Host
from belljar.audit import records
from belljar.audit.events import HttpRequest
from belljar.config import TelemetryTable
from belljar.errors import AuditUnavailable, HostFault, QuotaExceeded
from belljar.service.app import Extra
from belljar.service.metrics import HostSources, Metrics, Reading
from belljar.service.pages import DemoModel, HostReader, Visitor
from belljar.service.pages.routes import _words
from belljar.service.parts import parts
from belljar.service.routes import Service
from belljar.service.values import VALUES_MAX
from tests.certificates import certified
from tests.integration.service.support import Begun, Client, Held, Serving, connected, head, problem, said, serving
from tests.integration.support import PATIENCE_S, Jar
from tests.unit.collectors import Collector
from tests.waiting import in_time, until

ASKED = {
    "question": "What is it?",
    "model": "scripted:demo",
    "contexts": {"context": {"kind": "text", "text": "a short text"}},
}


@pytest.fixture
def service(jar: Jar) -> Iterator[Serving]:
    with serving(jar, models=[DemoModel()], options={"extras": parts()}, hooks_private=True) as running:
        yield running


@contextlib.contextmanager
def browser(service: Serving, key: str | None = None) -> Iterator[Client]:
    """A browser that has logged in."""
    with service.nobody() as client:
        client.headers.update({"origin": service.url, "sec-fetch-site": "same-origin"})
        shown = service.key if key is None else key
        answer = client.post("/login", data={"key": shown, "next": "/runs"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
        yield client


def requests(jar: Jar) -> list[HttpRequest]:
    return [one.typed for one in records(jar.journal) if isinstance(one.typed, HttpRequest)]


def test_whoever_logs_in_sees_the_pages_and_each_look_is_in_the_log(service: Serving, jar: Jar) -> None:
    assert service.key is not None
    with browser(service) as client:
        for path in ("/runs", "/tenants", "/contexts", "/playground", "/health", "/audit"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8"), path
            assert "default-src 'none'" in answer.headers["content-security-policy"]
        asked = [(one.route, one.by) for one in requests(jar)]
        me = f"key:{service.key.split('_')[1]}"
        assert ("POST /login", "nobody") in asked
        assert {("GET /runs", me), ("GET /audit", me)} <= {*asked}


def test_the_playground_orders_a_run_that_its_page_shows(service: Serving) -> None:
    with browser(service) as client:
        page = client.get("/playground").text
        token = page.partition('name="token" value="')[2].partition('"')[0]
        form = {"token": token, "tenant": "acme", "text": "a short text", "question": "What is it?"}
        ordered = client.post("/playground", data={**form, "model": "scripted:demo", "policy": "standard"})
        assert ordered.status_code == 303, ordered.text
        run = ordered.headers["location"].removeprefix("/runs/")
        with service.client() as api:
            state = api.get(f"/v1/runs/{run}").json()
            until(lambda: api.get(f"/v1/runs/{run}").json()["state"] == "ok", what="the run has ended")
            assert (state["tenant"], state["by"]) == ("acme", f"key:{str(service.key).split('_')[1]}")
        assert "This is the demo" in client.get(f"/runs/{run}").text
        listed = client.get("/runs").text
        assert run in listed


def test_a_cookie_counts_for_the_api_only_where_a_page_of_ours_sends_it(service: Serving) -> None:
    """A browser sends it along with whatever any site makes it send."""
    with browser(service) as client:
        ours = {name: client.headers.pop(name) for name in ("origin", "sec-fetch-site")}
        assert client.get("/v1/runs").status_code == 200
        for headers in (
            {},
            {"origin": "https://owned.example"},
            {**ours, "sec-fetch-site": "cross-site"},
            {**ours, "sec-fetch-site": "same-site"},
        ):
            problem(client.post("/v1/runs", json=ASKED, headers=headers), 403, "route.origin")
        assert client.post("/v1/runs", json=ASKED, headers=ours).status_code == 202


def test_over_tls_no_other_host_can_give_a_browser_its_session(jar: Jar, tmp_path: Path) -> None:
    """A host below the same domain can set cookies for all of it, but none whose name begins with `__Host-`."""
    certificate, key = certified(tmp_path)
    options = {"extras": parts()}
    with (
        serving(jar, models=[DemoModel()], options=options, tls_cert=certificate, tls_key=key) as service,
        Client(service.url, "", verify=ssl.create_default_context(cafile=str(certificate))) as client,
    ):
        told = client.post("/login", data={"key": service.key}).headers["set-cookie"]
        name, _, value = told.partition(";")[0].partition("=")
        assert name == "__Host-belljar_session"
        attributes = {one.strip().lower() for one in told.split(";")[1:]}
        assert {"secure", "httponly", "path=/", "samesite=lax"} <= attributes
        assert not any(one.startswith("domain") for one in attributes)
        client.cookies.clear()
        theirs = {"cookie": f"belljar_session={value}"}
        assert client.get("/runs", headers=theirs).headers["location"] == "/login?next=%2Fruns"
        problem(client.get("/v1/runs", headers=theirs), 401, "access.missing")
        ours = {"cookie": f"belljar_session=theirs; {name}={value}"}
        page = client.get("/runs", headers=ours)
        assert (page.status_code, client.get("/v1/runs", headers=ours).status_code) == (200, 200)
        word = page.text.partition('name="token" value="')[2].partition('"')[0]
        gone = client.post("/logout", data={"token": word}, headers=ours).headers["set-cookie"]
        assert gone.startswith(f'{name}="";')
        assert "secure" in gone.lower()


def test_a_head_of_the_login_is_no_attempt_to_log_in(service: Serving) -> None:
    with service.nobody() as stranger:
        for _ in range(20):
            answer = stranger.head("/login")
            assert (answer.status_code, answer.content) == (200, b"")


def test_a_page_is_for_whoever_has_a_session_and_shows_no_other_tenant(service: Serving) -> None:
    with service.nobody() as stranger:
        answer = stranger.get("/runs")
        assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2Fruns")
    with service.client() as admin:
        admin.headers["prefer"] = "wait=60"
        run = admin.post("/v1/runs", json={**ASKED, "tenant": "acme"}).json()["run"]
    with browser(service, service.key_of("runner", "other")) as client:
        assert client.get(f"/runs/{run}").status_code == 404
        assert run not in client.get("/runs").text


def test_whoever_has_no_session_fills_no_log(jar: Jar, held_up: None, service: Serving) -> None:
    before = len(requests(jar))
    with service.nobody() as stranger:
        for _ in range(20):
            stranger.get("/")
            stranger.get("/runs")
            stranger.get("/login")
            stranger.post("/login", json={"key": "bj_wrong"})
            refused = stranger.post("/login", data={"key": "bj_0000000000000000_" + "a" * 43})
    assert refused.status_code == 429
    made = [(one.route, one.code) for one in requests(jar)[before:]]
    assert {*made} == {("POST /login", "access.unknown")}
    assert len(made) < 15


def test_a_page_offers_a_fork_only_of_what_can_be_forked(service: Serving) -> None:
    """The question of a session is none that could be asked anew, and `strict` keeps none."""
    with service.client() as admin, browser(service) as page:
        admin.headers["prefer"] = "wait=60"
        session = admin.post("/v1/sessions", json={"model": "scripted:demo"}).json()["session"]
        assert admin.post(f"/v1/sessions/{session}/ask", json={"question": "What is it?"}).status_code == 200
        admin.delete(f"/v1/sessions/{session}")
        runs = {policy: admin.post("/v1/runs", json={**ASKED, "policy": policy}).json() for policy in POLICIES}
        offers = {}
        for name, run in {"session": session, **{policy: one["run"] for policy, one in runs.items()}}.items():
            shown = page.get(f"/runs/{run}").text
            offers[name] = ("<button>Fork</button>" in shown, ">Replay</button>" in shown)
            word = re.search('name="token" value="([^"]+)"', shown)
            assert word is not None
            answer = page.post(f"/runs/{run}/fork", data={"token": word[1], "model": "scripted:demo"})
            assert ("cannot be forked" in answer.text) is not offers[name][0]
    assert offers == {"session": (False, True), "standard": (True, True), "strict": (False, True)}


POLICIES = ("standard", "strict")


def test_a_session_whose_first_cell_is_refused_is_closed(service: Serving) -> None:
    with browser(service) as client, service.client() as admin:
        token = client.get("/playground").text.partition('name="token" value="')[2].partition('"')[0]
        asked = {"code": "x = 1\n" * 200_000, "stays": "1", "model": "scripted:demo", "policy": "standard"}
        answer = client.post("/playground", data={**asked, "tenant": "acme", "token": token})
        assert (answer.status_code, "limits.code" in answer.text) == (400, True), answer.text
        until(lambda: admin.get("/v1/sessions").json()["sessions"] == [], what="no box waits for nobody")
        assert [one["state"] for one in admin.get("/v1/runs").json()["runs"]] == ["ok"]


def test_health_and_metrics_tell_how_many_boxes_are_ready_and_in_use(jar: Jar) -> None:
    visitor = Visitor("key:a", None, "admin", "", lambda _action, _tenant: True)

    async def told(host: Host) -> tuple[dict[str, str], Reading]:
        async with contextlib.aclosing(HostReader(host, version="1")) as reader:
            (boxes,) = [one for one in (await reader.health(visitor)).sections if one.title == "Boxes"]
        return {fact.label: fact.value for fact in boxes.facts}, await HostSources(host).read()

    async def go() -> None:
        async with Host(state=jar.at, environ=jar.environ(), pool=2) as host:
            facts, reading = await told(host)
            assert (facts["ready now"], facts["in use by runs"], reading.ready) == ("none", "0", {})
            await host.prepare()
            async with host.session(tenant="acme"):
                async with in_time(PATIENCE_S, "another box takes the place of the one in use"):
                    while host.boxes_ready() != {"jail": 2}:  # noqa: ASYNC110 - it tells nobody
                        await asyncio.sleep(0.01)
                facts, reading = await told(host)
            assert (facts["ready now"], facts["in use by runs"]) == ("2 of jail", "1")
            assert (reading.ready, reading.boxes) == ({"jail": 2}, 1)
            assert b'belljar_boxes_ready{backend="jail"} 2.0' in Metrics().show(reading)

    asyncio.run(go())


async def call(service: Serving, key: str, tool: str, **arguments: Any) -> Any:
    headers = {"authorization": f"Bearer {key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=2 * PATIENCE_S, trust_env=False) as http,
        McpClient(streamable_http_client(f"{service.url}/mcp", http_client=http)) as client,
    ):
        return await client.call_tool(tool, {**arguments, "tenant": "acme"})


async def run_python(service: Serving, key: str, code: str) -> Any:
    return await call(service, key, "run_python", code=code)


def test_whoever_asks_from_elsewhere_is_told_what_they_can_do_and_no_command_of_the_host(service: Serving) -> None:
    key = service.key_of("runner", "acme")
    with service.client() as admin, service.client(key) as client:
        set_to = {"tenant": "acme", "limits": {"total": {"context_bytes": 1}}}
        assert admin.patch("/v1/quotas", json=set_to).status_code == 200
        refused = client.post("/v1/contexts", json={"kind": "text", "name": "log", "text": "too long"})
        told = asyncio.run(call(service, key, "register_context", name="log", text="too long"))
    words = [problem(refused, 429, "context.stored")["detail"], told.meta["belljar.error"]["message"]]
    words.append(_words(QuotaExceeded("no room; remove others (`belljar context rm`)", code="context.stored"))["why"])
    for one in words:
        assert "ask an operator to raise the limit (`PATCH /v1/quotas`)" in one
        assert "belljar" not in one


def test_a_tools_caller_whose_key_is_revoked_is_told_so_and_its_run_goes_on(jar: Jar) -> None:
    options, held = {"extras": parts()}, Held(DemoModel())
    with serving(jar, models=[held.model], options=options, heartbeat_s=0.1) as service, service.client() as admin:
        key = service.key_of("runner", "acme")

        def states() -> list[str]:
            return [one["state"] for one in admin.get("/v1/runs").json()["runs"]]

        asked = {"question": "What is it?", "text": "a short text"}
        with ThreadPoolExecutor(1) as beside, held:
            asking = beside.submit(lambda: asyncio.run(call(service, key, "answer_over_context", **asked)))
            until(lambda: states() == ["running"], what="its run is under way")
            assert admin.delete(f"/v1/keys/{key.split('_')[1]}").json()["state"] == "ended"
            until(asking.done, what="it is told so")
        told = asking.result()
        assert told.is_error
        assert told.meta["belljar.error"]["code"] == "access.revoked"
        until(lambda: states() != ["running"], what="its run is over")
        assert states() == ["ok"]
        (run,) = admin.get("/v1/runs").json()["runs"]
    (record,) = [one for one in requests(jar) if one.route == "MCP answer_over_context"]
    assert (record.status, record.code, record.of) == (401, "access.revoked", run["run"])


def test_a_message_of_too_many_values_is_refused_over_mcp_too(service: Serving, jar: Jar) -> None:
    many = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[%b]}' % b",".join([b"0"] * VALUES_MAX)
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    with service.client() as client:
        answer = client.post("/mcp", content=many, headers=headers)
    problem(answer, 413, "request.values")
    assert [one.code for one in requests(jar) if one.route == "MCP"] == ["request.values"]


def test_a_message_with_a_name_twice_is_refused_over_mcp_too(service: Serving, jar: Jar) -> None:
    twice = b'{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"ping"}'
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    with service.client() as client:
        told = problem(client.post("/mcp", content=twice, headers=headers), 400, "request.json")
    assert "two members of one name" in told["detail"]
    assert [one.code for one in requests(jar) if one.route == "MCP"] == ["request.json"]


def test_tools_are_asked_over_mcp_with_the_same_keys(service: Serving, jar: Jar) -> None:
    key = service.key_of("runner", "acme")
    told = asyncio.run(run_python(service, key, "FINAL(6 * 7)"))
    assert not told.is_error, told
    assert told.structured_content["answer"] == 42
    with service.client() as admin:  # it was an order like any other
        state = admin.get(f"/v1/runs/{told.structured_content['run']}").json()
        assert (state["state"], state["by"]) == ("ok", f"key:{key.split('_')[1]}")
    assert "MCP run_python" in [one.route for one in requests(jar)]
    with service.client("bj_0000000000000000_" + "a" * 43) as stranger:
        assert stranger.post("/mcp", json={}).status_code == 401
    assert ("MCP", "nobody", 401) in [(one.route, one.by, one.status) for one in requests(jar)]


def test_metrics_are_for_whoever_may_read_them_and_each_look_is_in_the_log(jar: Jar, service: Serving) -> None:
    with service.client() as admin, service.nobody() as stranger:
        admin.headers["prefer"] = "wait=60"
        assert admin.post("/v1/runs", json=ASKED).json()["state"]["state"] == "ok"
        problem(stranger.get("/metrics"), 401, "access.missing")
        with service.client(service.key_of("runner", "acme")) as runner:
            told = problem(runner.get("/metrics"), 403, "access.forbidden")
            assert told["detail"].endswith("ask with a key that allows it")
        problem(admin.post("/metrics"), 405, "route.method")
        until(
            lambda: 'belljar_runs_total{kind="root",status="ok"} 1.0' in admin.get("/metrics").text,
            what="the run is counted",
        )
        assert admin.get("/metrics").headers["content-type"].startswith("text/plain; version=")
        assert admin.head("/metrics").content == b""
    asked = [(one.route, one.status, one.by[:4]) for one in requests(jar) if one.route == "GET /metrics"]
    assert asked[:3] == [("GET /metrics", 401, "nobo"), ("GET /metrics", 403, "key:"), ("GET /metrics", 200, "key:")]


def test_the_service_s_log_says_which_page_or_tool_was_asked_for(
    service: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.INFO, "belljar.service.requests"),
        browser(service) as client,
        service.client() as admin,
    ):
        client.get("/runs")
        admin.post("/mcp", json={})
        admin.get("/metrics")
        told = {record.getMessage() for record in caplog.records}
    assert {"GET /runs 200", "POST /mcp 400", "GET /metrics 200"} <= told


def test_a_hook_is_told_of_a_run_of_its_tenant(service: Serving) -> None:
    with Collector((200, b"")) as collector, service.client() as admin:
        made = admin.post("/v1/hooks", json={"url": f"{collector.url}/x", "tenant": "acme", "told": ["run.ended"]})
        assert made.status_code == 201, made.text
        assert [one["id"] for one in admin.get("/v1/hooks").json()["hooks"]] == [made.json()["hook"]["id"]]
        admin.headers["prefer"] = "wait=60"
        for tenant in ("other", "acme/research"):
            run = admin.post("/v1/runs", json={**ASKED, "tenant": tenant}).json()["run"]
        until(lambda: collector.got, what="the hook was told")
        told = json.loads(collector.got[0][1])
        assert (told["type"], told["data"]["run"], told["data"]["state"]) == ("run.ended", run, "ok")
        assert "a short text" not in str(collector.got)
        gone = admin.delete(f"/v1/hooks/{made.json()['hook']['id']}")
        assert (gone.status_code, admin.get("/v1/hooks").json()["hooks"]) == (204, [])


def test_an_end_that_hooks_cannot_be_told_of_is_said_to_the_operator(
    jar: Jar, caplog: pytest.LogCaptureFixture
) -> None:
    held: list[Service] = []

    def hold(service: Service) -> Extra:
        held.append(service)
        return Extra()

    async def fail(*_: object, **__: object) -> int:
        raise AuditUnavailable("the disk is full")

    with serving(jar, models=[DemoModel()], options={"extras": [*parts(), hold]}) as service, service.client() as admin:
        held[0].hooks.tell = fail  # type: ignore[method-assign]
        run = admin.post("/v1/runs", json=ASKED, headers={"prefer": "wait=60"}).json()["run"]
        until(lambda: f"the end of {run}: the disk is full" in caplog.text, what="it is said")


def test_a_service_of_which_a_part_cannot_begin_ends_with_an_error(jar: Jar) -> None:
    def failing() -> contextlib.AbstractAsyncContextManager[object]:
        raise AuditUnavailable("it cannot begin")

    with (
        pytest.raises(HostFault, match="could not be started"),
        serving(jar, options={"extras": [lambda _: Extra(running=failing)]}),
    ):
        pass


def test_spans_go_to_the_collector_that_the_operator_names(jar: Jar) -> None:
    with Collector() as collector:
        telemetry = TelemetryTable(otlp=f"{collector.url}/v1/traces")
        running = serving(jar, models=[DemoModel()], options={"extras": parts(telemetry)})
        with running as service, service.client() as admin:
            admin.headers["prefer"] = "wait=60"
            admin.post("/v1/runs", json=ASKED)
            until(lambda: collector.got, what="the spans have come")
    assert b"resourceSpans" in collector.got[0][1]
    assert b"a short text" not in collector.got[0][1]


TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
LONG = "a line\n" * 99 + "\nHow many?"


@pytest.mark.slow
def test_a_run_is_part_of_the_trace_of_whoever_ordered_it(jar: Jar) -> None:
    paths = {
        "/v1/runs": ASKED,
        "/v1/messages": {
            "model": "rlm/scripted:demo",
            "max_tokens": 9,
            "messages": [{"role": "user", "content": LONG}],
        },
        "/v1/sessions": {"model": "scripted:demo"},
    }
    with Collector() as collector:
        telemetry = TelemetryTable(otlp=collector.url)
        running = serving(jar, models=[DemoModel()], options={"extras": parts(telemetry)})
        with running as service, service.client() as admin:
            admin.headers.update({"prefer": "wait=60", "traceparent": f"00-{TRACE}-{SPAN}-01"})
            told = [admin.post(path, json=body) for path, body in paths.items()]
            assert [answer.status_code for answer in told] == [200, 200, 201], [answer.text for answer in told]
            admin.delete(f"/v1/sessions/{told[2].json()['session']}")
            until(lambda: len(roots(collector)) == 3, what="all of them have come")
            assert {(span["traceId"], span.get("parentSpanId")) for span in roots(collector)} == {(TRACE, SPAN)}
            lines = admin.get(f"/v1/runs/{told[0].json()['run']}/trajectory?format=otel").text.splitlines()
    exported = [span for line in lines for span in json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]]
    sent = {span["spanId"]: span for span in collector.spans()}
    assert [sent[span["spanId"]] for span in exported] == exported


@pytest.mark.slow
def test_what_is_no_trace_of_a_caller_is_ignored(jar: Jar) -> None:
    parent = f"00-{TRACE}-{SPAN}-01".encode()
    with Collector() as collector:
        telemetry = TelemetryTable(otlp=collector.url)
        running = serving(jar, models=[DemoModel()], options={"extras": parts(telemetry)})
        with running as service, service.client() as admin:
            for told in ([parent + b"-more"], [parent, parent], [b"\xff" * 200]):
                headers = [(b"prefer", b"wait=60"), *((b"traceparent", one) for one in told)]
                assert admin.post("/v1/runs", json=ASKED, headers=headers).status_code == 200
            until(lambda: len(roots(collector)) == 3, what="all of them have come")
    assert [span for span in collector.spans() if span["traceId"] == TRACE] == []
    assert [span for span in roots(collector) if "parentSpanId" in span] == []


def roots(collector: Collector) -> list[dict[str, Any]]:
    """The spans of runs."""
    return [span for span in collector.spans() if span["name"].startswith("invoke_agent")]


# -------------------------------------------------------------------------------------------------------- their bounds

SENT = ("content-type: application/json", "content-length: 1999")


def error_of(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_tools_and_pages_have_places_of_their_tenant_like_the_api(jar: Jar) -> None:
    with serving(jar, options={"extras": parts()}, connections=32, body_s=PATIENCE_S) as service:
        keys = [service.key_of("runner", tenant) for tenant in ("acme/a", "acme/b", "other")]
        with (
            service.client(keys[0]) as client,
            service.client(keys[2]) as other,
            browser(service, keys[1]) as page,
            contextlib.ExitStack() as stack,
        ):

            def is_full() -> bool:
                opened = stack.enter_context(contextlib.closing(connected(service)))
                opened.sendall(head(service, "POST /mcp", *SENT, key=keys[0]) + b" " * 100)
                return client.get("/v1/runs").status_code == 503

            assert client.post("/mcp", json={}).status_code == 400  # the SDK is loaded
            until(is_full, what="they are there")
            problem(client.get("/v1/runs"), 503, "requests.tenant")
            answer = client.post("/mcp", json={})
            assert (error_of(answer), answer.headers["retry-after"]) == ((503, "requests.tenant"), "1")
            shown = page.get("/runs")
            assert (shown.status_code, shown.headers["retry-after"]) == (503, "1")
            assert "requests.tenant" in shown.text
            assert {("MCP", 503), ("GET /runs", 503)} <= {(one.route, one.status) for one in requests(jar)}
            assert other.get("/v1/runs").status_code == 200
            stack.close()
            until(lambda: page.get("/runs").status_code == 200, what="there is room again")


def test_bodies_for_tools_and_pages_count_with_all_others(jar: Jar) -> None:
    bounds: dict[str, Any] = {"body_bytes": 2000, "bodies_bytes": 8000, "body_s": PATIENCE_S}
    with serving(jar, options={"extras": parts()}, **bounds) as service:
        keys = [service.key_of("runner", tenant) for tenant in ("acme/a", "acme/b", "other")]
        with (
            service.client(keys[0]) as client,
            service.client(keys[2]) as other,
            browser(service, keys[1]) as page,
            contextlib.ExitStack() as stack,
        ):
            sent = head(service, "POST /mcp", *SENT, key=keys[0]) + b" " * 1900
            begun = stack.enter_context(Begun(service, sent, sent))
            call = {"text": "x" * 1000}

            def are_there() -> bool:
                return begun.are_let_in() and error_of(client.post("/mcp", json=call)) == (503, "service.busy")

            until(are_there, what="they are there")
            shown = page.post("/playground", data={"text": "x" * 1000})
            assert (shown.status_code, shown.headers["retry-after"]) == (503, "5")
            assert other.post("/mcp", json=call).status_code != 503
            stack.close()
            until(lambda: client.post("/mcp", json=call).status_code != 503, what="there is room again")
            assert page.post("/playground", data={"text": "x" * 1000}).status_code == 403  # without the word


def test_a_body_for_a_tool_may_not_take_for_ever_and_nobody_listens_where_nothing_comes(jar: Jar) -> None:
    with serving(jar, options={"extras": parts()}, body_s=1.0) as service, service.client() as client:
        answer = client.get("/mcp", headers={"accept": "text/event-stream"})
        assert (error_of(answer), answer.headers["allow"]) == ((405, "route.method"), "POST")
        with contextlib.closing(connected(service)) as opened:
            opened.sendall(head(service, "POST /mcp", *SENT) + b" ")
            told = said(opened)
        assert b" 408 " in told
        assert b'"code":"request.slow"' in told
        until(lambda: {405, 408} <= {one.status for one in requests(jar) if one.route == "MCP"}, what="both are logged")


def test_a_page_says_that_there_is_no_room_as_the_api_does(jar: Jar) -> None:
    limits: dict[str, Any] = {"running": 1, "queue": 1}
    with (
        serving(jar, models=[DemoModel()], options={"extras": parts()}, **limits) as service,
        service.client() as client,
        browser(service) as page,
    ):
        first = client.post("/v1/runs", json={"code": "while True: pass"}).json()["run"]
        until(lambda: client.get(f"/v1/runs/{first}").json()["state"] == "running", what="it has the slot")
        second = client.post("/v1/runs", json={"code": "FINAL(1)"}).json()["run"]
        token = page.get("/playground").text.partition('name="token" value="')[2].partition('"')[0]
        form = {
            "token": token,
            "tenant": "acme",
            "code": "FINAL(1)",
            "policy": "standard",
            "model": "scripted:demo",
        }
        full = page.post("/playground", data=form)
        assert full.status_code == 503, full.text
        assert int(full.headers["retry-after"]) >= 1
        for run in (second, first):
            client.delete(f"/v1/runs/{run}")
