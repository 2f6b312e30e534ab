"""What strangers and tenants do who mean harm: each of these once held others up, filled the log, or had no bound."""

from __future__ import annotations

import contextlib
import http.client
import http.cookies
import itertools
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, Final

import h11
import msgspec
import pytest
from starlette.requests import Request

from belljar.access import AccessSettings
from belljar.audit import coverage
from belljar.context import Uploads
from belljar.errors import AuditUnavailable
from belljar.jobs import Desk
from belljar.service import scopes
from belljar.service.api import runs
from belljar.service.connection import Patient
from belljar.service.front import running
from belljar.service.front.asked import asked
from belljar.service.pages import DemoModel, HostReader
from belljar.service.parts import parts
from belljar.service.settings import ServiceSettings
from tests.integration.service.support import (
    Held,
    Serving,
    connected,
    head,
    problem,
    said,
    serving,
    take_time_to_look,
)
from tests.integration.support import PATIENCE_S, Jar
from tests.postgres import Postgres
from tests.unit.test_access_oidc import RSA, Issuer, jwk, token
from tests.unit.test_access_oidc import settings as oidc_settings
from tests.waiting import until

TUS = {"tus-resumable": "1.0.0"}
FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
def whole(jar: Jar) -> Iterator[Serving]:
    """A service with all that stands beside the API, which waits a second for a form."""
    with serving(jar, models=[DemoModel()], options={"extras": parts()}, body_s=1.0) as running:
        yield running


def answered(service: Serving, data: bytes) -> bytes:
    """All that comes back until the other side closes."""
    with closing(connected(service)) as opened:
        opened.sendall(data)
        return said(opened)


