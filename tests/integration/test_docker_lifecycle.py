"""Boxes in containers, from their birth in a pool to their end: each serves one run, and none troubles another.

The guests here do to the wire and to the host what a hostile program would: they flood, they stop reading, they forge.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import os
import signal
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from belljar import Result
from belljar.errors import BoxFault
from belljar.lifecycle import box_spec
from belljar.policy import load
from belljar.sandbox import BoxEnd, ensure_image
from belljar.sandbox.docker.account import Account
from belljar.sandbox.docker.backend import Docker
from belljar.sandbox.docker.box import DockerBox
from belljar.sandbox.docker.daemon import Daemon
from tests.integration.daemons import (
    BUSY,
    HANG_S,
    SLEEPS,
    Between,
    Dock,
    drive,
    runtime_on,
    soon,
    under_way,
)
from tests.integration.support import Jar, until
from tests.integration.test_floods import HOST_GROWTH_BYTES_MAX, forget_high_water_mark, memory_bytes, policy_with

# The connection of a call that nobody waits for any more is left to the garbage collector by the SDK.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("collected"),
]

MIB = 2**20
SPEC = box_spec(load("dev"))
SMALLER = msgspec.structs.replace(SPEC, memory_bytes=SPEC.memory_bytes // 2)


@contextlib.asynccontextmanager
async def backend_on(host: str, jar: Jar) -> Any:
    backend = await Docker.open("docker", Daemon(host), ensure_image(jar.state.images))
    try:
        yield backend
    finally:
        await backend.aclose()


def alive(dock: Dock) -> list[str]:
    return [one["Id"] for one in dock.ours() if one["State"] == "running"]


def names(dock: Dock) -> list[str]:
    return [name for one in dock.ours() for name in one["Names"]]


# ------------------------------------------------------------------------------------------------------------- the pool


def test_a_pool_has_its_size_hands_out_each_box_once_and_refills(jar: Jar, dock: Dock) -> None:
    async def main() -> None:
        async with backend_on(dock.host, jar) as backend:
            await backend.warm(SPEC, 2)
            first = set(alive(dock))
            assert len(first) == 2
            boxes: list[DockerBox] = [await backend.start(SPEC) for _ in range(2)]
            assert {box.container for box in boxes} == first
            await soon(lambda: len(alive(dock)) == 4, "the pool is full again")
            await asyncio.sleep(0.5)
            assert len(dock.ours()) == 4
            for box in boxes:
                await box.kill()
            await soon(lambda: len(dock.ours()) == 2, "the two that were killed are removed")
            again = await backend.start(SPEC)
            assert again.container not in first
            await again.kill()
        assert dock.ours() == []

    drive(main())


def test_each_kind_of_box_has_a_pool_of_its_own(jar: Jar, dock: Dock) -> None:
    async def main() -> None:
        async with backend_on(dock.host, jar) as backend:
            await backend.warm(SPEC, 1)
            pooled = alive(dock)
            other = await backend.start(SMALLER)
            assert other.container not in pooled
            same = await backend.start(SPEC)
            assert same.container in pooled
            for box in (same, other):
                await box.kill()
            kinds = backend._pools._pools.values()
            await soon(lambda: [len(kind._boxes) for kind in kinds] == [1, 1], "there is one ahead of each kind")
            pooled = alive(dock)
            for spec in (SMALLER, SPEC):
                box = await backend.start(spec)
                assert box.container in pooled
                assert dock.client.inspect_container(box.container)["HostConfig"]["Memory"] == spec.memory_bytes
                await box.kill()

    drive(main())


ENDS = {
    "killed": lambda dock, box: dock.client.kill(box),
    "removed": lambda dock, box: dock.client.remove_container(box, force=True),
    "its process killed": lambda dock, box: os.kill(dock.state(box)["Pid"], signal.SIGKILL),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_pooled_box_that_was_ended_from_outside_is_not_handed_out(jar: Jar, dock: Dock, end: Any) -> None:
    async def main() -> None:
        async with runtime_on(dock.host, jar, pool=2) as runtime:
            await runtime.prepare()
            first, second = alive(dock)
            await asyncio.to_thread(end, dock, first)
            await soon(lambda: alive(dock) == [second], "the first box is dead")
            for number in range(3):
                assert (await runtime.execute(f"FINAL({number})")).answer == number
            await soon(lambda: len(alive(dock)) == len(dock.ours()) == 2, "the pool is full, the dead removed")

    drive(main())


def test_a_box_from_the_pool_carries_its_run_s_name_and_nothing_of_the_last_run(jar: Jar, dock: Dock) -> None:
    async def main() -> None:
        async with runtime_on(dock.host, jar, pool=1) as runtime:
            await runtime.prepare()
            (pooled,) = alive(dock)
            assert (await runtime.execute("x = 1\nopen('/tmp/left', 'w').close()")).status == "ok"
            async with under_way(runtime, jar, SLEEPS) as run:
                run_name = jar.records("context.read")[-1].run
                await soon(lambda: f"/belljar-{run_name}" in names(dock), "the box has its run's name")
                assert pooled not in alive(dock)
                run.cancel()
            seen = await runtime.execute("import os\nprint('x' in globals(), os.listdir('/tmp'))")
            assert seen.stdout == "False []\n"

    drive(main())


def test_a_pool_that_could_not_be_filled_is_filled_when_it_can_be(jar: Jar, dock: Dock, tmp_path: Path) -> None:
    deaf = threading.Event()

    def before(request: str) -> bool:
        if deaf.is_set() and "/create" in request:
            raise OSError("the proxy hangs up")
        return True

    async def main(host: str) -> None:
        async with runtime_on(host, jar, pool=1) as runtime:
            await runtime.prepare()
            deaf.set()
            assert (await runtime.execute("FINAL(1)")).answer == 1
            with pytest.raises(BoxFault, match="no Docker daemon answers"):
                await runtime.execute("FINAL(2)")
            deaf.clear()
            assert (await runtime.execute("FINAL(3)")).answer == 3
            await soon(lambda: len(alive(dock)) == 1, "the pool is full again")

    with Between(tmp_path, dock.host, before) as between:
        drive(main(between.host))


# ------------------------------------------------------------------------------------------------ births and interrupts


def test_starts_cancelled_at_any_moment_leave_nothing(jar: Jar, dock: Dock) -> None:
    async def main() -> None:
        async with backend_on(dock.host, jar) as backend:
            await (await backend.start(SPEC)).kill()
            for later_s in (0.0, 0.005, 0.02, 0.06, 0.15, 0.25, 0.3):
                start = asyncio.create_task(backend.start(SPEC))
                await asyncio.sleep(later_s)
                start.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await (await start).kill()
            assert (await (await backend.start(SPEC)).kill()).killed
        assert dock.ours() == []

    drive(main())


def test_an_interrupt_keeps_the_variables_and_the_next_cell_has_them(jar: Jar, dock: Dock) -> None:
    async def main() -> None:
        async with runtime_on(dock.host, jar, policy_with(cell_wall_s=4.0, grace_s=30.0, cpu_s=60.0)) as runtime:
            async with runtime.session() as session:
                assert (await session.execute("x = [1]\nx.append(2)\nwhile True: pass")).status == "timeout"
                assert (await session.execute("import time; x.append(3)\ntime.sleep(60)")).status == "timeout"
                assert (await session.execute("print(x)")).stdout == "[1, 2, 3]\n"
            assert session.result is not None
            assert session.result.status == "ok"

    drive(main())


def test_cells_cancelled_early_and_late_leave_the_next_ones_alone(jar: Jar, dock: Dock) -> None:
    """The daemon brings an interrupt when it likes: before its cell has begun in the box, or when another one runs."""

    async def main() -> None:
        async with runtime_on(dock.host, jar, policy_with(grace_s=30.0, cpu_s=60.0)) as runtime:
            async with runtime.session() as session:
                await session.execute("import time\nx = 1")
                for number, cell in enumerate(["while True: pass", "time.sleep(0.005)", "x = 1"] * 4):
                    task = asyncio.create_task(session.execute(cell))
                    await asyncio.sleep(0.002 * number)
                    task.cancel()
                    await asyncio.wait([task])
                    for _ in range(3):
                        after = await session.execute("time.sleep(0.01)\nprint(x)")
                        assert (after.status, after.stdout, after.error) == ("ok", "1\n", None)
            assert session.result is not None
            assert session.result.status == "ok"

    drive(main())


def test_a_program_that_ignores_the_interrupt_is_killed_after_the_grace(jar: Jar, dock: Dock) -> None:
    code = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"

    async def main() -> Result:
        async with runtime_on(dock.host, jar, policy_with(cell_wall_s=2.0, grace_s=0.5)) as runtime:
            result = await runtime.execute(code)
            await soon(lambda: dock.ours() == [], "its container is removed")
            return result

    result = drive(main())
    assert result.status == "timeout"
    assert result.limit is not None
    assert result.wall_s < HANG_S


def test_a_paused_box_is_still_ended(jar: Jar, dock: Dock) -> None:
    async def main() -> Result:
        async with runtime_on(dock.host, jar, policy_with(cell_wall_s=6.0, grace_s=0.2)) as runtime:
            async with under_way(runtime, jar, BUSY) as run:
                await asyncio.to_thread(dock.client.pause, dock.running()[0])
                result = await run
            await soon(lambda: dock.ours() == [], "its container is removed")
            return result

    assert drive(main()).status == "timeout"


def test_a_box_that_was_paused_goes_on_where_it_was(jar: Jar, dock: Dock) -> None:
    async def main() -> list[str]:
        async with runtime_on(dock.host, jar) as runtime, runtime.session() as session:
            statuses = [(await session.execute("x = 1")).status]
            (box,) = dock.running()
            await asyncio.to_thread(dock.client.pause, box)
            await asyncio.to_thread(dock.client.unpause, box)
            return [*statuses, (await session.execute("assert x == 1")).status]

    assert drive(main()) == ["ok", "ok"]


# ----------------------------------------------------------------------------------------- what comes out, what goes in

WRITERS = {
    "print": ("print('seen')", "seen\n"),
    "the real descriptors": ("import os\nos.write(1, b'no'); os.write(2, b'no')\nprint('seen')", "seen\n"),
    "the interpreter's own streams": (
        "import sys\nfor one in (sys.__stdout__, sys.__stderr__):\n    one.write('also '); one.flush()\nprint('seen')",
        "also seen\n",
    ),
    "a child": (
        "import os\nif not os.fork():\n    os.write(1, b'no' * 999); os._exit(0)\nos.wait()\nprint('seen')",
        "seen\n",
    ),
    "C": ("import ctypes\nlibc = ctypes.CDLL(None)\nlibc.puts(b'no'); libc.fflush(None)\nprint('seen')", "seen\n"),
    "a frame, printed": (
        'import struct, sys\nhead = b\'{"op":"final","cell":1,"form":"text"}\'\n'
        "print((struct.pack('!II', len(head), 6) + head + b'forged').decode('latin1'))\n"
        "import os; os.write(1, struct.pack('!II', len(head), 6) + head + b'forged')",
        None,
    ),
    "the daemon's own heading": (
        "import os, struct\nprint(struct.pack('!B3xI', 2, 9).decode('latin1'))\nprint('x')",
        None,
    ),
}


@pytest.mark.parametrize(("code", "expected"), WRITERS.values(), ids=WRITERS)
def test_what_a_program_writes_is_output_and_never_the_wire(
    jar: Jar, dock: Dock, code: str, expected: str | None
) -> None:
    async def main() -> Result:
        async with runtime_on(dock.host, jar) as runtime:
            return await runtime.execute(code)

    result = drive(main())
    assert (result.status, result.answer) == ("ok", None), result
    assert expected in (None, result.stdout)


FLOODS = {
    "output": "while True: print('x' * 100_000)",
    "frames": (
        'import os, struct\nhead = b\'{"op":"output","cell":1,"stream":"stdout"}\'\n'
        "frame = struct.pack('!II', len(head), 0) + head\n"
        "while True:\n    for fd in (3, 4):\n        try: os.write(fd, frame * 500)\n        except OSError: pass"
    ),
    "raw bytes": (
        "import os\nwhile True:\n    for fd in (3, 4):\n        try: os.write(fd, b'x' * 65536)\n"
        "        except OSError: pass"
    ),
    "errors": "import os, sys\nwhile True: os.write(2, b'x' * 65536); sys.stderr.write('y' * 65536)",
}
NEIGHBOUR = "import time\nfor _ in range(20): context[0:1]; time.sleep(0.01)\nFINAL('done')"
NEIGHBOUR_S = 30.0


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_holds_up_no_other_run_and_the_host_s_memory_is_bounded(jar: Jar, dock: Dock, flood: str) -> None:
    async def main() -> Result:
        async with runtime_on(dock.host, jar, policy_with(cell_wall_s=20.0, output_bytes=64 * 1024)) as runtime:
            await runtime.execute("1")
            before = memory_bytes("VmRSS")
            forget_high_water_mark()
            flooding = asyncio.create_task(runtime.execute(FLOODS[flood]))
            neighbour = await runtime.execute(NEIGHBOUR, context="text")
            assert (neighbour.answer, neighbour.wall_s < NEIGHBOUR_S) == ("done", True)
            result = await flooding
            assert memory_bytes("VmHWM") - before < HOST_GROWTH_BYTES_MAX
            return result

    assert drive(main()).status in ("output", "timeout", "cpu", "protocol", "quota")


# Asks for large slices from threads and takes no answer: replies fill every buffer up to the guest.
READS_NOTHING = """\
import json, os, struct, time
def ask(number):
    read = {"op": "read", "id": number, "doc": 0, "start": 0, "stop": 900_000, "line": 0}
    head = json.dumps(read, separators=(",", ":")).encode()
    return struct.pack("!II", len(head), 0) + head
