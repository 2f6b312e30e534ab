"""Births and deaths of boxes: whoever dies, and whenever, nothing is left behind and nobody waits for ever.

Most tests drive a `Jail` without the engine. `Talk` is the little of the engine that this takes: it starts the agent
and runs cells over the wire. What a box is is then looked at from both sides, by the program inside and in `/proc`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil
import pytest

from belljar import Runtime
from belljar.errors import BoxFault, LayerMissing
from belljar.protocol import PROTOCOL, Done, Execute, Final, GuestMessage, HostMessage, Output, Ready, Start
from belljar.sandbox import BoxSpec, Image, Jail, ensure_image
from belljar.sandbox.cgroup import find_places
from belljar.sandbox.jail.backend import JailBox
from belljar.sandbox.seccomp import Allowlist, Rule, load_allowlist
from belljar.sandbox.uids import NOBODY
from belljar.wire import Decoder, encode, guest_decoder
from tests.integration.support import PATIENCE_S, Jar, adopting_orphans, no_process_left, processes_below, until
from tests.waiting import in_time

T = TypeVar("T")

MIB = 2**20
SPEC = BoxSpec(
    cpu_s=20,
    memory_bytes=512 * MIB,
    processes=64,
    scratch_bytes=4 * MIB,
    scratch_files=64,
    open_files=64,
    requires=(),
)
HEADER_MAX, BODY_MAX = 65536, 16 * MIB
# Slow machines are slow; a test that waits this long has found a hang.
HANG_S = PATIENCE_S
BUSY = "while True: pass"
SLEEPS = "import time; time.sleep(300)"
# A family that does not want to go: sessions of their own, deaf to what can be ignored.
DAEMONS = """\
import os, signal, time
for number in range(1, 32):
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        try: signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError): pass
for _ in range(3):
    if os.fork() == 0:
        while True: time.sleep(300)
print("up")
while True: pass
"""


# ----------------------------------------------------------------------------------------------------------- the driver


class Told(msgspec.Struct, frozen=True):
    """How a cell ended: `status` is the agent's, or `died` when the wire ended, or `hung`."""

    status: str
    output: str = ""
    error: str = ""
    answer: str | None = None


class Talk:
    """The host's end of one box's wire."""

    def __init__(self, box: JailBox) -> None:
        self.box = box
        self._decoder: Decoder[GuestMessage] = guest_decoder(header_bytes_max=HEADER_MAX, body_bytes_max=BODY_MAX)
        self._cell = 0

    async def begin(self, language: str = "python") -> Told:
        """Start the agent; `ready`, or how it failed."""
        start = {
            "op": "start",
            "protocol": PROTOCOL,
            "language": language,
            "documents": [],
            "contexts": [],
            "read_bytes_max": 65536,
            "materialise_bytes_max": 65536,
            "in_flight_max": 8,
            "batch_max": 8,
            "prompt_bytes_max": BODY_MAX,
            "body_bytes_max": BODY_MAX,
            "header_bytes_max": HEADER_MAX,
        }
        return await self._say(msgspec.convert(start, Start), b"", Ready)

    async def execute(self, code: str) -> Told:
        """Run one cell to its end."""
        self._cell += 1
        return await self._say(Execute(self._cell), code.encode(), Done)

    async def _say(self, message: HostMessage, body: bytes, ending: type[Ready | Done]) -> Told:
        try:
            async with asyncio.timeout(HANG_S):
                parts = encode(message, body, header_bytes_max=HEADER_MAX, body_bytes_max=BODY_MAX)
                await self.box.send(*parts)
                return await self._hear(ending)
        except TimeoutError:
            return Told("hung")
        except ConnectionError:
            return Told("died")

    async def _hear(self, ending: type[Ready | Done]) -> Told:
        output, answer = "", None
        while True:
            while (frame := self._decoder.next()) is not None:
                said = frame.message
                if isinstance(said, Output):
                    output += frame.body.decode()
                elif isinstance(said, Final):
                    answer = frame.body.decode()
                elif isinstance(said, ending):
                    if isinstance(said, Ready):
                        return Told("ready", output)
                    return Told(said.status, output, frame.body.decode(), answer)
            data = await self.box.receive()
            if not data:
                return Told("died", output)
            self._decoder.receive(data)


@contextlib.asynccontextmanager
async def opened(jail: Jail, spec: BoxSpec = SPEC, language: str = "python") -> AsyncIterator[Talk]:
    """A box with its agent ready."""
    box = await jail.start(spec)
    try:
        talk = Talk(box)
        assert await talk.begin(language) == Told("ready")
        yield talk
    finally:
        await box.kill()


