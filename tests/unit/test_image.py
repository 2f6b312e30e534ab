"""The image of the boxes: what a host is told that cannot make it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from belljar.errors import BoxFault
from belljar.sandbox.image import ensure_image, lay_out


def test_a_full_disk_is_told_of_one_file_and_not_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> NoReturn:
        raise shutil.Error(
            [(f"a{number}", f"b{number}", "[Errno 28] No space left on device") for number in range(2000)]
        )

    monkeypatch.setattr("belljar.sandbox.image._populate", full)
    for make in (lay_out, ensure_image):
        with pytest.raises(BoxFault, match=r": \[Errno 28\] No space left on device$"):
            make(tmp_path / make.__name__)
