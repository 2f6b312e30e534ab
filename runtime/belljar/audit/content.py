"""What was said: code, output, prompts and replies, encrypted, beside the records that name them.

Theory of operation. A record has digests and lengths. Where the policy keeps contents, it also names a *content*, and
the bytes of that are in the journal: written in the transaction of the record, so there is never one without the other,
and nothing is sent whose content could not be stored.

Keys. Each run has a key, 32 random bytes::

    host key (a file apart, `belljar.keys`)
      └─ HMAC(host key, "wrap", run)  wraps  the run's key (AES-KW, RFC 3394)      row of `content_keys`
           ├─ HMAC(run's key, "digest")      the key of the digests that records name
           └─ HMAC(run's key, "blob", salt)  the key of one content

The journal alone opens nothing, nor does the host key alone. A wrapped key that is moved to the row of another run does
not open. To erase a run is to destroy its wrapped key: all copies of the bodies are noise from then on.

Names. A content is named by the HMAC-SHA256 of its bytes under the run's digest key, in hex. So equal contents of a run
are stored once, and nobody without the key can find out whether a name is that of a text that he guesses; for that
reason, too, equal contents of two runs have two names.

The blob. The bytes are compressed (Zstandard; zlib in version 1) where that makes them shorter, and then encrypted, in
parts of `PART_BYTES`, each with AES-256-GCM and each a row of its own (`contents`)::

    part 0:    header: version (1) flags (1) salt (16) size (8), then, if it has one, the digest (32) of its dictionary;
               then a part
    others:    a part                                     a part: at most PART_BYTES of ciphertext, and a tag of 16

Of many prompts of a run each is much like the others, so one may be compressed against another (`Dictionary`): what
they have in common takes next to no room. A dictionary has none itself, so no content needs more than one other to be
read; and it is of the same run, so both are erased together.

    nonce      11 bytes number of the part, 1 byte: is it the last?
    associated header, digest, run

The key is made for this blob from its salt, 8 random bytes of the writer and a number, so that a counter can be its
nonce: no key meets a nonce twice, also not after a restart. A part that is missing, out of order, cut off or of another
blob, run or journal does not open; and what opened is held against the name once more.

A prompt repeats: the root model is sent the whole conversation each turn, and each query of a program has the same
instructions. So a prompt is a small JSON object whose texts are contents of their own where they may come again::

    {"system": {"at": "<name>"}, "messages": [{"role": "user", "text": {"text": "..."}}]}

Output is JSON, too: `{"stdout": "...", "stderr": "...", "traceback": "..."}`, and with `"clock": "..."` where the cell
has read a clock, so that a replay can be given the same time. Everything else is itself.

What was not kept has, in place of a name, a word that says why (`LEFT_OUT`).
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, Final, Literal, NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from belljar.audit.source import UNREADABLE, Log, Source, open_source
from belljar.errors import AuditUnavailable, ContentErased, ContentLocked, ContentMissing, VerificationFailed
from belljar.journal.tables import ContentKeyRow, ContentRow
from belljar.keys import Keys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = [
    "DICTIONARY_BYTES_MIN",
    "HOST_KEY",
    "LEFT_OUT",
    "PART_BYTES",
    "Content",
    "Contents",
    "Dictionary",
    "Output",
    "Prompt",
    "PromptMessage",
    "RunKey",
    "Said",
    "host_key_id",
    "open_contents",
    "prompt_content",
]

HOST_KEY: Final = "contents.key"
PART_BYTES: Final = 256 * 1024
# What stands in place of a name, and why.
LEFT_OUT: Final[Mapping[str, str]] = {
    "too-long": "it is longer than the policy keeps of one content (audit.item)",
    "run-full": "what is kept of the run had reached the policy's limit (audit.run)",
    "gathered": "it is one of very many small reads, which are logged together",
}

_KEY_BYTES: Final = 32
_VERSION: Final = 2
_DEFLATED: Final = 1  # in version 1 alone
_REDACTED: Final = 2
_COMPRESSED: Final = 4
_AGAINST: Final = 8
_FLAGS: Final = {1: _DEFLATED | _REDACTED, 2: _REDACTED | _COMPRESSED | _AGAINST}
_HEADER_BYTES: Final = 26
_SALT: Final = slice(2, 18)
_SIZE: Final = slice(18, 26)
_DIGEST_BYTES: Final = 32
# Text takes less room than after zlib's usual work, in a sixth of the time; each level above doubles that.
_LEVEL: Final = 3
# Of shorter ones there is little to save, and to begin costs as much as to compress 2 KB.
_COMPRESSED_BYTES_MIN: Final = 256
# A shorter content has too little in common with others to be their dictionary; of a longer one its beginning is it.
DICTIONARY_BYTES_MIN: Final = 2048
_DICTIONARY_BYTES_MAX: Final = 64 * 1024
_NAME: Final = re.compile(r"[0-9a-f]{64}")
_ONE: Final = "SELECT part, body FROM contents WHERE run = ? AND digest = ? ORDER BY part"
_KEY: Final = "SELECT host_key, wrapped, gone FROM content_keys WHERE run = ?"


class Content(NamedTuple):
    """What was kept. `redacted`: a secret in it was replaced by a mark before it was stored."""

    data: bytes
    redacted: bool = False


class Said(msgspec.Struct, frozen=True, omit_defaults=True):
    """A text of a prompt: itself, or the name of the content that it is."""

    text: str | None = None
    at: str | None = None


class _Message(msgspec.Struct, frozen=True):
    role: Literal["user", "assistant"]
    text: Said


class _Prompt(msgspec.Struct, frozen=True):
    system: Said
    messages: list[_Message]


class PromptMessage(msgspec.Struct, frozen=True):
    role: Literal["user", "assistant"]
    text: str


class Prompt(msgspec.Struct, frozen=True):
    """What a model, or a tool, was sent. A tool has no instructions, and one message: its arguments, in JSON."""

    system: str
    messages: list[PromptMessage]


class Output(msgspec.Struct, frozen=True):
    """What a cell printed, as far as its policy kept that, and how it failed.

    `clock` is what it read of clocks, if it did: in base64, readings one after another as `protocol.Clock` has them.
    """

    stdout: str
    stderr: str
    traceback: str = ""
    clock: str | msgspec.UnsetType = msgspec.UNSET


def prompt_content(system: Said, messages: Sequence[tuple[Literal["user", "assistant"], Said]]) -> bytes:
    """A prompt as it is stored."""
    return msgspec.json.encode(_Prompt(system, [_Message(*message) for message in messages]))


def host_key_id(key: bytes) -> bytes:
    """Eight bytes by which a host key is told from others, and that tell nothing of it."""
    return hmac.digest(key, b"belljar host key", hashlib.sha256)[:8]


# -- one run -----------------------------------------------------------------------------------------------------------


class Dictionary:
    """A content that others of its run may be compressed against."""

    def __init__(self, name: str, data: bytes | memoryview) -> None:
        self.digest = bytes.fromhex(name)
        self.words = zstd.ZstdDict(bytes(data[:_DICTIONARY_BYTES_MAX]), is_raw=True)


class RunKey:
    """The key of one run's contents: it names, encrypts and decrypts them.

    `make` makes one, `opened` gets it from the row that has it.
    """

    def __init__(self, run: str, key: bytes) -> None:
        self.run = run
        self._key = key
        self._derive = _Derive(key)
        self._name = _Mac(self._derive(b"digest"))
        # A salt is this and a number, so that none comes twice: 64 random bits, of this object alone.
        self._salted, self._numbers = os.urandom(8), itertools.count()

    @classmethod
    def make(cls, run: str) -> RunKey:
        return cls(run, os.urandom(_KEY_BYTES))

    @classmethod
    def opened(cls, run: str, wrapped: bytes, key: bytes) -> RunKey:
        """From the wrapped key and the host's.

        Raises:
            VerificationFailed: it is not what was stored for this run.
        """
        try:
            return cls(run, aes_key_unwrap(_Derive(key)(b"wrap", run.encode()), wrapped))
        except (InvalidUnwrap, ValueError, TypeError):  # a file takes anything in a column
            raise VerificationFailed(
                f"the key of {run}'s contents is not what was stored: somebody changed the journal; restore a backup"
            ) from None

    def row(self, key: bytes, until: int) -> ContentKeyRow:
        """The row that keeps it, wrapped with the host's key. `until` is when it may go, in seconds of the epoch."""
        wrapped = aes_key_wrap(_Derive(key)(b"wrap", self.run.encode()), self._key)
        return ContentKeyRow(self.run, host_key_id(key), wrapped, until, None)

    def name(self, data: bytes | memoryview) -> bytes:
        """The digest that names a content."""
        return self._name(data)

    def sealed(
        self, data: bytes | memoryview, *, redacted: bool = False, against: Dictionary | None = None
    ) -> tuple[str, list[ContentRow]]:
        """The name of a content, and the rows that keep it.

        Args:
            against: is in the journal, and has no dictionary itself. It is not used where the same content could be
                stored once more in fewer rows, nor for itself.
        """
        digest = self.name(data)
        if against is not None and (against.digest == digest or len(data) > PART_BYTES):
            against = None
        packed, flags = _packed(data, against)
        salt = self._salted + next(self._numbers).to_bytes(8, "big")
        header = bytes([_VERSION, flags | _REDACTED * redacted]) + salt + len(data).to_bytes(8, "big")
        if against is not None and flags & _AGAINST:
            header += against.digest
        cipher = AESGCM(self._derive(b"blob", salt))
        about = header + digest + self.run.encode()
        rows = []
        for part, start in enumerate(range(0, max(1, len(packed)), PART_BYTES)):
            is_last = start + PART_BYTES >= len(packed)
            body = cipher.encrypt(_nonce(part, is_last), packed[start : start + PART_BYTES], about)
            rows.append(ContentRow(self.run, digest, part, body if part else header + body))
        return digest.hex(), rows

    def unsealed(
        self, name: str, bodies: Sequence[bytes], dictionary: Callable[[str], Dictionary] | None = None
    ) -> Content:
        """The content of these parts. `dictionary` gets the one of a name; without it there must be none.

        Raises:
            VerificationFailed: they are not what was stored under this name.
        """
        try:
            return self._unsealed(bytes.fromhex(name), bodies, dictionary)
        except (InvalidTag, ValueError, zlib.error, zstd.ZstdError):
            raise VerificationFailed(
                f"the content {name} of {self.run} is not what was stored: somebody changed the journal; "
                "restore a backup"
            ) from None

    def _unsealed(
        self, digest: bytes, bodies: Sequence[bytes], dictionary: Callable[[str], Dictionary] | None
    ) -> Content:
        header = _header(bodies[0])
        flags, size = header[1], int.from_bytes(header[_SIZE], "big")
        cipher = AESGCM(self._derive(b"blob", header[_SALT]))
        about = header + digest + self.run.encode()
        packed = b"".join(
            cipher.decrypt(_nonce(part, part == len(bodies) - 1), body[0 if part else len(header) :], about)
            for part, body in enumerate(bodies)
        )
        words = None
        if flags & _AGAINST:
            if dictionary is None:
                raise ValueError("a dictionary with a dictionary")
            words = dictionary(header[_HEADER_BYTES:].hex()).words
        data = _unpacked(packed, flags, size, words)
        if len(data) != size or not hmac.compare_digest(self.name(data), digest):
            raise ValueError("another content")
        return Content(data, bool(flags & _REDACTED))


