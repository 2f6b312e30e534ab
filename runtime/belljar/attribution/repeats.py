"""Text that was shown more often than one place accounts for is counted at other places with the same text.

A log has the same line a thousand times. A run that shows all of it in pieces shows that line a thousand times; but a
line in a prompt does not say which of the places it was taken from, and `tracing` may have counted one place twice and
another one never. This is settled here, once all prompts are known: what was found in prompts n times at one place is
*spare* n - 1 times, and pays for what was read and not yet found, at places that have the same text.

The unit is the line, and within it the column: each byte of a line that was shown pays for one byte in the same column
of one line with the same text. So a line that was shown as a whole can pay for the half of one that a slice was cut in,
and two halves for a whole one. Neither the order in which things were shown matters, nor what pays for what: if a run
shows every place once, each column of each line is shown as often as it is there, and all is paid for. And no text is
counted at more places than the prompts have it.

What is left are halves that were found at a line which only begins (or ends) like theirs. They are paid for by equal
halves. Lines under `LINE_BYTES_MIN` bytes are everywhere, and are paid for only beside something that was shown.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, islice, pairwise
from mmap import mmap
from typing import NamedTuple

from belljar.attribution import limits
from belljar.spans import Spans, overlaps

__all__ = ["Found", "repeats"]


_LINE = re.compile(rb"[^\n]*\n|[^\n]+")


class Found(NamedTuple):
    """A document, the ranges of its bytes that the run has read, and those found in prompts, as often as they were.

    Attributes:
        items: where the items of a list begin, ascending: a line ends there, though there is no line end.
    """

    doc: int
    view: memoryview | mmap | bytes
    read: Sequence[tuple[int, int]]
    found: Sequence[tuple[int, int]]
    items: Sequence[int] = ()


class _Part(NamedTuple):
    """Columns [first, last) of the line with this text, which begins at `at` of the document."""

    line: bytes
    at: int
    first: int
    last: int

    @property
    def is_whole(self) -> bool:
        return self.last - self.first == len(self.line)


def repeats(documents: Iterable[Found]) -> list[tuple[int, int, int]]:
    """(doc, first byte, byte after the last): what is to count as shown besides what was found."""
    documents = list(documents)
    spare = _Spare()
    for document in documents:
        for start, stop, times in overlaps(document.found):
            for part in _parts(document, start, stop, None):
                spare.add(part, times)
    paid = []
    if spare.lines:
        halves: list[list[_Part]] = [[] for _ in documents]
        for document, parts in zip(documents, halves, strict=True):
            paid += [(document.doc, *span) for span in _pay(document, spare, parts)]
        left = spare.halves()
        for document, parts in zip(documents, halves, strict=True):
            paid += [(document.doc, *span) for span in _pay_halves(parts, left)]
    views = {document.doc: (document.view, Spans(document.read)) for document in documents}
    return [(doc, *_with_blanks(*views[doc], start, stop)) for doc, start, stop in paid]


def _with_blanks(view: memoryview | mmap | bytes, read: Spans, start: int, stop: int) -> tuple[int, int]:
    """The range with the white space beside it that counts, as far as it was read, as in `tracing`."""
    first, last = read.around(start) or (start, stop)
    before = bytes(view[max(first, start - limits.BLANK_BYTES_MAX) : start])
    after = bytes(view[stop : min(last, stop + limits.BLANK_BYTES_MAX)])
    return start - (len(before) - len(before.rstrip())), stop + len(after) - len(after.lstrip())


class _Spare:
    """How often each column of each line is available to pay with."""

    def __init__(self) -> None:
        self.lines: dict[bytes, int] = {}
        self._columns: dict[bytes, list[int]] = {}
        self._bytes = 0

    def add(self, part: _Part, times: int) -> None:
        if part.line not in self.lines:
            if len(self.lines) >= limits.SPARE_LINES_MAX or self._bytes + len(part.line) > limits.SPARE_BYTES_MAX:
                return
            self.lines[part.line] = 0
            self._bytes += len(part.line)
        if part.is_whole:
            self.lines[part.line] += times
        else:
            columns = self._columns.setdefault(part.line, [0] * len(part.line))
            for column in range(part.first, part.last):
                columns[column] += times

    def pay(self, part: _Part) -> list[tuple[int, int]]:
        """Use a part up. Returns the columns that were available."""
        wholes = self.lines.get(part.line, 0)
        if part.is_whole and wholes:
            self.lines[part.line] -= 1
            return [(part.first, part.last)]
        if not wholes and part.line not in self._columns:
            return []
        columns = self._columns.setdefault(part.line, [0] * len(part.line))
        if wholes and not all(columns[part.first : part.last]):
            self.lines[part.line] -= 1
            columns[:] = [times + 1 for times in columns]
        paid = _runs(columns, part.first, part.last)
        for first, last in paid:
            for column in range(first, last):
                columns[column] -= 1
        return paid

    def halves(self) -> Counter[bytes]:
        """The texts of the columns that are still available."""
        texts = Counter(self.lines)
        for line, columns in self._columns.items():
            while runs := _runs(columns, 0, len(line)):
                for first, last in runs:
                    times = min(columns[first:last])
                    texts[line[first:last].strip()] += times
                    columns[first:last] = [left - times for left in columns[first:last]]
        return +texts


def _runs(columns: Sequence[int], first: int, last: int) -> list[tuple[int, int]]:
    """The ranges of columns that are not 0."""
    edges = [first - 1, *(column for column in range(first, last) if not columns[column]), last]
    return [(before + 1, after) for before, after in pairwise(edges) if before + 1 < after]


def _holes(document: Found) -> Iterator[tuple[int, int]]:
    """What was read but not found."""
    read, found = Spans(document.read), Spans(document.found)
    gaps = found.missing(max((stop for _, stop in read), default=0))
    ends = [stop for _, stop in gaps]
    for start, stop in read:
        for number in range(bisect_right(ends, start), len(gaps)):
            if gaps[number][0] >= stop:
                break
            yield max(start, gaps[number][0]), min(stop, gaps[number][1])


def _pay(document: Found, spare: _Spare, halves: list[_Part]) -> list[tuple[int, int]]:
    """What of a document is paid for. Parts of lines that are not paid for go to `halves`."""
    paid: list[tuple[int, int]] = []
    short: list[_Part] = []
    for hole in _holes(document):
        for part in _parts(document, *hole, spare.lines):
            if part.last - part.first >= limits.LINE_BYTES_MIN:
                paid += _pay_part(part, spare, halves)
            elif len(short) < limits.PARTS_MAX:
                short.append(part)
    shown = Spans([*document.found, *paid])
    # Of several short lines in a row, each is beside the one before it, or the one after it.
    for _ in range(2):
        short, now = _pay_short(document.view, short[::-1], shown, spare)
        paid += now
    halves += short
    return paid


def _pay_part(part: _Part, spare: _Spare, halves: list[_Part]) -> list[tuple[int, int]]:
    paid = spare.pay(part)
    if len(halves) < limits.PARTS_MAX:
        left = Spans([(0, part.first), *paid]).missing(part.last)
        halves += [part._replace(first=first, last=last) for first, last in left]
    return [(part.at + first, part.at + last) for first, last in paid]


def _pay_short(
    view: memoryview | mmap | bytes, short: Iterable[_Part], shown: Spans, spare: _Spare
) -> tuple[list[_Part], list[tuple[int, int]]]:
    """What is left, and what was paid for."""
    left: list[_Part] = []
    paid: list[tuple[int, int]] = []
    for part in short:
        if _is_beside(view, part, shown, paid[-1] if paid else (-1, -1)):
            paid += _pay_part(part, spare, left)
        else:
            left.append(part)
    return left, paid


def _is_beside(view: memoryview | mmap | bytes, part: _Part, shown: Spans, last: tuple[int, int]) -> bool:
    """Whether something shown is next to the part, except for white space: in `shown`, or the last one."""
    start, stop = part.at + part.first, part.at + part.last
    before = bytes(view[max(0, start - limits.BESIDE_BYTES_MAX) : start])
    after = bytes(view[stop : stop + limits.BESIDE_BYTES_MAX])
    end = start - (len(before) - len(before.rstrip()))
    beginning = stop + (len(after) - len(after.lstrip()))
    return any(shown.around(at) is not None or last[0] <= at < last[1] for at in (end - 1, beginning))


def _pay_halves(halves: Iterable[_Part], spare: Counter[bytes]) -> Iterator[tuple[int, int]]:
    for half in halves:
        columns = half.line[half.first : half.last]
        text = columns.strip()
        payer = text if spare[text] else _longer(text, spare)
        if text and payer is not None:
            spare[payer] -= 1
            spare[payer[len(text) :].strip() if payer.startswith(text) else payer[: -len(text)].strip()] += 1
            start = half.at + half.first + columns.find(text)
            yield start, start + len(text)


def _longer(text: bytes, spare: Mapping[bytes, int]) -> bytes | None:
    """A spare text that begins or ends with this one."""
    for longer in islice(spare, limits.LONGER_MAX):
        if spare[longer] and (longer.startswith(text) or longer.endswith(text)):
            return longer
    return None


def _parts(document: Found, start: int, stop: int, wanted: Mapping[bytes, int] | None) -> Iterator[_Part]:
    """The lines of a range, without the white space around them: those that are wanted, and those cut by its ends."""
    for at, block in _blocks(document, _line_start(document, start), _line_end(document, stop)):
        lines = _lines(document, at, block)
        stripped = [line.strip() for line in lines]
        is_inside = start <= at and at + len(block) <= stop
        if wanted is not None and is_inside and wanted.keys().isdisjoint(stripped):
            continue
        for line, text in zip(lines, stripped, strict=True):
            if text and (wanted is None or text in wanted or not start <= at <= stop - len(line)):
                begin = at + line.find(text)
                first, last = max(0, start - begin), min(len(text), stop - begin)
                if first < last and len(text) <= limits.LINE_BYTES_MAX:
                    yield _Part(text, begin, first, last)
            at += len(line)


def _blocks(document: Found, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """The range in blocks of whole lines, as far as lines are shorter than a block."""
    while start < stop:
        block = bytes(document.view[start : min(start + limits.BLOCK_BYTES, stop)])
        if start + len(block) < stop:
            item = document.items[bisect_right(document.items, start + len(block)) - 1] if document.items else 0
            block = block[: max(block.rfind(b"\n") + 1, item - start) or len(block)]
        yield start, block
        start += len(block)


def _lines(document: Found, at: int, block: bytes) -> list[bytes]:
    """The lines of a block with their ends."""
    lines = _LINE.findall(block)
    if not document.items:
        return lines
    ends = {*accumulate(map(len, lines), initial=0)}
    first, last = bisect_right(document.items, at), bisect_left(document.items, at + len(block))
    ends.update(item - at for item in document.items[first:last])
    return [block[start:stop] for start, stop in pairwise(sorted(ends))]


def _line_start(document: Found, at: int) -> int:
    """Where the line that `at` is in begins, or as far back as a line may be long."""
    least = max(0, at - limits.LINE_BYTES_MAX)
    start = least + bytes(document.view[least:at]).rfind(b"\n") + 1
    item = bisect_right(document.items, at) - 1
    return max(start, document.items[item]) if item >= 0 else start


def _line_end(document: Found, at: int) -> int:
    most = min(len(document.view), at + limits.LINE_BYTES_MAX)
    # If what is before it is a line end, it ends there.
    end = bytes(document.view[max(0, at - 1) : most]).find(b"\n")
    stop = max(0, at - 1) + end + 1 if end >= 0 else most
    item = bisect_left(document.items, at)
    return min(stop, document.items[item]) if item < len(document.items) else stop
