"""Whether a JSON value fits a JSON Schema, and where it does not: bounded work, whatever the value and the schema.

It knows the keywords of draft 2020-12 that describe data (`_CHECKS`, `_NOTES`); a schema with any other is refused when
it is read, since what is not checked would be promised and not kept. References go to the schema itself and nowhere
else. Each look at a value through a schema is a step, and there is a bound on steps, on their depth, and on the text
that a pattern may go through. Patterns are RE2, so their time is linear.

A fault is a path, what was expected, and what is there: short, however long the value or the schema.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from typing import Final as Const
from urllib.parse import unquote

import msgspec
import re2

from belljar.errors import InvalidInput
from belljar.heavy import give_way

__all__ = ["Schema"]

_SCHEMA_BYTES_MAX: Const = 64 * 1024
_DEPTH_MAX: Const = 128
# About half a second. A value of this many parts is no answer that anybody checks by a schema.
_STEPS_MAX: Const = 200_000
_STEPS_A_SLICE: Const = 2000
_CHARS_A_STEP: Const = 16
_FAULTS_MAX: Const = 5
# RE2's slowest way is some ten million steps for these three together.
_PATTERN_CHARS_MAX: Const = 500
_PATTERN_BYTES_MAX: Const = 64 * 1024
_MATCHED_CHARS_MAX: Const = 4096
_SHOWN_CHARS_MAX: Const = 60
_PATH_CHARS_MAX: Const = 200

_NOTES: Const = frozenset(
    {
        *("$schema", "$id", "$anchor", "$comment", "$defs", "definitions", "title", "description", "default"),
        *("examples", "format", "deprecated", "readOnly", "writeOnly", "discriminator"),
    }
)
_TYPES: Const[dict[str, Callable[[Any], bool]]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or value.is_integer()),
    "number": lambda value: _is_number(value),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
_NAME: Const = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII)


class _Fault(NamedTuple):
    """Where a value does not fit, and how many steps into it that is."""

    path: str
    depth: int
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}, got {self.got}"


class _TooMuch(Exception):
    """The value or the schema needs more steps than there are."""


class Schema:
    """A JSON Schema, read and found to be one that can be checked.

    Args:
        document: the schema, of JSON values.
        strict: refuse keywords that are not checked; without it they are passed over.

    Raises:
        InvalidInput: `answer.schema`: it is none, too long, or has a keyword that is not checked.
    """

    def __init__(self, document: object, *, strict: bool = True) -> None:
        try:
            self.text = msgspec.json.encode(document).decode()
            self.document = msgspec.json.decode(self.text)
        except (TypeError, ValueError, RecursionError) as error:
            raise _bad("", f"it is not made of JSON values ({type(error).__name__})") from error
        if len(self.text) > _SCHEMA_BYTES_MAX:
            raise InvalidInput(
                f"the schema has {len(self.text)} bytes; {_SCHEMA_BYTES_MAX} are allowed: describe less",
                code="answer.schema",
                limit=_SCHEMA_BYTES_MAX,
                observed=len(self.text),
            )
        if not isinstance(self.document, dict):
            raise _bad("", "it is no object")
        self._patterns: dict[str, Any] = {}
        # The schemas in the document, by identity, and where it refers to one.
        self._schemas: set[int] = set()
        self._references: list[tuple[str, str]] = []
        self._read(self.document, "#", strict=strict, depth=0)
        self._check_references()

    @property
    def fields(self) -> list[str]:
        """The names of the properties that it describes, if it describes an object; the required ones first."""
        document: Any = self.document
        for _ in range(_DEPTH_MAX):
            if not isinstance(document, dict) or "$ref" not in document:
                break
            document = self._target(document["$ref"], "#")
        if not isinstance(document, dict):
            return []
        properties, required = document.get("properties", {}), document.get("required", [])
        return sorted(properties, key=lambda name: name not in required)

    def faults(self, value: Any) -> list[str]:
        """Where and why the value does not fit: at most a few lines, each short; none if it fits."""
        try:
            return _Look(self).faults(value)
        except _TooMuch:
            return ["$: it is too large or too deeply nested to be checked: give less"]

    def pattern(self, pattern: str) -> Any:
        return self._patterns[pattern]

    def _read(self, schema: object, at: str, *, strict: bool, depth: int) -> None:
        """Refuse what cannot be checked, wherever it is."""
        if depth > _DEPTH_MAX:
            raise _bad(at, "it is nested too deep")
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict):
            raise _bad(at, "it is neither an object nor true or false")
        self._schemas.add(id(schema))
        for keyword, given in schema.items():
            if keyword in _CHECKS:
                self._read_keyword(keyword, given, f"{at}/{keyword}", strict=strict, depth=depth)
            elif keyword in ("$defs", "definitions"):
                self._read_all(_object(given, f"{at}/{keyword}"), f"{at}/{keyword}", strict=strict, depth=depth)
            elif strict and keyword not in _NOTES:
                raise _bad(f"{at}/{keyword}", "this keyword is not checked here: leave it out, or say it differently")

    def _read_keyword(self, keyword: str, given: Any, at: str, *, strict: bool, depth: int) -> None:
        form = _CHECKS[keyword].form
        if not form(given):
            raise _bad(at, "its value is not of the right kind")
        if keyword == "$ref":
            self._references.append((given, at))
        elif keyword == "pattern":
            self._patterns[given] = _compiled(given, at)
        elif form is _is_schema:
            self._read(given, at, strict=strict, depth=depth + 1)
        elif form in (_is_schemas, _is_named_schemas):
            named = given if isinstance(given, dict) else dict(enumerate(given))
            self._read_all(named, at, strict=strict, depth=depth)

    def _read_all(self, schemas: Mapping[Any, Any], at: str, *, strict: bool, depth: int) -> None:
        for name, schema in schemas.items():
            self._read(schema, f"{at}/{str(name)[:_SHOWN_CHARS_MAX]}", strict=strict, depth=depth + 1)

    def _check_references(self) -> None:
        """Refuse those that lead to no schema: what was not read is not checked."""
        for reference, at in self._references:
            target = self._target(reference, at)
            if not isinstance(target, bool) and id(target) not in self._schemas:
                raise _bad(at, "it refers to something that is no schema")

    def _target(self, reference: str, at: str) -> Any:
        target: Any = self.document
        if reference != "#" and not reference.startswith("#/"):
            raise _bad(at, "it refers to something outside of the schema")
        for part in reference.split("/")[1:]:
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(target, list):
                target = dict(zip(map(str, range(len(target))), target, strict=True))
            if not isinstance(target, dict) or name not in target:
                raise _bad(at, "it refers to something that is not there")
            target = target[name]
        return target

    def target(self, reference: str) -> Any:
        return self._target(reference, "#")


class _Look:
    """One look at a value; `_here` is the path that it is at."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._found: list[_Fault] = []
        self._here: list[str] = []
        self._steps = 0
        self._depth = 0

    def faults(self, value: Any) -> list[str]:
        self.visit(value, self.schema.document)
        return [str(fault) for fault in self._found]

    def visit(self, value: Any, schema: Any, step: str = "") -> None:
        """Go on at a part of the value (`step` leads to it), or at the same with another schema."""
        self.spend(1)
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise _TooMuch
        self._here.append(step)
        if schema is False:
            self.fault("nothing", value)
        elif schema is not True:
            for keyword, given in schema.items():
                if keyword in _CHECKS and not self.full:
                    _CHECKS[keyword].check(self, value, given, schema)
        self._here.pop()
        self._depth -= 1

    def spend(self, steps: int) -> None:
        """Take steps of those that there are."""
        if self._steps // _STEPS_A_SLICE != (self._steps + steps) // _STEPS_A_SLICE:
            give_way()
        self._steps += steps
        if self._steps > _STEPS_MAX:
            raise _TooMuch

    @property
    def full(self) -> bool:
        """Whether no further fault is told."""
        return len(self._found) >= _FAULTS_MAX

    @property
    def depth(self) -> int:
        """How many steps into the value it is."""
        return sum(map(bool, self._here))

    def fits(self, value: Any, schema: Any, step: str = "") -> list[_Fault]:
        """The faults that it would have with this schema, which are not counted."""
        kept, self._found = self._found, []
        self.visit(value, schema, step)
        kept, self._found = self._found, kept
        return kept

    def add(self, faults: list[_Fault]) -> None:
        self._found += faults[: _FAULTS_MAX - len(self._found)]

    def fault(self, expected: str, value: Any, got: str | None = None) -> None:
        if not self.full:
            path = "$" + "".join(self._here)
            if len(path) > _PATH_CHARS_MAX:
                path = f"{path[:_PATH_CHARS_MAX]}..."
            self._found.append(_Fault(path, self.depth, expected, _shown(value) if got is None else got))


