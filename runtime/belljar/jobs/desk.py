"""The desk of a service: what stands between whoever asks over a network and the host that runs.

    submit ──▶ vetted ──▶ a place in the queue ──▶ order on the disk ──▶ answer: the run's id
                               │ turns of tenants
                               ▼
                     a slot ──▶ Host.ordered ──▶ Hub ──▶ listeners
                               │
                               ▼
                     result and events in memory for a while ──▶ later: the log (`found`)

Theory of operation. An order has its answer once its row is durable; the place in the queue is taken before that, so
that no more is ever written than there is room for. From the queue it goes to a slot, of which there are so many. The
run's start and end are written together with the order's (`book`), so whatever dies in between, the two agree.

Everything of an order happens in one task, its own, and what another part wants of it (`cancel`, `drain`) it asks of
that task: the box is killed through the host, or, before there is one, the task is cancelled.

An order to do a run again (`again`) goes the same way; a replay does so in boxes of a host of its own.

A key whose order was interrupted makes a new run. What the dead one was answered is read from its kept contents, and
the new one's models give these answers again, for nothing, before they ask anybody (`models.replay.ForkModel`). A new
one may be interrupted, too, before it came to all of them, or to any: so those of the ones before it count as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Mapping
from typing import Any, Final, NamedTuple, Self, TypeVar

import msgspec

from belljar.engine import AskResult, CellResult, ErrorInfo, Result
from belljar.errors import HostFault, InvalidInput, InvalidPolicy, QuotaExceeded, Refusal
from belljar.heavy import off_loop
from belljar.host import Host, Ticket, Vetted
from belljar.identity import RunId, Tenant, TraceParent
from belljar.jobs.again import Readings, TakenOver, answers_of, forked_from, read_again
from belljar.jobs.book import OrderBook
from belljar.jobs.following import Following
from belljar.jobs.found import Found, Wish, check_page
from belljar.jobs.hub import Hub
from belljar.jobs.orders import (
    CANCELLED,
    INTERRUPTED,
    QUEUED,
    REFUSED,
    RUNNING,
    Asked,
    AskedAgain,
    AskedSession,
    Busy,
    DeskLimits,
    NoSuchRun,
    Order,
    OrderState,
    Page,
    RegisteredContext,
    SessionState,
    chars_of,
    check_asked,
    check_idem,
    digest_of,
)
from belljar.jobs.queue import FairQueue, Full
from belljar.jobs.sittings import Sittings
from belljar.jobs.words import told_result
from belljar.jobs.work import Work, fault_of, limit_of
from belljar.journal.tables import OrderRow
from belljar.lifecycle import new_run_id
from belljar.policy import Policy, presets
from belljar.replay import Replay, Replays, Setting
from belljar.streaming import StreamEvent
from belljar.tasks import stopped, to_the_end

__all__ = ["Desk", "TenantLoad"]

_log = logging.getLogger("belljar")
_R = TypeVar("_R", Result, CellResult, AskResult)
# How often it looks for what other processes ask of it, and for what has been kept long enough.
TICK_S: Final = 1.0
_PRUNE_S: Final = 600.0
_RETRY_S_MAX: Final = 60.0
_KILL_S: Final = 0.2
# Recordings that are read at once, and replays that are under way.
_RECORDINGS: Final = 2
# How long a run takes, before there was one: for `Retry-After`.
_RUN_S: Final = 5.0
# Names of models that open a file of this host, or a run of whatever tenant.
_OF_FILES: Final = ("scripted", "replay")
_LATELY_MAX: Final = 10_000
# Of a key whose orders are interrupted again and again, the answers of so many are looked through.
_LINE_MAX: Final = 16


class Desk:
    """Takes orders for one open host. One per process, used in `async with`, inside the host's own block.

    Args:
        policies: what a policy's name means besides presets; a name that it does not know is refused.
        models: names that the operator offers to all who order, even if they open a file of this host.

    Attributes:
        folders: paths of this host that no error names, once it is open.
    """

    def __init__(
        self,
        host: Host,
        limits: DeskLimits | None = None,
        *,
        policies: Mapping[str, Policy] | None = None,
        models: Collection[str] = (),
    ) -> None:
        self.host = host
        self.limits = limits or DeskLimits()
        self.policies = dict(policies or {})
        self.models = frozenset(models)
        self._draining = False
        self._queue: FairQueue[Work] = FairQueue(
            count_max=self.limits.queued, tenant_max=self.limits.queued_per_tenant, bytes_max=self.limits.queued_bytes
        )
        self._works: dict[str, Work] = {}
        self._running: dict[str, Work] = {}
        # Those that have ended, the first one first, with the loop's time then, and how much each takes up.
        self._ended: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._ended_chars = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        # Ends that could not be written yet.
        self._owed: dict[str, str] = {}
        self._hearing: list[Callable[[OrderState], None]] = []
        self._run_s = _RUN_S
        self._prune_at = 0.0
        # What is kept of a run's answers is in memory while it is read, and while it is replayed.
        self._recordings = Readings(_RECORDINGS)
        self._replaying = asyncio.Semaphore(_RECORDINGS)

    async def __aenter__(self) -> Self:
        host, limits = self.host, self.limits
        self._book = OrderBook(host.journal, owner=host.name, kept_s=limits.idem_s)
        self._found = Found(host.state.journal, host.keys)
        self._following = Following(self._found)
        state = host.state
        self.folders = tuple(sorted({str(state.root), str(state.contexts), str(state.images)}, key=len, reverse=True))
        self._sittings = Sittings(host, limits, self._keep, self._told, self.folders)
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        await to_the_end(self._close())

    async def _close(self) -> None:
        await self.drain(0.0)
        await stopped(self._ticking)
        await self._following.aclose()

    # -------------------------------------------------------------------------------------------------------- orders

    async def submit(
        self, asked: Asked, *, tenant: Tenant, by: str, idem: str = "", caller: TraceParent | None = None
    ) -> Order:
        """Take an order: durable when this returns, and begun when its turn comes.

        Args:
            by: who asks, as the log names him.
            idem: a key under which the same request makes one run, however often it comes; "" for none.
            caller: the span of the caller's that a run made for this is below, for `caller_of`.

        Raises:
            Busy: its queue is full, or the desk is draining.
            IdempotencyConflict: the key was used for another request.
            InvalidInput, InvalidPolicy, PolicyDenied: it cannot be run as it is.
            QuotaExceeded: nothing is left for it.
            HostFault: the log or the ledger does not work.
        """
        check_asked(asked)
        check_idem(idem)
        digest, size = await off_loop(chars_of(asked), digest_of, asked)
        known = await self._book.known(tenant, idem, digest) if idem else None
        if known is not None and known.state != INTERRUPTED:
            return _order(known, "known")
        vetted = await self._vet_with_room(asked, size, tenant, by)
        retries = None if known is None else known.run
        hub = Hub(self.limits.events_bytes)
        work = Work(new_run_id(), tenant, by, asked, vetted, hub, retries=retries, caller=caller)
        return await self._enqueue(work, self._book.new(work.run, tenant, by, idem, digest), size)

    async def submit_again(self, asked: AskedAgain, *, by: str) -> Order:
        """As `submit`, for a run that has ended and is to be replayed or forked, as an order of its own tenant.

        Raises:
            NoSuchRun: there is none.
            InvalidInput: it cannot be done again so: as `Replays.replay` and `Replays.fork`.
            Busy, InvalidPolicy, PolicyDenied, QuotaExceeded, HostFault: as `submit`.
        """
        if self._draining:
            raise _stopping()
        async with self._recordings.place(await self.tenant_of(asked.run)):
            tenant, whole, setting = await asyncio.to_thread(read_again, self.host, asked, self.policies)
        if isinstance(whole, Asked):
            check_asked(whole)
        digest, size = await off_loop(chars_of(whole), digest_of, whole)
        vetted = await self._vet_with_room(whole, size, tenant, by, setting)
        work = Work(new_run_id(), tenant, by, whole, vetted, Hub(self.limits.events_bytes), again=asked)
        return await self._enqueue(work, self._book.new(work.run, tenant, by, "", digest), size)

    async def _enqueue(self, work: Work, row: OrderRow, size: int) -> Order:
        """A place in the queue, and then the order on the disk."""
        self._queue.put(row.run, work.tenant, work, size)
        placing = asyncio.create_task(self._place(work, row))
        self._tasks.add(placing)
        placing.add_done_callback(self._placed)
        return await asyncio.shield(placing)  # who goes away meanwhile has ordered all the same

    def _placed(self, placing: asyncio.Task[Order]) -> None:
        self._tasks.discard(placing)
        if not placing.cancelled():
            placing.exception()  # whoever waited has it

    async def _place(self, work: Work, row: OrderRow) -> Order:
        """Write the order, and let it have its turn."""
        made = "new"
        try:
            if work.retries is not None:
                made = "anew" if await self._taken_over(work) is None else "forked"
            taken = await self._book.take(row, work.admission, retries=work.retries)
        except BaseException as error:
            self._drop(work)
            if isinstance(error, QuotaExceeded):
                await self.host.log_refusal(work.tenant, error, by=work.by)
            raise
        if not taken.is_new:
            self._drop(work)
            return _order(taken.row, "known")
        self._works[work.run] = work
        if self._draining and row.run not in self._running:
            await self._interrupt([work])
        work.placed.set_result(not work.done.is_set())
        self._fill()
        state = work.state if work.done.is_set() else row.state
        return Order(run=row.run, tenant=row.tenant, made=made, state=state, retries=work.retries)  # type: ignore[arg-type]

    def _drop(self, work: Work) -> None:
        if work.run in self._queue:
            self._queue.remove(work.run)
        work.placed.set_result(False)

    def _check_room(self, tenant: Tenant, size: int) -> None:
        if self._draining:
            raise _stopping()
        if (full := self._queue.full(tenant, size)) is not None:
            raise self._busy(full)

    def _busy(self, full: Full) -> Busy:
        waiting = len(self._queue) if full.tenant is None else self._queue.waiting(full.tenant)
        code = "queue.bytes" if full.what == "bytes" else "queue.full" if full.tenant is None else "queue.tenant"
        whose = "of all tenants" if full.tenant is None else f"of tenant {full.tenant}"
        after_s = min(_RETRY_S_MAX, max(1.0, self._run_s * waiting / self.limits.slots / 10))
        return Busy(
            f"the queue {whose} is full ({full.limit} {full.what}): try again in {after_s:.0f} s",
            code=code,
            retry_after_s=after_s,
            limit=full.limit,
            observed=full.observed,
        )

    async def _vet_with_room(
        self, asked: Asked | AskedSession, size: int, tenant: Tenant, by: str, setting: Setting | None = None
    ) -> Vetted:
        """As `_vet`, for an order. Where there is no room it is refused before that; others may come meanwhile."""
        self._check_room(tenant, size)
        vetted = await self._vet(asked, tenant, by, setting)
        self._check_room(tenant, size)
        return vetted

    async def _vet(
        self, asked: Asked | AskedSession, tenant: Tenant, by: str, setting: Setting | None = None
    ) -> Vetted:
        """A replay has the policy of its record (`setting`), and no models."""
        for name in (asked.model, asked.sub_model):
            self._check_model(name)
        return await self.host.vet(
            by=by,
            tenant=tenant,
            policy=self._policy(asked.policy) if setting is None else setting.asked,
            backend=asked.backend,
            language=asked.language,
            models=(asked.model, asked.sub_model or asked.model),
            references=[one.ref for one in asked.contexts.values() if isinstance(one, RegisteredContext)],
            answer_type=asked.answer_schema if isinstance(asked, Asked) else None,
        )

    def _check_model(self, name: str | None) -> None:
        """A name that came over a network opens no file of this host, and no run of another tenant."""
        if name is None or name in self.models or self.host.knows_model(name):
            return
        if name.partition(":")[0] in _OF_FILES:
            raise InvalidInput(f"there is no model {name[:80]!a} here", code="model.unknown")

    def _policy(self, name: str) -> str | Policy:
        """Nor does the name of a policy."""
        if (found := self.policies.get(name)) is not None:
            return found
        if name in _presets():
            return name
        raise InvalidPolicy(f"there is no policy {name[:80]!a} here: list the policies", code="policy.unknown")

    # --------------------------------------------------------------------------------------------------------- turns

    def _fill(self) -> None:
        """Give each free slot to whoever's turn it is."""
        while len(self._running) < self.limits.slots and (work := self._queue.take()) is not None:
            self._running[work.run] = work
            work.task = asyncio.create_task(self._do(work), name=f"order {work.run}")

    async def _do(self, work: Work) -> None:
        try:
            if await work.placed:
                await self._run(work)
        finally:
            del self._running[work.run]
            self._fill()

    async def _run(self, work: Work) -> None:
        """From its turn to its end, which its row and its listeners hear of, whatever it is."""
        work.state, work.started_ns, began = RUNNING, time.time_ns(), time.monotonic()
        state = work.given_up_as
        try:
            if not work.is_given_up:
                state = self._state_of(work, await self._done(work))
        except Refusal as refusal:
            _log.info("belljar: the run %s is refused: %s: %s", work.run, type(refusal).__name__, refusal)
            state, work.error, work.limit = REFUSED, fault_of(refusal, self.folders), limit_of(refusal)
        except HostFault as fault:
            _log.error("belljar: the run %s failed: %s: %s", work.run, type(fault).__name__, fault)
            state, work.error = "host_fault", fault_of(fault, self.folders)
        except asyncio.CancelledError:
            state = work.given_up_as
        except Exception as error:
            _log.exception("belljar: the run %s ended with an unexpected error", work.run)
            state, work.error = "host_fault", fault_of(error, self.folders)
        finally:
            self._run_s += (time.monotonic() - began - self._run_s) / 8
            await to_the_end(self._settle(work, state))

    async def _settle(self, work: Work, state: str) -> None:
        """Its row is ended if its run has not done so; then that is its state.

        A run may have ended by itself, in the log, at the moment when its task was given up: then that counts, and its
        result is found there.
        """
        if work.result is None and work.report is None:
            try:
                ended = await self._book.settle(work.run, state)
            except HostFault as fault:
                _log.warning("belljar: the end of order %s is not written yet: %s", work.run, fault)
                self._owed[work.run] = state
            else:
                if ended != state:
                    work.error = work.limit = None
                state = ended
        self._over(work, state)

    def _state_of(self, work: Work, status: str) -> str:
        """Of its order, where its run ends so."""
        return INTERRUPTED if work.is_interrupted and status == "killed" else status

    async def _done(self, work: Work) -> str:
        """Do what was ordered. Returns how it ended."""
        if work.is_replay:
            work.report = await self._replayed(work)
            return work.report.logged_status
        work.result = self._told(work.run, await self._ordered(work))
        return work.result.status

    def _told(self, run: str, result: _R) -> _R:
        """What came of a run, in the words that are told outside; those of a fault of ours go to our own log."""
        if result.status == "host_fault" and result.error is not None:
            _log.error("belljar: the run %s failed: %s: %s", run, result.error.type, result.error.message)
        return told_result(result, self.folders)

    def _ticket(self, work: Work, **more: Any) -> Ticket:
        """For its run, whose start and end are written together with the order's."""
        return Ticket(
            run=work.run,
            by=work.by,
            begun=self._book.begins(work.run),
            ended=lambda status: self._book.ends(work.run, lambda: self._state_of(work, status)),
            **more,
        )

    async def _ordered(self, work: Work) -> Result:
        taken_over = await self._taken_over(work)
        ticket = self._ticket(work, feed=work.hub, **({} if taken_over is None else taken_over._asdict()))
        asked = work.shown()
        return await self.host.ordered(
            ticket,
            work.question,
            work.code,
            contexts=work.sources,
            model=asked.model,
            sub_model=asked.sub_model,
            tenant=work.tenant,
            policy=self._policy(asked.policy or ""),
            backend=asked.backend,
            language=asked.language,
            answer_type=work.answer_schema,
        )

    async def _replayed(self, work: Work) -> Replay:
        assert work.again is not None, "it is a replay"
        host, ticket = self.host, self._ticket(work)
        async with self._replaying:
            try:
                async with Replays(host.state, host.environ, host=host) as replays:
                    return await replays.replay(
                        work.again.run, contexts=work.sources, policies=self.policies, ticket=ticket
                    )
            except Refusal as refusal:
                if (await asyncio.to_thread(self._found.state, work.run)).started_ns is None:
                    await host.log_refusal(work.tenant, refusal, by=work.by, run=work.run)
                raise

    async def _taken_over(self, work: Work) -> TakenOver | None:
        """What it does not have to ask for: of the run that it forks, or of interrupted ones."""
        if work.again is not None:
            assert work.again.from_turn is not None, "it is a fork"
            try:
                return await asyncio.to_thread(forked_from, self.host, work.again.run, work.again.from_turn)
            except Refusal as refusal:  # its contents were erased meanwhile
                await self.host.log_refusal(work.tenant, refusal, by=work.by, run=work.run)
                raise
        return None if work.retries is None else await self._answers_of(work.retries)

    async def _answers_of(self, run: str) -> TakenOver | None:
        """What an interrupted order was answered, and those that it was a retry of itself."""
        line = await self._book.line(run)
        return await asyncio.to_thread(answers_of, self.host, line[:_LINE_MAX])

    def _over(self, work: Work, state: str) -> None:
        work.over(state)
        self._keep(work)

    def _keep(self, work: Work) -> None:
        """For a while it is found here, and not in the log alone; unless its result was lost on the way."""
        if work.is_lost:
            self._works.pop(work.run, None)
        else:
            self._works[work.run] = work
            self._ended[work.run] = (asyncio.get_running_loop().time(), work.chars)
            self._ended_chars += work.chars
            self._let_go()
        shown = work.shown()
        for tell in self._hearing:
            tell(shown)

    def _let_go(self) -> None:
        """Of what has ended, all that is too old or too much."""
        oldest = asyncio.get_running_loop().time() - self.limits.ended_s
        while self._ended:
            run, (at, chars) = next(iter(self._ended.items()))
            is_little = len(self._ended) <= self.limits.ended and self._ended_chars <= self.limits.ended_bytes
            if at > oldest and is_little:
                return
            del self._ended[run], self._works[run]
            self._ended_chars -= chars

    # ------------------------------------------------------------------------------------------------------- looking

    async def get(self, run: str) -> OrderState:
        """A run, and its result once it has ended. Raises NoSuchRun."""
        if (work := self._works.get(run)) is not None:
            return self._shown(work)
        _check_run(run)
        return self._with_progress(await asyncio.to_thread(self._found.whole, run))

    async def tenant_of(self, run: str) -> Tenant:
        """Whose a run is, without looking at what came of it. Raises NoSuchRun."""
        if (work := self._works.get(run)) is not None:
            return work.tenant
        return Tenant((await self.brief(run)).tenant)

    async def brief(self, run: str) -> OrderState:
        """A run as the log has it, without its result. Raises NoSuchRun."""
        _check_run(run)
        return await asyncio.to_thread(self._found.state, run)

    async def lately(self, since: int, *, interrupted: bool) -> list[tuple[str, int]]:
        """Runs that ended since then, the first one first, with when, in seconds since the epoch.

        Args:
            interrupted: only those whose process died.
        """
        return await self._book.lately(since, interrupted=interrupted, limit=_LATELY_MAX)

    def known(self, run: str) -> OrderState | None:
        """A run as this process knows it: while it waits and runs here, and for a while after. None if it does not."""
        work = self._works.get(run)
        return None if work is None else self._shown(work)

    def report(self, run: str) -> Replay | None:
        """What came of a replay that ended here a while ago; None if this is not one, or it is no longer known."""
        work = self._works.get(run)
        return None if work is None else work.report

    def _shown(self, work: Work) -> OrderState:
        if work.state == QUEUED:
            return msgspec.structs.replace(work.shown(), place=self._queue.place(work.run))
        return self._with_progress(work.shown())

    def _with_progress(self, state: OrderState) -> OrderState:
        if state.state != RUNNING or (live := self.host.live_run(state.run)) is None:
            return state
        return msgspec.structs.replace(state, progress=live.progress, cost_nanousd=live.progress.cost_nanousd)

    async def wait(self, run: str, timeout_s: float) -> OrderState:
        """As `get`, when it has ended or after `timeout_s` seconds, whichever comes first."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                if (work := self._works.get(run)) is not None:
                    await work.done.wait()
                else:
                    _check_run(run)
                    while (await asyncio.to_thread(self._found.state, run)).is_open:  # noqa: ASYNC110
                        await asyncio.sleep(TICK_S)  # another process does not tell
        return await self.get(run)

    async def ls(
        self,
        tenant: Tenant | None,
        *,
        status: str | None = None,
        model: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page:
        """Runs of a tenant and those below it, or of all (None), the latest first; no child runs.

        A page looks at a thousand runs at most. So where few of them are wanted it may have fewer than `limit`, and
        even none; as long as it has a cursor, there may be more behind it.

        Raises:
            InvalidInput: `page.cursor`, `page.limit`.
        """
        check_page(after, limit)
        page = await asyncio.to_thread(self._found.page, Wish(tenant, status, model), after, limit)
        places = functools.cache(self._queue.places)  # to count for each anew would take long where many wait
        return msgspec.structs.replace(page, runs=tuple(self._brief(state, places) for state in page.runs))

    def _brief(self, state: OrderState, places: Callable[[Tenant], dict[str, int]]) -> OrderState:
        """With what only this process knows, but no result."""
        if (work := self._works.get(state.run)) is not None and work.state == state.state == QUEUED:
            return msgspec.structs.replace(work.shown(), place=places(work.tenant).get(work.run))
        return self._with_progress(state)

    async def events(self, run: str, after: int | None = None) -> AsyncGenerator[tuple[int, StreamEvent], None]:
        """What a run does, each event with an id that grows; those behind `after`, or all that is still known.

        The last event is a `ResultEvent`, which carries the largest id; then it ends. Of a run that never started, or
        was interrupted, there is none: it ends without one, and `get` says why. Whoever takes too long misses events,
        and is told how many. Raises NoSuchRun at the first step.

        In another process than the run's own, and a while after its end, there are only the events that the log can
        tell: neither turns nor output.
        """
        if (work := self._works.get(run)) is None:
            _check_run(run)
            async with contextlib.aclosing(self._following.events(run, after)) as events:
                async for event in events:
                    yield event
            return
        hub = work.hub
        if (after or 0) < hub.gone_id:
            async with contextlib.aclosing(self._following.logged(run, after, hub.gone_id)) as events:
                async for event in events:
                    yield event
            after = max(after or 0, hub.gone_id)
        async with contextlib.aclosing(hub.listen(after)) as events:
            async for event in events:
                after = event[0]
                yield event
        if work.is_lost:
            async with contextlib.aclosing(self._following.logged(run, after, None)) as events:
                async for event in events:
                    yield event

    # -------------------------------------------------------------------------------------------------------- ending

    async def cancel(self, run: str, *, by: str) -> OrderState:
        """End a run that waits or runs, here or in another process, which hears of it within a second or two.

        One that has ended stays as it is.

        Raises:
            NoSuchRun: there is none.
            InvalidInput: `run.elsewhere`: it runs in another process, and was not ordered of a service.
        """
        work = self._works.get(run)
        if work is not None:
            await self._cancel(work, by)
            return await self.get(run)
        if self.host.live_run(run) is not None:
            with contextlib.suppress(InvalidInput):  # it has just ended
                await self.host.cancel(run)
                async for _ in self.host.watch(run):
                    pass
            return await self.get(run)
        _check_run(run)
        state = await asyncio.to_thread(self._found.state, run)
        if not state.is_open:
            return await self.get(run)
        if await self._book.row(run) is None:
            raise InvalidInput(
                f"{run} runs in another process, and was not ordered of a service: end it there", code="run.elsewhere"
            )
        await self._book.ask_to_cancel(run)
        return await self.get(run)

    def give_up(self, run: str, *, by: str) -> None:
        """End a run of this process, if it has not ended; nobody waits for that."""
        if (work := self._works.get(run)) is not None:
            self._beside(self._cancel(work, by))

    async def _cancel(self, work: Work, by: str) -> None:
        if work.done.is_set():
            return
        work.is_cancelled = True
        work.error = ErrorInfo("Cancelled", f"cancelled by {by}")
        if work.run in self._queue:
            self._queue.remove(work.run)
            await to_the_end(self._settle(work, CANCELLED))
        elif work.run in self._sittings:
            await self._sittings.close(work.run)
        elif work.task is not None:
            await to_the_end(self._kill(work))

    async def _kill(self, work: Work) -> None:
        """End the run of an order through the host, or its task where there is no run yet."""
        assert work.task is not None, "it has a slot"
        given_up = False
        while not work.task.done():
            if self.host.live_run(work.run) is not None:
                with contextlib.suppress(InvalidInput):  # it has just ended
                    await self.host.cancel(work.run)
            elif not given_up and work.state == RUNNING:  # before that it sees by itself that it was given up
                given_up = work.task.cancel()
            await asyncio.wait([work.task], timeout=_KILL_S)

    async def drain(self, deadline_s: float) -> None:
        """Admit nothing more, let what runs end for so many seconds, then kill it; what waits is interrupted."""
        self._draining = True
        waiting = []
        while (work := self._queue.take()) is not None:
            if work.placed.done():
                waiting.append(work)
        if waiting:
            await self._interrupt(waiting)
        closing = asyncio.create_task(self._sittings.drain(deadline_s))
        tasks = [work.task for work in self._running.values() if work.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=deadline_s)
        left = list(self._running.values())
        for work in left:
            work.is_interrupted = True
        await asyncio.gather(closing, *(self._kill(work) for work in left))
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    async def _interrupt(self, waiting: list[Work]) -> None:
        try:
            await self._book.end([work.run for work in waiting], INTERRUPTED)
        except HostFault as fault:  # then whoever finds this process dead does so
            _log.warning("belljar: orders that waited are not written as interrupted yet: %s", fault)
        for work in waiting:
            self._over(work, INTERRUPTED)

    async def recover(self) -> int:
        """Settle now what dead processes left: their orders are interrupted, their runs closed. Returns how many runs.

        The host does so when it is opened and each half minute.
        """
        return await self.host.recover()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._let_go()
            try:
                await self._look()
            except HostFault as fault:
                _log.warning("belljar: the orders cannot be looked after: %s", fault)

    async def _look(self) -> None:
        for run, state in list(self._owed.items()):
            await self._book.settle(run, state)
            del self._owed[run]
        if len(self._works) > len(self._ended):
            for run in await self._book.cancelling():
                if (work := self._works.get(run)) is not None:
                    self._beside(self._cancel(work, "another process"))
        for run in self._sittings.idle():
            self._beside(self._sittings.close(run))
        if (now := asyncio.get_running_loop().time()) >= self._prune_at:
            self._prune_at = now + _PRUNE_S
            while await self._book.prune():
                pass

    def _beside(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(_logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------------------------------------------------ sessions

    async def open_session(
        self, asked: AskedSession, *, tenant: Tenant, by: str, caller: TraceParent | None = None
    ) -> SessionState:
        """Raises as `submit`; `Busy` where too many are open."""
        if self._draining:
            raise _stopping()
        self._sittings.check_room(tenant)
        vetted = await self._vet(asked, tenant, by)
        work = Work(new_run_id(), tenant, by, asked, vetted, Hub(self.limits.events_bytes), caller=caller)
        self._works[work.run] = work
        try:
            if self._draining:
                raise _stopping()
            return await self._sittings.open(work, asked, self._policy(asked.policy))
        except BaseException:
            del self._works[work.run]
            raise

    def session(self, session: str) -> SessionState:
        """Raises NoSuchSession."""
        return self._sittings.state(session)

    def sessions(self, tenant: Tenant | None) -> list[SessionState]:
        """Those of a tenant and below it, or all, that are open in this process."""
        return self._sittings.ls(tenant)

    async def execute(self, session: str, code: str, *, timeout_s: float | None = None) -> CellResult:
        """One cell. Raises NoSuchSession; Busy (`session.busy`) while another is under way; as `Session.execute`."""
        done = await self._sittings.use(session, lambda open_one: open_one.execute(code, timeout=timeout_s))
        return self._told(session, done)

    async def ask(self, session: str, question: str, *, answer_schema: dict[str, Any] | None = None) -> AskResult:
        """One question. Raises as `execute`, and as `Session.ask`."""
        work = self._works.get(session)
        turn = None if work is None else work.hub.turn
        done = await self._sittings.use(
            session, lambda open_one: open_one.ask(question, answer_type=answer_schema, on_turn=turn)
        )
        return self._told(session, done)

    async def close_session(self, session: str) -> Result:
        """End it, and what it is doing. Its result is also what `get` gives. Raises NoSuchSession."""
        return await self._sittings.close(session)

    # ----------------------------------------------------------------------------------------------------- for others

    @property
    def is_draining(self) -> bool:
        return self._draining

    def load(self) -> dict[str, int]:
        """For metrics: `running`, `queued`, `queued_bytes`, `slots`, `sessions`, `listeners`."""
        return {
            "running": len(self._running),
            "queued": len(self._queue),
            "queued_bytes": self._queue.size_bytes,
            "slots": self.limits.slots,
            "sessions": len(self._sittings),
            "listeners": sum(work.hub.listeners for work in self._works.values()) + self._following.listeners,
        }

    def caller_of(self, run: str) -> TraceParent | None:
        """What the caller's span was that this run is below, or the run that started it; in whatever thread.

        Known to this process alone, and for as long as it keeps the result; None then, and where there was none.
        """
        work = self._works.get(run.partition(".")[0])
        return None if work is None else work.caller

    def busiest(self, limit: int) -> list[TenantLoad]:
        """Tenants of the first level for whom something waits or runs here, those with most of it first."""
        queued = self._queue.firsts()
        running = Counter(str(work.tenant.levels[0]) for work in self._running.values())
        found = [TenantLoad(name, queued.get(name, 0), running[name]) for name in {*queued, *running}]
        return sorted(found, key=lambda one: (-one.queued, -one.running, one.tenant))[:limit]

    def on_end(self, tell: Callable[[OrderState], None]) -> None:
        """Call `tell` with each run that ends here; a plain function that does not wait."""
        self._hearing.append(tell)


class TenantLoad(NamedTuple):
    """A tenant of the first level: how many orders wait and run, of it and those below it."""

    tenant: str
    queued: int
    running: int


def _order(row: OrderRow, made: str) -> Order:
    return Order(run=row.run, tenant=row.tenant, made=made, state=row.state)  # type: ignore[arg-type]


def _check_run(run: str) -> None:
    """Raises NoSuchRun for what cannot be the id of one."""
    try:
        RunId(run)
    except InvalidInput:
        raise NoSuchRun(run) from None


def _stopping() -> Busy:
    return Busy("the service is stopping: try again in a moment", code="service.draining", retry_after_s=5.0)


async def _logged(work: Coroutine[Any, Any, object]) -> None:
    try:
        await work
    except (Refusal, HostFault) as error:
        _log.warning("belljar: %s", error)


_presets = functools.cache(lambda: frozenset(presets()))
