"""Every message that a guest can send, and every reply.

Transport: one byte stream per box, framed by `wire`. A message is a small header (one of the structs below) and a body
of raw bytes, empty unless the struct's docstring says what is in it. All text is UTF-8.

Turn order::

    host   Start                          once, first
    guest  Ready                          once
    host   Execute                        one cell at a time
    guest    Output*  Clock*  (Read|Search|Query|Recurse|Budget|Coverage)*   many in flight, up to the policy's limit
    host     Data|Found|Answers|Left|Covered|Refused                 one for each request, same `id`, any order
    guest    Final                        ends the cell; once one counts, nothing the guest says does
    guest  Done                           ends the cell; no request may be pending

A message that belongs to a cell names it: `Output`, `Clock`, `Final` and `Done` carry the number that `Execute` gave.
So a message that is late, repeated or early never counts for another cell, however host and guest got out of step. A
request has a number of its own, and its reply goes to whoever asked; it is served while a cell runs.

Identity, tenant, depth, budget and deadline appear in no message of a guest: the stream itself is the identity, and the
host keeps the rest. `doc` is an index into the table that `Start` gave, never a name or a path.

Evolution: unknown fields and unknown `op`s are violations on both sides, so a new message needs a new `PROTOCOL`
number; host and guest come from one release and are never mixed.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from belljar.identity import Language

__all__ = [
    "BATCH_MAX",
    "PROTOCOL",
    "Answer",
    "Answers",
    "Budget",
    "CellError",
    "Clock",
    "ContextInfo",
    "Coverage",
    "Covered",
    "Data",
    "DocumentInfo",
    "Done",
    "Execute",
    "Extent",
    "Failure",
    "Final",
    "Found",
    "Given",
    "GuestMessage",
    "HostMessage",
    "Left",
    "Output",
    "Query",
    "Read",
    "Ready",
    "Recurse",
    "Refused",
    "Search",
    "Start",
    "Stream",
    "ToolInfo",
    "carries_body",
]

PROTOCOL = 2

# Integers stay exact in every JSON reader (2**53) and far above any document.
_OFFSET_MAX = 2**53 - 1
# A request id is 32 bits: a run meets its read limit long before it makes more requests than that.
_ID_MAX = 2**32 - 1
# One header lists the lengths of a whole batch; most policies' own limits are lower.
BATCH_MAX = 8192
_NAME_MAX = 256
_MESSAGE_MAX = 4096

Id = Annotated[int, Meta(ge=1, le=_ID_MAX)]
CellNumber = Annotated[int, Meta(ge=1, le=_ID_MAX)]
Offset = Annotated[int, Meta(ge=0, le=_OFFSET_MAX)]
DocIndex = Annotated[int, Meta(ge=0, le=1023)]
Name = Annotated[str, Meta(max_length=_NAME_MAX)]
Line = Annotated[int, Meta(ge=0, le=2**31 - 1)]
ShortText = Annotated[str, Meta(max_length=_MESSAGE_MAX)]
# Names and types are identifiers, in ASCII: nothing that could be read as a sentence, or as a marker of ours.
VariableText = Annotated[str, Meta(max_length=100, pattern=r"^[A-Za-z_][A-Za-z0-9_]*: [A-Za-z_][A-Za-z0-9_]*\Z")]
Lengths = Annotated[list[Offset], Meta(max_length=BATCH_MAX)]
Stream = Literal["stdout", "stderr"]


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag=str.lower):
    """One struct for each message; `op` is the struct's name in lower case."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value inside a message."""


# ---------------------------------------------------------------------------------------------------- guest -> host


class Ready(_Message, frozen=True):
    """The agent runs and has read `Start`. What it says about itself is for the log only."""

    protocol: Annotated[int, Meta(ge=0, le=65535)]
    python: Name


class Read(_Message, frozen=True):
    """Characters `[start, stop)` of document `doc`. Reply: `Data`.

    `line` is the line of the cell that asked, as the program claims; 0 is unknown.
    """

    id: Id
    doc: DocIndex
    start: Offset
    stop: Offset
    line: Line


