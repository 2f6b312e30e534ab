"""`belljar audit replay`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from belljar.cli import options
from belljar.cli.audit import run_id
from belljar.cli.delivery import as_text, deliver, require_stdout
from belljar.cli.loop import run_async
from belljar.cli.output import emit, say, show, tell
from belljar.engine import Result
from belljar.errors import InvalidInput, VerificationFailed
from belljar.identity import BACKENDS
from belljar.replay import Replay, Replays
from belljar.state import State
from belljar.units import format_money

__all__ = ["replay"]


@click.command()
@click.argument("run")
@click.option("--backend", type=click.Choice(BACKENDS), help="What the box is made of. [default: as it was]")
@click.option(
    "--policy",
    metavar="NAME|FILE",
    help="Run it under this policy, to see what that refuses and what the run would cost. [default: as it was]",
)
@click.option(
    "--model",
    metavar="NAME",
    help="A fork: the root model from turn N on, in a run that is charged. The turns before come from the record.",
)
@click.option("--from-turn", type=click.IntRange(1), metavar="N", help="The first turn that --model takes.")
@click.option("--sub-model", metavar="NAME", help="The model that answers queries of a fork. [default: --model]")
@click.option(
    "--context",
    "sources",
    multiple=True,
    metavar="[NAME=]PATH",
    help="A context that the run had, if it is not registered: a file or a folder. Repeat it for others.",
)
@options.state
@options.as_json
def replay(
    run: str, model: str | None, from_turn: int | None, sources: tuple[str, ...], as_json: bool, **rest: Any
) -> int:
    """Run the code of RUN (an id, or `last`) again, answer what it asks from the log, and compare all that it does.

    No model is asked, no tool is called, and no tenant is charged. Exits with 9 if anything differs, or if not all of
    it can be compared.
    """
    require_stdout()
    state = options.place(rest["state"]).state
    run = run_id(state.journal, run)
    given: dict[str, Any] = {name: rest[name] for name in ("policy", "backend")}
    given["contexts"] = dict(map(_named, sources))
    if (model is None) != (from_turn is None) or (model is None and rest["sub_model"] is not None):
        raise InvalidInput("a fork needs both --model and --from-turn: give both, or neither", code="usage")
    if model is not None and from_turn is not None:
        return _fork(state, run, from_turn, as_json, model=model, sub_model=rest["sub_model"], **given)

    async def work() -> Replay:
        async with Replays(state, os.environ) as replays:
            return await replays.replay(run, **given)

    found = run_async(work())
    emit({"ok": found.outcome == "equal", "replay": found}) if as_json else _print(found)
    if found.outcome == "equal":
        return 0
    tell(_WHY[found.outcome])
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
    return ("context", Path(source)) if not named or Path(source).exists() else (name, Path(place))


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
    for refused in found.refused:
        say(f"refused    {refused.code}, {refused.count} times, first in {refused.where}")
    say(f"cost       {format_money(found.cost_nanousd)} now, {format_money(found.recorded_cost_nanousd)} then")
