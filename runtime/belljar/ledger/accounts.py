"""The rules of the ledger, as work on a draft of its rows: nothing here knows what keeps them.

A reservation counts on several *pages*, rows of `balances`: one for each day, month and total of each level of its
tenant, so that a limit set later in the month already covers the month. The run's own account has only the page of its
limit's period. A page of a minute or an hour is written only where a limit of that period is set, so its count begins
with the limit; a reservation knows on which of them it counts (`short`: `hour:0 minute:2`, by the level's place in the
tenant's path, after which comes the run). `balances` could be recomputed from `reservations` at any time; `check` does
so.

A reservation is in one of two *books*: that of calls and reads, or that of boxes. Each book has pages of its own, and
the rules are the same. Its id says which it is.

A child run has a *slice* of what its parent has left: its own limits, which are held on the parent's page while it is
open. Once it is closed, what it used stands there instead::

    the parent's page of the run   used = its own + what its closed children used      (each with all below it)
                                   held = its own + the limits of its open children

So nobody between a call and the tenant's levels is asked: the call has room in its run's slice, which its parent holds,
whose own slice is held above, up to the root. A slice has no row. The child's id names its parent, and its row has its
limits and whether it is open, so any process can tell from the rows alone what a slice holds, and `check` does. Nor is
it a reservation: sums over these (what a tenant holds, what a run was charged) count each call once, with its own run.
Both books have slices, since a limit of a run on what boxes use is one for the whole tree, too.
"""

from __future__ import annotations

import functools
import itertools
import operator
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias, TypeVar

import msgspec

from belljar.errors import InvalidInput, LedgerUnavailable, QuotaExceeded
from belljar.identity import RunId, Tenant, runs_below
from belljar.journal.draft import Ask, Draft, Job
from belljar.journal.tables import (
    BOOKS,
    BOXES,
    CALLS,
    DIMENSIONS,
    GAUGES,
    LIMITED,
    LIMITS,
    RUNS,
    BalanceRow,
    Book,
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
    PERIODS,
    USED_UP,
    Abandoned,
    Amounts,
    Balance,
    Changes,
    Limits,
    Period,
    Remaining,
    Room,
    check_stored,
    key_at,
    period_end,
    run_account,
)
from belljar.units import format_money

__all__ = [
    "Beside",
    "abandon",
    "admit",
    "balance",
    "change_limits",
    "check",
    "clear_limits",
    "close_run",
    "differing",
    "dispatch",
    "end",
    "end_if_open",
    "keys_of",
    "limit_keys",
    "limits_above",
    "limits_of",
    "new_id",
    "open_run",
    "owned_by",
    "owners",
    "remaining",
    "reserve",
    "reserve_portion",
    "room",
    "slice_keys",
]

_Name = TypeVar("_Name", RunId, Tenant)
# What is written beside the end of a run that nobody ends himself.
Beside: TypeAlias = Callable[[Abandoned], Job[object]] | None

# Their pages are written only where a limit asks for them.
_SHORT: Final = ("minute", "hour")
_ZERO: Final[Vector] = (0,) * len(DIMENSIONS)
_NO_BOUNDS: Final[Bounds] = (None,) * len(DIMENSIONS)
_OPEN: Final = ("held", "dispatched")
_OF_BOXES: Final = "box-"
# All that a program is told if it is a level above its tenant that says no.
_TOO_DEEP: Final = "the quota of the run's tenant allows no child runs at this depth: do without them"
# A portion is at most one part in this many of what the tightest level has left.
_PORTION_SHARE: Final = 8
# Sums beyond it would not fit the store's 64 bits.
_SUM_MAX: Final = 2**62


class _Run(NamedTuple):
    run: RunId
    tenant: Tenant
    run_limits: Limits
    tenant_limits: Limits


class _Limit(NamedTuple):
    """What bounds one account, and the page that it is compared with."""

    account: str
    period: Period
    key: str
    bounds: Bounds


class _Plan(NamedTuple):
    """What a run's reservations in one minute come to, whatever they ask for: their `limits`, and where they count."""

    run: _Run
    limits: tuple[_Limit, ...]
    short: str


# -- runs and limits ---------------------------------------------------------------------------------------------------


def open_run(draft: Draft, row: RunRow) -> None:
    """Open a run; where its id is that of a child, with a slice of what its parent has left, or not at all."""
    if draft.get(RUNS, row.run) is not None:
        raise InvalidInput(f"run {row.run} already exists; choose another id", code="run.exists")
    run = _stored(RunId, row.run)
    parent = None if run.parent is None else _open_row(draft, run.parent)
    if parent is not None:
        _permit_depth(draft, run, parent)
        row = _sliced(draft, row, _run(parent))
    draft.put(RUNS, row)