class Search(_Message, frozen=True, omit_defaults=True):
    """Search characters `[start, stop)` of document `doc`. Body: an RE2 pattern. Reply: `Found`.

    `find` gives at most `limit` matches, `count` their number; `find_items` and `count_items` treat each item of a list
    or dict as a text of its own. `lines` gives the lines numbered `[start, stop)`, with their ends, without a pattern.
    `find` and `count` treat `[first, stop)` as the text: the pattern sees nothing before it.
    """

    id: Id
    doc: DocIndex
    mode: Literal["find", "count", "lines", "find_items", "count_items"]
    start: Offset
    stop: Offset
    limit: Annotated[int, Meta(ge=1, le=100_000)]
    line: Line
    first: Offset = 0


class Query(_Message, frozen=True):
    """Ask a fresh sub-model, once for each prompt.

    Body: the prompts one after another; `lengths` are their sizes in bytes and must add up to the body.
    `model` is only a wish; the policy decides. Reply: `Answers`, in the same order. As `tool:NAME` it is one of
    `Start.tools`, called with the one prompt as its arguments, a JSON object.
    """

    id: Id
    model: Name | None
    lengths: Annotated[list[Offset], Meta(min_length=1, max_length=BATCH_MAX)]


class Given(_Part, frozen=True, omit_defaults=True):
    """A child's context: a text of `length` bytes in the body; or, with `doc`, a part of that document.

    With `json` the text is that of a list or dict, which is the context. The part is characters `[start, stop)`, or
    with `items` the items of these numbers.
    """

    length: Offset = 0
    doc: DocIndex | None = None
    start: Offset = 0
    stop: Offset = 0
    items: bool = False
    json: bool = False


class Recurse(_Message, frozen=True):
    """Start a child run for each prompt. `contexts` has as many; if it is empty, each prompt is a context.

    Body: the prompts, then the texts among the contexts. `model` is only a wish. Reply: `Answers`, in the same order.
    """

    id: Id
    model: Name | None
    prompts: Annotated[list[Offset], Meta(min_length=1, max_length=BATCH_MAX)]
    contexts: Annotated[list[Given], Meta(max_length=BATCH_MAX)]


class Budget(_Message, frozen=True):
    """What is left? Reply: `Left`."""

    id: Id


class Coverage(_Message, frozen=True):
    """How much of the contexts was read, and shown to sub-models, so far? Reply: `Covered`."""

    id: Id


class Output(_Message, frozen=True):
    """What the program printed. Body: UTF-8 text, perhaps cut within a character. No reply.

    `cell` is the one that runs, or ran last: a thread that it left behind may print until the next cell begins.
    """

    cell: CellNumber
    stream: Stream


class Clock(_Message, frozen=True):
    """What the program has read of clocks since it last said so. No reply.

    Body: for each reading a byte that says which clock, and a signed integer of 64 bits, little-endian: nanoseconds, or
    what `budget()` said. The rest is as in `Output`.
    """

    cell: CellNumber


class Final(_Message, frozen=True):
    """The answer. Body: text, or one JSON value. No reply.

    The first one before the deadline is the result, if it is of the type that was asked for.
    """

    cell: CellNumber
    form: Literal["text", "json"]


class CellError(_Part, frozen=True):
    """What the program raised, as the agent reports it: never trusted, only shown."""

    type: Name
    message: ShortText
    line: Line | None


class Done(_Message, frozen=True):
    """The cell is over. Body: the guest-side traceback, UTF-8, empty when `error` is None.

    `variables`: what the program has defined by now, or the latest of it, as `name: type`; only if `Start.more`.
    `unlisted`: how many others there are.
    """

    cell: CellNumber
    status: Literal["ok", "error", "rejected", "interrupted"]
    error: CellError | None
    variables: Annotated[list[VariableText], Meta(max_length=64)] = []
    unlisted: Offset = 0


GuestMessage = Ready | Read | Search | Query | Recurse | Budget | Coverage | Output | Clock | Final | Done

# ---------------------------------------------------------------------------------------------------- host -> guest


class DocumentInfo(_Part, frozen=True):
    """A text that can be read; requests name it by its index in `Start.documents`.

    Only `spans` of it belong to the run, in characters; None is all of it.
    """

    name: Name
    chars: Offset
    bytes: Offset
    spans: list[tuple[Offset, Offset]] | None = None


class ContextInfo(_Part, frozen=True):
    """One of the run's contexts. `text` and `directory` are indexes into `Start.documents`.

    A list or dict has `items`, and its directory says where in the text each of them is: 42 characters per item
    (see `belljar.context.document`). `lines` counts the text's lines; 0 if they were not counted. With `part` the
    context is only these characters, or items, of what is described here.
    """

    name: Name
    kind: Literal["text", "list", "dict"]
    text: DocIndex
    directory: DocIndex | None
    items: Offset
    lines: Offset
    part: tuple[Offset, Offset] | None = None


