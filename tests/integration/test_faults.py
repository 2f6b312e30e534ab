"""The disk fails a host, or the machine does, at one system call after the other: nothing is sent that is not logged.

Each case is a host of its own that opens the store, runs and closes, with one fault at one call. Afterwards the log
verifies, the next host closes what was left open, the books agree with the log, whatever the provider was sent has its
request in the log, and no process, box or file is left. So many cases are tried that in the last one there was no call
left to be hit.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from belljar.audit import records, signing, verify
from belljar.audit.content import HOST_KEY
from belljar.audit.signing import Signed
from belljar.identity import RunId
from belljar.keys import Keys
from tests.integration.faults import (
    ROOT,
    Fault,
    Provider,
    assert_sound,
    ended,
    hit,
    needs_strace,
    started,
    with_fault,
)
from tests.integration.support import PATIENCE_S, Jar, adopting_orphans, no_process_left
from tests.journals import OwnLog
from tests.unit.audit_events import made

EIO, FULL, KILL = "error=EIO", "error=ENOSPC", "signal=SIGKILL"
OLDER = ROOT / "tests" / "unit" / "older_files"
# Every so many writes one is hit, by each of the three faults another: a page and its header are two.
STEP = 24


class Row:
    """State folders of which one after the other is hit. `store` is what each of them begins with."""

    def __init__(self, folder: Path, images: Path) -> None:
        self._folder, self._images = folder, images
        self._count = itertools.count()
        self.provider = Provider()
        self.store: Path | None = None

    def jar(self) -> Jar:
        folder = self._folder / str(next(self._count))
        folder.mkdir()
        jar = Jar(folder, self._images)
        if self.store is not None:
            shutil.copy(self.store, jar.journal)
        return jar

    def hit(self, fault: Fault, runs: int, *, anywhere: bool = False) -> bool:
        """Whether the fault came."""
        self.provider.journal.clear()
        jar = self.jar()
        end = hit(fault, jar, self.provider, runs, anywhere=anywhere)
        try:
            if fault.what == KILL and end.fired:
                assert end.code == -signal.SIGKILL
            else:
                # A context store that fails is no store of the log: nothing of the run has begun.
                of_contexts = anywhere and end.code == 1 and "the context store" in end.stderr
                assert end.code in (0, 8) or of_contexts
            if end.code == 0:
                # Whatever it was that failed, it was not needed.
                ends = [record.data["status"] for record in jar.records("run.finished")]
                assert ends == ["ok", "ok"] * (runs + (self.store is not None))
            assert_sound(jar, self.provider)
            if anywhere:
                assert_keys_can_be_used(jar)
        except AssertionError as error:
            raise AssertionError(f"{fault}, {end}: {error}") from error
        shutil.rmtree(jar.at.parent)
        return end.fired

    def hit_each(
        self, call: str, what: str, *, first: int = 1, step: int = 1, runs: int = 1, anywhere: bool = False
    ) -> int:
        """Hit every `step`-th call until there is no more. Returns how many were hit."""
        nths = (Fault(call, what, nth) for nth in itertools.count(first, step))
        return sum(1 for _ in itertools.takewhile(lambda fault: self.hit(fault, runs, anywhere=anywhere), nths))


def assert_keys_can_be_used(jar: Jar) -> None:
    """Each key is there as a whole, or not at all; and the log can be signed now."""
    keys = Keys.at(jar.environ())
    for name in ("signing", HOST_KEY):
        keys.found(name)

    async def sign() -> Signed | None:
        async with signing(jar.journal, keys) as checkpoints:
            return await checkpoints.make()

    assert asyncio.run(sign()) is not None or not jar.records()
    assert verify(jar.journal, keys=keys).problems == []


@pytest.fixture
def row(tmp_path: Path, images: Path) -> Iterator[Row]:
    """State folders without a store."""
    with adopting_orphans():
        row = Row(tmp_path, images)
        yield row
        row.provider.close()


@pytest.fixture
def new(row: Row) -> Row:
    """The same, to be hit."""
    needs_strace()
    return row


@pytest.fixture
def used(new: Row) -> Row:
    """State folders with a store in which there is a run."""
    keep_store(new)
    return new


def keep_store(row: Row) -> None:
    jar = row.jar()
    assert ended(started(jar, row.provider, 1)).code == 0
    row.store = jar.journal
    row.provider.asked.clear()
    row.provider.journal.clear()


@pytest.mark.parametrize("what", [EIO, KILL], ids=["error", "kill"])
@pytest.mark.parametrize(("call", "least"), [("fdatasync", 7), ("ftruncate", 1), ("unlink", 2)])
def test_at_each_flush_and_removal_while_a_store_is_made(new: Row, call: str, least: int, what: str) -> None:
    assert new.hit_each(call, what, runs=0) >= least


@pytest.mark.parametrize(("what", "first"), [(EIO, 1), (FULL, 4), (KILL, 2)], ids=["error", "full", "kill"])
def test_at_the_writes_while_a_store_is_made(new: Row, what: str, first: int) -> None:
    assert new.hit_each("pwrite64", what, first=first, step=5, runs=0) >= 7


# Appends records of 40 KB until one is refused, and says how many there are then, and why.
APPENDS = """
import asyncio, sys
from pathlib import Path
from belljar.audit.events import CellFinished, RunStarted
from belljar.errors import AuditUnavailable
from belljar.identity import RunId
from tests.journals import OwnLog

