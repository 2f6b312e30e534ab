"""What a restricted program may ever hold, judged from outside the guards: by identity and by real type.

A fuzzer cannot know every hole, but it can know what must never come out of one. `Oracle.danger` says of any object
why no program may see it, or nothing. Allowed are

    plain values and containers of them; what the program made itself (its classes carry the guards' mark)
    what a facade, the built-in names and the given names hand out, and the types that the facade walk has reviewed

and nothing else: no module, frame, code or traceback; no part of the agent; no function or class that nobody handed
out; no container that lives inside somebody else's object (its `__dict__`, a table of its class), for a program could
write into it. `Watch` is the other half: it compares what belongs to others before and after.
"""

from __future__ import annotations

import _abc  # type: ignore[import-not-found]
import contextlib
import gc
import itertools
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator
from typing import Any

from guest.language import facades, guards

__all__ = ["C_DESCRIPTORS", "Oracle", "Watch", "differences", "is_guest_made", "state_of"]

_ATOMS = frozenset({int, float, complex, bool, str, bytes, bytearray, range, slice, types.NoneType, types.EllipsisType})
_ATOMS |= {types.NotImplementedType, object}
_NEVER = {
    types.ModuleType,
    types.FrameType,
    types.CodeType,
    types.TracebackType,
    types.CellType,
    type,
    guards._Formatter,
}
_MUTABLE = (dict, list, set, deque, Counter, OrderedDict, defaultdict, bytearray)
_CONTAINERS = (*_MUTABLE, tuple, frozenset)
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_C_CALLABLES = (types.BuiltinMethodType, types.MethodWrapperType)
C_DESCRIPTORS = (
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)
# Parts of the agent. Nothing of theirs is for programs but the given names, which are allowed by identity.
_AGENT = (
    *("guest.agent.loop", "guest.agent.wire", "guest.agent.names", "guest.agent.contexts"),
    *("guest.box.enclosure", "guest.box.boot", "guest.context.pages"),
)
# The wall's own closures are handed out by design: `attrgetter("x")`, `"{}".format`.
_WALL = (
    *("guest.language.guards", "guest.language.facades", "guest.language.restricted"),
    *("guest.context.wrappers", "guest.context.regex", "guest.context.paged"),
)
# Results that no sample of the facade walk has, each looked at by a person: values, and decorators' inner functions.
_REVIEWED = """
    builtins.memoryview builtins.odict_items builtins.odict_keys builtins.odict_values _io._BytesIOBuffer
    contextlib.ContextDecorator.__call__.<locals>.inner datetime.IsoCalendarDate dataclasses.Field decimal.DecimalTuple
    decimal.SignalDict difflib.Match guest.language.copies._Memo _abc._abc_data
    functools.lru_cache.<locals>.decorating_function
    functools.lru_cache.<locals>.decorating_function.<locals>.<lambda>
    guest.agent.names.Budget guest.agent.names.Coverage guest.agent.names.CutAnswer guest.context.pushdown.Hit
    guest.context.pushdown.Hits
    statistics.LinearRegression _sre.SRE_Scanner
    urllib.parse.ParseResult urllib.parse.ParseResultBytes urllib.parse.SplitResult urllib.parse.SplitResultBytes
"""
# Special names in the classes of programs that may be there: what guards allow, and what the library writes itself.
_WRITTEN = """
    __abstractmethods__ __annotations__ __class_getitem__ __dataclass_fields__ __dataclass_params__ __delattr__ __dict__
    __doc__ __firstlineno__ __getnewargs__ __getstate__ __match_args__ __module__ __new_member__
    __orig_bases__ __parameters__ __qualname__ __reduce_ex__ __replace__ __setattr__ __setstate__ __slots__
    __static_attributes__ __weakref__
"""
_WRITTEN_BY_PYTHON = {"__notes__", "__objclass__", "__slotnames__"}
_WRITTEN_BY_LIBRARY = guards.METHOD_DUNDERS | set(_WRITTEN.split())
# Iterators over the program's own values.
_ITERATORS = ("builtins", "itertools", "collections", "_collections")
# Where a container inside one of these is the program's own: it put it there.
_OPEN_HOLDERS = ("partial", "ChainMap", "ContextManager", "Thread", "Future", "_WorkItem")
_DEPTH_MAX = 3
_ITEMS_MAX = 50


def is_guest_made(value: Any) -> bool:
    """Whether the program made this object, its class or its function."""
    kind = type(value)
    if getattr(kind, guards.MARK, None) is guards.TOKEN:
        return True
    return guards.is_guest_class(value) or guards.is_guest_function(value)


