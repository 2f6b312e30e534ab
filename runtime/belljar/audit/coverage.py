"""Which characters of a document a run has read, from the log alone."""

from __future__ import annotations

from collections.abc import Iterable

from belljar.audit.read import Record

__all__ = ["characters_read"]


def characters_read(records: Iterable[Record], *, doc: int = 0) -> int:
    """How many different characters of document `doc` the `context.read` records cover. A character counts once."""
    spans = sorted(
        (int(record.data["start"]), int(record.data["stop"]))
        for record in records
        if record.event == "context.read" and record.data["doc"] == doc
    )
    covered, end = 0, 0
    for start, stop in spans:
        covered += max(0, stop - max(start, end))
        end = max(end, stop)
    return covered
