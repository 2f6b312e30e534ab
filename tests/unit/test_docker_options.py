"""The template of a container, and the comparison of what was ordered with what a daemon says it made."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest

from belljar.sandbox import BoxSpec
from belljar.sandbox.base import hash_environment
from belljar.sandbox.docker.options import PROCESSES_MIN, RuntimeName, differences, host_config

SPEC = BoxSpec(
    cpu_s=20, memory_bytes=2**29, processes=64, scratch_bytes=2**22, scratch_files=64, open_files=64, requires=()
)
IMAGE = "sha256:ours"
RUNTIMES: list[RuntimeName] = ["runc", "runsc"]
ORDERED = host_config(SPEC, "runc", "{}")
OPTIONS = [
    *("Runtime", "NetworkMode", "ReadonlyRootfs", "Tmpfs", "CapDrop", "SecurityOpt", "IpcMode", "CgroupnsMode"),
    *(
        "PidsLimit",
        "Memory",
        "MemorySwap",
        "MemorySwappiness",
        "NanoCpus",
        "Ulimits",
        "LogConfig",
        "Init",
        "RestartPolicy",
        "AutoRemove",
    ),
]
# What the daemon's description has for an option that it does not know, or that somebody has changed.
WRONG: dict[str, Any] = {
    "Runtime": "other",
    "NetworkMode": "default",
    "ReadonlyRootfs": False,
    "Tmpfs": {**ORDERED["Tmpfs"], "/tmp": "rw,nosuid,nodev"},
    "CapDrop": ["NET_RAW"],
    "SecurityOpt": [ORDERED["SecurityOpt"][0], "seccomp=unconfined"],
    "IpcMode": "shareable",
    "CgroupnsMode": "host",
    "PidsLimit": 0,
    "Memory": ORDERED["Memory"] * 2,
    "MemorySwap": -1,
    "MemorySwappiness": 60,
    "NanoCpus": 2 * 10**9,
    "Ulimits": ORDERED["Ulimits"][1:],
    "LogConfig": {"Type": "json-file", "Config": {}},
    "Init": True,
    "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0},
    "AutoRemove": True,
}
UNWANTED: dict[str, Any] = {
    "Privileged": True,
    "CapAdd": ["SYS_ADMIN"],
    "Binds": ["/:/host"],
    "Mounts": [{"Type": "bind", "Source": "/", "Target": "/host"}],
    "VolumesFrom": ["other"],
    "VolumeDriver": "local",
    "Devices": [{"PathOnHost": "/dev/kvm"}],
    "DeviceCgroupRules": ["a *:* rwm"],
    "DeviceRequests": [{"Count": -1}],
    "GroupAdd": ["0"],
    "Links": ["other"],
    "ExtraHosts": ["a:1.2.3.4"],
    "PortBindings": {"80/tcp": [{}]},
    "PublishAllPorts": True,
    "Sysctls": {"net.ipv4.ip_forward": "1"},
    "PidMode": "host",
    "UTSMode": "host",
    "UsernsMode": "host",
    "OomKillDisable": True,
    "OomScoreAdj": -1000,
}
WRONG_CONFIG: dict[str, Any] = {
    "User": "",
    "OpenStdin": False,
    "Hostname": "other",
    "Entrypoint": ["/bin/sh"],
    "Env": ["HTTP_PROXY=x"],
    "Cmd": ["-c"],
    "Volumes": {"/data": {}},
    "Tty": True,
    "Healthcheck": {"Test": ["CMD", "true"]},
    "Domainname": "example.org",
}


def described(ordered: dict[str, Any]) -> dict[str, Any]:
    """What a daemon says that has done what was ordered, as 20.10 says it."""
    nothing: dict[str, Any] = dict.fromkeys(UNWANTED)
    nothing |= {"Privileged": False, "PidMode": "", "UTSMode": "", "UsernsMode": "", "PortBindings": {}}
    nothing |= {"OomKillDisable": False, "OomScoreAdj": 0, "VolumeDriver": "", "PublishAllPorts": False}
    entrypoint = ["/usr/bin/python3", "-s", "-P", "-S", "-B", "-X", "utf8", "/usr/lib/belljar/guest/box/boot.py"]
    return {
        "Image": IMAGE,
        "Mounts": [],
        "HostConfig": {**nothing, **copy.deepcopy(ordered)},
        "Config": {
            "User": "65534:65534",
            "OpenStdin": True,
            "Hostname": "belljar",
            "Entrypoint": entrypoint,
            "Env": [],
            "Cmd": [],
            "Volumes": None,
            "Tty": False,
            "Domainname": "",
        },
    }


def test_what_came_as_ordered_has_no_difference() -> None:
    for runtime in RUNTIMES:
        ordered = host_config(SPEC, runtime, "{}")
        assert differences(described(ordered), ordered, IMAGE) == []


def test_the_table_of_options_is_whole() -> None:
    assert sorted(ORDERED) == sorted(OPTIONS) == sorted(WRONG)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_that_comes_back_different_is_named(option: str) -> None:
    found = described(ORDERED)
    found["HostConfig"][option] = WRONG[option]
    assert differences(found, ORDERED, IMAGE) == [option]


@pytest.mark.parametrize("option", [option for option in OPTIONS if option != "MemorySwappiness"])
def test_an_option_that_the_daemon_does_not_know_is_named(option: str) -> None:
    found = described(ORDERED)
    del found["HostConfig"][option]
    assert differences(found, ORDERED, IMAGE) == [option]


@pytest.mark.parametrize("option", UNWANTED)
def test_what_nobody_ordered_is_named(option: str) -> None:
    found = described(ORDERED)
    found["HostConfig"][option] = UNWANTED[option]
    assert differences(found, ORDERED, IMAGE) == [option]


@pytest.mark.parametrize("option", WRONG_CONFIG)
def test_another_configuration_is_named(option: str) -> None:
    found = described(ORDERED)
    found["Config"][option] = WRONG_CONFIG[option]
    assert differences(found, ORDERED, IMAGE) == [option]


def test_the_environment_is_what_was_ordered_and_nothing_more() -> None:
    found, environment = described(ORDERED), hash_environment(7)
    assert differences(found, ORDERED, IMAGE, environment=environment) == ["Env"]
    found["Config"]["Env"] = ["PYTHONHASHSEED=7"]
    assert differences(found, ORDERED, IMAGE, environment=environment) == []
    found["Config"]["Env"] = ["PYTHONHASHSEED=7", "PYTHONPATH=/tmp"]
    assert differences(found, ORDERED, IMAGE, environment=environment) == ["Env"]


def test_another_image_and_a_mount_are_named() -> None:
    found = {**described(ORDERED), "Image": "sha256:other", "Mounts": [{"Destination": "/data"}]}
    assert differences(found, ORDERED, IMAGE) == ["Image", "Mounts"]


def test_several_differences_are_all_named() -> None:
    found = described(ORDERED)
    found["HostConfig"] |= {"PidsLimit": None, "Memory": 0, "Privileged": True}
    assert differences(found, ORDERED, IMAGE) == ["PidsLimit", "Memory", "Privileged"]


def test_a_limit_that_the_daemon_gives_everybody_is_no_difference() -> None:
    found = described(ORDERED)
    found["HostConfig"]["Ulimits"] += [{"Name": "nproc", "Soft": 100, "Hard": 100}]
    assert differences(found, ORDERED, IMAGE) == []
    found["HostConfig"]["Ulimits"][0]["Hard"] += 1
    assert differences(found, ORDERED, IMAGE) == ["Ulimits"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_template_takes_numbers_and_nothing_else(runtime: RuntimeName) -> None:
    """Whatever the limits are, only these values change."""
    other = msgspec.structs.replace(SPEC, memory_bytes=2**28, processes=32, scratch_bytes=2**20, open_files=32)
    one, two = host_config(SPEC, runtime, "{}"), host_config(other, runtime, "{}")
    assert one.keys() == two.keys()
    changed = {name for name in one if one[name] != two[name]}
    assert changed == {"Tmpfs", "PidsLimit", "Memory", "MemorySwap", "Ulimits"}


def test_there_is_no_swap_and_the_second_kernel_has_room() -> None:
    for runtime in RUNTIMES:
        ordered = host_config(SPEC, runtime, "{}")
        assert ordered["Memory"] == ordered["MemorySwap"]
    extra = host_config(SPEC, "runsc", "{}")
    assert extra["Memory"] - ORDERED["Memory"] == 96 * 2**20
    assert extra["PidsLimit"] - ORDERED["PidsLimit"] == 512


def test_few_processes_are_ordered_after_the_start() -> None:
    few = msgspec.structs.replace(SPEC, processes=4)
    assert host_config(few, "runc", "{}")["PidsLimit"] == PROCESSES_MIN


def test_a_daemon_without_swappiness_is_no_difference() -> None:
    """Version 2 of control groups has none; what it means for swap is `cgroup.memory`'s to say."""
    found = described(ORDERED)
    found["HostConfig"]["MemorySwappiness"] = None
    assert differences(found, ORDERED, IMAGE) == []


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_box_has_its_own_user_and_its_scratch_folder_is_that_user_s(runtime: RuntimeName) -> None:
    ordered = host_config(SPEC, runtime, "{}", 1784741899)
    assert "uid=1784741899,gid=1784741899" in ordered["Tmpfs"]["/tmp"]
    found = described(ordered)
    assert differences(found, ordered, IMAGE, 1784741899) == ["User"]
    found["Config"]["User"] = "1784741899:1784741899"
    assert differences(found, ordered, IMAGE, 1784741899) == []
