"""Hosts that look for the dead again and again: it costs nothing where nobody died, and goes on after a failure."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from belljar.audit import AuditLog
from belljar.errors import AuditUnavailable, HostFault, LedgerUnavailable
from belljar.identity import RunId, Tenant
from belljar.ledger import Limits
from belljar.owners import Owner
from belljar.recovery import recover, watch
from belljar.tasks import stopped
from tests.journals import OwnLedger
from tests.postgres import sql
from tests.unit.test_postgres import hosts
from tests.unit.test_postgres import url as url  # a fixture
from tests.waiting import in_time

FREE = Limits("total", None, None, None, None, None)
LOOKS = 3


def test_where_nobody_died_nothing_is_written_to_the_file(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "a.db"
        with Owner(tmp_path / "owners") as ours, Owner(tmp_path / "owners") as another:
            ledger, other = (OwnLedger(path, owner=owner.name) for owner in (ours, another))
            for name, one in {"r1": ledger, "r2": other}.items():
                await one.open_run(RunId(name), Tenant("acme"), run_limits=FREE, tenant_limits=FREE)
            before = [file.read_bytes() for file in (path, tmp_path / "a.db-wal")]
            for _ in range(LOOKS):
                assert await recover(ledger.journal, ledger, AuditLog(ledger.journal), ours) == 0
            assert [file.read_bytes() for file in (path, tmp_path / "a.db-wal")] == before
            await ledger.aclose()
            await other.aclose()

    asyncio.run(main())


def test_where_nobody_died_no_host_writes_a_round(url: str) -> None:
    async def main() -> None:
        async with hosts(url, url) as [host, other]:
            await host.open_run(RunId("r1"))
            await other.open_run(RunId("r2"))
            before = sql(url, "SELECT round FROM belljar.head")
            for _ in range(LOOKS):
                assert await recover(host.journal, host.ledger, AuditLog(host.journal), None) == 0
            assert sql(url, "SELECT round FROM belljar.head") == before

    asyncio.run(main())


def test_who_cannot_settle_now_says_so_and_looks_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("belljar.recovery.LOOK_S", 0.001)
    found: list[int | HostFault] = [0, LedgerUnavailable("the disk is full"), AuditUnavailable("so it is"), 2]
    swept = asyncio.Event()

    async def look() -> int:
        now = found.pop(0)
        if isinstance(now, HostFault):
            raise now
        return now

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def sweep() -> None:
            loop.call_soon_threadsafe(swept.set)

        watching = asyncio.create_task(watch(look, sweep))
        async with in_time(60, "what the dead had brought along was removed"):
            await swept.wait()
        assert found == []
        await stopped(watching)

    with caplog.at_level(logging.WARNING, "belljar"):
        asyncio.run(main())
    assert [record.message for record in caplog.records] == [
        f"belljar: what dead hosts left is not settled yet: {why}" for why in ("the disk is full", "so it is")
    ]
