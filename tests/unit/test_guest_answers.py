"""What a program may give as its answer, and which form it has in JSON: outside of a box."""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import enum
import fractions
import io
import json
import pathlib
import re
import sys
import types
import uuid
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from guest.agent.answers import encoded
from guest.context.collection import PagedDict, PagedList
from guest.context.paged import PagedText
from guest.context.placeholder import holds_placeholder, mark
from tests.unit.paged_fakes import Stored

TEXT = "Title\nnaïve 👍\n"


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclass
class Row:
    name: str
    rest: object = None


class Point(NamedTuple):
    x: int
    y: int


class Stubborn(str):
    """A text that brings methods of its own."""

    def encode(self, *_: Any) -> Any:
        raise AssertionError("asked")


class TooLong(Exception):
    pass


def afford(chars: int) -> None:
    raise TooLong(chars)


def form_of(value: object, chars_max: int = 10_000) -> tuple[str, str]:
    return encoded(value, afford=afford, chars_max=chars_max)


def paged(value: Any, stored: Stored | None = None) -> Any:
    if isinstance(value, str):
        return Stored([value]).paged("text")
    stored = stored or Stored(value)
    look_alike = PagedDict if isinstance(value, dict) else PagedList
    return look_alike(stored.paged("text"), stored.paged("directory"), len(value))


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("text", "text"),
        pytest.param(Stubborn("text"), "text", id="a text with methods of its own"),
        (["a", 1, 1.5, None, True], ["a", 1, 1.5, None, True]),
        ((1, (2, 3)), [1, [2, 3]]),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({"b", "a"}), ["a", "b"]),
        ([{2, 1}], [[1, 2]]),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (collections.deque([1, 2]), [1, 2]),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (types.SimpleNamespace(a={1}), {"a": [1]}),
        (range(3), [0, 1, 2]),
        ({"a": 1}.keys(), ["a"]),
        ({"a": 1}.values(), [1]),
        ({"a": 1}.items(), [["a", 1]]),
        (collections.ChainMap({"a": 1}, {"b": 2}).keys(), ["b", "a"]),
        (array.array("i", [1, 2]), [1, 2]),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        ([datetime.datetime(2024, 1, 2, 3, 4)], ["2024-01-02T03:04:00"]),
        ([datetime.time(3, 4)], ["03:04:00"]),
        ([datetime.timedelta(days=1)], ["1 day, 0:00:00"]),
        ([decimal.Decimal("1.50")], ["1.50"]),
        ([fractions.Fraction(1, 3)], ["1/3"]),
        ([uuid.UUID(int=1)], ["00000000-0000-0000-0000-000000000001"]),
        ([pathlib.PurePosixPath("a/b")], ["a/b"]),
        ([b"ab", bytearray("ü".encode()), memoryview(b"c")], ["ab", "ü", "c"]),
        ([Colour.RED, Level.HIGH], ["red", 3]),
        ([Row("a", Row("b"))], [{"name": "a", "rest": {"name": "b", "rest": None}}]),
        ([Point(1, 2)], [[1, 2]]),
        (2**60 + 1, 2**60 + 1),
        ([10**4299, 1 - 10**4299], [10**4299, 1 - 10**4299]),
        (
            {1: "a", None: "b", False: "c", 1.5: "d", Colour.RED: "e", datetime.date(2024, 1, 2): "f"},
            {"1": "a", "null": "b", "false": "c", "1.5": "d", "red": "e", "2024-01-02": "f"},
        ),
    ],
)
def test_what_has_a_form_in_json(value: object, wanted: object) -> None:
    form, text = form_of(value)
    assert form == ("text" if isinstance(wanted, str) else "json")
    assert (text if form == "text" else json.loads(text)) == wanted


def looped() -> list[Any]:
    value: list[Any] = []
    value.append({"again": value})
    return value


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(sys.getrecursionlimit()):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((x for x in "ab"), "a generator: write list"),
        ([map(str, [1])], "a map: write list"),
        ([zip("a", "b", strict=True)], "a zip: write list"),
        (iter([1]), "a list_iterator: write list"),
        (len, "a function: call it"),
        ([lambda: 1], "a function: call it"),
        (["".join], "a function: call it"),
        (Row, "the class Row: give its name"),
        (json, "a module: give its name"),
        (io.StringIO("a"), r"a StringIO: write value.getvalue\(\)"),
        (io.BytesIO(b"a"), r"a BytesIO: write value.read\(\)"),
        (re.match("a", "a"), r"a Match: write value.group\(\)"),
        (object(), "an object: write str"),
        (collections.ChainMap({"a": 1}), "a ChainMap: write str.value., or a dict"),
        ([ValueError("no")], "a ValueError: write str"),
        (1j, "a complex: write str"),
        (float("nan"), "hold nan"),
        ([float("-inf")], "hold -inf"),
        ([10**4300], "more than 4300 digits"),
        ([-(10**4299)], "more than 4300 digits"),  # to the host, the sign is one
        (b"\xff", "bytes that are not UTF-8"),
        ({(1, 2): 3}, "a number, not a tuple"),
        ({1: "a", "1": "b"}, "two keys of a dict would both be '1'"),
        (looped(), "holds itself"),
        (deep(), "nested this deep"),
    ],
)
def test_what_has_none_is_a_typeerror_that_says_what_to_write(value: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        form_of(value)


def test_one_list_in_two_places_is_no_loop() -> None:
    one = [1]
    assert form_of([one, one, {"a": one}]) == ("json", '[[1], [1], {"a": [1]}]')


def test_the_paged_context_is_its_text_wherever_it_stands() -> None:
    text, rows, files = paged(TEXT), paged(["a", {"b": 1}, None]), paged({"x.py": "print", "n": [1]})
    form, made = form_of({"t": text, "in": [(rows, files.keys(), {"f": files})], "d": Row("r", text)})
    assert form == "json"
    assert json.loads(made) == {
        "t": TEXT,
        "in": [[["a", {"b": 1}, None], ["x.py", "n"], {"f": {"x.py": "print", "n": [1]}}]],
        "d": {"name": "r", "rest": TEXT},
    }
    assert form_of(text) == ("text", TEXT)


def test_a_context_that_is_too_long_for_an_answer_is_not_read() -> None:
    def fetch(start: int, stop: int) -> str:
        raise AssertionError("read")

    with pytest.raises(TooLong):
        form_of({"t": PagedText(5000, fetch)}, chars_max=1000)
    for value in (["x" * 3000, "y" * 3000], {"a": "x" * 3000, "b": "y" * 3000}):
        stored = Stored(value)
        with pytest.raises(TooLong):
            form_of([paged(value, stored)], chars_max=5000)
        assert [which for which, *_ in stored.read if which == "text"] == []


def test_what_is_many_times_the_same_is_refused_before_it_is_built() -> None:
    with pytest.raises(TooLong):
        form_of(["x" * 400] * 1_000_000)
    with pytest.raises(TooLong):
        form_of(range(10**12))


def test_a_placeholder_is_known_by_a_word_that_no_document_has() -> None:
    text = paged(TEXT)
    for shown in (repr([text]), f"{ {'a': text} }", repr(paged(["a"])), repr(paged({"a": 1}))):
        assert holds_placeholder(shown)
    assert holds_placeholder(str([text])[:30])
    assert not holds_placeholder(repr(text).replace(mark(), "#00000000"))
    assert not holds_placeholder(TEXT)
