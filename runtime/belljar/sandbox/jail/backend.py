"""The host's side of the jail: one zygote, and a box for every `start`.

Streams: *control* to the zygote (orders out, ends in), and for each box its *wire*, whose other end only the guest
holds, and for its first milliseconds *report*, on which the newborn box says that its layers are closed and hands over
two descriptors: a pidfd of its first process, to interrupt and kill it without asking anybody, and its scratch folder,
to tell a full disk from a lie.

The layers of a zygote's boxes are measured, not assumed: its first box is a test box that locks itself down like every
other and tries them (`guest.box.measure`); what only the outside can see, its uid and its control groups, we check.

If this process dies at any moment, the end of *control* and the parent-death signals end zygote and boxes. If the
zygote dies, its boxes die with it; the runs in them get a host fault, and the next `start` makes a new zygote.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import hashlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from belljar.errors import BoxFault, LayerMissing
from belljar.sandbox.base import (
    BoxEnd,
    BoxSpec,
    Evidence,
    check_layers,
    check_own_limits,
    chosen_hash_seed,
    hash_environment,
    rlimits,
)
from belljar.sandbox.cgroup import BoxGroup, Cgroups, find_places
from belljar.sandbox.image import INTERPRETER, ZYGOTE, Image
from belljar.sandbox.pool import Pools
from belljar.sandbox.scope import delegated, scope_command
from belljar.sandbox.seccomp import Allowlist, compile_filter, load_allowlist
from belljar.sandbox.uids import NOBODY, Uids, ids_of
from belljar.sandbox.watch import Born, Watch, address_peak_bytes, born, pid_of
from belljar.tasks import stopped

__all__ = ["Jail", "JailBox", "Zygote"]

_LAUNCHER = Path(__file__).with_name("launcher.py")
# A zygote takes about 100 ms, a box about 2 ms; on a loaded machine they may take long, but never this long.
_ZYGOTE_S = 30.0
_BOX_S = 20.0
# SIGKILL is prompt unless the guest sits in an uninterruptible call.
_KILL_S = 10.0
# How long `evidence` waits for a new look at a box's processes before it uses the last one.
_LOOK_S = 0.1
_PIECE_BYTES = 256 * 1024
_MESSAGE_BYTES_MAX = 65536
# The test box that measures layers. Its limits are the same everywhere, so that no policy can make it fail.
_MEASURED = BoxSpec(
    cpu_s=30,
    memory_bytes=512 * 2**20,
    processes=16,
    scratch_bytes=2**20,
    scratch_files=16,
    open_files=64,
    requires=(),
)
_NAMESPACES = ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup")
# Each box makes these itself; it is born into its pid namespace.
_FRESH = ("userns", "mountns", "netns", "ipcns", "utsns", "cgroupns")

_REMEDIES = {
    "userns": (
        "allow user namespaces: sysctl user.max_user_namespaces=15000, and where the kernel has it "
        "kernel.unprivileged_userns_clone=1 or kernel.apparmor_restrict_unprivileged_userns=0"
    ),
    "rootfs": "the state folder must not be on a file system mounted noexec; --state names another one",
}
_REMEDY = "run `belljar doctor` on the host itself, or outside the container that refuses it"


class Jail:
    """Builds boxes from `image`. Close it with `aclose`.

    Args:
        image: the root file system.
        allowlist: the system calls a box may make; the one that comes with the package when None.
        scope: words before a command that start it in a scope with its own control groups; looked up when None and
            there are no other groups.
        hash_seed: of its boxes' interpreters; a random one when None.

    Raises:
        HostFault: the allowlist is damaged.
    """

    name = "jail"

    def __init__(
        self,
        image: Image,
        *,
        allowlist: Allowlist | None = None,
        scope: Sequence[str] | None = None,
        hash_seed: int | None = None,
    ) -> None:
        self._image = image
        self._hash_seed = chosen_hash_seed(hash_seed)
        self._filter = compile_filter(allowlist or load_allowlist())
        self._groups = Cgroups(find_places())
        self._groups.reap()
        self._uids: Uids | None = None
        self._found = self._groups
        self._scope = scope if scope is not None else scope_command() if self._groups.uncounted else ()
        self._pools = Pools(self._build)
        self._zygote: Zygote | None = None
        self._starting = asyncio.Lock()

    def about(self) -> Mapping[str, str]:
        digest = hashlib.sha256(self._filter).hexdigest()
        about = {"backend": self.name, "image": self._image.digest, "seccomp": digest}
        return about | {"hash_seed": str(self._hash_seed)}

    async def warm(self, spec: BoxSpec, size: int) -> None:
        """Keep boxes ready, as `Backend.warm` says. Raises as `start`."""
        await self._pools.warm(spec, size)

    def ready(self) -> int:
        return self._pools.ready

    async def start(self, spec: BoxSpec, about: Mapping[str, str] | None = None) -> JailBox:
        return self._pools.take(spec) or await self._build(spec)

    async def _build(self, spec: BoxSpec) -> JailBox:
        check_own_limits(spec)
        zygote = await self._living_zygote()
        group = self._groups.take(spec)
        try:
            box = await zygote.spawn(spec, group, self._groups.uncounted)
        except BaseException:
            await asyncio.to_thread(group.remove)
            raise
        self._groups.prepare(spec)
        box.layers += tuple(f"watched.{name}" for name in self._groups.uncounted)
        try:
            check_layers("jail", spec.requires, box.layers)
        except LayerMissing:
            await box.kill()
            raise
        return box

    async def aclose(self) -> None:
        await self._pools.aclose()
        await self._end_zygote()
        for groups in (self._groups, self._found):
            await asyncio.to_thread(groups.aclose)
        uids, self._uids = self._uids, None
        if uids is not None:
            uids.close()

    async def _end_zygote(self) -> None:
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            await zygote.aclose()

    async def _living_zygote(self) -> Zygote:
        async with self._starting:
            if self._zygote is not None and not self._zygote.alive:
                await self._end_zygote()
            if self._zygote is None:
                self._uids = self._uids or Uids()
                zygote = await self._launch(self._uids)
                try:
                    zygote.layers = await self._measure(zygote)
                except BaseException:
                    await asyncio.shield(zygote.aclose())
                    raise
                self._zygote = zygote
        return self._zygote

    async def _launch(self, uids: Uids) -> Zygote:
        """A zygote, in a scope with its own control groups if it can have one."""
        if self._scope:
            with contextlib.suppress(BoxFault):
                zygote = await Zygote.launch(self._image, self._filter, uids, self._hash_seed, self._scope)
                groups = Cgroups(delegated(zygote.pid))
                self._groups = groups if len(groups.uncounted) < len(self._found.uncounted) else self._found
                return zygote
            self._scope, self._groups = (), self._found  # the user manager does not answer, or gives no scope
        return await Zygote.launch(self._image, self._filter, uids, self._hash_seed)

    async def _measure(self, zygote: Zygote) -> tuple[str, ...]:
        """The layers that hold in this zygote's boxes."""
        group = self._groups.take(_MEASURED)
        try:
            box = await zygote.spawn(_MEASURED, group, self._groups.uncounted, measure=True)
        except BaseException:
            await asyncio.to_thread(group.remove)
            raise
        try:
            found = await box.measured()
        finally:
            await box.kill()
        # A group may limit memory and still be no layer, where the box can use swap.
        return tuple(name for name in found if not name.startswith("cgroup.") or name in self._groups.layers)