async def main():
    log, count = OwnLog(Path(sys.argv[1])), 0
    try:
        while count < 1000:
            event = RunStarted(tenant="acme", contexts=[], facts={f"n{n}": "x" * 200 for n in range(190)})
            count = await log.append(RunId(f"r{count}"), event)
    except AuditUnavailable as error:
        print(count, error)

asyncio.run(main())
"""


def test_a_database_that_takes_no_pages_stops_the_log_though_the_file_beside_it_takes_them(tmp_path: Path) -> None:
    needs_strace()
    path, fault = tmp_path / "audit.db", Fault("pwrite64", FULL, "1+")
    asyncio.run(OwnLog(path).aclose())
    command = [*with_fault(fault, [path], tmp_path / "trace"), sys.executable, "-c", APPENDS, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "(INJECTED)" in (tmp_path / "trace").read_text()
    count, _, why = done.stdout.partition(" ")
    assert "the disk is full; free some space" in why
    assert 50 < int(count) < 200  # 4 MiB of them were taken
    report = verify(path)
    assert (report.problems, report.records) == ([], int(count))


# Makes an image of one file.
MAKES = """
import sys
from pathlib import Path
from belljar.errors import BoxFault
from belljar.sandbox import image

def populate(root):
    for name in (image.PYTHON, image.AGENT):
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True)
        path.write_text("whole")

image._populate = populate
try:
    print(image.ensure_image(Path(sys.argv[1])).digest)
except BoxFault as fault:
    print(fault)
"""


def test_an_image_has_no_name_before_it_is_on_the_disk(tmp_path: Path) -> None:
    needs_strace()
    folder, trace = tmp_path / "images", tmp_path / "trace"
    command = [*with_fault(Fault("fsync", EIO, 1), [], trace), sys.executable, "-c", MAKES, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "could not be built" in done.stdout
    assert "Input/output error" in done.stdout
    assert [path.name for path in folder.iterdir()] == [".lock"]
    done = subprocess.run(command[-4:], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (folder / done.stdout.strip().removeprefix("sha256:")).is_dir()


PACKS = """
import asyncio, sys
from pathlib import Path
from belljar.audit.signing import signing
from belljar.errors import BelljarError
from belljar.keys import Keys

async def main():
    async with signing(Path(sys.argv[1]), Keys(Path(sys.argv[2]))) as checkpoints:
        await checkpoints.make()

try:
    asyncio.run(main())
