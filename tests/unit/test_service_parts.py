"""What a service computes: problems without paths, whose address counts, what the settings say, pages of lists."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from belljar.config import ServiceTable
from belljar.engine import CellResult, ErrorInfo, Limit
from belljar.errors import (
    AccessDenied,
    AccessThrottled,
    AuditUnavailable,
    BelljarError,
    BoxFault,
    GuestDied,
    HostFault,
    InvalidInput,
    InvalidPolicy,
    LayerMissing,
    LedgerUnavailable,
    ModelFailed,
    PolicyDenied,
    QuotaExceeded,
    Refusal,
    VerificationFailed,
)
from belljar.identity import is_within
from belljar.jobs import Busy, IdempotencyConflict
from belljar.jobs.words import told_result, told_words, without_paths
from belljar.models.resolve import Registry
from belljar.service.guard import Guard, client_of, is_ours
from belljar.service.problems import problem_of
from belljar.service.scopes import page_of
from belljar.service.settings import ServiceSettings, check_bind, read_settings
from tests.reference import coded

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (AccessDenied("no", code="access.missing"), 401, "access.missing"),
        (AccessThrottled("later", code="access.throttled", retry_after_s=7), 429, "access.throttled"),
        (InvalidInput("no", code="run.unknown"), 404, "run.unknown"),
        (InvalidInput("no", code="order.what"), 422, "order.what"),
        (InvalidPolicy("no", code="policy.value"), 422, "policy.value"),
        (PolicyDenied("no", code="model.denied"), 403, "model.denied"),
        (LayerMissing("no", code="layer.missing"), 503, "layer.missing"),
        (Refusal("no", code="context.in_use"), 409, "context.in_use"),
        (IdempotencyConflict(), 409, "order.idem_conflict"),
        (Busy("full", code="queue.full", retry_after_s=2.5), 503, "queue.full"),
        (Busy("one at a time", code="session.busy", retry_after_s=1), 409, "session.busy"),
        (GuestDied("it died"), 422, "guest.fault"),
        (AuditUnavailable("no"), 503, "audit.unavailable"),
        (LedgerUnavailable("no"), 503, "ledger.unavailable"),
        (BoxFault("no"), 503, "box.fault"),
        (ModelFailed("no"), 502, "model.failed"),
        (VerificationFailed("no"), 500, "audit.unsound"),
        (HostFault("no"), 500, "internal"),
        (RuntimeError("no"), 500, "internal"),
    ],
)
def test_the_culprit_decides_the_status(error: Exception, status: int, code: str) -> None:
    problem = problem_of(error, "r", now=NOW)
    assert (problem.status, problem.code, problem.type) == (status, code, f"urn:belljar:problem:{code}")
    assert problem.title


def test_what_a_fault_says_stays_here() -> None:
    for error in (RuntimeError("secret /srv/x"), HostFault("secret /srv/x"), AuditUnavailable("secret /srv/x")):
        assert "secret" not in problem_of(error, "r").detail


def test_a_quota_is_told_with_its_numbers_unless_they_are_somebody_elses() -> None:
    met = QuotaExceeded(
        "tenant acme has 0 left",
        code="quota.tenant.calls",
        limit=5,
        observed=6,
        scope="acme",
        dimension="calls",
        period="day",
        used=5,
        held=0,
        resets_at=NOW + timedelta(hours=1),
    )
    problem = problem_of(met, "r", now=NOW)
    assert (problem.status, problem.retry_after_s, problem.level) == (429, 3600, "acme")
    assert (problem.limit, problem.used, problem.held, problem.resets_at) == (5, 5, 0, met.resets_at)
    met.told = "a level above has nothing left"
    hidden = problem_of(met, "r", now=NOW)
    assert (hidden.detail, hidden.level, hidden.limit, hidden.used) == (met.told, None, None, None)
    assert hidden.retry_after_s == 3600


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("there is no file /srv/belljar/audit.db; name one", "there is no file (a path of the host); name one"),
        ("'/tmp/a b' is none", "'(a path of the host) b' is none"),
        ("open `~/.config/belljar`", "open `(a path of the host)`"),
        ("PosixPath('/etc/passwd')", "PosixPath('(a path of the host)')"),
        ("acme/research is a tenant", "acme/research is a tenant"),
        ("GET /v1/runs lists them", "GET /v1/runs lists them"),
        ("1000/hour", "1000/hour"),
        ("#/properties/age/type: not so", "#/properties/age/type: not so"),
        ("none at unix:///var/run/docker.sock: start it", "none at (a path of the host): start it"),
    ],
)
def test_paths_are_cut_out(text: str, told: str) -> None:
    assert without_paths(text) == told


@pytest.mark.parametrize("model", ["bogus", "a: b", "claude-opus-4-5", "openai:x"])
def test_what_only_whoever_runs_the_host_can_do_is_not_advised_to_others(model: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Registry({}).resolve(model)
    told = problem_of(refused.value, "r").detail
    assert ascii(model) in told
    assert not re.search("scripted:|aclose|_KEY", told)
    assert "this service" in told


# Which no request reaches: what starts a service, proofs in files, folders as contexts.
_AT_THE_HOST = {"access.extra", "audit.key", "audit.receipt", "config.invalid", "service.exposed", "state.folder"}
_AT_THE_HOST |= {"context.not_json", "context.unreadable", "state.path"}
_FOR_WHO_IS_THERE = re.compile(r"`belljar |(?<![\w-])--[a-z]|belljar\[|BELLJAR_")


def test_no_refusal_advises_what_only_whoever_is_at_the_host_can_do() -> None:
    changed = set()
    for path, code, kind, says in coded():
        if path.parent.name == "cli" or code in _AT_THE_HOST:
            continue
        told = told_words((LayerMissing if kind == "LayerMissing" else Refusal)(says, code=code))
        assert not _FOR_WHO_IS_THERE.search(told), (path, code, told)
        if _FOR_WHO_IS_THERE.search(says):
            changed.add(code)
            assert "a command of the host" not in told, "it says what else can be done"
    assert {"context.stored", "quota.tenant.depth", "replay.policy"} <= changed


def test_a_result_does_not_either() -> None:
    met = ErrorInfo("QuotaExceeded", "tenant acme may have 1; do without it, or raise it (`belljar quota set acme`)")
    told = []
    for limit in (Limit.of("quota.tenant.depth", 1, 2), None):
        cell = CellResult(status="quota", stdout="", stderr="", truncated=False, error=met, limit=limit, wall_s=0)
        error = told_result(cell).error
        assert error is not None
        told.append(error.message)
    assert told == [
        "tenant acme may have 1; do without it, or ask an operator to raise the limit (`PATCH /v1/quotas`)",
        "tenant acme may have 1; do without it, or raise it (a command of the host)",
    ]


def test_a_known_folder_is_cut_out_with_spaces_in_it() -> None:
    assert "my state" not in without_paths("in /srv/my state/audit.db", ["/srv/my state"])


@given(st.text(max_size=200))
def test_whatever_an_error_says_a_problem_comes_of_it(text: str) -> None:
    kinds: list[type[BelljarError]] = [Refusal, InvalidInput, HostFault]
    for kind in kinds:
        assert problem_of(kind(f"{text}/etc/passwd {text}"), "r").detail is not None


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "1.2.3.4, 203.0.113.9", "203.0.113.9"),  # what a client wrote itself stands further left
        ("10.0.0.1", "203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("10.0.0.1", "evil", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4, evil", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "203.0.113.9, ::ffff:10.0.0.2", "203.0.113.9"),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
    ],
)
def test_an_address_counts_as_far_as_those_who_wrote_it_are_trusted(peer: str, forwarded: str, client: str) -> None:
    assert client_of(peer, forwarded, [ipaddress.ip_network("10.0.0.0/8")]) == client


@pytest.mark.parametrize(
    ("peer", "client", "scheme"),
    [
        ("10.0.0.1", "203.0.113.9", "https"),
        ("::ffff:10.0.0.1", "203.0.113.9", "https"),  # as a socket for IPv4 and IPv6 tells it
        ("192.0.2.7", "192.0.2.7", "http"),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.7", "http"),
    ],
)
def test_what_a_proxy_tells_counts_only_of_one_that_is_trusted(peer: str, client: str, scheme: str) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["client"][0], scope["scheme"]))

    async def nothing(*_: object) -> None:
        pass

    guard = Guard(app, ServiceSettings(trusted_proxies=(ipaddress.ip_network("10.0.0.0/8"),)))
    told = [(b"host", b"localhost"), (b"x-forwarded-for", b"203.0.113.9"), (b"x-forwarded-proto", b"https")]
    asyncio.run(guard({"type": "http", "client": (peer, 1), "scheme": "http", "headers": told}, nothing, nothing))  # type: ignore[arg-type]
    assert seen == [(client, scheme)]


@given(st.lists(st.text(max_size=40), max_size=3))
def test_no_host_header_is_ours_but_names_and_addresses(hosts: list[str]) -> None:
    settings = ServiceSettings(allowed_hosts=("a.example",))
    if is_ours(hosts, settings):
        (host,) = hosts
        name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
        if name.lower().rstrip(".") not in ("localhost", "127.0.0.1", "a.example"):
            ipaddress.ip_address(name.strip("[]").rstrip("."))  # raises where it is none


def test_an_option_comes_before_the_environment_and_that_before_the_file() -> None:
    table = ServiceTable(port=1, host="127.0.0.2", body="1 MiB")
    environ = {"BELLJAR_SERVICE_PORT": "2", "BELLJAR_SERVICE_ALLOWED_HOSTS": "a.example, B.example."}
    read = read_settings(table, environ, Path("/srv"), port=3, host=None)
    assert (read.port, read.host, read.body_bytes) == (3, "127.0.0.2", 2**20)
    assert read.allowed_hosts == ("a.example", "b.example")
    assert read_settings(table, environ, Path("/srv")).port == 2


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("PORT", "x", "expected int, got str; write a number from 0 to 65535"),
        ("PORT", "70000", "expected int <= 65535; write a number from 0 to 65535"),
        ("HOOKS_PRIVATE", "yes", "expected bool, got str; write true or false"),
        ("BODY", "much", '"much" is not a valid size'),
        ("DRAIN", "5", '"5" is not a valid duration'),
        ("TRUSTED_PROXIES", "everybody", "'everybody' is not an address or network"),
        ("ALLOWED_HOSTS", "a b", "'a b' is not a host's name"),
    ],
)
def test_what_the_environment_says_wrongly_is_refused_with_the_variable_s_name(key: str, text: str, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_settings(ServiceTable(), {f"BELLJAR_SERVICE_{key}": text}, Path("/srv"))
    assert str(refused.value).startswith(f"$BELLJAR_SERVICE_{key}: {words}")


def test_a_path_starts_where_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the file at the file, on the command line and in the environment where the command is."""
    monkeypatch.chdir(tmp_path)
    table = ServiceTable(tls_cert="a.pem", tls_key="b.pem")
    read = read_settings(table, {"BELLJAR_SERVICE_TLS_KEY": "d.pem"}, Path("/srv"), tls_cert="c.pem")
    assert (read.tls_cert, read.tls_key) == (tmp_path / "c.pem", tmp_path / "d.pem")
    read = read_settings(table, {}, Path("/srv"))
    assert (read.tls_cert, read.tls_key) == (Path("/srv/a.pem"), Path("/srv/b.pem"))


