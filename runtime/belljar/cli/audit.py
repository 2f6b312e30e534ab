"""`belljar audit ls|show|verify`."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import click

from belljar.audit import Record, records, runs, verify
from belljar.cli import options
from belljar.cli.output import emit
from belljar.errors import InvalidInput, VerificationFailed
from belljar.state import State

__all__ = ["audit"]

_PROBLEMS_SHOWN_MAX = 20


@click.group()
def audit() -> None:
    """Read and check the audit log."""


@audit.command()
@options.state
@options.as_json
def ls(state: Path | None, as_json: bool) -> None:
    """List the runs in the log, oldest first."""
    found = runs(_log(state))
    if as_json:
        emit({"runs": found})
        return
    for run in found:
        started = f"{datetime.fromtimestamp(run.started_ns / 1e9, UTC):%Y-%m-%d %H:%M:%S}"
        click.echo(f"{run.run}  {started}  {run.status or 'unfinished':<10}  {run.records:>7} records  {run.tenant}")


@audit.command()
@click.argument("run")
@options.state
@options.as_json
def show(run: str, state: Path | None, as_json: bool) -> None:
    """Show every record of one RUN."""
    found = list(records(_log(state), run))
    if not found:
        raise InvalidInput(f"the log has no run {run}: `belljar audit ls` shows them", code="audit.no_run")
    if as_json:
        emit({"run": run, "records": [_fields(record) for record in found]})
        return
    first = found[0].time_ns
    for record in found:
        data = " ".join(f"{key}={json.dumps(value)}" for key, value in record.data.items())
        click.echo(f"{record.seq:>8}  +{(record.time_ns - first) / 1e9:9.3f} s  {record.event:<18} {data}")


@audit.command("verify")
@options.state
@options.as_json
def verify_(state: Path | None, as_json: bool) -> None:
    """Check the whole log: every hash, the order, and that every request has its outcome."""
    report = verify(_log(state))
    if as_json:
        emit({"ok": report.ok, "report": report})
    else:
        for problem in report.problems[:_PROBLEMS_SHOWN_MAX]:
            click.echo(problem)
        click.echo(f"{report.records} records of {report.runs} runs, head {report.head}")
        if report.unfinished:
            click.echo(f"{len(report.unfinished)} actions without an outcome, in runs that have not ended")
    if not report.ok:
        error = VerificationFailed(
            f"the log does not verify: {len(report.problems)} problems, the first: {report.problems[0]}"
        )
        if as_json:
            click.get_current_context().exit(error.exit_code)
        raise error


def _fields(record: Record) -> dict[str, object]:
    return {
        "seq": record.seq,
        "time_ns": record.time_ns,
        "event": record.event,
        "data": record.data,
        "prev": record.prev,
        "hash": record.hash,
    }


def _log(state: Path | None) -> Path:
    return State.at(state, os.environ).audit
