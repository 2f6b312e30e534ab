"""Who signs a log, and what never is signed.

**When.** At the end of each run, while a host is up every `_EVERY_RECORDS` records or `_EVERY_S` seconds, and when a
command has erased something. An append costs nothing for that: the leaves are computed when a checkpoint is made, of
the records since the one before. Runs that end together share a checkpoint.

**What is remembered.** In the keys folder, so that whoever can write the log cannot change it as well, is one file for
each log: how many records were signed last, the root, the hash of the last of them, and the parts of the tree from
which it goes on. Another file says which log was at a place. They are on the disk before the checkpoint leaves the
process.

**What is never signed.** A tree that does not begin with the one that was signed last, by us or by whoever made the
last checkpoint in the log. So a log is not signed

    smaller     that has fewer records than were signed: an old copy was put back, or its tail was cut
    fork        of which those records are other ones, or do not continue each other
    replaced    at whose place there was another one
    wrong key   whose last checkpoint is by a key that is not known here

until `accept` says that this is right: the log then has a record of it, `log.accepted`.

**Several processes.** They take turns at the file of the log. Whoever finds that another has signed more of it goes on
from there. Hosts that share a server need the same keys in their folders; one that has others signs nothing.

A run does not fail because its log cannot be signed: all of it is in the log. Its receipt has no checkpoint then, what
is wrong is logged once, and `belljar audit verify` names it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import logging
import time
from collections.abc import AsyncIterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from belljar.audit.checkpoint import Checkpoint, Note, Signer, Verifier, origin_of
from belljar.audit.events import HOST_RUNS, KeyChanged, LogAccepted, RunAbandoned, RunFinished
from belljar.audit.log import AuditLog
from belljar.audit.merkle import SparseTree, Tree, is_included, leaf_hash
from belljar.audit.read import parse
from belljar.audit.receipt import Receipt
from belljar.audit.source import Log, open_source, reading
from belljar.audit.tampering import said_in
from belljar.audit.witness import Witness
from belljar.errors import AuditUnavailable, BelljarError, InvalidInput, VerificationFailed
from belljar.journal import Draft, Job, Journal, opened_journal, shown
from belljar.journal.packs import Bounds, Packs, pack_of, unpacked
from belljar.journal.tables import CHECKPOINTS, PACK_RECORDS, SUBTREES, CheckpointRow, SubtreeRow
from belljar.keys import Keys

__all__ = ["Checkpoints", "HostKeys", "NotSigned", "Signed", "place_of", "root_of", "signed_size", "signing"]

_log = logging.getLogger("belljar")
_EVERY_RECORDS: Final = 1000
_EVERY_S: Final = 10.0
_LOOK_S: Final = 1.0
# How long the end of a run waits for its receipt: the first checkpoint of a long log takes longer.
_PATIENCE_S: Final = 5.0
_CHUNK: Final = 500
# Of a log that an older version made, with each checkpoint: 40 ms of work.
_PACKS_AT_ONCE: Final = 8
_AT_ONCE: Final = 100  # records whose hashing takes a millisecond
_ATTEMPTS: Final = 50  # each fails only if another process has signed more meanwhile
# Of the last records the nodes are kept, for receipts of runs whose end is already under a checkpoint.
_WINDOW: Final = 4096
# Of each block of so many records, as a power of two, the root is in the journal, for receipts of runs long ago: a
# proof needs its own block, what is behind the last one, and of all others 32 bytes each.
_BLOCK_LEVEL: Final = 10
_KEY: Final = "signing"
_NEXT_KEY: Final = "signing.next"
_OLD_KEYS: Final = "signing.old"
_COUNT: Final = "SELECT coalesce(max(seq), 0) FROM records"
_SIZE: Final = "SELECT size FROM checkpoints ORDER BY size DESC LIMIT 1"
_LAST: Final = "SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1"


class NotSigned(VerificationFailed):
    """The log is not the one that was signed. `kind` is one word of the table above; `what` says it without advice."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(
            f"the log is not signed: {message}; run `belljar audit verify`, and if this log is right, "
            "`belljar audit checkpoint --accept-restored`"
        )
        self.kind = kind
        self.what = message


