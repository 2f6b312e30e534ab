"""The guest's `re` is `re`, over paged texts too."""

from __future__ import annotations

import copy
import inspect
import re
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from guest.context import regex, scan
from guest.context.collection import PagedDict, PagedList
from guest.context.paged import PagedText, TextTooLarge
from tests.examples import examples

TEXT = "Date: Jun 16 || User: 98779\r\nDate: Jul 2 || User: 5\nünï😀\n"


def paged(text: str = TEXT, **more: Any) -> PagedText:
    return PagedText(len(text), lambda start, stop: text[start:stop], page_chars=5, **more)


def value_of(result: Any) -> Any:
    """Match objects compare by identity: compare what they say."""
    if isinstance(result, re.Match):
        return result.span(), result.groups(), result.group(), result.string
    if isinstance(result, (str, int, tuple, type(None))):
        return result
    return [value_of(item) for item in result]


CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "search": lambda module, s: module.search(r"User: (\d+)", s),
    "match": lambda module, s: module.match(r"date", s, module.I),
    "no match": lambda module, s: module.match(r"user", s),
    "fullmatch": lambda module, s: module.fullmatch(r".*", s, flags=module.DOTALL),
    "findall": lambda module, s: module.findall(r"^Date: (\w+) (\d+)", s, module.M),
    "finditer": lambda module, s: module.finditer(r"(?P<n>\d)\d*", s),
    "split": lambda module, s: module.split(r"(\|\|)|\n", s, maxsplit=2),
    "sub": lambda module, s: module.sub(r"(\d)(\d)", r"\2\1", s, count=1),
    "sub function": lambda module, s: module.sub(r"\d+", lambda m: f"<{m.group()}>", s),
    "subn": lambda module, s: module.subn(r"\w", "x", s, flags=module.ASCII),
    "escape": lambda module, s: module.escape(s),
}
COMPILED_CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "search": lambda p, s: p.search(s),
    "search in a range": lambda p, s: p.search(s, 20, 40),
    "match": lambda p, s: p.match(s, pos=13),
    "fullmatch": lambda p, s: p.fullmatch(s, 10, 12),
    "findall": lambda p, s: p.findall(s, 12),
    "finditer": lambda p, s: p.finditer(s, endpos=30),
    "split": lambda p, s: p.split(s, 1),
    "sub": lambda p, s: p.sub("#", s, count=2),
    "subn": lambda p, s: p.subn("#", s),
    "attributes": lambda p, s: (p.pattern, int(p.flags), p.groups, tuple(p.groupindex.items()), repr(p)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("subject", [paged, lambda: TEXT], ids=["paged", "str"])
def test_functions(call: Callable[[Any, Any], Any], subject: Callable[[], Any]) -> None:
    assert value_of(call(regex, subject())) == value_of(call(re, TEXT))


@pytest.mark.parametrize("call", COMPILED_CALLS.values(), ids=COMPILED_CALLS)
@pytest.mark.parametrize("subject", [paged, lambda: TEXT], ids=["paged", "str"])
def test_compiled_patterns(call: Callable[[Any, Any], Any], subject: Callable[[], Any]) -> None:
    source = r"(?P<number>\d+)"
    theirs = value_of(call(re.compile(source, re.M), TEXT))
    assert value_of(call(regex.compile(source, regex.M), subject())) == theirs


def test_compiled_patterns_go_where_sources_go() -> None:
    pattern = regex.compile(r"\d+")
    assert isinstance(pattern, regex.Pattern)
    assert regex.compile(pattern) is pattern
    assert regex.findall(pattern, paged()) == re.findall(r"\d+", TEXT)
    assert regex.sub(re.compile(r"\d+"), "#", paged()) == re.sub(r"\d+", "#", TEXT)
    assert regex.search(paged(r"\d+"), "a1") is not None
    with pytest.raises(ValueError, match="cannot process flags argument with a compiled pattern"):
        regex.search(pattern, TEXT, regex.I)


def test_compiled_patterns_are_values() -> None:
    pattern = regex.compile("a", regex.I)
    assert pattern == regex.compile("a", regex.I)
    assert pattern != regex.compile("a")
    assert pattern != "a"
    assert len({pattern, regex.compile("a", regex.I)}) == 1
    assert copy.copy(pattern) is pattern
    assert copy.deepcopy(pattern) is pattern
    generic: Any = regex.Pattern
    assert generic[str].__origin__ is regex.Pattern


def test_bytes_work_as_ever() -> None:
    assert regex.findall(rb"\d", b"a1b2") == [b"1", b"2"]
    assert regex.compile(b"a").sub(b"b", b"aa") == b"bb"


@pytest.mark.parametrize("call", [lambda m: m.compile("("), lambda m: m.search("a", 5), lambda m: m.sub("a", 5, "a")])
def test_errors_are_those_of_re(call: Callable[[Any], Any]) -> None:
    with pytest.raises((re.error, TypeError)) as theirs:
        call(re)
    with pytest.raises(type(theirs.value)) as ours:
        call(regex)
    assert str(ours.value) == str(theirs.value)


NEED_ALL = ["split", "sub", "sub function", "subn", "escape", "fullmatch"]


@pytest.mark.parametrize("call", [CALLS[name] for name in NEED_ALL], ids=NEED_ALL)
def test_too_large_a_text_says_what_to_do_instead(call: Callable[[Any, Any], Any]) -> None:
    with pytest.raises(TextTooLarge, match=r"context\.lines\(\).*context\.search\(pattern\)"):
        call(regex, paged(materialise_chars_max=5))


@pytest.mark.parametrize("call", [lambda m, s: m.search(r"\s+x", s), lambda m, s: list(m.finditer(r"(?s)U.*", s))])
def test_a_pattern_that_needs_the_whole_text_says_what_to_do_instead(call: Callable[[Any, Any], Any]) -> None:
    with pytest.raises(TextTooLarge, match=r"context\.search\(pattern\)"):
        call(regex, paged(materialise_chars_max=5))


LONG_LINE = "x" * 500 + " User: 12 " + "y" * 500
LONG = {
    "one line": lambda s: regex.search(r"User: (\d+)", s),
    "one line, all": lambda s: regex.findall(r"User: (\d+)", s),
    "one line, at the beginning": lambda s: regex.match(r"x+ U", s),
    "one line, the whole": lambda s: regex.fullmatch(r".*", s),
    "bounded": lambda s: list(regex.finditer(r"y{1,300}$", s)),
}


@pytest.mark.parametrize("call", LONG.values(), ids=LONG)
def test_a_line_too_long_for_a_window_says_what_to_do_instead(call: Callable[[Any], Any]) -> None:
    with pytest.raises(TextTooLarge, match=r"\.search\(pattern\)"):
        call(paged(LONG_LINE, materialise_chars_max=100))


IN_WINDOWS = [name for name in CALLS if name not in NEED_ALL]


@pytest.mark.parametrize("call", [CALLS[name] for name in IN_WINDOWS], ids=IN_WINDOWS)
def test_too_large_a_text_is_gone_through_in_windows(call: Callable[[Any, Any], Any]) -> None:
    text = TEXT + "-----\n" * 50
    assert value_of(call(regex, paged(text, materialise_chars_max=250))) == value_of(call(re, text))


@pytest.mark.parametrize("pattern", ["[a-f]", "[a-f]+", "([a-f])([a-f])"])
def test_findall_gives_no_more_than_fits(pattern: str) -> None:
    with pytest.raises(TextTooLarge, match=r"context\.count_matches\(pattern\)"):
        regex.findall(pattern, paged("abcdef\n" * 100, materialise_chars_max=100))
    assert len(regex.findall("b", paged("abcdef\n" * 30, materialise_chars_max=100))) == 30


def test_a_search_reads_no_further_than_it_must() -> None:
    asked: list[int] = []
    text = "x" * 100 + "needle" + "y\n" * 1_000_000

    def fetch(start: int, stop: int) -> str:
        asked.append(stop)
        return text[start:stop]

    found = regex.search("n(ee)dle", PagedText(len(text), fetch))
    assert found is not None
    assert isinstance(found, re.Match)
    assert (found.span(1), found[1], max(asked) < 300_000) == ((101, 103), "ee", True)


@pytest.mark.parametrize("look", [PagedList, PagedDict])
def test_a_list_is_no_subject(look: type[PagedList] | type[PagedDict]) -> None:
    empty = look(paged(""), paged(""), 0)
    for call in (regex.search, regex.findall, regex.split):
        with pytest.raises(TypeError, match=r"expected string or bytes-like object, got .*for item in context"):
            call("a", empty)


# ---------------------------------------------------------------------------------------------- windows, for their own

# Every construct of the engine, in patterns that tell how far they look.
BOUNDED = [
    *("a", "", "ab|b", "a?", "a{1,3}b?", "(a)(b)?", "(?:ab){2}", "a??", r"\s", r"\r?\n", r"(?s).", "[^a]", "(?i)A"),
    *(r"\b", r"\B", "^", "$", "(?m)^", "(?m)$", r"\A", r"\Z", "(?m)^a|b$", r"(?s).\Z", r"a$", r"\n$", r"\Aa"),
    *("(?=ab)a", "(?!ab)a", "(?<=a)b", "(?<!a)b", "(?<=ab)", "(?=(a))", r"(a)\1", "(a)?(?(1)b|a)", "(?=a(?<=ba))"),
    *("(?>a{1,2})b", "a{1,3}+b", r"(?<=\n)a", r"(?=\n)", "(?s:.)a", "(?<=^)a", r"(?=a$)", r"(?<=a{3})"),
]
ONE_LINE = [
    "a+",
    ".*",
    "a*",
    "a+?b",
    "b.*a",
    r"\S+",
    r"[ab]+",
    r"(?m)^.*$",
    "a*+",
    r".+(?=\n)",
    r"(?<=\n)a*",
    "(?i)A+b*",
]
NEED_WHOLE = [r"\s+", "(?s).*", r"[^a]*", r"a\n*", r"(?=.*b)a", r"\D+", r"\W*", r"(?=(a\n))\1*", r"(?s:.+)a"]
subjects = st.text(alphabet="aabbA \n\r", max_size=30)


@pytest.mark.parametrize("source", BOUNDED + ONE_LINE)
@settings(max_examples=examples(30))
@given(
    text=subjects, window=st.integers(1, 6), pos=st.integers(-2, 32), endpos=st.one_of(st.none(), st.integers(-2, 32))
)
def test_windows_find_what_the_whole_text_has(
    source: str, text: str, window: int, pos: int, endpos: int | None
) -> None:
    pattern = re.compile(source)
    far = scan.reach(pattern)
    assert far is not None
    assert (far.width is None) == (source in ONE_LINE)
    end = sys.maxsize if endpos is None else endpos
    assume(min(max(pos, 0), len(text)) <= max(end, 0))  # the engine's answers to an empty range are odd
    ours = list(scan.finditer(pattern, far, text, pos, end, window_chars=window))
    assert [known(found) for found in ours] == [known(found) for found in pattern.finditer(text, pos, end)]
    assert list(scan.finditems(pattern, far, text, pos, end, window_chars=window)) == pattern.findall(text, pos, end)
    assert known(scan.match(pattern, far, text, pos, end)) == known(pattern.match(text, pos, end))
    assert known(scan.fullmatch(pattern, far, text, pos, end)) == known(pattern.fullmatch(text, pos, end))


def known(found: Any) -> Any:
    """All that a match says."""
    if found is None:
        return None
    groups = found.groups(), found.groupdict(), found.group(), found[0], found.lastindex, found.lastgroup, found.regs
    places = found.span(), found.start(), found.end(), found.pos, found.endpos, found.string, found.re
    return groups, places, repr(found), [found.span(group) for group in range(found.re.groups + 1)]


@pytest.mark.parametrize("source", NEED_WHOLE)
def test_a_pattern_without_bound_is_not_streamed(source: str) -> None:
    assert scan.reach(re.compile(source)) is None


def test_a_pattern_of_bytes_is_no_pattern_for_a_text() -> None:
    with pytest.raises(TypeError, match="cannot use a bytes pattern"):
        regex.search(b"a", paged(materialise_chars_max=50))


def test_a_match_is_a_value() -> None:
    found = scan.match(re.compile("(?P<n>a)"), scan.Reach(1, 1, 2), "ab")
    assert copy.copy(found) is found
    assert copy.deepcopy(found) is found
    assert found.expand(r"<\g<n>>") == "<a>"
    with pytest.raises(IndexError, match="no such group"):
        found.span(5)


def test_the_module_is_a_whole_re() -> None:
    module = regex.as_module()
    assert isinstance(module, types.ModuleType)
    assert module.__name__ == "re"
    assert not hasattr(module, "as_module")
    undocumented = {"template", "T", "TEMPLATE"}
    assert set(re.__all__) - undocumented <= set(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
    for name in ("I", "IGNORECASE", "NOFLAG", "X", "error", "Match"):
        assert getattr(module, name) is getattr(re, name)
    assert module.findall("Date", paged()) == ["Date", "Date"]


@pytest.mark.parametrize(
    "name", ["search", "match", "fullmatch", "findall", "finditer", "split", "sub", "subn", "compile"]
)
def test_parameters_have_the_names_of_re(name: str) -> None:
    theirs = [p for p in inspect.signature(getattr(re, name)).parameters if p != "args"]
    assert list(inspect.signature(getattr(regex, name)).parameters) == theirs
