"""What restricted code may touch at run time: attributes, classes, writes, formatting.

The compile step (see `restricted`) decides by *name*; this file decides by *object*. The two meet in
`kind_of`, which sorts every attribute name into one of a few kinds:

    plain    `x.append`          read as it is; only the result is looked at (`checked`)
    private  `x._items`          only on objects and classes that the guest program made itself
    special  `x.format`, `x.obj` a harmless name on most objects, a way out on a few (`special`)
    dunder   `x.__name__`        a short list, each with its own rule (`dunder`)
    denied   `x.gi_frame`        never, with advice on what to write instead

Four rules keep the guest inside:

1. No attribute is ever looked up by a name that the guest chose and `kind_of` did not see. Whatever does such
   look-ups in C (`str.format`, `operator.attrgetter`, `__match_args__`, `update_wrapper`) is replaced or refused.
2. Attributes are written only on what the guest made: instances of its classes, its classes, its functions. Guest
   classes carry a mark under a name that cannot be an identifier, so it can be neither forged nor removed.
3. Guards are in the builtins mapping under names that start with a dot, for the same reason.
4. A function that is written in Python and belongs to a class (a library's method, or one that `@dataclass` generated)
   reads and writes hidden attributes of its first argument. Taken from the class, it works only on that class's own
   instances (`_tied`); C functions check that themselves. Such functions are taken only through these guards.

What is checked is what is used: a value is looked up once, and a mutable one is copied before it is checked.

Guards decide with `type(x)` and exact types, never with `isinstance`, where a guest object would have a say.
"""

import abc
import builtins
import contextlib
import enum
import functools
import itertools
import re
import string
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from RestrictedPython.transformer import INSPECT_ATTRIBUTES

from guest.context import regex
from guest.context.paged import plain
from guest.exact import exact_text

__all__ = [
    "MARK",
    "METHOD_DUNDERS",
    "TOKEN",
    "AttributeView",
    "Kind",
    "TypeFunction",
    "TypeView",
    "allow_subclassing",
    "allow_type",
    "allow_writing",
    "build_class",
    "check_fields",
    "check_inherited",
    "checked",
    "denial",
    "dunder",
    "guest_delattr",
    "guest_dir",
    "guest_getattr",
    "guest_hasattr",
    "guest_setattr",
    "guest_super",
    "guest_vars",
    "is_class_like",
    "is_dunder",
    "is_guest_class",
    "is_guest_function",
    "is_hidden_in",
    "is_method_of",
    "kind_of",
    "library_classes",
    "mark_class",
    "private",
    "register_base_form",
    "safe_format",
    "safe_format_map",
    "show_type",
    "special",
    "tie_generated",
    "writable",
]

# The mark of classes and of the namespace of guest programs. An identifier cannot have a dot.
MARK = ".guest"
TOKEN = object()

_READABLE_DUNDERS = frozenset(
    {"__class__", "__name__", "__qualname__", "__doc__", "__dict__", "__cause__", "__context__"}
)
_READABLE_DUNDERS |= {"__members__", "__annotations__", "__setattr__", "__wrapped__"}
_WRITABLE_DUNDERS = frozenset({"__name__", "__qualname__", "__doc__"})  # of what the guest made: decorators set them

_METHODS = """
    init new post_init str repr format bytes eq ne lt le gt ge hash bool len length_hint
    iter next reversed getitem setitem delitem missing contains call enter exit copy deepcopy
    neg pos abs invert int float complex index round trunc floor ceil
"""
_ARITHMETIC = "add sub mul matmul truediv floordiv mod divmod pow lshift rshift and or xor"
METHOD_DUNDERS = frozenset(f"__{name}__" for name in _METHODS.split()) | frozenset(
    f"__{prefix}{name}__" for name in _ARITHMETIC.split() for prefix in ("", "r", "i")
)
"""Special methods that a guest class may define, and that may be named on guest objects and through `super()`."""

_FORMATS = frozenset({"format", "format_map"})
_TEXT_READERS = frozenset({"expand", "strptime"})
_SPECIAL = _FORMATS | _TEXT_READERS | {"join", "obj", "register"}
_DENIED = INSPECT_ATTRIBUTES | {
    "mro",
    "with_traceback",
    "cr_frame",
    "cr_code",
    "ag_frame",
    "ag_code",
    "gi_frame",
    "gi_code",
    "tb_frame",
    "tb_next",
    "f_globals",
    "f_locals",
    "f_builtins",
    "f_code",
    "f_back",
}
_ADVICE = {
    "__subclasses__": "list the classes that you need yourself",
    "__traceback__": "use str(e), or traceback.format_exc()",
    "__getattr__": "keep the values in a dict, or define properties",
    "__getattribute__": "keep the values in a dict, or define properties",
    "__setattr__": "use setattr(obj, name, value) or a plain assignment",
    "__delattr__": "use del obj.name",
    "__module__": "leave it out",
    "__bases__": "use isinstance() or issubclass()",
    "__mro__": "use isinstance() or issubclass()",
    "__dataclass_fields__": "use dataclasses.fields(obj)",
    "__wrapped__": "keep a reference to the inner function yourself",
    "__len__": "use len(obj)",
    "__match_args__": "match by keyword: case Point(x=0)",
    "__del__": "use try/finally or a with block",
    "__reduce__": "use copy.deepcopy, or json",
    "__reduce_ex__": "use copy.deepcopy, or json",
    "__init_subclass__": "use a class decorator",
    "__set_name__": "use a property",
    "mro": "use isinstance() or issubclass()",
    "with_traceback": "use raise ... from error",
}

