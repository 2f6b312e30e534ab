"""Contexts come whole or not at all, belong to one tenant, have names, and go when nobody uses them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from belljar.context import ContextStore, ContextStores, Document
from belljar.context.copying import Copier
from belljar.context.intake import CHECKPOINT_BYTES
from belljar.durable import replaced
from belljar.errors import InvalidInput, Refusal
from belljar.identity import Tenant

NOW_NS = 1_800_000_000_000_000_000
DAY_NS = 86_400 * 10**9


@pytest.fixture
def store(tmp_path: Path) -> ContextStore:
    return ContextStore(tmp_path / "store")


def whole(store: ContextStore, document: Document) -> bytes:
    with store.open(document.sha256, now_ns=NOW_NS) as opened:
        return bytes(opened.view)


# ------------------------------------------------------------------------------------------------------------ tenants


def test_tenants_share_nothing(tmp_path: Path) -> None:
    stores = ContextStores(tmp_path / "contexts")
    ours, theirs = stores.of(Tenant("acme")), stores.of(Tenant("acme/research"))
    document = ours.add("secret", name="contract", now_ns=NOW_NS)
    assert theirs.ls() == []
    for ref in ("contract", document.sha256, f"sha256:{document.sha256}", document.sha256[:12]):
        assert ours.find(ref).sha256 == document.sha256
        with pytest.raises(InvalidInput, match="there is no context"):
            theirs.find(ref)
        with pytest.raises(InvalidInput, match="there is no context"):
            theirs.rm(ref)
    with pytest.raises(InvalidInput, match="there is no context"):
        theirs.open(document.sha256)
    assert theirs.add("secret", name="mine", now_ns=NOW_NS + 1).added_ns == NOW_NS + 1
    texts = [path.stat() for path in tmp_path.rglob("text")]
    assert len({found.st_ino for found in texts}) == 2
    theirs.rm("mine")
    assert whole(ours, document) == b"secret"
    assert stores.tenants() == ["acme", "acme/research"]


@pytest.mark.parametrize("tenant", ["a", "a..b", "a/b/c", "a/b/c/d/e/f/g/h", "x" * 63])
def test_a_tenant_is_one_folder_and_never_a_path(tmp_path: Path, tenant: str) -> None:
    ContextStores(tmp_path / "contexts").of(Tenant(tenant)).add("text", now_ns=NOW_NS)
    assert [path.name for path in tmp_path.iterdir()] == ["contexts"]
    (folder,) = (tmp_path / "contexts").iterdir()
    assert re.fullmatch("[0-9a-f]{32}", folder.name)


@pytest.mark.parametrize("damaged", [b"", b"ac", b"Somebody Else", b"../..", b"\xff"])
def test_whose_store_it_is_is_written_again_when_it_is_damaged(tmp_path: Path, damaged: bytes) -> None:
    stores = ContextStores(tmp_path)
    stores.of(Tenant("acme")).add("one", now_ns=NOW_NS)
    (signed,) = tmp_path.glob("*/tenant")
    signed.write_bytes(damaged)
    assert stores.tenants() == []
    stores.of(Tenant("acme")).add("two", now_ns=NOW_NS)
    assert stores.tenants() == ["acme"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    def replace(content: bytes) -> None:
        with replaced(tmp_path / "file") as file:
            file.write(content)
            if content == b"half":
                raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        replace(b"half")
    assert list(tmp_path.iterdir()) == []
    replace(b"whole")
    with pytest.raises(OSError, match="No space"):
        replace(b"half")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"whole")]


def test_what_was_half_written_beside_a_file_is_swept(store: ContextStore, tmp_path: Path) -> None:
    store.add("one", now_ns=NOW_NS)
    for folder in ("", "sources"):
        (tmp_path / "store" / folder / f"{'0' * 32}.new").write_bytes(b"{")
    store.add("two", now_ns=NOW_NS)
    assert list((tmp_path / "store").rglob("*.new")) == []


# -------------------------------------------------------------------------------------------------------------- names


def test_a_name_means_what_was_last_added_under_it(store: ContextStore) -> None:
    first = store.add("one", name="contract", now_ns=1)
    second = store.add("two", name="contract", now_ns=2)
    assert store.find("contract") == second
    again = store.add("one", name="contract", now_ns=3)
    assert (again, store.find("contract")) == (first, first)
    store.rm("contract")
    assert store.find("contract") == second
    assert store.rm("contract") == second
    with pytest.raises(InvalidInput) as caught:
        store.find("contract")
    assert caught.value.code == "context.unknown"


def test_a_context_has_all_the_names_it_was_given(store: ContextStore, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("text")
    later = path.stat().st_ctime_ns + DAY_NS
    document = store.add(path, now_ns=later)
    for number, name in enumerate(["../up", "a/b\0\n", "\ud800"], start=1):
        assert store.add(path, name=name, now_ns=later + number).sha256 == document.sha256
    assert store.find("../up").name == "../up"
    assert store.find("\ud800").sha256 == document.sha256
    assert store.names(document.sha256) == ["notes.txt", "../up", "a/b\0\n", "?"]
    assert [one.name for one in store.ls()] == ["notes.txt"]


def test_a_text_without_a_name_is_found_by_its_digest_only(store: ContextStore) -> None:
    document = store.add("text", now_ns=NOW_NS)
    assert store.names(document.sha256) == []
    with pytest.raises(InvalidInput, match="there is no context 'text'"):
        store.find("text")


def test_digests_and_their_beginnings(store: ContextStore) -> None:
    document = store.add("one", name="first", now_ns=NOW_NS)
    digest = document.sha256
    assert [store.find(ref).sha256 for ref in (digest, f"sha256:{digest}", digest[:12], f"sha256:{digest[:40]}")] == [
        digest
    ] * 4
    for ref in (digest[:11], digest.upper(), digest + "0", "sha256:first", "sha256:", "0" * 64, "../documents"):
        with pytest.raises(InvalidInput) as caught:
            store.find(ref)
        assert caught.value.code == "context.unknown"
    # Who names a text like another's digest does not hide that one.
    other = store.add("two", name=digest, now_ns=NOW_NS)
    store.add("two", name=digest[:12], now_ns=NOW_NS)
    assert store.find(digest).sha256 == digest
    assert store.find(digest[:12]).sha256 == other.sha256
    assert store.find(f"sha256:{digest[:12]}").sha256 == digest


def test_two_digests_that_begin_alike(store: ContextStore, tmp_path: Path) -> None:
    document = store.add("one", now_ns=NOW_NS)
    documents = tmp_path / "store" / "documents"
    shutil.copytree(documents / document.sha256, documents / (document.sha256[:20] + "0" * 44))
    with pytest.raises(InvalidInput) as caught:
        store.find(document.sha256[:20])
    assert caught.value.code == "context.ambiguous"


# --------------------------------------------------------------------------------------------------------- rm and gc


def test_what_is_open_is_not_removed(store: ContextStore, tmp_path: Path) -> None:
    document = store.add("text", name="mine", now_ns=1)
    with store.open(document.sha256, now_ns=1), ContextStore(tmp_path / "store").open(document.sha256, now_ns=1) as two:
        two.close()
        with pytest.raises(Refusal, match="in use by a run") as caught:
            store.rm("mine")
        assert caught.value.code == "context.in_use"
        assert not isinstance(caught.value, InvalidInput)
        swept = store.gc(0, now_ns=NOW_NS)
        assert (swept.removed, swept.in_use) == ([], 1)
        assert store.ls() == [document]
    assert store.rm("mine") == document
    assert store.ls() == []
    assert list((tmp_path / "store" / "incoming").iterdir()) == []
    assert whole(store, store.add("text", now_ns=NOW_NS)) == b"text"


OPENER = """
import sys
from pathlib import Path
from belljar.context import ContextStore
opened = ContextStore(Path(sys.argv[1])).open(sys.argv[2])
print("open", flush=True)
sys.stdin.readline()
"""


def test_a_dead_run_holds_nothing(store: ContextStore, tmp_path: Path) -> None:
    document = store.add("text", name="mine", now_ns=1)
    with running(OPENER, tmp_path / "store", document.sha256) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(Refusal):
            store.rm("mine")
        process.send_signal(signal.SIGKILL)
        process.wait()
    store.rm("mine")
    assert store.ls() == []


def test_what_nobody_uses_goes_by_age(store: ContextStore, tmp_path: Path) -> None:
    old, opened, added, young = (store.add(f"text {number}", now_ns=number) for number in range(4))
    store.open(opened.sha256, now_ns=31 * DAY_NS).close()
    store.add("text 2", now_ns=31 * DAY_NS)
    store.open(young.sha256, now_ns=31 * DAY_NS + 1).close()
    swept = store.gc(30 * DAY_NS, now_ns=60 * DAY_NS)
    assert (swept.removed, swept.in_use) == ([old], 0)
    assert store.used_ns(added.sha256) == 31 * DAY_NS
    assert store.gc(30 * DAY_NS, now_ns=61 * DAY_NS).removed == [opened, added]
    assert store.ls() == [young]
    assert ContextStore(tmp_path / "nowhere").gc(0, now_ns=NOW_NS).removed == []


def test_a_removed_file_is_taken_in_again(store: ContextStore, tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("text")
    later = path.stat().st_ctime_ns + DAY_NS
    document = store.add(path, now_ns=later)
    store.rm("in.txt")
    assert list((tmp_path / "store" / "sources").iterdir()) == []
    assert whole(store, store.add(path, now_ns=later)) == b"text"
    assert store.find("in.txt").sha256 == document.sha256


@pytest.mark.slow
def test_adding_opening_and_removing_at_once(tmp_path: Path) -> None:
    """Whoever gets a document open reads all of it; nothing else happens than a clear refusal."""
    surprises: list[BaseException] = []
    text = "text é " * 1000
    until = time.monotonic() + 1.5

    def work(turn: int) -> None:
        mine = ContextStore(tmp_path / "store")
        while time.monotonic() < until:
            try:
                if turn % 3 == 0:
                    mine.rm("it")
                elif turn % 3 == 1:
                    mine.add(text, name="it", now_ns=time.time_ns())
                else:
                    with mine.open(mine.find("it").sha256) as opened:
                        assert bytes(opened.view) == text.encode()
                        assert len(opened.read(1, 7)) == 7
            except Refusal as refusal:
                if refusal.code not in {"context.unknown", "context.in_use"}:
                    surprises.append(refusal)
            except BaseException as error:
                surprises.append(error)
                raise

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert surprises == []
    assert list((tmp_path / "store" / "incoming").iterdir()) == []


# ----------------------------------------------------------------------------------------------- kills and resumption

ADDER = """
import sys, time
from pathlib import Path
from belljar.context import ContextStore
def show(done, total):
    print(done, flush=True)
    if len(sys.argv) > 3 and done >= int(sys.argv[3]):
        sys.stdin.readline()
