"""What a client sends, and how slowly, is bounded: heads, bodies, and answers that nobody takes."""

from __future__ import annotations

import contextlib
import gzip
import json
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import pytest
from cryptography.hazmat.primitives import serialization

from belljar.engine import Status
from belljar.errors import AuditUnavailable, InvalidInput, LedgerUnavailable
from belljar.jobs.orders import CANCELLED, CANCELLING, INTERRUPTED, QUEUED, REFUSED, RUNNING
from belljar.service.pages import DemoModel
from belljar.service.settings import ServiceSettings, check_bind
from belljar.service.values import VALUES_MAX
from tests.certificates import certified
from tests.integration.service.support import Begun, Client, Serving, connected, head, problem, said, serving
from tests.integration.support import PATIENCE_S, Jar, until

# What a replay may come to, besides the states of a result.
WORSE = ("diverged", "incomplete")


@pytest.fixture
def strict(jar: Jar) -> Iterator[Serving]:
    """A service with small bounds."""
    with serving(jar, body_bytes=2000, header_s=1.0, body_s=1.0, write_s=1.0, heartbeat_s=0.2) as running:
        yield running


def test_a_body_that_is_too_long_is_refused_before_it_is_sent(strict: Serving) -> None:
    with closing(connected(strict)) as opened:
        opened.sendall(head(strict, "POST /v1/runs", "content-type: application/json", "content-length: 100000000000"))
        answer = said(opened)
    assert b" 413 " in answer
    assert b"connection: close" in answer
    assert b'"code":"request.too_long"' in answer


def test_a_body_of_unknown_length_is_refused_when_it_is_too_long(jar: Jar) -> None:
    def pieces() -> Iterator[bytes]:
        yield from (b"x" * 1000 for _ in range(10))

    with serving(jar, body_bytes=2000) as service, service.client() as client:
        answer = client.post("/v1/runs", content=pieces(), headers={"content-type": "application/json"})
    problem(answer, 413, "request.too_long")


def test_a_body_of_too_many_values_is_refused_and_not_decoded(admin: Client) -> None:
    """Nobody else is served while it would be. A text may have as many signs as it likes."""
    many = b'{"kind":"json","name":"many","value":[%b]}' % b",".join([b"[]"] * VALUES_MAX)
    sent = {"content-type": "application/json"}
    told = problem(admin.post("/v1/contexts", content=many, headers=sent), 413, "request.values")
    assert told["limit"] == VALUES_MAX
    order = {
        "code": "FINAL(len(context))",
        "contexts": {"context": {"kind": "text", "text": '[{",": 1},' * VALUES_MAX}},
    }
    made = admin.post("/v1/runs", json=order, headers={"prefer": "wait=60"}).json()
    assert made["state"]["result"]["answer"] == 10 * VALUES_MAX


