"""`deploy/compose.yaml` as it stands, with the real compose, on a daemon with a network: the service beside PostgreSQL.

The service's image is the one of `make service-image`; that of PostgreSQL is made of this machine's packages, under the
name that the file has. What compose publishes on loopback is on the loopback of the daemon's own network namespace.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import docker
import pytest

from tests import postgres_image
from tests.daemon import PrivateDaemon, Unavailable
from tests.integration.support import PATIENCE_S
from tests.integration.test_service_image import ASKING, CHANGES, DEPLOY
from tests.postgres import PROGRAMS
from tests.waiting import until

pytestmark = pytest.mark.slow

SLOW_S = 4 * PATIENCE_S
URL = "http://127.0.0.1:8765"
# Whether the service is ready.
LOOKING = """
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1] + "/readyz").status)
"""


class Composed:
    """The project of `deploy/compose.yaml` on a daemon of its own."""

    def __init__(self, daemon: PrivateDaemon, compose: Sequence[str], home: Path) -> None:
        self._daemon = daemon
        self._compose = compose
        self._environ = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(home),
            "DOCKER_HOST": daemon.host,
            "POSTGRES_PASSWORD": "of-a-test",
            "COMPOSE_PROJECT_NAME": "belljar",
        }

    def __call__(self, *words: str) -> str:
        return self._run([*self._compose, *words])

    def asked(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        """What a client on the daemon's machine hears."""
        return self._ran([sys.executable, "-I", "-c", program, *words])

    def _run(self, command: Sequence[str]) -> str:
        done = self._ran(command)
        assert done.returncode == 0, done.stderr + self._daemon.log()
        return done.stdout

    def _ran(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        words = ["env", *(f"{name}={value}" for name, value in self._environ.items()), *command]
        return subprocess.run(
            self._daemon.within(*words), cwd=DEPLOY, capture_output=True, text=True, timeout=SLOW_S, check=False
        )


@pytest.fixture
def composed(tmp_path: Path) -> Iterator[Composed]:
    programs = max(PROGRAMS.glob("*/bin/postgres"), default=None)
    compose = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    known = (
        subprocess.run([*compose, "version"], capture_output=True, check=False) if shutil.which(compose[0]) else None
    )
    if programs is None or known is None or known.returncode:
        _not_here("PostgreSQL or docker-compose is not installed")
    with contextlib.ExitStack() as stack:
        try:
            daemon = stack.enter_context(PrivateDaemon(network=True))
        except Unavailable as error:
            _not_here(f"no Docker daemon with a network: {error}")
        _images(daemon.host, tmp_path, programs.parent.parent)
        yield Composed(daemon, compose, tmp_path)


def _not_here(why: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


def _images(host: str, folder: Path, programs: Path) -> None:
    client = docker.APIClient(base_url=host, version="1.41", timeout=int(SLOW_S))
    client.trust_env = False
    archive = folder / "root.tar"
    with contextlib.closing(client):
        with archive.open("wb") as file:
            subprocess.run([sys.executable, DEPLOY / "rootfs.py"], stdout=file, check=True)
        client.import_image_from_file(str(archive), repository="belljar-service", tag="local", changes=CHANGES)
        postgres_image.pack(archive, programs)
        client.import_image_from_file(str(archive), repository="postgres", tag="16", changes=postgres_image.CHANGES)
        archive.unlink()


def test_the_composed_service_takes_an_order_over_its_port_and_its_books_are_right_after_it_stopped(
    composed: Composed,
) -> None:
    key = composed("run", "--rm", "belljar", "key", "make", "--role", "admin").split()[-1]
    composed("up", "-d")
    until(lambda: composed.asked(LOOKING, URL).stdout == "200\n", seconds=SLOW_S, what="it is ready")
    asked = composed.asked(ASKING, URL, key)
    assert asked.stdout == "ok\n", asked.stderr
    composed("stop")
    ended = composed("ps", "-q", "belljar").split()
    assert len(ended) == 1
    told = composed("run", "--rm", "belljar", "audit", "verify")  # it fails where anything is not as it was written
    found = re.match(r"(\d+) records of 1 run,", told)
    assert found, told
    assert f"the first {found[1]} records are signed" in told
    composed("down", "-v")
