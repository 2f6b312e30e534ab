"""What a run did, as one typed tree: for whoever shows, exports, compares or replays it.

    Run -> Turn   what the root model was asked, what that cost, and the cells that its reply led to
        -> Cell   the code, its output, and in the order of the log what happened meanwhile: its *steps*
        -> Query | Read | Search | Shown | Refused | Answer | Child, and a Child has a Run

One pass over the records builds it. They come as `records_below` has them, run by run, or as they were written, or
while they are written: the tree is whole after each record. A record that fits nowhere is counted (`misfits`) and is
otherwise left out: what is wrong with a log, `verify` says.

Of the log's texts the tree has the names and sizes; `Text.read` fetches one. So it takes memory for the records, not
for what they are about.

Where no root model asks, as in `belljar exec`, a run's cells are in one turn, number 0, without queries. A turn has
several queries where the first ones were refused or failed. A child stands in the cell during which it began.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, Literal, Protocol, assert_never, cast

import msgspec

from belljar.audit.coverage import Coverage, Document, Documents, ranges_of
from belljar.audit.events import (
    AccessChanged,
    AmountsData,
    AnswerGiven,
    AnswerVoid,
    BoxStarted,
    CanarySeen,
    CellFinished,
    CellStarted,
    ContentsErased,
    ContextRead,
    ContextSearched,
    HookChanged,
    HookDelivered,
    HttpRequest,
    KeyChanged,
    LogAccepted,
    LogRead,
    QueryCompleted,
    QueryDenied,
    QueryFailed,
    QueryRequested,
    QueryReused,
    QueryShown,
    QuotaChanged,
    RequestRefused,
    RunAbandoned,
    RunFinished,
    RunStarted,
    ServiceChanged,
)
from belljar.audit.read import Record
from belljar.audit.trees import parent_of
from belljar.errors import Refusal
from belljar.spans import Spans

__all__ = [
    "Absent",
    "Answer",
    "AnswerText",
    "Canary",
    "Cell",
    "Child",
    "Contents",
    "Kind",
    "Limit",
    "Message",
    "Output",
    "Prompt",
    "Query",
    "Read",
    "Refused",
    "Run",
    "Search",
    "Shown",
    "Spent",
    "Step",
    "Text",
    "Trajectory",
    "Turn",
    "plain",
    "trajectory",
]

Ranges = list[tuple[int, int]]
Kind = Literal["text", "prompt", "output"]


class Absent(msgspec.Struct, frozen=True):
    """A text is not there. `code` is that of the refusal, `why` says it to a person."""

    code: str
    why: str


_NOT_KEPT = Absent("content.none", "not kept, as the run's policy says")
_UNREAD = Absent("content.unread", "it was not asked for")


class Message(Protocol):
    """What one side said in a prompt."""

    @property
    def role(self) -> str: ...
    @property
    def text(self) -> str: ...


class Prompt(Protocol):
    """What a model was sent."""

    @property
    def system(self) -> str: ...
    @property
    def messages(self) -> Sequence[Message]: ...


class Output(Protocol):
    """What a cell printed, and how it failed."""

    @property
    def stdout(self) -> str: ...
    @property
    def stderr(self) -> str: ...
    @property
    def traceback(self) -> str: ...
    @property
    def clock(self) -> str | msgspec.UnsetType: ...


class Contents(Protocol):
    """Where the texts are that a log names. A Refusal says that there is no such text, and why."""

    def text(self, run: str, name: str | None) -> str: ...
    def prompt(self, run: str, name: str | None) -> Prompt: ...
    def output(self, run: str, name: str | None) -> Output: ...


class Text:
    """A text that a record names. What it says may be kept beside the log.

    Attributes:
        run: whose it is.
        sha256: of what was said; None where the log has only the size.
        size_bytes: how long it is, or was; None where the log does not say.
        content: under what it is kept; None if it is not.
        kind: what `read` gives of it.
    """

    __slots__ = ("content", "kind", "run", "sha256", "size_bytes")

    def __init__(
        self, run: str, sha256: str | None, size_bytes: int | None, content: str | None, kind: Kind = "text"
    ) -> None:
        self.run = run
        self.sha256 = sha256
        self.size_bytes = size_bytes
        self.content = content
        self.kind: Kind = kind

    def read(self, contents: Contents | None) -> str | Prompt | Output | Absent:
        """What was said, or why that is not there.

        Raises:
            VerificationFailed: what is stored is not what was stored.
            AuditUnavailable: it cannot be read.
        """
        if self.content is None:
            return _NOT_KEPT
        if contents is None:
            return _UNREAD
        try:
            found: str | Prompt | Output = getattr(contents, self.kind)(self.run, self.content)
            return found
        except Refusal as refusal:
            return Absent(refusal.code, str(refusal))

    def words(self, contents: Contents | None) -> str | Absent:
        """As `read`, in one text."""
        found = self.read(contents)
        if isinstance(found, str | Absent):
            return found
        if self.kind == "prompt":
            said = cast("Prompt", found)
            parts = [("system", said.system), *((message.role, message.text) for message in said.messages)]
            return "\n\n".join(f"[{role}]\n{text}" for role, text in parts if text)
        printed = cast("Output", found)
        return "\n".join(part.rstrip("\n") for part in (printed.stdout, printed.stderr, printed.traceback) if part)


class AnswerText(Text):
    """An answer, as JSON. In words, one that is a text stands as the text that it is."""

    __slots__ = ()

    def words(self, contents: Contents | None) -> str | Absent:
        found = super().words(contents)
        if isinstance(found, Absent):
            return found
        try:
            return msgspec.json.decode(found, type=str)
        except msgspec.DecodeError:  # it is no text
            return found


class _Matches(Text):
    """What a search gave: `spans` says how long each piece of the text is. In words, each stands on a line."""

    __slots__ = ("spans",)

    def __init__(self, run: str, content: str, spans: Ranges) -> None:
        super().__init__(run, None, None, content)
        self.spans = spans

    def words(self, contents: Contents | None) -> str | Absent:
        found = super().words(contents)
        # Where a secret was replaced, or the log is not whole, nobody can tell the pieces.
        if isinstance(found, Absent) or len(found) != sum(stop - start for start, stop in self.spans):
            return found
        ends = accumulate((stop - start for start, stop in self.spans), initial=0)
        return "\n".join(found[start:stop] for start, stop in pairwise(ends))


class Spent(msgspec.Struct, kw_only=True):
    """What calls were charged."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nanousd: int = 0

    def add(self, more: QueryCompleted | QueryFailed | AmountsData) -> None:
        self.calls += more.calls
        self.input_tokens += more.input_tokens
        self.output_tokens += more.output_tokens
        self.cost_nanousd += more.cost_nanousd


