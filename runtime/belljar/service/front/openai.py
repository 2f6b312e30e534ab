"""`POST /v1/chat/completions`, as the Chat Completions API has it. The progress of a run is told in comments."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from belljar.errors import BelljarError, InvalidInput
from belljar.service import streams
from belljar.service.front.asked import Said, said
from belljar.service.front.running import answer_of, begun, finished, progress, split, told
from belljar.service.problems import Problem, problem_of
from belljar.service.routes import IDEMPOTENCY, TRACEPARENT, Asking, Faults, Nothing, Route, own
from belljar.streaming import ResultEvent

__all__ = [
    "FAULTS",
    "ROUTES",
    "ChatAsked",
    "ChatChoice",
    "ChatCompletion",
    "ChatError",
    "ChatFault",
    "ChatMessage",
    "ChatReply",
    "ChatUsage",
    "Part",
    "ResponseFormat",
    "StreamOptions",
]

_INSTRUCTIONS: Final = ("system", "developer")


class Part(msgspec.Struct, frozen=True):
    """A piece of a message. Only text can be asked about."""

    type: Annotated[str, Meta(max_length=40)]
    text: str = ""


class ChatMessage(msgspec.Struct, frozen=True):
    """A message of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]


class StreamOptions(msgspec.Struct, frozen=True):
    """With `include_usage`, a last piece tells the tokens."""

    include_usage: bool = False


class ResponseFormat(msgspec.Struct, frozen=True):
    """The form of the answer; `text` is the only one that there is."""

    type: Annotated[str, Meta(max_length=40)]


class ChatAsked(msgspec.Struct, frozen=True):
    """A request as the Chat Completions API has it. `model` is one of `/v1/models`.

    There is one choice, a text. What is not here has no effect: `max_tokens`, `stop` and sampling parameters bound
    nothing.
    """

    model: Annotated[str, Meta(min_length=1, max_length=200)]
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=1000)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[Any] = []
    functions: list[Any] = []
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    response_format: ResponseFormat | None = None


class ChatUsage(msgspec.Struct, frozen=True):
    """All tokens of all calls of the run, the root model's and those of its program."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatReply(msgspec.Struct, frozen=True):
    """The answer as a message."""

    content: str
    role: str = "assistant"


class ChatChoice(msgspec.Struct, frozen=True):
    """The one choice that there is."""

    message: ChatReply
    index: int = 0
    finish_reason: str = "stop"


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """The answer."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: tuple[ChatChoice, ...]
    usage: ChatUsage


class ChatFault(msgspec.Struct, frozen=True):
    """What was wrong; `code` is ours, but for `model_not_found`."""

    message: str
    type: str
    code: str
    param: str | None = None


class ChatError(msgspec.Struct, frozen=True):
    """An error as the API has it."""

    error: ChatFault


def _error(problem: Problem) -> ChatError:
    kind = "server_error" if problem.status >= 500 else "invalid_request_error"
    if problem.code == "front.model":  # for which programs look by the name that the API has for it
        return ChatError(ChatFault(problem.detail, kind, "model_not_found", "model"))
    return ChatError(ChatFault(problem.detail, kind, problem.code, problem.at))


FAULTS: Final = Faults(ChatError, _error)


async def _complete(asking: Asking[Nothing, ChatAsked]) -> Any:
    body = asking.body
    if body.tools or body.functions:
        raise InvalidInput("a run has no tools of its caller's: leave `tools` and `functions` out", code="front.tools")
    if body.n not in (None, 1):
        raise InvalidInput("a run gives one answer: leave `n` out, or ask as often", code="front.choices")
    if body.response_format is not None and body.response_format.type != "text":
        raise InvalidInput(
            "the answer is a text: leave `response_format` out, or order a run with `answer_schema` by POST /v1/runs",
            code="front.format",
        )
    run = await begun(asking, body.model, lambda: _said(body))
    if body.stream:
        asking.body = msgspec.structs.replace(body, messages=[])  # what is streamed may last, and nobody counts it
        return streams.events(_streamed(asking, run))
    result = await finished(asking, run)
    return ChatCompletion(
        id=f"chatcmpl-{run}",
        created=int(time.time()),
        model=body.model,
        choices=(ChatChoice(ChatReply(answer_of(result))),),
        usage=_usage(result.usage.input_tokens, result.usage.output_tokens),
    )


def _said(body: ChatAsked) -> tuple[str, list[Said]]:
    pieces = [one for message in body.messages for one in said(message.role, message.content, "parts")]
    system = "\n".join(one.text for one in pieces if one.role in _INSTRUCTIONS)
    return system, [one for one in pieces if one.role not in _INSTRUCTIONS]


def _usage(prompt: int, completion: int) -> ChatUsage:
    return ChatUsage(prompt, completion, prompt + completion)


async def _streamed(asking: Asking[Nothing, ChatAsked], run: str) -> AsyncGenerator[bytes, None]:
    body, created = asking.body, int(time.time())

    def chunk(choices: list[Any], **more: Any) -> bytes:
        piece = {"id": f"chatcmpl-{run}", "object": "chat.completion.chunk", "created": created, "model": body.model}
        return b"data: %b\n\n" % msgspec.json.encode({**piece, "choices": choices, **more})

    def choice(delta: dict[str, str], reason: str | None = None) -> list[Any]:
        return [{"index": 0, "delta": delta, "finish_reason": reason}]

    yield chunk(choice({"role": "assistant", "content": ""}))
    events = told(asking, run)
    try:
        async for event in events:
            if event is None:
                yield b": still here\n\n"
            if (line := progress(event)) is not None:
                yield b": %b\n\n" % line.strip().encode("ascii", "backslashreplace")
            if isinstance(event, ResultEvent):
                try:
                    text = answer_of(event.result)
                except BelljarError as error:
                    problem = problem_of(error, asking.id, folders=asking.service.folders)
                    yield b"data: %b\n\n" % msgspec.json.encode(_error(problem))
                    return
                for content in split(text):
                    yield chunk(choice({"content": content}))
                yield chunk(choice({}, "stop"))
                if body.stream_options is not None and body.stream_options.include_usage:
                    usage = event.result.usage
                    yield chunk([], usage=_usage(usage.input_tokens, usage.output_tokens))
                yield b"data: [DONE]\n\n"
    except BelljarError as error:  # it never began, or its caller may not hear of it any more
        problem = problem_of(error, asking.id, folders=asking.service.folders)
        yield b"data: %b\n\n" % msgspec.json.encode(_error(problem))
    finally:
        await events.aclose()


ROUTES = (
    Route(
        method="POST",
        path="/v1/chat/completions",
        summary="Answer a conversation, as the Chat Completions API does",
        action="run",
        owner=own,
        handler=_complete,
        body=ChatAsked,
        answer=ChatCompletion,
        refuses=(404, 409, 502),
        headers={**IDEMPOTENCY, **TRACEPARENT},
        gives=("application/json", "text/event-stream"),
        faults=FAULTS,
    ),
)
