"""The audit log: durable when it says so, readable byte for byte, and tampering shows."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from belljar.audit import Record, Report, RunSummary, records, runs, verify
from belljar.audit.events import BoxStarted, CellStarted, Event, RequestRefused, RunStarted
from belljar.errors import AuditUnavailable, InvalidInput, VerificationFailed
from belljar.identity import RunId
from tests.journals import OwnLog, fill, meddle
from tests.unit.audit_events import made

Entry = tuple[str, str, Mapping[str, Any]]

STORY: list[Entry] = [
    ("run.started", "r1", {"tenant": "acme/research"}),
    ("query.requested", "r1", {"action": "a1", "cell": 0}),
    ("query.completed", "r1", {"action": "a1"}),
    ("request.refused", "r1", {"cell": 0}),
    ("query.requested", "r1", {"action": "a2", "cell": 0}),
    ("query.denied", "r1", {"action": "a2"}),
    ("run.finished", "r1", {"status": "ok"}),
]


def write(path: Path, entries: list[Entry]) -> None:
    async def main() -> None:
        clock = iter(range(1000, 10**6))
        log = OwnLog(path, clock=lambda: next(clock))
        for event, run, fields in entries:
            await log.append(RunId(run), made(event, fields))
        await log.aclose()

    asyncio.run(main())


def tamper(path: Path, *statements: str) -> None:
    """What someone with write access to the file does: the triggers are away for so long."""
    with untriggered(path) as db:
        for statement in statements:
            db.execute(statement)


@contextmanager
def untriggered(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            db.execute(f"DROP TRIGGER {name}")
        yield db
        for _, statement in triggers:
            db.execute(statement)


def rehash(path: Path, seq: int, body: bytes) -> None:
    with untriggered(path) as db:
        db.execute("UPDATE records SET body = ?, hash = ? WHERE seq = ?", (body, hashlib.sha256(body).digest(), seq))


def problems_of(entries: list[Entry], path: Path) -> list[str]:
    write(path, entries)
    return verify(path).problems


@pytest.fixture
def story(tmp_path: Path) -> Path:
    write(tmp_path / "audit.db", STORY)
    return tmp_path / "audit.db"


# -- records ---------------------------------------------------------------------------------------------------------


def test_a_record_is_the_canonical_bytes_that_the_next_one_names(story: Path) -> None:
    first, second, *_ = records(story)
    zeros = "0" * 64
    assert (
        first.body
        == (
            f'{{"data":{{"contexts":[],"tenant":"acme/research"}},"event":"run.started",'
            f'"prev":"{zeros}","run":"r1","seq":1,"time_ns":1000,"v":6}}'
        ).encode()
    )
    assert first.hash == hashlib.sha256(first.body).hexdigest()
    assert second.prev == first.hash
    assert (second.seq, second.event, second.typed) == (2, "query.requested", made(*STORY[1][::2]))
    assert second.data["action"] == "a1"


def test_a_sound_log_has_no_problems(story: Path) -> None:
    *_, last = records(story)
    assert verify(story) == Report(records=7, runs=1, head=last.hash, problems=[], unfinished=[])
    assert verify(story).ok


@pytest.mark.parametrize(
    ("events", "problems"),
    [
        ("start 1, end 1, start 2, end 2", 0),
        ("start 1, end 1, start 2", 0),
        ("start 1, start 2, end 2", 1),
        ("start 1, start 2, end 1", 2),
        ("start 1, end 2", 1),
        ("start 1, end 1, end 1", 1),
        ("end 1", 2),
    ],
)
def test_the_cells_of_a_run_do_not_overlap(tmp_path: Path, events: str, problems: int) -> None:
    names = {"start": "cell.started", "end": "cell.finished"}
    cells = [event.split() for event in events.split(", ")]
    entries: list[Entry] = [("run.started", run, {"tenant": "a", "contexts": []}) for run in ("r1", "r2")]
    entries += [(names[name], run, {"cell": int(cell)}) for name, cell in cells for run in ("r1", "r2")]
    found = problems_of(entries, tmp_path / "a.db")
    assert len(found) == 2 * problems, found


def test_an_empty_log_is_sound(tmp_path: Path) -> None:
    write(tmp_path / "a.db", [])
    assert verify(tmp_path / "a.db") == Report(records=0, runs=0, head="0" * 64, problems=[], unfinished=[])


def test_runs_are_summed_up_in_order(tmp_path: Path) -> None:
    write(tmp_path / "a.db", [*STORY, ("run.started", "r2", {"tenant": "b"})])
    assert runs(tmp_path / "a.db") == [
        RunSummary("r1", "acme/research", 1000, "ok", 7, cost_nanousd=0),
        RunSummary("r2", "b", 1007, None, 1),
    ]
    assert [record.seq for record in records(tmp_path / "a.db", "r2")] == [8]


def test_an_append_is_in_the_file_when_it_returns_and_a_note_before_it(tmp_path: Path) -> None:
    path = tmp_path / "a.db"

    async def main() -> None:
        log = OwnLog(path)
        await log.note(RunId("r1"), made("context.read", {}))
        assert await log.append(RunId("r1"), made("query.requested", {})) == 2
        assert [record.event for record in records(path)] == ["context.read", "query.requested"]
        await log.note(RunId("r1"), made("context.read", {}))
        await log.flush()
        assert len(list(records(path))) == 3
        await log.aclose()

    asyncio.run(main())


def test_concurrent_appends_get_gapless_numbers() -> None:
    async def main() -> None:
        log = OwnLog(None)
        seqs = await asyncio.gather(
            *(log.append(RunId(f"r{n % 7}"), made("cell.started", {"cell": n})) for n in range(1000))
        )
        assert sorted(seqs) == list(range(1, 1001))
        await log.aclose()

    asyncio.run(main())


HOSTILE = [
    'x"},"event":"run.finished","seq":99}',
    "line\nline\r\n\x00\x1b[2J\x7f\x85\u2028\u2029",
    "\ud800 alone, \udc00\ud800 the wrong way round",
    "\ud83d\ude00 a pair in two halves",
    "\\ud800 spelt out, and \\\ud800 after a backslash",
    "\U0010ffff\ufeff\ufffe",
    "x" * 4096,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_survives_as_data(tmp_path: Path, text: str) -> None:
    layers = ("box.started", "other", {"layers": ["seccomp", text]})
    write(tmp_path / "a.db", [("run.started", "other", {"tenant": text}), layers, *STORY])
    first, second, *_ = records(tmp_path / "a.db")
    meant = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    assert first.data["tenant"] == meant
    assert second.data == {"layers": ["seccomp", meant]}
    assert second.typed == BoxStarted(layers=["seccomp", meant])
    assert b"\n" not in first.body
    assert verify(tmp_path / "a.db").ok


class Word(str):
    """A caller's own kind of text."""


