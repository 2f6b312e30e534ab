"""`--trace FILE`: each turn of the root model as one line of JSON, as soon as it ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from belljar.cli.output import complain
from belljar.engine import Turn
from belljar.errors import InvalidInput

__all__ = ["tracing"]


@contextlib.contextmanager
def tracing(path: Path | None) -> Iterator[Callable[[Turn], None] | None]:
    """Give a function that writes a turn; None without a path.

    The file holds what was printed of the contexts, so nobody else may read it. If it can no longer be written, that is
    reported once, and the run goes on.

    Raises:
        InvalidInput: it cannot be opened.
    """
    if path is None:
        yield None
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be written ({error.strerror}): give --trace a file in a folder that you can write to",
            code="trace.file",
        ) from error
    whole = True

    def write(turn: Turn) -> None:
        nonlocal whole
        if not whole:
            return
        line = memoryview(msgspec.json.encode(turn) + b"\n")
        try:
            while line:
                line = line[os.write(descriptor, line) :]
        except OSError as error:
            whole = False
            complain("the trace", f"{path} is incomplete: {error.strerror}")

    try:
        yield write
    finally:
        os.close(descriptor)
