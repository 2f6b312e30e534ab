"""What `import` returns: for each permitted module an object with named functions and classes, never the module.

A module contains everything that its author imported (`json.codecs.sys`), and that changes with each Python version. So
only what a table here names is taken from a module. Three groups of names are our own:

- *stand-ins* where the original looks attributes up by a name that the guest chose, evaluates text, or keeps state
  that is shared with the agent (`attrgetter`, `wraps`, `typing`, `random`);
- *wrappers* with an explicit signature where the original takes open options (`json.dumps(cls=...)`);
- *forms*, inert objects for annotations and base classes (`Optional[int]`, `class P(NamedTuple)`).

C code that imports on its own behalf (`datetime.strptime` needs `_strptime`) goes through the guest's builtins as
well. CPython marks such calls with a *list* as `fromlist` and ignores the result; see `Importer.__call__`.
"""

import abc
import collections
import collections.abc
import concurrent.futures
import contextlib
import dataclasses
import decimal
import enum
import fractions
import functools
import importlib
import io
import operator
import pprint
import random
import re
import statistics
import threading
import time
import traceback
import types
import typing
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from guest.context import wrappers
from guest.context.paged import plain
from guest.exact import exact, exact_text
from guest.language import copies, guards, streams, trees

__all__ = [
    "LATER",
    "Enum",
    "Facade",
    "Flag",
    "Form",
    "Importer",
    "IntEnum",
    "IntFlag",
    "StrEnum",
    "ThreadPoolExecutor",
    "advice_for_module",
    "module_names",
    "preload",
]

_WORKERS_MAX = 32  # enough to keep every permitted request in flight; each costs a thread of the box's task limit


class Facade:
    """Named functions and classes of one module. Read-only; holds nothing else of the module."""

    def __init__(self, facade_name: str, members: Mapping[str, object]) -> None:
        self.__dict__.update(members)
        self.__dict__["_facade_name"] = facade_name

    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError(f"{self._facade_name} is read-only")

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__.get("_facade_name", "module")
        offers = ", ".join(sorted(key for key in self.__dict__ if not key.startswith("_")))
        raise AttributeError(f"{own}.{str(name)[:80]} is not available; {own} offers: {offers}")

    def __repr__(self) -> str:
        return f"<restricted module {self._facade_name!r}>"


# ---------------------------------------------------------------------------------------------------------------------
# Forms: annotations and base classes


class Form:
    """An inert annotation: subscripting or joining it gives a form again; `isinstance` works where it has an origin."""

    __slots__ = ("_name", "_origin")

    def __init__(self, name: str, origin: type | None = None) -> None:
        self._name = name
        self._origin = origin

    def __getitem__(self, item: object) -> "Form":
        return self

    def __or__(self, other: object) -> "Form":
        return self

    __ror__ = __or__

    def __call__(self, *args: object, **kwargs: object) -> object:
        # dataclasses and typing.ClassVar want annotations to be callable; calling one is always a mistake.
        raise TypeError(f"{self._name} is for annotations: it cannot be called")

    def __instancecheck__(self, value: object) -> bool:
        if self._origin is None:
            raise TypeError(f"isinstance() does not work with {self._name}: use a class such as dict or list")
        return isinstance(value, self._origin)

    def __subclasscheck__(self, cls: type) -> bool:
        if self._origin is None:
            raise TypeError(f"issubclass() does not work with {self._name}")
        return issubclass(cls, self._origin)

    def __repr__(self) -> str:
        return f"typing.{self._name}"


def _bases_of_form(form: object) -> tuple[object, ...]:
    assert isinstance(form, Form)
    if form._name == "NamedTuple":
        return (typing.NamedTuple,)
    if form._name == "TypedDict":
        return (dict,)
    return () if form._origin is None else (form._origin,)


_ABCS = (
    "Callable Collection Container Generator Hashable ItemsView Iterable Iterator KeysView Mapping MappingView "
    "MutableMapping MutableSequence MutableSet Reversible Sequence Set Sized ValuesView"
)
_PLAIN_FORMS = (
    "Annotated Any AnyStr Concatenate Final Generic Literal LiteralString Never NoReturn NotRequired Optional "
    "ParamSpec Protocol Required Self SupportsFloat SupportsIndex SupportsInt Text TypeAlias TypeGuard TypedDict Union"
)
_CONTAINER_FORMS: dict[str, type] = {
    "Counter": collections.Counter,
    "DefaultDict": collections.defaultdict,
    "Deque": collections.deque,
    "Dict": dict,
    "FrozenSet": frozenset,
    "List": list,
    "OrderedDict": collections.OrderedDict,
    "Tuple": tuple,
    "Type": type,
    "Pattern": re.Pattern,
    "Match": re.Match,
}


class _NamedTupleForm(Form):
    __slots__ = ()

    def __call__(self, name: str, fields: Iterable[tuple[str, object]] = (), /) -> object:  # type: ignore[override]
        return _namedtuple(name, [field for field, _ in fields])


