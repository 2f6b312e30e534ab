"""`belljar audit ls|show|tail|diff|verify|coverage|content|erase|prune|export`."""

from __future__ import annotations

import heapq
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec

from belljar.audit import (
    Coverage,
    Log,
    Ranges,
    Record,
    TreeRun,
    coverage,
    head,
    records,
    records_after,
    records_below,
    tree,
    verify,
)
from belljar.audit.choosing import UNFINISHED, Wanted, chosen
from belljar.audit.events import HOST_RUNS, RunAbandoned, RunFinished
from belljar.cli import options, proving
from belljar.cli.contents import content, erase_, prune
from belljar.cli.logged import may_be_unlogged, note_read, run_id
from belljar.cli.output import counted, emit, flush, is_terminal, printable, say, tell
from belljar.errors import BelljarError, InvalidInput, VerificationFailed
from belljar.exporting import FORMATS, Format, exported, open_kept
from belljar.identity import BACKENDS, Tenant
from belljar.keys import Keys
from belljar.units import format_money, parse_money

if TYPE_CHECKING:
    from belljar.audit.difference import Difference  # which no other command here needs

__all__ = ["audit"]

_RANGES_SHOWN = 20
_COLUMNS = 120
_POLL_S = 0.2
_OF_REPLAYS = ("diverged", "incomplete")
_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%", re.ASCII)


class _Time(click.ParamType[int]):
    """`2026-11-28T12:30:00Z`, in nanoseconds since the epoch: as RFC 3339 has times, and as they are shown here."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            moment = datetime.fromisoformat(str(value).upper().removesuffix(" UTC"))
        except ValueError:
            self.fail(f"{value!r} is not a valid time; use one such as 2026-11-28T12:30:00Z", param, ctx)
        since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime.fromtimestamp(0, UTC)
        return since // timedelta(microseconds=1) * 1000


class _Percent(click.ParamType[Fraction]):
    """`99.5%`, kept exactly."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Fraction:
        match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
        if match is None or Fraction(match[1]) > 100:
            self.fail(f"{value!r} is not a valid percentage; use one such as 99.5%", param, ctx)
        return Fraction(match[1])


class _Money(click.ParamType[int]):
    """`0.50`, in nano-dollars."""

    name = "usd"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_money(f"{value} USD")
        except BelljarError:
            self.fail(f"{value!r} is not a valid amount in USD; use one such as 0.50", param, ctx)


class _Status(click.ParamType[str]):
    """How a run ended, or that it has not."""

    name = "status"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from belljar.engine import Status  # the engine, which no other command here needs

        known = (*get_args(Status), *_OF_REPLAYS, "abandoned", UNFINISHED)
        if value not in known:
            self.fail(f"{value!r} is not how a run ends; use one of {', '.join(known)}", param, ctx)
        return str(value)


@click.group()
def audit() -> None:
    """Read and check the audit log."""


for _command in (proving.verify_, proving.receipt, proving.checkpoint, proving.rotate_key):
    audit.add_command(_command)


@audit.command()
@click.option("--tenant", metavar="T", help="Only runs of this tenant, and of those below it.")
@click.option(
    "--status",
    type=_Status(),
    metavar="STATUS",
    help="Only runs that ended so: ok, error, quota, ..., or `unfinished`.",
)
@click.option("--model", metavar="NAME", help="Only runs of this model, or that asked it.")
@click.option(
    "--since",
    "since_ns",
    type=_Time(),
    metavar="TIME",
    help="Only runs that began then or later: 2026-11-28[T12:30:00[Z|+01:00]], UTC unless it says.",
)
@click.option("--until", "until_ns", type=_Time(), metavar="TIME", help="Only runs that began before.")
@click.option(
    "--min-cost", type=_Money(), metavar="USD", help="Only runs that cost this with those below, such as 0.50."
)
@click.option("--refused", is_flag=True, help="Only runs of which something was refused.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the latest N of them.")
@options.state
@options.as_json
def ls(
    tenant: str | None,
    status: str | None,
    model: str | None,
    since_ns: int | None,
    until_ns: int | None,
    min_cost: int | None,
    refused: bool,
    limit: int | None,
    state: Path | str | None,
    as_json: bool,
) -> None:
    """List the runs in the log, oldest first: all, or those that every option lets pass."""
    wanted = Wanted(
        tenant=None if tenant is None else Tenant(tenant),
        status=status,
        model=model,
        since_ns=since_ns,
        until_ns=until_ns,
        cost_nanousd_min=min_cost,
        refused=refused,
    )
    found = chosen(_log(state), wanted, limit)
    if as_json:
        emit({"runs": found})
        return
    for run in found:
        started = f"{datetime.fromtimestamp(run.started_ns / 1e9, UTC):%Y-%m-%d %H:%M:%S}"
        line = f"{run.run}  {started}  {run.status or UNFINISHED:<10}  {run.records:>7} records  {run.tenant}"
        say(printable(line if run.replays is None else f"{line}  replay of {run.replays}", but=""))


