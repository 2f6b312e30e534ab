"""PagedText says what `str` says, wherever the page borders fall."""

from __future__ import annotations

import copy
import json
import operator
import random
import re
import sys
import threading
import types
import unicodedata
from collections.abc import Callable, Iterator
from itertools import islice, product
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from guest.context.paged import PagedText, TextTooLarge
from guest.context.pages import PageCache
from guest.context.pushdown import Hit, found_by
from tests.examples import examples

# Few letters, so that needles are found and overlap themselves; every kind of line end, width and white space.
ALPHABET = 'aab"{} \t\n\n\r\r\v\f\x1c\x1d\x1e\x1f\x85\u2028\u2029\xa0\u3000é\u0301߀Ａ€😀𝟙İßǅ'
texts = st.one_of(
    st.text(alphabet=ALPHABET, max_size=60),
    st.text(alphabet="ab", max_size=40),
    st.text(alphabet="\r\n", max_size=20),
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40),
)
needles = st.one_of(st.text(alphabet="ab", max_size=5), st.text(alphabet=ALPHABET, max_size=4), st.just("\r\n"))
bounds = st.one_of(st.none(), st.integers(-70, 70))
page_sizes = st.integers(1, 7)
cache_sizes = st.sampled_from([0, 60, 300, 10_000])  # bytes: a page takes 50 to 100


def paged(text: str, page_chars: int = 3, cache_bytes: int = 300, **more: Any) -> PagedText:
    def fetch(start: int, stop: int) -> str:
        assert 0 <= start < stop <= len(text)
        return text[start:stop]

    return PagedText(len(text), fetch, page_chars=page_chars, cache=PageCache(cache_bytes), **more)


def outcome(function: Callable[[], Any]) -> Any:
    """What a call gives: its value with the type, or the type of its error."""
    try:
        value = function()
    except (IndexError, TypeError, ValueError, LookupError) as error:
        return type(error)
    return type(value), value


@st.composite
def twins(draw: st.DrawFn) -> tuple[str, PagedText]:
    text = draw(texts)
    before, after = draw(st.sampled_from([("", ""), ("", ""), ("ab\r", "\na"), ("a😀" * 5, "")]))
    twin = paged(before + text + after, draw(page_sizes), draw(cache_sizes))
    if before or after:
        twin = twin._part(len(before), len(before) + len(text), "part")  # as an item of a list is
    if draw(st.booleans()):
        str(twin)  # from here on it serves everything from the whole text
    return text, twin


@given(twins(), bounds, bounds, st.one_of(st.none(), st.integers(-9, 9)))
def test_slices(pair: tuple[str, PagedText], start: int | None, stop: int | None, step: int | None) -> None:
    text, twin = pair
    key = slice(start, stop, step)
    assert outcome(lambda: twin[key]) == outcome(lambda: text[key])


@given(twins(), st.integers(-70, 70))
def test_one_character(pair: tuple[str, PagedText], at: int) -> None:
    text, twin = pair
    assert outcome(lambda: twin[at]) == outcome(lambda: text[at])


@given(twins())
def test_the_whole(pair: tuple[str, PagedText]) -> None:
    text, twin = pair
    assert len(twin) == len(text)
    assert bool(twin) == bool(text)
    assert list(twin) == list(text)
    assert list(reversed(twin)) == list(reversed(text))
    assert (str(twin), type(str(twin))) == (text, str)
    assert hash(twin) == hash(text)
    assert f"{twin}" == text
    assert f"{twin:>70}" == f"{text:>70}"
    assert (twin + "a", "a" + twin, twin * 2, 2 * twin) == (text + "a", "a" + text, text * 2, 2 * text)
    assert twin + twin == text + text


