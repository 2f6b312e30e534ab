"""The guest's side of the fuzzer: classes with every special method, in the restricted language itself.

The text of `source()` is a guest program. Each method that it defines first calls `see`, which the test gives it, with
all that the method was handed, and then answers: with what the caller may expect, with another spy, with an object of
somebody else (`V`), or with an exception, by turns. So spies go where library code calls what it believes to be a
plain `str`, a `dict` or a file, at any depth.

`Duck` has every attribute that the library's own code reads from anything; each is a duck again.
"""

from __future__ import annotations

import builtins

from guest.language.guards import METHOD_DUNDERS, Kind, kind_of

__all__ = ["BASES", "source"]

BASES = ("object", "int", "float", "complex", "str", "bytes", "list", "tuple", "dict", "set", "frozenset")
_OTHER_METHODS = "get keys items values pop update append popitem most_common copy"
_LATER_BASES = {"Counter": "collections.Counter", "deque": "collections.deque", "Ordered": "collections.OrderedDict"}
_LATER_BASES |= {
    "default": "collections.defaultdict",
    "Error": "AttributeError",
    "Sub": "collections.abc.MutableMapping",
}

HEAD = """
import abc, collections, collections.abc, contextlib, dataclasses, enum, functools, typing

mood = "calm"      # "calm": as the caller expects, "wild": anything, "foreign": somebody else's object, "raise"
turn = 0
V = None           # an object of somebody else
PLANT = "planted by the program"

class Own(Exception):
    pass

def plant(values):
    for one in values:
        if type(one) is dict:
            for name in ("__getattr__", "planted"):
                one[name] = PLANT
        elif type(one) is list:
            one.append(PLANT)
        elif type(one) is set:
            one.add(PLANT)

def spied(where, name, owner, given, named):
    see(where, given, named)
    if mood == "plant":
        plant(given)
    return answer(name, owner, given)

def answer(name, owner, given):
    global turn
    turn = turn + 1
    if mood == "raise" and turn % 2:
        raise Own("mine")
    forms = ANSWERS.get(name) or FREE
    if mood == "foreign" and forms is FREE:
        return V
    return forms[turn % len(forms)](owner, given)

def stop(owner, given):
    raise StopIteration(owner)

def no_key(owner, given):
    raise KeyError(owner)

def no_index(owner, given):
    raise IndexError(owner)

def no_attribute(owner, given):
    raise AttributeError("mine")
"""
TAIL = '''
def other(owner, given): return Spy_object()
def text(owner, given): return Spy_str("a b")
def data(owner, given): return Spy_bytes(b"ab")
def own(owner, given): return owner
def foreign(owner, given): return V
def first(owner, given): return given[0] if given else None
def one(owner, given): return 1
def none(owner, given): return 0
def two(owner, given): return 2
def yes(owner, given): return True
def no(owner, given): return False
def nothing(owner, given): return None
def unknown(owner, given): return NotImplemented
def walk(owner, given): return iter([owner, Spy_str("x"), 1])
def function(owner, given): return called
def duck(owner, given): return DUCK

def called(*given, **named):
    see("a function of the program", given, named)
    if mood == "plant":
        plant(given)
    return answer("a function", None, given)

FREE = (own, other, text, duck, first, one, foreign, nothing, data, walk, function, yes)
TRUTH = (yes, no, unknown, other)
ANSWERS = {
    "__len__": (one, two, none), "__length_hint__": (one,), "__hash__": (one, two), "__bool__": (yes, no),
    "__str__": (text,), "__repr__": (text,), "__format__": (text,), "__bytes__": (data,),
    "__int__": (one,), "__index__": (one, two), "__trunc__": (one,), "__float__": (lambda o, g: 1.5,),
    "__complex__": (lambda o, g: 1j,), "__iter__": (walk, walk, own), "__reversed__": (walk,),
    "__next__": (other, text, stop), "__contains__": (yes, no), "__enter__": (own, other), "__exit__": (no,),
    "__getitem__": (other, text, no_index, no_key, one), "__setitem__": (nothing,), "__delitem__": (nothing,),
    "__init__": (nothing,), "__post_init__": (nothing,),
    "__eq__": TRUTH, "__ne__": TRUTH, "__lt__": TRUTH, "__le__": TRUTH, "__gt__": TRUTH, "__ge__": TRUTH,
    "keys": (lambda o, g: ["a", Spy_str("b")],), "items": (lambda o, g: [("a", o), (Spy_str("b"), 1)],),
    "close": (nothing,), "__copy__": (own, foreign, other), "__deepcopy__": (own, foreign, other),
}

class Duck:
    def __init__(self, *given, **named):
        see("Duck()", given, named)
    def __call__(self, *given, **named):
        return spied("a duck's method", "a duck", self, given, named)
    def __getitem__(self, *given): return spied("a duck's item", "__getitem__", self, given, {})
    def __setitem__(self, *given): see("a duck's item", given, {})
    def __iter__(self): return iter([self, 1])
    def __len__(self): return 1
    def __contains__(self, *given): return spied("in a duck", "__contains__", self, given, {})
    def __enter__(self): return self
    def __exit__(self, *given): see_error("a duck's exit", given, {})
    def __eq__(self, *given): return spied("a duck's equality", "__eq__", self, given, {})
    def __hash__(self): return 1
DUCK = Duck()

class Holder:
    """Keeps others' objects and spies together, for what goes through an object's state."""
    def __init__(self, *held):
        self.first, self._second, self.rest = held[0], held[-1], list(held)
class Slotted:
    __slots__ = ("first", "_second")
    def __init__(self, *held):
        self.first, self._second = held[0], held[-1]
class Swapped:
    """Its copies are somebody else's object, for who makes them with `cls.__new__(cls)`."""
    ready = False
    def __new__(cls, *given):
        see("Swapped.__new__", given, {})
        return V if cls.ready else object.__new__(cls)
    def __init__(self, *held):
        self.planted, self._planted = PLANT, PLANT
class SlotSwapped:
    __slots__ = ("planted",)
    ready = False
    def __new__(cls, *given):
        return V if cls.ready else object.__new__(cls)

def call(function, given, named):
    return function(*given, **named)

def spies():
    return [Spy_object(), Spy_int(1), Spy_float(1.5), Spy_complex(1j), Spy_str("a b"), Spy_bytes(b"ab"),
        Spy_list([1, "a"]), Spy_tuple((1, "a")), Spy_dict({"a": 1}), Spy_set([1]), Spy_frozenset([1]),
        Spy_Counter("a"), Spy_deque([1]), Spy_Ordered({"a": 1}), Spy_default(list), Spy_Error("mine"), Spy_Sub(),
        Thin_str("a b"), Thin_bytes(b"ab"), Thin_int(1), Thin_dict({"a": 1}), Thin_list([1]), Thin_tuple((1, 2)),
        DUCK, called]

def thrown_away():
    """Classes of the program: decorators change them for good, so each is used once."""
    class Thrown(Spy_object):
        x: int = 0
        def __init__(self, *given, **named): see("a class of the program", given, named)
    class Text(Spy_str):
        x: int = 0
    class Swapping:
        def __new__(cls, *given):
            see("Swapping.__new__", given, {})
            return V
    return [Thrown, Text, Swapping]

def mixtures():
    """Containers and objects that hold a spy beside somebody else's object."""
    spy = Spy_object()
    swapped, slotted = Swapped(), SlotSwapped()
    slotted.planted = PLANT
    return [[V, spy], [spy, V], {"a": V, "b": spy}, (V, spy), Holder(V, spy), Slotted(spy, V), {Spy_str("a"): spy},
        [Spy_str("a"), Spy_str("b")], [DUCK, DUCK], (Spy_object, Spy_int), [(spy, V)], swapped, slotted, *thrown_away()]

def samples_of_spies():
    return {"FIRST": first}
'''