@audit.command()
@click.argument("run")
@click.option("--full", is_flag=True, help="Cut no text and leave nothing out.")
@click.option(
    "--records", "raw", is_flag=True, help="Show instead the records of RUN, without those of the runs below it."
)
@click.option(
    "--tree", "as_tree", is_flag=True, help="Show instead a line for RUN and each run below it, with its cost."
)
@may_be_unlogged
@options.state
@options.as_json
def show(
    run: str, full: bool, raw: bool, as_tree: bool, unlogged: bool, state: Path | str | None, as_json: bool
) -> None:
    """Show what RUN did: its id, or `last` for the latest one that is no child run.

    Questions, turns, cells, queries, reads and refusals are shown as a tree, and child runs in the cell that started
    them. In the bar of a context, each character is a part of it: `.` was never read, `-` in part, `=` is all read; of
    what stood in an answered prompt `+` is a part, and `#` all. Texts that were written by programs and models stand
    behind `|`, and what could steer the terminal is shown as an escape.
    """
    log = _log(state)
    run = run_id(log, run)
    note_read(log, run, unlogged=unlogged)
    if as_tree:
        _show_tree(run, tree(records_below(log, run)), as_json)
    elif raw or run in HOST_RUNS:
        _show_records(run, list(records(log, run)), as_json)
    else:
        _show_trajectory(log, run, full=full, as_json=as_json)


def _show_records(run: str, found: list[Record], as_json: bool) -> None:
    if as_json:
        emit({"run": run, "records": [_fields(record) for record in found]})
        return
    for record in found:
        say(_line(record, found[0].time_ns))


def _line(record: Record, first_ns: int) -> str:
    # Escaped as JSON, they are printable ASCII.
    data = " ".join(f"{key}={json.dumps(value)}" for key, value in record.data.items())
    return f"{record.seq:>8}  +{(record.time_ns - first_ns) / 1e9:9.3f} s  {record.event:<18} {data}"


def _show_trajectory(log: Log, run: str, *, full: bool, as_json: bool) -> None:
    from belljar.audit.trajectory import Trajectory, plain
    from belljar.cli.tree import lines

    grown = Trajectory()
    for record in records_below(log, run):
        grown.feed(record)
    assert grown.run is not None
    with open_kept(log, Keys.at(os.environ)) as contents:
        if as_json:
            emit({"run": run, "trajectory": plain(grown.run, contents), "coverage": grown.coverage()})
            return
        for line in lines(grown.run, contents, width=_width(), full=full):
            say(line)


def _width() -> int:
    """Of the terminal; what goes elsewhere is as wide as is well read."""
    return shutil.get_terminal_size((_COLUMNS, 0)).columns if is_terminal() else _COLUMNS


@audit.command()
@click.argument("run", required=False)
@click.option("-f", "--follow", is_flag=True, help="Wait for more, until RUN has ended or you stop it.")
@click.option("-n", "count", type=click.IntRange(min=0), default=10, show_default=True, help="Begin with the last N.")
@may_be_unlogged
@options.state
@click.option("--json", "as_json", is_flag=True, help="Print each record as one line of JSON.")
def tail(run: str | None, follow: bool, count: int, unlogged: bool, state: Path | str | None, as_json: bool) -> None:
    """Show the log's last records, of all runs, or of RUN and those below it, and with -f those that are written."""
    log = _log(state)
    run = None if run is None else run_id(log, run)
    note_read(log, *([] if run is None else [run]), unlogged=unlogged)
    at = head(log)
    found, ended = _last(log, run, at, count)
    first_ns = found[0].time_ns if found else time.time_ns()
    while True:
        for record in found:
            _print_record(record, first_ns, as_json)
        flush()
        if not follow or ended:
            return
        while (now := head(log)) == at:
            time.sleep(_POLL_S)
        if now < at:
            raise VerificationFailed(
                f"the log had {at} records and now has {now}: an old copy was put back, or its tail was cut; verify it"
            )
        found = records_after(log, at, run)
        at = max([now, *(record.seq for record in found[-1:])])
        ended = any(_is_end(record, run) for record in found)