def _abc_forms() -> dict[str, object]:
    return {name: Form(name, getattr(collections.abc, name)) for name in _ABCS.split()}


_CLASS_VAR = Form("ClassVar")


def _typing_members() -> dict[str, object]:
    members: dict[str, object] = {name: Form(name) for name in _PLAIN_FORMS.split()}
    members |= {name: Form(name, origin) for name, origin in _CONTAINER_FORMS.items()}
    members |= _abc_forms() | {"AbstractSet": Form("AbstractSet", collections.abc.Set), "TYPE_CHECKING": False}
    members |= {"ClassVar": _CLASS_VAR, "NamedTuple": _NamedTupleForm("NamedTuple"), "TypeVar": _type_variable}
    members |= {"cast": _cast, "NewType": _new_type}
    return members | dict.fromkeys(("overload", "final", "runtime_checkable", "no_type_check"), _unchanged)


def _type_variable(name: str, *constraints: object, **options: object) -> Form:
    return Form(exact_text(str(name)))


def _cast(form: object, value: object) -> object:
    return value


def _new_type(name: str, form: object) -> Callable[[object], object]:
    return _unchanged


def _unchanged(value: object) -> object:
    return value


# ---------------------------------------------------------------------------------------------------------------------
# Enumerations: without the functional form, whose member names are free text


class _EnumType(enum.EnumType):
    def __new__(metacls, name: str, bases: Any, body: Any, **options: Any) -> Any:
        for method in guards.METHOD_DUNDERS & dict.keys(body):
            _check_method(body[method])
        if any(issubclass(base, enum.Flag) for base in bases):
            _check_mixins(bases)
        return super().__new__(metacls, name, bases, body, **options)

    @classmethod
    def _find_new_(cls, *args: Any) -> Any:
        # The library names, numbers and initialises whatever a program's `__new__` returns as a member.
        new, *rest = super()._find_new_(*args)  # type: ignore[misc]
        return _of_its_class(new), *rest

    def __call__(cls, value: object) -> Any:  # type: ignore[override]
        return super().__call__(value)


def _check_method(value: object) -> None:
    # The library compares these with its own, and anything but a function would get to see those.
    inner = value.__func__ if type(value) in (classmethod, staticmethod) else value  # type: ignore[attr-defined]
    if inner is not None and not isinstance(inner, _FUNCTION_TYPES):
        raise TypeError("special methods of an Enum must be written as functions")


_FUNCTION_TYPES = (types.FunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)


def _check_mixins(bases: tuple[type, ...]) -> None:
    # Members that a Flag makes later, for values without a name, come from `__new__` of its data type.
    mixins = {one for base in bases for one in base.__mro__ if not issubclass(one, enum.Enum)}
    if any(guards.is_guest_class(one) and "__new__" in vars(one) for one in mixins):
        raise TypeError("a Flag cannot derive from a class that defines __new__: define __new__ in the Flag itself")


def _of_its_class(new: Callable[..., object]) -> Callable[..., object]:
    if not guards.is_guest_function(new):
        return new

    def checked_new(cls: type, *args: object) -> object:
        member = new(cls, *args)
        if type(member) is not cls:
            raise TypeError("__new__ of an Enum must return an object of the Enum itself: write object.__new__(cls)")
        return member

    return checked_new


class Enum(enum.Enum, metaclass=_EnumType):
    """A base for guest enumerations."""


class IntEnum(enum.IntEnum, metaclass=_EnumType):
    """A base for guest enumerations."""


class StrEnum(enum.StrEnum, metaclass=_EnumType):
    """A base for guest enumerations."""


class Flag(enum.Flag, metaclass=_EnumType):
    """A base for guest enumerations."""


class IntFlag(enum.IntFlag, metaclass=_EnumType):
    """A base for guest enumerations."""


_ENUMS = (Enum, IntEnum, StrEnum, Flag, IntFlag)


# ---------------------------------------------------------------------------------------------------------------------
# Stand-ins and wrappers


def _namedtuple(
    name: str,
    fields: str | Iterable[str],
    *,
    rename: bool = False,
    defaults: Iterable[object] | None = None,
) -> type:
    # The original pastes the field names into source text. It checks them, and exact strings cannot fool that check.
    listed = fields.replace(",", " ").split() if type(fields) is str else list(fields)
    if type(name) is not str or any(type(field) is not str for field in listed):
        raise TypeError("namedtuple names must be plain strings")
    options: dict[str, Any] = {"rename": rename is True, "defaults": defaults, "module": "__main__"}
    made = collections.namedtuple(name, listed, **options)  # type: ignore[misc]
    guards.check_fields(made, made._fields)
    guards.tie_generated(made)
    return guards.mark_class(made)


