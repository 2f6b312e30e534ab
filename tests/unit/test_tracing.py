"""Tracing: what was put into a prompt is found, and nothing is found that is not in it."""

from __future__ import annotations

import json
import mmap
import random
import re
import time
from collections.abc import Callable
from itertools import accumulate, pairwise, repeat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from belljar.attribution.tracing import Traceable, trace
from belljar.spans import Spans
from tests.examples import examples

TEMPLATE = "You label lines. Tell for each which kind of question it is, one label a line.\n\nLINES:\n{}\n\nAnswer now:"
WORDS = [
    "horse",
    "the",
    "a",
    "river",
    "über",
    "straße",
    "日本語",
    "текст",
    "naïve",
    "🐎🐎",
    "x1",
    "of",
    "and",
    "blue",
    "17",
]
SHORT_BYTES = 12


def document(seed: int, lines: int) -> list[str]:
    """Lines that are different from each other from 12 bytes on, some short, some indented, some blank."""
    source = random.Random(seed)
    made = []
    for number in range(lines):
        words = " ".join(source.choices(WORDS, k=source.randrange(0, 14)))
        mark = f"{number:x}{source.randrange(16**8):08x} "
        indent = " " * source.choice([0, 0, 0, 4])
        made.append(f"{indent}{mark}{words}" if len(words.encode()) >= SHORT_BYTES else f"{indent}{words}")
    return made


def traced(prompts: list[str], text: str, ranges: list[tuple[int, int]] | None = None) -> Spans:
    data = text.encode()
    found = trace([prompt.encode() for prompt in prompts], [Traceable(0, data, ranges or [(0, len(data))])])
    assert found.complete
    for _, start, stop in found.spans:
        data[start:stop].decode()  # strict: no half characters
    return Spans((start, stop) for _, start, stop in found.spans)


def assert_true(lines: list[str], shown: set[int], found: Spans) -> None:
    """Nothing is found of the marks of lines that were not shown."""
    for number, (start, stop) in enumerate(offsets(lines)):
        if number not in shown and stop - start >= SHORT_BYTES:
            mark = Spans([(start + 6, start + 9)])
            assert Spans([*found, *mark]).covered == found.covered + 3, lines[number]


def covers(spans: Spans, start: int, stop: int) -> bool:
    around = spans.around(start)
    return start >= stop or (around is not None and stop <= around[1])


def offsets(lines: list[str]) -> list[tuple[int, int]]:
    """Byte ranges of the lines of "\n".join(lines), without the white space around them."""
    at, found = 0, []
    for line in lines:
        before = len(line) - len(line.lstrip())
        found.append((at + before, at + before + len(line.strip().encode())))
        at += len(line.encode()) + 1
    return found


# ------------------------------------------------------------------------------------------------------------- by shape

RESHAPED: dict[str, Callable[[list[str]], str]] = {
    "as they are": "\n".join,
    "bullets": lambda lines: "\n".join(f"- {line}" for line in lines),
    "numbers": lambda lines: "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1)),
    "indented": lambda lines: "\n".join(f"        {line.strip()}" for line in lines),
    "stripped": lambda lines: "\n".join(line.strip() for line in lines),
    "quoted": lambda lines: ",\n".join(f'"{line.strip()}"' for line in lines),
    "joined": lambda lines: " | ".join(line.strip() for line in lines),
    "each in its own words": lambda lines: "\n\n".join(f"Someone has asked: {line}  (what kind?)" for line in lines),
    "windows line ends": "\r\n".join,
}


@pytest.mark.parametrize("shape", RESHAPED.values(), ids=RESHAPED.keys())
@given(seed=st.integers(0, 10**6), data=st.data())
@settings(max_examples=examples(40), deadline=None)
def test_lines_are_found_in_every_shape(shape: Callable[[list[str]], str], seed: int, data: st.DataObject) -> None:
    lines = document(seed, 60)
    chosen = sorted(data.draw(st.sets(st.integers(0, 59), min_size=1, max_size=40)))
    parts = [chosen[at : at + 7] for at in range(0, len(chosen), 7)]
    prompts = [TEMPLATE.format(shape([lines[number] for number in part])) for part in parts]
    found, where = traced(prompts, "\n".join(lines)), offsets(lines)
    lost = [
        lines[number]
        for number in chosen
        if where[number][1] - where[number][0] >= SHORT_BYTES and not covers(found, *where[number])
    ]
    assert lost == []
    assert_true(lines, set(chosen), found)


