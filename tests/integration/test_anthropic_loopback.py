"""The real SDK over real sockets, against a small server of ours on 127.0.0.1.

The server reads one request per connection and plays one *act*: a list of byte strings to send and pauses to make.
What it was sent is kept in a journal. An act ends with a close, so whatever the act leaves out is a cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from belljar.errors import ModelFailed
from belljar.models import Message, ModelReply, ModelRequest, Registry, Usage
from belljar.models.anthropic import AnthropicModel

KEY = "sk-ant-loopback"
REQUEST = ModelRequest("be brief", (Message("user", "Capital of France?"),), 30_000, 60.0, "sub")

Act = list[bytes | float]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's proxy has no way to our loopback address."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


class Received(NamedTuple):
    line: str
    headers: dict[str, str]
    body: Any


class Fake:
    """An HTTP/1.1 server that plays an act to everyone."""

    def __init__(self, act: Act) -> None:
        self._act = act
        self.journal: list[Received] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.journal.append(await received(reader))
            for step in self._act:
                if isinstance(step, bytes):
                    writer.write(step)
                    await writer.drain()
                else:
                    await asyncio.sleep(step)
        except ConnectionError:
            pass  # the client went away, as it does at its deadline
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def received(reader: asyncio.StreamReader) -> Received:
    line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
    headers = {name.lower(): value for name, value in (one.split(": ", 1) for one in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(line, headers, json.loads(body))


@contextlib.asynccontextmanager
async def playing(act: Act) -> AsyncIterator[tuple[Fake, str]]:
    fake = Fake(act)
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    async with server:
        yield fake, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def chunk(event: dict[str, Any]) -> bytes:
    data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
USAGE = {"input_tokens": 25, "cache_read_input_tokens": 4, "output_tokens": 1}
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": USAGE}
START = chunk({"type": "message_start", "message": MESSAGE})
THINKING = chunk({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "hm"}})
TEXT = chunk({"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}})
PARIS = chunk({"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Pâris"}})
DELTA = chunk({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}})
STOP = chunk({"type": "message_stop"})
ANSWER: Act = [HEAD, START, THINKING, TEXT, PARIS, DELTA, STOP, END]
REPLY = ModelReply("Pâris", Usage(input_tokens=25, output_tokens=7, cache_read_tokens=4), "m", "end_turn")


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def ask(base_url: str, request: ModelRequest = REQUEST) -> ModelReply:
    model = AnthropicModel("claude-sonnet-5-5", api_key=KEY, base_url=base_url)
    try:
        return await model.complete(request)
    finally:
        await model.aclose()


async def failure(act: Act, request: ModelRequest = REQUEST) -> tuple[ModelFailed, list[Received]]:
    async with playing(act) as (fake, url):
        with pytest.raises(ModelFailed) as caught:
            await ask(url, request)
    assert KEY not in str(caught.value)
    return caught.value, fake.journal


def test_an_answer_comes_back_whole() -> None:
    async def main() -> None:
        async with playing(ANSWER) as (fake, url):
            assert await ask(url) == REPLY
        (request,) = fake.journal
        assert request.line == "POST /v1/messages HTTP/1.1"
        assert KEY in request.headers["authorization"]
        assert request.body["stream"] is True
        assert not {"temperature", "top_p", "top_k"} & request.body.keys()

    asyncio.run(main())


def test_an_answer_in_single_bytes_comes_back_whole() -> None:
    async def main() -> None:
        answer = b"".join(step for step in ANSWER if isinstance(step, bytes))
        pieces: Act = []
        for position in range(len(answer)):
            pieces += [answer[position : position + 1], 0.0]
        async with playing(pieces) as (_, url):
            assert await ask(url) == REPLY

    asyncio.run(main())


@pytest.mark.parametrize(
    ("act", "input_tokens", "output_tokens"),
    [
        ([], None, None),
        ([HEAD], None, None),
        ([HEAD, START[:40]], None, None),
        ([HEAD, START, TEXT, PARIS], 29, None),
        ([HEAD, START, TEXT, PARIS, DELTA], 29, 7),
        ([HEAD, START, TEXT, PARIS, END], 29, None),  # framed as if it were whole
        ([b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\nevent: ping\n\n"], None, None),  # no framing
    ],
)
def test_a_cut_is_a_failure_with_the_known_usage(act: Act, input_tokens: int | None, output_tokens: int | None) -> None:
    error, journal = asyncio.run(failure(act))
    assert (error.retryable, error.charged) == (True, True)
    assert (error.input_tokens, error.output_tokens) == (input_tokens, output_tokens)
    assert len(journal) == 1  # one attempt is one request


@pytest.mark.parametrize("last", [b"", b"zz\r\n", 30.0])
def test_what_breaks_after_the_last_event_takes_nothing_from_the_answer(last: bytes | float) -> None:
    async def main() -> None:
        async with playing([*ANSWER[:-1], last]) as (_, url):
            assert await ask(url, ModelRequest("", REQUEST.messages, 100, 3.0, "root")) == REPLY

    asyncio.run(main())


@pytest.mark.parametrize("act", [[30.0], [HEAD, 30.0], [HEAD, START, *[PARIS, 0.05] * 600]])
def test_a_slow_answer_ends_at_the_deadline(act: Act) -> None:
    error, _ = asyncio.run(failure(act, ModelRequest("", REQUEST.messages, 100, 3.0, "root")))
    assert "in 3 s" in str(error)
    assert (error.retryable, error.charged, error.output_tokens) == (True, True, None)
    assert error.input_tokens == (29 if START in act else None)


def refusal(status: bytes, *headers: bytes) -> Act:
    body = b'{"type": "error", "error": {"type": "some_error", "message": "no"}}'
    fields = (b"content-length: %d" % len(body), b"content-type: application/json", *headers)
    return [b"\r\n".join((b"HTTP/1.1 " + status, *fields)) + b"\r\n\r\n" + body]


@pytest.mark.parametrize(
    ("status", "retryable", "charged"),
    [(b"401 X", False, False), (b"429 X", True, False), (b"500 X", True, True), (b"529 X", True, False)],
)
def test_a_refusal_is_one_attempt(status: bytes, retryable: bool, charged: bool) -> None:
    error, journal = asyncio.run(failure(refusal(status, b"retry-after: 3")))
    assert (error.retryable, error.charged, error.retry_after_s) == (retryable, charged, 3.0)
    assert len(journal) == 1


def test_a_prompt_does_not_follow_a_redirect() -> None:
    async def main() -> None:
        async with playing(ANSWER) as (elsewhere, target):
            location = f"location: {target}/v1/messages".encode()
            error, _ = await failure(refusal(b"307 Temporary Redirect", location))
        assert not elsewhere.journal
        assert not error.charged

    asyncio.run(main())


def test_a_closed_port_is_free_of_charge() -> None:
    async def main() -> None:
        with pytest.raises(ModelFailed, match=r"no connection to 127\.0\.0\.1") as caught:
            await ask(f"http://127.0.0.1:{closed_port()}")
        assert (caught.value.retryable, caught.value.charged) == (True, False)

    asyncio.run(main())


def test_the_url_given_is_the_one_used_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the base URL were not passed on: the SDK would then take this one, where nobody listens."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-of-the-process")

    async def main() -> None:
        async with playing(ANSWER) as (fake, url):
            registry = Registry({"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": url})
            assert await registry.resolve("claude-sonnet-5-5").complete(REQUEST) == REPLY
            await registry.aclose()
        assert "sk-of-the-process" not in str(fake.journal)

    asyncio.run(main())


def test_many_questions_at_once_share_a_model() -> None:
    async def main() -> None:
        async with playing(ANSWER) as (fake, url):
            model = AnthropicModel("claude-sonnet-5-5", api_key=KEY, base_url=url)
            replies = await asyncio.gather(*(model.complete(REQUEST) for _ in range(32)))
            await model.aclose()
        assert replies == [REPLY] * 32
        assert len(fake.journal) == 32

    asyncio.run(main())
