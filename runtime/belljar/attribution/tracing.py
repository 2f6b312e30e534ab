"""Which parts of the documents are in a prompt: found by looking, since the guest's word is worth nothing.

A program reads a document, does what it likes with the text, and sends prompts. Here the text of the prompts is looked
for in what the run has read. All prompts of a call are in `text`, one after the other; `rest` is a copy in which what
has been found is overwritten with a byte that UTF-8 does not have. A *find* is a stretch of a document and an equal
stretch of `text`, with something in it that was not found before, grown in both directions as far as the bytes agree
(and a little over what was found before: the line before may have taken this one's first bytes, if the document's next
line begins like it). These ways lead to a find, the cheap and certain ones first:

    follow   after a find the document goes on, and mostly the prompt does too: after a bullet, a number, a quote, or in
             the next prompt after its instructions. The document's next lines are looked for in the prompt, nearby
    sound    a few bytes of each long gap are looked for in all that was read, many at once, by RE2 in one pass. A slice
             is long, so they are within it and bring the rest along; only long finds count
    lines    each line that was read and is in a prompt as a whole, wherever it is: for nearly every line that is not,
             an index of the prompts' bytes says so at once
    short    lines too short to be looked for one by one, if several are in a row, numbered, quoted or joined; see
             `short`
    probe    as sound, but every so many bytes of all gaps, and short finds count: first with long anchors, few of which
             occur by accident, then with short ones. Of several places, the one where most around it agrees wins
    edges    what is left beside a line that was found: the line may occur in many places, and only in one of them does
             the document go on as the prompt does. So every place of it is tried. This finds the half lines at the ends
             of a slice, and the short lines within

What is found is true: each range's text was in a prompt, except for white space beside it: up to `BLANK_BYTES_MAX` of
it count as shown with what they adjoin (a program that strips or joins lines leaves none, and nobody misses it). What
is not found may still have been there: translated, encoded, in another case, or in pieces that are neither whole lines
nor twice `SHORT` bytes long. Lines under `LINE_BYTES_MIN` bytes are taken only as the continuation of the find before
them, or with enough of their neighbours. Text that is in several places of the documents is attributed to one of them:
to the continuation of the last find if it is there, else to where most around it agrees. If the prompt leaves the
document in the middle of a word, the agreement since the last line end is taken for an accident: lines of a log begin
alike.

Each byte of a prompt pays for one byte of a document. Finds that overlap are parted at a line end; and if one place was
found more than once, that is reported (`again`): `repeats` counts other places for it, once all is known. Choosing
among equal places right away would mean knowing what is to come.

A single way was tried instead: index each 8 bytes of the prompts, look up every 8th place of what was read, and extend
each hit. It takes 15 times as long if whole slices are shown, which is the common case, since every byte of every
prompt goes into the index; it finds no short lines after numbers; and if every second line is shown, it takes a seventh
of the others for shown as well, since pieces of them agree by accident.

Anchors that were not found are remembered for the call: the instructions around a thousand slices cost one search.
Whoever makes prompts to keep us busy meets `scan_bytes_max`, or runs out of the time that there is: then what is left
stays untraced, and `complete` says so.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from itertools import islice, pairwise
from mmap import mmap
from operator import itemgetter
from typing import Any, Final, NamedTuple

import re2

from belljar.attribution import limits
from belljar.attribution.short import pieces, runs
from belljar.spans import Spans, overlaps

__all__ = ["Traceable", "Traced", "trace"]


# In no UTF-8 text: what was found, and the border between two prompts.
_FOUND: Final = b"\xff"
_BORDER: Final = b"\xfe"

_GAP = re.compile(rb"[^\xfe\xff]{12,}")
# What programs put before lines, and after them.
_FIELD = re.compile(rb"\s*(?:[-*>#]+\s+|\d+[.):]\s*)?[\"'\[(]*([^|\t]+)[|\t]*")
_CLOSING = b" \t\r\"',;)]"
_ANY_GAP = re.compile(rb"[^\xfe\xff]+")
_REST_OF_ROW = re.compile(rb"[^\xfe\xff\n]*")
_ROW = re.compile(rb"[^\xfe\xff\n]{12,}")
_FOUND_RUN = re.compile(rb"\xff+")
_LINE = re.compile(rb"[^\s][^\n]*")
_LETTER = re.compile(rb"[A-Za-z\x80-\xfd]")
_WORDLY = re.compile(rb"[0-9A-Za-z\x80-\xfd]")
# What is a piece of its own in a line of a prompt: an item of a list, a field, a quotation.
_PIECE = re.compile(rb"(?:[\n\t|\":;,>(]|\A)[\s\-*\d.)\]\"'\[(]*([^\n]{24})")


class Traceable(NamedTuple):
    """A document, and which of its bytes the run has read, the most recent first. Finds are within these.

    For a list or dict, `items` are where its items begin, ascending.
    """

    doc: int
    view: memoryview | mmap | bytes
    ranges: Sequence[tuple[int, int]]
    items: Sequence[int] = ()


class Traced(NamedTuple):
    """(doc, first byte, byte after the last), in order, none touching the next; and whether all was looked for.

    What was in the prompts n times is in `spans` once and in `again` n - 1 times.
    """

    spans: list[tuple[int, int, int]]
    complete: bool
    again: list[tuple[int, int, int]]


def trace(
    prompts: Sequence[bytes],
    texts: Sequence[Traceable],
    *,
    scan_bytes_max: int = limits.SCAN_BYTES_MAX,
    is_late: Callable[[], bool] = lambda: False,
) -> Traced:
    """Find the parts of `texts` that are in `prompts`, going through at most about `scan_bytes_max` bytes.

    Once `is_late` says so, it returns what it has found so far.
    """
    with ExitStack() as views:
        sources = [
            _Source(text.doc, views.enter_context(memoryview(text.view)), Spans(text.ranges), text.items)
            for text in texts
        ]
        tracer = _Tracer(sources, prompts, _by_recency(texts, sources), scan_bytes_max, is_late)
        return tracer.traced()


class _Source(NamedTuple):
    doc: int
    view: memoryview
    read: Spans
    items: Sequence[int] = ()


class _Place(NamedTuple):
    source: int
    at: int


class _Find(NamedTuple):
    """`size` bytes that agree: of the source from `start`, and of the rest from `at`."""

    source: int
    start: int
    at: int
    size: int


class _Edge:
    """A line that was found, and beside it, beyond `known` bytes, something that was not. `at` is where in the text."""

    def __init__(self, known: int, beside: bytes, *, behind: bool) -> None:
        self.at: list[int] = []
        self.known = known
        self.beside = beside
        self.behind = behind

    def learns(self, before: bytes, after: bytes) -> bool:
        """Whether a place with this before and after it agrees further than all places so far."""
        shared = _shared(self.beside, after) if self.behind else _shared(self.beside[::-1], before[::-1])
        better = shared > self.known
        self.known = max(self.known, shared)
        return better


class _Untraced(Exception):
    """The budget is used up."""


def _by_recency(texts: Sequence[Traceable], sources: Sequence[_Source]) -> list[tuple[int, int, int]]:
    """What was read, (source, start, stop), none twice, the most recent first."""
    found: dict[tuple[int, int, int], None] = {}
    for number, (text, source) in enumerate(zip(texts, sources, strict=True)):
        for start, stop in text.ranges:
            if start < stop and (around := source.read.around(start)) is not None:
                found.setdefault((number, *around))
    return list(found)


class _Tracer:
    def __init__(
        self,
        sources: list[_Source],
        prompts: Sequence[bytes],
        ranges: list[tuple[int, int, int]],
        budget: int,
        is_late: Callable[[], bool],
    ) -> None:
        self._sources = sources
        self._ranges = ranges
        self._budget = budget
        self._text = _BORDER.join([b"", *prompts, b""])
        self._rest = bytearray(self._text)
        self._starts = self._borders()
        self._finds: list[_Find] = []
        # Where the stretches of the text that `_compact` leaves begin: there, and in the prompts.
        self._kept = [(0, 0)]
        self._places: dict[bytes, list[_Place]] = {}
        self._used: dict[bytes, int] = {}
        self._last: _Find | None = None
        self._is_late = is_late

    def traced(self) -> Traced:
        try:
            self._trace()
            complete = True
        except _Untraced:
            complete = False
        spans, again = [], []
        finds: list[list[tuple[int, int]]] = [[] for _ in self._sources]
        for find in _parted(self._finds, self._sources):
            finds[find.source].append((find.start, find.start + find.size))
        for source, found in zip(self._sources, finds, strict=True):
            spans += [(source.doc, *span) for span in Spans(_with_blanks(source, *find) for find in found)]
            again += [(source.doc, start, stop) for start, stop, times in overlaps(found) for _ in range(times)]
        return Traced(sorted(spans), complete, sorted(again))

    def _trace(self) -> None:
        if not self._ranges or len(self._starts) == 1:
            return
        # The first prompt shows where in the document the program is; the others mostly go on from there.
        self._begin()
        for start in self._starts[:-1]:
            self._follow(start, limits.FIRST_REACH_BYTES)
        self._compact()
        self._sound(len(self._rest))
        self._compact()
        self._lines(len(self._rest))
        self._short_lines()
        for size in (limits.LONG, limits.SHORT):
            self._probe(size, len(self._rest))
        self._compact()
        self._edges()

    def _begin(self) -> None:
        for number, start, _ in self._ranges[: limits.PLACES_MAX]:
            self._last = beginning = _Find(number, start, 0, 0)
            self._follow(1, limits.FIRST_REACH_BYTES)
            if self._last is not beginning:
                return
        self._last = None
        self._sound(self._starts[1])
        if self._last is None:
            self._lines(self._starts[1])

    def _compact(self) -> None:
        """Drop what was found, mostly most of the text, except for its ends: nobody goes through it again."""
        kept, at = [], 0
        for run in _FOUND_RUN.finditer(self._rest):
            first, after = run.start() + limits.OVERLAP_BYTES_MAX, run.end() - limits.OVERLAP_BYTES_MAX
            if first < after:
                kept.append((at, first))
                at = after
        kept.append((at, len(self._text)))
        kept_from, size = [], 0
        for start, stop in kept:
            kept_from.append((size, self._in_prompts(start)))
            size += stop - start + len(_FOUND)
        self._kept = kept_from
        self._text = _FOUND.join(self._text[start:stop] for start, stop in kept)
        self._rest = bytearray(_FOUND.join(self._rest[start:stop] for start, stop in kept))
        self._starts = self._borders()

    def _in_prompts(self, at: int) -> int:
        """Where a place of the text was before anything was left out."""
        now, before = self._kept[bisect_right(self._kept, at, key=itemgetter(0)) - 1]
        return before + at - now

    def _borders(self) -> list[int]:
        """Where the prompts begin, and one more."""
        return [border.end() for border in re.finditer(_BORDER, self._rest)]

    def _spend(self, size: int) -> None:
        if size > self._budget or self._is_late():
            self._budget = 0
            raise _Untraced
        self._budget -= size

    # ---------------------------------------------------------------------------------------------------------- finds

    def _grown(self, place: _Place, at: int, size: int) -> _Find:
        """A find of `size` bytes, grown to all that agrees, ending where characters do."""
        self._spend(limits.GROWTH_COST_BYTES)
        view, around = self._sources[place.source].view, self._sources[place.source].read.around(place.at)
        assert around is not None
        ahead = _agreeing(view, place.at + size, around[1], self._rest, at + size)
        if self._rest.startswith(_FOUND, at + size + ahead):
            stop = min(around[1], place.at + size + ahead + limits.OVERLAP_BYTES_MAX)
            ahead += _agreeing(view, place.at + size + ahead, stop, self._text, at + size + ahead)
        back = _agreeing_back(view, place.at, around[0], self._rest, at)
        if self._rest.endswith(_FOUND, 0, at - back):
            stop = max(around[0], place.at - back - limits.OVERLAP_BYTES_MAX)
            back += _agreeing_back(view, place.at - back, stop, self._text, at - back)
        ahead -= self._accident_ahead(at + size, ahead)
        back -= self._accident_back(at, back)
        start, stop = place.at - back, place.at + size + ahead
        first, last = _whole_characters(view, start, stop, around[1])
        return _Find(place.source, first, at - back + first - start, max(0, last - first))

    def _accident_ahead(self, at: int, size: int) -> int:
        """How much at the end agrees only because two lines begin alike: the prompt's line goes on differently."""
        end = at + size
        if not self._within_word(end):
            return 0
        line = self._text.rfind(b"\n", max(at, end - limits.ACCIDENT_BYTES_MAX), end)
        return end - line if line >= 0 else 0

    def _accident_back(self, at: int, size: int) -> int:
        """The same for two lines that end alike."""
        start = at - size
        if not self._within_word(start - 1):
            return 0
        line = self._text.find(b"\n", start, min(at, start + limits.ACCIDENT_BYTES_MAX))
        return line + 1 - start if line >= 0 else 0

    def _within_word(self, at: int) -> bool:
        return _WORDLY.match(self._text, at) is not None

    def _take(self, find: _Find) -> int:
        """Count it as shown. Returns where it ends in the rest."""
        end = find.at + find.size
        self._rest[find.at : end] = _FOUND * find.size
        self._finds.append(find._replace(at=self._in_prompts(find.at)))
        self._last = find
        return end

    def _stands(self, anchor: bytes, at: int) -> bool:
        """Whether none of it was found meanwhile."""
        return self._rest.startswith(anchor, at)

    def _is_new(self, at: int, size: int) -> bool:
        return self._rest.count(_FOUND, at, at + size) < size

    def _nearby(self, needle: bytes, at: int, stop: int) -> int:
        """Where the needle is, or -1. What is before `at` may have taken its first bytes."""
        where = self._rest.find(needle, at, stop)
        if where < 0:
            where = self._text.find(needle, max(0, at - len(needle) + 1), stop)
        return where if where >= 0 and self._is_new(where, len(needle)) else -1

    # --------------------------------------------------------------------------------------------------------- follow

    def _follow(self, at: int, reach: int) -> None:
        """Take the document's continuation from the last find, as long as the prompt has it nearby."""
        end = self._starts[bisect_right(self._starts, at)] - 1
        needles = [*self._next_lines(), *self._same_again()] if reach > limits.REACH_BYTES else [*self._next_lines()]
        while (find := self._continuation(needles, at, min(end, at + reach))) is not None:
            at, reach = self._take(find), limits.REACH_BYTES
            needles = [*self._next_lines()]

    def _continuation(self, needles: Iterable[tuple[_Place, bytes]], at: int, stop: int) -> _Find | None:
        for place, needle in needles:
            if len(needle) < limits.LINE_BYTES_MIN:
                where = self._rest.find(needle, at, min(stop, at + limits.DECORATION_BYTES_MAX + len(needle)))
                if where >= 0 and self._stands_alone(at, where, len(needle)):
                    return self._grown(place, where, len(needle))
                continue
            where = self._nearby(needle, at, stop)
            if where >= 0:
                find = self._grown(place, where, len(needle))
                whole = len(needle) > limits.LINE_BYTES_MIN or find.size >= limits.NEEDLE_BYTES_MAX
                if whole or self._ends_a_word(find.at + find.size):
                    return find
        return None

    def _next_lines(self) -> Iterator[tuple[_Place, bytes]]:
        """How the document goes on after the last find: its next lines, without the white space around them."""
        if self._last is None:
            return
        number, stop = self._last.source, self._last.start + self._last.size
        view, around = self._sources[number].view, self._sources[number].read.around(stop)
        if around is None:
            return
        _, end = _whole_characters(view, stop, min(stop + limits.NEXT_BYTES, around[1]), around[1])
        block = bytes(view[stop:end])
        for line in islice(_LINE.finditer(block), limits.NEXT_LINES):
            place, text = _Place(number, stop + line.start()), line[0][: limits.NEEDLE_BYTES_MAX].rstrip()
            if line.end() < len(block) or len(line[0]) <= limits.NEEDLE_BYTES_MAX:
                yield place, text
            else:
                # A list's items are in its text with nothing between them, and the next one may be short.
                yield from ((place, text), (place, text[: limits.LINE_BYTES_MIN]))

    def _same_again(self) -> Iterator[tuple[_Place, bytes]]:
        """The last find itself: several questions about one slice."""
        if self._last is not None and self._last.size >= limits.LONG:
            view, start = self._sources[self._last.source].view, self._last.start
            yield _Place(self._last.source, start), bytes(view[start : start + limits.LONG])

    def _stands_alone(self, at: int, where: int, size: int) -> bool:
        """Whether only bullets, numbers and punctuation are before it, and no word goes on after it."""
        return _LETTER.search(self._rest, at, where) is None and self._ends_a_word(where + size)

    def _ends_a_word(self, at: int) -> bool:
        return _WORDLY.match(self._rest, at) is None

    # ---------------------------------------------------------------------------------------------------------- probe

    def _sound(self, stop: int) -> None:
        """Find the long slices in the rest before `stop`: an anchor for each gap, while that finds something."""
        for part in limits.SOUNDINGS:
            found = True
            while found:
                gaps = [gap.span() for gap in _GAP.finditer(self._rest, 0, stop) if len(gap[0]) >= limits.CERTAIN_BYTES]
                middles = [start + int((end - start - limits.LONG) * part) for start, end in gaps]
                found = self._sounded([(bytes(self._rest[at : at + limits.LONG]), at) for at in middles])

    def _sounded(self, anchors: list[tuple[bytes, int]]) -> bool:
        """Look for anchors; take only what is certain. Returns whether there was something."""
        before = self._last
        for first in range(0, len(anchors), limits.ANCHORS_MAX):
            some = anchors[first : first + limits.ANCHORS_MAX]
            wanted: dict[bytes, list[int]] = {}
            unknown: set[bytes] = set()
            self._collect(iter(some), len(some), wanted, unknown)
            if unknown:
                self._locate(unknown, wanted)
        return self._last is not before

    def _probe(self, size: int, stop: int) -> None:
        """Look for anchors of `size` bytes from the rest before `stop`, until all have been looked for."""
        offered = [self._anchors(*gap.span(), size) for gap in _GAP.finditer(self._rest, 0, stop)]
        while offered:
            wanted: dict[bytes, list[int]] = {}
            unknown: set[bytes] = set()
            each = max(limits.ANCHORS_PER_GAP, limits.ANCHORS_MAX // len(offered))
            offered = [
                anchors
                for anchors in offered
                if len(unknown) >= limits.ANCHORS_MAX or self._collect(anchors, each, wanted, unknown)
            ]
            if unknown:
                self._locate(unknown, wanted)
            for anchor, places in wanted.items():
                self._take_best(anchor, places)

    def _anchors(self, start: int, stop: int, size: int) -> Iterator[tuple[bytes, int]]:
        """What to look for of one gap, and where it is."""
        for at in range(start, stop - size + 1, size):
            yield bytes(self._rest[at : at + size]), at
        if size == limits.SHORT:
            for piece in _PIECE.finditer(bytes(self._rest[start:stop])):
                yield piece[1], start + piece.start(1)

    def _collect(
        self, anchors: Iterator[tuple[bytes, int]], count: int, wanted: dict[bytes, list[int]], unknown: set[bytes]
    ) -> bool:
        """Put the next `count` of a gap's anchors into `wanted`. Returns whether there may be more."""
        taken = 0
        for anchor, at in anchors:
            if _FOUND in anchor or not self._stands(anchor, at) or len(set(anchor)) < limits.DIFFERENT_BYTES_MIN:
                continue
            known = self._places.get(anchor)
            if known is None or known:
                wanted.setdefault(anchor, []).append(at)
                taken += 1
            if known is None:
                unknown.add(anchor)
            if taken == count:
                return True
        return False

    def _locate(self, anchors: set[bytes], wanted: Mapping[bytes, list[int]]) -> None:
        """Look for anchors in all that was read. What is certain is taken at once."""
        places: dict[bytes, list[_Place]] = {anchor: [] for anchor in anchors}
        for anchor, place in self._hits(places):
            places[anchor].append(place)
            for where in wanted[anchor]:
                if self._stands(anchor, where):
                    find = self._grown(place, where, len(anchor))
                    if find.size >= limits.CERTAIN_BYTES:
                        self._follow(self._take(find), limits.REACH_BYTES)
        self._places.update(places)

    def _hits(self, places: Mapping[bytes, list[_Place]]) -> Iterator[tuple[bytes, _Place]]:
        """Where the anchors are in what was read; each at no more than `PLACES_MAX` places."""
        self._spend(limits.COMPILE_COST_BYTES)
        pattern, waste = _any_of(places), 0
        for number, start, stop in self._ranges:
            self._spend(stop - start)
            view = self._sources[number].view
            while start < stop:
                for match in pattern.finditer(view, start, stop):
                    at, end = match.span()
                    anchor = bytes(view[at:end])
                    if len(places[anchor]) < limits.PLACES_MAX:
                        yield anchor, _Place(number, at)
                        continue
                    waste += 1
                    if waste == limits.WASTE_MAX:
                        break
                else:
                    break
                open_ = [anchor for anchor, known in places.items() if len(known) < limits.PLACES_MAX]
                if not open_:
                    return
                pattern, waste, start = _any_of(open_), 0, end

    def _take_best(self, anchor: bytes, wheres: Iterable[int]) -> None:
        places = self._places[anchor]
        for where in wheres:
            if places and self._stands(anchor, where):
                finds = [self._grown(place, where, len(anchor)) for place in places]
                best = max(finds, key=self._worth)
                if best.size >= min(len(anchor), limits.SHORT):
                    self._follow(self._take(best), limits.REACH_BYTES)

    def _worth(self, find: _Find) -> tuple[int, bool]:
        last = self._last
        goes_on = last is not None and last.source == find.source and last.start + last.size <= find.start
        return find.size, goes_on

    # ---------------------------------------------------------------------------------------------------------- lines

    def _lines(self, stop: int) -> None:
        """Take every line of what was read that is in the rest before `stop` as a whole."""
        rows: dict[bytes, list[int]] = {}
        self._used.clear()
        for row in _ROW.finditer(self._text, 0, stop):
            if self._is_worth_it(row.start(), row.end()):
                rows.setdefault(row[0], []).append(row.start())
                # The same line after many numbers: each row differs, except for this.
                for field in _FIELD.finditer(row[0]):
                    bare = field[1].rstrip(_CLOSING)
                    if len(bare) >= limits.LINE_BYTES_MIN and bare != row[0]:
                        rows.setdefault(bare, []).append(row.start() + field.start(1))
        texts = iter(rows)
        while grams := self._grams(texts):
            for number, start, stop in self._ranges:
                self._spend(stop - start)
                self._lines_of(number, start, stop, grams, rows)

    def _is_worth_it(self, start: int, end: int) -> bool:
        """Whether a row may have a line that was not found yet: more than a bullet is left of it, or its end is."""
        left = end - start - self._rest.count(_FOUND, start, end)
        return left > limits.BULLET_BYTES_MAX or (left > 0 and not self._rest.endswith(_FOUND, start, end))

    def _grams(self, rows: Iterator[bytes]) -> dict[bytes, bytes]:
        """The pieces of `LINE_BYTES_MIN` bytes of the next rows, each with a row that has it; and the rows."""
        grams: dict[bytes, bytes] = {}
        for row in rows:
            self._spend(len(row))
            for at in range(len(row) - limits.LINE_BYTES_MIN + 1):
                grams[row[at : at + limits.LINE_BYTES_MIN]] = row
            grams[row] = row
            if len(grams) >= limits.GRAMS_MAX:
                break
        return grams

    def _lines_of(
        self, number: int, start: int, stop: int, grams: Mapping[bytes, bytes], rows: Mapping[bytes, list[int]]
    ) -> None:
        for at, block in _blocks(self._sources[number].view, start, stop):
            lines = block.split(b"\n")
            stripped = [line.strip() for line in lines]
            if grams.keys().isdisjoint([line[: limits.LINE_BYTES_MIN] for line in stripped]):
                continue
            for line, text in zip(lines, stripped, strict=True):
                if text[: limits.LINE_BYTES_MIN] in grams and (where := self._row_with(text, grams, rows)) is not None:
                    place = _Place(number, at + line.find(text))
                    self._follow(self._take(self._grown(place, where, len(text))), limits.REACH_BYTES)
                at += len(line) + 1

    def _row_with(self, line: bytes, grams: Mapping[bytes, bytes], rows: Mapping[bytes, list[int]]) -> int | None:
        """Where in the rest the whole line is."""
        size = limits.LINE_BYTES_MIN
        if len(line) > limits.LINE_BYTES_MAX:  # an anchor finds it
            return None
        pieces = [*(line[at : at + size] for at in range(0, len(line) - size, size)), line[-size:]]
        if not all(piece in grams for piece in pieces):
            return None
        # Lines that begin alike are told apart by the last row that has one of their pieces.
        candidates = dict.fromkeys(grams[piece] for piece in (line, *reversed(pieces)) if piece in grams)
        row = next((row for row in islice(candidates, limits.PLACES_MAX) if line in row), None)
        if row is None:
            return None
        within, wheres = row.find(line), rows[row]
        # What was found stays found: a line that is everywhere does not go through its places again and again.
        for number in range(self._used.get(line, 0), len(wheres)):
            self._used[line] = number + 1
            if self._is_new(wheres[number] + within, len(line)):
                return wheres[number] + within
        return None

    # ---------------------------------------------------------------------------------------------------- short lines

    def _short_lines(self) -> None:
        """Take short lines that are in the rest one after the other, as they are in what was read."""
        rest = bytes(self._rest)
        stretches = (
            (at, rest[at : min(at + limits.STRETCH_BYTES, gap.end())])
            for gap in _GAP.finditer(rest)
            for at in range(gap.start(), gap.end(), limits.STRETCH_BYTES)
        )
        while index := self._runs(stretches):
            firsts = {run.partition(b"\n")[0] for run in index}
            for number, start, stop in self._ranges:
                self._spend(stop - start)
                for at, block in _blocks(self._sources[number].view, start, stop):
                    self._short_lines_of(number, at, block, index, firsts)

    def _runs(self, gaps: Iterator[tuple[int, bytes]]) -> dict[bytes, list[int]]:
        """The runs of the next stretches of gaps, and where they are, the last one first."""
        index: dict[bytes, list[int]] = {}
        for start, gap in gaps:
            self._spend(limits.WAYS * len(gap))
            for way in pieces(gap, start):
                for run, at, _ in runs(way):
                    index.setdefault(run, []).append(at)
            if len(index) >= limits.GRAMS_MAX:
                break
        for wheres in index.values():
            wheres.reverse()
        return index

    def _short_lines_of(
        self, number: int, at: int, block: bytes, index: Mapping[bytes, list[int]], firsts: Set[bytes]
    ) -> None:
        rows = self._rows(number, at, block)
        if firsts.isdisjoint([row.strip() for _, row in rows]):
            return
        lines = [(start + row.find(text), text) for start, row in rows if (text := row.strip())]
        for run, place, first in runs(lines):
            wheres = index.get(run, [])
            while wheres and not self._stands(first, wheres[-1]):
                wheres.pop()
            if wheres:
                self._follow(
                    self._take(self._grown(_Place(number, place), wheres.pop(), len(first))), limits.REACH_BYTES
                )

    def _rows(self, number: int, at: int, block: bytes) -> list[tuple[int, bytes]]:
        """The lines of a block, and where they begin. An item of a list begins one without a line end before it."""
        items = self._sources[number].items
        begin = [items[n] - at for n in range(bisect_right(items, at), bisect_left(items, at + len(block)))]
        rows = []
        for start, stop in pairwise([0, *begin, len(block)]):
            for row in block[start:stop].split(b"\n"):
                rows.append((at + start, row))
                start += len(row) + 1
        return rows

    # ---------------------------------------------------------------------------------------------------------- edges

    def _edges(self) -> None:
        """Take what is beside a line that was found, where the document has both."""
        edges = self._edges_by_line()
        tried: dict[bytes, set[tuple[bytes, bytes]]] = {line: set() for line in edges}
        for number, start, stop in self._ranges if edges else ():
            self._spend(stop - start)
            view = self._sources[number].view
            for line, at in _places_of(edges, view, start, stop):
                end = at + len(line)
                before = bytes(view[max(start, at - limits.EDGE_BYTES_MAX) : at])
                after = bytes(view[end : min(stop, end + limits.EDGE_BYTES_MAX)])
                if (before, after) not in tried[line] and len(tried[line]) < limits.EDGE_PLACES_MAX:
                    tried[line].add((before, after))
                    self._spend(limits.EDGE_COST_BYTES * len(edges[line]))
                    for edge in edges[line]:
                        for where in edge.at if edge.learns(before, after) else ():
                            self._take_new(self._grown(_Place(number, at), where, len(line)))

    def _take_new(self, find: _Find) -> None:
        if self._is_new(find.at, find.size):
            self._take(find)

    def _edges_by_line(self) -> dict[bytes, list[_Edge]]:
        edges: dict[bytes, dict[tuple[int, bytes, bool], _Edge]] = {}
        gaps = Counter(gap[0].strip() for gap in _ANY_GAP.finditer(self._rest))
        prompts = len(self._starts) - 1
        for gap in _ANY_GAP.finditer(self._rest):
            if prompts >= limits.PROMPTS_ALIKE_MIN and gaps[gap[0].strip()] > prompts // 2:
                continue
            for row, known, beside, behind in self._edges_of(*gap.span()):
                of_line = edges.setdefault(self._text[slice(*row)], {})
                if len(of_line) < limits.EDGES_PER_LINE_MAX:
                    edge = of_line.setdefault((known, beside, behind), _Edge(known, beside, behind=behind))
                    edge.at.append(row[0])
        return {line: [*of_line.values()] for line, of_line in edges.items()}

    def _edges_of(self, start: int, stop: int) -> Iterator[tuple[tuple[int, int], int, bytes, bool]]:
        """The lines beside a gap: where they are, how much beside them is known, what is there, and on which side."""
        if self._rest[start : min(stop, start + limits.EDGE_BYTES_MAX)].isspace():
            return
        if self._rest.endswith(_FOUND, 0, start) and (row := self._row_before(start)) is not None:
            yield row, start - row[1], self._text[row[1] : row[1] + limits.EDGE_BYTES_MAX], True
        if self._rest.startswith(_FOUND, stop) and (row := self._row_behind(stop)) is not None:
            yield row, row[0] - stop, self._text[max(0, row[0] - limits.EDGE_BYTES_MAX) : row[0]], False

    def _row_before(self, gap: int) -> tuple[int, int] | None:
        """The last whole row before a gap that is long enough, and was found."""
        end = (
            gap
            if self._text.startswith(b"\n", gap)
            else self._text.rfind(b"\n", max(0, gap - limits.EDGE_BYTES_MAX), gap)
        )
        for _ in range(limits.EDGE_LINES_MAX):
            if end < 0:
                break
            start = self._text.rfind(b"\n", max(0, end - limits.LINE_BYTES_MAX), end) + 1
            row = self._stripped(start, end)
            if row is not None:
                return row
            end = start - 1
        return None

    def _row_behind(self, gap: int) -> tuple[int, int] | None:
        start = (
            gap if self._text.endswith(b"\n", 0, gap) else self._text.find(b"\n", gap, gap + limits.EDGE_BYTES_MAX) + 1
        )
        for _ in range(limits.EDGE_LINES_MAX):
            match = _REST_OF_ROW.match(self._text, start, start + limits.LINE_BYTES_MAX)
            if start < gap or match is None:
                break
            row = self._stripped(*match.span())
            if row is not None:
                return row
            start = match.end() + 1
        return None

    def _stripped(self, start: int, end: int) -> tuple[int, int] | None:
        """The row without the white space around it, if it is long enough and was found."""
        row = self._text[start:end]
        text = row.strip()
        start += row.find(text)
        end = start + len(text)
        found = len(text) >= limits.LINE_BYTES_MIN and self._rest.count(_FOUND, start, end) == len(text)
        return (start, end) if found else None


def _places_of(lines: Collection[bytes], view: memoryview, start: int, stop: int) -> Iterator[tuple[bytes, int]]:
    """Where lines of the range are, without the white space around them, that are among `lines`."""
    wanted = frozenset(lines)
    for at, block in _blocks(view, start, stop):
        rows = block.split(b"\n")
        stripped = [row.strip() for row in rows]
        if wanted.isdisjoint(stripped):
            continue
        for row, text in zip(rows, stripped, strict=True):
            if text in wanted:
                yield text, at + row.find(text)
            at += len(row) + 1


def _parted(finds: Iterable[_Find], sources: Sequence[_Source]) -> list[_Find]:
    """The finds in the order of the prompts, made disjoint there."""
    parted: list[_Find] = []
    for find in sorted(finds, key=lambda find: (find.at, -find.size)):
        if parted and (shared := parted[-1].at + parted[-1].size - find.at) > 0:
            if shared >= find.size:
                continue
            kept = _kept(parted[-1], find, shared, sources)
            parted[-1] = parted[-1]._replace(size=parted[-1].size - shared + kept)
            find = find._replace(start=find.start + kept, at=find.at + kept, size=find.size - kept)
        parted.append(find)
    return [find for find in parted if find.size]


def _kept(one: _Find, other: _Find, shared: int, sources: Sequence[_Source]) -> int:
    """How much of what both have the first keeps: whole lines, and the end of a line that it has the beginning of."""
    block = bytes(sources[other.source].view[other.start : other.start + shared + 1])
    lines = block.rfind(b"\n", 0, shared) + 1
    if lines:
        return lines
    begins = one.start + one.size - shared
    is_whole = begins > one.start and sources[one.source].view[begins - 1] == 0x0A
    return 0 if is_whole or not block.endswith(b"\n") else shared


def _any_of(anchors: Iterable[bytes]) -> Any:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    options.max_mem = limits.AUTOMATON_BYTES_MAX
    return re2.compile(b"|".join(re2.escape(anchor) for anchor in anchors), options)


def _blocks(view: memoryview, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """The range in blocks of whole lines, as far as lines are shorter than a block."""
    while start < stop:
        block = bytes(view[start : min(start + limits.BLOCK_BYTES, stop)])
        if start + len(block) < stop and (cut := block.rfind(b"\n")) >= 0:
            block = block[: cut + 1]
        yield start, block
        start += len(block)


def _agreeing(view: memoryview, start: int, stop: int, text: bytes | bytearray, at: int) -> int:
    """How many bytes from `start` and from `at` are the same. The prompts end with a byte that no document has."""
    size, step = 0, 64
    while start + size < stop:
        step = min(step, stop - start - size, len(text) - at - size)
        ours, theirs = bytes(view[start + size : start + size + step]), text[at + size : at + size + step]
        if ours != theirs:
            return size + _alike(ours, theirs)
        size, step = size + step, min(4 * step, 1 << 16)
    return size


def _agreeing_back(view: memoryview, start: int, stop: int, text: bytes | bytearray, at: int) -> int:
    """How many bytes before `start` and before `at` are the same, down to `stop` of the view."""
    size, step = 0, 64
    while start - size > stop:
        step = min(step, start - size - stop, at - size)
        ours, theirs = bytes(view[start - size - step : start - size]), text[at - size - step : at - size]
        if ours != theirs:
            return size + _alike(ours[::-1], theirs[::-1])
        size, step = size + step, min(4 * step, 1 << 16)
    return size


def _shared(left: bytes, right: bytes) -> int:
    """How many leading bytes two strings share."""
    size = min(len(left), len(right))
    return size if left[:size] == right[:size] else _alike(left[:size], right[:size])


def _alike(left: bytes | bytearray, right: bytes | bytearray) -> int:
    """How many leading bytes two different strings of one length share."""
    different = int.from_bytes(left, "little") ^ int.from_bytes(right, "little")
    return ((different & -different).bit_length() - 1) // 8


def _whole_characters(view: memoryview, start: int, stop: int, end: int) -> tuple[int, int]:
    """The range without parts of characters at its ends. `end` is where a character surely ends."""
    while start < stop and view[start] & 0xC0 == 0x80:
        start += 1
    while start < stop < end and view[stop] & 0xC0 == 0x80:
        stop -= 1
    return start, stop


def _with_blanks(source: _Source, start: int, stop: int) -> tuple[int, int]:
    """The range with the white space beside it that counts, as far as it was read."""
    around = source.read.around(start)
    assert around is not None
    before, after = _blank_before(source.view, start, around[0]), _blank_after(source.view, stop, around[1])
    return start - before, stop + after


def _blank_after(view: memoryview, start: int, stop: int) -> int:
    """How many bytes of white space there are from `start`, line ends of every kind among them."""
    text = str(view[start : min(start + limits.BLANK_BYTES_MAX, stop)], "utf-8", "ignore")
    return len(text[: len(text) - len(text.lstrip())].encode())


def _blank_before(view: memoryview, start: int, stop: int) -> int:
    text = str(view[max(start - limits.BLANK_BYTES_MAX, stop) : start], "utf-8", "ignore")
    return len(text[len(text.rstrip()) :].encode())
