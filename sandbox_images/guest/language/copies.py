"""`copy` and other functions that rebuild objects, for restricted programs.

The library's own `copy.deepcopy` is Python code that takes objects apart and puts them together again: through methods
that the program may define, with a memo that the program may bring, and with access to the objects' own `__dict__`.
Here only what a program made is rebuilt, calling nothing of it but `__copy__` and `__deepcopy__`:

    built-in containers     rebuilt, with the same type
    the program's objects   made by the built-in type's own `__new__`; then their attributes and slots, one by one
    immutable values, functions, classes, modules, and foreign objects that reveal nothing: returned as they are
    other library objects   refused: they hold their own state

The memo that `__deepcopy__` gets is an empty dict. Passed on to `deepcopy`, it continues the copy that is under way;
nothing in it is ever looked at.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import operator
import random
import re
import types
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from guest.context import regex, scan
from guest.context.paged import LookAlike
from guest.exact import exact
from guest.language import guards

__all__ = ["asdict", "astuple", "copy", "deepcopy", "never_copied", "replace"]

_UNCHANGEABLE: tuple[type, ...] = (
    *(type(None), type(...), type(NotImplemented), bool, int, float, complex, str, bytes, range, slice, type),
    *(types.FunctionType, types.BuiltinFunctionType, types.MethodWrapperType, types.GenericAlias, types.UnionType),
    *(types.WrapperDescriptorType, types.MethodDescriptorType, property, staticmethod, classmethod, enum.Enum),
    *(datetime.date, datetime.time, datetime.timedelta, datetime.timezone, decimal.Decimal, fractions.Fraction),
    *(re.Pattern, re.Match, regex.Pattern, scan.Match, uuid.UUID, BaseException, types.MethodType, functools.partial),
    *(operator.itemgetter, type(functools.cache(len)), guards.TypeView, guards.TypeFunction, tuple, frozenset),
)
# Library objects that can be rebuilt.
_ANEW: dict[type, Callable[[Any], Any]] = {
    random.Random: lambda value: _dice(value),
    decimal.Context: lambda value: value.copy(),
}
# Library containers, each with the arguments for an empty one like it.
_CONTAINERS: dict[type, Callable[[Any], Any]] = {
    collections.deque: lambda value: ((), vars(collections.deque)["maxlen"].__get__(value)),
    collections.defaultdict: lambda value: (vars(collections.defaultdict)["default_factory"].__get__(value),),
}
_SEQUENCES: tuple[type, ...] = (list, collections.deque)
_FROZEN: tuple[type, ...] = (tuple, frozenset)
_SINGLE: tuple[type, ...] = (str, bytes, int, float, complex)
_Each = Callable[[Any], Any]


class _Memo(dict[Any, Any]):
    """What `__deepcopy__` of a program's class is given: empty, and without effect."""

    __slots__ = ("_copies", "_kept")

    def __init__(self) -> None:
        super().__init__()
        self._copies: dict[int, Any] = {}
        self._kept: list[Any] = []  # an id in `_copies` belongs to an object only as long as the object lives


def copy(value: Any) -> Any:
    """`copy.copy`."""
    hook = _hook(value, "__copy__")
    return hook(value) if hook else _rebuilt(value, _unchanged, lambda new: None)


def deepcopy(value: Any, memo: Any = None, /) -> Any:
    """`copy.deepcopy`. A program's own memo is ignored."""
    return _deep(value, memo if type(memo) is _Memo else _Memo())


def _deep(value: Any, memo: _Memo) -> Any:
    if id(value) in memo._copies:
        return memo._copies[id(value)]
    hook = _hook(value, "__deepcopy__")
    if hook:
        made = hook(value, memo)
    else:
        # Recorded before it is filled, because it may hold itself.
        made = _rebuilt(value, lambda item: _deep(item, memo), lambda new: memo._copies.setdefault(id(value), new))
    memo._copies.setdefault(id(value), made)
    memo._kept.append(value)
    return memo._copies[id(value)]


