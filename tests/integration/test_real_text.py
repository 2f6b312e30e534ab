"""A real text of some 30 MB, a real question, two ways to the answer that have nothing in common.

The text is the source of the standard library of the Python that runs the tests, one file after the other, and the
question is which classes define `__getattr__`. In the box a program finds out with lines and patterns, over a paged
text; on the host Python's own parser does. Both have to name the same classes.
"""

from __future__ import annotations

import ast
import sysconfig
from pathlib import Path

import pytest

from tests.integration.support import Jar

PROGRAM = r'''
import re

# Comments and strings may hold what looks like a class: a string becomes as many line ends as it has.
noise = re.compile(
    r"""#[^\n]*|(\"{3}|'{3})(?:\\.|(?!\1).)*\1|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL
)
header = re.compile(r"\s*class\s+(\w+)")

def silence(match):
    text = match.group(0)
    return "" if text.startswith("#") else "''" + "\n" * text.count("\n")

def indent(line):
    return len(line) - len(line.lstrip())

def classes(text):
    """The names of the classes directly above a `def __getattr__`, by indentation."""
    lines = noise.sub(silence, text).split("\n")
    names = []
    for number, line in enumerate(lines):
        if not re.match(r"\s+(async\s+)?def\s+__getattr__\b", line):
            continue
        above = number - 1
        # The last line of a long class statement starts with a bracket.
        while not lines[above].strip() or indent(lines[above]) >= indent(line) or lines[above].lstrip()[0] in ")]}":
            above -= 1
        found = header.match(lines[above])
        if found:
            names.append(found.group(1))
    return names

marks = list(re.finditer(r"^=== FILE (\S+)\n", context, re.MULTILINE))
ends = [mark.start() for mark in marks[1:]] + [len(context)]
result, looked_at = [], 0
for mark, end in zip(marks, ends):
    text = context[mark.end():end]
    looked_at += 1
    if "__getattr__" in text:
        result += [[mark.group(1), name] for name in classes(text)]
print(looked_at)
FINAL(result)
'''


def sources() -> dict[str, str]:
    """The standard library's files that are UTF-8 text, by their path in it."""
    root = Path(sysconfig.get_path("stdlib"))
    found = {}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if "site-packages" in name.parts or any(char.isspace() for char in str(name)):
            continue
        data = path.read_bytes()
        if b"\0" not in data:
            try:
                found[str(name)] = data.decode()
            except UnicodeDecodeError:
                continue
    return found


def expected(files: dict[str, str]) -> list[list[str]]:
    """The same by Python's parser."""
    answer = []
    for name, text in files.items():
        if "__getattr__" in text:
            classes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
            for node in classes:
                functions = [
                    item.name for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
                ]
                answer += [[name, node.name]] * functions.count("__getattr__")
    return sorted(answer)


@pytest.fixture(scope="module")
def library() -> dict[str, str]:
    return sources()


@pytest.mark.parametrize("language", ["restricted", "python"])
def test_the_classes_that_define_getattr_in_the_standard_library(
    jar: Jar, library: dict[str, str], language: str
) -> None:
    text = "".join(f"=== FILE {name}\n{content.rstrip()}\n" for name, content in library.items())
    context = jar.file("library.txt", text)
    outcome, result = jar.exec_json(PROGRAM, "--context", context, "--language", language)
    assert outcome.code == 0, outcome.stderr
    assert result["stdout"] == f"{len(library)}\n"
    gold = expected(library)
    assert len(gold) > 20
    assert sorted(result["answer"]) == gold
    assert len(text.encode()) <= result["read_bytes"] < 3 * len(text.encode())
    assert result["max_rss_bytes"] < 512 * 2**20
