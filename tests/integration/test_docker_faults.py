"""What becomes of a run whose daemon, container, image, disk or own process fails under it.

Each fault has one right status, told from the daemon's own account: `host_fault` where the daemon itself is the
trouble, `killed` where somebody ended the container, `memory` where the kernel did, and `error` for whatever a program
does to itself, also when it looks like one of the others. Afterwards nothing is left: no container, no open account.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from belljar import Result
from belljar.audit import verify
from belljar.errors import BoxFault
from belljar.lifecycle import box_spec
from belljar.policy import load
from belljar.sandbox import ensure_image
from belljar.sandbox.docker.backend import Docker
from belljar.sandbox.docker.creator import LABEL, creator
from belljar.sandbox.docker.daemon import Daemon
from tests.daemon import PrivateDaemon
from tests.integration.daemons import (
    BUSY,
    HANG_S,
    SLEEPS,
    Answer,
    Between,
    Dock,
    Talker,
    dock_at,
    drive,
    during,
    impatient,
    runtime_on,
    silence,
    soon,
)
from tests.integration.ordinary import ordinary_jar
from tests.integration.support import Jar, Running, until

# The SDK leaves a socket that it could not connect to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("collected"),
]

MIB = 2**20
# Deaf to everything that can be ignored, the end of its standard input included.
STUBBORN = """\
import signal, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
while True:
    try: time.sleep(300)
    except BaseException: pass
