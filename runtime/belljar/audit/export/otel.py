"""GenAI spans in OpenTelemetry's JSON (OTLP), written by hand: to a file, or to a collector.

A run is a span `invoke_agent`, a cell is `execute_tool`, a model call is `chat`, a tool's is `execute_tool`; each is
below the one that it happened in, and a child run below the cell that started it. The attributes are those of the
GenAI conventions of semconv 1.44, which are not stable yet; what they have no name for is under `belljar.`. Nothing of
what was said is in a span unless contents are given; then a prompt, reply or output has the conventions' attributes for
that (`gen_ai.input.messages` and its like), and what is not there says why in its place.

The identity of a trace and of each span follows from the log, so an export made twice is the same spans. Numbers of 64
bits are strings, as protobuf's JSON has them.

Of each batch it is checked whether the collector took it: its status, and how many spans it says it rejected.
(OpenTelemetry's own exporter reports success where nobody listens.)
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final, cast
from urllib.parse import urlsplit

from belljar.audit.export.encoding import document, said
from belljar.audit.export.words import end_of, printed
from belljar.audit.trajectory import Absent, Answer, Cell, Child, Contents, Prompt, Query, Run, Step, Text
from belljar.errors import HostFault, InvalidInput

__all__ = ["check_endpoint", "otel", "send"]

BATCH_SPANS_MAX: Final = 512
SCHEMA: Final = "https://opentelemetry.io/schemas/1.44.0"
_PATH: Final = "/v1/traces"
_TIMEOUT_S: Final = 30.0
_REPLY_BYTES_MAX: Final = 64 * 1024
_SHOWN_MAX: Final = 200
_INTERNAL, _CLIENT = 1, 3
_OK, _ERROR = 1, 2
# Who provides a model, by the prefix of its name: the values that the conventions know.
_PROVIDERS: Final = {"claude": "anthropic", "openai": "openai", "bedrock": "aws.bedrock", "vertex": "gcp.vertex_ai"}

_Span = dict[str, Any]


def otel(run: Run, contents: Contents | None = None, *, version: str) -> Iterator[bytes]:
    """Requests for a collector, a line each, of at most `BATCH_SPANS_MAX` spans. With `contents`, texts are in them."""
    spans = _run_spans(run, "", contents)
    while batch := list(islice(spans, BATCH_SPANS_MAX)):
        resource = {"attributes": _attributes({"service.name": "belljar", "service.version": version})}
        scope = {"scope": {"name": "belljar.audit", "version": version}, "spans": batch, "schemaUrl": SCHEMA}
        yield document({"resourceSpans": [{"resource": resource, "scopeSpans": [scope], "schemaUrl": SCHEMA}]})


def _run_spans(run: Run, parent: str, contents: Contents | None) -> Iterator[_Span]:
    own = _id(run, "run")
    given = contents is not None
    yield _span(
        run,
        own,
        parent,
        f"invoke_agent {run.root_model or 'code'}",
        (run.started_ns, run.ended_ns),
        failed=None if run.status == "ok" else run.status or "unfinished",
        attributes={
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.id": run.run,
            "gen_ai.agent.name": "belljar",
            "gen_ai.conversation.id": run.run,
            "gen_ai.request.model": run.root_model,
            "gen_ai.usage.input_tokens": run.total.input_tokens,
            "gen_ai.usage.output_tokens": run.total.output_tokens,
            "gen_ai.input.messages": _asked(run.question, contents) if given else None,
            "gen_ai.output.messages": _replied(_answer_of(run), run.status, contents) if given else None,
            "belljar.tenant": run.tenant,
            "belljar.status": run.status,
            "belljar.policy": run.policy,
            "belljar.backend": run.backend,
            "belljar.cost.nanousd": run.total.cost_nanousd,
        },
    )
    for turn in run.turns:
        yield from (_query_span(run, query, own, contents) for query in turn.queries)
        for cell in turn.cells:
            yield _cell_span(run, cell, own, contents)
            yield from _step_spans(run, cell.steps, _id(run, f"cell {cell.seq}"), contents)
    yield from _step_spans(run, run.outside, own, contents)


def _step_spans(run: Run, steps: Iterable[Step], parent: str, contents: Contents | None) -> Iterator[_Span]:
    for step in steps:
        if isinstance(step, Query):
            yield _query_span(run, step, parent, contents)
        elif isinstance(step, Child):
            yield from _run_spans(step.run, parent, contents)


def _cell_span(run: Run, cell: Cell, parent: str, contents: Contents | None) -> _Span:
    given = contents is not None
    status, ended = end_of(cell)
    return _span(
        run,
        _id(run, f"cell {cell.seq}"),
        parent,
        "execute_tool run_code",
        (cell.started_ns, ended),
        failed=None if status in ("ok", "answered") else status or "unfinished",
        attributes={
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": "run_code",
            "gen_ai.tool.type": "function",
            "gen_ai.tool.call.id": f"{run.run}/{cell.number}",
            "gen_ai.tool.call.arguments": json.dumps({"code": said(cell.code, contents)}) if given else None,
            "gen_ai.tool.call.result": said(printed(cell), contents) if given else None,
            "belljar.cell": cell.number,
        },
    )


def _query_span(run: Run, query: Query, parent: str, contents: Contents | None) -> _Span:
    tool = query.model.removeprefix("tool:") if query.purpose == "tool" else None
    given = contents is not None
    texts: dict[str, Any] = {}
    if given and tool is not None:
        texts = {
            "gen_ai.tool.call.arguments": said(query.prompt, contents),
            "gen_ai.tool.call.result": said(query.reply, contents),
        }
    elif given:
        texts = {
            "gen_ai.system_instructions": _instructions(query.prompt, contents),
            "gen_ai.input.messages": _asked(query.prompt, contents),
            "gen_ai.output.messages": _replied(query.reply, query.stop_reason, contents),
        }
    return _span(
        run,
        _id(run, f"query {query.seq}"),
        parent,
        f"execute_tool {tool}" if tool is not None else f"chat {query.model}",
        (query.at_ns, query.ended_ns),
        kind=_CLIENT,
        failed=None if query.outcome in ("completed", "reused") else query.outcome or "unfinished",
        attributes={
            "gen_ai.operation.name": "chat" if tool is None else "execute_tool",
            "gen_ai.provider.name": _provider(query.model) if tool is None else None,
            "gen_ai.tool.name": tool,
            "gen_ai.request.model": query.model if tool is None else None,
            "gen_ai.request.max_tokens": query.output_tokens_max if tool is None else None,
            "gen_ai.response.model": query.answered_by,
            "gen_ai.response.finish_reasons": [query.stop_reason] if query.stop_reason is not None else None,
            "gen_ai.usage.input_tokens": query.spent.input_tokens,
            "gen_ai.usage.output_tokens": query.spent.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": query.cache_read_tokens or None,
            "gen_ai.usage.cache_creation.input_tokens": query.cache_write_tokens or None,
            "error.type": query.denied.code if query.denied is not None else None,
            "belljar.action": query.action,
            "belljar.purpose": query.purpose,
            "belljar.outcome": query.outcome,
            "belljar.cost.nanousd": query.spent.cost_nanousd,
            **texts,
        },
    )


def _provider(model: str) -> str | None:
    prefix = model.partition(":")[0] if ":" in model else model.partition("-")[0]
    return _PROVIDERS.get(prefix)


def _asked(text: Text | None, contents: Contents | None) -> str | None:
    """What was sent, in the conventions' form: a list of messages with parts, as JSON."""
    if text is None:
        return None
    prompt = _prompt(text, contents)
    messages = [("user", said(text, contents))] if prompt is None else [(one.role, one.text) for one in prompt.messages]
    return json.dumps([{"role": role, "parts": _parts(words)} for role, words in messages])


