"""Which characters of its documents a run has read, and which of them a sub-model was shown, from the log alone.

`run.started` names the documents; `context.read` and `context.searched` hold the ranges that were given to the box;
`query.shown` the ranges that were found in prompts (see `attribution`). A character counts once. Ranges outside a
document, or of something that is not one (a list's directory), do not count; nor does anything after the run's end, or
what names a run's documents a second time.

Read means: these bytes were given to the box. Shown means: these bytes stood in a prompt that a model answered.
Neither says that anything was done with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import assert_never

import msgspec

from belljar.audit.events import (
    AnswerGiven,
    AnswerVoid,
    BoxStarted,
    CellFinished,
    CellStarted,
    ContextRead,
    ContextSearched,
    QueryCompleted,
    QueryDenied,
    QueryFailed,
    QueryRequested,
    QueryShown,
    QuotaChanged,
    RequestRefused,
    RunAbandoned,
    RunFinished,
    RunStarted,
)
from belljar.audit.read import Record
from belljar.spans import Spans, share

__all__ = ["Coverage", "DocumentCoverage", "Ranges", "characters_read", "coverage"]

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
    """What happened to all documents of a run; the totals are sums.

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


class _Document(msgspec.Struct, frozen=True):
    name: str
    kind: str
    sha256: str
    chars: int
    read: Spans
    shown: Spans


def coverage(records: Iterable[Record], *, ranges_max: int = _RANGES_MAX) -> Coverage:
    """What the records of one run say. At most `ranges_max` ranges are listed of each kind."""
    documents: dict[int, _Document] = {}
    untraced = 0
    for record in records:
        match record.typed:
            case RunStarted() as started:
                documents = _documents(started) | documents
            case RunFinished() | RunAbandoned():
                break
            case ContextRead() | ContextSearched() | QueryShown() as event:
                _count(event, documents)
                untraced += isinstance(event, QueryShown) and not event.complete
            case BoxStarted() | CellStarted() | CellFinished() | AnswerGiven() | AnswerVoid():
                pass
            case (
                QueryRequested() | QueryDenied() | QueryCompleted() | QueryFailed() | RequestRefused() | QuotaChanged()
            ):
                pass
            case _:
                assert_never(record.typed)
    found = [_of(document, ranges_max) for document in documents.values()]
    chars, read, shown = (sum(getattr(one, name) for one in found) for name in ("chars", "read_chars", "shown_chars"))
    return Coverage(
        documents=found,
        chars=chars,
        read_chars=read,
        shown_chars=shown,
        read_share=share(read, chars),
        shown_share=share(shown, chars),
        untraced=untraced,
    )


def characters_read(records: Iterable[Record], *, doc: int = 0) -> int:
    """How many different characters of document `doc` were given to the box."""
    spans = Spans()
    for record in records:
        if isinstance(event := record.typed, ContextRead | ContextSearched) and event.doc == doc:
            for start, stop in _ranges(event):
                spans.add(start, stop)
    return spans.covered


def _documents(started: RunStarted) -> dict[int, _Document]:
    """The texts of a run, by their index."""
    return {
        context.text: _Document(context.name, context.kind, context.sha256, context.chars, Spans(), Spans())
        for context in started.contexts
    }


def _count(event: ContextRead | ContextSearched | QueryShown, documents: Mapping[int, _Document]) -> None:
    document = documents.get(event.doc)
    if document is None:
        return
    spans = document.shown if isinstance(event, QueryShown) else document.read
    for start, stop in _ranges(event):
        spans.add(start, min(stop, document.chars))


def _ranges(event: ContextRead | ContextSearched | QueryShown) -> list[tuple[int, int]]:
    if isinstance(event, ContextRead) and event.spans is None:
        assert event.start is not None
        assert event.stop is not None
        return [(event.start, event.stop)]
    return event.spans or []  # many small reads share a record


def _of(document: _Document, ranges_max: int) -> DocumentCoverage:
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