async def run_in(jail: Jail, code: str, *, spec: BoxSpec = SPEC, language: str = "python") -> Told:
    """One cell in one box. A box whose agent does not get ready tells how that ended."""
    box = await jail.start(spec)
    try:
        talk = Talk(box)
        begun = await talk.begin(language)
        return await talk.execute(code) if begun.status == "ready" else begun
    finally:
        await box.kill()


async def seen_in(jail: Jail, code: str, *, spec: BoxSpec = SPEC) -> Any:
    """What the program prints as JSON."""
    told = await run_in(jail, f"import json\n{code}", spec=spec)
    assert told.status == "ok", told
    return json.loads(told.output)


def with_jail(image: Image, body: Callable[[Jail], Coroutine[Any, Any, T]], *, allowlist: Allowlist | None = None) -> T:
    """Run `body` with a jail of its own."""

    async def main() -> T:
        jail = Jail(image, allowlist=allowlist)
        try:
            return await body(jail)
        finally:
            await jail.aclose()

    return asyncio.run(main())


async def soon(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition while the loop runs on."""
    await asyncio.to_thread(until, condition, seconds=HANG_S, what=what)


def zygote_of(jail: Jail) -> psutil.Process:
    assert jail._zygote is not None
    return psutil.Process(jail._zygote._process.pid)


def box_processes(jail: Jail) -> list[psutil.Process]:
    """The first processes of the living boxes."""
    return [child for child in zygote_of(jail).children() if child.status() != psutil.STATUS_ZOMBIE]


def groups_of(pid: int) -> list[Path]:
    """The control groups that a process of ours has, its boxes' included."""
    own = [group for place in find_places() for group in place.folder.glob(f"belljar-{pid}-*")]
    return [*own, *(box for group in own for box in group.glob("box-*"))]


def grouped() -> int:
    """How many boxes of this process have control groups. Each jail may keep one set ready for the next box."""
    return len({(group.parent.name, group.name) for group in groups_of(os.getpid()) if group.name.startswith("box-")})


def descriptors(pid: int) -> list[str]:
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that lists the folder
            found.append(re.sub(r"\d+", "N", os.readlink(entry)))
    return sorted(found)


@pytest.fixture(scope="module")
def image(images: Path) -> Image:
    return ensure_image(images)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Whatever a test did: no process and no group of ours is left."""
    with adopting_orphans():
        yield
        no_process_left()
        assert groups_of(os.getpid()) == []


# ----------------------------------------------------------------------------------------------- the supervisor's death


def test_a_dead_zygote_ends_its_boxes_at_once_and_the_next_start_makes_another(image: Image) -> None:
    async def body(jail: Jail) -> None:
        async with opened(jail) as talk:
            first = zygote_of(jail)
            # A program that waits: one that is busy would end by its CPU time, too.
            cell = asyncio.create_task(talk.execute("import time\ntime.sleep(1000)"))
            await asyncio.sleep(0.05)
            first.kill()
            async with in_time(HANG_S, "the box has ended"):
                assert (await cell).status == "died"
            end = await talk.box.kill()
            assert (end.lost, end.killed) == (True, False)
        assert (await run_in(jail, "print(1)")).output == "1\n"
        assert zygote_of(jail).pid != first.pid

    with_jail(image, body)


def test_a_run_whose_zygote_dies_is_our_fault_and_the_next_run_is_well(jar: Jar) -> None:
    def zygotes() -> list[psutil.Process]:
        return [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]

    async def main() -> None:
        async with Runtime("dev", state=jar.at, language="python", environ={}) as runtime:
            run = asyncio.create_task(runtime.execute(f"context[0:1]\n{BUSY}", context="text"))
            await soon(lambda: jar.journal.exists() and jar.records("context.read"), "the program runs")
            (zygote,) = zygotes()
            zygote.kill()
            result = await run
            assert result.status == "host_fault"
            assert result.error is not None
            assert result.error.type == "BoxFault"
            assert (await runtime.execute("FINAL('well')")).answer == "well"
            (other,) = zygotes()
            assert other.pid != zygote.pid

    asyncio.run(main())


def test_many_boxes_lost_at_once_are_all_told(image: Image) -> None:
    async def body(jail: Jail) -> None:
        boxes = [await jail.start(SPEC) for _ in range(8)]
        zygote_of(jail).kill()
        async with asyncio.timeout(HANG_S):
            ends = await asyncio.gather(*(box.kill() for box in boxes))
        assert all(end.lost for end in ends)
        assert grouped() <= 1

    with_jail(image, body)


def test_starts_under_way_while_the_zygote_dies_fail_as_our_fault(image: Image) -> None:
    async def body(jail: Jail) -> None:
        for _ in range(5):
            await (await jail.start(SPEC)).kill()
            starts = [asyncio.create_task(jail.start(SPEC)) for _ in range(6)]
            await asyncio.sleep(0.002)
            zygote_of(jail).kill()
            async with asyncio.timeout(HANG_S):
                for start in starts:
                    with contextlib.suppress(BoxFault):
                        await (await start).kill()
        assert (await run_in(jail, "print(1)")).output == "1\n"
        assert grouped() <= 1

    with_jail(image, body)


# ----------------------------------------------------------------------------------------------------- the host's death

HOST = f"""\
import asyncio, sys
from pathlib import Path
from belljar import Runtime

async def main():
    async with Runtime("dev", state=Path(sys.argv[1]), language="python", environ={{}}) as runtime:
        await runtime.execute("context[0:1]\\n" + {DAEMONS!r}, context="text")

asyncio.run(main())
"""


def test_a_killed_host_takes_zygote_and_boxes_along_and_the_next_start_clears_the_groups(jar: Jar) -> None:
    jar.expect_unfinished = True
    host = subprocess.Popen([sys.executable, "-c", HOST, str(jar.at)])
    try:

        def busy() -> bool:
            # The first process of the box and its three children; the launcher has become the zygote.
            return len(processes_below()) >= 1 + 1 + 4

        until(busy, seconds=HANG_S, what="the box is busy")
        groups = groups_of(host.pid)
        assert any(group.name.startswith("box-") for group in groups)
    finally:
        host.kill()
        host.wait()
    no_process_left()
    outcome = jar.exec("FINAL('next')", "--language", "python")
    assert outcome.code == 0, outcome
    assert groups_of(host.pid) == []


@pytest.mark.parametrize("which", ["host first", "zygote first"])
def test_a_host_stopped_and_killed_leaves_nothing(jar: Jar, which: str) -> None:
    jar.expect_unfinished = True
    host = subprocess.Popen([sys.executable, "-c", HOST, str(jar.at)])
    try:
        until(lambda: len(processes_below()) >= 6, seconds=HANG_S, what="the box is busy")
        (zygote,) = psutil.Process(host.pid).children()
        order = [host.pid, zygote.pid] if which == "host first" else [zygote.pid, host.pid]
        # A zygote that does not run cannot see its control end; the parent-death signal does not ask it.
        os.kill(zygote.pid, signal.SIGSTOP)
        for pid in order:
            os.kill(pid, signal.SIGKILL)
    finally:
        host.kill()
        host.wait()
    no_process_left()


# -------------------------------------------------------------------------------------------------------- a box's death


def test_a_box_killed_from_outside_is_a_verdict(jar: Jar) -> None:
    async def main() -> None:
        async with Runtime("dev", state=jar.at, language="python", environ={}) as runtime:
            run = asyncio.create_task(runtime.execute(f"context[0:1]\n{BUSY}", context="text"))
            await soon(lambda: jar.journal.exists() and jar.records("context.read"), "the program runs")
            for child in psutil.Process().children():
                for box in child.children():
                    box.kill()
            result = await run
            assert result.status == "killed"
            assert result.error is not None
            assert (result.error.type, "outside" in result.error.message) == ("Killed", True)

    asyncio.run(main())


def test_a_box_that_was_stopped_goes_on_where_it_was(jar: Jar) -> None:
    """As when the machine sleeps, or the container of all this is paused: also where it waits for the next cell."""

    async def main() -> list[str]:
        async with Runtime("dev", state=jar.at, language="python", environ={}) as runtime, runtime.session() as session:
            statuses = [(await session.execute("x = 1")).status]
            boxes = [box for child in psutil.Process().children() for box in child.children()]
            for box in boxes:
                await soon(lambda: box.status() == psutil.STATUS_SLEEPING, "it waits")  # noqa: B023
                box.suspend()
                await soon(lambda: box.status() == psutil.STATUS_STOPPED, "it is stopped")  # noqa: B023
                box.resume()
            assert boxes
            return [*statuses, (await session.execute("assert x == 1")).status]

    assert asyncio.run(main()) == ["ok", "ok"]


def test_a_box_killed_from_outside_says_so(image: Image) -> None:
    async def body(jail: Jail) -> None:
        async with opened(jail) as talk:
            (process,) = box_processes(jail)
            process.kill()
            assert await talk.box.wait(HANG_S)
            end = await talk.box.kill()
            assert (end.signal, end.killed, end.lost) == (signal.SIGKILL, False, False)

    with_jail(image, body)


CRASHES = {
    "a null pointer": ("import ctypes\nctypes.string_at(0)", signal.SIGSEGV),
    # x32 and 32-bit numbers are other calls behind the filter's back.
    "an x32 call": ("import ctypes\nctypes.CDLL(None).syscall(0x40000000 + 39)", signal.SIGSYS),
    "its own exit": ("import os\nos._exit(7)", 0),
    "abort, which the first process of a box survives at first": ("import os\nos.abort()", signal.SIGSEGV),
}


@pytest.mark.parametrize(("code", "number"), CRASHES.values(), ids=CRASHES)
def test_a_box_that_dies_by_itself_says_how(image: Image, code: str, number: int) -> None:
    async def body(jail: Jail) -> None:
        async with opened(jail) as talk:
            assert (await talk.execute(code)).status == "died"
            assert await talk.box.wait(HANG_S)
            end = await talk.box.kill()
            assert (end.signal, end.code, end.killed, end.lost) == (number, 0 if number else 7, False, False)

    with_jail(image, body)


def test_a_box_stopped_from_outside_is_still_killed(image: Image) -> None:
    async def body(jail: Jail) -> None:
        async with opened(jail) as talk:
            (process,) = box_processes(jail)
            process.suspend()
            async with asyncio.timeout(HANG_S):
                end = await talk.box.kill()
            assert (end.killed, end.signal) == (True, signal.SIGKILL)

    with_jail(image, body)


def test_a_kill_takes_the_whole_family(image: Image) -> None:
    async def body(jail: Jail) -> None:
        async with opened(jail) as talk:
            cell = asyncio.create_task(talk.execute(DAEMONS))
            await soon(lambda: len(zygote_of(jail).children(recursive=True)) == 4, "the family is there")
            end = await talk.box.kill()
            assert end.killed
            assert (await cell).status == "died"
            assert zygote_of(jail).children(recursive=True) == []
            assert await talk.box.kill() == end

    with_jail(image, body)


# -------------------------------------------------------------------------------------------------------------- in bulk


def test_two_hundred_boxes_one_after_the_other_leave_no_trace(image: Image) -> None:
    def account(jail: Jail) -> dict[str, object]:
        zygote = zygote_of(jail)
        return {
            "host descriptors": descriptors(os.getpid()),
            "zygote descriptors": descriptors(zygote.pid),
            "children": zygote.children(recursive=True),
            "groups": grouped(),
            "tasks": len(asyncio.all_tasks()),
            "ends": len(jail._zygote._ends) if jail._zygote else None,
        }

    async def body(jail: Jail) -> None:
        # The loop's own pool grows to a bound of its own.
        threads = psutil.Process().num_threads() + (os.cpu_count() or 1) + 4
        for _ in range(20):
            await (await jail.start(SPEC)).kill()
        before = account(jail)
        memory = zygote_of(jail).memory_info().rss
        for number in range(200):
            box = await jail.start(SPEC)
            if number % 10 == 0:
                assert (await Talk(box).begin()).status == "ready"
            await box.kill()
        assert account(jail) == before
        assert psutil.Process().num_threads() <= threads
        assert zygote_of(jail).memory_info().rss - memory < MIB

    with_jail(image, body)


def test_twenty_at_once_each_have_their_own(image: Image) -> None:
    code = "import os, time\nopen('own', 'w').write('{n}')\ntime.sleep(0.1)\nprint({n}, os.getpid(), os.listdir('.'))"

    async def body(jail: Jail) -> None:
        tolds = await asyncio.gather(*(run_in(jail, code.format(n=n)) for n in range(20)))
        assert [told.output for told in tolds] == [f"{n} 1 ['own']\n" for n in range(20)]
        assert grouped() <= 1

    with_jail(image, body)


# --------------------------------------------------------------------------------------------------------- cancellation


def test_a_start_cancelled_at_any_moment_leaves_nothing(image: Image) -> None:
    async def body(jail: Jail) -> int:
        await (await jail.start(SPEC)).kill()
        zygote, before = zygote_of(jail), descriptors(os.getpid())
        zygote_before = descriptors(zygote.pid)
        cancelled = 0
        for step in range(120):
            start = asyncio.create_task(jail.start(SPEC))
            await asyncio.sleep(step * 0.0001)
            start.cancel()
            try:
                await (await start).kill()
            except asyncio.CancelledError:
                cancelled += 1
        await soon(lambda: not zygote.children(), "the last box has ended")
        assert grouped() <= 1
        assert descriptors(os.getpid()) == before
        # It closes what it was given when it gets to it.
        await soon(lambda: descriptors(zygote.pid) == zygote_before, "it has closed them")
        assert zygote_of(jail).pid == zygote.pid
        assert (await run_in(jail, "print(1)")).output == "1\n"
        return cancelled

    # How many were finished before the cancellation came depends on how busy the machine is; all would miss the mark.
    assert with_jail(image, body) > 0


def test_a_first_start_cancelled_at_any_moment_leaves_nothing(image: Image) -> None:
    async def main() -> None:
        await asyncio.to_thread(int)
        before = descriptors(os.getpid())
        for step in range(12):
            jail = Jail(image)
            start = asyncio.create_task(jail.start(SPEC))
            await asyncio.sleep(step * 0.015)
            start.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await (await start).kill()
            if step % 3 == 0:
                assert (await run_in(jail, "print(1)")).output == "1\n"
            await jail.aclose()
            no_process_left()  # the kernel may still be at it
            assert groups_of(os.getpid()) == []
        assert descriptors(os.getpid()) == before

    asyncio.run(main())


def test_closing_with_living_boxes_leaves_nothing(image: Image) -> None:
    async def main() -> None:
        before = descriptors(os.getpid())
        jail = Jail(image)
        boxes = [await jail.start(SPEC) for _ in range(5)]
        cells = []
        for box in boxes[:3]:
            talk = Talk(box)
            assert (await talk.begin()).status == "ready"
            cells.append(asyncio.create_task(talk.execute(DAEMONS)))
        await asyncio.sleep(0.1)
        await jail.aclose()
        no_process_left()  # the kernel may still be at it
        assert groups_of(os.getpid()) == []
        assert {(await cell).status for cell in cells} == {"died"}
        # Whoever holds a box may still close it, in whatever order things end.
        ends = [await box.kill() for box in boxes]
        assert all(end.lost for end in ends)
        assert len(descriptors(os.getpid())) <= len(before) + 3  # the loop's own
        await jail.aclose()

    asyncio.run(main())


def test_two_jails_of_one_process_do_not_touch_each_other(image: Image) -> None:
    async def main() -> None:
        one, other = Jail(image), Jail(image)
        async with opened(one) as talk:
            async with opened(other):
                assert grouped() in (2, 3, 4)
            await other.aclose()
            assert (await talk.execute("print(1)")).output == "1\n"
            assert (await talk.box.evidence()).cpu_s is not None
        await one.aclose()

    asyncio.run(main())


def test_a_missing_layer_that_is_required_leaves_nothing(image: Image) -> None:
    async def body(jail: Jail) -> None:
        with pytest.raises(LayerMissing, match=r"the policy requires fairydust"):
            await jail.start(msgspec.structs.replace(SPEC, requires=("pidns", "fairydust")))
        assert zygote_of(jail).children() == []
        assert grouped() <= 1

    with_jail(image, body)


# ----------------------------------------------------------------------------------------------- siblings of one zygote


def test_siblings_do_not_draw_the_same_numbers(image: Image) -> None:
    code = """\
import random, uuid, secrets, os, tempfile
print(json.dumps([random.random(), random.getrandbits(64), str(uuid.uuid4()), secrets.token_hex(), os.urandom(8).hex(),
                  next(tempfile._get_candidate_names()), random.Random().random()]))
"""

    async def body(jail: Jail) -> list[list[Any]]:
        return [await seen_in(jail, code) for _ in range(6)]

    drawn = with_jail(image, body)
    for each in zip(*drawn, strict=True):
        assert len(set(each)) == len(drawn)


def test_a_lock_in_one_box_is_not_seen_in_another(image: Image) -> None:
    # Image and devices are the same files in every box: a lock on one of them would be a channel between tenants.
    code = """\
import fcntl, struct
def lock(path, kind, mode):
    with open(path, mode) as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETLK, struct.pack("hhqqi4x", kind, 0, 7, 1, 0))
            return "pretended"
        except OSError as error:
            return error.errno
