"""Files that a command writes for its user: whole or not at all, and for its owner alone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from belljar.durable import replaced
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
        with replaced(Path(os.path.realpath(path))) as file:
            file.writelines(pieces)
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be written ({error.strerror}): name another place with -o", code="export.output"
        ) from error
