"""Files of any encoding come in as their text, and what does not decode is named by its byte."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from belljar.context import ContextStore
from belljar.context.encodings import chosen, decoded
from belljar.context.tally import BLOCK_BYTES
from belljar.errors import InvalidInput
from tests.examples import examples

NOW_NS = 1_800_000_000_000_000_000
WIDE = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
TEXT = "Zwölf Boxkämpfer jagen Viktor, 12 €\r\n"


@pytest.fixture
def store(tmp_path: Path) -> ContextStore:
    return ContextStore(tmp_path / "store")


def file_of(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "in.txt"
    path.write_bytes(content)
    return path


def taken(store: ContextStore, tmp_path: Path, content: bytes, **more: Any) -> str:
    document = store.add(file_of(tmp_path, content), now_ns=NOW_NS, **more)
    with store.open(document.sha256) as opened:
        return bytes(opened.view).decode()


def refused(store: ContextStore, tmp_path: Path, content: bytes, **more: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        store.add(file_of(tmp_path, content), now_ns=NOW_NS, **more)
    assert "\n" not in str(caught.value)
    assert store.ls() == []
    return caught.value


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-8"])
def test_a_byte_order_mark_tells_the_encoding(store: ContextStore, tmp_path: Path, codec: str) -> None:
    text = (TEXT + "😀") * 9000
    assert taken(store, tmp_path, ("\ufeff" + text).encode(codec)) == text


@pytest.mark.parametrize(
    "codec",
    [*WIDE, "UTF8", "utf-8-sig", "cp1252", "iso8859-15", "cp858", "iso2022_jp", "shift_jis", "gb18030", "big5", "hz"],
)
def test_a_declared_encoding(store: ContextStore, tmp_path: Path, codec: str) -> None:
    text = TEXT if "漢字".encode(codec, "ignore").decode(codec, "ignore") != "漢字" else "長い文章、漢字。\n"
    if codec in {"big5", "hz"}:
        text = "一二三\n"
    text *= 9000
    assert taken(store, tmp_path, text.encode(codec), encoding=codec) == text


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-8", "utf-32"])
def test_a_mark_at_the_start_of_a_declared_encoding_is_no_text(store: ContextStore, tmp_path: Path, codec: str) -> None:
    plain = codec if codec in {"utf-16-be", "utf-8"} else f"{codec.removesuffix('-le')}-le"
    assert taken(store, tmp_path, "\ufefftext\ufeff".encode(plain), encoding=codec) == "text\ufeff"


def test_what_is_declared_goes_before_a_mark(store: ContextStore, tmp_path: Path) -> None:
    assert taken(store, tmp_path, codecs.BOM_UTF16_LE + b"ab", encoding="latin-1") == "ÿþab"
    error = refused(ContextStore(tmp_path / "other"), tmp_path, codecs.BOM_UTF16_LE + b"ab", encoding="utf-8")
    assert "is not UTF-8, at byte 0 (0xff)" in str(error)


@pytest.mark.parametrize(
    "name",
    [
        *("nothing", "", "a\0b", "ü", "x" * 500, "base64", "zip", "rot13", "hex", "uu", "bz2"),
        *("idna", "punycode", "undefined", "utf-7", "unicode_escape", "raw_unicode_escape"),
    ],
)
def test_what_is_no_encoding(store: ContextStore, tmp_path: Path, name: str) -> None:
    error = refused(store, tmp_path, b"text", encoding=name)
    assert error.code == "context.encoding"
    assert "is not an encoding that Belljar reads" in str(error)


@pytest.mark.parametrize(
    ("codec", "content", "offset"),
    [
        ("ascii", b"abc\x80", 3),
        ("cp1252", b"x" * BLOCK_BYTES + b"\x81", BLOCK_BYTES),
        ("utf-16-le", b"a\0" * BLOCK_BYTES + b"\x00\xd8a\0", 2 * BLOCK_BYTES),
        ("utf-16", codecs.BOM_UTF16_BE + b"\0a" * BLOCK_BYTES + b"\xdc\x00\0a", 2 + 2 * BLOCK_BYTES),
        ("utf-16-le", b"a\0b", 2),
        ("utf-32-le", b"a\0\0\0" * BLOCK_BYTES + b"\xff\xff\xff\xff", 4 * BLOCK_BYTES),
        ("shift_jis", b"x" * (BLOCK_BYTES - 1) + b"\x83\xff", BLOCK_BYTES - 1),
        ("gb18030", b"x" * (BLOCK_BYTES - 2) + b"\x81\x30\x81", BLOCK_BYTES - 2),
        ("utf-8", b"\xef\xbb\xbf" + b"x" * BLOCK_BYTES + b"\xff", 3 + BLOCK_BYTES),
    ],
)
def test_what_does_not_decode_is_named_by_its_byte(
    store: ContextStore, tmp_path: Path, codec: str, content: bytes, offset: int
) -> None:
    error = refused(store, tmp_path, content, encoding=codec)
    assert error.code == "context.encoding"
    assert f", at byte {offset} (0x{content[offset]:02x});" in str(error)
    assert "--encoding" in str(error)
    assert "--errors replace" in str(error)


@settings(max_examples=examples(200), deadline=None)
@given(st.sampled_from(["utf-8", "utf-16-le", "utf-32-be", "shift_jis", "gb18030", "cp1252"]), st.data())
def test_the_byte_does_not_depend_on_where_a_source_is_cut(codec: str, data: st.DataObject) -> None:
    source = data.draw(st.binary(min_size=1, max_size=40)).replace(b"\0", b"\x81")
    cuts = sorted(data.draw(st.lists(st.integers(1, len(source)), max_size=5)))
    pieces = [source[a:b] for a, b in zip([0, *cuts], [*cuts, len(source)], strict=True) if a < b]

    def outcome(blocks: list[bytes]) -> str:
        try:
            return "".join(decoded(blocks, chosen(codec, b""), "it", "strict"))
        except InvalidInput as error:
            return f"refused: {error}"

    assert outcome(pieces) == outcome([source])
    assert plain(source, codec) in outcome([source])


def plain(source: bytes, codec: str) -> str:
    """What Python says of it in one go."""
    try:
        return source.decode(codec)
    except UnicodeDecodeError as error:
        return f", at byte {error.start} "


def test_bad_bytes_can_be_replaced(store: ContextStore, tmp_path: Path) -> None:
    content = b"caf\xe9 " * 50_000 + b"\xe2\x82"
    assert taken(store, tmp_path, content, errors="replace") == content.decode("utf-8", "replace")
    assert taken(store, tmp_path, b"a\0b", encoding="utf-16-le", errors="replace") == "a\ufffd"
    assert taken(store, tmp_path, b"a\0b", errors="replace") == "a\ufffdb"
    assert taken(store, tmp_path, "x\0y".encode("utf-16-le"), encoding="utf-16-le", errors="replace") == "x\ufffdy"


def test_a_single_file_is_not_left_out(store: ContextStore, tmp_path: Path) -> None:
    assert "is not UTF-8, at byte 3" in str(refused(store, tmp_path, b"caf\xe9", errors="skip"))
    assert taken(store, tmp_path, b"good", errors="skip") == "good"


def test_the_encoding_that_was_tried_is_not_advised(store: ContextStore, tmp_path: Path) -> None:
    assert "--encoding windows-1252" in str(refused(store, tmp_path, b"caf\xe9"))
    tried = str(refused(store, tmp_path, b"caf\x81", encoding="windows-1252"))
    assert "--encoding iso-8859-1" in tried
    assert "--encoding windows-1252" not in tried


def test_utf_16_without_a_mark_is_told_from_a_binary(store: ContextStore, tmp_path: Path) -> None:
    error = refused(store, tmp_path, "text".encode("utf-16-le"))
    assert error.code == "context.binary"
    assert "if it is UTF-16 without a byte order mark, declare that" in str(error)


def test_the_same_file_read_in_another_way_is_read_again(store: ContextStore, tmp_path: Path) -> None:
    path = file_of(tmp_path, "€".encode())
    later = path.stat().st_ctime_ns + 10**10
    one = store.add(path, now_ns=later)
    other = store.add(path, now_ns=later, encoding="latin-1")
    assert (one.chars, other.chars) == (1, 3)
    assert store.add(path, now_ns=later).sha256 == one.sha256
