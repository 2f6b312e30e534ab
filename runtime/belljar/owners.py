"""Which owners of a shared state folder are still alive: each holds a lock that the kernel releases when it dies.

Each owner keeps a file in the folder locked (`flock`) for as long as it lives. Process ids would say nothing here: two
containers on one volume each have a process 7, and neither sees the other's.

    somebody holds the lock              its owner is alive
    we get the lock (or make the file)   its owner is dead; we hold the lock until it is buried, so that only we bury it

Only the holder of a file's lock unlinks it. A new owner may be taken for dead before it has locked the file it created,
and lose the file; so it then checks that the file is still there, and takes another name if not.

The lock belongs to the open file: a forked child that never calls `exec` keeps it, and so keeps its parent alive here.
Two owners in one process count as two.
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

__all__ = ["Owner", "is_name", "living"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


class Owner:
    """Our own proof of life in `folder`, which is created if missing. Close it once it owns nothing any more.

    Raises:
        LedgerUnavailable: the folder cannot be used, or does not support locks.
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
        """Whether the owner of this name is alive. If not, it is ours to bury. Nobody has a name that we do not give.

        Raises:
            LedgerUnavailable: that cannot be determined.
        """
        if name == self.name:
            return True
        if name in self._dead or not is_name(name):
            return False
        with _told(self._folder):
            held = _lock(self._folder / name)
        if held is None:
            return True
        self._dead[name] = held
        return False

    def bury(self) -> None:
        """Remove the files of dead owners, once they own nothing any more."""
        with _told(self._folder):
            for name in os.listdir(self._folder):
                self.is_alive(name)
            for name, held in self._dead.items():
                _release(self._folder / name, held)
        self._dead.clear()

    def close(self) -> None:
        """From here on this owner is dead. Others that were found dead but not buried are left to the next owner."""
        _release(self._folder / self.name, self._held)
        while self._dead:
            os.close(self._dead.popitem()[1])


def is_name(text: str) -> bool:
    """Whether an owner may have it as its name, and as that of its file. Any other was put into the journal by hand."""
    return _NAME.fullmatch(text) is not None


def living(folder: Path) -> dict[str, bool]:
    """Every owner that has a file in `folder`, and whether it is alive. Nothing is created, removed or buried.

    To look takes a shared lock for an instant. Whoever starts in that instant takes us for a living owner, and leaves
    the dead one to the next start; a new owner takes another name.

    Raises:
        LedgerUnavailable: the folder cannot be used.
    """
    with _told(folder):
        try:
            names = sorted(name for name in os.listdir(folder) if is_name(name))
        except FileNotFoundError:
            return {}
        found = {name: _is_locked(folder / name) for name in names}
    return {name: alive for name, alive in found.items() if alive is not None}


def _is_locked(path: Path) -> bool | None:
    """Whether somebody holds the file's lock; None if the file has just gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock of the file at `path`; None if somebody else holds it, or removed the file."""
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
