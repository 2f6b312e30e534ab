"""Copies a file's bytes into the store, in the cheapest way that the host has.

A reflink shares the blocks of the source until one of the two changes: the copy takes no time and no room. Otherwise
the kernel copies (`copy_file_range`), a window at a time, just ahead of whoever reads the copy, who then finds it in
the page cache. If neither works (another file system, a source that is generated as it is read), bytes are read and
written.

Whoever hashes a source reads the copy, never the source: so what is stored is what was hashed, even if the source
changes meanwhile.

The copy grows only at its end, so its length says how much of it is there. What a killed process wrote is safe with the
kernel; after a power cut it may not be, so a copy is not continued across a boot.
"""

from __future__ import annotations

import errno
import fcntl
import os

from belljar.context.files import read_at

__all__ = ["Copier"]

# How far ahead of the reader: still in the page cache, and few enough calls.
_WINDOW_BYTES = 8 * 1024 * 1024
_PIECE_BYTES = 1024 * 1024
_FICLONE = 0x40049409
# The store's own faults. After any other failure of the quick ways, the slow one finds out whose it is.
_OURS = (errno.ENOSPC, errno.EDQUOT)


class Copier:
    """Copies the bytes of `source` from `skip` on to `target`, which may hold the beginning of them already.

    Args:
        source: descriptor of a regular file.
        target: descriptor of ours, open for reading and writing.
        label: what messages call the source.
        skip: how many bytes at the beginning are left out.
        quick: try the reflink and the kernel's copy.
    """

    def __init__(self, source: int, target: int, label: str, *, skip: int = 0, quick: bool = True) -> None:
        self._source = source
        self._target = target
        self._label = label
        self._skip = skip
        self._quick = quick
        self.bytes = os.fstat(target).st_size
        if quick and self.bytes == 0 and skip == 0:
            self._clone()

    def reach(self, end: int) -> None:
        """Copy until there are `end` bytes, or all that the source has.

        Raises:
            InvalidInput: context.unreadable.
            OSError: the copy cannot be written.
        """
        while self.bytes < end:
            copied = self._window() if self._quick else 0
            # Files generated as they are read look empty to the kernel's copy: only a read finds the end.
            if copied == 0:
                copied = self._piece()
            if copied == 0:
                return
            self.bytes += copied

    def _clone(self) -> None:
        try:
            fcntl.ioctl(self._target, _FICLONE, self._source)
        except OSError as error:
            if error.errno in _OURS:
                raise
        self.bytes = os.fstat(self._target).st_size

    def _window(self) -> int:
        try:
            return os.copy_file_range(self._source, self._target, _WINDOW_BYTES, self._skip + self.bytes, self.bytes)
        except OSError as error:
            if error.errno in _OURS:
                raise
            self._quick = False
            return 0

    def _piece(self) -> int:
        piece = read_at(self._source, _PIECE_BYTES, self._skip + self.bytes, self._label)
        return os.pwrite(self._target, piece, self.bytes) if piece else 0
