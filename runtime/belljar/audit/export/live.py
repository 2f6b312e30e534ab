"""The spans of a run that is under way: each is due once it has ended, since nothing of it changes after that.

They are those that an export of the whole run has, with the same ids. So whoever sends them and is not sure that they
arrived sends them again, and what was sent here and what is exported later are one trace.

Only the records that spans are made of are kept, and no text: `records` says how many these are, for whoever has to
bound them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from belljar.audit.events import (
    AnswerGiven,
    AnswerVoid,
    CellFinished,
    CellStarted,
    QueryCompleted,
    QueryDenied,
    QueryFailed,
    QueryRequested,
    QueryReused,
    RunAbandoned,
    RunFinished,
    RunStarted,
)
from belljar.audit.export.otel import Span, spans
from belljar.audit.read import Record
from belljar.audit.trajectory import Contents, Trajectory
from belljar.identity import TraceParent

__all__ = ["LiveSpans"]

_OF_SPANS: Final = (
    RunStarted,
    CellStarted,
    CellFinished,
    QueryRequested,
    QueryCompleted,
    QueryFailed,
    QueryDenied,
    QueryReused,
    AnswerGiven,
    AnswerVoid,
    RunFinished,
    RunAbandoned,
)


class LiveSpans:
    """The spans of one run and of those below it.

    Args:
        caller: what the run is below, if that is known.

    Attributes:
        is_new: whether there may be something due.
        records: how many were kept.
    """

    def __init__(self, caller: TraceParent | None = None) -> None:
        self._caller = caller
        self._grown = Trajectory()
        self._taken: set[str] = set()
        self.is_new = False
        self.records = 0

    @property
    def ended(self) -> bool:
        """Whether its run has: then all that is due is all that there will be."""
        return self._grown.run is not None and self._grown.run.status is not None

    def feed(self, record: Record) -> None:
        """Its next record, of any kind."""
        if isinstance(record.typed, _OF_SPANS):
            self._grown.feed(record)
            self.is_new = True
            self.records += 1

    def due(self, contents: Contents | None = None) -> Iterator[Span]:
        """What has ended and was not taken yet, each behind what it is below, as far as that is due."""
        if self._grown.run is None:
            return
        found = False
        for span in spans(self._grown.run, contents, caller=self._caller, wanted=self._is_due):
            found = True
            yield span
        self.is_new = found  # until what was given has been taken

    def _is_due(self, span: str, ended: bool) -> bool:
        return ended and span not in self._taken

    def taken(self, span: Span) -> None:
        """It need not be sent again."""
        self._taken.add(span["spanId"])
