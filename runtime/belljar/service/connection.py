"""One connection of a client, and its bounds.

`uvicorn` speaks HTTP over it. What is added: how long a client may take, for the head of a request and to take an
answer; and how many connections there may be. One that comes when there are too many is told so at its first request,
and ends with that; those that were there before go on. So whoever opens many keeps newcomers out, and nobody else.

A body may come in chunks of a byte each, of which a single read holds tens of thousands, and each takes as long to
parse as a long one. So after `EVENTS_AT_ONCE` of them a connection waits for its turn, and reads nothing meanwhile; of
all that wait one has its turn each time the loop comes round. Others wait for a millisecond, however many these are.

What comes behind a request that is not answered yet is another request, and waits too. As soon as there is some of it,
nothing more is read: else whoever asks for a run that takes long could fill the memory meanwhile.

What is refused here has a problem for an answer, as everything has, and stands in the log: nobody is known yet.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import h11
import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

from belljar.audit.events import HttpRequest
from belljar.jobs import Busy
from belljar.service.guard import HEADERS, NO_ROUTE, Guard, note, refuse
from belljar.service.problems import MEDIA_TYPE, problem_of
from belljar.service.records import address_of, request_record
from belljar.service.routes import Refused, Service

__all__ = ["EVENTS_AT_ONCE", "Patient", "speaking"]

# Parts of requests that one connection has parsed before it is another one's turn: they take about a millisecond.
EVENTS_AT_ONCE: Final = 64
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
        header_bytes = settings.header_bytes
        turns = _Turns()
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


class _Turns:
    """Connections that have more to parse than is done at once: each time the loop comes round it is one's turn."""

    def __init__(self) -> None:
        self._waiting: deque[Patient] = deque()

    def wait(self, connection: Patient) -> None:
        self._waiting.append(connection)
        if len(self._waiting) == 1:
            connection.loop.call_soon(self._next)

    def _next(self) -> None:
        connection = self._waiting[0]
        try:
            connection.go_on()
        finally:
            self._waiting.popleft()  # not before: while it is there, whoever comes behind it begins no other round
            if self._waiting:
                connection.loop.call_soon(self._next)


class _Speech(h11.Connection):
    """What is said on a connection; of what its client says, so many events at once, and then none for now."""

    left: int = EVENTS_AT_ONCE
    latest: Any = None

    def next_event(self) -> Any:
        self.left -= 1
        self.latest = super().next_event() if self.left >= 0 else h11.NEED_DATA
        return self.latest


class _Flow(FlowControl):
    """Whether a connection is read. While it is `held`, it is not, whoever asks for more of a request's body."""

    held = False

    def resume_reading(self) -> None:
        if not self.held:
            super().resume_reading()


class Patient(H11Protocol):
    """One connection, with a bound on how long its client may take: for the head of a request, and to take an answer.

    A client that takes an answer slower than we make it makes us wait, which costs nothing but its place. One that
    takes nothing for `write_s` seconds is cut off: the answer's generator is closed, and what it held is free.
    """

    header_s: float
    header_bytes: int
    write_s: float
    connections_max: int
    count: Callable[[str, HttpRequest], None]
    full: ASGIApp
    turns: _Turns
    conn: _Speech
    flow: _Flow

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = _Speech(h11.SERVER, self.header_bytes)
        self._waits = False  # for its turn
        self._ahead = 0  # bytes of what comes behind a request that is not answered yet
        self._head: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport)
        # A handler may outlive the connection of whoever asked for it.
        if max(len(self.connections), len(self.tasks) + 1) > self.connections_max:
            self.app = self.full
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        if self._head is None and self._is_idle():
            self._wait_for_head()
        if self.conn.latest is h11.PAUSED:
            self._ahead += len(data)
        super().data_received(data)
        if not self._is_idle():
            self._cancel_head()

    def handle_events(self) -> None:
        if self._waits:
            return
        self.conn.left, self.flow.held = EVENTS_AT_ONCE, False
        super().handle_events()
        if self.conn.left < 0:
            self._waits = True
            self._hold()
            self.turns.wait(self)
        elif self.conn.latest is h11.PAUSED:
            if self._ahead > HIGH_WATER_LIMIT:
                self._hold()
        else:
            self._ahead = 0
            if self._is_idle() or len(self.cycle.body) <= HIGH_WATER_LIMIT:
                self.flow.resume_reading()

    def go_on(self) -> None:
        """It is its turn: parse more of what came."""
        self._waits = False
        if not self.transport.is_closing():
            self.handle_events()

    def _hold(self) -> None:
        self.flow.pause_reading()
        self.flow.held = True

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
        problem = problem_of(_NOT_HTTP, secrets.token_hex(8))
        scope = {"belljar.request": problem.request, "client": self.client}
        self.count(address_of(scope), request_record(None, NO_ROUTE, problem.status, code=_NOT_HTTP.code))
        note(scope, NO_ROUTE, problem.status, 0)
        data = msgspec.json.encode(problem)
        told = {"content-type": MEDIA_TYPE, "content-length": len(data), "x-request-id": problem.request, **HEADERS}
        lines = ["HTTP/1.1 400 Bad Request", *(f"{name}: {value}" for name, value in told.items()), "connection: close"]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + data)
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
