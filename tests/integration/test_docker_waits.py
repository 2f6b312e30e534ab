"""Nobody waits for another's box, and no deadline for anybody: whatever a box does, and whatever the daemon does not.

Nothing inside a box is asked, so nothing in there can be slow to answer. What the daemon is asked is asked with a
deadline, and by a thread of its own. The proxy in front of the daemon sees every request, and can swallow it.
"""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path
from typing import Any, cast

import msgspec
import psutil
import pytest

from belljar import Result, Runtime
from belljar.engine import CellResult
from belljar.host import Host, Terms
from belljar.lifecycle import box_spec
from belljar.policy import Policy, load
from belljar.sandbox import Backend, ensure_image
from belljar.sandbox.docker.backend import Docker
from belljar.sandbox.docker.daemon import Daemon
from tests.devices import devices, healthy
from tests.escape.harness import load_programs
from tests.integration.daemons import BUSY, HANG_S, Between, Dock, drive, impatient, soon, under_way
from tests.integration.docker_boxes import Document, Name, Retelling
from tests.integration.support import Jar
from tests.integration.test_jail_lifecycle import Talk

# The connection of a call that nobody waits for any more is left to the garbage collector by the SDK.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("collected"),
]

NAMES: list[Name] = ["docker", "gvisor"]
SOURCES = {program.name: program.cells[0] for program in load_programs()}
STOPS_ALL = SOURCES["processes/stop_all_that_come_later"]
MANY_CHILDREN = SOURCES["processes/many_children_and_an_error"]
RAISES = SOURCES["lies/raise_an_error_of_the_system"]
FILLS = SOURCES["resources/disk_bytes"]
HOSTILE = 8
# A box whose end had to be asked for inside took a minute. Eight of gVisor's on two cores that others use need seconds.
HELD_UP_S = 30.0
# How long a call that is never answered occupies its own thread.
ANSWER_S = 5
# How long a rename is held up, for a removal that does not wait for it to get past.
HELD_S = 1.0
# Where it must be seen that nobody waits for that.
LONG_S = 20.0


# The end of its input does not end it.
RESISTS = "import os, threading, time\nos._exit = print\nthreading.Thread(target=time.sleep, args=(300,)).start()"


class Requests:
    """What a proxy was asked. While `deaf` is set, requests that match `swallowed` are not answered."""

    def __init__(self, swallowed: str = "$^") -> None:
        self.seen: list[str] = []
        self.deaf = threading.Event()
        self._swallowed = re.compile(swallowed)

    def __call__(self, request: str) -> bool:
        self.seen.append(request)
        return not (self.deaf.is_set() and self._swallowed.search(request))


def with_limits(**limits: Any) -> Policy:
    policy = load("dev")
    return msgspec.structs.replace(policy, limits=msgspec.structs.replace(policy.limits, **limits))


def runtime(host: str, jar: Jar, name: Name, policy: Policy) -> Runtime:
    return Runtime(policy, state=jar.at, backend=name, language="python", environ={"DOCKER_HOST": host})


def far_away(document: Document) -> None:
    document["State"]["Pid"] = 0


class FarHost(Host):
    """A host whose daemon is on another machine: its process numbers mean nothing here."""

    def __init__(self, docker_host: str, answer_s: float, state: Path) -> None:
        super().__init__(state=state)
        self._docker_host = docker_host
        self._answer_s = answer_s

    async def _open_backend(self, terms: Terms) -> Backend:
        image = await asyncio.to_thread(ensure_image, self.state.images)
        daemon = Retelling(self._docker_host, tell=far_away, answer_s=self._answer_s)
        return await Docker.open("docker", daemon, image)


class FarRuntime(Runtime):
    def __init__(self, host: str, *, answer_s: float = HANG_S, **options: Any) -> None:
        super().__init__(**options)
        self._host = FarHost(host, answer_s, self.state.root)


# ------------------------------------------------------------------------------------------- nothing inside is asked


@pytest.mark.parametrize("name", NAMES)
def test_an_error_of_the_system_starts_no_program_in_the_box(jar: Jar, dock: Dock, tmp_path: Path, name: Name) -> None:
    requests = Requests()
    before = devices()
    assert healthy(), "repair this machine first: chown root:root /dev/null; chmod 666 /dev/null (zero and urandom too)"

    async def main(host: str) -> None:
        async with runtime(host, jar, name, with_limits(scratch_bytes=2 << 20)) as one:
            assert (await one.execute(RAISES)).status == "error"
            assert (await one.execute(FILLS)).status == ("disk" if name == "docker" else "error")

    with Between(tmp_path, dock.host, requests) as between:
        drive(main(between.host))
    assert any("/start" in request for request in requests.seen)
    assert [request for request in requests.seen if "/exec" in request] == []
    assert devices() == before


def test_a_full_disk_far_away_is_the_programs_own_error(jar: Jar, dock: Dock) -> None:
    async def main() -> Result:
        policy = with_limits(scratch_bytes=2 << 20)
        async with FarRuntime(dock.host, policy=policy, state=jar.at, language="python", environ={}) as far:
            return await far.execute(FILLS)

    result = drive(main())
    assert (result.status, result.limit) == ("error", None)
    assert result.error is not None
    assert "No space left on device" in result.error.message


