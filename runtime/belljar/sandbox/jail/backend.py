"""The host's side of the jail: starts a launcher for each box and speaks to it.

Two streams per box. The *wire* is a socket pair whose other end only the guest holds: when the guest is gone, it ends.
The *control* socket pair goes to the launcher, which reports readiness and the end, and takes the orders to interrupt
and to kill. If this process dies at any moment, both the end of *control* and the parent-death signal kill the box.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from belljar.errors import BoxFault, LayerMissing
from belljar.sandbox.base import BoxEnd, BoxSpec
from belljar.sandbox.image import AGENT, PYTHON, Image

__all__ = ["Jail"]

_LAUNCHER = Path(__file__).with_name("launcher.py")
# A launcher takes some 30 ms; on a loaded machine it may take long, but never this long.
_START_S = 20.0
# SIGKILL is prompt unless the guest sits in an uninterruptible call.
_KILL_S = 10.0
_PIECE_BYTES = 256 * 1024
_REPORT_BYTES_MAX = 4096

_REMEDIES = {
    "userns": (
        "allow user namespaces: sysctl user.max_user_namespaces=15000, and where the kernel has it "
        "kernel.unprivileged_userns_clone=1 or kernel.apparmor_restrict_unprivileged_userns=0"
    ),
    "rootfs": "the state folder must not be on a file system mounted noexec; --state names another one",
}
_REMEDY = "run `belljar doctor` on the host itself, or outside of the container that refuses it"


class Jail:
    """Builds boxes from `image` with namespaces and resource limits."""

    name = "jail"

    def __init__(self, image: Image) -> None:
        self._image = image

    def about(self) -> Mapping[str, str]:
        return {"backend": self.name, "image": self._image.digest}

    async def start(self, spec: BoxSpec) -> JailBox:
        wire, guest_wire = socket.socketpair()
        control, launcher_control = socket.socketpair()
        try:
            process = self._spawn(spec, guest_wire, launcher_control)
        except OSError as error:
            wire.close()
            control.close()
            raise BoxFault(f"the jail's launcher did not start: {error}") from error
        finally:
            guest_wire.close()
            launcher_control.close()
        box = JailBox(wire, control, process)
        try:
            box.layers = await box.ready()
            missing = sorted(set(spec.requires) - set(box.layers))
            if missing:
                raise LayerMissing(
                    f"the policy requires {', '.join(missing)}, which the jail does not give on this host: "
                    "choose another backend or policy",
                    code="layer.missing",
                )
        except BaseException:
            await asyncio.shield(box.kill())
            raise
        return box

    def _spawn(self, spec: BoxSpec, wire: socket.socket, control: socket.socket) -> subprocess.Popen[bytes]:
        config = {
            "wire": wire.fileno(),
            "control": control.fileno(),
            "root": str(self._image.root),
            "program": [PYTHON, "-I", "-S", "-B", "-X", "utf8", AGENT],
            "scratch_bytes": spec.scratch_bytes,
            "scratch_files": spec.scratch_files,
            "rlimits": _rlimits(spec),
        }
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-S", "-B", str(_LAUNCHER), json.dumps(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(wire.fileno(), control.fileno()),
            env={},
            # A Ctrl-C at the terminal is the host's to handle.
            start_new_session=True,
        )


def _rlimits(spec: BoxSpec) -> dict[str, int]:
    return {
        # Whole seconds, rounded up: the kernel knows no others.
        "CPU": max(1, int(-(-spec.cpu_s // 1))),
        "AS": spec.memory_bytes,
        "NPROC": spec.processes,
        "NOFILE": spec.open_files,
        "FSIZE": spec.scratch_bytes,
        "STACK": 8 * 2**20,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
        "SIGPENDING": 64,
    }


class JailBox:
    """One box. See `belljar.sandbox.base.Sandbox`."""

    def __init__(self, wire: socket.socket, control: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self.layers: tuple[str, ...] = ()
        self._wire = wire
        self._control = control
        self._process = process
        self._said = b""
        self._killing: asyncio.Task[BoxEnd] | None = None
        wire.setblocking(False)
        control.setblocking(False)

    async def ready(self) -> tuple[str, ...]:
        """Wait for the launcher's first report: the layers that really hold."""
        try:
            report = await asyncio.wait_for(self._report(), _START_S)
        except TimeoutError:
            raise BoxFault(f"the jail's launcher gave no sign within {_START_S:.0f} s") from None
        if report is None:
            raise BoxFault("the jail's launcher died while it built the box")
        if "failed" in report:
            raise _missing(report)
        return tuple(report["ready"])

    async def send(self, *parts: bytes | memoryview) -> None:
        loop = asyncio.get_running_loop()
        for part in parts:
            if len(part):
                await loop.sock_sendall(self._wire, part)

    async def receive(self) -> bytes:
        try:
            return await asyncio.get_running_loop().sock_recv(self._wire, _PIECE_BYTES)
        except ConnectionError:
            return b""

    def interrupt(self) -> None:
        self._order(b"I")

    async def kill(self) -> BoxEnd:
        if self._killing is None:
            self._killing = asyncio.create_task(self._kill())
        return await asyncio.shield(self._killing)

    async def _kill(self) -> BoxEnd:
        self._order(b"K")
        try:
            report = await asyncio.wait_for(self._report(), _KILL_S)
        except TimeoutError:
            report = None
        self._wire.close()
        self._control.close()
        self._process.kill()
        await asyncio.to_thread(self._process.wait)
        if report is None or "ended" not in report:
            return BoxEnd(killed=False, signal=0, code=0, cpu_s=0.0, max_rss_bytes=0, lost=True)
        ended = report["ended"]
        return BoxEnd(
            killed=ended["ordered"],
            signal=ended["signal"],
            code=ended["code"],
            cpu_s=ended["cpu_ms"] / 1000,
            max_rss_bytes=ended["max_rss_bytes"],
        )

    def _order(self, order: bytes) -> None:
        try:
            self._control.send(order)
        except OSError as error:
            # The launcher is gone, and the box with it.
            if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.EBADF, errno.EAGAIN):
                raise

    async def _report(self) -> dict[str, Any] | None:
        """The launcher's next line (trusted, but bounded all the same), or None when it is gone."""
        loop = asyncio.get_running_loop()
        while b"\n" not in self._said:
            try:
                piece = await loop.sock_recv(self._control, _REPORT_BYTES_MAX)
            except OSError:
                return None
            if not piece or len(self._said) > _REPORT_BYTES_MAX:
                return None
            self._said += piece
        line, _, self._said = self._said.partition(b"\n")
        report: dict[str, Any] = json.loads(line)
        return report


def _missing(report: Mapping[str, Any]) -> LayerMissing:
    layer = report["layer"]
    number = report["errno"] or 0
    remedy = _REMEDIES.get(layer, _REMEDY)
    return LayerMissing(
        f"this host does not give the jail its {layer} layer ({report['failed']}: {os.strerror(number)}); {remedy}",
        code=f"layer.{layer}",
    )