def test_a_text_of_a_callers_own_kind_is_a_text(tmp_path: Path) -> None:
    write(tmp_path / "a.db", [("run.started", "r1", {"tenant": Word("acme")})])
    assert [record.data["tenant"] for record in records(tmp_path / "a.db")] == ["acme"]


ODD_EVENTS: list[Any] = [
    CellStarted(cell=1.0, code_sha256="c" * 64, code_bytes=1),  # type: ignore[arg-type]
    CellStarted(cell=True, code_sha256="c" * 64, code_bytes=1),
    CellStarted(cell=-1, code_sha256="c" * 64, code_bytes=1),
    CellStarted(cell=1, code_sha256="c", code_bytes=1),
    BoxStarted(layers=[b"bytes"]),  # type: ignore[list-item]
    BoxStarted(layers=[float("nan")]),  # type: ignore[list-item]
    BoxStarted(layers={"a"}),  # type: ignore[arg-type]
    BoxStarted(layers=object()),  # type: ignore[arg-type]
    RunStarted(tenant=None, contexts=[]),  # type: ignore[arg-type]
    RunStarted(tenant="acme", contexts=[], facts={"Key": "x"}),
    RunStarted(tenant="acme", contexts=[], facts={"depth": 1}),  # type: ignore[dict-item]
]


