"""The rules of the ledger, as work on a draft of its rows: nothing here knows what keeps them.

A reservation counts on several *pages*, rows of `balances`: one for each day, month and total of each level of its
tenant, so that a limit set later in the month already covers the month. The run's own account has only the page of its
limit's period. `balances` could be recomputed from `reservations` at any time; `check` does so.
"""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, TypeVar

import msgspec

from belljar.errors import InvalidInput, LedgerUnavailable, QuotaExceeded
from belljar.identity import RunId, Tenant
from belljar.journal.draft import Draft
from belljar.journal.tables import (
    BALANCES,
    DIMENSIONS,
    LIMITS,
    RESERVATIONS,
    RUNS,
    BalanceRow,
    Bounds,
    Key,
    LimitsRow,
    ReservationRow,
    RunRow,
    Vector,
    columns,
)
from belljar.ledger.base import (
    NOTHING,
    USED_UP,
    Abandoned,
    Amounts,
    Balance,
    Limits,
    Period,
    Remaining,
    Room,
    run_account,
)

__all__ = [
    "abandoned_by",
    "balance",
    "check",
    "clear_limits",
    "close_run",
    "dispatch",
    "end",
    "end_if_open",
    "keys_of",
    "limits_of",
    "open_run",
    "owners",
    "remaining",
    "reserve",
    "room",
    "set_limits",
]

_Name = TypeVar("_Name", RunId, Tenant)

_PERIODS: Final[tuple[Period, ...]] = ("day", "month", "total")
_ZERO: Final[Vector] = (0,) * len(DIMENSIONS)
_OPEN: Final = ("held", "dispatched")
# Sums beyond it would not fit the store's 64 bits.
_SUM_MAX: Final = 2**62


class _Run(NamedTuple):
    run: RunId
    tenant: Tenant
    run_limits: Limits
    tenant_limits: Limits
    is_open: bool


class _Limit(NamedTuple):
    """What bounds one account, and the page that it is compared with."""

    account: str
    period: Period
    key: str
    bounds: Bounds


# -- runs and limits ---------------------------------------------------------------------------------------------------


def open_run(draft: Draft, row: RunRow) -> None:
    if draft.get(RUNS, row.run) is not None:
        raise InvalidInput(f"run {row.run} already exists; choose another id", code="run.exists")
    draft.put(RUNS, row)


def set_limits(draft: Draft, account: Tenant, limits: Limits) -> None:
    draft.put(LIMITS, LimitsRow(account, limits.period, _vector(limits)))


def clear_limits(draft: Draft, account: Tenant) -> None:
    for found in limits_of(draft, account):
        draft.remove(LIMITS, account, found.period)


def limits_of(draft: Draft, account: Tenant) -> list[Limits]:
    """What `set_limits` said about this level, at most one for each period."""
    rows = [draft.get(LIMITS, account, period) for period in _PERIODS]
    return [Limits(row.period, *row.bounds) for row in rows if row is not None]  # type: ignore[arg-type]


def keys_of(run: RunId, tenant: Tenant, run_limits: Limits, day: str) -> tuple[Key, ...]:
    """Every row that a reservation of this run looks at."""
    limits = [(LIMITS, (account, period)) for account in tenant.levels for period in _PERIODS]
    pages = [(BALANCES, page) for page in _pages(run, tenant, run_limits, day)]
    return ((RUNS, (run,)), *limits, *pages)


def _run(draft: Draft, run: RunId) -> _Run:
    row = draft.get(RUNS, run)
    if row is None:
        raise LedgerUnavailable(f"the ledger has no run {run[:80]!a}; call open_run first")
    tenant = _stored(Tenant, row.tenant)
    return _Run(run, tenant, _decoded(row.run_limits), _decoded(row.tenant_limits), bool(row.is_open))


def _open_run(draft: Draft, run: RunId) -> _Run:
    found = _run(draft, run)
    if not found.is_open:
        raise LedgerUnavailable(f"run {run} is closed in the ledger; start a new run")
    return found


@functools.lru_cache(maxsize=4096)
def _stored(kind: type[_Name], name: object) -> _Name:
    """A name as stored: one that is not valid was not written by us."""
    try:
        return kind(str(name))
    except InvalidInput as error:
        raise LedgerUnavailable(f"a name in the ledger is not ours: {error}; set its file aside") from None


@functools.lru_cache(maxsize=4096)
def _decoded(limits: bytes) -> Limits:
    return msgspec.json.decode(limits, type=Limits)


