"""Contents: named, encrypted, in parts; and what a run keeps of them."""

from __future__ import annotations

import asyncio
import hmac
import os
import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from belljar.audit.content import DICTIONARY_BYTES_MIN, HOST_KEY, PART_BYTES, Dictionary, RunKey, _Mac, open_contents
from belljar.audit.events import CellStarted
from belljar.broker.keeping import SECRET_MARK, Keeper, Kept
from belljar.errors import ContentErased, ContentLocked, ContentMissing, VerificationFailed
from belljar.identity import RunId
from belljar.journal.tables import ContentRow
from belljar.keys import Keys
from belljar.models import Message, ModelRequest
from belljar.policy import Audit
from tests.journals import OwnLog

RUN = RunId("r1")
KEY = RunKey("r1", bytes(32))
EVERYTHING = Audit(
    contents=("code", "output", "prompts", "replies", "reads"),
    keep_days=30,
    item_bytes_max=2**20,
    run_bytes_max=2**20,
)


def bodies(rows: Sequence[ContentRow]) -> list[bytes]:
    assert [row.part for row in rows] == list(range(len(rows)))
    return [row.body for row in rows]


def unsealed(name: str, parts: list[bytes], key: RunKey = KEY) -> bytes:
    return key.unsealed(name, parts).data


# -- one content -------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=500))
def test_what_is_sealed_opens_again(data: bytes) -> None:
    name, rows = KEY.sealed(data)
    assert (unsealed(name, bodies(rows)), len(rows)) == (data, 1)


