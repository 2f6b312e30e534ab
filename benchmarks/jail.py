"""Belljar's boxes as subjects of the second table: the jail, the broker and the box, without a run around them.

A run adds its account, its records of start and end, and its context; the table of sessions has all that. Here the log
and the ledger are in memory, but for one row, so that the times are those of the wall and the wire.

One bench serves both languages. It has two jails, each with a zygote of its own: one makes every box when it is asked
for, the other keeps some ready. A box that is taken from the second is replaced at once, in the background, and that
work falls into the time of its first result, as it does in use; before the next is taken, the bench waits until the
pool is full again.

A zygote is found as the process that appears below this one when a jail gets warm, and its boxes are its children.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import psutil

from belljar.audit import AuditLog
from belljar.broker import Broker, Calls, RunScope
from belljar.engine import CellResult
from belljar.engine.box import Box
from belljar.ledger import Limits, SqliteLedger
from belljar.models import Prices
from belljar.policy import load
from belljar.run import box_spec
from belljar.runtime import Language
from belljar.sandbox import Image, Jail, ensure_image
from benchmarks.measure import BenchmarkError, BoxPlan, Samples, after_quiet, times_printed
from benchmarks.ours import MODEL, POLICY, TENANT
from benchmarks.programs import EMPTY, queries

__all__ = ["LANGUAGES", "Bench", "Boxes", "Weights"]

LANGUAGES: Final[tuple[Language, ...]] = ("python", "restricted")

_FIRST = "1"
_POOL = 4
_UNLIMITED = Limits("total", None, None, None, None, None)
_RUN_S = 3600.0
# A replaced box exists after a millisecond or two, and is ready when its doors are closed: at worst some 30 ms later.
_POLL_S = 0.002
_FULL_S = 20.0
_SETTLE_S = 0.05
_IDLE_S = 0.5


@dataclass(frozen=True)
class Books:
    """A log and a ledger that belong together."""

    audit: AuditLog
    ledger: SqliteLedger
    prices: Prices


@dataclass(frozen=True)
class Weights:
    """Proportional set sizes in bytes: memory that n processes share counts one n-th for each of them."""

    boxes: list[int]
    zygote: int


class Bench:
    """Both jails, and books in memory and on the disk. Use as a context manager.

    Args:
        images: the folder of images.
        scratch: where the durable books are kept.
    """

    def __init__(self, images: Path, scratch: Path) -> None:
        self._images = images
        self._scratch = scratch
        self._policy = load(POLICY)
        self._spec = box_spec(self._policy)
        self._numbers = itertools.count(1)
        self._resources = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            self._image: Image = await asyncio.to_thread(ensure_image, self._images)
            self._memory = await self._books(stack, None)
            self._disk = await self._books(stack, self._scratch)
            self._jail = Jail(self._image)
            stack.push_async_callback(self._jail.aclose)
            self.layers = await self._layers()
            self._pooled = Jail(self._image)
            stack.push_async_callback(self._pooled.aclose)
            self._pool_zygote = await self._warm(self._pooled, _POOL)
            self._resources = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._resources.aclose()

    # ------------------------------------------------------------------------------------------------- what is timed

    async def cold(self, language: Language) -> tuple[float, float]:
        """Seconds from the request for a fresh box to its first result, and of its close."""
        return await self._first_result(self._jail, language)

    async def pooled(self, language: Language) -> tuple[float, float]:
        """The same, of a box made ahead."""
        await self._full()
        return await self._first_result(self._pooled, language)

    async def cells(self, language: Language, count: int) -> list[float]:
        async with self._session(language, self._memory) as box:
            return [await _timed(lambda: _execute(box, EMPTY)) for _ in range(count)]

    async def queries(self, language: Language, count: int, *, durable: bool) -> list[float]:
        """Seconds of each query, by the guest's clock."""
        async with self._session(language, self._disk if durable else self._memory) as box:
            return times_printed((await _execute(box, queries(count))).stdout, count)

    async def sustained(self, language: Language, at_once: int, seconds: float) -> float:
        """Boxes per second: start, first result, kill, `at_once` in parallel, over and over."""
        started = time.perf_counter()
        counts = await asyncio.gather(*(self._again_and_again(language, started + seconds) for _ in range(at_once)))
        return sum(counts) / (time.perf_counter() - started)

    async def weigh(self, count: int) -> Weights:
        """What `count` ready and idle boxes take in memory, in a jail of their own.

        Raises:
            BenchmarkError: this host does not tell.
        """
        async with contextlib.AsyncExitStack() as stack:
            jail = Jail(self._image)
            stack.push_async_callback(jail.aclose)
            zygote = await self._warm(jail, count)
            await asyncio.sleep(_IDLE_S)
            boxes = zygote.children()
            if len(boxes) != count:
                raise BenchmarkError(f"{count} boxes were made ahead and {len(boxes)} are there")
            return Weights([_pss(box) for box in boxes], _pss(zygote))

    # ---------------------------------------------------------------------------------------------------- its pieces

    async def _books(self, stack: contextlib.AsyncExitStack, folder: Path | None) -> Books:
        audit = AuditLog(None if folder is None else folder / "audit.db")
        stack.push_async_callback(audit.aclose)
        ledger = SqliteLedger(None if folder is None else folder / "ledger.db", owner="benchmark")
        stack.push_async_callback(ledger.aclose)
        prices = Prices()
        prices.adopt(MODEL)
        return Books(audit, ledger, prices)

    async def _layers(self) -> tuple[str, ...]:
        """What a box of this host really has. The first box of a jail also starts its zygote."""
        box = await self._jail.start(self._spec)
        layers = box.layers
        await box.kill()
        return layers

    async def _warm(self, jail: Jail, size: int) -> psutil.Process:
        """Fill a jail's pool, and give its zygote."""
        before = set(psutil.Process().children())
        await jail.warm(self._spec, size)
        found = [child for child in psutil.Process().children() if child not in before]
        if len(found) != 1:
            raise BenchmarkError(f"one zygote was expected to appear, not {len(found)}")
        return found[0]

    async def _full(self) -> None:
        """Return when the pool is full again."""
        until = time.monotonic() + _FULL_S
        while len(self._pool_zygote.children()) < _POOL:
            if time.monotonic() > until:
                raise BenchmarkError("the pool does not fill up again")
            await asyncio.sleep(_POLL_S)
        await asyncio.sleep(_SETTLE_S)

    def _prepare(self, books: Books) -> tuple[RunScope, Broker]:
        scope = RunScope(
            run=f"box-{next(self._numbers)}",
            tenant=TENANT,
            depth=0,
            policy=self._policy,
            deadline=time.monotonic() + _RUN_S,
        )
        calls = Calls(scope, audit=books.audit, ledger=books.ledger, prices=books.prices)
        broker = Broker(scope, calls=calls, audit=books.audit, ledger=books.ledger, documents=[], sub_model=MODEL)
        return scope, broker

    async def _first_result(self, jail: Jail, language: Language) -> tuple[float, float]:
        scope, broker = self._prepare(self._memory)
        started = time.perf_counter()
        box = Box(await jail.start(self._spec), broker, scope)
        try:
            await box.open(language, [])
            await _execute(box, _FIRST)
            first = time.perf_counter() - started
        except BaseException:
            await box.close()
            raise
        return first, await _timed(box.close)

    @contextlib.asynccontextmanager
    async def _session(self, language: Language, books: Books) -> AsyncIterator[Box]:
        """A box with an account, which has run a cell."""
        scope, broker = self._prepare(books)
        await books.ledger.open_run(
            scope.run, scope.tenant, run_limits=_UNLIMITED, tenant_limits=_UNLIMITED, now=scope.now()
        )
        box = Box(await self._jail.start(self._spec), broker, scope)
        try:
            await box.open(language, [])
            await _execute(box, _FIRST)
            yield box
        finally:
            await box.close()
            await books.ledger.close_run(scope.run)

    async def _again_and_again(self, language: Language, until: float) -> int:
        count = 0
        while time.perf_counter() < until:
            await self._first_result(self._jail, language)
            count += 1
        return count


