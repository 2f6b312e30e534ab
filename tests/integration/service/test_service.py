"""A service over HTTP: what every route has in common."""

from __future__ import annotations

import asyncio

import pytest

from belljar import Host
from belljar.audit import verify
from belljar.errors import HostFault
from belljar.quotas import differences
from belljar.service import readiness
from belljar.service.settings import ServiceSettings
from tests.integration.service.support import Client, Serving, problem, take_time_to_look
from tests.integration.support import PATIENCE_S, Jar, until
from tests.postgres import Postgres, sql


def test_it_lives_and_is_ready(service: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    take_time_to_look(monkeypatch)
    with service.nobody() as client:
        assert client.get("/livez").json() == {"status": "ok"}
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()) == (
            200,
            {"status": "ok", "parts": {"log": "ok", "ledger": "ok", "backend": "ok"}},
        )


def test_a_service_whose_host_was_taken_for_dead_ends_and_can_be_started_again(
    jar: Jar, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could only refuse all that it is asked, and go on looking as if it were alive."""
    monkeypatch.setattr(readiness, "_LOOK_S", 0.1)
    url = postgres.database()
    by_itself: list[bool] = []
    with pytest.raises(HostFault, match="this host was taken for dead"):
        _die(jar, url, by_itself)
    assert by_itself == [True]

    async def again() -> None:
        async with Host(state=url, environ=jar.environ()):
            """Closes what the other left."""

    asyncio.run(again())
    assert sql(url, "SELECT count(*) FROM belljar.runs WHERE is_open = 1") == [(0,)]
    assert (verify(url).problems, differences(url)) == ([], [])


def _die(jar: Jar, url: str, by_itself: list[bool]) -> None:
    """Be taken for dead in the middle of a run, and see whether the service ends before it is told to."""
    with Serving(jar, ServiceSettings(port=0), [], state=url) as service, service.client() as admin:
        order = {"code": "import time\ntime.sleep(600)", "language": "python", "tenant": "acme"}
        run = admin.post("/v1/runs", json=order).json()["run"]
        until(lambda: sql(url, "SELECT FROM belljar.runs WHERE run = $1", run), what="the run is under way")
        sql(url, "DELETE FROM belljar.hosts")  # as another host does when the lease is over
        service._thread.join(PATIENCE_S)
        by_itself.append(not service._thread.is_alive())


def test_nobody_is_told_nothing(service: Serving) -> None:
    with service.nobody() as client:
        told = problem(client.get("/v1/quotas"), 401, "access.missing")
        assert "www-authenticate" in client.get("/v1/quotas").headers
    assert told["title"] == "Nobody proved who asks"


def test_policies_are_listed_shown_and_checked(admin: Client) -> None:
    names = [one["name"] for one in admin.get("/v1/policies").json()["policies"]]
    assert "standard" in names
    shown = admin.get("/v1/policies/standard").json()
    assert (
        admin.post("/v1/policies/check", json={"toml": shown["toml"].replace('"standard"', '"mine"')}).json()["name"]
        == "mine"
    )
    told = problem(admin.post("/v1/policies/check", json={"toml": "schema = 1\nnme = 2"}), 422, "policy.unknown_key")
    assert "toml:" in told["detail"]
