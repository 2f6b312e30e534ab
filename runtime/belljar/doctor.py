"""What this host supports, found out by trying it from inside a box of each backend.

`examine` builds a box of each with whatever layers there are, runs a hostile program in it (`guest.box.probe`), and
reports for each layer, each attempt and each known hole whether the wall holds: as data, for a command, a service or a
test. And it looks whether this host can sign its log, without touching that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from belljar.audit.signable import Check, signing_checks
from belljar.audit.witness import told_in
from belljar.config import settings
from belljar.engine import Result
from belljar.errors import BelljarError, LayerMissing, PolicyDenied
from belljar.identity import BACKENDS, BackendName
from belljar.keys import Keys
from belljar.policy import LAYERS, Policy
from belljar.runtime import Runtime
from belljar.sandbox.base import check_layers
from belljar.sandbox.devices import devices_not_of_root
from belljar.sandbox.docker.versions import Engine, read_engine, runc_holes
from belljar.sandbox.image import image_in

__all__ = ["BackendReport", "Culprit", "Fact", "Finding", "Report", "examine"]

_PROBE: Final = "import guest.box.probe\nguest.box.probe.main()"
_KERNEL: Final = "kernel: "
# A healthy daemon answers at once, and one that does not is not worth waiting for.
_DAEMON_S: Final = 5.0
_NAMESPACES: Final = "allow user namespaces (sysctl user.max_user_namespaces), or run outside the container"
_GROUPS: Final = "run as root, or in a systemd scope with Delegate=yes"
_NO_SWAP_LIMIT: Final = (
    "the daemon's kernel cannot limit swap, so a box may use all of it",
    "start that machine with swapaccount=1, or turn its swap off",
)
_WATCHED: Final = "use the backend jail"

# For each layer: what is exposed without it, and how to get it on a host.
_ABOUT: Final[dict[str, tuple[str, str]]] = {
    "userns": ("the guest is a user of the host", _NAMESPACES),
    "pidns": ("the guest sees and signals processes, and its daemons survive it", _NAMESPACES),
    "mountns": ("the guest sees the host's files", _NAMESPACES),
    "netns": ("the guest reaches the network", _NAMESPACES),
    "ipcns": ("the guest shares memory segments and queues with the host", _NAMESPACES),
    "utsns": ("the guest learns the host's name", _NAMESPACES),
    "cgroupns": ("the guest learns the host's control groups", _NAMESPACES),
    "rootfs": ("the guest sees the host's files", "keep the state folder on a file system that is not noexec"),
    "rlimits": ("one process can use up files, stack and CPU time", _NAMESPACES),
    "no_new_privs": ("a set-id program could give the guest privileges", "use kernel 3.5 or newer"),
    "caps": ("the guest keeps capabilities inside its namespaces", _NAMESPACES),
    "seccomp": ("the whole kernel is open to attack", "use an x86_64 kernel with CONFIG_SECCOMP_FILTER"),
    "landlock": (
        "only the mount namespace protects files",
        "use kernel 5.13 or newer with Landlock in its LSM list",
    ),
    "own_uid": (
        "boxes share one uid of the host, and what the kernel counts per uid, with each other and with whatever else "
        "has that uid",
        "run as root",
    ),
    "cgroup.memory": (
        "the host only looks at the box's memory several times a second (watched.memory), and kernel memory is not "
        "counted",
        f"{_GROUPS}; where only this one is missing, the box may use swap: boot with swapaccount=1, or without swap",
    ),
    "cgroup.cpu": ("the host counts CPU time (watched.cpu), and a box may use every core", _GROUPS),
    "cgroup.pids": ("tasks are limited for each user namespace (watched.pids), from Linux 5.14 on", _GROUPS),
    "watched.memory": ("memory is limited for each process, not for the box", _WATCHED),
    "watched.cpu": ("CPU time is limited for each process, not for the box", _WATCHED),
    "watched.pids": ("tasks are limited for each user, not for the box", _WATCHED),
    "gvisor": ("a hole in this host's kernel is a way out of the box", "use the backend gvisor"),
}

Fact: TypeAlias = str | bool | list[str]
# Where the cause lies: this machine, the daemon that makes the boxes, or Belljar, whose wall has a hole.
Culprit: TypeAlias = Literal["host", "daemon", "belljar"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report: `ok` means that it holds; if not, what that exposes, where the cause lies, what to do.

    `note`: what makes it hold, if not the layer itself.
    """

    name: str
    ok: bool
    required: bool
    note: str = ""
    exposes: str = ""
    culprit: Culprit | None = None
    remedy: str = ""


