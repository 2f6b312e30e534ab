"""The process that searches: started by `search`, with nothing to do but this.

    standard input    one JSON document a line: what to look for, and where; then as many bytes as it says in `body`
    standard output   u32 length, JSON header, u32 length, body

The pattern is the guest's. RE2 takes time linear in the text and bounded memory, whatever the pattern; but it is a
large parser of hostile input, so it runs here: in a process of its own, that can be killed at any moment, holds no
secret, writes no file, reaches nobody, and gives way to whoever serves the others.

The text is searched as UTF-8 in the memory map, all of it in one call, so that a match may lie anywhere and be as long
as it likes. What RE2 finds are byte offsets; the document's marks make them characters.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import resource
import signal
import struct
import sys
import time
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, cast

import msgspec
import re2

from belljar.context.document import DOCUMENT_FILE, RECORD_BYTES, Document, OpenDocument
from belljar.context.repeats import Found, repeats
from belljar.context.tracing import Traceable, trace

__all__ = ["main"]

# A compiled pattern and its automata.
_PATTERN_BYTES_MAX: Final = 8 << 20
# Far above what a question takes; a runaway ends here.
_MEMORY_BYTES_MAX: Final = 1 << 30
_LINE_BYTES_MAX: Final = 1 << 26
# Matches between two looks at the clock.
_LOOK_EVERY: Final = 256
# Two for each of the documents that a run may have, while a prompt is looked for in them.
_OPEN_FILES_MAX: Final = 2 * 1024 + 32
# Of a list with more items than this, equal items are not made good for each other.
_ITEMS_MAX: Final = 1 << 20
# In the record of an item.
_ITEM_START: Final = 18
_NICE: Final = 10
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_SYS_LANDLOCK_CREATE_RULESET: Final = 444
_SYS_LANDLOCK_RESTRICT_SELF: Final = 446
_LANDLOCK_CREATE_RULESET_VERSION: Final = 1
# To read a file, and to list a folder.
_LANDLOCK_READ: Final = 0b1100
_LENGTH: Final = struct.Struct("!I")
_TRACED: Final = struct.Struct("<IQQ")
_SPAN: Final = struct.Struct("<QQ")

Answer = tuple[dict[str, Any], bytes]


class _Match(Protocol):
    def span(self) -> tuple[int, int]: ...


class _Refused(Exception):
    """(code, message)"""


def _matches(text: OpenDocument, question: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """The byte spans of all matches in the range, in order, none inside a character."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _PATTERN_BYTES_MAX
    try:
        pattern = re2.compile(question["pattern"].encode(), options)
    except re2.error as error:
        raise _Refused("search.pattern", str(error.args[0], "utf-8", "replace")) from None
    chars, data = text.document.chars, text.view
    first, last = (text.byte_of(min(question[name], chars)) for name in ("start", "stop"))
    if first > last:
        return
    before = None
    # The range ends where the text seems to, as with `endpos` of `re`.
    for match in cast("Iterator[_Match]", pattern.finditer(data[:last], first)):
        start, stop = match.span()
        # An empty match that is not where the search went on from is found a second time from there.
        if (start, stop) == before:
            continue
        before = start, stop
        # RE2 steps over an empty match by one byte, which may be in the middle of a character.
        if start == stop < len(data) and data[start] & 0xC0 == 0x80:
            continue
        yield start, stop


def _find(text: OpenDocument, question: dict[str, Any]) -> Answer:
    """As many matches as are wanted, or fit one reply; `next` is where to go on when there are more."""
    spans, size, after, more = bytearray(), 0, 0, False
    texts: list[bytes] = []
    until = time.monotonic() + question["slice_s"]
    for start, stop in _matches(text, question):
        said = _beginning(text, start, stop, question["chars"])
        size += _SPAN.size + len(said)
        late = len(texts) % _LOOK_EVERY == _LOOK_EVERY - 1 and time.monotonic() > until
        if late or len(texts) == question["limit"] or size > question["bytes"]:
            more = True
            break
        first, last = text.char_of(start), text.char_of(stop)
        spans += _SPAN.pack(first, last)
        texts.append(said)
        after = max(last, first + 1)
    if more and not texts:
        raise _Refused("read.too_long", f"one match has {size} bytes; {question['bytes']} may be read at once")
    return {"start": 0, "count": len(texts), "next": after if more else None}, bytes(spans) + b"".join(texts)


def _beginning(text: OpenDocument, start: int, stop: int, chars: int) -> bytes:
    """At most `chars` characters of a match. They have at most four bytes each; what is cut in two is left out."""
    data = bytes(text.view[start : min(stop, start + 4 * chars)])
    return data if len(data) <= chars else data.decode("utf-8", "ignore")[:chars].encode()


def _count(text: OpenDocument, question: dict[str, Any]) -> Answer:
    """All matches, or those up to `next`."""
    until = time.monotonic() + question["slice_s"]
    count = 0
    for start, stop in _matches(text, question):
        count += 1
        if count % _LOOK_EVERY == 0 and time.monotonic() > until:
            after = max(text.char_of(stop), text.char_of(start) + 1)
            return {"start": 0, "count": count, "next": after}, b""
    return {"start": 0, "count": count, "next": None}, b""


