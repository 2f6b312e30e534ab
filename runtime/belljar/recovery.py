"""What the dead left behind, settled at the next start: in log and ledger at once.

A run is opened in the ledger with its first record and closed there with its last one, each in one transaction. So
whatever has a beginning in the log and no end is open in the ledger, and is found here: it gets `run.abandoned`, with
what the ledger charges for it, and is closed, in one transaction too. The runs below it end with it in the same way,
also those of another owner, since each spends a slice of what its parent held; their owners can settle nothing more.

A state folder that an older version has left may know a run in the ledger alone, or have its end in the log alone. Then
only the ledger is written.

On one machine a lock proves that an owner lives. It is held from the check for life until all this is done, so nobody
else does the same meanwhile. Hosts that share a journal have a lease there, and one that was found dead can write
nothing more; closing a run twice does nothing.
"""

from __future__ import annotations

import asyncio
from typing import Final

from belljar.audit import AuditLog
from belljar.broker.abandoned import abandoned_in
from belljar.errors import LedgerUnavailable
from belljar.journal import Job, Journal
from belljar.ledger import Ledger
from belljar.owners import Owner

__all__ = ["LEASE_S", "recover"]

# Of a host that shares the journal with others: several signs of life long.
LEASE_S: Final = 60.0


async def recover(journal: Journal, ledger: Ledger, audit: AuditLog, owner: Owner | None) -> int:
    """Close what belongs to dead owners. Returns how many runs that was.

    Args:
        owner: our proof of life beside others of this machine; None where the journal is shared by hosts.

    Raises:
        LedgerUnavailable: it cannot be written; what was not closed is left to the next start.
    """
    record = abandoned_in(audit)
    if owner is not None:
        closed = await ledger.recover(owner.is_alive, record)
        await asyncio.to_thread(owner.bury)
        return closed
    living = await journal.submit(Job(lambda draft: draft.living(LEASE_S)), unavailable=LedgerUnavailable)
    assert living is not None, "the store of several hosts knows them"
    return await ledger.recover(living.__contains__, record)