class Zygote:
    """The warm process that boxes are cloned from."""

    def __init__(self, control: socket.socket, process: subprocess.Popen[bytes], uids: Uids) -> None:
        self.layers: tuple[str, ...] = ()
        self._control = control
        self._process = process
        self._uids = uids
        self._ends: dict[int, asyncio.Future[Mapping[str, int] | None]] = {}
        self._reader: asyncio.Task[None] | None = None
        self._born = Born()
        self.alive = True
        control.setblocking(False)

    @classmethod
    async def launch(
        cls, image: Image, seccomp: bytes, uids: Uids, hash_seed: int, scope: Sequence[str] = ()
    ) -> Zygote:
        """Start one, with the words of `scope` before it, and wait until it is warm. Its boxes get uids from `uids`.

        Raises:
            LayerMissing: this host lacks a layer that the jail needs.
            BoxFault: it did not start.
        """
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            zygote = cls(control, _spawn(image, theirs, uids, hash_seed, scope), uids)
        except OSError as error:
            control.close()
            raise BoxFault(f"the jail's launcher did not start: {error}") from error
        finally:
            theirs.close()
        try:
            await zygote._warm_up(seccomp)
        except BaseException:
            await asyncio.shield(zygote.aclose())
            raise
        return zygote

    @property
    def pid(self) -> int:
        return self._process.pid

    async def spawn(self, spec: BoxSpec, group: BoxGroup, watched: Sequence[str], *, measure: bool = False) -> JailBox:
        """A new box with all its layers closed, charged to `group`, and watched for what the group does not count.

        With `measure` it is a test box that measures its layers.

        Raises:
            LayerMissing, BoxFault: it could not be built.
        """
        uid = self._uids.lease()
        try:
            return await self._spawn(spec, group, uid, watched, measure=measure)
        except BaseException as error:
            self._uids.release(uid)
            if not isinstance(error, OSError):
                raise
            raise BoxFault(f"a box could not be built: {error}: raise the limit on open files, or run fewer") from error

    async def _spawn(
        self, spec: BoxSpec, group: BoxGroup, uid: int, watched: Sequence[str], *, measure: bool
    ) -> JailBox:
        # Random, because it passes through the zygote, whose memory every box inherits: no box can count the others.
        number = secrets.randbits(48)
        wire, guest_wire = socket.socketpair()
        try:
            report, guest_report = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            wire.close()
            guest_wire.close()
            raise
        end: asyncio.Future[Mapping[str, int] | None] = asyncio.get_running_loop().create_future()
        self._ends[number] = end
        limits = self._rlimits(spec, watched)
        order: dict[str, object] = {
            "box": number,
            # As numbered in the zygote's user namespace: the block starts at 0, or there is one uid.
            "uid": uid - self._uids.block.start if self._uids.block is not None else 0,
            "scratch_bytes": spec.scratch_bytes,
            "scratch_files": spec.scratch_files,
            "rlimits": limits,
        }
        if measure:
            order["measure"] = _to_measure(spec, limits)
        try:
            with guest_wire, guest_report, group.doors() as doors:
                handles = [guest_wire.fileno(), guest_report.fileno(), *doors]
                await self._order(json.dumps(order).encode(), handles)
            pidfd, scratch = await _first_report(report)
        except BaseException:
            wire.close()
            self._ends.pop(number, None)
            raise
        finally:
            report.close()
        pid = pid_of(pidfd)
        watch = None
        if watched:
            kill = functools.partial(signal.pidfd_send_signal, pidfd, signal.SIGKILL)
            watch = Watch(pid, spec, scratch, born=self._born, covers=watched, kill=kill)
        return JailBox(wire, pid, pidfd, scratch, self.layers, end, group, (self._uids, uid), watch, self._born)

    def _rlimits(self, spec: BoxSpec, watched: Sequence[str]) -> dict[str, int]:
        limits = rlimits(spec, self._born.address_bytes)
        if "pids" in watched:
            # Nothing else refuses a task. The kernel counts for each user namespace, and each box has its own.
            limits["NPROC"] = spec.processes
        return limits

    async def aclose(self) -> None:
        """End the zygote and with it every box that it has made."""
        self._lost()
        if self._reader is not None:
            await stopped(self._reader)
        self._control.close()
        self._process.kill()
        await asyncio.to_thread(self._process.wait)

    async def _warm_up(self, seccomp: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_ZYGOTE_S):
                message = await loop.sock_recv(self._control, _MESSAGE_BYTES_MAX)
        except (TimeoutError, ConnectionError):
            message = b""
        if not message:
            raise BoxFault("the jail's zygote did not become ready: run `belljar doctor`")
        told = json.loads(message)
        if "failed" in told:
            raise _missing(told)
        try:
            await loop.sock_sendall(self._control, seccomp)
        except ConnectionError as error:
            raise BoxFault("the jail's zygote died while it started: try again") from error
        self._born = born(self._process.pid)
        self._reader = asyncio.create_task(self._read_ends())

    async def _read_ends(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            with contextlib.suppress(ConnectionError):
                while message := await loop.sock_recv(self._control, _MESSAGE_BYTES_MAX):
                    told = json.loads(message)
                    end = self._ends.pop(told["box"], None)
                    if end is not None and not end.done():
                        end.set_result(told["ended"])
        finally:  # also where the event loop ends before its boxes do: nobody will hear of their ends
            self._lost()

    def _lost(self) -> None:
        self.alive = False
        for end in self._ends.values():
            if not end.done():
                end.set_result(None)
        self._ends.clear()

    async def _order(self, message: bytes, handles: list[int]) -> None:
        try:
            async with asyncio.timeout(_BOX_S):
                while True:
                    try:
                        socket.send_fds(self._control, [message], handles)
                        return
                    except BlockingIOError:
                        await asyncio.sleep(0.001)
        except (OSError, TimeoutError) as error:
            self._lost()
            raise BoxFault("the jail's zygote does not take orders: try again") from error


class JailBox:
    """One box. See `belljar.sandbox.base.Sandbox`."""

    def __init__(
        self,
        wire: socket.socket,
        pid: int,
        pidfd: int,
        scratch: int,
        layers: tuple[str, ...],
        end: asyncio.Future[Mapping[str, int] | None],
        group: BoxGroup,
        lease: tuple[Uids, int],
        watch: Watch | None,
        born: Born,
    ) -> None:
        self._group = group
        self._uids, self._uid = lease
        self._watch = watch
        self._born = born
        self._pid = pid
        self.layers = layers
        self._wire = wire
        self._pidfd = pidfd
        self._scratch = scratch
        self._end = end
        self._last: Evidence | None = None
        self._killing: asyncio.Task[BoxEnd] | None = None
        wire.setblocking(False)
        if watch is not None:
            watch.start()

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

    @property
    def alive(self) -> bool:
        return not self._end.done()

    def interrupt(self) -> None:
        self._signal(signal.SIGINT)

    async def evidence(self) -> Evidence:
        if self._watch is not None and self._last is None:
            await self._look(self._watch)
        # Once the box is closed, its descriptors and groups are gone, or belong to another box.
        return self._account() if self._last is None else self._last

    async def _look(self, watch: Watch) -> None:
        """Bring the watch's numbers up to date, if that is possible soon: deadlines wait for the caller."""
        loop = asyncio.get_running_loop()
        looked: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not looked.done():
                looked.set_result(None)

        def answered() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(wake)

        watch.ask(answered)
        await asyncio.wait([looked], timeout=_LOOK_S)

    def _account(self) -> Evidence:
        evidence = self._group.evidence()
        if self._watch is not None:
            evidence = evidence.completed(self._watch.evidence())
        if self._end.done():
            return evidence  # its pid may belong to another process by now
        return evidence.completed(Evidence(address_peak_bytes=address_peak_bytes(self._pid, self._born)))

    def scratch_full(self) -> bool:
        if self._last is not None:
            return False
        left = os.statvfs(self._scratch)
        return left.f_bavail == 0 or left.f_favail == 0

    async def wait(self, seconds: float) -> bool:
        await asyncio.wait([self._end], timeout=seconds)
        return self._end.done()

    async def kill(self) -> BoxEnd:
        if self._killing is None:
            self._killing = asyncio.create_task(self._kill())
        return await asyncio.shield(self._killing)

    async def measured(self) -> tuple[str, ...]:
        """What a measuring box found to hold, from inside and from outside.

        Raises:
            BoxFault: it did not say.
        """
        said = b""
        try:
            async with asyncio.timeout(_BOX_S):
                while not said.endswith(b"\n"):
                    piece = await self.receive()
                    if not piece:
                        raise BoxFault("the box that measures the jail's layers died: run `belljar doctor`")
                    said += piece
        except TimeoutError:
            raise BoxFault(f"the jail's layers could not be measured within {_BOX_S:.0f} s") from None
        own = ("own_uid",) if self._uids.block is not None and ids_of(self._pid) == {self._uid} else ()
        return (*json.loads(said), *own, *self._group.limiting(self._pid))

    async def _kill(self) -> BoxEnd:
        if self._watch is not None:
            await self._look(self._watch)  # a last one: what it counts goes away with the processes
        died_before = self._end.done()
        self._signal(signal.SIGKILL)
        try:
            async with asyncio.timeout(_KILL_S):
                ended = await asyncio.shield(self._end)
        except TimeoutError:
            ended = None
        evidence = self._last = self._account()
        if self._watch is not None:
            await asyncio.to_thread(self._watch.stop)
        self._wire.close()
        os.close(self._pidfd)
        os.close(self._scratch)
        await asyncio.to_thread(self._group.remove)
        self._uids.release(self._uid)
        if ended is None or (self._watch is not None and self._watch.failed):
            return BoxEnd(killed=False, signal=0, code=0, cpu_s=0.0, max_rss_bytes=0, lost=True, evidence=evidence)
        slain = ended["signal"] == signal.SIGKILL
        by_watch = self._watch is not None and bool(self._watch.evidence().memory_kills)
        return BoxEnd(
            killed=slain and not died_before and not by_watch,
            # Nothing inside can kill the first process of a pid namespace; the evidence says what the kernel did.
            by_other=slain and died_before and not evidence.memory_kills,
            signal=ended["signal"],
            code=ended["code"],
            # A watch may have missed the last moments; the kernel's record of the first process has not.
            cpu_s=max(evidence.cpu_s or 0.0, ended["cpu_ms"] / 1000),
            max_rss_bytes=evidence.memory_peak_bytes or ended["max_rss_bytes"],
            evidence=evidence,
        )

    def _signal(self, number: int) -> None:
        if self._last is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)


