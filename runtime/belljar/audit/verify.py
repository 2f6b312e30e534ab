"""Does the log still say what it said?

`verify` recomputes every hash, demands the canonical bytes, and checks what a run may look like (`grammar`) and a tree
of runs (`trees`), and what may be in the file besides its records. It finds a changed bit, a record that was removed
from the middle, inserted, moved, or added to a run that has ended, and a trigger that keeps records out. It compares
what each run used with what the ledger beside it charged for it (`charges`). It does **not** find a cut tail: the
records that are left are a perfect log. Nor does it find a log that was rewritten from some point on by someone who
recomputed all later hashes. Both need something kept outside the file, such as the `head` of an earlier report: look
for it among the hashes of the records.
"""

from __future__ import annotations

import hashlib
from contextlib import closing
from itertools import chain

import msgspec

from belljar.audit.charges import Charges
from belljar.audit.events import HOST_RUNS, host_run
from belljar.audit.grammar import RunGrammar
from belljar.audit.read import OTHER_RUN, Record, parse
from belljar.audit.source import UNREADABLE, Log, looked_at, open_source
from belljar.audit.trees import Trees
from belljar.journal import Ask

__all__ = ["Report", "verify"]

_PROBLEMS_MAX = 100  # a reader needs the first; a log that was rewritten has millions
_NO_RECORD = "0" * 64


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


def verify(log: Log) -> Report:
    """Check the whole log, from one snapshot; it may be in use.

    Raises:
        InvalidInput: `audit.missing`: there is no log.
        AuditUnavailable: it cannot be opened.
    """
    return looked_at(log, _verify, lambda report: report.ok)


def _verify(log: Log) -> Report:
    checker = _Checker()
    with closing(open_source(log)) as source:
        try:
            for row in source.rows():
                checker.feed(*row)
            if (odd := source.foreign()) is not None:
                checker.problem(f"the {source.kind} is not as we make it: {odd}")
            elif source.has_ledger():
                checker.compare(source.ask)
        except UNREADABLE as error:
            checker.problem(f"after record {checker.seq}: the {source.kind} cannot be read: {error}")
    return checker.report()


class _Checker:
    """Takes the rows in order, and remembers what later ones must match."""

    def __init__(self) -> None:
        self.seq = 0
        self._records = 0
        self._head = _NO_RECORD
        self._problems: list[str] = []
        self._more = 0
        self._charges = Charges()
        self._trees = Trees()
        self._runs: dict[str, RunGrammar | None] = {}  # None: it has ended, and nothing more is known of it

    def problem(self, line: str) -> None:
        if len(self._problems) < _PROBLEMS_MAX:
            self._problems.append(line)
        else:
            self._more += 1

    def feed(self, seq: int, run: object, body: object, kept_hash: object) -> None:
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
            if run not in (None, record.run):
                self.problem(f"record {seq}: it {OTHER_RUN}")
            self._follow(record)
        self._head = digest.hex()

    def _follow(self, record: Record) -> None:
        if record.prev != self._head:
            self.problem(f"record {record.seq}: it does not continue the record before it")
        if record.run in HOST_RUNS:
            if host_run(record.typed) != record.run:
                self.problem(f"record {record.seq}: {record.event} under {record.run}, which is no run for it")
            return
        self._charges.feed(record.run, record.typed)
        if record.run not in self._runs:
            self._runs[record.run] = RunGrammar()
        grammar = self._runs[record.run]
        if grammar is None:
            self.problem(f"record {record.seq}: {record.event} after the end of run {record.run[:80]!a}")
            return
        for problem in chain(grammar.feed(record), self._trees.feed(record)):
            self.problem(problem)
        if grammar.ended:
            self._runs[record.run] = None

    def compare(self, ask: Ask) -> None:
        for problem in self._charges.differences(ask):
            self.problem(problem)

    def report(self) -> Report:
        unfinished: list[str] = []
        for run, grammar in self._runs.items():
            if grammar is not None:
                unfinished += grammar.unfinished(run)
                for problem in grammar.unproved():
                    self.problem(problem)
        more = [f"and {self._more} more problems"] if self._more else []
        return Report(self._records, len(self._runs), self._head, self._problems + more, unfinished)
