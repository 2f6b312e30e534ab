"""The journal: what a caller may believe when its future resolves, and who pays for a failure."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from belljar.errors import AuditUnavailable, InvalidInput, LedgerUnavailable
from belljar.journal import Draft, Job, Journal, open_journal
from belljar.journal.draft import StoreError
from belljar.journal.postgres import PostgresStore
from belljar.journal.schema import SCHEMA
from belljar.journal.sqlite import SqliteStore
from belljar.journal.tables import LIMITED, LIMITS, TABLES, LimitsRow, Table
from belljar.journal.turns import SUFFIX, Turns
from tests import journals
from tests.journals import fill, meddle
from tests.postgres import sql
from tests.waiting import until

NONE = (None,) * len(LIMITED)
on_each_store = pytest.mark.usefixtures("store")


class Made(Journal):
    """A journal whose errors are the log's."""

    def submit(
        self, job: Job[Any], *, lane: str = "", lazy: bool = False, last: bool = False, **_: Any
    ) -> asyncio.Future[Any]:
        return super().submit(job, lane=lane, lazy=lazy, last=last, unavailable=AuditUnavailable)

    def submit_soon(self, job: Job[Any], *, lane: str = "", **_: Any) -> None:
        super().submit_soon(job, lane=lane, unavailable=AuditUnavailable)

    async def flush(self, *_: Any) -> None:
        await super().flush(AuditUnavailable)

    async def aclose(self, timeout_s: float = 30.0, **_: Any) -> None:
        await super().aclose(timeout_s, unavailable=AuditUnavailable)


def make(path: Path | None, busy_timeout_s: float = 10.0, **options: Any) -> Made:
    name = "the test log"
    where = journals.place(path)
    if isinstance(where, str):
        return Made(PostgresStore(where, name=name, unavailable=AuditUnavailable), name=name, **options)
    store = SqliteStore(path, name=f"{name} {path}", unavailable=AuditUnavailable, busy_timeout_s=busy_timeout_s)
    return Made(store, name=name, inline=path is None, **options)


def insert(x: int) -> Job[int]:
    """A job that puts a row of its own, and refuses one that is there."""

    def work(draft: Draft) -> int:
        if draft.get(LIMITS, f"{x:05}", "day") is not None:
            raise AuditUnavailable("UNIQUE")
        draft.put(LIMITS, LimitsRow(f"{x:05}", "day", NONE))
        return x

    return Job(work)


def connection(writer: Journal) -> sqlite3.Connection:
    assert isinstance(writer._store, SqliteStore)
    return writer._store._db


def rows(path: Path) -> list[int]:
    if isinstance(where := journals.place(path), str):
        return [int(x) for (x,) in sql(where, "SELECT account FROM belljar.limits ORDER BY account")]
    with closing(sqlite3.connect(path)) as db:
        return [int(x) for (x,) in db.execute("SELECT account FROM limits ORDER BY account")]


COUNT: Job[int] = Job(lambda draft: int(draft.query("SELECT count(*) FROM limits")[0][0]))


