"""The files beside the modules are found in a wheel's layout, then in a checkout's, and never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from belljar import assets
from belljar.errors import HostFault


def put(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True)
    (folder / name).write_text("")
    return folder


def test_this_installation_has_its_policies_and_its_guest() -> None:
    assert (assets.policies_dir() / "standard.toml").is_file()
    assert (assets.guest_dir() / "__init__.py").is_file()
    assert assets.policies_dir().is_absolute()


def test_the_package_goes_before_what_lies_around_it(tmp_path: Path) -> None:
    package = tmp_path / "runtime" / "belljar"
    inside = put(package / "_assets" / "policies", "standard.toml")
    put(tmp_path / "policies", "standard.toml")
    assert assets.find("policies", "policies", witness="standard.toml", package=package) == inside


def test_a_checkout_has_them_two_levels_up(tmp_path: Path) -> None:
    package = tmp_path / "runtime" / "belljar"
    outside = put(tmp_path / "sandbox_images" / "guest", "__init__.py")
    assert assets.find("guest", "sandbox_images/guest", witness="__init__.py", package=package) == outside


def test_a_folder_without_its_witness_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    with pytest.raises(HostFault, match="install the package again"):
        assets.find("policies", "policies", witness="standard.toml", package=tmp_path / "runtime" / "belljar")
