"""What the commands print: one JSON document or plain text on stdout, one line of complaint on stderr.

A document has one line for each of its fields, and a field's value is not indented: a program that nests its answer
deeply would multiply it. It is ASCII, whoever reads it: no character of a program's text can steer a terminal, or be
drawn as another. So it is at most six times as long as what is in it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import msgspec

from belljar.engine import Result
from belljar.errors import GuestFault, HostFault, ModelFailed, Refusal

__all__ = ["SCHEMA_VERSION", "complain", "emit", "exit_code", "explain", "printable", "show"]

SCHEMA_VERSION = 1

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
# White space between the tokens of somebody else's JSON; inside its strings it is always escaped.
_SPACES = bytes.maketrans(b"\t\n\r", b"   ")
_PERHAPS_CONTROL = re.compile(r"[^ -~]+")

_EXIT = {"ok": 0, "denied": 4, "quota": 5, "model_failed": 7}
_EXIT_GUEST = 6
# A run that our side could not finish: the type of the error chooses.
_EXIT_FAULTS = {"AuditUnavailable": 8, "LedgerUnavailable": 5}


def emit(document: Mapping[str, Any] | msgspec.Struct) -> None:
    """Print exactly one JSON document, with its schema's version first."""
    data = document.to_json() if isinstance(document, Result) else msgspec.json.encode(document)
    fields = {"schema_version": msgspec.Raw(b"%d" % SCHEMA_VERSION), **_FIELDS.decode(data)}
    lines = [
        f"  {json.dumps(name)}: {_ascii(bytes(value).translate(_SPACES).decode())}" for name, value in fields.items()
    ]
    print("{\n" + ",\n".join(lines) + "\n}")


def _ascii(document: str) -> str:
    """The same JSON, with everything escaped that is not printable ASCII. Only strings can hold such characters."""
    escaped = json.dumps(document)[1:-1]
    # That has escaped quotes and backslashes too, of which every one stood as it should.
    return escaped.replace('\\"', '"').replace("\\\\", "\\")


def complain(culprit: object, message: str, *, as_json: bool = False) -> None:
    """One line on stderr that says who is at fault; with `as_json` also a document on stdout."""
    word = culprit if isinstance(culprit, str) else _word(culprit)
    print(f"belljar: {word}: {_one_line(message)}", file=sys.stderr)
    if as_json:
        # A path may hold bytes that are no text, which no JSON can hold.
        error: dict[str, Any] = {"culprit": word, "message": message.encode(errors="backslashreplace").decode()}
        if not isinstance(culprit, str):
            error["type"] = type(culprit).__name__
        if isinstance(culprit, Refusal):
            error |= {"code": culprit.code, "limit": culprit.limit, "observed": culprit.observed}
        emit({"error": error})


def show(text: str, *, file: TextIO | None = None) -> None:
    """Write a program's text: to a file or a pipe as it is, to a terminal with control characters shown."""
    stream = sys.stdout if file is None else file
    stream.write(printable(text) if stream.isatty() else text)
    stream.flush()


def exit_code(result: Result) -> int:
    """What a finished run means to a shell."""
    if result.status == "host_fault":
        return _EXIT_FAULTS.get(result.error.type if result.error else "", 1)
    return _EXIT.get(result.status, _EXIT_GUEST)


def explain(result: Result) -> None:
    """One line on stderr for a run that did not end well, then the program's traceback if there is one."""
    if result.status == "ok" or result.error is None:
        return
    error = result.error
    where = f", line {error.line}" if error.line else ""
    culprit = {
        "host_fault": "our fault",
        "model_failed": "model",
        "denied": "refused",
        "quota": "quota",
        "killed": "stopped",
    }.get(result.status, "the program")
    words = f": {_one_line(error.message)}" if error.message else ""
    print(f"belljar: {culprit}: {result.status}: {_one_line(error.type)}{where}{words}", file=sys.stderr)
    if error.traceback:
        print(printable(error.traceback), file=sys.stderr)


def _word(error: object) -> str:
    if isinstance(error, Refusal):
        return "refused"
    if isinstance(error, GuestFault):
        return "the program"
    if isinstance(error, ModelFailed):
        return "model"
    return "our fault" if isinstance(error, HostFault) else "error"


def _one_line(text: str) -> str:
    return printable(text).replace("\n", " ")


def printable(text: str, *, but: str = "\n\t") -> str:
    """Nobody else's text may steer the terminal: control characters are shown, not sent, but for these."""

    def shown(found: re.Match[str]) -> str:
        return "".join(char if char.isprintable() or char in but else repr(char)[1:-1] for char in found[0])

    return _PERHAPS_CONTROL.sub(shown, text)
