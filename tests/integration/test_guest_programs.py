"""What a program may take for granted in its box: its answers, its prompts, its names from cell to cell, `__main__`.

Each test is a session of cells in both languages, unless it is about the modules that plain Python has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from belljar import ModelReply, ModelRequest, Runtime
from belljar.engine import CellResult, Result
from belljar.identity import Language
from belljar.models import FREE, Usage

CONTEXT = "a line\nand another\n"
OTHERS = {"rows": ["x", {"a": 1}], "files": {"k": "v"}}
LANGUAGES: tuple[Language, ...] = ("python", "restricted")


class Heard:
    """A model that keeps what it was sent."""

    scripted = True
    rates = FREE
    name = "scripted:heard"

    def __init__(self) -> None:
        self.prompts: list[str] = []

    async def complete(self, request: ModelRequest) -> ModelReply:
        self.prompts.append(request.messages[-1].text)
        return ModelReply("heard", Usage(1, 1), self.name, "end_turn")

    async def aclose(self) -> None:
        pass


@dataclass
class Box:
    """One runtime, in a loop of its own."""

    runtime: Runtime
    runner: asyncio.Runner
    model: Heard

    def cells(self, *sources: str) -> list[CellResult]:
        async def session() -> list[CellResult]:
            about: dict[str, Any] = {"context": CONTEXT, "contexts": OTHERS, "model": self.model}
            async with self.runtime.session(**about) as session:
                return [await session.execute(source) for source in sources]

        self.model.prompts.clear()
        return self.runner.run(session())

    def alone(self, source: str) -> Result:
        return self.runner.run(self.runtime.execute(source, context=CONTEXT, model=self.model))


@pytest.fixture(scope="module", params=LANGUAGES)
def box(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, images: Path) -> Iterator[Box]:
    yield from opened(request.param, tmp_path_factory.mktemp("state"), images)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Iterator[Box]:
    yield from opened("python", tmp_path_factory.mktemp("state"), images)


def opened(language: Language, folder: Path, images: Path) -> Iterator[Box]:
    (folder / "images").symlink_to(images)
    with asyncio.Runner() as runner:
        runtime = runner.run(Runtime(state=folder, language=language).__aenter__())
        yield Box(runtime, runner, Heard())
        runner.run(runtime.__aexit__(None, None, None))


def faults(cells: list[CellResult]) -> list[str]:
    return [f"{cell.error.type}: {cell.error.message}" for cell in cells if cell.error is not None]


# ----------------------------------------------------------------------------------------------------------- answers

ANSWERS: dict[str, tuple[str, object]] = {
    "the context in a dict": (
        "FINAL({'text': context, 'n': [contexts['rows'], contexts['files']]})",
        {"text": CONTEXT, "n": [["x", {"a": 1}], {"k": "v"}]},
    ),
    "the contexts": ("FINAL(contexts)", {"context": CONTEXT, **OTHERS}),
    "by SUBMIT": ("SUBMIT(text=context, n=1)", {"text": CONTEXT, "n": 1}),
    "by FINAL_VAR": ("r = [context]\nFINAL_VAR('r')", [CONTEXT]),
    "by the answer": ("answer['content'] = {'t': context}\nanswer['ready'] = True", {"t": CONTEXT}),
    "a set": ("FINAL({3, 1, 2})", [1, 2, 3]),
    "dates and decimals": (
        "import datetime, decimal\nFINAL({'d': datetime.date(2024, 1, 2), 'n': decimal.Decimal('1.50')})",
        {"d": "2024-01-02", "n": "1.50"},
    ),
    "a dataclass with the context": (
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: object\nFINAL([A(context), A({1})])",
        [{"x": CONTEXT}, {"x": [1]}],
    ),
    "an enum": (
        "from enum import Enum\nclass S(Enum):\n    OK = 'ok'\nFINAL({S.OK: [S.OK]})",
        {"ok": ["ok"]},
    ),
    "counters and views": (
        "from collections import Counter\nFINAL([Counter('aab'), Counter('aab').most_common(1), {'k': 1}.keys()])",
        [{"a": 2, "b": 1}, [["a", 2]], ["k"]],
    ),
    "hits": ("FINAL(context.search('line'))", [[2, 6, "line"]]),
    "a value for a name": ("res = {'a': 1}\nFINAL_VAR(res)", {"a": 1}),
    "a text for a name": ("res = 'the answer'\nFINAL_VAR(res)", "the answer"),
    "a word for a name": ("res = 'word'\nFINAL_VAR(res)", "word"),
    "an expression that a variable holds": ("x = 3\nres = '-x'\nFINAL_VAR(res)", "-x"),
    "a text with a word of its own": ("x = 3\nFINAL_VAR(f'{x} of x, y')", "3 of x, y"),
    "a given name": ("FINAL_VAR('context')", CONTEXT),
    "a large number": ("FINAL(2**60 + 1)", 2**60 + 1),
    "a new dict": ("answer = {'content': ['v'], 'ready': True}", ["v"]),
    "a new dict in a function": ("def f():\n    global answer\n    answer = dict(content=1, ready=1)\nf()", 1),
    "ready by a number": ("answer['content'] = 'v'\nanswer['ready'] = 1", "v"),
    "ready before it is said so and the program exits": (
        "answer['content'] = 'v'\nanswer['ready'] = True\nraise SystemExit",
        "v",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_what_the_program_holds(box: Box, name: str) -> None:
    source, wanted = ANSWERS[name]
    assert faults(cells := box.cells(source)) == []
    assert (cells[0].status, cells[0].answer) == ("ok", wanted)


NO_ANSWERS: dict[str, tuple[str, str]] = {
    "a generator": ("FINAL(x for x in 'ab')", "TypeError: an answer cannot hold a generator: write list(value)"),
    "a map inside": ("FINAL({'m': map(str, [1])})", "TypeError: an answer cannot hold a map: write list(value)"),
    "a function": ("FINAL(len)", "TypeError: an answer cannot hold a function: call it, or give its name as text"),
    "itself": ("x = []\nx.append(x)\nFINAL(x)", "TypeError: an answer cannot hold a list or dict that holds itself"),
    "nothing": ("FINAL(print('x'))", "TypeError: the answer is None: give the value itself"),
    "no value": ("FINAL()", "TypeError: FINAL takes one value: FINAL(value)"),
    "two values": ("FINAL(1, 2)", "TypeError: FINAL takes one value: FINAL(value), FINAL([a, b])"),
    "a field for FINAL": ("FINAL(answer=1)", "TypeError: FINAL takes one value: FINAL(value)"),
    "a value for SUBMIT": ("SUBMIT('x')", "TypeError: SUBMIT takes fields by name: SUBMIT(answer=value)"),
    "no number": ("FINAL([float('nan')])", "TypeError: an answer cannot hold nan"),
    "an item of a variable": (
        "d = {'k': 3}\nFINAL_VAR(\"d['k']\")",
        "NameError: FINAL_VAR takes the name of one variable, and \"d['k']\" is an expression: FINAL(d['k']) gives",
    ),
    "a call with a variable": ("x = [1]\nFINAL_VAR('len(x)')", "NameError: FINAL_VAR takes the name of one variable"),
    "a hidden name": ("FINAL_VAR('__name__')", "NameError: FINAL_VAR: there is no variable '__name__'"),
    "a draft without content": ("answer['ready'] = True", 'ValueError: answer["ready"] is true, but answer["content"]'),
    "no variable": ("FINAL_VAR('nope')", "NameError: FINAL_VAR: there is no variable 'nope'"),
    "placeholders": (
        "FINAL('Docs: ' + str([context]))",
        "TypeError: the answer has a placeholder of the context in it",
    ),
    "by the answer": (
        "answer['content'] = (x for x in 'ab')\nanswer['ready'] = True",
        "TypeError: an answer cannot hold a generator",
    ),
}


@pytest.mark.parametrize("name", NO_ANSWERS)
def test_what_is_no_answer_is_an_error_that_says_what_to_write(box: Box, name: str) -> None:
    source, wanted = NO_ANSWERS[name]
    cells = box.cells(source, "print('I go on')", "FINAL('now')")
    assert [cell.status for cell in cells] == ["error", "ok", "ok"]
    assert faults(cells)[0].startswith(wanted)
    assert "Endings" not in faults(cells)[0]
    assert (cells[1].stdout, cells[2].answer) == ("I go on\n", "now")


def test_what_a_failed_cell_said_of_its_answer_does_not_end_the_run_later(box: Box) -> None:
    cells = box.cells(
        "answer['content'] = 'draft'\nanswer['ready'] = True\n1/0",
        "print('I mend it')",
        "answer = {'content': 'another', 'ready': 1}\n1/0",
        "print(answer['content'])",
        "answer['ready'] = True",
    )
    assert [cell.answer for cell in cells] == [None, None, None, None, "another"]
    assert [cell.stdout for cell in cells[1:4]] == ["I mend it\n", "", "another\n"]


def test_answer_is_a_name_like_any_other(box: Box) -> None:
    cells = box.cells(
        "answer = 'mine'", "print(answer)", "del answer", "answer['content'] = 'v'\nanswer['ready'] = True"
    )
    assert [cell.stderr for cell in cells[:2]] == ["", ""]
    assert cells[1].stdout == "mine\n"
    assert "`answer` (deleted)" in cells[2].stderr
    assert cells[3].answer == "v"


# ----------------------------------------------------------------------------------------------------------- prompts

PLACEHOLDERS = (
    "llm_query(f'Docs: {contexts}')",
    "llm_query('Docs: ' + str([context]))",
    "llm_query(f'{context!r}')",
    "llm_query(f'''{ {'k': contexts['rows']} }''')",
    "llm_query_batched(['fine', repr(contexts['files'])])",
    "llm_query(str({'v': contexts['files'].items()}))",
)


@pytest.mark.parametrize("source", PLACEHOLDERS)
def test_a_placeholder_is_not_sent(box: Box, source: str) -> None:
    cells = box.cells(source)
    assert box.model.prompts == []
    assert faults(cells)[0].startswith("TypeError: a prompt has a placeholder of the context in it, not its text")


def test_the_text_itself_is_sent_also_when_it_looks_like_a_placeholder(box: Box) -> None:
    copied = "<context #00000000: a text of 19 characters; print(context[:1000]) shows its beginning>"
    cells = box.cells(
        "llm_query(context)\nimport json\nllm_query(json.dumps(contexts))\nllm_query(f'Q {context}')",
        f"llm_query('{copied}')",
    )
    assert faults(cells) == []
    assert (box.model.prompts[0], box.model.prompts[2], box.model.prompts[3]) == (CONTEXT, f"Q {CONTEXT}", copied)
    assert '"rows": ["x", {"a": 1}]' in box.model.prompts[1]


def test_a_text_in_place_of_a_model_is_told_from_a_name(box: Box) -> None:
    for source in (
        "llm_query('Q?', context)",
        "llm_query('Q?', 'some text')",
        "llm_query_batched(['Q?'], 'some text')",
    ):
        assert faults(box.cells(source))[0].startswith(
            "TypeError: the second argument is the name of a model, not a text"
        )
    assert faults(box.cells("llm_query()")) == [
        "TypeError: llm_query() missing 1 required positional argument: 'prompt'"
    ]
    assert box.model.prompts == []


# ------------------------------------------------------------------------------------------------- names, and the end


def test_given_names_come_back_and_the_program_is_told(box: Box) -> None:
    cells = box.cells(
        "for context in ['a', 'b']:\n    pass\nllm_query = 5\ndel budget\nprint(context, llm_query)",
        "print(my_context, context[:6], my_llm_query, 'calls' in budget(), llm_query('Q'))",
        "my_context_ = 1\ncontext = 'c'",
        "print(my_context, my_context_)",
    )
    assert faults(cells) == []
    assert cells[0].stdout == "b 5\n"
    assert cells[0].stderr == (
        "note: names that you overwrote or deleted are restored: `context` (your value is now `my_context`), "
        "`llm_query` (your value is now `my_llm_query`), `budget` (deleted)\n"
    )
    assert (cells[1].stdout, cells[1].stderr) == ("b a line 5 True heard\n", "")
    assert cells[3].stdout == "c 1\n"


def test_a_name_of_the_program_s_own_is_not_taken_for_a_kept_value(box: Box) -> None:
    cells = box.cells("my_context = 'mine'\ncontext = 'other'", "print(my_context, my_context_)")
    assert (cells[1].stdout, cells[1].stderr) == ("mine other\n", "")


def test_names_come_back_after_a_cell_that_failed(box: Box) -> None:
    cells = box.cells("context = 5\n1/0", "print(context[:6])")
    assert "`context` (your value is now `my_context`)" in cells[0].stderr
    assert cells[1].stdout == "a line\n"


def test_behind_the_answer_nobody_is_told_of_names(box: Box) -> None:
    assert [(cell.answer, cell.stderr) for cell in box.cells("context = 5\nFINAL(context)")] == [(5, "")]


def test_variables_are_what_the_program_made(box: Box) -> None:
    source = "import json, math\nfrom collections import Counter\nfrom typing import List\n"
    source += "from random import choice\nfrom time import perf_counter, time\n"
    source += "def f(): pass\nclass C: pass\nx = context[0]\nc = Counter()\nprint(SHOW_VARS())"
    assert box.cells(source)[0].stdout == "C: type\nc: Counter\nf: function\nx: str\n"


SHOWN: dict[str, tuple[str, str]] = {
    "a sum": ("x = 41\nx + 1", "42\n"),
    "a text": ("'a' * 2", "'aa'\n"),
    "nothing": ("None", ""),
    "a call that gives nothing": ("print('p')", "p\n"),
    "with a semicolon": ("42;", ""),
    "no expression": ("x = 1", ""),
    "in a block": ("if True:\n    42", ""),
    "over two lines": ("[\n  1,\n]", "[1]\n"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_the_value_of_a_last_line_is_shown(box: Box, name: str) -> None:
    source, wanted = SHOWN[name]
    cells = box.cells(source)
    assert faults(cells) == []
    assert cells[0].stdout == wanted


def test_a_cell_of_a_session_may_be_as_deep_as_a_program_alone(python: Box) -> None:
    source = f"x = {' + '.join(['1'] * 2500)}\nprint(x)\ny = x"
    assert python.alone(source).stdout == python.cells(source)[0].stdout == "2500\n"


def test_what_is_shown_is_a_page(box: Box) -> None:
    shown = box.cells("list(range(100000))")[0].stdout
    assert len(shown) < 5000
    assert "characters not shown" in shown


def test_a_program_alone_is_no_notebook(box: Box) -> None:
    result = box.alone("for context in 'ab':\n    pass\n41 + 1")
    assert (result.status, result.stdout, result.stderr) == ("ok", "", "")


def test_a_program_may_exit(box: Box) -> None:
    cells = box.cells(
        "print('a')\nraise SystemExit\nprint('b')",
        "raise SystemExit(0)",
        "raise SystemExit(3)",
        "raise SystemExit('no data found')",
        "print('c')",
    )
    assert [cell.status for cell in cells] == ["ok", "ok", "error", "error", "ok"]
    assert faults(cells) == ["SystemExit: the program ended with exit status 3", "SystemExit: no data found"]
    assert (cells[0].stdout, cells[4].stdout) == ("a\n", "c\n")


def test_an_interrupt_of_the_program_s_own_is_its_error(box: Box) -> None:
    cells = box.cells("raise KeyboardInterrupt('by me')", "print('still here')")
    assert faults(cells) == ["KeyboardInterrupt: by me"]
    assert (cells[0].status, cells[1].stdout) == ("error", "still here\n")


def test_a_byte_order_mark_is_no_part_of_a_program(box: Box) -> None:
    assert box.cells("\ufeffprint('bom')")[0].stdout == "bom\n"


# ------------------------------------------------------------------------------------------------------ plain Python

FUTURE = (
    "from __future__ import annotations\nfrom dataclasses import dataclass, InitVar, KW_ONLY\nfrom typing import *\n"
)
PROGRAMS: dict[str, tuple[str, str]] = {
    "class variables": (
        FUTURE + "@dataclass\nclass A:\n    n: ClassVar[int] = 3\n    x: int = 1\nprint(A())",
        "A(x=1)",
    ),
    "initialisers": (
        FUTURE + "@dataclass\nclass A:\n    x: int\n    y: InitVar[int] = 0\n"
        "    def __post_init__(self, y): self.x += y\nprint(A(1, 5))",
        "A(x=6)",
    ),
    "keyword fields": (
        FUTURE + "@dataclass\nclass A:\n    x: int\n    _: KW_ONLY\n    y: int = 2\nprint(A(1, y=3))",
        "A(x=1, y=3)",
    ),
    "type hints": (
        "from typing import get_type_hints\nclass N:\n    a: 'N'\nprint(get_type_hints(N)['a'] is N)",
        "True",
    ),
    "pickles": (
        "import pickle\nclass C: pass\ndef f(): return 4\nprint(pickle.loads(pickle.dumps(f))(), "
        "type(pickle.loads(pickle.dumps(C()))) is C)",
        "4 True",
    ),
    "itself as a module": ("import sys, __main__\nx = 5\nprint(__main__.x, sys.modules[__name__].x)", "5 5"),
    "the source": (
        "import inspect\nclass C:\n    y = 1\ndef f():\n    return 2\n"
        "print(inspect.getsource(C).split()[-1], inspect.getsource(f).split()[-1])",
        "1 2",
    ),
    "unittest": (
        "import unittest\nclass T(unittest.TestCase):\n    def test_a(self): self.assertEqual(1, 1)\n"
        "print(unittest.main(exit=False).result.testsRun)",
        "1",
    ),
    "doctest": (
        "import doctest\ndef f():\n    '''\n    >>> f()\n    1\n    '''\n    return 1\nprint(doctest.testmod())",
        "attempted=1",
    ),
    "arguments": (
        "import argparse, sys\np = argparse.ArgumentParser()\np.add_argument('--n', default=3)\n"
        "print(p.parse_args().n, sys.argv, 'control' in str(sys.orig_argv))",
        "3 [''] False",
    ),
    "no file": ("print('__file__' in globals())", "False"),
    "time zones": (
        "from zoneinfo import ZoneInfo, available_timezones\nimport datetime\nzone = ZoneInfo('Europe/Berlin')\n"
        "print(datetime.datetime(2024, 7, 1, tzinfo=zone).utcoffset(), len(available_timezones()) > 400)",
        "2:00:00 True",
    ),
    "the streams": (
        "import sys\nsys.stdout.reconfigure(encoding='utf-8')\ndata = 'hé'.encode()\n"
        "sys.stdout.buffer.write(data[:2])\nsys.stdout.buffer.write(data[2:])\nsys.stdout = sys.__stdout__\nprint('!')",
        "hé!",
    ),
    "a stream of its own": (
        "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8')\nprint('wrapped')",
        "wrapped",
    ),
    "exit": ("print('before')\nexit()", "before"),
    "quit": ("print('before')\nquit(0)", "before"),
    "sys.exit": ("import sys\nprint('before')\nsys.exit(0)", "before"),
    "help": ("help(len)", "len(obj, /)\nReturn the number of items"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_plain_python_is_as_elsewhere(python: Box, name: str) -> None:
    source, wanted = PROGRAMS[name]
    result = python.alone(source)
    assert (result.status, result.error) == ("ok", None)
    assert wanted in result.stdout


def test_the_source_of_a_class_of_another_cell(python: Box) -> None:
    cells = python.cells(
        "class C:\n    y = 1",
        "class D:\n    z = 2",
        "class C:\n    y = 3",
        "import inspect\nprint(inspect.getsource(D).split()[-1], inspect.getsource(C).split()[-1])",
    )
    assert (faults(cells), cells[3].stdout) == ([], "2 3\n")