type_of = type  # `type` itself: the guest's name of the same spelling is `TypeFunction`


class Kind(enum.Enum):
    """The sort of an attribute name; see the top of the file."""

    PLAIN = "plain"
    PRIVATE = "private"
    SPECIAL = "special"
    DUNDER = "dunder"
    DENIED = "denied"


def is_dunder(name: str) -> bool:
    """Whether `name` is of the form `__name__`; underscores alone are an ordinary name."""
    return name.startswith("__") and name.endswith("__") and len(name) > 4 and name.strip("_") != ""


def kind_of(name: str) -> Kind:
    """Sort an attribute name (an exact `str`)."""
    if name.startswith("_"):
        if is_dunder(name):
            return Kind.DUNDER if name in _READABLE_DUNDERS or name in METHOD_DUNDERS else Kind.DENIED
        return Kind.PRIVATE if name.isidentifier() else Kind.DENIED
    if name in _DENIED or not name.isidentifier():
        return Kind.DENIED
    return Kind.SPECIAL if name in _SPECIAL else Kind.PLAIN


def denial(name: str) -> str:
    """The message for a program that asked for the attribute `name`."""
    advice = _ADVICE.get(name, "use the object's public methods, len(), str(), type(x).__name__ or isinstance()")
    return f"the attribute {name[:80]!r} is not available here: {advice}"


# ---------------------------------------------------------------------------------------------------------------------
# Reading attributes

_LOOKED_AT_TYPES = frozenset(
    {
        *(types.ModuleType, types.CodeType, types.FrameType, types.CellType),
        *(types.TracebackType, types.FunctionType, types.MappingProxyType, re.Pattern),
    }
)


def checked(value: object) -> object:
    """The result of a plain attribute read. The one guard on the hot path, so it does one set look-up."""
    if type_of(value) in _LOOKED_AT_TYPES or value is type_of:
        return _looked_at(value)
    return value


def _looked_at(value: object) -> object:
    if type_of(value) is types.FunctionType:
        return _free_or_tied(value)
    if type_of(value) is types.MappingProxyType:
        return types.MappingProxyType({**value})  # the original hands its own dict to whatever it is compared with
    if type_of(value) is re.Pattern:
        return regex.Pattern(value)  # the engine's own parses templates of any class in Python
    raise AttributeError(f"a {type_of(value).__name__} object is not available here")


# Methods of library classes that the guest may hold, by function: the class whose instances they are for.
_OWNERS: dict[types.FunctionType, type] = {}
# Under this name a generated method holds its class, and so lives as long as the class.
_OWNER = ".owner"


def _free_or_tied(function: types.FunctionType) -> object:
    """A function read as an attribute: the guest's own and a facade's unchanged, a method tied to its class."""
    if function.__globals__.get(MARK) is TOKEN:
        return function
    owner = _OWNERS.get(function) or function.__dict__.get(_OWNER)
    if owner is not None:
        return _tied(function, owner)
    written = function.__code__.co_qualname  # its original name: `functools.wraps` changes the other
    if "." in written and "<locals>" not in written:
        raise AttributeError(f"the method {written!r} is not available here: call it on an object")
    return function


def _tied(function: types.FunctionType, owner: type) -> Callable[..., object]:
    """A method as taken from a class: only for instances of that class."""

    def method(subject: object, /, *args: object, **kwargs: object) -> object:
        cls = subject if function.__name__ == "__new__" else type_of(subject)
        if not isinstance(cls, type_of) or owner not in _order_of(cls):
            raise TypeError(f"{method.__name__!r} of {_name_of(owner)} works only on its own objects")
        return function(subject, *args, **kwargs)

    method.__name__ = method.__qualname__ = function.__name__
    return method


_order_of: Callable[[type], tuple[type, ...]] = type_of.__dict__["__mro__"].__get__


def _methods_of(cls: type) -> Iterable[types.FunctionType]:
    """The Python functions that a class has as methods or behind properties."""
    for name, value in (*vars(cls).items(),):
        yield from _functions_in(name, value)


