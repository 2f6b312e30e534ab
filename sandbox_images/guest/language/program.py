"""What a program in plain Python takes for granted of the interpreter that runs it.

Its cells run in the namespace of a module `__main__` of their own, which is what `import __main__`, `pickle`,
`dataclasses`, `typing.get_type_hints`, `unittest.main` and `inspect` find in `sys.modules`. (What is there otherwise is
the process that the box was cloned from.) There are no arguments, `exit`, `quit` and `help` are there as in a console.
"""

from __future__ import annotations

import ast
import linecache
import sys
import types
from typing import Any, NoReturn

from guest.exact import exact_text

__all__ = ["CONSOLE", "Main", "compile_cell", "exit_status", "is_imported", "show_last", "shown"]

# What the value of a last expression may take of a page.
_SHOWN_CHARS_MAX = 4000
# No identifier: a program can neither call it nor put another in its place.
_SHOW = ".show"
# From here on a class knows its own line, in the cell that it stands in.
_LINES_KNOWN = (3, 13)


class Main(types.ModuleType):
    """The program's `__main__`.

    It has a file only for those who ask the module, not under a name in the program: `inspect` asks in order to find
    the source of a class. In that file are all cells, the newest first, so that of two classes of one name the last is
    found.
    """

    __slots__ = ("_cells",)

    def __init__(self) -> None:
        super().__init__("__main__")
        self._cells: list[str] = []

    def ran(self, filename: str) -> None:
        self._cells.append(filename)

    @property
    def __file__(self) -> str:  # type: ignore[override]
        newest = self._cells[-1] if self._cells else "<cell>"
        if len(self._cells) < 2 or sys.version_info >= _LINES_KNOWN:
            return newest
        lines = "\n".join("".join(linecache.getlines(name)) for name in reversed(self._cells)).splitlines(True)
        linecache.cache["<cells>"] = (len(lines), None, lines, "<cells>")
        return "<cells>"


def compile_cell(source: str, filename: str, *, show: bool = False) -> types.CodeType:
    """With `show` the value of a last line that is an expression is shown, as in a notebook."""
    if not show or _shows_nothing(source):
        return compile(source, filename, "exec", dont_inherit=True)
    try:
        tree = ast.parse(source, filename)
        show_last(tree, source)
        return compile(tree, filename, "exec", dont_inherit=True)
    except RecursionError:  # as source it may be nested deeper than as a tree
        return compile(source, filename, "exec", dont_inherit=True)


def _shows_nothing(source: str) -> bool:
    """Whether that is plain at a glance: the first syntax tree makes a box copy a hundred KiB of pages."""
    last = source.rstrip()
    last = last[last.rfind("\n") + 1 :]
    return last in ("", "pass") or (last.startswith(("print(", "FINAL(", "FINAL_VAR(")) and last.endswith(")"))


def show_last(tree: ast.Module, source: str) -> None:
    """Have the last expression's value shown, if the program ends with one and no semicolon behind it."""
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr) and not source.rstrip().endswith(";"):
        name = ast.copy_location(ast.Name(_SHOW, ast.Load()), last.value)
        last.value = ast.copy_location(ast.Call(name, [last.value], []), last.value)


def shown(value: object) -> str:
    """How a notebook shows it, and no longer than a page; nothing for None."""
    if value is None:
        return ""
    text: str = exact_text(repr(value))
    if len(text) > _SHOWN_CHARS_MAX:
        half = _SHOWN_CHARS_MAX // 2
        text = f"{text[:half]}\n[... {len(text) - 2 * half} characters not shown ...]\n{text[-half:]}"
    return f"{text}\n"


def _show(value: object) -> None:
    print(shown(value), end="")


def _exit(code: object = None) -> NoReturn:
    raise SystemExit(code)


def _help(*about: Any) -> None:
    """The signature and the documentation of an object."""
    import contextlib
    import inspect

    if len(about) != 1:
        print("help(x) shows how x is called and what it says of itself.")
        return
    value = about[0]
    name = getattr(value, "__name__", None) or type(value).__name__
    with contextlib.suppress(TypeError, ValueError):  # no function, or one that does not tell
        name = f"{name}{inspect.signature(value)}"
    print(name, inspect.getdoc(value) or "(no documentation)", sep="\n")


for _function, _name in ((_exit, "exit"), (_help, "help")):
    _function.__name__ = _function.__qualname__ = _name

CONSOLE: dict[str, Any] = {"exit": _exit, "quit": _exit, "help": _help, _SHOW: _show}
"""What a console adds to the built-in names."""


def exit_status(error: BaseException) -> object:
    """What a SystemExit says; None where all went well, and of any other error."""
    code = vars(SystemExit)["code"].__get__(error) if issubclass(type(error), SystemExit) else None
    return None if type(code) in (int, bool) and not code else code


def is_imported(value: object) -> bool:
    """Whether a variable's value is a module, or comes out of one, and is not what the program found out or wrote."""
    cls = type(value)
    if issubclass(cls, types.ModuleType) or cls.__module__ in ("typing", "guest.language.facades"):
        return True
    if issubclass(cls, type):
        return bool(type.__dict__["__module__"].__get__(value) != "__main__")
    return cls in (types.FunctionType, types.BuiltinFunctionType) and value.__module__ != "__main__"
