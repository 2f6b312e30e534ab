"""A recorded run as a model: it gives again the answers that the log has, and asks nobody.

Theory of operation. A `Tape` has what was asked of models in one run and those below it, each with what came of it. A
`ReplayModel` plays it. Several requests may be under way at once, and batches come back in any order, so an answer is
looked for by what was asked: by the run that asks (its place in the tree, not its id, which is new), by purpose, and by
the digest of the prompt. Of equal ones the first that was not yet given is taken; those that were refused then, and
never sent, come last, since what is refused again does not come here.

A root model's prompts tell how much time is left and carry a random word, so they are not the same again. Where none is
equal, its replies come in the order in which they were recorded.

What the record does not have, nobody makes up: the request fails, and says what was asked and what was recorded. The
same goes for an answer that was not kept, or was erased since.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

import msgspec

from belljar.errors import ModelFailed
from belljar.heavy import off_loop
from belljar.models.base import Model, ModelReply, ModelRequest, Usage, texts_digest
from belljar.models.prices import FREE, Rates
from belljar.models.tools import TOOL_PREFIX, HostTool

__all__ = ["NO_CLOCKS", "Asked", "Clocks", "ForkModel", "ReplayModel", "ReplayTool", "Tape"]

Purpose = Literal["root", "sub", "tool"]
Clocks: TypeAlias = Mapping[str, Mapping[int, bytes]]
NO_CLOCKS: Final[Clocks] = MappingProxyType({})
_DIGITS_SHOWN: Final = 12


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a recorded run, and what came of it.

    Attributes:
        place: the run that asked, within the tree that is played: empty for the first, `00002.00001` below it.
        action: its id in the log.
        reply: the answer; None where there was none, or it is not there any more.
        error: why there was none. `again`: another attempt followed.
        unanswered: it was given up before there was an answer.
        lost: there was an answer, and it is not there any more.
        denied: it was refused, and never sent.
    """

    place: str
    action: str
    purpose: Purpose
    model: str
    prompt_sha256: str
    reply: str | None = None
    usage: Usage = Usage()
    stop_reason: str = "end_turn"
    answered_by: str = ""
    error: str = ""
    again: bool = False
    unanswered: bool = False
    lost: bool = False
    denied: bool = False


class Tape:
    """What was asked in one run and below it, in the order of the log. `name` is the recorded run's id.

    `clocks` has what cells read of clocks: by the place of their run, as `Asked.place`, and then by their numbers.
    `seed` is that of the run's chance.
    """

    def __init__(
        self, name: str, asked: Iterable[Asked], clocks: Clocks = NO_CLOCKS, *, seed: str | None = None
    ) -> None:
        self.name: Final = name
        self.asked: Final = tuple(asked)
        self.clocks: Final = clocks
        self.seed: Final = seed

    def and_of(self, earlier: Tape) -> Tape:
        """With what an earlier run has besides, which this one was a fork of and did not come to ask again."""
        had = Counter(map(_what, self.asked))
        more = []
        for one in earlier.asked:
            if had[_what(one)]:
                had[_what(one)] -= 1
            else:
                more.append(one)
        clocks = {place: {**earlier.clocks.get(place, {}), **cells} for place, cells in self.clocks.items()}
        return Tape(self.name or earlier.name, (*self.asked, *more), {**earlier.clocks, **clocks})


def _what(one: Asked) -> tuple[str, str, str]:
    """What a fork asks again: the same query, and of a root model's prompts, which are never the same, the next."""
    return one.place, one.purpose, "" if one.purpose == "root" else one.prompt_sha256


class ReplayModel:
    """Answers as the record does, to the root model's requests and to queries alike.

    Each is given once, so a run needs a model of its own: a `rewound` one.

    Args:
        name: what results and the log call it; `replay:RUN` when None.
        rates: what its tokens cost; as the list of prices says when None.
    """

    scripted: Final = True

    def __init__(self, tape: Tape, *, name: str | None = None, rates: Rates | None = FREE) -> None:
        self.name: Final = name or f"replay:{tape.name}"
        self.rates: Final = rates
        self.tape: Final = tape
        self._left = _Left(one for one in tape.asked if one.purpose != "tool")

    def rewound(self) -> ReplayModel:
        """The same record from its beginning, independent of this one."""
        return ReplayModel(self.tape, name=self.name, rates=self.rates)

    async def complete(self, request: ModelRequest) -> ModelReply:
        """The recorded answer.

        Raises:
            ModelFailed: the record has none for this request, or an error, or the answer is no longer kept.
        """
        return await _again(self._left.take(self.tape.name, request, await _digest(request)), self.name)

    async def aclose(self) -> None:
        """Nothing to close."""

    def __repr__(self) -> str:
        return f"ReplayModel({self.name!r})"


