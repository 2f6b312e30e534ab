"""What has to hold after a soak, as lines that say what does not.

Four books are compared: what clients were told, the table of orders, the log with its ledger, and what the provider was
asked and has answered. The heart of it is that an answer is paid for once. An answer that a run had when its service
was killed stands in the log, and whatever runs in its stead has that one: the provider was asked for it no more. One
that was on its way had not come yet; it is charged at its worst case, and asked for again. So of each mark there is one
answer at most that was paid for by its usage, and it is the last one that the provider was asked for.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from belljar.audit import records, verify
from belljar.audit.events import (
    HOST_RUNS,
    QueryCompleted,
    QueryDenied,
    QueryFailed,
    QueryRequested,
    RunAbandoned,
    RunFinished,
)
from belljar.audit.source import open_source
from belljar.journal.tables import ORDERS, OrderRow
from belljar.keys import Keys
from belljar.ledger import Amounts
from belljar.sandbox.cgroup import find_places
from belljar.state import State
from belljar.upkeep import examine
from benchmarks.provider import Provider
from benchmarks.soak_clients import REFUSED, Ordered
from tests.integration.support import no_process_left

__all__ = ["Found", "found_wrong", "left_behind"]

_ORDERS: Final = f"SELECT {', '.join(ORDERS.columns)} FROM orders ORDER BY run"
# All that may lie in a state folder when its hosts are gone.
_FILES: Final = {"audit.db", "audit.db-wal", "audit.db-shm", "audit.db-turn", "contexts", "images", "owners", "uploads"}


@dataclass(frozen=True)
class Found:
    """How much there was, and what of it is `wrong`.

    Attributes:
        paid: answers that were paid for by their usage; `lost`: calls that a kill left without an outcome.
        taken_over: answers of an interrupted run that another one was given, for nothing.
    """

    wrong: list[str]
    records: int
    runs: int
    paid: int
    lost: int
    taken_over: int


def found_wrong(state: State, keys: Keys, ordered: Sequence[Ordered], provider: Provider) -> Found:
    """Compare the books, with all services stopped."""
    report, examined = verify(state.journal, keys=keys), examine(state)
    wrong = [*report.problems, *report.unfinished, *examined.journal.problems]
    if examined.error is not None:
        wrong.append(examined.error)
    if examined.journal.open_runs or examined.journal.held != Amounts():
        wrong.append(f"{examined.journal.open_runs} runs are open, and {examined.journal.held} is held")
    wrong += [f"the owner {one.name} is still there" for one in examined.owners]
    with closing(open_source(state.journal)) as source:
        rows = [ORDERS.unpack(row) for row in source.ask(_ORDERS)]
    wrong += _orders(rows, ordered)
    wrong += [line for one in ordered for line in _heard(one)]
    calls = _Calls(state, provider)
    ends = Counter(calls.ends)
    wrong += [f"run {run} has {ends[run]} ends" for run in sorted(calls.runs) if ends[run] != 1]
    wrong += calls.wrong()
    return Found(wrong, report.records, report.runs, calls.paid, calls.lost, calls.taken_over)


def _orders(rows: Sequence[OrderRow], ordered: Sequence[Ordered]) -> Iterator[str]:
    """Each key has one order that ended, which its client knows; others with that key were interrupted before it."""
    of_key: defaultdict[tuple[str, str], list[OrderRow]] = defaultdict(list)
    for row in rows:
        of_key[row.tenant, row.idem].append(row)
        if not row.ended_at:
            yield f"the order {row.run} is still {row.state}"
    for one in ordered:
        found = of_key.pop((one.tenant, one.key), [])
        last = [row for row in found if not row.again]
        earlier = [row for row in found if row.again]
        if one.end == REFUSED:
            if any(row.state != "interrupted" for row in found):
                yield f"{one.key} was refused, and has {[row.state for row in found]}"
            continue
        if [(row.run, row.state) for row in last] != [(one.runs[-1], one.end)]:
            booked = [(row.run, row.state) for row in last]
            yield f"{one.key} ended as {one.runs[-1]} ({one.end}), and the books have {booked}"
        if any(row.state != "interrupted" for row in earlier):
            yield f"{one.key} was ordered again though it was {[row.state for row in earlier]}"
        if not {*one.runs} <= {row.run for row in found}:
            yield f"{one.key} lost one of its runs {one.runs}"
    for (tenant, key), found in of_key.items():
        yield f"nobody ordered {key} of {tenant}: {[row.run for row in found]}"


def _heard(one: Ordered) -> Iterator[str]:
    if one.results > 1:
        yield f"a listener of {one.runs[0]} heard {one.results} results"
    if one.heard != sorted(one.heard):
        yield f"a listener of {one.runs[0]} heard events in another order"


class _Calls:
    """What the log has of calls, beside what the provider has."""

    def __init__(self, state: State, provider: Provider) -> None:
        self.runs: set[str] = set()
        self.ends: list[str] = []
        self.paid = self.taken_over = 0
        self._provider = provider
        self._wrong: list[str] = []
        # The how-manyeth request of each mark was paid for.
        self._paid_for: defaultdict[str, list[int]] = defaultdict(list)
        self._digests: dict[str, str] = {}
        self._requested: Counter[str] = Counter()
        for record in records(state.journal):
            if record.run not in HOST_RUNS:
                self.runs.add(record.run)
            match record.typed:
                case QueryRequested() as asked:
                    self._digests[asked.action] = asked.prompt_sha256
                    self._requested[asked.prompt_sha256] += 1
                case QueryCompleted() as told:
                    self._completed(told)
                case QueryFailed() | QueryDenied() as ended:
                    self._digests.pop(ended.action, None)
                case RunAbandoned() | RunFinished():
                    self.ends.append(record.run)
                case _:
                    pass
        self.lost = len(self._digests)

    def _completed(self, told: QueryCompleted) -> None:
        digest = self._digests.pop(told.action)
        answer = self._provider.answers.get(told.reply_sha256)
        if answer is None:
            self._wrong.append(f"{told.action} has an answer that nobody gave")
        elif not told.input_tokens:
            self.taken_over += 1
            self._requested[digest] -= 1
        else:
            self.paid += 1
            self._paid_for[answer.mark].append(answer.nth)
            if (told.input_tokens, told.output_tokens) != (answer.input_tokens, answer.output_tokens):
                self._wrong.append(f"{told.action} was paid for as {told.input_tokens}, {told.output_tokens}")
            if self._provider.marks[digest] != answer.mark:
                self._wrong.append(f"{told.action} has the answer to {answer.mark}")

    def wrong(self) -> Iterator[str]:
        yield from self._wrong
        for mark, paid in self._paid_for.items():
            if len(paid) > 1:
                yield f"[[{mark}]] was paid for {len(paid)} times"
            elif self._provider.asked[mark] > paid[0]:
                yield f"[[{mark}]] was asked for again, after its answer was in the log"
        for digest, count in self._provider.sent.items():
            if count > self._requested[digest]:
                yield f"[[{self._provider.marks[digest]}]] was asked for {count} times: not all are in the log"


def left_behind(state: State, temporary: Path, pids: Sequence[int]) -> Iterator[str]:
    """What is still there of services with these process ids: nothing should be."""
    try:
        no_process_left()
    except AssertionError as error:
        yield str(error)
    for place in find_places():
        for pid in pids:
            yield from (f"the control group {left} is still there" for left in place.folder.glob(f"belljar-{pid}-*"))
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if str(state.root) in line or str(temporary) in line:
            yield f"a mount is still there: {line}"
    yield from (f"the temporary file {left} is still there" for left in temporary.iterdir())
    yield from (f"the state has {left.name}" for left in state.root.iterdir() if left.name not in _FILES)
    yield from (f"an owner is still there: {left}" for left in state.owners.glob("*"))
    for left in state.contexts.rglob("*"):
        if left.parent.name == "lent":
            yield f"what a run brought along is still there: {left}"