class Limit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A limit that was met, or another reason for a refusal. Of a quota also whose, and for which period."""

    code: str
    limit: int | None = None
    observed: int | None = None
    scope: str | None = None
    period: str | None = None
    used: int | None = None
    held: int | None = None
    waited_ms: int | None = None


class _Step(msgspec.Struct, kw_only=True, tag_field="step"):
    """Something that happened. `seq` is its first record, `at_ns` when that was written (since the epoch)."""

    seq: int
    at_ns: int


class Query(_Step, kw_only=True, tag="query"):
    """A model, or a host tool (`model` is `tool:NAME`), was asked.

    Attributes:
        outcome: None while there is none, and for ever if the host died.
        ended_ns: when that came.
        spent: what it was charged, whatever came of it.
        error: of a failure, in the log's words.
        denied: why nothing was sent.
        origin: the action whose answer was used again, from where (`source`).
    """

    action: str
    cell: int
    attempt: int
    model: str
    purpose: Literal["root", "sub", "tool"]
    prompt: Text
    output_tokens_max: int
    outcome: Literal["completed", "failed", "denied", "reused"] | None = None
    ended_ns: int | None = None
    reply: Text | None = None
    spent: Spent = msgspec.field(default_factory=Spent)
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    answered_by: str | None = None
    stop_reason: str | None = None
    error: str | None = None
    denied: Limit | None = None
    origin: str | None = None
    source: Literal["cache", "flight"] | None = None


class Read(_Step, kw_only=True, tag="read"):
    """`reads` reads of document `doc` gave the box these ranges of characters."""

    line: int
    doc: int
    reads: int
    spans: Ranges
    text: Text | None = None


class Search(_Step, kw_only=True, tag="search"):
    """A search of `[start, stop)` of document `doc` found `count` matches and gave the box `spans`."""

    line: int | None
    doc: int
    mode: str | None
    start: int | None
    stop: int | None
    pattern_sha256: str | None
    count: int | None
    spans: Ranges
    text: Text | None = None


class Shown(_Step, kw_only=True, tag="shown"):
    """These characters of document `doc` stood in a prompt of this cell. If not `complete`, there may be more."""

    doc: int
    spans: Ranges
    complete: bool


class Refused(_Step, kw_only=True, tag="refused"):
    """A request was refused; with `count`, this many of the kind, told at the run's end."""

    asked: str
    why: Limit
    count: int | None = None