def _bounds(draft: Draft, run: _Run, day: str) -> Iterator[_Limit]:
    """Every account of the run with every limit on it: from the root down to the tenant, then the run itself."""
    default = run.tenant_limits
    for account in run.tenant.levels:
        own = False
        for period in _PERIODS:
            if (row := draft.get(LIMITS, account, period)) is not None:
                own = True
                yield _Limit(account, period, _key(period, day), row.bounds)
        if not own:
            yield _Limit(account, default.period, _key(default.period, day), _vector(default))
    period = run.run_limits.period
    yield _Limit(run_account(run.run), period, _key(period, day), _vector(run.run_limits))


def _pages(run: RunId, tenant: Tenant, run_limits: Limits, day: str) -> list[tuple[str, str]]:
    """The (account, key) pairs of `balances` on which a reservation of this run and day counts."""
    keys = (day, day[:7], "total")
    pages = [(account, key) for account in tenant.levels for key in keys]
    return [*pages, (run_account(run), _key(run_limits.period, day))]


def _key(period: Period, day: str) -> str:
    return day if period == "day" else day[:7] if period == "month" else "total"


def _vector(amounts: Amounts | Limits) -> Vector:
    """In the order of `DIMENSIONS`."""
    values: Vector = msgspec.structs.astuple(amounts)[-len(DIMENSIONS) :]
    return values


# -- reservations ------------------------------------------------------------------------------------------------------


def reserve(draft: Draft, reservation: str, run_id: RunId, asked: Amounts, kept: Amounts, day: str, state: str) -> None:
    """Hold `asked` on every page of the run, or raise `QuotaExceeded`; `kept` must be left besides."""
    run = _open_run(draft, run_id)
    wanted, spare = _vector(asked), _vector(kept)
    for limit in _bounds(draft, run, day):
        _admit(_page(draft, limit.account, limit.key), wanted, spare, limit, day, told=_told(limit.account, run))
    for account, key in _pages(run_id, run.tenant, run.run_limits, day):
        _change(draft, _page(draft, account, key), used=_ZERO, held=wanted)
    draft.put(RESERVATIONS, ReservationRow(reservation, run_id, day, state, wanted, (None,) * len(DIMENSIONS)))


def _page(draft: Draft, account: str, key: str) -> BalanceRow:
    return draft.get(BALANCES, account, key) or BalanceRow(account, key, _ZERO, _ZERO)


def _change(draft: Draft, page: BalanceRow, *, used: Vector, held: Vector) -> None:
    """Add to both; what is given back is below zero."""
    now = BalanceRow(
        page.account, page.key, tuple(map(operator.add, page.used, used)), tuple(map(operator.add, page.held, held))
    )
    if min(now.used) < 0 or min(now.held) < 0 or max(now.used) > _SUM_MAX or max(now.held) > _SUM_MAX:
        raise LedgerUnavailable(f"the page {page.key} of {page.account} cannot be right; stop and call check_books")
    draft.put(BALANCES, now)


def _told(account: str, run: _Run) -> str | None:
    """What the run's program is told when `account` is used up; None for everything, since it is its own."""
    if account in (run.tenant, run_account(run.run)):
        return None
    return USED_UP


def _admit(page: BalanceRow, asked: Vector, kept: Vector, limit: _Limit, day: str, *, told: str | None) -> None:
    for place, wanted in enumerate(asked):
        bound = limit.bounds[place]
        used, held, spare = page.used[place], page.held[place], kept[place]
        if bound is None or not wanted or used + held + spare + wanted <= bound:
            continue
        dimension = DIMENSIONS[place]
        alone = used + spare + wanted  # what is held will be given back: it counts only if nothing else is in the way
        raise QuotaExceeded(
            _refusal(limit, day, dimension, bound, (used, held, spare, wanted)),
            code=_code(limit.account, dimension),
            limit=bound,
            observed=alone if alone > bound else alone + held,
            told=told,
        )


def _code(account: str, dimension: str) -> str:
    """The key of the policy that sets the limit."""
    is_run = account.startswith("run:")
    if is_run and dimension == "read_bytes":
        return "context.read_total"
    key = {"cost_nanousd": "cost", "read_bytes": "read"}.get(dimension, dimension)
    return f"quota.{'run' if is_run else 'tenant'}.{key}"