print(ContextStore(Path(sys.argv[1])).add(Path(sys.argv[2]), now_ns=time.time_ns(), on_progress=show).sha256)
"""


def running(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A text of a few checkpoints, its last change well in the past."""
    path = tmp_path_factory.mktemp("source") / "large.txt"
    line = "Zeile für Zeile, Ende\r\n\u2028" * 4000
    with path.open("wb") as file:
        for number in range(int(2.5 * CHECKPOINT_BYTES / len(line.encode()))):
            file.write(f"{number} {line}".encode())
    time.sleep(0.3)
    yield path
    path.unlink()


def killed_at(store: Path, source: Path, done: int) -> None:
    """An `add` in another process that dies when it has done so many bytes."""
    with running(ADDER, store, source, done) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < done:
            pass
        process.send_signal(signal.SIGKILL)


def bytes_copied(store: Path) -> int:
    return sum(path.stat().st_size for path in (store / "incoming").glob("kept-*/text"))


@pytest.mark.slow
def test_an_interrupted_file_goes_on_where_it_was(tmp_path: Path, large: Path) -> None:
    place, fresh = tmp_path / "store", ContextStore(tmp_path / "fresh")
    killed_at(place, large, 2 * CHECKPOINT_BYTES + 1)
    store = ContextStore(place)
    assert store.ls() == []
    kept = bytes_copied(place)
    assert kept >= 2 * CHECKPOINT_BYTES
    inode = next((place / "incoming").glob("kept-*/text")).stat().st_ino
    document = store.add(large, now_ns=time.time_ns())
    assert (place / "documents" / document.sha256 / "text").stat().st_ino == inode
    assert list((place / "incoming").iterdir()) == []
    undisturbed = fresh.add(large, now_ns=time.time_ns())
    assert (document.sha256, document.chars, document.lines) == (
        undisturbed.sha256,
        undisturbed.chars,
        undisturbed.lines,
    )
    for name in ("text", "index", "lines"):
        one, other = (folder / "documents" / document.sha256 / name for folder in (place, tmp_path / "fresh"))
        assert digest(one) == digest(other), name


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.slow
def test_a_file_that_changed_meanwhile_starts_anew(tmp_path: Path, large: Path) -> None:
    source = tmp_path / "copy.txt"
    shutil.copy(large, source)
    time.sleep(0.3)
    place = tmp_path / "store"
    killed_at(place, source, CHECKPOINT_BYTES + 1)
    with source.open("r+b") as file:
        file.write(b"!")
    document = ContextStore(place).add(source, now_ns=time.time_ns())
    assert document.sha256 == digest(source)
    assert bytes_copied(place) > 0
    ContextStore(place).gc(0, now_ns=time.time_ns() + 1)
    assert list((place / "incoming").iterdir()) == []


