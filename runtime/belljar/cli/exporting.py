"""`belljar audit export`: where it goes."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from pathlib import Path

from belljar.audit.export.otel import send
from belljar.cli.files import write_private
from belljar.cli.output import is_terminal, printable, put, tell

__all__ = ["deliver"]


def deliver(pieces: Iterable[bytes], file: Path | None, endpoint: str | None) -> None:
    """To a collector, to a file that only its owner reads, or to stdout. No terminal is steered by what programs wrote.

    Raises:
        InvalidInput: the file cannot be written, or that is no URL of a collector.
        HostFault: the collector did not take it.
    """
    if endpoint is not None:
        tell(f"the collector took all {send(endpoint, pieces)} batches")
        return
    if file is not None:
        write_private(file, pieces)
    elif is_terminal():
        for piece in codecs.iterdecode(pieces, "utf-8", "replace"):
            print(printable(piece), end="")
    else:
        put(pieces)
