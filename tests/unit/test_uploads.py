"""Uploads, wherever whoever begins one is killed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from belljar.context import Uploads
from belljar.identity import Tenant


class Killed(BaseException):
    """Nothing is done after it."""


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_whoever_is_killed_while_an_upload_begins_keeps_nobody_from_beginning_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """After it has opened its first file, its second, and the folder to flush it."""
    uploads = Uploads(tmp_path / "uploads", bytes_max=1000, keep_s=60)
    opened, count = os.open, 0

    def killed(*arguments: Any, **options: Any) -> int:
        nonlocal count
        descriptor, count = opened(*arguments, **options), count + 1
        if count == nth:
            os.close(descriptor)
            raise Killed
        return descriptor

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", killed)
        with pytest.raises(Killed):
            uploads.create(Tenant("acme"), 10, name="lost")
    made = uploads.create(Tenant("acme"), 10, name="next")
    assert uploads.get(made.id).offset == 0
    assert uploads.sweep() == 0
