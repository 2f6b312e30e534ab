"""The search process: started by `searcher`, with nothing else to do. `messages` says what it is asked.

The pattern is the guest's. RE2 takes time linear in the text and bounded memory, whatever the pattern; but it is a
large parser of hostile input, so it runs here: in a process of its own that can be killed at any moment, holds no
secret, writes no file, reaches nobody, and gives way to whoever serves the other runs.

The text is searched as UTF-8 in the memory map, all of it in one call, so that a match may be anywhere and of any
length. RE2 finds byte offsets; the document's marks turn them into characters.

Every failure names its culprit. What the pattern does, its use of memory included, is `Denied`. What the stored files
do is `Faulted`, and so is a defect of ours. A process without even the memory to say so aborts: what it was asked has
used it up.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import re
import resource
import signal
import struct
import sys
import time
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Protocol, cast

import msgspec
import re2

from belljar.attribution.repeats import Found, repeats
from belljar.attribution.tracing import Traceable, trace
from belljar.context.document import DOCUMENT_FILE, RECORD_BYTES, Document, OpenDocument, damaged
from belljar.errors import HostFault
from belljar.search.hits import GROUPS_MAX, MATCH_CHARS_MAX, NO_GROUP, OF_ITEMS
from belljar.search.messages import Answer, Answered, Asked, Denied, Faulted, LookUp, Searched

__all__ = ["main"]

# A compiled pattern and its automata.
_PATTERN_BYTES_MAX: Final = 8 << 20
# Far above what a question takes; a runaway ends here.
_MEMORY_BYTES_MAX: Final = 1 << 30
_LINE_BYTES_MAX: Final = 1 << 26
# Escapes in a pattern; there are none in what is quoted.
_ESCAPE: Final = re.compile(rb"\\Q.*?(?:\\E|\Z)|\\.", re.DOTALL)
_WHY_CHARS_MAX: Final = 500
_REMEDY: Final = (
    "RE2 has no look-around and no back-references: write it without them, or use re over slices or context.lines()"
)
# Matches, or items, between two looks at the clock.
_LOOK_EVERY: Final = 256
# Two for each document that a run may have, while a prompt is traced in them.
_OPEN_FILES_MAX: Final = 2 * 1024 + 32
# In a list with more items than this, equal items do not pay for each other.
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

Reply = tuple[Answered, bytes]


class _Match(Protocol):
    def span(self, group: int = 0) -> tuple[int, int]: ...


class _Pattern(Protocol):
    @property
    def groups(self) -> int: ...

    @property
    def groupindex(self) -> dict[bytes, int]: ...

    def finditer(self, text: memoryview, pos: int) -> Iterator[_Match]: ...


class _Stretch(NamedTuple):
    """Bytes that are searched as a text of their own, from `first` on; for an item its number, and where it begins."""

    first: int
    start: int
    stop: int
    item: int = -1
    char: int = 0


class _Hit(NamedTuple):
    """Where a match is, in bytes, and its groups; (-1, -1) is one that took no part."""

    start: int
    stop: int
    groups: list[tuple[int, int]]
    stretch: _Stretch


class _Refused(Exception):
    """(code, message)"""


def _compiled(pattern: bytes) -> _Pattern:
    """Raises _Refused for what RE2 does not have, and for what looks inside characters."""
    if any(escape[0] == rb"\C" for escape in _ESCAPE.finditer(pattern)):
        raise _Refused(
            "search.pattern", r"\C in a pattern is a single byte, but texts are made of characters: use . instead"
        )
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _PATTERN_BYTES_MAX
    try:
        return cast("_Pattern", re2.compile(pattern, options))
    except re2.error as error:
        why = str(error.args[0], "utf-8", "replace")[:_WHY_CHARS_MAX]
        raise _Refused("search.pattern", f"RE2 does not accept this pattern ({why}): {_REMEDY}") from None


def _matches(text: OpenDocument, question: Searched, pattern: _Pattern) -> Iterator[_Hit | int]:
    """All matches in the range, in order, none with part of a character; now and then a number: how far it has come.

    Everything up to that character has been searched.
    """
    data, groups = text.view, range(1, pattern.groups + 1)
    for number, stretch in enumerate(_stretches(text, question)):
        if number % _LOOK_EVERY == _LOOK_EVERY - 1:
            yield stretch.char
        before = None
        # The text seems to end where the range does, as with `endpos` of `re`.
        at, start, stop = stretch.start, stretch.first, stretch.stop
        for match in pattern.finditer(data[at:stop], start - at):
            first, last = match.span()
            # An empty match that is not where the search went on from is found a second time from there.
            if (first, last) == before:
                continue
            before = first, last
            # RE2 steps over an empty match by one byte, which may be in the middle of a character.
            if _cuts(data, at + first) or _cuts(data, at + last):
                continue
            spans = [match.span(group) for group in groups]
            moved = [(at + one, at + other) if one >= 0 else (-1, -1) for one, other in spans]
            yield _Hit(at + first, at + last, moved, stretch)


def _cuts(data: memoryview, at: int) -> bool:
    """Whether this is in the middle of a character."""
    return at < len(data) and data[at] & 0xC0 == 0x80


def _stretches(text: OpenDocument, question: Searched) -> Iterator[_Stretch]:
    """What is searched: the range, or the part of it in each item that has a character."""
    low, high = (min(at, text.document.chars) for at in (question.start, question.stop))
    if low > high:
        return
    if question.mode not in OF_ITEMS:
        yield _Stretch(text.byte_of(low), text.byte_of(min(question.first, low)), text.byte_of(high))
        return
    with text.directory() as directory:
        at, byte = -1, 0
        for item, start, stop in _items_between(directory.view, text.document.items, low, high):
            begin = byte if start == at else text.byte_of(start)
            at, byte = min(stop, high), text.byte_of(min(stop, high))
            yield _Stretch(text.byte_of(low) if low > start else begin, begin, byte, item, start)


def _items_between(records: memoryview, items: int, low: int, high: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, stop) of the items with a character in [low, high)."""
    first = bisect_right(range(items), low, key=lambda item: _item(records, item)[0]) - 1
    for item in range(max(0, first), items):
        start, stop = _item(records, item)
        if start >= high:
            break
        if max(start, low) < stop:
            yield item, start, stop


