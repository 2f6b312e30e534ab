"""Which characters of its documents a tree of runs has read, and which a sub-model was shown, from the log alone.

`run.started` names the documents; `context.read` and `context.searched` hold the ranges that were given to the box;
`query.shown` the ranges that were found in prompts (see `attribution`). A character counts once. Ranges outside a
document, or of something that is not one (a list's directory), do not count; nor does anything after a run's end, or
what names a run's documents a second time.

The documents are those of the tree's first run. A child run's context is a part of one of its parent's documents, of
the same digest, and counts there; or a text that a program made, and then nothing of it counts.

Read means: these bytes were given to the box. Shown means: these bytes stood in a prompt that a model answered.
Neither says that anything was done with them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

import msgspec

from belljar.audit.events import (
    AccessChanged,
    AnswerGiven,
    AnswerVoid,
    BoxStarted,
    CanarySeen,
    CellFinished,
    CellStarted,
    ContentsErased,
    ContextData,
    ContextRead,
    ContextSearched,
    HookChanged,
    HookDelivered,
    HttpRequest,
    KeyChanged,
    LogAccepted,
    LogRead,
    QueryCompleted,
    QueryDenied,
    QueryFailed,
    QueryRequested,
    QueryReused,
    QueryShown,
    QuotaChanged,
    RequestRefused,
    RunAbandoned,
    RunFinished,
    RunStarted,
    ServiceChanged,
)
from belljar.audit.read import Record
from belljar.audit.trees import parent_of
from belljar.spans import Spans, share

__all__ = [
    "Coverage",
    "Document",
    "DocumentCoverage",
    "Documents",
    "Ranges",
    "characters_read",
    "coverage",
    "ranges_of",
]

_RANGES_MAX = 1000


class Ranges(msgspec.Struct, frozen=True):
    """`count` ranges of characters, of which `first` are the first few."""

    count: int
    first: list[tuple[int, int]]


class DocumentCoverage(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to one document. All counts are in characters; shares are from 0 to 1, rounded down."""

    name: str
    kind: str
    sha256: str
    chars: int
    read_chars: int
    shown_chars: int
    read_share: float
    shown_share: float
    never_read: Ranges
    never_shown: Ranges


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to all documents of a run, in it and in the runs below it; the totals are sums.

    Attributes:
        untraced: how many `query.shown` records say that the search was incomplete: more may have been shown.
    """

    documents: list[DocumentCoverage]
    chars: int
    read_chars: int
    shown_chars: int
    read_share: float
    shown_share: float
    untraced: int


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A document of one run: what that run, and those below it, read of it and showed.

    Attributes:
        number: by it the run's records name the document.
        part: of a child, which part of the document it was given; in items where `of_items`, else in characters.
    """

    number: int
    name: str
    kind: str
    sha256: str
    chars: int
    part: tuple[int, int] | None
    of_items: bool
    read: Spans
    shown: Spans


def coverage(records: Iterable[Record], *, ranges_max: int = _RANGES_MAX) -> Coverage:
    """What the records of a tree of runs say, of which the first is the first run's, and each run's after its parent's.

    At most `ranges_max` ranges are listed of each kind.
    """
    documents = Documents()
    for record in records:
        documents.feed(record)
    return documents.coverage(ranges_max)


