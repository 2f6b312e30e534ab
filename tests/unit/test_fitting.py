"""What would fit is told from the type: numbers with their bounds, choices with all of them, fields by their names."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from belljar.fitting import misfit


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    size: Annotated[int, Meta(ge=1, le=9)] | None = None
    word: Annotated[str, Meta(pattern="^a+$")] = "a"


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    kind: Literal["small", "large"] = "small"
    is_on: bool = False
    words: Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=3)] = []
    by_day: dict[Literal["day", "hour"], Inner] = {}


@pytest.mark.parametrize(
    ("given", "place", "fits"),
    [
        ({"name": 5}, "$.name", "a text"),
        ({"name": "x", "kind": "tiny"}, "$.kind", "one of large, small"),
        ({"name": "x", "is_on": 5}, "$.is_on", "true or false"),
        ({"name": "x", "words": "a"}, "$.words", "a list of at most 3 texts"),
        ({"name": "x", "words": ["a", ""]}, "$.words[1]", "a text of 1 or more characters"),
        ({"name": "x", "by_day": {"calls": {}}}, "$.by_day", "one of day, hour"),
        ({"name": "x", "by_day": {"day": {"size": "5"}}}, "$.by_day[...].size", "a number from 1 to 9"),
        ({"name": "x", "by_day": {"day": 5}}, "$.by_day[...]", "an object"),
        ({"name": "x", "by_day": {"day": {"word": "b"}}}, "$.by_day[...].word", None),
        ({"name": "x", "by_day": {"day": {"sise": 5}}}, "$.by_day[...]", "one of size, word"),
        ({}, "$", None),
    ],
)
def test_what_would_fit_is_told(given: dict[str, Any], place: str, fits: str | None) -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert(given, Outer)
    wrong = misfit(refused.value, Outer)
    assert (wrong.place, wrong.fits) == (place, fits)
    assert wrong.missing == (None if given else "name")
    assert "`" not in wrong.what


def test_the_way_to_a_place_is_its_fields() -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert({"name": "x", "by_day": {"day": {"size": 0}}}, Outer)
    assert misfit(refused.value, Outer).steps == ("by_day", "size")
