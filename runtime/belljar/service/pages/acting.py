"""What a page's form orders, done by the service's own calls: a desk with its sessions, quotas, who logs in."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Coroutine
from typing import Any, Final, cast

from belljar.audit.export.view import Fact
from belljar.identity import Language, Tenant
from belljar.jobs import (
    AskedAgain,
    AskedSession,
    Context,
    Desk,
    NoSuchRun,
    NoSuchSession,
    OrderState,
    RegisteredContext,
    TextContext,
)
from belljar.jobs.words import outside
from belljar.ledger import Period
from belljar.replay import Replay
from belljar.service.front.offered import ordered, profiles_for
from belljar.service.pages.seams import Again, Asked, Compared, Login, Visitor, Waiting
from belljar.service.records import request_record
from belljar.service.routes import Service
from belljar.service.settings import Profile

__all__ = ["DeskActions", "DeskQueue"]

_log = logging.getLogger("belljar")
_LISTED: Final = 50
# How long a form waits for a cell that may be over at once.
_AT_ONCE_S: Final = 0.3
_ACTION_CHARS_MAX: Final = 400


class DeskQueue:
    """The runs that wait at a desk, and what came of its replays."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def ls(
        self, tenant: Tenant | None, status: str, model: str = "", after: str = ""
    ) -> tuple[list[Waiting], str]:
        found = await self._desk.ls(tenant, status=status, model=model or None, after=after or None, limit=_LISTED)
        return [_waiting(state) for state in found.runs], found.after or ""

    async def get(self, run: str) -> Waiting | None:
        state = self._desk.known(run)
        return None if state is None else _waiting(state)

    async def find(self, run: str) -> Waiting | None:
        try:
            return _waiting(await self._desk.get(run))
        except NoSuchRun:
            return None

    def takes_cells(self, run: str) -> bool:
        return any(one.session == run for one in self._desk.sessions(None))

    def compared(self, run: str) -> Compared | None:
        report = self._desk.report(run)
        return None if report is None else _compared(report)


def _waiting(state: OrderState) -> Waiting:
    return Waiting(
        run=state.run,
        tenant=state.tenant,
        state=state.state,
        model=state.model or state.sub_model or "",
        since_ns=state.asked_ns or 0,
        place=state.place,
        is_open=state.is_open,
        why="" if state.error is None else state.error.message,
    )


def _compared(found: Replay) -> Compared:
    tone, word = _OUTCOMES[found.outcome if found.by is not None else "not run"]
    told = {
        "actions that are equal": f"{found.equal_actions:,} of {found.actions:,}" if found.by is not None else None,
        "run again by its": found.by,
        "in": f"{found.backend} under {found.policy}" if found.by is not None else None,
        "how it ended now": found.status,
        "policy": "not the one of the record, or changed since" if found.policy_changed else None,
    }
    if (first := found.first) is not None:
        for label, action in (("first difference, recorded", first.recorded), ("and now", first.replayed)):
            told[label] = "nothing" if action is None else action.says()[:_ACTION_CHARS_MAX]
    facts = [Fact(label=label, value=value) for label, value in told.items() if value is not None]
    facts += [Fact(label=f"other {name}", value=f"{old} then, {new} now") for name, (old, new) in found.differs.items()]
    facts += [Fact(label="missing", value=outside(line)) for line in found.missing]
    facts += [Fact(label="refused now", value=f"{one.code}, {one.count:,} times") for one in found.refused]
    return Compared(tone=tone, word=word, facts=facts, lines=found.lines)


_OUTCOMES: Final[dict[str, tuple[Any, str]]] = {
    "equal": ("good", "It did the same again"),
    "diverged": ("bad", "It did something else"),
    "incomplete": ("warn", "What could be compared is the same, and some of it could not be"),
    "not run": ("warn", "It could not be run again, so nothing was compared"),
}


class DeskActions:
    """`Actions` of a service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._beside: set[asyncio.Task[Any]] = set()

    async def login(self, secret: str, address: str) -> Login:
        session = await self._service.access.log_in(secret, address=address)
        return Login(session.value, max(1, session.until - int(time.time())))

    def stranger(self, address: str) -> None:
        self._service.strangers.check(address)
        self._service.strangers.failed(address)

    async def record(self, visitor: Visitor | None, route: str, status: int, code: str | None, address: str) -> None:
        record, refusals = request_record(visitor, route, status, code=code), self._service.refusals
        if visitor is not None or code is None:
            await self._service.host.log(record)
        elif code.startswith("access."):
            await refusals.tell(address, record)
        else:  # no form of ours
            refusals.count(address, record)

    async def cancel(self, visitor: Visitor, run: str) -> None:
        await self._service.desk.cancel(run, by=visitor.name)

    async def ask(self, visitor: Visitor, asked: Asked) -> str:
        contexts: dict[str, Context] = {}
        if asked.text:
            contexts["context"] = TextContext(asked.text)
        for number, digest in enumerate(asked.contexts):
            name = f"context{number + 1}" if asked.text or number else "context"
            contexts[name] = RegisteredContext(f"sha256:{digest}")
        language = cast("Language | None", asked.language or None)
        profile, desk = profiles_for(self._service, asked.tenant).get(asked.model), self._service.desk
        if profile is None:
            profile = Profile(model=asked.model, policy=asked.policy, language=language)
        wanted = ordered(profile, contexts, question=asked.question or None, code=asked.code or None)
        if asked.stays:
            stays = {name: getattr(wanted, name) for name in AskedSession.__struct_fields__}
            run = (await desk.open_session(AskedSession(**stays), tenant=asked.tenant, by=visitor.name)).session
            first = self._start(self._service.desk.execute(run, asked.code))
            first.add_done_callback(functools.partial(self._close_refused, run))
            await self._look(first)
            return run
        return (await desk.submit(wanted, tenant=asked.tenant, by=visitor.name)).run

    async def cell(self, visitor: Visitor, run: str, code: str) -> None:
        """What is refused is so at once; a cell that takes longer goes on, and the run's page shows it."""
        await self._look(self._start(self._service.desk.execute(run, code)))

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._done)
        return task

    async def _look(self, task: asyncio.Task[Any]) -> None:
        await asyncio.wait({task}, timeout=_AT_ONCE_S)
        if task.done():
            task.result()

    def _close_refused(self, run: str, first: asyncio.Task[Any]) -> None:
        """Nobody was shown a session whose first cell is refused: it would keep its box until it is idle for long."""
        if not first.cancelled() and first.exception() is not None:
            self._start(self._closed(run))

    async def _closed(self, run: str) -> None:
        with contextlib.suppress(NoSuchSession):
            await self._service.desk.close_session(run)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._beside.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("belljar: a cell of a session: %s", error)

    async def again(self, visitor: Visitor, again: Again) -> str:
        contexts: dict[str, Context] = {
            name: RegisteredContext(f"sha256:{digest}") for name, digest in again.contexts.items()
        }
        contexts |= {name: TextContext(text) for name, text in again.texts.items()}
        wanted = AskedAgain(run=again.run, from_turn=again.from_turn, model=again.model or None, contexts=contexts)
        return (await self._service.desk.submit_again(wanted, by=visitor.name)).run

    async def set_limits(self, visitor: Visitor, tenant: Tenant, period: str, bounds: dict[str, int | None]) -> None:
        await self._service.host.quotas.set(tenant, cast("Period", period), by=visitor.name, **cast("Any", bounds))