class _Mac:
    """HMAC-SHA256 with one key (RFC 2104), of which the key's share is computed once.

    `hmac.digest` computes it each time, and lets other threads run meanwhile: a busy writer of the journal then keeps
    the event loop waiting fifty times as long as the work takes.
    """

    def __init__(self, key: bytes) -> None:
        block = key.ljust(64, b"\0")
        assert len(block) == 64, "a key is no longer than a block"
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def __call__(self, data: bytes | memoryview) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(data)
        outer.update(inner.digest())
        return outer.digest()


class _Derive:
    """Keys for one purpose each: HMAC-SHA256 as a pseudorandom function, of words that end with a zero byte each."""

    def __init__(self, key: bytes) -> None:
        self._mac = _Mac(key)

    def __call__(self, *what: bytes) -> bytes:
        return self._mac(b"belljar contents 1\0" + b"".join(word + b"\0" for word in what))


def _nonce(part: int, is_last: bool) -> bytes:
    return part.to_bytes(11, "big") + bytes([is_last])


def _header(body: bytes) -> bytes:
    """The header that part 0 begins with. Raises ValueError."""
    if len(body) < _HEADER_BYTES or body[1] & ~_FLAGS.get(body[0], 0):
        raise ValueError("not a header")
    return body[: _HEADER_BYTES + (_DIGEST_BYTES if body[1] & _AGAINST else 0)]