def _instructions(text: Text | None, contents: Contents | None) -> str | None:
    prompt = None if text is None else _prompt(text, contents)
    return json.dumps(_parts(prompt.system)) if prompt is not None and prompt.system else None


def _replied(text: Text | None, why: str | None, contents: Contents | None) -> str | None:
    """What came back; `why` it ended there."""
    if text is None:
        return None
    return json.dumps([{"role": "assistant", "parts": _parts(said(text, contents)), "finish_reason": why or "unknown"}])


def _parts(words: str) -> list[dict[str, str]]:
    return [{"type": "text", "content": words}]


def _prompt(text: Text, contents: Contents | None) -> Prompt | None:
    """A prompt with its messages, if that is what the text is, and it is there."""
    found = text.read(contents)
    return None if text.kind != "prompt" or isinstance(found, str | Absent) else cast("Prompt", found)


def _answer_of(run: Run) -> Text | None:
    given = [step.text for cell in run.cells() for step in cell.steps if isinstance(step, Answer) and not step.void]
    return given[-1] if given else None


def _span(
    run: Run,
    own: str,
    parent: str,
    name: str,
    times: tuple[int | None, int | None],
    *,
    failed: str | None,
    attributes: dict[str, Any],
    kind: int = _INTERNAL,
) -> _Span:
    """One span. What has not ended, ends where it began."""
    start = times[0] if times[0] is not None else 0
    end = times[1] if times[1] is not None else start
    status = {"code": _OK} if failed is None else {"code": _ERROR, "message": failed}
    return {
        "traceId": hashlib.sha256(run.run.partition(".")[0].encode(errors="backslashreplace")).hexdigest()[:32],
        "spanId": own,
        **({"parentSpanId": parent} if parent else {}),
        "name": name,
        "kind": kind,
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(end),
        "attributes": _attributes(attributes),
        "status": status,
    }


