"""Every event that the log knows: one struct for each, whose fields are the record's `data`.

The union is closed. An unknown event or field, or a field of another type, is refused when it is written and is a
problem when it is read, so a new event or field needs a new `VERSION`. A record's `v` is its version, and every version
ever written can be read for ever: `decoded` turns the older ones into what is here.

    v 1   what the backend says about itself is among the fields of `run.started`; what is not known is null
    v 2   it is in `facts`; a field that equals its default is left out
    v 3   there is `quota.changed`; a refusal by a quota names it (`scope`, `period`, `used`, `held`, `waited_ms`);
          `run.abandoned` says what the box was charged for (`cpu_ms`, `wall_ms`, `memory_mib_s`); an answer need not
          end its run (`stays`); a query may be a call of a host tool (`purpose`); a provider's cache is told of
          (`cache_read_tokens`, `cache_write_tokens`, `cache_write_1h_tokens`); there is `query.reused`
    v 4   records name contents (`content`, `question`, `setup`, `output`, `reply`); there are `content.erased`,
          `canary.seen`, `log.read`, `log.accepted` and `key.changed`; `quota.changed` can bound the `depth` of trees of
          runs; a run has a `seed`, and may be a replay or a fork of another one (`replays`, `forks`, `from_turn`)
    v 5   there is what a service does for whoever asks it (`service.changed`, `http.request`, `access.changed`,
          `hook.changed`, `hook.delivered`), and a run says who ordered it of one (`by`); what a search found and an
          answer that does not count can be kept as contents (`content`)
    v 6   a run says in which order the sets of its boxes have their texts (`hash_seed`), and a refused request how many
          before it have no record of their own (`unlogged`)

Sizes are bytes, ranges are characters `[start, stop)`, costs are nano-dollars. `cell` is the cell's number, 0 before
the first. `doc` is an index into the run's table of documents; a context's text is at its `text`. An action with an
effect outside the box is two records that share `action`: `query.requested`, durable before the effect leaves the
host, and then exactly one of `query.completed`, `query.failed` and `query.denied`. A query for which no model is
asked, because there is an answer to an equal one, is the one record `query.reused`, durable before the box has that
answer.

Where the policy keeps contents, a record names those that belong to it (`content`, `question`, `output`, `reply`), or
says in one word why one was left out; see `audit.content`.

What belongs to no run stands under a name that no run can have as its id, and only there: `quota.changed` under
`host.quotas`, `content.erased` under `host.contents`, `log.read` under `host.reads`, `log.accepted` and `key.changed`
under `host.log`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, get_args

import msgspec
from msgspec import Meta

from belljar.audit.canonical import INT_MAX, STRING_CHARS_MAX, canonical

__all__ = [
    "EVENTS",
    "HOST_RUNS",
    "VERSION",
    "AccessChanged",
    "AmountsData",
    "AnswerGiven",
    "AnswerVoid",
    "BoxStarted",
    "CanarySeen",
    "CellFinished",
    "CellStarted",
    "ContentName",
    "ContentsErased",
    "ContextData",
    "ContextRead",
    "ContextSearched",
    "Count",
    "Event",
    "HookChanged",
    "HookDelivered",
    "HttpRequest",
    "KeyChanged",
    "LogAccepted",
    "LogRead",
    "Number",
    "QueryCompleted",
    "QueryDenied",
    "QueryFailed",
    "QueryRequested",
    "QueryReused",
    "QueryShown",
    "QuotaChanged",
    "RequestRefused",
    "RunAbandoned",
    "RunFinished",
    "RunStarted",
    "ServiceChanged",
    "Text",
    "decoded",
    "decoded_fast",
    "encoded",
    "host_run",
]

VERSION: Final = 6

Text = Annotated[str, Meta(max_length=STRING_CHARS_MAX)]
Sha256 = Annotated[str, Meta(min_length=64, max_length=64)]
# Names a content (`content`), or says why there is none.
ContentName = Annotated[str, Meta(pattern=r"^([0-9a-f]{64}|[a-z-]{1,32})\Z")]
Count = Annotated[int, Meta(ge=0, le=INT_MAX)]
HashSeed = Annotated[int, Meta(ge=0, lt=2**32)]
Number = Annotated[int, Meta(ge=-INT_MAX, le=INT_MAX)]
Spans = list[tuple[Count, Count]]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A value inside an event."""


class _Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One struct per event; `name` is the record's `event`."""

    name: ClassVar[str]


