"""Contents are erased by destroying the key of their run: on request, and when their time is over.

Theory of operation. One transaction sets the wrapped key to NULL, and writes `content.erased` with who did it and why.
From then on the bodies are noise, wherever there are copies of them. They are deleted afterwards, some at a time, so
that no run waits long; the row of the key says that there may be bodies left (`until` is 1) until there are none
(`until` is 0), so that a later start goes on where a killed process stopped.

The log itself stays as it is, and verifies: a record names a content, and has never vouched for its body.

What SQLite deletes it overwrites with zeros in its file (`secure_delete`), but the pages as they were stay in the
`-wal` file until that is begun anew. `scrub` waits for that. A server keeps old rows until it has cleaned up, and its
own log for longer; and nobody reaches the copies that others have made. There the key of a run is still wrapped, and a
copy with the host's key opens it.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, Literal, NoReturn, TypeAlias

from belljar.audit.events import ContentsErased, RunStarted
from belljar.audit.log import AuditLog
from belljar.audit.read import record_at
from belljar.audit.source import UNREADABLE, Log, open_source, reading
from belljar.errors import AuditUnavailable, HostFault, InvalidInput
from belljar.identity import Tenant, runs_below, tenants_below
from belljar.journal import Draft, Job, Journal
from belljar.journal.schema import SqliteError
from belljar.journal.tables import CONTENT_KEYS, CONTENTS, RUNS, ContentKeyRow

__all__ = ["Why", "due", "erase", "expire", "forks_of", "of_run", "of_tenant", "oldest", "scrub", "sweep"]

Why: TypeAlias = Literal["erased", "age", "size"]

_RUNS_AT_ONCE: Final = 100
_BODIES_AT_ONCE: Final = 500
_PATIENCE_S: Final = 10.0
_WAIT_S: Final = 0.05
# How often a host looks for what is kept no longer.
_LOOK_S: Final = 600.0

_log = logging.getLogger("belljar")
_OF_RUN: Final = """SELECT run FROM content_keys
    WHERE wrapped IS NOT NULL AND (run = ? OR (run > ? AND run < ?)) ORDER BY run"""
_OF_TENANT: Final = """SELECT run FROM content_keys WHERE wrapped IS NOT NULL
    AND run IN (SELECT run FROM runs WHERE tenant = ? OR (tenant > ? AND tenant < ?)) ORDER BY run"""
_DUE: Final = """SELECT run FROM content_keys
    WHERE wrapped IS NOT NULL AND until > 0 AND until <= ? ORDER BY until LIMIT ?"""
_SIZES: Final = (
    "SELECT run, sum(length(body)) FROM contents WHERE run IN "
    "(SELECT run FROM content_keys WHERE wrapped IS NOT NULL) GROUP BY run ORDER BY run DESC"
)
_LEFT: Final = "SELECT run FROM content_keys WHERE until > 0 AND until <= 1 LIMIT 1"
_WITH_CONTENTS: Final = "SELECT run, wrapped IS NOT NULL FROM content_keys"
_BODIES: Final = "SELECT digest, part FROM contents WHERE run = ? LIMIT ?"


async def of_run(journal: Journal, run: str) -> list[str]:
    """The run, and those below it, of which contents are kept."""
    return await _asked(journal, _OF_RUN, run, *runs_below(run))


async def of_tenant(journal: Journal, tenant: Tenant) -> list[str]:
    """The runs of a tenant, and of those below it, of which contents are kept."""
    return await _asked(journal, _OF_TENANT, str(tenant), *tenants_below(tenant))


async def due(journal: Journal, runs_max: int) -> list[str]:
    """Those whose time is over, at most so many, the oldest first."""
    return await _asked(journal, _DUE, int(journal.now()), runs_max)


def oldest(log: Log, bytes_max: int) -> list[str]:
    """The runs, the oldest first, without whose contents those of the others take no more than so many bytes.

    Blocks, and goes through all contents: so it looks from outside, and no run waits for it.

    Raises:
        AuditUnavailable: the journal cannot be read.
    """
    with closing(open_source(log)) as source:
        try:
            found = source.ask(_SIZES)
        except UNREADABLE as error:
            raise AuditUnavailable(f"the contents in {source.name} cannot be read: {error}; verify it") from error
    kept, left_out = 0, []
    for run, size in found:  # the newest first: a run's id begins with its time
        kept += int(size)
        if kept > bytes_max:
            left_out.append(str(run))
    return left_out[::-1]


def forks_of(log: Log, runs: Sequence[str]) -> list[str]:
    """The forks of these runs, and the forks of forks, of which contents are kept, with copies of theirs among them.

    Blocks, and looks how each run began that ever had contents: a fork has a key of its own, and only that tells whose.

    Raises:
        AuditUnavailable: the journal cannot be read.
        VerificationFailed: a record in it is not valid.
    """
    with reading(open_source(log)) as source:
        kept = {str(run): bool(there) for run, there in source.ask(_WITH_CONTENTS)}
        begun = {run: record_at(source, first).typed for run, first, *_ in source.bounds() or () if run in kept}
    forked = {run: event.forks for run, event in begun.items() if isinstance(event, RunStarted) and event.forks}
    found = set(runs)
    while more := {run for run, of in forked.items() if of in found} - found:
        found |= more
    return sorted(run for run in found.difference(runs) if kept[run])


async def erase(journal: Journal, audit: AuditLog, runs: Sequence[str], *, by: str, why: Why) -> list[str]:
    """Destroy the keys of these runs and delete what is kept of them. Returns of which there was something.

    A run that is under way is left alone where its time is over.

    Raises:
        InvalidInput: `content.live`: somebody wants to erase a run that is under way; no run of the same hundred is.
        AuditUnavailable: it cannot be written. Those of which the log has a record are erased.
    """
    erased: list[str] = []
    for start in range(0, len(runs), _RUNS_AT_ONCE):
        some = runs[start : start + _RUNS_AT_ONCE]
        erased += await journal.submit(_destroying(audit, some, by, why), unavailable=AuditUnavailable)
    await sweep(journal)
    return erased


def _destroying(audit: AuditLog, runs: Sequence[str], by: str, why: Why) -> Job[list[str]]:
    entries = [(run, audit.host_entry(ContentsErased(of=run, by=by, why=why))) for run in runs]

    def work(draft: Draft) -> list[str]:
        return [run for run, entry in entries if _destroyed(draft, run, entry, why)]

    return Job(work, tuple((table, (run,)) for run in runs for table in (CONTENT_KEYS, RUNS)))


def _destroyed(draft: Draft, run: str, entry: Job[object], why: Why) -> bool:
    row = draft.get(CONTENT_KEYS, run)
    if row is None or row.wrapped is None:
        return False
    account = draft.get(RUNS, run)
    if account is not None and account.is_open:
        if why != "erased":
            return False
        raise InvalidInput(f"run {run} is under way: end it first, then erase it", code="content.live")
    draft.put(CONTENT_KEYS, ContentKeyRow(run, row.host_key, None, 1, why))
    entry.work(draft)
    return True


async def sweep(journal: Journal) -> None:
    """Delete the bodies whose keys are gone, some at a time."""
    while await journal.submit(Job(_swept), unavailable=AuditUnavailable):
        pass


def _swept(draft: Draft) -> bool:
    """Whether there may be more."""
    left = draft.query(_LEFT)
    if not left:
        return False
    run = str(left[0][0])
    bodies = draft.query(_BODIES, run, _BODIES_AT_ONCE)
    for digest, part in bodies:
        draft.remove(CONTENTS, run, digest, part)
    if len(bodies) < _BODIES_AT_ONCE and (row := draft.get(CONTENT_KEYS, run)) is not None:
        draft.put(CONTENT_KEYS, row._replace(until=0))
    return True


def scrub(log: Log, patience_s: float = _PATIENCE_S) -> bool:
    """Leave nothing in the files of what was deleted. Blocks; of a server this says nothing.

    Returns:
        False if a process read from the file all the time: what was deleted is then still in its `-wal` file.

    Raises:
        AuditUnavailable: it cannot be done.
    """
    if not isinstance(log, Path):
        return True
    deadline = time.monotonic() + patience_s
    try:
        # Whoever waits for readers here holds up all writers: so only for moments, again and again.
        with closing(sqlite3.connect(log, isolation_level=None, timeout=_WAIT_S)) as db:
            while True:
                ((busy, _, _),) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                if not busy or time.monotonic() > deadline:
                    return not busy
                time.sleep(_WAIT_S)
    except SqliteError as error:
        raise AuditUnavailable(f"what was erased may still be in {log}-wal: {error}; erase it again") from error


async def expire(journal: Journal, audit: AuditLog, log: Log, bytes_max: int | None = None) -> NoReturn:
    """Erase what is kept no longer, now and every ten minutes, until it is cancelled.

    Args:
        bytes_max: what all contents together may take; the oldest runs beyond it make room. None is no limit.
    """
    while True:
        try:
            erased = await erase(journal, audit, await due(journal, _RUNS_AT_ONCE), by="host", why="age")
            pruned: list[str] = []
            if not erased and bytes_max is not None:
                beyond = await asyncio.to_thread(oldest, log, bytes_max)
                pruned = await erase(journal, audit, beyond, by="host", why="size")
            if erased or pruned:
                await asyncio.to_thread(scrub, log)
        except HostFault as error:
            erased = []
            _log.warning("belljar: contents that are kept no longer are not erased yet: %s", error)
        if not erased:
            await asyncio.sleep(_LOOK_S)


async def _asked(journal: Journal, statement: str, *values: object) -> list[str]:
    found = await journal.submit(Job(lambda draft: draft.query(statement, *values)), unavailable=AuditUnavailable)
    return [str(run) for (run,) in found]
