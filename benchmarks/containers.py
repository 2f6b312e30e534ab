"""Belljar's boxes in containers as subjects of the third table: the backend, the broker and the box, without a run.

One bench serves both backends and both languages. A backend is opened twice: one makes every box when it is asked for,
the other keeps some ready. So that nothing of one sample falls into the next:

* a closed container is waited for until the daemon has removed it; that wait is a measure of its own;
* after a box was taken from the pool, the bench waits until the daemon has a container in its place, and a while
  longer, for nobody outside can see when that one is ready. What was taken too early shows by being none that was
  there before, and is taken again.

The log and the ledger are in memory, but for one row: the times are those of the wall and the wire (`wiring`).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

from belljar.context import ContextStore
from belljar.engine.box import Box
from belljar.errors import BelljarError, BoxFault
from belljar.identity import Language
from belljar.sandbox import Sandbox, ensure_image
from belljar.sandbox.docker.backend import Docker
from belljar.sandbox.docker.creator import LABEL, creator
from belljar.sandbox.docker.daemon import Daemon, NotThere
from belljar.sandbox.docker.image import LoadedImage, ensure_loaded
from benchmarks.measure import BenchmarkError, BoxPlan, Samples, check_total, times_printed
from benchmarks.ours import TENANT
from benchmarks.programs import EMPTY, SLICES, Text, queries
from benchmarks.wiring import Books, Wiring, execute, open_books, timed

__all__ = ["BACKENDS", "BackendName", "Bench", "Containers", "Texts"]

BackendName = Literal["docker", "gvisor"]
BACKENDS: Final[tuple[BackendName, ...]] = ("docker", "gvisor")

_POOL: Final = 2
_POLL_S: Final = 0.05
_FULL_S: Final = 60.0
# From a running container to a box that is ready: Python's start, and what a box of the pool loads ahead.
_READY_S: Final[dict[BackendName, float]] = {"docker": 0.5, "gvisor": 1.0}
_TRIES: Final = 10
# The daemon has heard that somebody waits for the end of a container.
_LISTEN_S: Final = 0.02


@dataclass(frozen=True)
class Texts:
    """Files that sessions have as their context."""

    small: Text
    large: Text


@dataclass(frozen=True)
class _Backend:
    fresh: Docker
    pooled: Docker
    layers: tuple[str, ...]


class Bench:
    """Both backends, as far as they are there, and books in memory and on the disk. Use as a context manager.

    Args:
        host: the daemon's address.
        images: the folder of images.
        scratch: where the durable books and the contexts are kept.
    """

    image: LoadedImage

    def __init__(self, host: str, images: Path, scratch: Path, texts: Texts) -> None:
        self.wiring = Wiring()
        self.texts = texts
        self.absent: dict[BackendName, str] = {}
        self.daemon = Daemon(host)
        self._images = images
        self._scratch = scratch
        self._contexts = ContextStore(scratch / "contexts")
        self._backends: dict[BackendName, _Backend] = {}
        self._resources = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.daemon.close)
            image = await asyncio.to_thread(ensure_image, self._images)
            self.image = await ensure_loaded(self.daemon, image)
            if self.image.loaded_now:
                stack.push_async_callback(self._unload)
            self._memory = await open_books(stack, None)
            self._disk = await open_books(stack, self._scratch)
            for name in BACKENDS:
                try:
                    fresh = await Docker.open(name, Daemon(self.daemon.host), image)
                    stack.push_async_callback(fresh.aclose)
                    layers = await self._layers(fresh)
                    pooled = await Docker.open(name, Daemon(self.daemon.host), image)
                    stack.push_async_callback(pooled.aclose)
                    await pooled.warm(self.wiring.spec, _POOL)
                except BelljarError as error:
                    self.absent[name] = str(error)
                else:
                    self._backends[name] = _Backend(fresh, pooled, layers)
            self._resources = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._resources.aclose()

    @property
    def present(self) -> tuple[BackendName, ...]:
        return tuple(self._backends)

    def layers(self, name: BackendName) -> tuple[str, ...]:
        """What a box of this host really has."""
        return self._backends[name].layers

    # ------------------------------------------------------------------------------------------------- what is timed

    async def cold(self, name: BackendName, language: Language) -> Samples:
        """One box from the request to its first result, its close, and until its container is gone."""
        order = _Order(self._backends[name].fresh, self.wiring)
        first, box = await self.wiring.first_result(order, language, self._memory)
        closed, removed = await self._close(box, order.container)
        return {"cold": [first], "close": [closed], "removed": [removed]}

    async def pooled(self, name: BackendName, language: Language) -> float:
        """Seconds from the request for a box made ahead to its first result."""
        for _ in range(_TRIES):
            before = await self._full(name)
            order = _Order(self._backends[name].pooled, self.wiring)
            first, box = await self.wiring.first_result(order, language, self._memory)
            await self._close(box, order.container)
            if order.container in before:
                return first
        raise BenchmarkError(f"the pool of {name} was not ready {_TRIES} times in a row")

    async def session(self, name: BackendName, language: Language, plan: BoxPlan) -> Samples:
        """Empty cells and queries of one box. A query is timed by the guest's clock."""
        async with self._session(name, language, self._memory) as box:
            return {
                "cell": [await timed(lambda: execute(box, EMPTY)) for _ in range(plan.cells)],
                "query": times_printed((await execute(box, queries(plan.queries))).stdout, plan.queries),
            }

    async def durable(self, name: BackendName, language: Language, count: int) -> list[float]:
        """The same queries, with books on the disk."""
        async with self._session(name, language, self._disk) as box:
            return times_printed((await execute(box, queries(count))).stdout, count)

    async def small(self, name: BackendName, language: Language) -> float:
        """Seconds from a small file to the first result of a box that has it as context."""
        async with contextlib.AsyncExitStack() as stack:
            first, _ = await self._with_context(stack, name, language, self.texts.small)
            return first

    async def large(self, name: BackendName, language: Language, cells: int) -> Samples:
        """The same with a large file; empty cells beside it; and reading all of it."""
        text = self.texts.large
        async with contextlib.AsyncExitStack() as stack:
            first, box = await self._with_context(stack, name, language, text)
            empty = [await timed(lambda: execute(box, EMPTY)) for _ in range(cells)]
            started = time.perf_counter()
            cell = await execute(box, SLICES)
            seconds = time.perf_counter() - started
            check_total("a read", cell.stdout, text.chars)
        return {"start_large": [first], "cell_large": empty, "read": [seconds]}

    # ---------------------------------------------------------------------------------------------------- its pieces

    async def _layers(self, backend: Docker) -> tuple[str, ...]:
        """The first box of a backend also makes its connections to the daemon."""
        box = await backend.start(self.wiring.spec)
        await box.kill()
        return box.layers

    async def _with_context(
        self, stack: contextlib.AsyncExitStack, name: BackendName, language: Language, text: Text
    ) -> tuple[float, Box]:
        started = time.perf_counter()
        document = await asyncio.to_thread(self._contexts.add, text.path, now_ns=time.time_ns())
        opened = stack.enter_context(self._contexts.open(document.sha256))
        found = time.perf_counter() - started
        order = _Order(self._backends[name].fresh, self.wiring)
        first, box = await self.wiring.first_result(order, language, self._memory, [opened])
        stack.push_async_callback(self._close, box, order.container)
        return found + first, box

    @contextlib.asynccontextmanager
    async def _session(self, name: BackendName, language: Language, books: Books) -> AsyncIterator[Box]:
        order = _Order(self._backends[name].fresh, self.wiring)
        async with self.wiring.session(order, language, books) as box:
            gone = asyncio.create_task(self._gone(order.container))
            yield box
        await gone

    async def _close(self, box: Box, container: str) -> tuple[float, float]:
        """Seconds that the caller waits, and seconds until the container is gone."""
        gone = asyncio.create_task(self._gone(container))
        await asyncio.sleep(_LISTEN_S)
        started = time.perf_counter()
        await box.close()
        closed = time.perf_counter() - started
        await gone
        return closed, time.perf_counter() - started

    async def _gone(self, container: str) -> None:
        with contextlib.suppress(NotThere):
            await self.daemon.ask(self.daemon.client.wait, container, condition="removed")

    async def _full(self, name: BackendName) -> set[str]:
        """The containers that are there, once no pool lacks any and those of this one should be ready."""
        until = time.monotonic() + _FULL_S
        while len(await self._running()) < _POOL * len(self._backends):
            if time.monotonic() > until:
                raise BenchmarkError("the pools do not fill up again")
            await asyncio.sleep(_POLL_S)
        await asyncio.sleep(_READY_S[name])
        return await self._running()

    async def _running(self) -> set[str]:
        filters = {"label": f"{LABEL}={creator()}", "status": "running"}
        found = await self.daemon.ask(self.daemon.client.containers, filters=filters)
        return {str(one["Id"]) for one in found}

    async def _unload(self) -> None:
        with contextlib.suppress(BoxFault):  # somebody uses it by now
            await self.daemon.ask(self.daemon.client.remove_image, self.image.tags[0])


