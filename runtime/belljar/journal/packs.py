"""Older records, many to a row: a log then takes a quarter of the room.

A record is believed for its bytes: they are hashed, chained and signed. How they lie on the disk is another matter. The
newest are rows of `records`, as they were written. Of those that are signed, each block of `PACK_RECORDS` becomes one
row of `packs`: their bytes, a line feed behind each, compressed by zlib. That is JSON Lines, and can be read without
Belljar; in the shell of SQLite, for one, by

    SELECT sqlar_uncompress(body, size) FROM packs ORDER BY block

What else `records` has is not kept: the bytes give their hash, and a run is found by `pack_runs`, which has a row for
each run of each pack, with its first and last record there, and how many it has.

    block 0: records 1 to 256        block 1: records 257 to 512        ...        records: all that came later

Blocks are packed in their order and each in one transaction, so every record is in one place, and the log is the packs
and then `records`. `Packs` reads it as if there were no packs.
"""

from __future__ import annotations

import functools
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from belljar.journal.draft import Ask, Draft, Job
from belljar.journal.schema import tail_of
from belljar.journal.tables import (
    PACK_RECORDS,
    PACK_RUNS,
    PACKS,
    RECORD_BYTES_MAX,
    RECORDS,
    PackRow,
    PackRunRow,
)

__all__ = ["Bounds", "Pack", "Packs", "Row", "block_of", "bound", "pack_of", "packed", "unpacked"]

# Of a record: its number, run, body and hash. The run and the hash of one that comes from a pack are None, since only
# its bytes say them; and so are the bytes where the pack cannot be read.
Row = tuple[int, object, object, object]
# Of a run: its first and its last record, and how many it has.
Bounds = tuple[int, int, int]
# These for each run of each pack, and for each later record.
_SPANS: Final = "(SELECT run, low, high, many FROM pack_runs UNION ALL SELECT run, seq, seq, 1 FROM records) AS spans"
# The same of a log that an older version made.
_NO_PACKS: Final = "(SELECT run, seq AS low, seq AS high, 1 AS many FROM records) AS spans"
_OF_RUN: Final = "SELECT min(low), max(high), CAST(sum(many) AS bigint) FROM {} WHERE run = ?"

_BATCH: Final = 500
_TEXT_BYTES_MAX: Final = PACK_RECORDS * (RECORD_BYTES_MAX + 1)
# Of the packs that a reader keeps open, some 130 KB each: the runs of a tree stand side by side in a few.
_OPEN_BYTES_MAX: Final = 16 << 20
# A planted body of gigabytes is never loaded: it reads as NULL, and is refused.
_BODY: Final = "CASE WHEN length(body) <= {} THEN body END"
_PACK: Final = f"SELECT {_BODY.format(_TEXT_BYTES_MAX)}, size FROM packs WHERE block = ?"  # noqa: S608 (constants)
_RECORDS: Final = f"SELECT seq, run, {_BODY.format(RECORD_BYTES_MAX)}, hash FROM records WHERE "  # noqa: S608
_END: Final = f"SELECT coalesce(max(block) + 1, 0) * {PACK_RECORDS} FROM packs"  # noqa: S608 (a constant)
_ALL: Final = "1 = 1"


