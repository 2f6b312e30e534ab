"""`belljar config check|schema|show`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from belljar.cli import options
from belljar.cli.loop import run_async
from belljar.cli.output import emit, say
from belljar.cli.quota import limit_in_words
from belljar.config import Settings, settings
from belljar.config import schema as schema_of_the_file
from belljar.errors import BelljarError, InvalidInput
from belljar.identity import Tenant
from belljar.journal import shown
from belljar.ledger import LIMITED, PERIODS, Changes, Limits, Period
from belljar.quotas import BY_CONFIG, Quotas, set_by
from belljar.service.settings import check_bind, read_settings
from belljar.units import format_size

__all__ = ["config"]


class _Value(msgspec.Struct, frozen=True):
    """A value in force, and what says so."""

    value: str | None
    origin: str | None


class _Limit(msgspec.Struct, frozen=True, kw_only=True):
    """One limit: what the ledger has (`is_set`: whether anything), what the file says (`in_file`: whether anything).

    `of_a_file` is whether a configuration file has set what the ledger has: another one, if this one does not name it.
    """

    tenant: str
    period: Period
    dimension: str
    is_set: bool
    limit: int | None
    in_file: bool
    file_limit: int | None
    of_a_file: bool

    @property
    def origin(self) -> str:
        if not self.in_file:
            return "another file" if self.of_a_file else "quota set"
        return "the file" if self.is_set and self.limit == self.file_limit else "pending"


@click.group()
def config() -> None:
    """Read and check the host's configuration file."""


@config.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@options.state
@options.as_json
def check(file: Path | None, state: Path | str | None, as_json: bool) -> None:
    """Check FILE, or the file that is in force, as `serve` would here. If it is wrong, say where and exit with 2."""
    found = (options.place(state) if file is None else settings(state, file, os.environ)).config
    if found is None:
        raise InvalidInput(
            "there is no configuration file: name one, or put belljar.toml into the state folder", code="config.missing"
        )
    check_bind(read_settings(found.service, os.environ, found.file.parent))
    if as_json:
        emit({"ok": True, "file": str(found.file), "tenants": len(found.tenants)})
    else:
        say(f"{found.file}: ok, limits of {len(found.tenants)} tenant{'s'[: len(found.tenants) != 1]}")


@config.command()
@click.option("--json", "as_json", is_flag=True, help="Accepted, but has no effect: the schema is always JSON.")
def schema(as_json: bool) -> None:
    """Print the JSON Schema of the file, for editors."""
    say(json.dumps(schema_of_the_file(), indent=2))


@config.command()
@options.state
@options.as_json
def show(state: Path | str | None, as_json: bool) -> None:
    """Show what is in force, and where each value comes from.

    A limit that the file names and the ledger does not have yet is pending: the next host that opens sets it. One that
    the file does not name, but an earlier state of it or another host's file did, stands until somebody clears it.
    """
    found = options.place(state)
    values, limits = _values(found), list(_limits(found))
    if as_json:
        emit({**values, "limits": [_document(limit) for limit in limits]})
        return
    for name, one in values.items():
        say(f"{name:<8}  {one.value or 'none'}{f'  ({one.origin})' if one.origin else ''}")
    for limit in limits:
        say(_line(limit))


def _document(limit: _Limit) -> dict[str, object]:
    fields = msgspec.structs.asdict(limit)
    del fields["of_a_file"]
    return {**fields, "origin": limit.origin}


def _values(found: Settings) -> dict[str, _Value]:
    journal = found.state.journal
    where = {
        "config": None if found.config is None else str(found.config.file),
        "folder": str(found.state.root),
        "journal": shown(journal) if isinstance(journal, str) else str(journal),
    }
    if found.witness is not None:
        where["witness"] = found.witness.shown
    if found.contents_bytes_max is not None:
        where["contents"] = f"at most {format_size(found.contents_bytes_max)}"
    return {name: _Value(value, found.origins.get(name)) for name, value in where.items()}


def _limits(found: Settings) -> Iterator[_Limit]:
    """Every limit that the ledger has or the file names, by tenant."""
    stands = _in_the_ledger(found)
    set_here = _set_by(found)
    wanted: dict[Tenant, Changes] = dict(found.config.tenants) if found.config is not None else {}
    for tenant in sorted({*wanted, *(tenant for tenant, _ in stands)}, key=lambda tenant: tenant.split("/")):
        for period in PERIODS:
            limits, named = stands.get((tenant, period)), wanted.get(tenant, {}).get(period, {})
            for dimension in LIMITED:
                limit = getattr(limits, dimension) if limits is not None else None
                if limit is not None or dimension in named:
                    yield _Limit(
                        tenant=str(tenant),
                        period=period,
                        dimension=dimension,
                        is_set=limits is not None,
                        limit=limit,
                        in_file=dimension in named,
                        file_limit=named.get(dimension),
                        of_a_file=set_here.get((tenant, period, dimension)) == BY_CONFIG,
                    )


def _in_the_ledger(found: Settings) -> dict[tuple[Tenant, Period], Limits]:
    try:
        quotas = run_async(Quotas(found.state.journal, None).show(), closed="nothing was changed")
    except InvalidInput as error:
        if error.code not in ("quota.missing", "audit.missing"):
            raise
        return {}
    return {(Tenant(one.tenant), one.period): one.limits for one in quotas if one.limits is not None}


def _set_by(found: Settings) -> dict[tuple[str, str, str], str]:
    """Who set each limit; nothing where the log cannot be read, which `audit verify` explains."""
    try:
        return set_by(found.state.journal)
    except BelljarError:
        return {}


def _line(limit: _Limit) -> str:
    where = f"limit     {limit.tenant} {'in total' if limit.period == 'total' else f'per {limit.period}'}"
    stands = limit_in_words(limit.dimension, limit.limit)
    if limit.origin != "pending":
        return f"{where}: {stands}  ({limit.origin})"
    stands = stands if limit.is_set else "nothing set"
    return f"{where}: {stands}  (pending: the file says {limit_in_words(limit.dimension, limit.file_limit)})"
