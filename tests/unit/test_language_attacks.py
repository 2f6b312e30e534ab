"""Ways out of the restricted language that look harmless: library calls on objects that they were not made for.

Each program calls `leak(what)` once it holds, or has changed, what no program should; in plain CPython each of them
gets there. In the restricted language it may be refused, fail or come to nothing, but `leak` is never reached.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from concurrent.futures import Future
from typing import Any

import pytest

from guest.context import regex
from guest.language.restricted import Rejected, compile_cell, make_globals

WRITER = """
class Writer:
    def __eq__(self, other): other['planted'] = 1
    def __ror__(self, other): other['planted'] = 1
"""
TEXT = "class S(str):\n    def translate(self, table): leak(table)\n    def expandtabs(self, n): return self\n"
OBJECT = "from concurrent.futures import Future\nother = Future()\n"
HIDDEN = (
    "import threading\nfrom abc import ABC\nfrom dataclasses import dataclass\nt = threading.Thread(target=print)\n"
)
SPY = (
    "from dataclasses import dataclass, field\n"
    "class Spy:\n    def __eq__(self, other): leak(other('{0.__class__}', 1))\n"
)
LEAVING = """
def leave(*given):
    leak(given[-1])
class Base:
    def __enter__(self): return self
"""
ENTERED = "\nwith C(): 1 / 0"

METHODS_ON_OTHERS = {
    "program text as a field's name": "import threading\nfrom dataclasses import dataclass, fields\n"
    "@dataclass\nclass A:\n    x: int = 0\n"
    "threading.Thread.setName(fields(A)[0], \"x,setattr(self.__class__, 'got', open)\")\n"
    "@dataclass(init=False, repr=False)\nclass B(A): pass\nB.x = 1\n"
    "object.__new__(B) == object.__new__(B)\nleak(B.got)",
    "a setter of a library property": OBJECT + "import csv\ncsv.DictReader.fieldnames.fset(other, 1)\n"
    "leak(other._fieldnames)",
    "a getter of a library property": "from fractions import Fraction\nclass G: _numerator = 1\n"
    "leak(Fraction.numerator.fget(G()))",
    "a setter method of a library class": OBJECT + "import threading\nthreading.Thread.setName(other, 'x')\n"
    "leak(other.name)",
    "the constructor of a library exception": OBJECT + "import re\ntry: re.error.__init__(other, 'planted')\n"
    "except TypeError: pass\nleak(other.msg)",
    "the constructor of a derived exception": OBJECT + "import re\nclass E(re.error): pass\n"
    "try: E.__init__(other, 'planted')\nexcept TypeError: pass\nleak(other.msg)",
    "the constructor of an abstract base": OBJECT + "from collections.abc import KeysView\nclass V(KeysView): pass\n"
    "V.__init__(other, {})\nleak(other)",
    "a state that is set half": OBJECT + "import random\ntry: random.Random.setstate(other, (3, 0, 'planted'))\n"
    "except TypeError: pass\nleak(other.gauss_next)",
    "type by copying a class": "from collections import Counter\nleak(Counter.copy(int))",
    "the metaclass of a class that counts as a number": "import abc, statistics\nclass V:\n"
    "    def __radd__(self, other): return self\n    def __truediv__(self, other): return abc.ABC\n"
    "    def is_finite(self): return False\nclass C: as_integer_ratio = staticmethod(lambda: (V(), None))\n"
    "made = statistics.mean([C])('X', (), {'__getattr__': lambda self, name: name})\nleak(made().anything)",
    "the metaclass of a difference": "import abc, statistics\nclass V:\n"
    "    def __radd__(self, other): return self\n    def __truediv__(self, other): return abc.ABC\n"
    "    def is_finite(self): return False\nclass C: as_integer_ratio = staticmethod(lambda: (V(), None))\n"
    "class D:\n    def __mul__(self, other): return C\nclass N:\n    def __sub__(self, other): return D()\n"
    "leak(statistics.pvariance([N()], 1)('X', (), {}))",
    "an inner function of a template": "import string\nclass P:\n    def sub(self, function, text): leak(function)\n"
    "class T:\n    template = ''\n    pattern = P()\nstring.Template.substitute(T())",
    "an executor's work item": "from concurrent.futures import ThreadPoolExecutor\nimport threading\nclass Q:\n"
    "    def put(self, item): leak(item)\nclass E:\n    _shutdown_lock = threading.Lock()\n"
    "    _broken = _shutdown = False\n    _work_queue = Q()\nThreadPoolExecutor.submit(E(), print)",
    "a thread's table of beginners": "import threading\nclass E:\n    def set(self): pass\n    def wait(self): pass\n"
    "    def is_set(self): return False\nclass T:\n    _initialized = True\n    _started = E()\n"
    "    def _bootstrap(self): pass\n    def __hash__(self): leak('asked by the table of threads')\n"
    "threading.Thread.start(T())",
    "a method handed to map": OBJECT + "import threading\nlist(map(threading.Thread.setName, [other], ['x']))\n"
    "leak(other.name)",
    "a method in a class of one's own": OBJECT + "import threading\nclass A: go = threading.Thread.setName\n"
    "A.go(other, 'x')\nleak(other.name)",
    "a method by attrgetter": OBJECT + "import threading, operator\n"
    "operator.attrgetter('setName')(threading.Thread)(other, 'x')\nleak(other.name)",
    "a method by partial": OBJECT + "import threading, functools\n"
    "functools.partial(threading.Thread.setName, other)('x')\nleak(other.name)",
    "a method by super()": OBJECT + "from collections.abc import KeysView\nclass V(KeysView):\n    @classmethod\n"
    "    def go(cls): super().__init__(other, {})\nV.go()\nleak(other)",
    "a virtual subclass of a library class": "from collections import ChainMap\nclass G: pass\nChainMap.register(G)\n"
    "leak(isinstance(G(), ChainMap))",
    "a virtual subclass by an inherited register": "from collections.abc import Mapping\nclass D(Mapping): pass\n"
    "class G: pass\ndel D._abc_impl\nD.register(G)\nleak(isinstance(G(), Mapping))",
    "a virtual subclass by getattr": "from fractions import Fraction\nclass G: pass\n"
    "getattr(Fraction, 'reg' + 'ister')(G)\nleak(isinstance(G(), Fraction))",
}
GENERATED_METHODS = {
    "__init__ of a dataclass": HIDDEN + "@dataclass\nclass D:\n    _target: object\nD.__init__(t, leak)\nt.run()",
    "__init__ of a frozen dataclass": HIDDEN + "@dataclass(frozen=True)\nclass D:\n    _target: object\n"
    "D.__init__(t, leak)\nt.run()",
    "__init__ by super()": HIDDEN + "@dataclass\nclass D:\n    _target: object\nclass E(D):\n    @classmethod\n"
    "    def go(cls): super().__init__(t, leak)\nE.go()\nt.run()",
    "__init__ in another class": HIDDEN + "@dataclass\nclass D:\n    _target: object\nclass E: go = D.__init__\n"
    "E.go(t, leak)\nt.run()",
    "__repr__ of a dataclass": HIDDEN + "@dataclass(eq=False)\nclass D:\n    _target: object\nleak(D.__repr__(t))",
    "__hash__ of a dataclass": HIDDEN + "@dataclass(unsafe_hash=True)\nclass D:\n    _target: object\n"
    "leak(D.__hash__(t))",
    "a pattern by position": HIDDEN + "@dataclass\nclass D(ABC):\n    _target: object\nD.register(threading.Thread)\n"
    "match t:\n    case D(x): leak(x)",
    "a frame by position": "from abc import ABC\nfrom dataclasses import dataclass\ng = (x for x in [1])\n"
    "@dataclass\nclass D(ABC):\n    gi_frame: object\nD.register(type(g))\nmatch g:\n    case D(frame): leak(frame)",
    "a named tuple's _replace": "from collections import namedtuple\nN = namedtuple('N', 'a')\nclass T:\n"
    "    def _make(self, fields): leak(fields)\n    def __iter__(self): return iter([1])\nN._replace(T())",
    "total_ordering": "from functools import total_ordering\n@total_ordering\nclass T:\n    def __lt__(self, o):\n"
    "        return True\nleak(T.__ge__(1, 2))",
    "a field called like the metaclass's method": "from enum import Enum\nfrom dataclasses import dataclass, fields\n"
    "@dataclass\nclass E(Enum):\n    _create_: object\n"
    "leak(fields(E)[0].default('F', {'x': 1, '__getattr__': lambda s, n: n}))",
    "a field called like an abstract class's method": "from abc import ABC\nfrom dataclasses import dataclass, fields\n"
    "@dataclass\nclass D(ABC):\n    register: object\nfields(D)[0].default(int)\nleak(isinstance(1, D))",
    "a field called like a library's private method": "from collections import Counter\n"
    "from dataclasses import dataclass, fields\n@dataclass\nclass D(Counter):\n    _keep_positive: object\n"
    "leak(fields(D)[0].default(D('a')))",
    "a metaclass's method when its name is bare": "from enum import Enum\nfrom dataclasses import dataclass, fields\n"
    "class M: _create_ = 1\ndef bare(cls): del M._create_\nclass E(M, Enum):\n"
    "    a: object = classmethod(property(bare))\n    _create_: object\n"
    "dataclass(E)\nleak(fields(E)[1].default('F', {'x': 1, '__getattr__': lambda s, n: n}))",
    "a library's private method when its name is bare": "from collections import Counter\n"
    "from dataclasses import dataclass, fields\ndef bare(cls): del cls._keep_positive\nclass D(Counter):\n"
    "    a: object = classmethod(property(bare))\n    _keep_positive: object = 1\n"
    "dataclass(D)\nleak(fields(D)[1].default(D('a')))",
    "a field with the name of another class": "from collections import Counter\n"
    "from dataclasses import dataclass, field, replace\nf = field(default=None)\n@dataclass\nclass A(Counter):\n"
    "    x: object = f\n    def __init__(self, **k): leak(k.get('_keep_positive'))\n"
    "@dataclass\nclass B: _keep_positive: object = f\nreplace(A())",
    "a default that is a library's method": "from collections import Counter\nfrom dataclasses import dataclass\n"
    "@dataclass\nclass A(Counter):\n    copy: object\nleak(vars(A())['copy'](int))",
    "a default that is a library's method when its name is bare": "from collections import Counter\n"
    "from dataclasses import dataclass\ndef bare(cls): del cls.copy\nclass A(Counter):\n"
    "    a: object = classmethod(property(bare))\n    copy: object = 1\ndataclass(A)\nleak(vars(A())['copy'](int))",
    "a default that is str.format": "from dataclasses import dataclass, fields\n@dataclass(init=False, repr=False)\n"
    "class S(str):\n    format: object\nleak(fields(S)[0].default('{0.__class__}', 1))",
    "str.format where the field is missing": SPY + "@dataclass(init=False)\nclass S(str):\n    format: object = 1\n"
    "del S.format\na, b = S('{0.__class__}'), S()\nb.format = Spy()\na == b",
    "str.format from another base": SPY + "@dataclass(init=False)\nclass P:\n    format: object\n"
    "class S(P, str): pass\na, b = S('{0.__class__}'), S()\nb.format = Spy()\na == b",
    "str.format by a shared field": SPY + "f = field(default=1)\n@dataclass(eq=False)\nclass A:\n"
    "    x: object = f\n@dataclass\nclass B: format: object = f\n@dataclass(init=False)\nclass S(A, str): pass\n"
    "a, b = S('{0.__class__}'), S()\nb.format = Spy()\na == b",
    "a slot by an enumeration's member": "from enum import Enum\nnames = []\nclass E(Enum):\n    __slots__ = names\n"
    "    def __new__(cls, value):\n        names.append('__getattr__')\n        return object.__new__(cls)\n    A = 1\n"
    "leak(E.__slots__) if '__getattr__' in E.__slots__ else None",
}
ENUMERATIONS = {
    "a member that is somebody else's": OBJECT + "from enum import Enum\nclass E(Enum):\n    A = ()\n"
    "    def __new__(cls): return other\nleak(other)",
    "a member by a mixed-in class": OBJECT + "from enum import Enum\nclass M:\n    def __new__(cls, *a): return other\n"
    "class E(M, Enum):\n    A = ()\nleak(other)",
    "a member by a class mixed in twice": OBJECT + "from enum import Enum\nclass L:\n"
    "    def __new__(cls, *a): return other\nclass M(L): pass\nclass E(M, Enum):\n    A = ()\nleak(other)",
    "a combination of flags": OBJECT + "from enum import Flag\nready = []\nclass M(int):\n    def __new__(cls, *a):\n"
    "        return other if ready else int.__new__(cls, *a)\nclass E(M, Flag):\n    A = 1\n    B = 2\n"
    "ready.append(1)\ntry: E.A | E.B\nexcept TypeError: pass\nleak(other) if hasattr(other, '_value_') else None",
}
INSIDES = {
    "a pattern's groups": WRITER + "import re\np = re.compile('(?P<a>xy)')\np.groupindex == Writer()\n"
    "leak(p.groupindex.get('planted'))",
    "a pattern's groups by |": WRITER + "import re\np = re.compile('(?P<a>xyz)')\np.groupindex | Writer()\n"
    "leak(p.groupindex.get('planted'))",
    "a field's metadata": WRITER + "import dataclasses\n@dataclasses.dataclass\nclass D:\n"
    "    x: int = dataclasses.field(metadata={})\ndataclasses.fields(D)[0].metadata == Writer()\n"
    "leak(dataclasses.fields(D)[0].metadata.get('planted'))",
    "a wrapper's table": TEXT + "import textwrap\ntextwrap.fill(S('a b'))",
    "a wrapper's table by its name": TEXT + "import textwrap\ntextwrap.wrap(text=S('a b'))",
    "a wrapper's table by a duck": TEXT + "import textwrap\nclass T:\n    def expandtabs(self, n): return S('a')\n"
    "textwrap.fill(T())",
    "a table of quoted characters": "from urllib.parse import urlencode\nclass N(int):\n"
    "    def __format__(self, spec): leak('asked by the table')\nclass B(bytes):\n"
    "    def __iter__(self): return iter([N(33)])\n    def rstrip(self, safe): return b'x'\nclass S(str):\n"
    "    def __str__(self): return self\n    def __contains__(self, part): return False\n"
    "    def encode(self, *given): return B(b'!')\nurlencode({'k': S('a')}, safe='-_')",
    "a table of addresses": "from urllib.parse import urlsplit\nclass G:\n"
    "    def __hash__(self): leak('asked by the table')\nurlsplit('a', '', G())",
    "a table of dates": "import datetime\nclass S(str):\n    def __hash__(self): leak('asked by the table')\n"
    "datetime.datetime.strptime('2020', S('%Y'))",
    "a table of dates by another name": "import time\nclass S(str):\n"
    "    def __hash__(self): leak('asked by the table')\nread = time.strptime\nread('2020', S('%Y'))",
    "a template's reader": "import re\nclass S(str):\n    def __getitem__(self, at): leak('asked by the reader')\n"
    "re.search('(a)', 'xa').expand(S(chr(92) + '1'))",
    "a template's reader by a match's pattern": "import re\nclass S(str):\n"
    "    def __getitem__(self, at): leak('asked by the reader')\nre.search('(a)', 'xa').re.sub(S(chr(92) + '1'), 'a')",
    "a template's reader by a template's pattern": "import string\nclass S(str):\n"
    "    def __getitem__(self, at): leak('asked by the reader')\n"
    "string.Template.pattern.sub(S(chr(92) + 'g<named>'), '$a')",
    "a pattern's flags": "import re\nready = []\nclass I(int):\n    def __ror__(self, other): return self\n"
    "    def __and__(self, other):\n        if ready: leak('asked by the parser')\n"
    "        return int.__and__(self, other)\nflags = re.I | I(1 << 20)\nready.append(1)\nre.compile('(a)', flags)",
    "a pattern's table of specials": TEXT + "import re\nre.escape(S('a'))",
    "a waiter": "import concurrent.futures as f\nclass L(list):\n    def append(self, waiter): leak(waiter)\nclass C:\n"
    "    def acquire(self): pass\n    def release(self): pass\nclass F:\n    _waiters, _state = L(), 'PENDING'\n"
    "    _condition = C()\nf.wait([F()], timeout=0)",
    "typing's own classes": "from typing import ClassVar\nclass C:\n    def __call__(self): pass\n"
    "    def __eq__(self, other): leak(other)\n    def __hash__(self): return 1\nClassVar[C()]",
    "a memo of one's own": "import copy\nclass M:\n    def get(self, key, default): return default\n"
    "    def __getitem__(self, key): raise KeyError\n    def __setitem__(self, key, value):\n"
    "        if type(value) is dict: leak(value)\nclass A:\n    def __init__(self): self.x = 1\n"
    "copy.deepcopy(A(), M())",
    "the memo that a hook is given": "import copy\nclass H:\n    def __deepcopy__(self, memo):\n"
    "        if len(memo): leak(memo)\nclass A: pass\na = A()\na.x, a.y = [1], H()\ncopy.deepcopy(a)",
    "the memo of asdict": "from dataclasses import dataclass, asdict\nclass H:\n    def __deepcopy__(self, memo):\n"
    "        if len(memo): leak(memo)\n@dataclass\nclass D:\n    x: object\nclass A: pass\n"
    "a = A()\na.x, a.y = [1], H()\nasdict(D(a))",
    "a copy that is somebody else's": OBJECT + "import copy\nready = []\nclass A:\n    def __new__(cls):\n"
    "        return other if ready else object.__new__(cls)\na = A()\na.planted = 1\nready.append(1)\ncopy.copy(a)\n"
    "leak(other.planted)",
    "copy's sentinel": "import copy\nclass M(dict):\n    def get(self, key, default):\n        leak(default)\n"
    "copy.deepcopy([1], M())",
    "what a generator waits for": "def outer():\n    yield from (x for x in [1])\ng = outer()\nnext(g)\n"
    "leak(g.gi_yieldfrom)",
}
TRACEBACKS = {
    "a partial": LEAVING + "import functools\nclass C(Base): __exit__ = functools.partial(leave)" + ENTERED,
    "a static method": LEAVING + "class C(Base): __exit__ = staticmethod(leave)" + ENTERED,
    "a class method": LEAVING + "class C(Base): __exit__ = classmethod(leave)" + ENTERED,
    "a cached function": LEAVING + "import functools\nclass C(Base): __exit__ = functools.cache(leave)" + ENTERED,
    "an object": LEAVING + "class O:\n    def __call__(self, *given): leave(*given)\n"
    "class C(Base): __exit__ = O()" + ENTERED,
    "a property": LEAVING + "class C(Base):\n    @property\n    def __exit__(self): return leave" + ENTERED,
    "a lambda": LEAVING + "class C(Base): __exit__ = lambda self, *given: leave(*given)" + ENTERED,
    "a mixed-in class": LEAVING
    + "class M:\n    def __exit__(self, *given): leave(*given)\nclass C(M, Base): pass"
    + ENTERED,
    "a function that was wrapped": LEAVING + "import functools\ndef around(f):\n    @functools.wraps(f)\n"
    "    def inner(*given): return f(*given)\n    return inner\nclass C(Base): __exit__ = around(leave)" + ENTERED,
    "a generator of one's own": "from contextlib import contextmanager\nclass G:\n    def __next__(self): return 1\n"
    "    def throw(self, *given): leak(given[-1])\n@contextmanager\ndef make(): return G()\nwith make(): 1 / 0",
    "what a generator delegates to": "from contextlib import contextmanager\nclass G:\n"
    "    def __iter__(self): return self\n    def __next__(self): return 1\n"
    "    def throw(self, kind, error=None, trace=None): leak(trace)\n@contextmanager\n"
    "def make(): yield from G()\nwith make(): 1 / 0",
    "an enumeration": "from enum import Enum\nclass E(Enum):\n    A = 1\n    def __enter__(self): pass\n"
    "    def __exit__(self, *given): leak(given[-1])\nwith E.A: 1 / 0",
    "a dataclass with slots": "from dataclasses import dataclass\n@dataclass(slots=True)\nclass D:\n    x: int = 1\n"
    "    def __enter__(self): pass\n    def __exit__(self, *given): leak(given[-1])\nwith D(): 1 / 0",
    "a typed tuple": "from typing import NamedTuple\nclass N(NamedTuple):\n    x: int = 1\n"
    "    def __enter__(self): pass\n    def __exit__(self, *given): leak(given[-1])\nwith N(): 1 / 0",
}
GROUPS = {
    "a method on another's object": METHODS_ON_OTHERS,
    "a generated method": GENERATED_METHODS,
    "an enumeration": ENUMERATIONS,
    "the insides of": INSIDES,
    "a traceback by": TRACEBACKS,
}
ATTACKS = {f"{group}: {name}": source for group, attacks in GROUPS.items() for name, source in attacks.items()}


class Leaks(BaseException):
    """The program got where it wanted."""


def leak(what: object = "it was called") -> None:
    if what is not None:  # the traceback that a guarded `__exit__` is given
        raise Leaks


def run_plain(source: str) -> None:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        names: dict[str, Any] = {"__name__": "__main__", "leak": leak}
        exec(compile(source, "<cell>", "exec", dont_inherit=True), names)


@pytest.mark.parametrize("source", ATTACKS.values(), ids=ATTACKS.keys())
def test_an_attack_comes_to_nothing(source: str) -> None:
    with pytest.raises(Leaks):  # the yardstick: it is no typing error that stops it
        run_plain(source)
    re.purge()  # the patterns of that run are what it made of them
    namespace = make_globals(write=lambda stream, text: None, names={"leak": leak}, regex=regex.as_module())
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        exec(compile_cell(source), namespace)
    other = namespace.get("other")
    assert not isinstance(other, Future) or set(vars(other)) == set(vars(Future()))


@pytest.mark.parametrize(
    "source",
    [
        "from collections import Counter\nx = Counter.most_common(Counter('aab'), 1)",
        "import threading\nts = [threading.Thread(target=print) for _ in 'ab']\nlist(map(threading.Thread.start, ts))\n"
        "for t in ts: t.join()",
        "from contextlib import contextmanager\nclass K:\n    @staticmethod\n    @contextmanager\n    def section():\n"
        "        yield 1\nwith K.section() as x: pass",
        "from dataclasses import dataclass\n@dataclass(order=True)\nclass D:\n    x: int\nx = D.__lt__(D(1), D(2))",
        "from enum import Enum\nclass E(Enum):\n    A = 1, 'a'\n    def __new__(cls, n, label):\n"
        "        made = object.__new__(cls)\n        made._value_, made.label = n, label\n        return made\n"
        "x = E(1).label",
        "from enum import Flag, auto\nclass F(Flag):\n    A = auto()\n    B = auto()\nx = F.A | F.B",
        "from typing import ClassVar\nfrom dataclasses import dataclass\n@dataclass\nclass D:\n"
        "    n: ClassVar[int] = 1\n    m: ClassVar = 2\n    x: int = 3\nx = D(4)",
        "from enum import Enum\nfrom dataclasses import dataclass\n@dataclass(frozen=True)\nclass P:\n    x: int = 0\n"
        "    _y: int = 1\nclass E(P, Enum):\n    A = 2\nx = E.A.x\n"
        "@dataclass\nclass Oops(Exception):\n    code: int = 1\n    args: tuple = ()\nx = Oops(2).code",
        "from contextlib import contextmanager\n@contextmanager\ndef inner():\n    try: yield 1\n"
        "    except ZeroDivisionError: pass\n@contextmanager\ndef outer():\n    with inner() as x: yield x\n"
        "with outer() as x: x / 0\n@contextmanager\ndef plain():\n    try: yield 2\n    finally: done.append(1)\n"
        "done = []\ntry:\n    with plain(): [][0]\nexcept IndexError: done.append(2)\nassert done == [1, 2]",
        "from dataclasses import InitVar, dataclass, field, replace\nfrom typing import ClassVar\n@dataclass\n"
        "class D:\n    x: int\n    n: ClassVar[int] = 1\n    i: InitVar[int] = 5\n"
        "    y: int = field(init=False, default=0)\n    def __post_init__(self, i): self.y = i\n"
        "a = D(1, 7)\nb = replace(a, x=3)\nassert (b.x, b.y) == (3, 5)\n"
        "try: replace(a, y=1)\nexcept ValueError as e: assert 'init=False' in str(e)\nelse: assert False",
        "from urllib.parse import quote, urlencode\n"
        "assert urlencode({'a b': [1, 'c d']}, doseq=True) == 'a+b=1&a+b=c+d'\n"
        "assert urlencode([('k', b'/ ')], safe='/', quote_via=quote) == 'k=/%20'",
        "import datetime, re, time\nassert datetime.datetime.strptime('2020-01-02', '%Y-%m-%d').day == 2\n"
        "m = re.search('(a)(?P<n>b)', 'xab')\nassert m.expand(r'\\2\\1') == 'ba'\n"
        "assert m.re.sub('c', 'abab') == 'cc'\n"
        "assert m.re.pattern == '(a)(?P<n>b)' and re.Match.expand(m, 'z') == 'z'\n"
        "assert time.strptime('2020', '%Y').tm_year == 2020",
        "class C:\n    def __enter__(self): return self\n    def __exit__(self, kind, error, trace): return True\n"
        "with C(): 1 / 0",
        "from decimal import Decimal\nfrom statistics import harmonic_mean, mean, pvariance, variance\n"
        "class I(int): pass\nassert mean(x for x in [I(1), 2]) == 1.5 and mean([Decimal(1)]) == Decimal(1)\n"
        "assert harmonic_mean([40, 60], weights=[5, 30]) == 56 and pvariance({1: 0, 3: 0}, mu=2) == 1\n"
        "assert variance([True, False], None) == 0.5",
    ],
    ids=range(14),
)
def test_what_is_meant_still_works(source: str) -> None:
    run_plain(source)
    namespace = make_globals(write=lambda stream, text: None, names={})
    exec(compile_cell(source), namespace)


def test_a_rejection_is_not_what_stops_them_all() -> None:
    rejected = 0
    for source in ATTACKS.values():
        try:
            compile_cell(source)
        except Rejected:
            rejected += 1
    assert rejected < len(ATTACKS) / 4
