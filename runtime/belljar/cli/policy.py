"""`belljar policy show|check|schema`."""

from __future__ import annotations

import json

import click
import msgspec

from belljar.cli import options
from belljar.cli.output import emit
from belljar.policy import digest, dump, load, presets, schema

__all__ = ["policy"]


@click.group()
def policy() -> None:
    """Read and check policies."""


@policy.command()
@click.argument("name", default="standard", metavar="NAME|FILE")
@options.as_json
def show(name: str, as_json: bool) -> None:
    """Print a policy with every `extends` applied."""
    loaded = load(name)
    if as_json:
        emit({"digest": digest(loaded), "policy": msgspec.to_builtins(loaded)})
    else:
        click.echo(dump(loaded), nl=False)


@policy.command()
@click.argument("name", metavar="NAME|FILE")
@options.as_json
def check(name: str, as_json: bool) -> None:
    """Check a policy; exit 3 and say where it is wrong if it is."""
    loaded = load(name)
    if as_json:
        emit({"ok": True, "name": loaded.name, "digest": digest(loaded)})
    else:
        click.echo(f"{loaded.name}: ok, digest {digest(loaded)}")


@policy.command("ls")
def ls_() -> None:
    """List the presets."""
    for name in presets():
        click.echo(f"{name:<10} {load(name).description}")


@policy.command("schema")
def schema_() -> None:
    """Print the JSON Schema of the file format, for editors."""
    click.echo(json.dumps(schema(), indent=2))
