"""Quotas for people and programs: what each tenant may use and has used, who changed it, and whether it all adds up.

What only reads takes a snapshot of the file, read-only, so it stops nobody and needs no open runtime. What changes a
limit is written with a record of it (`quota.changed`) in one transaction: a limit that nobody set cannot be there.
"""

from __future__ import annotations

import asyncio
import contextlib
import operator
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, TypeAlias, TypedDict, TypeVar, Unpack, cast

import msgspec

from belljar.arguments import check, tenant_of
from belljar.audit import AuditLog, Record, records
from belljar.audit.charges import CHARGING, Charges
from belljar.audit.events import HOST_RUNS, QueryDenied, QuotaChanged, RequestRefused, RunFinished, RunStarted
from belljar.audit.read import parse
from belljar.audit.source import UNREADABLE, Log, Source, looked_at, open_source
from belljar.errors import InvalidInput, LedgerUnavailable, VerificationFailed
from belljar.identity import RunId, Tenant
from belljar.journal import Ask, Job, opened_journal
from belljar.journal.packs import Row
from belljar.journal.schema import TAIL_BYTES_MAX, tail_of
from belljar.ledger import (
    LIMITED,
    Amounts,
    Changes,
    Choice,
    Ledger,
    Limits,
    Period,
    Place,
    Quota,
    Span,
    Used,
    check_books,
    context_limits,
    history,
    limits_of,
    overage,
    quotas,
)
from belljar.ledger.base import check_period

__all__ = [
    "BY_CONFIG",
    "Bounds",
    "Explained",
    "QuotaRefusal",
    "Quotas",
    "Stored",
    "apply_limits",
    "context_bounds",
    "differences",
    "differing",
    "explain",
    "open_quotas",
    "set_by",
]

_T = TypeVar("_T")
# Whom the log names for what a configuration file sets.
BY_CONFIG: Final = "config"
# Counts the bytes of contexts that each tenant has, without those below it: of all, or of those in one tree.
Stored: TypeAlias = Callable[[Tenant | None], Mapping[Tenant, int]]
# What of the log is compared with the ledger.
_COMPARED: Final = CHARGING | {QuotaChanged.name}
# The version of the records since which log and ledger are written at once.
_ONE_JOURNAL_SINCE: Final = 3
_RECORD_VERSION: Final = re.compile(rb'"v":(\d{1,9})}\Z')
_RUN: Final = "run"
# Under what the log has the changes of limits.
_CHANGED_IN: Final = "host.quotas"
_CHANGES: Final = "a mapping of periods to limits, such as {'day': {'calls': 1000}}"
# Codes of refusals by a quota: also the run's own bound on reads, and the tenant's on what is stored.
_OF_QUOTAS: Final = ("quota.run.", "quota.tenant.", "context.read_total", "context.stored")


class QuotaRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """One refusal by a quota, as the log has it.

    Attributes:
        seq: the record.
        asked: what was refused: `query`, or the request of a program such as `read`; or `run`, its start, or that it
            goes on.
        code: the key of the policy that sets such a limit.
        scope: the level that said no, a tenant or `run:ID`; None where the log does not know.
        limit: what bounds it, and `observed` what it would have come to.
        used: what was charged at that moment; `held` was under way.
        waited_ms: how long it had waited for a period's end; None if it had not.
        count: how many there were, where the log has only the first ones in full.
    """

    seq: int
    time: datetime
    asked: str
    code: str
    limit: int | None
    observed: int | None
    scope: str | None = None
    period: str | None = None
    used: int | None = None
    held: int | None = None
    waited_ms: int | None = None
    count: int | None = None


class Explained(msgspec.Struct, frozen=True):
    """What the quotas refused a run, and how its tenant's levels stand now.

    `overage` is what it was charged beyond what was held for it.
    """

    run: str
    tenant: str | None
    refusals: list[QuotaRefusal]
    quotas: list[Quota]
    overage: Amounts


class Bounds(TypedDict, total=False):
    """Limits by their dimension; None is unlimited, and what is not named stays."""

    calls: int | None
    input_tokens: int | None
    output_tokens: int | None
    cost_nanousd: int | None
    read_bytes: int | None
    calls_in_flight: int | None
    cpu_ms: int | None
    wall_ms: int | None
    memory_mib_s: int | None
    boxes: int | None
    context_bytes: int | None
    depth: int | None


