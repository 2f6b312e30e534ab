"""Paths as people write them, in files, options and variables of the environment."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from belljar.errors import InvalidInput

__all__ = ["home", "is_nameable", "whole"]


def home() -> str:
    """The home folder of this process, or of its user; of one that no file names it is empty: the root folder."""
    if named := os.environ.get("HOME"):
        return named
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""


def whole(path: str | Path, beside: Path | None = None) -> Path:
    """The absolute path, with the home folder in place of a `~` or `~NAME` at its beginning.

    Args:
        beside: what a relative one is relative to; the working folder if there is none.

    Raises:
        InvalidInput: `path.invalid`: no user has that name; there is a null character, which no path can have; it is
            empty; or the working folder is needed and has been removed.
    """
    if "\0" in str(path):
        raise InvalidInput(f"the path {str(path)[:200]!a} has a null character; name another", code="path.invalid")
    if path == "":  # what a variable gives that is not set
        raise InvalidInput("the path is empty; name a file or a folder, '.' for the current one", code="path.invalid")
    try:
        expanded = Path(path).expanduser()
        return expanded.absolute() if beside is None else beside / expanded
    except RuntimeError:
        raise InvalidInput(
            f"the path {str(path)[:200]!a} begins with the home folder of a user that there is not; write it in full",
            code="path.invalid",
        ) from None
    except FileNotFoundError:
        raise InvalidInput(
            f"the path {str(path)[:200]!a} is relative to a working folder that has been removed; change to another",
            code="path.invalid",
        ) from None


def is_nameable(path: Path) -> bool:
    """Whether a document can name the path: it is valid UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
