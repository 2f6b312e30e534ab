"""Reads in the log: the first ones of a run one by one, then many in one record.

A record takes some 350 bytes, and a program may read single characters a million times. So after `SINGLE_MAX` reads
they are gathered, up to `JOINED_MAX` of them, and logged as the ranges that they cover. What is gathered is written
before anything else of the run is logged, so that the log keeps the order of events.

    {"cell":1,"line":3,"doc":0,"start":0,"stop":9}                       one read
    {"cell":1,"line":3,"doc":0,"reads":1000,"spans":[[0,9],[20,25]]}     many; the line is that of the first

Where the policy keeps what is read, that of single reads is kept, and of many it is not.

What is gathered when a host dies is lost to the log: such a run has read more than its log says, never less.
"""

from __future__ import annotations

from typing import Final

from belljar.audit import AuditLog
from belljar.audit.events import ContextRead
from belljar.broker.keeping import Keeper
from belljar.heavy import off_loop
from belljar.identity import RunId
from belljar.spans import Spans

__all__ = ["JOINED_MAX", "SINGLE_MAX", "ReadLog"]

SINGLE_MAX: Final = 1000
JOINED_MAX: Final = 1000


class ReadLog:
    """One run's reads. Await `flush` before anything else is logged of it."""

    def __init__(self, run: RunId, audit: AuditLog, keeper: Keeper) -> None:
        self._run = run
        self._audit = audit
        self._keeper = keeper
        self._reads = 0
        self._gathered = 0
        self._joined: dict[tuple[int, int], tuple[int, int, Spans]] = {}  # (cell, doc) -> first line, reads, ranges

    async def add(self, cell: int, line: int, doc: int, start: int, stop: int, data: bytes | memoryview) -> None:
        self._reads += 1
        if self._reads <= SINGLE_MAX:
            kept = await off_loop(len(data), self._keeper.keep, "reads", data)
            read = ContextRead(cell=cell, line=line, doc=doc, start=start, stop=stop, content=kept.name)
            if (job := kept.job) is None:
                await self._note(read)
            else:
                await self._audit.append(self._run, read, beside=job)
            return
        first, reads, spans = self._joined.get((cell, doc), (line, 0, Spans()))
        spans.add(start, stop)
        self._joined[cell, doc] = (first, reads + 1, spans)
        self._gathered += 1
        if self._gathered >= JOINED_MAX:
            await self.flush()

    async def flush(self) -> None:
        joined, self._joined, self._gathered = self._joined, {}, 0
        for (cell, doc), (line, reads, spans) in joined.items():
            gathered = "gathered" if self._keeper.keeps("reads") else None
            await self._note(ContextRead(cell=cell, line=line, doc=doc, reads=reads, spans=[*spans], content=gathered))

    async def _note(self, read: ContextRead) -> None:
        await self._audit.note(self._run, read)