@pytest.mark.slow
def test_two_who_add_the_same_large_file(tmp_path: Path, large: Path) -> None:
    with running(ADDER, tmp_path / "store", large, 1) as first:
        assert first.stdout is not None
        while int(first.stdout.readline()) < 1:
            pass
        mine = ContextStore(tmp_path / "store").add(large, now_ns=time.time_ns())  # while the other holds its folder
        rest, _ = first.communicate("\n" * 1000)
        assert rest.split()[-1] == mine.sha256
    assert [document.sha256 for document in ContextStore(tmp_path / "store").ls()] == [mine.sha256]
    assert list((tmp_path / "store" / "incoming").iterdir()) == []


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_nothing_half_there(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_bytes("Zeile für Zeile\n".encode() * 500_000)
    expected = digest(source)
    chance = random.Random(7)
    for turn in range(12):
        place = tmp_path / f"store-{turn % 2}"
        store = ContextStore(place)
        with running(ADDER, place, source) as process:
            assert process.stdout is not None
            select.select([process.stdout], [], [], 60)  # the interpreter is up, the work has begun
            time.sleep(chance.random() * 0.06)
            process.send_signal(signal.SIGKILL)
            process.wait()
        for document in store.ls():
            assert document.sha256 == expected
            with store.open(expected) as opened:
                assert hashlib.sha256(opened.view).hexdigest() == expected
                assert opened.line_start(document.lines) == document.bytes
            assert store.find("in.txt").sha256 == expected
            store.rm("in.txt")
    store.add("another", now_ns=time.time_ns())
    assert list((place / "incoming").iterdir()) == []


# ----------------------------------------------------------------------------------------------- progress and copying


@pytest.mark.slow
def test_progress_is_told_now_and_then(store: ContextStore, tmp_path: Path, large: Path) -> None:
    shown: list[tuple[int, int]] = []
    began = time.monotonic()
    store.add(large, now_ns=time.time_ns(), on_progress=lambda done, total: shown.append((done, total)))
    took = time.monotonic() - began
    size = large.stat().st_size
    assert shown[-1] == (size, size)
    assert {total for _, total in shown} == {size}
    assert all(one <= two for (one, _), (two, _) in itertools.pairwise(shown))
    assert 3 <= len(shown) <= 20 * took + 2


def test_who_is_told_of_progress_can_end_the_work(store: ContextStore, tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def stop(*_: Any) -> None:
        raise Enough

    for source in ("text", ["a"], {"a": "b"}):
        with pytest.raises(Enough):
            store.add(source, now_ns=NOW_NS, on_progress=stop)
    assert store.ls() == []
    assert list((tmp_path / "store" / "incoming").iterdir()) == []


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("skip", [0, 3])
@pytest.mark.parametrize("there", [0, 5])
def test_both_ways_to_copy(tmp_path: Path, quick: bool, skip: int, there: int) -> None:
    content = random.Random(1).randbytes(9 * 1024 * 1024 + 11)
    (tmp_path / "from").write_bytes(content)
    (tmp_path / "to").write_bytes(content[skip : skip + there])
    with (tmp_path / "from").open("rb") as source, (tmp_path / "to").open("r+b") as target:
        copier = Copier(source.fileno(), target.fileno(), "it", skip=skip, quick=quick)
        copier.reach(1000)
        assert copier.bytes >= 1000
        copier.reach(2**60)
        assert copier.bytes == len(content) - skip
    assert (tmp_path / "to").read_bytes() == content[skip:]


def test_a_file_that_is_made_up_as_it_is_read(store: ContextStore) -> None:
    document = store.add(Path("/proc/self/status"), now_ns=time.time_ns())
    assert b"Name:" in whole(store, document)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path, large: Path) -> None:
    measured = """
import resource, sys, time
from pathlib import Path
from belljar.context import ContextStore
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store = ContextStore(Path(sys.argv[1]))
store.add("warm up é", now_ns=1)
before = peak()
store.add(Path(sys.argv[2]), now_ns=1)
store.add(Path(sys.argv[2]), encoding="latin-1", now_ns=1)
print(peak() - before)
"""
    with running(measured, tmp_path / "store", large) as process:
        grown_kb, _ = process.communicate()
    assert int(grown_kb) < 16 * 1024


# ---------------------------------------------------------------------------------------------- what runs bring along


def lent(store: ContextStore, tmp_path: Path) -> list[str]:
    return [folder.name for folder in (tmp_path / "store" / "lent").glob("*")]


def test_what_a_run_brings_along_goes_with_it(store: ContextStore, tmp_path: Path) -> None:
    path = tmp_path / "private.txt"
    path.write_text("private words")
    with store.lend(path, now_ns=NOW_NS) as loan:
        assert loan.document.name == "private.txt"
        assert whole(store, loan.document) == b"private words"
        assert store.ls() == []
        with pytest.raises(InvalidInput, match="there is no context"):
            store.find("private.txt")
    assert lent(store, tmp_path) == []
    assert not any(b"private words" in file.read_bytes() for file in tmp_path.rglob("store/**/*") if file.is_file())


def test_it_stays_for_whoever_else_has_it(store: ContextStore, tmp_path: Path) -> None:
    first = store.lend("the same", now_ns=NOW_NS)
    second = store.lend("the same", now_ns=NOW_NS)
    first.close()
    assert whole(store, second.document) == b"the same"
    second.close()
    assert lent(store, tmp_path) == []


def test_what_is_registered_is_lent_without_a_copy_and_stays(store: ContextStore, tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    path.write_text("kept")
    later = path.stat().st_ctime_ns + 10**10
    registered = store.add(path, now_ns=later)
    with store.lend(path, now_ns=later) as loan:
        assert loan.document.sha256 == registered.sha256
        assert lent(store, tmp_path) == []
        with pytest.raises(Refusal):
            store.rm("kept.txt")
    assert [document.sha256 for document in store.ls()] == [registered.sha256]


def test_registering_what_is_lent_keeps_it(store: ContextStore, tmp_path: Path) -> None:
    with store.lend("both", now_ns=NOW_NS) as loan:
        store.add("both", name="mine", now_ns=NOW_NS)
        assert whole(store, loan.document) == b"both"
    assert lent(store, tmp_path) == []
    assert whole(store, store.find("mine")) == b"both"


def test_what_a_dead_host_left_is_swept_and_what_lives_is_not(store: ContextStore, tmp_path: Path) -> None:
    stores = ContextStores(tmp_path)
    own = stores.of(Tenant("acme"))
    left = own.lend("left behind", now_ns=NOW_NS)
    lives = own.lend("in use", now_ns=NOW_NS)
    left._of_runs = None  # as after a kill: the lock goes, the text does not
    left.close()
    stores.sweep_lent()
    assert [path.read_text() for path in tmp_path.rglob("lent/*/text")] == ["in use"]
    lives.close()


def test_lending_and_giving_back_at_once(store: ContextStore, tmp_path: Path) -> None:
    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(40):
            with store.lend(f"text {chance.randrange(2)}", now_ns=NOW_NS) as loan:
                assert whole(store, loan.document).startswith(b"text ")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lent(store, tmp_path) == []


def test_a_name_goes_and_the_text_stays_under_its_others(store: ContextStore, tmp_path: Path) -> None:
    one = store.add("text", name="one", now_ns=NOW_NS)
    store.add("text", name="two", now_ns=NOW_NS + 1)
    assert store.rm("one").name == "one"
    assert store.names(one.sha256) == ["two"]
    assert whole(store, store.find("two")) == b"text"
    with pytest.raises(InvalidInput, match="there is no context"):
        store.find("one")
    store.rm("two")
    assert store.ls() == []


def test_by_its_digest_a_text_goes_with_all_its_names(store: ContextStore) -> None:
    document = store.add("text", name="one", now_ns=NOW_NS)
    store.add("text", name="two", now_ns=NOW_NS)
    store.rm(f"sha256:{document.sha256}")
    assert store.ls() == []


def test_what_is_lent_waits_for_no_disk_and_what_is_registered_does(
    store: ContextStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child run would spend most of its time on that; and what it brought along is removed at the next start."""
    store.lend("makes the folders", now_ns=NOW_NS).close()
    flushed: list[int] = []
    monkeypatch.setattr("os.fsync", flushed.append)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("in a folder")
    for source in ("a text", ["a", "list"], {"a": "dict"}, tmp_path / "notes", tmp_path / "notes" / "a.txt"):
        with contextlib.closing(store.lend(source, now_ns=NOW_NS)) as loan:
            assert whole(store, loan.document)
        assert flushed == []
    store.add("a text", now_ns=NOW_NS)
    assert len(flushed) > 3