_DATACLASS_OPTIONS = frozenset(
    {"init", "repr", "eq", "order", "unsafe_hash", "frozen", "match_args", "kw_only", "slots"}
)


def _dataclass(cls: Any = None, /, **options: bool) -> Any:
    unknown = sorted(options.keys() - _DATACLASS_OPTIONS)
    if unknown:
        raise TypeError(f"dataclass() has no option {unknown[0]!r} here")

    def decorate(target: type) -> type:
        if not guards.is_guest_class(target):
            raise TypeError("dataclass() decorates classes of your own")
        _settle_annotations(target)
        guards.check_fields(target, [*target.__annotations__, *getattr(target, "__dataclass_fields__", ())])
        _check_defaults(target)
        before = [*vars(target).values()]
        made = guards.mark_class(dataclasses.dataclass(**options)(target))
        guards.tie_generated(made, before)
        guards.check_fields(made, ())
        return made

    return decorate if cls is None else decorate(cls)


def _check_defaults(cls: type) -> None:
    # What the class has under a field's name becomes the field's default, and can be read there: even a method of the
    # metaclass or of a library base, which no guard would let out. It does not help if one of the program's classes
    # hides those: that may be gone when the library looks.
    guards.check_inherited([cls])
    library = guards.library_classes([cls])
    for name in cls.__annotations__:
        if hasattr(type(cls), name) or guards.is_hidden_in(library, name) or guards.is_method_of(library, name):
            raise TypeError(f"a field cannot be called {name!r} in this class: choose another name")


def _settle_annotations(cls: type) -> None:
    """Turn `ClassVar` into the real thing, even as text: dataclasses would look that up in the agent's own module."""
    annotations: dict[str, Any] = cls.__annotations__
    for name, annotation in annotations.items():
        head = annotation.partition("[")[0].rpartition(".")[2].strip() if type(annotation) is str else ""
        if head == "ClassVar" or annotation is _CLASS_VAR:
            annotations[name] = typing.ClassVar
        elif head == "InitVar":
            annotations[name] = dataclasses.InitVar


def _total_ordering(cls: type) -> type:
    if not guards.is_guest_class(cls):
        raise TypeError("total_ordering() decorates classes of your own")
    given = next((name for name in _ORDERS if getattr(cls, name) is not getattr(object, name)), None)
    if given is None:
        raise ValueError("must define at least one ordering operation: < > <= >=")
    for name, order in _ordering(given).items():
        if getattr(cls, name) is getattr(object, name):
            type.__setattr__(cls, name, order)
    return cls


# For each method that a class may define, and each that it lacks: whether the answer is negated, and how equality
# counts: not at all, `or equal`, `and not equal`.
_ORDERS: dict[str, dict[str, tuple[bool, str]]] = {
    "__lt__": {"__gt__": (True, "and"), "__le__": (False, "or"), "__ge__": (True, "")},
    "__le__": {"__ge__": (True, "or"), "__lt__": (False, "and"), "__gt__": (True, "")},
    "__gt__": {"__lt__": (True, "and"), "__ge__": (False, "or"), "__le__": (True, "")},
    "__ge__": {"__le__": (True, "or"), "__gt__": (False, "and"), "__lt__": (True, "")},
}


def _ordering(given: str) -> dict[str, Callable[[object, object], object]]:
    def made(name: str, turned: bool, equal: str) -> Callable[[object, object], object]:
        def order(self: object, other: object) -> object:
            answer = getattr(type(self), given)(self, other)
            if answer is NotImplemented:
                return answer
            answer = not answer if turned else answer
            if equal == "and":
                return answer and self != other
            return answer or self == other if equal == "or" else answer

        order.__name__ = order.__qualname__ = name
        return order

    return {name: made(name, *rule) for name, rule in _ORDERS[given].items()}


def _wraps(wrapped: Any) -> Callable[[Any], Any]:
    """`functools.wraps` for guest functions: copies name and documentation; keeps `__wrapped__` if it is a guest's."""

    def decorate(wrapper: Any) -> Any:
        if not guards.is_guest_function(wrapper):
            return wrapper
        if guards.is_guest_function(wrapped):
            wrapper.__wrapped__ = wrapped
        return _named_like(wrapped, wrapper)

    return decorate


_NAMES = ("__name__", "__qualname__", "__doc__")


def _named_like(wrapped: Any, wrapper: Callable[..., Any], names: tuple[str, ...] = _NAMES) -> Callable[..., Any]:
    for name in names:
        found = getattr(wrapped, name, None)
        if type(found) is str:
            setattr(wrapper, name, found)
    return wrapper


def _update_wrapper(wrapper: Any, wrapped: Any) -> Any:
    return _wraps(wrapped)(wrapper)


class _Thrown:
    """A generator that gets exceptions without their traceback, because it may pass them on, with `yield from`."""

    __slots__ = ("_generator",)

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def __next__(self) -> Any:
        return next(self._generator)

    def throw(self, kind: Any, error: Any = None, _trace: object = None) -> Any:
        return self._generator.throw(kind if error is None else error)

    def close(self) -> None:
        self._generator.close()


