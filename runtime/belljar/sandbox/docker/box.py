"""One container as a box. See `belljar.sandbox.base.Sandbox`.

`fates` and the daemon's last description say how it ended, never the exit code. Closing a living box waits for no
daemon: the evidence is read, the stream is ended, the process is killed if it is on this machine, and the removal,
which begins with SIGKILL as well, goes on in the background. The stream goes first, because a daemon that still copies
output into a full connection is slow to kill. The last task that waits at the stream closes its descriptor: the loop
must not find another box's stream under the same number.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec

from belljar.errors import BoxFault
from belljar.sandbox.base import BoxEnd, Evidence
from belljar.sandbox.docker.account import Account
from belljar.sandbox.docker.daemon import Daemon, NotThere
from belljar.sandbox.docker.fates import Fates
from belljar.sandbox.docker.stream import Outputs

__all__ = ["Background", "DockerBox", "bury"]

_PIECE_BYTES: Final = 256 * 1024
# The exit code for SIGKILL; a program may also exit with it.
_KILLED: Final = 128 + signal.SIGKILL
# The end of the stream comes first, the daemon's reason a moment later.
_FATE_S: Final = 5.0
# Then at most two questions, which a daemon answers in milliseconds: the caller has a deadline to keep.
_INQUEST_S: Final = 2.0

# Runs something in the background until the backend is closed.
Background = Callable[[Coroutine[Any, Any, object]], asyncio.Task[object]]


class DockerBox:
    """A container whose agent is ready."""

    def __init__(
        self,
        daemon: Daemon,
        container: str,
        stream: socket.socket,
        outputs: Outputs,
        account: Account,
        fates: Fates,
        layers: tuple[str, ...],
        *,
        memory_bytes: int,
        remove: Callable[[], object],
        background: Background,
    ) -> None:
        """`memory_bytes`: the container's limit. `remove` starts its removal without waiting for it."""
        self.container = container
        self.layers = layers
        self._daemon = daemon
        self._stream = stream
        self._outputs = outputs
        self._account = account
        self._fates = fates
        self._fate = fates.watch(container)
        self._memory_bytes = memory_bytes
        self._remove = remove
        self._background = background
        self._hung_up = False
        self._waiting = 0
        self._ended = False
        self._interrupting: asyncio.Task[object] | None = None
        self._killing: asyncio.Task[BoxEnd] | None = None

    async def send(self, *parts: bytes | memoryview) -> None:
        loop = asyncio.get_running_loop()
        self._waiting += 1
        try:
            for part in parts:
                if len(part):
                    await loop.sock_sendall(self._stream, part)
        except OSError:
            self._hung_up = True
            raise
        finally:
            self._stop_waiting()

    async def receive(self) -> bytes:
        while True:
            data = await self._receive()
            if not data:
                self._hung_up = True
                return b""
            if wire := self._outputs.take(data):
                return wire

    async def _receive(self) -> bytes:
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().sock_recv(self._stream, _PIECE_BYTES)
        except OSError:
            return b""
        finally:
            self._stop_waiting()

    def _stop_waiting(self) -> None:
        self._waiting -= 1
        if self._ended and not self._waiting:
            self._stream.close()

    @property
    def alive(self) -> bool:
        """Whether it is as it was when it became ready: a box that has run nothing sends nothing."""
        if self._fate.over or self._fate.lost:
            return False
        try:
            self._stream.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def interrupt(self) -> None:
        self._interrupting = self._background(self._interrupt())

    async def evidence(self) -> Evidence:
        return await self._account.evidence()

    def scratch_full(self) -> bool:
        return self._account.scratch_full()

    async def wait(self, seconds: float) -> bool:
        await self._fates.wait(self._fate, seconds)
        return self._fate.over

    async def kill(self) -> BoxEnd:
        if self._killing is None:
            self._killing = asyncio.create_task(self._kill())
        return await asyncio.shield(self._killing)

    async def _kill(self) -> BoxEnd:
        if self._interrupting is not None:
            self._interrupting.cancel()  # an interrupt that has not arrived yet is no longer needed
        evidence = await self._account.evidence(last=True)
        by_itself = self._hung_up
        self._end_stream()
        try:
            if by_itself:
                return await self._post_mortem(evidence)
            return _end(evidence, killed=True, signal=signal.SIGKILL)
        finally:
            # Also one that hung up: it may run on, and no daemon be there to end it.
            self._account.kill()
            self._account.close()
            self._fates.forget(self.container)
            self._remove()

    def _end_stream(self) -> None:
        self._ended = True
        with contextlib.suppress(OSError):  # the daemon has already ended it
            self._stream.shutdown(socket.SHUT_RDWR)
        if not self._waiting:
            self._stream.close()

    async def _post_mortem(self, evidence: Evidence) -> BoxEnd:
        """It ended before we ended it. Who did? A daemon that does not say so soon does not know."""
        await self._fates.wait(self._fate, _FATE_S)
        try:
            async with asyncio.timeout(_INQUEST_S):
                return await self._inquest(evidence)
        except TimeoutError:
            return _end(evidence, killed=False, lost=True)

    async def _inquest(self, evidence: Evidence) -> BoxEnd:
        fate = self._fate
        if fate.lost:
            return _end(evidence, killed=False, lost=True)
        try:
            state = (await self._daemon.ask(self._daemon.client.inspect_container, self.container))["State"]
            # A stopping daemon kills its containers as anybody might; but then the daemon ended, and not just they.
            if fate.killed and not await self._daemon.takes_calls():
                return _end(evidence, killed=False, lost=True)
        except NotThere:
            return _end(evidence, killed=False, by_other=True)
        except BoxFault:
            return _end(evidence, killed=False, lost=True)
        if state["Running"] and not fate.over:  # somebody may have started it again
            return _end(evidence, killed=True, signal=signal.SIGKILL)  # it closed the wire and kept running
        if fate.killed:
            return _end(evidence, killed=False, code=state["ExitCode"], by_other=True)
        if (state["OOMKilled"] or fate.memory_kills) and state["ExitCode"] == _KILLED:
            evidence = self._of_memory(evidence)
            return _end(evidence, killed=False, signal=signal.SIGKILL)
        return _end(evidence, killed=False, code=state["ExitCode"])

    def _of_memory(self, evidence: Evidence) -> Evidence:
        """The evidence about a box that the kernel killed for its memory: it had reached its limit.

        The group is gone with the box, and the last look at it may have been long before.
        """
        return msgspec.structs.replace(
            evidence,
            memory_kills=max(1, self._fate.memory_kills),
            memory_peak_bytes=max(self._memory_bytes, evidence.memory_peak_bytes or 0),
        )

    async def _interrupt(self) -> None:
        # If it does not arrive, the grace passes and the box is killed.
        with contextlib.suppress(BoxFault):
            await self._daemon.ask(self._daemon.client.kill, self.container, "SIGINT", lane="end")


async def bury(daemon: Daemon, container: str) -> bool:
    """Kill it, if it lives, and remove it; return whether it is gone."""
    try:
        await daemon.ask(daemon.client.remove_container, container, force=True, v=True, lane="end")
    except BoxFault as fault:
        return isinstance(fault, NotThere)
    return True


def _end(
    evidence: Evidence,
    *,
    killed: bool,
    signal: int = 0,
    code: int = 0,
    by_other: bool = False,
    lost: bool = False,
) -> BoxEnd:
    return BoxEnd(
        evidence=evidence,
        killed=killed,
        signal=signal,
        code=code,
        cpu_s=evidence.cpu_s or 0.0,
        max_rss_bytes=evidence.memory_peak_bytes or 0,
        by_other=by_other,
        lost=lost,
    )
