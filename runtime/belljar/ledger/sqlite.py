"""The embedded ledger: one SQLite file, shared by all processes on the machine that have it open.

Each public method is one job of the `Writer`, so it is one step inside a transaction that holds the write lock: what it
reads cannot change before what it writes is committed. That is the whole argument against overspending, and the reason
why no number is cached in memory.

Tables::

    limits        account, period -> limits                 what an operator set
    runs          run -> tenant, owner, limits, open?
    reservations  id -> run, day, state, asked, actual      the journal: one row each, changed only forward
    balances      account, key -> used, held                the sums of the journal, kept up to date with it

A reservation counts on several *pages*, rows of `balances`: one for each day, month and total of each level of its
tenant, so that a limit set later in the month already covers the month. The run's own account has only the page of its
limit's period. `balances` could be recomputed from `reservations` at any time; `check_books` does so.

What ends something (a settlement, a release, the closing of a run) has to be written even if the ledger is out of reach
at the time; otherwise its amounts would stay held for as long as this process lives. So an end that fails is *owed*: it
is tried again, in order, before the next request. If it was done after all, it then does nothing.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import msgspec

from belljar.errors import InvalidInput, LedgerUnavailable, QuotaExceeded
from belljar.identity import RunId, Tenant
from belljar.ledger.base import (
    DIMENSIONS,
    NOTHING,
    USED_UP,
    Abandoned,
    Amounts,
    Balance,
    Limits,
    Remaining,
    Room,
    check_amounts,
    check_limits,
    period_key,
    run_account,
)
from belljar.writer import Job, Schema, Writer

__all__ = ["SCHEMA", "SqliteLedger"]

_T = TypeVar("_T")
_Name = TypeVar("_Name", RunId, Tenant)
# How soon a failed write is tried again if nothing else is asked of the ledger.
_AGAIN_S = 5.0


def _columns(template: str, names: Iterable[str] = DIMENSIONS) -> str:
    """`template` once for each dimension, `{}` being its name."""
    return ", ".join(template.format(name) for name in names)


# typeof: a sum beyond 64 bits would silently become a float
_WHOLE = "CHECK ({0} >= 0 AND typeof({0}) = 'integer')"
_SIDES = [f"{side}_{dimension}" for side in ("used", "held") for dimension in DIMENSIONS]

SCHEMA: Final = Schema(
    application_id=0x424A4C47,  # "BJLG"
    version=2,
    statements=(
        f"""CREATE TABLE limits (
            account TEXT NOT NULL, period TEXT NOT NULL, {_columns("{} INTEGER")},
            PRIMARY KEY (account, period)) WITHOUT ROWID""",
        """CREATE TABLE runs (
            run TEXT PRIMARY KEY, tenant TEXT NOT NULL, owner TEXT NOT NULL,
            run_limits BLOB NOT NULL, tenant_limits BLOB NOT NULL, is_open INTEGER NOT NULL) WITHOUT ROWID""",
        "CREATE INDEX open_runs ON runs (owner) WHERE is_open = 1",
        f"""CREATE TABLE reservations (
            id TEXT PRIMARY KEY, run TEXT NOT NULL, day TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('held', 'dispatched', 'settled', 'released')),
            {_columns("{} INTEGER NOT NULL")}, {_columns("actual_{} INTEGER")}) WITHOUT ROWID""",
        "CREATE INDEX open_reservations ON reservations (run) WHERE state IN ('held', 'dispatched')",
        f"""CREATE TABLE balances (
            account TEXT NOT NULL, key TEXT NOT NULL,
            {_columns("{0} INTEGER NOT NULL DEFAULT 0 " + _WHOLE, _SIDES)},
            PRIMARY KEY (account, key)) WITHOUT ROWID""",
    ),
)

# Every name in these is one of the constants above.
_LIMITS = f"SELECT period, {_columns('{}')} FROM limits WHERE account = ? ORDER BY period"  # noqa: S608
_SET_LIMITS = f"INSERT OR REPLACE INTO limits VALUES (?, ?, {_columns('?')})"  # noqa: S608
_RESERVE = f"INSERT INTO reservations VALUES (?, ?, ?, ?, {_columns('?')}, {_columns('NULL')})"  # noqa: S608
_FIND = f"SELECT run, day, state, {_columns('{}')} FROM reservations WHERE id = ?"  # noqa: S608
_ENDED = f"UPDATE reservations SET state = ?, {_columns('actual_{} = ?')} WHERE id = ?"  # noqa: S608
_BALANCE = f"SELECT {', '.join(_SIDES)} FROM balances WHERE account = ? AND key = ?"  # noqa: S608
_HOLD = f"""INSERT INTO balances (account, key, {_columns("held_{}")}) VALUES (?, ?, {_columns("?")})
    ON CONFLICT (account, key) DO UPDATE SET {_columns("held_{0} = held_{0} + excluded.held_{0}")}"""  # noqa: S608
_END = f"""UPDATE balances SET {_columns("used_{0} = used_{0} + ?")}, {_columns("held_{0} = held_{0} - ?")}
    WHERE account = ? AND key = ?"""  # noqa: S608
_JOURNAL = f"""SELECT run, day,
    {_columns("sum(CASE WHEN state = 'settled' THEN actual_{} ELSE 0 END)")},
    {_columns("sum(CASE WHEN state IN ('held', 'dispatched') THEN {} ELSE 0 END)")}
    FROM reservations GROUP BY run, day"""  # noqa: S608

# What one run holds on the pages of one key: `2026-11-23`, `2026-11`, or all of them for `total`.
_HELD_BY = f"""SELECT {_columns("coalesce(sum({}), 0)")} FROM reservations
    WHERE run = ? AND state IN ('held', 'dispatched') AND (? = 'total' OR substr(day, 1, length(?)) = ?)"""  # noqa: S608
_DISPATCHED = f"""SELECT {_columns("coalesce(sum({}), 0)")} FROM reservations
    WHERE run = ? AND state IN ('held', 'dispatched') AND state = 'dispatched'"""  # noqa: S608 (the index's own words)
_USED = f"SELECT {_columns('coalesce(sum(used_{}), 0)')} FROM balances WHERE account = ?"  # noqa: S608


class _Run(NamedTuple):
    run: RunId
    tenant: Tenant
    run_limits: Limits
    tenant_limits: Limits
    is_open: bool


class _Reservation(NamedTuple):
    id: str
    run: RunId
    day: str
    state: str
    asked: Amounts


class SqliteLedger:
    """`Ledger` in one SQLite file.

    Args:
        path: the file, created if missing; None keeps the ledger in memory.
        owner: names whoever opens the runs, and nobody else ever; `recover` asks about it.

    Raises:
        LedgerUnavailable: the file cannot be opened, or is not a ledger.
    """

    def __init__(self, path: Path | None, *, owner: str) -> None:
        self._owner = owner
        self._writer = Writer(path, what="ledger", schema=SCHEMA, unavailable=LedgerUnavailable)
        # Not one event for all: it belongs to the loop that first waits for it, and a ledger may outlive a loop.
        self._watching = weakref.WeakSet[asyncio.Event]()
        self._owed: list[Job[None]] = []
        self._again: asyncio.TimerHandle | None = None

    async def open_run(
        self, run: RunId, tenant: Tenant, *, run_limits: Limits, tenant_limits: Limits, now: float
    ) -> None:
        check_limits(run_limits)
        check_limits(tenant_limits)
        row = (run, tenant, self._owner, msgspec.json.encode(run_limits), msgspec.json.encode(tenant_limits))
        await self._submit(lambda db: _insert_run(db, row))

    async def set_limits(self, tenant: Tenant, limits: Limits) -> None:
        account = tenant
        check_limits(limits)
        row = (account, limits.period, *_values(limits))
        await self._submit(lambda db: _execute(db, _SET_LIMITS, *row))

    async def clear_limits(self, tenant: Tenant) -> None:
        account = tenant
        await self._submit(lambda db: _execute(db, "DELETE FROM limits WHERE account = ?", account))

    async def limits(self, tenant: Tenant) -> list[Limits]:
        account = tenant
        return await self._submit(lambda db: _limits(db, account))

    async def reserve(
        self, run: RunId, amounts: Amounts, *, now: float, dispatched: bool = False, kept: Amounts = NOTHING
    ) -> str:
        check_amounts(amounts)
        reservation = secrets.token_hex(12)
        day = period_key("day", now)
        state = "dispatched" if dispatched else "held"
        try:
            await self._submit(lambda db: _reserve(db, reservation, run, amounts, kept, day, state))
        except (asyncio.CancelledError, LedgerUnavailable):
            self._owe(lambda db: _end_if_open(db, reservation, "released", NOTHING))  # nobody will know the id
            raise
        return reservation

    async def dispatch(self, reservation: str) -> None:
        await self._submit(lambda db: _dispatch(db, reservation))

    async def settle(self, reservation: str, actual: Amounts, *, lazy: bool = False) -> None:
        check_amounts(actual)
        await self._end(reservation, "settled", actual, lazy=lazy)

    async def release(self, reservation: str) -> None:
        await self._end(reservation, "released", NOTHING)

    async def _end(self, reservation: str, state: str, charged: Amounts, *, lazy: bool = False) -> None:
        try:
            await self._submit(
                lambda db: _end(db, _open_reservation(db, reservation, state), state, charged), lazy=lazy
            )
        except LedgerUnavailable:
            self._owe_later(lambda db: _end_if_open(db, reservation, state, charged))
            raise
        self._tell()

    async def remaining(self, run: RunId, *, now: float, for_program: bool = False) -> Remaining:
        day = period_key("day", now)
        return await self._submit(lambda db: _remaining(db, run, day, for_program))

    async def room(self, run: RunId, *, now: float) -> Room:
        day = period_key("day", now)
        return await self._submit(lambda db: _room(db, run, day))

    def freed(self) -> asyncio.Event:
        event = asyncio.Event()
        self._watching.add(event)
        return event

    def _tell(self) -> None:
        for event in self._watching:
            event.set()

    async def close_run(self, run: RunId) -> None:
        try:
            await self._submit(lambda db: _close_run(db, run))
        except LedgerUnavailable:
            self._owe_later(lambda db: _close_run(db, run))
            raise
        self._tell()

    async def balance(self, account: str, key: str) -> Balance:
        return await self._submit(lambda db: _balance(db, account, key))

    async def spent(self, account: str, key: str) -> Amounts:
        return (await self.balance(account, key)).used

    async def recover(
        self, is_alive: Callable[[str], bool], before: Callable[[Abandoned], Awaitable[None]] | None = None
    ) -> int:
        # The caller's functions do not run under the write lock. A dead owner stays dead, and so do its runs.
        owners = await self._submit(_owners)
        dead = [owner for owner in owners if owner != self._owner and not is_alive(owner)]
        abandoned = await self._submit(lambda db: _abandoned_by(db, dead))
        for one in abandoned:
            if before is not None:
                await before(one)
            await self.close_run(one.run)
        return len(abandoned)

    async def check_books(self) -> list[str]:
        return await self._submit(_check_books)

    async def aclose(self) -> None:
        self._catch_up()
        await self._writer.aclose()

    # -- what is owed ------------------------------------------------------------------------------------------------

    def _submit(self, job: Job[_T], *, lazy: bool = False) -> asyncio.Future[_T]:
        self._catch_up()
        return self._writer.submit(job, lazy=lazy)

    def _catch_up(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        owed, self._owed = self._owed, []
        for job in owed:
            self._owe(job)

    def _owe(self, job: Job[None]) -> None:
        """Do it now, or later if that fails."""
        try:
            done = self._writer.submit(job)
        except LedgerUnavailable:  # closed: `recover` will do it
            return
        done.add_done_callback(lambda done: self._look_at(done, job))

    def _look_at(self, done: asyncio.Future[None], job: Job[None]) -> None:
        if not done.cancelled() and isinstance(done.exception(), LedgerUnavailable):
            self._owe_later(job)

    def _owe_later(self, job: Job[None]) -> None:
        self._owed.append(job)
        if self._again is None:
            self._again = asyncio.get_running_loop().call_later(_AGAIN_S, self._catch_up)


# -- runs and limits ---------------------------------------------------------------------------------------------------


def _execute(db: sqlite3.Connection, statement: str, *values: object) -> None:
    db.execute(statement, values)


def _insert_run(db: sqlite3.Connection, row: tuple[str, str, str, bytes, bytes]) -> None:
    try:
        _took(db.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?, 1)", row))
    except sqlite3.IntegrityError:
        raise InvalidInput(f"run {row[0]} already exists; choose another id", code="run.exists") from None


def _run(db: sqlite3.Connection, run: RunId) -> _Run:
    row = db.execute("SELECT tenant, run_limits, tenant_limits, is_open FROM runs WHERE run = ?", (run,)).fetchone()
    if row is None:
        raise LedgerUnavailable(f"the ledger has no run {run[:80]!a}; call open_run first")
    tenant, run_limits, tenant_limits, is_open = row
    return _Run(run, _stored(Tenant, tenant), _decode(run_limits), _decode(tenant_limits), bool(is_open))


def _stored(kind: type[_Name], name: object) -> _Name:
    """A name as stored: one that is not valid was not written by us."""
    try:
        return kind(str(name))
    except InvalidInput as error:
        raise LedgerUnavailable(f"a name in the ledger is not ours: {error}; set its file aside") from None


def _open_run(db: sqlite3.Connection, run: RunId) -> _Run:
    found = _run(db, run)
    if not found.is_open:
        raise LedgerUnavailable(f"run {run} is closed in the ledger; start a new run")
    return found


def _decode(limits: bytes) -> Limits:
    return msgspec.json.decode(limits, type=Limits)


def _limits(db: sqlite3.Connection, account: str) -> list[Limits]:
    return [Limits(*row) for row in db.execute(_LIMITS, (account,))]


def _bounds(db: sqlite3.Connection, run: _Run) -> Iterator[tuple[str, Limits]]:
    """Every account of the run with every limit on it: from the root down to the tenant, then the run itself."""
    for account in run.tenant.levels:
        for limits in _limits(db, account) or [run.tenant_limits]:
            yield account, limits
    yield run_account(run.run), run.run_limits


def _pages(run: _Run, day: str) -> list[tuple[str, str]]:
    """The (account, key) pairs of `balances` on which a reservation of this run and day counts."""
    keys = (day, day[:7], "total")
    pages = [(account, key) for account in run.tenant.levels for key in keys]
    return [*pages, (run_account(run.run), _key(run.run_limits, day))]


def _key(limits: Limits, day: str) -> str:
    return {"day": day, "month": day[:7], "total": "total"}[limits.period]


# -- reservations ------------------------------------------------------------------------------------------------------


def _reserve(
    db: sqlite3.Connection, reservation: str, run_id: RunId, asked: Amounts, kept: Amounts, day: str, state: str
) -> None:
    run = _open_run(db, run_id)
    for account, limits in _bounds(db, run):
        _admit(_balance(db, account, _key(limits, day)), asked, kept, account, limits, day, told=_told(account, run))
    values, pages = _values(asked), _pages(run, day)
    _took(db.executemany(_HOLD, [(*page, *values) for page in pages]), len(pages))
    _took(db.execute(_RESERVE, (reservation, run_id, day, state, *values)))


def _told(account: str, run: _Run) -> str | None:
    """What the run's program is told when `account` is used up; None for everything, since it is its own."""
    if account in (run.tenant, run_account(run.run)):
        return None
    return USED_UP


