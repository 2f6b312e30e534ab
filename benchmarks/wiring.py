"""A broker and a box without a run around them: what the tables of boxes time.

A run adds its account, its records of start and end, and its context; the table of sessions has all that. Here a
broker is given a log, a ledger and what may be read, so that the times are those of the wall and the wire.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from belljar.audit import AuditLog
from belljar.broker import Broker, Calls, Child, Outcome, RunScope
from belljar.context import OpenDocument
from belljar.engine import CellResult
from belljar.engine.box import Box
from belljar.errors import AuditUnavailable, PolicyDenied
from belljar.identity import Language, RunId
from belljar.journal import open_journal
from belljar.ledger import Ledger, Limits
from belljar.lifecycle import box_spec
from belljar.models import Prices
from belljar.policy import load
from belljar.protocol import ContextInfo
from belljar.sandbox import Sandbox
from belljar.search import Searcher
from belljar.tasks import Nursery
from benchmarks.measure import BenchmarkError
from benchmarks.ours import MODEL, POLICY, TENANT

__all__ = ["FIRST", "LANGUAGES", "Books", "Start", "Wiring", "execute", "open_books", "timed"]

LANGUAGES: Final[tuple[Language, ...]] = ("python", "restricted")

FIRST: Final = "1"
_UNLIMITED: Final = Limits("total", None, None, None, None, None)
_RUN_S: Final = 3600.0

# A backend's order to build a box.
Start = Callable[[], Awaitable[Sandbox]]


@dataclass(frozen=True)
class Books:
    """A log and a ledger that belong together, and whose the tasks of their boxes are."""

    audit: AuditLog
    ledger: Ledger
    prices: Prices
    tasks: Nursery


async def open_books(stack: contextlib.AsyncExitStack, folder: Path | None) -> Books:
    """Closed with `stack`. They keep nothing if there is no folder."""
    journal = open_journal(None if folder is None else folder / "audit.db", unavailable=AuditUnavailable)
    stack.push_async_callback(journal.aclose)
    audit, ledger = AuditLog(journal), Ledger(journal, owner="benchmark")
    stack.push_async_callback(ledger.aclose)
    prices = Prices()
    prices.adopt(MODEL)
    return Books(audit, ledger, prices, await stack.enter_async_context(Nursery()))


class Wiring:
    """Brokers of one policy. `spec` is what its boxes may use."""

    def __init__(self) -> None:
        self._policy = load(POLICY)
        self.spec = box_spec(self._policy)
        self._numbers = itertools.count(1)
        self._searcher = Searcher()  # nothing here searches

    async def first_result(
        self, start: Start, language: Language, books: Books, documents: Sequence[OpenDocument] = ()
    ) -> tuple[float, Box]:
        """Seconds from the request for a box to its first result, and the box. With documents it has an account."""
        scope, broker = self._prepare(books, documents)
        if documents:
            await self._open_account(books, scope)
        started = time.perf_counter()
        box = Box(await start(), broker, scope)
        try:
            places = enumerate(documents)
            await box.open(language, documents, [ContextInfo("context", "text", at, None, 0, 0) for at, _ in places])
            await execute(box, FIRST)
        except BaseException:
            await box.close()
            raise
        return time.perf_counter() - started, box

    @contextlib.asynccontextmanager
    async def session(self, start: Start, language: Language, books: Books) -> AsyncIterator[Box]:
        """A box with an account, which has run a cell."""
        scope, broker = self._prepare(books, ())
        await self._open_account(books, scope)
        box = Box(await start(), broker, scope)
        try:
            await box.open(language, [], [])
            await execute(box, FIRST)
            yield box
        finally:
            await box.close()
            await books.ledger.close_run(scope.run)

    async def _open_account(self, books: Books, scope: RunScope) -> None:
        await books.ledger.open_run(scope.run, scope.tenant, run_limits=_UNLIMITED, tenant_limits=_UNLIMITED)

    def _prepare(self, books: Books, documents: Sequence[OpenDocument]) -> tuple[RunScope, Broker]:
        scope = RunScope(
            run=RunId(f"box-{next(self._numbers)}"),
            tenant=TENANT,
            policy=self._policy,
            deadline=time.monotonic() + _RUN_S,
            tasks=books.tasks,
        )
        calls = Calls(scope, audit=books.audit, ledger=books.ledger, prices=books.prices)
        broker = Broker(
            scope,
            calls=calls,
            audit=books.audit,
            ledger=books.ledger,
            documents=documents,
            texts=range(len(documents)),
            sub_model=MODEL,
            searcher=self._searcher,
            start_child=_no_child,
        )
        return scope, broker


async def _no_child(child: Child) -> Outcome:
    raise PolicyDenied(f"no child {child.number} here: measure one in a whole run")


async def execute(box: Box, code: str) -> CellResult:
    """Raises:
    BenchmarkError: the cell did not end well.
    """
    cell = await box.execute(code)
    if cell.status != "ok":
        raise BenchmarkError(f"a cell ended with {cell.status}: {cell.error}")
    return cell


async def timed(action: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await action()
    return time.perf_counter() - started