def _functions_in(name: str, value: object) -> Iterable[types.FunctionType]:
    parts: tuple[object, ...] = (value,)
    if type_of(value) is property:
        parts = (value.fget, value.fset, value.fdel)
    elif type_of(value) is functools.cached_property or (type_of(value) is staticmethod and name == "__new__"):
        parts = (getattr(value, "func", None), getattr(value, "__func__", None))
    return (part for part in parts if type_of(part) is types.FunctionType)


def _tie_methods(cls: type) -> None:
    for owner in _order_of(cls):
        for function in _methods_of(owner):
            _OWNERS.setdefault(function, owner)


def _checked_of(found: object, order: Iterable[type]) -> object:
    """The result of a read from one of these classes: a Python function that is not the guest's is tied to it."""
    if type_of(found) is types.FunctionType and not is_guest_function(found):
        owner = next((cls for cls in order if any(found is one for one in _methods_of(cls))), None)
        if owner is not None:
            return _tied(found, owner)
    return checked(found)


def is_class_like(value: object) -> bool:
    """Whether it is a class, or stands in for one in `isinstance(x, value)`."""
    return isinstance(value, type_of) or type_of(value) in (TypeView, TypeFunction) or type_of(value) in _BASE_FORMS


def is_guest_class(cls: object) -> bool:
    """Whether `cls` is a class that the guest program made."""
    return isinstance(cls, type_of) and getattr(cls, MARK, None) is TOKEN


def is_guest_function(value: object) -> bool:
    """Whether `value` is a function that the guest program defined."""
    return type_of(value) is types.FunctionType and value.__globals__.get(MARK) is TOKEN


def _is_guest_made(value: object) -> bool:
    return getattr(type_of(value), MARK, None) is TOKEN or is_guest_class(value)


_NAMED_TUPLE = frozenset({"_asdict", "_fields", "_replace"})  # public in all but name


def private(value: object, name: str) -> object:
    """Read `_name`: on the guest's own objects, classes and functions, and through `super()`.

    What a guest class inherits from the library, or from a metaclass, stays out of reach: some private methods there
    take a module's name and hand out its contents (`EnumType._convert_`).
    """
    if is_guest_function(value):
        return checked(getattr(value, name))
    if name in _NAMED_TUPLE and issubclass(type_of(value), tuple):
        return checked(getattr(value, name))
    order = _lookup_order(value)
    owner, found = _looked_up(order, name)
    own = _own_attributes(value) if order and type_of(value) is not super else {}
    if name in own and not hasattr(type_of(found), "__set__"):
        return checked(own[name])
    if owner is not None and MARK in owner.__dict__:
        return _as_read(value, found, owner)
    if order and owner is None:
        raise AttributeError(f"{_name_of_type(value)!r} object has no attribute {name!r}")
    raise AttributeError(
        f"the private attribute {name!r} of {_name_of_type(value)!r} objects is not available here: "
        "names with a leading underscore are for your own classes"
    )


_super_class: Callable[[object], type] = super.__dict__["__thisclass__"].__get__
_super_self_class: Callable[[object], type] = super.__dict__["__self_class__"].__get__
_super_self: Callable[[object], object] = super.__dict__["__self__"].__get__


def _lookup_order(value: object) -> tuple[type, ...]:
    """The classes in which an attribute of `value` is looked up, if its class is the guest's; else none."""
    if type_of(value) is super:
        order = _super_self_class(value).__mro__
        return order[order.index(_super_class(value)) + 1 :]
    cls = value if isinstance(value, type_of) else type_of(value)
    return cls.__mro__ if getattr(cls, MARK, None) is TOKEN else ()


def _looked_up(order: tuple[type, ...], name: str) -> tuple[type | None, object]:
    """The first class that has the name, and its value: looked up once, so nothing changes after the check."""
    nothing = object()
    for cls in order:
        found = cls.__dict__.get(name, nothing)
        if found is not nothing:
            return cls, found
    return None, None


def _own_attributes(value: object) -> Mapping[str, object]:
    """The attributes of an instance itself, not of its class."""
    if isinstance(value, type_of):
        return {}
    try:
        return object.__getattribute__(value, "__dict__")  # type: ignore[no-any-return]
    except AttributeError:
        return {}


def _as_read(value: object, found: object, owner: type) -> object:
    """The result of reading `found`, which is in the class `owner`: functions bind, properties are called."""
    bind = getattr(type_of(found), "__get__", None)
    if bind is None:
        return checked(found)
    instance, cls = (None, value) if isinstance(value, type_of) else (value, type_of(value))
    if type_of(value) is super:
        instance, cls = _super_self(value), _super_self_class(value)
        instance = None if instance is cls else instance
    return _checked_of(bind(found, instance, cls), (owner,))


