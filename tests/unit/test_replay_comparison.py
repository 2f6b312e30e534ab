"""What a replay did, compared with the record: the same is equal, and anything else is the first divergence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from belljar.audit.read import Record
from belljar.audit.replay import Actions, Comparison, actions_of, compare
from belljar.audit.trajectory import trajectory
from tests.unit.audit_events import made

RUN = "20261128T120000-00aa"
AGAIN = "20261129T090000-11bb"
Events = list[tuple[str, str, dict[str, Any]]]

# A run with a cell of each kind of action, and a child: its place, the event, its fields.
RECORDED: Events = [
    ("", "run.started", {"root_model": "m", "sub_model": "m"}),
    ("", "query.requested", {"action": "1", "cell": 0, "purpose": "root", "prompt_sha256": "1" * 64}),
    ("", "query.completed", {"action": "1", "reply_sha256": "2" * 64}),
    ("", "cell.started", {"cell": 1, "code_sha256": "3" * 64}),
    ("", "context.read", {"cell": 1, "start": 0, "stop": 9}),
    ("", "context.searched", {"cell": 1, "mode": "find", "pattern_sha256": "4" * 64, "count": 2, "spans": [[0, 2]]}),
    ("", "context.searched", {"cell": 1, "spans": [[5, 7]]}),
    ("", "query.requested", {"action": "2", "cell": 1, "purpose": "sub", "prompt_sha256": "5" * 64}),
    ("", "query.requested", {"action": "3", "cell": 1, "purpose": "sub", "prompt_sha256": "6" * 64}),
    ("", "query.completed", {"action": "3", "reply_sha256": "7" * 64}),
    ("", "query.failed", {"action": "2", "error": "overloaded"}),
    ("", "query.requested", {"action": "4", "cell": 1, "purpose": "tool", "model": "tool:look"}),
    ("", "query.completed", {"action": "4", "reply_sha256": "8" * 64}),
    ("", "request.refused", {"cell": 1, "asked": "read", "code": "read.out_of_range"}),
    ("", "cell.finished", {"cell": 1, "status": "ok", "output_bytes": 5}),
    ("", "query.requested", {"action": "5", "cell": 1, "purpose": "root", "prompt_sha256": "9" * 64}),
    ("", "query.completed", {"action": "5", "reply_sha256": "a" * 64}),
    ("", "cell.started", {"cell": 2, "code_sha256": "b" * 64}),
    ("00001", "run.started", {"root_model": "m", "question_bytes": 7}),
    ("00001", "cell.started", {"cell": 1, "code_sha256": "c" * 64}),
    ("00001", "answer.given", {"cell": 1, "answer_sha256": "d" * 64}),
    ("00001", "cell.finished", {"cell": 1, "status": "ok"}),
    ("00001", "run.finished", {"status": "ok"}),
    ("", "answer.void", {"cell": 2, "answer_sha256": "e" * 64}),
    ("", "answer.given", {"cell": 2, "answer_sha256": "f" * 64}),
    ("", "cell.finished", {"cell": 2, "status": "ok"}),
    ("", "run.finished", {"status": "ok"}),
]


def done(events: Events, *, run: str = RUN, printed: Callable[[int], str | None] = lambda _: None) -> Actions:
    records = []
    for seq, (place, name, fields) in enumerate(events, start=1):
        whose = f"{run}.{place}" if place else run
        if "action" in fields:
            fields = {**fields, "action": f"{whose}.{fields['action']}"}
        records.append(Record(seq, seq, whose, made(name, fields), "", "", b""))
    by_run = sorted(records, key=lambda one: one.run)  # as `records_below` gives them
    found = trajectory(by_run)
    assert found is not None
    return actions_of(found, lambda cell: printed(cell.number))


def changed(at: int, **fields: Any) -> Events:
    place, name, old = RECORDED[at]
    return [*RECORDED[:at], (place, name, {**old, **fields}), *RECORDED[at + 1 :]]


def compared(again: Events, **options: Any) -> Comparison:
    return compare(done(RECORDED), done(again, run=AGAIN), **options)


def test_the_same_actions_are_equal_whatever_the_ids_the_times_and_the_costs() -> None:
    dear = [
        (place, name, fields | ({"cost_nanousd": 7} if name == "query.completed" else {}))
        for place, name, fields in RECORDED
    ]
    found = compared(dear)
    assert (found.first, found.cut) == (None, False)
    assert found.actions == found.equal_actions == 20


def test_of_one_cell_the_order_of_requests_does_not_count() -> None:
    # Two prompts of a batch, the other way round.
    swapped = [*RECORDED[:7], RECORDED[8], RECORDED[7], *RECORDED[9:]]
    assert compared(swapped).first is None


def test_the_prompt_of_a_root_model_is_no_action_but_its_reply_is() -> None:
    assert compared(changed(1, prompt_sha256="0" * 64)).first is None
    assert compared(changed(2, reply_sha256="0" * 64)).first is not None


def test_an_answer_that_was_used_again_is_the_same_answer() -> None:
    reused = {"action": "3", "cell": 1, "prompt_sha256": "6" * 64, "reply_sha256": "7" * 64}
    again = [*RECORDED[:8], ("", "query.reused", {**reused, "origin": f"{AGAIN}.9"}), *RECORDED[10:]]
    assert compared(again).first is None


# Which record is changed, how, and the kind and the cell of the divergence.
CHANGES: Sequence[tuple[int, dict[str, Any], str, int]] = [
    (2, {"reply_sha256": "0" * 64}, "turn", 0),
    (3, {"code_sha256": "0" * 64}, "cell", 1),
    (4, {"stop": 8}, "read", 1),
    (4, {"doc": 1}, "read", 1),
    (5, {"pattern_sha256": "0" * 64}, "search", 1),
    (6, {"spans": [[5, 8]]}, "search", 1),
    (7, {"prompt_sha256": "0" * 64}, "query", 1),
    (8, {"model": "other"}, "query", 1),
    (9, {"reply_sha256": "0" * 64}, "query", 1),
    (10, {"error": "refused"}, "query", 1),
    (11, {"prompt_sha256": "0" * 64}, "tool", 1),
    (12, {"reply_sha256": "0" * 64}, "tool", 1),
    (13, {"code": "context.read"}, "refused", 1),
    (14, {"status": "error"}, "output", 1),
    (14, {"output_bytes": 6}, "output", 1),
    (18, {"question_bytes": 8}, "child", 2),
    (19, {"code_sha256": "0" * 64}, "cell", 1),
    (20, {"answer_sha256": "0" * 64}, "answer", 1),
    (22, {"status": "quota", "code": "quota.run.calls"}, "end", 2),
    (23, {"answer_sha256": "0" * 64}, "void", 2),
    (24, {"answer_sha256": "0" * 64}, "answer", 2),
    (26, {"status": "error"}, "end", 3),
]


@pytest.mark.parametrize(("at", "fields", "kind", "cell"), CHANGES)
def test_each_kind_of_action_diverges(at: int, fields: dict[str, Any], kind: str, cell: int) -> None:
    first = compared(changed(at, **fields)).first
    assert first is not None
    assert first.recorded is not None
    assert first.replayed is not None
    assert (first.recorded.kind, first.replayed.kind) == (kind, kind)
    place = "" if kind == "child" else RECORDED[at][0]  # the run that started it did that
    assert (first.place, first.cell) == (place, cell)
    assert first.recorded.about != first.replayed.about
    assert first.recorded.says() != first.replayed.says()


def test_of_two_differences_the_first_in_the_record_is_the_divergence() -> None:
    both = changed(24, answer_sha256="0" * 64)
    both[7] = ("", "query.requested", {**both[7][2], "prompt_sha256": "0" * 64})
    first = compared(both).first
    assert first is not None
    assert first.recorded is not None
    assert first.recorded.kind == "query"


def test_a_difference_in_a_child_comes_before_what_follows_from_it_above() -> None:
    both = changed(24, answer_sha256="0" * 64)
    both[20] = ("00001", "answer.given", {**both[20][2], "answer_sha256": "0" * 64})
    first = compared(both).first
    assert first is not None
    assert (first.place, first.cell) == ("00001", 1)


def test_what_was_not_done_again_has_nothing_beside_it() -> None:
    first = compared([*RECORDED[:4], *RECORDED[5:]]).first
    assert first is not None
    assert first.recorded is not None
    assert (first.recorded.kind, first.replayed) == ("read", None)


def test_what_was_done_in_addition_is_a_divergence() -> None:
    more = [*RECORDED[:5], ("", "context.read", {"cell": 1, "start": 9, "stop": 12}), *RECORDED[5:]]
    first = compared(more).first
    assert first is not None
    assert first.replayed is not None
    assert (first.recorded, first.replayed.kind, first.cell) == (None, "read", 1)


def test_a_run_that_ended_early_diverges_where_it_did() -> None:
    first = compared([*RECORDED[:15], ("", "run.finished", {"status": "error"})]).first
    assert first is not None
    assert first.recorded is not None
    assert (first.recorded.kind, first.cell) == ("turn", 1)


def test_a_run_that_went_on_diverges_behind_its_end() -> None:
    more: Events = [
        *RECORDED[:26],
        ("", "cell.started", {"cell": 3}),
        ("", "cell.finished", {"cell": 3}),
        RECORDED[26],
    ]
    first = compared(more).first
    assert first is not None
    assert first.replayed is not None
    assert (first.replayed.kind, first.replayed.cell) == ("cell", 3)


def test_what_was_printed_counts_where_both_sides_know_it() -> None:
    def at(text: str | None) -> Actions:
        return done(RECORDED, printed=lambda number: text if number == 1 else "same")

    assert compare(at("one"), at("one")).first is None
    assert compare(at("one"), at(None)).first is None
    first = compare(at("one"), at("two")).first
    assert first is not None
    assert first.recorded is not None
    assert (first.recorded.kind, first.cell) == ("output", 1)


def test_from_a_stop_on_nothing_counts() -> None:
    late = changed(24, answer_sha256="0" * 64)
    found = compared(late, stops={"": 2})
    assert (found.first, found.cut) == (None, True)
    assert found.actions == 10
    early = changed(4, stop=8)
    assert compared(early, stops={"": 2}).first is not None


def test_a_stop_in_a_child_stops_those_above_where_they_started_it() -> None:
    late = changed(24, answer_sha256="0" * 64)
    found = compared(late, stops={"00001": 1})
    assert (found.first, found.cut) == (None, True)
    assert compared(changed(14, status="error"), stops={"00001": 1}).first is not None


def test_children_of_a_cell_that_is_not_compared_are_not_compared() -> None:
    found = compared(changed(20, answer_sha256="0" * 64), stops={"": 2})
    assert found.first is None
