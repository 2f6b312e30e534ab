"""Processes that write one file take turns, and who waits is not passed over.

Theory of operation. SQLite's own lock is no queue: who finds it taken sleeps, each time longer, and looks again. A
neighbour that commits one transaction after the other is always there first, for seconds, in the end until the wait is
given up. So before SQLite's lock a process takes another one, a `flock` on a file beside the database: the kernel wakes
whoever waits for that as soon as it is free. It is there for fairness alone. Who may write, SQLite's lock decides; and
the kernel takes this one back when its holder dies.

A wait for such a lock has no deadline. So one that is free is taken on the spot, which costs two system calls a
transaction; for one that is not, a thread of our own waits, and we wait for that thread. If that takes too long, as it
does while its holder is stopped, we go, and the thread gives back what it gets.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from pathlib import Path
from typing import Final

__all__ = ["SUFFIX", "Turns"]

# Of the file beside the database.
SUFFIX: Final = "-turn"


class Turns:
    """The turns of this process at one file; `path` is of the file beside it, which is created if missing.

    One thread takes and gives.

    Raises:
        OSError: it cannot be created or opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._ours = False
        self._gate = threading.Lock()  # for what the waiting thread looks at, too
        self._waiting: threading.Event | None = None
        self._wanted = False

    def take(self, seconds: float) -> bool:
        """Wait for our turn. False: it did not come within so many seconds."""
        with self._gate:
            if self._waiting is None:
                if self._is_free():
                    self._ours = True
                    return True
                self._waiting = threading.Event()
                threading.Thread(target=self._wait, args=(self._waiting,), name="belljar turn", daemon=True).start()
            waiting, self._wanted = self._waiting, True
        waiting.wait(seconds)
        with self._gate:
            self._ours, self._wanted = waiting.is_set(), False
            if self._ours:
                self._waiting = None
        return self._ours

    def give(self) -> None:
        """Our turn is over, if it was one."""
        if self._ours:
            self._ours = False
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Also in a forked child: what is locked is the parent's, and stays so. Closing twice is harmless."""
        file, self._file = self._file, -1
        if file != -1:
            os.close(file)

    def _is_free(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _wait(self, done: threading.Event) -> None:
        with contextlib.suppress(OSError):  # closed meanwhile
            fcntl.flock(self._file, fcntl.LOCK_EX)
        with self._gate:
            if self._wanted:
                done.set()
                return
            self._waiting = None
            if self._file != -1:
                fcntl.flock(self._file, fcntl.LOCK_UN)
