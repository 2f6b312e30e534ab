"""What the dead left behind, settled at the next start: in log and ledger at once.

A run is opened in the ledger with its first record and closed there with its last one, each in one transaction. So
whatever has a beginning in the log and no end is open in the ledger, and is found here: it gets `run.abandoned`, with
what the ledger charges for it, and is closed, in one transaction too.

A state folder that an older version has left may know a run in the ledger alone, or have its end in the log alone. Then
only the ledger is written.

The owner's lock is held from the check for life until all this is done, so nobody else does the same meanwhile.
"""

from __future__ import annotations

import asyncio

import msgspec

from belljar.audit import AuditLog
from belljar.audit.events import AmountsData, RunAbandoned
from belljar.journal import Job
from belljar.ledger import Abandoned, Ledger
from belljar.owners import Owner

__all__ = ["recover"]


async def recover(ledger: Ledger, audit: AuditLog, owner: Owner) -> int:
    """Close what belongs to dead owners. Returns how many runs that was.

    Raises:
        LedgerUnavailable: it cannot be written; what was not closed is left to the next start.
    """

    def record(run: Abandoned) -> Job[object]:
        charged = AmountsData(**msgspec.structs.asdict(run.charged))
        return audit.end_if_open(run.run, RunAbandoned(**msgspec.structs.asdict(run.used), charged=charged))

    closed = await ledger.recover(owner.is_alive, record)
    await asyncio.to_thread(owner.bury)
    return closed