async def block(writer: Journal) -> Callable[[], None]:
    """Hold the journal inside a round, so that what is queued next gathers. Call the result to go on."""
    started, go = threading.Event(), threading.Event()

    def work(_: Draft) -> None:
        started.set()
        go.wait(60)

    writer.submit(Job(work))
    assert await asyncio.to_thread(started.wait, 60)
    return go.set


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process's transaction, as far as SQLite can tell."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Another process's turn at a file."""
    turns = Turns(path.with_name(path.name + SUFFIX))
    assert turns.take(60)
    yield
    turns.give()
    turns.close()


@on_each_store
def test_what_resolved_is_in_the_file(tmp_path: Path) -> None:
    async def main() -> None:
        writer = make(tmp_path / "a.db")
        assert await writer.submit(insert(1)) == 1
        assert rows(tmp_path / "a.db") == [1]
        await writer.aclose()

    asyncio.run(main())


@on_each_store
def test_a_job_that_raises_takes_back_only_its_own_changes(tmp_path: Path) -> None:
    def bad(draft: Draft) -> None:
        draft.put(LIMITS, LimitsRow("50", "day", NONE))
        raise InvalidInput("no")

    async def main() -> None:
        writer = make(tmp_path / "a.db")
        go = await block(writer)
        jobs: list[asyncio.Future[Any]] = [writer.submit(job) for job in (insert(1), Job(bad), insert(2))]
        go()
        one, error, two = await asyncio.gather(*jobs, return_exceptions=True)
        assert (one, two) == (1, 2)
        assert isinstance(error, InvalidInput)
        assert rows(tmp_path / "a.db") == [1, 2]
        await writer.aclose()

    asyncio.run(main())


def test_what_gathers_behind_a_busy_disk_is_committed_at_once(tmp_path: Path) -> None:
    statements: list[str] = []

    async def main() -> None:
        writer = make(tmp_path / "a.db", round_max=64)
        connection(writer).set_trace_callback(statements.append)
        go = await block(writer)
        jobs = [writer.submit(insert(x)) for x in range(128)]
        go()
        await asyncio.gather(*jobs)
        await writer.aclose()

    asyncio.run(main())
    assert statements.count("COMMIT") == 3  # the one that was held, then 64 at a time


def test_a_round_that_cannot_begin_fails_every_job_in_it_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.db"

    async def main() -> None:
        writer = make(path, busy_timeout_s=0.05)
        with locked(path):
            errors = await asyncio.gather(*(writer.submit(insert(x)) for x in range(3)), return_exceptions=True)
        assert [type(error) for error in errors] == [AuditUnavailable] * 3
        assert "another process has held its lock" in str(errors[0])
        assert len({id(error) for error in errors}) == 3
        await writer.submit(insert(9))
        assert rows(path) == [9]
        await writer.aclose()

    asyncio.run(main())


def test_rounds_that_fail_one_after_the_other_have_one_patience_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the last writes of a run, which are half a dozen, do not each wait for as long as the first."""
    now, each_s, waits = 100.0, 10.0, list[float]()

    def begin() -> bool:
        nonlocal now
        waits.append(store.patience_s)
        now += min(each_s, store.patience_s)
        if each_s:
            raise StoreError("it does not answer")
        return honest()

    async def tried(writer: Made, times: int) -> list[float]:
        waits.clear()
        for x in range(times):
            await asyncio.gather(writer.submit(insert(x)), return_exceptions=True)
        return waits

    monkeypatch.setattr("belljar.journal.journal.time", SimpleNamespace(monotonic=lambda: now))
    store = SqliteStore(None, name="it", unavailable=AuditUnavailable)
    honest = store.begin
    monkeypatch.setattr(store, "begin", begin)

    async def main() -> None:
        nonlocal each_s
        writer = Made(store, name="it", inline=True)
        assert await tried(writer, 4) == [10, 2, 2, 2]
        each_s = 0  # it answers again
        assert await tried(writer, 2) == [2, 10]
        each_s = 3
        assert await tried(writer, 5) == [10, 7, 4, 2, 2]
        await writer.aclose()

    asyncio.run(main())


def test_a_pulse_has_what_is_left_of_the_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    store, waits, pulsed = SqliteStore(None, name="it", unavailable=AuditUnavailable), list[float](), threading.Event()

    def begin() -> bool:
        raise StoreError("it does not answer")

    def pulse() -> None:
        waits.append(store.patience_s)
        pulsed.set()

    for name, value in (("begin", begin), ("pulse", pulse), ("pulse_s", 0.01)):
        monkeypatch.setattr(store, name, value)

    async def main() -> None:
        writer = Made(store, name="it")
        assert await asyncio.to_thread(pulsed.wait, 60)
        assert waits[0] == 10
        with pytest.raises(AuditUnavailable):
            await writer.submit(insert(1))
        writer._failing_since = -1e6  # long ago
        await asyncio.to_thread(until, lambda: 2 in waits, what="it has little left")
        await writer.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("theirs", [locked, in_turn], ids=["lock", "turn"])
