"""`belljar bench`: generated tasks of any length, through Belljar and, with a real model, also by a direct call.

The direct call is what one would do without Belljar: the whole text and the question in one prompt to the same model.
It goes through the broker as any other call does, so it is metered and logged, and the policy's limit on a prompt holds
for it; where the policy or the provider refuses a text of that length, the row says so.

Without a model the cases bring their own: a script in place of the root model and an oracle in place of the sub-model.
Each output says so, because such a score shows the machinery and no model's skill.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from statistics import fmean
from typing import Any, Final

import click
import msgspec

from belljar.bench import multihop, niah, oolong, pairs, repository
from belljar.bench.cases import Case
from belljar.cli import options
from belljar.cli.delivery import as_text, keep, require_stdout
from belljar.cli.loop import Stopped, run_async
from belljar.cli.output import (
    EXIT_OUTPUT,
    OutputFailed,
    emit,
    exit_code,
    explain,
    flush,
    printable,
    say,
    tell,
)
from belljar.cli.progress import progress
from belljar.engine import Result
from belljar.errors import BelljarError, InvalidInput
from belljar.models import Prices, Rates, ScriptedModel
from belljar.runtime import Runtime
from belljar.units import NANOUSD_PER_USD

__all__ = ["Direct", "Row", "Table"]

_TASKS: Final[dict[str, Callable[[int, int], list[Case]]]] = {
    "niah": niah.cases,
    "oolong": oolong.cases,
    "pairs": pairs.cases,
    "multihop": multihop.cases,
    "code": repository.cases,
}
_SCRIPT: Final = "scripted:bench"
_SCRIPTED: Final = "scripted: a script is the root model, an oracle that knows the templates is the sub-model"
# One US dollar for a million tokens is 1,000 nano-dollars a token.
_ROOT_RATES: Final = Rates(Decimal(3000), Decimal(15000))
_ALONE: Final = "FINAL(llm_query(str(context)))"
_NOTE_CHARS_MAX: Final = 200


class Direct(msgspec.Struct, frozen=True, kw_only=True):
    """The same model on the same text in one call. `note` says why there is no answer; `score` is 0.0 then."""

    run: str
    score: float
    note: str
    cost_nanousd: int
    wall_s: float


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One case. `read_share` is the part of the context that the program read, `shown_share` what a sub-model saw."""

    case: str
    run: str
    status: str
    score: float
    cost_nanousd: int
    wall_s: float
    read_share: float
    shown_share: float
    queries: int
    direct: Direct | None = None


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured. The scores are means over all rows; `direct_score` is None where nobody was asked directly."""

    task: str
    tokens: int
    seed: int
    scripted: bool
    how: str
    score: float
    direct_score: float | None
    rows: list[Row]


@click.command()
@click.argument("task", type=click.Choice(list(_TASKS)))
@click.option("--tokens", default=2**13, show_default=True, type=click.IntRange(2**10, 2**20), help="Size of the text.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="Another one gives other texts.")
@click.option("--case", "chosen", multiple=True, metavar="NAME", help="Only this case; repeat it for more.")
@click.option("--model", metavar="NAME", help="The model to measure (claude-NAME, openai:NAME) instead of the script.")
@click.option("--sub-model", metavar="NAME", help="Who answers the code's queries. [default: the model]")
@options.prices
@options.box_options
def bench(task: str, tokens: int, seed: int, chosen: tuple[str, ...], **rest: Any) -> int:
    """Measure a model through Belljar and alone, over generated tasks of any length."""
    require_stdout()
    if rest["sub_model"] and not rest["model"]:
        raise InvalidInput("--sub-model needs --model: the script brings its own sub-model", code="bench.sub_model")
    cases = _chosen(_TASKS[task](tokens, seed), chosen)
    rows: list[Row] = []

    def table() -> Table:
        return _table(task, tokens, seed, rest["model"], rows)

    def keep_it(why: OutputFailed | str, what: str) -> None:
        keep(f"bench-{rows[0].run}", table(), why, options.place(rest["state"]).state, what=what)

    try:
        code = run_async(_measure(cases, rows, rest))
    except (Stopped, BelljarError):
        if rows:  # they are paid for
            keep_it("not all cases were measured", "the table of those that were")
        raise
    try:
        emit(table()) if rest["as_json"] else _print(table())
        flush()
    except OutputFailed as failure:
        keep_it(failure, "the table")
        return EXIT_OUTPUT
    return code


def _chosen(cases: list[Case], names: tuple[str, ...]) -> list[Case]:
    known = {case.name: case for case in cases}
    if unknown := [name for name in names if name not in known]:
        raise InvalidInput(f"there is no case {unknown[0]}: give one of {', '.join(known)}", code="bench.case")
    return [known[name] for name in names] or cases


async def _measure(cases: list[Case], rows: list[Row], rest: dict[str, Any]) -> int:
    """Fill in `rows`, case by case. Returns the exit code of the first run that failed, or 0."""
    where = {name: rest[name] for name in ("policy", "state", "backend", "language")}
    prices = Prices.load(rest["prices"]) if rest["prices"] else None
    code = 0
    async with Runtime(**where, config=options.config_file(), prices=prices) as runtime:
        for case in cases:
            result = await _through(runtime, case, rest)
            direct = await _alone(runtime, case, rest) if rest["model"] else None
            rows.append(_row(case, result, direct))
            explain(result)
            code = code or exit_code(result)
            if not rest["quiet"]:
                tell(f"case {case.name}: {result.status}, score {rows[-1].score:.4f}, run {result.run}")
    return code


async def _through(runtime: Runtime, case: Case, rest: dict[str, Any]) -> Result:
    model = rest["model"] or ScriptedModel(case.turns, name=_SCRIPT, rates=_ROOT_RATES)
    sub_model = rest["sub_model"] if rest["model"] else case.oracle
    with progress(rest["quiet"]) as on_progress:
        return await runtime.run(
            case.question,
            context=case.context,
            model=model,
            sub_model=sub_model,
            tenant=rest["tenant"],
            on_progress=on_progress,
        )


async def _alone(runtime: Runtime, case: Case, rest: dict[str, Any]) -> Direct:
    prompt = f"{case.text}\n\n{case.question}"
    result = await runtime.execute(_ALONE, context=prompt, sub_model=rest["model"], tenant=rest["tenant"])
    note = "" if result.error is None else result.error.message.partition("\n")[0][:_NOTE_CHARS_MAX]
    return Direct(
        run=str(result.run),
        score=_score(case, result),
        note=note,
        cost_nanousd=result.cost_nanousd,
        wall_s=result.wall_s,
    )


def _score(case: Case, result: Result) -> float:
    return 0.0 if result.given is None else case.score(as_text(result))


def _row(case: Case, result: Result, direct: Direct | None) -> Row:
    return Row(
        case=case.name,
        run=str(result.run),
        status=result.status,
        score=_score(case, result),
        cost_nanousd=result.cost_nanousd,
        wall_s=result.wall_s,
        read_share=result.coverage.read_share,
        shown_share=result.coverage.shown_share,
        queries=result.queries,
        direct=direct,
    )


def _table(task: str, tokens: int, seed: int, model: str | None, rows: list[Row]) -> Table:
    direct = [row.direct.score for row in rows if row.direct is not None]
    scripted = model is None or model.startswith("scripted:")
    return Table(
        task=task,
        tokens=tokens,
        seed=seed,
        scripted=scripted,
        how=_SCRIPTED if model is None else model,
        score=fmean(row.score for row in rows),
        direct_score=fmean(direct) if direct else None,
        rows=rows,
    )


def _print(table: Table) -> None:
    say(f"{table.task}, about {table.tokens} tokens, seed {table.seed}\nmodels: {printable(table.how)}\n")
    say(f"{'case':<24} {'score':>7} {'USD':>9} {'seconds':>8} {'read':>7} {'queries':>8}  status")
    for row in table.rows:
        numbers = f"{row.score:>7.4f} {_usd(row.cost_nanousd)} {row.wall_s:>8.2f}"
        say(f"{row.case:<24} {numbers} {row.read_share:>7.1%} {row.queries:>8}  {row.status}")
        if row.direct is not None:
            numbers = f"{row.direct.score:>7.4f} {_usd(row.direct.cost_nanousd)} {row.direct.wall_s:>8.2f}"
            say(f"{'  called directly':<24} {numbers} {'':>7} {1:>8}  {printable(row.direct.note, but='') or 'ok'}")
    alone = "" if table.direct_score is None else f"; called directly: {table.direct_score:.4f}"
    say(f"\nscore {table.score:.4f}{alone}")


def _usd(nanousd: int) -> str:
    return f"{nanousd / NANOUSD_PER_USD:>9.4f}"
