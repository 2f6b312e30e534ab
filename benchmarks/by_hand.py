"""What somebody would write who wants one container of the same kind: the floor of the third table.

`docker run` gets the very options that our boxes have: its command line is made from the `HostConfig` that
`belljar.sandbox.docker.options` makes, an option it has no words for is an error, and before anything is timed the
daemon's description of a container so made is compared with the order, by the check that every box of ours passes.
`--rm` alone is added: somebody has to remove it.

Two programs, each in the image of our boxes:

    print     `python3 -I -S -B -c 'print(6 * 7)'`
    imports   the same, after it has imported our entry point with all that this imports, and run nothing of it

Neither limits itself, loads a filter, or is given anything to do: a box of ours does all that as well, and is checked.

The third does without a command line: our own calls of the SDK, with the first program: create, attach, start, read
what comes; then remove. What it takes is the daemon's share.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from belljar.sandbox.docker.daemon import Daemon
from belljar.sandbox.docker.options import ENTRYPOINT, HOSTNAME, USER, RuntimeName, differences, host_config
from belljar.sandbox.docker.profile import docker_profile
from belljar.sandbox.docker.stream import Outputs
from belljar.sandbox.image import AGENT, PYTHON
from belljar.sandbox.seccomp import load_allowlist
from benchmarks.containers import BackendName, Bench
from benchmarks.measure import BenchmarkError, BoxPlan, Samples

__all__ = ["IMPORTS", "PRINT", "RUNTIMES", "ByHand", "RawSdk", "flags"]

RUNTIMES: Final[dict[BackendName, RuntimeName]] = {"docker": "runc", "gvisor": "runsc"}
PRINT: Final = "print(6 * 7)"
_FOLDER, _MODULE = os.path.split(AGENT)
IMPORTS: Final = f"import sys; sys.path.insert(0, {_FOLDER!r}); import {_MODULE.removesuffix('.py')}; {PRINT}"
_ANSWER: Final = b"42\n"
_ARGUMENTS: Final = ("-I", "-S", "-B", "-c")
_ANSWER_S: Final = 60.0


def flags(options: Mapping[str, Any], profile: Path) -> list[str]:
    """A `HostConfig` of ours in the words of `docker run`. `profile`: the file that holds its seccomp profile.

    Raises:
        KeyError: it has an option that nobody has translated.
    """
    return [word for name, value in options.items() for word in _FLAGS[name](value, profile)]


def _plain(flag: str) -> Callable[[Any, Path], list[str]]:
    return lambda value, _: [flag, str(value)]


def _security(value: Sequence[str], profile: Path) -> list[str]:
    """The daemon takes the profile itself, the command line a file with it."""
    words = [f"seccomp={profile}" if option.startswith("seccomp=") else option for option in value]
    return [word for option in words for word in ("--security-opt", option)]


def _log(value: Mapping[str, Any], _: Path) -> list[str]:
    return ["--log-driver", value["Type"], *(f"--log-opt={name}={text}" for name, text in value["Config"].items())]


def _restart(value: Mapping[str, Any], _: Path) -> list[str]:
    retries = value["MaximumRetryCount"]
    return ["--restart", f"{value['Name']}:{retries}" if retries else value["Name"]]


_FLAGS: Final[dict[str, Callable[[Any, Path], list[str]]]] = {
    "Runtime": _plain("--runtime"),
    "NetworkMode": _plain("--network"),
    "ReadonlyRootfs": lambda value, _: ["--read-only"] if value else [],
    "Tmpfs": lambda value, _: [word for at, how in value.items() for word in ("--tmpfs", f"{at}:{how}")],
    "CapDrop": lambda value, _: [word for name in value for word in ("--cap-drop", name)],
    "SecurityOpt": _security,
    "IpcMode": _plain("--ipc"),
    "CgroupnsMode": _plain("--cgroupns"),
    "PidsLimit": _plain("--pids-limit"),
    "Memory": _plain("--memory"),
    "MemorySwap": _plain("--memory-swap"),
    "MemorySwappiness": _plain("--memory-swappiness"),
    "NanoCpus": lambda value, _: ["--cpus", f"{value / 10**9:g}"],
    "Ulimits": lambda value, _: [
        word for one in value for word in ("--ulimit", f"{one['Name']}={one['Soft']}:{one['Hard']}")
    ],
    "LogConfig": _log,
    "Init": lambda value, _: [f"--init={str(value).lower()}"],
    "RestartPolicy": _restart,
    # Ours are looked at before they are removed; by hand, `--rm`.
    "AutoRemove": lambda value, _: ["--rm"],
}


class _Made:
    """What both have in common: the image, and the options of a box of ours."""

    def __init__(self, bench: Bench, backend: BackendName) -> None:
        self.backend: BackendName = backend
        self._bench = bench
        self._profile = docker_profile(load_allowlist())
        self._runtime = RUNTIMES[backend]
        self._options = host_config(bench.wiring.spec, self._runtime, self._profile)


class ByHand(_Made):
    """`docker run -i --rm`. Use as a context manager.

    Args:
        docker: the command line program.
        what: the program, in a word.
        program: what Python is given to do.
    """

    def __init__(
        self, bench: Bench, backend: BackendName, *, docker: str, what: str, program: str, scratch: Path
    ) -> None:
        super().__init__(bench, backend)
        self.what = what
        self.title = f"docker run by hand ({self._runtime}), {what}"
        self.isolation = f"the container's part of Belljar {backend}: nothing that a box closes from inside"
        self._docker = docker
        self._program = program
        self._scratch = scratch

    async def __aenter__(self) -> Self:
        """Raises:
        BenchmarkError: the command line does not make what a box of ours is.
        """
        made = (await self._say("create", *self._words())).decode().strip()
        ask, client = self._bench.daemon.ask, self._bench.daemon.client
        inspected = await ask(client.inspect_container, made)
        await ask(client.remove_container, made, force=True)
        # The program alone is another.
        inspected["Config"] |= {"Entrypoint": list(ENTRYPOINT), "Cmd": None}
        if wrong := differences(inspected, {**self._options, "AutoRemove": True}, self._bench.image.id):
            raise BenchmarkError(f"{self.title} differs from a box of ours in {', '.join(wrong)}")
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def round_of_boxes(self, plan: BoxPlan) -> Samples:
        both = [await self._once() for _ in range(plan.starts)]
        return {"cold": [first for first, _ in both], "whole": [whole for _, whole in both]}

    async def _once(self) -> tuple[float, float]:
        """Seconds until its answer is read, and until the command line has ended."""
        started = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *(self._docker, "run", *self._words()), stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, env=self._environ()
        )
        assert process.stdout is not None
        said = await asyncio.wait_for(process.stdout.readline(), _ANSWER_S)
        first = time.perf_counter() - started
        await process.wait()
        whole = time.perf_counter() - started
        if said != _ANSWER or process.returncode:
            raise BenchmarkError(f"{self.title} said {said!r} and ended with {process.returncode}")
        return first, whole

    async def _say(self, *words: str) -> bytes:
        process = await asyncio.create_subprocess_exec(
            *(self._docker, *words), stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=self._environ()
        )
        said, complaint = await asyncio.wait_for(process.communicate(), _ANSWER_S)
        if process.returncode:
            raise BenchmarkError(f"{self.title}: {complaint.decode(errors='replace').strip()[:300]}")
        return said

    def _words(self) -> list[str]:
        profile = self._scratch / "seccomp.json"
        if not profile.exists():
            profile.write_text(self._profile, encoding="ascii")
        about = ["-i", "--user", USER, "--hostname", HOSTNAME, "--entrypoint", PYTHON]
        return [*about, *flags(self._options, profile), self._bench.image.id, *_ARGUMENTS, self._program]

    def _environ(self) -> dict[str, str]:
        """Without the user's own configuration: its proxies would become the container's environment."""
        return {"PATH": os.defpath, "DOCKER_HOST": self._bench.daemon.host, "DOCKER_CONFIG": str(self._scratch)}


class RawSdk(_Made):
    """The SDK's calls one after another. Has a connection of its own. Use as a context manager."""

    def __init__(self, bench: Bench, backend: BackendName) -> None:
        super().__init__(bench, backend)
        self.title = f"SDK: create, attach, start, first byte ({self._runtime})"
        self.isolation = f"as docker run by hand ({self._runtime})"
        self._daemon = Daemon(bench.daemon.host)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._daemon.close()

    async def round_of_boxes(self, plan: BoxPlan) -> Samples:
        pairs = [await self._once() for _ in range(plan.starts)]
        return {"cold": [first for first, _ in pairs], "removed": [removed for _, removed in pairs]}

    async def _once(self) -> tuple[float, float]:
        """Seconds until a byte is read; seconds of the removal."""
        ask, client = self._daemon.ask, self._daemon.client
        started = time.perf_counter()
        made = await ask(
            client.create_container,
            self._bench.image.id,
            entrypoint=[PYTHON, *_ARGUMENTS, PRINT],
            command=[],
            user=USER,
            hostname=HOSTNAME,
            stdin_open=True,
            network_disabled=True,
            host_config=dict(self._options),
            use_config_proxy=False,
        )
        stream = await self._daemon.attach(made["Id"])
        with contextlib.closing(stream):
            await ask(client.start, made["Id"])
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(stream, 4096), _ANSWER_S)
            first = time.perf_counter() - started
        started = time.perf_counter()
        await ask(client.remove_container, made["Id"], force=True, v=True)
        removed = time.perf_counter() - started
        said = Outputs().take(data)
        if not _ANSWER.startswith(said) or not said:
            raise BenchmarkError(f"{self.title} said {said!r}")
        return first, removed
