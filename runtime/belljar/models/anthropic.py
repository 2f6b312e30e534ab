"""The Anthropic Messages API, and whatever else speaks it (`base_url` covers local servers).

One call of `complete` is one HTTP request. The answer is always streamed: otherwise the provider refuses long answers,
and a stream reports the input tokens early. While it runs, a *tally* keeps what is known so far, so that a failure at
any byte says what it can about the bill:

* before the request left (no connection), or where the provider refused it (400, 401, 429, 529, ...): nothing charged;
* after `message_start`: the input tokens are known;
* after the last `message_delta`, the one with a stop reason: the output tokens are known as well;
* everything else is unknown, and the caller assumes the worst.

A stream is complete only with its `message_stop`. A connection that ends earlier raises if HTTP framing shows it;
otherwise it looks like a normal end, and only the missing event gives it away. An answer that the provider paused
(`pause_turn`, for tools of its own, of which we offer none) is not whole either. A stream that has begun and then
brings no byte for a minute, not even the pings that hold it open, is given up, so that time is left to ask again.

A local server may leave out the front of a prompt that is too long for it, and say nothing. What it reports of its
input gives it away, as with `openai`, and the answer is a failure.

A root model's conversation is sent again with each turn. One mark on it (`cache_control`) lets the provider read from
its cache what the last turn wrote there: a turn adds two messages, and the mark looks back over twenty blocks. Only
what is asked for is reserved for, so a model that is to be kept for an hour says so in `cache_ttl`.

Nothing happens behind our back: base URL and key are arguments and not looked up, retries are off (the caller reserves
and logs each attempt), tracing is off unless asked for (and then keeps to what is no text), and redirects are not
followed (a prompt goes to the named host, or nowhere). Of the environment only its proxies apply: the SDK would also
take headers of any name from there, and a key of somebody else among them.

The provider's own exception is not chained: it may repeat what was sent (`http`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Literal

import anthropic
import httpx2
import msgspec
from anthropic.types import CacheControlEphemeralParam, MessageParam, RawMessageStreamEvent, TextBlockParam

from belljar.errors import ModelFailed
from belljar.heavy import whole
from belljar.models import http
from belljar.models.base import Message, ModelReply, ModelRequest, Usage

__all__ = ["ANTHROPIC_URL", "AnthropicModel"]

ANTHROPIC_URL: Final = "https://api.anthropic.com"

# What the provider takes, whatever the model; a longer request would be sent whole, only to be refused.
_REQUEST_BYTES_MAX: Final = 32 * 2**20

# What ends an event of a stream.
_ENDS: Final = (b"\n\n", b"\r\n\r\n", b"\r\r")

_RETRYABLE_TYPES: Final = frozenset({"overloaded_error", "rate_limit_error", "api_error", "timeout_error"})

_EXPECTED: Final = (TimeoutError, anthropic.AnthropicError, httpx2.HTTPError, *http.GARBAGE)


class AnthropicModel:
    """A model behind the Messages API.

    Args:
        name: the provider's name of the model, sent as it is.
        api_key: sent with each request, shown nowhere.
        base_url: where the API is, up to but without `/v1`.
        http_client: an `httpx2.AsyncClient` to use; it is closed with the model.
        cache_ttl: how long the provider keeps a root model's conversation: `5m`, or `1h` if turns take longer than five
            minutes, at a higher price.
        tracer_provider: an `opentelemetry.trace.TracerProvider` for the SDK's spans, one for each request: model,
            tokens and outcome, and no text of prompts or answers. Without it there are none, whatever the environment
            says.

    Raises:
        InvalidInput: the name, the key or the URL is not valid.
    """

    scripted: Final = False
    # Where another host differs: how its models' names begin, where keys are looked up, and if it knows the mark on a
    # whole request.
    _prefix = ""
    _key_variable, _url_variable = "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"
    _marks_request = True
    # Whether it is a provider's own, which says so where a prompt is too long; here that is seen by its address.
    _is_provider = False
    _connect: Callable[..., Any] = anthropic.AsyncAnthropic

    def __init__(
        self,
        name: str,
        *,
        api_key: str,
        base_url: str,
        http_client: httpx2.AsyncClient | None = None,
        cache_ttl: Literal["5m", "1h"] = "5m",
        tracer_provider: Any = None,
    ) -> None:
        self.name: Final = http.checked_name(name)
        self.cache_ttl: Final = cache_ttl
        self._model = http.checked_name(name.removeprefix(self._prefix))
        self._key = http.checked_key(api_key, self._key_variable)
        self._host = http.checked_host(base_url, self._url_variable)
        self._is_provider = self._is_provider or base_url.rstrip("/") == ANTHROPIC_URL
        self._client = self._connect(
            api_key=self._key,
            base_url=base_url,
            max_retries=0,
            open_telemetry=_spans(tracer_provider),
            http_client=http.guarded(
                http_client or anthropic.DefaultAsyncHttpxClient(follow_redirects=False, limits=http.LIMITS),
                *_ENDS,
            ),
        )
        self._client._custom_headers = {}  # which it took from the environment

    async def complete(self, request: ModelRequest) -> ModelReply:
        """One HTTP request.

        Raises:
            ModelFailed: it gave no complete answer.
        """
        size = http.check_sendable(request)
        if self._is_provider and size > _REQUEST_BYTES_MAX:
            raise ModelFailed(
                f"the prompt is too long for {self._host}, which takes requests of at most {_REQUEST_BYTES_MAX} bytes: "
                f"this one has {size}; send a shorter one",
                charged=False,
            )
        tally = _Tally()
        try:
            async with asyncio.timeout(request.deadline_s):
                await self._stream(request, tally)
        except _EXPECTED as error:
            if not tally.complete:  # an error after the last event costs nothing of the answer
                raise self._failure(error, request, tally) from None
        reply = tally.reply()
        if not self._is_provider and http.was_cut(size, reply.usage):
            raise tally.failure(http.cut_prompt(self._host, reply.usage))
        return reply

    async def aclose(self) -> None:
        await self._client.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, host={self._host!r})"

    async def _stream(self, request: ModelRequest, tally: _Tally) -> None:
        """Feed the tally every event of the answer. Sampling parameters are not sent: current models refuse them."""
        # The SDK's helper that keeps a whole message is not used: it warns about ill-typed fields, and the tally has
        # all that we need of a message anyway, at every moment.
        events = await self._client.messages.create(
            model=self._model,
            max_tokens=request.output_tokens_max,
            system=request.system or anthropic.omit,
            messages=self._messages(request),
            cache_control=self._mark() if request.purpose == "root" and self._marks_request else anthropic.omit,
            stream=True,
            timeout=http.TIMEOUT,
        )
        async with events:
            async for event in events:
                tally.note(event)

    def _messages(self, request: ModelRequest) -> list[MessageParam]:
        """A root model's conversation is sent again with its next turn, and then read from the provider's cache."""
        if request.purpose != "root" or self._marks_request:
            return [_param(message) for message in request.messages]
        *earlier, last = request.messages  # the user's: it is what the model is to answer
        block: TextBlockParam = {"type": "text", "text": last.text, "cache_control": self._mark()}
        return [*map(_param, earlier), {"role": "user", "content": [block]}]

    def _mark(self) -> CacheControlEphemeralParam:
        return {"type": "ephemeral", "ttl": "1h"} if self.cache_ttl == "1h" else {"type": "ephemeral"}

    def _failure(self, error: Exception, request: ModelRequest, tally: _Tally) -> ModelFailed:
        if isinstance(error, http.Stalled):
            message = f"{self.name} stopped in the middle of its answer for {http.STALL_S_MAX:g} s: try again"
            return tally.failure(message, retryable=True)
        if isinstance(error, TimeoutError):
            message = f"{self.name} gave no complete answer in {request.deadline_s:g} s: try again, or allow more time"
            return tally.failure(message, retryable=True)
        if isinstance(error, anthropic.APIStatusError):
            return self._refused(error, tally)
        if isinstance(error, http.GARBAGE):
            return tally.failure(
                f"{self._host} sent something that is not a Messages API answer ({type(error).__name__}): check the "
                "base URL"
            )
        return self._broken(error, tally)

    def _refused(self, error: anthropic.APIStatusError, tally: _Tally) -> ModelFailed:
        """An HTTP status that is not a success, or an error event in a stream that began as one (status 200)."""
        status = error.status_code
        said = self._clean(str(error.api_message or error.type or "no reason given"))
        match status:
            case 401 | 403:
                message = f"{self._host} refused the key ({status}: {said}): set {self._key_variable} to a valid key"
            case 404:
                message = f"{self._host} knows no model {self._model!r} (404: {said}): check the name and the base URL"
            case 413:
                message = f"the prompt is too long for {self._host} (413: {said}): send a shorter one"
            case 429 | 529:
                message = f"{self._host} is too busy for {self.name} ({status}: {said}): try again later"
            case 200:
                message = f"{self.name} broke off its answer ({said}): try again"
            case _:
                message = f"{self._host} refused the request ({status}: {said}): see what the provider says"
        return tally.failure(
            message,
            retryable=_retryable(error),
            retry_after_s=http.retry_after_s(error.response.headers),
            charged=http.is_charged(status),
        )

    def _broken(self, error: Exception, tally: _Tally) -> ModelFailed:
        """No connection, or one that broke. The SDK wraps what its transport raises, until a stream has begun."""
        cause = error.__cause__ if isinstance(error, anthropic.APIConnectionError) else error
        what = f"{type(cause).__name__}: {self._clean(str(cause))}"
        if isinstance(cause, http.NEVER_SENDABLE):
            return tally.failure(f"no request can be sent to {self._host} ({what}): check the base URL", charged=False)
        if isinstance(cause, http.NOT_SENT):
            message = f"no connection to {self._host} ({what}): check the network and the base URL"
            return tally.failure(message, retryable=True, charged=False)
        return tally.failure(f"the connection to {self._host} broke ({what}): try again", retryable=True)

    def _clean(self, text: str) -> str:
        return http.shown(text, self._key)


def _spans(provider: Any) -> Any:
    """What the SDK may tell of its requests. Nothing of a trace is sent to the provider."""
    if provider is None:
        return False
    return {"tracer_provider": provider, "propagation": False, "traces": {"content_mode": "metadata_only"}}


class _Tally:
    """What is known of an answer, event by event."""

    def __init__(self) -> None:
        self._model = ""
        self._input: Usage | None = None
        self._output_tokens = 0
        self._thinking_tokens = 0
        self._text: list[str] = []
        self._chars = 0
        self._stop_reason: str | None = None
        self._stopped = False

    def note(self, event: RawMessageStreamEvent) -> None:
        """Raises one of `http.GARBAGE` where the event is malformed."""
        match event.type:
            case "message_start":
                self._model = http.word(event.message.model)
                self._input = _input(event.message.usage, None)
            case "content_block_start" if event.content_block.type == "text":
                self._add(event.content_block.text)
            case "content_block_delta" if event.delta.type == "text_delta":
                self._add(event.delta.text)
            case "message_delta":
                # Cumulative: these numbers replace earlier ones, and are final when there is a stop reason.
                self._input = _input(event.usage, self._started())
                self._output_tokens = http.count(event.usage.output_tokens)
                self._thinking_tokens = _thinking(event.usage)
                self._stop_reason = event.delta.stop_reason and http.word(event.delta.stop_reason)
            case "message_stop":
                self._stopped = True
            case _:
                pass  # thinking, citations, ends of blocks, events not yet invented: not text for us

    @property
    def complete(self) -> bool:
        return self._stopped and self._stop_reason is not None and self._input is not None

    def reply(self) -> ModelReply:
        """The answer, if it is complete.

        Raises:
            ModelFailed: the stream ended before its last event, or without a stop reason; or the provider paused.
        """
        if not self._stopped or self._stop_reason is None or self._input is None:
            raise self.failure("the answer broke off before its end: try again", retryable=True)
        if self._stop_reason == "pause_turn":
            raise self.failure("the provider paused its answer for tools that nobody offered: use another model")
        thinking = min(self._thinking_tokens, self._output_tokens)
        usage = msgspec.structs.replace(self._input, output_tokens=self._output_tokens, thinking_tokens=thinking)
        # The end of a delta may cut a character in two; half of one alone is not text, and could not be sent on.
        return ModelReply(whole("".join(self._text)), usage, self._model, self._stop_reason)

    def failure(
        self, message: str, *, retryable: bool = False, retry_after_s: float | None = None, charged: bool = True
    ) -> ModelFailed:
        """A failure with what is known of its cost."""
        known = self._input if self._input and charged else None
        return ModelFailed(
            message,
            retryable=retryable,
            retry_after_s=retry_after_s,
            charged=charged,
            input_tokens=known.total_input_tokens if known else None,
            output_tokens=self._output_tokens if self._stop_reason and charged else None,
            cache_read_tokens=known.cache_read_tokens if known else 0,
            cache_write_tokens=known.cache_write_tokens if known else 0,
            cache_write_1h_tokens=known.cache_write_1h_tokens if known else 0,
        )

    def _started(self) -> Usage:
        if self._input is None:
            raise ValueError("the first event is not message_start")
        return self._input

    def _add(self, text: str) -> None:
        self._started()
        self._chars += len(http.word(text, empty=True))
        if self._chars > http.REPLY_CHARS_MAX:
            raise ValueError("the answer is longer than any model's")
        self._text.append(text)


def _input(usage: Any, known: Usage | None) -> Usage:
    """The input tokens that an event reports. Counts that it leaves out stay as they were; the first has them all."""

    def told(count: Any, before: int) -> int:
        return before if count is None else http.count(count)

    written = told(usage.cache_creation_input_tokens, known.cache_write_tokens if known else 0)
    # How long it is kept is told once, at the start.
    split = getattr(usage, "cache_creation", None)
    hour = told(split and split.ephemeral_1h_input_tokens, known.cache_write_1h_tokens if known else 0)
    return Usage(
        input_tokens=told(usage.input_tokens, known.input_tokens) if known else http.count(usage.input_tokens),
        cache_read_tokens=told(usage.cache_read_input_tokens, known.cache_read_tokens if known else 0),
        cache_write_tokens=written,
        cache_write_1h_tokens=min(hour, written),
    )


def _thinking(usage: Any) -> int:
    """The part of the output that is thinking, if the provider tells it."""
    details = getattr(usage, "output_tokens_details", None)
    return 0 if details is None else http.count(details.thinking_tokens)


def _param(message: Message) -> MessageParam:
    if message.role == "user":
        return {"role": "user", "content": message.text}
    return {"role": "assistant", "content": message.text}


def _retryable(error: anthropic.APIStatusError) -> bool:
    told = error.response.headers.get("x-should-retry") in ("true", "false")
    passes = not told and str(error.type) in _RETRYABLE_TYPES
    return passes or http.may_succeed_later(error.status_code, error.response.headers)
