"""Repeats: a run that shows all has shown all, however often the same text stands in it; and nothing counts twice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from belljar.attribution.repeats import Found, repeats
from belljar.attribution.tracing import Traceable, trace
from belljar.spans import Spans, overlaps
from tests.examples import examples
from tests.unit.test_tracing import TEMPLATE

WORDS = [
    "horse",
    "river",
    "über",
    "straße",
    "日本語",
    "текст",
    "🐎🐎",
    "x1",
    "of",
    "and",
    "blue",
    "17",
    "INFO",
    "{",
    "}",
]


def line(source: random.Random) -> str:
    """Some indented, some that begin alike."""
    head = source.choice(["", "", "2026-01-01 10:00:0", "    "])
    return head + " ".join(source.choices(WORDS, k=source.choice([4, 5, 9, 14])))


def pool(source: random.Random) -> str:
    lines = [line(source) for _ in range(source.choice([1, 3, 20]))]
    return "\n".join(source.choices(lines, k=300))


def block(source: random.Random) -> str:
    lines = [line(source) for _ in range(source.choice([10, 37, 80]))]
    return "\n".join(lines * (300 // len(lines) + 1))


def runs(source: random.Random) -> str:
    lines = [line(source) for _ in range(12)]
    return "\n".join(text for text in source.choices(lines, k=40) for _ in range(source.randrange(1, 15)))


HALF_LINE = 40
KINDS: dict[str, Callable[[random.Random], str]] = {"pool": pool, "block": block, "runs": runs}


def shown(text: str, calls: Sequence[Sequence[str]], items: Sequence[int] = ()) -> Spans:
    """What is found in all, the calls one after the other as a run makes them."""
    data = text.encode()
    read = [(0, len(data))]
    found: list[tuple[int, int]] = []
    for prompts in calls:
        traced = trace([prompt.encode() for prompt in prompts], [Traceable(0, data, read)])
        assert traced.complete
        found += [(start, stop) for _, start, stop in [*traced.spans, *traced.again]]
    paid = [(start, stop) for _, start, stop in repeats([Found(0, data, read, found, items)])]
    for start, stop in paid:
        data[start:stop].decode()  # strict: no half characters
    assert all(not data[start:stop].strip() for start, stop, _ in overlaps(paid))
    return Spans([*found, *paid])


def missed(text: str, found: Spans) -> list[str]:
    data = text.encode()
    return [hole for start, stop in found.missing(len(data)) if (hole := data[start:stop].decode()).strip()]


def chunks(text: str, size: int) -> list[str]:
    """Slices; the last one is no shorter than what is found for certain."""
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    return [*parts[:-2], "".join(parts[-2:])] if len(parts[-1]) < 60 else parts


def grouped(prompts: list[str], source: random.Random) -> list[list[str]]:
    size = source.choice([1, 4, len(prompts)])
    return [prompts[at : at + size] for at in range(0, len(prompts), size)]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("template", ["{}", TEMPLATE, "Part:\n{}\n"], ids=["bare", "instructions", "heading"])
@given(seed=st.integers(0, 10**6), size=st.integers(300, 3000), shuffled=st.booleans())
@settings(max_examples=examples(8), deadline=None)
def test_all_is_shown(
    kind: Callable[[random.Random], str], template: str, seed: int, size: int, shuffled: bool
) -> None:
    source = random.Random(seed)
    text = kind(source)
    prompts = [template.format(part) for part in chunks(text, size)]
    if shuffled:
        source.shuffle(prompts)
    # Halves of lines that begin alike may be found at each other's, in pieces that no longer fit.
    assert sum(map(len, missed(text, shown(text, grouped(prompts, source))))) <= HALF_LINE


@given(seed=st.integers(0, 10**6), data=st.data())
@settings(max_examples=examples(25), deadline=None)
def test_no_line_counts_at_more_places_than_prompts_have_it(seed: int, data: st.DataObject) -> None:
    source = random.Random(seed)
    text = KINDS[data.draw(st.sampled_from(sorted(KINDS)))](source)
    size = source.randrange(100, 1500)
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    prompts = source.choices(parts, k=source.randrange(1, 2 * len(parts)))
    found, at, counted = shown(text, grouped(prompts, source)), 0, Counter[str]()
    for each in text.split("\n"):
        start = at + len(each.encode()) - len(each.lstrip().encode())
        stop = start + len(each.strip().encode())
        around = found.around(start)
        if start < stop and around is not None and around[1] >= stop:
            counted[each.strip()] += 1
        at += len(each.encode()) + 1
    # A line that two prompts have a half of each is there, too.
    have = "\n".join(prompts)
    assert all(times <= have.count(each) + len(prompts) for each, times in counted.items())
    assert found.covered <= sum(len(prompt.encode()) for prompt in prompts) + blanks(text)


def blanks(text: str) -> int:
    """Bytes of white space: it counts with what it adjoins."""
    return len(text.encode()) - len("".join(text.split()).encode())


LINE = "the same line again and again"


@pytest.mark.parametrize(("times", "places"), [(1, 1), (3, 3), (5, 5), (9, 5)])
@pytest.mark.parametrize("together", [True, False])
def test_a_line_counts_as_often_as_it_was_shown(times: int, places: int, *, together: bool) -> None:
    others = [f"something else, number {number}" for number in range(5)]
    text = "\n".join(f"{other}\n{LINE}" for other in others)
    prompts = ["\n".join([LINE] * times)] if together else [f"What is this? {LINE}"] * times
    found = shown(text, [prompts])
    assert places * len(LINE) <= found.covered <= places * (len(LINE) + 2)
    apart = shown(text, [[prompt] for prompt in prompts])
    assert places * len(LINE) <= apart.covered <= places * (len(LINE) + 2)


SHAPES: dict[str, Callable[[list[str]], str]] = {
    "as they are": "\n".join,
    "stripped": lambda lines: "\n".join(each.strip() for each in lines),
    "numbered": lambda lines: "\n".join(f"{number}. {each.strip()}" for number, each in enumerate(lines, 1)),
    "quoted": lambda lines: ",\n".join(f'"{each.strip()}"' for each in lines),
    "joined": lambda lines: " | ".join(each.strip() for each in lines),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@given(seed=st.integers(0, 10**6), shuffled=st.booleans())
@settings(max_examples=examples(8), deadline=None)
def test_all_lines_are_shown_in_every_shape(shape: Callable[[list[str]], str], seed: int, shuffled: bool) -> None:
    source = random.Random(seed)
    lines = source.choices([f"{line(source)} and {number:03d}" for number in range(30)], k=300)
    size = source.randrange(5, 40)
    prompts = [TEMPLATE.format(shape(lines[at : at + size])) for at in range(0, len(lines), size)]
    if shuffled:
        source.shuffle(prompts)
    text = "\n".join(lines)
    assert missed(text, shown(text, grouped(prompts, source))) == []


def test_items_of_a_list_pay_for_equal_items() -> None:
    source = random.Random(1)
    kinds = [" ".join(source.choices(["horse", "river", "blue", "straight", "over"], k=9)) for _ in range(7)]
    items = [source.choice(kinds) for _ in range(300)]
    starts = [sum(map(len, items[:number])) for number in range(300)]
    prompts = ["\n".join(f"- {item}" for item in items[at : at + 10]) for at in range(0, 300, 10)]
    source.shuffle(prompts)
    text = "".join(items)
    # Where no line end tells the items apart, the beginning of the next one may be taken along.
    assert len(missed(text, shown(text, [[prompt] for prompt in prompts], starts))) <= 3
    assert len(missed(text, shown(text, [[prompt] for prompt in prompts]))) > 3


def test_of_the_white_space_beside_what_is_paid_for_64_bytes_count() -> None:
    line = b"a line that is there twice"
    data = (line + b" " * 999 + b"\n") * 2
    found = Found(0, data, [(0, len(data))], [(0, len(line)), (0, len(line))])
    assert repeats([found]) == [(0, len(line) + 1000 - 64, 2 * len(line) + 1000 + 64)]


def test_what_was_not_read_is_not_paid_for() -> None:
    data = b"a line that stands here twice\n" * 2
    assert repeats([Found(0, data, [(0, 30)], [(0, 30), (0, 30)])]) == []
    assert repeats([Found(0, data, [(0, 60)], [(0, 30), (0, 30)])]) == [(0, 29, 60)]


def test_one_document_pays_for_another() -> None:
    one, two = b"a line that stands here twice\nand one more\n", b"another\na line that stands here twice\n"
    found = [Found(3, one, [(0, len(one))], [(0, 30)] * 2), Found(5, two, [(0, len(two))], [])]
    assert repeats(found) == [(5, 7, 38)]
