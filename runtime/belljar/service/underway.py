"""What has begun and not ended yet, for whoever hears of beginnings and ends alone, in the records of the log."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

__all__ = ["UnderWay"]

_T = TypeVar("_T")
# Of some 100 bytes each.
_UNDER_WAY_MAX: Final = 20_000


class UnderWay(Generic[_T]):
    """What is known of each, by its id; nothing of what begins while there are too many."""

    def __init__(self) -> None:
        self._known: dict[str, _T] = {}

    def __len__(self) -> int:
        return len(self._known)

    def begin(self, name: str, known: _T) -> None:
        if len(self._known) < _UNDER_WAY_MAX:
            self._known[name] = known

    def end(self, name: str) -> _T | None:
        """What was known of it, if anything was."""
        return self._known.pop(name, None)
