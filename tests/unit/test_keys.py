"""The keys folder: closed to others, and each file in it whole or not there."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from belljar.errors import AuditUnavailable
from belljar.keys import SECRET_BYTES, Keys


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "config" / "belljar" / "keys")


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"HOME": "/h"}, "/h/.config/belljar/keys"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "/x"}, "/x/belljar/keys"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "/x", "BELLJAR_KEYS": "/k"}, "/k"),
    ],
)
def test_the_environment_says_where_it_is(environ: dict[str, str], folder: str) -> None:
    assert Keys.at(environ).folder == Path(folder)


def test_an_environment_without_a_home_means_the_users() -> None:
    code = "from belljar.keys import Keys; print(Keys.at({}).folder)"
    found = subprocess.run(
        [sys.executable, "-c", code], env={"HOME": "/h"}, capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout == "/h/.config/belljar/keys\n"


def test_to_look_makes_nothing(keys: Keys) -> None:
    assert keys.read("signing") is None
    assert not keys.folder.parent.exists()


def test_a_secret_is_made_once_and_only_its_owner_can_read_it(keys: Keys) -> None:
    before = os.umask(0)
    try:
        secret = keys.secret("wrapping")
    finally:
        os.umask(before)
    assert len(secret) == SECRET_BYTES
    assert Keys(keys.folder).secret("wrapping") == secret
    assert keys.secret("signing") != secret
    assert keys.folder.stat().st_mode & 0o777 == 0o700
    assert (keys.folder / "wrapping").stat().st_mode & 0o777 == 0o600


def test_the_first_one_to_create_wins_and_the_last_one_to_write(keys: Keys) -> None:
    assert keys.create("a", b"1") == b"1"
    assert keys.create("a", b"2") == b"1"
    keys.write("a", b"3")
    assert keys.read("a") == b"3"
    assert os.listdir(keys.folder) == ["a"]
    keys.remove("a")
    keys.remove("a")
    assert os.listdir(keys.folder) == []


def test_processes_that_need_a_key_at_once_get_the_same_one(keys: Keys) -> None:
    program = (
        "import sys, pathlib; from belljar.keys import Keys; sys.stdin.read();"
        "print(Keys(pathlib.Path(sys.argv[1])).secret('k').hex())"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(keys.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    assert len({process.communicate()[0] for process in started}) == 1
    assert all(process.returncode == 0 for process in started)


def test_what_others_can_read_is_refused(keys: Keys) -> None:
    keys.secret("k")
    (keys.folder / "k").chmod(0o640)
    with pytest.raises(AuditUnavailable, match="others can read k; find out who did, and `chmod 600`"):
        keys.secret("k")
    (keys.folder / "k").chmod(0o600)
    keys.folder.chmod(0o701)
    for use in (
        lambda: keys.secret("k"),
        lambda: keys.remove("k"),
        lambda: keys.write("k", b""),
        lambda: keys.create("j", b""),
    ):
        with pytest.raises(AuditUnavailable, match="others can read it; find out who did, and `chmod 700`"):
            use()
    assert (keys.folder / "k").read_bytes() != b""


def test_a_link_or_a_folder_in_place_of_a_file_is_refused(keys: Keys, tmp_path: Path) -> None:
    keys.secret("k")
    (keys.folder / "k").rename(tmp_path / "elsewhere")
    (keys.folder / "k").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AuditUnavailable, match="a file in it is a symbolic link"):
        keys.secret("k")
    (keys.folder / "d").mkdir(mode=0o700)
    with pytest.raises(AuditUnavailable, match="cannot be used"):
        keys.read("d")


def test_a_key_that_was_cut_is_refused(keys: Keys) -> None:
    keys.write("k", b"short")
    with pytest.raises(AuditUnavailable, match="k has 5 bytes, not 32"):
        keys.secret("k")


def test_another_users_folder_is_refused(keys: Keys) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    keys.secret("k")
    os.chown(keys.folder, 65534, -1)
    with pytest.raises(AuditUnavailable, match="it belongs to another user"):
        keys.secret("k")


def test_a_lock_is_of_one_process_and_ends_with_it(keys: Keys) -> None:
    program = (
        "import sys, pathlib; from belljar.keys import Keys\n"
        "with Keys(pathlib.Path(sys.argv[1])).locked('k'):\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(keys.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with keys.locked("j"):
            pass
        lock = os.open(keys.folder / ".k-lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(lock)
        process.kill()
    with keys.locked("k"):
        pass


def test_a_name_is_not_a_path(keys: Keys) -> None:
    for name in ("../k", ".k", "a/b", ""):
        with pytest.raises(ValueError, match="is not a name of a key"):
            keys.read(name)
