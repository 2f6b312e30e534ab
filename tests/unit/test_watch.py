"""The watch over a box without control groups: what it takes for growth and for CPU time, whom it finds, when it kills.

Its arithmetic is tested with made-up processes, the rest with processes of the test's own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from belljar.sandbox.base import BoxSpec, Evidence
from belljar.sandbox.watch import (
    Born,
    Process,
    Watch,
    address_peak_bytes,
    born,
    growth_bytes,
    pid_of,
    processes_below,
    ticks_between,
)
from tests.waiting import PATIENCE_S, until

MIB = 2**20
PAGE = os.sysconf("SC_PAGE_SIZE")
ALL = ("memory", "cpu", "pids")
# How long the kernel may take to stop some processes, on a machine however busy.
STOPS_S = 5.0


def spec(memory_bytes: int) -> BoxSpec:
    return BoxSpec(
        cpu_s=10,
        memory_bytes=memory_bytes,
        processes=16,
        scratch_bytes=MIB,
        scratch_files=16,
        open_files=16,
        requires=(),
    )


# ----------------------------------------------------------------------------------------------------- CPU time, growth


def made(
    *, own: int = 0, inherited: int = 0, running: bool = False, faults: int = 0, private: int = 0, started: int = 1
) -> Process:
    return Process(
        at="",
        parent=1,
        running=running,
        faults=faults,
        own=own,
        inherited=inherited,
        threads=1,
        started=started,
        address_bytes=private,
        resident_bytes=private,
        shared_bytes=0,
    )


CORES = os.cpu_count() or 1
FIRST = {1: made(own=10)}
TICKS = {
    "nothing ran": (FIRST, FIRST, 0),
    "the first look takes what is there": ({}, {1: made(own=7, running=True)}, 7),
    "it ran": (FIRST, {1: made(own=14)}, 4),
    "a child that was waited for leaves its time": (
        {1: made(own=10), 2: made(own=30)},
        {1: made(own=10, inherited=33)},
        3,
    ),
    "a child that nobody waited for takes nothing back": (
        {1: made(own=10), 2: made(own=30)},
        {1: made(own=12)},
        2,
    ),
    "who is new and runs stands for all before": (FIRST, {1: made(own=11), 2: made(own=1, running=True)}, 1 + 20),
    "who is new and sleeps has its own time": (FIRST, {1: made(own=11), 2: made(own=5)}, 1 + 5),
    "a number that went to another one is new": (
        {1: made(own=10), 2: made(own=30)},
        {1: made(own=10), 2: made(own=1, running=True, started=2)},
        20,
    ),
    "no more than there are cores": (
        FIRST,
        {1: made(own=10)} | {pid: made(running=True) for pid in range(2, 3 * CORES + 2)},
        CORES * 20,
    ),
}


@pytest.mark.parametrize("name", TICKS)
def test_cpu_time_between_two_looks(name: str) -> None:
    before, after, expected = TICKS[name]
    assert ticks_between(before, after, 20) == expected


HAD = {1: made(faults=100, private=50 * PAGE)}
GROWTH = {
    "nothing": (HAD, HAD, 0),
    "new pages": (HAD, {1: made(faults=130, private=80 * PAGE)}, 30 * PAGE),
    "huge pages, of one fault each": (HAD, {1: made(faults=101, private=562 * PAGE)}, 512 * PAGE),
    "copies of pages that it shared": (HAD, {1: made(faults=140, private=50 * PAGE)}, 40 * PAGE),
    "given back": (HAD, {1: made(faults=100, private=10 * PAGE)}, 0),
    "a child has what its parent had": (HAD, HAD | {2: made(faults=3, private=50 * PAGE)}, 3 * PAGE),
    "more than anybody had": (HAD, HAD | {2: made(faults=0, private=90 * PAGE)}, 40 * PAGE),
    "the first look knows what it was born with": ({}, {1: made(faults=2, private=20 * PAGE)}, 10 * PAGE),
}


@pytest.mark.parametrize("name", GROWTH)
def test_growth_is_never_told_too_small(name: str) -> None:
    before, after, expected = GROWTH[name]
    assert growth_bytes(before, after, Born(0, 10 * PAGE, 0)) == expected


# ------------------------------------------------------------------------------------------------------- real processes


@contextlib.contextmanager
def program(code: str) -> Iterator[subprocess.Popen[str]]:
    """A process that says a line when it is ready; it and all below it are dead afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


