"""A service over HTTP: what every route has in common."""

from __future__ import annotations

import pytest

from tests.integration.service.support import Client, Serving, problem, take_time_to_look


def test_it_lives_and_is_ready(service: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    take_time_to_look(monkeypatch)
    with service.nobody() as client:
        assert client.get("/livez").json() == {"status": "ok"}
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()) == (
            200,
            {"status": "ok", "parts": {"log": "ok", "ledger": "ok", "backend": "ok"}},
        )


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
