"""For tests of what is built on belljar: a model and a clock that do as they are told, and a backend without a wall.

`FakeModel` answers with a function's results and keeps what it was asked. `FakeClock` moves only when told to.

**`ToyBackend` isolates nothing.** Its box is a child process that can do whatever this one can: read every file, use
the network, kill processes. It is there to run cells in milliseconds where a test is about something else, and as an
example of a whole backend. So that nobody gets it by accident, no policy that comes with belljar names it, it has to be
registered in the program's own code, and it reports no layer, so every policy that requires one refuses it.
`toy_policy` allows it::

    belljar.testing.register_toy()
    async with belljar.Runtime(belljar.testing.toy_policy(), state=folder) as runtime:
        result = await runtime.execute("print(6 * 7)")

`check_backend` runs the conformance suite for a backend, built in or your own::

    belljar.sandbox.register_backend("acme.microvm", open_microvm)
    report = await belljar.testing.check_backend("acme.microvm", state=folder)
    assert report.findings == () and "netns" in report.layers
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Final

import msgspec

from belljar import assets
from belljar.errors import BoxFault
from belljar.identity import LANGUAGES, Language
from belljar.models import FREE, ModelReply, ModelRequest, Rates, Usage
from belljar.policy import Policy, load
from belljar.runtime import Runtime
from belljar.sandbox import Backend, BackendSite, BoxEnd, BoxSpec, Evidence, check_layers, register_backend
from belljar.sandbox.conformance import POLICY, Finding, check, checks

__all__ = [
    "TOY",
    "Conformance",
    "FakeClock",
    "FakeModel",
    "ToyBackend",
    "ToyBox",
    "check_backend",
    "register_toy",
    "toy_policy",
]

TOY: Final = "testing.toy"

_log = logging.getLogger("belljar")
_PIECE_BYTES: Final = 256 * 1024
# SIGKILL is prompt, but a machine under load is not.
_KILL_S: Final = 10.0
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
# The share of `memory` that a program may add to its initial address space: as in the jail.
_ADDRESS_SHARE: Final = 7 / 8


# ---------------------------------------------------------------------------------------------------- model and clock


class FakeModel:
    """Answers with a function's results, and keeps what it was asked in `requests`.

    Args:
        answer: from a `ModelRequest` to the answer, a text or a `ModelReply`; may be a coroutine function. What it
            raises, such as a `ModelFailed`, ends the call. Without one, the answer is `to ` and the last message.
        name: the model's name in results and the log.
        rates: what its tokens cost.
    """

    scripted: Final = True

    def __init__(
        self,
        answer: Callable[[ModelRequest], str | ModelReply | Awaitable[str | ModelReply]] | None = None,
        name: str = "fake",
        *,
        rates: Rates = FREE,
    ) -> None:
        self.name = name
        self.rates: Final = rates
        self.requests: Final[list[ModelRequest]] = []
        self._answer = answer

    async def complete(self, request: ModelRequest) -> ModelReply:
        """One answer; a text counts for five tokens of input and seven of output."""
        self.requests.append(request)
        said = "to " + request.messages[-1].text if self._answer is None else self._answer(request)
        if inspect.isawaitable(said):
            said = await said
        return ModelReply(said, Usage(5, 7), self.name, "end_turn") if isinstance(said, str) else said

    async def aclose(self) -> None:
        """Nothing to close."""


class FakeClock:
    """A monotonic clock in seconds, called as `time.monotonic` is. It stands still until `now` is set."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


# -------------------------------------------------------------------------------------------------------- toy backend

# In the child: make the wire descriptor 3, as in every box; then run the agent that every box runs.
_BIRTH: Final = """
import json, os, resource, sys
order = json.loads(sys.argv[1])
sys.path[:0] = order["path"]
os.dup2(order["wire"], 3)
if order["wire"] != 3:
    os.close(order["wire"])
from guest.agent import loop
born = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, [born + order["address"]] * 2)
del order, born, resource, json
loop.main()
"""