class Boxes:
    """One language of the bench."""

    def __init__(self, bench: Bench, language: Language) -> None:
        self._bench = bench
        self._language: Language = language
        self.title = f"Belljar jail, {language}"
        inside = {"python": "all of Python inside", "restricted": "RestrictedPython inside"}
        self.isolation = f"{', '.join(bench.layers)}; {inside[language]}"

    async def round_of_boxes(self, plan: BoxPlan) -> Samples:
        bench, language = self._bench, self._language
        cold = [await bench.cold(language) for _ in range(plan.starts)]
        pooled = [await bench.pooled(language) for _ in range(plan.starts)]
        return {
            "cold": [first for first, _ in cold],
            "quiet": await after_quiet(plan.quiet, self._one_cold),
            "pooled": [first for first, _ in pooled],
            "cell": await bench.cells(language, plan.cells),
            "query": await bench.queries(language, plan.queries, durable=False),
            "query_durable": await bench.queries(language, plan.queries, durable=True),
            "close": [closed for _, closed in cold],
        }

    async def _one_cold(self) -> float:
        return (await self._bench.cold(self._language))[0]


async def _execute(box: Box, code: str) -> CellResult:
    cell = await box.execute(code)
    if cell.status != "ok":
        raise BenchmarkError(f"a cell ended with {cell.status}: {cell.error}")
    return cell


async def _timed(action: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await action()
    return time.perf_counter() - started


def _pss(process: psutil.Process) -> int:
    """The kernel's own sum, in bytes.

    Raises:
        BenchmarkError: this user may not read it, or this kernel has none.
    """
    try:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError as error:
        raise BenchmarkError(f"the memory of a box cannot be read: {error.strerror}") from None
    return next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
