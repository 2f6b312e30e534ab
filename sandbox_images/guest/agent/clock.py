"""The clocks that a program reads: the kernel's, noted for the record; in a replay, what was noted then.

A program asks what time it is in many ways, and each of them ends at one of the kernel's clocks. So each function of
`time` that reads one is replaced by one that takes its nanoseconds here, and `datetime.now` and `utcnow` with them::

    time.time, datetime.now, strftime ...  ──▶  Clocks.read(which)  ──▶  the kernel
                                                   │         ▲
                                    noted, and sent with     what was noted of this
                                    the next frame           cell and clock, in order

The host keeps what a cell noted with what it printed, and gives it back with the same cell of a replay. There each
reading of a clock is the one that was the first, the second, and so on; behind the last of them the clock goes on from
there at its own pace. So a loop that waits for a moment ends in a replay, too. Of one cell `NOTED_MAX` readings are
noted, so a loop that does nothing but look at the clock costs no more than that.

What a module of the standard library reads while it is loaded is left out: in a warm box it was loaded before.

`uuid1` would have time, and chance, from a library in C; without that, `uuid` takes both from here.

What a program can still see of the time, and is not noted: the times of files, `resource`, what SQL asks for, and how
long something takes that it does not measure itself. A process that the program forks notes nothing.

`datetime.now` is C and asks the kernel itself, and the attributes of its class cannot be set. The dictionary behind
them can be: it is what the class's read-only view refers to. Whoever does that has to say so (`PyType_Modified`), since
the interpreter remembers where it has found a name, without keeping what it found alive.

The functions are replaced once, in the zygote, since that touches pages which all boxes share.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib
import os
import posix
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from operator import index
from time import struct_time
from typing import Any

__all__ = ["LEFT", "NOTED_MAX", "Clocks", "aside", "prepare"]

NOTED_MAX = 1024
# What `budget()` says is left: of what passes with time, and of what a tenant's quotas leave, which a replay has not.
# The kernel's clocks have lower numbers.
LEFT = {
    "wall_ms": 128,
    "cpu_ms": 129,
    "memory_mib_s": 130,
    "calls": 136,
    "input_tokens": 137,
    "output_tokens": 138,
    "cost_nanousd": 139,
    "read_bytes": 140,
}
# And from here on, what `os.times()` gives.
_TIMES = 131
_READING = struct.Struct("<Bq")
_KERNELS = frozenset(range(12))
_SECOND_NS = 1_000_000_000
_MICROSECOND_NS = 1000
_gettime_ns, _gettime, _times = time.clock_gettime_ns, time.clock_gettime, os.times
_gmtime, _localtime, _ctime, _asctime, _strftime = time.gmtime, time.localtime, time.ctime, time.asctime, time.strftime


class Clocks:
    """The functions of `time` that read a clock, and what they have read. They are bound methods, as those are."""

    def __init__(self) -> None:
        self._noted: deque[tuple[int, int]] = deque()
        self._room = 0
        self._recorded: dict[int, deque[int]] = {}
        # How far each clock of a replay is ahead of the kernel's.
        self._ahead: dict[int, int] = {}
        self._aside = 0

    def __reduce__(self) -> Any:
        return prepare, ()  # a copy of a function is the function

    def begin(self, recorded: bytes) -> None:
        """Begin a cell: from here on it is noted. `recorded` is what was noted of it then, if this is a replay."""
        self._room = NOTED_MAX
        self._recorded.clear()
        for which, value in _READING.iter_unpack(recorded):
            self._recorded.setdefault(which, deque()).append(value)

    def take(self) -> bytes:
        """What was noted since this was called before."""
        taken = []
        while self._noted:
            taken.append(_READING.pack(*self._noted.popleft()))
        return b"".join(taken)

    def read(self, which: int) -> int:
        """Nanoseconds on one of the kernel's clocks."""
        return self.seen(which, _gettime_ns(which))

    def seen(self, which: int, now: int) -> int:
        """What the program gets to see where a clock says `now`."""
        value = max(0, now + self._ahead.get(which, 0))  # the processor time of another thread may be less
        if self._aside:
            return value
        if recorded := self._recorded.get(which):
            with contextlib.suppress(IndexError):  # another thread had the last one
                value = recorded.popleft()
                self._ahead[which] = value - now
        if self._room > 0:
            self._room -= 1
            self._noted.append((which, value))
        return value

    def left(self, name: str, now: int | None) -> int | None:
        """What `budget()` is to say is left where the host says `now`. None is without limit."""
        which = LEFT[name]
        if now is None and not self._recorded.get(which):
            return None
        value = self.seen(which, now or 0)
        # Behind the record it is what the host says: that is what a fork may use.
        self._ahead.pop(which, None)
        return value

    def aside(self, work: Callable[..., Any], *given: Any) -> Any:
        """Do what is not the program's own: what that reads of clocks is neither noted nor was it."""
        self._aside += 1
        try:
            return work(*given)
        finally:
            self._aside -= 1

    def in_child(self) -> None:
        self._room = 0
        self._noted.clear()
        self._recorded.clear()

    # What has the names of `time` behaves as it does there.

    def time_ns(self) -> int:
        return self.read(time.CLOCK_REALTIME)

    def time(self) -> float:
        return self.read(time.CLOCK_REALTIME) / 1e9

    def monotonic_ns(self) -> int:
        return self.read(time.CLOCK_MONOTONIC)

    def monotonic(self) -> float:
        return self.read(time.CLOCK_MONOTONIC) / 1e9

    perf_counter_ns, perf_counter = monotonic_ns, monotonic

    def process_time_ns(self) -> int:
        return self.read(time.CLOCK_PROCESS_CPUTIME_ID)

    def process_time(self) -> float:
        return self.read(time.CLOCK_PROCESS_CPUTIME_ID) / 1e9

    def thread_time_ns(self) -> int:
        return self.read(time.CLOCK_THREAD_CPUTIME_ID)

    def thread_time(self) -> float:
        return self.read(time.CLOCK_THREAD_CPUTIME_ID) / 1e9

    def clock_gettime_ns(self, clk_id: int, /) -> int:
        which = index(clk_id)
        return self.read(which) if which in _KERNELS else _gettime_ns(which)

    def clock_gettime(self, clk_id: int, /) -> float:
        which = index(clk_id)
        return self.read(which) / 1e9 if which in _KERNELS else _gettime(which)

    def gmtime(self, seconds: float | None = None, /) -> struct_time:
        return _gmtime(self._seconds() if seconds is None else seconds)

    def localtime(self, seconds: float | None = None, /) -> struct_time:
        return _localtime(self._seconds() if seconds is None else seconds)

    def ctime(self, seconds: float | None = None, /) -> str:
        return _ctime(self._seconds() if seconds is None else seconds)

    def asctime(self, *given: Any) -> str:
        return _asctime(*(given or (self.localtime(),)))

    def strftime(self, form: str, *given: Any) -> str:
        return _strftime(form, *(given or (self.localtime(),)))

    def times(self) -> os.times_result:
        """As `os.times`."""
        given = enumerate(_times(), _TIMES)
        return os.times_result([self.seen(which, round(seconds * _SECOND_NS)) / 1e9 for which, seconds in given])

    def _seconds(self) -> int:
        return self.read(time.CLOCK_REALTIME) // _SECOND_NS


