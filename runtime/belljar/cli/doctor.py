"""`belljar doctor`: what this host gives, found out by trying it."""

from __future__ import annotations

import platform
import tempfile
import time
from pathlib import Path

import click
import msgspec

from belljar.cli import options
from belljar.cli.loop import run_async
from belljar.cli.output import emit
from belljar.errors import BelljarError
from belljar.policy import LAYERS
from belljar.runtime import Runtime

__all__ = ["doctor"]

# Runs inside the box: what could a hostile program reach? Each line should come out as "no".
_PROBE = """
import os, socket
def tried(name, action):
    try:
        action()
        print(name, "yes")
    except (OSError, ImportError):
        print(name, "no")
tried("host files", lambda: open("/etc/hostname").close())
tried("processes", lambda: os.listdir("/proc/1"))
tried("kernel settings", lambda: os.listdir("/sys"))
tried("network", lambda: socket.create_connection(("127.0.0.1", 9), 1))
tried("writing to the image", lambda: open("/usr/lib/x", "w").close())
tried("a shell", lambda: os.stat("/bin/sh"))
print("environment", "yes" if dict(os.environ).keys() - {"LC_CTYPE"} else "no")
print("root", "yes" if 0 in (os.getuid(), os.geteuid(), os.getgid()) else "no")
print("other descriptors", "yes" if any(_open(fd) for fd in range(4, 256)) else "no")
""".replace(
    "import os, socket",
    "import os, socket\ndef _open(fd):\n    try:\n        os.fstat(fd)\n        return True\n    except OSError:\n        return False",
)


class Finding(msgspec.Struct, frozen=True):
    """One line of the doctor's report: `ok` means that it holds."""

    name: str
    ok: bool
    required: bool
    detail: str = ""


@click.command()
@options.state
@options.as_json
def doctor(state: Path | None, as_json: bool) -> int:
    """Try the wall on this host: which layers hold, and what a program inside can reach. Exit 4 if runs cannot start."""
    findings, starts, reason = run_async(_examine(state))
    if as_json:
        emit({"kernel": platform.release(), "starts": starts, "reason": reason, "findings": findings})
    else:
        click.echo(f"kernel {platform.release()}, Python {platform.python_version()}")
        for finding in findings:
            need = "required" if finding.required else "        "
            click.echo(f"{'ok ' if finding.ok else 'NO '} {need}  {finding.name:<28} {finding.detail}")
        click.echo("the standard policy can start" if starts else f"the standard policy cannot start: {reason}")
    return 0 if starts else 4


async def _examine(state: Path | None) -> tuple[list[Finding], bool, str]:
    policy = "standard"
    with tempfile.TemporaryDirectory(prefix="belljar-doctor-") as folder:
        # The log of the examination is thrown away; the image is worth keeping where runs will look for it.
        runtime = Runtime(policy, state=state or Path(folder), language="python")
        try:
            async with runtime:
                await runtime.prepare()
                started = time.perf_counter()
                result = await runtime.execute(_PROBE)
        except BelljarError as error:
            return [], False, str(error)
        millis = (time.perf_counter() - started) * 1000
    required = set(runtime.policy.box.requires)
    findings = [Finding(layer, layer in result.layers, layer in required) for layer in LAYERS]
    for line in result.stdout.splitlines():
        name, _, reached = line.rpartition(" ")
        findings.append(Finding(f"cannot reach: {name}", reached == "no", True))
    findings.append(Finding("a whole run", result.status == "ok", True, f"{millis:.0f} ms"))
    broken = [finding.name for finding in findings if finding.required and not finding.ok]
    return findings, not broken, ", ".join(broken)
