"""The host's side of containers, runc's or gVisor's, which differ only in the kernel inside.

    create, with the fixed template (`options`)           attach: its standard input and output are the wire
    start                                                 the interpreter begins with `boot`
    order   u32 length, JSON: limits, filter      ->      it locks itself down
    report  u32 length, JSON: layers, facts       <-      no guest code has run yet
    inspect                                               has the daemon done what was ordered?
    from here on the wire belongs to the engine

If anything fails on the way, the container is removed. If this process is killed, its containers read the end of their
standard input and end; the next start of a backend removes those that do not, by their label. What could not be removed
is tried again, with growing pauses, and for the last time when the backend is closed.

Everything slow happens in the background: containers for the pool are made ahead, dead ones are removed later.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import platform
import secrets
import socket
import struct
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from belljar.errors import BoxFault, LayerMissing
from belljar.sandbox.base import (
    BoxSpec,
    check_layers,
    chosen_hash_seed,
    hash_environment,
    rlimits,
)
from belljar.sandbox.docker.account import Account
from belljar.sandbox.docker.box import DockerBox, bury
from belljar.sandbox.docker.creator import LABEL, creator, is_gone
from belljar.sandbox.docker.daemon import Daemon, NotThere, Taken
from belljar.sandbox.docker.fates import Fates
from belljar.sandbox.docker.image import LoadedImage, ensure_loaded
from belljar.sandbox.docker.options import (
    ENTRYPOINT,
    HOSTNAME,
    PROCESSES_MIN,
    RuntimeName,
    differences,
    host_config,
    user,
)
from belljar.sandbox.docker.profile import docker_profile
from belljar.sandbox.docker.stream import Outputs
from belljar.sandbox.docker.versions import read_engine
from belljar.sandbox.image import Image
from belljar.sandbox.pool import Pools
from belljar.sandbox.seccomp import Allowlist, compile_filter, load_allowlist
from belljar.sandbox.uids import NOBODY, Uids, ids_of
from belljar.tasks import to_the_end

__all__ = ["CPU_SPARE_S", "Docker"]

BackendName = Literal["docker", "gvisor"]

_RUNTIMES: Final[dict[BackendName, RuntimeName]] = {"docker": "runc", "gvisor": "runsc"}
_LENGTH: Final = struct.Struct("!I")
# From its start to the report: starting an interpreter, under gVisor's slowest platform on a loaded machine.
_BOOT_S: Final = 30.0
_REPORT_BYTES_MAX: Final = 65536
# Where the daemon must be asked, its numbers are a second or two old; the process's own limit must not be faster.
CPU_SPARE_S: Final = 4
_CLOSE_S: Final = 60.0
# Before a container that was not removed is tried again, longer each time: a busy daemon may fail to kill it at once.
_AGAIN_S: Final = 0.5
_AGAIN_MAX_S: Final = 30.0
# Which backend of its creator a container belongs to.
_BACKEND: Final = "belljar.backend"
_NAMESPACES: Final = ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup")
# What the daemon's description confirms, where the groups themselves cannot be seen from here.
_GROUPS: Final = ("cgroup.memory", "cgroup.cpu", "cgroup.pids")
# What every container is given and no box needs. gVisor's reveal only gVisor itself, and it cannot cover a folder.
_HIDDEN: Final = ("/proc", "/etc")
# gVisor's kernel has neither queues nor queued signals to limit, and refuses these limits. And its CPU clock runs on
# while a task waits for a core: on a busy host it would end a box that has not used up its time.
_NOT_IN_GVISOR: Final = ("MSGQUEUE", "SIGPENDING", "CPU")
# What is looked at in the daemon's description of a container.
_DESCRIPTION: Final = {"Config", "HostConfig", "Image", "Mounts", "State"}
# The same text in every version of gVisor, and in no build of Linux.
_GVISOR: Final = "Sun Jan 10 15:06:54 PST 2016"


class _Order(msgspec.Struct, frozen=True):
    """What a container is made from: the limits, its user, and both in the daemon's format."""

    spec: BoxSpec
    uid: int
    config: Mapping[str, Any]


