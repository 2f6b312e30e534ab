"""That somebody reads what runs did stands in the log, too: durable before anything is shown.

What cannot be written to cannot say so: a file that is read-only or somebody else's, a full disk, a copy on other
media; nor is a log of an older format migrated only because somebody reads it.
"""

from __future__ import annotations

from collections.abc import Sequence

from belljar.audit.events import LogRead
from belljar.audit.log import AuditLog
from belljar.audit.source import Log, open_source, reading
from belljar.errors import AuditUnavailable
from belljar.journal import opened_journal

__all__ = ["log_read"]


async def log_read(log: Log, *, by: str, command: str, of: Sequence[str] = ()) -> None:
    """Append a record that `by` is about to read these runs, and those below them, or all.

    Raises:
        InvalidInput: `audit.missing`: there is no log.
        AuditUnavailable: it cannot be written.
    """
    _refuse_older(log)
    async with opened_journal(log, unavailable=AuditUnavailable) as journal:
        entry = AuditLog(journal).host_entry(LogRead(by=by, command=command, of=list(of)))
        await journal.submit(entry, unavailable=AuditUnavailable)


def _refuse_older(log: Log) -> None:
    with reading(open_source(log)) as source:
        number, latest = source.format()
    if number != latest:
        raise AuditUnavailable(f"the audit log {source.name} has format {number}, and {latest} is written here")
