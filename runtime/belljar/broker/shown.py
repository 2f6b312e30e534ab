"""What a run has read of its contexts, and what of it reached a sub-model: for the log, and for the result.

Reads are known as they happen. Which parts of the documents a prompt is made of is found out afterwards, in the process
that searches (`context.tracing`), for each prompt that was answered: it is looked for in what the run has read. Nobody
waits for it but the end of the run, and who asks faster than it can be traced: at most so many bytes of prompts wait.

The same text may stand at many places, and a prompt does not tell from which it was taken. So at the end of the run,
when all prompts are known, what was found too often at one place is made good at others (`context.repeats`).

The log gets ranges of characters, never text. What could not be traced in time is counted, and then counts as not
shown: the account errs on that side alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from belljar.audit import JSON, AuditLog
from belljar.broker.run import RunScope
from belljar.context import OpenDocument, Searcher, Tracked
from belljar.errors import HostFault, Refusal
from belljar.spans import Spans

__all__ = ["Coverage", "Shown"]

_WAITING_BYTES_MAX: Final = 64 * 2**20
_GROUP_BYTES_MAX: Final = 8 * 2**20
_DEADLINE_S: Final = 10.0
_SPANS_LOGGED_MAX: Final = 1000
# Ranges are looked through from the latest one back; so many are kept in their order, the rest merged.
_RECENT_MAX: Final = 2000
# What was found is kept as often as it was, until it is this many ranges.
_FOUND_MAX: Final = 1 << 17


class Coverage(msgspec.Struct, frozen=True):
    """Characters of all contexts together: how many there are, were read, and were shown to sub-models."""

    chars: int
    read: int
    shown: int


class _Text:
    """What is known of one document."""

    def __init__(self, opened: OpenDocument) -> None:
        self.opened = opened
        self.read = Spans()
        self.shown = Spans()
        self.recent: list[tuple[int, int]] = []
        self.found: list[tuple[int, int]] = []

    @property
    def is_settled(self) -> bool:
        """Whether nothing was found twice, or all is known to be shown."""
        shown = self.shown.covered
        return sum(stop - start for start, stop in self.found) == shown or shown == self.read.covered

    def find(self, start: int, stop: int) -> None:
        """A prompt has this."""
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
        if len(self.recent) > 2 * _RECENT_MAX:  # seldom: all of `read` is put in order for it
            self.recent = [*self.read, *self.recent[-_RECENT_MAX // 2 :]][-_RECENT_MAX:]


class Shown:
    """One run's account. `texts` are the places of its texts in `documents`; directories do not count."""

    def __init__(
        self,
        scope: RunScope,
        *,
        audit: AuditLog,
        searcher: Searcher,
        documents: Sequence[OpenDocument],
        texts: Sequence[int],
    ) -> None:
        self._scope = scope
        self._audit = audit
        self._searcher = searcher
        self._texts: Mapping[int, _Text] = {doc: _Text(documents[doc]) for doc in texts}
        self._waiting: list[tuple[int, bytes]] = []
        self._waiting_bytes = 0
        self._cell = 0
        self._tracing: asyncio.Task[None] | None = None

    @property
    def coverage(self) -> Coverage:
        texts = self._texts.values()
        return Coverage(
            chars=sum(text.opened.document.chars for text in texts),
            read=sum(text.read.covered for text in texts),
            shown=sum(text.shown.covered for text in texts),
        )

    def read(self, doc: int, start: int, stop: int) -> None:
        """Characters [start, stop) went into the box."""
        if doc in self._texts:
            self._texts[doc].take(start, stop)

    async def prompt(self, cell: int, prompt: str) -> None:
        """A sub-model has answered this. Returns at once, unless too many wait to be traced."""
        if not any(text.recent for text in self._texts.values()):
            return
        data = prompt.encode()
        self._waiting.append((cell, data))
        self._waiting_bytes += len(data)
        if self._tracing is None or self._tracing.done():
            self._tracing = asyncio.create_task(self._trace_all())
        while self._waiting_bytes > _WAITING_BYTES_MAX and not self._tracing.done():
            await asyncio.wait([self._tracing], timeout=0.05)

    async def settled(self) -> None:
        """Return when everything is traced and stands in the log.

        Raises:
            AuditUnavailable: it could not be written.
        """
        if self._tracing is not None:
            await self._tracing
        await self._make_good()

    async def _trace_all(self) -> None:
        while self._waiting:
            cell = self._waiting[0][0]
            group: list[bytes] = []
            while self._waiting and self._waiting[0][0] == cell and sum(map(len, group)) < _GROUP_BYTES_MAX:
                group.append(self._waiting.pop(0)[1])
            await self._trace(cell, group)
            self._waiting_bytes -= sum(map(len, group))

    async def _trace(self, cell: int, prompts: list[bytes]) -> None:
        # The latest reads are the likeliest.
        tracked = [
            Tracked(doc, text.opened.folder, text.recent[::-1]) for doc, text in self._texts.items() if text.recent
        ]
        try:
            found, complete = await self._searcher.trace(prompts, tracked, deadline_s=_DEADLINE_S)
        except (Refusal, HostFault):
            found, complete = [], False
        self._cell = cell
        await self._note(tracked[0].doc, found, complete=complete)
        if sum(len(text.found) for text in self._texts.values()) > _FOUND_MAX:
            await self._make_good()

    async def _make_good(self) -> None:
        """Count other places of what was found twice at one. Then it is forgotten how often."""
        texts = {doc: text for doc, text in self._texts.items() if text.read.covered}
        if all(text.is_settled for text in texts.values()):
            return
        tracked = [Tracked(doc, text.opened.folder, [*text.read], text.found) for doc, text in texts.items()]
        try:
            found, complete = await self._searcher.repeats(tracked, deadline_s=_DEADLINE_S)
        except (Refusal, HostFault):
            found, complete = [], False
        await self._note(tracked[0].doc, found, complete=complete)
        for text in texts.values():
            text.found = [*text.shown]

    async def _note(self, first: int, found: list[tuple[int, int, int]], *, complete: bool) -> None:
        by_doc: dict[int, list[list[int]]] = {first: []} if not complete else {}
        for doc, start, stop in found:
            self._texts[doc].find(start, stop)
            by_doc.setdefault(doc, []).append([start, stop])
        for doc, spans in by_doc.items():
            for at in range(0, max(1, len(spans)), _SPANS_LOGGED_MAX):
                about: dict[str, JSON] = {"cell": self._cell, "doc": doc, "spans": spans[at : at + _SPANS_LOGGED_MAX]}
                if not complete:
                    about["complete"] = False
                await self._audit.note("query.shown", self._scope.run, about)
