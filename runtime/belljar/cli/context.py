"""`belljar context add|ls|rm|gc`."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import click
import msgspec

from belljar.cli import options
from belljar.cli.output import emit, live, printable, say, tell
from belljar.context import ContextStore, ContextStores, Document, LeftOut, OnProgress
from belljar.errors import InvalidInput
from belljar.identity import DEFAULT_TENANT, Tenant
from belljar.quotas import context_bounds

__all__ = ["context"]

_PLAIN_SECONDS = 2.0

_tenant = click.option(
    "--tenant",
    default=DEFAULT_TENANT,
    show_default=True,
    metavar="T",
    help="The tenant who owns the contexts, such as acme/research.",
)


@click.group()
def context() -> None:
    """Register long texts, so that runs over them start at once."""


@context.command()
@click.argument("paths", type=options.FilePath(), nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--name", metavar="NAME", help="The context's name; only with a single PATH. [default: the last part of PATH]"
)
@_tenant
@options.reading
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@options.state
@options.as_json
def add(
    paths: tuple[Path, ...],
    name: str | None,
    tenant: str,
    encoding: str | None,
    errors: Literal["strict", "replace", "skip"],
    jsonl: bool,
    quiet: bool,
    state: Path | str | None,
    as_json: bool,
) -> None:
    """Register each PATH: a file becomes a text, a folder a dict from path to text; - reads stdin.

    Gzipped files are unpacked. Later changes to the files have no effect. If registering a large file is interrupted,
    run the command again: it continues where it stopped.
    """
    if name is not None and len(paths) > 1:
        raise InvalidInput("--name works with a single PATH only; add the others separately", code="context.name")
    store = _store(state, tenant, create=True)
    added = []
    for path in paths:
        left_out: list[LeftOut] = []
        piped = str(path) == "-"
        with _progress(path.name or str(path), quiet) as on_progress:
            document = store.add(
                sys.stdin.buffer if piped else path,
                name="stdin" if piped and name is None else name,
                encoding=encoding,
                errors=errors,
                json_lines=jsonl,
                now_ns=time.time_ns(),
                on_progress=on_progress,
                on_left_out=left_out.append,
            )
        added.append({**msgspec.to_builtins(document), "left_out": msgspec.to_builtins(left_out)})
        if not as_json:
            _show(document)
            _complain(left_out)
    if as_json:
        emit({"contexts": added})


@context.command()
@_tenant
@options.state
@options.as_json
def ls(tenant: str, state: Path | str | None, as_json: bool) -> None:
    """List the registered contexts, oldest first."""
    store = _store(state, tenant)
    documents = store.ls()
    if as_json:
        emit({"contexts": [{**msgspec.to_builtins(one), "names": store.names(one.sha256)} for one in documents]})
        return
    for document in documents:
        _show(document, store.names(document.sha256))


@context.command()
@click.argument("refs", nargs=-1, required=True, metavar="REF...")
@_tenant
@options.state
@options.as_json
def rm(refs: tuple[str, ...], tenant: str, state: Path | str | None, as_json: bool) -> None:
    """Remove contexts, by name (`log` or `@log`) or by digest (at least its first 12 digits).

    A name removes that name, and with the last name the text. A digest removes the text and all its names. A context
    that a run has open is never removed.
    """
    store = _store(state, tenant)
    removed = []
    for ref in refs:
        document = store.rm(ref.removeprefix("@"))
        removed.append({**msgspec.to_builtins(document), "names_left": store.names(document.sha256)})
    if as_json:
        emit({"removed": removed})
        return
    for one in removed:
        left = ", ".join(map(_shown, one["names_left"]))
        say(f"{one['sha256']}  {_shown(one['name'])}" + (f"  (the text stays, as {left})" if left else ""))


@context.command()
@click.option(
    "--older-than", required=True, metavar="AGE", help="Remove those unused for this long, such as 30d, 12h or 45min."
)
@click.option(
    "--tenant", metavar="T", help="The tenant whose contexts to remove, such as acme/research. [default: all tenants]"
)
@options.state
@options.as_json
def gc(older_than: str, tenant: str | None, state: Path | str | None, as_json: bool) -> None:
    """Remove contexts that have not been used for some time. A context that a run has open is never removed."""
    age_ns = options.age_s(older_than) * 10**9
    stores = ContextStores(options.place(state).state.contexts)
    removed: list[Document] = []
    in_use = 0
    for whose in stores.tenants() if tenant is None else [Tenant(tenant)]:
        swept = stores.of(whose).gc(age_ns, now_ns=time.time_ns())
        removed += swept.removed
        in_use += swept.in_use
    stores.sweep_lent()
    if as_json:
        emit({"removed": removed, "in_use": in_use})
        return
    for document in removed:
        say(f"{document.sha256}  {_shown(document.name)}")


def _store(state: Path | str | None, tenant: str, *, create: bool = False) -> ContextStore:
    place = options.place(state).state
    if create:
        place.create()
    return ContextStores(place.contexts, functools.partial(context_bounds, place.journal)).of(Tenant(tenant))


def _show(document: Document, names: list[str] | None = None) -> None:
    size = f"{document.chars:>14} characters" + (
        f" in {document.items} item{'s'[: document.items != 1]}" if document.items else ""
    )
    say(f"{document.sha256}  {document.kind:<4}  {size}  {', '.join(map(_shown, names or [document.name]))}")


def _shown(name: str) -> str:
    """A name may come from somebody else's file: a line end in it would forge a row, also for a script."""
    return printable(name, but="")


def _complain(left_out: list[LeftOut]) -> None:
    for one in left_out:
        tell(f"left out: {one.path!r}: {one.why}")


@contextlib.contextmanager
def _progress(label: str, quiet: bool) -> Iterator[OnProgress | None]:
    """A bar on a terminal, an occasional line elsewhere."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        from rich import progress as show
        from rich.console import Console

        label_column = show.TextColumn("{task.description}", markup=False)
        columns = (show.BarColumn(), show.DownloadColumn(), show.TransferSpeedColumn(), show.TimeRemainingColumn())
        console = Console(file=live(), highlight=False)
        with show.Progress(label_column, *columns, console=console, transient=True) as bar:
            task = bar.add_task(ascii(label)[1:-1], total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        yield _plain(ascii(label)[1:-1])


def _plain(label: str) -> Callable[[int, int], None]:
    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > _PLAIN_SECONDS:
            last = time.monotonic()
            print(f"{label}: {done / 1e6:.0f} of {total / 1e6:.0f} MB", file=sys.stderr)

    return show
