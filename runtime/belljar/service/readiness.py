"""Whether runs can be taken: the log, the ledger and a backend are asked, each really."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from belljar.errors import AuditUnavailable, BelljarError, LedgerUnavailable
from belljar.host import Host
from belljar.journal import Job

__all__ = ["Readiness"]

_ASK_S: Final = 2.0
_KEEP_S: Final = 1.0


class Readiness:
    """Asks the log, the ledger and a backend whether they work: each really, and none of them twice at a time.

    Whoever asks within a second of somebody else gets the same answer; nobody waits longer than two. What takes longer
    is left to end, and is not asked again meanwhile.
    """

    def __init__(self, host: Host, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked: dict[str, Callable[[], Awaitable[object]]] = {
            "log": lambda: host.journal.submit(Job(lambda draft: draft.head()), unavailable=AuditUnavailable),
            "ledger": lambda: host.journal.submit(_LEDGER, unavailable=LedgerUnavailable),
            "backend": host.try_box,
        }
        self._asking: dict[str, asyncio.Future[str]] = {}
        self._known: tuple[float, dict[str, str]] | None = None
        self._turn = asyncio.Lock()

    async def look(self) -> dict[str, str]:
        async with self._turn:
            if self._known is None or self._clock() - self._known[0] >= _KEEP_S:
                said = await self._ask()
                self._known = (self._clock(), said)
            return self._known[1]

    async def _ask(self) -> dict[str, str]:
        for name, ask in self._asked.items():
            if name not in self._asking or self._asking[name].done():
                self._asking[name] = asyncio.ensure_future(_said(ask))
        await asyncio.wait(self._asking.values(), timeout=_ASK_S)
        return {name: task.result() if task.done() else "slow" for name, task in self._asking.items()}

    async def aclose(self) -> None:
        """Wait for what is still asked."""
        await asyncio.gather(*self._asking.values())


_LEDGER: Final = Job(lambda draft: draft.query("SELECT count(*) FROM runs WHERE run = ?", ""))


async def _said(ask: Callable[[], Awaitable[object]]) -> str:
    try:
        await ask()
    except BelljarError:
        return "failed"
    return "ok"
