"""What contexts may be made of besides plain files: what gzip has packed, what comes through a pipe, lines of JSON."""

from __future__ import annotations

import gzip
import io
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from belljar.context import ContextStore, FileSource
from belljar.context.tally import BLOCK_BYTES
from belljar.errors import InvalidInput
from tests.unit.test_context_values import items

NOW_NS = 1_800_000_000_000_000_000
LONG = "".join(f"line {number} é\n" for number in range(200_000))


@pytest.fixture
def store(tmp_path: Path) -> ContextStore:
    return ContextStore(tmp_path / "store")


def text_of(store: ContextStore, source: Any, **more: Any) -> str:
    document = store.add(source, now_ns=NOW_NS, **more)
    with store.open(document.sha256) as opened:
        return bytes(opened.view).decode()


def refused(store: ContextStore, source: Any, **more: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        store.add(source, now_ns=NOW_NS, **more)
    assert "\n" not in str(caught.value)
    assert store.ls() == []
    return caught.value


def file_of(tmp_path: Path, data: bytes, name: str = "file") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def test_a_packed_file_is_unpacked(store: ContextStore, tmp_path: Path) -> None:
    assert len(LONG) > BLOCK_BYTES
    assert text_of(store, file_of(tmp_path, gzip.compress(LONG.encode()))) == LONG
    members = gzip.compress(b"one, ") + gzip.compress(b"two")
    assert text_of(store, file_of(tmp_path, members)) == "one, two"
    assert text_of(store, file_of(tmp_path, gzip.compress("é".encode("utf-16")))) == "é"
    assert text_of(store, file_of(tmp_path, gzip.compress(b"\xe9")), encoding="latin-1") == "é"


@pytest.mark.parametrize("cut", [2, 3, 12, -9, -1])
def test_a_packed_file_that_is_damaged_is_told(store: ContextStore, tmp_path: Path, cut: int) -> None:
    error = refused(store, file_of(tmp_path, gzip.compress(b"text" * 100)[:cut]))
    assert error.code == "context.unreadable"
    assert "begins like gzip" in str(error)


def test_a_packed_file_in_a_folder(store: ContextStore, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    file_of(folder, gzip.compress(b"old"), "log.1.gz")
    file_of(folder, b"new", "log")
    assert items(store, store.add(folder, now_ns=NOW_NS)) == [("log", "new"), ("log.1.gz", "old")]


def test_what_comes_through_a_pipe(store: ContextStore) -> None:
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            for start in range(0, len(LONG), 50_001):
                pipe.write(LONG[start : start + 50_001].encode())

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        assert text_of(store, pipe, name="piped") == LONG
    writer.join()
    assert store.find("piped").chars == len(LONG)


def test_a_pipe_is_checked_like_a_file(store: ContextStore) -> None:
    assert refused(store, io.BytesIO(b"")).code == "context.empty"
    assert refused(store, io.BytesIO(b"a\0b")).code == "context.binary"
    assert "the input is not UTF-8, at byte 1" in str(refused(store, io.BytesIO(b"a\xe9")))
    assert text_of(store, io.BytesIO(gzip.compress(b"packed"))) == "packed"


def test_lines_of_json_are_a_list(store: ContextStore, tmp_path: Path) -> None:
    rows = [{"id": 1, "t": "é\u2028"}, "a text", [1, 2.5, None], True, 10**30]
    data = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n"
    for source in (file_of(tmp_path, data.encode()), io.BytesIO(gzip.compress(data.encode()))):
        document = store.add(source, json_lines=True, now_ns=NOW_NS)
        assert document.kind == "list"
        assert [value for _, value in items(store, document)] == rows


@pytest.mark.slow
def test_many_lines_across_blocks(store: ContextStore, tmp_path: Path) -> None:
    data = "".join(f'{{"n": {number}}}\n' for number in range(150_000))
    assert len(data) > BLOCK_BYTES
    assert store.add(file_of(tmp_path, data.encode()), json_lines=True, now_ns=NOW_NS).items == 150_000


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b'{"a": 1}\n{"a": \n', "line 2 of "),
        (b"[NaN]\n", "a number that JSON does not have"),
        (b"[" * 100_000, "is nested too deeply; correct it"),
        (b"1\n" + b"9" * 5000, "has a number of too many digits; correct it"),
        (b"\n \n", "has no text in it"),
        (b'"\\ud800"\n', "lone surrogate"),
    ],
)
def test_a_line_that_is_no_json_is_told(store: ContextStore, tmp_path: Path, data: bytes, complaint: str) -> None:
    assert complaint in str(refused(store, file_of(tmp_path, data), json_lines=True))


def test_a_folder_has_no_lines(store: ContextStore, tmp_path: Path) -> None:
    assert "only a file can be read as --jsonl" in str(refused(store, tmp_path, json_lines=True))


def test_the_same_file_as_a_text_and_as_lines(store: ContextStore, tmp_path: Path) -> None:
    path = file_of(tmp_path, b'{"a": 1}\n')
    later = path.stat().st_ctime_ns + 10**10
    assert store.add(path, now_ns=later).kind == "text"
    assert store.add(path, json_lines=True, now_ns=later).kind == "list"


def test_a_run_can_be_lent_what_is_read_otherwise(store: ContextStore, tmp_path: Path) -> None:
    path = file_of(tmp_path, b"caf\xe9\n")
    with (
        store.lend(FileSource(path, encoding="latin-1"), now_ns=NOW_NS) as loan,
        store.open(loan.document.sha256) as opened,
    ):
        assert bytes(opened.view).decode() == "café\n"