except BelljarError as error:
    sys.exit(error.exit_code)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "what", "step"), [("pwrite64", KILL, 9), ("pwrite64", FULL, 9), ("fdatasync", EIO, 1)]
)
def test_a_fault_at_any_write_of_a_pack_leaves_each_record_in_one_place(
    tmp_path: Path, call: str, what: str, step: int
) -> None:
    needs_strace()
    whole = tmp_path / "whole.db"

    async def write() -> None:
        log = OwnLog(whole)
        for number in range(300):
            await log.append(RunId(f"r{number}"), made("run.started", {}), made("run.finished", {"calls": 0}))
        await log.aclose()

    asyncio.run(write())
    before, packed, hits = list(records(whole)), set[int](), 0
    for nth in itertools.count(1, step):
        folder = tmp_path / str(nth)
        folder.mkdir()
        path = Path(shutil.copy(whole, folder / "audit.db"))
        words = with_fault(Fault(call, what, nth), [path, path.with_name("audit.db-wal")], tmp_path / "trace")
        command = [*words, sys.executable, "-c", PACKS, str(path), str(folder / "keys")]
        done = subprocess.run(command, cwd=ROOT, check=False)
        fired = done.returncode == -signal.SIGKILL or "(INJECTED)" in (tmp_path / "trace").read_text()
        assert done.returncode in (0, 8, -signal.SIGKILL)
        assert list(records(path)) == before, nth
        assert verify(path).problems == []
        with contextlib.closing(sqlite3.connect(path)) as db:
            packed.add(db.execute("SELECT count(*) FROM packs").fetchone()[0])
        if not fired:
            break
        hits += 1
    assert hits > 5
    assert packed >= {0, 2}


READS = """
import sys
from pathlib import Path
from belljar.audit import verify
from belljar.backup import back_up

sys.exit(len(verify(Path(sys.argv[1])).problems) + len(back_up(Path(sys.argv[1]), Path(sys.argv[2])).problems))
"""


def test_a_log_whose_disk_has_no_room_for_a_writers_files_is_read_and_copied_to_another(tmp_path: Path) -> None:
    needs_strace()
    path, index = tmp_path / "audit.db", tmp_path / "audit.db-shm"

    async def write() -> None:
        log = OwnLog(path)
        await log.append(RunId("r1"), made("run.started", {}))
        await log.aclose()

    asyncio.run(write())
    full = with_fault(Fault("pwrite64", FULL, "1+"), [index], tmp_path / "trace")
    for attempt, (script, code) in enumerate([(OPENS, 8), (READS, 0), (OPENS, 8), (READS, 0)]):
        arguments = [str(path), str(tmp_path / f"copy{attempt}")]
        done = subprocess.run([*full, sys.executable, "-c", script, *arguments], cwd=ROOT, check=False)
        assert (done.returncode, "(INJECTED)" in (tmp_path / "trace").read_text()) == (code, True)
        assert path.with_name("audit.db-wal").stat().st_size == 0
    assert [record.event for record in records(tmp_path / "copy1" / "audit.db")] == ["run.started"]


OPENS = """
import asyncio, sys
from pathlib import Path
from belljar.errors import AuditUnavailable
from tests.journals import OwnLog

try:
    asyncio.run(OwnLog(Path(sys.argv[1])).aclose())
except AuditUnavailable as error:
    sys.exit(error.exit_code)
"""