class Docker:
    """Builds boxes from a loaded image. Make one with `open`, close it with `aclose`."""

    def __init__(
        self,
        name: BackendName,
        daemon: Daemon,
        source: Image,
        image: LoadedImage,
        allowlist: Allowlist,
        engine: Mapping[str, str],
        uids: Uids | None,
        hash_seed: int,
    ) -> None:
        self.name: str = name
        self._daemon = daemon
        self._source = source
        self._image = image
        self._runtime = _RUNTIMES[name]
        self._engine = engine
        self._hash_seed = hash_seed
        self._labels = {LABEL: creator(), _BACKEND: secrets.token_hex(8)}
        self._ours = f"{_BACKEND}={self._labels[_BACKEND]}"
        self._profile = docker_profile(allowlist)
        self._unknown_limits = _NOT_IN_GVISOR if name == "gvisor" else ()
        self._filter = compile_filter(allowlist)
        self._fates = Fates(daemon, self._ours)
        self._uids = uids
        self._pools = Pools(self._build_ahead)
        self._tasks: set[asyncio.Task[object]] = set()
        self._closing = asyncio.Event()
        # The new names that the daemon was asked to give, by container, until it is removed.
        self._renames: dict[str, asyncio.Task[object]] = {}

    @classmethod
    async def open(
        cls,
        name: BackendName,
        daemon: Daemon,
        image: Image,
        *,
        allowlist: Allowlist | None = None,
        hash_seed: int | None = None,
    ) -> Docker:
        """A backend on `daemon`, which it then owns. Loads the image if need be, and removes what dead processes left.

        Args:
            hash_seed: of its boxes' interpreters; a random one when None.

        Raises:
            LayerMissing: the daemon has no such runtime.
            BoxFault: the daemon does not answer, or does not accept the image.
        """
        uids: Uids | None = None
        try:
            await daemon.negotiate()
            info: Any = await daemon.ask(daemon.client.info)
            if not isinstance(info, dict) or not {"Runtimes", "ServerVersion", "KernelVersion"} <= info.keys():
                raise daemon.strange()
            if _RUNTIMES[name] not in info["Runtimes"]:
                raise LayerMissing(
                    f"the Docker daemon at {daemon.host} has no runtime {_RUNTIMES[name]}: install gVisor, "
                    "register it under `runtimes` in the daemon's configuration, and reload the daemon",
                    code="layer.gvisor",
                )
            loaded = await ensure_loaded(daemon, image)
            said = read_engine({}, info)
            engine = {
                "engine": said.engine[:100],
                "kernel": said.kernel[:100],
                "userns_remap": "yes" if said.userns_remap else "no",
                "swap_limit": "yes" if said.swap_limit else "no",
            }
            # A daemon that maps users has none of our range, and gVisor's runtime runs everybody as nobody.
            if name == "docker" and not (said.userns_remap or said.rootless):
                uids = Uids()
            seed = chosen_hash_seed(hash_seed)
            backend = cls(name, daemon, image, loaded, allowlist or load_allowlist(), engine, uids, seed)
            await backend._reap()
        except BaseException:
            daemon.close()
            if uids is not None:
                uids.close()
            raise
        return backend

    def about(self) -> Mapping[str, str]:
        return {
            "backend": self.name,
            "image": self._image.digest,
            "seccomp": hashlib.sha256(self._filter).hexdigest(),
            **self._engine,
            "hash_seed": str(self._hash_seed),
        }

    async def warm(self, spec: BoxSpec, size: int) -> None:
        """Keep boxes ready, as `Backend.warm` says. Raises as `start`."""
        await self._pools.warm(spec, size)

    def ready(self) -> int:
        return self._pools.ready

    async def start(self, spec: BoxSpec, about: Mapping[str, str] | None = None) -> DockerBox:
        box = self._pools.take(spec)
        if box is None:
            return await self._build(spec, about or {}, preload=False)
        if about:
            # It was made and labelled before we knew whose it would be.
            self._renames[box.container] = self._background(self._rename(box.container, about))
        return box

    async def aclose(self) -> None:
        await self._pools.aclose()
        self._closing.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_S)
        with contextlib.suppress(BoxFault, TimeoutError):  # it is away; the next start finds what is left
            async with asyncio.timeout(_CLOSE_S):
                while not await self._bury_all(await self._found(self._ours)):  # noqa: ASYNC110 (the daemon tells nobody)
                    await asyncio.sleep(_AGAIN_S)
        self._fates.close()
        self._daemon.close()
        if self._uids is not None:
            self._uids.close()

    async def _build_ahead(self, spec: BoxSpec) -> DockerBox:
        return await self._build(spec, {}, preload=True)

    async def _build(self, spec: BoxSpec, about: Mapping[str, str], *, preload: bool) -> DockerBox:
        if await self._fates.listen():
            self._background(self._sweep())
        name = f"belljar-{about.get('run') or secrets.token_hex(8)}"
        uid = NOBODY if self._uids is None else self._uids.lease()
        order = _Order(spec, uid, host_config(spec, self._runtime, self._profile, uid))
        container = None
        try:
            container = await to_the_end(self._create_from_image(name, order, about))
            box = await self._bring_up(container, order, preload=preload)
        except BaseException as error:
            if container is not None or not isinstance(error, Taken):
                self._background(self._remove(name, uid))
            elif self._uids is not None:  # who has the name is not ours to remove
                self._uids.release(uid)
            raise
        try:
            check_layers(self.name, spec.requires, box.layers)
        except LayerMissing:
            await box.kill()
            raise
        return box

    async def _remove(self, container: str, uid: int) -> None:
        """Remove it, and free its uid once nothing can run under it; a failure is retried until this is closed."""
        # A daemon that renames a container while it removes it lists it ever after, though it is gone.
        if rename := self._renames.pop(container, None):
            await asyncio.wait([rename])
        pause = _AGAIN_S
        while not await bury(self._daemon, container):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._closing.wait()
                return  # whoever closes looks for all that is left
            pause = min(pause * 2, _AGAIN_MAX_S)
        if self._uids is not None:
            self._uids.release(uid)

    async def _create_from_image(self, name: str, order: _Order, about: Mapping[str, str]) -> str:
        try:
            return await self._create(name, order, about)
        except NotThere:  # somebody removed the image
            self._image = await ensure_loaded(self._daemon, self._source)
            return await self._create(name, order, about)

    async def _create(self, name: str, order: _Order, about: Mapping[str, str]) -> str:
        made = await self._daemon.ask(
            self._daemon.client.create_container,
            self._image.id,
            lane="build",
            entrypoint=list(ENTRYPOINT),
            command=[],
            name=name,
            user=user(order.uid),
            hostname=HOSTNAME,
            environment=hash_environment(self._hash_seed),
            stdin_open=True,
            labels={**self._labels, **{f"belljar.{key}": value for key, value in about.items()}},
            network_disabled=True,
            host_config=dict(order.config),
            use_config_proxy=False,
        )
        if not isinstance(made, dict) or "Id" not in made:
            raise self._daemon.strange()
        return str(made["Id"])

    async def _bring_up(self, container: str, order: _Order, *, preload: bool) -> DockerBox:
        client, spec = self._daemon.client, order.spec
        stream = await self._daemon.attach(container)
        self._fates.watch(container)  # from before it can end
        account: Account | None = None
        outputs = Outputs()
        try:
            # The order waits in the stream for the program; the daemon's report of the start comes last.
            talking = asyncio.create_task(self._talk(stream, outputs, spec, preload=preload))
            try:
                await self._daemon.ask(client.start, container, lane="build")
                inspected = await self._inspected(container)
                async with asyncio.timeout(_BOOT_S):  # not before it was its turn to be started
                    report = await talking
            except TimeoutError:
                raise BoxFault(f"a container was not ready within {_BOOT_S:.0f} s: try again, or run fewer") from None
            finally:
                talking.cancel()
                await asyncio.gather(talking, return_exceptions=True)
            if self._runtime == "runc" and spec.processes < PROCESSES_MIN:
                order = _Order(spec, order.uid, {**order.config, "PidsLimit": spec.processes})
                inspected = await self._limit_processes(container, spec.processes)
            self._check(inspected, order, report)
            account = Account(self._daemon, container, inspected["State"]["Pid"], spec.scratch_bytes)
            await account.begin()
        except BaseException:
            stream.close()
            self._fates.forget(container)
            if account is not None:
                account.close()
            raise
        layers = (*self._layers(report["layers"]), *self._seen(inspected, account, order.uid))
        return DockerBox(
            self._daemon,
            container,
            stream,
            outputs,
            account,
            self._fates,
            layers,
            memory_bytes=order.config["Memory"],
            remove=lambda: self._background(self._remove(container, order.uid)),
            background=self._background,
        )

    def _layers(self, found: Sequence[str]) -> tuple[str, ...]:
        """The layers that hold: those found inside, the daemon's own mapping of users, the runtime."""
        remapped = ("userns",) if self._engine["userns_remap"] == "yes" and "userns" not in found else ()
        # A box with its own user namespace covers what the daemon puts into the root; otherwise Landlock closes it.
        rootfs = self.name == "gvisor" or "userns" in found or "landlock" in found
        inside = [layer for layer in found if layer != "rootfs" or rootfs]
        return (*inside, *remapped, *(("gvisor",) if self.name == "gvisor" else ()))

    def _seen(self, inspected: Mapping[str, Any], account: Account, uid: int) -> Iterator[str]:
        """The layers seen from outside; where the container is on another machine, those that the daemon reports."""
        pid = inspected["State"]["Pid"] if account.nearby else None
        for layer in _GROUPS if pid is None else account.limiting(pid):
            if layer != "cgroup.memory" or not self._can_swap(inspected["HostConfig"], nearby=account.nearby):
                yield layer
        if pid is not None and uid != NOBODY and ids_of(pid) == {uid}:
            yield "own_uid"

    def _can_swap(self, host: Mapping[str, Any], *, nearby: bool) -> bool:
        """Whether a box can exceed its memory by being swapped out; `nearby`: the daemon is on this machine.

        Where the daemon cannot limit swap, a swappiness of 0 prevents it, which runsc does not pass on, or a machine
        without swap.
        """
        unswapped = self._runtime == "runc" and host.get("MemorySwappiness") == 0
        return not (host["MemorySwap"] == host["Memory"] or unswapped or (nearby and _no_swap()))

    @property
    def _is_local(self) -> bool:
        return self._daemon.host.startswith("unix://")

    async def _limit_processes(self, container: str, count: int) -> dict[str, Any]:
        """Set a limit below what the start needs, now that only our program is inside; the daemon's new description.

        The SDK knows the request, but not this parameter of it.
        """
        client: Any = self._daemon.client
        url = client._url("/containers/{0}/update", container)
        await self._daemon.ask(lambda: client._result(client._post_json(url, {"PidsLimit": count})), lane="build")
        return await self._inspected(container)

    async def _inspected(self, container: str) -> dict[str, Any]:
        """What the daemon says the container is."""
        inspected = await self._daemon.ask(self._daemon.client.inspect_container, container)
        if not isinstance(inspected, dict) or not inspected.keys() >= _DESCRIPTION:
            raise self._daemon.strange()
        return inspected

    async def _talk(self, stream: socket.socket, outputs: Outputs, spec: BoxSpec, *, preload: bool) -> dict[str, Any]:
        """Send the order, read the report."""
        limits = rlimits(spec)
        limits["CPU"] += CPU_SPARE_S
        known = {name: value for name, value in limits.items() if name not in self._unknown_limits}
        order = {
            "rlimits": known,
            "securebits": self.name != "gvisor",
            "hide": () if self.name == "gvisor" else _HIDDEN,
            "filter": base64.b64encode(self._filter).decode(),
            "preload": preload,
            "measure": {
                # For another machine they would mean nothing.
                "host": {kind: os.stat(f"/proc/self/ns/{kind}").st_ino for kind in _NAMESPACES if self._is_local},
                "scratch": [spec.scratch_bytes, spec.scratch_files],
            },
        }
        data = json.dumps(order).encode()
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(stream, _LENGTH.pack(len(data)) + data)
            (size,) = _LENGTH.unpack(await _read(stream, outputs, _LENGTH.size))
            if size > _REPORT_BYTES_MAX:
                raise BoxFault("a container sent something other than the report of `boot`: is it our image?")
            report: dict[str, Any] = json.loads(await _read(stream, outputs, size))
        except OSError as error:
            raise _stillborn(outputs) from error
        except ValueError as error:
            raise BoxFault("a container sent something other than the report of `boot`: is it our image?") from error
        if "failed" in report:
            raise BoxFault(f"a container could not lock itself down ({report['failed']}, {report['layer']})")
        return report

    def _check(self, inspected: Mapping[str, Any], order: _Order, report: Mapping[str, Any]) -> None:
        """Check that nothing ordered is missing, by the daemon's description and by what was seen from inside.

        Raises:
            BoxFault: something is.
            LayerMissing: the kernel inside is not gVisor's.
        """
        ordered = order.config
        if self._engine["swap_limit"] == "no":
            ordered = {**ordered, "MemorySwap": -1}  # what such a daemon turns every number into
        environment = hash_environment(self._hash_seed)
        wrong = differences(inspected, ordered, self._image.id, order.uid, environment)
        if wrong:
            raise BoxFault(
                f"the Docker daemon has not applied {', '.join(wrong)}: see the warnings of `docker info`, "
                "and use Docker Engine 20.10 or newer"
            )
        facts = report["facts"]
        seen = {
            "pid": facts["pid"] == 1,
            "environment": facts["python"] == environment,
            "user": set(facts["uids"]) == {order.uid},
            "capabilities": not any(int(mask, 16) for mask in facts["capabilities"]),
            "no-new-privileges": facts["no_new_privs"] == 1,
            # gVisor's kernel does not get this filter, so it guards nothing there; `boot` loads the other.
            "seccomp": self.name == "gvisor" or facts["seccomp"] == "2",
        }
        missing = [name for name, holds in seen.items() if not holds]
        if missing:
            raise BoxFault(f"a container started without what was ordered for it: {', '.join(missing)}")
        if self.name == "gvisor" and (_GVISOR not in facts["version"] or facts["kernel"].endswith(platform.release())):
            raise LayerMissing(
                f"the daemon's runtime runsc does not put gVisor's kernel under a box, but {facts['kernel'][:100]}: "
                "check what the daemon's configuration names as runsc",
                code="layer.gvisor",
            )

    async def _rename(self, container: str, about: Mapping[str, str]) -> None:
        with contextlib.suppress(BoxFault):
            await self._daemon.ask(self._daemon.client.rename, container, f"belljar-{about['run']}")

    async def _reap(self) -> None:
        """Remove the containers of dead creators, and no others."""
        found = await self._found(LABEL)
        await self._bury_all([one for one in found if is_gone(one["Labels"][LABEL])])

    async def _sweep(self) -> None:
        """Remove those of our containers that have been given up."""
        with contextlib.suppress(BoxFault):
            found = await self._found(self._ours)
            await self._bury_all([one for one in found if self._is_given_up(one)])

    def _is_given_up(self, container: Mapping[str, Any]) -> bool:
        # A container that was just created may not be watched yet.
        return container["State"] != "created" and not self._fates.watches(container["Id"])

    async def _found(self, label: str) -> list[dict[str, Any]]:
        """The containers with this label, in any state."""
        client = self._daemon.client
        return list(await self._daemon.ask(client.containers, all=True, filters={"label": label}))

    async def _bury_all(self, found: Iterable[Mapping[str, Any]]) -> bool:
        return all(await asyncio.gather(*(bury(self._daemon, one["Id"]) for one in found)))

    def _background(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        task: asyncio.Task[object] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _no_swap() -> bool:
    """Whether this machine has no swap: the kernel lists it below a heading."""
    return len(Path("/proc/swaps").read_text().splitlines()) <= 1


async def _read(stream: socket.socket, outputs: Outputs, size: int) -> bytes:
    """`size` bytes of standard output, before anybody else reads there; more must not have come."""
    data = b""
    loop = asyncio.get_running_loop()
    while len(data) < size:
        piece = await loop.sock_recv(stream, size - len(data) + 8)
        if not piece:
            raise _stillborn(outputs)
        data += outputs.take(piece)
    if len(data) != size:
        raise BoxFault("a container sent more than the report of `boot`: is it our image?")
    return data


def _stillborn(outputs: Outputs) -> BoxFault:
    why = outputs.errors or "it gave no reason"
    return BoxFault(f"a container ended before it was ready: {why[:400]}")