class _Unsound(Exception):
    """A record does not continue the one before it."""


class Signed(msgspec.Struct, frozen=True):
    """What was signed last of one log: `head` is the SHA-256 of the last record, `parts` are those of `merkle.Tree`."""

    origin: str
    place: str
    size: int
    root: bytes
    head: bytes
    parts: list[bytes]
    note: str


class HostKeys:
    """The keys that sign, and what was signed last of each log: all that is in the keys folder for that."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    @property
    def folder(self) -> Path:
        return self._keys.folder

    def signer(self) -> Signer:
        """The key that signs now; made when it is first needed."""
        return Signer(self._keys.secret(_KEY))

    def present(self) -> Verifier | None:
        """The public key that signs now; None where there is none yet."""
        seed = self._keys.found(_KEY)
        return None if seed is None else Signer(seed).verifier

    def known(self) -> list[Verifier]:
        """The public keys that have signed here, the present one first; none where there is no key."""
        present = self.present()
        return ([] if present is None else [present]) + [Verifier(line) for line in self._old()]

    def next_signer(self) -> Signer:
        """The key that will sign next; the same one until `rotate`."""
        return Signer(self._keys.secret(_NEXT_KEY))

    def rotate(self) -> None:
        """Let the next key sign from now on. Of the present one only the public part is kept."""
        seed, now = self._keys.secret(_NEXT_KEY), self.signer().verifier.vkey
        if now not in self._old():
            self._keys.write(_OLD_KEYS, "".join(f"{line}\n" for line in [now, *self._old()]).encode())
        self._keys.write(_KEY, seed)
        self._keys.remove(_NEXT_KEY)

    def _old(self) -> list[str]:
        return (self._keys.read(_OLD_KEYS) or b"").decode().splitlines()

    def turn(self, origin: str) -> contextlib.AbstractContextManager[None]:
        """Nobody else signs this log meanwhile."""
        return self._keys.locked(_file_of(origin))

    def signed(self, origin: str) -> Signed | None:
        """What was signed last of a log."""
        found = self._keys.read(_file_of(origin))
        try:
            return None if found is None else msgspec.json.decode(found, type=Signed)
        except msgspec.DecodeError:
            raise AuditUnavailable(
                f"{_file_of(origin)} in the keys folder {self._keys.folder} is damaged; put it back from a backup"
            ) from None

    def at(self, place: str) -> str | None:
        """The log that was signed at this place."""
        found = self._keys.read(_file_of_place(place))
        return None if found is None else found.decode("utf-8", "replace")

    def remember(self, signed: Signed) -> None:
        if self.at(signed.place) != signed.origin:
            self._keys.write(_file_of_place(signed.place), signed.origin.encode())
        self._keys.write(_file_of(signed.origin), msgspec.json.encode(signed))

    def forget(self, origin: str, place: str) -> None:
        """Whatever was signed of this log, or of one at this place, counts no longer."""
        for name in (_file_of(origin), _file_of_place(place)):
            self._keys.remove(name)


def place_of(log: Log) -> str:
    """What to call the place of a log."""
    return shown(log) if isinstance(log, str) else str(log.absolute())


def signed_size(log: Log) -> int:
    """How many records of a log its last checkpoint vouches for, whoever made it: 0 if there is none.

    Raises:
        InvalidInput: `audit.missing`: there is no log.
        AuditUnavailable: it cannot be read.
    """
    with reading(open_source(log)) as source:
        found = source.ask(_SIZE) if source.has_contents() else []
    return int(found[0][0]) if found else 0


def _file_of(origin: str) -> str:
    return f"log-{origin.rpartition('/')[2]}"


def _file_of_place(place: str) -> str:
    return f"place-{hashlib.sha256(place.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}"


class _Growth:
    """The tree of a log that is read in order, each record of which continues the one before."""

    def __init__(self, origin: str, signed: Signed | None = None) -> None:
        self.origin = origin
        self.tree = Tree() if signed is None else Tree(signed.size, signed.parts)
        self.head = bytes(32) if signed is None else signed.head

    def feed(self, rows: list[tuple[int, object]]) -> None:
        """Take the next records. The first of `rows` may be the last one that was taken: it must still be the same.

        Raises:
            _Unsound: one does not continue the one before it, or that one is gone.
        """
        leaves = []
        size = self.tree.size
        if size and (not rows or rows[0][0] != size or not _is(rows.pop(0)[1], self.head)):
            raise _Unsound(size)
        for seq, body in rows:
            if not isinstance(body, bytes) or said_in(body) != (size + 1, self.head.hex()) or seq != size + 1:
                raise _Unsound(seq)
            self.head = hashlib.sha256(body).digest()
            leaves.append(leaf_hash(body))
            size = seq
        self.tree.extend(leaves)


def _is(body: object, digest: bytes) -> bool:
    return isinstance(body, bytes) and hashlib.sha256(body).digest() == digest


class _Ahead(Exception):
    """Somebody has signed more than was read: so many records."""


class Checkpoints:
    """Signs one log. It belongs to one event loop.

    Args:
        journal: the one that the log is in.
        place: what to call where it is: its path or URL, without a password.
        keys: the keys folder.
        witness: who gets each checkpoint, once it is durable.
    """

    def __init__(
        self, journal: Journal, audit: AuditLog, *, place: str, keys: Keys, witness: Witness | None = None
    ) -> None:
        self._journal = journal
        self._audit = audit
        self._place = place
        self._keys = HostKeys(keys)
        self._witness = witness
        self._growth: _Growth | None = None
        self._signed: Signed | None = None
        self._tree = Tree()  # of `_signed`, and perhaps more
        self._put = 0  # how many blocks of it are in the journal
        self._making: asyncio.Task[Signed | None] | None = None
        self._packing: asyncio.Task[None] | None = None
        self._packed = 0  # so many records at least are in packs
        self._wanted: dict[object, int] = {}  # records whose proofs somebody waits for
        self.trouble: str | None = None

    # -- for runs ----------------------------------------------------------------------------------------------------

    async def receipt(self, run: str, seq: int, head: str) -> Receipt:
        """The receipt of a run that ended with record `seq`, which is durable. Without a checkpoint if none is made."""
        plain = Receipt(run, seq, head)
        mark = object()
        self._wanted[mark] = seq
        try:
            async with asyncio.timeout(_PATIENCE_S):
                if (bounds := await self._bounds_of(run)) is not None:
                    plain = msgspec.structs.replace(plain, first=bounds[0])
                while (signed := self._signed) is None or signed.size < seq:
                    if await self._make() is None:
                        return plain
                known = await self._known(seq, signed)
        except TimeoutError:
            self._tell("the log was not signed in time: a receipt has no checkpoint; `belljar audit receipt` gives it")
            return plain
        except (BelljarError, OSError) as error:
            self._tell(str(error))
            return plain
        finally:
            del self._wanted[mark]
        tree = self._tree if known is None else known
        proof = tree.inclusion(seq - 1, signed.size)
        return plain.proved(leaf=tree.leaf(seq - 1), note=signed.note, proof=proof)

    async def _known(self, seq: int, signed: Signed) -> Tree | None:
        """A tree that knows the record, where ours begins after it: another process had signed it before us."""
        return None if self._tree.knows(seq - 1) else await self._around(seq, signed)

    async def _around(self, seq: int, signed: Signed) -> Tree:
        """What was signed, as far as a proof for record `seq` needs it: its block, the blocks, and what is behind them.

        It is believed if the proof from it leads to the root that was signed. Else all records are read, which names
        what is wrong with them, or finds that only the table of blocks is.
        """
        blocks, missing = await self._blocks(signed.size)
        for block in missing:
            row = await self._block(block)
            if row is not None:
                blocks[block] = row.root
                await self._journal.submit(Job(partial(_put_subtrees, [row])), unavailable=AuditUnavailable)
        places = {(seq - 1) >> _BLOCK_LEVEL, signed.size >> _BLOCK_LEVEL}
        leaves = {at: leaf for place in places for at, leaf in await self._leaves(place, signed.size)}
        roots = [blocks.get(at, b"") for at in range(signed.size >> _BLOCK_LEVEL)]
        known = SparseTree(signed.size, _BLOCK_LEVEL, roots, leaves)
        if await asyncio.to_thread(_proves, known, seq - 1, signed):
            return known
        growth = _Growth(signed.origin)
        try:
            await self._read(growth, keep=seq - 1)
        except _Unsound as error:
            raise await self._not_signed(error.args[0]) from None
        return growth.tree

    async def _blocks(self, size: int) -> tuple[dict[int, bytes], list[int]]:
        """The roots of all blocks of a log of this size that are known, and the blocks of which it is not."""
        rows = await self._ask("SELECT block, root FROM subtrees WHERE block < ?", size >> _BLOCK_LEVEL)
        known = {int(block): bytes(root) for block, root in rows}
        return known, [block for block in range(size >> _BLOCK_LEVEL) if block not in known]

    async def _block(self, block: int) -> SubtreeRow | None:
        """Computed from its records: those of a log of an older format, say. None if there are not all of them."""
        leaves = await self._leaves(block, (block + 1) << _BLOCK_LEVEL)
        if len(leaves) != 1 << _BLOCK_LEVEL:
            return None
        tree = Tree()
        await asyncio.to_thread(tree.extend, [leaf for _, leaf in leaves])
        return SubtreeRow(block, tree.root())

    async def _leaves(self, block: int, size: int) -> list[tuple[int, bytes]]:
        """The leaves of a block in a log of this size, with their indexes."""
        first, last = (block << _BLOCK_LEVEL) + 1, min((block + 1) << _BLOCK_LEVEL, size)
        rows = await self._rows(first, last)
        whole = [(seq, body) for seq, body in rows if isinstance(body, bytes)]
        return await asyncio.to_thread(lambda: [(seq - 1, leaf_hash(body)) for seq, body in whole])

    async def make(self) -> Signed | None:
        """Sign what is in the log now; None if that is nothing.

        Raises:
            NotSigned: it is not the log that was signed.
            AuditUnavailable: the log or the keys folder cannot be used.
        """
        return await self._make()

    async def watch(self) -> NoReturn:
        """Sign again and again while more is written here, by runs or by nobody's run, until it is cancelled."""
        written, since = self._audit.written, time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_S)
            more, waited = self._audit.written - written, time.monotonic() - since
            if not more or (more < _EVERY_RECORDS and waited < _EVERY_S):
                continue
            written, since = self._audit.written, time.monotonic()
            try:
                await self._make()
            except (BelljarError, OSError) as error:
                self._tell(str(error))

    async def aclose(self) -> None:
        """Wait for what is under way; for the witness at most as long as it may take."""
        if self._making is not None:
            await asyncio.wait([self._making])
        if self._packing is not None:
            await asyncio.wait([self._packing])
        if self._witness is not None:
            await self._witness.aclose()

    async def key(self) -> str:
        """The public key that signs now, in one line."""
        return (await asyncio.to_thread(self._keys.signer)).verifier.vkey

    def _tell(self, trouble: str) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            _log.warning("belljar: %s", trouble)

    # -- for operators -----------------------------------------------------------------------------------------------

    async def receipt_of(self, run: str) -> Receipt:
        """The receipt of a run that has ended, whenever that was. Signs the log first.

        Raises:
            InvalidInput: `audit.no_run`; `audit.unfinished`.
            NotSigned, AuditUnavailable: as `make`.
        """
        bounds = await self._bounds_of(run) if run not in HOST_RUNS else None
        if bounds is None:
            raise InvalidInput(f"the log has no run {run[:80]}: list the runs to find it", code="audit.no_run")
        first, seq, _ = bounds
        ((_, body),) = await self._rows(seq, seq)
        record = parse(seq, body)
        if not isinstance(record.typed, RunFinished | RunAbandoned):
            raise InvalidInput(f"run {run} has not ended: wait for it", code="audit.unfinished")
        signed = await self._make()
        assert signed is not None, "there is a record"
        tree = await self._around(seq, signed)
        proof = tree.inclusion(seq - 1, signed.size)
        plain = Receipt(run, seq, record.hash, first)
        return plain.proved(leaf=leaf_hash(record.body), note=signed.note, proof=proof)

    async def last(self) -> Signed | None:
        """What was signed last, by whichever process; nothing is signed for it. None if that is nothing yet.

        Raises:
            AuditUnavailable: the log or the keys folder cannot be used.
        """
        origin = await self._origin()
        return None if origin is None else await asyncio.to_thread(self._keys.signed, origin)

    async def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the log with `new` records begins with the one that had `old`: RFC 9162's consistency proof.

        Reads the log from its beginning.

        Raises:
            InvalidInput: `audit.range`: the log never had so many.
            VerificationFailed: its records do not continue each other.
            AuditUnavailable: it cannot be read.
        """
        origin = await self._origin()
        growth = None if origin is None else _Growth(origin)
        if growth is not None:
            try:
                await self._read(growth)
            except _Unsound as error:
                raise await self._not_signed(error.args[0]) from None
        if growth is None or not 1 <= old <= new <= growth.tree.size:
            there = 0 if growth is None else growth.tree.size
            raise InvalidInput(
                f"the log has {there} records: ask for a proof from 1 or more to at most that", code="audit.range"
            )
        return await asyncio.to_thread(growth.tree.consistency, old, new)

    async def accept(self, by: str) -> Signed | None:
        """Sign the log as it is, whatever was signed before, and log that. None if it is empty.

        Checkpoints that do not agree with it, or are by a key that is not known here, are removed.

        Raises:
            VerificationFailed: its records do not continue each other.
            AuditUnavailable: the log or the keys folder cannot be used.
        """
        origin = await self._origin()
        if origin is None:
            return None
        before = await asyncio.to_thread(self._keys.signed, origin)
        growth = _Growth(origin)
        try:
            await self._read(growth)
        except _Unsound as error:
            raise VerificationFailed(
                f"record {error.args[0]} does not continue the one before it, so the log is not signed: put back a copy"
            ) from None
        notes = await self._ask("SELECT size, note FROM checkpoints ORDER BY size")
        known = await asyncio.to_thread(self._keys.known)
        void = [size for size, note in notes if not _is_good(note, size, growth, known)]
        signed = max([0, *void] if before is None else [before.size, *void])
        event = LogAccepted(by=by, records=growth.tree.size, signed=signed, removed=len(void))
        await self._journal.submit(_accepting(void, self._audit.host_entry(event)), unavailable=AuditUnavailable)
        await asyncio.to_thread(self._keys.forget, origin, self._place)
        self._growth = self._signed = None
        self._put = 0
        return await self._make()

    async def rotate(self, by: str) -> str:
        """Let a new key sign from now on. The log has that, signed by both; then comes a checkpoint by the new one.

        If it is broken off in between, the old key goes on, and the next time has the same new one.

        Returns:
            The new public key.

        Raises:
            NotSigned, AuditUnavailable: as `make`; then the old key goes on.
        """
        await self._make()  # with the old key
        old, new = await asyncio.to_thread(lambda: (self._keys.signer(), self._keys.next_signer()))
        names = old.verifier.vkey, new.verifier.vkey
        statement = KeyChanged.statement(*names)
        signatures = (base64.b64encode(key.sign(statement)).decode() for key in (old, new))
        event = KeyChanged(
            by=by, old=names[0], new=names[1], old_signature=next(signatures), new_signature=next(signatures)
        )
        await self._journal.submit(self._audit.host_entry(event), unavailable=AuditUnavailable)
        await asyncio.to_thread(self._keys.rotate)
        await self._make()
        return names[1]

    # -- making one --------------------------------------------------------------------------------------------------

    async def _make(self) -> Signed | None:
        """One at a time. Whoever comes while one is made waits for it, and then looks whether it is enough."""
        # One that is done may not be put away yet: to wait for it would give the same again, at once, for ever.
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(self._made())
            self._making.add_done_callback(self._is_made)
        return await asyncio.shield(self._making)

    def _is_made(self, task: asyncio.Task[Signed | None]) -> None:
        if self._making is task:
            self._making = None
        if not task.cancelled() and task.exception() is None and task.result() is not None:
            self.trouble = None

    async def _made(self) -> Signed | None:
        for _ in range(_ATTEMPTS):
            growth, self._growth = self._growth, None  # until it is known to be right
            if growth is None:
                origin = await self._origin()
                if origin is None:
                    return None
                growth = _Growth(origin, await asyncio.to_thread(self._keys.signed, origin))
            try:
                await self._read(growth)
            except _Unsound as error:
                raise await self._not_signed(error.args[0]) from None
            last = await self._ask(_LAST)
            try:
                signed = await asyncio.to_thread(self._sign, growth, last)
            except _Ahead as error:
                # What was signed was in the log before: if it is not there now, it is gone.
                ((count,),) = await self._ask(_COUNT)
                if count < error.args[0]:
                    raise await self._not_signed(error.args[0]) from None
                if error.args[0] > growth.tree.size:
                    self._growth = growth  # and read on
                continue
            await self._keep(growth, signed)
            return signed
        raise AuditUnavailable("the log is not signed: others are always ahead of us; try again")

    async def _keep(self, growth: _Growth, signed: Signed) -> None:
        row = CheckpointRow(signed.size, signed.note.encode())
        first, roots = growth.tree.nodes(_BLOCK_LEVEL)
        first, roots = max(first, self._put), roots[max(0, self._put - first) :]
        subtrees = [SubtreeRow(first + at, root) for at, root in enumerate(roots)]

        def work(draft: Draft) -> None:
            draft.put(CHECKPOINTS, row)
            _put_subtrees(subtrees, draft)

        await self._journal.submit(Job(work), unavailable=AuditUnavailable)
        self._put = first + len(roots)
        self._growth, self._tree, self._signed = growth, growth.tree, signed
        growth.tree.forget(min([max(0, signed.size - _WINDOW), *(seq - 1 for seq in self._wanted.values())]))
        if self._witness is not None:
            self._witness.offer(signed.size, signed.note)
        if signed.size - self._packed > PACK_RECORDS and (self._packing is None or self._packing.done()):
            self._packing = asyncio.create_task(self._pack(signed.size))

    async def _pack(self, size: int) -> None:
        """Put what is signed into packs. Where the journal cannot be written now, the next checkpoint tries again."""
        with contextlib.suppress(AuditUnavailable):
            for _ in range(_PACKS_AT_ONCE):
                rows, self._packed = await self._journal.submit(unpacked(size), unavailable=AuditUnavailable)
                pack = await asyncio.to_thread(pack_of, rows) if rows else None
                if pack is None:
                    return
                await self._journal.submit(pack.put(), unavailable=AuditUnavailable)

    def _sign(self, growth: _Growth, last: list[tuple[Any, ...]]) -> Signed:
        """In a thread. `last` is the last checkpoint in the log."""
        with self._keys.turn(growth.origin):
            if self._keys.at(self._place) not in (None, growth.origin):
                raise NotSigned("replaced", f"another one was signed at {self._place}")
            signer = self._keys.signer()
            before = self._keys.signed(growth.origin)
            if before is not None:
                _refuse_other(growth, before.size, before.root)
                if not growth.tree.knows(before.size):  # an operator has accepted another log meanwhile
                    raise _Ahead(before.size)
            for size, note in last:
                _refuse_other(growth, size, root_of(note, size, growth.origin, self._keys.known()))
            tree = growth.tree
            checkpoint = Checkpoint(growth.origin, tree.size, tree.root())
            is_same = before is not None and (before.size, before.place) == (tree.size, self._place)
            if before is not None and is_same and Note.read(before.note).signer([signer.verifier]) is not None:
                return before
            note = signer.note(checkpoint)
            signed = Signed(growth.origin, self._place, tree.size, checkpoint.root, growth.head, tree.parts(), note)
            self._keys.remember(signed)
            return signed

    async def _not_signed(self, at: int) -> NotSigned:
        ((count,),) = await self._ask(_COUNT)
        if count < at:
            return NotSigned("smaller", f"it has {count} records, but {at} were signed")
        return NotSigned("fork", f"record {at} is not the one that was there, or does not continue the one before it")

    async def _origin(self) -> str | None:
        """The log's name; None while it is empty."""
        rows = await self._rows(-(2**62), limit=1)
        if not rows:
            return None
        seq, body = rows[0]
        if seq != 1 or not isinstance(body, bytes):
            raise NotSigned("fork", "its first records are gone")
        return origin_of(leaf_hash(body))

    async def _read(self, growth: _Growth, *, keep: int | None = None) -> None:
        """Take all records that there are, and keep the nodes from leaf `keep` on. Raises _Unsound."""
        while True:
            rows = await self._rows(max(1, growth.tree.size), limit=_CHUNK)
            count = len(rows)
            if count > _AT_ONCE:
                await asyncio.to_thread(growth.feed, rows)
            else:
                growth.feed(rows)
            if keep is not None:
                growth.tree.forget(min(keep, growth.tree.size))
            if count < _CHUNK:
                return

    async def _bounds_of(self, run: str) -> Bounds | None:
        job = Job(lambda draft: Packs(draft.query).bounds_of(run))
        return await self._journal.submit(job, unavailable=AuditUnavailable)

    async def _rows(self, first: int, last: int | None = None, limit: int | None = None) -> list[tuple[int, object]]:
        """Records between two numbers, so many at most: number and body."""

        def work(draft: Draft) -> list[tuple[int, object]]:
            return [(seq, body) for seq, _, body, _ in islice(Packs(draft.query).rows(first, last), limit)]

        return await self._journal.submit(Job(work), unavailable=AuditUnavailable)

    async def _ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        job = Job(lambda draft: draft.query(statement, *values))
        return await self._journal.submit(job, unavailable=AuditUnavailable)