class Quotas:
    """The quotas in one state folder. `runtime.quotas` and `host.quotas` are such.

    Args:
        path: the file of log and ledger.
        writers: gives what writes to it, while it is open; None for whoever only reads.
        stored: counts the bytes of contexts that each tenant has on this host; None where that is nobody's question.
    """

    def __init__(
        self, path: Log, writers: Callable[[], tuple[Ledger, AuditLog]] | None, stored: Stored | None = None
    ) -> None:
        self._path = path
        self._writers = writers
        self._stored = stored

    def _writing(self) -> tuple[Ledger, AuditLog]:
        assert self._writers is not None, "it was made to read"
        return self._writers()

    async def show(
        self, tenant: str | None = None, *, below: bool = False, choose: Choice | None = None
    ) -> list[Quota]:
        """How every level of `tenant` stands, or every tenant, in each period that has a limit or use now.

        Args:
            below: `tenant` and every tenant below it, instead of its levels.
            choose: takes all levels and periods that there are, in order, and gives those that are wanted. Of ten
                thousand tenants only these are read whole. It is called in another thread.

        Raises:
            InvalidInput: `tenant.invalid`; `quota.missing`: there is no ledger yet.
            LedgerUnavailable: it cannot be read.
            HostFault: the stores of contexts cannot be read.
        """
        level = None if tenant is None else tenant_of(tenant)
        standing = _standing(level, self._stored, below=below, choose=choose)
        return await asyncio.to_thread(_asked, self._path, lambda source: list(standing(source)))

    async def set(
        self,
        tenant: str,
        period: Period,
        *,
        by: str = "api",
        **bounds: Unpack[Bounds],
    ) -> Limits:
        """Set limits of one level; what is not named stays, and None is unlimited. Holds from the next call on.

        Once anything is set for a level, the policies' `[quota.tenant]` says nothing about this level any more.
        `boxes` and `calls_in_flight` bound how many there are at once, `context_bytes` what the stored contexts of this
        tenant, and of all below it, may take up on each host, and `depth` how many levels of models there may be below
        a root model, as a policy's `models.depth` does; these go with the period `total`.

        Args:
            by: who does it; the log has it.

        Returns:
            What then stands for this period.

        Raises:
            InvalidInput: `tenant.invalid`, `limit.invalid`, `runtime.closed`.
            LedgerUnavailable: it cannot be written; nothing changed.
        """
        check_period(period)  # before it is a key: what cannot be one is no period either
        (limits,) = await self.change(tenant, {period: cast("Mapping[str, int | None]", bounds)}, by=by)
        return limits

    async def change(self, tenant: str, changes: Changes, *, by: str = "api") -> list[Limits]:
        """As `set`, in several periods at once: all of it or nothing. `{"day": {"calls": 1000}}`. Raises as `set`."""
        level = tenant_of(tenant)
        check("by", by, str, "a text that says who changes it")
        check("changes", changes, Mapping, _CHANGES)
        for bounds in changes.values():
            check("what changes in a period", bounds, Mapping, "a mapping such as {'calls': 1000}")
        if not changes or not all(changes.values()):
            # A level for which nothing is set has its policy's limits; one for which no bound is set would have none.
            raise InvalidInput("no limit is named: name one, such as calls=1000", code="limit.invalid")
        for name in (name for bounds in changes.values() for name in bounds):
            if name not in LIMITED:
                raise TypeError(f"{name!r} is not a limit: use {', '.join(LIMITED)}")
        ledger, audit = self._writing()
        return await ledger.change_limits(level, changes, beside=lambda limits: _changed(audit, level, by, limits))

    async def clear(self, tenant: str, *, by: str = "api") -> list[Limits]:
        """Forget all limits of one level; the policies' count for it again. Returns what they were. Raises as `set`."""
        level = tenant_of(tenant)
        check("by", by, str, "a text that says who clears it")
        ledger, audit = self._writing()
        return await ledger.clear_limits(level, beside=lambda limits: _cleared(audit, level, by, limits))

    async def of_all(self, make: Callable[[Iterable[Quota]], _T]) -> _T:
        """What `make` makes of how all tenants stand. It is called in another thread: there may be ten thousand."""
        standing = _standing(None, self._stored)
        return await asyncio.to_thread(_asked, self._path, lambda source: make(standing(source)))

    async def levels(self, tenant: str | None = None) -> list[str]:
        """Those of `tenant` and all below it, or of all, of which `show` has something to say, in order."""
        found: list[str] = []

        def choose(places: Sequence[Place]) -> Sequence[Place]:
            found.extend(dict.fromkeys(place.level for place in places))
            return ()

        await self.show(tenant, below=True, choose=choose)
        return found

    async def history(
        self,
        tenant: str | None = None,
        *,
        per: Span = "day",
        below: bool = False,
        since: tuple[str, str] | None = None,
        most: int | None = None,
    ) -> list[Used]:
        """What `tenant`, or every tenant, used on each day or in each month (UTC), the oldest first.

        Args:
            below: `tenant` and every tenant below it.
            since: begins with this one, a day or month and a tenant, if it is there, or else behind it.
            most: how many there are at most.

        Raises: as `show`.
        """
        check("per", per, str, "day or month")
        if per not in ("day", "month"):
            raise InvalidInput(f"{per[:60]!a} is not a span of the history: use day or month", code="argument.type")
        level = None if tenant is None else tenant_of(tenant)
        return await asyncio.to_thread(
            _asked,
            self._path,
            lambda source: history(_ask(source), per, level, below=below, since=since, most=most),
        )

    async def check(self) -> list[str]:
        """Whether the ledger adds up and agrees with the log: one line for each difference. Raises as `show`."""
        return await asyncio.to_thread(differences, self._path)


