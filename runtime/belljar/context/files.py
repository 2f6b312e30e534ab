"""How the store reads sources, and who holds a folder. `durable` makes its files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from belljar.errors import InvalidInput

__all__ = [
    "folder_lock",
    "is_too_long",
    "opened",
    "read_at",
    "refuse_unless_regular",
    "same_folder",
    "unreadable",
]

_OPEN = os.O_RDONLY | os.O_CLOEXEC
_FOLDER = _OPEN | os.O_DIRECTORY


@contextlib.contextmanager
def opened(path: Path, label: str) -> Iterator[int]:
    """A descriptor for reading a source, of whatever kind it is.

    Raises:
        InvalidInput: context.missing, context.unreadable.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO waits for a writer that may never come.
        descriptor = os.open(path, _OPEN | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidInput(f"{label} does not exist; check the path", code="context.missing") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        advice = "give a shorter path to it" if is_too_long(error) else "make it readable for this user"
        raise InvalidInput(f"{label} cannot be opened ({reason}); {advice}", code="context.unreadable") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def refuse_unless_regular(mode: int, label: str) -> None:
    """Raises InvalidInput (context.unreadable) for what is neither file nor folder."""
    if not stat.S_ISREG(mode):
        raise InvalidInput(
            f"{label} is not a regular file; write its content to a file, and add that", code="context.unreadable"
        )


def read_at(descriptor: int, length: int, offset: int, label: str) -> bytes:
    """A piece of a source. Raises InvalidInput (context.unreadable)."""
    try:
        return os.pread(descriptor, length, offset)
    except OSError as error:
        raise unreadable(label, error) from error


def unreadable(label: str, error: OSError) -> InvalidInput:
    """The refusal of a source that cannot be read."""
    return InvalidInput(
        f"{label} cannot be read ({error.strerror}); copy it to a local disk and add the copy",
        code="context.unreadable",
    )


def is_too_long(error: BaseException | None) -> bool:
    """Whether the path is too long for the system."""
    return isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder's exclusive flock. Raises BlockingIOError if somebody else holds it."""
    descriptor = os.open(folder, _FOLDER)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not same_folder(folder, descriptor):
            raise FileNotFoundError(f"{folder} has moved away")
        yield
    finally:
        os.close(descriptor)


def same_folder(folder: Path, descriptor: int) -> bool:
    """Whether a folder that was opened, and then locked, is still at its path."""
    try:
        there = os.stat(folder)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))
