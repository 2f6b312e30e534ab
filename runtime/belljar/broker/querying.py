"""A program's queries: batches of prompts, each answered or failed in its place.

Kept here: how many prompts were asked, and host tools called. A batch is permitted as a whole before any of it is split
or sent; then as many of its prompts are under way as the policy lets run side by side, each a call of its own
(`calls`). A batch never holds more answers than fit into one reply, and ends a little before its cell does, so that the
program can keep what there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Final as Const

import msgspec

from belljar.broker.calls import Calls
from belljar.broker.canaries import ends_run
from belljar.broker.cell import Cell
from belljar.broker.failures import BRIEF_CHARS, failure_of, listing
from belljar.broker.flood import REFUSED_CALL_COST_BYTES, REUSED_COST_BYTES, Flood
from belljar.broker.run import RunScope
from belljar.broker.screening import Screening, permit_depth
from belljar.broker.shown import Shown
from belljar.errors import ModelFailed, PolicyDenied, ProtocolViolation, QuotaExceeded, Refusal
from belljar.heavy import bytes_of, is_utf8, off_loop, text_of
from belljar.ledger import Ledger
from belljar.models import HostTool, Model, ModelReply, ModelRequest
from belljar.protocol import BATCH_MAX, Answer, Answers, Failure, Query

__all__ = ["Outcome", "Querying", "Text", "first_of", "late", "too_much"]


class Text(msgspec.Struct, frozen=True):
    """What came back, in UTF-8; `cut` if the model was stopped before its end, `json` if it is a JSON value."""

    data: bytes
    cut: bool = False
    json: bool = False


Outcome = Text | Failure

_SUB_SYSTEM: Const = (
    "You are given one self-contained piece of a larger task. Answer exactly what is asked, in the format asked for, "
    "from the text given here alone."
)
# Splitting off a prompt costs as much as this many of its bytes, however short it is.
_PROMPT_COST_BYTES: Const = 128
# What an answer takes in the reply's header, `{"length":4294967295,"cut":true},`, and the header without answers.
_ITEM_BYTES: Const = 40
_ITEMS_BYTES: Const = 64
# Room in that header for failures, if the policy's header has as much again.
_FAILURES_BYTES: Const = 4096
# A batch with an answer ends this long before its cell does, so that the program can keep the answers.
_CELL_SPARE_S: Const = 1.0
_CELL_SPARE_SHARE: Const = 1 / 10
# Nearly every prompt that is not blank shows it within this many bytes.
_HEAD_BYTES: Const = 256


class Querying:
    """One run's queries. `count` is how many prompts were asked, and host tools called."""

    def __init__(
        self,
        scope: RunScope,
        *,
        calls: Calls,
        ledger: Ledger,
        sub_model: Model | None,
        shown: Shown,
        flood: Flood,
        tools: Mapping[str, HostTool],
    ) -> None:
        self._scope = scope
        self._policy = scope.policy
        self._calls = calls
        self._ledger = ledger
        self._sub_model = sub_model
        self._tools = tools
        self._shown = shown
        self._flood = flood
        self._screening = Screening(scope.policy.models, shown)
        self.count = 0

    @property
    def batch_max(self) -> int:
        """The largest batch whose answers are sure to fit the wire, if the policy allows it."""
        header = self._policy.wire.header_bytes_max
        fits = (header - _ITEMS_BYTES - min(_FAILURES_BYTES, header // 2)) // _ITEM_BYTES
        return min(self._policy.models.batch_max, BATCH_MAX, fits)

    async def query(self, query: Query, body: bytes, cell: Cell) -> tuple[Answers, bytes]:
        """Answer a query of this cell, or a call of a host tool."""
        self.permit_batch(len(query.lengths))
        prompts = await self.split(query.lengths, body)
        if query.model is not None and (tool := self._tools.get(query.model)) is not None:
            return self.answers(query.id, [await self._call(tool, prompts, cell)])
        return self.answers(query.id, await self.ask(query.model, prompts, cell))

    async def _call(self, tool: HostTool, prompts: Sequence[memoryview], cell: Cell) -> Outcome:
        if len(prompts) != 1:
            raise ProtocolViolation("a tool is called once at a time")
        await off_loop(len(prompts[0]), _permit_prompts, prompts, self._policy.models.prompt_bytes_max)
        await self._calls.canaries.look("prompt", prompts, cell.number)
        self.count += 1
        request = ModelRequest("", (), 0, self._policy.models.call_wall_s, "tool")
        try:
            reply = await self._calls.ask(tool, request, cell=cell.number, prompt=prompts[0], deadline=cell.deadline)
        except ModelFailed as failure:
            return Failure("ModelError", "tool.failed", failure_of(failure).message, None, None)
        return Text(await off_loop(len(reply.text), bytes_of, reply.text), json=True)

    async def split(self, lengths: Sequence[int], body: bytes) -> list[memoryview]:
        """The texts in a body, without a copy.

        Raises:
            ProtocolViolation: the lengths do not add up to it, or a text is not UTF-8.
        """
        return await off_loop(len(body) + _PROMPT_COST_BYTES * len(lengths), _split, lengths, body)

    async def ask(self, wish: str | None, prompts: Sequence[memoryview], cell: Cell) -> list[Outcome]:
        """Each prompt's outcome in its place, or a refusal of them all."""
        model = self.permit_model(wish)
        permit_depth(self._policy, model.name, self._scope.run.depth + 1)
        await self.permit_prompts(prompts, cell)
        if len(prompts) > 1:
            await self._permit_calls(len(prompts), cell)
        self.count += len(prompts)
        return await self._ask_all(model, prompts, cell)

    async def _ask_all(self, model: Model, prompts: Sequence[memoryview], cell: Cell) -> list[Outcome]:
        """Each prompt's outcome in its place. As many are under way as the policy lets run side by side.

        An answer that does not fit the reply is dropped at once, so that a batch never holds more than one reply.
        Shortly before the cell's time is up, unanswered prompts are given up, for the sake of the answers.
        """
        left = iter(enumerate(prompts))
        results: list[Outcome | None] = [None] * len(prompts)

        room = longest = self._policy.wire.body_bytes_max

        async def work() -> None:
            nonlocal room
            for place, prompt in left:
                result = await self._ask(model, prompt, cell)
                size = len(result.data) if isinstance(result, Text) else 0
                if size > room:
                    result, size = too_much(longest, size), 0
                room -= size
                results[place] = result

        def give_up() -> None:
            if any(isinstance(result, Text) for result in results):
                for worker in workers:
                    worker.cancel()

        if len(prompts) == 1:
            await work()
        else:
            alarm = asyncio.get_running_loop().call_later(self._batch_s(cell), give_up)
            try:
                async with asyncio.TaskGroup() as group:
                    workers = [
                        group.create_task(work()) for _ in range(min(len(prompts), self._policy.models.parallel_max))
                    ]
            except BaseExceptionGroup as faults:
                raise first_of(faults) from None
            finally:
                alarm.cancel()
        return [late() if result is None else result for result in results]

    def _batch_s(self, cell: Cell) -> float:
        """How long a batch may take and still leave the cell some time."""
        whole_s = cell.deadline - cell.began
        return cell.deadline - self._scope.monotonic() - min(_CELL_SPARE_S, whole_s * _CELL_SPARE_SHARE)

    def permit_batch(self, prompts: int) -> None:
        """Checked before the batch is split: a refusal must cost us little."""
        if prompts > self.batch_max:
            raise PolicyDenied(
                f"a batch of {prompts} prompts is over the policy's limit of {self.batch_max}: split it",
                code="models.batch",
                limit=self.batch_max,
                observed=prompts,
            )

    async def permit_prompts(self, prompts: Sequence[memoryview], cell: Cell) -> None:
        """Check a whole batch before any of it is sent: a prompt that is refused must not cost the other answers.

        Raises PolicyDenied.
        """
        await off_loop(sum(map(len, prompts)), _permit_prompts, prompts, self._policy.models.prompt_bytes_max)
        await self._calls.canaries.look("prompt", prompts, cell.number)
        await self._screening.permit(prompts)

    def permit_model(self, wish: str | None) -> Model:
        """The model that answers. Raises PolicyDenied if there is none, or the wish is for another."""
        if self._sub_model is None:
            raise PolicyDenied(
                "this run has no model to ask: start it with a sub-model, or do without llm_query", code="model.none"
            )
        # The guest's `model` is only a wish: it may name the run's own sub-model, or nothing.
        if wish is not None and wish != self._sub_model.name:
            raise PolicyDenied(
                f"this run's queries go to {self._sub_model.name}: leave `model` out", code="model.denied"
            )
        return self._sub_model

    async def _permit_calls(self, calls: int, cell: Cell) -> None:
        """A batch that cannot be finished is refused before its first call, not after its last affordable one.

        Periods for whose end its calls may wait do not count: each gives as many calls again.
        """
        wait_s = min(self._policy.quota.wait_s, cell.deadline - self._scope.monotonic())
        left = (await self._calls.left(wait_s=wait_s)).calls
        if left is not None and calls > left:
            raise QuotaExceeded(
                f"{calls} calls are asked for, but only {left} are left: ask fewer or larger questions",
                code="quota.run.calls" if await self._is_run_short_of(calls) else "quota.tenant.calls",
                limit=left,
                observed=calls,
            )

    async def log_refused_child(self, refusal: QuotaExceeded, cell: Cell) -> None:
        """Count a child run that a quota did not let start, and log whose it was."""
        await self._calls.denials.log("recurse", refusal, cell.number)

    async def _is_run_short_of(self, calls: int) -> bool:
        """Whether the run's own quota, or its slice, has no room for this many, whatever its tenant's has."""
        left = (await self._ledger.remaining(self._scope.run, now=self._scope.now(), own=True)).calls
        return left is not None and calls + self._calls.kept.calls > left

    async def _ask(self, model: Model, prompt: memoryview, cell: Cell) -> Outcome:
        request = ModelRequest(
            system=_SUB_SYSTEM,
            messages=(),
            output_tokens_max=self._policy.models.output_tokens_max,
            deadline_s=self._policy.models.call_wall_s,
            purpose="sub",
        )
        try:
            reply = await self._calls.ask(
                model, request, cell=cell.number, prompt=prompt, deadline=cell.deadline, reused=self._reused
            )
        except Refusal as refusal:
            if ends_run(refusal):
                raise
            self._flood.charge_refused(len(prompt), least=REFUSED_CALL_COST_BYTES)
            return failure_of(refusal)
        except ModelFailed as failure:
            return failure_of(failure)
        # An answered prompt was shown; nobody knows about any other.
        await self._shown.prompt(cell.number, prompt)
        return await off_loop(len(reply.text), _outcome_of, reply)

    def _reused(self) -> None:
        """A query that costs no quota is charged as a frame. Raises Refusal: `limits.output_flood`."""
        self._flood.charge(REUSED_COST_BYTES)

    def answers(self, request: int, results: Sequence[Outcome]) -> tuple[Answers, bytes]:
        """The reply with these outcomes, which together fit one body."""
        parts = [result.data if isinstance(result, Text) else b"" for result in results]
        failures = [result for result in results if isinstance(result, Failure)]
        room = self._policy.wire.header_bytes_max - _ITEMS_BYTES - _ITEM_BYTES * len(results)
        listed, place_of = listing(failures, room)
        items = [
            Answer(len(result.data), cut=result.cut, json=result.json)
            if isinstance(result, Text)
            else Answer(0, place_of[result])
            for result in results
        ]
        return Answers(request, items, listed), b"".join(parts)


def _split(lengths: Sequence[int], body: bytes) -> list[memoryview]:
    """Split the body by `lengths`, without a copy. A wrong sum, or a cut inside a character, is a violation."""
    if sum(lengths) != len(body):
        raise ProtocolViolation("lengths that do not add up to the body")
    view = memoryview(body)
    prompts = [view[start:stop] for start, stop in pairwise(accumulate(lengths, initial=0))]
    if not all(map(is_utf8, prompts)):
        raise ProtocolViolation("a prompt that is not UTF-8")
    return prompts


def _permit_prompts(prompts: Sequence[memoryview], bytes_max: int) -> None:
    for place, prompt in enumerate(prompts):
        which = f"prompts[{place}]" if len(prompts) > 1 else "the prompt"
        if len(prompt) > bytes_max:
            raise PolicyDenied(
                f"{which} of {len(prompt)} bytes is over the policy's limit of {bytes_max}: send a shorter slice",
                code="models.prompt",
                limit=bytes_max,
                observed=len(prompt),
            )
        if _is_blank(prompt):
            raise PolicyDenied(
                f"{which} has nothing but white space, so nothing was sent: leave it out", code="query.blank"
            )


def _is_blank(prompt: memoryview) -> bool:
    head = str(prompt[:_HEAD_BYTES], "utf-8", "ignore")  # without the character that the cut goes through
    return not head.strip() and not text_of(prompt).strip()


def _outcome_of(reply: ModelReply) -> Outcome:
    """What the program gets. A refusal or an empty reply is not an answer, though it was paid for."""
    if reply.is_refused:
        why = "the model refused to answer this prompt: ask in another way, or leave it out"
        return Failure("ModelError", "model.refused", why, None, None)
    if not reply.text.strip():
        words = reply.stop_reason[:BRIEF_CHARS].encode("utf-8", "replace").decode()
        why = f"the model gave an empty answer (it stopped with {words!a}): ask again or in another way"
        return Failure("ModelError", "model.blank", why, None, None)
    return Text(bytes_of(reply.text), reply.is_cut)


def too_much(limit: int, size: int) -> Failure:
    """The outcome of an answer that does not fit the reply beside the others."""
    why = "the answers do not fit into one reply: ask fewer at once"
    return Failure("ModelError", "wire.body", why, limit, size)


def late() -> Failure:
    """The outcome of a prompt for which the cell leaves no time."""
    why = "the cell's time was nearly up before this prompt was answered: ask fewer at once"
    return Failure("PolicyDenied", "limits.cell_wall", why, None, None)


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error in a task group's exception: it failed first, and ended the others."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
