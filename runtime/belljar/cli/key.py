"""`belljar key make|ls|rotate|revoke`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

import click

from belljar.access import ROLES, AccessSettings, ApiKeys, KeyInfo, Role
from belljar.access.reading import kept_keys, open_keys
from belljar.access.roles import HOST_ROLES
from belljar.cli import options
from belljar.cli.delivery import require_stdout
from belljar.cli.loop import run_async
from belljar.cli.output import emit, printable, say, tell
from belljar.identity import Tenant

__all__ = ["key"]

_T = TypeVar("_T")
_CLOSED: Final = "the keys are either all as they were or all as you said: `belljar key ls` tells"
_DAYS_MAX: Final = 36_500


@click.group()
def key() -> None:
    """Make, list, replace and revoke the keys with which a service is asked."""


@key.command()
@click.argument("tenant", required=False)
@click.option("--role", type=click.Choice(ROLES), required=True, help="What it may do.")
@click.option("--host", "whole_host", is_flag=True, help="It acts on every tenant.")
@click.option("--label", default="", metavar="TEXT", help="What it is for, for people.")
@click.option("--days", type=click.IntRange(1, _DAYS_MAX), metavar="N", help="It expires after so many days.")
@options.state
@options.as_json
def make(
    tenant: str | None,
    role: Role,
    whole_host: bool,
    label: str,
    days: int | None,
    state: Path | str | None,
    as_json: bool,
) -> None:
    """Make a key that acts on TENANT and all below it, and print it. It is shown this once.

    The roles `admin` and `operator` are of the whole host and take no TENANT; for others, --host says so.
    """
    if tenant is None and not whole_host and role not in HOST_ROLES:
        raise click.UsageError(f"name the TENANT of this {role}, or every tenant with --host")
    if tenant is not None and whole_host:
        raise click.UsageError("either name a TENANT or say --host, not both")
    level = None if tenant is None else Tenant(tenant)
    until = None if days is None else datetime.now(UTC) + timedelta(days=days)
    require_stdout()
    info, text = _change(state, lambda keys: keys.make(level, role, label=label, until=until, by=options.user()))
    _print_new(info, text, as_json=as_json)


@key.command()
@click.argument("tenant", required=False)
@options.state
@options.as_json
def ls(tenant: str | None, state: Path | str | None, as_json: bool) -> None:
    """List the keys of TENANT and all below it, or all; those that have ended, too."""
    found = kept_keys(options.place(state).state.journal, None if tenant is None else Tenant(tenant))
    if as_json:
        emit({"keys": found})
        return
    for one in found:
        say(_line(one))
    if not found:
        say("there are no keys: `belljar key make` makes one")


@key.command()
@click.argument("key_id", metavar="ID")
@click.option("--overlap", metavar="AGE", help="The old one is still taken for so long, such as 45min, 12h or 30d.")
@options.state
@options.as_json
def rotate(key_id: str, overlap: str | None, state: Path | str | None, as_json: bool) -> None:
    """Replace the key ID by a new one, which may do the same and lives as long, and print that."""
    overlap_s = 0 if overlap is None else options.age_s(overlap)
    require_stdout()
    info, text = _change(state, lambda keys: keys.rotate(key_id, by=options.user(), overlap_s=overlap_s))
    _print_new(info, text, as_json=as_json)


@key.command()
@click.argument("key_id", metavar="ID")
@options.state
@options.as_json
def revoke(key_id: str, state: Path | str | None, as_json: bool) -> None:
    """End the key ID now. A service feels it within seconds."""
    info = _change(state, lambda keys: keys.revoke(key_id, by=options.user()))
    if as_json:
        emit({"key": info})
    else:
        say(_line(info))


# -- doing -------------------------------------------------------------------------------------------------------------


def _change(state: Path | str | None, change: Callable[[ApiKeys], Awaitable[_T]]) -> _T:
    where = options.place(state)
    access = (where.config.access if where.config is not None else None) or AccessSettings()

    async def go() -> _T:
        where.state.create()
        async with open_keys(where.state.journal, access) as keys:
            return await change(keys)

    return run_async(go(), closed=_CLOSED)


# -- printing ----------------------------------------------------------------------------------------------------------


def _print_new(info: KeyInfo, text: str, *, as_json: bool) -> None:
    """The text alone is what a shell takes: `KEY=$(belljar key make ...)`."""
    if as_json:
        emit({"key": info, "secret": text})
        return
    say(text)
    tell(f"keep the key, nobody can print it again. Listed as: {_line(info)}")


def _line(one: KeyInfo) -> str:
    ends = one.ends_at or one.until
    parts = [
        one.id,
        f"{one.state:<7}",
        f"{one.role:<12}",
        one.tenant or "(the host)",
        "never used" if one.used_at is None else f"used {one.used_at:%Y-%m-%d %H:%M}",
        "no end" if ends is None else f"until {ends:%Y-%m-%d %H:%M} UTC",
    ]
    return printable("  ".join([*parts, one.label] if one.label else parts))
