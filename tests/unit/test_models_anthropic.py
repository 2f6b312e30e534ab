"""The Messages API as the real SDK speaks it, over a transport that answers from memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import traceback
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry import trace

from belljar.errors import InvalidInput, ModelFailed
from belljar.models import Message, ModelReply, ModelRequest, Usage
from belljar.models.anthropic import ANTHROPIC_URL, AnthropicModel
from tests.bodies import Endless, Paced
from tests.waiting import pass_time

KEY = "sk-ant-very-secret"
REQUEST = ModelRequest("be brief", (Message("user", "Capital of France?"),), 50_000, 60.0, "sub")

Event = dict[str, Any]
Handler = Callable[[httpx2.Request], httpx2.Response]


def start(input_tokens: object = 25, **more: object) -> Event:
    usage = {"input_tokens": input_tokens, "output_tokens": 1, **more}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5-5-20261001"}
    return {"type": "message_start", "message": {**message, "content": [], "stop_reason": None, "usage": usage}}


def block(index: int, kind: str, *parts: str) -> list[Event]:
    empty = {"type": kind, kind: ""} | ({"signature": ""} if kind == "thinking" else {})
    deltas = [{"type": f"{kind}_delta", kind: part} for part in parts]
    return [
        {"type": "content_block_start", "index": index, "content_block": empty},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def delta(stop_reason: str | None = "end_turn", output_tokens: object = 7, **more: object) -> Event:
    usage = {"output_tokens": output_tokens, **more}
    return {"type": "message_delta", "delta": {"stop_reason": stop_reason, "stop_sequence": None}, "usage": usage}


STOP: Event = {"type": "message_stop"}
PARIS = [start(), *block(0, "text", "Par", "is"), delta(), STOP]


def sse(*events: Event) -> bytes:
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def streamed(*events: Event) -> httpx2.Response:
    return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=sse(*events))


def refusal(status: int, kind: str = "some_error", text: str = "no", **headers: str) -> httpx2.Response:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.Response(status, headers=headers, json={"type": "error", "error": {"type": kind, "message": text}})


async def ask_async(handler: Handler, request: ModelRequest = REQUEST, **options: Any) -> ModelReply:
    client = httpx2.AsyncClient(transport=httpx2.MockTransport(handler))
    url = "http://api.test/v9"
    model = AnthropicModel("claude-sonnet-5-5", api_key=KEY, base_url=url, http_client=client, **options)
    try:
        return await model.complete(request)
    finally:
        await model.aclose()
        assert client.is_closed


def ask(answer: httpx2.Response | Handler, request: ModelRequest = REQUEST) -> ModelReply:
    return asyncio.run(ask_async(answer if callable(answer) else lambda _: answer, request))


def fails(answer: httpx2.Response | Handler, request: ModelRequest = REQUEST) -> ModelFailed:
    with pytest.raises(ModelFailed) as caught:
        ask(answer, request)
    shown = "".join(traceback.format_exception(caught.value))
    assert KEY not in shown
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    return caught.value


class Cut(httpx2.AsyncByteStream):
    """A body that breaks after some bytes."""

    def __init__(self, data: bytes, error: Exception) -> None:
        self._data = data
        self._error = error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data
        raise self._error


def cut(data: bytes) -> httpx2.Response:
    error = httpx2.RemoteProtocolError("peer closed connection without sending complete message body")
    return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Cut(data, error))


def raising(error: Exception) -> Handler:
    def handler(_: httpx2.Request) -> httpx2.Response:
        raise error

    return handler


# What is answered


def test_a_text_and_its_usage() -> None:
    reply = ask(streamed(*PARIS))
    assert reply == ModelReply("Paris", Usage(25, 7), "claude-sonnet-5-5-20261001", "end_turn")


def test_only_text_blocks_are_the_answer() -> None:
    events = [start(), *block(0, "thinking", "hm"), *block(1, "text", "Par"), *block(2, "text", "is"), delta(), STOP]
    assert ask(streamed(*events)).text == "Paris"


def test_the_last_usage_replaces_earlier_ones_and_what_it_leaves_out_stays() -> None:
    first = start(25, cache_read_input_tokens=100, cache_creation_input_tokens=50)
    usage = ask(streamed(first, delta(None, 3), delta(output_tokens=9, cache_read_input_tokens=90), STOP)).usage
    assert usage == Usage(input_tokens=25, output_tokens=9, cache_read_tokens=90, cache_write_tokens=50)


@pytest.mark.parametrize(
    "stop_reason", ["max_tokens", "refusal", "stop_sequence", "model_context_window_exceeded", "new_one"]
)
def test_every_stop_reason_is_passed_on(stop_reason: str) -> None:
    reply = ask(streamed(start(), delta(stop_reason), STOP))
    assert (reply.text, reply.stop_reason) == ("", stop_reason)


def test_an_answer_that_the_provider_paused_is_not_whole_and_its_cost_is_known() -> None:
    error = fails(streamed(start(), *block(0, "text", "Half"), delta("pause_turn"), STOP))
    assert "paused" in str(error)
    assert (error.retryable, error.charged, error.input_tokens, error.output_tokens) == (False, True, 25, 7)


def test_thinking_is_counted_as_a_part_of_the_output() -> None:
    events = [start(), *block(0, "thinking", "hm"), *block(1, "text", "Paris")]
    told = delta(output_tokens=9, output_tokens_details={"thinking_tokens": 6})
    assert ask(streamed(*events, told, STOP)).usage == Usage(25, 9, thinking_tokens=6)
    more_than_all = delta(output_tokens=9, output_tokens_details={"thinking_tokens": 10})
    assert ask(streamed(*events, more_than_all, STOP)).usage == Usage(25, 9, thinking_tokens=9)


def test_what_is_written_for_an_hour_is_told_apart() -> None:
    split = {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 30}
    first = start(25, cache_creation_input_tokens=50, cache_creation=split)
    assert ask(streamed(first, delta(), STOP)).usage == Usage(25, 7, 0, 50, 30)
    assert ask(streamed(first, delta(cache_creation_input_tokens=60), STOP)).usage == Usage(25, 7, 0, 60, 30)
    assert ask(streamed(first, delta(cache_creation_input_tokens=10), STOP)).usage == Usage(25, 7, 0, 10, 10)


def test_a_failure_says_what_of_its_input_was_cached() -> None:
    split = {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 30}
    first = start(25, cache_read_input_tokens=100, cache_creation_input_tokens=50, cache_creation=split)
    error = fails(streamed(first, delta()))
    assert (error.input_tokens, error.output_tokens) == (175, 7)
    assert (error.cache_read_tokens, error.cache_write_tokens, error.cache_write_1h_tokens) == (100, 50, 30)


def test_events_not_yet_invented_are_passed_over() -> None:
    news = {"type": "content_block_news", "index": 0, "news": {}}
    assert ask(streamed(news, start(), news, *block(0, "text", "Paris"), delta(), STOP)).text == "Paris"


# What is sent


def test_the_request_holds_what_was_asked_and_nothing_that_models_refuse() -> None:
    sent: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return streamed(*PARIS)

    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    ask(handler, ModelRequest("", turns, 50_000, 5.0, "root"))
    (request,) = sent
    assert str(request.url) == "http://api.test/v9/v1/messages"
    assert KEY in request.headers["authorization"] + request.headers.get("x-api-key", "")
    assert json.loads(request.content) == {
        "model": "claude-sonnet-5-5",
        "max_tokens": 50_000,
        "stream": True,
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
        "cache_control": {"type": "ephemeral"},
    }


def test_only_a_conversation_is_kept_in_the_provider_s_cache() -> None:
    sent: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return streamed(*PARIS)

    ask(handler, ModelRequest("", (Message("user", "a"),), 50_000, 5.0, "sub"))
    assert "cache_control" not in json.loads(sent[0].content)


def test_a_conversation_may_be_kept_for_an_hour() -> None:
    sent: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return streamed(*PARIS)

    asyncio.run(ask_async(handler, msgspec.structs.replace(REQUEST, purpose="root"), cache_ttl="1h"))
    assert json.loads(sent[0].content)["cache_control"] == {"type": "ephemeral", "ttl": "1h"}


def test_halves_of_a_character_are_joined_across_deltas_and_replaced_where_alone() -> None:
    halves = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        for text in ("a\ud83d", "\ude00b", "\ud83d")
    ]
    reply = ask(streamed(PARIS[0], PARIS[1], *halves, *PARIS[-3:]))
    assert reply.text == "a\U0001f600b\ufffd"


def test_no_trace_leaves_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_OPEN_TELEMETRY", "true")
    context = trace.SpanContext(trace_id=1, span_id=1, is_remote=False, trace_flags=trace.TraceFlags(1))

    def handler(request: httpx2.Request) -> httpx2.Response:
        assert "traceparent" not in request.headers
        return streamed(*PARIS)

    with trace.use_span(trace.NonRecordingSpan(context)):
        assert ask(handler).text == "Paris"


class Noted(trace.NonRecordingSpan):
    """A span that keeps what it is told."""

    def __init__(self, notes: list[object]) -> None:
        super().__init__(trace.SpanContext(trace_id=1, span_id=2, is_remote=False, trace_flags=trace.TraceFlags(1)))
        self._notes = notes

    def is_recording(self) -> bool:
        return True

    def set_attribute(self, key: str, value: object) -> None:
        self._notes.append((key, value))

    def set_attributes(self, attributes: Any) -> None:
        self._notes.append(dict(attributes))

    def add_event(self, *event: Any, **more: Any) -> None:
        self._notes.append((event, more))


class Noting(trace.TracerProvider, trace.NoOpTracer):
    """A provider of such spans, and its own tracer."""

    def __init__(self) -> None:
        self.notes: list[object] = []

    def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
        return self

    def start_span(self, name: str, *_: Any, attributes: Any = None, **__: Any) -> trace.Span:
        self.notes += [name, dict(attributes or {})]
        return Noted(self.notes)


def test_spans_that_were_asked_for_have_no_text_and_nothing_of_them_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_OPEN_TELEMETRY_TRACES_CONTENT_MODE", "content")
    provider = Noting()
    sent: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return streamed(*PARIS)

    assert asyncio.run(ask_async(handler, tracer_provider=provider)).text == "Paris"
    assert "claude-sonnet-5-5" in str(provider.notes)
    assert not any(text in str(provider.notes) for text in ("Paris", "France", "brief", KEY))
    assert "traceparent" not in sent[0].headers


def test_no_header_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "X-Canary: of-the-process\nAuthorization: Bearer of-the-process")
    sent: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return streamed(*PARIS)

    assert ask(handler).text == "Paris"
    assert "of-the-process" not in str(sent[0].headers.raw)
    assert KEY in sent[0].headers["authorization"]


def test_one_call_is_one_request() -> None:
    sent: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return refusal(529, "overloaded_error")

    assert fails(handler).retryable
    assert len(sent) == 1


# What fails


@pytest.mark.parametrize(
    ("status", "retryable", "charged", "said"),
    [
        (302, False, False, "refused the request"),
        (400, False, False, "refused the request"),
        (401, False, False, "set ANTHROPIC_API_KEY"),
        (403, False, False, "set ANTHROPIC_API_KEY"),
        (404, False, False, "knows no model 'claude-sonnet-5-5'"),
        (408, True, True, "refused the request"),
        (413, False, False, "the prompt is too long"),
        (429, True, False, "too busy"),
        (500, True, True, "refused the request"),
        (504, True, True, "refused the request"),
        (529, True, False, "too busy"),
    ],
)
def test_a_status_says_whether_to_try_again_and_what_was_charged(
    status: int, retryable: bool, charged: bool, said: str
) -> None:
    error = fails(refusal(status))
    assert (error.retryable, error.charged) == (retryable, charged)
    assert said in str(error)
    assert (error.input_tokens, error.output_tokens, error.retry_after_s) == (None, None, None)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "12"}, 12.0),
        ({"retry_after": "1.5", "retry_after_ms": "250"}, 0.25),
        ({"retry_after": "-1"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_the_wait_that_the_provider_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert fails(refusal(429, **headers)).retry_after_s == seconds


def test_the_wait_may_be_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    wait_s = fails(refusal(429, retry_after=date)).retry_after_s
    assert wait_s is not None
    assert 90 < wait_s <= 100


def test_the_provider_may_say_itself_whether_to_try_again() -> None:
    assert fails(refusal(400, x_should_retry="true")).retryable
    assert not fails(refusal(429, x_should_retry="false")).retryable


def test_a_provider_that_repeats_the_key_does_not_put_it_in_the_message() -> None:
    error = fails(refusal(401, text=f"bad key\n\x1b[31m{KEY} " + "x" * 10_000))
    assert "bad key [31m[key] xxx" in str(error)
    error = fails(raising(httpx2.ConnectError(f"proxy said {KEY}")))
    assert "proxy said [key]" in str(error)


@pytest.mark.parametrize("length", range(0, len(sse(*PARIS)), 40))
def test_a_cut_at_any_byte_says_what_is_known_of_the_bill(length: int) -> None:
    data = sse(*PARIS)
    error = fails(cut(data[:length]))
    assert error.retryable
    assert error.charged
    assert error.input_tokens == (25 if length >= len(sse(PARIS[0])) else None)
    assert error.output_tokens == (7 if length >= len(sse(*PARIS[:-1])) else None)


@pytest.mark.parametrize("count", range(len(PARIS)))
def test_a_stream_that_ends_before_its_last_event_is_no_answer(count: int) -> None:
    error = fails(streamed(*PARIS[:count]))
    assert error.retryable
    assert error.charged
    assert error.input_tokens == (25 if count else None)
    assert error.output_tokens == (7 if count == len(PARIS) - 1 else None)


def test_an_error_event_in_the_stream_keeps_the_known_usage() -> None:
    overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    error = fails(streamed(PARIS[0], overloaded))
    assert "broke off its answer (Overloaded)" in str(error)
    assert (error.retryable, error.charged, error.input_tokens, error.output_tokens) == (True, True, 25, None)


@pytest.mark.parametrize(
    ("raised", "retryable", "charged"),
    [
        (httpx2.ConnectError("refused"), True, False),
        (httpx2.ConnectTimeout("slow"), True, False),
        (httpx2.PoolTimeout("full"), True, False),
        (httpx2.UnsupportedProtocol("gopher"), False, False),
        (httpx2.ReadError("reset"), True, True),
        (httpx2.WriteError("reset"), True, True),
        (httpx2.RemoteProtocolError("what"), True, True),
        (httpx2.ReadTimeout("slow"), True, True),
    ],
)
def test_a_broken_connection(raised: Exception, retryable: bool, charged: bool) -> None:
    error = fails(raising(raised))
    assert (error.retryable, error.charged, error.input_tokens) == (retryable, charged, None)


def test_a_deadline_ends_the_call_and_keeps_the_known_usage() -> None:
    class Slow(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield sse(PARIS[0])
            pass_time(60)
            await asyncio.Event().wait()

    response = httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Slow())
    error = fails(response)
    assert "no complete answer in 60 s" in str(error)
    assert (error.retryable, error.charged, error.input_tokens, error.output_tokens) == (True, True, 25, None)


PATIENT = msgspec.structs.replace(REQUEST, deadline_s=900.0)


def test_a_stream_that_stalls_is_given_up_long_before_its_deadline() -> None:
    body = Paced(61, *(sse(event) for event in PARIS))
    error = fails(httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=body), PATIENT)
    assert "stopped in the middle of its answer for 60 s" in str(error)
    assert (error.retryable, error.charged, error.input_tokens, error.output_tokens) == (True, True, 25, None)


def test_pings_hold_a_stream_open() -> None:
    ping = b'event: ping\ndata: {"type": "ping"}\n\n'
    body = Paced(50, sse(PARIS[0]), ping, ping, ping, sse(*PARIS[1:]))
    response = httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=body)
    assert ask(response, PATIENT).text == "Paris"


def test_a_cancelled_call_is_cancelled_and_no_failure() -> None:
    async def main() -> None:
        asked = asyncio.Event()

        async def handler(_: httpx2.Request) -> httpx2.Response:
            asked.set()
            await asyncio.sleep(60)
            return streamed(*PARIS)

        client = httpx2.AsyncClient(transport=httpx2.MockTransport(handler))
        model = AnthropicModel("claude-x", api_key=KEY, base_url="http://api.test", http_client=client)
        task = asyncio.create_task(model.complete(REQUEST))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await model.aclose()

    asyncio.run(main())


def never(_: httpx2.Request) -> httpx2.Response:
    raise AssertionError("something was sent")


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (ModelRequest("", REQUEST.messages, 10, 0.0, "sub"), "no time is left"),
        (ModelRequest("", (Message("user", "\ud800"),), 10, 5.0, "sub"), "surrogate"),
        (ModelRequest("\udfff", REQUEST.messages, 10, 5.0, "sub"), "surrogate"),
    ],
)
def test_what_cannot_be_asked_is_not_sent(request_: ModelRequest, said: str) -> None:
    error = fails(never, request_)
    assert said in str(error)
    assert not error.charged


# Garbage


def prompt_of(size: int) -> ModelRequest:
    return msgspec.structs.replace(REQUEST, system="", messages=(Message("user", "x" * size),))


def at(url: str, request: ModelRequest, answer: httpx2.Response) -> ModelReply:
    """What a host at this address comes to that gives this answer."""

    async def main() -> ModelReply:
        client = httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: answer))
        model = AnthropicModel("claude-sonnet-5-5", api_key=KEY, base_url=url, http_client=client)
        try:
            return await model.complete(request)
        finally:
            await model.aclose()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("size", "told", "is_cut"), [(100_000, 4095, True), (40_000, 4096, True), (20_000, 4096, False)]
)
def test_a_prompt_that_a_local_server_cut_silently_is_found_by_its_usage(size: int, told: int, is_cut: bool) -> None:
    answer = streamed(start(told), *PARIS[1:])
    assert at(ANTHROPIC_URL, prompt_of(size), streamed(start(told), *PARIS[1:])).text == "Paris"
    if not is_cut:
        assert ask(answer, prompt_of(size)).text == "Paris"
        return
    error = fails(answer, prompt_of(size))
    assert f"read {told} tokens" in str(error)
    assert "the prompt is too long" in str(error)  # a root model's conversation is shortened then
    assert (error.retryable, error.charged, error.input_tokens, error.output_tokens) == (False, True, told, 7)


def test_a_request_that_the_provider_never_takes_is_not_sent() -> None:
    with pytest.raises(ModelFailed, match=r"the prompt is too long for api\.anthropic\.com, which takes") as caught:
        at(ANTHROPIC_URL, prompt_of(32 * 2**20 + 1), refusal(500))
    assert (caught.value.charged, caught.value.retryable) == (False, False)
    answer = streamed(start(9_000_000), *PARIS[1:])
    assert ask(answer, prompt_of(32 * 2**20 + 1)).text == "Paris"  # a server of one's own may take it


@pytest.mark.parametrize(
    "events",
    [
        [start("many"), delta(), STOP],
        [start(-1), delta(), STOP],
        [start(None), delta(), STOP],
        [start(), delta(output_tokens=-7), STOP],
        [start(), delta(output_tokens=None), STOP],
        [start(), delta(output_tokens=7.5), STOP],
        [start(cache_read_input_tokens="many"), delta(), STOP],
        [start(2**32 + 1), delta(), STOP],  # as an answer, the caller would take it for a fault of the host
        [start(), delta(output_tokens=10**30), STOP],
        [start(), delta(5), STOP],  # type: ignore[arg-type]
        [{"type": "message_start"}, delta(), STOP],
        [{"type": "message_start", "message": {}}, delta(), STOP],
        [delta(), STOP],
        [start(), {"type": "content_block_delta", "index": 3, "delta": {"type": "text_delta", "text": "x"}}, STOP],
        [start(), {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": 5}}, STOP],
        [start(), {"type": "content_block_start", "index": 0}, STOP],
    ],
)
def test_a_stream_that_makes_no_sense_is_a_failure_of_unknown_cost(events: list[Event]) -> None:
    error = fails(streamed(*events))
    assert error.charged
    assert error.output_tokens is None


@pytest.mark.parametrize(
    ("status", "piece", "most"),
    [
        (500, b"x" * 65536, 2 << 20),
        (500, b"data: {}\n\n" * 5000, 2 << 20),
        (200, b"data: " + b"x" * 65536, 2 << 20),
        (200, b"data: x\n" * 100, 1 << 16),
        (200, b"\r\ndata: x", 1 << 16),
    ],
)
def test_a_server_that_never_ends_what_it_says_is_given_up(status: int, piece: bytes, most: int) -> None:
    body = Endless(piece, 2 * most)
    error = fails(httpx2.Response(status, headers={"content-type": "text/event-stream"}, stream=body))
    assert body.sent < most
    assert error.charged


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_each_event_has_its_own_bound_however_it_comes_in_pieces(end: str, size: int) -> None:
    events = [start(), *block(0, "text", *["ab"] * 600), delta(), STOP]
    lines = "".join(
        f"event: {event['type']}{end[: len(end) // 2]}data: {json.dumps(event)}{end}" for event in events
    ).encode()

    class Pieces(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for at in range(0, len(lines), size):
                yield lines[at : at + size]

    reply = ask(httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Pieces()))
    assert reply.text == "ab" * 600


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def replaced(value: Any, path: list[int], by: object) -> Any:
    """The value with one of its inner values, found by the path, replaced."""
    if not path or not isinstance(value, (dict, list)) or not value:
        return by
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[path[0] % len(keys)]
    changed = value.copy()
    changed[key] = replaced(value[key], path[1:], by)
    return changed


def gives_a_reply_or_a_failure(response: httpx2.Response) -> None:
    with contextlib.suppress(ModelFailed):
        reply = ask(response)
        assert isinstance(reply.text, str)
        assert type(reply.usage.total_input_tokens) is type(reply.usage.output_tokens) is int


@settings(deadline=None)
@given(st.integers(200, 599), st.binary(max_size=200))
@example(200, b"event: message_start\ndata: {}\n\n")
@example(200, b"event: message_start\ndata: [1]\n\n")
@example(200, b"event: message_start\ndata: " + b"[" * 100_000 + b"\n\n")
@example(200, b"event: error\ndata: {\n\n")
@example(400, b'{"error": {"message": {"a": []}, "type": ["x"]}}')
def test_any_bytes_give_a_reply_or_a_failure(status: int, data: bytes) -> None:
    gives_a_reply_or_a_failure(httpx2.Response(status, headers={"content-type": "text/event-stream"}, content=data))


@pytest.mark.slow
@settings(deadline=None)
@given(st.integers(0, len(PARIS) - 1), st.lists(st.integers(0, 9), min_size=1, max_size=5), json_values)
def test_any_value_in_any_place_gives_a_reply_or_a_failure(number: int, path: list[int], by: object) -> None:
    events = [*PARIS[:number], replaced(PARIS[number], path, by), *PARIS[number + 1 :]]
    data = b"".join(
        f"event: {original['type']}\ndata: {json.dumps(event)}\n\n".encode()
        for original, event in zip(PARIS, events, strict=True)
    )
    gives_a_reply_or_a_failure(httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=data))


# The key and the URL


@pytest.mark.parametrize("key", ["", "  ", "sk ant", "sk-ä", "sk\nant", "x" * 5000])
def test_what_cannot_be_a_key_is_refused_unseen(key: str) -> None:
    with pytest.raises(InvalidInput, match="set ANTHROPIC_API_KEY") as caught:
        AnthropicModel("claude-x", api_key=key, base_url="http://api.test")
    assert not key.strip() or key not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "api.test", "ftp://api.test", "http://", "http://[", "http://a:b", "http://a b", "http://\x00"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="ANTHROPIC_BASE_URL") as caught:
        AnthropicModel("claude-x", api_key=KEY, base_url=url)
    assert caught.value.code == "model.url"


@pytest.mark.parametrize("name", ["", "claude-\x1b[2J", "claude x", "claude-" + "x" * 200])
def test_what_cannot_stand_in_a_message_is_no_name(name: str) -> None:
    with pytest.raises(InvalidInput, match="name"):
        AnthropicModel(name, api_key=KEY, base_url="http://api.test")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "https://a-b.test/x/", "http://[::1]:81", "https://bücher.test"])
def test_what_is_a_url_is_taken(url: str) -> None:
    async def main() -> None:
        await AnthropicModel("claude-x", api_key=KEY, base_url=url).aclose()

    asyncio.run(main())


def test_neither_key_nor_password_is_in_the_repr() -> None:
    async def main() -> None:
        model = AnthropicModel("claude-x", api_key=f" {KEY}\n", base_url="http://user:password@api.test:81/v9")
        assert repr(model) == "AnthropicModel('claude-x', host='api.test:81')"
        await model.aclose()

    asyncio.run(main())
