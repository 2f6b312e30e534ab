"""Where a journal is kept, by what the caller says: a file, or memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from belljar.errors import BelljarError
from belljar.journal.journal import Journal
from belljar.journal.sqlite import SqliteStore

__all__ = ["open_journal"]


def open_journal(path: Path | None, *, unavailable: Callable[[str], BelljarError]) -> Journal:
    """The journal in the SQLite file at `path`, created if missing; None keeps it in memory.

    Raises:
        whatever `unavailable` makes: it cannot be opened, or is something else.
    """
    name = "the journal in memory" if path is None else f"the journal {path}"
    return Journal(SqliteStore(path, name=name, unavailable=unavailable), name=name, inline=path is None)
