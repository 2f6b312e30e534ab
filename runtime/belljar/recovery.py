"""What the dead left behind, settled by whoever lives: at a start, and every half minute after it, in log and ledger.

A run is opened in the ledger with its first record and closed there with its last one, each in one transaction. So
whatever has a beginning in the log and no end is open in the ledger, and is found here: it gets `run.abandoned`, with
what the ledger charges for it, and is closed, in one transaction too. The runs below it end with it in the same way,
also those of another owner, since each spends a slice of what its parent held; their owners can settle nothing more.

A state folder that an older version has left may know a run in the ledger alone, or have its end in the log alone. Then
only the ledger is written.

On one machine a lock proves that an owner lives. It is held from the check for life until all this is done, so nobody
else does the same meanwhile. Hosts that share a journal have a lease there, and one that was found dead can write
nothing more; closing a run twice does nothing. Where several look at the same time, each run is closed once.

A service's orders (`orders`) have owners, too. An open one of a dead owner is `interrupted`, once its run is closed.

Who owns open runs is asked before who lives. A host that starts in between has no run yet that we know of, and so is
not taken for dead. Where nobody has died, nothing is written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Set
from typing import Final, NoReturn, TypeVar

from belljar.audit import AuditLog
from belljar.broker.abandoned import abandoned_in
from belljar.errors import HostFault, LedgerUnavailable
from belljar.journal import Draft, Job, Journal
from belljar.journal.tables import ORDERS
from belljar.ledger import Ledger
from belljar.owners import Owner

__all__ = ["LEASE_S", "recover", "watch"]

_T = TypeVar("_T")
_log = logging.getLogger("belljar")
_OPEN_ORDERS: Final = "SELECT run FROM orders WHERE owner = ? AND ended_at = 0 LIMIT 200"
# Of a host that shares the journal with others: several signs of life long.
LEASE_S: Final = 60.0
# How often a living host looks for the dead: what those held is out of use for a lease and this long at most.
LOOK_S: Final = 30.0


async def recover(journal: Journal, ledger: Ledger, audit: AuditLog, owner: Owner | None) -> int:
    """Close what belongs to dead owners. Returns how many runs that was.

    Args:
        owner: our proof of life beside others of this machine; None where the journal is shared by hosts.

    Raises:
        LedgerUnavailable: it cannot be written; what was not closed is left to the next start.
    """
    record = abandoned_in(audit)
    ordering = await _submit(journal, Job(_owners_of_orders))
    if owner is not None:
        closed = await ledger.recover(owner.is_alive, record)
        await _interrupt(journal, {name for name in ordering if not owner.is_alive(name)})
        await asyncio.to_thread(owner.bury)
        return closed
    known = await ledger.owners() | ordering
    living = await _submit(journal, Job(lambda draft: draft.living(LEASE_S)))
    assert living is not None, "the store of several hosts knows them"
    dead = known - living
    closed = await ledger.recover(lambda name: name not in dead, record)
    await _interrupt(journal, ordering & dead)
    return closed


def _owners_of_orders(draft: Draft) -> set[str]:
    return {owner for (owner,) in draft.query("SELECT DISTINCT owner FROM orders WHERE ended_at = 0")}


async def _interrupt(journal: Journal, dead: Set[str]) -> None:
    """End the orders that these owners left open, a few in each transaction."""

    def work(draft: Draft) -> int:
        left = [run for name in dead for (run,) in draft.query(_OPEN_ORDERS, name)]
        for run in left:
            row = draft.get(ORDERS, run)
            assert row is not None, "it was just found"
            draft.put(ORDERS, row._replace(state="interrupted", ended_at=int(journal.now())))
        return len(left)

    while dead:
        if not await _submit(journal, Job(work)):
            return


async def _submit(journal: Journal, job: Job[_T]) -> _T:
    return await journal.submit(job, unavailable=LedgerUnavailable)


async def watch(look: Callable[[], Awaitable[int]], sweep: Callable[[], None]) -> NoReturn:
    """Look for the dead every `LOOK_S` seconds, until it is cancelled. What cannot be done now is done the next time.

    Args:
        look: `recover`, with all that it needs.
        sweep: removes what dead runs brought along; called in a thread when some were closed.
    """
    while True:
        await asyncio.sleep(LOOK_S)
        try:
            if await look():
                await asyncio.to_thread(sweep)
        except HostFault as error:
            _log.warning("belljar: what dead hosts left is not settled yet: %s", error)