@pytest.mark.parametrize("method", ["find", "rfind", "index", "rindex", "count", "startswith", "endswith"])
@given(pair=twins(), sub=needles, start=bounds, end=bounds)
@example(pair=("aaaa", paged("aaaa", 1)), sub="aa", start=None, end=None)
@example(pair=("abc", paged("abc", 1)), sub="", start=4, end=None)
@example(pair=("abc", paged("abc", 1)), sub="", start=2, end=1)
def test_searches(method: str, pair: tuple[str, PagedText], sub: str, start: int | None, end: int | None) -> None:
    text, twin = pair
    theirs, ours = getattr(text, method), getattr(twin, method)
    assert outcome(lambda: ours(sub, start, end)) == outcome(lambda: theirs(sub, start, end))
    assert outcome(lambda: ours(sub)) == outcome(lambda: theirs(sub))
    assert (sub in twin) == (sub in text)


@given(twins(), st.data())
def test_every_substring_is_found_where_str_finds_it(pair: tuple[str, PagedText], data: st.DataObject) -> None:
    text, twin = pair
    assume(text)
    start = data.draw(st.integers(0, len(text) - 1))
    sub = text[start : data.draw(st.integers(start + 1, len(text)))]
    assert twin.find(sub) == text.find(sub)
    assert twin.rfind(sub) == text.rfind(sub)
    assert twin.count(sub) == text.count(sub)
    assert twin.split(sub) == text.split(sub)
    assert sub in twin


def words(alphabet: str, chars_max: int) -> list[str]:
    return ["".join(letters) for chars in range(chars_max + 1) for letters in product(alphabet, repeat=chars)]


@pytest.mark.parametrize("page_chars", [1, 2, 3])
def test_all_short_texts_are_searched_and_split_alike(page_chars: int) -> None:
    for text, sub in product(words("ab", 6), words("ab", 4)[1:]):
        twin = paged(text, page_chars, 0)
        ours = twin.find(sub), twin.rfind(sub), twin.count(sub), twin.split(sub), twin.partition(sub)
        assert ours == (text.find(sub), text.rfind(sub), text.count(sub), text.split(sub), text.partition(sub))


@pytest.mark.parametrize("page_chars", [1, 2, 3])
def test_all_short_texts_have_the_same_words_and_lines(page_chars: int) -> None:
    for text in words("a \r\n", 6):
        twin = paged(text, page_chars, 0)
        assert twin.split() == text.split()
        assert twin.splitlines() == text.splitlines()
        assert twin.splitlines(keepends=True) == text.splitlines(keepends=True)


@given(twins(), needles, needles)
def test_startswith_and_endswith_take_tuples(pair: tuple[str, PagedText], one: str, two: str) -> None:
    text, twin = pair
    assert twin.startswith((one, two)) == text.startswith((one, two))
    assert twin.endswith((one, two)) == text.endswith((one, two))
    assert not twin.startswith(())


@given(twins(), st.booleans())
def test_lines(pair: tuple[str, PagedText], keepends: bool) -> None:
    text, twin = pair
    assert twin.splitlines(keepends) == text.splitlines(keepends)
    assert list(twin.lines(keepends=keepends)) == text.splitlines(keepends)


@given(twins(), st.one_of(st.none(), needles), st.integers(-2, 6))
def test_splits(pair: tuple[str, PagedText], sep: str | None, maxsplit: int) -> None:
    text, twin = pair
    assert outcome(lambda: twin.split(sep, maxsplit)) == outcome(lambda: text.split(sep, maxsplit))
    assert outcome(lambda: twin.split(sep)) == outcome(lambda: text.split(sep))
    assert outcome(lambda: twin.rsplit(sep, maxsplit)) == outcome(lambda: text.rsplit(sep, maxsplit))


@given(twins(), needles)
def test_partitions(pair: tuple[str, PagedText], sep: str) -> None:
    text, twin = pair
    assert outcome(lambda: twin.partition(sep)) == outcome(lambda: text.partition(sep))
    assert outcome(lambda: twin.rpartition(sep)) == outcome(lambda: text.rpartition(sep))


@given(twins(), st.one_of(texts, st.integers(0, 70)))
def test_comparisons(pair: tuple[str, PagedText], other: str | int) -> None:
    text, twin = pair
    that = text[:other] if isinstance(other, int) else other
    for compare in (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge):
        assert compare(twin, that) == compare(text, that)
        assert compare(that, twin) == compare(that, text)
        assert compare(twin, paged(that, 2)) == compare(text, that)


