"""What the log says of a run that somebody else had to close: written in one transaction with its closing."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from belljar.audit import AuditLog
from belljar.audit.events import AmountsData, RunAbandoned
from belljar.journal import Job
from belljar.ledger import GAUGES, Abandoned, Amounts

__all__ = ["abandoned_in"]


def abandoned_in(audit: AuditLog) -> Callable[[Abandoned], Job[object]]:
    """Makes `run.abandoned` of what the ledger charges. Nothing is written of a run that has its end in the log."""

    def entry(run: Abandoned) -> Job[object]:
        charged = AmountsData(**_lasting(run.charged))
        return audit.end_if_open(run.run, RunAbandoned(**_lasting(run.used), charged=charged))

    return entry


def _lasting(amounts: Amounts) -> dict[str, int]:
    """All but the gauges, of which nothing is ever charged."""
    return {name: value for name, value in msgspec.structs.asdict(amounts).items() if name not in GAUGES}
