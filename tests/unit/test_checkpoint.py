"""Signed checkpoints, in the bytes that other implementations read and write."""

from __future__ import annotations

import base64

import pytest

from belljar.audit.checkpoint import Checkpoint, Note, Signer, Verifier
from belljar.errors import InvalidInput

# By another implementation, which had the seed 00..1f and the tree of b"0" to b"999999".
THEIRS = (
    "belljar.example/log1\n1000000\nkfr1X1A6GgebOPJGTCuCJ8/hdPTjMyb76uZ1kM/DxhI=\n\n"
    "— belljar.example/log1 "
    "a6n/l06cGVM9yOBsffhUuOKiQasw0YVTfsWDK3tPq0L46JgeLBZb8Ne7bKUszu5MtkrHn4WWIKaKgo7VnYS2fKPhFwY=\n"
)
THEIR_KEY = "belljar.example/log1+6ba9ff97+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"


def test_a_note_by_another_implementation_is_read_and_verified() -> None:
    note = Note.read(THEIRS)
    assert (note.checkpoint.origin, note.checkpoint.size) == ("belljar.example/log1", 10**6)
    key = Verifier(THEIR_KEY)
    assert note.signer([key]) is key
    assert note.signer([Signer(bytes(32)).verifier]) is None


def test_a_note_is_read_as_it_was_written() -> None:
    signer = Signer(bytes(range(32)))
    checkpoint = Checkpoint("belljar/log/00", 7, bytes(32))
    note = Note.read(signer.note(checkpoint))
    assert note.checkpoint == checkpoint
    assert note.signer([Signer(bytes(32)).verifier, signer.verifier]) is signer.verifier
    assert Verifier(signer.verifier.vkey).id == signer.verifier.id
    assert Verifier(THEIR_KEY).vkey.endswith(signer.verifier.vkey[-44:]), "the same key under another name"


@pytest.mark.parametrize(
    ("find", "replace"),
    [
        ("\n\n", "\n"),
        ("fKPhFwY=\n", "fKPhFwY=\n\n"),
        ("fKPhFwY=\n", "fKPhFwY="),
        ("— ", "- "),
        ("\n1000000\n", "\n01000000\n"),
        ("\n1000000\n", "\n-1\n"),
        ("\n1000000\n", "\n9999999999999999999\n"),
        ("kfr1X1A6", "kfr1X1A"),
        ("belljar.example/log1\n", "bell jar\n"),
        ("fKPhFwY=", "fKPhFwZ="),
        ("a6n/l06c", ""),
        ("belljar.example/log1\n", "belljar.example/log1\r\n"),
    ],
)
def test_what_is_not_such_a_note_to_the_byte_is_refused(find: str, replace: str) -> None:
    assert find in THEIRS
    with pytest.raises(ValueError, match="not a signed checkpoint"):
        Note.read(THEIRS.replace(find, replace, 1))


def test_a_signature_of_something_else_is_found() -> None:
    key = Verifier(THEIR_KEY)
    with pytest.raises(ValueError, match=r"its signature is not by belljar\.example/log1"):
        Note.read(THEIRS.replace("\n1000000\n", "\n1000001\n")).signer([key])


@pytest.mark.parametrize(
    "vkey",
    ["", "a", "a+b", THEIR_KEY[:-1], THEIR_KEY.replace("6ba9", "6ba8"), THEIR_KEY.replace("log1", "log2"), "x+1+Zm9v"],
)
def test_what_is_no_public_key_is_refused(vkey: str) -> None:
    with pytest.raises(InvalidInput, match="is not a public key"):
        Verifier(vkey)


def test_keys_have_names_of_their_own() -> None:
    names = {Signer(bytes([number]) * 32).verifier.name for number in range(3)}
    assert len(names) == 3
    assert base64.b64decode(THEIR_KEY.split("+", 2)[2])[:1] == b"\x01"
