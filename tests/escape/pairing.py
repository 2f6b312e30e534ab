"""Two boxes of two tenants at the same time: programs in two halves, of which neither may notice the other.

A file of `programs/pairs/` begins with what both halves share, and with

    # why: one sentence
    # says: EPERM                     optional: a text that one of them must print, so that a typo is no success

`#%% what it does` begins each half. They go in step, not by the clock: `meet()` returns in both when both have called
it. It is a question to a model that waits for the other's. A half that noticed the other calls `escaped(...)`.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import msgspec

from belljar import ModelReply, ModelRequest
from belljar.engine import CellResult
from belljar.models import FREE, Usage
from tests.escape.harness import ESCAPED, PROGRAMS, Escapes

__all__ = ["Meeting", "Pair", "load_pairs", "run_pair"]

_PAIRS = PROGRAMS / "pairs"
_HALF = re.compile(r"^#%%.*\n", re.MULTILINE)
_MEET = 'def meet():\n    llm_query("are you there?")\n'
_TENANTS = ("acme", "rival")


class Pair(msgspec.Struct, frozen=True):
    """A guest program in two halves."""

    name: str
    halves: tuple[str, str]
    says: str


class Meeting:
    """A model that answers the questions of two runs when both have asked."""

    scripted = True
    rates = FREE

    def __init__(self, name: str) -> None:
        self.name = f"scripted:{name}"
        self._both = asyncio.Barrier(len(_TENANTS))

    async def complete(self, request: ModelRequest) -> ModelReply:
        await self._both.wait()
        return ModelReply(text="yes", usage=Usage(), model=self.name, stop_reason="end_turn")

    async def aclose(self) -> None:
        pass


def load_pairs() -> list[Pair]:
    """All of them, by name."""
    return [_pair(path) for path in sorted(_PAIRS.glob("*.py"))]


def _pair(path: Path) -> Pair:
    source = path.read_text("utf-8")
    header = dict(re.findall(r"^# (why|says): (.+)$", source, re.MULTILINE))
    assert header["why"], path
    shared, one, other = _HALF.split(source)
    before = f"{ESCAPED}{_MEET}{shared}"
    return Pair(name=path.stem, halves=(before + one, before + other), says=header.get("says", ""))


async def run_pair(escapes: Escapes, pair: Pair) -> list[CellResult]:
    """Both halves at once, each in a box of another tenant."""
    runtime = await escapes.runtime("python")
    meeting = Meeting(pair.name)

    async def half(tenant: str, source: str) -> CellResult:
        async with runtime.session(model=meeting, tenant=tenant) as session:
            return await session.execute(source)

    halves = zip(_TENANTS, pair.halves, strict=True)
    return await asyncio.gather(*(half(tenant, source) for tenant, source in halves))