def _permit_depth(draft: Draft, run: RunId, parent: RunRow) -> None:
    """Whether each level of the tenant lets a run have children as deep as this one. Its own model is a level, too."""
    depth = run.depth + 1
    for row in _limits_above(draft, _stored(Tenant, parent.tenant)):
        most = None if row is None else row.bounds[LIMITED.index("depth")]
        if row is None or most is None or depth <= most:
            continue
        raise QuotaExceeded(
            f"tenant {row.account} may have {most} levels of models below a root model, but with this child run there "
            f"would be {depth}; do without it, or raise the limit (`belljar quota set {row.account} --depth`)",
            code="quota.tenant.depth",
            limit=most,
            observed=depth,
            told=None if row.account == parent.tenant else _TOO_DEEP,
            scope=row.account,
            dimension="depth",
            period="now",
        )


def change_limits(draft: Draft, account: Tenant, changes: Changes) -> list[Limits]:
    """Change some dimensions in some periods. What then stands in those periods."""
    changed = []
    for period, bounds in changes.items():
        row = draft.get(LIMITS, account, period)
        before = dict.fromkeys(LIMITED) if row is None else dict(zip(LIMITED, row.bounds, strict=True))
        limits = Limits(period, **(before | dict(bounds)))
        draft.put(LIMITS, _ours(LimitsRow(account, *_row(limits))))
        changed.append(limits)
    return changed


def differing(draft: Draft, account: Tenant, wanted: Changes) -> Changes:
    """Of these bounds, those that do not stand there. Where nothing is set for a period, all of them."""
    found: dict[Period, Mapping[str, int | None]] = {}
    for period, bounds in wanted.items():
        row = draft.get(LIMITS, account, period)
        stands = {} if row is None else dict(zip(LIMITED, row.bounds, strict=True))
        odd = {name: bound for name, bound in bounds.items() if name not in stands or stands[name] != bound}
        if odd:
            found[period] = odd
    return found


def clear_limits(draft: Draft, account: Tenant) -> list[Limits]:
    """Returns what there was."""
    found = limits_of(draft, account)
    for limits in found:
        draft.remove(LIMITS, account, limits.period)
    return found


def limits_of(draft: Draft, account: Tenant) -> list[Limits]:
    """What is set for this level, at most one for each period."""
    rows = [draft.get(LIMITS, account, period) for period in PERIODS]
    return [Limits(row.period, *row.bounds) for row in rows if row is not None]  # type: ignore[arg-type]


@functools.lru_cache(maxsize=1024)
def limit_keys(tenant: Tenant) -> tuple[Key, ...]:
    """The rows of what is set for each level of a tenant."""
    return tuple((LIMITS, (level, period)) for level in tenant.levels for period in PERIODS)


def limits_above(draft: Draft, run: RunId) -> tuple[LimitsRow | None, ...]:
    """What is set for each level of a run's tenant: the same again as long as nobody changes one of them."""
    return _limits_above(draft, _stored(Tenant, _run_row(draft, run).tenant))


def _limits_above(draft: Draft, tenant: Tenant) -> tuple[LimitsRow | None, ...]:
    rows = (draft.get(table, *key) for table, key in limit_keys(tenant))
    return tuple(None if row is None else _ours(row) for row in rows)


@functools.lru_cache(maxsize=4096)
def _ours(row: LimitsRow) -> LimitsRow:
    check_stored(*row)
    return row


def keys_of(run: RunId, tenant: Tenant, run_limits: Limits, minute: str, book: Book = CALLS) -> tuple[Key, ...]:
    """Every row that a reservation of this run looks at, but for pages of minutes and hours."""
    pages = [(book.balances, page) for page in _pages(run, tenant, run_limits, minute)]
    return ((RUNS, (run,)), *limit_keys(tenant), *pages)


def _run_row(draft: Draft, run: RunId) -> RunRow:
    row = draft.get(RUNS, run)
    if row is None:
        raise LedgerUnavailable(f"the ledger has no run {run[:80]!a}; call open_run first")
    return row


@functools.lru_cache(maxsize=1024)
def _run(row: RunRow) -> _Run:
    run, tenant = _stored(RunId, row.run), _stored(Tenant, row.tenant)
    return _Run(run, tenant, _decoded(row.run_limits), _decoded(row.tenant_limits))


def _open_row(draft: Draft, run: RunId) -> RunRow:
    row = _run_row(draft, run)
    if not row.is_open:
        raise LedgerUnavailable(f"run {run} is closed in the ledger; start a new run")
    return row


@functools.lru_cache(maxsize=4096)
def _stored(kind: type[_Name], name: object) -> _Name:
    """A name as stored: one that is not valid was not written by us."""
    try:
        return kind(str(name))
    except InvalidInput as error:
        raise LedgerUnavailable(f"a name in the ledger is not ours: {error}; set its file aside") from None


