"""Shows why a program does not compile: the line and a caret below it, as Python does, in both languages."""

from __future__ import annotations

import traceback
from typing import Any

__all__ = ["shown"]

_LINE_CHARS_MAX = 300
_SYNTAX = "syntax error: "


def shown(error: BaseException, source: str, filename: str) -> str:
    """What is wrong, where, and what else."""
    kind, message = type(error).__name__, str(getattr(error, "message", None) or getattr(error, "msg", None) or error)
    if message.startswith(_SYNTAX):
        kind, message = "SyntaxError", message.removeprefix(_SYNTAX)
    said = _at(message, _place(error), getattr(error, "text", None), source, filename).rstrip("\n")
    head, _, last = said.rpartition("\n")
    lines = [*([head] if head else []), last.replace("SyntaxError", kind, 1)]
    others = getattr(error, "collected", [])[1:]
    return "\n".join([*lines, *(f"line {line}: {also}" for line, also in others)]) + "\n"


def _at(message: str, place: Any, text: str | None, source: str, filename: str) -> str:
    line, column, last_line, last_column = place
    if not isinstance(line, int):
        return f"SyntaxError: {message}"
    if text is None:  # for a field in an f-string the parser has its own text
        lines = source.splitlines(keepends=True)
        text = lines[line - 1] if 0 < line <= len(lines) else ""
    if len(text) > _LINE_CHARS_MAX:  # nobody looks along such a line for a caret
        text, column, last_column = f"{text[:_LINE_CHARS_MAX]}...", None, None
    if last_line not in (None, 0, line):
        last_line, last_column = line, len(text)
    made = SyntaxError(message, (filename, line, column or 0, text, last_line or line, last_column or 0))
    return "".join(traceback.format_exception_only(made))


def _place(error: BaseException) -> tuple[Any, Any, Any, Any]:
    """Line and column, from 1, of the beginning and the end; None where that is not known."""
    if isinstance(error, SyntaxError):
        return error.lineno, error.offset, error.end_lineno, error.end_offset
    place = getattr(error, "place", None)
    return place or (getattr(error, "line", None), None, None, None)
