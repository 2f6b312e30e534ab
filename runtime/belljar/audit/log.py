"""The log: it can be appended to, and nothing else.

A record is one canonical JSON object, kept as the exact bytes that were hashed::

    {"data":{...},"event":"query.requested","prev":"<64 hex>","run":"r1","seq":7,"time_ns":1795392000000000000,"v":2}

`prev` is the SHA-256 of the bytes of record `seq - 1` (64 zeros for the first), so a record vouches for everything
before it. Canonical is what `canonical` says, and what an event has in `data` what `events` says. `seq` and `prev` are
assigned inside the write transaction; that keeps one chain even when several processes append to one file.

Text that comes from a guest is data like any other: JSON escapes what could look like structure, and its size is
capped. Bulk text never enters a record; callers write its SHA-256 and its length.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from belljar.audit.canonical import INT_MAX
from belljar.audit.events import VERSION, Event, encoded
from belljar.errors import AuditUnavailable, InvalidInput
from belljar.identity import RunId
from belljar.writer import Job, Schema, Writer

__all__ = ["RECORD_BYTES_MAX", "SCHEMA", "TAIL", "TAIL_BYTES_MAX", "AuditLog"]

RECORD_BYTES_MAX: Final = 65536  # a batch of a few hundred calls with their hashes

# Against our own mistakes. Anybody who can write the file can drop them; that is what the chain is for.
_TRIGGERS: Final = (
    """CREATE TRIGGER records_are_not_changed BEFORE UPDATE ON records
            BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END""",
    """CREATE TRIGGER records_are_not_deleted BEFORE DELETE ON records
            BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END""",
)
_WITHOUT_RUNS: Final = Schema(
    application_id=0x424A4155,  # "BJAU"
    version=1,
    statements=(
        """CREATE TABLE records (
            seq INTEGER PRIMARY KEY CHECK (seq >= 1),
            body BLOB NOT NULL CHECK (typeof(body) = 'blob'),
            hash BLOB NOT NULL CHECK (typeof(hash) = 'blob' AND length(hash) = 32))""",
        *_TRIGGERS,
    ),
)

# How every record ends: with its event and its run.
TAIL: Final = re.compile(
    rb'"event":"([a-z_.]+)","prev":"[0-9a-f]{64}","run":"([^"]{1,128})","seq":\d+,"time_ns":\d+,"v":\d+}\Z'
)
TAIL_BYTES_MAX: Final = 512


def _add_runs(db: sqlite3.Connection) -> None:
    """Copy all records into a table that has their runs. Bodies and hashes stay as they are, whatever they say."""
    db.create_function("run_of", 1, _run_of)
    for kind, name in db.execute("SELECT type, name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        db.execute(f"DROP {kind} {name}")
    db.execute("ALTER TABLE records RENAME TO records_without_runs")
    for statement in SCHEMA.statements:
        db.execute(statement)
    db.execute("INSERT INTO records SELECT seq, run_of(body), body, hash FROM records_without_runs ORDER BY seq")
    db.execute("DROP TABLE records_without_runs")
    db.create_function("run_of", 1, None)


def _run_of(body: bytes) -> str:
    """Empty for a record that was tampered with: `verify` will report it."""
    match = TAIL.search(body[-TAIL_BYTES_MAX:])
    return match[2].decode("utf-8", "replace") if match else ""


SCHEMA: Final = Schema(
    application_id=_WITHOUT_RUNS.application_id,
    version=2,
    statements=(
        # `run` repeats what the body says, so that one run is found without reading all; `verify` compares the two.
        """CREATE TABLE records (
            seq INTEGER PRIMARY KEY CHECK (seq >= 1),
            run TEXT NOT NULL CHECK (typeof(run) = 'text'),
            body BLOB NOT NULL CHECK (typeof(body) = 'blob'),
            hash BLOB NOT NULL CHECK (typeof(hash) = 'blob' AND length(hash) = 32))""",
        "CREATE INDEX records_of_run ON records (run)",
        *_TRIGGERS,
    ),
    older=_WITHOUT_RUNS,
    migrate=_add_runs,
)


class AuditLog:
    """An append-only log in one SQLite file, which other processes may append to as well.

    Args:
        path: the file, created if missing; None keeps the log in memory.
        clock: nanoseconds since the epoch. Called in the writing thread, in the order of `seq`.

    Raises:
        AuditUnavailable: the file cannot be opened, or is not a log.
    """

    def __init__(self, path: Path | None, *, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._writer = Writer(path, what="audit log", schema=SCHEMA, unavailable=AuditUnavailable)

    async def append(self, run: RunId, event: Event) -> int:
        """Write one record. It is durable when this returns its `seq`. If cancelled, it may still be written.

        Raises:
            AuditUnavailable: it was not written, or an earlier `note` of this run was lost: do nothing that needs it.
            InvalidInput: `audit.too_long`.
            TypeError: a field of the event has the wrong type.
        """
        seq, _ = await self.seal(run, event)
        return seq

    async def seal(self, run: RunId, event: Event) -> tuple[int, str]:
        """`append` for a caller that keeps a receipt: returns `seq` and the hex SHA-256 of the record.

        Raises: as `append`.
        """
        return await self.submit(run, event)

    def submit(self, run: RunId, event: Event) -> asyncio.Future[tuple[int, str]]:
        """`seal` for a caller that has something else to do until the record is durable.

        Raises: as `append`: what is wrong with the record itself at once, the rest from the future.
        """
        return self._writer.submit(self._record(run, event), lane=run)

    async def note(self, run: RunId, event: Event) -> None:
        """Write one record before every later one. Does not wait for the disk, unless too many records are queued.

        Raises: as `append`; but if the disk refuses the record, the next `append` of this run raises that.
        """
        self.put(run, event)
        await self.room()

    def put(self, run: RunId, event: Event) -> None:
        """`note` for a caller that has waited for `room`, and cannot be stopped between the record and what it records.

        Raises: as `note`.
        """
        self._writer.submit_soon(self._record(run, event), lane=run)

    async def room(self) -> None:
        """Return at once while few records are queued; otherwise when those are durable."""
        await self._writer.room()

    async def flush(self) -> None:
        """Return when every record so far is durable.

        Raises:
            AuditUnavailable: one is not, or a note was lost and no `append` has reported it yet.
        """
        await self._writer.flush()

    async def aclose(self) -> None:
        """Write what is queued, and close.

        Raises:
            AuditUnavailable: it could not be written, or a note was lost and no `append` reported it.
        """
        await self._writer.aclose()

    def _record(self, run: RunId, event: Event) -> Job[tuple[int, str]]:
        """Builds all but `seq`, `prev` and the time: a bad record fails its caller and is never queued."""
        head = b'{"data":%b,"event":"%b","prev":"' % (encoded(event), event.name.encode())
        tail = b'","run":"%b","seq":%%d,"time_ns":%%d,"v":%d}' % (run.encode(), VERSION)
        size = len(head) + 64 + len(tail) + 2 * len(str(INT_MAX))
        if size > RECORD_BYTES_MAX:
            raise InvalidInput(
                f"a record of {size} bytes is too long for the audit log; write long values as hash and length",
                code="audit.too_long",
                limit=RECORD_BYTES_MAX,
                observed=size,
            )
        return lambda db: self._insert(db, run, head, tail)

    def _insert(self, db: sqlite3.Connection, run: RunId, head: bytes, tail: bytes) -> tuple[int, str]:
        # Read inside the transaction, never remembered: another process may have appended since.
        last = db.execute("SELECT seq, hash FROM records ORDER BY seq DESC LIMIT 1").fetchone()
        seq, prev = (last[0] + 1, last[1]) if last else (1, bytes(32))
        if seq > INT_MAX or not isinstance(prev, bytes):
            raise AuditUnavailable("the last record of the audit log is not one of ours: verify the log")
        body = head + prev.hex().encode() + tail % (seq, self._clock())
        digest = hashlib.sha256(body)
        added = db.execute("INSERT INTO records VALUES (?, ?, ?, ?)", (seq, run, body, digest.digest())).rowcount
        if added != 1:
            raise AuditUnavailable("the audit log did not take a record: verify the log")
        return int(seq), digest.hexdigest()
