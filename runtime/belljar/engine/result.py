"""What a caller gets: one status, and the numbers behind it.

An answer in JSON stays the bytes that it came as (`given`; the broker has checked them) and is decoded once, when
somebody asks for `answer`. `msgspec.json.encode` of a result writes it out as it is.
"""

from __future__ import annotations

import functools
from typing import Any, Literal
from typing import Final as Const

import msgspec

__all__ = [
    "AskResult",
    "CellResult",
    "Coverage",
    "ErrorInfo",
    "Limit",
    "Result",
    "RunUsage",
    "Status",
    "Turn",
    "TurnBlock",
    "cell_result",
    "given",
]

from belljar.audit import Receipt
from belljar.broker import Cell
from belljar.heavy import plain_of, text_of
from belljar.identity import RunId
from belljar.ledger import Amounts
from belljar.models import Usage
from belljar.policy import Unit, unit_of
from belljar.protocol import Final
from belljar.spans import share

_FIELDS: Const = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SCHEMA_VERSION: Const = 1

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
    """The limit that was met: its value, and what was observed.

    `code` is the key of the policy that sets it (`limits.cpu`); `unit` is "ms", "bytes", "nanousd", or "" for a count.
    """

    code: str
    limit: int | None
    observed: int | None
    unit: Unit = ""

    @classmethod
    def of(cls, code: str, limit: int | None, observed: int | None) -> Limit:
        return cls(code, limit, observed, unit_of(code))


class RunUsage(msgspec.Struct, frozen=True):
    """Model calls of the whole run, the root model's included."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class Coverage(msgspec.Struct, frozen=True):
    """How much of all contexts together the program read, and how much of them was in prompts to sub-models.

    In characters, each counted once; the shares are rounded down, so that 1.0 means all of it. If reads are scattered
    over very many places, this is less than what was read; `belljar audit coverage` counts all from the log.
    """

    chars: int = 0
    read_chars: int = 0
    shown_chars: int = 0
    read_share: float = 0.0
    shown_share: float = 0.0

    @classmethod
    def of(cls, chars: int, read: int, shown: int) -> Coverage:
        return cls(chars, read, shown, share(read, chars), share(shown, chars))


class TurnBlock(msgspec.Struct, frozen=True):
    """A block of code in a root model's reply. `status` is that of its cell; None if it was not run."""

    code: str
    status: Status | None = None


class Turn(msgspec.Struct, frozen=True):
    """One turn of a root model: what it wrote, what of it was run, what it was shown, and what the call used.

    `shown` is empty if the run was over by then: the answer was given, or the box had ended.
    """

    number: int
    reply: str
    blocks: tuple[TurnBlock, ...]
    shown: str
    usage: Usage
    stop_reason: str


class _Answered(msgspec.Struct, frozen=True, kw_only=True, dict=True, rename={"given": "answer"}):
    """Holds an answer as it was given: a text, JSON, or None."""

    given: str | msgspec.Raw | None = None

    @functools.cached_property
    def answer(self) -> Any:
        """The answer as a Python value; None if there is none. The first access decodes it."""
        return _value(self.given)


class CellResult(_Answered, frozen=True, kw_only=True, dict=True):
    """One cell. `answer` is set when the cell gave the final answer; `output_bytes` is what it printed, kept or not.

    `variables` are what the program has defined by then, as it says: `name: type`, the latest of them if they are many,
    and `variables_unlisted` how many others there are; empty where the cell did not end by itself.
    """

    status: Status
    stdout: str
    stderr: str
    truncated: bool
    error: ErrorInfo | None
    limit: Limit | None
    wall_s: float
    output_bytes: int = 0
    variables: tuple[str, ...] = ()
    variables_unlisted: int = 0


