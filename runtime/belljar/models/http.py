"""What all models behind HTTP share: what of a failure is known to be free, how long to wait, what may be shown.

The key appears in no message and no `repr`. Provider text may repeat what it was sent, so it is cut, and control
characters and the key are removed, before anybody sees it.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx2

from belljar.errors import InvalidInput, ModelFailed
from belljar.glyphs import blanked
from belljar.models.base import TOKENS_MAX, ModelRequest, Usage

__all__ = [
    "GARBAGE",
    "LIMITS",
    "NEVER_SENDABLE",
    "NOT_SENT",
    "REPLY_CHARS_MAX",
    "STALL_S_MAX",
    "TIMEOUT",
    "Guarded",
    "Stalled",
    "check_sendable",
    "checked_host",
    "checked_key",
    "checked_name",
    "count",
    "cut_prompt",
    "guarded",
    "is_charged",
    "may_succeed_later",
    "retry_after_s",
    "shown",
    "was_cut",
    "word",
]

# A host that does not complete a handshake in this time is unlikely to answer; giving up early leaves time to try
# again, and a failed connection is known to be free of charge. All else is under the deadline of the call.
TIMEOUT: Final = httpx2.Timeout(None, connect=10.0)

# No model answers with more (128,000 tokens of ten bytes are 1.3 MB); a broken server must not fill our memory.
REPLY_CHARS_MAX: Final = 16 << 20

# Pings come every few seconds; a server under load pauses for a few tens of seconds between two words.
STALL_S_MAX: Final = 60.0

# Turns are further apart than the transport's five seconds, and a handshake costs more than an idle connection.
LIMITS: Final = httpx2.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=120.0)

# An event has a few tokens, or at most a whole answer, in a few lines, and an error a few words. SDKs take them whole,
# in time that grows with the product of the two.
_EVENT_BYTES_MAX: Final = 1 << 20
_EVENT_LINES_MAX: Final = 1000
# Of what ends an event, a part that may come with the piece before.
_END_BYTES_MAX: Final = 3

_PROVIDER_TEXT_CHARS_MAX: Final = 300

# The provider refused to start, so there is nothing to charge. 408, 499 and the other 5xx may come from something
# between us and a provider that did the work.
_UNCHARGED: Final = frozenset({400, 401, 402, 403, 404, 405, 409, 411, 412, 413, 415, 422, 429, 431, 529})
_RETRYABLE: Final = frozenset({408, 409, 429})

# When these are raised, no byte of the request has left.
NOT_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)
NEVER_SENDABLE: Final = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError)

# What malformed answers raise: a missing or ill-typed field shows up where it is first used.
GARBAGE: Final = (ValueError, TypeError, AttributeError, LookupError, RuntimeError, RecursionError)


# Text that people or programs write has at most some six bytes in a token. A prompt of more that fills a window to the
# token was cut to fit it; windows are multiples of this. One of far more was cut wherever the window ends.
_BYTES_PER_TOKEN: Final = 6
_BYTES_PER_TOKEN_MAX: Final = 20
_WINDOW_STEP_TOKENS: Final = 1024


class Stalled(TimeoutError):
    """A stream that had begun brought nothing for `STALL_S_MAX`."""


class Guarded(httpx2.AsyncByteStream):
    """A body that raises `Stalled` where the next bytes take too long, and ValueError where they are too many at once.

    Args:
        ends: what ends an event of the stream; with none, the body as a whole is bounded.
    """

    def __init__(self, stream: Any, ends: tuple[bytes, ...]) -> None:
        self._stream = stream
        self._ends = ends

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = aiter(self._stream)
        size, lines, before = 0, 0, b""
        while True:
            try:
                async with asyncio.timeout(STALL_S_MAX) as patience:
                    piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if patience.expired():
                    raise Stalled from None
                raise
            seen, fresh = before + piece, piece
            end = max((at + len(end) for end in self._ends if (at := seen.rfind(end)) >= 0), default=-1)
            if end >= 0:
                size, lines, fresh = 0, 0, seen[end:]
            size, lines = size + len(fresh), lines + fresh.count(b"\n") + fresh.count(b"\r")
            if size > _EVENT_BYTES_MAX or lines > _EVENT_LINES_MAX:
                raise ValueError("a server sent more at once than any answer has")
            before = seen[-_END_BYTES_MAX:]
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


def guarded(client: httpx2.AsyncClient, *ends: bytes) -> httpx2.AsyncClient:
    """The client, with all that it receives `Guarded`: events where a request succeeds, which `ends` end."""

    async def guard(response: httpx2.Response) -> None:
        response.stream = Guarded(response.stream, ends if response.is_success else ())

    client.event_hooks = {**client.event_hooks, "response": [*client.event_hooks["response"], guard]}
    return client


def is_charged(status: int) -> bool:
    """Whether a provider that answered with this status may have charged for it."""
    return not (status in _UNCHARGED or 300 <= status < 400)


def may_succeed_later(status: int, headers: httpx2.Headers) -> bool:
    told = headers.get("x-should-retry")
    if told in ("true", "false"):
        return bool(told == "true")
    return status in _RETRYABLE or status >= 500


def retry_after_s(headers: httpx2.Headers) -> float | None:
    """Seconds until the provider wants to be asked again: milliseconds, seconds or an HTTP date."""
    if (milliseconds := _seconds(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _seconds(value)
    if seconds is None and value is not None:
        try:
            seconds = max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except (ValueError, OverflowError):
            return None
    return seconds


def _seconds(value: str | None) -> float | None:
    try:
        seconds = float(value) if value is not None else math.nan
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def shown(text: str, key: str) -> str:
    """The provider's text made fit for our messages: no key, one line, printable, short."""
    text = text.replace(key, "[key]") if key else text
    line = " ".join(blanked(text).split())
    return line if len(line) <= _PROVIDER_TEXT_CHARS_MAX else line[:_PROVIDER_TEXT_CHARS_MAX] + "..."


