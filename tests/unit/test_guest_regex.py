"""The guest's `re` is `re`, over paged texts too."""

from __future__ import annotations

import copy
import inspect
import re
import types
from collections.abc import Callable
from typing import Any

import pytest

from guest import regex
from guest.paged import PagedText, TextTooLarge

TEXT = "Date: Jun 16 || User: 98779\r\nDate: Jul 2 || User: 5\nünï😀\n"


def paged(text: str = TEXT, **more: int) -> PagedText:
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


@pytest.mark.parametrize("call", [c for name, c in CALLS.items()], ids=CALLS)
def test_too_large_a_text_says_what_to_do_instead(call: Callable[[Any, Any], Any]) -> None:
    with pytest.raises(TextTooLarge, match=r"context\.lines\(\)"):
        call(regex, paged(materialise_chars_max=5))


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