@contextlib.asynccontextmanager
async def open_quotas(path: Log, stored: Stored | None = None) -> AsyncIterator[Quotas]:
    """The quotas in a file for whoever opens no runtime; it is created if it is missing. `stored` is as in `Quotas`.

    Raises:
        LedgerUnavailable: it cannot be opened.
    """
    async with opened_journal(path, unavailable=LedgerUnavailable) as journal:
        writers = Ledger(journal, owner="nobody: it opens no run"), AuditLog(journal)
        yield Quotas(path, lambda: writers, stored)


async def apply_limits(ledger: Ledger, audit: AuditLog, wanted: Mapping[Tenant, Changes], *, by: str) -> int:
    """Set these limits where they differ, with a record of each change, in one transaction. How many were changed.

    Raises:
        InvalidInput: `limit.invalid`.
        LedgerUnavailable: it cannot be written; nothing changed.
    """
    return await ledger.apply_limits(wanted, beside=lambda tenant, limits: _changed(audit, tenant, by, limits))


def differing(log: Log, wanted: Mapping[Tenant, Changes]) -> dict[Tenant, Changes]:
    """Those tenants of whose limits the ledger has others, read without stopping anybody who writes.

    Raises:
        InvalidInput: `quota.missing`: there is no ledger yet.
        LedgerUnavailable: it cannot be read.
    """

    def look(source: Source) -> dict[Tenant, Changes]:
        stands = limits_of(_ask(source), list(wanted))
        return {
            tenant: changes
            for tenant, changes in wanted.items()
            if any(
                (limits := stands.get((tenant, period))) is None or getattr(limits, name) != bound
                for period, bounds in changes.items()
                for name, bound in bounds.items()
            )
        }

    return _asked(log, look)


def set_by(log: Log) -> dict[tuple[str, str, str], str]:
    """Who set the limits that stand, as far as the log says: by tenant, period and dimension.

    Raises: as `records`.
    """
    found: dict[tuple[str, str, str], tuple[int | None, str]] = {}
    for record in records(log, _CHANGED_IN):
        if isinstance(change := record.typed, QuotaChanged):
            for name in LIMITED:
                place, bound = (change.tenant, change.period, name), getattr(change, name)
                # A change of one dimension says of all others what they were.
                if place not in found or found[place][0] != bound:
                    found[place] = bound, change.by
    return {place: by for place, (_, by) in found.items()}


