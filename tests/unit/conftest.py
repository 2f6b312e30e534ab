"""What holds for all units: what they write need not outlive the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A server takes seconds to start, and `make quick` installs none."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "postgres" in fixtures or ("store" in fixtures and item.name.endswith(("[postgresql]", "-postgresql]"))):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def _nothing_waits_for_the_disk() -> Iterator[None]:
    """A disk that others keep busy takes many milliseconds for each file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield
