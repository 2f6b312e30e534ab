"""Answers that a query may have of an equal one, so that no model is asked twice: under way, or answered before.

    a query  ── an answer kept?      ─ yes ─> it has that one
             ── an equal one asked?  ─ yes ─> it waits for it: an answer  ─> it has that one
                                                                none      ─> it asks by itself
                                                                given up  ─> all over again
             ── otherwise it leads: it asks, and what it gets is there for those that wait, and is kept

Equal are two queries of exactly the same tenant, to the same model object, with the same instructions, limit of the
answer and prompt. So nothing of this goes from one tenant to another, those above and below it included: not an answer,
and not the time that one takes. For that reason each tenant also has bounds of its own: what one keeps never displaces
what another does.

Who leads pays, and nobody else does. The leader may be of another run. One that is cancelled or refused takes nobody
along: the first of those that waited leads next. A failure is not passed on either, as the next attempt may succeed,
nor is an answer that is cut, empty or refused: a program asks again to get a better one. Those that waited then ask at
once, side by side, as if there were nothing of this.

Answers are kept in memory and nowhere else, for as long as the policy says, and end with the host's process.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, Literal, TypeAlias

import msgspec

from belljar.errors import ModelFailed
from belljar.identity import Tenant
from belljar.models import Model, ModelReply
from belljar.policy import Policy

__all__ = ["Equal", "Known", "Reuse", "Source"]

Source: TypeAlias = Literal["cache", "flight"]

# Of each tenant: four of the largest batches of the standard policy, with answers of some 1,500 characters.
ENTRIES_MAX: Final = 4096
BYTES_MAX: Final = 32 * 2**20
# A character takes up to four bytes, and the rest of an entry about as much as this.
_CHAR_BYTES: Final = 4
_ENTRY_BYTES: Final = 2048
# How a whole answer ends. Whatever else a provider says, that answer is not used again.
_WHOLE: Final = frozenset({"end_turn", "stop_sequence"})


class Equal(msgspec.Struct, frozen=True):
    """Queries of which this is the same are equal. `model` is the identity of the object."""

    tenant: Tenant
    model: int
    system: str
    output_tokens_max: int
    prompt_sha256: str


class Known(msgspec.Struct, frozen=True):
    """An answer, the action that it was given to, and by whom.

    The model is here so that no other object gets its identity meanwhile.
    """

    reply: ModelReply
    action: str
    model: Model

    @property
    def is_whole(self) -> bool:
        text = self.reply.text
        return self.reply.stop_reason in _WHOLE and bool(text) and not text.isspace()

    @property
    def size(self) -> int:
        return _CHAR_BYTES * len(self.reply.text) + _ENTRY_BYTES


class _Entry(msgspec.Struct, frozen=True):
    known: Known
    made: float
    end: asyncio.TimerHandle


class _Cache:
    """One tenant's answers, the one that was used last at the end."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Equal, _Entry] = OrderedDict()
        self._bytes = 0

    def get(self, equal: Equal, since: float) -> Known | None:
        entry = self._entries.get(equal)
        if entry is None or entry.made <= since:
            return None
        self._entries.move_to_end(equal)
        return entry.known

    def put(self, equal: Equal, entry: _Entry) -> None:
        self.drop(equal)
        self._entries[equal] = entry
        self._bytes += entry.known.size
        while self._bytes > BYTES_MAX or len(self._entries) > ENTRIES_MAX:
            self.drop(next(iter(self._entries)))

    def drop(self, equal: Equal) -> None:
        if (entry := self._entries.pop(equal, None)) is not None:
            entry.end.cancel()
            self._bytes -= entry.known.size

    def clear(self) -> None:
        for equal in list(self._entries):
            self.drop(equal)

    def __len__(self) -> int:
        return len(self._entries)


class Reuse:
    """What the runs of one host know of each other's queries."""

    def __init__(self) -> None:
        self._caches: dict[Tenant, _Cache] = {}
        self._flights: dict[Equal, asyncio.Future[Known | None]] = {}

    async def answer(
        self, equal: Equal, policy: Policy, wait_s: float, ask: Callable[[], Awaitable[Known]]
    ) -> tuple[Known, Source | None]:
        """An answer, and where it is from: None if `ask` gave it. Raises what `ask` does.

        It waits no longer than `wait_s` for another query.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        while True:
            if (known := self._kept(equal, policy)) is not None:
                return known, "cache"
            flight = self._flights.get(equal) if policy.models.coalesce == "on" else None
            if flight is None:
                return await self._lead(equal, policy, ask), None
            await asyncio.wait([flight], timeout=max(0.0, until - loop.time()))
            if flight.cancelled():
                continue
            known = flight.result() if flight.done() else None
            return (await self._ask(equal, policy, ask), None) if known is None else (known, "flight")

    async def _lead(self, equal: Equal, policy: Policy, ask: Callable[[], Awaitable[Known]]) -> Known:
        if policy.models.coalesce == "off":
            return await self._ask(equal, policy, ask)
        flight = self._flights[equal] = asyncio.get_running_loop().create_future()
        try:
            known = await self._ask(equal, policy, ask)
            flight.set_result(known if known.is_whole else None)
            return known
        except ModelFailed:
            flight.set_result(None)
            raise
        finally:
            flight.cancel()  # does nothing if it has a result
            del self._flights[equal]

    async def _ask(self, equal: Equal, policy: Policy, ask: Callable[[], Awaitable[Known]]) -> Known:
        known = await ask()
        self._keep(equal, policy, known)
        return known

    def clear(self) -> None:
        """Forget all that is kept."""
        for cache in self._caches.values():
            cache.clear()
        self._caches.clear()

    def _kept(self, equal: Equal, policy: Policy) -> Known | None:
        cache = self._caches.get(equal.tenant)
        if cache is None or not policy.models.cache_s:
            return None
        return cache.get(equal, asyncio.get_running_loop().time() - policy.models.cache_s)

    def _keep(self, equal: Equal, policy: Policy, known: Known) -> None:
        if not policy.models.cache_s or not known.is_whole or known.size > BYTES_MAX:
            return
        loop = asyncio.get_running_loop()
        end = loop.call_later(policy.models.cache_s, self._expire, equal)
        self._caches.setdefault(equal.tenant, _Cache()).put(equal, _Entry(known, loop.time(), end))

    def _expire(self, equal: Equal) -> None:
        cache = self._caches[equal.tenant]
        cache.drop(equal)
        if not cache:
            del self._caches[equal.tenant]
