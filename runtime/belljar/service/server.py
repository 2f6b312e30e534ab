"""Listens, and ends well.

How it ends. A first signal stops nothing at once: from then on no run is admitted, `/readyz` says so, and what runs has
`drain_s` seconds to end, while clients can still ask for results and hear events. What is left is then killed and
settled. Then the streams of events say goodbye, no connection is taken any more, the last answers leave, the log is
signed, and the process exits with 0. A second signal ends the waiting for runs.

A service whose host the others took for dead ends by itself, with their error: it could only refuse all that it is
asked, for ever, and whoever watches over the process starts it again, under a new name.

How it listens. `uvicorn` speaks HTTP; bounds are put around it in `connection`. It takes no signals: it would raise
them again in the end, and the exit code would be that of a killed process.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Final

import msgspec
import uvicorn
from starlette.applications import Starlette

from belljar.access import AccessSettings, Authenticator
from belljar.audit.events import ServiceChanged
from belljar.errors import BelljarError, HostFault, InvalidInput
from belljar.host import Host
from belljar.jobs import Desk, DeskLimits
from belljar.service.app import Make, application
from belljar.service.connection import speaking
from belljar.service.readiness import taken_for_dead
from belljar.service.routes import Service
from belljar.service.settings import ServiceSettings, check_bind, is_loopback

__all__ = ["Ready", "listening", "serve"]

_log = logging.getLogger("belljar.service")
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_KEEP_ALIVE_S: Final = 20
_LAST_S: Final = 5
_SWEEP_S: Final = 600.0
# On a small machine Python has six, which a few long readings of whole runs would take up.
_THREADS: Final = 32


class Ready(msgspec.Struct, frozen=True):
    """The service listens at `url`. `key` is the text of the first key, if that was made just now."""

    url: str
    key: str | None


async def serve(
    host: Host,
    settings: ServiceSettings,
    *,
    by: str,
    ready: Callable[[Ready], None],
    access: AccessSettings | None = None,
    extras: Sequence[Make] = (),
    stop: asyncio.Event | None = None,
) -> None:
    """Open the host and answer until a signal comes, or `stop` is set.

    Args:
        by: who starts it, for the log.
        ready: called once, when it listens.
        extras: as of `application`.

    Raises:
        InvalidInput: `service.exposed`, `service.tls`, `service.address`: it may not, or cannot, listen there.
        HostFault: the log or the ledger does not work.
    """
    check_bind(settings)
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="belljar")
    asyncio.get_running_loop().set_default_executor(threads)
    async with contextlib.AsyncExitStack() as stack:
        bound = stack.enter_context(listening(settings))
        await stack.enter_async_context(host)
        checked = Authenticator.opened(host.journal, host.audit, host.keys, access or AccessSettings())
        authenticator = await stack.enter_async_context(checked)
        key = await _first_key(authenticator, settings, access, by)
        desk = await stack.enter_async_context(Desk(host, _limits_of(settings), models=settings.models))
        app = application(host, desk, authenticator, settings, extras=extras)
        await _answer(app, bound, by, functools.partial(_told, ready, key), stop or asyncio.Event())


async def _first_key(
    access: Authenticator, settings: ServiceSettings, said: AccessSettings | None, by: str
) -> str | None:
    """The text of a first key, made where nobody could ask for anything. Only on this machine: it is printed."""
    if is_loopback(settings.host):
        made = await access.keys.make_first(by=by)
        return None if made is None else made[1]
    if access.oidc is None and not await _is_any_key(access):
        raise InvalidInput(
            f"nobody has a key, and {settings.host} is not an address of this machine alone: make one first, with "
            "`belljar key make --host --role admin`",
            code="service.exposed",
        )
    return None


async def _is_any_key(access: Authenticator) -> bool:
    after = ""
    while found := await access.keys.ls(after=after):
        if any(key.state == "active" for key in found):
            return True
        after = found[-1].id
    return False


def _limits_of(settings: ServiceSettings) -> DeskLimits:
    """What the desk takes on; what is not said is as it says."""
    said = {
        "running": settings.running,
        "queued": settings.queue,
        "queued_per_tenant": settings.queue_per_tenant,
    }
    return DeskLimits(**{name: value for name, value in said.items() if value is not None})


def _told(ready: Callable[[Ready], None], key: str | None, url: str) -> None:
    ready(Ready(url, key))


async def _answer(
    app: Starlette, bound: socket.socket, by: str, ready: Callable[[str], None], stop: asyncio.Event
) -> None:
    service: Service = app.state.service
    host, settings = service.host, service.settings
    server = _Server(_config(app, settings), settings.header_s)
    hurry = asyncio.Event()
    with _signals(stop, hurry):
        warming = asyncio.ensure_future(_warm(host))
        serving = asyncio.ensure_future(server._serve([bound]))
        up = asyncio.ensure_future(server.up.wait())
        sweeping = asyncio.ensure_future(_sweep(service.uploads.sweep))
        dead = asyncio.ensure_future(taken_for_dead(host.journal))
        try:
            await host.log(ServiceChanged(by=by, state="started"))
            await asyncio.wait({serving, up}, return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                ready(_url(bound, settings))
            stopped = asyncio.ensure_future(stop.wait())
            await asyncio.wait({serving, stopped, dead}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            # Of a host that was taken for dead this fails, and that is how its service ends: it can do nothing more.
            await host.log(ServiceChanged(by=by, state="draining"))
            await _drain(service.desk, settings.drain_s, hurry)
        finally:
            service.stop()
            server.should_exit = True
            for task in (warming, sweeping, up, dead):
                task.cancel()
            await asyncio.gather(serving, warming, sweeping, up, dead, return_exceptions=True)
        await service.readiness.aclose()
        await host.log(ServiceChanged(by=by, state="stopped"))
        with contextlib.suppress(BelljarError):  # the log is whole without it, and `audit verify` tells
            await host.checkpoints.make()
        serving.result()


async def _drain(desk: Desk, drain_s: float, hurry: asyncio.Event) -> None:
    draining = asyncio.ensure_future(desk.drain(drain_s))
    hurried = asyncio.ensure_future(hurry.wait())
    await asyncio.wait({draining, hurried}, return_when=asyncio.FIRST_COMPLETED)
    hurried.cancel()
    if not draining.done():
        await desk.drain(0)
    await draining


async def _warm(host: Host) -> None:
    """Open the default backend before the first run asks for it; what is wrong with it, `/readyz` says."""
    try:
        await host.prepare()
    except BelljarError as error:
        _log.warning("belljar: %s", error)


async def _sweep(sweep: Callable[[], int]) -> None:
    while True:
        try:
            await asyncio.to_thread(sweep)
        except BelljarError as error:
            _log.warning("belljar: %s", error)
        await asyncio.sleep(_SWEEP_S)


class _Server(uvicorn.Server):
    """Says when it listens, or that it cannot.

    Args:
        tls_s: how long a client may take to begin TLS, and to end it: until then it is no connection that is counted.
    """

    def __init__(self, config: uvicorn.Config, tls_s: float) -> None:
        super().__init__(config)
        self.up = asyncio.Event()
        self._tls_s = tls_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup([])  # where it listens itself, a client has a minute to begin TLS
        except SystemExit:  # in a task it would stop the loop on the spot
            raise HostFault("the service could not be started: its log says why") from None
        config, loop = self.config, asyncio.get_running_loop()
        tls_s = self._tls_s if config.ssl else None
        for bound in sockets or ():
            server = await loop.create_server(
                self._speaking,
                sock=bound,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=tls_s,
                ssl_shutdown_timeout=tls_s,
            )
            self.servers.append(server)
        self.up.set()

    def _speaking(self) -> asyncio.Protocol:
        kind: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return kind(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


# -- listening ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def listening(settings: ServiceSettings) -> Iterator[socket.socket]:
    """A socket at the address, bound and not yet taking connections.

    Raises:
        InvalidInput: `service.address`: it cannot be.
    """
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.set_inheritable(False)
    except OSError as error:
        raise InvalidInput(
            f"cannot listen on {settings.host} port {settings.port} ({error.strerror or error}): choose another",
            code="service.address",
        ) from error
    with contextlib.closing(bound):
        yield bound


def _url(bound: socket.socket, settings: ServiceSettings) -> str:
    address, port = bound.getsockname()[:2]
    name = f"[{address}]" if ":" in address else address
    return f"{'https' if settings.is_secure else 'http'}://{name}:{port}"


def _config(app: Starlette, settings: ServiceSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=speaking(app.state.service),
        ws="none",
        interface="asgi3",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_LAST_S,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=None if settings.tls_key is None else str(settings.tls_key),
    )


# -- signals -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _signals(stop: asyncio.Event, hurry: asyncio.Event) -> Iterator[None]:
    """The first signal sets `stop`, any other `hurry`. Signals that our parent has switched off stay so.

    Only a main thread hears them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def heard() -> None:
        (hurry if stop.is_set() else stop).set()

    def handler(_number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(heard)

    wanted = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in wanted}
    try:
        yield
    finally:
        for number, one in before.items():
            signal.signal(number, one)
