"""Lines and characters are found where `str` says they are, however the text was cut on its way in."""

from __future__ import annotations

import io
import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from belljar.context import ContextStore, Document, OpenDocument
from belljar.context.document import MARK_CHARS, MARK_LINES
from belljar.context.lines import WIDE_ENDS, flattened, nth_end
from belljar.context.tally import BLOCK_BYTES, Measure, Tally
from belljar.errors import HostFault
from tests.examples import examples

NOW_NS = 1_800_000_000_000_000_000

ENDS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
# Neighbours of the ends in code, parts of them in bytes, and every width.
OTHERS = ["a", " ", "\x1b", "\x1f", "\x84", "\x86", "\xc2", "\u2027", "\u202a", "é", "€", "e\u0301", "😀"]
texts = st.lists(st.sampled_from([*ENDS, *OTHERS]), min_size=1, max_size=40).map("".join)


def tallied(pieces: list[str]) -> tuple[Measure, bytes, bytes]:
    index, lines = io.BytesIO(), io.BytesIO()
    tally = Tally(index, lines)
    for piece in pieces:
        assert tally.feed(piece.encode()) == len(piece.encode())
    return tally.finish(), index.getvalue(), lines.getvalue()


def offsets(marks: bytes) -> list[int]:
    return [int.from_bytes(marks[at : at + 8], "little") for at in range(0, len(marks), 8)]


def line_starts(text: str) -> list[int]:
    starts, at = [], 0
    for line in text.splitlines(keepends=True):
        starts.append(at)
        at += len(line.encode())
    return starts


@settings(deadline=None)
@given(texts, st.data())
@example("\r", None)
@example("a\r\n", None)
def test_marks_do_not_depend_on_where_a_text_is_cut(text: str, data: st.DataObject | None) -> None:
    """Whole or in pieces, also between CR and LF; repeated until there are several marks."""
    text *= 1200
    cuts = [len(text) // 2] if data is None else data.draw(st.lists(st.integers(0, len(text)), max_size=8))
    edges = sorted({0, len(text), *cuts})
    pieces = [text[start:stop] for start, stop in pairwise(edges)]
    measure, index, lines = tallied(pieces)
    starts = line_starts(text)
    assert (measure.chars, measure.bytes, measure.lines) == (len(text), len(text.encode()), len(starts))
    assert offsets(lines) == starts[::MARK_LINES]
    assert offsets(index) == [len(text[:char].encode()) for char in range(0, len(text), MARK_CHARS)]


@settings(deadline=None)
@given(st.lists(st.sampled_from([*ENDS, *OTHERS, "a" * 5000, "😀" * 5000, "é" * 3000])), st.data())
def test_a_text_whose_density_changes_cut_inside_characters(words: list[str], data: st.DataObject) -> None:
    text = "".join(words)
    source = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(source)), max_size=6)))
    index, lines = io.BytesIO(), io.BytesIO()
    tally = Tally(index, lines)
    at = 0
    for stop in [*cuts, len(source)]:
        at += tally.feed(source[at:stop])
        assert stop - at < 4
    assert at == len(source)
    assert (tally.finish(), index.getvalue(), lines.getvalue()) == tallied([text])
    assert offsets(index.getvalue()) == [len(text[:char].encode()) for char in range(0, len(text), MARK_CHARS)]


@given(texts)
def test_every_character_by_itself(text: str) -> None:
    measure, _, lines = tallied(list(text))
    assert measure == tallied([text])[0]
    assert (measure.lines, offsets(lines)) == (len(text.splitlines()), [0])


@given(texts)
def test_flat_text_has_a_line_feed_where_a_line_ends(text: str) -> None:
    flat = flattened(text.encode())
    if not set(WIDE_ENDS) & set(text):
        assert flat == flattened(text.encode(), wide=False)
    assert len(flat) == len(text.encode())
    ends = [start - 1 for start in line_starts(text)[1:]]
    if text.splitlines(keepends=True)[-1] != text.splitlines()[-1]:
        ends.append(len(flat) - 1)
    assert [at for at, byte in enumerate(flat) if byte == 10] == ends
    assert [nth_end(flat, 0, len(flat), number) for number in range(1, len(ends) + 1)] == ends


