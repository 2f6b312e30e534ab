"""Who may do what: every route x every role x own, child, parent and other tenant, asked of a real service.

What is expected comes from the table of roles alone. Whoever may not is told so, or, of a thing of somebody else's,
that there is none.
"""

from __future__ import annotations

import base64
import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal, cast

import httpx2
import msgspec
import pytest
from starlette.routing import Route as StarletteRoute

from belljar.access import Action, Principal, Role, permits
from belljar.identity import ROLES, Tenant
from belljar.service.api import ROUTES
from belljar.service.app import Extra, Make
from belljar.service.pages import DemoModel, pages
from belljar.service.pages.rendering import STATIC
from belljar.service.parts import parts
from belljar.service.routes import Route, Service, own, whole_host
from tests.integration.service.support import Client, Serving, problem, serving
from tests.integration.support import Jar

MINE = Tenant("acme/mid")
TARGETS = {"own": MINE, "child": Tenant("acme/mid/leaf"), "parent": Tenant("acme"), "other": Tenant("acme/mid2")}
KINDS = ("run", "session", "context", "upload", "key", "hook")
TUS = {"tus-resumable": "1.0.0"}
OCTETS = "application/offset+octet-stream"


class Things:
    """Makes, as an administrator, one thing of each kind for a tenant; one that a request ends is made anew."""

    def __init__(self, admin: Client) -> None:
        self._admin = admin
        self._count = 0
        self._made: dict[tuple[str, str], str] = {}
        self._makers: dict[str, Callable[[str], str]] = {
            "run": self._run,
            "session": self._session,
            "context": self._context,
            "upload": self._upload,
            "key": self._key,
            "hook": self._hook,
        }

    def of(self, kind: str, tenant: str, *, ends: bool) -> str:
        if ends:
            return self._makers[kind](tenant)
        if (kind, tenant) not in self._made:
            self._made[kind, tenant] = self._makers[kind](tenant)
        return self._made[kind, tenant]

    def _ask(self, path: str, **options: Any) -> Any:
        answer = self._admin.post(path, **options)
        assert answer.status_code in (200, 201, 202), answer.text
        return answer.json()

    def _run(self, tenant: str) -> str:
        wait = {"prefer": "wait=60"}
        return str(self._ask("/v1/runs", json={"code": "FINAL(1)", "tenant": tenant}, headers=wait)["run"])

    def _session(self, tenant: str) -> str:
        return str(self._ask("/v1/sessions", json={"tenant": tenant})["session"])

    def _context(self, tenant: str) -> str:
        self._count += 1  # what is ended is not what others read
        body = {"kind": "json", "name": "a", "value": ["text", self._count], "tenant": tenant}
        return str(self._ask("/v1/contexts", json=body)["context"])

    def _upload(self, tenant: str) -> str:
        metadata = f"tenant {base64.b64encode(tenant.encode()).decode()}"
        headers = {**TUS, "upload-length": "10", "upload-metadata": metadata}
        return str(self._ask("/v1/uploads", headers=headers)["upload"])

    def _key(self, tenant: str) -> str:
        return str(self._ask("/v1/keys", json={"role": "auditor", "tenant": tenant})["key"]["id"])

    def _hook(self, tenant: str) -> str:
        return str(self._ask("/v1/hooks", json={**BODIES["POST /v1/hooks"], "tenant": tenant})["hook"]["id"])