class Answer(_Step, kw_only=True, tag="answer"):
    """The answer. `void`: it does not count. `stays`: others may follow.

    `output` is what its cell had printed by then, where that is kept and the cell was stopped by it.
    """

    text: Text
    void: bool
    stays: bool
    output: Text | None = None


class Canary(_Step, kw_only=True, tag="canary"):
    """A text that the policy watches for turned up in this place; `number` is its place in the policy's list."""

    place: str
    number: int


class Child(_Step, kw_only=True, tag="child"):
    """A run that this one started."""

    run: Run


Step = Query | Read | Search | Shown | Refused | Answer | Canary | Child


class Cell(msgspec.Struct, kw_only=True):
    """One piece of code that was run. `status` and `ended_ns` are None while it runs, and if its host died."""

    number: int
    seq: int
    started_ns: int
    code: Text
    ended_seq: int | None = None
    ended_ns: int | None = None
    status: str | None = None
    output: Text | None = None
    steps: list[Step] = []


class Turn(msgspec.Struct, kw_only=True):
    """What the root model was asked, once or until it answered, and the cells that followed."""

    number: int
    queries: list[Query] = []
    cells: list[Cell] = []

    @property
    def answered(self) -> Query | None:
        """The query that was answered, if one was."""
        return self.queries[-1] if self.queries and self.queries[-1].outcome == "completed" else None


class Run(msgspec.Struct, kw_only=True):
    """One run.

    Attributes:
        depth: how many runs of the tree are above it.
        status: None while it is under way; `abandoned` if its host died.
        refused: it was refused before anything was opened.
        replays, forks, from_turn: the run that it does again, or whose turns before that one it took over.
        limit: which it met, if any.
        documents: its contexts, with what it and those below it read and showed.
        own: what it was charged; `total` with all runs below it.
        outside: what happened in no cell; among it what the run's end says of many refusals.
        first_seq, last_seq: of its records, of which there are `records`.
        misfits: how many records fit nowhere: the log does not verify.
    """

    run: str
    depth: int
    tenant: str | None = None
    policy: str | None = None
    policy_digest: str | None = None
    backend: str | None = None
    facts: dict[str, str] = {}
    language: str | None = None
    root_model: str | None = None
    sub_model: str | None = None
    scripted: bool | None = None
    replays: str | None = None
    forks: str | None = None
    from_turn: int | None = None
    question: Text | None = None
    refused: bool = False
    layers: list[str] = []
    documents: list[Document] = []
    started_ns: int | None = None
    ended_ns: int | None = None
    status: str | None = None
    limit: Limit | None = None
    finished: RunFinished | None = None
    own: Spent = msgspec.field(default_factory=Spent)
    total: Spent = msgspec.field(default_factory=Spent)
    turns: list[Turn] = []
    outside: list[Step] = []
    first_seq: int = 0
    last_seq: int = 0
    records: int = 0
    misfits: int = 0

    def cells(self) -> Iterator[Cell]:
        """All of its cells, in order."""
        return (cell for turn in self.turns for cell in turn.cells)

    def steps(self) -> Iterator[Step]:
        """All that happened in it, except for root queries: cell by cell, then what happened in none."""
        for cell in self.cells():
            yield from cell.steps
        yield from self.outside

    def children(self) -> Iterator[Run]:
        """The runs that it started."""
        return (step.run for step in self.steps() if isinstance(step, Child))

    def below(self) -> Iterator[Run]:
        """It and all runs below it, each before those that it started."""
        yield self
        for child in self.children():
            yield from child.below()


