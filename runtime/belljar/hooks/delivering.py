"""Tells hooks what they have to be told.

    due ──take──▶ under way (a lease: due again in `LEASE_S`) ──2xx──▶ arrived
     ▲                                │
     └── later, with each attempt ────┴──410, or the last of `ATTEMPTS_MAX`──▶ given up

Taking a delivery is one transaction, in which it becomes due again after a lease, and the attempt is counted. So of
many processes one takes it; if that one dies, another does once the lease is over. Whoever is told may hear the same
thing twice (its answer got lost, say), under the same id.

One delivery of a hook is under way at a time in a process, and `AT_ONCE` of all hooks, of which `OF_ONE` of a
first-level tenant with all below it. Tenants take turns, so hooks that hang hold up themselves, and at worst their
tenant's others. The time until the next attempt grows from `FIRST_S` fourfold up to `LAST_S`, a fifth more or less:
some twenty hours in all.

What is done is kept for `KEPT_S`, so that the same event is not told again, and then removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
import ssl
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from belljar.errors import BelljarError, HostFault
from belljar.hooks.hooks import Hooks
from belljar.hooks.sending import NotSent, send, signed
from belljar.journal import Draft
from belljar.journal.tables import DELIVERIES, HOOKS, DeliveryRow, HookRow
from belljar.tasks import stopped

__all__ = ["ATTEMPTS_MAX", "KEPT_S", "LEASE_S", "POLL_S", "Deliveries", "wait_s"]

_log = logging.getLogger("belljar")
ATTEMPTS_MAX: Final = 10
AT_ONCE: Final = 8
OF_ONE: Final = 4
LEASE_S: Final = 60
POLL_S: Final = 5.0
FIRST_S: Final = 5
LAST_S: Final = 6 * 3600
KEPT_S: Final = 35 * 86_400
_CLEAN_S: Final = 600
_REMOVED_MAX: Final = 1000
_GONE: Final = 410
_ROW: Final = ", ".join(DELIVERIES.columns)
# Of each hook that has something due, whose it is (of one that was removed, nobody's); what is due longest first.
_DUE: Final = (
    "SELECT hook, coalesce(min(tenant), ''), min(next_at) FROM deliveries LEFT JOIN hooks ON hooks.id = hook"
    " WHERE done_at = 0 AND next_at <= ? GROUP BY hook ORDER BY 3, 1"
)
_FIRST: Final = (
    f"SELECT {_ROW} FROM deliveries WHERE hook = ? AND done_at = 0 AND next_at <= ? ORDER BY next_at, id LIMIT 1"  # noqa: S608
)
_OLD: Final = "SELECT id FROM deliveries WHERE done_at > 0 AND done_at < ? LIMIT ?"


# Several times as many as are told at a time: the system may go on looking for a name after we gave it up.
_NAMES_MAX: Final = 32


def wait_s(attempts: int, chance: float) -> int:
    """How long to wait after so many attempts; `chance` is from 0 to 1."""
    return int(min(FIRST_S * 4 ** (attempts - 1), LAST_S) * (0.8 + 0.4 * chance))


def _first(tenant: str) -> str:
    return tenant.partition("/")[0]


class Deliveries:
    """Delivers, as long as it is open: `async with Deliveries(hooks):`.

    Args:
        tls: whom to believe to be a hook's host; the machine's own authorities when None.
        poll_s: how often to look for what other processes, or time, have made due.
        chance: from 0 to 1.
    """

    def __init__(
        self,
        hooks: Hooks,
        *,
        tls: ssl.SSLContext | None = None,
        poll_s: float = POLL_S,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._hooks = hooks
        self._tls = tls
        self._poll_s = poll_s
        self._chance = chance
        self._wake = asyncio.Event()
        self._clean_at = 0.0
        self._under_way: dict[str, asyncio.Task[None]] = {}
        # Of each hook under way, the first level of its tenant; and of each such level, which turn was its last.
        self._whose: dict[str, str] = {}
        self._turns: dict[str, int] = {}
        self._loop: asyncio.Task[None] | None = None
        self._names = ThreadPoolExecutor(_NAMES_MAX, thread_name_prefix="belljar-hook-names")

    async def __aenter__(self) -> Deliveries:
        self._loop = asyncio.create_task(self._deliver())
        return self

    async def __aexit__(self, *_: object) -> None:
        """What is under way is given up, and due again when its lease is over."""
        if self._loop is not None:
            await stopped(self._loop)
        for task in [*self._under_way.values()]:
            await stopped(task)
        self._names.shutdown(wait=False, cancel_futures=True)

    def wake(self) -> None:
        """Something is due now."""
        self._wake.set()

    async def _deliver(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._round()
            except BelljarError as error:  # a journal that is away for a while stops nothing for good
                _log.warning("belljar: what hooks have to be told cannot be read (%s)", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await self._wake.wait()

    async def _round(self) -> None:
        if self._hooks.clock() >= self._clean_at:
            self._clean_at = self._hooks.clock() + _CLEAN_S
            await self._hooks.do(self._clean)
        if len(self._under_way) >= AT_ONCE:
            return
        for hook, row in await self._hooks.do(self._take):
            task = asyncio.create_task(self._tell(hook, row))
            self._under_way[row.hook] = task
            self._whose[row.hook] = _first(hook.tenant)
            task.add_done_callback(functools.partial(self._ended, row.hook))

    def _ended(self, name: str, _: asyncio.Task[None]) -> None:
        self._under_way.pop(name, None)
        self._whose.pop(name, None)
        self._wake.set()

    def _take(self, draft: Draft) -> list[tuple[HookRow, DeliveryRow]]:
        now = int(self._hooks.clock())
        taken: list[tuple[HookRow, DeliveryRow]] = []
        waiting = {name: _first(tenant) for name, tenant, _ in draft.query(_DUE, now) if name not in self._under_way}
        for name in self._chosen(waiting):
            hook = draft.get(HOOKS, name)
            row = DELIVERIES.unpack(draft.query(_FIRST, name, now)[0])
            if hook is None:  # it was removed while this was written
                draft.remove(DELIVERIES, row.id)
                continue
            row = row._replace(attempts=row.attempts + 1, next_at=now + LEASE_S)
            draft.put(DELIVERIES, row)
            taken.append((hook, row))
        return taken

    def _chosen(self, waiting: dict[str, str]) -> list[str]:
        """Hooks for the places that are free: of the tenant whose last turn was longest ago, what is due longest.

        Args:
            waiting: the first level of the tenant of each hook that has something due, what is due longest first.
        """
        chosen: list[str] = []
        theirs = Counter(self._whose.values())
        queues: dict[str, deque[str]] = {}
        for name, first in waiting.items():
            queues.setdefault(first, deque()).append(name)
        turn = max(self._turns.values(), default=0)
        self._turns = {first: self._turns.get(first, 0) for first in {*queues, *theirs}}  # of others nobody asks
        while len(chosen) + len(self._under_way) < AT_ONCE:
            able = [first for first, queue in queues.items() if queue and theirs[first] < OF_ONE]
            if not able:
                break
            first = min(able, key=self._turns.__getitem__)
            chosen.append(queues[first].popleft())
            theirs[first] += 1
            self._turns[first] = turn = turn + 1
        return chosen

    def _clean(self, draft: Draft) -> None:
        for (old,) in draft.query(_OLD, int(self._hooks.clock()) - KEPT_S, _REMOVED_MAX):
            draft.remove(DELIVERIES, old)

    async def _tell(self, hook: HookRow, row: DeliveryRow) -> None:
        try:
            status = await self._sent(hook, row)
            await self._hooks.do(lambda draft: self._settle(draft, row, status))
        except BelljarError as error:
            _log.warning("belljar: how hook %s was told cannot be written (%s): it is told again", hook.id, error)

    async def _sent(self, hook: HookRow, row: DeliveryRow) -> int:
        try:
            headers = signed(self._hooks.unwrapped(hook), row.id, int(self._hooks.clock()), row.body)
            return await send(
                hook.url, headers, row.body, private=self._hooks.private, tls=self._tls, names=self._names
            )
        except (NotSent, HostFault) as error:
            _log.info("belljar: hook %s was not told (%s)", hook.id, error)
            return 0

    def _settle(self, draft: Draft, row: DeliveryRow, status: int) -> None:
        now = int(self._hooks.clock())
        if draft.query("SELECT id FROM deliveries WHERE id = ? AND done_at = 0 AND attempts = ?", row.id, row.attempts):
            arrived = 200 <= status < 300
            if arrived or status == _GONE or row.attempts >= ATTEMPTS_MAX:
                done = row._replace(body=b"", done_at=max(now, 1), status=status)
                self._hooks.delivered(draft, done, arrived=arrived)
            else:
                later = now + wait_s(row.attempts, self._chance())
                draft.put(DELIVERIES, row._replace(next_at=later, status=status))
