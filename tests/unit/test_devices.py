"""Devices that are not root's any more are named with owner and mode."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from belljar.sandbox.devices import DEVICES, Device, devices_not_of_root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files in the place of devices; the user of the tests in the place of root."""
    for name in DEVICES:
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o666)
        os.chown(tmp_path / name, -1, os.getuid())
    return tmp_path


as_root = pytest.mark.skipif("os.geteuid() != 0", reason="only root gives files away")


@as_root
def test_what_is_right_is_not_named(folder: Path) -> None:
    assert devices_not_of_root(folder) == []


@as_root
@pytest.mark.parametrize(
    ("user", "group", "owner"), [(65534, 65534, "65534:65534"), (65534, 0, "65534:0"), (0, 5, "0:5")]
)
def test_a_device_that_was_given_away_is_named(folder: Path, user: int, group: int, owner: str) -> None:
    os.chown(folder / "null", user, group)
    assert devices_not_of_root(folder, own_users=False) == [Device(str(folder / "null"), owner, "666")]


@as_root
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o000])
def test_a_device_that_was_closed_is_named(folder: Path, mode: int) -> None:
    (folder / "urandom").chmod(mode)
    assert devices_not_of_root(folder) == [Device(str(folder / "urandom"), "0:0", f"{mode:o}")]


@as_root
def test_where_root_has_no_number_nobody_may_be_root(folder: Path) -> None:
    os.chown(folder / "null", 65534, 65534)
    assert devices_not_of_root(folder, own_users=True) == []
    os.chown(folder / "null", 1000, 1000)
    assert [device.owner for device in devices_not_of_root(folder, own_users=True)] == ["1000:1000"]