class Packs:
    """Reads the records of one snapshot, wherever they are.

    Args:
        ask: answers a SELECT.
        there_are: whether the log can have packs: those of older versions have no table for them.
    """

    def __init__(self, ask: Ask, *, there_are: bool = True) -> None:
        self._ask = ask
        self._there_are = there_are
        self._open: OrderedDict[int, tuple[list[bytes] | None, int]] = OrderedDict()
        self._open_bytes = 0

    @property
    def spans(self) -> str:
        """What a SELECT takes from for the columns `run`, `low`, `high` and `many`: the bounds of runs, in parts."""
        return _SPANS if self._there_are else _NO_PACKS

    def bounds_of(self, run: str) -> Bounds | None:
        """None if the run has no records."""
        ((low, high, many),) = self._ask(_OF_RUN.format(self.spans), run)
        return None if low is None else (low, high, many)

    def rows(
        self,
        first: int = 1,
        last: int | None = None,
        *,
        where: str = _ALL,
        values: Sequence[object] = (),
        backwards: bool = False,
    ) -> Iterator[Row]:
        """The records between two numbers, in order.

        Args:
            where: a condition on the column `run`, with `?` for each of `values`.
        """
        parts = [self._packed, self._later]
        if last is not None:  # of one record, say, of which a reader may ask thousands
            parts = [self._packed] * (first <= self._end) + [self._later] * (last > self._end)
        for part in reversed(parts) if backwards else parts:
            yield from part(first, 2**62 if last is None else last, where, values, backwards)

    @functools.cached_property
    def _end(self) -> int:
        return packed(self._ask) if self._there_are else 0

    def _later(self, first: int, last: int, where: str, values: Sequence[object], backwards: bool) -> Iterator[Row]:
        order = "DESC" if backwards else "ASC"
        select = f"{_RECORDS}{where} AND seq BETWEEN ? AND ? ORDER BY seq {order} LIMIT {_BATCH}"
        while found := self._ask(select, *values, first, last):
            yield from (_row(*row) for row in found)
            if len(found) < _BATCH:
                return
            first, last = (first, found[-1][0] - 1) if backwards else (found[-1][0] + 1, last)

    def _packed(self, first: int, last: int, where: str, values: Sequence[object], backwards: bool) -> Iterator[Row]:
        if not self._there_are:
            return
        for block, runs in self._blocks(block_of(first), block_of(last), where, values, backwards):
            begin = block * PACK_RECORDS + 1
            bodies = self._opened(block)
            places = range(max(0, first - begin), min(PACK_RECORDS, last - begin + 1))
            for at in reversed(places) if backwards else places:
                if bodies is None:
                    yield begin + at, None, None, None
                elif runs is None or ((tail := tail_of(bodies[at])) is not None and tail[1] in runs):
                    yield begin + at, None, bodies[at], None

    def _blocks(
        self, low: int, high: int, where: str, values: Sequence[object], backwards: bool
    ) -> Iterator[tuple[int, set[object] | None]]:
        """The packs that have such records, and of which runs; None: of all."""
        if low == high and where is _ALL and low in self._open:
            yield low, None
            return
        order = "DESC" if backwards else "ASC"
        if where is _ALL:
            select = "SELECT block FROM packs WHERE block BETWEEN ? AND ?"
        else:
            select = f"SELECT block, run FROM pack_runs WHERE {where} AND block BETWEEN ? AND ?"  # noqa: S608
        select += f" ORDER BY block {order} LIMIT {_BATCH}"  # more than the runs of a block
        while found := self._ask(select, *values, low, high):
            runs: dict[int, set[object]] = {}
            for block, *run in found:
                runs.setdefault(block, set()).update(run)
            is_all = len(found) < _BATCH
            if not is_all and where is not _ALL and len(runs) > 1:
                runs.popitem()  # there may be more of it
            for block, some in runs.items():
                yield block, None if where is _ALL else some
            if is_all:
                return
            end = next(reversed(runs))
            low, high = (low, end - 1) if backwards else (end + 1, high)

    def _opened(self, block: int) -> list[bytes] | None:
        if block in self._open:
            self._open.move_to_end(block)
            return self._open[block][0]
        found = self._ask(_PACK, block)
        lines = _lines(*found[0]) if found else None
        size = sum(map(len, lines or ()))
        self._open[block] = lines, size
        self._open_bytes += size
        while self._open_bytes > _OPEN_BYTES_MAX and len(self._open) > 1:
            _, (_, gone) = self._open.popitem(last=False)
            self._open_bytes -= gone
        return lines


def packed(ask: Ask) -> int:
    """How many records are in packs."""
    found: int = ask(_END)[0][0]
    return found


def block_of(seq: int) -> int:
    """The block that a record is in."""
    return (seq - 1) // PACK_RECORDS


def _lines(body: object, size: object) -> list[bytes] | None:
    """The records of a pack; None if it cannot be read."""
    if not isinstance(body, bytes) or not isinstance(size, int) or not 0 < size <= _TEXT_BYTES_MAX:
        return None
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(body, size + 1)
    except zlib.error:
        return None
    *lines, rest = text.split(b"\n")
    is_whole = stream.eof and not stream.unused_data and len(text) == size
    return lines if is_whole and not rest and len(lines) == PACK_RECORDS else None


def _row(seq: int, run: object, body: object, digest: object) -> Row:
    return seq, run, body, digest


# -- making them -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pack:
    """The next pack of a log, whose records are rows of `records` still."""

    seqs: range
    row: PackRow
    runs: list[PackRunRow]

    def put(self) -> Job[bool]:
        """Put it in the place of its records; not where another process was faster."""

        def work(draft: Draft) -> bool:
            if packed(draft.query) != self.row.block * PACK_RECORDS:
                return False
            draft.put(PACKS, self.row)
            for run in self.runs:
                draft.put(PACK_RUNS, run)
            for seq in self.seqs:
                draft.remove(RECORDS, seq)
            return True

        return Job(work)


def unpacked(signed: int) -> Job[tuple[list[Row], int]]:
    """The records of the next block, if all of them and a later one are signed, as the first `signed` are; else none.

    And how many are in packs. The last record never is: the next one continues it.
    """

    def work(draft: Draft) -> tuple[list[Row], int]:
        done = packed(draft.query)
        last = done + PACK_RECORDS
        select = f"{_RECORDS}seq BETWEEN ? AND ? ORDER BY seq"
        return [_row(*found) for found in draft.query(select, done + 1, last)] if last < signed else [], done

    return Job(work)


def pack_of(rows: Sequence[Row]) -> Pack | None:
    """Make a pack of the records of a block; takes some 2 ms.

    None where they are not as they were written: what shows that would be gone, so they stay as they are.
    """
    first, text, runs = rows[0][0], bytearray(), dict[str, Bounds]()
    for expected, (seq, run, body, digest) in enumerate(rows, first):
        if not isinstance(body, bytes) or not isinstance(run, str) or b"\n" in body:
            return None
        tail = tail_of(body)
        if seq != expected or sha256(body).digest() != digest or tail is None or tail[1] != run:
            return None
        text += body + b"\n"
        bound(runs, run, seq)
    if len(rows) != PACK_RECORDS:
        return None
    row = PackRow(block_of(first), len(text), zlib.compress(text))
    of_runs = [PackRunRow(row.block, run, *bounds) for run, bounds in runs.items()]
    return Pack(range(first, first + PACK_RECORDS), row, of_runs)


def bound(runs: dict[str, Bounds], run: str, seq: int) -> None:
    """Count the next record of a run."""
    low, _, many = runs.get(run, (seq, seq, 0))
    runs[run] = low, seq, many + 1
