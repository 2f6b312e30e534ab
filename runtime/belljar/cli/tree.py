"""A run's trajectory as lines for a terminal: question, turns, cells, steps, children, and the verdict last.

Almost every text in it was written by somebody who may want to deceive whoever reads it. So a text is never at the
beginning of a line: each of its lines, also one that was wrapped, stands behind a bar and further in than what we say.
Control characters and bidirectional overrides are shown as escapes, and no line is wider than the terminal.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby, islice
from typing import assert_never

from belljar.audit.coverage import Document
from belljar.audit.export.words import end_of, origin_of
from belljar.audit.trajectory import (
    Absent,
    Answer,
    Canary,
    Cell,
    Child,
    Contents,
    Limit,
    Query,
    Read,
    Refused,
    Run,
    Search,
    Shown,
    Spent,
    Step,
    Text,
    Turn,
)
from belljar.cli.output import counted, printable
from belljar.spans import Spans
from belljar.units import format_money

__all__ = ["bar", "lines"]

_LINES_MAX = 12  # of a text
_STEPS_MAX = 40  # of a cell
_TEXT_COLUMNS_MIN = 20
_BAR_COLUMNS_MAX = 60
_INDENT = "  "
_WELL = ("ok", "answered")


def lines(run: Run, contents: Contents | None, *, width: int, full: bool = False) -> Iterator[str]:
    """The tree, line by line, each at most `width` columns where it can be. `full` cuts nothing."""
    return _Shown(contents, width, full).run(run, "")


def bar(read: Spans, shown: Spans, chars: int, columns: int) -> str:
    """A document at a glance, a character for each share: `.` never read, `-` in part, `=` all of it; of what models
    saw `+` is a part, and `#` all."""
    columns = max(1, min(columns, chars))
    edges = [chars * column // columns for column in range(columns + 1)]
    was_read, was_shown = _shares(read, edges), _shares(shown, edges)
    return "".join(
        "#" if shown_share == 1 else "+" if shown_share else "=" if read_share == 1 else "-" if read_share else "."
        for read_share, shown_share in zip(was_read, was_shown, strict=True)
    )


def _shares(spans: Spans, edges: list[int]) -> list[float]:
    """How much of each piece between two edges is covered: 0 is nothing, 1 is all."""
    return [
        part / (stop - start) if stop > start else 0.0
        for part, start, stop in zip(spans.covered_between(edges), edges, edges[1:], strict=False)
    ]


class _Shown:
    """How all of one tree is shown."""

    def __init__(self, contents: Contents | None, width: int, full: bool) -> None:
        self._contents = contents
        self._width = width
        self._full = full

    def run(self, run: Run, indent: str) -> Iterator[str]:
        under = [run.policy and f"policy {run.policy}", run.backend, run.language]
        yield indent + _words("run", run.run, run.tenant, *under)
        inner = indent + _INDENT
        if (origin := origin_of(run)) is not None:
            yield inner + _words(origin)
        models = [f"root model {run.root_model}" if run.root_model else None]
        models.append(f"sub-model {run.sub_model}" if run.sub_model else None)
        if any(models):
            yield inner + _words(*models, "scripted" if run.scripted else None)
        if run.started_ns is not None:
            below = sum(1 for _ in run.below()) - 1
            yield inner + _words(
                f"began {datetime.fromtimestamp(run.started_ns / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC",
                _took(run.started_ns, run.ended_ns),
                _spent(run.total),
                f"of it {format_money(run.total.cost_nanousd - run.own.cost_nanousd)} in {counted(below, 'run')} below"
                if below
                else None,
            )
        if run.question is not None:
            yield from self._text("question", run.question, inner)
        for document in run.documents:
            yield from self._document(document, inner)
        for turn in run.turns:
            yield from self._turn(turn, run, inner)
        yield from self._steps(run.outside, run, inner)
        yield from self._verdict(run, inner)

    def _document(self, document: Document, indent: str) -> Iterator[str]:
        part = document.part
        unit = "items" if document.of_items else "characters"
        yield indent + _words(
            f'context "{document.name}"',
            document.kind,
            f"{document.chars} characters",
            f"given {unit} {part[0]}-{part[1]}" if part is not None else None,
            f"read {_percent(document.read, document.chars)}",
            f"shown {_percent(document.shown, document.chars)}",
        )
        if document.chars:
            yield f"{indent}{_INDENT}[{self._bar(document.read, document.shown, document.chars, indent)}]"

    def _bar(self, read: Spans, shown: Spans, chars: int, indent: str) -> str:
        return bar(read, shown, chars, min(_BAR_COLUMNS_MAX, self._width - len(indent) - len(_INDENT) - 2))

    def _turn(self, turn: Turn, run: Run, indent: str) -> Iterator[str]:
        inner = indent
        if turn.number:
            inner = indent + _INDENT
            yield f"{indent}turn {turn.number}"
        for query in turn.queries:
            yield from self._query(query, inner)
        for cell in turn.cells:
            yield from self._cell(cell, run, inner)

    def _cell(self, cell: Cell, run: Run, indent: str) -> Iterator[str]:
        status = end_of(cell)[0] or "no end"
        yield indent + _words(f"cell {cell.number}", status, _took(cell.started_ns, cell.ended_ns))
        inner = indent + _INDENT
        yield from self._text("code", cell.code, inner)
        yield from self._steps(cell.steps, run, inner)
        # It has the traceback, too.
        if cell.output is not None and (cell.output.size_bytes or status not in _WELL):
            yield from self._some("output", cell.output, inner)

    def _steps(self, steps: list[Step], run: Run, indent: str) -> Iterator[str]:
        documents = {document.number: document for document in run.documents}
        groups = _grouped(steps)
        for group in groups if self._full else islice(groups, _STEPS_MAX):
            first = group[0]
            if isinstance(first, Read | Shown):
                yield from self._ranges(group, documents.get(first.doc), indent)
            else:
                yield from self._step(first, documents, indent)
        if left := sum(1 for _ in groups):
            yield f"{indent}... and {left} more; --full shows them"

    def _ranges(self, group: list[Step], document: Document | None, indent: str) -> Iterator[str]:
        """What was read, or shown, one after the other, of one document."""
        spans, ranges = Spans(), [one for step in group if isinstance(step, Read | Shown) for one in step.spans]
        for start, stop in ranges:
            spans.add(start, stop)
        first = group[0]
        assert isinstance(first, Read | Shown)
        reads = sum(step.reads for step in group if isinstance(step, Read))
        what = f"read {counted(reads, 'time')}" if reads else "shown to a model"
        name = f'"{document.name}"' if document is not None else f"document {first.doc}"
        at = f"{ranges[0][0]}-{ranges[0][1]}" if len(ranges) == 1 else counted(len(ranges), "range")
        yield indent + _words(what, name, counted(spans.covered, "character"), at)
        if document is not None and document.chars:
            nothing = Spans()
            read, shown = (spans, nothing) if reads else (nothing, spans)
            yield f"{indent}{_INDENT}[{self._bar(read, shown, document.chars, indent)}]"
        if self._full:
            for step in group:
                if isinstance(step, Read) and step.text is not None:
                    yield from self._text("text", step.text, indent + _INDENT)

    def _step(self, step: Step, documents: dict[int, Document], indent: str) -> Iterator[str]:
        match step:
            case Query():
                yield from self._query(step, indent)
            case Search():
                document = documents.get(step.doc)
                name = f'"{document.name}"' if document is not None else f"document {step.doc}"
                within = f"in {step.start}-{step.stop}" if step.start is not None else None
                found = f"{counted(step.count, 'match', 'matches')}" if step.count is not None else None
                yield indent + _words("search", step.mode, name, within, found)
                if self._full and step.text is not None:
                    yield from self._text("found", step.text, indent + _INDENT)
            case Refused():
                times = f"{step.count} times" if step.count is not None else None
                yield indent + _words(f"refused {step.asked}", times, _limit(step.why))
            case Answer():
                void = "void, it does not count" if step.void else None
                yield from self._text("answer", step.text, indent, void)
                if step.output is not None:
                    yield from self._some("output until then", step.output, indent)
            case Canary():
                yield indent + _words(f"canary {step.number} seen", f"in {step.place}")
            case Child():
                yield from self.run(step.run, indent)
            case Read() | Shown():
                raise AssertionError("is shown with its neighbours")
            case _:
                assert_never(step)

    def _query(self, query: Query, indent: str) -> Iterator[str]:
        what = {"root": "root query", "sub": "query", "tool": "tool call"}[query.purpose]
        yield indent + _words(
            what,
            query.action,
            query.model,
            f"attempt {query.attempt}" if query.attempt > 1 else None,
            query.outcome or "no outcome",
            f"answer of {query.origin}" if query.origin is not None else None,
            f"by {query.answered_by}" if query.answered_by not in (None, query.model) else None,
            _spent(query.spent) if query.spent.calls else None,
            _took(query.at_ns, query.ended_ns),
        )
        inner = indent + _INDENT
        if query.denied is not None:
            yield inner + _words(_limit(query.denied))
        if query.error is not None:
            yield from _block(query.error, inner, self._width, None if self._full else _LINES_MAX)
        # A root prompt repeats what was said before.
        if query.purpose != "root" or self._full:
            yield from self._text("arguments" if query.purpose == "tool" else "prompt", query.prompt, inner)
        if query.reply is not None:
            yield from self._text("result" if query.purpose == "tool" else "reply", query.reply, inner)

    def _text(self, what: str, text: Text, indent: str, more: str | None = None) -> Iterator[str]:
        said = text.words(self._contents)
        size = counted(text.size_bytes, "byte") if text.size_bytes is not None else None
        what = f"{what}, {size}" if size is not None else what
        digest = f"sha256 {text.sha256[:12]}" if text.sha256 is not None else None
        if isinstance(said, Absent):
            yield indent + _words(what, digest, said.why, more)
            return
        yield indent + _words(what, more)
        yield from _block(said, indent + _INDENT, self._width, None if self._full else _LINES_MAX)

    def _some(self, what: str, text: Text, indent: str) -> Iterator[str]:
        """As `_text`, but nothing where the text is known to be empty."""
        if text.words(self._contents) != "":
            yield from self._text(what, text, indent)

    def _verdict(self, run: Run, indent: str) -> Iterator[str]:
        end = run.finished
        times: list[str | None] = [None, None, None]
        if end is not None:
            times[0] = f"cpu {_seconds(end.cpu_ms * 1_000_000)}" if end.cpu_ms is not None else None
            times[1] = f"memory {end.max_rss_bytes / 2**20:.0f} MiB" if end.max_rss_bytes is not None else None
            times[2] = counted(end.refused, "refusal") if end.refused else None
        verdict = "refused before it began" if run.refused else run.status or "unfinished"
        yield indent + _words(
            f"verdict: {verdict}",
            _limit(run.limit) if run.limit is not None else None,
            "its host died, or its parent ended" if run.status == "abandoned" else None,
            _took(run.started_ns, run.ended_ns),
            *times,
        )
        if run.misfits:
            yield f"{indent}{counted(run.misfits, 'record')} fit nowhere: verify the log"


def _grouped(steps: Iterable[Step]) -> Iterator[list[Step]]:
    """Reads that follow each other, of the same document, are one; and so is what was shown."""

    def key(step: Step) -> object:
        return (type(step), step.doc) if isinstance(step, Read | Shown) else step.seq

    return (list(group) for _, group in groupby(steps, key))


def _block(text: str, indent: str, width: int, lines_max: int | None) -> Iterator[str]:
    """A text behind a bar, wrapped, and cut with a word on how much is left."""
    room = max(_TEXT_COLUMNS_MIN, width - len(indent) - 2)
    shown = 0
    for number, (line, used) in enumerate(_wrapped(text, room)):
        if number == lines_max:
            yield f"{indent}... {counted(len(text) - shown, 'more character')}; --full shows them"
            return
        shown = used
        yield f"{indent}| {line}"


def _wrapped(text: str, room: int) -> Iterator[tuple[str, int]]:
    """Its lines, each at most `room` columns wide, and how many characters of the text are used up by then."""
    at = 0
    while at < len(text):
        # No line takes more characters than it has columns. A combining character has none: it is given one.
        end = text.find("\n", at, at + room + 1)
        piece = text[at : end if end >= 0 else at + room]
        line, taken = _fitted(piece, room)
        at += taken
        if taken == len(piece) and at < len(text) and text[at] == "\n":
            at += 1
        yield line, at


def _fitted(piece: str, room: int) -> tuple[str, int]:
    """As much of it as `room` columns hold, with what could steer the terminal shown as escapes."""
    if piece.isascii() and piece.isprintable():
        return piece, len(piece)
    found: list[str] = []
    columns = 0
    for taken, char in enumerate(piece):
        seen = "    " if char == "\t" else printable(char)
        wide = len(seen) + (len(seen) == 1 and unicodedata.east_asian_width(seen) in "WF")
        if columns + wide > room and taken:
            return "".join(found), taken
        found.append(seen)
        columns += wide
    return "".join(found), len(piece)


def _words(*parts: str | None) -> str:
    """One line of ours. What is in it of others cannot begin a line of its own."""
    return printable("  ".join(part for part in parts if part), but="")


def _limit(limit: Limit) -> str:
    names = ("limit", "observed", "scope", "period", "used", "held")
    said = [limit.code, *(f"{name} {value}" for name in names if (value := getattr(limit, name)) is not None)]
    if limit.waited_ms is not None:
        said.append(f"waited {limit.waited_ms} ms")
    return ", ".join(said)


def _spent(spent: Spent) -> str:
    return (
        f"{counted(spent.calls, 'call')}  {spent.input_tokens} + {spent.output_tokens} tokens  "
        f"{format_money(spent.cost_nanousd)}"
    )


def _took(start_ns: int | None, stop_ns: int | None) -> str | None:
    if start_ns is None or stop_ns is None:
        return None
    return _seconds(max(0, stop_ns - start_ns))


def _seconds(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e9:.3f} s"


def _percent(spans: Spans, whole: int) -> str:
    """Rounded down: 100.0 % is all of it."""
    return f"{spans.covered * 1000 // whole / 10 if whole else 0.0:.1f} %"
