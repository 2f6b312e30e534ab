"""Walk everything restricted code can reach by attribute, and look for a way out.

The walk starts at every built-in name, every module that can be imported and a list of sample objects that a guest
program makes out of them. From each object it follows every attribute that the language lets a program name: once
through the guest's own `getattr`, and once past it, reading the same names directly, to see that nothing hangs on the
look at results alone. It must not meet a module, a frame, a code object, a metaclass, a namespace of built-ins, or a
function that looks attributes up, evaluates text or opens files.

It is a test to run on every new Python: modules grow new attributes with each release.
"""

import builtins
import functools
import importlib
import io
import operator
import os
import string
import subprocess
import sys
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path

import pytest

from guest.context import regex as paged_regex
from guest.context.collection import PagedDict, PagedList
from guest.context.paged import PagedText
from guest.language import facades, guards
from guest.language.guards import Kind, kind_of
from guest.language.restricted import compile_cell, make_globals
from tests.unit.paged_fakes import Stored

SAMPLES = r"""
import abc, base64, bisect, cmath, collections, collections.abc, concurrent.futures, contextlib, copy, csv
import dataclasses
import datetime, decimal, difflib, enum, fractions, functools, hashlib, heapq, io, itertools, json, math
import operator, pprint
import queue, random, re, shlex, statistics, string, textwrap, threading, time, traceback, typing
import unicodedata, uuid, zlib
import html, urllib.parse, binascii
import ast, sys, warnings, zoneinfo
import xml.etree.ElementTree as ET
from typing import Callable, ClassVar, Generic, Iterable, List, Literal, NamedTuple, NewType, Optional, Type
from typing import TypeVar, cast

class Base(abc.ABC):
    limit = 1
    def __init__(self):
        self._x = 1
    @property
    def p(self): return self._x
    @classmethod
    def c(cls): return cls
    @staticmethod
    def s(): return 1
    @functools.cached_property
    def lazy(self): return 1
    @functools.lru_cache
    def cached(self): return 1
    def __enter__(self): return self
    def __exit__(self, kind, error, tb):
        self.seen = (kind, error)
        return True

class Child(Base):
    def up(self): return super()

class Words(str):
    def up(self): return super()

class Color(enum.Enum):
    RED = 1
class Perm(enum.Flag):
    R = enum.auto()
@dataclasses.dataclass
class Data:
    x: int = 1
    y: list = dataclasses.field(default_factory=list)
class Row(NamedTuple):
    a: int = 1
class Own(Exception):
    pass
class Tally(collections.Counter): pass
class Table(collections.abc.MutableMapping):
    def __getitem__(self, k): return 1
    def __setitem__(self, k, v): pass
    def __delitem__(self, k): pass
    def __iter__(self): return iter([])
    def __len__(self): return 0
class Name(enum.StrEnum):
    A = "a"
class Number(enum.IntEnum):
    ONE = 1
class Pair(collections.namedtuple("Pair", "a")):
    def up(self): return super()
class Broken(AttributeError):
    def up(self): return super()

def function(): pass
function.extra = 1
def generator():
    yield 1
@contextlib.contextmanager
def manager():
    yield 1

errors = []
def failing(action):
    try:
        action()
    except Exception as e:
        errors.append(e)
for action in (
    lambda: json.loads("{"), lambda: json.nope, lambda: 1 / 0, lambda: {}["k"], lambda: [].nope, lambda:
    undefined, lambda: re.compile("("), lambda: "\ud800".encode("utf-8"), lambda: b"\xff".decode(), lambda:
    int("x"), lambda: open("x"), lambda: decimal.Decimal("x"), lambda: statistics.mean([]), lambda:
    queue.Queue().get_nowait(), lambda: next(iter([])), lambda: Color("x"), lambda:
    datetime.datetime.strptime("x", "y"), lambda: zlib.decompress(b"x"), lambda: Data(z=1), lambda: [].pop(),
    lambda: math.sqrt(-1), lambda: uuid.UUID("x"), lambda: csv.DictWriter(io.StringIO(), ["a"]).writerow({"b":
    1}), lambda: base64.b64decode("x"), lambda: unicodedata.lookup("nothing"), lambda: function.nope, lambda:
    Child().nope,
):
    failing(action)

executor = concurrent.futures.ThreadPoolExecutor(max_workers=1)
future = executor.submit(function)
future.result()
executor.shutdown()
match_object = re.search("(?P<w>a)", "banana")
base = Child()
with base:
    raise Own("x", 1)
pattern = re.compile("a")

class Visitor(ast.NodeVisitor):
    def up(self): return super()
@functools.wraps(function)
def wrapper(): return function()
tree = ast.parse("def f(x: int) -> str:\n    'doc'\n    return [1, *x, 1.5, b'b', f'{x}', ..., None][0].a\n")
for part in ast.walk(tree):
    for field in ast.iter_fields(part):
        pass
buffer = io.StringIO()
with contextlib.redirect_stdout(buffer) as redirected, contextlib.redirect_stderr(sys.stdout):
    print("hidden", file=sys.stderr)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    warnings.warn("careful")
element = ET.fromstring('<a x="1">text<b>1</b><?p?><!-- c --></a>')
for action in (
    lambda: ast.parse("("), lambda: ast.Name("x"), lambda: ast.literal_eval("f()"), lambda: ET.fromstring("<"),
    lambda: zoneinfo.ZoneInfo("no/where"), lambda: warnings.warn(1, int), lambda: contextlib.redirect_stdout(1),
    lambda: context.search("("),
):
    failing(action)
hits = context.search("(?P<word>[a-z])(q)?", limit=2)

samples = [
    *ast.walk(tree), tree.body, ast.iter_fields(tree), ast.walk(tree), ast.Name, Visitor(), Visitor, Visitor().up(),
    ast.NodeVisitor, ast.dump(tree), ast.unparse(tree), wrapper, wrapper.__wrapped__, wrapper.__name__, sys.stdout,
    sys.stdout.buffer,
    sys.version_info, sys.float_info, contextlib.redirect_stdout(buffer), redirected, warnings.catch_warnings(), caught,
    zoneinfo.ZoneInfo("UTC"), zoneinfo.ZoneInfo, zoneinfo.available_timezones(), element, element[0], ET.Element,
    element.attrib, element.iter(), element.itertext(), hits, hits[0], hits[0].groups, ", ".join, str.join,
    string.Template("$a"), contexts["listed"][0], contexts["listed"].search, contexts["keyed"].lines(),
    Tally("a"), Table(), Name.A, Name, Number.ONE, Number, Pair(1), Pair(1).up(), Pair, Broken("x"), Broken("x").up(),
    errors, executor, future, match_object, base, base.c, base.p, base.cached, base.lazy, base.up(),
    Words("x").up(), pattern, pattern.scanner("a") if hasattr(pattern, "scanner") else None,
    pattern.finditer("a"), re.I, re.I | re.M, Color.RED, Color, Perm.R, Perm, Data(), Data,
    dataclasses.fields(Data), Row(), Row, Row._fields, Own("x"), function, generator(), generator, manager(),
    lambda: 1, (x for x in []), vars(base), type(function), type(generator()), type(base), type(type), type,
    type(1), type(pattern), type(errors[0]), [type(e) for e in errors], collections.Counter("a"),
    collections.defaultdict(list), collections.deque(), collections.OrderedDict(), collections.ChainMap({}),
    collections.namedtuple("P", ["a", "b"])(1, 2), "{}".format, str.format, "{}".format_map, str.format_map,
    csv.reader(["a"]), csv.reader(["a"]).dialect, csv.writer(io.StringIO()), csv.DictReader(["a"]),
    csv.DictReader(["a"]).reader, csv.DictWriter(io.StringIO(), ["a"]), contextlib.suppress(ValueError),
    contextlib.nullcontext(), contextlib.closing(io.StringIO()), datetime.datetime.now(),
    datetime.date.today(), datetime.timedelta(1), datetime.timezone.utc, datetime.datetime.now().time(),
    decimal.Decimal(1), decimal.getcontext(), decimal.localcontext(), difflib.Differ(),
    difflib.SequenceMatcher(None, "a", "b"), difflib.SequenceMatcher(None, "a", "b").get_matching_blocks(),
    difflib.unified_diff(["a"], ["b"]), fractions.Fraction(1, 2), functools.partial(print),
    functools.cmp_to_key(lambda a, b: 0), functools.cmp_to_key(lambda a, b: 0)(1), hashlib.sha256(),
    hashlib.blake2b(), heapq.merge([1], [2]), io.StringIO(), io.BytesIO(), itertools.count(),
    itertools.chain([1]), itertools.groupby([1]), itertools.tee([1]), iter([]), iter({}), iter("a"), iter(int,
    1), map(str, []), filter(None, []), zip(), enumerate([]), reversed([]), range(3), slice(1), {}.keys(),
    {}.values(), {}.items(), json.JSONDecodeError("m", "d", 0), operator.itemgetter(1),
    operator.attrgetter("a"), operator.methodcaller("a"), queue.Queue(), queue.PriorityQueue(),
    queue.SimpleQueue(), queue.Queue().mutex, queue.Queue().not_empty, random.Random(1),
    random.SystemRandom(), random.getstate(), statistics.NormalDist(), statistics.linear_regression([1, 2],
    [1, 3]), string.Template("$a"), string.Template("$a").pattern, threading.Lock(), threading.RLock(),
    threading.Event(), threading.Semaphore(), threading.Thread(target=print), time.gmtime(0),
    time.struct_time(range(9)), uuid.uuid4(), uuid.uuid4().is_safe, zip([1]),
    urllib.parse.urlparse("http://a/b"), urllib.parse.urlsplit("http://a/b"),
    urllib.parse.urlparse("http://a/b").encode(), Optional[int], List[int], Callable, ClassVar[int], Generic,
    TypeVar("T"), Type, Literal["a"], list[int], dict[str, int], int | None, list[int] | None,
    collections.Counter[str], Iterable, cast, NewType("N", int), collections.abc.Mapping,
    collections.abc.Callable, 1, 1.5, 1j, "a", b"a", bytearray(b"a"), None, True, ..., NotImplemented, [1],
    (1,), {1}, frozenset([1]), {"a": 1}, object(), property(lambda s: 1), staticmethod(function),
    classmethod(function), print, type(print), open, eval, globals(), locals, dir, vars, getattr, hasattr,
    setattr, super, base.__class__, base.__dict__, errors[0].__context__, errors[0].args, dataclasses.MISSING,
    dataclasses.KW_ONLY, dataclasses.InitVar[int], enum.auto(), copy.copy(base), copy.deepcopy(Data()),
    textwrap, traceback.format_exc, pprint.pformat({}), context, context.lines(), llm_query, math.inf,
    concurrent.futures.as_completed([future]), concurrent.futures.wait([future]), Base.__init__, Child.__eq__,
    [].__getitem__, "a".__len__, object.__new__, dict.__init__, base.__init__, Exception.__init__,
    Color.__members__,
]
"""

