"""The limits of a box, for an ordinary user without control groups: a watch on the host keeps them.

The body of a test is what the program tries. Each of these got past the kernel's limits, which are for one process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.ordinary import ordinary_jar
from tests.integration.support import Jar

MIB = 2**20
WATCHED = {"watched.memory", "watched.cpu", "watched.pids"}
COUNTED = {"cgroup.memory", "cgroup.cpu", "cgroup.pids"}


@pytest.fixture
def jar(tmp_path: Path, images: Path) -> Iterator[Jar]:
    yield from ordinary_jar(tmp_path, images)


def run(jar: Jar, code: str, limits: str = "", language: str = "python") -> dict[str, Any]:
    policy = jar.policy(f'[limits]\ngrace = "250 ms"\n{limits}')
    outcome = jar.exec(code, "--language", language, "--json", "--policy", policy)
    assert outcome.stdout, outcome.stderr
    if set(outcome.result["layers"]) & COUNTED:
        pytest.skip("this user has control groups")
    return outcome.result


# -------------------------------------------------------------------------------------------------------------- memory

CHILDREN = """\
import os, time
for _ in range(12):
    if os.fork() == 0:
        block = bytearray(60 << 20)
        for at in range(0, len(block), 4096):
            block[at] = 1
        time.sleep(60)
        os._exit(0)
time.sleep(60)
"""
BOMB = """\
import os
kept = []
while True:
    try:
        os.fork()
    except OSError:
        pass
    try:
        kept.append("y" * 1_000_000)
    except MemoryError:
        pass
"""
COPIES = """\
import os, time
block = bytearray(60 << 20)
for at in range(0, len(block), 4096):
    block[at] = 1
for _ in range(8):
    if os.fork() == 0:
        for at in range(0, len(block), 4096):
            block[at] = 2
        time.sleep(60)
        os._exit(0)
time.sleep(60)
"""
STOPPED = """\
import os, signal, time
for _ in range(8):
    if os.fork() == 0:
        block = bytearray(60 << 20)
        for at in range(0, len(block), 4096):
            block[at] = 1
        os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(60)
"""
# The kernel shows the memory of a process by its first thread, which is no more.
HEADLESS = """\
import ctypes, os, threading, time
def fill():
    kept = []
    try:
        while True:
            kept.append("y" * 1_000_000)
    except MemoryError:
        time.sleep(60)
for _ in range(6):
    if os.fork() == 0:
        threading.Thread(target=fill).start()
        ctypes.CDLL(None).syscall(60, 0)
time.sleep(60)
"""
ORPHANS = """\
import os, time
for _ in range(8):
    if os.fork() == 0:
        if os.fork():
            os._exit(0)
        block = bytearray(60 << 20)
        for at in range(0, len(block), 4096):
            block[at] = 1
        time.sleep(60)
        os._exit(0)
time.sleep(60)
"""
# Nothing of it is in a table of pages any more, but one page of each.
HIDDEN = """\
import ctypes, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
size = 8 << 20
for _ in range(150):
    at = libc.mmap(None, size, 3, 0x21, -1, 0)
    libc.memset(at, 1, size)
    libc.munmap(at + 4096, size - 4096)
    time.sleep(0.01)
time.sleep(60)
"""
SOCKETS = """\
import os, socket, time
for _ in range(10):
    if os.fork() == 0:
        break
kept = []
try:
    while True:
        pair = socket.socketpair()
        kept.append(pair)
        for end in pair:
            end.setblocking(False)
            try:
                while True:
                    end.send(bytes(65536))
            except BlockingIOError:
                pass
except OSError:
    time.sleep(60)
"""
SCRATCH = """\
import os, time
for number in range(3):
    if os.fork() == 0:
        kept = bytearray(60 << 20)
        for at in range(0, len(kept), 4096):
            kept[at] = 1
        time.sleep(60)
with open("/tmp/file", "wb") as file:
    for _ in range(60):
        file.write(b"x" * (1 << 20))
        time.sleep(0.01)
    time.sleep(60)
"""
PROGRAMS = {
    "many children": CHILDREN,
    "a bomb of them": BOMB,
    "children that copy what they share": COPIES,
    "children that are stopped": STOPPED,
    "processes without their first thread": HEADLESS,
    "orphans": ORPHANS,
    "pages in nobody's table": HIDDEN,
    "sockets full of bytes": SOCKETS,
    "scratch": SCRATCH,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_memory_is_limited_for_the_whole_box(jar: Jar, name: str) -> None:
    limits = 'memory = "192 MiB"\nscratch = "64 MiB"\ncell_wall = "40 s"\ncpu = "40 s"'
    result = run(jar, PROGRAMS[name], limits)
    assert result["status"] == "memory", result["error"]
    assert (result["limit"]["code"], result["limit"]["limit"]) == ("limits.memory", 192 * MIB)
    # What passes between two looks is over it, and how much that is depends on how busy the machine is.
    assert 192 * MIB < result["limit"]["observed"] < 5 * 192 * MIB
    assert result["max_rss_bytes"] == result["limit"]["observed"]


def test_pages_that_many_children_share_count_once(jar: Jar) -> None:
    code = """\