@given(seed=st.integers(0, 10**6), data=st.data())
@settings(max_examples=examples(100), deadline=None)
def test_slices_are_found_wherever_they_are_cut(seed: int, data: st.DataObject) -> None:
    lines = document(seed, 80)
    text = "\n".join(lines)
    cuts = data.draw(st.lists(st.tuples(st.integers(0, len(text)), st.integers(60, 900)), min_size=1, max_size=8))
    slices = [(start, min(start + size, len(text))) for start, size in cuts]
    separator = data.draw(st.sampled_from(["\n===\n", " [...] ", "\n\n"]))
    prompts = [TEMPLATE.format(separator.join(text[start:stop] for start, stop in slices))]
    found = traced(prompts, text)
    shown = Spans((len(text[:start].encode()), len(text[:stop].encode())) for start, stop in slices)
    touched = {
        at
        for at, (start, stop) in enumerate(offsets(lines))
        if Spans([*shown, (start, stop)]).covered < shown.covered + stop - start
    }
    assert_true(lines, touched, found)
    for start, stop in slices:
        first, last = len(text[:start].encode()), len(text[:stop].encode())
        # A piece is found for certain from twice the shortest anchor on.
        assert last - first < 48 or once(text, slices) or covers(found, first, last)


def once(text: str, slices: list[tuple[int, int]]) -> bool:
    """Whether slices overlap: then what they share is found once, and the rest may be too short."""
    ordered = sorted(slices)
    return any(after[0] < before[1] for before, after in pairwise(ordered))


@given(seed=st.integers(0, 10**6), size=st.integers(100, 3000), numbered=st.booleans())
@settings(max_examples=examples(60), deadline=None)
def test_all_of_a_text_that_is_shown_in_slices_is_found(seed: int, size: int, numbered: bool) -> None:
    text = "\n".join(document(seed, 120))
    parts = [text[at : at + size] for at in range(0, len(text) - 60, size)]
    parts[-1] = text[(len(parts) - 1) * size :]  # the last one may be too short to be found for itself
    prompts = [(f"Part {number}. " if numbered else "") + TEMPLATE.format(part) for number, part in enumerate(parts)]
    data = text.encode()
    assert traced(prompts, text).missing(len(data)) == []
    assert traced(parts, text).missing(len(data)) == []


def test_all_of_a_text_of_equal_lines_is_found_as_often_as_it_is_shown() -> None:
    text = "the same line again\n" * 1000
    prompts = [TEMPLATE.format(text[at : at + 990]).encode() for at in range(0, len(text), 990)]
    found = trace(prompts, [Traceable(0, text.encode(), [(0, len(text))])])
    assert len(text) - 50 <= sum(stop - start for _, start, stop in [*found.spans, *found.again]) <= len(text) + 50


def test_what_stands_there_twice_is_told_once_more() -> None:
    text = "\n".join(document(12, 40))
    start, stop = max(offsets(text.split("\n")), key=lambda line: line[1] - line[0])
    line = text.encode()[start:stop]
    assert len(line) >= 24
    found = trace(
        [b"What is this? " + line, b"And what is that? " + line],
        [Traceable(0, text.encode(), [(0, len(text.encode()))])],
    )
    assert found.again == [(0, start, stop)]


def test_short_lines_count_as_the_continuation_of_the_find_before_them() -> None:
    lines = ["a line that is long enough to be found", "yes", "no", "17", "ok then", "and another one that is long"]
    prompt = "\n".join(f"- {line}" for line in lines)
    assert traced([prompt], "\n".join(lines)).missing(len("\n".join(lines))) == []
    assert list(traced(["is it yes or no, 17 or ok then?"], "\n".join(lines))) == []


def test_items_of_a_list_are_found_though_nothing_is_between_them() -> None:
    source = random.Random(3)
    items = [" ".join(source.choices(WORDS, k=8)) + f" {number:06x}" for number in range(300)]
    text = "".join(items)
    prompts = [
        "\n".join(f'{number}. "{item}"' for number, item in enumerate(items[at : at + 20], 1))
        for at in range(0, 300, 20)
    ]
    assert traced(prompts, text).covered >= 0.999 * len(text.encode())


# ---------------------------------------------------------------------------------------------------------- what is not


