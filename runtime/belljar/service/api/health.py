"""`/livez`, `/readyz`, `/v1/doctor`, and the document of it all."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from starlette.responses import Response

from belljar import doctor
from belljar.errors import InvalidInput
from belljar.identity import BackendName
from belljar.policy import load, presets
from belljar.service.routes import JSON, Answer, Asking, Nothing, Route, whole_host

__all__ = ["ROUTES", "Alive", "DoctorQuery", "Ready"]


class Alive(msgspec.Struct, frozen=True):
    """The process answers."""

    status: str


class Ready(msgspec.Struct, frozen=True):
    """Whether runs can be taken: `ok`, `failed`, `slow` or `draining` for each part."""

    status: str
    parts: dict[str, str]


class DoctorQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Under which policy, and with which backend: `jail`, if none is named."""

    policy: str = "standard"
    backend: BackendName = "jail"


async def _livez(_: Asking[Nothing, None]) -> Alive:
    return Alive("ok")


async def _readyz(asking: Asking[Nothing, None]) -> Answer:
    parts = await asking.service.readiness.look()
    if asking.service.stopping.is_set() or asking.desk.is_draining:
        return Answer(Ready("draining", parts), 503)
    is_ready = all(one == "ok" for one in parts.values())
    return Answer(Ready("ok" if is_ready else "failed", parts), 200 if is_ready else 503)


async def _examine(asking: Asking[DoctorQuery, None]) -> doctor.Report:
    name = asking.query.policy
    if name not in presets():
        raise InvalidInput(f"there is no policy {name[:80]!a}: GET /v1/policies lists them", code="policy.not_found")
    policy = await asyncio.to_thread(load, name)
    with asking.reading():
        async with asking.service.examining:  # each builds boxes: one after the other
            return await doctor.examine(policy, [asking.query.backend], images=asking.host.state.images)


async def _openapi(asking: Asking[Nothing, None]) -> Response:
    headers = {"cache-control": "no-cache"}
    return Response(await asyncio.to_thread(asking.service.document), media_type=JSON, headers=headers)


ROUTES = (
    Route(
        method="GET",
        path="/livez",
        summary="Whether the process answers",
        action=None,
        owner=whole_host,
        handler=_livez,
        answer=Alive,
        logged=False,
    ),
    Route(
        method="GET",
        path="/readyz",
        summary="Whether the log, the ledger and a backend work",
        action=None,
        owner=whole_host,
        handler=_readyz,
        answer=Ready,
        others={503: "Not now: `parts` says what does not work, or it is stopping."},
        logged=False,
    ),
    Route(
        method="GET",
        path="/v1/openapi.json",
        summary="This document",
        action=None,
        owner=whole_host,
        handler=_openapi,
        answer=dict[str, Any],
        logged=False,
    ),
    Route(
        method="GET",
        path="/v1/doctor",
        summary="Test the wall on this host",
        action="host.read",
        owner=whole_host,
        handler=_examine,
        query=DoctorQuery,
        answer=doctor.Report,
        refuses=(404,),
    ),
)