# ------------------------------------------------------------------------------------------------------ the keywords


def _type(look: _Look, value: Any, given: Any, _: Any) -> None:
    kinds = [given] if isinstance(given, str) else given
    if not any(_TYPES[kind](value) for kind in kinds):
        look.fault(" or ".join(kinds), value)


def _enum(look: _Look, value: Any, given: Any, _: Any) -> None:
    look.spend(len(given))
    if not any(_same(value, one) for one in given):
        look.fault(f"one of {_short(json.dumps(given))}", value)


def _const(look: _Look, value: Any, given: Any, _: Any) -> None:
    if not _same(value, given):
        look.fault(_short(json.dumps(given)), value)


def _properties(look: _Look, value: Any, given: Any, _: Any) -> None:
    if isinstance(value, dict):
        look.spend(len(given))
        for name, schema in given.items():
            if name in value:
                look.visit(value[name], schema, _step(name))


def _required(look: _Look, value: Any, given: Any, _: Any) -> None:
    if isinstance(value, dict):
        look.spend(len(given))
        for name in given:
            if name not in value:
                look.fault(f"a field {_short(json.dumps(name))}", value, "none")


def _additional(look: _Look, value: Any, given: Any, schema: Any) -> None:
    if isinstance(value, dict):
        look.spend(len(value))
        known = schema.get("properties", {})
        for name in value:
            if look.full:
                return
            if name in known:
                continue
            if given is False:
                fields = _short(", ".join(known) or "none")
                look.fault(f"no other fields than {fields}", value, f"a field {_short(json.dumps(name))}")
            else:
                look.visit(value[name], given, _step(name))