"""

# And to the thread that watches over its wire.
RESISTS = f"import os\nos._exit = print\n{STUBBORN}"


@pytest.fixture
def own(private_daemon: PrivateDaemon) -> Iterator[Dock]:
    """A daemon that may be stopped, as the tests see it."""
    with dock_at(private_daemon.host) as dock:
        yield dock


# ---------------------------------------------------------------------------------------------- a daemon that goes away


def gone(pid: int) -> None:
    until(lambda: not psutil.pid_exists(pid), seconds=HANG_S, what="dockerd has ended")


def slay(daemon: PrivateDaemon, number: int) -> None:
    pid = daemon.pid
    os.kill(pid, number)
    gone(pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_daemon_that_ends_in_the_middle_of_a_cell_is_our_fault(
    jar: Jar, private_daemon: PrivateDaemon, own: Dock, number: int
) -> None:
    async def main() -> None:
        async with runtime_on(own.host, jar) as runtime:
            result = await during(runtime, jar, BUSY, lambda: slay(private_daemon, number))
            assert result.status == "host_fault", result
            assert result.error is not None
            assert result.error.type == "BoxFault"
            with pytest.raises(BoxFault, match=r"no Docker daemon answers at .*: start it"):
                await runtime.execute("1")
            await asyncio.to_thread(private_daemon.start)
            assert (await runtime.execute("FINAL('well')")).answer == "well"
            # What could not be removed then is removed now, while the runtime goes on.
            await soon(lambda: own.ours() == [], "nothing is left")
        statuses = [record.data["status"] for record in jar.records("run.finished")]
        assert statuses == ["host_fault", "host_fault", "ok"]

    drive(main())


def test_a_daemon_restarted_between_two_cells_ends_the_session_and_the_next_is_well(
    jar: Jar, private_daemon: PrivateDaemon, own: Dock
) -> None:
    async def main() -> None:
        async with runtime_on(own.host, jar, pool=1) as runtime:
            async with runtime.session() as session:
                assert (await session.execute("x = 1")).status == "ok"
                await asyncio.to_thread(slay, private_daemon, signal.SIGKILL)
                await asyncio.to_thread(private_daemon.start)
                await soon(lambda: session._run.box.finished, "the session hears of the end of its box")
            assert session.result is not None
            assert session.result.status == "host_fault"
            # The box that waited in the pool died as well, and is not handed out.
            assert (await runtime.execute("FINAL('well')")).answer == "well"
        assert own.ours() == []

    drive(main())


def test_boxes_that_outlive_the_daemon_are_removed_when_it_is_back(
    jar: Jar, private_daemon: PrivateDaemon, own: Dock
) -> None:
    config = private_daemon.folder / "daemon.json"
    config.write_text(config.read_text().replace("{", '{"live-restore": true, ', 1))
    os.kill(private_daemon.pid, signal.SIGHUP)
    until(lambda: own.client.info()["LiveRestoreEnabled"], seconds=HANG_S, what="live-restore is on")
    pids: list[int] = []

    def leave() -> None:
        pids.extend(own.state(container)["Pid"] for container in own.running())
        slay(private_daemon, signal.SIGTERM)

    async def main() -> None:
        async with runtime_on(own.host, jar) as runtime:
            result = await during(runtime, jar, STUBBORN, leave)
            assert result.status == "host_fault", result
            await asyncio.to_thread(private_daemon.start)
            assert (await runtime.execute("FINAL('well')")).answer == "well"
            await soon(lambda: own.ours() == [], "nothing is left")
            await soon(lambda: not psutil.pid_exists(pids[0]), "its process has ended")

    drive(main())


# -------------------------------------------------------------------------------- a daemon that is none, or is not well


def refused(host: str, jar: Jar, *, answer_s: float = 1.0) -> str:
    """What is said when a backend is opened there; how long that takes is bounded."""
    image = ensure_image(jar.state.images)

    async def main() -> str:
        with pytest.raises(BoxFault) as raised:
            await Docker.open("docker", Daemon(host, answer_s=answer_s), image)
        return str(raised.value)

    said = drive(main())
    assert "\n" not in said
    return said


@pytest.mark.parametrize("host", ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:9", "unix:///proc/self/status"])
def test_a_daemon_that_is_not_there(jar: Jar, host: str) -> None:
    said = refused(host, jar, answer_s=HANG_S)
    assert re.fullmatch(r"no Docker daemon answers at \S+: start it, or name another in DOCKER_HOST", said)


@pytest.fixture
def ordinary(tmp_path: Path, images: Path) -> Iterator[Jar]:
    yield from ordinary_jar(tmp_path, images)


def test_a_daemon_that_this_user_may_not_use(ordinary: Jar) -> None:
    path = ordinary.work / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0o400 if os.geteuid() else 0o600)  # as a daemon makes it: for its own group
        outcome = ordinary("image", "build", "--backend", "docker", env={"DOCKER_HOST": f"unix://{path}"})
    assert outcome.code == 1
    assert outcome.stderr.splitlines()[-1].startswith(
        f"belljar: our fault: this user may not use the Docker daemon at unix://{path}: add it to the group"
    )


def test_an_address_that_is_none() -> None:
    with pytest.raises(BoxFault, match="DOCKER_HOST=nonsense://x cannot be used"):
        Daemon("nonsense://x")


def test_a_daemon_that_never_answers(jar: Jar, tmp_path: Path) -> None:
    with Talker(tmp_path, silence) as talker:
        assert "did not answer within 1 s" in refused(talker.host, jar)


def ok(body: bytes, kind: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (kind, len(body), body)


GARBAGE = {
    "no HTTP": b"\x00\xff" * 500,
    "no JSON": ok(b"<html>hello</html>", b"text/html"),
    "another document": ok(b"{}"),
    "a list": ok(b"[1, 2]"),
    "null": ok(b"null"),
    "an error": b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno",
    "half an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
def test_a_daemon_that_answers_garbage(jar: Jar, tmp_path: Path, answer: bytes) -> None:
    with Talker(tmp_path, Answer(answer)) as talker:
        assert "DOCKER_HOST" in (said := refused(talker.host, jar)) or "refused" in said or "did not answer" in said


def test_a_command_says_what_to_do(jar: Jar) -> None:
    outcome = jar.exec("1", "--backend", "docker", env={"DOCKER_HOST": "unix:///nowhere/docker.sock"})
    assert outcome.code == 1
    assert outcome.complaint.startswith("belljar: our fault: no Docker daemon answers at unix:///nowhere/docker.sock")


def test_a_slow_daemon_is_waited_for(jar: Jar, dock: Dock, tmp_path: Path) -> None:
    def slowly(request: str) -> bool:
        time.sleep(0.3 if "/stats" in request else 1.0)
        return True

    async def main(host: str) -> None:
        async with runtime_on(host, jar) as runtime:
            assert (await runtime.execute("FINAL(1)")).answer == 1

    with Between(tmp_path, dock.host, slowly) as between:
        drive(main(between.host))


@pytest.mark.parametrize("call", ["/create", "/attach", "/start", "/json", "/events"])
def test_a_daemon_that_hangs_while_a_box_is_built_is_our_fault_and_leaves_nothing(
    jar: Jar, dock: Dock, tmp_path: Path, call: str
) -> None:
    image, spec = ensure_image(jar.state.images), box_spec(load("dev"))
    hang = asyncio.Event()

    def before(request: str) -> bool:
        return not (hang.is_set() and re.search(rf"{call}[? ]", request) and "DELETE" not in request)

    async def main(host: str) -> None:
        daemon = Daemon(host)
        backend = await Docker.open("docker", daemon, image)
        try:
            hang.set()
            with impatient(daemon, 2), pytest.raises(BoxFault, match="did not answer within 2 s"):
                await backend.start(spec)
            hang.clear()
            box = await backend.start(spec)
            assert (await box.kill()).killed
        finally:
            await backend.aclose()
        assert dock.ours() == []

    with Between(tmp_path, dock.host, before) as between:
        drive(main(between.host))


def test_a_daemon_that_hangs_during_a_cell_holds_up_no_deadline(jar: Jar, dock: Dock, tmp_path: Path) -> None:
    """Neither the interrupt nor the removal arrives: the run ends in time all the same."""
    policy = load("dev")
    limits = msgspec.structs.replace(policy.limits, cell_wall_s=3.0, grace_s=0.5)
    policy = msgspec.structs.replace(policy, limits=limits)
    deaf = asyncio.Event()

    async def main(host: str) -> Result:
        async with runtime_on(host, jar, policy) as runtime:
            result = await during(runtime, jar, BUSY, deaf.set)
            assert result.wall_s < HANG_S
            deaf.clear()
            return result

    def before(request: str) -> bool:
        return not (deaf.is_set() and re.search(r"/(kill|stats|json)[? ]", request))

    with Between(tmp_path, dock.host, before) as between:
        assert drive(main(between.host)).status == "timeout"


# --------------------------------------------------------------------------------------------------------- its image


def test_an_image_removed_between_two_runs_is_loaded_again(jar: Jar, own: Dock) -> None:
    async def main() -> None:
        async with runtime_on(own.host, jar) as runtime:
            assert (await runtime.execute("FINAL(1)")).answer == 1
            await soon(lambda: own.ours() == [], "the container of the first run is removed")
            (image,) = own.client.images(filters={"label": "belljar.digest"})
            own.client.remove_image(image["Id"], force=True)
            assert own.client.images() == []
            assert (await runtime.execute("FINAL(2)")).answer == 2

    drive(main())


def test_an_image_under_our_tag_that_is_not_ours_starts_no_box(jar: Jar, own: Dock) -> None:
    async def main() -> None:
        async with runtime_on(own.host, jar) as runtime:
            await runtime.execute("1")
        (ours,) = own.client.images(filters={"label": "belljar.digest"})
        (tag,) = ours["RepoTags"]
        changed = own.plant(ours["Id"], {})
        own.client.commit(changed, *tag.split(":"), conf={"Cmd": ["-c", "print('not ours')"]})
        own.client.remove_container(changed)
        assert own.client.inspect_image(tag)["Id"] != ours["Id"]
        async with runtime_on(own.host, jar) as runtime, runtime.session() as session:
            await session.execute("1")
            (box,) = own.running()
            assert own.client.inspect_container(box)["Image"] == ours["Id"]
        assert own.client.inspect_image(tag)["Id"] == ours["Id"]

    drive(main())


# ------------------------------------------------------------------------------------------- a container that is ended


def status_after(jar: Jar, dock: Dock, code: str, deed: Callable[[str], object] = lambda box: None) -> Result:
    """A run whose container meets `deed` in the middle of its cell."""

    async def main() -> Result:
        async with runtime_on(dock.host, jar) as runtime:
            result = await during(runtime, jar, code, lambda: [deed(box) for box in dock.running()])
            assert (await runtime.execute("FINAL('well')")).answer == "well"
            return result

    return drive(main())


ASKS_TO_BE_ASKED = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: __import__('os')._exit(0))\n"


@pytest.mark.parametrize("code", [BUSY, SLEEPS, STUBBORN], ids=["busy", "sleeps", "stubborn"])
def test_a_container_removed_from_outside_was_killed(jar: Jar, dock: Dock, code: str) -> None:
    def remove(box: str) -> None:
        dock.client.remove_container(box, force=True)

    result = status_after(jar, dock, code, remove)
    assert result.status == "killed", result
    assert result.error is not None
    assert "somebody outside" in result.error.message


DEEDS: dict[str, tuple[str, Callable[[Dock, str], object]]] = {
    "killed": (BUSY, lambda dock, box: dock.client.kill(box)),
    "stopped, with patience": (BUSY, lambda dock, box: dock.client.stop(box, timeout=1)),
    "asked to stop, and does": (ASKS_TO_BE_ASKED + SLEEPS, lambda dock, box: dock.client.kill(box, "SIGTERM")),
    "paused, then killed": (
        BUSY,
        lambda dock, box: (dock.client.pause(box), dock.client.remove_container(box, force=True)),
    ),
}


@pytest.mark.parametrize(("code", "deed"), DEEDS.values(), ids=DEEDS)
def test_a_container_ended_from_outside_was_killed(
    jar: Jar, dock: Dock, code: str, deed: Callable[[Dock, str], object]
) -> None:
    result = status_after(jar, dock, code, lambda box: deed(dock, box))
    assert result.status == "killed", result


def test_a_process_killed_behind_the_daemon_s_back_is_not_told_from_a_program_that_ends(jar: Jar, dock: Dock) -> None:
    """The daemon gives only an exit code, 137, with which a program may end as well: so it is called an error."""

    def kill(box: str) -> None:
        os.kill(dock.state(box)["Pid"], signal.SIGKILL)

    result = status_after(jar, dock, BUSY, kill)
    assert result.status == "error", result
    assert result.error is not None
    assert result.error.type == "GuestDied"


OWN_ENDS = {
    "137, as if killed": "import os; os._exit(137)",
    "143, as if stopped": "import os; os._exit(143)",
    "nothing wrong": "import os; os._exit(0)",
    "a kill of itself": "import os, signal; os.kill(1, signal.SIGKILL); os._exit(137)",
    "a child that is killed": "import os, signal\npid = os.fork()\nif not pid:\n    while True: pass\n"
    "os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0); os._exit(137)",
}


@pytest.mark.parametrize("code", OWN_ENDS.values(), ids=OWN_ENDS)
def test_a_program_that_ends_by_itself_is_an_error_whatever_its_exit_code(jar: Jar, dock: Dock, code: str) -> None:
    result = status_after(jar, dock, code)
    assert (result.status, result.limit) == ("error", None), result
    assert result.error is not None
    assert result.error.type == "GuestDied"


# Shared pages are charged to the group, and RLIMIT_AS counts them for each process alone.
EATS = """\
import mmap, os
for _ in range(4):
    if os.fork() == 0:
        break
