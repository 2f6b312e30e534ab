"""What the dead left behind, settled at the next start: first told to the log, then closed in the books.

A run stands open in the books from before its first record until after its last one. So whatever has a beginning in the
log and no end is open in the books too, and is found here. In between, in whichever order a host dies:

    dead before `run.started`      the log knows nothing of it: only the books are closed
    dead before its end            `run.abandoned`, with what the books charge for it; then the books are closed
    dead after that record         the log has its end: only the books are closed

The owner's lock is held from the question whether it lives to the last of this, so nobody else does the same beside us.
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
    """Close what belongs to dead owners. Returns how many runs that were.

    Raises:
        AuditUnavailable, LedgerUnavailable: it cannot be written; what was not closed is left to the next start.
    """

    async def tell(run: Abandoned) -> None:
        if await asyncio.to_thread(is_open, log, run.run):
            charged = AmountsData(**msgspec.structs.asdict(run.charged))
            await audit.append(run.run, RunAbandoned(**msgspec.structs.asdict(run.used), charged=charged))

    closed = await ledger.recover(owner.is_alive, tell)
    await asyncio.to_thread(owner.bury)
    return closed
