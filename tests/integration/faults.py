"""Faults of the disk and of the machine, put at a chosen system call of a host, and what has to hold after each.

`strace` lets a call fail, or kills the process at it, without the disk having to break. It counts the calls of each
thread for itself, and the store is opened by one thread and written by another. So a fault at the n-th call meets the
opening of a new store if n is small, and what is written during a run where the store was there before.

`Provider` is where queries go. It answers each and keeps it, so that what was sent is known from the other side.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

import belljar
from belljar.audit import verify
from belljar.context import ContextStores
from tests.integration import busy_host
from tests.integration.support import PATIENCE_S, Jar, no_process_left

__all__ = [
    "ROOT",
    "Ended",
    "Fault",
    "Provider",
    "assert_sound",
    "ended",
    "hit",
    "needs_strace",
    "started",
    "with_fault",
]

_BUSY = [sys.executable, "-m", busy_host.__name__]
ROOT = Path(__file__).resolve().parents[2]
# All that may lie in a state folder when its host is gone.
_FILES = {
    "audit.db",
    "audit.db-wal",
    "audit.db-shm",
    "audit.db-turn",
    "audit.db-journal",
    "contexts",
    "images",
    "owners",
}


class Fault(NamedTuple):
    """What happens at the n-th call of this name in each thread: `error=EIO`, `signal=SIGKILL` and the like.

    `"n+"` is the n-th and all after it.
    """

    call: str
    what: str
    nth: int | str


class Ended(NamedTuple):
    """A host that ran to its end, or was killed: its exit code, or minus the signal; and whether the fault came."""

    code: int
    stderr: str
    fired: bool


class Provider:
    """Answers every query, and keeps in `journal` the SHA-256 by which the log knows it.

    `asked` is set with the first; while `go` is not set, none is answered.
    """

    def __init__(self) -> None:
        self.journal: list[str] = []
        self.asked, self.go = threading.Event(), threading.Event()
        self.go.set()
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):  # who asked may have been killed
                    if line := self.rfile.readline():
                        outer.journal.append(hashlib.sha256("\0".join(json.loads(line)).encode()).hexdigest())
                        outer.asked.set()
                        outer.go.wait()
                        self.wfile.write(b"yes")

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 256

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.go.set()
        self._server.shutdown()
        self._server.server_close()


def needs_strace() -> None:
    """For a test that cannot do without: where it is missing the test is skipped, but not under CI=true."""
    if shutil.which("strace") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no strace: run `make strace`")
        pytest.skip("no strace: run `make strace`")


def started(
    jar: Jar, provider: Provider, runs: int, *, before: tuple[str, ...] = (), busy_s: float = 10.0
) -> subprocess.Popen[str]:
    """A busy host, which waits `busy_s` seconds for another's lock; with the words of `before` in front."""
    return subprocess.Popen(
        [*before, *_BUSY, str(jar.at), str(provider.port), str(runs), str(busy_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=jar.environ(),
    )


def ended(process: subprocess.Popen[str]) -> Ended:
    """Wait for its end."""
    try:
        _, stderr = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    return Ended(process.returncode, stderr, process.returncode == -signal.SIGKILL)


def hit(fault: Fault, jar: Jar, provider: Provider, runs: int = 1, *, anywhere: bool = False) -> Ended:
    """Let a busy host run to its end, with a fault on its way.

    Only calls that touch the files of its journal count, or all with `anywhere`: other files have names that nobody
    knows before.
    """
    trace = jar.work / "trace"
    journal = [jar.at, *(Path(f"{jar.journal}{suffix}") for suffix in ("", "-wal", "-shm", "-journal"))]
    paths = [] if anywhere else journal
    end = ended(started(jar, provider, runs, before=with_fault(fault, paths, trace)))
    return end._replace(fired=end.fired or "(INJECTED)" in trace.read_text())


def with_fault(fault: Fault, paths: Sequence[Path], trace: Path) -> tuple[str, ...]:
    """The words in front of a command, which is hit when it touches one of these files, given by their whole paths."""
    words = ["strace", "-f", "-qq", "-e", "signal=none", "-o", str(trace), "-e", f"trace={fault.call}"]
    words += ["-e", f"inject={fault.call}:{fault.what}:when={fault.nth}"]
    if fault.what.startswith("error"):  # strace is faster with it, but sends no signal
        words.append("--seccomp-bpf")
    return (*words, *(word for path in paths for word in ("-P", str(path))))


def assert_sound(jar: Jar, provider: Provider) -> None:
    """What holds after any fault: before somebody comes next, and after."""
    no_process_left()
    if jar.journal.exists() and jar.journal.stat().st_size:
        assert verify(jar.journal).problems == []
    asyncio.run(_next_start(jar))
    report = verify(jar.journal)
    assert (report.problems, report.unfinished) == ([], [])
    ended = {*jar.records_of("run.finished"), *jar.records_of("run.abandoned")}
    assert ended == {record.run for record in jar.records()}
    asked = [record.data for record in jar.records("query.requested")]
    logged = Counter(data["prompt_sha256"] for data in asked if not data["model"].startswith("tool:"))
    sent = Counter(provider.journal)
    assert sent <= logged, "something was sent of which the log has no request"
    assert jar.open_reservations() == jar.open_reservations(of_boxes=True) == 0
    assert {path.name for path in jar.at.iterdir()} <= _FILES
    assert os.listdir(jar.state.owners) == []
    _sweep(jar.state.contexts)
    left = [path for path in jar.state.contexts.rglob("*") if path.parent.name in ("lent", "incoming")]
    assert left == [], left


def _sweep(contexts: Path) -> None:
    """What a writer of a context left when it was killed goes with the next one that comes in, or by `context gc`."""
    stores = ContextStores(contexts)
    for tenant in stores.tenants():
        stores.of(tenant).gc(10**18, now_ns=time.time_ns())


async def _next_start(jar: Jar) -> None:
    async with belljar.Runtime(state=jar.at, environ=jar.environ()) as runtime:
        assert await runtime.quotas.check() == []
