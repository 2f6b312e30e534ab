"""Refusals to strangers: each stands in the log, in a record of its own or counted in that of another one.

Whoever has no key, or one that has ended, may send as much as they like, and each record of the log is signed and kept
for ever. So of one address few refusals have a record of their own: as many as it may fail (`Throttle`), and none of
those that only told it to wait. All others are counted here::

    refused, and told why ────────▶ a record, with how many were counted before it from there (`unlogged`)
    refused, and told to wait ────▶ counted
    refused too often ────────────▶ counted: with a key that was revoked, say, which locks nobody out

    a minute is over, or the service ends ────▶ of each address that counts: its last refusal as a record,
                                                and in that how many were counted before it

There is room for so many addresses. Those that are counted longest make room for others: what they had is added up, for
one record more. So nothing is forgotten but what a service that is killed has counted in its last minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, NamedTuple

from msgspec import structs

from belljar.access import Throttle, place_of
from belljar.audit.events import HttpRequest
from belljar.errors import AccessThrottled, BelljarError
from belljar.tasks import stopped

__all__ = ["Refusals"]

_log = logging.getLogger("belljar.service")
_ADDRESSES_MAX: Final = 1000
_EACH_S: Final = 60.0
# Of what an address still asks after it was told to wait.
_THROTTLED: Final = "access.throttled"


class _Counted(NamedTuple):
    """So many refusals, of which this is the last."""

    number: int
    last: HttpRequest

    def record(self) -> HttpRequest:
        return _with(self.last, self.number - 1)


class Refusals:
    """Writes and counts them, in one event loop.

    Args:
        write: appends a record to the log, durably. Raises AuditUnavailable.
        addresses_max: for how many addresses refusals are counted apart.
    """

    def __init__(
        self, write: Callable[[HttpRequest], Awaitable[object]], *, addresses_max: int = _ADDRESSES_MAX
    ) -> None:
        self._write = write
        self._addresses_max = addresses_max
        self._often = Throttle()
        self._counted: OrderedDict[str, _Counted] = OrderedDict()
        self._rest: _Counted | None = None

    async def tell(self, address: str, event: HttpRequest) -> None:
        """Somebody unknown was refused: log it, or count it where they were only told to wait, or are so too often.

        Raises:
            AuditUnavailable: it is not in the log. It is counted.
        """
        if event.code == _THROTTLED or self._is_often(address):
            self.count(address, event)
            return
        before = self._counted.pop(place_of(address), None)
        number = 0 if before is None else before.number
        try:
            await self._write(_with(event, number))
        except BelljarError:
            self._add(place_of(address), _Counted(number + 1, event))
            raise

    def _is_often(self, address: str) -> bool:
        """Whether an address has had its records for now. Takes one if not."""
        try:
            self._often.check(address)
        except AccessThrottled:
            return True
        self._often.failed(address)
        return False

    def count(self, address: str, event: HttpRequest) -> None:
        """Somebody unknown was refused, which has no record of its own."""
        self._add(place_of(address), _Counted(1, event))

    async def settle(self) -> None:
        """Write what is counted.

        Raises:
            AuditUnavailable: the log cannot be written. What is not in it stays counted.
        """
        while self._counted:
            place, counted = self._counted.popitem(last=False)
            try:
                await self._write(counted.record())
            except BelljarError:
                self._add(place, counted)
                raise
        rest, self._rest = self._rest, None
        if rest is not None:
            try:
                await self._write(rest.record())
            except BelljarError:
                self._rest = _sum(rest, self._rest)
                raise

    @contextlib.asynccontextmanager
    async def settling(self) -> AsyncIterator[None]:
        """What is counted is written each minute, and at the end of a block."""
        task = asyncio.create_task(self._keep_settling())
        try:
            yield
        finally:
            await stopped(task)
            await self._settled()

    async def _keep_settling(self) -> None:
        while True:
            await asyncio.sleep(_EACH_S)
            await self._settled()

    async def _settled(self) -> None:
        try:
            await self.settle()
        except BelljarError as error:  # the next record, or the next minute, has them
            _log.warning("belljar: refusals to strangers are counted and not yet in the log: %s", error)

    def _add(self, place: str, more: _Counted) -> None:
        self._counted[place] = _sum(more, self._counted.get(place))
        if len(self._counted) > self._addresses_max:
            _, oldest = self._counted.popitem(last=False)
            self._rest = _sum(oldest, self._rest)


def _sum(one: _Counted, other: _Counted | None) -> _Counted:
    return one if other is None else _Counted(one.number + other.number, one.last)


def _with(event: HttpRequest, number: int) -> HttpRequest:
    return structs.replace(event, unlogged=number) if number else event
