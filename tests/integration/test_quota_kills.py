"""Sixteen processes, killed again and again wherever they are: no day's limit is passed, and ledger and log agree.

They share a file, or a server on which each of them is a host of its own.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from belljar.audit import AuditLog, verify
from belljar.broker.abandoned import abandoned_in
from belljar.errors import LedgerUnavailable
from belljar.journal import open_journal
from belljar.ledger import Ledger
from tests import journals
from tests.postgres import sql
from tests.waiting import until

DAY = 86400.0
PROCESSES = 16
# On a server each process first connects, and each look at the books does.
ROUNDS = {"sqlite": 200, "postgresql": 60}
LIMIT = 200  # calls of a day; each tenth kill comes a day later

# Makes children, each with a run of its own: a name and a day come in, its process id goes out. It is a process without
# threads, so a child begins in milliseconds. Whatever is left of them ends with it.
NURSERY = """
import asyncio, os, random, signal, sys, ctypes
from pathlib import Path
from belljar.audit import AuditLog
from belljar.audit.events import QueryCompleted, QueryRequested, RunStarted
from belljar.errors import HostFault, QuotaExceeded
from belljar.identity import RunId, Tenant
from belljar.journal import open_journal
from belljar.ledger import Amounts, Ledger, Limits

FREE = Limits("total", None, None, None, None, None)
DAILY = Limits("day", int(sys.argv[2]), None, None, None, None)
DIGEST = "0" * 64
place = sys.argv[1] if "://" in sys.argv[1] else Path(sys.argv[1])

async def live(name, now):
    run, chance = RunId(name), random.Random(name)
    journal = open_journal(place, unavailable=HostFault)
    audit, ledger = AuditLog(journal), Ledger(journal, owner=name)
    tenant = Tenant(chance.choice(["acme/research", "acme/sales", "acme"]))
    started = audit.entry(run, RunStarted(tenant=tenant, contexts=[]))
    await ledger.open_run(run, tenant, run_limits=FREE, tenant_limits=DAILY, beside=started)
    async def call(number):
        action = f"{run}.{number}"
        asked = audit.entry(run, QueryRequested(action=action, cell=0, attempt=1, model="m", purpose="sub",
            prompt_sha256=DIGEST, prompt_bytes=1, output_tokens_max=1))
        try:
            reservation = await ledger.reserve(run, Amounts(calls=1), now=now, dispatched=True, beside=asked)
        except QuotaExceeded:
            await asyncio.sleep(0.01)
            return
        await asyncio.sleep(0.01 * chance.random())
        told = audit.entry(run, QueryCompleted(action=action, calls=1, input_tokens=0, output_tokens=0,
            cost_nanousd=0, reply_sha256=DIGEST, reply_bytes=1, answered_by="m", stop_reason="end"))
        await ledger.settle(reservation, Amounts(calls=1), beside=told)
    async def caller(first):
        number = first
        while True:
            await call(number)
            number += 2
    await asyncio.gather(caller(1), caller(2))

for line in sys.stdin:
    name, now = line.split()
    if pid := os.fork():
        print(pid, flush=True)
        continue
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    os.close(0)
    try:
        asyncio.run(live(name, float(now)))
    finally:
        os._exit(1)
"""


class Nursery:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.names: list[str] = []

    def child(self, now: float) -> tuple[str, int]:
        """A new process, whose calls are all made at this time: its run, and its id."""
        self.names.append(f"c{len(self.names)}")
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(self.names[-1], now, file=self._process.stdin, flush=True)
        return self.names[-1], int(self._process.stdout.readline())


@contextmanager
def nursery(place: Path | str) -> Iterator[Nursery]:
    # Nobody waits for the killed, whom the kernel then forgets.
    program = f"import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n{NURSERY}"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(place), str(LIMIT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Nursery(process)
        finally:
            process.kill()


def of_balances(place: Path | str, what: str, which: str) -> int:
    if isinstance(place, str):
        return int(sql(place, f"SELECT {what} FROM belljar.balances WHERE {which}")[0][0] or 0)
    with closing(sqlite3.connect(place)) as db:
        return int(db.execute(f"SELECT {what} FROM balances WHERE {which}").fetchone()[0] or 0)


def most_of_a_day(place: Path | str) -> int:
    """`used + held` of the fullest page of a day that any level has."""
    return of_balances(place, "max(used_calls + held_calls)", "length(key) = 10 AND account NOT LIKE 'run:%'")


def total(place: Path | str, what: str) -> int:
    return of_balances(place, f"sum({what})", "account = 'acme' AND key = 'total'")


async def close_the_runs_of(dead: set[str], place: Path | str) -> tuple[int, list[str]]:
    """As a host does at its start. Returns how many there were, and what is wrong with the ledger then."""
    journal = open_journal(place, unavailable=LedgerUnavailable)
    audit, ledger = AuditLog(journal), Ledger(journal, owner="parent")

    closed = await ledger.recover(lambda owner: owner not in dead, abandoned_in(audit))
    problems = await ledger.check_books()
    await ledger.aclose()
    await journal.aclose()
    return closed, problems


def kill(pid: int) -> None:
    """And wait until it is gone: what it has written then is all that it ever does."""
    os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists(), what="the killed process is gone")


@pytest.mark.slow
def test_sixteen_processes_that_are_killed_at_any_moment_pass_no_limit(tmp_path: Path, store: str) -> None:
    path = journals.place(tmp_path / "audit.db")
    assert path is not None
    chance, now = random.Random(16), 1795435200.0
    assert asyncio.run(close_the_runs_of(set(), path)) == (0, [])  # it is there
    dead: set[str] = set()
    closed = 0
    with nursery(path) as children:
        alive = dict(children.child(now) for _ in range(PROCESSES))
        until(lambda: total(path, "used_calls"), what="calls are made")
        for number in range(ROUNDS[store]):
            time.sleep(0.08 * chance.random())
            victim = chance.choice(sorted(alive))
            kill(alive.pop(victim))
            dead.add(victim)
            assert most_of_a_day(path) <= LIMIT
            if number % 10 == 9:
                now += DAY
            if number % 25 == 24:
                closed += asyncio.run(close_the_runs_of(dead, path))[0]
            alive.update([children.child(now)])
        until(lambda: total(path, "used_calls") > LIMIT, what="more calls were made than one day has")
        for pid in alive.values():
            kill(pid)
    last, problems = asyncio.run(close_the_runs_of({*dead, *alive}, path))
    assert problems == []
    assert closed > 0 < last
    assert most_of_a_day(path) <= LIMIT < total(path, "used_calls")
    assert total(path, "held_calls") == 0
    # One chain, each action with its outcome, and of each run the usage that the ledger has.
    report = verify(path)
    assert (report.problems, report.unfinished) == ([], [])
