"""What the tests of containers share: a box with its agent, seen from both sides, and daemons that tell no truth.

`Boxed` is one box: `inside` runs a program in it, `inspected` is the daemon's description, `host` reads what the kernel
says of its process. `bare` is the template alone around a program, without anything that `boot` does: what an option
gives by itself cannot be seen behind the other walls.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import docker
import msgspec

from belljar.sandbox import BoxSpec, Image
from belljar.sandbox.docker.backend import Docker
from belljar.sandbox.docker.box import DockerBox
from belljar.sandbox.docker.creator import creator
from belljar.sandbox.docker.daemon import ANSWER_S, Daemon
from belljar.sandbox.docker.image import ensure_loaded
from belljar.sandbox.docker.options import HOSTNAME, USER, RuntimeName, host_config
from belljar.sandbox.docker.profile import docker_profile
from belljar.sandbox.docker.stream import Outputs
from belljar.sandbox.image import PYTHON
from belljar.sandbox.seccomp import Allowlist, load_allowlist
from tests.integration.test_jail_lifecycle import Talk, Told

__all__ = [
    "ABOUT",
    "MIB",
    "RUNTIMES",
    "SPEC",
    "Bare",
    "Boxed",
    "Document",
    "Name",
    "Retelling",
    "bare",
    "boxed",
    "group_file",
    "status_of",
    "talking_to",
]

T = TypeVar("T")
Name = Literal["docker", "gvisor"]
Document = dict[str, Any]

MIB = 2**20
SPEC = BoxSpec(
    cpu_s=20, memory_bytes=256 * MIB, processes=24, scratch_bytes=4 * MIB, scratch_files=64, open_files=64, requires=()
)
RUNTIMES: dict[Name, RuntimeName] = {"docker": "runc", "gvisor": "runsc"}
ABOUT = {"run": "20260102T030405-abcdef012345", "tenant": "acme/research/alice"}
_WAIT_S = 60


def talking_to(host: str) -> docker.APIClient:
    client = docker.APIClient(base_url=host, version="1.41", timeout=_WAIT_S)
    client.trust_env = False
    return client


class Boxed:
    """A box that runs, and who looks at it."""

    def __init__(self, name: Name, runner: asyncio.Runner, client: docker.APIClient, backend: Docker) -> None:
        self.name = name
        self.client = client
        self.backend = backend
        self._runner = runner
        # Another one may be alive, or on its way out.
        self.about = {**ABOUT, "run": f"{ABOUT['run']}-{secrets.token_hex(4)}"}
        self.box: DockerBox = runner.run(backend.start(SPEC, self.about))
        labels = [f"belljar.creator={creator()}", f"belljar.run={self.about['run']}"]
        (found,) = client.containers(filters={"label": labels})
        self.container = str(found["Id"])
        self.inspected: Document = client.inspect_container(self.container)
        self.pid = int(self.inspected["State"]["Pid"])
        self._talk = Talk(cast("Any", self.box))
        assert runner.run(self._talk.begin()).status == "ready"

    def run(self, code: str) -> Told:
        return self._runner.run(self._talk.execute(code))

    def inside(self, code: str) -> Any:
        """What the program prints as JSON."""
        told = self.run(f"import json\n{code}")
        assert told.status == "ok", told
        return json.loads(told.output)

    def used_cpu_s(self) -> float:
        return self._runner.run(self.box.evidence()).cpu_s or 0.0

    @property
    def host(self) -> Document:
        return self.inspected["HostConfig"]  # type: ignore[no-any-return]

    @property
    def config(self) -> Document:
        return self.inspected["Config"]  # type: ignore[no-any-return]

    def proc(self, name: str) -> str:
        """What the host's kernel says of the box's process; under gVisor, of its kernel's."""
        return Path(f"/proc/{self.pid}/{name}").read_text()

    def status(self) -> dict[str, str]:
        return status_of(self.proc("status"))

    def group(self, *names: str) -> str:
        """The first of these files in the control groups of the box's process."""
        return group_file(self.pid, *names)


