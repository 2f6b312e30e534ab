"""Lists, dicts and folders: one text, and a directory that leads to every item."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from belljar.context import ContextStore, Document, LeftOut
from belljar.context.document import RECORD_BYTES
from belljar.context.tally import BLOCK_BYTES
from belljar.engine.prompt import opening
from belljar.errors import InvalidInput
from tests.examples import examples

NOW_NS = 1_800_000_000_000_000_000

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), words)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3))


@pytest.fixture
def store(tmp_path: Path) -> ContextStore:
    return ContextStore(tmp_path / "store")


def items(store: ContextStore, document: Document) -> list[tuple[str, Any]]:
    """Keys and values as a guest would read them: two texts, ranges of characters."""
    with store.open(document.sha256) as text, text.directory() as directory:
        assert directory.document.chars == document.items * RECORD_BYTES
        found = []
        for number in range(document.items):
            record = bytes(directory.read(number * RECORD_BYTES, (number + 1) * RECORD_BYTES)).decode()
            assert record.endswith("\n")
            key_start, key_chars, start, chars = (
                int(record[a:b], 16) for a, b in ((0, 12), (12, 18), (18, 30), (30, 40))
            )
            key = bytes(text.read(key_start, key_start + key_chars)).decode()
            value = bytes(text.read(start, start + chars)).decode()
            found.append((key, json.loads(value) if record[40] == "j" else value))
    return found


def refused(store: ContextStore, source: Any, **more: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        store.add(source, now_ns=NOW_NS, **more)
    assert "\n" not in str(caught.value)
    assert store.ls() == []
    return caught.value


@pytest.mark.slow
@settings(max_examples=examples(60), deadline=None)
@given(st.lists(values, max_size=8))
def test_any_list(tmp_path_factory: pytest.TempPathFactory, source: list[Any]) -> None:
    source = [*source, "."]
    store = ContextStore(tmp_path_factory.mktemp("store"))
    document = store.add(source, now_ns=NOW_NS)
    assert (document.kind, document.items, document.lines) == ("list", len(source), 0)
    assert items(store, document) == [("", value) for value in source]


@pytest.mark.slow
@settings(max_examples=examples(60), deadline=None)
@given(st.dictionaries(words, values, max_size=8))
def test_any_dict(tmp_path_factory: pytest.TempPathFactory, source: dict[str, Any]) -> None:
    source = {**source, "key": "."}
    store = ContextStore(tmp_path_factory.mktemp("store"))
    document = store.add(source, now_ns=NOW_NS)
    assert (document.kind, document.items) == ("dict", len(source))
    assert items(store, document) == list(source.items())


def test_how_a_dict_lies_on_disk(store: ContextStore, tmp_path: Path) -> None:
    document = store.add({"é": "text", "b": [1, {"ü": None}]}, name="mine", now_ns=NOW_NS)
    folder = tmp_path / "store" / "documents" / document.sha256
    text, directory = (folder / "text").read_bytes(), (folder / "directory").read_bytes()
    assert text.decode() == 'ébtext[1,{"ü":null}]'
    assert directory.decode().splitlines() == [
        "000000000000" + "000001" + "000000000002" + "0000000004" + "t",
        "000000000001" + "000001" + "000000000006" + "000000000e" + "j",
    ]
    whole = b"belljar dict\0" + hashlib.sha256(text).digest() + hashlib.sha256(directory).digest()
    assert document.sha256 == hashlib.sha256(whole).hexdigest()
    assert document.directory == hashlib.sha256(directory).hexdigest()
    assert (document.name, document.chars, document.ascii) == ("mine", 20, False)
    assert not (folder / "lines").exists()


def test_the_same_texts_in_another_shape_are_another_context(store: ContextStore) -> None:
    shapes: list[Any] = ["ab", ["ab"], ["a", "b"], {"a": "b"}, {"": "ab"}, ["", "ab"], [1, 2], ["1", "2"], [12], "12"]
    assert len({store.add(shape, now_ns=NOW_NS).sha256 for shape in shapes}) == len(shapes)
    assert store.add(["a", "b"], now_ns=NOW_NS).name == "list"


def test_long_items(store: ContextStore) -> None:
    source = ["é" * (BLOCK_BYTES + 7), "", "x" * (2 * BLOCK_BYTES), ["€" * BLOCK_BYTES], "end"]
    document = store.add(source, now_ns=NOW_NS)
    assert [value for _, value in items(store, document)] == source


def circle() -> list[Any]:
    made: list[Any] = ["text"]
    made.append(made)
    return made


def deep() -> list[Any]:
    made: list[Any] = []
    for _ in range(100_000):
        made = [made]
    return made


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [
        ([], "context.empty", "at least one"),
        ({}, "context.empty", "at least one"),
        (["", ""], "context.empty", "at least one"),
        (["a", b"b"], "context.not_json", "item 1 has a bytes"),
        (["a", {"k": {1, 2}}], "context.not_json", "item 1 has a set"),
        (["a", float("nan")], "context.not_json", "a number that JSON does not have (NaN or an infinity)"),
        (["a", {1: 2}], "context.not_json", "has the key 1, which is not a str"),
        ({1: "a"}, "context.not_json", "the key 1 is not a str"),
        ({"k": object()}, "context.not_json", "the value of 'k' has a object"),
        ([math.nan], "context.not_json", "item 0"),
        ([-math.inf], "context.not_json", "item 0"),
        ([["a\0"]], None, ""),
        (["fine", "a\0"], "context.binary", "item 1 looks binary, at character 1"),
        (["fine", "ab\ud800"], "context.encoding", "item 1 has a lone surrogate at character 2"),
        (["fine", ["\ud800"]], "context.encoding", "item 1 has a lone surrogate"),
        ({"\udfff": "x"}, "context.encoding", "the key '\\udfff' has a lone surrogate"),
        ({"k": "\ud800"}, "context.encoding", "the value of 'k'"),
        ({"k" * 16**6: "x"}, "context.too_long", "is too long; make it shorter"),
        (circle(), "context.not_json", "nested too deeply"),
        (deep(), "context.not_json", "nested too deeply"),
        (3, "context.not_json", "type int cannot be a context"),
        ({"a"}, "context.not_json", "type set cannot be a context"),
        (io.StringIO("a"), "context.not_json", "type StringIO cannot be a context"),
        (None, "context.not_json", "type NoneType cannot be a context"),
    ],
)
def test_what_is_no_context(store: ContextStore, source: Any, code: str | None, says: str) -> None:
    if code is None:  # JSON escapes what a text may not hold
        assert items(store, store.add(source, now_ns=NOW_NS)) == [("", source[0])]
        return
    error = refused(store, source)
    assert (error.code, says in str(error)) == (code, True), str(error)


# ------------------------------------------------------------------------------------------------------------ folders


def folder_of(tmp_path: Path, files: Mapping[str, bytes]) -> Path:
    root = tmp_path / "folder"
    for path, content in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return root


def later_ns(root: Path) -> int:
    return max(path.stat().st_ctime_ns for path in [root, *root.rglob("*")]) + 10**10


FILES = {
    "b.txt": "zwölf\r\n".encode(),
    "a/deep/x.py": b"print()\n",
    "a-b": b"",
    ".hidden": b"\xef\xbb\xbfmark",
    "wide.txt": "weit €".encode("utf-16"),
    "z/é 1": b"last",
}
TEXTS = {
    ".hidden": "mark",
    "a-b": "",
    "a/deep/x.py": "print()\n",
    "b.txt": "zwölf\r\n",
    "wide.txt": "weit €",
    "z/é 1": "last",
}


def test_a_folder_is_a_dict_of_its_files(store: ContextStore, tmp_path: Path) -> None:
    document = store.add(folder_of(tmp_path, FILES), now_ns=NOW_NS)
    assert (document.kind, document.items, document.name) == ("dict", 6, "folder")
    assert items(store, document) == list(TEXTS.items())
    assert document.sha256 == store.add(TEXTS, now_ns=NOW_NS).sha256


def test_links_devices_and_version_control_are_left_out_and_told(store: ContextStore, tmp_path: Path) -> None:
    root = folder_of(tmp_path, {"in.txt": b"in", ".git/config": b"secret", "sub/.hg/x": b"secret", "sub/y": b"y"})
    (tmp_path / "outside.txt").write_bytes(b"outside")
    (root / "link").symlink_to(tmp_path / "outside.txt")
    (root / "dirlink").symlink_to("/etc")
    (root / "sub" / "loop").symlink_to("..")
    os.mkfifo(root / "pipe")
    told: list[LeftOut] = []
    document = store.add(root, now_ns=later_ns(root), on_left_out=told.append)
    assert items(store, document) == [("in.txt", "in"), ("sub/y", "y")]
    expected = [
        LeftOut(".git", "version control"),
        LeftOut("dirlink", "a symbolic link"),
        LeftOut("link", "a symbolic link"),
        LeftOut("pipe", "not a regular file"),
        LeftOut("sub/.hg", "version control"),
        LeftOut("sub/loop", "a symbolic link"),
    ]
    assert told == expected
    again: list[LeftOut] = []
    assert store.add(root, now_ns=later_ns(root), on_left_out=again.append) == document
    assert again == expected


BAD = {"good": b"good", "latin": b"caf\xe9", "photo": b"\x89PNG\0\0"}


def test_a_folder_with_files_that_are_no_text(store: ContextStore, tmp_path: Path) -> None:
    root = folder_of(tmp_path, BAD)
    latin = refused(store, root)
    assert latin.code == "context.encoding"
    assert "latin' is not UTF-8, at byte 3 (0xe9)" in str(latin)
    assert "--errors skip" in str(latin)
    (root / "latin").rename(root / "z")
    binary = refused(store, root)
    assert binary.code == "context.binary"
    assert "photo' looks binary, at byte 4" in str(binary)
    assert "--errors skip" in str(binary)
    (root / "z").rename(root / "latin")
    told: list[LeftOut] = []
    document = store.add(root, errors="skip", now_ns=later_ns(root), on_left_out=told.append)
    assert items(store, document) == [("good", "good")]
    assert told == [LeftOut("latin", "it does not decode"), LeftOut("photo", "it is binary")]
    again: list[LeftOut] = []
    assert store.add(root, errors="skip", now_ns=later_ns(root), on_left_out=again.append) == document
    assert again == told
    (root / "photo").unlink()
    replaced = store.add(root, errors="replace", now_ns=NOW_NS)
    assert items(store, replaced) == [("good", "good"), ("latin", "caf\ufffd")]
    declared = store.add(root, encoding="latin-1", now_ns=NOW_NS)
    assert items(store, declared) == [("good", "good"), ("latin", "café")]


def test_a_file_name_that_is_no_text(store: ContextStore, tmp_path: Path) -> None:
    root = folder_of(tmp_path, {"good": b"good"})
    odd = Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9"))
    odd.write_bytes(b"text")
    assert "the file name 'caf\ufffd' is not UTF-8" in str(refused(store, root))
    told: list[LeftOut] = []
    document = store.add(root, errors="replace", now_ns=NOW_NS, on_left_out=told.append)
    assert items(store, document) == [("good", "good")]
    assert told == [LeftOut("caf\ufffd", "its name is not UTF-8")]


def deepen(root: Path) -> None:
    """A folder below `root` whose path no system call takes, a file in it, and one whose own name makes it too long."""
    folder = os.open(root, os.O_RDONLY)
    for depth in range(25):
        name = f"{depth:0200}"
        os.mkdir(name, dir_fd=folder)
        inner = os.open(name, os.O_RDONLY, dir_fd=folder)
        os.close(os.open("f" * 255, os.O_CREAT | os.O_WRONLY, dir_fd=inner))
        os.close(folder)
        folder = inner
    os.close(folder)


def test_a_path_that_is_too_long(store: ContextStore, tmp_path: Path) -> None:
    root = folder_of(tmp_path, {"good": b"good"})
    deepen(root)
    for errors in ("strict", "replace"):
        error = refused(store, root, errors=errors)
        assert error.code == "context.unreadable"
        assert re.search(
            r"the path of '0.{79}'\.\.\. in the folder, \d{4} bytes, is too long.*\(--errors skip\)", str(error)
        )
    told: list[LeftOut] = []
    document = store.add(root, errors="skip", now_ns=NOW_NS, on_left_out=told.append)
    taken = [key for key, _ in items(store, document)]
    assert taken[-1] == "good"
    assert len(taken) > 15
    assert {one.why for one in told} == {"its path is too long"}
    assert {one.path.count("f" * 255) for one in told} == {0, 1}  # the folder, and the last file before it


def test_folders_with_nothing_in_them(store: ContextStore, tmp_path: Path) -> None:
    assert refused(store, folder_of(tmp_path, {".git/x": b"x"})).code == "context.empty"
    only = store.add(folder_of(tmp_path, {"empty": b""}), now_ns=NOW_NS)  # its name is text
    assert items(store, only) == [("empty", "")]


def test_an_unchanged_folder_is_not_read_again(store: ContextStore, tmp_path: Path) -> None:
    root = folder_of(tmp_path, {"a": b"x" * 100_000, "b/c": b"y"})
    shown: list[Sequence[int]] = []
    first = store.add(root, now_ns=later_ns(root), on_progress=lambda *done: shown.append(done))
    assert shown[-1] == (100_001, 100_001)
    shown.clear()
    assert store.add(root, now_ns=later_ns(root), on_progress=lambda *done: shown.append(done)) == first
    assert shown == []
    (root / "b" / "c").write_bytes(b"z")
    changed = store.add(root, now_ns=later_ns(root))
    assert items(store, changed)[1] == ("b/c", "z")
    (root / "a").rename(root / "d")
    assert [key for key, _ in items(store, store.add(root, now_ns=later_ns(root)))] == ["b/c", "d"]


def test_a_file_that_cannot_be_read_names_itself(store: ContextStore, tmp_path: Path) -> None:
    root = folder_of(tmp_path, {"a": b"x", "b": b"y"})
    seen: list[int] = []

    def swap(done: int, total: int) -> None:
        if not seen:
            seen.append(done)
            (root / "b").unlink()
            (root / "b").symlink_to("/etc/hostname")

    error = refused(store, root, on_progress=swap)
    assert error.code == "context.unreadable"
    assert "b' was replaced while the folder was read" in str(error)


def test_keys_are_no_characters_of_the_document(store: ContextStore, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.log").write_text("one\n")
    for source, told in (
        ({"key": "abc", "ö": ["d"]}, "a dict (items: 2, characters in all: 8)"),
        (["abc", 5], "a list (items: 2, characters in all: 4)"),
        (tmp_path / "logs", "a dict (items: 1, characters in all: 4)"),
        ("abc", "a text (characters: 3, lines: 1)"),
    ):
        document = store.add(source, now_ns=NOW_NS)
        assert opening("Q?", {"context": document}).splitlines()[0] == f"`context` is {told}."