class BackendReport(msgspec.Struct, frozen=True, kw_only=True):
    """One backend. `facts` has the rest: versions, and the kernel that the guest sees."""

    backend: str
    starts: bool
    reason: str
    run_ms: int
    facts: dict[str, Fact]
    findings: list[Finding]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole report. `log` says whether this host can sign its log; no run needs that, so `starts` does not either.

    All other fields outside `backends` repeat the default backend's, or the first requested one's.
    """

    kernel: str
    backend: str
    policy: str
    starts: bool
    reason: str
    run_ms: int
    findings: list[Finding]
    backends: list[BackendReport]
    log: list[Finding] = []


async def examine(
    policy: Policy,
    backends: Sequence[BackendName] | None = None,
    *,
    state: Path | str | None = None,
    config: Path | str | None = None,
    images: Path | None = None,
) -> Report:
    """Test the wall on this host, under `policy`, with each of `backends` in turn (the policy's own if none is given).

    DOCKER_HOST names the daemon. What does not hold is a finding, and a backend that is not available says why; neither
    is raised. The log of the examination is thrown away, unless `state` names a folder. The image of the boxes is the
    one in `images`, or that of a host with these arguments; if it has none yet, one is made and thrown away, too.
    Before all that it is looked at the log that such a host has.

    Raises:
        PolicyDenied: `backend.denied`: the policy allows no built-in backend; see `belljar.testing.check_backend`.
    """
    wanted = tuple(dict.fromkeys(backends or _own(policy.box.backends)))
    if not wanted:
        raise PolicyDenied(
            f"the policy {policy.name} allows no built-in backend: test yours with "
            "belljar.testing.check_backend, or name one with --backend",
            code="backend.denied",
        )
    log = await asyncio.to_thread(_log, state, config)
    with tempfile.TemporaryDirectory(prefix="belljar-doctor-") as folder:
        # The keys of a log that is thrown away are thrown away, too.
        environ = dict(os.environ) if state is not None else {**os.environ, "BELLJAR_KEYS": f"{folder}/keys"}
        if state is None and (kept := images or await asyncio.to_thread(_images, config)) is not None:
            (Path(folder) / "images").symlink_to(kept.absolute())
        place = state or Path(folder)
        return _report(policy, log, [await _examine(policy, backend, place, config, environ) for backend in wanted])


def _own(allowed: tuple[str, ...]) -> list[BackendName]:
    """The built-in ones, in the policy's order; others are registered by programs, and not here."""
    return sorted((name for name in BACKENDS if name in allowed), key=allowed.index)


def _images(config: Path | str | None) -> Path | None:
    """Where the host's image is, if it has one that we may read."""
    with contextlib.suppress(BelljarError, OSError):
        folder = settings(None, config, os.environ).state.images
        return folder if image_in(folder) is not None else None
    return None


def _report(policy: Policy, log: list[Finding], backends: list[BackendReport]) -> Report:
    first = backends[0]
    return Report(
        kernel=platform.release(),
        backend=first.backend,
        policy=policy.name,
        starts=first.starts,
        reason=first.reason,
        run_ms=first.run_ms,
        findings=first.findings,
        backends=backends,
        log=log,
    )


def _log(state: Path | str | None, config: Path | str | None) -> list[Finding]:
    """Whether the log can be signed."""
    try:
        found = settings(state, config, os.environ)
        told = None if found.witness is None else told_in(found.state.witness, found.witness)
        checks = signing_checks(found.state.journal, Keys.at(os.environ), told)
    except BelljarError as error:
        checks = [Check("where the log is", why=str(error))]
    return [
        Finding(
            name=check.name,
            ok=not check.why,
            required=False,
            note=check.note,
            exposes=check.why,
            culprit="host" if check.why else None,
            remedy=check.remedy,
        )
        for check in checks
    ]


# ------------------------------------------------------------------------------------------------------------ examining


async def _examine(
    policy: Policy, backend: BackendName, state: Path | str, config: Path | str | None, environ: Mapping[str, str]
) -> BackendReport:
    facts: dict[str, Fact] = {}
    engine: Engine | None = None
    try:
        runtime = _runtime(policy, backend, state, config, environ)
        if backend != "jail":
            engine = await _ask_daemon(facts)
            await _add_runtime(backend, engine, facts)
        result, run_ms = await _run_probe(runtime)
    except BelljarError as error:
        # Without a box the layers are unknown; but a device may be why there is no box.
        known = [finding for finding in (_devices(),) if not finding.ok]
        return _backend_report(backend, known, str(error), 0, facts)
    reach, kernel = _said(result.stdout)
    facts["guest_kernel"] = kernel
    swaps = engine is not None and not engine.swap_limit
    findings = [*(_layer(layer, policy, backend, result.layers, swaps) for layer in LAYERS), *reach, _devices()]
    if engine is not None:
        findings.append(_runc(engine.runc) if backend == "docker" else _second_kernel(kernel, engine.kernel))
    why = "" if result.status == "ok" else f"a probe ended with {result.status}"
    return _backend_report(backend, findings, why, run_ms, facts)


def _runtime(
    policy: Policy, backend: BackendName, state: Path | str, config: Path | str | None, environ: Mapping[str, str]
) -> Runtime:
    """One that starts whatever layers are missing: we want to see which."""
    box = msgspec.structs.replace(policy.box, languages=("python",), requires=())
    return Runtime(
        msgspec.structs.replace(policy, box=box), state=state, config=config, backend=backend, environ=environ
    )


async def _run_probe(runtime: Runtime) -> tuple[Result, int]:
    async with runtime:
        await runtime.prepare()
        started = time.perf_counter()
        result = await runtime.execute(_PROBE)
    return result, round((time.perf_counter() - started) * 1000)


def _layer(layer: str, policy: Policy, backend: str, held: tuple[str, ...], swaps: bool) -> Finding:
    """`swaps`: the backend's daemon cannot limit swap."""
    required = layer in policy.box.requires
    try:
        check_layers(backend, (layer,), held)
    except LayerMissing:
        exposes, remedy = _NO_SWAP_LIMIT if swaps and layer == "cgroup.memory" else _ABOUT[layer]
        culprit: Culprit = "host" if backend == "jail" else "daemon"
        return Finding(name=layer, ok=False, required=required, exposes=exposes, culprit=culprit, remedy=remedy)
    note = "" if layer in held else "another layer stands for it"
    return Finding(name=layer, ok=True, required=required, note=note)


def _devices() -> Finding:
    """A container runtime can change a device's owner, for every program on this machine and for good."""
    wrong = devices_not_of_root()
    about = ", ".join(f"{device.path} belongs to {device.owner} with mode {device.mode}" for device in wrong)
    paths = " ".join(device.path for device in wrong)
    return Finding(
        name="devices of this machine that boxes have",
        ok=not wrong,
        required=False,
        exposes=about and f"{about}: its owner can take it away from every program on this machine",
        culprit="host" if wrong else None,
        remedy=paths and f"chown root:root {paths}; chmod 666 {paths}",
    )


def _said(stdout: str) -> tuple[list[Finding], str]:
    """What the probe reached, and the kernel that it saw."""
    lines = stdout.splitlines()
    kernel = "".join(line.removeprefix(_KERNEL) for line in lines if line.startswith(_KERNEL))
    return [_reach(line) for line in lines if not line.startswith(_KERNEL)], kernel


def _reach(line: str) -> Finding:
    name, _, reached = line.rpartition(" ")
    held = reached == "no"
    if held:
        return Finding(name=f"out of reach: {name}", ok=True, required=True)
    exposes = "a program in the box reached it"
    return Finding(name=f"out of reach: {name}", ok=False, required=True, exposes=exposes, culprit="belljar")


def _backend_report(
    backend: str, findings: list[Finding], why: str, run_ms: int, facts: dict[str, Fact]
) -> BackendReport:
    broken = [finding.name for finding in findings if finding.required and not finding.ok]
    reason = why or (f"does not hold: {', '.join(broken)}" if broken else "")
    return BackendReport(
        backend=backend, starts=not reason, reason=reason, run_ms=run_ms, facts=facts, findings=findings
    )


# ----------------------------------------------------------------------------------------------------------- the daemon


async def _ask_daemon(facts: dict[str, Fact]) -> Engine:
    # Imported here: a question about the jail alone must not wait for the Docker SDK to load.
    from belljar.sandbox.docker.daemon import DEFAULT_HOST, Daemon

    host = os.environ.get("DOCKER_HOST") or DEFAULT_HOST
    facts["daemon"] = host
    daemon = Daemon(host, answer_s=_DAEMON_S)
    try:
        version = await daemon.negotiate()
        return read_engine(version, await daemon.ask(daemon.client.info))
    finally:
        daemon.close()


async def _add_runtime(backend: BackendName, engine: Engine, facts: dict[str, Fact]) -> None:
    facts |= {"engine": engine.engine, "containerd": engine.containerd, "cgroup_version": engine.cgroup_version}
    facts |= {"userns_remap": engine.userns_remap, "rootless": engine.rootless, "seccomp": engine.seccomp}
    if backend == "docker":
        facts |= {"runc": engine.runc, "runc_holes": list(runc_holes(engine.runc) or ())}
    elif engine.runsc is not None:
        version = await _runsc_version(engine.runsc.path, str(facts["daemon"]))
        facts |= {"runsc": version, "runsc_path": engine.runsc.path, "platform": engine.runsc.platform}


def _runc(version: str) -> Finding:
    name, holes = "runc without known holes", runc_holes(version)
    if holes is None:
        exposes = "unknown: the daemon does not report its version"
        return Finding(name=name, ok=False, required=False, exposes=exposes, culprit="daemon")
    if not holes:
        return Finding(name=name, ok=True, required=False)
    exposes = f"runc {version} has {', '.join(holes)}, unless your distribution has patched it"
    remedy = "update runc, or use the backend gvisor"
    return Finding(name=name, ok=False, required=False, exposes=exposes, culprit="daemon", remedy=remedy)


def _second_kernel(seen: str, hosts: str) -> Finding:
    """Whether the guest's kernel reports another version than the daemon's host."""
    ok = bool(seen and hosts) and hosts not in seen
    name = "a kernel that is not the host's"
    if ok:
        return Finding(name=name, ok=True, required=True)
    exposes = "the guest may speak to the host's kernel"
    remedy = "check what the daemon's configuration names as runsc"
    return Finding(name=name, ok=False, required=True, exposes=exposes, culprit="daemon", remedy=remedy)


async def _runsc_version(path: str, host: str) -> str:
    """The version that the program reports; empty on another machine: its daemon does not know it either."""
    if not host.startswith("unix://") or Path(path).name != "runsc" or not Path(path).is_absolute():
        return ""
    with contextlib.suppress(OSError, TimeoutError):
        process = await asyncio.create_subprocess_exec(
            path, "--version", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, env={}
        )
        try:
            async with asyncio.timeout(_DAEMON_S):
                said, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        return said.decode("utf-8", "replace").partition("\n")[0].removeprefix("runsc version ").strip()
    return ""
