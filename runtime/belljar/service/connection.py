"""One connection of a client, and its bounds.

`uvicorn` speaks HTTP over it. What is added: how long a client may take, for the head of a request and to take an
answer; and how many connections there may be. One that comes when there are too many is told so at its first request,
and ends with that; those that were there before go on. So whoever opens many keeps newcomers out, and nobody else.

What is refused here has a problem for an answer, as everything has, and stands in the log: nobody is known yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from belljar.audit.events import HttpRequest
from belljar.jobs import Busy
from belljar.service.guard import NO_ROUTE, Guard, refuse
from belljar.service.problems import MEDIA_TYPE, problem_of
from belljar.service.records import address_of, request_record
from belljar.service.routes import Refused, Service

__all__ = ["Patient", "speaking"]

_AGAIN_S: Final = 1.0
_FULL: Final = Busy(
    "the service has as many connections as it takes: try again in 1 s",
    code="service.connections",
    retry_after_s=_AGAIN_S,
)
_NOT_HTTP: Final = Refused("this is not a valid HTTP request, or its head is too long; correct it", code="request.http")


def speaking(service: Service) -> type[Patient]:
    """What speaks with each client of a service."""
    settings = service.settings

    class Speaking(Patient):
        header_s, write_s, connections_max = settings.header_s, settings.write_s, settings.connections
        count = staticmethod(service.refusals.count)
        full = staticmethod(Guard(_Full(service), settings, service.observers))

    return Speaking


class _Full:
    """Answers whoever comes when there is no room."""

    def __init__(self, service: Service) -> None:
        self._count = service.refusals.count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = problem_of(_FULL, scope["belljar.request"])
        self._count(address_of(scope), request_record(None, NO_ROUTE, problem.status, code=_FULL.code))
        await refuse(send, problem)


class Patient(H11Protocol):
    """One connection, with a bound on how long its client may take: for the head of a request, and to take an answer.

    A client that takes an answer slower than we make it makes us wait, which costs nothing but its place. One that
    takes nothing for `write_s` seconds is cut off: the answer's generator is closed, and what it held is free.
    """

    header_s: float
    write_s: float
    connections_max: int
    count: Callable[[str, HttpRequest], None]
    full: ASGIApp

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # A handler may outlive the connection of whoever asked for it.
        if max(len(self.connections), len(self.tasks) + 1) > self.connections_max:
            self.app = self.full
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        if self._head is None and self._is_idle():
            self._wait_for_head()
        super().data_received(data)
        if not self._is_idle():
            self._cancel_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._cancel_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stuck is None:
            self._stuck = self.loop.call_later(self.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._take()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_head()
        super().connection_lost(exc)
        self._take()

    def send_400_response(self, msg: str) -> None:
        """As everything else that is refused, a problem."""
        problem = problem_of(_NOT_HTTP, "")
        peer = self.client[0] if self.client else ""
        self.count(peer, request_record(None, NO_ROUTE, problem.status, code=_NOT_HTTP.code))
        data = msgspec.json.encode(problem)
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(data)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + data)
        self.transport.close()

    def _is_idle(self) -> bool:
        cycle = getattr(self, "cycle", None)  # None until there is a request
        return cycle is None or bool(cycle.response_complete)

    def _wait_for_head(self) -> None:
        self._head = self.loop.call_later(self.header_s, self.transport.abort)

    def _cancel_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _take(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
