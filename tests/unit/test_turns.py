"""Several processes that write one file: each gets its turn, and whoever is dead or stopped has none."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from belljar.errors import AuditUnavailable
from belljar.journal.turns import Turns
from tests.unit.test_journal import COUNT, insert, make
from tests.waiting import until

# Of another process: it takes its turn and keeps it, or writes one transaction after the other.
KEEPS = """
import sys, time
from pathlib import Path
from belljar.journal.turns import Turns
assert Turns(Path(sys.argv[1])).take(10)
print("ours", flush=True)
time.sleep(600)
"""
WRITES = """
import sys
from pathlib import Path
from belljar.errors import AuditUnavailable
from belljar.journal.draft import run_round
from belljar.journal.sqlite import SqliteStore
from tests.unit.test_journal import insert
store, known = SqliteStore(Path(sys.argv[1]), name="a", unavailable=AuditUnavailable), {}
for number in range(99_999):
    run_round(store, known, [insert(number)])
    if not number:
        print("writing", flush=True)
"""


@contextlib.contextmanager
def other(program: str, path: Path, word: str) -> Iterator[subprocess.Popen[str]]:
    """Another process, which has said this word."""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == word
            yield process
        finally:
            process.kill()


def test_a_turn_is_one_processs_until_it_gives_it(tmp_path: Path) -> None:
    first, second = Turns(tmp_path / "turn"), Turns(tmp_path / "turn")
    assert first.take(0)
    assert not second.take(0.05)
    first.give()
    assert second.take(60)
    second.give()
    for turns in (first, second):
        turns.close()


def test_who_gave_up_gives_back_what_he_gets(tmp_path: Path) -> None:
    first, second, third = (Turns(tmp_path / "turn") for _ in range(3))
    assert first.take(0)
    assert not second.take(0.05)  # its thread waits on
    first.give()
    assert third.take(10)
    third.give()
    until(lambda: second._waiting is None, what="the thread of who gave up is done")
    assert second.take(10)
    assert not first.take(0.05)
    for turns in (first, second, third):
        turns.close()


def test_who_asks_again_has_one_thread_that_waits(tmp_path: Path) -> None:
    first, second = Turns(tmp_path / "turn"), Turns(tmp_path / "turn")
    assert first.take(0)
    assert not second.take(0.05)
    waiting = second._waiting
    assert not second.take(0.05)
    assert second._waiting is waiting
    first.give()
    assert second.take(60)
    for turns in (first, second):
        turns.close()


def test_who_closed_them_before_a_fork_closes_them_in_the_child_once_more(tmp_path: Path) -> None:
    async def main() -> None:
        writer = make(tmp_path / "a.db")
        await writer.submit(insert(1))
        await writer.aclose()
        writer._forget()  # as every journal that is still referred to is told after a fork
        assert writer._closed

    asyncio.run(main())


def test_the_turn_of_a_dead_process_is_over(tmp_path: Path) -> None:
    turns = Turns(tmp_path / "turn")
    with other(KEEPS, tmp_path / "turn", "ours") as process:
        assert not turns.take(0.05)
        process.kill()
        assert turns.take(60)
    turns.close()


def test_who_stops_in_its_turn_is_waited_for_no_longer_than_the_lock(tmp_path: Path) -> None:
    async def main() -> None:
        writer = make(tmp_path / "a.db", busy_timeout_s=0.2)
        await writer.submit(insert(1))
        late = pytest.raises(AuditUnavailable, match=r"held its lock for more than 0\.2 s; find and end")
        with other(KEEPS, tmp_path / "a.db-turn", "ours"), late:
            await writer.submit(insert(2))
        assert await writer.submit(insert(3)) == 3
        await writer.aclose()

    asyncio.run(main())


@pytest.mark.slow
def test_who_waits_is_not_passed_over(tmp_path: Path) -> None:
    async def main() -> int:
        with other(WRITES, tmp_path / "a.db", "writing"):
            writer = make(tmp_path / "a.db")
            first = await writer.submit(COUNT)
            for number in range(_ROUNDS):
                await writer.submit(insert(-1 - number))
            passed: int = await writer.submit(COUNT) - first - _ROUNDS
            await writer.aclose()
        return passed

    assert asyncio.run(main()) < 20 * _ROUNDS


_ROUNDS = 30