@contextlib.asynccontextmanager
async def signing(log: Log, keys: Keys, witness: Witness | None = None) -> AsyncIterator[Checkpoints]:
    """What signs a log, for as long as a block, and pushes what it signs.

    Raises:
        InvalidInput: `audit.missing`: there is no log.
        AuditUnavailable: it cannot be used.
    """
    open_source(log).close()  # it is not made here
    async with opened_journal(log, unavailable=AuditUnavailable) as journal:
        checkpoints = Checkpoints(journal, AuditLog(journal), place=place_of(log), keys=keys, witness=witness)
        yield checkpoints
        await checkpoints.aclose()


def _proves(tree: Tree, leaf: int, signed: Signed) -> bool:
    with contextlib.suppress(LookupError):  # records are gone
        return is_included(leaf, signed.size, tree.leaf(leaf), tree.inclusion(leaf, signed.size), signed.root)
    return False


def _put_subtrees(rows: list[SubtreeRow], draft: Draft) -> None:
    for row in rows:
        draft.put(SUBTREES, row)


def _accepting(void: list[int], entry: Job[object]) -> Job[None]:
    def work(draft: Draft) -> None:
        for size in void:
            draft.remove(CHECKPOINTS, size)
        entry.work(draft)

    return Job(work, entry.needs)


