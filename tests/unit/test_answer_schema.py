"""JSON Schemas of answers: what fits, where a fault is, and that no value and no schema takes long."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Literal

import msgspec
import pydantic
import pytest

from belljar.engine import AnswerType
from belljar.engine.schema import Schema
from belljar.errors import InvalidInput
from belljar.protocol import Final

ITEM = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1}, "qty": {"type": "integer", "minimum": 0}},
    "required": ["name", "qty"],
    "additionalProperties": False,
}
ORDER = {"type": "object", "properties": {"items": {"type": "array", "items": {"$ref": "#/$defs/item"}}}}
ORDERS: dict[str, Any] = {**ORDER, "required": ["items"], "$defs": {"item": ITEM}}


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"items": [{"name": "a", "qty": "3"}]}, '$.items[0].qty: expected integer, got string "3"'),
        ({"items": [{"name": "a"}]}, '$.items[0]: expected a field "qty", got none'),
        ({"items": [{"name": "", "qty": 1}]}, "$.items[0].name: expected at least 1 characters, got 0"),
        ({"items": [{"name": "a", "qty": -1}]}, "$.items[0].qty: expected at least 0, got integer -1"),
        ({"items": [{"name": "a", "qty": True}]}, "$.items[0].qty: expected integer, got boolean true"),
        (
            {"items": [{"name": "a", "qty": 1, "x y": 2}]},
            '$.items[0]: expected no other fields than name, qty, got a field "x y"',
        ),
        ({"items": {}}, "$.items: expected array, got object of 0"),
        ([], "$: expected object, got array of 0"),
    ],
)
def test_a_fault_has_its_path_and_what_is_there(value: Any, fault: str) -> None:
    assert Schema(ORDERS).faults(value) == [fault]


FITS = [
    (ORDERS, {"items": [{"name": "a", "qty": 3.0}], "more": None}),
    ({"type": ["string", "null"]}, None),
    ({"enum": ["yes", "no", 1]}, 1.0),
    ({"const": 0}, 0),
    ({"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]}, [1]),
    ({"oneOf": [{"minimum": 5}, {"maximum": 2}]}, 1),
    ({"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}, ["a", 1]),
    ({"type": "string", "pattern": "^a+$"}, "aaa"),
    ({"multipleOf": 0.1}, 0.3),
    ({"additionalProperties": {"type": "integer"}}, {"a": 1}),
    ({"uniqueItems": True, "maxItems": 2}, [1, 2]),
    ({}, [{"any": 1}]),
]
FAULTS = [
    ({"type": ["string", "null"]}, 1, "string or null"),
    ({"enum": ["yes", 1]}, True, 'one of ["yes", 1]'),
    ({"const": 0}, False, "expected 0"),
    (
        {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]},
        ["x"],
        "$[0]: expected integer",
    ),
    ({"oneOf": [{"minimum": 0}, {"maximum": 2}]}, 1, "fits 2 of them"),
    ({"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}, ["a", "b"], "$[1]"),
    ({"pattern": "^a+$"}, "b", "matches"),
    ({"multipleOf": 2}, 3, "a multiple of 2"),
    ({"additionalProperties": {"type": "integer"}}, {"a b": "x"}, '$["a b"]: expected integer'),
    ({"uniqueItems": True}, [1, 1], "1 repeated"),
    ({"items": False}, [1], "expected nothing"),
    ({"exclusiveMaximum": 2}, 2, "less than 2"),
    ({"minProperties": 1}, {}, "at least 1 fields"),
    ({"allOf": [{"type": "integer"}, {"maximum": 3}]}, 4, "at most 3"),
]


@pytest.mark.parametrize(("schema", "value"), FITS)
def test_what_fits_has_no_fault(schema: Any, value: Any) -> None:
    assert Schema(schema).faults(value) == []


@pytest.mark.parametrize(("schema", "value", "words"), FAULTS)
def test_each_keyword_is_checked(schema: Any, value: Any, words: str) -> None:
    [fault] = Schema(schema).faults(value)
    assert words in fault


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ({"not": {}}, "#/not"),
        ({"properties": {"a": {"if": {}}}}, "#/properties/a/if"),
        ({"$ref": "https://example.org/schema"}, "#/$ref"),
        ({"$ref": "#/$defs/none"}, "#/$ref"),
        ({"$ref": "#/enum/1", "enum": [1]}, "#/$ref"),
        ({"$ref": "#/enum/0", "enum": ["a"]}, "#/$ref"),
        ({"properties": {"type": {}, "a": {"$ref": "#/properties"}}}, "#/properties/a/$ref"),  # no schema, but like one
        ({"allOf": 3}, "#/allOf"),
        ({"type": "text"}, "#/type"),
        ({"items": [{}]}, "#/items"),
        ({"pattern": r"(?=a)"}, "#/pattern"),
        ({"pattern": "a" * 501}, "#/pattern"),
        ({"pattern": "(((a{100}){100}){100})"}, "#/pattern"),
        ({"enum": [["a"]]}, "#/enum"),
        ([], "#"),
        ({"a": object()}, "#"),
    ],
)
def test_a_schema_that_cannot_be_checked_is_refused(schema: Any, where: str) -> None:
    with pytest.raises(InvalidInput, match="the schema of the answer cannot be used") as caught:
        Schema(schema)
    assert caught.value.code == "answer.schema"
    assert f": {where}: " in str(caught.value)


def _nested(depth: int, inner: Any) -> Any:
    for _ in range(depth):
        inner = {"allOf": [inner, inner]}
    return inner


HOSTILE: list[tuple[Any, Any]] = [
    ({"$ref": "#"}, 1),
    ({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}, 1),
    (_nested(9, {"items": {"type": "integer"}}), list(range(100_000))),
    ({"items": {"enum": [*range(5000)]}}, [5001] * 100_000),
    ({"items": {"uniqueItems": True, "items": {"uniqueItems": True}}}, [[["x" * 5000]] * 100] * 1000),
    ({"items": {"pattern": "(a|aa|aaa){1,20}b"}}, ["a" * 4096] * 300),
    ({"items": {"$ref": "#"}}, msgspec.json.decode("[" * 64 + "]" * 64)),
    ({"properties": {"k": {"type": "integer"}}}, {"k": "y" * 10**6, "z" * 10**6: 1}),
    ({"additionalProperties": False}, {"z" * 10**6: 1}),
    ({"type": "string"}, 10**4000),
]


class Text(msgspec.Struct, tag=True):
    text: str


class Number(msgspec.Struct, tag=True):
    number: int


@pytest.mark.parametrize(
    ("spec", "body", "said"),
    [
        (int | None, b'"x"', '$: expected integer or null, got string "x"'),
        (list[int | str | None], b"[1.5]", "$[0]: expected integer or string or null, got number 1.5"),
        (Text | Number, b'{"type": "Number", "number": "1"}', '$.number: expected integer, got string "1"'),
        (Text | Number, b'{"type": "None"}', '$.type: expected one of ["Text", "Number"], got string "None"'),
        (Text | Number, b'{"type": []}', '$.type: expected one of ["Text", "Number"], got array of 0'),
        (Text | Number, b'{"number": 1}', '$: expected a field "type", got none'),
        (list[Text] | None, b'[{"type": "Text", "text": 1}]', "$[0].text: expected string, got integer 1"),
    ],
)
def test_of_several_choices_the_one_that_is_meant_is_told(spec: Any, body: bytes, said: str) -> None:
    assert AnswerType(spec).misfit(JSON, body) == said


def test_a_multiple_is_exact_where_both_are_integers() -> None:
    assert Schema({"multipleOf": 2}).faults(10**20 + 1) != []
    assert Schema({"multipleOf": 2}).faults(10**400) == []


@pytest.mark.parametrize(("schema", "value"), HOSTILE)
def test_no_value_and_no_schema_takes_long_or_is_repeated_at_length(schema: Any, value: Any) -> None:
    began = time.thread_time()
    faults = Schema(schema).faults(value)
    assert time.thread_time() - began < 20
    assert sum(map(len, faults)) < 2500


def test_many_wrong_names_cost_no_more_than_those_that_are_told() -> None:
    """Each fault names the fields that there are: 150,000 such texts took several seconds."""
    schema = Schema({"additionalProperties": False, "properties": {f"{n:07}": True for n in range(3500)}})
    began = time.thread_time()
    assert len(schema.faults(dict.fromkeys(map(str, range(150_000))))) == 5
    assert time.thread_time() - began < 2


def test_a_reference_may_lead_anywhere_that_a_schema_is() -> None:
    schema = Schema({"$ref": "#/$defs/a%20b/anyOf/1", "$defs": {"a b": {"anyOf": [{"type": "null"}, {"minimum": 2}]}}})
    assert schema.faults(1) == ["$: expected at least 2, got integer 1"]
    assert Schema({"$ref": "#/$defs/all", "$defs": {"all": True}}).fields == []


def test_a_long_schema_is_refused_and_a_deep_one_too() -> None:
    with pytest.raises(InvalidInput, match="are allowed"):
        Schema({"enum": ["x" * 70_000]})
    deep: Any = {}
    for _ in range(400):
        deep = {"items": deep}
    with pytest.raises(InvalidInput):
        Schema(deep)


# ------------------------------------------------------------------------------------------------------------- types


class Line(msgspec.Struct):
    name: str
    qty: int


@dataclasses.dataclass
class Plain:
    name: str
    qty: int


class Model(pydantic.BaseModel):
    name: str
    qty: int

    @pydantic.field_validator("qty")
    @classmethod
    def even(cls, qty: int) -> int:
        if qty % 2:
            raise ValueError("qty must be even")
        return qty


JSON = Final(1, "json")


@pytest.mark.parametrize("spec", [Line, Plain, Model])
def test_a_type_says_where_an_answer_does_not_fit_and_reads_one_that_does(spec: Any) -> None:
    typed = AnswerType(spec)
    assert typed.misfit(JSON, b'{"name": "a", "qty": "4"}') == '$.qty: expected integer, got string "4"'
    assert typed.misfit(JSON, b'{"name": "a", "qty": 4}') == ""
    value = typed.value(msgspec.Raw(b'{"name": "a", "qty": 4}'))
    assert (type(value), value.name, value.qty) == (spec, "a", 4)
    assert typed.schema.fields == ["name", "qty"]


def test_what_only_a_validator_knows_goes_back_as_well() -> None:
    assert AnswerType(Model).misfit(JSON, b'{"name": "a", "qty": 3}') == "$.qty: Value error, qty must be even"


@pydantic.dataclasses.dataclass
class Checked:
    qty: int

    @pydantic.field_validator("qty")
    @classmethod
    def even(cls, qty: int) -> int:
        return Model.even(qty)


@pytest.mark.parametrize("inner", [Model, Checked])
def test_what_is_made_of_pydantics_classes_is_read_by_pydantic(inner: Any) -> None:
    fields = {"name": "a"} if inner is Model else {}
    for spec, odd in ((inner, {**fields, "qty": 3}), (list[inner], [{**fields, "qty": 3}])):
        assert AnswerType(spec).misfit(JSON, msgspec.json.encode(odd)).endswith(".qty: Value error, qty must be even")
    (one,) = AnswerType(list[inner] | None).value(msgspec.Raw(msgspec.json.encode([{**fields, "qty": 4}])))
    assert (type(one), one.qty) == (inner, 4)


@dataclasses.dataclass
class Basket:
    things: list[Checked]
    next: Basket | None = None


class Crate(msgspec.Struct):
    things: dict[str, Checked]


def test_a_class_of_pydantics_in_a_field_is_read_by_pydantic_or_refused() -> None:
    """By its own validators, and never without them."""
    typed = AnswerType(Basket)
    odd = b'{"things": [{"qty": 2}], "next": {"things": [{"qty": 3}], "next": null}}'
    assert typed.misfit(JSON, odd) == "$.next.things[0].qty: Value error, qty must be even"
    value = typed.value(msgspec.Raw(odd.replace(b"3", b"4")))
    assert (type(value), value.next.things) == (Basket, [Checked(qty=4)])
    for spec in (Crate, list[Crate]):
        with pytest.raises(InvalidInput) as caught:
            AnswerType(spec)
        assert caught.value.code == "answer.type"


@dataclasses.dataclass
class Careless:
    qty: int

    def __post_init__(self) -> None:
        raise KeyError("a secret of the host")


def test_what_a_type_raises_by_mistake_goes_back_by_its_name() -> None:
    assert AnswerType(Careless).misfit(JSON, b'{"qty": 3}') == "$: it was refused with KeyError"


def test_what_only_a_reader_knows_has_its_path() -> None:
    """3.0 is an integer by JSON Schema."""
    assert AnswerType(list[int]).misfit(JSON, b"[1, 3.0]") == "$[1]: Expected `int`, got `float`"


def test_text_is_a_string_and_json_in_a_string_is_told() -> None:
    assert AnswerType(Literal["yes", "no"]).misfit(Final(1, "text"), b"yes") == ""
    assert "give the value itself" in AnswerType(Line).misfit(Final(1, "text"), b'{"name": "a", "qty": 3}')


def test_an_answer_too_large_for_a_type_is_told() -> None:
    assert "at most 1048576 bytes" in AnswerType(list[int]).misfit(JSON, b"[" + b"1," * 600_000 + b"1]")


@pytest.mark.parametrize("spec", ["integer", object(), 5, lambda: 1])
def test_what_is_no_type_is_refused(spec: Any) -> None:
    with pytest.raises(InvalidInput, match="answer_type must be") as caught:
        AnswerType(spec)
    assert caught.value.code == "answer.type"
