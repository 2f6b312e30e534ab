"""Work on data as large as a guest or a model makes it: off the event loop, in slices, linear.

All runs of a process share one event loop. Work done in it delays everybody's deadlines, so it must not grow with what
one program sends. Two rules:

* Above `LOOP_BYTES_MAX` the work is done in a single thread (`off_loop`). Several would not be faster, as they share
  the interpreter, and the loop would queue behind each of them whenever it returns from the kernel.
* A call into C keeps the interpreter's lock until it returns, so in a thread it stops the loop just as it would in the
  loop itself. So the thread goes through the data in slices (`slices`), and gives way between two.

At 64 KiB both cost about the same: the slowest of the checks here takes some 2 ms, decoding or hashing 0.1 to 0.3 ms,
and handing work to a thread and back about 0.2 ms. A slice stays far below the 50 ms for which the loop may stall.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import functools
import gc
import hashlib
import itertools
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, ParamSpec, TypeVar

import msgspec

__all__ = [
    "LOOP_BYTES_MAX",
    "SLICE_BYTES",
    "bytes_of",
    "give_way",
    "is_utf8",
    "no_collection",
    "off_loop",
    "plain_of",
    "reader_of",
    "sha256",
    "slices",
    "text_of",
    "whole",
]

LOOP_BYTES_MAX: Final = 64 * 1024
SLICE_BYTES: Final = 64 * 1024
_WAY_S: Final = 0.0001

_THREAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix="belljar-heavy")

_P = ParamSpec("_P")
_T = TypeVar("_T")


async def off_loop(size: int, work: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Do `work(...)`, which goes through `size` bytes or characters: here if they are few, else in a thread."""
    if size <= LOOP_BYTES_MAX:
        return work(*args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_THREAD, functools.partial(work, *args, **kwargs))


def _new_thread() -> None:
    """A forked child has the pool but not its thread: work handed to it would wait for ever."""
    global _THREAD
    _THREAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix="belljar-heavy")


os.register_at_fork(after_in_child=_new_thread)


def slices(size: int, slice_bytes: int = SLICE_BYTES) -> Iterator[tuple[int, int]]:
    """[start, stop) of one slice after another; other threads may have the interpreter in between."""
    for start in range(0, size, slice_bytes):
        if start:
            give_way()
        yield start, min(start + slice_bytes, size)


def give_way() -> None:
    """Let another thread have the interpreter.

    Otherwise the loop waits 5 ms for the interpreter's next switch each time that it returns from the kernel; with this
    it waits as long as one slice takes. Sleeping for 0 s would not do: a thread that releases the lock and asks for it
    again has it before another thread is awake.
    """
    time.sleep(_WAY_S)


def is_utf8(data: bytes | memoryview) -> bool:
    """Whether all of `data` is UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start, stop in slices(len(data)):
            decoder.decode(data[start:stop])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def text_of(data: bytes | bytearray | memoryview, errors: str = "strict") -> str:
    """Decode UTF-8.

    Raises:
        UnicodeDecodeError: `data` is not UTF-8, and `errors` is "strict".
    """
    if len(data) <= SLICE_BYTES:
        return str(data, "utf-8", errors)
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    parts = [decoder.decode(data[start:stop]) for start, stop in slices(len(data))]
    return "".join(parts) + decoder.decode(b"", final=True)


def bytes_of(text: str) -> bytes:
    """`text` in UTF-8, with a question mark for each character that has no encoding."""
    return b"".join(text[start:stop].encode("utf-8", "replace") for start, stop in slices(len(text)))


def whole(text: str) -> str:
    """`text` with surrogate pairs joined, and lone surrogates replaced."""
    if text.isascii():
        return text
    parts: list[str] = []
    at = 0
    for _, stop in slices(len(text)):
        if text[stop - 1 : stop] and "\ud800" <= text[stop - 1] < "\udc00":
            stop -= 1  # its other half may be the next slice's first
        parts.append(_joined(text[at:stop]))
        at = stop
    return "".join(parts) + _joined(text[at:])


def _joined(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def sha256(data: bytes | memoryview) -> str:
    """The digest of `data`, in hexadecimal."""
    digest = hashlib.sha256()
    for start, stop in slices(len(data)):
        digest.update(data[start:stop])
    return digest.hexdigest()


def _number(text: str) -> float:
    """Python code, so that another thread may have the interpreter between two numbers."""
    return float(text)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("Number out of range")
    return number


# Floats are read by Python itself: msgspec takes seconds for a MiB of very small or very large ones.
_PLAIN: Final = msgspec.json.Decoder(float_hook=_number)
_FINITE: Final = msgspec.json.Decoder(float_hook=_finite)
# All numbers for which msgspec takes so long, and some others. Ten of them take a tenth of a millisecond.
_DEAR: Final = re.compile(rb"[eE][+-]?[0-9]{3}")
_DEAR_MAX: Final = 10


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """A million new lists are not garbage: looking for some among them takes three times as long as making them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def plain_of(data: bytes | memoryview) -> Any:
    """JSON as plain values. Raises msgspec.DecodeError, UnicodeDecodeError or RecursionError: it is none."""
    with no_collection():
        return _PLAIN.decode(data)


def reader_of(kind: Any) -> Callable[[bytes], Any]:
    """What reads JSON as a type that msgspec knows. It raises `msgspec.MsgspecError`, or RecursionError.

    Where the type says `float`, msgspec reads the numbers itself. So if many of them are dear, the text is read as
    plain values first. That is not done always: a `Decimal` is then made of a float, and has 17 digits of it.
    """
    decoder = msgspec.json.Decoder(kind, float_hook=_finite)

    def read(data: bytes) -> Any:
        with no_collection():
            if len(list(itertools.islice(_DEAR.finditer(data), _DEAR_MAX + 1))) <= _DEAR_MAX:
                return decoder.decode(data)
            return msgspec.convert(_FINITE.decode(data), kind, str_keys=True)

    return read
