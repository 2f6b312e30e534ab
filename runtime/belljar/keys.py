"""The secrets of a host, in a folder of their own, apart from the state: whoever copies the state has none of them.

    $BELLJAR_KEYS, else $XDG_CONFIG_HOME/belljar/keys, else ~/.config/belljar/keys      mode 0700
        NAME              a key, or what must be known of a log to find it replaced     mode 0600
        .NAME-<random>    while a file is written; what a killed process leaves is of no use to anybody
        .NAME-lock        empty: whoever changes NAME by what is in it holds its lock

A file appears under its name whole and on the disk, or not at all: it is written beside, and then linked (where the
first one to come makes it) or renamed (where the last one replaces it). So two processes that need a key for the first
time get the same one.

A folder or file that belongs to another user, or that others can read, is refused, and not repaired: what was in it may
be known by now. A symbolic link in place of a file is refused, too.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Self

from belljar.durable import created, flush
from belljar.errors import AuditUnavailable
from belljar.paths import home, whole

__all__ = ["SECRET_BYTES", "Keys"]

SECRET_BYTES: Final = 32
_FILE_BYTES_MAX: Final = 2**20
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_PATIENCE_S: Final = 10.0
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class Keys:
    """The keys folder. It is made when something is first put into it.

    Every method raises `AuditUnavailable` if the folder, or a file in it, cannot be used or can be read by others.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def at(cls, environ: Mapping[str, str]) -> Self:
        """The folder that the environment names; where it has no `HOME`, that of the user of this process."""
        config = environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME') or home()}/.config"
        return cls(whole(environ.get("BELLJAR_KEYS") or f"{config}/belljar/keys"))

    def secret(self, name: str) -> bytes:
        """The key of this name: `SECRET_BYTES` random bytes, made when they are first asked for."""
        found = self.found(name)
        return self._whole(name, self.create(name, secrets.token_bytes(SECRET_BYTES))) if found is None else found

    def found(self, name: str) -> bytes | None:
        """As `secret`, but nothing is made: None if there is none yet."""
        found = self.read(name)
        return None if found is None else self._whole(name, found)

    def _whole(self, name: str, found: bytes) -> bytes:
        if len(found) != SECRET_BYTES:
            raise self._unusable(f"{name} has {len(found)} bytes, not {SECRET_BYTES}", "put back what was there")
        return found

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is none."""
        path = self._path(name)
        with self._told():
            if not self._is_there():
                return None
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                return None
            with open(descriptor, "rb") as opened:
                self._check(os.fstat(descriptor), stat.S_ISREG, name, 0o600)
                found = opened.read(_FILE_BYTES_MAX + 1)
        if len(found) > _FILE_BYTES_MAX:
            raise self._unusable(f"{name} is too large for one of its files", "put back what was there")
        return found

    def create(self, name: str, content: bytes) -> bytes:
        """Make a file, unless there is one. Returns what is in it now."""
        path = self._path(name)
        with self._told(), self._draft(name, content) as draft, contextlib.suppress(FileExistsError):
            os.link(draft, path)
            flush(self.folder)
        found = self.read(name)
        if found is None:
            raise self._unusable(f"{name} was removed as soon as it was made", "find out who removes it")
        return found

    def write(self, name: str, content: bytes) -> None:
        """Make a file, or replace it. It is on the disk when this returns."""
        path = self._path(name)
        with self._told(), self._draft(name, content) as draft:
            os.rename(draft, path)
            flush(self.folder)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        path = self._path(name)
        with self._told():
            if self._is_there():
                path.unlink(missing_ok=True)
                flush(self.folder)

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Nobody else is inside this for the same name, in whatever process. Waits for `_PATIENCE_S` seconds at most.

        The kernel releases the lock of a process that dies.
        """
        with self._told():
            self._make()
            descriptor = os.open(
                self.folder / f".{self._path(name).name}-lock",
                os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW,
                0o600,
            )
        try:
            self._take(descriptor, name)
            yield
        finally:
            os.close(descriptor)

    def _take(self, descriptor: int, name: str) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            with self._told():
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except BlockingIOError:
                    pass
            if time.monotonic() > deadline:
                raise self._unusable(
                    f"another process has held {name} for more than {_PATIENCE_S:g} s", "find and end that process"
                )
            time.sleep(0.002)

    # -- files -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _draft(self, name: str, content: bytes) -> Iterator[Path]:
        """A file that is on the disk, and gone at the end unless it was renamed."""
        self._make()
        draft = self.folder / f".{name}-{secrets.token_hex(8)}"
        try:
            with created(draft) as file:
                file.write(content)
            yield draft
        finally:
            draft.unlink(missing_ok=True)

    def _make(self) -> None:
        if not self._is_there():
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            self._is_there()

    def _is_there(self) -> bool:
        try:
            found = os.stat(self.folder)
        except FileNotFoundError:
            return False
        self._check(found, stat.S_ISDIR, "it", 0o700)
        return True

    def _check(self, found: os.stat_result, is_right: Callable[[int], bool], what: str, mode: int) -> None:
        if not is_right(found.st_mode):
            raise self._unusable(f"{what} is something else", "choose another folder with BELLJAR_KEYS")
        if found.st_uid != os.geteuid():
            raise self._unusable(f"{what} belongs to another user", "choose another folder with BELLJAR_KEYS")
        if found.st_mode & _OTHERS:
            raise self._unusable(
                f"others can read {what}", f"find out who did, and `chmod {mode:o}` it if the keys can stay"
            )

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a name of a key")
        return self.folder / name

    def _unusable(self, why: str, what_to_do: str) -> AuditUnavailable:
        return AuditUnavailable(f"the keys folder {self.folder} cannot be used: {why}; {what_to_do}")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = "a file in it is a symbolic link" if error.errno == errno.ELOOP else error.strerror or str(error)
            raise self._unusable(why, "check its permissions, or choose another with BELLJAR_KEYS") from error
