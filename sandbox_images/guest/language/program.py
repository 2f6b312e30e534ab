"""What a program in plain Python takes for granted in the interpreter that runs it.

Its cells run in the namespace of their own module `__main__`, which `import __main__`, `pickle`, `dataclasses`,
`typing.get_type_hints`, `unittest.main` and `inspect` find in `sys.modules`. (Otherwise they would find that of the
process from which the box was cloned.) There are no arguments; `exit`, `quit` and `help` exist as in a console.
"""

from __future__ import annotations

import ast
import linecache
import sys
import types
from typing import Any, NoReturn

from guest.exact import exact_text

__all__ = ["CONSOLE", "Main", "compile_cell", "exit_status", "is_imported", "show_last", "shown"]

# The most characters shown of the value of a last expression: a page.
_SHOWN_CHARS_MAX = 4000
# Not an identifier: a program can neither call nor replace it.
_SHOW = ".show"
# From this version on a class knows its own line within its cell.
_LINES_KNOWN = (3, 13)


class Main(types.ModuleType):
    """The program's `__main__`.

    It has a `__file__` only as an attribute of the module, not as a name in the program: `inspect` uses it to find the
    source of a class. That file has all cells, newest first, so that the last of two classes with one name is found.
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
    """Compile a cell. With `show`, if the last line is an expression, its value is shown, as in a notebook."""
    if not show or _shows_nothing(source):
        return compile(source, filename, "exec", dont_inherit=True)
    try:
        tree = ast.parse(source, filename)
        show_last(tree, source)
        return compile(tree, filename, "exec", dont_inherit=True)
    except RecursionError:  # source may be nested deeper than a tree
        return compile(source, filename, "exec", dont_inherit=True)


def _shows_nothing(source: str) -> bool:
    """Whether that is obvious at a glance: the first syntax tree makes a box copy a hundred KiB of pages."""
    last = source.rstrip()
    last = last[last.rfind("\n") + 1 :]
    return last in ("", "pass") or (last.startswith(("print(", "FINAL(", "FINAL_VAR(")) and last.endswith(")"))


def show_last(tree: ast.Module, source: str) -> None:
    """Make the last expression's value be shown, if the program ends with one and no semicolon after it."""
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr) and not source.rstrip().endswith(";"):
        name = ast.copy_location(ast.Name(_SHOW, ast.Load()), last.value)
        last.value = ast.copy_location(ast.Call(name, [last.value], []), last.value)


def shown(value: object) -> str:
    """The value as a notebook shows it, at most a page; nothing for None."""
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
        print("help(x) shows the signature of x and its documentation.")
        return
    value = about[0]
    name = getattr(value, "__name__", None) or type(value).__name__
    with contextlib.suppress(TypeError, ValueError):  # not a function, or one without a signature
        name = f"{name}{inspect.signature(value)}"
    print(name, inspect.getdoc(value) or "(no documentation)", sep="\n")


for _function, _name in ((_exit, "exit"), (_help, "help")):
    _function.__name__ = _function.__qualname__ = _name

CONSOLE: dict[str, Any] = {"exit": _exit, "quit": _exit, "help": _help, _SHOW: _show}
"""What a console adds to the built-in names."""


def exit_status(error: BaseException) -> object:
    """The status of a SystemExit; None for success, and for any other error."""
    code = vars(SystemExit)["code"].__get__(error) if issubclass(type(error), SystemExit) else None
    return None if type(code) in (int, bool) and not code else code


def is_imported(value: object) -> bool:
    """Whether a variable's value is a module or was imported from one, and is not something the program made."""
    cls = type(value)
    if issubclass(cls, types.ModuleType) or cls.__module__ in ("typing", "guest.language.facades"):
        return True
    if issubclass(cls, type):
        return bool(type.__dict__["__module__"].__get__(value) != "__main__")
    function: Any = value
    if cls is types.MethodType:  # as those of `random`, and of a box's clocks, are
        function = function.__func__
    return type(function) in (types.FunctionType, types.BuiltinFunctionType) and function.__module__ != "__main__"