def _items(look: _Look, value: Any, given: Any, schema: Any) -> None:
    if isinstance(value, list):
        for place in range(len(schema.get("prefixItems", ())), len(value)):
            look.visit(value[place], given, f"[{place}]")


def _prefix_items(look: _Look, value: Any, given: Any, _: Any) -> None:
    if isinstance(value, list):
        for place, (item, schema) in enumerate(zip(value, given, strict=False)):
            look.visit(item, schema, f"[{place}]")


def _unique(look: _Look, value: Any, given: Any, _: Any) -> None:
    if given and isinstance(value, list):
        look.spend(len(value))
        seen = {msgspec.json.encode(item, order="sorted") for item in value}
        look.spend(sum(map(len, seen)) // _CHARS_A_STEP)
        if len(seen) < len(value):
            look.fault("items that differ", value, f"{len(value) - len(seen)} repeated")


def _pattern(look: _Look, value: Any, given: Any, _: Any) -> None:
    if not isinstance(value, str):
        return
    look.spend(1 + len(value) // _CHARS_A_STEP)
    if len(value) > _MATCHED_CHARS_MAX:
        look.fault(f"a string of at most {_MATCHED_CHARS_MAX} characters", value)
    elif look.schema.pattern(given).search(value.encode("utf-8", "replace")) is None:
        look.fault(f"a string that matches {_short(json.dumps(given))}", value)


def _reference(look: _Look, value: Any, given: Any, _: Any) -> None:
    look.visit(value, look.schema.target(given))


def _all_of(look: _Look, value: Any, given: Any, _: Any) -> None:
    for schema in given:
        look.visit(value, schema)


def _any_of(look: _Look, value: Any, given: Any, about: Any) -> None:
    tried = []
    for schema in given:
        faults = look.fits(value, schema)
        if not faults:
            return
        tried.append(faults)
    look.add(_nearest(look, value, given, about, tried))


def _nearest(look: _Look, value: Any, given: Any, about: Any, tried: list[list[_Fault]]) -> list[_Fault]:
    """What to say of a value that fits none of the choices: the faults of the one that is meant, or comes nearest."""
    tag = about.get("discriminator")
    tag = tag if isinstance(tag, dict) else {}
    name, mapping = tag.get("propertyName"), tag.get("mapping")
    if isinstance(name, str) and isinstance(mapping, dict) and isinstance(value, dict) and name in value:
        chosen = value[name]
        if not isinstance(chosen, str) or chosen not in mapping:
            return look.fits(chosen, {"enum": [*mapping]}, _step(name))
        for schema, faults in zip(given, tried, strict=True):
            if isinstance(schema, dict) and schema.get("$ref") == mapping[chosen]:
                return faults
    first = [faults[0] for faults in tried]
    if all(fault.depth == look.depth and fault.got == first[0].got for fault in first):
        return [first[0]._replace(expected=" or ".join(dict.fromkeys(fault.expected for fault in first)))]
    return max(tried, key=lambda faults: faults[0].depth)


def _one_of(look: _Look, value: Any, given: Any, about: Any) -> None:
    tried = [look.fits(value, schema) for schema in given]
    fitting = tried.count([])
    if not fitting:
        look.add(_nearest(look, value, given, about, tried))
    elif fitting > 1:
        look.fault("what fits one of the choices", value, f"what fits {fitting} of them")


def _bound(of: Callable[[Any], bool], what: str, size: Callable[[Any], Any], holds: Callable[[Any, Any], bool]) -> Any:
    """The check of a keyword that bounds a number or a length."""

    def check(look: _Look, value: Any, given: Any, _: Any) -> None:
        if of(value) and not holds(size(value), given):
            look.fault(what.format(given), value, None if size(value) is value else str(size(value)))

    return check


# --------------------------------------------------------------------------------------------- forms of the keywords


def _is_number(given: Any) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool)


def _is_schema(given: Any) -> bool:
    return isinstance(given, dict | bool)


def _is_schemas(given: Any) -> bool:
    return isinstance(given, list) and bool(given)


def _is_named_schemas(given: Any) -> bool:
    return isinstance(given, dict)


def _is_text(given: Any) -> bool:
    return isinstance(given, str)


def _is_names(given: Any) -> bool:
    return isinstance(given, list) and all(isinstance(name, str) for name in given)


def _is_kind(given: Any) -> bool:
    kinds = [given] if isinstance(given, str) else given
    return _is_names(kinds) and bool(kinds) and all(kind in _TYPES for kind in kinds)


def _is_single(given: Any) -> bool:
    return not isinstance(given, dict | list)


def _is_singles(given: Any) -> bool:
    return isinstance(given, list) and all(map(_is_single, given))


def _is_count(given: Any) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and given >= 0


def _is_step(given: Any) -> bool:
    return _is_number(given) and given > 0


def _is_bool(given: Any) -> bool:
    return isinstance(given, bool)


class _Keyword(msgspec.Struct, frozen=True):
    """How a keyword is checked, and whether its own value is of the right form."""

    check: Callable[[_Look, Any, Any, Any], None]
    form: Callable[[Any], bool]


def _is_multiple(value: Any, of: Any) -> bool:
    if isinstance(value, int) and isinstance(of, int):
        return value % of == 0
    try:
        return bool(abs(value / of - round(value / of)) < 1e-9)
    except (OverflowError, ValueError):
        return False


_TEXT: Const = _TYPES["string"]
_LIST: Const = _TYPES["array"]
_OBJECT: Const = _TYPES["object"]
_CHECKS: Const[dict[str, _Keyword]] = {
    "type": _Keyword(_type, _is_kind),
    "enum": _Keyword(_enum, _is_singles),
    "const": _Keyword(_const, _is_single),
    "properties": _Keyword(_properties, _is_named_schemas),
    "required": _Keyword(_required, _is_names),
    "additionalProperties": _Keyword(_additional, _is_schema),
    "items": _Keyword(_items, _is_schema),
    "prefixItems": _Keyword(_prefix_items, _is_schemas),
    "uniqueItems": _Keyword(_unique, _is_bool),
    "pattern": _Keyword(_pattern, _is_text),
    "$ref": _Keyword(_reference, _is_text),
    "allOf": _Keyword(_all_of, _is_schemas),
    "anyOf": _Keyword(_any_of, _is_schemas),
    "oneOf": _Keyword(_one_of, _is_schemas),
    "minimum": _Keyword(_bound(_is_number, "at least {}", lambda v: v, operator.ge), _is_number),
    "maximum": _Keyword(_bound(_is_number, "at most {}", lambda v: v, operator.le), _is_number),
    "exclusiveMinimum": _Keyword(_bound(_is_number, "more than {}", lambda v: v, operator.gt), _is_number),
    "exclusiveMaximum": _Keyword(_bound(_is_number, "less than {}", lambda v: v, operator.lt), _is_number),
    "multipleOf": _Keyword(_bound(_is_number, "a multiple of {}", lambda v: v, _is_multiple), _is_step),
    "minLength": _Keyword(_bound(_TEXT, "at least {} characters", len, operator.ge), _is_count),
    "maxLength": _Keyword(_bound(_TEXT, "at most {} characters", len, operator.le), _is_count),
    "minItems": _Keyword(_bound(_LIST, "at least {} items", len, operator.ge), _is_count),
    "maxItems": _Keyword(_bound(_LIST, "at most {} items", len, operator.le), _is_count),
    "minProperties": _Keyword(_bound(_OBJECT, "at least {} fields", len, operator.ge), _is_count),
    "maxProperties": _Keyword(_bound(_OBJECT, "at most {} fields", len, operator.le), _is_count),
}


# ------------------------------------------------------------------------------------------------------------- words


def _same(value: Any, one: Any) -> bool:
    """As JSON has it: `true` is not 1, and 1.0 is."""
    return isinstance(value, bool) == isinstance(one, bool) and bool(value == one)


def _shown(value: Any) -> str:
    kind = next((name for name, is_it in _TYPES.items() if is_it(value)), "a value")
    if isinstance(value, dict | list):
        return f"{kind} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 200:
        return f"{kind} of {value.bit_length()} bits"
    text = value[: _SHOWN_CHARS_MAX + 1] if isinstance(value, str) else value
    return kind if value is None else f"{kind} {_short(json.dumps(text))}"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}..."


def _step(name: str) -> str:
    if _NAME.fullmatch(name):
        return f".{name}"
    return f"[{_short(json.dumps(name[: _SHOWN_CHARS_MAX + 1]))}]"


def _compiled(pattern: str, at: str) -> Any:
    if len(pattern) > _PATTERN_CHARS_MAX:
        raise _bad(at, f"a pattern may have {_PATTERN_CHARS_MAX} characters")
    options = re2.Options()
    options.log_errors, options.max_mem = False, _PATTERN_BYTES_MAX
    try:
        return re2.compile(pattern.encode("utf-8", "replace"), options)
    except re2.error:
        raise _bad(at, "RE2 does not know it, or it is too large (no look-around, no back-references)") from None


def _object(given: Any, at: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise _bad(at, "it is no object")
    return given


def _bad(at: str, why: str) -> InvalidInput:
    return InvalidInput(f"the schema of the answer cannot be used: {at or '#'}: {why}"[:500], code="answer.schema")
