"""Texts go in once, whole or not at all, and any range of characters comes out as its bytes."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from belljar.context import ContextStore, Document
from belljar.context.document import MARK_CHARS
from belljar.context.tally import BLOCK_BYTES
from belljar.errors import HostFault, InvalidInput
from tests.examples import examples

NOW_NS = 1_800_000_000_000_000_000


@pytest.fixture
def store(tmp_path: Path) -> ContextStore:
    return ContextStore(tmp_path / "store")


def file_of(tmp_path: Path, content: bytes, name: str = "in.txt", modified_ns: int = NOW_NS - 10**12) -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    os.utime(path, ns=(modified_ns, modified_ns))
    return path


def later_ns(path: Path) -> int:
    """A time at which the last change of `path` is long past."""
    return max(path.stat().st_ctime_ns, path.stat().st_mtime_ns) + 10**10


def whole(store: ContextStore, document: Document) -> str:
    with store.open(document.sha256) as opened:
        return bytes(opened.read(0, document.chars)).decode()


def refused(store: ContextStore, source: Path | str) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        store.add(source, now_ns=NOW_NS)
    assert "\n" not in str(caught.value)
    return caught.value


def test_what_is_known_about_a_document(store: ContextStore, tmp_path: Path) -> None:
    content = "naïve €\r\n".encode()
    document = store.add(file_of(tmp_path, content, "letter.txt"), now_ns=NOW_NS)
    assert document == Document(
        sha256=hashlib.sha256(content).hexdigest(),
        name="letter.txt",
        kind="text",
        chars=9,
        bytes=len(content),
        ascii=False,
        items=0,
        lines=1,
        directory="",
        added_ns=NOW_NS,
    )
    assert store.ls() == [document]
    with store.open(document.sha256) as opened:
        assert opened.document == document
    assert whole(store, document) == "naïve €\r\n"


def test_a_text_is_taken_as_it_is(store: ContextStore) -> None:
    document = store.add("\ufeffplain\r\n", now_ns=NOW_NS)
    assert (document.name, document.chars) == ("text", 8)
    assert whole(store, document) == "\ufeffplain\r\n"
    assert store.add("other", name="mine", now_ns=NOW_NS).name == "mine"


def test_a_byte_order_mark_of_a_file_is_dropped(store: ContextStore, tmp_path: Path) -> None:
    document = store.add(file_of(tmp_path, b"\xef\xbb\xbfplain"), now_ns=NOW_NS)
    assert document.sha256 == hashlib.sha256(b"plain").hexdigest()
    assert (document.chars, document.bytes, document.ascii) == (5, 5, True)
    assert refused(store, file_of(tmp_path, b"\xef\xbb\xbf")).code == "context.empty"


LONG_TEXTS = {
    "ascii": "0123456789" * 30_000,
    "two bytes": "é" * 300_001,
    "three bytes": "€" * 200_003,
    "four bytes": "a" + "😀" * 150_000,
    "late": "x" * (2 * BLOCK_BYTES + 1) + "é" + "y" * 3000,
    "mixed": "a é € 😀\n" * 40_000,
}


@pytest.mark.parametrize("text", LONG_TEXTS.values(), ids=LONG_TEXTS)
@pytest.mark.parametrize("as_file", [True, False], ids=["file", "str"])
def test_every_range_of_a_long_text(store: ContextStore, tmp_path: Path, text: str, as_file: bool) -> None:
    source = file_of(tmp_path, text.encode()) if as_file else text
    document = store.add(source, now_ns=NOW_NS)
    assert (document.chars, document.bytes, document.ascii) == (len(text), len(text.encode()), text.isascii())
    edges = {0, 1, MARK_CHARS - 1, MARK_CHARS, MARK_CHARS + 1, 30 * MARK_CHARS, BLOCK_BYTES, len(text) - 1, len(text)}
    with store.open(document.sha256) as opened:
        for start in edges:
            for stop in (stop for stop in edges if start <= stop):
                assert bytes(opened.read(start, stop)).decode() == text[start:stop]


@settings(max_examples=examples(60), deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), st.data())
def test_any_range_of_any_text(tmp_path_factory: pytest.TempPathFactory, text: str, data: st.DataObject) -> None:
    text = text * data.draw(st.sampled_from([1, 100, 3000]))
    store = ContextStore(tmp_path_factory.mktemp("store"))
    document = store.add(text, now_ns=NOW_NS)
    with store.open(document.sha256) as opened:
        for _ in range(5):
            start = data.draw(st.integers(0, len(text)))
            stop = data.draw(st.integers(start, len(text)))
            assert opened.read(start, stop) == text[start:stop].encode()


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 6), (3, 2), (6, 6)])
@pytest.mark.parametrize("text", ["ascii", "ünico"])
def test_ranges_outside_are_refused(store: ContextStore, text: str, start: int, stop: int) -> None:
    with store.open(store.add(text, now_ns=NOW_NS).sha256) as opened, pytest.raises(ValueError, match="outside"):
        opened.read(start, stop)


def test_a_view_outlives_its_document(store: ContextStore) -> None:
    opened = store.open(store.add("0123456789", now_ns=NOW_NS).sha256)
    view = opened.read(2, 5)
    assert isinstance(view, memoryview)
    assert view.readonly
    everything = opened.view
    with memoryview(everything):  # as a search holds it
        opened.close()
        opened.close()
    assert bytes(view) == b"234"
    assert bytes(everything) == b"0123456789"
    with pytest.raises(ValueError, match="closed"):
        opened.read(0, 1)


def test_the_same_text_is_kept_once(store: ContextStore, tmp_path: Path) -> None:
    first = store.add(file_of(tmp_path, b"same", "a.txt"), now_ns=NOW_NS)
    second = store.add(file_of(tmp_path, b"same", "b.txt"), now_ns=NOW_NS + 1)
    assert (second.sha256, second.name, second.added_ns) == (first.sha256, "b.txt", NOW_NS)
    assert store.ls() == [first]


def test_documents_are_listed_in_the_order_they_came(store: ContextStore) -> None:
    assert store.ls() == []
    for number in (3, 1, 2):
        store.add(f"text {number}", now_ns=number)
    assert [document.added_ns for document in store.ls()] == [1, 2, 3]


def test_a_later_change_of_the_file_does_not_reach_the_document(store: ContextStore, tmp_path: Path) -> None:
    path = file_of(tmp_path, b"before")
    before = store.add(path, now_ns=later_ns(path))
    path.write_bytes(b"after!")
    assert whole(store, before) == "before"
    after = store.add(path, now_ns=later_ns(path))
    assert whole(store, after) == "after!"
    assert len(store.ls()) == 2


def test_an_unchanged_file_is_not_read_again(store: ContextStore, tmp_path: Path, tally: Tally) -> None:
    path = file_of(tmp_path, b"x" * 1_000_000)
    first = store.add(path, now_ns=later_ns(path))
    with tally:
        assert store.add(path, now_ns=later_ns(path)) == first
        link = tmp_path / "link.txt"
        link.symlink_to(path)
        assert store.add(link, name=path.name, now_ns=later_ns(path)) == first
    assert tally.bytes_read < 100_000


def test_a_file_that_changed_a_moment_ago_is_read_again(store: ContextStore, tmp_path: Path, tally: Tally) -> None:
    # A write within the same tick of the file system's clock would leave no trace.
    path = file_of(tmp_path, b"x" * 1_000_000)
    just_now = path.stat().st_ctime_ns + 1000
    first = store.add(path, now_ns=just_now)
    with tally:
        assert store.add(path, now_ns=just_now) == first
    assert tally.bytes_read >= 1_000_000


def test_a_file_put_back_with_its_old_times_is_read_again(store: ContextStore, tmp_path: Path) -> None:
    path = file_of(tmp_path, b"before")
    store.add(path, now_ns=later_ns(path))
    file_of(tmp_path, b"after!")
    assert whole(store, store.add(path, now_ns=later_ns(path))) == "after!"


def test_a_remembered_file_whose_document_is_gone_is_taken_in_again(store: ContextStore, tmp_path: Path) -> None:
    path = file_of(tmp_path, b"text")
    document = store.add(path, now_ns=later_ns(path))
    shutil.rmtree(tmp_path / "store" / "documents" / document.sha256)
    assert store.ls() == []
    assert whole(store, store.add(path, now_ns=later_ns(path))) == "text"


class Tally:
    """How many bytes this process has read inside the `with` block, as the kernel counts them."""

    bytes_read = 0

    def _count(self) -> int:
        found = re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())
        assert found is not None
        return int(found[1])

    def __enter__(self) -> None:
        self._before = self._count()

    def __exit__(self, *error: object) -> None:
        self.bytes_read = self._count() - self._before


@pytest.fixture
def tally() -> Tally:
    return Tally()


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (b"", "context.empty", "at least one character"),
        (b"ab\0c", "context.binary", "looks binary, at byte 2 "),
        (b"x" * BLOCK_BYTES + b"yz\0", "context.binary", f"at byte {BLOCK_BYTES + 2} "),
        (
            b"caf\xe9 au lait",
            "context.encoding",
            "is not UTF-8, at byte 3 (0xe9); give its real encoding (--encoding windows-1252, say), or have such ",
        ),
        (b"x" * (BLOCK_BYTES - 1) + b"\xe2\x82(", "context.encoding", f"at byte {BLOCK_BYTES - 1} (0xe2)"),
        (b"x" * 10 + b"\xe2\x82", "context.encoding", "at byte 10 (0xe2)"),
        (b"\xef\xbb\xbfab\xff", "context.encoding", "at byte 5 (0xff)"),
        (b"\xef\xbb", "context.encoding", "at byte 0 (0xef)"),
        (b"\xed\xa0\x80", "context.encoding", "at byte 0 (0xed)"),
        (b"\xff\xfea\0\x00\xd8b\0", "context.encoding", "is not UTF-16-LE, at byte 4 (0x00)"),
        (b"\xff\xfea\0b", "context.encoding", "is not UTF-16-LE, at byte 4 (0x62)"),
        (b"\xff\xfe\0\0a\0\0\0\0\0\x11\0", "context.encoding", "is not UTF-32-LE, at byte 8 (0x00)"),
        (b"\xff\xfea\0\0\0", "context.binary", "at character 1 (a NUL)"),
        (b"\x89PNG\r\n\x1a\n\0\0", "context.binary", "at byte 8 "),
    ],
)
def test_files_that_are_no_text(store: ContextStore, tmp_path: Path, content: bytes, code: str, says: str) -> None:
    error = refused(store, file_of(tmp_path, content))
    assert error.code == code
    assert says in str(error)
    assert store.ls() == []
    assert list((tmp_path / "store" / "incoming").iterdir()) == []


def test_files_that_cannot_be_opened(store: ContextStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    assert refused(store, tmp_path / "nowhere\n.txt").code == "context.missing"
    assert refused(store, file_of(tmp_path, b"x") / "below").code == "context.missing"
    assert refused(store, tmp_path / "fifo").code == "context.unreadable"
    assert refused(store, tmp_path / "loop").code == "context.unreadable"
    assert refused(store, tmp_path / "nul\0").code == "context.unreadable"
    assert refused(store, Path("/proc/self/mem")).code == "context.unreadable"


def test_texts_that_no_file_could_hold(store: ContextStore) -> None:
    lone = refused(store, "x" * (BLOCK_BYTES + 5) + "\ud800")
    assert lone.code == "context.encoding"
    assert f"at character {BLOCK_BYTES + 5}," in str(lone)
    assert refused(store, "").code == "context.empty"
    assert refused(store, "a\0").code == "context.binary"


def test_a_file_name_that_is_no_text_becomes_one(store: ContextStore, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))
    path.write_bytes(b"text")
    assert store.add(path, now_ns=NOW_NS).name == "caf?.txt"


@pytest.mark.parametrize("sha256", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_a_name_that_is_no_digest_opens_nothing(store: ContextStore, sha256: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        store.open(sha256)
    assert caught.value.code == "context.bad_hash"


def test_an_unknown_digest_opens_nothing(store: ContextStore) -> None:
    with pytest.raises(InvalidInput, match="list the contexts") as caught:
        store.open("a" * 64)
    assert caught.value.code == "context.unknown"


def test_nobody_else_can_read_the_store(store: ContextStore, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        path = file_of(tmp_path, "größer".encode())
        store.add(path, now_ns=later_ns(path))
    finally:
        os.umask(old)
    for found in [tmp_path / "store", *(tmp_path / "store").rglob("*")]:
        expected = 0o700 if found.is_dir() else 0o600
        assert stat.S_IMODE(found.stat().st_mode) == expected, found


def test_a_damaged_document_is_our_fault(store: ContextStore, tmp_path: Path) -> None:
    document = store.add("größer", now_ns=NOW_NS)
    folder = tmp_path / "store" / "documents" / document.sha256
    for name, content in [("index", b""), ("text", b"short"), ("document.json", b"{")]:
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        with pytest.raises(HostFault, match="remove"):
            store.open(document.sha256)
        (folder / name).write_bytes(kept)
    assert whole(store, document) == "größer"


def test_a_store_that_cannot_be_written_is_our_fault(tmp_path: Path) -> None:
    with pytest.raises(HostFault, match="choose another state folder"):
        ContextStore(file_of(tmp_path, b"a file") / "store").add("text", now_ns=NOW_NS)


def test_many_writers_of_the_same_texts(tmp_path: Path) -> None:
    found: list[str] = []

    def work() -> None:
        mine = ContextStore(tmp_path / "store")
        found.extend(mine.add(f"text {number} é" * 1000, now_ns=NOW_NS).sha256 for number in range(10))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    documents = ContextStore(tmp_path / "store").ls()
    assert len(found) == 40
    assert {document.sha256 for document in documents} == set(found)
    assert len(documents) == 10
    assert list((tmp_path / "store" / "incoming").iterdir()) == []


WRITER = """
import sys
from pathlib import Path
from belljar.context import ContextStore
asked = False
def wait(done, total):
    global asked
    if not asked:
        asked = True
        print("writing", flush=True)
        sys.stdin.readline()
store = ContextStore(Path(sys.argv[1]))
print(store.add("half a text and the rest", name="slow", now_ns=1, on_progress=wait).sha256)
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, halfway through an `add`."""
    command = [sys.executable, "-c", WRITER, str(tmp_path / "store")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def test_what_a_dead_writer_left_is_deleted(store: ContextStore, tmp_path: Path, writer: subprocess.Popen[str]) -> None:
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert len(list((tmp_path / "store" / "incoming").iterdir())) == 1
    assert store.ls() == []
    store.add("another", now_ns=NOW_NS)
    assert list((tmp_path / "store" / "incoming").iterdir()) == []


def test_a_living_writer_is_left_alone(store: ContextStore, tmp_path: Path, writer: subprocess.Popen[str]) -> None:
    store.add("another", now_ns=NOW_NS)
    assert len(list((tmp_path / "store" / "incoming").iterdir())) == 1
    sha256, _ = writer.communicate("\n")
    assert sha256.strip() == hashlib.sha256(b"half a text and the rest").hexdigest()
    assert [document.name for document in store.ls()] == ["slow", "text"]
