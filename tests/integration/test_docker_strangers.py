"""What others do to a daemon that boxes are made by: they use names of ours, start containers again, and put newer
daemons in the place of old ones. And what is left of a box when its daemon is not there to end it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import docker.errors
import psutil
import pytest

from belljar.errors import BoxFault
from belljar.lifecycle import box_spec
from belljar.policy import load
from belljar.sandbox import ensure_image
from belljar.sandbox.docker.backend import Docker
from belljar.sandbox.docker.daemon import Daemon
from tests.daemon import PrivateDaemon
from tests.integration.daemons import (
    BUSY,
    HANG_S,
    SLEEPS,
    Between,
    Dock,
    Talker,
    dock_at,
    drive,
    runtime_on,
    soon,
    under_way,
)
from tests.integration.support import Jar
from tests.waiting import in_time, pass_time

# The connection of a call that nobody waits for any more is left to the garbage collector by the SDK.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("collected"),
]

T = TypeVar("T")
SPEC = box_spec(load("dev"))
RUN = "01" * 13
# Docker Engine 29 speaks nothing older.
OLDEST = 44


# ------------------------------------------------------------------------------------------------- names and containers


def test_a_container_of_somebody_else_with_our_run_s_name_is_left_alone(jar: Jar, dock: Dock) -> None:
    async def main() -> None:
        backend = await Docker.open("docker", Daemon(dock.host), ensure_image(jar.state.images))
        theirs = dock.client.create_container(backend._image.id, ["sleep"], name=f"belljar-{RUN}")["Id"]
        try:
            free = backend._uids and len(backend._uids._free)
            with pytest.raises(BoxFault, match=r"name .* is already in use"):
                await backend.start(SPEC, {"run": RUN, "tenant": "t"})
            await soon(lambda: not backend._tasks, "nothing goes on in the background")
            assert theirs in [one["Id"] for one in dock.client.containers(all=True)]
            assert (backend._uids and len(backend._uids._free)) == free
        finally:
            await backend.aclose()
            with contextlib.suppress(docker.errors.NotFound):
                dock.client.remove_container(theirs)

    drive(main())


def test_a_container_started_again_from_outside_was_killed(jar: Jar, dock: Dock, tmp_path: Path) -> None:
    """It runs when we ask about it, as one does that has closed its wire."""
    runs = threading.Event()
    runs.set()

    def before(request: str) -> bool:
        return "/json" not in request or runs.wait(HANG_S)

    async def main(host: str) -> None:
        async with runtime_on(host, jar) as runtime, under_way(runtime, jar, BUSY) as run:
            (box,) = dock.running()
            runs.clear()
            await asyncio.to_thread(dock.client.restart, box, timeout=0)
            runs.set()
            async with in_time(HANG_S, "the run is over"):
                result = await run
            assert result.status == "killed", result

    with Between(tmp_path, dock.host, before) as between:
        drive(main(between.host))


# ------------------------------------------------------------------------------------------- a daemon that is not there


@pytest.mark.skipif("os.geteuid() != 0", reason="only root kills what runs as somebody else")
def test_a_box_whose_daemon_ended_before_it_is_killed_without_it(jar: Jar, private_daemon: PrivateDaemon) -> None:
    """A daemon that leaves its containers alive when it stops ends their streams, as a box that hangs up does."""
    config = private_daemon.folder / "daemon.json"
    config.write_text(config.read_text().replace("{", '{"live-restore": true, ', 1))
    os.kill(private_daemon.pid, signal.SIGHUP)

    async def main() -> None:
        with dock_at(private_daemon.host) as own:
            await soon(lambda: own.client.info()["LiveRestoreEnabled"], "live-restore is on")
            async with runtime_on(own.host, jar) as runtime:
                async with under_way(runtime, jar, BUSY) as run:
                    (pid,) = [own.state(one)["Pid"] for one in own.running()]
                    daemon = private_daemon.pid
                    os.kill(daemon, signal.SIGKILL)
                    await soon(lambda: not psutil.pid_exists(daemon), "the daemon is gone")
                    async with in_time(HANG_S, "the run is over"):
                        assert (await run).status == "host_fault"
                await soon(lambda: not psutil.pid_exists(pid), "its process has ended, and no daemon was there")
                await asyncio.to_thread(private_daemon.start)

    drive(main())


def test_a_box_that_was_never_made_is_not_watched_for_ever(jar: Jar, dock: Dock, tmp_path: Path) -> None:
    def before(request: str) -> bool:
        if "/attach" in request:
            raise OSError("the proxy hangs up")
        return True

    async def main(host: str) -> None:
        backend = await Docker.open("docker", Daemon(host), ensure_image(jar.state.images))
        try:
            with pytest.raises(BoxFault, match="no Docker daemon answers"):
                await backend.start(SPEC)
            assert backend._fates._of == {}
        finally:
            await backend.aclose()

    with Between(tmp_path, dock.host, before) as between:
        drive(main(between.host))


def test_a_box_that_waits_for_its_turn_to_start_is_not_late(jar: Jar, dock: Dock, tmp_path: Path) -> None:
    """Its time runs from its start: many are started at once, and a daemon takes a few at a time."""

    async def main() -> None:
        held, go = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def before(request: str) -> bool:
            if "/start" in request:
                loop.call_soon_threadsafe(held.set)
                asyncio.run_coroutine_threadsafe(go.wait(), loop).result(HANG_S)
            return True

        with Between(tmp_path, dock.host, before) as between:
            backend = await Docker.open("docker", Daemon(between.host, answer_s=HANG_S), ensure_image(jar.state.images))
            try:
                starting = asyncio.create_task(backend.start(SPEC))
                async with in_time(HANG_S, "it is to be started"):
                    await held.wait()
                pass_time(40)
                for _ in range(10):
                    await asyncio.sleep(0)
                go.set()
                await (await starting).kill()
            finally:
                go.set()
                await backend.aclose()

    drive(main())


class Strange(Daemon):
    """A real daemon; but once it says of this call something that no daemon says."""

    def __init__(self, host: str, call: str, said: object) -> None:
        super().__init__(host)
        self._strange = getattr(self.client, call)
        self._said = [said]

    async def ask(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        answer = await super().ask(call, *arguments, **options)
        return cast("T", self._said.pop()) if call == self._strange and self._said else answer


@pytest.mark.parametrize("said", [None, {}, []], ids=["nothing", "an empty document", "a list"])
@pytest.mark.parametrize("call", ["create_container", "inspect_container"])
def test_what_no_daemon_says_of_a_container_is_its_fault(jar: Jar, dock: Dock, call: str, said: object) -> None:
    async def main() -> None:
        backend = await Docker.open("docker", Strange(dock.host, call, said), ensure_image(jar.state.images))
        try:
            with pytest.raises(BoxFault, match="is not a Docker daemon"):
                await backend.start(SPEC)
            await soon(lambda: dock.ours() == [], "its container is removed")
            await (await backend.start(SPEC)).kill()
        finally:
            await backend.aclose()

    drive(main())


# -------------------------------------------------------------------------------------------------------- newer daemons


class Newer(Talker):
    """A proxy that makes of the daemon at `host` one of today, which refuses the versions of its API that are old."""

    def __init__(self, folder: Path, host: str) -> None:
        self._behind = host.removeprefix("unix://")
        self.refused: list[str] = []
        super().__init__(folder, self._pass_on)

    def _pass_on(self, connection: socket.socket) -> None:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as daemon:
            daemon.connect(self._behind)
            back = threading.Thread(target=self._answers, args=(daemon, connection))
            back.start()
            try:
                while data := connection.recv(65536):
                    asked = re.match(rb"(?:GET|POST|DELETE|HEAD) /v1\.(\d+)/", data)
                    if asked and int(asked[1]) < OLDEST:
                        self.refused.append(data.partition(b"\r\n")[0].decode())
                        said = json.dumps({"message": "client version is too old. Minimum supported is 1.44"}).encode()
                        connection.sendall(_BAD % (len(said), said))
                        return
                    daemon.sendall(data.replace(b"/v1.%s/" % asked[1], b"/v1.41/", 1) if asked else data)
            finally:
                with contextlib.suppress(OSError):
                    daemon.shutdown(socket.SHUT_RDWR)
                back.join()

    def _answers(self, daemon: socket.socket, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := daemon.recv(65536):
                connection.sendall(data.replace(b'"ApiVersion":"1.41"', b'"ApiVersion":"1.52"'))
            connection.shutdown(socket.SHUT_RDWR)


_BAD = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"


def test_a_daemon_that_refuses_old_versions_of_its_api(jar: Jar, private_daemon: PrivateDaemon, tmp_path: Path) -> None:
    """From the image, which is loaded, to the end of a box, about which it is asked."""
    with dock_at(private_daemon.host) as own, Newer(tmp_path, own.host) as newer:
        environ = {"DOCKER_HOST": newer.host}

        async def main() -> None:
            async with runtime_on(newer.host, jar) as runtime, under_way(runtime, jar, SLEEPS) as run:
                assert not run.done(), newer.refused
                (box,) = own.running()
                await asyncio.to_thread(own.client.kill, box)
                async with in_time(HANG_S, "the run is over"):
                    assert (await run).status == "killed"

        drive(main())
        for command in (("image", "build", "--backend", "docker"), ("image", "ls"), ("doctor", "--backend", "docker")):
            outcome = jar(*command, env=environ)
            assert "too old" not in outcome.stdout + outcome.stderr, outcome
        assert newer.refused == []
