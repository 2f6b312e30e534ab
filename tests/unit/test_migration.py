"""Files of an older version: opened, they are migrated wholly or not at all, and go on as files of this one.

`older_files` has a log of 28 records in three runs (format 1), a ledger (format 2) with one run that is open, and a
folder of contexts with a text and a dict, made by the code that had these formats. A new format adds to them.
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

import pytest

from belljar.audit import AuditLog, Record, is_open, records, runs, verify
from belljar.audit import read as reading
from belljar.audit.log import SCHEMA
from belljar.context import ContextStore
from belljar.errors import AuditUnavailable, VerificationFailed
from belljar.identity import RunId
from belljar.ledger import Amounts, SqliteLedger, run_account
from tests.unit.audit_events import made

OLDER = Path(__file__).with_name("older_files")
RECORDS = 28


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return Path(shutil.copy(OLDER / "audit.db", tmp_path / "audit.db"))


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def opened(path: Path) -> None:
    asyncio.run(AuditLog(path).aclose())


def test_an_older_log_is_read_as_it_is(log: Path) -> None:
    before = log.read_bytes()
    assert (verify(log).problems, verify(log).records) == ([], RECORDS)
    assert [(run.run, run.status, run.records) for run in runs(log)] == [
        ("r1", "timeout", 22),
        ("r2", "denied", 2),
        ("r3", "abandoned", 4),
    ]
    assert [record.run for record in records(log, "r3")] == ["r3"] * 4
    assert not is_open(log, "r1")
    assert log.read_bytes() == before
    assert [path.name for path in log.parent.iterdir()] == ["audit.db"]


def test_an_older_log_is_migrated_where_it_is_opened_and_goes_on(log: Path) -> None:
    before, summaries = list(records(log)), runs(log)

    async def main() -> None:
        made_anew = AuditLog(log)
        assert await made_anew.append("r4", made("run.started", {})) == RECORDS + 1
        await made_anew.aclose()

    asyncio.run(main())
    assert version(log) == SCHEMA.version
    assert list(records(log))[:RECORDS] == before
    assert verify(log).problems == []
    assert runs(log)[:3] == summaries
    assert is_open(log, "r4")
    opened(log)


DIES = """
import dataclasses, os, signal, sys
from pathlib import Path
from belljar.audit.log import SCHEMA
from belljar.errors import AuditUnavailable
from belljar.writer import Writer

def migrate(db):
    SCHEMA.migrate(db)
    os.kill(os.getpid(), signal.SIGKILL)

schema = dataclasses.replace(SCHEMA, migrate=migrate)
Writer(Path(sys.argv[1]), what="audit log", schema=schema, unavailable=AuditUnavailable)
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
        ("PRAGMA user_version=3", "its format is 3, and this Belljar reads none after 2; update Belljar"),
    ],
)
def test_what_is_not_ours_in_an_older_log_is_not_migrated(log: Path, statement: str, words: str) -> None:
    with closing(sqlite3.connect(log, isolation_level=None)) as db:
        db.execute(statement)
        before = db.execute("SELECT * FROM sqlite_master").fetchall()
    with pytest.raises(AuditUnavailable, match=words):
        AuditLog(log)
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
    parsed.clear()
    assert not is_open(log, "r2")
    assert parsed == []


def test_a_damaged_record_of_the_run_is_refused(log: Path) -> None:
    opened(log)
    with closing(sqlite3.connect(log, isolation_level=None)) as db:
        db.execute("DROP TRIGGER records_are_not_changed")
        db.execute("UPDATE records SET body = x'00' WHERE run = 'r2'")
    with pytest.raises(VerificationFailed, match="record 23 of the audit log is not canonical JSON"):
        list(records(log, "r2"))


# -- ledger and contexts ---------------------------------------------------------------------------------------------


def test_an_older_ledger_goes_on(tmp_path: Path) -> None:
    path = Path(shutil.copy(OLDER / "ledger.db", tmp_path / "ledger.db"))

    async def main() -> None:
        ledger = SqliteLedger(path, owner="1:1")
        assert (await ledger.balance(run_account(RunId("r1")), "total")).used == Amounts(1, 90, 40, 900, 0)
        assert await ledger.check_books() == []
        await ledger.close_run(RunId("r1"))
        assert (await ledger.balance(run_account(RunId("r1")), "total")).used == Amounts(2, 100, 45, 1000, 0)
        assert await ledger.check_books() == []
        await ledger.aclose()

    asyncio.run(main())


def test_older_contexts_are_found_and_read(tmp_path: Path) -> None:
    store = ContextStore(Path(shutil.copytree(OLDER / "contexts", tmp_path / "contexts")))
    text, items = store.find("text"), store.find("dict")
    assert (text.kind, text.chars, items.kind, items.items) == ("text", 24, "dict", 2)
    with store.open(text.sha256) as document:
        assert bytes(document.read(0, 24)).decode() == "a text\nof three lines\né\n"
    with store.open(items.sha256) as document:
        assert b"first item" in bytes(document.read(0, items.chars))
    another = store.add("another", name="another", now_ns=3)
    assert store.find("another").sha256 == another.sha256
    assert len(store.ls()) == 3
