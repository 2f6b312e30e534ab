"""The regular expressions of a policy: RE2, so that no text takes longer than its length allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, cast

import re2

__all__ = ["Expression", "InvalidExpression", "any_of"]

# All expressions of a list together, compiled; their automata take as much again.
_BYTES_MAX: Final = 8 << 20
_WHY_CHARS_MAX: Final = 200


class InvalidExpression(Exception):
    """RE2 does not take it; the text says why."""


class Expression(Protocol):
    """Compiled. A search in a buffer leaves the interpreter to other threads while it goes through it."""

    def search(self, text: memoryview) -> object | None: ...


def any_of(patterns: Sequence[str]) -> Expression:
    """What finds a match of any of these, in UTF-8. Going through a text takes as long for many as for one.

    Raises:
        InvalidExpression: one is not valid, or they are too large together.
    """
    options = re2.Options()
    # Two patterns may name their groups alike: nobody asks for what is in them.
    options.never_capture = True
    options.log_errors, options.max_mem = False, _BYTES_MAX
    joined = "|".join(f"(?:{pattern})" for pattern in patterns)
    try:
        return cast("Expression", re2.compile(joined.encode(), options))
    except re2.error as error:
        raise InvalidExpression(str(error.args[0], "utf-8", "replace")[:_WHY_CHARS_MAX]) from None
