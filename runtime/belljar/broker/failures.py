"""What a program is told of a request that failed, and how the failures of a batch fit one header.

There is no end to what providers say, but to our codes there is: of each code at least one failure is listed, and what
does not fit shares its words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final as Const

import msgspec

from belljar.errors import ModelFailed, QuotaExceeded, Refusal
from belljar.protocol import Failure

__all__ = ["BRIEF_CHARS", "failure_of", "listing"]

# Of a failure that has little room: its kind, its code, and so much of its message.
BRIEF_CHARS: Const = 80
# Providers' messages may be of any length; a guest and its root model need the beginning.
_FAILURE_CHARS_MAX: Const = 1000


def failure_of(error: Refusal | ModelFailed) -> Failure:
    """What the guest raises for it."""
    if isinstance(error, ModelFailed):
        return Failure("ModelError", "model.failed", _words_of(error), None, None)
    if isinstance(error, QuotaExceeded) and error.told is not None:
        return Failure("QuotaExceeded", error.code, error.told, None, None)
    return Failure(
        "QuotaExceeded" if isinstance(error, QuotaExceeded) else "PolicyDenied",
        error.code,
        _words_of(error),
        error.limit,
        error.observed,
    )


def listing(failures: Sequence[Failure], room: int) -> tuple[list[Failure], dict[Failure, int]]:
    """As many failures as fit `room` bytes, and for each its place, or that of one alike.

    The first of each code comes first, briefly if it must be; and what does not fit shares the words of that one.
    """
    firsts: dict[tuple[str, str], Failure] = {}
    for failure in failures:
        firsts.setdefault((failure.kind, failure.code), failure)
    listed: list[Failure] = []
    places: dict[Failure, int] = {}
    for failure in dict.fromkeys((*firsts.values(), *failures)):
        first = firsts[failure.kind, failure.code]
        words, size = failure, _size(failure)
        if failure is first and size > room // 2:
            words = msgspec.structs.replace(failure, message=failure.message[:BRIEF_CHARS])
            size = _size(words)
        elif size > room:
            places[failure] = places[first]
            continue
        places[failure] = len(listed)
        listed.append(words)
        room -= size
    return listed, places


def _size(failure: Failure) -> int:
    return len(msgspec.json.encode(failure)) + 1


def _words_of(error: BaseException) -> str:
    """What a provider or a name says may also be no text, which no message of the wire can hold."""
    return str(error)[:_FAILURE_CHARS_MAX].encode("utf-8", "replace").decode()
