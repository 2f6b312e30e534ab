"""What a service answers when it does not do what it was asked: problem details as RFC 9457 has them.

The type of an error says who is at fault (`belljar.errors`), and so does the status: 4xx for a refusal, whose words are
for whoever asked, and 5xx for a fault of ours, whose words are not: they name files, hosts and databases. Of a fault
they get a sentence that is always the same, and the id of the request, under which the service's own log has the rest.

A refusal's words may have a path of this host as well, such as that of a state folder in which there is no log yet. So
whatever looks like one is cut out of every text that leaves (`without_paths`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec
from starlette.types import Send

from belljar.errors import (
    AccessDenied,
    AccessForbidden,
    AccessThrottled,
    AccessUnavailable,
    AuditUnavailable,
    BelljarError,
    BoxFault,
    ContentErased,
    ContentUnavailable,
    GuestFault,
    InvalidInput,
    InvalidPolicy,
    LayerMissing,
    LedgerUnavailable,
    ModelFailed,
    PolicyDenied,
    QuotaExceeded,
    Refusal,
    VerificationFailed,
)
from belljar.jobs.words import FAULTS, told_words, without_paths

__all__ = [
    "MEDIA_TYPE",
    "Problem",
    "Unfit",
    "code_of",
    "headers_of",
    "problem_of",
    "retry_after",
    "status_of",
    "tell",
]

MEDIA_TYPE: Final = "application/problem+json"

# By its code, where the type of an error does not say enough.
_BY_CODE: Final[Mapping[str, int]] = {
    "audit.missing": 404,
    "audit.no_run": 404,
    "audit.empty": 409,
    "audit.unfinished": 409,
    "cell.running": 409,
    "content.live": 409,
    "context.in_use": 409,
    "context.too_long": 413,
    "context.unknown": 404,
    "front.model": 404,
    "hook.missing": 404,
    "hook.too_many": 409,
    "key.ended": 409,
    "key.missing": 404,
    "key.too_many": 409,
    "model.unknown": 422,
    "order.unknown": 404,
    "policy.not_found": 404,
    "policy.unknown": 422,
    "program.too_long": 413,
    "question.too_long": 413,
    "quota.missing": 404,
    "route.host": 421,
    "route.method": 405,
    "route.media": 415,
    "route.origin": 403,
    "route.tus": 412,
    "route.unknown": 404,
    "request.head": 431,
    "request.http": 400,
    "request.json": 400,
    "request.length": 411,
    "request.slow": 408,
    "request.too_long": 413,
    "request.values": 413,
    "run.not_begun": 409,
    "run.not_live": 409,
    "run.unknown": 404,
    "session.busy": 409,
    "session.ended": 409,
    "session.unknown": 404,
    "upload.busy": 423,
    "upload.digest": 422,
    "upload.offset": 409,
    "upload.too_long": 413,
    "upload.unknown": 404,
}
# The first type that fits counts.
_BY_TYPE: Final[tuple[tuple[type[BelljarError], int], ...]] = (
    (AccessThrottled, 429),
    (AccessDenied, 401),
    (AccessForbidden, 403),
    (ContentErased, 410),
    (ContentUnavailable, 404),
    (QuotaExceeded, 429),
    (PolicyDenied, 403),
    (LayerMissing, 503),
    (InvalidPolicy, 422),
    (InvalidInput, 422),
    (Refusal, 409),
    (GuestFault, 422),
    (AccessUnavailable, 503),
    (AuditUnavailable, 503),
    (LedgerUnavailable, 503),
    (BoxFault, 503),
    (ModelFailed, 502),
    (VerificationFailed, 500),
)
_TITLES: Final[Mapping[int, str]] = {
    400: "The request is not valid HTTP or JSON",
    401: "Nobody proved who asks",
    403: "Not allowed",
    404: "There is no such thing",
    405: "Not that method",
    408: "The request took too long",
    409: "Not in this state",
    410: "It was erased",
    411: "Its length has to be told",
    412: "Another version of the protocol",
    413: "Too large",
    415: "Not that media type",
    421: "Not this host",
    422: "The request makes no sense",
    423: "Somebody else is writing",
    429: "Too much",
    431: "The headers are too large",
    500: "Our fault",
    502: "The model failed",
    503: "Not now",
}


# Which fields of a body are meant by a code, or by all that begin with the same word.
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "access.scope": ("tenant",),
    "answer": ("answer_schema",),
    "audit.checkpoint": ("checkpoints",),
    "audit.key": ("keys",),
    "audit.receipt": ("receipts",),
    "backend": ("backend",),
    "context": ("text", "value", "contexts"),
    "front.choices": ("n",),
    "front.content": ("messages",),
    "front.format": ("response_format", "output_format", "output_config"),
    "front.question": ("messages",),
    "front.tools": ("tools", "functions"),
    "hook.told": ("told",),
    "hook.url": ("url",),
    "key.label": ("label",),
    "key.overlap": ("overlap_s",),
    "key.until": ("until",),
    "limit": ("limits",),
    "model": ("model", "sub_model"),
    "order.model": ("model",),
    "order.schema": ("answer_schema",),
    "policy": ("policy", "toml"),
    "session.no_model": ("question",),
}
# What does not stand in the body: parameters, and headers.
_ELSEWHERE: Final[Mapping[str, str]] = {
    "audit.range": "?new",
    "order.idem": "Idempotency-Key",
    "page.cursor": "?after",
    "tenant.invalid": "Upload-Metadata",
    "upload.digest": "Upload-Metadata",
}
_NOBODY: Final = 401
_NO_SENSE: Final = 422


class Unfit(InvalidInput):
    """A body or query does not fit its type; `at` is the JSON path of what does not."""

    def __init__(self, message: str, *, at: str, code: str = "request.invalid") -> None:
        super().__init__(message, code=code)
        self.at = at


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request was not done.

    `code` is one stable word for programs, and `request` the id under which the service's log has the request. `at` is
    the JSON path of what does not fit, which every 422 has: `$` is all of the body, `?after` a parameter, and a name
    alone that of a header. The fields from `level` on tell which quota was met, in the unit of `dimension`.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    request: str
    at: str | None = None
    limit: int | None = None
    observed: int | None = None
    retry_after_s: int | None = None
    level: str | None = None
    dimension: str | None = None
    period: str | None = None
    used: int | None = None
    held: int | None = None
    resets_at: datetime | None = None


def problem_of(
    error: Exception, request: str, *, body: object = None, now: datetime | None = None, folders: Iterable[str] = ()
) -> Problem:
    """What to answer for an error that a handler raised.

    Args:
        request: the request's id.
        body: what was sent, as far as it was decoded.
        now: from which a quota's next period is counted.
        folders: paths of this host that no answer has, besides whatever looks like one.
    """
    status, code = status_of(error), code_of(error)
    told = told_words(error, folders)
    problem = Problem(
        type=f"urn:belljar:problem:{code}",
        title=_TITLES.get(status, "Refused"),
        status=status,
        detail=told,
        code=code,
        request=request,
        at=error.at if isinstance(error, Unfit) else _place(error, code, body) if status == _NO_SENSE else None,
        retry_after_s=retry_after(error, now),
    )
    if not isinstance(error, Refusal):
        return problem
    problem = msgspec.structs.replace(problem, limit=error.limit, observed=error.observed)
    if not isinstance(error, QuotaExceeded) or error.told is not None:  # the numbers may be somebody else's
        return problem if not isinstance(error, QuotaExceeded) else _without_numbers(problem, error)
    return msgspec.structs.replace(
        problem,
        level=None if error.scope is None else str(error.scope),
        dimension=error.dimension,
        period=error.period,
        used=error.used,
        held=error.held,
        resets_at=error.resets_at,
    )


def _place(error: Exception, code: str, body: object) -> str:
    """Where in a request that is which makes no sense; of several fields the one whose value the error names."""
    if (elsewhere := _ELSEWHERE.get(code)) is not None:
        return elsewhere
    fields = _FIELDS.get(code) or _FIELDS.get(code.partition(".")[0], ())
    there = {name: getattr(body, name) for name in fields if hasattr(body, name)}
    given = [name for name, value in there.items() if value]
    named = [name for name in given if isinstance(there[name], str) and ascii(there[name][:80])[1:-1] in str(error)]
    return next((f"$.{found[0]}" for found in (named, given, [*there]) if len(found) == 1), "$")


def _without_numbers(problem: Problem, error: QuotaExceeded) -> Problem:
    """A quota of a level above whoever asks: that it is met they have to know, and not what it is."""
    return msgspec.structs.replace(
        problem,
        detail=without_paths(error.told or ""),
        limit=None,
        observed=None,
        dimension=error.dimension,
        period=error.period,
        resets_at=error.resets_at,
    )


def headers_of(problem: Problem) -> dict[str, str]:
    """Of an answer that tells it, whatever form it has there."""
    headers = {"cache-control": "no-store"}
    if problem.status == _NOBODY:
        headers["www-authenticate"] = 'Bearer realm="belljar"'
    if problem.retry_after_s is not None:
        headers["retry-after"] = str(problem.retry_after_s)
    return headers


async def tell(send: Send, problem: Problem, **headers: str) -> None:
    """Answer with it, where nothing has left yet."""
    data = msgspec.json.encode(problem)
    told = {**headers_of(problem), "content-type": MEDIA_TYPE, "content-length": str(len(data)), **headers}
    head = [(name.encode(), value.encode()) for name, value in told.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": head})
    await send({"type": "http.response.body", "body": data})


def code_of(error: Exception) -> str:
    """The stable word for an error."""
    if isinstance(error, Refusal):
        return error.code
    return next((code for kind, code, _ in FAULTS if isinstance(error, kind)), "internal")


def retry_after(error: Exception, now: datetime | None = None) -> int | None:
    """In how many whole seconds it makes sense to ask again; None where nobody knows."""
    told = getattr(error, "retry_after_s", None)
    if isinstance(told, int | float):
        return max(1, math.ceil(told))
    if isinstance(error, QuotaExceeded) and error.resets_at is not None:
        return max(1, math.ceil((error.resets_at - (now or datetime.now(UTC))).total_seconds()))
    return None


def status_of(error: Exception) -> int:
    """The status of HTTP for an error."""
    if isinstance(error, Refusal):
        if (status := _BY_CODE.get(error.code)) is not None:
            return status
        if hasattr(error, "retry_after_s") and not isinstance(error, AccessThrottled | QuotaExceeded):
            return 503  # too much is under way already
    return next((status for kind, status in _BY_TYPE if isinstance(error, kind)), 500)