class ContextData(_Part, frozen=True, omit_defaults=True):
    """One context of a run; `text` and `directory` are indexes into the table of documents.

    Of a child run it may be a `part` of what is described: the first and the last but one of its items, or, where it
    has no directory, of its characters. Whatever else names characters of a document counts from that one's beginning.
    """

    name: Text
    kind: Literal["text", "list", "dict"]
    text: Count
    directory: Count | None
    items: Count
    lines: Count
    sha256: Sha256
    chars: Count
    part: tuple[Count, Count] | None = None


class AmountsData(_Part, frozen=True, omit_defaults=True):
    """What was spent."""

    calls: Count
    input_tokens: Count
    output_tokens: Count
    cost_nanousd: Count
    read_bytes: Count
    cpu_ms: Count = 0
    wall_ms: Count = 0
    memory_mib_s: Count = 0


class RunStarted(_Event, frozen=True):
    """A run begins, under these controls. `refused`: it was refused before anything was opened, and ends at once.

    `facts` is what the backend says about itself: the image's digest, versions. `scripted`: one of its models gives
    answers that were written before. Where no question has come yet, there is no `question_bytes`. `question` names the
    content that it is, and `setup` the one with what else it takes to run it again (`audit.replay.Setup`). `replays` is
    the run that this one does again, in no box of its own; `forks` is one whose turns before `from_turn` it took over.
    `seed` is what the program's `random` and `os.urandom` follow; each child's follows from its parent's. `hash_seed`,
    of 32 bits, is that of texts' hashes in its host's boxes, which settles the order of their sets; a child's is its
    root's. `by` is who ordered it of a service, as in `http.request`.
    """

    name: ClassVar[str] = "run.started"
    tenant: Text
    contexts: list[ContextData]
    refused: bool = False
    backend: Text | None = None
    facts: dict[Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}\Z")], Text] | None = None
    policy: Text | None = None
    policy_digest: Text | None = None
    language: Text | None = None
    root_model: Text | None = None
    sub_model: Text | None = None
    scripted: bool | None = None
    question_bytes: Count | None = None
    question: ContentName | None = None
    setup: ContentName | None = None
    replays: Text | None = None
    seed: Text | None = None
    forks: Text | None = None
    from_turn: Count | None = None
    by: Text | None = None
    hash_seed: HashSeed | None = None


class BoxStarted(_Event, frozen=True):
    """The box is built; `layers` are those that hold."""

    name: ClassVar[str] = "box.started"
    layers: list[Text]


class CellStarted(_Event, frozen=True):
    """A cell begins. `content` is its code."""

    name: ClassVar[str] = "cell.started"
    cell: Count
    code_sha256: Sha256
    code_bytes: Count
    content: ContentName | None = None


class CellFinished(_Event, frozen=True):
    """A cell has ended; `output_bytes` is what it printed, including what was cut.

    `content` is what was not cut, and how it failed.
    """

    name: ClassVar[str] = "cell.finished"
    cell: Count
    status: Text
    output_bytes: Count
    content: ContentName | None = None


class AnswerGiven(_Event, frozen=True):
    """The program gave its answer. `stays`: that ends its cell only, and others may follow.

    `content` is the answer, as JSON, and `output` what its cell had printed, where the answer ends that.
    """

    name: ClassVar[str] = "answer.given"
    cell: Count
    answer_sha256: Sha256
    answer_bytes: Count
    stays: bool = False
    content: ContentName | None = None
    output: ContentName | None = None


class AnswerVoid(_Event, frozen=True):
    """An answer does not count: it came after its cell's deadline, or is not of the type that was asked for.

    `content` is that answer, as JSON.
    """

    name: ClassVar[str] = "answer.void"
    cell: Count
    answer_sha256: Sha256
    answer_bytes: Count
    content: ContentName | None = None


class ContextRead(_Event, frozen=True):
    """The program read `[start, stop)`; or made `reads` small reads, which together are `spans`.

    `line` is the line of the cell, as the program claims; of several reads, the first one's. 0 is unknown.
    `content` is what the program was given.
    """

    name: ClassVar[str] = "context.read"
    cell: Count
    line: Count
    doc: Count
    start: Count | None = None
    stop: Count | None = None
    reads: Count | None = None
    spans: Spans | None = None
    content: ContentName | None = None

    def __post_init__(self) -> None:
        one, many = (self.start, self.stop), (self.reads, self.spans)
        if (None in one or many != (None, None)) and (None in many or one != (None, None)):
            raise ValueError("it needs either `start` and `stop` or `reads` and `spans`")


