"""`belljar` as its users call it, and floors beside it: each command in a process of its own, timed from outside."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from belljar.keys import Keys
from belljar.state import State
from benchmarks.measure import BenchmarkError, Samples
from benchmarks.stats import milliseconds

__all__ = ["BELLJAR", "Demo", "Machine", "Reader", "Took"]

BELLJAR: Final = str(Path(sys.executable).with_name("belljar"))
_TIMED: Final = str(Path(__file__).with_name("timed.py"))
_POLICIES: Final = Path(__file__).parents[1] / "policies"
# Far above what a slow machine takes for a million records.
_PATIENCE_S: Final = 900.0
# A demo of a million tokens has 276 records, 20 more than a pack: after so many demos those fill another one.
_UNTIL_PACKED: Final = 13
_REASON_CHARS_MAX: Final = 300
_MB: Final = 1e6


class Took(NamedTuple):
    """What a command took, and what it printed."""

    seconds: float
    memory_bytes: int
    said: bytes


@dataclass(frozen=True)
class Machine:
    """A host of the benchmark's own: nobody's keys, no settings."""

    scratch: Path
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def environ(self) -> dict[str, str]:
        return {"PATH": os.defpath, "HOME": str(self.scratch), "LC_ALL": "C.UTF-8"}

    @property
    def keys(self) -> Keys:
        return Keys.at(self.environ)

    async def run(self, *command: str | Path) -> Took:
        """Raises:
        BenchmarkError: it did not end well, or not in time.
        """
        output = self.scratch / f"{next(self._numbers)}.stdout"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", _TIMED, output, *command,
            stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=self.environ, cwd=self.scratch, start_new_session=True,
        )  # fmt: skip
        try:
            told, complaint = await asyncio.wait_for(process.communicate(), _PATIENCE_S)
        except BaseException as error:
            # It, and what it started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            if isinstance(error, TimeoutError):
                raise BenchmarkError(f"{_shown(command)} did not end within {_PATIENCE_S:.0f} s") from None
            raise
        took: dict[str, Any] = json.loads(told) if told else {"status": process.returncode}
        if took["status"] != 0:
            reason = complaint.decode(errors="replace").strip()[-_REASON_CHARS_MAX:]
            raise BenchmarkError(f"{_shown(command)} ended with {took['status']}: {reason}")
        said = output.read_bytes()
        output.unlink()
        return Took(took["seconds"], took["memory_bytes"], said)


def _shown(command: tuple[str | Path, ...]) -> str:
    return " ".join(str(word) for word in command[:4])


class Demo:
    """`belljar demo` under the preset `standard`, but for the contents that are kept; a subject of `measure`.

    A round gives the seconds of the command and of its run, and by how many megabytes the file of log and ledger grew.
    """

    def __init__(self, machine: Machine, kept: str, tokens: int) -> None:
        self.title = f"Belljar, contents: {kept}"
        self.state = State(machine.scratch / kept)
        self.run, self.calls = "", 0
        self._machine = machine
        self._tokens = tokens
        self._policy = machine.scratch / f"{kept}.toml"
        self._policy.write_text(_policy(kept), encoding="utf-8")

    async def round(self) -> Samples:
        before = self._size()
        took = await self._machine.run(
            BELLJAR, "demo", "--tokens", str(self._tokens), "--policy", self._policy, "--state", self.state.root,
            "--quiet", "--json",
        )  # fmt: skip
        grown, report = self._size() - before, json.loads(took.said)
        result: dict[str, Any] = report["result"]
        if result["status"] != "ok" or not report["log_verifies"]:
            raise BenchmarkError(f"{self.title}: the demo ended with {result['status']}")
        self.run, self.calls = result["run"], result["usage"]["calls"]
        return {
            "log_demo": [took.seconds],
            "log_demo_run": [result["wall_s"]],
            "log_size_file": [grown / _MB],
        }

    async def grown(self) -> float:
        """By how many bytes the file grows with one more demo: the mean of so many that all records find their pack."""
        before = self._size()
        for _ in range(_UNTIL_PACKED):
            await self.round()
        return (self._size() - before) / _UNTIL_PACKED

    @property
    def log(self) -> Path:
        assert isinstance(self.state.journal, Path)
        return self.state.journal

    def _size(self) -> int:
        """What is not yet in the file is in the one beside it."""
        places = (self.log, self.log.with_name(f"{self.log.name}-wal"))
        return sum(place.stat().st_size for place in places if place.exists())


def _policy(kept: str) -> str:
    """A policy that extends another may only keep less, so this is the preset itself, with one line changed."""
    lines = (_POLICIES / "standard.toml").read_text("utf-8").splitlines(keepends=True)
    changes = {'name = "standard"': f'name = "benchmark-{kept}"', "contents = [": f'contents = "{kept}"'}
    found = 0
    for number, line in enumerate(lines):
        for beginning, other in changes.items():
            if line.startswith(beginning):
                lines[number], found = f"{other}\n", found + 1
    if found != len(changes):
        raise BenchmarkError("the preset standard is not what it was")
    return "".join(lines)


class Reader:
    """A command that reads a log, or stands beside one; a subject of `measure`.

    Args:
        title: of the subject.
        measure: what its seconds are called; its memory, if that is wanted, has `_memory` behind it.
        command: the program and its arguments.
        says: what must be in what it prints.
    """

    def __init__(
        self, machine: Machine, title: str, measure: str, command: tuple[str | Path, ...], says: str, *, memory: bool
    ) -> None:
        self.title = title
        self._machine = machine
        self._measure = measure
        self._command = command
        self._says = says.encode()
        self._memory = memory

    async def round(self) -> Samples:
        took = await self._machine.run(*self._command)
        if self._says not in took.said:
            raise BenchmarkError(f"{self.title} took {milliseconds(took.seconds)} ms and did not say {self._says!r}")
        memory = {f"{self._measure}_memory": [took.memory_bytes / _MB]} if self._memory else {}
        return {self._measure: [took.seconds], **memory}