def source() -> str:
    """The program. It wants the names `see(where, given, named)` and `see_error` (for what `with` hands over)."""
    bases = {name: name for name in BASES} | _LATER_BASES
    classes = [_class_text(f"Spy_{name}", base, _special(base) + _ordinary(base)) for name, base in bases.items()]
    thin = [_class_text(f"Thin_{name}", name, _ordinary(name), thin=True) for name in BASES if name != "object"]
    return "\n".join([HEAD, *classes, *thin, TAIL])


def _special(base: str) -> list[str]:
    # `__new__` and `__init__` would leave an object without its value; Swapped and the programs try `__new__`.
    return sorted(METHOD_DUNDERS - {"__new__", "__init__"} - ({"__exit__"} if base == "object" else set()))


def _ordinary(base: str) -> list[str]:
    cls = getattr(builtins, base, None)
    names = dir(cls) if cls is not None else _OTHER_METHODS.split()
    return [name for name in names if kind_of(name) in (Kind.PLAIN, Kind.SPECIAL) and name != "obj"]


def _class_text(name: str, base: str, methods: list[str], *, thin: bool = False) -> str:
    lines = [f"class {name}({base}):"]
    for method in methods:
        where = f"{name}.{method}"
        lines.append(f"    def {method}(self, *given, **named):")
        if thin:
            lines.append(f"        see({where!r}, given, named)")
            lines.append(f"        return {base}.{method}(self, *given, **named)")
        else:
            lines.append(f"        return spied({where!r}, {method!r}, self, given, named)")
    if base == "object":
        lines.append("    def __exit__(self, *given):\n        see_error('__exit__', given, {})")
    return "\n".join(lines)
