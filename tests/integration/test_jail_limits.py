"""What a program in the box can reach, and how each limit ends it. The body of a test is what the program tries."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from belljar import Runtime
from belljar.engine import CellResult, Result
from tests.integration.ordinary import ordinary_jar
from tests.integration.support import PATIENCE_S, Jar, Outcome

# All that `standard` gives: a box on a busy machine may need it to say that it was interrupted.
GRACE_S = 2.0


def small(jar: Jar, limits: str = "") -> Path:
    return jar.policy(f'[limits]\ngrace = "{round(GRACE_S * 1000)} ms"\n{limits}')


def run(jar: Jar, code: str, limits: str = "") -> tuple[Outcome, dict[str, Any]]:
    outcome = jar.exec(code, "--language", "python", "--json", "--policy", small(jar, limits))
    return outcome, outcome.result


def seen(jar: Jar, code: str, limits: str = "") -> Any:
    """What a program that ends well gives as its answer."""
    outcome, result = run(jar, code, limits)
    assert (outcome.code, result["status"]) == (0, "ok"), result["error"]
    return result["answer"]


# ------------------------------------------------------------------------------------------------------------- the wall

PATHS = ["/proc/self", "/proc/1", "/sys/kernel", "/etc/passwd", "/etc/hostname", "/bin/sh", "/usr/bin/env", "/root"]


def test_it_sees_no_file_of_the_host(jar: Jar) -> None:
    canary = jar.file("canary.txt", "secret")
    paths = [*PATHS, str(canary), str(canary.parent), str(jar.journal), "/usr/lib/python3/dist-packages"]
    found = seen(jar, f"import os\nFINAL([path for path in {paths!r} if os.path.lexists(path)])")
    assert found == []


def test_the_root_folder_holds_what_the_image_holds(jar: Jar) -> None:
    assert seen(jar, "import os\nFINAL(sorted(os.listdir('/')))") == ["dev", "lib", "lib64", "tmp", "usr"]


def test_going_up_leads_nowhere(jar: Jar) -> None:
    code = "import os\nFINAL([sorted(os.listdir('../' * depth)) for depth in (1, 2, 20)])"
    assert seen(jar, code) == [["dev", "lib", "lib64", "tmp", "usr"]] * 3


def test_it_can_write_nowhere_but_in_its_scratch(jar: Jar) -> None:
    code = """\
import os
written = []
for folder, folders, files in os.walk("/"):
    try:
        with open(os.path.join(folder, "new"), "w") as file:
            file.write("x")
        written.append(folder)
    except OSError:
        pass
    for name in files[:3]:
        if folder != "/tmp" and not folder.startswith("/dev"):
            try:
                open(os.path.join(folder, name), "r+b").close()
                written.append(os.path.join(folder, name))
            except OSError:
                pass
FINAL(written)
"""
    assert seen(jar, code) == ["/tmp"]


def test_it_finds_no_network(jar: Jar) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        code = f"""\
import socket
failed = []
for host in ("127.0.0.1", "localhost", "::1", "10.0.0.1", "192.0.2.1"):
    try:
        socket.create_connection((host, {port}), 1).close()
    except OSError as error:
        failed.append(host)
FINAL(failed)
"""
        assert seen(jar, code) == ["127.0.0.1", "localhost", "::1", "10.0.0.1", "192.0.2.1"]
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_it_has_no_environment_but_its_own(jar: Jar) -> None:
    # CPython itself sets this one when the C locale is coerced.
    assert set(seen(jar, "import os\nFINAL(sorted(os.environ))")) == set()


def test_it_is_nobody_in_a_pid_namespace_of_its_own(jar: Jar) -> None:
    code = """\
import os, socket
FINAL([os.getuid(), os.geteuid(), os.getgid(), os.getegid(), os.getpid(), os.getppid(), socket.gethostname()])
"""
    uid, euid, gid, egid, pid, parent, name = seen(jar, code)
    assert (uid, euid, gid, egid) == (65534, 65534, 65534, 65534)
    assert (pid, name) == (1, "belljar")
    assert parent in (0, -1)  # none, or not to be asked for


def test_it_cannot_become_root_or_mount(jar: Jar) -> None:
    code = """\
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
tried = {"setuid": lambda: libc.setuid(0), "setgid": lambda: libc.setgid(0), "chroot": lambda: libc.chroot(b"/tmp"),
         "mount": lambda: libc.mount(b"x", b"/tmp", b"tmpfs", 0, None), "unshare": lambda: libc.unshare(0x20000),
         "sethostname": lambda: libc.sethostname(b"x", 1)}
