"""The runs of a log from the latest backwards, and one run's records in portions: no more is read than is shown.

A root's id begins with its time, so of two roots the one with the larger id began later. The next one is looked up in
the index of runs, past all those below it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

from belljar.audit.events import HOST_RUNS
from belljar.audit.read import Record, parsed, record_at
from belljar.audit.source import Log, Source, open_source, reading

__all__ = ["Pages", "open_pages"]

# Larger than any id of a run.
_END: Final = "\x7f"


@contextmanager
def open_pages(log: Log) -> Iterator[Pages]:
    """A log for the length of a block, all from one snapshot.

    Raises:
        InvalidInput: `audit.missing`: there is no log.
        AuditUnavailable: it cannot be read.
    """
    with reading(open_source(log)) as source:
        yield Pages(source)


class Pages:
    """Reads a log that is open. Its methods raise `VerificationFailed` for a record that is not valid."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def before(self, run: str | None) -> str | None:
        """The root with the largest id before this one, of all for None."""
        at = _END if run is None else run
        while True:
            found = self._source.before(at)
            if found is None:
                return None
            if found not in HOST_RUNS:
                return found.partition(".")[0]
            at = found

    def first(self, run: str) -> Record | None:
        """The first record of a run."""
        bounds = self._source.bounds_of(run)
        return None if bounds is None else record_at(self._source, bounds[0])

    def last(self, run: str) -> Record | None:
        """The last record of a run so far."""
        bounds = self._source.bounds_of(run)
        return None if bounds is None else record_at(self._source, bounds[1])

    def after(self, run: str, seq: int, limit: int) -> list[Record]:
        """The records of a run and of those below it with a higher number, in order, so many at most."""
        return [parsed(row) for row in islice(self._source.tree(run, after=seq), limit)]

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """What a SELECT gives, of the same snapshot."""
        return self._source.ask(statement, *values)
