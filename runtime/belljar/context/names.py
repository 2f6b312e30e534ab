"""The names of a document: a file per name in the document's folder, so that it goes when the document goes.

The file is named by the digest of the name, which may be any text, and says since when the document has it.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from pathlib import Path

import msgspec

from belljar.durable import replaced

__all__ = ["Name", "drop_name", "name_in", "names_in", "put_name"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Name(msgspec.Struct, frozen=True):
    """A name, and when it was last given."""

    name: str
    added_ns: int


def _file(folder: Path, name: str) -> Path:
    return folder / hashlib.sha256(name.encode()).hexdigest()


def put_name(folder: Path, name: str, now_ns: int) -> None:
    """Give a document one more name."""
    with replaced(_file(folder, name)) as file:
        file.write(msgspec.json.encode(Name(name, now_ns)))


def drop_name(folder: Path, name: str) -> None:
    """Take a name from a document."""
    _file(folder, name).unlink(missing_ok=True)


def names_in(folder: Path) -> list[Name]:
    """All names of a document, in no order."""
    found = []
    for file in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            if _SHA256.fullmatch(file.name):
                found.append(msgspec.json.decode(file.read_bytes(), type=Name))
    return found


def name_in(folder: Path, name: str) -> Name | None:
    """This name of a document, with since when it has it; None if it does not."""
    with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
        return msgspec.json.decode(_file(folder, name).read_bytes(), type=Name)
    return None
