"""Work on data as large as a guest or a model makes it: off the event loop, in slices, linear.

All runs of a process share one event loop. What is done in it holds up everybody's deadlines, so it may not grow with
what one program sends. Two rules:

* Above `LOOP_BYTES_MAX` the work is done in a thread (`off_loop`), of which there is one: several would not be faster,
  as they share the interpreter, and the loop would stand in line behind each of them whenever it comes back from the
  kernel.
* A call into C keeps the interpreter's lock until it returns, and then a thread stops the loop as well as the loop
  itself would. So what is done in the thread goes through the data in slices (`slices`), and gives way between two.

64 KiB are where both come out even: the slowest of the checks here takes some 2 ms for them, decoding or hashing 0.1 to
0.3 ms, and handing work to a thread and back about 0.2 ms. A slice stays far below the 50 ms that the loop may stand.
"""

from __future__ import annotations

import asyncio
import codecs
import functools
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

__all__ = [
    "LOOP_BYTES_MAX",
    "SLICE_BYTES",
    "bytes_of",
    "give_way",
    "is_utf8",
    "off_loop",
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
    """`work(...)`, which goes through `size` bytes or characters: here if they are few, else in a thread."""
    if size <= LOOP_BYTES_MAX:
        return work(*args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_THREAD, functools.partial(work, *args, **kwargs))


def _new_thread() -> None:
    """A forked child has the pool and not its thread: what is handed to that would wait for ever."""
    global _THREAD
    _THREAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix="belljar-heavy")


os.register_at_fork(after_in_child=_new_thread)


def slices(size: int, slice_bytes: int = SLICE_BYTES) -> Iterator[tuple[int, int]]:
    """[start, stop) of one slice after the other; others may have the interpreter between two of them."""
    for start in range(0, size, slice_bytes):
        if start:
            give_way()
        yield start, min(start + slice_bytes, size)


def give_way() -> None:
    """Let another thread have the interpreter.

    Waiting for the interpreter's next switch takes the loop 5 ms each time that it comes back from the kernel; with
    this it takes as long as one slice. To sleep for no time at all does not do: whoever gives the lock back and asks
    for it again has it before another thread is awake.
    """
    time.sleep(_WAY_S)


def is_utf8(data: bytes | memoryview) -> bool:
    """Whether all of it is UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start, stop in slices(len(data)):
            decoder.decode(data[start:stop])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def text_of(data: bytes | bytearray | memoryview, errors: str = "strict") -> str:
    """The text of UTF-8.

    Raises:
        UnicodeDecodeError: it is none, and `errors` is "strict".
    """
    if len(data) <= SLICE_BYTES:
        return str(data, "utf-8", errors)
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    parts = [decoder.decode(data[start:stop]) for start, stop in slices(len(data))]
    return "".join(parts) + decoder.decode(b"", final=True)


def bytes_of(text: str) -> bytes:
    """Its UTF-8, with a question mark for each character that has none."""
    return b"".join(text[start:stop].encode("utf-8", "replace") for start, stop in slices(len(text)))


def whole(text: str) -> str:
    """The text with halves of surrogate pairs joined where both are there, and replaced where one is not."""
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
    """Its digest in hexadecimal."""
    digest = hashlib.sha256()
    for start, stop in slices(len(data)):
        digest.update(data[start:stop])
    return digest.hexdigest()
