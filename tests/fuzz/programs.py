"""Small programs, written by a machine, around the hidden names of somebody else's objects.

For each foreign object of the samples: a program for each *way* in which the language, or code that the library makes
out of a program's names, reads or writes attributes, with the names that this object really has. A way may be refused,
or fail; what it must not do is to show something, or to change the object.
"""

from __future__ import annotations

import abc
import enum
import random
import re
import types
from collections.abc import Callable, Iterator
from typing import Any

from guest.agent.names import Ended
from guest.language.guards import Kind, kind_of
from guest.language.restricted import Rejected, compile_cell
from tests.fuzz.calls import is_foreign
from tests.fuzz.oracle import differences, is_guest_made, state_of
from tests.fuzz.world import CALL_SECONDS, Late, World, within

__all__ = ["WAYS", "ProgramFuzzer"]

_NAMES_MAX = 12
# Attributes with a rule of their own (`guards.allow_writing`), and what objects change by themselves when looked at.
_MAY_CHANGE = {
    "Thread": {"_name", "_daemonic", "_is_stopped", "_tstate_lock"},
    "SequenceMatcher": {"fullbcount"},
    "Context": {"prec", "rounding"},
}

DATACLASS = """
@dataclasses.dataclass({options})
class D(abc.ABC):
{fields}
"""
# What a program can do with a class of its own whose methods the library wrote.
GENERATED = """
for name in ("__init__", "__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__repr__", "__hash__", "__copy__"):
    for given in ((), (1,), (DUCK,) * {count}, (PLANT,) * {count}, (object.__new__(D),)):
        try:
            see("a generated method", (getattr(D, name)(V, *given),), {{}})
        except Exception as error:
            see("an error", (error,), {{}})
for name in {names}:
    setattr(D, name, DUCK)
for name in ("__eq__", "__lt__", "__ge__"):
    for pair in ((V, object.__new__(D)), (object.__new__(D), V)):
        try:
            getattr(D, name)(*pair)
        except Exception as error:
            see("an error", (error,), {{}})
"""
# A field's default is what the class has under its name.
DEFAULTS = """
@dataclasses.dataclass
class D({base}):
{fields}
for field in dataclasses.fields(D):
    see("a field", (field.default, field.default_factory, field.metadata, field.type, field), {{}})
"""
BY_POSITION = """
for kind in (type(V), V.__class__, V):
    try:
        D.register(kind)
    except Exception:
        pass
match V:
    case D({captures}):
        see("a pattern", ({captures},), {{}})
"""
BY_KEYWORD = """
match V:
    case object({pairs}):
        see("a pattern", ({captures},), {{}})
"""
BY_VALUE = """
class Asked:
    def __eq__(self, other):
        see("a pattern's value", (other,), {{}})
match Asked():
    case {values}:
        pass
"""
NAMED_TUPLE = """
N = collections.namedtuple("N", {names}, rename={rename})
for name in ("_replace", "_asdict", "_make", "__repr__", "__eq__", "__lt__", "__new__", "__iter__"):
    for given in ((V,), (V, DUCK), (V, [V] * {count}), ([V] * {count},)):
        try:
            see("a named tuple", (getattr(N, name)(*given),), {{}})
        except Exception as error:
            see("an error", (error,), {{}})
"""
TYPED_TUPLE = """
class N(typing.NamedTuple):
{fields}
for name in ("_replace", "_asdict", "__repr__", "__eq__"):
    see("a named tuple", (getattr(N, name)(V),), {{}})
"""
ENUMERATION = """
class E({bases}):
    A = (PLANT, PLANT)
    def __new__(cls, *given):
        see("E.__new__", (cls, *given), {{}})
        return V
"""
MIXED = """
class M:
    def __new__(cls, *given):
        see("M.__new__", (cls, *given), {{}})
        return V
class E(M, enum.{base}):
    A = 1
"""
PSEUDO = """
ready = False
class M(int):
    def __new__(cls, *given):
        return V if ready else int.__new__(cls, *given)
class E(M, enum.Flag):
    A = 1
    B = 2
ready = True
E.A | E.B
"""
ORDERED = """
@functools.total_ordering
class T:
    def __lt__(self, other):
        see("an order", (self, other), {{}})
        return True
for name in ("__gt__", "__le__", "__ge__", "__eq__"):
    for pair in ((V, V), (V, T()), (T(), V)):
        try:
            getattr(T, name)(*pair)
        except Exception as error:
            see("an error", (error,), {{}})
"""
DERIVED = """
class S(V):
    def names(self):
        return super()
    @classmethod
    def made(cls):
        return super()
made = object.__new__(S)
for name in {names}:
    for owner in (S, made, made.names(), S.made()):
        try:
            see("a derived class", (getattr(owner, name),), {{}})
        except Exception:
            pass
"""
PLANTED = """
class S:
    __slots__ = {names}
see("a class with slots", (S(), S), {{}})
"""
MEMBER = """
names = {names}
class E(enum.Enum):
    __slots__ = names
    A = 1
    def __new__(cls, value):
        names[:] = ["__getattr__", "__set_name__"]
        return object.__new__(cls)
"""
BY_NAME = """
def by_name(name):
    for way in (getattr, hasattr, lambda v, n: getattr(v, n, None)):
        see("getattr", (way(V, name),), {{}})
def others(name):
    yield lambda: getattr(V, name)
    yield lambda: ("{{0." + name + "}}").format(V)
    yield lambda: ("{{0[0]." + name + "}}").format([V])
    yield lambda: ("{{a." + name + "}}").format_map({{"a": V}})
    yield lambda: operator.attrgetter(name)(V)
    yield lambda: operator.attrgetter("a." + name)(Holding())
    if name[0] == "_":  # an ordinary method may well change its own object
        yield lambda: operator.methodcaller(name)(V)
        yield lambda: operator.methodcaller(name, DUCK)(V)
    yield lambda: setattr(V, name, PLANT)
    yield lambda: delattr(V, name)
    yield lambda: object.__setattr__(V, name, PLANT)
    yield lambda: vars(V).update({{name: PLANT}})
    yield lambda: functools.update_wrapper(V, Holding())
class Holding:
    def __init__(self):
        self.a = V
for name in {names}:
    for way in others(name):
        try:
            see("by name", (way(),), {{}})
        except Exception as error:
            see("an error", (error,), {{}})
"""


