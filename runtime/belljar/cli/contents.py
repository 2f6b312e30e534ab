"""`belljar audit content|erase|prune`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import click

from belljar.arguments import tenant_of
from belljar.audit import AuditLog, records
from belljar.audit.content import open_contents
from belljar.audit.erasing import due, erase, forks_of, of_run, of_tenant, oldest, scrub
from belljar.audit.source import open_source
from belljar.cli import options
from belljar.cli.files import write_private
from belljar.cli.logged import check_run, may_be_unlogged, note_read, run_id
from belljar.cli.loop import run_async
from belljar.cli.output import counted, emit, is_terminal, put, say, tell
from belljar.cli.proving import sign
from belljar.errors import AuditUnavailable, InvalidInput
from belljar.journal import Journal, opened_journal
from belljar.keys import Keys
from belljar.units import parse_size

__all__ = ["content", "erase_", "prune"]

_RUNS_MAX = 10_000
_CLOSED = "what was erased is in the log: `belljar audit show host.contents`"


class _Size(click.ParamType[int]):
    """`10 GiB`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_size(str(value))
        except InvalidInput as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("run")
@click.argument("name")
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="FILE", help="Write it there, byte for byte.")
@may_be_unlogged
@options.state
@options.as_json
def content(run: str, name: str, output: Path | None, unlogged: bool, state: Path | str | None, as_json: bool) -> None:
    """Print a content: the one that a record of RUN calls NAME."""
    log = options.place(state).state.journal
    run = run_id(log, run)
    if not any(name in record.data.values() for record in records(log, run)):
        raise InvalidInput(
            f"no record of {run} names {name[:80]}: `belljar audit show {run} --records` shows what they name",
            code="audit.no_content",
        )
    note_read(log, run, unlogged=unlogged)
    with open_contents(log, Keys.at(os.environ)) as contents:
        data = contents.get(run, name)
    if output is not None:
        write_private(output, [data])
    if as_json:
        text = {} if output is not None else {"text": data.decode("utf-8", "replace")}
        emit({"run": run, "name": name, "bytes": len(data), **text})
    elif output is not None:
        return
    else:
        put([data])
        if is_terminal():
            say("")


@click.command("erase")
@click.argument("run", required=False)
@click.option("--tenant", metavar="T", help="All runs of T, and of the tenants below it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.state
@options.as_json
def erase_(run: str | None, tenant: str | None, yes: bool, state: Path | str | None, as_json: bool) -> None:
    """Erase what is kept of RUN and of the runs below it: code, output, prompts and replies.

    Their keys are destroyed, so there is no way back. The log stays, says who did it, and verifies. Copies of the state
    folder that were made before are not reached.
    """
    if (run is None) == (tenant is None):
        raise click.UsageError("name a run, or --tenant T")
    level = None if tenant is None else tenant_of(tenant)
    log = options.place(state).state.journal
    if run is not None:
        check_run(log, run)

    async def work(journal: Journal, audit: AuditLog) -> list[str]:
        found = await of_run(journal, run or "") if level is None else await of_tenant(journal, level)
        if found and not yes:
            _confirm(found)
        return await erase(journal, audit, found, by=options.user(), why="erased")

    _done(state, work, as_json, lambda erased: forks_of(log, [*erased, *([] if run is None else [run])]))


@click.command()
@click.option(
    "--max",
    "bytes_max",
    type=_Size(),
    metavar="SIZE",
    help='And the oldest beyond so much, as in "10 GiB". [default: audit.contents_max of the configuration, if set]',
)
@options.state
@options.as_json
def prune(bytes_max: int | None, state: Path | str | None, as_json: bool) -> None:
    """Erase the contents of all runs whose policy said that they are kept no longer."""
    place = options.place(state)
    bytes_max = place.contents_bytes_max if bytes_max is None else bytes_max

    async def work(journal: Journal, audit: AuditLog) -> list[str]:
        by = options.user()
        erased: list[str] = []
        while found := await due(journal, _RUNS_MAX):
            some = await erase(journal, audit, found, by=by, why="age")
            erased += some
            if not some:  # all that is left is of runs that are under way
                break
        if bytes_max is not None:
            beyond = await asyncio.to_thread(oldest, place.state.journal, bytes_max)
            erased += await erase(journal, audit, beyond, by=by, why="size")
        return erased

    _done(state, work, as_json)


def _confirm(runs: Sequence[str]) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError(f"this erases what is kept of {counted(len(runs), 'run')}: say --yes")
    click.confirm(f"Erase what is kept of {counted(len(runs), 'run')}? There is no way back.", abort=True, err=True)


def _done(
    state: Path | str | None,
    work: Callable[[Journal, AuditLog], Awaitable[list[str]]],
    as_json: bool,
    copies: Callable[[Sequence[str]], list[str]] | None = None,
) -> None:
    log = options.place(state).state.journal
    open_source(log).close()  # it is not made here

    async def main() -> list[str]:
        async with opened_journal(log, unavailable=AuditUnavailable) as journal:
            return await work(journal, AuditLog(journal))

    erased = run_async(main(), closed=_CLOSED)
    if erased:
        sign(state)  # or whoever can write the log cuts that off again, and nothing shows it before the next run
    is_clean = scrub(log)
    if not as_json:
        for run in erased:
            say(run)
        tell(f"erased what was kept of {counted(len(erased), 'run')}")
    forks = [] if copies is None else copies(erased)
    for fork in forks:
        tell(f"{fork} is a fork and keeps its own copy of what it took over: erase it, too")
    if as_json:
        emit({"erased": erased, **({} if copies is None else {"forks": forks}), "scrubbed": is_clean})
    if not is_clean:
        raise AuditUnavailable(
            f"a process reads from {log} all the time, so the destroyed keys are still in its -wal file: end that "
            "process and erase again"
        )