@pytest.mark.parametrize("size", [PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES])
def test_a_large_one_has_as_many_parts_as_it_needs(size: int) -> None:
    data = os.urandom(size)
    name, rows = KEY.sealed(data)
    assert len(rows) == -(-size // PART_BYTES)
    assert unsealed(name, bodies(rows)) == data


def test_text_is_compressed_and_nothing_of_it_is_seen() -> None:
    data = b"the quick brown fox " * 1000
    _, (row,) = KEY.sealed(data)
    assert len(row.body) < len(data) / 20
    assert b"quick" not in row.body


@pytest.mark.parametrize(
    ("name", "body", "data"),
    [
        (
            "08adc90dc86bba3ad7515addf6e41e3a10a2975902e8afd10bef54a173ae7a4e",
            "010173616c7473616c74000000000000000000000000000003e836692dcbfbffd5d9e6eec0afa9b3bc62144f66e5b9c92827bab5dd10"
            "d3552bf7041f2c07eaa6d0d7f34358af92192c0325f5c5ebbadae0b74decd7",
            b"what the program printed\n" * 40,
        ),
        (
            "ef50fa5706aea25d6055b6c584e82d2de7051e53f986f327b7031ddb55774cbf",
            "010073616c7473616c74000000000000000100000000000000039b7902f919a9306d9391117d7e16d2c8e8010c",
            b"yes",
        ),
    ],
)
def test_a_content_of_version_1_still_opens(name: str, body: str, data: bytes) -> None:
    """As the code of journals of format 5 made them: compressed by zlib, or not at all."""
    assert unsealed(name, [bytes.fromhex(body)], RunKey("r1", b"k" * 32)) == data


@pytest.mark.parametrize(("version", "flags"), [(1, 4), (1, 8), (2, 1), (2, 16), (0, 0), (3, 0)])
def test_what_a_version_does_not_have_is_refused(version: int, flags: int) -> None:
    name, (row,) = KEY.sealed(b"yes")
    with pytest.raises(VerificationFailed):
        unsealed(name, [bytes([version, flags]) + row.body[2:]])


# -- one against another -----------------------------------------------------------------------------------------------


def alike(number: int) -> bytes:
    """Texts that have all but a few bytes in common, which by themselves no one can shorten."""
    return random.Random(1).randbytes(8000) + str(number).encode()


def test_a_content_is_compressed_against_another_and_opens_with_it() -> None:
    first, second = alike(1), alike(2)
    name, _ = KEY.sealed(first)
    dictionary = Dictionary(name, first)
    other, (row,) = KEY.sealed(second, against=dictionary)
    assert len(row.body) < 200
    asked = []

    def get(wanted: str) -> Dictionary:
        asked.append(wanted)
        return dictionary

    assert KEY.unsealed(other, [row.body], get).data == second
    assert asked == [name]


def test_a_content_does_not_open_with_another_dictionary_or_none() -> None:
    name, _ = KEY.sealed(alike(1))
    other, (row,) = KEY.sealed(alike(2), against=Dictionary(name, alike(1)))
    with pytest.raises(VerificationFailed):
        KEY.unsealed(other, [row.body], lambda _: Dictionary(name, alike(1)[::-1]))
    with pytest.raises(VerificationFailed):
        KEY.unsealed(other, [row.body])
    moved = row.body[:26] + bytes(32) + row.body[58:]  # the name of its dictionary is sealed, too
    with pytest.raises(VerificationFailed):
        KEY.unsealed(other, [moved], lambda _: Dictionary(name, alike(1)))


def test_neither_a_dictionary_nor_a_content_of_several_parts_has_one() -> None:
    """The same content may be stored again: with a dictionary it would be in fewer rows, or need itself."""
    name, _ = KEY.sealed(alike(1))
    dictionary = Dictionary(name, alike(1))
    long = os.urandom(PART_BYTES) + alike(1)
    for data in (alike(1), long):
        again, rows = KEY.sealed(data, against=dictionary)
        assert unsealed(again, bodies(rows)) == data


@given(st.binary(min_size=1, max_size=64), st.binary(max_size=300))
def test_names_and_keys_are_made_by_hmac(key: bytes, data: bytes) -> None:
    assert _Mac(key)(data) == hmac.digest(key, data, "sha256")


def test_two_objects_of_one_key_never_use_the_same_salt() -> None:
    keys = [RunKey("r1", bytes(32)) for _ in range(2)]
    salts = {bodies(key.sealed(b"same")[1])[0][2:18] for key in keys for _ in range(100)}
    assert len(salts) == 200


def test_equal_contents_have_one_name_in_a_run_and_two_in_two() -> None:
    name, (first,) = KEY.sealed(b"same")
    again, (second,) = KEY.sealed(b"same")
    assert (name, first.digest) == (again, bytes.fromhex(name))
    assert first.body != second.body  # each has a key of its own, so that no nonce is used twice
    assert RunKey.make("r1").sealed(b"same")[0] != name


@pytest.mark.parametrize("at", [0, 1, 2, 17, 18, 25, 26, 40, -1])
def test_a_changed_byte_is_found(at: int) -> None:
    name, (row,) = KEY.sealed(b"what the program printed")
    body = bytearray(row.body)
    body[at] ^= 1
    with pytest.raises(VerificationFailed, match=f"the content {name} of r1 is not what was stored"):
        unsealed(name, [bytes(body)])


def test_parts_that_are_missing_or_elsewhere_are_found() -> None:
    data = os.urandom(3 * PART_BYTES)
    name, rows = KEY.sealed(data)
    one, two, three = bodies(rows)
    other = bodies(KEY.sealed(data)[1])
    for wrong in ([one, two], [two, three], [one, three], [one, three, two], [one, two, three, three], [one, two, b""]):
        with pytest.raises(VerificationFailed):
            unsealed(name, wrong)
    with pytest.raises(VerificationFailed):  # the same content, sealed another time
        unsealed(name, [one, other[1], three])


def test_a_content_without_its_end_does_not_open_whatever_length_it_has() -> None:
    """The cipher refuses it: length and name, which would do so, too, are looked at afterwards."""
    name, rows = KEY.sealed(os.urandom(3 * PART_BYTES))
    with pytest.raises(VerificationFailed) as refused:
        unsealed(name, bodies(rows)[:2])
    assert isinstance(refused.value.__context__, InvalidTag)


def test_a_content_opens_only_under_its_own_name_and_run() -> None:
    name, rows = KEY.sealed(b"yes")
    other, _ = KEY.sealed(b"no")
    for key, called in ((KEY, other), (RunKey("r2", bytes(32)), name)):
        with pytest.raises(VerificationFailed):
            unsealed(called, bodies(rows), key)


def test_a_key_opens_only_in_the_row_of_its_run_and_with_its_host_s_key() -> None:
    row = KEY.row(b"h" * 32, 0)
    assert row.wrapped is not None
    name, rows = KEY.sealed(b"yes")
    assert unsealed(name, bodies(rows), RunKey.opened("r1", row.wrapped, b"h" * 32)) == b"yes"
    for run, host in (("r2", b"h" * 32), ("r1", b"i" * 32)):
        with pytest.raises(VerificationFailed, match=f"the key of {run}'s contents is not what was stored"):
            RunKey.opened(run, row.wrapped, host)


@pytest.mark.parametrize("wrapped", ["text", 7, b"", b"short"])
def test_what_is_no_key_does_not_open(wrapped: Any) -> None:
    with pytest.raises(VerificationFailed, match="the key of r1's contents is not what was stored"):
        RunKey.opened("r1", wrapped, b"h" * 32)


# -- in a journal ------------------------------------------------------------------------------------------------------


def stored(folder: Path, keeper: Keeper, *kept: Kept) -> Path:
    """A log with a record for each of these, and the run's key."""

    async def main() -> None:
        log = OwnLog(folder / "audit.db")
        key: object = keeper.begun(Keys(folder / "keys").secret(HOST_KEY), 1000)
        for number, one in enumerate(kept, 1):
            cell = CellStarted(cell=number, code_sha256="0" * 64, code_bytes=1, content=one.name)
            await log.append(RUN, cell, beside=one.job)
            one.stored()
        await log.journal.submit(key)  # type: ignore[arg-type]
        await log.aclose()

    asyncio.run(main())
    return folder / "audit.db"


def change(log: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(log)) as db, db:
        db.execute(statement, values)


def test_what_was_kept_is_read_by_its_name(tmp_path: Path) -> None:
    keeper = Keeper(RUN, EVERYTHING)
    code, output = keeper.keep("code", b"print(1)"), keeper.output(b"1\n\xff", b'"', "Traceback\n")
    log = stored(tmp_path, keeper, code, output)
    with open_contents(log, Keys(tmp_path / "keys")) as contents:
        assert contents.text(RUN, code.name) == "print(1)"
        printed = contents.output(RUN, output.name)
    assert (printed.stdout, printed.stderr, printed.traceback) == ("1\n\ufffd", '"', "Traceback\n")


@pytest.mark.parametrize("name", [None, "too-long", "run-full", "gathered", "0" * 63])
def test_what_was_not_kept_says_why(name: str | None, tmp_path: Path) -> None:
    log = stored(tmp_path, Keeper(RUN, EVERYTHING))
    with open_contents(log, Keys(tmp_path / "keys")) as contents, pytest.raises(ContentMissing, match="nothing of it"):
        contents.get(RUN, name)


def test_contents_without_their_host_s_key_are_locked(tmp_path: Path) -> None:
    keeper = Keeper(RUN, EVERYTHING)
    kept = keeper.keep("code", b"print(1)")
    log = stored(tmp_path, keeper, kept)
    Keys(tmp_path / "others").secret(HOST_KEY)
    for folder in ("others", "none"):
        with (
            open_contents(log, Keys(tmp_path / folder)) as contents,
            pytest.raises(ContentLocked, match="another host"),
        ):
            contents.get(RUN, kept.name)


@pytest.mark.parametrize("gone", ["erased", "age", "size"])
def test_what_was_erased_says_so(gone: str, tmp_path: Path) -> None:
    keeper = Keeper(RUN, EVERYTHING)
    kept = keeper.keep("code", b"print(1)")
    log = stored(tmp_path, keeper, kept)
    change(log, "UPDATE content_keys SET wrapped = NULL, gone = ?", gone)
    with open_contents(log, Keys(tmp_path / "keys")) as contents, pytest.raises(ContentErased, match="are gone: they"):
        contents.get(RUN, kept.name)


def test_a_body_that_nobody_erased_and_that_is_gone_is_found(tmp_path: Path) -> None:
    keeper = Keeper(RUN, EVERYTHING)
    kept = keeper.keep("code", b"print(1)")
    log = stored(tmp_path, keeper, kept)
    change(log, "DELETE FROM contents")
    with open_contents(log, Keys(tmp_path / "keys")) as contents, pytest.raises(VerificationFailed, match="is gone"):
        contents.get(RUN, kept.name)


# -- what a run keeps --------------------------------------------------------------------------------------------------


def request(purpose: str, *texts: str) -> ModelRequest:
    roles = ["user" if place % 2 == 0 else "assistant" for place in range(len(texts))]
    messages = tuple(Message(role, text) for role, text in zip(roles, texts, strict=True))  # type: ignore[arg-type]
    return ModelRequest("instructions", messages, 10, 1.0, purpose)  # type: ignore[arg-type]


def rows_of(kept: Kept) -> int:
    return len(kept._rows)


def test_only_the_kinds_that_the_policy_names_are_kept() -> None:
    some = Audit(contents=("code",), keep_days=1, item_bytes_max=100, run_bytes_max=100)
    keeper = Keeper(RUN, some)
    kept = [
        keeper.keep("code", b"x"),
        keeper.output(b"x", b"", ""),
        keeper.answer(b"x", "text"),
        keeper.prompt(request("sub", "x")),
        keeper.text("replies", "x"),
        keeper.keep("reads", b"x"),
    ]
    assert [one.name is not None for one in kept] == [True, False, False, False, False, False]
    assert [one.job is not None for one in kept] == [True, False, False, False, False, False]


def test_what_is_too_long_or_too_much_is_left_out_and_said_so() -> None:
    few = Audit(contents=EVERYTHING.contents, keep_days=1, item_bytes_max=100, run_bytes_max=150)
    keeper = Keeper(RUN, few)
    assert keeper.keep("code", b"x" * 101).name == "too-long"
    first, second = keeper.keep("code", b"x" * 100), keeper.keep("code", b"y" * 51)
    assert (rows_of(first), second.name, second.job) == (1, "run-full", None)
    assert rows_of(keeper.keep("code", b"z" * 50)) == 1
    assert keeper.prompt(request("root", "u" * 60)).name == "run-full"
    assert Keeper(RUN, few).prompt(request("sub", "u" * 101)).name == "too-long"


def test_a_conversation_is_written_once_however_often_it_is_sent(tmp_path: Path) -> None:
    keeper = Keeper(RUN, EVERYTHING)
    first = keeper.prompt(request("root", "question"))
    assert rows_of(first) == 3  # the instructions, the question, and the prompt itself
    assert rows_of(keeper.prompt(request("root", "question"))) == 3  # the first may have failed
    first_job = first.job
    first.stored()
    assert first.job is None
    second = keeper.prompt(request("root", "question", "code", "output"))
    assert rows_of(second) == 3  # what is new, and the prompt itself
    assert first_job is not None

    async def main() -> None:
        log = OwnLog(tmp_path / "audit.db")
        begun = keeper.begun(Keys(tmp_path / "keys").secret(HOST_KEY), 0)
        for job in (begun, first_job, second.job):
            assert job is not None
            await log.journal.submit(job)
        await log.aclose()

    asyncio.run(main())
    with open_contents(tmp_path / "audit.db", Keys(tmp_path / "keys")) as contents:
        prompt = contents.prompt(RUN, second.name)
    assert prompt.system == "instructions"
    said = [(message.role, message.text) for message in prompt.messages]
    assert said == [("user", "question"), ("assistant", "code"), ("user", "output")]


def test_a_program_s_prompt_is_one_row_after_the_first(tmp_path: Path) -> None:
    keeper = Keeper(RUN, EVERYTHING)
    first = keeper.prompt(request("sub", "a piece"))
    first.stored()
    assert rows_of(keeper.prompt(request("sub", "another piece"))) == 1


def test_prompts_that_are_alike_take_next_to_no_room_once_the_first_is_durable(tmp_path: Path) -> None:
    keeper = Keeper(RUN, EVERYTHING, secrets=["a secret of ours"])
    texts = [f"a secret of ours {alike(number).hex()}" for number in range(5)]

    def prompt(number: int, purpose: str = "sub") -> Kept:
        return keeper.prompt(request(purpose, texts[number]))

    def size(kept: Kept) -> int:
        return sum(len(row.body) for row in kept._rows)

    short = keeper.prompt(request("sub", "x" * (DICTIONARY_BYTES_MIN // 2)))
    first, second = prompt(0), prompt(1)
    sizes = [size(first), size(second)]
    log = stored(tmp_path, keeper, short)  # it is too short to be worth it
    third = prompt(2)
    sizes.append(size(third))
    stored(tmp_path, keeper, first, third, second)
    fourth, root = prompt(3), prompt(4, "root")
    assert min(*sizes, size(root)) > 8000  # nothing was durable yet, and a conversation has its own way
    assert size(fourth) < 300
    stored(tmp_path, keeper, fourth, prompt(0))
    with open_contents(log, Keys(tmp_path / "keys")) as contents:
        for number, kept in enumerate((first, second, third, fourth)):
            told = contents.prompt(RUN, kept.name).messages[0].text
            assert told == texts[number].replace("a secret of ours", SECRET_MARK.decode())


def test_a_dictionary_that_is_gone_is_found(tmp_path: Path) -> None:
    keeper = Keeper(RUN, EVERYTHING)
    first = keeper.prompt(request("sub", alike(1).hex()))
    log = stored(tmp_path, keeper, first)
    second = keeper.prompt(request("sub", alike(2).hex()))
    stored(tmp_path, keeper, second)
    change(log, "DELETE FROM contents WHERE digest = ?", bytes.fromhex(first.name or ""))
    with (
        open_contents(log, Keys(tmp_path / "keys")) as contents,
        pytest.raises(VerificationFailed, match=f"{first.name} of {RUN} is gone"),
    ):
        contents.get(RUN, second.name)


@pytest.mark.parametrize("secret", ["sk-ant-0123456789", "päss-wörter", 'say "please"'])
def test_no_secret_is_kept(secret: str, tmp_path: Path) -> None:
    keeper = Keeper(RUN, EVERYTHING, secrets=[secret, "short", secret[:-1]])
    said = f"my key is {secret}, and short"
    code, prompt = keeper.text("code", said), keeper.prompt(request("sub", said))
    root, output = keeper.prompt(request("root", said)), keeper.output(said.encode(), b"", said)
    log = stored(tmp_path, keeper, code, prompt, root, output)
    mark = SECRET_MARK.decode()
    with open_contents(log, Keys(tmp_path / "keys")) as contents:
        assert contents.read(RUN, code.name) == (f"my key is {mark}, and short".encode(), True)
        told = [
            contents.prompt(RUN, prompt.name).messages[0].text,
            contents.prompt(RUN, root.name).messages[0].text,
            contents.output(RUN, output.name).stdout,
            contents.output(RUN, output.name).traceback,
        ]
    assert told == [f"my key is {mark}, and short"] * 4


def test_an_answer_is_kept_as_json(tmp_path: Path) -> None:
    keeper = Keeper(RUN, EVERYTHING)
    text, value = keeper.answer('say "ä"'.encode(), "text"), keeper.answer(b"[1, 2]", "json")
    log = stored(tmp_path, keeper, text, value)
    with open_contents(log, Keys(tmp_path / "keys")) as contents:
        assert contents.text(RUN, text.name) == '"say \\"ä\\""'
        assert contents.get(RUN, value.name) == b"[1, 2]"
