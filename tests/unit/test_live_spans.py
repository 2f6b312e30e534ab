"""Spans of a run under way: each comes once, when it has ended, and is the one that an export of the whole run has."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from belljar.audit import Record
from belljar.audit.export.live import LiveSpans
from belljar.audit.export.otel import Span, spans
from belljar.audit.trajectory import trajectory
from belljar.identity import TraceParent
from tests.unit.audit_events import made

CALLER = TraceParent("4b" * 16, "00f067aa0ba902b7")
Entries = list[tuple[str, str, dict[str, Any]]]
# A question that is asked twice, a cell with a query, a host tool and a child run, and a second turn with the answer.
TREE: Entries = [
    ("t", "run.started", {"root_model": "big"}),
    ("t", "box.started", {}),
    ("t", "query.requested", {"action": "t.1", "cell": 0, "purpose": "root"}),
    ("t", "query.failed", {"action": "t.1", "error": "overloaded"}),
    ("t", "query.requested", {"action": "t.2", "cell": 0, "purpose": "root", "attempt": 2}),
    ("t", "query.completed", {"action": "t.2"}),
    ("t", "cell.started", {"cell": 1}),
    ("t", "context.read", {"cell": 1}),
    ("t", "query.requested", {"action": "t.3", "cell": 1, "purpose": "sub"}),
    ("t.00001", "run.started", {}),
    ("t.00001", "cell.started", {"cell": 1}),
    ("t", "query.completed", {"action": "t.3"}),
    ("t.00001", "query.requested", {"action": "t.00001.1", "cell": 1, "purpose": "tool", "model": "tool:mail"}),
    ("t.00001", "query.denied", {"action": "t.00001.1", "code": "quota.calls"}),
    ("t.00001", "answer.given", {"cell": 1}),
    ("t.00001", "run.finished", {"status": "ok"}),
    ("t", "query.reused", {"action": "t.4", "cell": 1}),
    ("t", "cell.finished", {"cell": 1}),
    ("t", "query.requested", {"action": "t.5", "cell": 1, "purpose": "root"}),
    ("t", "query.completed", {"action": "t.5"}),
    ("t", "cell.started", {"cell": 2}),
    ("t", "answer.given", {"cell": 2}),
    ("t", "answer.void", {"cell": 2}),
    ("t", "cell.finished", {"cell": 2, "status": "timeout"}),
    ("t", "run.finished", {"status": "timeout"}),
]
# When each is due: behind the record with this number.
WHEN = {
    4: ["chat big"],
    6: ["chat big"],
    12: ["chat small"],
    14: ["execute_tool mail"],
    16: ["invoke_agent code", "execute_tool run_code"],
    17: ["chat small"],
    18: ["execute_tool run_code"],
    19: ["turn 1"],
    20: ["chat big"],
    24: ["execute_tool run_code"],
    25: ["invoke_agent big", "turn 2"],
}


def recorded(entries: Entries) -> list[Record]:
    named = {"root": "big", "sub": "small"}
    found = []
    for seq, (run, event, data) in enumerate(entries, start=1):
        if event in ("query.requested", "query.reused") and "model" not in data:
            data = {**data, "model": named[data.get("purpose", "sub")]}
        typed = made(event, data)
        found.append(Record(seq=seq, time_ns=seq * 1000, run=run, typed=typed, prev="", hash="", body=b""))
    return found


def exported(entries: Entries, caller: TraceParent | None = None) -> list[Span]:
    run = trajectory(recorded(entries))
    assert run is not None
    return list(spans(run, caller=caller))


def follow(entries: Entries, caller: TraceParent | None = None) -> dict[int, list[Span]]:
    """What is due behind each record, and taken."""
    live, found = LiveSpans(caller), {}
    for record in recorded(entries):
        live.feed(record)
        if due := copy.deepcopy(list(live.due())):
            found[record.seq] = due
        for span in due:
            live.taken(span)
    assert list(live.due()) == []
    return found


def by_id(found: list[Span]) -> list[Span]:
    return sorted(found, key=lambda span: str(span["spanId"]))


def test_each_span_is_due_as_soon_as_it_has_ended() -> None:
    assert {seq: [span["name"] for span in found] for seq, found in follow(TREE).items()} == WHEN


def test_what_was_due_is_what_an_export_has_each_once() -> None:
    found = [span for due in follow(TREE).values() for span in due]
    assert by_id(found) == by_id(exported(TREE))


@pytest.mark.parametrize("seq", range(1, len(TREE)))
def test_wherever_a_host_dies_what_was_due_is_what_an_export_has(seq: int) -> None:
    open_runs = ["t.00001", "t"] if 10 <= seq < 16 else ["t"]
    entries: Entries = [*TREE[:seq], *((run, "run.abandoned", {}) for run in open_runs)]
    found = [span for due in follow(entries).values() for span in due]
    assert by_id(found) == by_id(exported(entries))


def test_a_root_query_and_a_cell_are_below_their_turn_and_a_turn_lasts_as_long_as_they_do() -> None:
    found = exported(TREE)
    names = {span["spanId"]: span["name"] for span in found}
    above = [(span["name"], names.get(span.get("parentSpanId"))) for span in found]
    assert above == [
        ("invoke_agent big", None),
        ("turn 1", "invoke_agent big"),
        ("chat big", "turn 1"),
        ("chat big", "turn 1"),
        ("execute_tool run_code", "turn 1"),
        ("chat small", "execute_tool run_code"),
        ("invoke_agent code", "execute_tool run_code"),
        ("execute_tool run_code", "invoke_agent code"),
        ("execute_tool mail", "execute_tool run_code"),
        ("chat small", "execute_tool run_code"),
        ("turn 2", "invoke_agent big"),
        ("chat big", "turn 2"),
        ("execute_tool run_code", "turn 2"),
    ]
    first, second = (span for span in found if span["name"].startswith("turn"))
    assert (first["startTimeUnixNano"], first["endTimeUnixNano"]) == ("3000", "18000")
    assert (second["startTimeUnixNano"], second["endTimeUnixNano"]) == ("19000", "24000")


def test_a_turn_has_failed_if_nobody_answered() -> None:
    (failed,) = (span for span in exported(TREE[:4]) if span["name"] == "turn 1")
    (answered,) = (span for span in exported(TREE[:6]) if span["name"] == "turn 1")
    assert (failed["status"], answered["status"]) == ({"code": 2, "message": "failed"}, {"code": 1})


def test_what_was_not_taken_is_due_again() -> None:
    live = LiveSpans()
    for record in recorded(TREE[:6]):
        live.feed(record)
    first, second = live.due()
    live.taken(first)
    assert live.is_new
    assert list(live.due()) == [second]
    live.taken(second)
    assert list(live.due()) == []
    assert not live.is_new


def test_a_caller_s_span_is_above_the_run_and_all_are_in_its_trace() -> None:
    own, below = exported(TREE), exported(TREE, CALLER)
    assert {span["traceId"] for span in below} == {CALLER.trace}
    assert [span["spanId"] for span in below] == [span["spanId"] for span in own]
    assert below[0]["parentSpanId"] == CALLER.span
    assert [span["parentSpanId"] for span in below[1:]] == [span["parentSpanId"] for span in own[1:]]
    assert by_id([span for due in follow(TREE, CALLER).values() for span in due]) == by_id(below)


def test_a_child_that_is_exported_alone_is_in_the_caller_s_trace_and_not_below_its_span() -> None:
    child = [one for one in recorded(TREE) if one.run == "t.00001"]
    run = trajectory(child)
    assert run is not None
    root, *_ = spans(run, caller=CALLER)
    assert (root["traceId"], root.get("parentSpanId")) == (CALLER.trace, None)
