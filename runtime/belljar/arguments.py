"""Checks what an embedder passes in, before anything is done. An error is one line: what to pass, and what came."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any, Final

from belljar.errors import InvalidInput
from belljar.identity import Tenant

__all__ = ["check", "check_callback", "tenant_of", "warn_of_a_path"]

_SHOWN_CHARS_MAX: Final = 60
# The longest path that Linux takes: a longer text is not a path.
_PATH_CHARS_MAX: Final = 4096


def check(what: str, value: object, kinds: type[Any] | tuple[type[Any], ...], write: str) -> None:
    """Refuse a value of another type, and an empty text, which nobody ever means.

    Raises:
        InvalidInput: `argument.type`.
    """
    if not isinstance(value, kinds) or value == "":
        raise InvalidInput(f"{what} must be {write}, not {_shown(value)}", code="argument.type")


def tenant_of(value: object) -> Tenant:
    """The tenant that an embedder names.

    Raises:
        InvalidInput: `tenant.invalid`, `argument.type`.
    """
    if isinstance(value, str):
        return Tenant(value)
    raise InvalidInput(f"tenant must be a tenant name, not {_shown(value)}", code="argument.type")


def check_callback(what: str, value: object) -> None:
    """Refuse what cannot be called, and what would have to be awaited, which nobody does.

    Raises:
        InvalidInput: `argument.type`.
    """
    if value is None:
        return
    if not callable(value):
        raise InvalidInput(f"{what} must be a function of one argument, not {_shown(value)}", code="argument.type")
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(type(value).__call__):
        raise InvalidInput(
            f"{what} is an async function, which nobody would await: use an ordinary one, which may start a task",
            code="argument.type",
        )


def warn_of_a_path(text: str) -> None:
    """Warn if a text is the name of something on the disk, which was probably meant."""
    if len(text) > _PATH_CHARS_MAX or "\n" in text:
        return
    try:
        found = Path(text).exists() if text.strip() else False
    except (OSError, ValueError):  # not a file name at all
        return
    if found:
        warnings.warn(
            f"the context is the text {_shown(text)} itself, not the file of that name: use Path({_shown(text)})",
            stacklevel=2,
        )


def _shown(value: object) -> str:
    if value is None:
        return "None"
    if not isinstance(value, str):
        return f"a value of type {type(value).__name__}"
    return ascii(value if len(value) <= _SHOWN_CHARS_MAX else value[:_SHOWN_CHARS_MAX] + "...")
