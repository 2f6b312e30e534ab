"""Chat Completions as the real SDK speaks it, over a transport that answers from memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import traceback
from collections.abc import Callable
from typing import Any

import httpx2
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from belljar.errors import InvalidInput, ModelFailed
from belljar.models import Message, Model, ModelReply, ModelRequest, Usage
from tests.bodies import Endless, Paced

OPENAI_URL = "https://api.openai.com/v1"
KEY = "sk-very-secret"
LOCAL = "http://api.test/v1"
REQUEST = ModelRequest("be brief", (Message("user", "Capital of France?"),), 500, 60.0, "sub")
STREAM = {"content-type": "text/event-stream"}

Chunk = dict[str, Any]
Handler = Callable[[httpx2.Request], httpx2.Response]


def part(text: str | None = None, finish_reason: str | None = None, **delta: object) -> Chunk:
    choice = {"index": 0, "delta": {"content": text, **delta}, "finish_reason": finish_reason}
    return {"id": "c1", "object": "chat.completion.chunk", "model": "m-1", "choices": [choice]}


def usage(prompt_tokens: object = 25, completion_tokens: object = 7, **more: object) -> Chunk:
    told = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, **more}
    return {"id": "c1", "model": "m-1", "choices": [], "usage": told}


PARIS = [part("Par"), part("is"), part(None, "stop"), usage()]


def sse(*chunks: Chunk, done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks]
    return b"".join([*lines, *([b"data: [DONE]\n\n"] if done else [])])


def streamed(*chunks: Chunk, done: bool = True) -> httpx2.Response:
    return httpx2.Response(200, headers=STREAM, content=sse(*chunks, done=done))


def refusal(status: int, text: str = "no", **more: str) -> httpx2.Response:
    return httpx2.Response(status, json={"error": {"message": text, **more}})


def model_of(name: str = "openai:m", **options: Any) -> Model:
    """Imported here, so that the tests are found where the extra is not installed."""
    from belljar.models.openai import OpenAIModel

    return OpenAIModel(name, **options)


def ask(answer: httpx2.Response | Handler, request: ModelRequest = REQUEST, url: str = LOCAL) -> ModelReply:
    async def main() -> ModelReply:
        handler = answer if callable(answer) else lambda _: answer
        client = httpx2.AsyncClient(transport=httpx2.MockTransport(handler))
        model = model_of(api_key=KEY, base_url=url, http_client=client)
        try:
            return await model.complete(request)
        finally:
            await model.aclose()
            assert client.is_closed

    return asyncio.run(main())


def fails(answer: httpx2.Response | Handler, request: ModelRequest = REQUEST, url: str = LOCAL) -> ModelFailed:
    with pytest.raises(ModelFailed) as caught:
        ask(answer, request, url)
    shown = "".join(traceback.format_exception(caught.value))
    assert KEY not in shown
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    return caught.value


def raising(error: Exception) -> Handler:
    def handler(_: httpx2.Request) -> httpx2.Response:
        raise error

    return handler


# What is answered


def test_a_text_and_its_usage() -> None:
    assert ask(streamed(*PARIS)) == ModelReply("Paris", Usage(25, 7), "m-1", "end_turn")


def test_what_is_cached_or_thought_is_a_part_of_what_is_counted() -> None:
    told = usage(
        prompt_tokens_details={"cached_tokens": 20}, completion_tokens_details={"reasoning_tokens": 5, "other": 1}
    )
    thought = part(None, reasoning_content="hm")
    assert ask(streamed(thought, *PARIS[:-1], told)) == ModelReply(
        "Paris", Usage(5, 7, cache_read_tokens=20, thinking_tokens=5), "m-1", "end_turn"
    )


def test_a_usage_that_is_told_with_every_chunk_is_not_added_up() -> None:
    counting = [{**chunk, "usage": {"prompt_tokens": 25, "completion_tokens": n}} for n, chunk in enumerate(PARIS[:3])]
    assert ask(streamed(*counting, usage())).usage == Usage(25, 7)


@pytest.mark.parametrize(
    ("told", "stop_reason"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("content_filter", "refusal"),
        ("tool_calls", "tool_calls"),
        ("new_one", "new_one"),
    ],
)
def test_finish_reasons_become_stop_reasons(told: str, stop_reason: str) -> None:
    assert ask(streamed(part("x", told), usage())).stop_reason == stop_reason


def test_a_refusal_that_is_told_in_words_is_one() -> None:
    reply = ask(streamed(part(None, refusal="I cannot"), part(None, "stop"), usage()))
    assert (reply.text, reply.stop_reason) == ("", "refusal")


def test_a_line_is_ended_by_a_line_feed_and_nothing_else() -> None:
    text = "a\u2028b\x85c\r\nd\x0be"
    raw = json.dumps(part(text, "stop"), ensure_ascii=False).encode()
    body = b": ping\n\ndata: " + raw + b"\r\n\r\n" + sse(usage())
    assert ask(httpx2.Response(200, headers=STREAM, content=body)).text == text


def test_halves_of_a_character_are_joined_across_chunks_and_replaced_where_alone() -> None:
    halves = [part(text) for text in ("a\ud83d", "\ude00b", "\ud83d")]
    assert ask(streamed(*halves, part(None, "stop"), usage())).text == "a\U0001f600b\ufffd"


# What is sent


def sent(url: str) -> httpx2.Request:
    requests: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return streamed(*PARIS)

    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    ask(handler, msgspec.structs.replace(REQUEST, messages=turns), url)
    (request,) = requests
    return request


@pytest.mark.parametrize(("url", "bound"), [(LOCAL, "max_tokens"), (OPENAI_URL, "max_completion_tokens")])
def test_the_request_holds_what_was_asked_and_nothing_that_models_refuse(url: str, bound: str) -> None:
    request = sent(url)
    assert str(request.url) == f"{url}/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert json.loads(request.content) == {
        "model": "m",
        bound: 500,
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
    }


def test_nothing_of_the_environment_is_sent_or_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"OPENAI_{name}", "sk-of-the-process")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere.test/v1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Canary: sk-of-the-process")
    request = sent(LOCAL)
    assert request.url.host == "api.test"
    assert "sk-of-the-process" not in str(request.headers.raw)
    assert "x-canary" not in request.headers
    assert not [name for name in request.headers if name.startswith("openai-")]


# What fails


@pytest.mark.parametrize(
    ("answer", "retryable", "charged", "said"),
    [
        (refusal(302), False, False, "refused the request"),
        (refusal(400), False, False, "refused the request"),
        (refusal(400, code="context_length_exceeded"), False, False, "the prompt is too long"),
        (refusal(400, type="exceed_context_size_error"), False, False, "the prompt is too long"),
        (refusal(401), False, False, "set OPENAI_API_KEY"),
        (refusal(404), False, False, "knows no model 'm'"),
        (refusal(413), False, False, "the prompt is too long"),
        (refusal(429), True, False, "too busy"),
        (refusal(429, code="insufficient_quota"), False, False, "too busy"),
        (refusal(500), True, True, "refused the request"),
        (httpx2.Response(502, text="<html>"), True, True, "refused the request"),
    ],
)
def test_a_status_says_whether_to_try_again_and_what_was_charged(
    answer: httpx2.Response, retryable: bool, charged: bool, said: str
) -> None:
    error = fails(answer)
    assert (error.retryable, error.charged) == (retryable, charged)
    assert said in str(error)
    assert (error.input_tokens, error.output_tokens) == (None, None)


def test_the_wait_that_the_provider_asks_for() -> None:
    answer = httpx2.Response(429, headers={"retry-after": "12"}, json={"error": {"message": "busy"}})
    assert fails(answer).retry_after_s == 12


def test_a_server_that_repeats_the_key_does_not_put_it_in_the_message() -> None:
    assert "bad key [31m[key] xxx" in str(fails(refusal(401, f"bad key\n\x1b[31m{KEY} " + "x" * 10_000)))


@pytest.mark.parametrize("number", range(3))
def test_a_stream_that_ends_before_its_finish_reason_is_no_answer(number: int) -> None:
    error = fails(streamed(*PARIS[:number], done=False))
    assert (error.retryable, error.charged, error.output_tokens) == (True, True, None)


def test_a_server_that_reports_no_usage_cannot_be_metered() -> None:
    error = fails(streamed(*PARIS[:-1]))
    assert "reports no usage" in str(error)
    assert (error.retryable, error.charged, error.output_tokens) == (False, True, None)


def test_an_error_in_the_stream() -> None:
    error = fails(streamed(PARIS[0], {"error": {"message": "out of memory", "code": 500}}))
    assert "broke off its answer (out of memory)" in str(error)
    assert (error.retryable, error.charged, error.output_tokens) == (True, True, None)


@pytest.mark.parametrize(
    ("raised", "retryable", "charged"),
    [
        (httpx2.ConnectError("refused"), True, False),
        (httpx2.PoolTimeout("full"), True, False),
        (httpx2.UnsupportedProtocol("gopher"), False, False),
        (httpx2.ReadError("reset"), True, True),
        (httpx2.RemoteProtocolError("what"), True, True),
    ],
)
def test_a_broken_connection(raised: Exception, retryable: bool, charged: bool) -> None:
    error = fails(raising(raised))
    assert (error.retryable, error.charged, error.input_tokens) == (retryable, charged, None)


@pytest.mark.parametrize(
    ("deadline_s", "said"),
    [(900.0, "stopped in the middle of its answer for 60 s"), (30.0, "no complete answer in 30 s")],
)
def test_a_stream_that_stalls_is_given_up(deadline_s: float, said: str) -> None:
    body = Paced(61, sse(PARIS[0], done=False), sse(*PARIS[1:]))
    request = msgspec.structs.replace(REQUEST, deadline_s=deadline_s)
    error = fails(httpx2.Response(200, headers=STREAM, stream=body), request)
    assert said in str(error)
    assert (error.retryable, error.charged, error.output_tokens) == (True, True, None)


# Prompts that were cut


def prompt_of(size: int) -> ModelRequest:
    return ModelRequest("", (Message("user", "x" * size),), 500, 60.0, "sub")


@pytest.mark.parametrize(
    ("size", "told", "output_tokens", "cut"),
    [
        (100_000, 4095, 7, True),  # far too little, wherever the window ends
        (40_000, 4096, 7, True),  # the window, to the token
        (40_000, 4090, 6, True),  # with the answer
        (40_000, 4095, 7, False),  # ten bytes in a token: odd, but not to the token
        (20_000, 4096, 7, False),  # five bytes in a token, as in prose
        (100_000, 0, 7, True),
    ],
)
def test_a_prompt_that_was_cut_silently_is_found_by_its_usage(
    size: int, told: int, output_tokens: int, cut: bool
) -> None:
    answer = streamed(*PARIS[:-1], usage(told, output_tokens))
    if not cut:
        assert ask(answer, prompt_of(size)).text == "Paris"
        return
    error = fails(answer, prompt_of(size))
    assert f"read {told} tokens" in str(error)
    assert "the prompt is too long" in str(error)  # a root model's conversation is shortened then
    assert (error.retryable, error.charged, error.input_tokens, error.output_tokens) == (
        False,
        True,
        told,
        output_tokens,
    )
    assert ask(answer, prompt_of(size), OPENAI_URL).text == "Paris"  # which says so, where a prompt is too long


# Garbage


@pytest.mark.parametrize(
    "chunks",
    [
        [part("x", "stop"), usage("many")],
        [part("x", "stop"), usage(-1)],
        [part("x", "stop"), usage(1, 2.5)],
        [part("x", "stop"), usage(1, 2**40)],
        [part("x", "stop"), usage(prompt_tokens_details={"cached_tokens": -1})],
        [{"choices": 5}],
        [{"choices": [{"index": 0, "delta": {"content": 5}}]}],
    ],
)
def test_a_stream_that_makes_no_sense_is_a_failure_of_unknown_cost(chunks: list[Chunk]) -> None:
    error = fails(streamed(*chunks))
    assert "not a chat completion" in str(error)
    assert (error.charged, error.output_tokens) == (True, None)


@pytest.mark.parametrize(("status", "piece"), [(500, b"x\n" * 30_000), (200, b"x" * 65536)])
def test_a_server_that_never_ends_what_it_says_is_given_up(status: int, piece: bytes) -> None:
    body = Endless(piece, 4 << 20)
    assert fails(httpx2.Response(status, headers=STREAM, stream=body)).charged
    assert body.sent < 2 << 20


@settings(deadline=None)
@given(st.integers(200, 599), st.binary(max_size=200))
@example(200, b"data: " + b"[" * 100_000 + b"\n\n")
@example(200, b"data: {}\n\n")
@example(200, b"data: [1]\n\n")
@example(200, b'data: {"error": []}\n\n')
@example(400, b'{"error": {"message": {"a": []}, "type": ["x"], "code": {}}}')
def test_any_bytes_give_a_reply_or_a_failure(status: int, data: bytes) -> None:
    with contextlib.suppress(ModelFailed):
        ask(httpx2.Response(status, headers={"content-type": "application/json"}, content=data))


# The key and the URL


def test_only_a_server_of_ones_own_needs_no_key() -> None:
    async def main() -> None:
        model = model_of(base_url="http://user:password@api.test:81/v1")
        assert repr(model) == "OpenAIModel('openai:m', host='api.test:81')"
        await model.aclose()
        model = model_of(api_key=f" {KEY}\n", base_url=OPENAI_URL)
        assert KEY not in repr(model)
        await model.aclose()

    asyncio.run(main())
    with pytest.raises(InvalidInput, match="set OPENAI_API_KEY"):
        model_of(base_url=OPENAI_URL)
    with pytest.raises(InvalidInput, match="OPENAI_BASE_URL"):
        model_of(base_url="ftp://x")
    with pytest.raises(InvalidInput, match="name"):
        model_of("openai:", base_url=LOCAL)
