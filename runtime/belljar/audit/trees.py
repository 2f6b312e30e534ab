"""Who started whom: whether the runs of a log began and ended as a tree does, and what one of its trees looks like.

    run.started P   { run.started P.00001  ...  run.finished P.00001 }   run.finished P

A run's id begins with that of the run that started it. So a child begins while its parent is under way, belongs to its
parent's tenant, and has ended when its parent ends, however that does: a host that buries a tree begins at its leaves.

An answer that is used again is of a run of the same tenant, which may have ended long ago.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from belljar.audit.events import QueryCompleted, QueryFailed, QueryReused, RunAbandoned, RunFinished, RunStarted
from belljar.audit.read import Record

__all__ = ["TREE_EVENTS", "TreeRun", "Trees", "parent_of", "tree"]


# The events that `Trees` looks at.
TREE_EVENTS: Final = frozenset({RunStarted.name, RunFinished.name, RunAbandoned.name, QueryReused.name})


class TreeRun(msgspec.Struct, kw_only=True):
    """One run of a tree. What it cost is its own part: without its children's.

    Attributes:
        depth: how many runs of the tree are above it; 0 for the first.
        status: None while it is under way, `abandoned` if its host died.
        calls: how many model calls it was charged for; `cost_nanousd` in nano-dollars likewise.
    """

    run: str
    depth: int
    status: str | None = None
    calls: int = 0
    cost_nanousd: int = 0


class Trees:
    """The runs under way, and who started them. `feed` gives what is wrong with the next record."""

    def __init__(self) -> None:
        self._tenants: dict[str, str] = {}
        self._ever: dict[str, str] = {}  # the tenants of ended runs, too; each name is there once
        self._children: dict[str, set[str]] = {}  # of each run, those that are under way

    def feed(self, record: Record) -> Iterator[str]:
        match record.typed:
            case RunStarted() as started:
                yield from self._begin(record, started.tenant)
            case RunFinished() | RunAbandoned():
                yield from self._end(record)
            case QueryReused() as reused:
                theirs = self._ever.get(reused.origin.rpartition(".")[0])
                if theirs is None or theirs != self._ever.get(record.run):
                    yield (
                        f"record {record.seq}: it has the answer of action {reused.origin[:80]!a}, which is not of the "
                        "same tenant"
                    )
            case _:
                pass

    def _begin(self, record: Record, tenant: str) -> Iterator[str]:
        tenant = sys.intern(tenant)
        self._tenants.setdefault(record.run, tenant)
        self._ever.setdefault(record.run, tenant)
        parent = parent_of(record.run)
        if parent is None:
            return
        self._children.setdefault(parent, set()).add(record.run)
        above = self._tenants.get(parent)
        if above is None:
            yield f"record {record.seq}: run {record.run[:80]!a} begins, but its parent is not under way"
        elif above != tenant:
            yield (
                f"record {record.seq}: run {record.run[:80]!a} is of the tenant {tenant[:80]!a}, but its parent of "
                f"{above[:80]!a}"
            )

    def _end(self, record: Record) -> Iterator[str]:
        self._tenants.pop(record.run, None)
        for child in sorted(self._children.pop(record.run, ())):
            yield f"record {record.seq}: run {record.run[:80]!a} ends before its child run {child[:80]!a}"
        if (parent := parent_of(record.run)) is not None and (siblings := self._children.get(parent)):
            siblings.discard(record.run)


def parent_of(run: str) -> str | None:
    """The run that started this one, by its id; None if nothing did. The id may be anything."""
    return run.rpartition(".")[0] or None


def tree(records: Iterable[Record]) -> list[TreeRun]:
    """The runs of a tree, each before those that it started, from their records, the first run's first."""
    found: dict[str, TreeRun] = {}
    first: str | None = None
    for record in records:
        first = record.run if first is None else first
        run = found.setdefault(record.run, TreeRun(run=record.run, depth=record.run.count(".") - first.count(".")))
        match record.typed:
            case RunFinished() as finished:
                run.status = finished.status
            case RunAbandoned() as abandoned:
                run.status = "abandoned"
                _charge(run, abandoned.charged.calls, abandoned.charged.cost_nanousd)
            case QueryCompleted() | QueryFailed() as outcome:
                _charge(run, outcome.calls, outcome.cost_nanousd)
            case _:
                pass
    return [run for _, run in sorted(found.items())]


def _charge(run: TreeRun, calls: int, cost_nanousd: int) -> None:
    run.calls += calls
    run.cost_nanousd += cost_nanousd
