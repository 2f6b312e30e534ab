"""One image, one state folder and one set of canaries for all escape tests; programs cost milliseconds then."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from belljar.audit import verify
from belljar.sandbox import ensure_image
from tests.escape.harness import Canaries, Escapes


@pytest.fixture(scope="session")
def escapes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Escapes]:
    """The boxes' surroundings. The environment of this process has a key in it while they last."""
    images, folder = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("escape")
    ensure_image(images)
    canaries = Canaries(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANTHROPIC_API_KEY", canaries.key)
        escapes = Escapes(folder, images, canaries)
        yield escapes
        escapes.close()
    assert escapes.survivors() == []
    assert not escapes.canaries.marker.exists()
    assert verify(escapes.audit).problems == []
