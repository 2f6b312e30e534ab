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
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

import belljar
from belljar.audit import verify
from tests.integration import busy_host
from tests.integration.support import PATIENCE_S, Jar, no_process_left

__all__ = ["Ended", "Fault", "Provider", "assert_sound", "busy", "hit", "needs_strace"]

_BUSY = [sys.executable, "-m", busy_host.__name__]
_ROOT = Path(__file__).resolve().parents[2]
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
    """What happens at the n-th call of this name in each thread: `error=EIO`, `signal=SIGKILL` and the like."""

    call: str
    what: str
    nth: int


class Ended(NamedTuple):
    """A host that ran to its end, or was killed: its exit code, or minus the signal; and whether the fault came."""

    code: int
    stderr: str
    fired: bool


class Provider:
    """Answers every query, and keeps in `journal` the SHA-256 by which the log knows it."""

    def __init__(self) -> None:
        self.journal: list[str] = []
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):  # who asked may have been killed
                    if line := self.rfile.readline():
                        outer.journal.append(hashlib.sha256("\0".join(json.loads(line)).encode()).hexdigest())
                        self.wfile.write(b"yes")

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 256

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def needs_strace() -> None:
    """For a test that cannot do without: where it is missing the test is skipped, but not under CI=true."""
    if shutil.which("strace") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no strace: run `make strace`")
        pytest.skip("no strace: run `make strace`")


def busy(jar: Jar, provider: Provider, runs: int = 1, *, before: tuple[str, ...] = ()) -> Ended:
    """Let a busy host run to its end; with the words of `before` in front."""
    done = subprocess.run(
        [*before, *_BUSY, str(jar.at), str(provider.port), str(runs)],
        cwd=_ROOT,
        env=jar.environ(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return Ended(done.returncode, done.stderr, done.returncode == -signal.SIGKILL)


def hit(fault: Fault, jar: Jar, provider: Provider, runs: int = 1) -> Ended:
    """The same, with a fault on its way. Only calls that touch the files of its journal count."""
    trace = jar.work / "trace"
    words = ["strace", "-f", "-qq", "-e", "signal=none", "-o", str(trace), "-e", f"trace={fault.call}"]
    words += ["-e", f"inject={fault.call}:{fault.what}:when={fault.nth}"]
    if fault.what.startswith("error"):  # strace is faster with it, but sends no signal
        words.append("--seccomp-bpf")
    for path in (jar.at, *(f"{jar.journal}{suffix}" for suffix in ("", "-wal", "-shm", "-journal"))):
        words += ["-P", str(path)]
    ended = busy(jar, provider, runs, before=tuple(words))
    return ended._replace(fired=ended.fired or "(INJECTED)" in trace.read_text())


def assert_sound(jar: Jar, provider: Provider) -> None:
    """What holds after any fault: before somebody comes next, and after."""
    no_process_left()
    if jar.journal.exists() and jar.journal.stat().st_size:
        assert verify(jar.journal).problems == []
    asyncio.run(_next_start(jar.at))
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
    left = [path for path in jar.state.contexts.rglob("*") if path.parent.name in ("lent", "incoming")]
    assert left == []


async def _next_start(state: Path) -> None:
    async with belljar.Runtime(state=state, environ={}) as runtime:
        assert await runtime.quotas.check() == []
