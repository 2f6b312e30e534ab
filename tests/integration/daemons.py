"""What the tests of the Docker backend's faults share: a look behind the runtimes' backs, and daemons that misbehave.

`Dock` asks the daemon itself, so that what a runtime says of its containers is never believed. `Between` is a proxy
in front of a real daemon: a test tells it what to do with a request. `Talker` is a server that is no daemon at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import select
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import docker

from belljar import Result, Runtime
from belljar.policy import Policy
from belljar.sandbox.docker.creator import LABEL, creator
from belljar.sandbox.docker.daemon import Daemon
from tests.containers import containers
from tests.integration.support import Jar, until

T = TypeVar("T")

# Slow machines are slow; a test that waits this long has found a hang.
HANG_S = 60.0
BUSY = "while True: pass"
SLEEPS = "import time; time.sleep(300)"


class Dock:
    """A daemon, as somebody sees it who is not belljar."""

    def __init__(self, host: str) -> None:
        self.host = host
        # The types of the SDK are behind its code.
        self.client: Any = docker.APIClient(base_url=host, version="1.41", timeout=60)

    def ours(self, label: str = f"{LABEL}={creator()}") -> list[dict[str, Any]]:
        """The containers of this process, those without a run as well; or those with another label."""
        return containers(self.client, label)

    def running(self) -> list[str]:
        """The containers of this process's runs, not of its pools."""
        return [one["Id"] for one in self.ours() if one["State"] == "running" and "belljar.run" in one["Labels"]]

    def state(self, container: str) -> dict[str, Any]:
        return dict(self.client.inspect_container(container)["State"])

    def plant(self, image: str, labels: dict[str, str]) -> str:
        """A container of somebody else's: created, never started."""
        made = self.client.create_container(image, ["sleep"], labels=labels, use_config_proxy=False)
        return str(made["Id"])


@contextlib.contextmanager
def dock_at(host: str) -> Iterator[Dock]:
    dock = Dock(host)
    try:
        yield dock
    finally:
        dock.client.close()


def runtime_on(
    host: str, jar: Jar, policy: str | Policy = "dev", *, pool: int = 0, language: str = "python"
) -> Runtime:
    chosen: Any = language
    return Runtime(policy, state=jar.at, backend="docker", language=chosen, pool=pool, environ={"DOCKER_HOST": host})


def readers(jar: Jar) -> int:
    """How many programs have read from their context."""
    return len(jar.records("context.read")) if jar.journal.exists() else 0


async def soon(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition while the loop runs on."""
    await asyncio.to_thread(until, condition, seconds=HANG_S, what=what)


@contextlib.asynccontextmanager
async def under_way(runtime: Runtime, jar: Jar, code: str) -> AsyncIterator[asyncio.Task[Result]]:
    """A run whose program is well under way; it is over when the block ends."""
    before = readers(jar)
    run = asyncio.create_task(runtime.execute(f"context[0:1]\n{code}", context="text"))
    try:
        await soon(lambda: run.done() or readers(jar) > before, "the program runs")
        yield run
    finally:
        run.cancel()
        await asyncio.wait([run])


async def during(runtime: Runtime, jar: Jar, code: str, deed: Callable[[], object]) -> Result:
    """The same, with `deed` done by another thread meanwhile."""
    async with under_way(runtime, jar, code) as run:
        await asyncio.to_thread(deed)
        async with asyncio.timeout(HANG_S):
            return await run


@contextlib.contextmanager
def impatient(daemon: Daemon, answer_s: int) -> Iterator[None]:
    """For as long as it is known that no answer will come; what is answered takes seconds on a busy machine."""
    client: Any = daemon.client
    before = daemon.answer_s, client.timeout
    daemon.answer_s = client.timeout = answer_s
    try:
        yield
    finally:
        daemon.answer_s, client.timeout = before


def drive(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


# -------------------------------------------------------------------------------------------------- strange daemons


class Talker:
    """Accepts at a Unix socket and does with each connection what `talk` says, in a thread of its own."""

    def __init__(self, folder: Path, talk: Callable[[socket.socket], None]) -> None:
        path = folder / "talker.sock"
        self.host = f"unix://{path}"
        self._talk = talk
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _shut(self._listener)
        self._accepting.join()
        for one in self._open:
            _shut(one)
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *self._open):
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                thread = threading.Thread(target=self._serve, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._talk(connection)
        _shut(connection)


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


def silence(connection: socket.socket) -> None:
    """Reads all that comes and never answers."""
    while connection.recv(65536):
        pass


class Answer:
    """Answers every request with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def __call__(self, connection: socket.socket) -> None:
        while connection.recv(65536):
            connection.sendall(self._answer)


class Between(Talker):
    """A proxy in front of the daemon at `host`.

    `before(request)` is called with the first line of each request, before it goes on; when it says False, the request
    is swallowed and never answered.
    """

    def __init__(self, folder: Path, host: str, before: Callable[[str], bool]) -> None:
        self._behind = host.removeprefix("unix://")
        self._before = before
        super().__init__(folder, self._pass_on)

    def _pass_on(self, connection: socket.socket) -> None:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as daemon:
            daemon.connect(self._behind)
            ends = {connection: daemon, daemon: connection}
            while True:
                for one in select.select(list(ends), [], [])[0]:
                    data = one.recv(65536)
                    if not data:
                        return
                    if one is connection and _REQUEST.match(data) and not self._before(_first_line(data)):
                        silence(connection)
                        return
                    ends[one].sendall(data)


_REQUEST = re.compile(rb"(GET|POST|DELETE|HEAD) /v1\.41/")


def _first_line(data: bytes) -> str:
    return data.partition(b"\r\n")[0].decode()