area = mmap.mmap(-1, 60 << 20)
for at in range(0, 60 << 20, 4096):
    area[at] = 1
__import__("time").sleep(300)
"""


def test_memory_that_several_processes_use_up_together_is_the_kernel_s_verdict(jar: Jar, dock: Dock) -> None:
    policy = load("dev")
    limits = msgspec.structs.replace(policy.limits, memory_bytes=128 * MIB, cell_wall_s=20.0)
    policy = msgspec.structs.replace(policy, limits=limits)

    async def main() -> Result:
        async with runtime_on(dock.host, jar, policy) as runtime:
            for _ in range(5):
                result = await runtime.execute(EATS)
                # The kernel chooses whom it kills: if it is a child, the program goes on.
                if result.status != "timeout":
                    break
            return result

    result = drive(main())
    assert result.status == "memory", result
    assert result.limit is not None
    assert (result.limit.code, result.limit.limit) == ("limits.memory", 128 * MIB)
    # The whole box's, and to the end: no look at it is as late as the kernel's.
    assert result.max_rss_bytes >= 128 * MIB
    assert result.limit.observed == result.max_rss_bytes


# ------------------------------------------------------------------------------------------------------- no space left


@contextlib.contextmanager
def small_disk(at: Path, size: int) -> Iterator[None]:
    libc = ctypes.CDLL(None, use_errno=True)
    at.mkdir()
    assert libc.mount(b"small", os.fsencode(at), b"tmpfs", 0, f"size={size}".encode()) == 0, ctypes.get_errno()
    try:
        yield
    finally:
        assert libc.umount2(os.fsencode(at), 2) == 0, ctypes.get_errno()


@pytest.mark.skipif("os.geteuid() != 0")
def test_a_full_disk_is_our_fault_and_says_so(jar: Jar, private_daemon: PrivateDaemon) -> None:
    private_daemon.close()  # asked for because where it cannot be, another cannot either
    daemon = PrivateDaemon()

    async def main() -> None:
        with pytest.raises(BoxFault, match="no space left on device"):
            async with runtime_on(daemon.host, jar) as runtime:
                await runtime.execute("1")
        os.truncate(filling, 0)
        async with runtime_on(daemon.host, jar) as runtime:
            assert (await runtime.execute("FINAL(1)")).answer == 1
            with filling.open("wb") as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(MIB))
                    file.flush()
            with pytest.raises(BoxFault, match="no space left on device"):
                await runtime.execute("1")
            os.truncate(filling, 0)
            assert (await runtime.execute("FINAL(2)")).answer == 2

    with small_disk(daemon.folder / "data", 400 * MIB), daemon:
        filling = daemon.folder / "data" / "filling"
        with filling.open("wb") as file:
            for _ in range(360):
                file.write(bytes(MIB))
        drive(main())
    shutil.rmtree(daemon.folder, ignore_errors=True)


# ------------------------------------------------------------------------------------------- the host process goes away


def started(jar: Jar, dock: Dock, code: str) -> Running:
    """`belljar exec` of a program that is well under way."""
    program, context = jar.file("program.py", f"context[0:1]\n{code}"), jar.file("context.txt", "text")
    options: tuple[str | Path, ...] = ("--context", context, "--quiet", "--language", "python", "--backend", "docker")
    before = len(jar.records("context.read")) if jar.journal.exists() else 0
    running = jar.start("exec", program, *options, env={"DOCKER_HOST": dock.host})

    def has_read() -> bool:
        assert running.process.poll() is None, running.wait()
        with contextlib.suppress(Exception):  # a log that is just being made is no log yet
            return len(jar.records("context.read")) > before
        return False

    until(has_read, seconds=HANG_S, what="the program runs")
    return running


def made_by(dock: Dock, pid: int) -> list[dict[str, Any]]:
    return [one for one in dock.ours(LABEL) if one["Labels"][LABEL].rpartition("/")[2].startswith(f"{pid}-")]


def next_start(jar: Jar, dock: Dock) -> None:
    environ = {"DOCKER_HOST": dock.host}
    outcome = jar.exec("FINAL('next')", "--backend", "docker", "--language", "python", env=environ)
    assert (outcome.code, outcome.stdout) == (0, "next\n"), outcome


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("code", [SLEEPS, STUBBORN], ids=["sleeps", "stubborn"])
def test_a_signal_ends_the_run_and_says_so(jar: Jar, dock: Dock, code: str, number: signal.Signals) -> None:
    running = started(jar, dock, code)
    running.signal(number)
    outcome = running.wait()
    assert outcome.code == 128 + number
    assert outcome.complaint.startswith("belljar: interrupted: ")
    assert made_by(dock, running.process.pid) == []
    (finished,) = jar.records("run.finished")
    assert finished.data["status"] == "killed"


@pytest.mark.parametrize("code", [SLEEPS, BUSY, STUBBORN], ids=["sleeps", "busy", "stubborn"])
def test_a_box_ends_with_its_killed_host(jar: Jar, dock: Dock, code: str) -> None:
    jar.expect_unfinished = True
    running = started(jar, dock, code)
    running.signal(signal.SIGKILL)
    running.wait()
    pid = running.process.pid

    until(
        lambda: "running" not in [one["State"] for one in made_by(dock, pid)], seconds=HANG_S, what="the box has ended"
    )
    next_start(jar, dock)
    assert made_by(dock, pid) == []


def test_the_next_start_removes_what_the_dead_left_and_nothing_else(jar: Jar, dock: Dock) -> None:
    jar.expect_unfinished = True
    running = started(jar, dock, RESISTS)
    pid = running.process.pid
    (left,) = made_by(dock, pid)
    running.signal(signal.SIGKILL)
    running.wait()
    machine, boot, namespace, us = creator().split("/")
    _, _, _, dead = left["Labels"][LABEL].split("/")
    others = {
        "somebody else's": {"maintainer": "somebody"},
        "a living creator's": {LABEL: creator()},
        "another machine's": {LABEL: f"{machine}x/{boot}/{namespace}/{dead}"},
        "another machine's of another boot": {LABEL: f"x{machine}/{boot[::-1]}/{namespace}/{dead}"},
        "another pid namespace's": {LABEL: f"{machine}/{boot}/{int(namespace) + 1}/{dead}"},
        "one with a strange label": {LABEL: "yes"},
        "one with an empty label": {LABEL: ""},
        "one with a longer label": {LABEL: f"{machine}/{boot}/{namespace}/{dead}/more"},
    }
    dying = {
        "the same number, another process": {LABEL: f"{machine}/{boot}/{namespace}/{us}9"},
        "another boot's": {LABEL: f"{machine}/{boot[::-1]}/{namespace}/{us}"},
    }
    planted = {name: dock.plant(left["Image"], labels) for name, labels in (others | dying).items()}
    try:
        assert dock.state(left["Id"])["Running"]
        next_start(jar, dock)
        there = {one["Id"] for one in dock.client.containers(all=True)}
        assert {name for name, box in planted.items() if box in there} == others.keys()
        assert left["Id"] not in there
        assert verify(jar.journal).problems == []
    finally:
        for box in planted.values():
            with contextlib.suppress(Exception):
                dock.client.remove_container(box, force=True)


@pytest.mark.parametrize("later_s", [0.0, 0.02, 0.1, 0.25])
def test_a_host_killed_while_it_builds_a_box_leaves_nothing_behind(jar: Jar, dock: Dock, later_s: float) -> None:
    jar.expect_unfinished = True
    environ = {"DOCKER_HOST": dock.host}
    running = jar.start("exec", jar.file("program.py", SLEEPS), "--quiet", "--backend", "docker", env=environ)
    pid = running.process.pid
    until(lambda: made_by(dock, pid), seconds=HANG_S, what="a container is made")
    time.sleep(later_s)
    running.signal(signal.SIGKILL)
    running.wait()
    next_start(jar, dock)
    assert made_by(dock, pid) == []
