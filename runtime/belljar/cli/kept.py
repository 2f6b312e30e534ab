"""What was said, for the commands that show all of a run: what was done to one text does not hide the others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from belljar.audit import Log
from belljar.audit.content import Contents, Output, Prompt, open_contents
from belljar.errors import ContentMissing, VerificationFailed
from belljar.keys import Keys

__all__ = ["open_kept"]

_T = TypeVar("_T")


class _Kept:
    """Contents of which some are gone though nobody erased them, or are not what was stored: such a one is missing.

    Attributes:
        damaged: what is wrong with each of those that were asked for.
    """

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self.damaged: set[str] = set()

    def text(self, run: str, name: str | None) -> str:
        return self._read(self._contents.text, run, name)

    def prompt(self, run: str, name: str | None) -> Prompt:
        return self._read(self._contents.prompt, run, name)

    def output(self, run: str, name: str | None) -> Output:
        return self._read(self._contents.output, run, name)

    def _read(self, read: Callable[[str, str | None], _T], run: str, name: str | None) -> _T:
        try:
            return read(run, name)
        except VerificationFailed as error:
            self.damaged.add(str(error))
            raise ContentMissing(f"damaged: {error}", code="content.damaged") from error


@contextlib.contextmanager
def open_kept(log: Log, keys: Keys) -> Iterator[_Kept]:
    """The contents in a journal, for the length of a block, as `open_contents` has them.

    Raises:
        VerificationFailed: after the block: some were not what was stored.
    """
    with open_contents(log, keys) as contents:
        kept = _Kept(contents)
        yield kept
    if kept.damaged:
        count = len(kept.damaged)
        raise VerificationFailed(
            f"what was said is not all what was stored: {count} content{'s'[: count > 1]}, such as {min(kept.damaged)}"
        )
