"""What a policy looks for in texts, by RE2: no text takes longer than its length allows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, Protocol, cast

import re2

__all__ = ["Expression", "InvalidExpression", "any_of", "any_text", "forms_of"]

# All expressions of a list together, compiled; their automata take as much again.
_BYTES_MAX: Final = 8 << 20
# The same for as many texts as a policy may have, all of them long and escaped: with less RE2 takes seconds for a MiB.
_TEXTS_BYTES_MAX: Final = 32 << 20
_WHY_CHARS_MAX: Final = 200


class InvalidExpression(Exception):
    """RE2 does not take it; the text says why."""


class Expression(Protocol):
    """Compiled. A search in a buffer leaves the interpreter to other threads while it goes through it."""

    def search(self, text: memoryview) -> object | None: ...


def any_of(patterns: Sequence[str], *, bytes_max: int = _BYTES_MAX) -> Expression:
    """What finds a match of any of these, in UTF-8. Going through a text takes as long for many as for one.

    Raises:
        InvalidExpression: one is not valid, or they are too large together.
    """
    options = re2.Options()
    # Two patterns may name their groups alike: nobody asks for what is in them.
    options.never_capture = True
    options.log_errors, options.max_mem = False, bytes_max
    joined = "|".join(f"(?:{pattern})" for pattern in patterns)
    try:
        return cast("Expression", re2.compile(joined.encode(), options))
    except re2.error as error:
        raise InvalidExpression(str(error.args[0], "utf-8", "replace")[:_WHY_CHARS_MAX]) from None


def any_text(texts: Sequence[str]) -> Expression:
    """What finds any of these texts in UTF-8, as it stands or as JSON writes it."""
    return any_of([re2.escape(form) for text in texts for form in forms_of(text)], bytes_max=_TEXTS_BYTES_MAX)


def forms_of(text: str) -> tuple[str, ...]:
    """The text as it stands, and as it is written inside a string of JSON, with and without other than ASCII."""
    inside = (json.dumps(text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))
    return tuple(dict.fromkeys((text, *inside)))
