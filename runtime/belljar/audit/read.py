"""What the records of a log say, each read strictly. `source` says where they come from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, NoReturn

import msgspec

from belljar.audit.canonical import DEPTH_MAX, canonical
from belljar.audit.events import (
    VERSION,
    Count,
    Event,
    Number,
    RunAbandoned,
    RunFinished,
    RunStarted,
    Text,
    decoded,
    decoded_fast,
    encoded,
)
from belljar.audit.log import RECORD_BYTES_MAX
from belljar.audit.source import UNREADABLE, Log, Source, open_source
from belljar.errors import AuditUnavailable, InvalidInput, VerificationFailed

__all__ = [
    "OTHER_RUN",
    "Record",
    "RunSummary",
    "parse",
    "records",
    "records_below",
    "runs",
]

# Of a record whose column names another run than its bytes; continues "record 7".
OTHER_RUN = "is stored under another run than it names"

_FIELDS = {"data": dict, "event": str, "prev": str, "run": str, "seq": int, "time_ns": int, "v": int}


class Record(msgspec.Struct, frozen=True):
    """One record. `hash` is the SHA-256 of `body`, the bytes as stored; both hashes are lower-case hex.

    `run` is what the bytes say, whatever that is: a log may have been tampered with.
    """

    seq: int
    time_ns: int
    run: str
    typed: Event
    prev: str
    hash: str
    body: bytes

    @property
    def event(self) -> str:
        """The event's name."""
        return self.typed.name

    @property
    def data(self) -> dict[str, Any]:
        """The event's fields exactly as they are in the record, whatever its version."""
        fields: dict[str, Any] = json.loads(self.body)["data"]
        return fields


class RunSummary(msgspec.Struct, frozen=True):
    """One run. `tenant` and `status` are what `run.started` and `run.finished` say; None while there is none.

    The status is `abandoned` if the host died and a later one closed the run. `replays` is the run that it did again.
    """

    run: str
    tenant: str | None
    started_ns: int
    status: str | None
    records: int
    replays: str | None = None


def runs(log: Log) -> list[RunSummary]:
    """Every run in the log, in the order of their first records.

    Raises:
        InvalidInput: `audit.missing`: there is no log.
        AuditUnavailable: it cannot be read.
        VerificationFailed: a record in it is not valid.
    """
    with closing(open_source(log)) as source:
        try:
            return [_summary(source, *bounds) for bounds in _bounds(source)]
        except UNREADABLE as error:
            raise _unreadable(source, error) from error


def _bounds(source: Source) -> list[tuple[str, int, int, int]]:
    """The first and the last record of each run, and how many there are."""
    if (known := source.bounds()) is not None:
        return known
    found: dict[str, tuple[str, int, int, int]] = {}
    for row in source.rows():
        record = _parsed(*row[:3])
        _, first, _, count = found.get(record.run, (record.run, record.seq, 0, 0))
        found[record.run] = (record.run, first, record.seq, count + 1)
    return list(found.values())


def _summary(source: Source, run: str, first_seq: int, last_seq: int, count: int) -> RunSummary:
    first, last = (_parsed(*next(source.rows(seq=seq))[:3]) for seq in (first_seq, last_seq))
    started = first.typed if isinstance(first.typed, RunStarted) else None
    tenant, replays = (started.tenant, started.replays) if started is not None else (None, None)
    match last.typed:
        case RunFinished():
            status: str | None = last.typed.status
        case RunAbandoned():
            status = "abandoned"
        case _:
            status = None
    return RunSummary(run, tenant, first.time_ns, status, count, replays)


def _unreadable(source: Source, error: Exception) -> AuditUnavailable:
    return AuditUnavailable(f"the audit log {source.name} cannot be read: {error}; verify it")


def records(log: Log, run: str | None = None) -> Iterator[Record]:
    """The records of one run, or of all, in order. The chain is not checked: that is `verify`.

    For one run, no others are read; in a log that an older version made, all are, until a run migrates it.

    Raises:
        InvalidInput: `audit.missing`: there is no log.
        AuditUnavailable: it cannot be read.
        VerificationFailed: a record in it is not valid; raised when the iteration reaches it.
    """
    return _records(open_source(log), lambda _: [run])


def records_below(log: Log, run: str) -> Iterator[Record]:
    """The records of a run and of all runs below it, from one snapshot: run by run, each run after its parent.

    Raises as `records`.
    """

    def tree(source: Source) -> list[str]:
        if (known := source.bounds()) is None:
            return [run]  # a log of before there were child runs
        return [one for one, *_ in known if one == run or one.startswith(f"{run}.")]

    return _records(open_source(log), tree)


def _records(source: Source, wanted: Callable[[Source], Sequence[str | None]]) -> Iterator[Record]:
    """Those of each wanted run in turn; None is all runs."""
    with closing(source):
        try:
            for run in wanted(source):
                for seq, kept_run, body, _ in source.rows(run):
                    record = _parsed(seq, kept_run, body)
                    if run is None or record.run == run:
                        yield record
        except UNREADABLE as error:
            raise _unreadable(source, error) from error


def _parsed(seq: int, run: object, body: object) -> Record:
    try:
        record = parse(seq, body)
        if run not in (None, record.run):
            raise ValueError(OTHER_RUN)
    except ValueError as error:
        raise VerificationFailed(f"record {seq} of the audit log {error}; verify the log") from None
    return record


def parse(seq: int, body: object) -> Record:
    """Read the bytes of record `seq` strictly.

    Raises:
        ValueError: they are not a canonical record; the text continues "record 7".
    """
    if not isinstance(body, bytes):
        raise ValueError(f"is not a blob of at most {RECORD_BYTES_MAX} bytes")
    digest = hashlib.sha256(body).hexdigest()
    return _parse_fast(seq, body, digest) or _parse(seq, body, digest)


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    data: msgspec.Raw
    event: Text
    prev: Text
    run: Text
    seq: Count
    time_ns: Number
    v: Count


_ENVELOPES = msgspec.json.Decoder(_Envelope)
_ENCODER = msgspec.json.Encoder(order="sorted")


def _parse_fast(seq: int, body: bytes, digest: str) -> Record | None:
    """As `_parse`, in 4 µs instead of 54; None if that has to say more.

    What encodes to exactly the bytes that it was decoded from is canonical.
    """
    try:
        found = _ENVELOPES.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    if found.seq != seq or _ENCODER.encode(found) != body:
        return None
    event = decoded_fast(found.event, found.data, found.v)
    return None if event is None else Record(seq, found.time_ns, found.run, event, found.prev, digest, body)


def _parse(seq: int, body: bytes, digest: str) -> Record:
    fields = _object(body)
    if fields.keys() != _FIELDS.keys() or any(type(fields[name]) is not kind for name, kind in _FIELDS.items()):
        raise ValueError("does not have the fields of a record")
    if fields["seq"] != seq:
        raise ValueError(f"says that it is record {fields['seq']}")
    event = decoded(fields["event"], fields["data"], fields["v"])
    if 2 <= fields["v"] <= VERSION and encoded(event) != canonical(fields["data"]):
        raise ValueError("has a field that equals its default and should be left out")
    return Record(seq, fields["time_ns"], fields["run"], event, fields["prev"], digest, body)


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body.decode(), parse_float=_refuse_number, parse_constant=_refuse_number)
        if isinstance(value, dict) and canonical(value, depth_max=DEPTH_MAX + 1) == body:
            return value
    except (ValueError, TypeError, RecursionError, InvalidInput):
        raise ValueError("is not canonical JSON") from None
    raise ValueError("is not canonical JSON")


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(text)