def test_a_round_waits_for_another_process_as_long_as_it_may(
    tmp_path: Path, theirs: Callable[[Path], contextlib.AbstractContextManager[None]]
) -> None:
    async def main() -> None:
        writer = make(tmp_path / "a.db", busy_timeout_s=0.2)
        with theirs(tmp_path / "a.db"):
            writer._patience_s = 0.05
            with pytest.raises(AuditUnavailable, match=r"held its lock for more than 0\.05 s"):
                await writer.submit(insert(1))
        writer._patience_s = 60.0
        assert await writer.submit(insert(2)) == 2  # it answers again
        assert await writer.submit(insert(3)) == 3
        assert connection(writer).execute("PRAGMA busy_timeout").fetchone() == (60_000,)
        await writer.aclose()

    asyncio.run(main())


def test_a_full_database_is_reported_in_the_type_of_its_owner(tmp_path: Path) -> None:
    async def main() -> None:
        writer = make(tmp_path / "a.db")
        await fill(writer)
        with pytest.raises(AuditUnavailable, match="the disk is full; free some space"):
            await writer.submit(Job(lambda draft: draft.put(LIMITS, LimitsRow("1" * 100_000, "day", NONE))))
        await meddle(writer, "PRAGMA max_page_count=4000")
        await writer.submit(insert(2))
        assert rows(tmp_path / "a.db") == [2]
        await writer.aclose()

    asyncio.run(main())


@on_each_store
def test_unawaited_jobs_come_before_what_is_submitted_later(tmp_path: Path) -> None:
    async def main() -> None:
        writer = make(tmp_path / "w.db")
        for x in range(500):
            writer.submit_soon(insert(x))
        assert await writer.submit(COUNT) == 500
        await writer.aclose()

    asyncio.run(main())


@on_each_store
def test_what_follows_a_lost_job_in_its_lane_does_not_happen_and_no_other_lane_cares() -> None:
    async def main() -> None:
        writer = make(None)
        await writer.submit(insert(1))
        writer.submit_soon(insert(1), lane="a")  # the key exists: refused by SQLite
        writer.submit_soon(insert(2), lane="a")
        assert await writer.submit(insert(3), lane="b") == 3
        with pytest.raises(AuditUnavailable, match="an earlier write was lost"):
            await writer.flush()
        for x in (4, 5):
            with pytest.raises(AuditUnavailable, match="UNIQUE"):
                await writer.submit(insert(x), lane="a")
            writer.submit_soon(insert(x), lane="a")
        await writer.flush()
        assert await writer.submit(COUNT) == 2  # 1 and 3: there is no hole
        await writer.aclose()

    asyncio.run(main())


def test_the_last_job_of_a_lane_runs_once_somebody_was_told_what_was_lost() -> None:
    async def main() -> None:
        writer = make(None)
        await writer.submit(insert(1))
        for lane in ("told", "not told"):
            writer.submit_soon(insert(1), lane=lane)
        with pytest.raises(AuditUnavailable, match="UNIQUE"):
            await writer.submit(insert(2), lane="told")
        assert await writer.submit(insert(3), lane="told", last=True) == 3
        with pytest.raises(AuditUnavailable, match="UNIQUE"):
            await writer.submit(insert(4), lane="not told", last=True)
        for x, lane in ((5, "told"), (6, "not told")):
            assert await writer.submit(insert(x), lane=lane) == x  # what was lost before is forgotten
        assert (writer._lost, writer._told) == ({}, set())
        await writer.aclose()

    asyncio.run(main())


