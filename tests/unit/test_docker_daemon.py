"""The calls to a daemon: none waits behind another's, and no program is ever started in a container by one."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import json
import random
import re
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import belljar
from belljar.errors import BoxFault
from belljar.sandbox.docker.box import bury
from belljar.sandbox.docker.daemon import _BUILDS_MAX, Daemon, Lane
from belljar.sandbox.docker.fates import Fates
from tests.integration.daemons import HANG_S, Talker, silence
from tests.waiting import in_time, until

# The connection of a call that nobody waits for any more is left to the garbage collector by the SDK.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Here and not in a later test, which knows nothing of it."""
    yield
    gc.collect()


# As many as make a queue of any pool that is not made for it.
HELD = 40
DONE = b"HTTP/1.1 204 No Content\r\n\r\n"
CALLS: dict[Lane, Callable[[Daemon, str], Any]] = {
    "build": lambda daemon, box: daemon.ask(daemon.client.start, box, lane="build"),
    "end": lambda daemon, box: daemon.ask(daemon.client.kill, box, "SIGINT", lane="end"),
    "ask": lambda daemon, box: daemon.ask(daemon.client.rename, box, "other"),
}


class Holding:
    """Answers at once, but not when it is asked about a container called `held`; those calls are `held`."""

    def __init__(self) -> None:
        self.held = 0
        self._lock = threading.Lock()

    def __call__(self, connection: socket.socket) -> None:
        while data := connection.recv(65536):
            if b"/containers/held" in data.partition(b"\r\n")[0]:
                with self._lock:
                    self.held += 1
                silence(connection)
                return
            connection.sendall(DONE)

    async def are_held(self) -> None:
        """As many as a lane of a few takes at a time have arrived."""
        async with asyncio.timeout(HANG_S):
            while self.held < _BUILDS_MAX:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("held", "other"),
    [("ask", "end"), ("ask", "build"), ("ask", "ask"), ("end", "end"), ("end", "build"), ("build", "end")],
)
def test_a_call_that_hangs_holds_up_no_other(tmp_path: Path, held: Lane, other: Lane) -> None:
    holding = Holding()

    async def main(host: str) -> None:
        daemon = Daemon(host, answer_s=HANG_S)
        calls = [asyncio.ensure_future(CALLS[held](daemon, "held")) for _ in range(HELD)]
        try:
            await holding.are_held()
            async with in_time(HANG_S / 2, "the other call is answered"):
                await CALLS[other](daemon, "free")
            assert not any(call.done() for call in calls)
        finally:
            for call in calls:
                call.cancel()
            daemon.close()

    with Talker(tmp_path, holding) as talker:
        asyncio.run(main(talker.host))


def test_removals_that_hang_hold_up_no_other(tmp_path: Path) -> None:
    holding = Holding()

    async def main(host: str) -> None:
        daemon = Daemon(host, answer_s=HANG_S)
        removals = [asyncio.create_task(bury(daemon, "held")) for _ in range(HELD)]
        try:
            await holding.are_held()
            async with in_time(HANG_S / 2, "the other is removed"):
                assert await bury(daemon, "free")
            assert not any(removal.done() for removal in removals)
        finally:
            for removal in removals:
                removal.cancel()
            await asyncio.gather(*removals, return_exceptions=True)
            daemon.close()

    with Talker(tmp_path, holding) as talker:
        asyncio.run(main(talker.host))


@pytest.mark.slow
def test_whoever_is_not_removed_is_said_to_be_there(tmp_path: Path) -> None:
    async def main(host: str) -> list[bool]:
        with contextlib.closing(Daemon(host, answer_s=1)) as daemon:
            return [await bury(daemon, name) for name in ("free", "held")]

    with Talker(tmp_path, Holding()) as talker:
        assert asyncio.run(main(talker.host)) == [True, False]


