"""Which characters of its documents a run has read, and which of them a sub-model was shown, from the log alone.

`run.started` names the documents; `context.read` and `context.searched` hold the ranges that were given to the box;
`query.shown` the ranges that were found in prompts (see `attribution`). A character counts once. What a log
says outside a document, or of a document that is none (a list's directory), does not count; nor does what it says after
the run's end or, of the run's documents, a second time.

Read means: these bytes were given to the box. Shown means: these bytes stood in a prompt that a model answered.
Neither says that anything was done with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from belljar.audit.grammar import ENDS
from belljar.audit.read import Record
from belljar.errors import VerificationFailed
from belljar.spans import Spans

__all__ = ["Coverage", "DocumentCoverage", "Ranges", "characters_read", "coverage", "percent"]

_RANGES_MAX = 1000
_READ = ("context.read", "context.searched")
_SHOWN = "query.shown"


class Ranges(msgspec.Struct, frozen=True):
    """`count` ranges of characters, of which `first` are the first few."""

    count: int
    first: list[tuple[int, int]]


class DocumentCoverage(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to one document. All numbers are characters; percentages are rounded down."""

    name: str
    kind: str
    sha256: str
    chars: int
    read_chars: int
    shown_chars: int
    read_percent: float
    shown_percent: float
    never_read: Ranges
    never_shown: Ranges


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to all documents of a run; the totals are sums.

    Attributes:
        untraced: how many `query.shown` records say that not all could be looked for: more may have been shown.
    """

    documents: list[DocumentCoverage]
    chars: int
    read_chars: int
    shown_chars: int
    read_percent: float
    shown_percent: float
    untraced: int


class _Document(msgspec.Struct, frozen=True):
    name: str
    kind: str
    sha256: str
    chars: int
    read: Spans
    shown: Spans


def coverage(records: Iterable[Record], *, ranges_max: int = _RANGES_MAX) -> Coverage:
    """What the records of one run say. At most `ranges_max` ranges are listed of each kind.

    Raises:
        VerificationFailed: a record has not the form that it should have.
    """
    documents: dict[int, _Document] = {}
    untraced = 0
    for record in records:
        try:
            if record.event == "run.started":
                documents = _documents(record.data) | documents
            elif record.event in ENDS:
                break
            elif record.event in _READ or record.event == _SHOWN:
                _count(record, documents)
                untraced += record.event == _SHOWN and not record.data.get("complete", True)
        except (KeyError, TypeError, ValueError) as error:
            raise VerificationFailed(
                f"record {record.seq} of the audit log is no {record.event} that can be understood ({error!r})"
            ) from None
    found = [_of(document, ranges_max) for document in documents.values()]
    chars, read, shown = (sum(getattr(one, name) for one in found) for name in ("chars", "read_chars", "shown_chars"))
    return Coverage(
        documents=found,
        chars=chars,
        read_chars=read,
        shown_chars=shown,
        read_percent=percent(read, chars),
        shown_percent=percent(shown, chars),
        untraced=untraced,
    )


def characters_read(records: Iterable[Record], *, doc: int = 0) -> int:
    """How many different characters of document `doc` were given to the box."""
    spans = Spans()
    for record in records:
        if record.event in _READ and record.data.get("doc") == doc:
            for start, stop in _ranges(record):
                spans.add(start, stop)
    return spans.covered


def percent(part: int, whole: int) -> float:
    """To four decimals, rounded down: 100.0 is all of it, and of nothing there is nothing."""
    return part * 10**6 // whole / 10**4 if whole else 0.0


def _documents(started: Mapping[str, Any]) -> dict[int, _Document]:
    """The texts of a run by their number. Logs of the first versions know one, under another name."""
    contexts = started.get("contexts")
    if contexts is None:
        old = started.get("context")
        contexts = [] if old is None else [{**old, "name": "context", "kind": "text", "text": 0}]
    return {
        int(context["text"]): _Document(
            str(context["name"]), str(context["kind"]), str(context["sha256"]), int(context["chars"]), Spans(), Spans()
        )
        for context in contexts
    }


def _count(record: Record, documents: Mapping[int, _Document]) -> None:
    document = documents.get(record.data["doc"])
    if document is None:
        return
    spans = document.shown if record.event == _SHOWN else document.read
    for start, stop in _ranges(record):
        spans.add(max(0, start), min(stop, document.chars))


def _ranges(record: Record) -> Iterator[tuple[int, int]]:
    data = record.data  # of reads, many small ones share a record
    spans = [(data["start"], data["stop"])] if record.event == "context.read" and "spans" not in data else data["spans"]
    for start, stop in spans:
        yield int(start), int(stop)


def _of(document: _Document, ranges_max: int) -> DocumentCoverage:
    chars, read, shown = document.chars, document.read.covered, document.shown.covered
    return DocumentCoverage(
        name=document.name,
        kind=document.kind,
        sha256=document.sha256,
        chars=chars,
        read_chars=read,
        shown_chars=shown,
        read_percent=percent(read, chars),
        shown_percent=percent(shown, chars),
        never_read=_first(document.read.missing(chars), ranges_max),
        never_shown=_first(document.shown.missing(chars), ranges_max),
    )


def _first(ranges: list[tuple[int, int]], ranges_max: int) -> Ranges:
    return Ranges(len(ranges), ranges[:ranges_max])
