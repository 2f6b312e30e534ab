"""Charges what one run reads to the ledger, before the bytes leave.

The goal for a read is 0.15 ms; the ledger's commits would add 0.9 in memory, and 2.9 on the disk of a busy machine. So
reads are not reserved one by one. A *portion* is: some megabytes at once, dispatched, so that a crash charges it in
full; reads are taken out of it in memory. When it is used up it is settled with what was read, and the next one, twice
as large, is reserved.

What one run holds without reading it, the tenant's other runs cannot read. So a portion is never more than a share of
what is left, unless a single read is; and a run that reads nothing for some seconds gives its portion back. At the end
of the run the last portion is settled with what was really read.
"""

from __future__ import annotations

import asyncio
from typing import Final

from belljar.broker.run import RunScope
from belljar.errors import HostFault
from belljar.ledger import Amounts, Ledger

__all__ = ["Reads"]

_PORTION_BYTES_MIN: Final = 4 * 2**20
_PORTION_BYTES_MAX: Final = 256 * 2**20
# A portion is at most one part in this many of what the tightest level has left.
_PORTION_SHARE: Final = 8
_IDLE_S: Final = 5.0


class Reads:
    """Await `charge` before every read, and `settled` at the end of the run.

    A portion that is not used for `idle_s` seconds is given back.
    """

    def __init__(self, scope: RunScope, ledger: Ledger, *, idle_s: float = _IDLE_S) -> None:
        self._scope = scope
        self._ledger = ledger
        self._reservation: str | None = None
        self._portion = 0
        self._used = 0
        self._next = _PORTION_BYTES_MIN
        self._turn = asyncio.Lock()
        self._idle_s = idle_s
        self._charged = 0.0  # when, on the loop's clock
        self._watching: asyncio.Task[None] | None = None
        self._fault: HostFault | None = None

    async def charge(self, size: int) -> None:
        """Charge `size` bytes.

        Raises:
            QuotaExceeded: `quota.tenant.read`: the tenant does not have that much left.
            LedgerUnavailable: it cannot be charged, so nothing may be read.
        """
        if self._portion - self._used < size:
            async with self._turn:
                if self._portion - self._used < size:
                    await self._renew(size)
        self._used += size
        self._charged = asyncio.get_running_loop().time()

    @property
    def held(self) -> int:
        """Bytes that the ledger holds for this run and that it has not read yet."""
        return self._portion - self._used

    async def settled(self) -> None:
        """Charge exactly what was read.

        Raises:
            LedgerUnavailable: the ledger could not be written.
        """
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            await asyncio.wait([watching])
        await self._give_back()
        if self._fault is not None:
            raise self._fault

    async def _give_back(self) -> None:
        reservation, self._reservation = self._reservation, None
        if reservation is not None:
            used, self._used, self._portion = self._used, 0, 0
            await self._ledger.settle(reservation, Amounts(read_bytes=used))

    async def _renew(self, size: int) -> None:
        if self._fault is not None:
            raise self._fault
        await self._give_back()
        left = (await self._ledger.remaining(self._scope.run, now=self._scope.now())).read_bytes
        portion = max(size, self._next if left is None else min(self._next, left // _PORTION_SHARE))
        self._reservation, self._portion, self._used = await self._reserve(portion), portion, 0
        self._next = min(2 * self._next, _PORTION_BYTES_MAX)
        if self._watching is None:
            self._charged = asyncio.get_running_loop().time()
            self._watching = self._scope.tasks.start(self._watch_failed, self._watch)

    async def _watch(self) -> None:
        """Give the portion back once it has been idle; then there is nothing to watch until the next one."""
        time = asyncio.get_running_loop().time
        while True:
            left_s = self._charged + self._idle_s - time()
            if left_s <= 0:
                break
            await asyncio.sleep(left_s)
        async with self._turn:
            try:
                await self._give_back()
            except HostFault as fault:  # nobody waits for it here: the next charge raises it
                self._fault = fault
            finally:
                self._watching, self._next = None, _PORTION_BYTES_MIN

    def _watch_failed(self, error: BaseException) -> None:
        name = type(error).__name__
        self._fault = HostFault(f"a portion could not be given back because of an unexpected {name}: report it")

    async def _reserve(self, portion: int) -> str:
        amounts = Amounts(read_bytes=portion)
        return await self._ledger.reserve(self._scope.run, amounts, now=self._scope.now(), dispatched=True)
