"""The steps by which a process locks itself down before it runs any guest code. Every one is irreversible.

Two callers put them in order: the jail's zygote, in each newborn clone, and `boot`, in a container. Neither trusts
what comes later, and later code cannot undo anything here: identities, limits, capabilities, Landlock and the system
call filter only ever get narrower.

A step that this kernel refuses is a `Failed` with the layer's name, and the box is not built.
"""

from __future__ import annotations

import os
import resource
import struct
from collections.abc import Iterable, Mapping

from guest.box.kernel import check, libc, prctl, system_call

__all__ = [
    "NOBODY",
    "SECUREBITS",
    "be_nobody",
    "close_all_but",
    "drop_capabilities",
    "landlock_ruleset",
    "landlock_version",
    "restrict",
    "set_limits",
    "tune_malloc",
    "write_id_maps",
]

NOBODY = 65534
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_NO_NEW_PRIVS = 38
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
# noroot, no_setuid_fixup, keep_caps off, no ambient: each with its lock.
SECUREBITS = 0b11101111
CAPABILITIES = 64
LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_RULE_PATH_BENEATH = 1

# Landlock's rights: read a file and list a folder; write a file.
READ = 0b1100
WRITE = 0b10


def write_id_maps(proc: int, inside: int, outside: int) -> None:
    """Map the only id of a new user namespace. `proc` is a descriptor of /proc.

    An unprivileged process must give up setting groups before it may map one; gVisor has no file for that and does not
    need it.
    """
    texts = {"setgroups": "deny", "uid_map": f"{inside} {outside} 1", "gid_map": f"{inside} {outside} 1"}
    for name, text in texts.items():
        try:
            descriptor = os.open(f"self/{name}", os.O_WRONLY, dir_fd=proc)
        except FileNotFoundError:
            if name != "setgroups":
                raise
            continue
        os.write(descriptor, text.encode())
        os.close(descriptor)


def be_nobody() -> None:
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def set_limits(limits: Mapping[str, int]) -> None:
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def drop_capabilities(*, securebits: bool = True) -> None:
    """Drop all capabilities from every set, for good; nobody else may look at this process's memory either.

    `securebits` are locked so that a change of uid gives none back; gVisor does not have them.
    """
    for capability in range(CAPABILITIES):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break
    if securebits:
        prctl("caps", PR_SET_SECUREBITS, SECUREBITS)
    header, none = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    check("capset", "caps", system_call("capset", header, none))
    prctl("caps", PR_SET_DUMPABLE, 0)
    prctl("no_new_privs", PR_SET_NO_NEW_PRIVS, 1)


def tune_malloc() -> None:
    """Settings of glibc's allocator, for the agent and the guest's programs. Other C libraries have none.

    Every large read makes and frees buffers of a mebibyte. Some MiB of freed memory are not returned to the kernel:
    otherwise each page would have to be faulted in again at the next read. Reading 64 MB in slices of 1 MiB takes a
    third of the CPU time this way, 39 ms instead of 120. Either of the first two settings alone gains nothing, because
    it keeps the allocator from adapting by itself.
    """
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(M_MMAP_THRESHOLD, 8 << 20)
    libc.mallopt(M_TRIM_THRESHOLD, 16 << 20)
    # Otherwise each thread asks for an arena of its own, which the system call filter refuses, and asks again for every
    # block: four threads that read side by side then take three times as long.
    libc.mallopt(M_ARENA_MAX, 1)


def landlock_version() -> int:
    """The version of this kernel's Landlock: files from 1 on, the network from 4, scopes from 6. Below 1: none."""
    return system_call("landlock_create_ruleset", None, 0, LANDLOCK_CREATE_RULESET_VERSION)


def landlock_ruleset(readable: Iterable[str], writable: Iterable[str], scratch: str) -> int | None:
    """A ruleset that handles everything the kernel can, and allows only these places.

    `readable` may be read, in `writable` existing files may be written, and `scratch` may be changed. None where the
    kernel has no Landlock.
    """
    version = landlock_version()
    if version < 1:
        return None
    files = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    attributes = struct.pack("=QQQ", files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = system_call("landlock_create_ruleset", attributes, size, 0)
    check("landlock_create_ruleset", "landlock", ruleset)
    # Remove and make files and folders, move them between folders (2), truncate (3).
    change = READ | WRITE | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8
    change |= (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    rules = [(path, READ) for path in readable] + [(path, READ | WRITE) for path in writable] + [(scratch, change)]
    for path, rights in rules:
        place = os.open(path, os.O_PATH)
        rule = struct.pack("=Qi", rights, place)
        result = system_call("landlock_add_rule", ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0)
        check("landlock_add_rule", "landlock", result)
        os.close(place)
    return ruleset


def restrict(ruleset: int) -> None:
    check("landlock_restrict_self", "landlock", system_call("landlock_restrict_self", ruleset, 0))


def close_all_but(kept: Mapping[int, int]) -> None:
    """Leave the descriptors of `kept` open, each moved to the number it is mapped to; 0, 1 and 2 lead nowhere.

    The numbers must be 3, 4 and so on, in order.
    """
    null = os.open("/dev/null", os.O_RDWR)
    # First out of each other's way, then to their places.
    moved = {number: os.dup(descriptor) for descriptor, number in kept.items()}
    for number in (0, 1, 2):
        os.dup2(null, number)
    for number, descriptor in moved.items():
        os.dup2(descriptor, number)
    os.closerange(max(kept.values()) + 1, 65536)