METHODS: dict[str, list[tuple[Any, ...]]] = {
    "capitalize": [()],
    "casefold": [()],
    "center": [(70,), (70, "*")],
    "encode": [(), ("utf-16",), ("ascii",), ("ascii", "ignore")],
    "expandtabs": [(), (3,)],
    "format": [(), (1,)],
    "format_map": [({},)],
    "isalnum": [()],
    "isalpha": [()],
    "isascii": [()],
    "isdecimal": [()],
    "isdigit": [()],
    "isidentifier": [()],
    "islower": [()],
    "isnumeric": [()],
    "isprintable": [()],
    "isspace": [()],
    "istitle": [()],
    "isupper": [()],
    "join": [(["x", "y"],)],
    "ljust": [(70,), (70, "*")],
    "lower": [()],
    "lstrip": [(), ("a",), ("",)],
    "removeprefix": [("a",), ("",), (5,)],
    "removesuffix": [("a",), ("",), (5,)],
    "replace": [("a", "bb"), ("a", "", 1)],
    "rjust": [(70,), (70, "*")],
    "rsplit": [(), ("a", 1)],
    "rstrip": [(), ("a",), ("",)],
    "strip": [(), ("ab",), (5,)],
    "swapcase": [()],
    "title": [()],
    "translate": [({97: "X"},)],
    "upper": [()],
    "zfill": [(70,)],
}
STREAMED = [
    "count",
    "endswith",
    "find",
    "index",
    "partition",
    "rfind",
    "rindex",
    "rpartition",
    "split",
    "splitlines",
    "startswith",
]


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=examples(25))
@given(text=texts, page_chars=page_sizes)
def test_methods_over_the_whole_text(method: str, text: str, page_chars: int) -> None:
    for args in METHODS[method]:
        twin = paged(f"a {text}b", page_chars)._part(2, 2 + len(text), "part")
        theirs = outcome(lambda args=args: getattr(text, method)(*args))  # type: ignore[misc]
        assert outcome(lambda args=args, twin=twin: getattr(twin, method)(*args)) == theirs  # type: ignore[misc]


def test_no_method_of_str_is_missing() -> None:
    public = {name for name in dir(str) if not name.startswith("_")}
    assert public == {*METHODS, *STREAMED, "maketrans"}
    assert set(dir(str)) <= set(dir(PagedText))
    assert PagedText.maketrans("a", "b") == {97: 98}


def test_arguments_may_be_paged_too() -> None:
    text: Any = paged("one two one")
    word = paged("one")
    assert text.count(word) == 2
    assert word in text
    assert text.split(word) == ["", " two ", ""]
    assert text.replace(word, "1") == "1 two 1"
    assert text.startswith(word)


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.find(5),
        lambda s: s.count(None),
        lambda s: 5 in s,
        lambda s: s.startswith(5),
        lambda s: s.startswith([]),
        lambda s: s.endswith((5,)),
        lambda s: s["a"],
        lambda s: s[1.0],
        lambda s: s + 5,
        lambda s: 5 + s,
        lambda s: s * "a",
        lambda s: s < 5,
        lambda s: s.split(""),
        lambda s: s.split(5),
        lambda s: s.partition(""),
        lambda s: s.find("a", 1.5),
        lambda s: s[::0],
        lambda s: s.index("nowhere"),
        lambda s: s.rindex("nowhere"),
        lambda s: s[4],
        lambda s: s % 5,
    ],
)
def test_misuse_raises_what_str_raises(call: Callable[[Any], Any]) -> None:
    expected = outcome(lambda: call("text"))
    assert isinstance(expected, type)
    assert outcome(lambda: call(paged("text"))) is expected


def test_it_is_told_from_a_list_but_no_c_function_takes_it_for_empty() -> None:
    text: Any = paged("abc")
    assert isinstance(text, str)
    assert not issubclass(type(text), str)
    with pytest.raises(TypeError):
        "".join([text])
    with pytest.raises(AttributeError):
        object.__setattr__(text, "note", 1)
    assert "%s" % text == "abc"  # noqa: UP031
    assert {text: 1}["abc"] == 1
    assert copy.deepcopy(text) is text


