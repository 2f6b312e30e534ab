"""What a program is told about a request that failed, and how the failures of a batch fit into one header.

Providers may say anything, but we have few codes: at least one failure of each code is listed, and one that does not
fit shares its message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final as Const

import msgspec

from belljar.errors import ModelFailed, QuotaExceeded, Refusal
from belljar.protocol import Failure

__all__ = ["BRIEF_CHARS", "failure_of", "listing"]

# A failure that has little room keeps its kind, its code, and this much of its message.
BRIEF_CHARS: Const = 80
# Providers' messages may have any length; a guest and its root model need the beginning.
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
    """As many failures as fit into `room` bytes, and for each its index, or that of a similar one.

    The first of each code comes first, shortened if need be; and one that does not fit shares the message of that one.
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
    """The error's text; a provider's, or a name, may hold lone surrogates, which the wire cannot carry."""
    return str(error)[:_FAILURE_CHARS_MAX].encode("utf-8", "replace").decode()