def group_file(pid: int, *names: str) -> str:
    """The first of these files in the control groups of a process."""
    text = Path(f"/proc/{pid}/cgroup").read_text()
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for name in names:
            file = Path("/sys/fs/cgroup") / controllers.removeprefix("name=") / path.lstrip("/") / name
            if file.is_file():
                return file.read_text().strip()
    raise AssertionError(f"none of {names}: {text}")


def status_of(text: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


@contextlib.contextmanager
def boxed(name: Name, host: str, image: Image, allowlist: Allowlist | None = None) -> Iterator[Boxed]:
    """A box on the daemon at `host`."""
    with asyncio.Runner() as runner, contextlib.closing(talking_to(host)) as client:
        backend = runner.run(Docker.open(name, Daemon(host), image, allowlist=allowlist))
        try:
            box = Boxed(name, runner, client, backend)
            yield box
            runner.run(box.box.kill())
        finally:
            runner.run(backend.aclose())


# ------------------------------------------------------------------------------------------------- the template alone


class Bare(msgspec.Struct, frozen=True):
    """How a program ended that had the template around it and nothing else."""

    code: int
    output: str

    @property
    def said(self) -> Any:
        """What it printed as JSON."""
        assert self.code == 0, self
        return json.loads(self.output)


def bare(name: Name, host: str, image: Image, program: str, allowlist: Allowlist | None = None) -> Bare:
    """Run `program` as the first process of a container made by the template.

    All three of its pipes are attached: for one that is not, the host's /dev/null would be opened, and runsc makes the
    box's user the owner of what it is given.
    """
    config = host_config(SPEC, RUNTIMES[name], docker_profile(allowlist or load_allowlist()))
    with contextlib.closing(talking_to(host)) as client:
        made = client.create_container(
            asyncio.run(_loaded(host, image)),
            entrypoint=[PYTHON, "-I", "-S", "-B", "-X", "utf8", "-c", program],
            command=[],
            user=USER,
            hostname=HOSTNAME,
            stdin_open=True,
            network_disabled=True,
            host_config=config,
            use_config_proxy=False,
        )
        try:
            with contextlib.closing(_attached(client, made["Id"])) as stream:
                client.start(made)
                outputs, data = Outputs(), b""
                while piece := stream.recv(65536):
                    data += outputs.take(piece)
            code = int(client.wait(made, timeout=_WAIT_S)["StatusCode"])
            return Bare(code=code, output=data.decode("utf-8", "replace") + outputs.errors)
        finally:
            client.remove_container(made, force=True, v=True)


def _attached(client: docker.APIClient, container: str) -> socket.socket:
    hijacked = client.attach_socket(container, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
    stream = socket.socket(fileno=os.dup(hijacked.fileno()))
    hijacked._response.close()
    return stream


async def _loaded(host: str, image: Image) -> str:
    daemon = Daemon(host)
    try:
        return (await ensure_loaded(daemon, image)).id
    finally:
        daemon.close()


# ------------------------------------------------------------------------------------------ daemons that say otherwise

Change = Callable[[Document], None]


class Retelling(Daemon):
    """A real daemon, but for what it is told to make (`make` changes the order) and what it says (`tell`, `info`)."""

    def __init__(
        self,
        host: str,
        *,
        make: Change | None = None,
        tell: Change | None = None,
        info: Change | None = None,
        answer_s: float = ANSWER_S,
    ) -> None:
        super().__init__(host, answer_s=answer_s)
        self._make = make
        self._changes: dict[Callable[..., Any], Change | None] = {
            self.client.inspect_container: tell,
            self.client.info: info,
        }

    async def ask(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        if call == self.client.create_container and self._make is not None:
            self._make(options)
        answer = await super().ask(call, *arguments, **options)
        change = self._changes.get(call)
        if change is not None and isinstance(answer, dict):
            change(answer)
        return answer
