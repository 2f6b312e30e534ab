"""A limit has one name: the key of the policy that sets it is the code of its refusals and of the result."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from belljar.engine import Limit
from belljar.policy import unit_of
from belljar.policy.kinds import Cost, Duration, MemoryTime, Room, Size, Time, Volume, Wait
from belljar.policy.parse import all_kinds

HOST = Path(__file__).resolve().parents[2] / "runtime" / "belljar"

# Bounds that no policy sets: the same for everybody, a property of what was given, or a limit of the tenant's.
FIXED = {
    "answer.schema",
    "answer.too_deep",
    "answer.too_many_digits",
    "audit.too_long",
    "context.stored",
    "context.too_long",
    "context.too_many",
    "model.script",
    "policy.extends",
    "policy.too_large",
    "program.too_long",
    "query.shortened",
    "quota.tenant.depth",
    "read.out_of_range",
    "replay.too_long",
    "search.pattern",
    # a service's own
    "hook.too_long",
    "hook.too_many",
    "key.label",
    "key.overlap",
    "key.too_many",
    "page.limit",
    "request.values",
    "upload.offset",
    "upload.tenant",
}


KEYS = all_kinds()
UNITS = {
    **dict.fromkeys((Duration, Wait, Time), "ms"),
    **dict.fromkeys((Size, Room, Volume), "bytes"),
    Cost: "nanousd",
    MemoryTime: "mib_s",
}


def calls() -> Iterator[tuple[Path, ast.Call]]:
    for path in sorted(HOST.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                yield path, node


def codes_of_limits() -> Iterator[tuple[str, str]]:
    """Where a bound is told with its code: `code="...", limit=...`, and `Limit.of("...", ...)`."""
    for path, call in calls():
        said = {keyword.arg: keyword.value for keyword in call.keywords}
        code = said.get("code") if "limit" in said else None
        if isinstance(call.func, ast.Attribute) and call.func.attr == "of" and ast.unparse(call.func.value) == "Limit":
            code = call.args[0]
        if isinstance(code, ast.Constant) and isinstance(code.value, str):
            yield path.relative_to(HOST).as_posix(), code.value


def test_the_code_of_a_limit_is_its_key_in_the_policy() -> None:
    found = set(codes_of_limits())
    assert len(found) > 15
    assert not {(where, code) for where, code in found if code not in KEYS.keys() | FIXED}


def test_what_is_said_to_be_fixed_is_told_somewhere() -> None:
    words = "".join(path.read_text("utf-8") for path in HOST.rglob("*.py"))
    assert not {code for code in FIXED if f'"{code}"' not in words}


@pytest.mark.parametrize("key", KEYS)
def test_a_limit_knows_its_unit(key: str) -> None:
    expected = UNITS.get(type(KEYS[key]), "")
    assert unit_of(key) == expected == Limit.of(key, 1, 2).unit


def test_what_is_no_key_has_no_unit() -> None:
    assert unit_of("limits.nothing") == ""