def _item(records: memoryview, item: int) -> tuple[int, int]:
    at = item * RECORD_BYTES + _ITEM_START
    start = int(bytes(records[at : at + 12]), 16)
    return start, start + int(bytes(records[at + 12 : at + 22]), 16)


def _find(text: OpenDocument, question: Searched) -> Reply:
    """As many matches as are wanted, or fit into one reply; `next` is where to go on if there are more."""
    pattern = _compiled(question.pattern.encode())
    names, reply = _names(pattern), _Reply(text, question)
    reply.size = len(names)
    until = time.monotonic() + question.slice_s
    after: int | None = None
    for found in _matches(text, question, pattern):
        late = (isinstance(found, int) or reply.count % _LOOK_EVERY == _LOOK_EVERY - 1) and time.monotonic() > until
        if isinstance(found, int):
            if not late:
                continue
            after = found
            break
        if late or reply.count == question.limit or not reply.take(found):
            after = reply.after
            break
    header = Answered(count=reply.count, groups=pattern.groups, names=len(names), next=after)
    return header, names + bytes(reply.spans) + b"".join(reply.texts)


def _names(pattern: _Pattern) -> bytes:
    """The names of the groups, as JSON; empty if none has one."""
    if pattern.groups > GROUPS_MAX:
        raise _Refused(
            "search.pattern",
            f"the pattern has {pattern.groups} groups, but at most {GROUPS_MAX} are given: use (?:...) for the others",
        )
    names = {str(name, "utf-8", "replace"): number for name, number in pattern.groupindex.items()}
    return json.dumps(names, ensure_ascii=False).encode() if names else b""


class _Reply:
    """Matches for one reply: their spans, those of their groups, and their texts."""

    def __init__(self, text: OpenDocument, question: Searched) -> None:
        self._text = text
        self._question = question
        self.spans = bytearray()
        self.texts: list[bytes] = []
        self.count = self.size = self.after = 0

    def take(self, hit: _Hit) -> bool:
        """Add a match; False if there is no room. Raises _Refused if there is none even for the first."""
        text, chars = self._text, MATCH_CHARS_MAX
        first, last = text.char_of(hit.start), text.char_of(hit.stop)
        said = [_beginning(text, hit.start, hit.stop, chars)]
        spans = [(first, last)]
        if self._question.mode in OF_ITEMS:
            spans.append((hit.stretch.item, hit.stretch.char))
        for start, stop in hit.groups:
            spans.append((text.char_of(start), text.char_of(stop)) if start >= 0 else (NO_GROUP, NO_GROUP))
            if stop > hit.start + len(said[0]):
                said.append(_beginning(text, start, stop, chars))
        size = _SPAN.size * len(spans) + sum(map(len, said))
        if self.size + size > self._question.bytes_max:
            if not self.count:
                limit = self._question.bytes_max
                raise _Refused("context.read", f"one match has {size} bytes; only {limit} may be read at once")
            return False
        self.spans += b"".join(_SPAN.pack(*span) for span in spans)
        self.texts += said
        self.count, self.size, self.after = self.count + 1, self.size + size, _after(first, last, hit, text)
        return True


def _after(first: int, last: int, hit: _Hit, text: OpenDocument) -> int:
    """Where to go on after a match: never at its own beginning, and never beyond its item."""
    after = max(last, first + 1)
    return min(after, text.char_of(hit.stretch.stop)) if hit.stretch.item >= 0 else after


def _beginning(text: OpenDocument, start: int, stop: int, chars: int) -> bytes:
    """At most `chars` characters of a match. They have at most four bytes each; one that is cut in two is left out."""
    data = bytes(text.view[start : min(stop, start + 4 * chars)])
    return data if len(data) <= chars else data.decode("utf-8", "ignore")[:chars].encode()


