"""Files that a command writes for its user: whole or not at all, and for its owner alone."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from belljar.errors import InvalidInput

__all__ = ["write_private"]


def write_private(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file that only its owner can read.

    The pieces go to a new file beside it, which takes its name when all of them are there. So whatever fails, what was
    at `path` before is still there. A device or a pipe is written as it is.

    Raises:
        InvalidInput: it cannot be written.
    """
    try:
        if path.exists() and not path.is_file():
            with open(path, "wb") as stream:
                stream.writelines(pieces)
            return
        _replace(Path(os.path.realpath(path)), pieces)
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be written ({error.strerror}): name another place with -o", code="export.output"
        ) from error


def _replace(path: Path, pieces: Iterable[bytes]) -> None:
    descriptor, draft = tempfile.mkstemp(prefix=".belljar-", dir=path.parent)
    try:
        with open(descriptor, "wb") as stream:
            stream.writelines(pieces)
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
