"""Whether a service is ready: everybody who asks is told soon, also where something does not answer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from belljar.errors import HostFault
from belljar.journal import opened_journal
from belljar.service import readiness
from belljar.service.readiness import Readiness
from tests.postgres import Postgres, sql
from tests.waiting import PATIENCE_S


def test_many_who_ask_at_once_wait_for_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = [100.0], list[float]()
    host: Any = SimpleNamespace(try_box=None)
    readiness = Readiness(host, clock=lambda: now[0])

    async def slow() -> dict[str, str]:
        asked.append(now[0])
        now[0] += 2.0
        await asyncio.sleep(0)
        return {"backend": "slow"}

    monkeypatch.setattr(readiness, "_ask", slow)

    async def go() -> list[dict[str, str]]:
        return await asyncio.gather(*(readiness.look() for _ in range(10)))

    assert asyncio.run(go()) == [{"backend": "slow"}] * 10
    assert asked == [100.0]


def test_a_host_that_was_taken_for_dead_is_not_ready(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can read all that there is, and write nothing until it is restarted: nobody should send it anything."""
    monkeypatch.setattr(readiness, "_ASK_S", PATIENCE_S)
    now, url = [100.0], postgres.database()

    async def fine() -> None:
        """A box that starts."""

    async def go() -> list[dict[str, str]]:
        async with opened_journal(url, unavailable=HostFault) as journal:
            host: Any = SimpleNamespace(journal=journal, try_box=fine)
            ready = Readiness(host, clock=lambda: now[0])
            before = await ready.look()
            sql(url, "DELETE FROM belljar.hosts")  # as another host does when the lease is over
            now[0] += 2.0
            return [before, await ready.look()]

    assert asyncio.run(go()) == [
        {"log": "ok", "ledger": "ok", "backend": "ok"},
        {"log": "failed", "ledger": "failed", "backend": "ok"},
    ]
