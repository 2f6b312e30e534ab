"""What a mutant is: one small change that breaks one promise or one layer, and the test that has to notice.

Each is a file beside this one, `NAME.toml`:

    what = "One sentence: what this mutation breaks"
    file = "runtime/belljar/..."     relative to the root
    find = '''text that occurs exactly once in the file'''
    replace = '''what stands there instead'''
    test = "tests/.../test_x.py::test_y"
"""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import msgspec

__all__ = ["FOLDER", "ROOT", "Malformed", "Mutant", "load", "load_all"]

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]


class Malformed(Exception):
    """A mutant's file, or what it says about another file, is not so."""


class Mutant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One mutation, and the one test that must fail under it."""

    name: str
    what: str
    file: str
    find: str
    replace: str
    test: str

    def applied(self, root: Path = ROOT) -> str:
        """The whole file with the mutation in it.

        Raises:
            Malformed: it cannot be applied, or what comes out could not even be loaded.
        """
        path = root / self.file
        if self.file.startswith("tests/") or not path.is_file():
            raise Malformed(f"{self.name}: file: there is no {self.file}, or it is a test")
        text = path.read_text(encoding="utf-8")
        if (times := text.count(self.find)) != 1 or self.find == self.replace:
            raise Malformed(f"{self.name}: find: occurs {times} times in {self.file}, or replace is the same")
        mutated = text.replace(self.find, self.replace)
        try:
            _load(mutated, path.suffix)
        except (SyntaxError, ValueError) as error:  # it would fail any test, which shows nothing
            raise Malformed(f"{self.name}: replace: {self.file} cannot be loaded any more: {error}") from None
        return mutated


def _load(text: str, suffix: str) -> None:
    if suffix == ".py":
        ast.parse(text)
    elif suffix == ".toml":
        tomllib.loads(text)


def load(path: Path) -> Mutant:
    """Raises Malformed."""
    try:
        mutant = msgspec.convert({"name": path.stem, **tomllib.loads(path.read_text(encoding="utf-8"))}, Mutant)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise Malformed(f"{path.stem}: {error}") from None
    if not mutant.what or "\n" in mutant.what or "::" not in mutant.test:
        raise Malformed(f"{path.stem}: what is one sentence, test is FILE::TEST")
    return mutant


def load_all(folder: Path = FOLDER) -> list[Mutant]:
    """All mutants, by name. Raises Malformed."""
    return [load(path) for path in sorted(folder.glob("*.toml"))]
