"""What is kept of a run's contents on their way into the journal: as its policy says, without secrets, within bounds.

A content is made ready (`Kept`) before the record that names it, and its rows are written in that record's transaction:
whoever writes the record takes `kept.job` along. Making it ready is work that grows with it, so who has much of it does
that off the event loop (`heavy`).

Texts that come again (a model's instructions, the conversation of a root model) are written once. That a text is in the
journal is noted when the transaction that wrote it is durable (`Kept.stored`), not before: one that failed took it
along.

Prompts of a program are much alike: once one is durable, those that follow are compressed against it. There is one such
*dictionary* in a run, so that it has none itself.

Bounds count bytes as they were said, before they are compressed. What is beyond one is left out, and the record says so
in place of a name. Text that is longer than the bound of the whole run costs no more than a comparison.

No secret is kept: where a text has one that this process was given (a provider's key), or one of the policy's canaries,
a mark takes its place, also where it is written as in a string of JSON.
"""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Final, Literal

import msgspec

from belljar.audit.content import DICTIONARY_BYTES_MIN, Dictionary, Output, RunKey, Said, prompt_content
from belljar.heavy import bytes_of, slices, text_of
from belljar.journal import Draft, Job
from belljar.journal.tables import CONTENT_KEYS, CONTENTS, ContentRow
from belljar.models import ModelRequest
from belljar.policy import Audit, ContentKind, forms_of

__all__ = ["NOTHING_KEPT", "SECRET_MARK", "Keeper", "Kept", "together"]

SECRET_MARK: Final = b"[a secret was here]"
# A shorter one would be found in any text.
_SECRET_CHARS_MIN: Final = 8
_DAY_S: Final = 86_400


class Kept:
    """One content that is ready. `name` is what its record says: its name, why it was left out, or None."""

    def __init__(
        self, name: str | None, rows: Sequence[ContentRow] = (), noted: Callable[[], object] = lambda: None
    ) -> None:
        self.name = name
        self._rows = rows
        self._noted = noted

    @property
    def job(self) -> Job[object] | None:
        """The writing of it; None if there is nothing to write, or no longer."""
        rows = self._rows
        if not rows:
            return None

        def work(draft: Draft) -> None:
            for row in rows:
                draft.put(CONTENTS, row)

        return Job(work)

    def stored(self) -> None:
        """It is durable: what names it from now on does not write it again."""
        self._rows = ()
        self._noted()


def together(*kept: Kept) -> Job[object] | None:
    """The writing of all of them; None if there is nothing to write."""
    jobs = [job for one in kept if (job := one.job) is not None]
    return reduce(lambda before, job: before.then(job), jobs) if jobs else None


NOTHING_KEPT: Final = Kept(None)