def special(value: object, name: str) -> object:
    """Read a name of `_SPECIAL`."""
    if name in _TEXT_READERS:
        return _read_text_reader(value, name)
    if name == "obj":
        return _read_obj(value)
    if name == "join":
        return _read_join(value.join)  # type: ignore[attr-defined]
    if name == "register":
        return _read_register(value)
    found = getattr(value, name)
    if type_of(found) is types.BuiltinMethodType and issubclass(type_of(found.__self__), str):
        return functools.partial(_FORMAT_FUNCTIONS[name], found.__self__)
    if type_of(found) is types.MethodDescriptorType and found.__objclass__ is str:
        return _FORMAT_FUNCTIONS[name]
    if _is_guest_made(value) or not callable(found) or _is_guest_method(found):
        return checked(found)
    if isinstance(value, str):  # a paged text, which only claims to be a str
        return functools.partial(_FORMAT_FUNCTIONS[name], str(value))
    raise AttributeError(f"{name!r} of {_name_of_type(value)!r} objects is not available here: use an f-string")


def _read_text_reader(value: object, name: str) -> object:
    # The library parses these texts in Python and caches the result, so it must get no text of a program's own class.
    found: Any = getattr(value, name)
    methods = (types.BuiltinMethodType, types.MethodDescriptorType, types.MethodType)
    if type_of(found) not in methods or _is_guest_method(found):
        return checked(found)
    return lambda *args, **options: found(*map(exact_text, args), **{key: exact_text(options[key]) for key in options})


def _read_join(found: Any) -> object:
    """`str.join` that also takes look-alikes of texts, which the C code would refuse."""
    if type_of(found) is types.BuiltinMethodType and issubclass(type_of(found.__self__), str):
        return functools.partial(_join, found)
    if type_of(found) is types.MethodDescriptorType and found.__objclass__ is str:
        return lambda text, parts: _join(str(text).join, parts)
    return checked(found)


def _join(join: Callable[[Iterable[Any]], str], parts: Iterable[Any], /) -> str:
    listed = parts if type_of(parts) in (list, tuple) else [*parts]
    with contextlib.suppress(TypeError):
        return join(listed)
    return join([plain(part) for part in listed])


def _is_guest_method(value: object) -> bool:
    return type_of(value) is types.MethodType and is_guest_function(value.__func__)


def _read_obj(value: object) -> object:
    # An AttributeError raised inside a library function carries whatever object that function was looking at.
    cls = value if isinstance(value, type_of) else type_of(value)
    if cls is super or issubclass(cls, AttributeError):
        raise AttributeError("the attribute 'obj' of an AttributeError is not available here: use str(e)")
    return checked(value.obj)  # type: ignore[attr-defined]


def _read_register(value: object) -> object:
    # Virtual subclasses would let the guest decide what the library takes for a Mapping, or for one of its own classes.
    found = value.register  # type: ignore[attr-defined]
    if type_of(found) is not types.MethodType or found.__func__ is not abc.ABCMeta.register:
        return checked(found)

    def register(cls: type) -> type:
        if not is_guest_class(value) or not is_guest_class(cls):
            raise TypeError("register() takes classes of your own: use isinstance() with the class itself")
        return found(cls)  # type: ignore[no-any-return]

    return register


def dunder(value: object, name: str) -> object:
    """Read one of the few permitted `__names__`."""
    if name in METHOD_DUNDERS:
        return _read_method(value, name)
    if name == "__class__":
        return TYPE(value)
    if name == "__setattr__" and value is object:
        return _set_on_frozen
    if name == "__dict__":
        return guest_vars(value)
    if name == "__setattr__":
        raise AttributeError(denial(name))
    found = getattr(value, name)
    if name in ("__cause__", "__context__"):
        allowed = found is None or issubclass(type_of(found), BaseException)
    elif name == "__wrapped__":
        allowed = is_guest_function(found)
    elif name == "__members__":
        allowed = is_guest_class(value) and type_of(found) is types.MappingProxyType
        found = checked(found)
    elif name == "__annotations__":
        allowed = is_guest_class(value) or is_guest_function(value)
        found = dict(found) if allowed else None
    else:
        allowed = found is None or type_of(found) is str
    if not allowed:
        raise AttributeError(denial(name))
    return found


# What syntax can do to any object anyway.
_SYNTAX = METHOD_DUNDERS & {"__iter__", "__next__", "__len__", "__getitem__", "__contains__", "__str__", "__repr__"}
_SYNTAX |= {"__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__"}
_PLAIN_VALUES = (int, float, complex, bool, str, bytes, bytearray, list, tuple, dict, set, frozenset, range)


def _read_method(value: object, name: str) -> object:
    """`obj.__len__`, `Base.__init__`, `super().__init__`: on the guest's own, on plain values, on permitted bases."""
    cls = type_of(value)
    if not (
        name in _SYNTAX or _is_guest_made(value) or cls is super or cls in _PLAIN_VALUES or _is_permitted_base(value)
    ):
        raise AttributeError(denial(name))
    order = _lookup_order(value) or _order_of(value if isinstance(value, type_of) else cls)
    return _checked_of(getattr(value, name), order)