@pytest.mark.parametrize("blank", [" ", "\u3000", "\r\n"])
@pytest.mark.parametrize("blanks", [1, 20, 1000])
def test_of_the_white_space_beside_it_64_bytes_count(blank: str, blanks: int) -> None:
    before, after = "a line that nobody shows", "nor this one, which is the last"
    text = f"{before}{blank * blanks}the line that is in the prompt{blank * blanks}{after}"
    size, start = len(blank.encode()), text.encode().index(b"the line that is")
    counted = min(blanks * size, 64 // size * size)
    assert list(traced(["the line that is in the prompt"], text)) == [(start - counted, start + 30 + counted)]


def test_white_space_that_is_in_the_prompt_counts_as_other_text() -> None:
    text = "".join(f"{number:04} is the number of this line{' ' * 200}\n" for number in range(40))
    assert list(traced([text], text)) == [(0, len(text))]


def test_the_instructions_are_not_found() -> None:
    text = "\n".join(document(1, 200))
    assert list(traced([TEMPLATE.format("nothing of it"), "x" * 5000, "", "\n" * 500], text)) == []


def test_what_was_not_read_is_not_found() -> None:
    lines = document(2, 100)
    text = "\n".join(lines)
    data = text.encode()
    start, stop = len(data) // 4, len(data) // 2
    while data[start] & 0xC0 == 0x80:
        start += 1
    while data[stop] & 0xC0 == 0x80:
        stop += 1
    assert list(traced([TEMPLATE.format(text)], text, [(start, stop)])) == [(start, stop)]
    assert list(traced([TEMPLATE.format(text)], text, [(5, 5)])) == []


def test_text_in_two_places_is_attributed_to_one() -> None:
    lines = document(4, 50)
    text = "\n".join([*lines, "- - -", *lines])
    line = max(lines, key=len).strip()
    assert traced([f"What is this? {line}"], text).covered <= len(line.encode()) + 2 * len(" \n    ")


def test_the_longer_agreement_wins() -> None:
    head = "---- record of the archive, do not copy ----\n"
    records = [
        f"{head}number {number} " + "".join(random.Random(number).choices("abcdef ", k=300)) for number in range(20)
    ]
    text = "\n".join(records)
    at = text.index(records[13])
    assert covers(traced([TEMPLATE.format(records[13])], text), at, at + len(records[13]))


def test_lines_that_begin_alike_are_told_apart() -> None:
    source = random.Random(11)
    lines = [
        f"2026-01-01 10:{n // 60:02d}:{n % 60:02d} INFO worker served {source.randrange(10**6)}" for n in range(600)
    ]
    where = offsets(lines)
    shown = sorted(source.sample(range(600), 100))
    found = traced([TEMPLATE.format("\n".join(lines[number] for number in shown))], "\n".join(lines))
    assert all(covers(found, *where[number]) for number in shown)
    assert found.covered <= sum(where[number][1] - where[number][0] + 2 for number in shown)


def test_several_documents_each_get_their_own() -> None:
    one, two = ("\n".join(document(seed, 40)).encode() for seed in (5, 6))
    texts = [Traceable(3, one, [(0, len(one))]), Traceable(7, two, [(0, len(two))])]
    found = trace([b"Compare:\n" + one[:600] + b"\nwith\n" + two + b"\n!"], texts)
    assert found.complete
    assert (7, 0, len(two)) in found.spans
    assert {doc for doc, _, _ in found.spans} == {3, 7}


@given(
    st.lists(st.binary(max_size=300), max_size=6),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), max_size=4),
)
@settings(deadline=None)
def test_whatever_the_bytes_it_ends_and_gives_ranges_within_what_was_read(
    prompts: list[bytes], ranges: list[tuple[int, int]]
) -> None:
    view = b"".join(prompts).decode("utf-8", "ignore").encode().ljust(200, b"\n")
    found = trace([*prompts, view], [Traceable(0, view, ranges)])
    read = Spans(ranges)
    assert found.complete
    assert all(start < stop and covers(read, start, stop) for _, start, stop in found.spans)


# --------------------------------------------------------------------------------------------------------------- bounds


