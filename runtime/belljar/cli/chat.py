"""`belljar chat`: a session's questions, one on each line of stdin.

Stdin is read by the event loop, never by a thread that could not be stopped. Ctrl-C belongs to the question: it is
cancelled, and the session waits for the next one; while none is under way, it does nothing. Every other signal, and the
end of the input, end the session.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import click

from belljar.cli import options
from belljar.cli.delivery import as_text, keep, require_stdout
from belljar.cli.lines import Lines
from belljar.cli.loop import run_async
from belljar.cli.output import EXIT_OUTPUT, OutputFailed, complain, exit_code, show, tell
from belljar.cli.run import DEFAULT_MODEL, contexts, in_runtime
from belljar.cli.run import sources as sources_option
from belljar.engine import AskResult
from belljar.errors import InvalidInput
from belljar.runtime import Runtime
from belljar.sessions import Session
from belljar.units import NANOUSD_PER_USD

__all__ = ["chat"]

_LINE_BYTES_MAX: Final = 1 << 20


@click.command()
@sources_option
@click.option(
    "--model", default=DEFAULT_MODEL, show_default=True, metavar="NAME", help="The root model, which writes the code."
)
@click.option(
    "--sub-model", metavar="NAME", help="The model that answers the code's queries. [default: the root model]"
)
@options.prices
@options.reading
@options.box_options
def chat(sources: tuple[str, ...], model: str, sub_model: str | None, **rest: Any) -> int:
    """Answer questions about a text of any length, one on each line of stdin, until it ends."""
    require_stdout()
    if rest["as_json"]:
        raise InvalidInput("chat has no JSON document: use `belljar run --json`", code="usage")

    async def work(runtime: Runtime) -> int:
        about = contexts(runtime, sources, rest, piped="questions")
        opened = runtime.session(**about, root_model=model, sub_model=sub_model, tenant=rest["tenant"])
        async with opened as session:
            lost = await _converse(session, quiet=rest["quiet"])
        assert session.result is not None, "the session is closed"
        if lost is None:
            return exit_code(session.result)
        keep(f"{session.result.run}-answer", *lost, options.place(rest["state"]).state, what="the answer")
        return EXIT_OUTPUT

    return run_async(in_runtime(rest, work))


async def _converse(session: Session, *, quiet: bool) -> tuple[AskResult, OutputFailed] | None:
    """Until the end of stdin, or an answer that could not be written, which is returned."""
    too_long = InvalidInput(
        f"a question of over {_LINE_BYTES_MAX} bytes is too long: give the long part with --context",
        code="question.too_long",
    )
    lines = Lines(_LINE_BYTES_MAX, too_long)
    _on_interrupt(lambda: None)
    while True:
        if sys.stdin.isatty() and not quiet:
            show("> ", file=sys.stderr)
        line = await lines.next()
        if line is None:
            return None
        question = line.decode("utf-8", "replace").strip()
        if not question:
            continue
        result = await _ask(session, question)
        if result is None:
            tell("the question was cancelled; the session goes on")
            continue
        try:
            _print(result, quiet=quiet)
        except OutputFailed as failure:
            return result, failure


async def _ask(session: Session, question: str) -> AskResult | None:
    """None if Ctrl-C cancelled it."""
    asking = asyncio.ensure_future(session.ask(question))
    with _interrupting(asking):
        try:
            return await asking
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is not None and caller.cancelling():
                raise
            return None


@contextlib.contextmanager
def _interrupting(asking: asyncio.Future[Any]) -> Iterator[None]:
    """Ctrl-C cancels this, for the length of a block; afterwards it does nothing."""
    loop = asyncio.get_running_loop()
    _on_interrupt(lambda: loop.call_soon_threadsafe(asking.cancel))
    try:
        yield
    finally:
        _on_interrupt(lambda: None)


def _on_interrupt(act: Callable[[], object]) -> None:
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: act())


def _print(result: AskResult, *, quiet: bool) -> None:
    if result.given is not None:
        show(f"{as_text(result)}\n")
    else:
        complain(result.status, result.error.message if result.error else "there is no answer")
    if not quiet:
        cost = result.cost_nanousd / NANOUSD_PER_USD
        tell(f"{result.turns} turns, {result.usage.calls} calls, {cost:.4f} USD, {result.wall_s:.1f} s")
