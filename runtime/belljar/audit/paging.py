"""The runs of a log from the latest backwards, and one run's records in portions: no more is read than is shown.

A root's id begins with its time, so of two roots the one with the larger id began later. The next one is looked up in
the index of runs, past all those below it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from belljar.audit.events import HOST_RUNS
from belljar.audit.log import RECORD_BYTES_MAX
from belljar.audit.read import Record, parse
from belljar.audit.source import Log, Source, open_source, reading
from belljar.errors import VerificationFailed
from belljar.identity import runs_below

__all__ = ["Pages", "open_pages"]

_BODY: Final = f"CASE WHEN length(body) <= {RECORD_BYTES_MAX} THEN body END"
_FIRST: Final = f"SELECT seq, {_BODY} FROM records WHERE run = ? ORDER BY seq LIMIT 1"  # noqa: S608 (constants)
_LAST: Final = f"SELECT seq, {_BODY} FROM records WHERE run = ? ORDER BY seq DESC LIMIT 1"  # noqa: S608 (constants)
_BEFORE: Final = "SELECT max(run) FROM records WHERE run < ?"
# Behind the dot comes the slash.
_TREE: Final = f"""SELECT seq, {_BODY} FROM records
    WHERE seq > ? AND (run = ? OR (run > ? AND run < ?)) ORDER BY seq LIMIT ?"""  # noqa: S608 (constants)
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
            found: str | None = self._source.ask(_BEFORE, at)[0][0]
            if found is None:
                return None
            if found not in HOST_RUNS:
                return found.partition(".")[0]
            at = found

    def first(self, run: str) -> Record | None:
        """The first record of a run."""
        return self._one(_FIRST, run)

    def last(self, run: str) -> Record | None:
        """The last record of a run so far."""
        return self._one(_LAST, run)

    def after(self, run: str, seq: int, limit: int) -> list[Record]:
        """The records of a run and of those below it with a higher number, in order, so many at most."""
        begun = self._source.ask("SELECT min(seq) FROM records WHERE run = ?", run)[0][0]
        if begun is None:
            return []
        found = self._source.ask(_TREE, max(seq, begun - 1), run, *runs_below(run), limit)
        return [_parsed(*row) for row in found]

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """What a SELECT gives, of the same snapshot."""
        return self._source.ask(statement, *values)

    def _one(self, statement: str, run: str) -> Record | None:
        found = self._source.ask(statement, run)
        return _parsed(*found[0]) if found else None


def _parsed(seq: int, body: object) -> Record:
    try:
        return parse(seq, body)
    except ValueError as error:
        raise VerificationFailed(f"record {seq} of the audit log {error}; verify the log") from None
