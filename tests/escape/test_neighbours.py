"""What one box must not do to the host or to another box, and how a box ends while its session stays open."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from belljar import ModelReply, ModelRequest, Session
from belljar.errors import HostFault, PolicyDenied
from belljar.models import FREE
from tests.escape.harness import CONTEXT, PROGRAMS, BackendName, Escapes, Language
from tests.escape.pairing import Pair, load_pairs, run_pair

STUBBORN = """
import time
while True:
    try:
        time.sleep(60)
    except BaseException:
        pass
"""
CRUMBS = """
import json, os, struct
header = b'{"op":"output","cell":1,"stream":"stdout"}'
crumbs = (struct.pack("!II", len(header), 0) + header) * 4000
while True:
    os.write(3, crumbs)
"""
# Each child works for less than the kernel's limit on a process, and hands on.
RELAY = """
import os
if os.fork() == 0:
    while os.fork() == 0:
        sum(range(10_000_000))
    os._exit(0)
"""
# Whatever a program can read without asking anybody, by what it is about.
LOOK = """
import json, os, resource, socket, sys, threading, time
def look(path):
    about = os.stat(path)
    return [*tuple(about)[:2], *tuple(about)[3:7], about.st_atime_ns, about.st_mtime_ns, about.st_ctime_ns]
one, other = socket.socketpair()
end, begin = os.pipe()
image = ["/usr", "/usr/bin/python3", "/usr/lib/belljar/guest/agent/loop.py"]
devices = ["/dev/null", "/dev/zero", "/dev/urandom"]
descriptors = []
for number in range(64):
    try:
        descriptors.append((number, os.fstat(number).st_mode))
    except OSError:
        pass