class Named:
    """One thing, whatever is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def of(self, _kind: str, _tenant: str, *, ends: bool) -> str:
        return self._name


def asked(client: Client, route: Route, tenant: str, things: Things | Named) -> httpx2.Response:
    """A request on this route that is about this tenant, and right in every other way."""
    path, query = route.path, {}
    for kind in KINDS:
        if f"{{{kind}}}" in path:
            ends = route.method == "DELETE" or path.endswith("/rotate")
            path = path.replace(f"{{{kind}}}", things.of(kind, tenant, ends=ends))
    path = path.replace("{policy}", "standard")
    if "tenant" in getattr(route.query, "__struct_fields__", ()):
        query["tenant"] = tenant
    if route.path.endswith("/consistency"):
        query |= {"old": "1", "new": "1"}
    headers = {**TUS, "upload-length": "10", "upload-offset": "0"}
    metadata = base64.b64encode(tenant.encode()).decode()
    headers["upload-metadata"] = f"tenant {metadata}"
    body = BODIES.get(route.name)
    if body is not None and body != b"":
        body = {**body, **({"tenant": tenant} if "tenant" in body else {})}
        return client.request(route.method, path, params=query, headers=headers, json=body)
    if route.body is bytes:
        return client.request(
            route.method, path, params=query, headers={**headers, "content-type": OCTETS}, content=b""
        )
    if route.path.endswith("/events"):
        with client.stream("GET", path, params=query) as answer:
            answer.read()
            return answer
    return client.request(route.method, path, params=query, headers=headers)


BODIES: dict[str, Any] = {
    "POST /v1/runs": {"code": "FINAL(1)", "tenant": ""},
    "POST /v1/sessions": {"tenant": ""},
    "POST /v1/sessions/{session}/cells": {"code": "x = 1"},
    "POST /v1/sessions/{session}/ask": {"question": "what?"},
    "POST /v1/contexts": {"kind": "json", "name": "a", "value": ["text"], "tenant": ""},
    "PATCH /v1/quotas": {"tenant": "", "limits": {"month": {"calls": 100000}}},
    "POST /v1/audit/verify": {"keys": []},
    "POST /v1/policies/check": {"toml": 'schema = 1\nname = "mine"\nextends = "standard"\n'},
    "POST /v1/keys": {"role": "auditor", "tenant": ""},
    "POST /v1/keys/{key}/rotate": {"overlap_s": 0},
    "POST /v1/hooks": {"url": "https://hooks.example.com/belljar", "told": ["quota.threshold"], "tenant": ""},
    # Whoever may order is told that nothing was asked.
    "POST /v1/messages": {"model": "rlm/x", "messages": [{"role": "assistant", "content": "Hm."}]},
    "POST /v1/chat/completions": {"model": "rlm/x", "messages": [{"role": "assistant", "content": "Hm."}]},
}


def test_every_body_of_the_table_is_there() -> None:
    names = {route.name for route in ROUTES if route.body is not None and route.body is not bytes}
    assert names == BODIES.keys()


def test_what_anybody_may_ask_is_named_and_what_a_path_names_has_an_owner() -> None:
    """Of anything else somebody is asked for, and of a thing it is asked whose it is."""
    assert {route.name for route in ROUTES if route.action is None} == {
        "GET /livez",
        "GET /readyz",
        "GET /v1/openapi.json",
    }
    for route in ROUTES:
        if "{" in route.path and "{policy}" not in route.path:
            assert route.owner not in (own, whole_host), route.name
        fields = getattr(route.body, "__struct_fields__", ()) + getattr(route.query, "__struct_fields__", ())
        if "tenant" in fields:
            assert route.owner not in (own, whole_host), route.name


@pytest.mark.slow("every route, as every role")
@pytest.mark.parametrize("role", ROLES)
def test_each_role_does_what_it_may_and_nothing_else(service: Serving, role: Role) -> None:
    tenant = None if role in ("admin", "operator") else MINE
    principal = Principal("key:test", tenant, role)
    with service.client() as admin, service.client(service.key_of(role, tenant)) as client:
        things, wrong = Things(admin), []
        for route in ROUTES:
            if route.action is None:
                continue
            relations = ["own"] if route.owner in (whole_host, own) else [*TARGETS]
            for relation in relations:
                target = TARGETS[relation]
                about = None if route.owner is whole_host else tenant if route.owner is own else target
                answer = asked(client, route, target, things)
                code = answer.json()["code"] if answer.headers.get("content-type", "").endswith("problem+json") else ""
                refused = answer.status_code in (401, 403) or code.endswith((".unknown", "key.missing", "hook.missing"))
                if refused is permits(principal, route.action, about):
                    wrong.append((route.name, relation, answer.status_code, code))
                assert answer.status_code < 500, answer.text
                if route.name == "POST /v1/sessions" and answer.status_code == 201:
                    admin.delete(answer.headers["location"])
        assert wrong == []


def test_what_is_somebody_elses_looks_as_if_it_were_not_there(service: Serving) -> None:
    """On every route that names a thing: the same status and words for what somebody else has and for what nobody has.

    Whoever asks may do there whatever a tenant's own may.
    """
    with service.client() as admin, service.client(service.key_of("tenant-admin", "acme")) as client:
        things, told_apart = Things(admin), []
        for route in ROUTES:
            for kind in (kind for kind in KINDS if f"{{{kind}}}" in route.path):
                theirs = things.of(kind, "acme2", ends=False)
                nobodys = theirs[:-1] + ("0" if theirs[-1] != "0" else "1")
                found = [asked(client, route, "acme", Named(one)).text.replace(one, "ID") for one in (theirs, nobodys)]
                of_theirs, of_nobodys = (msgspec.json.decode(one) for one in found)
                assert of_theirs.pop("request") != of_nobodys.pop("request")
                assert of_theirs["status"] == 404, (route.name, of_theirs)
                if of_theirs != of_nobodys:
                    told_apart.append((route.name, of_theirs, of_nobodys))
        assert told_apart == []


def test_whoever_never_may_is_told_so_before_anything_is_read(service: Serving) -> None:
    """What they sent is no JSON, and too long."""
    with service.client(service.key_of("auditor", "acme")) as client:
        for path in ("/v1/runs", "/v1/sessions", "/v1/keys"):
            answer = client.post(path, content=b"x", headers={"content-type": "text/plain"})
            problem(answer, 403, "access.forbidden")


# What each page does, and to whom; None is what belongs to no tenant.
PAGES: dict[str, tuple[Action, Literal["tenant", "own", "host"]]] = {
    "GET /runs": ("run.read", "own"),
    "GET /runs/{run}": ("run.read", "tenant"),
    "GET /runs/{run}/proof": ("run.read", "tenant"),
    "POST /runs/{run}/cancel": ("run.cancel", "tenant"),
    "POST /runs/{run}/cells": ("run", "tenant"),
    "POST /runs/{run}/fork": ("run", "tenant"),
    "POST /runs/{run}/replay": ("run", "tenant"),
    "GET /tenants": ("quota.read", "tenant"),
    "POST /tenants/limits": ("quota.set", "tenant"),
    "GET /contexts": ("context.read", "tenant"),
    "GET /contexts/view": ("context.read", "tenant"),
    "GET /playground": ("run", "tenant"),
    "POST /playground": ("run", "tenant"),
    "GET /health": ("host.read", "host"),
    "POST /health/examine": ("host.read", "host"),
    "GET /audit": ("audit.read", "own"),
    "POST /audit/verify": ("audit.verify", "host"),
}
# Pages for everybody: the way in, the way out, and files.
OPEN = {"/", "/favicon.ico", "/login", "/logout"}


@pytest.fixture
def paged(jar: Jar) -> Iterator[Serving]:
    with serving(jar, models=[DemoModel()], options={"extras": parts()}) as running:
        yield running


@contextlib.contextmanager
def visiting(service: Serving, key: str) -> Iterator[tuple[Client, str]]:
    """Who logged in with this key, and the word of their forms."""
    with service.nobody() as client:
        cookie = client.post("/login", data={"key": key}).headers["set-cookie"].partition(";")[0]
        client.headers["cookie"] = cookie
        yield client, client.get("/runs").text.partition('name="token" value="')[2].partition('"')[0]


def test_every_page_of_the_table_is_there() -> None:
    made = pages(cast("Any", None), cast("Any", None), who=cast("Any", None))
    shown = [one for one in made if one.path not in OPEN and not one.path.startswith(STATIC)]
    names = {f"{method} {one.path}" for one in shown for method in one.methods or ()}
    assert {name for name in names if not name.startswith("HEAD ")} == PAGES.keys()


def test_beside_the_api_nothing_but_the_way_in_is_for_anybody(jar: Jar) -> None:
    """Whatever the parts of a service have mounted: pages, tools, metrics, and what comes next."""
    paths: set[str] = set()

    def seen(make: Make, service: Service) -> Extra:
        extra = make(service)
        paths.update(cast("StarletteRoute", route).path for route in extra.routes)
        return extra

    extras = [functools.partial(seen, make) for make in parts()]
    with serving(jar, models=[DemoModel()], options={"extras": extras}) as service, service.nobody() as client:
        assert {"/mcp", "/metrics", "/login", "/playground"} <= paths
        for path in sorted(paths - OPEN):
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
                if path.startswith(STATIC):
                    continue
                answer = client.request(method, path.replace("{run}", "20261128T120000-5f0c1d9a7b3e"))
                is_sent_in = answer.status_code == 303 and answer.headers["location"].startswith("/login")
                assert is_sent_in or answer.status_code in (401, 405, 429), (method, path, answer.status_code)


@pytest.mark.slow("every page, as every role")
@pytest.mark.parametrize("role", ROLES)
def test_each_role_sees_and_does_on_pages_what_it_may_and_nothing_else(paged: Serving, role: Role) -> None:
    tenant = None if role in ("admin", "operator") else MINE
    principal = Principal("key:test", tenant, role)
    key = paged.key_of(role, tenant)
    with paged.client() as admin, visiting(paged, key) as (client, word):
        things, wrong = Things(admin), []
        for name, (action, whose) in PAGES.items():
            for relation, target in TARGETS.items() if whose == "tenant" else [("own", MINE)]:
                about = {"tenant": target, "own": tenant, "host": None}[whose]
                method, _, path = name.partition(" ")
                if "{run}" in path:
                    path = path.format(run=things.of("run", target, ends=False))
                fields = {"tenant": target, "period": "day", "calls": "100", "policy": "standard"}
                if path == "/contexts/view":
                    fields["sha256"] = things.of("context", target, ends=False)
                if method == "GET":
                    answer = client.get(path, params={"tenant": target, **fields} if whose == "tenant" else {})
                else:
                    more = {"token": word, "code": "1", "model": "scripted:demo"}
                    answer = client.post(path, data={**fields, **more})
                assert answer.status_code < 500, answer.text
                refused = answer.status_code == 403 or "pages.not_there" in answer.text
                if refused is permits(principal, action, about):
                    wrong.append((name, relation, answer.status_code))
        assert wrong == []


def test_no_header_and_no_field_makes_somebody_another_tenant(service: Serving) -> None:
    """What a proxy or a client says of tenants is nothing: the key says it."""
    with service.client(service.key_of("runner", "acme")) as client:
        spoofed = {"x-forwarded-for": "10.0.0.1", "x-tenant": "other", "x-forwarded-user": "admin"}
        problem(client.get("/v1/runs", params={"tenant": "other"}, headers=spoofed), 403, "access.forbidden")
        body = {"code": "FINAL(1)", "tenant": "acme2"}
        problem(client.post("/v1/runs", json=body, headers=spoofed), 403, "access.forbidden")
        made = client.post("/v1/runs", json={"code": "FINAL(1)"}, headers={**spoofed, "prefer": "wait=60"}).json()
        assert made["state"]["tenant"] == "acme"


def test_every_request_and_refusal_stands_in_the_log_with_its_principal(service: Serving) -> None:
    key = service.key_of("runner", "acme")
    with service.client(key) as client, service.nobody() as nobody:
        client.get("/v1/runs")
        client.get("/v1/audit/records")
        nobody.get("/v1/runs")
    records = [record.data for record in service.jar.records("http.request")]
    identity = f"key:{key.split('_')[1]}"
    mine = [one for one in records if one["by"] == identity]
    assert [(one["route"], one["status"], one.get("code")) for one in mine] == [
        ("GET /v1/runs", 200, None),
        ("GET /v1/audit/records", 403, "access.forbidden"),
    ]
    assert {(one["tenant"], one["role"]) for one in mine} == {("acme", "runner")}
    assert records[-1] | {"by": "nobody", "status": 401, "code": "access.missing"} == records[-1]


def test_whoever_asks_too_often_without_a_key_is_held_up_and_fills_no_log(held_up: None, service: Serving) -> None:
    with service.nobody() as nobody:
        answers = [nobody.get("/v1/runs") for _ in range(30)]
    assert {answer.status_code for answer in answers} == {401, 429}
    told = problem(answers[-1], 429, "access.throttled")
    assert answers[-1].headers["retry-after"] == str(told["retry_after_s"])
    assert len(service.jar.records("http.request")) < 20


def test_a_key_that_is_revoked_while_its_run_is_under_way_ends_nothing_and_opens_nothing(service: Serving) -> None:
    key = service.key_of("runner", "acme")
    with service.client() as admin, service.client(key) as client:
        run = client.post("/v1/runs", json={"code": "while True: pass"}).json()["run"]
        assert admin.delete(f"/v1/keys/{key.split('_')[1]}").json()["state"] == "ended"
        problem(client.get(f"/v1/runs/{run}"), 401, "access.revoked")
        assert admin.get(f"/v1/runs/{run}").json()["state"] in ("queued", "running")
        assert admin.delete(f"/v1/runs/{run}").json()["state"] in ("killed", "cancelled")