def test_unawaited_jobs_of_a_failed_round_are_lost_and_said_so(tmp_path: Path) -> None:
    async def main() -> None:
        writer = make(tmp_path / "a.db", busy_timeout_s=0.05)
        with locked(tmp_path / "a.db"):
            writer.submit_soon(insert(1), lane="a")
            with pytest.raises(AuditUnavailable):
                await writer.submit(insert(2), lane="b")
        with pytest.raises(AuditUnavailable, match="an earlier write was lost"):
            await writer.aclose()

    asyncio.run(main())


@on_each_store
def test_a_cancelled_caller_does_not_undo_its_job(tmp_path: Path) -> None:
    async def main() -> None:
        writer = make(tmp_path / "w.db")
        go = await block(writer)
        writer.submit(insert(1)).cancel()
        go()
        assert await writer.submit(COUNT) == 1
        await writer.aclose()

    asyncio.run(main())


@on_each_store
def test_room_waits_while_too_much_is_queued(tmp_path: Path) -> None:
    async def main() -> None:
        writer = make(tmp_path / "w.db", queue_max=10)
        go = await block(writer)
        for x in range(9):
            writer.submit_soon(insert(x))
        await asyncio.wait_for(writer.room(), 60)
        writer.submit_soon(insert(9))
        writer.submit_soon(insert(10))
        waiting = asyncio.ensure_future(writer.room())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        go()
        await waiting
        await writer.aclose()

    asyncio.run(main())


def test_closing_writes_what_is_queued_and_refuses_what_comes_later(tmp_path: Path) -> None:
    async def main() -> None:
        writer = make(tmp_path / "a.db")
        for x in range(1000):
            writer.submit_soon(insert(x))
        await writer.aclose()
        assert len(rows(tmp_path / "a.db")) == 1000
        with pytest.raises(AuditUnavailable, match="is closed"):
            writer.submit(insert(1))
        await writer.aclose()

    asyncio.run(main())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.db", "a.db-turn"]


@on_each_store
def test_closing_has_a_deadline(tmp_path: Path) -> None:
    async def main() -> None:
        writer = make(tmp_path / "w.db")
        go = await block(writer)
        with pytest.raises(AuditUnavailable, match=r"did not finish writing in 0\.05 s"):
            await writer.aclose(0.05)
        go()
        await writer.aclose()

    asyncio.run(main())


@on_each_store
def test_one_writer_serves_several_event_loops(tmp_path: Path) -> None:
    writer = make(tmp_path / "w.db")

    async def some(start: int) -> None:
        await asyncio.gather(*(writer.submit(insert(start + x)) for x in range(100)))

    threads = [threading.Thread(target=lambda n=n: asyncio.run(some(n * 100))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def end() -> int:
        total: int = await writer.submit(COUNT)
        await writer.aclose()
        return total

    assert asyncio.run(end()) == 400


@on_each_store
def test_a_loop_that_ended_does_not_stop_the_writer(tmp_path: Path) -> None:
    writer = make(tmp_path / "w.db")

    async def leave() -> Callable[[], None]:
        go = await block(writer)
        writer.submit(insert(1))
        return go

    async def end() -> int:
        total: int = await writer.submit(COUNT)
        await writer.aclose()
        return total

    go = asyncio.run(leave())
    go()
    assert asyncio.run(end()) == 1


def test_the_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    modes: list[int] = []

    async def main() -> None:
        writer = make(tmp_path / "a.db")
        await writer.submit(insert(1))
        modes.extend(os.stat(tmp_path / name).st_mode & 0o777 for name in ("a.db", "a.db-wal", "a.db-shm"))
        await writer.aclose()

    asyncio.run(main())
    assert modes == [0o600] * 3


def test_a_file_behind_a_symbolic_link_that_leads_nowhere_yet_is_private_too(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "a.db").symlink_to("disk/b.db")
    before = os.umask(0o022)
    try:
        asyncio.run(open_journal(tmp_path / "a.db", unavailable=AuditUnavailable).aclose())
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "disk").iterdir()}
    assert modes == {"b.db": 0o600, "b.db-turn": 0o600}


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE holiday_photos (x)")


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA application_id={SCHEMA.application_id}")
        db.execute("PRAGMA user_version=9")


