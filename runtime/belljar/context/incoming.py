"""Where a document is written until it is complete: a folder of its own in `incoming`; and what happens to leftovers.

How leftovers are cleaned up. The writer of a folder in `incoming` holds an flock on it from before anyone may look
(it is created under `lock`) until after the rename. The kernel releases it when the writer dies. So the next `add`,
under `lock`, tries each folder: those that it can lock have no writer. A folder that was renamed between our look and
our lock is no longer at that path, and deletion goes by path: so no published document is ever deleted.

How an interrupted `add` continues. If a file can be copied as it is, its folder is named by the state of the file and
this boot of the machine. The next `add` of the same file in the same state finds the folder, locks it, and continues
from its last checkpoint (see `intake`); if its writer is alive, it starts a folder of its own. What nobody continues
for a day is swept.

A file that is written beside another and renamed over it (`tenant`, the memories of sources) is written with `lock`
held. So whoever holds `lock` and finds such a file half written knows that its writer is dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from belljar.context.document import INDEX_FILE, LINES_FILE, TEXT_FILE
from belljar.context.files import folder_lock
from belljar.context.formats import DOCUMENTS, LENT, put_format
from belljar.context.intake import CHECKPOINT_FILE
from belljar.context.sources import Sight
from belljar.durable import flush, replaced
from belljar.identity import Tenant

__all__ = ["KEPT_NS", "TENANT_FILE", "Incoming", "key_of"]

KEPT_NS = 24 * 3600 * 1_000_000_000
_KEPT = "kept-"
TENANT_FILE = "tenant"
FOLDERS = (DOCUMENTS, LENT, "incoming", "sources")


class Incoming:
    """The folder `incoming` of a store, and the lock under which it changes hands.

    Args:
        root: the store; made when first needed.
        tenant: whose it is.
    """

    def __init__(self, root: Path, tenant: Tenant) -> None:
        self._root = root
        self._tenant = tenant
        self._incoming = root / "incoming"

    @contextlib.contextmanager
    def workspace(self, key: str | None, now_ns: int) -> Iterator[Path]:
        """A folder in `incoming` that is ours until it is renamed away.

        If the work fails it is deleted. If it is interrupted it may stay, for the next attempt.
        """
        with contextlib.ExitStack() as held:
            with self.locked():
                self.sweep(now_ns, KEPT_NS, but=key)
                folder = self._claim(held, key)
            try:
                yield folder
            except Exception:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            except BaseException:
                if not (folder / CHECKPOINT_FILE).exists():
                    shutil.rmtree(folder, ignore_errors=True)
                raise

    def _claim(self, held: contextlib.ExitStack, key: str | None) -> Path:
        """Take a folder, the kept one if there is a key and nobody is using it. Call with `lock` held."""
        if key is not None:
            folder = self._incoming / f"{_KEPT}{key}"
            folder.mkdir(mode=0o700, exist_ok=True)
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                held.enter_context(folder_lock(folder))
                _clear_unless_kept(folder)
                return folder
        folder = self._incoming / secrets.token_hex(16)
        folder.mkdir(mode=0o700)
        held.enter_context(folder_lock(folder))
        return folder

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (self._root / DOCUMENTS).exists():  # a new store
                put_format(self._root)
            for name in FOLDERS:
                (self._root / name).mkdir(mode=0o700, exist_ok=True)
            self._sign()
            yield
        finally:
            os.close(lock)

    def _sign(self) -> None:
        """Write down whose store it is, unless that is there already."""
        tenant = self._tenant.encode()
        with contextlib.suppress(FileNotFoundError):
            if (self._root / TENANT_FILE).read_bytes() == tenant:
                return
        with replaced(self._root / TENANT_FILE) as file:
            file.write(tenant)
        flush(self._root)

    def sweep(self, now_ns: int, kept_ns: int, but: str | None = None) -> None:
        """Delete what dead writers left and nobody will continue. Call with `lock` held."""
        for folder in self._incoming.iterdir():
            if folder.name == f"{_KEPT}{but}" or _is_fresh(folder / CHECKPOINT_FILE, now_ns - kept_ns):
                continue
            with contextlib.suppress(FileNotFoundError, BlockingIOError), folder_lock(folder):
                shutil.rmtree(folder)
        for place in (self._root, self._root / "sources"):
            for file in place.glob("*.new"):
                file.unlink(missing_ok=True)

    def grave(self) -> Path:
        """A path to which a document can be moved with `locked` held, to be deleted there: by us, or by a sweep."""
        return self._incoming / secrets.token_hex(16)


def key_of(sight: Sight) -> str:
    """The name of a kept folder. Nothing is kept across a boot: a power cut may have lost what was written."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
    return hashlib.sha256(f"{boot}{sight.state}".encode()).hexdigest()


def _clear_unless_kept(folder: Path) -> None:
    """Leave in a folder only what a pass can continue from, if it can."""
    useful = {TEXT_FILE, INDEX_FILE, LINES_FILE, CHECKPOINT_FILE} if (folder / CHECKPOINT_FILE).exists() else set()
    for found in folder.iterdir():
        if found.is_dir():
            shutil.rmtree(found)
        elif found.name not in useful:
            found.unlink()


def _is_fresh(file: Path, since_ns: int) -> bool:
    try:
        return file.stat().st_mtime_ns > since_ns
    except (FileNotFoundError, NotADirectoryError):
        return False