FINAL([name for name, action in tried.items() if action() == 0])
"""
    assert seen(jar, code) == []


def test_it_holds_no_descriptor_but_null_and_the_wire(jar: Jar) -> None:
    code = """\
import os, stat
found = {}
for number in range(1024):
    try:
        about = os.fstat(number)
    except OSError:
        continue
    if stat.S_ISSOCK(about.st_mode):
        found[number] = "socket"
    elif stat.S_ISCHR(about.st_mode):
        found[number] = [os.major(about.st_rdev), os.minor(about.st_rdev)]
    else:
        found[number] = "other"
FINAL(found)
"""
    null = [1, 3]
    assert seen(jar, code, "open_files = 64") == {"0": null, "1": null, "2": null, "3": "socket"}


def test_what_it_writes_to_its_descriptors_goes_nowhere(jar: Jar) -> None:
    outcome, result = run(jar, "import os\nos.write(1, b'raw')\nos.write(2, b'raw')\nprint('printed')")
    assert (result["status"], result["stdout"], outcome.stderr) == ("ok", "printed\n", "")


def test_two_boxes_share_no_scratch(jar: Jar) -> None:
    code = "import os\nbefore = os.listdir('/tmp')\nopen('/tmp/left', 'w').close()\nFINAL(before)"
    assert [seen(jar, code), seen(jar, code)] == [[], []]


def test_it_cannot_signal_its_way_out(jar: Jar) -> None:
    """Killing everything it can see ends the box at most, and that is an error of the program."""
    outcome, result = run(jar, "import os, signal\nos.kill(-1, signal.SIGKILL)\nprint('alone')")
    assert (outcome.code, result["status"], result["stdout"]) in [(0, "ok", "alone\n"), (6, "error", "")]


# --------------------------------------------------------------------------------------------------------- limits: time


def test_an_endless_sleep_ends_at_the_wall_limit(jar: Jar) -> None:
    outcome, result = run(jar, "import time\nprint('before', flush=True)\ntime.sleep(300)", 'cell_wall = "3 s"')
    assert (outcome.code, result["status"], result["stdout"]) == (6, "timeout", "before\n")
    assert (result["limit"]["code"], result["limit"]["limit"]) == ("limits.cell_wall", 3000)
    assert result["limit"]["observed"] >= 3000
    assert "time.sleep(300)" in result["error"]["traceback"]
    assert outcome.complaint.startswith("belljar: the program: timeout: ")


SWALLOWS = """\
import time
while True:
    try:
        time.sleep(300)
    except BaseException:
        pass
