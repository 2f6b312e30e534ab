"""What a run has read of its contexts, and what of it reached a sub-model: for the log, and for the result.

Reads are known as they happen. Which parts of the documents a prompt consists of is found out afterwards, in the search
process (`attribution`), for each prompt that was answered, by looking for it in what the run has read. Two wait for
that: the end of the run, for at most `_END_S`; and a program that asks faster than prompts can be traced, as only so
many bytes of prompts may wait.

The same text may occur in many places, and a prompt does not tell from which it was taken. So at the end of the run,
when all prompts are known, what was found too often in one place is counted in others (`attribution.repeats`).

The log gets ranges of characters, never text. If some could not be traced in time the log says so, and it counts as not
shown: the figures err only on that side. They also do if reads are scattered over very many places, as not all of these
are kept here; the log has them all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from belljar.audit import AuditLog
from belljar.audit.events import QueryShown
from belljar.broker.run import RunScope
from belljar.context import OpenDocument
from belljar.errors import HostFault, Refusal
from belljar.heavy import off_loop
from belljar.search import Searcher, Tracked
from belljar.spans import Spans, united
from belljar.tasks import stopped

__all__ = ["RANGE_COST_BYTES", "SPANS_LOGGED_MAX", "Shown", "Totals"]

_WAITING_BYTES_MAX: Final = 64 * 2**20
_GROUP_BYTES_MAX: Final = 8 * 2**20
_DEADLINE_S: Final = 5.0
# How long a run's end waits at most.
_END_S: Final = 10.0
# And a program that asks how far it is.
_LOOK_S: Final = 1.0
# Per record of the log: two numbers each.
SPANS_LOGGED_MAX: Final = 1000
# Ranges are looked through from the latest one back: this many one by one, then as many of the rest, merged.
_RECENT_MAX: Final = 2000
# Per document, that do not touch. Sorting this many takes some 20 ms.
_RANGES_MAX: Final = 1 << 17
# What it costs to unite one range with others (some 0.2 µs), in bytes looked at: a frame of 1 KiB takes 16 µs.
RANGE_COST_BYTES: Final = 16
# What was found is kept as often as it was found, until it has grown by this many ranges.
_FOUND_MAX: Final = 1 << 17


class Totals(msgspec.Struct, frozen=True):
    """Characters of all contexts together: how many there are, were read, and were shown to sub-models."""

    chars: int
    read: int
    shown: int


class _Text:
    """What is known about one document."""

    def __init__(self, opened: OpenDocument) -> None:
        self.opened = opened
        self.read = Spans(ranges_max=_RANGES_MAX)
        self.shown = Spans(ranges_max=_RANGES_MAX)
        # What child runs read and were shown: it is in their part of the log.
        self.read_below = Spans(ranges_max=_RANGES_MAX)
        self.shown_below = Spans(ranges_max=_RANGES_MAX)
        self.recent: list[tuple[int, int]] = []
        self.found: list[tuple[int, int]] = []

    @property
    def all_spans(self) -> tuple[Spans, Spans, Spans, Spans]:
        return self.read, self.shown, self.read_below, self.shown_below

    @property
    def is_settled(self) -> bool:
        """Whether nothing was found twice, or all that was read is known to be shown."""
        shown = self.shown.covered
        return sum(stop - start for start, stop in self.found) == shown or shown == self.read.covered

    def find(self, start: int, stop: int) -> None:
        """A prompt contains this."""
        self.shown.add(start, stop)
        if self.found and self.found[-1][1] == start:
            self.found[-1] = (self.found[-1][0], stop)
        else:
            self.found.append((start, stop))

    def take(self, start: int, stop: int) -> None:
        self.read.add(start, stop)
        if self.recent and self.recent[-1][1] == start:
            self.recent[-1] = (self.recent[-1][0], stop)
            return
        self.recent.append((start, stop))
        if len(self.recent) > 2 * _RECENT_MAX:
            del self.recent[:_RECENT_MAX]

    def likeliest_first(self) -> list[tuple[int, int]]:
        """Where to look for a prompt: in what was read last, then in the rest."""
        return [*self.recent[: -_RECENT_MAX - 1 : -1], *[*self.read][-_RECENT_MAX:]]

    async def everything(self) -> list[tuple[int, int]]:
        """Where a program may have text from: what the run has read, and child runs, whose answers may have it."""
        ranges = self.read.unsorted() + self.read_below.unsorted()
        return await off_loop(RANGE_COST_BYTES * len(ranges), united, ranges)


def _covered(own: Spans, below: Spans) -> int:
    """How many characters are in either."""
    if not below.covered:
        return own.covered
    both = Spans(ranges_max=_RANGES_MAX)
    for start, stop in (*own, *below):
        both.add(start, stop)
    return both.covered


class Shown:
    """What one run has read and shown. `texts` are the indexes of its texts in `documents`; directories do not count.

    `settled` takes `end_s` seconds at most.
    """

    def __init__(
        self,
        scope: RunScope,
        *,
        audit: AuditLog,
        searcher: Searcher,
        documents: Sequence[OpenDocument],
        texts: Sequence[int],
        end_s: float = _END_S,
    ) -> None:
        self._scope = scope
        self._end_s = end_s
        self._audit = audit
        self._searcher = searcher
        self._texts: Mapping[int, _Text] = {doc: _Text(documents[doc]) for doc in texts}
        self._waiting: list[tuple[int, bytes]] = []
        self._waiting_bytes = 0
        self._cell = 0
        self._found_max = _FOUND_MAX
        self._missed = False  # something could not be traced
        self._tracing: asyncio.Task[None] | None = None
        self._fault: HostFault | None = None

    @property
    def coverage(self) -> Totals:
        texts = self._texts.values()
        return Totals(
            chars=self.chars,
            read=sum(_covered(text.read, text.read_below) for text in texts),
            shown=sum(_covered(text.shown, text.shown_below) for text in texts),
        )

    @property
    def chars(self) -> int:
        """Of all contexts together; a part that a child run was given counts as the document that it is of."""
        return sum(text.opened.document.chars for text in self._texts.values())

    async def carried(self, prompt: bytes | memoryview) -> tuple[int, bool]:
        """How many characters of the contexts are in this prompt, and whether that is certainly all.

        Raises:
            HostFault: a document is damaged, or the search process was killed twice.
        """
        tracked = [
            Tracked(doc, text.opened.folder, await text.everything())
            for doc, text in self._texts.items()
            if text.read.covered or text.read_below.covered
        ]
        if not tracked:
            return 0, True
        try:
            found, complete = await self._searcher.trace([bytes(prompt)], tracked, deadline_s=_DEADLINE_S)
        except Refusal:  # out of time or memory
            return 0, False
        carried = {one.doc: Spans(ranges_max=_RANGES_MAX) for one in tracked}
        for doc, start, stop in found:
            carried[doc].add(start, stop)
        known = not any(text.read.is_full or text.read_below.is_full for text in self._texts.values())
        return sum(spans.covered for spans in carried.values()), complete and known

    @property
    def complete(self) -> bool:
        """Whether nothing is known to be missing from the account so far."""
        behind = self._missed or (self._tracing is not None and not self._tracing.done())
        return not behind and not any(spans.is_full for text in self._texts.values() for spans in text.all_spans)

    async def caught_up(self) -> None:
        """Return when what was answered so far is traced, or else soon.

        Raises:
            HostFault: it could not be traced or logged.
        """
        if self._tracing is not None:
            await asyncio.wait([self._tracing], timeout=_LOOK_S)
        self._refuse_after_fault()

    def ranges(self, doc: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Of document `doc`, what was read and what was shown, by child runs as well: in any order, some twice."""
        text = self._texts[doc]
        return (
            text.read.unsorted() + text.read_below.unsorted(),
            text.shown.unsorted() + text.shown_below.unsorted(),
        )

    def read(self, doc: int, start: int, stop: int) -> None:
        """Characters [start, stop) went into the box."""
        if doc in self._texts:
            self._texts[doc].take(start, stop)

    def include(self, doc: int, child: Shown) -> None:
        """Count what a child run has read and shown of a part of document `doc`, which was all that it had."""
        mine = self._texts[doc]
        for text in child._texts.values():
            for spans, more in (
                (mine.read_below, (*text.read, *text.read_below)),
                (mine.shown_below, (*text.shown, *text.shown_below)),
            ):
                for start, stop in more:
                    spans.add(start, stop)

    async def prompt(self, cell: int, prompt: bytes | memoryview) -> None:
        """A sub-model has answered this. Returns at once, unless too many wait to be traced.

        Raises:
            HostFault: what was shown earlier could not be traced or logged.
        """
        if not any(text.recent for text in self._texts.values()):
            return
        data = bytes(prompt)  # a copy: the batch that it was part of need not be kept with it
        self._waiting.append((cell, data))
        self._waiting_bytes += len(data)
        self._refuse_after_fault()
        if self._tracing is None or self._tracing.done():
            self._tracing = self._scope.tasks.start(self._tracing_failed, self._trace_waiting)
        while self._waiting_bytes > _WAITING_BYTES_MAX and not self._tracing.done():
            await asyncio.wait([self._tracing], timeout=0.05)

    async def settled(self) -> None:
        """Return when everything is traced and logged, or, after some seconds, when the log says that not all is.

        Raises:
            AuditUnavailable: it could not be written.
        """
        try:
            async with asyncio.timeout(self._end_s):
                await self._traced()
                self._refuse_after_fault()
                await self._make_good()
        except TimeoutError:
            self._waiting.clear()
            await self._note(min(self._texts), [], complete=False)

    async def _traced(self) -> None:
        """Wait for the end of the tracing; when this wait is cut short, so is the tracing.

        Raises:
            TimeoutError: somebody stopped it before.
        """
        if self._tracing is not None:
            try:
                await asyncio.wait([self._tracing])
            finally:
                await stopped(self._tracing)
            if self._tracing.cancelled():
                raise TimeoutError

    def _tracing_failed(self, error: BaseException) -> None:
        if not isinstance(error, HostFault):
            cause, name = error, type(error).__name__
            error = HostFault(f"what was shown could not be traced because of an unexpected {name}: report it")
            error.__cause__ = cause
        self._fault = self._fault or error

    def _refuse_after_fault(self) -> None:
        if self._fault is not None:
            raise self._fault

    async def _trace_waiting(self) -> None:
        while self._waiting:
            group: list[bytes] = []
            size = 0
            while self._waiting and size < _GROUP_BYTES_MAX:
                self._cell, data = self._waiting.pop(0)
                group.append(data)
                size += len(data)
            await self._trace(group)
            self._waiting_bytes -= size

    async def _trace(self, prompts: list[bytes]) -> None:
        tracked = [
            Tracked(doc, text.opened.folder, text.likeliest_first()) for doc, text in self._texts.items() if text.recent
        ]
        try:
            found, complete = await self._searcher.trace(prompts, tracked, deadline_s=_DEADLINE_S)
        except Refusal:  # out of time or memory: what was not found is not claimed
            found, complete = [], False
        await self._note(tracked[0].doc, found, complete=complete)
        if sum(len(text.found) for text in self._texts.values()) > self._found_max:
            await self._make_good()

    async def _make_good(self) -> None:
        """Count other places of what was found twice in one; then forget how often it was found."""
        texts = {doc: text for doc, text in self._texts.items() if text.read.covered}
        if all(text.is_settled for text in texts.values()):
            return
        tracked = [Tracked(doc, text.opened.folder, [*text.read], text.found) for doc, text in texts.items()]
        try:
            found, complete = await self._searcher.repeats(tracked, deadline_s=_DEADLINE_S)
        except Refusal:  # out of time or memory: what was not found is not claimed
            found, complete = [], False
        await self._note(tracked[0].doc, found, complete=complete)
        for text in texts.values():
            text.found = [*text.shown]
        self._found_max = sum(len(text.found) for text in texts.values()) + _FOUND_MAX

    async def _note(self, first: int, found: list[tuple[int, int, int]], *, complete: bool) -> None:
        self._missed = self._missed or not complete
        by_doc: dict[int, list[tuple[int, int]]] = {first: []} if not complete else {}
        for doc, start, stop in found:
            by_doc.setdefault(doc, []).append((start, stop))
        for doc, spans in by_doc.items():
            for at in range(0, max(1, len(spans)), SPANS_LOGGED_MAX):
                part = spans[at : at + SPANS_LOGGED_MAX]
                shown = QueryShown(cell=self._cell, doc=doc, spans=part, complete=complete)
                await self._audit.note(self._scope.run, shown)
                for start, stop in part:
                    self._texts[doc].find(start, stop)
                await asyncio.sleep(0)  # others get their turn in between
