"""What SECURITY.md says of the process that searches, each sentence seen from outside on a live one, or tried inside.

It parses hostile patterns with the rights of the host's user; so what it could do with them is taken from it.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from belljar.search import Question, Searcher
from tests.unit.broker_fakes import drive
from tests.unit.searches import PATIENCE_S, refusal, searching, workers

CANARY = "a-key-that-must-stay-on-the-host"
Look = Callable[[psutil.Process, Searcher, Callable[..., Question]], Awaitable[None]]


def live(folder: Path, look: Look) -> None:
    """Show `look` a process that has answered a question and waits for the next."""

    async def test() -> None:
        async with searching(folder, "abcdefgh" * 1000) as (searcher, about):
            before = set(workers())
            assert (await searcher.ask(about("b", mode="count"), deadline_s=PATIENCE_S)).count == 1000
            (worker,) = set(workers()) - before
            await look(worker, searcher, about)

    drive(test())


def status(worker: psutil.Process) -> dict[str, str]:
    """/proc/PID/status."""
    lines = Path(f"/proc/{worker.pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def environment(worker: psutil.Process) -> bytes:
    return Path(f"/proc/{worker.pid}/environ").read_bytes()


def test_it_has_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", CANARY)
    monkeypatch.setenv("BELLJAR_CANARY", CANARY)

    async def look(worker: psutil.Process, *_: object) -> None:
        assert environment(worker) == b""
        assert CANARY not in " ".join(worker.cmdline())

    live(tmp_path, look)


def test_it_holds_no_descriptor_of_the_host(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(CANARY)

    async def look(worker: psutil.Process, *_: object) -> None:
        kept = {number: os.readlink(f"/proc/{worker.pid}/fd/{number}") for number in (0, 1, 2)}
        assert sorted(os.listdir(f"/proc/{worker.pid}/fd")) == ["0", "1", "2"]
        assert kept[0] == kept[1]
        assert kept[0].startswith("socket:")
        assert kept[2] == os.devnull

    with secret.open() as handle:
        os.set_inheritable(handle.fileno(), True)
        live(tmp_path / "state", look)


def test_it_gives_way_to_others(tmp_path: Path) -> None:
    async def look(worker: psutil.Process, *_: object) -> None:
        assert worker.nice() == min(19, os.nice(0) + 10)

    live(tmp_path, look)


def test_its_limits_are_hard_ones(tmp_path: Path) -> None:
    async def look(worker: psutil.Process, *_: object) -> None:
        limits = {"FSIZE": 0, "DATA": 1 << 30, "CORE": 1, "NOFILE": 2080}
        for name, value in limits.items():
            assert resource.prlimit(worker.pid, getattr(resource, f"RLIMIT_{name}")) == (value, value), name

    live(tmp_path, look)


def test_it_gains_no_right_by_starting_a_program(tmp_path: Path) -> None:
    async def look(worker: psutil.Process, *_: object) -> None:
        assert status(worker)["NoNewPrivs"] == "1"

    live(tmp_path, look)


def test_a_ctrl_c_at_the_terminal_is_not_for_it(tmp_path: Path) -> None:
    async def look(worker: psutil.Process, *_: object) -> None:
        assert os.getsid(worker.pid) == worker.pid != os.getsid(0)

    live(tmp_path, look)


# --------------------------------------------------------------------------------------------------- tried from inside

# What is tried, and the first version of Landlock that knows it.
ATTEMPTS = {
    "make a file": (1, "open(there / 'new', 'w')"),
    "open a file to write": (1, "os.open(there / 'old', os.O_WRONLY)"),
    "remove a file": (1, "os.unlink(there / 'old')"),
    "rename a file": (1, "os.rename(there / 'old', there / 'other')"),
    "make a folder": (1, "os.mkdir(there / 'folder')"),
    "make a link": (1, "os.symlink('old', there / 'link')"),
    "make a pipe": (1, "os.mkfifo(there / 'pipe')"),
    "start a program": (1, "os.execv('/bin/true', ['true'])"),
    "empty a file": (3, "os.truncate(there / 'old', 0)"),
    "connect": (4, "socket.create_connection(('127.0.0.1', port), 5)"),
    "listen": (4, "socket.create_server(('127.0.0.1', 0))"),
    "signal the host": (6, "os.kill(os.getppid(), 0)"),
}
BEGINNING = """
import errno, os, socket, sys
from pathlib import Path
from belljar.search import process
process._confine()
"""


def landlock_version() -> int:
    return int(ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1))


def confined(script: str, *arguments: str, output: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script in a process that has closed in on itself as one that searches does."""
    command = [sys.executable, "-B", "-c", BEGINNING + textwrap.dedent(script), *arguments]
    stdout = subprocess.PIPE if output is None else output
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env={}, check=False)


@pytest.mark.parametrize(("version", "attempt"), ATTEMPTS.values(), ids=ATTEMPTS)
def test_it_makes_no_file_starts_no_program_and_reaches_nobody(tmp_path: Path, version: int, attempt: str) -> None:
    if landlock_version() < version:
        pytest.skip("this kernel's Landlock does not know it")
    (tmp_path / "old").write_text("as it was")
    script = f"""
        there, port = Path(sys.argv[1]), int(sys.argv[2])
        try:
            {attempt}
        except PermissionError:
            print("refused")
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        outcome = confined(script, str(tmp_path), str(listener.getsockname()[1]))
    assert (outcome.stdout, outcome.stderr) == ("refused\n", "")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old", "as it was")]


def test_it_writes_to_no_file_that_was_open_before(tmp_path: Path) -> None:
    script = """
        try:
            os.write(1, b"x")
        except OSError as error:
            print(errno.errorcode[error.errno], file=sys.stderr)
    """
    with (tmp_path / "file").open("wb") as handle:
        assert confined(script, output=handle.fileno()).stderr == "EFBIG\n"
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("step", ["prctl", "syscall"])
def test_it_searches_nothing_where_a_step_fails(step: str) -> None:
    script = f"""
        class Libc:
            def __getattr__(self, name):
                return lambda *words: -1 if name == {step!r} and words[0] != 444 else 7
        process.ctypes.CDLL = lambda *words, **options: Libc()
        process.os.close = lambda number: None
        try:
            process.main()
        except OSError:
            print("closed")
    """
    assert confined(script).stdout == "closed\n"


# ------------------------------------------------------------------------------------------------------- how it ends


def test_it_is_killed_at_the_deadline_of_its_question(tmp_path: Path) -> None:
    """Also where it is stopped, and so could look at no clock."""

    async def look(worker: psutil.Process, searcher: Searcher, about: Callable[..., Question]) -> None:
        worker.suspend()
        assert (await refusal(searcher.ask(about("b"), deadline_s=0.2))).code == "search.deadline"
        assert not worker.is_running()

    live(tmp_path, look)


def test_it_is_killed_when_nobody_waits_for_it(tmp_path: Path) -> None:
    async def look(worker: psutil.Process, searcher: Searcher, about: Callable[..., Question]) -> None:
        worker.suspend()
        task = asyncio.create_task(searcher.ask(about("b"), deadline_s=PATIENCE_S))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not worker.is_running()

    live(tmp_path, look)


def test_a_search_ends_when_its_memory_is_used_up(tmp_path: Path) -> None:
    async def look(worker: psutil.Process, searcher: Searcher, about: Callable[..., Question]) -> None:
        used = int(status(worker)["VmData"].split()[0]) << 10
        resource.prlimit(worker.pid, resource.RLIMIT_DATA, (used, used))
        asked = about("(?s).{200}" * 4, limit=1 << 30, bytes_max=1 << 30)
        found = await asyncio.gather(searcher.ask(asked, deadline_s=PATIENCE_S), return_exceptions=True)
        assert [getattr(one, "code", one) for one in found] in (["search.memory"], ["search.died"])
        assert (await searcher.ask(about("b", stop=10), deadline_s=PATIENCE_S)).count == 2

    live(tmp_path, look)


def ended(worker: psutil.Process) -> bool:
    """Whether it ends by itself; it does not live on in any case."""
    deadline = time.monotonic() + PATIENCE_S / 4
    try:
        while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                worker.kill()
                return False
            time.sleep(0.01)
    except psutil.NoSuchProcess:
        pass
    return True


HOST = """
import asyncio, sys
from pathlib import Path
from belljar.context import ContextStore
from belljar.search import Question, Searcher

async def host():
    searcher, store = Searcher(slice_s=600), ContextStore(Path(sys.argv[1]))
    with store.open(store.add("text", now_ns=1).sha256) as opened:
        asked = dict(folder=opened.folder, mode="find", pattern="t", start=0, stop=4, limit=9, bytes_max=999)
        await searcher.ask(Question(**asked), deadline_s=600)
        print("searched", flush=True)
        await asyncio.sleep(600)

asyncio.run(host())
"""


def test_it_is_killed_when_the_host_dies(tmp_path: Path) -> None:
    """Stopped first: it can see neither the end of its input nor anything else, and yet it dies."""
    host = psutil.Popen([sys.executable, "-c", HOST, str(tmp_path)], stdout=subprocess.PIPE)
    with host:
        assert host.stdout.readline() == b"searched\n"
        (worker,) = host.children()
        worker.suspend()
        host.kill()
    assert ended(worker)
