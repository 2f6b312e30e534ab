"""Whether a log can be signed, told by who only looks: what is wrong, what to do, and that nothing is written."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from belljar.audit.signable import Check, signing_checks
from belljar.audit.signing import NotSigned
from belljar.audit.witness import Told
from belljar.errors import AuditUnavailable
from belljar.keys import Keys
from tests import journals
from tests.unit.test_signing import Bench

KEY, LOG, WITNESS = (
    "the key that signs the log",
    "the log is the one that was signed",
    "the witness has what was signed",
)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "state")


def files(bench: Bench) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in bench.path.parent.rglob("*") if path.is_file()}


def looked(bench: Bench, witness: Told | None = None) -> dict[str, Check]:
    """What is found, by somebody who writes nothing."""
    before = files(bench)
    found = {check.name: check for check in signing_checks(bench.path, bench.keys, witness)}
    assert files(bench) == before
    assert all(check.remedy for check in found.values() if check.why)
    return found


def wrong(bench: Bench, witness: Told | None = None) -> dict[str, str]:
    return {name: check.why for name, check in looked(bench, witness).items() if check.why}


def test_where_there_is_nothing_yet_all_is_well_and_nothing_is_made(bench: Bench) -> None:
    found = looked(bench)
    assert {name: check.why for name, check in found.items()} == {KEY: "", LOG: ""}
    assert found[KEY].note.startswith("there is none yet")
    assert found[LOG].note == "there is none yet"
    assert not bench.path.exists()
    assert not bench.keys.folder.exists()


def test_a_log_that_was_signed_is_well_and_says_how_far(bench: Bench) -> None:
    bench.add("r1")
    bench.add("r2", sign=False)
    found = looked(bench)
    assert found[LOG] == Check(LOG, note="the first 3 of 6 records are signed")
    assert found[KEY].note.startswith("belljar/key/")
    assert bench.make() == 6


@pytest.mark.usefixtures("store")
def test_a_log_on_a_server_is_looked_at_likewise(bench: Bench) -> None:
    bench.add("r1")
    where = journals.place(bench.path)
    assert where is not None
    (key, log) = signing_checks(where, bench.keys)
    assert (key.why, log) == ("", Check(LOG, note="the first 3 of 3 records are signed"))
    _another_key(bench)
    (key, log) = signing_checks(where, bench.keys)
    assert (key.why.startswith("its last checkpoint is by a key that"), log.why) == (True, "")


def _no_key(bench: Bench) -> None:
    (bench.keys.folder / "signing").unlink()


def _another_key(bench: Bench) -> None:
    _no_key(bench)
    bench.keys.secret("signing")


def _another_folder(bench: Bench) -> None:
    bench.keys = Keys(bench.path.parent / "others")
    bench.keys.secret("signing")


def _cut_key(bench: Bench) -> None:
    (bench.keys.folder / "signing").write_bytes(b"short")


def _open_key(bench: Bench) -> None:
    (bench.keys.folder / "signing").chmod(0o644)


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (_no_key, "the log was signed, but its key is not in the keys folder "),
        (_another_key, "its last checkpoint is by a key that is not in the keys folder: "),
        (_another_folder, "its last checkpoint is by a key that is not in the keys folder: "),
        (_cut_key, "signing has 5 bytes, not 32"),
        (_open_key, "others can read signing"),
    ],
)
def test_a_key_that_cannot_sign_is_told_with_the_remedy(bench: Bench, harm: Callable[[Bench], None], why: str) -> None:
    bench.add("r1")
    harm(bench)
    found = wrong(bench)
    assert found.keys() == {KEY}
    assert why in found[KEY]
    with pytest.raises((NotSigned, AuditUnavailable)):
        bench.make()


def test_a_keys_folder_that_others_can_read_is_told_once_for_all_that_needs_it(bench: Bench) -> None:
    bench.add("r1")
    bench.keys.folder.chmod(0o755)
    found = looked(bench)
    assert all("others can read it" in check.why for check in found.values())
    assert all("chmod 700" in check.remedy for check in found.values())


def _cut(bench: Bench) -> None:
    bench.cut(3, checkpoints=True)


def _cut_records(bench: Bench) -> None:
    bench.cut(3)


def _fork(bench: Bench) -> None:
    bench.cut(3, checkpoints=True)
    bench.add("r4", sign=False)
    bench.add("r5", sign=False)


def _gone(bench: Bench) -> None:
    bench.path.unlink()


def _replaced(bench: Bench) -> None:
    bench.path.unlink()
    bench.add("r3", sign=False)


def _headless(bench: Bench) -> None:
    with closing(sqlite3.connect(bench.path, isolation_level=None)) as db:
        db.execute("DROP TRIGGER records_are_not_deleted")
        db.execute("DELETE FROM records WHERE seq = 1")


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (_cut, "it has 3 records, but 6 were signed"),
        (_cut_records, "it has 3 records, but 6 were signed"),
        (_fork, "record 6 is not the one that was signed"),
        (_gone, ", and now there is none"),
        (_replaced, "another one was signed at "),
        (_headless, "another one was signed at "),
    ],
)
def test_a_log_that_is_not_the_one_that_was_signed_is_told(
    bench: Bench, harm: Callable[[Bench], None], why: str
) -> None:
    bench.add("r1")
    bench.add("r2")
    harm(bench)
    found = looked(bench)
    assert why in found[LOG].why
    assert "`belljar audit checkpoint --accept-restored`" in found[LOG].remedy
    assert not found[KEY].why


def test_a_log_of_another_keys_folder_that_has_lost_its_records_is_told_by_its_checkpoints(bench: Bench) -> None:
    bench.add("r1")
    bench.add("r2")
    for path in bench.keys.folder.iterdir():
        if path.name != "signing":
            path.unlink()
    bench.cut(3)
    assert wrong(bench) == {LOG: "it has 3 records, but 6 were signed"}


def test_a_file_that_is_no_log_is_told(bench: Bench) -> None:
    bench.path.write_bytes(b"no database at all" * 100)
    assert "cannot be read" in wrong(bench)[LOG]


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (Told("file:w", 6), None),
        (Told("file:w"), "file:w has the first 0 records, of 6 that are signed"),
        (Told("file:w", 3), "file:w has the first 3 records, of 6 that are signed"),
        (Told("file:w", 3, "Is a directory"), "did not take the last checkpoint (Is a directory)"),
    ],
)
def test_a_witness_that_is_behind_is_told(bench: Bench, told: Told, why: str | None) -> None:
    bench.add("r1")
    bench.add("r2")
    found = looked(bench, told)[WITNESS]
    assert bool(found.why) == (why is not None)
    assert (why or "") in found.why
