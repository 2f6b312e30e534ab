"""The Docker daemon, asked with deadlines from our own threads: every question ends in an answer or a `BoxFault`.

The SDK blocks, and a daemon may be slow, stopped or gone at any moment, for one container or for all. So that no run
waits for another's, calls go to dedicated threads, in three lanes; each call has the SDK's deadline, and its caller has
one as well:

    build   create, attach, start: a few at a time, because a daemon gets no faster by being asked for fifty boxes
    end     interrupts, kills and removals
    ask     everything else

In `end` and `ask` every call has its own thread, so one that hangs holds up no other. There are never many, because a
box asks one thing at a time and is interrupted and removed once.

Nothing of the user's own Docker configuration is used: no proxies, which would become the environment of a box, no
credentials, no context; only `DOCKER_HOST` says where the daemon is. The SDK reads it whatever it is told, so what it
has read is forgotten at once.
"""

from __future__ import annotations

import asyncio
import http
import os
import re
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeVar, cast, get_args

import docker
import docker.constants
import docker.errors
import requests
import urllib3
from docker.auth import AuthConfig
from docker.utils.proxy import ProxyConfig

from belljar.errors import BoxFault
from belljar.tasks import Workers

__all__ = ["ANSWER_S", "API_VERSION", "DEFAULT_HOST", "Daemon", "Lane", "NotThere", "Taken"]

DEFAULT_HOST: Final = "unix:///var/run/docker.sock"
# Docker Engine 20.10, the oldest one supported: cgroup namespaces and one-shot statistics came with it.
API_VERSION: Final = "1.41"
# Creating takes about 10 ms, starting about 100; a machine under load may need seconds.
ANSWER_S: Final = 30.0
# A stand-in for "no bound": more than a machine has boxes.
_THREADS_MAX: Final = 4096
_BUILDS_MAX: Final = 8
_VERSION: Final = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}")

Lane = Literal["build", "end", "ask"]
_T = TypeVar("_T")


class NotThere(BoxFault):
    """The daemon answers, but has no such container or image."""


class Taken(BoxFault):
    """The daemon answers, but has another container with that name, or is doing something else with this one."""


