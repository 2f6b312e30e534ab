"""What a page's form orders, done by the service's own calls: a desk, quotas, sessions.

A replay and a fork have a host of their own over the same journal (`belljar.replay`), a few at a time: a page waits for
the end of one, up to `_PATIENCE_S`; after that it goes on, and is found in the list of runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, cast

from belljar.errors import PolicyDenied
from belljar.identity import Language, Tenant
from belljar.jobs import Asked as Ordered
from belljar.jobs import Busy, Context, Desk, OrderState, RegisteredContext, TextContext
from belljar.ledger import Period
from belljar.replay import Replays
from belljar.service.pages.seams import Asked, Forked, Login, Visitor, Waiting
from belljar.service.records import request_record
from belljar.service.routes import Service

__all__ = ["DeskActions", "DeskQueue"]

_AGAIN_MAX: Final = 2
_PATIENCE_S: Final = 60.0
_LISTED: Final = 50


class DeskQueue:
    """The runs that wait at a desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def ls(self, tenant: Tenant | None) -> list[Waiting]:
        found = await self._desk.ls(tenant, status="queued", limit=_LISTED)
        return [_waiting(state) for state in found.runs]

    async def get(self, run: str) -> Waiting | None:
        state = self._desk.waiting(run)
        return None if state is None else _waiting(state)


def _waiting(state: OrderState) -> Waiting:
    return Waiting(
        run=state.run,
        tenant=state.tenant,
        state=state.state,
        model=state.model or state.sub_model or "",
        since_ns=state.asked_ns or 0,
        place=state.place,
    )


class DeskActions:
    """`Actions` of a service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._again: set[asyncio.Task[str]] = set()

    async def login(self, secret: str, address: str) -> Login:
        session = await self._service.access.log_in(secret, address=address)
        return Login(session.value, max(1, session.until - int(time.time())))

    def stranger(self, address: str) -> None:
        self._service.strangers.check(address)
        self._service.strangers.failed(address)

    async def record(self, visitor: Visitor | None, route: str, status: int, code: str | None) -> None:
        await self._service.host.log(request_record(visitor, route, status, code=code))

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
        common: dict[str, Any] = {"contexts": contexts, "policy": asked.policy, "language": language}
        model = asked.model or None
        if asked.question:
            wanted = Ordered(question=asked.question, model=model, **common)
        else:
            wanted = Ordered(code=asked.code, sub_model=model, **common)
        return (await self._service.desk.submit(wanted, tenant=asked.tenant, by=visitor.name)).run

    async def fork(self, visitor: Visitor, forked: Forked) -> str:
        async def work(replays: Replays) -> str:
            return (await replays.fork(forked.run, forked.from_turn, model=forked.model)).run

        return await self._once_more(work)

    async def replay(self, visitor: Visitor, run: str) -> str:
        async def work(replays: Replays) -> str:
            return (await replays.replay(run)).replay

        return await self._once_more(work)

    async def set_limits(self, visitor: Visitor, tenant: Tenant, period: str, bounds: dict[str, int | None]) -> None:
        await self._service.host.quotas.set(tenant, cast("Period", period), by=visitor.name, **cast("Any", bounds))

    async def _once_more(self, work: Callable[[Replays], Coroutine[Any, Any, str]]) -> str:
        if len(self._again) >= _AGAIN_MAX:
            raise Busy(
                "other runs are being done again: try it when they have ended", code="page.busy", retry_after_s=5
            )
        host = self._service.host

        async def once() -> str:
            async with Replays(host.state, host.environ) as replays:
                return await work(replays)

        task = asyncio.create_task(once())
        self._again.add(task)
        task.add_done_callback(self._again.discard)
        try:
            return await asyncio.wait_for(asyncio.shield(task), _PATIENCE_S)
        except TimeoutError:
            raise PolicyDenied("it takes its time: it is in the list of runs, and goes on", code="page.slow") from None