_LOOK_UP_OR_RUN: tuple[object, ...] = (
    open,
    io.open,
    eval,
    exec,
    compile,
    builtins.__import__,
    builtins.__build_class__,
    builtins.getattr,
    builtins.setattr,
    builtins.delattr,
    builtins.hasattr,
    builtins.vars,
    builtins.dir,
    builtins.globals,
    builtins.locals,
    builtins.input,
    builtins.breakpoint,
    builtins.super,
    builtins.memoryview,
    builtins.id,
    attrgetter,
    operator.methodcaller,
    functools.update_wrapper,
    functools.wraps,
    functools.singledispatch,
    functools.partialmethod,
    typing.get_type_hints,
    typing.NamedTuple,
    string.Formatter,
    importlib.import_module,
    str.format,
    str.format_map,
    type.mro,
    sys.modules,
    os.system,
)
_FORBIDDEN_TYPES = (
    types.ModuleType,
    types.CodeType,
    types.FrameType,
    types.TracebackType,
    types.CellType,
    string.Formatter,
)
_FORBIDDEN_NAMES = frozenset(
    {"__getattribute__", "__setattr__", "__subclasses__", "__reduce_ex__", "__reduce__", "__import__", "_getframe"}
)
_DUNDERS = guards.METHOD_DUNDERS | {"__class__", "__name__", "__qualname__", "__doc__", "__dict__"}
_DUNDERS |= {"__cause__", "__context__", "__members__", "__annotations__"}