@pytest.mark.parametrize("path", ["/v1/runs", "/v1/chat/completions", "/v1/keys"])
def test_a_body_with_a_name_twice_is_refused_and_nothing_is_done(admin: Client, path: str) -> None:
    """Whoever stands before the service to look at what is sent may have read the first of them."""
    bodies = {
        "/v1/runs": b'{"code":"FINAL(1)","tenant":"acme","tenant":"other"}',
        "/v1/keys": b'{"tenant":"acme","role":"auditor","r\\u006fle":"runner"}',
    }
    other = b'{"model":"x","messages":[{"role":"user","content":"a","content":"b"}]}'
    answer = admin.post(path, content=bodies.get(path, other), headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert "two members of one name" in answer.text
    assert admin.get("/v1/runs").json()["runs"] == []


def test_a_body_that_takes_too_long_is_given_up(strict: Serving) -> None:
    with closing(connected(strict)) as opened:
        opened.sendall(head(strict, "POST /v1/runs", "content-type: application/json", "content-length: 100") + b"{")
        answer = said(opened)
    assert b" 408 " in answer
    assert b'"code":"request.slow"' in answer


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\nhost: 127"])
def test_a_head_that_does_not_come_ends_its_connection(strict: Serving, sent: bytes) -> None:
    with closing(connected(strict)) as opened:
        opened.sendall(sent)
        assert said(opened) == b""


@pytest.mark.parametrize("ends", [False, True])
def test_a_head_that_is_too_long_is_refused(strict: Serving, ends: bool) -> None:
    """Whether or not it comes to its end. What was not read of it may reset the connection before the answer is."""
    with closing(connected(strict)) as opened:
        long = b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\nx: " + b"y" * 100_000
        opened.sendall(long + b"\r\n\r\n" if ends else long)
        answer = said(opened)
    told = (b'"code":"request.http"', b'"code":"request.head"')
    assert answer == b"" or ((b" 400 " in answer or b" 431 " in answer) and any(one in answer for one in told))


def test_of_a_head_that_is_too_long_it_is_told(admin: Client) -> None:
    problem(admin.get("/livez", headers={"x": "y" * 40_000}), 431, "request.head")
    problem(admin.get(f"/v1/runs?after={'x' * 40_000}"), 431, "request.head")
    assert admin.get("/livez", headers={"x": "y" * 20_000}).status_code == 200


def test_whoever_takes_no_answer_is_cut_off_and_nobody_else_notices(strict: Serving) -> None:
    with strict.client() as client, closing(connected(strict)) as slow:
        # Pipelined, and none of the answers is read: a few of these fill all that is between the two.
        slow.sendall(head(strict, "GET /v1/openapi.json") * 200)
        # What is still on its way is all that ever comes: the other side has given up.
        until(lambda: client.get("/livez").status_code == 200, what="others are answered")
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                slow.send(b"x" * 1000)
            except (BrokenPipeError, ConnectionResetError):
                break
            assert time.monotonic() < deadline, "it was never cut off"
            time.sleep(0.05)


def test_bodies_of_a_tenant_are_bounded_together_and_others_go_on(jar: Jar) -> None:
    with serving(jar, body_bytes=2000, bodies_bytes=8000, body_s=PATIENCE_S) as service:
        keys = [service.key_of("runner", tenant) for tenant in ("acme/a", "acme/b", "other")]
        clients = [service.client(key) for key in keys]
        with contextlib.ExitStack() as stack:
            for client in clients:
                stack.enter_context(client)
            told = ("content-type: application/json", "content-length: 1999")
            sent = [head(service, "POST /v1/runs", *told, key=key) + b" " * 1900 for key in keys[:2]]
            begun = stack.enter_context(Begun(service, *sent))
            body = {"code": "FINAL(1)" + " " * 1000}

            def status(client: Client) -> int:
                return client.post("/v1/runs", json=body).status_code

            until(lambda: begun.are_let_in() and status(clients[1]) == 503, what="the other two are there")
            answer = clients[0].post("/v1/runs", json=body)
            assert answer.headers["retry-after"] == str(problem(answer, 503, "service.busy")["retry_after_s"])
            assert status(clients[2]) == 202
        # Of bodies whose clients have gone nothing is held.
        with service.client(keys[0]) as client:
            until(lambda: status(client) == 202, what="there is room again")


def test_whoever_waits_for_a_run_that_was_ordered_before_holds_what_they_sent(jar: Jar) -> None:
    """The queue has the first order alone: of the others nobody else would count anything."""
    with serving(jar, body_bytes=2000, bodies_bytes=8000, body_s=PATIENCE_S) as service, service.client() as client:
        body = {"tenant": "acme", "code": "while True: pass" + " " * 1500}
        run = client.post("/v1/runs", json=body, headers={"idempotency-key": "one"}).json()["run"]

        def wait() -> int:
            with service.client() as waiting:
                headers = {"idempotency-key": "one", "prefer": "wait=60"}
                while (status := waiting.post("/v1/runs", json=body, headers=headers).status_code) == 503:
                    time.sleep(0.01)  # what looks whether both are there had taken its room
                return status

        def is_full() -> bool:
            return client.post("/v1/policies/check", json={"toml": "#" * 1500}).status_code == 503

        with ThreadPoolExecutor(2) as threads:
            waits = [threads.submit(wait) for _ in range(2)]
            try:
                until(is_full, what="both are there")
            finally:
                client.delete(f"/v1/runs/{run}")
            assert [one.result(PATIENCE_S) for one in waits] == [200, 200]
        assert not is_full()


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"content-type": "text/plain"}, 415, "route.media"),
        ({"content-type": "application/x-www-form-urlencoded"}, 415, "route.media"),
        ({}, 415, "route.media"),
    ],
)
def test_json_counts_only_where_it_is_called_so(admin: Client, headers: dict[str, str], status: int, code: str) -> None:
    """What a form of another site can send is not JSON to us."""
    problem(admin.post("/v1/policies/check", content=b'{"toml": "x"}', headers=headers), status, code)


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000, b'{"toml": "\xed\xa0\x80"}', b""])
def test_what_is_no_json_is_refused(admin: Client, body: bytes) -> None:
    answer = admin.post("/v1/policies/check", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["code"] in ("request.json", "request.invalid")


def test_a_body_that_is_packed_is_refused_as_such(admin: Client) -> None:
    packed = {"content-type": "application/json", "content-encoding": "gzip"}
    told = problem(admin.post("/v1/policies/check", content=gzip.compress(b"{}"), headers=packed), 415, "route.media")
    assert told["detail"] == "send the body as it is, without `Content-Encoding`"


def test_what_does_not_fit_is_named_by_its_json_path(admin: Client) -> None:
    body = {"code": "1", "contexts": {"a": {"kind": "text", "text": 5}}}
    assert problem(admin.post("/v1/runs", json=body), 422, "request.invalid")["at"] == "$.contexts[...].text"
    assert problem(admin.get("/v1/runs?limit=x"), 422, "request.invalid")["at"] == "?limit"


@pytest.mark.parametrize(
    ("method", "path", "body", "at", "words"),
    [
        ("GET", "/v1/audit/consistency", None, "?old", "missing required field old, at ?old; send it, too"),
        ("GET", "/v1/runs?status=bogus", None, "?status", "'bogus', at ?status; send one of cancelling, queued, run"),
        ("GET", "/v1/runs?limit=0", None, "?limit", "at ?limit; send a number from 1 to 200"),
        ("GET", "/v1/runs?tenant=ACME", None, "?tenant", "at ?tenant; send 1 to 8 names of a-z 0-9 . _ - joined by"),
        (
            "POST",
            "/v1/runs",
            {"contexts": {"a b": {}}},
            "$.contexts",
            "at $.contexts; send a name of at most",
        ),
        ("GET", "/livez?x=1", None, "?", "unknown field x, at ?; send nothing"),
        ("GET", "/v1/runs?limt=1", None, "?", "limt, at ?; send one of tenant, status, model, after, limit"),
        (
            "PATCH",
            "/v1/quotas",
            {"tenant": "acme", "limits": {"calls": "5/day"}},
            "$.limits",
            "at $.limits; send one of day, hour, minute, month, total",
        ),
    ],
)
def test_what_would_fit_is_told_of_what_does_not(
    admin: Client, method: str, path: str, body: Any, at: str, words: str
) -> None:
    told = problem(admin.request(method, path, json=body), 422, "request.invalid")
    assert told["at"] == at
    assert words in told["detail"]


def test_every_state_of_a_run_can_be_asked_for(admin: Client) -> None:
    run = admin.post("/v1/runs", json={"code": "FINAL(1)"}, headers={"prefer": "wait=60"}).json()["run"]
    for state in (QUEUED, RUNNING, CANCELLING, INTERRUPTED, CANCELLED, REFUSED, *get_args(Status), *WORSE):
        found = admin.get("/v1/runs", params={"status": state})
        assert found.status_code == 200
        assert [one["run"] for one in found.json()["runs"]] == ([run] if state == "ok" else [])


def test_only_our_own_names_and_addresses_are_answered(jar: Jar) -> None:
    with serving(jar, allowed_hosts=("belljar.example.com",)) as service, service.nobody() as client:
        for host in ("127.0.0.1:1", "localhost", "[::1]:80", "belljar.example.com", "BellJar.Example.com.:8443"):
            assert client.get("/livez", headers={"host": host}).status_code == 200, host
        for host in ("evil.example", "belljar.example.com.evil.example", "127.0.0.1.evil.example", "a b"):
            problem(client.get("/livez", headers={"host": host}), 421, "route.host")


def test_answers_are_for_no_other_site(admin: Client) -> None:
    answer = admin.get("/v1/policies", headers={"origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    told = {"x-content-type-options": "nosniff", "x-frame-options": "DENY", "cache-control": "no-store"}
    assert {name: answer.headers.get(name) for name in told} == told
    assert "default-src 'none'" in answer.headers.get("content-security-policy", "")


def test_methods_are_told_and_head_has_no_body(admin: Client) -> None:
    answer = admin.put("/v1/quotas", json={})
    problem(answer, 405, "route.method")
    assert answer.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH"
    assert admin.options("/v1/quotas").headers["allow"] == answer.headers["allow"]
    head_, get = admin.head("/v1/policies"), admin.get("/v1/policies")
    assert (head_.content, head_.headers["content-length"]) == (b"", get.headers["content-length"])


def test_a_head_of_events_ends(admin: Client) -> None:
    run = admin.post("/v1/runs", json={"code": "FINAL(1)"}, headers={"prefer": "wait=60"}).json()["run"]
    answer = admin.head(f"/v1/runs/{run}/events")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_it_speaks_tls(jar: Jar, tmp_path: Path) -> None:
    certificate, key = certified(tmp_path)
    with serving(jar, tls_cert=certificate, tls_key=key) as service:
        assert service.url.startswith("https://")
        trusting = ssl.create_default_context(cafile=str(certificate))
        with Client(service.url, service.key, verify=trusting) as client:
            answer = client.get("/v1/policies")
            assert answer.status_code == 200
            assert "strict-transport-security" in answer.headers


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00"], ids=["nothing", "the beginning of a hello"])
def test_a_client_that_does_not_begin_tls_is_cut_off(jar: Jar, tmp_path: Path, sent: bytes) -> None:
    certificate, key = certified(tmp_path)
    with (
        serving(jar, tls_cert=certificate, tls_key=key, header_s=0.5) as service,
        closing(connected(service)) as opened,
    ):
        opened.settimeout(30)  # half of what it would have otherwise
        opened.sendall(sent)
        assert said(opened) == b""


@pytest.mark.filterwarnings("ignore:.*TLSVersion:DeprecationWarning")
def test_it_speaks_no_old_tls(jar: Jar, tmp_path: Path) -> None:
    certificate, key = certified(tmp_path)
    with serving(jar, tls_cert=certificate, tls_key=key) as service:
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            old = ssl.create_default_context(cafile=str(certificate))
            old.set_ciphers("ALL:@SECLEVEL=0")
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, version
            with closing(connected(service)) as opened, pytest.raises(OSError, match=r"SSL|reset"):
                old.wrap_socket(opened, server_hostname="127.0.0.1")


def test_files_of_tls_that_nobody_can_use_are_refused_in_one_line(tmp_path: Path) -> None:
    """Nor is anybody asked for a password at a terminal: a service has none."""
    certificate, key = certified(tmp_path)
    check_bind(ServiceSettings(tls_cert=certificate, tls_key=key))
    (other := tmp_path / "other").mkdir()
    text = tmp_path / "text"
    text.write_text("no certificate\n")
    locked = tmp_path / "locked"
    locked.write_bytes(
        serialization.load_pem_private_key(key.read_bytes(), None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    for one, its in ((text, text), (certificate, text), (text, key), (certificate, locked), (certified(other)[0], key)):
        with pytest.raises(InvalidInput, match=r"are not a certificate and its key .*; name two files in PEM") as told:
            check_bind(ServiceSettings(tls_cert=one, tls_key=its))
        assert told.value.code == "service.tls"
        assert "\n" not in str(told.value)


def test_no_answer_names_a_path_of_this_host(jar: Jar) -> None:
    """Paths are planted wherever a client can put one, and everything that can be refused is."""
    with serving(jar) as service, service.client() as client, service.nobody() as nobody:
        places = [str(jar.at), str(jar.work), str(Path.home()), "site-packages", "Traceback"]
        planted = f"{jar.at}/audit.db"
        answers = [
            client.post("/v1/runs", json={"code": "1", "policy": planted}),
            client.post("/v1/runs", json={"question": "q", "model": f"scripted:{planted}"}),
            client.post("/v1/runs", json={"question": "q", "model": f"replay:{planted}"}),
            client.post("/v1/runs", json={"code": "1", "backend": planted}),
            client.post("/v1/runs", json={"code": "1", "contexts": {"a": {"kind": "registered", "ref": planted}}}),
            client.post("/v1/runs", json={"code": "1", planted: 1}),
            client.post("/v1/policies/check", json={"toml": f'schema = 1\nname = "a"\nextends = "{planted}"\n'}),
            client.get("/v1/contexts", params={"name": planted}),
            client.get("/v1/runs", params={"after": planted}),
            client.get("/v1/runs", params={planted: "1"}),
            client.get(f"/v1/policies/{planted.replace('/', '.')}"),
            client.get(planted),
            client.post("/v1/keys", json={"role": "runner", "tenant": planted}),
            nobody.get("/v1/runs", headers={"authorization": f"Bearer {planted}"}),
        ]
        answers += [client.get(f"/v1/contexts/{'0' * 64}/text"), client.get("/v1/audit/checkpoint")]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(service.host, "contexts", _raising(RuntimeError(f"bug in {planted}")))
            patch.setattr(service.host.quotas, "show", _raising(LedgerUnavailable(f"{planted} cannot be read")))
            answers += [client.get("/v1/contexts"), client.get("/v1/quotas")]
            patch.setattr(service.host, "log", _raising(AuditUnavailable(f"{planted} cannot be written")))
            answers += [client.get("/v1/runs"), client.post("/v1/audit/verify", json={})]
        problem(answers[-4], 500, "internal")
        problem(answers[-3], 503, "ledger.unavailable")
        problem(answers[-2], 503, "audit.unavailable")
        problem(answers[-1], 503, "audit.unavailable")
    for answer in answers:
        for place in places:
            assert place not in answer.text, answer.text
        assert answer.status_code >= 400, answer.text


def _raising(error: Exception) -> Callable[..., Any]:
    def work(*_: object, **__: object) -> None:
        raise error

    return work


def test_problems_have_titles(admin: Client) -> None:
    assert json.loads(admin.get("/v1/nothing").content)["title"] == "There is no such thing"


NO_SENSE: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/runs", {"code": "1", "question": "?"}, "$"),
    ("/v1/runs", {"question": "?"}, "$.model"),
    ("/v1/runs", {"question": "?", "model": "none"}, "$.model"),
    ("/v1/runs", {"question": "?", "model": "scripted:demo", "sub_model": "none"}, "$.sub_model"),
    ("/v1/runs", {"code": "1", "sub_model": "none"}, "$.sub_model"),
    ("/v1/runs", {"code": "1", "policy": "none"}, "$.policy"),
    ("/v1/runs", {"code": "1", "answer_schema": {}}, "$.answer_schema"),
    ("/v1/runs", {"question": "?", "model": "scripted:demo", "answer_schema": {"type": "x"}}, "$.answer_schema"),
    ("/v1/sessions", {"policy": "none"}, "$.policy"),
    ("/v1/contexts", {"kind": "text", "name": "a", "text": "a\0b"}, "$.text"),
    ("/v1/keys", {"role": "admin", "tenant": "acme"}, "$.tenant"),
    ("/v1/keys", {"role": "runner", "label": "a\nb"}, "$.label"),
    ("/v1/keys", {"role": "runner", "until": "2020-01-01T00:00:00Z"}, "$.until"),
    ("/v1/hooks", {"url": "ftp://example.com"}, "$.url"),
    ("/v1/audit/verify", {"checkpoints": ["x"]}, "$.checkpoints"),
    ("/v1/audit/verify", {"keys": ["x"]}, "$.keys"),
    ("/v1/policies/check", {"toml": "x"}, "$.toml"),
]


def test_of_what_makes_no_sense_it_is_told_where_it_stands(jar: Jar) -> None:
    with serving(jar, models=[DemoModel()]) as service, service.client() as admin:
        for path, body, at in NO_SENSE:
            answer = admin.post(path, json=body)
            assert problem(answer, 422, answer.json()["code"])["at"] == at, (path, body)


TUS = {"tus-resumable": "1.0.0"}
BESIDE: list[tuple[str, dict[str, str], str]] = [
    ("/v1/contexts?after=x", {}, "?after"),
    ("/v1/runs?after=/", {}, "?after"),
    ("/v1/quotas?after=x", {}, "?after"),
    ("/v1/models?after_id=x", {}, "?after_id"),
    ("/v1/audit/consistency?old=2&new=1", {}, "?new"),
    ("/v1/runs", {"idempotency-key": "a b"}, "Idempotency-Key"),
    ("/v1/uploads", {**TUS, "upload-length": "1", "upload-metadata": "tenant Li4="}, "Upload-Metadata"),
    ("/v1/uploads", {**TUS, "upload-length": "x"}, "Upload-Length"),
]


def test_of_a_parameter_or_header_that_makes_no_sense_its_name_is_told(admin: Client) -> None:
    for path, headers, at in BESIDE:
        if not headers:
            answer = admin.get(path)
        elif "upload-length" in headers:
            answer = admin.post(path, headers=headers)
        else:
            answer = admin.post(path, headers=headers, json={"code": "1"})
        assert problem(answer, 422, answer.json()["code"])["at"] == at, path
