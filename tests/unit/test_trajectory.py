"""The tree of what a run did: from records to turns, cells and steps, however the records come."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from belljar.audit import Record, RunSummary, head, latest, records, records_after, records_below
from belljar.audit.read import marks_below, runs_before
from belljar.audit.reading import log_read
from belljar.audit.trajectory import (
    Absent,
    Answer,
    AnswerText,
    Child,
    Query,
    Read,
    Refused,
    Run,
    Search,
    Shown,
    Step,
    Text,
    Trajectory,
    plain,
    trajectory,
)
from belljar.errors import InvalidInput
from belljar.identity import RunId
from tests import journals
from tests.journals import OwnLog
from tests.unit.audit_events import made
from tests.unit.trajectories import Shelf

CONTEXT = {
    "name": "context",
    "kind": "text",
    "sha256": "a" * 64,
    "chars": 1000,
    "items": 0,
    "lines": 9,
    "text": 0,
    "directory": None,
}
PART = {**CONTEXT, "name": "part", "part": (0, 500)}
CHARGED = {"calls": 1, "input_tokens": 12, "output_tokens": 3, "cost_nanousd": 4500}
# As it was written: a root query, a cell with a query, a child and its own, and what the root model was asked next.
TREE: list[tuple[str, str, dict[str, Any]]] = [
    ("t", "run.started", {"contexts": [CONTEXT], "policy": "standard", "root_model": "big", "question_bytes": 7}),
    ("t", "box.started", {"layers": ["seccomp"]}),
    ("t", "query.requested", {"action": "t.1", "cell": 0, "purpose": "root"}),
    ("t", "query.failed", {"action": "t.1", "error": "overloaded"}),
    ("t", "query.requested", {"action": "t.2", "cell": 0, "purpose": "root", "attempt": 2}),
    ("t", "query.completed", {"action": "t.2"}),
    ("t", "cell.started", {"cell": 1}),
    ("t", "context.read", {"cell": 1, "doc": 0, "start": 0, "stop": 100}),
    ("t", "query.requested", {"action": "t.3", "cell": 1, "purpose": "sub"}),
    ("t.00001", "run.started", {"contexts": [PART]}),
    ("t.00001", "cell.started", {"cell": 1}),
    ("t.00001", "context.read", {"cell": 1, "doc": 0, "reads": 2, "spans": [[400, 450], [460, 470]]}),
    ("t", "query.completed", {"action": "t.3"}),
    ("t.00001", "query.requested", {"action": "t.00001.1", "cell": 1, "purpose": "tool", "model": "tool:mail"}),
    ("t.00001", "query.completed", {"action": "t.00001.1"}),
    ("t.00001", "cell.finished", {"cell": 1}),
    ("t.00001", "run.finished", {"status": "ok", "wall_ms": 12}),
    ("t", "query.shown", {"cell": 1, "doc": 0, "spans": [[0, 50]]}),
    ("t", "context.searched", {"cell": 1, "doc": 0, "mode": "find", "spans": [[200, 210]], "count": 2}),
    ("t", "context.searched", {"cell": 1, "doc": 0, "spans": [[300, 310]]}),
    ("t", "request.refused", {"cell": 1, "asked": "read", "code": "read.out_of_range", "limit": 1000}),
    ("t", "cell.finished", {"cell": 1, "output_bytes": 12}),
    ("t", "query.requested", {"action": "t.4", "cell": 1, "purpose": "root"}),
    ("t", "query.completed", {"action": "t.4"}),
    ("t", "cell.started", {"cell": 2}),
    ("t", "answer.given", {"cell": 2}),
    ("t", "cell.finished", {"cell": 2}),
    ("t", "request.refused", {"cell": 2, "asked": "query", "code": "quota.calls", "count": 12}),
    ("t", "run.finished", {"status": "ok", "code": "limits.turns", "limit": 3}),
]


def recorded(entries: list[tuple[str, str, dict[str, Any]]]) -> list[Record]:
    return [
        Record(seq=seq, time_ns=seq * 1000, run=run, typed=made(event, data), prev="", hash="", body=b"")
        for seq, (run, event, data) in enumerate(entries, start=1)
    ]


def grown(*entries: tuple[str, str, dict[str, Any]]) -> Run:
    run = trajectory(recorded(list(entries) or TREE))
    assert run is not None
    return run


def kinds(steps: list[Step]) -> list[type[Step]]:
    return [type(step) for step in steps]


def test_a_turn_has_the_queries_to_the_root_model_and_the_cells_that_followed() -> None:
    first, second = grown().turns
    assert (first.number, second.number) == (1, 2)
    assert [(query.action, query.outcome) for query in first.queries] == [("t.1", "failed"), ("t.2", "completed")]
    assert first.answered is first.queries[1]
    assert [cell.number for cell in (*first.cells, *second.cells)] == [1, 2]
    assert (second.cells[0].status, second.cells[0].started_ns, second.cells[0].ended_ns) == ("ok", 25000, 27000)


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ('"two\\nlines, \\"quoted\\""', 'two\nlines, "quoted"'),
        ('""', ""),
        ("42", "42"),
        ('{"pairs": [1, 2]}', '{"pairs": [1, 2]}'),
        ('"\\ud800"', '"\\ud800"'),
        ('"cut off', '"cut off'),
    ],
)
def test_an_answer_is_told_as_its_text_and_any_other_value_as_json(stored: str, words: str) -> None:
    shelf = Shelf()
    put = shelf.put(stored)
    answer = AnswerText("r1", put.sha256, put.size_bytes, put.content)
    assert answer.words(shelf) == words
    assert answer.read(shelf) == stored
    shelf.erase()
    assert isinstance(answer.words(shelf), Absent)


def test_a_turn_without_code_is_one_though_its_answer_is_recorded_behind_the_next_question() -> None:
    run = grown(
        ("t", "query.requested", {"action": "t.1", "cell": 0, "purpose": "root"}),
        ("t", "query.requested", {"action": "t.2", "cell": 0, "purpose": "root"}),
        ("t", "query.completed", {"action": "t.1"}),
        ("t", "query.requested", {"action": "t.3", "cell": 0, "purpose": "root", "attempt": 2}),
        ("t", "query.failed", {"action": "t.2"}),
    )
    assert [(turn.number, [query.action for query in turn.queries]) for turn in run.turns] == [
        (1, ["t.1"]),
        (2, ["t.2", "t.3"]),
    ]


def test_steps_stand_in_their_cell_in_the_order_of_the_log() -> None:
    run = grown()
    first, second = run.cells()
    assert kinds(first.steps) == [Read, Query, Child, Shown, Search, Refused]
    assert kinds(second.steps) == [Answer, Refused]
    search = first.steps[4]
    assert isinstance(search, Search)
    assert search.spans == [(200, 210), (300, 310)]
    refusal = first.steps[5]
    assert isinstance(refusal, Refused)
    assert (refusal.asked, refusal.why.code, refusal.why.limit) == ("read", "read.out_of_range", 1000)
    assert run.limit is not None
    assert (run.limit.code, run.limit.limit, run.status, run.misfits) == ("limits.turns", 3, "ok", 0)


def test_a_run_without_a_root_model_has_one_turn_without_a_number() -> None:
    run = grown(("r", "run.started", {}), ("r", "cell.started", {"cell": 1}), ("r", "cell.finished", {"cell": 1}))
    assert [(turn.number, turn.queries, len(turn.cells)) for turn in run.turns] == [(0, [], 1)]


def test_what_children_cost_counts_above_them() -> None:
    run = grown()
    (child,) = run.children()
    assert (child.run, child.depth, child.status) == ("t.00001", 1, "ok")
    assert msgspec.to_builtins(child.total) == msgspec.to_builtins(child.own) == CHARGED
    assert (run.own.calls, run.total.calls, run.total.cost_nanousd) == (4, 5, 5 * 4500)


def test_what_an_abandoned_run_was_charged_counts() -> None:
    charged = {**CHARGED, "calls": 7, "read_bytes": 0}
    run = grown(
        ("t", "run.started", {}), ("t.00001", "run.started", {}), ("t.00001", "run.abandoned", {"charged": charged})
    )
    assert (run.total.calls, run.own.calls) == (7, 0)
    (child,) = run.children()
    assert child.status == "abandoned"


def test_documents_have_what_the_run_and_those_below_it_read_and_showed() -> None:
    grows = Trajectory()
    for record in recorded(TREE):
        grows.feed(record)
    run = grows.run
    assert run is not None
    (document,) = run.documents
    assert list(document.read) == [(0, 100), (200, 210), (300, 310), (400, 450), (460, 470)]
    assert list(document.shown) == [(0, 50)]
    (part,) = next(run.children()).documents
    assert (part.part, list(part.read)) == ((0, 500), [(400, 450), (460, 470)])
    assert grows.coverage().read_chars == 180


def test_the_order_of_the_records_of_different_runs_does_not_matter() -> None:
    written = recorded(TREE)
    by_run = sorted(written, key=lambda record: record.run)
    assert by_run != written
    assert plain(grown()) == plain(trajectory(by_run) or grown())


def test_a_growing_tree_is_whole_after_each_record() -> None:
    for count in range(1, len(TREE) + 1):
        found = plain(grown(*TREE[:count]))
        assert found["misfits"] == 0
        assert (found["status"] is None) == (count < len(TREE))


@pytest.mark.parametrize(
    "odd",
    [
        ("r", "query.completed", {"action": "r.9"}),
        ("r", "cell.finished", {"cell": 4}),
        ("r", "run.started", {}),
        ("r", "quota.changed", {}),
        ("other", "run.started", {}),
    ],
)
def test_what_fits_nowhere_is_counted(odd: tuple[str, str, dict[str, Any]]) -> None:
    assert grown(("r", "run.started", {})).misfits == 0
    assert grown(("r", "run.started", {}), odd).misfits == 1
    assert grown(("r", "run.started", {}), ("r", "run.finished", {}), ("r", "box.started", {})).misfits == 1


class Said(msgspec.Struct, frozen=True):
    role: str
    text: str


class Sent(msgspec.Struct, frozen=True):
    system: str
    messages: list[Said]


class Printed(msgspec.Struct, frozen=True):
    stdout: str
    stderr: str
    traceback: str
    clock: str | msgspec.UnsetType = msgspec.UNSET


class Kept:
    """Contents of which one is gone."""

    def text(self, run: str, name: str | None) -> str:
        if name == "gone":
            raise InvalidInput("it was erased", code="content.erased")
        return f"{run} {name}"

    def prompt(self, run: str, name: str | None) -> Sent:
        return Sent("be brief", [Said("user", f"{run} {name}")])

    def output(self, run: str, name: str | None) -> Printed:
        return Printed(f"{run}\n", "", f"{name}\n")


def test_a_text_says_what_it_is_or_why_it_is_not_there() -> None:
    kept = Kept()
    assert Text("r", None, 7, "1f").words(kept) == "r 1f"
    assert Text("r", None, 7, "1f", "prompt").words(kept) == "[system]\nbe brief\n\n[user]\nr 1f"
    assert Text("r", None, 7, "1f", "output").words(kept) == "r\n1f"
    absent = [Text("r", None, 7, None).words(kept), Text("r", None, 7, "1f").words(None)]
    absent.append(Text("r", None, 7, "gone").words(kept))
    assert [found.code for found in absent if isinstance(found, Absent)] == [
        "content.none",
        "content.unread",
        "content.erased",
    ]


def test_as_json_each_text_is_there_or_says_why_not() -> None:
    run = grown()
    cell = next(run.cells())
    cell.code.content, cell.output = "gone", Text("t", None, 7, "1f", "output")
    found = plain(run, Kept())["turns"][0]["cells"][0]
    assert found["code"] == {"sha256": "c" * 64, "bytes": 9, "absent": "content.erased", "why": "it was erased"}
    assert found["output"]["output"] == {"stdout": "t\n", "stderr": "", "traceback": "1f\n"}
    assert found["steps"][2]["run"]["documents"][0]["read"] == [(400, 450), (460, 470)]


def test_either_store_tells_what_is_below_a_run_and_what_is_new(tmp_path: Path, store: str) -> None:
    async def main() -> None:
        log = OwnLog(tmp_path / "audit.db")
        for run, event, fields in [*TREE, ("t0", "run.started", {}), ("t-", "run.started", {})]:
            await log.append(RunId(run), made(event, fields))
        await log.journal.submit(log.host_entry(made("log.read", {})))
        await log.aclose()

    asyncio.run(main())
    where = journals.place(tmp_path / "audit.db")
    assert where is not None
    assert [record.run for record in records_below(where, "t")] == ["t"] * 22 + ["t.00001"] * 7
    assert list(records_below(where, "host")) == []
    assert [record.event for record in records_below(where, "host.reads")] == ["log.read"]
    assert (head(where), latest(where)) == (len(TREE) + 3, "t-")
    assert [record.seq for record in records_after(where, len(TREE) - 2, "t")] == [len(TREE) - 1, len(TREE)]
    assert [record.run for record in records_after(where, len(TREE))] == ["t0", "t-", "host.reads"]
    asyncio.run(log_read(where, by="user:alice", command="audit show", of=["t"]))
    assert [record.data["by"] for record in records(where, "host.reads")] == ["user:alice"] * 2


def skimmed(first: int, last: int) -> Run:
    """The tree of which only these records are fed whole."""
    tree = Trajectory()
    for record in recorded(TREE):
        (tree.feed if first <= record.seq <= last else tree.skim)(record)
    assert tree.run is not None
    return tree.run


def test_what_is_skimmed_counts_like_all_else_and_is_not_kept() -> None:
    whole, run = grown(), skimmed(0, 0)
    assert [kinds(cell.steps) for cell in run.cells()] == [[Child], [Answer]]
    assert [(cell.number, cell.status) for cell in run.cells()] == [
        (cell.number, cell.status) for cell in whole.cells()
    ]
    for one, same in zip(run.below(), whole.below(), strict=True):
        assert (one.own, one.total, one.status, one.limit) == (same.own, same.total, same.status, same.limit)
        assert (one.first_seq, one.last_seq, one.records, one.misfits) == (
            same.first_seq,
            same.last_seq,
            same.records,
            0,
        )
        for document, known in zip(one.documents, same.documents, strict=True):
            assert (list(document.read), list(document.shown)) == (list(known.read), list(known.shown))


def test_a_query_that_was_kept_has_its_outcome_though_that_is_skimmed() -> None:
    run = skimmed(8, 9)
    (first, _) = run.cells()
    assert kinds(first.steps) == [Read, Query, Child]
    query = first.steps[1]
    assert isinstance(query, Query)
    assert (query.action, query.outcome) == ("t.3", "completed")
    assert run.total.calls == 5


@pytest.mark.usefixtures("store")
def test_runs_are_listed_from_the_newest_on_and_a_tree_is_cut_into_parts(tmp_path: Path) -> None:
    async def main() -> None:
        log = OwnLog(tmp_path / "audit.db")
        others = [(run, "run.started", {"tenant": "beta"}) for run in ("t0", "t-", "a")]
        for run, event, fields in [*TREE, *others]:
            await log.append(RunId(run), made(event, fields))
        await log.journal.submit(log.host_entry(made("log.read", {})))
        await log.aclose()

    asyncio.run(main())
    where = journals.place(tmp_path / "audit.db")
    assert where is not None

    def listed(before: str | None, tenant: str = "", **bounds: int) -> tuple[list[str], str | None]:
        def is_wanted(run: RunSummary) -> bool:
            return tenant in ("", run.tenant)

        found, older = runs_before(where, before, is_wanted, **{"limit": 10, "looks_max": 100, **bounds})
        return [run.run for run in found], older

    assert listed(None) == (["t0", "t-", "t", "a"], None)
    assert listed(None, limit=2) == (["t0", "t-"], "t-")
    assert listed("t-") == (["t", "a"], None)
    assert listed(None, "beta", limit=3) == (["t0", "t-", "a"], "a")
    assert listed(None, "nobody", looks_max=3) == ([], "t")
    assert listed("a") == ([], None)
    assert marks_below(where, "t", 10) == [1, 11, 21]
    assert marks_below(where, "t0", 10) == [len(TREE) + 1]
    assert marks_below(where, "nobody", 10) == []
