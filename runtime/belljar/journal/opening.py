"""Where a journal is kept, by what the caller says: a file, memory, or a server."""

from __future__ import annotations

import urllib.parse
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

from belljar.errors import BelljarError
from belljar.journal.draft import Store
from belljar.journal.journal import Journal
from belljar.journal.sqlite import SqliteStore

__all__ = ["migrate_database", "open_journal", "opened_journal", "shown"]

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


def migrate_database(url: str, *, dry_run: bool, unavailable: Callable[[str], BelljarError]) -> tuple[int, int] | None:
    """Bring the journal in a PostgreSQL database to this version's format, in one transaction. From which to which that
    was, or with `dry_run` would be; None where there is none or it has that format.

    Hosts that have it open know only the older format: they are shut out.

    Raises:
        whatever `unavailable` makes: it is newer, is something else, or cannot be written.
    """
    name = f"the journal {shown(url)}"
    formats = _postgres(unavailable).formats
    before, latest = formats(url, name=name, unavailable=unavailable)
    if before is None or before == latest:
        return None
    if not dry_run:
        _on_server(url, unavailable)[0].close()
    return before, latest


def _on_server(url: str, unavailable: Callable[[str], BelljarError]) -> tuple[Store, str]:
    if not url.startswith(_SCHEMES):
        # Not the text: what was mistyped can hold a password.
        raise unavailable("cannot open the journal: its URL has to begin with postgresql://")
    name = f"the journal {shown(url)}"
    return _postgres(unavailable).PostgresStore(url, name=name, unavailable=unavailable), name


def _postgres(unavailable: Callable[[str], BelljarError]) -> ModuleType:
    """What knows PostgreSQL; loaded only where there is a URL."""
    try:
        from belljar.journal import postgres
    except ImportError as error:
        raise unavailable(f"cannot open the journal: {error}; install belljar[postgres]") from error
    return postgres


def shown(url: str) -> str:
    """The URL without user, password and options."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return "postgresql://"
    return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"
