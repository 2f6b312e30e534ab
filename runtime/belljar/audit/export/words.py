"""Numbers as people read them, and what an outcome means: the same words in every export that is for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from belljar.audit.trajectory import Answer, Cell, Limit, Query, Run, Text

__all__ = ["end_of", "moment", "money", "numbers", "origin_of", "printed", "size", "span", "status_of", "took"]

_OF_LIMIT = ("scope", "period", "limit", "observed", "used", "held")


def money(nanousd: int) -> str:
    """Dollars to six decimals, and never 0 for what costs something."""
    if 0 < nanousd < 1000:
        return "<$0.000001"
    decimals = 4 if nanousd >= 10**7 else 6
    return f"${nanousd / 10**9:,.{decimals}f}" if nanousd else "$0"


def took(duration_ns: int | None) -> str:
    """A duration, to about three digits; a dash if it is not known."""
    if duration_ns is None:
        return "–"
    seconds = duration_ns / 10**9
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def moment(time_ns: int | None) -> str:
    return "–" if time_ns is None else f"{datetime.fromtimestamp(time_ns / 10**9, UTC):%Y-%m-%d %H:%M:%S} UTC"


def span(start: int, stop: int) -> str:
    return f"{start:,}–{stop:,}"


def numbers(why: Limit) -> str:
    """What a refusal says besides its code."""
    found: dict[str, Any] = {name: getattr(why, name) for name in _OF_LIMIT}
    told = [
        f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}"
        for name, value in found.items()
        if value is not None
    ]
    return ", ".join([*told, *([f"waited {took(why.waited_ms * 10**6)}"] if why.waited_ms is not None else [])])


def origin_of(run: Run) -> str | None:
    """Of which run this is a replay or a fork, so that nobody takes its turns for ones that a model was asked."""
    if run.replays is not None:
        return f"replay of {run.replays}"
    return None if run.forks is None else f"fork of {run.forks} from turn {run.from_turn} on"


def printed(cell: Cell) -> Text | None:
    """What a cell printed; where its answer ended it, the answer's record has that."""
    by_answer = (step.output for step in reversed(cell.steps) if isinstance(step, Answer))
    return cell.output if cell.output is not None else next(by_answer, None)


def end_of(cell: Cell) -> tuple[str | None, int | None]:
    """How a cell ended, and when. None if it did not, or its host died."""
    answers = (step for step in cell.steps if isinstance(step, Answer) and not step.void and not step.stays)
    if cell.status is None and (answer := next(answers, None)) is not None:
        return "answered", answer.at_ns
    return cell.status, cell.ended_ns


def size(text: Text) -> str:
    return "" if text.size_bytes is None else f"{text.size_bytes:,} bytes"


def status_of(one: Query | Run) -> str:
    found = one.outcome if isinstance(one, Query) else one.status
    return found or "unfinished"