class _LeftOut(Exception):
    """Ends the making of a content; `why` is what the record says."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Keeper:
    """One run's. `secrets` are never kept.

    A content may be made ready in any thread.
    """

    def __init__(self, run: str, policy: Audit, *, secrets: Iterable[str] = ()) -> None:
        self._policy = policy
        self._kinds = frozenset(policy.contents)
        self._key = RunKey.make(run) if self._kinds else None
        # Longer ones first: one may be the beginning of another.
        texts = [form for secret in secrets if len(secret) >= _SECRET_CHARS_MIN for form in forms_of(secret)]
        self._secrets = [text.encode("utf-8", "replace") for text in sorted(texts, key=len, reverse=True)]
        self._lock = threading.Lock()
        self._bytes = 0
        # By their digests: as many as its root model had turns.
        self._texts: set[bytes] = set()
        self._dictionary: Dictionary | None = None

    @classmethod
    def of_nothing(cls) -> Keeper:
        return cls("", Audit(contents=(), keep_days=1, item_bytes_max=0, run_bytes_max=0))

    def keeps(self, kind: ContentKind) -> bool:
        return kind in self._kinds

    @property
    def keeps_nothing(self) -> bool:
        return self._key is None

    def begun(self, host_key: bytes, now: float) -> Job[object]:
        """The writing of the run's key, which is to be in the transaction of its first record."""
        assert self._key is not None, "nothing is kept"
        row = self._key.row(host_key, int(now) + self._policy.keep_days * _DAY_S)
        return Job(lambda draft: draft.put(CONTENT_KEYS, row))

    def keep(self, kind: ContentKind, data: bytes | memoryview) -> Kept:
        """A content, if the policy keeps its kind."""
        if kind not in self._kinds:
            return NOTHING_KEPT
        try:
            return Kept(*self._sealed(data))
        except _LeftOut as left_out:
            return Kept(left_out.why)

    def text(self, kind: ContentKind, text: str) -> Kept:
        return self.keep(kind, bytes_of(text)) if kind in self._kinds else NOTHING_KEPT

    def output(self, stdout: bytes, stderr: bytes, traceback: str, clock: bytes = b"") -> Kept:
        """What a cell printed, how it failed, and what it read of clocks."""
        if "output" not in self._kinds:
            return NOTHING_KEPT
        texts = (text_of(stdout, "replace"), text_of(stderr, "replace"), traceback, b64encode(clock).decode())
        names = (name.encode() for name in Output.__struct_fields__)
        fields = [b'"%b":%b' % (name, _json_of(text)) for name, text in zip(names, texts, strict=True)]
        if not clock:
            fields.pop()
        return self.keep("output", b"{%b}" % b",".join(fields))

    def answer(self, body: bytes, form: Literal["text", "json"]) -> Kept:
        """An answer, as JSON."""
        if "output" not in self._kinds:
            return NOTHING_KEPT
        return self.keep("output", body if form == "json" else _json_of(text_of(body)))

    def prompt(self, request: ModelRequest) -> Kept:
        """What a model or a tool is sent."""
        if "prompts" not in self._kinds:
            return NOTHING_KEPT
        rows: list[ContentRow] = []
        try:
            # A root model is sent the same again, with more behind it; a program's prompt comes once.
            again = request.purpose == "root"
            system = self._again(request.system, rows) if request.system else Said("")
            messages = [
                (message.role, self._again(message.text, rows) if again else Said(_clean(message.text)))
                for message in request.messages
            ]
            prompt = prompt_content(system, messages)
            name, own = self._sealed(prompt, None if again else self._dictionary)
        except _LeftOut as left_out:
            return Kept(left_out.why)

        def noted() -> None:
            self._texts.update(row.digest for row in rows)
            # The first one that is long enough, and so has no dictionary itself.
            if self._dictionary is None and not again and len(prompt) >= DICTIONARY_BYTES_MIN:
                self._dictionary = Dictionary(name, self._without_secrets(prompt)[0])

        return Kept(name, [*rows, *own], noted)

    def _again(self, text: str, rows: list[ContentRow]) -> Said:
        """The name of a text, whose rows are added unless it is in the journal."""
        assert self._key is not None
        data = bytes_of(text)
        clean, redacted = self._without_secrets(data)
        digest = self._key.name(clean)
        if digest not in self._texts:
            self._make_room(data)
            rows += self._key.sealed(clean, redacted=redacted)[1]
        return Said(at=digest.hex())

    def _sealed(self, data: bytes | memoryview, against: Dictionary | None = None) -> tuple[str, list[ContentRow]]:
        assert self._key is not None
        self._make_room(data)
        clean, redacted = self._without_secrets(data)
        return self._key.sealed(clean, redacted=redacted, against=against)

    def _make_room(self, data: bytes | memoryview) -> None:
        """Count it towards what may be kept. Raises _LeftOut."""
        if len(data) > self._policy.item_bytes_max:
            raise _LeftOut("too-long")
        with self._lock:
            if self._bytes + len(data) > self._policy.run_bytes_max:
                raise _LeftOut("run-full")
            self._bytes += len(data)

    def _without_secrets(self, data: bytes | memoryview) -> tuple[bytes | memoryview, bool]:
        if not self._secrets:
            return data, False
        clean = bytes(data)
        found = [secret for secret in self._secrets if secret in clean]
        if not found:
            return data, False
        for secret in found:
            clean = clean.replace(secret, SECRET_MARK)
        return clean, True


def _json_of(text: str) -> bytes:
    """The text as JSON, slice by slice."""
    parts = (msgspec.json.encode(_clean(text[start:stop]))[1:-1] for start, stop in slices(len(text)))
    return b'"%b"' % b"".join(parts)


def _clean(text: str) -> str:
    """The text with a question mark for each character that has no encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text
