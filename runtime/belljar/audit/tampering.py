"""What was done to a log: the name of it, from what its rows show and from what was signed of it.

First the rows, which name themselves. Each has a number, and its bytes say their number and the hash of those before.

    dropped head        the first row is not record 1
    removed record      a number is missing in between; or all from some place on bear a later number than their row
    swap                two rows have each other's bytes
    duplicate           a row has the bytes of another one, which is still there
    inserted record     from some place on all bear an earlier number than their row; or a row is in a pack, too
    flipped byte        the bytes are not those of the hash that is kept with them, or their pack cannot be read
    changed record      the bytes fit their own hash, but not what the next record says of them
    record after the end     of a run that had ended
    planted object      the file has a trigger, a view or a table that is not ours

If the rows are in order, somebody may still have written them all anew, cut them off, or put another log there. That
shows against what was signed: the checkpoints in the log, what the keys folder remembers, and what was kept elsewhere
(a receipt, a checkpoint).

    replaced file       it is another log than the one that was signed
    cut tail            a checkpoint in the log is of more records than there are
    restored old copy   more was signed than the log and its checkpoints know
    fork                as many records as were signed, and other ones
    re-signed log       one of these three, and the checkpoints in it are by a key that is not known
    wrong key           a checkpoint is by a key that is not known, and agrees with all that is
    forged checkpoint   it is no checkpoint, or not signed by the key that it names
    forged key          a `key.changed` that not both keys have signed
    forged receipt      its proof does not show what it says, or it names other bytes than the log has

A key is known if it is in the keys folder, was named by the caller, or took over from such a one, or handed over to it,
by a `key.changed` that both have signed.

Besides, the ledger must have charged each run for what the log says, and contents be gone where it says that they were
erased, and only there. Each difference is a problem without a name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Final, Literal, TypeAlias

import msgspec

from belljar.audit.checkpoint import Note, Verifier
from belljar.audit.events import KeyChanged
from belljar.audit.merkle import Tree, is_included
from belljar.audit.receipt import Receipt

__all__ = [
    "Anchor",
    "Finding",
    "Kind",
    "Known",
    "Leaves",
    "Rows",
    "Where",
    "against",
    "anchors_of",
    "receipt_problem",
    "said_in",
]

Kind: TypeAlias = Literal[
    "dropped head",
    "removed record",
    "swap",
    "duplicate",
    "inserted record",
    "flipped byte",
    "changed record",
    "record after the end",
    "planted object",
    "replaced file",
    "cut tail",
    "restored old copy",
    "fork",
    "re-signed log",
    "wrong key",
    "forged checkpoint",
    "forged key",
    "forged receipt",
]
Where: TypeAlias = Literal["log", "keys", "elsewhere", "witness"]
_KEPT: Final = 100
# Of the checkpoints in a log, the signatures of so many are checked, the largest ones, and of the others whether they
# name a known key: an earlier one whose root is right says nothing that the last one does not say.
_SIGNATURES_MAX: Final = 1000
_TAIL: Final = re.compile(
    rb'"prev":"([0-9a-f]{64})","run":"[^"]*","seq":([0-9]{1,18}),"time_ns":-?[0-9]+,"v":[0-9]+}\Z'
)
_BATCH: Final = 2048


class Finding(msgspec.Struct, frozen=True):
    """What was done, and where it shows."""

    kind: Kind
    what: str


def said_in(body: bytes) -> tuple[int | None, str | None]:
    """The number that a record's bytes say, and the hash of the one before, where they cannot be read as a record."""
    match = _TAIL.search(body[-512:])
    return (int(match[2]), match[1].decode()) if match else (None, None)


