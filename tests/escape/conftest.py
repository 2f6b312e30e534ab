"""One image for all escape tests, one state folder and one set of canaries a file: programs cost milliseconds then."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from belljar.audit import verify
from belljar.sandbox import ensure_image
from tests.escape.harness import BACKENDS, Canaries, Escapes


@pytest.fixture(scope="session")
def box_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the image of the running interpreter: one of the tests' own, or one that outlives them."""
    kept = os.environ.get("BELLJAR_TEST_IMAGES")
    images = Path(kept) if kept else tmp_path_factory.mktemp("images")
    ensure_image(images)
    return images


@pytest.fixture(scope="module", params=BACKENDS)
def escapes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, box_images: Path
) -> Iterator[Escapes]:
    """The surroundings of one backend's boxes. The environment of this process has a key in it while they last."""
    # Whoever tests the jail alone needs no daemon.
    host = "" if request.param == "jail" else request.getfixturevalue("docker_host")
    folder = tmp_path_factory.mktemp("escape")
    canaries = Canaries(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANTHROPIC_API_KEY", canaries.key)
        escapes = Escapes(folder, box_images, canaries, backend=request.param, docker_host=host)
        yield escapes
        left = escapes.close()
    assert left == []
    assert not escapes.canaries.marker.exists()
    assert verify(escapes.audit).problems == []