def asked(path):
    with open(path, "rb") as file:
        try:
            return struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, struct.pack("hhqqi4x", 1, 0, 7, 1, 0)))[0]
        except OSError as error:
            return error.errno
def flocked(path):
    with open(path, "rb") as file:
        try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error: return error.errno
print(json.dumps([lock("/dev/null", fcntl.F_WRLCK, "wb"), lock("/usr/bin/python3", fcntl.F_RDLCK, "rb"),
                  asked("/dev/null"), asked("/usr/bin/python3"), flocked("/dev/null"), flocked("/usr/bin/python3")]))
"""

    async def body(jail: Jail) -> None:
        async with opened(jail) as one, opened(jail) as other:
            for talk in (one, other, one):
                told = await talk.execute(f"import json\n{code}")
                assert json.loads(told.output) == ["pretended", "pretended", 1, 1, 1, 1], told

    with_jail(image, body)


def test_a_box_changes_nothing_about_the_files_that_all_boxes_share(image: Image) -> None:
    code = """\
import os
def outcome(function, *arguments):
    try: function(*arguments)
    except OSError as error: return error.errno
shared = ["/dev/null", "/dev/zero", "/dev/urandom", "/usr/bin/python3", "/usr/lib/belljar/guest/box/zygote.py", "/usr"]
print(json.dumps([[outcome(os.utime, path), outcome(os.utime, path, (1, 1)), outcome(os.chmod, path, 0o777)]
                  for path in shared]))
