"""`belljar run` and `belljar exec`."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import click
import msgspec

from belljar.cli import options
from belljar.cli.delivery import as_text, deliver, require_stdout
from belljar.cli.loop import run_async
from belljar.cli.output import complain, emit, show
from belljar.cli.progress import progress
from belljar.cli.trace import tracing
from belljar.context import FileSource
from belljar.engine import Result
from belljar.errors import InvalidInput
from belljar.members import check_names
from belljar.models import Prices
from belljar.runtime import Runtime

__all__ = ["DEFAULT_MODEL", "contexts", "exec_", "in_runtime", "places", "run", "sources"]

_T = TypeVar("_T")
DEFAULT_MODEL = "claude-sonnet-5-5"
_PROGRAM_BYTES_MAX = 4 * 2**20
_SCHEMA_BYTES_MAX = 2**20
# On one line of stderr; --json has all of it.
_PARTIAL_CHARS_MAX = 2000
_STDIN = Path("-")
sources = click.option(
    "--context",
    "sources",
    multiple=True,
    metavar="[NAME=]PATH",
    help="The program's `context`: a text file, a folder, or - for stdin; or @NAME or sha256:DIGEST for one registered "
    "by `belljar context add`. Repeat it with names for more contexts.",
)


@click.command()
@click.argument("question")
@sources
@click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    metavar="NAME",
    help="The root model, which writes the code: claude-NAME (needs ANTHROPIC_API_KEY), openai:NAME, "
    "scripted:FILE or replay:RUN.",
)
@click.option(
    "--trace",
    type=options.FilePath(),
    metavar="FILE",
    help="Write each turn of the root model to FILE as a line of JSON: what it wrote, what ran, what it was shown.",
)
@click.option(
    "--sub-model", metavar="NAME", help="The model that answers the code's queries. [default: the root model]"
)
@click.option(
    "--schema",
    type=options.FilePath(),
    metavar="FILE",
    help="A JSON Schema that the answer has to fit; one that does not goes back to the model.",
)
@options.prices
@options.reading
@options.box_options
def run(
    question: str,
    sources: tuple[str, ...],
    model: str,
    trace: Path | None,
    sub_model: str | None,
    schema: Path | None,
    **rest: Any,
) -> int:
    """Answer QUESTION about a text of any length, with a root model that writes code."""
    answer_type = None if schema is None else _read_schema(schema)

    async def work(runtime: Runtime, on_progress: Any) -> Result:
        with tracing(trace) as on_turn:
            return await answer(runtime, on_progress, on_turn)

    async def answer(runtime: Runtime, on_progress: Any, on_turn: Any) -> Result:
        return await runtime.run(
            question,
            **contexts(runtime, sources, rest),
            model=model,
            sub_model=sub_model,
            tenant=rest["tenant"],
            on_progress=on_progress,
            on_turn=on_turn,
            answer_type=answer_type,
        )

    return _go(work, rest, show_output=False)


@click.command("exec")
@click.argument("program", type=options.FilePath(), metavar="PROGRAM.py")
@sources
@click.option(
    "--sub-model", metavar="NAME", help="The model that answers the program's queries; without one they are refused."
)
@click.option("--model", metavar="NAME", help="The older name of --sub-model; --sub-model takes precedence.")
@options.prices
@options.reading
@options.box_options
def exec_(program: Path, sources: tuple[str, ...], model: str | None, sub_model: str | None, **rest: Any) -> int:
    """Run PROGRAM.py in a box, without a root model. `-` reads it from stdin."""
    code = _read_program(program)

    async def work(runtime: Runtime, on_progress: Any) -> Result:
        return await runtime.execute(
            code,
            **contexts(runtime, sources, rest, piped="program" if program == _STDIN else None),
            sub_model=sub_model or model,
            tenant=rest["tenant"],
            on_progress=on_progress,
        )

    return _go(work, rest, show_output=True)


def contexts(
    runtime: Runtime, sources: tuple[str, ...], rest: dict[str, Any], *, piped: str | None = None
) -> dict[str, Any]:
    """The `context` and `contexts` of a run.

    Args:
        piped: what else the command reads from stdin, if anything.

    Raises:
        InvalidInput: as for `places`; `usage`: stdin is to be two things, and the second would be empty.
    """
    named = places(sources)
    readers = [piped] if piped else []
    readers += [f"context {name}" if name != "context" else name for name, place in named.items() if place == "-"]
    if len(readers) > 1:
        raise InvalidInput(
            f"stdin cannot be both the {readers[0]} and the {readers[1]}: write one of them to a file, and name that",
            code="usage",
        )
    found = {name: _source(runtime, place, rest) for name, place in named.items()}
    return {"context": found.pop("context", None), "contexts": found}


def places(sources: Iterable[str]) -> dict[str, str]:
    """Where each context is, by its name: one without a name is `context`, the others need one.

    Raises:
        InvalidInput: `context.name`: two have the same; `usage`: a path is empty.
    """
    found: dict[str, str] = {}
    for source in sources:
        name, named, place = source.partition("=")
        if not named or os.path.exists(source):  # unlike a Path's, this takes any text
            name, place = "context", source
        if name in found:
            raise InvalidInput(
                f"two contexts are called {name}: give each its own name, as in --context contract=FILE",
                code="context.name",
            )
        if not place:  # what a variable gives that is not set: nobody means the current folder by it
            raise InvalidInput(
                f"the path of {name} is empty: name a file or a folder, '.' for the current one",
                code="usage",
            )
        found[name] = place
    return found


def _source(runtime: Runtime, place: str, rest: dict[str, Any]) -> Any:
    if place.startswith(("sha256:", "@")):
        return runtime.registered(place.removeprefix("@"), tenant=rest["tenant"])
    source = sys.stdin.buffer if place == "-" else Path(place)
    return FileSource(source, rest["encoding"], rest["errors"], rest["jsonl"])


async def in_runtime(rest: dict[str, Any], work: Callable[[Runtime], Awaitable[_T]]) -> _T:
    """Do `work` in the runtime that the command's options describe."""
    chosen = {name: rest[name] for name in ("policy", "state", "backend", "language")}
    chosen["config"] = options.config_file()
    chosen["prices"] = Prices.load(rest["prices"]) if rest["prices"] else None
    async with Runtime(**chosen) as runtime:
        return await work(runtime)


