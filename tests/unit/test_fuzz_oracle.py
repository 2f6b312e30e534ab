"""The fuzzer's oracle knows what no program may see, lets everything else through, and notices what was changed."""

from __future__ import annotations

import importlib
import json
import sys
from types import FrameType

import pytest

from guest.language.facades import Facade
from guest.language.guards import MARK, TOKEN
from tests.fuzz.oracle import Oracle, Watch, differences, state_of


def _frame() -> FrameType:
    return sys._getframe()


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    """One for all that only ask it: it looks at all objects there are, which takes seconds."""
    return Oracle()


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
def test_the_oracle_knows_what_no_program_may_see(oracle: Oracle, value: object) -> None:
    assert oracle.danger(value) is not None


def test_the_oracle_knows_what_a_foreign_object_keeps(oracle: Oracle) -> None:
    holder = Careless()
    holder.secret["key"] = [1]
    assert "live dict" in str(oracle.danger(holder.__dict__))
    assert oracle.danger({"key": [1]}) is None


def test_the_oracle_lets_through_what_every_program_has() -> None:
    oracle = Oracle()
    oracle.allow([len])
    for value in (1, "a", [1, (2, {3})], {"a": None}, ValueError("x"), int, iter([1]), "a".upper, len):
        assert oracle.danger(value) is None


def test_the_oracle_sees_a_special_method_that_was_planted(oracle: Oracle) -> None:
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
