"""A log or a ledger with a journal of its own, for a test of it alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from belljar.audit import AuditLog
from belljar.errors import AuditUnavailable, LedgerUnavailable
from belljar.identity import Tenant
from belljar.journal import Draft, Job, Journal, open_journal
from belljar.journal.postgres import PostgresStore
from belljar.journal.sqlite import SqliteStore
from belljar.ledger import LIMITED, Ledger, Limits

__all__ = ["OwnLedger", "OwnLog", "fill", "meddle", "set_limits"]


def place(path: Path | str | None) -> Path | str | None:
    """Where the journal is that a test has at this path: just there. The fixture `store` says something else."""
    return path


async def meddle(journal: Journal, statement: str, *values: object) -> list[Any]:
    """Run SQL in the connection of a journal, which then remembers nothing of what was there."""

    def work(draft: Draft) -> list[Any]:
        store = draft._round._store
        if isinstance(store, PostgresStore):
            return list(store._server.fetch(statement, *values))
        assert isinstance(store, SqliteStore)
        return store._db.execute(statement, values).fetchall()

    found = await journal.submit(Job(work))
    journal._known.clear()
    return found


async def set_limits(ledger: Ledger, tenant: Tenant, limits: Limits) -> None:
    """Let one level have just these limits in their period."""
    await ledger.change_limits(tenant, {limits.period: {name: getattr(limits, name) for name in LIMITED}})


async def fill(journal: Journal, pages: int = 2) -> None:
    """Let a journal in SQLite have no more than so many further pages."""
    ((count,),) = await meddle(journal, "PRAGMA page_count")
    await meddle(journal, f"PRAGMA max_page_count={count + pages}")


class OwnLog(AuditLog):
    """The log in the file at `path`, in the database of a URL, or in memory."""

    def __init__(self, path: Path | str | None, *, clock: Callable[[], int] = time.time_ns) -> None:
        self.journal = open_journal(place(path), unavailable=AuditUnavailable)
        super().__init__(self.journal, clock=clock)

    async def aclose(self) -> None:
        await self.journal.aclose(unavailable=AuditUnavailable)


class OwnLedger(Ledger):
    """The ledger in the file at `path`, in the database of a URL, or in memory."""

    def __init__(self, path: Path | str | None, *, owner: str) -> None:
        self.journal = open_journal(place(path), unavailable=LedgerUnavailable)
        super().__init__(self.journal, owner=owner)

    async def aclose(self) -> None:
        await super().aclose()
        await self.journal.aclose(unavailable=LedgerUnavailable)