"""

    async def body(jail: Jail) -> Any:
        before = [os.stat(path).st_mtime_ns for path in ("/dev/null", "/dev/zero", "/dev/urandom")]
        seen = await seen_in(jail, code)
        assert [os.stat(path).st_mtime_ns for path in ("/dev/null", "/dev/zero", "/dev/urandom")] == before
        return seen

    assert all(number is not None for row in with_jail(image, body) for number in row)


# ------------------------------------------------------------------------------------------------ what a box is, inside


def test_a_box_begins_with_nothing(image: Image) -> None:
    code = """\
import os, sys
def is_open(number):
    try: os.fstat(number)
    except OSError: return False
    return True
print(json.dumps({"env": dict(os.environ), "cwd": os.getcwd(), "scratch": os.listdir("."), "pid": os.getpid(),
                  "open": [number for number in range(4096) if is_open(number)], "argv": sys.argv[:0],
                  "ids": [os.getuid(), os.geteuid(), os.getgid(), os.getegid()], "name": os.uname().nodename}))
"""
    assert with_jail(image, lambda jail: seen_in(jail, code)) == {
        "env": {},
        "cwd": "/tmp",
        "scratch": [],
        "pid": 1,
        "open": [0, 1, 2, 3],
        "argv": [],
        "ids": [65534] * 4,
        "name": "belljar",
    }


def test_the_standard_streams_lead_nowhere(image: Image) -> None:
    code = "import os\nprint(json.dumps([os.read(0, 9).decode(), os.write(1, b'x'), os.write(2, b'x')]))"
    assert with_jail(image, lambda jail: seen_in(jail, code)) == ["", 1, 1]


def test_limits_are_what_the_spec_says_and_cannot_be_moved(image: Image) -> None:
    code = """\
