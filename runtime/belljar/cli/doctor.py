"""`belljar doctor`: what this host gives, found out by trying it from inside a box."""

from __future__ import annotations

import asyncio
import platform
import tempfile
import time
from pathlib import Path
from typing import Final

import click
import msgspec

from belljar.cli import options
from belljar.cli.output import emit
from belljar.errors import BelljarError
from belljar.policy import LAYERS, Policy, load
from belljar.runtime import Runtime

__all__ = ["Finding", "Report", "doctor"]

_PROBE: Final = "import guest.probe\nguest.probe.main()"
_DENIED: Final = 4
_NAMESPACES: Final = "allow user namespaces (sysctl user.max_user_namespaces), or run outside of the container"
_GROUPS: Final = "run as root, or in a systemd scope with Delegate=yes"

# For each layer: what is open without it, and how a host comes to have it.
_ABOUT: Final[dict[str, tuple[str, str]]] = {
    "userns": ("the guest is a user of the host", _NAMESPACES),
    "pidns": ("the guest sees and signals processes; daemons survive", _NAMESPACES),
    "mountns": ("the guest sees the host's files", _NAMESPACES),
    "netns": ("the guest reaches the network", _NAMESPACES),
    "ipcns": ("the guest shares memory segments and queues with the host", _NAMESPACES),
    "utsns": ("the guest learns the host's name", _NAMESPACES),
    "cgroupns": ("the guest learns the host's control groups", _NAMESPACES),
    "rootfs": ("the guest sees the host's files", "keep the state folder on a file system that is not noexec"),
    "rlimits": ("one process can use up files, stack and CPU time", _NAMESPACES),
    "no_new_privs": ("a set-id program could raise the guest", "a kernel from 3.5"),
    "caps": ("the guest keeps rights inside its namespaces", _NAMESPACES),
    "seccomp": ("the whole kernel is open to attack", "an x86_64 kernel with CONFIG_SECCOMP_FILTER"),
    "landlock": ("files are guarded by the mount namespace alone", "a kernel from 5.13 with Landlock in its LSM list"),
    "cgroup.memory": ("memory is limited per process, not per box", _GROUPS),
    "cgroup.cpu": ("CPU is limited per process, and a box may take every core", _GROUPS),
    "cgroup.pids": ("tasks are limited per user, not per box", _GROUPS),
}


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report: `ok` means that it holds; if not, what that exposes and what to do."""

    name: str
    ok: bool
    required: bool
    exposes: str = ""
    remedy: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    kernel: str
    backend: str
    policy: str
    starts: bool
    reason: str
    run_ms: int
    findings: list[Finding]


@click.command()
@click.option("--policy", default="standard", show_default=True, metavar="NAME|FILE", help="Whose layers are required.")
@options.state
@options.as_json
def doctor(policy: str, state: Path | None, as_json: bool) -> int:
    """Try the wall on this host: which layers hold, what a program inside can reach. Exit 4 if runs cannot start."""
    report = asyncio.run(_examine(load(policy), state))
    if as_json:
        emit(report)
    else:
        _print(report)
    return 0 if report.starts else _DENIED


async def _examine(policy: Policy, state: Path | None) -> Report:
    with tempfile.TemporaryDirectory(prefix="belljar-doctor-") as folder:
        # The log of the examination is of no use to anybody, unless a state folder was named.
        place = state or Path(folder)
        box = msgspec.structs.replace(policy.box, languages=("python",), requires=())
        probing = msgspec.structs.replace(policy, box=box)
        try:
            async with Runtime(probing, state=place, backend="jail") as runtime:
                await runtime.prepare()
                started = time.perf_counter()
                result = await runtime.execute(_PROBE)
        except BelljarError as error:
            return _report(policy, [], str(error), 0)
        run_ms = round((time.perf_counter() - started) * 1000)
    findings = [_layer(layer, policy, result.layers) for layer in LAYERS]
    findings += [_reach(line) for line in result.stdout.splitlines()]
    why = "" if result.status == "ok" else f"a probe ended with {result.status}"
    return _report(policy, findings, why, run_ms)


def _layer(layer: str, policy: Policy, held: tuple[str, ...]) -> Finding:
    required = layer in policy.box.requires
    if layer in held:
        return Finding(name=layer, ok=True, required=required)
    exposes, remedy = _ABOUT[layer]
    return Finding(name=layer, ok=False, required=required, exposes=exposes, remedy=remedy)


def _reach(line: str) -> Finding:
    name, _, reached = line.rpartition(" ")
    held = reached == "no"
    exposes = "" if held else "a program in the box reached it"
    return Finding(name=f"out of reach: {name}", ok=held, required=True, exposes=exposes)


def _report(policy: Policy, findings: list[Finding], why: str, run_ms: int) -> Report:
    broken = [finding.name for finding in findings if finding.required and not finding.ok]
    reason = why or (f"does not hold: {', '.join(broken)}" if broken else "")
    return Report(
        kernel=platform.release(),
        backend="jail",
        policy=policy.name,
        starts=not reason,
        reason=reason,
        run_ms=run_ms,
        findings=findings,
    )


def _print(report: Report) -> None:
    click.echo(f"kernel {report.kernel}, Python {platform.python_version()}, backend {report.backend}")
    for finding in report.findings:
        need = "required" if finding.required else ""
        click.echo(f"{'ok' if finding.ok else 'NO':<3} {need:<9} {finding.name}")
        if not finding.ok:
            click.echo(f"{'':<14}without it: {finding.exposes}. {finding.remedy}".rstrip(". ") + ".")
    outcome = "can start" if report.starts else f"cannot start: {report.reason}"
    click.echo(f"the policy {report.policy} {outcome}; a whole run took {report.run_ms} ms")
