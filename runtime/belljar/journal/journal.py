"""One thread that writes one store, and commits for everybody at once.

Theory of operation. A durable commit costs one flush of the disk, whether it carries one change or two hundred. So the
changes wait for each other: coroutines put *jobs* in a queue, one thread takes whatever is there, and runs it as a
*round*, which is one transaction (`draft`). Only after its commit does any coroutine hear of its result, so a result
that was seen is on the disk. While the disk flushes, the next round gathers by itself: an idle store answers one job at
once, a busy one answers hundreds per flush, and nothing has to be tuned.

Who pays for a failure:

- A job that raises takes back its own changes and nothing else; its caller gets its exception.
- A round that cannot begin or commit (disk full, input/output error, locked too long) fails every job in it, each with
  the type of exception that its submitter chose. Nothing of the round is in the store.
- Rounds that fail one after the other have one patience together: what is left of it, when it is used up, is a little
  for each. The last half dozen writes of a run would else be waited for one by one, and who is told no is told late.
- A job that nobody awaits (`submit_soon`) has no caller to tell. Its error is kept under its *lane* (a run, say) and
  given, in place of a result, to every later job of that lane: what follows a lost write does not happen, and of what a
  lane wrote there is a beginning without a hole. The `last` job of a lane ends that: it is done once somebody was told.

A job that was submitted runs, even if the coroutine that awaits it is cancelled. A caller that cancels must not
conclude that nothing was written.

The thread is a daemon: a program that forgets `aclose` still ends, and loses only what nobody awaited.

A forked child has no such thread, and a store must not be used across a fork: it would take locks of the parent's for
its own. So a fork waits for the end of the round, and in the child all journals are closed; it may open new ones.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from belljar.errors import BelljarError, HostFault
from belljar.journal.draft import Draft, Job, Outcome, Stale, Store, StoreError, run_round
from belljar.journal.inbox import Inbox
from belljar.journal.tables import Key

__all__ = ["Journal", "Unavailable"]

_T = TypeVar("_T")
# Makes the exception for everything that is the store's fault: whoever submits a job says whose it then is.
Unavailable = Callable[[str], BelljarError]

_QUEUE_MAX = 4096  # jobs that may wait unawaited: some 4 MB of records of 1 KB
_ROUND_MAX = 256  # jobs in one transaction: by then the flush is a small part of the cost
# How long jobs that nobody awaits wait for one that somebody awaits. On the disk that takes a fifth off a query's CPU
# time: its outcome is committed with the next request.
_LINGER_S = 0.003
# How often a round is run that a store calls stale. That others have written it says once; more often, that its
# connection broke again.
_TRIES = 4
_PATIENCE_MIN_S = 2.0  # for a lock or a connection, once the store has failed for as long as its patience
_CLOSE_TIMEOUT_S = 30.0  # one round that waits for the lock, and the flushes after it


@dataclass(slots=True)
class _Entry:
    job: Job[Any]
    lane: str
    future: asyncio.Future[Any] | None
    unavailable: Unavailable
    lazy: bool = False
    last: bool = False


class Journal:
    """The only writer of one store in this process.

    Args:
        store: what keeps the rows.
        name: what to call it in messages.
        inline: run each job where it is submitted. For a store in memory: there is no disk to wait for, so a thread
            would only cost.
        queue_max: unawaited jobs that may wait before `room` waits.
        round_max: jobs in one transaction.
    """

    def __init__(
        self,
        store: Store,
        *,
        name: str,
        inline: bool = False,
        queue_max: int = _QUEUE_MAX,
        round_max: int = _ROUND_MAX,
    ) -> None:
        self.name = name
        self._store = store
        self._queue_max = queue_max
        self._round_max = round_max
        self._inbox: Inbox[_Entry] = Inbox(_LINGER_S)
        self._gate = threading.Lock()  # inline: makes "closed?" and the round one step, for every thread that submits
        self._closed = False
        self._steady = threading.Lock()  # held while the store is at work, and by a fork
        self._known: dict[Key, Any] = {}  # belongs to the thread, as the next
        self._lost: dict[str, Exception] = {}  # lane -> error
        self._told: set[str] = set()  # lanes of which somebody has been given that error
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._patience_s = store.patience_s
        self._failing_since: float | None = None  # when the first of the rounds began that have failed until now
        self._pulse_at = time.monotonic() + (store.pulse_s or 0.0)
        self._inline = inline
        if not inline:
            _JOURNALS.add(self)
            threading.Thread(target=self._work, name="belljar journal", daemon=True).start()

    @property
    def host(self) -> str | None:
        """Our name among the hosts that share the store; None if only processes of this machine do."""
        return self._store.host

    def now(self) -> float:
        """The time by the store's clock, in seconds since the epoch. Asks nobody, so it may be called anywhere."""
        return self._store.now()

    # -- for coroutines ----------------------------------------------------------------------------------------------

    def submit(
        self,
        job: Job[_T],
        *,
        lane: str = "",
        lazy: bool = False,
        last: bool = False,
        unavailable: Unavailable = HostFault,
    ) -> asyncio.Future[_T]:
        """Queue `job` now; the future holds its result once it is durable.

        A `lazy` job lets the commit wait a moment for other jobs, as an unawaited one does. The `last` one of a lane
        runs whatever was lost before it, if somebody has been told of that; then all is forgotten.

        Raises, from the future: the job's own error; what `unavailable` makes; or the error of an earlier `submit_soon`
        of the same lane, and then this job did not run.
        """
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._put(_Entry(job, lane, future, unavailable, lazy, last))
        return future

    def submit_soon(self, job: Job[object], *, lane: str = "", unavailable: Unavailable = HostFault) -> None:
        """Queue `job` now, before everything submitted later, without waiting. Await `room` after it."""
        self._put(_Entry(job, lane, None, unavailable, True))

    async def room(self, unavailable: Unavailable = HostFault) -> None:
        """Return at once while the queue is short; otherwise when what is queued now is durable."""
        if len(self._inbox) >= self._queue_max:
            await self.submit(_NOTHING, unavailable=unavailable)

    async def flush(self, unavailable: Unavailable = HostFault) -> None:
        """Return when all that is queued is durable; raise if an unawaited job was lost and nobody was told."""
        await self.submit(Job(lambda _: self._refuse_if_lost(unavailable)), unavailable=unavailable)

    async def aclose(self, timeout_s: float = _CLOSE_TIMEOUT_S, *, unavailable: Unavailable = HostFault) -> None:
        """Refuse new jobs, write what is queued, close. Raise if that takes too long or an unawaited job was lost."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._inbox.close()
                if self._inline:
                    self._store.close()
                    self._ended.set_result(None)
        try:
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._ended)), timeout_s)
        except TimeoutError:
            raise unavailable(f"{self.name} did not finish writing in {timeout_s:g} s; check the disk") from None
        self._refuse_if_lost(unavailable)

    # -- the thread --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        batch: list[_Entry] = []
        try:
            while batch := self._take():
                with self._steady:
                    outcomes = self._round(batch)
                self._deliver(batch, outcomes)
        finally:  # usually nothing is left; after a bug of ours nobody may be left waiting
            self._abandon(batch)
            with self._steady:
                self._store.close()
            self._ended.set_result(None)

    def _take(self) -> list[_Entry]:
        """The next round's; none at the end. The store has its pulse meanwhile, and between any two rounds if due."""
        pulse_s = self._store.pulse_s
        while True:
            left_s = None if pulse_s is None else self._pulse_at - time.monotonic()
            if (left_s is None or left_s > 0) and self._inbox.wait(left_s):
                return self._inbox.take(self._round_max)
            with self._steady:
                self._store.patience_s = self._left_s()
                self._store.pulse()
            self._pulse_at = time.monotonic() + (pulse_s or 0.0)

    def _round(self, batch: Sequence[_Entry]) -> list[Outcome]:
        lost: dict[str, Exception] = {}
        began, self._store.patience_s = time.monotonic(), self._left_s()
        try:
            outcomes = self._run_until_fresh(batch, lost)
            self._failing_since = None
        except StoreError as error:
            if self._failing_since is None:
                self._failing_since = began
            outcomes = [Outcome(error=entry.unavailable(f"{self.name} cannot be written: {error}")) for entry in batch]
            lost = {}
            for entry, outcome in zip(batch, outcomes, strict=True):
                if entry.future is None and outcome.error is not None:
                    lost.setdefault(entry.lane, outcome.error)
        for lane, first in lost.items():
            self._lost.setdefault(lane, first)
        for entry, outcome in zip(batch, outcomes, strict=True):
            if entry.future is None:
                continue
            if outcome.error is not None and outcome.error is self._lost.get(entry.lane):
                self._told.add(entry.lane)
            if entry.last:
                self._lost.pop(entry.lane, None)
                self._told.discard(entry.lane)
        return outcomes

    def _left_s(self) -> float:
        """What is left of the patience with a store that fails."""
        if self._failing_since is None:
            return self._patience_s
        least_s = min(_PATIENCE_MIN_S, self._patience_s)
        return max(least_s, round(self._failing_since + self._patience_s - time.monotonic(), 1))

    def _run_until_fresh(self, batch: Sequence[_Entry], lost: dict[str, Exception]) -> list[Outcome]:
        for _ in range(_TRIES - 1):
            try:
                return self._run(batch, lost)
            except Stale:
                lost.clear()  # the jobs that lost something did not run
        return self._run(batch, lost)

    def _run(self, batch: Sequence[_Entry], lost: dict[str, Exception]) -> list[Outcome]:
        jobs: list[Job[Any]] = [Job(functools.partial(self._attempt, entry, lost), entry.job.needs) for entry in batch]
        return run_round(self._store, self._known, jobs)

    def _attempt(self, entry: _Entry, lost: dict[str, Exception], draft: Draft) -> Any:
        before = self._lost.get(entry.lane) or lost.get(entry.lane)
        if before is not None and not (entry.last and entry.lane in self._told):
            raise before
        try:
            return entry.job.work(draft)
        except StoreError:
            raise
        except Exception as error:
            if entry.future is None:
                lost.setdefault(entry.lane, error)
            raise

    def _deliver(self, batch: Sequence[_Entry], outcomes: Sequence[Outcome]) -> None:
        """Wake each event loop once per round, however many of its coroutines wait."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Outcome]]] = {}
        for entry, outcome in zip(batch, outcomes, strict=True):
            if entry.future is not None:
                by_loop.setdefault(entry.future.get_loop(), []).append((entry.future, outcome))
        for loop, answers in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_resolve, answers)

    def _abandon(self, batch: list[_Entry]) -> None:
        with self._gate:
            self._closed = True
            self._inbox.close()
        batch = [*batch, *self._inbox.take(len(self._inbox))]
        gone = f"{self.name} is no longer written: its thread ended; restart the process"
        self._deliver(batch, [Outcome(error=entry.unavailable(gone)) for entry in batch])

    # -- shared ------------------------------------------------------------------------------------------------------

    def _put(self, entry: _Entry) -> None:
        outcomes: list[Outcome] = []
        if not self._inline:
            is_open = self._inbox.put(entry, lazy=entry.lazy)
        else:
            with self._gate:
                is_open = not self._closed
                if is_open:
                    outcomes = self._round([entry])
        if not is_open:
            raise entry.unavailable(f"{self.name} is closed; open a new one")
        if outcomes and entry.future is not None:
            _resolve([(entry.future, outcomes[0])])

    def _refuse_if_lost(self, unavailable: Unavailable) -> None:
        for lane, error in self._lost.items():
            if lane not in self._told:
                raise unavailable(f"an earlier write was lost: {error}")

    # -- forks -------------------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        """In a forked child. The parent holds its lock on the store, so nothing is written by closing."""
        self._gate, self._inbox = threading.Lock(), Inbox(_LINGER_S)
        self._closed = True
        self._inbox.close()
        self._store.forget()


_JOURNALS: weakref.WeakSet[Journal] = weakref.WeakSet()
_steadied: list[Journal] = []


def _before_fork() -> None:
    _steadied.extend(_JOURNALS)
    for journal in _steadied:
        journal._steady.acquire()


def _after_fork_in_parent() -> None:
    while _steadied:
        _steadied.pop()._steady.release()


def _after_fork_in_child() -> None:
    for journal in _steadied:
        journal._forget()
    _after_fork_in_parent()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def _nothing(_draft: Draft) -> None:
    """A job that only marks a place in the queue."""


_NOTHING = Job(_nothing)


def _resolve(answers: Sequence[tuple[asyncio.Future[Any], Outcome]]) -> None:
    for future, outcome in answers:
        if future.done():  # cancelled while the round ran
            continue
        if outcome.error is not None:
            future.set_exception(outcome.error)
        else:
            future.set_result(outcome.result)
