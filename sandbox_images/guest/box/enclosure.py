"""The steps by which a process closes in on itself, before it runs any guest code. Every one is irreversible.

Two callers put them in order: the jail's zygote, in each newborn clone, and `boot`, in a container. Neither trusts
what comes later, and nothing here can be undone by it: identities, limits, capabilities, Landlock and the system call
filter only ever get narrower.

A step that this kernel refuses is a `Failed` with the layer's name, and the box is not built.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from collections.abc import Iterable, Mapping

__all__ = [
    "NOBODY",
    "SECUREBITS",
    "Failed",
    "Filter",
    "be_nobody",
    "check",
    "close_all_but",
    "drop_capabilities",
    "landlock_ruleset",
    "landlock_version",
    "libc",
    "prctl",
    "restrict",
    "set_limits",
    "tune_malloc",
    "write_id_maps",
]

NOBODY = 65534
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
# noroot, no_setuid_fixup, keep_caps off, no ambient: each with its lock.
SECUREBITS = 0b11101111
CAPABILITIES = 64
LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_RULE_PATH_BENEATH = 1
SYSCALLS = {"x86_64": {"capset": 126, "landlock": 444}, "aarch64": {"capset": 91, "landlock": 444}}

# Landlock's rights: read a file and list a folder; write a file.
READ = 0b1100
WRITE = 0b10

libc = ctypes.CDLL(None, use_errno=True)
numbers = SYSCALLS[os.uname().machine]


class Failed(Exception):
    """A step failed: (step, layer, errno)."""


def check(step: str, layer: str, result: int) -> int:
    if result < 0:
        raise Failed(step, layer, ctypes.get_errno())
    return result


def prctl(layer: str, option: int, *arguments: int) -> None:
    words = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    check(f"prctl {option}", layer, libc.prctl(option, *words))


def write_id_maps(proc: int, inside: int, outside: int) -> None:
    """In a new user namespace: the one id that exists. `proc` is a descriptor of /proc.

    Whoever has no right to set groups must give it up before it may map one; gVisor has no file for that, nor the need.
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
    """From every set, for good; nobody else may look at this process's memory either.

    `securebits` are locked so that a change of uid gives none back; gVisor has no such thing.
    """
    for capability in range(CAPABILITIES):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break
    if securebits:
        prctl("caps", PR_SET_SECUREBITS, SECUREBITS)
    header, none = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    check("capset", "caps", libc.syscall(numbers["capset"], header, none))
    prctl("caps", PR_SET_DUMPABLE, 0)
    prctl("no_new_privs", PR_SET_NO_NEW_PRIVS, 1)


def tune_malloc() -> None:
    """Settings of glibc's allocator, for the agent and the guest's programs. Other C libraries have none.

    Every large read makes and drops buffers of a mebibyte. What is dropped is not given back to the kernel below some
    MiB: each of its pages would be paid for again at the next read, which is then three times as slow.
    """
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(M_MMAP_THRESHOLD, 8 << 20)
    libc.mallopt(M_TRIM_THRESHOLD, 16 << 20)
    # A thread may bring an arena of its own: 64 MiB of address space, of which a box has little.
    libc.mallopt(M_ARENA_MAX, 1)


def landlock_version() -> int:
    """What this kernel's Landlock knows: files from 1 on, the network from 4, scopes from 6. Below 1 there is none."""
    return int(libc.syscall(numbers["landlock"], None, ctypes.c_size_t(0), LANDLOCK_CREATE_RULESET_VERSION))


def landlock_ruleset(readable: Iterable[str], writable: Iterable[str], scratch: str) -> int | None:
    """A ruleset: everything that the kernel can handle is handled, and only these places are allowed.

    `readable` may be read, in `writable` existing files may be written, and `scratch` may be changed. None where the
    kernel has no Landlock.
    """
    version = landlock_version()
    if version < 1:
        return None
    files = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    attributes = struct.pack("=QQQ", files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = libc.syscall(numbers["landlock"], attributes, ctypes.c_size_t(size), 0)
    check("landlock_create_ruleset", "landlock", ruleset)
    # Remove and make files and folders, move them between folders (2), truncate (3).
    change = READ | WRITE | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8
    change |= (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    rules = [(path, READ) for path in readable] + [(path, READ | WRITE) for path in writable] + [(scratch, change)]
    for path, rights in rules:
        place = os.open(path, os.O_PATH)
        rule = struct.pack("=Qi", rights, place)
        result = libc.syscall(numbers["landlock"] + 1, ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0)
        check("landlock_add_rule", "landlock", result)
        os.close(place)
    return int(ruleset)


def restrict(ruleset: int) -> None:
    check("landlock_restrict_self", "landlock", libc.syscall(numbers["landlock"] + 2, ruleset, 0))


class Filter:
    """The seccomp program that the host compiled, kept as a `struct sock_fprog` for the one call that loads it."""

    def __init__(self, program: bytes) -> None:
        self._code = ctypes.create_string_buffer(program, len(program))
        packed = struct.pack("@HP", len(program) // 8, ctypes.addressof(self._code))
        self._program = ctypes.create_string_buffer(packed)

    def load(self) -> None:
        prctl("seccomp", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(self._program))


def close_all_but(kept: Mapping[int, int]) -> None:
    """Leave the descriptors of `kept` open, each moved to the number it is mapped to; 0, 1 and 2 lead nowhere.

    The numbers must follow on 2, in order.
    """
    null = os.open("/dev/null", os.O_RDWR)
    # First out of the way of each other, then to their places.
    moved = {number: os.dup(descriptor) for descriptor, number in kept.items()}
    for number in (0, 1, 2):
        os.dup2(null, number)
    for number, descriptor in moved.items():
        os.dup2(descriptor, number)
    os.closerange(max(kept.values()) + 1, 65536)
