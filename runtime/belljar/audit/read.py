"""Reading a log without touching it.

The file is opened read-only and never created. In WAL mode SQLite would still create its two side files beside a closed
log; so if there is no `-wal` file, which means that no process has the log open, it is opened as immutable. A writer
that starts at that very moment only makes the answer older, or the read fail: `verify` then looks again.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
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
from belljar.errors import AuditUnavailable, InvalidInput, VerificationFailed
from belljar.journal.schema import SCHEMA, SqliteError, is_blank

__all__ = [
    "OTHER_RUN",
    "Record",
    "RunSummary",
    "connect",
    "foreign",
    "is_in_use",
    "parse",
    "records",
    "rows",
    "runs",
]

# Of a record whose column names another run than its bytes; continues "record 7".
OTHER_RUN = "is stored under another run than it names"

_FIELDS = {"data": dict, "event": str, "prev": str, "run": str, "seq": int, "time_ns": int, "v": int}

# A planted body of gigabytes is never loaded: it reads as NULL, and is refused.
_SELECT = f"SELECT seq, {{}}, CASE WHEN length(body) <= {RECORD_BYTES_MAX} THEN body END, hash FROM records"  # noqa: S608


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

    The status is `abandoned` if the host died and a later one closed the run.
    """

    run: str
    tenant: str | None
    started_ns: int
    status: str | None
    records: int


def runs(path: Path) -> list[RunSummary]:
    """Every run in the log, in the order of the first records.

    Raises:
        InvalidInput: `audit.missing`: there is no log.
        AuditUnavailable: it cannot be read.
        VerificationFailed: a record in it is not valid.
    """
    with closing(connect(path)) as db:
        try:
            return [_summary(db, *bounds) for bounds in _bounds(db)]
        except SqliteError as error:
            raise _unreadable(path, error) from error


def _bounds(db: sqlite3.Connection) -> list[tuple[str, int, int, int]]:
    """The first and the last record of each run, and how many there are."""
    if is_blank(db) or _has_runs(db):
        by_run = "SELECT run, min(seq), max(seq), count(*) FROM records GROUP BY run ORDER BY min(seq)"
        return [] if is_blank(db) else db.execute(by_run).fetchall()
    found: dict[str, tuple[str, int, int, int]] = {}
    for row in rows(db):
        record = _parsed(*row[:3])
        _, first, _, count = found.get(record.run, (record.run, record.seq, 0, 0))
        found[record.run] = (record.run, first, record.seq, count + 1)
    return list(found.values())


def _summary(db: sqlite3.Connection, run: str, first_seq: int, last_seq: int, count: int) -> RunSummary:
    first, last = (_parsed(*next(rows(db, seq=seq))[:3]) for seq in (first_seq, last_seq))
    tenant = first.typed.tenant if isinstance(first.typed, RunStarted) else None
    match last.typed:
        case RunFinished():
            return RunSummary(run, tenant, first.time_ns, last.typed.status, count)
        case RunAbandoned():
            return RunSummary(run, tenant, first.time_ns, "abandoned", count)
        case _:
            return RunSummary(run, tenant, first.time_ns, None, count)


def _unreadable(path: Path, error: Exception) -> AuditUnavailable:
    return AuditUnavailable(f"the audit log {path} cannot be read: {error}; verify it")


def records(path: Path, run: str | None = None) -> Iterator[Record]:
    """The records of one run, or of all, in order. The chain is not checked: that is `verify`.

    For one run, no others are read; in a log that an older version made, all are, until a run migrates it.

    Raises:
        InvalidInput: `audit.missing`: there is no log.
        AuditUnavailable: it cannot be read.
        VerificationFailed: a record in it is not valid; raised when the iteration reaches it.
    """
    return _records(connect(path), path, run)


def _records(db: sqlite3.Connection, path: Path, run: str | None) -> Iterator[Record]:
    with closing(db):
        try:
            for seq, kept_run, body, _ in rows(db, run):
                record = _parsed(seq, kept_run, body)
                if run is None or record.run == run:
                    yield record
        except SqliteError as error:
            raise _unreadable(path, error) from error


