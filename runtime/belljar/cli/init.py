"""`belljar init`: a configuration file to start from."""

from __future__ import annotations

import os
from pathlib import Path

import click

from belljar.cli import options
from belljar.cli.output import emit, say
from belljar.config import CONFIG_FILE
from belljar.errors import InvalidInput
from belljar.paths import whole
from belljar.state import State

__all__ = ["TEMPLATE", "init"]

TEMPLATE = """\
# The configuration of a Belljar host. `belljar config check` checks it; docs/configuration.md has all keys.
# What is behind a '#' is how it is without it, or an example.
schema = 1

[state]
# The folder of the state, in a file that is named with --config or $BELLJAR_CONFIG.
# folder = "/var/lib/belljar"
# Log and ledger in PostgreSQL, for several hosts: the URL, or better the variable that has it.
# journal = "postgresql://belljar@db.example.com/belljar"
# journal_env = "BELLJAR_DATABASE"

[service]
# Where `belljar serve` listens. Other than on this machine it needs TLS, or a proxy in front that has it.
# host = "127.0.0.1"
# port = 8765
# tls_cert = "server.crt"
# tls_key = "server.key"
# trusted_proxies = ["10.0.0.0/8"]
# allowed_hosts = ["belljar.example.com"]

# How long requests and uploads may be, and an upload may rest.
# body = "8 MiB"
# upload = "64 GiB"
# uploads = "24 h"

# How many runs may wait, of all tenants and of one, and how many there are at once.
# queue = 5000
# queue_per_tenant = 1000
# running = 8

# How long runs may still take when the service is stopped.
# drain = "30 s"

# The models that pages and tools offer, the first as the default; and whether webhooks may lead to private networks.
# models = ["claude-sonnet-5-5"]
# hooks_private = false

# What programs that speak a provider's API may ask for, as the model `rlm/careful`; without any, any model is taken.
# `tenants` are those who may ask for it, and all below them.
# [service.profiles.careful]
# model = "claude-sonnet-5-5"
# sub_model = "claude-haiku-4-5"
# policy = "strict"
# backend = "jail"
# language = "restricted"
# tenants = ["acme"]

[access]
# For how many days an API key is made at most.
# key_days_max = 90

# Whose tokens count, besides keys.
# [access.oidc]
# issuer = "https://login.example.com"
# audience = "belljar"
# jwks_url = "https://login.example.com/keys"
# tenant_claim = "belljar_tenant"
# roles_claim = "roles"
# roles = { "belljar-admins" = "admin" }

[audit]
# Who gets the signed checkpoints of the log.
# witness = "https://witness.example.com/checkpoints"
# How much what runs said may take, of all together; the oldest make room.
# contents_max = "10 GiB"

[telemetry]
# Where a service sends spans of runs; with `contents`, what was said is in them.
# otlp = "http://127.0.0.1:4318"
# contents = false

# What tenants may use. Without a limit, what the policy of a run says counts.
# [tenants.acme]
# cost = "50 USD/day"
# calls = ["1000/hour", "10000/day"]
"""


@click.command()
@click.argument("file", required=False, type=options.FilePath(), metavar="[FILE]")
@options.state
@options.as_json
def init(file: Path | None, state: Path | str | None, as_json: bool) -> None:
    """Write a configuration file with every key explained: FILE, or what --config names, or belljar.toml in the state
    folder.

    A file that is there is never replaced.
    """
    if file is not None and options.config_file() is not None:
        raise InvalidInput("the file is named twice; name it, or give it as --config", code="usage")
    file = file or options.config_file()
    folder = state if isinstance(state, Path) else None
    place = State.at(folder, os.environ).root / CONFIG_FILE if file is None else whole(file)
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with place.open("x", encoding="utf-8") as made:
            made.write(TEMPLATE)
    except FileExistsError:
        raise InvalidInput(f"{place} is there already; change it, or name another file", code="config.exists") from None
    except OSError as error:
        raise InvalidInput(
            f"{place} cannot be written ({error.strerror}); name another file", code="config.unwritable"
        ) from error
    if as_json:
        emit({"file": str(place)})
    else:
        say(f"{place}")