def guest_getattr(value: object, name: str, *default: object) -> object:
    """The guest's `getattr`: the same rules as for `value.name`."""
    if len(default) > 1:
        raise TypeError("getattr expected at most 3 arguments")
    try:
        return _read(value, name)
    except AttributeError:
        if default:
            return default[0]
        raise


def _read(value: object, name: str) -> object:
    if type_of(name) is not str:
        raise TypeError("attribute name must be a plain string")
    kind = kind_of(name)
    if kind is Kind.PLAIN:
        return checked(getattr(value, name))
    if kind is Kind.PRIVATE:
        return private(value, name)
    if kind is Kind.SPECIAL:
        return special(value, name)
    if kind is Kind.DUNDER:
        return dunder(value, name)
    raise AttributeError(denial(name))


def guest_hasattr(value: object, name: str) -> bool:
    """The guest's `hasattr`. It answers for special methods of any object, because nothing is handed out."""
    if type_of(name) is str and name in METHOD_DUNDERS:
        return hasattr(value, name)
    try:
        _read(value, name)
    except AttributeError:
        return False
    return True


def guest_dir(value: object) -> list[str]:
    """The guest's `dir(value)`: the names that it could read."""
    return [name for name in dir(value) if type_of(name) is str and not name.startswith("_") and name not in _DENIED]


# ---------------------------------------------------------------------------------------------------------------------
# Writing attributes

_WRITABLE: dict[type, frozenset[str]] = {}


def writable(value: object, name: str) -> object:
    """Give `value` back if the guest may set or delete its attribute `name`, which `kind_of` has seen."""
    if getattr(type_of(value), MARK, None) is TOKEN and not is_dunder(name):
        return value
    if is_dunder(name):
        if name in _WRITABLE_DUNDERS and (is_guest_function(value) or _is_guest_made(value)):
            return _Named(value)
    elif name.startswith("_") and name.endswith("_") and issubclass(type_of(value), enum.EnumType):
        pass  # `_member_type_` and the like: the library makes members with them
    elif name == "_abc_impl" and is_guest_class(value):
        pass  # a class without its own registry of virtual subclasses would write into its library base's
    elif is_guest_class(value) or is_guest_function(value) or name in _WRITABLE.get(type_of(value), ()):
        return value
    raise TypeError(
        f"cannot set the attribute {name!r} of this {_name_of_type(value)!r} object: "
        "attributes can be set on objects of your own classes; keep other values in a variable or a dict"
    )


class _Named:
    """A guest object whose name or documentation is about to be set: only to a real text, because others show it."""

    __slots__ = ("_named",)
    _named: object

    def __init__(self, named: object) -> None:
        object.__setattr__(self, "_named", named)

    def __setattr__(self, name: str, text: object) -> None:
        if type_of(text) is not str and not (text is None and name == "__doc__"):
            raise TypeError(f"{name} must be a plain string")
        setattr(self._named, name, text)

    def __delattr__(self, name: str) -> None:
        delattr(self._named, name)


def _set_on_frozen(value: object, name: str, new: object) -> None:
    """`object.__setattr__`, which frozen dataclasses use to set their own fields."""
    if getattr(type_of(value), MARK, None) is not TOKEN or kind_of(_vetted_for_writing(name)) is Kind.DUNDER:
        raise AttributeError(denial("__setattr__"))
    object.__setattr__(value, name, new)


def allow_writing(cls: type, *names: str) -> None:
    """Let the guest set these attributes of a library class's instances."""
    _WRITABLE[cls] = frozenset(names)


def _vetted_for_writing(name: object) -> str:
    if type_of(name) is not str:
        raise TypeError("attribute name must be a plain string")
    kind = kind_of(name)
    if kind is Kind.DENIED or (kind is Kind.DUNDER and name not in _WRITABLE_DUNDERS):
        raise AttributeError(denial(name))
    return name


def guest_setattr(value: object, name: str, new: object) -> None:
    """The guest's `setattr`."""
    setattr(writable(value, _vetted_for_writing(name)), name, new)


def guest_delattr(value: object, name: str) -> None:
    """The guest's `delattr`."""
    delattr(writable(value, _vetted_for_writing(name)), name)


