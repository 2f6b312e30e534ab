"""The attached stream, apart: whatever the pieces it comes in, what is said on each output is what was said there."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from belljar.errors import BoxFault
from belljar.sandbox.docker.stream import Outputs

Said = list[tuple[int, bytes]]

SAID = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300)), max_size=20)


def framed(said: Said) -> bytes:
    return b"".join(struct.pack("!B3xI", kind, len(data)) + data for kind, data in said)


def output(said: Said, kind: int = 1) -> bytes:
    return b"".join(data for each, data in said if each == kind)


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places)]


@given(SAID, st.lists(st.integers(min_value=0), max_size=10))
def test_fed_whole_byte_by_byte_or_in_any_pieces_it_gives_the_same(said: Said, cuts: list[int]) -> None:
    data = framed(said)
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))], in_pieces(data, cuts)):
        outputs = Outputs()
        assert b"".join(map(outputs.take, pieces)) == output(said)


@given(st.lists(st.text(st.characters(codec="ascii", categories=["L"]), min_size=1, max_size=20), max_size=5))
def test_errors_are_kept_for_one_line(words: list[str]) -> None:
    outputs = Outputs()
    assert outputs.take(framed([(2, f"{word}\n".encode()) for word in words])) == b""
    assert outputs.errors == " ".join(words)


def test_a_flood_of_errors_keeps_its_beginning() -> None:
    outputs = Outputs()
    for _ in range(1000):
        outputs.take(framed([(2, b"begin" if not outputs.errors else b"x" * 1000)]))
    assert outputs.errors.startswith("beginxxx")
    assert len(outputs.errors) == 4096


def test_errors_between_do_not_disturb_the_output() -> None:
    outputs = Outputs()
    assert outputs.take(framed([(1, b"a"), (2, b"no"), (1, b""), (1, b"b"), (2, b"pe")])) == b"ab"
    assert outputs.errors == "nope"


def test_the_inside_of_a_large_piece_is_not_copied() -> None:
    outputs = Outputs()
    outputs.take(struct.pack("!B3xI", 1, 2**32 - 1))
    piece = bytes(100_000)
    assert outputs.take(piece) is piece


@given(st.integers(0, 255).filter(lambda kind: kind not in (1, 2)), SAID)
def test_anything_else_is_out_of_step_at_once(kind: int, said: Said) -> None:
    outputs = Outputs()
    outputs.take(framed(said))
    with pytest.raises(BoxFault, match="out of step"):
        outputs.take(struct.pack("!B3xI", kind, 5))


@given(st.binary(max_size=2000))
def test_garbage_is_an_error_of_ours_or_nothing(data: bytes) -> None:
    outputs = Outputs()
    try:
        assert len(outputs.take(data)) <= len(data)
    except BoxFault:
        assert data
