"""Backends by name."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import cast

import pytest

from belljar.errors import BoxFault, InvalidInput
from belljar.sandbox import Backend, BackendSite, open_backend, register_backend
from belljar.sandbox.image import Image
from tests.waiting import PATIENCE_S


class Nothing:
    """Stands for a backend that nobody starts a box of."""


async def opened(site: BackendSite) -> Backend:
    del site
    return cast("Backend", Nothing())


async def opened_otherwise(site: BackendSite) -> Backend:
    return await opened(site)


def opening(name: str, folder: Path) -> Backend:
    return asyncio.run(open_backend(name, BackendSite(folder, {})))


def test_a_backend_of_somebody_else_s_is_opened_by_its_name(tmp_path: Path) -> None:
    register_backend("tests.nothing", opened)
    register_backend("tests.nothing", opened)
    assert isinstance(opening("tests.nothing", tmp_path), Nothing)
    with pytest.raises(InvalidInput) as two:
        register_backend("tests.nothing", opened_otherwise)
    assert two.value.code == "backend.two"


@pytest.mark.parametrize(
    "name", ["jail", "docker", "gvisor", "", "mine", ".", "a.", ".b", "a.b.c", "A.b", "a/b.c", "1.b"]
)
def test_no_other_name_can_be_registered_least_of_all_a_built_in_one(name: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        register_backend(name, opened)
    assert refused.value.code == "backend.name"


def test_a_name_that_nobody_registered_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there are docker, gvisor, jail") as unknown:
        opening("tests.of-nobody", tmp_path)
    assert unknown.value.code == "backend.unknown"


def test_nobody_leaves_an_image_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def make(_: Path) -> Image:
        begun.set()
        assert may_end.wait(PATIENCE_S)
        raise BoxFault("it was made to its end")

    async def cancel() -> None:
        making = asyncio.create_task(BackendSite(tmp_path, {}).image())
        assert await asyncio.to_thread(begun.wait, PATIENCE_S)
        making.cancel()
        await asyncio.wait([making], timeout=0.1)
        may_end.set()
        await making

    monkeypatch.setattr("belljar.sandbox.registry.ensure_image", make)
    with pytest.raises(BoxFault, match="to its end"):
        asyncio.run(cancel())
