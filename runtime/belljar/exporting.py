"""A run in one of the formats that others read, with what was said as far as it is kept: for commands and services."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Final, Literal, TypeAlias

from belljar.audit import Log, Record, verify
from belljar.audit.content import open_contents
from belljar.audit.export.view import Badge
from belljar.audit.kept import Kept
from belljar.audit.trajectory import Contents as Said
from belljar.audit.trajectory import Run, trajectory
from belljar.errors import InvalidInput, VerificationFailed
from belljar.identity import TraceParent
from belljar.keys import Keys

__all__ = ["FORMATS", "Format", "badge_of", "exported", "open_kept"]

Format: TypeAlias = Literal["jsonl", "atif", "rlm", "otel", "html"]
FORMATS: Final[tuple[Format, ...]] = ("jsonl", "atif", "rlm", "otel", "html")
_HEAD_CHARS: Final = 16


def exported(
    log: Log,
    found: Iterator[Record],
    form: Format,
    contents: Said,
    keys: Keys,
    *,
    content: bool = False,
    caller: TraceParent | None = None,
) -> Iterator[bytes]:
    """A run and those below it, of which these are the records, in one of the formats.

    Records and spans, which others read than those who may read what was said, have that only with `content`. Where the
    run's `caller` is known, its spans are below that.

    Raises:
        InvalidInput: `run.not_begun`: there are no records.
    """
    if form == "jsonl":
        from belljar.audit.export.jsonl import jsonl

        return jsonl(found, contents if content else None)
    run = trajectory(found)
    if run is None:
        raise InvalidInput("the log has nothing of this run yet: wait until it has begun", code="run.not_begun")
    match form:
        case "atif":
            from belljar.audit.export.atif import atif

            return atif(run, contents, version=version("belljar"))
        case "rlm":
            from belljar.audit.export.rlm import rlm

            return rlm(run, contents)
        case "otel":
            from belljar.audit.export.otel import otel

            return otel(run, contents if content else None, version=version("belljar"), caller=caller)
        case "html":
            from belljar.audit.export.html import html  # the template engine, for those who want a page

            badge = badge_of(log, run, keys)
            return html(run, contents, badge=badge, exported_ns=time.time_ns(), version=version("belljar"))


def badge_of(log: Log, run: Run, keys: Keys) -> Badge:
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


@contextlib.contextmanager
def open_kept(log: Log, keys: Keys) -> Iterator[Kept]:
    """The contents in a journal, for the length of a block, as `open_contents` has them. What was done to one text does
    not hide the others.

    Raises:
        VerificationFailed: after the block: some were not what was stored.
    """
    with open_contents(log, keys) as contents:
        kept = Kept(contents)
        yield kept
    if kept.damaged:
        count = len(kept.damaged)
        raise VerificationFailed(
            f"what was said is not all what was stored: {count} content{'s'[: count > 1]}, such as {min(kept.damaged)}"
        )
