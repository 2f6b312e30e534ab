"""A service for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.service.support import Client, Serving, hold_up_for_long, serving
from tests.integration.support import Jar


@pytest.fixture
def held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for before the service is."""
    hold_up_for_long(monkeypatch)


@pytest.fixture
def service(jar: Jar) -> Iterator[Serving]:
    with serving(jar) as running:
        yield running


@pytest.fixture
def admin(service: Serving) -> Iterator[Client]:
    with service.client() as client:
        yield client