def _took(cursor: sqlite3.Cursor, rows: int = 1) -> None:
    """Raise unless the rows were written: a planted trigger can drop them silently."""
    if cursor.rowcount != rows:
        raise LedgerUnavailable("the ledger did not take what was written: set its file aside for inspection")


def _admit(
    balance: Balance,
    asked: Amounts,
    kept: Amounts,
    account: str,
    limits: Limits,
    day: str,
    *,
    told: str | None = None,
) -> None:
    for dimension in DIMENSIONS:
        limit = getattr(limits, dimension)
        used, held = getattr(balance.used, dimension), getattr(balance.held, dimension)
        wanted, spare = getattr(asked, dimension), getattr(kept, dimension)
        if limit is None or not wanted or used + held + spare + wanted <= limit:
            continue
        alone = used + spare + wanted  # what is held will be given back: it counts only if nothing else is in the way
        raise QuotaExceeded(
            _refusal(account, limits, day, dimension, limit, (used, held, spare, wanted)),
            code=_code(account, dimension),
            limit=limit,
            observed=alone if alone > limit else alone + held,
            told=told,
        )


def _code(account: str, dimension: str) -> str:
    """The key of the policy that sets the limit."""
    is_run = account.startswith("run:")
    if is_run and dimension == "read_bytes":
        return "context.read_total"
    key = {"cost_nanousd": "cost", "read_bytes": "read"}.get(dimension, dimension)
    return f"quota.{'run' if is_run else 'tenant'}.{key}"


def _refusal(
    account: str, limits: Limits, day: str, dimension: str, limit: int, amounts: tuple[int, int, int, int]
) -> str:
    used, held, spare, wanted = amounts
    who = account.replace("run:", "run ", 1) if account.startswith("run:") else f"tenant {account}"
    when = {"day": f"for the day {day} (UTC)", "month": f"for the month {day[:7]} (UTC)", "total": "in total"}
    remedy = {"day": "wait for the next day", "month": "wait for the next month", "total": "raise the limit"}
    parts = [(used, "used"), (held, "held by work under way"), (spare, "kept for the root model")]
    taken = ", ".join(f"{_shown(dimension, part)} {what}" for part, what in parts if part)
    return (
        f"{who} has {_shown(dimension, max(0, limit - used - held - spare))} of {_shown(dimension, limit)} left "
        f"{when[limits.period]}, {_shown(dimension, wanted)} asked{f' ({taken})' if taken else ''}; "
        f"ask for less or {remedy[limits.period]}"
    )


def _shown(dimension: str, value: int) -> str:
    if dimension != "cost_nanousd":
        return f"{value} {dimension}"
    whole, part = divmod(value, 10**9)
    return f"{whole}.{f'{part:09d}'.rstrip('0').ljust(2, '0')} USD"