# As the first process of a pid namespace does, this one adopts orphans.
FAMILY = """\
import ctypes, os, threading, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
def child_of_a_thread():
    if os.fork() == 0:
        time.sleep(300)
    gate.set(); time.sleep(300)
gate = threading.Event()
threading.Thread(target=child_of_a_thread, daemon=True).start()
gate.wait()
if os.fork() == 0:
    if os.fork():
        os._exit(0)
    if os.fork() == 0:
        time.sleep(300)
    time.sleep(300)
os.wait()
print("ready", flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("listed", [True, False])
def test_children_orphans_and_children_of_threads_are_found(listed: bool) -> None:
    with program(FAMILY) as process:
        until(lambda: len(processes_below(process.pid, listed=listed)) >= 4, what="the whole family is there")
        found = processes_below(process.pid, listed=listed)
        expected = {process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))}
        assert found.keys() == expected
        assert found[process.pid].threads == 2


def test_who_has_ended_is_not_there() -> None:
    with program("print(flush=True)") as process:
        process.wait(PATIENCE_S)
    assert processes_below(process.pid) == {}


def test_a_process_is_known_by_its_descriptor() -> None:
    handle = os.pidfd_open(os.getpid())
    try:
        assert pid_of(handle) == os.getpid()
    finally:
        os.close(handle)


def test_address_space_counts_from_birth() -> None:
    code = "import mmap; print(flush=True); input(); m = mmap.mmap(-1, 64 << 20); print(flush=True); input()"
    with program(code) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        at_birth = born(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        peak = address_peak_bytes(process.pid, at_birth)
    assert peak is not None
    assert 64 * MIB <= peak < 80 * MIB


GROWS = """\
import os, sys
others = [os.fork() for _ in range({children})]
if 0 not in others:
    print(flush=True)
    input()
else:
    os.read(0, 0)
    import time
    time.sleep(300)
import time
kept = []
for _ in range(2000):
    kept.append(bytearray(b"x") * 1_000_000)
    time.sleep(0.005)
time.sleep(300)
"""


@pytest.mark.parametrize("children", [0, 3])
def test_a_box_that_grows_too_large_is_killed_and_stands_still_while_it_is_counted(
    children: int,
) -> None:
    states: list[bool] = []
    dead = threading.Event()
    with program(GROWS.format(children=children)) as process:
        assert process.stdin is not None

        def stand_still() -> bool:
            found = [psutil.Process(pid).status() for pid in processes_below(process.pid)]
            return set(found) == {psutil.STATUS_STOPPED}

        def kill() -> None:
            # One process alone goes on. Of several, who was told to stand still does so when the kernel gets to it.
            deadline = time.monotonic() + (STOPS_S if children else 0)
            while not stand_still() and time.monotonic() < deadline:
                pass
            states.append(stand_still())
            os.killpg(process.pid, signal.SIGKILL)
            dead.set()

        def watch(memory_bytes: int) -> Watch:
            return Watch(process.pid, spec(memory_bytes), -1, born=Born(), covers=ALL, kill=kill)

        # The sockets of this machine are not this test's. While all of them are still starting, nobody counts.
        measuring = watch(2**50)

        def counted() -> bool:
            measuring.look()
            return bool(measuring.evidence().memory_peak_bytes)

        until(counted, what="somebody is counted")
        limit = (measuring.evidence().memory_peak_bytes or 0) + 30 * MIB
        watching = watch(limit)
        watching.start()
        process.stdin.write("\n")
        process.stdin.flush()
        assert dead.wait(PATIENCE_S)
        watching.stop()
    evidence = watching.evidence()
    assert evidence.memory_kills == 1
    assert evidence.memory_peak_bytes is not None
    # It grows by 200 MB in a second at most, and the watch may be kept from looking for some.
    assert limit < evidence.memory_peak_bytes < limit + 1024 * MIB
    if children:
        assert states == [True]


def test_what_is_counted_by_others_is_not_told() -> None:
    watch = Watch(os.getpid(), spec(2**50), -1, born=Born(), covers=("cpu",), kill=lambda: None)
    watch.look()
    evidence = watch.evidence()
    assert evidence.cpu_s is not None
    assert evidence == Evidence(cpu_s=evidence.cpu_s)


def test_who_asks_is_answered_after_a_look() -> None:
    answered = threading.Event()
    watch = Watch(os.getpid(), spec(2**50), -1, born=Born(), covers=("cpu",), kill=lambda: None)
    watch.start()
    watch.ask(answered.set)
    assert answered.wait(PATIENCE_S)
    watch.stop()


def test_a_box_that_cannot_be_looked_at_any_more_is_killed() -> None:
    """Whoever looks may run out of descriptors; what nobody limits must not run on."""
    killed = threading.Event()

    class Blind(Watch):
        def look(self) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    watch = Blind(os.getpid(), spec(2**50), -1, born=Born(), covers=ALL, kill=killed.set)
    watch.start()
    assert killed.wait(PATIENCE_S)
    watch.stop()
    assert watch.failed


def test_a_process_that_cannot_be_read_has_not_ended(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(tmp_path, os.O_PATH))
        with pytest.raises(OSError, match="Too many open files"):
            processes_below(os.getpid())
    finally:
        for handle in held:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