async def _first_report(report: socket.socket) -> tuple[int, int]:
    report.setblocking(False)
    try:
        async with asyncio.timeout(_BOX_S):
            message, handles = await _receive_with_handles(report)
    except TimeoutError:
        raise BoxFault(f"a box was not ready within {_BOX_S:.0f} s: try again, or run fewer at once") from None
    if not message:
        raise BoxFault("a box died while it was built: try again")
    told = json.loads(message)
    if "failed" in told:
        raise _missing(told)
    pidfd, scratch = handles
    return pidfd, scratch


async def _receive_with_handles(channel: socket.socket) -> tuple[bytes, list[int]]:
    """`recv_fds` without blocking the loop."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            message, handles, _, _ = socket.recv_fds(channel, _MESSAGE_BYTES_MAX, 2)
        except BlockingIOError:
            readable = asyncio.Event()
            loop.add_reader(channel, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(channel)
            continue
        return message, handles


def _to_measure(spec: BoxSpec, limits: Mapping[str, int]) -> dict[str, object]:
    """What `guest.box.measure` compares with."""
    return {
        "host": {kind: os.stat(f"/proc/self/ns/{kind}").st_ino for kind in _NAMESPACES},
        "fresh": _FRESH,
        "limits": limits,
        "scratch": [spec.scratch_bytes, spec.scratch_files],
        "locked": True,
        "alone": True,
        "mounts": ["/", *(f"/dev/{name}" for name in ("null", "zero", "urandom"))],
    }


def _spawn(
    image: Image, control: socket.socket, uids: Uids, hash_seed: int, scope: Sequence[str]
) -> subprocess.Popen[bytes]:
    config = {
        "control": control.fileno(),
        "uids": (NOBODY, 1) if uids.block is None else (uids.block.start, len(uids.block)),
        "root": str(image.root),
        "program": [*INTERPRETER, ZYGOTE],
        "environment": hash_environment(hash_seed),
    }
    return subprocess.Popen(  # noqa: S603
        [*scope, sys.executable, "-I", "-S", "-B", str(_LAUNCHER), json.dumps(config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(control.fileno(),),
        # `systemd-run` finds the user manager by this; the zygote itself gets nothing.
        env={name: os.environ[name] for name in ("XDG_RUNTIME_DIR",) if scope and name in os.environ},
        # The host handles Ctrl-C at the terminal.
        start_new_session=True,
    )


def _missing(told: Mapping[str, Any]) -> LayerMissing:
    layer, number = told["layer"], told["errno"] or errno.EIO
    remedy = _REMEDIES.get(layer, _REMEDY)
    return LayerMissing(
        f"this host does not give the jail its {layer} layer ({told['failed']}: {os.strerror(number)}); {remedy}",
        code=f"layer.{layer}",
    )