class Documents:
    """The documents of each run of a tree. `feed` takes its records: the first run's first, each run's in order."""

    def __init__(self) -> None:
        # Each document of a run comes with the same one of the runs above it, in which it counts, too.
        self._first: dict[int, list[Document]] = {}
        self._untraced = 0
        self._of_run: dict[str, dict[int, list[Document]]] = {}
        self._ended: set[str] = set()

    def of(self, run: str) -> list[Document]:
        """Those of one run, in the order in which it has them."""
        return [same[0] for same in self._of_run.get(run, {}).values()]

    def coverage(self, ranges_max: int = _RANGES_MAX) -> Coverage:
        """What happened to those of the first run so far. At most `ranges_max` ranges are listed of each kind."""
        found = [_of(same[0], ranges_max) for same in self._first.values()]
        chars, read, shown = (
            sum(getattr(one, name) for one in found) for name in ("chars", "read_chars", "shown_chars")
        )
        return Coverage(
            documents=found,
            chars=chars,
            read_chars=read,
            shown_chars=shown,
            read_share=share(read, chars),
            shown_share=share(shown, chars),
            untraced=self._untraced,
        )

    def feed(self, record: Record) -> None:
        if record.run in self._ended:
            return
        if not self._of_run:
            self._of_run[record.run] = self._first
        match record.typed:
            case RunStarted() as started:
                self._start(record.run, started)
            case RunFinished() | RunAbandoned():
                self._ended.add(record.run)
            case ContextRead() | ContextSearched() | QueryShown() as event:
                _count(event, self._of_run.get(record.run, {}).get(event.doc, ()))
                self._untraced += isinstance(event, QueryShown) and not event.complete
            case BoxStarted() | CellStarted() | CellFinished() | AnswerGiven() | AnswerVoid():
                pass
            case (
                QueryRequested()
                | QueryDenied()
                | QueryCompleted()
                | QueryFailed()
                | QueryReused()
                | RequestRefused()
                | CanarySeen()
                | QuotaChanged()
                | LogAccepted()
                | KeyChanged()
                | ContentsErased()
                | LogRead()
                | ServiceChanged()
                | HttpRequest()
                | AccessChanged()
                | HookChanged()
                | HookDelivered()
            ):
                pass
            case _:
                assert_never(record.typed)

    def _start(self, run: str, started: RunStarted) -> None:
        mine = self._of_run.setdefault(run, {})
        above = {} if mine is self._first else self._of_run.get(parent_of(run) or "", {})
        for context in started.contexts:
            given = (same for same in above.values() if context.part is not None and same[0].sha256 == context.sha256)
            mine.setdefault(context.text, [_document(context), *next(given, ())])


def characters_read(records: Iterable[Record], *, doc: int = 0) -> int:
    """How many different characters of document `doc` were given to the box."""
    spans = Spans()
    for record in records:
        if isinstance(event := record.typed, ContextRead | ContextSearched) and event.doc == doc:
            for start, stop in ranges_of(event):
                spans.add(start, stop)
    return spans.covered


def _document(context: ContextData) -> Document:
    return Document(
        number=context.text,
        name=context.name,
        kind=context.kind,
        sha256=context.sha256,
        chars=context.chars,
        part=context.part,
        of_items=context.directory is not None,
        read=Spans(),
        shown=Spans(),
    )


def _count(event: ContextRead | ContextSearched | QueryShown, documents: Iterable[Document]) -> None:
    for document in documents:
        spans = document.shown if isinstance(event, QueryShown) else document.read
        for start, stop in ranges_of(event):
            spans.add(start, min(stop, document.chars))


def ranges_of(event: ContextRead | ContextSearched | QueryShown) -> list[tuple[int, int]]:
    """The ranges of characters that a record names."""
    if isinstance(event, ContextRead) and event.spans is None:
        assert event.start is not None
        assert event.stop is not None
        return [(event.start, event.stop)]
    return event.spans or []  # many small reads share a record


def _of(document: Document, ranges_max: int) -> DocumentCoverage:
    chars, read, shown = document.chars, document.read.covered, document.shown.covered
    return DocumentCoverage(
        name=document.name,
        kind=document.kind,
        sha256=document.sha256,
        chars=chars,
        read_chars=read,
        shown_chars=shown,
        read_share=share(read, chars),
        shown_share=share(shown, chars),
        never_read=_first(document.read.missing(chars), ranges_max),
        never_shown=_first(document.shown.missing(chars), ranges_max),
    )


def _first(ranges: list[tuple[int, int]], ranges_max: int) -> Ranges:
    return Ranges(len(ranges), ranges[:ranges_max])
