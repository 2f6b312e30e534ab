"""A log or a ledger with a journal of its own, for a test of it alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from belljar.audit import AuditLog
from belljar.errors import AuditUnavailable, LedgerUnavailable
from belljar.journal import Draft, Job, Journal, open_journal
from belljar.journal.sqlite import SqliteStore
from belljar.ledger import Ledger

__all__ = ["OwnLedger", "OwnLog", "fill", "meddle"]


async def meddle(journal: Journal, statement: str, *values: object) -> list[Any]:
    """Run SQL in the connection of a journal in SQLite, which then remembers nothing of what was there."""

    def work(draft: Draft) -> list[Any]:
        store = draft._round._store
        assert isinstance(store, SqliteStore)
        return store._db.execute(statement, values).fetchall()

    found = await journal.submit(Job(work))
    journal._known.clear()
    return found


async def fill(journal: Journal, pages: int = 2) -> None:
    """Let a journal in SQLite have no more than so many further pages."""
    ((count,),) = await meddle(journal, "PRAGMA page_count")
    await meddle(journal, f"PRAGMA max_page_count={count + pages}")


class OwnLog(AuditLog):
    """The log in the file at `path`, or in memory."""

    def __init__(self, path: Path | None, *, clock: Callable[[], int] = time.time_ns) -> None:
        self.journal = open_journal(path, unavailable=AuditUnavailable)
        super().__init__(self.journal, clock=clock)

    async def aclose(self) -> None:
        await self.journal.aclose(unavailable=AuditUnavailable)


class OwnLedger(Ledger):
    """The ledger in the file at `path`, or in memory."""

    def __init__(self, path: Path | None, *, owner: str) -> None:
        self.journal = open_journal(path, unavailable=LedgerUnavailable)
        super().__init__(self.journal, owner=owner)

    async def aclose(self) -> None:
        await super().aclose()
        await self.journal.aclose(unavailable=LedgerUnavailable)
