"""Each promise in docs/promises.md names the tests that prove it, or says `pending`. Here the names are checked.

A test is named, not a file of them: whoever reads the promise should find what shows it. That it is there is seen in
the file; that it is run, by pytest; and where a promise is for every backend, on which backends it is run.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.collecting import collected, not_collected

ROOT = Path(__file__).resolve().parents[2]
HEADING = ("promise", "test")
BACKENDS = ("jail", "docker", "gvisor")
PILLARS = ("Contained", "Brokered", "Metered", "Accountable", "Whole")
_NAME = re.compile(r"`([^`]+)`")


def table(text: str) -> list[tuple[str, str]]:
    """The rows of the table whose heading is `| promise | test |`."""
    rows: list[tuple[str, str]] = []
    inside = False
    for line in text.splitlines():
        cells = tuple(cell.strip() for cell in line.strip().strip("|").split("|"))
        if not line.lstrip().startswith("|") or len(cells) != 2:
            inside = False
        elif cells == HEADING:
            inside = True
        elif inside and set("".join(cells)) - set("-: "):
            rows.append((cells[0], cells[1]))
    return rows


def named_tests(path: Path) -> set[str]:
    """The names of the test functions in a file, those in classes as `Class::name`."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        names |= {f"{prefix}{item.name}" for item in inner if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
    return {name for name in names if name.rpartition("::")[2].startswith("test_")}


def missing(cell: str, root: Path = ROOT) -> list[str]:
    """What a test cell names that is not there; a cell that names nothing must say `pending`."""
    names = _NAME.findall(cell)
    if not names:
        return [] if cell == "pending" else [f"neither a test nor pending: {cell!r}"]
    wrong = []
    for name in names:
        file, _, function = name.partition("::")
        path = root / file
        if not file.startswith("tests/") or not path.is_file():
            wrong.append(f"{name}: there is no such file")
        elif not function:
            wrong.append(f"{name}: which test in there?")
        elif function not in named_tests(path):
            wrong.append(f"{name}: there is no such test")
    return wrong


PROMISES = table((ROOT / "docs" / "promises.md").read_text(encoding="utf-8"))


def test_there_are_promises_for_each_pillar() -> None:
    assert {promise.partition(":")[0] for promise, _ in PROMISES} == set(PILLARS)


@pytest.mark.parametrize(("promise", "cell"), PROMISES, ids=[promise for promise, _ in PROMISES])
def test_the_test_of_a_promise_exists(promise: str, cell: str) -> None:
    assert missing(cell) == []


NAMED = [name for _, cell in PROMISES for name in _NAME.findall(cell)]


def test_the_tests_of_all_promises_are_collected() -> None:
    assert not_collected(NAMED, ROOT) == []


def test_a_promise_for_every_backend_has_a_test_that_runs_on_each() -> None:
    cells = [cell for promise, cell in PROMISES if promise.endswith("on every backend")]
    assert len(cells) >= 3
    names = [_NAME.findall(cell) for cell in cells]
    found = collected((name.partition("::")[0] for name in NAMED), ROOT)
    for one in names:
        runs = {case for case in found if case.partition("[")[0] in one}
        assert {backend for backend in BACKENDS if any(f"[{backend}" in case for case in runs)} == set(BACKENDS), one


def test_no_promise_is_made_twice() -> None:
    assert len({promise for promise, _ in PROMISES}) == len(PROMISES)


# ----------------------------------------------------------------------------------------------- the check itself works


def test_a_table_is_found_among_others() -> None:
    text = (
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n| promise | test |\n|:--|--:|\n| P | `t` |\n| Q | pending |\ntext | more\n"
    )
    assert table(text) == [("P", "`t`"), ("Q", "pending")]


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ("pending", None),
        ("`tests/a.py`", "which test"),
        ("`tests/a.py::test_one`", None),
        ("`tests/a.py::TestMore::test_two`, `tests/a.py::test_one`", None),
        ("", "neither a test nor pending"),
        ("soon", "neither a test nor pending"),
        ("`tests/b.py`", "no such file"),
        ("`a.py`", "no such file"),
        ("`tests/empty.py::test_one`", "no such test"),
        ("`tests/a.py::test_three`", "no such test"),
        ("`tests/a.py::helper`", "no such test"),
    ],
)
def test_a_wrong_name_is_found(tmp_path: Path, cell: str, problem: str | None) -> None:
    (tmp_path / "tests").mkdir()
    source = "def helper(): ...\ndef test_one(): ...\nclass TestMore:\n    def test_two(self): ...\n"
    (tmp_path / "tests" / "a.py").write_text(source)
    (tmp_path / "tests" / "empty.py").write_text("def helper(): ...\n")
    found = missing(cell, tmp_path)
    assert found == [] if problem is None else [problem in line for line in found] == [True]