def _lines(text: OpenDocument, question: dict[str, Any]) -> Answer:
    """As many of the lines as fit one reply; `next` is the line to go on with when there are more."""
    low, high = (min(question[name], text.document.lines) for name in ("start", "stop"))
    first = text.line_start(low)
    fitting = _last_fitting(text, low, max(low, high), first + question["bytes"])
    if fitting == low < high:
        size = text.line_start(low + 1) - first
        raise _Refused("read.too_long", f"line {low} has {size} bytes; {question['bytes']} may be read at once")
    last, start = text.line_start(fitting), text.char_of(first)
    header = {"start": start, "count": text.char_of(last) - start, "next": fitting if fitting < high else None}
    return header, bytes(text.view[first:last])


def _last_fitting(text: OpenDocument, low: int, high: int, end: int) -> int:
    """The last line from `low` to `high` that begins at `end` or before. Found by halving: starts only grow."""
    if text.line_start(high) <= end:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if text.line_start(middle) <= end else (low, middle)
    return low


def _look_up(question: dict[str, Any], body: BinaryIO) -> Answer:
    """What a run's account asks: of what its prompts are made (`trace`), or what else counts as shown (`repeats`)."""
    with contextlib.ExitStack() as opened:
        texts = {one["doc"]: opened.enter_context(_opened(one["folder"])) for one in question["texts"]}
        read: dict[int, list[tuple[int, int]]] = {}
        shown: dict[int, list[tuple[int, int]]] = {}
        for one in question["texts"]:
            for part, size in ((read, one["ranges"]), (shown, one["found"])):
                part[one["doc"]] = _ranges(texts[one["doc"]], body, size)
        if question["mode"] == "trace":
            places = [Traceable(doc, text.view, read[doc]) for doc, text in texts.items()]
            found = trace([body.read(size) for size in question["prompts"]], places)
            places.clear()  # no view may outlive its text
            spans, complete = [*found.spans, *found.again], found.complete
        else:
            known = [Found(doc, text.view, read[doc], shown[doc], _items(text)) for doc, text in texts.items()]
            spans, complete = repeats(known), True
            known.clear()
        return {"complete": complete}, _in_characters(spans, texts)


def _ranges(text: OpenDocument, body: BinaryIO, count: int) -> list[tuple[int, int]]:
    """The next so many ranges of characters, in bytes."""
    numbers = array("Q", body.read(16 * count))
    return [(text.byte_of(start), text.byte_of(stop)) for start, stop in zip(numbers[::2], numbers[1::2], strict=True)]


def _items(text: OpenDocument) -> list[int]:
    """Where the items of a list or dict begin, in bytes."""
    if text.document.kind == "text" or text.document.items > _ITEMS_MAX:
        return []
    with text.directory() as directory:
        records = bytes(directory.view)
    starts = [int(records[at : at + 12], 16) for at in range(_ITEM_START, len(records), RECORD_BYTES)]
    return sorted({text.byte_of(start) for start in starts})


def _in_characters(spans: list[tuple[int, int, int]], texts: Mapping[int, OpenDocument]) -> bytes:
    return b"".join(
        _TRACED.pack(doc, texts[doc].char_of(first), texts[doc].char_of(last)) for doc, first, last in spans
    )


_MODES = {"find": _find, "count": _count, "lines": _lines}


def _opened(folder: str) -> OpenDocument:
    document = msgspec.json.decode(Path(folder, DOCUMENT_FILE).read_bytes(), type=Document)
    return OpenDocument(Path(folder), document)


def _answer(question: dict[str, Any], body: BinaryIO) -> Answer:
    try:
        if question["mode"] in ("trace", "repeats"):
            return _look_up(question, body)
        with _opened(question["folder"]) as text:
            return _MODES[question["mode"]](text, question)
    except _Refused as refused:
        code, message = refused.args
    except MemoryError:
        code, message = "search.memory", "the search used up its memory: search for something simpler"
    except Exception as error:  # a damaged context, a full table of files: whoever asked is not to blame
        return {"fault": f"{type(error).__name__}: {error}"[:1000]}, b""
    return {"refused": code, "message": message[:1000]}, b""


def _confine() -> None:
    """Raises OSError: a step that does not hold here; then nothing is searched."""
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _touch_nothing(libc)
    os.nice(_NICE)
    limits = (
        (resource.RLIMIT_DATA, _MEMORY_BYTES_MAX),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 1),
        (resource.RLIMIT_NOFILE, _OPEN_FILES_MAX),
    )
    for limit, value in limits:
        _, hard = resource.getrlimit(limit)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))


def _touch_nothing(libc: ctypes.CDLL) -> None:
    """By Landlock, as far as the kernel has it: make no file, start no program, speak no TCP, signal nobody."""
    version = libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_CREATE_RULESET_VERSION)
    if version < 1:
        return
    files = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    attributes = struct.pack("=QQQ", files & ~_LANDLOCK_READ, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _checked(libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0))
    _checked(libc.syscall(_SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def main() -> None:
    _confine()
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    while line := questions.readline(_LINE_BYTES_MAX):
        question = json.loads(line)
        header, body = _answer(question, io.BytesIO(questions.read(question["body"])))
        said = json.dumps(header).encode()
        answers.write(_LENGTH.pack(len(said)) + said + _LENGTH.pack(len(body)))
        answers.write(body)
        answers.flush()
