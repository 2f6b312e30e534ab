"""Where things are kept: one folder for log and ledger, contexts, images, results and the locks of live processes.

Log and ledger may be on a server instead, where several hosts share them; everything else stays in the folder.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import msgspec

from belljar.errors import AuditUnavailable, InvalidInput
from belljar.paths import home, is_nameable, whole

__all__ = ["State", "names_database"]


class State(msgspec.Struct, frozen=True):
    """The state folder's layout. `url` is that of the database with log and ledger, where they are on a server."""

    root: Path
    url: str | None = None

    @classmethod
    def at(cls, root: str | Path | None, environ: Mapping[str, str]) -> Self:
        """The folder `root` if given, else `$BELLJAR_HOME`, else `belljar` in the XDG state folder.

        Where its journal is, `config` decides.

        Raises:
            InvalidInput: `state.path`: it is not valid UTF-8, so no document could name it. `path.invalid`.
        """
        if root is None:
            state_home = environ.get("XDG_STATE_HOME") or f"{environ.get('HOME') or home()}/.local/state"
            root = Path(environ.get("BELLJAR_HOME") or f"{state_home}/belljar")
        folder = whole(root)
        if not is_nameable(folder):
            raise InvalidInput(
                f"the path of the state folder, {str(folder)[:200]!a}, is not valid UTF-8: name another with "
                "--state or BELLJAR_HOME",
                code="state.path",
            )
        return cls(folder)

    @property
    def journal(self) -> Path | str:
        """The log and the ledger: a URL, or one file, which has the name that it had when the log was alone in it."""
        return self.url or self.root / "audit.db"

    @property
    def owners(self) -> Path:
        return self.root / "owners"

    @property
    def contexts(self) -> Path:
        return self.root / "contexts"

    @property
    def uploads(self) -> Path:
        """Contexts that arrive piece by piece."""
        return self.root / "uploads"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def witness(self) -> Path:
        """How pushing checkpoints to a witness went last; there where one is configured."""
        return self.root / "witness.json"

    @property
    def results(self) -> Path:
        """Results that could not be written to stdout."""
        return self.root / "results"

    def create(self) -> None:
        """Make the folder.

        Raises:
            InvalidInput: `state.folder`: a file is in its place, or in that of a folder above it.
            AuditUnavailable: it cannot be created; without it there is no log, and so no run.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except (FileExistsError, NotADirectoryError) as error:
            raise InvalidInput(
                f"{self.root} is not a folder, or lies below a file: name a folder for the state with --state or "
                "BELLJAR_HOME",
                code="state.folder",
            ) from error
        except OSError as error:
            raise AuditUnavailable(
                f"the state folder {self.root} cannot be created ({error.strerror}): choose another with --state or "
                "BELLJAR_HOME"
            ) from error


def names_database(url: str) -> bool:
    """Whether it is a URL of a PostgreSQL database. Whether there is one, and its options are right, shows later."""
    try:
        urllib.parse.urlsplit(url)
    except ValueError:
        return False
    return url.startswith(("postgresql://", "postgres://"))
