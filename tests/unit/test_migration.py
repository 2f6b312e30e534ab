"""Files of an older version: opened, they are migrated wholly or not at all, and go on as files of this one.

`older_files` has logs of 28 records in three runs (formats 1 to 6), a ledger (format 2; of format 3, it is in the log's
file) with one run that is open, and folders of contexts with a text and a dict (format 1, without its number and with
it), made by the code that had these formats; and the statements that make a database of version 1. A new format adds to
them.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from belljar.audit import Record, records, records_below, runs, verify
from belljar.audit import read as reading
from belljar.context import ContextStore
from belljar.context.formats import FORMAT, FORMAT_FILE, in_latest_format
from belljar.errors import AuditUnavailable, HostFault, VerificationFailed
from belljar.identity import RunId
from belljar.journal.schema import SCHEMA
from belljar.journal.sqlite import SqliteStore
from belljar.ledger import Amounts, run_account
from tests.journals import OwnLedger, OwnLog, meddle
from tests.unit.audit_events import made

OLDER = Path(__file__).with_name("older_files")
RECORDS = 28


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The log of a state folder that has the older ledger, too."""
    shutil.copy(OLDER / "ledger.db", tmp_path / "ledger.db")
    return Path(shutil.copy(OLDER / "audit.db", tmp_path / "audit.db"))


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def opened(path: Path) -> None:
    asyncio.run(OwnLog(path).aclose())


def test_an_older_log_is_read_as_it_is(log: Path) -> None:
    before = log.read_bytes()
    assert (verify(log).problems, verify(log).records) == ([], RECORDS)
    assert [(run.run, run.status, run.records) for run in runs(log)] == [
        ("r1", "timeout", 22),
        ("r2", "denied", 2),
        ("r3", "abandoned", 4),
    ]
    assert [record.run for record in records(log, "r3")] == ["r3"] * 4
    assert log.read_bytes() == before
    assert sorted(path.name for path in log.parent.iterdir()) == ["audit.db", "ledger.db"]


def test_an_older_log_is_migrated_where_it_is_opened_and_goes_on(log: Path) -> None:
    before, summaries = list(records(log)), runs(log)

    async def main() -> None:
        made_anew = OwnLog(log)
        assert await made_anew.append(RunId("r4"), made("run.started", {})) == RECORDS + 1
        await made_anew.aclose()

    asyncio.run(main())
    assert version(log) == SCHEMA.version
    assert list(records(log))[:RECORDS] == before
    assert verify(log).problems == []
    assert runs(log)[:3] == summaries
    opened(log)


DIES = """
import os, signal, sys
from pathlib import Path
from belljar.errors import AuditUnavailable
from belljar.journal import open_journal, sqlite

copy = sqlite.copy_ledger

def copy_ledger(db):
    copy(db)
    os.kill(os.getpid(), signal.SIGKILL)

sqlite.copy_ledger = copy_ledger
open_journal(Path(sys.argv[1]), unavailable=AuditUnavailable)
"""


def test_a_host_that_dies_while_it_migrates_leaves_the_older_log(log: Path) -> None:
    before = list(records(log))
    assert subprocess.run([sys.executable, "-c", DIES, str(log)], timeout=60, check=False).returncode == -9
    assert list(records(log)) == before
    assert version(log) == 1
    opened(log)
    assert list(records(log)) == before


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (
            "CREATE TRIGGER quiet BEFORE INSERT ON records BEGIN SELECT RAISE(IGNORE); END",
            "the trigger 'quiet' in it",
        ),
        ("DROP TRIGGER records_are_not_deleted", "trigger 'records_are_not_deleted' in it is gone"),
        ("CREATE TABLE records_without_runs (x)", "table 'records_without_runs' in it is not ours"),
        ("PRAGMA user_version=9", f"its format is 9, but the latest known here is {SCHEMA.version}; a newer Belljar"),
    ],
)
def test_what_is_not_ours_in_an_older_log_is_not_migrated(log: Path, statement: str, words: str) -> None:
    with closing(sqlite3.connect(log, isolation_level=None)) as db:
        db.execute(statement)
        before = db.execute("SELECT * FROM sqlite_master").fetchall()
    with pytest.raises(AuditUnavailable, match=words):
        OwnLog(log)
    with closing(sqlite3.connect(log)) as db:
        assert db.execute("SELECT * FROM sqlite_master").fetchall() == before


