"""What the escape tests share: guest programs with their expectations, planted canaries, and the checks after each.

A box is judged by evidence from outside, never by what its program says. Around the boxes stand

    tokens      random words in a host file, in the state folder, in the environment (as an API key), in another
                tenant's context: none may appear in anything that comes out of a box
    listeners   TCP and UDP on loopback, Unix sockets with a path and with an abstract name: none may be contacted
    a marker    a path on the host that no box can name: nothing may ever be there
    the kernel  after each run no control group of a box is left, and no process but the zygotes
    the daemon  after each run no container is left but those kept ready, which have run nothing
    devices     the host's own have the owner, group and mode that they had
    the log     begins with `run.started`, ends with `run.finished` and the status that the caller was given

A program says on its first lines what it is and what must come of it::

    # language: python | restricted | both
    # expect: ok | error ...          the statuses that are right, of the last cell
    # why: one sentence
    # says: EPERM                     optional: a text that must be in the output, so that a typo is no success
    # limit: limits.cpu                   optional: the code of the limit that must have been met
    # refused: read.no_document       optional: the code of a refusal that must be in the log
    # hasty                           optional: a policy with a very short deadline
    # gvisor: expect memory ; why tasks: its kernel counts none

The last one says what is right instead on `docker`, on `gvisor`, or in `containers`, which are both: it replaces
`says` and `limit`, and `expect` where that is given. `reaches 2`: so many of the attempts are known to succeed there.
`hasty true`: there it is the deadline that ends the program, so it gets a short one.
`why` is the difference's name in SECURITY.md, and a reason.

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
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import docker
import msgspec
import psutil

from belljar import Runtime
from belljar.audit import Record
from belljar.audit.read import records_after
from belljar.engine import CellResult, Result
from belljar.errors import PolicyDenied
from belljar.models import NullModel
from belljar.policy import load
from belljar.sandbox.cgroup import find_places
from belljar.sandbox.docker.creator import LABEL, creator
from belljar.sandbox.docker.daemon import API_VERSION
from belljar.sandbox.numbers import NUMBERS
from belljar.sandbox.seccomp import load_allowlist
from tests.containers import containers
from tests.devices import devices

__all__ = [
    "BACKENDS",
    "CONTEXT",
    "ESCAPED",
    "PROGRAMS",
    "BackendName",
    "Canaries",
    "Escapes",
    "Language",
    "Outcome",
    "Program",
    "load_programs",
]

Language = Literal["restricted", "python"]
BackendName = Literal["jail", "docker", "gvisor"]
PolicyName = Literal["small", "hasty", "patient"]
BACKENDS: tuple[BackendName, ...] = ("jail", "docker", "gvisor")
PROGRAMS = Path(__file__).with_name("programs")
# What several programs use, and programs in two halves (`pairing`).
_NO_GROUPS = ("shared", "pairs")
_HEADER = re.compile(r"# (\w+)(?:: (.*))?")
_CELL = re.compile(r"^#%%.*\n", re.MULTILINE)
_LEFT_S = 60.0
# Whom a header's line is for.
_WHERE: dict[str, tuple[BackendName, ...]] = {
    "docker": ("docker",),
    "gvisor": ("gvisor",),
    "containers": ("docker", "gvisor"),
}
# Containers kept ready: starting one takes longer than most programs run.
_POOL = 2
# A container that is kept ready has a random name, one that serves a run has the run's name or label.
_READY_NAME = re.compile(r"/belljar-[0-9a-f]{16}")
# Spelled so that a traceback that quotes the program does not hold the word.
ESCAPED = 'def escaped(*what):\n    print("ESC" + "APED", *what)\n'
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
cell_wall = "30 s"
run_wall = "120 s"
grace = "300 ms"
scratch = "4 MiB"
scratch_files = 64
open_files = 64
output = "64 KiB"
output_flood = "2 MiB"
answer = "64 KiB"
answer_values = 4000
[context]
read = "64 KiB"
read_total = "1 MiB"
[wire]
body = "1 MiB"
in_flight = 8
[models]
batch = 16
call_wall = "60 s"
[quota.run]
calls = 20
"""
# For programs that must meet the deadline, and not the limit on CPU time. One that stops when it is told to has done so
# within the grace, on a machine however busy.
HASTY = LIMITS.replace('cell_wall = "30 s"', 'cell_wall = "2 s"').replace('grace = "300 ms"', 'grace = "2 s"')
# For programs that come to their end by themselves or at another limit: a slow machine is no reason for a verdict.
PATIENT = LIMITS.replace('cpu = "1 s"', 'cpu = "20 s"')
POLICIES = {"small": LIMITS, "hasty": HASTY, "patient": PATIENT}


