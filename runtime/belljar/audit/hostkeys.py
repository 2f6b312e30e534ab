"""Where a host's own keys are: in a folder apart from the state, so that no copy of the state has both.

    $BELLJAR_KEYS, else $XDG_CONFIG_HOME/belljar/keys, else ~/.config/belljar/keys      0700
        contents.key                                                                    0600

A key is made when it is first needed. Processes that need it at once agree on one: each writes its own to a file that
nobody else knows, and links that to the key's name; the first link stands, and all read what is there then.

A folder or a file that others may read is refused, also for reading: what was in it may be known to anybody.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from belljar.errors import AuditUnavailable

__all__ = ["KEY_BYTES", "host_key", "keys_folder"]

KEY_BYTES: Final = 32


def keys_folder(environ: Mapping[str, str]) -> Path:
    """The folder for keys. It need not be there yet."""
    if given := environ.get("BELLJAR_KEYS"):
        return Path(given).expanduser().absolute()
    config = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or Path.home()) / ".config"
    return Path(config, "belljar", "keys").absolute()


def host_key(folder: Path, name: str, *, make: bool) -> bytes | None:
    """The 32 secret bytes of this name; None where there are none and they are not to be made.

    Raises:
        AuditUnavailable: they cannot be read or made, or others may read them.
    """
    path = folder / name
    try:
        if make and not path.exists():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _refuse_open(folder, "0700")
            _make(path)
        _refuse_open(folder, "0700")
        _refuse_open(path, "0600")
        found = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AuditUnavailable(
            f"the key {path} cannot be used ({error.strerror}): check the folder, or choose another with BELLJAR_KEYS"
        ) from error
    if len(found) != KEY_BYTES:
        raise AuditUnavailable(f"the key {path} is damaged: put it back from where you keep it")
    return found


def _refuse_open(path: Path, mode: str) -> None:
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise AuditUnavailable(f"{path} belongs to another user: choose a folder of your own with BELLJAR_KEYS")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise AuditUnavailable(f"others may use {path}: chmod {mode} it, and think of its keys as known")


def _make(path: Path) -> None:
    own = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(os.open(own, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(own, path)
    finally:
        own.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