def test_format_is_the_method_of_the_real_str() -> None:
    # A restricted language recognises `str.format`, which walks attributes, by just that.
    text: Any = paged("{0.real}")
    for name in ("format", "format_map"):
        method: Any = getattr(text, name)
        assert type(method) is types.BuiltinMethodType
        assert type(method.__self__) is str


def test_repr_never_shows_the_text() -> None:
    assert "secret" not in repr(paged("secret " * 1000))
    assert "7,000 characters" in repr(paged("secret " * 1000))


@pytest.mark.parametrize(
    "call",
    [
        str,
        lambda s: s.upper(),
        lambda s: s.lines(0, 1),
        lambda s: f"{s}",
        lambda s: s + "",
        lambda s: s[::-1],
        lambda s: s.split(","),
        lambda s: s.split(),
        lambda s: s.splitlines(),
        lambda s: s.partition(","),
        lambda s: list(s.lines()),
    ],
)
def test_too_large_a_text_says_what_to_do_instead(call: Callable[[Any], Any]) -> None:
    with pytest.raises(TextTooLarge, match=r"101 .* at most 100 .* slices .* context\.lines\(\)"):
        call(paged("x" * 101, 10, materialise_chars_max=100))


@pytest.mark.parametrize(
    "call", [lambda s: s[:], lambda s: s[1:], lambda s: s.strip("y"), lambda s: s.rstrip("z"), lambda s: s[::1][:-1]]
)
def test_a_slice_that_does_not_fit_is_a_part(call: Callable[[Any], Any]) -> None:
    text = "x" * 100 + "yz" * 100
    part = call(paged(text, 10, materialise_chars_max=100))
    assert (type(part), part == call(text), part[:100]) == (PagedText, True, call(text)[:100])
    with pytest.raises(TextTooLarge, match=r"context(\.part\(\d+, \d+\))?\.lines\(\)"):
        str(part)


@given(twins(), bounds, bounds, bounds, bounds)
def test_a_part_is_the_slice(
    pair: tuple[str, PagedText], start: int | None, stop: int | None, low: int | None, high: int | None
) -> None:
    text, twin = pair
    part, expected = twin.part(start, stop), text[start:stop]
    assert (len(part), part == expected, part[low:high], [*part.lines()]) == (
        len(expected),
        True,
        expected[low:high],
        expected.splitlines(),
    )
    nested, expected = part.part(low, high), expected[low:high]
    assert (str(nested), nested.find("a"), nested.count("b")) == (expected, expected.find("a"), expected.count("b"))
    for pattern in ("^a?b*$", r"(?m)^.", r"\b"):
        found = [(*match.span(), match.group()) for match in re.finditer(pattern, expected)][:100]
        assert (nested.search(pattern), len(nested.search(pattern))) == (found, len(found))


def test_a_part_of_a_part_is_named_after_the_whole() -> None:
    twin = paged("abcdefghij")
    assert repr(twin.part(2, 9).part(1, -1)).startswith("<context.part(3, 8) ")
    assert repr(twin._part(2, 9, "context[0]").part(1, 3).part(1)).startswith("<context[0].part(2, 3) ")
    assert len(twin.part(5, 2)) == 0


def test_making_a_part_loads_nothing() -> None:
    fetched: list[tuple[int, int]] = []

    def fetch(start: int, stop: int) -> str:
        fetched.append((start, stop))
        return "x" * (stop - start)

    part = PagedText(10**9, fetch).part(500, 10**8).part(5 * 10**6, 10**7)
    assert (len(part), fetched) == (5 * 10**6, [])
    assert (part[:3], fetched[0][0] <= 5_000_500 < fetched[0][1]) == ("xxx", True)


def test_a_text_of_any_size_can_be_searched_and_read_line_by_line() -> None:
    text = "line\n" * 1000 + "end"
    twin = paged(text, 10, 50, materialise_chars_max=100)
    assert (twin.find("end"), twin.count("line"), "end" in twin, len(twin)) == (5000, 1000, True, 5003)
    assert sum(1 for _ in twin.lines()) == 1001
    assert (twin[-3:], twin[::1000], twin == text, twin > text) == ("end", text[::1000], True, False)


