"""`belljar audit replay`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from belljar.cli.delivery import as_text, deliver, require_stdout
from belljar.cli.loop import run_async
from belljar.cli.output import emit, printable, say, show, tell
from belljar.cli.run import places
from belljar.engine import Result
from belljar.errors import InvalidInput, VerificationFailed
from belljar.identity import BackendName
from belljar.replay import Replay, Replays
from belljar.state import State
from belljar.units import format_money

__all__ = ["lines", "replayed"]


def replayed(
    state: State,
    run: str,
    sources: tuple[str, ...],
    as_json: bool,
    *,
    policy: str | None,
    backend: BackendName | None,
    model: str | None,
    from_turn: int | None,
    sub_model: str | None,
) -> int:
    """Replay or fork a run as the options say, and tell what came of it. Returns the exit code."""
    require_stdout()
    given: dict[str, Any] = {"policy": policy, "backend": backend}
    given["contexts"] = {name: Path(place) for name, place in places(sources).items()}
    if (model is None) != (from_turn is None) or (model is None and sub_model is not None):
        raise InvalidInput("a fork needs both --model and --from-turn: give both, or neither", code="usage")
    if model is not None and from_turn is not None:
        return _fork(state, run, from_turn, as_json, model=model, sub_model=sub_model, **given)

    async def work() -> Replay:
        async with Replays(state, os.environ) as replays:
            return await replays.replay(run, **given)

    found = run_async(work())
    if as_json:
        emit({"ok": found.outcome == "equal", "replay": found})
    else:
        for line in lines(found):
            say(line)
    if found.outcome == "equal":
        return 0
    tell(_WHY[found.outcome] if found.by is not None else "incomplete: it could not be run, so nothing was compared")
    return VerificationFailed.exit_code


def _fork(state: State, run: str, from_turn: int, as_json: bool, **given: Any) -> int:
    async def work() -> Result:
        async with Replays(state, os.environ) as replays:
            return await replays.fork(run, from_turn, **given)

    result = run_async(work())

    def write() -> None:
        if as_json:
            emit(result)
        elif result.given is not None:
            show(f"{as_text(result)}\n")

    return deliver(result, write, state, quiet=False)


_LINE_CHARS_MAX = 500
_WHY = {
    "diverged": "diverged: what was done now is not what was recorded",
    "incomplete": "incomplete: what could be compared is equal, and some of it could not be",
}


def lines(found: Replay) -> Iterator[str]:
    """What came of a replay, line by line. What is in it of others steers no terminal."""
    return (printable(line, but="") for line in _lines(found))


def _lines(found: Replay) -> Iterator[str]:
    how = "not run" if found.by is None else f"run by its {found.by} in {found.backend} under {found.policy}"
    yield f"{found.run}  {how}, logged as {found.replay}"
    if found.policy_changed:
        yield "policy     not the one of the record, or changed since"
    for name, (old, new) in found.differs.items():
        yield f"other {name}: {old} then, {new} now"
    for line in found.missing:
        yield f"missing    {line}"
    yield f"actions    {found.equal_actions} of {found.actions} equal"
    if found.first is not None:
        sides = (("recorded", found.first.recorded), ("replayed", found.first.replayed))
        for name, action in sides:
            yield f"{name:<10} {'nothing' if action is None else action.says()}"
    for name, line in zip(("recorded", "replayed"), found.lines or (), strict=False):
        yield f"{name:<10} | {line[:_LINE_CHARS_MAX]}"
    for refused in found.refused:
        yield f"refused    {refused.code}, {refused.count} times, first in {refused.where}"
    yield f"cost       {format_money(found.cost_nanousd)} now, {format_money(found.recorded_cost_nanousd)} then"
