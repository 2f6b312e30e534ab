"""The account of what one run reads: charged to the ledger before the bytes leave.

A read takes microseconds and the ledger's commit half a millisecond, so reads are not reserved one by one. A *portion*
is: some megabytes at once, dispatched, so that a crash charges it in full; reads are taken out of it in memory. When it
is used up it is settled with what was read, and the next one, twice as large, is reserved. Near the tenant's limit the
portion shrinks to what is left. At the end of the run the last portion is settled with the truth.
"""

from __future__ import annotations

import asyncio
from typing import Final

from belljar.broker.run import RunScope
from belljar.errors import QuotaExceeded
from belljar.ledger import Amounts, Ledger

__all__ = ["Reads"]

_PORTION_BYTES_MIN: Final = 4 * 2**20
_PORTION_BYTES_MAX: Final = 256 * 2**20


class Reads:
    """Take `charge` before every read, and await `settled` at the end of the run."""

    def __init__(self, scope: RunScope, ledger: Ledger) -> None:
        self._scope = scope
        self._ledger = ledger
        self._reservation: str | None = None
        self._portion = 0
        self._used = 0
        self._next = _PORTION_BYTES_MIN
        self._turn = asyncio.Lock()

    async def charge(self, size: int) -> None:
        """Charge `size` bytes.

        Raises:
            QuotaExceeded: `quota.read_bytes`: the run or its tenant has not so much left.
            LedgerUnavailable: it cannot be charged: nothing may be read.
        """
        if self._portion - self._used < size:
            async with self._turn:
                if self._portion - self._used < size:
                    await self._renew(size)
        self._used += size

    @property
    def held(self) -> int:
        """Bytes that the books hold for this run and that it has not read yet."""
        return self._portion - self._used

    async def settled(self) -> None:
        """Charge exactly what was read.

        Raises:
            LedgerUnavailable: the books could not be written.
        """
        reservation, self._reservation = self._reservation, None
        if reservation is not None:
            used, self._used, self._portion = self._used, 0, 0
            await self._ledger.settle(reservation, Amounts(read_bytes=used))

    async def _renew(self, size: int) -> None:
        await self.settled()
        portion = max(size, self._next)
        try:
            reservation = await self._reserve(portion)
        except QuotaExceeded:
            left = (await self._ledger.remaining(self._scope.run, now=self._scope.now())).read_bytes
            # Where not even this read fits, the refusal that counts is the one that has its numbers.
            portion = max(size, min(portion, left or 0))
            reservation = await self._reserve(portion)
        self._reservation, self._portion, self._used = reservation, portion, 0
        self._next = min(2 * self._next, _PORTION_BYTES_MAX)

    async def _reserve(self, portion: int) -> str:
        amounts = Amounts(read_bytes=portion)
        return await self._ledger.reserve(self._scope.run, amounts, now=self._scope.now(), dispatched=True)