def test_a_damaged_record_is_migrated_as_it_is_and_found(log: Path) -> None:
    with closing(sqlite3.connect(log, isolation_level=None)) as db:
        (trigger,) = db.execute("SELECT sql FROM sqlite_master WHERE name = 'records_are_not_changed'").fetchone()
        db.execute("DROP TRIGGER records_are_not_changed")
        db.execute("UPDATE records SET body = x'00' WHERE seq = 3")
        db.execute(trigger)
    opened(log)
    assert "record 3: its bytes do not have the hash that was kept with them" in verify(log).problems


# -- a newer Belljar, on files of this version and older ones --------------------------------------------------------

NEWER = """
import dataclasses, os, signal, sys
from pathlib import Path
from belljar.errors import AuditUnavailable
from belljar.journal.schema import SCHEMA
from belljar.journal.sqlite import SqliteStore

path, how = sys.argv[1:]
table = "CREATE TABLE notes (x)"

def migrate(db):
    db.execute(table)
    if how == "dies":
        os.kill(os.getpid(), signal.SIGKILL)

newer = dataclasses.replace(
    SCHEMA, version=SCHEMA.version + 1, statements=(*SCHEMA.statements, table), older=SCHEMA, migrate=migrate
)
SqliteStore(Path(path), name="file", schema=newer, unavailable=AuditUnavailable)
"""
LATEST = SCHEMA.version
NEWER_WORDS = f"its format is {LATEST + 1}, but the latest known here is {LATEST}; a newer Belljar made it"


def newer(path: Path, how: str = "lives") -> int:
    return subprocess.run([sys.executable, "-c", NEWER, str(path), how], timeout=60, check=False).returncode


