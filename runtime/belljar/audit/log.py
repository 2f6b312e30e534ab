"""The log: it can be appended to, and nothing else.

A record is one canonical JSON object, kept as the exact bytes that were hashed::

    {"data":{...},"event":"query.requested","prev":"<64 hex>","run":"r1","seq":7,"time_ns":1795392000000000000,"v":6}

`prev` is the SHA-256 of the bytes of record `seq - 1` (64 zeros for the first), so a record vouches for everything
before it. Canonical is what `canonical` says, and what an event has in `data` what `events` says. `seq` and `prev` are
assigned inside the write transaction; that keeps one chain even when several processes append to one file.

Text that comes from a guest is data like any other: JSON escapes what could look like structure, and its size is
capped. Bulk text never enters a record; callers write its SHA-256 and its length.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Final

from belljar.audit.canonical import INT_MAX
from belljar.audit.events import VERSION, Event, encoded, host_run
from belljar.errors import AuditUnavailable, InvalidInput
from belljar.identity import RunId
from belljar.journal import Draft, Job, Journal
from belljar.journal.packs import Packs
from belljar.journal.schema import tail_of
from belljar.journal.tables import RECORD_BYTES_MAX, RecordRow

__all__ = ["AuditLog"]

_BOUNDS: Final = ("run.started", "run.finished", "run.abandoned")


class AuditLog:
    """An append-only log in a journal, which other processes may append to as well.

    Args:
        journal: where it is kept. Close it when nothing is to be logged any more.
        clock: nanoseconds since the epoch. Called in the writing thread, in the order of `seq`.
    """

    def __init__(self, journal: Journal, *, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._journal = journal
        self._tell: Callable[[RunId, Event, int], None] | None = None
        self._written = [0]  # one for all that tell, too
        self._heard: list[Callable[[str, Event], None]] = []  # likewise

    @property
    def written(self) -> int:
        """About how many records were written here: those of a failed round count, too."""
        return self._written[0]

    def telling(self, tell: Callable[[RunId, Event, int], None]) -> AuditLog:
        """The same log, which also tells the running loop of each record of a run and its `seq`, in their order.

        It tells as they are made ready for the disk: their transaction may still fail, and fails the run then. Or it
        is run once more, behind what another host wrote meanwhile: then the record's `seq` is a larger one.
        """
        log = AuditLog(self._journal, clock=self._clock)
        log._tell, log._written, log._heard = tell, self._written, self._heard
        return log

    def heard_by(self, hear: Callable[[str, Event], None]) -> None:
        """From now on `hear` is called with each record, of a run or of none, in their order and in the writing thread.

        It is called as they are made ready for the disk, once each: their transaction may still fail. It must be quick,
        for all that is logged waits for it, and must not raise: that would fail what is logged.
        """
        self._heard.append(hear)

    async def append(self, run: RunId, *events: Event, beside: Job[object] | None = None) -> int:
        """Write records, together. They are durable when this returns the `seq` of the last. Cancelled, they may be.

        What `beside` writes is written in the same transaction.

        Raises:
            AuditUnavailable: they were not written, or an earlier `note` of this run was lost: do nothing that needs
                them.
            InvalidInput: `audit.too_long`.
            TypeError: a field of an event has the wrong type.
        """
        job = self.entry(run, *events).then(beside)
        seq, _ = await self._journal.submit(job, lane=run, unavailable=AuditUnavailable)
        return seq

    async def note(self, run: RunId, event: Event) -> None:
        """Write one record before every later one. Does not wait for the disk, unless too many records are queued.

        Raises: as `append`; but if the disk refuses the record, the next `append` of this run raises that.
        """
        self.put(run, event)
        await self.room()

    def put(self, run: RunId, event: Event, *, beside: Job[object] | None = None) -> None:
        """`note` for a caller that has waited for `room`, and cannot be stopped between the record and what it records.

        Raises: as `note`.
        """
        self._journal.submit_soon(self.entry(run, event).then(beside), lane=run, unavailable=AuditUnavailable)

    async def room(self) -> None:
        """Return at once while few records are queued; otherwise when those are durable."""
        await self._journal.room(AuditUnavailable)

    async def flush(self) -> None:
        """Return when every record so far is durable.

        Raises:
            AuditUnavailable: one is not, or a note was lost and no `append` has reported it yet.
        """
        await self._journal.flush(AuditUnavailable)

    def entry(self, run: RunId, *events: Event) -> Job[tuple[int, str]]:
        """The writing of records, for who writes something else in the same transaction.

        Gives `seq` and the hex SHA-256 of the last one. All but `seq`, `prev` and the time is made here: a bad record
        fails its caller and is never queued.

        Raises:
            InvalidInput, TypeError: as `append`.
        """
        made = self._entry(run, events)
        return made if self._tell is None else _told(made, functools.partial(self._tell, run), events)

    def host_entry(self, event: Event) -> Job[tuple[int, str]]:
        """As `entry`, of a record that belongs to no run.

        Raises:
            TypeError: it belongs to one.
        """
        if (run := host_run(event)) is None:
            raise TypeError(f"a {event.name} belongs to a run")
        return self._entry(run, (event,))

    def _entry(self, run: str, events: Sequence[Event]) -> Job[tuple[int, str]]:
        parts = [_parts(run, event) for event in events]

        left = list(events) if self._heard else []

        def work(draft: Draft) -> tuple[int, str]:
            for head, tail in parts:
                made = self._append(draft, run, head, tail)
            while left:  # not again, where the round is
                event = left.pop(0)
                for hear in self._heard:
                    hear(run, event)
            return made

        return Job(work)

    def end_if_open(self, run: RunId, event: Event) -> Job[None]:
        """As `entry`, of a record that ends a run; nothing is written where the log has its end, or no beginning."""
        ending = self.entry(run, event)

        def work(draft: Draft) -> None:
            if _is_open(draft, run):
                ending.work(draft)

        return Job(work)

    def _append(self, draft: Draft, run: str, head: bytes, tail: bytes) -> tuple[int, str]:
        last, prev = draft.head()
        seq = last + 1
        if seq > INT_MAX or not isinstance(prev, bytes):
            raise AuditUnavailable("the last record of the audit log is not one of ours: verify the log")
        body = head + prev.hex().encode() + tail % (seq, self._clock())
        digest = hashlib.sha256(body)
        draft.append(RecordRow(seq, run, body, digest.digest()))
        self._written[0] += 1
        return seq, digest.hexdigest()


def _is_open(draft: Draft, run: RunId) -> bool:
    """Whether the log has the run's beginning and not its end. Looked for from the last record backwards."""
    for _, _, body, _ in Packs(draft.query).rows(where="run = ?", values=(run,), backwards=True):
        tail = tail_of(body) if isinstance(body, bytes) else None
        if tail is not None and tail[1] == run and tail[0] in _BOUNDS:
            return tail[0] == "run.started"
    return False


def _told(
    job: Job[tuple[int, str]], tell: Callable[[Event, int], None], events: Sequence[Event]
) -> Job[tuple[int, str]]:
    """The job, which tells of its events the first time that it is run. Not all are: some are for what went wrong."""
    loop, left = asyncio.get_running_loop(), list(events)

    def work(draft: Draft) -> tuple[int, str]:
        done = job.work(draft)
        with contextlib.suppress(RuntimeError):  # the loop is closed, and who listened is gone
            while left:
                loop.call_soon_threadsafe(tell, left[0], done[0] + 1 - len(left))
                left.pop(0)
        return done

    return Job(work, job.needs)


def _parts(run: str, event: Event) -> tuple[bytes, bytes]:
    """A record's bytes before its `prev`, and those after it."""
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
    return head, tail