Reader = Callable[[object, str], object]


def danger(value: object) -> str | None:
    """Why a guest program must not hold `value`, or None."""
    if isinstance(value, _FORBIDDEN_TYPES):
        return f"a {type(value).__name__}"
    if isinstance(value, type) and issubclass(value, type):
        return "a metaclass"
    if any(value is known for known in _LOOK_UP_OR_RUN):
        return f"{value!r} looks attributes up, evaluates or opens"
    if (
        type(value) is types.BuiltinMethodType
        and isinstance(value.__self__, str)
        and value.__name__.startswith("format")
    ):
        return "str.format of a string"
    if isinstance(value, (types.BuiltinFunctionType, types.MethodWrapperType, types.WrapperDescriptorType)):
        if value.__name__ in _FORBIDDEN_NAMES:
            return f"the function {value.__name__}"
        if getattr(value, "__module__", None) in ("posix", "nt", "sys", "_io", "_imp"):
            return f"{value.__name__} of {value.__module__}"
    if type(value) in (dict, types.MappingProxyType) and {"__builtins__", "__import__", "__loader__"} & set(value):  # type: ignore[call-overload]
        return "a namespace of built-ins"
    return None


def readable_names(value: object) -> Iterator[str]:
    """The names that source code may put behind a dot, as far as `value` has them."""
    names = set(dir(value)) | set(dir(type(value)))
    for name in sorted(names):
        if kind_of(name) in (Kind.PLAIN, Kind.SPECIAL, Kind.PRIVATE) or name in _DUNDERS:
            yield name


