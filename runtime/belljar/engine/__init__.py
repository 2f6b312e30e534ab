"""The engine: one box and its cells (`box`), a root model's loop over it (`loop`), what comes out (`result`)."""

from __future__ import annotations

from belljar.engine.box import Box, Verdict, verdict_of
from belljar.engine.loop import Progress, Root
from belljar.engine.result import (
    AskResult,
    CellResult,
    Coverage,
    ErrorInfo,
    Limit,
    Result,
    RunUsage,
    Status,
    Turn,
    TurnBlock,
)
from belljar.engine.turns import TurnsLog
from belljar.engine.typed import AnswerType

__all__ = [
    "AnswerType",
    "AskResult",
    "Box",
    "CellResult",
    "Coverage",
    "ErrorInfo",
    "Limit",
    "Progress",
    "Result",
    "Root",
    "RunUsage",
    "Status",
    "Turn",
    "TurnBlock",
    "TurnsLog",
    "Verdict",
    "verdict_of",
]
