"""`belljar demo`: the whole loop over about a million tokens, with no API key.

The question is one of OOLONG-Pairs: find all pairs of users whose questions, by kind, meet a condition. The text never
names the kind of a question, so a sub-model has to read and understand every line. Without a key both models are
simulated: the root model's turns come from a script, and an *oracle* sub-model labels lines by the templates from which
they were generated. Everything between them is real: the box, the pages, the broker, the quotas and the log. So the
demo shows the machinery, not a model's skill, and the output says so.
"""

from __future__ import annotations

import time
from collections.abc import Set
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import msgspec

from belljar.audit import characters_read, records, verify
from belljar.cli import options
from belljar.cli.delivery import deliver, require_stdout
from belljar.cli.loop import run_async
from belljar.cli.output import emit, say
from belljar.cli.progress import progress, step
from belljar.demo.oolong import DEMO_TASK, Corpus, generate, lines_for_tokens, pair_task, question, score_f1
from belljar.demo.oracle import OracleModel
from belljar.demo.script import root_turns
from belljar.engine import Result
from belljar.identity import BackendName, Language
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
    """What the demo found. `f1` compares with the gold pairs that the generator knows; None where it knows none."""

    question: str
    scripted: bool
    how: str
    lines: int
    characters: int
    f1: float | None
    pairs_found: int
    pairs_gold: int
    share_read: float
    read_share: float
    log_verifies: bool
    prices: str
    result: Result


class _Where(msgspec.Struct, frozen=True, kw_only=True):
    """How the runtime is opened, and for which tenant."""

    policy: str
    state: Path | str | None
    backend: BackendName | None
    language: Language | None
    tenant: str
    quiet: bool


@click.command()
@click.option("--tokens", default=2**20, show_default=True, type=click.IntRange(2**10, 2**24), help="Size of the text.")
@click.option(
    "--model", metavar="NAME", help="A real model (claude-NAME, needs ANTHROPIC_API_KEY) instead of the script."
)
@options.box_options
def demo(tokens: int, model: str | None, as_json: bool, **where: Any) -> int:
    """Run the main job without an API key: a million tokens, a real box, real quotas, a real log."""
    require_stdout()
    quiet, place = where["quiet"], options.place(where["state"]).state
    tell_step = (lambda _: None) if quiet else step
    tell_step(f"generating OOLONG-Pairs, about {tokens} tokens")
    corpus = generate(lines_for_tokens(tokens))
    gold = pair_task(DEMO_TASK).gold(corpus)
    tell_step(f"{len(corpus.labels)} lines, {len(corpus.text)} characters, {len(gold)} pairs to find")
    result = run_async(_run(corpus, model, _Where(**where)))
    report = _report(corpus, gold, result, place)

    def write() -> None:
        emit(report) if as_json else _print(report, where["state"])

    return deliver(result, write, place, quiet=quiet)


async def _run(corpus: Corpus, name: str | None, where: _Where) -> Result:
    root: str | Model = name or ScriptedModel(root_turns(DEMO_TASK), name="scripted:demo", rates=_ROOT_RATES)
    sub: str | Model | None = None if name else OracleModel(name="scripted:oracle")
    prices = Prices({"scripted:oracle": _SUB_RATES, "scripted:demo": _ROOT_RATES})
    chosen: dict[str, Any] = {name: getattr(where, name) for name in ("policy", "state", "backend", "language")}
    quiet, tenant = where.quiet, where.tenant
    async with Runtime(**chosen, config=options.config_file(), prices=prices) as runtime:
        if not quiet:
            step("making the box image, unless it exists")
        await runtime.prepare()
        started = time.monotonic()
        document = await runtime.add_context(corpus.text, name="oolong-pairs", tenant=tenant)
        if not quiet:
            step(f"context {document.sha256[:12]} registered in {(time.monotonic() - started) * 1000:.0f} ms")
        with progress(quiet) as on_progress:
            return await runtime.run(
                question(DEMO_TASK),
                context=corpus.text,
                model=root,
                sub_model=sub,
                tenant=tenant,
                on_progress=on_progress,
            )


def _report(corpus: Corpus, gold: Set[tuple[int, int]], result: Result, state: State) -> Report:
    answer = result.answer if isinstance(result.answer, str) else ""
    read = characters_read(records(state.journal, result.run)) / len(corpus.text)
    return Report(
        question=question(DEMO_TASK),
        scripted=result.scripted,
        how=_SCRIPTED if result.scripted else "a real model",
        lines=len(corpus.labels),
        characters=len(corpus.text),
        f1=score_f1(answer, gold) if gold else None,
        pairs_found=len(answer.splitlines()),
        pairs_gold=len(gold),
        share_read=read,
        read_share=read,
        log_verifies=verify(state.journal).ok,
        prices=_PRICES if result.scripted else "the provider's list",
        result=result,
    )


def _score(f1: float | None) -> str:
    return "no F1: the text is too short to contain a pair; use more --tokens" if f1 is None else f"F1 {f1:.4f}"


def _print(report: Report, state: Path | str | None) -> None:
    result = report.result
    where = f" --state {state}" if state else ""
    rows = [
        ("status", result.status),
        ("models", report.how),
        ("answer", f"{report.pairs_found} pairs, {report.pairs_gold} in the gold, {_score(report.f1)}"),
        ("cost", f"{result.cost_nanousd / NANOUSD_PER_USD:.4f} USD at {report.prices}"),
        ("calls", f"{result.usage.calls} model calls, {result.queries} of them queries by the program"),
        ("tokens", f"{result.usage.input_tokens} in, {result.usage.output_tokens} out"),
        (
            "reads",
            f"{result.reads} reads of {result.read_bytes} bytes; {report.read_share:.1%} of the context was read",
        ),
        ("box", f"{result.wall_s:.2f} s wall, {result.cpu_s:.2f} s CPU, {result.max_rss_bytes / 2**20:.0f} MiB"),
        ("layers", " ".join(result.layers)),
        ("log", "verifies" if report.log_verifies else "DOES NOT VERIFY"),
    ]
    for name, text in rows:
        say(f"{name:<8} {text}")
    say(f"\nbelljar audit show {result.run}{where}\nbelljar audit verify{where}")
