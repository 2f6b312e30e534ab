"""What the escape tests share: guest programs with their expectations, planted canaries, and the checks after each.

A box is judged by evidence from outside, never by what its program says. Around the boxes stand

    tokens      random words in a host file, in the state folder, in the environment (as an API key), in another
                tenant's context: none may appear in anything that comes out of a box
    listeners   TCP and UDP on loopback, Unix sockets with a path and with an abstract name: none may be contacted
    a marker    a path on the host that no box can name: nothing may ever be there
    the kernel  after each run no control group of a box is left, and no process but the zygotes
    the log     begins with `run.started`, ends with `run.finished` and the status that the caller was given

A program says on its first lines what it is and what must come of it::

    # language: python | restricted | both
    # expect: ok | error ...          the statuses that are right, of the last cell
    # why: one sentence
    # says: EPERM                     optional: a text that must be in the output, so that a typo is no success
    # limit: cpu_ms                   optional: the code of the limit that must have been met
    # refused: read.no_document       optional: the code of a refusal that must be in the log
    # hasty                           optional: a policy with a very short deadline

`#%%` on a line of its own begins the next cell. The word that a program prints when it got what it wanted is
`ESCAPED`; it is looked for everywhere (`escaped(...)` prints it, and is put before every program, as are the files of
`shared/` that `# use:` names). `{{name}}` is replaced by what the host knows and a guest could have guessed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import selectors
import socket
import sqlite3
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import psutil

from belljar import Runtime
from belljar.audit import Record
from belljar.audit.read import parse
from belljar.engine import CellResult, Result
from belljar.errors import PolicyDenied
from belljar.models import NullModel
from belljar.policy import load
from belljar.sandbox.cgroup import find_places
from belljar.sandbox.numbers import NUMBERS
from belljar.sandbox.seccomp import load_allowlist

__all__ = ["CONTEXT", "Canaries", "Escapes", "Language", "Outcome", "Program", "load_programs"]

Language = Literal["restricted", "python"]
PROGRAMS = Path(__file__).with_name("programs")
_HEADER = re.compile(r"# (\w+)(?:: (.*))?")
_CELL = re.compile(r"^#%%.*\n", re.MULTILINE)
_LEFT_S = 5.0
# Spelled so that a traceback that quotes the program does not hold the word.
_ESCAPED = 'def escaped(*what):\n    print("ESC" + "APED", *what)\n'
CONTEXT = "".join(f"line {number}: the grass is green\n" for number in range(1000))
T = TypeVar("T")

LIMITS = """
schema = 1
name = "escape"
description = "Small limits, so that a bomb is small."
extends = "standard"
[limits]
memory = "128 MiB"
processes = 24
cpu = "1 s"
cell_wall = "5 s"
run_wall = "20 s"
grace = "300 ms"
scratch = "4 MiB"
scratch_files = 64
open_files = 64
output = "64 KiB"
output_flood = "2 MiB"
answer = "64 KiB"
[context]
read = "64 KiB"
read_total = "4 MiB"
[wire]
body = "1 MiB"
in_flight = 8
[models]
batch = 16
call_wall = "5 s"
[quota.run]
calls = 20
"""
# For programs that must meet the deadline, and not the limit on CPU time.
HASTY = LIMITS.replace('cell_wall = "5 s"', 'cell_wall = "800 ms"')


class Program(msgspec.Struct, frozen=True):
    """A guest program and what must come of it."""

    name: str
    cells: list[str]
    languages: list[Language]
    expect: list[str]
    says: str | None = None
    limit: str | None = None
    refused: str | None = None
    hasty: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """What a program came to: its last cell, the run's result, and the run's records in the log."""

    cell: CellResult
    result: Result
    records: list[Record]

    def text(self) -> str:
        """Everything that came out of the box."""
        return repr((self.cell, self.result))


def load_programs() -> list[Program]:
    """The corpus, by path."""
    return [_program(path) for path in sorted(PROGRAMS.rglob("*.py")) if path.parent.name != "shared"]


def _program(path: Path) -> Program:
    source = path.read_text("utf-8")
    header: dict[str, str] = {}
    for line in source.splitlines():
        match = _HEADER.fullmatch(line)
        if match is None:
            break
        header[match[1]] = match[2] or ""
    assert header["why"], path
    language = header["language"]
    shared = [(PROGRAMS / "shared" / f"{name}.py").read_text("utf-8") for name in header.get("use", "").split()]
    cells = _CELL.split(source)
    return Program(
        name=f"{path.parent.name}/{path.stem}",
        cells=["".join([_ESCAPED, *shared, cells[0]]), *cells[1:]],
        languages=["python", "restricted"] if language == "both" else [language],  # type: ignore[list-item]
        expect=header["expect"].split(),
        says=header.get("says"),
        limit=header.get("limit"),
        refused=header.get("refused"),
        hasty="hasty" in header,
    )


class Canaries:
    """What is planted on the host, and whether any of it was touched."""

    def __init__(self, folder: Path) -> None:
        self.tokens: dict[str, str] = {}
        self.marker = folder / "marker"
        self.file = Path("/tmp") / f"belljar-canary-{os.getpid()}"
        self.file.write_text(self.token("file in /tmp"))
        self.state_file = folder / "canary"
        self.state_file.write_text(self.token("file in the state folder"))
        self.key = self.token("environment")
        self.contacts: list[str] = []
        self._sockets = list(self._listen(folder))
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def token(self, what: str) -> str:
        """A fresh random word; the pattern before it is what a program may look for."""
        token = f"BJCANARY{secrets.token_hex(12)}"
        self.tokens[what] = token
        return token

    def places(self) -> dict[str, str]:
        """What a program is told, so that its failure proves something."""
        return {
            "canary": str(self.file),
            "state_canary": str(self.state_file),
            "marker": str(self.marker),
            "tcp": str(self._sockets[0].getsockname()[1]),
            "udp": str(self._sockets[1].getsockname()[1]),
            "unix": self._sockets[2].getsockname(),
            "unix_datagram": self._sockets[3].getsockname(),
            "abstract": self._sockets[4].getsockname()[1:].decode(),
            "host_pid": str(os.getpid()),
        }

    def check(self, text: str) -> None:
        """Nothing of it came out, and nothing came in."""
        for what, token in self.tokens.items():
            for form in (token, token[::-1], token.encode().hex()):
                assert form not in text, f"the token of the {what} leaked"
        assert "ESCAPED" not in text, text
        assert self.contacts == []
        assert not self.marker.exists()

    def close(self) -> None:
        self._wake.close()
        self._thread.join()
        for one in (*self._sockets, self._woken):
            one.close()
        self.file.unlink()

    @staticmethod
    def _listen(folder: Path) -> Iterator[socket.socket]:
        yield socket.create_server(("127.0.0.1", 0))
        datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagram.bind(("127.0.0.1", 0))
        yield datagram
        for kind, address in (
            (socket.SOCK_STREAM, str(folder / "s")),
            (socket.SOCK_DGRAM, str(folder / "d")),
            (socket.SOCK_DGRAM, f"\0belljar-canary-{secrets.token_hex(4)}"),
        ):
            one = socket.socket(socket.AF_UNIX, kind)
            one.bind(address)
            if kind == socket.SOCK_STREAM:
                one.listen()
            yield one

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for one in (*self._sockets, self._woken):
                selector.register(one, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._woken:
                        return
                    assert isinstance(key.fileobj, socket.socket)
                    self.contacts.append(f"contact on {key.fileobj.getsockname()!r}")
                    selector.unregister(key.fileobj)


class Escapes:
    """One loop, one state folder, one runtime a language and policy; programs run one after another."""

    def __init__(self, folder: Path, images: Path, canaries: Canaries) -> None:
        self.canaries = canaries
        self._folder = folder
        self._state = folder / "state"
        self._state.mkdir()
        (self._state / "images").symlink_to(images)
        self._runner = asyncio.Runner()
        self._stack = contextlib.AsyncExitStack()
        self._runtimes: dict[tuple[Language, bool], Runtime] = {}
        self._seq = 0
        self._model = NullModel("the reply of a model " * 2000, name="scripted:escape")
        allowlist = load_allowlist()
        pretended = [name for answer in allowlist.answer if answer.error == "success" for name in answer.names]
        allowed = sorted(NUMBERS[name] for name in [*allowlist.names(), *pretended])
        self._places = {**self.canaries.places(), "allowed": str(allowed)}
        self._runner.run(self._plant())

    @property
    def audit(self) -> Path:
        return self._state / "audit.db"

    def run(self, program: Program, language: Language) -> Outcome:
        """Run all cells, or as many as the box lives for, then check what holds after every program."""
        outcome = self._runner.run(self._run(program, language))
        self.check(outcome)
        return outcome

    def drive(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a test's own coroutine in the loop of the runtimes."""
        return self._runner.run(work)

    def check(self, outcome: Outcome) -> None:
        """What holds after every program, whatever it was."""
        self.canaries.check(outcome.text() + repr([record.data for record in outcome.records]))
        assert self.survivors() == []
        assert outcome.records[0].event == "run.started"
        assert outcome.records[-1].event == "run.finished"
        assert outcome.records[-1].data["status"] == outcome.result.status

    def survivors(self) -> list[str]:
        """Processes below this one that are no zygote, and control groups of boxes; waits a little for their end."""
        until = time.monotonic() + _LEFT_S
        while (left := [*_boxed_processes(), *_boxes()]) and time.monotonic() < until:
            time.sleep(0.01)
        return left

    def close(self) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()
        self.canaries.close()

    async def runtime(self, language: Language, *, hasty: bool = False) -> Runtime:
        """The runtime for one language and policy, opened at its first use."""
        if (language, hasty) not in self._runtimes:
            path = self._folder / f"{'hasty' if hasty else 'small'}.toml"
            path.write_text(HASTY if hasty else LIMITS)
            runtime = Runtime(load(str(path)), state=self._state, language=language, environ={})
            self._runtimes[language, hasty] = await self._stack.enter_async_context(runtime)
        return self._runtimes[language, hasty]

    async def _plant(self) -> None:
        """Another tenant's context, in the same store."""
        text = self.canaries.token("other tenant's context")
        runtime = await self.runtime("python")
        document = await runtime.add_context(text)
        self._places["rival"] = document.sha256
        result = await runtime.execute("context[0:4]", context=text, tenant="rival")
        assert result.status == "ok", result.error
        self._places["zygote"] = str(psutil.Process().children()[0].pid)

    async def _run(self, program: Program, language: Language) -> Outcome:
        runtime = await self.runtime(language, hasty=program.hasty)
        cell: CellResult | None = None
        async with runtime.session(context=CONTEXT, model=self._model, tenant="acme") as session:
            for source in program.cells:
                try:
                    cell = await session.execute(self._told(source))
                except PolicyDenied as denied:
                    if denied.code != "session.ended":
                        raise
                    break
        assert cell is not None
        assert session.result is not None
        return Outcome(cell, session.result, self._new_records())

    def _told(self, source: str) -> str:
        for name, value in self._places.items():
            source = source.replace(f"{{{{{name}}}}}", value)
        return source

    def _new_records(self) -> list[Record]:
        """The log since the last time."""
        with contextlib.closing(sqlite3.connect(f"file:{self.audit}?mode=ro", uri=True)) as db:
            rows = db.execute("SELECT seq, body FROM records WHERE seq > ? ORDER BY seq", (self._seq,)).fetchall()
        self._seq = rows[-1][0]
        found = [parse(seq, body) for seq, body in rows]
        return [record for record in found if record.run == found[-1].run]


def _boxed_processes() -> list[str]:
    """Below this process are its zygotes, and below those only boxes."""
    own = psutil.Process()
    zygotes = own.children()
    return [f"process {child.pid}" for child in own.children(recursive=True) if child not in zygotes]


def _boxes() -> list[str]:
    """Groups of boxes with somebody in them; one that is made ahead is empty."""
    groups = [place.folder.glob(f"belljar-{os.getpid()}-*/box-*/cgroup.procs") for place in find_places()]
    return [str(members) for group in groups for members in group if _read(members)]


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):  # it may be gone by now
        return path.read_text()
    return ""
