"""OpenAI's Chat Completions, and whatever else speaks it: vLLM, Ollama, llama.cpp (`base_url`).

As with the Messages API, one call of `complete` is one HTTP request, its answer is streamed, and a tally keeps what is
known so far. What differs:

* The stream is read here, line by line: servers send one token in a chunk, and the SDK takes 0.4 ms for each.
* An answer is whole with its finish reason *and* its usage, which comes in a chunk of its own behind it. Before that
  chunk nothing is known of the bill. A server that reports no usage cannot be metered, and its answer is a failure.
* Input tokens read from the cache are counted inside the input tokens, and thinking inside the output tokens.
* Finish reasons become those of the Messages API; unknown ones are passed on.
* **Some servers cut a prompt that is too long for their window, and say nothing**: Ollama drops its front and answers
  what is left. The reported input gives it away: it is far less than was sent, or it is exactly the window. Such an
  answer is a failure: nobody wants an answer to another question.

Nothing is read from the environment but proxies: the SDK would take from there a base URL, an organization, a project,
an administrator's key and headers of any name. The key appears in no message and no `repr`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx2
import msgspec
import openai

from belljar.errors import ModelFailed
from belljar.heavy import whole
from belljar.models import http
from belljar.models.base import ModelReply, ModelRequest, Usage

__all__ = ["OPENAI_URL", "PREFIX", "OpenAIModel"]

OPENAI_URL: Final = "https://api.openai.com/v1"
PREFIX: Final = "openai:"

_STOP_REASONS: Final = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}
_TOO_LONG: Final = frozenset({"context_length_exceeded", "exceed_context_size_error"})

_EXPECTED: Final = (TimeoutError, openai.OpenAIError, httpx2.HTTPError, *http.GARBAGE)


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


class OpenAIModel:
    """A model behind Chat Completions.

    Args:
        name: `openai:` and the provider's name of the model, which is sent as it is.
        api_key: sent with each request, shown nowhere; a server of one's own may need none.
        base_url: where the API is, with its `/v1`.
        http_client: an `httpx2.AsyncClient` to use; it is closed with the model.

    Raises:
        InvalidInput: the name, the key or the URL is not valid.
    """

    scripted: Final = False

    def __init__(
        self, name: str, *, api_key: str = "", base_url: str, http_client: httpx2.AsyncClient | None = None
    ) -> None:
        self.name: Final = http.checked_name(name)
        self._model = http.checked_name(name.removeprefix(PREFIX))
        self._is_public = base_url.rstrip("/") == OPENAI_URL
        self._host = http.checked_host(base_url, "OPENAI_BASE_URL")
        self._key = http.checked_key(api_key, "OPENAI_API_KEY") if api_key.strip() or self._is_public else ""
        self._client = openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=base_url,
            max_retries=0,
            http_client=http.guarded(
                http_client or openai.DefaultAsyncHttpxClient(follow_redirects=False, limits=http.LIMITS),
                b"\n",
            ),
        )
        # What it took from the environment.
        self._client.organization = self._client.project = self._client.admin_api_key = None
        self._client._custom_headers = {}

    async def complete(self, request: ModelRequest) -> ModelReply:
        """One HTTP request.

        Raises:
            ModelFailed: it gave no complete answer.
        """
        size = http.check_sendable(request)
        tally = _Tally()
        try:
            async with asyncio.timeout(request.deadline_s):
                await self._stream(request, tally)
        except _EXPECTED as error:
            if not tally.complete:  # an error after the last chunk costs nothing of the answer
                raise self._failure(error, request, tally) from None
        if tally.finished and not tally.complete:
            raise ModelFailed(f"{self._host} reports no usage, so it cannot be metered: use a server that does")
        reply = tally.reply(self._model)
        if not self._is_public and http.was_cut(size, reply.usage):
            raise tally.failure(http.cut_prompt(self._host, reply.usage))
        return reply

    async def aclose(self) -> None:
        await self._client.close()

    def __repr__(self) -> str:
        return f"OpenAIModel({self.name!r}, host={self._host!r})"

    async def _stream(self, request: ModelRequest, tally: _Tally) -> None:
        """Feed the tally every chunk of the answer. Sampling parameters are not sent: some models refuse them."""
        system = [{"role": "system", "content": request.system}] if request.system else []
        messages: Any = [*system, *({"role": one.role, "content": one.text} for one in request.messages)]
        # Current models refuse the older name, and servers of one's own may not know the newer.
        bound: Any = {
            "max_completion_tokens" if self._is_public else "max_tokens": request.output_tokens_max,
        }
        opening = self._client.chat.completions.with_streaming_response.create(
            model=self._model,
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
            timeout=http.TIMEOUT,
            **bound,
        )
        async with opening as response:
            async for data in _data(response.iter_bytes()):
                if data == b"[DONE]":
                    return
                tally.note(data)

    def _failure(self, error: Exception, request: ModelRequest, tally: _Tally) -> ModelFailed:
        if isinstance(error, http.Stalled):
            message = f"{self.name} stopped in the middle of its answer for {http.STALL_S_MAX:g} s: try again"
            return tally.failure(message, retryable=True)
        if isinstance(error, TimeoutError):
            message = f"{self.name} gave no complete answer in {request.deadline_s:g} s: try again, or allow more time"
            return tally.failure(message, retryable=True)
        if isinstance(error, openai.APIStatusError):
            return self._refused(error, tally)
        if isinstance(error, _Broken):
            said = self._shown(error.said)
            return tally.failure(f"{self.name} broke off its answer ({said}): try again", retryable=True)
        if isinstance(error, http.GARBAGE):
            what = type(error).__name__
            return tally.failure(
                f"{self._host} sent something that is not a chat completion ({what}): check the base URL"
            )
        return self._lost(error, tally)

    def _refused(self, error: openai.APIStatusError, tally: _Tally) -> ModelFailed:
        """An HTTP status that is not a success."""
        status, headers = error.status_code, error.response.headers
        said = self._shown(_said(error.body) or "no reason given")
        match status:
            case 401 | 403:
                message = f"{self._host} refused the key ({status}: {said}): set OPENAI_API_KEY to a valid key"
            case 404:
                message = f"{self._host} knows no model {self._model!r} (404: {said}): check the name and the base URL"
            case 429:
                message = f"{self._host} is too busy for {self.name} (429: {said}): try again later"
            case 400 | 413 if status == 413 or {str(error.code), str(error.type)} & _TOO_LONG:
                message = f"the prompt is too long for {self._host} ({status}: {said}): send a shorter one"
            case _:
                message = f"{self._host} refused the request ({status}: {said}): see what the provider says"
        return tally.failure(
            message,
            # Out of money is told as being too busy, and does not pass.
            retryable=http.may_succeed_later(status, headers) and error.code != "insufficient_quota",
            retry_after_s=http.retry_after_s(headers),
            charged=http.is_charged(status),
        )

    def _lost(self, error: Exception, tally: _Tally) -> ModelFailed:
        """No connection, or one that broke. The SDK wraps what its transport raises."""
        cause = error.__cause__ or error
        what = f"{type(cause).__name__}: {self._shown(str(cause))}"
        if isinstance(cause, http.NEVER_SENDABLE):
            return tally.failure(f"no request can be sent to {self._host} ({what}): check the base URL", charged=False)
        if isinstance(cause, http.NOT_SENT):
            message = f"no connection to {self._host} ({what}): check the network and the base URL"
            return tally.failure(message, retryable=True, charged=False)
        return tally.failure(f"the connection to {self._host} broke ({what}): try again", retryable=True)

    def _shown(self, text: str) -> str:
        return http.shown(text, self._key)


class _Broken(ValueError):
    """The server says in the stream that it cannot go on."""

    def __init__(self, said: str) -> None:
        super().__init__()
        self.said = said


class _Tally:
    """What is known of an answer, chunk by chunk."""

    def __init__(self) -> None:
        self._model = ""
        self._usage: Usage | None = None
        self._text: list[str] = []
        self._chars = 0
        self._refused = False
        self._finish_reason = ""

    def note(self, data: bytes) -> None:
        """Raises `_Broken`, or one of `http.GARBAGE` where the chunk is malformed."""
        # msgspec's own decoder refuses half a surrogate pair, and the end of a chunk may cut one in two.
        chunk = msgspec.convert(json.loads(data), _Chunk)
        if chunk.error is not None:
            raise _Broken(_said(chunk.error) or "no reason given")
        self._model = self._model or chunk.model or ""
        for choice in chunk.choices or ():
            if choice.index == 0:
                self._add(choice)
        if chunk.usage is not None:
            self._usage = _usage(chunk.usage)  # some servers count on from chunk to chunk: the last one holds

    @property
    def finished(self) -> bool:
        return bool(self._finish_reason)

    @property
    def complete(self) -> bool:
        return self.finished and self._usage is not None

    def reply(self, name: str) -> ModelReply:
        """The answer, if it is complete.

        Raises:
            ModelFailed: the stream ended before that.
        """
        if not self._finish_reason or self._usage is None:
            raise self.failure("the answer broke off before its end: try again", retryable=True)
        stop_reason = _STOP_REASONS.get(self._finish_reason, self._finish_reason)
        return ModelReply(
            whole("".join(self._text)), self._usage, self._model or name, "refusal" if self._refused else stop_reason
        )

    def failure(
        self, message: str, *, retryable: bool = False, retry_after_s: float | None = None, charged: bool = True
    ) -> ModelFailed:
        """A failure with what is known of its cost: until the answer is complete, that is nothing."""
        known = self._usage if charged and self.complete else None
        return ModelFailed(
            message,
            retryable=retryable,
            retry_after_s=retry_after_s,
            charged=charged,
            input_tokens=known.total_input_tokens if known else None,
            output_tokens=known.output_tokens if known else None,
            cache_read_tokens=known.cache_read_tokens if known else 0,
        )

    def _add(self, choice: _Choice) -> None:
        if choice.delta is not None:
            self._refused = self._refused or bool(choice.delta.refusal)
            text = choice.delta.content or ""
            self._chars += len(text)
            if self._chars > http.REPLY_CHARS_MAX:
                raise ValueError("the answer is longer than any model's")
            self._text.append(text)
        self._finish_reason = choice.finish_reason or self._finish_reason


async def _data(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of a stream of events, each of which is one line; comments and other fields are passed over.

    Lines end with a line feed alone: what else Python splits at may stand in a text.
    """
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line.removeprefix(b"data:").strip()


def _usage(told: _Usage) -> Usage:
    details, more = told.prompt_tokens_details or _Details(), told.completion_tokens_details or _Details()
    inputs, outputs = http.count(told.prompt_tokens), http.count(told.completion_tokens)
    cached = min(http.count(details.cached_tokens or 0), inputs)
    thinking = min(http.count(more.reasoning_tokens or 0), outputs)
    return Usage(inputs - cached, outputs, cache_read_tokens=cached, thinking_tokens=thinking)


def _said(body: object) -> str:
    """What the server says in an error, wherever it keeps it."""
    if isinstance(body, dict):
        inner = body.get("error", body)
        body = inner.get("message") or inner.get("type") if isinstance(inner, dict) else inner
    return body if isinstance(body, str) else ""