class Oracle:
    """Made before the world that it judges: what exists by then belongs to the library or to the agent."""

    def __init__(self) -> None:
        self._owned = {id(one): one for one in _all_containers()}
        self._allowed: dict[int, Any] = {}
        self._types: set[type] = set()
        self._codes: set[types.CodeType] = set()
        self._dicts_seen: set[object] = set()

    def allow(self, values: Iterable[Any]) -> None:
        """These objects are handed out as they are."""
        for value in values:
            self._allowed[id(value)] = value

    def learn(self, values: Iterable[Any]) -> None:
        """The types of these objects, and the functions among them, are known: they have been looked at."""
        for value in values:
            if type(value) is types.FunctionType:
                self._codes.add(value.__code__)
            elif type(value) not in _NEVER and type(value).__module__ not in _AGENT:
                self._types.add(type(value))

    def danger(self, value: Any, given: frozenset[int] = frozenset(), depth: int = 0) -> str | None:
        """Why no program may hold `value`, or None. `given` are the identities of what the program itself gave."""
        kind = type(value)
        if kind in _ATOMS or id(value) in self._allowed:
            return None
        if kind in _NEVER or issubclass(kind, type):
            return self._danger_of_class(value) if issubclass(kind, type) else f"a {kind.__name__}"
        if is_guest_made(value):
            return self._danger_of_planted(value)
        if kind in _CONTAINERS:
            return self._danger_of_container(value, given, depth)
        if issubclass(kind, BaseException):
            return self._danger_of_items(value.args, given, depth)
        return self._danger_of_callable(value, given, depth)

    def _danger_of_planted(self, value: Any) -> str | None:
        """A special method on what the program made, under a name that no guard lets it write."""
        cls = value if isinstance(value, type) else type(value)
        names = {
            name for one in cls.__mro__ if guards.is_guest_class(one) for name in one.__dict__
        } - _WRITTEN_BY_LIBRARY
        own = {} if isinstance(value, type) or guards.is_guest_function(value) else state_of(value)
        planted = [name for name in names if guards.is_dunder(name)] + [name for name in own if guards.is_dunder(name)]
        return f"{sorted(planted)} planted in a class of the program" if set(planted) - _WRITTEN_BY_PYTHON else None

    def _danger_of_class(self, value: Any) -> str | None:
        if value in guards._TYPES or issubclass(value, BaseException) or is_guest_made(value):
            return None
        return f"the class {value.__module__}.{value.__qualname__}"

    def _danger_of_container(self, value: Any, given: frozenset[int], depth: int) -> str | None:
        if id(value) in self._owned and not isinstance(value, (tuple, frozenset)):
            return f"a {type(value).__name__} that belongs to the library or the agent: {value!r:.80}"
        if type(value) is dict and id(value) not in given and value and (holder := self._holder(value)):
            return f"the live dict of {holder}: {list(value)!r:.80}"
        items = itertools.chain(value, value.values()) if isinstance(value, dict) else value
        return self._danger_of_items(items, given, depth)

    def _danger_of_items(self, items: Iterable[Any], given: frozenset[int], depth: int) -> str | None:
        if depth >= _DEPTH_MAX:
            return None
        for item in list(itertools.islice(items, _ITEMS_MAX)):
            why = self.danger(item, given, depth + 1)
            if why is not None:
                return f"inside: {why}"
        return None

    def _holder(self, value: dict[Any, Any]) -> str | None:
        """The foreign object inside which this dict lives."""
        keys = frozenset(key for key in value if type(key) is str)
        if keys in self._dicts_seen:
            return None
        for holder in gc.get_referrers(value):
            kind = type(holder)
            if isinstance(holder, (*_CONTAINERS, type, types.FrameType, types.FunctionType, types.CellType)):
                continue
            if not is_guest_made(holder) and kind.__name__ not in _OPEN_HOLDERS and _keeps(holder, value):
                return f"a {kind.__module__}.{kind.__qualname__}"
        self._dicts_seen.add(keys)
        return None

    def _danger_of_callable(self, value: Any, given: frozenset[int], depth: int) -> str | None:
        kind = type(value)
        if kind is types.FunctionType:
            # `wraps` gives a library's inner function the module and the name of the program's.
            name = f"{value.__globals__.get('__name__')}.{value.__code__.co_qualname}"
            known = (
                value.__globals__.get("__name__") in _WALL or value.__code__ in self._codes or name in _REVIEWED.split()
            )
            return None if known else f"the function {name}"
        if kind is types.MethodType:
            if any(value == known for known in self._allowed.values() if type(known) is types.MethodType):
                return None
            if _is_of_metaclass(value):
                return f"{value.__name__} of a metaclass"
            return self._danger_of_owner(value.__self__, given, depth)
        if kind in _C_CALLABLES:
            return self._danger_of_builtin(value, given, depth)
        if kind in C_DESCRIPTORS or kind in _VIEWS or kind in self._types or kind in guards._TYPES:
            return None
        if hasattr(kind, "__next__") and kind.__module__ in _ITERATORS:
            return None
        name = f"{kind.__module__}.{kind.__qualname__}"
        return None if name in _REVIEWED.split() else f"a {name}"

    def _danger_of_builtin(self, value: Any, given: frozenset[int], depth: int) -> str | None:
        owner = value.__self__
        if type(owner) is types.ModuleType:
            known = any(value == one for one in self._allowed.values() if type(one) is types.BuiltinFunctionType)
            return None if known else f"the function {owner.__name__}.{value.__name__}"
        if value.__name__ in ("format", "format_map") and isinstance(owner, str):
            return "str.format of a string"
        return self._danger_of_owner(owner, given, depth)

    def _danger_of_owner(self, owner: Any, given: frozenset[int], depth: int) -> str | None:
        """Of what a method is bound to: a class may be anybody's, for nothing gives it, but no metaclass."""
        if isinstance(owner, type):
            return "a method of a metaclass" if issubclass(owner, type) else None
        return self.danger(owner, given, depth + 1)


