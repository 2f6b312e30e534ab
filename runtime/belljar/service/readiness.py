"""Whether runs can be taken: the log, the ledger and a backend are asked, each really.

Of hosts that share a server, one that the others took for dead can still read, and never write again: neither its log
nor its ledger works, until it is restarted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Final

from belljar.errors import AuditUnavailable, BelljarError, HostFault, LedgerUnavailable
from belljar.host import Host
from belljar.journal import Draft, Job, Journal, Unavailable

__all__ = ["Readiness", "taken_for_dead"]

_ASK_S: Final = 2.0
_KEEP_S: Final = 1.0
# How often one looks whether this host was taken for dead, which takes a lease of a minute.
_LOOK_S: Final = 15.0


class Readiness:
    """Asks the log, the ledger and a backend whether they work: each really, and none of them twice at a time.

    Whoever asks within a second of somebody else gets the same answer; nobody waits longer than two. What takes longer
    is left to end, and is not asked again meanwhile.
    """

    def __init__(self, host: Host, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked: dict[str, Callable[[], Awaitable[object]]] = {
            "log": lambda: _written(host.journal, lambda draft: draft.head(), AuditUnavailable),
            "ledger": lambda: _written(host.journal, lambda draft: draft.query(_A_RUN, ""), LedgerUnavailable),
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


_A_RUN: Final = "SELECT count(*) FROM runs WHERE run = ?"


async def _written(journal: Journal, look: Callable[[Draft], object], unavailable: Unavailable) -> None:
    """Look into the journal, if this host may write there."""

    def work(draft: Draft) -> None:
        look(draft)
        if draft.removed():
            raise unavailable("this host was taken for dead; restart")

    await journal.submit(Job(work), unavailable=unavailable)


async def taken_for_dead(journal: Journal) -> None:
    """Return once the other hosts have taken this one for dead. Where they are of one machine, that never happens."""
    found = False
    while not found:
        await asyncio.sleep(_LOOK_S)
        with contextlib.suppress(HostFault):  # a journal that is out of reach may come back
            found = await journal.submit(Job(lambda draft: draft.removed()))


async def _said(ask: Callable[[], Awaitable[object]]) -> str:
    try:
        await ask()
    except BelljarError:
        return "failed"
    return "ok"
