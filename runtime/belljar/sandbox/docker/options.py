"""What our containers are made with: one fixed template and a few numbers, to which a caller can add nothing.

Access to the daemon is root on its host, so this module offers no way to ask it for anything else. After the start the
daemon's own description of the container is compared with what was ordered (`differences`), because a daemon ignores
options that it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from belljar.sandbox.base import BoxSpec, rlimits
from belljar.sandbox.image import AGENT, INTERPRETER
from belljar.sandbox.uids import NOBODY

__all__ = [
    "ENTRYPOINT",
    "HOSTNAME",
    "PROCESSES_MIN",
    "USER",
    "RuntimeName",
    "differences",
    "host_config",
    "user",
]

RuntimeName = Literal["runc", "runsc"]

_SCRATCH: Final = "/tmp"  # noqa: S108 - inside the box
USER: Final = f"{NOBODY}:{NOBODY}"
HOSTNAME: Final = "belljar"
ENTRYPOINT: Final = (*INTERPRETER, AGENT)
# runc's own threads are in the container until it becomes our program, and need room. A lower limit is set after that.
PROCESSES_MIN: Final = 16
# gVisor's kernel and file server run in the container's group: their memory, and their threads.
_SENTRY_BYTES: Final = 96 * 2**20
_SENTRY_THREADS: Final = 512
# The resource limits that the daemon can set as well; `boot` sets these and the others from inside.
_ULIMITS: Final = ("nofile", "fsize", "stack", "memlock", "msgqueue", "sigpending", "core")


def user(uid: int) -> str:
    """The user and the group of a box, in Docker's format: one number for both."""
    return f"{uid}:{uid}"


def host_config(spec: BoxSpec, runtime: RuntimeName, profile: str, uid: int = NOBODY) -> dict[str, Any]:
    """The `HostConfig` of a container for `spec` that runs as `uid`, with `profile` as its seccomp filter."""
    limits = rlimits(spec)
    second_kernel = runtime == "runsc"
    memory = spec.memory_bytes + (_SENTRY_BYTES if second_kernel else 0)
    return {
        "Runtime": runtime,
        # No interface but its own loopback, no route, no names; abstract Unix sockets are separate as well.
        "NetworkMode": "none",
        # All boxes share the image, so none may change it.
        "ReadonlyRootfs": True,
        # The only writable place: bounded, not executable, in memory and so charged to the box. And an empty one over
        # /sys, of which Docker hides only parts.
        "Tmpfs": {
            _SCRATCH: f"rw,noexec,nosuid,nodev,size={spec.scratch_bytes},nr_inodes={spec.scratch_files},"
            f"mode=0700,uid={uid},gid={uid}",
            "/sys": "ro,noexec,nosuid,nodev,size=4k",
            # gVisor makes a writable one if there is none.
            **({"/dev/shm": "ro,noexec,nosuid,nodev,size=4k"} if second_kernel else {}),  # noqa: S108
        },
        # The bounding set is empty, and nothing is added.
        "CapDrop": ["ALL"],
        # A set-id program gains nothing; and our allowlist replaces Docker's, which lets io_uring and ptrace through.
        "SecurityOpt": ["no-new-privileges:true", f"seccomp={profile}"],
        # Private, and without the /dev/shm that "private" brings: it would be a second place to write.
        "IpcMode": "none",
        # With version 1 of control groups the default is the host's.
        "CgroupnsMode": "private",
        # Tasks, threads included: what stops a fork bomb.
        "PidsLimit": max(spec.processes, PROCESSES_MIN) + (_SENTRY_THREADS if second_kernel else 0),
        # Equal, so that there is no swap; where a daemon does not count swap, the kernel is told not to swap this box.
        "Memory": memory,
        "MemorySwap": memory,
        "MemorySwappiness": 0,
        # One CPU over all processes of the box.
        "NanoCpus": 10**9,
        "Ulimits": [
            *({"Name": name, "Soft": limits[name.upper()], "Hard": limits[name.upper()]} for name in _ULIMITS),
            {"Name": "rtprio", "Soft": 0, "Hard": 0},
            {"Name": "nice", "Soft": 0, "Hard": 0},
        ],
        # Its output is our wire; a log would be an unbounded copy of it on the host's disk.
        "LogConfig": {"Type": "none", "Config": {}},
        # Ours is the first process, even where the daemon would add an init.
        "Init": False,
        # A box serves one run: it is never restarted, and it is inspected before it is removed.
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": False,
    }


def differences(
    inspected: Mapping[str, Any],
    ordered: Mapping[str, Any],
    image: str,
    uid: int = NOBODY,
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    """The names of the options that the daemon has not applied as ordered, and of those that it has added."""
    found: Mapping[str, Any] = inspected["HostConfig"]
    config: Mapping[str, Any] = inspected["Config"]
    wrong = [name for name, value in ordered.items() if not _holds(name, found.get(name), value)]
    wrong += [name for name, value in {"User": user(uid), **_CONFIG}.items() if config.get(name) != value]
    # What was not ordered must not be there.
    wrong += [name for name in _ABSENT if found.get(name)]
    wrong += [name for name in _ABSENT_CONFIG if config.get(name)]
    # The interpreter reads it: there is what was ordered, and nothing of an image's or of the daemon's.
    if sorted(config.get("Env") or ()) != sorted(f"{name}={value}" for name, value in (environment or {}).items()):
        wrong.append("Env")
    if inspected["Image"] != image:
        wrong.append("Image")
    if inspected["Mounts"]:
        wrong.append("Mounts")
    return wrong


def _holds(name: str, found: Any, ordered: Any) -> bool:
    if name == "Ulimits":  # the daemon may add its own defaults
        return all(limit in (found or ()) for limit in ordered)
    if name == "MemorySwappiness":  # version 2 of control groups has none; there swap has its own limit
        return found in (None, ordered)
    return bool(found == ordered)


# If its input is not attached, a container is started with the host's /dev/null, and gVisor's runtime makes the box's
# user the owner of whatever it is given.
_CONFIG: Final = {"OpenStdin": True, "Hostname": HOSTNAME, "Entrypoint": list(ENTRYPOINT)}
_ABSENT_CONFIG: Final = ("Cmd", "Volumes", "Tty", "Healthcheck", "Domainname")
_ABSENT: Final = (
    "Privileged",
    "CapAdd",
    "Binds",
    "Mounts",
    "VolumesFrom",
    "VolumeDriver",
    "Devices",
    "DeviceCgroupRules",
    "DeviceRequests",
    "GroupAdd",
    "Links",
    "ExtraHosts",
    "PortBindings",
    "PublishAllPorts",
    "Sysctls",
    "PidMode",
    "UTSMode",
    "UsernsMode",
    # A box that runs out of memory would wait instead of ending.
    "OomKillDisable",
    "OomScoreAdj",
)