import resource
names = "CPU AS NPROC NOFILE FSIZE STACK MEMLOCK MSGQUEUE SIGPENDING CORE".split()
def moved(name):
    number = getattr(resource, "RLIMIT_" + name)
    try: resource.setrlimit(number, resource.getrlimit(number))
    except (OSError, ValueError): return False
    return True
print(json.dumps({name: resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in names}
                 | {"moved": [name for name in names if moved(name)]}))
"""
    seen = with_jail(image, lambda jail: seen_in(jail, code))
    assert seen.pop("moved") == []
    (address, hard) = seen.pop("AS")
    # What it was born with, and seven eighths of its memory.
    assert address == hard
    assert 7 / 8 * SPEC.memory_bytes < address < 7 / 8 * SPEC.memory_bytes + 64 * MIB
    assert {name: soft for name, (soft, hard) in seen.items() if soft == hard} == {
        "CPU": 2 * SPEC.cpu_s + 5,
        "NPROC": SPEC.processes + 8,
        "NOFILE": SPEC.open_files,
        "FSIZE": SPEC.scratch_bytes,
        "STACK": 8 * MIB,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
        "SIGPENDING": 64,
        "CORE": 1,
    }


def test_scratch_is_bounded_in_bytes_and_files(image: Image) -> None:
    code = """\