class Trajectory:
    """A tree that grows: `feed` takes its records, of which the first must be the first run's."""

    def __init__(self) -> None:
        self._first: _Growing | None = None
        self._runs: dict[str, _Growing] = {}
        self._documents = Documents()

    @property
    def run(self) -> Run | None:
        """The first run, with all below it; None before the first record."""
        return self._first.run if self._first is not None else None

    def coverage(self) -> Coverage:
        """What was read of the first run's contexts, and shown, by it and all runs below it."""
        return self._documents.coverage()

    def feed(self, record: Record) -> None:
        if (growing := self._runs.get(record.run)) is None:
            growing = self._new(record)
        self._documents.feed(record)
        growing.feed(record)
        if isinstance(record.typed, RunStarted):
            growing.run.documents = self._documents.of(record.run)

    def skim(self, record: Record) -> None:
        """As `feed`, but no step is kept of it: for whoever shows a part of a long run.

        Cells, answers, canaries and ends are there all the same, and what all of it cost and covered is counted.
        """
        match record.typed:
            case (
                QueryRequested()
                | QueryReused()
                | QueryCompleted()
                | QueryFailed()
                | QueryDenied()
                | ContextRead()
                | ContextSearched()
                | QueryShown()
                | RequestRefused()
            ):
                growing = self._runs.get(record.run) or self._new(record)
                self._documents.feed(record)
                growing.skim(record)
            case _:
                self.feed(record)

    def _new(self, record: Record) -> _Growing:
        above = self._runs.get(parent_of(record.run) or "")
        run = Run(run=record.run, depth=above.run.depth + 1 if above is not None else 0, first_seq=record.seq)
        growing = self._runs[record.run] = _Growing(run, above)
        if self._first is None:
            self._first = growing
        elif above is not None:
            insort(above.steps_at(record.seq), Child(seq=record.seq, at_ns=record.time_ns, run=run), key=_seq)
        else:
            self._first.run.misfits += 1
        return growing


def trajectory(records: Iterable[Record]) -> Run | None:
    """The tree of these records, of which the first is the first run's; None if there are none."""
    grown = Trajectory()
    for record in records:
        grown.feed(record)
    return grown.run