def older(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA application_id={SCHEMA.application_id}")
        db.execute("CREATE TABLE t (x)")


def text(path: Path) -> None:
    path.write_text("once upon a time " * 100)


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (foreign, "the file is something else"),
        (newer, f"its format is 9, but the latest known here is {SCHEMA.version}; a newer Belljar made it"),
        (older, f"its format is 0, but the latest known here is {SCHEMA.version}; an older Belljar made it"),
        (text, "file is not a database"),
        (Path.mkdir, "check the path and its permissions"),
    ],
)
def test_a_file_that_is_something_else_is_refused_in_one_line(
    tmp_path: Path, prepare: Callable[[Path], None], words: str
) -> None:
    prepare(tmp_path / "a.db")
    with pytest.raises(LedgerUnavailable, match=words) as caught:
        open_journal(tmp_path / "a.db", unavailable=LedgerUnavailable)
    assert str(caught.value).startswith(f"cannot open the journal {tmp_path / 'a.db'}: ")
    assert "\n" not in str(caught.value)


def test_a_file_with_a_second_name_is_not_written_under_either(tmp_path: Path) -> None:
    """SQLite's side files have the name under which a file was opened: who has the other knows nothing of them."""
    path, second = tmp_path / "a.db", tmp_path / "b.db"
    asyncio.run(open_journal(path, unavailable=AuditUnavailable).aclose())
    second.hardlink_to(path)
    for name in (path, second):
        with pytest.raises(AuditUnavailable, match=r"has a second name \(a hard link\).*; remove that, or copy"):
            open_journal(name, unavailable=AuditUnavailable)
    second.unlink()
    asyncio.run(open_journal(path, unavailable=AuditUnavailable).aclose())


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(AuditUnavailable, match="its folder does not exist; create it"):
        make(tmp_path / "no" / "a.db")


@on_each_store
def test_two_writers_of_one_file_take_turns(tmp_path: Path) -> None:
    async def main() -> None:
        one, two = make(tmp_path / "a.db"), make(tmp_path / "a.db")
        await asyncio.gather(
            *(writer.submit(insert(x * 2 + n)) for x in range(200) for n, writer in enumerate((one, two)))
        )
        await one.aclose()
        await two.aclose()

    asyncio.run(main())
    assert len(rows(tmp_path / "a.db")) == 400


def deleted(path: Path) -> None:
    path.unlink()


def moved(path: Path) -> None:
    path.rename(path.with_name("b.db"))


def replaced(path: Path) -> None:
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    copy.rename(path)


def without_wal(path: Path) -> None:
    path.with_name("a.db-wal").unlink()


def with_another_shm(path: Path) -> None:
    path.with_name("a.db-shm").unlink()
    path.with_name("a.db-shm").touch()


@pytest.mark.parametrize("happen", [deleted, moved, replaced, without_wal, with_another_shm])
def test_nothing_is_written_on_in_a_file_that_is_not_at_its_path(
    tmp_path: Path, happen: Callable[[Path], None]
) -> None:
    async def main() -> None:
        writer = make(tmp_path / "a.db")
        await writer.submit(insert(1))
        happen(tmp_path / "a.db")
        for _ in range(2):
            with pytest.raises(AuditUnavailable, match="put it back, or restart"):
                await writer.submit(insert(2))
        await writer.aclose()

    asyncio.run(main())


def test_a_file_that_is_put_back_is_written_on(tmp_path: Path) -> None:
    async def main() -> None:
        writer = make(tmp_path / "a.db")
        os.rename(tmp_path / "a.db", tmp_path / "b.db")
        with pytest.raises(AuditUnavailable):
            await writer.submit(insert(1))
        os.rename(tmp_path / "b.db", tmp_path / "a.db")
        await writer.submit(insert(2))
        assert await writer.submit(COUNT) == 1
        await writer.aclose()

    asyncio.run(main())