class AttributeView(dict[str, object]):
    """`vars(obj)` or `obj.__dict__` of a guest object: a dict whose changes go to the object, name by name.

    It is a real dict so that `json.dumps(vars(obj))` works; it is not the object's own dict, so that no special
    method is planted on the object by item assignment.
    """

    __slots__ = ("_owner",)

    def __init__(self, owner: object) -> None:
        own: dict[str, object] = owner.__dict__
        super().__init__(own)
        self._owner = owner

    def __setitem__(self, name: str, value: object) -> None:
        guest_setattr(self._owner, name, value)
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        guest_delattr(self._owner, name)
        super().__delitem__(name)

    def update(self, *others: Mapping[str, object] | Iterable[tuple[str, object]], **more: object) -> None:  # type: ignore[override]
        for name, value in dict(*others, **more).items():
            self[name] = value

    def setdefault(self, name: str, default: object = None) -> object:
        if name not in self:
            self[name] = default
        return self[name]

    def pop(self, name: str, *default: object) -> object:
        if name not in self and default:
            return default[0]
        value = self[name]
        del self[name]
        return value

    def clear(self) -> None:
        for name in list(self):
            del self[name]

    def popitem(self) -> tuple[str, object]:
        name = next(reversed(self))
        return name, self.pop(name)

    def __ior__(self, other: object) -> "AttributeView":  # type: ignore[override,misc]
        self.update(other)  # type: ignore[arg-type]
        return self


def guest_vars(value: object) -> AttributeView:
    """The guest's `vars(value)`."""
    if is_guest_class(value) or not _is_guest_made(value) or type_of(getattr(value, "__dict__", None)) is not dict:
        raise TypeError("vars() works on objects of your own classes: use dir(obj) or list the attributes yourself")
    return AttributeView(value)


# ---------------------------------------------------------------------------------------------------------------------
# str.format


class _Formatter(string.Formatter):
    """`str.format` whose field names obey the guest's `getattr`."""

    def get_field(self, field_name: str, args: object, kwargs: object) -> tuple[object, object]:
        first, rest = _split_field(field_name)
        value = self.get_value(first, args, kwargs)  # type: ignore[arg-type]
        for is_attribute, key in rest:
            value = _read(value, key) if is_attribute else value[key]
        return value, first


def _split_field(field_name: str) -> tuple[int | str, Iterable[tuple[bool, str]]]:
    # Only the splitter of the standard library knows all the odd forms; it is what str.format itself uses.
    return string._string.formatter_field_name_split(field_name)  # type: ignore[attr-defined,no-any-return]


_FORMATTER = _Formatter()


def _exact(template: object) -> str:
    if not issubclass(type_of(template), str):
        raise TypeError(f"format needs a string, not {_name_of_type(template)}")
    return str.__str__(template)


def safe_format(template: str, /, *args: object, **kwargs: object) -> str:
    """`template.format(*args, **kwargs)`."""
    text = _exact(template)
    if "." in text or "[" in text:
        return _FORMATTER.vformat(text, args, kwargs)
    return text.format(*args, **kwargs)


def safe_format_map(template: str, mapping: Mapping[str, object], /) -> str:
    """`template.format_map(mapping)`."""
    text = _exact(template)
    if "." in text or "[" in text:
        return _FORMATTER.vformat(text, (), mapping)
    return text.format_map(mapping)


_FORMAT_FUNCTIONS: dict[str, Callable[..., str]] = {"format": safe_format, "format_map": safe_format_map}


# ---------------------------------------------------------------------------------------------------------------------
# Classes

# Library classes that `type(x)` hands out as they are: their constructors are the guest's anyway.
_TYPES: set[type] = set()
# Library classes that a guest class may derive from.
_BASES: set[type] = set()
# Stand-ins that may be listed as a base: each says which real bases it means.
_BASE_FORMS: dict[type, Callable[[object], tuple[object, ...]]] = {}


def allow_type(*classes: type) -> None:
    """Let `type(x)` give these classes."""
    _TYPES.update(classes)
    for cls in classes:
        _tie_methods(cls)


def allow_subclassing(*classes: type) -> None:
    """Let guest classes derive from these classes."""
    _BASES.update(classes)
    allow_type(*classes)


def register_base_form(cls: type, resolve: Callable[[object], tuple[object, ...]]) -> None:
    """Let instances of `cls` be listed among a class statement's bases; `resolve` returns what they stand for."""
    _BASE_FORMS[cls] = resolve


def _is_permitted_base(cls: object) -> bool:
    return isinstance(cls, type_of) and (cls in _BASES or _is_exception_class(cls))


def _is_exception_class(cls: type) -> bool:
    # `except*` and exception groups have confused CPython's own type checks before, so they are left out.
    return issubclass(cls, BaseException) and not issubclass(cls, BaseExceptionGroup)


def tie_generated(cls: type, before: Iterable[object] = ()) -> None:
    """Tie to a guest class the methods that the library generated for it: those that were not there `before`."""
    known = {id(value) for value in before}
    for function in _methods_of(cls):
        if id(function) not in known and not is_guest_function(function):
            function.__dict__[_OWNER] = cls


def mark_class(cls: type) -> type:
    """Mark a class as made by the guest program."""
    type_of.__setattr__(cls, MARK, TOKEN)
    return cls


