"""What fits in a place, where something did not: `a number from 0 to 65535`, `one of minute, hour, day`.

`msgspec` says what was wrong with a value, and of a choice not what there is to choose. So whoever refuses one adds
that, from the same types by which it was read.
"""

from __future__ import annotations

import functools
import re
from typing import Any, Final

import msgspec

__all__ = ["Misfit", "misfit"]

_PLACE: Final = re.compile(r"(?P<what>.*?) - at (?P<key>`key` in )?`(?P<place>\$[^`]*)`\Z", re.DOTALL)
_STEP: Final = re.compile(r"\.(?P<field>\w+)|\[[^\]]*\]")
_UNKNOWN: Final = "contains unknown field `"
_PATTERN: Final = "matching regex"
_MISSING: Final = re.compile(r"missing required field `(.*)`\Z")


class Misfit(msgspec.Struct, frozen=True):
    """Why something does not fit a type.

    Attributes:
        what: in msgspec's words, such as `Expected int, got str`.
        place: the JSON path of what does not fit, from `$` on; of a key, that of what it is a key of.
        missing: the field that is not there, if that is what is wrong.
        fits: what would, such as `a number from 0 to 65535`; of a field that nobody knows, those that there are; None
            where it would take more than a few words.
    """

    what: str
    place: str
    missing: str | None
    fits: str | None

    @property
    def steps(self) -> tuple[str, ...]:
        """The fields on the way to the place, without the elements of lists and tables."""
        return tuple(match["field"] for match in _STEP.finditer(self.place) if match["field"])


def misfit(error: msgspec.ValidationError, kind: Any, *, table: str = "an object") -> Misfit:
    """Read what msgspec says, and look up in the type that it read what would fit there.

    Args:
        table: what an object is called in the format that was read.
    """
    found = _PLACE.match(str(error))
    what, place = (found["what"], found["place"]) if found else (str(error), "$")
    here = _at(_types(kind), place)
    if found is not None and found["key"]:
        here = [one.key_type for one in here if isinstance(one, msgspec.inspect.DictType)]
    missing = _MISSING.search(what)
    if missing is not None:
        words: list[str | None] = []
    elif _UNKNOWN in what:
        words = [
            f"one of {', '.join(field.encode_name for field in one.fields)}" if one.fields else "nothing"
            for one in _plain(here)
            if isinstance(one, msgspec.inspect.StructType)
        ]
    else:
        words = list(dict.fromkeys(_words(one, table) for one in _plain(here)))
    fits = None if not words or None in words else ", or ".join(filter(None, words))
    if fits is not None and _PATTERN in what:
        what = "Expected `str` of another form"  # its words say more than the pattern
    return Misfit(what.replace("`", ""), place, missing[1] if missing else None, fits)


@functools.lru_cache(maxsize=256)
def _types(kind: Any) -> msgspec.inspect.Type:
    return msgspec.inspect.type_info(kind)


def _plain(found: list[msgspec.inspect.Type]) -> list[msgspec.inspect.Type]:
    """The types themselves: of a union each that says something, and nothing around them but the form of a text."""
    plain: list[msgspec.inspect.Type] = []
    for one in found:
        if isinstance(one, msgspec.inspect.Metadata):
            plain += [one] if _form(one) else _plain([one.type])
        elif isinstance(one, msgspec.inspect.UnionType):
            plain += _plain(list(one.types))
        elif not isinstance(one, msgspec.inspect.NoneType):
            plain.append(one)
    return plain


def _at(root: msgspec.inspect.Type, place: str) -> list[msgspec.inspect.Type]:
    """What may be in a place."""
    here = [root]
    for step in _STEP.finditer(place):
        below: list[msgspec.inspect.Type] = []
        for one in _plain(here):
            if isinstance(one, msgspec.inspect.StructType):
                below += [field.type for field in one.fields if field.encode_name == step["field"]]
            elif isinstance(one, msgspec.inspect.DictType):
                below.append(one.value_type)
            elif isinstance(one, msgspec.inspect.ListType):
                below.append(one.item_type)
        here = below
    return _plain(here)


def _form(one: msgspec.inspect.Metadata) -> str | None:
    """Of a text that has to match a pattern, what that means, if the type says it."""
    if not isinstance(one.type, msgspec.inspect.StrType) or one.type.pattern is None:
        return None
    return (one.extra_json_schema or {}).get("description")


def _words(one: msgspec.inspect.Type, table: str) -> str | None:
    match one:
        case msgspec.inspect.Metadata():
            return _form(one)
        case msgspec.inspect.LiteralType():
            return f"{'one of '[: 7 * (len(one.values) > 1)]}{', '.join(map(str, one.values))}"
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.IntType(ge=int() as least, le=int() as most):
            return f"a number from {least} to {most}"
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            return "a number"
        case msgspec.inspect.StrType():
            return _text(one)
        case msgspec.inspect.ListType():
            texts = all(isinstance(item, msgspec.inspect.StrType) for item in _plain([one.item_type]))
            return f"a list of {_number(one)}{'texts' if texts else 'items'}"
        case msgspec.inspect.DictType() | msgspec.inspect.StructType():
            return table
        case _:
            return None


def _text(one: msgspec.inspect.StrType) -> str | None:
    """Of one that has to match a pattern, a few words say too little."""
    if one.pattern is not None:
        return None
    number = _number(one)
    return f"a text of {number}characters" if number else "a text"


def _number(one: msgspec.inspect.StrType | msgspec.inspect.ListType) -> str:
    least, most = one.min_length or 0, one.max_length
    if most is None:
        return f"{least} or more " if least else ""
    return f"{least} to {most} " if least else f"at most {most} "
