"""Control groups for an ordinary user: our own scope from systemd's user manager.

A user owns no group, but the user manager does, and delegates one (`Delegate=yes`) on request. A user can only move
processes within the groups it owns. So the zygote is started in a new scope, by `systemd-run --scope`, which asks the
manager and then becomes the command; the zygote's children start in that scope, and each box moves itself into a group
below. This process stays where it is. The scope goes away with the last process in it.

Only version 2 of control groups can be delegated safely, and we only ask where nothing better is found.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from belljar.sandbox.cgroup import Place, folder_of

__all__ = ["delegated", "scope_command"]

_UNIFIED: Final = Path("/sys/fs/cgroup/cgroup.controllers")
_MOUNTS: Final = Path("/proc/self/mountinfo")
_OWN: Final = Path("/proc/self/cgroup")


def scope_command(
    environ: Mapping[str, str] = os.environ,
    *,
    unified: Path = _UNIFIED,
    which: Callable[[str], str | None] = shutil.which,
) -> tuple[str, ...]:
    """The words before a command that start it in its own scope; none where no manager can give one."""
    manager = Path(environ.get("XDG_RUNTIME_DIR") or "/nowhere", "systemd", "private")
    program = which("systemd-run")
    if program is None or not manager.exists() or not unified.exists():
        return ()
    return (program, "--user", "--scope", "--quiet", "--collect", "--property=Delegate=yes", "--")


def delegated(pid: int, *, mounts: Path = _MOUNTS, own: Path = _OWN, theirs: Path | None = None) -> list[Place]:
    """The place for groups in the scope of process `pid`, made ready; none if it is in no such scope.

    A group with processes cannot limit the groups below it, so the process moves to one beside them.
    """
    scope = folder_of(theirs or Path(f"/proc/{pid}/cgroup"), mounts)
    if scope is None or scope.suffix != ".scope" or scope == folder_of(own, mounts):
        return []
    with contextlib.suppress(OSError):
        controllers = {"memory", "cpu", "pids"} & set((scope / "cgroup.controllers").read_text().split())
        aside = scope / "zygote"
        aside.mkdir(exist_ok=True)
        (aside / "cgroup.procs").write_text(str(pid))
        (scope / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in sorted(controllers)))
        return [Place(scope, frozenset(controllers), 2)]
    return []