class ContextSearched(_Event, frozen=True):
    """A search of `[start, stop)` found `count` matches and gave the box `spans`.

    Many matches take several records; those after the first have only `cell`, `doc` and `spans`. `content` is what the
    box was given: the texts of all of their `spans`, one after another.
    """

    name: ClassVar[str] = "context.searched"
    cell: Count
    doc: Count
    spans: Spans
    line: Count | None = None
    mode: Text | None = None
    start: Count | None = None
    stop: Count | None = None
    pattern_sha256: Sha256 | None = None
    count: Count | None = None
    content: ContentName | None = None


class QueryRequested(_Event, frozen=True):
    """A model, or a host tool (`tool:NAME`), is about to be asked.

    The prompt's digest is that of its texts, joined by zero bytes; a tool's are its arguments. `content` is what is
    sent.
    """

    name: ClassVar[str] = "query.requested"
    action: Text
    cell: Count
    attempt: Count
    model: Text
    purpose: Literal["root", "sub", "tool"]
    prompt_sha256: Sha256
    prompt_bytes: Count
    output_tokens_max: Count
    content: ContentName | None = None


class QueryDenied(_Event, frozen=True):
    """Nothing was sent. `code` says why; `query.shortened`: another action asks for a shorter answer instead.

    Of a quota, `scope` is the level that said no (a tenant, or `run:ID`), with what was used and held in its period,
    and `waited_ms` how long the call had waited for a period's end, if it had.
    """

    name: ClassVar[str] = "query.denied"
    action: Text
    code: Text
    limit: Number | None = None
    observed: Number | None = None
    scope: Text | None = None
    period: Text | None = None
    used: Count | None = None
    held: Count | None = None
    waited_ms: Count | None = None


class QueryCompleted(_Event, frozen=True):
    """The model answered, and this is what it cost.

    Of `input_tokens` some may have come from the provider's cache, which costs less, and others may have been written
    to it, which costs more: `cache_write_1h_tokens` are those of them that it keeps for an hour. `content` is the
    reply.
    """

    name: ClassVar[str] = "query.completed"
    action: Text
    calls: Count
    input_tokens: Count
    output_tokens: Count
    cost_nanousd: Count
    reply_sha256: Sha256
    reply_bytes: Count
    answered_by: Text
    stop_reason: Text
    cache_read_tokens: Count = 0
    cache_write_tokens: Count = 0
    cache_write_1h_tokens: Count = 0
    content: ContentName | None = None


class QueryFailed(_Event, frozen=True):
    """No valid answer came. If nobody reported what it cost, the amounts are the worst case."""

    name: ClassVar[str] = "query.failed"
    action: Text
    calls: Count
    input_tokens: Count
    output_tokens: Count
    cost_nanousd: Count
    error: Text


class QueryReused(_Event, frozen=True):
    """No model was asked: the answer is that of `origin`, an action of the same tenant. It cost nothing.

    `source`: that answer was kept from before, or had been on its way. The rest is as in `query.requested` and
    `query.completed`; `content` is the prompt, and `reply` the reply.
    """

    name: ClassVar[str] = "query.reused"
    action: Text
    cell: Count
    model: Text
    prompt_sha256: Sha256
    prompt_bytes: Count
    output_tokens_max: Count
    source: Literal["cache", "flight"]
    origin: Text
    reply_sha256: Sha256
    reply_bytes: Count
    answered_by: Text
    stop_reason: Text
    content: ContentName | None = None
    reply: ContentName | None = None


class QueryShown(_Event, frozen=True):
    """These characters of a document stood in a prompt that was answered. If not `complete`, there may be more."""

    name: ClassVar[str] = "query.shown"
    cell: Count
    doc: Count
    spans: Spans
    complete: bool = True


class RequestRefused(_Event, frozen=True):
    """A request of the program was refused. With `count`, at the run's end: how many of the kind there were.

    The rest is as in `query.denied`.
    """

    name: ClassVar[str] = "request.refused"
    cell: Count
    asked: Text
    code: Text
    limit: Number | None = None
    observed: Number | None = None
    count: Count | None = None
    scope: Text | None = None
    period: Text | None = None
    used: Count | None = None
    held: Count | None = None
    waited_ms: Count | None = None


