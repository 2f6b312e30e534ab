"""Settles at the next start what dead hosts left behind: records it in the log, then closes it in the ledger.

A run is open in the ledger from before its first record until after its last one. So whatever has a beginning in the
log and no end is open in the ledger too, and is found here. What is left to do depends on when the host died:

    before `run.started`         the log knows nothing of the run: it is only closed in the ledger
    before the run's end         `run.abandoned`, with what the ledger charges for it; then it is closed in the ledger
    after the run's last record  the log has its end: it is only closed in the ledger

The owner's lock is held from the check for life until all this is done, so nobody else does the same meanwhile.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from belljar.audit import AuditLog, is_open
from belljar.audit.events import AmountsData, RunAbandoned
from belljar.ledger import Abandoned, Ledger
from belljar.owners import Owner

__all__ = ["recover"]


async def recover(ledger: Ledger, audit: AuditLog, log: Path, owner: Owner) -> int:
    """Close what belongs to dead owners. Returns how many runs that was.

    Raises:
        AuditUnavailable, LedgerUnavailable: they cannot be written; runs not yet closed are left to the next start.
    """

    async def tell(run: Abandoned) -> None:
        if await asyncio.to_thread(is_open, log, run.run):
            charged = AmountsData(**msgspec.structs.asdict(run.charged))
            await audit.append(run.run, RunAbandoned(**msgspec.structs.asdict(run.used), charged=charged))

    closed = await ledger.recover(owner.is_alive, tell)
    await asyncio.to_thread(owner.bury)
    return closed
