"""`belljar audit replay`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from belljar.cli import options
from belljar.cli.audit import run_id
from belljar.cli.delivery import require_stdout
from belljar.cli.loop import run_async
from belljar.cli.output import emit, say, tell
from belljar.errors import VerificationFailed
from belljar.identity import BACKENDS, BackendName
from belljar.replay import Replay, Replays
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
    "--context",
    "sources",
    multiple=True,
    metavar="[NAME=]PATH",
    help="A context that the run had, if it is not registered: a file or a folder. Repeat it for others.",
)
@options.state
@options.as_json
def replay(
    run: str,
    backend: BackendName | None,
    policy: str | None,
    sources: tuple[str, ...],
    state: Path | str | None,
    as_json: bool,
) -> None:
    """Run the code of RUN (an id, or `last`) again, answer what it asks from the log, and compare all that it does.

    No model is asked, no tool is called, and no tenant is charged. Exits with 9 if anything differs, or if not all of
    it can be compared.
    """
    require_stdout()
    place = options.place(state).state
    contexts = dict(map(_named, sources))

    async def work() -> Replay:
        async with Replays(place, os.environ) as replays:
            return await replays.replay(run_id(place.journal, run), policy=policy, backend=backend, contexts=contexts)

    found = run_async(work())
    if as_json:
        emit({"ok": found.outcome == "equal", "replay": found})
    else:
        _print(found)
    if found.outcome != "equal":
        tell(_WHY[found.outcome])
        click.get_current_context().exit(VerificationFailed.exit_code)


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