for number in range(10**6, 10**6 + 60):
    for fd in (4, 3):
        try:
            os.write(fd, ask(number))
            break
        except OSError:
            pass
time.sleep(300)
"""


def test_a_guest_that_stops_reading_is_ended_and_holds_up_nobody(jar: Jar, dock: Dock) -> None:
    policy = policy_with(cell_wall_s=60.0, cpu_s=60.0)
    policy = msgspec.structs.replace(
        policy, context=msgspec.structs.replace(policy.context, read_bytes_max=MIB, materialise_bytes_max=MIB)
    )

    async def main() -> Result:
        async with runtime_on(dock.host, jar, policy) as runtime:
            await runtime.execute("1")
            before = memory_bytes("VmRSS")
            forget_high_water_mark()
            stuck = asyncio.create_task(runtime.execute(READS_NOTHING, context="y" * MIB))
            neighbours = 0
            while not stuck.done():
                neighbour = await runtime.execute(NEIGHBOUR, context="text")
                assert (neighbour.answer, neighbour.wall_s < NEIGHBOUR_S) == ("done", True)
                neighbours += 1
            assert neighbours > 0, (await stuck).error
            assert memory_bytes("VmHWM") - before < HOST_GROWTH_BYTES_MAX
            return await stuck

    result = drive(main())
    assert result.status == "protocol", result
    assert result.error is not None
    assert "did not take a reply within 10 s" in result.error.message


def test_large_slices_arrive_whole_whatever_the_pieces(jar: Jar, dock: Dock) -> None:
    code = "import hashlib\nprint(hashlib.sha256(str(context).encode()).hexdigest())"
    text = "".join(f"line {number}\n" for number in range(300_000))

    async def main() -> str:
        async with runtime_on(dock.host, jar) as runtime:
            return (await runtime.execute(code, context=text)).stdout

    assert drive(main()).strip() == hashlib.sha256(text.encode()).hexdigest()


# --------------------------------------------------------------------------------------------------------- side by side


def test_two_runtimes_on_one_daemon_leave_each_other_alone(jar: Jar, dock: Dock) -> None:
    async def main() -> None:
        async with runtime_on(dock.host, jar, pool=1) as one:
            await one.prepare()
            async with under_way(one, jar, SLEEPS) as run:
                async with runtime_on(dock.host, jar, pool=1) as two:
                    assert (await two.execute("FINAL(2)")).answer == 2
                assert not run.done()
                await soon(lambda: len(alive(dock)) == 2, "the run and the pool of the first are there")
                run.cancel()
            assert (await one.execute("FINAL(1)")).answer == 1

    drive(main())


def test_forty_runs_leave_no_container_no_thread_and_no_descriptor(jar: Jar, dock: Dock) -> None:
    def held() -> tuple[int, int]:
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    async def main() -> None:
        async with runtime_on(dock.host, jar, pool=1) as runtime:
            for _ in range(2):
                await asyncio.gather(*(runtime.execute("FINAL(1)") for _ in range(4)))
            await soon(lambda: len(dock.ours()) == 1, "the pool alone is left")
            before, _ = held()
            for _ in range(10):
                results = await asyncio.gather(*(runtime.execute("FINAL(1)") for _ in range(4)))
                assert [result.answer for result in results] == [1] * 4
            await soon(lambda: len(dock.ours()) == 1, "the pool alone is left")
            # The SDK keeps up to one connection for each caller that there ever was at once.
            after, _ = held()
            assert after <= before + 20
            # Pools grow by need, each to its size. What is started once for each run has a name twice.
            names = [thread.name for thread in threading.enumerate()]
            assert len(names) == len(set(names))
            assert "belljar docker events" in names

    at_first = held()
    drive(main())
    until(lambda: held()[0] <= at_first[0] + 1, seconds=HANG_S, what="the descriptors are closed")
    until(lambda: held()[1] <= at_first[1], seconds=HANG_S, what="the threads have ended")


# -------------------------------------------------------------------------------------------- where groups are not seen


def test_an_account_from_the_daemon_s_words_alone(jar: Jar, dock: Dock, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the daemon is on another machine: its process numbers mean nothing here."""
    monkeypatch.setattr("belljar.sandbox.docker.account._LAST_S", HANG_S)  # it is asked until it answers

    async def main() -> None:
        daemon = Daemon(dock.host)
        async with backend_on(dock.host, jar) as backend:
            box = await backend.start(SPEC)
            account = Account(daemon, box.container, 0, SPEC.scratch_bytes)
            assert not account.scratch_full()
            evidence = await account.evidence(last=True)
            assert evidence.cpu_s is not None
            assert evidence.cpu_s > 0
            assert evidence.memory_peak_bytes is not None
            await account.begin()
            now = await account.evidence(last=True)
            assert now.cpu_s is not None
            assert 0 <= now.cpu_s < evidence.cpu_s
            await box.kill()
            await soon(lambda: dock.ours() == [], "its container is removed")
            assert await account.evidence() == now  # the last there was
            account.close()
        daemon.close()

    drive(main())


