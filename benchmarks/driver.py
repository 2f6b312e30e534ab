"""A subject in a process of its own: one line of JSON to it, one line back.

The process says who it is in a first line (`hello`), then answers each order, and ends when its stdin does. It gets
neither keys nor settings of the caller. What it prints on stderr goes to a file; when it ends early, the last line
there is the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

from benchmarks.measure import BenchmarkError

__all__ = ["Driver"]

# The longest answer is a first import of everything that a peer depends on; on a loaded machine that takes a while.
_ANSWER_S = 120.0
_END_S = 10.0
_REASON_CHARS_MAX = 300
# The times of a second's work are in one line.
_LINE_BYTES_MAX = 1 << 24

_numbers = itertools.count(1)


class Driver:
    """Use as a context manager.

    Args:
        title: of the subject, for messages.
        command: the program and its arguments.
        scratch: where it works and keeps its temporary files.
        environ: what its environment has besides a path and these folders.
    """

    def __init__(
        self, title: str, command: Sequence[str], scratch: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self._title = title
        self._command = command
        self._scratch = scratch
        self._environ = environ or {}
        self._said = scratch / f"{next(_numbers)}.stderr"
        self._process: Process | None = None
        self._late = False
        self.hello: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        environ = {"PATH": os.defpath, "HOME": str(self._scratch), "TMPDIR": str(self._scratch), **self._environ}
        with self._said.open("wb") as stderr:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=stderr,
                env=environ,
                cwd=self._scratch,
                limit=_LINE_BYTES_MAX,
            )
        try:
            self.hello = await self._answer(_ANSWER_S)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    @property
    def pid(self) -> int:
        assert self._process is not None, "not entered"
        return self._process.pid

    async def ask(self, order: dict[str, Any], *, within_s: float = _ANSWER_S) -> dict[str, Any]:
        """One order, one answer. Who gives none in time is not asked again.

        Raises:
            BenchmarkError: it gave none.
        """
        assert self._process is not None, "not entered"
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        return await self._answer(within_s)

    async def _answer(self, within_s: float) -> dict[str, Any]:
        assert self._process is not None, "not entered"
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), within_s)
        except TimeoutError:
            self._late = True
            raise BenchmarkError(f"{self._title} gave no answer within {within_s:.0f} s") from None
        if not line:
            raise BenchmarkError(f"{self._title}: its process ended: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        said = self._said.read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(said) if line.strip()), "it said nothing")[:_REASON_CHARS_MAX]

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 0 if self._late else _END_S)
        except TimeoutError:
            # Its own processes too, which would go on with what they were told.
            for child in _descendants(process.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            process.kill()
            await process.wait()


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
