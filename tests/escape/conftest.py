"""One state folder and one set of canaries a file: programs cost milliseconds then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from belljar.audit import verify
from tests.escape.harness import BACKENDS, Canaries, Escapes


@pytest.fixture(scope="module", params=BACKENDS)
def escapes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, images: Path
) -> Iterator[Escapes]:
    """The surroundings of one backend's boxes. The environment of this process has a key in it while they last."""
    # Whoever tests the jail alone needs no daemon.
    host = "" if request.param == "jail" else request.getfixturevalue("docker_host")
    folder = tmp_path_factory.mktemp("escape")
    canaries = Canaries(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANTHROPIC_API_KEY", canaries.key)
        escapes = Escapes(folder, images, canaries, backend=request.param, docker_host=host)
        yield escapes
        left = escapes.close()
    assert left == []
    assert not escapes.canaries.marker.exists()
    assert verify(escapes.audit).problems == []