OWN = """
class A: pass
class L:
    __slots__ = ("first", "second")
@dataclasses.dataclass(frozen=True)
class F:
    x: object = 1
def planter(name):
    class Plants:
        def __init__(self): self.x = [1]
        def __deepcopy__(self, memo):
            for held in (memo, *memo.values()):
                if isinstance(held, dict): held[name] = DUCK
            return self
    return Plants()
def ways(name):
    a = A()
    yield lambda: setattr(A, name, DUCK)
    yield lambda: setattr(a, name, DUCK)
    yield lambda: object.__setattr__(a, name, DUCK)
    yield lambda: object.__setattr__(F(), name, DUCK)
    yield lambda: vars(a).update({{name: DUCK}})
    yield lambda: vars(a).__setitem__(name, DUCK)
    yield lambda: dict.__setitem__(vars(a), name, DUCK)
    yield lambda: operator.setitem(vars(a), name, DUCK)
    yield lambda: operator.ior(vars(a), {{name: DUCK}})
    yield lambda: functools.update_wrapper(A, A)
    yield lambda: collections.namedtuple("N", [name])
    yield lambda: dataclasses.replace(F(), **{{name: DUCK}})
    yield lambda: [setattr(L, "first", planter(name)), copy.deepcopy(L())]
    held = [a, planter(name), a]
    yield lambda: copy.deepcopy(held)
    a.x = planter(name)
    yield lambda: copy.deepcopy(a)
    l = L()
    l.first, l.second = planter(name), 1
    yield lambda: copy.deepcopy(l)
    yield lambda: (see("own", (a, A, l, L, F, held), {{}}))
for name in {names}:
    for way in ways(name):
        try:
            see("own", (way(),), {{}})
        except Exception as error:
            see("an error", (error,), {{}})
"""


def _fields(names: list[str]) -> str:
    return "\n".join(f"    {name}: object" for name in names) or "    pass"


def _dataclasses(names: list[str]) -> Iterator[str]:
    for options in ("", "order=True", "frozen=True", "slots=True", "unsafe_hash=True, kw_only=True"):
        head = DATACLASS.format(options=options, fields=_fields(names))
        yield head + GENERATED.format(count=len(names), names=names)
    for name in names:
        yield DATACLASS.format(options="", fields=_fields([name])) + BY_POSITION.format(captures="c0")