def _packed(data: bytes | memoryview, against: Dictionary | None) -> tuple[bytes | memoryview, int]:
    """The bytes as they are encrypted, and their flags."""
    if len(data) >= _COMPRESSED_BYTES_MIN:
        words = None if against is None else against.words.as_digested_dict
        packed = zstd.compress(data, _LEVEL, zstd_dict=words)
        if len(packed) < len(data):
            return packed, _COMPRESSED if against is None else _COMPRESSED | _AGAINST
    return data, 0


def _unpacked(packed: bytes, flags: int, size: int, words: zstd.ZstdDict | None) -> bytes:
    """At most one byte more than `size`, so that what is longer is seen."""
    if flags & _COMPRESSED:
        return zstd.ZstdDecompressor(words).decompress(packed, size + 1)
    return zlib.decompressobj().decompress(packed, size + 1) if flags & _DEFLATED else packed


# -- reading -----------------------------------------------------------------------------------------------------------


@contextmanager
def open_contents(log: Log, keys: Keys) -> Iterator[Contents]:
    """The contents in a journal, for the length of a block, all from one snapshot.

    Args:
        keys: those of this host.

    Raises:
        InvalidInput: `audit.missing`: there is no journal.
        AuditUnavailable: it cannot be opened.
    """
    with closing(open_source(log)) as source:
        yield Contents(source, keys)


