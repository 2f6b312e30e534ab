"""Which format a store has, and how a store in an older format is migrated to this one.

`format` in the store's folder holds the number; a store without that file has the first format. Whoever uses a store in
an older format migrates it first, one step of `STEPS` for each number. A newer format is refused: what this code knows
about it may be wrong.

Whoever uses a store holds a shared flock on its folder, and reads the number only then. A migration takes that flock
exclusively, and begins only when no document is open either. So nobody reads or writes a store between two formats.

The number is written last. If a migration is killed, the store still has the older number, and whoever uses it next
does that step again from its start.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from belljar.context.files import folder_lock
from belljar.durable import flush, replaced
from belljar.errors import HostFault

__all__ = ["DOCUMENTS", "FORMAT", "FORMAT_FILE", "LENT", "STEPS", "Step", "format_of", "in_latest_format", "put_format"]

# Where documents are, in every format.
DOCUMENTS: Final = "documents"
LENT: Final = "lent"

# Migrates the store in a folder to the next format. On disk when it returns; and since it may be killed anywhere
# and is then called again, it replaces files whole and knows what it has done already.
Step = Callable[[Path], None]
# The first leads from format 1 to format 2.
STEPS: Final[tuple[Step, ...]] = ()
FORMAT: Final = 1 + len(STEPS)
FORMAT_FILE: Final = "format"

_DIGITS_MAX: Final = 9
_BUSY_TIMEOUT_S: Final = 10.0  # how long others may use a store that has to be migrated
_AGAIN_S: Final = 0.005


@contextlib.contextmanager
def in_latest_format(
    root: Path, steps: Sequence[Step] = STEPS, *, busy_timeout_s: float = _BUSY_TIMEOUT_S
) -> Iterator[None]:
    """Keep a store in the latest format for the length of a block; an older one is migrated first.

    A store that is not there is let be: whoever makes it puts its format.

    Raises:
        HostFault: its format is newer or unknown, or others use it while it has to be migrated.
        OSError: it cannot be read, or not be migrated.
    """
    if not root.exists():
        yield
        return
    latest = 1 + len(steps)
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_SH)
        if (found := format_of(root)) < latest:
            fcntl.flock(folder, fcntl.LOCK_UN)
            _migrate(root, steps, busy_timeout_s)
            fcntl.flock(folder, fcntl.LOCK_SH)
            found = format_of(root)
        if found != latest:
            raise HostFault(
                f"cannot use the context store at {str(root)!r}: its format is {found}, but the latest known here is "
                f"{latest}; a newer Belljar made it: update Belljar, or choose another state folder"
            )
        yield
    finally:
        os.close(folder)


def put_format(root: Path, number: int = FORMAT) -> None:
    """Write down which format a store has, on disk."""
    with replaced(root / FORMAT_FILE) as file:
        file.write(b"%d\n" % number)
    flush(root)


def format_of(root: Path) -> int:
    """The number of a store's format, as it is written there; 1 where nothing is.

    Raises:
        HostFault: what is written there is no number.
        OSError: it cannot be read.
    """
    try:
        written = (root / FORMAT_FILE).read_bytes().strip()
    except FileNotFoundError:
        return 1
    if not written.isdigit() or len(written) > _DIGITS_MAX or int(written) < 1:
        raise HostFault(
            f"cannot use the context store at {str(root)!r}: its file {FORMAT_FILE!r} does not hold a format "
            "number; restore it from a backup, or choose another state folder"
        )
    return int(written)


def _migrate(root: Path, steps: Sequence[Step], busy_timeout_s: float) -> None:
    with _alone(root, busy_timeout_s):
        for number in range(format_of(root), 1 + len(steps)):
            steps[number - 1](root)
            put_format(root, number + 1)


@contextlib.contextmanager
def _alone(root: Path, busy_timeout_s: float) -> Iterator[None]:
    """Hold a store that nobody else is using, and that has no document open."""
    deadline = time.monotonic() + busy_timeout_s
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(folder_lock(root))
                for folder in (*root.glob(f"{DOCUMENTS}/*"), *root.glob(f"{LENT}/*")):
                    with folder_lock(folder):
                        pass
                break
            except BlockingIOError:
                held.close()
            if time.monotonic() > deadline:
                raise HostFault(
                    f"cannot migrate the context store at {str(root)!r}: another process has used it for more than "
                    f"{busy_timeout_s:g} s; wait until its runs have ended"
                )
            time.sleep(_AGAIN_S)
        yield
