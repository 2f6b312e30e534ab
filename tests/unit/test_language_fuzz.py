"""The restricted language under a fuzzer: nothing is ever seen by a program that must not be, and nothing is changed.

The fuzzer (`tests/fuzz`) runs the language in a process of its own, which what it looks for could ruin. Here it runs in
slices with one seed. For a long run::

    BELLJAR_FUZZ_ROUNDS=20 BELLJAR_FUZZ_SEED=1000 pytest tests/unit/test_language_fuzz.py --timeout 3600

A find names the seed; `python -m tests.fuzz --seed N ...` with the same options makes the same calls again.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from guest.language import facades, restricted
from guest.language.facades import Facade
from guest.language.guards import MARK, TOKEN
from tests.fuzz.oracle import Oracle, Watch, differences, state_of

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("BELLJAR_FUZZ_SEED", "1"))
ROUNDS = int(os.environ.get("BELLJAR_FUZZ_ROUNDS", "1"))
# Of the functions in C, which are many, and which the types of their arguments guard already.
SHARE = "0.3" if ROUNDS == 1 else "1"
# One round takes some ten seconds of the processor at most, a busy machine makes more of them.
ROUND_SECONDS = 110
MODULES = "^(" + "|".join(facades.module_names()) + r")\."


def fuzz(*options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.fuzz", "--seed", str(SEED), "--rounds", str(ROUNDS), *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "sandbox_images"), str(ROOT)])}
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=ROUND_SECONDS * ROUNDS, check=False
    )
    assert ran.returncode == 0, f"{command} ended with {ran.returncode}: {ran.stderr[-2000:]}"
    said: dict[str, Any] = json.loads(ran.stdout)
    return said


@pytest.mark.parametrize("labels", [MODULES, f"^(?!{MODULES})"], ids=["of modules", "of the rest"])
def test_no_function_shows_a_spy_what_no_program_may_see(labels: str) -> None:
    said = fuzz("--calls", labels, "--share", SHARE)
    assert said["finds"] == []
    assert said["calls"] > 30_000 * ROUNDS


@pytest.mark.parametrize("way", ["dataclass", "pattern", "tuple", "enumeration", "other"])
def test_no_program_reaches_the_hidden_names_of_others(way: str) -> None:
    said = fuzz("--programs", way, "--share", "0.5" if ROUNDS == 1 else "1")
    assert said["finds"] == []
    assert said["programs"] > 50 * ROUNDS


# ---------------------------------------------------------------------------------------------------------------------
# The oracle itself


def _frame() -> FrameType:
    return sys._getframe()


class Careless:
    """An object of somebody else."""

    def __init__(self) -> None:
        self.secret, self.other = {}, 1  # type: ignore[var-annotated]


@pytest.mark.parametrize(
    "value",
    [
        sys,
        type,
        _frame(),
        _frame().f_code,
        sys.modules,
        [_frame().f_globals],
        {"a": (sys,)},
        Careless(),
        Careless,
        Careless().__dict__,
        open,
        importlib.import_module,
        "{}".format,
        "{}".format_map,
        Careless.__init__,
        KeyError(sys),
        Facade("json", {}).__dict__,
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_oracle_knows_what_no_program_may_see(value: object) -> None:
    assert Oracle().danger(value) is not None


def test_the_oracle_knows_what_a_foreign_object_keeps() -> None:
    oracle, holder = Oracle(), Careless()
    holder.secret["key"] = [1]
    assert "live dict" in str(oracle.danger(holder.__dict__))
    assert oracle.danger({"key": [1]}) is None


def test_the_oracle_lets_through_what_every_program_has() -> None:
    oracle = Oracle()
    oracle.allow([len])
    for value in (1, "a", [1, (2, {3})], {"a": None}, ValueError("x"), int, iter([1]), "a".upper, len):
        assert oracle.danger(value) is None


def test_the_oracle_sees_a_special_method_that_was_planted() -> None:
    oracle = Oracle()
    own = type("Own", (), {MARK: TOKEN, "__len__": len})
    assert oracle.danger(own()) is None
    own.__getattr__ = lambda self, name: name  # type: ignore[attr-defined]
    assert "__getattr__" in str(oracle.danger(own()))


def test_what_belongs_to_others_is_watched() -> None:
    class Library:
        limit = 1

    facade, library = Facade("json", {"loads": json.loads}), Library()
    watch = Watch([Library], [facade])
    assert watch.changes() == []
    Library.limit = 2
    facade.__dict__["loads"] = print
    assert [change.split(" ")[0] for change in watch.changes()] == ["limit", "loads"]
    before = state_of(library)
    library.planted = 1  # type: ignore[attr-defined]
    assert differences("it", before, state_of(library)) == ["planted of it was changed"]


def test_every_module_of_the_language_is_among_the_calls() -> None:
    restricted.preload()
    assert {"copy", "dataclasses", "enum", "concurrent.futures"} <= set(facades.module_names())
