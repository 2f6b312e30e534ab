"""`belljar serve` as a process that is killed and started again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.measure import BenchmarkError

__all__ = ["Served"]

_BELLJAR: Final = Path(sys.executable).with_name("belljar")
_PATIENCE_S: Final = 120.0


class Served:
    """One service, on a port that it keeps. `pids` are those of all its processes so far.

    Args:
        name: for its file of messages.
        environ: all that it knows of this machine.
        folder: where it works, and says what it has to say.
    """

    def __init__(self, name: str, environ: Mapping[str, str], folder: Path) -> None:
        self.messages = folder / f"{name}.log"
        self.url = ""
        self.key: str | None = None
        self.pids: list[int] = []
        self._environ = dict(environ)
        self._folder = folder
        self._process: Process | None = None
        self._port = "0"

    async def start(self) -> None:
        """Returns when it listens. Raises BenchmarkError if it never does."""
        stdout = await self._begin()
        text = b""
        async with asyncio.timeout(_PATIENCE_S):
            while not text.endswith(b"}\n") and (line := await stdout.readline()):
                text += line
        if not text:
            raise BenchmarkError(f"the service did not start: {self.messages.read_text()[-500:]}")
        ready = json.loads(text)
        self.url, self.key = ready["url"], ready["key"] or self.key
        self._port = self.url.rpartition(":")[2]

    async def start_and_kill(self, after_s: float) -> None:
        """Begin to start it, and kill it before it has got far."""
        await self._begin()
        await asyncio.sleep(after_s)
        await self.kill()

    async def _begin(self) -> asyncio.StreamReader:
        with self.messages.open("ab") as messages:
            self._process = await asyncio.create_subprocess_exec(
                *(_BELLJAR, "serve", "--port", self._port, "--pool", "1", "--json"),
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=messages,
                env=self._environ,
                cwd=self._folder,
            )
        assert self._process.stdout is not None
        self.pids.append(self._process.pid)
        return self._process.stdout

    async def kill(self) -> None:
        """SIGKILL, at whatever it does."""
        os.kill(self.pids[-1], signal.SIGKILL)
        await self._ended()

    async def stop(self) -> None:
        """SIGTERM. Raises BenchmarkError if it does not end well."""
        os.kill(self.pids[-1], signal.SIGTERM)
        if (code := await self._ended()) != 0:
            raise BenchmarkError(f"the service ended with {code}: {self.messages.read_text()[-500:]}")

    async def close(self) -> None:
        """Let nothing of it stay."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._ended()

    async def _ended(self) -> int:
        assert self._process is not None, "it runs"
        async with asyncio.timeout(_PATIENCE_S):
            return await self._process.wait()
