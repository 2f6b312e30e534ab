"""What a backend is: something that builds boxes, each with one wire, two orders and one end.

Nothing here knows the protocol: a box is a byte stream with a kill switch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

__all__ = ["Backend", "BoxEnd", "BoxSpec", "Evidence", "Sandbox"]


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

    `memory_kills` and `tasks_refused` count the kernel's refusals; `scratch_full` is whether the scratch folder has no
    byte or no file left at this moment.
    """

    cpu_s: float | None = None
    memory_peak_bytes: int | None = None
    memory_kills: int | None = None
    tasks_refused: int | None = None
    scratch_full: bool = False


class BoxEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a box ended, by the supervisor's own record: never by what the guest said.

    `killed`: we gave the order. `signal`/`code`: the wait status of its first process. `cpu_s` and `max_rss_bytes`:
    what the kernel charged it and the children it reaped. `evidence`: the last account. `lost`: the supervisor itself
    died.
    """

    evidence: Evidence = Evidence()
    killed: bool
    signal: int
    code: int
    cpu_s: float
    max_rss_bytes: int
    lost: bool = False


class Sandbox(Protocol):
    """One box, alive from birth. Serves one run; never reused."""

    layers: tuple[str, ...]

    async def send(self, *parts: bytes | memoryview) -> None:
        """Write to the wire. Raises ConnectionError when the box is gone."""

    async def receive(self) -> bytes:
        """What came over the wire, up to one piece; `b""` when the box hung up."""

    def interrupt(self) -> None:
        """Ask the running cell to stop (SIGINT to the box's first process)."""

    def evidence(self) -> Evidence:
        """The outside's account of the box up to now."""

    async def wait(self, seconds: float) -> bool:
        """Whether the box dies by itself within `seconds`."""

    async def kill(self) -> BoxEnd:
        """SIGKILL, wait for the end (bounded), free everything. May be called again; gives the same end."""


class Backend(Protocol):
    """Builds boxes. `image_digest` and `probe` are for the log and for `doctor`."""

    name: str

    async def start(self, spec: BoxSpec) -> Sandbox:
        """Build a box with the agent starting inside.

        Raises:
            LayerMissing: the host does not give a layer that `spec.requires`; says the remedy.
            BoxFault: it failed for any other reason.
        """

    def about(self) -> Mapping[str, str]:
        """Facts for the log: image digest, versions."""

    async def aclose(self) -> None:
        """End what the backend keeps running, and every box that is left."""
