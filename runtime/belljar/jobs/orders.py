"""What a service is asked for, what it says of that, and what it refuses.

An order is a run that somebody asked a service for. Its state is a column of the table `orders`:

    queued ──▶ running ──▶ how the run ended (`ok`, `error`, `timeout`, ...)
       │          └──────▶ interrupted     its process died
       ├─────────────────▶ interrupted     its process died, or was stopped before the run's turn came
       ├─────────────────▶ cancelled       before its turn came; one that had begun is `killed`
       └─────────────────▶ refused         it could not start: `error` says why

Where another process than its own is asked to end it, it is `cancelling` until its own has done so.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias, assert_never

import msgspec
from msgspec import Meta

from belljar.engine import ErrorInfo, Limit, Progress, Result, Status
from belljar.errors import InvalidInput, Refusal
from belljar.heavy import bytes_of, sha256
from belljar.identity import Language

__all__ = [
    "CANCELLED",
    "CANCELLING",
    "IDEM_CHARS_MAX",
    "INTERRUPTED",
    "OPEN",
    "QUEUED",
    "REFUSED",
    "RUNNING",
    "Asked",
    "AskedAgain",
    "AskedSession",
    "Busy",
    "Context",
    "DeskLimits",
    "IdempotencyConflict",
    "JsonContext",
    "NoSuchRun",
    "NoSuchSession",
    "Order",
    "OrderState",
    "Page",
    "RegisteredContext",
    "RunState",
    "SessionState",
    "TextContext",
    "chars_of",
    "check_asked",
    "check_idem",
    "digest_of",
]

QUEUED: Final = "queued"
RUNNING: Final = "running"
CANCELLING: Final = "cancelling"
INTERRUPTED: Final = "interrupted"
CANCELLED: Final = "cancelled"
REFUSED: Final = "refused"
# All of them: `OrderState.state` has one.
RunState: TypeAlias = (
    Literal["queued", "running", "cancelling"]
    | Status
    | Literal["diverged", "incomplete", "interrupted", "cancelled", "refused"]
)
# The states that an order can leave.
OPEN: Final = (QUEUED, RUNNING, CANCELLING)

IDEM_CHARS_MAX: Final = 255
_IDEM: Final = re.compile(r"[\x21-\x7e]{1,255}")
_CONTEXTS_MAX: Final = 64

Name = Annotated[str, Meta(min_length=1, max_length=200)]
ContextName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z",
        description="a name of at most 64 letters, digits and . _ - such as report.txt",
    ),
]


class RegisteredContext(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="registered", tag_field="kind"):
    """A context that the tenant registered before: its name, or `sha256:DIGEST`."""

    ref: Name


class TextContext(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="text", tag_field="kind"):
    """The text itself; it is removed after the run."""

    text: Annotated[str, Meta(min_length=1)]


class JsonContext(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="json", tag_field="kind"):
    """A list or an object of JSON; it is removed after the run."""

    value: list[Any] | dict[str, Any]


Context = RegisteredContext | TextContext | JsonContext


class AskedSession(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A session that somebody asks for; with a `model` it takes questions, too. The rest is as in `Asked`."""

    contexts: Annotated[dict[ContextName, Context], Meta(max_length=_CONTEXTS_MAX)] = {}
    model: Name | None = None
    sub_model: Name | None = None
    policy: Name = "standard"
    backend: Name | None = None
    language: Language | None = None


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A run that somebody asks for: a `question` for a root `model`, or a program's `code`.

    Attributes:
        contexts: by name; the one called `context` is the program's `context`.
        sub_model: answers the program's queries; the same model when None, and none where there is `code`.
        policy: a preset's name, or one that the service knows.
        backend, language: of those that the policy allows; its first when None.
        answer_schema: a JSON Schema that the answer to a question has to fit.
    """

    question: Annotated[str, Meta(min_length=1)] | None = None
    code: Annotated[str, Meta(min_length=1)] | None = None
    contexts: Annotated[dict[ContextName, Context], Meta(max_length=_CONTEXTS_MAX)] = {}
    model: Name | None = None
    sub_model: Name | None = None
    policy: Name = "standard"
    backend: Name | None = None
    language: Language | None = None
    answer_schema: dict[str, Any] | None = None


class AskedAgain(msgspec.Struct, frozen=True, kw_only=True):
    """A run that has ended is to be done again: replayed and compared with its record, or forked.

    Attributes:
        run: its id.
        from_turn: it is forked from this turn on, counted from 1; None replays it.
        model: asked from that turn on; None for a replay, which asks nobody.
        contexts: by the names that they have in the run, those that stand in the place of recorded ones.
    """

    run: str
    from_turn: int | None = None
    model: str | None = None
    contexts: Mapping[str, Context] = {}


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What came of `Desk.submit`.

    Attributes:
        run: the run's id, by which it is found from now on.
        made: `new`; `known`: the key had been used for the same request, and this is the run that it made; `forked`:
            that run was interrupted, and this one takes over what it was answered; `anew`: it was interrupted, and
            this one begins from the start, because what it was answered was not kept, or nothing was.
        retries: the interrupted run, where it is `forked` or `anew`.
        state: of the order at that moment.
    """

    run: str
    tenant: str
    made: Literal["new", "known", "forked", "anew"]
    state: str
    retries: str | None = None


