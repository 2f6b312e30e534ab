"""What the outside can prove about a living container, and its end.

Where this process sees the container's control groups, it reads them itself: that costs some 50 µs and cannot be slow.
Where it does not (the daemon is on another machine, or we are in a container of it), it asks the daemon, which costs
milliseconds and knows a little less.

The scratch folder is looked at through a descriptor of it, taken by way of the first process's root before any guest
code runs. It shows what is left of that file system whatever becomes of the process. Where it cannot be had (no root,
another machine, gVisor, whose files the host does not see) nobody knows whether scratch is full: nothing inside the
box is ever asked, and no program started there, because whatever answered would be the guest's to stop or to answer.

By another handle, of the first process (under gVisor, of the kernel that it has), the container is killed without the
daemon, which may be slow. It then still has to be removed.
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

# A daemon may count only once a second, and deadlines wait for whoever asks: what comes later is there for the next.
_PATIENCE_S: Final = 0.25
# After the last account there is no next.
_LAST_S: Final = 1.5


class Account:
    """The account of one container. `close` gives back its handles."""

    def __init__(self, daemon: Daemon, container: str, pid: int, scratch_bytes: int) -> None:
        self._daemon = daemon
        self._container = container
        # The handle first: by then the number may be another process's, which is in another group.
        process = _process(pid)
        self._group = group_of(pid, container)
        self._scratch = _scratch(pid, scratch_bytes) if self._group is not None else None
        self._process = process
        if self._group is None:
            self._process = None
            _close(process)
        # What building the box took is not the guest's to pay.
        self._cpu_before_s = 0.0
        self._last = Evidence()
        self._asking: asyncio.Task[Evidence] | None = None

    @property
    def nearby(self) -> bool:
        """Whether the container is on this machine, as far as can be seen."""
        return self._group is not None

    def limiting(self, pid: int) -> tuple[str, ...]:
        """The layers of control groups that are seen to hold for process `pid`."""
        return () if self._group is None else self._group.limiting(pid)

    async def begin(self) -> None:
        """From here on it is the guest's."""
        now = self._group.evidence() if self._group is not None else await self._ask()
        self._cpu_before_s = now.cpu_s or 0.0

    async def evidence(self, *, last: bool = False) -> Evidence:
        """The account up to now; the one before when the container is gone, or the daemon slow.

        `last`: nobody will ask again.
        """
        patience_s = _LAST_S if last else _PATIENCE_S
        now = self._group.evidence() if self._group is not None else await self._asked(patience_s)
        if now != Evidence():
            cpu_s = None if now.cpu_s is None else max(0.0, now.cpu_s - self._cpu_before_s)
            self._last = msgspec.structs.replace(now, cpu_s=cpu_s)
        return self._last

    def scratch_full(self) -> bool:
        """Whether it is proved to be; False also where it cannot be seen from here."""
        if self._scratch is None:
            return False
        left = os.fstatvfs(self._scratch)
        return left.f_bavail == 0 or left.f_favail == 0

    def kill(self) -> None:
        """SIGKILL, where the container is on this machine and we may; nobody is asked."""
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
    """A handle of this process, or None where there is no such."""
    try:
        return os.pidfd_open(pid) if pid > 0 else None
    except OSError:
        return None


def _close(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)


def _scratch(pid: int, scratch_bytes: int) -> int | None:
    """A handle of the scratch folder in the root of this process, or None; it must have the size that was ordered."""
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
    """From the daemon's statistics. Of a container that has ended they are empty."""
    cpu_ns = stats.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage")
    memory = stats.get("memory_stats", {})
    return Evidence(
        cpu_s=cpu_ns / 1e9 if cpu_ns else None,
        memory_peak_bytes=memory.get("max_usage") or memory.get("usage"),
    )
