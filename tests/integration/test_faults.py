"""The disk fails a host, or the machine does, at one system call after the other: nothing is sent that is not logged.

Each case is a host of its own that opens the store, runs and closes, with one fault at one call. Afterwards the log
verifies, the next host closes what was left open, the books agree with the log, whatever the provider was sent has its
request in the log, and no process, box or file is left. So many cases are tried that in the last one there was no call
left to be hit.
"""

from __future__ import annotations

import itertools
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.faults import Fault, Provider, assert_sound, busy, hit, needs_strace
from tests.integration.support import Jar, adopting_orphans

EIO, FULL, KILL = "error=EIO", "error=ENOSPC", "signal=SIGKILL"
# Every so many writes one is hit, by each of the three faults another: a page and its header are two.
STEP = 12


class Row:
    """State folders of which one after the other is hit. `store` is what each of them begins with."""

    def __init__(self, folder: Path, images: Path) -> None:
        self._folder, self._images = folder, images
        self._count = itertools.count()
        self.provider = Provider()
        self.store: Path | None = None

    def jar(self) -> Jar:
        folder = self._folder / str(next(self._count))
        folder.mkdir()
        jar = Jar(folder, self._images)
        if self.store is not None:
            shutil.copy(self.store, jar.journal)
        return jar

    def hit(self, fault: Fault, runs: int) -> bool:
        """Whether the fault came."""
        self.provider.journal.clear()
        jar = self.jar()
        ended = hit(fault, jar, self.provider, runs)
        try:
            if fault.what == KILL and ended.fired:
                assert ended.code == -signal.SIGKILL
            else:
                assert ended.code in (0, 8)
            if ended.code == 0:
                # Whatever it was that failed, it was not needed.
                ends = [record.data["status"] for record in jar.records("run.finished")]
                assert ends == ["ok", "ok"] * (runs + (self.store is not None))
            assert_sound(jar, self.provider)
        except AssertionError as error:
            raise AssertionError(f"{fault}, {ended}: {error}") from error
        shutil.rmtree(jar.at.parent)
        return ended.fired

    def hit_each(self, call: str, what: str, *, first: int = 1, step: int = 1, runs: int = 1) -> int:
        """Hit every `step`-th call until there is no more. Returns how many were hit."""
        nths = itertools.count(first, step)
        return sum(1 for _ in itertools.takewhile(lambda nth: self.hit(Fault(call, what, nth), runs), nths))


@pytest.fixture
def new(tmp_path: Path, images: Path) -> Iterator[Row]:
    """State folders without a store."""
    needs_strace()
    with adopting_orphans():
        row = Row(tmp_path, images)
        yield row
        row.provider.close()


@pytest.fixture
def used(new: Row) -> Row:
    """State folders with a store in which there is a run."""
    jar = new.jar()
    assert busy(jar, new.provider).code == 0
    new.store = jar.journal
    return new


@pytest.mark.parametrize("what", [EIO, KILL], ids=["error", "kill"])
@pytest.mark.parametrize(("call", "least"), [("fdatasync", 7), ("ftruncate", 1), ("unlink", 2)])
def test_at_each_flush_and_removal_while_a_store_is_made(new: Row, call: str, least: int, what: str) -> None:
    assert new.hit_each(call, what, runs=0) >= least


@pytest.mark.parametrize(("what", "first"), [(EIO, 1), (FULL, 4), (KILL, 2)], ids=["error", "full", "kill"])
def test_at_the_writes_while_a_store_is_made(new: Row, what: str, first: int) -> None:
    assert new.hit_each("pwrite64", what, first=first, step=5, runs=0) >= 7


@pytest.mark.slow
@pytest.mark.parametrize("what", [EIO, KILL], ids=["error", "kill"])
def test_at_each_flush_of_a_busy_run(used: Row, what: str) -> None:
    assert used.hit_each("fdatasync", what) > 15


@pytest.mark.slow
@pytest.mark.parametrize(("what", "first"), [(EIO, 9), (FULL, 14), (KILL, 19)], ids=["error", "full", "kill"])
def test_at_the_writes_of_a_busy_run(used: Row, what: str, first: int) -> None:
    assert used.hit_each("pwrite64", what, first=first, step=STEP) > 12


@pytest.mark.slow
def test_at_each_write_of_a_commit(used: Row) -> None:
    """The first ones of a run: it is opened, and its box is held."""
    for nth in range(9, 33):
        assert used.hit(Fault("pwrite64", FULL, nth), 1)
