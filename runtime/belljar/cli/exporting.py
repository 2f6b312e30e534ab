"""`belljar audit export`: where it goes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from belljar.audit.export.otel import send
from belljar.cli.files import write_private
from belljar.cli.output import put, tell

__all__ = ["deliver"]


def deliver(pieces: Iterable[bytes], file: Path | None, endpoint: str | None) -> None:
    """To a collector, to a file that only its owner reads, or to stdout.

    Raises:
        InvalidInput: the file cannot be written, or that is no URL of a collector.
        HostFault: the collector did not take it.
    """
    if endpoint is not None:
        tell(f"the collector took all {send(endpoint, pieces)} batches")
        return
    if file is None:
        put(pieces)
    else:
        write_private(file, pieces)
