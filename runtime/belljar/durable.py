"""Files that only we can read: each is whole and on the disk when its block ends well.

created      a new file; where there is one, that is an error
continued    likewise, where an interrupted writer may have begun it
replaced     written beside, and then renamed: a crash leaves what was there, and a file whose name ends in `.new`
flush        the names in a folder, without which a power cut may lose a new file, or a file that another wrote
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["continued", "created", "flush", "replaced"]


@contextlib.contextmanager
def created(path: Path, *, flushed: bool = True) -> Iterator[BinaryIO]:
    """A new file; what ends the block early leaves what was written. Without `flushed` it need not be on the disk.

    Raises:
        FileExistsError: there is something, if only a symbolic link.
    """
    with _written(path, os.O_EXCL, flushed) as file:
        yield file


@contextlib.contextmanager
def continued(path: Path, *, flushed: bool = True) -> Iterator[BinaryIO]:
    """Like `created`, but an interrupted writer may have left the file already; it can also be read."""
    with _written(path, 0, flushed) as file:
        yield file


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """A file that replaces what is at `path` when the block ends well: wholly or not at all."""
    fresh = path.with_name(f"{secrets.token_hex(16)}.new")
    try:
        with created(fresh) as file:
            yield file
        os.rename(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


@contextlib.contextmanager
def _written(path: Path, flags: int, flushed: bool) -> Iterator[BinaryIO]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
    with open(descriptor, "r+b") as file:
        yield file
        file.flush()
        if flushed:
            os.fsync(descriptor)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