def read_past_the_guard(value: object, name: str) -> object:
    """A read that relies on the vetting of names alone; what is vetted by object goes through the guard."""
    if kind_of(name) is Kind.PLAIN:
        return getattr(value, name)
    return guards.guest_getattr(value, name)


# Attributes of a number or of a bound method are made anew at each read: enough of each are looked at, not all.
_EACH_TYPE_MAX = 40
_IDENTITY_KEPT = (type, types.FunctionType, facades.Facade)


def walk(roots: dict[str, object], read: Reader) -> tuple[dict[str, str], int]:
    """Follow attributes breadth first; give `{path: why it is dangerous}` and the number of objects seen."""
    found: dict[str, str] = {}
    kept: dict[object, object] = {}
    instances: Counter[type] = Counter()
    queue = list(roots.items())
    for path, value in queue:
        reason = danger(value)
        if reason is not None:
            found[path] = reason
            continue
        key = _identity(value)
        if key in kept or (instances[type(value)] >= _EACH_TYPE_MAX and type(value) not in _IDENTITY_KEPT):
            continue
        kept[key] = value
        instances[type(value)] += type(value) is not types.BuiltinMethodType
        queue += list(_children(path, value, read))
    return found, len(kept)


def _identity(value: object) -> object:
    if isinstance(value, (types.BuiltinMethodType, types.MethodType, types.MethodWrapperType)):
        return type(value), value.__name__, type(value.__self__)
    return id(value)


def _children(path: str, value: object, read: Reader) -> Iterator[tuple[str, object]]:
    for name in readable_names(value):
        try:
            yield f"{path}.{name}", read(value, name)
        except Exception as refusal:  # whatever a property raises: it is not a value
            yield f"{path}.{name}!", refusal.args
    if isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"{path}[{at}]", one) for at, one in enumerate(value))
    if isinstance(value, dict):
        yield from ((f"{path}[{key!r}]", one) for key, one in list(value.items()))