def _changed(audit: AuditLog, tenant: Tenant, by: str, limits: Limits) -> Job[object]:
    bounds = msgspec.structs.asdict(limits)
    return audit.host_entry(QuotaChanged(tenant=str(tenant), by=by, **bounds))


def _cleared(audit: AuditLog, tenant: Tenant, by: str, limits: Limits) -> Job[object]:
    return audit.host_entry(QuotaChanged(tenant=str(tenant), by=by, period=limits.period, cleared=True))


# -- reading -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _snapshot(log: Log) -> Iterator[Source]:
    """Log and ledger as they are at one moment, read-only."""
    try:
        opened = open_source(log)
    except InvalidInput as error:
        if isinstance(log, str) or error.code != "audit.missing":
            raise
        raise InvalidInput(
            f"there is no ledger in {log.parent} yet: start a run or set a quota, or check the state folder",
            code="quota.missing",
        ) from None
    with contextlib.closing(opened) as source:
        try:
            if not source.has_ledger() and next(source.rows(), None) is not None:
                raise InvalidInput(
                    f"another version of Belljar made {source.name}: an older one is migrated by the next run, or by "
                    "`belljar quota set`",
                    code="quota.format",
                )
            if (odd := source.foreign()) is not None:
                raise LedgerUnavailable(f"{source.name} is not as we make it: {odd}; set it aside for inspection")
            yield source
        except UNREADABLE as error:
            raise LedgerUnavailable(f"{source.name} cannot be read: {error}; verify it") from error


def _asked(log: Log, question: Callable[[Source], _T]) -> _T:
    with _snapshot(log) as source:
        return question(source)


def _standing(
    level: Tenant | None, stored: Stored | None, *, below: bool = False, choose: Choice | None = None
) -> Callable[[Source], Iterator[Quota]]:
    """What asks how the levels stand now, by the clock that tells their periods."""

    def standing(source: Source) -> Iterator[Quota]:
        sizes = None if stored is None else stored(None if level is None else level.levels[0])
        return quotas(_ask(source), source.now(), level, sizes, below=below, choose=choose)

    return standing


def context_bounds(log: Log, tenant: Tenant) -> dict[Tenant, int]:
    """How many bytes of contexts each level of `tenant` may have on this host, of those for which that was set.

    Raises:
        LedgerUnavailable, AuditUnavailable: it cannot be read, so nobody knows.
    """

    def look(log: Log) -> dict[Tenant, int]:
        return _asked(log, lambda source: context_limits(_ask(source), tenant))

    try:
        # What was read while somebody else opened the file may be older than what that one has said since.
        return looked_at(log, look, lambda _: False)
    except InvalidInput as error:
        if error.code not in _NO_LIMITS:
            raise
        return {}


# There is no journal yet, or one of an older format, which has no such limits.
_NO_LIMITS: Final = ("quota.missing", "audit.missing", "quota.format")


def _ask(source: Source) -> Ask:
    return source.ask if source.has_ledger() else lambda _statement, *_values: []


def differences(log: Log) -> list[str]:
    """Whether the ledger adds up and agrees with the log, from one snapshot: one line for each difference.

    Raises: as `Quotas.show`.
    """
    return looked_at(log, _differences, operator.not_)


def _differences(log: Log) -> list[str]:
    with _snapshot(log) as source:
        charges, bounds = Charges(), _Bounds()
        for seq, _, body, _ in source.rows():
            if isinstance(body, bytes) and _is_compared(body):
                try:
                    record = parse(seq, body)
                except ValueError as error:
                    raise VerificationFailed(f"record {seq} of the audit log {error}; verify the log") from None
                charges.feed(record.run, record.typed)
                bounds.feed(record.typed)
        ask = _ask(source)
        gone = [run for run in charges.unknown(ask) if _is_of_one_journal(source.rows(run))]
        return [
            *check_books(ask),
            *charges.differences(ask),
            *(f"run {run[:80]!a} was charged something in the log, and the ledger does not know it" for run in gone),
            *bounds.differences(ask, of_all=_is_of_one_journal(source.rows(seq=1))),
        ]


def _is_compared(body: bytes) -> bool:
    tail = tail_of(body)
    return tail is not None and tail[0] in _COMPARED


