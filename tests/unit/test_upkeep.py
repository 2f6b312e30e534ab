"""`upkeep` and `backup`: what an operator sees of a state, how it is migrated, and copies made while it is in use."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from belljar import backup
from belljar.audit import verify
from belljar.backup import back_up
from belljar.context import ContextStores
from belljar.context.formats import FORMAT, FORMAT_FILE
from belljar.errors import AuditUnavailable, HostFault, InvalidInput
from belljar.identity import RunId, Tenant
from belljar.journal.pgschema import VERSION
from belljar.journal.schema import SCHEMA
from belljar.ledger import Amounts
from belljar.owners import Owner
from belljar.quotas import differences, open_quotas
from belljar.runtime import Runtime
from belljar.state import State
from belljar.upkeep import OwnerReport, Step, examine, migrate
from tests.postgres import Postgres, sql
from tests.unit.test_quotas import R1, shop

OLDER = Path(__file__).with_name("older_files")


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State(tmp_path / "state")
    state.create()
    return state


@pytest.fixture
def older(state: State) -> State:
    """A folder that an older version has left: a log, a ledger beside it, and contexts."""
    for name in ("audit.db", "ledger.db"):
        shutil.copy(OLDER / name, state.root / name)
    return state


def fill(state: State, *, ends: bool = True) -> None:
    """One run with two calls; the second is under way unless it `ends`."""

    async def main() -> None:
        async with shop(state.root / "audit.db") as here:
            await here.begin(R1, "acme/research")
            await here.query()
            await here.query(number=2, ends=ends)
            if ends:
                await here.ledger.close_run(R1)

    asyncio.run(main())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def changed(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)


# -- looking -----------------------------------------------------------------------------------------------------------


def test_where_there_is_nothing_yet_that_is_said_and_nothing_is_made(tmp_path: Path) -> None:
    report = examine(State(tmp_path / "none"))
    assert (report.journal.exists, report.journal.format, report.error) == (False, None, None)
    assert (report.free_bytes, report.owners, report.contexts) == (None, [], [])
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_told_and_not_touched(state: State) -> None:
    fill(state, ends=False)
    ContextStores(state.contexts).of(Tenant("acme")).add("a text", now_ns=1)
    before = contents(state.root)
    report = examine(state)
    journal = report.journal
    assert (journal.where, journal.exists) == (str(state.root / "audit.db"), True)
    assert (journal.format, journal.format_latest) == (SCHEMA.version, SCHEMA.version)
    assert (journal.runs, journal.open_runs, journal.head) == (1, 1, verify(state.root / "audit.db").head)
    assert journal.held == Amounts(calls=1, input_tokens=100, output_tokens=100, cost_nanousd=10**6)
    assert (journal.problems, report.error) == ([], None)
    assert [(one.tenant, one.format, one.error) for one in report.contexts] == [("acme", FORMAT, None)]
    assert report.free_bytes is not None
    assert report.free_bytes > 0
    assert contents(state.root) == before


@pytest.mark.parametrize("table", ["runs", "orders"])
def test_an_owner_that_no_process_can_be_is_named_and_stops_no_start(state: State, table: str) -> None:
    fill(state, ends=False)
    order = "INSERT INTO orders VALUES ('r9', 'acme', 'a', '', x'00', 'queued', '../\x1b[31m', '', 1, 0)"
    changed(state.root / "audit.db", order if table == "orders" else "UPDATE runs SET owner = '../\x1b[31m'")
    (problem,) = examine(state).journal.problems
    assert problem == "'../\\x1b[31m' has open runs or orders, and is no owner's name: somebody put it there"

    async def start() -> None:
        async with Runtime(state=state.root, environ={}):
            pass

    asyncio.run(start())
    assert (examine(state).journal.problems, examine(state).journal.open_runs) == ([], 0)


def test_living_and_dead_owners_are_told_apart_and_nobody_is_buried(state: State) -> None:
    fill(state, ends=False)  # its owner is `1:1`, which has no file
    with Owner(state.owners) as owner:
        (state.owners / "7-dead").touch()
        found = examine(state).owners
        assert sorted(path.name for path in state.owners.iterdir()) == sorted(["7-dead", owner.name])
        assert owner.is_alive(owner.name)
    assert {one.name: (one.alive, one.open_runs) for one in found} == {
        "1:1": (False, 1),
        "7-dead": (False, 0),
        owner.name: (True, 0),
    }


def test_a_log_that_does_not_verify_and_a_ledger_that_does_not_add_up_are_told(state: State) -> None:
    fill(state)
    changed(state.root / "audit.db", "UPDATE balances SET used_calls = 7 WHERE account = 'acme' AND key = 'total'")
    assert examine(state).journal.problems == ["acme total: used calls is 7, its reservations say 2"]
    changed(state.root / "audit.db", "CREATE TABLE planted (x)")
    (problem,) = examine(state).journal.problems
    assert "the table 'planted' in it is not ours" in problem


@pytest.mark.parametrize("what", ["records_of_run", "hooks"])
def test_a_damaged_page_that_no_question_comes_by_is_told_of_a_journal_and_of_its_copy(
    state: State, tmp_path: Path, what: str
) -> None:
    """An index of the log, which no sum needs; a table that is empty so far."""
    fill(state)
    file = state.root / "audit.db"
    with closing(sqlite3.connect(file)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (what,)).fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    with open(file, "r+b") as raw:
        raw.seek((page - 1) * size)
        raw.write(b"\xa5" * size)
    assert any("audit.db is damaged: " in line for line in examine(state).journal.problems)
    assert any("is damaged: " in line for line in back_up(file, tmp_path / "copy").problems)


def test_a_newer_journal_and_newer_contexts_cannot_be_opened(state: State) -> None:
    fill(state)
    store = ContextStores(state.contexts).of(Tenant("acme"))
    store.add("a text", now_ns=1)
    (state.contexts / store.folder / FORMAT_FILE).write_text(f"{FORMAT + 1}\n")
    report = examine(state)
    assert report.error == (
        f"the context store of acme has format {FORMAT + 1}, but the latest known here is {FORMAT}: a newer Belljar "
        "made it; update Belljar"
    )
    with pytest.raises(HostFault, match="the context store of acme has format"):
        migrate(state, dry_run=True)
    with pytest.raises(HostFault, match="a newer Belljar made it"):
        migrate(state)
    changed(state.root / "audit.db", f"PRAGMA user_version={SCHEMA.version + 1}")
    assert (examine(state).error or "").startswith(f"{state.root / 'audit.db'} has format {SCHEMA.version + 1}, but")
    for dry_run in (True, False):
        with pytest.raises(AuditUnavailable, match="update Belljar"):
            migrate(state, dry_run=dry_run)
    for read in (verify, differences, lambda file: back_up(file, state.root / "copy")):
        with pytest.raises(AuditUnavailable, match=r"a newer Belljar made it; update Belljar$"):
            read(state.root / "audit.db")


def test_a_file_that_is_something_else_is_an_error_and_no_crash(state: State) -> None:
    (state.root / "audit.db").write_bytes(b"no database at all" * 100)
    assert "audit.db cannot be read: file is not a database" in (examine(state).error or "")


def test_no_password_of_a_server_is_shown(state: State, tmp_path: Path) -> None:
    report = examine(State(state.root, f"postgresql://someone:secret-word@/none?host={tmp_path}"))
    assert report.journal.where == "postgresql:///none"
    assert report.error is not None
    assert "secret-word" not in str(report)


def test_a_journal_on_a_server_is_told_with_its_hosts(state: State, postgres: Postgres) -> None:
    url = postgres.database()

    async def main() -> None:
        async with shop(url) as here:
            await here.begin(R1, "acme")
            await here.query(ends=False)
            found = await asyncio.to_thread(examine, State(state.root, url))
            alive = {one.name for one in found.owners if one.alive}
            assert alive == {here.journal.host}
            assert OwnerReport("1:1", False, 1) in found.owners
            assert (found.journal.open_runs, found.journal.held.calls, found.journal.problems) == (1, 1, [])
            assert found.journal.format == found.journal.format_latest

    asyncio.run(main())
    assert migrate(State(state.root, url)) == []
    postgres.drop()


@pytest.mark.parametrize("in_use", [False, True])
def test_a_journal_in_a_folder_that_nothing_can_be_written_to_is_copied(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_use: bool
) -> None:
    """On a snapshot of a disk. SQLite makes its side files even to read, where it is not told that nobody writes."""
    fill(state)
    file = state.root / "audit.db"
    with closing(sqlite3.connect(file)) as writer:
        if in_use:
            writer.execute("SELECT 1 FROM records").fetchall()
        before = sorted(path.name for path in state.root.iterdir())
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: path != state.root and access(path, mode))
        monkeypatch.setattr("belljar.backup._PATIENCE_S", None)  # of what would write
        assert back_up(file, tmp_path / "copy").problems == []
        assert sorted(path.name for path in state.root.iterdir()) == before
    assert verify(tmp_path / "copy" / "audit.db").head == verify(file).head


def test_a_journal_that_is_cut_off_is_at_fault_and_not_who_copies_it(state: State, tmp_path: Path) -> None:
    fill(state)
    file = state.root / "audit.db"
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(AuditUnavailable, match=r"the journal cannot be copied: .*malformed; verify it"):
        back_up(file, tmp_path / "copy")
    assert contents(tmp_path / "copy") == {}


def test_a_copy_in_a_folder_that_no_document_could_name_is_refused(state: State, tmp_path: Path) -> None:
    fill(state)
    with pytest.raises(InvalidInput, match="is not valid UTF-8: name another folder"):
        back_up(state.root / "audit.db", Path(os.fsdecode(bytes(tmp_path) + b"/copy\xff")))
    assert sorted(tmp_path.iterdir()) == [state.root]


# -- migrating ---------------------------------------------------------------------------------------------------------


def test_an_older_state_is_migrated_and_before_that_only_told(older: State) -> None:
    log, ledger = older.root / "audit.db", older.root / "ledger.db"
    before = contents(older.root)
    report = examine(older)
    assert (report.journal.format, report.journal.has_older_ledger, report.journal.problems) == (1, True, [])
    steps = [Step(str(log), 1, SCHEMA.version), Step(str(ledger), 2, SCHEMA.version)]
    assert migrate(older, dry_run=True) == steps
    assert contents(older.root) == before
    assert migrate(older) == steps
    assert (examine(older).journal.format, examine(older).journal.has_older_ledger) == (SCHEMA.version, False)
    assert (verify(log).problems, differences(log)) == ([], [])
    assert (older.root / "ledger.db.migrated").read_bytes() == before["ledger.db"]
    assert migrate(older) == []


def test_what_was_planted_in_an_older_log_stops_the_migration_also_a_dry_one(older: State) -> None:
    changed(older.root / "audit.db", "CREATE TRIGGER quiet BEFORE INSERT ON records BEGIN SELECT RAISE(IGNORE); END")
    for dry_run in (True, False):
        with pytest.raises(AuditUnavailable, match="the trigger 'quiet' in it is not ours"):
            migrate(older, dry_run=dry_run)


@pytest.mark.parametrize("version", range(1, VERSION))
def test_an_older_journal_on_a_server_is_migrated_and_before_that_only_told(
    state: State, postgres: Postgres, version: int
) -> None:
    url = postgres.database()
    for statement in OLDER.joinpath(f"journal-{version}.sql").read_text().split(";\n"):
        sql(url, statement)
    there = State(state.root, url)
    assert "migrate it (`belljar state migrate`)" in (examine(there).error or "")
    steps = [Step(examine(there).journal.where, version, VERSION)]
    assert migrate(there, dry_run=True) == steps
    assert sql(url, "SELECT version FROM belljar.head") == [(version,)]
    assert migrate(there) == steps
    assert (migrate(there), examine(there).error) == ([], None)
    sql(url, f"UPDATE belljar.head SET version = {VERSION + 1}")
    for dry_run in (True, False):
        with pytest.raises(AuditUnavailable, match="update Belljar"):
            migrate(there, dry_run=dry_run)
    postgres.drop()


def test_where_there_is_nothing_nothing_is_migrated_or_made(tmp_path: Path) -> None:
    assert migrate(State(tmp_path / "none")) == []
    assert list(tmp_path.iterdir()) == []


# -- copying -----------------------------------------------------------------------------------------------------------


def test_a_copy_is_whole_private_and_verifies(state: State, tmp_path: Path) -> None:
    fill(state)
    log, folder = state.root / "audit.db", tmp_path / "backups" / "monday"
    before = os.umask(0)
    try:
        made = back_up(log, folder)
    finally:
        os.umask(before)
    copy = folder / "audit.db"
    assert (verify(copy), differences(copy)) == (verify(log), [])
    assert (made.records, made.head, made.problems) == (verify(log).records, verify(log).head, [])
    assert made.size_bytes == copy.stat().st_size
    assert [path.name for path in folder.iterdir()] == ["audit.db"]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_copy_is_of_one_moment_and_holds_up_no_writer(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two of its steps another connection commits, and never waits."""
    fill(state)
    log = state.root / "audit.db"
    head, wrote = verify(log).head, 0

    def write(*_: object) -> None:
        nonlocal wrote
        if wrote < 20:
            other.execute("INSERT INTO balances (account, key) VALUES (?, 'total')", (f"t{wrote}",))
            wrote += 1

    monkeypatch.setattr(backup, "_STEP_PAGES", 1)
    monkeypatch.setattr(backup, "_between_steps", write)
    with closing(sqlite3.connect(log, isolation_level=None, timeout=0)) as other:
        assert back_up(log, tmp_path / "copy").head == head
    assert wrote > 5
    with closing(sqlite3.connect(tmp_path / "copy" / "audit.db")) as db:
        assert db.execute("SELECT count(*) FROM balances WHERE account LIKE 't%'").fetchone() == (0,)