class ForkModel:
    """A real model that takes over from a record: what is on the tape is answered from it, and costs nothing more.

    Args:
        tape: what was asked before the real model comes in.
        model: that is asked from then on. Its maker closes it.
    """

    def __init__(self, tape: Tape, model: Model) -> None:
        self.name: Final = model.name
        self.scripted: Final = model.scripted
        self.rates: Final[Rates | None] = getattr(model, "rates", None)
        self.cache_ttl: Final[str | None] = getattr(model, "cache_ttl", None)
        self._model = model
        self._left = _Left(one for one in tape.asked if one.purpose != "tool")

    async def complete(self, request: ModelRequest) -> ModelReply:
        """The recorded answer, else the model's. Raises ModelFailed as both do."""
        found = self._left.find(request, await _digest(request))
        if found is None:
            return await self._model.complete(request)
        return msgspec.structs.replace(await _again(found, self.name), usage=Usage())

    async def aclose(self) -> None:
        """Nothing to close."""


class ReplayTool(HostTool):
    """A recorded run's tool: gives what the calls of it gave then, and calls nothing.

    Args:
        told, cost_nanousd: as of `HostTool`.
    """

    def __init__(self, tape: Tape, told: tuple[str, list[str], str], *, cost_nanousd: int = 0) -> None:
        self.name = name = TOOL_PREFIX + told[0]
        self.told = told
        self.cost_nanousd = cost_nanousd
        self.bytes_max = 0
        self._tape = tape
        self._left = _Left(one for one in tape.asked if one.purpose == "tool" and one.model == name)

    async def complete(self, request: ModelRequest) -> ModelReply:
        """The recorded result. Raises ModelFailed as `ReplayModel.complete`."""
        return await _again(self._left.take(self._tape.name, request, await _digest(request)), self.name)


class _Left:
    """Requests that were not yet played: by run, purpose and prompt, and those of root models in their order."""

    def __init__(self, asked: Iterable[Asked]) -> None:
        self._equal: dict[tuple[str, str, str], deque[Asked]] = {}
        self._turns: dict[str, deque[Asked]] = {}
        self._given: set[str] = set()
        self._count: dict[tuple[str, str], int] = {}
        for one in sorted(asked, key=lambda one: one.denied):
            self._equal.setdefault((one.place, one.purpose, one.prompt_sha256), deque()).append(one)
            self._count[one.place, one.purpose] = self._count.get((one.place, one.purpose), 0) + 1
            if one.purpose == "root":
                self._turns.setdefault(one.place, deque()).append(one)

    def take(self, recorded: str, request: ModelRequest, digest: str) -> Asked:
        """The recorded request that this one is. Raises ModelFailed."""
        found = self.find(request, digest)
        if found is None:
            place = request.run.partition(".")[2]
            raise ModelFailed(self._strange(recorded, place, request, digest), charged=False)
        return found

    def find(self, request: ModelRequest, digest: str) -> Asked | None:
        """As `take`; None if the record does not have it."""
        place = request.run.partition(".")[2]
        found = self._first(self._equal.get((place, request.purpose, digest)))
        if found is None and request.purpose == "root":
            found = self._first(self._turns.get(place))
        if found is not None:
            self._given.add(found.action)
        return found

    def _first(self, asked: deque[Asked] | None) -> Asked | None:
        while asked:
            if (one := asked.popleft()).action not in self._given:
                return one
        return None

    def _strange(self, recorded: str, place: str, request: ModelRequest, digest: str) -> str:
        """What was asked, beside what was recorded."""
        whose = f"{recorded}.{place}" if place else recorded
        one, more = {"root": ("turn", "turns"), "sub": ("query", "queries"), "tool": ("tool call", "tool calls")}[
            request.purpose
        ]
        count = self._count.get((place, request.purpose), 0)
        many = f"{count} {one if count == 1 else more}"
        if request.purpose == "root":
            return f"the record of run {whose} has {many}, and one more was asked for: replay it as it was"
        return (
            f"the record of run {whose} has {many}, and none that is left has this prompt (SHA-256 "
            f"{digest[:_DIGITS_SHOWN]}): replay it with the same program and the same context"
        )


async def _digest(request: ModelRequest) -> str:
    texts = (request.system, *(message.text for message in request.messages))
    digest, _ = await off_loop(sum(map(len, texts)), texts_digest, *texts)
    return digest


async def _again(asked: Asked, name: str) -> ModelReply:
    if asked.unanswered:  # whoever gave it up then does so now
        await asyncio.Event().wait()
    if asked.reply is None:
        pause_s = 0.0 if asked.again else None
        raise ModelFailed(asked.error, retryable=asked.again, retry_after_s=pause_s, charged=False)
    return ModelReply(asked.reply, asked.usage, asked.answered_by or name, asked.stop_reason)