def _is_of_one_journal(rows: Iterator[Row]) -> bool:
    """Whether the first record was written in one transaction with what the ledger has of it: older ones were not."""
    body = next((row[2] for row in rows), None)
    version = _RECORD_VERSION.search(body[-TAIL_BYTES_MAX:]) if isinstance(body, bytes) else None
    return version is None or int(version[1]) >= _ONE_JOURNAL_SINCE


class _Bounds:
    """The limits that were set, from the log; `feed` takes what was written of them, in order."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], tuple[int | None, ...]] = {}
        self._named: set[tuple[str, str]] = set()

    def feed(self, event: object) -> None:
        if not isinstance(event, QuotaChanged):
            return
        place = (event.tenant, event.period)
        self._named.add(place)
        if event.cleared:
            self._said.pop(place, None)
        else:
            self._said[place] = tuple(getattr(event, name) for name in LIMITED)

    def differences(self, ask: Ask, *, of_all: bool) -> list[str]:
        """Compare with the ledger, in the snapshot that the records are of: one line for each limit that differs.

        A log that an older version began says nothing of limits that it set; so not `of_all`, but only of those that
        the log names.
        """
        rows = ask(f"SELECT account, period, {', '.join(LIMITED)} FROM limits")  # noqa: S608 (constants)
        there = {(str(row[0]), str(row[1])): row[2:] for row in rows}
        nothing = (None,) * len(LIMITED)
        return [
            f"{account[:80]} {period[:80]}: the limit of {name} is {_shown(bound)}, the log says {_shown(said)}"
            for account, period in sorted(self._named | (there.keys() if of_all else set()))
            for name, bound, said in zip(
                LIMITED,
                there.get((account, period), nothing),
                self._said.get((account, period), nothing),
                strict=True,
            )
            if bound != said
        ]


def _shown(bound: object) -> str:
    return "none" if bound is None else ascii(bound)[:80]


def explain(path: Log, run: str, stored: Stored | None = None) -> Explained:
    """What the quotas refused a run, from the log, and how its tenant stands now, from the ledger.

    `stored` is as in `Quotas`.

    Raises:
        InvalidInput: `audit.no_run`; `quota.missing`: there is no ledger yet.
        LedgerUnavailable, AuditUnavailable, VerificationFailed: it cannot be read.
    """
    try:
        found = list(records(path, run))
    except InvalidInput as error:  # there is no log yet
        if error.code != "audit.missing":
            raise
        found = []
    if not found or run in HOST_RUNS:
        raise InvalidInput(f"the log has no run {run[:80]}: list the runs to find it", code="audit.no_run")
    tenant = next((record.typed.tenant for record in found if isinstance(record.typed, RunStarted)), None)
    refusals: list[QuotaRefusal] = []
    for refusal in filter(None, map(_refusal, found)):
        # The end of a run repeats what its program met last.
        if refusal.asked != _RUN or all(one.code != refusal.code for one in refusals):
            refusals.append(refusal)
    level = None if tenant is None else Tenant(tenant)
    if level is None:
        return Explained(run, tenant, refusals, [], Amounts())

    def stand(source: Source) -> tuple[list[Quota], Amounts]:
        return list(_standing(level, stored)(source)), overage(_ask(source), RunId(run))

    return Explained(run, tenant, refusals, *_asked(path, stand))


def _refusal(record: Record) -> QuotaRefusal | None:
    event = record.typed
    if not isinstance(event, QueryDenied | RequestRefused | RunFinished):
        return None
    if event.code is None or not event.code.startswith(_OF_QUOTAS):
        return None
    found = QuotaRefusal(
        seq=record.seq,
        time=datetime.fromtimestamp(record.time_ns // 10**9, UTC),
        asked=_RUN,
        code=event.code,
        limit=event.limit,
        observed=event.observed,
    )
    if isinstance(event, RunFinished):
        return found
    return msgspec.structs.replace(
        found,
        asked=event.asked if isinstance(event, RequestRefused) else "query",
        scope=event.scope,
        period=event.period,
        used=event.used,
        held=event.held,
        waited_ms=event.waited_ms,
        count=event.count if isinstance(event, RequestRefused) else None,
    )
