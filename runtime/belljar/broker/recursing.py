"""A program's child runs: `rlm_query`, and batches of it.

    program asks -> permitted: depth, model, sizes -> a child is opened for each prompt, some side by side
                 -> each ends by itself, or with whoever asked -> its answer, or why there is none, in its place

A child is a run like any other, with a box, an account and a deadline, all of them cut from its parent's. Here it is
only said what it is to be; `lifecycle` runs it, through the function that the broker was given. That function returns
when the child has ended and is closed, also when it is cancelled: so the tree ends from its leaves, and nothing of a
child outlives the request that started it.

A run has a number of children at the same time, and each of these as many again. The bound is the run's own: children
that waited for room which their ancestors hold would wait for ever.

A child ends some time before its parent's cell does, so that the program can keep its answer, and of a batch none is
started later than that. Where no further level of children is allowed, the policy says whether a sub-model answers
instead. The request's context is then put behind its prompt, and is read for that as the program would read it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any
from typing import Final as Const

import msgspec

from belljar.broker.answer import check_answer
from belljar.broker.cell import Cell
from belljar.broker.failures import failure_of
from belljar.broker.flood import REFUSED_CALL_COST_BYTES, Flood
from belljar.broker.querying import Outcome, Querying, Text, first_of, late, too_much
from belljar.broker.reading import Reading
from belljar.broker.run import RunScope
from belljar.context import OpenDocument, Part
from belljar.errors import PolicyDenied, ProtocolViolation, QuotaExceeded, Refusal
from belljar.heavy import off_loop, plain_of, text_of
from belljar.models import Model
from belljar.protocol import Answers, Final, Given, Read, Recurse

__all__ = ["Child", "Recursing", "StartChild"]

# A child ends this long before its parent's cell, besides its own grace period.
_CELL_SPARE_S: Const = 1.0
_CELL_SPARE_SHARE: Const = 1 / 10
# What a child without a question of its own is asked.
_QUESTION: Const = "Your task, and the text that it is about, are both in `context`. Read it, and do what it asks for."


class Child(msgspec.Struct, frozen=True):
    """A child run to be.

    Attributes:
        number: counted from 1 within its parent.
        context: a text, a list or dict, or a part of the parent's document `doc`.
        deadline: on the run's monotonic clock, in seconds.
        model: which of the run's models its program wishes for, if any.
    """

    number: int
    question: str
    context: str | list[Any] | dict[str, Any] | Part
    doc: int
    deadline: float
    model: str | None = None


StartChild = Callable[[Child], Awaitable[Outcome]]
"""Runs a child to its end. Raises Refusal if it cannot start, HostFault if the log or the ledger does not work."""


class Recursing:
    """One run's children. `start` runs one to its end."""

    def __init__(
        self,
        scope: RunScope,
        *,
        documents: Sequence[OpenDocument],
        texts: Sequence[int],
        querying: Querying,
        reading: Reading,
        flood: Flood,
        start: StartChild,
        root_model: Model | None = None,
    ) -> None:
        self._scope = scope
        self._models = scope.policy.models
        self._documents = documents
        self._texts = frozenset(texts)
        self._querying = querying
        self._reading = reading
        self._flood = flood
        self._start = start
        self._root_model = root_model
        self._numbers = count(1)

    async def recurse(self, asked: Recurse, body: bytes, cell: Cell) -> tuple[Answers, bytes]:
        """Answer a request of this cell."""
        self._querying.permit_batch(len(asked.prompts))
        if len(asked.contexts) not in (0, len(asked.prompts)):
            raise ProtocolViolation("contexts for some of the prompts")
        own = [given.length for given in asked.contexts if given.doc is None]
        texts = await self._querying.split([*asked.prompts, *own], body)
        prompts, rest = texts[: len(asked.prompts)], iter(texts[len(asked.prompts) :])
        contexts = [self._part(given) if given.doc is not None else next(rest) for given in asked.contexts]
        docs = [given.doc or 0 for given in asked.contexts]
        if self._scope.run.depth + 2 > self._models.depth_max:
            outcomes = await self._instead(asked, prompts, contexts, cell)
        else:
            self._permit_model(asked.model)
            await self._permit(prompts, contexts, cell)
            values = await self._values(asked.contexts, contexts)
            outcomes = await self._run_all(await self._children(prompts, values, docs, cell, asked.model), cell)
        return self._querying.answers(asked.id, outcomes)

    def _permit_model(self, wish: str | None) -> None:
        """Check that a child may have this model as its root. Raises PolicyDenied."""
        sub_model = self._querying.permit_model(None)
        root = self._root_model or sub_model
        if wish not in (None, sub_model.name, root.name):
            raise PolicyDenied(
                f"a child run has {root.name} or {sub_model.name} as its root model: name one of those, or leave "
                "`model` out",
                code="model.denied",
            )

    def _part(self, given: Given) -> Part:
        """Checked against what this run itself may read. Raises PolicyDenied."""
        assert given.doc is not None
        if given.doc not in self._texts:
            raise PolicyDenied(f"there is no text {given.doc} to give to a child run", code="read.no_document")
        document = self._documents[given.doc].document
        length = document.items if given.items else document.chars
        if not given.start <= given.stop <= length or (given.items and document.kind == "text"):
            raise PolicyDenied(
                f"{given.start} to {given.stop} is not a part of the document; it has {length}",
                code="read.out_of_range",
                limit=length,
                observed=given.stop,
            )
        part = Part(given.start, given.stop, given.items)
        self._reading.permit_part(given.doc, part)
        return part

    async def _permit(self, prompts: Sequence[memoryview], contexts: Sequence[Part | memoryview], cell: Cell) -> None:
        """Check a whole batch before any of it is started."""
        longest = self._models.child_context_bytes_max
        if contexts:
            await self._querying.permit_prompts(prompts, cell)
        for context in contexts or prompts:
            size = context.stop - context.start if isinstance(context, Part) else len(context)
            if size == 0:
                raise PolicyDenied("the context of a child run is empty: leave it out", code="query.blank")
            if not isinstance(context, Part) and size > longest:
                raise PolicyDenied(
                    f"a text of {size} bytes for a child run is over the policy's limit of {longest}: give it a part "
                    "of `context`, which has no limit, or a shorter text",
                    code="models.child_context",
                    limit=longest,
                    observed=size,
                )

    async def _values(
        self, given: Sequence[Given], contexts: Sequence[Part | memoryview]
    ) -> list[Part | memoryview | list[Any] | dict[str, Any]]:
        """The contexts, those that came as JSON as the values that they are."""
        values_max = self._scope.policy.limits.answer_values
        return [
            await off_loop(len(context), _value_of, context, values_max)
            if isinstance(context, memoryview) and about.json
            else context
            for about, context in zip(given, contexts, strict=True)
        ]

    async def _children(
        self,
        prompts: Sequence[memoryview],
        contexts: Sequence[Part | memoryview | list[Any] | dict[str, Any]],
        docs: Sequence[int],
        cell: Cell,
        model: str | None,
    ) -> list[Child]:
        deadline = self._deadline(cell)

        def made() -> list[Child]:
            if not contexts:
                return [Child(next(self._numbers), _QUESTION, text_of(one), 0, deadline, model) for one in prompts]
            return [
                Child(
                    next(self._numbers),
                    text_of(prompt),
                    text_of(context) if isinstance(context, memoryview) else context,
                    doc,
                    deadline,
                    model,
                )
                for prompt, context, doc in zip(prompts, contexts, docs, strict=True)
            ]

        return await off_loop(sum(len(text) for text in (*prompts, *contexts) if isinstance(text, memoryview)), made)

    def _deadline(self, cell: Cell) -> float:
        """Until when a child may run. Raises PolicyDenied if there is no time for one."""
        spare_s = min(_CELL_SPARE_S, (cell.deadline - cell.began) * _CELL_SPARE_SHARE)
        deadline = cell.deadline - spare_s - self._scope.policy.limits.grace_s
        if deadline <= self._scope.monotonic():
            raise PolicyDenied(
                "the cell's time is nearly up, so no child run can start: start it earlier", code="limits.cell_wall"
            )
        return deadline

    async def _run_all(self, children: Sequence[Child], cell: Cell) -> list[Outcome]:
        """Each child's outcome in its place; as many run as the policy lets a run have beside each other."""
        left = iter(enumerate(children))
        outcomes: dict[int, Outcome] = {}
        room = longest = self._scope.policy.wire.body_bytes_max

        async def work() -> None:
            nonlocal room
            for place, child in left:
                outcome = await self._run(child, cell)
                size = len(outcome.data) if isinstance(outcome, Text) else 0
                if size > room:
                    outcome, size = too_much(longest, size), 0
                room -= size
                outcomes[place] = outcome

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(len(children), self._models.children_max)):
                    group.create_task(work())
        except BaseExceptionGroup as faults:
            raise first_of(faults) from None
        return [outcomes[place] for place in range(len(children))]

    async def _run(self, child: Child, cell: Cell) -> Outcome:
        if child.deadline <= self._scope.monotonic():
            return late()
        try:
            return await self._start(child)
        except Refusal as refusal:
            self._flood.charge(REFUSED_CALL_COST_BYTES)
            if isinstance(refusal, QuotaExceeded):  # the child's own records do not say whose quota it was
                await self._querying.log_refused_child(refusal, cell)
            return failure_of(refusal)

    async def _instead(
        self, asked: Recurse, prompts: Sequence[memoryview], contexts: Sequence[Part | memoryview], cell: Cell
    ) -> list[Outcome]:
        """Ask a sub-model, where the policy lets that pass for a child run."""
        if self._models.beyond_depth == "refuse":
            depth = self._models.depth_max
            raise PolicyDenied(
                f"models may be {depth} deep here, and a child run would go deeper: use llm_query, or ask for less",
                code="models.depth",
                limit=depth,
                observed=self._scope.run.depth + 2,
            )
        whole = list(prompts)
        for place, context in enumerate(contexts):
            text = await self._read(asked.contexts[place], cell) if isinstance(context, Part) else context
            whole[place] = memoryview(b"".join([prompts[place], b"\n\n", text]))
        return await self._querying.ask(asked.model, whole, cell)

    async def _read(self, given: Given, cell: Cell) -> bytes | memoryview:
        """A part's text, charged and logged as the program's own read of it."""
        assert given.doc is not None
        if given.items:
            raise PolicyDenied(
                "a list or dict cannot be given to a sub-model, which answers here instead of a child run: put its "
                "items into a prompt",
                code="models.depth",
            )
        _, data = await self._reading.read(Read(0, given.doc, given.start, given.stop, 0), cell.number)
        return data


def _value_of(text: memoryview, values_max: int) -> list[Any] | dict[str, Any]:
    """What a program made, from its JSON. Held to what an answer is held to, as it is as dear to build.

    Raises:
        PolicyDenied: it is empty, or too much.
        ProtocolViolation: it is not the JSON of a list or dict.
    """
    data = bytes(text)
    try:
        check_answer(Final(0, "json"), data, values_max=values_max)
    except Refusal as refusal:
        raise PolicyDenied(
            f"the context of a child run is held to what an answer may have ({refusal.code}): give less, or a text",
            code=refusal.code,
            limit=refusal.limit,
            observed=refusal.observed,
        ) from None
    value = plain_of(data)
    if not isinstance(value, list | dict):
        raise ProtocolViolation("a context as JSON that is neither a list nor a dict")
    if not value:
        raise PolicyDenied("the context of a child run is empty: leave it out", code="query.blank")
    return value
