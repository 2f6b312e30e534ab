"""Whoever hears of a run for long is asked for again while it lasts: may they still?

A key may be revoked, and a token expires, while a stream is open that was begun with it, or a call waits. So the
credential is looked at again as often as there is a sign of life, and whoever shows one that is not good any more hears
nothing further. Their runs go on: they were allowed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final, TypeVar

from belljar.errors import HostFault
from belljar.jobs import Busy

__all__ = ["Proof", "heard"]

_T = TypeVar("_T")
_log = logging.getLogger("belljar.service")
_AGAIN_S: Final = 5.0


class Proof:
    """That somebody may still hear what they asked for.

    Args:
        prove: raises AccessDenied where they may not any more.
        each_s: for how many seconds it is believed.
    """

    def __init__(self, prove: Callable[[], Awaitable[object]], each_s: float) -> None:
        self.each_s = each_s
        self._prove = prove
        self._clock = asyncio.get_running_loop().time
        self._until = self._clock() + each_s

    async def renew(self) -> None:
        """Ask for it again, if it is old. They may go on, too, where it cannot be found out now.

        Raises:
            AccessDenied: they may not any more.
        """
        if self._clock() < self._until:
            return
        try:
            await self._prove()
        except HostFault as error:
            _log.warning("belljar: whether a listener may go on listening is not known now: %s", error)
        self._until = self._clock() + self.each_s


async def heard(
    found: AsyncGenerator[_T, None], proof: Proof, stopping: asyncio.Event | None = None
) -> AsyncGenerator[_T | None, None]:
    """Each event as it comes, and None where none has come for `proof.each_s` seconds. Closes `found` in the end.

    Args:
        stopping: set when the service ends.

    Raises:
        AccessDenied: who listens may not any more.
        Busy: `service.draining`.
    """
    waits: asyncio.Future[Any] = asyncio.ensure_future((stopping or asyncio.Event()).wait())
    coming: asyncio.Future[_T | _Over] | None = None
    try:
        while True:
            if coming is None:
                coming = asyncio.ensure_future(anext(found, _OVER))
            both: set[asyncio.Future[Any]] = {coming, waits}
            await asyncio.wait(both, timeout=proof.each_s, return_when=asyncio.FIRST_COMPLETED)
            await proof.renew()
            if coming.done():
                one, coming = coming.result(), None
                if isinstance(one, _Over):
                    return
                yield one
            elif waits.done():
                raise Busy("the service is stopping: come again later", code="service.draining", retry_after_s=_AGAIN_S)
            else:
                yield None
    finally:
        waits.cancel()
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        await found.aclose()


class _Over:
    """No event: there are no more."""


_OVER: Final = _Over()
