"""The seccomp allowlist in the profile format of a Docker daemon.

Two filters guard a container, and a call must pass both. This one applies from the first instruction of the image; it
must let the interpreter start and lock itself down, and so also allows what `policies/seccomp.toml` lists under `boot`.
The other is the jail's own, byte for byte, which `boot` loads before any guest code runs.

The container runtime makes its last calls under this filter. If the kernel lacks a call, the runtime falls back to an
older way; if the call is forbidden, the runtime fails. So calls that are not listed do not exist here (ENOSYS; Docker
20.10 cannot say that, and its runc does not ask). A guest never sees that: where two filters refuse a call, the one
loaded last decides how, and that one says EPERM, or what the list answers for certain arguments.
"""

from __future__ import annotations

import errno
import itertools
import json
from typing import Any, Final

from belljar.sandbox.seccomp import Allowlist, Condition, Rule

__all__ = ["docker_profile"]

_HIGH: Final = 0xFFFFFFFF00000000


def docker_profile(allowlist: Allowlist) -> str:
    """The profile as JSON. Only for x86-64, so that 32-bit and x32 calls are refused."""
    # A rule without a condition allows the call whatever another rule says.
    calls = [call for rule in (*allowlist.allow, *allowlist.boot) for call in _calls(rule)]
    calls += [_refused(answer.names, answer.error) for answer in allowlist.answer if not answer.only]
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": calls,
    }
    return json.dumps(profile, separators=(",", ":"))


def _calls(rule: Rule) -> list[dict[str, Any]]:
    """One for each combination of values: this format has one comparison for each argument, and all must hold."""
    choices = itertools.product(*([_argument(each, value) for value in each.values] for each in rule.only))
    return [
        {"names": rule.names, "action": "SCMP_ACT_ALLOW", **({"args": list(arguments)} if arguments else {})}
        for arguments in choices
    ]


def _argument(condition: Condition, value: int) -> dict[str, Any]:
    mask = condition.mask | (_HIGH if condition.whole else 0)
    return {"index": condition.arg, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


def _refused(names: list[str], error: str) -> dict[str, Any]:
    number = 0 if error == "success" else getattr(errno, error)
    return {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": number}
