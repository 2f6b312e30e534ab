"""Who signs a log, and what is never signed."""

from __future__ import annotations

import asyncio
import base64
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from belljar.audit import Checkpoints, Receipt, records, verify
from belljar.audit.checkpoint import Note, Signer
from belljar.audit.events import KeyChanged, LogRead
from belljar.audit.merkle import Tree, is_included, leaf_hash
from belljar.audit.signing import HostKeys, NotSigned, Signed, place_of
from belljar.errors import AuditUnavailable, InvalidInput, VerificationFailed
from belljar.identity import RunId
from belljar.keys import Keys
from tests import journals, second_verifier
from tests.journals import OwnLog
from tests.unit.audit_events import made
from tests.waiting import PATIENCE_S

_T = TypeVar("_T")
# The package has a function of this name.
MODULE = sys.modules["belljar.audit.signing"]


class Bench:
    """A log with its keys, opened anew for each piece of work."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "audit.db"
        self.keys = Keys(folder / "keys")

    def do(self, work: Callable[[OwnLog, Checkpoints], Awaitable[_T]]) -> _T:
        async def main() -> _T:
            log = OwnLog(self.path)
            try:
                where = journals.place(self.path)
                assert where is not None
                checkpoints = Checkpoints(log.journal, log, place=place_of(where), keys=self.keys)
                return await work(log, checkpoints)
            finally:
                await log.aclose()

        return asyncio.run(main())

    def add(self, run: str, *, sign: bool = True) -> Receipt:
        """A run of three records."""

        async def work(log: OwnLog, checkpoints: Checkpoints) -> Receipt:
            await log.append(RunId(run), made("run.started", {}), made("box.started", {}))
            seq, head = await log.journal.submit(log.entry(RunId(run), made("run.finished", {"calls": 0})))
            return await checkpoints.receipt(run, seq, head) if sign else Receipt(run, seq, head)

        return self.do(work)

    def make(self) -> int:
        async def work(_: OwnLog, checkpoints: Checkpoints) -> int:
            signed = await checkpoints.make()
            return 0 if signed is None else signed.size

        return self.do(work)

    def bodies(self) -> list[bytes]:
        with closing(sqlite3.connect(self.path)) as db:
            return [body for (body,) in db.execute("SELECT body FROM records ORDER BY seq")]

    def cut(self, after: int, *, checkpoints: bool = False) -> None:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as db:
            triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
            for name, _ in triggers:
                db.execute(f"DROP TRIGGER {name}")
            db.execute("DELETE FROM records WHERE seq > ?", (after,))
            if checkpoints:
                db.execute("DELETE FROM checkpoints WHERE size > ?", (after,))
            for _, sql in triggers:
                db.execute(sql)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "state")


def test_what_is_written_while_no_run_goes_on_is_signed_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "_LOOK_S", 0.01)
    monkeypatch.setattr(MODULE, "_EVERY_S", 0.0)

    async def work(log: OwnLog, checkpoints: Checkpoints) -> int:
        watching = asyncio.create_task(checkpoints.watch())
        await asyncio.sleep(0)  # what it counts begins here
        await log.journal.submit(log.host_entry(LogRead(by="user:somebody", command="audit show", of=[])))
        signed, until = None, time.monotonic() + PATIENCE_S
        while signed is None and time.monotonic() < until:
            await asyncio.sleep(0.01)
            signed = await checkpoints.last()
        watching.cancel()
        await asyncio.wait([watching])
        return 0 if signed is None else signed.size

    assert bench.do(work) == 1


def test_a_receipt_proves_the_last_record_of_its_run(bench: Bench) -> None:
    bench.add("r1")
    receipt = bench.add("r2")
    assert (receipt.first, receipt.seq) == (4, 6)
    bodies = bench.bodies()
    note = Note.read(receipt.checkpoint or "")
    tree = Tree()
    tree.extend(map(leaf_hash, bodies))
    assert (note.checkpoint.size, note.checkpoint.root) == (6, tree.root())
    assert note.signer([Signer(bench.keys.secret("signing")).verifier]) is not None
    proof = [bytes.fromhex(node) for node in receipt.proof]
    assert is_included(5, 6, leaf_hash(bodies[5]), proof, tree.root())
    report = verify(bench.path, keys=bench.keys, receipts=[receipt])
    assert (report.problems, report.checkpoints, report.signed) == ([], 2, 6)


def test_runs_that_end_together_share_checkpoints(bench: Bench) -> None:
    async def work(log: OwnLog, checkpoints: Checkpoints) -> list[Receipt]:
        async def run(name: str) -> Receipt:
            await log.append(RunId(name), made("run.started", {}))
            seq, head = await log.journal.submit(log.entry(RunId(name), made("run.finished", {"calls": 0})))
            return await checkpoints.receipt(name, seq, head)

        return list(await asyncio.gather(*(run(f"r{number}") for number in range(50))))

    receipts = bench.do(work)
    report = verify(bench.path, keys=bench.keys, receipts=receipts)
    assert report.problems == []
    assert report.checkpoints < 10


def test_a_checkpoint_that_is_made_but_not_put_away_yet_is_not_waited_for(bench: Bench) -> None:
    """It would be had at once, again and again, and nothing else in the loop would ever run."""

    async def work(log: OwnLog, checkpoints: Checkpoints) -> Signed | None:
        await log.append(RunId("r1"), made("run.started", {}))
        done = asyncio.create_task(checkpoints._made())
        await done
        checkpoints._making = done
        await log.append(RunId("r1"), made("run.finished", {"calls": 0}))
        return await checkpoints._make()

    signed = bench.do(work)
    assert signed is not None
    assert signed.size == 2


def test_a_log_without_records_is_not_signed(bench: Bench) -> None:
    assert bench.make() == 0


def test_nothing_is_signed_twice(bench: Bench) -> None:
    bench.add("r1")
    with closing(sqlite3.connect(bench.path)) as db:
        before = db.execute("SELECT note FROM checkpoints").fetchall()
        assert bench.make() == 3
        assert db.execute("SELECT note FROM checkpoints").fetchall() == before


def test_the_tree_goes_on_from_what_is_remembered_and_is_that_of_all_records(bench: Bench) -> None:
    for number in range(9):
        bench.add(f"r{number}")
    assert verify(bench.path, keys=bench.keys).signed == 27


@pytest.mark.parametrize("checkpoints", [False, True])
def test_a_shorter_log_is_never_signed(bench: Bench, checkpoints: bool) -> None:
    bench.add("r1")
    bench.add("r2")
    bench.cut(3, checkpoints=checkpoints)
    with pytest.raises(NotSigned, match="it has 3 records, but 6 were signed") as refused:
        bench.make()
    assert refused.value.kind == "smaller"
    assert verify(bench.path, keys=bench.keys).tampering[0].kind == ("restored old copy" if checkpoints else "cut tail")


def test_an_old_copy_is_not_signed_even_when_it_has_grown_past_what_was_signed(bench: Bench) -> None:
    bench.add("r1")
    shutil.copy(bench.path, bench.path.with_name("old"))
    bench.add("r2")
    shutil.copy(bench.path.with_name("old"), bench.path)
    receipt = bench.add("r3", sign=False)
    assert receipt.seq == 6
    bench.add("r4", sign=False)
    with pytest.raises(NotSigned, match="record 6 is not the one that was there"):
        bench.make()
    assert verify(bench.path, keys=bench.keys).tampering[0].kind == "fork"


def test_the_end_of_a_run_does_not_fail_because_its_log_cannot_be_signed(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.add("r1")
    bench.add("r2")
    bench.cut(3, checkpoints=True)
    receipt = bench.add("r3")
    assert receipt.checkpoint is None
    assert receipt.seq == 6
    assert "the log is not signed" in caplog.text


def test_another_log_at_the_same_place_is_not_signed(bench: Bench) -> None:
    bench.add("r1")
    bench.path.unlink()
    bench.add("r2", sign=False)
    with pytest.raises(NotSigned, match="another one was signed at"):
        bench.make()
    assert verify(bench.path, keys=bench.keys).tampering[0].kind == "replaced file"


def test_a_log_whose_last_checkpoint_is_by_a_strange_key_is_not_signed(bench: Bench, tmp_path: Path) -> None:
    bench.add("r1")
    bench.keys = Keys(tmp_path / "others")
    with pytest.raises(NotSigned, match="by a key that is not in the keys folder"):
        bench.make()


def test_an_operator_can_accept_what_is_there_which_is_logged(bench: Bench) -> None:
    bench.add("r1")
    bench.add("r2")
    bench.cut(4)

    async def accept(_: OwnLog, checkpoints: Checkpoints) -> int:
        signed = await checkpoints.accept("user:alice")
        assert signed is not None
        return signed.size

    assert bench.do(accept) == 5
    assert b'"event":"log.accepted"' in bench.bodies()[4]
    assert b'{"by":"user:alice","records":4,"removed":1,"signed":6}' in bench.bodies()[4]
    report = verify(bench.path, keys=bench.keys)
    assert report.tampering == []
    assert report.signed == 5
    assert bench.add("r3").checkpoint is not None


def test_a_log_whose_records_do_not_continue_each_other_cannot_be_accepted(bench: Bench) -> None:
    bench.add("r1", sign=False)
    bench.add("r2", sign=False)
    with closing(sqlite3.connect(bench.path, isolation_level=None)) as db:
        (trigger,) = db.execute("SELECT sql FROM sqlite_master WHERE name = 'records_are_not_deleted'").fetchone()
        db.execute("DROP TRIGGER records_are_not_deleted")
        db.execute("DELETE FROM records WHERE seq = 3")
        db.execute(trigger)
    with pytest.raises(VerificationFailed, match="record 4 does not continue the one before it"):
        bench.do(lambda _, checkpoints: checkpoints.accept("user:alice"))
    with pytest.raises(NotSigned, match="record 4 is not the one that was there"):
        bench.make()


def test_a_keys_folder_that_others_can_read_costs_the_checkpoint_and_not_the_run(bench: Bench) -> None:
    bench.keys.folder.mkdir(mode=0o755)
    bench.keys.folder.chmod(0o755)
    assert bench.add("r1").checkpoint is None
    with pytest.raises(AuditUnavailable, match="others can read it"):
        bench.make()


def _receipt_of(run: str, _: OwnLog, checkpoints: Checkpoints) -> Awaitable[Receipt]:
    return checkpoints.receipt_of(run)


def test_a_receipt_can_be_had_later(bench: Bench) -> None:
    late = bench.add("r1", sign=False)
    for number in range(2, 5):
        bench.add(f"r{number}")
    receipt = bench.do(lambda _, checkpoints: checkpoints.receipt_of("r1"))
    assert (receipt.seq, receipt.head, receipt.first) == (3, late.head, 1)
    assert verify(bench.path, keys=bench.keys, receipts=[receipt]).ok
    _rotate(bench)  # what belongs to no run has records, too
    for unknown in ("r9", "host.log"):
        with pytest.raises(InvalidInput, match=f"the log has no run {unknown}"):
            bench.do(partial(_receipt_of, unknown))


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("runs", [1, 4, 9, 11])
def test_a_receipt_of_a_run_long_ago_reads_its_block_and_not_the_whole_log(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, runs: int
) -> None:
    monkeypatch.setattr(MODULE, "_BLOCK_LEVEL", 2)
    for number in range(1, runs + 1):
        bench.add(f"r{number}")

    async def work(_: OwnLog, checkpoints: Checkpoints) -> list[Receipt]:
        await checkpoints.make()
        asked: list[tuple[object, ...]] = []
        ask = checkpoints._ask

        async def counting(statement: str, *values: object) -> list[tuple[object, ...]]:
            rows = await ask(statement, *values)
            asked.extend(row for row in rows if statement.startswith("SELECT seq, body FROM records WHERE seq"))
            return rows

        monkeypatch.setattr(checkpoints, "_ask", counting)
        found = [await checkpoints.receipt_of(f"r{number}") for number in range(1, runs + 1)]
        # Two blocks of four, at most, and the record that was signed last.
        assert len(asked) <= 8 * runs
        return found

    receipts = bench.do(work)
    where = journals.place(bench.path)
    assert where is not None
    assert verify(where, keys=bench.keys, receipts=receipts).problems == []


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("harm", ["DELETE FROM subtrees", "DELETE FROM subtrees WHERE block = 1"])
def test_blocks_that_the_journal_does_not_have_are_computed_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    monkeypatch.setattr(MODULE, "_BLOCK_LEVEL", 2)
    for number in range(1, 6):
        bench.add(f"r{number}")

    async def work(log: OwnLog, checkpoints: Checkpoints) -> tuple[Receipt, object, object]:
        select = "SELECT block, root FROM subtrees ORDER BY block"
        before = [tuple(row) for row in await journals.meddle(log.journal, select)]
        await journals.meddle(log.journal, harm)
        receipt = await checkpoints.receipt_of("r2")
        return receipt, before, [tuple(row) for row in await journals.meddle(log.journal, select)]

    receipt, before, after = bench.do(work)
    assert before == after
    where = journals.place(bench.path)
    assert where is not None
    assert verify(where, keys=bench.keys, receipts=[receipt]).problems == []


def test_blocks_that_somebody_changed_are_not_believed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "_BLOCK_LEVEL", 2)
    for number in range(1, 6):
        bench.add(f"r{number}")
    with closing(sqlite3.connect(bench.path)) as db, db:
        db.execute("UPDATE subtrees SET root = zeroblob(32) WHERE block = 0")
    receipt = bench.do(lambda _, checkpoints: checkpoints.receipt_of("r4"))
    assert verify(bench.path, keys=bench.keys, receipts=[receipt]).problems == []


def test_a_changed_record_in_the_block_of_a_run_gives_no_receipt(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "_BLOCK_LEVEL", 2)
    for number in range(1, 6):
        bench.add(f"r{number}")
    with closing(sqlite3.connect(bench.path, isolation_level=None)) as db:
        ((name, sql),) = db.execute("SELECT name, sql FROM sqlite_master WHERE name = 'records_are_not_changed'")
        db.execute(f"DROP TRIGGER {name}")
        db.execute("UPDATE records SET body = x'7b7d' WHERE seq = 5")
        db.execute(sql)
    with pytest.raises(NotSigned, match="record 5 is not the one that was there"):
        bench.do(lambda _, checkpoints: checkpoints.receipt_of("r2"))


def test_a_receipt_of_a_run_under_way_is_refused(bench: Bench) -> None:
    async def work(log: OwnLog, checkpoints: Checkpoints) -> None:
        await log.append(RunId("r1"), made("run.started", {}))
        with pytest.raises(InvalidInput, match="has not ended"):
            await checkpoints.receipt_of("r1")

    bench.do(work)


def _rotate(bench: Bench) -> str:
    return bench.do(lambda _, checkpoints: checkpoints.rotate("user:alice"))


def test_a_new_key_signs_and_what_the_old_one_signed_still_verifies(bench: Bench) -> None:
    old_seed = bench.keys.secret("signing")
    old = bench.add("r1")
    before = Signer(old_seed).verifier.vkey
    now = _rotate(bench)
    new = bench.add("r2")
    assert now == Signer(bench.keys.secret("signing")).verifier.vkey != before
    assert Note.read(new.checkpoint or "").signer([Signer(bench.keys.secret("signing")).verifier]) is not None
    assert all(old_seed not in path.read_bytes() for path in bench.keys.folder.iterdir())
    report = verify(bench.path, keys=bench.keys, receipts=[old, new])
    assert (report.problems, report.signed) == ([], 7)
    (changed,) = [record for record in records(bench.path) if record.event == "key.changed"]
    assert (changed.data["by"], changed.data["old"], changed.data["new"]) == ("user:alice", before, now)
    assert second_verifier.verdict(bench.path, bench.keys.folder) is None  # type: ignore[no-untyped-call]


def test_whoever_knows_one_of_the_keys_follows_the_log_to_the_others(bench: Bench) -> None:
    bench.add("r1")
    keys = [Signer(bench.keys.secret("signing")).verifier.vkey, _rotate(bench), _rotate(bench)]
    bench.add("r2")
    for key in keys:
        assert verify(bench.path, trusted=[key]).problems == []
    assert verify(bench.path, trusted=[Signer(bytes(32)).verifier.vkey]).tampering[0].kind == "wrong key"


def test_a_change_of_keys_that_not_both_have_signed_is_found(bench: Bench) -> None:
    bench.add("r1")
    ours, strange = Signer(bench.keys.secret("signing")), Signer(bytes(32))
    statement = KeyChanged.statement(ours.verifier.vkey, strange.verifier.vkey)
    signature = base64.b64encode(strange.sign(statement)).decode()
    names = {"old": ours.verifier.vkey, "new": strange.verifier.vkey}
    forged = KeyChanged(by="user:mallory", **names, old_signature=signature, new_signature=signature)
    bench.do(lambda log, _: log.journal.submit(log.host_entry(forged)))
    assert [finding.kind for finding in verify(bench.path, keys=bench.keys).tampering] == ["forged key"]


def test_a_rotation_that_was_broken_off_goes_on_with_the_same_key(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.add("r1")
    with monkeypatch.context() as broken:
        broken.setattr(HostKeys, "rotate", lambda _: (_ for _ in ()).throw(AuditUnavailable("killed here")))
        with pytest.raises(AuditUnavailable, match="killed here"):
            _rotate(bench)
    assert verify(bench.path, keys=bench.keys).problems == []
    wanted = Signer(bench.keys.secret("signing.next")).verifier.vkey
    assert bench.add("r2").checkpoint is not None
    assert _rotate(bench) == wanted
    assert verify(bench.path, keys=bench.keys).problems == []


_WRITER = """
import asyncio, sys
from pathlib import Path
from tests.unit.test_signing import Bench
bench = Bench(Path(sys.argv[1]))
sys.stdin.read()
for number in range(8):
    assert bench.add(f"{sys.argv[2]}-{number}").checkpoint is not None