@pytest.mark.parametrize("event", ODD_EVENTS)
def test_what_no_reader_would_take_is_not_written(event: Event) -> None:
    async def main() -> None:
        log = OwnLog(None)
        with pytest.raises(TypeError):
            await log.append(RunId("r1"), event)
        with pytest.raises(TypeError):
            await log.note(RunId("r1"), event)
        assert await log.append(RunId("r1"), BoxStarted(layers=[])) == 1
        await log.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    "event",
    [
        BoxStarted(layers=["x" * 4097]),
        BoxStarted(layers=["\ud800" * 4097]),
        BoxStarted(layers=["x" * 4000] * 17),
        CellStarted(cell=2**63, code_sha256="c" * 64, code_bytes=1),
        RequestRefused(cell=0, asked="read", code="context.read", limit=-(2**63)),
        CellStarted(cell=2**70, code_sha256="c" * 64, code_bytes=1),
    ],
)
def test_what_is_too_long_is_refused(event: Event) -> None:
    async def main() -> None:
        log = OwnLog(None)
        with pytest.raises(InvalidInput) as caught:
            await log.append(RunId("r1"), event)
        assert caught.value.code == "audit.too_long"
        await log.aclose()

    asyncio.run(main())


# -- failures --------------------------------------------------------------------------------------------------------


def test_no_folder_no_log(tmp_path: Path) -> None:
    with pytest.raises(AuditUnavailable, match=r"cannot open the journal .*/no/a\.db: its folder does not exist"):
        OwnLog(tmp_path / "no" / "a.db")


def test_reading_never_creates_a_file(tmp_path: Path, story: Path) -> None:
    for read in (verify, runs, records):
        with pytest.raises(InvalidInput, match="there is no audit log at"):
            read(tmp_path / "none.db")
    verify(story)
    runs(story)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit.db", "audit.db-turn"]


def test_a_log_in_use_can_be_read_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    path, link = tmp_path / "there" / "a.db", tmp_path / "link.db"
    link.symlink_to(path)

    async def main() -> None:
        log = OwnLog(path)
        await log.append(RunId("r1"), made("run.started", {}))
        assert verify(link).records == 1
        await log.aclose()

    asyncio.run(main())
    assert verify(link).records == 1