def test_a_file_that_is_there_is_never_replaced(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(state)
    log, folder = state.root / "audit.db", tmp_path / "copy"
    folder.mkdir()
    for name in ("audit.db", "ledger.db"):
        (folder / name).write_text("mine")
        with pytest.raises(InvalidInput, match="a backup never replaces a file") as refused:
            back_up(log, folder)
        assert refused.value.code == "backup.exists"
        assert contents(folder) == {name: b"mine"}
        (folder / name).unlink()
    # It comes while the copy is made.
    monkeypatch.setattr(backup, "_between_steps", lambda *_: (folder / "audit.db").write_text("mine"))
    with pytest.raises(InvalidInput, match="a backup never replaces a file"):
        back_up(log, folder)
    assert contents(folder) == {"audit.db": b"mine"}
    with pytest.raises(InvalidInput, match="a backup never replaces a file"):
        back_up(log, state.root)


def test_a_copy_that_is_broken_off_leaves_nothing(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(state)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(backup, "_between_steps", interrupt)
    with pytest.raises(KeyboardInterrupt):
        back_up(state.root / "audit.db", tmp_path / "copy")
    assert contents(tmp_path / "copy") == {}


KILLED = """
import os, signal, sys
from pathlib import Path
from belljar import backup

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

where = sys.argv[3]
if where == "copying":
    backup._between_steps = die
elif where == "checking":
    backup.soundness = die
elif where == "naming":
    backup.os.link = die
backup.back_up(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("where", ["copying", "checking", "naming"])
def test_a_backup_that_is_killed_leaves_nothing_under_the_name_of_a_copy_and_the_next_one_is_whole(
    state: State, tmp_path: Path, where: str
) -> None:
    fill(state)
    log, folder = state.root / "audit.db", tmp_path / "copy"
    command = [sys.executable, "-c", KILLED, str(log), str(folder), where]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    left = {path.name for path in folder.iterdir()}
    assert left
    assert all(name.startswith(".audit.db-") for name in left)
    assert back_up(log, folder).problems == []
    assert verify(folder / "audit.db").head == verify(log).head


def test_a_backup_on_a_full_disk_leaves_nothing(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that may not grow: what SQLite hears is what a full disk says."""
    fill(state)
    honest = backup._copy_file

    def into_little_room(path: Path, target: sqlite3.Connection) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, hard))
        try:
            honest(path, target)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)

    monkeypatch.setattr(backup, "_copy_file", into_little_room)
    with pytest.raises(HostFault, match=r"cannot make a backup in .*; check the disks"):
        back_up(state.root / "audit.db", tmp_path / "copy")
    assert contents(tmp_path / "copy") == {}
    assert verify(state.root / "audit.db").problems == []


