"""What the commands print: one JSON document or plain text on stdout, one-line errors on stderr.

A document has one line for each of its fields, and a field's value is not indented: indentation would multiply the size
of a deeply nested answer. It is always ASCII: no character of a program's text can steer a terminal or look like
another. So it is at most six times as long as its contents. Half a surrogate pair, which many readers refuse, is
written out as six characters.

A result has been paid for, so the streams are set up so that none is lost on the way out: characters that stdout's
encoding lacks are escaped; a failed write to stdout is an `OutputFailed`, which nothing else raises; and nothing that
happens to stderr, where only we write, is an error.

On a terminal, a stream writes nothing that could steer it, whoever prints: a command, a parser of options that repeats
an argument, a traceback. Only a live line of ours goes past that (`live`); what is told beside it is shown by `tell`.
"""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import select
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TextIO, runtime_checkable

import msgspec

from belljar.errors import (
    GuestFault,
    HostFault,
    InvalidInput,
    InvalidPolicy,
    ModelFailed,
    QuotaExceeded,
    Refusal,
)
from belljar.glyphs import glyphs

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    # A command with a result has loaded the engine; `--version` need not.
    from belljar.engine import Limit, Result
    from belljar.policy import Unit

__all__ = [
    "EXIT_OUTPUT",
    "SCHEMA_VERSION",
    "OutputFailed",
    "complain",
    "counted",
    "document_of",
    "emit",
    "exit_code",
    "explain",
    "flush",
    "is_terminal",
    "live",
    "open_streams",
    "printable",
    "put",
    "say",
    "show",
    "tell",
]

SCHEMA_VERSION = 1
EXIT_OUTPUT = 10

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
# White space between the tokens of JSON that we did not write; inside its strings it is always escaped.
_SPACES = bytes.maketrans(b"\t\n\r", b"   ")

_EXIT = {"ok": 0, "denied": 4, "quota": 5, "model_failed": 7}
_EXIT_GUEST = 6
# A run that our side could not finish: the error's type decides.
_EXIT_FAULTS = {"AuditUnavailable": 8, "LedgerUnavailable": 8}
# For other statuses the refusal's own message has the numbers.
_LIMITS_TOLD = frozenset({"timeout", "cpu", "memory", "processes", "disk", "output"})
# What ended the program, where we had refused exactly that (`Result.limit` says so, not the program).
_EXIT_RAISED = {"PolicyDenied": 4, "QuotaExceeded": 5, "ModelError": 7}
# Any other error handler is the user's own choice.
_ERRORS_THAT_LOSE = frozenset({"strict", "surrogateescape"})


class OutputFailed(Exception):
    """Stdout can no longer be written. `str` says why; `reader_left`: it was a pipe, and its reader has gone."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"stdout cannot be written ({error.strerror})")
        self.reader_left = error.errno == errno.EPIPE


class _Stdout(io.FileIO):
    """Tells its own failures from all others, and waits if our parent made it non-blocking."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            while (written := super().write(data)) is None:
                select.select((), (self,), ())
        except OSError as error:
            _discard_stdout()
            raise OutputFailed(error) from error
        return written


class _Terminal(io.TextIOWrapper):
    """Shows what could steer it."""

    def write(self, text: str, /) -> int:
        super().write(printable(text))
        return len(text)


class _Stderr(io.FileIO):
    """Never fails: a message that nobody reads must not cost a result."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return memoryview(data).nbytes


def open_streams() -> None:
    """Set up stdout and stderr as this module needs them. A closed one stays None, and printing to it does nothing.

    A closed stdin becomes an empty one.
    """
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BytesIO())
    sys.stdout, sys.stderr = _reopened(sys.stdout, _Stdout), _reopened(sys.stderr, _Stderr)


def _reopened(stream: TextIO, kind: type[io.FileIO]) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):  # it was closed, or the caller replaced it
        return stream
    stream.flush()
    return (_Terminal if stream.isatty() else io.TextIOWrapper)(
        io.BufferedWriter(kind(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace" if stream.errors in _ERRORS_THAT_LOSE else stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _discard_stdout() -> None:
    """Discard what is still buffered, so that it cannot fail later."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def flush() -> None:
    """Write out all that was printed.

    Raises:
        OutputFailed: it could not be written.
    """
    if sys.stdout is not None:
        sys.stdout.flush()


def live() -> TextIO:
    """Stderr for a line that moves the cursor, which must have nothing in it that is not ours."""
    if not isinstance(sys.stderr, _Terminal):
        return sys.stderr
    return io.TextIOWrapper(
        io.BufferedWriter(_Stderr(sys.stderr.fileno(), "w", closefd=False)),
        encoding=sys.stderr.encoding,
        errors=sys.stderr.errors,
        write_through=True,
    )


def is_terminal() -> bool:
    """Whether stdout is one."""
    return sys.stdout is not None and sys.stdout.isatty()


def put(pieces: Iterable[bytes]) -> None:
    """Write bytes to stdout as they are; to a terminal, as text that does not steer it."""
    if is_terminal():
        for text in codecs.iterdecode(pieces, "utf-8", "replace"):
            print(printable(text), end="")
    elif sys.stdout is not None:
        sys.stdout.flush()
        for piece in pieces:
            sys.stdout.buffer.write(piece)


def say(line: str) -> None:
    """A line of data on stdout."""
    print(line)


def tell(line: str) -> None:
    """A line on stderr, for a person."""
    print(f"belljar: {printable(line)}", file=sys.stderr)


@runtime_checkable
class _SelfWritten(Protocol):
    """A document that serialises itself: a result does, with its answer as it came."""

    def to_json(self) -> bytes: ...