def _contextmanager(function: Callable[..., Any]) -> Callable[..., Any]:
    # Anything but a real generator would get the traceback.
    def make(*args: object, **kwargs: object) -> Any:
        made = function(*args, **kwargs)
        if type(made) is not types.GeneratorType:
            raise TypeError("contextmanager() decorates generator functions: it must yield once")
        return _Thrown(made)

    # Without its qualified name, in which a dot would mean a method of a class.
    return _named_like(function, contextlib.contextmanager(make), ("__name__", "__doc__"))


def _lru_cache(maxsize: Any = 128, typed: bool = False) -> Any:
    if maxsize is not None and type(maxsize) is not int:
        return _lru_cache()(maxsize)
    decorate = functools.lru_cache(maxsize, typed is True)
    return lambda function: decorate(_as_function(function))


def _cache(function: Any) -> Any:
    return _lru_cache(None)(function)


def _as_function(value: Any) -> Callable[..., Any]:
    """Any callable as one of our functions, because the library copies all attributes of what it wraps."""
    if guards.is_guest_function(value):
        return value  # type: ignore[no-any-return]
    if not callable(value):
        raise TypeError("the first argument must be callable")
    return _named_like(value, lambda *args, **kwargs: value(*args, **kwargs), ("__name__", "__doc__"))


def _abstractmethod(function: Any) -> Any:
    inner = function.__func__ if type(function) in (classmethod, staticmethod) else function
    if type(inner) is property or guards.is_guest_function(inner):
        return abc.abstractmethod(function)
    raise TypeError("abstractmethod() decorates functions of your own")


def _attrgetter(*names: str) -> Callable[[object], object]:
    """`operator.attrgetter` that reads as the guest's `getattr` does."""
    if not names or any(type(name) is not str for name in names):
        raise TypeError("attrgetter needs attribute names as plain strings")
    paths = [name.split(".") for name in names]

    def get(value: object) -> object:
        found = [functools.reduce(guards.guest_getattr, path, value) for path in paths]
        return found[0] if len(found) == 1 else tuple(found)

    return get


def _methodcaller(method: str, /, *args: object, **kwargs: object) -> Callable[[object], object]:
    def call(value: object) -> object:
        function: Any = guards.guest_getattr(value, method)
        return function(*args, **kwargs)

    return call


def _dumps(
    obj: object,
    *,
    skipkeys: bool = False,
    ensure_ascii: bool = True,
    check_circular: bool = True,
    allow_nan: bool = True,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    default: Callable[[object], object] | None = None,
    sort_keys: bool = False,
) -> str:
    return wrappers.dumps(
        obj,
        skipkeys=skipkeys,
        ensure_ascii=ensure_ascii,
        check_circular=check_circular,
        allow_nan=allow_nan,
        indent=indent,
        separators=separators,
        default=default,
        sort_keys=sort_keys,
    )


def _loads(
    text: object,
    *,
    object_hook: Callable[[Any], Any] | None = None,
    parse_float: Callable[[str], Any] | None = None,
    parse_int: Callable[[str], Any] | None = None,
    parse_constant: Callable[[str], Any] | None = None,
    object_pairs_hook: Callable[[Any], Any] | None = None,
    strict: bool = True,
) -> Any:
    options: dict[str, Any] = {} if strict else {"strict": False}
    return wrappers.loads(
        text,
        object_hook=object_hook,
        parse_float=parse_float,
        parse_int=parse_int,
        parse_constant=parse_constant,
        object_pairs_hook=object_pairs_hook,
        **options,
    )


def _dump(obj: object, file: io.StringIO, **options: Any) -> None:
    file.write(_dumps(obj, **options))


def _load(file: io.StringIO, **options: Any) -> Any:
    return _loads(file.read(), **options)


def _exactly(function: Callable[..., Any]) -> Callable[..., Any]:
    """A library function that gets exact values, so that it calls no method of a program's own str."""

    def call(*args: object, **options: object) -> Any:
        return function(*map(known, args), **{name: known(value) for name, value in options.items()})

    def known(given: object) -> object:
        value = _exact(given)
        if guards.is_guest_class(type(value)):  # what is kept of earlier calls would be compared with it
            raise TypeError(f"{function.__name__}() takes texts and numbers, not {type(given).__name__}")
        return value

    call.__name__ = call.__qualname__ = function.__name__
    call.__doc__ = function.__doc__
    return call


def _exact(value: object) -> object:
    return exact(plain(value))


_NUMBERS = frozenset({int, float, bool, decimal.Decimal, fractions.Fraction})


