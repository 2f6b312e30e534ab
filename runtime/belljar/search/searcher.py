"""Searching a document on the host, for guests, without ever holding up anybody else.

A search runs in a process of its own (`process`), of which there are a few: it scans at memory speed and never has
this process's interpreter lock. It has a deadline, and it ends when whoever asked is gone: both by SIGKILL, because
nothing softer stops a scan. A process that was killed, or died of a pattern, is replaced when the next question comes.

Questions wait for a free process in the order in which they come; the broker lets no run have more than one at a time.
What is looked up for the account of a run (`trace`, `repeats`) never takes the last process: no search waits for it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
import sys
from array import array
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from belljar.errors import HostFault, PolicyDenied
from belljar.search.hits import MATCH_CHARS_MAX, spans
from belljar.tasks import to_the_end

__all__ = ["Findings", "Question", "Searcher", "Tracked"]

_SCRIPT: Final = Path(__file__).with_name("worker.py")
# One for each core of a small machine: they leave the third to nobody, but give way (they are nice).
_WORKERS_MAX: Final = 2
# Short enough for others to have their turn soon, long enough that to begin anew costs little beside it.
_SLICE_S: Final = 0.5
_LENGTH: Final = struct.Struct("!I")
_HEADER_BYTES_MAX: Final = 65536
_PIECE_BYTES: Final = 1 << 20
# One part of a document that a prompt contains: doc, start, stop.
_TRACED: Final = struct.Struct("<IQQ")
# After so much of its time a process tells what it has found: at the deadline it would be killed with it.
_TRACE_SHARE: Final = 0.7
_TRACE_BYTES_MAX: Final = 64 * 2**20


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What to look for in the document in `folder`.

    Attributes:
        mode: "find" matches, "count" them, or give "lines"; "find_items" and "count_items" take each item of a list
            or dict for a text of its own.
        pattern: RE2 syntax; empty for lines.
        start, stop: the range, in characters; for lines, line numbers.
        limit: at most so many matches.
        bytes_max: the largest answer.
    """

    folder: Path
    mode: Literal["find", "count", "lines", "find_items", "count_items"]
    pattern: str
    start: int
    stop: int
    limit: int
    bytes_max: int


class Findings(msgspec.Struct, frozen=True):
    """`count` matches (for lines: characters from `start`); `next`, where to go on; `body` as on the wire.

    A pattern has so many `groups`; the body begins with so many bytes of their `names` (see `hits`).
    """

    start: int
    count: int
    next: int | None
    body: bytes
    groups: int = 0
    names: int = 0

    def spans(self, mode: str) -> list[list[int]]:
        """The ranges of characters whose text is in `body`."""
        if mode == "lines":
            return [[self.start, self.start + self.count]]
        if mode in ("count", "count_items"):
            return []
        return spans(self.body, mode, self.count, self.groups, self.names)


class Tracked(msgspec.Struct, frozen=True):
    """A document in `folder`, and the ranges of its characters in which to look, the likeliest first.

    Attributes:
        found: what was found of it in prompts, as often as it was.
    """

    doc: int
    folder: Path
    ranges: list[tuple[int, int]]
    found: list[tuple[int, int]] = []