def _refusal(limit: _Limit, day: str, dimension: str, bound: int, amounts: tuple[int, int, int, int]) -> str:
    used, held, spare, wanted = amounts
    account = limit.account
    who = account.replace("run:", "run ", 1) if account.startswith("run:") else f"tenant {account}"
    when = {"day": f"for the day {day} (UTC)", "month": f"for the month {day[:7]} (UTC)", "total": "in total"}
    remedy = {"day": "wait for the next day", "month": "wait for the next month", "total": "raise the limit"}
    parts = [(used, "used"), (held, "held by work under way"), (spare, "kept for the root model")]
    taken = ", ".join(f"{_shown(dimension, part)} {what}" for part, what in parts if part)
    return (
        f"{who} has {_shown(dimension, max(0, bound - used - held - spare))} of {_shown(dimension, bound)} left "
        f"{when[limit.period]}, but this needs {_shown(dimension, wanted)}{f' ({taken})' if taken else ''}; "
        f"ask for less or {remedy[limit.period]}"
    )


def _shown(dimension: str, value: int) -> str:
    if dimension != "cost_nanousd":
        return f"{value} {dimension}"
    whole, part = divmod(value, 10**9)
    return f"{whole}.{f'{part:09d}'.rstrip('0').ljust(2, '0')} USD"


def _open_reservation(draft: Draft, reservation: str, wish: str) -> ReservationRow:
    found = draft.get(RESERVATIONS, reservation)
    if found is None:
        raise LedgerUnavailable(f"the ledger has no reservation {reservation[:80]!a}; nothing was changed")
    if found.state not in _OPEN:
        raise LedgerUnavailable(
            f"double end: reservation {reservation} is already {found.state} and cannot be {wish}; nothing was changed"
        )
    return found


def dispatch(draft: Draft, reservation: str) -> None:
    found = _open_reservation(draft, reservation, "dispatched")
    if found.state != "held":
        raise LedgerUnavailable(f"reservation {reservation} was already dispatched; reserve once for each request")
    draft.put(RESERVATIONS, found._replace(state="dispatched"))


def end(draft: Draft, reservation: str, state: str, charged: Amounts) -> None:
    """End an open one as `settled` or `released`."""
    _end(draft, _open_reservation(draft, reservation, state), state, _vector(charged))


def _end(draft: Draft, found: ReservationRow, state: str, charged: Vector) -> None:
    run = _run(draft, _stored(RunId, found.run))
    back = tuple(map(operator.neg, found.asked))
    for account, key in _pages(run.run, run.tenant, run.run_limits, found.day):
        page = draft.get(BALANCES, account, key)
        if page is None:
            raise LedgerUnavailable(f"the ledger lacks a balance of run {run.run}; stop and call check_books")
        _change(draft, page, used=charged, held=back)
    draft.put(RESERVATIONS, found._replace(state=state, actual=charged))


def end_if_open(draft: Draft, reservation: str, state: str, charged: Amounts) -> bool:
    """`end`, where nobody has done it before. Whether it was done."""
    found = draft.get(RESERVATIONS, reservation)
    if found is None or found.state not in _OPEN:
        return False
    _end(draft, found, state, _vector(charged))
    return True


def close_run(draft: Draft, run: RunId) -> bool:
    """Whether it was open."""
    row = draft.get(RUNS, run)
    if row is None:
        raise LedgerUnavailable(f"the ledger has no run {run[:80]!a}; call open_run first")
    for (reservation,) in draft.query(_OPEN_OF_RUN, run):
        if (found := draft.get(RESERVATIONS, reservation)) is None or found.state not in _OPEN:
            continue
        if found.state == "dispatched":
            _end(draft, found, "settled", found.asked)
        else:
            _end(draft, found, "released", _ZERO)
    draft.put(RUNS, row._replace(is_open=0))
    return bool(row.is_open)


_OPEN_OF_RUN: Final = (
    "SELECT id FROM reservations WHERE run = ? AND state IN ('held', 'dispatched') ORDER BY id"  # the index's own words
)

# -- the dead ----------------------------------------------------------------------------------------------------------


def _sums(template: str) -> str:
    return ", ".join(columns(template))


# Every name in these is one of the constants above.
_DISPATCHED: Final = f"""SELECT {_sums("coalesce(sum({}), 0)")} FROM reservations
    WHERE run = ? AND state IN ('held', 'dispatched') AND state = 'dispatched'"""  # noqa: S608
_USED: Final = f"SELECT {_sums('coalesce(sum(used_{}), 0)')} FROM balances WHERE account = ?"  # noqa: S608


