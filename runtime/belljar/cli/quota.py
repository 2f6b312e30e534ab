"""`belljar quota show|set|clear|history|check|explain`."""

from __future__ import annotations

import csv
import io
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from belljar.bounds import DIMENSION_OF, Bound, parse_bound
from belljar.cli import options
from belljar.cli.logged import LAST, run_id
from belljar.cli.loop import run_async
from belljar.cli.output import emit, printable, say, tell
from belljar.context import ContextStores
from belljar.errors import InvalidInput, VerificationFailed
from belljar.identity import Tenant
from belljar.ledger import DIMENSIONS, GAUGES, LIMITED, Amounts, Changes, Limits, Period, Quota, Span, Used
from belljar.quotas import QuotaRefusal, Quotas, Stored, explain, open_quotas
from belljar.state import State
from belljar.units import format_memory_time, format_milliseconds, format_money, format_size

__all__ = ["in_words", "limit_in_words", "quota"]

_T = TypeVar("_T")
_BAR_CHARS: Final = 20
_SHOWN_MAX: Final = 20
_CLOSED: Final = "the limits are either all as they were or all as you said: `belljar quota show` tells"
_WORDS: Final = {
    "calls": "calls",
    "input_tokens": "input tokens",
    "output_tokens": "output tokens",
    "cost_nanousd": "cost",
    "read_bytes": "bytes read",
    "cpu_ms": "CPU time",
    "wall_ms": "wall time",
    "memory_mib_s": "memory time",
    "boxes": "boxes at once",
    "calls_in_flight": "calls at once",
    "context_bytes": "contexts",
    "depth": "depth",
}
# How refusals call it; a policy calls what all contexts together may be read `read_total`.
_DIMENSION_OF: Final = {**DIMENSION_OF, "read_total": "read_bytes", "stored": "context_bytes"}


class _Amount(click.ParamType[Bound]):
    """`50USD/day`, `1000/month`, `1GiB/total`, `unlimited/day`; of a gauge `4/now`."""

    name = "amount"

    def __init__(self, word: str) -> None:
        self._word = word

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Bound:
        try:
            return parse_bound(self._word, str(value))
        except InvalidInput as error:
            self.fail(str(error), param, ctx)


@click.group()
def quota() -> None:
    """Show, set and explain what tenants may use."""


@quota.command()
@click.argument("tenant", required=False)
@options.state
@options.as_json
def show(tenant: str | None, state: Path | str | None, as_json: bool) -> None:
    """Show used, held, limit and what is left: of each level of TENANT, or of all tenants.

    Listed is each period that has a limit or use now. Held is what calls under way may still cost.
    """
    found = _read(state, lambda quotas: quotas.show(tenant))
    if as_json:
        emit({"quotas": found})
    elif not found:
        say("nothing is limited here, and nothing was used")
    else:
        _print_quotas(found)


