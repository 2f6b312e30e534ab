"""What a caller gets: one status, and the numbers behind it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = [
    "CellResult",
    "Coverage",
    "ErrorInfo",
    "Limit",
    "Receipt",
    "Result",
    "RunUsage",
    "Status",
    "cell_result",
    "decode_answer",
]

from belljar.broker import Cell
from belljar.protocol import Final

Status = Literal[
    "ok",
    "error",
    "rejected",
    "timeout",
    "cpu",
    "memory",
    "processes",
    "disk",
    "output",
    "denied",
    "quota",
    "protocol",
    "killed",
    "model_failed",
    "host_fault",
]


class ErrorInfo(msgspec.Struct, frozen=True):
    """`type` and `message` are the guest's words for `error` and `rejected`, ours for every other status."""

    type: str
    message: str
    line: int | None = None
    traceback: str = ""


class Limit(msgspec.Struct, frozen=True):
    """The limit that was met: its `code`, the bound, and what was observed, in the unit that the code implies."""

    code: str
    limit: int | None
    observed: int | None


class RunUsage(msgspec.Struct, frozen=True):
    """Model calls of the whole run, the root model's included."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class Receipt(msgspec.Struct, frozen=True):
    """Where the log stood when the run was finished: keep it, and a shortened log can be told from a whole one."""

    run: str
    seq: int
    head: str


class Coverage(msgspec.Struct, frozen=True):
    """How much of all contexts together the program read, and how much of them stood in prompts to sub-models.

    In characters, each counted once; the shares are rounded down, so that 1.0 means all of it. Where reads are
    scattered over very many places this is less than what was read; `belljar audit coverage` counts all from the log.
    """

    chars: int = 0
    read_chars: int = 0
    shown_chars: int = 0
    read_share: float = 0.0
    shown_share: float = 0.0

    @classmethod
    def of(cls, chars: int, read: int, shown: int) -> Coverage:
        return cls(chars, read, shown, _share(read, chars), _share(shown, chars))


class CellResult(msgspec.Struct, frozen=True, kw_only=True):
    """One cell. `answer` is set when the cell gave the final answer."""

    status: Status
    stdout: str
    stderr: str
    truncated: bool
    error: ErrorInfo | None
    limit: Limit | None
    wall_s: float
    answer: Any = None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One run.

    `stdout` and `stderr` are the last cell's. `cpu_s` and `max_rss_bytes` are the kernel's accounts of the box; `cost`
    is in nano-dollars; `coverage` says how much of the contexts was read and shown; `layers` are the layers of the wall
    that held; `scripted` says that no model was asked.
    """

    run: str
    tenant: str
    status: Status
    answer: Any
    stdout: str
    stderr: str
    truncated: bool
    error: ErrorInfo | None
    limit: Limit | None
    wall_s: float
    cpu_s: float
    max_rss_bytes: int
    cells: int
    turns: int
    reads: int
    read_bytes: int
    queries: int
    usage: RunUsage
    cost: int
    scripted: bool
    layers: tuple[str, ...]
    coverage: Coverage
    receipt: Receipt | None


def _share(part: int, whole: int) -> float:
    return part * 1_000_000 // whole / 1_000_000 if whole else 0.0


def decode_answer(final: Final | None, body: bytes) -> Any:
    """The answer as a Python value. The broker has checked that it decodes."""
    if final is None:
        return None
    return body.decode("utf-8") if final.form == "text" else msgspec.json.decode(body)


def cell_result(
    cell: Cell, *, status: Status, error: ErrorInfo | None, limit: Limit | None, wall_s: float, answer: Any
) -> CellResult:
    return CellResult(
        status=status,
        stdout=cell.stdout.decode("utf-8", "replace"),
        stderr=cell.stderr.decode("utf-8", "replace"),
        truncated=cell.truncated,
        error=error,
        limit=limit,
        wall_s=wall_s,
        answer=answer,
    )