@functools.lru_cache(maxsize=4096)
def _decoded(limits: bytes) -> Limits:
    try:
        return msgspec.json.decode(limits, type=Limits)
    except (msgspec.DecodeError, TypeError) as error:  # a file takes anything in a column
        raise LedgerUnavailable(f"limits of a run in the ledger are not ours: {error}; set its file aside") from None


@functools.lru_cache(maxsize=4096)
def _apart(limits: Limits) -> tuple[Bounds, Bounds | None]:
    """The bounds for a period, and those of gauges, which hold whatever the period; None if there are none."""
    named = list(zip(DIMENSIONS, _bounds_of(limits), strict=True))
    by_period = tuple(None if name in GAUGES else bound for name, bound in named)
    at_once = tuple(bound if name in GAUGES else None for name, bound in named)
    return by_period, at_once if any(bound is not None for bound in at_once) else None


def _plan(draft: Draft, run: RunId, minute: str) -> _Plan:
    """Of an open run."""
    row = _open_row(draft, run)
    return _planned(row, _limits_above(draft, _stored(Tenant, row.tenant)), minute)


@functools.lru_cache(maxsize=1024)  # a thousand calls may follow each other in which none of this changes
def _planned(row: RunRow, above: tuple[LimitsRow | None, ...], minute: str) -> _Plan:
    run = _run(row)
    limits = tuple(_limits_on(run, above, minute))
    return _Plan(run, limits, _short(limits, run.tenant))


def _limits_on(run: _Run, above: Sequence[LimitsRow | None], minute: str) -> Iterator[_Limit]:
    """Every account of the run with every limit on it: from the root down to the tenant, then the run itself."""
    yield from _of_levels(run.tenant, run.tenant_limits, above, minute)
    own = run.run_limits.period
    yield _Limit(run_account(run.run), own, key_at(own, minute), _bounds_of(run.run_limits))


def _of_levels(tenant: Tenant, default: Limits, above: Sequence[LimitsRow | None], minute: str) -> Iterator[_Limit]:
    """Every limit on each level of a tenant, the first level first."""
    for place, account in enumerate(tenant.levels):
        rows = [row for row in above[place * len(PERIODS) : (place + 1) * len(PERIODS)] if row is not None]
        for row in rows:
            period: Period = row.period  # type: ignore[assignment]
            yield _Limit(account, period, key_at(period, minute), row.bounds)
        if not rows:
            by_period, at_once = _apart(default)
            yield _Limit(account, default.period, key_at(default.period, minute), by_period)
            if at_once is not None:
                yield _Limit(account, "total", "total", at_once)


@functools.lru_cache(maxsize=1024)  # as above
def _pages(run: RunId, tenant: Tenant, run_limits: Limits, minute: str, short: str = "") -> tuple[tuple[str, str], ...]:
    """The (account, key) pairs of `balances` on which a reservation of this run counts; `short` is part of it."""
    keys = (minute[:10], minute[:7], "total")
    pages: list[tuple[str, str]] = [(account, key) for account in tenant.levels for key in keys]
    if run_limits.period not in _SHORT:
        pages.append((run_account(run), key_at(run_limits.period, minute)))
    if short:
        accounts = (*tenant.levels, run_account(run))
        for page in short.split(" "):
            period, _, place = page.partition(":")
            if period not in _SHORT or place not in map(str, range(len(accounts))):
                raise LedgerUnavailable(
                    f"a reservation of run {run} stands on {short[:80]!a}; set the ledger's file aside"
                )
            pages.append((accounts[int(place)], key_at(period, minute)))  # type: ignore[arg-type]
    return tuple(pages)


def _short(limits: Sequence[_Limit], tenant: Tenant) -> str:
    """Which pages of minutes and hours there are, as a reservation has it; nothing for most."""
    levels: Sequence[str] = tenant.levels
    return " ".join(
        f"{limit.period}:{levels.index(limit.account) if limit.account in levels else len(levels)}"
        for limit in limits
        if limit.period in _SHORT
    )


def _vector(amounts: Amounts) -> Vector:
    """In the order of `DIMENSIONS`."""
    values: Vector = msgspec.structs.astuple(amounts)
    return values


def _row(limits: Limits) -> tuple[Period, Bounds]:
    """The period, and the bounds in the order of `LIMITED`."""
    period, *bounds = msgspec.structs.astuple(limits)
    return period, tuple(bounds)


def _bounds_of(limits: Limits) -> Bounds:
    """Those that reservations are compared with, in the order of `DIMENSIONS`."""
    return _row(limits)[1][: len(DIMENSIONS)]


def new_id(amounts: Amounts) -> str:
    """A new reservation's id, for what it is to hold."""
    return f"{_OF_BOXES if any(_vector(amounts)[BOXES.places]) else ''}{next(_ids)}"