class Rows:
    """Takes the rows in order, and remembers the first few that are wrong."""

    def __init__(self) -> None:
        self.seq = 0
        self._gap: tuple[int, int] | None = None
        self._again: int | None = None
        self._misplaced: dict[int, int] = {}
        self._flipped: list[int] = []
        self._unchained: list[int] = []

    def feed(self, seq: int, said: int | None, *, is_whole: bool, continues: bool) -> None:
        """Args: what number its bytes say, if any; whether they have their hash, and name the hash of those before."""
        if seq != self.seq + 1 and self._gap is None:
            self._gap = (self.seq + 1, seq)
        if said not in (None, seq) and len(self._misplaced) < _KEPT:
            self._misplaced[seq] = said
        if not is_whole and len(self._flipped) < _KEPT:
            self._flipped.append(seq)
        if not continues and len(self._unchained) < _KEPT:
            self._unchained.append(seq)
        self.seq = seq

    def again(self, seq: int) -> None:
        """Take a row whose number there was before."""
        if self._again is None:
            self._again = seq

    def findings(self, body_of: Callable[[int], object]) -> list[Finding]:
        """What was done to the rows. `body_of` gives the bytes in a row."""
        if self._gap is not None:
            before, after = self._gap
            kind: Kind = "dropped head" if before == 1 else "removed record"
            return [Finding(kind, f"records {before} to {after - 1} are gone")]
        if self._again is not None:
            return [Finding("inserted record", f"record {self._again} is a row of its own, and in a pack, too")]
        if self._misplaced:
            return [self._moved(*next(iter(self._misplaced.items())), body_of)]
        if self._flipped:
            seqs = self._flipped
            return [Finding("flipped byte", f"the bytes of record {seq} are not those of its hash") for seq in seqs]
        return [
            Finding("changed record", f"record {seq} does not continue record {seq - 1}: one of them was written anew")
            for seq in self._unchained[:1]
        ]

    def _moved(self, seq: int, said: int, body_of: Callable[[int], object]) -> Finding:
        if self._misplaced.get(said) == seq:
            return Finding("swap", f"records {seq} and {said} have changed places")
        if (body := body_of(seq)) is not None and body_of(said) == body:
            return Finding("duplicate", f"record {said} stands in the place of record {seq}, too")
        if said > seq:
            return Finding("removed record", f"records {seq} to {said - 1} are gone, and the later ones have moved up")
        return Finding("inserted record", f"before record {seq} some were put in, and the later ones have moved down")


class Leaves:
    """The tree of the records, and its roots at the sizes that are wanted."""

    def __init__(self, sizes: Iterable[int]) -> None:
        self.size = 0
        self.roots: dict[int, bytes] = {}
        self.first: bytes | None = None
        self._tree = Tree()
        self._batch: list[bytes] = []
        self._sizes = sorted(set(sizes), reverse=True)

    def feed(self, body: bytes) -> None:
        self._batch.append(sha256(b"\x00" + body).digest())
        if len(self._batch) == _BATCH:
            self.flush()

    def flush(self) -> None:
        if self.first is None and self._batch:
            self.first = self._batch[0]
        self._tree.extend(self._batch)
        self._batch.clear()
        self.size = self._tree.size
        while self._sizes and self._sizes[-1] <= self.size:
            size = self._sizes.pop()
            self.roots[size] = self._tree.root(size)
        self._tree.forget(self.size)


class Known:
    """The keys that are known. Empty: nobody said which, and signatures are not checked."""

    def __init__(self, keys: Iterable[Verifier]) -> None:
        self._keys = {key.vkey: key for key in keys}
        self._changes: list[tuple[Verifier, Verifier]] = []

    def feed(self, changed: KeyChanged) -> bool:
        """Take a change of keys from the log. Whether both have signed it."""
        old, new, statement = Verifier(changed.old), Verifier(changed.new), changed.statement(changed.old, changed.new)
        if not (old.signed(statement, changed.old_signature) and new.signed(statement, changed.new_signature)):
            return False
        self._changes.append((old, new))
        return True

    def all(self) -> list[Verifier]:
        found, before = dict(self._keys), -1
        while len(found) != before:
            before = len(found)
            for pair in self._changes:
                if any(key.vkey in found for key in pair):
                    found |= {key.vkey: key for key in pair}
        return list(found.values())


class Anchor(msgspec.Struct, frozen=True):
    """What somebody says of a log: that its first `size` records have this root."""

    what: str
    where: Where
    origin: str
    size: int
    root: bytes
    note: Note | None = None


