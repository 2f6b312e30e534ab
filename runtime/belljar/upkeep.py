"""The state as whoever runs a host sees it: where it is, whether it is sound, and in which format.

`examine` only looks, and stops nobody who works with the state. What it says of the journal is of a few moments in
turn: the log and the ledger are each checked in a snapshot of their own, and a run may begin between two of them.

`migrate` does what the first use would do anyway, at a time of the operator's choosing. The journal becomes one of the
present format in one transaction, and each tenant's contexts become so step by step (`context.formats`).
"""

from __future__ import annotations

import operator
import os
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from belljar.audit import Log, Report, verify
from belljar.audit.source import UNREADABLE, Source, looked_at, newer, open_source
from belljar.audit.witness import Address, Told, told_in
from belljar.context import ContextStores
from belljar.context.formats import FORMAT
from belljar.errors import AuditUnavailable, BelljarError, HostFault, InvalidInput
from belljar.identity import Tenant
from belljar.journal import migrate_database, shown
from belljar.journal.schema import OLD_LEDGER, SCHEMA
from belljar.journal.sqlite import SqliteStore
from belljar.journal.tables import BOOKS, columns
from belljar.keys import Keys
from belljar.ledger import Amounts
from belljar.owners import is_name, living
from belljar.quotas import differences
from belljar.recovery import LEASE_S
from belljar.state import State

__all__ = ["ContextsReport", "JournalReport", "OwnerReport", "StateReport", "Step", "examine", "migrate", "soundness"]

_OPEN: Final = "SELECT owner, count(*) FROM runs WHERE is_open = 1 GROUP BY owner"
_ORDERING: Final = "SELECT DISTINCT owner FROM orders WHERE ended_at = 0"
_HELD: Final = "SELECT {} FROM {} WHERE state IN ('held', 'dispatched')"  # the index's own words
_HOSTS: Final = "SELECT name, seen > clock_timestamp() - make_interval(secs => ?) FROM belljar.hosts"
_LEDGER: Final = "ledger.db"


class OwnerReport(msgspec.Struct, frozen=True):
    """A process, or a host that shares a server, which opens runs. What a dead one left, another closes."""

    name: str
    alive: bool
    open_runs: int


class ContextsReport(msgspec.Struct, frozen=True):
    """One tenant's contexts. `error` says why they cannot be used; then `format` is None."""

    tenant: str
    format: int | None
    error: str | None


class JournalReport(msgspec.Struct, frozen=True, kw_only=True):
    """The log and the ledger.

    Attributes:
        where: the file, or the server's URL without user and password.
        exists: whether there is one yet.
        format: its number, and `format_latest` is the one of this version; None if it is not there or cannot be opened.
        has_older_ledger: the ledger is still a file beside the log, as older versions had it.
        error: why it cannot be opened.
        records, runs, head: as `audit.Report` has them.
        open_runs: runs under way, or left by the dead; `held` is what they may still cost.
        problems: where the log does not verify, or the ledger does not add up; one line each.
    """

    where: str
    exists: bool = False
    format: int | None = None
    format_latest: int | None = None
    has_older_ledger: bool = False
    error: str | None = None
    records: int = 0
    runs: int = 0
    head: str | None = None
    open_runs: int = 0
    held: Amounts = Amounts()
    problems: list[str] = []


