"""A program that does not compile is shown with its line and a caret, as Python does, and once."""

from __future__ import annotations

import traceback
from types import CodeType

import pytest

from guest.language.rejection import shown
from guest.language.restricted import compile_cell

FILE = "<cell 1>"


def compile_plain(source: str, filename: str) -> CodeType:
    return compile(source, filename, "exec", dont_inherit=True)


def told(source: str, how: object = compile_cell) -> str:
    with pytest.raises(Exception, match=r"\S") as caught:
        how(source, FILE)  # type: ignore[operator]
    return shown(caught.value, source, FILE)


@pytest.mark.parametrize(
    "source",
    [
        "x = 1\ny = (1,\nz = 2\n",
        "def f(:\n    pass",
        "x = 'ä\n",
        "return 5",
        "f'{a b}'",
        "    x = 1",
        "x = [1\n",
        "for é in x\n    pass\n",
        "if x:\n\ty = 1\n        z = 2",
    ],
)
def test_a_syntax_error_is_shown_as_python_shows_it(source: str) -> None:
    with pytest.raises(SyntaxError) as caught:
        compile_plain(source, FILE)
    lines = traceback.format_exception_only(caught.value)
    if caught.value.text is None:  # found by the second pass, which reads the line from a file
        lines[1:1] = [f"    {source}\n", f"    {'^' * len(source)}\n"]
    assert told(source, compile_plain) == "".join(lines)
    assert told(source).rpartition(": ") == told(source, compile_plain).replace(
        *("IndentationError" if "IndentationError" in lines[-1] else "TabError", "SyntaxError")
    ).rpartition(": ")


def test_what_the_language_refuses_is_shown_with_its_place_and_all_that_follows() -> None:
    assert told("é = f\nx = 'ä' + é.__globals__ + 1\nasync_ = y.__code__\nz = 2").splitlines() == [
        '  File "<cell 1>", line 2',
        "    x = 'ä' + é.__globals__ + 1",
        "              ^^^^^^^^^^^^^",
        "Rejected: the attribute '__globals__' is not available here: "
        "use the object's public methods, len(), str(), type(x).__name__ or isinstance()",
        "line 3: the attribute '__code__' is not available here: "
        "use the object's public methods, len(), str(), type(x).__name__ or isinstance()",
    ]
    assert told("def f():\n    await x\n    return 1\n").splitlines()[:3] == [
        '  File "<cell 1>", line 2',
        "    await x",
        "    ^^^^^^^",
    ]
    assert told("async def f():\n    pass\n").splitlines()[1:3] == ["    async def f():", "    ^^^^^^^^^^^^^^"]


def test_what_has_no_place_and_what_is_too_long_is_shown_without_a_caret() -> None:
    assert told("a" * 300_000).startswith("Rejected: the program has 300000 bytes")
    long = told("x = '" + "a" * 5000 + "' b")
    assert "^" not in long
    assert len(long) < 1000
    assert told("x\0").count("\n") == 1
