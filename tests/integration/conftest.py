"""A state folder of its own for each test, checked when the test is over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.support import Jar, adopting_orphans


@pytest.fixture
def jar(tmp_path: Path, images: Path) -> Iterator[Jar]:
    """A state folder. When the test is over: no process left, a log that verifies, books that balance."""
    with adopting_orphans():
        jar = Jar(tmp_path, images)
        yield jar
        jar.check()
