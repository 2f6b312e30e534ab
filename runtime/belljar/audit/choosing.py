"""Which runs of a log somebody means: by tenant, status, model, time, cost and refusals.

Most of it is in the first and the last record of a run. Others are read only of runs that everything else has let pass
and where those two do not say it: of a run that has not ended, and for a model that was asked for by a program.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from itertools import islice

import msgspec

from belljar.audit.events import QueryCompleted, QueryDenied, QueryFailed, QueryRequested, QueryReused, RequestRefused
from belljar.audit.read import RunSummary, records, runs, runs_backwards
from belljar.audit.source import Log
from belljar.audit.trees import parent_of
from belljar.identity import is_within

__all__ = ["UNFINISHED", "Wanted", "chosen"]

UNFINISHED = "unfinished"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a run has to be; None is whatever.

    Attributes:
        tenant: this one, or one below it.
        status: the run's, or `unfinished`.
        model: the root model, the sub-model, or one that was asked or answered.
        since_ns, until_ns: when it began, from the one on and before the other.
        cost_nanousd_min: what it cost together with the runs below it.
        refused: something of it was refused.
    """

    tenant: str | None = None
    status: str | None = None
    model: str | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    cost_nanousd_min: int | None = None
    refused: bool = False


def chosen(log: Log, wanted: Wanted, limit: int | None = None) -> list[RunSummary]:
    """The runs that are wanted, oldest first; of more than `limit`, the latest.

    Raises as `runs`.
    """
    costs = _costs(log, runs(log)) if wanted.cost_nanousd_min is not None else {}
    with closing(runs_backwards(log)) as known:
        passed = (
            run
            for run in known
            if _is_wanted(log, run, wanted) and costs.get(run.run, 0) >= (wanted.cost_nanousd_min or 0)
        )
        return [*islice(passed, limit)][::-1]


def _is_wanted(log: Log, run: RunSummary, wanted: Wanted) -> bool:
    """What takes the longest is asked last."""
    return (
        is_within(run.tenant or "", wanted.tenant)
        and wanted.status in (None, run.status or UNFINISHED)
        and (wanted.since_ns is None or run.started_ns >= wanted.since_ns)
        and (wanted.until_ns is None or run.started_ns < wanted.until_ns)
        and (not wanted.refused or _was_refused(log, run))
        and (wanted.model is None or _has_model(log, run, wanted.model))
    )


def _was_refused(log: Log, run: RunSummary) -> bool:
    if run.refused is not None:
        return run.refused > 0
    return any(isinstance(record.typed, RequestRefused | QueryDenied) for record in records(log, run.run))


def _has_model(log: Log, run: RunSummary, model: str) -> bool:
    if model in (run.root_model, run.sub_model):
        return True
    for record in records(log, run.run):
        match record.typed:
            case QueryRequested(model=name) | QueryCompleted(answered_by=name) if name == model:
                return True
            case QueryReused() as reused if model in (reused.model, reused.answered_by):
                return True
            case _:
                pass
    return False


def _costs(log: Log, everything: list[RunSummary]) -> Counter[str]:
    """What each run cost with those below it."""
    found: Counter[str] = Counter()
    for run in everything:
        cost = run.cost_nanousd if run.cost_nanousd is not None else _so_far(log, run.run)
        above: str | None = run.run
        while above is not None:
            found[above] += cost
            above = parent_of(above)
    return found


def _so_far(log: Log, run: str) -> int:
    return sum(
        record.typed.cost_nanousd
        for record in records(log, run)
        if isinstance(record.typed, QueryCompleted | QueryFailed)
    )
