"""`belljar run` and `belljar exec`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from belljar.cli import options
from belljar.cli.loop import run_async
from belljar.cli.output import emit, exit_code, explain, show
from belljar.cli.progress import progress
from belljar.engine import Result
from belljar.errors import InvalidInput
from belljar.models import Prices
from belljar.runtime import Runtime

__all__ = ["exec_", "print_result", "run"]

DEFAULT_MODEL = "claude-sonnet-5-5"
_PROGRAM_BYTES_MAX = 4 * 2**20
_context = click.option(
    "--context",
    "sources",
    multiple=True,
    metavar="[NAME=]PATH",
    help="A text file or a folder, the program's `context`; again, with names, for more. Or sha256:DIGEST or @NAME, "
    "for one that was registered with `belljar context add`.",
)


@click.command()
@click.argument("question")
@_context
@click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    metavar="NAME",
    help="The root model: claude-NAME (needs ANTHROPIC_API_KEY) or scripted:FILE.",
)
@options.box_options
def run(question: str, sources: tuple[str, ...], model: str, sub_model: str | None, **rest: Any) -> int:
    """Answer QUESTION over a text of any length with a root model that writes code."""

    async def work(runtime: Runtime, on_progress: Any) -> Result:
        return await runtime.run(
            question,
            **_contexts(runtime, sources, rest["tenant"]),
            model=model,
            sub_model=sub_model,
            tenant=rest["tenant"],
            on_progress=on_progress,
        )

    return _go(work, rest, show_output=False)


@click.command("exec")
@click.argument("program", type=click.Path(path_type=Path), metavar="PROGRAM.py")
@_context
@click.option("--model", metavar="NAME", help="Answers the program's queries; without one they are refused.")
@options.box_options
def exec_(program: Path, sources: tuple[str, ...], model: str | None, sub_model: str | None, **rest: Any) -> int:
    """Run PROGRAM.py in a box, no root model."""
    code = _read_program(program)

    async def work(runtime: Runtime, on_progress: Any) -> Result:
        return await runtime.execute(
            code,
            **_contexts(runtime, sources, rest["tenant"]),
            model=sub_model or model,
            tenant=rest["tenant"],
            on_progress=on_progress,
        )

    return _go(work, rest, show_output=True)


def _contexts(runtime: Runtime, sources: tuple[str, ...], tenant: str) -> dict[str, Any]:
    """The `context` and `contexts` of a run: the first without a name is `context`, the others need one."""
    contexts: dict[str, Any] = {}
    for source in sources:
        name, named, place = source.partition("=")
        if not named or Path(source).exists():
            name, place = "context", source
        if name in contexts:
            raise InvalidInput(
                f"there are two contexts called {name}: name them, as in --context contract=FILE", code="context.name"
            )
        contexts[name] = _source(runtime, place, tenant)
    return {"context": contexts.pop("context", None), "contexts": contexts}


def _source(runtime: Runtime, place: str, tenant: str) -> Any:
    if place.startswith(("sha256:", "@")):
        return runtime.registered(place.removeprefix("@"), tenant=tenant)
    return Path(place)


def _go(work: Any, rest: dict[str, Any], *, show_output: bool) -> int:
    async def go() -> Result:
        chosen = {name: rest[name] for name in ("policy", "state", "backend", "language")}
        chosen["prices"] = Prices.load(rest["prices"]) if rest["prices"] else None
        async with Runtime(**chosen) as runtime:
            with progress(rest["quiet"]) as on_progress:
                return await work(runtime, on_progress)  # type: ignore[no-any-return]

    result = run_async(go())
    print_result(result, as_json=rest["as_json"], show_output=show_output)
    return exit_code(result)


def print_result(result: Result, *, as_json: bool, show_output: bool) -> None:
    """The answer (and what the program printed) on stdout, or the whole result as JSON; complaints on stderr."""
    explain(result)
    if as_json:
        emit(result)
        return
    if show_output:
        show(result.stdout)
        show(result.stderr, file=sys.stderr)
    if result.given is not None:
        show(f"{_as_text(result)}\n")


def _as_text(result: Result) -> str:
    """The answer as it is read: a text itself, anything else as JSON, which need not become a value for that."""
    if not isinstance(result.given, msgspec.Raw) or bytes(result.given).lstrip().startswith(b'"'):
        return str(result.answer)
    return msgspec.json.format(bytes(result.given), indent=-1).decode()


def _read_program(path: Path) -> str:
    try:
        with path.open("rb") as file:
            source = file.read(_PROGRAM_BYTES_MAX + 1)
        if len(source) > _PROGRAM_BYTES_MAX:
            raise InvalidInput(
                f"{path} is over {_PROGRAM_BYTES_MAX} bytes: that is no program", code="program.too_long"
            )
        return source.decode("utf-8")
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read ({error.strerror}): name a Python file", code="program.unreadable"
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{path} is not UTF-8 (byte {error.start}): convert it first", code="program.encoding"
        ) from error
