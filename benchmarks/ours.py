"""Belljar as a subject, twice: as it comes, and with the log and the ledger in memory.

The second is not something to use. The difference of the two is the price of having every query on the disk before it
leaves the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Self

from belljar.audit import AuditLog
from belljar.context import ContextStores
from belljar.engine import CellResult
from belljar.errors import AuditUnavailable
from belljar.identity import Language, Tenant
from belljar.journal import open_journal
from belljar.ledger import Ledger
from belljar.lifecycle import Order, Shared, begin, new_run_id
from belljar.models import NullModel, Prices
from belljar.policy import load
from belljar.runtime import Runtime
from belljar.sandbox import Jail, ensure_image
from belljar.search import Searcher
from belljar.state import State
from benchmarks.measure import BenchmarkError, Cell, Plan, Samples, measure_sandbox
from benchmarks.programs import REPLY, Text

__all__ = ["MODEL", "POLICY", "TENANT", "Belljar", "BelljarInMemory"]

POLICY = "standard"
TENANT = Tenant("benchmark")
# The preset allows scripted models by name.
MODEL = NullModel(REPLY, name="scripted:null")


class BelljarBox:
    def __init__(self, execute: Callable[[str], Awaitable[CellResult]], open_s: float) -> None:
        self._execute = execute
        self.open_s = open_s

    async def execute(self, code: str) -> Cell:
        started = time.perf_counter()
        cell = await self._execute(code)
        seconds = time.perf_counter() - started
        if cell.status != "ok":
            raise BenchmarkError(f"a cell ended with {cell.status}: {cell.error}")
        return Cell(seconds, cell.stdout)


class Belljar:
    """The public facade. `runtime` must be open; its image should be there already."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.title = f"Belljar ({runtime.backend}, {runtime.language})"

    async def round(self, plan: Plan, text: Text) -> Samples:
        return await measure_sandbox(self, plan, text)

    @contextlib.asynccontextmanager
    async def open(self, context: Path | None) -> AsyncIterator[BelljarBox]:
        started = time.perf_counter()
        async with self._runtime.session(context=context, model=MODEL, tenant=TENANT) as session:
            yield BelljarBox(session.execute, time.perf_counter() - started)


class BelljarInMemory:
    """The same parts, wired with an audit log and a ledger that keep nothing. Use as a context manager."""

    def __init__(self, state: State, language: Language) -> None:
        self._state = state
        self._language: Language = language
        self._resources = contextlib.AsyncExitStack()
        self.title = "same, log and ledger in memory"

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            journal = open_journal(None, unavailable=AuditUnavailable)
            stack.push_async_callback(journal.aclose)
            audit, ledger = AuditLog(journal), Ledger(journal, owner="benchmark")
            jail = Jail(await asyncio.to_thread(ensure_image, self._state.images))
            stack.push_async_callback(jail.aclose)
            searcher = Searcher()
            stack.push_async_callback(searcher.aclose)
            prices = Prices()
            prices.adopt(MODEL)
            self._jail, self._prices = jail, prices
            self._shared = Shared(
                audit, ledger, ContextStores(self._state.contexts), searcher, {}, host_key=lambda: bytes(32), secrets=()
            )
            self._resources = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._resources.aclose()

    async def round(self, plan: Plan, text: Text) -> Samples:
        return await measure_sandbox(self, plan, text)

    @contextlib.asynccontextmanager
    async def open(self, context: Path | None) -> AsyncIterator[BelljarBox]:
        started = time.perf_counter()
        documents = {}
        if context is not None:
            store = self._shared.contexts.of(TENANT)
            documents["context"] = await asyncio.to_thread(store.add, context, name=None, now_ns=time.time_ns())
        order = Order(
            run=new_run_id(),
            tenant=TENANT,
            policy=load(POLICY),
            language=self._language,
            backend=self._jail,
            prices=self._prices,
            documents=documents,
            sub=MODEL,
            seed="00",
        )
        async with begin(self._shared, order) as run:
            yield BelljarBox(run.execute, time.perf_counter() - started)