def _of_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of `statistics` that calls the type of what it is given: real numbers only, for `type` is a type."""

    def numbers(given: Any) -> Any:
        given = _exact(given)
        if given is None or type(given) in _NUMBERS:
            return given
        return [number(one) for one in given]

    def number(given: Any) -> Any:
        given = exact(given)
        if type(given) not in _NUMBERS:
            raise TypeError(f"{function.__name__}() needs numbers, not {type(given).__name__}")
        return given

    def call(*args: Any, **options: Any) -> Any:
        return function(*map(numbers, args), **{name: numbers(value) for name, value in options.items()})

    call.__name__ = call.__qualname__ = function.__name__
    call.__doc__ = function.__doc__
    return call


def _urlencode(
    query: Any, doseq: Any = False, safe: Any = "", encoding: Any = None, errors: Any = None, quote_via: Any = None
) -> str:
    # The library takes apart what `str(key)` returns, and caches what it finds for everybody.
    def quoted(text: Any, *rest: Any) -> Any:
        return (quote_via or urllib.parse.quote_plus)(exact(text), *rest)

    return urllib.parse.urlencode(plain(query), doseq, exact(safe), exact(encoding), exact(errors), quoted)


def _futures(given: Iterable[Any]) -> list[concurrent.futures.Future[Any]]:
    """Only real futures: the library reads the insides of what it waits for, and hands it the waiter's."""
    futures = [*given]
    if any(type(future) is not concurrent.futures.Future for future in futures):
        raise TypeError("only futures can be waited for: use what executor.submit() returns")
    return futures


def _wait(fs: Iterable[Any], timeout: Any = None, return_when: str = "ALL_COMPLETED") -> Any:
    return concurrent.futures.wait(_futures(fs), timeout, exact_text(return_when))


def _as_completed(fs: Iterable[Any], timeout: Any = None) -> Any:
    return concurrent.futures.as_completed(_futures(fs), timeout)


class ThreadPoolExecutor(concurrent.futures.ThreadPoolExecutor):
    """The standard executor with a bounded number of threads."""

    def __init__(self, max_workers: int | None = None, thread_name_prefix: str = "") -> None:
        workers = _WORKERS_MAX if max_workers is None else operator.index(max_workers)
        super().__init__(min(workers, _WORKERS_MAX), exact_text(str(thread_name_prefix)))


def _guest_traceback(error: BaseException | None) -> str:
    """The guest's own lines of a traceback, as text."""
    if error is None:
        return "NoneType: None\n"
    frames = [
        f"  line {line}, in {frame.f_code.co_name}\n"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get(guards.MARK) is guards.TOKEN
    ]
    return "".join(["Traceback (most recent call last):\n", *frames, *traceback.format_exception_only(error)])


def _format_exc() -> str:
    return _guest_traceback(_current_exception())


def _current_exception() -> BaseException | None:
    import sys

    return sys.exception()


def _format_exception(error: BaseException, *rest: object) -> list[str]:
    if rest:
        error = typing.cast("BaseException", rest[0])
    return _guest_traceback(error).splitlines(keepends=True)


# ---------------------------------------------------------------------------------------------------------------------
# The tables