"""
IGNORES = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True:\n    time.sleep(300)"
ONE_LONG_STEP = "sum(range(10**12))"


@pytest.mark.parametrize("code", [SWALLOWS, IGNORES, ONE_LONG_STEP], ids=["swallows", "ignores", "one-long-step"])
def test_a_program_that_does_not_stop_is_killed_after_the_grace(jar: Jar, code: str) -> None:
    outcome, result = run(jar, code, 'cell_wall = "2 s"')
    assert (outcome.code, result["status"]) == (6, "timeout")
    assert 2000 + 1000 * GRACE_S <= result["limit"]["observed"] < 1000 * PATIENCE_S


def test_an_endless_loop_ends_at_the_cpu_limit(jar: Jar) -> None:
    outcome, result = run(jar, "while True:\n    pass", 'cpu = "1 s"')
    assert (outcome.code, result["status"]) == (6, "cpu"), result["error"]
    limit = result["limit"]
    assert (limit["code"], limit["limit"]) == ("limits.cpu", 1000)
    # What it may use between two looks depends on how busy the machine is.
    assert 900 <= limit["observed"] < 20_000
    assert 0.9 <= result["cpu_s"] < 20


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["while True:\n    pass", "sum(range(10**13))"])
def test_what_a_program_printed_before_its_box_was_killed_is_there(jar: Jar, loop: str) -> None:
    _, result = run(jar, f"print('first')\nprint('second')\n{loop}", 'cpu = "1 s"')
    assert (result["status"], result["stdout"]) == ("cpu", "first\nsecond\n")


def test_sleeping_costs_no_cpu_time(jar: Jar) -> None:
    _, result = run(jar, "import time\ntime.sleep(1.2)", 'cpu = "1 s"')
    assert result["status"] == "ok"
    assert result["cpu_s"] < 1


async def _cells(jar: Jar, limits: str, *codes: str) -> tuple[list[CellResult], Result]:
    async with Runtime(str(small(jar, limits)), state=jar.at, language="python", environ={}) as runtime:
        async with runtime.session() as session:
            cells = [await session.execute(code) for code in codes]
        assert session.result is not None
        return cells, session.result


def test_variables_outlive_a_cell_that_was_interrupted(jar: Jar) -> None:
    slow = "y = 1\nimport time\nfor i in range(10**9):\n    time.sleep(0.01)"
    cells, result = asyncio.run(_cells(jar, 'cell_wall = "3 s"', "x = 41", slow, "print(x + y, i > 5)"))
    assert [cell.status for cell in cells] == ["ok", "timeout", "ok"]
    assert cells[2].stdout == "42 True\n"
    assert cells[1].error is not None
    assert "KeyboardInterrupt" in cells[1].error.traceback
    assert result.status == "ok"


def test_an_interrupt_between_reads_leaves_the_wire_in_step(jar: Jar) -> None:
    """The interrupt meets a program that does nothing but read; what is read afterwards is right all the same."""
    text = "".join(f"{number:07d}\n" for number in range(50_000))

    async def go() -> list[str]:
        policy = str(small(jar, 'cell_wall = "3 s"'))
        async with (
            Runtime(policy, state=jar.at, language="python", environ={}) as runtime,
            runtime.session(context=text) as session,
        ):
            statuses: list[str] = []
            for _ in range(3):
                cell = await session.execute("n = 0\nwhile True:\n    n += len(context[n % 300000 : n % 300000 + 8])")
                check = await session.execute(
                    "assert context[80:88] == '0000010\\n'\nassert context[-8:] == '0049999\\n'"
                )
                statuses += [cell.status, check.status]
            return statuses

    assert asyncio.run(go()) == ["timeout", "ok"] * 3


def test_the_run_has_a_wall_limit_over_all_its_cells(jar: Jar) -> None:
    async def go() -> tuple[list[str], Result]:
        policy = str(small(jar, 'run_wall = "8 s"\ncell_wall = "7 s"\n[models]\ncall_wall = "8 s"'))
        async with Runtime(policy, state=jar.at, language="python", environ={}) as runtime:
            async with runtime.session() as session:
                statuses: list[str] = [(await session.execute("import time\ntime.sleep(1.5)")).status]
                statuses.append((await session.execute("time.sleep(60)")).status)
            assert session.result is not None
            return statuses, session.result

    statuses, result = asyncio.run(go())
    assert (statuses, result.status) == (["ok", "timeout"], "timeout")
    assert result.limit is not None
    assert (result.limit.code, result.limit.limit) == ("limits.run_wall", 8000)


# ------------------------------------------------------------------------------------------------------- limits: output


def test_long_output_is_cut_and_counted(jar: Jar) -> None:
    outcome, result = run(jar, "print('x' * 4000 + 'y' * 1000)\nFINAL('done')", 'output = "1 KiB"')
    assert (outcome.code, result["status"], result["answer"]) == (0, "ok", "done")
    kept = "x" * 896 + "\n[... bytes not kept: 3,977 ...]\n" + "y" * 127 + "\n"
    assert (result["truncated"], result["stdout"]) == (True, kept)


def test_output_and_errors_share_the_limit(jar: Jar) -> None:
    _, result = run(jar, "import sys\nprint('x' * 1000)\nprint('y' * 1000, file=sys.stderr)", 'output = "1 KiB"')
    assert result["truncated"] is True
    assert (result["stdout"], result["stderr"]) == (
        "x" * 873 + "\n[... bytes not kept: 128 ...]\n",
        "y" * 23 + "\n[... bytes not kept: 850 ...]\n" + "y" * 127 + "\n",
    )


def test_a_flood_ends_the_box(jar: Jar) -> None:
    outcome, result = run(jar, "while True:\n    print('x' * 4000)", 'output = "1 KiB"\noutput_flood = "1 MiB"')
    assert (outcome.code, result["status"]) == (6, "output")
    assert (result["limit"]["code"], result["limit"]["limit"]) == ("limits.output_flood", 2**20)
    assert result["stdout"].startswith("x" * 896 + "\n[... bytes not kept: ")
    assert len(result["stdout"]) < 1024 + 100


def test_an_answer_that_is_too_long_is_no_answer(jar: Jar) -> None:
    outcome, result = run(jar, "FINAL('x' * 5000)", 'answer = "1 KiB"')
    assert (outcome.code, result["status"], result["answer"]) == (6, "output", None)
    assert result["limit"] == {"code": "limits.answer", "limit": 1024, "observed": 5000, "unit": "bytes"}


def test_bytes_that_are_no_sentence_end_the_box(jar: Jar) -> None:
    outcome, result = run(jar, "import os, time\nos.write(3, b'junk' * 100)\ntime.sleep(60)")
    assert (outcome.code, result["status"]) == (6, "protocol")
    assert "junk" not in outcome.stderr


def test_hanging_up_ends_the_box(jar: Jar) -> None:
    outcome, result = run(jar, "import os, time\nos.close(3)\ntime.sleep(300)")
    assert (outcome.code, result["status"]) == (6, "error")
    assert result["wall_s"] < PATIENCE_S


def test_an_exit_code_is_not_believed(jar: Jar) -> None:
    outcome, result = run(jar, "import os\nos._exit(0)")
    assert (outcome.code, result["status"], result["error"]["type"]) == (6, "error", "GuestDied")


def test_the_type_of_an_error_does_not_steer_the_terminal(jar: Jar) -> None:
    outcome = jar.exec("raise type('\\x1b[2J', (Exception,), {})('x')", "--language", "python")
    assert outcome.code == 6
    assert "\x1b" not in outcome.stderr


# ---------------------------------------------------------------------------------------------------- limits: resources


@pytest.fixture(params=["as it is", "as an ordinary user"])
def anybody(request: pytest.FixtureRequest, tmp_path: Path, images: Path) -> Iterator[Jar]:
    """Whoever runs it: with control groups, if there are any, and without."""
    if request.param == "as it is":
        yield request.getfixturevalue("jar")
    else:
        yield from ordinary_jar(tmp_path, images)


# Forks up to twenty processes that only wait, so that a limit that does not hold does no harm.
GENTLE = """\
import os, time
made = 0
for _ in range(20):
    try:
        if os.fork() == 0:
            time.sleep(300)
            os._exit(0)
    except OSError:
        break
    made += 1
