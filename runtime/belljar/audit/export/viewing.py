"""From a trajectory to what stands on its page: what is shown, how much of it, and in which words.

A page has a bound whatever the run did: so many runs, cells, queries and refusals, so many characters of text. The
lengths of texts are in the log, so before any is read it is known how much of each fits (`fair_limit`): of a small run
all of it. What is not there is counted where it would have stood.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from belljar.audit.export.strips import strips
from belljar.audit.export.texts import cut_at, fair_limit
from belljar.audit.export.timelines import queries_of, timeline
from belljar.audit.export.view import (
    Badge,
    CellView,
    ChildLink,
    Fact,
    Page,
    QueryView,
    RefusalView,
    Row,
    RunView,
    Text,
    Tone,
    TreeView,
)
from belljar.audit.export.words import end_of, moment, money, numbers, origin_of, printed, size, span, status_of, took
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
    Step,
)
from belljar.audit.trajectory import Text as Kept
from belljar.glyphs import glyphs
from belljar.spans import Spans

__all__ = ["page_of", "tone_of"]

TEXT_CHARS_MAX = 1_200_000
RUNS_MAX = 200
CELLS_MAX = 400
QUERIES_MAX = 1200
QUERIES_OF_CELL_MAX = 300
ROWS_MAX = 30_000
REFUSALS_MAX = 300
REFUSALS_OF_CELL_MAX = 50
CHILDREN_OF_CELL_MAX = 300
GIVEN_OF_CELL_MAX = 50
_TITLE_CHARS_MAX = 160
_WHY_CHARS_MAX = 2000
_RANGES_OF_CELL = 8
_UNKNOWN_CHARS = 20_000
# What the log does not count of what a cell printed: how it failed.
_TRACEBACK_CHARS = 4000

_TONES: dict[str | None, Tone] = {
    "ok": "good",
    "answered": "good",
    "completed": "good",
    "reused": "good",
    "denied": "warn",
    "quota": "warn",
    "killed": "warn",
    "rejected": "warn",
    "unfinished": "none",
    None: "none",
}


def page_of(
    run: Run,
    contents: Contents | None,
    badge: Badge,
    *,
    exported_ns: int,
    version: str,
    window: tuple[int, int] | None = None,
) -> Page:
    """The page of a run and all runs below it.

    Args:
        window: the numbers of the first and the last record of a part: only cells that have something to do with these
            are shown. All, when None.
    """
    return _Builder(run, contents, window).page(badge, exported_ns, version)


class _Budget:
    """How many more of something a page may have."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, wanted: int) -> int:
        given = min(wanted, self.left)
        self.left -= given
        return given