def test_our_own_mistakes_cannot_change_or_delete_a_record(story: Path) -> None:
    with closing(sqlite3.connect(story)) as db:
        for statement in ("UPDATE records SET seq = 100", "DELETE FROM records"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                db.execute(statement)


DISK_FULL = """
import asyncio, resource, sys
from pathlib import Path
from belljar.audit.events import BoxStarted, RunStarted
from belljar.errors import AuditUnavailable
from belljar.identity import RunId
from tests.journals import OwnLog

LONG = BoxStarted(layers=["x" * 2000])

async def main():
    log = OwnLog(Path(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))   # write() fails from here on, as on a full disk
    count = 0
    try:
        while True:
            count = await log.append(RunId(f"r{count + 1}"), RunStarted(tenant="x" * 2000, contexts=[]))
    except AuditUnavailable as error:
        print(count, error, flush=True)
    await log.note(RunId("r1"), LONG)
    try:
        await log.append(RunId("r1"), LONG)
    except AuditUnavailable:
        print("refused", flush=True)

asyncio.run(main())
"""


def test_a_full_disk_is_refused_and_what_was_acknowledged_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    done = subprocess.run(
        [sys.executable, "-c", DISK_FULL, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    first, second = done.stdout.splitlines()
    count, message = first.split(" ", 1)
    assert int(count) > 10
    assert message.startswith(f"the journal {path} cannot be written: ")
    assert second == "refused"
    report = verify(path)
    assert report.ok
    assert report.records == int(count)


def test_after_a_lost_note_nothing_more_of_its_run_is_written_and_no_other_run_is_stopped() -> None:
    async def main() -> None:
        log = OwnLog(None)
        await fill(log.journal)
        await log.note(RunId("r1"), BoxStarted(layers=["x" * 4000] * 10))
        with pytest.raises(AuditUnavailable):
            await log.flush()
        assert await log.append(RunId("r2"), made("query.requested", {})) == 1
        for _ in range(2):
            with pytest.raises(AuditUnavailable, match="the disk is full; free some space"):
                await log.append(RunId("r1"), made("query.requested", {}))
            await log.note(RunId("r1"), made("cell.finished", {"cell": 1, "status": "ok", "output_bytes": 0}))
        await log.flush()
        assert await log.append(RunId("r2"), made("run.finished", {"status": "ok"})) == 2
        await log.aclose()

    asyncio.run(main())


APPENDER = """
import asyncio, sys
from pathlib import Path
from belljar.audit.events import CellFinished, CellStarted, RunStarted
from tests.journals import OwnLog

async def main():
    log = OwnLog(Path(sys.argv[1]))
    await log.append(sys.argv[2], RunStarted(tenant="acme", contexts=[]))
    for n in range(1, int(sys.argv[3]) + 1):
        await log.note(sys.argv[2], CellStarted(cell=n, code_sha256="c" * 64, code_bytes=1))
        print(await log.append(sys.argv[2], CellFinished(cell=n, status="ok", output_bytes=0)), flush=True)
    await log.aclose()

asyncio.run(main())
"""


def appender(path: Path, run: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", APPENDER, str(path), run, str(count)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_kill_during_appends_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    acknowledged = 0
    for attempt in range(3):
        with appender(path, f"r{attempt}", 10**6) as process:
            assert process.stdout is not None
            for _ in range(40):
                acknowledged = int(process.stdout.readline())
            os.kill(process.pid, signal.SIGKILL)
            rest = [line for line in process.stdout if line.endswith("\n")]
            acknowledged = int(rest[-1]) if rest else acknowledged
        report = verify(path)
        assert report.ok
        assert report.records >= acknowledged
    assert verify(path).runs == 3


@pytest.mark.slow
def test_two_processes_append_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with appender(path, "left", 150) as left, appender(path, "right", 150) as right:
        acknowledged = [int(line) for process in (left, right) for line in process.communicate(timeout=60)[0].split()]
    assert len(set(acknowledged)) == 300
    report = verify(path)
    assert report.ok
    assert (report.records, report.runs) == (602, 2)
    ended = [record.data["cell"] for record in records(path, "left") if record.event == "cell.finished"]
    assert ended == list(range(1, 151))


# -- tampering -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", range(0, 130, 7))
def test_a_flipped_bit_is_found(story: Path, position: int) -> None:
    body = bytearray(list(records(story))[2].body)
    body[position] ^= 1
    tamper(story, f"UPDATE records SET body = x'{body.hex()}' WHERE seq = 3")
    problems = verify(story).problems
    assert "record 3: its bytes do not have the hash that was kept with them" in problems
    assert "record 4: it does not continue the record before it" in problems


def test_a_flipped_bit_in_the_kept_hash_is_found(story: Path) -> None:
    tamper(story, "UPDATE records SET hash = zeroblob(32) WHERE seq = 7")
    assert verify(story).problems == ["record 7: its bytes do not have the hash that was kept with them"]


def test_a_record_changed_together_with_its_hash_is_found(story: Path) -> None:
    body = list(records(story))[2].body.replace(b'"a1"', b'"a2"')
    rehash(story, 3, body)
    assert "record 4: it does not continue the record before it" in verify(story).problems


def test_a_record_removed_from_the_middle_is_found(story: Path) -> None:
    tamper(story, "DELETE FROM records WHERE seq = 4")
    problems = verify(story).problems
    assert problems == [
        "record 5: expected record 4; what was between is gone",
        "record 5: it does not continue the record before it",
    ]


def test_a_removed_record_is_found_though_the_rest_was_renumbered(story: Path) -> None:
    tamper(
        story,
        "DELETE FROM records WHERE seq = 4",
        *(f"UPDATE records SET seq = {n - 1} WHERE seq = {n}" for n in (5, 6, 7)),
    )
    assert "record 4: it says that it is record 5" in verify(story).problems


def test_two_swapped_records_are_found(story: Path) -> None:
    tamper(
        story,
        "UPDATE records SET seq = 100 WHERE seq = 4",
        "UPDATE records SET seq = 4 WHERE seq = 5",
        "UPDATE records SET seq = 5 WHERE seq = 100",
    )
    problems = verify(story).problems
    assert "record 4: it says that it is record 5" in problems
    assert "record 5: it says that it is record 4" in problems


def test_an_inserted_record_is_found(story: Path) -> None:
    third = list(records(story))[2]
    forged = third.body.replace(b'"seq":3', b'"seq":4')
    with untriggered(story) as db:
        for n in (7, 6, 5, 4):
            db.execute("UPDATE records SET seq = ? WHERE seq = ?", (n + 1, n))
        db.execute("INSERT INTO records VALUES (4, 'r1', ?, ?)", (forged, hashlib.sha256(forged).digest()))
    problems = verify(story).problems
    assert "record 4: it does not continue the record before it" in problems
    assert "record 5: it says that it is record 4" in problems


def test_a_cut_tail_is_not_found_by_the_chain_alone(story: Path) -> None:
    before = verify(story)
    tamper(story, "DELETE FROM records WHERE seq > 3")
    after = verify(story)
    assert after.ok
    assert after.head != before.head
    assert before.head not in [record.hash for record in records(story)]  # what a kept head is for


def pretty(record: Record) -> bytes:
    return json.dumps(json.loads(record.body), sort_keys=True).encode()


def twice(record: Record) -> bytes:
    return record.body.replace(b'"v":6', b'"v":6,"v":6')


def floating(record: Record) -> bytes:
    return record.body.replace(b'"time_ns":1006', b'"time_ns":1006.0')


def escaped(record: Record) -> bytes:
    return record.body.replace(b'"ok"', b'"\\u006fk"')


def deep(record: Record) -> bytes:
    return record.body.replace(b'"ok"', b"[" * 30000 + b"]" * 30000)


def extra(record: Record) -> bytes:
    return record.body.replace(b'"v":6', b'"v":6,"w":1')


def huge(record: Record) -> bytes:
    return record.body.replace(b'"ok"', b'"' + b"x" * 70000 + b'"')


def other_version(record: Record) -> bytes:
    return record.body.replace(b'"v":6', b'"v":7')


def unknown_event(record: Record) -> bytes:
    return record.body.replace(b'"run.finished"', b'"run.paused"')


def unknown_field(record: Record) -> bytes:
    return record.body.replace(b'"calls":1', b'"calls":1,"callz":1')


def missing_field(record: Record) -> bytes:
    return record.body.replace(b'"calls":1,', b"")


def other_type(record: Record) -> bytes:
    return record.body.replace(b'"calls":1', b'"calls":"1"')


def null(record: Record) -> bytes:
    return record.body.replace(b'"calls":1', b'"calls":1,"code":null')


def older_version(record: Record) -> bytes:
    return record.body.replace(b'"v":6', b'"v":0')


def truth(record: Record) -> bytes:
    return record.body.replace(b'"v":6', b'"v":true')


@pytest.mark.parametrize(
    ("forge", "words"),
    [
        (pretty, "it is not canonical JSON"),
        (twice, "it is not canonical JSON"),
        (floating, "it is not canonical JSON"),
        (escaped, "it is not canonical JSON"),
        (deep, "it is not canonical JSON"),
        (extra, "it does not have the fields of a record"),
        (truth, "it does not have the fields of a record"),
        (other_version, "it has an unknown version"),
        (older_version, "it has an unknown version"),
        (unknown_event, "it has an unknown event, 'run.paused'"),
        (unknown_field, "it is not a valid run.finished: Object contains unknown field `callz`"),
        (missing_field, "it is not a valid run.finished: Object missing required field `calls`"),
        (other_type, "it is not a valid run.finished: Expected `int`, got `str` - at `$.calls`"),
        (null, "it has a field that equals its default and should be left out"),
        (huge, "it is not a blob of at most 65536 bytes"),
    ],
)
def test_a_last_record_in_another_form_is_found(story: Path, forge: Callable[[Record], bytes], words: str) -> None:
    *_, last = records(story)
    rehash(story, last.seq, forge(last))
    assert f"record 7: {words}" in verify(story).problems
    with pytest.raises(VerificationFailed, match="record 7 of the audit log"):
        runs(story)


def test_a_damaged_file_is_a_problem_and_not_a_crash(story: Path) -> None:
    data = bytearray(story.read_bytes())
    for start in range(0, len(data), 512):
        damaged = data.copy()
        damaged[start : start + 64] = b"\xa5" * 64
        story.write_bytes(damaged)
        report = verify(story)
        assert report.problems or report.records == 7  # what nothing reads may hold anything
    story.write_bytes(b"no database at all" * 100)
    assert verify(story).problems == ["after record 0: the file cannot be read: file is not a database"]


def test_the_list_of_problems_is_bounded(tmp_path: Path) -> None:
    write(tmp_path / "a.db", [("run.started", f"r{n}", {}) for n in range(300)])
    tamper(tmp_path / "a.db", "UPDATE records SET hash = zeroblob(32)")
    problems = verify(tmp_path / "a.db").problems
    assert len(problems) == 101
    assert problems[-1] == "and 200 more problems"


# -- the shape of a run ----------------------------------------------------------------------------------------------

START: Entry = ("run.started", "r1", {"tenant": "acme"})
ASK: Entry = ("query.requested", "r1", {"action": "a1", "cell": 0})
END: Entry = ("run.finished", "r1", {"status": "ok"})


def test_an_action_without_outcome_is_unfinished_while_its_run_is(tmp_path: Path) -> None:
    write(tmp_path / "a.db", [START, ASK])
    report = verify(tmp_path / "a.db")
    assert report.ok
    assert report.unfinished == ["record 2: query action 'a1' of run 'r1' has no outcome"]


def test_an_action_without_outcome_in_a_finished_run_is_a_problem(tmp_path: Path) -> None:
    assert problems_of([START, ASK, END], tmp_path / "a.db") == [
        "record 2: query action 'a1' of run 'r1' has no outcome, but the run is finished"
    ]


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        (
            [("query.completed", "r1", {"action": "a1"})],
            "record 2: query.completed of action 'a1', which was not requested",
        ),
        (
            [ASK, ("run.started", "r2", {}), ("query.failed", "r2", {"action": "a1"})],
            "record 4: query.failed of action 'a1', which was not requested",
        ),
        ([ASK, ASK], "record 3: action 'a1' was already requested"),
        (
            [ASK, ("query.completed", "r1", {"action": "a1"}), ("query.denied", "r1", {"action": "a1"})],
            "record 4: a second outcome of action 'a1'",
        ),
    ],
)
def test_actions_come_in_pairs(tmp_path: Path, entries: list[Entry], problem: str) -> None:
    assert problems_of([START, *entries], tmp_path / "a.db") == [problem]


STARTED: list[Entry] = [START, ("box.started", "r1", {"layers": []}), ("cell.started", "r1", {"cell": 1})]
DONE: Entry = ("cell.finished", "r1", {"cell": 1, "status": "ok"})
READ: Entry = ("context.read", "r1", {"cell": 1, "doc": 0, "start": 0, "stop": 9})
SUB: Entry = ("query.requested", "r1", {"action": "a1", "cell": 1, "purpose": "sub"})
ROOT: Entry = ("query.requested", "r1", {"action": "a1", "cell": 1, "purpose": "root"})
REPLY: Entry = ("query.completed", "r1", {"action": "a1"})
SHOWN: Entry = ("query.shown", "r1", {"cell": 1, "doc": 0, "spans": [[0, 9]]})
GIVEN: Entry = ("answer.given", "r1", {"cell": 1})
STAYS: Entry = ("answer.given", "r1", {"cell": 1, "stays": True})
GIVEN_2: Entry = ("answer.given", "r1", {"cell": 2})
CELL_2: Entry = ("cell.started", "r1", {"cell": 2})
DONE_2: Entry = ("cell.finished", "r1", {"cell": 2, "status": "ok"})


@pytest.mark.parametrize(
    "entries",
    [
        [*STARTED, READ, SUB, REPLY, SHOWN, GIVEN, END],
        [*STARTED, SUB, DONE, SHOWN, REPLY, ("cell.started", "r1", {"cell": 2}), END],
        [*STARTED, SUB],
        [*STARTED, SUB, SHOWN],
        [START, ("query.requested", "r1", {"action": "a1", "cell": 0, "purpose": "root"}), REPLY, END],
        [START, ("request.refused", "r1", {"cell": 0, "asked": "execute"}), END],
        [*STARTED, ("query.shown", "r1", {"cell": 1, "doc": 0, "spans": [], "complete": False}), END],
        [*STARTED, SUB, ("run.abandoned", "r1", {"calls": 1})],
        [*STARTED, STAYS, ("answer.void", "r1", {"cell": 1}), DONE, CELL_2, GIVEN_2, END],
        [START, END],
    ],
)
def test_what_runs_look_like_is_no_problem(tmp_path: Path, entries: list[Entry]) -> None:
    assert problems_of(entries, tmp_path / "a.db") == []


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([("box.started", "r1", {})], "record 1: box.started of run 'r1', which has not begun"),
        ([END], "record 1: run.finished of run 'r1', which has not begun"),
        ([START, START], "record 2: a second start of run 'r1'"),
        ([START, END, START], "record 3: run.started after the end of run 'r1'"),
        ([*STARTED, SUB, REPLY, END, SHOWN], "record 7: query.shown after the end of run 'r1'"),
        ([START, END, END], "record 3: run.finished after the end of run 'r1'"),
        ([START, ("run.abandoned", "r1", {}), END], "record 3: run.finished after the end of run 'r1'"),
        ([*STARTED, ("box.started", "r1", {})], "record 4: a second box of run 'r1'"),
        ([*STARTED, ("cell.started", "r1", {"cell": 2})], "record 4: a cell begins before cell 1 has ended"),
        ([*STARTED, DONE, ("cell.started", "r1", {"cell": 3})], "record 5: cell 3 begins, but cell 2 is next"),
        ([*STARTED, GIVEN, DONE, ("cell.started", "r1", {"cell": 2})], "record 6: a cell begins after the answer"),
        ([*STARTED, DONE, DONE], "record 5: cell.finished while no cell is running"),
        ([*STARTED, DONE, GIVEN], "record 5: answer.given while no cell is running"),
        ([*STARTED, GIVEN, GIVEN], "record 5: answer.given after the answer was given"),
        ([*STARTED, STAYS, STAYS], "record 5: answer.given after the answer was given"),
        (
            [*STARTED, STAYS, DONE, CELL_2, GIVEN_2, DONE_2, ("cell.started", "r1", {"cell": 3})],
            "record 9: a cell begins after the answer",
        ),
        ([START, READ], "record 2: context.read in cell 1, but the last that began is 0"),
        ([START, SUB, REPLY], "record 2: query.requested in cell 1, which has not begun"),
        ([*STARTED, SHOWN], "record 4: text was shown in cell 1, in which no query was requested"),
        ([*STARTED, ROOT, REPLY, SHOWN], "record 6: text was shown in cell 1, in which no query was requested"),
        (
            [*STARTED, SUB, ("query.failed", "r1", {"action": "a1"}), SHOWN, END],
            "record 6: text was shown in cell 1, in which no query was completed",
        ),
        (
            [*STARTED, SUB, ("query.denied", "r1", {"action": "a1"}), SHOWN],
            "record 6: text was shown in cell 1, in which no query was completed",
        ),
    ],
)
def test_what_no_run_looks_like_is_found(tmp_path: Path, entries: list[Entry], problem: str) -> None:
    assert problems_of(entries, tmp_path / "a.db") == [problem]


