"""Belljar as a subject of the fourth table: the public facade over texts of several sizes, log and ledger on the disk.

Each program has a box of its own, so that none reads from another's pages. A start with the text and one with the
smallest text take turns, and so does who goes first: their ratio is of the same minute.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from belljar.context import ContextStore
from belljar.engine import CellResult, Result
from belljar.runtime import Runtime
from belljar.sessions import Session
from benchmarks.context_texts import NEEDLE, ContextText
from benchmarks.measure import BenchmarkError, ContextPlan, Samples, check_total, times_printed
from benchmarks.ours import TENANT
from benchmarks.programs import FIRST, RANDOM, RANDOM_CHARS, RANDOM_COUNT, READS, SLICES, reads, through
from benchmarks.stats import percentile

__all__ = ["CONTEXT_POLICY", "START_SMALL", "Contexts", "Registration"]

# The preset under which a program may go through gigabytes at all.
CONTEXT_POLICY: Final = "dev"
# Starts with the smallest text, taken beside those of another: for the ratio, not for a row.
START_SMALL: Final = "start_small"
_SEARCH: Final = f"print(len(context.search({NEEDLE!r})))"
# RE2 has to look at every byte for it, and finds nothing in any of the texts.
_COUNT: Final = 'print(context.count_matches("[a-q][^a]{3}z"))'
# Smaller texts are counted through before anybody has read anything.
_STALL_BYTES: Final = 10_000_000


class Contexts:
    """One backend and one language. `runtime` must be open. Call `prepare` first."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._empty_bytes = 0
        self.backend = runtime.backend
        self.title = f"Belljar {runtime.backend}, {runtime.language}"
        self.isolation = ""

    async def prepare(self, small: ContextText) -> None:
        """See what a box has, and what an empty one weighs. The first box of a backend also warms it up."""
        await self._runtime.add_context(small.text.path, tenant=TENANT)
        await self._run(None, FIRST, 42)
        _, empty = await self._run(None, FIRST, 42)
        inside = {"python": "all of Python inside", "restricted": "RestrictedPython inside"}
        self.isolation = f"{', '.join(empty.layers)}; {inside[self._runtime.language]}"
        self._empty_bytes = empty.max_rss_bytes

    async def warm_up(self, text: ContextText) -> Samples:
        """Register it, if nobody has, and go through it once on the host: its pages are then in memory."""
        await self._runtime.add_context(text.text.path, tenant=TENANT)
        await self._run(text, _SEARCH, text.needles)
        return {}

    async def round_of_context(self, plan: ContextPlan, text: ContextText, small: ContextText) -> Samples:
        starts = [await self._starts(text, small, turn % 2 == 1) for turn in range(plan.starts)]
        samples = {"context_start": [own for own, _ in starts], START_SMALL: [other for _, other in starts]}
        peaks = []
        for measure, code, expected in (
            ("context_lines", through("context.lines()"), text.text.line_chars),
            ("context_slices", SLICES, text.text.chars),
            ("context_random", RANDOM, RANDOM_CHARS * RANDOM_COUNT),
            ("context_search", _SEARCH, text.needles),
        ):
            seconds, result = await self._run(text, code, expected)
            samples[measure] = [seconds]
            peaks.append(result.max_rss_bytes)
        samples["context_memory"] = [max(0, max(peaks) - self._empty_bytes)]
        if text.size_bytes >= _STALL_BYTES:
            samples["context_stall"] = [await self._stall(text)]
        return samples

    async def _stall(self, text: ContextText) -> float:
        """What a count by one run adds to the 99th percentile of another run's reads, in seconds."""
        seeds = itertools.count(1)
        async with self._session(text) as reader, self._session(text) as counter:
            await self._reads(reader, next(seeds))
            counting = asyncio.create_task(counter.execute(_COUNT))
            beside: list[float] = []
            while not counting.done():
                beside += await self._reads(reader, next(seeds))
            self._check(await counting, 0)
            quiet: list[float] = []
            while len(quiet) < len(beside):
                quiet += await self._reads(reader, next(seeds))
        return max(0.0, percentile(beside, 99) - percentile(quiet, 99))

    async def _reads(self, session: Session, seed: int) -> list[float]:
        return times_printed(self._said(await session.execute(reads(seed))), READS)

    def _session(self, text: ContextText | None) -> AbstractAsyncContextManager[Session]:
        return self._runtime.session(context=None if text is None else text.text.path, tenant=TENANT)

    async def _starts(self, text: ContextText, small: ContextText, small_first: bool) -> tuple[float, float]:
        """Seconds of a start with each of the two."""
        if small_first:
            other = await self._start(small)
            return await self._start(text), other
        return await self._start(text), await self._start(small)

    async def _start(self, text: ContextText) -> float:
        started = time.perf_counter()
        async with self._session(text) as session:
            cell = await session.execute(FIRST)
            seconds = time.perf_counter() - started
        self._check(cell, 42)
        return seconds

    async def _run(self, text: ContextText | None, code: str, expected: int) -> tuple[float, Result]:
        """One program in a box of its own, which has run a cell: its seconds, and the result of all."""
        async with self._session(text) as session:
            await session.execute(FIRST)
            started = time.perf_counter()
            cell = await session.execute(code)
            seconds = time.perf_counter() - started
        self._check(cell, expected)
        assert session.result is not None, "the session is closed"
        return seconds, session.result

    def _check(self, cell: CellResult, expected: int) -> None:
        check_total(self.title, self._said(cell), expected)

    def _said(self, cell: CellResult) -> str:
        if cell.status != "ok":
            raise BenchmarkError(f"{self.title}: a cell ended with {cell.status}: {cell.error}")
        return cell.stdout


class Registration:
    """Taking a text in, into a store that has never seen it. The same for all backends."""

    title: Final = "Belljar"
    isolation: Final = "registration is the host's work: no guest code takes part"

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._numbers = itertools.count(1)

    async def warm_up(self, text: ContextText) -> Samples:
        return {}

    async def round_of_context(self, plan: ContextPlan, text: ContextText, small: ContextText) -> Samples:
        return {"context_register": [await asyncio.to_thread(self._register, text)]}

    def _register(self, text: ContextText) -> float:
        folder = self._scratch / f"registered-{next(self._numbers)}"
        try:
            started = time.perf_counter()
            document = ContextStore(folder).add(text.text.path, now_ns=time.time_ns())
            seconds = time.perf_counter() - started
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        check_total("registration", str(document.chars), text.text.chars)
        return seconds
