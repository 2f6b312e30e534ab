"""Paths as people write them, in files, options and variables of the environment."""

from __future__ import annotations

from pathlib import Path

from belljar.errors import InvalidInput

__all__ = ["expanded"]


def expanded(path: str | Path) -> Path:
    """The path, with the home folder in place of a `~` or `~NAME` at its beginning.

    Raises:
        InvalidInput: `path.invalid`: no user has that name, or there is a null character, which no path can have.
    """
    if "\0" in str(path):
        raise InvalidInput(f"the path {str(path)[:200]!a} has a null character; name another", code="path.invalid")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InvalidInput(
            f"the path {str(path)[:200]!a} begins with the home folder of a user that there is not; write it in full",
            code="path.invalid",
        ) from None
