"""Does the log still say what it said?

`verify` recomputes every hash, demands the canonical bytes, and checks what a run may look like (`grammar`) and a tree
of runs (`trees`), and what may be in the file besides its records. It compares what each run used with what the ledger
beside it charged for it (`charges`), whose contents are gone with whose were erased, and the tree over all records with
what was signed of it: the checkpoints in the log, what the keys folder remembers, and what the caller brings.
`tampering` gives what was done its name.

What was written after the last checkpoint is under no signature yet: there, whoever can write the log can cut off
records, or write others in their place, and nobody can tell.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing

import msgspec

from belljar.audit.charges import CHARGING, Charges
from belljar.audit.checkpoint import Note, Verifier, origin_of
from belljar.audit.events import HOST_RUNS, ContentsErased, KeyChanged, host_run
from belljar.audit.grammar import RunGrammar
from belljar.audit.read import OTHER_RUN, Record, parse
from belljar.audit.receipt import Receipt
from belljar.audit.signing import HostKeys, place_of
from belljar.audit.source import UNREADABLE, Log, Source, looked_at, open_source
from belljar.audit.tampering import (
    Anchor,
    Finding,
    Kind,
    Known,
    Leaves,
    Rows,
    Where,
    against,
    anchors_of,
    receipt_problem,
    said_in,
)
from belljar.audit.trees import TREE_EVENTS, Trees
from belljar.errors import InvalidInput
from belljar.journal import Ask
from belljar.journal.packs import Bounds, block_of, bound
from belljar.journal.tables import PACK_RECORDS
from belljar.keys import Keys

__all__ = ["Report", "verify"]

_PROBLEMS_MAX = 100  # a reader needs the first; a log that was rewritten has millions
_NO_RECORD = "0" * 64
_UNKNOWN = ""
_FILED = "SELECT run, low, high, many FROM pack_runs WHERE block = ?"
_STRAY = "SELECT block FROM pack_runs WHERE block NOT IN (SELECT block FROM packs) LIMIT 1"
_KEYS_OF_CONTENTS = "SELECT run, wrapped IS NULL, gone FROM content_keys"
_KEPT = "the checkpoint that was kept"
_WITNESSED = "a checkpoint that the witness has"


class Report(msgspec.Struct, frozen=True):
    """What `verify` found.

    Attributes:
        records: how many there are.
        runs: how many runs they belong to.
        head: hex SHA-256 of the last record; 64 zeros for an empty log.
        problems: one line each, with the number of the record; empty if the log is sound.
        unfinished: actions without an outcome in runs that have not ended: under way, or their host died.
        tampering: what was done to the log, by its name; what it was is among the problems, too.
        checkpoints: how many are in the log.
        signed: so many records, from the first on, are under a checkpoint that agrees with them.
    """

    records: int
    runs: int
    head: str
    problems: list[str]
    unfinished: list[str]
    tampering: list[Finding] = []
    checkpoints: int = 0
    signed: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(
    log: Log,
    *,
    keys: Keys | None = None,
    trusted: Iterable[str] = (),
    receipts: Sequence[Receipt] = (),
    notes: Sequence[str] = (),
    witnessed: Sequence[str] = (),
) -> Report:
    """Check the whole log, from one snapshot; it may be in use.

    Args:
        keys: the keys folder that the log was signed with. Without it and `trusted`, signatures are not checked.
        trusted: more public keys, as `belljar audit checkpoint` prints them.
        receipts: of runs, each with its checkpoint: the log must agree.
        notes: signed checkpoints that were kept elsewhere, likewise.
        witnessed: those that a witness has. Where some are of this log, those of other logs do not count.

    Raises:
        InvalidInput: `audit.missing`: there is no log; `audit.key`, `audit.receipt`, `audit.checkpoint`: one is none.
        AuditUnavailable: the log cannot be opened, or the keys folder cannot be used.
    """
    evidence = _evidence(receipts, notes, witnessed)
    named = [Verifier(vkey) for vkey in trusted]

    def look(place: Log) -> Report:
        # What is remembered was in the log before: it is asked first, so that a log in use is not taken for an old one.
        host = None if keys is None else HostKeys(keys)
        remembered = [] if host is None else _remembered(host, host.at(place_of(place)), place)
        known = Known([*named, *([] if host is None else host.known())])
        return _verify(place, [*remembered, *evidence], known, receipts)

    return looked_at(log, look, lambda report: report.ok)


def _evidence(receipts: Sequence[Receipt], notes: Sequence[str], witnessed: Sequence[str]) -> list[Anchor]:
    found = []
    for what, text in [
        *((f"the receipt of run {receipt.run[:80]}", receipt.checkpoint or "") for receipt in receipts),
        *((_KEPT, note) for note in notes),
        *((_WITNESSED, note) for note in witnessed),
    ]:
        try:
            note = Note.read(text)
        except ValueError as error:
            code = "audit.receipt" if what.startswith("the receipt") else "audit.checkpoint"
            advice = "what `belljar audit checkpoint` printed" if what == _KEPT else "one that has"
            raise InvalidInput(f"{what} has no checkpoint ({error}); give {advice}", code=code) from None
        of = note.checkpoint
        where: Where = "witness" if what == _WITNESSED else "elsewhere"
        found.append(Anchor(what, where, of.origin, of.size, of.root, note))
    return found


def _remembered(host: HostKeys, origin: str | None, place: Log) -> list[Anchor]:
    signed = None if origin is None else host.signed(origin)
    if signed is None or signed.place != place_of(place):  # it was moved, or is a copy
        return []
    return [Anchor("what was signed last", "keys", signed.origin, signed.size, signed.root)]


def _verify(log: Log, anchors: list[Anchor], known: Known, receipts: Sequence[Receipt]) -> Report:
    with closing(open_source(log)) as source:
        checker = _Checker(known)
        try:
            checker.compare_with(anchors, source.checkpoints())
            for row in source.rows():
                checker.feed(*row)
            checker.name(source, receipts)
            if (odd := source.foreign()) is not None:
                checker.found("planted object", f"the {source.kind} is not as we make it: {odd}")
            elif source.has_ledger():
                checker.compare(source.ask)
                checker.compare_packs(source.ask)
                if source.has_contents():
                    checker.compare_contents(source.ask)
        except UNREADABLE as error:
            checker.problem(f"after record {checker.seq}: the {source.kind} cannot be read: {error}")
    return checker.report()


class _Checker:
    """Takes the rows in order, and remembers what later ones must match."""

    def __init__(self, known: Known) -> None:
        self.seq = 0
        self._records = 0
        self._head = _NO_RECORD
        self._problems: list[str] = []
        self._more = 0
        self._charges = Charges()
        self._trees = Trees()
        self._packs: dict[int, dict[str, Bounds]] = {}  # what has to be said of the runs of each
        self._runs: dict[str, RunGrammar | None] = {}  # None: it has ended, and nothing more is known of it
        self._erased: dict[str, str] = {}  # whose contents, and why
        self._rows = Rows()
        self._leaves = Leaves(())
        self._known = known
        self._anchors: list[Anchor] = []
        self._checkpoints = 0
        self._findings: list[Finding] = []

    def problem(self, line: str) -> None:
        if len(self._problems) < _PROBLEMS_MAX:
            self._problems.append(line)
        else:
            self._more += 1

    def found(self, kind: Kind, what: str) -> None:
        self._find(Finding(kind, what))
        self.problem(what)

    def _find(self, finding: Finding) -> None:
        if len(self._findings) < _PROBLEMS_MAX:
            self._findings.append(finding)

    # -- rows --------------------------------------------------------------------------------------------------------

    def feed(self, seq: int, run: object, body: object, kept_hash: object) -> None:
        if 0 < seq <= self.seq:
            self.problem(f"record {seq}: it is a row of its own, and in a pack, too")
            self._rows.again(seq)
            return
        if seq != self.seq + 1:
            self.problem(f"record {seq}: expected record {self.seq + 1}; what was between is gone")
        self.seq = seq
        self._records += 1
        if body is kept_hash is None:
            self._skip(seq)
            return
        data = body if isinstance(body, bytes) else b""
        digest = hashlib.sha256(data).digest()
        is_whole = kept_hash in (None, digest)  # there is none of a record in a pack, of which there is a sum
        if not is_whole:
            self.problem(f"record {seq}: its bytes do not have the hash that was kept with them")
        said: int | None = seq
        try:
            record = parse(seq, body, head := digest.hex())
        except ValueError as error:
            self.problem(f"record {seq}: it {error}")
            said, prev = said_in(data)
        else:
            prev = record.prev
            if run not in (None, record.run):
                self.problem(f"record {seq}: it {OTHER_RUN}")
            if kept_hash is None:
                bound(self._packs.setdefault(block_of(seq), {}), record.run, seq)
            self._follow(record)
        self._rows.feed(seq, said, is_whole=is_whole, continues=prev is None or self._head in (prev, _UNKNOWN))
        self._leaves.feed(data)
        self._head = head

    def _skip(self, seq: int) -> None:
        """Of a record in a pack that cannot be read, nothing is known; of the pack it is said once."""
        end = (block_of(seq) + 1) * PACK_RECORDS
        is_first = seq + PACK_RECORDS == end + 1
        if is_first:
            self.problem(f"records {seq} to {end}: the pack that they are in is damaged")
        self._rows.feed(seq, None, is_whole=not is_first, continues=True)
        self._leaves.feed(b"")
        self._head = _UNKNOWN

    def _follow(self, record: Record) -> None:
        if self._head not in (record.prev, _UNKNOWN):
            self.problem(f"record {record.seq}: it does not continue the record before it")
        if record.run in HOST_RUNS:
            if host_run(record.typed) != record.run:
                self.problem(f"record {record.seq}: {record.event} under {record.run}, which is no run for it")
            if isinstance(record.typed, KeyChanged):
                self._change_key(record.seq, record.typed)
            if isinstance(record.typed, ContentsErased):
                self._erased[record.typed.of] = record.typed.why
            return
        if record.event in CHARGING:
            self._charges.feed(record.run, record.typed)
        if record.run not in self._runs:
            self._runs[record.run] = RunGrammar()
        grammar = self._runs[record.run]
        if grammar is None:
            what = f"record {record.seq}: {record.event} after the end of run {record.run[:80]!a}"
            self.found("record after the end", what)
            return
        for problem in grammar.feed(record):
            self.problem(problem)
        if record.event in TREE_EVENTS:
            for problem in self._trees.feed(record):
                self.problem(problem)
        if grammar.ended:
            self._runs[record.run] = None

    def _change_key(self, seq: int, changed: KeyChanged) -> None:
        with contextlib.suppress(InvalidInput):
            if self._known.feed(changed):
                return
        self.found("forged key", f"record {seq}: a change of keys that not both keys have signed")

    def compare(self, ask: Ask) -> None:
        for problem in self._charges.differences(ask):
            self.problem(problem)

    def compare_packs(self, ask: Ask) -> None:
        """Whether a run is found in all packs that have records of it, and in no other."""
        for block, runs in self._packs.items():
            found = {run: tuple(row) for run, *row in ask(_FILED, block)}
            if found != runs:
                self.problem(f"pack {block}: not all of its records are found by their runs, or others are")
        if stray := ask(_STRAY):
            self.problem(f"pack {stray[0][0]}: it is said to have runs, and is not there")

    def compare_contents(self, ask: Ask) -> None:
        """Whether the keys that are gone are those that were destroyed, which is one transaction with its record."""
        for run, is_gone, gone in ask(_KEYS_OF_CONTENTS):
            why = self._erased.get(run)
            whose = f"the contents of run {str(run)[:80]!a}"
            if is_gone and why is None:
                self.problem(f"{whose} are gone, and the log does not say that anybody erased them")
            elif is_gone and gone != why:
                self.problem(f"{whose} are said to be gone because of {str(gone)[:80]!a}, the log says {why!a}")
            elif not is_gone and why is not None:
                self.problem(f"{whose} were erased, as the log says, and their key is there")

    # -- what was signed ---------------------------------------------------------------------------------------------

    def compare_with(self, anchors: list[Anchor], stored: list[tuple[int, object]]) -> None:
        """Before the first row: what the log has to agree with; `stored` are its own checkpoints."""
        own, forged = anchors_of(stored)
        for finding in forged:
            self.found(finding.kind, finding.what)
        self._checkpoints = len(stored)
        self._anchors = [*anchors, *own]
        self._leaves = Leaves(anchor.size for anchor in self._anchors)

    def name(self, source: Source, receipts: Sequence[Receipt]) -> None:
        """After the last row: what was done to the log."""
        leaves = self._leaves
        leaves.flush()

        def body_of(seq: int) -> object:
            return next((row[2] for row in source.rows(seq=seq)), None)

        if damage := self._rows.findings(body_of):
            self._findings[:0] = damage  # the problems have it already
            return
        origin = None if leaves.first is None else origin_of(leaves.first)
        # The last ones first: what is wrong with a checkpoint is told of the largest.
        # A witness may have those of several logs: they are no other log in the place of this one.
        is_witnessed = any((anchor.where, anchor.origin) == ("witness", origin) for anchor in self._anchors)
        anchors = sorted(self._anchors, key=lambda anchor: (anchor.where == "log", -anchor.size))
        mine: list[Anchor] = []
        others: list[Anchor] = []
        for one in anchors:
            is_other = is_witnessed and one.where == "witness" and one.origin != origin
            (others if is_other else mine).append(one)
        known = self._known.all()
        for finding in against(mine, origin=origin, size=leaves.size, roots=leaves.roots, known=known, others=others):
            self._find(finding)
            self.problem(finding.what)
        for receipt in receipts:
            self._check_receipt(receipt, body_of)

    def _check_receipt(self, receipt: Receipt, body_of: Callable[[int], object]) -> None:
        note, body = Note.read(receipt.checkpoint or "").checkpoint, None
        if self._leaves.roots.get(note.size) == note.root:
            body = body_of(receipt.seq)
        why = receipt_problem(receipt, body if isinstance(body, bytes) else None)
        if why is not None:
            self.found("forged receipt", f"the receipt of run {receipt.run[:80]}: {why}")

    def report(self) -> Report:
        unfinished: list[str] = []
        for run, grammar in self._runs.items():
            if grammar is not None:
                unfinished += grammar.unfinished(run)
                for problem in grammar.unproved():
                    self.problem(problem)
        more = [f"and {self._more} more problems"] if self._more else []
        roots = self._leaves.roots
        signed = max((one.size for one in self._anchors if roots.get(one.size) == one.root), default=0)
        return Report(
            records=self._records,
            runs=len(self._runs),
            head=self._head,
            problems=self._problems + more,
            unfinished=unfinished,
            tampering=self._findings,
            checkpoints=self._checkpoints,
            signed=signed,
        )
