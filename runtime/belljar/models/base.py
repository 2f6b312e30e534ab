"""What a model is to the rest of the program: one question, one attempt, one answer with its token counts.

A `Model` never retries, never sleeps and keeps no budget. Each call of `complete` is one attempt, so that one
reservation and one pair of audit records match exactly one thing that a provider may charge for. The caller decides,
from what `ModelFailed` says, whether there is a second attempt.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal, Protocol

import msgspec

from belljar.heavy import slices
from belljar.models.normal import normal_bytes_bound

__all__ = [
    "TOKENS_MAX",
    "Counted",
    "Message",
    "Model",
    "ModelReply",
    "ModelRequest",
    "Usage",
    "input_tokens_bound",
    "texts_digest",
]

# Providers wrap each message in a few tokens of their own (role, separators), and the request in a few more. The real
# numbers seen are below ten; the rest is a margin, because a bound that is too low breaks a quota and one that is 64
# tokens too high costs nothing: settling the call returns the difference.
_MESSAGE_OVERHEAD_TOKENS: Final = 32
_REQUEST_OVERHEAD_TOKENS: Final = 64
# Per call: more than any model takes or gives, and its cost still fits the ledger.
TOKENS_MAX: Final = 2**32
# Bounding this many of the costliest characters takes half a millisecond. Larger slices hold up the loop a little each
# time it comes back from the kernel: a run beside 45 such prompts took 140 ms with 16 Ki, 60 with 2 Ki.
_SLICE_CHARS: Final = 2 * 1024


class Message(msgspec.Struct, frozen=True):
    role: Literal["user", "assistant"]
    text: str


class ModelRequest(msgspec.Struct, frozen=True):
    """One question.

    `output_tokens_max` bounds the answer, thinking included. `deadline_s` is how many seconds this attempt may take.
    `purpose` tells the root model of a run, which writes programs, from a sub-query, which reads a slice, and from a
    call of a host tool. `run` is the id of the run that asks; no provider is told.
    """

    system: str
    messages: tuple[Message, ...]
    output_tokens_max: int
    deadline_s: float
    purpose: Literal["root", "sub", "tool"]
    run: str = ""


class Usage(msgspec.Struct, frozen=True):
    """Tokens by kind. `input_tokens` are those neither read from nor written to the provider's cache.

    Two counts are parts of others: `cache_write_1h_tokens` are those of `cache_write_tokens` that are kept for an hour,
    which costs more, and `thinking_tokens` are those of `output_tokens` that are not in the text.

    Raises:
        ValueError: a count is negative, or a part is more than the whole.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    thinking_tokens: int = 0

    def __post_init__(self) -> None:
        if min(msgspec.structs.astuple(self)) < 0:
            raise ValueError("a token count is negative")
        if self.cache_write_1h_tokens > self.cache_write_tokens or self.thinking_tokens > self.output_tokens:
            raise ValueError("a part of a token count is more than the whole")

    @property
    def total_input_tokens(self) -> int:
        return self.input_tokens + self.cache_read_tokens + self.cache_write_tokens


class ModelReply(msgspec.Struct, frozen=True):
    """An answer. `model` and `stop_reason` are the provider's own (`end_turn`, `max_tokens`, `refusal`, ...)."""

    text: str
    usage: Usage
    model: str
    stop_reason: str

    @property
    def has_no_room(self) -> bool:
        """Whether it stopped because the model's window was full."""
        return self.stop_reason == "model_context_window_exceeded"

    @property
    def is_cut(self) -> bool:
        """Whether it was stopped before its end."""
        return self.has_no_room or self.stop_reason in ("max_tokens", "length")

    @property
    def is_refused(self) -> bool:
        """Whether the model, or a filter of its provider, did not want to answer."""
        return self.stop_reason in ("refusal", "content_filter")


class Model(Protocol):
    """Something that answers a `ModelRequest`.

    `scripted` is True where no model is asked: results are then labelled, so that nobody takes them for a model's.
    """

    @property
    def name(self) -> str: ...

    @property
    def scripted(self) -> bool: ...

    async def complete(self, request: ModelRequest) -> ModelReply:
        """Exactly one attempt.

        Raises:
            ModelFailed: no answer; says whether to try again and what may have been charged.
        """
        ...

    async def aclose(self) -> None: ...


class Counted(msgspec.Struct, frozen=True):
    """A request that a provider has answered, and the number of input tokens that it reported."""

    request: ModelRequest
    input_tokens: int


def texts_digest(*texts: str) -> tuple[str, int]:
    """The SHA-256 of the texts, joined by zero bytes, and how many bytes the texts have: as the log names a prompt."""
    digest, size = hashlib.sha256(), 0
    for number, text in enumerate(texts):
        digest.update(b"\0" if number else b"")
        for start, stop in slices(len(text)):
            data = text[start:stop].encode("utf-8", "surrogatepass")
            digest.update(data)
            size += len(data)
    return digest.hexdigest(), size


def input_tokens_bound(request: ModelRequest, counted: Counted | None = None) -> int:
    """An upper bound on the input tokens, safe to reserve: the bytes of all texts, and an overhead per message.

    A tokenizer that works on bytes never makes more tokens than there are bytes. Some normalise the text first (NFKC),
    which can make it several times longer for a few rare characters; `normal` bounds that.

    For English that is about four times too much. Where the request continues one that the same model has `counted`,
    only the new part is bounded this way: each message is tokenised by itself, so the old ones count as before.
    """
    if counted is not None and _goes_on(request, counted.request):
        known, news = counted.input_tokens, request.messages[len(counted.request.messages) :]
    else:
        known, news = _bytes_bound(request.system), request.messages
    overhead = _REQUEST_OVERHEAD_TOKENS + _MESSAGE_OVERHEAD_TOKENS * len(news)
    return known + overhead + sum(_bytes_bound(message.text) for message in news)


def _goes_on(request: ModelRequest, before: ModelRequest) -> bool:
    """Whether it is the earlier request with more messages appended."""
    return request.system == before.system and request.messages[: len(before.messages)] == before.messages


def _bytes_bound(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(normal_bytes_bound(text, start, stop) for start, stop in slices(len(text), _SLICE_CHARS))
