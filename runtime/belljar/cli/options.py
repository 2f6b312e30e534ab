"""Options that several commands share."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from belljar.config import Settings, settings
from belljar.errors import AuditUnavailable, InvalidInput
from belljar.identity import BACKENDS, DEFAULT_TENANT, LANGUAGES

__all__ = [
    "FilePath",
    "age_s",
    "always_json",
    "as_json",
    "box_options",
    "config_file",
    "place",
    "prices",
    "reading",
    "state",
    "user",
]

F = TypeVar("F", bound=Callable[..., Any])


class FilePath(click.Path):
    """A path. An empty one is what a variable gives that is not set, and nobody means the current folder by it."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is empty: name a file or a folder, '.' for the current one", param, ctx)
        return super().convert(value, param, ctx)


class _Place(FilePath):
    """A folder, or the URL of a database, which is no path."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if isinstance(value, str) and "://" in value else super().convert(value, param, ctx)


_AGE: Final = re.compile(r"([0-9]{1,6}) ?(d|h|min)", re.ASCII)
_AGE_S: Final = {"d": 86_400, "h": 3600, "min": 60}
_CONFIG: Final = "belljar.config"
_state = click.option(
    "--state",
    type=_Place(),
    metavar="DIR|URL",
    help="The folder for log, ledger, contexts and images. [default: $BELLJAR_HOME, else the XDG state folder] Or the "
    "URL of a PostgreSQL database for log and ledger. [default, where no folder is named: $BELLJAR_JOURNAL, if set]",
)
_config = click.option(
    "--config",
    type=FilePath(),
    metavar="FILE",
    expose_value=False,
    callback=lambda ctx, _param, value: ctx.meta.update({_CONFIG: value}),
    help="The host's configuration. [default: $BELLJAR_CONFIG, else belljar.toml in the state folder, if it is there]",
)
prices = click.option(
    "--prices",
    type=FilePath(),
    metavar="FILE",
    help="Prices of models that are not on the public list, or for which you pay a different price.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON document.")
# Of what prints nothing else; with it, an error is a document on stdout, too.
always_json = click.option("--json", is_flag=True, expose_value=False, help="Print errors as a JSON document, too.")


def state(command: F) -> F:
    """Where the state is: an argument `state`, and `--config`, which `place` and `config_file` know of."""
    return _state(_config(command))


def config_file() -> Path | None:
    """What `--config` names, in the command that runs."""
    found: Path | None = click.get_current_context().meta.get(_CONFIG)
    return found


def place(state: Path | str | None) -> Settings:
    """Where the state is and who says so, in the command that runs.

    Raises:
        InvalidInput: the configuration is not valid.
        AuditUnavailable: this user cannot even look into the state folder, or the system cannot: its path is too long.
    """
    found = settings(state, config_file(), os.environ)
    try:
        os.stat(found.state.root / "audit.db")
    except (FileNotFoundError, NotADirectoryError):
        pass  # each command says itself what it does without
    except OSError as error:
        raise AuditUnavailable(
            f"the state folder {found.state.root} cannot be looked into ({error.strerror}): correct its permissions, "
            "or name another with --state or BELLJAR_HOME"
        ) from error
    return found


def reading(command: F) -> F:
    """Options for how files become contexts."""
    for option in reversed(
        (
            click.option(
                "--encoding",
                metavar="CODEC",
                help="The files' encoding. [default: UTF-8, or what the byte order mark says]",
            ),
            click.option(
                "--errors",
                type=click.Choice(["strict", "replace", "skip"]),
                default="strict",
                show_default=True,
                help="Bytes that do not decode: refuse, replace with U+FFFD, or skip such files of a folder.",
            ),
            click.option("--jsonl", is_flag=True, help="Read each file as a list: every line is one item in JSON."),
        )
    ):
        command = option(command)
    return command


def box_options(command: F) -> F:
    """Options that `run` and `exec` share."""
    for option in reversed(
        (
            click.option(
                "--policy",
                default="standard",
                show_default=True,
                metavar="NAME|FILE",
                help="The policy: what is allowed, and every limit.",
            ),
            click.option(
                "--backend", type=click.Choice(BACKENDS), help="What boxes are made of. [default: the policy's first]"
            ),
            click.option(
                "--language",
                type=click.Choice(LANGUAGES),
                help="All of Python, or the restricted part. [default: the policy's first]",
            ),
            click.option(
                "--tenant",
                default=DEFAULT_TENANT,
                show_default=True,
                metavar="T",
                help="The tenant to charge, such as acme/research.",
            ),
            click.option("--quiet", is_flag=True, help="Print neither progress nor the last line on stderr."),
            state,
            as_json,
        )
    ):
        command = option(command)
    return command


def age_s(text: str) -> int:
    """Seconds, as a person writes them: 30d, 12h or 45min.

    Raises:
        InvalidInput: `unit.invalid`.
    """
    found = _AGE.fullmatch(text)
    if found is None:
        raise InvalidInput(f"{text[:40]!a} is not a valid age; use one such as 30d, 12h or 45min", code="unit.invalid")
    return int(found[1]) * _AGE_S[found[2]]


def user() -> str:
    """Who runs this command, for the log."""
    uid = os.getuid()
    try:
        return f"user:{pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user:{uid}"