class Daemon:
    """One Docker daemon. Close it with `close`."""

    def __init__(self, host: str, *, answer_s: float = ANSWER_S) -> None:
        """Asks nothing yet.

        Raises:
            BoxFault: `host` is not an address.
        """
        self.host = host
        self.answer_s = answer_s
        try:
            self.client = docker.APIClient(base_url=host, version=API_VERSION, timeout=max(1, round(answer_s)))
        except (docker.errors.InvalidConfigFile, AttributeError, TypeError) as error:
            raise BoxFault(
                "the user's own Docker configuration (config.json in DOCKER_CONFIG, or in ~/.docker) cannot be read: "
                "mend it, or name an empty folder in DOCKER_CONFIG"
            ) from error
        except (docker.errors.DockerException, ValueError) as error:
            raise BoxFault(f"DOCKER_HOST={host} cannot be used: {_line(error)}") from error
        # It would read proxies and passwords from the environment and the home folder.
        self.client.trust_env = False
        _forget_configuration(self.client)
        self._lanes = {lane: _threads(lane) for lane in get_args(Lane)}

    @classmethod
    def at(cls, environ: Mapping[str, str]) -> Daemon:
        """The daemon that `DOCKER_HOST` names, or the machine's own."""
        return cls(environ.get("DOCKER_HOST") or DEFAULT_HOST)

    async def ask(self, call: Callable[..., _T], *arguments: Any, lane: Lane = "ask", **options: Any) -> _T:
        """`call`, a method of `client`, with these arguments, from a thread of this lane.

        Raises:
            NotThere: no such container or image.
            Taken: another container has that name.
            BoxFault: the daemon refused, is not there, or did not answer in time.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.answer_s * 2):
                return await loop.run_in_executor(self._lanes[lane], lambda: self.ask_now(call, *arguments, **options))
        except TimeoutError:
            raise self.silent() from None

    def ask_now(self, call: Callable[..., _T], *arguments: Any, **options: Any) -> _T:
        """`ask`, in the caller's own thread."""
        if self._socket is not None and not os.path.exists(self._socket):
            raise self._absent()  # the SDK would find out too, and lose a socket over it
        try:
            return call(*arguments, **options)
        except docker.errors.NotFound as error:
            raise NotThere(f"the Docker daemon at {self.host} does not have it: {_line(error)}") from error
        except docker.errors.APIError as error:
            kind = Taken if error.status_code == http.HTTPStatus.CONFLICT else BoxFault
            raise kind(f"the Docker daemon at {self.host} refused: {_line(error)}") from error
        except requests.exceptions.Timeout:
            raise self.silent() from None
        except (requests.exceptions.RequestException, OSError) as error:
            raise self._absent() from error
        # What the SDK raises on an answer that no Docker daemon gives.
        except (docker.errors.DockerException, urllib3.exceptions.HTTPError, ValueError, AttributeError) as error:
            raise self.strange() from error

    async def negotiate(self) -> Mapping[str, Any]:
        """Switch to the newest version that both know; new daemons refuse the old ones.

        Gives what the daemon says of its versions. Raises: as `ask`.
        """
        client: Any = self.client
        said = await self.ask(client.version, api_version=False)
        spoken = said.get("ApiVersion") if isinstance(said, dict) else None
        if not isinstance(spoken, str) or not _VERSION.fullmatch(spoken):
            raise self.strange()
        if _numbers(spoken) < _numbers(API_VERSION):
            raise BoxFault(f"the Docker daemon at {self.host} is too old: use Docker Engine 20.10 or newer")
        # The SDK asks once, when it is created, or never; there is no other way to set this.
        client._version = min(spoken, docker.constants.DEFAULT_DOCKER_API_VERSION, key=_numbers)
        return cast("Mapping[str, Any]", said)

    def beside(self, *, answer_s: float | None = None) -> Daemon:
        """Another client of the same daemon, with connections of its own, that speaks the version agreed on."""
        other = Daemon(self.host, answer_s=answer_s or self.answer_s)
        ours, theirs = cast("Any", self.client), cast("Any", other.client)
        theirs._version = ours._version
        return other

    async def takes_calls(self) -> bool:
        """Whether it accepts new connections. A stopping daemon does not, but still answers over the old ones."""
        other = self.beside()
        try:
            await other.ask(other.client.ping)
        except BoxFault:
            return False
        finally:
            other.close()
        return True

    async def attach(self, container: str) -> socket.socket:
        """The stream of a container's standard input and outputs, non-blocking. See `belljar.sandbox.docker.stream`.

        Raises: as `ask`.
        """
        attaching = asyncio.create_task(self.ask(self._attach, container, lane="build"))
        try:
            return await asyncio.shield(attaching)
        except asyncio.CancelledError:
            attaching.add_done_callback(_close_result)
            raise

    def _attach(self, container: str) -> socket.socket:
        params = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        hijacked = self.client.attach_socket(container, params=params)
        # The SDK returns a reader around the socket and owns it; the copy is ours to close.
        stream = socket.socket(fileno=os.dup(hijacked.fileno()))
        hijacked._response.close()
        stream.setblocking(False)
        return stream

    def close(self) -> None:
        """Close, without waiting for calls under way: each ends by its deadline."""
        for threads in self._lanes.values():
            threads.shutdown(wait=False, cancel_futures=True)
        self.client.close()

    @property
    def _socket(self) -> str | None:
        """The path of a daemon of this machine."""
        return self.host.removeprefix("unix://") if self.host.startswith("unix://") else None

    def _absent(self) -> BoxFault:
        if self._socket is not None and _is_closed(self._socket):
            return BoxFault(
                f"this user may not use the Docker daemon at {self.host}: add it to the group that may, which is "
                "`docker` as a rule, or name another daemon in DOCKER_HOST"
            )
        return BoxFault(f"no Docker daemon answers at {self.host}: start it, or name another in DOCKER_HOST")

    def silent(self) -> BoxFault:
        return BoxFault(
            f"the Docker daemon at {self.host} did not answer within {self.answer_s:.0f} s: "
            "check why it is slow, or name another in DOCKER_HOST"
        )

    def strange(self) -> BoxFault:
        return BoxFault(f"what answers at {self.host} is not a Docker daemon: name one in DOCKER_HOST")


def _is_closed(path: str) -> bool:
    """Whether there is a socket, or a folder for it, that is closed to this user."""
    try:
        os.stat(path)
    except OSError as error:
        return isinstance(error, PermissionError)
    return not os.access(path, os.R_OK | os.W_OK, effective_ids=True)


def _forget_configuration(client: Any) -> None:
    client._general_configs = {}
    client._proxy_configs = ProxyConfig()
    client._auth_configs = AuthConfig({})


def _threads(lane: Lane) -> Workers:
    count = _BUILDS_MAX if lane == "build" else _THREADS_MAX
    return Workers(count, thread_name_prefix=f"belljar docker {lane}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _close_result(attaching: asyncio.Task[socket.socket]) -> None:
    if not attaching.cancelled() and attaching.exception() is None:
        attaching.result().close()


def _line(error: Exception) -> str:
    explanation = getattr(error, "explanation", None)
    return " ".join(str(explanation or error).split())[:500]
