"""`belljar state check|migrate|backup`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from belljar.audit.witness import Told
from belljar.backup import Backup, back_up
from belljar.cli import options
from belljar.cli.output import counted, emit, printable, say
from belljar.cli.quota import in_words
from belljar.errors import AuditUnavailable, BelljarError, VerificationFailed
from belljar.keys import Keys
from belljar.units import format_size
from belljar.upkeep import JournalReport, StateReport, Step, examine
from belljar.upkeep import migrate as bring_up_to_date

__all__ = ["state"]

_PROBLEMS_SHOWN_MAX = 20


@click.group()
def state() -> None:
    """Check, migrate and back up what a host keeps."""


@state.command()
@options.state
@options.as_json
def check(state: Path | str | None, as_json: bool) -> int:
    """Show where the state is, its formats, the disk, owners and open runs; check log and ledger. Changes nothing.

    Exits with 8 if something cannot be opened, and with 9 if the log does not verify or the ledger does not add up.
    """
    found = options.place(state)
    report = examine(found.state, found.witness, Keys.at(os.environ))
    error = AuditUnavailable(report.error) if report.error is not None else _unsound(report.journal.problems)
    if as_json:
        emit({"ok": error is None, "state": report})
        return error.exit_code if error is not None else 0
    _print_report(report)
    if error is not None:
        raise error
    return 0


@state.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@options.state
@options.as_json
def migrate(dry_run: bool, state: Path | str | None, as_json: bool) -> None:
    """Bring an older state to this version's formats now, instead of with its first use.

    The journal is migrated in one transaction, and each tenant's contexts likewise wholly or not at all.
    """
    steps = bring_up_to_date(options.place(state).state, dry_run=dry_run)
    if as_json:
        emit({"dry_run": dry_run, "steps": steps})
        return
    for step in steps:
        say(_step(step, dry_run=dry_run))
    if not steps:
        say("everything has the latest format")


@state.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@options.state
@options.as_json
def backup(folder: Path, state: Path | str | None, as_json: bool) -> int:
    """Copy log and ledger into DIR/audit.db, also while others write to them. Contexts and images are not copied.

    The copy is of one moment, is checked, and can be given to `audit` and `quota` with --state. DIR is created if it is
    missing; a file that is there is never replaced.
    """
    made = back_up(options.place(state).state.journal, folder)
    error = _unsound(made.problems)
    if as_json:
        emit({"ok": error is None, "backup": made})
        return error.exit_code if error is not None else 0
    _print_backup(made)
    if error is not None:
        raise error
    return 0


def _unsound(problems: list[str]) -> BelljarError | None:
    if not problems:
        return None
    return VerificationFailed(f"{counted(len(problems), 'problem')} of log and ledger, the first: {problems[0]}")


# -- printing ----------------------------------------------------------------------------------------------------------


def _print_report(report: StateReport) -> None:
    free = "there is no such folder yet" if report.free_bytes is None else f"{_size(report.free_bytes)} free"
    say(f"folder    {report.folder}  ({free})")
    _print_journal(report.journal)
    formats = {one.format for one in report.contexts if one.format is not None}
    known = f"format {', '.join(map(str, sorted(formats)))} of {report.contexts_format_latest}" if formats else "none"
    say(f"contexts  of {counted(len(report.contexts), 'tenant')}, {known}")
    for contexts in report.contexts:
        if contexts.error is not None:
            say(f"          cannot be opened: {contexts.error}")
    for owner in report.owners:
        lives = "alive" if owner.alive else "dead"
        say(f"owner     {printable(owner.name)}  {lives}, {counted(owner.open_runs, 'open run')}")
    if report.witness is not None:
        _print_witness(report.witness)
    _print_problems(report.journal.problems)


def _print_witness(told: Told) -> None:
    has = "nothing yet" if told.size is None else f"the first {counted(told.size, 'record')}"
    say(f"witness   {printable(told.witness)}  (has {has})")
    if told.error is not None:
        say(f"          did not take the last checkpoint: {printable(told.error)}")


def _print_journal(journal: JournalReport) -> None:
    say(f"journal   {journal.where}")
    if journal.has_older_ledger:
        say("          the ledger is still a file beside it: `belljar state migrate` takes it over")
    if journal.error is not None:
        say(f"          cannot be opened: {journal.error}")
        return
    if not journal.exists:
        say("          there is none yet")
        return
    older = "" if journal.format == journal.format_latest else ": `belljar state migrate` brings it up to date"
    say(f"          format {journal.format} of {journal.format_latest}{older}")
    say(f"          {counted(journal.records, 'record')} of {counted(journal.runs, 'run')}, head {journal.head}")
    say(f"          {counted(journal.open_runs, 'open run')}, held: {in_words(journal.held) or 'nothing'}")
    if not journal.problems:
        say("          the log verifies, and the ledger adds up")


def _print_problems(problems: list[str]) -> None:
    for problem in problems[:_PROBLEMS_SHOWN_MAX]:
        say(printable(problem))


def _print_backup(made: Backup) -> None:
    say(f"{made.folder}: {counted(made.records, 'record')} of {counted(made.runs, 'run')}, {_size(made.size_bytes)}")
    say(f"head {made.head}")
    _print_problems(made.problems)


def _step(step: Step, *, dry_run: bool) -> str:
    return f"{step.what}: {'would be' if dry_run else 'was'} brought from format {step.before} to {step.after}"


def _size(size_bytes: int) -> str:
    """In the largest unit of which there are at least ten, rounded down."""
    unit = next((unit for unit in (2**30, 2**20, 2**10) if size_bytes >= 10 * unit), 1)
    return format_size(size_bytes // unit * unit)
