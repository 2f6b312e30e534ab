"""Orders to do a run again that has ended: what is ordered for that, and what the new run takes over.

A fork is an order like any other, of the recorded question, whose models know the answers before its turn (`Ticket`).
A replay asks nobody and is charged nothing; it is a run in the log, and its boxes are those of `belljar.replay`. Both
wait for their turn among the orders of the recorded run's tenant, and take a slot.

The record is read twice: when it is ordered, for what would be refused for certain, and when its turn comes. So an
order that waits keeps none of it in memory. Few are read at a time when they are ordered, and of a first-level tenant
one: whoever orders many waits behind their own, and nobody else does (`Readings`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

from belljar.errors import InvalidInput
from belljar.host import Host
from belljar.identity import LANGUAGES, Language, Tenant
from belljar.jobs.orders import Asked, AskedAgain, AskedSession, Context, RegisteredContext
from belljar.lifecycle import Fork
from belljar.models import HostTool
from belljar.models.replay import ReplayTool, Tape
from belljar.policy import Policy
from belljar.recording import Recording, read_recording
from belljar.replay import Setting, setting_of

__all__ = ["Again", "Readings", "TakenOver", "answers_of", "forked_from", "read_again"]

_NAMED_MAX: Final = 80


class Again(NamedTuple):
    """What is ordered: of a fork as of any run, of a replay without question and code; `setting` is a replay's."""

    tenant: Tenant
    asked: Asked | AskedSession
    setting: Setting | None


class TakenOver(NamedTuple):
    """What a run takes over of an earlier one."""

    tape: Tape
    fork: Fork
    seed: str | None
    tools: tuple[HostTool, ...] = ()


class Readings:
    """Places for so many records at a time, of which a first-level tenant, with all below it, has one."""

    def __init__(self, most: int) -> None:
        self._places = asyncio.Semaphore(most)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # of those who have or wait for one

    @contextlib.asynccontextmanager
    async def place(self, tenant: Tenant) -> AsyncIterator[None]:
        """Wait for a place, and have it for the length of a block."""
        turn = self._turns.setdefault(tenant.levels[0], asyncio.Lock())
        async with turn, self._places:
            yield


def read_again(host: Host, asked: AskedAgain, policies: Mapping[str, Policy]) -> Again:
    """Look whether a run can be done again so. It reads, and is called in threads.

    Args:
        policies: what a policy's name means here besides presets.

    Raises:
        InvalidInput: as `Replays.replay` and `Replays.fork`; `replay.context` also where something is given for a
            context that the run did not have.
    """
    recording = read_recording(host.state.journal, host.keys, asked.run)
    started = recording.started
    tenant = Tenant(started.tenant)
    if asked.from_turn is not None:
        recording.until(asked.from_turn)
    contexts = _contexts(host, recording, asked.contexts)
    if asked.from_turn is None:
        setting = setting_of(recording, policies=policies)
        session = AskedSession(
            contexts=contexts, policy=setting.policy.name, backend=setting.backend, language=_language(started.language)
        )
        return Again(tenant, session, setting)
    fork = Asked(
        question=recording.question,
        contexts=contexts,
        model=asked.model,
        policy=started.policy or "",
        backend=started.backend,
        language=_language(started.language),
        answer_schema=None if recording.setup is None else recording.setup.answer_schema,
    )
    return Again(tenant, fork, None)


def _language(name: str | None) -> Language | None:
    return next((one for one in LANGUAGES if one == name), None)


def _contexts(host: Host, recording: Recording, given: Mapping[str, Context]) -> dict[str, Context]:
    """The recorded ones by their digests, but for those that are given."""
    started = recording.started
    recording.had(given)
    found: dict[str, Context] = {}
    for one in started.contexts:
        reference = f"sha256:{one.sha256}"
        if one.name not in given:
            try:
                host.registered(reference, tenant=started.tenant)
            except InvalidInput:
                raise InvalidInput(
                    f"the context {one.name[:_NAMED_MAX]!a} of {recording.run.run} is not registered any more: choose "
                    "one in its place, or give its text again",
                    code="replay.context",
                ) from None
        found[one.name] = given.get(one.name) or RegisteredContext(reference)
    return found


def forked_from(host: Host, run: str, turn: int) -> TakenOver:
    """What was answered before a turn. It reads. Raises as `Recording.until`."""
    recording = read_recording(host.state.journal, host.keys, run)
    tape = recording.until(turn)
    told = [] if recording.setup is None else recording.setup.tools
    tools = tuple(ReplayTool(recording.tape, one[:3], cost_nanousd=one[3]) for one in told)
    return TakenOver(tape, Fork(run, turn), recording.started.seed, tools)


def answers_of(host: Host, line: Sequence[str]) -> TakenOver | None:
    """What these orders were answered, the latest first; None where nothing was, or nothing of it is kept. It reads."""
    latest: Recording | None = None
    tape = Tape("", ())
    for run in line:
        try:
            recording = read_recording(host.state.journal, host.keys, run)
        except InvalidInput:  # it never began
            continue
        latest = latest or recording
        tape = tape.and_of(recording.answered())
    if latest is None or not tape.asked:
        return None
    turns = sum(1 for one in tape.asked if one.purpose == "root" and not one.place)
    return TakenOver(tape, Fork(latest.run.run, turns + 1), latest.started.seed)
