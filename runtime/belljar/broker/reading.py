"""A run's reads and searches: permitted, charged, logged, answered.

Kept here: how many bytes the run has read (what was asked for, and what that was charged as) and gone through in
searches, beside what the ledger is charged (`reads`) and the gathered records (`readlog`). A read is charged and logged
before its reply leaves. A search is charged for what it goes through, whether it finds anything or not, and then as a
read for what comes out. One search runs at a time; reads go on meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from typing import Final as Const

import msgspec

from belljar.audit import AuditLog
from belljar.audit.events import ContextSearched
from belljar.broker.keeping import NOTHING_KEPT, Kept
from belljar.broker.readlog import ReadLog
from belljar.broker.reads import Reads
from belljar.broker.run import RunScope
from belljar.broker.shown import SPANS_LOGGED_MAX, Shown
from belljar.context import OpenDocument, Part, Span, view_of, within
from belljar.errors import PolicyDenied, ProtocolViolation, QuotaExceeded
from belljar.heavy import off_loop
from belljar.ledger import Ledger, Remaining
from belljar.protocol import Data, Found, Read, Search
from belljar.search import Question, Searcher
from belljar.search.hits import OF_ITEMS

__all__ = ["Reading"]

# A read of one character still costs a record in the log, so it is charged as this many bytes.
_READ_COST_BYTES_MIN: Const = 1024
# A search has a record of its own, some 500 bytes, whatever it finds.
_SEARCH_COST_BYTES_MIN: Const = 8 * 1024
# Patterns are written by hand, or are a few hundred names joined by bars.
_PATTERN_BYTES_MAX: Const = 64 * 1024


class Reading:
    """One run's reads and searches. `count` is how many were answered, `read_bytes` what came out.

    `texts` are the indexes in `documents` of what can be searched; of those in `spans` only these ranges belong to the
    run. Await `flush` before anything else of the run is
    logged, and `settled` at its end.
    """

    def __init__(
        self,
        scope: RunScope,
        *,
        audit: AuditLog,
        ledger: Ledger,
        documents: Sequence[OpenDocument],
        texts: Sequence[int],
        searcher: Searcher,
        shown: Shown,
        spans: Mapping[int, Sequence[Span]],
    ) -> None:
        self._scope = scope
        self._policy = scope.policy
        self._spans = spans
        self._audit = audit
        self._documents = documents
        self._texts = frozenset(texts)
        self._searcher = searcher
        self._shown = shown
        # One search at a time: a run that wants more at once must not take the searcher from other runs.
        self._searching = asyncio.Lock()
        self._reads = Reads(scope, ledger)
        self._log = ReadLog(scope.run, audit, scope.keeper)
        self._searched_bytes = 0
        self._read_cost_bytes = 0
        self.count = 0
        self.read_bytes = 0

    async def flush(self) -> None:
        """Log the reads that are gathered."""
        await self._log.flush()

    async def settled(self) -> None:
        """Charge exactly what was read.

        Raises:
            LedgerUnavailable: it could not be written.
        """
        await self._reads.settled()

    def left_bytes(self, left: Remaining) -> int:
        """What this run may still read, by its policy or by its tenant's quota, whichever is less."""
        of_run = max(0, self._policy.context.read_total_bytes_max - self._read_cost_bytes)
        return of_run if left.read_bytes is None else min(of_run, left.read_bytes + self._reads.held)

    async def read(self, read: Read, cell: int) -> tuple[Data, bytes | memoryview]:
        """Answer a read by cell number `cell`."""
        document = self._document(read.doc)
        if not read.start <= read.stop <= document.document.chars:
            raise PolicyDenied(
                f"characters {read.start} to {read.stop} are not in the document; it has {document.document.chars}",
                code="read.out_of_range",
                limit=document.document.chars,
                observed=read.stop,
            )
        self._permit_place(read.doc, read.start, read.stop)
        # Characters first, so that an absurd range is refused before its bytes are looked up.
        self._permit_read(read.stop - read.start)
        data = document.read(read.start, read.stop)
        self._permit_read(len(data))
        await self._charge(len(data))
        await self._log.add(cell, read.line, read.doc, read.start, read.stop, data)
        self._shown.read(read.doc, read.start, read.stop)
        return Data(read.id), data

    async def search(self, search: Search, body: bytes, cell: int) -> tuple[Found, bytes]:
        """Answer a search by cell number `cell`, when its turn has come."""
        async with self._searching:
            return await self._search(search, body, cell)

    async def _search(self, search: Search, body: bytes, cell: int) -> tuple[Found, bytes]:
        question = self._question(search, body)
        before = self._searched_bytes
        deadline_s = self._permit_search(question, search.doc)
        found = await self._searcher.ask(question, deadline_s=deadline_s)
        if search.mode != "lines" and found.next is not None:  # the rest was not gone through
            size = self._bytes_between(search.doc, question.start, found.next)
            self._searched_bytes = before + max(size, _READ_COST_BYTES_MIN)
        self._permit_read(len(found.body))
        await self._charge(len(found.body), _SEARCH_COST_BYTES_MIN)
        kept = await self._kept(found.text(search.mode))
        first = ContextSearched(
            cell=cell,
            line=search.line,
            doc=search.doc,
            mode=search.mode,
            start=search.start,
            stop=search.stop,
            pattern_sha256=hashlib.sha256(body).hexdigest(),
            count=found.count,
            spans=[],
            content=kept.name,
        )
        more = ContextSearched(cell=cell, doc=search.doc, spans=[])
        # The log says which characters came out, with a record for every so many matches.
        spans = found.spans(search.mode)
        for at in range(0, max(1, len(spans)), SPANS_LOGGED_MAX):
            part = [(start, stop) for start, stop in spans[at : at + SPANS_LOGGED_MAX]]
            searched = msgspec.structs.replace(more if at else first, spans=part)
            if (job := None if at else kept.job) is None:
                await self._audit.note(self._scope.run, searched)
            else:
                await self._audit.append(self._scope.run, searched, beside=job)
            for start, stop in part:
                self._shown.read(search.doc, start, stop)
            await asyncio.sleep(0)  # others get their turn in between
        return Found(search.id, found.count, found.next, found.groups, found.names), found.body

    async def _kept(self, text: bytes | memoryview) -> Kept:
        """What a search gave, if there is any."""
        return await off_loop(len(text), self._scope.keeper.keep, "reads", text) if text else NOTHING_KEPT

    def _document(self, doc: int) -> OpenDocument:
        if doc >= len(self._documents):
            raise PolicyDenied(f"there is no document {doc}", code="read.no_document")
        return self._documents[doc]

    def permit_part(self, doc: int, part: Part) -> None:
        """Whether a child may have this part: it may read no more than the run itself. Raises PolicyDenied."""
        if doc in self._spans:
            for start, stop in view_of(self._documents[doc], part).text:
                self._permit_place(doc, start, stop)

    def _permit_place(self, doc: int, start: int, stop: int) -> None:
        """Of a document of which the run has a part, only that may be read or searched."""
        spans = self._spans.get(doc)
        if spans is not None and not within((start, max(start, stop)), spans):
            raise PolicyDenied(
                f"characters {start} to {stop} of the document are not in the run's part: read what `context` has",
                code="read.out_of_range",
            )

    async def _charge(self, size: int, least: int = _READ_COST_BYTES_MIN) -> None:
        cost = max(size, least)
        await self._reads.charge(cost)
        self.count += 1
        self.read_bytes += size
        self._read_cost_bytes += cost

    def _question(self, search: Search, body: bytes) -> Question:
        document = self._document(search.doc)
        of_items = search.mode in OF_ITEMS and document.document.kind == "text"
        if search.doc not in self._texts or of_items:
            raise PolicyDenied(
                "a directory of items cannot be searched, nor a text item by item: search the text, or read it",
                code="search.no_text",
            )
        # An item is a text of its own, whatever is said to be before it.
        first = search.start if search.mode in OF_ITEMS else min(search.first, search.start)
        self._permit_place(search.doc, first, min(search.stop, document.document.chars))
        if search.mode == "lines" and search.doc in self._spans:
            raise PolicyDenied("lines of a part are not numbered: read it, or search it", code="read.out_of_range")
        if len(body) > _PATTERN_BYTES_MAX:
            raise PolicyDenied(
                f"a pattern of {len(body)} bytes is over the limit of {_PATTERN_BYTES_MAX}: search for less at once",
                code="search.pattern",
                limit=_PATTERN_BYTES_MAX,
                observed=len(body),
            )
        try:
            pattern = body.decode("utf-8")
        except UnicodeDecodeError:
            raise ProtocolViolation("a pattern that is not UTF-8") from None
        longest = min(self._policy.context.read_bytes_max, self._policy.wire.body_bytes_max)
        return Question(
            folder=document.folder,
            mode=search.mode,
            pattern=pattern,
            start=search.start,
            stop=min(search.stop, document.document.lines if search.mode == "lines" else document.document.chars),
            limit=min(search.limit, self._policy.context.search_hits_max),
            bytes_max=longest,
            first=search.first,
        )

    def _bytes_between(self, doc: int, start: int, stop: int) -> int:
        """How many bytes a range of characters has."""
        document = self._documents[doc]
        chars = document.document.chars
        return max(0, document.byte_of(min(stop, chars)) - document.byte_of(min(start, chars)))

    def _permit_search(self, question: Question, doc: int) -> float:
        """Charge what the search goes through, whether it finds anything or not; return how many seconds it may take.

        Lines are found by the document's marks, so only what comes out is charged, as a read.
        """
        allowance = self._policy.context
        size = 0 if question.mode == "lines" else self._bytes_between(doc, question.start, question.stop)
        total = self._searched_bytes + max(size, _READ_COST_BYTES_MIN)
        if total > allowance.search_total_bytes_max:
            raise QuotaExceeded(
                f"the run may search {allowance.search_total_bytes_max} bytes in all and has searched "
                f"{self._searched_bytes}: search a smaller range, or keep what was found in variables",
                code="context.search_total",
                limit=allowance.search_total_bytes_max,
                observed=total,
            )
        self._searched_bytes = total
        return min(allowance.search_wall_s, self._scope.left_s())

    def _permit_read(self, size: int) -> None:
        allowance = self._policy.context
        longest = min(allowance.read_bytes_max, self._policy.wire.body_bytes_max)
        if size > longest:
            raise PolicyDenied(
                f"a read of {size} is over the policy's limit of {longest} bytes: read in smaller slices",
                code="context.read",
                limit=longest,
                observed=size,
            )
        total = self._read_cost_bytes + size
        if total > allowance.read_total_bytes_max:
            raise QuotaExceeded(
                f"the run may read {allowance.read_total_bytes_max} bytes in all and has read {self.read_bytes}: "
                "keep what you read in variables",
                code="context.read_total",
                limit=allowance.read_total_bytes_max,
                observed=total,
            )