def _is_of_metaclass(method: types.MethodType) -> bool:
    """A method of a class's class. Special ones are what syntax calls anyhow."""
    if not isinstance(method.__self__, type) or method.__name__ in guards.METHOD_DUNDERS:
        return False
    every = (one for cls in type.mro(type(method.__self__)) for one in vars(cls).values())
    return any(method.__func__ is one for one in every)


def _keeps(holder: Any, value: object) -> bool:
    """Whether the object itself refers to the dict, as `__dict__` or in a slot: not the oracle's own variables."""
    return type(holder).__module__ not in ("tests.fuzz.oracle", "tests.fuzz.world") and any(
        one is value for one in gc.get_referents(holder)
    )


def _all_containers() -> Iterator[Any]:
    """Every list, dict and set of the process. Those of plain values are not tracked, but something refers to them."""
    seen: set[int] = set()
    for tracked in gc.get_objects():
        for one in (tracked, *gc.get_referents(tracked)):
            if type(one) in _MUTABLE and id(one) not in seen:
                seen.add(id(one))
                yield one


# ---------------------------------------------------------------------------------------------------------------------
# What belongs to others


def state_of(value: Any) -> dict[str, Any]:
    """The attributes that an object of the library holds: in its `__dict__` and in the slots of its classes."""
    held: dict[str, Any] = {}
    if isinstance(value, type):
        return dict(value.__dict__)
    for cls in type(value).__mro__:
        for name, member in cls.__dict__.items():
            if type(member) is types.MemberDescriptorType and not guards.is_dunder(name):
                try:
                    held[name] = member.__get__(value)
                except (AttributeError, TypeError):
                    continue
    with contextlib.suppress(AttributeError):
        held |= object.__getattribute__(value, "__dict__")
    return held


class Watch:
    """The namespaces of the facades, of the classes that are handed out, and of the agent's own objects."""

    def __init__(self, classes: Iterable[type], others: Iterable[Any]) -> None:
        every = {base for cls in classes for base in cls.__mro__ if not guards.is_guest_class(base)}
        self._classes = sorted(every, key=lambda cls: (cls.__module__, cls.__qualname__))
        self._others = list(others)
        self._saved = self._now()

    def _now(self) -> list[tuple[str, dict[str, Any]]]:
        now = [(f"{cls.__module__}.{cls.__qualname__}", dict(cls.__dict__)) for cls in self._classes]
        for cls in self._classes:
            if "_abc_impl" in cls.__dict__:
                known = {id(one()) for one in _abc._get_dump(cls)[0]}
                now.append((f"the register of {cls.__qualname__}", dict.fromkeys(map(str, known))))
        return now + [
            (f"{one!r:.60}" if type(one) is facades.Facade else type(one).__name__, state_of(one))
            for one in self._others
        ]

    def changes(self) -> list[str]:
        """What has changed since the last look, as sentences."""
        now, before = self._now(), self._saved
        self._saved = now
        return [
            change for (what, old), (_, new) in zip(before, now, strict=True) for change in differences(what, old, new)
        ]


def differences(what: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Names whose objects are not the same ones."""
    names = [
        name
        for name in (old.keys() | new.keys()) - _CACHES
        if old.get(name, names_nothing) is not new.get(name, names_nothing)
    ]
    return [f"{name} of {what} was changed" for name in sorted(names)]


names_nothing = object()
# What the interpreter keeps in a class for itself, and how far a reader of the module csv has read.
_CACHES = {"__slotnames__", "__annotations__", "line_num"}