class CanarySeen(_Event, frozen=True):
    """A text that the policy watches for (`models.canaries`) turned up, for the first time in this cell and place.

    `canary` is its number in the policy's sorted list, from 1: the log never has the text. `place` is a prompt of the
    program (or a tool's arguments), the reply of a model or tool, the program's answer, or what a cell printed or
    raised. A root model's reply stands under the cell before it.
    """

    name: ClassVar[str] = "canary.seen"
    cell: Count
    place: Literal["prompt", "reply", "answer", "output"]
    canary: Annotated[int, Meta(ge=1, le=INT_MAX)]


class RunFinished(_Event, frozen=True):
    """A run has ended; `code`, `limit` and `observed` name the limit that it met, if any.

    `overage` is what it was charged beyond what was held for it, if anything.

    Without a box, what it would have reported is missing; a refused start lacks most fields.
    """

    name: ClassVar[str] = "run.finished"
    status: Text
    calls: Count
    cost_nanousd: Count | None = None
    wall_ms: Count | None = None
    reads: Count | None = None
    queries: Count | None = None
    refused: Count | None = None
    cpu_ms: Count | None = None
    max_rss_bytes: Count | None = None
    code: Text | None = None
    limit: Number | None = None
    observed: Number | None = None
    overage: AmountsData | None = None


class RunAbandoned(_Event, frozen=True):
    """The run's host died and a later start closed it, or its parent ended first. `charged` is what that charged."""

    name: ClassVar[str] = "run.abandoned"
    calls: Count
    input_tokens: Count
    output_tokens: Count
    cost_nanousd: Count
    read_bytes: Count
    charged: AmountsData
    cpu_ms: Count = 0
    wall_ms: Count = 0
    memory_mib_s: Count = 0


class QuotaChanged(_Event, frozen=True):
    """The limits of one level of tenants for one period from now on. A quantity that is missing is not limited.

    `cleared`: none are set for this period any more. `by` is who did it: a user of the system, or what a program says.
    """

    name: ClassVar[str] = "quota.changed"
    tenant: Text
    period: Literal["minute", "hour", "day", "month", "total"]
    by: Text
    cleared: bool = False
    calls: Count | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cost_nanousd: Count | None = None
    read_bytes: Count | None = None
    cpu_ms: Count | None = None
    wall_ms: Count | None = None
    memory_mib_s: Count | None = None
    boxes: Count | None = None
    calls_in_flight: Count | None = None
    context_bytes: Count | None = None
    depth: Count | None = None


class LogAccepted(_Event, frozen=True):
    """An operator let this log be signed as it is: it had `records` before this one, and was not what was signed last.

    `signed` is how many records had been signed, `removed` how many checkpoints did not agree with it. `by` is a user.
    """

    name: ClassVar[str] = "log.accepted"
    by: Text
    records: Count
    signed: Count
    removed: Count


class KeyChanged(_Event, frozen=True):
    """From here on another key signs the log. Each signature, in base64, is of `KeyChanged.statement` by that key."""

    name: ClassVar[str] = "key.changed"
    by: Text
    old: Text
    new: Text
    old_signature: Text
    new_signature: Text

    @staticmethod
    def statement(old: str, new: str) -> str:
        """What both keys sign: their lines of text."""
        return f"belljar key changed\n{old}\n{new}\n"


class ContentsErased(_Event, frozen=True):
    """The key of a run's contents was destroyed, and with it all that was kept of them. The records stay.

    `by` is who did it: a user of the system, `host` for a host that keeps its policies, or what a program says. `why`:
    somebody wanted it, the policy's time was over, or room was made for later ones.
    """

    name: ClassVar[str] = "content.erased"
    of: Text
    by: Text
    why: Literal["erased", "age", "size"]


class LogRead(_Event, frozen=True):
    """Somebody is about to read what runs did. `by` is who, a user of the system; `command` is how (`audit show`).

    `of` are the runs that were asked for, with those below them; none is all runs.
    """

    name: ClassVar[str] = "log.read"
    by: Text
    command: Text
    of: list[Text] = []


class ServiceChanged(_Event, frozen=True):
    """A service of this host began to take requests, takes no new ones, or is over. `by` is a user of the system."""

    name: ClassVar[str] = "service.changed"
    by: Text
    state: Literal["started", "draining", "stopped"]


