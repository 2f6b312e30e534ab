"""A log of many runs, made in bulk: what `belljar audit verify` and `show` have to go through.

Each run reads, asks, and ends, as far as the log and the ledger know: what each was charged is one reservation, and the
log is signed at each run's end, as a host does it. So it verifies, to the last rule.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Final

from belljar.audit import AuditLog, Checkpoints
from belljar.audit.events import (
    BoxStarted,
    CellFinished,
    CellStarted,
    ContextData,
    ContextRead,
    Event,
    QueryCompleted,
    QueryRequested,
    RunFinished,
    RunStarted,
)
from belljar.audit.signing import place_of
from belljar.errors import HostFault
from belljar.identity import RunId
from belljar.journal import open_journal
from belljar.keys import Keys
from belljar.ledger import Amounts, Ledger
from belljar.state import State
from benchmarks.quotas import FREE, TENANT, completed, requested

__all__ = ["RUN_RECORDS_MIN", "write_store"]

# Its beginning and its end, its box, and the beginning and end of its cell.
_FRAME: Final = 5
RUN_RECORDS_MIN: Final = _FRAME + 3
_DIGEST: Final = "7" * 64
_PIECE_CHARS: Final = 20_000


async def write_store(state: State, keys: Keys, *, records: int, runs: int) -> list[RunId]:
    """Write so many records of so many runs; each has `RUN_RECORDS_MIN` of them or more. The runs, in their order."""
    state.create()
    journal = open_journal(state.journal, unavailable=HostFault)
    names = [RunId(f"r{number:012x}") for number in range(1, runs + 1)]
    async with AsyncExitStack() as stack:
        stack.push_async_callback(journal.aclose)
        audit, ledger = AuditLog(journal), Ledger(journal, owner="benchmark")
        stack.push_async_callback(ledger.aclose)
        checkpoints = Checkpoints(journal, audit, place=place_of(state.journal), keys=keys)
        stack.push_async_callback(checkpoints.aclose)
        for number, run in enumerate(names):
            # What does not divide evenly: one record more in each of the first runs.
            await _write_run(audit, ledger, run, records // runs + (number < records % runs))
            await checkpoints.make()
    return names


async def _write_run(audit: AuditLog, ledger: Ledger, run: RunId, records: int) -> None:
    first, *others = _story(run, records)
    used = _used(others)
    await ledger.open_run(run, TENANT, run_limits=FREE, tenant_limits=FREE, beside=audit.entry(run, first))
    reservation = await ledger.reserve(run, used, now=time.time(), dispatched=True)
    await ledger.settle(reservation, used, beside=audit.entry(run, *others))
    await ledger.close_run(run)


def _story(run: RunId, records: int) -> Iterator[Event]:
    """One cell with reads and queries, a third each of requests and outcomes; what is left over are reads."""
    asked = (records - _FRAME) // 3
    chars = _PIECE_CHARS * records
    text = ContextData(
        name="context", kind="text", text=0, directory=None, items=0, lines=1, sha256=_DIGEST, chars=chars
    )
    yield RunStarted(tenant=TENANT, contexts=[text], backend="jail", policy="standard", language="python")
    yield BoxStarted(layers=["userns", "pidns", "seccomp"])
    yield CellStarted(cell=1, code_sha256=_DIGEST, code_bytes=400)
    for number in range(records - _FRAME - 2 * asked):
        yield ContextRead(cell=1, line=2, doc=0, start=number * _PIECE_CHARS, stop=(number + 1) * _PIECE_CHARS)
        if number < asked:
            yield requested(f"{run}.{number + 1}")
            yield completed(f"{run}.{number + 1}")
    yield CellFinished(cell=1, status="ok", output_bytes=20)
    yield RunFinished(status="ok", calls=asked, queries=asked, wall_ms=1000)


def _used(events: list[Event]) -> Amounts:
    asked = [event for event in events if isinstance(event, QueryCompleted)]
    assert len(asked) == sum(isinstance(event, QueryRequested) for event in events) > 0
    return Amounts(
        calls=sum(event.calls for event in asked),
        input_tokens=sum(event.input_tokens for event in asked),
        output_tokens=sum(event.output_tokens for event in asked),
        cost_nanousd=sum(event.cost_nanousd for event in asked),
    )
