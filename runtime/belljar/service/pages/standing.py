"""How a service stands besides its host, for the page of its health: its queue, and what providers failed with."""

from __future__ import annotations

from typing import Final

from belljar.audit.export.view import Fact
from belljar.jobs import Desk
from belljar.service.pages.seams import Section, Table
from belljar.service.provider_errors import ProviderErrors

__all__ = ["errors_section", "queue_section"]

_TENANTS: Final = 8
_ERRORS: Final = 12
_MIB: Final = 2**20


def queue_section(desk: Desk) -> Section:
    """What waits and runs here, of which bounds, and for whom most."""
    load, limits = desk.load(), desk.limits
    facts = [
        Fact(label="waiting", value=f"{load['queued']:,} of {limits.queued:,}"),
        Fact(label="of one tenant", value=f"at most {limits.queued_per_tenant:,}"),
        Fact(
            label="size of what waits",
            value=f"{load['queued_bytes'] / _MIB:,.1f} of {limits.queued_bytes / _MIB:,.0f} MiB",
        ),
        Fact(label="running", value=f"{load['running']:,} of {load['slots']:,}"),
        Fact(label="sessions open", value=f"{load['sessions']:,} of {limits.sessions:,}"),
        Fact(label="listeners", value=f"{load['listeners']:,}"),
    ]
    rows = [[one.tenant, f"{one.queued:,}", f"{one.running:,}"] for one in desk.busiest(_TENANTS)]
    table = Table(heads=["Tenant", "Waiting", "Running"], rows=rows) if rows else None
    if desk.is_draining:
        return Section(title="Queue", facts=facts, table=table, tone="warn", word="stopping: takes nothing more")
    if load["queued"] >= limits.queued:
        return Section(title="Queue", facts=facts, table=table, tone="bad", word="full")
    return Section(title="Queue", facts=facts, table=table, tone="good", word="takes orders")


def errors_section(errors: ProviderErrors) -> Section:
    """Calls of models that failed, those with most in the last hour first."""
    found = errors.ls(_ERRORS)
    last_hour = sum(one.last_hour for one in found)
    rows = [[one.model, one.code, f"{one.last_hour:,}", f"{one.since_start:,}"] for one in found]
    return Section(
        title="Provider errors",
        facts=[],
        table=Table(heads=["Model", "Code", "Last hour", "In all"], rows=rows, texts=2) if rows else None,
        tone="warn" if last_hour else "good",
        word=f"{last_hour:,} in the last hour" if last_hour else "none in the last hour",
    )
