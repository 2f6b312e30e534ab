"""What a test has for itself, a state folder above all, or a daemon: looked at when the test is over."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.daemons import HANG_S, Dock, dock_at
from tests.integration.support import Jar, adopting_orphans
from tests.waiting import until


@pytest.fixture
def jar(tmp_path: Path, images: Path) -> Iterator[Jar]:
    """A state folder. When the test is over: no process left, a log that verifies, books that balance."""
    with adopting_orphans():
        jar = Jar(tmp_path, images)
        yield jar
        jar.check()


@pytest.fixture
def dock(docker_host: str) -> Iterator[Dock]:
    """The session's daemon. When the test is over, no container of this process is on it."""
    with dock_at(docker_host) as dock:
        yield dock
        until(lambda: dock.ours() == [], seconds=HANG_S, what="no container is left")


@pytest.fixture
def collected() -> Iterator[None]:
    """What a test leaves to the garbage collector is collected while its own filter holds."""
    yield
    gc.collect()
