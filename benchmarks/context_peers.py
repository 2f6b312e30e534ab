"""Peers, and the floor, as subjects of the fourth table: each has the whole text as one `str`.

Every round has a process of its own, which has so long for all of it and so much memory, and no more. Who cannot do it
is not asked again, neither in later rounds nor with larger texts; the reason is told in the table.
"""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil

from benchmarks.context_texts import NEEDLE, ContextText
from benchmarks.driver import Driver
from benchmarks.measure import BenchmarkError, ContextPlan, Samples, check_total
from benchmarks.programs import FIRST, RANDOM, RANDOM_CHARS, RANDOM_COUNT, SLICES, through

__all__ = ["ContextPeer", "GrepFloor", "floor"]

_HERE = Path(__file__).parent
# For all programs over one text together.
_TEXT_S: Final = 30.0
# Of each of its processes: six times the largest text that is tried by default.
_ADDRESS_SPACE_BYTES: Final = 6 << 30
_COUNT: Final = f"print(context.count({NEEDLE!r}))"


class ContextPeer:
    """One peer, by the words of `peer_contexts`. Call `prepare` first.

    Args:
        name: what it is called in the table, without its version.
        command: the program and its arguments.
        isolation: what stands between guest code and the host, in words.
        opens: whether its programs go through the lines of the file, and not of a `str`.
    """

    def __init__(
        self, name: str, command: Sequence[str], scratch: Path, *, isolation: str, opens: bool = False
    ) -> None:
        self._name = name
        self._command = command
        self._scratch = scratch
        self._opens = opens
        self._empty_bytes = 0
        self.title = name
        self.isolation = isolation
        self.reason = ""

    async def prepare(self) -> None:
        """See who it is, that it works, and what it weighs without a text.

        Raises:
            BenchmarkError: it does not work.
        """
        async with Driver(self._name, self._command, self._scratch) as driver:
            first, _, rest = self._name.partition(" ")
            self.title = " ".join(filter(None, (first, driver.hello["version"], rest)))
            turn = _Turn(driver)
            await turn.open(None)
            self._empty_bytes = _peak_bytes(driver.pid)

    async def warm_up(self, text: ContextText) -> Samples:
        return {}

    async def round_of_context(self, plan: ContextPlan, text: ContextText, small: ContextText) -> Samples:
        samples: Samples = {}
        if self.reason:
            return samples
        try:
            async with Driver(self._name, self._command, self._scratch) as driver:
                resource.prlimit(driver.pid, resource.RLIMIT_AS, (_ADDRESS_SPACE_BYTES, _ADDRESS_SPACE_BYTES))
                turn = _Turn(driver)
                if self._opens:
                    # Before it holds the whole text, for which there may be no room.
                    await turn.open(None)
                    samples["context_lines"] = [await turn.execute(_opening(text), text.text.chars)]
                samples["context_start"] = [await turn.open(text)]
                for measure, code, expected in self._programs(text):
                    samples[measure] = [await turn.execute(code, expected)]
                samples["context_memory"] = [max(0, _peak_bytes(driver.pid) - self._empty_bytes)]
        except (BenchmarkError, OSError) as error:
            self.reason = str(error) or type(error).__name__
        return samples

    def _programs(self, text: ContextText) -> list[tuple[str, str, int]]:
        lines = ("context_lines", through("context.splitlines()"), text.text.line_chars)
        return [
            *([] if self._opens else [lines]),
            ("context_slices", SLICES, text.text.chars),
            ("context_random", RANDOM, RANDOM_CHARS * RANDOM_COUNT),
            ("context_search", _COUNT, text.needles),
        ]


class GrepFloor:
    """`grep -c` over the file, in the C locale, from the start of the program to its end."""

    title: Final = "grep -c (floor)"
    isolation: Final = "none"

    async def warm_up(self, text: ContextText) -> Samples:
        self._count(text)
        return {}

    async def round_of_context(self, plan: ContextPlan, text: ContextText, small: ContextText) -> Samples:
        return {"context_search": [self._count(text)]}

    def _count(self, text: ContextText) -> float:
        """In the event loop on purpose: nothing else is to run meanwhile."""
        command = ["grep", "-c", NEEDLE, str(text.text.path)]
        started = time.perf_counter()
        done = subprocess.run(command, env={"LC_ALL": "C"}, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        seconds = time.perf_counter() - started
        check_total("grep", done.stdout.decode(errors="replace"), text.needles)
        return seconds


def _opening(text: ContextText) -> str:
    return through(f"open({str(text.text.path)!r}, encoding='utf-8')")


def floor(scratch: Path) -> ContextPeer:
    """Plain Python without a wall: `open` for the lines, one `str` for the rest."""
    command = [sys.executable, "-I", "-S", str(_HERE / "peer_contexts.py"), "plain"]
    return ContextPeer("Python (floor)", command, scratch, isolation="none", opens=True)


class _Turn:
    """One process's turn with one text, and the time that is left of it."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._until = time.monotonic() + _TEXT_S

    async def open(self, text: ContextText | None) -> float:
        """Seconds from the request to the first result."""
        path = None if text is None else str(text.text.path)
        opened = await self._driver.ask({"do": "open", "context": path}, within_s=self._left_s())
        return float(opened["seconds"]) + await self.execute(FIRST, 42)

    async def execute(self, code: str, expected: int) -> float:
        answer = await self._driver.ask({"do": "execute", "code": code}, within_s=self._left_s())
        # One of them reports a program's exception here, and nothing else.
        if answer["stderr"]:
            raise BenchmarkError(f"a program failed: {answer['stderr'].strip()[:300]}")
        check_total("a program", answer["stdout"], expected)
        return float(answer["seconds"])

    def _left_s(self) -> float:
        return max(0.1, self._until - time.monotonic())


def _peak_bytes(pid: int) -> int:
    """The most memory that a process and those below it ever had, as the kernel counts it, in sum."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            status = Path(f"/proc/{one.pid}/status").read_text(encoding="utf-8", errors="replace")
            total += next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)
    return total
