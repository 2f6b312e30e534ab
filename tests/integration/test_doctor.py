"""`belljar doctor` over all backends: what it finds in a healthy daemon, and what it says of one that is not."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from belljar.doctor import _layer, examine
from belljar.identity import BACKENDS
from belljar.policy import LAYERS, load
from belljar.sandbox.docker.versions import runc_holes
from tests.daemon import PROGRAMS, PrivateDaemon
from tests.integration.support import Jar, Outcome

ENTRY = {"backend", "starts", "reason", "run_ms", "facts", "findings"}
DAEMON_FACTS = {
    *("daemon", "engine", "containerd", "cgroup_version", "userns_remap", "rootless", "seccomp", "guest_kernel")
}
FACTS = {
    "jail": {"guest_kernel"},
    "docker": DAEMON_FACTS | {"runc", "runc_holes"},
    "gvisor": DAEMON_FACTS | {"runsc", "runsc_path", "platform"},
}


def backends(outcome: Outcome) -> dict[str, dict[str, Any]]:
    listed = outcome.document["backends"]
    assert all(entry.keys() == ENTRY for entry in listed)
    return {entry["backend"]: entry for entry in listed}


def findings(entry: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {finding["name"]: finding for finding in entry["findings"]}


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """An environment whose daemon does not exist."""
    return {"DOCKER_HOST": f"unix://{tmp_path}/docker.sock"}


# -------------------------------------------------------------------------------------------------------------- healthy


@pytest.fixture(scope="module")
def examined(docker_host: str, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """One examination of all backends, which several tests look at."""
    jar = Jar(tmp_path_factory.mktemp("doctor"), images)
    yield jar("doctor", "--json", env={"DOCKER_HOST": docker_host})
    jar.check()


def test_it_tries_every_backend_of_the_policy(examined: Outcome) -> None:
    assert examined.code == 0
    found = backends(examined)
    assert tuple(found) == BACKENDS
    for name, entry in found.items():
        assert (entry["starts"], entry["reason"]) == (True, ""), name
        assert entry["facts"].keys() == FACTS[name]
        assert entry["run_ms"] > 0
        assert {finding["name"] for finding in entry["findings"]} >= set(LAYERS)
        assert len([finding for finding in entry["findings"] if finding["name"].startswith("out of reach: ")]) > 20
        assert all(finding["ok"] for finding in entry["findings"] if finding["required"])
    assert findings(found["jail"])["own_uid"]["ok"] is (os.geteuid() == 0)


def test_a_program_gets_the_same_as_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a command: typed findings, each of which that does not hold says whose it is."""
    policy = load("standard")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    report = asyncio.run(examine(policy, ["docker"], state=tmp_path))
    (backend,) = report.backends
    assert (report.policy, report.starts, backend.backend, bool(backend.reason)) == ("standard", False, "docker", True)
    assert all((finding.culprit is None) == finding.ok for finding in backend.findings)


def test_it_examines_the_image_that_the_host_has(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object) -> None:
        raise OSError("nothing is built")

    monkeypatch.setattr("belljar.sandbox.image._publish", build)
    monkeypatch.setenv("BELLJAR_HOME", str(tmp_path / "home"))
    report = asyncio.run(examine(load("standard"), ["jail"]))
    assert (report.starts, "nothing is built" in report.reason) == (False, True)
    assert not (tmp_path / "home").exists()
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "home" / "images").symlink_to(images)
    report = asyncio.run(examine(load("standard"), ["jail"]))
    assert (report.starts, report.reason) == (True, "")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["images"]


