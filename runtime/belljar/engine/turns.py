"""The transcript of a root model's turns, kept in bounded memory."""

from __future__ import annotations

from collections import deque
from typing import Final as Const

from belljar.engine.result import Turn

__all__ = ["TurnsLog"]

# For all turns together, code and reply both. A usual run of forty turns takes a tenth of it.
_CHARS_MAX: Const = 8 << 20


class TurnsLog:
    """The turns so far. If they are too much to keep, the earliest are forgotten, but never the last."""

    def __init__(self) -> None:
        self._turns: deque[tuple[Turn, int]] = deque()
        self._chars = 0

    def add(self, turn: Turn) -> None:
        """Keep a turn."""
        chars = len(turn.reply) + len(turn.shown) + sum(len(block.code) for block in turn.blocks)
        self._turns.append((turn, chars))
        self._chars += chars
        while self._chars > _CHARS_MAX and len(self._turns) > 1:
            self._chars -= self._turns.popleft()[1]

    def all(self) -> tuple[Turn, ...]:
        return tuple(turn for turn, _ in self._turns)