def _parsed(seq: int, run: object, body: object) -> Record:
    try:
        record = parse(seq, body)
        if run not in (None, record.run):
            raise ValueError(OTHER_RUN)
    except ValueError as error:
        raise VerificationFailed(f"record {seq} of the audit log {error}; verify the log") from None
    return record


def is_in_use(path: Path) -> bool:
    """Whether a process has the log open, or had it open when it was killed."""
    real = path.resolve()  # SQLite puts its side files beside what a symbolic link points to
    return real.with_name(real.name + "-wal").exists()


def connect(path: Path) -> sqlite3.Connection:
    """Open the log for reading. Raises as `records` does."""
    if not path.is_file():
        raise InvalidInput(f"there is no audit log at {path}; check the state folder", code="audit.missing")
    mode = "mode=ro" if is_in_use(path) else "mode=ro&immutable=1"
    uri = f"{path.absolute().as_uri()}?{mode}"
    db: sqlite3.Connection | None = None
    try:
        db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10)
        db.execute("PRAGMA trusted_schema=OFF")
        db.execute("SELECT 1 FROM sqlite_master").close()  # the side files are opened only now
    except SqliteError as error:
        if db is not None and not isinstance(error, sqlite3.OperationalError):
            return db  # the file is damaged: `rows` will say so
        if db is not None:
            db.close()
        raise AuditUnavailable(
            f"cannot open the audit log {path}: {error}; check its permissions, or copy it and its -wal file elsewhere"
        ) from error
    return db


def rows(
    db: sqlite3.Connection, run: str | None = None, *, seq: int | None = None
) -> Iterator[tuple[int, object, object, object]]:
    """(seq, run, body, hash) as stored, in order, from one snapshot; none from an empty file.

    Args:
        run: only this run's. In a log of an older version the run is None, and all records come.
        seq: only this record.

    Raises:
        sqlite3.Error: it is not a log, or cannot be read.
    """
    if is_blank(db):
        return
    if db.execute("PRAGMA application_id").fetchone()[0] != SCHEMA.application_id:
        raise sqlite3.DatabaseError("file is not an audit log")
    schema = SCHEMA.of(db)
    if schema is None:
        raise sqlite3.DatabaseError("a newer Belljar made it")
    if not schema.has_table(db, "records"):
        raise sqlite3.DatabaseError("its records are not a table as we make it")
    indexed = _has_runs(db)
    wanted = {"run": run if indexed else None, "seq": seq}
    where = " AND ".join(f"{name} = ?" for name, value in wanted.items() if value is not None)
    select = _SELECT.format("run" if indexed else "NULL") + (f" WHERE {where}" if where else "")
    yield from db.execute(f"{select} ORDER BY seq", [value for value in wanted.values() if value is not None])


def _has_runs(db: sqlite3.Connection) -> bool:
    """Whether the records have their runs in a column: since format 2."""
    schema = SCHEMA.of(db)
    return schema is not None and schema.version > 1


def foreign(db: sqlite3.Connection) -> str | None:
    """What in the file is not ours, or is missing, in a few words. Raises `sqlite3.Error`."""
    return None if is_blank(db) else (SCHEMA.of(db) or SCHEMA).foreign(db)


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
    if found.v != VERSION or found.seq != seq or _ENCODER.encode(found) != body:
        return None
    event = decoded_fast(found.event, found.data)
    return None if event is None else Record(seq, found.time_ns, found.run, event, found.prev, digest, body)


def _parse(seq: int, body: bytes, digest: str) -> Record:
    fields = _object(body)
    if fields.keys() != _FIELDS.keys() or any(type(fields[name]) is not kind for name, kind in _FIELDS.items()):
        raise ValueError("does not have the fields of a record")
    if fields["seq"] != seq:
        raise ValueError(f"says that it is record {fields['seq']}")
    event = decoded(fields["event"], fields["data"], fields["v"])
    if fields["v"] == VERSION and encoded(event) != canonical(fields["data"]):
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
