"""Which run a command is about, and that what reads of what runs did is logged first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from belljar.audit import Log, latest, records
from belljar.audit.reading import log_read
from belljar.cli import options
from belljar.cli.loop import run_async
from belljar.errors import AuditUnavailable, InvalidInput

__all__ = ["LAST", "check_run", "may_be_unlogged", "note_read", "run_id"]

LAST = "last"

F = TypeVar("F", bound=Callable[..., Any])

may_be_unlogged: Callable[[F], F] = click.option(
    "--unlogged",
    is_flag=True,
    help="Read also a log that cannot be written. Where it can, a record says that it is read, whatever is asked for.",
)


def note_read(log: Log, *runs: str, unlogged: bool = False) -> None:
    """Log that this command is about to read these runs, and those below them, or all of them.

    It writes to the log, so the command does not have it open for reading meanwhile: a file that no process had open
    is read as one that nobody writes to (`audit.source`). What is looked up before this, and what is shown after it,
    are therefore read from two openings.

    Raises:
        InvalidInput: `audit.missing`: there is no log.
        AuditUnavailable: it cannot be written, and `unlogged` does not allow that.
    """
    command = " ".join(click.get_current_context().command_path.split()[-2:])
    try:
        run_async(log_read(log, by=options.user(), command=command, of=runs), closed="the log was not read")
    except AuditUnavailable as error:
        if not unlogged:
            raise AuditUnavailable(
                f"that the log is read cannot be logged: {error}; --unlogged reads a log that cannot be written"
            ) from error


def run_id(log: Log, run: str) -> str:
    """The id of a run that is in the log; `last` is the latest one.

    Raises:
        InvalidInput: `audit.missing`: there is no log; `audit.no_run`: it has no such run.
    """
    if run != LAST:
        check_run(log, run)
        return run
    if (found := latest(log)) is None:
        advice = "start one with `belljar run` or `belljar exec`"
        raise InvalidInput(f"the log has no run yet: {advice}", code="audit.no_run")
    return found


def check_run(log: Log, run: str) -> None:
    """As `run_id`, where a run has to be named."""
    if next(records(log, run), None) is None:
        raise InvalidInput(f"the log has no run {run}: `belljar audit ls` shows them", code="audit.no_run")
