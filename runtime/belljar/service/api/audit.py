"""`/v1/audit`: the log's records by cursor, whether it verifies, what is signed of it, and all of it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.responses import Response

from belljar.audit import Receipt, Record, Report, page_after, records, verify
from belljar.audit.checkpoint import NOTE_BYTES_MAX
from belljar.audit.events import RunStarted
from belljar.audit.export.jsonl import jsonl
from belljar.errors import InvalidInput
from belljar.host import Host
from belljar.identity import Tenant, is_within
from belljar.service.routes import Asking, Nothing, Route, own, whole_host
from belljar.service.scopes import LIMIT_MAX, TenantName, named_tenant, proof_of
from belljar.service.streams import pieces, streamed

__all__ = ["ROUTES", "CheckpointShown", "Evidence", "Proof", "ProofQuery", "RecordPage", "RecordShown", "RecordsQuery"]

_SEQ_MAX = 2**53 - 1


class RecordsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Records with higher numbers than `after`: of `run`, or of `tenant` and those below it, or of all.

    Of a tenant there are the records of its runs. What belongs to no run stands only in the whole.
    """

    after: Annotated[int, Meta(ge=0, le=_SEQ_MAX)] = 0
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = 100
    run: Annotated[str, Meta(max_length=128)] | None = None
    tenant: TenantName | None = None


class RecordShown(msgspec.Struct, frozen=True):
    """A record as it is in the log; both hashes are hex SHA-256."""

    seq: int
    time_ns: int
    run: str
    event: str
    data: dict[str, Any]
    prev: str
    hash: str


class RecordPage(msgspec.Struct, frozen=True):
    """Records in order; the next page comes `after`, and null means that there are no more now."""

    records: list[RecordShown]
    after: int | None


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the log has to agree with: receipts of runs, and signed checkpoints that were kept elsewhere.

    `keys` are public keys, besides the host's own, that may have signed it.
    """

    receipts: Annotated[list[Receipt], Meta(max_length=100)] = []
    checkpoints: Annotated[list[Annotated[str, Meta(max_length=NOTE_BYTES_MAX)]], Meta(max_length=100)] = []
    keys: Annotated[list[Annotated[str, Meta(max_length=1000)]], Meta(max_length=20)] = []


class CheckpointShown(msgspec.Struct, frozen=True):
    """What was signed last: a signed note with the root of the first `size` records, and the key that verifies it."""

    size: int
    checkpoint: str
    key: str


class ProofQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From a log of `old` records to one of `new`."""

    old: Annotated[int, Meta(ge=1, le=_SEQ_MAX)]
    new: Annotated[int, Meta(ge=1, le=_SEQ_MAX)]


class Proof(msgspec.Struct, frozen=True):
    """RFC 9162's consistency proof, its hashes in hex."""

    old: int
    new: int
    proof: list[str]


async def _show(asking: Asking[RecordsQuery, None]) -> RecordPage:
    query, log = asking.query, asking.host.state.journal
    asking.about = query.run
    above = asking.tenant
    wanted = None if above is None else functools.partial(_is_below, asking.host, above, {})
    work = functools.partial(page_after, log, query.after, query.limit, run=query.run, wanted=wanted)

    def page() -> RecordPage:
        found, after = work()
        return RecordPage([_shown(record) for record in found], after)

    return await asyncio.to_thread(page)


def _is_below(host: Host, above: Tenant, known: dict[str, bool], run: str) -> bool:
    """Whether a run is of a tenant or of one below it, as its first record says."""
    if (found := known.get(run)) is None:
        first = next(records(host.state.journal, run), None)
        begun = first.typed if first is not None else None
        found = known[run] = isinstance(begun, RunStarted) and is_within(begun.tenant, above)
    return found


def _shown(record: Record) -> RecordShown:
    return RecordShown(record.seq, record.time_ns, record.run, record.event, record.data, record.prev, record.hash)


async def _check(asking: Asking[Nothing, Evidence]) -> Report:
    body = asking.body
    with asking.reading():
        async with asking.service.verifying:  # each reads the whole log: one after the other
            report = await asyncio.to_thread(
                functools.partial(
                    verify,
                    asking.host.state.journal,
                    keys=asking.host.keys,
                    trusted=body.keys,
                    receipts=body.receipts,
                    notes=body.checkpoints,
                )
            )
    return report if asking.who.tenant is None else _in_short(report)


def _in_short(report: Report) -> Report:
    """Without what names runs of other tenants."""
    count = len(report.problems)
    problems = [f"{count} problem{'s'[: count != 1]}: ask whoever runs this service"] if count else []
    return msgspec.structs.replace(report, problems=problems, unfinished=[], tampering=[])


async def _checkpoint(asking: Asking[Nothing, None]) -> CheckpointShown:
    signed = await asking.host.checkpoints.last()
    return await _signed(asking, signed)


async def _sign(asking: Asking[Nothing, None]) -> CheckpointShown:
    return await _signed(asking, await asking.host.checkpoints.make())


async def _signed(asking: Asking[Any, Any], signed: Any) -> CheckpointShown:
    if signed is None:
        raise InvalidInput("nothing of the log is signed yet: POST here signs it", code="audit.empty")
    return CheckpointShown(signed.size, signed.note, await asking.host.checkpoints.key())


async def _consistency(asking: Asking[ProofQuery, None]) -> Proof:
    query = asking.query
    with asking.reading():
        async with asking.service.verifying:
            found = await asking.host.checkpoints.consistency(query.old, query.new)
    return Proof(query.old, query.new, [node.hex() for node in found])


async def _export(asking: Asking[Nothing, None]) -> Response:
    @contextlib.contextmanager
    def everything() -> Iterator[Iterator[bytes]]:
        yield jsonl(records(asking.host.state.journal))

    headers = {"content-disposition": 'attachment; filename="audit.jsonl"', "cache-control": "no-store"}
    return await streamed(pieces(everything, asking.reading()), "application/jsonl", headers, proof_of(asking))


ROUTES = (
    Route(
        method="GET",
        path="/v1/audit/records",
        summary="Read records of the log, page by page",
        action="audit.read",
        owner=named_tenant,
        handler=_show,
        query=RecordsQuery,
        answer=RecordPage,
    ),
    Route(
        method="POST",
        path="/v1/audit/verify",
        summary="Check the whole log",
        action="audit.verify",
        owner=own,
        handler=_check,
        body=Evidence,
        answer=Report,
    ),
    Route(
        method="GET",
        path="/v1/audit/checkpoint",
        summary="Show what was signed last of the log",
        action="audit.verify",
        owner=own,
        handler=_checkpoint,
        answer=CheckpointShown,
        refuses=(409,),
    ),
    Route(
        method="POST",
        path="/v1/audit/checkpoint",
        summary="Sign the log as it is now",
        action="audit.sign",
        owner=own,
        handler=_sign,
        answer=CheckpointShown,
        refuses=(409,),
    ),
    Route(
        method="GET",
        path="/v1/audit/consistency",
        summary="Prove that the log only grew",
        action="audit.verify",
        owner=own,
        handler=_consistency,
        query=ProofQuery,
        answer=Proof,
    ),
    Route(
        method="GET",
        path="/v1/audit/export",
        summary="Export the whole log as JSON Lines",
        action="audit.read",
        owner=whole_host,
        handler=_export,
        answer=bytes,
        gives=("application/jsonl",),
    ),
)
