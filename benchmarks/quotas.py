"""What quota and log add to a model call, in a process of its own: `python -m benchmarks.quotas`, for `quota_table`.

    (at the start)                                   {"python"}
    {"do": "open", "kind", "where", "run", "limit"}  {}           where: a path, a URL, or null for memory
    {"do": "fill", "records"}                        {}           until the log has so many
    {"do": "act", "callers", "seconds"}              {"taken_us": [...], "wall_s", "cpu_s"}
    {"do": "exhaust", "callers", "call_s"}           {"spent"}    actions until each caller was refused

It ends when stdin does. A whole action is: there is room at three levels of a tenant and in the run, the worst case is
held, and a record says what is asked; then what it cost is charged, and a record says so. What the model does meanwhile
takes no time, except in `exhaust`. All of it is on the disk when the action is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import sqlite3
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import asyncpg

from belljar.audit import AuditLog
from belljar.audit.events import QueryCompleted, QueryRequested, RunStarted
from belljar.errors import HostFault, QuotaExceeded
from belljar.identity import RunId, Tenant
from belljar.journal import Draft, Job, open_journal
from belljar.ledger import NOTHING, Amounts, Ledger, Limits, accounts
from belljar.ledger.base import minute_of

__all__ = ["FREE", "GROUP", "KINDS", "TENANT", "Keeper", "act", "completed", "exhaust", "requested"]

TENANT: Final = Tenant("acme/research/alice")
FREE: Final = Limits("total", None, None, None, None, None)
_HELD: Final = Amounts(calls=1, input_tokens=900, output_tokens=400, cost_nanousd=8_700_000)
_USED: Final = Amounts(calls=1, input_tokens=310, output_tokens=120, cost_nanousd=2_730_000)
_DIGEST: Final = "5" * 64
# What a record of a query comes to.
_RECORD_BYTES: Final = 512
# Ten records to each reservation in a store that is filled: a call comes with reads. So many reservations are one
# transaction, by the ledger's own rules: each page is written once for all of them, and the books are right.
_FILL_RECORDS: Final = 10
_FILL_ACTIONS: Final = 2000
# Rows in each transaction of the floor for many writers.
GROUP: Final = 256


class Keeper(Protocol):
    """Somebody who says whether a call may be made, and keeps what it cost."""

    async def open(self, limit: int | None) -> None:
        """Begin a run; the tenant may make so many calls in all."""
        ...

    async def act(self, call_s: float = 0.0) -> bool:
        """One whole action around a call that takes so long. False: it was refused, and nothing was called."""
        ...

    async def aclose(self) -> None: ...


def _limits(calls: int | None) -> Limits:
    return Limits("total", calls, None, None, None, None)


def requested(action: str) -> QueryRequested:
    return QueryRequested(
        action=action,
        cell=1,
        attempt=1,
        model="scripted:null",
        purpose="sub",
        prompt_sha256=_DIGEST,
        prompt_bytes=900,
        output_tokens_max=400,
    )


def completed(action: str) -> QueryCompleted:
    return QueryCompleted(
        action=action,
        calls=_USED.calls,
        input_tokens=_USED.input_tokens,
        output_tokens=_USED.output_tokens,
        cost_nanousd=_USED.cost_nanousd,
        reply_sha256=_DIGEST,
        reply_bytes=480,
        answered_by="scripted:null",
        stop_reason="end_turn",
    )


# ----------------------------------------------------------------------------------------------------------------- ours


class Journaled:
    """Log and ledger in one journal: two transactions an action.

    With `lazy` it does as the broker: nobody waits for the second transaction, which goes with the next request.
    """

    def __init__(self, where: str | None, run: str, *, lazy: bool = False) -> None:
        place = where if where is None or "://" in where else Path(where)
        self._journal = open_journal(place, unavailable=HostFault)
        self._audit, self._ledger = AuditLog(self._journal), Ledger(self._journal, owner=run)
        self._run = RunId(run)
        self._lazy = lazy
        self._actions = 0
        self._records = 1
        self._ends: set[asyncio.Task[None]] = set()

    async def open(self, limit: int | None) -> None:
        started = self._audit.entry(self._run, RunStarted(tenant=TENANT, contexts=[]))
        await self._ledger.open_run(self._run, TENANT, run_limits=FREE, tenant_limits=_limits(limit), beside=started)

    async def act(self, call_s: float = 0.0) -> bool:
        action = self._next()
        asked = self._audit.entry(self._run, requested(action))
        try:
            reservation = await self._ledger.reserve(self._run, _HELD, now=time.time(), dispatched=True, beside=asked)
        except QuotaExceeded:
            return False
        await _call(call_s)
        told = self._audit.entry(self._run, completed(action))
        settling = self._ledger.settle(reservation, _USED, lazy=self._lazy, beside=told)
        if not self._lazy:
            await settling
            return True
        end = asyncio.create_task(settling)
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)
        return True

    async def fill(self, records: int) -> None:
        """Act until the log has so many records, with a tenth as many reservations."""
        while (left := -(-(records - self._records) // _FILL_RECORDS)) > 0:
            actions, action, minute = min(left, _FILL_ACTIONS), self._next(), minute_of(time.time())
            asked = self._audit.entry(self._run, *[requested(action)] * (_FILL_RECORDS // 2))
            told = self._audit.entry(self._run, *[completed(action)] * (_FILL_RECORDS // 2))
            await self._journal.submit(Job(partial(self._fill, actions, minute, asked, told)))
            self._records += actions * _FILL_RECORDS

    def _fill(self, actions: int, minute: str, asked: Job[object], told: Job[object], draft: Draft) -> None:
        for _ in range(actions):
            reservation = accounts.new_id(_HELD)
            accounts.reserve(draft, reservation, self._run, _HELD, NOTHING, minute, "dispatched")
            asked.work(draft)
            accounts.end(draft, reservation, "settled", _USED)
            told.work(draft)

    async def aclose(self) -> None:
        await asyncio.gather(*self._ends)
        await self._ledger.aclose()
        await self._journal.aclose()

    def _next(self) -> str:
        self._actions += 1
        return f"{self._run}.{self._actions}"


class Recorded:
    """One record of the log, by itself: no ledger takes part."""

    def __init__(self, where: str | None, run: str) -> None:
        self._journal = open_journal(None if where is None else Path(where), unavailable=HostFault)
        self._audit = AuditLog(self._journal)
        self._run = RunId(run)
        self._actions = 0

    async def open(self, limit: int | None) -> None:
        await self._audit.append(self._run, RunStarted(tenant=TENANT, contexts=[]))

    async def act(self, call_s: float = 0.0) -> bool:
        self._actions += 1
        await self._audit.append(self._run, requested(f"{self._run}.{self._actions}"))
        return True

    async def aclose(self) -> None:
        await self._journal.aclose()


class TwoFiles:
    """Log and ledger in a file each, as they were before: the same parts, and four transactions an action."""

    def __init__(self, where: str, run: str) -> None:
        journals = [open_journal(Path(where + end), unavailable=HostFault) for end in (".log", ".ledger")]
        self._journals = journals
        self._audit, self._ledger = AuditLog(journals[0]), Ledger(journals[1], owner=run)
        self._run = RunId(run)
        self._actions = 0

    async def open(self, limit: int | None) -> None:
        await self._ledger.open_run(self._run, TENANT, run_limits=FREE, tenant_limits=_limits(limit))
        await self._audit.append(self._run, RunStarted(tenant=TENANT, contexts=[]))

    async def act(self, call_s: float = 0.0) -> bool:
        self._actions += 1
        action = f"{self._run}.{self._actions}"
        await self._audit.append(self._run, requested(action))
        try:
            reservation = await self._ledger.reserve(self._run, _HELD, now=time.time(), dispatched=True)
        except QuotaExceeded:
            return False
        await _call(call_s)
        await self._ledger.settle(reservation, _USED)
        await self._audit.append(self._run, completed(action))
        return True

    async def aclose(self) -> None:
        await self._ledger.aclose()
        for journal in self._journals:
            await journal.aclose()


# -------------------------------------------------------------------------------------------------- check, then act


class Naive:
    """Reads what was spent, compares, calls, and writes afterwards: how a budget is usually kept. In SQLite."""

    def __init__(self, where: str, run: str) -> None:
        self._accounts = (*map(str, TENANT.levels), f"run:{run}")
        self._limit: int | None = None
        self._db = _sqlite(where)
        self._db.execute("CREATE TABLE IF NOT EXISTS spent (account TEXT PRIMARY KEY, calls INTEGER, cost INTEGER)")
        self._db.execute("CREATE TABLE IF NOT EXISTS calls (id INTEGER PRIMARY KEY, account TEXT, record BLOB)")
        self._db.executemany("INSERT OR IGNORE INTO spent VALUES (?, 0, 0)", [(name,) for name in self._accounts])

    async def open(self, limit: int | None) -> None:
        self._limit = limit

    async def act(self, call_s: float = 0.0) -> bool:
        marks = ", ".join("?" * len(self._accounts))
        spent = self._db.execute(f"SELECT calls FROM spent WHERE account IN ({marks})", self._accounts).fetchall()
        if self._limit is not None and any(calls >= self._limit for (calls,) in spent):
            return False
        await _call(call_s)
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(
            "UPDATE spent SET calls = calls + 1, cost = cost + ? WHERE account = ?",
            [(_USED.cost_nanousd, name) for name in self._accounts],
        )
        self._db.execute(
            "INSERT INTO calls (account, record) VALUES (?, ?)", (self._accounts[-1], bytes(_RECORD_BYTES))
        )
        self._db.execute("COMMIT")
        return True

    async def aclose(self) -> None:
        self._db.close()


class NaiveOnServer:
    """`Naive` in PostgreSQL, with a connection for each caller."""

    _CONNECTIONS: Final = 16

    def __init__(self, where: str, run: str) -> None:
        self._where = where
        self._accounts = [*map(str, TENANT.levels), f"run:{run}"]
        self._limit: int | None = None
        self._pool: Any = None

    async def open(self, limit: int | None) -> None:
        self._limit = limit
        self._pool = await asyncpg.create_pool(self._where, min_size=1, max_size=self._CONNECTIONS)
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(1)")  # four processes may come at once
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS spent (account text PRIMARY KEY, calls int8, cost int8)"
            )
            await connection.execute("CREATE TABLE IF NOT EXISTS calls (id bigserial, account text, record bytea)")
            names = [(name,) for name in self._accounts]
            await connection.executemany("INSERT INTO spent VALUES ($1, 0, 0) ON CONFLICT DO NOTHING", names)

    async def act(self, call_s: float = 0.0) -> bool:
        async with self._pool.acquire() as connection:
            spent = await connection.fetch("SELECT calls FROM spent WHERE account = ANY($1)", self._accounts)
        if self._limit is not None and any(calls >= self._limit for (calls,) in spent):
            return False
        await _call(call_s)
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.executemany(
                "UPDATE spent SET calls = calls + 1, cost = cost + $1 WHERE account = $2",
                [(_USED.cost_nanousd, name) for name in self._accounts],
            )
            await connection.execute(
                "INSERT INTO calls (account, record) VALUES ($1, $2)", self._accounts[-1], bytes(_RECORD_BYTES)
            )
        return True

    async def aclose(self) -> None:
        await self._pool.close()


# --------------------------------------------------------------------------------------------------------------- floors


class Floor:
    """What nobody gets below. Nothing is refused here."""

    async def open(self, limit: int | None) -> None:
        """Nothing to begin."""

    async def aclose(self) -> None:
        """Nothing to end."""


class Flush(Floor):
    """One record at the end of a file, flushed."""

    def __init__(self, where: str, _run: str) -> None:
        self._file = os.open(where, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        self._record = bytes(_RECORD_BYTES)

    async def act(self, call_s: float = 0.0) -> bool:
        os.write(self._file, self._record)
        os.fdatasync(self._file)
        return True


class Commit(Floor):
    """One row in SQLite, with the settings of the journal."""

    def __init__(self, where: str, _run: str) -> None:
        self._db = _sqlite(where)
        self._db.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, record BLOB)")

    async def act(self, call_s: float = 0.0) -> bool:
        self._db.execute("INSERT INTO rows (record) VALUES (?)", (bytes(_RECORD_BYTES),))
        return True


class RecordFlush(Flush):
    """The bytes of one record of the log at the end of a file, flushed."""

    async def open(self, limit: int | None) -> None:
        async with contextlib.AsyncExitStack() as stack:
            journal = open_journal(None, unavailable=HostFault)
            stack.push_async_callback(journal.aclose)
            await AuditLog(journal).append(RunId("r1"), requested("r1.1"))
            rows = await journal.submit(Job(lambda draft: draft.query("SELECT body FROM records")))
        self._record = rows[0][0]


class GroupCommit(Commit):
    """`GROUP` rows in one transaction of SQLite: what many writers could share."""

    async def act(self, call_s: float = 0.0) -> bool:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT INTO rows (record) VALUES (?)", [(bytes(_RECORD_BYTES),)] * GROUP)
        self._db.execute("COMMIT")
        return True


class RoundTrip(Floor):
    """`SELECT 1`."""

    def __init__(self, where: str, _run: str) -> None:
        self._where = where
        self._connection: Any = None

    async def open(self, limit: int | None) -> None:
        self._connection = await asyncpg.connect(self._where)

    async def act(self, call_s: float = 0.0) -> bool:
        await self._connection.fetchval("SELECT 1")
        return True

    async def aclose(self) -> None:
        await self._connection.close()


def _sqlite(where: str) -> sqlite3.Connection:
    db = sqlite3.connect(where, timeout=60, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    return db


async def _call(call_s: float) -> None:
    """Also a call that takes no time lets others go on meanwhile."""
    await asyncio.sleep(call_s)


KINDS: Final[dict[str, Callable[[Any, str], Keeper]]] = {
    "ours": Journaled,
    "lazy": lambda where, run: Journaled(where, run, lazy=True),
    "record": Recorded,
    "two files": TwoFiles,
    "naive": Naive,
    "naive on a server": NaiveOnServer,
    "flush": Flush,
    "flush of a record": RecordFlush,
    "commit": Commit,
    "commit of many": GroupCommit,
    "round trip": RoundTrip,
}

# ---------------------------------------------------------------------------------------------------------- the process


async def act(keeper: Keeper, callers: int, seconds: float) -> dict[str, Any]:
    """So many callers, each one action after another, for so long: how long each took, and what all took together."""
    taken_us: list[int] = []
    cpu, started = time.process_time(), time.perf_counter()
    until = started + seconds

    async def caller() -> None:
        while (begun := time.perf_counter()) < until:
            if not await keeper.act():
                raise RuntimeError("it was refused, though nothing is limited")
            taken_us.append(round((time.perf_counter() - begun) * 1e6))

    await asyncio.gather(*(caller() for _ in range(callers)))
    return {"taken_us": taken_us, "wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - cpu}


async def exhaust(keeper: Keeper, callers: int, call_s: float) -> int:
    """How many calls were made until every caller was refused."""

    async def caller() -> int:
        made = 0
        while await keeper.act(call_s):
            made += 1
        return made

    return sum(await asyncio.gather(*(caller() for _ in range(callers))))


class _Process:
    def __init__(self) -> None:
        self._keeper: Keeper | None = None

    async def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        if order["do"] == "open":
            self._keeper = KINDS[order["kind"]](order["where"], order["run"])
            await self._keeper.open(order["limit"])
            return {}
        assert self._keeper is not None, "open comes first"
        match order["do"]:
            case "act":
                return await act(self._keeper, order["callers"], order["seconds"])
            case "exhaust":
                return {"spent": await exhaust(self._keeper, order["callers"], order["call_s"])}
            case "fill":
                assert isinstance(self._keeper, Journaled)
                await self._keeper.fill(order["records"])
                return {}
            case unknown:
                raise ValueError(unknown)

    async def aclose(self) -> None:
        if self._keeper is not None:
            await self._keeper.aclose()


def main() -> None:
    process = _Process()
    print(json.dumps({"python": platform.python_version()}), flush=True)
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            print(json.dumps(runner.run(process.obey(json.loads(line)))), flush=True)
        runner.run(process.aclose())


if __name__ == "__main__":
    main()
