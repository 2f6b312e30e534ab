"""Who still lives, of those who share a state folder: proved by a lock that the kernel gives back at death.

Each owner holds a file in the folder locked, `flock`, for as long as it lives. Process ids say nothing here: two
containers on one volume have each a process 7 and see neither other's.

    somebody has it locked               its owner lives
    we get the lock (or make the file)   its owner is dead; we hold it until it is buried, so that nobody else does that

A file is unlinked only by who holds its lock. Who creates one may be taken for dead before its lock is on, and the file
be unlinked under it; so it looks afterwards whether the file is still there, and takes another name if not.

The lock belongs to the open file: a child that was forked and never called `exec` keeps it, and so keeps its parent
alive here. Two owners in one process are two.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from belljar.errors import LedgerUnavailable

__all__ = ["Owner"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


class Owner:
    """This side's proof of life in `folder`, which is made if missing. Close it when nothing is owned any more.

    Raises:
        LedgerUnavailable: the folder cannot be used, or has no locks.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._dead: dict[str, int] = {}
        with _told(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            while True:
                self.name = f"{os.getpid()}-{secrets.token_hex(8)}"
                held = _lock(folder / self.name)
                if held is not None:
                    self._held = held
                    return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def is_alive(self, name: str) -> bool:
        """Whether the owner of this name lives. If not, it is ours to bury.

        Raises:
            LedgerUnavailable: it cannot be found out.
        """
        if name == self.name:
            return True
        if name in self._dead:
            return False
        if not _NAME.fullmatch(name):
            raise LedgerUnavailable(f"the ledger names an owner {name[:80]!a} that can be none: verify its file")
        with _told(self._folder):
            held = _lock(self._folder / name)
        if held is None:
            return True
        self._dead[name] = held
        return False

    def bury(self) -> None:
        """Remove what is left of the dead, once nothing is theirs any more."""
        with _told(self._folder):
            for name in os.listdir(self._folder):
                if _NAME.fullmatch(name):
                    self.is_alive(name)
            for name, held in self._dead.items():
                _release(self._folder / name, held)
        self._dead.clear()

    def close(self) -> None:
        """From here on this owner is dead. Of the others, who was found dead and not buried is left to the next."""
        _release(self._folder / self.name, self._held)
        while self._dead:
            os.close(self._dead.popitem()[1])


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock of the file at `path`; None if somebody else does, or took it away."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.stat(path)):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _release(path: Path, held: int) -> None:
    """Unlinked before it is unlocked, so that nobody locks a file that is about to go."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    os.close(held)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LedgerUnavailable(
            f"the owners' folder {folder} cannot be used ({error.strerror or error}): check its permissions, and that "
            "it is on a local disk"
        ) from error