def _find(db: sqlite3.Connection, reservation: str) -> _Reservation | None:
    row = db.execute(_FIND, (reservation,)).fetchone()
    return row and _Reservation(reservation, _stored(RunId, row[0]), row[1], row[2], Amounts(*row[3:]))


def _open_reservation(db: sqlite3.Connection, reservation: str, wish: str) -> _Reservation:
    found = _find(db, reservation)
    if found is None:
        raise LedgerUnavailable(f"the ledger has no reservation {reservation[:80]!a}; nothing was changed")
    if found.state not in ("held", "dispatched"):
        raise LedgerUnavailable(
            f"double end: reservation {reservation} is already {found.state} and cannot be {wish}; nothing was changed"
        )
    return found


def _dispatch(db: sqlite3.Connection, reservation: str) -> None:
    found = _open_reservation(db, reservation, "dispatched")
    if found.state != "held":
        raise LedgerUnavailable(f"reservation {reservation} was already dispatched; reserve once for each request")
    _took(db.execute("UPDATE reservations SET state = 'dispatched' WHERE id = ?", (reservation,)))


def _end(db: sqlite3.Connection, found: _Reservation, state: str, charged: Amounts) -> None:
    pages = _pages(_run(db, found.run), found.day)
    values = (*_values(charged), *_values(found.asked))
    changed = db.executemany(_END, [(*values, *page) for page in pages]).rowcount
    if changed != len(pages):
        raise LedgerUnavailable(f"the ledger lacks a balance of run {found.run}; stop and call check_books")
    _took(db.execute(_ENDED, (state, *_values(charged), found.id)))


