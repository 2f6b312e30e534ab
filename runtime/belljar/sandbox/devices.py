"""The host's devices that boxes have: who owns them, and who must.

A box has them read-only, so it cannot change them. But `runsc`, when it starts a program without an input, makes the
box's user the owner of the host's own /dev/null, and that outlives the box.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

import msgspec

__all__ = ["DEVICES", "Device", "devices_not_of_root"]

DEVICES: Final = ("null", "zero", "urandom")
_MODE: Final = 0o666
_EVERY_ID: Final = 2**32 - 1


class Device(msgspec.Struct, frozen=True):
    """A device with a wrong owner or mode. `owner` is `user:group`, `mode` is in octal."""

    path: str
    owner: str
    mode: str


def devices_not_of_root(folder: Path = Path("/dev"), *, own_users: bool | None = None) -> list[Device]:
    """Those of `DEVICES` that do not belong to root, or that not everybody can read and write.

    `own_users`: this process is in a user namespace (detected by default). There the host's root has no number, and its
    files appear as nobody's.
    """
    if own_users is None:
        own_users = _mapped_ids(Path("/proc/self/uid_map")) < _EVERY_ID
    right = {0, _overflow()} if own_users else {0}
    found = [_look(folder / name) for name in DEVICES]
    return [
        Device(str(path), f"{info.st_uid}:{info.st_gid}", f"{stat.S_IMODE(info.st_mode):o}")
        for path, info in found
        if not {info.st_uid, info.st_gid} <= right or stat.S_IMODE(info.st_mode) != _MODE
    ]


def _look(path: Path) -> tuple[Path, os.stat_result]:
    return path, path.stat()


def _mapped_ids(uid_map: Path) -> int:
    return sum(int(line.split()[2]) for line in uid_map.read_text().splitlines())


def _overflow() -> int:
    return int(Path("/proc/sys/kernel/overflowuid").read_text())