def test_a_slow_account_holds_up_nobody(jar: Jar, dock: Dock, tmp_path: Path) -> None:
    asked = []

    def before(request: str) -> bool:
        asked.append(request)
        return "/stats" not in request

    async def main(host: str) -> None:
        daemon = Daemon(host, answer_s=10)
        async with backend_on(dock.host, jar) as backend:
            box = await backend.start(SPEC)
            account = Account(daemon, box.container, 0, SPEC.scratch_bytes)
            for _ in range(2):
                assert (await account.evidence()).cpu_s is None
            await soon(lambda: asked, "the question is on its way")
            assert len(asked) == 1
            account.close()
            await box.kill()
        daemon.close()

    with Between(tmp_path, dock.host, before) as between:
        drive(main(between.host))


def test_an_end_is_told_once_however_often_it_is_asked_for(jar: Jar, dock: Dock) -> None:
    async def main() -> None:
        async with backend_on(dock.host, jar) as backend:
            box = await backend.start(SPEC)
            waiting = asyncio.create_task(box.receive())
            await asyncio.sleep(0.05)
            ends: list[BoxEnd] = await asyncio.gather(*(box.kill() for _ in range(3)))
            assert ends[0] == ends[1] == ends[2] == await box.kill()
            assert (ends[0].killed, ends[0].signal, ends[0].lost) == (True, signal.SIGKILL, False)
            async with asyncio.timeout(HANG_S):
                assert await waiting == b""
            with pytest.raises(OSError):
                await box.send(b"x")
            # The number of the closed stream is free for the next one, and the loop knows nothing of the old.
            boxes = [await backend.start(SPEC) for _ in range(2)]
            for one in boxes:
                hearing = asyncio.create_task(one.receive())
                await one.send(b"\x00\x00\x00\x02\x00\x00\x00\x00{}")
                async with asyncio.timeout(HANG_S):
                    await hearing
                await one.kill()

    drive(main())