def _end_if_open(db: sqlite3.Connection, reservation: str, state: str, charged: Amounts) -> None:
    found = _find(db, reservation)
    if found is not None and found.state in ("held", "dispatched"):
        _end(db, found, state, charged)


def _close_run(db: sqlite3.Connection, run: RunId) -> None:
    _run(db, run)
    rows = db.execute(
        "SELECT id FROM reservations WHERE run = ? AND state IN ('held', 'dispatched') ORDER BY id", (run,)
    ).fetchall()
    for (reservation,) in rows:
        found = _open_reservation(db, reservation, "closed")
        if found.state == "dispatched":
            _end(db, found, "settled", found.asked)
        else:
            _end(db, found, "released", NOTHING)
    _took(db.execute("UPDATE runs SET is_open = 0 WHERE run = ?", (run,)))


def _owners(db: sqlite3.Connection) -> list[str]:
    return [owner for (owner,) in db.execute("SELECT DISTINCT owner FROM runs WHERE is_open = 1")]


def _abandoned_by(db: sqlite3.Connection, owners: list[str]) -> list[Abandoned]:
    return [
        _abandoned(db, _stored(RunId, run))
        for owner in owners
        for (run,) in db.execute("SELECT run FROM runs WHERE owner = ? AND is_open = 1 ORDER BY run", (owner,))
    ]


