"""The records themselves, a line each, byte for byte as they are stored.

Each line's SHA-256 is what the next record of the log names in `prev`, so a line can be held against a receipt.

Where contents are given, a line follows the first record of a run that names one, with what was said, or why that is
not there::

    {"content":"<name>","run":"r1","text":"..."}                          or "prompt" or "output", as an object
    {"content":"<name>","run":"r1","absent":"content.erased","why":"..."}

No record has a key `content` of its own; so whoever wants the records alone leaves these lines out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from belljar.audit.events import AnswerGiven, CellFinished, Event, QueryRequested, QueryReused
from belljar.audit.export.encoding import document
from belljar.audit.read import Record
from belljar.audit.trajectory import Absent, Contents, Kind, Text

__all__ = ["jsonl"]

_NAMES = ("question", "setup", "content", "output", "reply")


def jsonl(records: Iterable[Record], contents: Contents | None = None) -> Iterator[bytes]:
    """A line for each record; with `contents`, one for each content that it is the first of its run to name."""
    told: set[tuple[str, str]] = set()
    for record in records:
        yield record.body + b"\n"
        if contents is None:
            continue
        for name, kind in _named(record.typed):
            if (record.run, name) not in told:
                told.add((record.run, name))
                yield _line(Text(record.run, None, None, name, kind), contents)


def _named(event: Event) -> Iterator[tuple[str, Kind]]:
    """The contents that a record names, or words for why there are none, and what each is."""
    for field in _NAMES:
        name: str | None = getattr(event, field, None)
        if name is not None:
            yield name, _kind(event, field)


def _kind(event: Event, field: str) -> Kind:
    if field == "content" and isinstance(event, QueryRequested | QueryReused):
        return "prompt"
    is_output = isinstance(event, CellFinished) or (isinstance(event, AnswerGiven) and field == "output")
    return "output" if is_output else "text"


def _line(text: Text, contents: Contents) -> bytes:
    said = text.read(contents)
    found = {"content": text.content, "run": text.run}
    if isinstance(said, Absent):
        return document(found | {"absent": said.code, "why": said.why})
    return document(found | {text.kind: msgspec.to_builtins(said)})
