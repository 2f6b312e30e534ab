"""Answers `coverage()`: what a run has read of each of its contexts so far, and shown to sub-models.

It is the account that the log and the result have, of this run and of child runs that have ended; nothing of any other.
Prompts are traced after they were answered (`shown`), so this waits a moment for those under way. There may be very
many ranges: they are united off the event loop, one question at a time, and each is charged; a reply has the first.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping, Sequence
from typing import Final

from belljar.broker.flood import Flood
from belljar.broker.shown import RANGE_COST_BYTES, Shown
from belljar.context import OpenDocument, Span
from belljar.heavy import off_loop
from belljar.protocol import Coverage, Covered, Extent
from belljar.spans import united

__all__ = ["Covering"]

# Of one context, and of all together: with both kinds some 64 KB, the least that a policy lets a body have.
_SPANS_MAX: Final = 100
_SPANS_TOTAL_MAX: Final = 2000
_PAIR: Final = struct.Struct("<QQ")


class Covering:
    """The view that one run has. `texts` are the indexes of its contexts in `documents`, in order; of those in `spans`
    only these ranges belong to the run."""

    def __init__(
        self,
        *,
        shown: Shown,
        flood: Flood,
        documents: Sequence[OpenDocument],
        texts: Sequence[int],
        spans: Mapping[int, Sequence[Span]],
    ) -> None:
        self._shown = shown
        self._flood = flood
        self._documents = documents
        self._texts = texts
        self._spans = spans
        self._turn = asyncio.Lock()  # the copies of one question at a time

    async def covered(self, coverage: Coverage) -> tuple[Covered, bytes]:
        """Answer one question.

        Raises:
            Refusal: `limits.output_flood`.
            HostFault: what was shown could not be traced or logged.
        """
        await self._shown.caught_up()
        spans_max = max(1, min(_SPANS_MAX, _SPANS_TOTAL_MAX // max(1, len(self._texts))))
        async with self._turn:
            complete = self._shown.complete
            ranges = {doc: self._shown.ranges(doc) for doc in self._texts}
            cost = RANGE_COST_BYTES * sum(len(read) + len(shown) for read, shown in ranges.values())
            self._flood.charge(cost)
            extents, parts = [], []
            for doc, (read, shown) in ranges.items():
                size = RANGE_COST_BYTES * (len(read) + len(shown))
                extent, part = await off_loop(size, self._of, doc, read, shown, spans_max)
                extents.append(extent)
                parts.append(part)
        return Covered(coverage.id, spans_max, complete, extents), b"".join(parts)

    def _of(self, doc: int, read: list[Span], shown: list[Span], spans_max: int) -> tuple[Extent, bytes]:
        """One context: its numbers, and the ranges that are told."""
        chars, first = self._place(doc)
        read, shown = united(read), united(shown)
        counts = (None, None) if first is None else (len(read), len(shown))
        extent = Extent(chars, _size(read), _size(shown), *counts)
        if first is None:
            return extent, b""
        told = read[:spans_max] + shown[:spans_max]
        return extent, b"".join(_PAIR.pack(start - first, stop - first) for start, stop in told)

    def _place(self, doc: int) -> tuple[int, int | None]:
        """How many characters the context has, and where its first one is; None if it consists of items."""
        document, spans = self._documents[doc].document, self._spans.get(doc)
        if spans is None:
            return document.chars, 0 if document.kind == "text" else None
        return _size(spans), spans[0][0] if len(spans) == 1 else None


def _size(ranges: Sequence[Span]) -> int:
    return sum(stop - start for start, stop in ranges)
