"""One run under way: what is opened for it, in which order, and how everything is closed again however it ends.

    run opened in the ledger, with its box, audit `run.started`     in one transaction: no log, no start
    box built, audit `box.started`                                  with the layers that really hold
      ... cells ...
    box killed, calls settled
    audit `run.finished`, run closed in the ledger                  in one transaction; receipt

A run that has started and not ended in the log is open in the ledger, so if we are killed, a later start finds what we
left (see `recovery`). Every other way out reaches the last line: a normal end, an error, a cancellation (Ctrl-C), a
fault of ours.

Everything that goes on beside this line (the pump and the guard of the box, long requests, the ends of calls, tracing,
progress) is a task of one nursery around it, so that none of them outlives the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, cast

import msgspec

from belljar.audit import AuditLog, Checkpoints, Receipt
from belljar.audit.events import AmountsData, BoxStarted, ContextData, RunFinished, RunStarted
from belljar.audit.replay import Setup
from belljar.broker import Broker, Calls, Child, Meter, Outcome, Reuse, RunScope, Text
from belljar.broker.abandoned import abandoned_in, lasting
from belljar.broker.canaries import ends_run
from belljar.broker.keeping import NOTHING_KEPT, Keeper, Kept
from belljar.broker.screening import permit_depth
from belljar.context import (
    ContextStore,
    ContextStores,
    Document,
    FirstItem,
    Loan,
    OpenDocument,
    Part,
    Span,
    first_items,
    view_of,
)
from belljar.context.document import RECORD_BYTES
from belljar.engine import (
    AnswerType,
    AskResult,
    Box,
    CellResult,
    Coverage,
    ErrorInfo,
    Progress,
    Result,
    Root,
    RunUsage,
    Turn,
    TurnsLog,
    Verdict,
    verdict_of,
)
from belljar.errors import (
    AuditUnavailable,
    BelljarError,
    HostFault,
    LedgerUnavailable,
    ModelFailed,
    PolicyDenied,
    Refusal,
)
from belljar.heavy import bytes_of, off_loop
from belljar.identity import Language, RunId, Tenant
from belljar.journal import Job
from belljar.ledger import NOTHING, Amounts, Ledger, Limits, plus
from belljar.models import HostTool, Model, Prices
from belljar.models.replay import NO_CLOCKS, Clocks
from belljar.policy import Policy, Quota, Spending, digest, dump
from belljar.protocol import ContextInfo, Failure, Stream, ToolInfo
from belljar.sandbox import Backend, BoxEnd, BoxSpec, check_layers
from belljar.search import Searcher
from belljar.tasks import Nursery, to_the_end

__all__ = [
    "Fork",
    "OnProgress",
    "OnTurn",
    "Order",
    "Run",
    "Shared",
    "begin",
    "box_spec",
    "log_refused_start",
    "new_run_id",
    "tenant_limits",
]

OnProgress = Callable[[Progress], None]
OnTurn = Callable[[Turn], None]
OnOutput = Callable[[RunId, int, Stream, bytes], None]
_T = TypeVar("_T")
_Kind: TypeAlias = Literal["PolicyDenied", "QuotaExceeded", "ModelError"]
_log = logging.getLogger("belljar")
# How often `on_progress` is called.
_TICK_S = 0.1
# Of a dict, as examples for the root model.
_ITEMS_TOLD = 5
_KEY_CHARS_MAX = 60
# What a parent's program raises, where that is not ModelError.
_FAILURES: Mapping[str, _Kind] = {"denied": "PolicyDenied", "quota": "QuotaExceeded"}
_WHY_CHARS_MAX = 1000
# Of these, and of what may be read, a child has a share.
_SLICED = ("calls", "input_tokens", "output_tokens", "cost_nanousd", "memory_mib_s")
_KILLED = Verdict("killed", ErrorInfo("Cancelled", "the run was cancelled through its host"))


class Shared(msgspec.Struct, frozen=True):
    """What all runs of a host share; `live` are those whose box is open, children among them.

    For a run that is watched, `printed` hears what it and its children print. `host_key` gives the key that wraps those
    of contents, or raises AuditUnavailable; `secrets` are what no content may have. `checkpoints` signs the log.
    """

    audit: AuditLog
    ledger: Ledger
    contexts: ContextStores
    searcher: Searcher
    live: dict[str, Run]
    host_key: Callable[[], bytes]
    secrets: tuple[str, ...]
    printed: OnOutput | None = None
    reuse: Reuse = msgspec.field(default_factory=Reuse)
    checkpoints: Checkpoints | None = None


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What one run is to be.

    Args:
        run: its id, which also names its parent.
        prices: what its models cost.
        documents: its contexts by name, the one called `context` first.
        part: of its only document this alone is its context.
        limits: what a child may spend, and until when it may run, on the monotonic clock; None for a root, which the
            policy alone limits.
        root: the model that writes its code; None where the caller does.
        sub: the model that answers its program's queries; None refuses them.
        alone: it has exactly one cell.
        stays: an answer does not end it.
        answer_type: what its answer has to be; None for anything.
        tools: functions of the host that its program may call; a child run has none.
        fork: of which run it takes over the first turns.
        seed: what its program's `random` and `os.urandom` follow.
        clocks: what the cells of a recorded run that it does again read of clocks; see `models.replay.Tape`.
        by: who ordered it of a service, which has given it its id. A child run was ordered by nobody.
        begun: what is written in one transaction with its start. If it raises, the run does not start.
        ended: makes what is written in one transaction with its end, of its status.
    """

    run: RunId
    tenant: Tenant
    policy: Policy
    language: Language
    backend: Backend
    prices: Prices
    documents: Mapping[str, Document]
    root: Model | None = None
    sub: Model | None = None
    alone: bool = False
    stays: bool = False
    answer_type: AnswerType | None = None
    part: Part | None = None
    limits: _ChildLimits | None = None
    tools: tuple[HostTool, ...] = ()
    fork: Fork | None = None
    seed: str
    clocks: Clocks = NO_CLOCKS
    by: str | None = None
    begun: Job[object] | None = None
    ended: Callable[[str], Job[object]] | None = None


