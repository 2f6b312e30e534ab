"""Searches documents on the host, for guests, without ever holding up anybody else.

A search runs in a process of its own (`process`), of which there are a few: it scans at memory speed and never takes
this process's interpreter lock. It ends at its deadline, and when whoever asked is gone: both by SIGKILL, because
nothing gentler stops a scan. A process that was killed, or died of a pattern, is replaced when the next question comes.

Questions wait for a free process in the order in which they come; the broker lets no run have more than one at a time.
Look-ups for a run's coverage (`trace`, `repeats`) never take the last process: no search waits for them.

Who is at fault. An answer's type says so (`messages`). If there is none because the process died, its end says it:

    SIGSEGV, SIGABRT,   it died of what it computed, and that is what was asked: out of memory, or a pattern that the
    SIGILL, SIGFPE      library does not survive. A PolicyDenied, `search.died`
    SIGBUS              a file became shorter under the map, or its disk cannot be read. It is asked once more in a new
                        process, which says on opening what is damaged; a second time it is the disk. A HostFault
    another signal      somebody outside killed it: the kernel for want of memory, a person by mistake. The asker is not
                        to blame, so it is asked once more; a second time is a HostFault
    an exit status      it never ends by itself: a HostFault, ours
"""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
import subprocess
import sys
from array import array
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Final, Literal, assert_never

import msgspec

from belljar.errors import BelljarError, HostFault, PolicyDenied
from belljar.search.hits import spans, texts
from belljar.search.messages import Answer, Answered, Asked, Denied, Faulted, LookUp, Mode, Searched, TrackedText
from belljar.tasks import to_the_end

__all__ = ["Findings", "Question", "Searcher", "Tracked"]

_SCRIPT: Final = Path(__file__).with_name("worker.py")
# One for each core of a small machine; they give way to the host (they are nice).
_WORKERS_MAX: Final = 2
# Short enough for others to get their turn soon, long enough that starting again costs little in comparison.
_SLICE_S: Final = 0.5
_LENGTH: Final = struct.Struct("!I")
_HEADER_BYTES_MAX: Final = 65536
# How long a process that hung up may take to end.
_DYING_S: Final = 10.0
_OF_COMPUTING: Final = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE})
_PIECE_BYTES: Final = 1 << 20
# One part of a document that a prompt contains: doc, start, stop.
_TRACED: Final = struct.Struct("<IQQ")
# After this share of its time a process reports what it has found: at the deadline it would be killed.
_TRACE_SHARE: Final = 0.7
_TRACE_BYTES_MAX: Final = 64 * 2**20


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What to look for in the document in `folder`.

    Attributes:
        mode: "find" matches, "count" them, or give "lines"; "find_items" and "count_items" treat each item of a list
            or dict as a text of its own.
        pattern: RE2 syntax; empty for lines.
        start, stop: the range, in characters; for lines, line numbers.
        limit: the most matches to give.
        bytes_max: the largest answer.
        first: where the text begins that the pattern sees, in characters; it ends at `stop`.
    """

    folder: Path
    mode: Mode
    pattern: str
    start: int
    stop: int
    limit: int
    bytes_max: int
    first: int = 0


class Findings(msgspec.Struct, frozen=True):
    """`count` matches (for lines: characters from `start`); `next`, where to go on; `body` as on the wire.

    The pattern has `groups` groups; the body begins with `names` bytes with their names (see `hits`).
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

    def text(self, mode: str) -> bytes | memoryview:
        """The texts of `spans`, one after another."""
        if mode in ("lines", "count", "count_items"):
            return self.body
        return texts(self.body, mode, self.count, self.groups, self.names)


class Tracked(msgspec.Struct, frozen=True):
    """A document in `folder`, and the ranges of its characters to look in, the likeliest first.

    Attributes:
        found: what was found of it in prompts, as often as it was found.
    """

    doc: int
    folder: Path
    ranges: list[tuple[int, int]]
    found: list[tuple[int, int]] = []


