"""One request to a hook, which a tenant chose: it must lead nowhere but to the public internet.

The name is resolved here, every address that it has is looked at, and the connection is made to one of these very
addresses: a name that is resolved a second time could lead elsewhere. A name with a single address that is not public
(private, loopback, link-local, the cloud's metadata, or one in which such a one is embedded) is refused as a whole.

Whoever chose the name may also run the server that knows its address, and that may never answer. So names are resolved
in threads of their own (`names`): those of everybody's other work would soon all wait for such names.

Nothing is followed: no redirect, no proxy of the environment. Of the answer only the status is read, by a few lines of
our own: a client for everything takes in whatever a server sends before that, and keeps the event loop busy with it.
All of it takes `SEND_S` seconds at most.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hmac
import ipaddress
import re
import socket
import ssl
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Final
from urllib.parse import urlsplit, urlunsplit

__all__ = ["SEND_S", "NotSent", "is_public", "send", "signed"]

SEND_S: Final = 10.0
_ADDRESSES_MAX: Final = 20
_LINE_BYTES_MAX: Final = 8 * 1024
# Of answers that say that one is to come (100, 103), and of lines in each.
_INTERIM_MAX: Final = 8
_LINES_MAX: Final = 100
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?\n")
# Public as they look, these lead to an IPv4 address that may be anything: NAT64, 6to4, Teredo.
_EMBEDDING: Final = tuple(
    ipaddress.IPv6Network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
)


class NotSent(Exception):
    """Why nothing arrived, in a few words."""


def signed(secret: bytes, delivery: str, now: int, body: bytes) -> Mapping[str, str]:
    """The headers of Standard Webhooks: HMAC-SHA256 over id, time and body."""
    mac = hmac.digest(secret, f"{delivery}.{now}.".encode() + body, "sha256")
    return {
        "Content-Type": "application/json",
        "User-Agent": "belljar",
        "webhook-id": delivery,
        "webhook-timestamp": str(now),
        "webhook-signature": f"v1,{base64.b64encode(mac).decode()}",
    }


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if found.is_site_local or any(found in network for network in _EMBEDDING):
            return False
    return found.is_global and not (found.is_multicast or found.is_reserved)


async def send(
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    private: bool,
    tls: ssl.SSLContext | None = None,
    names: Executor | None = None,
) -> int:
    """Send it, and give the status of the answer.

    Args:
        private: whether it may go to an address that is not public.
        tls: whom to believe; the machine's own authorities when None.
        names: who looks for the addresses of names; the event loop's threads when None.

    Raises:
        NotSent: nobody knows whether it arrived.
    """
    parts = urlsplit(url)
    host, is_secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if is_secure else 80)
    told = {
        # The name that was asked for, which the certificate has to have, and not the address.
        "Host": parts.netloc,
        **headers,
        "Accept-Encoding": "identity",
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    target = urlunsplit(("", "", parts.path or "/", parts.query, ""))
    lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items()), "", ""]
    try:
        async with asyncio.timeout(SEND_S):
            address = await _resolved(host, port, names, private=private)
            if is_secure and tls is None:
                tls = await asyncio.to_thread(_authorities)
            reader, writer = await asyncio.open_connection(
                address,
                port,
                ssl=tls if is_secure else None,
                server_hostname=host if is_secure else None,
                limit=_LINE_BYTES_MAX,
            )
            try:
                writer.write("\r\n".join(lines).encode() + body)
                await writer.drain()
                return await _status(reader)
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise NotSent(f"it took longer than {SEND_S:g} s") from None
    except (OSError, ValueError) as error:
        raise NotSent(type(error).__name__) from None


async def _status(reader: asyncio.StreamReader) -> int:
    """The status of an answer, of which no more is read.

    Raises:
        ValueError: it is no answer of HTTP, or a line, or what comes before the status, is too long.
    """
    for _ in range(_INTERIM_MAX):
        match = _STATUS.fullmatch(await reader.readline())
        if match is None:
            raise ValueError("this is no answer of HTTP")
        if match[1][:1] != b"1":
            return int(match[1])
        for _ in range(_LINES_MAX):
            if not (await reader.readline()).strip():
                break
    raise ValueError("no answer comes")


async def _resolved(host: str, port: int, names: Executor | None, *, private: bool) -> str:
    look = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(names, look)
    addresses = [str(place[0]) for *_, place in found[:_ADDRESSES_MAX]]
    if not addresses:
        raise NotSent("its name has no address")
    if not private and not all(map(is_public, addresses)):
        raise NotSent("its name has an address that is not public")
    return addresses[0]


@functools.cache
def _authorities() -> ssl.SSLContext:
    return ssl.create_default_context()
