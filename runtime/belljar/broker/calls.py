"""One model call, from the request to the ledger: logged and reserved before, settled and logged after.

    *requested* in the log and the worst case reserved and dispatched, in one transaction, durable
        -> the model, under a deadline
            -> *completed* | *failed* in the log and the truth settled, in one transaction
    or, when there is no room: *requested* and *denied* in the log, and no call

`admission` says which calls wait for room and which are refused. Once a root model has answered, enough for one more
call of it is kept back from what the program may spend: a program that spends all it can still leaves the root its next
turn.

The transaction after the call is waited for by nobody but the end of the run (`settled`): until it is written the
ledger holds the worst case, and a crash charges that.

A prompt of the guest stays bytes until its call may begin. What grows with it (its text, its digest, the bound on its
tokens) is made only then, off the event loop: of a batch, only as many prompts are texts as may run side by side.

Few calls of a run are on their way to their model at a time (`_ENTERING_MAX`), from their text to the commit of their
reservation. A hundred that set out at once would be looked at one by one before the first is sent, be committed and
sent together, and come back together, for ever after: each would wait for all of them. So they are sent one after the
other, and while some wait for their answer, others are written. One that has to wait for room gives its place up.

Each attempt at the provider is one such sequence with its own action id, so a retry cannot hide a spend. Whatever
happens in between (an error, a cancellation), the reservation ends exactly once: a call that may have reached the
provider and reported no usage is charged in full.

Where the policy lets a query have the answer of an equal one (`reuse`), it is one record and no call: nothing is
reserved, and it costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import NamedTuple, TypeGuard

import msgspec

from belljar.audit import AuditLog
from belljar.audit.events import Event, QueryCompleted, QueryDenied, QueryFailed, QueryRequested, QueryReused
from belljar.broker.admission import Admission, Logged, longest_input
from belljar.broker.canaries import Canaries
from belljar.broker.denials import Denials, quota_of
from belljar.broker.keeping import Keeper, Kept, together
from belljar.broker.reuse import Equal, Known, Reuse, Source
from belljar.broker.run import RunScope
from belljar.errors import HostFault, LedgerUnavailable, ModelFailed, PolicyDenied, QuotaExceeded, Refusal
from belljar.heavy import off_loop, text_of
from belljar.journal import Job
from belljar.ledger import AMOUNT_MAX, NOTHING, Amounts, Ledger, Limits, Remaining, beyond, plus
from belljar.models import (
    TOKENS_MAX,
    Counted,
    HostTool,
    Message,
    Model,
    ModelReply,
    ModelRequest,
    Prices,
    Usage,
    input_tokens_bound,
    texts_digest,
)
from belljar.policy import Spending
from belljar.tasks import to_the_end

__all__ = ["Calls", "Spent"]

# A model keeps its deadline itself, and can then report what it used; one that does not is given up this much later.
_DEADLINE_SPARE_S = 1.0
# How long it then has to close what it has open.
_CANCEL_S = 1.0
# A provider that reports fewer tokens than a twentieth of the bytes has not read them all, or cannot count.
_BYTES_PER_TOKEN_MAX = 20
# What a turn may add to the root's conversation: some 20,000 characters of output, as many of traceback, and our own
# words.
_TURN_TOKENS = 48 * 1024
# At most this share of what the run may spend in all is kept for the root; if that is less than it needs, the root gets
# a shorter answer.
_KEPT_SHARE_MAX = 1 / 4
# A prompt that is shorter than that is of no use.
_FITS_CHARS_MIN = 100
# With fewer, transactions are smaller and each takes more CPU time; with more, a batch takes longer.
_ENTERING_MAX = 10
_BACKOFF_S = 0.5
_BACKOFF_S_MAX = 30.0
# Ten years: beyond any policy's deadline.
_ASKED_S_MAX = 3.2e8
# Calls that failed together are not to come back together: a pause is up to half as long again.
_JITTER_SHARE = 0.5
_RANDOM = random.SystemRandom()
# An attempt that waited for room until the call's time was over still gets this long.
_ATTEMPT_S_MIN = 1.0


class Spent(msgspec.Struct):
    """What a run's calls have used so far. `assumed_nanousd` is the part of the cost that no provider has reported."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nanousd: int = 0
    assumed_nanousd: int = 0

    def include(self, other: Spent) -> None:
        """Add what a child run has spent."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def add(self, amounts: Amounts, *, assumed: bool) -> None:
        self.assumed_nanousd += amounts.cost_nanousd if assumed else 0
        self.calls += amounts.calls
        self.input_tokens += amounts.input_tokens
        self.output_tokens += amounts.output_tokens
        self.cost_nanousd += amounts.cost_nanousd


class _Question(msgspec.Struct, frozen=True):
    """A request, and what is known of its texts: their digest, their bytes, how many tokens they have at most, and what
    is kept of them."""

    request: ModelRequest
    prompt_sha256: str
    prompt_bytes: int
    input_tokens: int
    kept: Kept

    def but(self, *, deadline_s: float | None = None, output_tokens_max: int | None = None) -> _Question:
        old = self.request
        request = msgspec.structs.replace(
            old,
            deadline_s=old.deadline_s if deadline_s is None else deadline_s,
            output_tokens_max=old.output_tokens_max if output_tokens_max is None else output_tokens_max,
        )
        return msgspec.structs.replace(self, request=request)


class _Asking:
    """What the log says of one attempt, which may be sent as it was wished for, or for a shorter answer.

    The log says what is sent. So what was wished for is then an action that was denied, and another one follows.
    """

    def __init__(self, calls: Calls, question: _Question, cell: int, attempt: int, model: str) -> None:
        self._calls = calls
        self._question = question
        self._about = (cell, attempt, model)
        self._wished = question.request.output_tokens_max
        self.action = calls.next_action()
        # The one that was last meant to be sent.
        self.sent = self.action
        self._shorter: str | None = None

    def requested(self) -> QueryRequested:
        return self._requested(self.action, self._wished)

    def records(self, output_tokens_max: int) -> Logged:
        """What is written if it is admitted with an answer of so many tokens at most."""
        before: list[Event] = []
        self.sent = self.action
        if output_tokens_max != self._wished:
            self.sent = self._shorter = self._shorter or self._calls.next_action()
            if not self._calls.denials.has_many("query"):
                shortened = QueryDenied(
                    action=self.action, code="query.shortened", limit=output_tokens_max, observed=self._wished
                )
                before = [self.requested(), shortened]
        requested = self._requested(self.sent, output_tokens_max)
        asked = self._calls.entry(*before, requested).then(self._question.kept.job)
        return Logged(asked, partial(self._cancelled, self.sent))

    def _cancelled(self, action: str) -> Job[object]:
        return self._calls.entry(QueryDenied(action=action, code="cancelled"))

    def _requested(self, action: str, output_tokens_max: int) -> QueryRequested:
        cell, attempt, model = self._about
        question = self._question
        return QueryRequested(
            action=action,
            cell=cell,
            attempt=attempt,
            model=model,
            purpose=question.request.purpose,
            prompt_sha256=question.prompt_sha256,
            prompt_bytes=question.prompt_bytes,
            output_tokens_max=output_tokens_max,
            content=question.kept.name,
        )


class _Window:
    """The time that all attempts of one call have together. It begins when the first is sent, and its way ends then.

    After `useful_until` nobody has any use for an answer: the window is over, or what `deadline` is of.
    """

    def __init__(self, scope: RunScope, deadline: float) -> None:
        self._scope = scope
        self._until = math.inf
        self._deadline = deadline
        self._entrance: asyncio.Semaphore | None = None

    @contextlib.asynccontextmanager
    async def entering(self, entrance: asyncio.Semaphore) -> AsyncIterator[None]:
        """Wait for a place there, and have it until `entered`, or to the end of a block."""
        await entrance.acquire()
        self._entrance = entrance
        try:
            yield
        finally:
            self.entered()

    def entered(self) -> None:
        """From here on it waits for something that the next calls need not wait for."""
        if self._entrance is not None:
            self._entrance.release()
            self._entrance = None

    def begin(self) -> None:
        self.entered()
        self._until = min(self._until, self._scope.monotonic() + self._scope.policy.models.call_wall_s)

    def left_s(self) -> float:
        return self._until - self._scope.monotonic()

    @property
    def useful_until(self) -> float:
        return min(self._until, self._deadline)


class Calls:
    """The metered way to a model, for one run: the engine's root calls and the guest's queries alike."""

    def __init__(
        self, scope: RunScope, *, audit: AuditLog, ledger: Ledger, prices: Prices, reuse: Reuse | None = None
    ) -> None:
        self._scope = scope
        self._reuse = reuse or Reuse()
        self._audit = audit
        self._ledger = ledger
        self._prices = prices
        self._admission = Admission(scope, ledger, check=self._refuse_after_fault)
        self._counted: tuple[Model, Counted] | None = None
        self._kept = NOTHING
        self._slots = asyncio.Semaphore(scope.policy.models.parallel_max)
        self._entrance = asyncio.Semaphore(_ENTERING_MAX)
        # Only one prompt of a run at a time queues for the thread that all runs share.
        self._preparing = asyncio.Lock()
        self._actions = 0
        self._ends: set[asyncio.Task[None]] = set()
        self._loose_ends = False
        # How many callers wait for those ends.
        self._awaited = 0
        self._fault: HostFault | None = None
        self.denials = Denials(scope.run, audit)
        self.canaries = Canaries(scope, audit)
        # What the run and all below it may spend. A child's is its slice, known once it is open.
        self.limits: Spending | Limits = scope.policy.quota.run
        self.spent = Spent()
        # What its children spent, and theirs.
        self.below = Spent()
        # What calls cost beyond what was held for them.
        self.overage = NOTHING

    async def ask(
        self,
        model: Model,
        request: ModelRequest,
        *,
        cell: int,
        prompt: bytes | memoryview | None = None,
        deadline: float | None = None,
        reused: Callable[[], None] | None = None,
    ) -> ModelReply:
        """Ask, with as many attempts as the policy allows, all of them within `models.call_wall`.

        Args:
            cell: the number of the cell that asks, or of the last one so far where the root model is asked.
            prompt: the last message, in UTF-8, besides those of the request; None if it has all.
            deadline: no call waits for a new period beyond it; on the run's monotonic clock.
            reused: called if the answer is that of an equal query, which it may be only where this is given and the
                policy allows it.

        Raises:
            QuotaExceeded: it would spend more than is left.
            PolicyDenied: `limits.run_wall`: the run's time ran out before there was an answer.
            ModelFailed: no attempt gave an answer.
            HostFault: the model object raised what no model may raise.
        """
        reply = await self._ask(model, request, cell, prompt, deadline, reused)
        await self.canaries.look("reply", [reply.text], cell)
        return reply

    async def _ask(
        self,
        model: Model,
        request: ModelRequest,
        cell: int,
        prompt: bytes | memoryview | None,
        deadline: float | None,
        reused: Callable[[], None] | None,
    ) -> ModelReply:
        window = _Window(self._scope, math.inf if deadline is None else deadline)
        async with self._slots, window.entering(self._entrance):
            size = sum(len(message.text) for message in request.messages) + len(prompt or b"")
            async with self._preparing:
                counted = self._counted[1] if self._counted is not None and self._counted[0] is model else None
                whose = msgspec.structs.replace(request, run=str(self._scope.run))
                question = await off_loop(size, _question, whose, prompt, counted, self._scope.keeper)
            if reused is None or not self._scope.policy.models.reuses:
                return (await self._call(model, question, cell, window)).reply
            return await self._once(model, question, cell, window, reused)

    async def _once(
        self, model: Model, question: _Question, cell: int, window: _Window, reused: Callable[[], None]
    ) -> ModelReply:
        """The answer, of a call or of an equal query."""
        window.entered()  # it may have to wait for an equal one
        request = question.request
        equal = Equal(self._scope.tenant, id(model), request.system, request.output_tokens_max, question.prompt_sha256)
        until = min(self._scope.monotonic() + self._scope.policy.models.call_wall_s, window.useful_until)
        wait_s = min(until - self._scope.monotonic(), self._scope.left_s())
        known, source = await self._reuse.answer(
            equal, self._scope.policy, wait_s, lambda: self._call(model, question, cell, window)
        )
        if source is not None:
            self._refuse_after_fault()
            answered = await off_loop(len(known.reply.text), _answered, known.reply, self._scope.keeper)
            record = self._reused(known, source, answered, model, question, cell)
            kept = together(question.kept, answered.kept)
            await to_the_end(self._audit.append(self._scope.run, record, beside=kept))
            question.kept.stored()
            reused()
        return known.reply

    def _reused(
        self, known: Known, source: Source, answered: _Answered, model: Model, question: _Question, cell: int
    ) -> QueryReused:
        return QueryReused(
            action=self.next_action(),
            cell=cell,
            model=model.name,
            prompt_sha256=question.prompt_sha256,
            prompt_bytes=question.prompt_bytes,
            output_tokens_max=question.request.output_tokens_max,
            source=source,
            origin=known.action,
            reply_sha256=answered.reply_sha256,
            reply_bytes=answered.reply_bytes,
            answered_by=answered.answered_by,
            stop_reason=answered.stop_reason,
            content=question.kept.name,
            reply=answered.kept.name,
        )

    async def _call(self, model: Model, question: _Question, cell: int, window: _Window) -> Known:
        """The answer of the first attempt that gives one. Raises as `ask`."""
        # A tool may have done something: that is not done again.
        attempts = 1 if question.request.purpose == "tool" else self._scope.policy.models.attempts_max
        for attempt in range(1, attempts + 1):
            try:
                timed = await self._in_time(question, cell, window)
                known = await self._attempt(model, timed, cell, attempt, window)
                if question.request.purpose == "root":
                    self._keep_for(model, question, known.reply)
                return known
            except ModelFailed as failure:
                if self._scope.left_s() <= 0:  # the call was cut short by the run's own deadline
                    raise self._scope.time_up() from failure
                pause_s = _pause_s(failure, attempt)
                last = attempt == attempts
                if last or not failure.retryable or pause_s >= min(self._scope.left_s(), window.left_s()):
                    raise
            await asyncio.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    def next_action(self) -> str:
        """The id that a *requested* record and its outcome share."""
        self._actions += 1
        return f"{self._scope.run}.{self._actions}"

    def entry(self, *events: Event) -> Job[object]:
        """The writing of records of this run."""
        return self._audit.entry(self._scope.run, *events)

    async def _in_time(self, question: _Question, cell: int, window: _Window) -> _Question:
        try:
            return self._timed(question, window)
        except PolicyDenied as late:
            await self.denials.log("query", late, cell)
            raise

    def _timed(self, question: _Question, window: _Window) -> _Question:
        left_s = self._scope.left_s()
        if left_s <= 0:
            raise self._scope.time_up()
        wall_s = self._scope.policy.models.call_wall_s
        return question.but(deadline_s=min(wall_s, left_s, max(window.left_s(), _ATTEMPT_S_MIN)))

    @property
    def spent_in_tree(self) -> Spent:
        """With what its children spent that have ended."""
        spent = Spent()
        spent.include(self.spent)
        spent.include(self.below)
        return spent

    @property
    def kept(self) -> Amounts:
        """What is kept back for the root model's next turn."""
        return self._kept

    async def left(self, *, wait_s: float | None = None) -> Remaining:
        """What the program may still spend, once all that has ended is settled, without what is kept for the root.

        With `wait_s`, limits of a period that is over in so many seconds do not count.
        """
        await self.settled()
        now = self._scope.now()
        until = None if wait_s is None else now + wait_s
        left = await self._ledger.remaining(self._scope.run, now=now, for_program=True, until=until)
        kept = {name: getattr(self._kept, name) for name in Remaining.__struct_fields__}
        return Remaining(
            **{name: None if (room := getattr(left, name)) is None else max(0, room - kept[name]) for name in kept}
        )

    def _keep_for(self, model: Model, question: _Question, reply: ModelReply) -> None:
        """Note what the root's request used, and keep back the worst case of the next one."""
        told = reply.usage.total_input_tokens
        trusted = told * _BYTES_PER_TOKEN_MAX >= question.prompt_bytes
        self._counted = (model, Counted(question.request, told)) if trusted else None
        inputs = (told if trusted else question.input_tokens) + reply.usage.output_tokens + _TURN_TOKENS
        worst = self._bound(model, inputs, question.request.output_tokens_max)

        def share(amount: int, limit: int | None) -> int:
            return amount if limit is None else min(amount, int(limit * _KEPT_SHARE_MAX))

        self._kept = Amounts(
            calls=1,
            input_tokens=share(worst.input_tokens, self.limits.input_tokens),
            output_tokens=share(worst.output_tokens, self.limits.output_tokens),
            cost_nanousd=share(worst.cost_nanousd, self.limits.cost_nanousd),
        )

    async def settled(self) -> None:
        """Return when every call that has ended is in the ledger and in the log.

        Raises:
            HostFault: one could not be written.
        """
        if self._loose_ends:
            self._awaited += 1  # ends yet to be queued do not linger ...
            try:
                with contextlib.suppress(LedgerUnavailable):
                    await self._ledger.remaining(self._scope.run, now=self._scope.now())  # ... nor do those queued
                while self._ends:
                    await asyncio.wait(self._ends)
            finally:
                self._awaited -= 1
            await self._audit.flush()
            self._loose_ends = False
        self._refuse_after_fault()

    async def _attempt(self, model: Model, question: _Question, cell: int, attempt: int, window: _Window) -> Known:
        self._refuse_after_fault()
        reservation, held, sent, action = await self._admit(model, question, cell, attempt, window)
        try:
            sent = self._timed(sent, window)  # again: it may have waited
        except PolicyDenied as late:
            self.denials.add("query", late)
            await to_the_end(self._ledger.release(reservation, beside=self.entry(_denied(action, late))))
            raise
        window.begin()
        return Known(await self._send(model, sent.request, action, reservation, held), action, model)

    async def _admit(
        self, model: Model, question: _Question, cell: int, attempt: int, window: _Window
    ) -> tuple[str, Amounts, _Question, str]:
        """Hold the worst case and log the request, in one transaction; where the whole answer does not fit, of as long
        an answer as does.

        Returns:
            The reservation, what it holds, what is to be sent, and the action's id.

        Raises:
            Refusal: there is no room. The log has the first ones: a program that is refused over and over is not to
                fill it.
        """
        asking = _Asking(self, question, cell, attempt, model.name)
        try:
            reservation, held, tokens = await self._admission.hold(
                lambda tokens: self._bound(model, question.input_tokens, tokens),
                question.request.output_tokens_max,
                kept=NOTHING if question.request.purpose == "root" else self._kept,
                records=asking.records,
                deadline=window.useful_until,
                waits=window.entered,
            )
        except Refusal as refusal:
            said: Refusal = refusal
            if not self.denials.has_many("query"):
                said = await self._saying_what_fits(refusal, model, question)
                denied = _denied(asking.action, refusal)
                kept = question.kept.job
                await to_the_end(self._audit.append(self._scope.run, asking.requested(), denied, beside=kept))
                question.kept.stored()
            self.denials.add("query", refusal)
            raise said from None
        question.kept.stored()
        return reservation, held, question.but(output_tokens_max=tokens), asking.sent

    async def _saying_what_fits(self, refusal: Refusal, model: Model, question: _Question) -> Refusal:
        """The refusal; where only a program's prompt was too long, with the length of one that is not."""
        request = question.request
        if request.purpose != "sub" or not isinstance(refusal, QuotaExceeded):
            return refusal
        # What others have used is not for the program to know, nor what follows from it.
        if refusal.dimension not in ("cost_nanousd", "input_tokens") or refusal.told is not None:
            return refusal
        tokens = longest_input(partial(self._bound, model), question.input_tokens, await self.left())
        chars = tokens - question.input_tokens + len(request.messages[-1].text)
        if chars < _FITS_CHARS_MIN:
            return refusal
        return refusal.adding(f"a prompt of at most {chars:,} characters fits, fewer where they are not ASCII")

    async def _send(
        self, model: Model, request: ModelRequest, action: str, reservation: str, held: Amounts
    ) -> ModelReply:
        charge, assumed = held, True
        outcome: _Answered | str = "interrupted before the model answered"
        try:
            reply = _checked(await _complete(model, request))
            charge, assumed = _within_ledger(self._amounts(model, reply.usage)), False
            outcome = await off_loop(len(reply.text), _answered, reply, self._scope.keeper)
            return reply
        except ModelFailed as failure:
            charge = self._failed(model, failure, held)
            assumed = charge is held and not isinstance(model, HostTool)
            outcome = str(failure)[:1000]
            raise
        except BaseException as defect:  # of a model object: nobody else is to blame, the program least of all
            if isinstance(defect, KeyboardInterrupt | SystemExit) or _is_cancelled(defect):
                raise
            outcome = f"the model object raised {type(defect).__name__}"
            raise HostFault(
                f"the model {model.name} raised {type(defect).__name__}, which a model must never do: fix the model"
            ) from defect
        finally:
            # The answer need not wait for the disk: until this is written, the ledger holds the worst case.
            self.spent.add(charge, assumed=assumed)
            self.overage = plus(self.overage, beyond(charge, held))
            self._loose_ends = True
            end = self._scope.tasks.start(self._end_failed, self._end, action, reservation, charge, outcome)
            self._ends.add(end)
            end.add_done_callback(self._ended)

    async def _end(self, action: str, reservation: str, charge: Amounts, outcome: _Answered | str) -> None:
        """`outcome` is the answer, or why there is none."""
        try:
            entry = self.entry(_outcome(action, charge, outcome))
            if isinstance(outcome, _Answered):
                entry = entry.then(outcome.kept.job)
        except Exception as defect:  # the log cannot hold it; an action without an end would spoil the whole log
            error = f"its outcome could not be logged: {type(defect).__name__}"
            await self._ledger.settle(reservation, charge, beside=self.entry(_outcome(action, charge, error)))
            raise
        try:
            await self._ledger.settle(reservation, charge, lazy=not self._awaited, beside=entry)
        except HostFault:
            raise
        except BaseException:  # by a mistake of ours, or cancelled: it may have taken effect
            self._ledger.settle_once(reservation, charge, beside=entry)
            raise

    def _ended(self, end: asyncio.Task[None]) -> None:
        self._ends.discard(end)
        if end.cancelled():
            self._end_failed(asyncio.CancelledError())

    def _end_failed(self, error: BaseException) -> None:
        """An end that failed fails the run: nobody else waits for it."""
        if not isinstance(error, HostFault):
            name = type(error).__name__
            error = HostFault(f"a call could not be settled because of an unexpected {name}: report it")
        self._fault = self._fault or error

    def _refuse_after_fault(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _bound(self, model: Model, inputs: int, outputs: int) -> Amounts:
        if isinstance(model, HostTool):
            return Amounts(calls=1, cost_nanousd=model.cost_nanousd, calls_in_flight=1)
        hour = getattr(model, "cache_ttl", None) == "1h"
        cost = self._prices.bound(model.name, inputs, outputs, hour=hour)
        return Amounts(calls=1, input_tokens=inputs, output_tokens=outputs, cost_nanousd=cost, calls_in_flight=1)

    def _amounts(self, model: Model, usage: Usage) -> Amounts:
        if isinstance(model, HostTool):
            return Amounts(calls=1, cost_nanousd=model.cost_nanousd)
        return Amounts(
            calls=1,
            input_tokens=usage.total_input_tokens,
            output_tokens=usage.output_tokens,
            cost_nanousd=self._prices.cost(model.name, usage),
        )

    def _failed(self, model: Model, failure: ModelFailed, held: Amounts) -> Amounts:
        if failure.charged is False:  # any other value is not the certainty that this needs
            return Amounts(calls=1)
        usage = _usage_of(failure)
        if usage is None:
            return held
        told = self._amounts(model, usage)
        return told if told.cost_nanousd <= AMOUNT_MAX else held


async def _complete(model: Model, request: ModelRequest) -> ModelReply:
    """In a task of its own: one that cannot be cancelled is left behind, and nothing of it counts.

    So it is not in the run's nursery, which would wait for it and hold up the run's end.
    """
    asking = asyncio.create_task(_reply_or_exit(model, request))
    # Also where its failure comes in the very moment in which we are cancelled.
    asking.add_done_callback(lambda late: late.cancelled() or late.exception())
    try:
        await asyncio.wait([asking], timeout=request.deadline_s + _DEADLINE_SPARE_S)
        if not asking.done():
            raise ModelFailed(
                f"{model.name} did not answer within {request.deadline_s:g} s: try again, or allow it more time"
            )
        if isinstance(said := asking.result(), BaseException):
            raise said
        return said
    finally:
        if not asking.done():
            asking.cancel()
            await to_the_end(asyncio.wait([asking], timeout=_CANCEL_S))


async def _reply_or_exit(model: Model, request: ModelRequest) -> ModelReply | KeyboardInterrupt | SystemExit:
    """Raised in a task, these two would stop the event loop on the spot, with nothing closed."""
    try:
        return await model.complete(request)
    except (KeyboardInterrupt, SystemExit) as wish:
        return wish


def _checked(reply: ModelReply) -> ModelReply:
    """What a model object returned, which can be anything.

    Raises:
        TypeError, AttributeError: it is not a reply.
    """
    usage, texts = reply.usage, (reply.text, reply.model, reply.stop_reason)
    counts = msgspec.structs.astuple(usage)
    if not (all(isinstance(text, str) for text in texts) and all(map(_is_count, counts))):
        raise TypeError("a reply whose texts or token counts are something else")
    return ModelReply(reply.text, usage, reply.model, reply.stop_reason)


def _usage_of(failure: ModelFailed) -> Usage | None:
    """What a failed call used, as its model reported it; None if that is unknown or makes no sense."""
    inputs, outputs = failure.input_tokens, failure.output_tokens
    read, written, hour = failure.cache_read_tokens, failure.cache_write_tokens, failure.cache_write_1h_tokens
    if not (_is_count(inputs) and _is_count(outputs) and all(map(_is_count, (read, written, hour)))):
        return None
    if read + written > inputs or hour > written:
        return None
    return Usage(inputs - read - written, outputs, read, written, hour)


def _pause_s(failure: ModelFailed, attempt: int) -> float:
    """Seconds until the next attempt: never sooner than the provider asks for, where what it says is a time."""
    asked: object = failure.retry_after_s
    if isinstance(asked, int | float) and 0 <= asked < math.inf:
        pause_s = float(min(asked, _ASKED_S_MAX))
    else:
        pause_s = min(_BACKOFF_S * 2 ** (attempt - 1), _BACKOFF_S_MAX)
    return pause_s * (1 + _RANDOM.random() * _JITTER_SHARE)


def _is_count(tokens: object) -> TypeGuard[int]:
    """Whether it is a count that the ledger can hold."""
    return type(tokens) is int and 0 <= tokens <= TOKENS_MAX


def _within_ledger(amounts: Amounts) -> Amounts:
    """What one call cost, which the ledger must be able to hold.

    Raises:
        TypeError: nothing costs that much, so the usage cannot be right.
    """
    if amounts.cost_nanousd > AMOUNT_MAX:
        raise TypeError("a usage that costs more than the ledger can hold")
    return amounts


def _is_cancelled(error: BaseException) -> bool:
    """Whether it came from outside: a model object may raise the same if something of its own was cancelled."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _denied(action: str, error: BaseException) -> QueryDenied:
    """How a refusal is logged; a cancellation is not one, and is named as such."""
    if isinstance(error, Refusal):
        met = quota_of(error)
        return QueryDenied(action=action, code=error.code, limit=error.limit, observed=error.observed, **met)
    other = "cancelled" if isinstance(error, asyncio.CancelledError) else type(error).__name__
    return QueryDenied(action=action, code=other)


def _question(
    request: ModelRequest, prompt: bytes | memoryview | None, counted: Counted | None, keeper: Keeper
) -> _Question:
    if prompt is not None:
        last = Message("user", text_of(prompt))
        request = msgspec.structs.replace(request, messages=(*request.messages, last))
    digest, size = texts_digest(request.system, *(message.text for message in request.messages))
    tokens = 0 if request.purpose == "tool" else input_tokens_bound(request, counted)
    return _Question(request, digest, size, tokens, keeper.prompt(request))


class _Answered(NamedTuple):
    """What the log keeps of a reply."""

    reply_sha256: str
    reply_bytes: int
    answered_by: str
    stop_reason: str
    usage: Usage
    kept: Kept


def _answered(reply: ModelReply, keeper: Keeper) -> _Answered:
    digest, size = texts_digest(reply.text)
    kept = keeper.text("replies", reply.text)
    return _Answered(digest, size, reply.model[:200], reply.stop_reason[:200], reply.usage, kept)


def _outcome(action: str, charge: Amounts, outcome: _Answered | str) -> QueryCompleted | QueryFailed:
    spent = {
        "calls": charge.calls,
        "input_tokens": charge.input_tokens,
        "output_tokens": charge.output_tokens,
        "cost_nanousd": charge.cost_nanousd,
    }
    if isinstance(outcome, str):
        return QueryFailed(action=action, error=outcome, **spent)
    reply = outcome
    return QueryCompleted(
        action=action,
        reply_sha256=reply.reply_sha256,
        reply_bytes=reply.reply_bytes,
        answered_by=reply.answered_by,
        stop_reason=reply.stop_reason,
        cache_read_tokens=reply.usage.cache_read_tokens,
        cache_write_tokens=reply.usage.cache_write_tokens,
        cache_write_1h_tokens=reply.usage.cache_write_1h_tokens,
        content=reply.kept.name,
        **spent,
    )
