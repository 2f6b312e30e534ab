"""Every mutant can still be applied, and its test is there. Whether the test notices, `make mutants` finds out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.collecting import not_collected
from tests.mutants.mutant import FOLDER, ROOT, Malformed, load, load_all

FILES = sorted(FOLDER.glob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_mutant_can_be_applied(path: Path) -> None:
    assert load(path).applied() != (ROOT / load(path).file).read_text(encoding="utf-8")


def test_the_test_of_every_mutant_is_collected() -> None:
    assert not_collected([mutant.test for mutant in load_all()], ROOT) == []


# ----------------------------------------------------------------------------------------------- the check itself works

WHOLE = {"what": "w", "file": "a.py", "find": "x = 1", "replace": "x = 2", "test": "tests/t.py::test_t"}


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({}, None),
        ({"what": None}, "what"),
        ({"what": ""}, "one sentence"),
        ({"more": "y"}, "more"),
        ({"test": "tests/t.py"}, "FILE::TEST"),
        ({"file": "b.py"}, "no b.py"),
        ({"find": "y = 1"}, "occurs 0 times"),
        ({"find": "x"}, "occurs 2 times"),
        ({"replace": "x = 1"}, "the same"),
        ({"replace": "x = ="}, "cannot be loaded"),
    ],
)
def test_a_mutant_that_cannot_be_is_found(tmp_path: Path, changed: dict[str, str | None], problem: str | None) -> None:
    (tmp_path / "a.py").write_text("x = 1\nprint(x)\n")
    fields = {key: value for key, value in {**WHOLE, **changed}.items() if value is not None}
    (tmp_path / "m.toml").write_text("".join(f'{key} = "{value}"\n' for key, value in fields.items()))
    if problem is None:
        assert load(tmp_path / "m.toml").applied(tmp_path) == "x = 2\nprint(x)\n"
        return
    with pytest.raises(Malformed, match=problem):
        load(tmp_path / "m.toml").applied(tmp_path)


def test_what_is_not_collected_is_told() -> None:
    file = Path(__file__).relative_to(ROOT).as_posix()
    there = [file, f"{file}::test_what_is_not_collected_is_told", f"{file}::test_a_mutant_that_cannot_be_is_found"]
    gone = ["tests/no_such_file.py::test_x", f"{file}::WHOLE", f"{file}::test_a_mutant_can_be_applied[nobody]"]
    assert not_collected([*there, *gone], ROOT) == sorted(gone)
