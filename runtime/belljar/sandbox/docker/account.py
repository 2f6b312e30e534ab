"""What the outside can prove about a living container.

Where this process sees the container's control groups, it reads them itself: that costs some 50 µs and cannot be slow.
Where it does not (the daemon is on another machine, or we are in a container of it), it asks the daemon, which costs
milliseconds and knows a little less. The scratch folder is looked at through the container's own root, at a fixed path
below a read-only image; a guest cannot put anything else there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any, Final

import msgspec

from belljar.errors import BoxFault
from belljar.sandbox.base import Evidence
from belljar.sandbox.cgroup import group_of
from belljar.sandbox.docker.daemon import Daemon

__all__ = ["Account"]

# Deadlines wait for whoever asks, and so cannot wait long for a daemon; a healthy one counts once a second.
_PATIENCE_S: Final = 1.5


class Account:
    """The account of one container. `close` gives back its handle."""

    def __init__(self, daemon: Daemon, container: str, pid: int) -> None:
        self._daemon = daemon
        self._container = container
        self._group = group_of(pid, container)
        self._scratch: int | None = None
        # What building the box took is not the guest's to pay.
        self._cpu_before_s = 0.0
        self._last = Evidence()
        self._asking: asyncio.Task[Evidence] | None = None
        if self._group is not None:
            with contextlib.suppress(OSError):  # not root, or gVisor, whose files the host does not see
                self._scratch = os.open(
                    Path("/proc", str(pid), "root", "tmp"), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
                )

    def limiting(self, pid: int) -> tuple[str, ...] | None:
        """The layers of control groups that hold for process `pid`; None where they are not to be seen from here."""
        return None if self._group is None else self._group.limiting(pid)

    async def begin(self) -> None:
        """From here on it is the guest's."""
        now = self._group.evidence() if self._group is not None else await self._ask()
        self._cpu_before_s = now.cpu_s or 0.0

    async def evidence(self) -> Evidence:
        """The account up to now; the last one when the container is gone, or the daemon slow."""
        now = self._group.evidence() if self._group is not None else await self._asked()
        if now != Evidence():
            cpu_s = None if now.cpu_s is None else max(0.0, now.cpu_s - self._cpu_before_s)
            self._last = msgspec.structs.replace(now, cpu_s=cpu_s)
        return self._last

    def scratch_full(self) -> bool | None:
        """None: cannot be seen from here."""
        if self._scratch is None:
            return None
        left = os.fstatvfs(self._scratch)
        return left.f_bavail == 0 or left.f_favail == 0

    def close(self) -> None:
        scratch, self._scratch = self._scratch, None
        if scratch is not None:
            os.close(scratch)
        if self._asking is not None:
            self._asking.cancel()

    async def _asked(self) -> Evidence:
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        asking = self._asking
        if not (await asyncio.wait({asking}, timeout=_PATIENCE_S))[0]:
            return Evidence()
        self._asking = None
        return Evidence() if asking.cancelled() else asking.result()

    async def _ask(self) -> Evidence:
        try:
            stats = await self._daemon.ask(self._daemon.client.stats, self._container, stream=False, one_shot=True)
        except BoxFault:
            return Evidence()
        return _evidence(stats)


def _evidence(stats: Any) -> Evidence:
    """From the daemon's statistics. Of a container that has ended they are empty."""
    cpu_ns = stats.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage")
    memory = stats.get("memory_stats", {})
    return Evidence(
        cpu_s=cpu_ns / 1e9 if cpu_ns else None,
        memory_peak_bytes=memory.get("max_usage") or memory.get("usage"),
    )
