"""docs/reference.md is what the program says of itself."""

from __future__ import annotations

import ast
from typing import get_args

from belljar.engine import Status
from tests.reference import CHOSEN_BEFORE, EXIT_CODES, PUT_TOGETHER, REFERENCE, RUNTIME, STATUSES, reference


def test_the_reference_is_current() -> None:
    assert REFERENCE.read_text() == reference(), "run .venv/bin/python -m tests.reference"


def test_every_status_is_explained_and_no_other() -> None:
    assert STATUSES.keys() == set(get_args(Status))


def test_every_exit_code_is_in_it() -> None:
    rows = [line for line in reference().partition("## Exit codes")[2].splitlines() if line.startswith("| ")]
    assert [int(row.split("|")[1]) for row in rows[2:]] == sorted(EXIT_CODES)


def test_every_code_that_is_put_together_is_known() -> None:
    unknown = set()
    for path in RUNTIME.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "code" and isinstance(node.value, ast.JoinedStr):
                parts = ["{}" if isinstance(part, ast.FormattedValue) else part.value for part in node.value.values]  # type: ignore[attr-defined]
                unknown.add("".join(parts))
    assert unknown == PUT_TOGETHER.keys()


def test_every_code_that_is_chosen_before_is_in_the_source() -> None:
    source = "".join(path.read_text() for path in RUNTIME.rglob("*.py"))
    assert [code for code in CHOSEN_BEFORE if code.rpartition(".")[2] not in source] == []