def _start_ids() -> None:
    """From here on ids are this process's. One system call for all of them: each lets go of the interpreter's lock."""
    global _ids
    _ids = map(f"{secrets.token_hex(8)}{{:010x}}".format, itertools.count())


_ids: Iterator[str]
_start_ids()
os.register_at_fork(after_in_child=_start_ids)


def _book(reservation: str) -> Book:
    return BOXES if reservation.startswith(_OF_BOXES) else CALLS


def _in_book(amounts: Amounts, book: Book) -> Vector:
    """Amounts as a reservation in this book has them."""
    vector = _vector(amounts)
    here = vector[book.places]
    if sum(here) != sum(vector):
        raise InvalidInput("what calls use and what boxes use are reserved and settled apart", code="amount.invalid")
    return here


# -- reservations ------------------------------------------------------------------------------------------------------


def reserve(
    draft: Draft, reservation: str, run_id: RunId, asked: Amounts, kept: Amounts, minute: str, state: str
) -> None:
    """Hold `asked` on every page of the run, or raise `QuotaExceeded`; `kept` must be left besides."""
    run, limits, short = _plan(draft, run_id, minute)
    book = _book(reservation)
    wanted, spare = _in_book(asked, book), _in_book(kept, book)
    for limit in limits:
        page = _page(draft, book, limit.account, limit.key)
        _admit(book, page, wanted, spare, limit, told=_told(limit.account, run))
    for account, key in _pages(run_id, run.tenant, run.run_limits, minute, short):
        _change(draft, book, _page(draft, book, account, key), used=None, held=wanted)
    row = ReservationRow(reservation, run_id, minute, short, state, wanted, _NO_BOUNDS[book.places])
    draft.put(book.reservations, row)


