"""API keys for whoever runs no service: listed from a snapshot, so nobody waits; changed in a journal of one's own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from belljar.access.apikeys import ApiKeys, KeyInfo, listed
from belljar.access.settings import AccessSettings
from belljar.audit import AuditLog
from belljar.audit.source import UNREADABLE, Log, looked_at, open_source
from belljar.errors import AuditUnavailable
from belljar.identity import Tenant
from belljar.journal import opened_journal

__all__ = ["kept_keys", "open_keys"]


@contextlib.asynccontextmanager
async def open_keys(log: Log, settings: AccessSettings) -> AsyncIterator[ApiKeys]:
    """The keys in a journal, which is created if it is missing.

    Raises:
        AuditUnavailable: it cannot be opened.
    """
    async with opened_journal(log, unavailable=AuditUnavailable) as journal:
        yield ApiKeys(journal, AuditLog(journal), age_max=settings.key_age_max)


def kept_keys(log: Log, tenant: Tenant | None = None) -> list[KeyInfo]:
    """The keys of a tenant and of all below it, or all, the oldest first.

    Raises:
        AuditUnavailable: the journal cannot be read.
    """
    if isinstance(log, Path) and not log.is_file():
        return []
    return looked_at(log, lambda log: [*_kept(log, tenant)], bool)


def _kept(log: Log, tenant: Tenant | None) -> Iterator[KeyInfo]:
    with contextlib.closing(open_source(log)) as source:
        try:
            if not source.has_ledger():  # one of an older version, which had no keys
                return
            after = ""
            while found := listed(source.ask, source.now(), tenant, after=after):
                yield from found
                after = found[-1].id
        except UNREADABLE as error:
            raise AuditUnavailable(f"the journal {source.name} cannot be read: {error}; verify it") from error