def _id(run: Run, what: str) -> str:
    return hashlib.sha256(f"{run.run} {what}".encode(errors="backslashreplace")).hexdigest()[:16]


def _attributes(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in found.items() if value is not None]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(one) for one in value]}}
    return {"stringValue": value}


# ------------------------------------------------------------------------------------------------------ to a collector


def send(endpoint: str, requests: Iterable[bytes]) -> int:
    """Send requests to the collector at a URL, to which `/v1/traces` is added if it has no path. Returns how many.

    No redirect is followed, and no proxy is used: nothing goes anywhere but to this address.

    Raises:
        InvalidInput: that is no URL of a collector.
        HostFault: it cannot be reached, or did not take all. What it took before, it has.
    """
    connection, path = _connection(endpoint)
    count = 0
    try:
        for body in requests:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            _check(connection.getresponse(), endpoint)
            count += 1
    except (OSError, http.client.HTTPException) as error:
        raise HostFault(
            f"the collector at {endpoint} cannot be reached ({type(error).__name__}: {error}): start it"
        ) from error
    finally:
        connection.close()
    return count


def check_endpoint(endpoint: str) -> None:
    """Refuse what is no URL of a collector; nothing is sent.

    Raises:
        InvalidInput: `export.endpoint`.
    """
    _connection(endpoint)


def _connection(endpoint: str) -> tuple[http.client.HTTPConnection, str]:
    """To whom, and for which path; nothing is sent yet."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(endpoint)
        if parts.scheme in ("http", "https") and parts.hostname and parts.username is None:
            kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
            path = parts.path if parts.path not in ("", "/") else _PATH
            return kind(parts.hostname, parts.port, timeout=_TIMEOUT_S), path
    raise InvalidInput(
        f"{endpoint!a} is not the URL of a collector: use one such as http://127.0.0.1:4318", code="export.endpoint"
    )


def _check(response: http.client.HTTPResponse, endpoint: str) -> None:
    reply = response.read(_REPLY_BYTES_MAX)
    response.read()
    if response.status != 200:
        raise HostFault(
            f"the collector at {endpoint} answered {response.status} {reply[:_SHOWN_MAX]!r}: see its log for why"
        )
    try:
        partial = json.loads(reply or b"{}").get("partialSuccess") or {}
        rejected = int(partial.get("rejectedSpans") or 0)
    except (ValueError, AttributeError, TypeError):
        raise HostFault(f"the collector at {endpoint} answered {reply[:_SHOWN_MAX]!r}, which is no OTLP") from None
    if rejected:
        raise HostFault(
            f"the collector at {endpoint} rejected {rejected} spans ({str(partial.get('errorMessage'))[:_SHOWN_MAX]!a})"
        )