class HttpRequest(_Event, frozen=True):
    """Somebody asked a service for something, and this is what the answer began with.

    `by` is who: `key:ID` of an API key, `oidc:SUBJECT` of a token, or `nobody` who proved to be anybody; `tenant` and
    `role` are theirs. `route` is what was asked, as the service names it (`GET /v1/runs/{run}`), and never the path as
    sent; `of` is the run, context, key or tenant that it is about, where there is such a one. `code` says why it was
    refused. Of refusals to strangers not each has a record of its own: `unlogged` is how many there were of which the
    log says nothing else, to the same address since the last record of it, or to addresses that nobody counts any more.
    """

    name: ClassVar[str] = "http.request"
    by: Text
    route: Text
    status: Count
    tenant: Text | None = None
    role: Text | None = None
    of: Text | None = None
    code: Text | None = None
    unlogged: Annotated[int, Meta(ge=1, le=INT_MAX)] | None = None


class AccessChanged(_Event, frozen=True):
    """An API key was made, replaced by another one (`next`), or revoked. Its secret stands nowhere.

    Without a `tenant` it is one of the whole host.
    """

    name: ClassVar[str] = "access.changed"
    by: Text
    key: Text
    what: Literal["made", "rotated", "revoked"]
    role: Text
    tenant: Text | None = None
    next: Text | None = None


class HookChanged(_Event, frozen=True):
    """A webhook was set up or removed; without a `tenant` it is one of the whole host."""

    name: ClassVar[str] = "hook.changed"
    by: Text
    hook: Text
    what: Literal["made", "removed"]
    tenant: Text | None = None


class HookDelivered(_Event, frozen=True):
    """What happened to `of`, a run or a tenant, was told to a webhook, or given up after so many attempts."""

    name: ClassVar[str] = "hook.delivered"
    hook: Text
    delivery: Text
    told: Text
    of: Text
    attempts: Count
    arrived: bool


Event = (
    RunStarted
    | BoxStarted
    | CellStarted
    | CellFinished
    | AnswerGiven
    | AnswerVoid
    | ContextRead
    | ContextSearched
    | QueryRequested
    | QueryDenied
    | QueryCompleted
    | QueryFailed
    | QueryReused
    | QueryShown
    | RequestRefused
    | CanarySeen
    | RunFinished
    | RunAbandoned
    | QuotaChanged
    | LogAccepted
    | KeyChanged
    | ContentsErased
    | LogRead
    | ServiceChanged
    | HttpRequest
    | AccessChanged
    | HookChanged
    | HookDelivered
)

EVENTS: Final[Mapping[str, type[Event]]] = {event.name: event for event in get_args(Event)}


# What belongs to no run, and where it stands. A run's id has digits behind its dots.
_HOST_EVENTS: Final[Mapping[type[Event], str]] = {
    QuotaChanged: "host.quotas",
    LogAccepted: "host.log",
    KeyChanged: "host.log",
    ContentsErased: "host.contents",
    LogRead: "host.reads",
    ServiceChanged: "host.service",
    HttpRequest: "host.service",
    AccessChanged: "host.access",
    HookChanged: "host.hooks",
    HookDelivered: "host.hooks",
}
HOST_RUNS: Final = frozenset(_HOST_EVENTS.values())


def host_run(event: Event) -> str | None:
    """Under what the records of such an event stand if they belong to no run; None if they belong to one."""
    return _HOST_EVENTS.get(type(event))