class _Builder:
    def __init__(self, run: Run, contents: Contents | None, window: tuple[int, int] | None) -> None:
        self._first = run
        self._window = window
        self._contents = contents
        self._start = run.started_ns or 0
        self._runs = list(islice(run.below(), RUNS_MAX))
        self._left_out = sum(1 for _ in run.below()) - len(self._runs)
        self._anchors = {one.run: f"r{number}" for number, one in enumerate(self._runs)}
        self._refusals: list[RefusalView] = []
        self._cells, self._queries, self._rows = _Budget(CELLS_MAX), _Budget(QUERIES_MAX), _Budget(ROWS_MAX)
        self._limit = fair_limit(self._lengths(), TEXT_CHARS_MAX)
        self._cut = False

    def page(self, badge: Badge, exported_ns: int, version: str) -> Page:
        run = self._first
        sections = [self._run(one) for one in self._runs]
        answers = [step for step in run.steps() if isinstance(step, Answer) and not step.void]
        texts = [self._text("question", run.question)] if run.question is not None else []
        texts += [self._text("answer", one.text) for one in answers[-1:]]
        return Page(
            run=run.run,
            tenant=run.tenant or "",
            status=status_of(run),
            tone=_tone(run),
            verdict=_limit_words(run.limit),
            badge=badge,
            stats=_stats(run),
            facts=_facts(run),
            texts=texts,
            strips=strips(run),
            timeline=timeline([(one, self._name(one), self._anchors[one.run]) for one in self._runs], _TONES),
            tree=[self._branch(one) for one in self._runs],
            tree_left_out=self._left_out,
            runs=sections,
            refusals=self._refusals[:REFUSALS_MAX],
            refusals_left_out=max(0, len(self._refusals) - REFUSALS_MAX),
            quotas=_quotas(run),
            exported=moment(exported_ns),
            version=version,
            cut=self._cut,
        )

    def _name(self, run: Run) -> str:
        """What a run is called beside the others of its tree: the end of its id."""
        return "root" if run is self._first else run.run.removeprefix(self._first.run)

    def _at(self, time_ns: int) -> str:
        return f"+{took(time_ns - self._start)}"

    # ------------------------------------------------------------------------------------------------------- texts

    def _lengths(self) -> Iterator[int]:
        """Of all texts that will be shown, or a few more."""
        queries = 0
        for run in self._runs:
            yield _length_of(run.question)
            for cell in run.cells():
                yield from (_length_of(cell.code), _length_of(printed(cell)) + _TRACEBACK_CHARS * (cell.status != "ok"))
                yield from (_length_of(step.text) for step in cell.steps if isinstance(step, Answer))
                given = islice(_given(cell.steps), GIVEN_OF_CELL_MAX)
                yield from (sum(stop - start for start, stop in step.spans) for step, _ in given)
            for query in islice(queries_of(run), max(0, QUERIES_MAX - queries)):
                queries += 1
                yield from (_length_of(query.prompt), _length_of(query.reply))

    def _text(self, label: str, kept: Kept) -> Text:
        said = kept.words(self._contents)
        if isinstance(said, Absent):
            return Text(label=label, size=size(kept), digest=kept.sha256 or "", gone=said.why)
        head, left_out, tail = cut_at(said, max(self._limit, _TITLE_CHARS_MAX))
        self._cut = self._cut or left_out > 0
        return Text(
            label=label, size=size(kept), digest=kept.sha256 or "", kept=True, head=head, left_out=left_out, tail=tail
        )

    # -------------------------------------------------------------------------------------------------------- runs

    def _branch(self, run: Run) -> TreeView:
        return TreeView(
            anchor=self._anchors[run.run],
            run=run.run,
            name=self._name(run),
            depth=run.depth,
            status=status_of(run),
            tone=_tone(run),
            cost=money(run.total.cost_nanousd),
            own_cost=money(run.own.cost_nanousd),
            calls=f"{run.total.calls:,}",
            took=took(_length(run)),
        )

    def _run(self, run: Run) -> RunView:
        anchor = self._anchors[run.run]
        pieces = [piece for piece in _pieces(run) if self._is_wanted(piece)]
        shown = pieces[: self._cells.take(len(pieces))]
        cells = [self._cell(run, f"{anchor}c{number}", *piece) for number, piece in enumerate(shown)]
        child = run is not self._first
        return RunView(
            anchor=anchor,
            run=run.run,
            depth=run.depth,
            status=status_of(run),
            tone=_tone(run),
            facts=[*_stats(run), *_facts(run)] if child else [],
            texts=[self._text("question", run.question)] if child and run.question is not None else [],
            cells=cells,
            cells_left_out=len(pieces) - len(shown),
        )

    def _is_wanted(self, piece: _Piece) -> bool:
        if self._window is None:
            return True
        first, last = self._window
        _, asked, cell, steps = piece
        if cell is None:
            return any(first <= step.seq <= last for step in (*asked, *steps))
        # What follows a cell's end is asked for by the next one.
        return cell.seq <= last and (cell.ended_seq is None or cell.ended_seq >= first)

    def _cell(
        self, run: Run, anchor: str, title: str, asked: list[Query], cell: Cell | None, steps: list[Step]
    ) -> CellView:
        queries = [step for step in steps if isinstance(step, Query)]
        shown = queries[: self._queries.take(min(len(queries), QUERIES_OF_CELL_MAX))]
        rest = queries[len(shown) :]
        rows = rest[: self._rows.take(len(rest))]
        reads = [step for step in steps if isinstance(step, Read | Search)]
        children = [step.run for step in steps if isinstance(step, Child)]
        texts = list(self._cell_texts(cell, steps))
        status, ended = (None, None) if cell is None else end_of(cell)
        spent = sum(query.spent.cost_nanousd for query in (*asked, *queries))
        spent += sum(child.total.cost_nanousd for child in children)
        return CellView(
            anchor=anchor,
            number=cell.number if cell is not None else 0,
            title=glyphs(_first_line(texts) or title)[:_TITLE_CHARS_MAX],
            status="–" if cell is None else status or "unfinished",
            tone=_TONES.get(status, "bad"),
            at="" if cell is None else self._at(cell.started_ns),
            took="" if cell is None else took(None if ended is None else ended - cell.started_ns),
            cost=money(spent),
            counts=list(_counts(len(reads), len(queries), len(children))),
            texts=texts,
            reads=list(_reads(run, reads)),
            turns=[self._query(f"{anchor}t{number}", query) for number, query in enumerate(asked)],
            queries=[self._query(f"{anchor}q{number}", query) for number, query in enumerate(shown)],
            more=[self._row(query) for query in rows],
            children=[self._link(child) for child in children[:CHILDREN_OF_CELL_MAX] if child.run in self._anchors],
            refusals=self._refused(anchor, run, cell, [*asked, *steps])[:REFUSALS_OF_CELL_MAX],
            notes=[
                *_canaries(steps),
                *_left_out(len(rest) - len(rows), "queries"),
                *_left_out(sum(1 for _ in _given(steps)) - GIVEN_OF_CELL_MAX, "texts that were read"),
            ],
        )

    def _cell_texts(self, cell: Cell | None, steps: list[Step]) -> Iterator[Text]:
        if cell is not None:
            yield self._text("code", cell.code)
            output = printed(cell)
            if output is not None and output.size_bytes != 0:
                shown = self._text("output", output)
                if shown.head or not shown.kept:  # the log may not say how much it was
                    yield shown
        for step in steps:
            if isinstance(step, Answer):
                yield self._text("answer that does not count" if step.void else "answer", step.text)
        for step, given in islice(_given(steps), GIVEN_OF_CELL_MAX):
            yield self._text("read" if isinstance(step, Read) else "found by a search", given)

    def _link(self, child: Run) -> ChildLink:
        return ChildLink(
            anchor=self._anchors[child.run],
            run=child.run,
            status=status_of(child),
            tone=_tone(child),
            cost=money(child.total.cost_nanousd),
            took=took(_length(child)),
        )

    # ----------------------------------------------------------------------------------------------------- queries

    def _query(self, anchor: str, query: Query) -> QueryView:
        texts = [self._text("arguments" if query.purpose == "tool" else "prompt", query.prompt)]
        if query.reply is not None:
            texts.append(self._text("result" if query.purpose == "tool" else "reply", query.reply))
        return QueryView(
            anchor=anchor,
            name=_action(query),
            kind="root model" if query.purpose == "root" else "tool" if query.purpose == "tool" else "",
            model=query.answered_by or query.model,
            status=status_of(query),
            tone=_query_tone(query),
            tokens=_tokens(query),
            at=self._at(query.at_ns),
            took=took(None if query.ended_ns is None else query.ended_ns - query.at_ns),
            cost=money(query.spent.cost_nanousd),
            why=_why(query),
            facts=list(_query_facts(query)),
            texts=texts,
        )

    def _row(self, query: Query) -> Row:
        duration = took(None if query.ended_ns is None else query.ended_ns - query.at_ns)
        model, why = glyphs(query.answered_by or query.model), glyphs(_why(query)[:_TITLE_CHARS_MAX])
        told = (status_of(query), _query_tone(query), _tokens(query), self._at(query.at_ns), duration)
        return (glyphs(_action(query)), model, *told, money(query.spent.cost_nanousd), why)

    def _refused(self, anchor: str, run: Run, cell: Cell | None, steps: Iterable[Step]) -> list[RefusalView]:
        where = f"{self._name(run)}, cell {cell.number}" if cell is not None else self._name(run)
        found = []
        for step in steps:
            if isinstance(step, Refused):
                asked, why = step.asked if step.count is None else f"{step.asked}, {step.count:,} times", step.why
            elif isinstance(step, Query) and step.denied is not None:
                asked, why = f"query to {step.model}", step.denied
            else:
                continue
            told = {"anchor": anchor, "where": where, "at": self._at(step.at_ns), "asked": asked}
            found.append(RefusalView(**told, code=why.code, numbers=numbers(why)))
        self._refusals += found
        return found


