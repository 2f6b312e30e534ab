"""`belljar audit ls|show|verify|coverage`."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import click

from belljar.audit import (
    Coverage,
    Log,
    Ranges,
    Record,
    Report,
    TreeRun,
    coverage,
    parent_of,
    records,
    records_below,
    runs,
    tree,
    verify,
)
from belljar.cli import options
from belljar.cli.output import emit, say, tell
from belljar.errors import InvalidInput, VerificationFailed
from belljar.units import format_money

__all__ = ["audit", "run_id"]

_PROBLEMS_SHOWN_MAX = 20
_RANGES_SHOWN = 20
_LAST = "last"
_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%", re.ASCII)


class _Percent(click.ParamType[Fraction]):
    """`99.5%`, kept exactly."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Fraction:
        match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
        if match is None or Fraction(match[1]) > 100:
            self.fail(f"{value!r} is not a valid percentage; use one such as 99.5%", param, ctx)
        return Fraction(match[1])


class _Audit(click.Group):
    """Loads what runs boxes only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "replay"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "replay":
            return super().get_command(ctx, cmd_name)
        from belljar.cli.replay import replay

        return replay


@click.group(cls=_Audit)
def audit() -> None:
    """Read and check the audit log."""


@audit.command()
@options.state
@options.as_json
def ls(state: Path | str | None, as_json: bool) -> None:
    """List the runs in the log, oldest first."""
    found = runs(_log(state))
    if as_json:
        emit({"runs": found})
        return
    for run in found:
        started = f"{datetime.fromtimestamp(run.started_ns / 1e9, UTC):%Y-%m-%d %H:%M:%S}"
        say(f"{run.run}  {started}  {run.status or 'unfinished':<10}  {run.records:>7} records  {run.tenant}")


@audit.command()
@click.argument("run")
@click.option(
    "--tree", "as_tree", is_flag=True, help="Show instead RUN and the runs below it, a line each, with what they cost."
)
@options.state
@options.as_json
def show(run: str, as_tree: bool, state: Path | str | None, as_json: bool) -> None:
    """Show every record of RUN: its id, or `last` for the latest one that is no child run."""
    log = _log(state)
    run = run_id(log, run)
    if as_tree:
        _show_tree(run, tree(records_below(log, run)), as_json)
        return
    found = list(records(log, run))
    if not found:
        raise _no_run(run)
    if as_json:
        emit({"run": run, "records": [_fields(record) for record in found]})
        return
    first = found[0].time_ns
    for record in found:
        data = " ".join(f"{key}={json.dumps(value)}" for key, value in record.data.items())
        say(f"{record.seq:>8}  +{(record.time_ns - first) / 1e9:9.3f} s  {record.event:<18} {data}")


def _show_tree(run: str, found: list[TreeRun], as_json: bool) -> None:
    if not found:
        raise _no_run(run)
    if as_json:
        emit({"run": run, "tree": found})
        return
    for one in found:
        _show_branch("  " * one.depth + one.run, one.status or "unfinished", one.calls, one.cost_nanousd)
    if len(found) > 1:
        calls, cost = sum(one.calls for one in found), sum(one.cost_nanousd for one in found)
        _show_branch(_counted(len(found), "run"), "", calls, cost)


def _show_branch(name: str, status: str, calls: int, cost_nanousd: int) -> None:
    say(f"{name}  {status:<10}  {_counted(calls, 'call')}  {format_money(cost_nanousd)}")


@audit.command("verify")
@options.state
@options.as_json
def verify_(state: Path | str | None, as_json: bool) -> None:
    """Check the whole log: every hash, the order, and that every request has its outcome."""
    report = verify(_log(state))
    if as_json:
        emit({"ok": report.ok, "report": report})
    else:
        for problem in report.problems[:_PROBLEMS_SHOWN_MAX]:
            say(problem)
        say(f"{_counted(report.records, 'record')} of {_counted(report.runs, 'run')}, head {report.head}")
        if report.unfinished:
            say(f"{_counted(len(report.unfinished), 'action')} without an outcome, in runs that have not ended")
    if not report.ok:
        error = _unsound(report)
        if as_json:
            click.get_current_context().exit(error.exit_code)
        raise error


_SHOWN_UNIT = (
    "shown is counted in whole lines, in pieces of at least 24 bytes, and in lines under 12 bytes where several "
    "neighbours stand in a row"
)


@audit.command("coverage")
@click.argument("run")
@click.option("--require", type=_Percent(), metavar="P%", help="Exit with 9 if the share is below P%, such as 100%.")
@click.option(
    "--what",
    type=click.Choice(["read", "shown"]),
    default="read",
    show_default=True,
    help="The share that --require checks: read by the program, or shown to a sub-model.",
)
@click.option(
    "--ranges",
    type=click.IntRange(min=0),
    default=_RANGES_SHOWN,
    show_default=True,
    metavar="N",
    help="List at most N ranges of each kind.",
)
@options.state
@options.as_json
def coverage_(
    run: str, require: Fraction | None, what: str, ranges: int, state: Path | str | None, as_json: bool
) -> None:
    """Show which characters of its contexts RUN (an id, or `last`) read, and which it showed to a sub-model.

    What its child runs did with parts of these contexts counts, too. The log is verified first. Read means given to the
    box; shown means found word for word in a prompt that was answered. Percentages are rounded down: 100 % means all.
    """
    log = _log(state)
    run = run_id(log, run)
    found = _coverage(log, run, ranges)
    part = found.read_chars if what == "read" else found.shown_chars
    met = require is None or part * 100 >= require * found.chars
    if require is not None and found.chars == 0:
        raise InvalidInput(
            f"run {run} had no context, so nothing could be read: name another run", code="audit.no_document"
        )
    if as_json:
        emit({"run": run, "ok": met, "coverage": found})
    else:
        _print_coverage(found)
    if require is not None and not met:
        # Nobody is at fault: the requested check failed.
        share = found.read_share if what == "read" else found.shown_share
        tell(
            f"not met: {100 * share:.4f} % of the characters were {what}, but {float(require):g} % are required: "
            f"{_counted(found.chars - part, 'character')} never were"
        )
        click.get_current_context().exit(VerificationFailed.exit_code)


def _coverage(log: Log, run: str, ranges: int) -> Coverage:
    report = verify(log)
    if not report.ok:
        raise _unsound(report)
    of_tree = records_below(log, run)
    first = next(of_tree, None)
    if first is None:
        raise _no_run(run)
    return coverage(chain([first], of_tree), ranges_max=ranges)


def _print_coverage(found: Coverage) -> None:
    for document in found.documents:
        say(f"{json.dumps(document.name)}  {document.kind}  {document.sha256[:12]}")
        _print_share("read", document.read_chars, document.chars, document.read_share, document.never_read)
        _print_share("shown", document.shown_chars, document.chars, document.shown_share, document.never_shown)
    say(f"all contexts  {_counted(found.chars, 'character')}")
    _print_share("read", found.read_chars, found.chars, found.read_share)
    _print_share("shown", found.shown_chars, found.chars, found.shown_share)
    say(_SHOWN_UNIT)
    if found.untraced:
        say(f"{_counted(found.untraced, 'prompt')} could not be searched completely: more may have been shown")


def _print_share(what: str, part: int, whole: int, share: float, never: Ranges | None = None) -> None:
    say(f"  {what:<6} {100 * share:>8.4f} %  {part} of {_counted(whole, 'character')}")
    if never is None or never.count == 0:
        return
    listed = " ".join(f"{start}-{stop}" for start, stop in never.first)
    more = f" and {never.count - len(never.first)} more" if never.count > len(never.first) else ""
    say(f"  never {what}, {_counted(never.count, 'range')}: {listed}{more}")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def run_id(log: Log, run: str) -> str:
    """The run that is meant: `last` is the latest one that is no child run, nor a replay."""
    if run != _LAST:
        return run
    roots = [one.run for one in runs(log) if parent_of(one.run) is None and one.replays is None]
    if not roots:
        raise InvalidInput(
            "the log has no run yet: start one with `belljar run` or `belljar exec`", code="audit.no_run"
        )
    return roots[-1]


def _no_run(run: str) -> InvalidInput:
    return InvalidInput(f"the log has no run {run}: `belljar audit ls` shows them", code="audit.no_run")


def _unsound(report: Report) -> VerificationFailed:
    return VerificationFailed(
        f"the log does not verify: {_counted(len(report.problems), 'problem')}, the first: {report.problems[0]}"
    )


def _fields(record: Record) -> dict[str, object]:
    return {
        "seq": record.seq,
        "time_ns": record.time_ns,
        "event": record.event,
        "data": record.data,
        "prev": record.prev,
        "hash": record.hash,
    }


def _log(state: Path | str | None) -> Log:
    return options.place(state).state.journal