class _Growing:
    """One run, and what is needed to place its next record."""

    def __init__(self, run: Run, above: _Growing | None) -> None:
        self.run = run
        # Those of the runs above, too.
        self._totals: list[Spent] = [run.total, *(above._totals if above is not None else ())]
        self._cells: list[Cell] = []
        self._open: dict[str, Query] = {}

    def steps_at(self, seq: int) -> list[Step]:
        """The steps of the cell that was running when this record was written."""
        place = bisect_right(self._cells, seq, key=_seq)
        cell = self._cells[place - 1] if place else None
        if cell is None or (cell.ended_seq is not None and cell.ended_seq < seq):
            return self.run.outside
        return cell.steps

    def feed(self, record: Record) -> None:
        run = self.run
        run.last_seq = record.seq
        run.records += 1
        if run.status is not None:
            run.misfits += 1
            return
        match record.typed:
            case RunStarted() as started:
                self._start(record, started)
            case BoxStarted() as box:
                run.layers = box.layers
            case CellStarted() | CellFinished() as event:
                self._cell(record, event)
            case QueryRequested() | QueryReused() as asked:
                self._ask(record, asked)
            case QueryCompleted() | QueryFailed() | QueryDenied() as outcome:
                self._end_query(record, outcome)
            case RunFinished() | RunAbandoned() as end:
                self._end(record, end)
            case ContextSearched() as search:
                self._search(record, search)
            case ContextRead() | QueryShown() | RequestRefused() | AnswerGiven() | AnswerVoid() | CanarySeen() as event:
                self._steps(event.cell).append(_step(record, event))
            case (
                QuotaChanged()
                | ContentsErased()
                | LogRead()
                | LogAccepted()
                | KeyChanged()
                | ServiceChanged()
                | HttpRequest()
                | AccessChanged()
                | HookChanged()
                | HookDelivered()
            ):
                run.misfits += 1
            case _:
                assert_never(record.typed)

    def skim(self, record: Record) -> None:
        event = record.typed
        if isinstance(event, QueryCompleted | QueryFailed | QueryDenied):
            is_wanted = event.action in self._open
        else:
            is_wanted = self.run.status is not None
        if is_wanted:
            self.feed(record)
            return
        self.run.last_seq = record.seq
        self.run.records += 1
        if isinstance(event, QueryCompleted | QueryFailed):
            self._charge(event)

    def _start(self, record: Record, started: RunStarted) -> None:
        run = self.run
        if run.started_ns is not None:
            run.misfits += 1
            return
        run.started_ns = record.time_ns
        run.refused, run.facts = started.refused, started.facts or {}
        for name in _COPIED:
            setattr(run, name, getattr(started, name))
        if started.question_bytes is not None:
            run.question = Text(record.run, None, started.question_bytes, started.question)

    def _end(self, record: Record, end: RunFinished | RunAbandoned) -> None:
        run = self.run
        run.ended_ns = record.time_ns
        self._open.clear()
        if isinstance(end, RunAbandoned):
            run.status = "abandoned"
            self._charge(end.charged)
            return
        run.status, run.finished = end.status, end
        if end.code is not None:
            run.limit = Limit(code=end.code, limit=end.limit, observed=end.observed)

    def _cell(self, record: Record, event: CellStarted | CellFinished) -> None:
        if isinstance(event, CellStarted):
            code = Text(record.run, event.code_sha256, event.code_bytes, event.content)
            cell = Cell(number=event.cell, seq=record.seq, started_ns=record.time_ns, code=code)
            self._cells.append(cell)
            self._turn().cells.append(cell)
        elif self._cells and self._cells[-1].number == event.cell:
            cell = self._cells[-1]
            cell.ended_seq, cell.ended_ns, cell.status = record.seq, record.time_ns, event.status
            cell.output = Text(record.run, None, event.output_bytes, event.content, "output")
        else:
            self.run.misfits += 1

    def _turn(self) -> Turn:
        """The one under way."""
        if not self.run.turns:
            self.run.turns.append(Turn(number=0))
        return self.run.turns[-1]

    def _asking_turn(self, query: Query) -> Turn:
        """The one that a query to the root model belongs to: a new one, unless the last was asked in vain.

        The record of an answer may be behind that of the query which follows it.
        """
        turns = self.run.turns
        last = turns[-1] if turns else Turn(number=0)
        is_again = query.attempt > 1 or (last.queries and last.queries[-1].outcome in ("failed", "denied"))
        if last.cells or not last.queries or not is_again:
            turns.append(Turn(number=last.number + 1))
        return turns[-1]

    def _steps(self, cell: int) -> list[Step]:
        """Of the cell with this number. Cells are numbered from 1 without a gap, in a log that verifies."""
        if 0 < cell <= len(self._cells) and self._cells[cell - 1].number == cell:
            return self._cells[cell - 1].steps
        return self.run.outside

    def _ask(self, record: Record, asked: QueryRequested | QueryReused) -> None:
        query = _asked(record, asked)
        if isinstance(asked, QueryRequested):
            self._open[asked.action] = query
        if query.purpose == "root":
            self._asking_turn(query).queries.append(query)
        else:
            self._steps(asked.cell).append(query)

    def _end_query(self, record: Record, outcome: QueryCompleted | QueryFailed | QueryDenied) -> None:
        query = self._open.pop(outcome.action, None)
        if query is None:
            self.run.misfits += 1
            return
        query.ended_ns = record.time_ns
        match outcome:
            case QueryDenied():
                query.outcome, query.denied = "denied", _why(outcome)
                return
            case QueryFailed():
                query.outcome, query.error = "failed", outcome.error
            case QueryCompleted():
                query.outcome = "completed"
                query.reply = Text(record.run, outcome.reply_sha256, outcome.reply_bytes, outcome.content)
                for name in _OF_REPLY:
                    setattr(query, name, getattr(outcome, name))
        query.spent.add(outcome)
        self._charge(outcome)

    def _charge(self, more: QueryCompleted | QueryFailed | AmountsData) -> None:
        for spent in (self.run.own, *self._totals):
            spent.add(more)

    def _search(self, record: Record, search: ContextSearched) -> None:
        """What continues a search has no more than its ranges."""
        steps = self._steps(search.cell)
        last = steps[-1] if steps else None
        if search.mode is None and isinstance(last, Search) and last.doc == search.doc:
            last.spans.extend(search.spans)
            return
        found = {name: getattr(search, name) for name in _OF_SEARCH}
        spans = list(search.spans)
        text = _Matches(record.run, search.content, spans) if search.content is not None else None
        steps.append(Search(seq=record.seq, at_ns=record.time_ns, spans=spans, text=text, **found))