class Fork(NamedTuple):
    """A run whose turns before `from_turn` are taken over."""

    run: str
    from_turn: int


class _ChildLimits(msgspec.Struct, frozen=True):
    """A child's deadline, and its slice of what its parent has left, which no other child gets meanwhile."""

    slice: Callable[[], contextlib.AbstractAsyncContextManager[Limits]]
    deadline: float


class Run:
    """A run's parts and its outcome."""

    def __init__(self, shared: Shared, order: Order, tasks: Nursery) -> None:
        policy = order.policy
        self.shared = shared
        self.order = order
        self._started = time.monotonic()
        deadline = self._started + policy.limits.run_wall_s
        if order.limits is not None:
            deadline = min(deadline, order.limits.deadline)
        self.scope = RunScope(
            run=order.run,
            tenant=order.tenant,
            policy=policy,
            deadline=deadline,
            bound_s=deadline - self._started,
            tasks=tasks,
            keeper=Keeper(order.run, policy.audit, secrets=(*shared.secrets, *policy.models.canaries)),
            clocks=order.clocks.get(str(order.run).partition(".")[2], {}),
            now=shared.ledger.now,
        )
        self.calls = Calls(
            self.scope, audit=shared.audit, ledger=shared.ledger, prices=order.prices, reuse=shared.reuse
        )
        self._meter = Meter(self.scope, shared.ledger)
        self._opened: list[OpenDocument] = []
        self._contexts: list[ContextInfo] = []
        self._described = dict(order.documents)
        self._spans: dict[int, Sequence[Span]] = {}
        self._slicing = asyncio.Lock()
        # A model object is asked once: an error later must not cost a result that is there.
        self._scripted = any(model.scripted for model in (order.root, order.sub) if model is not None)
        self._announced = False
        self._box: Box | None = None
        self._end: BoxEnd | None = None
        self._verdict: Verdict | None = None
        self._receipt: Receipt | None = None
        self.last: CellResult | None = None
        self._root: Root | None = None
        # How the last question of a session ended, if it has no answer, and no cell of the caller's came after it.
        self._unanswered: Verdict | None = None
        self._solving: asyncio.Task[None] | None = None
        self._killed = False
        # Of ours, if one ended the run.
        self.fault: HostFault | None = None
        self.on_turn: OnTurn | None = None
        self._turns_log = TurnsLog()
        self._asked_log = TurnsLog()  # of the last question of a session
        # In a session the caller's own code runs inside the run: what it raises is not our fault. This ends its block.
        self.leave: Callable[[], None] | None = None
        # It is closed.
        self.over = asyncio.Event()

    @property
    def announced(self) -> bool:
        """Whether its start is in the log, or may be."""
        return self._announced

    @property
    def box(self) -> Box:
        assert self._box is not None, "the run was not opened"
        return self._box

    @property
    def audit(self) -> AuditLog:
        return self.shared.audit

    @property
    def unavailable(self) -> HostFault | None:
        """What ended the run, if that is the log or the ledger."""
        fault = self.fault or self.box.fault
        return fault if isinstance(fault, AuditUnavailable | LedgerUnavailable) else None

    async def execute(self, code: str, *, spare_cpu: bool = False, wall_s: float | None = None) -> CellResult:
        """One cell, as in `Box.execute`."""
        self._unanswered = None
        try:
            self.last = await self.box.execute(code, spare_cpu=spare_cpu, wall_s=wall_s, last=self.order.alone)
        except PolicyDenied as refusal:
            if self._verdict is None:  # nothing may follow the run's end in the log
                await self.calls.denials.log("execute", refusal, self.box.broker.cells)
            raise
        return self.last

    async def solve(self, question: str) -> None:
        """Have the root model answer the question. Raises as `Root.work`."""
        order = self.order
        assert order.root is not None, "it was ordered without a root model"
        self._root = self._make_root(question, order.answer_type)
        await self._work(self._root.work())

    def _make_root(self, question: str, answer_type: AnswerType | None) -> Root:
        order = self.order
        assert order.root is not None, "it was ordered without a root model"
        return Root(
            order.root,
            question,
            scope=self.scope,
            language=order.language,
            documents=self._described,
            calls=self.calls,
            box=self.box,
            execute=functools.partial(self.execute, spare_cpu=True),
            tell=self._tell_turn,
            answer_type=answer_type,
            firsts=self._first_items(),
            tools=[tool.told[2] for tool in order.tools],
        )

    async def ask(
        self, question: str, answer_type: AnswerType | None = None, *, on_turn: OnTurn | None = None
    ) -> AskResult:
        """Have the root model of a session answer one more question. What ends that is in the result.

        Raises:
            PolicyDenied: `session.ended`.
            HostFault: the log or the ledger failed.
        """
        if self.box.finished:
            raise PolicyDenied("the session has ended: open a new one", code="session.ended")
        self.on_turn = on_turn
        before, turns, cells, began = self.calls.spent_in_tree, self._turns, self.box.broker.cells, self.wall_s
        self._unanswered, self._asked_log = None, TurnsLog()
        given: str | msgspec.Raw | None = None
        try:
            given = await self._answer(question, answer_type)
            verdict = Verdict("ok") if given is not None else self.box.verdict
        except (Refusal, ModelFailed) as error:
            verdict = (self._root and self._root.ending) or self.box.verdict or verdict_of(error)
        finally:
            self.box.broker.expect(None)
            self.on_turn = None
        assert verdict is not None, "a root model ends with an answer, or its box has ended"
        self._unanswered = None if given is not None else verdict
        spent, coverage = self.calls.spent_in_tree, self.box.broker.coverage
        result = AskResult(
            status=verdict.status,
            given=given,
            error=verdict.error,
            limit=verdict.limit,
            wall_s=round(self.wall_s - began, 6),
            turns=self._turns - turns,
            cells=self.box.broker.cells - cells,
            usage=RunUsage(
                spent.calls - before.calls,
                spent.input_tokens - before.input_tokens,
                spent.output_tokens - before.output_tokens,
            ),
            cost_nanousd=spent.cost_nanousd - before.cost_nanousd,
            coverage=Coverage.of(coverage.chars, coverage.read, coverage.shown),
            unfinished=self._root.partial if self._root else None,
            turns_log=self._asked_log.all(),
        )
        return result if answer_type is None else result.of_type(answer_type.value(given))

    async def _answer(self, question: str, answer_type: AnswerType | None) -> str | msgspec.Raw | None:
        """What the root model gave; None if the box ended before that."""
        if self._root is None:
            self._root = self._make_root(question, answer_type)
        else:
            self._root.follow_up(question, answer_type)
        root = self._root

        async def work() -> None:
            await root.clear_draft()
            self.box.broker.expect(None if answer_type is None else answer_type.misfit)
            await root.work()

        await self._work(work())
        return root.answer

    async def _work(self, work: Coroutine[Any, Any, None]) -> None:
        # Its own task, so that `kill` ends the work and not the caller.
        self._solving = asyncio.create_task(work)
        try:
            await self._solving
        except PolicyDenied as refusal:
            if ends_run(refusal):  # of a session, too, which outlives any other failure of its root model
                await self.box.end(verdict_of(refusal))
            raise
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if not self._killed or (caller is not None and caller.cancelling()):
                raise

    def _first_items(self) -> dict[str, list[FirstItem]]:
        """Of each context that is a list or dict, for the root model; of a part, its own."""
        firsts = {}
        for context in self._contexts:
            if context.directory is not None:
                start, stop = context.part or (0, context.items)
                told = range(start, min(stop, start + _ITEMS_TOLD))
                document, directory = self._opened[context.text], self._opened[context.directory]
                firsts[context.name] = first_items(document, directory, told, _KEY_CHARS_MAX)
        return firsts

    async def kill(self) -> None:
        """End the run from outside, with the verdict `killed`, unless it has already ended.

        On return its box is dead. Its open model calls are given up, and the run's caller gets its result.
        """
        if self.box.finished:
            return
        self._killed = True
        await self.box.end(_KILLED)
        if self._solving is not None:
            self._solving.cancel()

    async def end(self) -> None:
        """End the run because its host is closed, and return when it is closed, too."""
        if self.leave is None:
            await self.kill()
        else:
            self.leave()
        await self.over.wait()

    async def abandon(self) -> None:
        """Stop what a caller gave up: its cell, if any; on return its end and calls are in the log and the ledger.

        Raises:
            HostFault: they could not be written.
        """
        if (cell := await self.box.abandon()) is not None:
            self.last = cell
        elif self._root is None:  # a question may have left a call behind, and no cell
            return
        await self.calls.settled()
        await self.shared.audit.flush()

    @property
    def wall_s(self) -> float:
        """How long it has been running, in seconds."""
        return time.monotonic() - self._started

    @property
    def _turns(self) -> int:
        return self._root.turns if self._root else 0

    def progress(self) -> Progress:
        broker, spent = self.box.broker, self.calls.spent_in_tree
        return Progress(
            turns=self._turns,
            cells=broker.cells,
            reads=broker.reads,
            read_bytes=broker.read_bytes,
            queries=broker.queries,
            calls=spent.calls,
            cost_nanousd=spent.cost_nanousd,
        )

    @contextlib.asynccontextmanager
    async def reporting(self, on_progress: OnProgress | None) -> AsyncIterator[None]:
        """Call `on_progress` with the run's progress while the block lasts, and once at its end.

        If it raises, that is logged and it is not called again: the run goes on, and the caller gets its result.
        """
        if on_progress is None:
            yield
            return
        ticking = self.scope.tasks.start(_not_told, self._tick, on_progress)
        try:
            yield
        finally:
            if ticking.cancel():
                self._tell(on_progress)

    async def _tick(self, on_progress: OnProgress) -> None:
        while True:
            if not self._tell(on_progress):
                return
            await asyncio.sleep(_TICK_S)

    def _tell(self, on_progress: OnProgress) -> bool:
        """Whether to call it again."""
        return _heard("on_progress", on_progress, self.progress())

    def _tell_turn(self, turn: Turn) -> None:
        """Keep a turn of the root model, and call `on_turn` with it, with the same care as `on_progress`."""
        self._turns_log.add(turn)
        if self.order.stays:
            self._asked_log.add(turn)
        if self.on_turn is not None and not _heard("on_turn", self.on_turn, turn):
            self.on_turn = None

    # ------------------------------------------------------------------------------------------------ open and close

    async def open(self, *, question: str | None = None) -> None:
        """Open its contexts, then the run in the ledger; log the start; build the box.

        Raises:
            Refusal, HostFault: it cannot start; the caller still owes a `close`.
        """
        shared, order = self.shared, self.order
        for name, document in order.documents.items():
            # Opening a directory hashes it, and the lines of a part are looked up. What was opened is closed with the
            # run, also if it is cancelled.
            size = document.items * RECORD_BYTES + (document.bytes if order.part is not None else 0)
            await to_the_end(off_loop(size, self._open_context, name, document))
        kept = NOTHING_KEPT
        if question is not None:
            kept = await off_loop(len(question), self.scope.keeper.text, "prompts", question)
        setup = self._setup()
        await self._announce(self._start(question, kept, setup), kept, setup)
        broker = self._make_broker()
        whose = {"run": order.run, "tenant": order.tenant}
        sandbox = await order.backend.start(box_spec(order.policy), whose)
        self._box = Box(sandbox, broker, self.scope, meter=self._meter)
        # Each backend refuses by itself; if one forgets to, or is not ours, its box must not start a run.
        check_layers(order.backend.name, order.policy.box.requires, sandbox.layers)
        await shared.audit.note(self.scope.run, BoxStarted(layers=list(sandbox.layers)))
        typed = order.answer_type
        if typed is not None:
            broker.expect(typed.misfit)
        more, stays = not order.alone, order.stays or typed is not None
        tools = [ToolInfo(*tool.told) for tool in order.tools]
        await self._box.open(
            order.language,
            self._opened,
            self._contexts,
            more=more,
            stays=stays,
            tools=tools,
            seed=order.seed,
        )

    def _make_broker(self) -> Broker:
        shared, order = self.shared, self.order
        broker = Broker(
            self.scope,
            calls=self.calls,
            audit=shared.audit,
            ledger=shared.ledger,
            documents=self._opened,
            texts=[context.text for context in self._contexts],
            meter=self._meter,
            sub_model=order.sub,
            root_model=order.root,
            searcher=shared.searcher,
            spans=self._spans,
            start_child=self._run_child,
            stays=order.stays,
            tools=order.tools,
        )
        if shared.printed is not None:
            broker.hear(functools.partial(shared.printed, order.run))
        return broker

    def _open_context(self, name: str, document: Document) -> None:
        """Two places in the table of documents for a list or dict, one for a text."""
        opened = self.shared.contexts.of(self.scope.tenant).open(document.sha256)
        self._opened.append(opened)
        text, directory = len(self._opened) - 1, None
        if document.kind != "text":
            self._opened.append(opened.directory())
            directory = len(self._opened) - 1
        if (part := self.order.part) is None:
            self._contexts.append(ContextInfo(name, document.kind, text, directory, document.items, document.lines))
            return
        view = view_of(opened, part)
        self._described[name], self._spans[text] = view.document, view.text
        if directory is not None:
            self._spans[directory] = view.directory
        kind, bounds = view.document.kind, (part.start, part.stop)
        self._contexts.append(ContextInfo(name, kind, text, directory, document.items, document.lines, bounds))

    def _setup(self) -> Kept:
        """What it takes to run it again, besides what the log has. A child's is its parent's."""
        order, keeper = self.order, self.scope.keeper
        if order.limits is not None or not keeper.keeps("code"):
            return NOTHING_KEPT
        setup = Setup(
            policy=dump(order.policy),
            alone=order.alone,
            answer_schema=None if order.answer_type is None else order.answer_type.schema.document,
            tools=[(*tool.told, tool.cost_nanousd) for tool in order.tools],
        )
        return keeper.keep("code", msgspec.json.encode(setup))

    async def _announce(self, started: RunStarted, kept: Kept, setup: Kept) -> None:
        """Open the run in the ledger, hold its box there, and log its start."""
        policy = self.order.policy
        async with contextlib.AsyncExitStack() as turn:
            limits = _run_limits(policy)
            if self.order.limits is not None:
                limits = await turn.enter_async_context(self.order.limits.slice())
                self.calls.limits = limits
            entry = self.audit.entry(self.scope.run, started).then(kept.job).then(setup.job)
            if not self.scope.keeper.keeps_nothing:
                host_key = await asyncio.to_thread(self.shared.host_key)
                entry = entry.then(self.scope.keeper.begun(host_key, self.scope.now()))
            self._announced = True  # also if it is cancelled: it may have taken effect
            try:
                held = await self.shared.ledger.open_run(
                    self.scope.run,
                    self.scope.tenant,
                    run_limits=limits,
                    tenant_limits=tenant_limits(policy.quota.tenant),
                    parent=self.scope.run.parent,
                    beside=self._meter.begin(limits).then(entry).then(self.order.begun),
                )
            except BelljarError:
                self._announced = False
                raise
        assert held is not None, "what the box holds"
        self._meter.begun(held)

    # ------------------------------------------------------------------------------------------------------ child runs

    async def _run_child(self, child: Child) -> Outcome:
        """Run one to its end; see `broker.recursing`. Its answer, or why it has none."""
        async with contextlib.AsyncExitStack() as lent:
            run: Run | None = None
            try:
                try:
                    order = await self._child_order(child, lent)
                except Refusal as refusal:
                    refused = self.order.run.child(child.number)
                    await log_refused_start(self.audit, self.scope.tenant, refusal, run=refused)
                    raise
                async with begin(self.shared, order, question=child.question) as run:
                    await run.solve(child.question)
            finally:
                if run is not None and run.announced:
                    self._include(child, run)
            assert run is not None, "its block was entered"
            if run.unavailable is not None:  # to its parent as well
                raise run.unavailable
            return await run.outcome()

    async def _child_order(self, child: Child, lent: contextlib.AsyncExitStack) -> Order:
        order = self.order
        root = self._childs_root(child.model)
        if isinstance(child.context, Part):
            document, part = self._opened[child.doc].document, child.context
            if document.kind != "text" and not part.items:  # characters of a list or dict are a text
                document = msgspec.structs.replace(document, kind="text")
        else:
            store = self.shared.contexts.of(order.tenant)
            document, part = await to_the_end(_lend(store, child.context, lent)), None
        return msgspec.structs.replace(
            order,
            run=order.run.child(child.number),
            documents={"context": document},
            part=part,
            root=root,
            alone=False,
            stays=False,
            fork=None,
            by=None,
            begun=None,
            ended=None,
            seed=sha256(f"{order.seed} {child.number}".encode()).hexdigest()[:32],
            tools=(),  # what the embedder gave to one program, it has not given to those that it starts
            answer_type=None,  # its parent's: a child answers a question of its own
            limits=_ChildLimits(self._slice, child.deadline),
        )

    def _childs_root(self, wish: str | None) -> Model | None:
        """The run's own root model; if that may not be asked so deep, its sub-model; or which of both is wished for.

        Raises:
            PolicyDenied: it may not be asked so deep.
        """
        order, depth = self.order, self.order.run.depth + 1
        if wish is not None:
            known = {model.name: model for model in (order.sub, order.root) if model is not None}
            permit_depth(order.policy, wish, depth)
            return known[wish]
        first = order.root or order.sub
        if first is not None and not order.policy.models.permits_at(first.name, depth):
            first = order.sub or first
            permit_depth(order.policy, first.name, depth)
        return first

    @contextlib.asynccontextmanager
    async def _slice(self) -> AsyncIterator[Limits]:
        """What a child may spend that is opened within the block; one after the other, as each leaves less."""
        share = self.order.policy.models.child_share_percent
        async with self._slicing:
            left = await self.calls.left()
            rooms = {name: getattr(left, name) for name in _SLICED}
            rooms["read_bytes"] = self.box.broker.left_bytes(left)
            # Rounded up: of the last call, too, a child may have all.
            yield Limits("total", **{name: room and -(-room * share // 100) for name, room in rooms.items()})

    def _include(self, child: Child, run: Run) -> None:
        """A child's cost and coverage belong to the tree, however it ended."""
        self.calls.below.include(run.calls.spent_in_tree)
        if isinstance(child.context, Part) and run._box is not None:
            self.box.broker.include(child.doc, run.box.broker)

    async def outcome(self) -> Outcome:
        """What a parent hears of a run that is closed."""
        result = self.result()
        answer = result.given
        if result.status == "ok" and answer is not None:
            if isinstance(answer, str):
                return Text(await off_loop(len(answer), bytes_of, answer))
            return Text(bytes(answer), json=True)
        why = result.error.message if result.error is not None else "it gave no answer"
        kind = _FAILURES.get(result.status, "ModelError")
        limit = result.limit
        return Failure(
            kind,
            f"child.{result.status}" if limit is None else limit.code,
            f"the child run {self.scope.run} ended with {result.status}: {why}"[:_WHY_CHARS_MAX],
            limit.limit if limit else None,
            limit.observed if limit else None,
        )

    async def close(self, verdict: Verdict) -> None:
        """Leave nothing of the run behind, then log how it ended. Every step is tried even if one before it fails."""
        self._verdict = verdict
        async with contextlib.AsyncExitStack() as stack:
            if self._announced:  # no run ends that did not begin
                stack.push_async_callback(self._finish)
            stack.push_async_callback(self._settle, self.calls.settled)
            for opened in self._opened:
                stack.callback(opened.close)
            if self._box is not None:
                stack.push_async_callback(self._settle, self._box.broker.settled)
                self._end = await self._box.close()
                await self._give_up_question()
                met = self._box.verdict or verdict
                stack.push_async_callback(self._box.broker.lost, met.status)

    async def _give_up_question(self) -> None:
        """A session may be closed while its root model thinks: whoever asked gets a result, as with a cell."""
        solving = self._solving
        if solving is not None and not solving.done():
            self._killed = True
            solving.cancel()
            await asyncio.wait([solving])

    async def _settle(self, settled: Callable[[], Awaitable[None]]) -> None:
        """A failure here (say, what was shown is unknown) is in no verdict yet; put it into the log's."""
        try:
            await settled()
        except HostFault as fault:
            if self._verdict is not None and self._verdict.status == "ok":
                self._verdict = verdict_of(fault)
            raise

    def verdict(self, raised: BaseException | None) -> Verdict:
        """How it ended. The only place that decides this; the first cause wins.

        What the box ran into came before any error that followed from it; an error counts before the last cell, which
        had ended when the error was raised.
        """
        box, last = self._box, self.last
        if self._root is not None and self._root.ending is not None and not self.order.stays:
            return self._root.ending
        if box is not None and box.verdict is not None:
            return box.verdict
        if isinstance(raised, PolicyDenied) and raised.code == "session.ended":
            raised = None  # the answer was given before
        if raised is not None:
            return self._verdict_of(raised)
        if self._unanswered is not None:
            return self._unanswered
        return Verdict("ok") if last is None else Verdict(last.status, last.error, last.limit)

    def _verdict_of(self, raised: BaseException) -> Verdict:
        if isinstance(raised, BelljarError):
            return verdict_of(raised)
        name = type(raised).__name__
        if not isinstance(raised, Exception):  # a cancellation, Ctrl-C
            return Verdict("killed", ErrorInfo("Cancelled", "the run was cancelled from outside"))
        if self.leave is not None:
            return Verdict("killed", ErrorInfo(name, f"the code that held the session raised {name}"))
        return Verdict("host_fault", ErrorInfo(name, f"an unexpected {name}: please report it"))

    def result(self) -> Result:
        """What the caller gets. Only valid after `close`."""
        result, typed = self._result(), self.order.answer_type
        return result if typed is None else result.of_type(typed.value(result.given))

    def _result(self) -> Result:
        assert self._verdict is not None, "the run is not closed"
        broker, spent, last = self.box.broker, self.calls.spent_in_tree, self.last
        coverage = broker.coverage  # a sum over very many ranges, so once
        return Result(
            run_text=str(self.scope.run),
            tenant=str(self.scope.tenant),
            status=self._verdict.status,
            given=last.given if last is not None and self._verdict.status == "ok" else None,
            stdout=last.stdout if last else "",
            stderr=last.stderr if last else "",
            truncated=last.truncated if last else False,
            output_bytes=last.output_bytes if last else 0,
            error=self._verdict.error,
            limit=self._verdict.limit,
            wall_s=round(self.wall_s, 6),
            cpu_s=self._end.cpu_s if self._end else 0.0,
            max_rss_bytes=self._end.max_rss_bytes if self._end else 0,
            cells=broker.cells,
            turns=self._turns,
            reads=broker.reads,
            read_bytes=broker.read_bytes,
            queries=broker.queries,
            usage=RunUsage(spent.calls, spent.input_tokens, spent.output_tokens),
            cost=spent.cost_nanousd,
            cost_nanousd=spent.cost_nanousd,
            cost_assumed_nanousd=spent.assumed_nanousd,
            overage=self._overage,
            scripted=self._scripted,
            layers=self.box.layers,
            coverage=Coverage.of(coverage.chars, coverage.read, coverage.shown),
            receipt=self._receipt,
            unfinished=self._root.partial if self._root and self._verdict.status != "ok" else None,
            turns_log=self._turns_log.all(),
        )

    @property
    def _overage(self) -> Amounts | None:
        found = plus(self.calls.overage, self._meter.overage)
        return None if found == NOTHING else found

    def _start(self, question: str | None, kept: Kept, setup: Kept) -> RunStarted:
        """The controls in force, for the log's first record of the run."""
        order = self.order
        facts = dict(order.backend.about())
        hash_seed = facts.pop("hash_seed", None)
        return RunStarted(
            backend=facts.pop("backend", order.backend.name),
            facts=facts,
            tenant=str(order.tenant),
            policy=order.policy.name,
            policy_digest=digest(order.policy),
            language=order.language,
            root_model=order.root.name if order.root else None,
            sub_model=order.sub.name if order.sub else None,
            scripted=self._scripted,
            question_bytes=None if question is None else len(question.encode("utf-8", "replace")),
            question=kept.name,
            setup=setup.name,
            seed=order.seed,
            # A child's is its root's: they have the same backend.
            hash_seed=None if hash_seed is None or order.limits is not None else int(hash_seed),
            forks=order.fork.run if order.fork is not None else None,
            from_turn=order.fork.from_turn if order.fork is not None else None,
            by=order.by,
            contexts=[
                ContextData(**_logged(context), sha256=document.sha256, chars=document.chars)
                for context, document in zip(self._contexts, order.documents.values(), strict=True)
            ],
        )

    async def _finish(self) -> None:
        """Log the end and close the account."""
        assert self._verdict is not None
        limit, spent, end = self._verdict.limit, self.calls.spent, self._end
        broker = self._box.broker if self._box is not None and end is not None else None
        finished = RunFinished(
            status=self._verdict.status,
            calls=spent.calls,
            cost_nanousd=spent.cost_nanousd,
            wall_ms=round(self.wall_s * 1000),
            reads=broker.reads if broker else None,
            queries=broker.queries if broker else None,
            refused=broker.denials if broker else None,
            cpu_ms=round(end.cpu_s * 1000) if end else None,
            max_rss_bytes=end.max_rss_bytes if end else None,
            code=limit.code if limit else None,
            limit=limit.limit if limit else None,
            observed=limit.observed if limit else None,
            overage=None if self._overage is None else AmountsData(**lasting(self._overage)),
        )
        entry = self.audit.entry(self.scope.run, finished)
        if self.order.ended is not None:
            entry = entry.then(self.order.ended(finished.status))
        sealed = await self.shared.ledger.close_run(
            self.scope.run, charged=self._meter.ends(), beside=entry, below=abandoned_in(self.audit)
        )
        assert sealed is not None, "the entry's result"
        self._receipt = await self._receipt_of(*sealed)

    async def _receipt_of(self, seq: int, head: str) -> Receipt:
        """Of a child its parent's receipt vouches for all: it has ended before."""
        run, checkpoints = self.scope.run, self.shared.checkpoints
        if run.parent is not None or checkpoints is None:
            return Receipt(str(run), seq, head)
        return await checkpoints.receipt(str(run), seq, head)


@contextlib.asynccontextmanager
async def begin(shared: Shared, order: Order, *, question: str | None = None) -> AsyncIterator[Run]:
    """A run for the length of a block.

    One of our errors inside the block becomes the run's verdict once the run has started; before that, it is raised.
    """
    async with Nursery() as tasks, _open_to_close(Run(shared, order, tasks), question) as run:
        yield run


@contextlib.asynccontextmanager
async def _open_to_close(run: Run, question: str | None) -> AsyncIterator[Run]:
    try:
        await run.open(question=question)
    except BaseException as error:
        await to_the_end(run.close(run.verdict(error)))
        # If the log itself refused, it has nothing of this run.
        if isinstance(error, Refusal) and not run.announced and not error.code.startswith("audit."):
            await log_refused_start(run.audit, run.scope.tenant, error, run=run.scope.run, by=run.order.by)
        raise
    raised: BaseException | None = None
    live = run.shared.live
    live[run.scope.run] = run
    try:
        yield run
    except BaseException as error:
        raised = error
        run.fault = error if isinstance(error, HostFault) else None
        # Without a log we cannot vouch for a result; and an error that is not ours goes to the caller.
        if isinstance(error, AuditUnavailable) or not isinstance(error, BelljarError):
            raise
    finally:
        try:
            await to_the_end(run.close(run.verdict(raised)))
        finally:
            del live[run.scope.run]
            run.over.set()


async def _lend(
    store: ContextStore, made: str | list[Any] | dict[str, Any], lent: contextlib.AsyncExitStack
) -> Document:
    """Keep what a program made until its child has ended; not to be cancelled half-way."""
    loan = await asyncio.to_thread(store.lend, made, now_ns=time.time_ns())
    lent.push_async_callback(_give_back, loan)
    return loan.document


async def _give_back(loan: Loan) -> None:
    try:
        await to_the_end(asyncio.to_thread(loan.close))
    except HostFault as fault:  # the child's answer is there, and must not be lost because of this
        _log.warning("belljar: a child run's context stays on the disk until the next start: %s", fault)


def _logged(context: ContextInfo) -> dict[str, Any]:
    fields = msgspec.structs.asdict(context)
    part = fields.pop("part")
    return fields if part is None else fields | {"part": part}


def _not_told(error: BaseException) -> None:
    _log.error("belljar: progress can no longer be reported; the run goes on", exc_info=error)


def _heard(name: str, callback: Callable[[_T], None], news: _T) -> bool:
    """Whether a callback accepted it. One that raises is logged and must not be called again; the run goes on."""
    try:
        said = cast("Callable[[_T], object]", callback)(news)
        if inspect.iscoroutine(said):
            said.close()
            raise TypeError("it returned a coroutine, which nobody awaits: use an ordinary function")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # nothing is awaited here, so a cancellation is its own, too
        _log.exception("belljar: %s raised and is not called again; the run goes on", name)
        return False
    return True


async def log_refused_start(
    audit: AuditLog, tenant: object, refusal: Refusal, *, run: RunId | None = None, by: str | None = None
) -> None:
    """Log a start that was refused before anything was opened, as a run that ended at once.

    `tenant` may be the refused argument, and then anything.

    Raises:
        AuditUnavailable: not even that can be written.
    """
    run = run or new_run_id()
    started = RunStarted(tenant=str(tenant)[:200], contexts=[], refused=True, by=by)
    finished = RunFinished(
        status=verdict_of(refusal).status,
        calls=0,
        refused=1,
        code=refusal.code,
        limit=refusal.limit,
        observed=refusal.observed,
    )
    await audit.append(run, started, finished)


def new_run_id() -> RunId:
    """The id of a run that starts now and is no child run. Sorts by time, cannot be guessed."""
    return RunId.root(datetime.now(UTC), secrets.token_hex(6))


def _run_limits(policy: Policy) -> Limits:
    read = policy.context.read_total_bytes_max
    return Limits(**_spending(policy.quota.run), read_bytes=read, memory_mib_s=policy.quota.run.memory_mib_s)


def tenant_limits(quota: Quota) -> Limits:
    """What a policy lets each level of a tenant have for which nothing is set."""
    return Limits(
        **_spending(quota),
        read_bytes=quota.read_bytes,
        cpu_ms=quota.cpu_ms,
        wall_ms=quota.wall_ms,
        memory_mib_s=quota.memory_mib_s,
        boxes=quota.boxes,
        calls_in_flight=quota.calls_in_flight,
    )


def _spending(quota: Spending) -> dict[str, Any]:
    return {name: getattr(quota, name) for name in Spending.__struct_fields__}


def box_spec(policy: Policy) -> BoxSpec:
    """What a box of this policy may use."""
    limits = policy.limits
    return BoxSpec(
        cpu_s=limits.cpu_s,
        memory_bytes=limits.memory_bytes,
        processes=limits.processes,
        scratch_bytes=limits.scratch_bytes,
        scratch_files=limits.scratch_files,
        open_files=limits.open_files,
        requires=policy.box.requires,
    )
