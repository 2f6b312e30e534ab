"""`POST /v1/messages`, as the Messages API has it. The progress of a run is told as thinking."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from belljar.errors import BelljarError, InvalidInput
from belljar.service import streams
from belljar.service.front.asked import Said, said
from belljar.service.front.running import answer_of, begun, finished, progress, split, told
from belljar.service.problems import Problem, problem_of
from belljar.service.routes import IDEMPOTENCY, TRACEPARENT, Asking, Faults, Route, own
from belljar.streaming import ResultEvent

__all__ = [
    "FAULTS",
    "ROUTES",
    "ErrorDetail",
    "ErrorOut",
    "MessageIn",
    "MessageOut",
    "MessagesAsked",
    "MessagesQuery",
    "OutputConfig",
    "TextBlock",
    "Tokens",
]

_KINDS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class MessagesQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`beta` has no effect: clients of what is in preview send it with each request."""

    beta: bool = False


class TextBlock(msgspec.Struct, frozen=True):
    """A piece of a message. Only text can be asked about."""

    type: Annotated[str, Meta(max_length=40)]
    text: str = ""


class MessageIn(msgspec.Struct, frozen=True):
    """A message of the conversation."""

    role: Literal["user", "assistant"]
    content: str | list[TextBlock]


class OutputConfig(msgspec.Struct, frozen=True):
    """How the answer is to be; there is no `format` but a text."""

    format: dict[str, Any] | None = None


class MessagesAsked(msgspec.Struct, frozen=True):
    """A request as the Messages API has it. `model` is one of `/v1/models`.

    The answer is a text. What is not here has no effect: `max_tokens`, `stop_sequences` and sampling parameters bound
    nothing.
    """

    model: Annotated[str, Meta(min_length=1, max_length=200)]
    messages: Annotated[list[MessageIn], Meta(min_length=1, max_length=1000)]
    system: str | list[TextBlock] = ""
    stream: bool = False
    tools: list[Any] = []
    output_format: dict[str, Any] | None = None
    output_config: OutputConfig | None = None


class Tokens(msgspec.Struct, frozen=True):
    """All tokens of all calls of the run, the root model's and those of its program."""

    input_tokens: int
    output_tokens: int


class MessageOut(msgspec.Struct, frozen=True, kw_only=True):
    """The answer."""

    id: str
    type: str = "message"
    role: str = "assistant"
    model: str
    content: tuple[TextBlock, ...]
    stop_reason: str | None = "end_turn"
    stop_sequence: str | None = None
    usage: Tokens


class ErrorDetail(msgspec.Struct, frozen=True):
    """What was wrong; `code` is ours."""

    type: str
    message: str
    code: str


class ErrorOut(msgspec.Struct, frozen=True):
    """An error as the Messages API has it."""

    error: ErrorDetail
    request_id: str
    type: str = "error"


def _error(problem: Problem) -> ErrorOut:
    kind = _KINDS.get(problem.status, "api_error" if problem.status >= 500 else "invalid_request_error")
    return ErrorOut(ErrorDetail(kind, problem.detail, problem.code), problem.request)


FAULTS: Final = Faults(ErrorOut, _error)


async def _messages(asking: Asking[MessagesQuery, MessagesAsked]) -> Any:
    body = asking.body
    if body.tools:
        raise InvalidInput("a run has no tools of its caller's: leave `tools` out", code="front.tools")
    form = body.output_format or (None if body.output_config is None else body.output_config.format)
    if form is not None and form.get("type") != "text":
        raise InvalidInput(
            "the answer is a text: leave its format out, or order a run with `answer_schema` by POST /v1/runs",
            code="front.format",
        )
    run = await begun(asking, body.model, lambda: _said(body))
    if body.stream:
        asking.body = msgspec.structs.replace(body, messages=[], system="")  # a stream lasts, and nobody counts it
        return streams.events(_streamed(asking, run))
    result = await finished(asking, run)
    usage = Tokens(result.usage.input_tokens, result.usage.output_tokens)
    return MessageOut(id=f"msg_{run}", model=body.model, content=(TextBlock("text", answer_of(result)),), usage=usage)


def _said(body: MessagesAsked) -> tuple[str, list[Said]]:
    system = "\n".join(one.text for one in said("system", body.system, "blocks"))
    return system, [one for message in body.messages for one in said(message.role, message.content, "blocks")]


async def _streamed(asking: Asking[MessagesQuery, MessagesAsked], run: str) -> AsyncGenerator[bytes, None]:
    start = MessageOut(id=f"msg_{run}", model=asking.body.model, content=(), stop_reason=None, usage=Tokens(0, 0))
    yield _event("message_start", message=start)
    yield _event("content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""})
    events = told(asking, run)
    try:
        async for event in events:
            if event is None:
                yield _event("ping")
            if (line := progress(event)) is not None:
                yield _event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": line})
            if isinstance(event, ResultEvent):
                yield _event("content_block_stop", index=0)
                usage = event.result.usage
                try:
                    text = answer_of(event.result)
                except BelljarError as error:
                    problem = problem_of(error, asking.id, folders=asking.service.folders)
                    yield _event("error", error=_error(problem).error)
                    return
                yield _event("content_block_start", index=1, content_block={"type": "text", "text": ""})
                for piece in split(text):
                    yield _event("content_block_delta", index=1, delta={"type": "text_delta", "text": piece})
                yield _event("content_block_stop", index=1)
                tokens = Tokens(usage.input_tokens, usage.output_tokens)
                yield _event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage=tokens)
                yield _event("message_stop")
    except BelljarError as error:  # it never began, or its caller may not hear of it any more
        problem = problem_of(error, asking.id, folders=asking.service.folders)
        yield _event("error", error=_error(problem).error)
    finally:
        await events.aclose()


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode({"type": kind, **fields}))


ROUTES = (
    Route(
        method="POST",
        path="/v1/messages",
        summary="Answer a conversation, as the Messages API does",
        action="run",
        owner=own,
        handler=_messages,
        query=MessagesQuery,
        body=MessagesAsked,
        answer=MessageOut,
        refuses=(404, 409, 502),
        headers={**IDEMPOTENCY, **TRACEPARENT},
        gives=("application/json", "text/event-stream"),
        faults=FAULTS,
    ),
)