@quota.command("set")
@click.argument("tenant")
@click.option("--cost", "cost_nanousd", type=_Amount("cost"), multiple=True, metavar="50USD/day")
@click.option("--calls", type=_Amount("calls"), multiple=True, metavar="1000/month", help="Calls of models.")
@click.option("--input-tokens", type=_Amount("input_tokens"), multiple=True, metavar="N/day")
@click.option("--output-tokens", type=_Amount("output_tokens"), multiple=True, metavar="N/day")
@click.option("--read", "read_bytes", type=_Amount("read"), multiple=True, metavar="1GiB/total", help="Of contexts.")
@click.option("--cpu", "cpu_ms", type=_Amount("cpu"), multiple=True, metavar="2h/day", help="CPU time of boxes.")
@click.option("--wall", "wall_ms", type=_Amount("wall"), multiple=True, metavar="8h/day", help="Time of boxes.")
@click.option(
    "--memory-time",
    "memory_mib_s",
    type=_Amount("memory_time"),
    multiple=True,
    metavar="500GiBh/month",
    help="Memory of boxes times their time.",
)
@click.option("--boxes", type=_Amount("boxes"), multiple=True, metavar="4/now", help="At once.")
@click.option("--calls-in-flight", type=_Amount("calls_in_flight"), multiple=True, metavar="8/now", help="At once.")
@click.option(
    "--contexts",
    "context_bytes",
    type=_Amount("contexts"),
    multiple=True,
    metavar="10GiB/now",
    help="Stored on a host.",
)
@click.option("--depth", type=_Amount("depth"), multiple=True, metavar="N", help="Levels of models below a root model.")
@options.state
@options.as_json
def set_(tenant: str, state: Path | str | None, as_json: bool, **given: tuple[Bound, ...]) -> None:
    """Set limits of TENANT, each for a minute, an hour, a day, a month (UTC) or in total.

    Limits that are not named stay. A number may be `unlimited`. They count for all tenants below it together, also
    for runs under way, from their next call on. Once anything is set for a tenant, the policies' [quota.tenant] says
    nothing about this level any more.
    """
    changes: dict[Period, dict[str, int | None]] = {}
    for period, dimension, bound in (bound for bounds in given.values() for bound in bounds):
        if dimension in changes.setdefault(period, {}):
            raise click.UsageError(f"there are two limits of {_WORDS[dimension]} for {period}; keep one of them")
        changes[period][dimension] = bound
    if not changes:
        raise click.UsageError("name a limit, such as --cost 50USD/day")
    limits = _write(state, lambda quotas: quotas.change(tenant, changes, by=options.user()))
    _print_limits(tenant, limits, "changed", as_json=as_json)
    _tell_of_the_file(state, tenant, changes)


@quota.command()
@click.argument("tenant")
@options.state
@options.as_json
def clear(tenant: str, state: Path | str | None, as_json: bool) -> None:
    """Clear all limits of TENANT; the policies' [quota.tenant] counts for it again."""
    limits = _write(state, lambda quotas: quotas.clear(tenant, by=options.user()))
    _print_limits(tenant, limits, "cleared", as_json=as_json)
    _tell_of_the_file(state, tenant, None)


@quota.command("history")
@click.argument("tenant", required=False)
@click.option("--by", "per", type=click.Choice(["day", "month"]), default="day", show_default=True, help="The span.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV: whole numbers, costs in nano-dollars.")
@options.state
@options.as_json
def history_(tenant: str | None, per: Span, as_csv: bool, state: Path | str | None, as_json: bool) -> None:
    """Show what TENANT, or every tenant, used on each day or in each month (UTC)."""
    found = _read(state, lambda quotas: quotas.history(tenant, per=per))
    if as_json:
        emit({"by": per, "history": found})
    elif as_csv:
        say(_csv(found, per))
    else:
        for one in found:
            say(f"{one.key:<10}  {one.tenant}  {_used(one)}")


@quota.command("check")
@options.state
@options.as_json
def check_(state: Path | str | None, as_json: bool) -> None:
    """Check that the ledger adds up and agrees with the log; if not, exit with 9."""
    problems = _read(state, lambda quotas: quotas.check())
    if as_json:
        emit({"ok": not problems, "problems": problems})
    else:
        for problem in problems[:_SHOWN_MAX]:
            say(printable(problem))
        if not problems:
            say("the ledger adds up, and the log says the same")
    if problems:
        error = VerificationFailed(f"the ledger does not add up: {len(problems)} differences, the first: {problems[0]}")
        if as_json:
            click.get_current_context().exit(error.exit_code)
        raise error


@quota.command("explain")
@click.argument("run")
@options.state
@options.as_json
def explain_(run: str, state: Path | str | None, as_json: bool) -> None:
    """Explain what quotas refused RUN (an id, or `last`): which level said no, and why."""
    place = options.place(state).state
    found = explain(place.journal, run_id(place.journal, run) if run == LAST else run, _stored(place))
    if as_json:
        emit(found)
        return
    say(f"run {found.run} of tenant {found.tenant}")
    for refusal in found.refusals[:_SHOWN_MAX]:
        say(f"{refusal.time:%Y-%m-%d %H:%M:%S}  record {refusal.seq}: {_refused(refusal)}")
    if (more := len(found.refusals) - _SHOWN_MAX) > 0:
        say(f"and {more} more: --json has all")
    if not found.refusals:
        say("no quota refused it anything")
    if over := in_words(found.overage):
        say(f"it was charged more than was held for it: {over} beyond that")
    if found.quotas:
        say("now:")
        _print_quotas(found.quotas)


