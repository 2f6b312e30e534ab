"""What was said, for the commands that show all of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from belljar.audit import Log
from belljar.audit.content import open_contents
from belljar.audit.kept import Kept
from belljar.errors import VerificationFailed
from belljar.keys import Keys

__all__ = ["open_kept"]


@contextlib.contextmanager
def open_kept(log: Log, keys: Keys) -> Iterator[Kept]:
    """The contents in a journal, for the length of a block, as `open_contents` has them.

    Raises:
        VerificationFailed: after the block: some were not what was stored.
    """
    with open_contents(log, keys) as contents:
        kept = Kept(contents)
        yield kept
    if kept.damaged:
        count = len(kept.damaged)
        raise VerificationFailed(
            f"what was said is not all what was stored: {count} content{'s'[: count > 1]}, such as {min(kept.damaged)}"
        )
