"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from belljar.identity import BACKENDS, DEFAULT_TENANT, LANGUAGES

__all__ = ["as_json", "box_options", "prices", "reading", "state"]

F = TypeVar("F", bound=Callable[..., Any])

state = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=True),
    metavar="DIR",
    help="Where ledger, log, contexts and images are kept. [default: $BELLJAR_HOME, else the XDG state folder]",
)
prices = click.option(
    "--prices",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What models cost that are not on the public list, or for you another price.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON document.")


def reading(command: F) -> F:
    """How files become contexts."""
    for option in reversed(
        (
            click.option(
                "--encoding", metavar="CODEC", help="Of the files. [default: UTF-8, or what a byte order mark says]"
            ),
            click.option(
                "--errors",
                type=click.Choice(["strict", "replace", "skip"]),
                default="strict",
                show_default=True,
                help="Bytes that are no text: refuse, replace by U+FFFD, or leave out such files of a folder.",
            ),
            click.option("--jsonl", is_flag=True, help="A file is a list: each of its lines is an item, as JSON."),
        )
    ):
        command = option(command)
    return command


def box_options(command: F) -> F:
    """What `run` and `exec` have in common."""
    for option in reversed(
        (
            click.option(
                "--policy", default="standard", show_default=True, metavar="NAME|FILE", help="What is allowed."
            ),
            click.option(
                "--backend", type=click.Choice(BACKENDS), help="How boxes are built. [default: the policy's first]"
            ),
            click.option("--language", type=click.Choice(LANGUAGES), help="[default: the policy's first]"),
            click.option(
                "--tenant", default=DEFAULT_TENANT, show_default=True, metavar="T", help="Whose quota, as a/b/c."
            ),
            click.option("--quiet", is_flag=True, help="No progress and no last line on stderr."),
            state,
            as_json,
        )
    ):
        command = option(command)
    return command
