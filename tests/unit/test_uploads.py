"""Uploads in their folder: how many a tenant may begin, what is said of a folder that cannot be used, and of kills."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from belljar.context import Uploads
from belljar.errors import HostFault, QuotaExceeded
from belljar.identity import Tenant

ACME, OTHER = Tenant("acme"), Tenant("other")


def test_a_tenant_begins_only_so_many_and_others_go_on(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, bytes_max=10**6, keep_s=3600)
    begun = [uploads.create(ACME, 1, name="a") for _ in range(64)]
    with pytest.raises(QuotaExceeded, match="too many uploads"):
        uploads.create(ACME, 1, name="a")
    uploads.create(OTHER, 1, name="a")
    uploads.remove(begun[0].id)
    uploads.create(ACME, 1, name="a")


def test_a_folder_that_cannot_be_read_is_our_fault_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads = Uploads(tmp_path, bytes_max=10**6, keep_s=3600)

    def fail(_: object) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", fail)
    for work in (uploads.sweep, lambda: uploads.create(ACME, 1, name="a")):
        with pytest.raises(HostFault, match="folder of uploads cannot be used"):
            work()


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
