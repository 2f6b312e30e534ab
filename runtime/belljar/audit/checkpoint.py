"""What a host signs of a log: how many records it had, and the root of their tree.

A checkpoint is a text as C2SP's `tlog-checkpoint` says, in a `signed-note`::

    belljar/log/5f0c1d9a7b3e...          the log: its first record
    1000000                              how many records
    kfr1X1A6GgebOPJGTCuCJ8/hdPTj...      the root of their tree, in base64
                                         (an empty line)
    — belljar/key/09ab... a6n/l06c...    the signature of what is above that line, with Ed25519

A key has a name and an id: the id is the beginning of a SHA-256 over the name and the public key. Both are in a line
of text, the *vkey*, which is all that a verifier needs: `NAME+ID+BASE64(0x01 || public key)`. A host's name for its key
is derived from the key, so no two of its keys have the same.

A log is named by its first record, so two logs with different beginnings are never taken for each other.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from typing import Final, Self

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from belljar.audit.canonical import INT_MAX
from belljar.errors import InvalidInput

__all__ = ["NOTE_BYTES_MAX", "Checkpoint", "Note", "Signer", "Verifier", "origin_of"]

NOTE_BYTES_MAX: Final = 16384
_ED25519: Final = b"\x01"
_NOTE: Final = re.compile(
    r"(?P<text>(?P<origin>[^\s+]{1,200})\n(?P<size>0|[1-9][0-9]{0,18})\n(?P<root>[A-Za-z0-9+/]{43}=)\n)"
    r"\n(?P<signatures>(?:— [^\s+]{1,200} [A-Za-z0-9+/]+={0,2}\n){1,16})"
)
_SIGNATURE_BYTES: Final = 4 + 64


def origin_of(first_leaf: bytes) -> str:
    """The name of the log whose first record has this leaf hash."""
    return f"belljar/log/{first_leaf.hex()[:32]}"


class Checkpoint(msgspec.Struct, frozen=True):
    """A log had `size` records, whose tree has this root (32 bytes)."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


class Verifier:
    """A public key. `vkey` is its line of text.

    Raises:
        InvalidInput: `audit.key`: the text is not a vkey of Ed25519.
    """

    def __init__(self, vkey: str) -> None:
        name, _, rest = vkey.strip().partition("+")
        identity, _, encoded = rest.partition("+")
        try:
            key = base64.b64decode(encoded, validate=True)
            if not name or key[:1] != _ED25519 or _key_id(name, key).hex() != identity:
                raise ValueError
            self._key = Ed25519PublicKey.from_public_bytes(key[1:])
        except ValueError:
            raise InvalidInput(
                f"{vkey[:80]!a} is not a public key; write the line that `belljar audit checkpoint` shows as its key",
                code="audit.key",
            ) from None
        self.vkey = vkey.strip()
        self.name = name
        self.id = bytes.fromhex(identity)

    def is_by(self, text: str, signature: bytes) -> bool:
        """Whether this key signed the text; `signature` has 64 bytes."""
        try:
            self._key.verify(signature, text.encode())
        except InvalidSignature:
            return False
        return True

    def signed(self, text: str, signature: str) -> bool:
        """As `is_by`, with a signature in base64, which may be anything."""
        try:
            return self.is_by(text, base64.b64decode(signature, validate=True))
        except ValueError:
            return False


class Signer:
    """A private key, from the 32 bytes that it is derived from."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        public = _ED25519 + self._key.public_key().public_bytes_raw()
        name = f"belljar/key/{hashlib.sha256(public).hexdigest()[:16]}"
        self.verifier = Verifier(f"{name}+{_key_id(name, public).hex()}+{base64.b64encode(public).decode()}")

    def sign(self, text: str) -> bytes:
        """The signature of a text: 64 bytes."""
        return self._key.sign(text.encode())

    def note(self, checkpoint: Checkpoint) -> str:
        """The checkpoint with its signature."""
        signature = base64.b64encode(self.verifier.id + self.sign(checkpoint.text)).decode()
        return f"{checkpoint.text}\n— {self.verifier.name} {signature}\n"


class Note(msgspec.Struct, frozen=True):
    """A checkpoint and its signatures: of each, the name and the id of its key, and 64 bytes."""

    checkpoint: Checkpoint
    signatures: tuple[tuple[str, bytes, bytes], ...]

    @classmethod
    def read(cls, text: str) -> Self:
        """Raises ValueError if it is anything but a signed checkpoint, to the byte."""
        match = _NOTE.fullmatch(text) if len(text) <= NOTE_BYTES_MAX else None
        if match is None or int(match["size"]) > INT_MAX:
            raise ValueError("it is not a signed checkpoint")
        try:
            root = base64.b64decode(match["root"], validate=True)
            signatures = tuple(_signature(line) for line in match["signatures"].splitlines())
        except binascii.Error:
            raise ValueError("it is not a signed checkpoint") from None
        return cls(Checkpoint(match["origin"], int(match["size"]), root), signatures)

    def signer(self, known: Iterable[Verifier]) -> Verifier | None:
        """The first of the known keys that signed it; None if none did.

        Raises:
            ValueError: one of them is said to have signed it, and did not.
        """
        for key in known:
            for name, identity, signature in self.signatures:
                if (name, identity) == (key.name, key.id):
                    if not key.is_by(self.checkpoint.text, signature):
                        raise ValueError(f"its signature is not by {key.name}, as it says")
                    return key
        return None


def _signature(line: str) -> tuple[str, bytes, bytes]:
    _, name, encoded = line.split(" ")
    found = base64.b64decode(encoded, validate=True)
    if len(found) != _SIGNATURE_BYTES or base64.b64encode(found).decode() != encoded:
        raise ValueError("it is not a signed checkpoint")
    return name, found[:4], found[4:]


def _key_id(name: str, public: bytes) -> bytes:
    """Of a public key with its type in front."""
    return hashlib.sha256(name.encode() + b"\n" + public).digest()[:4]