print(json.dumps({
    "inodes": [os.fstat(each).st_ino for each in (one.fileno(), end)],
    "mounts": [os.stat("/tmp").st_dev, os.stat("/").st_dev],
    "scratch": [look("/tmp")[:1], os.listdir("/tmp"), os.getcwd()],
    "image": [look(path) for path in image],
    "devices": [look(path) for path in devices],
    "processes": [os.getpid(), threading.get_native_id(), threading.active_count()],
    "descriptors": descriptors,
    "limits": [resource.getrlimit(each) for each in range(16)],
    "environment": [dict(os.environ), sys.argv, sys.orig_argv],
    "kernel": list(os.uname()),
    "cores": sorted(os.sched_getaffinity(0)),
    "uptime": time.clock_gettime(time.CLOCK_BOOTTIME),
}))
"""
# | `name` | where | ...
LEARNT = re.compile(r"^\| `(\w+)` \| (jail|jail and Docker|everywhere) \| \S", re.MULTILINE)
SECURITY = Path(__file__).resolve().parents[2] / "SECURITY.md"
# A neighbour's reads of a few hundred bytes take well below a millisecond on an idle machine.
LATENCY_S = 0.1


class Broken:
    """A model object with a defect."""

    name = "scripted:broken"
    scripted = True
    rates = FREE

    async def complete(self, request: ModelRequest) -> ModelReply:
        raise KeyError("a defect")

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize(
    "source", [STUBBORN, "FINAL('answer')", "while True: pass", "import os\nos.write(3, bytes(64))"]
)
def test_a_box_that_has_ended_is_dead_while_its_session_is_still_open(escapes: Escapes, source: str) -> None:
    async def stay() -> list[str]:
        runtime = await escapes.runtime("python", policy="hasty" if source == STUBBORN else "small")
        async with runtime.session(context=CONTEXT) as session:
            await session.execute(source)
            return await escapes.left()

    assert escapes.drive(stay()) == []


def test_children_that_work_on_between_two_cells_meet_the_limit_on_cpu_time(escapes: Escapes) -> None:
    async def stay() -> tuple[str, list[str]]:
        runtime = await escapes.runtime("python")
        async with runtime.session() as session:
            await session.execute(RELAY)
            with contextlib.suppress(PolicyDenied):  # or it is told as the end of the cell that it falls into
                while (await session.execute("x = 1")).status == "ok":  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.2)
            left = await escapes.left()
        assert session.result is not None
        return session.result.status, left

    assert escapes.drive(stay()) == ("cpu", [])


def test_a_defect_of_a_model_is_a_fault_of_ours_and_told_at_once(escapes: Escapes) -> None:
    async def ask() -> None:
        runtime = await escapes.runtime("python")
        async with runtime.session(model=Broken()) as session:
            await session.execute("llm_query('x')")

    with pytest.raises(HostFault, match="KeyError"):
        escapes.drive(ask())


def test_code_with_half_a_character_is_rejected(escapes: Escapes) -> None:
    async def run(language: Language) -> str:
        runtime = await escapes.runtime(language)
        async with runtime.session() as session:
            return (await session.execute("print('\ud800')")).status

    assert escapes.drive(run("python")) == "rejected"
    assert escapes.drive(run("restricted")) == "rejected"


def test_runtimes_of_one_process_do_not_end_each_others_boxes(escapes: Escapes) -> None:
    async def both() -> tuple[str, str]:
        python, restricted = await escapes.runtime("python"), await escapes.runtime("restricted")
        async with python.session() as one, restricted.session() as other:
            await one.execute("x = 1")
            await other.execute("x = 2")
            async with python.session() as third:
                await third.execute("x = 3")
            return (await one.execute("print(x)")).stdout, (await other.execute("print(x)")).stdout

    assert escapes.drive(both()) == ("1\n", "2\n")


def test_a_box_that_dies_takes_no_other_with_it(escapes: Escapes) -> None:
    async def some() -> list[str]:
        runtime = await escapes.runtime("python")
        async with runtime.session() as survivor:
            await survivor.execute("x = 'alive'")
            for source in (
                "import os\nos._exit(1)",
                "import ctypes\nctypes.string_at(0)",
                "x = [0]\nwhile True: x += x",
            ):
                await runtime.execute(source)
            return [(await survivor.execute("print(x)")).stdout]

    assert escapes.drive(some()) == ["alive\n"]


@pytest.mark.parametrize(
    "flood", [CRUMBS, "while True: print('x' * 5000)", "while True: budget()"], ids=["crumbs", "output", "budget"]
)
def test_a_flood_does_not_hold_up_a_neighbour(escapes: Escapes, flood: str) -> None:
    async def measure(session: Session) -> float:
        started = time.monotonic()
        assert (await session.execute("x = context[:200]")).status == "ok"
        return time.monotonic() - started

    async def side_by_side() -> tuple[float, float, float]:
        runtime = await escapes.runtime("python")
        async with runtime.session(context=CONTEXT) as neighbour, runtime.session(context=CONTEXT) as flooder:
            alone = [await measure(neighbour) for _ in range(20)]
            flooding = asyncio.create_task(flooder.execute(flood))
            await asyncio.sleep(0.1)
            taken = [await measure(neighbour) for _ in range(20)]
            await flooding
            alone += [await measure(neighbour) for _ in range(20)]  # others may have come or gone meanwhile
            return statistics.median(alone[:20]), statistics.median(alone[20:]), statistics.median(taken)

    before, after, beside = escapes.drive(side_by_side())
    # On a machine that others keep busy all are longer.
    assert beside < LATENCY_S + 10 * max(before, after)


@pytest.mark.parametrize("pair", load_pairs(), ids=lambda pair: pair.name)
def test_two_boxes_do_not_notice_each_other(escapes: Escapes, pair: Pair) -> None:
    cells = escapes.drive(run_pair(escapes, pair))
    text = repr(cells)
    assert "ESCAPED" not in text, text
    assert [cell.status for cell in cells] == ["ok", "ok"], text
    assert pair.says in "".join(cell.stdout for cell in cells), text
    escapes.canaries.check(text)
    assert escapes.survivors() == []


def listed(backend: BackendName) -> set[str]:
    """What SECURITY.md says that a box learns."""
    where = {"jail": ("jail", "jail and Docker"), "docker": ("jail and Docker",), "gvisor": ()}[backend]
    return {name for name, place in LEARNT.findall(SECURITY.read_text("utf-8")) if place in (*where, "everywhere")}


def of_the_host(seen: dict[str, Any], before: float, after: float) -> set[str]:
    """What of it is the host's own, and changes with the host."""
    about = os.stat("/dev/null")
    times = [about.st_atime_ns, about.st_mtime_ns, about.st_ctime_ns]
    facts = {
        "devices": seen["devices"][0][-3:] == times,
        "kernel": seen["kernel"][2] == os.uname().release,
        "cores": len(seen["cores"]) == len(os.sched_getaffinity(0)),
        "uptime": before <= seen["uptime"] <= after,
    }
    return {name for name, so in facts.items() if so}


async def of_two(escapes: Escapes, source: str) -> list[str]:
    """What a program prints in one box, and in another while the first is still there."""
    runtime = await escapes.runtime("python")
    async with runtime.session() as one, runtime.session(tenant="rival") as other:
        cells = [await one.execute(source), await other.execute(source)]
    assert [cell.status for cell in cells] == ["ok", "ok"], cells
    return [cell.stdout for cell in cells]


def test_what_a_box_learns_of_others_and_of_the_host_is_what_is_listed(escapes: Escapes) -> None:
    """Two boxes look at all there is: what differs tells one of the other."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    one, other = map(json.loads, escapes.drive(of_two(escapes, LOOK)))
    after = time.clock_gettime(time.CLOCK_BOOTTIME)
    differing = {name for name in one if one[name] != other[name]} - {"uptime"}
    if escapes.backend == "gvisor":
        differing -= {"mounts"}  # numbers of its own kernel's, which makes them in no fixed order
    assert differing | of_the_host(other, before, after) == listed(escapes.backend), (one, other)


def test_nothing_below_the_agent_tells_of_other_boxes(escapes: Escapes) -> None:
    """Frames and forgotten orders look the same in a first box and in one beside it, and hold no order."""
    walk = (PROGRAMS / "shared" / "walk.py").read_text("utf-8")
    one, other = escapes.drive(of_two(escapes, f"{walk}\nprint(*walk(), sep='\\n')"))
    assert one == other
    assert "main" in one
    assert not re.search("rlimits|'box'|no_new_privs", one), one