def build_class(body: Callable[[], object], name: str, *bases: object, **keywords: object) -> type:
    """Replaces `__build_class__`: runs a class statement on permitted bases and marks the class."""
    generic, dictionary = _traits(bases)
    if dictionary:
        keywords.pop("total", None)
    if keywords:
        raise TypeError(f"class {name}: keyword arguments are not available in a class statement: leave them out")
    real = [resolved for base in bases for resolved in _resolve_base(name, base)]
    meta, _, _ = types.prepare_class(name, types.resolve_bases(real))
    cls: type = builtins.__build_class__(body, name, *real, metaclass=_Maker(meta, real))
    if generic:
        type_of.__setattr__(cls, "__class_getitem__", classmethod(lambda cls, item: cls))
    return mark_class(cls)


def _traits(bases: tuple[object, ...]) -> tuple[bool, bool]:
    names = {getattr(base, "_name", "") for base in bases if type_of(base) in _BASE_FORMS}
    return bool(names & {"Generic", "Protocol"}), "TypedDict" in names


def _resolve_base(name: str, base: object) -> tuple[object, ...]:
    if type_of(base) is types.GenericAlias:  # list[int]
        base = base.__origin__
    resolve = _BASE_FORMS.get(type_of(base))
    if resolve is not None:
        meant = resolve(base)
        if all(one is typing.NamedTuple or _is_permitted_base(one) for one in meant):
            return meant
    if is_guest_class(base) or _is_permitted_base(base):
        return (base,)
    raise TypeError(f"class {name} cannot derive from {_name_of(base)}: keep such an object in an attribute instead")


class _Maker:
    """Takes the metaclass's place in a class statement: checks the body after it has run, before the class is made."""

    def __init__(self, meta: Callable[..., type], bases: list[object]) -> None:
        self._meta = meta
        self._bases = bases

    def __prepare__(self, name: str, bases: tuple[type, ...]) -> dict[str, object]:
        return self._meta.__prepare__(name, bases)  # type: ignore[attr-defined,no-any-return]

    def __call__(self, name: str, bases: tuple[type, ...], body: dict[str, object]) -> type:
        if "__slots__" in body:
            dict.__setitem__(body, "__slots__", _settled_slots(name, body["__slots__"]))
        if "__exit__" in body:
            dict.__setitem__(body, "__exit__", _without_traceback(name, body["__exit__"]))
        check_inherited(bases)
        # Marked from the start: hooks of objects in the body run before the class statement ends.
        dict.__setitem__(body, MARK, TOKEN)
        if typing.NamedTuple in self._bases:
            return self._named_tuple(name, bases, body)
        return self._meta(name, bases, body)

    def _named_tuple(self, name: str, bases: tuple[type, ...], body: dict[str, object]) -> type:
        """The library compares annotations with its own special forms, so it gets none of the program's."""
        annotations: Any = body.get("__annotations__")
        inert = {} if annotations is None else {"__annotations__": dict.fromkeys(annotations, object)}
        cls: Any = self._meta(name, bases, {**body, **inert})
        check_fields(cls, cls._fields)
        tie_generated(cls, body.values())
        if annotations is not None:
            cls.__annotations__ = annotations
        return cls  # type: ignore[no-any-return]


def _without_traceback(name: str, function: Any) -> Callable[..., object]:
    """`__exit__` of a program's class, which sees its exception but not the frames it came through."""
    if not is_guest_function(function):
        raise TypeError(f"class {name}: __exit__ must be a function of your own: write def __exit__(self, *exc)")

    def leave(self: object, kind: object = None, error: object = None, _trace: object = None) -> object:
        return function(self, kind, error, None)

    leave.__dict__.update(function.__dict__)  # it may be marked as abstract
    leave.__name__, leave.__qualname__, leave.__doc__ = "__exit__", function.__qualname__, function.__doc__
    return leave


def _settled_slots(name: str, slots: Any) -> tuple[str, ...]:
    """A copy, because the program may change a list while the class is made; this copy is checked and used."""
    # An iterator, or a program's own class, may yield something else each time.
    listed = (slots,) if type_of(slots) is str else (*slots,) if type_of(slots) in (tuple, list, dict) else (None,)
    for one in listed:
        if type_of(one) is not str or is_dunder(one) or one in _DENIED:
            raise TypeError(f"class {name}: __slots__ must be a tuple or list of plain attribute names")
    return listed


def check_fields(cls: type, names: Iterable[str]) -> None:
    """Refuse generated classes with fields that cannot be attribute names; patterns get the leading plain ones."""
    kinds = [kind_of(name) for name in names]
    for name, kind in zip(names, kinds, strict=True):
        if kind in (Kind.DENIED, Kind.DUNDER):
            raise TypeError(f"class {_name_of(cls)}: a field cannot be called {name!r}: choose another name")
    if "__match_args__" in vars(cls):
        plain = tuple(itertools.takewhile(lambda name: kind_of(name) is Kind.PLAIN, vars(cls)["__match_args__"]))
        type_of.__setattr__(cls, "__match_args__", plain)