@pytest.mark.parametrize("path", ["/v1/runs", "/runs", "/metrics"])
def test_a_cookie_full_of_backslashes_is_not_unquoted(
    whole: Serving, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Some versions of Python take time with its square for that: seconds, for the head of one request."""
    asked: list[str] = []

    def unquote(text: str) -> str:
        asked.append(text)
        return text

    monkeypatch.setattr(http.cookies, "_unquote", unquote)
    with whole.nobody() as nobody:
        answer = nobody.get(path, headers={"cookie": 'belljar_session="' + "\\" * 30_000 + '"'})
    assert answer.status_code in (303, 401)
    assert not asked


def test_whoever_has_others_fail_from_their_address_does_not_hear_on_with_a_key_that_has_ended(
    jar: Jar, held_up: None
) -> None:
    """They were told to wait when they were asked for again, which was taken for no answer."""
    gate = Held(DemoModel())
    with serving(jar, models=[gate.model], heartbeat_s=0.1) as service, gate, service.client() as admin:
        key = service.key_of("runner", "acme")
        with service.client(key) as client, service.nobody() as nobody:
            order = {"question": "What is it?", "model": "scripted:demo"}
            run = client.post("/v1/runs", json=order).json()["run"]
            until(lambda: gate.asked, what="the run asks")
            with client.stream("GET", f"/v1/runs/{run}/events") as events:
                lines = events.iter_lines()
                assert any(line.startswith(":") for line in lines), "it is being listened to"
                for number in range(20):
                    guess = {"authorization": f"Bearer bj_{number:016x}_{43 * 'x'}"}
                    answer = nobody.get("/v1/runs", headers=guess)
                problem(answer, 429, "access.throttled")
                assert admin.delete(f"/v1/keys/{key.split('_')[1]}").json()["state"] == "ended"
                assert len(list(itertools.islice(lines, 400))) < 400
            assert admin.get(f"/v1/runs/{run}").json()["state"] == "running"


_COOKIE: Final = {"headers": {"cookie": "belljar_session=x"}}


@pytest.mark.parametrize(
    ("method", "path", "sent"),
    [
        ("GET", "/v1/runs", {}),
        ("GET", "/v1/runs", {"headers": {"authorization": "Bearer bj_0000000000000000_" + 43 * "x"}}),
        ("GET", "/v1/runs", _COOKIE),
        ("DELETE", "/v1/runs/r1", _COOKIE),
        ("GET", "/livez", {"headers": {"host": "evil.example"}}),
        ("GET", "/metrics", {}),
        ("POST", "/login", {"data": {"key": "bj_0000000000000000_" + 43 * "x"}}),
        ("POST", "/login", {"content": b"{}", "headers": {"content-type": "application/json"}}),
        ("POST", "/login", {"data": {"key": "x"}, "headers": {"origin": "https://evil.example"}}),
        ("PUT", "/livez", {}),
        ("DELETE", "/login", {}),
        ("POST", "/metrics", {}),
        ("POST", "/mcp", {"json": {}}),
        ("GET", "/nothing", {}),
    ],
)
def test_of_many_refusals_to_a_stranger_the_log_has_few_records_and_their_number(
    whole: Serving, method: str, path: str, sent: dict[str, Any]
) -> None:
    """Each record is signed, and kept for ever."""
    with whole.nobody() as nobody:
        for _ in range(40):
            nobody.request(method, path, **sent)
    whole.end()
    records = whole.jar.records("http.request")
    assert len(records) < 20
    assert sum(1 + record.data.get("unlogged", 0) for record in records) == 40


@pytest.mark.parametrize(
    "sent", [b"HELLO\r\n\r\n", b"GET /livez HTTP/1.1\r\nx: " + b"y" * 200_000, b"\x16\x03\x01\x02\x00"]
)
def test_what_is_no_http_stands_in_the_log(whole: Serving, sent: bytes) -> None:
    for _ in range(3):
        answered(whole, sent)
    whole.end()
    told = [(one.data["code"], one.data["status"], one.data["unlogged"]) for one in whole.jar.records("http.request")]
    assert told == [("request.http", 400, 2)]


def test_who_comes_when_all_connections_are_taken_is_told_so_and_the_others_go_on(jar: Jar) -> None:
    asking = b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
    with serving(jar, connections=8) as service:
        port = int(service.url.rpartition(":")[2])

        def status(connection: http.client.HTTPConnection) -> int:
            connection.request("GET", "/livez")
            with closing(connection.getresponse()) as answer:
                answer.read()
                return answer.status

        with contextlib.ExitStack() as stack:
            inside = [http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S) for _ in range(8)]
            for one in inside:
                stack.callback(one.close)
            assert {status(one) for one in inside} == {200}
            refused = answered(service, asking)
            assert refused.startswith(b"HTTP/1.1 503 ")
            assert b'"code":"service.connections"' in refused
            assert b"retry-after: 1\r\n" in refused
            assert b"content-security-policy: " in refused
            assert {status(one) for one in inside} == {200}
        until(lambda: answered(service, asking).startswith(b"HTTP/1.1 200 "), what="there is room again")
    codes = {record.data["code"] for record in jar.records("http.request")}
    assert codes == {"service.connections"}


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", "/login"), ("GET", "/runs"), ("OPTIONS", "/v1/runs")]
)
def test_what_anybody_may_ask_stands_in_no_log(whole: Serving, method: str, path: str) -> None:
    with whole.nobody() as nobody:
        for _ in range(40):
            nobody.request(method, path)
    whole.end()
    assert whole.jar.records("http.request") == []


def test_a_request_that_ends_at_two_places_hides_no_other_one(whole: Serving) -> None:
    key = f"host: 127.0.0.1\r\nauthorization: Bearer {whole.key}\r\n".encode()
    lengths = b"content-type: application/json\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    hidden = b"GET /v1/keys HTTP/1.1\r\n" + key + b"\r\n"
    answer = answered(whole, b"POST /v1/policies/check HTTP/1.1\r\n" + key + lengths + hidden)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("name", ["authorization: Bearer", "x-api-key:"])
def test_a_request_that_shows_two_keys_is_of_neither(whole: Serving, name: str) -> None:
    """A proxy before us may have looked at the other one."""
    low, high = whole.key_of("auditor", "acme"), whole.key
    for first, second in ((low, high), (high, low), (high, high)):
        sent = ("GET /v1/runs HTTP/1.1", "host: 127.0.0.1", f"{name} {first}", f"{name} {second}", "", "")
        with closing(connected(whole)) as opened:
            opened.sendall("\r\n".join(sent).encode())
            answer = said(opened)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b'"code":"request.http"' in answer


def test_a_login_that_does_not_come_is_given_up(whole: Serving) -> None:
    head = b"POST /login HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/x-www-form-urlencoded\r\n"
    answer = answered(whole, head + b"content-length: 100\r\n\r\nkey=")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close\r\n" in answer.lower()


def test_a_login_is_short(whole: Serving) -> None:
    """Anybody may send one, and all are in memory at the same time."""
    with whole.nobody() as nobody:
        answer = nobody.post("/login", content=b"key=" + b"x" * 4_000_000, headers=FORM)
    assert (answer.status_code, answer.headers.get("connection")) == (413, "close")


def test_uploads_of_tenants_below_count_for_those_above(jar: Jar) -> None:
    with serving(jar, upload_bytes=1000) as service, service.client(service.key_of("runner", "acme")) as client:

        def begin(tenant: str, length: int) -> Any:
            told = {"acme": "YWNtZQ==", "acme/a": "YWNtZS9h", "acme/b": "YWNtZS9i"}[tenant]
            headers = {**TUS, "upload-length": str(length), "upload-metadata": f"tenant {told}"}
            return client.post("/v1/uploads", headers=headers)

        assert begin("acme/a", 600).status_code == 201
        below = problem(begin("acme/b", 600), 429, "upload.tenant")
        assert not {"limit", "observed", "level"} & set(below), "numbers of a tenant above"
        assert not re.search(r"\d{3}", below["detail"])
        assert problem(begin("acme", 600), 429, "upload.tenant")["observed"] == 1200
        assert begin("acme/b", 400).status_code == 201


def test_what_a_key_reads_is_kept_by_nobody_on_the_way(whole: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    take_time_to_look(monkeypatch)
    with whole.client() as admin:
        for path in ("/metrics", "/v1/runs", "/v1/keys", "/v1/audit/records", "/v1/quotas", "/readyz"):
            answer = admin.get(path)
            assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store"), path


def test_a_zero_in_a_query_is_a_strangers_mistake_and_no_fault_of_the_log(jar: Jar, postgres: Postgres) -> None:
    """PostgreSQL takes none in a text, and what it says of one is said by a broken server, too."""
    on_a_server = Serving(jar, ServiceSettings(port=0), [], extras=parts(), state=postgres.database())
    with on_a_server as service, service.client() as admin, service.nobody() as browser:
        for path in ("/v1/keys?after=%00", "/v1/audit/records?run=%00", "/v1/runs?status=%00"):
            problem(admin.get(path), 422, "request.invalid")
        browser.headers["origin"] = service.url
        assert browser.post("/login", data={"key": service.key}).status_code == 303
        assert browser.get("/runs?before=%00").status_code == 200


def test_a_zero_in_a_path_is_a_strangers_mistake_and_no_fault_of_the_log(jar: Jar, postgres: Postgres) -> None:
    settings = ServiceSettings(port=0)
    with (
        Serving(jar, settings, [], state=postgres.database(), extras=parts()) as service,
        service.nobody() as nobody,
        service.client() as admin,
    ):
        cookie = nobody.post("/login", data={"key": service.key}).headers["set-cookie"].partition(";")[0]
        for path in ("/runs/%00", "/runs/a%00b/proof"):
            assert nobody.get(path, headers={"cookie": cookie}).status_code == 404, path
        for path in ("runs", "sessions", "contexts", "uploads"):
            answer = admin.get(f"/v1/{path}/a%00b", headers=TUS)
            assert answer.status_code in (404, 422), (path, answer.text)
        for path in ("keys", "hooks"):
            assert admin.delete(f"/v1/{path}/a%00b").status_code == 404


def test_a_key_that_has_ended_fills_no_log_and_locks_nobody_out(jar: Jar) -> None:
    """Each attempt had a record, since none was counted as a failure."""
    with serving(jar) as service:
        key = service.key_of("runner", "acme")
        with service.client() as admin, service.client(key) as client:
            admin.delete(f"/v1/keys/{key.split('_')[1]}")
            for _ in range(40):
                problem(client.get("/v1/runs"), 401, "access.revoked")
        with service.client(service.key_of("runner", "acme")) as other:
            assert other.get("/v1/runs").status_code == 200
    records = [record.data for record in jar.records("http.request") if record.data["by"] == "nobody"]
    assert len(records) < 20
    assert sum(1 + data.get("unlogged", 0) for data in records) == 40


@pytest.mark.parametrize("path", ["/v1/runs", "/mcp", "/metrics", "/login"])
def test_tokens_fill_no_log_while_their_issuer_is_down(jar: Jar, path: str) -> None:
    """Nobody can say then that they are bad, so nobody is told to wait; and no record tells more than their number."""
    with Issuer(jwk(RSA)) as gone:
        access = AccessSettings(oidc=oidc_settings(gone))
        shown = token(gone)
    with serving(jar, options={"access": access, "extras": parts()}) as service, service.nobody() as nobody:
        for _ in range(40):
            if path == "/login":
                answer = nobody.post(path, data={"key": shown})
            else:
                method = "POST" if path == "/mcp" else "GET"
                answer = nobody.request(method, path, headers={"authorization": f"Bearer {shown}"})
            assert answer.status_code == 503, answer.text
        if path != "/mcp" and path != "/login":
            problem(answer, 503, "access.unavailable")
    records = jar.records("http.request")
    assert len(records) < 20
    assert sum(1 + record.data.get("unlogged", 0) for record in records) == 40


def test_whoever_follows_a_run_many_times_keeps_no_other_tenant_out(jar: Jar) -> None:
    with (
        serving(jar, connections=12) as service,
        service.client(service.key_of("runner", "acme/a")) as client,
        service.client(service.key_of("runner", "other")) as other,
        contextlib.ExitStack() as following,
    ):
        run = client.post("/v1/runs", json={"code": "while True: pass"}).json()["run"]
        streams = [following.enter_context(client.stream("GET", f"/v1/runs/{run}/events")) for _ in range(6)]
        coming = [stream.iter_bytes() for stream in streams]
        assert all(next(one) for one in coming)
        assert problem(client.get("/v1/runs"), 503, "requests.tenant")["retry_after_s"] == 1
        assert other.get("/v1/runs").status_code == 200
        following.close()
        until(lambda: client.get("/v1/runs").status_code == 200, what="there is room again")
        assert client.delete(f"/v1/runs/{run}").status_code == 200


def test_a_body_in_chunks_of_a_byte_holds_nobody_else_up(service: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single read has tens of thousands of them, which took a second, also of whoever had no key."""
    rounds, is_over = itertools.count(), False
    parsed: Counter[int] = Counter()
    original = h11.Connection.next_event

    def come_round() -> None:
        parsed[next(rounds)] = 0
        if not is_over:
            service.loop.call_soon(come_round)

    def next_event(connection: h11.Connection) -> Any:
        parsed[max(parsed)] += 1
        return original(connection)

    monkeypatch.setattr(h11.Connection, "next_event", next_event)
    service.loop.call_soon_threadsafe(come_round)
    lines = (b"POST /login HTTP/1.1\r\nhost: 127.0.0.1", head(service, "POST /v1/policies/check").strip())
    kind = b"\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(closing(connected(service))) for _ in lines]
        for one, line in zip(opened, lines, strict=True):
            one.sendall(line + kind)
            with contextlib.suppress(ConnectionError):  # whoever has no key is refused at once
                one.sendall(b"1\r\n \r\n" * 20_000 + b"0\r\n\r\n")
        assert b"request.json" in said_until(opened[1], b"}")
    is_over = True
    assert max(parsed.values()) < 1000


def said_until(opened: Any, end: bytes) -> bytes:
    """What comes up to these last bytes."""
    found = b""
    while not found.endswith(end):
        piece = opened.recv(65536)
        assert piece, found
        found += piece
    return found


def test_what_comes_behind_a_request_that_takes_long_is_not_kept_without_end(
    jar: Jar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With each look for whether the client is still there came a quarter of a megabyte more."""
    gate, looks, kept = Held(DemoModel()), [0], Counter[Patient]()
    is_disconnected, data_received = Request.is_disconnected, Patient.data_received

    async def look(request: Request) -> bool:
        looks[0] += 1
        return await is_disconnected(request)

    def receive(connection: Patient, data: bytes) -> None:
        kept[connection] += len(data)
        data_received(connection, data)

    monkeypatch.setattr(scopes, "_LOOK_S", 0.001)
    monkeypatch.setattr(Request, "is_disconnected", look)
    monkeypatch.setattr(Patient, "data_received", receive)
    order = b'{"question": "What?", "model": "scripted:demo"}'
    lines = ("content-type: application/json", "prefer: wait=300", f"content-length: {len(order)}")
    with serving(jar, models=[gate.model]) as service, gate, closing(connected(service)) as opened:
        opened.sendall(head(service, "POST /v1/runs", *lines) + order)
        until(lambda: gate.asked, what="the run asks")
        opened.setblocking(False)

        def go_on() -> bool:
            with contextlib.suppress(BlockingIOError):
                while sum(kept.values()) < 4 << 20:
                    opened.send(b"x" * 65536)
            return looks[0] > 300 or sum(kept.values()) >= 4 << 20

        until(go_on, what="it has looked often")
        assert max(kept.values()) < 1 << 20


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/", "/login", "/runs", "/runs/r1/fork", "/pages/static/page.css", "/livez"])
def test_a_method_that_a_path_does_not_have_is_a_problem_everywhere(whole: Serving, method: str, path: str) -> None:
    with whole.nobody() as nobody:
        answer = nobody.request(method, path)
        told = problem(answer, 405, "route.method")
        allowed = answer.headers["allow"]
        assert allowed in told["detail"]
        options = nobody.options(path)
        assert (options.status_code, options.headers["allow"]) == (204, allowed)


@pytest.mark.parametrize("path", ["/livez", "/runs"])
def test_whoever_tries_methods_that_there_are_not_is_held_up(held_up: None, whole: Serving, path: str) -> None:
    with whole.nobody() as nobody:
        for _ in range(20):
            answer = nobody.put(path)
        problem(answer, 429, "access.throttled")


def test_a_file_of_the_pages_that_there_is_not_is_a_problem(whole: Serving) -> None:
    with whole.nobody() as nobody:
        problem(nobody.get("/pages/static/none.js"), 404, "route.unknown")


def test_what_is_no_http_is_told_as_all_else_is(whole: Serving) -> None:
    head, _, body = answered(whole, b"HELLO\r\n\r\n").partition(b"\r\n\r\n")
    request = re.search(rb"\r\nx-request-id: ([0-9a-f]{16})", head)
    assert request is not None
    assert msgspec.json.decode(body)["request"] == request[1].decode()
    assert b"\r\nx-content-type-options: nosniff\r\n" in head


@pytest.mark.parametrize("path", ["/runs", "/health", "/v1/runs"])
def test_what_nobody_expected_is_a_problem_without_its_words(
    whole: Serving, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("in /etc/shadow")

    monkeypatch.setattr(HostReader, "runs", fail)
    monkeypatch.setattr(HostReader, "health", fail)
    monkeypatch.setattr(Desk, "ls", fail)
    with whole.client() as browser:
        cookie = browser.post("/login", data={"key": whole.key}, headers={"origin": whole.url}).headers["set-cookie"]
        answer = browser.get(path, headers={"cookie": cookie.partition(";")[0]})
    assert "shadow" not in problem(answer, 500, "internal")["detail"]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(("method", "path"), [("GET", "/runs"), ("POST", "/playground")])
def test_a_page_that_cannot_be_logged_is_a_problem(
    whole: Serving, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise AuditUnavailable("the disk is full")

    with whole.nobody() as browser:
        answer = browser.post("/login", data={"key": whole.key}, headers={"origin": whole.url})
        cookie = answer.headers["set-cookie"].partition(";")[0]
        monkeypatch.setattr(whole.host, "log", fail)
        problem(browser.request(method, path, headers={"cookie": cookie}), 503, "audit.unavailable")


def test_a_body_that_nobody_reads_ends_its_connection(whole: Serving) -> None:
    """All that came behind the answer was taken in, and parsed."""
    line = b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n"
    answer = answered(whole, line)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close\r\n" in answer.lower()


def test_long_work_for_some_tenants_leaves_threads_to_all_others(jar: Jar, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has six on a small machine, and eight readings of whole runs, or any number of uploads, took them all."""
    over, begun = threading.Event(), Counter[str]()
    finish = Uploads.finish

    def held(what: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def go(*arguments: Any, **options: Any) -> Any:
            begun[what] += 1
            over.wait(PATIENCE_S)
            return work(*arguments, **options)

        return go

    monkeypatch.setattr(Uploads, "finish", held("finish", finish))
    monkeypatch.setattr(runs, "coverage", held("coverage", coverage))
    with contextlib.ExitStack() as stack:
        stack.callback(over.set)
        service = stack.enter_context(serving(jar))
        stack.callback(over.set)
        threads = stack.enter_context(ThreadPoolExecutor(30))
        stack.callback(over.set)
        for tenant in ("a", "b", "c"):
            client = stack.enter_context(service.client(service.key_of("runner", tenant)))
            order = client.post("/v1/runs", json={"code": "FINAL(1)"}, headers={"prefer": "wait=60"})
            for _ in range(0 if tenant == "c" else 4):
                threads.submit(client.get, f"/v1/runs/{order.json()['run']}/coverage")
            for _ in range(5):
                made = client.post("/v1/uploads", headers={**TUS, "upload-length": "1"}).headers["location"]
                sent = {**TUS, "upload-offset": "0", "content-type": "application/offset+octet-stream"}
                threads.submit(client.patch, made, content=b"x", headers=sent)
        until(lambda: begun == {"coverage": 8, "finish": 2}, what="all wait")
        with service.client() as admin:
            assert admin.get("/v1/policies").status_code == 200
            assert begun["finish"] == 2


@pytest.mark.parametrize("path", ["/v1/contexts", "/login", "/mcp", "/nothing"])
def test_whoever_sends_too_much_hears_why(whole: Serving, path: str) -> None:
    """Their system threw the answer away, as the connection was over before they had sent all."""
    told = {"authorization": f"Bearer {whole.key}", "content-type": "application/json"}
    port = int(whole.url.rpartition(":")[2])
    for _ in range(5):
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)) as connection:
            try:
                connection.request("POST", path, b"[" + b" " * 30_000_000, told)
                answer = connection.getresponse()
            except ConnectionError:
                raise AssertionError("the connection was over before they had sent all") from None
            assert answer.status in (404, 413, 415)
            assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
def test_a_conversation_of_many_pieces_is_read_beside_the_event_loop(
    whole: Serving, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Sixty thousand, in less than two megabytes, held everybody else up for a tenth of a second."""
    threads: list[str] = []

    def read(*arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return asked(*arguments)

    monkeypatch.setattr(running, "asked", read)
    pieces = [{"type": "text", "text": "a"}] * 10_000
    order = {"model": "rlm/scripted:demo", "messages": [{"role": "user", "content": pieces}]}
    with whole.client() as admin:
        assert admin.post(path, json=order).status_code == 200
    assert threads != []
    assert "service" not in threads


def test_a_limit_is_a_number_that_fits_whatever_its_exponent(whole: Serving) -> None:
    """As an integer, `1e9999999999` took all memory and all time, and a tenant's admin may write one."""
    with whole.nobody() as page:
        page.headers["origin"] = whole.url
        page.post("/login", data={"key": whole.key_of("tenant-admin", "acme")})
        token = re.search('name="token" value="([^"]+)"', page.get("/tenants?tenant=acme/below").text)
        assert token is not None
        form = {"token": token[1], "tenant": "acme/below", "period": "day"}
        for field in ("calls", "cost_nanousd"):
            for text in (
                "1e9999999999",
                "1e999999",
                "-1e9999999999",
                "1e-9999999999",
                "nan",
                "inf",
                "9" * 50,
                "0.5e-9",
            ):
                answer = page.post("/tenants/limits", data={**form, field: text})
                assert answer.status_code == 400, (field, text)
                assert "limit.invalid" in answer.text
        assert (
            page.post("/tenants/limits", data={**form, "calls": "1e3", "cost_nanousd": "$1,000.5"}).status_code == 303
        )
    with whole.client() as admin:
        (quota,) = [one for one in admin.get("/v1/quotas").json()["quotas"] if one["period"] == "day"]
    assert (quota["limits"]["calls"], quota["limits"]["cost_nanousd"]) == (1000, 1000_500_000_000)