class Contents:
    """Reads contents by their names. Every method raises what `read` does."""

    def __init__(self, source: Source, keys: Keys) -> None:
        self._source = source
        self._keys_of_host = keys
        self._host_key: bytes | None = None
        self._keys: dict[str, RunKey] = {}
        self._latest: tuple[tuple[str, str], Dictionary] | None = None

    def read(self, run: str, name: str | None) -> Content:
        """The content that a record of `run` names.

        Raises:
            ContentMissing: none was kept; the text says why.
            ContentErased: it was erased, or kept for as long as its policy says.
            ContentLocked: its key is another host's, or lost.
            VerificationFailed: what is stored is not what was stored.
            AuditUnavailable: the journal, or the key, cannot be read.
        """
        if name is None:
            raise ContentMissing("nothing of it was kept: the run's policy keeps no such contents", code="content.none")
        if _NAME.fullmatch(name) is None:
            why = LEFT_OUT.get(name, "it has no name")
            raise ContentMissing(f"nothing of it was kept: {why}", code="content.left_out")
        return self._key(run).unsealed(name, self._bodies(run, name), partial(self._dictionary, run))

    def get(self, run: str, name: str | None) -> bytes:
        """Its bytes."""
        return self.read(run, name).data

    def text(self, run: str, name: str | None) -> str:
        """Its bytes as text."""
        return self.get(run, name).decode("utf-8", "replace")

    def prompt(self, run: str, name: str | None) -> Prompt:
        """A prompt (`query.requested`, `query.reused`), with its texts."""
        stored = msgspec.json.decode(self.get(run, name), type=_Prompt)
        return Prompt(
            self._said(run, stored.system),
            [PromptMessage(message.role, self._said(run, message.text)) for message in stored.messages],
        )

    def output(self, run: str, name: str | None) -> Output:
        """What a cell printed (`cell.finished`)."""
        return msgspec.json.decode(self.get(run, name), type=Output)

    def _dictionary(self, run: str, name: str) -> Dictionary:
        """One is used for many contents in turn."""
        if self._latest is None or self._latest[0] != (run, name):
            data = self._key(run).unsealed(name, self._bodies(run, name)).data
            self._latest = (run, name), Dictionary(name, data)
        return self._latest[1]

    def _bodies(self, run: str, name: str) -> list[bytes]:
        bodies = [row[1] for row in self._ask(_ONE, run, bytes.fromhex(name))]
        if not bodies:
            raise VerificationFailed(
                f"the content {name} of {run} is gone from the journal, and nobody erased it: restore a backup"
            )
        return bodies

    def _said(self, run: str, said: Said) -> str:
        return said.text if said.text is not None else self.text(run, said.at)

    def _key(self, run: str) -> RunKey:
        if (known := self._keys.get(run)) is not None:
            return known
        found = self._ask(_KEY, run)
        if not found:
            raise ContentMissing(f"no contents of {run} were kept", code="content.none")
        whose, wrapped, gone = found[0]
        if wrapped is None:
            why = _GONE.get(gone, "they were erased")
            raise ContentErased(f"the contents of {run} are gone: {why}", code="content.erased")
        if self._host_key is None:
            self._host_key = self._keys_of_host.read(HOST_KEY)
        if self._host_key is None or host_key_id(self._host_key) != whose:
            raise ContentLocked(
                f"the contents of {run} were kept by another host, or its key is lost: put its {HOST_KEY} into "
                f"{self._keys_of_host.folder}",
                code="content.locked",
            )
        key = self._keys[run] = RunKey.opened(run, wrapped, self._host_key)
        return key

    def _ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            if not self._source.has_contents():
                return []
            return self._source.ask(statement, *values)
        except UNREADABLE as error:
            raise AuditUnavailable(f"the contents in {self._source.name} cannot be read: {error}; verify it") from error


_GONE: Final = {
    "erased": "they were erased",
    "age": "they were kept for as long as their policy says",
    "size": "they made room for later ones",
}