FINAL(made)
"""
BOMB = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"


def test_processes_are_limited_and_a_fork_bomb_dies_with_the_box(anybody: Jar) -> None:
    assert 2 <= seen(anybody, GENTLE, "processes = 8") < 8
    outcome, result = run(anybody, BOMB, 'processes = 8\ncell_wall = "3 s"\ncpu = "2 s"')
    assert outcome.code == 6
    assert result["status"] in ("timeout", "cpu", "processes")
    assert result["wall_s"] < PATIENCE_S


def test_threads_are_limited(anybody: Jar) -> None:
    code = """\
import threading
gate, made = threading.Event(), 0
try:
    for _ in range(30):
        threading.Thread(target=gate.wait, daemon=True).start()
        made += 1
except RuntimeError:
    pass
gate.set()
FINAL(made)
"""
    assert 2 <= seen(anybody, code, "processes = 8") < 8


@pytest.mark.parametrize("what", ["bytes", "files"])
def test_the_scratch_is_limited(anybody: Jar, what: str) -> None:
    code = f"""\
import errno, os
made, why = 0, None
try:
    for number in range(1000):
        with open(f"/tmp/{{number}}", "wb", buffering=0) as file:
            if {what!r} == "bytes":
                file.write(bytes(10_000))
        made += 1
except OSError as error:
    why = errno.errorcode[error.errno]