_OPERATORS = (
    "abs add and_ concat contains countOf delitem eq floordiv ge getitem gt iadd iand iconcat ifloordiv ilshift "
    "imatmul imod imul index indexOf inv invert ior ipow irshift is_ is_not isub itemgetter itruediv ixor le "
    "length_hint lshift lt matmul mod mul ne neg not_ or_ pos pow rshift setitem sub truediv truth xor"
)
_NAMED: dict[str, str] = {
    "base64": "a85decode a85encode b16decode b16encode b32decode b32encode b64decode b64encode b85decode b85encode "
    "standard_b64decode standard_b64encode urlsafe_b64decode urlsafe_b64encode",
    "binascii": "a2b_hex b2a_hex crc32 hexlify unhexlify",
    "bisect": "bisect bisect_left bisect_right insort insort_left insort_right",
    "cmath": "*",
    "collections": "ChainMap Counter OrderedDict defaultdict deque",
    "concurrent.futures": "ALL_COMPLETED FIRST_COMPLETED FIRST_EXCEPTION CancelledError Future TimeoutError",
    "contextlib": "closing nullcontext suppress",
    "csv": "DictWriter Error QUOTE_ALL QUOTE_MINIMAL QUOTE_NONE QUOTE_NONNUMERIC writer",
    "dataclasses": "FrozenInstanceError InitVar KW_ONLY MISSING field fields is_dataclass",
    "datetime": "MAXYEAR MINYEAR UTC date datetime time timedelta timezone",
    "decimal": "Context Decimal DecimalException DivisionByZero InvalidOperation ROUND_CEILING ROUND_DOWN ROUND_FLOOR "
    "ROUND_HALF_DOWN ROUND_HALF_EVEN ROUND_HALF_UP ROUND_UP getcontext localcontext setcontext",
    "difflib": "Differ SequenceMatcher context_diff get_close_matches ndiff restore unified_diff",
    "enum": "auto unique",
    "fractions": "Fraction",
    "functools": "cached_property cmp_to_key partial reduce",
    "hashlib": "blake2b blake2s md5 sha1 sha224 sha256 sha384 sha3_256 sha3_512 sha512",
    "heapq": "heapify heappop heappush heappushpop heapreplace merge nlargest nsmallest",
    "html": "escape unescape",
    "io": "BytesIO",
    "itertools": "*",
    "json": "JSONDecodeError",
    "math": "*",
    "operator": _OPERATORS,
    "queue": "Empty Full LifoQueue PriorityQueue Queue SimpleQueue",
    "shlex": "join quote split",
    "statistics": "NormalDist StatisticsError correlation covariance fmean geometric_mean "
    "linear_regression median median_grouped median_high median_low mode multimode pstdev quantiles stdev",
    "string": "ascii_letters ascii_lowercase ascii_uppercase capwords digits hexdigits octdigits printable "
    "punctuation whitespace",
    "threading": "BoundedSemaphore Event Lock RLock Semaphore Thread",
    "time": "asctime ctime gmtime localtime mktime monotonic monotonic_ns perf_counter perf_counter_ns process_time "
    "sleep strftime strptime struct_time thread_time time time_ns",
    "unicodedata": "bidirectional category combining decimal decomposition digit east_asian_width is_normalized lookup "
    "mirrored name normalize numeric unidata_version",
    "urllib.parse": "parse_qs parse_qsl quote quote_plus unquote unquote_plus urljoin urlparse urlsplit",
    "zoneinfo": "ZoneInfoNotFoundError available_timezones",
    "uuid": "NAMESPACE_DNS NAMESPACE_OID NAMESPACE_URL UUID uuid3 uuid4 uuid5",
    "zlib": "adler32 compress crc32 decompress",
}
# Functions written in Python that call methods of the texts they are given.
_EXACT_MODULES = ("base64", "html", "shlex", "urllib.parse")
_EXACTLY = {(name, key) for name in _EXACT_MODULES for key in _NAMED[name].split()} | {("string", "capwords")}
_EXACTLY |= {("difflib", "get_close_matches"), ("unicodedata", "normalize"), ("unicodedata", "is_normalized")}
_EXACTLY |= {("uuid", "uuid3"), ("uuid", "uuid5")}
_RANDOM = (
    "betavariate choice choices expovariate gammavariate gauss getrandbits getstate lognormvariate normalvariate "
    "paretovariate randbytes randint random randrange sample seed setstate shuffle triangular uniform vonmisesvariate "
    "weibullvariate"
)
_REGEX = "compile escape findall finditer fullmatch match search split sub subn"
_REGEX_CONSTANTS = "A ASCII DOTALL I IGNORECASE L LOCALE M MULTILINE NOFLAG S U UNICODE VERBOSE X Pattern Match error"

# Our own members of each module, added to the named ones.
_OWN: dict[str, dict[str, object]] = {
    "__future__": dict.fromkeys(("annotations", "division", "print_function", "generator_stop"), "on"),
    "abc": {"ABC": abc.ABC, "abstractmethod": _abstractmethod},
    "collections": {"namedtuple": _namedtuple},
    "collections.abc": _abc_forms(),
    "concurrent.futures": {"ThreadPoolExecutor": ThreadPoolExecutor, "as_completed": _as_completed, "wait": _wait},
    "contextlib": {"contextmanager": _contextmanager},
    "copy": {"copy": copies.copy, "deepcopy": copies.deepcopy},
    "csv": {"DictReader": wrappers.DictReader, "reader": wrappers.reader},
    "dataclasses": {
        "asdict": copies.asdict,
        "astuple": copies.astuple,
        "dataclass": _dataclass,
        "replace": copies.replace,
    },
    "enum": {cls.__name__: cls for cls in _ENUMS},
    "functools": {
        "cache": _cache,
        "lru_cache": _lru_cache,
        "total_ordering": _total_ordering,
        "update_wrapper": _update_wrapper,
        "wraps": _wraps,
    },
    "io": {"StringIO": wrappers.StringIO},
    "json": {"dump": _dump, "dumps": _dumps, "load": _load, "loads": _loads},
    "operator": {"attrgetter": _attrgetter, "methodcaller": _methodcaller},
    "statistics": {
        one.__name__: _of_numbers(one)
        for one in (statistics.harmonic_mean, statistics.mean, statistics.pvariance, statistics.variance)
    },
    "string": {"Template": wrappers.Template},
    "textwrap": {**wrappers.wrapped_textwrap()},
    "typing": _typing_members(),
    "urllib.parse": {"urlencode": _urlencode},
    "typing_extensions": _typing_members(),
}
# These hold the run's own state: built by `Importer`.
_PER_RUN = frozenset({"contextlib", "pprint", "random", "re", "sys", "traceback", "warnings"})
# These are rarely imported: loaded on demand.
LATER: dict[str, Callable[[], dict[str, object]]] = {
    "ast": trees.members,
    "xml.etree.ElementTree": lambda: importlib.import_module(".markup", __package__).members(),
    "zoneinfo": lambda: {"ZoneInfo": _zones()},
}


