"""What happens to our containers, from the daemon's events, as they come.

An exit code proves nothing: 137 can mean the memory limit, somebody's `docker kill`, or a program's own choice. The
daemon's events tell them apart: `oom`, `kill` with the signal that somebody asked for, `die`, `destroy`. They come over
one long response of the daemon. When that ends, the daemon has stopped or is being restarted, and nothing more can be
known about any container that lived until then: that is our fault and not the program's.

A thread that nobody ever waits for asks for the response and reads it. The response has a deadline for its beginning,
by which the thread ends, and none after that; the SDK gives it neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Mapping
from typing import Any, Final

import docker.types
import docker.utils
import msgspec

from belljar.errors import BoxFault
from belljar.sandbox.docker.daemon import Daemon

__all__ = ["Fate", "Fates"]

# Signals that end a program that does not handle them; the interrupt is our own.
_DEADLY: Final = {str(int(number)) for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGQUIT)}


class Fate(msgspec.Struct):
    """What the daemon has reported about one container.

    `lost`: it can report no more; `killed`: somebody asked for its death or removal; `over`: it has ended.
    """

    memory_kills: int = 0
    killed: bool = False
    over: bool = False
    lost: bool = False


class Fates:
    """Listens to one daemon, for containers with one label. `close` ends it."""

    def __init__(self, daemon: Daemon, label: str) -> None:
        self._daemon = daemon
        self._label = label
        self._of: dict[str, Fate] = {}
        self._news = asyncio.Event()
        self._stream: Any = None
        self._beginning = asyncio.Lock()
        self.listening = False

    async def listen(self) -> bool:
        """Start, unless it has already started and the daemon still sends; return whether it started now.

        Raises:
            BoxFault: the daemon does not answer.
        """
        async with self._beginning:
            if self.listening:
                return False
            loop = asyncio.get_running_loop()
            begun: asyncio.Future[None] = loop.create_future()
            arguments = (loop, begun)
            threading.Thread(target=self._hear, args=arguments, name="belljar docker events", daemon=True).start()
            try:
                async with asyncio.timeout(self._daemon.answer_s):
                    await begun
            except TimeoutError:
                raise self._daemon.silent() from None
            return True

    def watches(self, container: str) -> bool:
        return container in self._of

    def watch(self, container: str) -> Fate:
        """Track this container until `forget`."""
        return self._of.setdefault(container, Fate(lost=not self.listening))

    def forget(self, container: str) -> None:
        self._of.pop(container, None)

    async def wait(self, fate: Fate, seconds: float) -> None:
        """Return when the container is over or lost, or after so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                while not (fate.over or fate.lost):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return

    def close(self) -> None:
        self.listening = False
        if self._stream is not None:
            _end(self._stream)

    def _hear(self, loop: asyncio.AbstractEventLoop, begun: asyncio.Future[None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            try:
                stream = self._daemon.ask_now(self._events)
            except BoxFault as error:
                loop.call_soon_threadsafe(_fail, begun, error)
                return
            try:
                loop.call_soon_threadsafe(self._begin, stream, begun)
                # Whatever the SDK raises when the daemon stops in the middle of a line: its events end there.
                with contextlib.suppress(Exception):
                    for event in stream:
                        loop.call_soon_threadsafe(self._take, event)
                loop.call_soon_threadsafe(self._lose, stream)
            finally:
                stream._response.close()  # what is not read to its end keeps its socket

    def _events(self) -> Any:
        """As `client.events`, which would wait for the response for ever."""
        client: Any = self._daemon.client
        filters = docker.utils.convert_filters({"type": "container", "label": self._label})
        url = client._url("/events")
        response = client._get(url, params={"filters": filters}, stream=True, timeout=self._daemon.answer_s)
        client._disable_socket_timeout(client._get_raw_response_socket(response))
        return docker.types.CancellableStream(client._stream_helper(response, decode=True), response)

    def _begin(self, stream: Any, begun: asyncio.Future[None]) -> None:
        if begun.done():  # too late: the caller has gone
            _end(stream)
            return
        self._stream, self.listening = stream, True
        begun.set_result(None)

    def _take(self, event: Mapping[str, Any]) -> None:
        fate = self._of.get(event.get("id", ""))
        if fate is None:
            return
        action = event.get("Action")
        if action == "oom":
            fate.memory_kills += 1
        elif action == "kill" and event["Actor"]["Attributes"].get("signal") in _DEADLY:
            fate.killed = True
        elif action in ("die", "destroy"):
            fate.over = True
        self._news.set()

    def _lose(self, stream: Any) -> None:
        if stream is not self._stream:
            return
        self.listening = False
        for fate in self._of.values():
            fate.lost = fate.lost or not fate.over
        self._news.set()


def _fail(begun: asyncio.Future[None], error: BoxFault) -> None:
    if not begun.done():
        begun.set_exception(error)


def _end(stream: Any) -> None:
    with contextlib.suppress(OSError, AttributeError):  # it has ended by itself, and the SDK no longer finds a socket
        stream.close()
