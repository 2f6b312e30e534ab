"""`belljar context add|ls`."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from belljar.cli import options
from belljar.cli.output import emit
from belljar.context import ContextStore
from belljar.state import State

__all__ = ["context"]


@click.group()
def context() -> None:
    """Register long texts, so that runs over them start at once."""


@context.command()
@click.argument("path", type=click.Path(path_type=Path))
@options.state
@options.as_json
def add(path: Path, state: Path | None, as_json: bool) -> None:
    """Register the text file PATH. Later changes of the file do not matter."""
    place = State.at(state, os.environ)
    place.create()
    document = ContextStore(place.contexts).add(path, now_ns=time.time_ns())
    if as_json:
        emit({"context": document})
    else:
        click.echo(f"{document.sha256}  {document.chars} characters  {document.name}")


@context.command()
@options.state
@options.as_json
def ls(state: Path | None, as_json: bool) -> None:
    """List the registered texts, oldest first."""
    documents = ContextStore(State.at(state, os.environ).contexts).ls()
    if as_json:
        emit({"contexts": documents})
        return
    for document in documents:
        click.echo(f"{document.sha256}  {document.chars:>14} characters  {document.name}")
