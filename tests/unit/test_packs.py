"""Older records in packs: read as if they were rows, found by their runs, and believed for their bytes alone."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import sys
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest

from belljar.audit import Checkpoints, Log, Receipt, records, records_below, runs, verify
from belljar.audit.paging import open_pages
from belljar.audit.read import latest, marks_below, page_after, records_after, runs_before
from belljar.audit.signing import place_of
from belljar.audit.source import open_source
from belljar.backup import back_up
from belljar.errors import AuditUnavailable, HostFault, VerificationFailed
from belljar.identity import RunId
from belljar.journal.packs import Pack, Packs, pack_of, packed, unpacked
from belljar.journal.tables import PACK_RECORDS
from belljar.keys import Keys
from tests import journals, second_verifier
from tests.journals import OwnLog, fill, meddle
from tests.unit.audit_events import made

_T = TypeVar("_T")
VERDICT: Any = second_verifier.verdict
SIGNING = sys.modules["belljar.audit.signing"]
TREES = 20  # of a run and a child, 36 records together
OF_A_RUN = 18


class Bench:
    """A log, opened anew for each piece of work; what is signed in it is packed when that is done."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        found = journals.place(folder / "audit.db")
        assert found is not None
        self.log: Log = found
        self.keys = Keys(folder / "keys")

    @property
    def file(self) -> Path:
        assert isinstance(self.log, Path)
        return self.log

    def do(self, work: Callable[[OwnLog, Checkpoints], Awaitable[_T]]) -> _T:
        async def main() -> _T:
            log = OwnLog(self.log)
            try:
                checkpoints = Checkpoints(log.journal, log, place=place_of(self.log), keys=self.keys)
                try:
                    return await work(log, checkpoints)
                finally:
                    await checkpoints.aclose()
            finally:
                await log.aclose()

        return asyncio.run(main())

    def make(self) -> None:
        self.do(lambda _, checkpoints: checkpoints.make())

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(open_source(self.log)) as source:
            return source.ask(statement)