class _Worker:
    """One process that searches, and the socket that is its standard input and output."""

    def __init__(self) -> None:
        """Raises OSError when it cannot be started."""
        self._stream, theirs = socket.socketpair()
        self._stream.setblocking(False)
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    [sys.executable, "-I", "-B", str(_SCRIPT)],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.DEVNULL,
                    env={},
                    # A Ctrl-C at the terminal is the host's to handle.
                    start_new_session=True,
                )
            except OSError:
                self._stream.close()
                raise

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    async def exchange(
        self, asked: Mapping[str, object], body: Sequence[bytes], answer_bytes_max: int
    ) -> tuple[dict[str, Any], bytes]:
        """Ask, and read the answer. Raises OSError when it is not there any more."""
        loop = asyncio.get_running_loop()
        asked = {**asked, "body": sum(map(len, body))}
        await loop.sock_sendall(self._stream, json.dumps(asked, ensure_ascii=False).encode() + b"\n")
        for part in body:
            await loop.sock_sendall(self._stream, part)
        header = json.loads(await self._part(_HEADER_BYTES_MAX))
        return header, await self._part(answer_bytes_max)

    def kill(self) -> None:
        """Whoever waits for an answer is told that it has ended."""
        self._process.kill()

    def close(self) -> None:
        self._stream.close()

    async def end(self) -> None:
        self.kill()
        self.close()
        await asyncio.to_thread(self._process.wait)

    async def _part(self, bytes_max: int) -> bytes:
        (size,) = _LENGTH.unpack(await self._exactly(_LENGTH.size))
        if size > bytes_max:
            raise OSError("an answer that is too long")
        return await self._exactly(size)

    async def _exactly(self, size: int) -> bytes:
        loop, parts = asyncio.get_running_loop(), []
        while size:
            part = await loop.sock_recv(self._stream, min(size, _PIECE_BYTES))
            if not part:
                raise OSError("it has ended")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class Searcher:
    """The processes that search. Started when needed; end them with `aclose`.

    Args:
        slice_s: after so many seconds a question is answered with the matches until then, and where to go on.
    """

    def __init__(self, workers_max: int = _WORKERS_MAX, slice_s: float = _SLICE_S) -> None:
        self._workers_max = workers_max
        self._slice_s = slice_s
        self._slots = asyncio.Semaphore(workers_max)
        self._account_slots = asyncio.Semaphore(max(1, workers_max - 1))
        self._closed = False
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()

    async def ask(self, question: Question, *, deadline_s: float) -> Findings:
        """Answer `question` within so many seconds from when a process takes it.

        Raises:
            PolicyDenied: `search.pattern`, `search.deadline`, `search.memory`, `search.died` or `read.too_long`.
            HostFault: the process could not be started, or the searcher was closed.
        """
        asked = {
            "folder": str(question.folder),
            "mode": question.mode,
            "pattern": question.pattern,
            "start": question.start,
            "stop": question.stop,
            "limit": question.limit,
            "chars": MATCH_CHARS_MAX,
            "bytes": question.bytes_max,
            "slice_s": self._slice_s,
        }
        header, body = await self._talk(asked, (), question.bytes_max, deadline_s)
        return _findings(header, body, question)

    async def trace(
        self, prompts: Sequence[bytes], tracked: Sequence[Tracked], *, deadline_s: float
    ) -> tuple[list[tuple[int, int, int]], bool]:
        """The parts of the documents that the prompts are made of: (doc, start, stop); and whether that is all.

        What is in the prompts several times is there as often.

        Raises: as `ask`.
        """
        asked = {"mode": "trace", "prompts": [*map(len, prompts)], "seconds": _TRACE_SHARE * deadline_s}
        return await self._look_up(asked, tracked, prompts, deadline_s)

    async def repeats(
        self, tracked: Sequence[Tracked], *, deadline_s: float
    ) -> tuple[list[tuple[int, int, int]], bool]:
        """What else counts as shown, since its text was found too often elsewhere; and whether that is all.

        Raises: as `ask`.
        """
        return await self._look_up({"mode": "repeats"}, tracked, (), deadline_s)

    async def _look_up(
        self, asked: Mapping[str, object], tracked: Sequence[Tracked], prompts: Sequence[bytes], deadline_s: float
    ) -> tuple[list[tuple[int, int, int]], bool]:
        """The question's body: for each text its ranges, then what was found of it; then the prompts."""
        texts = [
            {"doc": one.doc, "folder": str(one.folder), "ranges": len(one.ranges), "found": len(one.found)}
            for one in tracked
        ]
        ranges = [_packed(part) for one in tracked for part in (one.ranges, one.found)]
        async with self._account_slots:
            header, body = await self._talk(
                {**asked, "texts": texts}, [*ranges, *prompts], _TRACE_BYTES_MAX, deadline_s
            )
        return list(_TRACED.iter_unpack(body)), header.get("complete", False)

    async def aclose(self) -> None:
        """End the processes. Who waits for an answer gets a HostFault, as does whoever asks from now on."""
        self._closed = True
        while self._idle:
            await self._idle.pop().end()
        for worker in self._busy:
            worker.kill()
        for _ in range(self._workers_max):  # each asker ends the process that it had, then lets the next one fail
            await self._slots.acquire()
        for _ in range(self._workers_max):
            self._slots.release()

    async def _talk(
        self, asked: Mapping[str, object], body: Sequence[bytes], answer_bytes_max: int, deadline_s: float
    ) -> tuple[dict[str, Any], bytes]:
        async with self._slots:
            worker = self._take()
            try:
                async with asyncio.timeout(deadline_s):
                    answer = await worker.exchange(asked, body, answer_bytes_max)
            except TimeoutError:
                raise PolicyDenied(
                    f"the search took longer than the policy's {deadline_s:g} s: "
                    "search a smaller range (start, stop), or for something more specific",
                    code="search.deadline",
                    limit=round(deadline_s * 1000),
                    observed=round(deadline_s * 1000),
                ) from None
            except OSError as error:
                if self._closed:
                    raise HostFault("the search was ended: the runtime closes") from error
                raise PolicyDenied(
                    "the process that searched died: search a smaller range, or for something simpler",
                    code="search.died",
                ) from error
            else:
                if "fault" in answer[0]:
                    raise HostFault(f"a stored context could not be searched: {answer[0]['fault']}")
                if not self._closed:
                    self._busy.discard(worker)
                    self._idle.append(worker)
                return answer
            finally:
                if worker in self._busy:  # whatever it still does, nobody waits for it
                    self._busy.discard(worker)
                    await to_the_end(worker.end())

    def _take(self) -> _Worker:
        if self._closed:
            raise HostFault("nothing can be searched any more: the runtime is closed")
        while self._idle:
            worker = self._idle.pop()
            if worker.alive:
                break
            worker.close()
        else:
            try:
                worker = _Worker()
            except OSError as error:
                raise HostFault(f"no process could be started to search with: {error}") from error
        self._busy.add(worker)
        return worker


def _packed(ranges: Sequence[tuple[int, int]]) -> bytes:
    return array("Q", chain.from_iterable(ranges)).tobytes()


def _findings(header: dict[str, Any], body: bytes, question: Question) -> Findings:
    refused = header.get("refused")
    if refused == "read.too_long":
        raise PolicyDenied(f"{header['message']}: read it in slices", code=refused, limit=question.bytes_max)
    if refused is not None:
        raise PolicyDenied(header["message"], code=refused)
    told = header.get("groups", 0), header.get("names", 0)
    return Findings(header["start"], header["count"], header["next"], body, *told)
