"""`belljar demo`: the whole loop over about a million tokens, with no API key.

The question is one of OOLONG-Pairs: find all pairs of users whose questions, by kind, meet a condition. The kind of a
question stands nowhere in the text, so every line has to be read and understood: by a sub-model. Without a key both
models are played: the root model's turns come from a script, and an *oracle* sub-model labels lines by the templates
that they were generated from. What is real is everything between them: the box, the pages, the broker, the quotas and
the log. What it shows is therefore the machinery, not a model's skill, and the output says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Set
from decimal import Decimal
from pathlib import Path

import click
import msgspec

from belljar.audit import characters_read, records, verify
from belljar.cli import options
from belljar.cli.loop import run_async
from belljar.cli.output import emit, exit_code, explain
from belljar.cli.progress import progress, step
from belljar.demo.oolong import DEMO_TASK, Corpus, generate, lines_for_tokens, pair_task, question, score_f1
from belljar.demo.oracle import OracleModel
from belljar.demo.script import root_turns
from belljar.engine import Result
from belljar.models import Model, Prices, Rates, ScriptedModel
from belljar.runtime import Runtime
from belljar.state import State
from belljar.units import NANOUSD_PER_USD

__all__ = ["Report", "demo"]

# One US dollar for a million tokens is 1,000 nano-dollars a token.
_ROOT_RATES = Rates(Decimal(3000), Decimal(15000))
_SUB_RATES = Rates(Decimal(1000), Decimal(5000))
_PRICES = "3 + 15 USD (root) and 1 + 5 USD (sub) for a million input + output tokens, bytes / 4 counted as tokens"
_SCRIPTED = "scripted: the root model's turns are a script, the sub-model is an oracle that labels by template"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the demo found. `f1` is against the gold pairs that the generator knows."""

    question: str
    scripted: bool
    how: str
    lines: int
    characters: int
    f1: float
    pairs_found: int
    pairs_gold: int
    share_read: float
    log_verifies: bool
    prices: str
    result: Result


@click.command()
@click.option("--tokens", default=2**20, show_default=True, type=click.IntRange(2**10, 2**24), help="Size of the text.")
@click.option(
    "--model", metavar="NAME", help="A real model (claude-NAME, needs ANTHROPIC_API_KEY) instead of the script."
)
@click.option("--policy", default="standard", show_default=True, metavar="NAME|FILE")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@options.state
@options.as_json
def demo(tokens: int, model: str | None, policy: str, quiet: bool, state: Path | None, as_json: bool) -> int:
    """The whole loop, with no API key: a million tokens, a real box, real quotas, a real log."""
    say = (lambda _: None) if quiet else step
    say(f"generating OOLONG-Pairs, about {tokens} tokens")
    corpus = generate(lines_for_tokens(tokens))
    gold = pair_task(DEMO_TASK).gold(corpus)
    say(f"{len(corpus.labels)} lines, {len(corpus.text)} characters, {len(gold)} pairs to find")
    result = run_async(_run(corpus, model, policy, state, quiet))
    report = _report(corpus, gold, result, State.at(state, os.environ))
    explain(result)
    if as_json:
        emit(report)
    else:
        _print(report, state)
    return exit_code(result)


async def _run(corpus: Corpus, name: str | None, policy: str, state: Path | None, quiet: bool) -> Result:
    root: str | Model = name or ScriptedModel(root_turns(DEMO_TASK), name="scripted:demo", rates=_ROOT_RATES)
    sub: str | Model | None = None if name else OracleModel(name="scripted:oracle")
    prices = Prices({"scripted:oracle": _SUB_RATES, "scripted:demo": _ROOT_RATES})
    async with Runtime(policy, state=state, prices=prices) as runtime:
        if not quiet:
            step("making the box image, if it is not there yet")
        await runtime.prepare()
        started = time.monotonic()
        document = await runtime.add_context(corpus.text, name="oolong-pairs")
        if not quiet:
            step(f"context {document.sha256[:12]} registered in {(time.monotonic() - started) * 1000:.0f} ms")
        with progress(quiet) as on_progress:
            return await runtime.run(
                question(DEMO_TASK), context=corpus.text, model=root, sub_model=sub, on_progress=on_progress
            )


def _report(corpus: Corpus, gold: Set[tuple[int, int]], result: Result, state: State) -> Report:
    answer = result.answer if isinstance(result.answer, str) else ""
    return Report(
        question=question(DEMO_TASK),
        scripted=result.scripted,
        how=_SCRIPTED if result.scripted else "a real model",
        lines=len(corpus.labels),
        characters=len(corpus.text),
        f1=score_f1(answer, gold),
        pairs_found=len(answer.splitlines()),
        pairs_gold=len(gold),
        share_read=characters_read(records(state.audit, result.run)) / len(corpus.text),
        log_verifies=verify(state.audit).ok,
        prices=_PRICES if result.scripted else "the provider's list",
        result=result,
    )


def _print(report: Report, state: Path | None) -> None:
    result = report.result
    where = f" --state {state}" if state else ""
    rows = [
        ("status", result.status),
        ("models", report.how),
        ("answer", f"{report.pairs_found} pairs, {report.pairs_gold} in the gold, F1 {report.f1:.4f}"),
        ("cost", f"{result.cost / NANOUSD_PER_USD:.4f} USD at {report.prices}"),
        ("calls", f"{result.usage.calls} model calls, of these {result.queries} queries by the program"),
        ("tokens", f"{result.usage.input_tokens} in, {result.usage.output_tokens} out"),
        (
            "reads",
            f"{result.reads} reads of {result.read_bytes} bytes; {report.share_read:.1%} of the context was read",
        ),
        ("box", f"{result.wall_s:.2f} s wall, {result.cpu_s:.2f} s CPU, {result.max_rss_bytes / 2**20:.0f} MiB"),
        ("layers", " ".join(result.layers)),
        ("log", "verifies" if report.log_verifies else "DOES NOT VERIFY"),
    ]
    for name, text in rows:
        click.echo(f"{name:<8} {text}")
    click.echo(f"\nbelljar audit show {result.run}{where}\nbelljar audit verify{where}")