class AskResult(_Answered, frozen=True, kw_only=True, dict=True, rename={"given": "answer", "unfinished": "partial"}):
    """What came of one question in a session: its answer, or why there is none.

    `turns`, `cells`, `usage`, `cost_nanousd` and `wall_s` are this question's; `coverage` is the session's so far.
    `turns_log` has the root model's turns for this question, or the latest of them if all would be too much to keep.
    """

    status: Status
    error: ErrorInfo | None
    limit: Limit | None
    wall_s: float
    turns: int
    cells: int
    usage: RunUsage
    cost_nanousd: int
    coverage: Coverage
    unfinished: str | msgspec.Raw | None = None
    turns_log: tuple[Turn, ...] = ()

    @functools.cached_property
    def value(self) -> Any:
        """The answer as a value of the question's `answer_type`; the same as `answer` if it had none."""
        return self.answer

    def of_type(self, value: Any) -> AskResult:
        """This result, with the `value` that its answer is."""
        vars(self)["value"] = value
        return self

    @functools.cached_property
    def partial(self) -> Any:
        """What there was of an answer when the question ended without one; None if there was nothing."""
        return _value(self.unfinished)


class Result(
    _Answered,
    frozen=True,
    kw_only=True,
    dict=True,
    rename={"given": "answer", "unfinished": "partial", "run_text": "run"},
):
    """One run.

    `stdout` and `stderr` are the last cell's, which printed `output_bytes`, kept or not. `cpu_s` and `max_rss_bytes`
    are the kernel's figures for the box. `cost` is the older name of `cost_nanousd`. `cost_assumed_nanousd` is the part
    of it that no provider reported: for calls that failed on their way, all that they may have cost. `coverage` says
    how much of the contexts was read and shown; `queries` are the prompts of its program and its calls of host tools;
    `overage` is what the run was charged beyond what was held for it, if anything; `layers` are the layers of the wall
    that held; `scripted` says that no model was asked. With the status `error`, `limit` is what the program had been
    refused when it died of that. `turns_log` has the root model's turns, or the latest of them if all would be too much
    to keep.
    """

    run_text: str  # what `msgspec` can write
    tenant: str
    status: Status
    stdout: str
    stderr: str
    truncated: bool
    output_bytes: int
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
    cost_nanousd: int
    cost_assumed_nanousd: int = 0
    overage: Amounts | None = None
    scripted: bool
    layers: tuple[str, ...]
    coverage: Coverage
    receipt: Receipt | None
    unfinished: str | msgspec.Raw | None = None
    turns_log: tuple[Turn, ...] = ()

    @functools.cached_property
    def run(self) -> RunId:
        """The run's id, which also names its parent and depth."""
        return RunId(self.run_text)

    @functools.cached_property
    def value(self) -> Any:
        """The answer as a value of the run's `answer_type`; the same as `answer` if it had none."""
        return self.answer

    def of_type(self, value: Any) -> Result:
        """This result, with the `value` that its answer is."""
        vars(self)["value"] = value
        return self

    @functools.cached_property
    def partial(self) -> Any:
        """What there was of an answer when a run under a root model ended without one; None if there was nothing.

        That is what the program had put into `answer["content"]`, or else into `final_answer`, `best` or `result`.
        """
        return _value(self.unfinished)

    def to_json(self, *, turns: bool = False) -> bytes:
        """One JSON document, in UTF-8: `schema_version`, and each field of the result by its name.

        `turns_log` is in it only with `turns`, as it repeats what was printed of the contexts.
        """
        whole = self if turns else msgspec.structs.replace(self, turns_log=())
        fields = _FIELDS.decode(msgspec.json.encode(whole))
        if not turns:
            del fields["turns_log"]
        return msgspec.json.encode({"schema_version": _SCHEMA_VERSION, **fields})


def _value(given: str | msgspec.Raw | None) -> Any:
    if not isinstance(given, msgspec.Raw):
        return given
    return plain_of(given)


def given(final: Final | None, body: bytes) -> str | msgspec.Raw | None:
    """The answer, which the broker has checked."""
    if final is None:
        return None
    return msgspec.Raw(body) if final.form == "json" else text_of(body)


def cell_result(
    cell: Cell,
    *,
    status: Status,
    error: ErrorInfo | None,
    limit: Limit | None,
    wall_s: float,
    answer: str | msgspec.Raw | None,
) -> CellResult:
    stdout, stderr = cell.output
    return CellResult(
        status=status,
        stdout=text_of(stdout, "replace"),
        stderr=text_of(stderr, "replace"),
        truncated=cell.truncated,
        output_bytes=cell.output_bytes,
        error=error,
        limit=limit,
        wall_s=wall_s,
        given=answer,
        variables=tuple(cell.done.variables) if cell.done is not None else (),
        variables_unlisted=cell.done.unlisted if cell.done is not None else 0,
    )