def test_another_machine_is_refused_by_name(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").symlink_to(images)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    report = asyncio.run(examine(load("standard"), ["jail"], state=tmp_path))
    assert (report.starts, report.reason.startswith("this machine is aarch64")) == (False, True), report.reason


def test_whose_fault_a_missing_layer_is_depends_on_the_backend() -> None:
    policy = load("standard")
    made = {backend: _layer("pidns", policy, backend, (), False) for backend in BACKENDS}
    assert [(made[name].ok, made[name].culprit) for name in BACKENDS] == [
        (False, "host"),
        (False, "daemon"),
        (False, "daemon"),
    ]
    assert all(finding.exposes and finding.remedy for finding in made.values())


def test_who_cannot_give_boxes_uids_of_their_own_is_told_so(jar: Jar) -> None:
    """In a user namespace that maps one uid nobody can have another; so it is for every ordinary user."""
    alone = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
    outcome = jar("doctor", "--json", "--backend", "jail", before=alone)
    assert outcome.code == 0, outcome
    found = findings(outcome.document)["own_uid"]
    assert (found["ok"], found["required"]) == (False, False)
    assert "boxes share one uid of the host" in found["exposes"]


def test_the_top_of_the_document_is_of_the_default_backend(examined: Outcome) -> None:
    document = examined.document
    first = document["backends"][0]
    assert first["backend"] == "jail"
    assert {key: document[key] for key in ENTRY - {"facts"}} == {key: first[key] for key in ENTRY - {"facts"}}
    assert (document["kernel"], document["policy"]) == (platform.release(), "standard")


def test_runc_is_judged_by_its_version(examined: Outcome) -> None:
    docker = backends(examined)["docker"]
    holes = runc_holes(docker["facts"]["runc"])
    assert holes is not None
    finding = findings(docker)["runc without known holes"]
    assert docker["facts"]["runc_holes"] == list(holes)
    assert (finding["ok"], finding["required"]) == (not holes, False)
    assert all(hole in finding["exposes"] for hole in holes)
    assert not holes or "unless your distribution has patched it" in finding["exposes"]


def test_the_kernel_that_the_guest_sees_is_the_hosts_or_gvisors(examined: Outcome) -> None:
    found = backends(examined)
    seen = {name: entry["facts"]["guest_kernel"] for name, entry in found.items()}
    assert platform.release() in seen["jail"]
    assert seen["docker"].startswith("Linux ")
    assert seen["gvisor"].startswith("Linux ")
    assert seen["gvisor"] != seen["docker"]
    assert findings(found["gvisor"])["a kernel that is not the host's"]["required"]
    assert [findings(found[name])["gvisor"]["ok"] for name in BACKENDS] == [False, False, True]


def test_gvisor_tells_its_platform_and_what_stands_for_landlock(examined: Outcome) -> None:
    gvisor = backends(examined)["gvisor"]
    assert gvisor["facts"]["platform"]
    assert gvisor["facts"]["runsc_path"].endswith("runsc")
    landlock = findings(gvisor)["landlock"]
    assert (landlock["ok"], landlock["note"]) == (True, "another layer stands for it")
    assert findings(gvisor)["seccomp"]["note"] == ""


def test_a_person_reads_the_same(jar: Jar, docker_host: str) -> None:
    outcome = jar("doctor", "--backend", "gvisor", env={"DOCKER_HOST": docker_host})
    assert (outcome.code, outcome.stderr) == (0, "")
    assert "gvisor:\n" in outcome.stdout
    assert f"{'':<14}daemon: {docker_host}\n" in outcome.stdout
    assert f"{'':<14}platform: " in outcome.stdout
    assert "gvisor: the policy standard can start; a whole run took" in outcome.stdout
    assert "jail" not in outcome.stdout


# ------------------------------------------------------------------------------------------------------------ unhealthy


def test_no_daemon_is_no_failure_if_nobody_asked(jar: Jar, nowhere: dict[str, str]) -> None:
    outcome = jar("doctor", "--json", env=nowhere)
    assert outcome.code == 0
    assert outcome.document["starts"] is True
    for name in ("docker", "gvisor"):
        entry = backends(outcome)[name]
        assert (entry["starts"], entry["findings"]) == (False, [])
        assert entry["reason"].startswith(f"no Docker daemon answers at {nowhere['DOCKER_HOST']}: ")
    plain = jar("doctor", env=nowhere)
    assert plain.code == 0
    assert f"\ndocker: no Docker daemon answers at {nowhere['DOCKER_HOST']}: " in plain.stdout


@pytest.mark.parametrize("asked", [("docker",), ("jail", "docker"), ("docker", "jail", "docker")])
def test_no_daemon_is_a_failure_for_who_asked(jar: Jar, nowhere: dict[str, str], asked: tuple[str, ...]) -> None:
    outcome = jar("doctor", "--json", *(word for name in asked for word in ("--backend", name)), env=nowhere)
    assert outcome.code == 4
    assert outcome.document["backend"] == asked[0]
    assert list(backends(outcome)) == list(dict.fromkeys(asked))


def test_no_daemon_is_a_failure_where_it_is_the_default(jar: Jar, nowhere: dict[str, str]) -> None:
    policy = jar.policy('[box]\nbackends = ["docker"]')
    outcome = jar("doctor", "--json", "--policy", policy, env=nowhere)
    assert (outcome.code, outcome.document["backend"], outcome.document["starts"]) == (4, "docker", False)
    assert list(backends(outcome)) == ["docker"]


def test_a_backend_that_the_policy_does_not_allow(jar: Jar) -> None:
    policy = jar.policy('[box]\nbackends = ["jail"]\nlanguages = ["python"]')
    assert list(backends(jar("doctor", "--json", "--policy", policy))) == ["jail"]
    outcome = jar("doctor", "--json", "--policy", policy, "--backend", "gvisor")
    assert outcome.code == 4
    assert outcome.document["reason"] == "the policy does not allow the backend gvisor; it allows jail"


def test_a_daemon_that_says_nothing(jar: Jar) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(jar.work / "s"))
        listener.listen()
        outcome = jar("doctor", "--json", "--backend", "docker", env={"DOCKER_HOST": f"unix://{jar.work}/s"})
    assert outcome.code == 4
    assert "did not answer within 5 s" in outcome.document["reason"]


