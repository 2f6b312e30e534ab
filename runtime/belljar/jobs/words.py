"""What somebody outside is told of an error, whichever way they asked: over HTTP, MCP, a page or a webhook.

A refusal's words are for whoever asked, those of a fault of ours are not: they name files, hosts and databases. Of a
fault there is a sentence that is always the same, and the service's own log has the rest. A refusal's words may have a
path of this host as well. So whatever looks like one is cut out of every text that leaves (`without_paths`). And they
may advise what only whoever is at the host can do: then they say what others can (`_ADVICE`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

import msgspec

from belljar.engine import AskResult, CellResult, ErrorInfo, Result
from belljar.errors import (
    AccessUnavailable,
    AuditUnavailable,
    BelljarError,
    BoxFault,
    GuestFault,
    LayerMissing,
    LedgerUnavailable,
    ModelFailed,
    QuotaExceeded,
    Refusal,
    VerificationFailed,
)

__all__ = ["FAULTS", "fault_words", "outside", "told_result", "told_words", "without_paths"]

_T = TypeVar("_T", Result, CellResult, AskResult)

# The first type that fits counts.
FAULTS: Final[tuple[tuple[type[BelljarError], str, str], ...]] = (
    (AuditUnavailable, "audit.unavailable", "the audit log cannot be used, so nothing is done; try again later"),
    (LedgerUnavailable, "ledger.unavailable", "the quotas cannot be checked, so nothing is done; try again later"),
    (AccessUnavailable, "access.unavailable", "it cannot be found out who asks; try again later"),
    (BoxFault, "box.fault", "no box can be made on this host; try again later"),
    (ModelFailed, "model.failed", "the model gave no answer; try again later"),
    (VerificationFailed, "audit.unsound", "the audit log is not what was written; tell whoever runs this service"),
    (GuestFault, "guest.fault", "the boxed program broke a rule, and was ended; change the program"),
)
_OUR_FAULT: Final = "something failed on our side; try again later, and name the request to whoever runs this service"
# A path of this host: absolute, in whatever quotes. `/v1/...` is one of ours that everybody may know, and `#/...` leads
# to a place in JSON.
_PATH: Final = re.compile(
    r"(?:file|unix|npipe)://[^\s'\"`,;:()<>]+|(?<![\w.:/<>#-])~?/(?!v1\b|mcp\b|metrics\b)[^\s'\"`,;:()<>]+"
)
_ELSEWHERE: Final = "(a path of the host)"
_COMMAND: Final = re.compile(r"`belljar [^`]*`")
_THERE: Final = "a command of the host"
# Where a refusal's own advice is for whoever runs this host: after what it begins, and what others can do.
_ADVICE: Final[Mapping[str, tuple[str, str]]] = {
    "backend.denied": (": test ", "name one with `backend`"),
    "context.binary": ("; extract ", "send its text, in UTF-8"),
    "context.encoding": ("; ", "send it in UTF-8"),
    "context.stored": (
        "; ",
        "give a smaller one, remove others (`DELETE /v1/contexts/{context}`), or ask an operator to raise the limit "
        "(`PATCH /v1/quotas`)",
    ),
    "image.pinned": (": ", "choose another policy, or ask whoever runs this service"),
    "model.denied": (": ", "name one that it allows, or another policy"),
    "model.extra": (": ", "name another model, or ask whoever runs this service"),
    "model.key": (": ", "name another model, or ask whoever runs this service"),
    "model.unknown": (": ", "name one of a provider's, or one that this service offers"),
    "model.unpriced": (": ", "name another model, or ask whoever runs this service to say what it costs"),
    "quota.format": (": ", "ask whoever runs this service"),
    "quota.tenant.depth": ("; ", "do without it, or ask an operator to raise the limit (`PATCH /v1/quotas`)"),
    "replay.policy": (": ", "that cannot be done again here"),
    "tool.denied": (": ", "choose another policy, or do without it"),
}
# A layer is for whoever runs this host; which one is missing, the code says.
_NO_LAYER: Final = "this service's host lacks a layer of the wall ({code}): choose another backend or policy"
# How something ended whose error has words of the host's, and not of the program's own.
_OF_THE_HOST: Final = frozenset({"model_failed", "denied", "quota"})


def fault_words(error: Exception) -> str:
    """The sentence for a fault of this kind."""
    return next((words for kind, _, words in FAULTS if isinstance(error, kind)), _OUR_FAULT)


def told_words(error: Exception, folders: Iterable[str] = ()) -> str:
    """What is told of an error. Of a quota of a level above whoever asks that it is met, and not what it is.

    Args:
        folders: paths of this host that no text has, besides whatever looks like one.
    """
    if not isinstance(error, Refusal):
        return fault_words(error)
    if isinstance(error, LayerMissing):
        return _NO_LAYER.format(code=error.code)
    told = error.told if isinstance(error, QuotaExceeded) else None
    return outside(_advised(str(error), error.code) if told is None else told, folders)


def _advised(text: str, code: str) -> str:
    """With advice for whoever is not at the host."""
    if code not in _ADVICE:
        return text
    mark, advice = _ADVICE[code]
    what, found, _ = text.rpartition(mark)
    return f"{what}{mark[:2]}{advice}" if found else text


def outside(text: str, folders: Iterable[str] = ()) -> str:
    """The text, with neither paths of this host nor commands that are given there."""
    return _COMMAND.sub(_THERE, without_paths(text, folders))


def told_result(result: _T, folders: Iterable[str] = ()) -> _T:
    """The result as it is told: a fault of ours in the same words as everywhere."""
    error = result.error
    if error is None:
        return result
    if result.status == "host_fault":
        found = (words for kind, _, words in FAULTS if kind.__name__ == error.type)
        told = ErrorInfo(error.type, next(found, _OUR_FAULT))
    elif result.status in _OF_THE_HOST:
        words = error.message if result.limit is None else _advised(error.message, result.limit.code)
        told = msgspec.structs.replace(error, message=outside(words, folders))
    else:
        return result
    return msgspec.structs.replace(result, error=told)


def without_paths(text: str, folders: Iterable[str] = ()) -> str:
    """The text, with a few words in place of whatever is, or looks like, a path of this host."""
    for folder in folders:
        if len(folder) > 1:
            text = re.sub(rf"{re.escape(folder)}[^\s'\"`,;:()<>]*", _ELSEWHERE, text)
    return _PATH.sub(_ELSEWHERE, text)