_Piece = tuple[str, list[Query], Cell | None, list[Step]]


def _pieces(run: Run) -> Iterator[_Piece]:
    """What stands as one: a cell, with what the root model was asked before it; a turn without any; and the rest."""
    for turn in run.turns:
        asked = turn.queries
        for cell in turn.cells:
            yield f"code of {size(cell.code)}", asked, cell, cell.steps
            asked = []
        if asked:
            yield f"turn {turn.number}: no code ran", asked, None, []
    if run.outside:
        yield "outside of cells", [], None, run.outside


def _length_of(text: Kept | None) -> int:
    """Of a text whose length the log does not have, about what a turn shows."""
    if text is None:
        return 0
    return _UNKNOWN_CHARS if text.size_bytes is None else text.size_bytes


def _first_line(texts: list[Text]) -> str:
    if not texts or not texts[0].kept:
        return ""
    lines = (line.strip() for line in texts[0].head[: 20 * _TITLE_CHARS_MAX].split("\n"))
    return next((line for line in lines if line), "")


def tone_of(status: str | None) -> Tone:
    """How the status of a run or a cell is to be taken; None is one that has not ended."""
    return _TONES.get(status, "bad")


def _tone(run: Run) -> Tone:
    return tone_of(run.status)


def _query_tone(query: Query) -> Tone:
    return _TONES.get(query.outcome, "bad")