def test_a_map_is_let_go(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("\n".join(document(8, 50)))
    with (tmp_path / "text").open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    assert trace([view[100:900]], [Traceable(0, view, [(0, len(view))])]).spans
    view.close()  # refused while anything still looks into it


def test_a_budget_ends_it_and_is_reported() -> None:
    source = random.Random(9)
    data = "\n".join(document(9, 5000)).encode()
    prompts = [bytes(source.choices(b"abcdefgh ijkl\n", k=20000)) for _ in range(20)]
    started = time.process_time()
    found = trace([data[:2000], *prompts], [Traceable(0, data, [(0, len(data))])], scan_bytes_max=20 * len(data))
    assert not found.complete
    assert found.spans == [(0, 0, 2000)]  # what was found before is kept
    assert time.process_time() - started < 10


@pytest.mark.slow
def test_ten_thousand_pieces_in_order_cost_milliseconds_each_at_most() -> None:
    data = "\n".join(document(10, 30000)).encode()
    slices = [data[at : at + 200].decode("utf-8", "ignore") for at in range(0, len(data) - 200, 200)]
    prompts = [TEMPLATE.format(text).encode() for text in slices]
    started = time.process_time()
    found = trace(prompts, [Traceable(0, data, [(0, len(data))])])
    assert time.process_time() - started < 0.002 * len(prompts)
    assert Spans(span[1:] for span in found.spans).covered >= 0.99 * 200 * len(prompts)


def test_text_that_is_everywhere_costs_no_more_than_other_text() -> None:
    data = (b"0123456789 the same words in every line of it, over and over\n" * 20000) + b"end"
    prompts = [TEMPLATE.format(re.sub("0", str(number), data[:3000].decode())).encode() for number in range(20)]
    started = time.process_time()
    assert trace(prompts, [Traceable(0, data, [(0, len(data))])]).complete
    assert time.process_time() - started < 20


@pytest.mark.slow
def test_a_prompt_made_of_accidents_ends_with_the_budget() -> None:
    data, prompt = b"abcdefghij" * 100_000, bytearray(b"abcdefghij" * 80_000)
    prompt[::37] = b"Z" * len(prompt[::37])
    started = time.process_time()
    found = trace([bytes(prompt)], [Traceable(0, data, [(0, len(data))])], scan_bytes_max=1 << 28)
    assert not found.complete
    assert time.process_time() - started < 20


# -------------------------------------------------------------------------------------------------------- short lines

SHORT_SHAPES: dict[str, Callable[[list[str]], str]] = {
    "as they are": "\n".join,
    "numbered": lambda lines: "\n".join(f"{number}. {line}" for number, line in enumerate(lines, start=1)),
    "quoted": lambda lines: "\n".join(f"- '{line}'" for line in lines),
    "joined": ", ".join,
    "semicolons": "; ".join,
    "JSON": json.dumps,
    "compact JSON": lambda lines: json.dumps(lines, separators=(",", ":")),
    "one JSON text": lambda lines: json.dumps("\n".join(lines)),
    "repr": repr,
}


def short_lines(seed: int, lines: int) -> list[str]:
    source = random.Random(seed)
    return [
        f"{source.choice(['cat', 'dog', 'ox', 'hen'])}{source.randrange(10**4)},{number % 7}" for number in range(lines)
    ]


@pytest.mark.parametrize("shape", SHORT_SHAPES.values(), ids=SHORT_SHAPES.keys())
@pytest.mark.parametrize("listed", [False, True])
def test_short_lines_in_a_row_are_found_in_every_shape(shape: Callable[[list[str]], str], listed: bool) -> None:
    lines = short_lines(1, 400)
    shown = [lines[:150], lines[150:280]]
    text = ("" if listed else "\n").join(lines).encode()
    starts = [0, *accumulate(len(line) + (not listed) for line in lines)][:-1]
    known = Traceable(0, text, [(0, len(text))], starts if listed else ())
    found = trace([TEMPLATE.format(shape(part)).encode() for part in shown], [known])
    spans = Spans((start, stop) for _, start, stop in found.spans)
    # The last line of a prompt has none behind it, which would tell it.
    missed = [n for n in range(280) if not covers(spans, starts[n], starts[n] + len(lines[n]))]
    assert set(missed) <= {149, 279}
    beyond = Spans([*spans, (starts[280], len(text))])
    assert beyond.covered == spans.covered + len(text) - starts[280]  # and nothing that was not shown


def test_short_lines_that_are_not_neighbours_are_not_found() -> None:
    lines = short_lines(2, 300)
    for prompt in ("\n".join(lines[::2]), ", ".join(lines[::-1]), "\n".join(lines[:1])):
        assert traced([TEMPLATE.format(prompt)], "\n".join(lines)).covered == 0
    text = "yes\nno\nyes\nno\n" * 50
    assert traced(["Answer yes or no:\n"], text).covered == 0


def test_what_was_found_when_the_time_was_up_counts() -> None:
    lines = document(4, 400)
    data = "\n".join(lines).encode()
    prompts = ["\n".join(lines[at : at + 100 : 2]).encode() for at in range(0, 400, 100)]
    late = iter([*repeat(False, 60), *repeat(True, 10**6)])
    found = trace(prompts, [Traceable(0, data, [(0, len(data))])], is_late=lambda: next(late))
    assert not found.complete
    assert 0 < Spans((start, stop) for _, start, stop in found.spans).covered < len(data) // 2
