"""`belljar audit export`: which format is made of what, and where it goes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from belljar import __version__
from belljar.audit import Log, Record, verify
from belljar.audit.export.atif import atif
from belljar.audit.export.jsonl import jsonl
from belljar.audit.export.otel import otel, send
from belljar.audit.export.rlm import rlm
from belljar.audit.export.view import Badge
from belljar.audit.trajectory import Contents, Run, trajectory
from belljar.cli.files import write_private
from belljar.cli.output import tell
from belljar.keys import Keys

__all__ = ["deliver", "exported"]

_HEAD_CHARS: Final = 16


def exported(
    log: Log, found: Iterator[Record], form: str, contents: Contents, keys: Keys, *, content: bool = False
) -> Iterator[bytes]:
    """A run and those below it, of which these are the records, in one of the formats.

    Records and spans, which others read than those who may read what was said, have that only with `content`.
    """
    if form == "jsonl":
        return jsonl(found, contents if content else None)
    run = trajectory(found)
    assert run is not None
    match form:
        case "atif":
            return atif(run, contents, version=__version__)
        case "rlm":
            return rlm(run, contents)
        case "otel":
            return otel(run, contents if content else None, version=__version__)
        case _:
            return _page(log, run, contents, keys)


def _page(log: Log, run: Run, contents: Contents, keys: Keys) -> Iterator[bytes]:
    from belljar.audit.export.html import html  # the template engine, for those who want a page

    return html(run, contents, badge=_badge(log, run, keys), exported_ns=time.time_ns(), version=__version__)


def _badge(log: Log, run: Run, keys: Keys) -> Badge:
    """What a check of the whole log says now, signatures included."""
    report = verify(log, keys=keys)
    if not report.ok:
        kind = f": {report.tampering[0].kind}" if report.tampering else ""
        detail = f"{len(report.problems):,} problems at the export; the first: {report.problems[0]}"
        return Badge(tone="bad", word=f"The log does not verify{kind}", detail=detail)
    last = max(one.last_seq for one in run.below())
    signed = "All records of this run are signed" if report.signed >= last else "Not all records of this run are signed"
    detail = f"Each of the log's {report.records:,} records, its hash and its place were right at the export."
    return Badge(tone="good", word="The log verifies", detail=f"{detail} {signed}. Head {report.head[:_HEAD_CHARS]}.")


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
        if sys.stdout is not None:
            sys.stdout.flush()
            for piece in pieces:
                sys.stdout.buffer.write(piece)
        return
    write_private(file, pieces)