def test_events_that_nobody_listens_to_any_more_leave_no_connection(tmp_path: Path) -> None:
    """Whenever that is: the thread that reads them may be in the middle of one when the loop is closed."""

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:  # until nobody takes it
            connection.sendall(b'f\r\n{"Action":"x"}\n\r\n')

    async def listen_for_a_moment(host: str) -> None:
        daemon = Daemon(host, answer_s=HANG_S)
        fates = Fates(daemon, "label")
        assert await fates.listen()
        await asyncio.sleep(random.random() * 0.003)
        fates.close()
        daemon.close()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    gc.disable()
    try:
        with Talker(tmp_path, talk) as talker:
            for _ in range(200):
                asyncio.run(listen_for_a_moment(talker.host))
        for thread in threading.enumerate():
            if thread.name == "belljar docker events":
                thread.join(HANG_S)
        with warnings.catch_warnings(record=True) as lost:
            warnings.simplefilter("always")
            gc.collect()
    finally:
        gc.enable()
        sys.setswitchinterval(interval)
    assert [str(each.message) for each in lost] == []


def listeners() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "belljar docker events"]


@pytest.mark.slow
def test_a_daemon_that_sends_no_events_keeps_no_thread(tmp_path: Path) -> None:
    """However often it is asked: each thread ends by the deadline of its question, and leaves no connection."""

    async def main(host: str) -> None:
        daemon = Daemon(host, answer_s=1)
        fates = Fates(daemon, "label")
        for _ in range(3):
            with pytest.raises(BoxFault, match="did not answer within 1 s"):
                await fates.listen()
        fates.close()
        daemon.close()

    with Talker(tmp_path, silence) as talker:
        asyncio.run(main(talker.host))
        until(lambda: listeners() == [], what="the threads have ended")


@pytest.mark.slow
def test_events_may_be_far_between(tmp_path: Path) -> None:
    """Their deadline is for the beginning alone."""
    happened = threading.Event()

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        happened.wait(HANG_S)
        connection.sendall(b'1d\r\n{"id": "box","Action": "die"}\n\r\n')
        silence(connection)

    async def main(host: str) -> None:
        with contextlib.closing(Daemon(host, answer_s=1)) as daemon:
            fates = Fates(daemon, "label")
            async with asyncio.timeout(HANG_S):
                while not fates.listening:
                    with contextlib.suppress(BoxFault):  # a busy machine
                        await fates.listen()
            fate = fates.watch("box")
            await asyncio.sleep(2.5)
            happened.set()
            await fates.wait(fate, HANG_S)
            assert (fate.over, fate.lost) == (True, False)
            fates.close()

    with Talker(tmp_path, talk) as talker:
        asyncio.run(main(talker.host))


def test_of_a_container_that_nobody_hears_of_nothing_can_be_known(tmp_path: Path) -> None:
    """The events may have ended while it was made."""
    with contextlib.closing(Daemon(f"unix://{tmp_path}/none")) as daemon:
        assert Fates(daemon, "label").watch("box").lost


STRANGE = ["[]", "null", "3", '{"proxies": null}', '{"proxies": {"default": ["x"]}}', '{"auths": {"x": 3}}']


@pytest.mark.parametrize("config", STRANGE)
def test_a_user_s_docker_configuration_that_is_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    (tmp_path / "config.json").write_text(config)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(BoxFault, match=r"own Docker configuration .* cannot be read: mend it"):
        Daemon(f"unix://{tmp_path}/none")


def test_nothing_of_the_user_s_own_docker_configuration_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = base64.b64encode(b"me:secret").decode()
    config = {"auths": {"registry": {"auth": secret}}, "proxies": {"default": {"httpProxy": "http://proxy"}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with contextlib.closing(Daemon(f"unix://{tmp_path}/none")) as daemon:
        kept = repr(vars(daemon.client))
    assert "secret" not in kept
    assert "http://proxy" not in kept


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:999999", "tcp://127.0.0.1:-1", "tcp://[::1"])
def test_an_address_that_cannot_be_one_is_named(host: str) -> None:
    with pytest.raises(BoxFault, match=r"DOCKER_HOST=.* cannot be used"):
        Daemon(host)


def test_no_program_is_started_in_a_container_that_runs() -> None:
    """It would be the guest's to stop and to answer for; and gVisor gives its standard streams to the guest's user."""
    for path in Path(belljar.__file__).parent.rglob("*.py"):
        assert not re.search(r"exec_(create|start|run|inspect)|/exec\b", path.read_text("utf-8")), path
