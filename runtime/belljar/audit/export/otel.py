"""GenAI spans in OpenTelemetry's JSON (OTLP), written by hand: to a file, or to a collector.

    run -> turn -> cell -> query

A run is a span `invoke_agent`, a cell is `execute_tool`, a model call is `chat`, a tool's is `execute_tool`; each is
below the one that it happened in, and a child run below the cell that started it. A turn is what the root model was
asked, until it answered, and the cells that followed; where no root model asks there are no turns, and cells stand
below the run. The attributes are those of the GenAI conventions of semconv 1.44, which are not stable yet; what they
have no name for, as for a turn, is under `belljar.`. Nothing of what was said is in a span unless contents are given;
then a prompt, reply or output has the conventions' attributes for that (`gen_ai.input.messages` and its like), and what
is not there says why in its place.

The identity of a trace and of each span follows from the log, so an export made twice is the same spans, and so is what
was sent while the run was under way (`live`). Only whoever knows the caller's span, which the log does not have, puts
the run below that one and into its trace. Numbers of 64 bits are strings, as protobuf's JSON has them.

Of each batch it is checked whether the collector took it: its status, and how many spans it says it rejected.
(OpenTelemetry's own exporter reports success where nobody listens.)
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final, cast
from urllib.parse import urlsplit

from belljar.audit.export.encoding import document, said
from belljar.audit.export.words import end_of, origin_of, printed
from belljar.audit.trajectory import Absent, Answer, Cell, Child, Contents, Prompt, Query, Run, Step, Text, Turn
from belljar.errors import HostFault, InvalidInput
from belljar.identity import TraceParent

__all__ = ["BATCH_SPANS_MAX", "Span", "check_endpoint", "otel", "requests", "send", "spans"]

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

Span = dict[str, Any]


def otel(
    run: Run, contents: Contents | None = None, *, version: str, caller: TraceParent | None = None
) -> Iterator[bytes]:
    """Requests for a collector, a line each, of at most `BATCH_SPANS_MAX` spans. With `contents`, texts are in them.

    Args:
        caller: what the tree's first run is below, if that is known.
    """
    return requests(spans(run, contents, caller=caller), version=version)


def requests(found: Iterable[Span], *, version: str) -> Iterator[bytes]:
    """Requests for a collector with these spans, a line each."""
    left = iter(found)
    while batch := list(islice(left, BATCH_SPANS_MAX)):
        resource = {"attributes": _attributes({"service.name": "belljar", "service.version": version})}
        scope = {"scope": {"name": "belljar.audit", "version": version}, "spans": batch, "schemaUrl": SCHEMA}
        yield document({"resourceSpans": [{"resource": resource, "scopeSpans": [scope], "schemaUrl": SCHEMA}]})


def spans(
    run: Run,
    contents: Contents | None = None,
    *,
    caller: TraceParent | None = None,
    wanted: Callable[[str, bool], bool] = lambda _span, _ended: True,
) -> Iterator[Span]:
    """The spans of a run and of those below it, each behind the one that it is below.

    Args:
        caller: as in `otel`.
        wanted: says of a span's id, and of whether it has ended, so that nothing of it will change, whether it is made.
    """
    root = run.run.partition(".")[0]
    trace = caller.trace if caller is not None else _digest(root)[:32]
    above = caller.span if caller is not None and run.run == root else ""
    return _Spans(trace, contents, wanted).run(run, above, over=False)


class _Spans:
    """Makes the spans of one trace.

    In its methods `above` is the id of the span that something is below, and `over` says whether what it is part of
    has ended, and it with that: nothing goes on in a run that is over, whatever its log does not say any more.
    """

    def __init__(self, trace: str, contents: Contents | None, wanted: Callable[[str, bool], bool]) -> None:
        self._trace = trace
        self._contents = contents
        self._wanted = wanted

    def run(self, run: Run, above: str, *, over: bool) -> Iterator[Span]:
        over = over or run.status is not None
        own = _id(run, "run")
        if self._wanted(own, over):
            yield self._of_run(run, own, above)
        for turn in run.turns:
            # What follows a reply is known when the root model is asked again.
            yield from self._turn(run, turn, own, over=over, ended=over or turn is not run.turns[-1])
        yield from self._steps(run, run.outside, own, over=over)

    def _turn(self, run: Run, turn: Turn, above: str, *, over: bool, ended: bool) -> Iterator[Span]:
        own = above
        if turn.number:
            own = _id(run, f"turn {turn.number}")
            if self._wanted(own, ended):
                yield self._of_turn(run, turn, own, above)
        yield from self._steps(run, turn.queries, own, over=over)
        for cell in turn.cells:
            place = _id(run, f"cell {cell.seq}")
            if self._wanted(place, over or cell.status is not None):
                yield self._of_cell(run, cell, place, own)
            yield from self._steps(run, cell.steps, place, over=over)

    def _steps(self, run: Run, steps: Iterable[Step], above: str, *, over: bool) -> Iterator[Span]:
        for step in steps:
            if isinstance(step, Query):
                own = _id(run, f"query {step.seq}")
                if self._wanted(own, over or step.outcome is not None):
                    yield self._of_query(step, own, above)
            elif isinstance(step, Child):
                yield from self.run(step.run, above, over=over)

    def _of_run(self, run: Run, own: str, above: str) -> Span:
        contents = self._contents
        given = contents is not None
        return self._span(
            own,
            above,
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
                "belljar.origin": origin_of(run),
                "belljar.policy": run.policy,
                "belljar.backend": run.backend,
                "belljar.cost.nanousd": run.total.cost_nanousd,
            },
        )

    def _of_turn(self, run: Run, turn: Turn, own: str, above: str) -> Span:
        """From its first part's beginning to its last part's end. It has failed if nobody answered."""
        parts = [(query.at_ns, query.ended_ns) for query in turn.queries]
        parts += [(cell.started_ns, end_of(cell)[1]) for cell in turn.cells]
        ends = [start if end is None else end for start, end in parts]
        unanswered = turn.queries[-1].outcome or "unfinished" if turn.queries and turn.answered is None else None
        return self._span(
            own,
            above,
            f"turn {turn.number}",
            (min(start for start, _ in parts), max(ends)),
            failed=unanswered,
            attributes={"gen_ai.conversation.id": run.run, "belljar.turn": turn.number},
        )

    def _of_cell(self, run: Run, cell: Cell, own: str, above: str) -> Span:
        contents = self._contents
        given = contents is not None
        status, ended = end_of(cell)
        return self._span(
            own,
            above,
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

    def _of_query(self, query: Query, own: str, above: str) -> Span:
        tool = query.model.removeprefix("tool:") if query.purpose == "tool" else None
        contents = self._contents
        texts: dict[str, Any] = {}
        if contents is not None and tool is not None:
            texts = {
                "gen_ai.tool.call.arguments": said(query.prompt, contents),
                "gen_ai.tool.call.result": said(query.reply, contents),
            }
        elif contents is not None:
            texts = {
                "gen_ai.system_instructions": _instructions(query.prompt, contents),
                "gen_ai.input.messages": _asked(query.prompt, contents),
                "gen_ai.output.messages": _replied(query.reply, query.stop_reason, contents),
            }
        return self._span(
            own,
            above,
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

    def _span(
        self,
        own: str,
        above: str,
        name: str,
        times: tuple[int | None, int | None],
        *,
        failed: str | None,
        attributes: dict[str, Any],
        kind: int = _INTERNAL,
    ) -> Span:
        """One span. What has not ended, ends where it began."""
        start = times[0] if times[0] is not None else 0
        end = times[1] if times[1] is not None else start
        status = {"code": _OK} if failed is None else {"code": _ERROR, "message": failed}
        return {
            "traceId": self._trace,
            "spanId": own,
            **({"parentSpanId": above} if above else {}),
            "name": name,
            "kind": kind,
            "startTimeUnixNano": str(start),
            "endTimeUnixNano": str(end),
            "attributes": _attributes(attributes),
            "status": status,
        }


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


def _id(run: Run, what: str) -> str:
    return _digest(f"{run.run} {what}")[:16]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()


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
            with _in_time(connection):
                connection.request("POST", path, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                reply = response.read(_REPLY_BYTES_MAX + 1)
            _check(response.status, reply, endpoint)
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


@contextlib.contextmanager
def _in_time(connection: http.client.HTTPConnection) -> Iterator[None]:
    """Raises TimeoutError if one request takes longer than `_TIMEOUT_S`, however often something arrives."""
    if connection.sock is None:
        connection.connect()
    late = threading.Event()

    def cut(wire: socket.socket) -> None:
        late.set()
        with contextlib.suppress(OSError):  # it has just been closed
            socket.socket.shutdown(wire, socket.SHUT_RDWR)

    watch = threading.Timer(_TIMEOUT_S, cut, [connection.sock])
    watch.start()
    try:
        yield
    finally:
        watch.cancel()
        if late.is_set():
            raise TimeoutError(f"it took longer than {_TIMEOUT_S:g} s")


def _check(status: int, reply: bytes, endpoint: str) -> None:
    if status != 200:
        raise HostFault(f"the collector at {endpoint} answered {status} {reply[:_SHOWN_MAX]!r}: see its log for why")
    try:
        if len(reply) > _REPLY_BYTES_MAX:
            raise ValueError("it does not end")
        partial = json.loads(reply or b"{}").get("partialSuccess") or {}
        rejected = int(partial.get("rejectedSpans") or 0)
    except (ValueError, AttributeError, TypeError):
        raise HostFault(f"the collector at {endpoint} answered {reply[:_SHOWN_MAX]!r}, which is no OTLP") from None
    if rejected:
        raise HostFault(
            f"the collector at {endpoint} rejected {rejected} spans ({str(partial.get('errorMessage'))[:_SHOWN_MAX]!a})"
        )