@pytest.mark.parametrize(
    ("settings", "is_refused"),
    [
        ({"host": "127.0.0.1"}, False),
        ({"host": "::1"}, False),
        ({"host": "localhost"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "::"}, True),
        ({"host": "example.com"}, True),
        ({"host": "0.0.0.0", "trusted_proxies": (ipaddress.ip_network("10.0.0.0/8"),)}, False),
    ],
)
def test_what_a_network_would_reach_in_the_clear_is_refused(settings: dict[str, Any], is_refused: bool) -> None:
    if not is_refused:
        check_bind(ServiceSettings(**settings))
        return
    with pytest.raises(InvalidInput, match="not an address of this machine alone"):
        check_bind(ServiceSettings(**settings))


def test_a_list_is_read_page_by_page() -> None:
    found = [f"{number:03}" for number in range(25)]
    seen: list[str] = []
    after: str | None = None
    while True:
        page, after = page_of(found, str, after, 10)
        seen += page
        if after is None:
            break
    assert seen == found
    with pytest.raises(InvalidInput, match="not a cursor"):
        page_of(found, str, "nothing", 10)


def test_a_tenant_that_begins_alike_is_not_below() -> None:
    assert is_within("acme", None)
    assert not [name for name in ("acme2", "acm", "other/acme") if is_within(name, "acme")]
    assert [name for name in ("acme", "acme/a/b") if is_within(name, "acme")]
