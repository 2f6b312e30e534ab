"""What a backend is: it builds boxes, each with one wire, two commands (interrupt and kill) and one end.

Nothing here knows the protocol: a box is a byte stream with a kill switch.
"""

from __future__ import annotations

import math
import resource
import secrets
from collections.abc import Collection, Mapping
from typing import Final, Protocol

import msgspec

from belljar.errors import BoxFault, LayerMissing

__all__ = [
    "Backend",
    "BoxEnd",
    "BoxSpec",
    "Evidence",
    "Sandbox",
    "check_layers",
    "check_own_limits",
    "chosen_hash_seed",
    "hash_environment",
    "rlimits",
]

# What Python accepts; 0 would turn its protection against chosen collisions off.
_HASH_SEED_MAX: Final = 2**32 - 1

# A backstop behind the pids group, which counts and can be read; the limit per user only refuses.
_NPROC_SPARE: Final = 8
# The kernel counts a process's time in ticks, the box's usage to the nanosecond: the two have been seen 2 % apart, and
# a program that wakes with the tick can widen that. This limit must never be reached first.
_CPU_SPARE_SHARE: Final = 1.0
_CPU_SPARE_S: Final = 5
# The rest of `memory` is for what is not new address space: initial pages that the process has changed, page tables,
# scratch. So a program that fills its memory gets a MemoryError, and is not killed.
_ADDRESS_SHARE: Final = 7 / 8
# gVisor's kernel has no Landlock. In the jail, Landlock guards the host's files and sockets against a guest that speaks
# to the host's kernel; under gVisor the guest does not speak to it.
# A control group's numbers are the kernel's own; a watch is the substitute where there is no group.
_STANDS_FOR: Final = {
    "landlock": "gvisor",
    "watched.memory": "cgroup.memory",
    "watched.cpu": "cgroup.cpu",
    "watched.pids": "cgroup.pids",
}


class BoxSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What one box may use. All limits are enforced from outside the guest program."""

    cpu_s: float
    memory_bytes: int
    processes: int
    scratch_bytes: int
    scratch_files: int
    open_files: int
    requires: tuple[str, ...]


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the outside can prove about a living box. None: this host does not count it.

    `memory_kills`: processes killed because of the box's memory, by the kernel or by the host's watch. `tasks_refused`:
    how often the kernel refused a task; where it does not count that, `tasks` is how many there are.
    `address_peak_bytes`: the most address space that the box's first process has had, beyond its initial size.
    """

    cpu_s: float | None = None
    memory_peak_bytes: int | None = None
    memory_kills: int | None = None
    tasks_refused: int | None = None
    tasks: int | None = None
    address_peak_bytes: int | None = None

    def completed(self, other: Evidence) -> Evidence:
        """This evidence, filled in from the other where this one has None."""
        mine = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}
        return msgspec.structs.replace(other, **mine)


class BoxEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a box ended, by the supervisor's own record, never by what the guest said.

    `killed`: we killed it. `signal`/`code`: the wait status of its first process. `cpu_s` and `max_rss_bytes`: what the
    kernel charged it and the children it reaped. `evidence`: the last evidence. `by_other`: somebody else outside
    killed or removed it. `lost`: the supervisor itself died, or does not say how the box ended.
    """

    evidence: Evidence = Evidence()
    killed: bool
    signal: int
    code: int
    cpu_s: float
    max_rss_bytes: int
    by_other: bool = False
    lost: bool = False


class Sandbox(Protocol):
    """One box, alive from birth. Serves one run; never reused.

    `layers` are those seen to hold in boxes of its kind, by trying them, not those that were requested.
    """

    layers: tuple[str, ...]

    async def send(self, *parts: bytes | memoryview) -> None:
        """Write to the wire. Raises ConnectionError when the box is gone."""

    async def receive(self) -> bytes:
        """The next bytes from the wire, at most one piece; `b""` when the box hung up."""

    def interrupt(self) -> None:
        """Ask the running cell to stop (SIGINT to the box's first process)."""

    async def evidence(self) -> Evidence:
        """What the outside can prove about the box up to now."""

    def scratch_full(self) -> bool:
        """Whether the scratch folder provably has no bytes or no files left at this moment.

        The host answers from what it already holds: it asks nothing inside the box, and does not wait.
        """

    async def wait(self, seconds: float) -> bool:
        """Whether the box dies by itself within `seconds`."""

    async def kill(self) -> BoxEnd:
        """Kill the box with SIGKILL and say how it ended. May be called again; returns the same end.

        What takes long to free is freed in the background; `Backend.aclose` waits for it.
        """


class Backend(Protocol):
    """Builds boxes, for any number of runs and policies."""

    @property
    def name(self) -> str:
        """Its name in policies."""

    async def start(self, spec: BoxSpec, about: Mapping[str, str] | None = None) -> Sandbox:
        """Build a box with the agent starting inside. `about` (run, tenant) labels it for people outside.

        Raises:
            LayerMissing: the host lacks a layer that `spec.requires`; the message has the remedy.
            BoxFault: it failed for any other reason.
        """

    async def warm(self, spec: BoxSpec, size: int) -> None:
        """Keep `size` boxes for `spec` ready from now on; returns when they are ready.

        From then on it also keeps as many for any other spec that `start` is asked for, but for no more than a few
        specs at a time: those that were asked for last. A backend that keeps none does nothing. Raises as `start`.
        """

    def ready(self) -> int:
        """How many boxes it has ready now that no run has had."""

    def about(self) -> Mapping[str, str]:
        """Facts for the log: `backend`, its name; `image`, the digest of its boxes' root file system; versions.

        Each fact's name is a lower-case word. A policy that pins an image accepts no backend without that digest.
        `hash_seed`: what the interpreters of all its boxes hash texts with, if it is `BackendSite.hash_seed`; it is
        logged with each run, so that a replay's sets have the same order.
        """

    async def aclose(self) -> None:
        """End everything that the backend keeps running, and every box that is left."""


def chosen_hash_seed(given: int | None) -> int:
    """What the boxes of a host hash texts with: what is given, as for a replay, or else a random number.

    It is the order of their sets. Were it known beforehand, a text could be written whose words all collide.
    """
    return 1 + secrets.randbelow(_HASH_SEED_MAX) if given is None else given


def hash_environment(hash_seed: int) -> dict[str, str]:
    """The environment of a box's interpreter while it starts. It is all of it: a box has none."""
    return {"PYTHONHASHSEED": str(hash_seed)}


def check_layers(backend: str, requires: Collection[str], layers: Collection[str]) -> None:
    """Check that a box may be used under a policy that requires these layers.

    Raises:
        LayerMissing: it lacks one of them.
    """
    missing = sorted(name for name in requires if name not in layers and _STANDS_FOR.get(name) not in layers)
    if missing:
        raise LayerMissing(
            f"the policy requires {', '.join(missing)}, which the {backend} backend does not give on this host: "
            "run `belljar doctor`, or choose another backend or policy",
            code="layer.missing",
        )


# Their option letters in the shell.
_ULIMIT: Final = {
    "CPU": "t",
    "AS": "v",
    "NPROC": "u",
    "NOFILE": "n",
    "FSIZE": "f",
    "STACK": "s",
    "MEMLOCK": "l",
    "MSGQUEUE": "q",
    "SIGPENDING": "i",
    "CORE": "c",
}


def rlimits(spec: BoxSpec, born_bytes: int | None = None) -> dict[str, int]:
    """What one process of a box may use, by the names of setrlimit(2) without their prefix.

    `born_bytes`: the initial address space of a box, most of it shared with its parent; a program may add a share of
    its memory to that. None where it is unknown: then all of it must fit into `memory`.
    """
    address = spec.memory_bytes if born_bytes is None else born_bytes + int(spec.memory_bytes * _ADDRESS_SHARE)
    return {
        # The box's own limit is more exact and gives the reason; this one holds when nobody can watch the box.
        "CPU": math.ceil(spec.cpu_s * (1 + _CPU_SPARE_SHARE)) + _CPU_SPARE_S,
        "AS": address,
        "NPROC": spec.processes + _NPROC_SPARE,
        "NOFILE": spec.open_files,
        "FSIZE": spec.scratch_bytes,
        "STACK": 8 * 2**20,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
        "SIGPENDING": 64,
        # Exactly 1 refuses core files and piped core handlers alike.
        "CORE": 1,
    }


def check_own_limits(spec: BoxSpec) -> None:
    """Check that this process's own hard limits are no lower than a box's: nobody can give more than they have.

    Raises:
        BoxFault: a limit that this process was started with is lower.
    """
    for name, wanted in rlimits(spec).items():
        _, hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise BoxFault(
                f"the limit RLIMIT_{name} that belljar was started with is {hard}, and a box of this policy needs "
                f"{wanted}: raise it (ulimit -H{_ULIMIT[name]})"
            )
