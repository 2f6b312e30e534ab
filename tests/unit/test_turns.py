"""Several processes that write one file: each gets its turn, and whoever is dead or stopped has none."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from belljar.errors import AuditUnavailable
from belljar.journal.turns import _GIVE_LINE as NO_LINE
from belljar.journal.turns import _TAKE_LINE as LINE
from belljar.journal.turns import Turns
from tests.unit.test_journal import insert, make
from tests.waiting import until

# Of another process: it takes its turn and keeps it.
KEEPS = """
import sys, time
from pathlib import Path
from belljar.journal.turns import Turns
assert Turns(Path(sys.argv[1])).take(10)
print("ours", flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def another(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, whose turn it is."""
    with subprocess.Popen(
        [sys.executable, "-c", KEEPS, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "ours"
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
    with another(tmp_path / "turn") as process:
        assert not turns.take(0.05)
        process.kill()
        assert turns.take(60)
    turns.close()


def test_who_stops_in_its_turn_is_waited_for_no_longer_than_the_lock(tmp_path: Path) -> None:
    async def main() -> None:
        writer = make(tmp_path / "a.db", busy_timeout_s=0.2)
        await writer.submit(insert(1))
        late = pytest.raises(AuditUnavailable, match=r"held its lock for more than 0\.2 s; find and end")
        with another(tmp_path / "a.db-turn"), late:
            await writer.submit(insert(2))
        assert await writer.submit(insert(3)) == 3
        await writer.aclose()

    asyncio.run(main())


def test_who_waits_is_not_passed_over(tmp_path: Path) -> None:
    """Whoever gives the turn away and asks for it at once, with no deadline to wait for, does not get it back."""
    mine, other, looks = (Turns(tmp_path / "turn") for _ in range(3))

    def is_in_line() -> bool:
        """Not only that it looks, which takes the line as well: its thread waits."""
        if other._waiting is None:
            return False
        try:
            fcntl.fcntl(looks._file, fcntl.F_OFD_SETLK, LINE)
        except BlockingIOError:
            return True
        fcntl.fcntl(looks._file, fcntl.F_OFD_SETLK, NO_LINE)
        return False

    for _ in range(200):
        assert mine.take(60)
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(other.take, 60)
            until(is_in_line, what="the other stands in line")
            mine.give()
            assert not mine._is_free(), "the other was passed over"
            assert waiting.result()
        other.give()
    for turns in (mine, other, looks):
        turns.close()