def _count(text: OpenDocument, question: Searched) -> Reply:
    """Count all matches, or those up to `next`."""
    until = time.monotonic() + question.slice_s
    count = 0
    for found in _matches(text, question, _compiled(question.pattern.encode())):
        count += not isinstance(found, int)
        if (isinstance(found, int) or count % _LOOK_EVERY == 0) and time.monotonic() > until:
            first, last = (found, found) if isinstance(found, int) else map(text.char_of, (found.start, found.stop))
            after = found if isinstance(found, int) else _after(first, last, found, text)
            return Answered(count=count, next=after), b""
    return Answered(count=count), b""


def _lines(text: OpenDocument, question: Searched) -> Reply:
    """As many of the lines as fit into one reply; `next` is the line to go on with if there are more."""
    low, high = (min(at, text.document.lines) for at in (question.start, question.stop))
    first = text.line_start(low)
    fitting = _last_fitting(text, low, max(low, high), first + question.bytes_max)
    if fitting == low < high:
        size = text.line_start(low + 1) - first
        raise _Refused("context.read", f"line {low} has {size} bytes; only {question.bytes_max} may be read at once")
    last, start = text.line_start(fitting), text.char_of(first)
    header = Answered(start=start, count=text.char_of(last) - start, next=fitting if fitting < high else None)
    return header, bytes(text.view[first:last])


def _last_fitting(text: OpenDocument, low: int, high: int, end: int) -> int:
    """The last line from `low` to `high` that begins at `end` or before. Found by halving: starts only grow."""
    if text.line_start(high) <= end:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if text.line_start(middle) <= end else (low, middle)
    return low


def _look_up(question: LookUp, body: BinaryIO) -> Reply:
    """For a run's coverage: what its prompts are made of (`trace`), or what else counts as shown (`repeats`)."""
    with contextlib.ExitStack() as opened:
        texts = {one.doc: opened.enter_context(_opened(one.folder)) for one in question.texts}
        read: dict[int, list[tuple[int, int]]] = {}
        shown: dict[int, list[tuple[int, int]]] = {}
        for one in question.texts:
            for part, size in ((read, one.ranges), (shown, one.found)):
                part[one.doc] = _ranges(texts[one.doc], body, size)
        if question.mode == "trace":
            places = [Traceable(doc, text.view, read[doc], _items(text)) for doc, text in texts.items()]
            prompts = [body.read(size) for size in question.prompts]
            until = time.monotonic() + question.seconds
            found = trace(prompts, places, is_late=lambda: time.monotonic() > until)
            places.clear()  # no view may outlive its text
            spans, complete = [*found.spans, *found.again], found.complete
        else:
            known = [Found(doc, text.view, read[doc], shown[doc], _items(text)) for doc, text in texts.items()]
            spans, complete = repeats(known), True
            known.clear()
        return Answered(complete=complete), _in_characters(spans, texts)


def _ranges(text: OpenDocument, body: BinaryIO, count: int) -> list[tuple[int, int]]:
    """The next `count` ranges of characters, in bytes."""
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


_MODES = {"find": _find, "find_items": _find, "count": _count, "count_items": _count, "lines": _lines}


def _opened(folder: str) -> OpenDocument:
    try:
        document = msgspec.json.decode(Path(folder, DOCUMENT_FILE).read_bytes(), type=Document)
    except (OSError, msgspec.DecodeError) as error:
        raise damaged(Path(folder), f"{DOCUMENT_FILE}: {error}") from error
    return OpenDocument(Path(folder), document)


def _answer(question: Asked, body: BinaryIO) -> tuple[Answer, bytes]:
    try:
        if isinstance(question, LookUp):
            return _look_up(question, body)
        with _opened(question.folder) as text:
            return _MODES[question.mode](text, question)
    except _Refused as refused:
        code, message = refused.args
    except MemoryError:
        code, message = "search.memory", "the search used up its memory: search for something simpler"
    except HostFault as fault:
        return Faulted(str(fault)), b""
    except Exception as defect:  # not the asker's fault: the marks may be wrong in an unexpected way, or we are
        return Faulted(f"{_places(question)} could not be searched ({type(defect).__name__}: {defect})"[:1000]), b""
    return Denied(code, message[:1000]), b""


def _places(question: Asked) -> str:
    folders = [question.folder] if isinstance(question, Searched) else [text.folder for text in question.texts]
    return "the stored context in " + " or ".join(map(repr, folders[:3]))


def _confine() -> None:
    """Raises OSError if a step does not hold here; then nothing is searched."""
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
    """By Landlock, as far as the kernel has it: create no file, start no program, use no TCP, signal nobody."""
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
    try:
        _confine()
        _answer_all(sys.stdin.buffer, sys.stdout.buffer)
    except MemoryError:
        os.abort()


def _answer_all(questions: BinaryIO, answers: BinaryIO) -> None:
    while line := questions.readline(_LINE_BYTES_MAX):
        question: Asked = msgspec.json.decode(line, type=Asked)
        header, body = _answer(question, io.BytesIO(questions.read(question.body)))
        said = msgspec.json.encode(header)
        answers.write(_LENGTH.pack(len(said)) + said + _LENGTH.pack(len(body)))
        answers.write(body)
        answers.flush()
