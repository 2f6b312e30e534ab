"""What the command line prints: as long as what is in it, and nothing that steers a terminal."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from belljar.cli import output
from belljar.engine import CellResult
from tests.examples import examples

HOSTILE = "A\x9b31mB\x7fC\u202eD\x1b[31mE\u2028F\r\x00é\U0001f600"


def result(given: str | msgspec.Raw | None, stdout: str = "") -> CellResult:
    return CellResult(
        status="ok", stdout=stdout, stderr="", truncated=False, error=None, limit=None, wall_s=0.0, given=given
    )


def emitted(document: Any, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    output.emit(document)
    return capsys.readouterr().out


@pytest.mark.parametrize("raw", [False, True])
def test_a_document_is_printable_ascii(capsys: pytest.CaptureFixture[str], raw: bool) -> None:
    answer = msgspec.Raw(json.dumps([HOSTILE], ensure_ascii=False).encode()) if raw else HOSTILE
    printed = emitted(result(answer, HOSTILE), capsys)
    assert set(printed) <= set(map(chr, range(0x20, 0x7F))) | {"\n"}
    document = json.loads(printed)
    assert (document["answer"], document["stdout"]) == ([HOSTILE] if raw else HOSTILE, HOSTILE)
    assert document["schema_version"] == 1


def test_white_space_of_a_program_s_json_does_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    printed = emitted(result(msgspec.Raw(b"[1,\r\n\t2]")), capsys)
    assert "\r" not in printed
    assert "\t" not in printed
    assert json.loads(printed)["answer"] == [1, 2]


@settings(deadline=None, max_examples=examples(50))
@given(st.recursive(st.text() | st.integers(), lambda one: st.lists(one) | st.dictionaries(st.text(), one)))
def test_a_document_says_what_it_was_given(value: Any) -> None:
    assert json.loads(output._ascii(json.dumps(value, ensure_ascii=False))) == value


@pytest.mark.parametrize(
    "given",
    [
        msgspec.Raw(b"[" + (b"[" * 60 + b"]" * 60 + b",") * 1500 + b"0]"),
        msgspec.Raw(b"[" + b"5e-324," * 30_000 + b"0]"),
        "\x01\u202e" * 50_000,
        "é-" * 1_000_000,
    ],
)
def test_a_document_is_not_many_times_as_long_as_its_answer(
    capsys: pytest.CaptureFixture[str], given: str | msgspec.Raw
) -> None:
    size = len(given.encode()) if isinstance(given, str) else len(bytes(given))
    started = time.thread_time()
    printed = emitted(result(given), capsys)
    assert time.thread_time() - started < 1
    assert len(printed) < 6 * size + 1000


def test_a_message_that_is_no_text_can_be_told_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    output.complain("error", "no such file: \udcff.py", as_json=True)
    assert json.loads(capsys.readouterr().out)["error"]["message"] == "no such file: \\udcff.py"


def test_large_printable_text_is_shown_fast() -> None:
    started = time.thread_time()
    assert output.printable("x" * 4_000_000) == "x" * 4_000_000
    assert time.thread_time() - started < 0.5
    assert output.printable("é\x9b\u202e\t\n") == "é\\x9b\\u202e\t\n"