def check_inherited(classes: Iterable[type]) -> None:
    """Refuse to bring fields together with library classes that have something else under such a name.

    The methods that the library generated read a field unguarded, and where an object lacks it, what the library's
    class has: `str.format`.
    """
    listed = [*classes]
    library = library_classes(listed)
    for cls in (one for given in listed for one in _order_of(given)):
        fields: dict[str, Any] = vars(cls).get("__dataclass_fields__", {})
        # A field object that several classes share has the name that it got last.
        for name in {*fields, *(field.name for field in [*fields.values()])}:
            if is_hidden_in(library, name):
                raise TypeError(f"a field cannot be called {name!r} in this class: choose another name")


def library_classes(classes: Iterable[type]) -> list[type]:
    """The classes from which these derive that are not the guest's."""
    return [one for cls in classes for one in _order_of(cls) if not is_guest_class(one)]


def is_hidden_in(library: Iterable[type], name: str) -> bool:
    """Whether one of these classes has the name, and only a guard may read it."""
    return kind_of(name) is not Kind.PLAIN and any(name in vars(one) for one in library)


def is_method_of(library: Iterable[type], name: str) -> bool:
    """Whether one of these classes has a method of that name that is written in Python."""
    return any(any(_functions_in(name, vars(one)[name])) for one in library if name in vars(one))


class TypeView:
    """What `type(x)` returns when the class itself is not handed out: a name, comparison, `isinstance`."""

    __slots__ = ("_cls",)

    def __init__(self, cls: type) -> None:
        self._cls = cls

    @property
    def __name__(self) -> str:
        return str(type_of.__getattribute__(self._cls, "__name__"))

    def __repr__(self) -> str:
        return f"<class {self.__name__!r}>"

    def __eq__(self, other: object) -> bool:
        return type_of(other) is TypeView and other._cls is self._cls

    def __hash__(self) -> int:
        return hash(self._cls)

    def __instancecheck__(self, value: object) -> bool:
        return isinstance(value, self._cls)

    def __subclasscheck__(self, cls: type) -> bool:
        return issubclass(cls, self._cls)

    def __or__(self, other: object) -> tuple[object, ...]:
        return (self, *(other if type_of(other) is tuple else (other,)))  # what `isinstance` takes for the same

    def __ror__(self, other: object) -> tuple[object, ...]:
        return (*(other if type_of(other) is tuple else (other,)), self)

    def __call__(self, *args: object, **kwargs: object) -> object:
        raise TypeError(f"cannot make a {self.__name__} object this way: call the function that made the first one")


# Views that a facade hands out: `type(x)` then returns the same object.
_VIEWS: dict[type, TypeView] = {}


def show_type(cls: type) -> TypeView:
    """The one view of a library class, to be handed out in its place."""
    return _VIEWS.setdefault(cls, TypeView(cls))


class TypeFunction:
    """The guest's `type`: `type(x)` with one argument, `isinstance(x, type)`, `type[Foo]` in annotations."""

    __slots__ = ()

    def __call__(self, value: object, /, *more: object, **keywords: object) -> object:
        if more or keywords:
            raise TypeError("type() takes one argument here: write a class statement to make a class")
        cls = type_of(value)
        if getattr(cls, MARK, None) is not TOKEN and value.__class__ in _TYPES:
            return value.__class__  # a paged text says that it is a str; guest classes cannot say such things
        if getattr(cls, MARK, None) is TOKEN or _is_exception_class(cls):
            return cls
        return TYPE if issubclass(cls, type_of) else _VIEWS.get(cls) or TypeView(cls)

    def __instancecheck__(self, value: object) -> bool:
        return isinstance(value, type_of)

    def __subclasscheck__(self, cls: type) -> bool:
        return issubclass(cls, type_of)

    def __getitem__(self, item: object) -> "TypeFunction":
        return self

    def __or__(self, other: object) -> "TypeFunction":
        return self

    __ror__ = __or__

    @property
    def __name__(self) -> str:
        return "type"

    def __repr__(self) -> str:
        return "<class 'type'>"


TYPE = TypeFunction()


def guest_super(cls: object = None, value: object = None, /) -> object:
    """The guest's `super(cls, obj)`; the compile step turns `super()` into this form."""
    if not is_guest_class(cls) or value is None:
        raise TypeError("super() works inside the methods of your own classes")
    return super(cls, value)


def _name_of_type(value: object) -> str:
    return str(type_of.__getattribute__(type_of(value), "__name__"))


def _name_of(value: object) -> str:
    return str(type_of.__getattribute__(value, "__name__")) if isinstance(value, type_of) else _name_of_type(value)


allow_subclassing(object, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)
allow_type(bool, bytearray, range, slice, type_of(None), type_of(NotImplemented), type_of(...))
