"""Runs as the log has them: those that ended a while ago, that other processes have, or that no service ordered.

The log says how a run ended, the ledger what its tree has cost so far, the table of orders who asked for it and when.
What a run answered and printed is there if its policy kept it; what is not is named, and never made up.

All of this reads, and is called in threads.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple, get_args

import msgspec

from belljar.audit import Receipt, Record, head, records_below
from belljar.audit.content import Contents, open_contents
from belljar.audit.events import RunAbandoned, RunFinished, RunStarted
from belljar.audit.paging import Pages, open_pages
from belljar.audit.source import Log
from belljar.audit.trajectory import Absent, Answer, Cell, Trajectory
from belljar.engine import Coverage, ErrorInfo, Limit, Result, RunUsage, Status
from belljar.errors import ContentUnavailable, InvalidInput
from belljar.identity import RunId, Tenant, is_within
from belljar.jobs.orders import CANCELLED, CANCELLING, INTERRUPTED, OPEN, REFUSED, RUNNING, NoSuchRun, OrderState, Page
from belljar.journal.tables import ORDERS, OrderRow
from belljar.keys import Keys
from belljar.ledger import Amounts

__all__ = ["LIMIT_MAX", "Batch", "Found", "Wish", "check_page"]

_STATUSES: Final = frozenset(get_args(Status))
# Of orders that never became a run, those that had an error as long as they were in memory.
_WITH_ERROR: Final = (CANCELLED, REFUSED, "host_fault")
_S: Final = 10**9
_COLUMNS: Final = ", ".join(ORDERS.columns)
_ORDER: Final = f"SELECT {_COLUMNS} FROM orders WHERE run = ?"  # noqa: S608 (constants)
_ORDER_BEFORE: Final = f"SELECT {_COLUMNS} FROM orders WHERE run < ? ORDER BY run DESC LIMIT 1"  # noqa: S608
_COST: Final = "SELECT used_cost_nanousd FROM balances WHERE account = ? AND key = 'total'"
_END: Final = "\x7f"
# A page looks at no more runs than this: those of other tenants are passed over, not shown.
_LOOKED_AT_MAX: Final = 1000
LIMIT_MAX: Final = 200
# What no log tells.
_NEVER: Final = ("read_bytes", "cost_assumed_nanousd", "turns_log", "partial")


class Wish(NamedTuple):
    """Which runs somebody wants to see; None is whatever."""

    tenant: Tenant | None
    status: str | None
    model: str | None

    def allows(self, state: OrderState) -> bool:
        return (
            is_within(state.tenant, self.tenant)
            and self.status in (None, state.state)
            and self.model in (None, state.model, state.sub_model)
        )


class Batch(NamedTuple):
    """Some records of a tree; `ended` is the last one of its root, if it is among them."""

    records: list[Record]
    ended: Record | None


class Found:
    """Reads one journal. Every method raises `AuditUnavailable` or `VerificationFailed` where it cannot be read."""

    def __init__(self, log: Log, keys: Keys) -> None:
        self._log = log
        self._keys = keys

    def state(self, run: str) -> OrderState:
        """A run without its result.

        Raises:
            NoSuchRun: neither the log nor the orders have it.
        """
        with open_pages(self._log) as pages:
            found = _state(pages, run, _order(pages, run))
        if found is None:
            raise NoSuchRun(run)
        return found

    def whole(self, run: str) -> OrderState:
        """A run, with its result once it has ended. Raises as `state`."""
        state = self.state(run)
        if state.is_open:
            return state
        if state.started_ns is None or state.state == REFUSED:
            return _without_result(state)
        grown, ended = Trajectory(), None
        for record in records_below(self._log, run):
            grown.feed(record)
            if record.run == run and isinstance(record.typed, RunFinished):
                ended = record
        if grown.run is None or ended is None or grown.run.status not in _STATUSES:
            return _without_result(state)
        with open_contents(self._log, self._keys) as contents:
            result, absent = _result(grown, ended, contents)
        return msgspec.structs.replace(state, error=result.error, limit=result.limit, result=result, absent=absent)

    def page(self, wish: Wish, after: str | None, limit: int) -> Page:
        """Roots that somebody wants to see, from the latest backwards, those behind the run `after`.

        It may have fewer than `limit`, even none, where many others were passed over; then it has a cursor all the
        same.
        """
        shown: list[OrderState] = []
        at = after
        with open_pages(self._log) as pages:
            logged, row = pages.before(at), _order_before(pages, at)
            for _ in range(_LOOKED_AT_MAX):
                ordered = row.run if row is not None else None
                if logged is None and ordered is None:
                    return Page(runs=tuple(shown))
                at = max(logged or "", ordered or "")
                state = _state(pages, at, row if ordered == at else None)
                if state is not None and wish.allows(state):
                    shown.append(state)
                if len(shown) == limit:
                    break
                logged = pages.before(at) if logged == at else logged
                row = _order_before(pages, at) if ordered == at else row
        return Page(runs=tuple(shown), after=at)

    def head(self) -> int:
        """The number of the log's last record."""
        return head(self._log)

    def batch(self, run: str, seq: int, limit: int) -> Batch:
        """The records of a run and those below it with a higher number than `seq`."""
        with open_pages(self._log) as pages:
            found = pages.after(run, seq, limit)
        ends = (one for one in found if one.run == run and isinstance(one.typed, RunFinished | RunAbandoned))
        return Batch(found, next(ends, None))