def roots(regex: types.ModuleType | None) -> dict[str, object]:
    """What a guest program can name, in a namespace where the samples have been made."""
    text = "some text\nof two lines"
    items, entries = Stored(["a", [1]]), Stored({"a": "b"})
    too_large = PagedText(len(text), lambda start, stop: text[start:stop], materialise_chars_max=10)
    names: dict[str, object] = {
        "context": PagedText(len(text), lambda start, stop: text[start:stop]),
        "found": [paged_regex.search("(?P<w>t)", too_large), too_large.search("t")],
        "contexts": {
            "listed": PagedList(items.paged("text"), items.paged("directory"), 2),
            "keyed": PagedDict(entries.paged("text"), entries.paged("directory"), 1),
        },
        "entries": (table := PagedDict(entries.paged("text"), entries.paged("directory"), 1)),
        "views": [table.keys(), table.values(), table.items()],
        "llm_query": World().llm_query,
    }
    namespace = make_globals(write=lambda stream, text: None, names=names, regex=regex)
    exec(compile_cell(SAMPLES), namespace)
    scope = namespace["__builtins__"]
    assert isinstance(scope, dict)
    nameable = {name: value for name, value in (scope | namespace).items() if name.isidentifier() and name[:2] != "__"}
    importer = scope["__import__"]
    nameable |= {f"import {name}": importer(name, None, None, ("x",)[:0], 0) for name in facades.module_names()}
    return nameable


class World:
    """The agent's side of a guest name."""

    secret = sys

    def llm_query(self, prompt: str) -> str:
        return prompt


@pytest.mark.slow
@pytest.mark.parametrize("regex", [None, paged_regex.as_module()], ids=["re", "paged re"])
@pytest.mark.parametrize("read", [guards.guest_getattr, read_past_the_guard], ids=["guarded", "by name alone"])
def test_no_attribute_leads_out(read: Reader, regex: types.ModuleType | None) -> None:
    found, seen = walk(roots(regex), read)
    assert found == {}
    assert seen > 1500


class Careless:
    """A library object with something dangerous in a public attribute."""

    def __init__(self, value: object) -> None:
        self.value = value


def _frame() -> types.FrameType:
    return sys._getframe()


@pytest.mark.parametrize(
    "value",
    [
        sys,
        open,
        type,
        str.format,
        "{}".format,
        _frame(),
        _frame().f_code,
        sys.modules,
        vars(builtins),
        operator.attrgetter,
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_walk_would_find_a_way_out(value: object) -> None:
    found, _ = walk({"names": [Careless(Careless(value))]}, getattr)
    assert "names[0].value.value" in found


def test_the_guard_stops_a_module_that_a_careless_object_offers() -> None:
    for value in (sys, type, _frame(), _frame().f_code):
        with pytest.raises(AttributeError, match="not available"):
            guards.guest_getattr(Careless(value), "value")


def test_every_module_offers_what_its_table_names() -> None:
    importer = facades.Importer(lambda stream, text: None)
    for name in facades.module_names():
        facade = importer(name, None, None, ("x",)[:0], 0)
        assert type(facade) is facades.Facade
    for name, wanted in facades._NAMED.items():
        module = importlib.import_module(name)
        missing = [key for key in wanted.split() if key != "*" and not hasattr(module, key)]
        assert missing == [], name


def test_a_facade_is_read_only_and_knows_no_module() -> None:
    importer = facades.Importer(lambda stream, text: None)
    json = importer("json")
    assert json is not None
    with pytest.raises(TypeError, match="read-only"):
        json.loads = None
    assert not any(isinstance(value, types.ModuleType) for value in vars(json).values())
    assert not hasattr(json, "__name__")  # CPython's `from x import y` would look in sys.modules for it


def test_after_preload_no_facade_imports_anything() -> None:
    program = (
        "import sys; from guest.language import facades; facades.preload(); before = set(sys.modules)\n"
        "importer = facades.Importer(print)\n"
        "made = [importer(name, None, None, None, 0) for name in facades.module_names() if name not in facades.LATER]\n"
        "made[0] is None or importer('datetime').datetime.strptime('2024', '%Y')\n"
        "print(sorted(set(sys.modules) - before))"
    )
    images = str(Path(facades.__file__).parents[2])
    environment = {"PYTHONPATH": images}
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert ran.stdout == "[]\n"
