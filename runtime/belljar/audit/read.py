"""What the records of a log say, each read strictly. `source` says where they come from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, NoReturn, cast

import msgspec

from belljar.audit.canonical import DEPTH_MAX, canonical
from belljar.audit.events import (
    HOST_RUNS,
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
from belljar.audit.source import Log, Source, looked_at, open_source, reading
from belljar.errors import InvalidInput, VerificationFailed
from belljar.journal.packs import Row
from belljar.journal.tables import RECORD_BYTES_MAX

__all__ = [
    "OTHER_RUN",
    "Record",
    "RunSummary",
    "head",
    "latest",
    "marks_below",
    "page_after",
    "parse",
    "parsed",
    "record_at",
    "records",
    "records_after",
    "records_below",
    "runs",
    "runs_backwards",
    "runs_before",
]

# Of a log in which little is wanted: half a second's work.
_LOOKED_AT_MAX = 20_000
# Of a record whose column names another run than its bytes; continues "record 7".
OTHER_RUN = "is stored under another run than it names"

_BEYOND = "~"  # no run's id has it
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
    """One run, as its first and last records tell it; what they do not say is None.

    The status is `abandoned` if the host died and a later one closed the run. `cost_nanousd` is without what the runs
    below it cost; `refused` is how many requests were. `replays` is the run that it did again.
    """

    run: str
    tenant: str | None
    started_ns: int
    status: str | None
    records: int
    root_model: str | None = None
    sub_model: str | None = None
    cost_nanousd: int | None = None
    refused: int | None = None
    replays: str | None = None


def runs(log: Log) -> list[RunSummary]:
    """Every run in the log, in the order of their first records.

    Raises:
        InvalidInput: `audit.missing`: there is no log.
        AuditUnavailable: it cannot be read.
        VerificationFailed: a record in it is not valid.
    """
    return list(_summaries(log, backwards=False))


def runs_backwards(log: Log) -> Generator[RunSummary, None, None]:
    """As `runs`, the latest first, each read when it is asked for. Close it."""
    return _summaries(log, backwards=True)


def _summaries(log: Log, *, backwards: bool) -> Generator[RunSummary, None, None]:
    with reading(open_source(log)) as source:
        known = _bounds(source)
        for bounds in reversed(known) if backwards else known:
            yield _summary(source, *bounds)


def _bounds(source: Source) -> list[tuple[str, int, int, int]]:
    """The first and the last record of each run, and how many there are."""
    if (known := source.bounds()) is not None:
        return known
    found: dict[str, tuple[str, int, int, int]] = {}
    for row in source.rows():
        record = parsed(row)
        _, first, _, count = found.get(record.run, (record.run, record.seq, 0, 0))
        found[record.run] = (record.run, first, record.seq, count + 1)
    return list(found.values())


def _summary(source: Source, run: str, first_seq: int, last_seq: int, count: int) -> RunSummary:
    first, last = record_at(source, first_seq), record_at(source, last_seq)
    begun = first.typed if isinstance(first.typed, RunStarted) else None
    status = cost = refused = None
    match last.typed:
        case RunFinished():
            status, cost, refused = last.typed.status, last.typed.cost_nanousd or 0, last.typed.refused
        case RunAbandoned():
            status, cost = "abandoned", last.typed.cost_nanousd
        case _:
            pass
    return RunSummary(
        run=run,
        tenant=begun.tenant if begun is not None else None,
        started_ns=first.time_ns,
        status=status,
        records=count,
        root_model=begun.root_model if begun is not None else None,
        sub_model=begun.sub_model if begun is not None else None,
        cost_nanousd=cost,
        refused=refused,
        replays=begun.replays if begun is not None else None,
    )


def latest(log: Log) -> str | None:
    """The run that began last of those that are nobody's children, and no replays; None if there is none.

    Raises as `runs`.
    """
    with reading(open_source(log)) as source:
        for run, first, *_ in reversed(_bounds(source)):
            if "." not in run and not _is_replay(source, first):
                return run
    return None


def runs_before(
    log: Log, before: str | None, is_wanted: Callable[[RunSummary], bool], *, limit: int, looks_max: int
) -> tuple[list[RunSummary], str | None]:
    """Runs that are nobody's children, the one with the highest id first, in time that does not grow with the log.

    Args:
        before: only those with lower ids.
        limit: so many that are wanted end it, and so does a look at `looks_max` runs.

    Returns:
        The runs, and the `before` that goes on from there; None if there are no more.

    Raises:
        As `runs`. A log that an older version made has none.
    """
    found: list[RunSummary] = []
    with reading(open_source(log)) as source:
        if not source.has_ledger():
            return [], None
        for _ in range(looks_max):
            before = _root_before(source, before)
            if before is None:
                return found, None
            bounds = source.bounds_of(before)
            assert bounds is not None, "it was found by its records"
            summary = _summary(source, before, *bounds)
            if is_wanted(summary):
                found.append(summary)
            if len(found) == limit:
                break
        return found, before


def _root_before(source: Source, before: str | None) -> str | None:
    """The next lower id of a run that is nobody's child."""
    while True:
        found = source.before(_BEYOND if before is None else before)
        if found is None:
            return None
        root, dot, _ = found.partition(".")
        if found not in HOST_RUNS and not dot:
            return root
        before = found if found in HOST_RUNS else f"{root}."  # all that is below it is skipped at once


