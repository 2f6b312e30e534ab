"""One box image for all tests of a session; a state folder of its own for each, checked when the test is over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from belljar.sandbox import ensure_image
from tests.integration.support import Jar, adopting_orphans


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the image of the running interpreter: one of the tests' own, or one that outlives them."""
    kept = os.environ.get("BELLJAR_TEST_IMAGES")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("images")
    ensure_image(folder)
    return folder


@pytest.fixture
def jar(tmp_path: Path, images: Path) -> Iterator[Jar]:
    """A state folder. When the test is over: no process left, a log that verifies, books that balance."""
    with adopting_orphans():
        jar = Jar(tmp_path, images)
        yield jar
        jar.check()