def anchors_of(rows: Iterable[tuple[int, object]]) -> tuple[list[Anchor], list[Finding]]:
    """The checkpoints in a log; and what is none."""
    anchors, forged = [], []
    for size, stored in rows:
        try:
            note = Note.read(stored.decode() if isinstance(stored, bytes) else "")
            if note.checkpoint.size != size:
                raise ValueError(f"it is of {note.checkpoint.size} records")
        except ValueError as error:
            forged.append(Finding("forged checkpoint", f"checkpoint {size}: {error}"))
        else:
            of = note.checkpoint
            anchors.append(Anchor(f"checkpoint {size} in the log", "log", of.origin, of.size, of.root, note))
    return anchors, forged


def against(
    anchors: list[Anchor],
    *,
    origin: str | None,
    size: int,
    roots: dict[int, bytes],
    known: list[Verifier],
    others: Sequence[Anchor] = (),
) -> list[Finding]:
    """What was done to a log whose rows are in order: `size` of them, with these roots.

    Of `others`, which say that they are of other logs, only a signature counts that is not by the key that it names:
    else whoever changes the name of a log in a checkpoint would hide that.
    """
    trusted, strange, found = _by_signer(anchors, known)
    found += _by_signer(others, known)[2]
    more: Kind = "cut tail" if any(one.where == "log" and one.size > size for one in trusted) else "restored old copy"
    for anchor in trusted:
        if origin not in (None, anchor.origin):
            found.append(Finding("replaced file", f"{anchor.what} is of the log {anchor.origin}; this one is {origin}"))
        elif anchor.size > size:
            found.append(Finding(more, f"{anchor.what} is of {anchor.size} records; there are {size}"))
        elif roots[anchor.size] != anchor.root:
            found.append(Finding("fork", f"{anchor.what} is of other records than the first {anchor.size} here"))
    if strange:
        kind: Kind = "re-signed log" if found or any(_differs(one, size, roots) for one in strange) else "wrong key"
        found.insert(0, Finding(kind, f"{strange[0].what} is by a key that is not known here"))
    return found


def _by_signer(anchors: Sequence[Anchor], known: list[Verifier]) -> tuple[list[Anchor], list[Anchor], list[Finding]]:
    """Those by known keys, or that nobody signed; those by others; and what is not by the key that it names."""
    trusted: list[Anchor] = []
    strange: list[Anchor] = []
    found: list[Finding] = []
    for number, anchor in enumerate(anchors):
        try:
            is_strange = _is_strange(anchor, known, look_closely=number < _SIGNATURES_MAX)
            (strange if is_strange else trusted).append(anchor)
        except ValueError as error:
            found.append(Finding("forged checkpoint", f"{anchor.what}: {error}"))
    return trusted, strange, found


def _is_strange(anchor: Anchor, known: list[Verifier], *, look_closely: bool) -> bool:
    """Whether a key signed it that is not known. Raises ValueError if it was not signed by the key that it names."""
    if not known or anchor.note is None:
        return False
    if look_closely:
        return anchor.note.signer(known) is None
    names = {(key.name, key.id) for key in known}
    return all((name, identity) not in names for name, identity, _ in anchor.note.signatures)


def _differs(anchor: Anchor, size: int, roots: dict[int, bytes]) -> bool:
    return anchor.size > size or roots[anchor.size] != anchor.root


def receipt_problem(receipt: Receipt, body: bytes | None) -> str | None:
    """Why a receipt with a checkpoint does not hold for the log that has these bytes as record `seq`."""
    try:
        note = Note.read(receipt.checkpoint or "")
        leaf, proof = bytes.fromhex(receipt.leaf or ""), [bytes.fromhex(node) for node in receipt.proof]
    except ValueError:
        return "its checkpoint, leaf or proof is none"
    of = note.checkpoint
    if not is_included(receipt.seq - 1, of.size, leaf, proof, of.root):
        return "its proof does not show that its record is in the log"
    if body is not None and (sha256(body).hexdigest(), sha256(b"\x00" + body).digest()) != (receipt.head, leaf):
        return f"record {receipt.seq} of the log is another one"
    return None