_CLOCKS = Clocks()
aside = _CLOCKS.aside
_REPLACED = [name for name in vars(Clocks) if not name.startswith("_") and hasattr(time, name)]


@functools.cache
def prepare() -> Clocks:
    """Have this process read its clocks by way of the one object that this gives. Nothing is noted yet."""
    for name in _REPLACED:
        setattr(time, name, getattr(_CLOCKS, name))
    os.times = posix.times = _CLOCKS.times
    sys.modules["_uuid"] = None  # type: ignore[assignment]
    if "uuid" in sys.modules:
        sys.modules["uuid"]._generate_time_safe = None  # type: ignore[attr-defined]
    # Without the module in Python around it, which takes 2 ms to load.
    datetime = importlib.import_module("_datetime").datetime
    methods = gc.get_referents(datetime.__dict__)[0]
    methods["now"] = classmethod(_now(_CLOCKS, methods["fromtimestamp"]))
    methods["utcnow"] = classmethod(_utcnow(_CLOCKS, methods["utcfromtimestamp"]))
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime))
    os.register_at_fork(after_in_child=_CLOCKS.in_child)
    return _CLOCKS


# Both are given the method of `datetime` itself, whatever a class below it has of this name.


def _now(clocks: Clocks, from_timestamp: Any) -> Callable[..., Any]:
    def now(cls: type, tz: Any = None) -> Any:
        """Returns new datetime object representing current time local to tz."""
        return from_timestamp.__get__(None, cls)(_to_the_microsecond(clocks), tz)

    return now


def _utcnow(clocks: Clocks, from_timestamp: Any) -> Callable[..., Any]:
    def utcnow(cls: type) -> Any:
        """Return a new datetime representing UTC day and time."""
        return from_timestamp.__get__(None, cls)(_to_the_microsecond(clocks))

    return utcnow


def _to_the_microsecond(clocks: Clocks) -> float:
    """What is less than a microsecond is cut off here, as `now` does; `fromtimestamp` would round it."""
    return clocks.time_ns() // _MICROSECOND_NS / 1e6
