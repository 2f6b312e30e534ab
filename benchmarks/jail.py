"""Belljar's boxes as subjects of the second table: the jail, the broker and the box, without a run around them.

The log and the ledger are in memory, but for one row: the times are those of the wall and the wire (`wiring`).

One bench serves both languages. It has two jails, each with a zygote of its own: one makes every box when it is asked
for, the other keeps some ready. A box that is taken from the second is replaced at once, in the background, and that
work falls into the time of its first result, as it does in use; before the next is taken, the bench waits until the
pool is full again.

A zygote is found as the process that appears below this one when a jail gets warm, and its boxes are its children.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Self

import psutil

from belljar.engine.box import Box
from belljar.identity import Language
from belljar.sandbox import Image, Jail, ensure_image
from benchmarks.measure import BenchmarkError, BoxPlan, Samples, after_quiet, times_printed
from benchmarks.programs import EMPTY, queries
from benchmarks.wiring import Books, Wiring, execute, open_books, timed

__all__ = ["Bench", "Boxes", "Weights"]

_POOL: Final = 4
# A replaced box exists after a millisecond or two, and is ready when its doors are closed: at worst some 30 ms later.
_POLL_S = 0.002
_FULL_S = 20.0
_SETTLE_S = 0.05
_IDLE_S = 0.5


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
        self._wiring = Wiring()
        self._resources = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            self._image: Image = await asyncio.to_thread(ensure_image, self._images)
            self._memory = await open_books(stack, None)
            self._disk = await open_books(stack, self._scratch)
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
            return [await timed(lambda: execute(box, EMPTY)) for _ in range(count)]

    async def queries(self, language: Language, count: int, *, durable: bool) -> list[float]:
        """Seconds of each query, by the guest's clock."""
        async with self._session(language, self._disk if durable else self._memory) as box:
            return times_printed((await execute(box, queries(count))).stdout, count)

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

    async def _layers(self) -> tuple[str, ...]:
        """What a box of this host really has. The first box of a jail also starts its zygote."""
        box = await self._jail.start(self._wiring.spec)
        layers = box.layers
        await box.kill()
        return layers

    async def _warm(self, jail: Jail, size: int) -> psutil.Process:
        """Fill a jail's pool, and give its zygote."""
        before = set(psutil.Process().children())
        await jail.warm(self._wiring.spec, size)
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

    async def _first_result(self, jail: Jail, language: Language) -> tuple[float, float]:
        start = partial(jail.start, self._wiring.spec)
        first, box = await self._wiring.first_result(start, language, self._memory)
        return first, await timed(box.close)

    def _session(self, language: Language, books: Books) -> contextlib.AbstractAsyncContextManager[Box]:
        return self._wiring.session(partial(self._jail.start, self._wiring.spec), language, books)

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