def _last(log: Log, run: str | None, at: int, count: int) -> tuple[list[Record], bool]:
    """The last records up to number `at`, in order, and whether the run's end is among all of them."""
    ended = False

    def known() -> Iterator[Record]:
        nonlocal ended
        for record in records_after(log, max(0, at - count)) if run is None else records_below(log, run):
            if record.seq <= at:
                ended = ended or _is_end(record, run)
                yield record

    # At least one, as of none nothing would be looked at.
    last = heapq.nlargest(max(count, 1), known(), key=lambda record: record.seq)[::-1]
    return last if count else [], ended


def _is_end(record: Record, run: str | None) -> bool:
    return record.run == run and isinstance(record.typed, RunFinished | RunAbandoned)


def _print_record(record: Record, first_ns: int, as_json: bool) -> None:
    if as_json:
        say(json.dumps({"run": record.run, **_fields(record)}))
    else:
        say(printable(f"{record.run}  {_line(record, first_ns)}", but=""))


@audit.command()
@click.argument("left")
@click.argument("right")
@may_be_unlogged
@options.state
@options.as_json
def diff(left: str, right: str, unlogged: bool, state: Path | str | None, as_json: bool) -> None:
    """Show where two runs differ, action by action, the first divergence first. Exit with 9 if they do.

    Times, ids and what a root model was sent differ always, and do not count. Of a text counts its digest. Of questions
    and outputs the log has the length alone: what they say counts where both are kept.
    """
    from belljar.audit.difference import differences, known_by_length
    from belljar.audit.trajectory import trajectory

    log = _log(state)
    left, right = run_id(log, left), run_id(log, right)
    note_read(log, left, right, unlogged=unlogged)
    mine, theirs = trajectory(records_below(log, left)), trajectory(records_below(log, right))
    assert mine is not None
    assert theirs is not None
    for run in (mine, theirs):
        if run.replays is not None:
            raise InvalidInput(f"{run.run} is a replay: replay {run.replays}, as it did", code="replay.replay")
    with open_kept(log, Keys.at(os.environ)) as contents:
        found = list(differences(mine, theirs, contents=contents))
        by_length = max(known_by_length(run, contents) for run in (mine, theirs))
        if as_json:
            fields = {"same": not found, "known_by_length": by_length, "differences": found}
            emit({"left": left, "right": right, **fields})
        else:
            _show_differences(left, right, found)
    if by_length:
        tell(f"of {counted(by_length, 'text')} the length alone was compared: not kept, or not to be read here")
    if found:
        # Nobody is at fault.
        click.get_current_context().exit(VerificationFailed.exit_code)


def _show_differences(left: str, right: str, found: list[Difference]) -> None:
    for one in found:
        say(f"{one.at}: {one.what}")
        say(f"  {left}  {json.dumps(msgspec.to_builtins(one.left))}")
        say(f"  {right}  {json.dumps(msgspec.to_builtins(one.right))}")
    say(counted(len(found), "difference") if found else "the runs do not differ")


def _show_tree(run: str, found: list[TreeRun], as_json: bool) -> None:
    if as_json:
        emit({"run": run, "tree": found})
        return
    for one in found:
        _show_branch("  " * one.depth + one.run, one.status or "unfinished", one.calls, one.cost_nanousd)
    if len(found) > 1:
        calls, cost = sum(one.calls for one in found), sum(one.cost_nanousd for one in found)
        _show_branch(counted(len(found), "run"), "", calls, cost)


def _show_branch(name: str, status: str, calls: int, cost_nanousd: int) -> None:
    say(printable(f"{name}  {status:<10}  {counted(calls, 'call')}  {format_money(cost_nanousd)}", but=""))


