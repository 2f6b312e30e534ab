"""Where two things meet that each go well alone: keys, tenants, tokens, streams, uploads, trees, and how they end."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import itertools
import json
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import httpx2
import pytest
from starlette.types import Scope

from belljar import ModelRequest
from belljar.access import AccessSettings, Oidc
from belljar.access.oidc import LEEWAY_S
from belljar.audit.source import open_source
from belljar.identity import Tenant
from belljar.jobs.orders import OPEN
from belljar.service import parts as parts_of_service
from belljar.service import routes
from belljar.service.api.runs import END_ID
from belljar.service.routes import Service
from belljar.testing import FakeModel
from tests.integration.service.support import (
    Client,
    Held,
    Serving,
    connected,
    head,
    hold_up_for_long,
    problem,
    said,
    serving,
)
from tests.integration.service.test_service_runs import WAIT, told
from tests.integration.service.test_service_uploads import TEXT, announced, begun, offset_of, sent
from tests.integration.support import PATIENCE_S, Jar, until
from tests.unit.test_access_oidc import RSA, Issuer, jwk, settings, token

FAKE = "scripted:fake"
# Longer than what is written at a time.
LONG = TEXT * 8
ASKS = "FINAL([llm_query('one'), llm_query('two')])"


def held() -> Held:
    return Held(FakeModel(lambda request: f"answer to {request.messages[-1].text}", FAKE))


# -- tenants, keys and tokens while a run is under way -----------------------------------------------------------------


def test_a_tenant_that_is_shut_out_spends_no_more_and_what_it_ran_is_its_own(jar: Jar) -> None:
    """Nobody deletes a tenant: its keys are revoked, and its limits set to nothing. One with a new name is another."""
    code = f"try:\n    {ASKS}\nexcept Exception as error:\n    FINAL(type(error).__name__)"
    gate = held()
    with serving(jar, models=[gate.model]) as service, gate, service.client() as admin:
        key, keyed = service.key_of("runner", "acme"), {"idempotency-key": "k"}
        registered = {"context": {"kind": "registered", "ref": "log"}}
        body = {"code": code, "sub_model": FAKE, "contexts": registered}
        with service.client(key) as client:
            context = {"kind": "text", "name": "log", "text": "four"}
            sha256 = admin.post("/v1/contexts", json={**context, "tenant": "acme"}).json()["context"]
            run = client.post("/v1/runs", json=body, headers=keyed).json()["run"]
            until(lambda: gate.asked, what="the run asks")
            for one in admin.get("/v1/keys", params={"tenant": "acme"}).json()["keys"]:
                assert admin.delete(f"/v1/keys/{one['id']}").status_code == 200
            closed = {"tenant": "acme", "limits": {"total": {"calls": 0}}}
            assert admin.patch("/v1/quotas", json=closed).status_code == 200
            problem(admin.delete(f"/v1/contexts/{sha256}", params={"tenant": "acme"}), 409, "context.in_use")
            problem(client.get(f"/v1/runs/{run}"), 401, "access.revoked")
            problem(client.post("/v1/runs", json=body), 401, "access.revoked")
        question = {"question": "?", "model": FAKE, "contexts": registered, "tenant": "acme"}
        assert problem(admin.post("/v1/runs", json=question), 429, "quota.tenant.calls")["level"] == "acme"
        gate.go.set()
        state = admin.get(f"/v1/runs/{run}", headers=WAIT).json()
        assert (state["tenant"], state["state"], state["result"]["answer"]) == ("acme", "ok", "QuotaExceeded")
        assert gate.asked == ["one"]
        (quota,) = [one for one in admin.get("/v1/quotas", params={"tenant": "acme"}).json()["quotas"] if one["limits"]]
        assert quota["used"]["calls"] == 1
        with service.client(service.key_of("runner", "acme2")) as client:
            problem(client.get(f"/v1/runs/{run}"), 404, "run.unknown")
            made = client.post("/v1/runs", json={"code": "FINAL(1)"}, headers={**WAIT, **keyed}).json()
            assert (made["made"], made["state"]["tenant"], made["state"]["state"]) == ("new", "acme2", "ok")


def test_whoever_listens_with_a_key_that_is_revoked_hears_no_more_and_others_do(jar: Jar) -> None:
    gate = held()
    with serving(jar, models=[gate.model], heartbeat_s=0.1) as service, gate, service.client() as admin:
        key = service.key_of("runner", "acme")
        with service.client(key) as client:
            run = client.post("/v1/runs", json={"code": ASKS, "sub_model": FAKE}).json()["run"]
            path = f"/v1/runs/{run}/events"
            with client.stream("GET", path) as theirs, admin.stream("GET", path) as ours:
                lines = theirs.iter_lines()
                assert any(line.startswith(":") for line in lines), "it is being listened to"
                with service.client() as other:
                    other.delete(f"/v1/keys/{key.split('_')[1]}")
                    heard = list(itertools.islice(lines, 400))
                    assert len(heard) < 400, "it is told that others still are there"
                    assert "event: result" not in heard
                    assert other.get(f"/v1/runs/{run}").json()["state"] == "running"
                gate.go.set()
                assert [event for _, event, _ in told(ours.iter_lines())][-1] == "result"


def test_whoever_sends_an_upload_with_a_key_that_is_revoked_sends_no_more(jar: Jar) -> None:
    with serving(jar, heartbeat_s=0.1) as service, service.client() as admin:
        key = service.key_of("runner", "acme")
        with service.client(key) as client:
            path = begun(client, TEXT)
        with closing(connected(service)) as opened:
            opened.sendall(announced(service, path, len(TEXT), key=key) + TEXT[:10])
            assert admin.delete(f"/v1/keys/{key.split('_')[1]}").json()["state"] == "ended"
            for at in range(10, 3000):  # for half a minute, if nobody answers
                if select.select([opened], [], [], 0.01)[0]:
                    break
                opened.sendall(TEXT[at : at + 1])
            assert opened.recv(65536).startswith(b"HTTP/1.1 401 ")
        assert 10 <= offset_of(admin, path) < 3000


# A body of each kind of door: the API, a front door, tools, and a form of a page, which comes with a cookie.
_ORDERS: dict[str, tuple[str, bytes]] = {
    "POST /v1/runs": ("application/json", b'{"code":"FINAL(1)"}'),
    "POST /v1/messages": ("application/json", b'{"model":"rlm/x","messages":[{"role":"assistant","content":"Hm."}]}'),
    "POST /mcp": ("application/json", b'{"jsonrpc":"2.0","id":1,"method":"ping"}'),
    "POST /playground": ("application/x-www-form-urlencoded", b"code=1&policy=standard&token="),
}


@pytest.mark.parametrize("line", _ORDERS)
def test_whoever_sends_slowly_and_loses_their_key_meanwhile_orders_nothing(
    jar: Jar, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    let_in, enter = threading.Event(), Service.enter

    def entered(service: Service, scope: Scope, tenant: Tenant | None) -> None:
        enter(service, scope, tenant)
        if line.endswith(scope["path"]):
            let_in.set()

    monkeypatch.setattr(Service, "enter", entered)
    for module in (routes, parts_of_service):
        monkeypatch.setattr(module, "BELIEVED_S", 0.0)
    media, body = _ORDERS[line]
    with serving(jar, options={"extras": parts_of_service.parts()}) as service, service.client() as admin:
        key = service.key_of("runner", "acme")
        more = ["accept: application/json, text/event-stream", f"content-type: {media}"]
        if media != "application/json":
            with service.nobody() as client:
                cookie = client.post("/login", data={"key": key}).headers["set-cookie"].partition(";")[0]
                client.headers["cookie"] = cookie
                more += [f"cookie: {cookie}", "origin: http://127.0.0.1"]
                body += client.get("/runs").text.partition('name="token" value="')[2].partition('"')[0].encode()
        begins = head(service, line, *more, f"content-length: {len(body)}", "connection: close", key=key) + body[:1]
        with closing(connected(service)) as opened:
            opened.sendall(begins)
            assert let_in.wait(PATIENCE_S)
            assert admin.delete(f"/v1/keys/{key.split('_')[1]}").json()["state"] == "ended"
            opened.sendall(body[1:])
            answer = said(opened)
        assert answer.startswith(b"HTTP/1.1 401 "), answer
        assert b"this key was revoked" in answer
        assert admin.get("/v1/runs", params={"tenant": "acme"}).json()["runs"] == []


def test_a_token_is_good_for_as_long_as_clocks_may_differ_and_its_run_goes_on_after_it(
    jar: Jar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The issuer's clock is right; the service's is ahead, or behind."""
    ahead_s = 0.0

    def skewed(about: Any, *, clock: Callable[[], float]) -> Oidc:
        return Oidc(about, clock=lambda: clock() + ahead_s)

    monkeypatch.setattr("belljar.access.authenticator.Oidc", skewed)
    gate = held()
    with Issuer(jwk(RSA)) as issuer:
        options = {"access": AccessSettings(oidc=settings(issuer))}
        with serving(jar, models=[gate.model], options=options) as service, gate, service.client() as admin:
            now = int(time.time())
            shown = token(issuer, iat=now, exp=now + 1000)
            with service.client(shown) as client:
                run = client.post("/v1/runs", json={"code": ASKS, "sub_model": FAKE}).json()["run"]
                until(lambda: gate.asked, what="the run asks")
                for off, status, code in (
                    (20 - LEEWAY_S, 200, ""),
                    (-300 - LEEWAY_S, 401, "access.token"),  # of the future
                    (980, 200, ""),
                    (1300 + LEEWAY_S, 401, "access.expired"),
                ):
                    ahead_s = off
                    answer = client.get(f"/v1/runs/{run}")
                    assert answer.status_code == status, (off, answer.text)
                    if code:
                        problem(answer, status, code)
                problem(client.delete(f"/v1/runs/{run}"), 401, "access.expired")
            gate.go.set()
            state = admin.get(f"/v1/runs/{run}", headers=WAIT).json()
            assert (state["state"], state["tenant"], state["by"]) == ("ok", "acme", "oidc:alice")