def contents(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        return [str(version), *db.iterdump()]


def migrated(folder: Path, older: str) -> Path:
    """A log in an older form, with the ledger beside it if that was a file of its own."""
    folder.mkdir()
    if older == "audit.db":
        shutil.copy(OLDER / "ledger.db", folder)
    return Path(shutil.copy(OLDER / older, folder / "audit.db"))


@pytest.mark.parametrize("what", [EIO, KILL], ids=["error", "kill"])
@pytest.mark.parametrize("older", ["audit.db", "audit-3.db"])
def test_at_the_calls_of_a_migration(tmp_path: Path, older: str, what: str) -> None:
    needs_strace()
    whole = migrated(tmp_path / "whole", older)
    asyncio.run(OwnLog(whole).aclose())
    hits = 0
    for call, step in (("fdatasync", 1), ("rename", 1), ("ftruncate", 1), ("pwrite64", 7)):
        for nth in itertools.count(1, step):
            path = migrated(tmp_path / f"{call}{nth}", older)
            names = [
                f"{name}{end}" for name in ("audit.db", "ledger.db") for end in ("", "-wal", "-journal", ".migrated")
            ]
            words = with_fault(Fault(call, what, nth), [path.parent, *map(path.with_name, names)], tmp_path / "trace")
            done = subprocess.run([*words, sys.executable, "-c", OPENS, str(path)], cwd=ROOT, check=False)
            fired = done.returncode == -signal.SIGKILL or "(INJECTED)" in (tmp_path / "trace").read_text()
            assert done.returncode in (0, 8, -signal.SIGKILL)
            asyncio.run(OwnLog(path).aclose())
            assert contents(path) == contents(whole), (call, nth)
            if not fired:
                break
            hits += 1
    assert hits > 5


@pytest.mark.slow
@pytest.mark.parametrize("what", [EIO, KILL], ids=["error", "kill"])
@pytest.mark.parametrize(("call", "least"), [("fsync", 4), ("rename", 2), ("link", 1)])
def test_at_the_files_of_contexts_and_of_keys(new: Row, call: str, least: int, what: str) -> None:
    """A first run registers a context, and makes the key of contents, the key that signs, and what was signed last."""
    assert new.hit_each(call, what, anywhere=True) >= least


# Registers a context and makes a key, where no file may have more than so many bytes, and says what is left.
SMALL = """
import os, resource, sys
from pathlib import Path
from belljar.context import ContextStore
from belljar.errors import HostFault
from belljar.keys import Keys

folder, size = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
text = "a\\n" * 9999
for work in (
    lambda: Keys(folder / "keys").secret("signing"),
    lambda: ContextStore(folder / "contexts").add(text, now_ns=1),
):
    try:
        work()
        print("done")
    except HostFault as error:
        print(error)
of_contexts = [path.name for path in (folder / "contexts").rglob("*") if path.parent.name in ("incoming", "documents")]
print(sorted(os.listdir(folder / "keys")), of_contexts)
"""


@pytest.mark.parametrize("size", [0, 31, 32, 1000, 19_997])
def test_a_disk_that_takes_no_more_leaves_no_part_of_a_key_or_context(tmp_path: Path, size: int) -> None:
    command = [sys.executable, "-c", SMALL, str(tmp_path), str(size)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    key, context, left = done.stdout.splitlines()
    assert (key == "done") == (size >= 32), key
    assert context != "done", context
    assert left == ("['signing'] []" if size >= 32 else "[] []")
    assert len(Keys(tmp_path / "keys").secret("signing")) == 32


@pytest.mark.slow
@pytest.mark.parametrize("what", [EIO, KILL], ids=["error", "kill"])
def test_at_each_flush_of_a_busy_run(used: Row, what: str) -> None:
    assert used.hit_each("fdatasync", what) > 15


@pytest.mark.slow
@pytest.mark.parametrize(("what", "first"), [(EIO, 9), (FULL, 14), (KILL, 19)], ids=["error", "full", "kill"])
def test_at_the_writes_of_a_busy_run(used: Row, what: str, first: int) -> None:
    assert used.hit_each("pwrite64", what, first=first, step=STEP) > 12


@pytest.mark.slow
def test_at_each_write_of_a_commit(used: Row) -> None:
    """The first ones of a run: it is opened, and its box is held."""
    for nth in range(9, 33):
        assert used.hit(Fault("pwrite64", FULL, nth), 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "first"), [("error=EROFS", 20), (FULL, 34), (EIO, 48)], ids=["read-only", "full", "broken"]
)
def test_from_a_write_of_a_busy_run_on(used: Row, what: str, first: int) -> None:
    """The store does not come back: the run cannot even be closed."""
    for nth in range(first, 200, 42):
        assert used.hit(Fault("pwrite64", what, f"{nth}+"), 1)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "in the middle"])
def test_a_store_that_somebody_has_locked(row: Row, when: str) -> None:
    keep_store(row)
    jar, provider = row.jar(), row.provider
    provider.go.clear()
    with contextlib.closing(sqlite3.connect(jar.journal, isolation_level=None)) as other:
        if when == "before":
            other.execute("BEGIN IMMEDIATE")
        process = started(jar, provider, 1, busy_s=0.5)
        if when == "in the middle":
            assert provider.asked.wait(PATIENCE_S)
            other.execute("BEGIN IMMEDIATE")
            provider.go.set()
        end = ended(process)
    assert end.code == 8
    assert "another process has held its lock" in end.stderr
    assert len(provider.journal) == (when == "in the middle")
    assert_sound(jar, provider)


@pytest.mark.parametrize("where", ["its head", "all behind its head"])
def test_a_store_that_is_damaged(row: Row, where: str) -> None:
    keep_store(row)
    jar = row.jar()
    with jar.journal.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        start, stop = (0, 100) if where == "its head" else (4096, size)
        file.seek(start)
        file.write(b"\xa5" * (stop - start))
    end = ended(started(jar, row.provider, 1))
    assert end.code == 8
    assert "set the file aside" in end.stderr
    assert row.provider.journal == []
    no_process_left()
