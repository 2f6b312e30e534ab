"""Hosts that are killed two hundred times, wherever they are: the next start closes what was left, and all agrees."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.faults import ROOT, Provider, assert_sound
from tests.integration.support import Jar, adopting_orphans, until

KILLS = 200
HOSTS = 3  # beside each other, in one state folder
# How long after its start a host is killed at most: by then it has opened the store, made a box and asked many times.
LIFE_S = 0.8
ASKED = 16  # questions at once

# Makes hosts: a line comes in, the process id of a new one goes out. It has loaded everything and has no thread, so a
# host begins in milliseconds. Each asks sixteen questions at once, starts two child runs, and begins again.
NURSERY = """
import asyncio, ctypes, os, signal, sys
from pathlib import Path
from belljar import Runtime
from tests.integration.busy_host import TEXT, Remote
import belljar.sandbox.jail.backend, belljar.host

CODE = '''
number = 0
while True:
    number += 1
    llm_query_batched([f"{number} {one} {context[one * 100:one * 100 + 20]}" for one in range(16)])
    rlm_query_batched([f"question {number}"] * 2, [context[number:number + 50]] * 2)
'''

async def live(state, port):
    async with Runtime("dev", state=state, language="python") as runtime:
        await runtime.execute(CODE, context=TEXT, model=Remote(port))

signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the killed, whom the kernel then forgets
for line in sys.stdin:
    if pid := os.fork():
        print(pid, flush=True)
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    os.close(0)
    try:
        asyncio.run(live(Path(sys.argv[1]), int(sys.argv[2])))
    finally:
        os._exit(1)
"""


@contextmanager
def nursery(jar: Jar, provider: Provider) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY, str(jar.at), str(provider.port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=jar.environ(),
        cwd=ROOT,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def born(process: subprocess.Popen[str]) -> int:
    assert process.stdin is not None
    assert process.stdout is not None
    print(file=process.stdin, flush=True)
    return int(process.stdout.readline())


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists(), what="the killed host is gone")


@pytest.mark.slow
def test_wherever_busy_hosts_are_killed_the_next_start_closes_their_runs(tmp_path: Path, images: Path) -> None:
    chance, provider = random.Random(14), Provider()
    with adopting_orphans():
        jar = Jar(tmp_path, images)
        with nursery(jar, provider) as process:
            # Each with how often anybody had asked when it was born.
            alive = [(born(process), 0) for _ in range(HOSTS)]
            until(lambda: len(provider.journal) > ASKED, what="they ask")
            for number in range(KILLS - HOSTS):
                time.sleep(LIFE_S / HOSTS * chance.random() * 2)
                pid, before = alive.pop(0)
                if number % 2:  # on a busy machine a host lives until it has come so far
                    until(lambda: len(provider.journal) >= before + HOSTS * ASKED, what="they ask")  # noqa: B023
                kill(pid)
                alive.append((born(process), len(provider.journal)))
            for pid, _ in alive:
                kill(pid)
        assert_sound(jar, provider)
        abandoned = jar.records_of("run.abandoned")
        # They were killed in the middle of it.
        assert len({run.partition(".")[0] for run in abandoned & jar.records_of("query.requested")}) > KILLS // 4
        assert len([run for run in abandoned if "." in run]) > KILLS // 10
    provider.close()