def _zones() -> type:
    """`zoneinfo.ZoneInfo` that can only be made by name."""
    import zoneinfo

    class ZoneInfo(zoneinfo.ZoneInfo):
        clear_cache = from_file = no_cache = None  # type: ignore[assignment]

        def __new__(cls, key: str) -> Any:
            return super().__new__(cls, exact_text(key))

    return ZoneInfo


def module_names() -> list[str]:
    """All modules that restricted code can import, sorted."""
    return sorted({*_NAMED, *_OWN, *_PER_RUN, *LATER} - {"__future__", "typing_extensions"})


@functools.cache
def _shared_members(name: str) -> dict[str, object]:
    """The members of a facade that holds no state of a run."""
    members = _OWN.get(name, {}) | (LATER[name]() if name in LATER else {})
    if name in _NAMED:
        module = importlib.import_module(name)
        wanted = _NAMED[name].split()
        names = [key for key in dir(module) if not key.startswith("_")] if wanted == ["*"] else wanted
        taken = {key: getattr(module, key) for key in names if hasattr(module, key)}
        members |= {key: _exactly(value) if (name, key) in _EXACTLY else value for key, value in taken.items()}
    guards.allow_type(*(member for member in members.values() if isinstance(member, type)))
    return members


def preload() -> None:
    """Import everything that any facade needs, so that a box forked later imports nothing."""
    for name in {*_NAMED, *_OWN} - LATER.keys():
        _shared_members(name)
    for name in _C_IMPORTS:
        importlib.import_module(name)


# What C code itself imports while a guest frame is on top.
_C_IMPORTS = frozenset(
    {"_strptime", "codecs", "collections.abc", "datetime", "decimal", "json.decoder", "re", "time", "warnings"}
)

_ADVICE = {
    "os": "the document is in `context`; there are no files",
    "subprocess": "there are no other programs; do it in Python",
    "socket": "there is no network; ask with llm_query(prompt)",
    "requests": "there is no network; the document is in `context`",
    "http": "there is no network; the document is in `context`",
    "urllib": "there is no network; the document is in `context`, and urllib.parse works",
    "httpx": "there is no network; the document is in `context`",
    "aiohttp": "there is no network; the document is in `context`",
    "openai": "ask a model with llm_query(prompt)",
    "anthropic": "ask a model with llm_query(prompt)",
    "asyncio": "use llm_query_batched(prompts), or concurrent.futures.ThreadPoolExecutor",
    "multiprocessing": "use concurrent.futures.ThreadPoolExecutor",
    "pathlib": "there are no files; the document is in `context`",
    "glob": "there are no files; the document is in `context`",
    "shutil": "there are no files; the document is in `context`",
    "tempfile": "there are no files; use io.StringIO or a variable",
    "pickle": "use json or copy.deepcopy",
    "marshal": "use json",
    "shelve": "use a dict",
    "sqlite3": "use dicts, lists and collections.Counter",
    "numpy": "use lists, math and statistics",
    "pandas": "use csv.DictReader and collections.Counter",
    "sklearn": "use difflib and collections.Counter, or ask with llm_query(prompt)",
    "scipy": "use math and statistics",
    "nltk": "use re, or ask with llm_query(prompt)",
    "spacy": "use re, or ask with llm_query(prompt)",
    "tiktoken": "estimate: a token is about four characters, len(text) // 4",
    "regex": "use re",
    "bs4": "use re and html.unescape",
    "yaml": "use json, or re on the lines",
    "logging": "use print()",
    "inspect": "write down what you need to know yourself",
    "importlib": "use an import statement",
    "builtins": "the built-in functions need no import",
    "ctypes": "do it in Python",
    "gc": "use del",
    "signal": "time limits are kept for you; see budget()",
    "types": "use a class or a dataclass",
    "tqdm": "loop without it",
    "dateutil": "use datetime.datetime.strptime",
    "pytz": "use datetime.timezone",
}


def advice_for_module(name: str) -> str:
    """The message of the ImportError for `name`."""
    top = name.partition(".")[0]
    if top in _ADVICE:
        return f"{name[:80]} is not available: {_ADVICE[top]}"
    return f"{name[:80]} is not available; these modules are: {', '.join(module_names())}"


