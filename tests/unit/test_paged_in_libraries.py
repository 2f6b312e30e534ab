"""What programs do with a text or a list gives the same when it is paged, in both languages.

Each program sets `result`. It runs with the real value and with the paged one. A paged one that fits in memory gives
the same; one that does not gives the same or raises an error whose message says what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from guest.agent import loop as agent
from guest.context import regex
from guest.context.collection import PagedDict, PagedList
from guest.context.paged import LookAlike, PagedText
from guest.language.restricted import compile_cell, make_globals
from tests.unit.paged_fakes import Stored

TEXT = "name,age\nAda,36\n" + "Grace,85\r\n" * 20 + '"Zoë, the\nfirst",7\nUser: 98779\n'
JSON = '{"a": [1, 2, {"b": "é"}], "c": "' + "x" * 300 + '"}'
INSTEAD = re.compile(r"context\.lines\(\)|a slice|for item in context|(str|list|dict)\(context\)")

TEXT_PROGRAMS = {
    "re.search": r"import re; m = re.search(r'User: (\d+)', context); result = m.group(1), m.span(), m.start(1)",
    "re.search everywhere": r"import re; m = re.search(r'\s+User', context); result = m.span()",
    "re.match": r"import re; result = re.match('name', context).group(), re.match('age', context)",
    "re.fullmatch": r"import re; result = re.fullmatch('name', context)",
    "re.findall": r"import re; result = re.findall(r'(\w+),(\d+)', context)",
    "re.finditer": r"import re; result = [m.group() for m in re.finditer(r'(?m)^\w+', context)]",
    "re.split": r"import re; result = re.split(r',|\n', context)",
    "re.sub": r"import re; result = re.sub(r'\d', '#', context)",
    "re.subn": r"import re; result = re.subn('a', lambda m: m.group().upper(), context)",
    "compiled": r"import re; p = re.compile(r'user: \d+', re.I); result = p.search(context).span(), p.findall(context)",
    "from re": "from re import findall; result = findall('Ada', context)",
    "csv.reader": "import csv, io; result = list(csv.reader(io.StringIO(context)))",
    "csv.DictReader": "import csv, io; result = [dict(row) for row in csv.DictReader(io.StringIO(context))]",
    "csv by lines": "import csv; result = list(csv.reader(context.splitlines()))",
    "io.StringIO": "import io; result = io.StringIO(context).readlines(), io.StringIO(context).read(5)",
    "from io": "from io import StringIO; f = StringIO(); f.write(context); result = f.getvalue()",
    "textwrap.wrap": "import textwrap; result = textwrap.wrap(context, 30)",
    "textwrap.fill": "import textwrap; result = textwrap.fill(context, width=30)",
    "textwrap.dedent": "import textwrap; result = textwrap.dedent(context)",
    "textwrap.indent": "import textwrap; result = textwrap.indent(context, '> ')",
    "textwrap.shorten": "import textwrap; result = textwrap.shorten(context, 40, placeholder='...')",
    "json.dumps": "import json; result = json.dumps(context), json.dumps({'a': [context]}, ensure_ascii=False)",
    "json.dumps with an indent": "import json; result = json.dumps({'a': [context, {context: (context,)}]}, indent=1)",
    "json.dump": "import io, json; f = io.StringIO(); json.dump({'a': [context]}, f); result = f.getvalue()",
    "f-string": "result = f'{context}', f'{context!s}', f'{context:>5}'",
    "format spec": "result = f'{context:.20}', format(context, '<10.5s')",
    "percent": "result = '%s' % context, '%s|%d' % (context, 5)",
    "str.format": "result = '{} {x}'.format(context, x=context)",
    "str": "result = str(context), type(str(context)) is str",
    "print": "print(context); result = None",
    "join of its characters": "result = ''.join(context), '-'.join(reversed(context))",
    "join": "result = ''.join([context[:], 'x'])",
    "length of the list": "result = len(list(context)), len(context), len(set(context))",
    "sorted": "result = sorted(context), min(context), max(context)",
    "zip and enumerate": "result = list(zip(context, range(5))), list(enumerate(context))[:5], sum(map(ord, context))",
    "hash": "result = {context: 1}[context], context in {context}, len({context, context})",
    "comparison": "result = context == context[:10], context != 'a', context < 'b', 'a' > context",
    "isinstance": "result = isinstance(context, str), isinstance(context, list), isinstance(context, (bytes, str))",
    "match": "match context:\n    case str(): result = 'text'\n    case _: result = 'other'",
    "counter": "from collections import Counter; result = Counter(context).most_common(3), Counter(context.split())",
    "lines": "result = [line for line in context.split('\\n') if 'Grace' in line], context.splitlines()[1]",
    "loop": "result = [c for c in context if c == 'A'], any(c.isdigit() for c in context)",
    "chunks": "result = [context[i : i + 50] for i in range(0, len(context), 50)]",
    "copies": "import copy; result = copy.copy(context) == context, copy.deepcopy(context)[:5]",
    "methods": "result = context.upper(), context.strip(), context.replace('a', 'b'), context.title().count('A')",
    "encode": "import hashlib; result = hashlib.sha256(context.encode()).hexdigest(), len(context.encode('utf-16'))",
    "html": "import html; result = html.escape(context)",
    "difflib": "import difflib; result = difflib.SequenceMatcher(None, context, context[:20]).ratio()",
    "base64": "import base64; result = base64.b64encode(context.encode())",
    "string.Template": "import string; result = string.Template(context).safe_substitute()",
    "unicodedata": "import unicodedata; result = unicodedata.normalize('NFD', context)",
    "uuid": "import uuid; result = uuid.uuid5(uuid.NAMESPACE_DNS, context).hex",
    "html.unescape": "import html; result = html.unescape(context)",
}
JSON_PROGRAMS = {
    "json.loads": "import json; result = json.loads(context)",
    "json.loads with options": "import json; result = json.loads(context, parse_int=str)",
    "from json": "from json import loads, JSONDecodeError; result = loads(context)['c']",
    "json.load": "import json, io; result = json.load(io.StringIO(context))",
}
# What only a real `str` can do, of any size: a C function looks at the type itself.
REFUSED = {
    "str.replace": "result = 'a'.replace('a', context)",
    "int": "result = int(context)",
    "method of the class": "result = str.upper(context)",
}
# The same, but for the restricted language, whose guards stand between.
JOINED = {
    "join of itself": "result = ''.join([context])",
    "join of both": "result = ', '.join(x for x in (context, 'b'))",
    "str.join": "result = str.join(',', [context, 'b'])",
}
LIST_PROGRAMS = {
    "join": "result = ''.join(context), ', '.join(item.strip() for item in context)",
    "sorted": "result = sorted(context), sorted(context, key=len, reverse=True), max(context), min(context, key=len)",
    "list": "result = len(list(context)), [*context], tuple(context), set(context)",
    "zip and enumerate": "result = list(zip(context, context)), list(enumerate(context)), list(reversed(context))",
    "json.dumps": "import json; result = json.dumps(context), json.dumps({'all': context}, indent=1)",
    "f-string": "result = f'{context}', str(context)",
    "slices": "result = context[:3], context[-2:], context[::2], context[0]",
    "counter": "from collections import Counter; result = Counter(context)",
    "comparison": "result = context == list(context), context in [context], [] < context",
    "isinstance": "result = isinstance(context, list), isinstance(context, str), isinstance(context, (list, tuple))",
    "match": "match context:\n    case [first, *_]: result = first\n    case _: result = None",
    "added": "result = context + ['x'], ['x'] + context, context * 2",
    "star": "result = max(*context), [*context, 'x']",
    "itertools": "from itertools import chain, islice; result = list(islice(context, 3)), [*chain(context, context)]",
    "random": "import random; result = len(random.sample(context, 3)), random.choice(context) in context",
    "csv": "import csv; result = list(csv.reader(context))",
    "search in each": "import re; result = [item for item in context if re.search(r'1\\d', item)]",
    "copy": "import copy; items = copy.copy(context); items.append('x'); result = items",
}
LIST_REFUSED = {
    "re": "import re; result = re.search('a', context)",
    "append": "context.append('x')",
    "sort": "context.sort()",
    "item": "context[0] = 'x'",
}
DICT_PROGRAMS = {
    "dict": "result = dict(context), {**context}, list(context), len(context)",
    "items": "result = [(k, len(v)) for k, v in context.items()], list(context.keys()), list(context.values())",
    "json.dumps": "import json; result = json.dumps(context), json.dumps([context], sort_keys=True)",
    "get": "result = context.get('one 1'), context.get('nothing', 5), 'one 1' in context",
    "sorted": "result = sorted(context), sorted(context.items(), key=lambda kv: len(kv[1])), max(context)",
    "joined": "result = context | {'x': 'y'}, {'x': 'y'} | context",
    "isinstance": "result = isinstance(context, dict), isinstance(context, list)",
    "match": "match context:\n    case {'one 1': value}: result = value\n    case _: result = None",
    "f-string": "result = f'{context}'",
}


def run_python(source: str, context: object) -> Any:
    printed: list[object] = []
    builtins = {**agent._BUILTINS, "print": lambda *values: printed.append([str(value) for value in values])}
    namespace = {"__name__": "__main__", "__builtins__": builtins, "context": context}
    exec(compile(source, "<cell 1>", "exec", dont_inherit=True), namespace)
    return namespace.get("result"), printed


def run_restricted(source: str, context: object) -> Any:
    printed: list[str] = []
    namespace = make_globals(
        write=lambda stream, text: printed.append(text), names={"context": context}, regex=regex.as_module()
    )
    exec(compile_cell(source), namespace)
    return namespace.get("result"), printed


def paged(value: Any, limit: int) -> LookAlike:
    if isinstance(value, str):
        return PagedText(len(value), lambda start, stop: value[start:stop], page_chars=7, materialise_chars_max=limit)
    stored = Stored(value)
    look = PagedDict if isinstance(value, dict) else PagedList
    text, directory = (stored.paged(name, materialise_chars_max=limit) for name in ("text", "directory"))
    return look(text, directory, len(value))


ITEMS = [f"item {number}" for number in range(30)]
ENTRIES = {f"one {number}": f"value {number}\n" * 5 for number in range(30)}
WORKING = [
    *(pytest.param(TEXT, source, id=name) for name, source in TEXT_PROGRAMS.items()),
    *(pytest.param(JSON, source, id=name) for name, source in JSON_PROGRAMS.items()),
    *(pytest.param(ITEMS, source, id=f"list {name}") for name, source in LIST_PROGRAMS.items()),
    *(pytest.param(ENTRIES, source, id=f"dict {name}") for name, source in DICT_PROGRAMS.items()),
]
REFUSING = [
    *(pytest.param(TEXT, source, id=name) for name, source in REFUSED.items()),
    *(pytest.param(ITEMS, source, id=f"list {name}") for name, source in LIST_REFUSED.items()),
]
LANGUAGES = pytest.mark.parametrize("run", [run_python, run_restricted], ids=["python", "restricted"])
Run = Callable[[str, object], Any]


@LANGUAGES
@pytest.mark.parametrize(("value", "source"), WORKING)
def test_what_fits_gives_the_same(run: Run, value: Any, source: str) -> None:
    assert run(source, paged(value, 1 << 20)) == run(source, value)


@LANGUAGES
@pytest.mark.parametrize(("value", "source"), WORKING)
def test_what_does_not_fit_gives_the_same_or_says_what_to_write_instead(run: Run, value: Any, source: str) -> None:
    expected = run(source, value)
    outcome = result_or_message(lambda: run(source, paged(value, 100)))
    assert outcome == expected or (isinstance(outcome, str) and INSTEAD.search(outcome)), outcome


def result_or_message(function: Callable[[], Any]) -> Any:
    """What the program leaves, a tuple, or the message of the error that it ends with."""
    try:
        return function()
    except (TypeError, ValueError) as error:
        return str(error)


@LANGUAGES
@pytest.mark.parametrize("limit", [100, 1 << 20])
@pytest.mark.parametrize(("value", "source"), REFUSING)
def test_what_only_the_real_thing_can_do_says_so(run: Run, limit: int, value: Any, source: str) -> None:
    with pytest.raises(TypeError) as raised:
        run(source, paged(value, limit))
    assert INSTEAD.search(str(raised.value)), str(raised.value)


@pytest.mark.parametrize("source", JOINED.values(), ids=JOINED.keys())
def test_joining_a_look_alike_works_in_the_restricted_language_and_else_says_what_to_write(source: str) -> None:
    assert run_restricted(source, paged(TEXT, 1 << 20)) == run_python(source, TEXT)
    for run, limit in ((run_restricted, 100), (run_python, 100), (run_python, 1 << 20)):
        with pytest.raises((TypeError, ValueError)) as raised:
            run(source, paged(TEXT, limit))
        assert INSTEAD.search(str(raised.value)), str(raised.value)


@LANGUAGES
def test_a_csv_reader_over_the_text_itself_reads_lines(run: Run) -> None:
    source = "import csv; result = list(csv.reader(context)), list(csv.DictReader(context))"
    for limit in (100, 1 << 20):
        rows, records = run(source, paged(TEXT, limit))[0]
        assert (rows[1], rows[-2], rows[-1]) == (["Ada", "36"], ["Zoë, the\nfirst", "7"], ["User: 98779"])
        assert records[0] == {"name": "Ada", "age": "36"}


@LANGUAGES
def test_json_errors_are_those_of_json(run: Run) -> None:
    for source in ("import json; json.loads('{')", "import json; json.loads(context)"):
        with pytest.raises(ValueError, match="Expecting"):
            run(source, paged("{nothing", 100))
    with pytest.raises(ValueError, match="Circular reference"):
        run("import json; around = [1]; around.append({'a': around}); json.dumps(around, indent=1)", "")
    with pytest.raises(TypeError, match="not JSON serializable"):
        run("import json; json.dumps({1: object()})", "")
    with pytest.raises(TypeError):
        run("import json; json.loads(5)", "")


def test_modules_are_whole_in_plain_python() -> None:
    source = """
import io, json, csv, re, textwrap
import json.decoder
import json.tool
from json.encoder import JSONEncoder
from io import BytesIO, TextIOWrapper
from csv import writer, QUOTE_ALL
result = [
    json.decoder.JSONDecodeError is json.JSONDecodeError, JSONEncoder is json.JSONEncoder, json.tool.__name__,
    json.loads.__name__, csv.excel.delimiter, textwrap.TextWrapper(width=5).wrap(context), BytesIO(b"x").read(),
    json.dumps({"a": {1, 2}}, default=sorted), isinstance(io.StringIO(), io.TextIOBase),
    re.Scanner([("a", None), ("b", "B")]).scan(context[:2])[0],
]
"""
    result, _ = run_python(source, paged("ab cd", 100))
    assert result == [True, True, "json.tool", "loads", ",", ["ab cd"], b"x", '{"a": [1, 2]}', True, ["B"]]