import os, time
block = bytearray(100 << 20)
for at in range(0, len(block), 4096):
    block[at] = 1
for _ in range(8):
    if os.fork() == 0:
        sum(block[::4096])
        time.sleep(0.5)
        os._exit(0)
FINAL([os.wait()[1] for _ in range(8)])
"""
    result = run(jar, code, 'memory = "256 MiB"')
    assert (result["status"], result["answer"]) == ("ok", [0] * 8), result["error"]
    assert result["max_rss_bytes"] < 200 * MIB


def test_memory_that_comes_and_goes_is_no_sum(jar: Jar) -> None:
    """What is given back makes room, in one process and in its child, however fast it goes."""
    code = """\
import os
child = os.fork()
for _ in range(12):
    block = "y" * 40_000_000
    del block
if child == 0:
    os._exit(0)
FINAL(os.wait()[1])
"""
    result = run(jar, code, 'memory = "192 MiB"')
    assert (result["status"], result["answer"]) == ("ok", 0), result["error"]


# ----------------------------------------------------------------------------------------------------- CPU time, tasks

TOGETHER = "import os\nfor _ in range(6):\n    if os.fork() == 0:\n        break\nwhile True:\n    pass"
# Each dies after a moment, and nobody waits for it: its time goes with it.
ONE_BY_ONE = """\
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    if os.fork() == 0:
        until = time.process_time() + 0.02
        while time.process_time() < until:
            pass
        os._exit(0)
    time.sleep(0.02)
"""
WAITED_FOR = """\
import os, time
while True:
    child = os.fork()
    if child == 0:
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.parametrize("code", [TOGETHER, ONE_BY_ONE, WAITED_FOR], ids=["together", "one by one", "waited for"])
def test_cpu_time_is_limited_for_the_whole_box(jar: Jar, code: str) -> None:
    result = run(jar, code, 'cpu = "2 s"\ncell_wall = "40 s"')
    assert (result["status"], result["limit"]["code"]) == ("cpu", "limits.cpu"), result["error"]
    # What seven of them may use between two looks depends on how busy the machine is.
    assert 2000 <= result["limit"]["observed"] < 20_000
    assert result["cpu_s"] >= 2


FORKS = "import os, time\nfor _ in range(60):\n    if os.fork() == 0:\n        time.sleep(60)\n        os._exit(0)"
THREADS = """\
import threading, time
for _ in range(60):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
"""


@pytest.mark.parametrize("code", [FORKS, THREADS], ids=["processes", "threads"])
def test_tasks_are_limited_and_it_is_said(jar: Jar, code: str) -> None:
    result = run(jar, code, "processes = 12")
    assert result["status"] == "processes", result["error"]
    assert result["limit"] == {"code": "limits.processes", "limit": 12, "observed": 13, "unit": ""}


def test_there_are_never_more_tasks_than_the_limit_whoever_else_runs(jar: Jar) -> None:
    """The kernel counts for each box: neither what its user runs besides nor another box takes a place."""
    code = """\
import os, time
made = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        made += 1
except OSError:
    FINAL(made)
"""
    assert run(jar, code, "processes = 12")["answer"] == 11


# --------------------------------------------------------------------------------------------------- what is said of it


def test_the_layers_say_who_counts(jar: Jar) -> None:
    result = run(jar, "pass")
    assert set(result["layers"]) >= WATCHED
    assert not set(result["layers"]) & COUNTED


def test_a_policy_that_requires_groups_starts_nothing_and_says_what_to_do(jar: Jar) -> None:
    run(jar, "pass")
    outcome = jar.exec("print(1)", "--policy", "strict")
    assert outcome.code == 4
    assert "the policy requires cgroup.cpu, cgroup.memory, cgroup.pids, which the jail backend does not give" in (
        outcome.complaint
    )
    assert "belljar doctor" in outcome.complaint


def test_the_doctor_tells_which_of_the_two_holds(jar: Jar) -> None:
    run(jar, "pass")
    report = json.loads(jar("doctor", "--backend", "jail", "--json").stdout)
    ok = {finding["name"] for finding in report["findings"] if finding["ok"]}
    assert ok >= WATCHED
    assert not ok & COUNTED
    remedies = [finding["remedy"] for finding in report["findings"] if finding["name"] == "cgroup.memory"]
    assert "Delegate=yes" in remedies[0]
