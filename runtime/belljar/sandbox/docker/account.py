"""What the outside can prove about a living container, and how to kill it.

Where this process sees the container's control groups, it reads them itself: that takes about 50 µs and cannot be slow.
Where it does not (the daemon is on another machine, or we are in one of its containers), it asks the daemon, which
takes milliseconds and knows a little less.

The scratch folder is looked at through a descriptor, taken by way of the first process's root before any guest code
runs. It shows what is left of that file system whatever becomes of the process. Where there is none (no root, another
machine, or gVisor, whose files the host does not see), nobody knows whether scratch is full: Belljar asks nothing
inside the box and starts no program there, because the guest could stop whatever answered, or answer itself.

Through another handle, of the first process (under gVisor, of its kernel), the container is killed without the daemon,
which may be slow. It still has to be removed after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Any, Final

import msgspec

from belljar.errors import BoxFault
from belljar.sandbox.base import Evidence
from belljar.sandbox.cgroup import group_of
from belljar.sandbox.docker.daemon import Daemon

__all__ = ["Account"]

# A daemon may count only once a second, and deadlines wait for the caller: a late answer is used the next time.
_PATIENCE_S: Final = 0.25
# The last question has no next time.
_LAST_S: Final = 1.5


class Account:
    """The evidence about one container. `close` closes its handles."""

    def __init__(self, daemon: Daemon, container: str, pid: int, scratch_bytes: int) -> None:
        self._daemon = daemon
        self._container = container
        # The handle comes first: if the pid has gone to another process by now, that is in another group.
        process = _process(pid)
        self._group = group_of(pid, container)
        self._scratch = _scratch(pid, scratch_bytes) if self._group is not None else None
        self._process = process
        if self._group is None:
            self._process = None
            _close(process)
        # The guest does not pay for building the box.
        self._cpu_before_s = 0.0
        self._last = Evidence()
        self._asking: asyncio.Task[Evidence] | None = None

    @property
    def nearby(self) -> bool:
        """Whether the container is on this machine, as far as can be seen."""
        return self._group is not None

    def limiting(self, pid: int) -> tuple[str, ...]:
        """The control group layers that are seen to hold for process `pid`."""
        return () if self._group is None else self._group.limiting(pid)

    async def begin(self) -> None:
        """Start charging the guest from here on."""
        now = self._group.evidence() if self._group is not None else await self._ask()
        self._cpu_before_s = now.cpu_s or 0.0

    async def evidence(self, *, last: bool = False) -> Evidence:
        """The evidence up to now; the previous one if the container is gone or the daemon is slow.

        `last`: nobody will ask again.
        """
        patience_s = _LAST_S if last else _PATIENCE_S
        now = self._group.evidence() if self._group is not None else await self._asked(patience_s)
        if now != Evidence():
            cpu_s = None if now.cpu_s is None else max(0.0, now.cpu_s - self._cpu_before_s)
            self._last = msgspec.structs.replace(now, cpu_s=cpu_s)
        return self._last

    def scratch_full(self) -> bool:
        """Whether it provably is; False also where it cannot be seen from here."""
        if self._scratch is None:
            return False
        left = os.fstatvfs(self._scratch)
        return left.f_bavail == 0 or left.f_favail == 0

    def kill(self) -> None:
        """Send SIGKILL, where the container is on this machine and we may; asks nobody."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def close(self) -> None:
        handles = self._scratch, self._process
        self._scratch = self._process = None
        for handle in handles:
            _close(handle)
        if self._asking is not None:
            self._asking.cancel()

    async def _asked(self, patience_s: float) -> Evidence:
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        asking = self._asking
        if not (await asyncio.wait({asking}, timeout=patience_s))[0]:
            return Evidence()
        self._asking = None
        return Evidence() if asking.cancelled() else asking.result()

    async def _ask(self) -> Evidence:
        try:
            stats = await self._daemon.ask(self._daemon.client.stats, self._container, stream=False, one_shot=True)
        except BoxFault:
            return Evidence()
        return _evidence(stats)


def _process(pid: int) -> int | None:
    """A handle of this process, or None where it does not exist."""
    try:
        return os.pidfd_open(pid) if pid > 0 else None
    except OSError:
        return None


def _close(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)


def _scratch(pid: int, scratch_bytes: int) -> int | None:
    """A handle of the scratch folder in this process's root, or None; it must have the size that was ordered."""
    try:
        folder = os.open(Path("/proc", str(pid), "root", "tmp"), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    whole = os.fstatvfs(folder)
    if 0 <= whole.f_blocks * whole.f_frsize - scratch_bytes < whole.f_frsize:
        return folder
    os.close(folder)
    return None


def _evidence(stats: Any) -> Evidence:
    """Evidence from the daemon's statistics, which are empty for a container that has ended."""
    cpu_ns = stats.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage")
    memory = stats.get("memory_stats", {})
    return Evidence(
        cpu_s=cpu_ns / 1e9 if cpu_ns else None,
        memory_peak_bytes=memory.get("max_usage") or memory.get("usage"),
    )