def _length(run: Run) -> int | None:
    return None if run.ended_ns is None or run.started_ns is None else run.ended_ns - run.started_ns


def _limit_words(limit: Limit | None) -> str:
    return "" if limit is None else ", ".join(filter(None, (limit.code, numbers(limit))))


def _action(query: Query) -> str:
    """The end of its name: the beginning is the run's."""
    return query.action.rpartition(".")[2][:20]


def _tokens(query: Query) -> str:
    spent = query.spent
    return f"{spent.input_tokens:,} → {spent.output_tokens:,}" if spent.calls else ""


def _why(query: Query) -> str:
    if query.denied is not None:
        return _limit_words(query.denied)
    return (query.error or "")[:_WHY_CHARS_MAX]


def _query_facts(query: Query) -> Iterator[Fact]:
    yield Fact(label="asked", value=query.model)
    if query.attempt > 1:
        yield Fact(label="attempt", value=str(query.attempt))
    if query.stop_reason is not None:
        yield Fact(label="stopped", value=query.stop_reason)
    if query.origin is not None:
        yield Fact(label=f"answer of ({query.source})", value=query.origin)
    for name in ("cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens"):
        if value := getattr(query, name):
            yield Fact(label=name.replace("_", " "), value=f"{value:,}")


def _counts(reads: int, queries: int, children: int) -> Iterator[str]:
    for count, one, many in ((reads, "read", "reads"), (queries, "query", "queries"), (children, "child", "children")):
        if count:
            yield f"{count:,} {one if count == 1 else many}"


def _canaries(steps: list[Step]) -> Iterator[Fact]:
    for step in steps:
        if isinstance(step, Canary):
            yield Fact(label="canary seen", value=f"number {step.number} of the policy, in {step.place}", tone="bad")


def _left_out(count: int, what: str) -> list[Fact]:
    return [Fact(label="not on this page", value=f"{count:,} more {what}")] if count > 0 else []


