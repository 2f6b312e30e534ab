"""Erased contents: their key is gone from every file, the log says who did it, and everything else stays."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from belljar.audit import records, verify
from belljar.audit.content import HOST_KEY, PART_BYTES, open_contents
from belljar.audit.erasing import Why, due, erase, expire, forks_of, of_run, of_tenant, oldest, scrub
from belljar.audit.events import CellFinished, CellStarted, ContentsErased, RunFinished, RunStarted
from belljar.broker.keeping import Keeper
from belljar.errors import AuditUnavailable, ContentErased, InvalidInput
from belljar.identity import RunId, Tenant
from belljar.journal import Job
from belljar.journal.tables import RUNS, RunRow
from belljar.keys import Keys
from belljar.policy import Audit
from tests import journals
from tests.journals import OwnLog, fill, meddle
from tests.waiting import PATIENCE_S

KEEPING = Audit(contents=("code",), keep_days=1, item_bytes_max=2**20, run_bytes_max=2**20)
DAY_S = 86_400


async def keep(
    log: OwnLog,
    keys: Keys,
    run: str,
    *,
    tenant: str = "acme",
    is_open: int = 0,
    size: int = 100,
    forks: str | None = None,
) -> str:
    """A run with a content of this size, which began at the epoch. Returns what its record calls that."""
    keeper = Keeper(run, KEEPING)
    kept = keeper.keep("code", run.encode().ljust(size, b"x"))
    account = RunRow(RunId(run), Tenant(tenant), "1:1", b"{}", b"{}", is_open)
    began = keeper.begun(keys.secret(HOST_KEY), 0).then(Job(lambda draft: draft.put(RUNS, account)))
    await log.append(RunId(run), RunStarted(tenant=tenant, contexts=[], forks=forks), beside=began)
    cell = CellStarted(cell=1, code_sha256="0" * 64, code_bytes=size, content=kept.name)
    await log.append(RunId(run), cell, beside=kept.job)
    if not is_open:
        ended = CellFinished(cell=1, status="ok", output_bytes=0), RunFinished(status="ok", calls=0)
        await log.append(RunId(run), *ended)
    assert kept.name is not None
    return kept.name


def stored(path: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(statement).fetchall()


def in_files(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.glob("audit.db*"))


async def erased(log: OwnLog, runs: Sequence[str], why: Why = "erased") -> list[str]:
    return await erase(log.journal, log, runs, by="user:alice", why=why)


def test_the_key_is_gone_from_every_file_and_the_log_says_who_did_it(tmp_path: Path) -> None:
    path, keys = tmp_path / "audit.db", Keys(tmp_path / "keys")

    async def main() -> str:
        log = OwnLog(path)
        name = await keep(log, keys, "r1")
        await keep(log, keys, "r2")
        ((wrapped,), (other,)) = await meddle(log.journal, "SELECT wrapped FROM content_keys ORDER BY run")
        assert wrapped in in_files(tmp_path)
        assert await erased(log, ["r1"]) == ["r1"]
        assert wrapped in in_files(tmp_path)  # in the -wal file
        assert scrub(path)
        assert wrapped not in in_files(tmp_path)
        assert other in in_files(tmp_path)
        await log.aclose()
        return name

    name = asyncio.run(main())
    assert verify(path).problems == []
    last = list(records(path))[-1]
    assert last.typed == ContentsErased(of="r1", by="user:alice", why="erased")
    assert stored(path, "SELECT DISTINCT run FROM contents") == [("r2",)]
    assert stored(path, "SELECT run, wrapped IS NULL, until, gone FROM content_keys") == [
        ("r1", 1, 0, "erased"),
        ("r2", 0, DAY_S, None),
    ]
    with open_contents(path, keys) as contents, pytest.raises(ContentErased, match="they were erased"):
        contents.get("r1", name)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("statement", "told"),
    [
        (
            "UPDATE content_keys SET wrapped = NULL, gone = 'age' WHERE run = 'r1'",
            "the contents of run 'r1' are gone, and the log does not say that anybody erased them",
        ),
        (
            "UPDATE content_keys SET gone = 'age' WHERE run = 'r2'",
            "the contents of run 'r2' are said to be gone because of 'age', the log says 'erased'",
        ),
        (
            "UPDATE content_keys SET gone = NULL, wrapped = (SELECT wrapped FROM content_keys WHERE run = 'r1') "
            "WHERE run = 'r2'",
            "the contents of run 'r2' were erased, as the log says, and their key is there",
        ),
    ],
)
def test_contents_that_are_gone_otherwise_than_the_log_says_are_told(tmp_path: Path, statement: str, told: str) -> None:
    async def main() -> None:
        log, keys = OwnLog(tmp_path / "audit.db"), Keys(tmp_path / "keys")
        await keep(log, keys, "r1")
        await keep(log, keys, "r2")
        await erased(log, ["r2"])
        assert verify(journals.place(tmp_path / "audit.db") or "").problems == []
        await meddle(log.journal, statement)
        await log.aclose()

    asyncio.run(main())
    assert verify(journals.place(tmp_path / "audit.db") or "").problems == [told]


@pytest.mark.usefixtures("store")
def test_contents_are_read_and_erased_in_a_file_and_in_a_database(tmp_path: Path) -> None:
    async def main() -> tuple[str, str]:
        log, keys = OwnLog(tmp_path / "audit.db"), Keys(tmp_path / "keys")
        kept = await keep(log, keys, "r1", size=PART_BYTES), await keep(log, keys, "r2")
        assert await erased(log, ["r2"]) == ["r2"]
        await log.aclose()
        return kept

    first, second = asyncio.run(main())
    with open_contents(journals.place(tmp_path / "audit.db") or "", Keys(tmp_path / "keys")) as contents:
        assert contents.text("r1", first) == "r1".ljust(PART_BYTES, "x")
        with pytest.raises(ContentErased):
            contents.get("r2", second)


@pytest.mark.usefixtures("store")
def test_forks_and_forks_of_forks_that_keep_copies_are_named(tmp_path: Path) -> None:
    async def main() -> None:
        log, keys = OwnLog(tmp_path / "audit.db"), Keys(tmp_path / "keys")
        await keep(log, keys, "r2")
        await keep(log, keys, "r3", forks="r2")
        await keep(log, keys, "r4", forks="r3")
        await keep(log, keys, "r1", forks="r4")  # its clock was behind
        await keep(log, keys, "r1.00001")
        await keep(log, keys, "r5", forks="r0")
        await keep(log, keys, "r6")
        await erased(log, ["r2", "r3"])
        await log.aclose()

    asyncio.run(main())
    place = journals.place(tmp_path / "audit.db") or ""
    assert forks_of(place, ["r2"]) == ["r1", "r4"]
    assert forks_of(place, ["r4", "r6"]) == ["r1"]
    assert forks_of(place, ["r1", "r6"]) == []


def test_a_reader_keeps_the_key_s_bytes_and_that_is_said(tmp_path: Path) -> None:
    path, keys = tmp_path / "audit.db", Keys(tmp_path / "keys")

    async def main() -> None:
        log = OwnLog(path)
        await keep(log, keys, "r1")
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM records").fetchall()
            await erased(log, ["r1"])
            assert not scrub(path, patience_s=0.2)
        assert scrub(path)
        await log.aclose()

    asyncio.run(main())


@pytest.mark.usefixtures("store")
def test_a_run_is_erased_with_those_below_it_and_a_tenant_with_those_below_it(tmp_path: Path) -> None:
    async def main() -> None:
        log, keys = OwnLog(tmp_path / "audit.db"), Keys(tmp_path / "keys")
        for run, tenant in (
            *(("r1", "acme"), ("r1.00001", "acme"), ("r1.00001.00002", "acme"), ("r10", "acme/research")),
            *(("r2", "acmes"), ("r3", "ac")),
        ):
            await keep(log, keys, run, tenant=tenant)
        assert await of_run(log.journal, "r1") == ["r1", "r1.00001", "r1.00001.00002"]
        assert await of_tenant(log.journal, Tenant("acme")) == ["r1", "r1.00001", "r1.00001.00002", "r10"]
        assert await erased(log, await of_run(log.journal, "r1.00001")) == ["r1.00001", "r1.00001.00002"]
        assert await of_tenant(log.journal, Tenant("acme")) == ["r1", "r10"]
        assert await erased(log, ["r1.00001", "no-such-run"]) == []
        await log.aclose()

    asyncio.run(main())


@pytest.mark.usefixtures("store")
def test_a_run_under_way_is_not_erased(tmp_path: Path) -> None:
    async def main() -> None:
        log, keys = OwnLog(tmp_path / "audit.db"), Keys(tmp_path / "keys")
        await keep(log, keys, "r1")
        await keep(log, keys, "r2", is_open=1)
        with pytest.raises(InvalidInput, match="run r2 is under way"):
            await erased(log, ["r1", "r2"])
        assert await erased(log, ["r2"], why="age") == []
        assert await of_run(log.journal, "r1") == ["r1"]
        await log.aclose()

    asyncio.run(main())


def test_what_is_kept_no_longer_is_erased_by_every_host(tmp_path: Path) -> None:
    async def main() -> None:
        log, keys = OwnLog(tmp_path / "audit.db"), Keys(tmp_path / "keys")
        await keep(log, keys, "r1")
        await keep(log, keys, "r2")
        await meddle(log.journal, f"UPDATE content_keys SET until = {2**40} WHERE run = 'r2'")
        assert await due(log.journal, 10) == ["r1"]
        host = asyncio.create_task(expire(log.journal, log, tmp_path / "audit.db"))
        async with asyncio.timeout(PATIENCE_S):
            while await due(log.journal, 10):  # noqa: ASYNC110
                await asyncio.sleep(0)
        host.cancel()
        assert await of_run(log.journal, "r2") == ["r2"]
        await log.aclose()

    asyncio.run(main())
    last = [record.typed for record in records(tmp_path / "audit.db") if record.event == "content.erased"]
    assert last == [ContentsErased(of="r1", by="host", why="age")]


@pytest.mark.usefixtures("store")
def test_the_oldest_make_room_for_later_ones(tmp_path: Path) -> None:
    async def main() -> None:
        log, keys = OwnLog(tmp_path / "audit.db"), Keys(tmp_path / "keys")
        for run in ("20260101", "20260102", "20260103"):
            await keep(log, keys, run, size=100)
        ((size,),) = await meddle(log.journal, "SELECT sum(length(body)) FROM contents")
        where = journals.place(tmp_path / "audit.db")
        assert where is not None
        assert oldest(where, size) == []
        assert oldest(where, size - 1) == ["20260101"]
        assert oldest(where, 0) == ["20260101", "20260102", "20260103"]
        await log.aclose()

    asyncio.run(main())


@pytest.mark.usefixtures("store")
def test_a_host_lets_the_oldest_make_room_but_for_runs_under_way(tmp_path: Path) -> None:
    async def main() -> None:
        log, keys = OwnLog(tmp_path / "audit.db"), Keys(tmp_path / "keys")
        for number, run in enumerate(("20260101", "20260102", "20260103", "20260104")):
            await keep(log, keys, run, size=100, is_open=int(not number))
        await meddle(log.journal, f"UPDATE content_keys SET until = {2**40}")
        ((size,),) = await meddle(log.journal, "SELECT sum(length(body)) FROM contents")
        where = journals.place(tmp_path / "audit.db")
        assert where is not None
        host = asyncio.create_task(expire(log.journal, log, where, size // 2))
        async with asyncio.timeout(PATIENCE_S):
            while await of_run(log.journal, "20260102"):  # noqa: ASYNC110
                await asyncio.sleep(0)
        host.cancel()
        assert [bool(await of_run(log.journal, f"2026010{day}")) for day in (1, 2, 3, 4)] == [True, False, True, True]
        await log.aclose()
        told = [record.typed for record in records(where) if record.event == "content.erased"]
        assert told == [ContentsErased(of="20260102", by="host", why="size")]

    asyncio.run(main())


@pytest.mark.usefixtures("store")
def test_bodies_that_a_killed_process_left_are_deleted_by_the_next(tmp_path: Path) -> None:
    async def main() -> None:
        log, keys = OwnLog(tmp_path / "audit.db"), Keys(tmp_path / "keys")
        await keep(log, keys, "r1")
        await meddle(log.journal, "UPDATE content_keys SET wrapped = NULL, gone = 'age', until = 1")
        assert await erased(log, []) == []
        assert await meddle(log.journal, "SELECT count(*) FROM contents") == [(0,)]
        await log.aclose()

    asyncio.run(main())


def test_a_content_that_finds_no_room_takes_its_record_along(tmp_path: Path) -> None:
    async def main() -> None:
        log = OwnLog(tmp_path / "audit.db")
        await log.append(RunId("r1"), RunStarted(tenant="acme", contexts=[]))
        await fill(log.journal)
        kept = Keeper("r1", KEEPING).keep("code", os.urandom(100_000))
        cell = CellStarted(cell=1, code_sha256="0" * 64, code_bytes=1, content=kept.name)
        with pytest.raises(AuditUnavailable, match="the disk is full"):
            await log.append(RunId("r1"), cell, beside=kept.job)
        await log.aclose()

    asyncio.run(main())
    assert [record.event for record in records(tmp_path / "audit.db")] == ["run.started"]
    assert stored(tmp_path / "audit.db", "SELECT count(*) FROM contents") == [(0,)]
