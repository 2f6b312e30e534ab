"""`belljar serve`: everything that a host does, over HTTP."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from belljar.cli import options
from belljar.cli.loop import run_async
from belljar.cli.output import emit, flush, say, tell
from belljar.config import ServiceTable

__all__ = ["serve"]

_CLOSED = "nothing was under way, and the log is closed"


@click.command()
@click.option("--host", metavar="ADDRESS", help="Where to listen. [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", help="[default: 8765; 0 is any that is free]")
@click.option("--tls-cert", metavar="FILE", help="A certificate with its chain, in PEM.")
@click.option("--tls-key", metavar="FILE", help="Its key, in PEM.")
@click.option("--pool", type=click.IntRange(0, 1000), default=2, show_default=True, help="Unused boxes kept ready.")
@options.state
@options.as_json
def serve(
    host: str | None,
    port: int | None,
    tls_cert: str | None,
    tls_key: str | None,
    pool: int,
    state: Path | str | None,
    as_json: bool,
) -> None:
    """Answer over HTTP until a signal comes: then let runs end, settle, and exit with 0.

    How it listens also says [service] of belljar.toml, and $BELLJAR_SERVICE_PORT and so on. The first time, a key of
    the role `admin` is made and printed; nobody can print it again. docs/service.md has the rest.
    """
    from belljar.host import Host
    from belljar.service.logs import log_to
    from belljar.service.pages import DemoModel
    from belljar.service.parts import parts
    from belljar.service.server import Ready  # the web server, for this command alone
    from belljar.service.server import serve as answer
    from belljar.service.settings import check_bind, read_settings

    found = options.place(state)
    table = ServiceTable() if found.config is None else found.config.service
    folder = Path.cwd() if found.config is None else found.config.file.parent
    settings = read_settings(table, os.environ, folder, host=host, port=port, tls_cert=tls_cert, tls_key=tls_key)
    check_bind(settings)
    log_to(sys.stderr)

    def ready(told: Ready) -> None:
        if as_json:
            emit({"url": told.url, "key": told.key})
        else:
            say(f"listening on {told.url}")
            if told.key is not None:
                say(f"key {told.key}")
                tell("this is the first key, of the role admin: keep it, nobody can print it again")
        flush()

    opened = Host(state=state, config=options.config_file(), pool=pool, models=[DemoModel()])
    access = None if found.config is None else found.config.access
    telemetry = None if found.config is None else found.config.telemetry
    work = answer(opened, settings, by=options.user(), ready=ready, access=access, extras=parts(telemetry))
    run_async(work, closed=_CLOSED)