async def write(log: OwnLog, trees: int = TREES) -> None:
    """Runs that stand side by side in the log, each with a child."""
    for number in range(trees):
        run, child = RunId(f"r{number:03}"), RunId(f"r{number:03}.00001")
        await log.append(run, made("run.started", {}))
        await log.append(child, made("run.started", {}))
        for cell in range(1, 9):
            for one in (run, child):
                await log.append(one, made("cell.started", {"cell": cell}), made("cell.finished", {"cell": cell}))
        for one in (child, run):
            await log.append(one, made("run.finished", {"calls": 0}))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Its records are signed, and none is in a pack."""
    made_anew = Bench(tmp_path / "state")
    with monkeypatch.context() as patched:
        patched.setattr(SIGNING, "_PACKS_AT_ONCE", 0)
        made_anew.do(lambda log, checkpoints: _written(log, checkpoints))
    assert made_anew.ask("SELECT count(*) FROM packs") == [(0,)]
    return made_anew


async def _written(log: OwnLog, checkpoints: Checkpoints) -> None:
    await write(log)
    await checkpoints.make()


def readings(log: Log) -> Iterator[tuple[str, object]]:
    """All that is read of a log, by whatever way."""
    run = "r007"
    yield "records", list(records(log))
    yield "of a run", list(records(log, run))
    yield "of a tree", list(records_below(log, run))
    yield "runs", (runs(log), latest(log))
    yield "the latest runs", runs_before(log, None, lambda _: True, limit=3, looks_max=9)
    yield "earlier runs", runs_before(log, "r009", lambda _: True, limit=30, looks_max=90)
    yield "marks", [marks_below(log, run, every) for every in (1, 7, 36)]
    yield "after", [[record.seq for record in records_after(log, seq, one)] for seq in (0, 500) for one in (None, run)]
    yield "pages", [page_after(log, seq, 10, run=one) for seq in (0, 260, 719) for one in (None, run)]
    with open_pages(log) as pages:
        yield "the tree in portions", [pages.after(run, seq, 10) for seq in (0, 255, 270, 280)]
        yield "first and last", [(pages.first(one), pages.last(one)) for one in (run, "r000", "r019", "nobody")]
        yield "before", [pages.before(one) for one in (None, "r019", "r001", "r000")]
    with closing(open_source(log)) as source:
        yield "head", source.head()
        yield "one", [next(source.rows(seq=seq))[2] for seq in (1, 256, 257, 512, 513, 720)]
        yield "none", list(source.rows(seq=721))
        yield "backwards", [row[::2] for row in source.packs.rows(250, 520, backwards=True)]
        where = {"where": "run IN (?, ?)", "values": ["r006", "r014.00001"]}
        yield "backwards of two", [row[::2] for row in source.packs.rows(1, 600, **where, backwards=True)]  # type: ignore[arg-type]
        yield "of two", [row[::2] for row in source.packs.rows(200, 600, **where)]  # type: ignore[arg-type]


@pytest.mark.usefixtures("store")
def test_records_in_packs_are_read_as_if_they_were_rows(bench: Bench) -> None:
    before = dict(readings(bench.log))
    bench.make()
    assert bench.ask("SELECT block FROM packs ORDER BY block") == [(0,), (1,)]
    assert bench.ask("SELECT min(seq), max(seq) FROM records") == [(513, 720)]
    assert dict(readings(bench.log)) == before
    report = verify(bench.log, keys=bench.keys)
    assert (report.problems, report.records, report.signed) == ([], 720, 720)


@pytest.mark.usefixtures("store")
def test_who_asks_for_one_record_after_another_asks_for_each_pack_once(bench: Bench) -> None:
    """As a list of runs does, of which a server would have to answer four questions for each."""
    bench.make()
    asked: list[str] = []
    with closing(open_source(bench.log)) as source:

        def ask(statement: str, *values: object) -> list[tuple[Any, ...]]:
            asked.append(statement)
            return source.ask(statement, *values)

        packs, many = Packs(ask), TREES * 2 * OF_A_RUN
        assert [row[0] for seq in range(1, many + 1) for row in packs.rows(seq, seq)] == [*range(1, many + 1)]
    later = many - 2 * PACK_RECORDS
    assert len(asked) == 1 + 2 * 2 + later


def test_a_log_with_packs_goes_on_and_gives_receipts_of_what_is_in_them(bench: Bench) -> None:
    bench.make()

    async def go_on(log: OwnLog, checkpoints: Checkpoints) -> list[Receipt]:
        assert await log.append(RunId("later"), made("run.started", {})) == 721
        await log.journal.submit(log.end_if_open(RunId("r001"), made("run.abandoned", {})))  # has ended, in a pack
        return [await checkpoints.receipt_of(run) for run in ("r000", "r007.00001", "r019")]

    receipts = bench.do(go_on)
    report = verify(bench.log, keys=bench.keys, receipts=receipts)
    assert (report.problems, report.records) == ([], 721)
    assert [receipt.seq for receipt in receipts] == [36, 287, 720]


@pytest.mark.usefixtures("store")
def test_a_backup_has_the_packs_too(bench: Bench, tmp_path: Path) -> None:
    bench.make()
    made_anew = back_up(bench.log, tmp_path / "copy")
    assert made_anew.problems == []
    copy = tmp_path / "copy" / "audit.db"
    assert list(records(copy)) == list(records(bench.log))
    with closing(open_source(copy)) as source:
        assert source.ask("SELECT count(*) FROM packs") == [(2,)]


def test_a_run_that_is_open_is_found_open_though_its_records_are_in_packs(bench: Bench) -> None:
    async def begun(log: OwnLog, checkpoints: Checkpoints) -> None:
        await log.append(RunId("open"), made("run.started", {}))
        await write_others(log)
        await checkpoints.make()

    async def write_others(log: OwnLog) -> None:
        await log.append(RunId("much"), *[made("box.started", {})] * 600)

    async def ended(log: OwnLog, _: Checkpoints) -> None:
        ending = log.end_if_open(RunId("open"), made("run.abandoned", {}))
        for _again in range(2):
            await log.journal.submit(ending)

    bench.do(begun)
    assert bench.ask("SELECT block FROM pack_runs WHERE run = 'open'") == [(2,)]
    bench.do(ended)
    assert [record.event for record in records(bench.log, "open")] == ["run.started", "run.abandoned"]


def test_packs_are_json_lines_that_need_nothing_of_ours(bench: Bench) -> None:
    bodies = [record.body for record in records(bench.log)]
    bench.make()
    with closing(sqlite3.connect(bench.file)) as db:
        packs = db.execute("SELECT size, body FROM packs ORDER BY block").fetchall()
    texts = [zlib.decompress(body) for _, body in packs]
    assert b"".join(texts).splitlines() == bodies[: 2 * PACK_RECORDS]
    assert [json.loads(line)["seq"] for line in texts[1].splitlines()] == list(range(257, 513))
    assert [size for size, _ in packs] == list(map(len, texts))
    assert sum(len(body) for _, body in packs) < sum(map(len, texts)) / 3
    assert VERDICT(bench.file, bench.keys.folder) is None


def test_the_last_record_and_what_is_not_signed_are_never_in_a_pack(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "state")

    async def work(log: OwnLog, checkpoints: Checkpoints) -> None:
        await log.append(RunId("r1"), *[made("box.started", {})] * PACK_RECORDS)
        await checkpoints.make()
        await log.append(RunId("r1"), *[made("box.started", {})] * PACK_RECORDS)

    bench.do(work)
    assert bench.ask("SELECT count(*) FROM packs") == [(0,)]
    bench.make()
    assert bench.ask("SELECT count(*) FROM packs") == [(1,)]
    bench.make()  # the same records: the last of them is the second block's last
    assert bench.ask("SELECT count(*) FROM packs") == [(1,)]

    async def one_more(log: OwnLog, checkpoints: Checkpoints) -> None:
        await log.append(RunId("r1"), made("box.started", {}))
        await checkpoints.make()

    bench.do(one_more)
    assert bench.ask("SELECT count(*) FROM packs") == [(2,)]
    assert bench.ask("SELECT seq FROM records") == [(513,)]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM records WHERE seq = 513", "DELETE FROM packs WHERE block = 1", "UPDATE packs SET size = 1"],
)
def test_neither_a_pack_nor_what_is_in_none_can_be_changed(bench: Bench, statement: str) -> None:
    bench.make()

    async def delete(log: OwnLog, _: Checkpoints) -> None:
        await meddle(log.journal, statement)

    with pytest.raises((sqlite3.IntegrityError, HostFault), match="append-only"):
        bench.do(delete)
    assert bench.ask("SELECT min(seq) FROM records") == [(513,)]
    assert verify(bench.log, keys=bench.keys).problems == []


def test_of_two_that_make_the_same_pack_one_does(bench: Bench) -> None:
    async def both(log: OwnLog, _: Checkpoints) -> tuple[bool, bool]:
        rows, done = await log.journal.submit(unpacked(720))
        pack = pack_of(rows)
        assert (isinstance(pack, Pack), done) == (True, 0)
        assert pack is not None
        return await log.journal.submit(pack.put()), await log.journal.submit(pack.put())

    assert bench.do(both) == (True, False)
    assert bench.ask("SELECT count(*) FROM packs") == [(1,)]
    assert verify(bench.log, keys=bench.keys).problems == []


def test_a_log_of_an_older_version_comes_into_packs_bit_by_bit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SIGNING, "_PACKS_AT_ONCE", 1)
    for count in (1, 2, 2):
        bench.make()
        assert bench.ask("SELECT count(*) FROM packs") == [(count,)]


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE records SET body = CAST(replace(body, '1', '2') AS BLOB) WHERE seq = 100",
        "UPDATE records SET body = CAST(body || x'0a' AS BLOB) WHERE seq = 100",
        "UPDATE records SET hash = zeroblob(32) WHERE seq = 100",
        "UPDATE records SET run = 'r3' WHERE seq = 100",
        "UPDATE records SET body = zeroblob(100000) WHERE seq = 100",
        "DELETE FROM records WHERE seq = 100",
    ],
)
def test_what_shows_that_a_record_was_changed_does_not_go_into_a_pack(bench: Bench, damage: str) -> None:
    with closing(sqlite3.connect(bench.file, isolation_level=None)) as db:
        change(db, damage)
    before = verify(bench.log, keys=bench.keys)
    assert before.problems
    bench.make()  # from what was signed on, where nothing was changed
    assert bench.ask("SELECT count(*) FROM packs") == [(0,)]
    assert verify(bench.log, keys=bench.keys) == before


def test_a_full_disk_leaves_the_records_where_they_are(bench: Bench) -> None:
    before = list(records(bench.log))

    async def full(log: OwnLog, checkpoints: Checkpoints) -> None:
        await checkpoints.make()
        assert checkpoints._packing is not None
        await asyncio.wait([checkpoints._packing])

    async def make(log: OwnLog, checkpoints: Checkpoints) -> None:
        await fill(log.journal, 0)
        await full(log, checkpoints)

    bench.do(make)
    assert bench.ask("SELECT count(*) FROM packs") == [(0,)]
    assert list(records(bench.log)) == before
    assert verify(bench.log, keys=bench.keys).problems == []


def test_a_log_whose_last_records_are_gone_does_not_begin_anew(bench: Bench) -> None:
    bench.make()
    with closing(sqlite3.connect(bench.file, isolation_level=None)) as db:
        change(db, "DELETE FROM records")

    async def go_on(log: OwnLog, _: Checkpoints) -> None:
        with pytest.raises(AuditUnavailable, match="the last records of the log are gone: verify it"):
            await log.append(RunId("r1"), made("run.started", {}))

    bench.do(go_on)


# -- what somebody did to a pack ---------------------------------------------------------------------------------------


def change(db: sqlite3.Connection, do: str | Callable[[sqlite3.Connection], object]) -> None:
    """Change what is append-only, and leave the file as we make it."""
    triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        db.execute(f"DROP TRIGGER {name}")
    if isinstance(do, str):
        db.execute(do)
    else:
        do(db)
    for _, sql in triggers:
        db.execute(sql)


def _lines(db: sqlite3.Connection, block: int) -> list[bytes]:
    found: bytes = db.execute("SELECT body FROM packs WHERE block = ?", (block,)).fetchone()[0]
    return zlib.decompress(found).splitlines()


def _put(db: sqlite3.Connection, block: int, lines: list[bytes]) -> None:
    text = b"".join(line + b"\n" for line in lines)
    db.execute("UPDATE packs SET size = ?, body = ? WHERE block = ?", (len(text), zlib.compress(text), block))


def _flip(db: sqlite3.Connection) -> None:
    (found,) = db.execute("SELECT body FROM packs WHERE block = 1").fetchone()
    body = bytearray(found)
    body[len(body) // 2] ^= 1
    db.execute("UPDATE packs SET body = ? WHERE block = 1", (bytes(body),))


def _bomb(db: sqlite3.Connection) -> None:
    db.execute("UPDATE packs SET body = ? WHERE block = 0", (zlib.compress(b"\n" * 2**28),))


def _rewrite(db: sqlite3.Connection, seq: int) -> None:
    block, at = divmod(seq - 1, PACK_RECORDS)
    lines = _lines(db, block)
    record = json.loads(lines[at])
    record["time_ns"] += 1
    lines[at] = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    _put(db, block, lines)


def _swap(db: sqlite3.Connection, one: int, other: int) -> None:
    lines = _lines(db, 0)
    lines[one], lines[other] = lines[other], lines[one]
    _put(db, 0, lines)


def _double(db: sqlite3.Connection) -> None:
    lines = _lines(db, 0)
    lines[9] = lines[8]
    _put(db, 0, lines)


def _again(db: sqlite3.Connection) -> None:
    body = _lines(db, 0)[4]
    run = json.loads(body)["run"]
    db.execute("INSERT INTO records VALUES (5, ?, ?, ?)", (run, body, hashlib.sha256(body).digest()))


DONE: dict[str, tuple[str, Callable[[sqlite3.Connection], object]]] = {
    "a bit of a pack": ("flipped byte", _flip),
    "a pack cut off": ("flipped byte", lambda db: db.execute("UPDATE packs SET body = substr(body, 1, 99)")),
    "an empty pack": ("flipped byte", lambda db: db.execute("UPDATE packs SET body = x'' WHERE block = 0")),
    "something behind a pack": ("flipped byte", lambda db: db.execute("UPDATE packs SET size = size + 1")),
    "a record too few in a pack": ("flipped byte", lambda db: _put(db, 0, _lines(db, 0)[:-1])),
    "the first pack gone": ("dropped head", lambda db: db.execute("DELETE FROM packs WHERE block = 0")),
    "a later pack gone": ("removed record", lambda db: db.execute("DELETE FROM packs WHERE block = 1")),
    "a record of a pack written anew": ("changed record", lambda db: _rewrite(db, 100)),
    "the last of a pack written anew": ("changed record", lambda db: _rewrite(db, 512)),
    "two records of a pack swapped": ("swap", lambda db: _swap(db, 20, 200)),
    "a record of a pack in the place of another": ("duplicate", _double),
    "a row for a record in a pack": ("inserted record", _again),
    "all rows gone": ("cut tail", lambda db: db.execute("DELETE FROM records")),
}


@pytest.mark.parametrize("case", DONE)
def test_both_verifiers_name_what_was_done_to_a_pack(bench: Bench, case: str) -> None:
    bench.make()
    name, do = DONE[case]
    with closing(sqlite3.connect(bench.file, isolation_level=None)) as db:
        change(db, do)
    report = verify(bench.log, keys=bench.keys)
    assert (report.tampering[0].kind, VERDICT(bench.file, bench.keys.folder)) == (name, name)
    assert len(report.problems) < 100


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (
            "UPDATE pack_runs SET run = 'r5' WHERE run = 'r001'",
            "pack 0: not all of its records are found by their runs",
        ),
        ("UPDATE pack_runs SET many = 1 WHERE run = 'r001'", "pack 0: not all"),
        ("DELETE FROM pack_runs WHERE run = 'r001'", "pack 0: not all"),
        ("INSERT INTO pack_runs VALUES (1, 'made up', 300, 301, 2)", "pack 1: not all"),
        ("INSERT INTO pack_runs VALUES (7, 'made up', 300, 301, 2)", "pack 7: it is said to have runs, and is not"),
    ],
)
def test_a_run_that_is_not_found_where_its_records_are_is_a_problem(bench: Bench, statement: str, problem: str) -> None:
    bench.make()
    with closing(sqlite3.connect(bench.file, isolation_level=None)) as db:
        db.execute(statement)
    report = verify(bench.log, keys=bench.keys)
    assert len(report.problems) == 1
    assert report.problems[0].startswith(problem)


def test_a_pack_that_grows_beyond_its_size_is_not_unpacked(bench: Bench) -> None:
    bench.make()
    with closing(sqlite3.connect(bench.file, isolation_level=None)) as db:
        change(db, _bomb)
    tracemalloc.start()
    try:
        report = verify(bench.log, keys=bench.keys)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.problems[0] == "records 1 to 256: the pack that they are in is damaged"
    assert peak < 2**25


def test_a_reader_keeps_few_bytes_of_packs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(readings(bench.log))
    bench.make()
    monkeypatch.setattr("belljar.journal.packs._OPEN_BYTES_MAX", 100_000)  # of one pack, and not of two
    assert dict(readings(bench.log)) == before
    with closing(open_source(bench.log)) as source:
        for seq in (1, 300, 2, 301):
            assert next(source.rows(seq=seq))[0] == seq
            assert len(source.packs._open) == 1


def test_whoever_reads_a_damaged_pack_is_told_so(bench: Bench) -> None:
    bench.make()
    with closing(sqlite3.connect(bench.file, isolation_level=None)) as db:
        change(db, _flip)
    with pytest.raises(VerificationFailed, match=r"record 257 of the audit log .*; verify the log"):
        list(records(bench.log))
    assert len(list(records(bench.log, "r000"))) == OF_A_RUN, "of another pack"


def test_where_a_run_is_said_to_be_and_is_not_that_is_told(bench: Bench) -> None:
    bench.make()
    with closing(sqlite3.connect(bench.file, isolation_level=None)) as db:
        db.execute("UPDATE pack_runs SET low = -5, high = 100000 WHERE run = 'r003'")
    with pytest.raises(VerificationFailed, match="record -5 is gone from the audit log; verify the log"):
        runs(bench.log)
    with open_pages(bench.log) as pages, pytest.raises(VerificationFailed, match="record 100000 is gone"):
        pages.last("r003")


def test_any_number_of_runs_in_a_pack_is_read(bench: Bench) -> None:
    bench.make()
    many = [(f"r000.{number:05}x",) for number in range(2000)]
    with closing(sqlite3.connect(bench.file, isolation_level=None)) as db:
        db.executemany("INSERT INTO pack_runs VALUES (0, ?, 1, 1, 1)", many)

        def ask(statement: str, /, *values: object) -> list[tuple[Any, ...]]:
            return db.execute(statement, values).fetchall()

        rows = list(Packs(ask).rows(where="run >= ?", values=("r",)))
        assert {row[0] for row in rows} >= set(range(257, 721))
        assert packed(ask) == 2 * PACK_RECORDS
