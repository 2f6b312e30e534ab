"""Lines of stdin, of bounded length, read by the event loop and never by a thread that could not be stopped."""

from __future__ import annotations

import asyncio
import os
from typing import Final

from belljar.errors import InvalidInput

__all__ = ["Lines"]

_READ_BYTES: Final = 1 << 16


class Lines:
    """What comes on a descriptor, line by line.

    Args:
        bytes_max: the longest line.
        refusal: what is raised of a longer one.
    """

    def __init__(self, bytes_max: int, refusal: InvalidInput, *, fd: int = 0) -> None:
        self._bytes_max = bytes_max
        self._refusal = refusal
        self._fd = fd
        self._data = bytearray()
        self._searched = 0

    async def next(self) -> bytes | None:
        """The next line without its end; None at the end.

        Raises:
            InvalidInput: it is too long.
        """
        while (end := self._data.find(b"\n", self._searched)) < 0:
            if len(self._data) > self._bytes_max:
                raise self._refusal
            self._searched = len(self._data)
            if not (more := await _read(self._fd)):
                rest, self._searched = bytes(self._data), 0
                self._data.clear()
                return rest or None
            self._data += more
        line = bytes(self._data[:end])
        del self._data[: end + 1]
        self._searched = 0
        return line


async def _read(fd: int) -> bytes:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(fd, ready.set)
    except PermissionError:  # a file, which is always ready
        return os.read(fd, _READ_BYTES)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
    return os.read(fd, _READ_BYTES)
