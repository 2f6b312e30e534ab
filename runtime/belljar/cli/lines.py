"""Lines of stdin, of bounded length, read by the event loop and never by a thread that could not be stopped."""

from __future__ import annotations

import asyncio
import contextlib
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
        self._ready = asyncio.Event()
        self._ended = False

    def end(self) -> None:
        """Read no more; whoever waits for a line finds the end."""
        self._ended = True
        self._ready.set()

    async def next(self) -> bytes | None:
        """The next line without its end; None at the end.

        Raises:
            InvalidInput: it is too long, or cannot be read.
        """
        while (end := self._data.find(b"\n", self._searched)) < 0:
            if len(self._data) > self._bytes_max:
                raise self._refusal
            self._searched = len(self._data)
            if not (more := await self._read()):
                rest, self._searched = bytes(self._data), 0
                self._data.clear()
                return rest or None
            self._data += more
        line = bytes(self._data[:end])
        del self._data[: end + 1]
        self._searched = 0
        return line

    async def _read(self) -> bytes:
        loop = asyncio.get_running_loop()
        try:
            with contextlib.suppress(PermissionError):  # a file, which is always ready
                loop.add_reader(self._fd, self._ready.set)
                try:
                    await self._ready.wait()
                finally:
                    loop.remove_reader(self._fd)
                if not self._ended:
                    self._ready.clear()
            return b"" if self._ended else os.read(self._fd, _READ_BYTES)
        except OSError as error:
            raise InvalidInput(
                f"stdin cannot be read ({error.strerror}): redirect a file or a pipe to it", code="input.unreadable"
            ) from error