LARGE_TEXTS = [
    "x" * 300,
    " \n" * 150,
    "Ab " * 100,
    "ab " * 100,
    "12" * 150,
    "A" * 300,
    "ǅ" + "a" * 299,
    "a" * 299 + "\0",
]


@pytest.mark.parametrize("text", LARGE_TEXTS)
def test_what_needs_no_more_than_pages_works_at_any_size(text: str) -> None:
    twin = paged(text, 10, materialise_chars_max=20)
    predicates = [name for name in dir(str) if name.startswith("is")]
    assert len(predicates) == 12
    assert {name: getattr(twin, name)() for name in predicates} == {name: getattr(text, name)() for name in predicates}
    assert (twin == text, twin != text, twin < text + "!", text in twin) == (True, False, True, True)
    assert (f"{twin:.5}", f"{twin:>9.5s}") == (text[:5], f"{text[:5]:>9}")
    assert "".join(twin) == text
    assert "".join(reversed(twin)) == text[::-1]


def test_two_texts_of_any_size_are_compared() -> None:
    one, same, other = (paged(text, 50, materialise_chars_max=20) for text in ("x" * 300, "x" * 300, "x" * 299 + "y"))
    assert (one == same, one == other, one < other, one >= same) == (True, False, True, True)


def test_ends_are_stripped_at_any_size_if_little_is_left() -> None:
    twin: Any = paged(" " * 300 + "ab" + "\t" * 300, 10, materialise_chars_max=400)
    assert (twin.strip(), twin.lstrip()[:3], twin.rstrip()[-3:]) == ("ab", "ab\t", " ab")
    assert paged("ab" * 300, 10, materialise_chars_max=20).strip("ba") == ""


def test_a_hash_goes_with_equality() -> None:
    small = paged("abc")
    assert (hash(small), {small: 1}["abc"]) == (hash("abc"), 1)  # type: ignore[index]
    large, same, other = (paged(text, 10, materialise_chars_max=50) for text in ("x" * 99, "x" * 99, "x" * 98))
    assert hash(large) == hash(same)
    assert len({large, same, other}) == 2


def test_it_stands_on_the_right_of_a_percent_sign_too() -> None:
    template: Any = paged("%s and %s")
    word: Any = paged("one")
    assert template % ("a", "b") == "a and b"
    assert str.__mod__("<%s>", word) == "<one>"
    assert word.__rmod__("<%s>") == "<%s>" % "one"  # noqa: UP031


@pytest.mark.parametrize(
    "call",
    [
        lambda s: "".join([s]),
        lambda s: "a".replace("a", s),
        lambda s: "abc".find(s),
        lambda s: int(s),
        lambda s: re.search("a", s),
        lambda s: json.loads(s),
        lambda s: unicodedata.normalize("NFC", s),
    ],
)
def test_what_insists_on_a_real_str_says_what_to_write(call: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"write str\(text\) or a slice"):
        call(paged("abc"))


def test_the_advice_does_not_stand_where_a_program_prints_its_type() -> None:
    assert str(type(paged("abc"))) == "<class 'guest.context.paged.PagedText'>"


def test_it_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        paged("a").__reduce_ex__(2)


# --- what the other side of the wall does


class OtherSide:
    """A pushdown over a text, with `re`, that gives up after each `patience` matches or lines."""

    def __init__(self, text: str, patience: int) -> None:
        self.text = text
        self.patience = patience

    def find(self, pattern: str, start: int, stop: int, limit: int, *, first: int = 0) -> tuple[list[Hit], int | None]:
        seen = self.text[first:stop]
        found = list(islice(re.compile(pattern).finditer(seen, start - first), min(limit, self.patience)))
        full = len(found) == min(limit, self.patience)
        after = max(found[-1].end(), found[-1].start() + 1) if full else None
        hits = [hit.moved(first) for hit in found_by(re.compile(pattern), found, len(found), stop)]
        return hits, after + first if after is not None and after + first <= stop else None

    def count(self, pattern: str, start: int, stop: int, *, first: int = 0) -> tuple[int, int | None]:
        hits, at = self.find(pattern, start, stop, self.patience, first=first)
        return len(hits), at

    def lines(self, first: int, last: int) -> tuple[str, int | None]:
        until = min(last, first + self.patience)
        return "".join(self.text.splitlines(True)[first:until]), until if until < last else None


