"""Does the log still say what it said?

`verify` recomputes every hash, demands the canonical bytes, and checks what a run may look like. It finds a changed
bit, a record that was removed from the middle, put in, or moved. It does **not** find a cut tail: the records that are
left are a perfect log. Nor does it find a log that was rewritten from some point on by someone who recomputed all
hashes after it. Both need something kept outside the file, such as the `head` of an earlier report: look for it among
the hashes of the records.
"""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from belljar.audit.read import Record, connect, is_in_use, parse, rows

__all__ = ["Report", "verify"]

_PROBLEMS_MAX = 100  # a reader needs the first; a log that was rewritten has millions
_NO_RECORD = "0" * 64
_OUTCOMES = ("completed", "failed", "denied")


class Report(msgspec.Struct, frozen=True):
    """What `verify` found.

    Attributes:
        records: how many there are.
        runs: how many runs they belong to.
        head: hex SHA-256 of the last record; 64 zeros for an empty log. Keep it elsewhere to find a cut tail.
        problems: one line each, with the number of the record; empty if the log is sound.
        unfinished: actions without an outcome in runs that have not ended: under way, or their host died.
    """

    records: int
    runs: int
    head: str
    problems: list[str]
    unfinished: list[str]

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(path: Path) -> Report:
    """Check the whole log, from one snapshot; it may be in use.

    Raises:
        InvalidInput: `audit.missing`: there is no log.
        AuditUnavailable: it cannot be opened.
    """
    was_in_use = is_in_use(path)
    report = _verify(path)
    if report.problems and not was_in_use and is_in_use(path):
        return _verify(path)  # a writer started while it was read as immutable
    return report


def _verify(path: Path) -> Report:
    checker = _Checker()
    with closing(connect(path)) as db:
        try:
            for seq, body, kept_hash in rows(db):
                checker.feed(seq, body, kept_hash)
        except sqlite3.Error as error:
            checker.problem(f"after record {checker.seq}: the file cannot be read: {error}")
    return checker.report()


class _Action(msgspec.Struct):
    kind: str
    seq: int
    ended: bool = False


class _Checker:
    """Takes the rows in order and remembers what later ones must fit."""

    def __init__(self) -> None:
        self.seq = 0
        self._records = 0
        self._head = _NO_RECORD
        self._problems: list[str] = []
        self._more = 0
        self._runs: set[str] = set()
        self._finished: set[str] = set()
        self._actions: dict[tuple[str, str], _Action] = {}
        self._cells: dict[str, object] = {}  # run -> the cell that has begun there and not ended

    def problem(self, line: str) -> None:
        if len(self._problems) < _PROBLEMS_MAX:
            self._problems.append(line)
        else:
            self._more += 1

    def feed(self, seq: int, body: object, kept_hash: object) -> None:
        if seq != self.seq + 1:
            self.problem(f"record {seq}: expected record {self.seq + 1}; what was between is gone")
        self.seq = seq
        self._records += 1
        digest = hashlib.sha256(body if isinstance(body, bytes) else b"").digest()
        if digest != kept_hash:
            self.problem(f"record {seq}: its bytes do not have the hash that was kept with them")
        try:
            record = parse(seq, body)
        except ValueError as error:
            self.problem(f"record {seq}: it {error}")
        else:
            self._follow(record)
        self._head = digest.hex()

    def _follow(self, record: Record) -> None:
        if record.prev != self._head:
            self.problem(f"record {record.seq}: it does not continue the record before it")
        self._runs.add(record.run)
        if record.event in ("cell.started", "cell.finished"):
            self._cell(record)
        kind, _, end = record.event.rpartition(".")
        if end == "requested":
            self._request(record, kind)
        elif end in _OUTCOMES:
            self._outcome(record, kind)
        elif record.event == "run.finished":
            self._finished.add(record.run)

    def _cell(self, record: Record) -> None:
        """The cells of a run come one after the other, and only one that runs can end."""
        cell = record.data.get("cell")
        running = self._cells.pop(record.run, None)
        if record.event == "cell.started":
            if running is not None:
                self.problem(f"record {record.seq}: cell {cell!a:.80} began while cell {running!a:.80} was not over")
            self._cells[record.run] = cell
        elif running != cell:
            self.problem(f"record {record.seq}: cell {cell!a:.80} ended, which was not running")

    def _request(self, record: Record, kind: str) -> None:
        action = self._action(record)
        if action is None:
            return
        if (record.run, action) in self._actions:
            self.problem(f"record {record.seq}: action {action[:80]!a} was requested before")
            return
        self._actions[record.run, action] = _Action(kind, record.seq)

    def _outcome(self, record: Record, kind: str) -> None:
        action = self._action(record)
        if action is None:
            return
        request = self._actions.get((record.run, action))
        if request is None or request.kind != kind:
            self.problem(f"record {record.seq}: {record.event} of action {action[:80]!a} that was not requested")
        elif request.ended:
            self.problem(f"record {record.seq}: a second outcome of action {action[:80]!a}")
        else:
            request.ended = True

    def _action(self, record: Record) -> str | None:
        action = record.data.get("action")
        if isinstance(action, str):
            return action
        if type(action) is int:
            return str(action)
        self.problem(f"record {record.seq}: {record.event} names no action")
        return None

    def report(self) -> Report:
        unfinished = []
        for (run, action), request in self._actions.items():
            if request.ended:
                continue
            line = f"record {request.seq}: {request.kind} action {action[:80]!a} of run {run[:80]!a} has no outcome"
            if run in self._finished:
                self.problem(f"{line}, and the run is finished")
            else:
                unfinished.append(line)
        more = [f"and {self._more} more problems"] if self._more else []
        return Report(self._records, len(self._runs), self._head, self._problems + more, unfinished)