FINAL([made, why])
"""
    made, why = seen(anybody, code, 'scratch = "128 KiB"\nscratch_files = 20')
    assert why == "ENOSPC"
    assert 5 <= made < 20


# What fills memory in small steps and in large ones, touched or not, in Python's own objects and in one block.
GREEDY = {
    "texts": "kept = []\nwhile True:\n    kept.append('y' * 1_000_000)",
    "zeros": "kept = []\nwhile True:\n    kept.append(b'\\0' * 100_000)",
    "numbers": "kept = {}\nwhile True:\n    kept[len(kept)] = str(len(kept))",
    "empty dicts": "kept = []\nwhile True:\n    kept.append({})",
    "empty dicts of a function": "def fill():\n    kept = []\n    while True:\n        kept.append({})\nfill()",
    "doubling": "kept = 'y'\nwhile True:\n    kept += kept",
}


@pytest.mark.parametrize(
    ("kind", "language", "memory_mib"),
    [
        *((kind, "python", 64) for kind in GREEDY),
        ("texts", "restricted", 64),
        ("texts", "restricted", 200),
        ("empty dicts", "restricted", 200),
        ("numbers", "python", 100),
    ],
)
def test_memory_is_limited_from_the_least_that_a_policy_may_say(
    anybody: Jar, kind: str, language: str, memory_mib: int
) -> None:
    policy = small(anybody, f'memory = "{memory_mib} MiB"\nscratch = "16 MiB"')
    outcome = anybody.exec(GREEDY[kind], "--language", language, "--json", "--policy", policy)
    result = outcome.result
    assert (outcome.code, result["status"]) == (6, "memory"), result["error"]
    limit = result["limit"]
    assert (limit["code"], limit["limit"]) == ("limits.memory", memory_mib * 2**20)
    # Small steps come near; what doubles asks for as much again as it has.
    least = 3 / 4 if kind in ("texts", "zeros") else 1 / 2
    assert limit["limit"] * least <= limit["observed"] <= limit["limit"] * 1.25
    assert result["max_rss_bytes"] <= limit["limit"] * 1.25


def test_what_was_used_is_the_whole_boxs(anybody: Jar) -> None:
    code = """\
import os
children = []
ready, full = os.pipe()
for _ in range(4):
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(there)
        kept = b"x" * (40 << 20)
        os.write(full, b"x")
        os.read(here, 1)
        os._exit(0)
    children.append((child, here, there))
for _ in range(4):
    os.read(ready, 1)
import time
time.sleep(2)
for child, here, there in children:
    os.close(here)
    os.close(there)
FINAL([os.waitpid(child, 0)[1] for child, here, there in children])
"""
    _, result = run(anybody, code, 'memory = "400 MiB"')
    assert (result["status"], result["answer"]) == ("ok", [0] * 4), result["error"]
    assert 160 * 2**20 < result["max_rss_bytes"] < 260 * 2**20


def test_a_child_that_is_killed_for_memory_is_the_limits_doing(jar: Jar) -> None:
    """Whatever the program makes of it; without control groups the whole box ends."""
    code = """\
import os
def fill():
    kept = []
    while True:
        kept.append("y" * 1_000_000)
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        try:
            fill()
        except MemoryError:
            import time
            time.sleep(2)
            os._exit(0)
    children.append(child)
if any(os.waitpid(child, 0)[1] for child in children):
    raise ValueError("a worker is gone")
"""
    _, result = run(jar, code, 'memory = "96 MiB"')
    assert result["status"] == "memory", result["error"]
    assert result["limit"]["observed"] >= 80 * 2**20


def test_one_huge_allocation_is_a_memory_error_and_the_session_goes_on(jar: Jar) -> None:
    cells, result = asyncio.run(_cells(jar, 'memory = "96 MiB"', "x = 1", "b = bytearray(2**30)", "print(x)"))
    assert [cell.status for cell in cells] == ["ok", "error", "ok"]
    assert cells[1].error is not None
    assert (cells[1].error.type, cells[2].stdout, result.status) == ("MemoryError", "1\n", "ok")


def test_open_files_are_limited(anybody: Jar) -> None:
    code = """\
import errno
kept = []
try:
    while True:
        kept.append(open("/dev/null"))
except OSError as error:
    FINAL([len(kept), errno.errorcode[error.errno]])
"""
    count, why = seen(anybody, code, "open_files = 32")
    assert why == "EMFILE"
    assert 20 <= count < 32


def test_a_dump_of_its_memory_goes_nowhere(jar: Jar) -> None:
    core = Path("core")
    outcome, result = run(jar, "import os, signal\nsignal.signal(signal.SIGSEGV, signal.SIG_DFL)\nos.abort()")
    assert (outcome.code, result["status"]) in [(6, "error"), (6, "killed")]
    assert not (jar.work / core).exists()


@pytest.mark.parametrize(
    "code",
    ["import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nwhile True:\n    pass", "raise KeyboardInterrupt"],
    ids=["signal", "raise"],
)
def test_a_program_that_interrupts_itself_is_not_told_that_its_time_was_up(jar: Jar, code: str) -> None:
    _, result = run(jar, code)
    assert (result["status"], result["limit"]) == ("error", None)
    assert result["error"]["type"] == "KeyboardInterrupt"
    assert "time" not in result["error"]["message"]