class ToyBackend:
    """Its boxes are mere child processes, without isolation: see the module. `register_toy` lets runtimes find it."""

    name: Final = TOY

    def __init__(self) -> None:
        self._boxes: set[ToyBox] = set()
        _log.warning("belljar: the backend %s isolates NOTHING: run no code in it that you would not run yourself", TOY)

    def about(self) -> Mapping[str, str]:
        return {"backend": TOY, "isolation": "none"}

    async def warm(self, spec: BoxSpec, size: int) -> None:
        """Keeps none ready: a start is a fork."""

    def ready(self) -> int:
        return 0

    async def start(self, spec: BoxSpec, about: Mapping[str, str] | None = None) -> ToyBox:
        check_layers(TOY, spec.requires, ToyBox.layers)
        box = ToyBox(await asyncio.to_thread(_spawn, spec))
        self._boxes.add(box)
        return box

    async def aclose(self) -> None:
        for box in self._boxes:
            await box.kill()


class _Born(msgspec.Struct, frozen=True):
    process: subprocess.Popen[bytes]
    wire: socket.socket
    scratch: Path
    address_bytes: int


def _spawn(spec: BoxSpec) -> _Born:
    ours, theirs = socket.socketpair()
    scratch = Path(tempfile.mkdtemp(prefix="belljar-toy-"))
    address_bytes = int(spec.memory_bytes * _ADDRESS_SHARE)
    order = {
        "path": [str(assets.guest_dir().parent)],
        "wire": theirs.fileno(),
        "address": address_bytes,
    }
    try:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-X", "utf8", "-c", _BIRTH, json.dumps(order)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            env={"TMPDIR": str(scratch)},
            cwd=scratch,
            # The host handles Ctrl-C at the terminal; and whatever the child leaves behind ends with its group.
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        shutil.rmtree(scratch, ignore_errors=True)
        raise BoxFault(f"a child process could not be started: {error}") from error
    finally:
        theirs.close()
    ours.setblocking(False)
    return _Born(process, ours, scratch, address_bytes)


class ToyBox:
    """One child process; see `belljar.sandbox.Sandbox`. It has no layer, and says so."""

    layers: tuple[str, ...] = ()

    def __init__(self, born: _Born) -> None:
        self._born = born
        self._wire = born.wire
        self._over = asyncio.ensure_future(asyncio.to_thread(self._wait))
        self._account = Evidence()
        self._killing: asyncio.Task[BoxEnd] | None = None

    async def send(self, *parts: bytes | memoryview) -> None:
        for part in parts:
            await asyncio.get_running_loop().sock_sendall(self._wire, part)

    async def receive(self) -> bytes:
        try:
            return await asyncio.get_running_loop().sock_recv(self._wire, _PIECE_BYTES)
        except OSError:
            return b""

    def interrupt(self) -> None:
        self._signal(signal.SIGINT, group=False)

    async def evidence(self) -> Evidence:
        if not self._over.done():
            with contextlib.suppress(OSError):
                self._account = _account(self._born)
        return self._account

    def scratch_full(self) -> bool:
        """Never: nothing limits scratch."""
        return False

    async def wait(self, seconds: float) -> bool:
        await asyncio.wait([self._over], timeout=seconds)
        return self._over.done()

    async def kill(self) -> BoxEnd:
        if self._killing is None:
            self._killing = asyncio.ensure_future(self._kill())
        return await asyncio.shield(self._killing)

    async def _kill(self) -> BoxEnd:
        evidence = await self.evidence()
        died_before = self._over.done()
        self._signal(signal.SIGKILL, group=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KILL_S):
                await asyncio.shield(self._over)
        self._wire.close()
        await asyncio.to_thread(shutil.rmtree, self._born.scratch, ignore_errors=True)
        code = self._born.process.returncode
        return BoxEnd(
            evidence=evidence,
            killed=not died_before and code == -signal.SIGKILL,
            by_other=died_before and code == -signal.SIGKILL,
            signal=-code if code is not None and code < 0 else 0,
            code=code if code is not None and code > 0 else 0,
            cpu_s=evidence.cpu_s or 0.0,
            max_rss_bytes=evidence.memory_peak_bytes or 0,
            lost=code is None,
        )

    def _wait(self) -> None:
        """In a thread, until the child is dead."""
        self._born.process.wait()

    def _signal(self, number: int, *, group: bool) -> None:
        pid = self._born.process.pid
        if not self._over.done():
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(pid, number)