class Instead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is right of a program on another backend, and why. `expect` is empty where it is the same."""

    expect: str = ""
    says: str | None = None
    limit: str | None = None
    hasty: bool = False
    reaches: int = 0
    why: str


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
    reaches: int = 0
    instead: Mapping[BackendName, Instead] = {}

    @property
    def policy(self) -> PolicyName:
        """Under which it runs."""
        if self.hasty:
            return "hasty"
        return "small" if "cpu" in self.expect else "patient"

    def on(self, backend: BackendName) -> Program:
        """The same with what is right on this backend."""
        one = self.instead.get(backend)
        if one is None:
            return self
        expect = one.expect.split() or self.expect
        hasty = self.hasty or one.hasty
        return msgspec.structs.replace(
            self, expect=expect, says=one.says, limit=one.limit, hasty=hasty, reaches=one.reaches
        )


class Outcome(msgspec.Struct, frozen=True):
    """What a program came to: its cells, the run's result, and the run's records in the log."""

    cells: list[CellResult]
    result: Result
    records: list[Record]

    @property
    def cell(self) -> CellResult:
        """The last one."""
        return self.cells[-1]

    def text(self) -> str:
        """Everything that came out of the box."""
        return repr((self.cell, self.result))


def load_programs() -> list[Program]:
    """The corpus, by path."""
    return [_program(path) for path in sorted(PROGRAMS.rglob("*.py")) if path.parent.name not in _NO_GROUPS]


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
        cells=["".join([ESCAPED, *shared, cells[0]]), *cells[1:]],
        languages=["python", "restricted"] if language == "both" else [language],  # type: ignore[list-item]
        expect=header["expect"].split(),
        says=header.get("says"),
        limit=header.get("limit"),
        refused=header.get("refused"),
        hasty="hasty" in header,
        instead={backend: _instead(header[name]) for name in _WHERE if name in header for backend in _WHERE[name]},
    )


def _instead(line: str) -> Instead:
    """`expect memory ; why tasks: its kernel counts none`."""
    parts = dict(part.split(" ", 1) for part in line.split(" ; "))
    return msgspec.convert(parts, Instead, strict=False)


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
    """One backend, loop and state folder, one runtime a language and policy; programs run one after another.

    `docker_host` is where the daemon is, for backends that need one.
    """

    def __init__(
        self, folder: Path, images: Path, canaries: Canaries, *, backend: BackendName, docker_host: str = ""
    ) -> None:
        self.backend = backend
        self.canaries = canaries
        self._environ = {"DOCKER_HOST": docker_host} if docker_host else {}
        self._docker = docker.APIClient(base_url=docker_host, version=API_VERSION) if docker_host else None
        self._folder = folder
        self._state = folder / "state"
        self._state.mkdir()
        (self._state / "images").symlink_to(images)
        self._runner = asyncio.Runner()
        self._stack = contextlib.AsyncExitStack()
        self._runtimes: dict[tuple[Language, PolicyName], Runtime] = {}
        self._seq = 0
        self._devices = devices()
        self._model = NullModel("the reply of a model " * 2000, name="scripted:escape")
        allowlist = load_allowlist()
        pretended = [name for answer in allowlist.answer if answer.error == "success" for name in answer.names]
        allowed = sorted(NUMBERS[name] for name in [*allowlist.names(), *pretended])
        self._places = {**self.canaries.places(), "allowed": str(allowed)}
        # The jail's wire is one socket, a container's a pipe each way; and only the jail has a zygote.
        self._places["wire_read"] = "3" if self._docker is None else "4"
        self._places["zygote"] = self._places["host_pid"]
        self._runner.run(self._plant())

    @property
    def audit(self) -> Path:
        return self._state / "audit.db"

    def run(self, program: Program, language: Language) -> Outcome:
        """Run all cells, or as many as the box lives for, then check what holds after every program."""
        outcome = self._runner.run(self._run(program, language))
        self.check(outcome)
        text = outcome.text()
        # What a program prints stands in its cell and in the result.
        assert text.count("ESCAPED") == program.reaches * 2, text
        return outcome

    def drive(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a test's own coroutine in the loop of the runtimes."""
        return self._runner.run(work)

    def check(self, outcome: Outcome) -> None:
        """What holds after every program, whatever it was."""
        log = repr([record.data for record in outcome.records])
        self.canaries.check(outcome.text() + log)
        assert "ESCAPED" not in log
        left = self.survivors()
        assert left == [], left
        assert devices() == self._devices
        assert outcome.records[0].event == "run.started"
        assert outcome.records[-1].event == "run.finished"
        assert outcome.records[-1].data["status"] == outcome.result.status

    def survivors(self) -> list[str]:
        """`left`, for whoever is not in the loop."""
        return self._runner.run(self.left())

    async def left(self) -> list[str]:
        """Processes below this one that are no zygote, control groups and containers of boxes; waits a little.

        The loop goes on meanwhile, because it is what removes containers.
        """
        return await _in_the_end(self._left)

    def close(self) -> list[str]:
        """End everything, also what was kept ready; give what is left nonetheless."""
        self._runner.run(self._stack.aclose())
        left = self._runner.run(_in_the_end(lambda: [*self._left(), *map(_name, self._containers())]))
        self._runner.close()
        if self._docker is not None:
            self._docker.close()
        self.canaries.close()
        return left

    async def runtime(self, language: Language, *, policy: PolicyName = "small") -> Runtime:
        """The runtime for one language and policy, opened at its first use."""
        if (language, policy) not in self._runtimes:
            path = self._folder / f"{policy}.toml"
            path.write_text(POLICIES[policy])
            runtime = Runtime(
                load(str(path)),
                state=self._state,
                backend=self.backend,
                language=language,
                pool=0 if self._docker is None else _POOL,
                environ=self._environ,
            )
            self._runtimes[language, policy] = await self._stack.enter_async_context(runtime)
        return self._runtimes[language, policy]

    def runtime_with(self, **limits: Any) -> Runtime:
        """Another runtime, not opened yet, for Python under the same policy with other limits."""
        path = self._folder / "small.toml"
        path.write_text(LIMITS)
        policy = load(str(path))
        policy = msgspec.structs.replace(policy, limits=msgspec.structs.replace(policy.limits, **limits))
        return Runtime(policy, state=self._state, backend=self.backend, language="python", environ=self._environ)

    async def _plant(self) -> None:
        """Another tenant's context, in the same store."""
        text = self.canaries.token("other tenant's context")
        runtime = await self.runtime("python", policy="patient")  # whose zygote most programs have
        document = await runtime.add_context(text)
        self._places["rival"] = document.sha256
        result = await runtime.execute("context[0:4]", context=text, tenant="rival")
        assert result.status == "ok", result.error
        if self._docker is None:
            self._places["zygote"] = str(psutil.Process().children()[0].pid)

    def _left(self) -> list[str]:
        serving = [one for one in self._containers() if _serves(one)]
        return [*_boxed_processes(), *_boxes(), *map(_name, serving)]

    def _containers(self) -> list[dict[str, Any]]:
        """Those that this process made."""
        if self._docker is None:
            return []
        return containers(self._docker, f"{LABEL}={creator()}")

    async def _run(self, program: Program, language: Language) -> Outcome:
        runtime = await self.runtime(language, policy=program.policy)
        cells = []
        async with runtime.session(context=CONTEXT, model=self._model, tenant="acme") as session:
            for source in program.cells:
                try:
                    cells.append(await session.execute(self._told(source)))
                except PolicyDenied as denied:
                    if denied.code != "session.ended":
                        raise
                    break
        assert session.result is not None
        return Outcome(cells, session.result, self._new_records())

    def _told(self, source: str) -> str:
        for name, value in self._places.items():
            source = source.replace(f"{{{{{name}}}}}", value)
        return source

    def _new_records(self) -> list[Record]:
        """The log since the last time."""
        found = records_after(self.audit, self._seq)
        self._seq = found[-1].seq
        return [record for record in found if record.run == found[-1].run]


async def _in_the_end(look: Callable[[], list[str]]) -> list[str]:
    until = time.monotonic() + _LEFT_S
    while (left := look()) and time.monotonic() < until:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)
    return left


def _name(container: Mapping[str, Any]) -> str:
    return f"container {container['Names']} {container['Status']}"


def _serves(container: Mapping[str, Any]) -> bool:
    """Whether it is, or was, the box of a run, and not kept ready."""
    return "belljar.run" in container["Labels"] or not all(map(_READY_NAME.fullmatch, container["Names"]))


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
