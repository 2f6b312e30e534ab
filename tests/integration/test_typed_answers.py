"""Answers of a type, out of a real box: one that does not fit goes back to the model, one that does is a value."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from belljar import InvalidInput, Runtime
from belljar.testing import FakeModel
from tests.integration.support import Jar
from tests.integration.test_root_replies import LANGUAGES, Language, answered, block


class Found(msgspec.Struct):
    name: str
    lines: list[int]


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "lines": {"type": "array", "items": {"type": "integer"}}},
    "required": ["name", "lines"],
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("spec", [SCHEMA, Found])
def test_a_misfit_goes_back_with_its_path_and_the_next_answer_counts(jar: Jar, language: Language, spec: Any) -> None:
    result = answered(
        jar,
        block("keep = 7\nSUBMIT(name='a', lines=[1, 'two'])"),
        block("SUBMIT(name='a', lines=[1, keep])"),
        language=language,
        answer_type=spec,
    )
    assert (result.status, result.answer, result.turns) == ("ok", {"name": "a", "lines": [1, 7]}, 2)
    assert result.value == (Found("a", [1, 7]) if spec is Found else result.answer)
    first = result.turns_log[0]
    assert [one.status for one in first.blocks] == ["error"]
    assert '$.lines[1]: expected integer, got string "two"' in first.shown
    assert [len(jar.records(event)) for event in ("answer.void", "answer.given")] == [1, 1]


def test_a_program_that_goes_on_after_a_misfit_gives_no_second_answer_in_its_cell(jar: Jar) -> None:
    code = "for lines in ([], ['x'], [1]):\n    try:\n        FINAL(lines)\n    except BaseException:\n        pass"
    result = answered(
        jar,
        block(code),
        block("FINAL([2])"),
        language="python",
        answer_type={"items": {"type": "integer"}, "minItems": 1},
    )
    assert (result.answer, result.turns) == ([2], 2)


def test_without_a_fitting_answer_the_draft_is_still_there(jar: Jar) -> None:
    result = answered(
        jar,
        block("answer['content'] = 'draft'\nFINAL('no object')"),
        ("", "refusal"),
        answer_type=Found,
    )
    assert (result.status, result.answer, result.value, result.partial) == ("model_failed", None, None, "draft")


def test_the_model_is_told_the_schema_and_how_to_give_it(jar: Jar) -> None:
    model = FakeModel(lambda _: block("SUBMIT(name='a', lines=[])"), "scripted:typed")

    async def main() -> Any:
        async with Runtime(state=jar.at) as runtime:
            return await runtime.run("Which?", model=model, answer_type=Found)

    result = asyncio.run(main())
    first = model.requests[0].messages[0].text
    assert "SUBMIT(name=..., lines=...)" in first
    assert '"required":["name","lines"]' in first
    assert result.value == Found("a", [])


def test_a_type_that_cannot_be_checked_starts_no_run(jar: Jar) -> None:
    with pytest.raises(InvalidInput) as caught:
        answered(jar, block("FINAL(1)"), answer_type="number")
    assert caught.value.code == "answer.type"


def test_the_command_line_takes_a_schema(jar: Jar) -> None:
    model = jar.script(block("FINAL(3)"), block("SUBMIT(name='a', lines=[3])"))
    ran = jar("run", "Which?", "--model", model, "--schema", jar.file("schema.json", json.dumps(SCHEMA)))
    assert (ran.code, json.loads(ran.stdout)) == (0, {"name": "a", "lines": [3]})
    ran = jar("run", "Which?", "--model", model, "--schema", jar.file("schema.json", "[]"))
    assert (ran.code, "is no JSON Schema" in ran.stderr) == (2, True)
    twice = '{"type":"object","properties":{"a":{"type":"string"}},"properties":{}}'
    ran = jar("run", "Which?", "--model", model, "--schema", jar.file("schema.json", twice))
    assert "two members of one name" in ran.stderr