def reserve_portion(
    draft: Draft, reservation: str, run_id: RunId, least: Amounts, most: Amounts, minute: str
) -> Amounts:
    """Hold `most`, dispatched, or what is fair to others if that is less, but at least `least`. Returns what is held.

    Raises:
        QuotaExceeded: there is no room for `least`.
    """
    left: Bounds = msgspec.structs.astuple(remaining(draft, run_id, minute, for_program=False))
    asked = [
        max(low, high if room is None else min(high, room // _PORTION_SHARE))
        for low, high, room in zip(_vector(least), _vector(most), left, strict=True)
    ]
    held = Amounts(*asked)
    reserve(draft, reservation, run_id, held, NOTHING, minute, "dispatched")
    return held


def admit(draft: Draft, tenant: Tenant, default: Limits, asked: Amounts, minute: str) -> None:
    """Raise `QuotaExceeded` where a level of a tenant has used up what is asked for. What is held may come back.

    `default` is of each level for which nothing is set.
    """
    wanted = _vector(asked)
    for limit in _of_levels(tenant, default, _limits_above(draft, tenant), minute):
        for book in BOOKS:
            page = _page(draft, book, limit.account, limit.key)._replace(held=book.nothing)
            told = None if limit.account == tenant else USED_UP
            _admit(book, page, wanted[book.places], book.nothing, limit, told=told)


def _page(draft: Draft, book: Book, account: str, key: str) -> BalanceRow:
    return draft.get(book.balances, account, key) or BalanceRow(account, key, book.nothing, book.nothing)


def _change(draft: Draft, book: Book, page: BalanceRow, *, used: Vector | None, held: Vector) -> None:
    """Add to both, or to `held` alone; what is given back is below zero."""
    now_used = page.used if used is None else _sum(page, page.used, used)
    draft.put(book.balances, BalanceRow(page.account, page.key, now_used, _sum(page, page.held, held)))


def _sum(page: BalanceRow, before: Vector, more: Vector) -> Vector:
    now = tuple(map(operator.add, before, more))
    if min(now) < 0 or max(now) > _SUM_MAX:
        raise LedgerUnavailable(f"the page {page.key} of {page.account} cannot be right; stop and call check_books")
    return now


def _told(account: str, run: _Run) -> str | None:
    """What the run's program is told when `account` is used up; None for everything, since it is its own."""
    if account in (run.tenant, run_account(run.run)):
        return None
    return USED_UP


def _admit(book: Book, page: BalanceRow, asked: Vector, kept: Vector, limit: _Limit, *, told: str | None) -> None:
    for place, wanted in enumerate(asked):
        if not wanted or (bound := limit.bounds[book.first + place]) is None:
            continue
        used, held, spare = page.used[place], page.held[place], kept[place]
        if used + held + spare + wanted <= bound:
            continue
        dimension = book.dimensions[place]
        alone = used + spare + wanted  # what is held will be given back: it counts only if nothing else is in the way
        raise QuotaExceeded(
            _refusal(limit, dimension, bound, (used, held, spare, wanted)),
            code=_code(limit.account, dimension),
            limit=bound,
            observed=alone if alone > bound else alone + held,
            told=told,
            scope=limit.account,
            dimension=dimension,
            period="now" if dimension in GAUGES else limit.period,
            used=used,
            held=held,
            resets_at=period_end(limit.period, limit.key),
        )


_KEYS: Final = {
    "cost_nanousd": "cost",
    "read_bytes": "read",
    "cpu_ms": "cpu",
    "wall_ms": "wall",
    "memory_mib_s": "memory_time",
}


def _code(account: str, dimension: str) -> str:
    """The key of the policy that sets the limit."""
    is_run = account.startswith("run:")
    if is_run and dimension == "read_bytes":
        return "context.read_total"
    key = _KEYS.get(dimension, dimension)
    return f"quota.{'run' if is_run else 'tenant'}.{key}"


def _refusal(limit: _Limit, dimension: str, bound: int, amounts: tuple[int, int, int, int]) -> str:
    used, held, spare, wanted = amounts
    account = limit.account
    who = account.replace("run:", "run ", 1) if account.startswith("run:") else f"tenant {account}"
    end = period_end(limit.period, limit.key)
    when, remedy = "in total", "raise the limit"
    if dimension in GAUGES:
        when, remedy = "at this moment", "wait until one ends"
    if end is not None:
        when = f"for the {limit.period} {limit.key.replace('T', ' ')} (UTC)"
        remedy = f"wait for the next {limit.period}, which begins at {end:%Y-%m-%d %H:%M} (UTC)"
    if wanted + spare > bound:
        remedy = "raise the limit"  # no wait would help
    parts = [(used, "used"), (held, "held by work under way"), (spare, "kept for the root model")]
    taken = ", ".join(f"{_shown(dimension, part)} {what}" for part, what in parts if part)
    return (
        f"{who} has {_shown(dimension, max(0, bound - used - held - spare))} of {_shown(dimension, bound)} left "
        f"{when}, but this needs {_shown(dimension, wanted)}{f' ({taken})' if taken else ''}; ask for less or {remedy}"
    )


_SECONDS: Final = {"cpu_ms": "CPU", "wall_ms": "wall"}
_NOUNS: Final = {"read_bytes": "bytes", "memory_mib_s": "MiB-seconds of memory"}


def _shown(dimension: str, value: int) -> str:
    if dimension in _SECONDS:
        seconds = f"{value / 1000:.3f}".rstrip("0").rstrip(".")
        return f"{seconds} s of {_SECONDS[dimension]} time"
    if dimension != "cost_nanousd":
        return f"{value} {_NOUNS.get(dimension) or dimension.replace('_', ' ')}"
    return format_money(value)


# -- slices ------------------------------------------------------------------------------------------------------------


def slice_keys(parent: RunId) -> tuple[Key, ...]:
    """The rows that opening and closing a child of this run look at."""
    return ((RUNS, (parent,)), *((book.balances, (run_account(parent), "total")) for book in BOOKS))


def _sliced(draft: Draft, row: RunRow, parent: _Run) -> RunRow:
    """Hold a child's limits on its parent's account. The row that the child gets: what it does not limit, the parent's
    rest limits.
    """
    wanted, most = _decoded(row.run_limits), parent.run_limits
    if parent.tenant != row.tenant:
        raise InvalidInput(
            f"run {row.run} is for tenant {row.tenant}, but its parent is not; give a child its parent's tenant",
            code="run.parent",
        )
    if wanted.period != "total" or most.period != "total":
        raise InvalidInput(
            "a slice is for the whole of a run: limit parent and child in total, not for a period", code="limit.invalid"
        )
    account, above = run_account(parent.run), _bounds_of(most)
    pages = [_page(draft, book, account, "total") for book in BOOKS]
    taken = [used + held for page in pages for used, held in zip(page.used, page.held, strict=True)]
    bounds: Bounds = tuple(
        max(0, top - gone) if bound is None and top is not None else bound
        for bound, top, gone in zip(_bounds_of(wanted), above, taken, strict=True)
    )
    held = _slice(bounds, above)
    for book, page in zip(BOOKS, pages, strict=True):
        here = held[book.places]
        _admit(book, page, here, book.nothing, _Limit(account, "total", "total", above), told=None)
        if any(here):
            _change(draft, book, page, used=None, held=here)
    return row._replace(run_limits=msgspec.json.encode(Limits("total", *bounds)))


def _slice(bounds: Bounds, above: Bounds) -> Vector:
    """What a child with these bounds holds of a parent with those: nothing where the parent has no limit."""
    return tuple(0 if bound is None or most is None else bound for bound, most in zip(bounds, above, strict=True))


def _give_back(draft: Draft, child: RunId, limits: Limits, parent: RunId) -> None:
    """Settle the slice of a child that is closed with what was used of it."""
    above = _decoded(_run_row(draft, parent).run_limits)
    held = _slice(_bounds_of(limits), _bounds_of(above))
    for book in BOOKS:
        used = _page(draft, book, run_account(child), "total").used
        back = tuple(map(operator.neg, held[book.places]))
        if any(used) or any(back):
            _change(draft, book, _page(draft, book, run_account(parent), "total"), used=used, held=back)


# -- ends --------------------------------------------------------------------------------------------------------------


def _open_reservation(draft: Draft, reservation: str, wish: str) -> ReservationRow:
    found = draft.get(_book(reservation).reservations, reservation)
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
    draft.put(_book(reservation).reservations, found._replace(state="dispatched"))


def end(draft: Draft, reservation: str, state: str, charged: Amounts) -> None:
    """End an open one as `settled` or `released`."""
    found = _open_reservation(draft, reservation, state)
    _end(draft, found, state, _in_book(charged, _book(reservation)))


def _end(draft: Draft, found: ReservationRow, state: str, charged: Vector) -> None:
    run, book = _run(_run_row(draft, _stored(RunId, found.run))), _book(found.id)
    charged = (*charged[:-1], 0)  # nothing of the gauge
    back = tuple(map(operator.neg, found.asked))
    for account, key in _pages(run.run, run.tenant, run.run_limits, found.made_at, found.short):
        page = draft.get(book.balances, account, key)
        if page is None:
            raise LedgerUnavailable(f"the ledger lacks a balance of run {run.run}; stop and call check_books")
        _change(draft, book, page, used=charged, held=back)
    draft.put(book.reservations, found._replace(state=state, actual=charged))


def end_if_open(draft: Draft, reservation: str, state: str, charged: Amounts) -> bool:
    """`end`, where nobody has done it before. Whether it was done."""
    book = _book(reservation)
    found = draft.get(book.reservations, reservation)
    if found is None or found.state not in _OPEN:
        return False
    _end(draft, found, state, _in_book(charged, book))
    return True


def close_run(draft: Draft, run: RunId, charged: Mapping[str, Amounts], below: Beside = None) -> bool:
    """Whether it was open. What is dispatched is settled in full, or as `charged` says.

    Open runs below it are closed first, as `abandon` does.
    """
    if not _run_row(draft, run).is_open:
        return False
    reservations, children = _open_of(draft, run)
    _abandon_all(draft, children, below)
    _close(draft, run, reservations, charged)
    return True


def _close(draft: Draft, run_id: RunId, reservations: Sequence[str], charged: Mapping[str, Amounts]) -> None:
    for reservation in reservations:
        book = _book(reservation)
        if (found := draft.get(book.reservations, reservation)) is None or found.state not in _OPEN:
            continue
        if found.id in charged:
            _end(draft, found, "settled", _in_book(charged[found.id], book))
        elif found.state == "dispatched":
            _end(draft, found, "settled", found.asked)
        else:
            _end(draft, found, "released", book.nothing)
    row = _run_row(draft, run_id)
    draft.put(RUNS, row._replace(is_open=0))
    if (parent := run_id.parent) is not None:
        _give_back(draft, run_id, _decoded(row.run_limits), parent)


# In the index's own words.
_OPEN_IN: Final = "SELECT id, 0 AS is_run FROM {} WHERE run = ? AND state IN ('held', 'dispatched')"
_BELOW: Final = "run > ? AND run < ?"
_OPEN_BELOW: Final = f"SELECT run, 1 FROM runs WHERE {_BELOW} AND is_open = 1"  # noqa: S608
_OPEN_OF_RUN: Final = " UNION ALL ".join(
    (*(_OPEN_IN.format(book.reservations.name) for book in BOOKS), f"{_OPEN_BELOW} ORDER BY id")
)


def _open_of(draft: Draft, run: RunId) -> tuple[list[str], list[RunId]]:
    """The open reservations of a run, and the open runs below it, each before those below it in turn."""
    found = draft.query(_OPEN_OF_RUN, run, run, *runs_below(run))
    return [name for name, is_run in found if not is_run], [_stored(RunId, name) for name, is_run in found if is_run]


# -- the dead ----------------------------------------------------------------------------------------------------------


def _sums(template: str, book: Book) -> str:
    return ", ".join(columns(template, book.dimensions))


# Every name in these is one of the constants above; one statement for each book. Again in the index's own words.
_DISPATCHED: Final = tuple(
    f"""SELECT {_sums("coalesce(sum({}), 0)", book)} FROM {book.reservations.name}
    WHERE run = ? AND state IN ('held', 'dispatched') AND state = 'dispatched'"""  # noqa: S608
    for book in BOOKS
)
_USED: Final = tuple(
    f"SELECT {_sums('coalesce(sum(used_{}), 0)', book)} FROM {book.balances.name} WHERE account = ?"  # noqa: S608
    for book in BOOKS
)
# By the closed children of a run, which stands on its page, too: their ids have no further '.'.
_USED_BELOW: Final = tuple(
    f"""SELECT {_sums("coalesce(sum(used_{}), 0)", book)} FROM runs JOIN {book.balances.name} ON account = 'run:' || run
    WHERE {_BELOW} AND substr(run, ?) NOT LIKE '%.%' AND is_open = 0"""  # noqa: S608
    for book in BOOKS
)


def owners(draft: Draft) -> list[str]:
    return [owner for (owner,) in draft.query("SELECT DISTINCT owner FROM runs WHERE is_open = 1")]


def owned_by(draft: Draft, names: Sequence[str]) -> list[RunId]:
    """The open runs of these owners."""
    of_owner = "SELECT run FROM runs WHERE owner = ? AND is_open = 1 ORDER BY run"
    return [_stored(RunId, run) for owner in names for (run,) in draft.query(of_owner, owner)]


def abandon(draft: Draft, run: RunId, beside: Beside) -> int:
    """Close a run that its owner cannot close, and those below it first, each with what is written `beside` its end.

    Returns how many that was.
    """
    if not _run_row(draft, run).is_open:
        return 0
    runs = [run, *_open_of(draft, run)[1]]
    _abandon_all(draft, runs, beside)
    return len(runs)


def _abandon_all(draft: Draft, runs: Sequence[RunId], beside: Beside) -> None:
    """From the last to the first."""
    for run in reversed(runs):
        abandoned = _abandoned(draft, run)
        _close(draft, run, _open_of(draft, run)[0], {})
        if beside is not None:
            beside(abandoned).work(draft)


def _abandoned(draft: Draft, run: RunId) -> Abandoned:
    """Of an open run. All of it is as it was before this job, in which runs below may have been closed."""
    charged: Vector = ()
    used: Vector = ()
    for dispatched, so_far, by_children in zip(_DISPATCHED, _USED, _USED_BELOW, strict=True):
        charged += (*map(int, draft.query(dispatched, run)[0][:-1]), 0)  # nothing of the gauge
        own = map(int, draft.query(so_far, run_account(run))[0])
        theirs = map(int, draft.query(by_children, *runs_below(run), len(run) + 2)[0])
        used += tuple(map(operator.sub, own, theirs))
    return Abandoned(run, Amounts(*charged), Amounts(*map(operator.add, charged, used)))


# -- balances ----------------------------------------------------------------------------------------------------------

# What one run's calls hold on the pages of one key: `2026-11-23`, `2026-11`, or all of them for `total`.
_HELD_BY: Final = f"""SELECT {_sums("coalesce(sum({}), 0)", CALLS)} FROM reservations
    WHERE run = ? AND state IN ('held', 'dispatched') AND (? = 'total' OR substr(made_at, 1, length(?)) = ?)"""  # noqa: S608
# All that is open or settled, of each run, day and choice of pages; by the minute where there are short ones.
_RUNS: Final = "SELECT run, run_limits, is_open FROM runs"
_ONE: Final = f"{_RUNS} WHERE run = ?"
_JOURNAL: Final = """SELECT made.run, runs.tenant, runs.run_limits,
    CASE WHEN short = '' THEN substr(made_at, 1, 10) ELSE made_at END AS made, short, {}, {}
    FROM {} AS made LEFT JOIN runs ON runs.run = made.run
    GROUP BY made.run, runs.tenant, runs.run_limits, made, short"""


def balance(draft: Draft, account: str, key: str) -> Balance:
    calls, boxes = (_page(draft, book, account, key) for book in BOOKS)
    return Balance(Amounts(*calls.used, *boxes.used), Amounts(*calls.held, *boxes.held))


def remaining(
    draft: Draft, run_id: RunId, minute: str, for_program: bool, until: float | None = None, own: bool = False
) -> Remaining:
    left: list[int | None] = [None] * len(DIMENSIONS)
    run, limits, _ = _plan(draft, run_id, minute)
    for limit in limits:
        if until is not None and _is_over(limit, until):
            continue
        if own and limit.account != run_account(run_id):
            continue
        is_secret = for_program and _told(limit.account, run) is not None
        for book in BOOKS:
            if not any(bound is not None for bound in limit.bounds[book.places]):
                continue
            page = _page(draft, book, limit.account, limit.key)
            for place, (bound, used, held) in enumerate(
                zip(limit.bounds[book.places], page.used, page.held, strict=True), book.first
            ):
                if bound is None:
                    continue
                here = max(0, bound - used - held)
                if not (here and is_secret):
                    _lessen(left, place, here)
    return Remaining(*left)


def _is_over(limit: _Limit, until: float) -> bool:
    end = period_end(limit.period, limit.key)
    return end is not None and end.timestamp() <= until


def room(draft: Draft, run_id: RunId, minute: str) -> Room:
    alone: list[int | None] = [None] * len(DIMENSIONS)
    empty = [*alone]
    for limit in _plan(draft, run_id, minute).limits:
        page = _page(draft, CALLS, limit.account, limit.key)
        own = draft.query(_HELD_BY, run_id, limit.key, limit.key, limit.key)[0]
        for place, bound in enumerate(limit.bounds[CALLS.places]):
            if bound is None:
                continue
            unused = bound - page.used[place]
            # What it held before a limit of this period was set is not on the page.
            _lessen(alone, place, unused - page.held[place] + min(int(own[place]), page.held[place]))
            _lessen(empty, place, unused)
    return Room(Remaining(*alone), Remaining(*empty))


def _lessen(left: list[int | None], place: int, here: int) -> None:
    before = left[place]
    left[place] = max(0, here if before is None else min(before, here))


def check(ask: Ask) -> list[str]:
    """Recompute every balance from the reservations: one line for each difference."""
    children, problems = _children(ask)
    return [*problems, *(problem for book in BOOKS for problem in _check(ask, book, children))]


class _Child(NamedTuple):
    run: RunId
    parent: RunId
    held: Vector
    is_open: bool


def _children(ask: Ask) -> tuple[list[_Child], list[str]]:
    """Every run with a parent, each before that one; and what is wrong with this tree."""
    runs: dict[RunId, list[tuple[Limits, bool]]] = {}
    # A child's id is longer than its parent's.
    for run, limits, is_open in ask(f"{_RUNS} WHERE run LIKE '%.%' ORDER BY length(run) DESC, run"):
        runs[_stored(RunId, run)] = [(_decoded(limits), bool(is_open))]
    children, problems = [], []
    for run in list(runs):
        parent = run.parent
        assert parent is not None, "its id has a '.'"
        if parent not in runs:
            runs[parent] = [(_decoded(limits), bool(is_open)) for _, limits, is_open in ask(_ONE, parent)]
        if not runs[parent]:
            problems.append(f"the ledger has run {run}, and does not know its parent")
            continue
        ((limits, is_open),), ((above, is_open_above),) = runs[run], runs[parent]
        if is_open and not is_open_above:
            problems.append(f"run {run} is open, but its parent is closed")
        held = _slice(_bounds_of(limits), _bounds_of(above)) if is_open else _ZERO
        children.append(_Child(run, parent, held, is_open))
    return children, problems


def _check(ask: Ask, book: Book, children: Sequence[_Child]) -> list[str]:
    expected: dict[tuple[str, str], Vector] = {}
    problems: list[str] = []
    settled = _sums("coalesce(sum(CASE WHEN state = 'settled' THEN actual_{} END), 0)", book)
    under_way = _sums("sum(CASE WHEN state IN ('held', 'dispatched') THEN {} ELSE 0 END)", book)
    for run, tenant, run_limits, minute, short, *sums in ask(
        _JOURNAL.format(settled, under_way, book.reservations.name)
    ):
        if tenant is None:
            problems.append(f"the ledger has reservations of run {run[:80]!a}, and does not know the run")
            continue
        if not (isinstance(minute, str) and isinstance(short, str)):  # a file takes anything in a column
            raise LedgerUnavailable(f"a reservation of run {run} has no time that is ours; set the ledger's file aside")
        amounts = tuple(map(int, sums))
        for page in _pages(_stored(RunId, run), _stored(Tenant, tenant), _decoded(run_limits), minute, short):
            before = expected.get(page)
            expected[page] = amounts if before is None else tuple(map(operator.add, before, amounts))
    sides = (*columns("used_{}", book.dimensions), *columns("held_{}", book.dimensions))
    nothing = (0,) * len(sides)
    for child in children:
        own, page = expected.get((run_account(child.run), "total"), nothing), (run_account(child.parent), "total")
        used = book.nothing if child.is_open else own[: len(book.dimensions)]
        counted = (*used, *child.held[book.places])
        expected[page] = tuple(map(operator.add, expected.get(page, nothing), counted))
    rows = ask(f"SELECT account, key, {', '.join(sides)} FROM {book.balances.name}")  # noqa: S608
    kept: dict[tuple[str, str], Vector] = {(row[0], row[1]): row[2:] for row in rows}
    for page in sorted(kept.keys() | expected.keys(), key=lambda page: tuple(map(str, page))):
        have, want = kept.get(page, nothing), expected.get(page, nothing)
        problems += [
            f"{page[0]} {page[1]}: {side.replace('_', ' ', 1)} is {here}, its reservations say {said}"
            for side, here, said in zip(sides, have, want, strict=True)
            if here != said
        ]
    return problems


assert all(book.dimensions[-1] in GAUGES for book in BOOKS), "the gauge of a book comes last"
assert _vector(NOTHING) == _ZERO, "amounts are vectors in the order of the store's columns"
