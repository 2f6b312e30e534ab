"""What stands before every route: how long a head is, which host is asked, from where, and what a browser is told.

A page of somebody else's can make a browser send requests to this machine under a name that it has pointed here. So the
name in `Host` has to be one of ours; an address is nobody's trick, and passes. Addresses in `X-Forwarded-For` count
only as far as those who wrote them are trusted: from the right, up to the first that is no proxy of ours.

A request that tells its length in two ways ends for us where `Transfer-Encoding` says, and for some proxy perhaps where
`Content-Length` does: what is between them would be the next request, with whatever the proxy believes of it. So such a
one is refused, and its connection ends, whatever else was sent. So does the connection of whoever sends a body that
nobody reads: else all that they go on to send would be taken in. Whoever is still sending then is read, and not
listened to, for a moment (`_LINGER_S`): if we ended the connection at once, their system would throw away the answer.
Nor may a request show two keys in one way: a proxy may believe the other one.

What fails behind it that nobody expected is a problem like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from belljar.audit.events import HttpRequest
from belljar.config import Network
from belljar.service.problems import Problem, problem_of, tell
from belljar.service.records import address_of, request_record
from belljar.service.routes import Refused
from belljar.service.settings import ServiceSettings

__all__ = ["HEADERS", "NO_ROUTE", "Guard", "client_of", "is_ours", "note", "refuse"]

_log = logging.getLogger("belljar.service.requests")
_failures = logging.getLogger("belljar.service")
# Of what is refused before anybody looks where it is meant for.
NO_ROUTE: Final = "(none)"

HEADERS: Final = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_HSTS: Final = "max-age=31536000"
_HOST: Final = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?")
_LINGER_S: Final = 10.0
_GAP_S: Final = 1.0
_FORWARDED_MAX: Final = 32
_NOT_OURS: Final = Refused(
    "this service does not answer for that host: ask it by its own name or address", code="route.host"
)
_TWO_LENGTHS: Final = Refused("a request has Content-Length or Transfer-Encoding: send one", code="request.http")
_TWO_KEYS: Final = Refused("a request has one Authorization and one X-API-Key: send one key", code="request.http")


class Guard:
    """An ASGI application around another one.

    Args:
        observers: told of each answer: the route, the status, and the seconds until its head left.
        count: told of each refusal, with the address that it went to.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServiceSettings,
        observers: Sequence[Callable[[str, int, float], None]] = (),
        count: Callable[[str, HttpRequest], None] = lambda _address, _event: None,
    ) -> None:
        self._app = app
        self._count = count
        self._settings = settings
        self._observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        scope["belljar.request"] = request = secrets.token_hex(8)
        headers = Headers(scope=scope)
        self._believe(scope, headers)
        is_read, is_begun = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers, False

        async def receiving() -> Message:
            nonlocal is_read
            message = await receive()
            is_read = is_read or not message.get("more_body", False)
            return message

        async def sending(message: Message) -> None:
            nonlocal is_begun
            if message["type"] == "http.response.start":
                is_begun, answered = True, MutableHeaders(scope=message)
                self._complete(answered, scope, request)
                if not is_read:
                    answered["connection"] = "close"
                self._tell(scope, message["status"], time.perf_counter() - started)
            elif not is_read and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await _linger(receiving)
                message = {"type": "http.response.body"}
            await send(message)

        if (refused := self._refused(scope, headers)) is not None:
            problem = problem_of(refused, request)
            self._count(address_of(scope), request_record(None, NO_ROUTE, problem.status, code=refused.code))
            await refuse(sending, problem)
            return
        try:
            await self._app(scope, receiving, sending)
        except Exception as error:
            if is_begun:
                raise
            _failures.exception("belljar: request %s failed", request)
            await refuse(sending, problem_of(error, request))

    def _refused(self, scope: Scope, headers: Headers) -> Refused | None:
        """Why nobody looks at it. A head that comes at once is bounded by nothing below us."""
        most = self._settings.header_bytes
        line = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
        if line + sum(len(name) + len(value) for name, value in headers.raw) > most:
            return Refused(f"the head of the request is longer than {most} bytes; send less", code="request.head")
        if not is_ours(headers.getlist("host"), self._settings):
            return _NOT_OURS
        if any(len(headers.getlist(name)) > 1 for name in ("authorization", "x-api-key")):
            return _TWO_KEYS
        return _TWO_LENGTHS if "content-length" in headers and "transfer-encoding" in headers else None

    def _believe(self, scope: Scope, headers: Headers) -> None:
        """Let the client be whom trusted proxies tell, and the scheme what they had."""
        peer = address_of(scope)
        trusted = self._settings.trusted_proxies
        if not _is_in(peer, trusted):
            return
        told = ",".join(headers.getlist("x-forwarded-for"))
        scope["client"] = (client_of(peer, told, trusted), 0)
        if headers.get("x-forwarded-proto", "").rpartition(",")[2].strip().lower() == "https":
            scope["scheme"] = "https"

    def _complete(self, headers: MutableHeaders, scope: Scope, request: str) -> None:
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        headers["x-request-id"] = request
        if scope.get("scheme") == "https":
            headers.setdefault("strict-transport-security", _HSTS)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("belljar.route", NO_ROUTE)
        for observer in self._observers:
            observer(route, status, seconds)
        note(scope, route, status, seconds)


async def _linger(receive: Receive) -> None:
    """Take in what still comes of a body, as long as it comes, until that has been long enough."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            more = True
            while more:
                async with asyncio.timeout(_GAP_S):
                    more = (await receive()).get("more_body", False)


def note(scope: Mapping[str, Any], route: str, status: int, seconds: float) -> None:
    """A line of a request. Nothing of what was sent: neither the path, nor what is behind it, nor a key."""
    told = {
        "request": scope["belljar.request"],
        "route": route,
        "status": status,
        "ms": round(1000 * seconds, 1),
        "client": address_of(scope),
        "by": scope.get("belljar.by", "nobody"),
    }
    _log.info("%s %d", route, status, extra={"http": told})


def is_ours(hosts: Sequence[str], settings: ServiceSettings) -> bool:
    """Whether a request is for this service: it names one host, and that is an address or a name of ours."""
    if len(hosts) != 1 or (match := _HOST.fullmatch(hosts[0])) is None:
        return False
    name = match["name"].lower().rstrip(".")
    if name in ("localhost", settings.host.lower(), *settings.allowed_hosts):
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def client_of(peer: str, forwarded: str, trusted: Sequence[Network]) -> str:
    """Who sent a request that came from `peer`, a trusted proxy: the last address that is no proxy of ours.

    Args:
        forwarded: all of `X-Forwarded-For`, in which each proxy has added whom it heard.
    """
    told = [text.strip() for text in forwarded.split(",")[-_FORWARDED_MAX:]]
    found = peer
    for text in reversed(told):
        if not _forms(text):
            break
        found = text
        if not _is_in(text, trusted):
            break
    return found


def _forms(text: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """An address; and that of IPv4, too, which a socket for both kinds tells as one of IPv6. None, if it is none."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return []
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return [found] if mapped is None else [found, mapped]


def _is_in(address: str, networks: Sequence[Network]) -> bool:
    return any(one.version == net.version and one in net for one in _forms(address) for net in networks)


async def refuse(send: Send, problem: Problem) -> None:
    """Answer with a problem and end the connection, whatever was sent or still comes."""
    await tell(send, problem, connection="close")