def _order(pages: Pages, run: str) -> OrderRow | None:
    rows = pages.ask(_ORDER, run)
    return ORDERS.unpack(rows[0]) if rows else None


def _order_before(pages: Pages, run: str | None) -> OrderRow | None:
    rows = pages.ask(_ORDER_BEFORE, _END if run is None else run)
    return ORDERS.unpack(rows[0]) if rows else None


def _state(pages: Pages, run: str, row: OrderRow | None) -> OrderState | None:
    first = pages.first(run)
    begun = first.typed if first is not None and isinstance(first.typed, RunStarted) else None
    if row is None and (begun is None or first is None):
        return None
    last = pages.last(run) if first is not None else None
    end = last.typed if last is not None else None
    ended = isinstance(end, RunFinished | RunAbandoned)
    fields: dict[str, Any] = {}
    if begun is not None and first is not None:
        fields = {name: getattr(begun, name) for name in ("policy", "backend", "language", "sub_model", "by")}
        cost = pages.ask(_COST, f"run:{run}")
        fields |= {"model": begun.root_model, "started_ns": first.time_ns, "asked_ns": first.time_ns}
        fields["cost_nanousd"] = int(cost[0][0]) if cost else 0
    if row is not None:
        fields |= {"by": row.asked_by, "asked_ns": row.since * _S, "retried_as": row.again or None}
    limit = None
    if isinstance(end, RunFinished) and end.code is not None:
        limit = Limit.of(end.code, end.limit, end.observed)
    ended_ns = last.time_ns if last is not None and ended else row.ended_at * _S or None if row is not None else None
    return OrderState(
        run=run,
        tenant=row.tenant if row is not None else begun.tenant if begun is not None else "",
        state=_word(row, begun, end),
        parent=str(RunId(run).parent) if "." in run else None,
        ended_ns=ended_ns,
        limit=limit,
        **fields,
    )


def _without_result(state: OrderState) -> OrderState:
    """What the log has no words for: why an order never became a run, and what became of a run that broke off."""
    if state.state == INTERRUPTED:
        return state if state.started_ns is None else msgspec.structs.replace(state, absent=("result",))
    return msgspec.structs.replace(state, absent=("error",)) if state.state in _WITH_ERROR else state


def _word(row: OrderRow | None, begun: RunStarted | None, end: object) -> str:
    """What the order says, where there is one: it is written together with the log."""
    if row is not None and not (row.state in OPEN and isinstance(end, RunFinished | RunAbandoned)):
        return row.state
    if begun is not None and begun.refused:
        return REFUSED
    match end:
        case RunFinished():
            return end.status
        case RunAbandoned():
            return INTERRUPTED
        case _:
            return CANCELLING if row is not None and row.state == CANCELLING else RUNNING