def _hook(value: Any, name: str) -> Any:
    """The special method, if the value's class is one of the program's own; only such classes may have one."""
    if not guards.is_guest_class(type(value)):
        return None
    found = next((vars(cls)[name] for cls in type(value).__mro__ if name in vars(cls)), None)
    return found if guards.is_guest_function(found) else None


def _unchanged(item: Any) -> Any:
    return item


def _rebuilt(value: Any, each: _Each, made: Callable[[Any], object]) -> Any:
    """`value` rebuilt, with `each` applied to its parts; `made` gets it while it is still empty, where possible."""
    cls = type(value)
    if issubclass(cls, LookAlike):
        return value if value.__class__ is str else value.copy()
    if cls is types.MethodType and guards.is_guest_function(value.__func__):
        return types.MethodType(value.__func__, each(value.__self__))
    own = guards.is_guest_class(cls)
    if not own and (not issubclass(cls, _CONTAINER_TYPES) or (issubclass(cls, _FROZEN) and cls not in _FROZEN)):
        return _as_it_is(value)
    if own and issubclass(cls, enum.Enum):
        return value
    return _filled(value, cls if own else _base(cls), each, made)


def _as_it_is(value: Any) -> Any:
    cls = type(value)
    if cls in _ANEW:
        return _ANEW[cls](value)
    if issubclass(cls, _UNCHANGEABLE) or cls is object:
        return value
    raise TypeError(f"cannot copy this {cls.__name__!r} object here: copy what it holds, or make a new one")


def _dice(value: random.Random) -> random.Random:
    made = random.Random()  # noqa: S311 - the guest's own dice, not a key
    made.setstate(value.getstate())
    return made


def never_copied(*classes: type) -> None:
    """Objects of these library classes are given back as they are."""
    global _UNCHANGEABLE
    _UNCHANGEABLE += classes


_CONTAINER_TYPES: tuple[type, ...] = (*_FROZEN, *_SEQUENCES, set, bytearray, dict)
_BUILT_IN: tuple[type, ...] = (
    *(collections.Counter, collections.OrderedDict, collections.defaultdict, collections.deque),
    *(list, tuple, dict, set, frozenset, bytearray, str, bytes, int, float, complex, object),
)


def _base(cls: type) -> Any:
    """The library's class that says what the object's storage is."""
    if issubclass(cls, BaseException):
        return next(one for one in cls.__mro__ if one.__module__ == "builtins")
    return next(one for one in cls.__mro__ if one in _BUILT_IN)


def _filled(value: Any, cls: type, each: _Each, made: Callable[[Any], object]) -> Any:
    base: Any = _base(cls)
    new: Any
    if issubclass(base, _FROZEN):
        given = [*exact(value)]
        items = [each(item) for item in given]
        if cls is base and all(one is item for one, item in zip(items, given, strict=True)):
            return value
        new = base.__new__(cls, items)
    elif issubclass(base, _SINGLE):
        new = base.__new__(cls, exact(value))
    elif issubclass(base, BaseException):
        new = base.__new__(cls, *vars(BaseException)["args"].__get__(value))
    else:
        new = _empty(value, base, cls)
    made(new)
    _fill(new, value, base, each)
    _copy_attributes(new, value, each)
    return new


def _empty(value: Any, base: Any, cls: type) -> Any:
    new = base.__new__(cls)
    if base in _CONTAINERS:
        base.__init__(new, *_CONTAINERS[base](value))
    return new


def _fill(new: Any, value: Any, base: Any, each: _Each) -> None:
    if issubclass(base, _SEQUENCES):
        base.extend(new, [each(item) for item in base.__iter__(value)])
    elif issubclass(base, set):
        set.update(new, [each(item) for item in set.__iter__(value)])
    elif issubclass(base, bytearray):
        bytearray.extend(new, exact(value))
    elif issubclass(base, dict):
        items = collections.OrderedDict.items if issubclass(base, collections.OrderedDict) else dict.items
        put = collections.OrderedDict.__setitem__ if issubclass(base, collections.OrderedDict) else dict.__setitem__
        for key, item in [*items(value)]:
            put(new, each(key), each(item))


