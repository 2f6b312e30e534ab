"""What was said, for whoever shows all of a run: what was done to one text does not hide the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from belljar.audit.content import Contents, Output, Prompt
from belljar.errors import ContentMissing, VerificationFailed

__all__ = ["Kept"]

_T = TypeVar("_T")


class Kept:
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