# -- doing -------------------------------------------------------------------------------------------------------------


def _stored(place: State) -> Stored:
    return ContextStores(place.contexts).sizes


def _read(state: Path | str | None, question: Callable[[Quotas], Awaitable[_T]]) -> _T:
    place = options.place(state).state

    async def go() -> _T:
        return await question(Quotas(place.journal, None, _stored(place)))

    return run_async(go(), closed="nothing was changed")


def _write(state: Path | str | None, change: Callable[[Quotas], Awaitable[_T]]) -> _T:
    where = options.place(state).state

    async def go() -> _T:
        where.create()
        async with open_quotas(where.journal) as quotas:
            return await change(quotas)

    return run_async(go(), closed=_CLOSED)


# -- printing ----------------------------------------------------------------------------------------------------------


def _print_quotas(found: Sequence[Quota]) -> None:
    tenant = ""
    for one in found:
        if one.tenant != tenant:
            say(one.tenant)
        tenant = one.tenant
        until = f", until {one.resets_at:%Y-%m-%d %H:%M} UTC" if one.resets_at is not None else ""
        say(f"  {one.period}{f' {one.key}'.replace('T', ' ') if until else ''}{until}")
        for dimension in DIMENSIONS:
            if (line := _line(one, dimension)) is not None:
                say(f"    {_WORDS[dimension]:<13}  {line}")
        if (line := _contexts_line(one)) is not None:
            say(f"    {_WORDS['context_bytes']:<13}  {line}")
        if one.limits is not None and (most := one.limits.depth) is not None:
            say(f"    {_WORDS['depth']:<13}  at most {most}")


def _line(one: Quota, dimension: str) -> str | None:
    """One dimension of a quota; None where it has neither limit nor use."""
    if dimension in GAUGES and one.period != "total":
        return None
    used, held, left = (getattr(part, dimension) for part in (one.used, one.held, one.left))
    limit = getattr(one.limits, dimension) if one.limits is not None else None
    if limit is None and dimension in GAUGES:
        return f"{held} now, no limit" if held else None
    if limit is None:
        return f"{_amount(dimension, used)} used{_held(dimension, held)}, no limit" if used or held else None
    if dimension in GAUGES:
        return f"{_bar(0, held, limit)}  {held} of {limit} now, {left} left"
    over = f", {_amount(dimension, used - limit)} over" if used > limit else ""
    return (
        f"{_bar(used, held, limit)}  {_amount(dimension, used)} of {_amount(dimension, limit)} used"
        f"{_held(dimension, held)}, {_amount(dimension, left)} left{over}"
    )


def _contexts_line(one: Quota) -> str | None:
    """What is stored on this host; None where it is nothing and nothing is limited."""
    used, left = one.context_bytes, one.context_bytes_left
    limit = None if one.limits is None else one.limits.context_bytes
    if used is None or limit is None or left is None:
        return f"{format_size(used)} stored here, no limit" if used else None
    over = f", {format_size(used - limit)} over" if used > limit else ""
    stored = f"{format_size(used)} of {format_size(limit)} stored here"
    return f"{_bar(used, 0, limit)}  {stored}, {format_size(left)} left{over}"


def _held(dimension: str, held: int) -> str:
    return f", {_amount(dimension, held)} held" if held else ""