SIDES: dict[str, Callable[[str], dict[str, Any]]] = {
    "there": lambda text: {"pushdown": OtherSide(text, 3), "line_count": len(text.splitlines())},
    "here": lambda text: {"line_count": len(text.splitlines())},
    "uncounted": lambda text: {"materialise_chars_max": 50},
}
TEXT = "user 17\nitem\nuser 4\r\n\nuser 99999\n" * 5


@pytest.fixture(params=SIDES)
def asked(request: pytest.FixtureRequest) -> PagedText:
    return paged(TEXT, 7, **SIDES[request.param](TEXT))


def test_search_finds_what_re_finds(asked: PagedText) -> None:
    expected = [(*match.span(), match.group()) for match in re.finditer(r"user \d+", TEXT)]
    hits = asked.search(r"user \d+")
    assert (hits, hits.next) == (expected, None)
    assert isinstance(hits[0], Hit)
    assert (hits[0].start, hits[0].stop, hits[0].text) == (0, 7, "user 17")
    assert asked.count_matches(r"user \d+") == 15
    assert asked.count_matches(r"user \d+", 1, len(TEXT) // 5 + 1) == 2
    assert asked.search("nothing") == []


def test_hits_have_the_groups_of_re(asked: PagedText) -> None:
    pattern = r"(?P<who>us(x)?er) (\d+)"
    found: list[Any] = asked.search(pattern)
    for hit, match in zip(found, re.finditer(pattern, TEXT), strict=True):
        start, stop, text = hit
        assert ((start, stop), text) == (match.span(), match.group())
        assert (hit[0], hit[3], hit["who"], hit.group()) == (match[0], match[3], match["who"], match.group())
        assert (hit.group(1, "who"), hit.groups(), hit.groups("")) == (
            *(match.group(1, "who"), match.groups(), match.groups("")),
        )
        assert (hit.groupdict(), hit.span(3), hit.span("who")) == (match.groupdict(), match.span(3), match.span("who"))
        assert (hit.group(2), hit.span(2), hit.key) == (None, (-1, -1), None)
    for which in (4, -1, "nobody", 1.0, None):
        with pytest.raises(IndexError, match="the pattern has 3"):
            found[0].group(which)
    assert repr(found[0]) == "Hit(start=0, stop=7, text='user 17', groups=('user', None, '17'))"
    assert copy.deepcopy(found[0]).groups() == found[0].groups()


def test_search_goes_on_where_it_stopped(asked: PagedText) -> None:
    hits = asked.search(r"user \d+", limit=4)
    assert len(hits) == 4
    following = asked.search(r"user \d+", start=hits[-1].stop, limit=4)
    assert following == asked.search(r"user \d+", start=hits.next or 0, limit=4) == asked.search(r"user \d+")[4:8]
    assert [hit.start for hit in asked.search(r"user \d+", -40)] == [TEXT.find("user", len(TEXT) - 40)] + [
        match.start() for match in list(re.finditer("user", TEXT))[-2:]
    ]


def test_empty_matches_come_to_an_end(asked: PagedText) -> None:
    found: list[Hit] = []
    at: int | None = 0
    while at is not None:
        hits = asked.search("x?", at, limit=7)
        found += hits
        at = hits.next
    assert [hit.start for hit in found] == list(range(len(TEXT) + 1))


def test_a_range_of_a_text_is_searched_by_itself(asked: PagedText) -> None:
    part = asked._part(8, 21, "context[0]")
    assert part.search(r"\w+ ?\d*") == [(0, 4, "item"), (5, 11, "user 4")]
    assert (part.search(r"\Aitem"), part.count_matches("^i"), part.count_matches("^t", 1)) == ([(0, 4, "item")], 1, 0)
    assert part.lines(1, 2) == ["user 4"]


@pytest.mark.parametrize(
    ("pattern", "start", "message"),
    [
        ("a", re.IGNORECASE, "flags go into the pattern"),
        (re.compile("a", re.VERBOSE), 0, "VERBOSE"),
        (5, 0, "needs a pattern as a str, not int"),
    ],
)
def test_a_search_that_was_meant_otherwise_is_refused(asked: PagedText, pattern: Any, start: int, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        asked.search(pattern, start)
    with pytest.raises(ValueError, match="at least 1"):
        asked.search("a", limit=0)


def test_flags_of_a_compiled_pattern_are_kept(asked: PagedText) -> None:
    assert len(asked.search(re.compile(r"^USER", re.I | re.M))) == 15


def test_a_hit_quotes_at_most_a_thousand_characters() -> None:
    for side in (None, OtherSide("x" * 3000, 3)):
        hit = paged("x" * 3000, pushdown=side).search("x+")[0]
        assert (hit.start, hit.stop, len(hit.text)) == (0, 3000, 1000)
        assert repr(hit) == f"Hit(start=0, stop=3000, text='{'x' * 80}...')"


@given(texts, st.integers(0, 12), st.one_of(st.none(), st.integers(0, 12)), st.booleans(), page_sizes)
def test_numbered_lines(text: str, first: int, last: int | None, keepends: bool, page_chars: int) -> None:
    expected = text.splitlines(keepends)[first:last]
    for more in SIDES.values():
        twin = paged(text, page_chars, **{**more(text), "materialise_chars_max": 1000})
        assert twin.lines(first, last, keepends=keepends) == expected


def test_lines_are_counted_from_the_end_where_their_number_is_known() -> None:
    twin = paged(TEXT, 7, **SIDES["there"](TEXT))
    assert twin.lines(-2, None) == TEXT.splitlines()[-2:]
    with pytest.raises(ValueError, match="not counted"):
        paged(TEXT).lines(-2, None)
    with pytest.raises(TypeError, match="keepends=True"):
        twin.lines(True)


# --- pages


def letters(letter: str, chars: int, **more: Any) -> PagedText:
    return PagedText(chars, lambda start, stop: letter * (stop - start), **more)


def test_the_cache_keeps_to_its_budget_of_memory_whatever_the_characters() -> None:
    cache = PageCache(100_000)
    for letter in ("a", "é", "€", "😀"):
        assert letters(letter, 200_000, cache=cache, page_chars=1000).count(letter) == 200_000
        assert 50_000 < cache.bytes <= 100_000
    with pytest.raises(ValueError, match="less than nothing"):
        PageCache(-1)


def test_texts_that_share_a_cache_keep_apart() -> None:
    cache = PageCache(10_000)
    one, two = letters("a", 50, cache=cache, page_chars=5), letters("b", 50, cache=cache, page_chars=5)
    for _ in range(2):
        assert (one[7], two[7], one[:50], two[:50]) == ("a", "b", "a" * 50, "b" * 50)
    assert str(one) == "a" * 50  # its pages are let go, not those of the other
    assert two[7:9] == "bb"


class Recorder:
    """A source that notes what was asked of it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.asked: list[tuple[int, int]] = []

    def __call__(self, start: int, stop: int) -> str:
        self.asked.append((start, stop))
        return self.text[start:stop]

    def paged(self, **more: Any) -> PagedText:
        return PagedText(len(self.text), self, page_chars=10, **more)


def test_only_what_is_touched_is_fetched_and_only_once() -> None:
    source = Recorder("0123456789" * 100)
    twin = source.paged()
    assert (twin[3], twin[:10], twin[5:8], twin.startswith("012"), len(twin)) == ("3", "0123456789", "567", True, 1000)
    assert source.asked == [(0, 10)]
    assert twin.find("9") == 9
    assert source.asked == [(0, 10)]


def test_a_scan_reads_ahead_in_growing_runs() -> None:
    source = Recorder("0123456789" * 100)
    assert source.paged().count("9") == 100
    assert source.asked[:5] == [(0, 10), (10, 30), (30, 70), (70, 150), (150, 310)]
    source.asked.clear()
    assert source.paged().rfind("nowhere") == -1
    assert source.asked[:3] == [(990, 1000), (970, 990), (930, 970)]


def test_a_long_slice_is_fetched_exactly_and_not_kept() -> None:
    source = Recorder("0123456789" * 100)
    twin = source.paged()
    assert twin[105:155] == source.text[105:155]
    assert source.asked == [(105, 155)]
    assert twin[105:155] == source.text[105:155]
    assert source.asked == [(105, 155)] * 2


def test_pages_beyond_the_cache_are_let_go() -> None:
    source = Recorder("0123456789" * 100)
    twin = source.paged(cache=PageCache(2 * sys.getsizeof("x" * 10)))
    for at in (0, 500, 900, 0):
        assert twin[at] == "0"
    assert source.asked == [(0, 10), (500, 510), (900, 910), (0, 10)]


def test_once_whole_nothing_is_fetched_again() -> None:
    source = Recorder("0123456789" * 100)
    twin = source.paged()
    assert str(twin) == source.text
    source.asked.clear()
    assert (twin[55], twin.count("9"), twin.upper(), str(twin) is str(twin)) == ("5", 100, source.text, True)
    assert source.asked == []


def test_what_fetch_raises_reaches_the_program() -> None:
    def fetch(start: int, stop: int) -> str:
        raise PermissionError("no more reads")

    twin = PagedText(10, fetch)
    for _ in range(2):
        with pytest.raises(PermissionError, match="no more reads"):
            twin[0]
        with pytest.raises(PermissionError, match="no more reads"):
            str(twin)


@pytest.mark.parametrize("go", [lambda twin: [*twin], lambda twin: [*reversed(twin)]], ids=["forwards", "backwards"])
def test_what_is_left_is_read_page_by_page_when_it_is_too_little_to_read_ahead(go: Callable[[Any], list[str]]) -> None:
    source = Recorder("0123456789" * 11)
    left = 100

    def fetch(start: int, stop: int) -> str:
        nonlocal left
        if stop - start > left:
            raise PermissionError("no more reads")
        left -= stop - start
        return source(start, stop)

    twin = PagedText(110, fetch, page_chars=10)
    with pytest.raises(PermissionError):
        go(twin)
    assert (left, sum(stop - start for start, stop in source.asked)) == (0, 100)


def test_a_source_that_gives_too_little_is_found_out() -> None:
    with pytest.raises(RuntimeError, match="asked for 10 characters of the context and got 1"):
        PagedText(10, lambda start, stop: "x")[0]


def test_an_empty_text_is_never_fetched() -> None:
    twin = paged("")
    assert (str(twin), twin.split(), twin.split(","), twin.splitlines(), "" in twin) == ("", [], [""], [], True)


def test_many_threads_agree() -> None:
    text = "".join(random.Random(1).choices("ab\né😀", k=5000))
    twin = paged(text, 7, 100)
    failures: list[object] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for turn in range(300):
            start = chance.randrange(len(text))
            stop = start + chance.randrange(80)
            if twin[start:stop] != text[start:stop] or twin.find("\n", start) != text.find("\n", start):
                failures.append((seed, start, stop))
            if seed == 0 and turn == 200 and str(twin) != text:
                failures.append("whole")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_lines_stream() -> None:
    source = Recorder("a line\n" * 10_000)
    first: Iterator[str] = islice(source.paged().lines(), 3)
    assert list(first) == ["a line"] * 3
    assert source.asked[-1][1] < 100


@pytest.mark.parametrize("call", [lambda s: s.splitlines(), lambda s: s.split("\n"), lambda s: s.split()])
def test_one_piece_over_all_pages_is_not_quadratic(call: Callable[[Any], list[str]]) -> None:
    # 40,000 pages: copying the unfinished piece at each would move 8 GB.
    text = "x" * 400_000
    assert call(paged(text, 10, 1000)) == [text]