class ToolInfo(_Part, frozen=True):
    """A function of the host that may be called; `doc` begins with its signature."""

    name: Name
    arguments: list[Name]
    doc: str


class Start(_Message, frozen=True):
    """The box's whole configuration. The limits let the agent split its requests; the host enforces them.

    `more`: other cells may follow the first. Then the given names are restored after each cell, and a last line that is
    an expression is shown. `stays`: an answer may turn out not to count, so cells may follow it as well.
    `seed`: what `random` and `os.urandom` follow, so that a replay of the run has the same numbers. `clock`: what the
    program reads of clocks is noted, so that a replay has that, too.
    """

    protocol: int
    language: Language
    documents: list[DocumentInfo]
    contexts: list[ContextInfo]
    read_bytes_max: int
    materialise_bytes_max: int
    in_flight_max: int
    batch_max: int
    prompt_bytes_max: int
    body_bytes_max: int
    header_bytes_max: int
    in_flight_bytes_max: int = _OFFSET_MAX
    more: bool = False
    stays: bool = False
    tools: list[ToolInfo] = []
    seed: ShortText = ""
    clock: bool = False


class Execute(_Message, frozen=True):
    """Run one cell. Body: Python source, and behind it `noted_bytes` of what this cell's `Clock`s said when recorded.

    `interrupted`: the cell before was sent an interrupt that may have come after its end, or may even come after this
    order. It is not meant for this cell.
    """

    cell: int
    interrupted: bool = False
    noted_bytes: int = 0


class Data(_Message, frozen=True):
    """Body: the characters read."""

    id: int


class Found(_Message, frozen=True):
    """What a search found: `count` matches; if there are more, `next` is where to go on.

    Body for `find` and `find_items`: `names` bytes with the names of groups, then the matches with `groups` groups each
    (`belljar.search.hits` has the format). For `lines`: the characters, `count` of them.
    """

    id: int
    count: int
    next: int | None
    groups: int = 0
    names: int = 0


class Failure(_Part, frozen=True):
    """Why a request was refused; `kind` is the exception the guest raises."""

    kind: Literal["PolicyDenied", "QuotaExceeded", "ModelError"]
    code: str
    message: str
    limit: int | None
    observed: int | None


class Answer(_Part, frozen=True, omit_defaults=True):
    """One reply of a batch: `length` bytes of the body; or a failure, by its index.

    `cut` if the model was stopped; `json` if the bytes are a JSON value.
    """

    length: int
    failure: int | None = None
    cut: bool = False
    json: bool = False


class Answers(_Message, frozen=True):
    """Body: the replies one after another. Equal failures may be listed only once."""

    id: int
    items: list[Answer]
    failures: list[Failure]


class Left(_Message, frozen=True):
    """What is left; None means unlimited. `wall_ms` and `cpu_ms` are milliseconds, `cost_nanousd` nano-dollars.

    `memory_mib_s` is MiB of the box's memory times seconds.
    """

    id: int
    calls: int | None
    input_tokens: int | None
    output_tokens: int | None
    cost_nanousd: int | None
    read_bytes: int
    wall_ms: int
    cpu_ms: int
    memory_mib_s: int | None


class Extent(_Part, frozen=True):
    """What happened to one context, in characters of it, and in how many ranges; None where these have no numbers."""

    chars: int
    read: int
    shown: int
    read_spans: int | None
    shown_spans: int | None


class Covered(_Message, frozen=True):
    """What the run, and child runs of it that have ended, have read and shown: one of `contexts` for each of `Start`'s.

    Body: for each context the first ranges that were read, at most `spans_max`, then as many of what was shown; a range
    is two integers of 64 bits, little-endian, in characters of the context. If not `complete`, it may have been more.
    """

    id: int
    spans_max: int
    complete: bool
    contexts: list[Extent]


class Refused(_Message, frozen=True):
    id: int
    failure: Failure


HostMessage = Start | Execute | Data | Found | Answers | Left | Covered | Refused

_WITH_BODY = (Search, Query, Recurse, Output, Clock, Final, Done, Execute, Data, Found, Answers, Covered)


def carries_body(message: GuestMessage | HostMessage) -> bool:
    """Whether this message may have a body; on any other the wire refuses one before buffering it."""
    return isinstance(message, _WITH_BODY)
