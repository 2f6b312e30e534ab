"""The service's image, made of this machine alone, on a real daemon: which layers of the jail hold in a container."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

from tests.integration.support import PATIENCE_S
from tests.waiting import until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
IMAGE = "belljar-service-tests"
CHANGES = re.findall(r"--change '([^']*)'", (ROOT / "Makefile").read_text("utf-8"))
# As docs/deploy.md and the files in deploy/ have them.
HARDENED: dict[str, Any] = {
    "security_opt": ["no-new-privileges", f"seccomp={(DEPLOY / 'seccomp.json').read_text('utf-8')}"],
    "cap_drop": ["ALL"],
    "read_only": True,
    "tmpfs": {"/tmp": "rw,exec", "/var/lib/belljar": "rw,exec,uid=10001,gid=10001,mode=700"},
}
OF_THE_KERNEL = {
    *("userns", "pidns", "mountns", "netns", "ipcns", "utsns", "cgroupns"),
    *("rootfs", "rlimits", "caps", "no_new_privs", "landlock", "seccomp"),
}
OF_CGROUPS = {"cgroup.memory", "cgroup.cpu", "cgroup.pids"}
SLOW_S = int(4 * PATIENCE_S)


@pytest.fixture(scope="module")
def daemon(docker_host: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[docker.APIClient]:
    """A daemon that has the image, as `make service-image` makes it."""
    archive = tmp_path_factory.mktemp("image") / "root.tar"
    with archive.open("wb") as file:
        subprocess.run([sys.executable, DEPLOY / "rootfs.py"], stdout=file, check=True)
    client = docker.APIClient(base_url=docker_host, version="1.41", timeout=SLOW_S)
    client.trust_env = False
    with contextlib.closing(client):
        client.import_image_from_file(str(archive), repository=IMAGE, changes=CHANGES)
        archive.unlink()
        yield client
        with contextlib.suppress(docker.errors.APIError):
            client.remove_image(IMAGE)


def ran(daemon: docker.APIClient, *command: str, user: str | None = None, **options: Any) -> tuple[int, str, str]:
    """A command in a container with these options: how it ended, and what it wrote."""
    host = daemon.create_host_config(network_mode="none", **options)
    made = daemon.create_container(IMAGE, list(command), host_config=host, user=user)
    try:
        daemon.start(made["Id"])
        code = daemon.wait(made["Id"], timeout=SLOW_S)["StatusCode"]
        told = [daemon.logs(made["Id"], stdout=out, stderr=not out).decode() for out in (True, False)]
        return code, told[0], told[1]
    finally:
        daemon.remove_container(made["Id"], force=True, v=True)


def held(report: str) -> set[str]:
    (jail,) = json.loads(report)["backends"]
    return {finding["name"] for finding in jail["findings"] if finding["ok"]}


def test_the_daemon_s_own_profile_lets_no_box_begin_and_doctor_says_so(daemon: docker.APIClient) -> None:
    code, report, _ = ran(daemon, "doctor", "--backend", "jail", "--json")
    assert code == 4
    (jail,) = json.loads(report)["backends"]
    assert not jail["starts"]
    assert "userns" in jail["reason"]


def test_with_the_profile_of_this_project_a_user_without_rights_has_all_layers_but_control_groups(
    daemon: docker.APIClient,
) -> None:
    code, report, _ = ran(daemon, "doctor", "--backend", "jail", "--json", **HARDENED)
    assert code == 0
    assert held(report) >= OF_THE_KERNEL
    assert not held(report) & OF_CGROUPS
    code, told, complaints = ran(daemon, "demo", **HARDENED)
    assert code == 0, complaints
    assert re.search(r"status +ok\n", told)
    assert "log      verifies" in told


# Orders a run of the service beside it, and says how that ended.
ASKING = """
import json, sys, urllib.request
url, key = sys.argv[1:]
order = json.dumps({"question": "What is it?", "model": "scripted:demo"}).encode()
headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "Prefer": "wait=60"}
with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/runs", order, headers)) as answer:
    print(json.load(answer)["state"]["state"])