def _bar(used: int, held: int, limit: int) -> str:
    """`[#######~~~..........]`: used, held, left. What there is of anything is to be seen."""
    whole = max(limit, used + held, 1)
    parts = [-(-used * _BAR_CHARS // whole), -(-(used + held) * _BAR_CHARS // whole)]
    if limit == 0:
        parts = [_BAR_CHARS, _BAR_CHARS]
    return f"[{'#' * parts[0]}{'~' * (parts[1] - parts[0])}{'.' * (_BAR_CHARS - parts[1])}]"


def _amount(dimension: str, value: int) -> str:
    if dimension == "cost_nanousd":
        return format_money(value)
    if dimension in ("cpu_ms", "wall_ms"):
        return format_milliseconds(value)
    if dimension == "memory_mib_s":
        return format_memory_time(value)
    return format_size(value) if dimension in ("read_bytes", "context_bytes") else str(value)


def _print_limits(tenant: str, limits: Sequence[Limits], what: str, *, as_json: bool) -> None:
    if as_json:
        emit({"tenant": tenant, what: limits})
        return
    for one in limits:
        say(f"{tenant} {_span(one.period)}: {'cleared, was ' if what == 'cleared' else ''}{_bounds(one)}")
    if not limits:
        say(f"{tenant}: no limits were set")


def _tell_of_the_file(state: Path | str | None, tenant: str, changes: Changes | None) -> None:
    """Say what of a change will not last; `changes` is None where all was cleared."""
    config = options.place(state).config
    if config is None:
        return
    named = config.tenants.get(Tenant(tenant), {})
    again = [
        f"{limit_in_words(name, bound)} {_span(period)}"
        for period, bounds in named.items()
        for name, bound in bounds.items()
        if changes is None or changes.get(period, {}).get(name, bound) != bound
    ]
    if again:
        tell(f"{printable(str(config.file))} says {', '.join(again)}: the next host that opens with it sets that again")


def _span(period: str) -> str:
    return "in total" if period == "total" else f"per {period}"


def _bounds(limits: Limits) -> str:
    """What is limited, in words."""
    parts = [
        f"{_WORDS[name]} {_amount(name, bound)}" for name in LIMITED if (bound := getattr(limits, name)) is not None
    ]
    return ", ".join(parts) or "unlimited"


def limit_in_words(dimension: str, bound: int | None) -> str:
    """`cost 50.00 USD`, `calls unlimited`."""
    return f"{_WORDS[dimension]} {'unlimited' if bound is None else _amount(dimension, bound)}"


def _used(one: Used) -> str:
    held = in_words(one.held)
    return ", ".join(part for part in (in_words(one.used), f"held: {held}" if held else "") if part)


def in_words(amounts: Amounts) -> str:
    """What there is in each dimension; empty where there is nothing."""
    return ", ".join(
        f"{_WORDS[name]} {_amount(name, value)}" for name in DIMENSIONS if (value := getattr(amounts, name))
    )


def _csv(found: Sequence[Used], per: Span) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["tenant", per, *DIMENSIONS, *(f"held_{name}" for name in DIMENSIONS)])
    writer.writerows([one.tenant, one.key, *_values(one.used), *_values(one.held)] for one in found)
    return text.getvalue().removesuffix("\n")


def _values(amounts: Amounts) -> list[int]:
    return [getattr(amounts, name) for name in DIMENSIONS]


def _refused(refusal: QuotaRefusal) -> str:
    """One refusal for a person."""
    key = refusal.code.rpartition(".")[2]
    dimension = _DIMENSION_OF.get(key, key)
    if refusal.count is not None:
        return f"{refusal.count} refusals of a {refusal.asked} in all ({refusal.code})"
    who = f"a limit ({refusal.code})"
    if refusal.scope is not None:
        of_run = refusal.scope.startswith("run:")
        who = "the run's own limit" if of_run else f"the limit of tenant {refusal.scope}"
        who += "" if refusal.period == "now" else f" {_span(refusal.period or '')}"
    amounts = [
        f"{_amount(dimension, value)} {word}"
        for value, word in ((refusal.used, "used"), (refusal.held, "held"))
        if value is not None
    ]
    met = ""
    if refusal.limit is not None and refusal.observed is not None:
        met = f": it would have come to {_amount(dimension, refusal.observed)} of {_amount(dimension, refusal.limit)}"
    taken = f" ({', '.join(amounts)})" if amounts else ""
    waited = "" if refusal.waited_ms is None else f"; it had waited {refusal.waited_ms / 1000:.1f} s for a period's end"
    return printable(f"{who} on {_WORDS.get(dimension, dimension)} refused a {refusal.asked}{met}{taken}{waited}")
