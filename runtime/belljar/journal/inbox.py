"""What waits for one thread; some of it must be taken at once, and some can wait for that.

Theory of operation. To wake a thread costs more than a small job does: the one who wakes it calls the kernel, and then
both want the interpreter's lock. So the thread is woken as seldom as may be. After it has taken something it *lingers*
for an instant, and until that is over only what is *urgent* wakes it: what is lazy is taken together with the next
urgent item, or when the instant is over. Then it falls asleep, and anything wakes it; if that was lazy, it lingers once
more. So a lazy item waits for one such instant at most, and in a steady stream of both it never wakes anybody.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

__all__ = ["Inbox"]

_T = TypeVar("_T")


class Inbox(Generic[_T]):
    """Any number of threads put items, and one takes them, in order.

    Args:
        linger_s: how long a lazy item may wait for an urgent one.
    """

    def __init__(self, linger_s: float) -> None:
        self._linger_s = linger_s
        self._items: deque[_T] = deque()
        self._lock = threading.Lock()  # held for what follows, never while anybody waits
        self._bell = threading.Lock()  # free once it was rung; only the thread takes it
        self._bell.acquire()
        self._asleep = False  # a lazy item has to ring, too
        self._urgent = False
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: _T, *, lazy: bool) -> bool:
        """Whether it will be taken: nothing is put behind the end."""
        with self._lock:
            if self._closed:
                return False
            self._items.append(item)
            if not lazy:
                self._urgent = True
            if not lazy or self._asleep:
                self._ring()
        return True

    def close(self) -> None:
        """Nothing more is put; what is there can still be taken."""
        with self._lock:
            self._closed = self._urgent = True
            self._ring()

    def _ring(self) -> None:
        self._asleep = False
        if self._bell.locked():
            self._bell.release()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until there is something to take, or it is closed. False: so many seconds have passed without either."""
        while True:
            if not self._urgent:
                self._bell.acquire(timeout=self._linger_s)
            with self._lock:
                if self._items or self._closed:
                    return True
                self._asleep = True
            self._bell.acquire(timeout=-1 if timeout_s is None else max(0.0, timeout_s))
            with self._lock:
                if self._asleep:
                    self._asleep = False
                    return False

    def take(self, most: int) -> list[_T]:
        """Up to so many items. None at all: it is closed, or nothing was waited for."""
        with self._lock:
            taken = [self._items.popleft() for _ in range(min(most, len(self._items)))]
            self._urgent = self._closed or bool(self._items)  # some of these may be
            if not self._urgent:
                self._bell.acquire(blocking=False)  # it was rung for what was taken
        return taken
