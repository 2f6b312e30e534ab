"""Uploads in their folder: how many a tenant may begin, what is said of a folder that cannot be used, and of kills."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from belljar.context import ContextStore, Uploads
from belljar.errors import HostFault, InvalidInput, QuotaExceeded
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


def test_many_who_begin_at_once_find_room_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each looked before any of the others was there, so all had what was there for one."""
    uploads, at_once, check = Uploads(tmp_path, bytes_max=1000, keep_s=3600), threading.Barrier(8), Uploads._check_room

    def check_slowly(*arguments: Any) -> None:
        check(*arguments)
        time.sleep(0.05)  # in which the others may look

    def begin() -> bool:
        at_once.wait()
        try:
            uploads.create(ACME, 600, name="a")
        except QuotaExceeded:
            return False
        return True

    monkeypatch.setattr(Uploads, "_check_room", check_slowly)
    with ThreadPoolExecutor(8) as threads:
        begun = [threads.submit(begin) for _ in range(8)]
    assert sum(one.result() for one in begun) == 1


class Taken:
    """Takes in any upload."""

    def add(self, *_: object, **__: object) -> Any:
        return SimpleNamespace(sha256="0" * 64)


def test_of_uploads_that_became_contexts_only_the_latest_of_a_tenant_stay(tmp_path: Path) -> None:
    """All that there were in a day stayed, and whoever began one, of whatever tenant, had to look at each."""
    uploads = Uploads(tmp_path, bytes_max=10**6, keep_s=3600)

    def whole(tenant: Tenant) -> str:
        made = uploads.create(tenant, 1, name="a")
        with uploads.writing(made.id, 0) as write:
            write(b"x")
        uploads.finish(made.id, cast("ContextStore", Taken()))
        return made.id

    others = whole(OTHER)
    done = [whole(Tenant(f"acme/{number % 3}")) for number in range(70)]
    assert len(os.listdir(tmp_path)) == 1 + 64 + 1  # the last one came after it was counted
    assert uploads.get(others).context is not None
    assert uploads.get(done[-1]).context is not None
    with pytest.raises(InvalidInput, match="there is no upload"):
        uploads.get(done[0])


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


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_whoever_is_killed_while_an_upload_begins_keeps_nobody_from_beginning_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """After it has opened the folder to count, its first file, its second, and the folder to flush it."""
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