def _abandoned(db: sqlite3.Connection, run: RunId) -> Abandoned:
    charged = Amounts(*db.execute(_DISPATCHED, (run,)).fetchone())
    used = Amounts(*db.execute(_USED, (run_account(run),)).fetchone())
    both = {dimension: getattr(charged, dimension) + getattr(used, dimension) for dimension in DIMENSIONS}
    return Abandoned(run, charged, Amounts(**both))


# -- balances ----------------------------------------------------------------------------------------------------------


def _values(amounts: Amounts | Limits) -> tuple[int | None, ...]:
    return tuple(getattr(amounts, dimension) for dimension in DIMENSIONS)


def _balance(db: sqlite3.Connection, account: str, key: str) -> Balance:
    row = db.execute(_BALANCE, (account, key)).fetchone()
    if row is None:
        return Balance(NOTHING, NOTHING)
    return Balance(Amounts(*row[: len(DIMENSIONS)]), Amounts(*row[len(DIMENSIONS) :]))


def _remaining(db: sqlite3.Connection, run_id: RunId, day: str, for_program: bool) -> Remaining:
    left: dict[str, int | None] = dict.fromkeys(DIMENSIONS)
    run = _open_run(db, run_id)
    for account, limits in _bounds(db, run):
        is_secret = for_program and _told(account, run) is not None
        balance = _balance(db, account, _key(limits, day))
        for dimension in DIMENSIONS:
            limit = getattr(limits, dimension)
            if limit is None:
                continue
            here = max(0, limit - getattr(balance.used, dimension) - getattr(balance.held, dimension))
            if here and is_secret:
                continue
            _lessen(left, dimension, here)
    return Remaining(**left)


def _room(db: sqlite3.Connection, run_id: RunId, day: str) -> Room:
    alone, empty = (dict[str, int | None].fromkeys(DIMENSIONS) for _ in range(2))
    for account, limits in _bounds(db, _open_run(db, run_id)):
        key = _key(limits, day)
        balance = _balance(db, account, key)
        own = Amounts(*db.execute(_HELD_BY, (run_id, key, key, key)).fetchone())
        for dimension in DIMENSIONS:
            limit = getattr(limits, dimension)
            if limit is None:
                continue
            unused = limit - getattr(balance.used, dimension)
            _lessen(alone, dimension, unused - getattr(balance.held, dimension) + getattr(own, dimension))
            _lessen(empty, dimension, unused)
    return Room(Remaining(**alone), Remaining(**empty))


def _lessen(left: dict[str, int | None], dimension: str, here: int) -> None:
    before = left[dimension]
    left[dimension] = max(0, here if before is None else min(before, here))


def _check_books(db: sqlite3.Connection) -> list[str]:
    expected: dict[tuple[str, str], Counter[str]] = {}
    runs: dict[str, _Run] = {}
    for run_id, day, sums in _journal(db):
        if run_id not in runs:
            runs[run_id] = _run(db, _stored(RunId, run_id))
        for page in _pages(runs[run_id], day):
            expected.setdefault(page, Counter()).update(sums)
    kept = {(account, key) for account, key in db.execute("SELECT account, key FROM balances")}
    problems = []
    for account, key in sorted(kept | expected.keys()):
        balance, sums = _balance(db, account, key), expected.get((account, key), Counter())
        for side, amounts in (("used", balance.used), ("held", balance.held)):
            for dimension in DIMENSIONS:
                have, want = getattr(amounts, dimension), sums[f"{side}_{dimension}"]
                if have != want:
                    problems.append(f"{account} {key}: {side} {dimension} is {have}, its reservations say {want}")
    return problems


def _journal(db: sqlite3.Connection) -> Iterator[tuple[str, str, dict[str, int]]]:
    """Every run and day, with what its reservations have used and hold."""
    for row in db.execute(_JOURNAL):
        yield row[0], row[1], dict(zip(_SIDES, row[2:], strict=True))