import errno, os
written = files = 0
try:
    for number in range(100):
        with open(f"b{number}", "wb", buffering=0) as file:
            for _ in range(16): written += file.write(bytes(65536))
except OSError as error: full = error.errno
for name in os.listdir("."): os.unlink(name)
try:
    for number in range(1000):
        open(f"f{number}", "w").close(); files += 1
except OSError as error: none_left = error.errno
print(json.dumps([written, full == errno.ENOSPC, files, none_left == errno.ENOSPC]))
"""
    written, full, files, none_left = with_jail(image, lambda jail: seen_in(jail, code))
    assert (full, none_left) == (True, True)
    assert written <= SPEC.scratch_bytes
    assert SPEC.scratch_files - 4 < files <= SPEC.scratch_files


def test_one_place_can_be_written_and_nothing_can_be_run(image: Image) -> None:
    code = """\
import ctypes, glob, mmap, os, shutil
def outcome(function, *arguments):
    try: function(*arguments)
    except OSError as error: return type(error).__name__
    return "done"
places = ["/", "/dev", "/usr", "/usr/lib/belljar", "/lib/"]
library = sorted(glob.glob("/usr/lib/libm.so*") + glob.glob("/usr/lib/libz.so*"))[0]
shutil.copy(library, "/tmp/copied.so")
os.chmod("/tmp/copied.so", 0o777)
with open("/tmp/copied.so", "r+b") as file:
    executable = outcome(lambda: mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_EXEC))