def contents(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return list(db.iterdump())


def test_a_file_of_this_version_can_be_migrated_wholly_or_not_at_all(log: Path) -> None:
    opened(log)
    before = contents(log)
    assert newer(log, "dies") == -9
    assert (contents(log), version(log)) == (before, LATEST)
    assert newer(log) == 0
    assert (set(contents(log)) - set(before), version(log)) == ({"CREATE TABLE notes (x);"}, LATEST + 1)


def test_a_log_of_format_2_is_read_and_goes_on(tmp_path: Path, log: Path) -> None:
    path = Path(shutil.copy(OLDER / "audit-2.db", tmp_path / "audit-2.db"))
    assert list(records(path)) == list(records(log))
    opened(path)
    assert verify(path).problems == []


@pytest.fixture
def journal_3(tmp_path: Path) -> Path:
    return Path(shutil.copy(OLDER / "audit-3.db", tmp_path / "audit-3.db"))


def rows(path: Path, table: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(f"SELECT * FROM {table}").fetchall()


def test_a_journal_of_format_3_is_read_and_goes_on(journal_3: Path, log: Path) -> None:
    assert (list(records(journal_3)), version(journal_3)) == (list(records(log)), 3)
    tables = ("records", "runs", "reservations", "balances", "limits")
    before = [rows(journal_3, table) for table in tables]
    opened(journal_3)
    assert version(journal_3) == SCHEMA.version
    before[-1] = [(*row, None) for row in before[-1]]  # nothing bounds the depth
    assert [rows(journal_3, table) for table in tables] == before
    assert verify(journal_3).problems == []


def test_a_journal_of_format_4_is_read_and_goes_on(tmp_path: Path, log: Path) -> None:
    path = Path(shutil.copy(OLDER / "audit-4.db", tmp_path / "audit-4.db"))
    assert (list(records(path)), version(path)) == (list(records(log)), 4)
    tables = ("records", "runs", "reservations", "balances", "limits", "content_keys", "contents", "checkpoints")
    before = [rows(path, table) for table in tables]
    opened(path)
    assert version(path) == SCHEMA.version
    assert [rows(path, table) for table in tables] == before
    assert [rows(path, table) for table in ("api_keys", "orders", "hooks", "deliveries")] == [[]] * 4


@pytest.mark.parametrize("number", [5, 6])
def test_a_journal_without_packs_is_read_and_goes_on(tmp_path: Path, log: Path, number: int) -> None:
    path = Path(shutil.copy(OLDER / f"audit-{number}.db", tmp_path))
    assert (list(records(path)), version(path)) == (list(records(log)), number)
    assert (list(records_below(path, "r1")), runs(path)) == (list(records_below(log, "r1")), runs(log))
    with closing(sqlite3.connect(path)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    before = {table: rows(path, table) for table in tables}
    opened(path)
    assert version(path) == SCHEMA.version
    assert {table: rows(path, table) for table in tables} == before
    assert len(tables) == 15


def test_a_ledger_beside_a_journal_that_has_one_is_not_taken_over_again(journal_3: Path, log: Path) -> None:
    before = rows(journal_3, "balances")
    journal_3.rename(log)
    opened(log)
    assert rows(log, "balances") == before


def test_a_file_that_a_newer_belljar_migrated_is_refused_also_by_who_has_it_open(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"

    async def main() -> None:
        ours = OwnLog(path)
        await ours.append(RunId("r1"), made("run.started", {}))
        assert newer(path) == 0
        with pytest.raises(AuditUnavailable, match=f"cannot be written: {NEWER_WORDS}"):
            await ours.append(RunId("r1"), made("run.started", {}))
        await ours.aclose()

    asyncio.run(main())
    with pytest.raises(AuditUnavailable, match=f"cannot open the journal .*: {NEWER_WORDS}"):
        OwnLog(path)


# -- the run column --------------------------------------------------------------------------------------------------


def plant(path: Path, run: str, seq: int) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        (trigger,) = db.execute("SELECT sql FROM sqlite_master WHERE name = 'records_are_not_changed'").fetchone()
        db.execute("DROP TRIGGER records_are_not_changed")
        db.execute("UPDATE records SET run = ? WHERE seq = ?", (run, seq))
        db.execute(trigger)


def test_a_record_under_another_run_than_it_says_is_a_problem(log: Path) -> None:
    opened(log)
    plant(log, "r2", 5)
    assert verify(log).problems == ["record 5: it is stored under another run than it names"]
    with pytest.raises(VerificationFailed, match="record 5 of the audit log is stored under another run"):
        list(records(log, "r2"))


def test_of_many_records_only_those_of_the_run_are_read(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(log)
    parsed: list[int] = []
    parse: Callable[[int, object], Record] = reading.parse

    def counted(seq: int, body: object) -> Record:
        parsed.append(seq)
        return parse(seq, body)

    monkeypatch.setattr(reading, "parse", counted)
    assert len(list(records(log, "r2"))) == len(parsed) == 2
    parsed.clear()
    assert len(runs(log)) == 3
    assert len(parsed) == 6  # the first and the last of each


def test_a_damaged_record_of_the_run_is_refused(log: Path) -> None:
    opened(log)
    with closing(sqlite3.connect(log, isolation_level=None)) as db:
        db.execute("DROP TRIGGER records_are_not_changed")
        db.execute("UPDATE records SET body = x'00' WHERE run = 'r2'")
    with pytest.raises(VerificationFailed, match="record 23 of the audit log is not canonical JSON"):
        list(records(log, "r2"))


# -- ledger and contexts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_log", [True, False])
def test_an_older_ledger_is_taken_over_into_the_file_of_the_log(log: Path, has_log: bool) -> None:
    if not has_log:
        log.unlink()
    before = (log.parent / "ledger.db").read_bytes()

    async def main() -> None:
        ledger = OwnLedger(log, owner="1:1")
        assert (await ledger.balance(run_account(RunId("r1")), "total")).used == Amounts(1, 90, 40, 900, 0)
        assert await ledger.check_books() == []
        bounds = await meddle(ledger.journal, "SELECT count(*), count(cpu_ms), count(boxes) FROM limits")
        assert bounds[0][1:] == (0, 0), "nothing is limited that the older one did not know"
        await ledger.close_run(RunId("r1"))
        assert (await ledger.balance(run_account(RunId("r1")), "total")).used == Amounts(2, 100, 45, 1000, 0)
        assert await ledger.check_books() == []
        await ledger.aclose()

    asyncio.run(main())
    assert not (log.parent / "ledger.db").exists()
    assert (log.parent / "ledger.db.migrated").read_bytes() == before
    asyncio.run(OwnLedger(log, owner="1:1").aclose())


@pytest.mark.parametrize("when", ["before it is attached", "after it is attached"])
def test_of_two_that_take_over_the_ledger_at_once_both_go_on(
    log: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    ledger, faster = log.parent / "ledger.db", list[str]()
    before = ledger.read_bytes()
    is_file, attach = Path.is_file, SqliteStore._attach_ledger

    def other(at: str) -> None:
        if when.startswith(at) and not faster:
            faster.append(at)
            opened(log)

    def seen(path: Path) -> bool:
        found = is_file(path)
        if path == ledger and found:
            other("before")
        return found

    def attached(store: SqliteStore, *arguments: Any) -> Path | None:
        found = attach(store, *arguments)
        other("after")
        return found

    monkeypatch.setattr(Path, "is_file", seen)
    monkeypatch.setattr(SqliteStore, "_attach_ledger", attached)
    opened(log)
    assert faster
    assert not ledger.exists()
    assert (log.parent / "ledger.db.migrated").read_bytes() == before
    asyncio.run(OwnLedger(log, owner="1:1").aclose())


def test_what_died_after_it_took_over_the_ledger_takes_it_over_once(log: Path) -> None:
    before = (log.parent / "ledger.db").read_bytes()
    opened(log)
    (log.parent / "ledger.db").write_bytes(before)

    async def main() -> None:
        ledger = OwnLedger(log, owner="1:1")
        await ledger.close_run(RunId("r1"))
        await ledger.aclose()

    asyncio.run(main())
    assert not (log.parent / "ledger.db").exists()


def test_a_ledger_that_is_not_as_we_made_it_is_not_taken_over(log: Path) -> None:
    with closing(sqlite3.connect(log.parent / "ledger.db", isolation_level=None)) as db:
        db.execute("CREATE TRIGGER quiet BEFORE INSERT ON balances BEGIN SELECT RAISE(IGNORE); END")
    with pytest.raises(AuditUnavailable, match=r"of the ledger beside it, ledger\.db, the trigger 'quiet' in it"):
        OwnLog(log)
    assert version(log) == 1
    assert (log.parent / "ledger.db").exists()


@pytest.fixture(params=["contexts", "contexts-1"])
def contexts(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return Path(shutil.copytree(OLDER / request.param, tmp_path / "contexts"))


def test_older_contexts_are_found_and_read(contexts: Path) -> None:
    store = ContextStore(contexts)
    text, items = store.find("text"), store.find("dict")
    assert (text.kind, text.chars, items.kind, items.items) == ("text", 24, "dict", 2)
    with store.open(text.sha256) as document:
        assert bytes(document.read(0, 24)).decode() == "a text\nof three lines\né\n"
    with store.open(items.sha256) as document:
        assert b"first item" in bytes(document.read(0, items.chars))
    another = store.add("another", name="another", now_ns=3)
    assert store.find("another").sha256 == another.sha256
    assert len(store.ls()) == 3


# A step that leaves its mark in each document, and can be killed before one of them.
NOTES = """
import os, signal, sys
from pathlib import Path
from belljar.durable import replaced
from belljar.context.formats import in_latest_format

def note(root):
    for number, file in enumerate(sorted(root.glob("documents/*/document.json"))):
        if len(sys.argv) > 2 and number == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        fields = file.read_bytes()
        with replaced(file) as anew:
            anew.write(fields if b"note" in fields else fields[:-1] + b',"note":1}')

with in_latest_format(Path(sys.argv[1]), (note,)):
    pass
"""


def noting(contexts: Path, *dies_at: int) -> int:
    words = [sys.executable, "-c", NOTES, str(contexts), *map(str, dies_at)]
    return subprocess.run(words, timeout=60, check=False).returncode


def notes(contexts: Path) -> list[int]:
    """How often the step was done to each document."""
    return [file.read_bytes().count(b"note") for file in contexts.glob("documents/*/document.json")]


def number(contexts: Path) -> str | None:
    file = contexts / FORMAT_FILE
    return file.read_text() if file.exists() else None


def test_new_contexts_have_the_number_of_their_format(tmp_path: Path) -> None:
    ContextStore(tmp_path / "store").add("text", now_ns=1)
    assert number(tmp_path / "store") == f"{FORMAT}\n"


def test_contexts_are_migrated_step_by_step_and_each_step_once(contexts: Path) -> None:
    done: list[int] = []
    steps = [lambda root: done.append(1), lambda root: done.append(2)]
    with in_latest_format(contexts, steps[:1]):
        assert (done, number(contexts)) == ([1], "2\n")
    for _ in range(2):
        with in_latest_format(contexts, steps):
            assert (done, number(contexts)) == ([1, 2], "3\n")


def test_a_host_that_dies_while_it_migrates_contexts_leaves_the_older_number(contexts: Path) -> None:
    before = number(contexts)
    assert noting(contexts, 1) == -9
    assert sorted(notes(contexts)) == [0, 1]
    assert number(contexts) == before
    test_older_contexts_are_found_and_read(contexts)  # adds another one
    assert noting(contexts) == 0
    assert (notes(contexts), number(contexts)) == ([1, 1, 1], "2\n")


USES: dict[str, Callable[[ContextStore], object]] = {
    "add": lambda store: store.add("text", now_ns=1),
    "lend": lambda store: store.lend("text", now_ns=1),
    "discard": lambda store: store.discard("0" * 64),
    "sweep_lent": lambda store: store.sweep_lent(),
    "ls": lambda store: store.ls(),
    "names": lambda store: store.names("0" * 64),
    "used_ns": lambda store: store.used_ns("0" * 64),
    "find": lambda store: store.find("text"),
    "open": lambda store: store.open("0" * 64),
    "rm": lambda store: store.rm("text"),
    "gc": lambda store: store.gc(0, now_ns=1),
}


@pytest.mark.parametrize("use", USES)
def test_contexts_that_a_newer_belljar_migrated_are_refused(contexts: Path, use: str) -> None:
    store = ContextStore(contexts)
    store.ls()
    assert noting(contexts) == 0
    with pytest.raises(HostFault) as refused:
        USES[use](store)
    assert str(refused.value) == (
        f"cannot use the context store at {str(contexts)!r}: its format is 2, but the latest known here is 1; "
        "a newer Belljar made it: update Belljar, or choose another state folder"
    )


@pytest.mark.parametrize("damaged", ["", "0", "-1", "two", "9" * 5000])
def test_a_damaged_number_of_contexts_is_refused_in_one_line(contexts: Path, damaged: str) -> None:
    (contexts / FORMAT_FILE).write_text(damaged)
    with pytest.raises(HostFault, match="'format' does not hold a format number; restore it") as refused:
        ContextStore(contexts).ls()
    assert "\n" not in str(refused.value)


def test_contexts_are_not_migrated_while_somebody_uses_them(contexts: Path) -> None:
    done: list[Path] = []
    store = ContextStore(contexts)

    def migrate(*_: object) -> None:
        with in_latest_format(contexts, [done.append], busy_timeout_s=0):
            pass

    in_use = pytest.raises(HostFault, match=r"cannot migrate the context store .*: another process has used it")
    with store.open(store.find("text").sha256), in_use:
        migrate()
    with in_use:
        store.add("a new text", now_ns=1, on_progress=migrate)
    assert done == []
    migrate()
    assert done == [contexts]
