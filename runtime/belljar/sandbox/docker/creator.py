"""Whose container is it? Each of ours carries its creator's name, so that the next start can remove what a dead creator
left behind, and nothing else.

The name holds the machine and its host name (copies of a machine may share its number), its boot, the pid namespace and
the process with its start time. We cannot tell whether a process on another machine or in another pid namespace is
alive, so its containers are left alone.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

from belljar.processes import identity, is_alive

__all__ = ["LABEL", "creator", "is_gone"]

LABEL: Final = "belljar.creator"


def creator() -> str:
    """This process: `MACHINE/BOOT/PIDNAMESPACE/PID-START`."""
    return "/".join((_machine(), _boot(), _namespace(), identity(os.getpid())))


def is_gone(name: str) -> bool:
    """Whether the process with that name is certainly dead."""
    parts = name.split("/")
    if len(parts) != 4 or parts[0] != _machine():
        return False
    if parts[1] != _boot():
        return True
    return parts[2] == _namespace() and not is_alive(parts[3])


def _machine() -> str:
    try:
        found = Path("/etc/machine-id").read_text().strip()
    except OSError:
        found = ""
    return f"{found}@{socket.gethostname()}"


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _namespace() -> str:
    return str(os.stat("/proc/self/ns/pid").st_ino)
