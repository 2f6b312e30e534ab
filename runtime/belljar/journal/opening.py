"""Where a journal is kept, by what the caller says: a file, memory, or a server."""

from __future__ import annotations

import urllib.parse
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from belljar.errors import BelljarError
from belljar.journal.draft import Store
from belljar.journal.journal import Journal
from belljar.journal.sqlite import SqliteStore

__all__ = ["open_journal", "opened_journal", "shown"]

_SCHEMES = ("postgresql://", "postgres://")


def open_journal(where: Path | str | None, *, unavailable: Callable[[str], BelljarError]) -> Journal:
    """The journal in the SQLite file at a path, created if missing; None keeps it in memory.

    A text is the URL of a PostgreSQL database, `postgresql://user@host/database`, and needs the extra `postgres`.

    Raises:
        whatever `unavailable` makes: it cannot be opened, or is something else.
    """
    if isinstance(where, str):
        store, name = _on_server(where, unavailable)
        return Journal(store, name=name)
    name = "the journal in memory" if where is None else f"the journal {where}"
    return Journal(SqliteStore(where, name=name, unavailable=unavailable), name=name, inline=where is None)


@asynccontextmanager
async def opened_journal(
    where: Path | str | None, *, unavailable: Callable[[str], BelljarError]
) -> AsyncIterator[Journal]:
    """As `open_journal`, for the length of a block. What the block has submitted is written at its end.

    Raises:
        whatever `unavailable` makes: it cannot be opened, or what was submitted could not be written.
    """
    journal = open_journal(where, unavailable=unavailable)
    try:
        yield journal
    finally:
        await journal.aclose(unavailable=unavailable)


def _on_server(url: str, unavailable: Callable[[str], BelljarError]) -> tuple[Store, str]:
    if not url.startswith(_SCHEMES):
        # Not the text: what was mistyped can hold a password.
        raise unavailable("cannot open the journal: its URL has to begin with postgresql://")
    try:
        from belljar.journal.postgres import PostgresStore
    except ImportError as error:
        raise unavailable(f"cannot open the journal: {error}; install belljar[postgres]") from error
    name = f"the journal {shown(url)}"
    return PostgresStore(url, name=name, unavailable=unavailable), name


def shown(url: str) -> str:
    """The URL without user, password and options."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return "postgresql://"
    return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"