def _given(steps: Iterable[Step]) -> Iterator[tuple[Read | Search, Kept]]:
    """What reads and searches gave the program, where that is kept."""
    for step in steps:
        if isinstance(step, Read | Search) and step.text is not None:
            yield step, step.text


def _reads(run: Run, steps: list[Read | Search]) -> Iterator[str]:
    """For each document: how often, how much, and where."""
    names = {document.number: document.name for document in run.documents}
    for doc in dict.fromkeys(step.doc for step in steps):
        same = [step for step in steps if step.doc == doc]
        spans = Spans((start, stop) for step in same for start, stop in step.spans)
        times = sum(step.reads if isinstance(step, Read) else 1 for step in same)
        where = " ".join(span(*one) for one in islice(spans, _RANGES_OF_CELL))
        more = f" and {len(spans) - _RANGES_OF_CELL:,} more" if len(spans) > _RANGES_OF_CELL else ""
        name = names.get(doc, f"document {doc}")
        yield f"{name}: {times:,} times, {spans.covered:,} characters: {where}{more}"


def _stats(run: Run) -> list[Fact]:
    total = run.total
    found = [
        Fact(label="cost", value=money(total.cost_nanousd)),
        Fact(label="time", value=took(_length(run))),
        Fact(label="model calls", value=f"{total.calls:,}"),
        Fact(label="tokens in", value=f"{total.input_tokens:,}"),
        Fact(label="tokens out", value=f"{total.output_tokens:,}"),
    ]
    below = sum(1 for _ in run.below()) - 1
    return [*found, Fact(label="runs below", value=f"{below:,}")] if below else found


def _facts(run: Run) -> list[Fact]:
    """Under which controls it ran; what is not known is left out."""
    known = {
        "tenant": run.tenant,
        "origin": origin_of(run),
        "started": moment(run.started_ns),
        "policy": run.policy,
        "policy digest": run.policy_digest,
        "backend": run.backend,
        "language": run.language,
        "root model": run.root_model,
        "sub-model": run.sub_model,
        "answers written before (scripted)": "yes" if run.scripted else None,
        "layers that hold": ", ".join(run.layers) or None,
        "cost of its own": money(run.own.cost_nanousd) if run.own.cost_nanousd != run.total.cost_nanousd else None,
        **run.facts,
        "records": f"{run.records:,}, from {run.first_seq:,} to {run.last_seq:,}",
        "records that fit nowhere": f"{run.misfits:,}" if run.misfits else None,
    }
    documents = [
        Fact(label="context", value=f"{one.name}: {one.kind}, {one.chars:,} characters") for one in run.documents
    ]
    return [*documents, *(Fact(label=label, value=value) for label, value in known.items() if value is not None)]


def _quotas(run: Run) -> list[Fact]:
    """Whose limits said no, each once with its last numbers, and what the run's end tells."""
    said: dict[tuple[str, str | None, str | None], Limit] = {}
    for one in run.below():
        denied = [query.denied for query in queries_of(one)]
        refused = [step.why for step in one.steps() if isinstance(step, Refused)]
        for why in (*denied, *refused):
            if why is not None and (why.scope is not None or why.code.startswith("quota")):
                said[why.code, why.scope, why.period] = why
    found = [Fact(label=why.code, value=numbers(why) or "refused", tone="warn") for why in said.values()]
    if run.finished is not None:
        for label, value in (("reads", run.finished.reads), ("requests refused", run.finished.refused)):
            if value is not None:
                found.append(Fact(label=label, value=f"{value:,}"))
        for label, value in (("CPU time", run.finished.cpu_ms), ("wall time", run.finished.wall_ms)):
            if value is not None:
                found.append(Fact(label=label, value=took(value * 10**6)))
        if run.finished.max_rss_bytes is not None:
            found.append(Fact(label="memory at most", value=f"{run.finished.max_rss_bytes / 2**20:,.1f} MiB"))
        if run.finished.overage is not None:
            found.append(
                Fact(label="beyond what was held", value=money(run.finished.overage.cost_nanousd), tone="warn")
            )
    return found
