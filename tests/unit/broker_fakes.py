"""A run's inside without a box: broker, calls, ledger, a log on disk, a clock that stands still, a model to script.

The log is a file, so that a test can read through a connection of its own what is durable at that moment.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import msgspec

from belljar.audit import AuditLog, records, verify
from belljar.audit.events import RunStarted
from belljar.broker import Broker, Calls, Child, Outcome, Reply, RunScope, Text
from belljar.context import ContextStore
from belljar.errors import AuditUnavailable
from belljar.identity import RunId, Tenant
from belljar.journal import Journal, open_journal
from belljar.ledger import Amounts, Balance, Ledger, Limits, run_account
from belljar.models import Model, ModelReply, ModelRequest, Prices, Rates, Usage
from belljar.policy import Policy, load
from belljar.protocol import PROTOCOL, GuestMessage, Ready
from belljar.search import Searcher
from belljar.tasks import Nursery
from belljar.testing import FakeClock
from belljar.wire import Frame

RUN = RunId("r1")
TENANT = Tenant("acme/research")
NOON = 1795435200.0
UNLIMITED = Limits("total", None, None, None, None, None)
INPUT_NANOUSD, OUTPUT_NANOUSD = 10, 100

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Answering = Callable[[ModelRequest], Awaitable[ModelReply]]


def drive(work: Coroutine[Any, Any, T]) -> T:
    """Run a test's coroutine; one that hangs fails in a minute, which is much on the busiest machine."""

    async def limited() -> T:
        async with asyncio.timeout(60):
            return await work

    return asyncio.run(limited())


def policy_with(**tables: dict[str, Any]) -> Policy:
    """The standard policy with some values of some tables replaced: `policy_with(wire={"in_flight_max": 2})`."""
    policy = load("standard")
    changed = {name: msgspec.structs.replace(getattr(policy, name), **values) for name, values in tables.items()}
    return msgspec.structs.replace(policy, **changed)


def reply(text: str, *, input_tokens: int = 5, output_tokens: int = 7) -> ModelReply:
    return ModelReply(text, Usage(input_tokens, output_tokens), "fake-1", "end_turn")


async def _echo(child: Child) -> Outcome:
    return Text(f"{child.question} {child.context}".encode())


class Loose(Nursery):
    """For a part without a run: what it starts ends with the event loop."""

    def start(
        self, failed: Callable[[BaseException], None], work: Callable[[*Ts], Coroutine[Any, Any, None]], *args: *Ts
    ) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(self._run(failed, work, *args))


class World:
    """One run's parts. Made by `world`."""

    def __init__(
        self, log: Path, journal: Journal, policy: Policy, tasks: Nursery, clocks: Mapping[int, bytes] | None = None
    ) -> None:
        audit, ledger = AuditLog(journal), Ledger(journal, owner="1:1")
        self.log = log
        self.journal = journal
        self.audit = audit
        self.ledger = ledger
        self.clock = FakeClock()
        self.scope = RunScope(
            run=RUN,
            tenant=TENANT,
            policy=policy,
            deadline=self.clock.now + policy.limits.run_wall_s,
            now=lambda: NOON,
            monotonic=self.clock,
            tasks=tasks,
            clocks=clocks or {},
        )
        rates = Rates(Decimal(INPUT_NANOUSD), Decimal(OUTPUT_NANOUSD))
        self.calls = Calls(self.scope, audit=audit, ledger=ledger, prices=Prices({"fake": rates}))
        self.children: list[Child] = []
        self.child: Callable[[Child], Awaitable[Outcome]] = _echo
        self.broker: Broker
        self.searcher: Searcher

    async def say(self, message: GuestMessage, body: bytes = b"") -> Reply | None:
        """Hand one sentence to the broker, as the engine does, and wait until the books show it."""
        reply = await self.broker.handle(Frame(message, body))
        await self.calls.settled()
        return reply

    async def start_child(self, child: Child) -> Outcome:
        """What a child would give: its question and what it was to read, or what a test puts in its place."""
        self.children.append(child)
        return await self.child(child)

    async def in_cell(self) -> World:
        """Ready, and a cell running."""
        await self.say(Ready(PROTOCOL, "3.11"))
        await self.broker.begin("pass")
        return self

    def open_again(self) -> None:
        """Look at what is there with a journal that is not closed."""
        self.journal = open_journal(self.log, unavailable=AuditUnavailable)
        self.ledger = Ledger(self.journal, owner="1:1")

    def durable(self) -> list[tuple[str, dict[str, Any]]]:
        """What is on the disk now, seen through another connection; without the run's start, which is ours."""
        return [(record.event, record.data) for record in records(self.log) if record.event != "run.started"]

    def events(self) -> list[str]:
        return [event for event, _ in self.durable()]

    async def data(self, event: str) -> list[dict[str, Any]]:
        """The data of all records of an event, those not yet flushed included."""
        await self.calls.settled()
        await self.audit.flush()
        return [data for name, data in self.durable() if name == event]

    async def balance(self) -> Balance:
        await self.calls.settled()
        return await self.ledger.balance(run_account(RUN), "total")

    async def check(self) -> None:
        """What must hold whatever happened: the books balance, nothing is held, each action has one outcome.

        Some tests ask for calls without a box, and so in a cell that never began.
        """
        await self.calls.settled()
        assert await self.ledger.check_books() == []
        assert (await self.balance()).held == Amounts()
        report = verify(self.log)
        problems = [problem for problem in report.problems if not problem.endswith("which has not begun")]
        assert (problems, report.unfinished) == ([], [])


@contextlib.asynccontextmanager
async def world(
    folder: Path,
    *,
    policy: Policy | None = None,
    model: Model | None = None,
    limits: Limits = UNLIMITED,
    tenant_limits: Limits = UNLIMITED,
    texts: Sequence[str] = (),
    items: Sequence[str] = (),
    clocks: Mapping[int, bytes] | None = None,
) -> AsyncIterator[World]:
    """A run of `TENANT` with an account and open documents, the list of `items` last; ends with `World.check`."""
    journal = open_journal(folder / "audit.db", unavailable=AuditUnavailable)
    store = ContextStore(folder / "contexts")
    async with contextlib.AsyncExitStack() as outer, contextlib.AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(Nursery())
        made = World(folder / "audit.db", journal, policy or load("standard"), tasks, clocks)
        outer.push_async_callback(lambda: made.journal.aclose())
        audit, ledger = made.audit, made.ledger
        started = audit.entry(RUN, RunStarted(tenant=TENANT, contexts=[]))
        await ledger.open_run(RUN, TENANT, run_limits=limits, tenant_limits=tenant_limits, beside=started)
        added = [store.add(text, now_ns=1) for text in texts]
        documents = [stack.enter_context(store.open(one.sha256)) for one in added]
        of_texts = [*range(len(documents))]
        if items:
            listed = stack.enter_context(store.open(store.add(list(items), now_ns=1).sha256))
            documents += [listed, stack.enter_context(listed.directory())]
            of_texts.append(len(documents) - 2)
        searcher = Searcher()
        stack.push_async_callback(searcher.aclose)
        made.broker = Broker(
            made.scope,
            calls=made.calls,
            audit=audit,
            ledger=ledger,
            documents=documents,
            texts=of_texts,
            sub_model=model,
            searcher=searcher,
            start_child=made.start_child,
        )
        made.searcher = searcher
        yield made
        await made.broker.settled()
        await made.check()