class _KilledError(Exception):
    """It was not the question that ended the process; `twice` is what to say if it happens again."""

    def __init__(self, twice: str) -> None:
        super().__init__(twice)
        self.twice = twice


class _Worker:
    """One search process, and the socket that is its standard input and output."""

    def __init__(self) -> None:
        """Raises OSError if it cannot be started."""
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

    async def exchange(self, asked: Asked, body: Sequence[bytes], answer_bytes_max: int) -> tuple[Answer, bytes]:
        """Ask, and read the answer.

        Raises:
            OSError: it is gone.
            HostFault: what it said is not an answer.
        """
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._stream, msgspec.json.encode(asked) + b"\n")
        for part in body:
            await loop.sock_sendall(self._stream, part)
        said = await self._part(_HEADER_BYTES_MAX)
        try:
            answer: Answer = msgspec.json.decode(said, type=Answer)
        except msgspec.DecodeError as error:
            raise HostFault(f"a search process gave an answer that cannot be read ({error}): report it") from error
        return answer, await self._part(answer_bytes_max)

    def kill(self) -> None:
        """Kill it; whoever waits for an answer is told that it has ended."""
        self._process.kill()

    def close(self) -> None:
        self._stream.close()

    async def fate(self) -> int:
        """How a process that hung up has ended, as `subprocess` says it. Raises HostFault if it has not ended."""
        try:
            return await asyncio.to_thread(self._process.wait, _DYING_S)
        except subprocess.TimeoutExpired:
            raise HostFault("a search process hung up but did not end: report it") from None

    async def end(self) -> None:
        self.kill()
        self.close()
        await asyncio.to_thread(self._process.wait)

    async def _part(self, bytes_max: int) -> bytes:
        (size,) = _LENGTH.unpack(await self._exactly(_LENGTH.size))
        if size > bytes_max:
            raise HostFault(f"a search process gave an answer of {size} bytes: report it")
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
    """The search processes. Started when needed; end them with `aclose`.

    Args:
        slice_s: after this many seconds a question is answered with the matches so far, and where to go on.
    """

    def __init__(self, workers_max: int = _WORKERS_MAX, slice_s: float = _SLICE_S) -> None:
        self._workers_max = workers_max
        self._slice_s = slice_s
        self._slots = asyncio.Semaphore(workers_max)
        self._look_up_slots = asyncio.Semaphore(max(1, workers_max - 1))
        self._closed = False
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()

    async def ask(self, question: Question, *, deadline_s: float) -> Findings:
        """Answer `question` within `deadline_s` seconds from when a process takes it.

        Raises:
            PolicyDenied: `search.pattern`, `context.search_wall`, `search.memory`, `search.died` or `context.read`.
            HostFault: the document is damaged; the process could not be started, or was killed twice from outside; or
                the searcher was closed.
        """
        asked = Searched(
            folder=str(question.folder),
            mode=question.mode,
            pattern=question.pattern,
            start=question.start,
            stop=question.stop,
            limit=question.limit,
            bytes_max=question.bytes_max,
            slice_s=self._slice_s,
            first=question.first,
        )
        answer, body = await self._talk(asked, (), question.bytes_max, deadline_s)
        return Findings(answer.start, answer.count, answer.next, body, answer.groups, answer.names)

    async def trace(
        self, prompts: Sequence[bytes], tracked: Sequence[Tracked], *, deadline_s: float
    ) -> tuple[list[tuple[int, int, int]], bool]:
        """The parts of the documents that the prompts are made of: (doc, start, stop); and whether that is all.

        What is in the prompts several times is given as often.

        Raises: as `ask`.
        """
        return await self._look_up("trace", tracked, prompts, deadline_s)

    async def repeats(
        self, tracked: Sequence[Tracked], *, deadline_s: float
    ) -> tuple[list[tuple[int, int, int]], bool]:
        """What else counts as shown, since its text was found too often elsewhere; and whether that is all.

        Raises: as `ask`.
        """
        return await self._look_up("repeats", tracked, (), deadline_s)

    async def _look_up(
        self, mode: Literal["trace", "repeats"], tracked: Sequence[Tracked], prompts: Sequence[bytes], deadline_s: float
    ) -> tuple[list[tuple[int, int, int]], bool]:
        ranges = [_packed(part) for one in tracked for part in (one.ranges, one.found)]
        body = [*ranges, *prompts]
        asked = LookUp(
            mode=mode,
            texts=[TrackedText(one.doc, str(one.folder), len(one.ranges), len(one.found)) for one in tracked],
            prompts=[*map(len, prompts)],
            seconds=_TRACE_SHARE * deadline_s,
            body=sum(map(len, body)),
        )
        async with self._look_up_slots:
            answer, found = await self._talk(asked, body, _TRACE_BYTES_MAX, deadline_s)
        return list(_TRACED.iter_unpack(found)), answer.complete

    async def aclose(self) -> None:
        """End the processes. Whoever waits for an answer, or asks from now on, gets a HostFault."""
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
        self, asked: Asked, body: Sequence[bytes], answer_bytes_max: int, deadline_s: float
    ) -> tuple[Answered, bytes]:
        async with self._slots:
            try:
                async with asyncio.timeout(deadline_s):
                    answer, found = await self._answer(asked, body, answer_bytes_max)
            except TimeoutError:
                raise PolicyDenied(
                    f"the search took longer than the policy's {deadline_s:g} s: "
                    "search a smaller range (start, stop), or for something more specific",
                    code="context.search_wall",
                    limit=round(deadline_s * 1000),
                    observed=round(deadline_s * 1000),
                ) from None
        match answer:
            case Answered():
                return answer, found
            case Denied("context.read" as code, message):
                raise PolicyDenied(f"{message}: read it in slices", code=code, limit=answer_bytes_max)
            case Denied(code, message):
                raise PolicyDenied(message, code=code)
            case Faulted(message):
                raise HostFault(message)
            case _:
                assert_never(answer)

    async def _answer(self, asked: Asked, body: Sequence[bytes], answer_bytes_max: int) -> tuple[Answer, bytes]:
        """Ask a process; if somebody kills that one, another."""
        try:
            return await self._asked_of_one(asked, body, answer_bytes_max)
        except _KilledError:
            pass
        try:
            return await self._asked_of_one(asked, body, answer_bytes_max)
        except _KilledError as killed:
            raise HostFault(killed.twice) from None

    async def _asked_of_one(self, asked: Asked, body: Sequence[bytes], answer_bytes_max: int) -> tuple[Answer, bytes]:
        worker = self._take()
        try:
            answer = await worker.exchange(asked, body, answer_bytes_max)
        except OSError as error:
            fate = await worker.fate()
            if self._closed:
                raise HostFault("the search was ended: the runtime is closing") from error
            raise _verdict(fate, asked) from error
        else:
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
                raise HostFault(f"no search process could be started: {error}") from error
        self._busy.add(worker)
        return worker


def _packed(ranges: Sequence[tuple[int, int]]) -> bytes:
    return array("Q", chain.from_iterable(ranges)).tobytes()


def _verdict(fate: int, asked: Asked) -> BelljarError | _KilledError:
    """Who is at fault if the process ended without an answer (see above)."""
    if fate >= 0:
        return HostFault(f"a search process ended by itself (exit status {fate}): run `belljar doctor`")
    if -fate in _OF_COMPUTING:
        return PolicyDenied(
            "the search process died of this search: search a smaller range, or for something simpler",
            code="search.died",
        )
    if -fate == signal.SIGBUS:
        first = asked.folder if isinstance(asked, Searched) else asked.texts[0].folder
        return _KilledError(f"the disk under the stored context in {first!r} cannot be read: repair it, and try again")
    return _KilledError(
        f"two search processes in a row were killed from outside ({_name(-fate)}): check whether this machine runs out "
        "of memory"
    )


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
