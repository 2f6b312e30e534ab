"""What is read from a daemon's account of itself, and which runc is known to be broken."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from belljar.sandbox.docker.versions import DEFAULT_PLATFORM, Engine, Runsc, read_engine, runc_holes

LEAK = ("CVE-2024-21626",)
MASKS = ("CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881")

DEBIAN_VERSION: dict[str, Any] = {
    "Platform": {"Name": ""},
    "Components": [
        {"Name": "Engine", "Version": "20.10.24+dfsg1", "Details": {"ApiVersion": "1.41", "GitCommit": "5d6db84"}},
        {"Name": "containerd", "Version": "1.6.20~ds1", "Details": {"GitCommit": "1.6.20~ds1-1+deb12u3"}},
        {"Name": "runc", "Version": "1.1.5+ds1", "Details": {"GitCommit": "1.1.5+ds1-1+deb12u1"}},
        {"Name": "docker-init", "Version": "0.19.0", "Details": {"GitCommit": ""}},
    ],
    "Version": "20.10.24+dfsg1",
}
DEBIAN_INFO: dict[str, Any] = {
    "ServerVersion": "20.10.24+dfsg1",
    "KernelVersion": "6.1.0-28-amd64",
    "CgroupDriver": "cgroupfs",
    "CgroupVersion": "1",
    "Runtimes": {
        "io.containerd.runc.v2": {"path": "runc"},
        "runc": {"path": "runc"},
        "runsc": {"path": "/usr/bin/runsc", "runtimeArgs": ["--platform=ptrace", "--network=none"]},
    },
    "SecurityOptions": ["name=seccomp,profile=default"],
    "SwapLimit": True,
}
UPSTREAM_VERSION: dict[str, Any] = {
    "Platform": {"Name": "Docker Engine - Community"},
    "Components": [
        {"Name": "Engine", "Version": "28.3.2", "Details": {"ApiVersion": "1.51"}},
        {
            "Name": "containerd",
            "Version": "1.7.27",
            "Details": {"GitCommit": "05044ec0a9a75232cad458027ca83437aae3f4da"},
        },
        {"Name": "runc", "Version": "1.2.8", "Details": {"GitCommit": "v1.2.8-0-geeb7e602"}},
    ],
    "Version": "28.3.2",
}
UPSTREAM_INFO: dict[str, Any] = {
    "KernelVersion": "6.8.0-60-generic",
    "CgroupVersion": "2",
    "Runtimes": {
        "runc": {"path": "runc", "status": {"features": "{}"}},
        "runsc": {"runtimeType": "io.containerd.runsc.v1"},
    },
    "SecurityOptions": [
        "name=apparmor",
        "name=seccomp,profile=builtin",
        "name=rootless",
        "name=cgroupns",
        "name=userns",
    ],
}


def test_debian_s_own_daemon() -> None:
    assert read_engine(DEBIAN_VERSION, DEBIAN_INFO) == Engine(
        engine="20.10.24+dfsg1",
        containerd="1.6.20~ds1-1+deb12u3",
        runc="1.1.5+ds1-1+deb12u1",
        runsc=Runsc(path="/usr/bin/runsc", platform="ptrace"),
        kernel="6.1.0-28-amd64",
        cgroup_version="1",
        seccomp="default",
        userns_remap=False,
        rootless=False,
        swap_limit=True,
    )


def test_a_rootless_daemon_of_today() -> None:
    assert read_engine(UPSTREAM_VERSION, UPSTREAM_INFO) == Engine(
        engine="28.3.2",
        containerd="1.7.27",
        runc="1.2.8",
        runsc=Runsc(path="", platform=DEFAULT_PLATFORM),
        kernel="6.8.0-60-generic",
        cgroup_version="2",
        seccomp="builtin",
        userns_remap=True,
        rootless=True,
        swap_limit=False,
    )


@pytest.mark.parametrize("nothing", [{}, {"Components": None, "Runtimes": None, "SecurityOptions": None}])
def test_what_is_not_said_is_empty(nothing: dict[str, Any]) -> None:
    engine = read_engine(nothing, nothing)
    assert (engine.engine, engine.containerd, engine.runc, engine.seccomp, engine.runsc) == ("", "", "", "", None)
    assert not engine.rootless
    assert not engine.userns_remap
    assert not engine.swap_limit


@pytest.mark.parametrize(
    ("arguments", "platform"),
    [
        (["--platform=systrap"], "systrap"),
        (["-platform=kvm", "--network=none"], "kvm"),
        (["--network=none", "--platform", "ptrace"], "ptrace"),
        (["--platform=kvm", "--platform=systrap"], "systrap"),
        (["--platform_device_path=/dev/kvm"], DEFAULT_PLATFORM),
        ([], DEFAULT_PLATFORM),
        (None, DEFAULT_PLATFORM),
    ],
)
def test_the_platform_of_gvisor(arguments: list[str] | None, platform: str) -> None:
    info = copy.deepcopy(DEBIAN_INFO)
    info["Runtimes"]["runsc"]["runtimeArgs"] = arguments
    runsc = read_engine(DEBIAN_VERSION, info).runsc
    assert runsc is not None
    assert runsc.platform == platform


@pytest.mark.parametrize(
    ("version", "holes"),
    [
        ("1.0.0-rc93", LEAK + MASKS),
        ("1.0.0~rc93+ds1-5+deb11u3", LEAK + MASKS),
        ("1.1.5+ds1", LEAK + MASKS),
        ("1.1.5+ds1-1+deb12u1", LEAK + MASKS),
        ("1.1.11", LEAK + MASKS),
        ("1.1.12", MASKS),
        ("1.1.12-0ubuntu2~22.04.1", MASKS),
        ("v1.1.15-0-gbc20cb4", MASKS),
        ("1.2.0-rc.1", MASKS),
        ("1.2.7", MASKS),
        ("1.2.8", ()),
        ("1.2.10", ()),
        ("1.3.0-rc.2", MASKS),
        ("1.3.2", MASKS),
        ("1.3.3+ds1-2", ()),
        ("1.4.0-rc.1", MASKS),
        ("1.4.0-rc.2+dev", MASKS),
        ("1.4.0-rc.3", ()),
        ("1.4.0", ()),
        ("1.5.0-rc.1", ()),
        ("2.0.0", ()),
    ],
)
def test_known_holes_by_version(version: str, holes: tuple[str, ...]) -> None:
    assert runc_holes(version) == holes


@pytest.mark.parametrize("version", ["", "unknown", "<unknown>", "1.1", "crun 1.8"])
def test_a_version_that_nobody_can_read_is_neither_good_nor_bad(version: str) -> None:
    assert runc_holes(version) is None
