"""Whether a host could sign its log now, and what to do where it could not. It only looks: nothing is made or changed.

Three things have to be right, and each is looked at by itself:

    the key         it is there, whole and nobody else's to read, and the last checkpoint in the log is by it, or by one
                    that signed here before
    the log         it is the one that was signed at this place, has as many records, and ends that part as it did
    the witness     where one is configured, it has what was signed last

Of the log only the records at the ends of what was signed are read. Whether each of them is what it was, `verify` says.
"""

from __future__ import annotations

import hashlib
from contextlib import closing
from typing import Final

import msgspec

from belljar.audit.checkpoint import NOTE_BYTES_MAX, origin_of
from belljar.audit.merkle import leaf_hash
from belljar.audit.signing import HostKeys, NotSigned, Signed, place_of, root_of
from belljar.audit.source import UNREADABLE, Log, Source, looked_at, open_source
from belljar.audit.witness import Told
from belljar.errors import AuditUnavailable, InvalidInput
from belljar.keys import Keys

__all__ = ["Check", "signing_checks"]

_KEY: Final = "the key that signs the log"
_LOG: Final = "the log is the one that was signed"
_WITNESS: Final = "the witness has what was signed"
_LAST: Final = f"""SELECT size, CASE WHEN length(note) <= {NOTE_BYTES_MAX} THEN note END FROM checkpoints
    ORDER BY size DESC LIMIT 1"""  # noqa: S608 (a constant)
_ACCEPT: Final = "if this log is right, run `belljar audit checkpoint --accept-restored`"
_PUT_BACK: Final = f"put back the log that was signed, and look with `belljar audit verify`; {_ACCEPT}"
_FIND_KEY: Final = f"put the keys folder back from a backup, or name it with BELLJAR_KEYS; {_ACCEPT}"


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at. If it is not right, `why` says what is wrong, and `remedy` what to do.

    `note`: what there is to know where it is right.
    """

    name: str
    note: str = ""
    why: str = ""
    remedy: str = ""


class _Seen(msgspec.Struct, frozen=True):
    """What of a log matters here. `last` is its last checkpoint; `at_signed` the hash of the record signed last."""

    origin: str | None
    head: int
    last: tuple[int, object] | None = None
    signed: Signed | None = None
    at_signed: bytes | None = None


def signing_checks(log: Log, keys: Keys, witness: Told | None = None) -> list[Check]:
    """Look at all of it. Blocks; what cannot be read is in what is returned, and not raised.

    Args:
        witness: how pushing to the witness went last; None where none is configured.
    """
    return looked_at(
        log, lambda log: _checks(log, HostKeys(keys), witness), lambda found: not any(c.why for c in found)
    )


def _checks(log: Log, keys: HostKeys, witness: Told | None) -> list[Check]:
    try:
        seen = _look(log, keys)
    except AuditUnavailable as error:
        return [_told(_LOG, error)]
    except UNREADABLE as error:
        return [Check(_LOG, why=f"it cannot be read: {error}", remedy="look with `belljar audit verify`")]
    found = [_check_key(keys, seen), _check_log(keys, seen, place_of(log))]
    return found if witness is None else [*found, _check_witness(witness, seen)]


def _look(log: Log, keys: HostKeys) -> _Seen:
    try:
        source = open_source(log)
    except InvalidInput:  # there is none yet
        return _Seen(None, 0)
    with closing(source):
        first = next(source.rows(seq=1), None)
        head = source.head()
        if first is None or not isinstance(first[2], bytes):
            return _Seen("", head) if head else _Seen(None, 0)
        origin = origin_of(leaf_hash(first[2]))
        signed = keys.signed(origin)
        last = _last(source)
        at_signed = None if signed is None else next(source.rows(seq=signed.size), None)
        body = None if at_signed is None else at_signed[2]
        digest = hashlib.sha256(body).digest() if isinstance(body, bytes) else None
        return _Seen(origin, head, last, signed, digest)


def _last(source: Source) -> tuple[int, object] | None:
    # What is not as we make it is not asked: a view of that name could take for ever. `verify` reports it.
    if not source.has_ledger() or source.foreign() is not None:
        return None
    return next(((size, note) for size, note in source.ask(_LAST)), None)


def _check_key(keys: HostKeys, seen: _Seen) -> Check:
    try:
        present = keys.present()
        if present is None and seen.last is None and seen.signed is None:
            return Check(_KEY, note="there is none yet: it is made when the first run ends")
        if present is None:
            why = "the log was signed, but its key is not in the keys folder"
            return Check(_KEY, why=f"{why} {keys.folder}", remedy=_FIND_KEY)
        if seen.last is not None and seen.origin:
            size, note = seen.last
            root_of(note if isinstance(note, bytes) else b"", size, seen.origin, keys.known())
    except AuditUnavailable as error:
        return _told(_KEY, error)
    except NotSigned as error:
        return Check(_KEY, why=f"{error.what}: {keys.folder}", remedy=_FIND_KEY)
    return Check(_KEY, note=present.vkey)


def _check_log(keys: HostKeys, seen: _Seen, place: str) -> Check:
    try:
        before = keys.at(place)
    except AuditUnavailable as error:
        return _told(_LOG, error)
    signed = seen.signed
    if before is not None and before != seen.origin:
        is_gone = seen.origin is None
        return Check(
            _LOG, why=f"another one was signed at {place}{', and now there is none' * is_gone}", remedy=_PUT_BACK
        )
    if seen.origin == "":
        return Check(_LOG, why="its first records are gone", remedy=_PUT_BACK)
    sizes = [0 if signed is None else signed.size, 0 if seen.last is None else seen.last[0]]
    if seen.head < max(sizes):
        return Check(_LOG, why=f"it has {seen.head} records, but {max(sizes)} were signed", remedy=_PUT_BACK)
    if signed is not None and seen.at_signed != signed.head:
        return Check(_LOG, why=f"record {signed.size} is not the one that was signed", remedy=_PUT_BACK)
    if not seen.head:
        return Check(_LOG, note="there is none yet")
    return Check(_LOG, note=f"the first {max(sizes)} of {seen.head} records are signed")


def _check_witness(told: Told, seen: _Seen) -> Check:
    signed = 0 if seen.signed is None else seen.signed.size
    has = told.size or 0
    if told.error is None and has >= signed:
        return Check(_WITNESS, note=f"{told.witness}: the first {has} records")
    failed = "" if told.error is None else f", and did not take the last checkpoint ({told.error})"
    return Check(
        _WITNESS,
        why=f"{told.witness} has the first {has} records, of {signed} that are signed{failed}",
        remedy="see why it took no more, and run `belljar audit checkpoint`, which pushes the last one again",
    )


def _told(name: str, error: AuditUnavailable) -> Check:
    """Such an error ends with what to do."""
    why, _, remedy = str(error).rpartition("; ")
    return Check(name, why=why or remedy, remedy=remedy if why else "")
