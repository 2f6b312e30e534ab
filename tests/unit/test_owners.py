"""Who lives is told by a lock: not by a process id, and not by a file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from belljar.errors import LedgerUnavailable
from belljar.owners import Owner

LIVES = """
import sys, time
from pathlib import Path
from belljar.owners import Owner
print(Owner(Path(sys.argv[1])).name, flush=True)
time.sleep(600)
"""
ASKS = """
import sys
from pathlib import Path
from belljar.owners import Owner
with Owner(Path(sys.argv[1])) as owner:
    print(owner.is_alive(sys.argv[2]))
"""


@contextmanager
def another(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with subprocess.Popen([sys.executable, "-c", LIVES, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_the_living_live_and_the_killed_do_not(tmp_path: Path) -> None:
    folder = tmp_path / "owners"
    with another(folder) as (process, name), Owner(folder) as owner:
        assert owner.is_alive(name)
        owner.bury()
        assert sorted(os.listdir(folder)) == sorted([name, owner.name])
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not owner.is_alive(name)
        owner.bury()
        assert os.listdir(folder) == [owner.name]
    assert os.listdir(folder) == []


def test_two_owners_of_one_process_are_two(tmp_path: Path) -> None:
    with Owner(tmp_path / "owners") as one:
        with Owner(tmp_path / "owners") as two:
            assert one.is_alive(two.name)
            assert two.is_alive(one.name)
        assert not one.is_alive(two.name)


def test_the_dead_are_buried_by_one_alone(tmp_path: Path) -> None:
    with Owner(tmp_path / "owners") as one, Owner(tmp_path / "owners") as two:
        assert not one.is_alive("123-456")
        assert two.is_alive("123-456")  # for all that two can tell, and so it keeps away
        one.bury()
        assert not two.is_alive("123-456")


@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="needs a namespace of its own")
def test_who_lives_in_another_pid_namespace_lives(tmp_path: Path) -> None:
    with Owner(tmp_path / "owners") as owner:
        asks = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", ASKS]
        said = subprocess.run(
            [*asks, str(tmp_path / "owners"), owner.name], capture_output=True, text=True, timeout=60, check=False
        )
        if "unshare" in said.stderr:
            pytest.skip("no namespaces here")
        assert said.stdout == "True\n", said.stderr


@pytest.mark.parametrize("name", ["../ledger.db", "", ".", "a/b", "a\0b", "x" * 129])
def test_what_can_be_no_owner_is_dead_and_not_looked_up(tmp_path: Path, name: str) -> None:
    (tmp_path / "ledger.db").touch()
    with Owner(tmp_path / "owners") as owner:
        assert not owner.is_alive(name)
        owner.bury()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["ledger.db", "owners"]


def test_a_folder_that_cannot_be_used_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "owners").touch()
    with pytest.raises(LedgerUnavailable, match="the owners' folder"):
        Owner(tmp_path / "owners")
