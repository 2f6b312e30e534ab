"""Eight processes, one tenant's limit, and some of them are killed: nothing is overspent and the books balance."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from belljar.identity import RunId, Tenant
from belljar.ledger import Amounts, Limits
from tests.journals import OwnLedger
from tests.waiting import until

LIMIT = 30_000  # output tokens
OVERRUN = 3  # how far one call may pass what was held for it, in the second test

HAMMER = """
import asyncio, random, sys
from pathlib import Path
from belljar.errors import QuotaExceeded
from belljar.identity import RunId, Tenant
from belljar.ledger import Amounts, Limits
from tests.journals import OwnLedger

path, name, pause = Path(sys.argv[1]), RunId(sys.argv[2]), float(sys.argv[3])
limit, overrun = int(sys.argv[4]), int(sys.argv[5])
chance = random.Random(name)
free = Limits("total", None, None, None, None, None)
bound = Limits("total", None, None, limit, None, None)

async def call(ledger):
    asked = chance.randint(1, 20)
    reservation = await ledger.reserve(name, Amounts(calls=1, output_tokens=asked), now=1e9)
    await asyncio.sleep(pause * chance.random())
    if chance.random() < 0.2:
        await ledger.release(reservation)
        return
    await ledger.dispatch(reservation)
    await asyncio.sleep(pause * chance.random())
    await ledger.settle(reservation, Amounts(calls=1, output_tokens=chance.randint(0, asked) + overrun))

async def worker(ledger):
    refused = 0
    while refused < 20:
        try:
            await call(ledger)
        except QuotaExceeded:
            refused += 1
            await asyncio.sleep(0.001)

async def main():
    ledger = OwnLedger(path, owner=name)
    await ledger.open_run(name, Tenant("acme/research"), run_limits=free, tenant_limits=bound)
    print("ready", flush=True)
    sys.stdin.readline()
    await asyncio.gather(*(worker(ledger) for _ in range(4)))
    await ledger.close_run(name)
    await ledger.aclose()

asyncio.run(main())
"""


def start(path: Path, name: str, overrun: int, pause: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HAMMER, str(path), name, str(pause), str(LIMIT), str(overrun)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def states(path: Path, runs: list[str]) -> dict[str, int]:
    """Output tokens of these runs' reservations, by state, straight from the file."""
    marks = ", ".join("?" * len(runs))
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute(
            f"SELECT state, sum(output_tokens) FROM reservations WHERE run IN ({marks}) GROUP BY state", runs
        )
        return dict(rows.fetchall())


def until_all_states(path: Path, runs: list[str]) -> None:
    until(
        lambda: states(path, runs).keys() >= {"held", "dispatched", "settled"},
        what="something is held, something dispatched and something settled",
    )


async def watch(ledger: OwnLedger, processes: list[subprocess.Popen[str]], slack: int) -> int:
    """Look at the books while they change, until all processes have ended. Returns the highest `used + held` seen."""
    highest = 0
    while any(process.poll() is None for process in processes):
        balance = await ledger.balance("acme", "total")
        highest = max(highest, balance.used.output_tokens + balance.held.output_tokens)
        assert highest <= LIMIT + slack
        await asyncio.sleep(0.005)
    return highest


@pytest.mark.parametrize("overrun", [0, OVERRUN])
def test_processes_that_are_killed_overspend_nothing(tmp_path: Path, overrun: int) -> None:
    path = tmp_path / "ledger.db"
    names = [f"p{n}" for n in range(8)]
    # The victims sleep long between their steps: a kill finds them with something held and something dispatched.
    processes = [start(path, name, overrun, 0.2 if n < 3 else 0.002) for n, name in enumerate(names)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.stdout.close()
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    # A settle may pass the limit only by what was in flight at that moment: 8 processes of 4 calls each.
    slack = overrun * 8 * 4

    async def main() -> None:
        ledger = OwnLedger(path, owner="parent")
        await asyncio.to_thread(until_all_states, path, names[:3])
        victims = list(zip(names, processes, strict=True))[:3]
        for _, process in victims:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        await watch(ledger, processes, slack)
        assert [process.returncode for process in processes] == [-signal.SIGKILL] * 3 + [0] * 5

        open_before = states(path, names[:3])
        before = await ledger.balance("acme", "total")
        assert await ledger.check_books() == []
        assert await ledger.recover(lambda owner: owner not in names[:3]) == 3
        after = await ledger.balance("acme", "total")
        charged = open_before.get("dispatched", 0)
        assert before.held.output_tokens == charged + open_before.get("held", 0) > 0
        assert after.used.output_tokens == before.used.output_tokens + charged
        assert after.held == Amounts()
        assert LIMIT * 0.9 < after.used.output_tokens <= LIMIT + slack
        assert await ledger.check_books() == []
        await ledger.aclose()

    try:
        asyncio.run(main())
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_many_processes_open_a_new_ledger_at_once(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys; from pathlib import Path; from tests.journals import OwnLedger\n"
        "asyncio.run(OwnLedger(Path(sys.argv[1]), owner='x').aclose())"
    )
    for attempt in range(3):
        path = tmp_path / f"{attempt}.db"
        processes = [subprocess.Popen([sys.executable, "-c", program, str(path)]) for _ in range(8)]
        assert [process.wait(60) for process in processes] == [0] * 8


def test_a_limit_of_one_goes_to_one_process(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    one = Limits("total", calls=1, input_tokens=None, output_tokens=None, cost_nanousd=None, read_bytes=None)

    async def main() -> None:
        ledgers = [OwnLedger(path, owner=str(n)) for n in range(6)]
        for n, ledger in enumerate(ledgers):
            await ledger.open_run(RunId(f"r{n}"), Tenant("acme"), run_limits=one, tenant_limits=one)
        results = await asyncio.gather(
            *(ledger.reserve(RunId(f"r{n}"), Amounts(calls=1), now=1e9) for n, ledger in enumerate(ledgers)),
            return_exceptions=True,
        )
        assert sum(isinstance(result, str) for result in results) == 1
        for ledger in ledgers:
            await ledger.aclose()

    asyncio.run(main())