def _account(born: _Born) -> Evidence:
    """What the kernel counts for the first process and the children that it waited for: enough for a toy."""
    pid = born.process.pid
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    limit, _ = resource.prlimit(pid, resource.RLIMIT_AS)
    peak = None
    if limit != resource.RLIM_INFINITY and "VmPeak" in status:
        peak = max(0, int(status["VmPeak"].split()[0]) * 1024 - (limit - born.address_bytes))
    return Evidence(cpu_s=sum(map(int, fields[11:15])) / _TICKS_PER_S, address_peak_bytes=peak)


async def _open_toy(site: BackendSite) -> Backend:
    del site
    return ToyBackend()


def register_toy() -> None:
    """Let this process name `testing.toy` as a backend. It isolates nothing."""
    register_backend(TOY, _open_toy)


def toy_policy(base: str | Path | Policy = "dev") -> Policy:
    """`base`, with the toy as its only backend and no layer required: only for tests."""
    return _only(base if isinstance(base, Policy) else load(base), TOY, ())


def _only(policy: Policy, backend: str, requires: Collection[str]) -> Policy:
    box = msgspec.structs.replace(policy.box, backends=(backend,), requires=tuple(requires), image=None)
    return msgspec.structs.replace(policy, name=f"{policy.name}-{backend}", box=box)


# -------------------------------------------------------------------------------------------------------- conformance


class Conformance(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of the conformance suite on one backend.

    Attributes:
        layers: those that its boxes report, and for which they were tested.
        held: the checks that held, each with its language: `NAME [LANGUAGE]`.
        not_claimed: the checks that were not made, because they belong to layers that its boxes do not report.
        findings: what did not hold; empty if the backend does all that it claims.
    """

    layers: tuple[str, ...]
    held: tuple[str, ...]
    not_claimed: tuple[str, ...]
    findings: tuple[Finding, ...]


async def check_backend(
    name: str,
    *,
    state: str | Path,
    requires: Collection[str] = (),
    languages: Collection[Language] = LANGUAGES,
    environ: Mapping[str, str] | None = None,
    on_check: Callable[[str], None] | None = None,
) -> Conformance:
    """Run every check of the suite that applies to a backend; takes some minutes with both languages.

    Args:
        name: a built-in backend, or one that was registered.
        state: a folder for log, ledger and images.
        requires: layers without which no box may start.
        on_check: called with each check's name before it is made.

    Raises:
        Refusal, HostFault: a box could not be built.
    """
    policy = _only(load(str(POLICY)), name, requires)
    layers: tuple[str, ...] = ()
    ran: list[str] = []
    findings: list[Finding] = []
    for language in languages:

        def told(check_name: str, language: Language = language) -> None:
            ran.append(f"{check_name} [{language}]")
            if on_check is not None:
                on_check(ran[-1])

        async with Runtime(policy, state=state, language=language, environ=environ) as runtime:
            found = await check(runtime, on_check=told)
            layers = (await runtime.execute("")).layers
        findings += [msgspec.structs.replace(one, check=f"{one.check} [{language}]") for one in found]
    failed = {one.check for one in findings}
    return Conformance(
        layers=layers,
        held=tuple(one for one in ran if one not in failed),
        not_claimed=tuple(one.name for one in checks() if one.layer is not None and one.layer not in layers),
        findings=tuple(findings),
    )
