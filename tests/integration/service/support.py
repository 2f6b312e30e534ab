"""A service on a port of this machine, and clients of it."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Self

import httpx2
import msgspec
import pytest

from belljar import Host
from belljar.access import Role
from belljar.access.throttle import Throttle
from belljar.models import Model, ModelReply, ModelRequest
from belljar.service import readiness
from belljar.service.server import Ready, serve
from belljar.service.settings import ServiceSettings
from belljar.testing import FakeModel
from tests.integration.support import PATIENCE_S, Jar

__all__ = [
    "Begun",
    "Client",
    "Held",
    "Serving",
    "connected",
    "head",
    "hold_up_for_long",
    "problem",
    "said",
    "serving",
    "take_time_to_look",
]


class Serving:
    """A service that runs in a thread of its own until the block ends."""

    def __init__(
        self, jar: Jar, settings: ServiceSettings, models: Sequence[Model], *, state: str | None = None, **options: Any
    ) -> None:
        """`state`: a journal on a server, instead of the one in the folder."""
        self.jar = jar
        self.settings = settings
        self._models = models
        self._state = state
        self._options = options
        self._ready = threading.Event()
        self._told: Ready | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="service")

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
        self.host = Host(state=self._state or self.jar.at, environ=self.jar.environ(), models=self._models)
        await serve(self.host, self.settings, by="test", ready=self._heard, stop=self.stop, **self._options)

    def _heard(self, told: Ready) -> None:
        self._told = told
        self._ready.set()

    def __enter__(self) -> Serving:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S), "the service never listened"
        if self._error is not None:
            raise self._error
        assert self._told is not None
        self.url, self.key = self._told.url, self._told.key
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        assert not self._thread.is_alive(), "the service never ended"
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """As a signal would."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # its loop is closed
                self.loop.call_soon_threadsafe(self.stop.set)
            self._thread.join(PATIENCE_S)

    def client(self, key: str | None = None, **options: Any) -> Client:
        """A client with this key, or the first one."""
        return Client(self.url, self.key if key is None else key, **options)

    def nobody(self) -> Client:
        return Client(self.url, "")

    def key_of(self, role: Role, tenant: str | None) -> str:
        """A new key."""
        with self.client() as admin:
            answer = admin.post("/v1/keys", json={"role": role, "tenant": tenant})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["text"])


class Client(httpx2.Client):
    """Speaks to the service as the key's owner."""

    def __init__(self, url: str, key: str | None, **options: Any) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        super().__init__(base_url=url, headers=headers, timeout=PATIENCE_S, trust_env=False, **options)


@contextlib.contextmanager
def serving(
    jar: Jar, *, models: Sequence[Model] = (), options: dict[str, Any] | None = None, **settings: Any
) -> Iterator[Serving]:
    """A service over a state folder, with these settings."""
    made = ServiceSettings(**{"port": 0, "drain_s": 5.0, **settings})
    with Serving(jar, made, models, **(options or {})) as running:
        yield running


def hold_up_for_long(patch: pytest.MonkeyPatch) -> None:
    """Whoever has failed too often stays held up, however long a busy machine takes for the rest of the test."""
    patch.setitem(Throttle.__init__.__kwdefaults__ or {}, "each_s", 3600.0)


def take_time_to_look(patch: pytest.MonkeyPatch) -> None:
    """Whoever asks whether the service is ready hears of its parts however long a busy machine makes a first box."""
    patch.setattr(readiness, "_ASK_S", PATIENCE_S)


def connected(service: Serving) -> socket.socket:
    """A connection of which the client takes little at a time."""
    port = int(service.url.rpartition(":")[2])
    opened = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return opened


def said(opened: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    found = b""
    try:
        while piece := opened.recv(65536):
            found += piece
    except ConnectionResetError:
        pass
    except TimeoutError:
        raise AssertionError(f"it was never closed; {len(found)} bytes came") from None
    return found


def head(service: Serving, line: str, *headers: str, key: str | None = None) -> bytes:
    """The head of a request with this key, or the first one."""
    shown = service.key if key is None else key
    lines = [f"{line} HTTP/1.1", "host: 127.0.0.1", f"authorization: Bearer {shown}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


class Held:
    """Has a model's answers wait until they may go: at the latest when the block ends.

    `model` is who to ask in its place, and `asked` has the last message of each request.
    """

    def __init__(self, model: Model) -> None:
        self.asked: list[str] = []
        self.go = threading.Event()
        self.model = FakeModel(self._answer, model.name)
        self._held = model

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.go.set()

    async def _answer(self, request: ModelRequest) -> ModelReply:
        self.asked.append(request.messages[-1].text)
        await asyncio.to_thread(self.go.wait)
        return await self._held.complete(request)


class Begun:
    """Requests that are sent as far as this, and no further. A context manager that closes them.

    Args:
        requests: the beginning of each.
    """

    def __init__(self, service: Serving, *requests: bytes) -> None:
        self._service = service
        self._requests = requests
        self._opened = [self._open(request) for request in requests]

    def _open(self, request: bytes) -> socket.socket:
        opened = connected(self._service)
        opened.sendall(request)
        return opened

    def are_let_in(self) -> bool:
        """Whether none is answered. One that was refused, as what else came just then took its room, is sent again."""
        answered, _, _ = select.select(self._opened, [], [], 0)
        for place, one in enumerate(self._opened):
            if one in answered:
                one.close()
                self._opened[place] = self._open(self._requests[place])
        return not answered

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._opened:
            one.close()


def problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """What a refused request is told: a problem as RFC 9457 has them, with this status and code, and a place if 422."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = msgspec.json.decode(answer.content)
    assert (told["status"], told["code"], told["type"]) == (status, code, f"urn:belljar:problem:{code}")
    assert told["request"] == answer.headers["x-request-id"]
    assert status != 422 or "at" in told
    return told
