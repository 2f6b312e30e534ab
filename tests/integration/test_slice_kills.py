"""Processes whose runs are children of one run, some of them killed: together they never pass what that run may."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from belljar.identity import RunId, Tenant
from belljar.ledger import Amounts, Limits, run_account
from tests.journals import OwnLedger
from tests.waiting import until

LIMIT = 20_000  # output tokens of the parent and of all below it
ROOT = RunId("root")
FREE = Limits("total", None, None, None, None, None)
KILLED, PROCESSES = 3, 6

# Opens child after child, each with a slice of some tokens, a child of its own, and calls in both.
SIBLINGS = """
import asyncio, random, sys
from pathlib import Path
from belljar.errors import QuotaExceeded
from belljar.identity import RunId, Tenant
from belljar.ledger import Amounts, Ledger, Limits
from tests.journals import OwnLedger

path, number, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
chance = random.Random(number)
free = Limits("total", None, None, None, None, None)

async def opened(ledger, run, tokens):
    limits = Limits("total", None, None, tokens, None, None)
    await ledger.open_run(run, Tenant("acme"), run_limits=limits, tenant_limits=free, parent=run.parent)

async def call(ledger, run):
    asked = chance.randint(1, 40)
    try:
        reservation = await ledger.reserve(run, Amounts(calls=1, output_tokens=asked), now=1e9, dispatched=True)
    except QuotaExceeded:
        return
    await asyncio.sleep(0.004 * chance.random())
    await ledger.settle(reservation, Amounts(calls=1, output_tokens=chance.randint(0, asked)))

async def child(ledger, run):
    tokens = chance.randint(50, 400)
    await opened(ledger, run, tokens)
    await opened(ledger, run.child(1), tokens // 2)
    await asyncio.gather(*(call(ledger, chance.choice([run, run.child(1)])) for _ in range(8)))
    if chance.random() < 0.5:
        await ledger.close_run(run.child(1))
    await ledger.close_run(run)

async def worker(ledger, first):
    at, refused = first, 0
    while refused < 20:
        try:
            await child(ledger, RunId("root").child(at))
            at += 2 * count
        except QuotaExceeded:
            refused += 1
            await asyncio.sleep(0.002)

async def main():
    ledger = OwnLedger(path, owner=f"p{number}")
    await asyncio.gather(worker(ledger, 1 + number), worker(ledger, 1 + number + count))
    await ledger.aclose()

asyncio.run(main())
"""


def start(path: Path, number: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SIBLINGS, str(path), str(number), str(PROCESSES)])


def rows(path: Path, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(statement).fetchall()


def until_it_calls(path: Path, number: int) -> None:
    """A kill then finds an open child with something dispatched."""
    calling = f"""SELECT 1 FROM runs JOIN reservations USING (run)
        WHERE owner = 'p{number}' AND is_open = 1 AND state = 'dispatched'"""
    until(lambda: rows(path, calling), what="a child calls")


async def watch(ledger: OwnLedger, processes: list[subprocess.Popen[bytes]]) -> int:
    """Look at the parent's account while it changes, until all have ended. The highest `used + held` seen."""
    highest = 0
    while any(process.poll() is None for process in processes):
        balance = await ledger.balance(run_account(ROOT), "total")
        highest = max(highest, balance.used.output_tokens + balance.held.output_tokens)
        tenant = await ledger.balance("acme", "total")
        assert highest <= LIMIT
        assert tenant.used.output_tokens + tenant.held.output_tokens <= LIMIT
        await asyncio.sleep(0.005)
    return highest


def test_siblings_in_processes_that_are_killed_pass_no_limit_of_their_parent(tmp_path: Path) -> None:
    path, chance = tmp_path / "a.db", random.Random(6)
    bound = Limits("total", None, None, LIMIT, None, None)
    processes: list[subprocess.Popen[bytes]] = []

    async def main() -> None:
        ledger = OwnLedger(path, owner="parent")
        await ledger.open_run(ROOT, Tenant("acme"), run_limits=bound, tenant_limits=FREE)
        processes.extend(start(path, number) for number in range(PROCESSES))
        for number, process in enumerate(processes[:KILLED]):
            await asyncio.to_thread(until_it_calls, path, number)
            await asyncio.sleep(0.02 * chance.random())
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        highest = await watch(ledger, processes)
        assert [process.returncode for process in processes] == [-signal.SIGKILL] * KILLED + [0] * (PROCESSES - KILLED)
        assert highest > LIMIT * 0.9
        assert await ledger.check_books() == []
        # Another process settles what they left; the parent lives, and has back what was not used.
        dead = {f"p{number}" for number in range(KILLED)}
        assert await ledger.recover(lambda owner: owner not in dead) >= KILLED
        assert await ledger.check_books() == []
        balance = await ledger.balance(run_account(ROOT), "total")
        tenant = await ledger.balance("acme", "total")
        assert (balance.held, tenant.held) == (Amounts(), Amounts())
        assert balance.used == tenant.used
        assert 0 < balance.used.output_tokens <= LIMIT
        assert rows(path, "SELECT run FROM runs WHERE is_open = 1") == [("root",)]
        await ledger.close_run(ROOT)
        await ledger.aclose()

    try:
        asyncio.run(main())
    finally:
        for process in processes:
            process.kill()
            process.wait()
