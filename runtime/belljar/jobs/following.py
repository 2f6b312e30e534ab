"""The events of runs that are not in this process's memory, made once more from the log.

What has been logged is read in portions, by each listener for itself and at its own pace. Of a run that goes on in
another process somebody has to look again and again: one task per run, however many listen, puts what is new into a hub
of its own. It begins where the log stood when the first listener came, and each listener reads up to there by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Final

from belljar.audit.events import RunFinished
from belljar.errors import HostFault
from belljar.identity import RunId
from belljar.jobs.found import Batch, Found
from belljar.jobs.hub import SEQ_BITS, Hub, id_of
from belljar.streaming import ResultEvent, StreamEvent, told
from belljar.tasks import stopped

__all__ = ["Following"]

_log = logging.getLogger("belljar")
LOOK_S: Final = 1.0
_BATCH: Final = 500
_CHARS_MAX: Final = 1 << 20


class _Tail:
    """A run of another process that somebody listens to: what came since `seq`."""

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.hub = Hub(_CHARS_MAX)
        self.task: asyncio.Task[None] | None = None
        self.users = 0


class Following:
    """Makes events of what the log has."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self._tails: dict[str, _Tail] = {}
        self.listeners = 0

    async def aclose(self) -> None:
        for tail in list(self._tails.values()):
            tail.hub.close()
            if tail.task is not None:
                await stopped(tail.task)

    async def events(self, run: str, after: int | None) -> AsyncGenerator[tuple[int, StreamEvent], None]:
        """As `Desk.events`."""
        state = await asyncio.to_thread(self._found.state, run)
        self.listeners += 1
        tail: _Tail | None = None
        try:
            if not state.is_open:
                async with contextlib.aclosing(self.logged(run, after, None)) as events:
                    async for event in events:
                        yield event
                return
            tail = await self._tail(run)
            tail.users += 1
            start, last = id_of(tail.seq), after or 0
            async with contextlib.aclosing(self.logged(run, after, start)) as events:
                async for event in events:
                    last = event[0]
                    yield event
            async with contextlib.aclosing(tail.hub.listen(max(last, start))) as news:
                async for event in news:
                    yield event
        finally:
            self.listeners -= 1
            if tail is not None:
                await self._leave(run, tail)

    async def logged(
        self, run: str, after: int | None, until: int | None
    ) -> AsyncGenerator[tuple[int, StreamEvent], None]:
        """What the log has of a run behind the id `after`, up to the id `until`."""
        seq = (after or 0) >> SEQ_BITS
        while until is None or id_of(seq) < until:
            batch = await asyncio.to_thread(self._found.batch, run, seq, _BATCH)
            for event in await self._told(run, batch):
                if until is not None and event[0] > until:
                    return
                yield event
            if batch.ended is not None or len(batch.records) < _BATCH:
                return
            seq = batch.records[-1].seq

    async def _told(self, run: str, batch: Batch) -> list[tuple[int, StreamEvent]]:
        events = ((id_of(record.seq), told(RunId(record.run), record.typed)) for record in batch.records)
        found = [(event_id, event) for event_id, event in events if event is not None]
        if batch.ended is not None and isinstance(batch.ended.typed, RunFinished):
            result = (await asyncio.to_thread(self._found.whole, run)).result
            if result is not None:
                found = [one for one in found if one[0] < id_of(batch.ended.seq)]
                found.append((id_of(batch.ended.seq), ResultEvent(result)))
        return found

    async def _tail(self, run: str) -> _Tail:
        if (tail := self._tails.get(run)) is None:
            seq = await asyncio.to_thread(self._found.head)
            tail = self._tails.setdefault(run, _Tail(seq))
            if tail.task is None:
                tail.task = asyncio.create_task(self._look(run, tail))
        return tail

    async def _leave(self, run: str, tail: _Tail) -> None:
        tail.users -= 1
        if not tail.users and tail.task is not None:
            self._tails.pop(run, None)
            await stopped(tail.task)

    async def _look(self, run: str, tail: _Tail) -> None:
        """Put what is new into the hub, until the run has ended."""
        while not tail.hub.closed:
            await asyncio.sleep(LOOK_S)
            try:
                # Asked before the log is read: what has ended by then has its end there.
                is_open = (await asyncio.to_thread(self._found.state, run)).is_open
                batch = await asyncio.to_thread(self._found.batch, run, tail.seq, _BATCH)
                events = await self._told(run, batch)
            except HostFault as fault:  # it is looked at again
                _log.warning("belljar: the events of %s cannot be read: %s", run, fault)
                continue
            for event_id, event in events:
                tail.hub.put(event, 0, event_id >> SEQ_BITS)
            if batch.records:
                tail.seq = batch.records[-1].seq
            if batch.ended is not None or (not is_open and len(batch.records) < _BATCH):
                tail.hub.close()