@pytest.mark.parametrize("code", [STOPS_ALL, MANY_CHILDREN], ids=["stops all", "many children"])
@pytest.mark.parametrize("name", NAMES)
def test_boxes_that_stop_all_that_comes_hold_up_no_neighbour(jar: Jar, dock: Dock, name: Name, code: str) -> None:
    """Eight of them beside a neighbour, whose cells are short, and each of them over in its own time."""

    async def attack(one: Runtime) -> CellResult:
        async with one.session() as session:
            return await session.execute(code, timeout=10.0)

    async def main() -> None:
        async with runtime(dock.host, jar, name, with_limits(cell_wall_s=60.0, grace_s=1.0)) as one:
            async with one.session() as neighbour:
                assert (await neighbour.execute("print(0)")).status == "ok"
                hostile = [asyncio.create_task(attack(one)) for _ in range(HOSTILE)]
                waits = []
                while not all(run.done() for run in hostile):
                    cell = await neighbour.execute("print(1)")
                    assert (cell.status, cell.stdout) == ("ok", "1\n")
                    waits.append(cell.wall_s)
                    await asyncio.sleep(0.05)
            cells = await asyncio.gather(*hostile)
            # So many children on few cores may need their whole time, which is theirs.
            assert {cell.status for cell in cells} <= {"error", "timeout"}
            assert max(waits) < HELD_UP_S
            assert max(cell.wall_s for cell in cells) < 11.0 + HELD_UP_S

    drive(main())


# --------------------------------------------------------------------------------------- a daemon that does not answer


def test_a_far_daemon_that_hangs_holds_up_no_deadline(jar: Jar, dock: Dock, tmp_path: Path) -> None:
    """Neither the account nor the interrupt nor the removal arrives."""
    policy = with_limits(cell_wall_s=2.0, grace_s=0.5)
    requests = Requests(r"/(kill|stats|json)[? ]|DELETE")

    async def main(host: str) -> Result:
        far = FarRuntime(host, answer_s=LONG_S, policy=policy, state=jar.at, language="python", environ={})
        async with far:
            async with under_way(far, jar, BUSY) as run:
                requests.deaf.set()
                async with asyncio.timeout(HANG_S):
                    result = await run
            requests.deaf.clear()
            return result

    with Between(tmp_path, dock.host, requests) as between:
        result = drive(main(between.host))
    assert result.status == "timeout"
    assert result.wall_s < LONG_S


@pytest.mark.skipif("os.geteuid() != 0", reason="only root kills what runs as somebody else")
@pytest.mark.parametrize("name", NAMES)
def test_a_box_is_killed_without_the_daemon(jar: Jar, dock: Dock, tmp_path: Path, name: Name) -> None:
    """A removal that does not arrive leaves a container, in which nothing runs, until it is tried again."""
    requests = Requests(r"DELETE|/kill[? ]")

    async def main(host: str) -> None:
        daemon = Daemon(host)
        backend = await Docker.open(name, daemon, ensure_image(jar.state.images))
        try:
            box = await backend.start(box_spec(load("dev")))
            pid = dock.state(box.container)["Pid"]
            talk = Talk(cast("Any", box))
            assert [(await talk.begin()).status, (await talk.execute(RESISTS)).status] == ["ready", "ok"]
            requests.deaf.set()
            with impatient(daemon, ANSWER_S):
                assert (await box.kill()).killed
                await soon(lambda: not psutil.pid_exists(pid), "its process has ended")
                assert [one["Id"] for one in dock.ours()] == [box.container]
                await soon(lambda: any(one.startswith("DELETE") for one in requests.seen), "its removal is asked for")
                requests.deaf.clear()
            # What was swallowed is never answered: this is asked once more, and nobody starts another box for it.
            await soon(lambda: dock.ours() == [], "it is removed")
        finally:
            await backend.aclose()

    with Between(tmp_path, dock.host, requests) as between:
        drive(main(between.host))


def test_a_container_that_is_being_renamed_is_removed_afterwards(jar: Jar, dock: Dock, tmp_path: Path) -> None:
    """A daemon that does both at once lists the container for ever, though it is gone."""
    removed = threading.Event()
    order: list[str] = []

    def before(request: str) -> bool:
        if "/rename?" in request:
            order.append("rename")
            removed.wait(HELD_S)
            order.append("renamed")
        elif request.startswith("DELETE"):
            order.append("remove")
            removed.set()
        return True

    async def main(host: str) -> None:
        backend = await Docker.open("docker", Daemon(host), ensure_image(jar.state.images))
        try:
            spec = box_spec(load("dev"))
            await backend.warm(spec, 1)
            box = await backend.start(spec, {"run": "01" * 13})
            await soon(lambda: order, "the container is being renamed")
            await box.kill()
            await soon(removed.is_set, "it is removed")
        finally:
            await backend.aclose()

    with Between(tmp_path, dock.host, before) as between:
        drive(main(between.host))
    assert order[:3] == ["rename", "renamed", "remove"]


def test_a_box_that_ends_while_the_daemon_hangs_is_not_waited_for(jar: Jar, dock: Dock, tmp_path: Path) -> None:
    """Why it ended nobody says: that is our fault, told soon."""
    requests = Requests(r"/(stats|json|_ping)[? ]")

    async def main(host: str) -> Result:
        async with runtime(host, jar, "docker", with_limits(cell_wall_s=60.0)) as one:
            async with under_way(one, jar, "import time; time.sleep(5); __import__('os')._exit(3)") as run:
                requests.deaf.set()
                over, _ = await asyncio.wait({run}, timeout=HELD_UP_S)
                requests.deaf.clear()
            assert over, "the run is still held up"
            return await run

    with Between(tmp_path, dock.host, requests) as between:
        assert drive(main(between.host)).status == "host_fault"
