"""The pages of a real host on a real server of this machine, for tests in a browser and without one.

Their `Actions` are the host's own: who has which key is a table here, and a run is ordered as a task of the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from belljar.errors import PolicyDenied
from belljar.host import Host
from belljar.identity import Tenant
from belljar.service.pages import Again, Asked, DemoModel, HostReader, Login, Visitor, pages
from belljar.service.pages.routes import SESSION
from belljar.service.settings import DEMO
from belljar.tasks import stopped
from tests.waiting import until

__all__ = ["ADMIN", "ALICE", "AUDITOR", "READER", "Site", "serving", "site"]

_T = TypeVar("_T")
_S = TypeVar("_S", bound="Site")
ADMIN, ALICE, AUDITOR, READER = "bj_admin", "bj_alice", "bj_auditor", "bj_reader"
_READS = {"run.read", "context.read", "quota.read", "audit.read", "audit.verify", "host.read"}


def _visitor(name: str, tenant: Tenant | None, role: str, actions: set[str] | None) -> Visitor:
    def may(action: str, of: Tenant | None) -> bool:
        is_theirs = tenant is None or (of is not None and tenant in of.levels)
        return is_theirs and (actions is None or action in actions)

    return Visitor(name, tenant, role, f"word of {name}", may)


VISITORS = {
    ADMIN: _visitor("key:admin", None, "admin", None),
    ALICE: _visitor("key:alice", Tenant("acme/alice"), "tenant-admin", None),
    AUDITOR: _visitor("key:auditor", None, "auditor", _READS),
    READER: _visitor("key:reader", Tenant("acme/alice"), "reader", {"run.read"}),
}


class HostActions:
    """What the forms order, done by the host itself."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.tasks: set[asyncio.Task[Any]] = set()
        self.ordered: list[object] = []
        self.recorded: list[tuple[str, str, int, str | None]] = []

    async def login(self, secret: str, address: str) -> Login:
        if secret not in VISITORS:
            raise PolicyDenied("no such key: ask an admin for one", code="access.denied")
        return Login(f"session.{secret}", 3600)

    def stranger(self, address: str) -> None: ...

    async def record(self, visitor: Visitor | None, route: str, status: int, code: str | None, address: str) -> None:
        self.recorded.append(("" if visitor is None else visitor.name, route, status, code))

    async def cancel(self, visitor: Visitor, run: str) -> None:
        await self._host.cancel(run)

    async def ask(self, visitor: Visitor, asked: Asked) -> str:
        contexts = {
            f"c{n}": self._host.registered(f"sha256:{one}", tenant=asked.tenant) for n, one in enumerate(asked.contexts)
        }
        first: Any = asked.text or (contexts.pop("c0") if contexts else None)
        how: dict[str, Any] = {"context": first, "contexts": contexts, "tenant": asked.tenant, "policy": asked.policy}
        before = {one.run for one in self._host.live()}
        work: Coroutine[Any, Any, Any]
        if asked.question:
            work = self._host.run(asked.question, model=asked.model, **how)
        else:
            work = self._host.execute(asked.code, sub_model=asked.model, **how)
        task = asyncio.create_task(work)
        self.tasks.add(task)
        while not (new := [one.run for one in self._host.live() if one.run not in before]):
            if task.done():
                return str(task.result().run)
            await asyncio.sleep(0.01)
        return new[0]

    async def cell(self, visitor: Visitor, run: str, code: str) -> None:
        self.ordered.append((run, code))

    async def again(self, visitor: Visitor, again: Again) -> str:
        self.ordered.append(again)
        return again.run

    async def set_limits(self, visitor: Visitor, tenant: Tenant, period: Any, bounds: dict[str, int | None]) -> None:
        await self._host.quotas.set(tenant, period, by=visitor.name, **bounds)


class Site:
    """A served host. `do` awaits something in its loop."""

    def __init__(self, state: Path, **host: Any) -> None:
        self.state = state
        self._of_host = host
        self.models = [DEMO]  # what the playground offers
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="site", daemon=True)

    def start(self) -> None:
        self._thread.start()
        until(self._ready.is_set, what="the site is up")

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()

    def do(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(120)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        models = [DemoModel(), *self._of_host.pop("models", [])]
        async with Host(state=self.state, models=models, **self._of_host) as host:
            self.host, self.actions = host, HostActions(host)
            self.reader = HostReader(host, version="1.0")

            async def who(request: Request) -> Visitor | None:
                return VISITORS.get(request.cookies.get(SESSION, "").removeprefix("session."))

            routes = pages(self.reader, self.actions, who=who, models=self.models)
            app = Starlette(routes=[*routes, Route("/v1/runs/{run}/events", self._events)])
            config = uvicorn.Config(
                app, host="127.0.0.1", port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=1
            )
            self.server = uvicorn.Server(config)
            self.server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
            serving = asyncio.create_task(self.server.serve())
            await asyncio.to_thread(until, lambda: self.server.started, what="the server has started")
            self._ready.set()
            await serving
            await self.reader.aclose()
            for task in self.actions.tasks:
                await stopped(task)

    async def _events(self, request: Request) -> StreamingResponse:
        """As the API has them: one for each change of a run's progress, until it is over."""
        run = request.path_params["run"]

        async def told() -> AsyncIterator[str]:
            last = None
            while any(one.run == run for one in self.host.live()) and not self.server.should_exit:
                (progress,) = (one.progress for one in self.host.live() if one.run == run)
                if progress != last:
                    last = progress
                    yield f"event: cell\ndata: {progress.cells}\n\n"
                await asyncio.sleep(0.05)
            yield "event: result\ndata: {}\n\n"

        return StreamingResponse(told(), media_type="text/event-stream")


@contextlib.contextmanager
def serving(served: _S) -> Iterator[_S]:
    """It is up for the length of a block."""
    served.start()
    try:
        yield served
    finally:
        served.stop()


@contextlib.contextmanager
def site(state: Path, **host: Any) -> Iterator[Site]:
    """A site over a host with this state folder; `host` are more arguments of `Host`."""
    with serving(Site(state, **host)) as served:
        yield served