CHILD: Entry = ("run.started", "r1.00001", {"tenant": "acme"})
ENDED: Entry = ("run.finished", "r1.00001", {"status": "ok"})
BELOW: list[Entry] = [
    ("run.started", "r1.00001.00001", {"tenant": "acme"}),
    ("run.finished", "r1.00001.00001", {"status": "ok"}),
]


@pytest.mark.parametrize(
    "entries",
    [
        [START, CHILD, *BELOW, ENDED, END],
        [START, CHILD, BELOW[0], BELOW[1], ("run.abandoned", "r1.00001", {}), ("run.abandoned", "r1", {})],
        [START, CHILD, ("run.started", "r1.00002", {"tenant": "acme"})],
    ],
)
def test_what_trees_look_like_is_no_problem(tmp_path: Path, entries: list[Entry]) -> None:
    assert problems_of(entries, tmp_path / "a.db") == []


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([CHILD], "record 1: run 'r1.00001' begins, but its parent is not under way"),
        ([START, END, CHILD], "record 3: run 'r1.00001' begins, but its parent is not under way"),
        ([CHILD, START], "record 1: run 'r1.00001' begins, but its parent is not under way"),
        ([START, BELOW[0]], "record 2: run 'r1.00001.00001' begins, but its parent is not under way"),
        ([START, CHILD, END, ENDED], "record 3: run 'r1' ends before its child run 'r1.00001'"),
        ([START, CHILD, ("run.abandoned", "r1", {})], "record 3: run 'r1' ends before its child run 'r1.00001'"),
        (
            [START, ("run.started", "r1.00001", {"tenant": "acme/other"})],
            "record 2: run 'r1.00001' is of the tenant 'acme/other', but its parent of 'acme'",
        ),
    ],
)
def test_what_no_tree_looks_like_is_found(tmp_path: Path, entries: list[Entry], problem: str) -> None:
    assert problems_of(entries, tmp_path / "a.db") == [problem]