print(json.dumps({
    "write": outcome(open, "/tmp/x", "w"), "elsewhere": [outcome(open, place + "/x", "w") for place in places],
    "image": outcome(open, "/usr/lib/belljar/guest/box/boot.py", "r+"), "link": outcome(os.symlink, "/usr", "/tmp/l"),
    "hard link": outcome(os.link, "/tmp/x", "/tmp/y"), "fifo": outcome(os.mkfifo, "/tmp/f"),
    "load": outcome(ctypes.CDLL, "/tmp/copied.so"), "execute": executable,
    "run": outcome(os.execv, "/usr/bin/python3", ["python3"]), "move": outcome(os.rename, "/tmp/x", "/tmp/z"),
}))
"""
    seen = with_jail(image, lambda jail: seen_in(jail, code))
    assert {name for name, what in seen.items() if what == "done"} == {"write", "move"}
    assert "done" not in seen["elsewhere"]


def test_a_file_moves_between_folders_of_the_scratch(image: Image) -> None:
    code = """\
import os
os.makedirs("a/b"); os.mkdir("c")
open("a/b/file", "w").write("text")
os.rename("a/b/file", "c/file"); os.rename("a/b", "c/b")
print(json.dumps([sorted(os.listdir("c")), open("c/file").read()]))
"""
    assert with_jail(image, lambda jail: seen_in(jail, code)) == [["b", "file"], "text"]


def test_signals_stay_inside(image: Image) -> None:
    code = f"""\
import os, signal
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
def outcome(pid):
    try: os.kill(pid, signal.SIGUSR1)
    except OSError as error: return type(error).__name__
    return "sent"