def _go(work: Any, rest: dict[str, Any], *, show_output: bool) -> int:
    require_stdout()
    quiet = rest["quiet"]

    async def go() -> Result:
        with progress(quiet) as on_progress:
            return await in_runtime(rest, lambda runtime: work(runtime, on_progress))

    result = run_async(go())

    def write() -> None:
        _print(result, as_json=rest["as_json"], show_output=show_output)

    return deliver(result, write, options.place(rest["state"]).state, quiet=quiet)


def _print(result: Result, *, as_json: bool, show_output: bool) -> None:
    """The answer (and what the program printed) on stdout, or the whole result as JSON."""
    if as_json:
        emit(result)
        return
    if show_output:
        show(result.stdout)
        show(result.stderr, file=sys.stderr)
    if result.given is not None:
        show(f"{as_text(result)}\n")
    if result.unfinished is not None:
        complain("not finished", f"this is what there was of an answer: {str(result.partial)[:_PARTIAL_CHARS_MAX]}")


def _read_program(path: Path) -> str:
    try:
        with _stdin() if path == _STDIN else path.open("rb") as file:
            source = file.read(_PROGRAM_BYTES_MAX + 1)
        if len(source) > _PROGRAM_BYTES_MAX:
            raise InvalidInput(
                f"{path} is over {_PROGRAM_BYTES_MAX} bytes, too long for a program: name the right file",
                code="program.too_long",
            )
        # As Python reads a program: a byte order mark is not part of it.
        return source.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read ({error.strerror}): name a Python file", code="program.unreadable"
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{path} is not UTF-8 (byte {error.start}): convert it first", code="program.encoding"
        ) from error


def _read_schema(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            data = file.read(_SCHEMA_BYTES_MAX + 1)
        document = msgspec.json.decode(data)
        check_names(data)  # half of a schema checks less than its reader thinks
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read ({error.strerror}): name a file with a JSON Schema", code="answer.schema"
        ) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(
            f"{path} is not JSON, or too long for a schema ({str(error)[:200]})", code="answer.schema"
        ) from error
    if not isinstance(document, dict):
        raise InvalidInput(f"{path} is no JSON Schema: write an object", code="answer.schema")
    return document


def _stdin() -> BinaryIO:
    """Stdin as a file; closing it does not close the descriptor."""
    return open(0, "rb", closefd=False)