def emit(document: Mapping[str, Any] | msgspec.Struct) -> None:
    """Print exactly one JSON document, with its schema's version first."""
    print(document_of(document))


def document_of(document: Mapping[str, Any] | msgspec.Struct) -> str:
    data = document.to_json() if isinstance(document, _SelfWritten) else _encoded(document)
    fields = {"schema_version": msgspec.Raw(b"%d" % SCHEMA_VERSION), **_FIELDS.decode(data)}
    lines = [
        f"  {json.dumps(name)}: {_ascii(bytes(value).translate(_SPACES).decode())}" for name, value in fields.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}"


def _encoded(document: Mapping[str, Any] | msgspec.Struct) -> bytes:
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:  # a log can have half a surrogate pair, which JSON in UTF-8 cannot
        from belljar.audit.export.encoding import document as written_out  # with what no other document needs

        return written_out(msgspec.to_builtins(document))


def _ascii(document: str) -> str:
    """The same JSON, with everything escaped that is not printable ASCII. Only strings can hold such characters."""
    escaped = json.dumps(document)[1:-1]
    # That also escaped quotes and backslashes, which were all right as they were.
    return escaped.replace('\\"', '"').replace("\\\\", "\\")


def complain(culprit: object, message: str, *, as_json: bool = False) -> None:
    """One line on stderr that says who is at fault; with `as_json` also a document on stdout."""
    word = culprit if isinstance(culprit, str) else _word(culprit)
    tell(f"{word}: {_one_line(message)}")
    if as_json:
        # A path may hold bytes that are not text, which JSON cannot hold.
        error: dict[str, Any] = {"culprit": word, "message": message.encode(errors="backslashreplace").decode()}
        if not isinstance(culprit, str):
            error["type"] = type(culprit).__name__
        if isinstance(culprit, Refusal):
            error |= {"code": culprit.code, "limit": culprit.limit, "observed": culprit.observed}
        emit({"status": _status(culprit), "error": error})


def show(text: str, *, file: TextIO | None = None) -> None:
    """Write a program's text: to a file or a pipe as it is, to a terminal with control characters shown."""
    stream = sys.stdout if file is None else file
    if stream is None:
        return
    stream.write(printable(text) if stream.isatty() else text)
    stream.flush()


def exit_code(result: Result) -> int:
    """What a finished run means to a shell."""
    if result.status == "host_fault":
        return _EXIT_FAULTS.get(result.error.type if result.error else "", 1)
    if result.status == "error" and result.error is not None and result.limit is not None:
        return _EXIT_RAISED.get(result.error.type, _EXIT_GUEST)
    return _EXIT.get(result.status, _EXIT_GUEST)


def explain(result: Result) -> None:
    """One line on stderr for a run that did not end well, then the program's traceback if it says more."""
    if result.status == "ok" or result.error is None:
        return
    error = result.error
    where = f", line {error.line}" if error.line else ""
    culprit = {
        "host_fault": "our fault",
        "model_failed": "the model",
        "denied": "refused",
        "quota": "quota",
        "killed": "stopped",
    }.get(result.status, "the program")
    words = f": {_one_line(error.message)}" if error.message else ""
    met = f" ({_met(result.limit)})" if result.limit is not None and result.status in _LIMITS_TOLD else ""
    tell(f"{culprit}: {result.status}: {_one_line(error.type)}{where}{words}{met}")
    # For code that was never run that says it all, unless its line can be shown.
    shown = error.traceback or ""
    if result.status == "rejected":
        *lines, last = shown.rstrip().split("\n")
        shown = "\n".join(lines if last.partition(": ")[2] in error.message else [*lines, last])
    if shown:
        print(printable(shown), file=sys.stderr)


def _met(limit: Limit) -> str:
    observed = "" if limit.observed is None else f", observed {_quantity(limit.observed, limit.unit)}"
    bound = "" if limit.limit is None else f": limit {_quantity(limit.limit, limit.unit)}"
    return f"{limit.code}{bound}{observed}"


def _quantity(value: int, unit: Unit) -> str:
    """A number for a person."""
    match unit:
        case "ms":
            return f"{value / 1000:g} s"
        case "bytes":
            return _size(value)
        case "nanousd":
            return f"{value / 10**9:.4f} USD"
        case "mib_s":
            return f"{value} MiB-seconds"
        case "":
            return str(value)


def _size(size_bytes: int) -> str:
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f}".removesuffix(".0") + f" {name}"
    return f"{size_bytes} bytes"


def _word(error: object) -> str:
    if isinstance(error, Refusal):
        return "refused"
    if isinstance(error, GuestFault):
        return "the program"
    if isinstance(error, ModelFailed):
        return "the model"
    return "our fault" if isinstance(error, HostFault) else "error"


def _status(culprit: object) -> str:
    """The status of a command that never became a run, by a run's names where one fits."""
    match culprit:
        case InvalidInput() | InvalidPolicy():
            return "invalid"
        case QuotaExceeded():
            return "quota"
        case Refusal():
            return "denied"
        case ModelFailed():
            return "model_failed"
        case "interrupted":
            return "killed"
        case _:
            return "host_fault"


def _one_line(text: str) -> str:
    return printable(text).replace("\n", " ")


def counted(number: int, noun: str, many: str | None = None) -> str:
    """`1 run`, `2 runs`; `many` where the plural is not made with an s."""
    return f"{number} {noun if number == 1 else many or noun + 's'}"


def printable(text: str, *, but: str = "\n\t") -> str:
    """Text that is not ours must not steer the terminal: control characters are shown, not sent, except for `but`."""
    return glyphs(text, but=but)
