"""What a Docker daemon says about itself, and which known holes its runc has. Pure: documents in, values out.

The documents are those of the daemon's `/version` and `/info`. Their keys change between versions, so a missing key is
an empty answer and never an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

__all__ = ["DEFAULT_PLATFORM", "Engine", "Runsc", "read_engine", "runc_holes"]

DEFAULT_PLATFORM: Final = "the default of that version"

# major, minor, patch, release candidate; a release comes after all its candidates.
_Version = tuple[int, int, int, float]
_RELEASE: Final = float("inf")
# Upstream's part of a version; Debian writes "~rc93" for upstream's "-rc93", 1.4 has "-rc.1".
_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(?:[-~]rc\.?(\d+))?")
# For each hole, the first versions without it, one for each release line. A line older than all of them never got the
# fix; a newer one has always had it.
_FIXED: Final[dict[str, tuple[_Version, ...]]] = {
    "CVE-2024-21626": ((1, 1, 12, _RELEASE),),
    **dict.fromkeys(
        ("CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881"),
        ((1, 2, 8, _RELEASE), (1, 3, 3, _RELEASE), (1, 4, 0, 3)),
    ),
}


class Runsc(msgspec.Struct, frozen=True, kw_only=True):
    """How gVisor is registered. `path` is empty where the daemon does not start it by path."""

    path: str
    platform: str


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """A daemon. What it did not say is empty.

    `runc` includes a distribution's suffix. `seccomp` is the default profile of containers, and is empty where the
    daemon cannot filter. `kernel` is the release that the daemon's host runs. `swap_limit`: its kernel counts swap, so
    that a container's swap can be limited.
    """

    engine: str
    containerd: str
    runc: str
    runsc: Runsc | None
    kernel: str
    cgroup_version: str
    seccomp: str
    userns_remap: bool
    rootless: bool
    swap_limit: bool


def read_engine(version: Mapping[str, Any], info: Mapping[str, Any]) -> Engine:
    """The daemon that gave these two documents."""
    components = {str(each.get("Name")): each for each in version.get("Components") or ()}
    security = dict(map(_security_option, info.get("SecurityOptions") or ()))
    return Engine(
        engine=str(version.get("Version") or info.get("ServerVersion") or ""),
        containerd=_component(components, "containerd"),
        runc=_component(components, "runc"),
        runsc=_runsc((info.get("Runtimes") or {}).get("runsc")),
        kernel=str(info.get("KernelVersion") or ""),
        cgroup_version=str(info.get("CgroupVersion") or ""),
        seccomp=security.get("seccomp", ""),
        userns_remap="userns" in security,
        rootless="rootless" in security,
        swap_limit=bool(info.get("SwapLimit")),
    )


def runc_holes(version: str) -> tuple[str, ...] | None:
    """The known holes of this runc version, unless its distribution has patched them; None: not a known version."""
    matched = _VERSION.match(version)
    if matched is None:
        return None
    major, minor, patch, candidate = matched.groups()
    known = (int(major), int(minor), int(patch), float(candidate) if candidate else _RELEASE)
    return tuple(hole for hole, fixed in _FIXED.items() if _is_before(known, fixed))


def _is_before(version: _Version, fixed: tuple[_Version, ...]) -> bool:
    of_its_line = [first for first in fixed if first[:2] == version[:2]]
    return version < (of_its_line[0] if of_its_line else fixed[-1])


def _component(components: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """Its version, with the distribution's revision where the daemon reports that as the commit."""
    found = components.get(name, {})
    version = str(found.get("Version") or "")
    commit = str((found.get("Details") or {}).get("GitCommit") or "")
    return commit if version and commit.startswith(version) else version


def _security_option(option: str) -> tuple[str, str]:
    """`name=seccomp,profile=default` as its name and its profile."""
    fields = dict(field.partition("=")[::2] for field in option.split(","))
    return fields.get("name", ""), fields.get("profile", "")


def _runsc(registered: Mapping[str, Any] | None) -> Runsc | None:
    if registered is None:
        return None
    return Runsc(path=str(registered.get("path") or ""), platform=_platform(registered.get("runtimeArgs") or ()))


def _platform(arguments: Any) -> str:
    """The last such flag, in any form that Go allows: one dash or two, the value after `=` or in the next word."""
    words = [str(argument) for argument in arguments]
    platform = DEFAULT_PLATFORM
    for word, following in zip(words, [*words[1:], ""], strict=False):
        flag, equals, value = word.partition("=")
        if flag in ("-platform", "--platform"):
            platform = value if equals else following
    return platform
