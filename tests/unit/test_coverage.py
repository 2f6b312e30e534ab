"""Coverage: from the records of a run to the characters that were read and shown."""

from __future__ import annotations

from typing import Any

from belljar.audit import Coverage, Ranges, Record, characters_read, coverage
from tests.unit.audit_events import made

NO_ITEMS = {"items": 0, "lines": 0}
CONTEXTS: list[dict[str, Any]] = [
    {
        "name": "context",
        "kind": "text",
        "sha256": "a" * 64,
        "chars": 1000,
        **NO_ITEMS,
        "text": 0,
        "directory": None,
    },
    {
        "name": "mails",
        "kind": "dict",
        "sha256": "b" * 64,
        "chars": 500,
        **NO_ITEMS,
        "text": 1,
        "directory": 2,
    },
]


def record(event: str, **data: Any) -> Record:
    return below("r", event, **data)


def below(run: str, event: str, **data: Any) -> Record:
    return Record(seq=1, time_ns=0, run=run, typed=made(event, data), prev="", hash="", body=b"")


def read(doc: int, start: int, stop: int) -> Record:
    return record("context.read", cell=1, line=3, doc=doc, start=start, stop=stop)


def covered(*records: Record, ranges_max: int = 100) -> Coverage:
    return coverage([record("run.started", tenant="t", contexts=CONTEXTS), *records], ranges_max=ranges_max)


def test_reads_count_once_and_the_rest_is_listed() -> None:
    found = covered(read(0, 0, 100), read(0, 50, 150), read(0, 900, 1000), read(0, 150, 150))
    document = found.documents[0]
    assert (document.name, document.kind, document.sha256, document.chars) == ("context", "text", "a" * 64, 1000)
    assert (document.read_chars, document.read_share) == (250, 0.25)
    assert document.never_read == Ranges(1, [(150, 900)])
    assert document.never_shown == Ranges(1, [(0, 1000)])


def test_what_a_search_gave_is_read_also_when_it_took_several_records() -> None:
    first = {"cell": 1, "line": 1, "doc": 0, "mode": "find", "start": 0, "stop": 1000, "pattern_sha256": "c" * 64}
    found = covered(
        record("context.searched", **first, count=3, spans=[[0, 10], [20, 30]]),
        record("context.searched", cell=1, doc=0, spans=[[40, 50]]),
        record("context.searched", **first | {"mode": "count"}, count=99, spans=[]),
    )
    assert found.documents[0].read_chars == 30


def test_what_was_shown_is_counted_for_itself() -> None:
    found = covered(read(0, 0, 1000), record("query.shown", cell=1, doc=0, spans=[[10, 20], [15, 40]]))
    document = found.documents[0]
    assert (document.shown_chars, document.shown_share) == (30, 0.03)
    assert document.never_shown == Ranges(2, [(0, 10), (40, 1000)])
    assert document.never_read == Ranges(0, [])


def test_directories_and_unknown_documents_do_not_count() -> None:
    found = covered(read(2, 0, 294), read(9, 0, 10), read(1, 0, 250))
    assert [document.read_chars for document in found.documents] == [0, 250]
    assert (found.chars, found.read_chars, found.read_share) == (1500, 250, 0.166666)


def test_ranges_outside_a_document_do_not_count() -> None:
    assert covered(read(1, 400, 9000), read(1, 600, 700)).documents[1].read_chars == 100


def test_lists_of_ranges_are_cut_and_their_number_is_told() -> None:
    found = covered(*(read(0, start, start + 1) for start in range(0, 1000, 10)), ranges_max=3)
    assert found.documents[0].never_read == Ranges(100, [(1, 10), (11, 20), (21, 30)])


def test_untraced_prompts_are_told() -> None:
    shown = {"cell": 1, "doc": 0, "spans": [[0, 1]]}
    assert covered(record("query.shown", **shown)).untraced == 0
    assert covered(record("query.shown", **shown, complete=False), record("query.shown", **shown)).untraced == 1


def test_a_run_without_documents_has_read_nothing() -> None:
    found = coverage([record("run.started", tenant="t", contexts=[])])
    assert (found.documents, found.chars, found.read_share) == ([], 0, 0.0)


def started(run: str, context: dict[str, Any], **more: Any) -> Record:
    return below(run, "run.started", contexts=[context | {"text": 0, "directory": None} | more])


def test_what_the_runs_below_read_and_showed_counts_in_the_document_that_they_were_given() -> None:
    mails = CONTEXTS[1]
    found = covered(
        read(1, 0, 10),
        record("run.finished", status="ok"),
        started("r.00001", mails, part=(100, 300)),
        below("r.00001", "context.read", cell=1, line=1, doc=0, start=100, stop=200),
        below("r.00001", "query.shown", cell=1, doc=0, spans=[[100, 110]]),
        below("r.00001", "query.shown", cell=1, doc=0, spans=[], complete=False),
        started("r.00001.00001", mails, part=(150, 250)),
        below("r.00001.00001", "context.read", cell=1, line=1, doc=0, start=150, stop=250),
    )
    assert [(one.name, one.read_chars, one.shown_chars) for one in found.documents] == [
        ("context", 0, 0),
        ("mails", 10 + 150, 10),
    ]
    assert found.untraced == 1


def test_a_text_of_a_programs_own_and_what_is_below_it_do_not_count() -> None:
    """Also where it is, letter for letter, one of the run's documents."""
    found = covered(
        started("r.00001", CONTEXTS[0]),
        below("r.00001", "context.read", cell=1, line=1, doc=0, start=0, stop=1000),
        started("r.00001.00001", CONTEXTS[0], part=(0, 500)),
        below("r.00001.00001", "context.read", cell=1, line=1, doc=0, start=0, stop=500),
    )
    assert (found.chars, found.read_chars) == (1500, 0)


def test_characters_read_counts_reads_and_searches_of_one_document() -> None:
    searched = record("context.searched", doc=0, spans=[[5, 30]])
    assert characters_read([read(0, 0, 10), searched, read(1, 0, 100), record("query.shown", doc=0, spans=[])]) == 30
    assert characters_read([read(0, 0, 10), read(1, 0, 100)], doc=1) == 100