def test_a_file_that_goes_while_a_round_is_written_is_told_to_its_callers(tmp_path: Path) -> None:
    async def main() -> None:
        writer = make(tmp_path / "a.db")
        checks = iter([None, (tmp_path / "a.db").unlink])
        store = writer._store
        assert isinstance(store, SqliteStore)
        honest = store._refuse_moved

        def after(*_: object) -> None:
            if (act := next(checks, None)) is not None:
                act()
            honest()

        store._refuse_moved = after  # type: ignore[method-assign]
        with pytest.raises(AuditUnavailable, match="no longer at its path"):
            await writer.submit(insert(1))
        await writer.aclose()

    asyncio.run(main())


def test_where_a_file_cannot_be_locked_so_its_callers_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel in user space has no locks of open files; without this the writing thread would end."""

    def take(*_: object) -> bool:
        raise OSError(errno.EINVAL, "Invalid argument")

    async def main() -> None:
        writer = make(tmp_path / "a.db")
        monkeypatch.setattr("belljar.journal.turns.Turns.take", take)
        with pytest.raises(AuditUnavailable, match=r"its file cannot be locked \(Invalid argument\); use a local disk"):
            await writer.submit(insert(1))
        monkeypatch.undo()
        await writer.submit(insert(2))
        await writer.aclose()

    asyncio.run(main())


def test_what_another_process_plants_stops_the_next_round(tmp_path: Path) -> None:
    async def main() -> None:
        writer = make(tmp_path / "a.db")
        await writer.submit(insert(1))
        with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as db:
            db.execute("CREATE TRIGGER quiet BEFORE INSERT ON limits BEGIN SELECT RAISE(IGNORE); END")
        with pytest.raises(AuditUnavailable, match="the trigger 'quiet' in it is not ours"):
            await writer.submit(insert(2))
        with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as db:
            db.execute("DROP TRIGGER quiet")
        await writer.submit(insert(3))
        await writer.aclose()

    asyncio.run(main())


def test_the_pages_beside_a_database_are_moved_into_it_once_they_are_many_or_when_their_reader_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound, beside, numbers = 64 << 10, tmp_path / "a.db-wal", itertools.count()
    monkeypatch.setattr("belljar.journal.sqlite._WAL_BYTES_MAX", bound)

    async def write(writer: Journal, count: int) -> int:
        """The size of the largest file beside the database."""
        sizes = []
        for _ in range(count):
            row = LimitsRow(f"{next(numbers):06}" * 1000, "day", NONE)
            await writer.submit(Job(lambda draft, row=row: draft.put(LIMITS, row)))  # type: ignore[misc]
            sizes.append(beside.stat().st_size)
        return max(sizes)

    async def main() -> None:
        writer = make(tmp_path / "a.db")
        room = bound + await write(writer, 2)  # that of the schema, too
        assert bound < await write(writer, 40) < room
        with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM limits").fetchone() == (42,)
            assert await write(writer, 40) > 2 * bound
        await write(writer, 20)
        assert await write(writer, 20) < room
        await writer.aclose()

    asyncio.run(main())


def test_the_file_beside_a_database_is_used_again_and_again_and_does_not_get_shorter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that makes it longer takes half as long again."""
    monkeypatch.setattr("belljar.journal.sqlite._WAL_PAGES", 32)

    async def main() -> None:
        writer = make(tmp_path / "a.db")
        sizes = []
        for number in range(300):
            row = LimitsRow(f"{number:06}" * 100, "day", NONE)
            await writer.submit(Job(lambda draft, row=row: draft.put(LIMITS, row)))  # type: ignore[misc]
            sizes.append((tmp_path / "a.db-wal").stat().st_size)
        assert sizes == sorted(sizes)
        # The last transaction before it begins anew may split a page.
        assert sizes[-1] - sizes[100] <= 2 * 4120
        assert sizes[-1] < 200 * 4096
        await writer.aclose()

    asyncio.run(main())