def _exact(value: object) -> object:
    """A caller's subclass of `str` or `int`, as a plain one."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    raise TypeError(f"an audit record cannot hold a {type(value).__name__}; use integers and strings")


# The keys of `facts`, the only mapping in an event, are ASCII: any comparison sorts them as the RFC says.
_ENCODER: Final = msgspec.json.Encoder(order="sorted", enc_hook=_exact)
_DECODERS: Final[Mapping[str, msgspec.json.Decoder[Event]]] = {
    name: msgspec.json.Decoder(event) for name, event in EVENTS.items()
}


def encoded(event: Event) -> bytes:
    """The canonical bytes of an event, read back before anybody relies on them.

    Raises:
        TypeError: a field has the wrong type.
        InvalidInput: `audit.too_long`: a string or an integer exceeds its limit.
    """
    try:
        data = _ENCODER.encode(event)
        if _DECODERS[event.name].decode(data) == event:
            return data
    except (msgspec.ValidationError, UnicodeEncodeError, OverflowError):
        pass
    return _encoded_by_hand(event)


def _encoded_by_hand(event: Event) -> bytes:
    """Writes what the encoder cannot (a lone surrogate), and says why if nobody can."""
    plain = msgspec.to_builtins(event, enc_hook=_exact)
    data = canonical(plain)
    try:
        if msgspec.convert(plain, type(event)) == event:
            return data
    except msgspec.ValidationError as error:
        raise TypeError(f"the audit log cannot hold this {event.name}: {error}") from None
    raise TypeError(f"the audit log cannot hold this {event.name}: it would be read back as another one")


def decoded(name: str, data: Mapping[str, Any], version: int) -> Event:
    """The event of a record of any version.

    Raises:
        ValueError: unknown version or event, or wrong fields; the text continues "record 7".
    """
    if not 1 <= version <= VERSION:
        raise ValueError("has an unknown version")
    if name not in EVENTS:
        raise ValueError(f"has an unknown event, {name[:80]!a}")
    try:
        event = msgspec.convert(_of_version_1(name, data) if version == 1 else data, EVENTS[name])
    except msgspec.ValidationError as error:
        raise ValueError(f"is not a valid {name}: {error}") from None
    if _version_of(event) > version:
        raise ValueError(f"is a {name} of a later version than it says")
    return event


def decoded_fast(name: str, data: msgspec.Raw, version: int) -> Event | None:
    """The event of a record since version 2; None if `decoded` must look, which accepts more and says what is wrong.

    If it returns an event, `data` is its canonical bytes.
    """
    try:
        event = _DECODERS[name].decode(data)
    except (KeyError, msgspec.DecodeError):
        return None
    if not 2 <= version <= VERSION or (version < VERSION and _version_of(event) > version):
        return None
    return event if _ENCODER.encode(event) == bytes(data) else None


def _version_of(event: Event) -> int:
    """The first version that has such an event with these fields."""
    if _is_of_version_6(event):
        return 6
    if _is_of_version_5(event):
        return 5
    if _is_of_version_4(event):
        return 4
    return 3 if _is_of_version_3(event) else 1


def _is_of_version_6(event: Event) -> bool:
    """Whether version 5 had no such event, or not with these fields."""
    if isinstance(event, RunStarted):
        return event.hash_seed is not None
    return isinstance(event, HttpRequest) and event.unlogged is not None


def _is_of_version_5(event: Event) -> bool:
    """Whether version 4 had no such event, or not with these fields."""
    if isinstance(event, RunStarted):
        return event.by is not None
    if isinstance(event, ContextSearched | AnswerVoid):
        return event.content is not None
    return isinstance(event, ServiceChanged | HttpRequest | AccessChanged | HookChanged | HookDelivered)


def _is_of_version_4(event: Event) -> bool:
    """Whether version 3 had no such event, or not with these fields."""
    if isinstance(event, QuotaChanged):
        return event.depth is not None
    if isinstance(event, RunStarted):
        new = (event.question, event.setup, event.seed, event.replays, event.forks, event.from_turn)
        return any(one is not None for one in new)
    if isinstance(event, AnswerGiven):
        return event.content is not None or event.output is not None
    if isinstance(event, QueryReused):
        return event.content is not None or event.reply is not None
    if isinstance(event, CellStarted | CellFinished | ContextRead | QueryRequested | QueryCompleted):
        return event.content is not None
    return isinstance(event, ContentsErased | CanarySeen | LogRead | LogAccepted | KeyChanged)


def _is_of_version_3(event: Event) -> bool:
    """Whether version 2 had no such event, or not with these fields."""
    if isinstance(event, QueryDenied | RequestRefused):
        return any(part is not None for part in (event.scope, event.period, event.used, event.held, event.waited_ms))
    if isinstance(event, AnswerGiven):
        return event.stays
    if isinstance(event, QueryRequested):
        return event.purpose == "tool"
    if isinstance(event, QueryCompleted):
        return bool(event.cache_read_tokens or event.cache_write_tokens or event.cache_write_1h_tokens)
    if isinstance(event, RunAbandoned):
        parts = (event, event.charged)
        return any(part.cpu_ms or part.wall_ms or part.memory_mib_s for part in parts)
    return isinstance(event, QuotaChanged | QueryReused)


def _of_version_1(name: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Version 1 had what the backend says about itself among the fields of `run.started`."""
    if name != RunStarted.name or "backend" not in data:
        return data
    ours = RunStarted.__struct_fields__
    facts = {key: value for key, value in data.items() if key not in ours}
    return {key: value for key, value in data.items() if key in ours} | {"facts": facts}