def owners(draft: Draft) -> list[str]:
    return [owner for (owner,) in draft.query("SELECT DISTINCT owner FROM runs WHERE is_open = 1")]


def abandoned_by(draft: Draft, dead: Sequence[str]) -> list[Abandoned]:
    """The open runs of these owners."""
    of_owner = "SELECT run FROM runs WHERE owner = ? AND is_open = 1 ORDER BY run"
    return [_abandoned(draft, _stored(RunId, run)) for owner in dead for (run,) in draft.query(of_owner, owner)]


def _abandoned(draft: Draft, run: RunId) -> Abandoned:
    charged = tuple(map(int, draft.query(_DISPATCHED, run)[0]))
    used = tuple(map(int, draft.query(_USED, run_account(run))[0]))
    return Abandoned(run, Amounts(*charged), Amounts(*map(operator.add, charged, used)))


# -- balances ----------------------------------------------------------------------------------------------------------

# What one run holds on the pages of one key: `2026-11-23`, `2026-11`, or all of them for `total`.
_HELD_BY: Final = f"""SELECT {_sums("coalesce(sum({}), 0)")} FROM reservations
    WHERE run = ? AND state IN ('held', 'dispatched') AND (? = 'total' OR substr(day, 1, length(?)) = ?)"""  # noqa: S608
_JOURNAL: Final = f"""SELECT run, day,
    {_sums("sum(CASE WHEN state = 'settled' THEN actual_{} ELSE 0 END)")},
    {_sums("sum(CASE WHEN state IN ('held', 'dispatched') THEN {} ELSE 0 END)")}
    FROM reservations GROUP BY run, day"""  # noqa: S608
_SIDES: Final = (*columns("used_{}"), *columns("held_{}"))
_ALL: Final = f"SELECT account, key, {', '.join(_SIDES)} FROM balances"  # noqa: S608


def balance(draft: Draft, account: str, key: str) -> Balance:
    page = _page(draft, account, key)
    return Balance(Amounts(*page.used), Amounts(*page.held))


def remaining(draft: Draft, run_id: RunId, day: str, for_program: bool) -> Remaining:
    left: list[int | None] = [None] * len(DIMENSIONS)
    run = _open_run(draft, run_id)
    for limit in _bounds(draft, run, day):
        is_secret = for_program and _told(limit.account, run) is not None
        page = _page(draft, limit.account, limit.key)
        for place, bound in enumerate(limit.bounds):
            if bound is None:
                continue
            here = max(0, bound - page.used[place] - page.held[place])
            if not (here and is_secret):
                _lessen(left, place, here)
    return Remaining(*left)


def room(draft: Draft, run_id: RunId, day: str) -> Room:
    alone: list[int | None] = [None] * len(DIMENSIONS)
    empty = [*alone]
    for limit in _bounds(draft, _open_run(draft, run_id), day):
        page = _page(draft, limit.account, limit.key)
        own = draft.query(_HELD_BY, run_id, limit.key, limit.key, limit.key)[0]
        for place, bound in enumerate(limit.bounds):
            if bound is None:
                continue
            unused = bound - page.used[place]
            _lessen(alone, place, unused - page.held[place] + int(own[place]))
            _lessen(empty, place, unused)
    return Room(Remaining(*alone), Remaining(*empty))


def _lessen(left: list[int | None], place: int, here: int) -> None:
    before = left[place]
    left[place] = max(0, here if before is None else min(before, here))


def check(draft: Draft) -> list[str]:
    """Recompute every balance from the reservations: one line for each difference."""
    expected: dict[tuple[str, str], Counter[str]] = {}
    for run_id, day, *sums in draft.query(_JOURNAL):
        run = _run(draft, _stored(RunId, run_id))
        for page in _pages(run.run, run.tenant, run.run_limits, day):
            expected.setdefault(page, Counter()).update(dict(zip(_SIDES, map(int, sums), strict=True)))
    kept = {(row[0], row[1]): dict(zip(_SIDES, row[2:], strict=True)) for row in draft.query(_ALL)}
    return [
        f"{account} {key}: {side.replace('_', ' ', 1)} is {have}, its reservations say {want}"
        for account, key in sorted(kept.keys() | expected.keys())
        for side in _SIDES
        if (have := kept.get((account, key), {}).get(side, 0))
        != (want := expected.get((account, key), Counter())[side])
    ]


assert _vector(NOTHING) == _ZERO, "amounts are vectors in the order of the store's columns"