def check_sendable(request: ModelRequest) -> int:
    """How many bytes its texts have.

    Raises:
        ModelFailed: there is no time, or a text that is none. Nothing was sent.
    """
    if request.deadline_s <= 0:
        raise ModelFailed("no time is left to ask the model: allow more time", charged=False)
    try:
        return sum(len(text.encode()) for text in (request.system, *(message.text for message in request.messages)))
    except UnicodeEncodeError as error:
        raise ModelFailed(
            f"the request has half a surrogate pair at character {error.start}, which is not text: remove it",
            charged=False,
        ) from None


def was_cut(size: int, usage: Usage) -> bool:
    """Whether a server that reports this usage read less of a prompt than the `size` bytes that it was sent."""
    told = usage.total_input_tokens
    fills = any(total % _WINDOW_STEP_TOKENS == 0 for total in (told, told + usage.output_tokens))
    return size > told * _BYTES_PER_TOKEN_MAX or (fills and size > told * _BYTES_PER_TOKEN)


def cut_prompt(host: str, usage: Usage) -> str:
    """What to say of it."""
    return (
        f"the prompt is too long for {host}: it read {usage.total_input_tokens} tokens of it and left out the rest "
        "without saying so: give the server a larger context window, or send less"
    )


def count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= TOKENS_MAX:
        raise ValueError("a token count is not a count")
    return value


def word(value: object, *, empty: bool = False) -> str:
    if not isinstance(value, str) or not (value or empty):
        raise ValueError("a text is missing or not a text")
    return value


def checked_name(name: str) -> str:
    """A name that is safe to show in a message."""
    if not re.fullmatch(r"[!-~]{1,200}", name):
        raise InvalidInput("the model's name is empty, too long or not plain ASCII: check it", code="model.unknown")
    return name


def checked_key(key: str, variable: str) -> str:
    """A key that can be a header: the transport's error message would repeat an illegal one.

    `variable` is where it is looked up, for the message.
    """
    key = key.strip()
    if not re.fullmatch(r"[!-~]{1,4096}", key):
        problem = "is empty" if not key else "has characters that no key has"
        raise InvalidInput(f"the API key {problem}: set {variable} to a valid key", code="model.key")
    return key


def checked_host(base_url: str, variable: str) -> str:
    """Host and port of the URL, for messages: a URL can hold a password."""
    try:
        url = httpx2.URL(base_url)
    except httpx2.InvalidURL:
        url = httpx2.URL()
    # The parser escapes what a host name cannot hold, so looking up the address would fail.
    host = url.raw_host.decode()
    if url.scheme not in ("http", "https") or not re.fullmatch(r"[\w.:-]+", host, re.ASCII):
        raise InvalidInput(f"the model's base URL is not an http or https URL: check {variable}", code="model.url")
    return host if url.port is None else f"{host}:{url.port}"
