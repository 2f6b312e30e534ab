"""`belljar policy show|check|schema`."""

from __future__ import annotations

import json

import click
import msgspec

from belljar.cli import options
from belljar.cli.output import emit, say
from belljar.cli.output import show as show_text
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
        show_text(dump(loaded))


@policy.command()
@click.argument("name", metavar="NAME|FILE")
@options.as_json
def check(name: str, as_json: bool) -> None:
    """Check a policy. If it is wrong, say where and exit with 3."""
    loaded = load(name)
    if as_json:
        emit({"ok": True, "name": loaded.name, "digest": digest(loaded)})
    else:
        say(f"{loaded.name}: ok, digest {digest(loaded)}")


@policy.command("ls")
@options.as_json
def ls_(as_json: bool) -> None:
    """List the presets."""
    if as_json:
        loaded = {name: load(name) for name in presets()}
        emit(
            {
                "policies": [
                    {"name": name, "digest": digest(one), "description": one.description}
                    for name, one in loaded.items()
                ]
            }
        )
        return
    for name in presets():
        say(f"{name:<10} {load(name).description}")


@policy.command("schema")
@click.option("--json", "as_json", is_flag=True, help="Accepted, but has no effect: the schema is always JSON.")
def schema_(as_json: bool) -> None:
    """Print the JSON Schema of the file format, for editors."""
    say(json.dumps(schema(), indent=2))