def _result(grown: Trajectory, ended: Record, contents: Contents) -> tuple[Result, tuple[str, ...]]:
    """The result of a run that has ended, and what of it is not known any more."""
    run, end = grown.run, ended.typed
    assert run is not None, "it has records"
    assert isinstance(end, RunFinished), "the run has ended"
    absent = list(_NEVER)
    cells = list(run.cells())
    given = _answer(cells, contents, absent) if end.status == "ok" else None
    stdout, stderr, error = _output(cells[-1] if cells else None, end, contents, absent)
    coverage = grown.coverage()
    total = run.total
    result = Result(
        run_text=run.run,
        tenant=run.tenant or "",
        status=end.status,  # type: ignore[arg-type]
        given=given,
        stdout=stdout,
        stderr=stderr,
        truncated=False,
        output_bytes=_output_bytes(cells[-1] if cells else None) or len((stdout + stderr).encode("utf-8", "replace")),
        error=error,
        limit=None if end.code is None else Limit.of(end.code, end.limit, end.observed),
        wall_s=(end.wall_ms or 0) / 1000,
        cpu_s=(end.cpu_ms or 0) / 1000,
        max_rss_bytes=end.max_rss_bytes or 0,
        cells=len(cells),
        turns=sum(1 for turn in run.turns if turn.number),
        reads=end.reads or 0,
        read_bytes=0,
        queries=end.queries or 0,
        usage=RunUsage(total.calls, total.input_tokens, total.output_tokens),
        cost=total.cost_nanousd,
        cost_nanousd=total.cost_nanousd,
        overage=None if end.overage is None else Amounts(**msgspec.structs.asdict(end.overage)),
        scripted=bool(run.scripted),
        layers=tuple(run.layers),
        coverage=Coverage.of(coverage.chars, coverage.read_chars, coverage.shown_chars),
        receipt=Receipt(run.run, ended.seq, ended.hash),
    )
    return result, tuple(sorted({*absent}))


def _answer(cells: Iterable[Cell], contents: Contents, absent: list[str]) -> str | msgspec.Raw | None:
    """The last one that counts; of what is kept it is JSON, and a text is one of its own."""
    answers = [step for cell in cells for step in cell.steps if isinstance(step, Answer) and not step.void]
    if not answers:
        return None
    text = answers[-1].text
    try:
        data = contents.get(text.run, text.content)
    except ContentUnavailable:
        absent.append("answer")
        return None
    return msgspec.json.decode(data, type=str) if data.startswith(b'"') else msgspec.Raw(data)


def _output_bytes(cell: Cell | None) -> int:
    """As the log says it; 0 where an answer ended the cell."""
    return (cell.output.size_bytes or 0) if cell is not None and cell.output is not None else 0


def _output(
    cell: Cell | None, end: RunFinished, contents: Contents, absent: list[str]
) -> tuple[str, str, ErrorInfo | None]:
    if cell is None:
        return "", "", None
    answers = [step.output for step in cell.steps if isinstance(step, Answer) and step.output is not None]
    named = answers[-1] if answers else cell.output
    nothing = named is None or (named.content is None and not named.size_bytes)
    printed = None
    if named is not None and not nothing:
        found = named.read(contents)
        printed = None if isinstance(found, str | Absent) else found
    stdout, stderr, traceback = "", "", ""
    if printed is None and not nothing:
        absent += ["stdout", "stderr"]
    elif printed is not None:
        said: Any = printed
        stdout, stderr, traceback = said.stdout, said.stderr, said.traceback
    if end.status == "ok":
        return stdout, stderr, None
    last = traceback.rstrip().rpartition("\n")[2]
    kind, _, message = last.partition(": ")
    if not last:
        absent.append("error")
        return stdout, stderr, None
    return stdout, stderr, ErrorInfo(kind, message, traceback=traceback)


def check_page(after: str | None, limit: int) -> None:
    """Refuse what cannot be a page.

    Raises:
        InvalidInput: `page.limit`, `page.cursor`.
    """
    if not 1 <= limit <= LIMIT_MAX:
        raise InvalidInput(
            f"a page has 1 to {LIMIT_MAX} runs, not {limit}", code="page.limit", limit=LIMIT_MAX, observed=limit
        )
    if after is not None:
        try:
            RunId(after)
        except InvalidInput:
            raise InvalidInput("this is not a cursor: use `after` of the page before", code="page.cursor") from None