class OrderState(msgspec.Struct, frozen=True, kw_only=True):
    """A run, as far as it can be told here, whoever ordered it and wherever it runs.

    Attributes:
        state: `queued`, `running`, `cancelling`, how it ended (a status of a result; of a replay also `diverged` or
            `incomplete`), `interrupted`, `cancelled` or `refused`.
        parent: of a child run.
        by: who ordered it of a service; None if nobody did.
        retried_as: the run that a retry with the same key made of this one.
        place: how many of its tenant's orders are before it in the queue of this process; None unless it waits there.
        asked_ns, started_ns, ended_ns: when, in nanoseconds since the epoch; None where it is not known, or not yet.
        cost_nanousd: what it has cost so far, together with the runs below it.
        progress: while it runs in this process.
        error, limit: why it was refused, or how it ended; the limit that was met. Of a refused one the log has no
            words: later `error` is absent, and the code of `limit` says why.
        result: once it has ended. What is not known of it any more is empty in it, and named in `absent`: of a run
            that ended a while ago, or in another process, there is what the log says and the kept contents have.
    """

    run: str
    tenant: str
    state: str
    parent: str | None = None
    by: str | None = None
    retried_as: str | None = None
    place: int | None = None
    policy: str | None = None
    backend: str | None = None
    language: str | None = None
    model: str | None = None
    sub_model: str | None = None
    asked_ns: int | None = None
    started_ns: int | None = None
    ended_ns: int | None = None
    cost_nanousd: int | None = None
    progress: Progress | None = None
    error: ErrorInfo | None = None
    limit: Limit | None = None
    result: Result | None = None
    absent: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether its state may still change."""
        return self.state in OPEN


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some runs, the latest first, without results; `after` is the cursor of those that follow, None at the end."""

    runs: tuple[OrderState, ...]
    after: str | None = None


class SessionState(msgspec.Struct, frozen=True, kw_only=True):
    """An open session: its id is that of its run. `busy`: a cell or a question is under way."""

    session: str
    tenant: str
    by: str
    policy: str
    model: str | None
    sub_model: str | None
    opened_ns: int
    used_ns: int
    busy: bool
    idle_s_max: float


class DeskLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much a desk takes on at a time.

    Attributes:
        running: runs under way at once; four for each CPU when None, as most of a run is waiting for a model.
        queued: orders that may wait, of all tenants; `queued_per_tenant` of one; `queued_bytes` of all requests.
        ended: ended runs whose result and events stay in memory, for `ended_s` seconds and of `ended_bytes` at most.
        events_bytes: of one run that are kept for those who listen.
        sessions: open at once; `sessions_per_tenant` of one tenant.
        session_idle_s: how long a session may be left unused before it is closed.
        idem_s: how long the key of a request is remembered.
    """

    running: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    queued: Annotated[int, Meta(ge=1, le=1_000_000)] = 5000
    queued_per_tenant: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    queued_bytes: Annotated[int, Meta(ge=1)] = 256 << 20
    ended: Annotated[int, Meta(ge=0, le=100_000)] = 500
    ended_s: Annotated[float, Meta(ge=0)] = 600.0
    ended_bytes: Annotated[int, Meta(ge=0)] = 128 << 20
    events_bytes: Annotated[int, Meta(ge=1 << 16)] = 2 << 20
    sessions: Annotated[int, Meta(ge=0, le=10_000)] = 64
    sessions_per_tenant: Annotated[int, Meta(ge=0, le=10_000)] = 8
    session_idle_s: Annotated[float, Meta(gt=0)] = 600.0
    idem_s: Annotated[float, Meta(gt=0)] = 86_400.0

    @property
    def slots(self) -> int:
        return self.running if self.running is not None else 4 * (os.cpu_count() or 1)


class Busy(Refusal):
    """Too much is waiting already, or the service is stopping.

    `code` is `queue.tenant`, `queue.full`, `queue.bytes`, `sessions.tenant`, `sessions.full`, `session.busy`,
    `requests.tenant`, `service.busy`, `service.connections`, `mcp.busy` or `service.draining`.

    Args:
        retry_after_s: when it is worth trying again, in seconds.
    """

    exit_code = 5

    def __init__(
        self, message: str, *, code: str, retry_after_s: float, limit: int | None = None, observed: int | None = None
    ) -> None:
        super().__init__(message, code=code, limit=limit, observed=observed)
        self.retry_after_s = retry_after_s


class IdempotencyConflict(Refusal):
    """The key was used for another request: `order.idem_conflict`."""

    def __init__(self) -> None:
        super().__init__(
            "this idempotency key was used for another request: use a new key for a new request",
            code="order.idem_conflict",
        )


class NoSuchRun(InvalidInput):
    """`run.unknown`."""

    def __init__(self, run: str) -> None:
        super().__init__(f"there is no run {run[:80]!a}: list the runs to find it", code="run.unknown")


class NoSuchSession(InvalidInput):
    """`session.unknown`: it was closed, or belongs to another process."""

    def __init__(self, session: str) -> None:
        super().__init__(
            f"there is no open session {session[:80]!a} in this process: open a new one", code="session.unknown"
        )


def check_asked(asked: Asked) -> None:
    """Refuse what cannot be an order, whatever the host has.

    Raises:
        InvalidInput: `order.what`: neither a question nor code, or both; `order.model`: a question without a model, or
            code with one; `order.schema`: code with an answer's schema.
    """
    if (asked.question is None) == (asked.code is None):
        raise InvalidInput("give either `question` or `code`", code="order.what")
    if asked.question is not None and asked.model is None:
        raise InvalidInput("a question needs a `model` that answers it", code="order.model")
    if asked.code is not None and asked.model is not None:
        raise InvalidInput(
            "code has no root model: name the one that answers its queries `sub_model`", code="order.model"
        )
    if asked.code is not None and asked.answer_schema is not None:
        raise InvalidInput(
            "`answer_schema` belongs to a question: check the answer of code yourself", code="order.schema"
        )


def check_idem(idem: str) -> None:
    """Refuse what cannot be an idempotency key.

    Raises:
        InvalidInput: `order.idem`.
    """
    if idem and not _IDEM.fullmatch(idem):
        raise InvalidInput(
            f"this is not a valid idempotency key: use 1 to {IDEM_CHARS_MAX} visible ASCII characters",
            code="order.idem",
        )


def digest_of(asked: Asked | AskedSession) -> tuple[bytes, int]:
    """SHA-256 of a request in its canonical form, and how many bytes it has.

    Keys are sorted, what is as by default is left out, and each context stands there as its own digest.
    """
    contexts, size = {}, 0
    for name, context in asked.contexts.items():
        match context:
            case TextContext():
                data = bytes_of(context.text)
            case JsonContext():
                data = msgspec.json.encode(context.value, order="sorted")
            case RegisteredContext():
                data = context.ref.encode()
            case _:
                assert_never(context)
        contexts[name] = (type(context).__name__, sha256(data))
        size += len(data)
    whole = msgspec.json.encode((msgspec.structs.replace(asked, contexts={}), contexts), order="sorted")
    return hashlib.sha256(whole).digest(), size + len(whole)


def chars_of(asked: Asked | AskedSession) -> int:
    """About how much there is to go through; of JSON nobody knows before."""
    size = sum(len(one.text) if isinstance(one, TextContext) else 1 << 20 for one in asked.contexts.values())
    return size + (len(asked.question or "") + len(asked.code or "") if isinstance(asked, Asked) else 0)
