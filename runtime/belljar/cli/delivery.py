"""Delivers a result to the user who paid for it.

If stdout is closed, nothing is started. If it can no longer be written when the result is there (a full disk, a reader
that has gone), the whole result is kept in the state folder, and one line says where; if that fails too, the answer
goes to stderr. The exit code is then 10, whatever the run's own would have been.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from belljar.cli.output import EXIT_OUTPUT, OutputFailed, document_of, exit_code, explain, flush, show, tell
from belljar.cli.progress import summarise
from belljar.durable import replaced
from belljar.engine import AskResult, Result
from belljar.errors import InvalidInput
from belljar.state import State

__all__ = ["as_text", "deliver", "keep", "require_stdout"]


class _NoStdout(InvalidInput):
    exit_code = EXIT_OUTPUT


def require_stdout() -> None:
    """Check stdout before anything is spent.

    Raises:
        InvalidInput: stdout is closed.
    """
    if sys.stdout is None:
        raise _NoStdout(
            "stdout is closed, so nothing was started: leave it open, or redirect it to a file", code="output.closed"
        )


def deliver(result: Result, write: Callable[[], None], state: State, *, quiet: bool) -> int:
    """Write out a result with `write`, then say on stderr how it ended. Returns the exit code."""
    code = exit_code(result)
    try:
        write()
        flush()
    except OutputFailed as failure:
        code = EXIT_OUTPUT
        _keep(result, failure, state)
    explain(result)
    _tell_cut(result)
    if not quiet:
        summarise(result)
    return code


def _tell_cut(result: Result) -> None:
    if result.truncated:
        tell(
            f"output: only the beginning and the end of {result.output_bytes} bytes are kept: print less, or use a "
            "policy with a larger `output` under [limits]"
        )


def _keep(result: Result, failure: OutputFailed, state: State) -> None:
    """Keep it in the state folder, for its owner only. `exec ... | head` is deliberate, and free to run again."""
    if failure.reader_left and result.usage.calls == 0:
        tell(f"output: {failure}: run {result.run} asked no model, so its result is not kept")
        return
    path, error = _kept(f"{result.run}.json", document_of(result), state)
    if error is None:
        tell(f"output: {failure}: the result of run {result.run} is in {path}")
        return
    tell(f"output: {failure}, nor can {path} ({error.strerror}): the answer of run {result.run} follows")
    if result.given is not None:
        show(f"{as_text(result)}\n", file=sys.stderr)


def keep(name: str, document: msgspec.Struct, why: OutputFailed | str, state: State, *, what: str) -> None:
    """The same for what is no run's result, but paid for; where nothing can be kept it goes to stderr."""
    path, error = _kept(f"{name}.json", document_of(document), state)
    if error is None:
        tell(f"output: {why}: {what} is in {path}")
        return
    tell(f"output: {why}, nor can {path} ({error.strerror}): {what} follows")
    show(f"{document_of(document)}\n", file=sys.stderr)


def _kept(name: str, document: str, state: State) -> tuple[Path, OSError | None]:
    """Where it is kept, for its owner only, and why not."""
    path = state.results / name
    try:
        state.results.mkdir(mode=0o700, exist_ok=True)
        with replaced(path) as file:  # half a result is worse than none
            file.write(f"{document}\n".encode("ascii"))
    except OSError as error:
        return path, error
    return path, None


def as_text(result: Result | AskResult) -> str:
    """The answer for a reader: a text as it is, anything else as JSON, without decoding it to a value."""
    if not isinstance(result.given, msgspec.Raw) or bytes(result.given).lstrip().startswith(b'"'):
        return str(result.answer)
    return msgspec.json.format(bytes(result.given), indent=-1).decode()