def _refuse_other(growth: _Growth, size: int, root: bytes) -> None:
    """Refuse a tree that does not begin with one that was signed. Raises _Ahead where too little of it is known."""
    tree = growth.tree
    if size > tree.size:
        raise _Ahead(size)
    if tree.knows(size) and tree.root(size) != root:
        raise NotSigned("fork", f"its first {size} records are not those that were signed")


def root_of(note: bytes, size: int, origin: str, known: list[Verifier]) -> bytes:
    """What the last checkpoint in the log says.

    Raises:
        NotSigned: it is no checkpoint of this log, or not by a key that is known.
    """
    try:
        read = Note.read(note.decode())
        by = read.signer(known)
    except ValueError as error:
        raise NotSigned("wrong key", f"of its last checkpoint, {error}") from None
    if by is None:
        raise NotSigned("wrong key", "its last checkpoint is by a key that is not in the keys folder")
    if (read.checkpoint.origin, read.checkpoint.size) != (origin, size):
        raise NotSigned("replaced", "its last checkpoint is of another log")
    return read.checkpoint.root


def _is_good(note: bytes, size: int, growth: _Growth, known: list[Verifier]) -> bool:
    try:
        return size <= growth.tree.size and root_of(note, size, growth.origin, known) == growth.tree.root(size)
    except NotSigned:
        return False
