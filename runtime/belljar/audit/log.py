"""The log: append, and nothing else.

A record is one canonical JSON object, kept as the exact bytes that were hashed::

    {"data":{...},"event":"query.requested","prev":"<64 hex>","run":"r1","seq":7,"time_ns":1795392000000000000,"v":1}

`prev` is the SHA-256 of the bytes of record `seq - 1` (64 zeros for the first), so a record vouches for everything
before it. Canonical means: keys sorted by code point, no spaces, UTF-8, no floats, and only one way to write each
value, so that a verifier can demand the very bytes. `seq` and `prev` are assigned inside the write transaction; that
keeps one chain even when several processes append to one file.

Events are words joined by dots. An action with an effect outside the box is two records that share `data["action"]`:
`X.requested`, durable before the effect leaves the host, and then exactly one of `X.completed`, `X.failed`, `X.denied`.
A run begins with `run.started` (`data["tenant"]`) and ends with `run.finished` (`data["status"]`).

Text that comes from a guest is data like any other: JSON escapes what could look like structure, and its size is
capped. Bulk text never enters a record; callers write its SHA-256 and its length.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from belljar.errors import AuditUnavailable, InvalidInput
from belljar.writer import Job, Schema, Writer

__all__ = [
    "DEPTH_MAX",
    "EVENT",
    "JSON",
    "RECORD_BYTES_MAX",
    "SCHEMA",
    "STRING_CHARS_MAX",
    "AuditLog",
    "canonical",
]

JSON: TypeAlias = "bool | int | str | Sequence[JSON] | Mapping[str, JSON] | None"

EVENT = re.compile(r"[a-z_]+(\.[a-z_]+)+")
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

STRING_CHARS_MAX = 4096  # an error message or a search pattern; more than that is content, and kept elsewhere
RECORD_BYTES_MAX = 65536  # a batch of a few hundred calls with their hashes
DEPTH_MAX = 16
_INT_MAX = 2**63 - 1

SCHEMA = Schema(
    application_id=0x424A4155,  # "BJAU"
    version=1,
    statements=(
        """CREATE TABLE records (
            seq INTEGER PRIMARY KEY CHECK (seq >= 1),
            body BLOB NOT NULL CHECK (typeof(body) = 'blob'),
            hash BLOB NOT NULL CHECK (typeof(hash) = 'blob' AND length(hash) = 32))""",
        # Against our own mistakes. Whoever can write the file can drop them; the chain is for that.
        """CREATE TRIGGER records_are_not_changed BEFORE UPDATE ON records
            BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END""",
        """CREATE TRIGGER records_are_not_deleted BEFORE DELETE ON records
            BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END""",
    ),
)


class AuditLog:
    """An append-only log in one SQLite file, which other processes may append to as well.

    Args:
        path: the file, created if missing; None keeps the log in memory.
        clock: nanoseconds since the epoch. Called in the writing thread, in the order of `seq`.

    Raises:
        AuditUnavailable: the file cannot be opened, or is something else.
    """

    def __init__(self, path: Path | None, *, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._writer = Writer(path, what="audit log", schema=SCHEMA, unavailable=AuditUnavailable)

    async def append(self, event: str, run: str, fields: Mapping[str, JSON]) -> int:
        """Write one record. It is durable when this returns its `seq`. Cancelled, it may have been written.

        Raises:
            AuditUnavailable: it was not written, or an earlier `note` of this run was lost: do nothing that needs it.
            InvalidInput: `audit.event`, `audit.run` or `audit.too_long`.
            TypeError: a float, or something else that JSON does not have.
        """
        seq, _ = await self.seal(event, run, fields)
        return seq

    async def seal(self, event: str, run: str, fields: Mapping[str, JSON]) -> tuple[int, str]:
        """`append`, for a caller who keeps a receipt: gives `seq` and the hex SHA-256 of the record.

        Raises: as `append`.
        """
        return await self.submit(event, run, fields)

    def submit(self, event: str, run: str, fields: Mapping[str, JSON]) -> asyncio.Future[tuple[int, str]]:
        """`seal`, for a caller who has something else to do until it is durable.

        Raises: as `append`, what is wrong with the record itself at once, the rest from the future.
        """
        return self._writer.submit(self._record(event, run, fields), lane=run)

    async def note(self, event: str, run: str, fields: Mapping[str, JSON]) -> None:
        """Write one record before every later one, without waiting for the disk; waits only when too many are queued.

        Raises: as `append`; but when the disk refuses the record, the next `append` of this run raises it.
        """
        self.put(event, run, fields)
        await self.room()

    def put(self, event: str, run: str, fields: Mapping[str, JSON]) -> None:
        """`note`, for a caller that has waited for `room` and cannot be stopped between the record and what it is of.

        Raises: as `note`.
        """
        self._writer.submit_soon(self._record(event, run, fields), lane=run)

    async def room(self) -> None:
        """Return at once while few records are queued; otherwise when those are durable."""
        await self._writer.room()

    async def flush(self) -> None:
        """Return when every record so far is durable.

        Raises:
            AuditUnavailable: one is not, or a note was lost that no `append` reported yet.
        """
        await self._writer.flush()

    async def aclose(self) -> None:
        """Write what is queued, and close.

        Raises:
            AuditUnavailable: it could not be written, or a note was lost that no `append` reported.
        """
        await self._writer.aclose()

    def _record(self, event: str, run: str, fields: Mapping[str, JSON]) -> Job[tuple[int, str]]:
        """All but `seq`, `prev` and the time is made here: a bad record fails its caller and is never queued."""
        if not EVENT.fullmatch(event):
            raise InvalidInput(f"{event[:80]!a} is no event; write lower-case words joined by dots", code="audit.event")
        if not _RUN.fullmatch(run):
            raise InvalidInput(f"{run[:80]!a} is no run id; use letters, digits, '.', '_', '-'", code="audit.run")
        head = b'{"data":%b,"event":"%b","prev":"' % (canonical(fields), event.encode())
        tail = b'","run":"%b","seq":%%d,"time_ns":%%d,"v":1}' % run.encode()
        size = len(head) + 64 + len(tail) + 2 * len(str(_INT_MAX))
        if size > RECORD_BYTES_MAX:
            raise InvalidInput(
                f"a record of {size} bytes is too long for the audit log; write hashes and lengths of what is long",
                code="audit.too_long",
                limit=RECORD_BYTES_MAX,
                observed=size,
            )
        return lambda db: self._insert(db, head, tail)

    def _insert(self, db: sqlite3.Connection, head: bytes, tail: bytes) -> tuple[int, str]:
        # Read inside the transaction, never remembered: another process may have appended since.
        last = db.execute("SELECT seq, hash FROM records ORDER BY seq DESC LIMIT 1").fetchone()
        seq, prev = (last[0] + 1, last[1]) if last else (1, bytes(32))
        if seq > _INT_MAX or not isinstance(prev, bytes):
            raise AuditUnavailable("the last record of the audit log is not one of ours: verify the log")
        body = head + prev.hex().encode() + tail % (seq, self._clock())
        digest = hashlib.sha256(body)
        added = db.execute("INSERT INTO records VALUES (?, ?, ?)", (seq, body, digest.digest())).rowcount
        if added != 1:
            raise AuditUnavailable("the audit log did not take a record: verify the log")
        return int(seq), digest.hexdigest()


_encode: Final = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def canonical(value: JSON, *, depth_max: int = DEPTH_MAX) -> bytes:
    """The one way to write `value`.

    Raises:
        TypeError: a float, or something else that has no single form.
        InvalidInput: `audit.too_long`: a string, an integer or the nesting passes its limit.
    """
    plain = _plain(value, depth_max)
    text = _encode(plain)
    # What UTF-8 cannot carry are lone surrogates; they stand in strings only, where "\\ud800" is their JSON escape.
    return text.encode("utf-8", "backslashreplace")


def _plain(value: object, depth: int) -> object:
    if isinstance(value, str):
        return _string(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return _bounded(int(value), abs(value), _INT_MAX, "integer")
    if depth == 0:
        raise InvalidInput("a value is nested too deeply for the audit log; flatten it", code="audit.too_long")
    if isinstance(value, Mapping):
        return _mapping(value, depth)
    if isinstance(value, list | tuple):
        return [_plain(item, depth - 1) for item in value]
    raise TypeError(f"an audit record cannot hold a {type(value).__name__}; write integers and strings")


def _mapping(value: Mapping[object, object], depth: int) -> dict[str, object]:
    plain: dict[str, object] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise TypeError(f"an audit record cannot have a {type(key).__name__} as key; write a string")
        plain[_string(key)] = _plain(item, depth - 1)
    if len(plain) != len(value):
        raise TypeError("two keys of an audit record are the same text; rename one")
    return plain


def _string(value: str) -> str:
    """Refuse what is too long; join surrogates that are a pair, since a reader would join them."""
    _bounded(value, len(value), STRING_CHARS_MAX, "string")
    if value.isascii():
        return value
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return value


def _bounded(value: object, observed: int, limit: int, what: str) -> object:
    if observed > limit:
        raise InvalidInput(
            f"a {what} is too long for the audit log; write its SHA-256 and its length",
            code="audit.too_long",
            limit=limit,
            observed=min(observed, _INT_MAX + 1),
        )
    return value
