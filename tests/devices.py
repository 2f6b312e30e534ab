"""The devices of the machine that the tests run on, as a hostile program must leave them.

A container runtime gives files to the user of a box (`runsc exec` and `runsc create` do so with the standard streams),
and if one of them is a device it is that user's for the whole machine and for good.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["devices", "healthy"]

# Those that every program opens, and those that a box has.
_NAMES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "console", "kmsg")
_HOLDS_FOR_BOXES = ("null", "zero", "urandom")


def devices() -> dict[str, tuple[int, int, str]]:
    """Owner, group and mode of each device that is there."""
    found = {name: os.stat(Path("/dev", name)) for name in _NAMES if os.path.lexists(Path("/dev", name))}
    return {name: (it.st_uid, it.st_gid, stat.filemode(it.st_mode)) for name, it in found.items()}


def healthy() -> bool:
    """Whether those that boxes have belong to root: if they do not, nobody would see that they were given away."""
    return all(devices()[name] == (0, 0, "crw-rw-rw-") for name in _HOLDS_FOR_BOXES)