_COPIED = (
    *("tenant", "policy", "policy_digest", "backend", "language", "root_model", "sub_model", "scripted"),
    *("replays", "forks", "from_turn"),
)
_OF_REPLY = ("answered_by", "stop_reason", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens")
_OF_SEARCH = ("line", "doc", "mode", "start", "stop", "pattern_sha256", "count")


def _seq(one: Cell | Step) -> int:
    return one.seq


def _why(refusal: QueryDenied | RequestRefused) -> Limit:
    return Limit(**{name: getattr(refusal, name) for name in Limit.__struct_fields__})


def _asked(record: Record, asked: QueryRequested | QueryReused) -> Query:
    query = Query(
        seq=record.seq,
        at_ns=record.time_ns,
        action=asked.action,
        cell=asked.cell,
        attempt=1,
        model=asked.model,
        purpose="sub",
        prompt=Text(record.run, asked.prompt_sha256, asked.prompt_bytes, asked.content, "prompt"),
        output_tokens_max=asked.output_tokens_max,
    )
    if isinstance(asked, QueryRequested):
        query.attempt, query.purpose = asked.attempt, asked.purpose
        return query
    query.outcome, query.ended_ns = "reused", record.time_ns
    query.reply = Text(record.run, asked.reply_sha256, asked.reply_bytes, asked.reply)
    query.answered_by, query.stop_reason = asked.answered_by, asked.stop_reason
    query.origin, query.source = asked.origin, asked.source
    return query


def _step(
    record: Record, event: ContextRead | QueryShown | RequestRefused | AnswerGiven | AnswerVoid | CanarySeen
) -> Step:
    seq, at_ns = record.seq, record.time_ns
    match event:
        case ContextRead():
            reads = 1 if event.reads is None else event.reads
            spans = ranges_of(event)
            given = event.content
            # The log has no digest of what was given: the range says it, and the context's digest.
            text = Text(record.run, None, None, given) if given is not None else None
            return Read(seq=seq, at_ns=at_ns, line=event.line, doc=event.doc, reads=reads, spans=spans, text=text)
        case QueryShown():
            return Shown(seq=seq, at_ns=at_ns, doc=event.doc, spans=event.spans, complete=event.complete)
        case RequestRefused():
            return Refused(seq=seq, at_ns=at_ns, asked=event.asked, why=_why(event), count=event.count)
        case AnswerGiven() | AnswerVoid():
            return _answer(record, event)
        case CanarySeen():
            return Canary(seq=seq, at_ns=at_ns, place=event.place, number=event.canary)
        case _:
            assert_never(event)


def _answer(record: Record, event: AnswerGiven | AnswerVoid) -> Answer:
    given = event if isinstance(event, AnswerGiven) else None
    # The log has no size of what its cell had printed by then.
    output = given.output if given is not None else None
    # One that does not count may not be of the type that was asked for, which its JSON shows.
    kind = AnswerText if given is not None else Text
    return Answer(
        seq=record.seq,
        at_ns=record.time_ns,
        text=kind(record.run, event.answer_sha256, event.answer_bytes, event.content),
        void=given is None,
        stays=given is not None and given.stays,
        output=Text(record.run, None, None, output, "output") if output is not None else None,
    )


def plain(run: Run, contents: Contents | None = None) -> dict[str, Any]:
    """The tree as JSON has it, with each text that is there, or `absent` and `why` it is not."""

    def shape(value: object) -> object:
        if isinstance(value, Spans):
            return list(value)
        if isinstance(value, Text):
            said = value.read(contents)
            fields = {"sha256": value.sha256, "bytes": value.size_bytes}
            return fields | ({"absent": said.code, "why": said.why} if isinstance(said, Absent) else {value.kind: said})
        raise NotImplementedError(type(value).__name__)

    found: dict[str, Any] = msgspec.to_builtins(run, enc_hook=shape)
    return found
