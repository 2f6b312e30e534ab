"""The peer as a subject: its own environment, its own process, one line to it and one line back.

The environment is made on first use from `requirements-peers.txt`, beside this file, and kept. A file in it holds the
requirements that it was made from; it is written last, so an environment that was half made is made anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

from benchmarks.measure import BenchmarkError, Cell, Plan, Samples, measure_sandbox
from benchmarks.programs import Text

__all__ = ["Rlms", "peers_python"]

_HERE = Path(__file__).parent
_DRIVER = _HERE / "peer_rlms.py"
_REQUIREMENTS = _HERE / "requirements-peers.txt"
_VENV = _HERE / ".peers-venv"

# The longest answer is a first import of everything that the peer depends on; on a loaded machine that takes a while.
_ANSWER_S = 120.0
_END_S = 10.0


def peers_python(progress: Callable[[str], None]) -> Path:
    """The interpreter of the peers' environment, which is made if need be (some 20 s, and the network).

    Raises:
        BenchmarkError: it cannot be made.
    """
    python, stamp = _VENV / "bin" / "python", _VENV / "requirements.txt"
    wanted = _REQUIREMENTS.read_text(encoding="utf-8")
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    progress(f"installing peers into {_VENV}: {' '.join(wanted.split())}")
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(_REQUIREMENTS)]
    try:
        for command in ([sys.executable, "-m", "venv", "--clear", str(_VENV)], install):
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BenchmarkError(
            f"the peers cannot be installed ({error}): try again, or leave out with --no-peers"
        ) from None
    # Whoever looks through the checkout (git, ruff) passes over it.
    (_VENV / ".gitignore").write_text("*\n", encoding="utf-8")
    stamp.write_text(wanted, encoding="utf-8")
    return python


class RlmsBox:
    def __init__(self, peer: Rlms, open_s: float) -> None:
        self._peer = peer
        self.open_s = open_s

    async def execute(self, code: str) -> Cell:
        answer = await self._peer.ask({"do": "execute", "code": code})
        # The peer reports a program's exception as a line on stderr, and nothing else.
        if answer["stderr"]:
            raise BenchmarkError(f"{self._peer.title}: a cell failed: {answer['stderr'].strip()[:500]}")
        return Cell(answer["seconds"], answer["stdout"])


class Rlms:
    """`rlms`, local environment, in a process of its own. Use as a context manager.

    Args:
        python: the interpreter of the peers' environment.
        scratch: where it keeps its temporary files.
    """

    def __init__(self, python: Path, scratch: Path) -> None:
        self._python = python
        self._scratch = scratch
        self._process: Process | None = None
        self.version = ""
        self.title = "rlms local"

    async def __aenter__(self) -> Self:
        # Neither keys nor settings of the caller: the peer looks for both.
        environ = {"PATH": os.defpath, "HOME": str(self._scratch), "TMPDIR": str(self._scratch)}
        self._process = await asyncio.create_subprocess_exec(
            *(str(self._python), "-I", str(_DRIVER)), stdin=PIPE, stdout=PIPE, env=environ, cwd=self._scratch
        )
        try:
            self.version = (await self._answer())["version"]
        except BaseException:
            await self._end()
            raise
        self.title = f"rlms {self.version} local (no isolation at all)"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def round(self, plan: Plan, text: Text) -> Samples:
        return await measure_sandbox(self, plan, text)

    @contextlib.asynccontextmanager
    async def open(self, context: Path | None) -> AsyncIterator[RlmsBox]:
        opened = await self.ask({"do": "open", "context": None if context is None else str(context)})
        # After an error there is no next box: the end of the process closes this one.
        yield RlmsBox(self, opened["seconds"])
        await self.ask({"do": "close"})

    async def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """One order to the driver, one answer back.

        Raises:
            BenchmarkError: it gave none.
        """
        assert self._process is not None, "not entered"
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        return await self._answer()

    async def _answer(self) -> dict[str, Any]:
        assert self._process is not None, "not entered"
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), _ANSWER_S)
        except TimeoutError:
            raise BenchmarkError(f"{self.title} gave no answer within {_ANSWER_S:.0f} s") from None
        if not line:
            raise BenchmarkError(f"{self.title}: its process ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _END_S)
        except TimeoutError:
            process.kill()
            await process.wait()