@pytest.mark.parametrize("host", ["unix://", "nonsense://x", "tcp://127.0.0.1:1"])
def test_an_address_that_is_none(jar: Jar, host: str) -> None:
    outcome = jar("doctor", "--json", "--backend", "docker", env={"DOCKER_HOST": host})
    assert outcome.code == 4
    assert host in outcome.document["reason"]
    assert "Traceback" not in outcome.stderr


def test_a_daemon_without_gvisor(jar: Jar, private_daemon: PrivateDaemon, tmp_path: Path) -> None:
    private_daemon.close()
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("dockerd", "containerd", "containerd-shim-runc-v2", "runc", "docker-init"):
        if place := shutil.which(name, path=PROGRAMS):
            (programs / name).symlink_to(place)
    with PrivateDaemon(programs=str(programs)) as daemon:
        outcome = jar("doctor", "--json", env={"DOCKER_HOST": daemon.host})
    assert outcome.code == 0, outcome.stderr
    found = backends(outcome)
    assert found["docker"]["starts"] is True
    assert found["gvisor"]["starts"] is False
    assert "has no runtime runsc: install gVisor" in found["gvisor"]["reason"]


def test_a_runsc_that_is_not_gvisor(jar: Jar, private_daemon: PrivateDaemon, tmp_path: Path) -> None:
    """Nobody is told that a second kernel is there because something is called so."""
    private_daemon.close()
    impostor = tmp_path / "runsc"
    impostor.write_text('#!/bin/sh\nshift 2\nexec runc "$@"\n')
    impostor.chmod(0o755)
    with PrivateDaemon(programs=f"{tmp_path}{os.pathsep}{PROGRAMS}") as daemon:
        outcome = jar("doctor", "--json", "--backend", "gvisor", env={"DOCKER_HOST": daemon.host})
    assert outcome.code == 4, outcome.stderr
    assert outcome.document["starts"] is False
    assert "does not put gVisor's kernel under a box" in outcome.document["reason"]
    assert backends(outcome)["gvisor"]["facts"]["runsc_path"] == str(impostor)


# In a mount namespace of its own, so that the machine's device stays as it is.
GIVEN_AWAY = """\
import ctypes, os, sys
libc, at = ctypes.CDLL(None, use_errno=True), os.path.abspath("null").encode()
assert libc.unshare(0x20000) == 0
assert libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None) == 0
os.mknod(at, 0o20666, os.makedev(1, 3))
os.chmod(at, 0o660)
os.chown(at, 65534, 65534)
assert libc.mount(at, b"/dev/null", None, 0x1000, None) == 0
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.skipif("os.geteuid() != 0", reason="only root makes devices")
def test_a_device_that_was_given_away_is_told_with_the_remedy(jar: Jar) -> None:
    outcome = jar("doctor", "--json", "--backend", "jail", before=(sys.executable, "-c", GIVEN_AWAY))
    finding = findings(backends(outcome)["jail"])["devices of this machine that boxes have"]
    assert not finding["ok"]
    assert finding["exposes"].startswith("/dev/null belongs to 65534:65534 with mode 660: ")
    assert finding["remedy"] == "chown root:root /dev/null; chmod 666 /dev/null"


def test_devices_of_root_are_well(examined: Outcome) -> None:
    for entry in backends(examined).values():
        assert findings(entry)["devices of this machine that boxes have"]["ok"]