def test_behind_a_proxy_a_header_says_where_from_and_never_who(jar: Jar, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a trusted proxy says counts for whom to hold up; who asks, the key alone says."""
    hold_up_for_long(monkeypatch)
    with serving(jar, trusted_proxies=(ipaddress.ip_network("127.0.0.0/8"),)) as service:
        key = service.key_of("runner", "acme")
        spoofed = {
            "x-tenant": "other",
            "x-forwarded-user": "admin",
            "x-belljar-tenant": "other",
            "forwarded": "for=other",
        }
        with service.nobody() as nobody, service.client(key) as client:
            answers = [nobody.get("/v1/runs", headers={"x-forwarded-for": "203.0.113.7"}) for _ in range(30)]
            problem(answers[-1], 429, "access.throttled")
            # A client adds to what the proxy writes: that is further left, and counts for nothing.
            held_up = {"x-forwarded-for": "198.51.100.1, 203.0.113.7"}
            problem(nobody.get("/v1/runs", headers=held_up), 429, "access.throttled")
            problem(nobody.get("/v1/runs", headers={"x-forwarded-for": "198.51.100.1"}), 401, "access.missing")
            headers = {**WAIT, **spoofed, "x-forwarded-for": "203.0.113.7"}
            made = client.post("/v1/runs", json={"code": "FINAL(1)"}, headers=headers).json()
            assert made["state"]["tenant"] == "acme"
            asked = {"code": "FINAL(1)", "tenant": "other"}
            problem(client.post("/v1/runs", json=asked, headers=headers), 403, "access.forbidden")
            assert client.get("/v1/runs", headers=headers).json()["runs"][0]["tenant"] == "acme"


# -- streams, trees and how they end -----------------------------------------------------------------------------------


def test_whoever_was_away_when_a_run_ended_hears_the_rest_once_also_of_the_next_process(jar: Jar) -> None:
    gate = held()
    with serving(jar, models=[gate.model]) as service, gate, service.client() as client:
        body = {"code": "print('first')\nprint(llm_query('one'))\nFINAL(2)", "sub_model": FAKE}
        run = client.post("/v1/runs", json=body).json()["run"]
        first: list[tuple[int | None, str, Any]] = []
        with client.stream("GET", f"/v1/runs/{run}/events") as stream:
            for event in told(stream.iter_lines()):
                first.append(event)
                if event[1] == "query":
                    break
        until(lambda: gate.asked, what="the run asks")
        gate.go.set()
        assert client.get(f"/v1/runs/{run}", headers=WAIT).json()["state"] == "ok"
        last = {"last-event-id": str(first[-1][0])}
        rest = list(told(iter(client.get(f"/v1/runs/{run}/events", headers=last).text.splitlines())))
        assert [event for _, event, _ in rest].count("result") == 1
        assert rest[-1][1] == "result"
        end = {"last-event-id": str(rest[-1][0])}
        assert after(client, run, end) == [(END_ID, "end")]  # its result was told before
        numbers = [number for number, _, _ in first + rest]
        assert numbers == sorted(set(numbers))  # type: ignore[type-var]
    with serving(jar, models=[gate.model]) as later, Client(later.url, service.key) as client:
        again = list(told(iter(client.get(f"/v1/runs/{run}/events", headers=last).text.splitlines())))
        # Turns and output are in no log; all else is told as before.
        assert {(number, event) for number, event, _ in again} <= {(number, event) for number, event, _ in rest}
        assert again[-1][2]["result"]["answer"] == 2
        assert after(client, run, end) == [(END_ID, "end")]  # its result was told before


def after(client: Client, run: str, last: dict[str, str]) -> list[tuple[int | None, str]]:
    """The events that come back after that one, without what they say."""
    answer = client.get(f"/v1/runs/{run}/events", headers=last)
    return [(number, event) for number, event, _ in told(iter(answer.text.splitlines()))]


@pytest.mark.slow("trees of runs, stopped in the middle")
def test_trees_are_cancelled_and_drained_at_once_and_none_stays_open(jar: Jar) -> None:
    below: list[str] = []

    async def answer(request: ModelRequest) -> str:
        if "." not in request.run:
            return "```repl\nFINAL(rlm_query('below', 'text'))\n```"
        below.append(request.run)
        await asyncio.Event().wait()
        return ""

    body = {"question": "?", "model": FAKE, "contexts": {"context": {"kind": "text", "text": "hello"}}}
    running = serving(jar, models=[FakeModel(answer, FAKE)], drain_s=1.0)
    with running as service, service.client() as client, service.client() as other:
        runs = [client.post("/v1/runs", json=body).json()["run"] for _ in range(3)]
        until(lambda: len(below) == 3, what="each has a run below it")
        ways = [
            threading.Thread(target=client.delete, args=(f"/v1/runs/{runs[0]}",)),
            threading.Thread(target=other.delete, args=(f"/v1/runs/{runs[1]}.00001",)),
            threading.Thread(target=service.end),
        ]
        for way in ways:
            way.start()
        for way in ways:
            way.join(PATIENCE_S)
    with closing(open_source(jar.journal)) as source:
        states = dict(source.ask("SELECT run, state FROM orders"))
    assert states.keys() == {*runs}
    assert not {*states.values()} & {*OPEN}
    assert states[runs[0]] in ("killed", "interrupted")
    assert states[runs[2]] == "interrupted"


# -- uploads -----------------------------------------------------------------------------------------------------------


def test_an_upload_that_broke_off_and_went_on_to_a_wrong_digest_leaves_nothing_and_may_begin_anew(
    service: Serving,
) -> None:
    with service.client() as client:
        wrong = begun(client, LONG, sha256=hashlib.sha256(b"other").hexdigest())
        offset = _break_off(service, client, wrong)
        problem(sent(client, wrong, 0, LONG[:10]), 409, "upload.offset")
        problem(sent(client, wrong, offset, LONG[offset:]), 422, "upload.digest")
        problem(client.get(wrong), 404, "upload.unknown")
        assert client.get("/v1/contexts").json()["contexts"] == []
        assert list(service.jar.state.uploads.iterdir()) == []
        right = begun(client, LONG)
        offset = _break_off(service, client, right)
        answer = sent(client, right, offset, LONG[offset:])
        assert answer.headers["belljar-context"] == hashlib.sha256(LONG).hexdigest()


def _break_off(service: Serving, client: Client, place: str) -> int:
    """Announce all of it, send half, and go away once some of it is kept. Returns how far it got."""
    with closing(socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2])))) as opened:
        opened.sendall(announced(service, place, len(LONG)) + LONG[: len(LONG) // 2])
        until(lambda: offset_of(client, place) > 0, what="something has arrived")
    until(lambda: sent(client, place, offset_of(client, place), b"").status_code == 204, what="it is let go of")
    offset = offset_of(client, place)
    assert 0 < offset < len(LONG)
    return offset


# -- many --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow("two hundred runs")
def test_two_hundred_orders_at_once_end_well_and_are_counted_exactly(jar: Jar) -> None:
    """Of four tenants, each asking a model that takes 50 ms; no more connections than a client has."""

    async def answer(request: ModelRequest) -> str:
        await asyncio.sleep(0.05)
        return "yes"

    async def order(http: httpx2.AsyncClient, number: int) -> tuple[str, str]:
        tenant = f"team{number % 4}"
        body = {"code": f"FINAL([{number}, llm_query('{number}')])", "sub_model": FAKE, "tenant": tenant}
        ordered = await http.post("/v1/runs", json=body, headers={"idempotency-key": f"k{number}"})
        assert ordered.status_code == 202, ordered.text
        run = str(ordered.json()["run"])
        while (state := (await http.get(f"/v1/runs/{run}", headers=WAIT)).json())["state"] in OPEN:
            pass
        assert (state["state"], state["result"]["answer"]) == ("ok", [number, "yes"]), state
        return run, tenant

    async def all_of_them(service: Serving) -> list[tuple[str, str]]:
        headers = {"authorization": f"Bearer {service.key}"}
        limits = httpx2.Limits(max_connections=200)
        async with httpx2.AsyncClient(
            base_url=service.url, headers=headers, timeout=4 * PATIENCE_S, limits=limits, trust_env=False
        ) as http:
            return list(await asyncio.gather(*(order(http, number) for number in range(200))))

    with serving(jar, models=[FakeModel(answer, FAKE)], queue=400, queue_per_tenant=100) as service:
        found = asyncio.run(all_of_them(service))
        with service.client() as admin:
            shown = admin.get("/v1/quotas").json()["quotas"]
    assert len({run for run, _ in found}) == 200
    used = {one["tenant"]: one["used"]["calls"] for one in shown if one["period"] == "day"}
    assert used == {"team0": 50, "team1": 50, "team2": 50, "team3": 50}
    ended = Counter(record.data["status"] for record in jar.records("run.finished"))
    assert ended == {"ok": 200}
    assert json.dumps(found)
