"""`belljar audit replay`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from belljar.cli.delivery import as_text, deliver, require_stdout
from belljar.cli.loop import run_async
from belljar.cli.output import emit, printable, say, show, tell
from belljar.engine import Result
from belljar.errors import InvalidInput, VerificationFailed
from belljar.identity import BackendName
from belljar.replay import Replay, Replays
from belljar.state import State
from belljar.units import format_money

__all__ = ["replayed"]


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
    given: dict[str, Any] = {"policy": policy, "backend": backend, "contexts": dict(map(_named, sources))}
    if (model is None) != (from_turn is None) or (model is None and sub_model is not None):
        raise InvalidInput("a fork needs both --model and --from-turn: give both, or neither", code="usage")
    if model is not None and from_turn is not None:
        return _fork(state, run, from_turn, as_json, model=model, sub_model=sub_model, **given)

    async def work() -> Replay:
        async with Replays(state, os.environ) as replays:
            return await replays.replay(run, **given)

    found = run_async(work())
    emit({"ok": found.outcome == "equal", "replay": found}) if as_json else _print(found)
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


def _named(source: str) -> tuple[str, Path]:
    name, named, place = source.partition("=")
    return ("context", Path(source)) if not named or os.path.exists(source) else (name, Path(place))


_LINE_CHARS_MAX = 500
_WHY = {
    "diverged": "diverged: what was done now is not what was recorded",
    "incomplete": "incomplete: what could be compared is equal, and some of it could not be",
}


def _print(found: Replay) -> None:
    how = "not run" if found.by is None else f"run by its {found.by} in {found.backend} under {found.policy}"
    say(f"{found.run}  {how}, logged as {found.replay}")
    if found.policy_changed:
        say("policy     not the one of the record, or changed since")
    for name, (old, new) in found.differs.items():
        say(f"other {name}: {old} then, {new} now")
    for line in found.missing:
        say(f"missing    {line}")
    say(f"actions    {found.equal_actions} of {found.actions} equal")
    if found.first is not None:
        sides = (("recorded", found.first.recorded), ("replayed", found.first.replayed))
        for name, action in sides:
            say(f"{name:<10} {'nothing' if action is None else action.says()}")
    for name, line in zip(("recorded", "replayed"), found.lines or (), strict=False):
        say(f"{name:<10} | {printable(line[:_LINE_CHARS_MAX])}")
    for refused in found.refused:
        say(f"refused    {refused.code}, {refused.count} times, first in {refused.where}")
    say(f"cost       {format_money(found.cost_nanousd)} now, {format_money(found.recorded_cost_nanousd)} then")