def test_what_is_remembered_is_void_when_somebody_else_has_written(tmp_path: Path) -> None:
    def period(draft: Draft) -> object:
        row = draft.get(LIMITS, "a", "day")
        return row and row.bounds[0]

    async def main() -> None:
        one, two = make(tmp_path / "a.db"), make(tmp_path / "a.db")
        assert await one.submit(Job(period)) is None
        for number in range(3):
            row = LimitsRow("a", "day", (number, *NONE[1:]))
            await two.submit(Job(lambda draft, row=row: draft.put(LIMITS, row)))  # type: ignore[misc]
            assert await one.submit(Job(period)) == number
        await one.aclose()
        await two.aclose()

    asyncio.run(main())


def test_what_is_remembered_is_not_read_again(tmp_path: Path) -> None:
    statements: list[str] = []

    async def main() -> None:
        writer = make(tmp_path / "a.db")
        await writer.submit(insert(1))
        connection(writer).set_trace_callback(statements.append)
        for x in (1, 2):
            with contextlib.suppress(AuditUnavailable):
                await writer.submit(insert(x))
        await writer.aclose()

    asyncio.run(main())
    assert [statement for statement in statements if "00001" in statement] == []
    assert len([statement for statement in statements if "00002" in statement]) == 2  # looked for, and put


def test_nothing_of_a_failed_round_is_remembered(tmp_path: Path) -> None:
    async def main() -> None:
        writer = make(tmp_path / "a.db")
        await fill(writer, 1)
        with pytest.raises(AuditUnavailable, match="the disk is full"):
            await writer.submit(Job(too_long))
        connection(writer).execute("PRAGMA max_page_count=4000").fetchall()
        connection(writer).execute("INSERT INTO limits (account, period) VALUES ('a', 'day')")
        assert await writer.submit(Job(lambda draft: draft.get(LIMITS, "a", "day"))) == LimitsRow("a", "day", NONE)
        await writer.aclose()

    asyncio.run(main())


def too_long(draft: Draft) -> None:
    assert draft.get(LIMITS, "a", "day") is None
    draft.put(LIMITS, LimitsRow("1" * 100_000, "day", NONE))


def test_a_job_and_what_is_beside_it_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    def refuse(_: Draft) -> None:
        raise InvalidInput("no")

    async def main() -> None:
        writer = make(tmp_path / "a.db")
        assert await writer.submit(insert(1).then(insert(2))) == 1
        for job in (insert(3).then(Job(refuse)), Job(refuse).then(insert(3))):
            with pytest.raises(InvalidInput):
                await writer.submit(job)
        assert rows(tmp_path / "a.db") == [1, 2]
        await writer.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_rows_are_found_by_their_keys_however_many_others_there_are(tmp_path: Path, table: Table[Any]) -> None:
    """Nobody else writes while they are looked for, so nothing may go through a whole table."""
    path = tmp_path / "audit.db"
    store = SqliteStore(path, name="the test log", unavailable=AuditUnavailable)
    with closing(store), closing(sqlite3.connect(path)) as db:
        statements: list[str] = []
        store._db.set_trace_callback(statements.append)
        for rows in (1, 2, 40):
            store.load(table, [tuple(f"{row}" for _ in range(table.keys)) for row in range(rows)])
        assert len(statements) == 3
        for statement in statements:
            plan = [str(step[3]) for step in db.execute(f"EXPLAIN QUERY PLAN {statement}")]
            assert any(step.startswith(f"SEARCH {table.name} USING ") for step in plan), plan
            assert not any(step.startswith(f"SCAN {table.name}") for step in plan), plan