class Importer:
    """The guest's `__import__`. One per namespace, because `re`, `random`, `pprint` and `traceback` hold its state."""

    def __init__(
        self,
        write: Callable[[str, str], None],
        regex: types.ModuleType | None = None,
        outputs: streams.Streams | None = None,
    ) -> None:
        self._streams = streams.Streams(write) if outputs is None else outputs
        self._warnings = streams.Warnings(self._streams)
        self._regex = re if regex is None else regex
        self._facades: dict[str, Facade] = {}
        self._lock = threading.Lock()

    def __call__(
        self,
        name: str,
        namespace: object = None,
        local: object = None,
        fromlist: object = (),
        level: int = 0,
    ) -> Facade | None:
        if type(fromlist) is list:
            self._import_for_c(name)
            return None
        if type(name) is not str or level != 0:
            raise ImportError("relative imports are not available: everything that can be imported has a plain name")
        if not fromlist:
            self._facade(name)
            return self._facade(name.partition(".")[0])
        facade = self._facade(name)
        assert isinstance(fromlist, tuple)
        for wanted in fromlist:
            self._check_offered(facade, name, wanted)
        return facade

    def _import_for_c(self, name: str) -> None:
        if name not in _C_IMPORTS:
            raise ImportError(advice_for_module(str(name)))
        importlib.import_module(name)

    def _check_offered(self, facade: Facade, name: str, wanted: str) -> None:
        # IMPORT_FROM falls back to sys.modules when the attribute is missing: it must never be missing.
        if type(wanted) is not str or wanted.startswith("_") or wanted not in facade.__dict__:
            offers = ", ".join(sorted(key for key in facade.__dict__ if not key.startswith("_")))
            raise ImportError(f"cannot import {str(wanted)[:80]!r} from {name}; {name} offers: {offers}")

    def _facade(self, name: str) -> Facade:
        with self._lock:
            return self._facade_locked(name)

    def _facade_locked(self, name: str) -> Facade:
        if name not in self._facades:
            members = self._members(name)
            for child in _children(name):
                members[child.rpartition(".")[2]] = self._facade_locked(child)
            self._facades[name] = Facade(name, members)
        return self._facades[name]

    def _members(self, name: str) -> dict[str, object]:
        match name:
            case "re":
                return self._regex_members()
            case "random":
                # Seeded by the agent, as the run says; the guest's own dice, not a key.
                source = random.Random(random.getrandbits(256))  # noqa: S311
                own = {key: getattr(source, key) for key in _RANDOM.split()}
                return own | {"Random": random.Random, "SystemRandom": random.SystemRandom}
            case "pprint":
                return {"pformat": pprint.pformat, "pprint": self._pprint, "pp": self._pprint}
            case "traceback":
                own = {"format_exc": _format_exc, "format_exception": _format_exception}
                return own | {"print_exc": self._print_exc, "print_exception": self._print_exception}
            case "contextlib":
                return _shared_members(name) | self._streams.redirections()
            case "sys":
                return self._streams.sys_members()
            case "warnings":
                return self._warnings.members()
            case _ if name in _NAMED or name in _OWN or name in LATER or _children(name):
                return dict(_shared_members(name))
            case _:
                raise ImportError(advice_for_module(name))

    def _regex_members(self) -> dict[str, object]:
        members = {key: getattr(self._regex, key, getattr(re, key)) for key in _REGEX_CONSTANTS.split()}
        members |= {key: getattr(self._regex, key) for key in _REGEX.split()}
        guards.allow_type(*(member for member in members.values() if isinstance(member, type)))
        return members | {"PatternError": re.error, "RegexFlag": Form("RegexFlag", re.RegexFlag), "purge": re.purge}

    def _pprint(self, value: object, *args: object, **options: Any) -> None:
        stream = options.pop("stream", None)
        self._streams.into(stream, "stdout", pprint.pformat(value, **options) + "\n")

    def _print_exc(self, limit: object = None, file: object = None, chain: object = True) -> None:
        self._streams.into(file, "stderr", _format_exc())

    def _print_exception(self, error: BaseException, *rest: object, file: object = None, **options: object) -> None:
        self._streams.into(file, "stderr", "".join(_format_exception(error, *rest)))


_PARENTS = frozenset({"collections.abc", "concurrent.futures", "urllib.parse", "xml.etree", "xml.etree.ElementTree"})


def _children(name: str) -> list[str]:
    return [child for child in _PARENTS if child.rpartition(".")[0] == name]


def _register() -> None:
    guards.register_base_form(Form, _bases_of_form)
    guards.register_base_form(_NamedTupleForm, _bases_of_form)
    guards.allow_subclassing(abc.ABC, *_ENUMS, *(getattr(collections.abc, name) for name in _ABCS.split()))
    guards.allow_subclassing(collections.Counter, collections.defaultdict, collections.OrderedDict, collections.deque)
    guards.allow_type(re.Pattern, re.Match, uuid.UUID, time.struct_time, random.Random, random.SystemRandom)
    copies.never_copied(Facade, Form)
    guards.allow_subclassing(trees.NodeVisitor)
    guards.allow_writing(decimal.Context, "prec", "rounding")
    guards.allow_writing(threading.Thread, "daemon", "name")


_register()