"""


def test_two_processes_sign_one_tree(bench: Bench) -> None:
    root = Path(__file__).parents[2]
    bench.make()
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(bench.path.parent), name],
            stdin=subprocess.PIPE,
            cwd=root,
            env={"PATH": "", "PYTHONPATH": f"{root}:{root / 'runtime'}"},
        )
        for name in ("a", "b")
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()
    assert [writer.wait() for writer in writers] == [0, 0]
    report = verify(bench.path, keys=bench.keys)
    assert report.tampering == []
    assert (report.records, report.signed) == (48, 48)


def test_a_log_in_use_is_not_taken_for_an_old_copy(bench: Bench) -> None:
    """What is remembered is asked before the log is looked at: in between, it may have grown."""
    bench.add("r0")

    async def work(log: OwnLog, checkpoints: Checkpoints) -> None:
        reports = []
        stop = asyncio.Event()

        async def look() -> None:
            while not stop.is_set():
                reports.append(await asyncio.to_thread(verify, bench.path, keys=bench.keys))

        looking = asyncio.create_task(look())
        for number in range(1, 30):
            await log.append(RunId(f"r{number}"), made("run.started", {}))
            seq, head = await log.journal.submit(log.entry(RunId(f"r{number}"), made("run.finished", {"calls": 0})))
            assert (await checkpoints.receipt(f"r{number}", seq, head)).checkpoint is not None
        stop.set()
        await looking
        assert reports
        assert [report.tampering for report in reports if report.tampering] == []

    bench.do(work)


@pytest.mark.slow
def test_a_server_s_log_is_signed_in_the_same_way(store: str, bench: Bench) -> None:
    bench.add("r1")
    receipt = bench.add("r2")
    report = verify(journals.place(bench.path) or "", keys=bench.keys, receipts=[receipt])
    assert (report.problems, report.signed) == ([], 6)


def test_a_log_of_an_older_format_is_migrated_and_signed_from_its_first_record_on(bench: Bench) -> None:
    shutil.copy(Path(__file__).with_name("older_files") / "audit-3.db", bench.path)
    before = bench.bodies()
    receipt = bench.add("r-new")
    assert bench.bodies()[: len(before)] == before
    assert (receipt.first, receipt.seq) == (len(before) + 1, len(before) + 3)
    report = verify(bench.path, keys=bench.keys, receipts=[receipt])
    assert (report.tampering, report.signed) == ([], len(before) + 3)
