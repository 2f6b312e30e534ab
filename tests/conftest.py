"""What holds for all tests: how they are started does not matter, and Docker is there for whoever asks.

A test waits for a state and not for a time, so a property has no deadline, and a signal does in a process that a test
starts what it does everywhere, though this one was started by `nohup`, or in the background, with signals ignored.

Docker is the daemon that `DOCKER_HOST` names, else a private one, and PostgreSQL always a private one; each is started
when it is first needed. They are, with a provider's mock and `strace`, the only things for which a test may be skipped,
and not under `CI=true`: there, what cannot be tested fails.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import hypothesis
import pytest
import requests

from belljar.sandbox import ensure_image
from belljar.sandbox.docker.creator import LABEL, creator, is_gone
from tests.containers import containers
from tests.daemon import PrivateDaemon, Unavailable, answers
from tests.devices import devices
from tests.postgres import Postgres
from tests.postgres import Unavailable as NoPostgres

LABEL_DIGEST = "belljar.digest"
_ANSWER_S = 60
_LEFT_S = 60.0

hypothesis.settings.register_profile("belljar", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("quick", hypothesis.settings.get_profile("belljar"), max_examples=25)
hypothesis.settings.load_profile("belljar")


def _signals_as_usual() -> None:
    """For the processes that tests start. This one goes on ignoring what it was told to ignore."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)  # a handler is not inherited by a program, as to ignore is
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


_signals_as_usual()


def pytest_collection_finish() -> None:
    """What is loaded stays: no collection of garbage looks through it again, which took a twentieth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test has a user's keys, nor leaves any behind."""
    home = tmp_path_factory.mktemp("keys")
    os.environ["BELLJAR_KEYS"] = str(home / "keys")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("belljar.keys.home", lambda: str(home))
        yield


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the image of the running interpreter: one for all workers, or one that outlives these tests.

    Whoever comes first makes it, and the others wait for the lock of `ensure_image`.
    """
    if kept := os.environ.get("BELLJAR_TEST_IMAGES"):
        folder = Path(kept)
    else:
        own = tmp_path_factory.getbasetemp()
        folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "images"
    ensure_image(folder)
    return folder


@pytest.fixture(scope="session")
def docker_host() -> Iterator[str]:
    """The address of a Docker daemon. In the end no container of ours is on it, and no image that the tests loaded.

    The host's devices are as they were, whatever was started there.
    """
    at_first = devices()
    with contextlib.ExitStack() as stack:
        host, daemon = os.environ.get("DOCKER_HOST", ""), None
        if not host or not _reachable(host):
            daemon = _private_daemon(stack)
            host = daemon.host
        client = stack.enter_context(contextlib.closing(_client(host)))
        containers, images = set(_left(client)), _images(client)
        yield host
        deadline = time.monotonic() + _LEFT_S
        while (left := set(_left(client)) - containers) and time.monotonic() < deadline:
            time.sleep(0.05)
        for container in left:
            with contextlib.suppress(docker.errors.APIError):  # it goes at this very moment
                client.remove_container(container, force=True, v=True)
        for image in _images(client) - images:
            with contextlib.suppress(docker.errors.APIError):  # somebody else uses it by now
                client.remove_image(image)
        assert not left, f"containers left behind: {left}\n{daemon.log() if daemon else ''}"
    assert devices() == at_first


@pytest.fixture
def private_daemon() -> Iterator[PrivateDaemon]:
    """A daemon for one test alone, which may stop it."""
    with contextlib.ExitStack() as stack:
        yield _private_daemon(stack)


def _private_daemon(stack: contextlib.ExitStack) -> PrivateDaemon:
    try:
        return stack.enter_context(PrivateDaemon())
    except Unavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no Docker daemon: {error}")
        pytest.skip(f"no Docker daemon: {error}")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for all tests of this process. None of them may leave it stopped."""
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(Postgres())
        except NoPostgres as error:
            if os.environ.get("CI") == "true":
                pytest.fail(f"no PostgreSQL: {error}")
            pytest.skip(f"no PostgreSQL: {error}")
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the journals of a test are that names none or a file: there, or each in a database of its own."""
    if request.param == "sqlite":
        yield "sqlite"
    else:
        server: Postgres = request.getfixturevalue("postgres")
        known: dict[Path, str] = {}

        def place(path: Path | str | None) -> str:
            if isinstance(path, str):
                return path
            if path is None:
                return server.database()
            if path not in known:
                known[path] = server.database()
            return known[path]

        monkeypatch.setattr("tests.journals.place", place)
        yield "postgresql"
        server.drop()


def _client(host: str) -> docker.APIClient:
    client = docker.APIClient(base_url=host, version="1.41", timeout=_ANSWER_S)
    client.trust_env = False  # no proxy, no password of the user's
    return client


def _reachable(host: str) -> bool:
    if host.startswith("unix://"):
        return answers(host)
    try:
        with contextlib.closing(_client(host)) as client:
            client.ping()
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError):
        return False
    return True


def _left(client: docker.APIClient) -> list[str]:
    """The containers of runtimes that are no more, and of this process: those of others may live."""
    creators = {str(one["Id"]): str(one["Labels"][LABEL]) for one in containers(client, LABEL)}
    return [container for container, name in creators.items() if name == creator() or is_gone(name)]


def _images(client: docker.APIClient) -> set[str]:
    found: list[dict[str, Any]] = client.images(filters={"label": LABEL_DIGEST})
    return {str(image["Id"]) for image in found}