print(json.dumps([outcome(pid) for pid in (os.getpid(), {os.getpid()}, {os.getppid()}, 2, -2, -1)]))
"""
    assert with_jail(image, lambda jail: seen_in(jail, code)) == ["sent", *["ProcessLookupError"] * 5]


# A list that also lets the program look at itself, with calls that no box may make.
LOOKS = Rule(names=["prctl", "capget", "keyctl", "getppid", "getsid", "getpgid"], why="for this test only")


def test_nothing_is_left_of_any_privilege(image: Image) -> None:
    code = """\
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
header, data = ctypes.create_string_buffer(b"\\x22\\x05\\x08\\x20" + bytes(4)), ctypes.create_string_buffer(24)
assert libc.syscall(125, header, data) == 0
bounding = [number for number in range(64) if libc.prctl(23, number, 0, 0, 0) == 1]
ambient = [number for number in range(41) if libc.prctl(47, 1, number, 0, 0) == 1]
print(json.dumps({
    "caps": data.raw[:24].strip(b"\\0").hex(), "bounding": bounding, "ambient": ambient,
    "no_new_privs": libc.prctl(39, 0, 0, 0, 0), "securebits": libc.prctl(27, 0, 0, 0, 0),
    "dumpable": libc.prctl(3, 0, 0, 0, 0), "session": os.getsid(0), "parent": os.getppid(),
    "keyring": libc.syscall(250, 0, -3, 0),
}))
"""
    allowlist = load_allowlist()
    wider = msgspec.structs.replace(allowlist, allow=[*allowlist.allow, LOOKS])

    async def body(jail: Jail) -> list[dict[str, Any]]:
        return [await seen_in(jail, code) for _ in range(3)]

    looks = with_jail(image, body, allowlist=wider)
    keyrings = {look.pop("keyring") for look in looks}
    assert len(keyrings) == len(looks)
    libc = ctypes.CDLL(None)
    libc.syscall.restype = ctypes.c_long
    assert libc.syscall(250, 0, -3, 0) not in keyrings
    for look in looks:
        assert look == {
            "caps": "",
            "bounding": [],
            "ambient": [],
            "no_new_privs": 1,
            "securebits": 0b11101111,
            "dumpable": 0,
            "session": 1,
            "parent": 0,
        }


def test_keyrings_cannot_be_asked_for(image: Image) -> None:
    code = """\
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(json.dumps([[libc.syscall(number, 0, -3, 0), ctypes.get_errno()] for number in (248, 249, 250)]))
"""
    assert with_jail(image, lambda jail: seen_in(jail, code)) == [[-1, 1]] * 3


# ----------------------------------------------------------------------------------------------- what a box is, outside


def test_the_kernel_says_the_same_from_outside(image: Image) -> None:
    async def body(jail: Jail) -> None:
        async with opened(jail):
            (process,) = box_processes(jail)
            status = dict(line.split(":\t", 1) for line in proc(process.pid, "status"))
            for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                assert int(status[name], 16) == 0, name
            assert (status["NoNewPrivs"], status["Seccomp"], status["Seccomp_filters"]) == ("1", "2", "1")
            assert status["Groups"].strip() == ""
            supervisor, own = ids_of(zygote_of(jail).pid), ids_of(process.pid)
            assert (len(supervisor), len(own)) == (1, 1)
            assert jail._uids is not None
            if (block := jail._uids.block) is not None:
                assert supervisor == {block.start}
                assert own < set(block) - supervisor
                assert proc(zygote_of(jail).pid, "uid_map")[0].split() == ["0", str(block.start), str(len(block))]
            else:
                assert supervisor == own == {os.geteuid() or NOBODY}
            assert not own & {0, *([NOBODY] if block is not None else [])}
            assert proc(process.pid, "uid_map")[0].split() == [str(NOBODY), str(*own), "1"]
            assert status["NSpid"].split()[-1] == "1"
            assert [status[name].split()[-1] for name in ("NSsid", "NSpgid")] == ["1", "1"]
            kinds = ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup")
            for above in (os.getpid(), zygote_of(jail).pid):
                for kind in kinds:
                    assert _namespace(process.pid, kind) != _namespace(above, kind), kind

    with_jail(image, body)


def ids_of(pid: int) -> set[int]:
    """The uids and gids of the host that a process has, all of them."""
    lines = [line.split()[1:] for line in proc(pid, "status") if line.startswith(("Uid:", "Gid:"))]
    return {int(number) for line in lines for number in line}


def proc(pid: int, name: str) -> list[str]:
    return Path(f"/proc/{pid}/{name}").read_text().splitlines()


def _namespace(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def test_every_mount_of_a_box_is_tied_down(image: Image) -> None:
    async def body(jail: Jail) -> None:
        async with opened(jail):
            (process,) = box_processes(jail)
            mounts = {}
            for line in proc(process.pid, "mountinfo"):
                left, _, right = line.partition(" - ")
                mounts[left.split()[4]] = (set(left.split()[5].split(",")), right.split()[0], right.split()[2])
        assert mounts.keys() == {"/", "/tmp", "/dev/null", "/dev/zero", "/dev/urandom"}
        assert mounts["/"][0] >= {"ro", "nosuid", "nodev"}
        for device in ("null", "zero", "urandom"):
            assert mounts[f"/dev/{device}"][0] >= {"ro", "nosuid", "noexec"}
        flags, kind, options = mounts["/tmp"]
        assert (flags >= {"rw", "nosuid", "nodev", "noexec"}, kind) == (True, "tmpfs")
        assert {f"size={SPEC.scratch_bytes // 1024}k", f"nr_inodes={SPEC.scratch_files}"} <= set(options.split(","))

    with_jail(image, body)


@pytest.mark.parametrize("answer", ["exec", "refuse"])
def test_a_zygote_is_started_in_a_scope_where_the_user_manager_gives_one(
    image: Image, tmp_path: Path, answer: str
) -> None:
    """By a stand-in for `systemd-run`, which becomes the command, or fails as it does without a bus."""
    asked = tmp_path / "asked"
    program = tmp_path / "systemd-run"
    end = 'shift\nexec "$@"' if answer == "exec" else "exit 1"
    program.write_text(f'#!/bin/sh\necho "$1 $$" >> {asked}\n{end}\n')
    program.chmod(0o755)

    async def body() -> tuple[str, set[str], int]:
        jail = Jail(image, scope=[str(program), "--scope"])
        try:
            async with opened(jail) as talk:
                said, layers = (await talk.execute("print(6 * 7)")).output, set(talk.box.layers)
            assert jail._zygote is not None
            return said, layers, jail._zygote.pid
        finally:
            await jail.aclose()

    said, layers, pid = asyncio.run(body())
    assert said == "42\n"
    word, number = asked.read_text().split()
    # The same process, so it dies with us, and what it makes is in the scope.
    assert (word, int(number) == pid) == ("--scope", answer == "exec")
    assert {name.partition(".")[2] for name in layers if "." in name} == {"memory", "cpu", "pids"}


def test_a_box_tells_the_layers_that_it_has(image: Image) -> None:
    async def body(jail: Jail) -> set[str]:
        async with opened(jail) as talk:
            return set(talk.box.layers)

    promised = "userns pidns mountns netns ipcns utsns cgroupns rootfs rlimits caps no_new_privs seccomp"
    layers = with_jail(image, body)
    assert layers >= set(promised.split())
    counted = {f"{by}.{what}" for by in ("cgroup", "watched") for what in ("memory", "cpu", "pids")}
    assert layers - set(promised.split()) <= {"landlock", "own_uid", *counted}
    # Somebody counts, and only one.
    assert [what for what in ("memory", "cpu", "pids") if {f"cgroup.{what}", f"watched.{what}"} <= layers] == []
    assert {name.partition(".")[2] for name in layers & counted} == {"memory", "cpu", "pids"}