class StateReport(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `free_bytes` is what the disk of the folder has left; None where there is no folder yet.

    `witness` is how pushing checkpoints went last; None where none is configured.
    """

    folder: str
    free_bytes: int | None
    journal: JournalReport
    owners: list[OwnerReport]
    contexts: list[ContextsReport]
    contexts_format_latest: int = FORMAT
    witness: Told | None = None

    @property
    def error(self) -> str | None:
        """Why the first thing that cannot be opened cannot be opened."""
        errors = [self.journal.error, *(contexts.error for contexts in self.contexts)]
        return next((error for error in errors if error is not None), None)


class Step(msgspec.Struct, frozen=True):
    """One thing that was, or would be, brought from one format to another."""

    what: str
    before: int
    after: int


# -- looking -----------------------------------------------------------------------------------------------------------


def examine(state: State, witness: Address | None = None, keys: Keys | None = None) -> StateReport:
    """Look at everything, and change nothing. What cannot be opened or is not sound is in the report, not raised.

    With the `keys` of this host, what they know of the log counts, as in `verify`: that it was longer, or another one.

    Raises:
        LedgerUnavailable: the folder of owners cannot be used.
        HostFault: the folder of contexts cannot be read.
    """
    alive = _living(state)
    journal, of_runs = _journal(state, alive, keys)
    # Whoever was alive before or after that was not dead when its runs were looked at.
    alive.update((name, True) for name, lives in _living(state).items() if lives)
    return StateReport(
        folder=str(state.root),
        free_bytes=_free_bytes(state.root),
        journal=journal,
        owners=[OwnerReport(name, alive.get(name, False), of_runs.get(name, 0)) for name in sorted({*alive, *of_runs})],
        contexts=_contexts(state),
        witness=None if witness is None else told_in(state.witness, witness),
    )


def _living(state: State) -> dict[str, bool]:
    """The owners of this machine; hosts that share a server have no files."""
    return living(state.owners) if state.url is None else {}


def _free_bytes(folder: Path) -> int | None:
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def _journal(state: State, alive: dict[str, bool], keys: Keys | None) -> tuple[JournalReport, dict[str, int]]:
    """The journal, and how many open runs each owner has. Hosts that share it are added to `alive`."""
    log = state.journal
    nothing = JournalReport(where=_where(log), has_older_ledger=_older_ledger(log) is not None)
    try:
        with closing(open_source(log)) as source:
            number, latest = source.format()
            found = msgspec.structs.replace(nothing, exists=True, format=number, format_latest=latest)
            held, of_runs = _under_way(source, alive, is_shared=state.url is not None)
            strangers = _strangers(source, of_runs) if state.url is None else []
        report, problems = soundness(log, keys)
    except InvalidInput:  # there is none yet
        return nothing, {}
    except AuditUnavailable as error:
        return msgspec.structs.replace(nothing, exists=True, error=str(error)), {}
    except UNREADABLE as error:
        return msgspec.structs.replace(nothing, exists=True, error=f"{nothing.where} cannot be read: {error}"), {}
    found = msgspec.structs.replace(found, records=report.records, runs=report.runs, head=report.head)
    problems += [
        f"{name[:80]!a} has open runs or orders, and is no owner's name: somebody put it there" for name in strangers
    ]
    return msgspec.structs.replace(found, problems=problems, held=held, open_runs=sum(of_runs.values())), of_runs


def soundness(log: Log, keys: Keys | None = None) -> tuple[Report, list[str]]:
    """Whether the log verifies, with these keys, and the ledger adds up: the log's report, and the problems of both.

    Raises:
        InvalidInput: `audit.missing`: there is no log.
        AuditUnavailable: it cannot be opened, or the keys folder cannot be used.
    """
    report = verify(log, keys=keys)
    more: list[str] = []
    try:
        more += looked_at(log, _damage, operator.not_)
        with closing(open_source(log)) as source:
            has_ledger = source.has_ledger()
        more += differences(log) if has_ledger else []  # an older one is looked at when it is taken over
    except (BelljarError, *UNREADABLE) as error:
        more += [] if report.problems or more else [str(error)]
    return report, [*report.problems, *(line for line in more if line not in report.problems)]


def _damage(log: Log) -> list[str]:
    """What neither the log's records nor the ledger's sums come by: an index, a table that is empty so far."""
    with closing(open_source(log)) as source:
        # A table of somebody else could have anything in it that is to be computed.
        damage = source.damage() if source.foreign() is None else None
        return [] if damage is None else [f"{source.name} is damaged: {damage}"]


def _under_way(source: Source, alive: dict[str, bool], *, is_shared: bool) -> tuple[Amounts, dict[str, int]]:
    # What is not as we make it is not asked: a view of that name could take for ever. `verify` reports it.
    if not source.has_ledger() or source.foreign() is not None:
        return Amounts(), {}
    if is_shared:
        alive.update((str(name), bool(lives)) for name, lives in source.ask(_HOSTS, LEASE_S))
    held = {
        name: int(value)
        for book in BOOKS
        for row in source.ask(
            _HELD.format(", ".join(columns("coalesce(sum({}), 0)", book.dimensions)), book.reservations.name)
        )
        for name, value in zip(book.dimensions, row, strict=True)
    }
    return Amounts(**held), {str(owner): int(count) for owner, count in source.ask(_OPEN)}


def _strangers(source: Source, of_runs: dict[str, int]) -> list[str]:
    """Who owns something open without a name that a process can have. The next start closes it as that of the dead."""
    ordering = source.ask(_ORDERING) if source.has_ledger() and source.foreign() is None else []
    return sorted(name for name in {*of_runs, *(str(owner) for (owner,) in ordering)} if not is_name(name))


def _contexts(state: State) -> list[ContextsReport]:
    stores = ContextStores(state.contexts)
    found = []
    for tenant in stores.tenants():
        try:
            number = stores.of(tenant).format()
            error = _wrong_format(tenant, number) if number > FORMAT else None
            found.append(ContextsReport(str(tenant), number, error))
        except HostFault as fault:
            found.append(ContextsReport(str(tenant), None, str(fault)))
    return found


def _wrong_format(tenant: Tenant, number: int) -> str:
    return f"the context store of {tenant} {newer(number, FORMAT)}"


def _where(log: Log) -> str:
    return shown(log) if isinstance(log, str) else str(log)


def _older_ledger(log: Log) -> Path | None:
    """The ledger beside the log, which is a file of its own until the log is migrated."""
    beside = log.with_name(_LEDGER) if isinstance(log, Path) else None
    return beside if beside is not None and beside.is_file() else None


# -- migrating ---------------------------------------------------------------------------------------------------------


def migrate(state: State, *, dry_run: bool = False) -> list[Step]:
    """Bring the journal and all contexts to the formats of this version. Returns what was done, or would be.

    Each step is done wholly or not at all; if one fails, those before it stand.

    Raises:
        AuditUnavailable, LedgerUnavailable: the journal is newer, is not as we made it, or cannot be written.
        HostFault: contexts are newer, are in use, or cannot be read.
    """
    return [*_migrate_journal(state.journal, dry_run=dry_run), *_migrate_contexts(state, dry_run=dry_run)]


def _migrate_journal(log: Log, *, dry_run: bool) -> list[Step]:
    if isinstance(log, str):
        done = migrate_database(log, dry_run=dry_run, unavailable=AuditUnavailable)
        return [] if done is None else [Step(shown(log), *done)]
    number, ledger = _format(log), _older_ledger(log)
    if number is None and ledger is None:
        return []
    if not dry_run:
        SqliteStore(log, name=f"the journal {log}", unavailable=AuditUnavailable).close()
    steps = [Step(str(log), number or 0, SCHEMA.version)] if number != SCHEMA.version else []
    return [*steps, *([Step(str(ledger), OLD_LEDGER.version, SCHEMA.version)] if ledger is not None else [])]


def _format(log: Path) -> int | None:
    """The journal's format; None where there is no journal. Refuses a newer one, and one that is not as we make it."""
    try:
        with closing(open_source(log)) as source:
            number, _ = source.format()
            if (odd := source.foreign()) is not None:
                raise AuditUnavailable(f"{_where(log)} is not as we make it: {odd}; set it aside for inspection")
            return number
    except InvalidInput:
        return None
    except UNREADABLE as error:
        raise AuditUnavailable(f"{_where(log)} cannot be read: {error}; set it aside for inspection") from error


def _migrate_contexts(state: State, *, dry_run: bool) -> list[Step]:
    stores = ContextStores(state.contexts)
    steps = []
    for tenant in stores.tenants():
        store = stores.of(tenant)
        if (number := store.format()) < FORMAT:
            steps.append(Step(f"contexts of {tenant}", number, FORMAT))
        if not dry_run:
            store.migrate()  # also refuses a newer one
        elif number > FORMAT:
            raise HostFault(_wrong_format(tenant, number))
    return steps
