"""How much the stores of a tenant, and of all tenants below it, may hold on this host, and that they never hold more.

What they hold is nowhere written down: it is counted where it lies, in the folders of the documents. So no crash can
make a figure wrong, and a removal frees its room by itself. The limits are somebody else's, who is asked for them each
time.

Limits are met in two places:

    at the end      a document gets its final name with the lock of its root tenant held (`acme` for `acme/research`),
                    and so does every other of that tree: the limits are looked up, everything is counted, the document
                    is renamed, and only then the next one is looked at. So two processes that add at once never pass a
                    limit together.
    on the way in   a long one is refused as soon as it is too large, by what there was when it began. That spares the
                    disk, and decides nothing: the end does.

Nothing of what is already there is paid for again. As only the end tells what it is, what comes in may be as long as
the longest document that is already there, even where there is no room at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from belljar.context.document import DIRECTORY_FILE, INDEX_FILE, LINES_FILE, TEXT_FILE
from belljar.context.intake import Place
from belljar.errors import HostFault, QuotaExceeded
from belljar.identity import Tenant

__all__ = ["LimitsOf", "Room", "folder_bytes"]

# How many bytes each level of a tenant may have, of those that have a limit.
LimitsOf = Callable[[Tenant], Mapping[Tenant, int]]

# What a document's content makes it; how often it was named does not count.
_FILES: Final = (TEXT_FILE, INDEX_FILE, LINES_FILE, DIRECTORY_FILE)
# Others hold the lock while they look the limits up and count: seconds at worst.
_BUSY_TIMEOUT_S: Final = 60.0
_AGAIN_S: Final = 0.005
# Less than this is looked at only at its end: nearly everything that a run brings along.
_LOOKED_AT_BYTES: Final = 2**20
_TOLD: Final = (
    "the stored contexts of the run's tenant take up all the room that they may: give a smaller one, or ask whoever "
    "started the run for more"
)


def folder_bytes(folder: Path) -> int:
    """What a document takes up; 0 if it is not there (any more)."""
    found = 0
    for name in _FILES:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found += (folder / name).stat().st_size
    return found


class _Level(NamedTuple):
    tenant: Tenant
    limit: int
    used: int


class Room:
    """What one tenant's store may still take in.

    Args:
        tenant: whose store it is.
        lock: a file that all stores of its root tenant share.
        limits: looks up the limits of its levels.
        sizes: counts what each tenant has that is below its root tenant, or is that.
    """

    def __init__(
        self, tenant: Tenant, lock: Path, limits: LimitsOf, sizes: Callable[[Tenant], Mapping[Tenant, int]]
    ) -> None:
        self._tenant = tenant
        self._lock = lock
        self._limits = limits
        self._sizes = sizes

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one that adds to this tree of tenants.

        Raises:
            HostFault: another process has held it for too long.
        """
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + _BUSY_TIMEOUT_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise HostFault(
                            f"another process has been adding a context for {self._tenant.levels[0]} for more than "
                            f"{_BUSY_TIMEOUT_S:g} s; end it, or wait until it is done"
                        ) from None
                    time.sleep(_AGAIN_S)
            yield
        finally:
            os.close(lock)

    def check(self, more: int) -> None:
        """Refuse what does not fit beside what there is now. Decides only while `locked`.

        Raises:
            QuotaExceeded: `context.stored`.
            HostFault: the limits cannot be looked up.
        """
        self._refuse(self._levels(), more)

    def place(self, folder: Path, longest: Callable[[], int], *, lasting: bool) -> Place:
        """Where a document is written that is refused as soon as it is too large.

        Args:
            longest: the size of the longest document that this one may turn out to be.
            lasting: as of `Place`.
        """
        levels: list[_Level] | None = None
        known = 0

        def check(written: int) -> None:
            nonlocal levels, known
            if written < _LOOKED_AT_BYTES:
                return
            if levels is None:
                levels, known = self._levels(), longest()
            if written > known and any(level.used + written > level.limit for level in levels):
                levels = self._levels()  # there may be more room by now
                self._refuse(levels, written)

        return Place(folder, check, lasting=lasting)

    def _levels(self) -> list[_Level]:
        """Every level with a limit, the root first."""
        limits = self._limits(self._tenant)
        sizes = self._sizes(self._tenant.levels[0]) if limits else {}
        return [
            _Level(level, limit, sum(size for tenant, size in sizes.items() if level in tenant.levels))
            for level, limit in limits.items()
        ]

    def _refuse(self, levels: list[_Level], more: int) -> None:
        for level in levels:
            if level.used + more > level.limit:
                raise QuotaExceeded(
                    f"tenant {level.tenant} has {max(0, level.limit - level.used)} of {level.limit} bytes left for "
                    f"stored contexts on this host ({level.used} used), but this one has at least {more}; give a "
                    "smaller one, remove others (`belljar context rm`, `belljar context gc`), or raise the limit "
                    f"(`belljar quota set {level.tenant} --contexts`)",
                    code="context.stored",
                    limit=level.limit,
                    observed=level.used + more,
                    told=None if level.tenant == self._tenant else _TOLD,
                    scope=str(level.tenant),
                    dimension="context_bytes",
                    period="now",
                    used=level.used,
                )
