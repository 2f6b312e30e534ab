"""The uids of boxes: no two at once, whoever asks, and none that belongs to somebody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from belljar.errors import BoxFault
from belljar.sandbox import uids as uids_module
from belljar.sandbox.uids import BLOCK_UIDS, NOBODY, RANGE_FIRST, RANGE_UIDS, Uids

as_root = pytest.mark.skipif(not uids_module._allowed(), reason="only root may give a process another uid")

HOLDS = """\
import sys, time
from pathlib import Path
from belljar.sandbox.uids import Uids
uids = Uids(Path(sys.argv[1]))
print(uids.block.start, flush=True)
time.sleep(300)
"""


@as_root
def test_no_uid_is_leased_twice_and_a_released_one_comes_last(tmp_path: Path) -> None:
    uids = Uids(tmp_path)
    leased = [uids.lease() for _ in range(BLOCK_UIDS - 1)]
    assert len(set(leased)) == len(leased)
    assert all(RANGE_FIRST < uid < RANGE_FIRST + RANGE_UIDS for uid in leased)
    assert uids.block is not None
    assert uids.block.start not in leased
    with pytest.raises(BoxFault, match="511 boxes are alive"):
        uids.lease()
    uids.release(leased[5])
    uids.release(leased[3])
    assert [uids.lease(), uids.lease()] == [leased[5], leased[3]]
    uids.close()


@as_root
def test_two_backends_of_one_process_have_nothing_in_common(tmp_path: Path) -> None:
    one, other = Uids(tmp_path), Uids(tmp_path)
    assert one.block is not None
    assert other.block is not None
    assert not set(one.block) & set(other.block)
    one.close()
    other.close()


@as_root
def test_two_processes_have_nothing_in_common_and_a_killed_one_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One block in all: what the other process has is all there is.
    monkeypatch.setattr(uids_module, "RANGE_UIDS", BLOCK_UIDS)
    holds = HOLDS.replace("uids = ", f"import belljar.sandbox.uids as m; m.RANGE_UIDS = {BLOCK_UIDS}\nuids = ")
    other = subprocess.Popen([sys.executable, "-c", holds, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert int(other.stdout.readline()) == RANGE_FIRST
        late = Uids(tmp_path)
        assert (late.block, late.lease()) == (None, NOBODY)
        other.send_signal(signal.SIGKILL)
        other.wait()
        next_one = Uids(tmp_path)
        assert next_one.block == range(RANGE_FIRST, RANGE_FIRST + BLOCK_UIDS)
        next_one.close()
    finally:
        other.kill()
        other.communicate()


@as_root
def test_closing_gives_the_block_back_though_a_forked_child_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uids_module, "RANGE_UIDS", BLOCK_UIDS)
    uids = Uids(tmp_path)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    uids.close()
    again = Uids(tmp_path)
    os.close(writer)
    os.waitpid(child, 0)
    assert again.block is not None
    again.close()


def test_where_nobody_may_change_uids_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    uids = Uids(tmp_path)
    assert (uids.block, uids.lease(), uids.lease()) == (None, NOBODY, NOBODY)
    uids.release(NOBODY)
    uids.close()


def test_a_runtime_folder_that_cannot_be_made_is_no_fault(tmp_path: Path) -> None:
    assert Uids(tmp_path / "not there" / "deeper").block is None


@pytest.mark.parametrize(
    ("text", "covered"),
    [
        ("         0          0 4294967295\n", True),
        ("         0     100000      65536\n", False),
        ("         0       1000          1\n         1     100000      65536\n", False),
        (f"0 0 1000\n{RANGE_FIRST} 200000 {RANGE_UIDS}\n", True),
        (f"{RANGE_FIRST} 200000 {RANGE_UIDS - 1}\n", False),
    ],
)
def test_a_user_namespace_without_the_range_is_noticed(text: str, covered: bool) -> None:
    assert uids_module._covers(text) is covered