class _Order:
    """The order to build one box; remembers whose container it is."""

    def __init__(self, backend: Docker, wiring: Wiring) -> None:
        self._backend = backend
        self._spec = wiring.spec
        # As a run does: its name becomes the container's, behind the caller's back if the box was made ahead.
        self._about = {"run": f"benchmark-{secrets.token_hex(6)}", "tenant": TENANT}
        self.container = ""

    async def __call__(self) -> Sandbox:
        box = await self._backend.start(self._spec, self._about)
        self.container = box.container
        return box


class Containers:
    """One backend and one language of the bench."""

    def __init__(self, bench: Bench, backend: BackendName, language: Language) -> None:
        self._bench = bench
        self._language: Language = language
        self.backend: BackendName = backend
        self.title = f"Belljar {backend}, {language}"
        inside = {"python": "all of Python inside", "restricted": "RestrictedPython inside"}
        self.isolation = f"{', '.join(bench.layers(backend))}; {inside[language]}"

    async def round_of_boxes(self, plan: BoxPlan) -> Samples:
        bench, which = self._bench, (self.backend, self._language)
        samples: Samples = {}
        for _ in range(plan.starts):
            _add(samples, await bench.cold(*which))
        # At least one: the first of all also takes the text in.
        for _ in range(max(1, plan.starts)):
            _add(samples, {"start_small": [await bench.small(*which)]})
            _add(samples, await bench.large(*which, plan.cells))
        return {
            **samples,
            "pooled": [await bench.pooled(*which) for _ in range(plan.starts)],
            **await bench.session(*which, plan),
            "query_durable": await bench.durable(*which, plan.queries),
        }


def _add(samples: Samples, more: Samples) -> None:
    for measure, seconds in more.items():
        samples.setdefault(measure, []).extend(seconds)