def _is_replay(source: Source, first_seq: int) -> bool:
    begun = record_at(source, first_seq).typed
    return isinstance(begun, RunStarted) and begun.replays is not None


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
        known = source.below(run)
        return [run] if known is None else known  # a log of before there were child runs

    return _records(open_source(log), tree)


def marks_below(log: Log, run: str, every: int) -> list[int]:
    """The numbers of the first record and of each `every`-th one after it, of a run and of all runs below it.

    Raises as `records`, but reads no record; of a log that an older version made there is only the first.
    """
    with reading(open_source(log)) as source:
        if source.below(run) is None:
            return [1]
        return [row[0] for row in islice(source.tree(run), 0, None, every)]


def records_after(log: Log, seq: int, run: str | None = None) -> list[Record]:
    """The records with higher numbers than `seq`, of all runs, or of one and those below it, in order.

    Raises as `records`.
    """

    def look(log: Log) -> list[Record]:
        with reading(open_source(log)) as source:
            found = [parsed(row) for row in source.rows(after=seq)]
        return [record for record in found if run is None or record.run == run or record.run.startswith(f"{run}.")]

    return looked_at(log, look, lambda _: False)


def page_after(
    log: Log, seq: int, limit: int, *, run: str | None = None, wanted: Callable[[str], bool] | None = None
) -> tuple[list[Record], int | None]:
    """At most `limit` records with higher numbers than `seq`, of all runs or of one, and where the rest begins.

    Args:
        wanted: says of a run's id whether its records are; of no more than `_LOOKED_AT_MAX` records is it asked at a
            time, so a page may have fewer than there are.

    Returns:
        The records in order, and the number behind which the next page begins; None at the end.

    Raises as `records`.
    """
    found: list[Record] = []
    last = seq
    with reading(open_source(log)) as source:
        given = source.rows(run) if run is not None else source.rows(after=seq)
        with closing(cast("Generator[Row, None, None]", given)) as rows:  # before its connection is
            for count, row in enumerate(row for row in rows if row[0] > seq):
                if len(found) == limit or count == _LOOKED_AT_MAX:
                    return found, last
                last = row[0]
                record = parsed(row)
                if wanted is None or wanted(record.run):
                    found.append(record)
    return found, None


def head(log: Log) -> int:
    """The number of the last record; 0 if there is none.

    Raises as `records`, but looks at no record.
    """
    with reading(open_source(log)) as source:
        return source.head()


def _records(source: Source, wanted: Callable[[Source], Sequence[str | None]]) -> Iterator[Record]:
    """Those of each wanted run in turn; None is all runs."""
    with reading(source):
        for run in wanted(source):
            for row in source.rows(run):
                record = parsed(row)
                if run is None or record.run == run:
                    yield record


def record_at(source: Source, seq: int) -> Record:
    """The record of this number, of which something in the log says that it is there.

    Raises:
        VerificationFailed: it is not, or it is not valid.
    """
    row = next(source.rows(seq=seq), None)
    if row is None:
        raise VerificationFailed(f"record {seq} is gone from the audit log; verify the log")
    return parsed(row)


def parsed(row: Row) -> Record:
    """A record as it is stored.

    Raises:
        VerificationFailed: it is not valid.
    """
    seq, run, body, _ = row
    try:
        record = parse(seq, body)
        if run not in (None, record.run):
            raise ValueError(OTHER_RUN)
    except ValueError as error:
        raise VerificationFailed(f"record {seq} of the audit log {error}; verify the log") from None
    return record


def parse(seq: int, body: object, digest: str | None = None) -> Record:
    """Read the bytes of record `seq` strictly. Their hex SHA-256 is computed unless it is given.

    Raises:
        ValueError: they are not a canonical record; the text continues "record 7".
    """
    if not isinstance(body, bytes):
        raise ValueError(f"is not a blob of at most {RECORD_BYTES_MAX} bytes")
    digest = digest or hashlib.sha256(body).hexdigest()
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
