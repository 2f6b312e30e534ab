"""Programs as subjects of the second table: a bare interpreter, alone and inside bubblewrap, from start to end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.measure import BenchmarkError, BoxPlan, Samples, after_quiet

__all__ = ["Command", "bubblewrap", "plain_python"]

_PYTHON = (os.path.realpath(sys.executable), "-I", "-S", "-c", "pass")
_PLACES = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", sys.base_prefix)
_COMMAND_S = 60.0


class Command:
    def __init__(self, title: str, command: Sequence[str], isolation: str) -> None:
        self.title = title
        self.isolation = isolation
        self._command = command

    async def round_of_boxes(self, plan: BoxPlan) -> Samples:
        return {
            "cold": [self._once() for _ in range(plan.starts)],
            "quiet": await after_quiet(plan.quiet, self._later),
        }

    async def _later(self) -> float:
        return self._once()

    def _once(self) -> float:
        """In the event loop on purpose: nothing else is to run meanwhile.

        Raises:
            BenchmarkError: it did not end well.
        """
        started = time.perf_counter()
        ended = subprocess.run(
            self._command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_COMMAND_S, check=False
        )
        seconds = time.perf_counter() - started
        if ended.returncode != 0:
            said = ended.stderr.decode(errors="replace").strip()
            raise BenchmarkError(f"{self.title} ended with {ended.returncode}: {said[:300]}")
        return seconds


def plain_python() -> Command:
    return Command("python -I -S -c pass", _PYTHON, "none: a process of the caller")


def bubblewrap(progress: Callable[[str], None]) -> Command:
    """The same interpreter in namespaces of its own.

    Raises:
        BenchmarkError: bubblewrap is not there and cannot be installed, or does not work on this host.
    """
    program = shutil.which("bwrap") or _install(progress)
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    title = f"{told.stdout.strip()}, python -I -S -c pass"
    isolation = (
        "all namespaces, no capabilities, the host's /usr and the interpreter read-only; no resource limits, no "
        "system call filter, no Landlock"
    )
    command = Command(title, _bubblewrapped(program), isolation)
    command._once()
    return command


def _bubblewrapped(program: str) -> list[str]:
    walls = ["--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    binds = [word for place in dict.fromkeys(_PLACES) if Path(place).exists() for word in ("--ro-bind", place, place)]
    return [program, *walls, *binds, "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", *_PYTHON]


def _install(progress: Callable[[str], None]) -> str:
    installer = shutil.which("apt-get")
    if os.geteuid() != 0 or installer is None:
        raise BenchmarkError("bwrap is not installed: install the package bubblewrap")
    progress("installing bubblewrap")
    try:
        subprocess.run(
            [installer, "install", "-qy", "--no-install-recommends", "bubblewrap"],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
        )
    except subprocess.CalledProcessError as error:
        raise BenchmarkError(f"bubblewrap cannot be installed ({error})") from None
    program = shutil.which("bwrap")
    if program is None:
        raise BenchmarkError("bubblewrap was installed, but there is no bwrap on the path")
    return program