"""


def test_a_service_in_a_container_does_what_it_is_asked_and_ends_well(daemon: docker.APIClient) -> None:
    host = daemon.create_host_config(network_mode="none", **HARDENED)
    made = daemon.create_container(IMAGE, ["serve", "--json"], host_config=host)["Id"]
    try:
        daemon.start(made)
        until(lambda: b"}" in daemon.logs(made, stderr=False), seconds=SLOW_S, what="it listens")
        told = json.loads(daemon.logs(made, stderr=False))
        command = ["/usr/local/bin/python3", "-I", "-c", ASKING, told["url"], told["key"]]
        asking = daemon.exec_create(made, command)["Id"]
        assert daemon.exec_start(asking) == b"ok\n"
        daemon.stop(made, timeout=SLOW_S)
        assert daemon.wait(made, timeout=SLOW_S)["StatusCode"] == 0
    finally:
        daemon.remove_container(made, force=True, v=True)


def test_where_control_groups_are_handed_over_the_kernel_counts_too(daemon: docker.APIClient) -> None:
    """To root of the container, who owns them, and who needs the usual rights to start a box as nobody."""
    options = HARDENED | {"tmpfs": {"/tmp": "rw,exec", "/var/lib/belljar": "rw,exec,mode=700"}, "cap_drop": None}
    groups = ["/sys/fs/cgroup:/sys/fs/cgroup:rw"]
    code, report, _ = ran(daemon, "doctor", "--backend", "jail", "--json", user="0:0", binds=groups, **options)
    assert code == 0
    assert held(report) >= OF_THE_KERNEL | OF_CGROUPS


def test_there_is_no_shell_and_nothing_that_gives_rights(daemon: docker.APIClient) -> None:
    made = daemon.create_container(IMAGE, ["--version"])
    try:
        names = subprocess.run(
            ["tar", "-tvf", "-"], input=b"".join(daemon.export(made["Id"])), capture_output=True, check=True
        ).stdout.decode()
    finally:
        daemon.remove_container(made["Id"], force=True, v=True)
    lines = names.splitlines()
    assert not [line for line in lines if re.search(r"/(ba|da)?sh$|/busybox$|/(pip|apt|su|sudo)$", line)]
    assert not [line for line in lines if re.match(r"-..s|-.....s", line)]
    about = daemon.inspect_image(IMAGE)["Config"]  # type: ignore[no-untyped-call]
    assert about["User"] == "10001:10001"
    assert about["Cmd"] == ["serve"]


def test_both_recipes_give_the_image_the_same_settings() -> None:
    recipe = (DEPLOY / "Dockerfile").read_text("utf-8").rpartition("FROM scratch")[2].splitlines()
    settings = [line for line in recipe if line and not line.startswith(("#", "COPY"))]

    def words(lines: list[str]) -> list[str]:
        return sorted(word for line in lines for word in line.removeprefix("ENV ").split(" "))

    assert words(settings) == words(CHANGES)


def test_the_files_for_kubernetes_and_systemd_are_sound() -> None:
    unit = (DEPLOY / "belljar.service").read_text("utf-8")
    assert "RestrictNamespaces=yes" not in unit
    manifests = (DEPLOY / "kubernetes" / "belljar.yaml").read_text("utf-8")
    for wanted in (
        "readOnlyRootFilesystem: true",
        "allowPrivilegeEscalation: false",
        "drop: [ALL]",
        "/readyz",
        "/livez",
    ):
        assert wanted in manifests
    refused = json.loads((DEPLOY / "seccomp.json").read_text("utf-8"))["syscalls"][0]["names"]
    assert not {"unshare", "clone", "mount", "pivot_root", "keyctl", "setns"} & set(refused)
    assert {"bpf", "io_uring_setup", "kexec_load", "init_module"} <= set(refused)