@settings(max_examples=examples(40), deadline=None)
@given(texts, st.sampled_from([1, 200, 3000, 20_000]), st.data())
def test_any_line_of_any_text(
    tmp_path_factory: pytest.TempPathFactory, text: str, times: int, data: st.DataObject
) -> None:
    text *= times
    store = ContextStore(tmp_path_factory.mktemp("store"))
    document = store.add(text, now_ns=NOW_NS)
    starts = [*line_starts(text), len(text.encode())]
    assert document.lines == len(starts) - 1
    with store.open(document.sha256) as opened:
        for _ in range(5):
            line = data.draw(st.integers(0, document.lines))
            assert opened.line_start(line) == starts[line]


@settings(max_examples=examples(40), deadline=None)
@given(texts, st.sampled_from([1, 300]), st.data())
def test_bytes_and_characters_lead_to_each_other(
    tmp_path_factory: pytest.TempPathFactory, text: str, times: int, data: st.DataObject
) -> None:
    text *= times
    store = ContextStore(tmp_path_factory.mktemp("store"))
    with store.open(store.add(text, now_ns=NOW_NS).sha256) as opened:
        for _ in range(5):
            char = data.draw(st.integers(0, len(text)))
            byte = len(text[:char].encode())
            assert (opened.byte_of(char), opened.char_of(byte)) == (byte, char)
        assert bytes(opened.view) == text.encode()


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("as_file", [True, False], ids=["file", "str"])
@pytest.mark.parametrize("before", range(BLOCK_BYTES - 3, BLOCK_BYTES + 1))
def test_a_line_end_over_the_border_of_a_block(tmp_path: Path, end: str, as_file: bool, before: int) -> None:
    text = "x" * before + end + "y" + end
    source: Path | str = text
    if as_file:
        source = tmp_path / "in.txt"
        source.write_bytes(text.encode())
    document, opened = added(tmp_path, source)
    with opened:
        assert document.lines == 2
        assert [opened.line_start(line) for line in range(3)] == [*line_starts(text), len(text.encode())]


def added(folder: Path, source: Path | str) -> tuple[Document, OpenDocument]:
    store = ContextStore(folder / "store")
    document = store.add(source, now_ns=NOW_NS)
    return document, store.open(document.sha256)


@pytest.mark.parametrize("end", ENDS)
def test_lines_far_from_a_mark_and_from_each_other(tmp_path: Path, end: str) -> None:
    text = "".join("z" * (64 * 1024 - 2 + number % 5) + end for number in range(8))
    document, opened = added(tmp_path, text)
    with opened:
        assert [opened.line_start(line) for line in range(document.lines)] == line_starts(text)


def test_what_lies_outside(tmp_path: Path) -> None:
    _, opened = added(tmp_path, "ä\nb")
    with opened:
        for wrong in (-1, 3):
            with pytest.raises(ValueError, match="outside"):
                opened.line_start(wrong)
        for wrong in (-1, 5):
            with pytest.raises(ValueError, match="outside"):
                opened.char_of(wrong)
            with pytest.raises(ValueError, match="outside"):
                opened.byte_of(wrong)
        with pytest.raises(ValueError, match="no directory"):
            opened.directory()
    with pytest.raises(ValueError, match="closed"):
        opened.line_start(0)


def test_a_damaged_file_of_lines_is_our_fault(tmp_path: Path) -> None:
    document, opened = added(tmp_path, "a\nb")
    marks = tmp_path / "store" / "documents" / document.sha256 / "lines"
    with opened:
        marks.write_bytes(b"")
        with pytest.raises(HostFault, match="remove"):
            opened.line_start(1)
    descriptors = len(os.listdir("/proc/self/fd"))
    marks.parent.joinpath("text").write_bytes(b"no")
    with pytest.raises(HostFault, match="remove"):
        ContextStore(tmp_path / "store").open(document.sha256)
    assert len(os.listdir("/proc/self/fd")) == descriptors
