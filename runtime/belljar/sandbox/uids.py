"""The uids of the host that boxes run as: Belljar's own range, one uid for each box.

The kernel keeps counts per uid (pipe pages, epoll watches, processes, queued signals, inotify), and a process with the
same uid may send signals. If all boxes ran as `nobody`, they would share both with each other, and with whatever else
on the host runs as nobody. So each box has a uid that no other process has, and its gid is the same number; inside, it
is still nobody.

The range is cut into blocks. A backend claims one for its lifetime, by a lock (flock) on an empty file in a folder that
belongs to root. The kernel releases the lock when the process dies, however it dies, so nothing needs to be cleared.
The search for a free block starts at a random one: we cannot see what another container with its own /run has claimed.

Only root can give a process another uid. Where this process may not, or every block is taken, there is no block, and
boxes share one unprivileged uid: nobody's, or this process's own if it is an ordinary user.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import os
import random
from pathlib import Path
from typing import Final

from belljar.errors import BoxFault

__all__ = ["BLOCK_UIDS", "NOBODY", "OWN", "RANGE_FIRST", "RANGE_UIDS", "Uids", "ids_of"]

NOBODY: Final = 65534
# Above what distributions give to users and to their containers (subuid). systemd-nspawn may pick these too, one of
# about 28,000 such ranges, and checks first who has it. Below 2^31, because some tools take larger uids for negative.
RANGE_FIRST: Final = 0x6A61_0000
RANGE_UIDS: Final = 65536
OWN: Final = range(RANGE_FIRST, RANGE_FIRST + RANGE_UIDS)
# More boxes than one backend ever has at a time on a machine; leaves room for 128 backends.
BLOCK_UIDS: Final = 512
_FOLDER: Final = Path("/run/belljar-uids")
# CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN: to become another user, and to write the maps of a new user namespace.
_NEEDED: Final = 1 << 6 | 1 << 7 | 1 << 21


class Uids:
    """One block of uids and its leases. Without a block (see above), `block` is None and every lease is `NOBODY`.

    The block's first uid is never leased: it is for our process that makes the boxes, if there is one.
    """

    def __init__(self, folder: Path = _FOLDER) -> None:
        claimed = _claim(folder) if _allowed() else None
        self._lock: int | None = None
        self.block: range | None = None
        if claimed is not None:
            self._lock, self.block = claimed
        # The uid released last is leased last, so a process that is slow to die does not share its uid.
        self._free = collections.deque(self.block[1:] if self.block is not None else ())

    def lease(self) -> int:
        """A uid that no other box has, until `release`.

        Raises:
            BoxFault: all are taken.
        """
        if self.block is None:
            return NOBODY
        if not self._free:
            raise BoxFault(f"{BLOCK_UIDS - 1} boxes are alive, and there are no more uids for boxes: run fewer at once")
        return self._free.popleft()

    def release(self, uid: int) -> None:
        """Give it back. No process may still have it."""
        if self.block is not None:
            self._free.append(uid)

    def close(self) -> None:
        """Give back the block. No process may still have one of its uids."""
        lock, self._lock, self.block = self._lock, None, None
        if lock is not None:
            # A child forked meanwhile may hold a copy of the descriptor.
            fcntl.flock(lock, fcntl.LOCK_UN)
            os.close(lock)


def ids_of(pid: int) -> set[int]:
    """All uids and gids of process `pid` on this host; none where it cannot be seen."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return set()
    lines = [line.split()[1:] for line in status.splitlines() if line.startswith(("Uid:", "Gid:"))]
    return {int(number) for line in lines for number in line}


def _claim(folder: Path) -> tuple[int, range] | None:
    """The lock of a free block, and the block."""
    blocks = RANGE_UIDS // BLOCK_UIDS
    with contextlib.suppress(OSError):  # a /run that cannot be written
        folder.mkdir(mode=0o700, exist_ok=True)
        start = random.randrange(blocks)  # noqa: S311 - no secret
        for number in (*range(start, blocks), *range(start)):
            if (lock := _locked(folder / str(number))) is not None:
                first = RANGE_FIRST + number * BLOCK_UIDS
                return lock, range(first, first + BLOCK_UIDS)
    return None


def _locked(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _allowed() -> bool:
    """Whether this process may make processes that have the uids of the range."""
    if os.geteuid() != 0:
        return False
    maps = [Path("/proc/self", name).read_text() for name in ("uid_map", "gid_map")]
    return _capabilities() & _NEEDED == _NEEDED and all(map(_covers, maps))


def _covers(text: str) -> bool:
    """Whether a user namespace with this map has the whole range. In a container it may have only 65536 ids, or one."""
    for line in text.splitlines():
        inside, _, count = map(int, line.split())
        if inside <= RANGE_FIRST and inside + count >= RANGE_FIRST + RANGE_UIDS:
            return True
    return False


def _capabilities() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