def _of_metaclasses() -> Iterator[str]:
    for base, metaclass in (("enum.Enum", enum.EnumMeta), ("enum.Flag", enum.EnumMeta), ("abc.ABC", abc.ABCMeta)):
        for name in dir(metaclass):
            yield DEFAULTS.format(base=base, fields=_fields([name]))


def _patterns(names: list[str]) -> Iterator[str]:
    for at, name in enumerate(names):
        yield BY_KEYWORD.format(pairs=f"{name}=c{at}", captures=f"c{at}")
        yield BY_VALUE.format(values=f"V.{name}")


def _tuples(names: list[str]) -> Iterator[str]:
    for rename in (False, True):
        yield NAMED_TUPLE.format(names=names, rename=rename, count=len(names))
    yield TYPED_TUPLE.format(fields=_fields(names))


def _enumerations(names: list[str]) -> Iterator[str]:
    bases = ("enum.Enum", "enum.Flag", "enum.IntEnum", "enum.StrEnum", "int, enum.Enum", "str, enum.Enum")
    yield from (ENUMERATION.format(bases=base) for base in bases)
    yield from (MIXED.format(base=base) for base in ("Enum", "Flag"))
    yield PSEUDO.format()
    yield MEMBER.format(names=names)


def _others(names: list[str]) -> Iterator[str]:
    yield ORDERED.format()
    yield DERIVED.format(names=names)
    yield PLANTED.format(names=names)
    yield OWN.format(names=names)
    yield BY_NAME.format(names=names)


WAYS: dict[str, Callable[[list[str]], Iterator[str]]] = {
    "dataclass": _dataclasses,
    "pattern": _patterns,
    "named tuple": _tuples,
    "enumeration": _enumerations,
    "other": _others,
}


class ProgramFuzzer:
    """One seed's programs. `run` gives how many ran."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.programs = 0
        world.run("import dataclasses, abc, collections, typing, enum, functools, operator, copy")

    def run(self, way: str = "", share: float = 1.0) -> int:
        watch = self.world.watch()
        self.world.recorder.doing = "dataclass with names of a metaclass"
        for source in _of_metaclasses() if re.search(way, "dataclass") else ():
            self._one(source, None)
        victims = self._victims()
        for victim in self.random.sample(victims, round(len(victims) * share)):
            for kind, names in _hidden_names(victim).items():
                chosen = self.random.sample(names, min(len(names), _NAMES_MAX))
                for name, written in WAYS.items():
                    if re.search(way, name) and (kind is Kind.PRIVATE or name != "enumeration"):
                        self.world.recorder.doing = f"{name} with {kind.value} names of a {_name(victim)}"
                        for source in written(chosen):
                            self._one(source, victim)
            for change in watch.changes():
                self.world.recorder.add(change)
        return self.programs

    def _victims(self) -> list[Any]:
        """One of each type, and some classes of the library."""
        classes = [one for one in self.world.offered().values() if isinstance(one, type) and not is_guest_made(one)]
        kinds = {type(one): one for one in self.world.samples if is_foreign(one)}
        return [*kinds.values(), *self.random.sample(classes, 8)]

    def _one(self, source: str, victim: Any) -> None:
        self.programs += 1
        names = self.world.names
        names |= {"V": victim, "mood": "calm", "turn": 0}
        before = state_of(victim)
        try:
            code = compile_cell(source)
        except Rejected:
            return
        try:
            with within(CALL_SECONDS * 4):
                exec(code, names)
        except (Late, Ended):
            pass
        except BaseException as error:
            self.world.recorder.look("it raises", error)
        may = dict.fromkeys(_MAY_CHANGE.get(_name(victim), ()))
        for change in differences(f"a {_name(victim)}", before | may, state_of(victim) | may):
            self.world.recorder.add(change)


def _hidden_names(victim: Any) -> dict[Kind, list[str]]:
    """The names that the object has, by their kind."""
    names: dict[Kind, list[str]] = {}
    for name in sorted({*dir(victim), *state_of(victim), *_of_frames(victim)}):
        if name.isidentifier() and type(name) is str:
            names.setdefault(kind_of(name), []).append(name)
    return names


def _of_frames(victim: Any) -> tuple[str, ...]:
    if isinstance(victim, types.GeneratorType):
        return ("gi_frame", "gi_code")
    return ("obj",) if isinstance(victim, AttributeError) else ()


def _name(value: Any) -> str:
    return value.__qualname__ if isinstance(value, type) else type(value).__qualname__