@audit.command()
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
def replay(run: str, sources: tuple[str, ...], state: Path | str | None, as_json: bool, **wish: Any) -> int:
    """Run the code of RUN (an id, or `last`) again, answer what it asks from the log, and compare all that it does.

    No model is asked, no tool is called, and no tenant is charged. Exits with 9 if anything differs, or if not all of
    it can be compared.
    """
    from belljar.cli.replay import replayed  # with the engine, which no other command here needs

    log = _log(state)
    run = run_id(log, run)
    note_read(log, run, unlogged=False)
    return replayed(options.place(state).state, run, sources, as_json, **wish)


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
@may_be_unlogged
@options.state
@options.as_json
def coverage_(
    run: str,
    require: Fraction | None,
    what: str,
    ranges: int,
    unlogged: bool,
    state: Path | str | None,
    as_json: bool,
) -> None:
    """Show which characters of its contexts RUN (an id, or `last`) read, and which it showed to a sub-model.

    What its child runs did with parts of these contexts counts, too. The log is verified first. Read means given to the
    box; shown means found word for word in a prompt that was answered. Percentages are rounded down: 100 % means all.
    """
    log = _log(state)
    run = run_id(log, run)
    found = _coverage(log, run, ranges)
    note_read(log, run, unlogged=unlogged)
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
            f"{counted(found.chars - part, 'character')} never were"
        )
        click.get_current_context().exit(VerificationFailed.exit_code)


@audit.command()
@click.argument("run")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    required=True,
    help="The records as they are stored; ATIF 1.8; the reference RLM library's JSON Lines; OpenTelemetry's spans; or "
    "a page for a browser.",
)
@click.option("-o", "--output", "file", type=click.Path(path_type=Path), metavar="FILE", help="[default: stdout]")
@click.option("--content", is_flag=True, help="Of jsonl and otel: with what was said, as the other formats have it.")
@click.option("--endpoint", metavar="URL", help="Of otel: send the spans to this OTLP collector, and nowhere else.")
@may_be_unlogged
@options.state
@options.as_json
def export(
    run: str,
    form: Format,
    file: Path | None,
    content: bool,
    endpoint: str | None,
    unlogged: bool,
    state: Path | str | None,
    as_json: bool,
) -> None:
    """Write RUN (an id, or `last`) and the runs below it in another format.

    With them goes what was said, as far as it is kept; into records and spans only with --content. FILE can be read by
    its owner only. The page is one file that loads nothing. It says whether the log verified when it was made.
    """
    from belljar.cli.exporting import deliver  # with all that makes the formats

    if endpoint is not None and (form != "otel" or file is not None):
        raise click.UsageError("--endpoint is for --format otel, without -o")
    if as_json and file is None and endpoint is None:
        raise click.UsageError("with --json, stdout is for the document: name a file with -o")
    log = _log(state)
    run = run_id(log, run)
    note_read(log, run, unlogged=unlogged)
    keys = Keys.at(os.environ)
    with open_kept(log, keys) as contents:
        pieces = exported(log, records_below(log, run), form, contents, keys, content=content)
        deliver(pieces, file, endpoint)
    if as_json:
        emit({"run": run, "format": form, "file": None if file is None else str(file), "endpoint": endpoint})


def _coverage(log: Log, run: str, ranges: int) -> Coverage:
    report = verify(log)
    if not report.ok:
        raise proving.unsound(report)
    return coverage(records_below(log, run), ranges_max=ranges)


def _print_coverage(found: Coverage) -> None:
    for document in found.documents:
        say(f"{json.dumps(document.name)}  {document.kind}  {document.sha256[:12]}")
        _print_share("read", document.read_chars, document.chars, document.read_share, document.never_read)
        _print_share("shown", document.shown_chars, document.chars, document.shown_share, document.never_shown)
    say(f"all contexts  {counted(found.chars, 'character')}")
    _print_share("read", found.read_chars, found.chars, found.read_share)
    _print_share("shown", found.shown_chars, found.chars, found.shown_share)
    say(_SHOWN_UNIT)
    if found.untraced:
        say(f"{counted(found.untraced, 'prompt')} could not be searched completely: more may have been shown")


def _print_share(what: str, part: int, whole: int, share: float, never: Ranges | None = None) -> None:
    say(f"  {what:<6} {100 * share:>8.4f} %  {part} of {counted(whole, 'character')}")
    if never is None or never.count == 0:
        return
    listed = " ".join(f"{start}-{stop}" for start, stop in never.first)
    more = f" and {never.count - len(never.first)} more" if never.count > len(never.first) else ""
    say(f"  never {what}, {counted(never.count, 'range')}: {listed}{more}")


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


for command in (content, erase_, prune):
    audit.add_command(command)