def test_an_abandoned_run_is_not_unfinished(tmp_path: Path) -> None:
    write(tmp_path / "a.db", [*STARTED, SUB, ("run.abandoned", "r1", {"calls": 1})])
    assert verify(tmp_path / "a.db").unfinished == []
    assert [run.status for run in runs(tmp_path / "a.db")] == ["abandoned"]


# -- the file around the records -------------------------------------------------------------------------------------

QUIET = "CREATE TRIGGER quiet BEFORE INSERT ON records BEGIN SELECT RAISE(IGNORE); END"


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        ([QUIET], "the trigger 'quiet' in it is not ours"),
        (["DROP TRIGGER records_are_not_deleted"], "the trigger 'records_are_not_deleted' in it is gone"),
        (["CREATE TABLE notes (x)"], "the table 'notes' in it is not ours"),
        (["CREATE INDEX seqs ON records (hash)"], "the index 'seqs' in it is not ours"),
        (["ALTER TABLE records ADD COLUMN x"], "its records are not a table as we make it"),
        (["ALTER TABLE records RENAME TO old", "CREATE VIEW records AS SELECT * FROM old"], "not a table"),
    ],
)
def test_what_was_planted_beside_the_records_is_found_and_stops_the_log(
    story: Path, statements: list[str], words: str
) -> None:
    with closing(sqlite3.connect(story, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)
    assert any(words in problem for problem in verify(story).problems)
    with pytest.raises(AuditUnavailable, match="cannot open the journal"):
        OwnLog(story)


def test_a_view_without_end_is_not_read(story: Path) -> None:
    with closing(sqlite3.connect(story, isolation_level=None)) as db:
        db.execute("DROP TABLE records")
        db.execute(
            "CREATE VIEW records AS WITH RECURSIVE n(seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM n) "
            "SELECT seq, 'r1' AS run, zeroblob(9) AS body, zeroblob(32) AS hash FROM n"
        )
    assert "its records are not a table as we make it" in verify(story).problems[0]


def test_a_trigger_that_is_planted_in_a_log_in_use_stops_it(story: Path) -> None:
    async def main() -> None:
        log = OwnLog(story)
        await log.append(RunId("r2"), made("run.started", {}))
        with closing(sqlite3.connect(story, isolation_level=None)) as db:
            db.execute(QUIET)
        with pytest.raises(AuditUnavailable, match="the trigger 'quiet' in it is not ours"):
            await log.append(RunId("r2"), made("query.requested", {}))
        await log.aclose()

    asyncio.run(main())
    assert len(list(records(story))) == 8


def test_a_record_that_did_not_come_into_the_table_was_not_written() -> None:
    async def main() -> None:
        log = OwnLog(None)  # nothing else is looked at in memory
        await meddle(log.journal, QUIET)
        with pytest.raises(AuditUnavailable, match="did not take what was written"):
            await log.append(RunId("r1"), made("run.started", {}))
        await log.aclose()

    asyncio.run(main())


def test_a_file_without_bytes_is_an_empty_log(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    path.touch()
    assert verify(path) == Report(records=0, runs=0, head="0" * 64, problems=[], unfinished=[])
    assert runs(path) == []
    write(path, [START])
    assert len(list(records(path))) == 1