def test_a_copy_of_what_is_not_sound_is_kept_and_told(state: State, tmp_path: Path) -> None:
    fill(state)
    changed(state.root / "audit.db", "UPDATE balances SET used_calls = 7 WHERE account = 'acme' AND key = 'total'")
    made = back_up(state.root / "audit.db", tmp_path / "copy")
    assert made.problems == ["acme total: used calls is 7, its reservations say 2"]
    assert (tmp_path / "copy" / "audit.db").exists()


def test_an_older_log_is_copied_with_its_ledger(older: State, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    made = back_up(older.root / "audit.db", folder)
    assert (made.records, made.problems) == (28, [])
    assert sorted(path.name for path in folder.iterdir()) == ["audit.db", "ledger.db"]
    assert len(migrate(State(folder))) == 2
    assert verify(folder / "audit.db").problems == []


def test_where_there_is_no_journal_there_is_no_copy(state: State, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no audit log"):
        back_up(state.root / "audit.db", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_copy_of_a_database_is_a_file_of_our_format(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.database()

    async def main() -> None:
        async with open_quotas(url) as quotas:
            for number in range(600):  # more than a batch
                await quotas.set(f"t{number:03}", "day", calls=number)
        async with shop(url) as here:
            for number in range(3):
                await here.begin(RunId(f"r{number}"), "acme/research")
                await here.query(RunId(f"r{number}"), ends=number > 0)

    asyncio.run(main())
    made = back_up(url, tmp_path / "copy")
    assert made.source.startswith("postgresql:///")
    copy = tmp_path / "copy" / "audit.db"
    assert (verify(copy), differences(copy)) == (verify(url), [])
    assert [path.name for path in copy.parent.iterdir()] == ["audit.db"]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    report = examine(State(copy.parent)).journal
    assert (report.open_runs, report.held.calls, report.problems) == (3, 1, [])
    with closing(sqlite3.connect(copy)) as db:
        assert db.execute("SELECT count(*), sum(calls) FROM limits").fetchone() == (600, sum(range(600)))
    postgres.drop()
