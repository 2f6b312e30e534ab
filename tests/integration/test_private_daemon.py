"""The tests' own Docker daemon: it does what it is for, and nothing of it is left, however its user ends."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import psutil
import pytest

from tests.daemon import CONTROL_GROUPS, PrivateDaemon, Unavailable, answers
from tests.integration.support import adopting_orphans, no_process_left, until

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "sleeper:1"
RUNTIMES = ["runc", "runsc"]


@contextlib.contextmanager
def talking_to(daemon: PrivateDaemon) -> Iterator[docker.APIClient]:
    with contextlib.closing(docker.APIClient(base_url=daemon.host, version="1.41", timeout=60)) as client:
        yield client


def sleeper() -> bytes:
    """The smallest image that does something: `sleep` and what it is linked against."""
    program = shutil.which("sleep")
    assert program is not None
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", dereference=True) as tar:
        tar.add(program, "sleep")
        for library in re.findall(r"/\S+", linked):
            tar.add(library)
    return archive.getvalue()


def start_box(client: docker.APIClient, runtime: str) -> int:
    """A container that ignores SIGTERM, as any first process does; the pid of its process."""
    if not client.images(IMAGE):
        client.import_image_from_data(sleeper(), repository="sleeper", tag="1")
    config = client.create_host_config(network_mode="none", runtime=runtime)
    # With an input of its own: for none, runsc is given the host's /dev/null, and gives it away.
    container = client.create_container(
        IMAGE, ["/sleep", "1000"], stdin_open=True, host_config=config, use_config_proxy=False
    )
    client.start(container)
    state: dict[str, Any] = client.inspect_container(container)["State"]
    assert state["Running"]
    return int(state["Pid"])


def traces(folder: str) -> list[str]:
    """What there is of a daemon: its folder, processes, mounts in any namespace, control groups."""
    found = [folder] if Path(folder).exists() else []
    found += [str(group) for group in CONTROL_GROUPS.glob(f"*/{Path(folder).name}")]
    found += [str(group) for group in CONTROL_GROUPS.glob(Path(folder).name)]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, OSError):
            # Containerd's and the shims' command lines name the folder, a box's own does not: but its mounts do.
            mounts = Path(f"/proc/{process.pid}/mountinfo").read_text("utf-8", "replace")
            if folder in " ".join(process.cmdline()) or folder in mounts:
                found.append(f"process {process.pid}")
    return found


def test_it_answers_and_knows_both_runtimes(private_daemon: PrivateDaemon) -> None:
    with talking_to(private_daemon) as client:
        info = client.info()
    assert set(RUNTIMES) <= info["Runtimes"].keys()
    assert info["DockerRootDir"] == f"{private_daemon.folder}/data"
    assert psutil.Process(private_daemon.pid).name() == "dockerd"


def test_two_do_not_know_each_other(private_daemon: PrivateDaemon) -> None:
    with PrivateDaemon() as other, talking_to(private_daemon) as one, talking_to(other) as two:
        start_box(one, "runc")
        assert two.containers(all=True) == []
        assert two.images() == []
    assert traces(str(other.folder)) == []
    assert answers(private_daemon.host)


@pytest.mark.parametrize("orphan", [False, True], ids=["stopped", "killed"])
def test_it_starts_again_with_its_data(private_daemon: PrivateDaemon, orphan: bool) -> None:
    before = private_daemon.pid
    with talking_to(private_daemon) as client:
        client.import_image_from_data(sleeper(), repository="sleeper", tag="1")
        (image,) = client.images(IMAGE)
    if orphan:
        os.kill(before, signal.SIGKILL)
        until(lambda: not psutil.pid_exists(before), what="dockerd is gone")
    else:
        private_daemon.stop()
        assert private_daemon.pid == 0
    assert not answers(private_daemon.host)
    private_daemon.start()
    assert private_daemon.pid not in (0, before)
    with talking_to(private_daemon) as client:
        assert client.images(IMAGE) == [image]


def test_nothing_is_left_of_it_nor_of_its_boxes(private_daemon: PrivateDaemon) -> None:
    folder = str(private_daemon.folder)
    with talking_to(private_daemon) as client:
        boxes = [start_box(client, runtime) for runtime in RUNTIMES]
    assert len(traces(folder)) > 4
    # Nothing of it is among this machine's mounts, even while it runs.
    assert folder not in Path("/proc/self/mountinfo").read_text("utf-8")
    private_daemon.close()
    assert traces(folder) == []
    assert not [pid for pid in boxes if psutil.pid_exists(pid)]


ENDS_AT_ONCE = """
import os, signal
from tests.daemon import PrivateDaemon
from tests.integration.test_private_daemon import start_box, talking_to
with PrivateDaemon() as daemon:
    with talking_to(daemon) as client:
        print(daemon.folder, *(start_box(client, runtime) for runtime in ("runc", "runsc")), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_goes_with_a_process_that_is_killed(private_daemon: PrivateDaemon) -> None:
    private_daemon.close()  # asked for because where it cannot be, another cannot either
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", ENDS_AT_ONCE], capture_output=True, text=True, env=environ, check=False
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    folder, *boxes = ended.stdout.split()
    until(lambda: traces(folder) == [], what="nothing is left")
    until(lambda: not [pid for pid in boxes if psutil.pid_exists(int(pid))], what="the boxes have ended")


def test_it_is_no_child_of_whoever_looks_for_children(private_daemon: PrivateDaemon) -> None:
    private_daemon.close()
    with adopting_orphans(), PrivateDaemon() as daemon:
        no_process_left(seconds=0)
        assert answers(daemon.host)


def test_a_machine_without_docker_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"dockerd is not installed.*DOCKER_HOST"):
        PrivateDaemon(programs=str(tmp_path))


def test_a_daemon_that_cannot_start_says_why(private_daemon: PrivateDaemon, tmp_path: Path) -> None:
    private_daemon.close()
    program = tmp_path / "dockerd"
    program.write_text("#!/bin/sh\necho no such luck\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(Unavailable, match="no such luck"), PrivateDaemon(programs=f"{tmp_path}:{os.defpath}"):
        raise AssertionError