def _copy_attributes(new: Any, value: Any, each: _Each) -> None:
    """What stands in the instance's dict and slots: names that the guards have seen when they were set."""
    own = _dict_of(value)
    if own:
        _dict_of(new).update({name: each(item) for name, item in [*own.items()]})
    for slot in _slots_of(type(value)):
        try:
            item = slot.__get__(value)
        except AttributeError:
            continue
        slot.__set__(new, each(item))


def _dict_of(value: Any) -> dict[str, Any]:
    try:
        own: dict[str, Any] = object.__getattribute__(value, "__dict__")
        return own
    except AttributeError:
        return {}


def _slots_of(cls: type) -> Iterable[Any]:
    for owner in cls.__mro__:
        if guards.is_guest_class(owner):
            for value in [*vars(owner).values()]:
                if type(value) is types.MemberDescriptorType and value.__objclass__ is owner:
                    yield value


# ---------------------------------------------------------------------------------------------------------------------
# Dataclasses


def asdict(obj: Any, *, dict_factory: Callable[[list[tuple[str, Any]]], Any] = dict) -> Any:
    """`dataclasses.asdict`."""
    _need_instance(obj, "asdict")
    return _taken_apart(obj, dict_factory)


def astuple(obj: Any, *, tuple_factory: Callable[[list[Any]], Any] = tuple) -> Any:
    """`dataclasses.astuple`."""
    _need_instance(obj, "astuple")
    return _taken_apart(obj, lambda pairs: tuple_factory([item for _, item in pairs]))


def replace(obj: Any, /, **changes: Any) -> Any:
    """`dataclasses.replace`."""
    _need_instance(obj, "replace")
    # The last class with a field decides its name, whatever other classes have: read it as the program would.
    fields: dict[str, Any] = type(obj).__dataclass_fields__
    for field in [*fields.values()]:
        name, kind = field.name, field._field_type.name
        if kind == "_FIELD_CLASSVAR":
            continue
        if name in changes and not field.init:
            raise ValueError(f"field {name} is declared with init=False, it cannot be specified with replace()")
        if field.init and name not in changes:
            if kind == "_FIELD_INITVAR" and field.default is dataclasses.MISSING:
                raise ValueError(f"InitVar {name!r} must be specified with replace()")
            changes[name] = guards.guest_getattr(obj, name)
    return type(obj)(**changes)


def _need_instance(obj: Any, what: str) -> None:
    if not _is_own_dataclass(obj):
        raise TypeError(f"{what}() should be called on dataclass instances")


def _is_own_dataclass(obj: Any) -> bool:
    return guards.is_guest_class(type(obj)) and dataclasses.is_dataclass(type(obj))


def _taken_apart(value: Any, whole: Callable[[list[tuple[str, Any]]], Any]) -> Any:
    if _is_own_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return whole([(name, _taken_apart(guards.guest_getattr(value, name), whole)) for name in names])
    if issubclass(type(value), dict):
        return _dict_taken_apart(value, whole)
    if not issubclass(type(value), (list, tuple)):
        return deepcopy(value)
    base: Any = list if issubclass(type(value), list) else tuple
    items = [_taken_apart(item, whole) for item in base.__iter__(value)]
    return tuple.__new__(type(value), items) if hasattr(type(value), "_fields") else type(value)(items)


def _dict_taken_apart(value: dict[Any, Any], whole: Callable[[list[tuple[str, Any]]], Any]) -> Any:
    base, own = _base(type(value)), guards.is_guest_class(type(value))
    pairs = [(_taken_apart(key, whole), _taken_apart(item, whole)) for key, item in exact(value).items()]
    if own and base is not collections.defaultdict:
        return type(value)(pairs)
    made = _empty(value, base, type(value) if own else base)
    for key, item in pairs:
        base.__setitem__(made, key, item)
    return made
